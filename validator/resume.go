package validator

import (
	"context"
	"fmt"
	"time"

	"basilica"
	"basilica/score"
)

// steady is a clock that starts at the wall's time, or where the store's last word stands if that is later, and then moves
// with a clock that nobody can set: a wall clock that is stepped while the validator runs moves no verdict's time, and none
// is ever earlier than one that was stored before.
func steady(wall time.Time, stored time.Time, uptime func() time.Duration) func() time.Time {
	base := wall
	if stored.After(base) {
		base = stored
	}
	began := uptime()
	return func() time.Time { return base.Add(uptime() - began) }
}

// load reads what the last process left: standings, pins, and how far rounds and weights had come.
func (v *Validator) load(ctx context.Context) (err error) {
	if v.standings, _, err = v.cfg.Book.Standings(ctx); err != nil {
		return fmt.Errorf("read standings: %w", err)
	}
	if v.pins, err = v.cfg.Book.Pins(ctx); err != nil {
		return fmt.Errorf("read pins: %w", err)
	}
	// Restarts in a row may have left as many rounds that brought nothing after one whose weights are still to come.
	rounds, err := v.cfg.Book.Rounds(ctx, lastRounds)
	if err != nil {
		return fmt.Errorf("read the last rounds: %w", err)
	}
	last := time.Time{}
	if len(rounds) > 0 {
		if last = rounds[0].Ended; last.IsZero() {
			last = rounds[0].Started
		}
	}
	for _, r := range rounds {
		if v.completed == nil && !r.Ended.IsZero() && (r.Outcome.Code == outcomeCompleted || r.Outcome.Code == outcomeCut) {
			id := r.ID()
			v.completed, v.completedAt = &id, r.First
		}
	}
	v.now = steady(v.cfg.Now(), last, v.cfg.Uptime)
	if ahead := v.now().Sub(v.cfg.Now()); ahead > clockAhead {
		v.cfg.Log.Warn("the clock stands before the end of the last round", "seconds", int(ahead.Seconds()), "fix", "set the machine's clock; until it has caught up, times are counted on from the last round's")
	}
	intent, found, err := v.cfg.Book.LastWeights(ctx)
	if err != nil {
		return fmt.Errorf("read the last weights: %w", err)
	}
	switch {
	case found && intent.Settled:
		v.weighed = &intent.Round
	case found && intent.Lost: // the round may be weighed once more
	case found:
		v.attempted, v.notBefore = &attempt{set: intent.Set, round: intent.Round, signed: intent.Signed}, intent.Signed.Death
		v.cfg.Log.Warn("weights were on their way when the validator ended", "round", intent.Round.First, "extrinsic", intent.Signed.Extrinsic, "nonce", intent.Signed.Nonce, "until", intent.Signed.Death)
	}
	if v.held, err = v.cfg.Book.OpenCommits(ctx); err != nil {
		return fmt.Errorf("read the commits that are awaited: %w", err)
	}
	v.showCommits()
	return nil
}

// lastRounds is how many rounds a start looks back for one whose weights may still be sent.
const lastRounds = freshRounds + 1

// clockAhead is how far the store's last word may stand after the wall's time without a word of it.
const clockAhead = 2 * time.Second

// resume closes the rounds that a restart interrupted: who was judged keeps the verdict, who was not is not_run with a reason
// that has no effect on any score.
func (v *Validator) resume(ctx context.Context) error {
	open, err := v.cfg.Book.OpenRounds(ctx)
	if err != nil {
		return fmt.Errorf("read interrupted rounds: %w", asInternal(err))
	}
	for _, r := range open {
		mg, err := v.metagraph(ctx, r.First)
		if err != nil {
			return err
		}
		v.update(func(s *Status) { s.Head = max(s.Head, mg.Block) })
		found, err := v.left(ctx, r, mg)
		if err != nil {
			return err
		}
		judged, before, beforeAt := len(found)-unjudged(found), v.completed, v.completedAt
		v.cfg.Log.Warn("round was interrupted by a restart", "round", r.First, "judged", judged, "not_judged", unjudged(found))
		why := basilica.Reason{Code: score.ReasonRestarted, Sentence: fmt.Sprintf("the validator was restarted during this round: %d executors had been judged, %d had not", judged, unjudged(found))}
		if judged > 0 {
			why.Code = outcomeCut
		}
		if err := v.finish(ctx, r, mg, found, why); err != nil {
			return err
		}
		if judged == 0 {
			v.completed, v.completedAt = before, beforeAt // it brought nothing that weights could say
		}
	}
	return nil
}

func unjudged(found []inspection) (n int) {
	for _, f := range found {
		if f.verification.Verdict(basilica.CheckGPUProof).Reason == score.ReasonRestarted {
			n++
		}
	}
	return n
}

// left puts an interrupted round together: what was kept, and a row for every known executor that was not reached.
func (v *Validator) left(ctx context.Context, r basilica.Round, mg *basilica.Metagraph) ([]inspection, error) {
	verifications, pins, err := v.cfg.Book.Findings(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("read findings of round %d: %w", r.First, asInternal(err))
	}
	pinned, kept := map[basilica.ExecutorKey]*basilica.Pin{}, map[basilica.ExecutorKey]bool{}
	for i := range pins {
		pinned[pins[i].ExecutorKey] = &pins[i]
	}
	var found []inspection
	for _, x := range verifications {
		k := basilica.ExecutorKey{Miner: x.Miner, Executor: x.Executor}
		kept[k] = true
		found = append(found, inspection{verification: x, pin: pinned[k]})
	}
	for _, x := range v.discover(mg) {
		for _, id := range x.known {
			if kept[basilica.ExecutorKey{Miner: x.neuron.Hotkey, Executor: id}] {
				continue
			}
			missing, err := v.unmeasured(r, x.neuron, id, score.ReasonRestarted, "the validator was restarted before this executor's turn had ended")
			if err != nil {
				return nil, err
			}
			found = append(found, missing)
		}
	}
	return found, nil
}
