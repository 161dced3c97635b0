package validator

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
	"basilica/score"
)

// beside registers other miners.
func (w *world) beside(others ...*minerDouble) {
	doors := map[basilica.UID]*minerDouble{2: w.miner}
	for _, o := range others {
		n := basilica.Neuron{UID: basilica.UID(len(w.chain.mg.Neurons)), Hotkey: o.hotkey(), Axon: w.chain.mg.Neurons[2].Axon}
		doors[n.UID], w.chain.mg.Neurons = o, append(w.chain.mg.Neurons, n)
	}
	w.cfg.Door = func(n basilica.Neuron) (MinerDoor, error) { return doors[n.UID], nil }
	w.cfg.Dial = func(_ context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
		for _, o := range doors {
			if slices.ContainsFunc(o.machines, func(m *machine) bool { return m.id == access.Executor }) {
				return w.connect(o, access, key)
			}
		}
		return nil, errors.New("no such machine")
	}
}

// first has a miner looked at before all others in the next round.
func (w *world) first(miner basilica.Hotkey, id basilica.ExecutorID) {
	k := basilica.ExecutorKey{Miner: miner, Executor: id}
	s := w.v.standings[k]
	s.Waits = 100
	w.v.standings[k] = s
}

// silent is a machine that never says a word.
func silent(ctx context.Context, _ io.ReadWriteCloser, _ attest.Binding) error {
	<-ctx.Done()
	return ctx.Err()
}

// before has a machine do something before each frame that it sends.
func (m *machine) before(do func(ctx context.Context, t attest.FrameType)) {
	honest := *m
	m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		return honest.prove(ctx, sender{rw, func(t attest.FrameType) { do(ctx, t) }}, b)
	}
}

type sender struct {
	io.ReadWriteCloser
	before func(t attest.FrameType)
}

func (s sender) Write(b []byte) (int, error) {
	s.before(attest.Frame(b).Type())
	return s.ReadWriteCloser.Write(b)
}

// wait ends when c is closed, after a time, or with ctx.
func wait(ctx context.Context, c <-chan struct{}, longest time.Duration) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestAStallingMinerHoldsItsShareAlone: a miner with as many machines as there are slots lets each of them come to every
// deadline. Who comes after it has its turn all the same.
func TestAStallingMinerHoldsItsShareAlone(t *testing.T) {
	t.Parallel()
	var stalling []*machine
	for i := range 8 {
		m := newMachine(t, basilica.ExecutorID(fmt.Sprintf("stall-%d", i)))
		m.attest = silent
		stalling = append(stalling, m)
	}
	w := newWorld(t, stalling...)
	var others []*minerDouble
	for i := range 3 {
		id := fmt.Sprintf("box-%d", i)
		others = append(others, &minerDouble{key: pair(t, "//Dave//"+id), machines: []*machine{newMachine(t, basilica.ExecutorID(id))}})
	}
	w.beside(others...)
	w.cfg.Parallel, w.cfg.Limits.Hello, w.cfg.RoundTimeout = len(stalling), time.Minute, 7*time.Second
	w.restart()
	w.first(w.miner.hotkey(), "stall-0")
	got := w.round(20)
	for _, o := range others {
		if d := proof(got[o.machines[0].id]); d.Result != basilica.Pass {
			t.Errorf("%s: %+v", o.machines[0].id, d)
		}
	}
	for _, m := range stalling {
		if d := proof(got[m.id]); d.Reason != "TRANSPORT_HELLO" {
			t.Errorf("%s: %+v", m.id, d)
		}
	}
}

