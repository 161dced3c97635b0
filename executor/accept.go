package executor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"basilica"
)

// taskID is what may stand in a file's and a container's name.
var taskID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// demand is what a task takes of this machine.
type demand struct {
	spec    basilica.TaskSpec
	cpu     int64 // thousandths of one CPU
	memory  int64 // bytes
	output  int64 // bytes
	timeout time.Duration
}

// Execute implements basilica.Executor.
func (e *Executor) Execute(ctx context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	if !taskID.MatchString(string(req.Task)) || req.Attempt < 1 {
		return basilica.Holding{}, basilica.E(basilica.Invalid, "TASK_ID", fmt.Sprintf("task %.80q, attempt %d is no task of a miner", req.Task, req.Attempt), "")
	}
	d, err := e.demandOf(req.Spec)
	if err != nil {
		return basilica.Holding{}, err
	}
	refused := e.gpusRefused(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	known, err := e.cfg.Attempts.Attempt(ctx, basilica.TaskAttempt{Task: req.Task, Attempt: req.Attempt})
	switch {
	case err == nil:
		return e.shown(known.Holding, e.lineNow()), nil
	case basilica.KindOf(err) != basilica.NotFound:
		return basilica.Holding{}, err
	}
	if err := e.admits(d); err != nil {
		return basilica.Holding{}, err
	}
	if _, err := e.login(d.spec); err != nil {
		return basilica.Holding{}, err
	}
	now := e.lineNow()
	gpus, err := e.choose(ctx, d.spec, refused, now)
	if err != nil {
		return basilica.Holding{}, e.refusal(err, now)
	}
	inputs, err := e.inputs(d.spec)
	if err != nil {
		return basilica.Holding{}, err
	}
	a := basilica.Attempt{
		Task: req.Task, Number: req.Attempt, Client: req.Client, Spec: req.Spec, State: basilica.TaskPlaced, Accepted: e.cfg.Now(),
		Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: string(req.Task), GPUs: gpus, Expires: now.Add(min(max(req.Lease, minLease), maxLease))},
	}
	h, fresh, err := e.cfg.Attempts.Accept(ctx, a, inputs, e.cfg.MaxContainers, now)
	if err != nil || !fresh {
		return e.shown(h, now), e.refusal(err, now)
	}
	a.Holding = h
	e.start(inheritance{attempt: a, demand: d})
	return e.shown(h, now), nil
}

