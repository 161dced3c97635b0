package executor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"basilica"
)

// Why a life was stopped, as causes of its context.
var (
	errCancelled  = errors.New("cancelled")
	errTimedOut   = errors.New("timed out")
	errLeaseEnded = errors.New("lease ended")
	errShutdown   = errors.New("executor stopped")
)

// fixLost is what a client can do about a task whose end is not its own.
const fixLost = "run it again"

// Labels of a container, by which a later process finds what an earlier one left.
const (
	labelExecutor = "basilica.executor"
	labelMachine  = "basilica.machine"
	labelTask     = "basilica.task"
	labelAttempt  = "basilica.attempt"
	labelFence    = "basilica.fence"
)

const (
	stopGrace = 2 * time.Second  // between the request to end and the kill
	stopWait  = 90 * time.Second // for an engine to say that a killed container has ended
	logWait   = 10 * time.Second // for the last bytes of a log after the container's end
)

// begin starts the life of an accepted attempt; the caller holds mu and has seen that base lives.
func (e *Executor) begin(a basilica.Attempt, d demand) {
	ctx, stop := context.WithCancelCause(e.base)
	l := &life{stop: stop, memory: d.memory, fence: a.Holding.Fence, changed: make(chan struct{})}
	e.live[a.Key()] = l
	e.lives.Go(func() {
		defer stop(nil)
		e.liveOut(ctx, l, a, d)
	})
}

// run is what is known of one attempt's container while it lives.
type run struct {
	end            *basilica.ContainerEnd // nil: no end was witnessed
	stopped        bool                   // we brought the end about
	stdout, stderr hash.Hash
	logBytes       int64
	outputs        []basilica.TaskFile
	err            error // what went wrong on this machine's side
}

// liveOut takes an attempt from placed to its end, removes everything of it, and only then tells of the end.
func (e *Executor) liveOut(ctx context.Context, l *life, a basilica.Attempt, d demand) {
	log := e.cfg.Log.With("task", string(a.Task), "attempt", a.Number, "executor", string(e.cfg.Executor))
	r := &run{stdout: sha256.New(), stderr: sha256.New()}
	r.err = e.work(ctx, log, l, &a, d, r)
	cause := causeOf(ctx)
	if r.end != nil && !r.stopped { // the job was faster than who wanted it stopped
		cause = nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	state, reason := conclude(cause, r.end, r.err)
	if r.err != nil {
		log.Warn("attempt met an error", "err", r.err)
	}
	e.finish(last, log, &a, d, r, state, reason)
	e.leave(last, a)
	if err := e.cfg.Attempts.SaveAttempt(last, a); err != nil {
		log.Error("the end of an attempt was not recorded", "err", err)
	}
	log.Info("attempt ended", "state", a.State, "reason", reason.Code)
	e.mu.Lock()
	delete(e.live, a.Key())
	e.mu.Unlock()
	l.change()
}

// causeOf says why a life was stopped; whatever has no cause of ours is the end of the executor itself.
func causeOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	for _, ours := range []error{errCancelled, errTimedOut, errLeaseEnded} {
		if errors.Is(cause, ours) {
			return ours
		}
	}
	if cause != nil {
		return errShutdown
	}
	return nil
}

// conclude is the step from a running attempt to its end. A witnessed end comes first, unless we brought it about.
func conclude(cause error, end *basilica.ContainerEnd, failure error) (basilica.TaskState, basilica.Reason) {
	switch {
	case errors.Is(cause, errCancelled):
		return basilica.TaskCancelled, basilica.Reason{Code: "CANCELLED", Sentence: "the task was cancelled"}
	case errors.Is(cause, errTimedOut):
		return basilica.TaskTimedOut, basilica.Reason{Code: "TIMED_OUT", Sentence: "the task ran longer than its time limit", Fix: "give it more time with --timeout"}
	case errors.Is(cause, errLeaseEnded):
		return basilica.TaskLost, basilica.Reason{Code: "LEASE_ENDED", Sentence: "the executor did not hear from its miner in time and stopped the task", Fix: fixLost}
	case errors.Is(cause, errShutdown):
		return basilica.TaskLost, basilica.Reason{Code: "EXECUTOR_STOPPED", Sentence: "the executor was stopped while the task ran", Fix: fixLost}
	case failure != nil:
		return basilica.TaskFailed, reasonOf(failure)
	case end == nil:
		return basilica.TaskLost, basilica.Reason{Code: "UNWITNESSED", Sentence: "the container's end was not seen", Fix: fixLost}
	case end.ExitCode != 0 && end.MemoryKilled:
		return basilica.TaskFailed, basilica.Reason{Code: "OUT_OF_MEMORY", Sentence: "the kernel killed the task at its memory limit", Fix: "ask for more with --memory"}
	case end.ExitCode != 0:
		return basilica.TaskFailed, basilica.Reason{Code: "EXIT_CODE", Sentence: fmt.Sprintf("the task's command ended with exit code %d", end.ExitCode)}
	}
	return basilica.TaskSucceeded, basilica.Reason{}
}

