package executor

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"basilica"
	"basilica/hardware"
	"basilica/keys"
)

// doubtful is the engine with trouble that a test turns on.
type doubtful struct {
	Engine
	away  atomic.Bool  // it does not answer
	fails atomic.Int32 // so many calls go unanswered, after they were carried out
	stuck atomic.Bool  // nothing can be killed
	lost  atomic.Bool  // the containers' control groups forbid the GPU
	login atomic.Pointer[basilica.RegistryLogin]
	asked atomic.Pointer[time.Time] // when somebody first asked it to end what is stuck
}

var errAway = basilica.E(basilica.Unavailable, "DOCKER_ABSENT", "the container engine does not answer", "start it")

func (d *doubtful) trouble() error {
	if d.away.Load() {
		return errAway
	}
	return nil
}

// answer swallows the engine's answer.
func (d *doubtful) answer(err error) error {
	if d.fails.Add(-1) >= 0 {
		return errAway
	}
	return err
}

func (d *doubtful) Available(ctx context.Context) (string, string, error) {
	if err := d.trouble(); err != nil {
		return "", "", err
	}
	return d.Engine.Available(ctx)
}

func (d *doubtful) EnsureImage(ctx context.Context, ref string, login *basilica.RegistryLogin, arrives func(string) (string, error)) (string, error) {
	d.login.Store(login)
	if err := d.trouble(); err != nil {
		return "", err
	}
	return d.Engine.EnsureImage(ctx, ref, nil, arrives)
}

func (d *doubtful) Create(ctx context.Context, spec basilica.ContainerSpec) (string, error) {
	if err := d.trouble(); err != nil {
		return "", err
	}
	spec.GPUs = nil // there is no such device here
	id, err := d.Engine.Create(ctx, spec)
	return id, d.answer(err)
}

func (d *doubtful) Start(ctx context.Context, id string) (func(context.Context) (basilica.ContainerEnd, error), error) {
	if err := d.trouble(); err != nil {
		return nil, err
	}
	wait, err := d.Engine.Start(ctx, id)
	if aerr := d.answer(err); aerr != nil && err == nil {
		_ = release(ctx, wait)
		return nil, aerr
	}
	return func(ctx context.Context) (basilica.ContainerEnd, error) {
		if d.stuck.Load() {
			<-ctx.Done()
			_ = release(context.Background(), wait)
			return basilica.ContainerEnd{}, ctx.Err()
		}
		return wait(ctx)
	}, err
}

func (d *doubtful) Stop(ctx context.Context, id string, grace time.Duration) error {
	if d.stuck.Load() {
		now := time.Now()
		d.asked.CompareAndSwap(nil, &now)
		return errors.New("tried to kill container, but did not receive an exit event")
	}
	return d.Engine.Stop(ctx, id, grace)
}

func (d *doubtful) Remove(ctx context.Context, id string) error {
	if d.stuck.Load() {
		return errors.New("could not kill")
	}
	return d.Engine.Remove(ctx, id)
}

func (d *doubtful) LostDevices(ctx context.Context, id string) ([]string, error) {
	if d.lost.Load() {
		return []string{"/dev/nvidia0"}, nil
	}
	return d.Engine.LostDevices(ctx, id)
}

func troubled(t *testing.T, change func(*Config)) (*box, *doubtful) {
	t.Helper()
	var engine *doubtful
	b := newBox(t, func(c *Config) {
		engine = &doubtful{Engine: c.Engine}
		c.Engine = engine
		if change != nil {
			change(c)
		}
	})
	return b, engine
}

// The engine is away when a task comes, and its answers get lost: the attempt waits, Health says why, and it runs once.
func TestEngineAwayForAWhile(t *testing.T) {
	t.Parallel()
	b, engine := troubled(t, nil)
	waitFor(t, func() bool { // the first heartbeat has asked the engine; the next ones repeat its answer
		b.miner.mu.Lock()
		defer b.miner.mu.Unlock()
		return b.miner.beats > 0
	})
	engine.away.Store(true)
	if _, err := b.execute("waits", b.spec(nil, "echo once")); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.Executor.engine = engineState{}
	b.mu.Unlock()
	if h, err := b.Health(t.Context()); err != nil || h.OK || h.Reasons[0].Code != "DOCKER_ABSENT" || h.Reasons[0].Fix == "" || h.Tasks != 1 {
		t.Errorf("health %+v %v", h, err)
	}
	engine.fails.Store(2) // a create and a start that nobody hears of
	engine.away.Store(false)
	if _, log, last := b.watch(t, "waits", 0); last.State != basilica.TaskSucceeded || log != "once\n" {
		t.Errorf("%s %+v, log %q", last.State, last.Reason, log)
	}
	if left := engine.fails.Load(); left > 0 {
		t.Errorf("%d answers did not get lost", left)
	}
	b.leavesNothing(t)
}

