package validator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basilica"
	"basilica/score"
)

// TestOldResultsAreForgotten: what is older than results are kept goes between two blocks, and neither the weights nor what anybody
// computes from the verifications that are left become others.
func TestOldResultsAreForgotten(t *testing.T) {
	w := newWorld(t, newMachine(t, "box"))
	w.cfg.Squarings = 256
	miner, ctx := w.miner.hotkey(), t.Context()
	k := basilica.ExecutorKey{Miner: miner, Executor: "box"}
	mb := uint64(1 << 30)
	var s score.Standing
	const rounds = 60
	began := time.Now().Add(-rounds * time.Hour)
	for i := range basilica.BlockNumber(rounds) {
		at := began.Add(time.Duration(i) * time.Hour)
		r := basilica.Round{First: i + 1, Hash: basilica.Hash{byte(i), 1}, Started: at}
		if err := w.book.OpenRound(ctx, r); err != nil {
			t.Fatal(err)
		}
		x := basilica.Verification{
			ID: basilica.VerificationID(fmt.Sprint("v", i)), Genesis: w.chain.mg.Genesis, NetUID: 39, Round: r.First, Validator: basilica.Hotkey(w.cfg.Hotkey.SS58()),
			Miner: miner, MinerUID: 2, Executor: "box", Started: at, Ended: at, Strength: score.StrengthEnrolment, Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: basilica.NotRun, Reason: "TIMEOUT"}},
		}
		if i%3 > 0 {
			x.Verdicts[0] = basilica.Verdict{Check: basilica.CheckGPUProof, Result: basilica.Pass, Reason: "PASS"}
			x.GPUs = []basilica.ProvenGPU{{UUID: "u", Kind: basilica.GPUSoftware, Models: []string{"software"}, MemoryBytes: mb}}
		}
		s = s.Next(x, w.cfg.Policy)
		r.Ended, r.Outcome, r.Scores = at, basilica.Reason{Code: outcomeCompleted}, []basilica.Score{{Miner: miner, UID: 2}}
		if err := w.book.CloseRound(ctx, r, []basilica.Verification{x}, nil, map[basilica.ExecutorKey]score.Standing{k: s}); err != nil {
			t.Fatal(err)
		}
	}
	// A name that never proved anything, of the first round alone.
	junk := basilica.ExecutorKey{Miner: miner, Executor: "junk"}
	r := basilica.Round{First: rounds + 1, Hash: basilica.Hash{rounds, 1}, Started: began}
	if err := w.book.OpenRound(ctx, r); err != nil {
		t.Fatal(err)
	}
	r.Ended, r.Outcome, r.Scores = began.Add(rounds*time.Hour), basilica.Reason{Code: outcomeCompleted}, []basilica.Score{{Miner: miner, UID: 2}}
	x := basilica.Verification{ID: "junk", Round: r.First, Miner: miner, MinerUID: 2, Executor: junk.Executor, Started: began, Ended: began, Verdicts: []basilica.Verdict{notRun(basilica.CheckGPUProof, reasonAbsent, "")}}
	if err := w.book.CloseRound(ctx, r, []basilica.Verification{x}, nil, map[basilica.ExecutorKey]score.Standing{junk: {Recent: make([]float64, 20)}}); err != nil {
		t.Fatal(err)
	}
	w.restart()
	before, err := w.v.weightSet(&w.chain.mg)
	if err != nil || before.Scores[0].Value == 0 {
		t.Fatal(before, err)
	}
	count := func() int {
		history, err := w.book.History(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		return len(history)
	}
	// The role itself does it, as blocks come.
	run, stop := context.WithCancel(ctx)
	tick, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.v.work(run, nil, tick) }()
	for blocks := 0; count() > 2*score.DefaultRounds && blocks < 100; blocks++ { // a slow machine gets through in several
		tick <- struct{}{}
		tick <- struct{}{} // what the one before brought is done
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2*score.DefaultRounds {
		t.Errorf("%d verifications are left", n)
	}
	if left, _, err := w.book.Standings(ctx); err != nil || len(left) != 1 || len(w.v.standings) != 1 {
		t.Errorf("standings: %d stored, %d in memory, %v", len(left), len(w.v.standings), err)
	}
	if w.v.forgotten.due < forgetEvery/2 || w.v.forgotten.after != 0 {
		t.Errorf("the next look: %+v", w.v.forgotten)
	}
	w.restart()
	after, err := w.v.weightSet(&w.chain.mg)
	if err != nil || !cmp.Equal(after.Scores, before.Scores) || !cmp.Equal(after.Weights, before.Weights) {
		t.Errorf("%s %v", cmp.Diff(before, after), err)
	}
	if again := w.recompute(w.chain.mg, after); !cmp.Equal(again, before.Weights) {
		t.Errorf("recomputed %v, want %v", again, before.Weights)
	}
}
