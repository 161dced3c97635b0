//go:build race

package attest

// mostRatio is how many times its primitives a verifier may take while the race detector watches what is between them.
const mostRatio = 2.5
