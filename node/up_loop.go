package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"basilica"
	"basilica/keys"
)

// The development keys of a whole network on one machine. The subnet's owner is the chain's own //Alice, who is neither
// the miner's nor the validator's coldkey: an owner's miners earn nothing.
const (
	minerColdURI     = "//Bob"
	minerHotURI      = "//Bob//miner"
	validatorColdURI = "//Charlie"
	validatorHotURI  = "//Charlie//validator"
	clientURI        = "//Dave//client"
)

const (
	maxBurn        = basilica.Rao(100e9)  // highest price of a registration on the network's own chain
	validatorStake = basilica.Rao(1000e9) // what the validator stakes on itself
)

// takePart registers a development hotkey where it is not registered yet and says its UID.
func takePart(ctx context.Context, chain basilica.Chain, netuid basilica.NetUID, coldURI, hotURI string) (basilica.UID, error) {
	cold, err := keys.FromURI(keys.Sr25519, coldURI)
	if err != nil {
		return 0, err
	}
	hot, err := keys.FromURI(keys.Sr25519, hotURI)
	if err != nil {
		return 0, err
	}
	graph, err := chain.Metagraph(ctx, netuid)
	if err != nil {
		return 0, err
	}
	hotkey := basilica.Hotkey(hot.SS58())
	if n, ok := graph.ByHotkey(hotkey); ok {
		return n.UID, nil
	}
	uid, _, err := chain.Register(ctx, netuid, hotkey, cold, maxBurn)
	return uid, err
}

// stakeOnce gives the validator its stake where it has less than half of it.
func stakeOnce(ctx context.Context, chain basilica.Chain, netuid basilica.NetUID, uid basilica.UID) error {
	graph, err := chain.Metagraph(ctx, netuid)
	if err != nil {
		return err
	}
	if int(uid) >= len(graph.Neurons) {
		return fmt.Errorf("uid %d is gone from the metagraph", uid)
	}
	if graph.Neurons[uid].Stake >= validatorStake/2 {
		return nil
	}
	cold, err := keys.FromURI(keys.Sr25519, validatorColdURI)
	if err != nil {
		return err
	}
	_, err = chain.AddStake(ctx, netuid, graph.Neurons[uid].Hotkey, cold, validatorStake)
	return err
}

// observation is what the network shows at one moment.
type observation struct {
	graph         *basilica.Metagraph
	row           []basilica.Weight                               // the validator's weights on chain
	set           *basilica.WeightSet                             // the validator's last submitted one
	verifications map[basilica.ExecutorID][]basilica.Verification // of this run, oldest first
}

// patience is how many rounds without a measurement make a verdict of not_run final: a machine that is starting, or busy
// with another look, is not yet one that cannot be proven.
const patience = 3

// progress says how far the loop discover, verify, score, weigh, epoch has come for one miner. It is pure.
type progress struct {
	Verdicts int  // executors with a final verdict of the GPU proof
	Passed   int  // of these, passed
	Weighed  bool // weights computed from these verdicts stand on chain
	Closed   bool // and the epoch has made incentive of them
}

func judgeProgress(o observation, executors []basilica.ExecutorID, miner basilica.UID) progress {
	var p progress
	var newest basilica.BlockNumber
	for _, id := range executors {
		v, final := finalVerification(o.verifications[id])
		if !final {
			continue
		}
		p.Verdicts++
		newest = max(newest, v.Block)
		if v.Verdict(basilica.CheckGPUProof).Result == basilica.Pass {
			p.Passed++
		}
	}
	if p.Verdicts < len(executors) || o.set == nil || o.set.Submitted == nil || o.set.Block < newest || !slices.Equal(support(o.row), support(o.set.Weights)) {
		return p
	}
	weight := slices.ContainsFunc(o.row, func(w basilica.Weight) bool { return w.UID == miner && w.Value > 0 })
	p.Weighed = weight == (p.Passed > 0)
	earns := int(miner) < len(o.graph.Neurons) && o.graph.Neurons[miner].Incentive > 0
	p.Closed = p.Weighed && earns == (p.Passed > 0)
	return p
}

// support lists who gets anything, by UID. Values differ: the chain scales a row so that its largest is 65535.
func support(weights []basilica.Weight) []basilica.UID {
	var uids []basilica.UID
	for _, w := range weights {
		if w.Value > 0 {
			uids = append(uids, w.UID)
		}
	}
	slices.Sort(uids)
	return uids
}

// finalVerification is the newest one, and whether nothing better is to be expected soon.
func finalVerification(vs []basilica.Verification) (basilica.Verification, bool) {
	if len(vs) == 0 {
		return basilica.Verification{}, false
	}
	newest := vs[len(vs)-1]
	switch newest.Verdict(basilica.CheckGPUProof).Result {
	case basilica.Pass, basilica.Fail:
		return newest, true
	}
	return newest, len(vs) >= patience
}

// errNotClosed says how far the loop came in its time.
func errNotClosed(p progress, executors int, took time.Duration) error {
	what := fmt.Sprintf("%d of %d executors have a verdict", p.Verdicts, executors)
	switch {
	case p.Weighed:
		what = "the weights stand on chain and no epoch has turned them into incentive"
	case p.Verdicts == executors:
		what = "all executors have a verdict and the weights on chain do not say so yet"
	}
	return basilica.E(basilica.Unavailable, "LOOP_NOT_CLOSED", fmt.Sprintf("after %s %s", took.Round(time.Second), what), "run it again with --data DIR and read DIR/logs")
}

// pollUntil calls f until it says so, its error, or the end of ctx.
func pollUntil(ctx context.Context, every time.Duration, f func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		done, err := f(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// transient says that a call may succeed soon.
func transient(err error) bool {
	return basilica.KindOf(err) == basilica.Unavailable || errors.Is(err, context.DeadlineExceeded)
}
