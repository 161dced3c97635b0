//go:build !crash

// Package crashpoint names the instructions at which a test kills a process with signal 9. In every build but that of
// the tag `crash` it is empty.
package crashpoint

import "net/http"

// On says that this is a build of the tag `crash`. It is a constant: what stands behind it costs other builds nothing.
const On = false

// Hit is a named place where the process may be told to die.
func Hit(string) {}

// HitCaller is Hit at the place FUNCTION.what, for the function that stands skip frames above the one that calls HitCaller.
func HitCaller(int, string) {}

// Around is Hit at name.before and, by the function that it gives, at name.after.
func Around(string) func() { return nothing }

func nothing() {}

// Transport has the calls of an HTTP client hit room.METHOD.PATH.before and .after.
func Transport(_ string, next http.RoundTripper) http.RoundTripper { return next }

// Request names a request: room.METHOD.PATH.
func Request(string, *http.Request) string { return "" }

// Listen makes the process hear SIGUSR1 from now on.
func Listen() {}
