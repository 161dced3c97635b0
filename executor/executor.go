// Package executor runs one machine: it takes tasks from its miner and challenges from validators, gives each GPU one
// holder at a time, follows every container to a witnessed end and leaves nothing of it behind. It knows no engine, no
// database, no wire and no proof; it says what it needs of them.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// Engine runs containers.
type Engine interface {
	Available(ctx context.Context) (name, version string, err error)
	EnsureImage(ctx context.Context, ref string, login *basilica.RegistryLogin) (id string, err error)
	Create(ctx context.Context, spec basilica.ContainerSpec) (id string, err error)
	Start(ctx context.Context, id string) (wait func(context.Context) (basilica.ContainerEnd, error), err error)
	Logs(ctx context.Context, id string) (follow func(f func(basilica.LogStream, []byte) error) error, err error)
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	List(ctx context.Context, label, value string) ([]basilica.ContainerState, error)
}

// Ledger says who holds which GPU.
type Ledger interface {
	Hold(ctx context.Context, h basilica.Holding, now time.Time) (basilica.Holding, error)
	Ledger(ctx context.Context, now time.Time) ([]basilica.Holding, error)
	Extend(ctx context.Context, fence uint64, expires time.Time) error
	Quarantine(ctx context.Context, r basilica.Remains) error
	Leave(ctx context.Context, fence uint64) error
	ClearLedger(ctx context.Context) error
}

// Attempts keeps attempts at tasks, and which blobs they need.
type Attempts interface {
	Accept(ctx context.Context, a basilica.Attempt, blobs []basilica.Digest, most int, now time.Time) (basilica.Holding, bool, error)
	SaveAttempt(ctx context.Context, a basilica.Attempt) error
	Attempt(ctx context.Context, at basilica.TaskAttempt) (basilica.Attempt, error)
	OpenAttempts(ctx context.Context) ([]basilica.Attempt, error)
	EndedBefore(ctx context.Context, before time.Time) ([]basilica.Attempt, error)
	ForgetAttempt(ctx context.Context, at basilica.TaskAttempt) error
	SawBlob(ctx context.Context, sum basilica.Digest, now time.Time) error
	ForgetBlobs(ctx context.Context, before time.Time) ([]basilica.Digest, error)
}

// Blobs keeps content under its SHA-256, as files.
type Blobs interface {
	Put(ctx context.Context, blob basilica.Blob, content io.Reader) error
	Open(sum basilica.Digest) (io.ReadSeekCloser, int64, error)
	Path(sum basilica.Digest) string
	Delete(sum basilica.Digest) error
}

// Logs keeps one log per name.
type Logs interface {
	Append(name basilica.TaskID, c basilica.LogChunk) error
	Size(name basilica.TaskID) (int64, error)
	Read(name basilica.TaskID, offset int64, f func(basilica.LogChunk) error) (int64, error)
	Forget(name basilica.TaskID) error
}

// Disk mounts directories whose size the kernel limits.
type Disk interface {
	MountOutput(dir string, bytes int64) error
	UnmountAll(root string) error
}

// Prover answers one challenge over a channel.
type Prover interface {
	Prove(ctx context.Context, v Visit) error
}

// Config is who this machine is, what it has and what it may give. Every field is needed unless it says otherwise.
type Config struct {
	Executor    basilica.ExecutorID
	Machine     string // label that marks this machine's own containers on a shared engine: unique to its data directory
	Dir         string // working directory of attempts, of this executor alone
	Version     string
	Endorsement basilica.SignedEndorsement
	Sign        func(msg []byte) ([]byte, error) // by the machine's receipt key
	GPUs        []basilica.GPU
	CPUs        int   // of the machine
	MemoryBytes int64 // of the machine

	MaxContainers int
	MaxMemory     int64 // bytes of one container
	MaxCPUMillis  int64 // of one container
	MaxLogBytes   int64 // of one attempt; zero: 16 MiB
	Heartbeat     time.Duration

	Facts func(ctx context.Context) (basilica.Facts, error)
	// CheckImage gives the content address of the image that answers `task-check`, and makes it where it is missing.
	CheckImage func(ctx context.Context) (string, error)
	Revoked    func() // optional: called after grants were revoked
	Now        func() time.Time
	Log        *slog.Logger

	Engine   Engine
	Ledger   Ledger
	Attempts Attempts
	Blobs    Blobs
	Logs     Logs
	Disk     Disk
	Prover   Prover
	Fleet    basilica.Fleet
}

