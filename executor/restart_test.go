package executor

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/hardware"
)

// clocks are a machine's two clocks, which a test moves.
type clocks struct {
	mu           sync.Mutex
	passed, step time.Duration
}

// pass lets time go by; set moves the wall clock alone, as who sets it does.
func (c *clocks) pass(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.passed += d }
func (c *clocks) set(d time.Duration)  { c.mu.Lock(); defer c.mu.Unlock(); c.step += d }

func (c *clocks) use(cfg *Config) {
	cfg.Now = func() time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.step == 0 {
			return time.Now().Add(c.passed)
		}
		return time.Now().Add(c.passed + c.step).Round(0) // a clock that was set has no monotonic past
	}
	cfg.Uptime = func() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return hardware.Uptime() + c.passed }
}

// renewed waits until the leases of tasks are long.
func (b *box) renewed(t testing.TB, tasks ...string) {
	t.Helper()
	waitFor(t, func() bool {
		h, err := b.Health(t.Context())
		return err == nil && !slices.ContainsFunc(tasks, func(task string) bool {
			return !slices.ContainsFunc(h.Ledger, func(h basilica.Holding) bool {
				return h.Holder == task && h.Expires.Sub(b.cfg.Now()) > 30*time.Minute
			})
		})
	})
}

func TestLeaseEndsAndIsRenewed(t *testing.T) {
	t.Parallel()
	var c clocks
	b := newBox(t, c.use)
	if _, err := b.execute("kept", b.spec(long, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) {
		r.Lease, r.Renew = time.Hour, []basilica.TaskAttempt{{Task: "kept", Attempt: 1}}
	})
	b.renewed(t, "kept")
	if _, err := b.execute("left", b.spec(long, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	b.runsNow(t, "kept")
	c.pass(2 * time.Minute)
	if _, _, last := b.watch(t, "left", 0); last.State != basilica.TaskLost || last.Reason.Code != "LEASE_ENDED" {
		t.Errorf("task without a miner: %s %+v", last.State, last.Reason)
	}
	if h, err := b.Health(t.Context()); err != nil || h.Tasks != 1 {
		t.Errorf("health %+v %v", h, err)
	}
	waitFor(t, func() bool { d, ok := b.Clock(); return ok && d > time.Minute })
}

// A clock that is set back by a quarter of an hour holds no lease longer, one that is set ahead ends none, and neither does
// a restart in between.
func TestClockStepsMoveNoLease(t *testing.T) {
	t.Parallel()
	var c clocks
	b := newBox(t, func(cfg *Config) { c.use(cfg); cfg.KeepTasks = true })
	for _, name := range []string{"one", "two"} {
		h, err := b.execute(name, b.spec(long, "/busybox sleep 60"))
		if err != nil {
			t.Fatal(err)
		}
		if left := h.Expires.Sub(b.cfg.Now()); left < 50*time.Second || left > time.Minute {
			t.Errorf("a lease of a minute ends in %s", left)
		}
		b.runsNow(t, name)
		if name == "two" {
			continue
		}
		c.set(15 * time.Minute)
		b.stop()
		b.start(t)
		c.set(15 * time.Minute)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) {
		r.Lease, r.Renew = time.Hour, []basilica.TaskAttempt{{Task: "two", Attempt: 1}}
	})
	b.renewed(t, "two")
	b.endLeases(t.Context())
	if h, err := b.Health(t.Context()); err != nil || h.Tasks != 2 {
		t.Errorf("a clock set ahead ended leases: %+v %v", h, err)
	}
	c.set(-45 * time.Minute)
	c.pass(61 * time.Second)
	if _, _, last := b.watch(t, "one", 0); last.State != basilica.TaskLost || last.Reason.Code != "LEASE_ENDED" || last.At.Before(b.runsNow(t, "two").Accepted.Add(-time.Hour)) {
		t.Errorf("one: %s %+v", last.State, last.Reason)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) {
		r.Renew, r.Cancel = nil, []basilica.TaskAttempt{{Task: "two", Attempt: 1}}
	})
	b.watch(t, "two", 0)
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
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
}

