package basilica

import (
	"bytes"
	"fmt"
	"time"
)

// Member is one enrolled executor as its miner records it. Nothing in it was measured by the miner except times.
type Member struct {
	Executor    ExecutorID        `json:"executor"`
	Name        string            `json:"name,omitempty"` // that its owner shows it under; certificates and receipts keep the id
	Labels      map[string]string `json:"labels,omitempty"`
	Addr        string            `json:"addr"`        // host:port of the gRPC door
	SSHAddr     string            `json:"ssh_addr"`    // host:port of the SSH door
	HostKey     []byte            `json:"host_key"`    // SSH wire encoding
	KeySPKI     []byte            `json:"key_spki"`    // DER of the TLS and receipt key
	Certificate []byte            `json:"certificate"` // DER, the latest
	Previous    []byte            `json:"-"`           // DER of the one that it showed when it got the latest: valid until its end
	Endorsement SignedEndorsement `json:"endorsement"`
	// Earlier are the endorsements before that, oldest first, at most MaxRotations.
	Earlier    []SignedEndorsement `json:"earlier,omitempty"`
	Facts      Facts               `json:"facts"` // of its enrolment, with the GPUs of its last heartbeat
	Enrolled   time.Time           `json:"enrolled"`
	Drain      bool                `json:"drain"`                 // takes no new task
	DrainUntil *time.Time          `json:"drain_until,omitempty"` // what runs then is ended
	DrainOver  bool                `json:"-"`                     // that time has come
	Revoked    *time.Time          `json:"revoked,omitempty"`     // no certificate of it is taken since
	Trust      Digest              `json:"-"`                     // what it said last that it trusts; zero: nothing
	LastBeat   *LastBeat           `json:"last_beat,omitempty"`
}

// Admits refuses a certificate (DER) that this member may not show: it was revoked (EXECUTOR_REVOKED), or the miner
// recorded another certificate since (CERTIFICATE_REPLACED).
func (m *Member) Admits(cert []byte) error {
	switch {
	case m.Revoked != nil:
		return RevokedError(m.Executor, *m.Revoked)
	case bytes.Equal(cert, m.Certificate) || len(m.Previous) > 0 && bytes.Equal(cert, m.Previous):
		return nil
	}
	return E(Denied, "CERTIFICATE_REPLACED", fmt.Sprintf("this certificate of executor %s was replaced by a newer one", m.Executor),
		"where this machine's disk was copied, stop the copy; else join it again with a new token: basilica token create")
}

// RevokedError refuses an executor that its miner's owner has revoked.
func RevokedError(id ExecutorID, at time.Time) *Error {
	return E(Denied, "EXECUTOR_REVOKED", fmt.Sprintf("executor %s was revoked by its miner's owner at %s", id, at.UTC().Format("2006-01-02 15:04:05 MST")),
		"it comes back with a new token alone: basilica token create on the miner, then basilica join TOKEN on the machine")
}

// LastBeat is what a miner keeps of an executor's last heartbeat.
type LastBeat struct {
	At      time.Time     `json:"at"`          // the miner's clock
	Silent  time.Duration `json:"-"`           // what has passed since, whatever the miner's clock did meanwhile
	Clock   time.Duration `json:"clock_nanos"` // the executor's clock minus the miner's, transit included
	Version string        `json:"version"`     // of Basilica on the executor
	GPUs    int           `json:"gpus"`        // that it named; fewer than Facts has: its inventory is not known now
	Health  Health        `json:"health"`      // the executor's own word
}

// MemberView is a member as its operator sees it.
type MemberView struct {
	Member
	State  string        `json:"state"` // ready, draining, drained, unknown (not yet reported), silent, unhealthy, unreachable, clock, revoked
	Ready  bool          `json:"ready"`
	Why    *Reason       `json:"why,omitempty"` // why not ready
	Notes  []Reason      `json:"notes"`         // what else its owner should mend
	Ends   time.Time     `json:"certificate_ends"`
	Tasks  []Task        `json:"tasks"`  // not yet ended
	Grants []GrantRecord `json:"grants"` // newest first
}

// MemberPage is a part of a fleet.
type MemberPage struct {
	Executors []MemberView `json:"executors"`
	Next      string       `json:"next,omitempty"` // cursor of the next part; empty: this was the last
}

// RotationView is where a rotation of a miner's own keys stands.
type RotationView struct {
	Phase    string       `json:"phase"`             // "", announced or switched
	Waiting  []ExecutorID `json:"waiting"`           // whom the next step waits for
	NextStep *time.Time   `json:"next_at,omitempty"` // before which the next step is not taken
}

// AxonKeyView is the TLS key of a miner's axon, and where its publication stands.
type AxonKeyView struct {
	Key       string `json:"key"`       // x then y of a point on P-256, hexadecimal
	Published bool   `json:"published"` // the chain shows it
}

// GrantRecord is one validation access that a miner gave.
type GrantRecord struct {
	ID        GrantID      `json:"id"`
	Genesis   Hash         `json:"genesis"`
	NetUID    NetUID       `json:"netuid"`
	Validator Hotkey       `json:"validator"`
	Round     BlockNumber  `json:"round"`
	Executors []ExecutorID `json:"executors"`
	Issued    time.Time    `json:"issued"`
	Expires   time.Time    `json:"expires"`
	Revoked   bool         `json:"revoked"`
}

// TokenRecord is a join token as its miner keeps it: never the secret, only its hash.
type TokenRecord struct {
	ID      string     `json:"id"`             // first 12 hex digits of Hash
	Hash    Digest     `json:"-"`              // of the token's secret
	Name    ExecutorID `json:"name,omitempty"` // the executor id that it is for; empty: any
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	UsedBy  ExecutorID `json:"used_by,omitempty"`
	UsedAt  *time.Time `json:"used_at,omitempty"`
}

// TaskRecord is a task as its miner's queue keeps it.
type TaskRecord struct {
	Task
	SpecBytes []byte             // as the client signed it
	Accepted  bool               // the executor holds the current attempt
	Offered   bool               // the executor may hold the current attempt
	LeaseLeft time.Duration      // until the executor drops the attempt unless renewed; negative: since
	Wait      time.Duration      // until the task may be placed again
	Retries   int                // attempts that may have run, were lost and were repeated
	Cancel    bool               // the client wants its end
	Refused   map[ExecutorID]int // attempts that an executor did not take, or lost
	Fence     uint64             // number of the worker's claim that this record was read under; 0: none
}

// AttemptRecord is one placement of a task that is over for the miner and still to be forgotten by its executor.
type AttemptRecord struct {
	TaskAttempt
	Executor ExecutorID
}

// TaskRef names the record's current attempt.
func (t *TaskRecord) TaskRef() TaskAttempt { return TaskAttempt{Task: t.ID, Attempt: t.Attempt} }
