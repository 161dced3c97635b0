package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
)

// TestOrdinaryProgram runs in a stranger's container, as a program of its image.
func TestOrdinaryProgram(t *testing.T) {
	if os.Getenv("BASILICA_TEST_ORDINARY") == "" {
		return // TestOrdinaryProgramsWork starts it there
	}
	// Threads, all at once: by clone3 first where the C library makes them, then by clone.
	var all, there sync.WaitGroup
	there.Add(24)
	for range 24 {
		all.Go(func() {
			runtime.LockOSThread()
			there.Done()
			there.Wait()
		})
	}
	all.Wait()
	talks(t)
	files(t)
	if out, err := exec.CommandContext(t.Context(), "/bin/busybox", "echo", "child").Output(); err != nil || string(out) != "child\n" {
		t.Errorf("a child: %q %v", out, err)
	}
	// What a C library or a runtime tries first must answer by what makes it fall back, or work.
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/bin", 0, unix.STATX_ALL, &st); err != nil {
		t.Errorf("statx: %v", err)
	}
	if err := unix.Faccessat2(unix.AT_FDCWD, "/bin", unix.X_OK, unix.AT_EACCESS); err != nil {
		t.Errorf("faccessat2: %v", err)
	}
	if n, err := unix.Getrandom(make([]byte, 16), 0); n != 16 {
		t.Errorf("getrandom: %d %v", n, err)
	}
	for _, c := range []struct {
		call string
		nr   uintptr
		args [3]uintptr
		want unix.Errno
	}{
		{"clone3", unix.SYS_CLONE3, [3]uintptr{}, unix.ENOSYS},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{1}, unix.ENOSYS},
		{"membarrier", unix.SYS_MEMBARRIER, [3]uintptr{}, 0},
		{"rseq", unix.SYS_RSEQ, [3]uintptr{}, unix.EINVAL},
		{"close_range", unix.SYS_CLOSE_RANGE, [3]uintptr{1 << 20, 1 << 21}, 0},
		{"openat2", unix.SYS_OPENAT2, [3]uintptr{}, unix.EINVAL},
		{"futex_waitv", unix.SYS_FUTEX_WAITV, [3]uintptr{}, unix.EINVAL},
		{"memfd_create", unix.SYS_MEMFD_CREATE, [3]uintptr{0, unix.MFD_CLOEXEC}, unix.EFAULT},
	} {
		if _, _, got := unix.Syscall(c.nr, c.args[0], c.args[1], c.args[2]); got != c.want {
			t.Errorf("%s answers %v, want %v", c.call, got, c.want)
		}
	}
	fmt.Println("ordinary")
}

// talks uses sockets as programs do among themselves: each family waits in the kernel's poll.
func talks(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Errorf("listen on %s: %v", network, err)
			continue
		}
		done := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, err = io.Copy(c, c)
				err = errors.Join(err, c.Close())
			}
			done <- errors.Join(err, l.Close())
		}()
		c, err := net.DialTimeout(network, l.Addr().String(), 5*time.Second)
		if err != nil {
			t.Errorf("dial %s: %v", network, err)
			continue
		}
		echo := make([]byte, 5)
		_, werr := io.WriteString(c, "hello")
		_, rerr := io.ReadFull(c, echo)
		if err := errors.Join(werr, rerr, c.Close(), <-done); err != nil || string(echo) != "hello" {
			t.Errorf("%s: %q %v", network, echo, err)
		}
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Errorf("udp: %v", err)
		return
	}
	defer u.Close()
	buf := make([]byte, 8)
	_, werr := u.WriteTo([]byte("x"), u.LocalAddr())
	if n, _, err := u.ReadFrom(buf); err != nil || werr != nil || n != 1 {
		t.Errorf("udp: %v %v", werr, err)
	}
	if _, err := net.Interfaces(); err != nil {
		t.Errorf("interfaces: %v", err)
	}
}

// files makes, copies, links and measures files where a job may write.
func files(t *testing.T) {
	for _, dir := range []string{os.TempDir(), os.Getenv("HOME"), outputDir, shmDir} {
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		err := os.WriteFile(from, bytes.Repeat([]byte("0123456789"), 5000), 0o600)
		copied := func() error {
			r, err := os.Open(from)
			if err != nil {
				return err
			}
			defer r.Close()
			w, err := os.Create(to)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, r) // copy_file_range, or sendfile
			return errors.Join(err, w.Sync(), w.Truncate(100), w.Close())
		}
		err = errors.Join(err, copied(), os.Chmod(to, 0o400), os.Chtimes(to, time.Time{}, time.Unix(1, 0)), os.Link(to, to+".link"), os.Symlink("to", to+".soft"),
			os.Rename(to+".link", to+".moved"), unix.Mkfifo(to+".pipe", 0o600))
		if entries, lerr := os.ReadDir(dir); err != nil || lerr != nil || len(entries) < 5 {
			t.Errorf("files in %s: %v %v, %d entries", dir, err, lerr, len(entries))
		}
	}
}

// libraries gives what a program is linked to, by the loader's own word; a static one to nothing.
func libraries(program string) (paths []string) {
	text, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil
	}
	for word := range strings.FieldsSeq(string(text)) {
		if strings.HasPrefix(word, "/") {
			paths = append(paths, word)
		}
	}
	return paths
}

// TestOrdinaryProgramsWork: limits and filters break no ordinary program. This test's own binary is one: with the C library
// where it is linked to it, with the Go runtime's threads, timers and poller, and with the race detector's memory.
func TestOrdinaryProgramsWork(t *testing.T) {
	t.Parallel()
	e := engine(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	entries := []entry{{tar.Header{Name: "bin/busybox", Mode: 0o755}, string(busybox(t))}}
	for _, path := range append(libraries(self), self) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path, "/")
		if path == self {
			name = "program"
		}
		entries = append(entries, entry{tar.Header{Name: name, Mode: 0o755}, string(content)})
	}
	layer := tarOf(t, entries...)
	config := strings.ReplaceAll(configOf(runtime.GOARCH, 1), "sha256:"+strings.Repeat("1", 64), digestOf(layer))
	image := load(t, e, tarOf(t, file("c.json", config), file("l.tar", string(layer)), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`)))
	end, text, _ := job(t, e, image, func(s *basilica.ContainerSpec) {
		s.Env, s.MemoryBytes, s.Pids = map[string]string{"BASILICA_TEST_ORDINARY": "1"}, 512<<20, 128
	}, "/program", "-test.run=^TestOrdinaryProgram$", "-test.v")
	if end.ExitCode != 0 || end.MemoryKilled || !strings.Contains(text, "\nordinary\n") {
		t.Errorf("%+v\n%s", end, text)
	}
}