func TestRevokedGrantsSurviveARestart(t *testing.T) {
	t.Parallel()
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
	b.stop()
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Revoked = nil })
	b.start(t)
	if !b.GrantRevoked("g") {
		t.Error("not revoked any more, before the first heartbeat")
	}
	if err := b.forgetRevoked(t.Context(), time.Now().Add(time.Hour)); err != nil || b.GrantRevoked("g") {
		t.Fatal(err)
	}
	if all, err := b.cfg.Marks.RevokedGrants(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
}

// talker says something on both streams until it is let go and leaves an output.
const talker = `i=0; while [ ! -e /in/go ]; do echo "out $i"; [ $((i%3)) = 0 ] && echo "err $i" >&2; /busybox usleep 40000; i=$((i+1)); done; printf end; echo done > /out/result`

// talked checks everything that a talker leaves.
func talked(t *testing.T, b *box, task string) {
	t.Helper()
	states, _, last := b.watch(t, task, 0)
	streams := map[basilica.LogStream]string{}
	err := b.Watch(t.Context(), basilica.TaskID(task), 1, 0, func(ev basilica.TaskEvent) error {
		if ev.Log != nil {
			streams[ev.Log.Stream] += string(ev.Log.Data)
		}
		return nil
	})
	var out, errs strings.Builder
	lines := strings.Count(streams[basilica.Stdout], "\n")
	for i := range lines {
		fmt.Fprintf(&out, "out %d\n", i)
		if i%3 == 0 {
			fmt.Fprintf(&errs, "err %d\n", i)
		}
	}
	out.WriteString("end")
	if err != nil || lines == 0 || streams[basilica.Stdout] != out.String() || streams[basilica.Stderr] != errs.String() {
		t.Errorf("%s: log %q %q, %v", task, streams[basilica.Stdout], streams[basilica.Stderr], err)
	}
	if last.State != basilica.TaskSucceeded || len(last.Outputs) != 1 || last.ExitCode == nil || *last.ExitCode != 0 || last.Receipt == nil {
		t.Fatalf("%s: %v, end %+v, reason %+v", task, states, last, last.Reason)
	}
	signed, err := last.Receipt.Countersign(b.hotkey)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := signed.Open()
	if err != nil || r.Stdout != sha256.Sum256([]byte(out.String())) || r.Stderr != sha256.Sum256([]byte(errs.String())) || r.LogBytes != int64(out.Len()+errs.Len()) || !r.Ended.After(r.Started) {
		t.Errorf("%s: receipt %+v %v", task, r, err)
	}
}

