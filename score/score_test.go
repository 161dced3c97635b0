package score

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"basilica"
	"basilica/yuma"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func gpu(kind basilica.GPUKind, mib uint64, models ...string) basilica.ProvenGPU {
	return basilica.ProvenGPU{Kind: kind, Models: models, MemoryBytes: mib << 20}
}

var h100 = gpu(basilica.GPUWhole, 75000, "NVIDIA H100 80GB HBM3")

// round is one verification in short; at is in hours.
type round struct {
	at        float64
	result    basilica.Result
	reason    string
	holder    string
	strength  string
	afterOpen bool
	noTask    bool
	noGPUs    bool
}

func (r round) verification() basilica.Verification {
	v := basilica.Verification{
		Ended: start.Add(time.Duration(r.at * float64(time.Hour))), Holder: r.holder, Strength: r.strength, AfterOpen: r.afterOpen,
		Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: r.result, Reason: r.reason}},
	}
	if r.result == basilica.Pass || r.result == basilica.Unsure {
		if !r.noGPUs {
			v.GPUs = []basilica.ProvenGPU{h100}
		}
		if !r.noTask {
			v.Verdicts = append(v.Verdicts, basilica.Verdict{Check: basilica.CheckTaskPath, Result: basilica.Pass})
		}
	}
	return v
}

func replay(p Policy, rounds ...round) Standing {
	var vs []basilica.Verification
	for _, r := range rounds {
		vs = append(vs, r.verification())
	}
	return Replay(vs, p)
}

