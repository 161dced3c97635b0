// Package executor runs one machine: it takes tasks from its miner and challenges from validators, gives each GPU one
// holder at a time, follows every container to a witnessed end and leaves nothing of it behind. It knows no engine, no
// database, no wire and no proof; it says what it needs of them.
package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// Containers makes and runs containers. One that does not exist is NotFound (CONTAINER_GONE), an engine that is away
// Unavailable (DOCKER_ABSENT).
type Containers interface {
	Create(ctx context.Context, spec basilica.ContainerSpec) (id string, err error)
	Start(ctx context.Context, id string) (wait func(context.Context) (basilica.ContainerEnd, error), err error)
	// Await is for a container that somebody else started, or that has ended already.
	Await(ctx context.Context, id string) (wait func(context.Context) (basilica.ContainerEnd, error), err error)
	// Logs attaches before the start and gives every byte as it comes; PastLogs gives what the engine kept, from the start.
	Logs(ctx context.Context, id string) (follow func(f func(basilica.LogStream, []byte) error) error, err error)
	PastLogs(ctx context.Context, id string) (follow func(f func(basilica.LogStream, []byte) error) error, err error)
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	List(ctx context.Context, label, value string) ([]basilica.ContainerState, error)
	Inspect(ctx context.Context, id string) (basilica.ContainerState, error)
	// Leftover lists the processes that a container has, whether or not the engine knows it any more.
	Leftover(id string) (pids []int, err error)
	// LostDevices lists the GPU nodes of a running container that it may no longer open.
	LostDevices(ctx context.Context, id string) ([]string, error)
}

// Images finds, pulls, loads and removes images.
type Images interface {
	// arrives is called with the config's digest of an image that is not here by it, before it is, and gives the id that the
	// engine had for it before; nil: nobody wants to know.
	EnsureImage(ctx context.Context, ref string, login *basilica.RegistryLogin, arrives func(config string) (known string, err error)) (id string, err error)
	LoadImage(ctx context.Context, file io.ReadSeeker, arrives func(config string) error) (id string, err error)
	// ForgetImage removes an image that has no name and that no container uses; others stay.
	ForgetImage(ctx context.Context, id string) error
	// Room refuses an engine whose disk of images is read-only or has fewer bytes free; where that is not known it is none.
	Room(ctx context.Context, least int64) error
}

// Engine is the container engine of this machine.
type Engine interface {
	Containers
	Images
	Available(ctx context.Context) (name, version string, err error)
	Process(ctx context.Context) (basilica.EngineProcess, error)
}

// Ledger says who holds which GPU.
type Ledger interface {
	Hold(ctx context.Context, h basilica.Holding, now time.Time) (basilica.Holding, error)
	Ledger(ctx context.Context, now time.Time) ([]basilica.Holding, error)
	Extend(ctx context.Context, fence uint64, expires time.Time) error
	Quarantine(ctx context.Context, r basilica.Remains) error
	Quarantined(ctx context.Context) ([]basilica.Remains, error)
	Leave(ctx context.Context, fence uint64) error
	// TimeLine gives where the ledger's times begin in this boot: a time, and the time since boot then.
	TimeLine(ctx context.Context, boot string, wall time.Time, up time.Duration) (time.Time, time.Duration, error)
}

// Attempts keeps attempts at tasks, and which blobs they need.
type Attempts interface {
	Accept(ctx context.Context, a basilica.Attempt, blobs []basilica.Digest, most int, now time.Time) (basilica.Holding, bool, error)
	SaveAttempt(ctx context.Context, a basilica.Attempt) error
	Attempt(ctx context.Context, at basilica.TaskAttempt) (basilica.Attempt, error)
	OpenAttempts(ctx context.Context) ([]basilica.Attempt, error)
	EndedHolding(ctx context.Context) ([]basilica.Attempt, error)
	EndedBefore(ctx context.Context, before time.Time) ([]basilica.Attempt, error)
	ForgetAttempt(ctx context.Context, at basilica.TaskAttempt) error
	SawBlob(ctx context.Context, sum basilica.Digest, now time.Time) error
	ForgetBlobs(ctx context.Context, before time.Time) ([]basilica.Digest, error)
	UnknownBlobs(ctx context.Context, stored []basilica.Digest) ([]basilica.Digest, error)
}