// Times and sizes of the role.
const (
	defaultLog     = 16 << 20
	defaultMemory  = 2 << 30
	maxPids        = 512
	minLease       = 5 * time.Second
	maxLease       = time.Hour
	sweepEvery     = time.Second
	retryEvery     = 5 * time.Second
	engineEvery    = 10 * time.Second
	tidyEvery      = 30 * time.Second
	unusedBlobs    = 10 * time.Minute   // a blob that was put and is needed by no attempt is kept that long
	forgottenAfter = 7 * 24 * time.Hour // an ended attempt that nobody released
	revokedFor     = 30 * time.Minute   // longer than any certificate lives
	cleanUp        = 2 * time.Minute    // for what must happen after the end of everything else
)

// Executor is one machine. It implements basilica.Executor while Run runs.
type Executor struct {
	cfg    Config
	maxCPU int64
	checks chan struct{}

	mu      sync.Mutex
	base    context.Context // of Run; nil before and after it
	live    map[basilica.TaskAttempt]*life
	checked map[basilica.TaskAttempt]bool // validators' checks that have something on this machine
	stuck   []basilica.Attempt            // ended, but something of them could not be removed yet
	drain   bool
	clock   *time.Duration // this machine's clock minus the miner's, by the last heartbeat
	revoked map[basilica.GrantID]time.Time
	engine  engineState
	lives   sync.WaitGroup

	// blobUse is held for reading while content and its record are written, so that nobody forgets one without the other.
	blobUse sync.RWMutex
}

// engineState is what the engine last said of itself.
type engineState struct {
	name, version string
	err           error
	asked         time.Time
}

// engineNow asks the engine at most every few seconds.
func (e *Executor) engineNow(ctx context.Context) engineState {
	now := e.cfg.Now()
	e.mu.Lock()
	s := e.engine
	e.mu.Unlock()
	if !s.asked.IsZero() && now.Sub(s.asked) < engineEvery {
		return s
	}
	s.name, s.version, s.err = e.cfg.Engine.Available(ctx)
	s.asked = now
	if ctx.Err() == nil {
		e.mu.Lock()
		e.engine = s
		e.mu.Unlock()
	}
	return s
}

var _ basilica.Executor = (*Executor)(nil)

// life is one attempt that has not ended.
type life struct {
	stop   context.CancelCauseFunc
	memory int64
	fence  uint64

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

// New checks the configuration.
func New(cfg Config) (*Executor, error) {
	switch {
	case cfg.Executor == "" || cfg.Machine == "" || cfg.Dir == "":
		return nil, errors.New("executor: id, machine label and working directory are needed")
	case cfg.MaxContainers < 1 || cfg.MaxMemory < 1 || cfg.MaxCPUMillis < 1 || cfg.CPUs < 1 || cfg.MemoryBytes < 1:
		return nil, errors.New("executor: limits must be positive")
	case cfg.Now == nil || cfg.Log == nil || cfg.Sign == nil || cfg.Facts == nil || cfg.CheckImage == nil:
		return nil, errors.New("executor: clock, logger, signer, facts and check image are needed")
	case cfg.Engine == nil || cfg.Ledger == nil || cfg.Attempts == nil || cfg.Blobs == nil || cfg.Logs == nil || cfg.Disk == nil || cfg.Prover == nil || cfg.Fleet == nil:
		return nil, errors.New("executor: a part is missing")
	}
	if cfg.MaxLogBytes <= 0 || cfg.MaxLogBytes > basilica.MaxLogBytes {
		cfg.MaxLogBytes = defaultLog
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 2 * time.Second
	}
	cfg.MaxMemory = min(cfg.MaxMemory, cfg.MemoryBytes)
	return &Executor{
		cfg: cfg, maxCPU: min(cfg.MaxCPUMillis, int64(cfg.CPUs)*1000), checks: make(chan struct{}, 2),
		live: map[basilica.TaskAttempt]*life{}, checked: map[basilica.TaskAttempt]bool{}, revoked: map[basilica.GrantID]time.Time{},
	}, nil
}

// Run first ends what an earlier process left, then works until ctx ends; it returns when every container is stopped
// and removed. ready is called once, when work is accepted.
func (e *Executor) Run(ctx context.Context, ready func()) error {
	if err := e.recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	e.mu.Lock()
	e.base = gctx
	e.mu.Unlock()
	g.Go(func() error { return e.beats(gctx) })
	g.Go(func() error { return e.sweeps(gctx) })
	ready()
	err := g.Wait()
	e.mu.Lock()
	e.base = nil
	for _, l := range e.live {
		l.stop(errShutdown)
	}
	e.mu.Unlock()
	e.lives.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	e.retryStuck(last)
	if oerr := e.removeOrphans(last); oerr != nil {
		e.cfg.Log.Error("something of ended tasks remains", "err", oerr)
	}
	return err
}

// sweeps ends attempts whose lease ran out, retries what could not be removed, and forgets what nobody needs.
func (e *Executor) sweeps(ctx context.Context) error {
	sweep, retry, tidy := time.NewTicker(sweepEvery), time.NewTicker(retryEvery), time.NewTicker(tidyEvery)
	defer sweep.Stop()
	defer retry.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			e.endLeases(ctx)
		case <-retry.C:
			e.retryStuck(ctx)
		case <-tidy.C:
			e.tidy(ctx)
		}
	}
}

