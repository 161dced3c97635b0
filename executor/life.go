package executor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"basilica"
)

// Why a life was stopped, as causes of its context.
var (
	errCancelled  = errors.New("cancelled")
	errTimedOut   = errors.New("timed out")
	errLeaseEnded = errors.New("lease ended")
	errGPULost    = errors.New("the container lost its GPU")
	errShutdown   = errors.New("executor stopped")
)

// errHandedOver ends a life that the next process goes on with.
var errHandedOver = errors.New("left to the next process")

// fixLost is what a client can do about a task whose end is not its own.
const fixLost = "run it again"

// life is one attempt that has not ended, or of which something is still being removed.
type life struct {
	stop   context.CancelCauseFunc
	memory int64
	fence  uint64
	image  string   // as the spec names it
	pulled []string // by Executor.mu: the image that it names at a registry, by its config's digest and by its id, as far as known

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
}

func (l *life) change() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *life) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// inheritance is an attempt with what an earlier process left of it: nothing for one that was just accepted.
type inheritance struct {
	attempt basilica.Attempt
	demand  demand
	again   bool                     // begun before, and to be begun again
	found   *basilica.ContainerState // its container, which ran or runs
	lost    *basilica.Reason         // its end is not to be known
	cause   error                    // why the earlier process asked for the container's end
}

// start starts the life of an attempt; the caller holds mu and has seen that base lives.
func (e *Executor) start(i inheritance) {
	ctx, stop := context.WithCancelCause(e.base)
	if i.cause != nil && i.cause != errShutdown { // what the earlier process wanted ended is to end
		stop(i.cause)
	}
	l := &life{stop: stop, memory: i.demand.memory, fence: i.attempt.Holding.Fence, image: i.demand.spec.Image, changed: make(chan struct{})}
	e.live[i.attempt.Key()] = l
	e.lives.Go(func() {
		defer stop(nil)
		e.liveOut(ctx, l, i)
	})
}

// run is what is known of one attempt's container while it lives.
type run struct {
	end     *basilica.ContainerEnd // nil: no end was witnessed
	endedAt time.Time              // when an end that came before this process did
	lost    *basilica.Reason       // why the end is not to be known
	stopped bool                   // we brought the end about
	asked   time.Time              // when we asked for it
	asking  func(cause error)      // optional: puts on record that we ask for it
	mayKeep bool                   // at the end of this process the container may run on

	stdout, stderr hash.Hash
	kept           [3]int64 // bytes of each stream that were kept, by LogStream
	logBytes       int64    // of both
	logErr         error    // why the log could not be kept

	outputs []basilica.TaskFile
	full    bool  // the job failed with no room left for outputs
	err     error // what went wrong on this machine's side
}

func newRun() *run { return &run{stdout: sha256.New(), stderr: sha256.New()} }

// took goes over a piece of log that was kept.
func (r *run) took(stream basilica.LogStream, data []byte) {
	sum := r.stdout
	if stream == basilica.Stderr {
		sum = r.stderr
	}
	sum.Write(data)
	r.kept[stream] += int64(len(data))
	r.logBytes += int64(len(data))
}

// liveOut takes an attempt to its end, records the end, removes everything of the attempt, and only then tells of the end.
// A process that dies on the way leaves what the next one needs to do the same.
func (e *Executor) liveOut(ctx context.Context, l *life, i inheritance) {
	a := i.attempt
	log := e.cfg.Log.With("task", string(a.Task), "attempt", a.Number, "executor", string(e.cfg.Executor))
	r := newRun()
	r.mayKeep = e.cfg.KeepTasks
	r.err = e.work(ctx, log, l, &a, i, r)
	lasting, cancel := e.lasting(ctx)
	defer cancel()
	cause := causeOf(ctx)
	if r.end != nil && !r.stopped { // the job was faster than who wanted it stopped
		cause = nil
	}
	if r.stopped && i.cause != nil {
		cause = i.cause
	}
	if errors.Is(r.err, errHandedOver) || cause == errShutdown && e.keeps(r) && !r.stopped {
		log.Info("attempt left to the next process", "state", a.State)
		e.handOver(l, a.Key())
		return
	}
	state, reason := conclude(cause, r)
	if r.err != nil {
		log.Warn("attempt met an error", "err", r.err)
	}
	e.finish(log, &a, i.demand, r, state, reason)
	if err := e.save(lasting, a); err != nil {
		log.Error("the end of an attempt was not recorded; the next process finds it again", "err", err)
		e.handOver(l, a.Key())
		return
	}
	removing, done := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer done()
	e.leave(removing, basilica.Remains{TaskAttempt: a.Key(), Fence: a.Holding.Fence, Container: a.Container, Boot: e.cfg.Boot})
	log.Info("attempt ended", "state", a.State, "reason", reason.Code)
	e.mu.Lock()
	delete(e.live, a.Key())
	e.mu.Unlock()
	l.change()
}