func TestStandings(t *testing.T) {
	pass := func(at float64) round { return round{at: at, result: basilica.Pass, reason: "PASS"} }
	enrol := func(at float64) round {
		return round{at: at, result: basilica.Pass, reason: "PASS", strength: StrengthEnrolment}
	}
	miss := func(at float64) round { return round{at: at, result: basilica.NotRun, reason: "SSH_UNREACHABLE"} }
	busy := func(at float64) round {
		return round{at: at, result: basilica.NotRun, reason: ReasonBusy, holder: "task-1"}
	}
	bare := func(at float64) round { return round{at: at, result: basilica.NotRun, reason: ReasonBusy} }
	fail := func(at float64) round { return round{at: at, result: basilica.Fail, reason: "CHEAT_FILL"} }
	abort := func(at float64) round {
		return round{at: at, result: basilica.NotRun, reason: "TIMEOUT_PROOF", afterOpen: true}
	}
	other := func(at float64) round {
		return round{at: at, result: basilica.NotRun, reason: ReasonBusyChallenge, holder: "g-1"}
	}
	wait := func(at float64) round { return round{at: at, result: basilica.NotRun, reason: ReasonNoTurn} }
	local := func(at float64) round { return round{at: at, result: basilica.NotRun, reason: ReasonLocal} }
	for _, c := range []struct {
		name   string
		rounds []round
		value  float64
		halted string
	}{
		{"never seen", nil, 0, ""},
		{"one pass", []round{pass(0)}, 1, ""},
		{"no pass yet", []round{miss(0)}, 0, ""},
		{"a miss lowers availability only", []round{pass(0), miss(1)}, 0.5, ""},
		{"a fail earns nothing", []round{pass(0), pass(1), fail(2)}, 0, "FAILED"},
		{"a fail holds over misses and busy rounds", []round{pass(0), fail(1), miss(2), busy(3)}, 0, "FAILED"},
		{"a pass after a fail: the fail still counts 0", []round{pass(0), fail(1), pass(2), pass(3)}, 0.75, ""},
		{"busy with a holder keeps the pass", []round{pass(0), busy(1), busy(24)}, 1, ""},
		{"busy falls after 24 h", []round{pass(0), busy(36)}, 0.75, ""},
		{"busy is worth nothing after 48 h", []round{pass(0), busy(48), busy(100)}, 0.333333, ""},
		{"busy without a pass", []round{busy(0)}, 0, ""},
		{"busy without a holder", []round{pass(0), bare(1)}, 0, "BUSY_WITHOUT_HOLDER"},
		{"busy without a holder, then a pass", []round{pass(0), bare(1), pass(2), pass(3)}, 0.75, ""},
		{"two misses", []round{pass(0), pass(1), miss(2), miss(3)}, 0.5, ""},
		{"three misses", []round{pass(0), miss(1), miss(2), miss(3)}, 0, "NOT_RUN_IN_A_ROW"},
		{"three misses around a busy round", []round{pass(0), miss(1), busy(2), miss(3), miss(4), busy(5)}, 0, "NOT_RUN_IN_A_ROW"},
		{"three misses, then a pass", []round{miss(1), miss(2), miss(3), pass(4)}, 0.25, ""},
		{"one abort", []round{pass(0), abort(1), pass(2)}, 0.666667, ""},
		{"two aborts", []round{enrol(0), abort(1), pass(2), abort(3)}, 0, "ABORT_BUDGET"},
		{"two aborts, then a default pass", []round{enrol(0), abort(1), abort(2), pass(3)}, 0, "ABORT_BUDGET"},
		{"two aborts, then an enrolment pass", []round{pass(0), abort(1), abort(2), enrol(3)}, 0.5, ""},
		{"two aborts more than a day apart", []round{pass(0), abort(1), pass(2), abort(26)}, 0.5, ""},
		{"an enrolment pass forgives earlier aborts", []round{abort(1), enrol(2), abort(3), pass(4)}, 0.5, ""},
		{"the validator's own fault has no effect", []round{pass(0), local(1), local(2), local(3), {at: 4, result: basilica.NotRun, reason: ReasonRestarted}}, 1, ""},
		{"no turn once has no effect", []round{pass(0), wait(1)}, 1, ""},
		{"no turn every other round has none either", []round{pass(0), wait(1), pass(2), wait(3), busy(4), wait(5), pass(6)}, 1, ""},
		{"no turn in two rounds in a row is one miss", []round{pass(0), wait(1), wait(2)}, 0.5, ""},
		{"a restart between does not end the row", []round{pass(0), wait(1), local(2), wait(3)}, 0.5, ""},
		{"no turn in three rounds in a row, after a miss", []round{pass(0), miss(1), wait(2), wait(3), wait(4)}, 0, "NOT_RUN_IN_A_ROW"},
		{"never a turn", []round{pass(0), wait(1), wait(2), wait(3), wait(4)}, 0, "NOT_RUN_IN_A_ROW"},
		{"held by another validator's challenge now and then", []round{pass(0), other(1), pass(2), other(3), pass(4), busy(5), other(6)}, 1, ""},
		{"held by others' challenges in two rounds of three", []round{pass(0), other(1), other(2), pass(3), other(4), other(5)}, 0.5, ""},
		{"held by a challenge after a miss", []round{pass(0), miss(1), other(2)}, 0.333333, ""},
		{"always held by some challenge", []round{pass(0), other(1), other(2), other(3)}, 0, "NOT_RUN_IN_A_ROW"},
		{"task path did not pass", []round{{result: basilica.Pass, reason: "PASS", noTask: true}}, TaskPathCredit, ""},
		{"unsure with GPUs counts", []round{{result: basilica.Unsure, reason: "AMBIGUOUS"}}, 1, ""},
		{"a duplicate GPU proves nothing", []round{pass(0), {at: 1, result: basilica.Unsure, reason: "DUPLICATE_UUID", noGPUs: true}}, 0, ""},
		{"no verdict at all is a miss", []round{pass(0), {at: 1}}, 0.5, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := replay(Policy{Rounds: 20}, c.rounds...)
			if got := s.Score("e1", Policy{Rounds: 20}); got.Value != c.value || s.Halted() != c.halted {
				t.Errorf("value %v halted %q, want %v %q (%+v)", got.Value, s.Halted(), c.value, c.halted, s)
			}
		})
	}
}

