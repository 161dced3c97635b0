package validator

import (
	"testing"

	"basilica"
	"basilica/internal/provoke"
)

// skippedRound is a follow by which every commit to a round of the beacon up to last is lost.
func skippedRound(last uint64) func(basilica.WeightCommit) basilica.WeightCommit {
	return func(c basilica.WeightCommit) basilica.WeightCommit {
		if c.Round <= last {
			c.State = basilica.CommitLost
			c.Reason = &basilica.Reason{Code: CodeCommitLost, Sentence: "the chain's beacon skipped the round", Fix: "nothing"}
		}
		return c
	}
}

// TestCaseA1_3ALostCommitIsMadeAgain: the beacon skips the round to which weights are sealed. The validator records the
// commit as lost, alarms, and commits again to a later round as soon as the rate limit allows, once, also over restarts.
func TestCaseA1_3ALostCommitIsMadeAgain(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.mg.CommitReveal, w.chain.mg.WeightsRateLimit = true, 5
	w.chain.commit = &basilica.WeightCommit{Kind: basilica.CommitTimelock, Round: 8119}
	w.round(20)
	w.weigh(21)
	s := w.v.Status()
	if len(w.chain.sets) != 1 || len(s.Commits) != 1 || s.Commits[0].Round != 8120 || s.Commits[0].State != basilica.CommitWaiting || s.LastError != nil {
		t.Fatalf("%d sets, %+v", len(w.chain.sets), s)
	}
	w.weigh(22)
	w.restart()
	w.weigh(23)
	if len(w.chain.sets) != 1 || len(w.v.held) != 1 {
		t.Fatalf("%d sets and %d commits that are awaited", len(w.chain.sets), len(w.v.held))
	}
	w.chain.follow = skippedRound(8120)
	w.weigh(24) // inside of the rate limit
	s = w.v.Status()
	if s.LastError == nil || s.CommitsLost != 1 || len(s.Commits) != 0 {
		t.Fatalf("no alarm: %+v", s)
	}
	provoke.Reason(t, *s.LastError, CodeCommitLost)
	sets, err := w.book.WeightSets(t.Context(), 1)
	if err != nil || sets[0].Commit == nil || sets[0].Commit.State != basilica.CommitLost || sets[0].Commit.Round != 8120 || sets[0].Commit.Reason == nil {
		t.Errorf("recorded: %+v %v", sets[0].Commit, err)
	}
	if len(w.chain.sets) != 1 {
		t.Fatal("committed inside of the rate limit")
	}
	w.restart() // the loss outlives the process
	w.weigh(26)
	w.weigh(27)
	if len(w.chain.sets) != 2 {
		t.Fatalf("%d sets, want a fresh commit at the next allowed block", len(w.chain.sets))
	}
	if s := w.v.Status(); len(s.Commits) != 1 || s.Commits[0].Round <= 8120 {
		t.Errorf("the fresh commit: %+v", s.Commits)
	}
	w.restart()
	for head := basilica.BlockNumber(28); head < 40; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 2 {
		t.Errorf("%d sets of one round", len(w.chain.sets))
	}
	// A round that is too old is not committed again.
	w.chain.follow = skippedRound(9000)
	w.weigh(20 + freshRounds*20)
	w.weigh(21 + freshRounds*20)
	if len(w.chain.sets) != 2 {
		t.Error("stale weights were committed")
	}
}

// TestACommitIsRevealed: the weights count as in effect when the chain has opened them.
func TestACommitIsRevealed(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.mg.CommitReveal = true
	w.chain.commit = &basilica.WeightCommit{Kind: basilica.CommitTimelock, Round: 1000}
	w.round(20)
	w.weigh(21)
	w.chain.follow = func(c basilica.WeightCommit) basilica.WeightCommit {
		c.State, c.Revealed, c.Epoch = basilica.CommitRevealed, 30, 3
		return c
	}
	w.weigh(31)
	s := w.v.Status()
	if len(s.Commits) != 0 || s.Weights == nil || s.Weights.Commit == nil || s.Weights.Commit.Revealed != 30 || s.CommitsLost != 0 {
		t.Errorf("%+v", s)
	}
	sets, err := w.book.WeightSets(t.Context(), 1)
	if err != nil || sets[0].Commit.State != basilica.CommitRevealed {
		t.Errorf("%+v %v", sets, err)
	}
	w.restart()
	if len(w.v.held) != 0 {
		t.Error("a commit that ended is awaited")
	}
}

// TestTheLastDueCommitIsOpened: of several salted commits of one epoch the last one is revealed, with its salt, also by the
// next process; a commit whose transaction got no answer is found by the chain's word.
func TestTheLastDueCommitIsOpened(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.mg.CommitReveal = true
	w.chain.commit = &basilica.WeightCommit{Kind: basilica.CommitSalt, Salt: []uint16{7, 8, 9}}
	w.round(20)
	w.weigh(21)
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		w.chain.took(w.cfg.Hotkey)
		return basilica.Inclusion{}, basilica.E(basilica.Unavailable, "CHAIN_AWAY", "no word", "")
	}
	w.round(40)
	w.weigh(41)
	w.chain.set = nil
	w.restart()
	w.weigh(42)
	if len(w.v.held) != 2 || len(w.chain.sets) != 2 {
		t.Fatalf("%d commits are awaited after %d sets", len(w.v.held), len(w.chain.sets))
	}
	w.restart()
	w.chain.follow = func(c basilica.WeightCommit) basilica.WeightCommit {
		c.State = basilica.CommitDue
		return c
	}
	w.weigh(50)
	w.weigh(51) // the chain has not told yet: not again so soon
	if len(w.chain.revealed) != 1 || w.chain.revealed[0].Hash != (basilica.Hash{0xc0, 2}) || len(w.chain.revealed[0].Salt) != 3 {
		t.Fatalf("%+v", w.chain.revealed)
	}
	sets, err := w.book.WeightSets(t.Context(), 3) // between the two stands the one without a word
	if err != nil || len(sets) != 3 || sets[0].Commit == nil || sets[0].Commit.Salt != nil || sets[2].Commit == nil || sets[2].Commit.Salt != nil {
		t.Errorf("a salt is public: %+v %v", sets, err)
	}
	w.chain.follow = func(c basilica.WeightCommit) basilica.WeightCommit {
		c.State = basilica.CommitReplaced
		if c.Hash == (basilica.Hash{0xc0, 2}) {
			c.State = basilica.CommitRevealed
		}
		return c
	}
	w.weigh(52)
	if len(w.v.held) != 0 || w.v.Status().CommitsLost != 0 {
		t.Errorf("%d commits are awaited", len(w.v.held))
	}
}
