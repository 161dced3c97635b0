package miner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/miner"
	"basilica/store"
)

var errDead = errors.New("the process is dead")

// fate counts the steps of a miner and kills it at one of them: from then on nothing that it does has any effect.
type fate struct {
	mu    sync.Mutex // guards the rest
	steps int
	last  int // the step at which it dies; 0: it lives
	name  string
	dead  chan struct{}
}

// step counts one instruction between two steps; false once the process is dead.
func (f *fate) step(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.dead:
		return false
	default:
	}
	if f.steps++; f.steps == f.last {
		f.name = name
		close(f.dead)
		return false
	}
	return true
}

// do is an act with a place to die before and one after it.
func (f *fate) do(name string, act func() error) error {
	if !f.step(name + ".before") {
		return errDead
	}
	err := act()
	if !f.step(name + ".after") {
		return errDead
	}
	return err
}

// mortalStore is a store whose process can die at every write.
type mortalStore struct {
	*store.Miner
	f *fate
}

func (s mortalStore) AddTask(ctx context.Context, t basilica.TaskRecord, open, waiting int) (task basilica.Task, err error) {
	err = s.f.do("AddTask", func() error { task, err = s.Miner.AddTask(ctx, t, open, waiting); return err })
	return task, err
}

func (s mortalStore) OwnBlob(ctx context.Context, client basilica.Hotkey, blob basilica.Blob) error {
	return s.f.do("OwnBlob", func() error { return s.Miner.OwnBlob(ctx, client, blob) })
}

func (s mortalStore) Place(ctx context.Context, id basilica.TaskID, e basilica.ExecutorID, now time.Time) error {
	return s.f.do("Place", func() error { return s.Miner.Place(ctx, id, e, now) })
}

// Claim comes every few milliseconds and counts only where it gives something.
func (s mortalStore) Claim(ctx context.Context, worker string, life time.Duration, limit int) (got []basilica.TaskRecord, err error) {
	if err := s.f.alive(); err != nil {
		return nil, err
	}
	if got, err = s.Miner.Claim(ctx, worker, life, limit); len(got) > 0 && !s.f.step("Claim.after") {
		return nil, errDead
	}
	return got, err
}

func (f *fate) alive() error {
	select {
	case <-f.dead:
		return errDead
	default:
		return nil
	}
}

func (s mortalStore) KeepClaim(ctx context.Context, id basilica.TaskID, fence uint64, life time.Duration) error {
	return errors.Join(s.f.alive(), s.Miner.KeepClaim(ctx, id, fence, life))
}

func (s mortalStore) Offer(ctx context.Context, id basilica.TaskID, fence uint64, lease time.Duration) error {
	return s.f.do("Offer", func() error { return s.Miner.Offer(ctx, id, fence, lease) })
}

func (s mortalStore) Accept(ctx context.Context, id basilica.TaskID, fence uint64, gpus []string, lease time.Duration) error {
	return s.f.do("Accept", func() error { return s.Miner.Accept(ctx, id, fence, gpus, lease) })
}

func (s mortalStore) Advance(ctx context.Context, id basilica.TaskID, fence uint64, state basilica.TaskState, started time.Time) error {
	return s.f.do("Advance", func() error { return s.Miner.Advance(ctx, id, fence, state, started) })
}

func (s mortalStore) Retry(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason, start int64, ran, abandoned bool) error {
	return s.f.do("Retry", func() error { return s.Miner.Retry(ctx, id, fence, wait, why, start, ran, abandoned) })
}

func (s mortalStore) Withdraw(ctx context.Context, id basilica.TaskID, fence uint64, why basilica.Reason) error {
	return s.f.do("Withdraw", func() error { return s.Miner.Withdraw(ctx, id, fence, why) })
}

func (s mortalStore) Refused(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason) error {
	return s.f.do("Refused", func() error { return s.Miner.Refused(ctx, id, fence, wait, why) })
}

func (s mortalStore) End(ctx context.Context, t basilica.TaskRecord, abandoned bool) error {
	return s.f.do("End", func() error { return s.Miner.End(ctx, t, abandoned) })
}

func (s mortalStore) Released(ctx context.Context, a basilica.TaskAttempt) error {
	return s.f.do("Released", func() error { return s.Miner.Released(ctx, a) })
}

// mortalBlobs and mortalLogs are files whose process can die at every write.
type mortalBlobs struct {
	*store.Blobs
	f *fate
}

