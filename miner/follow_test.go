package miner_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/miner"
)

func TestExecutorRefuses(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	h.box.watch = func(context.Context, basilica.TaskID, int, int64, func(basilica.TaskEvent) error) error {
		return basilica.E(basilica.NotFound, "ATTEMPT_UNKNOWN", "no such attempt", "none")
	}
	for name, c := range map[string]struct {
		err      error
		code     string
		tries    int
		attempts int
	}{
		"invalid":       {basilica.E(basilica.Invalid, "IMAGE_REFERENCE", "no image", ""), "IMAGE_REFERENCE", 1, 1},
		"never here":    {basilica.E(basilica.Exhausted, "GPU_LIMIT", "too many", ""), "GPU_LIMIT", 2, 2},
		"no clear word": {errors.New("boom"), "EXECUTOR_FAILED", 4, 2}, // asked twice each time, then known not to hold it
	} {
		tries := 0
		h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
			tries++
			return basilica.Holding{}, c.err
		}
		task := h.submit(name, basilica.TaskSpec{Image: "i"})
		stop := h.keepTime(300 * time.Millisecond)
		_, last := h.end(task.ID)
		stop()
		if last.State != basilica.TaskFailed || last.Reason.Code != c.code || tries != c.tries || last.Attempt != c.attempts {
			t.Errorf("%s: %d tries, last %+v %v", name, tries, last, last.Reason)
		}
	}
}

// TestBusyExecutorLeavesNoAttempts: an executor that is busy, full or just starting is asked again as often as it takes,
// later each time, and the task has had one attempt in the end.
func TestBusyExecutorLeavesNoAttempts(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	tries := 0
	taken := make(chan basilica.ExecuteRequest, 1)
	h.box.execute = func(req basilica.ExecuteRequest) (basilica.Holding, error) {
		switch tries++; {
		case tries < 3:
			return basilica.Holding{}, basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g"})
		case tries < 6:
			return basilica.Holding{}, basilica.E(basilica.Exhausted, "MEMORY_FULL", "the machine's memory is taken", "wait")
		case tries < 9:
			return basilica.Holding{}, basilica.E(basilica.Unavailable, "NOT_RUNNING", "the executor is starting", "try again")
		}
		taken <- req
		return basilica.Holding{}, nil
	}
	h.box.watch = func(_ context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskFailed, Receipt: h.receipt(req, basilica.TaskFailed, nil)})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	defer h.keepTime(300 * time.Millisecond)()
	if _, last := h.end(task.ID); last.State != basilica.TaskFailed || last.Attempt != 1 || tries != 9 {
		t.Errorf("last %+v after %d tries", last, tries)
	}
}

// TestBusyExecutorIsAskedWhenItChanges: the wait for a busy executor grows, and ends at once when a heartbeat shows that
// what it holds has changed.
func TestBusyExecutorIsAskedWhenItChanges(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	h.stop()
	h.open(func(c *miner.Config) { c.Retry = time.Hour }) // of the house's clock, which stands still
	asked := make(chan struct{}, 100)
	h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
		asked <- struct{}{}
		return basilica.Holding{}, basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g"})
	}
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-asked
	h.untilReason(task.ID, "EXECUTOR_BUSY")
	for range 3 {
		h.beat() // shows the same
	}
	if len(asked) != 0 {
		t.Error("asked again without news")
	}
	h.ledger = []basilica.Holding{{Kind: basilica.HolderChallenge, Holder: "another", Fence: 7}}
	h.beat()
	<-asked
	if got, err := h.miner.Task(context.Background(), client, task.ID); err != nil || got.Attempt > 1 {
		t.Errorf("%d attempts, %v", got.Attempt, err)
	}
}

// TestBusyExecutorGetsNoInputs: what a busy executor would refuse anyway is not sent to it.
func TestBusyExecutorGetsNoInputs(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	h.box.holds = []basilica.Holding{{Kind: basilica.HolderChallenge, Holder: "g", GPUs: []string{"u0"}, Fence: 1}}
	taken := h.accept()
	task, err := h.deliver("k") // asks for the box's one device
	must(t, err)
	h.untilReason(task.ID, "EXECUTOR_BUSY")
	h.box.mu.Lock()
	if len(h.box.blobs) != 0 {
		t.Error("inputs were sent to a busy executor")
	}
	h.box.holds = nil
	h.box.mu.Unlock()
	defer h.keepTime(300 * time.Millisecond)()
	req := <-taken
	h.box.mu.Lock()
	defer h.box.mu.Unlock()
	if req.Attempt != 1 || len(h.box.blobs) != 1 {
		t.Errorf("attempt %d with %d inputs", req.Attempt, len(h.box.blobs))
	}
}

