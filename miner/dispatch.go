package miner

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"basilica"
)

// Queue moves tasks through their life. A claim's fencing number stands in the record that Claim gives; a change under an
// older number, or of an ended task, is a Conflict.
type Queue interface {
	OpenTasks(ctx context.Context) ([]basilica.TaskRecord, error)
	Place(ctx context.Context, id basilica.TaskID, executor basilica.ExecutorID, now time.Time) error
	EndQueued(ctx context.Context, id basilica.TaskID, state basilica.TaskState, why basilica.Reason, now time.Time) error
	Claim(ctx context.Context, worker string, life time.Duration, limit int) ([]basilica.TaskRecord, error)
	KeepClaim(ctx context.Context, id basilica.TaskID, fence uint64, life time.Duration) error
	Offer(ctx context.Context, id basilica.TaskID, fence uint64, lease time.Duration) error
	Accept(ctx context.Context, id basilica.TaskID, fence uint64, gpus []string, lease time.Duration) error
	Advance(ctx context.Context, id basilica.TaskID, fence uint64, state basilica.TaskState, started time.Time) error
}

// Attempts ends attempts and remembers those that an executor has still to forget.
type Attempts interface {
	Withdraw(ctx context.Context, id basilica.TaskID, fence uint64, why basilica.Reason) error
	Refused(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason) error
	Retry(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason, logStart int64, ran, abandoned bool) error
	End(ctx context.Context, t basilica.TaskRecord, abandoned bool) error
	Unreleased(ctx context.Context, limit int) ([]basilica.AttemptRecord, error)
	Released(ctx context.Context, a basilica.TaskAttempt) error
}

const (
	claimLife    = 15 * time.Second
	claimsAtOnce = 64
	maxRetryWait = 10 * time.Second
	callTimeout  = 20 * time.Second // of one short call to an executor
	sweepEvery   = 10 * time.Minute
	sweepAtOnce  = 1000     // rows of a kind, so that one round is short
	keepLogBytes = 32 << 30 // of all logs together
)

// waits remembers why queued tasks wait, as the last round of placement found.
type waits struct {
	mu   sync.Mutex // guards last
	last map[basilica.TaskID]basilica.Reason
}

func (w *waits) of(id basilica.TaskID) (basilica.Reason, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.last[id]
	return r, ok
}

// set takes the new reasons and lists the tasks whose code has changed.
func (w *waits) set(now map[basilica.TaskID]basilica.Reason) (changed []basilica.TaskID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, why := range now {
		if w.last[id].Code != why.Code {
			changed = append(changed, id)
		}
	}
	w.last = maps.Clone(now)
	return changed
}

// dispatch places queued tasks and follows placed ones until ctx ends. What it has to do stands in the store, so that it
// goes on where an earlier process stopped.
func (m *Miner) dispatch(ctx context.Context) error {
	worker := "w-" + randomName()
	var followers sync.WaitGroup
	defer followers.Wait()
	for {
		changed := m.bell.next("")
		wait := m.cfg.Tick
		next, err := m.placeQueued(ctx)
		if err == nil {
			wait = min(wait, next)
			err = m.claim(ctx, worker, &followers)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			m.Log.ErrorContext(ctx, "dispatch", "err", err)
			changed = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// placeQueued runs placement over the queue and gives the time until the next refused task may be offered again.
func (m *Miner) placeQueued(ctx context.Context) (next time.Duration, err error) {
	next = m.cfg.Tick
	members, open, err := m.fleetAndTasks(ctx)
	if err != nil {
		return next, err
	}
	now := m.Now()
	if err := m.endCancelled(ctx, open, now); err != nil {
		return next, err
	}
	queue := queueOf(open)
	for _, w := range queue {
		if w.wait > 0 {
			next = min(next, w.wait)
		}
	}
	fleet := m.boxes(members, open)
	for _, b := range fleet {
		if b.pause != nil {
			next = min(next, b.pause.left)
		}
	}
	p := place(fleet, queue)
	for _, w := range p.placements {
		if err := m.Store.Place(ctx, w.task, w.executor, now); err != nil && !isCode(err, "TASK_NOT_QUEUED") {
			return next, fmt.Errorf("place task %s: %w", w.task, err)
		}
		m.Log.InfoContext(ctx, "task placed", "task", w.task, "executor", w.executor)
		m.bell.ring(w.task)
	}
	for id, why := range p.impossible {
		reason := reasonOf(why)
		if err := m.Store.EndQueued(ctx, id, basilica.TaskFailed, reason, now); err != nil && !isCode(err, "TASK_NOT_QUEUED") {
			return next, fmt.Errorf("end task %s: %w", id, err)
		}
		m.Log.InfoContext(ctx, "task ended", "task", id, "state", basilica.TaskFailed, "code", reason.Code)
		m.bell.ring(id)
	}
	m.bell.ring(m.waits.set(p.waiting)...)
	return next, nil
}

// endCancelled ends what its client cancelled while an executor was asked for it, and that came back to the queue.
func (m *Miner) endCancelled(ctx context.Context, open []basilica.TaskRecord, now time.Time) error {
	for _, t := range open {
		if t.State != basilica.TaskQueued || !t.Cancel {
			continue
		}
		if err := m.Store.EndQueued(ctx, t.ID, basilica.TaskCancelled, cancelled(), now); err != nil && !isCode(err, "TASK_NOT_QUEUED") {
			return fmt.Errorf("end task %s: %w", t.ID, err)
		}
		m.Log.InfoContext(ctx, "task ended", "task", t.ID, "state", basilica.TaskCancelled, "code", cancelled().Code)
		m.bell.ring(t.ID)
	}
	return nil
}

// queueOf is what waits for a place, as placement sees it.
func queueOf(open []basilica.TaskRecord) []wanted {
	var queue []wanted
	for _, t := range open {
		if t.State != basilica.TaskQueued || t.Cancel {
			continue
		}
		w := wantedOf(t.ID, &t.Spec)
		w.refused, w.wait = t.Refused, t.Wait
		queue = append(queue, w)
	}
	return queue
}

// claim starts a follower for every placed task that has none.
func (m *Miner) claim(ctx context.Context, worker string, followers *sync.WaitGroup) error {
	for {
		claimed, err := m.Store.Claim(ctx, worker, claimLife, claimsAtOnce)
		if err != nil {
			return fmt.Errorf("claim tasks: %w", err)
		}
		for _, t := range claimed {
			followers.Go(func() { m.follow(ctx, t) })
		}
		if len(claimed) < claimsAtOnce {
			return nil
		}
	}
}

// reasonOf makes a reason of an error: its code, sentence and fix, one word where it is a fault of ours.
func reasonOf(err error) basilica.Reason {
	code := basilica.CodeOf(err)
	if code == "" {
		return basilica.Reason{Code: "EXECUTOR_FAILED", Sentence: "the executor could not take the task"}
	}
	return basilica.Reason{Code: code, Sentence: sentenceOf(err), Fix: basilica.FixOf(err)}
}
