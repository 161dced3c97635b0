package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"basilica"
)

// The engine's word on a container after a reboot: an end with code 0 or 255 is nobody's, what never started begins again.
func TestCaseA4_2RebootIsLost(t *testing.T) {
	type inspected struct {
		ID    string `json:"Id"`
		State struct {
			Running               bool
			ExitCode              int
			StartedAt, FinishedAt time.Time
		}
	}
	var c struct {
		Before string      `json:"boot_id_at_start"`
		Now    string      `json:"boot_id_now"`
		First  []inspected `json:"inspect"`
		Second []inspected `json:"second"`
		Third  []inspected `json:"third"`
	}
	text, err := os.ReadFile(filepath.Join("..", "docker", "testdata", "cases", "A4-2-reboot-exit0.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	state := func(in []inspected) *basilica.ContainerState {
		st := &basilica.ContainerState{ID: in[0].ID, Running: in[0].State.Running, End: basilica.ContainerEnd{ExitCode: in[0].State.ExitCode, At: in[0].State.FinishedAt}}
		if in[0].State.StartedAt.Year() > 1 {
			st.Started = in[0].State.StartedAt
		}
		return st
	}
	began := c.First[0].State.StartedAt
	ran := basilica.Attempt{State: basilica.TaskRunning, Container: c.First[0].ID, Boot: c.Before, Engine: "900.1", Started: began}
	made := basilica.Attempt{State: basilica.TaskPulling, Container: c.First[0].ID, Boot: c.Before, Engine: "900.1"}
	same, other := basilica.EngineProcess{ID: "900.1"}, basilica.EngineProcess{ID: "901.7"}
	keeps := basilica.EngineProcess{ID: "901.7", KeepsRestarts: true}
	runs := func() *basilica.ContainerState { s := state(c.First); s.Running = true; return s }
	removing := func() *basilica.ContainerState { s := state(c.First); s.Removing = true; return s }
	for name, x := range map[string]struct {
		a      basilica.Attempt
		found  *basilica.ContainerState
		boot   string
		engine basilica.EngineProcess
		want   string // the code of what is lost; "begin" and "goes on" for the others
	}{
		"rebooted, code 0":                          {ran, state(c.First), c.Now, other, "HOST_REBOOTED"},
		"rebooted, code 255":                        {ran, state(c.Third), c.Now, other, "HOST_REBOOTED"},
		"rebooted, live restore":                    {ran, state(c.First), c.Now, keeps, "HOST_REBOOTED"},
		"rebooted, never started":                   {made, state(c.Second), c.Now, other, "begin"},
		"rebooted, start not on record":             {made, state(c.First), c.Now, other, "HOST_REBOOTED"},
		"rebooted, container gone":                  {ran, nil, c.Now, other, "HOST_REBOOTED"},
		"no boot on record":                         {basilica.Attempt{Container: c.First[0].ID, Started: began}, state(c.First), c.Before, same, "HOST_REBOOTED"},
		"same boot, ended":                          {ran, state(c.First), c.Before, same, "goes on"},
		"same boot, runs":                           {ran, runs(), c.Before, same, "goes on"},
		"same boot, runs, start not on record":      {made, runs(), c.Before, same, "goes on"},
		"same boot, ended, start not on record":     {made, state(c.First), c.Before, same, "goes on"},
		"the same under another engine":             {made, state(c.First), c.Before, keeps, "UNWITNESSED"},
		"same boot, never started":                  {made, state(c.Second), c.Before, same, "begin"},
		"same boot, not made":                       {basilica.Attempt{State: basilica.TaskPulling}, nil, c.Before, same, "begin"},
		"made, not on record":                       {basilica.Attempt{State: basilica.TaskPulling}, state(c.Second), c.Before, same, "begin"},
		"ran, not on record":                        {basilica.Attempt{State: basilica.TaskPulling, Boot: c.Before}, runs(), c.Before, same, "UNWITNESSED"},
		"same boot, gone":                           {ran, nil, c.Before, same, "CONTAINER_REMOVED"},
		"same boot, going":                          {ran, removing(), c.Before, same, "CONTAINER_REMOVED"},
		"engine anew, ends containers":              {ran, state(c.First), c.Before, other, "ENGINE_RESTARTED"},
		"engine anew, keeps containers":             {ran, state(c.First), c.Before, keeps, "goes on"},
		"engine anew, keeps containers, not seen":   {ran, state(c.Third), c.Before, keeps, "ENGINE_RESTARTED"},
		"engine anew, keeps containers, still runs": {ran, runs(), c.Before, keeps, "goes on"},
		"engine unknown":                            {ran, state(c.First), c.Before, basilica.EngineProcess{}, "goes on"},
	} {
		f := judge(x.a, x.found, x.boot, x.engine)
		got := "goes on"
		if f.begin {
			got = "begin"
		}
		if f.lost != nil {
			if got = f.lost.Code; f.begin || f.lost.Fix == "" {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// leftBehind brings an attempt to a step and stops there, as a process does that is killed: the machine must not run.
func (b *box) leftBehind(t *testing.T, task string, spec []byte, steps ...string) basilica.Attempt {
	t.Helper()
	d, err := b.demandOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	a := basilica.Attempt{
		Task: basilica.TaskID(task), Number: 1, Client: "client", Spec: spec, State: basilica.TaskPlaced, Accepted: time.Now(),
		Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: task, Expires: b.ledgerNow().Add(time.Minute)},
	}
	if a.Holding, _, err = b.cfg.Attempts.Accept(t.Context(), a, nil, 99, b.ledgerNow()); err != nil {
		t.Fatal(err)
	}
	var in, out string
	var wait waitFunc
	for _, step := range steps {
		switch step {
		case "pulling":
			a.State, a.Pulling = basilica.TaskPulling, time.Now()
		case "dir":
			err = os.Mkdir(b.Executor.dir(a.Key()), 0o700)
		case "mount":
			in, out, err = b.prepare(a, d)
		case "create":
			made := a
			made.ImageID = b.image
			a.ImageID = b.image
			made.Container, err = b.engine.Create(t.Context(), b.container(made, d, in, out))
			defer func() { _ = made }()
			t.Cleanup(func() { b.engine.Remove(context.Background(), made.Container) })
			a.Container = made.Container
			continue // not on record
		case "record":
			p, perr := b.engine.Process(t.Context())
			a.Boot, a.Engine, err = b.cfg.Boot, p.ID, perr
		case "start":
			wait, err = b.engine.Start(t.Context(), a.Container)
			if err == nil {
				t.Cleanup(func() { _ = release(context.Background(), wait) })
			}
			continue
		case "running":
			a.State, a.Started = basilica.TaskRunning, time.Now()
		case "ended":
			if _, err = wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			code := 0
			a.State, a.Ended, a.ExitCode = basilica.TaskSucceeded, time.Now(), &code
		}
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		rec := a
		if rec.Boot == "" {
			rec.Container = ""
		}
		if err := b.cfg.Attempts.SaveAttempt(t.Context(), rec); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	return a
}

// Whatever step a process was killed at, the next one brings the attempt to its one end and leaves nothing.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.MaxContainers = 20 })
	b.stop()
	steps := []string{"pulling", "dir", "create", "record", "start", "running", "ended"}
	names := map[string][]string{
		"accepted": {}, "pulling": {"pulling"}, "dir": {"pulling", "dir"}, "mounted": {"pulling", "mount"}, "made": {"pulling", "mount", "create"},
		"recorded": {"pulling", "mount", "create", "record"}, "started": {"pulling", "mount", "create", "record", "start"},
		"ran": {"pulling", "mount", "create", "record", "start", "running"}, "told": {"pulling", "mount", "create", "record", "start", "running", "ended"},
	}
	if len(names) != len(steps)+2 {
		t.Fatal("a step is missing")
	}
	for name, at := range names {
		b.leftBehind(t, name, b.spec(nil, "echo "+name+"; echo x > /out/x"), at...)
	}
	// What belongs to no attempt: a check's container, a directory, a blob without a record, a challenge's holding.
	ghost := basilica.Attempt{Task: "check-ghost", Number: 1}
	if _, err := b.engine.Create(t.Context(), basilica.ContainerSpec{
		Name: "basilica-" + b.cfg.Machine + "-ghost", Image: b.image, Labels: b.labels(ghost), CPUMillis: 100, MemoryBytes: 16 << 20, Pids: 8, LogBytes: 4 << 10,
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.Executor.dir(ghost.Key()), 0o700); err != nil {
		t.Fatal(err)
	}
	stray := b.put(t, "stray", "never recorded")
	if _, err := b.cfg.Attempts.ForgetBlobs(t.Context(), time.Now().Add(time.Hour)); err != nil { // the record goes, the file stays
		t.Fatal(err)
	}
	if _, err := b.cfg.Ledger.Hold(t.Context(), basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g", GPUs: []string{"gpu-b"}, Expires: b.ledgerNow().Add(time.Minute)}, b.ledgerNow()); err != nil {
		t.Fatal(err)
	}
	b.start(t)
	if _, _, err := b.cfg.Blobs.Open(stray.SHA256); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
		t.Errorf("a blob without a record: %v", err)
	}
	for name := range names {
		_, log, last := b.watch(t, name, 0)
		if last.State != basilica.TaskSucceeded || last.ExitCode == nil || name != "told" && (log != name+"\n" || len(last.Outputs) != 1 || last.Receipt == nil) {
			t.Errorf("%s: %s %+v, log %q, outputs %v", name, last.State, last.Reason, log, last.Outputs)
		}
	}
	b.leavesNothing(t)
}

// A process that asked for a container's end and died right after says by whom it was killed.
func TestCaseA4_1bKilledByAnEarlierProcess(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.MaxContainers = 20 })
	b.stop()
	for name, c := range map[string]struct {
		cause error // on record
		kill  bool  // it came to pass
		state basilica.TaskState
		code  string
	}{
		"cancel":         {errCancelled, true, basilica.TaskCancelled, "CANCELLED"},
		"cancel-asked":   {errCancelled, false, basilica.TaskCancelled, "CANCELLED"},
		"deadline":       {errTimedOut, true, basilica.TaskTimedOut, "TIMED_OUT"},
		"lease":          {errLeaseEnded, true, basilica.TaskLost, "LEASE_ENDED"},
		"shutdown":       {errShutdown, true, basilica.TaskLost, "EXECUTOR_STOPPED"},
		"shutdown-asked": {errShutdown, false, basilica.TaskSucceeded, ""},
		"unknown":        {nil, true, basilica.TaskFailed, "KILLED"},
	} {
		seconds := 60
		if c.state == basilica.TaskSucceeded {
			seconds = 2
		}
		a := b.leftBehind(t, name, b.spec(long, fmt.Sprintf("/busybox sleep %d; echo x > /out/x", seconds)), "pulling", "mount", "create", "record", "start", "running")
		if c.cause != nil {
			a.Stopping = c.cause.Error()
			if err := b.cfg.Attempts.SaveAttempt(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		if c.kill {
			if err := b.engine.Stop(t.Context(), a.Container, 0); err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			_, _, last := b.watch(t, name, 0)
			code := ""
			if last.Reason != nil {
				code = last.Reason.Code
			}
			if last.State != c.state || code != c.code || last.Receipt == nil || (len(last.Outputs) == 1) != (c.state == basilica.TaskSucceeded) {
				t.Errorf("%s: %s %s, want %s %s", name, last.State, code, c.state, c.code)
			}
		}()
	}
	b.start(t)
}

// After a reboot what ran is lost, and its GPU is free again.
func TestRebootUnderATask(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.KeepTasks = true })
	one := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 1, true }
	if _, err := b.execute("ran", b.spec(one, "echo x > /out/x")); err != nil {
		t.Fatal(err)
	}
	b.stop() // it may end meanwhile or run on: the boot decides
	b.cfg.Boot = "boot-2"
	b.start(t)
	if _, _, last := b.watch(t, "ran", 0); last.State == basilica.TaskLost && (last.Reason.Code != "HOST_REBOOTED" || last.ExitCode != nil || len(last.Outputs) != 0) {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
	b.leavesNothing(t)
}

// Case A6-5: a task that ends while nobody asks, on a machine that is drained and started anew, is told with its true end as
// often as anybody asks, until it is released.
func TestCaseA6_5EndIsKeptUntilReleased(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	if _, err := b.execute("done", b.spec(nil, "echo log; echo x > /out/x")); err != nil {
		t.Fatal(err)
	}
	_, _, first := b.watch(t, "done", 0)
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Drain = true })
	waitFor(t, func() bool { h, err := b.Health(t.Context()); return err == nil && !h.OK })
	for range 2 {
		b.tidy(t.Context())
		b.stop()
		b.start(t)
	}
	_, log, last := b.watch(t, "done", 0)
	if last.State != basilica.TaskSucceeded || !last.At.Equal(first.At) || *last.ExitCode != 0 || log != "log\n" || len(last.Outputs) != 1 || string(last.Receipt.Payload) != string(first.Receipt.Payload) {
		t.Errorf("%+v, first %+v", last, first)
	}
	var out writer
	if err := b.GetBlob(t.Context(), last.Outputs[0].SHA256, &out); err != nil || string(out) != "x\n" {
		t.Errorf("output %q %v", out, err)
	}
	if err := b.Release(t.Context(), "done", 1); err != nil {
		t.Fatal(err)
	}
	if err := b.GetBlob(t.Context(), last.Outputs[0].SHA256, &out); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
		t.Errorf("released: %v", err)
	}
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }

