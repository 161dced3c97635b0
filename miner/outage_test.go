package miner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/miner"
)

// fieldCase reads one of the cases from the field.
func fieldCase(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "cases", name))
	must(t, err)
	must(t, json.Unmarshal(raw, into))
}

// wait polls until what is asked for is so.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	late, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-late:
			t.Fatalf("it never came that %s", what)
		case <-tick.C:
		}
	}
}

// beatWith sends a heartbeat that names so many real GPUs.
func (h *house) beatWith(gpus int) basilica.HeartbeatReply {
	h.t.Helper()
	beat := basilica.Heartbeat{At: h.clock(), Version: "v1", Health: basilica.Health{OK: true, MaxTasks: 16, Ledger: h.ledger}}
	for i := range gpus {
		beat.GPUs = append(beat.GPUs, basilica.GPU{Kind: basilica.GPUWhole, UUID: fmt.Sprintf("gpu-%d", i)})
	}
	reply, err := h.miner.Heartbeat(context.Background(), "box", beat)
	must(h.t, err)
	return reply
}

// rack is a machine whose tasks run on GPUs of their own until the test ends them.
type rack struct {
	*machine
	next int
}

func (r *rack) Execute(ctx context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	var spec basilica.TaskSpec
	if err := json.Unmarshal(req.Spec, &spec); err != nil {
		return basilica.Holding{}, err
	}
	holding, err := r.machine.Execute(ctx, req)
	r.mu.Lock()
	defer r.mu.Unlock()
	holding.GPUs = nil
	for range spec.GPUs {
		holding.GPUs = append(holding.GPUs, fmt.Sprintf("gpu-%d", r.next))
		r.next++
	}
	at := basilica.TaskAttempt{Task: req.Task, Attempt: req.Attempt}
	if r.held[at].state == basilica.TaskPlaced {
		r.run(at)
	}
	return holding, err
}

func roomy(c *miner.Config) { c.MaxOpenTasks = 16 }

// TestCaseA6_1UnknownUntilExecutorsReport: after a restart nothing is placed and no lease is closed before the executor
// has reported, nor while it names no GPUs because its card query hangs; unknown is a state of its own.
func TestCaseA6_1UnknownUntilExecutorsReport(t *testing.T) {
	var c struct {
		BoxGPUs int `json:"box_gpus"`
		Leases  []struct {
			ID   string
			GPUs int
		} `json:"running_leases"`
	}
	fieldCase(t, "A6-1-restart-inventory.json", &c)
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	box := &rack{machine: newMachine(h)}
	box.manual = true
	h.machine = box
	h.stop()
	h.open(roomy)
	h.beatWith(c.BoxGPUs)
	var running []basilica.Task
	for _, l := range c.Leases {
		task := h.submit(l.ID, basilica.TaskSpec{Image: "i", GPUs: l.GPUs})
		h.until(task.ID, basilica.TaskRunning)
		running = append(running, task)
	}
	h.stop()
	h.pass(time.Minute)
	h.open(roomy)

	waiting := h.submit("new", basilica.TaskSpec{Image: "i", GPUs: c.BoxGPUs})
	small := h.submit("small", basilica.TaskSpec{Image: "i"})
	state := func() (string, basilica.OfferedBox) {
		t.Helper()
		v, err := h.miner.Member(ctx, "box")
		must(t, err)
		o, err := h.miner.Offer(ctx)
		must(t, err)
		return v.State, o.Executors[0]
	}
	undecided := func(when, code, want string) {
		t.Helper()
		for _, id := range []basilica.TaskID{waiting.ID, small.ID} {
			h.untilReason(id, code)
			if got, err := h.miner.Task(ctx, client, id); err != nil || got.State != basilica.TaskQueued || got.Attempt != 0 {
				t.Errorf("%s: the new task is %s, attempt %d, %v", when, got.State, got.Attempt, err)
			}
		}
		for _, task := range running {
			if got, err := h.miner.Task(ctx, client, task.ID); err != nil || got.State != basilica.TaskRunning || got.Attempt != 1 {
				t.Errorf("%s: the lease is %s, attempt %d, %v", when, got.State, got.Attempt, err)
			}
		}
		if s, o := state(); s != want || o.Ready || o.State != want {
			t.Errorf("%s: fleet shows %q, the offer %q and ready %v", when, s, o.State, o.Ready)
		}
	}
	undecided("before the first report", "EXECUTOR_NOT_HEARD", "unknown")
	h.beatWith(0)
	undecided("while it names no GPUs", "EXECUTOR_INVENTORY", "unknown")
	h.beatWith(c.BoxGPUs)
	if s, o := state(); s != "ready" || !o.Ready || o.GPUs != c.BoxGPUs || o.GPUsFree != 0 {
		t.Errorf("after the report: %q, %+v", s, o)
	}
	h.untilReason(waiting.ID, "WAITS_FOR_ROOM")
	h.until(small.ID, basilica.TaskRunning)
	box.mu.Lock()
	for at, a := range box.held {
		if a.state == basilica.TaskRunning {
			box.end(at, basilica.TaskSucceeded, "")
		}
	}
	cancels := box.cancels
	box.mu.Unlock()
	for _, task := range append(running, small) {
		if _, last := h.end(task.ID); last.State != basilica.TaskSucceeded || last.Attempt != 1 {
			t.Errorf("task %s ended as %s, attempt %d", task.ID, last.State, last.Attempt)
		}
	}
	if cancels != 0 {
		t.Errorf("%d leases were closed", cancels)
	}
	h.until(waiting.ID, basilica.TaskRunning)
}

