package validator

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/score"
)

// TestAMidRoundRestartKeepsVerdicts: the process dies while one machine is judged and the other is not. The next one closes
// the round: who was judged keeps the verdict with its frames, who was not is not_run without any effect.
func TestAMidRoundRestartKeepsVerdicts(t *testing.T) {
	a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
	w := newWorld(t, a, b)
	w.round(20)
	before := w.v.standings[basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: "box-b"}]
	w.miner.machines[1].attest = func(ctx context.Context, _ io.ReadWriteCloser, _ attest.Binding) error {
		<-ctx.Done()
		return ctx.Err()
	}
	w.cfg.Limits.Hello = time.Minute
	w.restart()
	w.v.gateTimeout = time.Millisecond
	w.chain.at(40)
	w.v.update(func(s *Status) { s.Head = 40 })
	ctx, die := context.WithCancel(t.Context())
	done := make(chan error, 1)
	r := basilica.Round{First: 40, Hash: basilica.Hash{40}}
	go func() { done <- w.v.round(ctx, r) }()
	for kept := 0; kept == 0; {
		vs, _, err := w.book.Findings(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		kept = len(vs)
	}
	die()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.v.update(func(s *Status) { s.Head = 41 })
	if err := w.v.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := basilica.BlockNumber(40)
	page, err := w.book.Verifications(t.Context(), basilica.VerificationQuery{Round: &first})
	if err != nil || len(page.Verifications) != 2 {
		t.Fatalf("%+v %v", page, err)
	}
	for _, v := range page.Verifications {
		switch d := proof(v); v.Executor {
		case "box-a":
			if d.Result != basilica.Pass || d.Evidence == nil {
				t.Errorf("its verdict is lost: %+v", d)
			} else {
				w.judgeAgain(d)
			}
		case "box-b":
			if d.Result != basilica.NotRun || d.Reason != score.ReasonRestarted {
				t.Errorf("%+v", d)
			}
		}
	}
	after := w.v.standings[basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: "box-b"}]
	if len(after.Recent) != len(before.Recent) || after.Misses != 0 {
		t.Errorf("the validator's restart cost a machine: %+v, before %+v", after, before)
	}
	rounds, err := w.book.Rounds(t.Context(), 1)
	if err != nil || rounds[0].Outcome.Code != "ROUND_CUT" || rounds[0].Ended.IsZero() {
		t.Errorf("%+v %v", rounds, err)
	}
	if open, err := w.book.OpenRounds(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("%+v %v", open, err)
	}
	// The process dies again before weights are sent, and once more in a round in which nobody was judged.
	empty := basilica.Round{First: 60, Hash: basilica.Hash{60}, Started: w.v.now()}
	if err := w.book.OpenRound(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.chain.at(61)
	w.v.update(func(s *Status) { s.Head = 61 })
	if err := w.v.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.weigh(61)
	if len(w.chain.sets) != 1 {
		t.Errorf("%d submissions after a round in which somebody was judged", len(w.chain.sets))
	}
	w.restart()
	w.weigh(62)
	if len(w.chain.sets) != 1 {
		t.Error("sent again")
	}
}

