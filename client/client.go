// Package client runs tasks on a subnet's miners: it picks a miner from the metagraph, submits, follows, fetches outputs
// and verifies receipts. It knows no transport, no chain encoding and no command line.
package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"basilica"
)

// Metagraph reads one subnet at the finalized head.
type Metagraph interface {
	Metagraph(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error)
}

// Config is what a Client is given.
type Config struct {
	Chain  Metagraph
	NetUID basilica.NetUID
	Hotkey basilica.Hotkey // who submits; Dial signs with its key
	// Dial gives the door of one miner, pinned to the TLS key that the neuron published.
	Dial  func(basilica.Neuron) (basilica.Miner, error)
	Index *Index // own tasks, so that one can be found again by its id alone
	Log   *slog.Logger
	Now   func() time.Time
}

// Client is one hotkey that runs tasks.
type Client struct {
	cfg Config
}

// New makes a Client.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// Limits of patience. A miner that is away for longer than reconnectFor ends the following, not the task.
const (
	offerTimeout  = 5 * time.Second
	callTimeout   = 30 * time.Second
	cancelWait    = 30 * time.Second
	reconnectFor  = 2 * time.Minute
	reconnectStep = 500 * time.Millisecond
)

// Request is a task that a person wants run.
type Request struct {
	Spec           basilica.TaskSpec // without Inputs
	Inputs         []Input
	Miner          basilica.Hotkey // empty: the best offer
	IdempotencyKey string          // empty: a new one
	OutputDir      string          // empty: outputs stay at the miner
	Overwrite      bool            // replace files that stand in OutputDir
	ReceiptPath    string          // empty: receipt.json in OutputDir, or nowhere where that is empty too
}

// Input is one local file that the task finds at /in/Name.
type Input struct {
	Name string
	Path string
}

// Result is what became of a request.
type Result struct {
	Miner        basilica.Hotkey     `json:"miner"`
	MinerUID     basilica.UID        `json:"miner_uid"`
	Task         basilica.Task       `json:"task"`
	Receipt      *basilica.Receipt   `json:"receipt,omitempty"` // parsed after every check of it
	ReceiptPath  string              `json:"receipt_path,omitempty"`
	Stdout       basilica.Digest     `json:"stdout_sha256"` // of what was streamed
	Stderr       basilica.Digest     `json:"stderr_sha256"`
	Outputs      []basilica.TaskFile `json:"outputs"` // as fetched and checked, or as named where OutputDir is empty
	OutputsSaved bool                `json:"outputs_saved"`
}

// Exit codes of a run beside the job's own.
const (
	ExitTimedOut  = 124 // the task's own time limit ended it
	ExitFailure   = 125 // Basilica could not run the task, or could not verify what came back
	ExitCancelled = 130 // cancelled, as a shell reports Ctrl-C
)

// ExitCode is the job's own exit code, or one of those above.
func (r Result) ExitCode() int {
	switch {
	case r.Task.State == basilica.TaskCancelled:
		return ExitCancelled
	case r.Task.State == basilica.TaskTimedOut:
		return ExitTimedOut
	case r.Task.State == basilica.TaskSucceeded && r.Task.ExitCode != nil:
		return *r.Task.ExitCode
	case r.Task.State == basilica.TaskFailed && r.Task.ExitCode != nil && *r.Task.ExitCode != 0:
		return *r.Task.ExitCode
	}
	// Also a command that ended well in a task that failed nevertheless, for its outputs were refused.
	return ExitFailure
}

// Run takes a request from choice to verified receipt. Its log goes to stdout and stderr as it comes. When ctx ends, the
// task is cancelled and its end awaited for a while. The result is filled as far as things went, beside an error too.
func (c *Client) Run(ctx context.Context, req Request, stdout, stderr io.Writer) (Result, error) {
	files, err := hashInputs(req.Inputs)
	if err != nil {
		return Result{}, err
	}
	req.Spec.Inputs = files
	if err := req.Spec.Validate(); err != nil {
		return Result{}, err
	}
	if err := makeRoom(req); err != nil {
		return Result{}, err
	}
	neuron, door, err := c.choose(ctx, req)
	if err != nil {
		return Result{}, interrupted(ctx, err)
	}
	result := Result{Miner: neuron.Hotkey, MinerUID: neuron.UID}
	for i, in := range req.Inputs {
		if err := upload(ctx, door, c.cfg.Hotkey, in.Path, files[i].Blob); err != nil {
			return result, interrupted(ctx, fmt.Errorf("send input %s: %w", in.Name, err))
		}
	}
	spec, err := json.Marshal(req.Spec)
	if err != nil {
		return result, fmt.Errorf("encode task: %w", err)
	}
	if len(spec) > basilica.MaxSpecBytes {
		return result, basilica.E(basilica.Invalid, "TASK_INVALID", fmt.Sprintf("the task takes %d bytes, over %d", len(spec), basilica.MaxSpecBytes), "put long arguments into an input file")
	}
	if req.IdempotencyKey == "" {
		req.IdempotencyKey = newKey()
	}
	sub := basilica.Submission{Caller: c.cfg.Hotkey, IdempotencyKey: req.IdempotencyKey, Spec: spec}
	if ctx.Err() != nil {
		return result, interrupted(ctx, ctx.Err())
	}
	if result.Task, err = c.submit(ctx, door, sub); err != nil {
		return result, fmt.Errorf("submit: %w", err)
	}
	c.cfg.Log.Info("task submitted", "task", result.Task.ID, "miner", neuron.Hotkey, "miner_uid", neuron.UID)
	if err := c.cfg.Index.Add(Entry{Task: result.Task.ID, Miner: neuron.Hotkey, Image: req.Spec.Image, Created: c.cfg.Now().UTC()}); err != nil {
		c.cfg.Log.Warn("the task is not remembered: ps, logs and cancel will need --miner", "task", result.Task.ID, "miner", neuron.Hotkey, "err", err)
	}
	follow := newFollower(stdout, stderr)
	result.Task, err = c.followOrCancel(ctx, door, result.Task.ID, follow)
	result.Stdout, result.Stderr = follow.sums()
	if err != nil {
		return result, fmt.Errorf("follow task %s: %w", result.Task.ID, err)
	}
	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.fetchTime(result.Task))
	defer cancel()
	return c.finish(finishing, door, req, spec, follow, result)
}

