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
	Accepted  time.Time
	Pulling   time.Time // zero before the image is looked for
	Started   time.Time // zero before the container ran
	Ended     time.Time // zero while the attempt is open
	ExitCode  *int
	Outputs   []TaskFile
	Receipt   *SignedReceipt
}

// Key names the attempt.
func (a *Attempt) Key() TaskAttempt { return TaskAttempt{Task: a.Task, Attempt: a.Number} }