// lateAnswer is an engine that answers the first question last.
type lateAnswer struct {
	Engine
	asked  atomic.Int32
	first  chan struct{} // closed when it is asked
	answer chan struct{}
}

func (l *lateAnswer) Available(context.Context) (string, string, error) {
	if l.asked.Add(1) > 1 {
		return "", "", errAway
	}
	close(l.first)
	<-l.answer
	return "docker", "1", nil
}

func (l *lateAnswer) Room(context.Context, int64) error { return nil }

func TestAnOldAnswerReplacesNoNewerOne(t *testing.T) {
	t.Parallel()
	engine := &lateAnswer{first: make(chan struct{}), answer: make(chan struct{})}
	e := &Executor{cfg: Config{Engine: engine, Now: time.Now}}
	done := make(chan struct{})
	go func() { defer close(done); e.engineNow(t.Context()) }()
	<-engine.first
	e.engineNow(t.Context())
	close(engine.answer)
	<-done
	if s := e.engineNow(t.Context()); basilica.CodeOf(s.err) != "DOCKER_ABSENT" || engine.asked.Load() != 2 {
		t.Errorf("after %d questions the engine is said to be %+v", engine.asked.Load(), s)
	}
}

// savedRunning says when an attempt's start goes on record.
type savedRunning struct {
	Attempts
	saved func()
}

func (s savedRunning) SaveAttempt(ctx context.Context, a basilica.Attempt) error {
	if a.State == basilica.TaskRunning {
		s.saved()
	}
	return s.Attempts.SaveAttempt(ctx, a)
}