// fetchTime bounds the fetching of outputs: a minute, and a second for each MiB.
func (c *Client) fetchTime(task basilica.Task) time.Duration {
	var bytes int64
	for _, f := range task.Outputs {
		bytes += min(f.Size, basilica.MaxBlobBytes)
	}
	return time.Minute + time.Duration(bytes>>20)*time.Second
}

// finish verifies the receipt, then fetches and writes.
func (c *Client) finish(ctx context.Context, door basilica.Miner, req Request, spec []byte, follow *follower, result Result) (Result, error) {
	task := result.Task
	if err := basilica.ValidateFiles(task.Outputs); err != nil {
		return result, fmt.Errorf("outputs as named by the miner: %w", err)
	}
	result.Outputs = task.Outputs
	receipt, err := result.checkReceipt(c.cfg.Hotkey, req.Spec, spec)
	if err != nil {
		return result, err
	}
	if receipt != nil {
		if err := follow.check(receipt); err != nil {
			return result, err
		}
	}
	if req.OutputDir != "" {
		if err := saveOutputs(ctx, door, c.cfg.Hotkey, req.OutputDir, task.Outputs, req.Overwrite); err != nil {
			return result, result.stillThere(err)
		}
		result.OutputsSaved = true
	}
	if receipt != nil {
		result.ReceiptPath, err = saveReceipt(req, task)
		if err != nil {
			return result, result.stillThere(err)
		}
	}
	result.Receipt = receipt
	return result, nil
}

// stillThere says how to fetch what could not be saved here, unless what came is not to be trusted.
func (r *Result) stillThere(err error) error {
	var e *basilica.Error
	if !errors.As(err, &e) {
		e = basilica.E(basilica.Internal, "NOT_SAVED", "what the job made could not be saved", "").With(err)
	} else if e.Code == "BLOB_MISMATCH" || e.Code == "BLOB_SIZE" {
		return err
	}
	again := *e
	if again.Fix != "" {
		again.Fix += "; "
	}
	again.Fix += fmt.Sprintf("the job has ended and what it made waits at the miner for a day: the same command with --miner %s --idempotency-key %s fetches it and runs nothing again", r.Miner, r.Task.IdempotencyKey)
	return &again
}

// interrupted replaces what an end of ctx has caused before anything was submitted.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return basilica.E(basilica.Unavailable, "INTERRUPTED", "interrupted before the job was submitted; nothing runs", "").With(err)
}

func newKey() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails since Go 1.24
	return hex.EncodeToString(raw[:])
}

// hashInputs reads every input once.
func hashInputs(inputs []Input) ([]basilica.TaskFile, error) {
	files := make([]basilica.TaskFile, len(inputs))
	for i, in := range inputs {
		f, err := os.Open(in.Path)
		if err != nil {
			return nil, basilica.E(basilica.Invalid, "INPUT_UNREADABLE", fmt.Sprintf("input file %s cannot be read", in.Path), "give the path of a regular file that you may read").With(err)
		}
		sum := sha256.New()
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		var size int64
		if err == nil {
			size, err = io.Copy(sum, f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, basilica.E(basilica.Invalid, "INPUT_UNREADABLE", fmt.Sprintf("input file %s cannot be read", in.Path), "give the path of a regular file that you may read").With(err)
		}
		files[i] = basilica.TaskFile{Name: in.Name, Blob: basilica.Blob{SHA256: basilica.Digest(sum.Sum(nil)), Size: size}}
	}
	return files, nil
}

func upload(ctx context.Context, door basilica.Miner, self basilica.Hotkey, path string, blob basilica.Blob) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return door.PutBlob(ctx, self, blob, 0, f)
}

// submit tries again where the miner was away: the idempotency key makes a second arrival the same task. An end of ctx
// does not cut a call short: a task that may have arrived must be known to be cancelled.
func (c *Client) submit(ctx context.Context, door basilica.Miner, sub basilica.Submission) (basilica.Task, error) {
	for try := 1; ; try++ {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		task, err := door.Submit(call, sub)
		cancel()
		if err == nil || try == 3 || ctx.Err() != nil || basilica.KindOf(err) != basilica.Unavailable {
			return task, err
		}
		c.cfg.Log.Warn("miner is away, submitting again", "err", err)
		if err := pause(ctx, reconnectStep); err != nil {
			return basilica.Task{}, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
