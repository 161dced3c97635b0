package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"basilica"
)

// TestCommitsOutliveTheProcess: what opens a commit is stored before its transaction is sent; a commit that is in a block is
// awaited until its end is recorded, and a lost one gives its round free once more.
func TestCommitsOutliveTheProcess(t *testing.T) {
	b, ctx := openBook(t, openValidator(t), 1), t.Context()
	weights := []basilica.Weight{{UID: 1, Value: 65535}}
	c := basilica.WeightCommit{Kind: basilica.CommitSalt, Hash: basilica.Hash{7}, Salt: []uint16{1, 2, 3}, VersionKey: 4}
	w := basilica.WeightIntent{
		Round: basilica.RoundID{First: 20, Hash: basilica.Hash{1}}, Set: basilica.WeightSet{Block: 21, Weights: weights, At: noon},
		Signed: basilica.Signed{Extrinsic: basilica.Hash{9}, Nonce: 4, Born: 21, Death: 85, Commit: &c},
	}
	must(t, b.IntendWeights(ctx, w))
	w.Signed.Extrinsic = basilica.Hash{10} // signed once more
	must(t, b.IntendWeights(ctx, w))
	if got, found, err := b.LastWeights(ctx); err != nil || !found || !cmp.Equal(got, w) {
		t.Errorf("%s %v", cmp.Diff(got, w), err)
	}
	if open, err := b.OpenCommits(ctx); err != nil || len(open) != 0 {
		t.Errorf("awaited before it is in a block: %+v %v", open, err)
	}
	placed := c
	placed.Block, placed.Seen, placed.State = 25, 25, basilica.CommitWaiting
	w.Set.Submitted, w.Set.Commit = &basilica.Inclusion{Block: 25, Extrinsic: basilica.Hash{10}}, placed.Public()
	must(t, b.SaveWeightSet(ctx, w.Round, w.Set, true))
	open, err := b.OpenCommits(ctx)
	want := basilica.HeldCommit{Round: w.Round, Weights: weights, WeightCommit: placed}
	if err != nil || len(open) != 1 || !cmp.Equal(open[0], want) {
		t.Fatalf("%s %v", cmp.Diff(open, []basilica.HeldCommit{want}), err)
	}
	due := open[0]
	due.State, due.Epoch, due.Seen = basilica.CommitDue, 3, 60
	must(t, b.SaveCommit(ctx, due))
	if open, err = b.OpenCommits(ctx); err != nil || len(open) != 1 || !cmp.Equal(open[0], due) {
		t.Errorf("%s %v", cmp.Diff(open[0], due), err)
	}
	lost := due
	lost.State, lost.Reason = basilica.CommitLost, &basilica.Reason{Code: "COMMIT_LOST", Sentence: "expired", Fix: "none"}
	must(t, b.SaveCommit(ctx, lost))
	if open, err = b.OpenCommits(ctx); err != nil || len(open) != 0 {
		t.Errorf("awaited after its end: %+v %v", open, err)
	}
	sets, err := b.WeightSets(ctx, 1)
	if err != nil || sets[0].Commit == nil || sets[0].Commit.State != basilica.CommitLost || sets[0].Commit.Salt != nil || sets[0].Commit.Reason.Sentence != "expired" {
		t.Errorf("%+v %v", sets, err)
	}
	if got, _, err := b.LastWeights(ctx); err != nil || !got.Lost || got.Settled {
		t.Errorf("%+v %v", got, err)
	}
	again := basilica.WeightCommit{Kind: basilica.CommitTimelock, Hash: basilica.Hash{8}, Round: 99}
	w.Signed.Extrinsic, w.Signed.Commit = basilica.Hash{11}, &again
	must(t, b.IntendWeights(ctx, w)) // the round is free once more
	if got, _, err := b.LastWeights(ctx); err != nil || got.Lost || got.Settled || got.Signed.Commit.Round != 99 {
		t.Errorf("%+v %v", got, err)
	}
	must(t, b.SaveWeightSet(ctx, w.Round, w.Set, true))
	if err := b.IntendWeights(ctx, w); basilica.CodeOf(err) != "WEIGHTS_SETTLED" {
		t.Errorf("twice: %v", err)
	}
}
