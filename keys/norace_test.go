//go:build !race

package keys

// watched says that the race detector watches.
const watched = false
