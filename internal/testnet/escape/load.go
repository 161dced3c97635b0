package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watched waits until the test looks at this container from the host, where it does: an attack that is over before anybody
// looks shows nothing.
func watched() {
	if host("WATCHED") == "" {
		return
	}
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat("/out/watched"); err == nil {
			return
		}
	}
	say("be looked at from the host", false, "nobody looked")
}

// forkBomb makes processes that make processes until the kernel gives no more, then ends and takes them all with it.
func forkBomb() {
	watched()
	made := 0
	for {
		pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		switch {
		case e != 0:
			say("fork bomb", e == unix.EAGAIN && made < 4096, "%d children at this level, then: %v", made, e)
			return
		case pid == 0:
			// A child has one thread and no runtime: it makes another child as long as it can, and waits to be killed.
			for {
				unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
				ts := unix.Timespec{Nsec: 1e7}
				unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, uintptrOf(&ts), 0, 0, 0)
			}
		}
		made++
	}
}

// memory lets a child take more and more of one kind until it is killed or refused; then this process ends as failed,
// which the executor tells as what it was.
func memory(kind string) {
	c := exec.Command("/proc/self/exe", "touch", kind)
	out, err := c.Output()
	var taken int
	if lines := strings.Fields(string(out)); len(lines) > 0 {
		taken, _ = strconv.Atoi(lines[len(lines)-1])
	}
	limit, lerr := strconv.Atoi(host("MEMORY"))
	state, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	killed := err != nil && state.Signaled() && state.Signal() == unix.SIGKILL
	say("take memory without end: "+kind, lerr == nil && err != nil && taken <= limit>>20, "%d MiB of %d, then: %v", taken, limit>>20, err)
	if killed {
		os.Exit(9)
	}
}