// TestARestartNeverSendsWeightsTwice: the process dies after the row was written, before or after the transaction was sent.
// The next one asks the chain: what took effect is settled, what may still take effect is waited for, and only what cannot
// any more makes room for the next round's.
func TestARestartNeverSendsWeightsTwice(t *testing.T) {
	lost := func([]basilica.Weight) (basilica.Inclusion, error) {
		return basilica.Inclusion{}, basilica.E(basilica.Unavailable, "CHAIN_AWAY", "no word", "")
	}
	t.Run("it took effect", func(t *testing.T) {
		w := newWorld(t, newMachine(t, "box-1"))
		w.chain.set = lost
		w.round(20)
		w.weigh(21)
		w.chain.took(w.cfg.Hotkey) // included while nobody looked
		w.chain.set = nil
		w.restart()
		for head := basilica.BlockNumber(22); head < 40; head++ {
			w.weigh(head)
		}
		if len(w.chain.sets) != 1 {
			t.Fatalf("%d submissions for one round", len(w.chain.sets))
		}
		sets, err := w.book.WeightSets(t.Context(), 1)
		if err != nil || sets[0].Submitted == nil || sets[0].Submitted.Extrinsic != (basilica.Hash{1}) {
			t.Errorf("%+v %v", sets, err)
		}
		w.restart()
		w.weigh(39)
		if len(w.chain.sets) != 1 {
			t.Error("sent again after it was settled")
		}
	})
	t.Run("it took effect and its events cannot be read", func(t *testing.T) {
		w := newWorld(t, newMachine(t, "box-1"))
		w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
			w.chain.took(w.cfg.Hotkey)
			return basilica.Inclusion{}, errors.New("events: unexpected end")
		}
		w.chain.fate = func(basilica.Signed) (basilica.Inclusion, bool, error) {
			return basilica.Inclusion{}, false, errors.New("events: unexpected end")
		}
		w.round(20)
		w.weigh(21)
		w.chain.set = nil
		w.weigh(23)
		sets, err := w.book.WeightSets(t.Context(), 1)
		if err != nil || len(w.chain.sets) != 1 || sets[0].Submitted == nil {
			t.Errorf("%d submissions, %+v %v", len(w.chain.sets), sets, err)
		}
	})
	t.Run("it never left", func(t *testing.T) {
		w := newWorld(t, newMachine(t, "box-1"))
		w.chain.set = lost
		w.round(20)
		w.weigh(21)
		w.chain.set = nil
		for head := basilica.BlockNumber(22); head < 21+era; head++ {
			if head%20 == 0 {
				w.round(head)
			}
			w.restart() // at every block
			w.weigh(head)
		}
		if len(w.chain.sets) != 1 {
			t.Fatalf("%d submissions while the first could take effect", len(w.chain.sets))
		}
		w.restart()
		w.weigh(21 + era)
		if len(w.chain.sets) != 2 {
			t.Errorf("%d submissions after it could not any more", len(w.chain.sets))
		}
	})
	t.Run("the row cannot be written", func(t *testing.T) {
		w := newWorld(t, newMachine(t, "box-1"))
		w.round(20)
		w.cfg.Book = brokenIntents{w.book}
		w.restart()
		w.v.update(func(s *Status) { s.Head = 21 })
		w.chain.at(21)
		if err := w.v.weigh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.chain.included != 0 || w.v.Status().LastError == nil {
			t.Errorf("%d inclusions without a row, %+v", w.chain.included, w.v.Status().LastError)
		}
	})
}

// brokenIntents is a book on a full disk.
type brokenIntents struct{ Book }

func (brokenIntents) IntendWeights(context.Context, basilica.WeightIntent) error {
	return basilica.E(basilica.Exhausted, "DISK_FULL", "the disk of the data directory is full", "free space on it")
}

// TestTheChainIsAwayForMinutes: a round goes on without the chain, weights wait for it, and scores that grew old meanwhile
// are never sent.
func TestTheChainIsAwayForMinutes(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	away := basilica.E(basilica.Unavailable, "CHAIN_AWAY", "the chain does not answer", "")
	w.miner.machines[0].attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		w.chain.mu.Lock()
		w.chain.failMG = away // the node goes away in the middle of the round
		w.chain.mu.Unlock()
		m := *w.miner.machines[0]
		m.attest = nil
		return m.prove(ctx, rw, b)
	}
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.Pass {
		t.Fatalf("a round that had begun: %+v", d)
	}
	for head := basilica.BlockNumber(21); head < 30; head++ {
		w.v.update(func(s *Status) { s.Head = head })
		if err := w.v.sorted(t.Context(), w.v.weigh(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.chain.sets) != 0 || w.v.Status().Code != CodeChainAway || w.v.Health(t.Context()) == nil {
		t.Errorf("%d submissions, status %+v", len(w.chain.sets), w.v.Status())
	}
	w.chain.failMG = nil
	w.v.update(func(s *Status) { s.Head = 59 }) // finalized as others say; the node behind us still stands at 30
	w.chain.at(30)
	if err := w.v.sorted(t.Context(), w.v.weigh(t.Context())); err != nil || len(w.chain.sets) != 0 {
		t.Errorf("weights by a metagraph of the past: %d submissions, %v", len(w.chain.sets), err)
	}
	w.weigh(61)
	if len(w.chain.sets) != 0 {
		t.Error("scores of two rounds ago were sent")
	}
	w.round(80)
	w.chain.failMG = nil
	w.weigh(81)
	if len(w.chain.sets) != 1 {
		t.Errorf("%d submissions after the chain came back", len(w.chain.sets))
	}
}

// TestASlowRoundIsAsFresh: a round that takes longer than two rounds last, on a slow machine, makes weights when it ends.
func TestASlowRoundIsAsFresh(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.miner.machines[0].attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		w.v.update(func(s *Status) { s.Head = 20 + 5*basilica.BlockNumber(w.v.cfg.RoundBlocks) })
		m := *w.miner.machines[0]
		m.attest = nil
		return m.prove(ctx, rw, b)
	}
	w.round(20)
	end := w.v.Status().Head
	w.weigh(end + 1)
	if len(w.chain.sets) != 1 {
		t.Fatalf("%d submissions after a round that ended one block ago", len(w.chain.sets))
	}
}

