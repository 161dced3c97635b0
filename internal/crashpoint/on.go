//go:build crash

// Package crashpoint names the instructions at which a test kills a process with signal 9. In every build but that of
// the tag `crash` it is empty.
package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// The environment tells a process of this build what to do: BASILICA_CRASH is NAME or NAME#N (die at the Nth hit of that
// name, from 1), BASILICA_CRASH_TRACE a file to which every name is appended at its first hit.
var plan = sync.OnceValue(func() *state {
	s := &state{seen: map[string]int{}, at: 1}
	s.name, _, _ = strings.Cut(os.Getenv("BASILICA_CRASH"), "#")
	if _, n, ok := strings.Cut(os.Getenv("BASILICA_CRASH"), "#"); ok {
		s.at, _ = strconv.Atoi(n)
	}
	if path := os.Getenv("BASILICA_CRASH_TRACE"); path != "" {
		s.trace, _ = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
	return s
})

type state struct {
	mu    sync.Mutex
	name  string
	at    int
	seen  map[string]int
	trace *os.File
}

// Hit is a named place where the process may be told to die.
func Hit(name string) {
	s := plan()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[name]++
	if s.seen[name] == 1 && s.trace != nil {
		_, _ = s.trace.WriteString(name + "\n")
	}
	if name == s.name && s.seen[name] == s.at {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}
