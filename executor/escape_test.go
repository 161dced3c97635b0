package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"basilica"
	"basilica/docker"
)

// escapeRow is one attempt and what came of it.
type escapeRow struct {
	Attempt string `json:"attempt"`
	What    string `json:"what"`
	Held    bool   `json:"held"`
}

// escapes collects the table.
type escapes struct {
	mu   sync.Mutex
	rows []escapeRow
}

func (e *escapes) add(rows ...escapeRow) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rows = append(e.rows, rows...)
}

func (e *escapes) say(held bool, attempt, format string, args ...any) {
	e.add(escapeRow{attempt, fmt.Sprintf(format, args...), held})
}

// attacker is a machine with the hostile image, and what there is on the host that nobody may reach.
type attacker struct {
	*box
	escapes
	program []byte
	image   string
	env     map[string]string
	canary,
	file string // on the host
}

// Sizes of the attacks.
const (
	escapeMemory = 64 << 20
	escapeOutput = 4 << 20
	escapeLog    = 1 << 20
	escapeFork   = 1 << 30 // of as many processes as there may be, so that their number is what ends them
)

// TestEscape lets a hostile program try each line of DESIGN section 5 from inside a real task's container, and looks at
// the host from outside. `make escape` runs it alone, with the table, and then holds the host's free disk and memory to
// what they were; beside other tests these move by themselves.
func TestEscape(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an executor that mounts needs root")
	}
	b := newBox(t, func(c *Config) { c.MaxContainers, c.MaxLogBytes, c.MaxMemory = 8, escapeLog, escapeFork })
	a := &attacker{box: b, canary: "canary-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	a.program = buildEscape(t)
	a.image = hostileImage(t, b.engine, a.program, "")
	alone := os.Getenv("BASILICA_ESCAPE") == "alone"
	before := lookAtHost(t, b.dir)
	a.prepareHost(t)

	end := a.victim(t)
	a.tour(t)
	end()
	a.loads(t)
	a.outputsOfAStranger(t)
	a.imagesThatLeadOut(t)

	a.leavesNothing(t)
	a.compareHost(t, before, alone)
	a.print(t, alone)
}

// print gives the table, of a failed test beside others only what got out.
func (e *escapes) print(t *testing.T, whole bool) {
	held := 0
	whole = whole || !slices.ContainsFunc(e.rows, func(r escapeRow) bool { return !r.Held })
	for _, r := range e.rows {
		word := "held"
		if !r.Held {
			word = "GOT OUT"
			t.Errorf("%s: %s", r.Attempt, r.What)
		} else {
			held++
		}
		if whole || !r.Held {
			fmt.Fprintf(t.Output(), "%-66s %-7s %.120s\n", r.Attempt, word, r.What)
		}
	}
	if held == len(e.rows) {
		fmt.Fprintf(t.Output(), "%d attempts: nothing got out\n", held)
	}
}

