package attest

import "basilica"

// Result is the outcome of a challenge. Its zero value is no outcome at all and counts as not_run.
type Result string

// The results of gpu-proof.md section 7.
const (
	Pass       Result = "PASS"        // every rule and floor holds, the model is certain
	PassOther  Result = "PASS_OTHER"  // every rule holds, the claimed model's floors do not or several models fit
	CheatFill  Result = "CHEAT_FILL"  // a product element is wrong
	CheatWalk  Result = "CHEAT_WALK"  // a lane of the walk is wrong
	CheatMix   Result = "CHEAT_MIX"   // a cell of the mix is wrong
	CheatPRG   Result = "CHEAT_PRG"   // a generated leaf is wrong
	CheatPing  Result = "CHEAT_PING"  // an answer to PING or ECHO is wrong
	CheatFinal Result = "CHEAT_FINAL" // final_g is not that of the roots
	CheatKey   Result = "CHEAT_KEY"   // not the pinned key, or its signature is wrong
	CheatBind  Result = "CHEAT_BIND"  // signed evidence speaks of another run
	CheatVDF   Result = "CHEAT_VDF"   // the delay function's value is wrong
	Malformed  Result = "MALFORMED"   // frame, order or length violation
	Unknown    Result = "UNKNOWN"     // timeout, transport error, abort
	LocalError Result = "LOCAL_ERROR" // the validator's own fault
	undecided  Result = ""
)

// Verdict maps a result to what scores know. Whatever is not named here is not_run.
func (r Result) Verdict() basilica.Result {
	switch r {
	case Pass:
		return basilica.Pass
	case PassOther:
		return basilica.Unsure
	case CheatFill, CheatWalk, CheatMix, CheatPRG, CheatPing, CheatFinal, CheatKey, CheatBind, CheatVDF:
		return basilica.Fail
	}
	return basilica.NotRun
}

// Judgement is what a challenge came to.
type Judgement struct {
	Result     Result     `json:"result"`
	Reason     string     `json:"reason"` // upper-case code: the result, or more precise (TOO_FAR, TIMEOUT_WALK_DONE, …)
	Detail     string     `json:"detail"` // one sentence
	Class      Class      `json:"class"`
	Signed     bool       `json:"signed"`     // the attestation key signed the transcript
	AfterOpen  bool       `json:"after_open"` // ended by silence or garbage after OPEN: spends the abort budget
	SPKI       []byte     `json:"spki,omitempty"`
	GPUs       []Measured `json:"gpus,omitempty"`
	CCReport   *CCFinding `json:"cc_report,omitempty"` // nil: the machine gave none, or no root is pinned
	Transcript Digest     `json:"transcript"`
	RTT        float64    `json:"rtt_seconds"`         // smallest ECHO; 0 if there was none
	PingExcess float64    `json:"ping_excess_seconds"` // smallest PING minus smallest ECHO
	// SequentialTimeLowerBound is in seconds: T squarings at 2e7/s, faster than anything known. 0 without a VDF.
	SequentialTimeLowerBound float64 `json:"sequential_time_lower_bound"`
}

// Verdict is the judgement in the words of scores.
func (j Judgement) Verdict() basilica.Result { return j.Result.Verdict() }

// Measured is what one GPU reached by the validator's clock. Rates are zero where nothing was measured.
type Measured struct {
	G        int      `json:"g"`
	UUID     UUID     `json:"uuid"`
	Software bool     `json:"software"`
	Claim    string   `json:"claim"` // the model it was taken for, or ""
	M        uint64   `json:"memory_bytes"`
	C        float64  `json:"ops_per_second"`
	BW       float64  `json:"walk_bytes_per_second"`
	BM       float64  `json:"mix_bytes_per_second"`
	Models   []string `json:"models"` // that fit; one alone is certain only with PASS
	// Posterior is the probability of the claimed model among those that have the memory and none of them, to four digits.
	Posterior float64 `json:"posterior"`
	Above     bool    `json:"above_band"` // faster than the claimed model should be: flagged, not punished
}

// Proven gives the GPUs in root nouns, for a pass or an unsure verdict.
func (j Judgement) Proven() []basilica.ProvenGPU {
	if v := j.Verdict(); v != basilica.Pass && v != basilica.Unsure {
		return nil
	}
	out := make([]basilica.ProvenGPU, len(j.GPUs))
	for i, g := range j.GPUs {
		kind := basilica.GPUWhole
		if g.Software {
			kind = basilica.GPUSoftware
		}
		out[i] = basilica.ProvenGPU{
			UUID: g.UUID.String(), Kind: kind, Models: g.Models, MemoryBytes: g.M,
			OpsPerSecond: g.C, WalkBandwidth: g.BW, MixBandwidth: g.BM,
		}
	}
	return out
}
