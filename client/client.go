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
	"net"
	"os"
	"slices"
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
	Dial     func(basilica.Neuron) (basilica.Miner, error)
	Index    *Index         // own tasks and images, so that one can be found again by its id alone
	Progress func(Transfer) // told of files on their way; nil: nobody watches
	Log      *slog.Logger
	Now      func() time.Time
}

// Client is one hotkey that runs tasks.
type Client struct {
	cfg         Config
	cancelAfter time.Duration // between an interrupt and the cancelling of the task
	cancelWait  time.Duration // for the end of a task that was cancelled
	step        time.Duration // about the first pause after a broken connection
}

// New makes a Client.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, cancelAfter: cancelAfter, cancelWait: cancelWait, step: reconnectStep}
}

// Limits of patience. A miner that is away for longer than reconnectFor ends the following, not the task.
const (
	offerTimeout  = 5 * time.Second
	callTimeout   = 30 * time.Second
	cancelAfter   = 2 * time.Second
	cancelWait    = 30 * time.Second
	reconnectFor  = 2 * time.Minute
	reconnectStep = 500 * time.Millisecond
	reconnectMost = 10 * time.Second
)

// Request is a task that a person wants run.
type Request struct {
	Spec           basilica.TaskSpec // without Inputs and Registry
	Inputs         []Input
	Login          *basilica.RegistryLogin // for a private registry; sealed to the executors' keys
	Miner          basilica.Hotkey         // empty: the best offer
	IdempotencyKey string                  // empty: a new one; one that was used before goes to the same miner
	Results
}

// Results says how a task is followed and where what it made goes.
type Results struct {
	OutputDir   string // empty: outputs stay at the miner
	Overwrite   bool   // replace files that stand in OutputDir
	ReceiptPath string // empty: receipt.json in OutputDir, or nowhere where that is empty too
	ShowFrom    int64  // byte of the log from which on it is printed
	// Leave ends the following of a task that is cancelled, and in the first moment its cancelling; nil: nothing does.
	Leave context.Context //nolint:containedctx // a second end beside the call's own
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
	Stdout       basilica.Digest     `json:"stdout_sha256"` // of what was streamed; of the last attempt once it has a receipt
	Stderr       basilica.Digest     `json:"stderr_sha256"`
	Outputs      []basilica.TaskFile `json:"outputs"` // as fetched and checked, or as named where OutputDir is empty
	OutputsSaved bool                `json:"outputs_saved"`
	LogForgotten bool                `json:"log_forgotten,omitempty"` // the miner keeps it no more, so that it was not compared with the receipt
}

// Exit codes of a run beside the job's own.
const (
	ExitLost      = 122 // the machine went away; what the job did there is unknown
	ExitLeft      = 123 // this command ended before the job did, which may go on
	ExitTimedOut  = 124 // the task's own time limit ended it
	ExitFailure   = 125 // Basilica could not run the task, or could not verify what came back
	ExitNotBegun  = 126 // the job's command never ran: no machine takes it, no such image, no container
	ExitCancelled = 130 // cancelled, as a shell reports Ctrl-C
)

// ExitCode is the job's own exit code, or one of those above.
func (r Result) ExitCode() int {
	t := r.Task
	switch {
	case t.State == basilica.TaskCancelled:
		return ExitCancelled
	case t.State == basilica.TaskTimedOut:
		return ExitTimedOut
	case t.State == basilica.TaskLost:
		return ExitLost
	case t.State == basilica.TaskSucceeded && t.ExitCode != nil:
		return *t.ExitCode
	case t.State == basilica.TaskFailed && t.ExitCode != nil && *t.ExitCode != 0:
		return *t.ExitCode
	case t.State == basilica.TaskFailed && t.ExitCode == nil && t.Started == nil:
		return ExitNotBegun
	}
	// Also a command that ended well in a task that failed nevertheless, for its outputs were refused.
	return ExitFailure
}

// ExitCodeOf is the exit code of a command that ended with an error.
func ExitCodeOf(err error) int {
	switch basilica.CodeOf(err) {
	case "INTERRUPTED":
		return ExitCancelled
	case "TASK_LEFT", "MINER_AWAY", "CANCEL_UNCONFIRMED":
		return ExitLeft
	case "NO_MINERS", "NO_MINER_READY", "TASK_TOO_LARGE", "ONLY_SOFTWARE_GPUS", "BLOB_MISSING":
		return ExitNotBegun
	}
	return ExitFailure
}

// followed is a task that is to be seen to its end.
type followed struct {
	door   basilica.Miner
	spec   basilica.TaskSpec
	digest basilica.Digest // of the spec as submitted
	Results
}

