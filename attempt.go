package basilica

import "time"

// Attempt is one attempt at a task as the executor that runs it records it.
type Attempt struct {
	Task      TaskID
	Number    int // counts from 1
	Client    Hotkey
	Spec      []byte // as signed by the client
	State     TaskState
	Reason    *Reason
	Holding   Holding
	Container string // the engine's id; empty before it was made
	ImageID   string // content address of what ran
	Boot      string // boot id of the machine when the container was made; empty before
	Engine    string // process of the engine that made it (EngineProcess.ID)
	Stopping  string // why this machine asked for the container's end; empty: it did not
	// Deadline is when the time limit ends, on the time line of the ledger; zero before the container was seen to run.
	Deadline time.Time
	Accepted time.Time
	Pulling  time.Time // zero before the image is looked for
	Started  time.Time // zero before the container ran
	Ended    time.Time // zero while the attempt is open
	ExitCode *int
	Outputs  []TaskFile
	Receipt  *SignedReceipt
}

// Key names the attempt.
func (a *Attempt) Key() TaskAttempt { return TaskAttempt{Task: a.Task, Attempt: a.Number} }

// Remains is what an ended attempt may still have on its machine: a container that could not be removed, or a process
// that could not be killed. Its GPUs are in quarantine.
type Remains struct {
	TaskAttempt
	Fence     uint64
	Container string
	Boot      string // of the machine when it went into quarantine: no process outlives it
}