// TestCaseA6_5FinishedDuringTheOutage: what ended well while the miner was away has had one attempt and its true end.
func TestCaseA6_5FinishedDuringTheOutage(t *testing.T) {
	var c struct {
		Want struct {
			Attempts   int
			CancelSent int `json:"cancel_sent"`
		}
	}
	fieldCase(t, "A6-5-outage-finish.json", &c)
	h := newHouse(t)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	h.machine = box
	h.stop()
	h.open(nil)
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	wait(t, "the task is held", func() bool { box.mu.Lock(); defer box.mu.Unlock(); return len(box.held) == 1 })
	box.with(box.run)
	h.until(task.ID, basilica.TaskRunning)
	h.stop() // the miner is unreachable

	h.pass(4 * time.Minute)
	ended := h.clock()
	box.with(func(at basilica.TaskAttempt) { box.end(at, basilica.TaskSucceeded, "") })
	h.pass(11 * time.Minute)
	h.open(nil)
	must(t, h.miner.Drain(context.Background(), "box", true, 0)) // its host is drained meanwhile
	log, last := h.end(task.ID)
	got, err := h.miner.Task(context.Background(), client, task.ID)
	must(t, err)
	if last.State != basilica.TaskSucceeded || last.Attempt != c.Want.Attempts || last.ExitCode == nil || *last.ExitCode != 0 || log != "attempt 1: one two three\n" {
		t.Errorf("log %q, last %+v, reason %+v", log, last, last.Reason)
	}
	if got.Ended == nil || !got.Ended.Equal(ended) || len(got.Outputs) != 1 {
		t.Errorf("ended %v with %v, true end %v", got.Ended, got.Outputs, ended)
	}
	if box.cancels != c.Want.CancelSent || box.runs[task.ID] != 1 {
		t.Errorf("%d cancels, ran %d times", box.cancels, box.runs[task.ID])
	}
}

