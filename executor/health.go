package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"basilica"
)

// engineState is what the engine last said of itself.
type engineState struct {
	name, version string
	err           error
	room          error // why its disk takes no image
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
	if s.room = nil; s.err == nil {
		s.room = e.cfg.Engine.Room(ctx, e.cfg.MinFreeDisk)
	}
	s.asked = now
	if ctx.Err() == nil {
		e.mu.Lock()
		if !s.asked.Before(e.engine.asked) { // who asked later may have been answered first
			e.engine = s
		}
		e.mu.Unlock()
	}
	return s
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
	now := e.ledgerNow()
	ledger, err := e.cfg.Ledger.Ledger(ctx, now)
	if err != nil {
		return basilica.Health{}, fmt.Errorf("read ledger: %w", err)
	}
	for i := range ledger {
		ledger[i] = e.shown(ledger[i], now)
	}
	h := basilica.Health{Ledger: ledger, MaxTasks: e.cfg.MaxContainers, Limits: basilica.Limits{CPUMillis: e.maxCPU, MemoryBytes: e.cfg.MaxMemory, DefaultMemoryBytes: e.defaultMemory()}}
	engine := e.engineNow(ctx)
	if engine.err != nil {
		h.Reasons = append(h.Reasons, reasonOf(engine.err))
	}
	if err := e.roomFor(0); err != nil {
		h.Reasons = append(h.Reasons, reasonOf(err))
	} else if engine.room != nil { // most often it is the same disk
		h.Reasons = append(h.Reasons, reasonOf(engine.room))
	}
	if err := e.gpusRefused(ctx); err != nil {
		h.Reasons = append(h.Reasons, reasonOf(err))
	}
	e.mu.Lock()
	h.Tasks = len(e.live)
	if e.drain {
		h.Reasons = append(h.Reasons, basilica.Reason{Code: "DRAINING", Sentence: "the miner takes this machine out of service"})
	}
	if err := e.runs(); err != nil {
		h.Reasons = append(h.Reasons, reasonOf(err))
	}
	h.OK = len(h.Reasons) == 0
	if n := len(e.stuck); n > 0 {
		h.Reasons = append(h.Reasons, basilica.Reason{
			Code: "CLEANUP", Sentence: fmt.Sprintf("something of %d ended tasks could not be removed yet", n),
			Fix: "nothing, if it goes away; else look at the executor's log on its machine, or restart the machine",
		})
		h.OK = h.OK && e.confined(ledger)
	}
	e.mu.Unlock()
	return h, nil
}

// confined says that all that could not be removed holds GPUs which the ledger gives to nobody, and that others are left: the
// machine serves with those. e.mu is held.
func (e *Executor) confined(ledger []basilica.Holding) bool {
	out, fences := 0, map[uint64]bool{}
	for _, h := range ledger {
		if h.Kind == basilica.HolderQuarantine && len(h.GPUs) > 0 {
			out += len(h.GPUs)
			fences[h.Fence] = true
		}
	}
	return out < len(e.cfg.GPUs) && !slices.ContainsFunc(e.stuck, func(r basilica.Remains) bool { return !fences[r.Fence] })
}

// defaultMemory is what a task gets that does not say, in bytes.
func (e *Executor) defaultMemory() int64 { return min(defaultMemory, e.cfg.MaxMemory) }

// reasonOf gives the code, sentence and next step that may be shown of a failure; a fault of ours is one word.
func reasonOf(err error) basilica.Reason {
	var be *basilica.Error
	if errors.As(err, &be) && be.Code != "" {
		return basilica.Reason{Code: be.Code, Sentence: be.Sentence, Fix: be.Fix}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return reasonOf(diskFull("the disk of the executor's data directory is full"))
	}
	return basilica.Reason{Code: "EXECUTOR_FAULT", Sentence: "the executor met a fault of its own"}
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

func diskFull(what string) error {
	return basilica.E(basilica.Exhausted, "DISK_FULL", what, "free space on it, or lower executor.min_free_disk")
}

// roomFor refuses what would leave less of the disk than its owner wants free: a host whose disk is full is no use to
// anybody.
func (e *Executor) roomFor(bytes int64) error {
	if e.cfg.MinFreeDisk <= 0 {
		return nil
	}
	free, err := e.cfg.FreeDisk()
	if err != nil {
		return fmt.Errorf("look for free disk: %w", err)
	}
	if free-bytes < e.cfg.MinFreeDisk {
		return diskFull(fmt.Sprintf("the disk of the executor's data directory has %d bytes free, and %d are kept free", free, e.cfg.MinFreeDisk))
	}
	return nil
}
