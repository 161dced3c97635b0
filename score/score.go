// Package score turns verifications into scores and scores into weights, by one published formula. It is pure: it has no
// clock, no store and no chain, so that anyone can recompute a validator's weights from what the validator publishes.
//
// # Formula score/4
//
// Of score/3 it differs in the limit of a miner's score, which had none; score/3 of score/2 in NO_TURN, which was LOCAL_ERROR
// there; score/2 of score/1 in [Weights] alone, which rounded small miners away.
//
// An executor's score is PassRatio × Σ weight(class of each proven GPU). A miner's score is the sum over its executors, but
// at most BusyMultiple × the largest weight that they proved together in one round of the last BusyFull; each executor's last
// pass counts there as long as it is paid for. What is more is taken from all of them in proportion: else one card that proves
// many machines by turns, the others being BUSY, would be paid for each of them.
//
// PassRatio is the mean credit of the last Rounds counted verifications (20 by default; fewer where there were fewer). One
// verification's credit:
//
//	gpu_proof pass, or unsure with GPUs proven        1, or TaskPathCredit where task_path did not pass
//	gpu_proof fail                                    0
//	gpu_proof not_run BUSY with a holder's id         1 up to BusyFull after the last pass, then falling in a straight line
//	                                                  to 0 within BusyFall; 0 where there was no pass
//	gpu_proof not_run for anything else               0
//	gpu_proof unsure without GPUs (DUPLICATE_UUID)    0
//	gpu_proof not_run BUSY_CHALLENGE, after a round   not counted, but it is the first of the row of not_run below: else one GPU
//	that was none                                     could prove several machines by turns, the others always being proven
//	gpu_proof not_run NO_TURN                         not counted the first time, from the second in a row on as not_run for anything
//	                                                  else: who is never looked at is not paid for what was proven once
//	LOCAL_ERROR, VALIDATOR_RESTARTED                  not counted at all: the validator's own fault
//
// Besides, an executor earns nothing at all
//
//   - after a fail, until its next pass;
//   - after BUSY without a holder's id, until its next pass;
//   - after three other not_run in a row, until its next pass (a BUSY with a holder's id neither counts nor ends the row);
//   - after two ends by silence or garbage after OPEN within 24 h, until a pass of enrolment strength.
//
// Whichever comes first holds, and each is lifted by its own condition alone. An unsure with GPUs counts as a pass in all of
// this; its GPUs are priced as the cheapest model that fits, and a GPU that fits no known model is worth nothing.
package score

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"basilica"
)

// Formula names the version of everything in this package that moves a weight.
const Formula = "score/4"

// The published constants of score/4.
const (
	DefaultRounds  = 20
	MaxRounds      = 1000
	BusyFull       = 24 * time.Hour
	BusyFall       = 24 * time.Hour
	BusyMultiple   = 4 // a fleet that is nearly always rented proves few at once: of eight machines rented 95 % of the time two meet within a day of 72 rounds
	TaskPathCredit = 0.5
	MissesInARow   = 3
	AbortsAllowed  = 1 // one more within AbortWindow halts
	AbortWindow    = 24 * time.Hour
)

// Reason codes that the formula knows. Every other reason of a not_run is an "other" one.
const (
	ReasonBusy          = "BUSY"                // a tenant holds the GPUs
	ReasonBusyChallenge = "BUSY_CHALLENGE"      // another validator does, or so the machine says: a miss
	ReasonNoTurn        = "NO_TURN"             // the round ended before the machine's turn: once nothing, then a miss
	ReasonLocal         = "LOCAL_ERROR"         // the validator's own fault: as if the round had not been
	ReasonRestarted     = "VALIDATOR_RESTARTED" // the same
)

// StrengthEnrolment is the strength of a challenge that lifts an exhausted abort budget.
const StrengthEnrolment = "enrolment"

// Policy is what a validator's configuration decides; it is published with the scores.
type Policy struct {
	Rounds        int  `json:"rounds"`         // N, 1..MaxRounds
	AllowSoftware bool `json:"allow_software"` // software devices have a weight at all
}