// TestCaseA6_3TheClockIsStepped: the wall's clock jumps by hours while the validator runs and between two starts. No age is
// counted by it, and no time is earlier than one that was stored.
func TestCaseA6_3TheClockIsStepped(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	wall, up := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), time.Duration(0)
	w.cfg.Now = func() time.Time { return wall }
	w.cfg.Uptime = func() time.Duration { return up }
	now := time.Now
	w.restart()
	stored := w.v.now()
	for _, c := range []struct {
		name string
		step time.Duration // of the wall
		real time.Duration // that passes
		want time.Duration // by the validator's clock
		boot bool          // the process starts anew
	}{
		{"no step", time.Minute, time.Minute, time.Minute, false},
		{"240 s ahead", 240 * time.Second, 70 * time.Second, 70 * time.Second, false},
		{"900 s back", -900 * time.Second, 300 * time.Second, 300 * time.Second, false},
		{"two days ahead", 48 * time.Hour, time.Second, time.Second, false},
	} {
		wall, up = wall.Add(c.step), up+c.real
		if got := w.v.now().Sub(stored); got != c.want {
			t.Errorf("%s: %s passed, want %s", c.name, got, c.want)
		}
		stored = w.v.now()
	}
	// After a restart the clock stands where the wall does, but never before the last round's end.
	w.cfg.Now = now
	w.restart()
	w.v.now = func() time.Time { return stored }
	w.v.cfg.Now = now
	w.round(20)
	w.cfg.Now = func() time.Time { return stored.Add(-15 * time.Minute) }
	w.restart()
	if got := w.v.now(); got.Before(stored.Truncate(time.Microsecond)) {
		t.Errorf("the clock went back by %s", stored.Sub(got))
	}
	w.cfg.Now = func() time.Time { return stored.Add(time.Hour) }
	w.restart()
	if got := w.v.now(); !got.Equal(stored.Add(time.Hour)) {
		t.Errorf("%s, want an hour later", got)
	}
}

// TestAChainThatStandsStillIsSaid: no head comes, so nothing fails; the status says it all the same.
func TestAChainThatStandsStillIsSaid(t *testing.T) {
	w := newWorld(t)
	up := time.Duration(0)
	w.cfg.Uptime = func() time.Duration { return up }
	w.restart()
	w.v.say(CodeWaiting, "waiting for the next round", "")
	if err := w.v.Health(t.Context()); err != nil {
		t.Error(err)
	}
	up = 7 * time.Minute
	if err := w.v.Health(t.Context()); basilica.CodeOf(err) != CodeChainAway || basilica.FixOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// TestAStartWhileTheChainIsAway waits for the chain and goes on by itself: with the round that began last, where several
// did meanwhile.
func TestAStartWhileTheChainIsAway(t *testing.T) {
	for name, back := range map[string]basilica.BlockNumber{"in time": 20, "after another round": 41} {
		t.Run(name, func(t *testing.T) { startWhileAway(t, back) })
	}
}

func startWhileAway(t *testing.T, back basilica.BlockNumber) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.failMG = basilica.E(basilica.Unavailable, "CHAIN_AWAY", "the chain does not answer", "")
	included := make(chan struct{})
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		close(included)
		w.chain.set = nil
		return w.chain.took(w.cfg.Hotkey), nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.v.Run(ctx) }()
	for n := basilica.BlockNumber(18); n <= back+2; n++ {
		if n == back {
			w.chain.mu.Lock()
			w.chain.failMG = nil
			w.chain.mu.Unlock()
		}
		w.chain.at(n)
		w.chain.heads <- basilica.Header{Number: n, Hash: basilica.Hash{byte(n)}}
	}
	<-included
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