// Case A4-6: a container that cannot be killed. The task is lost once its time is over, and not paid beyond it; its GPU is
// in quarantine beyond the lease, over a restart, until the machine restarts; the other GPU serves.
func TestCaseA4_6Unkillable(t *testing.T) {
	t.Parallel()
	var stalls atomic.Bool // right after a look at the clock, until the start is on record
	stalls.Store(true)
	b, engine := troubled(t, func(c *Config) {
		c.Uptime = func() time.Duration {
			up := hardware.Uptime()
			if stalls.Load() {
				time.Sleep(200 * time.Millisecond)
			}
			return up
		}
		c.Attempts = savedRunning{c.Attempts, func() { stalls.Store(false) }}
	})
	b.Executor.stopWait = 50 * time.Millisecond
	one := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware, s.TimeoutSeconds = 1, true, 1 }
	engine.stuck.Store(true)
	h, err := b.execute("asleep", b.spec(one, "/busybox sleep 300"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, last := b.watch(t, "asleep", 0)
	if last.State != basilica.TaskLost || last.Reason.Code != "UNKILLABLE" || last.ExitCode != nil {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
	signed, err := last.Receipt.Countersign(b.hotkey)
	if err != nil {
		t.Fatal(err)
	}
	if r, _, err := signed.Open(); err != nil || r.Ended.Sub(r.Started) < 900*time.Millisecond || r.Ended.After(*engine.asked.Load()) {
		t.Errorf("paid for %s, until %s; asked to end at %s: %v", r.Ended.Sub(r.Started), r.Ended, engine.asked.Load(), err)
	}
	quarantined := func(when string) {
		t.Helper()
		l, err := b.cfg.Ledger.Ledger(t.Context(), b.ledgerNow().Add(time.Hour))
		if err != nil || len(l) != 1 || l[0].Kind != basilica.HolderQuarantine || l[0].Fence != h.Fence || len(l[0].GPUs) != 1 {
			t.Errorf("%s: ledger %+v %v", when, l, err)
		}
		var held *basilica.Held
		if err := b.Attest(t.Context(), Visit{Grant: "g"}); !errors.As(err, &held) || held.Holding.Kind != basilica.HolderQuarantine {
			t.Errorf("%s: a challenge on it: %v", when, err)
		}
	}
	quarantined("at first")
	b.retryStuck(t.Context())
	quarantined("tried again")
	b.stop()
	b.start(t)
	quarantined("after a restart")
	engine.stuck.Store(false)
	if _, err := b.execute("other", b.spec(one, "true")); err != nil {
		t.Errorf("the other GPU: %v", err)
	}
	b.watch(t, "other", 0)
	engine.stuck.Store(true)
	b.stop()
	b.cfg.Boot = "boot-2"
	b.start(t)
	if l, err := b.cfg.Ledger.Ledger(t.Context(), b.ledgerNow()); err != nil || len(l) != 0 {
		t.Errorf("after a reboot: %+v %v", l, err)
	}
	engine.stuck.Store(false)
	b.tidy(t.Context())
}

// Case A4-5: a card that disappears inside a running container ends its task, by no fault of the task or of the box.
func TestCaseA4_5GPUAccessLost(t *testing.T) {
	t.Parallel()
	b, engine := troubled(t, func(c *Config) { c.GPUs = []basilica.GPU{{Kind: basilica.GPUWhole, UUID: "gpu-a"}} })
	b.Executor.devicesEvery = 20 * time.Millisecond
	if _, err := b.execute("job", b.spec(func(s *basilica.TaskSpec) { s.GPUs = 1 }, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	b.runsNow(t, "job")
	engine.lost.Store(true)
	if _, _, last := b.watch(t, "job", 0); last.State != basilica.TaskLost || last.Reason.Code != "GPU_ACCESS_LOST" || last.Reason.Fix == "" {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
	if h, err := b.Health(t.Context()); err != nil || !h.OK || len(h.Ledger) != 0 {
		t.Errorf("the box is blamed: %+v %v", h, err)
	}
}

// locked is a database that another program keeps locked for a while.
type locked struct {
	Attempts
	saves atomic.Int32
}

func (l *locked) SaveAttempt(ctx context.Context, a basilica.Attempt) error {
	if l.saves.Add(1)%2 == 1 {
		return basilica.E(basilica.Unavailable, "DATABASE_LOCKED", "the database stayed locked", "find the other program")
	}
	return l.Attempts.SaveAttempt(ctx, a)
}

// full is a disk on which every other write fails.
type full struct {
	Logs
	writes atomic.Int32
}

func (f *full) Append(name basilica.TaskID, c basilica.LogChunk) error {
	if f.writes.Add(1)%2 == 1 {
		return fmt.Errorf("write task log: %w", syscall.ENOSPC)
	}
	return f.Logs.Append(name, c)
}

func TestLockedDatabaseAndFullDiskPass(t *testing.T) {
	t.Parallel()
	var free atomic.Int64
	free.Store(1 << 40)
	b := newBox(t, func(c *Config) {
		c.Attempts, c.Logs = &locked{Attempts: c.Attempts}, &full{Logs: c.Logs}
		c.MinFreeDisk, c.FreeDisk = 1<<30, func() (int64, error) { return free.Load(), nil }
	})
	if _, err := b.execute("job", b.spec(nil, "echo a; echo x > /out/x")); err != nil {
		t.Fatal(err)
	}
	if _, log, last := b.watch(t, "job", 0); last.State != basilica.TaskSucceeded || log != "a\n" || len(last.Outputs) != 1 {
		t.Errorf("%s %+v, log %q", last.State, last.Reason, log)
	}
	free.Store(1<<30 + 5)
	if err := b.PutBlob(t.Context(), basilica.Blob{Size: 6}, strings.NewReader("123456")); basilica.CodeOf(err) != "DISK_FULL" || basilica.FixOf(err) == "" {
		t.Errorf("a blob below the floor: %v", err)
	}
	if _, err := b.execute("over", b.spec(nil, "true")); basilica.CodeOf(err) != "DISK_FULL" || basilica.KindOf(err) != basilica.Exhausted {
		t.Errorf("a task below the floor: %v", err)
	}
	if _, err := b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: "over", Attempt: 1}); basilica.CodeOf(err) != "ATTEMPT_UNKNOWN" {
		t.Errorf("a refused task left a trace: %v", err)
	}
	free.Store(1 << 29)
	if h, err := b.Health(t.Context()); err != nil || h.OK || h.Reasons[0].Code != "DISK_FULL" {
		t.Errorf("health %+v %v", h, err)
	}
}

// An image that comes as a blob runs by its content address, and goes when no attempt names it.
// TestImageThatWasHereStays: a job that brings a file of an image which the machine's owner has does not take it along.
func TestImageThatWasHereStays(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	file := string(imageFile(t, busybox(t)))
	id, err := b.engine.LoadImage(t.Context(), strings.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.engine.RemoveImage(context.Background(), id) })
	b.put(t, "image", file)
	spec := func(s *basilica.TaskSpec) {
		s.Image = basilica.ImageBlobPrefix + basilica.Digest(sha256.Sum256([]byte(file))).String()
	}
	if _, err := b.execute("job", b.spec(spec, "echo hello")); err != nil {
		t.Fatal(err)
	}
	if _, log, last := b.watch(t, "job", 0); last.State != basilica.TaskSucceeded || log != "hello\n" {
		t.Errorf("%s %+v, log %q", last.State, last.Reason, log)
	}
	b.tidy(t.Context())
	if _, err := b.engine.EnsureImage(t.Context(), id, nil, nil); err != nil {
		t.Errorf("the owner's image is gone: %v", err)
	}
	if err := b.Release(t.Context(), "job", 1); err != nil {
		t.Error(err)
	}
}

func TestImageFromABlob(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.KeepTasks = true })
	file := string(imageFile(t, busybox(t)))
	spec := func(s *basilica.TaskSpec) {
		s.Image = basilica.ImageBlobPrefix + basilica.Digest(sha256.Sum256([]byte(file))).String()
	}
	if _, err := b.execute("early", b.spec(spec, "true")); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
		t.Errorf("before the blob is here: %v", err)
	}
	f := b.put(t, "image", file)
	if _, err := b.execute("job", b.spec(spec, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	a := b.runsNow(t, "job")
	b.tidy(t.Context())
	b.stop()
	b.start(t)
	if _, err := b.execute("again", b.spec(spec, "echo hello")); err != nil {
		t.Fatal(err)
	}
	if _, log, last := b.watch(t, "again", 0); last.State != basilica.TaskSucceeded || log != "hello\n" {
		t.Errorf("%s %+v, log %q", last.State, last.Reason, log)
	}
	if err := b.Cancel(t.Context(), "job", 1); err != nil {
		t.Fatal(err)
	}
	b.watch(t, "job", 0)
	b.tidy(t.Context())
	if _, err := b.engine.EnsureImage(t.Context(), a.ImageID, nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
		t.Errorf("the image remains: %v", err)
	}
	if loaded, err := b.cfg.Marks.LoadedImages(t.Context()); err != nil || len(loaded) != 0 {
		t.Errorf("marks %v %v", loaded, err)
	}
	for _, task := range []basilica.TaskID{"job", "again"} {
		if err := b.Release(t.Context(), task, 1); err != nil {
			t.Error(err)
		}
	}
	if err := b.GetBlob(t.Context(), f.SHA256, &writer{}); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
		t.Errorf("the blob of released attempts: %v", err)
	}
	if _, err := b.execute("bad", b.spec(func(s *basilica.TaskSpec) {
		s.Image = basilica.ImageBlobPrefix + b.put(t, "bad", "no tar").SHA256.String()
	}, "true")); err != nil {
		t.Fatal(err)
	}
	if _, _, last := b.watch(t, "bad", 0); last.State != basilica.TaskFailed || last.Reason.Code != "IMAGE_FILE" {
		t.Errorf("a file that is no image: %s %+v", last.State, last.Reason)
	}
	b.tidy(t.Context())
}

