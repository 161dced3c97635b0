package attest

import "time"

// Class is the evidence class of a judgement (gpu-proof.md section 1): what stands behind the numbers.
type Class string

// The classes. Scores may weigh them.
const (
	ClassA        Class = "A"        // timing alone: GPOW1, which is part of every class
	ClassB        Class = "B"        // A, and the attestation key was shown to live in a TPM 2.0: it cannot have been copied
	ClassC        Class = "C"        // A, a CPU's TEE quote over the host key, and a GPU's CC report, both on the run's own nonce
	ClassSoftware Class = "software" // a device of the run is a CPU prover: no evidence of any GPU
)

// Shown is what was verified of a run besides the proof itself. What a machine claims of itself (key_kind and caps of HELLO) is
// none of it.
type Shown struct {
	TPMKey   bool // the pinned key lives in a TPM
	CPUQuote bool // a TEE quote of the CPU binds the host key
	CCReport bool // a CC report of the GPU, with the transcript as its nonce
}

// Class is the highest class that what was shown gives. A CC report without the CPU's quote adds nothing: any machine may
// have asked a GPU elsewhere for it.
func (s Shown) Class() Class {
	switch {
	case s.CPUQuote && s.CCReport:
		return ClassC
	case s.TPMKey:
		return ClassB
	}
	return ClassA
}

// CCFinding is what became of the CC report of a run.
type CCFinding struct {
	Verified bool   `json:"verified"`
	Device   string `json:"device,omitempty"` // serial number of the device identity
	Driver   string `json:"driver,omitempty"` // as the device says
	Detail   string `json:"detail,omitempty"` // why it was refused
}

// checkCC looks at a CC report, whose nonce must be the transcript. Without a pinned root nothing is looked at.
func (v *Verifier) checkCC(report, chain []byte) *CCFinding {
	if v.ccRoot == nil || len(report) == 0 {
		return nil
	}
	r, err := VerifyCCReport(report, chain, v.transcript(), v.ccRoot, v.setup.Started.Add(v.now).Truncate(time.Second))
	if err != nil {
		return &CCFinding{Detail: clip(err.Error(), 200)}
	}
	return &CCFinding{Verified: true, Device: r.Device, Driver: r.Driver()}
}