// Standing is what an executor's verifications so far come to: the fold of Next over them, oldest first. The zero value
// is a machine that was never seen.
type Standing struct {
	Recent   []float64            `json:"recent"`              // credit of the last counted rounds, oldest first
	LastPass time.Time            `json:"last_pass,omitzero"`  // end of the last pass
	GPUs     []basilica.ProvenGPU `json:"gpus,omitempty"`      // of the last pass
	Misses   int                  `json:"misses,omitempty"`    // not_run other than BUSY since the last round that was none
	Waits    int                  `json:"waits,omitempty"`     // NO_TURN in a row
	Aborts   []time.Time          `json:"aborts,omitempty"`    // ends after OPEN within AbortWindow
	Failed   bool                 `json:"failed,omitempty"`    // a fail since the last pass
	BusyBare bool                 `json:"busy_bare,omitempty"` // BUSY without a holder's id since the last pass
	Missing  bool                 `json:"missing,omitempty"`   // MissesInARow since the last pass
	Aborted  bool                 `json:"aborted,omitempty"`   // abort budget spent since the last pass of enrolment strength
	Claims   []Claim              `json:"claims,omitempty"`    // holders that earned credit and were not answered for yet, oldest first
	Since    int                  `json:"since,omitempty"`     // credits in Recent since the last pass
	Proofs   []Proof              `json:"proofs,omitempty"`    // passes of the last BusyFull, oldest first, and the last one of all
}

// Proof is what an executor's pass came to.
type Proof struct {
	Round  basilica.BlockNumber `json:"round"`
	Ended  time.Time            `json:"ended"`
	Weight float64              `json:"weight"` // sum of the classes' weights
}

// maxProofs bounds Proofs, to a day of 20-minute rounds; the oldest go first.
const maxProofs = 72

// Claim is a task that an executor named as the holder of its GPUs.
type Claim struct {
	Holder string    `json:"holder"`
	First  time.Time `json:"first"` // round in which it was named
	Last   time.Time `json:"last"`
}

// maxClaims bounds Claims; the oldest go first.
const maxClaims = 8

// ReasonUnproven is the reason of a CheckHolder that the miner does not stand for.
const ReasonUnproven = "BUSY_UNPROVEN"

// Halted says that the executor earns nothing now, and the code of why; "" if it earns.
func (s Standing) Halted() string {
	switch {
	case s.Failed:
		return "FAILED"
	case s.Aborted:
		return "ABORT_BUDGET"
	case s.BusyBare:
		return "BUSY_WITHOUT_HOLDER"
	case s.Missing:
		return "NOT_RUN_IN_A_ROW"
	}
	return ""
}

// NeedsEnrolment says that the next challenge must be of enrolment strength: the machine never passed, failed, or has spent
// its abort budget.
func (s Standing) NeedsEnrolment() bool { return s.LastPass.IsZero() || s.Failed || s.Aborted }

// Next is the standing after one more verification.
func (s Standing) Next(v basilica.Verification, p Policy) Standing {
	proof := v.Verdict(basilica.CheckGPUProof)
	if proof.Reason == ReasonLocal || proof.Reason == ReasonRestarted {
		return s
	}
	if proof.Reason != ReasonNoTurn {
		s.Waits = 0
	} else if s.Waits++; s.Waits == 1 {
		return s
	}
	if proof.Reason == ReasonBusyChallenge && s.Misses == 0 {
		return s.missed() // two validators met, which nobody can help; but nobody may be met time after time
	}
	s.Recent, s.Aborts, s.Claims = slices.Clone(s.Recent), slices.Clone(s.Aborts), slices.Clone(s.Claims)
	s = s.answered(v.Verdict(basilica.CheckHolder)).aged(v.Ended)
	credit := 0.0
	switch proven := proof.Result == basilica.Unsure && len(v.GPUs) > 0; {
	case proof.Result == basilica.Pass || proven:
		credit = 1
		if v.Verdict(basilica.CheckTaskPath).Result != basilica.Pass {
			credit = TaskPathCredit
		}
		s = s.passed(v, p)
	case proof.Result == basilica.Fail:
		s.Failed, s.Misses = true, 0
	case proof.Result == basilica.Unsure:
		s.GPUs, s.Misses = nil, 0
	case proof.Reason == ReasonBusy && v.Holder != "":
		if credit = s.busyCredit(v.Ended); credit > 0 {
			s = s.claimed(v.Holder, v.Ended)
		}
	case proof.Reason == ReasonBusy:
		s.BusyBare = true
	default:
		s = s.missed()
	}
	if v.AfterOpen && proof.Result == basilica.NotRun {
		s = s.aborted(v.Ended)
	}
	s.Recent, s.Since = append(s.Recent, credit), s.Since+1
	if over := len(s.Recent) - p.rounds(); over > 0 {
		s.Recent = slices.Delete(s.Recent, 0, over)
	}
	return s
}

