//go:build !crash

// Package crashpoint names the instructions at which a test kills a process with signal 9. In every build but that of
// the tag `crash` it is empty.
package crashpoint

// Hit is a named place where the process may be told to die.
func Hit(string) {}
