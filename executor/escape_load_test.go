package executor

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"basilica"
)

// loads takes too much of everything, a few at a time.
func (a *attacker) loads(t *testing.T) {
	var all sync.WaitGroup
	room := make(chan struct{}, 3)
	run := func(f func()) {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			f()
		})
	}
	// Alone, for what it measures is time.
	a.processors(t)
	run(func() { a.forkBomb(t) })
	run(func() { a.logFlood(t) })
	run(func() {
		rows, last := a.attack(t, "disk", nil, "disk")
		a.add(rows...)
		a.say(last.State == basilica.TaskSucceeded && len(rows) > 10, "be killed by full places instead of told so", "%s", last.State)
	})
	for _, kind := range []string{"anonymous", "memfd", "sysv"} {
		run(func() {
			rows, last := a.attack(t, "memory-"+kind, nil, "memory", kind)
			a.add(rows...)
			a.say(codeOf(last) == "OUT_OF_MEMORY", "have more memory than was asked for: "+kind, "%s %s", last.State, codeOf(last))
		})
	}
	run(func() {
		_, last := a.attack(t, "stay", func(s *basilica.TaskSpec) { s.TimeoutSeconds = 1 }, "stay")
		ran := last.At.Sub(a.started(t, "stay"))
		a.say(last.State == basilica.TaskTimedOut && codeOf(last) == "TIMED_OUT", "outlive the time limit by ignoring signals", "%s %s, %.1f s after the start of a job that had 1 s", last.State, codeOf(last), ran.Seconds())
	})
	all.Wait()
}

func codeOf(ev basilica.TaskEvent) string {
	if ev.Reason == nil {
		return ""
	}
	return ev.Reason.Code
}

func (a *attacker) started(t *testing.T, task string) time.Time {
	t.Helper()
	got, err := a.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: basilica.TaskID(task), Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	return got.Started
}

// processors compares what a job takes with its share, by its own clock and by the kernel's account of its group.
func (a *attacker) processors(t *testing.T) {
	t.Helper()
	seen := make(chan string, 1)
	go func() {
		seen <- a.observe(t.Context(), "cpu", func(id string) string {
			used, stat := cgroup(id, "cpuacct", "cpuacct.usage", "cpu.stat"), cgroup(id, "cpu", "cpu.stat", "cpu.stat")
			if used == "" || stat == "" {
				return ""
			}
			return used + "\n" + stat
		})
	}()
	rows, last := a.attack(t, "cpu", func(s *basilica.TaskSpec) {
		s.CPUMillis = 500
		s.Env = with(s.Env, "ESCAPE_CPU", "0.5", "ESCAPE_SECONDS", "1", "ESCAPE_WATCHED", "1")
	}, "cpu")
	a.add(rows...)
	var used, micros float64
	times := 0
	for line := range strings.Lines(<-seen) {
		if n, err := strconv.ParseFloat(strings.TrimSpace(line), 64); err == nil {
			used = n / 1e9
		}
		if n, _ := fmt.Sscanf(line, "usage_usec %g", &micros); n == 1 {
			used = micros / 1e6
		}
		fmt.Sscanf(line, "nr_throttled %d", &times)
	}
	wall := last.At.Sub(a.started(t, "cpu")).Seconds()
	a.say(len(rows) == 1 && used > 0 && used <= 0.5*wall+0.2, "take more of the processors, by the kernel's account",
		"%.2f s in %.2f s with a share of 0.50, held back %d times", used, wall, times)
}

