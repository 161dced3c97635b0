package docker

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
)

// seccompProfile is what a stranger's program may ask of the kernel, in the engine's own form: a list of calls that are
// allowed, everything else is refused. It names no architecture, so that the machine's own 64-bit calls alone are
// served: a 32-bit program's socketcall hides its arguments from any filter.
//
// Over the default of engines of version 20.10 it refuses io_uring and virtual machines' sockets, both of which pass by
// what a container's own network and filters hold; sockets of families that no job needs and each of which loads a
// kernel module; a supervisor for one's own filters; and sync, by which a job stalls the whole host's disks.
//
//go:embed seccomp.json
var seccompProfile []byte

// seccompOption gives the profile as the engine takes it with a container.
func seccompOption() (string, error) {
	var line bytes.Buffer
	if err := json.Compact(&line, seccompProfile); err != nil {
		return "", fmt.Errorf("read the seccomp profile: %w", err)
	}
	return "seccomp=" + line.String(), nil
}