// endLeases stops the attempts whose holding expired: their miner no longer counts on them.
func (e *Executor) endLeases(ctx context.Context) {
	now := e.cfg.Now()
	ledger, err := e.cfg.Ledger.Ledger(ctx, now)
	if err != nil {
		if ctx.Err() == nil {
			e.cfg.Log.Error("ledger not read", "err", err)
		}
		return
	}
	expired := map[uint64]bool{}
	for _, h := range ledger {
		expired[h.Fence] = !h.Expires.After(now)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for at, l := range e.live {
		if expired[l.fence] {
			e.cfg.Log.Warn("lease ran out", "task", at.Task, "attempt", at.Attempt)
			l.stop(errLeaseEnded)
		}
	}
}

func (e *Executor) retryStuck(ctx context.Context) {
	e.mu.Lock()
	stuck := e.stuck
	e.stuck = nil
	e.mu.Unlock()
	for _, a := range stuck {
		e.leave(ctx, a)
	}
}

// removeOrphans removes containers and files that belong to no task and no check: an engine may finish late what it was
// asked for, and a removal may have failed. Who makes one is in live or checked before, so what is in neither has ended.
func (e *Executor) removeOrphans(ctx context.Context) error {
	own, err := e.cfg.Engine.List(ctx, labelMachine, e.cfg.Machine)
	if err != nil {
		return err
	}
	dirs, err := os.ReadDir(e.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list working directories: %w", err)
	}
	used := map[basilica.TaskID]bool{}
	e.mu.Lock()
	for at := range e.live {
		used[logName(at)] = true
	}
	for at := range e.checked {
		used[logName(at)] = true
	}
	e.mu.Unlock()
	var errs []error
	for _, c := range own {
		if !used[basilica.TaskID(c.Labels[labelTask]+"."+c.Labels[labelAttempt])] {
			errs = append(errs, e.cfg.Engine.Remove(ctx, c.ID))
		}
	}
	for _, d := range dirs {
		if !used[basilica.TaskID(d.Name())] {
			errs = append(errs, e.removeDir(filepath.Join(e.cfg.Dir, d.Name())))
		}
	}
	return errors.Join(errs...)
}

// tidy removes what belongs to nobody, and forgets attempts that nobody released for a week and blobs that no attempt
// needs.
func (e *Executor) tidy(ctx context.Context) {
	now := e.cfg.Now()
	old, err := e.cfg.Attempts.EndedBefore(ctx, now.Add(-forgottenAfter))
	for _, a := range old {
		err = errors.Join(err, e.Release(ctx, a.Task, a.Number))
	}
	err = errors.Join(err, e.forgetBlobs(ctx), e.removeOrphans(ctx))
	if err != nil && ctx.Err() == nil {
		e.cfg.Log.Error("something old is not forgotten or not removed", "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for grant, at := range e.revoked {
		if now.Sub(at) > revokedFor {
			delete(e.revoked, grant)
		}
	}
}

func (e *Executor) forgetBlobs(ctx context.Context) error {
	if !e.blobUse.TryLock() { // content is on its way in; tidy comes again
		return nil
	}
	defer e.blobUse.Unlock()
	sums, err := e.cfg.Attempts.ForgetBlobs(ctx, e.cfg.Now().Add(-unusedBlobs))
	for _, sum := range sums {
		err = errors.Join(err, e.cfg.Blobs.Delete(sum))
	}
	return err
}

// SystemInfo implements basilica.Executor.
func (e *Executor) SystemInfo(ctx context.Context) (basilica.Facts, error) {
	f, err := e.cfg.Facts(ctx)
	if err != nil {
		return f, fmt.Errorf("read facts: %w", err)
	}
	f.Version, f.GPUs = e.cfg.Version, e.cfg.GPUs
	// Without an engine the facts stand as they are; Health says why.
	if s := e.engineNow(ctx); s.err == nil {
		f.Engine, f.EngineVersion = s.name, s.version
	}
	return f, nil
}

// Health implements basilica.Executor.
func (e *Executor) Health(ctx context.Context) (basilica.Health, error) {
	ledger, err := e.cfg.Ledger.Ledger(ctx, e.cfg.Now())
	if err != nil {
		return basilica.Health{}, fmt.Errorf("read ledger: %w", err)
	}
	h := basilica.Health{Ledger: ledger, MaxTasks: e.cfg.MaxContainers, Limits: basilica.Limits{CPUMillis: e.maxCPU, MemoryBytes: e.cfg.MaxMemory, DefaultMemoryBytes: e.defaultMemory()}}
	if s := e.engineNow(ctx); s.err != nil {
		h.Reasons = append(h.Reasons, reasonOf(s.err))
	}
	e.mu.Lock()
	h.Tasks = len(e.live)
	if e.drain {
		h.Reasons = append(h.Reasons, basilica.Reason{Code: "DRAINING", Sentence: "the miner takes this machine out of service"})
	}
	if n := len(e.stuck); n > 0 {
		h.Reasons = append(h.Reasons, basilica.Reason{Code: "CLEANUP", Sentence: fmt.Sprintf("something of %d ended tasks could not be removed yet", n)})
	}
	if e.base == nil {
		h.Reasons = append(h.Reasons, basilica.Reason{Code: "NOT_RUNNING", Sentence: "the executor is starting or stopping"})
	}
	e.mu.Unlock()
	h.OK = len(h.Reasons) == 0
	return h, nil
}

// defaultMemory is what a task gets that does not say, in bytes.
func (e *Executor) defaultMemory() int64 { return min(defaultMemory, e.cfg.MaxMemory) }

// reasonOf gives the code, sentence and next step that may be shown of a failure; a fault of ours is one word.
func reasonOf(err error) basilica.Reason {
	var be *basilica.Error
	if errors.As(err, &be) && be.Code != "" {
		return basilica.Reason{Code: be.Code, Sentence: be.Sentence, Fix: be.Fix}
	}
	return basilica.Reason{Code: "EXECUTOR_FAULT", Sentence: "the executor met a fault of its own"}
}

// PutBlob implements basilica.Executor.
func (e *Executor) PutBlob(ctx context.Context, blob basilica.Blob, content io.Reader) error {
	e.blobUse.RLock()
	defer e.blobUse.RUnlock()
	if err := e.cfg.Blobs.Put(ctx, blob, content); err != nil {
		return err
	}
	return e.cfg.Attempts.SawBlob(ctx, blob.SHA256, e.cfg.Now())
}

// GetBlob implements basilica.Executor.
func (e *Executor) GetBlob(ctx context.Context, sum basilica.Digest, w io.Writer) (err error) {
	r, _, err := e.cfg.Blobs.Open(sum)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	if _, err := io.Copy(w, r); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("send blob: %w", err))
	}
	return nil
}

