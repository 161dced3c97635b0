package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/docker"
	"basilica/hardware"
	"basilica/keys"
	"basilica/store"
)

// disk is docker's, as node hands it to the role.
type disk struct{}

func (disk) MountOutput(dir string, bytes int64) error { return docker.MountOutput(dir, bytes) }
func (disk) OutputFull(dir string) (bool, error)       { return docker.OutputFull(dir) }
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

// young is an identity that need not be renewed.
type young struct{ Identity }

func (young) Trust() basilica.Digest { return basilica.Digest{} }
func (young) Life() (begins, ends time.Time) {
	return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
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
	key    *keys.P256
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

// newBox runs a machine in the test's process; at the test's end nothing may be left of it.
func newBox(t testing.TB, change func(*Config)) *box {
	t.Helper()
	b := openBox(t, t.TempDir(), loadImage(t, busybox(t)), change)
	b.start(t)
	b.endsClean(t)
	return b
}

func (b *box) endsClean(t testing.TB) {
	t.Cleanup(func() {
		b.stop()
		b.leavesNothing(t)
		b.engine.RemoveImage(context.Background(), b.image)
	})
}

func testLog(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.DiscardHandler)
}

func testEngine(t testing.TB) *docker.Engine {
	t.Helper()
	engine, err := docker.New(os.Getenv("DOCKER_HOST"), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	if _, _, err := engine.Available(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no container engine (%v): run scripts/dockerd.sh start", err)
	}
	return engine
}

// imageFile is a docker-save file of an image that no other test on the same engine has: bytes after a program's end change
// its image alone.
func imageFile(t testing.TB, program []byte) []byte {
	t.Helper()
	program = fmt.Appendf(slices.Clone(program), "%s %d", t.Name(), time.Now().UnixNano())
	var file bytes.Buffer
	if err := docker.BinaryImage(&file, "busybox", bytes.NewReader(program), int64(len(program))); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func loadImage(t testing.TB, program []byte) string {
	t.Helper()
	id, err := testEngine(t).LoadImage(t.Context(), bytes.NewReader(imageFile(t, program)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func machineLabel(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "test" + hex.EncodeToString(sum[:8])
}

// openBox is the machine of a directory, not yet running: the same one as every earlier process's on that directory.
func openBox(t testing.TB, dir, image string, change func(*Config)) *box {
	t.Helper()
	b := &box{dir: dir, image: image, engine: testEngine(t), miner: &miner{reply: basilica.HeartbeatReply{Lease: time.Minute}}}
	var err error
	if b.hotkey, err = keys.FromURI(keys.Sr25519, "//Miner"); err != nil {
		t.Fatal(err)
	}
	if b.key, err = keys.LoadOrCreateP256(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: b.key.SPKI()}, b.hotkey)
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
		Executor: "box-1", Machine: machineLabel(dir), Dir: filepath.Join(b.dir, "work"), Version: "test", Boot: "boot-1", Uptime: hardware.Uptime,
		Endorsement: endorsement, Sign: b.key.Sign, Unseal: func(sealed []byte) ([]byte, error) { return b.key.Unseal(basilica.RegistryInfo, sealed) },
		GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "gpu-a", MemoryBytes: &mem}, {Kind: basilica.GPUSoftware, UUID: "gpu-b", Index: 1}},
		CPUs: 2, MemoryBytes: 4 << 30, MaxContainers: 3, MaxMemory: 256 << 20, MaxCPUMillis: 2000, Heartbeat: 50 * time.Millisecond,
		FreeDisk:   func() (int64, error) { return hardware.FreeDisk(dir) },
		CheckImage: func(context.Context) (string, error) { return b.image, nil },
		Facts:      func(context.Context) (basilica.Facts, error) { return basilica.Facts{Hostname: "h"}, nil },
		Now:        time.Now, Log: testLog(t), Engine: b.engine, Ledger: db, Attempts: db, Marks: db, Blobs: blobs, Logs: logs, Disk: disk{}, Fleet: b.miner, Identity: young{},
		Prover: proverFunc(func(ctx context.Context, v Visit) error { return b.prove(ctx, v) }),
	}
	if change != nil {
		change(&b.cfg)
	}
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
	if own, err := b.engine.List(context.Background(), LabelMachine, b.cfg.Machine); err != nil || len(own) != 0 {
		t.Errorf("containers remain: %+v %v", own, err)
	}
	if m, err := docker.Mounted(b.dir); err != nil || len(m) != 0 {
		t.Errorf("mounts remain: %v %v", m, err)
	}
	if entries, err := os.ReadDir(b.cfg.Dir); err != nil || len(entries) != 0 {
		t.Errorf("files remain: %v %v", entries, err)
	}
	if ledger, err := b.cfg.Ledger.Ledger(context.Background(), b.ledgerNow()); err != nil || len(ledger) != 0 {
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

// untilLetGo is a script that ends when letGo says so.
const untilLetGo = "while [ ! -e /in/go ]; do /busybox usleep 20000; done; "

// letGo tells a job's script that it may end.
func (b *box) letGo(t testing.TB, task string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.cfg.Dir, task+".1", "in", "go"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
}

// long gives a job a time limit that no slow machine reaches.
func long(s *basilica.TaskSpec) { s.TimeoutSeconds = 600 }

// runsNow waits until an attempt's container runs.
func (b *box) runsNow(t testing.TB, task string) basilica.Attempt {
	t.Helper()
	var a basilica.Attempt
	waitFor(t, func() bool {
		var err error
		a, err = b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: basilica.TaskID(task), Attempt: 1})
		return err == nil && a.State == basilica.TaskRunning
	})
	return a
}
