package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"basilica"
)

// sweeps ends attempts whose lease ran out, until ctx ends.
func (e *Executor) sweeps(ctx context.Context) error {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			e.endLeases(ctx)
		}
	}
}

// removals retries what could not be removed, and forgets what nobody needs, until ctx ends. An engine may take long over
// each of them, which is no reason for a lease to last longer.
func (e *Executor) removals(ctx context.Context) error {
	retry, tidy := time.NewTicker(retryEvery), time.NewTicker(tidyEvery)
	defer retry.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
			e.retryStuck(ctx)
		case <-tidy.C:
			e.tidy(ctx)
		}
	}
}

// endLeases stops the attempts whose holding expired: their miner no longer counts on them.
func (e *Executor) endLeases(ctx context.Context) {
	now := e.ledgerNow()
	ledger, err := e.cfg.Ledger.Ledger(ctx, now)
	if err != nil {
		if ctx.Err() == nil {
			e.cfg.Log.Error("ledger not read", "err", err)
		}
		return
	}
	expired := map[uint64]bool{}
	for _, h := range ledger {
		expired[h.Fence] = !h.Expires.After(now)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for at, l := range e.live {
		if expired[l.fence] {
			e.cfg.Log.Warn("lease ran out", "task", at.Task, "attempt", at.Attempt)
			l.stop(errLeaseEnded)
		}
	}
}

// retryStuck tries again to remove what could not be removed, one try at a time. What is being tried stays stuck until it is
// gone.
func (e *Executor) retryStuck(ctx context.Context) {
	e.retrying.Lock()
	defer e.retrying.Unlock()
	e.mu.Lock()
	stuck := slices.Clone(e.stuck)
	e.mu.Unlock()
	for _, r := range stuck {
		e.leave(ctx, r)
	}
}

// removeOrphans removes containers and files that belong to no task and no check: an engine may finish late what it was
// asked for, and a removal may have failed. Who makes one is in live or checked before, so what is in neither, was not
// inherited and is not left to the next process has ended.
func (e *Executor) removeOrphans(ctx context.Context, inherited ...inheritance) error {
	own, err := e.cfg.Engine.List(ctx, LabelMachine, e.cfg.Machine)
	if err != nil {
		return err
	}
	dirs, err := os.ReadDir(e.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list working directories: %w", err)
	}
	used := map[basilica.TaskID]bool{}
	for _, i := range inherited {
		used[logName(i.attempt.Key())] = true
	}
	e.mu.Lock()
	for at := range e.kept {
		used[logName(at)] = true
	}
	for at := range e.live {
		used[logName(at)] = true
	}
	for at := range e.checked {
		used[logName(at)] = true
	}
	e.mu.Unlock()
	var errs []error
	for _, c := range own {
		if !used[basilica.TaskID(c.Labels[labelTask]+"."+c.Labels[labelAttempt])] {
			errs = append(errs, e.cfg.Engine.Remove(ctx, c.ID))
		}
	}
	for _, d := range dirs {
		if !used[basilica.TaskID(d.Name())] {
			errs = append(errs, e.removeDir(filepath.Join(e.cfg.Dir, d.Name())))
		}
	}
	return errors.Join(errs...)
}

// tidy removes what belongs to nobody, and forgets attempts that nobody released for a week and blobs that no attempt
// needs.
func (e *Executor) tidy(ctx context.Context) {
	now := e.cfg.Now()
	old, err := e.cfg.Attempts.EndedBefore(ctx, now.Add(-forgottenAfter))
	for _, a := range old {
		err = errors.Join(err, e.Release(ctx, a.Task, a.Number))
	}
	err = errors.Join(err, e.forgetBlobs(ctx), e.removeOrphans(ctx), e.forgetImages(ctx, e.keepUnused(ctx)), e.forgetRevoked(ctx, now.Add(-revokedFor)))
	if err != nil && ctx.Err() == nil {
		e.cfg.Log.Error("something old is not forgotten or not removed", "err", err)
	}
}

// keepUnused is how long an image that no attempt needs is kept: not at all while a disk is full.
func (e *Executor) keepUnused(ctx context.Context) time.Duration {
	const full = "DISK_FULL"
	if basilica.CodeOf(e.roomFor(0)) == full || basilica.CodeOf(e.engineNow(ctx).room) == full {
		return 0
	}
	return unusedImages
}

// forgetRevoked forgets the grants whose end was learnt before the given time; no certificate of them lives any more.
func (e *Executor) forgetRevoked(ctx context.Context, before time.Time) error {
	e.mu.Lock()
	known := len(e.revoked)
	maps.DeleteFunc(e.revoked, func(_ basilica.GrantID, at time.Time) bool { return at.Before(before) })
	same := len(e.revoked) == known
	e.mu.Unlock()
	if same {
		return nil
	}
	return e.cfg.Marks.ForgetRevoked(ctx, before)
}
