package validator

import (
	"context"
	"fmt"
	"slices"

	"basilica"
)

// CodeCommitLost stands where weights that the chain took sealed can take no effect any more.
const CodeCommitLost = "COMMIT_LOST"

// revealAgain is how many blocks after a reveal that failed the next one is tried.
const revealAgain = 5

// taken is what the chain is known to hold of a set: it is stored as a commit that waits, where the transaction made one.
func taken(set *basilica.WeightSet, signed basilica.Signed, at basilica.Inclusion) *basilica.WeightCommit {
	set.Submitted, set.Error = &at, nil
	if signed.Commit == nil {
		return nil
	}
	c := *signed.Commit
	c.Block, c.Seen, c.State = at.Block, at.Block, basilica.CommitWaiting
	set.Commit = c.Public()
	return &c
}

// hold keeps an eye on a commit from now on.
func (v *Validator) hold(round basilica.RoundID, set basilica.WeightSet, c *basilica.WeightCommit) {
	if c == nil {
		return
	}
	v.held = append(v.held, basilica.HeldCommit{Round: round, Weights: set.Weights, WeightCommit: *c})
	v.cfg.Log.Info("weights wait sealed for their reveal", "round", round.First, "kind", c.Kind, "beacon_round", c.Round, "block", c.Block)
	v.showCommits()
}

// watchCommits looks at what became of the weights that the chain holds sealed, and opens those that it does not open by
// itself. Of several that are due in one epoch the last is opened: the chain drops the others with it.
func (v *Validator) watchCommits(ctx context.Context) error {
	if len(v.held) == 0 {
		return nil
	}
	for i := range v.held {
		h := &v.held[i]
		limited, cancel := context.WithTimeout(ctx, v.cfg.ConnectTimeout)
		now, err := v.cfg.Chain.FollowCommit(limited, v.cfg.NetUID, v.self, h.WeightCommit, h.Weights)
		cancel()
		if err != nil {
			return fmt.Errorf("follow the commit of block %d: %w", h.Block, asUnavailable(err))
		}
		before := h.State
		h.WeightCommit = now
		if now.State == before {
			continue
		}
		if err := v.settleCommit(ctx, *h); err != nil {
			return err
		}
	}
	v.held = slices.DeleteFunc(v.held, func(h basilica.HeldCommit) bool { return !h.Open() })
	defer v.showCommits()
	if n := len(v.held); n > 0 && v.Status().Head >= v.revealAt {
		for _, h := range slices.Backward(v.held) {
			if h.State == basilica.CommitDue {
				return v.reveal(ctx, h)
			}
		}
	}
	return nil
}

// settleCommit records a commit's new state, and says what a person must know of it. Weights that were lost are due again.
func (v *Validator) settleCommit(ctx context.Context, h basilica.HeldCommit) error {
	if err := v.cfg.Book.SaveCommit(ctx, h); err != nil {
		return fmt.Errorf("store what became of a commit: %w", asInternal(err))
	}
	log := v.cfg.Log.With("round", h.Round.First, "commit_block", h.Block, "beacon_round", h.WeightCommit.Round)
	switch h.State {
	case basilica.CommitRevealed:
		log.Info("sealed weights took effect", "block", h.Revealed)
		v.update(func(s *Status) {
			s.LastError = nil
			if s.Weights != nil && s.Weights.Commit != nil && s.Weights.Commit.Hash == h.Hash {
				shown := *s.Weights // what others hold stays as it is
				shown.Commit = h.Public()
				s.Weights = &shown
			}
		})
	case basilica.CommitLost:
		log.Error("sealed weights were lost", "code", CodeCommitLost, "why", h.Reason.Sentence, "fix", h.Reason.Fix)
		v.update(func(s *Status) { s.LastError = h.Reason; s.CommitsLost++ })
		if v.weighed != nil && *v.weighed == h.Round {
			v.weighed, v.notBefore = nil, 0
		}
	}
	return nil
}

// reveal opens a commit in the open.
func (v *Validator) reveal(ctx context.Context, h basilica.HeldCommit) error {
	limited, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	v.revealAt = v.Status().Head + revealAgain
	in, err := v.cfg.Chain.RevealWeights(limited, v.cfg.NetUID, v.cfg.Hotkey, h.WeightCommit, slices.Clone(h.Weights))
	if err != nil {
		if ctx.Err() != nil || basilica.KindOf(err) == basilica.Unavailable {
			return asUnavailable(err) // what became of it is seen at the next head
		}
		v.cfg.Log.Error("sealed weights were not revealed", "commit_block", h.Block, "code", basilica.CodeOf(err), "fix", basilica.FixOf(err), "err", err)
		v.update(func(s *Status) { s.LastError = &basilica.Reason{Code: basilica.CodeOf(err), Sentence: sentence(err)} })
		return nil
	}
	v.cfg.Log.Info("sealed weights revealed", "commit_block", h.Block, "block", in.Block, "extrinsic", in.Extrinsic)
	return nil
}

// showCommits puts into the status what the chain holds sealed.
func (v *Validator) showCommits() {
	shown := make([]basilica.WeightCommit, len(v.held))
	for i, h := range v.held {
		shown[i] = *h.Public()
	}
	v.update(func(s *Status) { s.Commits = shown })
}
