// Package subtensor is the chain's JSON-RPC, both ends: the client that
// implements basilica.Chain over a WebSocket and the server that fronts a
// chain of ours. It refuses to know what the chain decides and what roles want
// with it.
package subtensor