// TestMachineProcess is the machine of a directory as a process of its own, which TestKillMinusNine kills.
func TestMachineProcess(t *testing.T) {
	dir, image := os.Getenv("BASILICA_TEST_MACHINE"), os.Getenv("BASILICA_TEST_IMAGE")
	if dir == "" {
		return // not asked for by another test
	}
	b := openBox(t, dir, image, nil)
	b.start(t)
	defer b.stop()
	if _, err := b.execute("talks", b.spec(long, talker)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.execute("ends", b.spec(long, untilLetGo+"exit 3")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.execute("gone", b.spec(long, "/busybox sleep 300")); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, os.Stdin) // until the parent ends, if it does not kill this process
}

// A real process is killed by signal 9 while its containers talk, twice, and started again: the log has no gap, each task
// ends once, and nothing is left.
func TestKillMinusNine(t *testing.T) {
	t.Parallel()
	dir, image := t.TempDir(), loadImage(t, busybox(t))
	engine := testEngine(t)
	logged := func(more int64) func() bool {
		path := filepath.Join(dir, "logs", "talks.1.log")
		size := func() int64 {
			st, err := os.Stat(path)
			if err != nil {
				return 0
			}
			return st.Size()
		}
		before := size()
		return func() bool { return size() > before+more }
	}
	running := func() (n int) {
		own, err := engine.List(t.Context(), LabelMachine, machineLabel(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range own {
			if c.Running {
				n++
			}
		}
		return n
	}
	for range 2 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMachineProcess$")
		cmd.Env = append(os.Environ(), "BASILICA_TEST_MACHINE="+dir, "BASILICA_TEST_IMAGE="+image)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, logged(100))
		waitFor(t, func() bool { return running() == 3 })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	b := openBox(t, dir, image, nil)
	ended := func() (gone, all bool) {
		own, err := engine.List(t.Context(), LabelMachine, b.cfg.Machine)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range own {
			switch c.Labels[labelTask] {
			case "gone":
				if err := engine.Remove(t.Context(), c.ID); err != nil {
					t.Fatal(err)
				}
				gone = true
			case "ends":
				all = !c.Running
			}
		}
		return gone, all
	}
	if gone, _ := ended(); !gone {
		t.Error("a container did not outlive its executor")
	}
	began := time.Now()
	b.letGo(t, "ends")
	waitFor(t, func() bool { _, all := ended(); return all })
	away := time.Now()
	b.start(t)
	b.endsClean(t)
	b.letGo(t, "talks")
	talked(t, b, "talks")
	states, _, last := b.watch(t, "ends", 0)
	if last.State != basilica.TaskFailed || last.Reason.Code != "EXIT_CODE" || *last.ExitCode != 3 || last.At.After(away) || last.At.Before(began) {
		t.Errorf("a task that ended meanwhile: %v %+v, at %s", states, last.Reason, last.At)
	}
	if _, _, last := b.watch(t, "gone", 0); last.State != basilica.TaskLost || last.Reason.Code != "CONTAINER_REMOVED" || last.Receipt == nil {
		t.Errorf("a task whose container was removed: %s %+v", last.State, last.Reason)
	}
	b.leavesNothing(t)
}

// A restart that keeps tasks: what runs goes on, what was not begun begins, and the limit on its time counts from its start.
func TestKeptTasksGoOn(t *testing.T) {
	t.Parallel()
	var engine *doubtful
	var c clocks
	b := newBox(t, func(cfg *Config) {
		c.use(cfg)
		cfg.KeepTasks = true
		engine = &doubtful{Engine: cfg.Engine}
		cfg.Engine = engine
	})
	if _, err := b.execute("talks", b.spec(long, talker)); err != nil {
		t.Fatal(err)
	}
	a := b.runsNow(t, "talks")
	if _, err := b.execute("short", b.spec(func(s *basilica.TaskSpec) { s.TimeoutSeconds = 300 }, "/busybox sleep 300")); err != nil {
		t.Fatal(err)
	}
	short := b.runsNow(t, "short")
	engine.away.Store(true)
	if _, err := b.execute("waits", b.spec(long, "echo began")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		a, err := b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: "waits", Attempt: 1})
		return err == nil && a.State == basilica.TaskPulling
	})
	b.miner.says(func(r *basilica.HeartbeatReply) {
		r.Lease, r.Renew = time.Hour, []basilica.TaskAttempt{{Task: "talks", Attempt: 1}, {Task: "short", Attempt: 1}, {Task: "waits", Attempt: 1}}
	})
	b.renewed(t, "talks", "short", "waits")
	b.stop()
	engine.away.Store(false)
	c.pass(298 * time.Second)
	if st, err := b.engine.Inspect(t.Context(), a.Container); err != nil || !st.Running {
		t.Errorf("the container was not left alone: %+v %v", st, err)
	}
	if _, err := b.execute("late", b.spec(nil, "true")); basilica.CodeOf(err) != "NOT_RUNNING" {
		t.Errorf("a task after the end: %v", err)
	}
	b.start(t)
	if h, err := b.Health(t.Context()); err != nil || h.Tasks != 3 {
		t.Errorf("health %+v %v", h, err)
	}
	if _, _, last := b.watch(t, "short", 0); last.State != basilica.TaskTimedOut || last.At.Sub(short.Started) > 400*time.Second {
		t.Errorf("time limit over a restart: %s %+v after %s", last.State, last.Reason, last.At.Sub(short.Started))
	}
	if _, log, last := b.watch(t, "waits", 0); last.State != basilica.TaskSucceeded || log != "began\n" {
		t.Errorf("not begun before: %s %+v %q", last.State, last.Reason, log)
	}
	b.letGo(t, "talks")
	talked(t, b, "talks")
}