// step moves an attempt's state and records it.
func (e *Executor) step(ctx context.Context, l *life, a *basilica.Attempt, to basilica.TaskState, at *time.Time) error {
	next, err := a.State.Step(to)
	if err != nil {
		return err
	}
	a.State, *at = next, e.cfg.Now()
	if err := e.cfg.Attempts.SaveAttempt(ctx, *a); err != nil {
		return fmt.Errorf("record %s: %w", to, err)
	}
	l.change()
	return nil
}

// work pulls, makes and runs the container and reads its outputs. What it returns is this machine's failure; the job's
// own is in r.end.
func (e *Executor) work(ctx context.Context, log *slog.Logger, l *life, a *basilica.Attempt, d demand, r *run) error {
	if err := e.step(ctx, l, a, basilica.TaskPulling, &a.Pulling); err != nil {
		return err
	}
	image, err := e.cfg.Engine.EnsureImage(ctx, d.spec.Image, nil)
	if err != nil {
		return err
	}
	a.ImageID = image
	in, out, err := e.prepare(*a, d)
	if err != nil {
		return err
	}
	a.Container, err = e.cfg.Engine.Create(ctx, e.container(*a, d, in, out))
	if err != nil {
		return err
	}
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	follow, err := e.cfg.Engine.Logs(following, a.Container)
	if err != nil {
		return err
	}
	wait, err := e.cfg.Engine.Start(ctx, a.Container)
	if err != nil {
		return err
	}
	timed, cancel := context.WithTimeoutCause(ctx, d.timeout, errTimedOut)
	defer cancel()
	if err := e.step(context.WithoutCancel(ctx), l, a, basilica.TaskRunning, &a.Started); err != nil {
		nobody, giveUp := context.WithCancel(ctx)
		giveUp()
		_, werr := wait(nobody) // frees what the engine keeps for whoever waits
		return errors.Join(err, werr)
	}
	log.Info("container runs", "container", a.Container, "image", image)
	logged := make(chan error, 1)
	go func() { logged <- follow(e.keepLog(l, *a, r)) }()
	err = e.await(timed, *a, wait, r)
	patience := time.AfterFunc(logWait, stopFollowing)
	lerr := <-logged
	patience.Stop()
	if err != nil {
		return err
	}
	if r.stopped {
		l.stop(causeOf(timed)) // an expired time limit is not yet the life's own cause
		return nil
	}
	if lerr != nil {
		return fmt.Errorf("follow log: %w", lerr)
	}
	if r.end.Error != "" {
		return basilica.E(basilica.Invalid, "CONTAINER_START", "the container could not run: "+r.end.Error, "check the command and the image")
	}
	reading, giveUp := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer giveUp()
	r.outputs, err = e.collect(reading, out, d.output)
	return err
}

// container is the attempt in the engine's terms.
func (e *Executor) container(a basilica.Attempt, d demand, in, out string) basilica.ContainerSpec {
	var gpus []basilica.GPU
	for _, g := range e.cfg.GPUs {
		for _, held := range a.Holding.GPUs {
			if g.UUID == held {
				gpus = append(gpus, g)
			}
		}
	}
	return basilica.ContainerSpec{
		Name:  "basilica-" + e.cfg.Machine + "-" + string(logName(a.Key())),
		Image: a.ImageID, Command: d.spec.Command, Env: d.spec.Env, Labels: e.labels(a),
		CPUMillis: d.cpu, MemoryBytes: d.memory, Pids: maxPids, LogBytes: e.cfg.MaxLogBytes,
		Input: in, Output: out, OutputBytes: d.output, GPUs: gpus,
	}
}

