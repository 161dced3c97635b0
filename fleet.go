package basilica

import (
	"context"
	"time"
)

// Fleet is a miner's door for its own machines, both ends.
type Fleet interface {
	// Enroll turns a join token into an identity. The miner dials Addr back and compares the key it meets with the CSR's
	// before it signs anything; the token is spent in the transaction that records the executor.
	Enroll(ctx context.Context, req EnrollRequest) (Enrollment, error)
	// Heartbeat carries one beat and its answer over the executor's standing stream. The executor is the one that the
	// client certificate names.
	Heartbeat(ctx context.Context, executor ExecutorID, beat Heartbeat) (HeartbeatReply, error)
}

// EnrollRequest is a machine that wants to join.
type EnrollRequest struct {
	Token      string
	Name       string // wished executor id; empty: the miner chooses
	CSR        []byte // DER, P-256, its key is the machine's TLS and receipt key
	Addr       string // host:port of the gRPC door, dialled back now
	SSHAddr    string // host:port of the SSH door
	HostKey    []byte // SSH wire encoding of the host key (ecdsa-sha2-nistp256)
	AttestSPKI []byte // DER SubjectPublicKeyInfo of the attestation key
	Facts      Facts
}

// Enrollment is the identity that a machine gets.
type Enrollment struct {
	Executor    ExecutorID
	Miner       Hotkey
	Certificate []byte // DER chain of one: the executor's certificate
	FleetCA     []byte // DER: root of the miner's own authority
	SSHCA       []byte // SSH wire encoding: signs validators' user certificates
	JWTKey      []byte // 32 bytes Ed25519: verifies the miner's tokens
	Endorsement SignedEndorsement
}

// Heartbeat is an executor's word, sent every few seconds.
type Heartbeat struct {
	At      time.Time // the executor's clock, used for its distance to the miner's alone
	Health  Health
	Version string
	GPUs    []GPU
}

// HeartbeatReply is the miner's answer.
type HeartbeatReply struct {
	At      time.Time     // the miner's clock
	Lease   time.Duration // every holding of a task named in Renew lasts that long from now
	Renew   []TaskAttempt
	Cancel  []TaskAttempt // attempts that the miner no longer wants
	Revoked []GrantID     // validation grants that ended early
	Drain   bool          // accept no new task
}

// TaskAttempt names one attempt.
type TaskAttempt struct {
	Task    TaskID `json:"task"`
	Attempt int    `json:"attempt"`
}
