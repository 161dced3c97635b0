package validator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"basilica"
	"basilica/score"
)

// submitTimeout bounds one submission until the events of its block were read.
const submitTimeout = 2 * time.Minute

// leastWindow is the least number of blocks between two submissions of which the first one's fate is unknown: as long as a
// transaction may wait in a pool (pallet's mortal era).
const leastWindow = 64

// attempt is a submission that ended without a word from the chain.
type attempt struct {
	set   basilica.WeightSet
	round basilica.BlockNumber
	since basilica.BlockNumber // head when it was made
}

// weigh sets weights once for every completed round, as soon as the chain's rate limit allows.
func (v *Validator) weigh(ctx context.Context) error {
	head := v.Status().Head
	if v.completed == nil || v.weighed != nil && *v.weighed == *v.completed || head < v.notBefore && v.attempted == nil {
		return nil
	}
	mg, err := v.metagraph(ctx, head)
	if err != nil {
		return err
	}
	me, err := v.me(mg)
	if err != nil {
		return err
	}
	if !me.ValidatorPermit {
		v.notBefore = head + 1
		return nil
	}
	if settled, err := v.tookEffect(ctx, mg, me); err != nil || !settled {
		return err
	}
	window := basilica.BlockNumber(mg.WeightsRateLimit)
	if me.LastUpdate != 0 && mg.Block < me.LastUpdate+window {
		v.notBefore = me.LastUpdate + window
		return nil
	}
	set, err := v.weightSet(mg)
	if err != nil {
		return v.refused(ctx, set, err)
	}
	return v.submit(ctx, mg, set)
}

// tookEffect settles a submission without a word: the chain's row of this validator tells. While it may still take effect,
// or once it did, nothing else is submitted: false.
func (v *Validator) tookEffect(ctx context.Context, mg *basilica.Metagraph, me basilica.Neuron) (bool, error) {
	a := v.attempted
	if a == nil {
		return true, nil
	}
	if me.LastUpdate <= a.since {
		if mg.Block < v.notBefore {
			return false, nil
		}
		v.attempted = nil
		return true, nil
	}
	v.attempted = nil
	v.weighed = &a.round
	v.cfg.Log.Info("weights of an earlier submission took effect", "block", me.LastUpdate, "round", a.round)
	a.set.Submitted, a.set.Error = &basilica.Inclusion{Block: me.LastUpdate}, nil
	if err := v.cfg.Book.SaveWeightSet(ctx, a.set); err != nil {
		return false, fmt.Errorf("store weights: %w", asInternal(err))
	}
	v.notBefore = 0
	v.update(func(s *Status) { s.Weights, s.LastError = &a.set, nil })
	return false, nil
}

// weightSet computes the weights at a metagraph.
func (v *Validator) weightSet(mg *basilica.Metagraph) (basilica.WeightSet, error) {
	set := basilica.WeightSet{
		Genesis: mg.Genesis, NetUID: mg.NetUID, Block: mg.Block, Formula: score.Formula, Scores: v.scores(mg, v.standings),
		Rounds: v.cfg.Policy.Rounds, Software: v.cfg.Policy.AllowSoftware, BurnShare: v.cfg.BurnShare, At: v.cfg.Now(),
	}
	if owner, ok := mg.ByHotkey(mg.OwnerHotkey); ok {
		set.Burn = &owner.UID
	}
	if mg.CommitReveal {
		return set, basilica.E(basilica.Invalid, "COMMIT_REVEAL_ON", "the subnet takes commitments of weights only, which this version does not make", "ask the subnet's owner to switch commit-reveal off")
	}
	var err error
	set.Weights, err = score.Weights(set.Scores, set.Burn, v.cfg.BurnShare)
	return set, err
}

func (v *Validator) submit(ctx context.Context, mg *basilica.Metagraph, set basilica.WeightSet) error {
	round := *v.completed
	v.cfg.Log.Info("setting weights", "round", round, "block", mg.Block, "uids", len(set.Weights))
	limited, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	included, err := v.cfg.Chain.SetWeights(limited, v.cfg.NetUID, v.cfg.Hotkey, slices.Clone(set.Weights), mg.WeightsVersion)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		if kind := basilica.KindOf(err); kind == basilica.Unavailable || errors.Is(err, context.DeadlineExceeded) {
			v.attempted = &attempt{set: set, round: round, since: mg.Block}
			v.notBefore = mg.Block + max(basilica.BlockNumber(mg.WeightsRateLimit), leastWindow)
		}
		return v.refused(ctx, set, err)
	}
	v.weighed = &round
	set.Submitted = &included
	if err := v.cfg.Book.SaveWeightSet(ctx, set); err != nil {
		return fmt.Errorf("store weights: %w", asInternal(err))
	}
	v.update(func(s *Status) { s.Weights, s.LastError = &set, nil })
	v.cfg.Log.Info("weights set", "round", round, "block", included.Block, "extrinsic", included.Extrinsic, "uids", len(set.Weights))
	return nil
}

// refused records a weight vector that did not reach the chain, with why. Where the fate is known the next round tries
// again.
func (v *Validator) refused(ctx context.Context, set basilica.WeightSet, err error) error {
	code, text := basilica.CodeOf(err), sentence(err)
	if code == "" {
		code = "INTERNAL"
	}
	set.Error = &basilica.Reason{Code: code, Sentence: text}
	v.cfg.Log.Error("weights not set", "block", set.Block, "code", code, "fix", basilica.FixOf(err), "err", err)
	if v.attempted == nil {
		round := *v.completed
		v.weighed = &round
	}
	v.update(func(s *Status) { s.LastError = set.Error })
	if err := v.cfg.Book.SaveWeightSet(ctx, set); err != nil {
		return fmt.Errorf("store weights: %w", asInternal(err))
	}
	return nil
}