// keeps says whether a container may run on for the next process. A machine that its miner revoked has none.
func (e *Executor) keeps(r *run) bool {
	return r.mayKeep && basilica.CodeOf(e.Unheard()) != "EXECUTOR_REVOKED"
}

// handOver ends a life without an end of its attempt.
func (e *Executor) handOver(l *life, at basilica.TaskAttempt) {
	e.mu.Lock()
	e.kept[at] = true
	delete(e.live, at)
	e.mu.Unlock()
	l.change()
}

// lasting gives a context for what must not be lost: it ends some time after the executor does.
func (e *Executor) lasting(life context.Context) (context.Context, context.CancelFunc) {
	e.mu.Lock()
	base := e.base
	e.mu.Unlock()
	if base == nil {
		return context.WithTimeout(context.WithoutCancel(life), cleanUp)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(life))
	stop := context.AfterFunc(base, func() { time.AfterFunc(cleanUp, cancel) })
	return ctx, func() { stop(); cancel() }
}

// save records an attempt, as often as it takes while the database is locked or the disk is full.
func (e *Executor) save(ctx context.Context, a basilica.Attempt) error {
	for said := false; ; {
		err := e.cfg.Attempts.SaveAttempt(ctx, a)
		passes := basilica.KindOf(err) == basilica.Unavailable || basilica.CodeOf(err) == "DISK_FULL" || errors.Is(err, syscall.ENOSPC)
		if err == nil || !passes {
			return err
		}
		if !said {
			said = true
			e.cfg.Log.Error("an attempt could not be recorded; it is tried again", "task", string(a.Task), "attempt", a.Number, "err", err, "fix", basilica.FixOf(err))
		}
		if err := pause(ctx, againEvery); err != nil {
			return err
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// patiently calls f until the engine answers.
func (e *Executor) patiently(ctx context.Context, f func() error) error {
	for {
		err := f()
		if basilica.CodeOf(err) != "DOCKER_ABSENT" {
			return err
		}
		if perr := pause(ctx, againEvery); perr != nil {
			return errors.Join(perr, err)
		}
	}
}

// causes are why a life is stopped, other than by the end of the executor itself.
var causes = [...]error{errCancelled, errTimedOut, errLeaseEnded, errGPULost}

// causeOf says why a life was stopped; whatever has no cause of ours is the end of the executor itself.
func causeOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	for _, ours := range causes {
		if errors.Is(cause, ours) {
			return ours
		}
	}
	if cause != nil {
		return errShutdown
	}
	return nil
}

// Exit codes of a process that signal 9 or signal 15 ended.
const (
	killed     = 137
	terminated = 143
)

// diskFaults are codes of this machine's disks.
var diskFaults = []string{"DISK_FULL", "STORE_DISK", "STORE_READ_ONLY", "IMAGE_UNREAD"}

// conclude is the step from a running attempt to its end. A witnessed end comes first, unless we brought it about.
func conclude(cause error, r *run) (basilica.TaskState, basilica.Reason) {
	switch {
	case r.stopped && r.end == nil && r.lost == nil:
		return basilica.TaskLost, basilica.Reason{
			Code: "UNKILLABLE", Sentence: "the task had to end and its container could not be killed, so nobody knows what it did; its GPUs are in quarantine", Fix: fixLost,
		}
	case errors.Is(cause, errCancelled):
		return basilica.TaskCancelled, basilica.Reason{Code: "CANCELLED", Sentence: "the task was cancelled"}
	case errors.Is(cause, errTimedOut):
		return basilica.TaskTimedOut, basilica.Reason{Code: "TIMED_OUT", Sentence: "the task ran longer than its time limit", Fix: "give it more time with --max-seconds"}
	case errors.Is(cause, errLeaseEnded):
		return basilica.TaskLost, basilica.Reason{Code: "LEASE_ENDED", Sentence: "the executor did not hear from its miner in time and stopped the task", Fix: fixLost}
	case errors.Is(cause, errGPULost):
		return basilica.TaskLost, basilica.Reason{
			Code: "GPU_ACCESS_LOST", Sentence: "the task's container lost its access to the GPU, by no fault of the task or of the GPU", Fix: fixLost,
		}
	case errors.Is(cause, errShutdown):
		return basilica.TaskLost, basilica.Reason{Code: "EXECUTOR_STOPPED", Sentence: "the executor was stopped while the task ran", Fix: fixLost}
	case r.lost != nil:
		return basilica.TaskLost, *r.lost
	case r.err != nil:
		reason := reasonOf(r.err)
		if r.end == nil && slices.Contains(diskFaults, reason.Code) {
			return basilica.TaskLost, reason // no fault of the task
		}
		return basilica.TaskFailed, reason
	case r.end == nil:
		return basilica.TaskLost, basilica.Reason{Code: "UNWITNESSED", Sentence: "the container's end was not seen", Fix: fixLost}
	case r.end.MemoryKilled && r.end.ExitCode == 0:
		return basilica.TaskFailed, basilica.Reason{
			Code: "OUT_OF_MEMORY", Sentence: "the kernel killed a process of the task at its memory limit, although the task's command ended with 0", Fix: "ask for more with --memory",
		}
	case r.end.MemoryKilled:
		return basilica.TaskFailed, basilica.Reason{
			Code: "OUT_OF_MEMORY", Sentence: "the kernel killed the task at its memory limit, in which its files in /tmp, /home/job, /dev/shm and /out count", Fix: "ask for more with --memory",
		}
	case r.end.ExitCode == killed:
		return basilica.TaskFailed, basilica.Reason{
			Code: "KILLED", Sentence: "somebody killed the task (exit code 137): neither its miner, nor its time limit, nor its memory limit did", Fix: "look for a kill in the task itself, or ask the machine's owner",
		}
	case r.end.ExitCode != 0 && r.full:
		return basilica.TaskFailed, basilica.Reason{
			Code: "OUTPUT_FULL", Sentence: fmt.Sprintf("the task's command ended with exit code %d, and /out was full", r.end.ExitCode), Fix: "ask for more with --output-size, or write less to /out",
		}
	case r.end.ExitCode != 0:
		return basilica.TaskFailed, basilica.Reason{Code: "EXIT_CODE", Sentence: fmt.Sprintf("the task's command ended with exit code %d", r.end.ExitCode)}
	}
	return basilica.TaskSucceeded, basilica.Reason{}
}

// step moves an attempt's state and records it; a state that it had before keeps its time.
func (e *Executor) step(ctx context.Context, l *life, a *basilica.Attempt, to basilica.TaskState, at *time.Time) error {
	next, err := a.State.Step(to)
	if err != nil {
		return err
	}
	a.State = next
	if at.IsZero() {
		*at = e.cfg.Now()
	}
	if err := e.save(ctx, *a); err != nil {
		return fmt.Errorf("record %s: %w", to, err)
	}
	l.change()
	return nil
}

// finish fills in the end of an attempt and signs its receipt.
func (e *Executor) finish(log *slog.Logger, a *basilica.Attempt, d demand, r *run, state basilica.TaskState, reason basilica.Reason) {
	// By the time that passed, not by a clock that somebody may have set meanwhile.
	now := e.cfg.Now()
	a.Ended = now
	if !a.Started.IsZero() {
		a.Ended = a.Started.Add(max(now.Sub(a.Started), 0))
	}
	switch {
	case !r.endedAt.IsZero() && r.endedAt.After(a.Started):
		a.Ended = r.endedAt
	case r.end == nil && r.stopped && !a.Started.IsZero(): // nobody is paid for what could not be stopped
		a.Ended = a.Started.Add(max(r.asked.Sub(a.Started), 0))
	}
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

// leave removes container, mounts and files of an ended attempt and takes it out of the ledger. What cannot be removed, or
// a process that goes on without its container, keeps the GPUs in quarantine and is tried again.
func (e *Executor) leave(ctx context.Context, r basilica.Remains) {
	err := e.remove(ctx, r.TaskAttempt)
	if err == nil {
		var pids []int
		if pids, err = e.cfg.Engine.Leftover(r.Container); err == nil && len(pids) > 0 {
			err = fmt.Errorf("processes %v of its container are still there", pids)
		}
	}
	if err == nil {
		err = e.cfg.Ledger.Leave(ctx, r.Fence)
	} else if qerr := e.cfg.Ledger.Quarantine(ctx, r); qerr != nil && basilica.CodeOf(qerr) != "FENCE_STALE" {
		err = errors.Join(err, qerr)
	}
	if err != nil {
		e.cfg.Log.Error("something of an ended attempt remains; its GPUs are in quarantine", "task", string(r.Task), "attempt", r.Attempt, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stuck = slices.DeleteFunc(e.stuck, func(s basilica.Remains) bool { return s == r })
	if err != nil {
		e.stuck = append(e.stuck, r)
	}
}

func (e *Executor) remove(ctx context.Context, at basilica.TaskAttempt) error {
	if err := e.removeContainers(ctx, at); err != nil {
		return err
	}
	return e.removeDir(e.dir(at))
}

func (e *Executor) removeContainers(ctx context.Context, at basilica.TaskAttempt) error {
	own, err := e.cfg.Engine.List(ctx, LabelMachine, e.cfg.Machine)
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
	return nil
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