// TestCaseA7_5BoxThatIsAlwaysRented: pay goes on in full while the last pass is younger than the published age, falls after
// it, is never zero after three rounds, and ends for whoever keeps its own card busy for weeks.
func TestCaseA7_5BoxThatIsAlwaysRented(t *testing.T) {
	text, err := os.ReadFile("testdata/cases/A7-5-fully-leased.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		RoundMinutes float64 `json:"round_minutes"`
		Lease        struct {
			From float64 `json:"from_min"`
			To   float64 `json:"to_min"`
		} `json:"lease"`
	}
	if err := json.Unmarshal(text, &c); err != nil || c.RoundMinutes == 0 {
		t.Fatal(c, err)
	}
	p := Policy{Rounds: DefaultRounds}
	value := func(s Standing) float64 { return s.Score("box", p).Value }
	s := replay(p, round{result: basilica.Pass, reason: "PASS"})
	full := value(s)
	busy := func(minutes float64, holder string) {
		v := round{at: minutes / 60, result: basilica.NotRun, reason: ReasonBusy, holder: holder}.verification()
		s = s.Next(v, p)
	}
	rounds := 0
	for at := c.Lease.From + c.RoundMinutes; at <= c.Lease.To; at += c.RoundMinutes {
		busy(at, "a real client's task")
		rounds++
		if value(s) != full || s.Halted() != "" {
			t.Fatalf("round %d, %v min after the pass: %v of %v, %s", rounds, at, value(s), full, s.Halted())
		}
	}
	if rounds != 42 {
		t.Fatalf("%d rounds", rounds)
	}
	// The lease goes on: the miner's own client holds the card for a week.
	last, zeroAt := full, 0.0
	for at := c.Lease.To + c.RoundMinutes; at < 7*24*60; at += c.RoundMinutes {
		busy(at, "the miner's own task")
		now := value(s)
		switch {
		case now > last:
			t.Fatalf("pay rose while nothing was proven, %v min after the pass", at)
		case at <= BusyFull.Minutes() && now != full:
			t.Fatalf("%v of %v, %v min after the pass: younger than the published age", now, full, at)
		case now == 0 && zeroAt == 0:
			zeroAt = at
		}
		last = now
	}
	if window := float64(DefaultRounds) * c.RoundMinutes; zeroAt < (BusyFull+BusyFall).Minutes() || zeroAt > (BusyFull+BusyFall).Minutes()+window {
		t.Errorf("pay ended %v min after the pass", zeroAt)
	}
	s = s.Next(round{at: 7 * 24, result: basilica.Pass, reason: "PASS"}.verification(), p)
	if value(s) == 0 {
		t.Error("a pass did not bring pay back")
	}
}

// TestCaseA7_3TinyShareIsNotRoundedAway: of a vector with most of its weight on the burn key the smallest honest miner keeps
// an entry, before and after the chain's scaling, and anybody who has the scores gets the same integers.
func TestCaseA7_3TinyShareIsNotRoundedAway(t *testing.T) {
	text, err := os.ReadFile("testdata/cases/A7-3-u16.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Weights     map[string]float64 `json:"weights"`
		MaxUpscaled map[string]uint16  `json:"max_upscaled"`
	}
	if err := json.Unmarshal(text, &c); err != nil || c.MaxUpscaled["c"] != 0 {
		t.Fatal(c, err)
	}
	uids := map[string]basilica.UID{"burn": 0, "a": 1, "b": 2, "c": 3}
	scores := []basilica.Score{{UID: 1, Value: c.Weights["a"]}, {UID: 2, Value: c.Weights["b"]}, {UID: 3, Value: c.Weights["c"]}}
	set := basilica.WeightSet{Formula: Formula, Scores: scores, Burn: uid(0), BurnShare: c.Weights["burn"]}
	if set.Weights, err = Weights(set.Scores, set.Burn, set.BurnShare); err != nil {
		t.Fatal(err)
	}
	byUID := map[basilica.UID]uint16{}
	var values []uint16
	for _, w := range set.Weights {
		byUID[w.UID] = w.Value
		values = append(values, w.Value)
	}
	if len(set.Weights) != len(c.Weights) || byUID[uids["c"]] != 1 {
		t.Errorf("weights %v: c has %d", set.Weights, byUID[uids["c"]])
	}
	for i, v := range yuma.MaxUpscale(values) {
		if v == 0 {
			t.Errorf("the chain stores 0 for uid %d", set.Weights[i].UID)
		}
	}
	for name, share := range c.Weights {
		if got := float64(byUID[uids[name]]) / Total; math.Abs(got-share) > 1.5/Total {
			t.Errorf("%s has %.6f, want %.6f", name, got, share)
		}
	}
	// Whoever reads what is published computes the same.
	published, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var read basilica.WeightSet
	if err := json.Unmarshal(published, &read); err != nil {
		t.Fatal(err)
	}
	if again, err := Weights(read.Scores, read.Burn, read.BurnShare); err != nil || !cmp.Equal(again, set.Weights) {
		t.Errorf("recomputed %v, %v, want %v", again, err, set.Weights)
	}
}