func (e *Executor) labels(a basilica.Attempt) map[string]string {
	return map[string]string{
		labelExecutor: string(e.cfg.Executor), labelMachine: e.cfg.Machine, labelTask: string(a.Task),
		labelAttempt: strconv.Itoa(a.Number), labelFence: strconv.FormatUint(a.Holding.Fence, 10),
	}
}

// keepLog keeps the container's log, up to its cap, and hashes what it keeps.
func (e *Executor) keepLog(l *life, a basilica.Attempt, r *run) func(basilica.LogStream, []byte) error {
	name := logName(a.Key())
	return func(stream basilica.LogStream, data []byte) error {
		if room := e.cfg.MaxLogBytes - r.logBytes; int64(len(data)) > room {
			data = data[:room]
		}
		if len(data) == 0 {
			return nil // the job may go on talking; nobody keeps it
		}
		if err := e.cfg.Logs.Append(name, basilica.LogChunk{Offset: r.logBytes, Stream: stream, Data: data}); err != nil {
			return err
		}
		sum := r.stdout
		if stream == basilica.Stderr {
			sum = r.stderr
		}
		sum.Write(data)
		r.logBytes += int64(len(data))
		l.change()
		return nil
	}
}

// await waits for the witnessed end; where ctx ends first it stops the container and waits on.
func (e *Executor) await(ctx context.Context, a basilica.Attempt, wait func(context.Context) (basilica.ContainerEnd, error), r *run) error {
	type outcome struct {
		end basilica.ContainerEnd
		err error
	}
	witness, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	done := make(chan outcome, 1)
	go func() {
		end, err := wait(witness)
		done <- outcome{end, err}
	}()
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		r.stopped = true
		grace := stopGrace
		if causeOf(ctx) == errShutdown { // no time to lose
			grace = 0
		}
		err := e.cfg.Engine.Stop(witness, a.Container, grace)
		patience := time.AfterFunc(stopWait, giveUp)
		defer patience.Stop()
		o = <-done
		o.err = errors.Join(o.err, err)
	}
	if o.err != nil {
		return fmt.Errorf("wait for container: %w", o.err)
	}
	r.end = &o.end
	return nil
}

// dir is where the attempt's files stand.
func (e *Executor) dir(at basilica.TaskAttempt) string {
	return filepath.Join(e.cfg.Dir, string(logName(at)))
}

// prepare makes the directories of an attempt: inputs as links to their blobs, outputs as a mount of limited size.
func (e *Executor) prepare(a basilica.Attempt, d demand) (in, out string, err error) {
	dir := e.dir(a.Key())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("make working directory: %w", err)
	}
	in, out = filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.Mkdir(in, 0o755); err != nil {
		return "", "", fmt.Errorf("make input directory: %w", err)
	}
	root, err := os.OpenRoot(in)
	if err != nil {
		return "", "", fmt.Errorf("open input directory: %w", err)
	}
	defer root.Close()
	for _, f := range d.spec.Inputs {
		if parent := filepath.Dir(f.Name); parent != "." {
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return "", "", fmt.Errorf("make input directory: %w", err)
			}
		}
		blob := e.cfg.Blobs.Path(f.SHA256)
		// The job is another user and reads through a read-only mount; the blob's own directory stays closed to all.
		if err := os.Chmod(blob, 0o444); err != nil {
			return "", "", fmt.Errorf("open input to the job: %w", err)
		}
		if err := os.Link(blob, filepath.Join(in, f.Name)); err != nil {
			return "", "", fmt.Errorf("place input: %w", err)
		}
	}
	return in, out, e.cfg.Disk.MountOutput(out, d.output)
}

// finish fills in the end of an attempt and signs its receipt.
func (e *Executor) finish(ctx context.Context, log *slog.Logger, a *basilica.Attempt, d demand, r *run, state basilica.TaskState, reason basilica.Reason) {
	a.Ended = e.cfg.Now()
	a.State = state
	if reason.Code != "" {
		a.Reason = &reason
	}
	if r.end != nil && (state == basilica.TaskSucceeded || state == basilica.TaskFailed) {
		code := r.end.ExitCode
		a.ExitCode = &code
	}
	a.Outputs = r.outputs
	receipt := basilica.Receipt{
		Task: a.Task, Attempt: a.Number, Client: a.Client, Executor: e.cfg.Executor, Fence: a.Holding.Fence, GPUs: a.Holding.GPUs,
		Image: d.spec.Image, ImageID: a.ImageID, SpecDigest: sha256.Sum256(a.Spec), State: a.State, Reason: a.Reason, ExitCode: a.ExitCode,
		Started: a.Started, Ended: a.Ended, LogBytes: r.logBytes, Inputs: d.spec.Inputs, Outputs: a.Outputs,
	}
	r.stdout.Sum(receipt.Stdout[:0])
	r.stderr.Sum(receipt.Stderr[:0])
	signed, err := basilica.SignReceipt(receipt, e.cfg.Endorsement, e.cfg.Sign)
	if err != nil {
		log.Error("receipt not signed", "err", err)
		return
	}
	a.Receipt = &signed
}