// TestCaseA6_5StatusCallsFail: while heartbeats and container are fine, a minute of failing status calls decides nothing.
func TestCaseA6_5StatusCallsFail(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	h.machine = box
	h.stop()
	h.open(nil)
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	wait(t, "the task is held", func() bool { box.mu.Lock(); defer box.mu.Unlock(); return len(box.held) == 1 })
	var failed atomic.Int32
	box.mu.Lock()
	box.silent = func(call string) (error, bool) {
		if call != "watch" {
			return nil, false
		}
		failed.Add(1)
		return basilica.E(basilica.Unavailable, "DEADLINE", "the executor did not answer in time", "try again"), false
	}
	box.mu.Unlock()
	box.with(box.run)
	for range 60 {
		h.pass(time.Second)
		h.beat()
	}
	wait(t, "status calls have failed", func() bool { return failed.Load() > 2 })
	if got, err := h.miner.Task(context.Background(), client, task.ID); err != nil || got.State.Terminal() || got.Attempt != 1 {
		t.Errorf("after a minute: %s, attempt %d, %v", got.State, got.Attempt, err)
	}
	box.mu.Lock()
	box.silent = nil
	box.mu.Unlock()
	box.with(func(at basilica.TaskAttempt) { box.end(at, basilica.TaskSucceeded, "") })
	log, last := h.end(task.ID)
	if last.LogForgotten {
		t.Error("the log is here, and forgotten")
	}
	must(t, os.Remove(filepath.Join(h.dir, "logs", string(task.ID)+".log")))
	h.restart() // who reads logs remembers their sizes
	if gone, last := h.end(task.ID); gone != "" || !last.LogForgotten {
		t.Errorf("the log is away: %q, forgotten %v", gone, last.LogForgotten)
	}
	if last.State != basilica.TaskSucceeded || last.Attempt != 1 || log != "attempt 1: one two three\n" {
		t.Errorf("log %q, last %+v", log, last)
	}
	if box.cancels != 0 || box.runs[task.ID] != 1 {
		t.Errorf("%d cancels, ran %d times", box.cancels, box.runs[task.ID])
	}
}

// TestLostAnswerOfExecute: the executor took the task and its answer was lost; it is asked again for the same attempt.
func TestLostAnswerOfExecute(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	box := newMachine(h)
	lost := 0
	box.silent = func(call string) (error, bool) {
		if call == "execute" && lost < 2 {
			lost++
			return basilica.E(basilica.Unavailable, "PEER_UNREACHABLE", "the connection broke", "try again"), true
		}
		return nil, false
	}
	h.machine = box
	h.stop()
	h.open(nil)
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	if _, last := h.end(task.ID); last.State != basilica.TaskSucceeded || last.Attempt != 1 || box.runs[task.ID] != 1 {
		t.Errorf("last %+v, ran %d times", last, box.runs[task.ID])
	}
}

// TestLostTasks: what certainly never ran is placed again, a bounded number of times; what may have run only as often as
// its client says; and a job that ran and failed never. Each attempt's log follows the one before.
func TestLostTasks(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	h.machine = box
	h.stop()
	h.open(nil)
	defer h.keepTime(100 * time.Millisecond)()
	const all = 100
	for name, c := range map[string]struct {
		retries  int
		ran      bool
		state    basilica.TaskState
		code     string
		losses   int // attempts that end so; the next one succeeds
		want     basilica.TaskState
		attempts int
	}{
		"never ran":                         {0, false, basilica.TaskLost, "EXECUTOR_STOPPED", 1, basilica.TaskSucceeded, 2},
		"never ran, again and again":        {0, false, basilica.TaskLost, "EXECUTOR_STOPPED", all, basilica.TaskLost, 2},
		"may have run":                      {0, true, basilica.TaskLost, "EXECUTOR_RESTARTED", all, basilica.TaskLost, 1},
		"may have run, once more":           {1, true, basilica.TaskLost, "GPU_ACCESS_LOST", 1, basilica.TaskSucceeded, 2},
		"may have run, once more, not more": {1, true, basilica.TaskLost, "HOST_REBOOTED", all, basilica.TaskLost, 2},
		"failed":                            {3, true, basilica.TaskFailed, "EXIT_CODE", all, basilica.TaskFailed, 1},
		"timed out":                         {3, true, basilica.TaskTimedOut, "TIMED_OUT", all, basilica.TaskTimedOut, 1},
	} {
		t.Run(name, func(t *testing.T) {
			task := h.submit(name, basilica.TaskSpec{Image: "i", Retries: c.retries})
			log := ""
			for n := 1; n <= c.attempts; n++ {
				wait(t, "the next attempt is held", func() bool {
					box.mu.Lock()
					defer box.mu.Unlock()
					return box.held[basilica.TaskAttempt{Task: task.ID, Attempt: n}] != nil
				})
				box.with(func(at basilica.TaskAttempt) {
					state, code := c.state, c.code
					if n > c.losses {
						state, code = basilica.TaskSucceeded, ""
					}
					if c.ran || n > c.losses {
						box.run(at)
						log += string(box.held[at].log)
					}
					box.end(at, state, code)
				})
			}
			got, last := h.end(task.ID)
			h.untilReleased(task.ID)
			if last.State != c.want || last.Attempt != c.attempts || got != log || last.Receipt == nil {
				t.Errorf("ended as %s after %d attempts with %+v, log %q, want %s after %d and %q", last.State, last.Attempt, last.Reason, got, c.want, c.attempts, log)
			}
			if c.want == c.state && last.Reason.Code != c.code {
				t.Errorf("reason %+v", last.Reason)
			}
			receipt, _, err := last.Receipt.Open()
			must(t, err)
			if size := int64(len(got)); size-last.LogStart != receipt.LogBytes {
				t.Errorf("the log has %d bytes from %d on, the receipt speaks of %d", size, last.LogStart, receipt.LogBytes)
			}
		})
	}
}