// Run takes a request from choice to verified receipt. Its log goes to stdout and stderr as it comes. When ctx ends, the
// task is cancelled and its end awaited for a while. The result is filled as far as things went, beside an error too.
func (c *Client) Run(ctx context.Context, req Request, stdout, stderr io.Writer) (Result, error) {
	if err := makeRoom(req.Results); err != nil {
		return Result{}, err
	}
	result, at, err := c.start(ctx, req)
	if err != nil {
		return result, err
	}
	return c.see(ctx, at, result, stdout, stderr)
}

// Detach submits a request and leaves the task to itself; Attach comes back to it.
func (c *Client) Detach(ctx context.Context, req Request) (Result, error) {
	result, _, err := c.start(ctx, req)
	return result, err
}

// Attach sees a task that was submitted before to its end, as Run does.
func (c *Client) Attach(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey, how Results, stdout, stderr io.Writer) (Result, error) {
	if err := makeRoom(how); err != nil {
		return Result{}, err
	}
	found, err := c.find(ctx, id, miner)
	if err != nil {
		return Result{}, untouched(ctx, err)
	}
	result := Result{Miner: found.neuron.Hotkey, MinerUID: found.neuron.UID}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	result.Task, err = found.door.Task(call, c.cfg.Hotkey, id)
	cancel()
	if ctx.Err() == nil && basilica.KindOf(err) == basilica.Unavailable {
		err = basilica.E(basilica.Unavailable, "MINER_AWAY", "the miner does not answer; the task may still run", fmt.Sprintf("come back to it later: basilica attach %s --miner %s", id, result.Miner)).With(err)
	}
	if err != nil {
		return result, untouched(ctx, err)
	}
	at := followed{door: found.door, spec: result.Task.Spec, digest: result.Task.SpecDigest, Results: how}
	if found.entry != nil {
		// What was asked for is known here by its digest alone; what the miner says of it must have that digest.
		text, err := json.Marshal(result.Task.Spec)
		if err != nil {
			return result, fmt.Errorf("encode task: %w", err)
		}
		if at.digest = found.entry.Spec; at.digest != basilica.Digest(sha256.Sum256(text)) {
			return result, otherTask("its description is not the one that was submitted")
		}
	}
	return c.see(ctx, at, result, stdout, stderr)
}

// start sends inputs and task.
func (c *Client) start(ctx context.Context, req Request) (Result, followed, error) {
	fail := func(r Result, err error) (Result, followed, error) { return r, followed{}, err }
	files, err := hashInputs(req.Inputs)
	if err != nil {
		return fail(Result{}, err)
	}
	req.Spec.Inputs = files
	if err := req.Spec.Validate(); err != nil {
		return fail(Result{}, err)
	}
	chosen, err := c.choose(ctx, req)
	if err != nil {
		return fail(Result{}, interrupted(ctx, err))
	}
	neuron, door := chosen.neuron, chosen.door
	result := Result{Miner: neuron.Hotkey, MinerUID: neuron.UID}
	for i, in := range req.Inputs {
		if err := c.upload(ctx, door, in.Name, in.Path, files[i].Blob); err != nil {
			return fail(result, interrupted(ctx, fmt.Errorf("send input %s: %w", in.Name, err)))
		}
	}
	if req.Login != nil {
		if req.Spec.Registry, err = c.seal(ctx, chosen, *req.Login, &req.Spec); err != nil {
			return fail(result, interrupted(ctx, err))
		}
	}
	spec, err := encodeSpec(req.Spec)
	if err != nil {
		return fail(result, err)
	}
	if ctx.Err() != nil {
		return fail(result, interrupted(ctx, ctx.Err()))
	}
	sub := basilica.Submission{Caller: c.cfg.Hotkey, IdempotencyKey: req.IdempotencyKey, Spec: spec}
	if sub.IdempotencyKey == "" {
		sub.IdempotencyKey = newKey()
	}
	former, _ := c.cfg.Index.Bound(sub.IdempotencyKey) // unread: the miner was named, and there is none to go back to
	c.bind(sub.IdempotencyKey, neuron.Hotkey)
	var doubt bool
	if result.Task, doubt, err = c.submit(ctx, door, sub); err != nil {
		doubt = doubt || former == neuron.Hotkey && undialled(err) // the time before it may have taken the key
		switch {
		case doubt && !unsaid(err) && !undialled(err):
			err = withDoubt(err)
		case doubt:
			fix := "look whether it runs: basilica ps"
			if req.Spec.Registry == nil { // a login is never sealed twice to the same bytes: the same command is another task
				fix = fmt.Sprintf("ask once more, which makes no second job: the same command with --miner %s --idempotency-key %s; or %s", neuron.Hotkey, sub.IdempotencyKey, fix)
			}
			err = basilica.E(basilica.Unavailable, "MINER_AWAY", "the miner may have taken the job, and did not say so", fix).With(err)
		case former != "" && former != neuron.Hotkey:
			c.bind(sub.IdempotencyKey, former)
		case req.IdempotencyKey == "" || notTaken(err) || undialled(err):
			c.bind(sub.IdempotencyKey, "")
		}
		return fail(result, fmt.Errorf("submit: %w", err))
	}
	c.cfg.Log.Info("task submitted", "task", result.Task.ID, "miner", neuron.Hotkey, "miner_uid", neuron.UID)
	digest := basilica.Digest(sha256.Sum256(spec))
	entry := Entry{Task: result.Task.ID, Miner: neuron.Hotkey, Image: req.Spec.Image, Name: req.Spec.Name, Spec: digest, Created: c.cfg.Now().UTC()}
	if err := c.cfg.Index.Add(entry); err != nil {
		c.cfg.Log.Warn("the task is not remembered: ps, attach, logs and cancel will need --miner", "task", result.Task.ID, "miner", neuron.Hotkey, "err", err)
	}
	return result, followed{door: door, spec: req.Spec, digest: digest, Results: req.Results}, nil
}