func TestWindow(t *testing.T) {
	p := Policy{Rounds: 3}
	r := []round{{at: 0, result: basilica.NotRun, reason: "X"}}
	for i := range 3 {
		r = append(r, round{at: float64(i + 1), result: basilica.Pass, reason: "PASS"})
	}
	if got := replay(p, r...).Score("e", p); got.Value != 1 || got.Rounds != 3 {
		t.Errorf("an old miss still counts: %+v", got)
	}
}

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		name  string
		gpu   basilica.ProvenGPU
		allow bool
		want  float64
	}{
		{"certain", h100, false, 1},
		{"cheapest of several", gpu(basilica.GPUWhole, 75000, "NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB"), false, 0.5},
		{"model without a class, by memory", gpu(basilica.GPUWhole, 40000, "NVIDIA X"), false, 0.35},
		{"model without a class, little memory", gpu(basilica.GPUWhole, 100, "NVIDIA X"), false, 0.2},
		{"model without a class, more memory than any", gpu(basilica.GPUWhole, 1<<20, "NVIDIA X"), false, 0.2},
		{"fits no model: memory alone is no GPU", gpu(basilica.GPUWhole, 40000), false, 0},
		{"fits no model, at a validator that allows software", gpu(basilica.GPUWhole, 100), true, 0},
		{"software refused", gpu(basilica.GPUSoftware, 3, "software"), false, 0},
		{"software allowed", gpu(basilica.GPUSoftware, 3, "software"), true, 0.01},
		{"software is never sold as a card", gpu(basilica.GPUSoftware, 3, "NVIDIA H200"), true, 0.01},
	} {
		if got := classWeight(c.gpu, Policy{AllowSoftware: c.allow}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for i, c := range Classes()[1:] {
		if c.Weight < Classes()[i].Weight {
			t.Errorf("%s is cheaper than the class before it", c.Model)
		}
	}
}

func uid(u basilica.UID) *basilica.UID { return &u }

func TestWeights(t *testing.T) {
	s := func(u basilica.UID, v float64) basilica.Score { return basilica.Score{UID: u, Value: v} }
	w := func(u basilica.UID, v uint16) basilica.Weight { return basilica.Weight{UID: u, Value: v} }
	for _, c := range []struct {
		name   string
		scores []basilica.Score
		burn   *basilica.UID
		share  float64
		want   []basilica.Weight
		code   string
	}{
		{"one miner", []basilica.Score{s(2, 0.02)}, uid(0), 0, []basilica.Weight{w(2, 65535)}, ""},
		{"thirds", []basilica.Score{s(3, 1), s(1, 1), s(2, 1)}, nil, 0, []basilica.Weight{w(1, 21845), w(2, 21845), w(3, 21845)}, ""},
		{"equal remainders go to the lower uid", []basilica.Score{s(5, 1), s(4, 1)}, nil, 0, []basilica.Weight{w(4, 32768), w(5, 32767)}, ""},
		{"burn", []basilica.Score{s(1, 3)}, uid(7), 0.1, []basilica.Weight{w(1, 58981), w(7, 6554)}, ""},
		{"burn everything", []basilica.Score{s(1, 3)}, uid(7), 1, []basilica.Weight{w(7, 65535)}, ""},
		{"no scores", nil, uid(7), 0, []basilica.Weight{w(7, 65535)}, ""},
		{"zero scores", []basilica.Score{s(1, 0)}, uid(7), 0.2, []basilica.Weight{w(7, 65535)}, ""},
		{"nobody at all", nil, nil, 0.5, nil, "NO_WEIGHTS"},
		{"nobody to burn to", []basilica.Score{s(1, 3)}, nil, 0.5, []basilica.Weight{w(1, 65535)}, ""},
		{"the owner is not paid for a score", []basilica.Score{s(1, 1), s(7, 9)}, uid(7), 0, []basilica.Weight{w(1, 65535)}, ""},
		{"a small score gets the least weight", []basilica.Score{s(1, 1e5), s(2, 1e-6)}, nil, 0, []basilica.Weight{w(1, 65534), w(2, 1)}, ""},
		{"below a millionth is no score", []basilica.Score{s(1, 1), s(2, 4e-7)}, nil, 0, []basilica.Weight{w(1, 65535)}, ""},
		{"fewer seats than miners", []basilica.Score{s(1, 1), s(2, 3), s(3, 1)}, uid(7), 65533.0 / 65535, []basilica.Weight{w(1, 1), w(2, 1), w(7, 65533)}, ""},
		{"a uid twice", []basilica.Score{s(1, 1), s(1, 2)}, nil, 0, nil, "UID_TWICE"},
		{"share out of range", nil, uid(1), 1.5, nil, "BURN_SHARE"},
		{"share not a number", nil, uid(1), math.NaN(), nil, "BURN_SHARE"},
		{"score not a number", []basilica.Score{s(1, math.NaN())}, nil, 0, nil, "SCORE_RANGE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Weights(c.scores, c.burn, c.share)
			if basilica.CodeOf(err) != c.code {
				t.Fatalf("error %v, want %q", err, c.code)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func drawScores(t *rapid.T) []basilica.Score {
	uids := rapid.SliceOfNDistinct(rapid.Uint16Range(0, 4095), 1, 60, rapid.ID[uint16]).Draw(t, "uids")
	out := make([]basilica.Score, len(uids))
	for i, u := range uids {
		out[i] = basilica.Score{UID: basilica.UID(u), Value: micro(rapid.Float64Range(0, 200).Draw(t, "score"))}
	}
	return out
}

func TestWeightProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scores := drawScores(t)
		burn, share := uid(5000), rapid.Float64Range(0, 1).Draw(t, "share")
		got, err := Weights(scores, burn, share)
		if err != nil {
			t.Fatal(err)
		}
		sum, byUID := 0, map[basilica.UID]uint16{}
		for i, w := range got {
			if w.Value == 0 || i > 0 && got[i-1].UID >= w.UID {
				t.Fatalf("zero, doubled or unordered entry in %v", got)
			}
			sum += int(w.Value)
			byUID[w.UID] = w.Value
		}
		if sum != Total {
			t.Fatalf("sum %d", sum)
		}
		for _, a := range scores {
			if a.Value == 0 && byUID[a.UID] != 0 {
				t.Fatalf("uid %d has weight without a score", a.UID)
			}
			if a.Value > 0 && byUID[a.UID] == 0 && Total-int(byUID[*burn]) >= len(scores) {
				t.Fatalf("uid %d is rounded away with a score of %v", a.UID, a.Value)
			}
			for _, b := range scores {
				if a.Value > b.Value && byUID[a.UID] < byUID[b.UID] {
					t.Fatalf("uid %d has the higher score and the lower weight", a.UID)
				}
			}
		}
		shuffled, err := Weights(rapid.Permutation(scores).Draw(t, "order"), burn, share)
		if err != nil || !cmp.Equal(got, shuffled) {
			t.Fatalf("depends on order: %v", err)
		}
		i := rapid.IntRange(0, len(scores)-1).Draw(t, "better")
		before := byUID[scores[i].UID]
		scores[i].Value = micro(scores[i].Value + rapid.Float64Range(0, 50).Draw(t, "by"))
		better, err := Weights(scores, burn, share)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range better {
			if w.UID == scores[i].UID && w.Value < before {
				t.Fatalf("a higher score lowered the weight from %d to %d", before, w.Value)
			}
		}
	})
}

func drawRound(t *rapid.T, at float64) round {
	r := round{
		at:       at,
		result:   rapid.SampledFrom([]basilica.Result{basilica.Pass, basilica.Fail, basilica.NotRun, basilica.Unsure}).Draw(t, "result"),
		strength: rapid.SampledFrom([]string{"default", StrengthEnrolment}).Draw(t, "strength"),
		noTask:   rapid.Bool().Draw(t, "noTask"),
	}
	if r.result == basilica.NotRun {
		r.reason = rapid.SampledFrom([]string{ReasonBusy, "SSH_UNREACHABLE", ReasonLocal, ReasonNoTurn}).Draw(t, "reason")
		r.holder = rapid.SampledFrom([]string{"", "task-1"}).Draw(t, "holder")
		r.afterOpen = rapid.Bool().Draw(t, "afterOpen")
	}
	return r
}

func TestStandingProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Rounds: rapid.IntRange(1, 8).Draw(t, "N")}
		var s Standing
		for i := range rapid.IntRange(1, 30).Draw(t, "rounds") {
			r := drawRound(t, float64(i)*rapid.Float64Range(0.1, 3).Draw(t, "gap"))
			before := len(s.Recent)
			s = s.Next(r.verification(), p)
			e := s.Score("e", p)
			if len(s.Recent) > p.Rounds || len(s.Recent) < before && before <= p.Rounds {
				t.Fatalf("window of %d", len(s.Recent))
			}
			if e.PassRatio < 0 || e.PassRatio > 1 || e.Value > e.GPUWeight {
				t.Fatalf("out of range: %+v", e)
			}
			if r.result == basilica.Fail && e.Value != 0 {
				t.Fatalf("a fail earns %v", e.Value)
			}
			if e.Value > 0 && s.LastPass.IsZero() {
				t.Fatal("earns without a pass")
			}
		}
	})
}