// TestNoTurn: who had no turn goes first in the next round, also after a restart. Once it costs nothing; from the second round
// in a row on it is a miss, or whoever keeps the validator busy has the others go on being paid for what was proven once.
func TestNoTurn(t *testing.T) {
	t.Parallel()
	stalling, box := newMachine(t, "stall"), newMachine(t, "box")
	stalling.attest = silent
	w := newWorld(t, stalling)
	other := &minerDouble{key: pair(t, "//Dave//miner"), machines: []*machine{box}}
	w.beside(other)
	w.cfg.Parallel, w.cfg.Limits.Hello = 1, time.Minute
	k := basilica.ExecutorKey{Miner: other.hotkey(), Executor: box.id}
	stalled := func(first basilica.BlockNumber) {
		t.Helper()
		w.cfg.RoundTimeout = 2 * time.Second
		w.restart()
		w.first(w.miner.hotkey(), stalling.id)
		d := proof(w.round(first)[box.id])
		provoke.Reason(t, basilica.Reason{Code: d.Reason, Sentence: d.Detail}, "NO_TURN")
	}
	stalled(20)
	if s := w.v.standings[k]; s.Waits != 1 || s.Misses != 0 || len(s.Recent) != 0 {
		t.Errorf("once: %+v", s)
	}
	w.cfg.RoundTimeout = 8 * time.Second
	w.restart()
	// The other way round it would have no turn again.
	if d := proof(w.round(40)[box.id]); d.Result != basilica.Pass {
		t.Fatalf("after a restart: %+v", d)
	}
	if s := w.v.standings[k]; s.Waits != 0 || len(s.Recent) != 1 {
		t.Errorf("after its turn: %+v", s)
	}
	stalled(60)
	stalled(80)
	if s := w.v.standings[k]; s.Waits != 2 || s.Misses != 1 || !slices.Equal(s.Recent, []float64{1, 0}) {
		t.Errorf("twice in a row: %+v", s)
	}
	// A machine's own word is not the validator's.
	if reason, _, _ := reasonOf(t.Context(), basilica.E(basilica.Unavailable, score.ReasonNoTurn, "says the machine", "")); reason != reasonRefused {
		t.Errorf("a machine says NO_TURN: %s", reason)
	}
}

// TestAllMachinesOfAMinerStartTogether: with more machines than slots they still start at one instant, or one GPU could answer
// for one after the other. Slots bound whose proofs are read at once.
func TestAllMachinesOfAMinerStartTogether(t *testing.T) {
	t.Run("one GPU behind two machines", func(t *testing.T) {
		a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
		w := newWorld(t, a, b)
		w.cfg.Parallel, w.cfg.Limits.Hello = 1, time.Minute
		w.restart()
		w.v.gateTimeout = 50 * time.Millisecond
		done, honest, waiting := make(chan struct{}), *a, *b
		a.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
			defer close(done)
			return honest.prove(ctx, rw, bind)
		}
		b.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
			<-done // until the GPU is free
			return waiting.prove(ctx, rw, bind)
		}
		got := w.round(20)
		if d := proof(got["box-a"]); d.Result != basilica.Pass {
			t.Errorf("%+v", d)
		}
		if d := proof(got["box-b"]); d.Result != basilica.NotRun || d.Reason != reasonLate {
			t.Errorf("%+v", d)
		}
	})
	t.Run("four machines, two slots", func(t *testing.T) {
		const slots = 2
		var reading, most atomic.Int32
		var machines []*machine
		tooMany := make(chan struct{})
		for i := range 2 * slots {
			m, opened := newMachine(t, basilica.ExecutorID(fmt.Sprintf("box-%d", i))), false
			m.before(func(ctx context.Context, f attest.FrameType) {
				switch {
				case f == attest.FrameProof && !opened:
					opened = true
					n := reading.Add(1)
					if most.Store(max(most.Load(), n)); n == slots+1 {
						close(tooMany)
					}
					wait(ctx, tooMany, 200*time.Millisecond)
				case f == attest.FrameEvidence:
					reading.Add(-1)
				}
			})
			machines = append(machines, m)
		}
		w := newWorld(t, machines...)
		w.cfg.Parallel = slots
		w.restart()
		for id, v := range w.round(20) {
			if proof(v).Result != basilica.Pass {
				t.Errorf("%s: %+v", id, proof(v))
			}
		}
		rounds, err := w.book.Rounds(t.Context(), 1)
		if err != nil || len(rounds) != 1 || len(rounds[0].Starts) != 1 || rounds[0].Starts[0].Machines != len(machines) {
			t.Errorf("%+v, %v", rounds, err)
		}
		if most.Load() > slots {
			t.Errorf("%d proofs were read at once", most.Load())
		}
	})
}