func with(env map[string]string, pairs ...string) map[string]string {
	out := map[string]string{}
	for k, v := range env {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

func (a *attacker) forkBomb(t *testing.T) {
	most := make(chan string, 1)
	go func() {
		peak := 0
		limit := a.observe(t.Context(), "fork", func(id string) string {
			n, err := strconv.Atoi(cgroup(id, "pids", "pids.current", "pids.current"))
			if err != nil {
				return ""
			}
			peak = max(peak, n)
			return cgroup(id, "pids", "pids.max", "pids.max")
		})
		most <- fmt.Sprintf("%d of %s", peak, limit)
	}()
	rows, _ := a.attack(t, "fork", func(s *basilica.TaskSpec) {
		s.MemoryBytes = escapeFork
		s.Env = with(s.Env, "ESCAPE_WATCHED", "1")
	}, "fork")
	a.add(rows...)
	var peak, limit int
	said := <-most
	_, err := fmt.Sscanf(said, "%d of %d", &peak, &limit)
	a.say(err == nil && len(rows) == 1 && limit == maxPids && peak <= maxPids, "fork bomb, seen from the host", "%s processes at most", said)
}

// logFlood: neither the executor nor the engine keeps more than its cap.
func (a *attacker) logFlood(t *testing.T) {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "docker", "info", "-f", "{{.DockerRootDir}}").Output()
	if err != nil {
		t.Error(err)
		return
	}
	kept := make(chan int64, 1)
	go func() {
		var most int64
		a.observe(t.Context(), "flood", func(id string) string {
			dir := filepath.Join(strings.TrimSpace(string(root)), "containers", id)
			plain, err := filepath.Glob(filepath.Join(dir, "*-json.log*"))
			local, lerr := filepath.Glob(filepath.Join(dir, "local-logs", "*"))
			if err != nil || lerr != nil {
				return ""
			}
			var sum int64
			for _, f := range append(plain, local...) {
				if st, err := os.Stat(f); err == nil {
					sum += st.Size()
				}
			}
			if most = max(most, sum); most == 0 {
				return ""
			}
			return "seen"
		})
		kept <- most
	}()
	_, last := a.attack(t, "flood", func(s *basilica.TaskSpec) { s.Env = with(s.Env, "ESCAPE_WATCHED", "1") }, "flood")
	size, err := a.cfg.Logs.Size("flood.1")
	a.say(err == nil && last.State == basilica.TaskSucceeded && size <= escapeLog, "fill the executor's disk by 64 MiB of log", "it kept %d KiB of it", size>>10)
	most := <-kept
	a.say(most > 0 && most <= 4*escapeLog+256<<10, "fill the engine's disk by 64 MiB of log", "it kept %d KiB of it at most", most>>10)
}

// outputsOfAStranger leaves what no executor may take; each is refused with its code.
func (a *attacker) outputsOfAStranger(t *testing.T) {
	var all sync.WaitGroup
	room := make(chan struct{}, 4)
	for _, c := range []struct{ kind, what, code string }{
		{"link", "hand out a link to a file of the host", "OUTPUT_LINK"},
		{"device", "hand out a device, or a socket for want of it", "OUTPUT_SPECIAL"},
		{"pipe", "hand out a pipe, on which a reader waits for ever", "OUTPUT_SPECIAL"},
		{"dots", `hand out a name with ..\`, "OUTPUT_NAME"},
		{"case", "hand out two names that differ by case", "OUTPUT_TWICE"},
		{"holes", "hand out a file of 1 TiB of holes", "OUTPUT_SIZE"},
		{"full", "write more than the output's size", "OUTPUT_FULL"},
		{"hardlink", "hand out one file under two names", ""},
	} {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			_, last := a.attack(t, "out-"+c.kind, nil, "outputs", c.kind)
			got := codeOf(last)
			held := got == c.code && (got == "") == (last.State == basilica.TaskSucceeded)
			what := fmt.Sprintf("%s %s", last.State, got)
			if last.Reason != nil {
				what += ": " + last.Reason.Sentence
				held = held && last.Reason.Fix != ""
			}
			a.say(held, c.what, "%s", what)
		})
	}
	all.Wait()
	// The racer swaps a file and a link as fast as it can and is told to outlive its parent; it ends with the container, and
	// whatever it left is either refused or the job's own.
	for i := range rounds() {
		task := fmt.Sprintf("race-%d", i)
		_, last := a.attack(t, task, nil, "outputs", "race")
		own := codeOf(last) == "OUTPUT_LINK"
		for _, f := range last.Outputs {
			var text bytes.Buffer
			if err := a.GetBlob(t.Context(), f.SHA256, &text); err != nil || text.String() != "own" {
				own = false
			}
		}
		a.say(own, "swap an output for a link while it is collected", "%s %s", last.State, codeOf(last))
	}
}

// rounds is how often a race is tried: `make escape` tries more.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("BASILICA_ESCAPE_ROUNDS")); err == nil {
		return n
	}
	return 1
}

// linked loads an image with the program and links alone.
func (a *attacker) linked(t *testing.T, workdir string, links ...string) string {
	t.Helper()
	return hostileImage(t, a.engine, a.program, workdir, links...)
}

// imagesThatLeadOut: what an image says of itself must not lead its container to the host.
func (a *attacker) imagesThatLeadOut(t *testing.T) {
	id := a.linked(t, "/proc/self/fd/7")
	_, last := a.attack(t, "workdir", func(s *basilica.TaskSpec) { s.Image = id }, "effective")
	a.say(codeOf(last) == "IMAGE_WORKDIR", "begin in a folder that the runtime has open (CVE-2024-21626)", "%s %s", last.State, codeOf(last))
	up := strings.Repeat("../", 12)
	id = a.linked(t, "/here", "here=/proc/self/fd/7")
	_, last = a.attack(t, "workdir-link", func(s *basilica.TaskSpec) { s.Image = id }, "inside", up+strings.TrimPrefix(a.file, "/"))
	a.say(codeOf(last) == "IMAGE_WORKDIR", "begin in a link to such a folder", "%s %s", last.State, codeOf(last))
	// Where the engine mounts is a link in the image: it must be resolved beneath the container's root.
	id = a.linked(t, "", "tmp="+up+filepath.Dir(a.file), "out="+filepath.Dir(a.file), "home=/etc", "volume=/")
	rows, last := a.attack(t, "links", func(s *basilica.TaskSpec) { s.Image = id }, "inside", a.file)
	a.add(rows...)
	left, err := os.ReadDir(filepath.Dir(a.file))
	a.say(err == nil && len(left) == 1 && (codeOf(last) == "CONTAINER_PATHS" || len(rows) == 1), "mount over the host by links in the image at /tmp, /out, HOME", "%s %s; the folder on the host is as it was", last.State, codeOf(last))
}

// hostState is what of the host an attack could change.
type hostState struct {
	disk, engine, memory uint64 // free bytes: of the executor's disk, of the engine's, of memory
	programs             map[string][32]byte
}

func lookAtHost(t *testing.T, dir string) hostState {
	t.Helper()
	s := hostState{programs: map[string][32]byte{}}
	root, err := exec.CommandContext(t.Context(), "docker", "info", "-f", "{{.DockerRootDir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	for of, free := range map[string]*uint64{dir: &s.disk, strings.TrimSpace(string(root)): &s.engine} {
		var fs unix.Statfs_t
		if err := unix.Statfs(of, &fs); err != nil {
			t.Fatal(err)
		}
		*free = fs.Bavail * uint64(fs.Bsize)
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &s.memory); err == nil {
			s.memory <<= 10
		}
	}
	for _, name := range []string{"docker-init", "runc", "containerd-shim-runc-v2", "dockerd", "tini-static"} {
		for _, bin := range []string{"/usr/bin/", "/usr/sbin/", "/usr/libexec/docker/"} {
			if program, err := os.ReadFile(bin + name); err == nil {
				s.programs[bin+name] = sha256.Sum256(program)
			}
		}
	}
	return s
}

// Tolerances of `make escape`: a running host moves by itself.
const (
	diskTolerance   = 64 << 20
	memoryTolerance = 512 << 20
)

// compareHost holds the host to what it was; the kernel takes a while to give back what a container had. Free disk and
// memory are held where nobody else works on the machine.
func (a *attacker) compareHost(t *testing.T, before hostState, alone bool) {
	t.Helper()
	after := lookAtHost(t, a.dir)
	taken := func(before, after uint64) int64 { return int64(before) - int64(after) }
	same := func() bool {
		return taken(before.disk, after.disk) < diskTolerance && taken(before.engine, after.engine) < diskTolerance && taken(before.memory, after.memory) < memoryTolerance
	}
	for settled := time.Now().Add(30 * time.Second); alone && !same() && time.Now().Before(settled); after = lookAtHost(t, a.dir) {
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
	}
	changed := []string{}
	for path, sum := range before.programs {
		if after.programs[path] != sum {
			changed = append(changed, path)
		}
	}
	a.say(len(before.programs) > 0 && len(changed) == 0, "change the engine's programs (CVE-2019-5736)", "%d compared, changed %v", len(before.programs), changed)
	text, err := os.ReadFile(a.file)
	a.say(err == nil && string(text) == a.canary, "change a file of the host that all may write", "it is as it was")
	disk, engine, memory := taken(before.disk, after.disk), taken(before.engine, after.engine), taken(before.memory, after.memory)
	a.say(!alone || disk < diskTolerance, "keep disk of the host", "free before %d MiB, after %d MiB (tolerance %d)", before.disk>>20, after.disk>>20, diskTolerance>>20)
	a.say(!alone || engine < diskTolerance, "keep disk of the engine", "free before %d MiB, after %d MiB (tolerance %d)", before.engine>>20, after.engine>>20, diskTolerance>>20)
	a.say(!alone || memory < memoryTolerance, "keep memory of the host", "free before %d MiB, after %d MiB (tolerance %d)", before.memory>>20, after.memory>>20, memoryTolerance>>20)
}

// mqOpen makes a message queue of the host that all may read.
func mqOpen(name *byte) (int, error) {
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666, 0, 0, 0)
	if e != 0 {
		return -1, fmt.Errorf("make a message queue: %w", e)
	}
	return int(fd), nil
}

func mqUnlink(name *byte) { unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0) }