func buildEscape(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "escape")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "../internal/testnet/escape")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build escape: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// hostileImage has the program, a set-user-ID copy and one with capabilities, a file for root alone, a VOLUME, root as its
// user, and the working directory that is given.
func hostileImage(t *testing.T, engine *docker.Engine, program []byte, workdir string, links ...string) string {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	put := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range links {
		name, to, _ := strings.Cut(l, "=")
		put(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, nil)
	}
	put(tar.Header{Name: "escape", Mode: 0o755}, program)
	// Bytes that differ at every run make an image that no other test has.
	put(tar.Header{Name: "unique", Mode: 0o644}, []byte(t.Name()+time.Now().String()))
	if workdir == "" && len(links) == 0 {
		hostileFiles(put, program)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{
			"User": "0:0", "WorkingDir": workdir, "Volumes": map[string]any{"/volume": struct{}{}}, "ExposedPorts": map[string]any{"80/tcp": struct{}{}},
			"Healthcheck": map[string]any{"Test": []string{"CMD", "/escape", "flood"}, "Interval": int64(1e9)},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w = tar.NewWriter(&file)
	put(tar.Header{Name: "c.json", Mode: 0o644}, config)
	put(tar.Header{Name: "l.tar", Mode: 0o644}, layer.Bytes())
	put(tar.Header{Name: "manifest.json", Mode: 0o644}, []byte(`[{"Config":"c.json","Layers":["l.tar"]}]`))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	id, err := engine.LoadImage(t.Context(), bytes.NewReader(file.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.RemoveImage(context.Background(), id) })
	return id
}

// hostileFiles are those of an image that the tour tries: set-user-ID, with capabilities, devices of the host, for root
// alone.
func hostileFiles(put func(tar.Header, []byte), program []byte) {
	put(tar.Header{Name: "suid", Mode: 0o6755}, program)
	// A capability set of version 2 (linux/capability.h): effective, and permitted all that there are.
	capability := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, word := range []uint32{0xffffffff, 0, 0x1ff, 0} {
		capability = binary.LittleEndian.AppendUint32(capability, word)
	}
	put(tar.Header{Name: "privileged", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(capability)}}, program)
	put(tar.Header{Name: "disk", Mode: 0o666, Typeflag: tar.TypeBlock, Devmajor: 254, Devminor: 0}, nil)
	put(tar.Header{Name: "memory", Mode: 0o666, Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1}, nil)
	put(tar.Header{Name: "log", Mode: 0o666, Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 11}, nil)
	put(tar.Header{Name: "shadow", Mode: 0o600}, []byte("root's alone"))
}

// prepareHost puts things on the host that an escaped job would find.
func (a *attacker) prepareHost(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "basilica-escape-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(dir, "host")
	if err := os.WriteFile(a.file, []byte(a.canary), 0o666); err != nil {
		t.Fatal(err)
	}
	queue := strings.ReplaceAll(filepath.Base(dir), "-", "")
	name, err := unix.BytePtrFromString(queue)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := mqOpen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd); mqUnlink(name) })
	key := int(time.Now().UnixNano() & 0x7ffffff)
	segment, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SysvShmCtl(segment, unix.IPC_RMID, nil) })
	doors := []string{}
	heard := make(chan string, 64)
	listen := func(network, addr string) string {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				heard <- l.Addr().String()
				c.Close()
			}
		}()
		return l.Addr().String()
	}
	listen("unix", "@"+queue)
	doors = append(doors, listen("tcp", "127.0.0.1:0"))
	_, port, err := net.SplitHostPort(listen("tcp", ":0"))
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if n, ok := addr.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			doors = append(doors, net.JoinHostPort(n.IP.String(), port))
		}
	}
	t.Cleanup(func() {
		for {
			select {
			case at := <-heard:
				t.Errorf("a job reached the host's door %s", at)
			default:
				return
			}
		}
	})
	a.env = map[string]string{
		"ESCAPE_FILE": a.file, "ESCAPE_PID": strconv.Itoa(os.Getpid()), "ESCAPE_DOCKER": strings.TrimPrefix(docker.DefaultHost, "unix://"),
		"ESCAPE_SHM": strconv.Itoa(key), "ESCAPE_ABSTRACT": queue, "ESCAPE_QUEUE": queue, "ESCAPE_DOORS": strings.Join(doors, " "),
		"ESCAPE_MEMORY": strconv.Itoa(escapeMemory),
	}
}

