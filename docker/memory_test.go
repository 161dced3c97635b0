package docker

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// notified is a watch of version 1 to which the kernel has said something. Nobody follows it yet.
func notified(t *testing.T, times uint) *memoryWatch {
	t.Helper()
	w := newMemoryWatch()
	w.v1 = true
	var err, qerr error
	w.wake, err = unix.Eventfd(times, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE) // each is read alone
	w.quit, qerr = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err := errors.Join(err, qerr); err != nil {
		t.Fatal(err)
	}
	return w
}

// followLate follows it only when it is to stop, as on a machine that is busy until then.
func (w *memoryWatch) followLate(counter string) {
	fds := []unix.PollFd{{Fd: int32(w.quit), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			break
		}
	}
	w.follow(counter)
}

// What the kernel has told of is not lost when nobody came to read it before the container's end.
func TestKillThatNobodyCameToRead(t *testing.T) {
	t.Parallel()
	counter := filepath.Join(t.TempDir(), "memory.oom_control")
	if err := os.WriteFile(counter, []byte("oom_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/wait") {
			fmt.Fprint(w, `{"StatusCode":137}`)
		} else {
			fmt.Fprint(w, `{"Id":"c","State":{"ExitCode":137}}`)
		}
	})
	kills := notified(t, 1)
	go kills.followLate(counter)
	end, err := e.witness("c", e.askForExit(t.Context(), "c", container.WaitConditionNotRunning), kills)(t.Context())
	if err != nil || !end.MemoryKilled || end.ExitCode != 137 {
		t.Errorf("%+v %v", end, err)
	}
}

// A start watches from before it: a container that is killed at once has ended when the engine answers, and its flag may be missing.
func TestStartOfOneThatIsKilledAtOnce(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	started := make(chan struct{})
	e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/start"):
			dir := filepath.Join(parent, "docker-c.scope")
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "memory.events"), []byte("oom_kill 1\n"), 0o600)); err != nil {
				t.Error(err)
			}
			close(started)
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/wait"):
			w.(http.Flusher).Flush()
			<-started
			fmt.Fprint(w, `{"StatusCode":137}`)
		default:
			fmt.Fprint(w, `{"Id":"c","State":{"ExitCode":137}}`)
		}
	})
	e.cgroups = []string{parent}
	wait, err := e.Start(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if end, err := wait(t.Context()); err != nil || !end.MemoryKilled || end.ExitCode != 137 {
		t.Errorf("%+v %v", end, err)
	}
}

// The removal of a cgroup is one notification, and may come after the engine's word on the end.
func TestRemovalIsNoKill(t *testing.T) {
	t.Parallel()
	gone := filepath.Join(t.TempDir(), "memory.oom_control")
	for times, want := range []bool{false, false, true, true} {
		w := notified(t, uint(times))
		go w.followLate(gone)
		if w.stop(); w.killed(137) != want || w.killed(0) {
			t.Errorf("%d notifications: killed %t, want %t; of one that ended well %t", times, w.killed(137), want, w.killed(0))
		}
	}
}

// A notification that was read while the cgroup stood was not its removal.
func TestWantBeforeTheRemovalIsAKill(t *testing.T) {
	t.Parallel()
	counter := filepath.Join(t.TempDir(), "memory.oom_control")
	if err := unix.Mkfifo(counter, 0o600); err != nil {
		t.Fatal(err)
	}
	w := notified(t, 1)
	go w.follow(counter)
	f, err := os.OpenFile(counter, os.O_WRONLY, 0) // when it is being read
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(counter), f.Close()); err != nil {
		t.Fatal(err)
	}
	if w.stop(); !w.killed(9) || w.killed(0) {
		t.Errorf("killed %t, of one that ended well %t", w.killed(9), w.killed(0))
	}
}
