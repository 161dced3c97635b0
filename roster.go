package basilica

import "time"

// Member is one enrolled executor as its miner records it. Nothing in it was measured by the miner except times.
type Member struct {
	Executor    ExecutorID        `json:"executor"`
	Addr        string            `json:"addr"`        // host:port of the gRPC door
	SSHAddr     string            `json:"ssh_addr"`    // host:port of the SSH door
	HostKey     []byte            `json:"host_key"`    // SSH wire encoding
	KeySPKI     []byte            `json:"key_spki"`    // DER of the TLS and receipt key
	Certificate []byte            `json:"certificate"` // DER
	Endorsement SignedEndorsement `json:"endorsement"`
	Facts       Facts             `json:"facts"` // of its enrolment, with the GPUs of its last heartbeat
	Enrolled    time.Time         `json:"enrolled"`
	Drain       bool              `json:"drain"` // takes no new task
	LastBeat    *LastBeat         `json:"last_beat,omitempty"`
}

// LastBeat is what a miner keeps of an executor's last heartbeat.
type LastBeat struct {
	At      time.Time     `json:"at"`          // the miner's clock
	Clock   time.Duration `json:"clock_nanos"` // the executor's clock minus the miner's, transit included
	Version string        `json:"version"`     // of Basilica on the executor
	Health  Health        `json:"health"`      // the executor's own word
}

// MemberView is a member as its operator sees it.
type MemberView struct {
	Member
	Ready  bool          `json:"ready"`
	Why    *Reason       `json:"why,omitempty"` // why not ready
	Tasks  []Task        `json:"tasks"`         // not yet ended
	Grants []GrantRecord `json:"grants"`        // newest first
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
	SpecBytes  []byte             // as the client signed it
	Accepted   bool               // the executor holds the current attempt
	LeaseUntil time.Time          // when the executor drops the attempt unless renewed
	NotBefore  time.Time          // a refused attempt is not repeated before
	Cancel     bool               // the client wants its end
	Refused    map[ExecutorID]int // attempts that an executor did not take
	Fence      uint64             // number of the worker's claim that this record was read under; 0: none
}

// AttemptRecord is one placement of a task that is over for the miner and still to be forgotten by its executor.
type AttemptRecord struct {
	TaskAttempt
	Executor ExecutorID
}

// TaskRef names the record's current attempt.
func (t *TaskRecord) TaskRef() TaskAttempt { return TaskAttempt{Task: t.ID, Attempt: t.Attempt} }