// Marks keeps what a later process must know beside attempts: grants that the miner ended early, and images that were
// loaded from a file or pulled (source to id), or will be.
type Marks interface {
	RevokeGrants(ctx context.Context, grants []basilica.GrantID, now time.Time) error
	RevokedGrants(ctx context.Context) (map[basilica.GrantID]time.Time, error)
	ForgetRevoked(ctx context.Context, before time.Time) error
	KeepImage(ctx context.Context, source, id string) error
	LoadedImages(ctx context.Context) (map[string]string, error)
	ForgetImage(ctx context.Context, source string) error
}

// Blobs keeps content under its SHA-256, as files.
type Blobs interface {
	Put(ctx context.Context, blob basilica.Blob, content io.Reader) error
	Open(sum basilica.Digest) (io.ReadSeekCloser, int64, error)
	Path(sum basilica.Digest) string
	Delete(sum basilica.Digest) error
	Stored() ([]basilica.Digest, error)
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
	OutputFull(dir string) (bool, error)
	UnmountAll(root string) error
}

// Prover answers one challenge over a channel. It returns nil once VERDICT has arrived; a validator that did not bring the challenge
// to its end is CHALLENGE_LEFT.
type Prover interface {
	Prove(ctx context.Context, v Visit) error
}

// Config is who this machine is, what it has and what it may give. Every field is needed unless it says otherwise.
type Config struct {
	Executor    basilica.ExecutorID
	Machine     string // label that marks this machine's own containers on a shared engine: unique to its data directory
	Dir         string // working directory of attempts, of this executor alone
	Version     string
	Boot        string               // boot id of the machine
	Uptime      func() time.Duration // since boot, moved by nobody who sets a clock
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
	// MinFreeDisk is how many bytes of FreeDisk no task and no blob may take, and below which the engine's disk is full; zero: no
	// floor.
	MinFreeDisk int64
	FreeDisk    func() (int64, error) // free bytes of the data directory's file system
	// KeepTasks has Run leave containers running at its end, for the process that comes next.
	KeepTasks bool

	// Unseal opens what was sealed to the machine's endorsed key under basilica.RegistryInfo.
	Unseal func(sealed []byte) ([]byte, error)
	Facts  func(ctx context.Context) (basilica.Facts, error)
	// GPUsRefused says why real GPUs are given to no task now; nil: they are. Software devices are not concerned. Optional.
	GPUsRefused func(ctx context.Context) error
	// CheckImage gives the content address of the image that answers `task-check`, and makes it where it is missing.
	CheckImage func(ctx context.Context) (string, error)
	Revoked    func() // optional: called after grants were revoked
	Now        func() time.Time
	Log        *slog.Logger

	Engine   Engine
	Ledger   Ledger
	Attempts Attempts
	Marks    Marks
	Blobs    Blobs
	Logs     Logs
	Disk     Disk
	Prover   Prover
	Fleet    basilica.Fleet
	Identity Identity
	Wake     <-chan struct{} // optional: what comes here has a heartbeat sent at once
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
	unusedImages   = 10 * time.Minute   // an image that was pulled and is needed by no attempt is kept that long
	lateImages     = 30 * time.Minute   // an engine may bring an image that long after who waited for it has gone
	forgottenAfter = 7 * 24 * time.Hour // an ended attempt that nobody released
	revokedFor     = 30 * time.Minute   // longer than any certificate lives
	cleanUp        = 2 * time.Minute    // for what must happen after the end of everything else
)

// Executor is one machine. It implements basilica.Executor while Run runs.
type Executor struct {
	cfg    Config
	maxCPU int64
	checks chan struct{}
	// instance names this process of the machine in heartbeats.
	instance string

	stopWait     time.Duration // for an engine to say that a killed container has ended
	devicesEvery time.Duration // between two looks at a container's devices

	mu      sync.Mutex
	base    context.Context // of Run; nil before and after it
	live    map[basilica.TaskAttempt]*life
	checked map[basilica.TaskAttempt]bool // validators' checks that have something on this machine
	kept    map[basilica.TaskAttempt]bool // left to the process that comes next
	stuck   []basilica.Remains            // ended, but something of them could not be removed yet
	drain   bool
	clock   *time.Duration // this machine's clock minus the miner's, by the last heartbeat
	unheard error          // why the last heartbeat was not answered
	revoked map[basilica.GrantID]time.Time
	vain    map[basilica.Hotkey]vain
	engine  engineState
	begin   time.Time     // of the ledger's time line
	beginUp time.Duration // time since boot then
	lives   sync.WaitGroup

	// retrying is held while what is stuck is tried again.
	retrying sync.Mutex
	// blobUse is held for reading while content and its record are written, so that nobody forgets one without the other.
	blobUse sync.RWMutex
	// imageUse holds one word while an image is loaded from a blob or forgotten: whoever waits hears that it is cancelled.
	imageUse chan struct{}
	idle     map[string]time.Time // by imageUse: sources of images that no attempt needs, and since when
}