// bind remembers where a key goes before the task does.
func (c *Client) bind(key string, miner basilica.Hotkey) {
	if err := c.cfg.Index.Bind(key, miner, c.cfg.Now().UTC()); err != nil {
		c.cfg.Log.Warn("the idempotency key is not remembered: a repeat will need --miner", "miner", miner, "err", err)
	}
}

func encodeSpec(s basilica.TaskSpec) ([]byte, error) {
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode task: %w", err)
	}
	if len(spec) > basilica.MaxSpecBytes {
		return nil, basilica.E(basilica.Invalid, "TASK_INVALID", fmt.Sprintf("the task takes %d bytes, over %d", len(spec), basilica.MaxSpecBytes), "put long arguments into an input file")
	}
	return spec, nil
}

// see follows a task to its end, verifies the receipt, then fetches and writes.
func (c *Client) see(ctx context.Context, at followed, result Result, stdout, stderr io.Writer) (Result, error) {
	leave := at.Leave
	if leave == nil {
		leave = context.WithoutCancel(ctx)
	}
	follow := newFollower(0, stdout, stderr)
	follow.show = at.ShowFrom
	id := result.Task.ID
	task, err := c.followOrCancel(ctx, leave, at.door, id, follow)
	result.Stdout, result.Stderr = follow.sums()
	if err != nil {
		return result, fmt.Errorf("follow task %s: %w", id, err)
	}
	result.Task = task
	if err := basilica.ValidateFiles(task.Outputs); err != nil {
		return result, fmt.Errorf("outputs as named by the miner: %w", err)
	}
	if err := boundOutputs(at.spec, task.Outputs); err != nil {
		return result, err
	}
	result.Outputs = task.Outputs
	receipt, err := result.checkReceipt(c.cfg.Hotkey, at.spec, at.digest)
	if err != nil {
		return result, err
	}
	finishing := ctx
	if ctx.Err() != nil { // the interrupt has ended the task; the next one ends what is left to do
		finishing = leave
	}
	if receipt != nil {
		if follow, err = c.checkLog(finishing, at.door, task, follow, receipt); err != nil {
			return result, err
		}
		result.Stdout, result.Stderr = follow.sums()
	}
	result.LogForgotten = follow.forgotten()
	if at.OutputDir != "" {
		if err := c.saveOutputs(finishing, at.door, at.OutputDir, task.Outputs, at.Overwrite); err != nil {
			if basilica.CodeOf(err) == "BLOB_UNKNOWN" {
				return result, result.forgotten(at.Results, receipt)
			}
			return result, result.stillThere(err)
		}
		result.OutputsSaved = true
	}
	if receipt != nil {
		result.ReceiptPath, err = saveReceipt(at.Results, task)
		if err != nil {
			return result, result.stillThere(err)
		}
	}
	result.Receipt = receipt
	return result, nil
}

// boundOutputs refuses more than a task can have left.
func boundOutputs(spec basilica.TaskSpec, outputs []basilica.TaskFile) error {
	var bytes int64
	for _, f := range outputs {
		bytes += f.Size
	}
	if len(outputs) > basilica.MaxTaskFiles || spec.OutputBytes > 0 && bytes > spec.OutputBytes {
		return basilica.E(basilica.Invalid, "OUTPUTS_TOO_MANY", fmt.Sprintf("the miner names %d output files of %d bytes, more than the task could leave", len(outputs), bytes), "do not trust this result; report it to the miner")
	}
	return nil
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
	again.Fix += fmt.Sprintf("the job has ended and what it made waits at the miner for a day: basilica attach %s --miner %s --output DIR fetches it, and goes on where a file broke off", r.Task.ID, r.Miner)
	return &again
}