// lateStart is an engine that is still at a start which an earlier process asked for: at the second look the container runs.
type lateStart struct {
	Engine
	looks int
}

func (l *lateStart) Inspect(context.Context, string) (basilica.ContainerState, error) {
	l.looks++
	st := basilica.ContainerState{ID: "c"}
	if l.looks > 1 {
		st.Running, st.Started = true, time.Unix(1000, 0)
	}
	return st, nil
}

// TestAStartUnderWayIsWaitedFor: a process that died right after it had asked for a start must not have the task begin anew
// beside it.
func TestAStartUnderWayIsWaitedFor(t *testing.T) {
	a := basilica.Attempt{Container: "c", Boot: "this boot"}
	engine := &lateStart{}
	e := &Executor{cfg: Config{Engine: engine, Boot: "this boot"}}
	st, err := e.settled(t.Context(), a, "c")
	if err != nil || !st.Running || engine.looks != 2 {
		t.Errorf("%+v after %d looks, %v", st, engine.looks, err)
	}
	if f := judge(a, &st, "this boot", basilica.EngineProcess{}); f.begin || f.lost != nil {
		t.Errorf("judged %+v, and it runs", f)
	}
	for what, a := range map[string]basilica.Attempt{"of another boot": {Container: "c", Boot: "an earlier one"}, "not on record": {Boot: "this boot"}} {
		engine.looks = 0
		if _, err := e.settled(t.Context(), a, "c"); err != nil || engine.looks != 1 {
			t.Errorf("%s: %d looks, %v; nothing can be under way", what, engine.looks, err)
		}
	}
}

