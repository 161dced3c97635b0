package node

import (
	"basilica"
)

// Report is what one run of a whole network came to; `basilica up --json` prints it.
type Report struct {
	Block        basilica.BlockNumber `json:"block"` // finalized head when the report was made
	Genesis      basilica.Hash        `json:"genesis"`
	NetUID       basilica.NetUID      `json:"netuid"`
	ValidatorUID basilica.UID         `json:"validator_uid"`
	MinerUID     basilica.UID         `json:"miner_uid"`
	Validator    basilica.Hotkey      `json:"validator"`
	Miner        basilica.Hotkey      `json:"miner"`
	Closed       bool                 `json:"closed"` // verdicts, weights from them, and incentive from these
	Verdicts     []ReportedVerdict    `json:"verdicts"`
	// Weights is the validator's row as it stands on chain at Block, where the chain has scaled its largest entry to 65535.
	Weights          []basilica.Weight   `json:"weights"`
	WeightsExtrinsic *ReportedExtrinsic  `json:"weights_extrinsic"`
	WeightsSubmitted []basilica.Weight   `json:"weights_submitted"` // as the extrinsic has them; they sum to 65535
	Incentive        []ReportedIncentive `json:"incentive"`
	Processes        []ReportedProcess   `json:"processes"`
	Addresses        map[string]string   `json:"addresses"` // by role and door, e.g. "miner.axon"
	Task             *ReportedTask       `json:"task"`      // null where no job was run
	Data             string              `json:"data,omitempty"`
	LoopSeconds      float64             `json:"loop_seconds"` // from the start to the closed loop
	Seconds          float64             `json:"seconds"`
	Error            *StartError         `json:"error,omitempty"` // why the run is not a success
}

// ReportedVerdict is one check of one executor.
type ReportedVerdict struct {
	Executor     basilica.ExecutorID     `json:"executor"`
	Check        basilica.Check          `json:"check"`
	Verdict      basilica.Result         `json:"verdict"`
	Reason       string                  `json:"reason"`
	Detail       string                  `json:"detail,omitempty"`
	Verification basilica.VerificationID `json:"verification"`
	Evidence     *ReportedEvidence       `json:"evidence"` // null where the check leaves none
}

// ReportedEvidence points at the raw frames.
type ReportedEvidence struct {
	basilica.Evidence
	Path string `json:"path,omitempty"` // for `basilica verify`; empty where the data directory does not outlive the run
}

// ReportedExtrinsic is where the weights took effect.
type ReportedExtrinsic struct {
	Block     basilica.BlockNumber `json:"block"`
	BlockHash basilica.Hash        `json:"block_hash"`
	Hash      basilica.Hash        `json:"hash"`
}

// ReportedIncentive is one neuron's share of 65535.
type ReportedIncentive struct {
	UID   basilica.UID `json:"uid"`
	Value uint16       `json:"value"`
}

// ReportedProcess is one child.
type ReportedProcess struct {
	Role string `json:"role"`
	Name string `json:"name,omitempty"` // of an executor
	PID  int    `json:"pid"`
}

// ReportedTask is the job of one run.
type ReportedTask struct {
	ID              basilica.TaskID         `json:"id"`
	State           basilica.TaskState      `json:"state"`
	Executor        basilica.ExecutorID     `json:"executor"`
	GPUs            []string                `json:"gpus"`
	ExitCode        *int                    `json:"exit_code"`
	InputSHA256     basilica.Digest         `json:"input_sha256"`
	StdoutSHA256    basilica.Digest         `json:"stdout_sha256"`
	Outputs         []ReportedOutput        `json:"outputs"`
	Receipt         *basilica.SignedReceipt `json:"receipt"`
	ReceiptPath     string                  `json:"receipt_path,omitempty"` // empty where the data directory does not outlive the run
	ReceiptVerified bool                    `json:"receipt_verified"`
}

// ReportedOutput is one output file of the job.
type ReportedOutput struct {
	Name    string          `json:"name"`
	SHA256  basilica.Digest `json:"sha256"`
	Content string          `json:"content,omitempty"` // of a small text
}