// forgotten says that the outputs cannot come any more. What is left of the job, its checked receipt, is saved.
func (r *Result) forgotten(how Results, receipt *basilica.Receipt) error {
	gone := basilica.E(basilica.NotFound, "BLOB_UNKNOWN", "the miner keeps what a job made for a day and has forgotten what this one made", "run the job again and fetch its outputs within a day; where it ended less than a day ago, tell the miner")
	if receipt == nil {
		return gone
	}
	r.Receipt = receipt
	if r.ReceiptPath, gone.Err = saveReceipt(how, r.Task); r.ReceiptPath != "" {
		gone.Fix += "; the receipt, which names them, is saved: " + r.ReceiptPath
	}
	return gone
}

// interrupted replaces what an end of ctx has caused before anything was submitted.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return basilica.E(basilica.Unavailable, "INTERRUPTED", "interrupted before the job was submitted; nothing runs", "").With(err)
}

// untouched replaces what an end of ctx has caused before a task was followed.
func untouched(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return basilica.E(basilica.Unavailable, "INTERRUPTED", "interrupted before the job was found; it was not touched", "").With(err)
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
		blob, err := hashFile(in.Path)
		if err != nil {
			return nil, err
		}
		files[i] = basilica.TaskFile{Name: in.Name, Blob: blob}
	}
	return files, nil
}

func hashFile(path string) (basilica.Blob, error) {
	f, err := os.Open(path)
	if err != nil {
		return basilica.Blob{}, unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return basilica.Blob{}, unreadable(path, err)
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return basilica.Blob{}, unreadable(path, err)
	}
	return basilica.Blob{SHA256: basilica.Digest(sum.Sum(nil)), Size: size}, nil
}

func unreadable(path string, err error) error {
	return basilica.E(basilica.Invalid, "INPUT_UNREADABLE", fmt.Sprintf("file %s cannot be read", path), "give the path of a regular file that you may read").With(err)
}

// notTaken: what a miner says only of a key that it does not have.
func notTaken(err error) bool {
	return slices.Contains([]string{"QUEUE_FULL", "TASK_QUOTA", "BLOB_MISSING", "INPUT_MISSING"}, basilica.CodeOf(err))
}

// undialled: nothing of the call can have arrived.
func undialled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// unsaid: an error that leaves open whether the miner has taken the task.
func unsaid(err error) bool {
	switch basilica.CodeOf(err) {
	case "STORE_BUSY", "DISK_FULL", "STORE_READ_ONLY": // the miner's own words: it can record nothing
		return false
	case "":
		return basilica.KindOf(err) == basilica.Unavailable
	}
	kind := basilica.KindOf(err)
	return (kind == basilica.Unavailable || kind == basilica.Internal) && !undialled(err)
}

// withDoubt adds to a miner's refusal that an earlier try may have been taken.
func withDoubt(err error) error {
	var e *basilica.Error
	if !errors.As(err, &e) {
		return err
	}
	refusal := *e
	if refusal.Fix != "" {
		refusal.Fix += "; "
	}
	refusal.Fix += "an earlier try was not answered and may have been taken: look whether it runs: basilica ps"
	return &refusal
}

// submit tries again where the miner was away: the idempotency key makes a second arrival the same task. An end of ctx
// does not cut a call short: a task that may have arrived must be known to be cancelled. doubt says of an error that the miner
// may have taken the task nevertheless, in this try or an earlier one.
func (c *Client) submit(ctx context.Context, door basilica.Miner, sub basilica.Submission) (_ basilica.Task, doubt bool, _ error) {
	underWay := false // a try without an answer may arrive after the next one
	for try := 1; ; try++ {
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		task, err := door.Submit(call, sub)
		cancel()
		underWay = underWay || basilica.CodeOf(err) == "DEADLINE"
		doubt = (doubt || unsaid(err)) && (underWay || !notTaken(err))
		if err == nil || try == 3 || ctx.Err() != nil || basilica.KindOf(err) != basilica.Unavailable {
			return task, doubt, err
		}
		c.cfg.Log.Warn("miner is away, submitting again", "err", err)
		if pause(ctx, c.step) != nil {
			return basilica.Task{}, doubt, err
		}
	}
}

// pause waits for d, and gives the end of ctx where both are due: who interrupts at the last moment is heard.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ctx.Err()
	}
}
