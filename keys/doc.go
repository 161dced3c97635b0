// Package keys holds key pairs (sr25519, ed25519, P-256), SS58 addresses,
// mnemonics and wallet files; it refuses to know the chain, the network and
// what a signed message means.
package keys
