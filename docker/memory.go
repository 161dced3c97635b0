package docker

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// memoryWatch reads the kernel's own counter of memory kills of one container's cgroup. The counter vanishes with the
// cgroup at the container's end, so the kernel's notifications say when to read it.
type memoryWatch struct {
	kills atomic.Uint64
	wake  int // eventfd or inotify descriptor; -1: nothing is watched
	quit  int // eventfd that stop writes
	once  sync.Once
	done  chan struct{}
}

// watchMemory starts watching. A container that has ended already, or a cgroup that cannot be read, is not watched: the
// engine's own notice of a memory kill remains.
func (e *Engine) watchMemory(ctx context.Context, id string) *memoryWatch {
	w := &memoryWatch{wake: -1, quit: -1, done: make(chan struct{})}
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || res.Container.State == nil || res.Container.State.Pid == 0 {
		close(w.done)
		return w
	}
	dir, unified, err := memoryCgroup("/proc", "/sys/fs/cgroup", res.Container.State.Pid)
	if err == nil && unified {
		err = w.watchUnified(dir)
	} else if err == nil {
		err = w.watchV1(dir)
	}
	if err != nil {
		e.log.Debug("memory kills of a container are not watched", "container", id, "err", err)
		close(w.done)
	}
	return w
}

// memoryCgroup finds the directory of the memory controller of a process: version 2 where it stands there, else version
// 1.
func memoryCgroup(proc, root string, pid int) (dir string, unified bool, err error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			if c == "memory" {
				return filepath.Join(root, "memory", parts[2]), false, nil
			}
		}
		if parts[0] == "0" && parts[1] == "" {
			dir = filepath.Join(root, parts[2])
		}
	}
	if err := lines.Err(); err != nil {
		return "", false, err
	}
	if dir == "" {
		return "", false, fmt.Errorf("process %d has no memory cgroup", pid)
	}
	return dir, true, nil
}

// watchV1 asks for an event of memory.oom_control (cgroup v1, memory.txt section 10).
func (w *memoryWatch) watchV1(dir string) error {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close()
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	line := fmt.Sprintf("%d %d", w.wake, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		return w.abandon(err)
	}
	return w.run(filepath.Join(dir, "memory.oom_control"))
}

// watchUnified asks for changes of memory.events (cgroup v2): the kernel reports them as modifications.
func (w *memoryWatch) watchUnified(dir string) error {
	path := filepath.Join(dir, "memory.events")
	var err error
	if w.wake, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(w.wake, path, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
		return w.abandon(err)
	}
	return w.run(path)
}

func (w *memoryWatch) abandon(err error) error {
	unix.Close(w.wake)
	w.wake = -1
	return err
}

func (w *memoryWatch) run(counter string) error {
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return w.abandon(err)
	}
	w.quit = quit
	w.read(counter)
	go func() {
		defer close(w.done)
		buf := make([]byte, 4096)
		for polls := 0; ; {
			// After an event the counter follows by a moment: version 1 notifies before it kills.
			timeout := -1
			if polls > 0 {
				timeout = 5
				polls--
			}
			fds := []unix.PollFd{{Fd: int32(w.wake), Events: unix.POLLIN}, {Fd: int32(w.quit), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, timeout)
			if err != nil && err != unix.EINTR {
				return
			}
			if n > 0 && fds[0].Revents != 0 {
				polls = 40
				if _, err := unix.Read(w.wake, buf); err != nil && err != unix.EAGAIN {
					return
				}
			}
			w.read(counter)
			if fds[1].Revents != 0 {
				return
			}
		}
	}()
	return nil
}

// read takes the counter oom_kill, the same word in both versions; a cgroup that is gone keeps what was read.
func (w *memoryWatch) read(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			if n, err := strconv.ParseUint(v, 10, 64); err == nil && n > w.kills.Load() {
				w.kills.Store(n)
			}
		}
	}
}

func (w *memoryWatch) count() uint64 { return w.kills.Load() }

func (w *memoryWatch) stop() {
	w.once.Do(func() {
		if w.quit >= 0 {
			one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
			for {
				if _, err := unix.Write(w.quit, one); err != unix.EINTR {
					break
				}
			}
		}
		<-w.done
		if w.quit >= 0 {
			unix.Close(w.quit)
			unix.Close(w.wake)
		}
	})
}
