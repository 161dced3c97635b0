package miner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// errSettled ends a follower: its task has ended, went back to the queue, or has another worker.
var errSettled = errors.New("task is settled")

// fixLost is what a client can do about a task that was lost.
const fixLost = "run it again"

// follower sees one claimed attempt through to its end. work and tend run beside each other; the store's fencing decides
// where both want to end the task.
type follower struct {
	m      *Miner
	task   basilica.TaskRecord // as claimed; work's own
	member basilica.Member
	peer   basilica.Executor
}

// follow returns when the task is settled or ctx ends; in the latter case the claim runs out or another process takes it.
func (m *Miner) follow(ctx context.Context, t basilica.TaskRecord) {
	log := m.Log.With("task", t.ID, "attempt", t.Attempt, "executor", t.Executor)
	e, err := m.Store.Member(ctx, t.Executor)
	if err != nil {
		log.ErrorContext(ctx, "find executor of a task", "err", err)
		return
	}
	f := &follower{m: m, task: t, member: e, peer: m.Executor(e.Executor, e.Addr)}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.tend(gctx, t.TaskRef()) })
	g.Go(func() error { return f.work(gctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, errSettled) && ctx.Err() == nil {
		log.ErrorContext(ctx, "follow task", "err", err)
	}
	m.bell.ring(t.ID, "")
}

// settled turns the store's word that somebody else has settled the task into errSettled.
func settled(err error) error {
	if err == nil || isCode(err, "TASK_FENCED", "TASK_ACCEPTED") {
		return errSettled
	}
	return err
}

// tend keeps the claim, passes the client's wish to cancel on, and gives up an attempt whose executor is gone.
func (f *follower) tend(ctx context.Context, a basilica.TaskAttempt) error {
	m := f.m
	every := min(m.cfg.Tick, claimLife/3)
	var told time.Time // when the executor last learnt of the cancel
	for {
		changed := m.bell.next(a.Task)
		now := m.Now()
		if err := m.Store.KeepClaim(ctx, a.Task, f.task.Fence, now.Add(claimLife)); err != nil {
			return settled(err)
		}
		t, err := m.Store.Task(ctx, a.Task)
		if err != nil {
			return err
		}
		t.Fence = f.task.Fence
		if t.Accepted && now.After(t.LeaseUntil.Add(m.cfg.Grace)) && now.After(m.heard) {
			return f.end(ctx, t, basilica.TaskLost, basilica.Reason{
				Code: "EXECUTOR_LOST", Sentence: fmt.Sprintf("executor %s was not heard of until the task's lease ended; what it did is unknown", t.Executor), Fix: fixLost,
			}, true)
		}
		if t.Cancel && !t.Accepted {
			return f.end(ctx, t, basilica.TaskCancelled, cancelled(), true)
		}
		if t.Cancel && (told.IsZero() || now.Sub(told) >= every) {
			told = now
			if err := f.cancel(ctx, a); err != nil {
				m.Log.DebugContext(ctx, "cancel not passed on yet", "task", a.Task, "err", err)
			}
		}
		if !t.Accepted {
			e, err := m.Store.Member(ctx, t.Executor)
			if err != nil {
				return err
			}
			if why := m.away(e); why != nil {
				return settled(m.Store.Requeue(ctx, t.ID, t.Fence, now, *why, false))
			}
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
			// A busy log rings often; the claim needs no more than this.
			if err := rest(ctx, min(every, 50*time.Millisecond)); err != nil {
				return err
			}
		case <-timer.C:
		}
	}
}

func (f *follower) cancel(ctx context.Context, a basilica.TaskAttempt) error {
	ctx, stop := context.WithTimeout(ctx, callTimeout)
	defer stop()
	return f.peer.Cancel(ctx, a.Task, a.Attempt)
}

// work offers the attempt to its executor unless that holds it, and follows it to its end.
func (f *follower) work(ctx context.Context) error {
	if !f.task.Accepted {
		if err := f.offer(ctx); err != nil {
			if ctx.Err() != nil || errors.Is(err, errSettled) {
				return err
			}
			return f.refused(ctx, err)
		}
	}
	return f.watch(ctx)
}

// offer sends the inputs and the task.
func (f *follower) offer(ctx context.Context) error {
	t := &f.task
	if sum, ok := basilica.ImageBlob(t.Spec.Image); ok {
		if err := f.push(ctx, sum); err != nil {
			return fmt.Errorf("send image: %w", err)
		}
	}
	for _, in := range t.Spec.Inputs {
		if err := f.push(ctx, in.SHA256); err != nil {
			return fmt.Errorf("send input %q: %w", in.Name, err)
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	holding, err := f.peer.Execute(call, basilica.ExecuteRequest{Task: t.ID, Attempt: t.Attempt, Client: t.Client, Spec: t.SpecBytes, Lease: f.m.cfg.TaskLease})
	if err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	if err := f.m.Store.Accept(ctx, t.ID, t.Fence, holding.GPUs, f.m.Now().Add(f.m.cfg.TaskLease)); err != nil {
		return settled(err)
	}
	t.Accepted = true
	f.m.Log.InfoContext(ctx, "task accepted", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "gpus", len(holding.GPUs))
	return nil
}

func (f *follower) push(ctx context.Context, sum basilica.Digest) (err error) {
	r, size, err := f.m.Blobs.Open(sum)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return f.peer.PutBlob(ctx, basilica.Blob{SHA256: sum, Size: size}, r)
}

// refused decides what becomes of a task that its executor did not take: a busy one is offered again, an invalid one
// fails, everything else is tried again a bounded number of times.
func (f *follower) refused(ctx context.Context, err error) error {
	m, t := f.m, f.task
	kind, tries := basilica.KindOf(err), 1
	for _, n := range t.Refused {
		tries += n
	}
	why := reasonOf(err)
	m.Log.WarnContext(ctx, "executor did not take the task", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "err", err)
	busy := kind == basilica.Conflict || isCode(err, "MEMORY_FULL", "CONTAINERS_FULL")
	if kind == basilica.Invalid || isCode(err, "BLOB_UNKNOWN") || !busy && tries >= m.cfg.MaxAttempts {
		return f.end(ctx, t, basilica.TaskFailed, why, true)
	}
	return settled(m.Store.Requeue(ctx, t.ID, t.Fence, m.Now().Add(m.backoff(tries)), why, busy))
}

// backoff is the wait after the n-th try, from 1.
func (m *Miner) backoff(n int) time.Duration {
	return min(m.cfg.Retry<<min(n-1, 10), maxRetryWait)
}

// watch takes the attempt's events, resuming the stream where it breaks, until the terminal one. It does not give up by
// itself: tend does, when the lease has ended.
func (f *follower) watch(ctx context.Context) error {
	for try := 1; ; try++ {
		offset, err := f.m.Logs.Size(f.task.ID)
		if err != nil {
			return err
		}
		err = f.peer.Watch(ctx, f.task.ID, f.task.Attempt, offset, func(e basilica.TaskEvent) error {
			try = 1
			return f.event(ctx, e)
		})
		if errors.Is(err, errSettled) || ctx.Err() != nil {
			return err
		}
		if basilica.KindOf(err) == basilica.NotFound {
			return f.end(ctx, f.task, basilica.TaskLost, basilica.Reason{
				Code: "ATTEMPT_UNKNOWN", Sentence: fmt.Sprintf("executor %s does not know the task any more", f.task.Executor), Fix: fixLost,
			}, true)
		}
		f.m.Log.DebugContext(ctx, "watch again", "task", f.task.ID, "executor", f.task.Executor, "err", err)
		if err := rest(ctx, f.m.backoff(try)); err != nil {
			return err
		}
	}
}

// event takes one event of the claimed attempt; the word of any other attempt is ignored.
func (f *follower) event(ctx context.Context, e basilica.TaskEvent) error {
	t, m := &f.task, f.m
	if e.Task != t.ID || e.Attempt != t.Attempt {
		return nil
	}
	if e.Log != nil {
		if err := m.Logs.Append(t.ID, *e.Log); err != nil {
			return err
		}
		m.bell.ring(t.ID)
	}
	if e.State.Terminal() {
		return f.finish(ctx, e)
	}
	if e.State == t.State {
		return nil
	}
	state, err := t.State.Step(e.State)
	if err != nil { // an old event, seen again after a resumed stream
		return nil
	}
	var started time.Time
	if state == basilica.TaskRunning {
		started = e.At
	}
	if err := m.Store.Advance(ctx, t.ID, t.Fence, state, started); err != nil {
		return settled(err)
	}
	t.State = state
	m.Log.InfoContext(ctx, "task moved", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "state", state)
	m.bell.ring(t.ID)
	return nil
}

// finish takes the terminal event: receipt checked and countersigned, outputs fetched, task ended.
func (f *follower) finish(ctx context.Context, e basilica.TaskEvent) error {
	m, t := f.m, f.task
	if e.Receipt == nil && e.State == basilica.TaskLost {
		why := basilica.Reason{Code: "EXECUTOR_LOST", Sentence: "the executor did not witness the task's end", Fix: fixLost}
		if e.Reason != nil {
			why = *e.Reason
		}
		return f.end(ctx, t, basilica.TaskLost, why, false)
	}
	receipt, signed, err := f.countersign(e)
	if err != nil {
		m.Log.WarnContext(ctx, "receipt refused", "task", t.ID, "executor", t.Executor, "err", err)
		return f.end(ctx, t, basilica.TaskLost, basilica.Reason{Code: "RECEIPT_REFUSED", Sentence: "the executor's receipt is not valid: " + sentenceOf(err), Fix: "run it on another miner: basilica ls"}, false)
	}
	m.blobUse.RLock()
	defer m.blobUse.RUnlock()
	if err := f.fetchOutputs(ctx, receipt.Outputs); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.Log.WarnContext(ctx, "outputs not fetched", "task", t.ID, "executor", t.Executor, "err", err)
		return f.end(ctx, t, basilica.TaskLost, basilica.Reason{Code: "OUTPUTS_LOST", Sentence: "the task's outputs could not be fetched: " + sentenceOf(err), Fix: fixLost}, false)
	}
	t.ExitCode, t.Outputs, t.Receipt, t.Started = receipt.ExitCode, receipt.Outputs, &signed, nil
	if !receipt.Started.IsZero() {
		t.Started = &receipt.Started
	}
	return f.conclude(ctx, t, receipt.State, receipt.Reason, false)
}

// end ends the task without an executor's receipt.
func (f *follower) end(ctx context.Context, t basilica.TaskRecord, state basilica.TaskState, why basilica.Reason, abandoned bool) error {
	t.Outputs, t.Receipt, t.ExitCode = nil, nil, nil
	return f.conclude(ctx, t, state, &why, abandoned)
}

func (f *follower) conclude(ctx context.Context, t basilica.TaskRecord, state basilica.TaskState, why *basilica.Reason, abandoned bool) (err error) {
	m := f.m
	from := t.State
	if t.State, err = from.Step(state); err != nil {
		// The end came before the news that it ran.
		if from, err = from.Step(basilica.TaskRunning); err != nil {
			return err
		}
		if t.State, err = from.Step(state); err != nil {
			return err
		}
	}
	now := m.Now()
	t.Reason, t.Ended = why, &now
	if t.LogBytes, err = m.Logs.Size(t.ID); err != nil {
		return err
	}
	if err := m.Store.End(ctx, t, abandoned); err != nil {
		return settled(err)
	}
	code := ""
	if why != nil {
		code = why.Code
	}
	m.Log.InfoContext(ctx, "task ended", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "state", t.State, "code", code)
	m.bell.ring(t.ID)
	if !abandoned {
		if err := m.release(ctx, f.peer, t.TaskRef()); err != nil { // tidy tries again
			m.Log.DebugContext(ctx, "attempt not released yet", "task", t.ID, "err", err)
		}
	}
	return errSettled
}

// countersign checks that the receipt speaks of this attempt, by the enrolled key, and adds the miner's signature.
func (f *follower) countersign(e basilica.TaskEvent) (basilica.Receipt, basilica.SignedReceipt, error) {
	bad := func(what string) error {
		return basilica.E(basilica.Invalid, "RECEIPT_REFUSED", what, "")
	}
	if e.Receipt == nil {
		return basilica.Receipt{}, basilica.SignedReceipt{}, bad("there is none")
	}
	signed, err := e.Receipt.Countersign(f.m.Hotkey)
	if err != nil {
		return basilica.Receipt{}, signed, err
	}
	r, endorsed, err := signed.Open()
	if err != nil {
		return r, signed, err
	}
	t := &f.task
	switch {
	case endorsed.Miner != f.m.self || endorsed.Executor != t.Executor || !bytes.Equal(endorsed.KeySPKI, f.member.KeySPKI):
		return r, signed, bad("its endorsement is not this executor's")
	case r.Task != t.ID || r.Attempt != t.Attempt || r.Client != t.Client || r.SpecDigest != t.SpecDigest:
		return r, signed, bad("it speaks of another task")
	case r.State != e.State || !r.State.Terminal():
		return r, signed, bad("its state is not the one that was reported")
	case len(r.Outputs) > basilica.MaxTaskFiles:
		return r, signed, bad("it names too many outputs")
	}
	return r, signed, basilica.ValidateFiles(r.Outputs)
}

// fetchOutputs stores the outputs here, trying a bounded number of times.
func (f *follower) fetchOutputs(ctx context.Context, outputs []basilica.TaskFile) error {
	for _, out := range outputs {
		for try := 1; ; try++ {
			err := f.fetch(ctx, out.Blob)
			if err == nil {
				break
			}
			if try >= f.m.cfg.MaxAttempts || ctx.Err() != nil {
				return fmt.Errorf("fetch output %q: %w", out.Name, err)
			}
			if err := rest(ctx, f.m.backoff(try)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch streams one blob from the executor into the store, which checks size and hash.
func (f *follower) fetch(ctx context.Context, blob basilica.Blob) error {
	if r, _, err := f.m.Blobs.Open(blob.SHA256); err == nil {
		return r.Close()
	}
	r, w := io.Pipe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := f.peer.GetBlob(ctx, blob.SHA256, w)
		w.CloseWithError(err) // nil is the end of the content
		return err
	})
	g.Go(func() error {
		err := f.m.Blobs.Put(ctx, blob, r)
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		return err
	})
	return g.Wait()
}

// sentenceOf is what a client may read of an error.
func sentenceOf(err error) string {
	var e *basilica.Error
	if errors.As(err, &e) {
		return e.Sentence
	}
	return "an internal fault; the miner's log has it"
}