// leave removes container, mounts and files of an attempt and takes it out of the ledger. What cannot be removed keeps
// its GPUs in quarantine and is tried again.
func (e *Executor) leave(ctx context.Context, a basilica.Attempt) {
	err := e.remove(ctx, a.Key())
	if err == nil {
		err = e.cfg.Ledger.Leave(ctx, a.Holding.Fence)
	} else if qerr := e.cfg.Ledger.Quarantine(ctx, basilica.Remains{TaskAttempt: a.Key(), Fence: a.Holding.Fence, Container: a.Container}); qerr != nil && basilica.CodeOf(qerr) != "FENCE_STALE" {
		err = errors.Join(err, qerr)
	}
	if err == nil {
		return
	}
	e.cfg.Log.Error("something of an ended attempt remains; its GPUs are in quarantine", "task", string(a.Task), "attempt", a.Number, "err", err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stuck = append(e.stuck, a)
}

func (e *Executor) remove(ctx context.Context, at basilica.TaskAttempt) error {
	own, err := e.cfg.Engine.List(ctx, labelMachine, e.cfg.Machine)
	if err != nil {
		return err
	}
	for _, c := range own {
		if c.Labels[labelTask] == string(at.Task) && c.Labels[labelAttempt] == strconv.Itoa(at.Attempt) {
			if err := e.cfg.Engine.Remove(ctx, c.ID); err != nil {
				return err
			}
		}
	}
	return e.removeDir(e.dir(at))
}

func (e *Executor) removeDir(dir string) error {
	if err := e.cfg.Disk.UnmountAll(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove working directory: %w", err)
	}
	return nil
}

// recover ends what an earlier process of this machine left: its containers are killed and removed, its mounts and
// files too, and its open attempts are lost, for nobody witnessed their end.
func (e *Executor) recover(ctx context.Context) error {
	own, err := e.cfg.Engine.List(ctx, labelMachine, e.cfg.Machine)
	if err != nil {
		return err
	}
	for _, c := range own {
		e.cfg.Log.Warn("container of an earlier process removed", "container", c.ID, "task", c.Labels[labelTask], "attempt", c.Labels[labelAttempt])
		if err := e.cfg.Engine.Remove(ctx, c.ID); err != nil {
			return err
		}
	}
	if err := e.removeDir(e.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	open, err := e.cfg.Attempts.OpenAttempts(ctx)
	if err != nil {
		return err
	}
	for _, a := range open {
		log := e.cfg.Log.With("task", string(a.Task), "attempt", a.Number)
		d, err := e.demandOf(a.Spec)
		if err != nil {
			log.Warn("recorded task is over this machine's present limits", "err", err)
		}
		r := &run{stdout: sha256.New(), stderr: sha256.New()}
		if err := e.rehash(a.Key(), r); err != nil {
			return err
		}
		e.finish(ctx, log, &a, d, r, basilica.TaskLost, basilica.Reason{Code: "EXECUTOR_RESTARTED", Sentence: "the executor ended without warning while the task ran, and nobody saw how the task ended", Fix: fixLost})
		if err := e.cfg.Attempts.SaveAttempt(ctx, a); err != nil {
			return err
		}
		log.Warn("attempt of an earlier process is lost")
	}
	return e.cfg.Ledger.ClearLedger(ctx)
}

// rehash computes what a receipt says of a log from the log that was kept.
func (e *Executor) rehash(at basilica.TaskAttempt, r *run) error {
	_, err := e.cfg.Logs.Read(logName(at), 0, func(c basilica.LogChunk) error {
		sum := r.stdout
		if c.Stream == basilica.Stderr {
			sum = r.stderr
		}
		sum.Write(c.Data)
		r.logBytes += int64(len(c.Data))
		return nil
	})
	return err
}