func TestMinerSumsItsExecutors(t *testing.T) {
	p := Policy{Rounds: 20}
	pass := replay(p, round{result: basilica.Pass, reason: "PASS"})
	fail := replay(p, round{result: basilica.Fail, reason: "CHEAT_WALK"})
	got := Miner(basilica.Neuron{UID: 4, Hotkey: "5m"}, map[basilica.ExecutorID]Standing{"b": pass, "a": pass, "c": fail}, p)
	if got.Value != 2 || got.UID != 4 || len(got.Executors) != 3 || got.Executors[0].Executor != "a" || got.Executors[2].Value != 0 {
		t.Errorf("%+v", got)
	}
}

// TestBusyByTurns: one card that proves two dozen machines by turns, the others being busy, is paid four times at most; a
// fleet that is always rented keeps its pay where a quarter of it was seen at once.
func TestBusyByTurns(t *testing.T) {
	p := Policy{Rounds: DefaultRounds}
	all := func(int, int) bool { return true }
	for _, c := range []struct {
		name     string
		machines int
		hours    float64
		proves   func(round, machine int) bool
		want     float64
	}{
		{"one card by turns", 24, 48, func(r, m int) bool { return m == r%24 }, 4},
		{"one card by turns, two dozen once at once", 24, 20, func(r, m int) bool { return r == 0 || m == r%24 }, 24},
		{"one card by turns, a day after two dozen at once", 24, 25, func(r, m int) bool { return r == 0 || m == r%24 }, 4},
		{"two cards by turns", 24, 48, func(r, m int) bool { return m%12 == r%12 }, 8},
		{"eight rented machines, two at a time and never the same two", 8, 48, func(r, m int) bool { return r%3 == 0 && (m == r/3%8 || m == (r/3*3+1)%8) }, 8},
		{"eight rented machines, two at once a day ago", 8, 24, func(r, m int) bool { return m == r%8 || r == 2 && m == 3 }, 8},
		{"four machines one by one", 4, 48, func(r, m int) bool { return m == r%24 }, 4},
		{"all rented for a day and a half", 8, 36, func(r, _ int) bool { return r == 0 }, 8 * (0.5 + 9.5/72)}, // mean of 20 points of the line
		{"all free", 100, 25, all, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			standings, ids := map[basilica.ExecutorID]Standing{}, make([]basilica.ExecutorID, c.machines)
			for i := range ids {
				ids[i] = basilica.ExecutorID(fmt.Sprintf("box-%02d", i))
			}
			for r := range int(c.hours*3) + 1 {
				for i, id := range ids {
					x := round{at: float64(r) / 3, result: basilica.NotRun, reason: ReasonBusy, holder: "task-1"}
					if c.proves(r, i) {
						x.result, x.reason = basilica.Pass, "PASS"
					}
					v := x.verification()
					v.Round = basilica.BlockNumber(100 * r)
					standings[id] = standings[id].Next(v, p)
				}
			}
			got := Miner(basilica.Neuron{UID: 4, Hotkey: "5m"}, standings, p)
			sum, uncut := 0.0, 0.0
			for _, e := range got.Executors {
				sum += e.Value
				uncut += standings[e.Executor].Score(e.Executor, p).Value
			}
			if math.Abs(got.Value-c.want) > 1e-4 || micro(sum) != got.Value {
				t.Errorf("paid %v (sum %v, %v without the limit), want %v", got.Value, sum, uncut, c.want)
			}
			if cut := strings.Contains(got.Executors[0].Why, "at most 4 times"); cut != (uncut > c.want+1e-4) {
				t.Errorf("%v of %v: %s", got.Value, uncut, got.Executors[0].Why)
			}
			for id, s := range standings {
				if len(s.Proofs) > maxProofs {
					t.Fatalf("%s keeps %d passes", id, len(s.Proofs))
				}
				s.Proofs = nil // as score/3 stored it
				standings[id] = s
			}
			if old := Miner(basilica.Neuron{}, standings, p); math.Abs(old.Value-uncut) > 1e-4 {
				t.Errorf("%v of %v at the first start with score/4", old.Value, uncut)
			}
		})
	}
}