// deafStart is an engine whose answer to a start does not come in time. It starts the container all the same, or does not.
type deafStart struct {
	Engine
	starts bool
}

func (d *deafStart) Start(context.Context, string) (func(context.Context) (basilica.ContainerEnd, error), error) {
	return nil, fmt.Errorf("start container: %w", context.DeadlineExceeded)
}

func (d *deafStart) Inspect(context.Context, string) (basilica.ContainerState, error) {
	st := basilica.ContainerState{ID: "c"}
	if d.starts {
		st.Started = time.Unix(1000, 0)
	}
	return st, nil
}

func (d *deafStart) Await(context.Context, string) (func(context.Context) (basilica.ContainerEnd, error), error) {
	return func(context.Context) (basilica.ContainerEnd, error) { return basilica.ContainerEnd{ExitCode: 7}, nil }, nil
}

// TestAStartWithoutAnAnswerMayHaveBeen: of a container whose start nobody heard of it is never said that it did not run, or
// its task would be run twice.
func TestAStartWithoutAnAnswerMayHaveBeen(t *testing.T) {
	t.Parallel()
	a := basilica.Attempt{Container: "c", Boot: "this boot"}
	engine := &deafStart{starts: true}
	e := &Executor{cfg: Config{Engine: engine, Boot: "this boot"}}
	wait, _, err := e.startContainer(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if end, err := wait(t.Context()); err != nil || end.ExitCode != 7 {
		t.Errorf("its end: %+v, %v", end, err)
	}
	engine.starts = false
	if _, mayRun, err := e.startContainer(t.Context(), a); err == nil || !mayRun {
		t.Errorf("not started yet: may run %v, %v", mayRun, err)
	}
}