// Release implements basilica.Executor.
func (e *Executor) Release(ctx context.Context, task basilica.TaskID, attempt int) error {
	at := basilica.TaskAttempt{Task: task, Attempt: attempt}
	if err := e.cfg.Attempts.ForgetAttempt(ctx, at); err != nil {
		return err
	}
	return errors.Join(e.cfg.Logs.Forget(logName(at)), e.forgetBlobs(ctx))
}

// Cancel implements basilica.Executor.
func (e *Executor) Cancel(ctx context.Context, task basilica.TaskID, attempt int) error {
	at := basilica.TaskAttempt{Task: task, Attempt: attempt}
	e.mu.Lock()
	l := e.live[at]
	e.mu.Unlock()
	if l == nil {
		_, err := e.cfg.Attempts.Attempt(ctx, at) // an ended one is cancelled already
		return err
	}
	l.stop(errCancelled)
	return nil
}

// Clock gives this machine's clock minus the miner's, by the last heartbeat; false before the first.
func (e *Executor) Clock() (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clock == nil {
		return 0, false
	}
	return *e.clock, true
}

// GrantRevoked says whether the miner ended a validation grant early.
func (e *Executor) GrantRevoked(grant basilica.GrantID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.revoked[grant]
	return ok
}

// logName is the name of an attempt's log.
func logName(at basilica.TaskAttempt) basilica.TaskID {
	return basilica.TaskID(fmt.Sprintf("%s.%d", at.Task, at.Attempt))
}
