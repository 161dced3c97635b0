package docker

import (
	"bufio"
	"context"
	"encoding/binary"
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
	kills  atomic.Uint64
	unread atomic.Bool // memory was wanted, and the cgroup ended before its counter could be read again
	wake   int         // eventfd or inotify descriptor; -1: nothing is watched
	quit   int         // eventfd that stop writes
	once   sync.Once
	done   chan struct{}
	v1     bool
}

func newMemoryWatch() *memoryWatch {
	return &memoryWatch{wake: -1, quit: -1, done: make(chan struct{})}
}

// cgroupRoot is where the kernel shows its control groups.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupParents are the directories in which an engine makes its containers' memory cgroups, unless its daemon.json names
// another cgroup-parent. One that does not stand yet, as before the first container after a boot, is not watched.
var cgroupParents = []string{
	cgroupRoot + "/memory/docker", cgroupRoot + "/memory/system.slice", // version 1: drivers cgroupfs and systemd
	cgroupRoot + "/docker", cgroupRoot + "/system.slice", // version 2
}

// awaitCgroup watches for a container that is to be started: one that takes too much at once has ended, and its counter is
// gone, before the engine has answered where it is.
func (e *Engine) awaitCgroup(id string) *birth {
	b, err := watchBirth(e.cgroups, id)
	if err != nil {
		e.log.Debug("the start of a container is not watched", "container", id, "err", err)
	}
	return b
}

// birth waits for a container's memory cgroup to be made, and watches it from then on.
type birth struct {
	fd, quit int // inotify of the parents; eventfd that end writes
	dirs     []string
	watch    *memoryWatch // set by run before done is closed
	done     chan struct{}
}

func watchBirth(parents []string, id string) (*birth, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	b := &birth{fd: fd, done: make(chan struct{})}
	for _, parent := range parents {
		if _, err := unix.InotifyAddWatch(fd, parent, unix.IN_CREATE|unix.IN_ONLYDIR); err == nil {
			b.dirs = append(b.dirs, filepath.Join(parent, id), filepath.Join(parent, "docker-"+id+".scope"))
		}
	}
	if b.quit, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(fd)
		return nil, err
	}
	go b.run()
	return b, nil
}

func (b *birth) run() {
	defer close(b.done)
	defer unix.Close(b.fd)
	buf := make([]byte, 4096)
	for timeout := -1; ; {
		fds := []unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}, {Fd: int32(b.quit), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
			return
		}
		for {
			if _, err := unix.Read(b.fd, buf); err != nil && err != unix.EINTR {
				break
			}
		}
		for _, dir := range b.dirs {
			if _, err := os.Stat(dir); err != nil {
				continue
			}
			w := newMemoryWatch()
			if w.watch(dir) == nil {
				b.watch = w
				return
			}
			timeout = 5 // version 2 enables the controller after it made the directory
		}
		if fds[1].Revents != 0 {
			return
		}
	}
}

// end stops waiting and gives the watch, nil where no cgroup was seen.
func (b *birth) end() *memoryWatch {
	if b == nil {
		return nil
	}
	signal(b.quit)
	<-b.done
	unix.Close(b.quit)
	return b.watch
}

func signal(eventfd int) {
	one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	for {
		if _, err := unix.Write(eventfd, one); err != unix.EINTR {
			return
		}
	}
}

// watchMemory starts watching. A container that has ended already, or a cgroup that cannot be read, is not watched: the
// engine's own notice of a memory kill remains.
func (e *Engine) watchMemory(ctx context.Context, id string) *memoryWatch {
	w := newMemoryWatch()
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || res.Container.State == nil || res.Container.State.Pid == 0 {
		close(w.done)
		return w
	}
	dir, err := memoryCgroup("/proc", cgroupRoot, res.Container.State.Pid)
	if err == nil {
		err = w.watch(dir)
	}
	if err != nil {
		e.log.Debug("memory kills of a container are not watched", "container", id, "err", err)
		close(w.done)
	}
	return w
}

