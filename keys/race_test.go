//go:build race

package keys

// watched says that the race detector watches: it makes the dearest derivations ten times as dear.
const watched = true