// TestDrainWithDeadline: a drained executor gets no task; what runs may go on until the deadline, is ended then, and runs
// elsewhere again only as its client allows.
func TestDrainWithDeadline(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	h.machine = box
	h.stop()
	h.open(nil)
	h.beat()
	once := h.submit("once", basilica.TaskSpec{Image: "i"})
	again := h.submit("again", basilica.TaskSpec{Image: "i", Retries: 1})
	wait(t, "both are held", func() bool { box.mu.Lock(); defer box.mu.Unlock(); return len(box.held) == 2 })
	box.mu.Lock()
	for at := range box.held {
		box.run(at)
	}
	box.mu.Unlock()
	h.until(once.ID, basilica.TaskRunning)
	h.until(again.ID, basilica.TaskRunning)
	must(t, h.miner.Drain(ctx, "box", true, 20*time.Second))
	late := h.submit("late", basilica.TaskSpec{Image: "i"})
	h.untilReason(late.ID, "EXECUTOR_DRAINS")
	h.pass(9 * time.Second)
	if reply := h.beat(); !reply.Drain || len(reply.Cancel) != 0 || box.cancels != 0 {
		t.Errorf("before the deadline: %+v, %d cancels", reply, box.cancels)
	}
	h.pass(9 * time.Second)
	h.beat()
	h.pass(3 * time.Second)
	if _, last := h.end(once.ID); last.State != basilica.TaskCancelled || last.Reason.Code != "DRAINED" || last.Reason.Fix == "" || last.Attempt != 1 {
		t.Errorf("once: %+v %+v", last, last.Reason)
	}
	h.until(again.ID, basilica.TaskQueued)
	must(t, h.miner.Drain(ctx, "box", false, 0))
	h.pass(time.Second)
	h.beat()
	wait(t, "it runs again", func() bool {
		box.mu.Lock()
		defer box.mu.Unlock()
		return box.held[basilica.TaskAttempt{Task: again.ID, Attempt: 2}] != nil
	})
}