func TestForgedReceipts(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	forger, err := keys.GenerateP256()
	must(t, err)
	for name, forge := range map[string]func(basilica.ExecuteRequest) *basilica.SignedReceipt{
		"none": func(basilica.ExecuteRequest) *basilica.SignedReceipt { return nil },
		"another task": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.Task = "t-other" })
		},
		"another spec": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.SpecDigest[0]++ })
		},
		"another state": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskFailed, nil)
		},
		"a way out of the directory": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.Outputs = []basilica.TaskFile{{Name: "../x"}} })
		},
		"an endorsement of its own": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			e, err := basilica.Endorse(basilica.Endorsement{Executor: "box", KeySPKI: forger.SPKI()}, h.hotkey)
			must(t, err)
			signed, err := basilica.SignReceipt(basilica.Receipt{Task: r.Task, Attempt: r.Attempt, Client: r.Client, Executor: "box", SpecDigest: sha256.Sum256(r.Spec), State: basilica.TaskSucceeded}, e, forger.Sign)
			must(t, err)
			return &signed
		},
	} {
		taken := h.accept()
		h.box.watch = func(_ context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
			req := <-taken
			return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskSucceeded, Receipt: forge(req)})
		}
		task := h.submit(name, basilica.TaskSpec{Image: "i"})
		if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "RECEIPT_REFUSED" || last.Receipt != nil {
			t.Errorf("%s: last %+v %v", name, last, last.Reason)
		}
	}
}

func TestLostExecutor(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	req := <-taken
	wait(t, "its acceptance is recorded", func() bool {
		got, err := h.store.Task(context.Background(), task.ID)
		return err == nil && got.Accepted
	})
	if reply := h.beat(); len(reply.Renew) != 1 || reply.Renew[0] != (basilica.TaskAttempt{Task: req.Task, Attempt: 1}) {
		t.Errorf("renewed %+v", reply.Renew)
	}
	h.pass(30*time.Second + 11*time.Second)
	if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_LOST" || last.Reason.Fix == "" {
		t.Errorf("last %+v", last)
	}
}

// TestNoAnswerDecidesNothing: where the executor falls silent while it is asked, it may hold the task; the task is given
// to nobody else, and is lost when the executor must have ended it.
func TestNoAnswerDecidesNothing(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	entered, leave := make(chan struct{}, 16), make(chan struct{})
	h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
		entered <- struct{}{}
		<-leave
		return basilica.Holding{}, basilica.E(basilica.Unavailable, "PEER_UNREACHABLE", "the executor cannot be reached", "check that it runs")
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-entered
	h.pass(25 * time.Second)
	close(leave)
	<-entered // asked again, for the same attempt
	if got, err := h.miner.Task(context.Background(), client, task.ID); err != nil || got.State != basilica.TaskPlaced || got.Attempt != 1 {
		t.Errorf("silent executor: %s, attempt %d, %v", got.State, got.Attempt, err)
	}
	h.pass(20 * time.Second)
	if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_LOST" || last.Attempt != 1 {
		t.Errorf("last %+v", last)
	}
	if reply := h.beat(); len(reply.Cancel) != 1 || reply.Cancel[0].Task != task.ID {
		t.Errorf("a lost attempt is not ended where it may live: %+v", reply.Cancel)
	}
}

func TestRestartInTheMiddle(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	h.box.watch = func(ctx context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		if offset != 0 {
			t.Errorf("first watch from %d", offset)
		}
		err := f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskRunning, At: h.clock(), Log: &basilica.LogChunk{Stream: basilica.Stdout, Data: []byte("before ")}})
		if err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	req := <-taken
	h.until(task.ID, basilica.TaskRunning)
	h.stop()

	h.box.watch = func(_ context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		if offset != int64(len("before ")) {
			t.Errorf("resumed from %d", offset)
		}
		return errors.Join(
			f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskRunning, Log: &basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: []byte("after")}}),
			f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskSucceeded, Receipt: h.receipt(req, basilica.TaskSucceeded, nil)}),
		)
	}
	h.pass(5 * time.Minute) // the lease is over, the end was witnessed all the same
	h.open(nil)
	log, last := h.end(task.ID)
	if log != "before after" || last.State != basilica.TaskSucceeded || last.Attempt != 1 {
		t.Errorf("log %q, last %+v", log, last)
	}
	if len(taken) != 0 {
		t.Error("the task was executed twice")
	}
}