var _ basilica.Executor = (*Executor)(nil)

// New checks the configuration.
func New(cfg Config) (*Executor, error) {
	switch {
	case cfg.Executor == "" || cfg.Machine == "" || cfg.Dir == "" || cfg.Boot == "":
		return nil, errors.New("executor: id, machine label, working directory and boot id are needed")
	case cfg.MaxContainers < 1 || cfg.MaxMemory < 1 || cfg.MaxCPUMillis < 1 || cfg.CPUs < 1 || cfg.MemoryBytes < 1:
		return nil, errors.New("executor: limits must be positive")
	case cfg.Now == nil || cfg.Uptime == nil || cfg.Log == nil || cfg.Sign == nil || cfg.Unseal == nil || cfg.Facts == nil || cfg.FreeDisk == nil || cfg.CheckImage == nil:
		return nil, errors.New("executor: clocks, logger, keys, facts, free disk and check image are needed")
	case cfg.Engine == nil || cfg.Ledger == nil || cfg.Attempts == nil || cfg.Marks == nil || cfg.Blobs == nil || cfg.Logs == nil || cfg.Disk == nil || cfg.Prover == nil || cfg.Fleet == nil || cfg.Identity == nil:
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
		cfg: cfg, maxCPU: min(cfg.MaxCPUMillis, int64(cfg.CPUs)*1000), checks: make(chan struct{}, 2), instance: rand.Text(),
		stopWait: stopWait, devicesEvery: devicesEvery, begin: cfg.Now(), beginUp: cfg.Uptime(),
		live: map[basilica.TaskAttempt]*life{}, kept: map[basilica.TaskAttempt]bool{}, checked: map[basilica.TaskAttempt]bool{}, revoked: map[basilica.GrantID]time.Time{}, vain: map[basilica.Hotkey]vain{}, imageUse: make(chan struct{}, 1), idle: map[string]time.Time{},
	}, nil
}

// Run takes over what an earlier process left, then works until ctx ends; it returns when every container is stopped and
// removed, or, where tasks are kept, left running to the next process. ready is called once, when work is accepted.
func (e *Executor) Run(ctx context.Context, ready func()) error {
	inherited, err := e.recover(ctx)
	if ctx.Err() != nil { // nothing is taken over that would have to be left
		return nil
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	e.mu.Lock()
	e.base = gctx
	for _, i := range inherited {
		e.start(i)
	}
	e.mu.Unlock()
	e.endLeases(gctx)
	g.Go(func() error { return e.beats(gctx) })
	g.Go(func() error { return e.sweeps(gctx) })
	g.Go(func() error { return e.removals(gctx) })
	ready()
	err = g.Wait()
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
	if oerr := errors.Join(e.removeOrphans(last), e.forgetImages(last, 0)); oerr != nil {
		e.cfg.Log.Error("something of ended tasks remains", "err", oerr)
	}
	return err
}

// running refuses a call before Run has taken over what was left, and after its end.
func (e *Executor) running() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs()
}

// runs is running for who holds mu.
func (e *Executor) runs() error {
	if e.base == nil || e.base.Err() != nil {
		return basilica.E(basilica.Unavailable, "NOT_RUNNING", "the executor is starting or stopping", "try again")
	}
	return nil
}

// ledgerNow is the time on the ledger's own line, which setting the clock does not move.
func (e *Executor) ledgerNow() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lineNow()
}

// lineNow is ledgerNow for who holds mu.
func (e *Executor) lineNow() time.Time { return e.begin.Add(e.cfg.Uptime() - e.beginUp) }

// shown is a holding as others see it: it expires by this machine's clock.
func (e *Executor) shown(h basilica.Holding, now time.Time) basilica.Holding {
	h.Expires = e.cfg.Now().Add(h.Expires.Sub(now)).UTC()
	return h
}

// refusal shows the holding in a refusal of the ledger.
func (e *Executor) refusal(err error, now time.Time) error {
	var held *basilica.Held
	if errors.As(err, &held) {
		return basilica.NewHeld(e.shown(held.Holding, now))
	}
	return err
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
