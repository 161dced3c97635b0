package executor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

func TestEnds(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.MaxContainers = 20 })
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, c := range map[string]struct {
		script string
		change func(*basilica.TaskSpec)
		state  basilica.TaskState
		code   string
	}{
		"exit":    {"exit 3", nil, basilica.TaskFailed, "EXIT_CODE"},
		"memory":  {"/busybox tail /dev/zero", nil, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"child":   {"/busybox tail /dev/zero; exit 0", nil, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"killed":  {"kill -9 $$", nil, basilica.TaskFailed, "KILLED"},
		"timeout": {"/busybox sleep 60", func(s *basilica.TaskSpec) { s.TimeoutSeconds = 1 }, basilica.TaskTimedOut, "TIMED_OUT"},
		"image":   {"", func(s *basilica.TaskSpec) { s.Image = "no-such-image:1" }, basilica.TaskFailed, "IMAGE_NOT_FOUND"},
		"command": {"", func(s *basilica.TaskSpec) { s.Command = []string{"/none"} }, basilica.TaskFailed, "EXIT_CODE"},
		"link":    {"/busybox ln -s /etc/shadow /out/x", nil, basilica.TaskFailed, "OUTPUT_LINK"},
		"dirlink": {"/busybox ln -s / /out/x", nil, basilica.TaskFailed, "OUTPUT_LINK"},
		"pipe":    {"/busybox mkfifo /out/x", nil, basilica.TaskFailed, "OUTPUT_SPECIAL"},
		"case":    {"echo > /out/a; echo > /out/A", nil, basilica.TaskFailed, "OUTPUT_TWICE"},
		"holes":   {"/busybox truncate -s 1073741824 /out/x", nil, basilica.TaskFailed, "OUTPUT_SIZE"},
		"deep":    {"p=/out; for i in $(/busybox seq 20); do p=$p/d; done; /busybox mkdir -p $p", nil, basilica.TaskFailed, "OUTPUT_COUNT"},
		"many":    {"for i in $(/busybox seq 300); do echo > /out/f$i; done", nil, basilica.TaskFailed, "OUTPUT_COUNT"},
		"full":    {"/busybox dd if=/dev/zero of=/out/x bs=64k count=64 || exit 9", nil, basilica.TaskFailed, "OUTPUT_FULL"},
	} {
		if _, err := b.execute(name, b.spec(c.change, c.script)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wg.Go(func() {
			_, log, last := b.watch(t, name, 0)
			if name == "image" && (last.Reason == nil || last.Reason.Fix == "") {
				t.Errorf("%s: nobody says what to do: %+v", name, last.Reason)
			}
			if last.State != c.state || last.Reason == nil || last.Reason.Code != c.code || last.Receipt == nil || len(last.Outputs) != 0 && name != "full" {
				t.Errorf("%s: %s %+v, want %s %s; log %q", name, last.State, last.Reason, c.state, c.code, log)
			}
		})
	}
}

func TestConclude(t *testing.T) {
	end := func(code int, killed bool) *basilica.ContainerEnd {
		return &basilica.ContainerEnd{ExitCode: code, MemoryKilled: killed}
	}
	coded := basilica.E(basilica.NotFound, "IMAGE_NOT_FOUND", "no", "")
	gone := &basilica.Reason{Code: "CONTAINER_REMOVED"}
	for name, c := range map[string]struct {
		cause error
		run   run
		state basilica.TaskState
		code  string
	}{
		"success":                     {nil, run{end: end(0, false)}, basilica.TaskSucceeded, ""},
		"a child killed, job went on": {nil, run{end: end(0, true)}, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"137 is no proof":             {nil, run{end: end(137, false)}, basilica.TaskFailed, "KILLED"},
		"memory":                      {nil, run{end: end(137, true)}, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"memory, own code":            {nil, run{end: end(1, true)}, basilica.TaskFailed, "OUT_OF_MEMORY"},
		"code":                        {nil, run{end: end(3, false)}, basilica.TaskFailed, "EXIT_CODE"},
		"unwitnessed":                 {nil, run{}, basilica.TaskLost, "UNWITNESSED"},
		"coded failure":               {nil, run{err: coded}, basilica.TaskFailed, "IMAGE_NOT_FOUND"},
		"own fault":                   {nil, run{err: errors.New("secret")}, basilica.TaskFailed, "EXECUTOR_FAULT"},
		"full disk":                   {nil, run{end: end(0, false), err: fmt.Errorf("write: %w", syscall.ENOSPC)}, basilica.TaskFailed, "DISK_FULL"},
		"full disk, nothing ran":      {nil, run{err: fmt.Errorf("write: %w", syscall.ENOSPC)}, basilica.TaskLost, "DISK_FULL"},
		"the engine's disk":           {nil, run{err: basilica.E(basilica.Unavailable, "STORE_DISK", "fails", "look")}, basilica.TaskLost, "STORE_DISK"},
		"gone":                        {nil, run{lost: gone}, basilica.TaskLost, "CONTAINER_REMOVED"},
		"gone with a code":            {nil, run{end: end(0, false), lost: gone}, basilica.TaskLost, "CONTAINER_REMOVED"},
		"cancelled":                   {errCancelled, run{end: end(143, false), stopped: true}, basilica.TaskCancelled, "CANCELLED"},
		"cancelled by kill":           {errCancelled, run{end: end(137, false), stopped: true}, basilica.TaskCancelled, "CANCELLED"},
		"timed out":                   {errTimedOut, run{end: end(137, false), stopped: true}, basilica.TaskTimedOut, "TIMED_OUT"},
		"unkillable":                  {errTimedOut, run{stopped: true, err: errors.New("no exit event")}, basilica.TaskLost, "UNKILLABLE"},
		"lease":                       {errLeaseEnded, run{}, basilica.TaskLost, "LEASE_ENDED"},
		"GPU":                         {errGPULost, run{end: end(1, false), stopped: true}, basilica.TaskLost, "GPU_ACCESS_LOST"},
		"shutdown":                    {errShutdown, run{err: context.Canceled}, basilica.TaskLost, "EXECUTOR_STOPPED"},
	} {
		state, reason := conclude(c.cause, &c.run)
		if state != c.state || reason.Code != c.code || strings.Contains(reason.Sentence, "secret") || c.code != "" && c.code != "CANCELLED" && c.code != "EXIT_CODE" && c.run.lost == nil && !errors.Is(c.run.err, coded) && c.code != "EXECUTOR_FAULT" && reason.Fix == "" {
			t.Errorf("%s: %s %+v, want %s %s", name, state, reason, c.state, c.code)
		}
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

// unanswering is the engine, but it takes long over the removal of one container, and then refuses it.
type unanswering struct {
	Engine
	held          atomic.Pointer[string]
	asked, answer chan struct{}
}

func (u *unanswering) Remove(ctx context.Context, id string) error {
	if held := u.held.Load(); held == nil || *held != id {
		return u.Engine.Remove(ctx, id)
	}
	select {
	case u.asked <- struct{}{}:
	case <-u.answer:
	}
	<-u.answer
	return errors.New("did not receive an exit event")
}

// A removal that takes long is on show all the while, and holds up no lease.
func TestRemovalThatTakesLong(t *testing.T) {
	t.Parallel()
	var c clocks
	engine := &unanswering{asked: make(chan struct{}), answer: make(chan struct{})}
	b := newBox(t, func(cfg *Config) {
		c.use(cfg)
		engine.Engine, cfg.Engine = cfg.Engine, engine
	})
	t.Cleanup(func() { engine.held.Store(nil); close(engine.answer) })
	for _, name := range []string{"sticky", "left"} {
		if _, err := b.execute(name, b.spec(long, "/busybox sleep 60")); err != nil {
			t.Fatal(err)
		}
	}
	sticky := b.runsNow(t, "sticky")
	b.runsNow(t, "left")
	engine.held.Store(&sticky.Container)
	if err := b.Cancel(t.Context(), "sticky", 1); err != nil {
		t.Fatal(err)
	}
	<-engine.asked
	engine.answer <- struct{}{}
	b.watch(t, "sticky", 0)
	<-engine.asked // it is tried again
	if h, err := b.Health(t.Context()); err != nil || h.OK || len(h.Reasons) != 1 || h.Reasons[0].Code != "CLEANUP" {
		t.Errorf("health while it is tried again: %+v %v", h, err)
	}
	c.pass(2 * time.Minute)
	if _, _, last := b.watch(t, "left", 0); last.State != basilica.TaskLost || last.Reason.Code != "LEASE_ENDED" {
		t.Errorf("a task without a miner: %s %+v", last.State, last.Reason)
	}
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
	h, err := b.Health(t.Context())
	if err != nil || h.OK || len(h.Reasons) != 1 {
		t.Fatalf("health %+v %v", h, err)
	}
	provoke.Reason(t, h.Reasons[0], "CLEANUP")
	engine.refuses.Store(false)
	b.retryStuck(t.Context())
	b.leavesNothing(t)

	// One GPU in quarantine does not take the other along.
	engine.refuses.Store(true)
	one := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 1, true }
	if _, err := b.execute("one", b.spec(one, "true")); err != nil {
		t.Fatal(err)
	}
	b.watch(t, "one", 0)
	if h, err = b.Health(t.Context()); err != nil || !h.OK || len(h.Reasons) != 1 || h.Reasons[0].Code != "CLEANUP" {
		t.Errorf("health with one of two GPUs in quarantine: %+v %v", h, err)
	}
	engine.refuses.Store(false)
	b.retryStuck(t.Context())
	b.leavesNothing(t)
}
