package executor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"basilica"
)

// exit code that an engine gives a container whose end it did not see.
const unseenExit = 255

// startSettles is how often a container is looked at again whose start may be under way, againEvery between two looks.
const startSettles = 6

// fate is what becomes of an attempt that an earlier process left open: it begins (again), it is lost, or, where it is
// neither, it goes on with its container.
type fate struct {
	begin bool
	lost  *basilica.Reason
}

// judge decides by what is on record of the attempt and what the engine says of its container (nil: there is none). An end
// counts when it was witnessed: by the engine process that started the container, in the same boot of the machine, or by
// this machine's earlier process, which saw it run.
func judge(a basilica.Attempt, found *basilica.ContainerState, boot string, engine basilica.EngineProcess) fate {
	lost := func(code, sentence string) fate {
		return fate{lost: &basilica.Reason{Code: code, Sentence: sentence, Fix: fixLost}}
	}
	rebooted := a.Boot != boot
	switch {
	case found == nil && a.Container == "", found != nil && found.Started.IsZero() && !found.Running && !found.Removing && a.Started.IsZero():
		return fate{begin: true} // nothing of it ever ran
	case rebooted && a.Container != "":
		return lost("HOST_REBOOTED", "the machine started anew while the task ran, and nobody saw how the task ended")
	case found == nil || found.Removing:
		return lost("CONTAINER_REMOVED", "somebody removed the task's container, so nobody knows how the task ended")
	case a.Container != found.ID || found.Started.IsZero():
		return lost("UNWITNESSED", "the container's end was not seen")
	case found.Running:
		return fate{}
	case a.Started.IsZero() && (a.Engine == "" || a.Engine != engine.ID):
		return lost("UNWITNESSED", "the container's end was not seen")
	}
	return fate{lost: untrusted(a, found.End, engine)}
}

// untrusted says why the engine's word on a container's end does not count; nil where it does. An engine that was started
// anew may have ended the container itself, or not have seen its end.
func untrusted(a basilica.Attempt, end basilica.ContainerEnd, engine basilica.EngineProcess) *basilica.Reason {
	if a.Engine == "" || engine.ID == "" || a.Engine == engine.ID || engine.KeepsRestarts && end.ExitCode != unseenExit {
		return nil
	}
	return &basilica.Reason{Code: "ENGINE_RESTARTED", Sentence: "the machine's container engine was started anew while the task ran, which ends containers", Fix: fixLost}
}

// askedFor says why an earlier process asked for a container's end; nil where it did not, or where the job was faster than
// a process that only wanted to end itself.
func askedFor(a basilica.Attempt, found basilica.ContainerState) error {
	for _, cause := range causes {
		if a.Stopping == cause.Error() {
			return cause
		}
	}
	if a.Stopping == errShutdown.Error() && !found.Running && (found.End.ExitCode == killed || found.End.ExitCode == terminated) {
		return errShutdown
	}
	return nil
}