// memoryCgroup finds the directory of the memory controller of a process: version 2 where it stands there, else version
// 1.
func memoryCgroup(proc, root string, pid int) (dir string, err error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", err
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
				return filepath.Join(root, "memory", parts[2]), nil
			}
		}
		if parts[0] == "0" && parts[1] == "" {
			dir = filepath.Join(root, parts[2])
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	if dir == "" {
		return "", fmt.Errorf("process %d has no memory cgroup", pid)
	}
	return dir, nil
}

// watch begins with the directory of a cgroup; its files say of which version it is.
func (w *memoryWatch) watch(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "memory.oom_control")); err == nil {
		return w.watchV1(dir)
	}
	return w.watchUnified(dir)
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
	w.v1 = true
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
	go w.follow(counter)
	return nil
}

// How long a counter is looked at. The kernel tells of a cgroup's removal some tens of milliseconds after it.
const (
	pollEvery   = 5   // milliseconds
	followPolls = 400 // after an event
	removePolls = 10  // after an event that may be the removal or a want of memory
)

func (w *memoryWatch) follow(counter string) {
	defer close(w.done)
	buf := make([]byte, 4096)
	var told uint64              // how often version 1 has notified
	wanted, over := false, false // a want of memory was told; stop was called
	for polls, quit := 0, int32(w.quit); ; {
		// After an event the counter follows by a moment: version 1 notifies before it kills.
		timeout := -1
		if polls > 0 {
			timeout = pollEvery
			polls--
		}
		fds := []unix.PollFd{{Fd: int32(w.wake), Events: unix.POLLIN}, {Fd: quit, Events: unix.POLLIN}}
		n, err := unix.Poll(fds, timeout)
		if err != nil && err != unix.EINTR {
			return
		}
		if n > 0 && fds[0].Revents != 0 {
			polls = followPolls
			n, err := unix.Read(w.wake, buf)
			if err != nil && err != unix.EAGAIN {
				return
			}
			if w.v1 && n == 8 {
				told += binary.NativeEndian.Uint64(buf)
			}
		}
		// The removal of the cgroup is one notification. Another one, or one that came while the cgroup stood, can only have
		// been a want of memory; what it led to, if the cgroup ended before the counter could be read, the exit code says.
		there := w.read(counter)
		wanted = wanted || told > 1 || told == 1 && there
		if !there && wanted {
			w.unread.Store(true)
		}
		if there && polls == 0 { // long ago: who wanted it was given some, or the counter has told of the kill
			told, wanted = 0, false
		}
		if fds[1].Revents != 0 {
			over, quit = true, -1 // which is not polled
		}
		// Of a single notification that was read too late the next one says which it was, if it comes.
		unsure := told == 1 && !wanted && polls > followPolls-removePolls
		if over && !unsure {
			return
		}
	}
}

// read takes the counter oom_kill, the same word in both versions, while it is there; a cgroup that is gone keeps what was
// read.
func (w *memoryWatch) read(path string) (there bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			if n, err := strconv.ParseUint(v, 10, 64); err == nil && n > w.kills.Load() {
				w.kills.Store(n)
			}
		}
	}
	return true
}

func (w *memoryWatch) count() uint64 { return w.kills.Load() }

// killed says whether the kernel killed a process of a container that ended with the exit code. The kernel may give what was
// wanted after all: of a container that ended well nothing is guessed.
func (w *memoryWatch) killed(exitCode int) bool {
	return w.count() > 0 || w.unread.Load() && exitCode != 0
}

func (w *memoryWatch) stop() {
	w.once.Do(func() {
		if w.quit >= 0 {
			signal(w.quit)
		}
		<-w.done
		if w.quit >= 0 {
			unix.Close(w.quit)
			unix.Close(w.wake)
		}
	})
}