// demandOf reads a spec and checks it against what this machine ever gives.
func (e *Executor) demandOf(raw []byte) (demand, error) {
	var d demand
	if len(raw) > basilica.MaxSpecBytes {
		return d, basilica.E(basilica.Invalid, "TASK_INVALID", fmt.Sprintf("the task's spec has %d bytes, over %d", len(raw), basilica.MaxSpecBytes), "make it shorter")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.spec); err != nil {
		return d, basilica.E(basilica.Invalid, "TASK_INVALID", "the task's spec cannot be read", "submit it with this version's client").With(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return d, basilica.E(basilica.Invalid, "TASK_INVALID", "the task's spec has bytes after its end", "")
	}
	if err := d.spec.Validate(); err != nil {
		return d, err
	}
	d.cpu = cmp.Or(d.spec.CPUMillis, e.maxCPU)
	d.memory = cmp.Or(d.spec.MemoryBytes, e.defaultMemory())
	d.output = cmp.Or(d.spec.OutputBytes, min(d.memory/8, 1<<30))
	d.timeout = basilica.DefaultTimeout
	if d.spec.TimeoutSeconds > 0 {
		d.timeout = time.Duration(d.spec.TimeoutSeconds) * time.Second
	}
	over := func(code, what string, asked, most int64, unit string) error {
		return basilica.E(basilica.Exhausted, code, fmt.Sprintf("the task asks for %d %s of %s, this machine gives one task at most %d", asked, unit, what, most), "ask for less, or for another machine")
	}
	switch {
	case d.memory > e.cfg.MaxMemory:
		return d, over("MEMORY_LIMIT", "memory", d.memory, e.cfg.MaxMemory, "bytes")
	case d.cpu > e.maxCPU:
		return d, over("CPU_LIMIT", "CPU", d.cpu, e.maxCPU, "thousandths")
	case d.output > d.memory/4:
		// No other machine would take it either.
		return d, basilica.E(basilica.Invalid, "OUTPUT_LIMIT", fmt.Sprintf("outputs of %d bytes are over a quarter of the task's memory of %d bytes, in which they are kept", d.output, d.memory),
			"ask for more with --memory, or for less with --output-size")
	case d.spec.GPUs > len(eligible(e.cfg.GPUs, d.spec.AllowSoftware)):
		return d, over("GPU_LIMIT", "GPU", int64(d.spec.GPUs), int64(len(eligible(e.cfg.GPUs, d.spec.AllowSoftware))), "devices")
	}
	return d, nil
}

// admits checks what changes from moment to moment; the caller holds mu.
func (e *Executor) admits(d demand) error {
	if err := e.runs(); err != nil {
		return err
	}
	if e.drain {
		return basilica.E(basilica.Unavailable, "DRAINING", "the miner takes this machine out of service", "use another machine")
	}
	if err := e.roomFor(d.output); err != nil {
		return err
	}
	used := int64(0)
	for _, l := range e.live {
		used += l.memory
	}
	if used+d.memory > e.cfg.MemoryBytes {
		return basilica.E(basilica.Exhausted, "MEMORY_FULL", fmt.Sprintf("the machine's tasks have %d of its %d bytes of memory, and %d more are asked for", used, e.cfg.MemoryBytes, d.memory), "wait for a task to end, or ask for less memory")
	}
	return nil
}

// eligible gives the devices that may serve a task, real ones first.
func eligible(gpus []basilica.GPU, software bool) []basilica.GPU {
	var real, soft []basilica.GPU
	for _, g := range gpus {
		switch {
		case g.UUID == "": // what has no name cannot be held
		case g.Kind != basilica.GPUSoftware:
			real = append(real, g)
		case software:
			soft = append(soft, g)
		}
	}
	return append(real, soft...)
}

// gpusRefused says why this machine's real GPUs are given to no task; nil where it has none.
func (e *Executor) gpusRefused(ctx context.Context) error {
	if e.cfg.GPUsRefused == nil || len(eligible(e.cfg.GPUs, false)) == 0 {
		return nil
	}
	return e.cfg.GPUsRefused(ctx)
}

// choose picks free devices for a task, no real one where refused says why; the caller holds mu.
func (e *Executor) choose(ctx context.Context, spec basilica.TaskSpec, refused error, now time.Time) ([]string, error) {
	if spec.GPUs == 0 {
		return nil, nil
	}
	serve := eligible(e.cfg.GPUs, spec.AllowSoftware)
	if refused != nil {
		serve = slices.DeleteFunc(serve, func(g basilica.GPU) bool { return g.Kind != basilica.GPUSoftware })
		if len(serve) < spec.GPUs {
			return nil, refused
		}
	}
	ledger, err := e.cfg.Ledger.Ledger(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	var chosen []string
	var first *basilica.Holding
	for _, g := range serve {
		i := slices.IndexFunc(ledger, func(h basilica.Holding) bool { return slices.Contains(h.GPUs, g.UUID) })
		switch {
		case i < 0 && len(chosen) < spec.GPUs:
			chosen = append(chosen, g.UUID)
		case i >= 0 && first == nil:
			first = &ledger[i]
		}
	}
	if len(chosen) < spec.GPUs { // demandOf saw enough devices, so one of them is held
		return nil, basilica.NewHeld(*first)
	}
	return chosen, nil
}

// inputs checks that every input is here, and the image where it comes as a blob, and lists them.
func (e *Executor) inputs(spec basilica.TaskSpec) ([]basilica.Digest, error) {
	var sums []basilica.Digest
	if sum, ok := basilica.ImageBlob(spec.Image); ok {
		r, _, err := e.cfg.Blobs.Open(sum)
		if err != nil {
			return nil, err
		}
		if err := r.Close(); err != nil {
			return nil, fmt.Errorf("look at image: %w", err)
		}
		sums = append(sums, sum)
	}
	for _, f := range spec.Inputs {
		r, size, err := e.cfg.Blobs.Open(f.SHA256)
		if err != nil {
			return nil, err
		}
		if err := r.Close(); err != nil {
			return nil, fmt.Errorf("look at input: %w", err)
		}
		if size != f.Size {
			return nil, basilica.E(basilica.Invalid, "FILE_SIZE", fmt.Sprintf("input %.80q has %d bytes, not %d", f.Name, size, f.Size), "hash the file again")
		}
		sums = append(sums, f.SHA256)
	}
	return sums, nil
}

// Watch implements basilica.Executor: the states that the attempt went through, its log from logOffset on, and its end
// after all of its log.
func (e *Executor) Watch(ctx context.Context, task basilica.TaskID, attempt int, logOffset int64, f func(basilica.TaskEvent) error) error {
	at := basilica.TaskAttempt{Task: task, Attempt: attempt}
	told, orphaned := basilica.TaskPlaced, false
	for {
		var changed <-chan struct{}
		e.mu.Lock()
		if l := e.live[at]; l != nil {
			changed = l.next()
		}
		e.mu.Unlock()
		a, err := e.cfg.Attempts.Attempt(ctx, at)
		if err != nil {
			return err
		}
		event := basilica.TaskEvent{Task: task, Attempt: attempt}
		if told == basilica.TaskPlaced && !a.Pulling.IsZero() {
			told = basilica.TaskPulling
			event.State, event.At = told, a.Pulling
			if err := f(event); err != nil {
				return err
			}
		}
		if told == basilica.TaskPulling && !a.Started.IsZero() {
			told = basilica.TaskRunning
			event.State, event.At = told, a.Started
			if err := f(event); err != nil {
				return err
			}
		}
		logOffset, err = e.cfg.Logs.Read(logName(at), logOffset, func(c basilica.LogChunk) error {
			event.State, event.At, event.Log = told, e.cfg.Now(), &c
			return f(event)
		})
		if err != nil {
			return err
		}
		if a.State.Terminal() && changed == nil { // nothing of it is left
			return f(basilica.TaskEvent{Task: task, Attempt: attempt, State: a.State, At: a.Ended, Reason: a.Reason, ExitCode: a.ExitCode, Outputs: a.Outputs, Receipt: a.Receipt})
		}
		if changed == nil {
			// Just accepted, or just ended: the next look finds its life or its end, unless this process has neither.
			if orphaned {
				return basilica.E(basilica.Unavailable, "NOT_RUNNING", "the executor is starting or stopping", "try again")
			}
			orphaned = true
			continue
		}
		orphaned = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