// attack runs the hostile program as a task and gives what it said and its end.
func (a *attacker) attack(t testing.TB, task string, change func(*basilica.TaskSpec), args ...string) ([]escapeRow, basilica.TaskEvent) {
	t.Helper()
	spec := basilica.TaskSpec{
		Image: a.image, Command: append([]string{"/escape"}, args...), Env: a.env,
		MemoryBytes: escapeMemory, CPUMillis: 2000, OutputBytes: escapeOutput, TimeoutSeconds: 50,
	}
	if change != nil {
		change(&spec)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.execute(task, text); err != nil {
		t.Fatal(err)
	}
	_, log, last := a.watch(t, task, 0)
	var rows []escapeRow
	for line := range strings.Lines(log) {
		var r escapeRow
		if json.Unmarshal([]byte(line), &r) == nil && r.Attempt != "" {
			rows = append(rows, r)
		}
	}
	t.Logf("%s: %s %+v, %d lines, log ends %.300q", task, last.State, last.Reason, len(rows), log[max(0, len(log)-300):])
	return rows, last
}

// victim runs another client's task beside the attacks; the function that it gives ends it.
func (a *attacker) victim(t *testing.T) (end func()) {
	t.Helper()
	secret := a.put(t, "secret", a.canary)
	spec := a.spec(func(s *basilica.TaskSpec) {
		s.Inputs, s.Env = []basilica.TaskFile{secret}, map[string]string{"SECRET": a.canary}
	}, "/busybox cp /in/secret /tmp/secret; /busybox cp /in/secret /out/secret; /busybox sleep 60")
	if _, err := a.execute("victim", spec); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(a.cfg.Dir, "victim.1", "out", "secret")
	waitFor(t, func() bool { _, err := os.Stat(out); return err == nil })
	a.env["ESCAPE_SECRET"], a.env["ESCAPE_CANARY"] = out, a.canary
	return func() {
		if got, err := os.ReadFile(out); err != nil || string(got) != a.canary {
			t.Errorf("the victim's file: %q %v", got, err)
		}
		if err := a.Cancel(t.Context(), "victim", 1); err != nil {
			t.Error(err)
		}
		a.watch(t, "victim", 0)
		delete(a.env, "ESCAPE_CANARY")
	}
}

// tour runs everything that takes nothing, with an input, beside the victim.
func (a *attacker) tour(t *testing.T) {
	t.Helper()
	in := a.put(t, "data", "input")
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() error {
		said := ""
		a.observe(ctx, "tour", func(id string) string {
			if said == "" {
				text, _ := exec.CommandContext(ctx, "docker", "inspect", "-f", "{{range .Mounts}}{{.Type}} {{end}}{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", id).Output()
				said = strings.TrimSpace(string(text))
			}
			return said
		})
		a.say(said == fmt.Sprintf("bind bind %d %d", escapeMemory, escapeMemory), "keep a VOLUME on the host's disk; have swap", "the engine's mounts, memory, memory and swap: %s", said)
		return nil
	})
	rows, last := a.attack(t, "tour", func(s *basilica.TaskSpec) {
		s.Inputs, s.Env = []basilica.TaskFile{in}, with(s.Env, "ESCAPE_WATCHED", "1")
	}, "tour")
	a.add(rows...)
	a.say(last.State == basilica.TaskSucceeded && len(rows) > 150, "the tour comes to its end", "%s, %d attempts", last.State, len(rows))
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// container gives the engine's id of a task's container, once it runs.
func (a *attacker) container(ctx context.Context, task string) string {
	for ctx.Err() == nil {
		at, err := a.cfg.Attempts.Attempt(ctx, basilica.TaskAttempt{Task: basilica.TaskID(task), Attempt: 1})
		if err == nil && at.State == basilica.TaskRunning {
			return at.Container
		}
		if err == nil && at.State.Terminal() {
			return ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	return ""
}

// cgroup reads a file of a container's group while it exists: the first name is that of version 1, the second of 2.
func cgroup(id, controller, v1, v2 string) string {
	for _, pattern := range []string{
		"/sys/fs/cgroup/" + controller + "/docker/" + id + "/" + v1, "/sys/fs/cgroup/" + controller + "/system.slice/docker-" + id + ".scope/" + v1,
		"/sys/fs/cgroup/docker/" + id + "/" + v2, "/sys/fs/cgroup/system.slice/docker-" + id + ".scope/" + v2,
	} {
		if text, err := os.ReadFile(pattern); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	return ""
}

// observe polls what an attack does to the host, until the task has ended, and gives the last value seen that is not empty.
// An attack with ESCAPE_WATCHED goes on when there is one.
func (a *attacker) observe(ctx context.Context, task string, look func(container string) string) string {
	seen := ""
	for id := a.container(ctx, task); ctx.Err() == nil; {
		if v := look(id); v != "" {
			if seen == "" {
				os.WriteFile(filepath.Join(a.cfg.Dir, task+".1", "out", "watched"), nil, 0o644)
			}
			seen = v
		}
		at, err := a.cfg.Attempts.Attempt(ctx, basilica.TaskAttempt{Task: basilica.TaskID(task), Attempt: 1})
		if err != nil || at.State.Terminal() {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return seen
}
