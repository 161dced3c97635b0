package validator

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basilica"
	"basilica/score"
)

// recompute makes a weight vector from the rows in the book and a metagraph alone, as anybody can who has both.
func (w *world) recompute(mg basilica.Metagraph, set basilica.WeightSet) []basilica.Weight {
	w.t.Helper()
	policy := score.Policy{Rounds: set.Rounds, AllowSoftware: set.Software}
	byMiner := map[basilica.Hotkey]map[basilica.ExecutorID]score.Standing{}
	for k := range w.v.standings {
		history, err := w.book.History(w.t.Context(), k)
		if err != nil {
			w.t.Fatal(err)
		}
		if byMiner[k.Miner] == nil {
			byMiner[k.Miner] = map[basilica.ExecutorID]score.Standing{}
		}
		byMiner[k.Miner][k.Executor] = score.Replay(history, policy)
	}
	var scores []basilica.Score
	for _, n := range mg.Neurons {
		if executors := byMiner[n.Hotkey]; executors != nil {
			scores = append(scores, score.Miner(n, executors, policy))
		}
	}
	weights, err := score.Weights(scores, set.Burn, set.BurnShare)
	if err != nil {
		w.t.Fatal(err)
	}
	return weights
}

// TestCaseA7_1NewOwnerOfAUIDInheritsNothing: who takes over a uid starts without a score, and who comes back under another
// uid brings its own history along.
func TestCaseA7_1NewOwnerOfAUIDInheritsNothing(t *testing.T) {
	text, err := os.ReadFile("testdata/cases/A7-1-uid-reuse.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Now []struct {
			UID    basilica.UID `json:"uid"`
			Hotkey string       `json:"hotkey"`
		} `json:"metagraph_now"`
	}
	if err := json.Unmarshal(text, &c); err != nil || len(c.Now) != 2 || c.Now[0].Hotkey != "H-new" || c.Now[1].Hotkey != "H-old" {
		t.Fatal(c, err)
	}
	reused, other := c.Now[0].UID, c.Now[1].UID

	w := newWorld(t, newMachine(t, "box"))
	w.cfg.Squarings = 256
	w.restart()
	neuron := &w.chain.mg.Neurons[2]
	neuron.UID = reused
	before := w.miner
	if v := w.round(20)["box"]; proof(v).Result != basilica.Pass || v.MinerUID != reused {
		t.Fatalf("%+v", v)
	}

	// The number changes hands, and its former owner registers anew; it has not served an address yet. The new one's
	// machine has the very name of the old one's.
	after := &minerDouble{key: pair(t, "//Eve//miner"), machines: []*machine{newMachine(t, "box")}}
	*neuron = basilica.Neuron{UID: reused, Hotkey: after.hotkey(), Axon: neuron.Axon}
	w.chain.mg.Neurons = append(w.chain.mg.Neurons, basilica.Neuron{UID: other, Hotkey: before.hotkey()})
	w.weigh(31)
	if len(w.chain.sets) != 1 || !cmp.Equal(w.chain.sets[0], []basilica.Weight{{UID: other, Value: score.Total}}) {
		t.Fatalf("weights %v", w.chain.sets)
	}
	set := w.latestSet()
	if len(set.Scores) != 1 || set.Scores[0].Miner != before.hotkey() || set.Scores[0].UID != other || set.Scores[0].Value == 0 {
		t.Errorf("scores %+v", set.Scores)
	}
	if again := w.recompute(w.chain.mg, set); !cmp.Equal(again, set.Weights) {
		t.Errorf("recomputed %v, want %v", again, set.Weights)
	}
	w.restart()
	if got := w.v.scores(&w.chain.mg, w.v.standings); !cmp.Equal(got, set.Scores) {
		t.Errorf("after a restart %+v, want %+v", got, set.Scores)
	}

	// Its own first pass gives the new owner a score of one round.
	w.miner = after
	w.round(40)
	history, err := w.book.History(t.Context(), basilica.ExecutorKey{Miner: after.hotkey(), Executor: "box"})
	if err != nil || len(history) != 1 || proof(history[0]).Result != basilica.Pass || history[0].Strength != score.StrengthEnrolment {
		t.Fatalf("%+v, %v", history, err)
	}
	w.weigh(51)
	set = w.latestSet()
	byUID := map[basilica.UID]uint16{}
	for _, x := range set.Weights {
		byUID[x.UID] = x.Value
	}
	if uids := slices.Sorted(maps.Keys(byUID)); !slices.Equal(uids, []basilica.UID{reused, other}) {
		t.Errorf("weights %v", set.Weights)
	}
	for _, s := range set.Scores {
		if s.UID == reused && (s.Miner != after.hotkey() || s.Executors[0].Rounds != 1) {
			t.Errorf("the new owner's score: %+v", s)
		}
	}
	if again := w.recompute(w.chain.mg, set); !cmp.Equal(again, set.Weights) {
		t.Errorf("recomputed %v, want %v", again, set.Weights)
	}
}

// latestSet is the weight set that was stored last.
func (w *world) latestSet() basilica.WeightSet {
	w.t.Helper()
	sets, err := w.book.WeightSets(w.t.Context(), 1)
	if err != nil || len(sets) != 1 {
		w.t.Fatalf("%+v, %v", sets, err)
	}
	return sets[0]
}
