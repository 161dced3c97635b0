package miner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"

	"basilica"
)

// machine is an executor in memory that keeps what the contract says: the same attempt is one holding, its events can be
// read again from any offset, what ended is kept until it is released. It outlives the miner's process.
type machine struct {
	h *house

	mu       sync.Mutex // guards the rest
	changed  chan struct{}
	blobs    map[basilica.Digest][]byte
	held     map[basilica.TaskAttempt]*attempt
	runs     map[basilica.TaskID]int // containers that were started
	cancels  int
	released map[basilica.TaskAttempt]int
	manual   bool                            // attempts end when the test says so, else at once
	silent   func(call string) (error, bool) // what a call meets instead of an answer; true: after it was obeyed
}

// attempt is one that the machine holds.
type attempt struct {
	req     basilica.ExecuteRequest
	state   basilica.TaskState
	started time.Time
	ended   time.Time
	reason  *basilica.Reason
	log     []byte
	outputs []basilica.TaskFile
}

func newMachine(h *house) *machine {
	return &machine{
		h: h, changed: make(chan struct{}), blobs: map[basilica.Digest][]byte{}, held: map[basilica.TaskAttempt]*attempt{}, runs: map[basilica.TaskID]int{},
		released: map[basilica.TaskAttempt]int{},
	}
}

func (m *machine) change() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// meets gives what the test has a call meet.
func (m *machine) meets(call string) (error, bool) {
	m.mu.Lock()
	silent := m.silent
	m.mu.Unlock()
	if silent == nil {
		return nil, false
	}
	return silent(call)
}

func unknownAttempt() error {
	return basilica.E(basilica.NotFound, "ATTEMPT_UNKNOWN", "that attempt is not known here", "read the task again")
}

func (m *machine) Execute(_ context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	err, obeyed := m.meets("execute")
	if err != nil && !obeyed {
		return basilica.Holding{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := basilica.TaskAttempt{Task: req.Task, Attempt: req.Attempt}
	if m.held[at] == nil && m.released[at] == 0 {
		m.held[at] = &attempt{req: req, state: basilica.TaskPlaced}
		if !m.manual {
			m.run(at)
			m.end(at, basilica.TaskSucceeded, "")
		}
	}
	return basilica.Holding{Kind: basilica.HolderTask, Holder: string(req.Task), GPUs: []string{"u0"}, Fence: uint64(req.Attempt)}, err
}

// run starts the attempt's container; the caller holds mu.
func (m *machine) run(at basilica.TaskAttempt) {
	a := m.held[at]
	a.state, a.started = basilica.TaskRunning, m.h.clock()
	a.log = fmt.Appendf(nil, "attempt %d: one two three\n", at.Attempt)
	m.runs[at.Task]++
	m.change()
}

// end ends the attempt; the caller holds mu.
func (m *machine) end(at basilica.TaskAttempt, state basilica.TaskState, code string) {
	a := m.held[at]
	a.state, a.ended = state, m.h.clock()
	if code != "" {
		a.reason = &basilica.Reason{Code: code, Sentence: "as the test says", Fix: "none"}
	}
	if state == basilica.TaskSucceeded {
		made := []byte("what " + at.Task + " made")
		sum := basilica.Digest(sha256.Sum256(made))
		m.blobs[sum] = made
		a.outputs = []basilica.TaskFile{{Name: "result", Blob: basilica.Blob{SHA256: sum, Size: int64(len(made))}}}
	}
	m.change()
}

// with does something to the one attempt that the machine holds open.
func (m *machine) with(f func(at basilica.TaskAttempt)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, a := range m.held {
		if !a.state.Terminal() {
			f(at)
			return
		}
	}
	m.h.t.Error("the machine holds no open attempt")
}

func (m *machine) Watch(ctx context.Context, task basilica.TaskID, number int, offset int64, f func(basilica.TaskEvent) error) error {
	at := basilica.TaskAttempt{Task: task, Attempt: number}
	told := basilica.TaskPlaced
	for {
		if err, _ := m.meets("watch"); err != nil {
			return err
		}
		m.mu.Lock()
		a, changed := m.held[at], m.changed
		var now attempt
		if a != nil {
			now = *a
		}
		m.mu.Unlock()
		if a == nil {
			return unknownAttempt()
		}
		event := basilica.TaskEvent{Task: task, Attempt: number, State: basilica.TaskRunning, At: now.started}
		if told == basilica.TaskPlaced && !now.started.IsZero() {
			told = basilica.TaskRunning
			if err := f(event); err != nil {
				return err
			}
		}
		for offset < int64(len(now.log)) { // some bytes at a time, so that there is much between two of them
			next := min(offset+11, int64(len(now.log)))
			event.Log = &basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: now.log[offset:next]}
			if err := f(event); err != nil {
				return err
			}
			offset = next
		}
		if now.state.Terminal() {
			receipt := m.h.receipt(now.req, now.state, func(r *basilica.Receipt) {
				r.Started, r.Ended, r.Reason, r.Outputs, r.LogBytes = now.started, now.ended, now.reason, now.outputs, int64(len(now.log))
				if now.state != basilica.TaskSucceeded {
					r.ExitCode = nil
				}
			})
			return f(basilica.TaskEvent{Task: task, Attempt: number, State: now.state, At: now.ended, Reason: now.reason, Receipt: receipt})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (m *machine) Cancel(_ context.Context, task basilica.TaskID, number int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancels++
	at := basilica.TaskAttempt{Task: task, Attempt: number}
	a := m.held[at]
	if a == nil {
		return unknownAttempt()
	}
	if !a.state.Terminal() {
		m.end(at, basilica.TaskCancelled, "CANCELLED")
	}
	return nil
}

func (m *machine) Release(_ context.Context, task basilica.TaskID, number int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := basilica.TaskAttempt{Task: task, Attempt: number}
	a := m.held[at]
	if a == nil {
		return unknownAttempt()
	}
	if !a.state.Terminal() {
		return basilica.E(basilica.Conflict, "ATTEMPT_OPEN", "it has not ended", "cancel it first")
	}
	delete(m.held, at)
	m.released[at]++
	return nil
}

func (m *machine) SystemInfo(context.Context) (basilica.Facts, error) { return basilica.Facts{}, nil }

func (m *machine) Health(context.Context) (basilica.Health, error) {
	err, _ := m.meets("health")
	return basilica.Health{OK: true, MaxTasks: 4}, err
}

func (m *machine) PutBlob(_ context.Context, blob basilica.Blob, r io.Reader) error {
	raw, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[blob.SHA256] = raw
	return err
}

func (m *machine) GetBlob(_ context.Context, sum basilica.Digest, w io.Writer) error {
	m.mu.Lock()
	raw, ok := m.blobs[sum]
	m.mu.Unlock()
	if !ok {
		return basilica.E(basilica.NotFound, "BLOB_UNKNOWN", "no such blob", "send it first")
	}
	_, err := io.Copy(w, bytes.NewReader(raw))
	return err
}
