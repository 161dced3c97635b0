package basilica

import (
	"context"
	"io"
	"time"
)

// Miner is a miner's public door (axon), both ends. Caller is the hotkey whose signature the door has checked; the
// calling end's own key decides it and a value given there is ignored.
type Miner interface {
	// OpenValidation gives a validator with permit and stake ten minutes of access to executors.
	OpenValidation(ctx context.Context, req ValidationRequest) (ValidationGrant, error)
	// Offer says what the fleet has; it is open to everyone.
	Offer(ctx context.Context) (Offer, error)
	// Submit queues a task. The same caller and idempotency key with the same spec give the same task again, with
	// another spec a Conflict.
	Submit(ctx context.Context, req Submission) (Task, error)
	// Task reads one task of the caller.
	Task(ctx context.Context, caller Hotkey, id TaskID) (Task, error)
	// Tasks gives one page of the caller's tasks, newest first.
	Tasks(ctx context.Context, caller Hotkey, q TaskQuery) (TaskPage, error)
	// WatchTask calls f with every event from logOffset on, ending with the terminal one, until ctx ends or f fails.
	WatchTask(ctx context.Context, caller Hotkey, id TaskID, logOffset int64, f func(TaskEvent) error) error
	// Cancel asks for a task's end; it returns the task as it stands then.
	Cancel(ctx context.Context, caller Hotkey, id TaskID) (Task, error)
	// Plan says what would become of a task now; nothing is queued and nothing is kept. Spec is as in a Submission.
	Plan(ctx context.Context, caller Hotkey, spec []byte) (Plan, error)
	// BlobState says how much of a blob of the caller's is here.
	BlobState(ctx context.Context, caller Hotkey, blob Blob) (BlobState, error)
	// PutBlob stores content for the caller's tasks; content begins at byte offset of the blob and goes to its end. What came
	// before content breaks off is kept for a while. A whole that does not match its address is dropped and refused.
	PutBlob(ctx context.Context, caller Hotkey, blob Blob, offset int64, content io.Reader) error
	// GetBlob writes content that one of the caller's tasks put or produced, from byte offset on.
	GetBlob(ctx context.Context, caller Hotkey, sum Digest, offset int64, w io.Writer) error
}

// BlobState is how far an upload has come.
type BlobState struct {
	Bytes int64 `json:"bytes"` // of the blob's beginning, that need not be sent again
	Whole bool  `json:"whole"` // the caller owns all of it
}

// Plan is what a miner would do with a task if it were submitted now.
type Plan struct {
	Miner    Hotkey       `json:"miner"`
	Executor ExecutorID   `json:"executor,omitempty"` // that would take it at once; empty: none
	Queue    int          `json:"queue"`              // tasks that wait before it
	Boxes    []PlannedBox `json:"executors"`          // the one that takes it first, then from the nearest to the farthest
}

// PlannedBox is one executor in a Plan.
type PlannedBox struct {
	Executor ExecutorID `json:"executor"`
	Why      *Reason    `json:"why,omitempty"` // why the task would not go to it; nil: it would
}

// Submission is a task to be queued. Spec is the JSON of a TaskSpec.
type Submission struct {
	Caller         Hotkey `json:"-"`
	IdempotencyKey string `json:"idempotency_key"` // 1 to 128 printable characters
	Spec           []byte `json:"spec"`
}

// TaskQuery asks for one page of a client's tasks. What is zero does not restrict.
type TaskQuery struct {
	Name   string            // of the spec
	Labels map[string]string // of the spec; a task has them all
	State  TaskState
	After  string // TaskPage.Next of the page before, of the same query; another is Invalid (BAD_CURSOR)
	Limit  int    // at most MaxPage; 0: DefaultPage
}

// TaskPage is one page of tasks, newest first.
type TaskPage struct {
	Tasks []Task `json:"tasks"`
	Next  string `json:"next,omitempty"` // where the next page begins; empty: there is none
}

// Sizes of a page of any list.
const (
	DefaultPage = 50
	MaxPage     = 500
)

// Offer is what a miner has to give.
type Offer struct {
	Miner     Hotkey       `json:"miner"`
	Version   string       `json:"version"`
	Compute   string       `json:"compute"` // who may submit: "open", "allow-list", "closed"
	Executors []OfferedBox `json:"executors"`
	Queue     int          `json:"queue"` // tasks that wait
}

// OfferedBox is one executor as offered; free counts change at any time.
type OfferedBox struct {
	Executor    ExecutorID `json:"executor"`
	Ready       bool       `json:"ready"`
	State       string     `json:"state"` // one word, as MemberView has it; unknown: it has not reported yet
	GPUs        int        `json:"gpus"`
	GPUsFree    int        `json:"gpus_free"`
	GPUModel    string     `json:"gpu_model,omitempty"`
	GPUKind     GPUKind    `json:"gpu_kind,omitempty"`
	CPUs        int        `json:"cpus"`
	MemoryBytes int64      `json:"memory_bytes"`

	TaskCPUMillis   int64 `json:"task_cpu_millis"`   // the most that one task gets, thousandths of one CPU
	TaskMemoryBytes int64 `json:"task_memory_bytes"` // the most that one task gets

	Endorsement SignedEndorsement `json:"endorsement"` // of its keys by the miner's hotkey; secrets are sealed to them
}

// ValidationRequest asks for access to a miner's executors.
type ValidationRequest struct {
	Validator    Hotkey       `json:"-"`                   // set by the door from the signature
	SSHPublicKey []byte       `json:"ssh_public_key"`      // SSH wire encoding of the validator's ephemeral key
	Round        BlockNumber  `json:"round"`               // first block of the validator's round
	Executors    []ExecutorID `json:"executors,omitempty"` // empty: all
	Holders      []HolderID   `json:"holders,omitempty"`   // tasks that executors were busy with, to be answered for
}

// HolderID is a task that an executor named as the holder of its GPUs.
type HolderID struct {
	Executor ExecutorID `json:"executor"`
	Task     TaskID     `json:"task"`
}

// ValidationGrant is the miner's answer. It ends at Expires at the latest.
type ValidationGrant struct {
	ID        GrantID         `json:"id"`
	Expires   time.Time       `json:"expires"`
	Executors []GrantedAccess `json:"executors"`
	Skipped   []SkippedBox    `json:"skipped,omitempty"`
	// Occupied answers for the holders that were asked for; one that is missing is one that the miner does not know.
	Occupied []SignedOccupancy `json:"occupied,omitempty"`
}

// GrantedAccess is the way to one executor.
type GrantedAccess struct {
	Executor    ExecutorID        `json:"executor"`
	Addr        string            `json:"addr"`        // host:port of the SSH door
	HostKey     []byte            `json:"host_key"`    // SSH wire encoding
	Certificate []byte            `json:"certificate"` // SSH wire encoding of the user certificate
	Endorsement SignedEndorsement `json:"endorsement"` // pins the executor's keys under the miner's hotkey
	// Earlier are the endorsements before that, oldest first, at most MaxRotations: how its attestation key came to change.
	Earlier []SignedEndorsement `json:"earlier,omitempty"`
}

// SkippedBox is an executor without access in this grant, and why.
type SkippedBox struct {
	Executor ExecutorID `json:"executor"`
	Reason   Reason     `json:"reason"`
}