// recover finds out what an earlier process of this machine left. It removes what belongs to nobody and gives the attempts
// that are still open, each with what there is of it.
func (e *Executor) recover(ctx context.Context) ([]inheritance, error) {
	begin, up, err := e.cfg.Ledger.TimeLine(ctx, e.cfg.Boot, e.cfg.Now(), e.cfg.Uptime())
	if err != nil {
		return nil, fmt.Errorf("find the ledger's time line: %w", err)
	}
	revoked, err := e.cfg.Marks.RevokedGrants(ctx)
	if err != nil {
		return nil, fmt.Errorf("read revoked grants: %w", err)
	}
	e.mu.Lock()
	e.begin, e.beginUp, e.revoked = begin, up, revoked
	e.mu.Unlock()
	if err := os.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	inherited, err := e.inherit(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.settleLedger(ctx, inherited); err != nil {
		return nil, err
	}
	if err := e.removeOrphans(ctx, inherited...); err != nil { // tidy tries again
		e.cfg.Log.Error("something of an earlier process remains", "err", err)
	}
	return inherited, e.dropUnknownBlobs(ctx)
}

// inherit judges the attempts that an earlier process left open.
func (e *Executor) inherit(ctx context.Context) ([]inheritance, error) {
	open, err := e.cfg.Attempts.OpenAttempts(ctx)
	if err != nil {
		return nil, fmt.Errorf("read open attempts: %w", err)
	}
	own, err := e.cfg.Engine.List(ctx, LabelMachine, e.cfg.Machine)
	if err != nil {
		return nil, err
	}
	engine, err := e.cfg.Engine.Process(ctx)
	if err != nil {
		return nil, err
	}
	now := e.ledgerNow()
	ledger, err := e.cfg.Ledger.Ledger(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	holds := map[uint64]bool{}
	for _, h := range ledger {
		holds[h.Fence] = h.Expires.After(now)
	}
	var out []inheritance
	for _, a := range open {
		i := inheritance{attempt: a}
		for _, c := range own {
			if c.Labels[labelTask] == string(a.Task) && c.Labels[labelAttempt] == strconv.Itoa(a.Number) {
				st, err := e.settled(ctx, a, c.ID)
				if basilica.KindOf(err) == basilica.NotFound {
					continue
				}
				if err != nil {
					return nil, err
				}
				i.found = &st
			}
		}
		f := judge(a, i.found, e.cfg.Boot, engine)
		if i.again, i.lost = f.begin, f.lost; i.again {
			i.found = nil
			if !holds[a.Holding.Fence] {
				i.again, i.lost = false, &basilica.Reason{Code: "LEASE_ENDED", Sentence: "the executor was away until the task's lease ended, and had not begun it", Fix: fixLost}
			}
		}
		if i.found != nil && i.lost == nil {
			i.cause = askedFor(a, *i.found)
		}
		if i.demand, err = e.demandOf(a.Spec); err != nil {
			e.cfg.Log.Warn("recorded task is over this machine's present limits", "task", string(a.Task), "attempt", a.Number, "err", err)
		}
		out = append(out, i)
	}
	return out, nil
}

// settled inspects a container. One that is on record and was not started may be about to: the engine goes on with what a
// process asked for that has died since, and beginning the task anew beside it would run it twice.
func (e *Executor) settled(ctx context.Context, a basilica.Attempt, id string) (basilica.ContainerState, error) {
	st, err := e.cfg.Engine.Inspect(ctx, id)
	for range startSettles {
		if err != nil || a.Container != id || a.Boot != e.cfg.Boot || st.Running || st.Removing || !st.Started.IsZero() {
			break
		}
		select {
		case <-time.After(againEvery):
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
		st, err = e.cfg.Engine.Inspect(ctx, id)
	}
	return st, err
}

// settleLedger takes the holdings of an earlier process out of the ledger, but for those of attempts that are still open
// and of what cannot be ended. A challenge ended with the process that served it.
func (e *Executor) settleLedger(ctx context.Context, inherited []inheritance) error {
	keep := map[uint64]bool{}
	for _, i := range inherited {
		keep[i.attempt.Holding.Fence] = true
	}
	quarantined, err := e.cfg.Ledger.Quarantined(ctx)
	if err != nil {
		return fmt.Errorf("read quarantine: %w", err)
	}
	for _, r := range quarantined {
		if keep[r.Fence] {
			continue
		}
		if r.Boot == e.cfg.Boot {
			keep[r.Fence] = true
			e.leave(ctx, r)
		}
	}
	ended, err := e.cfg.Attempts.EndedHolding(ctx)
	if err != nil {
		return fmt.Errorf("read ended attempts: %w", err)
	}
	for _, a := range ended {
		keep[a.Holding.Fence] = true
		e.leave(ctx, basilica.Remains{TaskAttempt: a.Key(), Fence: a.Holding.Fence, Container: a.Container, Boot: e.cfg.Boot})
	}
	ledger, err := e.cfg.Ledger.Ledger(ctx, e.ledgerNow())
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	for _, h := range ledger {
		if !keep[h.Fence] {
			if err := e.cfg.Ledger.Leave(ctx, h.Fence); err != nil {
				return fmt.Errorf("settle ledger: %w", err)
			}
		}
	}
	return nil
}
