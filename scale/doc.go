// Package scale is the SCALE codec: append-style encoders, a bounds-checked
// Reader, runtime metadata V14 and V15, and dynamic values typed by metadata.
// It refuses to know pallets, keys or the network: bytes and types only.
package scale