// claimed notes whom a busy machine named.
func (s Standing) claimed(holder string, at time.Time) Standing {
	for i := range s.Claims {
		if s.Claims[i].Holder == holder {
			s.Claims[i].Last = at
			return s
		}
	}
	if s.Claims = append(s.Claims, Claim{holder, at, at}); len(s.Claims) > maxClaims {
		s.Claims = s.Claims[1:]
	}
	return s
}

// answered takes what the miner said of earlier holders. Where it does not stand for one, everything that was earned since
// the last pass without a proof is taken back, and nothing is earned until the next pass.
func (s Standing) answered(d basilica.Verdict) Standing {
	switch {
	case d.Result == basilica.Pass:
		s.Claims = nil
	case d.Reason == ReasonUnproven:
		for i := max(0, len(s.Recent)-max(s.Since, 0)); i < len(s.Recent); i++ {
			s.Recent[i] = 0
		}
		s.Claims, s.BusyBare = nil, true
	}
	return s
}

// missed counts a round in which the machine could not be measured.
func (s Standing) missed() Standing {
	s.Misses++
	s.Missing = s.Missing || s.Misses >= MissesInARow
	return s
}

func (p Policy) rounds() int {
	if p.Rounds < 1 {
		return DefaultRounds
	}
	return min(p.Rounds, MaxRounds)
}

// aged lets go of the passes that are older than BusyFull, but for the last one.
func (s Standing) aged(at time.Time) Standing {
	old := 0
	for old < len(s.Proofs)-1 && at.Sub(s.Proofs[old].Ended) > BusyFull {
		old++
	}
	s.Proofs = s.Proofs[old:]
	return s
}

func (s Standing) passed(v basilica.Verification, p Policy) Standing {
	s.LastPass, s.GPUs = v.Ended, slices.Clone(v.GPUs)
	s.Proofs = append(slices.Clone(s.Proofs), Proof{Round: v.Round, Ended: v.Ended, Weight: gpuWeight(v.GPUs, p)})
	s.Proofs = s.aged(v.Ended).Proofs
	s.Proofs = s.Proofs[max(0, len(s.Proofs)-maxProofs):]
	s.Misses, s.Failed, s.BusyBare, s.Missing, s.Since = 0, false, false, false, -1 // the pass's own credit makes it 0
	if v.Strength == StrengthEnrolment {
		s.Aborted, s.Aborts = false, nil
	}
	return s
}

func (s Standing) aborted(at time.Time) Standing {
	s.Aborts = slices.DeleteFunc(s.Aborts, func(t time.Time) bool { return at.Sub(t) > AbortWindow })
	s.Aborts = append(s.Aborts, at)
	if len(s.Aborts) > AbortsAllowed {
		s.Aborted = true
		s.Aborts = s.Aborts[len(s.Aborts)-AbortsAllowed-1:]
	}
	return s
}

// busyCredit is what a busy round is worth so long after the last pass.
func (s Standing) busyCredit(at time.Time) float64 {
	if s.LastPass.IsZero() {
		return 0
	}
	age := at.Sub(s.LastPass)
	if age <= BusyFull {
		return 1
	}
	return math.Max(0, 1-float64(age-BusyFull)/float64(BusyFall))
}

// Replay is the standing after all of an executor's verifications, oldest first.
func Replay(verifications []basilica.Verification, p Policy) Standing {
	var s Standing
	for _, v := range verifications {
		s = s.Next(v, p)
	}
	return s
}

