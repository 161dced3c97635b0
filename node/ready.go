package node

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync"

	"basilica"
)

// ReadyFD names the environment variable with the number of the file descriptor on which a child process reports, once
// and with one line of JSON, that every door listens, or why it could not start.
const ReadyFD = "BASILICA_READY_FD"

// Readiness is a process's word to its parent.
type Readiness struct {
	Role  string            `json:"role"`
	PID   int               `json:"pid"`
	Addrs map[string]string `json:"addrs,omitempty"` // by name of the door
	Error *StartError       `json:"error,omitempty"` // in place of Addrs
}

// StartError is why a process could not start.
type StartError struct {
	Kind     string `json:"kind"`
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}

// Err gives the failure as the child met it.
func (s *StartError) Err() error {
	if s.Code == "" {
		return fmt.Errorf("%s", s.Sentence)
	}
	return basilica.E(basilica.ParseKind(s.Kind), s.Code, s.Sentence, s.Fix)
}

// Reporter reports to the parent process, at most once; without a parent that listens it does nothing.
type Reporter struct {
	role string

	mu   sync.Mutex
	pipe *os.File // nil: nobody listens, or all has been said
}

// NewReporter takes the descriptor that ReadyFD names. The variable is removed, so that children do not see it.
func NewReporter(role string) (*Reporter, error) {
	text, ok := os.LookupEnv(ReadyFD)
	if !ok {
		return &Reporter{role: role}, nil
	}
	if err := os.Unsetenv(ReadyFD); err != nil {
		return nil, fmt.Errorf("clear %s: %w", ReadyFD, err)
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%.20q is not a file descriptor", ReadyFD, text)
	}
	return &Reporter{role: role, pipe: os.NewFile(uintptr(fd), ReadyFD)}, nil
}

// Ready says that every door listens, and where; it is the Ready of Deps.
func (r *Reporter) Ready(addrs map[string]string) { r.report(Readiness{Addrs: addrs}) }

// Fail says why the process ends before it was ready; nil says nothing.
func (r *Reporter) Fail(err error) {
	if err == nil {
		return
	}
	failure := &StartError{Kind: basilica.KindOf(err).String(), Code: basilica.CodeOf(err), Sentence: err.Error(), Fix: basilica.FixOf(err)}
	if e := asError(err); e != nil {
		failure.Sentence = e.Sentence
	}
	r.report(Readiness{Error: failure})
}

func (r *Reporter) report(word Readiness) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe == nil {
		return
	}
	word.Role, word.PID = r.role, os.Getpid()
	// A parent that stopped reading has ended, and its children end with it: nothing is left to tell.
	if line, err := json.Marshal(word); err == nil {
		_, _ = r.pipe.Write(append(line, '\n'))
	}
	_ = r.pipe.Close()
	r.pipe = nil
}

// Version is what this program was built from: module version, or the commit, with "+dirty" where the work tree differed.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	switch {
	case info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	case revision != "":
		return revision + dirty
	}
	return "devel"
}