// touch takes memory in steps of 1 MiB and says how much it has.
func touch(kind string) {
	first()
	fd := -1
	var err error
	if kind == "memfd" {
		fd, err = unix.MemfdCreate("escape", 0)
	}
	step := make([]byte, 1<<20)
	for n := 1; err == nil; n++ {
		switch kind {
		case "anonymous":
			var m []byte
			if m, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err == nil {
				for i := 0; i < len(m); i += 4096 {
					m[i] = 1
				}
			}
		case "sysv":
			id, _, e := unix.Syscall(unix.SYS_SHMGET, 0, 1<<20, 0o600|0o1000)
			if err = asError(e); err == nil {
				var at uintptr
				at, _, e = unix.Syscall(unix.SYS_SHMAT, id, 0, 0)
				if err = asError(e); err == nil {
					fill(at, 1<<20)
				}
			}
		default:
			_, err = unix.Write(fd, step)
		}
		if err == nil {
			fmt.Println(n)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// spin keeps every processor busy for a while and compares what it got with its share.
func spin() {
	share, err := strconv.ParseFloat(host("CPU"), 64)
	seconds, serr := strconv.ParseFloat(host("SECONDS"), 64)
	if errors.Join(err, serr) != nil {
		say("take more of the processors", false, "the test gave no share: %v", errors.Join(err, serr))
		return
	}
	watched()
	begin := time.Now()
	end := begin.Add(time.Duration(seconds * float64(time.Second)))
	done := make(chan bool)
	for range 2 * runtime.NumCPU() {
		go func() {
			for time.Now().Before(end) {
			}
			done <- true
		}()
	}
	for range 2 * runtime.NumCPU() {
		<-done
	}
	wall := time.Since(begin).Seconds()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		say("take more of the processors", false, "%v", err)
		return
	}
	cpu := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	// A period of the quota may be used up before the first and after the last look.
	most := share*(wall+0.2) + 0.05
	say("take more of the processors", cpu <= most, "%.2f s of processor time in %.2f s with a share of %.2f", cpu, wall, share)
}

// descriptors opens files until there are no more.
func descriptors() {
	n := 0
	for {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			say("open files without end", errors.Is(err, unix.EMFILE) && n <= 16384, "%d, then: %v", n, err)
			return
		}
		n++
	}
}

// disk fills every writable place with bytes, then with empty files, and stays alive.
func disk() {
	memory, err := strconv.ParseInt(host("MEMORY"), 10, 64)
	if err != nil {
		say("fill every writable place", false, "the test gave no limit: %v", err)
		return
	}
	var total int64
	step := make([]byte, 64<<10)
	for _, dir := range expected {
		var n int64
		f, err := os.Create(filepath.Join(dir, "full"))
		for err == nil {
			var m int
			m, err = f.Write(step)
			n += int64(m)
		}
		total += n
		// A queue takes no bytes that were not declared.
		full := errors.Is(err, unix.ENOSPC) || dir == "/dev/mqueue"
		say("fill "+dir, full, "%d KiB, then: %v", n>>10, err)
		if dir == "/out" {
			continue // stays full to the end
		}
		os.Remove(filepath.Join(dir, "full"))
	}
	say("fill all of them together", total > 0 && total < memory/2, "%d KiB, under half of the memory of %d KiB", total>>10, memory>>10)
	for _, dir := range expected {
		out, err := exec.Command("/proc/self/exe", "inodes", dir).Output()
		lines := strings.Fields(string(out))
		n := 0
		if len(lines) > 0 {
			n, _ = strconv.Atoi(lines[len(lines)-1])
		}
		// Either the place has no more of them, or their memory is the job's own and it is killed for it.
		say("fill "+dir+" with empty files", err != nil && n < int(memory>>9), "%d files and more, then: %v", n, err)
		left, err := os.ReadDir(dir)
		for _, f := range left {
			if strings.HasPrefix(f.Name(), "inode-") {
				os.Remove(filepath.Join(dir, f.Name()))
			}
		}
		if err != nil {
			say("clear "+dir, false, "%v", err)
		}
	}
}

// inodes makes empty files until it is refused or killed, and says how many.
func inodes(dir string) {
	first()
	for n := 0; ; n++ {
		fd, err := unix.Open(fmt.Sprintf("%s/inode-%d", dir, n), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			fmt.Println(n)
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		unix.Close(fd)
		if n%1000 == 0 {
			fmt.Println(n)
		}
	}
}

// first makes this process the one that is killed for its container's memory.
func first() {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// flood writes far more log than anybody keeps.
func flood() {
	line := []byte(strings.Repeat("flood ", 170) + "\n")
	for range 64 << 10 { // 64 MiB
		if _, err := os.Stdout.Write(line); err != nil {
			os.Exit(3)
		}
	}
	watched()
}

// stay ignores whoever asks it to end.
func stay() {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	fmt.Println("here")
	for {
		time.Sleep(time.Hour)
	}
}

// outputs leaves what no executor may take.
func outputs(kind string) {
	var err error
	write := func(name string) {
		err = errors.Join(err, os.MkdirAll(filepath.Dir("/out/"+name), 0o777), os.WriteFile("/out/"+name, []byte(name), 0o644))
	}
	switch kind {
	case "link":
		err = os.Symlink(host("FILE"), "/out/link")
	case "device":
		// Without the capability there is none to leave; what it leaves is the nearest to it.
		if err = unix.Mknod("/out/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
			os.Exit(3)
		}
		err = unix.Mknod("/out/device", unix.S_IFSOCK|0o666, 0)
	case "pipe":
		err = unix.Mkfifo("/out/pipe", 0o666)
	case "dots":
		write(`..\..\etc\passwd`)
	case "case":
		write("Model.bin")
		write("model.bin")
	case "holes":
		err = os.WriteFile("/out/holes", nil, 0o644)
		err = errors.Join(err, os.Truncate("/out/holes", 1<<40))
	case "full":
		for err == nil {
			var f *os.File
			if f, err = os.OpenFile("/out/full", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
				_, err = f.Write(make([]byte, 64<<10))
				f.Close()
			}
		}
	case "hardlink":
		write("once")
		err = errors.Join(err, os.Link("/out/once", "/out/again"))
	case "race":
		// The child is in a session of its own and outlives this process, as far as the kernel lets it.
		c := exec.Command("/proc/self/exe", "swap")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		var ready *os.File
		if ready, err = os.Open("/out"); err == nil {
			ready.Close()
			err = c.Start()
		}
		for err == nil {
			if _, serr := os.Lstat("/out/swapped"); serr == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "escape:", err)
		os.Exit(1)
	}
}

// swap changes a name from file to link and back for ever.
func swap() {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	os.WriteFile("/out/file", []byte("own"), 0o644)
	os.Symlink(host("FILE"), "/out/link")
	os.WriteFile("/out/swapped", []byte("own"), 0o644)
	for {
		unix.Renameat2(unix.AT_FDCWD, "/out/file", unix.AT_FDCWD, "/out/link", unix.RENAME_EXCHANGE)
	}
}
