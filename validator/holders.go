package validator

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"basilica"
	"basilica/score"
)

const (
	// occupiedSlack is how far the clocks of a machine and a validator may differ in what the miner says of a task's times.
	occupiedSlack = 10 * time.Minute
	// startSlack is how long a task may hold GPUs before it starts: an executor pulls an image for up to 30 minutes.
	startSlack = 30 * time.Minute
)

// maxHolders bounds what one request asks, as the miner's door does.
const maxHolders = 256

// holdersOf lists the tasks that a miner's executors were busy with and that nobody answered for yet: all of an executor's or
// none, and of too many those of executors that chance picks anew every round.
func (v *Validator) holdersOf(miner basilica.Hotkey, known []basilica.ExecutorID) (out []basilica.HolderID) {
	known = slices.Clone(known)
	rand.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	for _, id := range known {
		claims := v.standings[basilica.ExecutorKey{Miner: miner, Executor: id}].Claims
		if len(out)+len(claims) > maxHolders {
			continue
		}
		for _, c := range claims {
			out = append(out, basilica.HolderID{Executor: id, Task: basilica.TaskID(c.Holder)})
		}
	}
	return out
}

// answer is what a miner said of one holder that it was asked about; nil: that it knows no such task there.
type answer = *basilica.Occupancy

// answers opens what a miner said of the holders that it was asked about; what is not its own signed word counts as not said.
func (v *Validator) answers(miner basilica.Hotkey, asked []basilica.HolderID, signed []basilica.SignedOccupancy) map[basilica.HolderID]answer {
	out := map[basilica.HolderID]answer{}
	for _, h := range asked {
		out[h] = nil
	}
	for _, s := range signed[:min(len(signed), maxHolders)] {
		o, err := s.Open(miner)
		if err != nil {
			v.cfg.Log.Warn("miner's word on a holder cannot be used", "miner", miner, "err", err)
			continue
		}
		if h := (basilica.HolderID{Executor: o.Executor, Task: o.Task}); slices.Contains(asked, h) {
			out[h] = &o
		}
	}
	return out
}

// holderVerdict judges an executor's earlier claims by its miner's answers; nil where there is nothing to say yet.
func holderVerdict(id basilica.ExecutorID, s score.Standing, said map[basilica.HolderID]answer) *basilica.Verdict {
	done := 0
	for _, c := range s.Claims {
		o, asked := said[basilica.HolderID{Executor: id, Task: basilica.TaskID(c.Holder)}]
		why := ""
		switch {
		case !asked:
			continue // another round's question
		case o == nil:
			why = "the miner knows no such task on this executor"
		case o.State == basilica.TaskLost:
			done++ // the miner's signed word; its machine earned by its last pass meanwhile, as the published age allows
			continue
		case o.Receipt == nil && !o.State.Terminal():
			continue // still there, or its receipt is on the way
		case o.Receipt == nil:
			why = "the task ended without a receipt of this executor"
		case o.Started.After(c.Last.Add(startSlack+occupiedSlack)) || o.Ended.Before(c.First.Add(-occupiedSlack)):
			why = fmt.Sprintf("its receipt is of %s to %s", o.Started.UTC().Format(time.RFC3339), o.Ended.UTC().Format(time.RFC3339))
		case len(s.GPUs) > 0 && !slices.ContainsFunc(s.GPUs, func(g basilica.ProvenGPU) bool { return slices.Contains(o.GPUs, g.UUID) }):
			why = "its receipt names none of the GPUs that were proven"
		}
		if why != "" {
			return &basilica.Verdict{
				Check: basilica.CheckHolder, Result: basilica.Unsure, Reason: score.ReasonUnproven,
				Detail: clip(fmt.Sprintf("busy with %s from %s to %s: %s", c.Holder, c.First.UTC().Format(time.RFC3339), c.Last.UTC().Format(time.RFC3339), why), 400),
			}
		}
		done++
	}
	if done == 0 || done < len(s.Claims) {
		return nil
	}
	return &basilica.Verdict{Check: basilica.CheckHolder, Result: basilica.Pass, Reason: "PASS", Detail: fmt.Sprintf("the miner signed for %d tasks that held the GPUs", done)}
}

const (
	silentRounds = 2 // rounds without an answer, before this one, after which others' weights are looked at
	mostPeers    = 8 // other validators whose weights are read
)

// selective adds to verifications of machines that have not answered for some rounds what other validators make of their
// miner: who gives it weight was answered, or copies somebody who was. It informs only, for weights prove nothing.
func (v *Validator) selective(ctx context.Context, mg *basilica.Metagraph, found []inspection) {
	silent := map[basilica.Hotkey][]*basilica.Verification{}
	for i := range found {
		x := &found[i].verification
		d := x.Verdict(basilica.CheckGPUProof)
		s := v.standings[basilica.ExecutorKey{Miner: x.Miner, Executor: x.Executor}]
		if d.Result == basilica.NotRun && d.Reason != score.ReasonLocal && d.Reason != score.ReasonNoTurn && d.Reason != score.ReasonRestarted && d.Reason != score.ReasonBusy && s.Misses >= silentRounds {
			silent[x.Miner] = append(silent[x.Miner], x)
		}
	}
	if len(silent) == 0 {
		return
	}
	peers := slices.DeleteFunc(slices.Clone(mg.Neurons), func(n basilica.Neuron) bool { return !n.ValidatorPermit || n.Hotkey == v.self })
	slices.SortFunc(peers, func(a, b basilica.Neuron) int { return cmp.Compare(b.Stake, a.Stake) })
	for _, p := range peers[:min(len(peers), mostPeers)] {
		limited, cancel := context.WithTimeout(ctx, v.cfg.ConnectTimeout)
		weights, err := v.cfg.Chain.Weights(limited, v.cfg.NetUID, p.UID)
		cancel()
		if err != nil {
			v.cfg.Log.Warn("read another validator's weights", "uid", p.UID, "err", err)
			return
		}
		for _, n := range mg.Neurons {
			weighed := slices.ContainsFunc(weights, func(w basilica.Weight) bool { return w.UID == n.UID && w.Value > 0 })
			for _, x := range silent[n.Hotkey] {
				if weighed && x.Verdict(basilica.CheckReach).Reason != reasonSelective {
					x.Verdicts = append(x.Verdicts, notRun(basilica.CheckReach, reasonSelective, fmt.Sprintf("no answer here for %d rounds, while the validator of uid %d gives this miner weight", silentRounds+1, p.UID)))
				}
			}
		}
	}
}
