package basilica

import "time"

// ExecutorKey names one executor in the whole subnet: ids are unique inside one miner only.
type ExecutorKey struct {
	Miner    Hotkey     `json:"miner"`
	Executor ExecutorID `json:"executor"`
}

// Round is one validator's look at the whole subnet. It is open until Ended is set.
type Round struct {
	First   BlockNumber `json:"first"` // block at which it begins
	Hash    Hash        `json:"hash"`  // of that block
	Slot    int         `json:"slot"`  // which part of the round this validator looks in
	Started time.Time   `json:"started"`
	Ended   time.Time   `json:"ended,omitzero"`
	Outcome Reason      `json:"outcome,omitzero"` // COMPLETED, or why it was not
	Scores  []Score     `json:"scores,omitempty"` // after it
	Starts  []Start     `json:"starts,omitempty"` // of the machines that were challenged, a group each, oldest first
}

// Start is how near to one instant the machines of a group were challenged, by the validator's own clock: one device could
// else answer for two of them, one after the other. All machines of a round are one group, or all of a miner where they are more
// than the validator reads the proofs of at once.
type Start struct {
	At       time.Time     `json:"at"`         // when the first machine had its challenge
	Machines int           `json:"machines"`   // that were challenged
	Late     int           `json:"late"`       // ready only after the others had begun, or lost by then: not challenged
	Skew     time.Duration `json:"skew_nanos"` // from the first to the last machine that had its challenge
}

// Pin is what a validator knows an executor by since it first proved something.
type Pin struct {
	ExecutorKey
	KeySPKI    []byte      `json:"key_spki"`    // DER of the receipt and TLS key
	AttestSPKI []byte      `json:"attest_spki"` // DER of the attestation key
	HostKey    []byte      `json:"host_key"`    // SSH wire encoding
	Since      BlockNumber `json:"since"`       // round in which it was pinned
}

// VerificationQuery selects verifications, newest first. Zero fields select everything.
type VerificationQuery struct {
	Miner    Hotkey
	Executor ExecutorID
	Round    *BlockNumber
	Result   Result // of gpu_proof
	After    string // VerificationPage.Next of the page before, of the same query; another is Invalid (BAD_CURSOR)
	Limit    int    // at most MaxPage; 0: DefaultPage
}

// VerificationPage is one page of an answer. Next is empty where nothing follows.
type VerificationPage struct {
	Verifications []Verification `json:"verifications"`
	Next          string         `json:"next"`
}

// RoundID names a round: a chain that is put back has the same block number again under another hash.
type RoundID struct {
	First BlockNumber `json:"first"`
	Hash  Hash        `json:"hash"`
}

// ID is the round's name.
func (r Round) ID() RoundID { return RoundID{r.First, r.Hash} }

// WeightIntent is one round's weights on their way to the chain: recorded before the transaction is sent, so that a restart
// asks the chain what became of it instead of sending it again.
type WeightIntent struct {
	Round   RoundID // whose scores they are of
	Set     WeightSet
	Signed  Signed
	Settled bool // the chain took it, or refused it for good
	Lost    bool // the chain took it as a commit that was lost: the round's weights may be sent once more
}