func (b mortalBlobs) Fill(owner basilica.Hotkey, blob basilica.Blob, offset int64, r io.Reader) error {
	return b.f.do("Fill", func() error { return b.Blobs.Fill(owner, blob, offset, r) })
}

func (b mortalBlobs) Finish(owner basilica.Hotkey, blob basilica.Blob) error {
	return b.f.do("Finish", func() error { return b.Blobs.Finish(owner, blob) })
}

func (b mortalBlobs) Put(ctx context.Context, blob basilica.Blob, r io.Reader) error {
	return b.f.do("Put", func() error { return b.Blobs.Put(ctx, blob, r) })
}

type mortalLogs struct {
	*store.TaskLogs
	f *fate
}

func (l mortalLogs) Append(id basilica.TaskID, c basilica.LogChunk) error {
	return l.f.do("Append", func() error { return l.TaskLogs.Append(id, c) })
}

// mortalPeer is the machine as a process that can die before and after each call reaches it.
type mortalPeer struct {
	*machine
	f *fate
}

func (p mortalPeer) Execute(ctx context.Context, req basilica.ExecuteRequest) (h basilica.Holding, err error) {
	err = p.f.do("Execute", func() error { h, err = p.machine.Execute(ctx, req); return err })
	return h, err
}

func (p mortalPeer) PutBlob(ctx context.Context, blob basilica.Blob, r io.Reader) error {
	return p.f.do("SendInput", func() error { return p.machine.PutBlob(ctx, blob, r) })
}

func (p mortalPeer) Release(ctx context.Context, task basilica.TaskID, n int) error {
	return p.f.do("Release", func() error { return p.machine.Release(ctx, task, n) })
}

func (p mortalPeer) Cancel(ctx context.Context, task basilica.TaskID, n int) error {
	return errors.Join(p.f.alive(), p.machine.Cancel(ctx, task, n))
}

// mortal makes the next miner of the house one that dies at its given step.
func (h *house) mortal(last int) *fate {
	f := &fate{last: last, dead: make(chan struct{})}
	h.wrap = func(p *miner.Parts) {
		p.Store, p.Blobs, p.Logs = mortalStore{p.Store.(*store.Miner), f}, mortalBlobs{p.Blobs.(*store.Blobs), f}, mortalLogs{p.Logs.(*store.TaskLogs), f}
		p.Executor = func(basilica.ExecutorID, string) basilica.Executor { return mortalPeer{h.machine.(*machine), f} }
	}
	return f
}

// deliver does what a client does to have one task run: send the input, submit under one key, until it has an answer.
func (h *house) deliver(key string) (basilica.Task, error) {
	ctx, input, spec := context.Background(), []byte("input of "+key), basilica.TaskSpec{Image: "i", GPUs: 1, AllowSoftware: true}
	blob := basilica.Blob{SHA256: sha256.Sum256(input), Size: int64(len(input))}
	spec.Inputs = []basilica.TaskFile{{Name: "in", Blob: blob}}
	raw, err := json.Marshal(spec)
	must(h.t, err)
	if err := h.miner.PutBlob(ctx, client, blob, 0, bytes.NewReader(input)); err != nil {
		return basilica.Task{}, err
	}
	return h.miner.Submit(ctx, basilica.Submission{Caller: client, IdempotencyKey: key, Spec: raw})
}

// everyStep names the environment variable that has TestKilledBetweenAnyTwoSteps try every step; without it, every sixth.
const everyStep = "BASILICA_EVERY_STEP"

