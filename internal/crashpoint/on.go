//go:build crash

// Package crashpoint names the instructions at which a test kills a process with signal 9. In every build but that of
// the tag `crash` it is empty.
package crashpoint

import (
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// On says that this is a build of the tag `crash`.
const On = true

// The environment tells a process of this build what to do. BASILICA_CRASH is NAME or NAME#N, and others after spaces: die at
// the Nth hit of one of these names, from 1. BASILICA_CRASH_PLAN names a file with the same, after a word of the test's own, to
// be read at every SIGUSR1; hits are counted anew from then on. BASILICA_CRASH_TRACE names a file to which every name is appended
// at its first hit since the last such signal, "-- WORD" at each signal, and "! NAME" before the process dies at it.
var plan = sync.OnceValue(func() *state {
	s := &state{}
	if path := os.Getenv("BASILICA_CRASH_TRACE"); path != "" {
		s.trace, _ = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
	s.take("start", os.Getenv("BASILICA_CRASH"))
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	go func() {
		for range told {
			text, _ := os.ReadFile(os.Getenv("BASILICA_CRASH_PLAN"))
			word, name, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
			s.take(word, name)
		}
	}()
	return s
})

type state struct {
	mu    sync.Mutex     // guards what follows
	at    map[string]int // at which hit of a name to die
	seen  map[string]int
	trace *os.File
}

func (s *state) take(word, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.seen = map[string]int{}, map[string]int{}
	for one := range strings.FieldsSeq(text) {
		name, count, _ := strings.Cut(one, "#")
		s.at[name] = 1
		if n, err := strconv.Atoi(count); err == nil {
			s.at[name] = n
		}
	}
	s.note("-- " + word)
}

func (s *state) note(line string) {
	if s.trace != nil {
		_, _ = s.trace.WriteString(line + "\n")
	}
}

// Listen makes the process hear SIGUSR1 from now on, not only from its first hit on: unheard, the signal would end it.
func Listen() { plan() }

// Hit is a named place where the process may be told to die.
func Hit(name string) {
	s := plan()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[name]++
	if s.seen[name] == 1 {
		s.note(name)
	}
	if s.seen[name] == s.at[name] {
		s.note("! " + name)
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// HitCaller is Hit at the place FUNCTION.what, for the function that stands skip frames above the one that calls HitCaller.
func HitCaller(skip int, what string) {
	var pc [1]uintptr
	runtime.Callers(skip+2, pc[:])
	frame, _ := runtime.CallersFrames(pc[:]).Next()
	name := frame.Function // e.g. basilica/store.(*Miner).AddTask, or …AddTask.func1 for what stands in a literal of it
	name = name[strings.LastIndexByte(name, '/')+1:]
	parts := strings.Split(strings.NewReplacer("(*", "", ")", "").Replace(name), ".")
	for len(parts) > 2 && strings.HasPrefix(parts[len(parts)-1], "func") {
		parts = parts[:len(parts)-1]
	}
	Hit(strings.Join(parts, ".") + "." + what)
}

// Around is Hit at name.before and, by the function that it gives, at name.after.
func Around(name string) func() {
	Hit(name + ".before")
	return func() { Hit(name + ".after") }
}

// Transport has the calls of an HTTP client hit room.METHOD.PATH.before and .after.
func Transport(room string, next http.RoundTripper) http.RoundTripper {
	return transport{room, next}
}

type transport struct {
	room string
	next http.RoundTripper
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	defer Around(Request(t.room, req))()
	return t.next.RoundTrip(req)
}

// Request names a request: room.METHOD.PATH, with {id} for what names one thing in the path and
// without a version in front of it.
func Request(room string, req *http.Request) string {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if len(parts) > 1 && strings.HasPrefix(parts[0], "v") {
		parts = parts[1:]
	}
	switch n := len(parts); {
	case n >= 3:
		parts = []string{parts[0], "{id}", parts[n-1]}
	case n == 2 && (req.Method == http.MethodDelete || strings.ContainsAny(parts[1], "-0123456789")):
		parts[1] = "{id}"
	}
	return room + "." + req.Method + "./" + strings.Join(parts, "/")
}
