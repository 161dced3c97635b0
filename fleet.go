package basilica

import (
	"context"
	"crypto/sha256"
	"slices"
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
	// Renew gives an executor a new certificate over its key, and whom to trust from now on. Its old certificate stays
	// valid until its end or until the next renewal under the new one.
	Renew(ctx context.Context, executor ExecutorID, req RenewRequest) (Renewal, error)
	// Reach has the miner dial both doors of an executor now, at the addresses on record, and gives what it met there.
	Reach(ctx context.Context, executor ExecutorID) (Reached, error)
}

// EnrollRequest is a machine that wants to join.
type EnrollRequest struct {
	Token      string
	Name       string // wished executor id; empty: the miner chooses
	Miner      Hotkey // whose executor it is already; empty: nobody's
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
	Trust       Trust
	Endorsement SignedEndorsement
}

// Trust is whom an executor believes: each of its miner's keys that is in force. There is one of each kind, two while the
// miner rotates them.
type Trust struct {
	FleetCAs [][]byte // DER: roots of the miner's own authority
	SSHCAs   [][]byte // SSH wire encoding: sign validators' user certificates
	JWTKeys  [][]byte // 32 bytes Ed25519: verify the miner's tokens
}

// Digest names what is trusted, whatever its order.
func (t Trust) Digest() Digest {
	h := sha256.New()
	for _, kind := range [][][]byte{t.FleetCAs, t.SSHCAs, t.JWTKeys} {
		sums := make([]string, 0, len(kind))
		for _, key := range kind {
			sum := sha256.Sum256(key)
			sums = append(sums, string(sum[:]))
		}
		slices.Sort(sums)
		h.Write([]byte{byte(len(sums))})
		for _, sum := range sums {
			h.Write([]byte(sum))
		}
	}
	return Digest(h.Sum(nil))
}

// RenewRequest asks for a new certificate over the key that the old one has.
type RenewRequest struct {
	CSR         []byte // DER, P-256
	Certificate []byte // DER of the certificate that the executor showed; set by the miner's door
	// Rotation asks for another attestation key too: made by Rotate, the miner's hotkey is still to sign. Nil: the same key.
	Rotation *SignedEndorsement
}

// Renewal is a new certificate, and what is trusted beside it.
type Renewal struct {
	Certificate []byte // DER
	Trust       Trust
	Endorsement *SignedEndorsement // the new one after a rotation; nil: the old one holds
}

// Heartbeat is an executor's word, sent every few seconds.
type Heartbeat struct {
	At      time.Time // the executor's clock, used for its distance to the miner's alone
	Health  Health
	Version string
	GPUs    []GPU

	Instance string // random, of this process: two at once are a copied identity
	Trust    Digest // of what the executor trusts; zero: it does not say
	From     string // the network address that the beat came from; set by the miner's door
}

// MaxOrders bounds each list of an answer to a heartbeat; what has no room comes with a later one.
const MaxOrders = 1024

// HeartbeatReply is the miner's answer.
type HeartbeatReply struct {
	At      time.Time     // the miner's clock
	Lease   time.Duration // every holding of a task named in Renew lasts that long from now
	Renew   []TaskAttempt
	Cancel  []TaskAttempt // attempts that the miner no longer wants
	Revoked []GrantID     // validation grants that ended early
	Drain   bool          // accept no new task
	Trust   Digest        // of what the executor is to trust: where it differs from its own, it renews
}

// Reached is what a miner met at an executor's doors, and what its clock says.
type Reached struct {
	At      time.Time // the miner's clock, after it had dialled
	Addr    string    // host:port of the gRPC door, as it was announced
	SSHAddr string    // host:port of the SSH door, as it was announced
	GRPC    *Reason   // why the gRPC door was not reached; nil: it was, and it has the executor's key
	SSH     *Reason   // why the SSH door was not reached; nil: somebody listens there
	From    string    // the network address from which the executor asked; set by the miner's door
}

// TaskAttempt names one attempt.
type TaskAttempt struct {
	Task    TaskID `json:"task"`
	Attempt int    `json:"attempt"`
}
