package basilica

import (
	"context"
	"io"
	"time"
)

// Executor is one machine as its miner speaks to it, both ends.
type Executor interface {
	// Execute accepts a task and returns at once with what it holds; the task's life follows by Watch. The same task and
	// attempt give the same holding again. Busy GPUs are a Conflict, a limit of the machine is Exhausted.
	Execute(ctx context.Context, req ExecuteRequest) (Holding, error)
	// Watch calls f with the events of one attempt, log from logOffset on, ending with the terminal one.
	Watch(ctx context.Context, task TaskID, attempt int, logOffset int64, f func(TaskEvent) error) error
	// Cancel asks for the end of an attempt; its terminal event follows by Watch.
	Cancel(ctx context.Context, task TaskID, attempt int) error
	// Release forgets an ended attempt, its log and its blobs.
	Release(ctx context.Context, task TaskID, attempt int) error
	// SystemInfo gives the machine's facts.
	SystemInfo(ctx context.Context) (Facts, error)
	// Health says whether work would be accepted now.
	Health(ctx context.Context) (Health, error)
	// PutBlob stores an input.
	PutBlob(ctx context.Context, blob Blob, content io.Reader) error
	// GetBlob writes an input or output.
	GetBlob(ctx context.Context, sum Digest, w io.Writer) error
}

// Unanswered says that an error of a call to an executor is not the executor's own word: it was made on the way, or by a
// door before the call was looked at. It says nothing of what an earlier call with a lost answer came to.
func Unanswered(err error) bool {
	switch CodeOf(err) {
	case "PEER_UNREACHABLE", "PEER_FAULT", "PEER_FOREIGN", "PEER_VERSION", "DEADLINE", "STALLED", "WATCH_ENDED", "DOOR_CLOSED", "POOL_CLOSED",
		"MESSAGE_SIZE", "MESSAGE_MALFORMED", "ADDRESS_INVALID", "CLOCK_SKEW", "TOKEN_MISSING", "TOKEN_REFUSED", "NOT_THE_MINER",
		"CERTIFICATE_MISSING", "CERTIFICATE_FOREIGN", "CERTIFICATE_EARLY", "CERTIFICATE_EXPIRED", "CERTIFICATE_ENDED", "CERTIFICATE_REPLACED",
		"EXECUTOR_OTHER", "EXECUTOR_REVOKED", "EXECUTOR_UNKNOWN":
		return true
	}
	return err != nil && KindOf(err) == Internal
}

// ExecuteRequest is one attempt at a task.
type ExecuteRequest struct {
	Task    TaskID
	Attempt int
	Client  Hotkey
	Spec    []byte        // the spec's bytes as signed by the client; its SHA-256 goes into the receipt
	Lease   time.Duration // how long the holding lasts without a renewal by heartbeat
}

// Health is an executor's own word on itself.
type Health struct {
	OK       bool      `json:"ok"`
	Reasons  []Reason  `json:"reasons,omitempty"` // why not OK
	Ledger   []Holding `json:"ledger"`
	Tasks    int       `json:"tasks"`     // attempts not yet ended
	MaxTasks int       `json:"max_tasks"` // containers that may run at once
	Limits   Limits    `json:"limits"`
}

// Limits are what one container of a machine may take, and what it takes where its task does not say. Zero: not known.
type Limits struct {
	CPUMillis          int64 `json:"cpu_millis"` // thousandths of one CPU
	MemoryBytes        int64 `json:"memory_bytes"`
	DefaultMemoryBytes int64 `json:"default_memory_bytes"`
}