// TestKilledBetweenAnyTwoSteps kills the miner before and after every write and every call of a task's whole life, and has
// another process go on over what stands on the disk: the task ends once, ran once, its log has no gap and no double byte,
// its receipt is countersigned once, and nothing of it is left on the machine.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	h.stop()
	box := newMachine(h)
	h.machine = box
	seen, stride := map[string]bool{}, 6
	if os.Getenv(everyStep) != "" {
		stride = 1
	}
	for last, alive := 1, false; !alive; last += stride {
		f := h.mortal(last)
		h.open(nil)
		stop := h.keepTime(100 * time.Millisecond)
		key := fmt.Sprint("job ", last)
		if task, err := h.deliver(key); err == nil {
			alive = survived(h, f, task.ID)
		}
		if !alive {
			<-f.dead
		}
		stop()
		h.stop()
		h.wrap = nil
		if alive {
			break
		}
		seen[f.name] = true

		h.open(nil)
		stop = h.keepTime(100 * time.Millisecond)
		task, err := h.deliver(key)
		must(t, err)
		log, end := h.end(task.ID)
		h.untilReleased(task.ID)
		stop()
		what := fmt.Sprintf("killed at step %d, %s", last, f.name)
		h.wantOnce(what, task.ID, log, end)
		h.wantConsistent(what)
		h.stop()
	}
	if stride > 1 {
		if len(seen) < 5 {
			t.Errorf("killed at %d steps alone: %v", len(seen), seen)
		}
		return
	}
	for _, step := range []string{"Fill", "Finish", "OwnBlob", "AddTask", "Place", "SendInput", "Offer", "Execute", "Accept", "Advance", "Append", "Put", "End", "Release", "Released"} {
		if !seen[step+".before"] || !seen[step+".after"] {
			t.Errorf("no kill before and after %s: %v", step, seen)
		}
	}
}

// survived says whether the task ended and was released before the miner's fate caught up with it.
func survived(h *house, f *fate, id basilica.TaskID) bool {
	box := h.machine.(*machine)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-f.dead:
			return false
		case <-tick.C:
		}
		left, err := h.store.Unreleased(context.Background(), 10)
		got, terr := h.store.Task(context.Background(), id)
		box.mu.Lock()
		held := len(box.held)
		box.mu.Unlock()
		if err == nil && terr == nil && got.State.Terminal() && len(left) == 0 && held == 0 {
			f.mu.Lock()
			f.last = 0
			f.mu.Unlock()
			return f.alive() == nil
		}
	}
}

func (h *house) untilReleased(id basilica.TaskID) {
	h.t.Helper()
	box := h.machine.(*machine)
	late := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := h.store.Unreleased(context.Background(), 10)
		must(h.t, err)
		box.mu.Lock()
		held := len(box.held)
		box.mu.Unlock()
		if len(left) == 0 && held == 0 {
			return
		}
		select {
		case <-late:
			h.t.Fatalf("task %s is not released: %+v, %d held", id, left, held)
		case <-tick.C:
		}
	}
}

// wantOnce checks the outcome of a job that ran well.
func (h *house) wantOnce(what string, id basilica.TaskID, log string, end basilica.TaskEvent) {
	h.t.Helper()
	box := h.machine.(*machine)
	if want := "attempt 1: one two three\n"; log != want {
		h.t.Errorf("%s: log %q, want %q", what, log, want)
	}
	if end.State != basilica.TaskSucceeded || end.Attempt != 1 || end.ExitCode == nil || end.Receipt == nil || len(end.Outputs) != 1 {
		h.t.Errorf("%s: ended as %+v, reason %+v", what, end, end.Reason)
		return
	}
	if r, _, err := end.Receipt.Open(); err != nil || r.Task != id {
		h.t.Errorf("%s: receipt of %s, %v", what, r.Task, err)
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	if box.runs[id] != 1 || box.cancels != 0 {
		h.t.Errorf("%s: ran %d times, %d cancels", what, box.runs[id], box.cancels)
	}
}

// wantConsistent checks that every blob file has an owner, every owner row its file, every log its task.
func (h *house) wantConsistent(what string) {
	h.t.Helper()
	ctx := context.Background()
	blobs, err := store.OpenBlobs(filepath.Join(h.dir, "blobs"), 1<<20)
	must(h.t, err)
	sums, err := blobs.Sums()
	must(h.t, err)
	for _, sum := range sums {
		if owned, err := h.store.BlobOwned(ctx, sum); !owned || err != nil {
			h.t.Errorf("%s: blob %s has no owner, %v", what, sum, err)
		}
	}
	if n, err := h.store.DisownBlobs(ctx, func(sum basilica.Digest) (bool, error) {
		_, err := os.Stat(blobs.Path(sum))
		return err == nil, nil
	}); n != 0 || err != nil {
		h.t.Errorf("%s: %d owners have no blob, %v", what, n, err)
	}
	entries, err := os.ReadDir(filepath.Join(h.dir, "logs"))
	must(h.t, err)
	for _, e := range entries {
		if kept, err := h.store.LogKept(ctx, basilica.TaskID(strings.TrimSuffix(e.Name(), ".log"))); !kept || err != nil {
			h.t.Errorf("%s: log %s has no task, %v", what, e.Name(), err)
		}
	}
}