// Score is one executor's part.
func (s Standing) Score(id basilica.ExecutorID, p Policy) basilica.ExecutorScore {
	e := basilica.ExecutorScore{Executor: id, Rounds: len(s.Recent), GPUs: len(s.GPUs), GPUWeight: gpuWeight(s.GPUs, p)}
	for _, c := range s.Recent {
		e.PassRatio += c
	}
	if e.Rounds > 0 {
		e.PassRatio /= float64(e.Rounds)
	}
	e.PassRatio = micro(e.PassRatio)
	halt := s.Halted()
	if halt == "" {
		e.Value = micro(e.PassRatio * e.GPUWeight)
	}
	e.Why = why(s, e, halt)
	return e
}

func why(s Standing, e basilica.ExecutorScore, halt string) string {
	switch halt {
	case "FAILED":
		return "earns nothing until its next pass: a false claim was proven"
	case "ABORT_BUDGET":
		return "earns nothing until a pass of enrolment strength: two challenges ended in silence or garbage after OPEN within 24 h"
	case "BUSY_WITHOUT_HOLDER":
		return "earns nothing until its next pass: busy without saying for whom"
	case "NOT_RUN_IN_A_ROW":
		return fmt.Sprintf("earns nothing until its next pass: %d rounds in a row could not be measured", s.Misses)
	}
	switch {
	case e.Rounds == 0:
		return "no round was counted yet"
	case len(s.GPUs) == 0:
		return "no GPU is proven"
	case e.GPUWeight == 0 && slices.ContainsFunc(s.GPUs, func(g basilica.ProvenGPU) bool { return g.Kind == basilica.GPUSoftware }):
		return "software devices have no weight at this validator"
	case e.GPUWeight == 0:
		return "the measurement fits no model that this validator knows"
	}
	names := make([]string, 0, len(s.GPUs))
	for _, g := range s.GPUs {
		name := "no known model"
		if c, ok := cheapest(g); ok {
			name = c.Model
		}
		names = append(names, name)
	}
	return fmt.Sprintf("pass ratio %.3f over %d rounds, %d proven as %s", e.PassRatio, e.Rounds, len(s.GPUs), strings.Join(slices.Compact(names), ", "))
}

// micro rounds to millionths: what is published is exactly what counts.
func micro(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// provenAtOnce is the largest weight that executors proved in one round, of those of their passes that count.
func provenAtOnce(scores []basilica.ExecutorScore, executors map[basilica.ExecutorID]Standing) float64 {
	most, byRound := 0.0, map[basilica.BlockNumber]float64{}
	for _, e := range scores {
		s := executors[e.Executor]
		if s.Failed || e.PassRatio == 0 {
			continue
		}
		if len(s.Proofs) == 0 { // a standing of score/3
			s.Proofs = []Proof{{Weight: e.GPUWeight}}
		}
		for _, p := range s.Proofs {
			byRound[p.Round] += p.Weight
			most = max(most, byRound[p.Round])
		}
	}
	return most
}

// Miner is the score of one miner. The order of its executors does not matter; the result lists them by id.
func Miner(n basilica.Neuron, executors map[basilica.ExecutorID]Standing, p Policy) basilica.Score {
	out := basilica.Score{Miner: n.Hotkey, UID: n.UID, Executors: make([]basilica.ExecutorScore, 0, len(executors))}
	for id, s := range executors {
		out.Executors = append(out.Executors, s.Score(id, p))
	}
	slices.SortFunc(out.Executors, func(a, b basilica.ExecutorScore) int { return strings.Compare(string(a.Executor), string(b.Executor)) })
	for _, e := range out.Executors {
		out.Value += e.Value
	}
	if most := BusyMultiple * provenAtOnce(out.Executors, executors); out.Value > most {
		part := most / out.Value
		out.Value = 0
		for i := range out.Executors {
			if e := &out.Executors[i]; e.Value > 0 {
				e.Value = micro(e.Value * part)
				e.Why += fmt.Sprintf("; %.3f of it, as the miner is paid at most %d times what it proved in one round", part, BusyMultiple)
				out.Value += e.Value
			}
		}
	}
	out.Value = micro(out.Value)
	return out
}