// TestWhoRefusedHoldsNobodyUp: a busy machine that is slow with everything else it is asked keeps no other from its start.
func TestWhoRefusedHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	honest, busy := newMachine(t, "honest"), newMachine(t, "busy")
	proven, prove := make(chan struct{}), *honest
	honest.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		defer close(proven)
		return prove.prove(ctx, rw, b)
	}
	busy.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-9", Expires: time.Now()})
	}
	busy.check = func(io.Writer) error {
		select {
		case <-proven:
			return basilica.E(basilica.Unavailable, "ENGINE_AWAY", "the container engine is away", "")
		case <-time.After(20 * time.Second):
			return basilica.E(basilica.Unavailable, "WAITED", "nobody was challenged meanwhile", "")
		}
	}
	w := newWorld(t, honest, busy)
	w.v.gateTimeout = 2 * w.cfg.CheckTimeout
	got := w.round(20)
	asked := got["busy"]
	if d, path := proof(got["honest"]), asked.Verdict(basilica.CheckTaskPath); d.Result != basilica.Pass || path.Reason != "ENGINE_AWAY" {
		t.Errorf("%+v, %+v", d, path)
	}
}

// TestTheRoundsEndIsNobodysBreakOff: whether a machine broke off after OPEN is for the proof's own deadlines to say. The round's
// end is the validator's: it neither counts against who would have answered in time, nor lets off who would not have.
func TestTheRoundsEndIsNobodysBreakOff(t *testing.T) {
	t.Parallel()
	t.Run("after OPEN", func(t *testing.T) {
		t.Parallel()
		slow, never := newMachine(t, "slow"), newMachine(t, "never")
		w := newWorld(t, slow, never)
		w.cfg.RoundTimeout, w.cfg.Limits.Proof = 4*time.Second, 10*time.Second
		w.restart()
		over := make(chan struct{})
		time.AfterFunc(w.cfg.RoundTimeout+500*time.Millisecond, sync.OnceFunc(func() { close(over) }))
		slow.before(func(ctx context.Context, f attest.FrameType) {
			if f == attest.FrameProof {
				wait(ctx, over, time.Minute)
			}
		})
		never.before(func(ctx context.Context, f attest.FrameType) {
			if f == attest.FrameProof {
				<-ctx.Done()
			}
		})
		got := w.round(20)
		if v := got["slow"]; proof(v).Result != basilica.Pass || v.AfterOpen || v.Verdict(basilica.CheckTaskPath).Result != basilica.Pass {
			t.Errorf("%+v", v)
		}
		if v := got["never"]; proof(v).Reason != "TIMEOUT_PROOF" || !v.AfterOpen {
			t.Errorf("%+v", v)
		}
	})
	t.Run("before OPEN", func(t *testing.T) {
		t.Parallel()
		a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
		for _, m := range []*machine{a, b} {
			m.before(func(ctx context.Context, f attest.FrameType) {
				if f == attest.FrameProof {
					<-ctx.Done()
				}
			})
		}
		w := newWorld(t, a, b)
		w.cfg.Parallel, w.cfg.RoundTimeout, w.cfg.Limits.Proof = 1, 6*time.Second, 9*time.Second
		w.restart()
		told := map[string]bool{}
		for _, v := range w.round(20) {
			told[proof(v).Reason] = v.AfterOpen
		}
		if after, ok := told["TIMEOUT_PROOF"]; !ok || !after {
			t.Errorf("whose proof was read: %v", told)
		}
		if after, ok := told["TIMEOUT"]; !ok || after {
			t.Errorf("who waited for it: %v", told)
		}
	})
}

