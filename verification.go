package basilica

import (
	"io"
	"time"
)

// Check names one thing that a validator looks at.
type Check string

// The checks of one verification.
const (
	CheckGPUProof Check = "gpu_proof" // GPOW1 over SSH; the only check that proves anything
	CheckTaskPath Check = "task_path" // a small task in a container; moves availability only
	CheckFacts    Check = "facts"     // the machine's own facts were readable; informs only
	CheckHolder   Check = "holder"    // what the miner says of the tasks that the machine was busy with before
	CheckReach    Check = "reach"     // others weigh the miner of a machine that does not answer here; informs only
)

// Result is the outcome of a check. The zero value is not a pass.
type Result string

// The results. Fail needs reproducible proof of a false claim; what could not be measured is not_run.
const (
	Pass   Result = "pass"
	Fail   Result = "fail"
	NotRun Result = "not_run"
	Unsure Result = "unsure"
)

// Verdict is what one check came to. Reason is an upper-case code (PASS, CHEAT_FILL, BUSY, SSH_UNREACHABLE, …); Detail is one
// sentence for the machine's owner.
type Verdict struct {
	Check    Check     `json:"check"`
	Result   Result    `json:"verdict"`
	Reason   string    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Evidence points at what a verdict rests on: a record of raw frames that `basilica verify` judges again.
type Evidence struct {
	Blob
	Class  string `json:"class"`  // A, B or C of gpu-proof.md section 1; "software" for a software device
	Signed bool   `json:"signed"` // the machine's attestation key signed the transcript
}

// Spool holds the long frames of a running challenge, so that no memory does: a file that goes with Close. A machine says how many
// devices it has, and the openings of sixteen are 120 MB.
type Spool interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// ProvenGPU is one device of a verification, as measured by the validator's clock. Rates are per second.
type ProvenGPU struct {
	UUID          string   `json:"uuid"`
	Kind          GPUKind  `json:"kind"`
	Models        []string `json:"models"` // that fit what was measured; one name only if it is certain
	MemoryBytes   uint64   `json:"memory_bytes"`
	OpsPerSecond  float64  `json:"ops_per_second"`
	WalkBandwidth float64  `json:"walk_bytes_per_second"`
	MixBandwidth  float64  `json:"mix_bytes_per_second"`
}

// Verification is one validator's look at one executor in one round.
type Verification struct {
	ID        VerificationID `json:"id"`
	Genesis   Hash           `json:"genesis"`
	NetUID    NetUID         `json:"netuid"`
	Round     BlockNumber    `json:"round"` // first block of the round
	Block     BlockNumber    `json:"block"` // finalized head when it ended
	Validator Hotkey         `json:"validator"`
	Miner     Hotkey         `json:"miner"`
	MinerUID  UID            `json:"miner_uid"`
	Executor  ExecutorID     `json:"executor"`
	Started   time.Time      `json:"started"`
	Ended     time.Time      `json:"ended"`
	Verdicts  []Verdict      `json:"verdicts"`
	GPUs      []ProvenGPU    `json:"gpus,omitempty"` // proven by a pass
	Facts     *Facts         `json:"facts,omitempty"`
	Strength  string         `json:"strength,omitempty"`   // of the challenge: default, enrolment or recheck; empty where none was sent
	AfterOpen bool           `json:"after_open,omitempty"` // ended by silence or garbage after OPEN: spends the abort budget
	Holder    string         `json:"holder,omitempty"`     // who held the GPUs of a BUSY machine: a task's or receipt's id
}

// Verdict finds the verdict of one check; absent is NotRun with reason ABSENT.
func (v *Verification) Verdict(c Check) Verdict {
	for _, d := range v.Verdicts {
		if d.Check == c {
			return d
		}
	}
	return Verdict{Check: c, Result: NotRun, Reason: "ABSENT"}
}

// Score is one miner's worth to one validator at one block, by one version of the formula.
type Score struct {
	Miner     Hotkey          `json:"miner"`
	UID       UID             `json:"uid"`
	Value     float64         `json:"value"`
	Executors []ExecutorScore `json:"executors"`
}

// ExecutorScore is one executor's part: PassRatio × the weights of its proven GPUs.
type ExecutorScore struct {
	Executor  ExecutorID `json:"executor"`
	PassRatio float64    `json:"pass_ratio"` // of the last rounds
	Rounds    int        `json:"rounds"`     // that were counted
	GPUs      int        `json:"gpus"`       // proven by the last pass
	GPUWeight float64    `json:"gpu_weight"` // sum of their classes' weights
	Value     float64    `json:"value"`
	Why       string     `json:"why"` // one sentence
}

// WeightSet is one submitted weight vector and what it was computed from. Weights sum to 65535.
type WeightSet struct {
	Genesis   Hash        `json:"genesis"`
	NetUID    NetUID      `json:"netuid"`
	Block     BlockNumber `json:"block"`   // of the metagraph it was computed on
	Formula   string      `json:"formula"` // version of the score formula
	Scores    []Score     `json:"scores"`
	Rounds    int         `json:"rounds"` // N of the formula
	Software  bool        `json:"allow_software"`
	BurnShare float64     `json:"burn_share"`
	Burn      *UID        `json:"burn,omitempty"` // of the subnet's owner; nil where it is not registered
	Weights   []Weight    `json:"weights"`
	Submitted *Inclusion  `json:"submitted,omitempty"` // nil until the events of its block said success
	// Commit says how the chain holds the weights since then; nil where they took effect at once.
	Commit *WeightCommit `json:"commit,omitempty"`
	Error  *Reason       `json:"error,omitempty"`
	At     time.Time     `json:"at"`
}
