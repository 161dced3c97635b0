package miner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// errSettled ends a follower: its task has ended, went back to the queue, or has another worker.
var errSettled = errors.New("task is settled")

// errMoved ends a follower whose executor has joined again under another address: the next one asks there.
var errMoved = errors.New("executor has another address now")

// fixLost is what a client can do about a task that was lost.
const fixLost = "run it again if running it twice does no harm; --retries N has the miner do that"

// follower sees one claimed attempt through to its end. work and tend run beside each other; the store's fencing decides
// where both want to end the task.
type follower struct {
	m      *Miner
	task   basilica.TaskRecord // as claimed; work's own
	member basilica.Member
	peer   basilica.Executor
	noRoom int // times that the blob store had no room for the outputs; work's own

	mu      sync.Mutex // held by work to offer the attempt, and by tend to take one back that was not offered
	offered bool
}

// follow returns when the task is settled or ctx ends; in the latter case the claim runs out or another process takes it.
func (m *Miner) follow(ctx context.Context, t basilica.TaskRecord) {
	log := m.Log.With("task", t.ID, "attempt", t.Attempt, "executor", t.Executor)
	e, err := m.Store.Member(ctx, t.Executor)
	if err != nil {
		log.ErrorContext(ctx, "find executor of a task", "err", err)
		return
	}
	f := &follower{m: m, task: t, member: e, peer: m.Executor(e.Executor, e.Addr), offered: t.Offered}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.tend(gctx, t.TaskRef()) })
	g.Go(func() error { return f.work(gctx) })
	err = g.Wait()
	if errors.Is(err, errMoved) {
		log.InfoContext(ctx, "executor of a task has moved", "from", e.Addr)
		err = settled(m.Store.KeepClaim(ctx, t.ID, t.Fence, 0))
	}
	if err != nil && !errors.Is(err, errSettled) && ctx.Err() == nil {
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

// tend keeps the claim, passes the client's wish to cancel on, and decides over an attempt whose executor is gone.
func (f *follower) tend(ctx context.Context, a basilica.TaskAttempt) error {
	m := f.m
	every := min(m.cfg.Tick, claimLife/3)
	var told time.Time // when the executor last learnt that the attempt is to end
	for {
		changed := m.bell.next(a.Task)
		if err := m.Store.KeepClaim(ctx, a.Task, f.task.Fence, claimLife); err != nil {
			return settled(err)
		}
		t, err := m.Store.Task(ctx, a.Task)
		if err != nil {
			return err
		}
		e, err := m.Store.Member(ctx, t.Executor)
		if err != nil {
			return err
		}
		if e.Addr != f.member.Addr {
			return errMoved
		}
		t.Fence = f.task.Fence
		if err := f.judge(ctx, t, e); err != nil {
			return err
		}
		now := m.Now()
		if t.Offered && (t.Cancel || e.DrainOver) && (told.IsZero() || now.Sub(told) >= every) {
			told = now
			if err := f.cancel(ctx, a); err != nil {
				m.Log.DebugContext(ctx, "cancel not passed on yet", "task", a.Task, "err", err)
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

// judge settles what needs no word of the executor: an attempt that it certainly does not hold and will not get, and one
// of which nothing was heard for so long that the executor must have ended it. No answer alone decides nothing.
func (f *follower) judge(ctx context.Context, t basilica.TaskRecord, e basilica.Member) error {
	m := f.m
	if !t.Offered {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.offered { // since t was read
			return nil
		}
		if t.Cancel {
			return f.end(ctx, t, basilica.TaskCancelled, cancelled(), false)
		}
		if why := m.notReady(e); why != nil {
			return settled(m.Store.Withdraw(ctx, t.ID, t.Fence, *why))
		}
		return nil
	}
	if e.Revoked != nil {
		return f.lose(ctx, t, reasonOf(basilica.RevokedError(e.Executor, *e.Revoked)), true, true)
	}
	if t.LeaseLeft < -m.cfg.Grace && m.up() > m.cfg.LostAfter+m.cfg.Grace && m.news.silent(t.Executor, m.Now(), m.cfg.LostAfter) {
		return f.lose(ctx, t, basilica.Reason{
			Code: "EXECUTOR_LOST", Sentence: fmt.Sprintf("executor %s was not heard of for %s; what it did is unknown", t.Executor, m.cfg.LostAfter), Fix: fixLost,
		}, true, true)
	}
	return nil
}

func (f *follower) cancel(ctx context.Context, a basilica.TaskAttempt) error {
	ctx, stop := context.WithTimeout(ctx, claimLife/3) // an executor that does not answer must not cost the claim
	defer stop()
	return f.peer.Cancel(ctx, a.Task, a.Attempt)
}

// work offers the attempt to its executor unless that holds it, and follows it to its end.
func (f *follower) work(ctx context.Context) error {
	if !f.task.Accepted {
		if err := f.offer(ctx); err != nil {
			return err
		}
	}
	return f.watch(ctx)
}

// offer sends the inputs and the task. Before it asks, the store says that the executor may hold the attempt; from then on
// only the executor's own word, or its long silence, says that it does not. The same question again changes nothing there.
func (f *follower) offer(ctx context.Context) error {
	t, m := &f.task, f.m
	doubt := t.Offered // somebody asked before, and its answer is not known
	if !t.Offered {
		if err := f.prepare(ctx); err != nil {
			return f.notHeld(ctx, err, false)
		}
		if err := f.extend(ctx); err != nil {
			return settled(err)
		}
		t.Offered = true
	}
	for try := 1; ; try++ {
		holding, err := f.execute(ctx)
		if err == nil {
			if err := m.Store.Accept(ctx, t.ID, t.Fence, holding.GPUs, m.cfg.LostAfter); err != nil {
				return settled(err)
			}
			t.Accepted = true
			m.news.took(t.Executor)
			m.Log.InfoContext(ctx, "task accepted", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "gpus", len(holding.GPUs))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		answered := !basilica.Unanswered(err)
		if answered && !doubt {
			return f.notHeld(ctx, err, false)
		}
		doubt = true
		if (answered || try >= m.cfg.MaxAttempts) && f.unknown(ctx) {
			return f.notHeld(ctx, err, true)
		}
		m.Log.WarnContext(ctx, "no word whether the executor took the task; it is asked again", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "err", err)
		if err := rest(ctx, m.backoff(try)); err != nil {
			return err
		}
	}
}

// extend records that the executor may hold the attempt from now on.
func (f *follower) extend(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offered = true
	return f.m.Store.Offer(ctx, f.task.ID, f.task.Fence, f.m.cfg.LostAfter)
}

// prepare meets the executor and, unless it is busy as it says, gives it the inputs.
func (f *follower) prepare(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	health, err := f.peer.Health(call)
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	if err := f.busy(health); err != nil {
		return err
	}
	if sum, ok := basilica.ImageBlob(f.task.Spec.Image); ok {
		if err := f.push(ctx, sum); err != nil {
			return fmt.Errorf("send image: %w", err)
		}
	}
	for _, in := range f.task.Spec.Inputs {
		if err := f.push(ctx, in.SHA256); err != nil {
			return fmt.Errorf("send input %q: %w", in.Name, err)
		}
	}
	return nil
}

// busy says that the executor would refuse the task now, by its own word: to ask it would only move the inputs in vain.
func (f *follower) busy(h basilica.Health) error {
	free, spec := 0, &f.task.Spec
	var holder *basilica.Holding
	for _, g := range f.member.Facts.GPUs {
		if g.Kind == basilica.GPUSoftware && !spec.AllowSoftware {
			continue
		}
		if i := slices.IndexFunc(h.Ledger, func(held basilica.Holding) bool { return slices.Contains(held.GPUs, g.UUID) }); i >= 0 {
			holder = &h.Ledger[i]
		} else {
			free++
		}
	}
	switch {
	case free < spec.GPUs && holder != nil:
		return basilica.NewHeld(*holder)
	case h.MaxTasks > 0 && h.Tasks >= h.MaxTasks:
		return basilica.E(basilica.Exhausted, "CONTAINERS_FULL", fmt.Sprintf("the machine runs %d of at most %d containers", h.Tasks, h.MaxTasks), "wait for one to end")
	}
	return nil
}

func (f *follower) push(ctx context.Context, sum basilica.Digest) (err error) {
	r, size, err := f.m.Blobs.Open(sum)
	if basilica.KindOf(err) == basilica.NotFound {
		return basilica.E(basilica.Invalid, "INPUT_LOST", fmt.Sprintf("input %.12s… is not stored here any more", sum), "send the task again with its inputs").With(err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return f.peer.PutBlob(ctx, basilica.Blob{SHA256: sum, Size: size}, r)
}

func (f *follower) execute(ctx context.Context) (basilica.Holding, error) {
	t := &f.task
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	holding, err := f.peer.Execute(call, basilica.ExecuteRequest{Task: t.ID, Attempt: t.Attempt, Client: t.Client, Spec: t.SpecBytes, Lease: f.m.cfg.LostAfter})
	if err != nil {
		return holding, fmt.Errorf("execute: %w", err)
	}
	return holding, nil
}

// unknown asks the executor for the attempt's events: true where it answers that it knows of none.
func (f *follower) unknown(ctx context.Context) bool {
	known := errors.New("it has events")
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := f.peer.Watch(call, f.task.ID, f.task.Attempt, 0, func(basilica.TaskEvent) error { return known })
	return basilica.KindOf(err) == basilica.NotFound && !basilica.Unanswered(err)
}

// notHeld decides what becomes of a task that its executor does not hold and will not get: from one that is busy or away
// the placement is taken back, an invalid task fails, everything else is tried elsewhere a bounded number of times. doubt
// says that the executor was asked without an answer before it said so: a question may still be on its way, so the
// attempt's number is never used again, and the executor is told to end what it may become.
func (f *follower) notHeld(ctx context.Context, err error, doubt bool) error {
	m, t := f.m, f.task
	if ctx.Err() != nil {
		return ctx.Err()
	}
	kind, why := basilica.KindOf(err), reasonOf(err)
	switch {
	case !doubt && (kind == basilica.Unavailable || kind == basilica.Conflict && !isCode(err, "ATTEMPT_STALE") || isCode(err, "MEMORY_FULL", "CONTAINERS_FULL")):
		gpus, memory := 0, int64(0)
		if kind == basilica.Conflict {
			gpus = t.Spec.GPUs
		}
		if isCode(err, "MEMORY_FULL") {
			memory = t.Spec.MemoryBytes
		}
		m.news.refused(t.Executor, gpus, memory, m.Now(), m.backoff)
		m.Log.InfoContext(ctx, "executor is busy", "task", t.ID, "executor", t.Executor, "err", err)
		return settled(m.Store.Withdraw(ctx, t.ID, t.Fence, why))
	case kind == basilica.Invalid || tries(t) >= m.cfg.MaxAttempts:
		m.Log.WarnContext(ctx, "executor did not take the task", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "err", err)
		return f.end(ctx, t, basilica.TaskFailed, why, doubt)
	}
	m.Log.WarnContext(ctx, "executor did not take the task", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "err", err)
	if doubt {
		if err := f.again(ctx, t, why, false, true); err != nil {
			return err
		}
		return f.end(ctx, t, basilica.TaskCancelled, cancelled(), true) // by its client, meanwhile
	}
	return settled(m.Store.Refused(ctx, t.ID, t.Fence, m.backoff(tries(t)), why))
}

// tries counts the attempts at a task, with the present one.
func tries(t basilica.TaskRecord) int {
	n := 1
	for _, refused := range t.Refused {
		n += refused
	}
	return n
}

// backoff is the wait after the n-th try, from 1.
func (m *Miner) backoff(n int) time.Duration {
	return min(m.cfg.Retry<<min(n-1, 10), maxRetryWait)
}

// lose ends an attempt through no fault of the job. One that certainly never ran is repeated, a bounded number of times;
// one that may have run only as often as its client allows, for running it twice may do harm. abandoned says that the
// executor may still hold it.
func (f *follower) lose(ctx context.Context, t basilica.TaskRecord, why basilica.Reason, ran, abandoned bool) error {
	if err := f.again(ctx, t, why, ran, abandoned); err != nil {
		return err
	}
	return f.end(ctx, t, basilica.TaskLost, why, abandoned)
}

// again puts a lost task back into the queue where the rule allows it, and gives errSettled; nil where it does not.
func (f *follower) again(ctx context.Context, t basilica.TaskRecord, why basilica.Reason, ran, abandoned bool) error {
	m := f.m
	now, err := m.Store.Task(ctx, t.ID)
	if err != nil {
		return err
	}
	if now.Cancel || ran && t.Retries >= t.Spec.Retries || tries(t) >= m.cfg.MaxAttempts+t.Spec.Retries {
		return nil
	}
	start, err := m.Logs.Size(t.ID)
	if err != nil {
		return err
	}
	if err := m.Store.Retry(ctx, t.ID, t.Fence, m.backoff(tries(t)), why, start, ran, abandoned); err != nil {
		return settled(err)
	}
	m.Log.WarnContext(ctx, "attempt lost; the task is placed again", "task", t.ID, "attempt", t.Attempt, "executor", t.Executor, "code", why.Code, "may_have_run", ran)
	m.bell.ring(t.ID)
	if !abandoned {
		f.released(ctx, t)
	}
	return errSettled
}

// released has the executor forget the attempt; where it cannot, tidy tries again.
func (f *follower) released(ctx context.Context, t basilica.TaskRecord) {
	if err := f.m.release(ctx, f.peer, t.TaskRef()); err != nil {
		f.m.Log.DebugContext(ctx, "attempt not released yet", "task", t.ID, "err", err)
	}
}

// watch takes the attempt's events, resuming the stream where it breaks, until the terminal one. It does not give up by
// itself: tend does, when the lease has ended.
func (f *follower) watch(ctx context.Context) error {
	for try := 1; ; try++ {
		offset, err := f.m.Logs.Size(f.task.ID)
		if err != nil {
			return err
		}
		err = f.peer.Watch(ctx, f.task.ID, f.task.Attempt, max(offset-f.task.LogStart, 0), func(e basilica.TaskEvent) error {
			try = 1
			return f.event(ctx, e)
		})
		if errors.Is(err, errSettled) || ctx.Err() != nil {
			return err
		}
		if basilica.KindOf(err) == basilica.NotFound && !basilica.Unanswered(err) {
			return f.lose(ctx, f.task, basilica.Reason{
				Code: "ATTEMPT_UNKNOWN", Sentence: fmt.Sprintf("executor %s does not know the task any more", f.task.Executor), Fix: fixLost,
			}, true, true)
		}
		f.m.Log.DebugContext(ctx, "watch again", "task", f.task.ID, "executor", f.task.Executor, "err", err)
		if err := rest(ctx, f.m.backoff(max(try, f.noRoom))); err != nil {
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
		chunk := *e.Log
		chunk.Offset += t.LogStart
		if err := m.Logs.Append(t.ID, chunk); err != nil {
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

// finish takes the terminal event: receipt checked and countersigned, outputs fetched, task ended. An attempt that was
// lost, or ended because the machine was drained, is no fault of the job.
func (f *follower) finish(ctx context.Context, e basilica.TaskEvent) error {
	m, t := f.m, f.task
	if e.Receipt == nil && e.State == basilica.TaskLost {
		why := basilica.Reason{Code: "EXECUTOR_LOST", Sentence: "the executor did not witness the task's end", Fix: fixLost}
		if e.Reason != nil {
			why = *e.Reason
		}
		return f.lose(ctx, t, why, true, false)
	}
	receipt, signed, err := f.countersign(e)
	if err != nil {
		m.Log.WarnContext(ctx, "receipt refused", "task", t.ID, "executor", t.Executor, "err", err)
		return f.end(ctx, t, basilica.TaskLost, basilica.Reason{Code: "RECEIPT_REFUSED", Sentence: "the executor's receipt is not valid: " + sentenceOf(err), Fix: "run it on another miner: basilica ls"}, false)
	}
	why, blameless, err := f.blameless(ctx, receipt)
	if err != nil {
		return err
	}
	if blameless {
		if err := f.again(ctx, t, *why, !receipt.Started.IsZero(), false); err != nil {
			return err
		}
	}
	m.blobUse.RLock()
	defer m.blobUse.RUnlock()
	if err := f.fetchOutputs(ctx, receipt.Outputs); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if basilica.KindOf(err) == basilica.Unavailable {
			return err // the executor or our own disk is away: the claim runs out and the next one tries again
		}
		if isCode(err, "BLOB_SPACE") { // the executor keeps them until there is room here
			if f.noRoom++; f.noRoom == 1 {
				m.Log.WarnContext(ctx, "no room for outputs; they are fetched when there is", "task", t.ID, "executor", t.Executor, "err", err)
			}
			return err
		}
		m.Log.WarnContext(ctx, "outputs not fetched", "task", t.ID, "executor", t.Executor, "err", err)
		return f.end(ctx, t, basilica.TaskLost, basilica.Reason{Code: "OUTPUTS_LOST", Sentence: "the task's outputs could not be fetched: " + sentenceOf(err), Fix: fixLost}, false)
	}
	t.ExitCode, t.Outputs, t.Receipt, t.Started = receipt.ExitCode, receipt.Outputs, &signed, nil
	if !receipt.Started.IsZero() {
		t.Started = &receipt.Started
	}
	return f.conclude(ctx, t, receipt.State, why, receipt.Ended, false)
}

// blameless gives the reason of an end, and says whether it came about through no fault of the job and by no wish of its
// client.
func (f *follower) blameless(ctx context.Context, r basilica.Receipt) (*basilica.Reason, bool, error) {
	switch r.State {
	case basilica.TaskLost:
		why := r.Reason
		if why == nil {
			why = &basilica.Reason{Code: "EXECUTOR_LOST", Sentence: "the executor did not witness the task's end", Fix: fixLost}
		}
		return why, true, nil
	case basilica.TaskCancelled:
		t, err := f.m.Store.Task(ctx, r.Task)
		if err != nil || t.Cancel {
			return r.Reason, false, err
		}
		e, err := f.m.Store.Member(ctx, f.task.Executor)
		if err != nil || !e.DrainOver {
			return r.Reason, false, err
		}
		return &basilica.Reason{Code: "DRAINED", Sentence: fmt.Sprintf("executor %s was taken out of service while the task ran", e.Executor), Fix: fixLost}, true, nil
	}
	return r.Reason, false, nil
}

// end ends the task without an executor's receipt.
func (f *follower) end(ctx context.Context, t basilica.TaskRecord, state basilica.TaskState, why basilica.Reason, abandoned bool) error {
	t.Outputs, t.Receipt, t.ExitCode = nil, nil, nil
	return f.conclude(ctx, t, state, &why, time.Time{}, abandoned)
}

// conclude records the end of a task. at is when it ended as its receipt says; zero: now. A machine's clock does not have
// a task end before it was submitted, or later than now.
func (f *follower) conclude(ctx context.Context, t basilica.TaskRecord, state basilica.TaskState, why *basilica.Reason, at time.Time, abandoned bool) (err error) {
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
	ended := m.Now()
	if !at.IsZero() && at.After(t.Created) && at.Before(ended) {
		ended = at
	}
	t.Reason, t.Ended = why, &ended
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
		f.released(ctx, t)
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

// fetchOutputs stores the outputs here, trying a bounded number of times. A store without room is asked once: nothing is
// swept from it while blobUse is held.
func (f *follower) fetchOutputs(ctx context.Context, outputs []basilica.TaskFile) error {
	for _, out := range outputs {
		for try := 1; ; try++ {
			err := f.fetch(ctx, out.Blob)
			if err == nil {
				break
			}
			if try >= f.m.cfg.MaxAttempts || ctx.Err() != nil || isCode(err, "BLOB_SPACE") {
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
