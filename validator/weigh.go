package validator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"basilica"
	"basilica/score"
)

// submitTimeout bounds one submission until the events of its block were read.
const submitTimeout = 2 * time.Minute

// freshRounds is for how many rounds after its last verdict a round's scores still make weights: older ones say nothing of
// the machines as they are. A round that takes long on a slow machine is as fresh as a short one when it ends.
const freshRounds = 2

// attempt is a submission that ended without a word from the chain, or that a restart interrupted. It may take effect until
// its transaction's death; the chain's row of this validator says whether it did.
type attempt struct {
	set    basilica.WeightSet
	round  basilica.RoundID
	signed basilica.Signed
	row    basilica.BlockNumber // last update of the chain's row at which its blocks were searched in vain
}

// weigh sets weights once for every completed round, as soon as the chain's rate limit allows.
func (v *Validator) weigh(ctx context.Context) error {
	head := v.Status().Head
	settled := v.completed == nil || v.weighed != nil && *v.weighed == *v.completed || v.tooOld(head)
	if v.attempted == nil && (settled || head < v.notBefore) {
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
	if clear, err := v.tookEffect(ctx, mg, me); err != nil || !clear || settled {
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

// tooOld says that the last completed round is too long ago for weights: the chain was away, or the validator.
func (v *Validator) tooOld(head basilica.BlockNumber) bool {
	return head >= v.completedAt && uint64(head-v.completedAt) >= freshRounds*v.cfg.RoundBlocks
}

// statesKept is for how many blocks a node that is no archive can say what a block's events were.
const statesKept = 256

// tookEffect settles a submission without a word. The chain's row of this validator tells that weights of its took effect, and
// their block whether it was these: a commit of before that is opened moves the row too, where its subnet seals no more. While
// they may still take effect, or once they did, nothing else is submitted: false.
func (v *Validator) tookEffect(ctx context.Context, mg *basilica.Metagraph, me basilica.Neuron) (bool, error) {
	a := v.attempted
	if a == nil {
		return true, nil
	}
	effect, in := me.LastUpdate > a.set.Block, basilica.Inclusion{Block: me.LastUpdate, Extrinsic: a.signed.Extrinsic}
	if !effect && mg.Block < a.signed.Death {
		return false, nil
	}
	if effect && mg.Block < a.signed.Death && a.row == me.LastUpdate {
		return false, nil
	}
	if effect && mg.Block < a.signed.Death+statesKept {
		limited, cancel := context.WithTimeout(ctx, submitTimeout)
		defer cancel()
		found, known, err := v.cfg.Chain.Fate(limited, a.signed)
		err = asUnavailable(err)
		switch {
		case err == nil && !known:
			a.row = me.LastUpdate
			return false, nil
		case err == nil:
			in = found
		case basilica.CodeOf(err) == "TRANSACTION_LOST" || chainsWord(err):
			effect = false
		case basilica.KindOf(err) == basilica.Unavailable:
			return false, err
		default: // events of another version, or that the node has no more
			v.cfg.Log.Warn("the block of an earlier submission cannot be read, the chain's row counts", "extrinsic", a.signed.Extrinsic, "err", err)
		}
	}
	v.attempted = nil
	if !effect {
		v.cfg.Log.Warn("weights of an earlier submission took no effect and cannot any more", "round", a.round.First, "extrinsic", a.signed.Extrinsic)
		v.notBefore = 0
		return true, nil
	}
	v.weighed = &a.round
	v.cfg.Log.Info("weights of an earlier submission took effect", "block", in.Block, "round", a.round.First)
	commit := taken(&a.set, a.signed, in)
	if err := v.cfg.Book.SaveWeightSet(ctx, a.round, a.set, true); err != nil {
		return false, fmt.Errorf("store weights: %w", asInternal(err))
	}
	v.notBefore = 0
	v.update(func(s *Status) { s.Weights, s.LastError = &a.set, nil })
	v.hold(a.round, a.set, commit)
	return false, nil
}

// weightSet computes the weights at a metagraph.
func (v *Validator) weightSet(mg *basilica.Metagraph) (basilica.WeightSet, error) {
	set := basilica.WeightSet{
		Genesis: mg.Genesis, NetUID: mg.NetUID, Block: mg.Block, Formula: score.Formula, Scores: v.scores(mg, v.standings),
		Rounds: v.cfg.Policy.Rounds, Software: v.cfg.Policy.AllowSoftware, BurnShare: v.cfg.BurnShare, At: v.now(),
	}
	if owner, ok := mg.ByHotkey(mg.OwnerHotkey); ok {
		set.Burn = &owner.UID
	}
	var err error
	set.Weights, err = score.Weights(set.Scores, set.Burn, v.cfg.BurnShare)
	return set, err
}

func (v *Validator) submit(ctx context.Context, mg *basilica.Metagraph, set basilica.WeightSet) error {
	round := *v.completed
	v.cfg.Log.Info("setting weights", "round", round.First, "block", mg.Block, "uids", len(set.Weights))
	limited, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	var signed *basilica.Signed
	included, err := v.cfg.Chain.SetWeights(limited, v.cfg.NetUID, v.cfg.Hotkey, slices.Clone(set.Weights), mg.WeightsVersion, func(s basilica.Signed) error {
		if err := v.cfg.Book.IntendWeights(ctx, basilica.WeightIntent{Round: round, Set: set, Signed: s}); err != nil {
			return fmt.Errorf("record the weights that are about to be sent: %w", asInternal(err))
		}
		signed = &s
		return nil
	})
	if err != nil {
		lost := basilica.KindOf(err) == basilica.Unavailable || errors.Is(err, context.DeadlineExceeded) || signed != nil && !chainsWord(err)
		switch {
		case ctx.Err() != nil:
			return nil // the next start asks the chain
		case lost && signed == nil:
			return asUnavailable(err) // nothing was sent
		case lost:
			v.attempted, v.notBefore = &attempt{set: set, round: round, signed: *signed}, signed.Death
		}
		return v.refused(ctx, set, err)
	}
	v.weighed = &round
	commit := taken(&set, *signed, included)
	if err := v.cfg.Book.SaveWeightSet(ctx, round, set, true); err != nil {
		return fmt.Errorf("store weights: %w", asInternal(err))
	}
	v.update(func(s *Status) { s.Weights, s.LastError = &set, nil })
	v.cfg.Log.Info("weights set", "round", round.First, "block", included.Block, "extrinsic", included.Extrinsic, "uids", len(set.Weights), "sealed", commit != nil)
	v.hold(round, set, commit)
	return nil
}

// chainsWord says that a refusal has one of the chain's own names, such as Pool.Payment or SubtensorModule.NotRegistered. Any
// other failure after the sending, such as events that cannot be read, tells nothing of what became of the weights.
func chainsWord(err error) bool { return strings.Contains(basilica.CodeOf(err), ".") }

// refused records a weight vector that did not reach the chain, with why. Where the fate is known the next round tries
// again.
func (v *Validator) refused(ctx context.Context, set basilica.WeightSet, err error) error {
	code, text := basilica.CodeOf(err), sentence(err)
	if code == "" {
		code = "INTERNAL"
	}
	set.Error = &basilica.Reason{Code: code, Sentence: text}
	v.cfg.Log.Error("weights not set", "block", set.Block, "code", code, "fix", basilica.FixOf(err), "err", err)
	round, known := *v.completed, v.attempted == nil
	if known {
		v.weighed = &round
	}
	v.update(func(s *Status) { s.LastError = set.Error })
	if err := v.cfg.Book.SaveWeightSet(ctx, round, set, known); err != nil {
		return fmt.Errorf("store weights: %w", asInternal(err))
	}
	return nil
}