// TestLeftBetweenFileAndRow: what an earlier process left in one place and not in the other is gone after the next start.
func TestLeftBetweenFileAndRow(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	must(t, h.miner.Drain(ctx, "box", true, 0))
	task, err := h.deliver("kept")
	must(t, err)
	owned := task.Spec.Inputs[0].SHA256
	gone, err := h.deliver("its file is removed by hand")
	must(t, err)
	h.stop()
	h.machine = newMachine(h)
	must(t, os.Remove(filepath.Join(h.dir, "blobs", gone.Spec.Inputs[0].SHA256.String()[:2], gone.Spec.Inputs[0].SHA256.String())))
	stray := basilica.Digest{7}
	must(t, os.MkdirAll(filepath.Join(h.dir, "blobs", stray.String()[:2]), 0o700))
	must(t, os.WriteFile(filepath.Join(h.dir, "blobs", stray.String()[:2], stray.String()), []byte("content without owner"), 0o600))
	must(t, os.WriteFile(filepath.Join(h.dir, "logs", "t-nobody.log"), []byte("log without task"), 0o600))
	h.open(nil)
	wait(t, "the strays are gone", func() bool {
		_, blob := os.Stat(filepath.Join(h.dir, "blobs", stray.String()[:2], stray.String()))
		_, log := os.Stat(filepath.Join(h.dir, "logs", "t-nobody.log"))
		return os.IsNotExist(blob) && os.IsNotExist(log)
	})
	must(t, h.miner.GetBlob(ctx, client, owned, 0, io.Discard))
	wantCode(t, h.miner.GetBlob(ctx, client, gone.Spec.Inputs[0].SHA256, 0, io.Discard), "BLOB_UNKNOWN")
	must(t, h.miner.Drain(ctx, "box", false, 0))
	h.beat()
	if _, last := h.end(gone.ID); last.State != basilica.TaskFailed || last.Reason.Code != "INPUT_LOST" || last.Reason.Fix == "" {
		t.Errorf("a task whose input was removed: %+v %+v", last, last.Reason)
	}
	h.wantConsistent("after the start")
}

// TestQueueIsBounded: the queue of all clients has an end; a task that is in it already is given again all the same.
func TestQueueIsBounded(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	must(t, h.miner.Drain(context.Background(), "box", true, 0))
	h.stop()
	h.open(func(c *miner.Config) { c.MaxQueueTasks = 1 })
	h.beat()
	first := h.submit("1", basilica.TaskSpec{Image: "i"})
	raw, err := json.Marshal(basilica.TaskSpec{Image: "i"})
	must(t, err)
	_, err = h.miner.Submit(context.Background(), basilica.Submission{Caller: "another", IdempotencyKey: "2", Spec: raw})
	wantCode(t, err, "QUEUE_FULL")
	if same := h.submit("1", basilica.TaskSpec{Image: "i"}); same.ID != first.ID {
		t.Error("a known task was refused by a full queue")
	}
}

// TestDiskFullEndsNoJob: while nothing can be recorded the miner refuses new tasks by name and goes on renewing the leases
// of what runs, for longer than a silent executor would be waited for; when there is space again all goes on.
func TestDiskFullEndsNoJob(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	h := newHouseIn(t, dir)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	h.machine = box
	h.stop()
	h.open(func(c *miner.Config) { c.MaxOpenTasks = 1000 })
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	wait(t, "the task is held", func() bool { box.mu.Lock(); defer box.mu.Unlock(); return len(box.held) == 1 })
	box.with(box.run)
	h.until(task.ID, basilica.TaskRunning)
	must(t, h.miner.Drain(context.Background(), "box", true, 0)) // what is submitted now waits

	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, f.Close())
	spec, err := json.Marshal(basilica.TaskSpec{Image: "i", Command: []string{strings.Repeat("x", 60<<10)}})
	must(t, err)
	var full error
	for n := 0; full == nil && n < 200; n++ {
		_, full = h.miner.Submit(context.Background(), basilica.Submission{Caller: client, IdempotencyKey: fmt.Sprint(n), Spec: spec})
	}
	wantCode(t, full, "DISK_FULL")
	for range 60 {
		h.pass(time.Second)
		if reply := h.beat(); len(reply.Renew) != 1 || len(reply.Cancel) != 0 {
			t.Fatalf("with a full disk the executor is told %+v", reply)
		}
	}
	if got, err := h.miner.Task(context.Background(), client, task.ID); err != nil || got.State != basilica.TaskRunning {
		t.Errorf("with a full disk the job is %s, %v", got.State, err)
	}
	must(t, os.Remove(ballast))
	box.with(func(at basilica.TaskAttempt) { box.end(at, basilica.TaskSucceeded, "") })
	stop := h.keepTime(100 * time.Millisecond)
	defer stop()
	if _, last := h.end(task.ID); last.State != basilica.TaskSucceeded || last.Attempt != 1 || box.cancels != 0 {
		t.Errorf("last %+v with %+v, %d cancels", last, last.Reason, box.cancels)
	}
}
