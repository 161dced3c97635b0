//go:build !race

package attest

// mostRatio is how many times its primitives a verifier may take: hashing and products are nearly all it does.
const mostRatio = 1.5
