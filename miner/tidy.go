package miner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// tidy has executors forget ended attempts, and forgets old tasks, blobs and logs, until ctx ends. First it looks for what
// a crash left between a file and the row that speaks of it.
func (m *Miner) tidy(ctx context.Context) error {
	if err := m.reconcile(ctx); err != nil && ctx.Err() == nil {
		m.Log.ErrorContext(ctx, "look for what an earlier process left", "err", err)
	}
	var swept time.Time
	for {
		if err := m.releaseEnded(ctx); err != nil && ctx.Err() == nil {
			m.Log.ErrorContext(ctx, "release ended attempts", "err", err)
		}
		if now := m.Now(); swept.IsZero() || now.Sub(swept) >= sweepEvery {
			swept = now
			if err := m.sweep(ctx); err != nil && ctx.Err() == nil {
				m.Log.ErrorContext(ctx, "forget old content", "err", err)
			}
		}
		if err := rest(ctx, m.cfg.ReleaseEvery); err != nil {
			return err
		}
	}
}

// reconcile removes content that nobody owns and logs that no task has, and disowns content that is not here: an earlier
// process may have died between the two writes.
func (m *Miner) reconcile(ctx context.Context) error {
	m.blobUse.Lock()
	defer m.blobUse.Unlock()
	sums, err := m.Blobs.Sums()
	if err != nil {
		return err
	}
	here, dropped := map[basilica.Digest]bool{}, 0
	for _, sum := range sums {
		owned, err := m.Store.BlobOwned(ctx, sum)
		if err != nil {
			return err
		}
		if here[sum] = owned; owned {
			continue
		}
		if err := m.Blobs.Delete(sum); err != nil {
			return err
		}
		dropped++
	}
	disowned, err := m.Store.DisownBlobs(ctx, func(sum basilica.Digest) (bool, error) {
		if here[sum] {
			return true, nil
		}
		// Whether it is here now counts: it may have come since the list was made.
		r, _, err := m.Blobs.Open(sum)
		if err != nil {
			if basilica.KindOf(err) == basilica.NotFound {
				err = nil
			}
			return false, err
		}
		return true, r.Close()
	})
	if err != nil {
		return err
	}
	names, err := m.Logs.Names()
	if err != nil {
		return err
	}
	logs := 0
	for _, id := range names {
		kept, err := m.Store.LogKept(ctx, id)
		if err != nil {
			return err
		}
		if kept {
			continue
		}
		if err := m.Logs.Forget(id); err != nil {
			return err
		}
		logs++
	}
	if dropped+disowned+logs > 0 {
		m.Log.WarnContext(ctx, "an earlier process ended in the middle of its work", "blobs_without_owner", dropped, "owners_without_blob", disowned, "logs_without_task", logs)
	}
	return nil
}

// sweep forgets what is older than it is kept. One part that fails does not keep the others from it.
func (m *Miner) sweep(ctx context.Context) error {
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	living := map[basilica.TaskID]bool{}
	for _, t := range open {
		living[t.ID] = true
	}
	errs := []error{
		m.Store.ForgetLogs(ctx, m.cfg.KeepLogs, sweepAtOnce, m.Logs.Forget),
		m.Logs.Shrink(keepLogBytes, func(id basilica.TaskID) bool { return living[id] }),
		m.Store.ForgetTasks(ctx, m.cfg.KeepTasks, sweepAtOnce),
		m.Blobs.ForgetParts(m.Now().Add(-m.cfg.KeepBlobs)),
	}
	if !m.blobUse.TryLock() { // content is on its way in; the next round comes
		return errors.Join(errs...)
	}
	defer m.blobUse.Unlock()
	n, err := m.Store.ForgetBlobs(ctx, m.cfg.KeepBlobs, sweepAtOnce, m.Blobs.Delete)
	if err == nil && n > 0 {
		m.Log.InfoContext(ctx, "old content forgotten", "blobs", n)
	}
	return errors.Join(append(errs, err)...)
}

// releaseEnded goes through the attempts that executors have still to forget, every executor beside the others.
func (m *Miner) releaseEnded(ctx context.Context) error {
	left, err := m.Store.Unreleased(ctx, 1000)
	if err != nil {
		return fmt.Errorf("list ended attempts: %w", err)
	}
	byExecutor := map[basilica.ExecutorID][]basilica.TaskAttempt{}
	for _, a := range left {
		byExecutor[a.Executor] = append(byExecutor[a.Executor], a.TaskAttempt)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for id, attempts := range byExecutor {
		g.Go(func() error {
			e, err := m.Store.Member(ctx, id)
			if err != nil {
				return err
			}
			if m.away(e) != nil {
				return nil
			}
			for _, a := range attempts {
				if err := m.release(ctx, m.Executor(e.Executor, e.Addr), a); err != nil {
					m.Log.DebugContext(ctx, "attempt not released yet", "task", a.Task, "executor", id, "err", err)
					if basilica.KindOf(err) == basilica.Unavailable {
						return nil
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// release has an executor forget an attempt; one that it does not know is forgotten already.
func (m *Miner) release(ctx context.Context, peer basilica.Executor, a basilica.TaskAttempt) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := peer.Release(call, a.Task, a.Attempt); err != nil && basilica.KindOf(err) != basilica.NotFound {
		return err
	}
	return m.Store.Released(ctx, a)
}
