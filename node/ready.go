package node

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
)

// ReadyFD names the environment variable with the number of the file descriptor on which a child process reports, once
// and with one line of JSON, that every door listens.
const ReadyFD = "BASILICA_READY_FD"

// Readiness is a process's word that every door listens.
type Readiness struct {
	Role  string            `json:"role"`
	PID   int               `json:"pid"`
	Addrs map[string]string `json:"addrs"` // by name of the door
}

// ReadyReporter gives the Ready of Deps: it writes one Readiness to the descriptor that ReadyFD names and closes it; where
// the variable is not set, it does nothing. The variable is removed, so that children of this process do not see it.
func ReadyReporter(role string) (func(addrs map[string]string), error) {
	text, ok := os.LookupEnv(ReadyFD)
	if !ok {
		return func(map[string]string) {}, nil
	}
	if err := os.Unsetenv(ReadyFD); err != nil {
		return nil, fmt.Errorf("clear %s: %w", ReadyFD, err)
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%.20q is not a file descriptor", ReadyFD, text)
	}
	pipe := os.NewFile(uintptr(fd), ReadyFD)
	return func(addrs map[string]string) {
		// A parent that stopped reading has ended, and its children end with it: nothing is left to tell.
		line, err := json.Marshal(Readiness{Role: role, PID: os.Getpid(), Addrs: addrs})
		if err == nil {
			_, _ = pipe.Write(append(line, '\n'))
		}
		_ = pipe.Close()
	}, nil
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