// Credentials of a registry are opened for the pull alone, by the machine that they are sealed to.
func TestRegistryLogin(t *testing.T) {
	t.Parallel()
	b, engine := troubled(t, nil)
	secret, err := json.Marshal(basilica.RegistryLogin{Server: "reg.example", Username: "u", Password: "hunter22"})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := keys.SealP256(b.key.SPKI(), basilica.RegistryInfo, secret)
	if err != nil {
		t.Fatal(err)
	}
	with := func(m map[basilica.ExecutorID][]byte) func(*basilica.TaskSpec) {
		return func(s *basilica.TaskSpec) { s.Registry = &basilica.RegistryAuth{Sealed: m} }
	}
	for name, m := range map[string]map[basilica.ExecutorID][]byte{"others": {"box-2": sealed}, "foreign": {"box-1": sealed[:len(sealed)-1]}} {
		if _, err := b.execute("r", b.spec(with(m), "true")); basilica.CodeOf(err) != "REGISTRY_SEALED" || basilica.FixOf(err) == "" || strings.Contains(fmt.Sprint(err), "hunter22") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.execute("r", b.spec(with(map[basilica.ExecutorID][]byte{"box-1": sealed, "box-2": nil}), "true")); err != nil {
		t.Fatal(err)
	}
	if _, _, last := b.watch(t, "r", 0); last.State != basilica.TaskSucceeded {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
	if l := engine.login.Load(); l == nil || l.Password != "hunter22" || l.Server != "reg.example" {
		t.Errorf("login %v", l)
	}
}

// goneAtEnd is content whose sender is gone when the last byte is in.
type goneAtEnd struct {
	io.Reader
	leave context.CancelFunc
}

func (g goneAtEnd) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if err != nil {
		g.leave()
	}
	return n, err
}

// TestContentOfASenderThatIsGoneIsOnRecord: content without a record is found by nobody before the next start.
func TestContentOfASenderThatIsGoneIsOnRecord(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	content := "of somebody who is gone " + t.Name()
	blob := basilica.Blob{SHA256: sha256.Sum256([]byte(content)), Size: int64(len(content))}
	ctx, leave := context.WithCancel(t.Context())
	if err := b.PutBlob(ctx, blob, goneAtEnd{strings.NewReader(content), leave}); err != nil {
		t.Fatal(err)
	}
	unknown, err := b.cfg.Attempts.UnknownBlobs(t.Context(), []basilica.Digest{blob.SHA256})
	if err != nil || len(unknown) != 0 {
		t.Errorf("without a record: %v, %v", unknown, err)
	}
}
