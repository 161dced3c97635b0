package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/docker"
	"basilica/keys"
	"basilica/store"
)

// disk is docker's, as node hands it to the role.
type disk struct{}

func (disk) MountOutput(dir string, bytes int64) error { return docker.MountOutput(dir, bytes) }
func (disk) UnmountAll(root string) error              { return docker.UnmountAll(root) }

// miner answers heartbeats in the test's process.
type miner struct {
	basilica.Fleet
	mu    sync.Mutex
	reply basilica.HeartbeatReply
	beats int
}

func (m *miner) Heartbeat(context.Context, basilica.ExecutorID, basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.beats++
	r := m.reply
	r.At = time.Now()
	return r, nil
}

func (m *miner) says(f func(*basilica.HeartbeatReply)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.reply)
}

type proverFunc func(ctx context.Context, v Visit) error

func (p proverFunc) Prove(ctx context.Context, v Visit) error { return p(ctx, v) }

// box is one machine on the real engine with a real store.
type box struct {
	*Executor
	cfg    Config
	engine *docker.Engine
	image  string
	dir    string
	miner  *miner
	hotkey *keys.Pair
	prove  proverFunc
	stop   func()
}

func busybox(t testing.TB) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no busybox: apt-get install busybox-static")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func newBox(t testing.TB, change func(*Config)) *box {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	b := &box{dir: t.TempDir(), miner: &miner{reply: basilica.HeartbeatReply{Lease: time.Minute}}}
	var err error
	if b.engine, err = docker.New(os.Getenv("DOCKER_HOST"), log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.engine.Close() })
	if _, _, err := b.engine.Available(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no container engine (%v): run scripts/dockerd.sh start", err)
	}
	// Bytes after a program's end change its image alone: no other test on the same engine has this one.
	program := fmt.Appendf(busybox(t), "%s %d", t.Name(), time.Now().UnixNano())
	var file bytes.Buffer
	if err := docker.BinaryImage(&file, "busybox", bytes.NewReader(program), int64(len(program))); err != nil {
		t.Fatal(err)
	}
	if b.image, err = b.engine.LoadImage(t.Context(), bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	if b.hotkey, err = keys.FromURI(keys.Sr25519, "//Miner"); err != nil {
		t.Fatal(err)
	}
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: key.SPKI()}, b.hotkey)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenExecutor(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := store.OpenBlobs(filepath.Join(b.dir, "blobs"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := store.OpenTaskLogs(filepath.Join(b.dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	mem := uint64(1 << 20)
	b.cfg = Config{
		Executor: "box-1", Machine: fmt.Sprintf("test%d", time.Now().UnixNano()), Dir: filepath.Join(b.dir, "work"), Version: "test",
		Endorsement: endorsement, Sign: key.Sign,
		GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "gpu-a", MemoryBytes: &mem}, {Kind: basilica.GPUSoftware, UUID: "gpu-b", Index: 1}},
		CPUs: 2, MemoryBytes: 4 << 30, MaxContainers: 3, MaxMemory: 256 << 20, MaxCPUMillis: 2000, Heartbeat: 50 * time.Millisecond,
		CheckImage: func(context.Context) (string, error) { return b.image, nil },
		Facts:      func(context.Context) (basilica.Facts, error) { return basilica.Facts{Hostname: "h"}, nil },
		Now:        time.Now, Log: log, Engine: b.engine, Ledger: db, Attempts: db, Blobs: blobs, Logs: logs, Disk: disk{}, Fleet: b.miner,
		Prover: proverFunc(func(ctx context.Context, v Visit) error { return b.prove(ctx, v) }),
	}
	if change != nil {
		change(&b.cfg)
	}
	b.start(t)
	t.Cleanup(func() {
		b.stop()
		b.leavesNothing(t)
		b.engine.RemoveImage(context.Background(), b.image)
	})
	return b
}

// start runs a process of the machine; the one before must have ended or been abandoned.
func (b *box) start(t testing.TB) {
	t.Helper()
	var err error
	if b.Executor, err = New(b.cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	run := b.Executor
	go func() { done <- run.Run(ctx, func() { close(ready) }) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("run ended: %v", err)
	}
}

func (b *box) leavesNothing(t testing.TB) {
	t.Helper()
	if own, err := b.engine.List(context.Background(), labelMachine, b.cfg.Machine); err != nil || len(own) != 0 {
		t.Errorf("containers remain: %+v %v", own, err)
	}
	if m, err := docker.Mounted(b.dir); err != nil || len(m) != 0 {
		t.Errorf("mounts remain: %v %v", m, err)
	}
	if entries, err := os.ReadDir(b.cfg.Dir); err != nil || len(entries) != 0 {
		t.Errorf("files remain: %v %v", entries, err)
	}
	if ledger, err := b.cfg.Ledger.Ledger(context.Background(), time.Now()); err != nil || len(ledger) != 0 {
		t.Errorf("holdings remain: %+v %v", ledger, err)
	}
}

func (b *box) put(t testing.TB, name, content string) basilica.TaskFile {
	t.Helper()
	f := basilica.TaskFile{Name: name, Blob: basilica.Blob{SHA256: sha256.Sum256([]byte(content)), Size: int64(len(content))}}
	if err := b.PutBlob(t.Context(), f.Blob, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return f
}

func (b *box) spec(change func(*basilica.TaskSpec), script string) []byte {
	s := basilica.TaskSpec{Image: b.image, Command: []string{"/busybox", "sh", "-c", script}, MemoryBytes: 64 << 20, CPUMillis: 1000, OutputBytes: 1 << 20, TimeoutSeconds: 60}
	if change != nil {
		change(&s)
	}
	text, _ := json.Marshal(s)
	return text
}

func (b *box) execute(task string, spec []byte) (basilica.Holding, error) {
	return b.Execute(context.Background(), basilica.ExecuteRequest{Task: basilica.TaskID(task), Attempt: 1, Client: "client", Spec: spec, Lease: time.Minute})
}

// watch follows an attempt to its end and gives the states, the log and the last event.
func (b *box) watch(t testing.TB, task string, offset int64) ([]basilica.TaskState, string, basilica.TaskEvent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var states []basilica.TaskState
	var log strings.Builder
	var last basilica.TaskEvent
	err := b.Watch(ctx, basilica.TaskID(task), 1, offset, func(ev basilica.TaskEvent) error {
		if ev.Log != nil {
			if ev.Log.Offset != offset+int64(log.Len()) {
				t.Errorf("log goes on at %d, want %d", ev.Log.Offset, offset+int64(log.Len()))
			}
			log.Write(ev.Log.Data)
		} else {
			states = append(states, ev.State)
		}
		last = ev
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return states, log.String(), last
}

func TestTaskFromInputToReceipt(t *testing.T) {
	b := newBox(t, nil)
	in := b.put(t, "dir/data.txt", "hello input")
	spec := b.spec(func(s *basilica.TaskSpec) {
		s.Inputs, s.GPUs, s.AllowSoftware, s.Env = []basilica.TaskFile{in}, 1, true, map[string]string{"WORD": "seven"}
	}, "cat /in/dir/data.txt; echo; echo $WORD >&2; /busybox mkdir /out/sub; /busybox sha256sum /in/dir/data.txt > /out/sub/sum")
	h, err := b.execute("t1", spec)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.execute("t1", spec); err != nil || again.Fence != h.Fence {
		t.Errorf("the same attempt again: %+v %v", again, err)
	}
	states, log, last := b.watch(t, "t1", 0)
	if !slices.Equal(states, []basilica.TaskState{basilica.TaskPulling, basilica.TaskRunning, basilica.TaskSucceeded}) {
		t.Errorf("states %v, reason %+v", states, last.Reason)
	}
	// Two pipes have no order between them; each stream alone has one.
	streams := map[basilica.LogStream]string{}
	err = b.Watch(t.Context(), "t1", 1, 0, func(ev basilica.TaskEvent) error {
		if ev.Log != nil {
			streams[ev.Log.Stream] += string(ev.Log.Data)
		}
		return nil
	})
	if err != nil || streams[basilica.Stdout] != "hello input\n" || streams[basilica.Stderr] != "seven\n" {
		t.Errorf("log by stream %q %v", streams, err)
	}
	if len(last.Outputs) != 1 || last.Outputs[0].Name != "sub/sum" || *last.ExitCode != 0 {
		t.Fatalf("end %+v", last)
	}
	var out bytes.Buffer
	if err := b.GetBlob(t.Context(), last.Outputs[0].SHA256, &out); err != nil || !strings.HasPrefix(out.String(), in.SHA256.String()) {
		t.Errorf("output %q %v", out.String(), err)
	}
	signed, err := last.Receipt.Countersign(b.hotkey)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := signed.Open()
	if err != nil || r.Fence != h.Fence || r.State != basilica.TaskSucceeded || r.ImageID != b.image || r.Stderr != sha256.Sum256([]byte("seven\n")) ||
		r.Stdout != sha256.Sum256([]byte("hello input\n")) || r.LogBytes != int64(len(log)) || r.SpecDigest != sha256.Sum256(spec) || !slices.Equal(r.GPUs, h.GPUs) {
		t.Errorf("receipt %+v %v", r, err)
	}
	b.leavesNothing(t)
	if _, rest, _ := b.watch(t, "t1", 6); rest != log[6:] {
		t.Errorf("log from 6: %q", rest)
	}
	if err := b.Release(t.Context(), "t1", 1); err != nil {
		t.Error(err)
	}
	for _, f := range append(last.Outputs, in) {
		if err := b.GetBlob(t.Context(), f.SHA256, io.Discard); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
			t.Errorf("%s of a released attempt: %v", f.Name, err)
		}
	}
	if err := b.Watch(t.Context(), "t1", 1, 0, nil); basilica.CodeOf(err) != "ATTEMPT_UNKNOWN" {
		t.Errorf("a released attempt: %v", err)
	}
}

// An engine that finished making a container after everybody had gone leaves it to nobody; neither does a removal that
// failed. What runs is left alone.
func TestOrphansAreRemoved(t *testing.T) {
	b := newBox(t, nil)
	if _, err := b.execute("runs", b.spec(nil, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		a, err := b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: "runs", Attempt: 1})
		return err == nil && a.State == basilica.TaskRunning
	})
	ghost := basilica.Attempt{Task: "ghost", Number: 1}
	_, err := b.cfg.Engine.Create(t.Context(), basilica.ContainerSpec{
		Name: "basilica-" + b.cfg.Machine + "-ghost", Image: b.image, Labels: b.labels(ghost), CPUMillis: 100, MemoryBytes: 16 << 20, Pids: 8, LogBytes: 4 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.Executor.dir(ghost.Key()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.cfg.Disk.MountOutput(filepath.Join(b.Executor.dir(ghost.Key()), "out"), 4<<10); err != nil {
		t.Fatal(err)
	}
	b.tidy(t.Context())
	own, err := b.cfg.Engine.List(t.Context(), labelMachine, b.cfg.Machine)
	if err != nil || len(own) != 1 || own[0].Labels[labelTask] != "runs" || !own[0].Running {
		t.Errorf("containers %+v, %v", own, err)
	}
	if left, err := os.ReadDir(b.cfg.Dir); err != nil || len(left) != 1 || left[0].Name() != "runs.1" {
		t.Errorf("directories %v, %v", left, err)
	}
	if err := b.Cancel(t.Context(), "runs", 1); err != nil {
		t.Error(err)
	}
	if _, _, last := b.watch(t, "runs", 0); last.State != basilica.TaskCancelled {
		t.Errorf("the running task: %s %+v", last.State, last.Reason)
	}
	b.leavesNothing(t)
}

func TestEnds(t *testing.T) {
	b := newBox(t, nil)
	for name, c := range map[string]struct {
		script string
		change func(*basilica.TaskSpec)
		state  basilica.TaskState
		code   string
	}{
		"exit":    {"exit 3", nil, basilica.TaskFailed, "EXIT_CODE"},
		"memory":  {"/busybox tail /dev/zero", nil, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"timeout": {"/busybox sleep 60", func(s *basilica.TaskSpec) { s.TimeoutSeconds = 1 }, basilica.TaskTimedOut, "TIMED_OUT"},
		"image":   {"", func(s *basilica.TaskSpec) { s.Image = "no-such-image:1" }, basilica.TaskFailed, "IMAGE_NOT_FOUND"},
		"command": {"", func(s *basilica.TaskSpec) { s.Command = []string{"/none"} }, basilica.TaskFailed, "EXIT_CODE"},
		"link":    {"/busybox ln -s /etc/shadow /out/x", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"dirlink": {"/busybox ln -s / /out/x", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"pipe":    {"/busybox mkfifo /out/x", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"case":    {"echo > /out/a; echo > /out/A", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"holes":   {"/busybox truncate -s 1073741824 /out/x", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"deep":    {"p=/out; for i in $(/busybox seq 20); do p=$p/d; done; /busybox mkdir -p $p", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"many":    {"for i in $(/busybox seq 300); do echo > /out/f$i; done", nil, basilica.TaskFailed, "OUTPUT_REFUSED"},
		"full":    {"/busybox dd if=/dev/zero of=/out/x bs=64k count=64 || exit 9", nil, basilica.TaskFailed, "EXIT_CODE"},
	} {
		if _, err := b.execute(name, b.spec(c.change, c.script)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, log, last := b.watch(t, name, 0)
		if name == "image" && (last.Reason == nil || last.Reason.Fix == "") {
			t.Errorf("%s: nobody says what to do: %+v", name, last.Reason)
		}
		if last.State != c.state || last.Reason == nil || last.Reason.Code != c.code || last.Receipt == nil || len(last.Outputs) != 0 && name != "full" {
			t.Errorf("%s: %s %+v, want %s %s; log %q", name, last.State, last.Reason, c.state, c.code, log)
		}
	}
}

func TestRefusals(t *testing.T) {
	b := newBox(t, nil)
	h, err := b.Health(t.Context())
	if err != nil || h.Limits.MemoryBytes < 1 || h.Limits.CPUMillis < 1 || h.Limits.DefaultMemoryBytes < 1 {
		t.Fatalf("limits %+v, %v", h.Limits, err)
	}
	missing := basilica.TaskFile{Name: "x", Blob: basilica.Blob{Size: 3}}
	for code, change := range map[string]func(*basilica.TaskSpec){
		"MEMORY_LIMIT": func(s *basilica.TaskSpec) { s.MemoryBytes = h.Limits.MemoryBytes + 1 },
		"CPU_LIMIT":    func(s *basilica.TaskSpec) { s.CPUMillis = h.Limits.CPUMillis + 1 },
		"OUTPUT_LIMIT": func(s *basilica.TaskSpec) { s.OutputBytes = 64 << 20 },
		"GPU_LIMIT":    func(s *basilica.TaskSpec) { s.GPUs = 1 },
		"TASK_INVALID": func(s *basilica.TaskSpec) { s.Image = "" },
		"BLOB_UNKNOWN": func(s *basilica.TaskSpec) { s.Inputs = []basilica.TaskFile{missing} },
	} {
		if _, err := b.execute("r", b.spec(change, "true")); basilica.CodeOf(err) != code {
			t.Errorf("%s: %v", code, err)
		}
	}
	for _, id := range []string{"", "../x", "a/b", strings.Repeat("x", 65)} {
		if _, err := b.execute(id, b.spec(nil, "true")); basilica.CodeOf(err) != "TASK_ID" {
			t.Errorf("task id %q: %v", id, err)
		}
	}
	if _, err := b.execute("r", []byte(`{"image":"x","unknown":1}`)); basilica.CodeOf(err) != "TASK_INVALID" {
		t.Errorf("unknown field: %v", err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Drain = true })
	waitFor(t, func() bool { h, err := b.Health(t.Context()); return err == nil && !h.OK })
	if _, err := b.execute("r", b.spec(nil, "true")); basilica.CodeOf(err) != "DRAINING" {
		t.Errorf("draining: %v", err)
	}
}

func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen within 30 s")
		}
	}
}

// pipe is a channel whose other end the test holds.
type pipe struct {
	io.Reader
	bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }
func (*pipe) Close() error                 { return nil }

func TestTaskAndChallengeNeverMeet(t *testing.T) {
	b := newBox(t, nil)
	two := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 2, true }
	entered, leave := make(chan struct{}), make(chan struct{})
	b.prove = func(ctx context.Context, _ Visit) error {
		close(entered)
		<-leave
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- b.Attest(context.Background(), Visit{Grant: "grant-1"}) }()
	<-entered
	_, err := b.execute("t", b.spec(two, "true"))
	var held *basilica.Held
	if !errors.As(err, &held) || held.Holding.Holder != "grant-1" || held.Holding.Kind != basilica.HolderChallenge {
		t.Errorf("task during a challenge: %v", err)
	}
	if err := b.Attest(t.Context(), Visit{Grant: "grant-2"}); !errors.As(err, &held) {
		t.Errorf("challenge during a challenge: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	h, err := b.execute("t", b.spec(two, "/busybox sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Attest(t.Context(), Visit{Grant: "grant-3"}); !errors.As(err, &held) || held.Holding.Fence != h.Fence || held.Holding.Holder != "t" {
		t.Errorf("challenge during a task: %v", err)
	}
	if _, err := b.execute("u", b.spec(two, "true")); !errors.As(err, &held) {
		t.Errorf("task during a task: %v", err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Cancel = []basilica.TaskAttempt{{Task: "t", Attempt: 1}} })
	if _, _, last := b.watch(t, "t", 0); last.State != basilica.TaskCancelled {
		t.Errorf("cancelled task: %s %+v", last.State, last.Reason)
	}
	if err := b.Cancel(t.Context(), "t", 1); err != nil {
		t.Errorf("cancel an ended attempt: %v", err)
	}
	b.prove = func(context.Context, Visit) error { return nil }
	if err := b.Attest(t.Context(), Visit{Grant: "grant-4"}); err != nil {
		t.Errorf("challenge after both: %v", err)
	}
}

func TestLeaseEndsAndIsRenewed(t *testing.T) {
	var mu sync.Mutex
	ahead := time.Duration(0)
	b := newBox(t, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); ahead += d }
	if _, err := b.execute("kept", b.spec(nil, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) {
		r.Lease, r.Renew = time.Hour, []basilica.TaskAttempt{{Task: "kept", Attempt: 1}}
	})
	waitFor(t, func() bool {
		l, err := b.cfg.Ledger.Ledger(t.Context(), b.cfg.Now())
		return err == nil && len(l) == 1 && l[0].Expires.Sub(b.cfg.Now()) > 30*time.Minute
	})
	if _, err := b.execute("left", b.spec(nil, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	pass(2 * time.Minute)
	if _, _, last := b.watch(t, "left", 0); last.State != basilica.TaskLost || last.Reason.Code != "LEASE_ENDED" {
		t.Errorf("task without a miner: %s %+v", last.State, last.Reason)
	}
	if h, err := b.Health(t.Context()); err != nil || h.Tasks != 1 {
		t.Errorf("health %+v %v", h, err)
	}
	if d, ok := b.Clock(); !ok || d < time.Minute {
		t.Errorf("clock distance %s", d)
	}
}

func TestStopAndCrashLeaveNothing(t *testing.T) {
	b := newBox(t, nil)
	one := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 1, true }
	if _, err := b.execute("stopped", b.spec(one, "echo up; /busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		a, err := b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: "stopped", Attempt: 1})
		return err == nil && a.State == basilica.TaskRunning
	})
	b.stop()
	b.leavesNothing(t)
	if _, err := b.execute("late", b.spec(nil, "true")); basilica.CodeOf(err) != "NOT_RUNNING" {
		t.Errorf("a task after the end: %v", err)
	}
	b.start(t)
	if _, _, last := b.watch(t, "stopped", 0); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_STOPPED" {
		t.Errorf("task of a stopped machine: %s %+v", last.State, last.Reason)
	}
	// What kill -9 leaves: a running container, a mount, files, an open attempt and a holding.
	d, err := b.demandOf(b.spec(one, "echo crashed; /busybox sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	spec := b.spec(one, "echo crashed; /busybox sleep 60")
	a := basilica.Attempt{
		Task: "crashed", Number: 1, Client: "client", Spec: spec, State: basilica.TaskPlaced, Accepted: time.Now(),
		Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: "crashed", GPUs: []string{"gpu-a"}, Expires: time.Now().Add(time.Hour)},
	}
	if a.Holding, _, err = b.cfg.Attempts.Accept(t.Context(), a, nil, 9, time.Now()); err != nil {
		t.Fatal(err)
	}
	in, out, err := b.prepare(a, d)
	if err != nil {
		t.Fatal(err)
	}
	a.ImageID = b.image
	id, err := b.engine.Create(t.Context(), b.container(a, d, in, out))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start(t)
	b.leavesNothing(t)
	if _, _, last := b.watch(t, "crashed", 0); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_RESTARTED" {
		t.Errorf("task of a killed process: %s %+v", last.State, last.Reason)
	}
}

// stubborn is the engine, but it cannot remove containers while told so.
type stubborn struct {
	Engine
	refuses atomic.Bool
}

func (s *stubborn) Remove(ctx context.Context, id string) error {
	if s.refuses.Load() {
		return errors.New("device or resource busy")
	}
	return s.Engine.Remove(ctx, id)
}

func TestWhatCannotBeRemovedIsQuarantined(t *testing.T) {
	var engine *stubborn
	b := newBox(t, func(c *Config) {
		engine = &stubborn{Engine: c.Engine}
		c.Engine = engine
	})
	engine.refuses.Store(true)
	both := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 2, true }
	if _, err := b.execute("sticky", b.spec(both, "true")); err != nil {
		t.Fatal(err)
	}
	if _, _, last := b.watch(t, "sticky", 0); last.State != basilica.TaskSucceeded {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
	var held *basilica.Held
	if _, err := b.execute("next", b.spec(both, "true")); !errors.As(err, &held) || held.Holding.Kind != basilica.HolderQuarantine {
		t.Errorf("a task on GPUs in quarantine: %v", err)
	}
	if err := b.Attest(t.Context(), Visit{Grant: "g"}); !errors.As(err, &held) || held.Holding.Kind != basilica.HolderQuarantine {
		t.Errorf("a challenge on GPUs in quarantine: %v", err)
	}
	if h, err := b.Health(t.Context()); err != nil || h.OK {
		t.Errorf("health %+v %v", h, err)
	}
	engine.refuses.Store(false)
	b.retryStuck(t.Context())
	b.leavesNothing(t)
}

func TestManyTasksAtOnce(t *testing.T) {
	b := newBox(t, nil)
	var full int
	for i := range 5 {
		_, err := b.execute(fmt.Sprintf("m%d", i), b.spec(nil, "/busybox sleep 1; echo done"))
		if basilica.CodeOf(err) == "CONTAINERS_FULL" {
			full++
		} else if err != nil {
			t.Error(err)
		}
	}
	if full != 2 {
		t.Errorf("%d tasks over the limit of 3 were refused, want 2", full)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if _, log, last := b.watch(t, fmt.Sprintf("m%d", i), 0); last.State != basilica.TaskSucceeded || log != "done\n" {
				t.Errorf("m%d: %s %q", i, last.State, log)
			}
		})
	}
	wg.Wait()
}

func TestLogIsCapped(t *testing.T) {
	b := newBox(t, func(c *Config) { c.MaxLogBytes = 1000 })
	if _, err := b.execute("loud", b.spec(nil, "for i in $(/busybox seq 500); do echo 0123456789; done")); err != nil {
		t.Fatal(err)
	}
	if _, log, last := b.watch(t, "loud", 0); last.State != basilica.TaskSucceeded || len(log) != 1000 {
		t.Errorf("%s %+v, %d bytes of log", last.State, last.Reason, len(log))
	}
}

func TestFactsAndBadChecks(t *testing.T) {
	b := newBox(t, nil)
	p := &pipe{Reader: strings.NewReader("")}
	if err := b.Facts(t.Context(), Visit{Channel: p}); err != nil {
		t.Fatal(err)
	}
	var f basilica.Facts
	if err := json.Unmarshal(p.Bytes(), &f); err != nil || f.Engine != "docker" || len(f.GPUs) != 2 {
		t.Errorf("facts %+v %v", f, err)
	}
	for _, req := range []string{"", "{}", `{"nonce":"xy"}`, `{"nonce":"` + strings.Repeat("a", 62) + `"}`, strings.Repeat("x", 5000)} {
		if err := b.Check(t.Context(), Visit{Channel: &pipe{Reader: strings.NewReader(req)}}); basilica.CodeOf(err) != "CHECK_REQUEST" {
			t.Errorf("request %.20q: %v", req, err)
		}
	}
	// The image of this test has no /basilica, so the check runs, ends with the init's word for that, and leaves nothing.
	p = &pipe{Reader: strings.NewReader(`{"nonce":"` + strings.Repeat("ab", 32) + `"}` + "\n")}
	if err := b.Check(t.Context(), Visit{Channel: p}); err != nil {
		t.Fatal(err)
	}
	var reply checkReply
	if err := json.Unmarshal(p.Bytes(), &reply); err != nil || reply.ExitCode != 127 || reply.Output != "" {
		t.Errorf("check %+v %v", reply, err)
	}
	b.leavesNothing(t)
}

func TestRevokedGrants(t *testing.T) {
	called := make(chan struct{}, 1)
	b := newBox(t, func(c *Config) { c.Revoked = func() { called <- struct{}{} } })
	if b.GrantRevoked("g") {
		t.Error("revoked before anybody said so")
	}
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Revoked = []basilica.GrantID{"g"} })
	<-called
	if !b.GrantRevoked("g") {
		t.Error("not revoked")
	}
}

func TestConclude(t *testing.T) {
	end := func(code int, killed bool) *basilica.ContainerEnd {
		return &basilica.ContainerEnd{ExitCode: code, MemoryKilled: killed}
	}
	coded := basilica.E(basilica.NotFound, "IMAGE_NOT_FOUND", "no", "")
	for name, c := range map[string]struct {
		cause   error
		end     *basilica.ContainerEnd
		failure error
		state   basilica.TaskState
		code    string
	}{
		"success":                     {nil, end(0, false), nil, basilica.TaskSucceeded, ""},
		"a child killed, job went on": {nil, end(0, true), nil, basilica.TaskSucceeded, ""},
		"137 is no proof":             {nil, end(137, false), nil, basilica.TaskFailed, "EXIT_CODE"},
		"memory":                      {nil, end(137, true), nil, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"unwitnessed":                 {nil, nil, nil, basilica.TaskLost, "UNWITNESSED"},
		"coded failure":               {nil, nil, coded, basilica.TaskFailed, "IMAGE_NOT_FOUND"},
		"own fault":                   {nil, nil, errors.New("secret"), basilica.TaskFailed, "EXECUTOR_FAULT"},
		"cancelled":                   {errCancelled, end(143, false), nil, basilica.TaskCancelled, "CANCELLED"},
		"timed out":                   {errTimedOut, end(137, false), nil, basilica.TaskTimedOut, "TIMED_OUT"},
		"lease":                       {errLeaseEnded, nil, nil, basilica.TaskLost, "LEASE_ENDED"},
		"shutdown":                    {errShutdown, nil, context.Canceled, basilica.TaskLost, "EXECUTOR_STOPPED"},
	} {
		state, reason := conclude(c.cause, c.end, c.failure)
		if state != c.state || reason.Code != c.code || strings.Contains(reason.Sentence, "secret") {
			t.Errorf("%s: %s %+v, want %s %s", name, state, reason, c.state, c.code)
		}
	}
}

func FuzzSpec(f *testing.F) {
	e := &Executor{cfg: Config{MaxMemory: 1 << 30}, maxCPU: 1000}
	f.Add([]byte(`{"image":"x","command":["a"],"gpus":0}`))
	f.Add([]byte(`{"image":"x","memory_bytes":-1}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := e.demandOf(raw)
		if err == nil && (d.memory > 1<<30 || d.cpu > 1000 || d.output > d.memory/4 || d.timeout <= 0 || d.memory < 0) {
			t.Errorf("%q passes with %+v", raw, d)
		}
	})
}

func FuzzCheckRequest(f *testing.F) {
	f.Add([]byte(`{"nonce":"` + strings.Repeat("ab", 32) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if nonce, err := readNonce(bytes.NewReader(b)); err == nil && len(nonce) != 32 {
			t.Errorf("nonce of %d bytes", len(nonce))
		}
	})
}
