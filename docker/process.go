package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"basilica"
)

// pidFiles are where an engine that did not make its own socket (socket activation) writes its process number.
var pidFiles = [...]string{"/run/docker.pid", "/var/run/docker.pid"}

// Process says which process the engine is now, and whether containers outlive its restart.
func (e *Engine) Process(ctx context.Context) (basilica.EngineProcess, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return basilica.EngineProcess{}, e.mapped("ask the engine", err)
	}
	p := basilica.EngineProcess{KeepsRestarts: res.Info.LiveRestoreEnabled}
	if p.ID, err = processOf(ctx, strings.TrimPrefix(e.api.DaemonHost(), "unix://")); err != nil {
		return p, e.absent(err)
	}
	return p, nil
}

// processOf names the process behind a socket: its number and when it began, in the kernel's ticks since boot. It is empty
// where the kernel names init or nobody, and no file says more.
func processOf(ctx context.Context, socket string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", fmt.Errorf("reach the engine: %w", err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "", fmt.Errorf("ask who listens: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := errors.Join(raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }), cerr); err != nil {
		return "", fmt.Errorf("ask who listens: %w", err)
	}
	pid := int(cred.Pid)
	for _, path := range pidFiles {
		if pid > 1 {
			break
		}
		if text, err := os.ReadFile(path); err == nil {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	}
	if pid <= 1 {
		return "", nil
	}
	st, err := readStat("/proc", pid)
	if err != nil {
		return "", nil // it ended just now, or is not ours to see
	}
	return fmt.Sprintf("%d.%s", pid, st.began), nil
}

// procStat is what /proc/PID/stat says of a process (proc(5)).
type procStat struct {
	state string // R, S, D, Z, …
	began string // ticks since boot
}

func readStat(proc string, pid int) (procStat, error) {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	// The name in parentheses may hold anything; the rest follows the last one.
	rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(rest) < 20 {
		return procStat{}, fmt.Errorf("process %d has a stat of %d fields", pid, len(rest))
	}
	return procStat{state: rest[0], began: rest[19]}, nil
}

// Leftover lists the processes that a container still has, dead ones that nobody has reaped left out. A process that sleeps
// in the kernel keeps its devices and its memory although its container is gone for the engine.
func (e *Engine) Leftover(container string) ([]int, error) {
	return leftover("/proc", container)
}

func leftover(proc, container string) ([]int, error) {
	if container == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		in, err := inContainer(filepath.Join(proc, entry.Name(), "cgroup"), container)
		if err != nil {
			return nil, err
		}
		if !in {
			continue
		}
		if st, err := readStat(proc, pid); err == nil && st.state != "Z" && st.state != "X" {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// inContainer says whether a process is in a control group of the container: docker/ID or docker-ID.scope.
func inContainer(path, container string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read control groups: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.Contains(lines.Text(), container) {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("read control groups: %w", err)
	}
	return false, nil
}