// TestTheOlderPinKeepsAGPU: two machines prove a GPU that neither had before. The one that was known first has it, not the one
// that was done first; the last pass goes before both.
func TestTheOlderPinKeepsAGPU(t *testing.T) {
	w := newWorld(t)
	key := func(id basilica.ExecutorID) basilica.ExecutorKey {
		return basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: id}
	}
	for id, since := range map[basilica.ExecutorID]basilica.BlockNumber{"old": 20, "young": 40} {
		w.v.pins[key(id)] = basilica.Pin{ExecutorKey: key(id), Since: since}
	}
	gpus := []basilica.ProvenGPU{{UUID: "GPU-7"}}
	settled := func(inOrder ...basilica.ExecutorID) (has []basilica.ExecutorID) {
		var found []inspection
		for _, id := range inOrder {
			found = append(found, inspection{verification: basilica.Verification{
				Miner: w.miner.hotkey(), Executor: id, GPUs: gpus, Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: basilica.Pass}},
			}})
		}
		w.v.settle(found)
		for _, f := range found {
			if proof(f.verification).Result == basilica.Pass {
				has = append(has, f.verification.Executor)
			}
		}
		return has
	}
	for _, c := range []struct {
		inOrder []basilica.ExecutorID // the first was done first
		has     basilica.ExecutorID
	}{
		{[]basilica.ExecutorID{"young", "old"}, "old"},
		{[]basilica.ExecutorID{"old", "young"}, "old"},
		{[]basilica.ExecutorID{"new", "young"}, "young"},
		{[]basilica.ExecutorID{"new", "young", "old"}, "old"},
		{[]basilica.ExecutorID{"new", "newer"}, "new"},
	} {
		if has := settled(c.inOrder...); !slices.Equal(has, []basilica.ExecutorID{c.has}) {
			t.Errorf("%v: %v have it, want %s", c.inOrder, has, c.has)
		}
	}
	w.v.standings[key("young")] = score.Standing{GPUs: gpus, LastPass: time.Now()}
	if has := settled("old", "young"); !slices.Equal(has, []basilica.ExecutorID{"young"}) {
		t.Errorf("%v have what the young one had at its last pass", has)
	}
}

// TestWhoIsAwayKeepsItsGPU: a GPU's UUID is public. Whoever names that of a machine which is away does not get it, however long he
// has been known, before the machine's window is empty, its miner names it no more or its claim was proven false.
func TestWhoIsAwayKeepsItsGPU(t *testing.T) {
	w := newWorld(t)
	key := func(id basilica.ExecutorID) basilica.ExecutorKey {
		return basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: id}
	}
	w.v.pins[key("rival")] = basilica.Pin{ExecutorKey: key("rival"), Since: 20}
	w.v.pins[key("away")] = basilica.Pin{ExecutorKey: key("away"), Since: 40}
	gpus := []basilica.ProvenGPU{{UUID: "GPU-7"}}
	for _, c := range []struct {
		name   string
		s      score.Standing
		reason string
		keeps  bool
	}{
		{"for a round", score.Standing{Recent: []float64{1, 0}, Misses: 1}, "SSH_UNREACHABLE", true},
		{"too long to earn", score.Standing{Recent: []float64{1, 0, 0, 0}, Misses: 3, Missing: true}, reasonMinerAway, true},
		{"after it broke off twice", score.Standing{Recent: []float64{1, 0, 0}, Misses: 2, Aborted: true}, "SSH_UNREACHABLE", true},
		{"until its window is empty", score.Standing{Recent: make([]float64, 20), Misses: 20, Missing: true}, "SSH_UNREACHABLE", false},
		{"and no longer named", score.Standing{Recent: []float64{1, 0, 0, 0}, Misses: 3, Missing: true}, reasonAbsent, false},
		{"after a lie", score.Standing{Recent: []float64{1, 0}, Failed: true}, "SSH_UNREACHABLE", false},
	} {
		c.s.GPUs, c.s.LastPass = gpus, time.Now()
		w.v.standings[key("away")] = c.s
		found := []inspection{
			{verification: basilica.Verification{Miner: w.miner.hotkey(), Executor: "away", Verdicts: []basilica.Verdict{notRun(basilica.CheckGPUProof, c.reason, "")}}},
			{verification: basilica.Verification{Miner: w.miner.hotkey(), Executor: "rival", GPUs: gpus, Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: basilica.Pass}}}},
		}
		w.v.settle(found)
		if d := proof(found[1].verification); (d.Reason == reasonDuplicateUUID) != c.keeps {
			t.Errorf("away %s: the rival's proof is %+v", c.name, d)
		}
	}
}
