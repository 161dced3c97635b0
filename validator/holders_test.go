package validator

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/score"
)

// TestFalseBusyIsSeen: a machine that names a task which its miner does not stand for loses what it earned by being busy; one
// whose tenant was real keeps it.
func TestFalseBusyIsSeen(t *testing.T) {
	m := newMachine(t, "box-1")
	gpu := attestor.SoftwareUUID(m.key.SPKI(), 0).String()
	sum := basilica.Digest{1}
	real := func(change func(o *basilica.Occupancy)) func(h basilica.HolderID) (basilica.Occupancy, bool) {
		return func(h basilica.HolderID) (basilica.Occupancy, bool) {
			o := basilica.Occupancy{
				Task: h.Task, Executor: h.Executor, State: basilica.TaskSucceeded, GPUs: []string{gpu},
				Started: time.Now().Add(-time.Minute), Ended: time.Now().Add(time.Minute), Receipt: &sum,
			}
			if change != nil {
				change(&o)
			}
			return o, true
		}
	}
	for _, c := range []struct {
		name   string
		says   func(h basilica.HolderID) (basilica.Occupancy, bool)
		reason string  // of the holder check in the round after
		value  float64 // after a pass, a busy round and another pass
	}{
		{"a real tenant", real(nil), "PASS", 0.01},
		{"an invented id", func(basilica.HolderID) (basilica.Occupancy, bool) { return basilica.Occupancy{}, false }, "BUSY_UNPROVEN", 0.006667},
		{"a task of another day", real(func(o *basilica.Occupancy) {
			o.Started, o.Ended = o.Started.Add(-24*time.Hour), o.Ended.Add(-24*time.Hour)
		}), "BUSY_UNPROVEN", 0.006667},
		{"a task without GPUs", real(func(o *basilica.Occupancy) { o.GPUs = nil }), "BUSY_UNPROVEN", 0.006667},
		{"a task of another executor", real(func(o *basilica.Occupancy) { o.Executor = "box-2" }), "BUSY_UNPROVEN", 0.006667},
		{"a task that ended without a receipt", real(func(o *basilica.Occupancy) { o.Receipt = nil }), "BUSY_UNPROVEN", 0.006667},
		{"a task that was lost there", real(func(o *basilica.Occupancy) { o.State, o.Receipt = basilica.TaskLost, nil }), "PASS", 0.01},
		{"a tenant whose image took half an hour", real(func(o *basilica.Occupancy) {
			o.Started, o.Ended = o.Started.Add(31*time.Minute), o.Ended.Add(32*time.Minute)
		}), "PASS", 0.01},
		{"a task of hours later", real(func(o *basilica.Occupancy) {
			o.Started, o.Ended = o.Started.Add(2*time.Hour), o.Ended.Add(3*time.Hour)
		}), "BUSY_UNPROVEN", 0.006667},
		{"a task whose receipt is on the way", real(func(o *basilica.Occupancy) { o.State, o.Receipt = basilica.TaskRunning, nil }), "ABSENT", 0.01},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.attest = nil
			w := newWorld(t, m)
			w.round(20)
			m.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
				return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-7", Expires: time.Now()})
			}
			if d := proof(w.round(40)["box-1"]); d.Reason != score.ReasonBusy {
				t.Fatalf("%+v", d)
			}
			w.restart() // what was named is kept
			m.attest = nil
			w.miner.occupied = c.says
			v := w.round(60)["box-1"]
			if d := v.Verdict(basilica.CheckHolder); d.Reason != c.reason || proof(v).Result != basilica.Pass {
				t.Errorf("%+v, %+v", d, proof(v))
			}
			if got := w.v.scores(&w.chain.mg, w.v.standings)[0].Value; got != c.value {
				t.Errorf("worth %v, want %v", got, c.value)
			}
		})
	}
}

// TestWhoWasNotAskedForIsNotBlamed: one request holds 256 questions; a large fleet has more, and whose turn it is not loses
// nothing. In time everybody's turn comes.
func TestWhoWasNotAskedForIsNotBlamed(t *testing.T) {
	w := newWorld(t)
	miner, ids := w.miner.hotkey(), []basilica.ExecutorID{}
	for i := range 48 {
		id := basilica.ExecutorID("box-" + strconv.Itoa(i))
		s := score.Standing{Recent: []float64{1, 1}, LastPass: time.Now(), Since: 1}
		for k := range 7 {
			s.Claims = append(s.Claims, score.Claim{Holder: fmt.Sprintf("task-%d-%d", i, k), First: time.Now(), Last: time.Now()})
		}
		w.v.standings[basilica.ExecutorKey{Miner: miner, Executor: id}] = s
		ids = append(ids, id)
	}
	turns := map[basilica.ExecutorID]bool{}
	for round := 0; len(turns) < len(ids); round++ {
		if round == 100 {
			t.Fatalf("only %d of %d were ever asked for", len(turns), len(ids))
		}
		asked := w.v.holdersOf(miner, ids)
		if len(asked) > maxHolders || len(asked) <= maxHolders-7 {
			t.Fatalf("%d questions", len(asked))
		}
		var signed []basilica.SignedOccupancy
		for _, h := range asked {
			o, err := basilica.SignOccupancy(basilica.Occupancy{Task: h.Task, Executor: h.Executor, State: basilica.TaskLost}, w.miner.key)
			if err != nil {
				t.Fatal(err)
			}
			signed = append(signed, o)
		}
		said := w.v.answers(miner, asked, signed)
		for _, id := range ids {
			s := w.v.standings[basilica.ExecutorKey{Miner: miner, Executor: id}]
			its := slices.ContainsFunc(asked, func(h basilica.HolderID) bool { return h.Executor == id })
			turns[id] = turns[id] || its
			switch d := holderVerdict(id, s, said); {
			case !its && d != nil:
				t.Fatalf("%s was not asked for: %+v", id, d)
			case its && (d == nil || d.Result != basilica.Pass):
				t.Fatalf("%s: %+v", id, d)
			}
		}
	}
}

// TestWhoAnswersOthersOnlyIsNamed: a machine that gives this validator no answer, while another one weighs its miner, is
// called by that name, which costs it nothing more.
func TestWhoAnswersOthersOnlyIsNamed(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	w.chain.mg.Neurons = append(w.chain.mg.Neurons, basilica.Neuron{UID: 3, Hotkey: basilica.Hotkey(pair(t, "//Dave//validator").SS58()), ValidatorPermit: true, Stake: 1})
	w.round(20)
	m.dialErr = basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "away", "")
	for first := basilica.BlockNumber(40); first < 100; first += 20 {
		if d := w.round(first)["box-1"]; d.Verdict(basilica.CheckReach).Reason != "ABSENT" {
			t.Errorf("named although nobody else weighs its miner: %+v", d.Verdicts)
		}
	}
	w.chain.weights = map[basilica.UID][]basilica.Weight{3: {{UID: 2, Value: 65535}}}
	v := w.round(100)["box-1"]
	if d := v.Verdict(basilica.CheckReach); d.Reason != "SELECTIVE" || proof(v).Reason != "SSH_UNREACHABLE" {
		t.Errorf("%+v", v.Verdicts)
	}
	m.dialErr = nil
	if d := w.round(120)["box-1"]; d.Verdict(basilica.CheckReach).Reason != "ABSENT" || proof(d).Result != basilica.Pass {
		t.Errorf("%+v", d.Verdicts)
	}
}
