// Package pallet speaks the chain's words: storage keys, calls, events, errors
// and signed extrinsics, all found by name in the node's metadata. It is pure
// and refuses to know the network, the clock and who asks.
package pallet
