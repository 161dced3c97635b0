package miner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"basilica"
)

// Tasks keeps what clients submitted.
type Tasks interface {
	// AddTask queues a task, or gives the one that has its idempotency key.
	AddTask(ctx context.Context, t basilica.TaskRecord, maxOpen, maxWaiting int) (basilica.Task, error)
	Task(ctx context.Context, id basilica.TaskID) (basilica.TaskRecord, error)
	TasksOf(ctx context.Context, client basilica.Hotkey, q basilica.TaskQuery) (tasks []basilica.TaskRecord, next string, err error)
	WantCancel(ctx context.Context, client basilica.Hotkey, id basilica.TaskID, why basilica.Reason, now time.Time) (basilica.TaskRecord, error)
	ForgetTasks(ctx context.Context, age time.Duration, limit int) error
	ForgetLogs(ctx context.Context, age time.Duration, limit int, drop func(basilica.TaskID) error) error
	LogKept(ctx context.Context, id basilica.TaskID) (bool, error)
}

// BlobOwners keeps which client may read which content.
type BlobOwners interface {
	BlobRoom(ctx context.Context, client basilica.Hotkey, blob basilica.Blob, maxBytes int64) error
	OwnBlob(ctx context.Context, client basilica.Hotkey, blob basilica.Blob) error
	OwnsBlob(ctx context.Context, client basilica.Hotkey, sum basilica.Digest) (size int64, owns bool, err error)
	BlobOwned(ctx context.Context, sum basilica.Digest) (bool, error)
	DisownBlobs(ctx context.Context, have func(basilica.Digest) (bool, error)) (int, error)
	ForgetBlobs(ctx context.Context, age time.Duration, limit int, drop func(basilica.Digest) error) (int, error)
}

// Blobs keeps content by its SHA-256, and each client's uploads that have not ended.
type Blobs interface {
	Put(ctx context.Context, blob basilica.Blob, content io.Reader) error
	Open(sum basilica.Digest) (io.ReadSeekCloser, int64, error)
	Delete(sum basilica.Digest) error
	Sums() ([]basilica.Digest, error)
	Parts(owner basilica.Hotkey) map[basilica.Digest]int64
	Fill(owner basilica.Hotkey, blob basilica.Blob, offset int64, content io.Reader) error
	Finish(owner basilica.Hotkey, blob basilica.Blob) error
	ForgetParts(before time.Time) error
}

// Logs keeps one log per task; offsets count the bytes of both streams together.
type Logs interface {
	Append(id basilica.TaskID, c basilica.LogChunk) error
	Size(id basilica.TaskID) (int64, error)
	Read(id basilica.TaskID, offset int64, f func(basilica.LogChunk) error) (next int64, err error)
	Forget(id basilica.TaskID) error
	Names() ([]basilica.TaskID, error)
	Shrink(keep int64, spare func(basilica.TaskID) bool) error
}

// MayCompute refuses a client that the miner's policy does not serve (COMPUTE_NOT_ALLOWED, COMPUTE_CLOSED).
func (m *Miner) MayCompute(_ context.Context, client basilica.Hotkey) error {
	switch {
	case m.cfg.Compute == ComputeOpen:
		return nil
	case m.cfg.Compute == ComputeAllowList && slices.Contains(m.cfg.AllowList, client):
		return nil
	case m.cfg.Compute == ComputeAllowList:
		return basilica.E(basilica.Denied, "COMPUTE_NOT_ALLOWED", fmt.Sprintf("this miner runs tasks for listed clients only, and %.64s is not one", client), "ask its owner, or choose another miner: basilica ls")
	}
	return basilica.E(basilica.Denied, "COMPUTE_CLOSED", "this miner runs no tasks for clients", "choose another miner: basilica ls")
}

// Submit implements basilica.Miner.
func (m *Miner) Submit(ctx context.Context, req basilica.Submission) (basilica.Task, error) {
	if err := m.MayCompute(ctx, req.Caller); err != nil {
		return basilica.Task{}, err
	}
	spec, err := parseSpec(req.Spec)
	if err != nil {
		return basilica.Task{}, err
	}
	if !printable(req.IdempotencyKey) {
		return basilica.Task{}, basilica.E(basilica.Invalid, "IDEMPOTENCY_KEY_FORM", "the idempotency key is not 1 to 128 printable characters", "use a random name such as a UUID")
	}
	t, err := m.Store.AddTask(ctx, basilica.TaskRecord{
		Task: basilica.Task{
			ID: basilica.TaskID("t-" + randomName()), Client: req.Caller, IdempotencyKey: req.IdempotencyKey,
			Spec: spec, SpecDigest: sha256.Sum256(req.Spec), Created: m.Now(),
		},
		SpecBytes: req.Spec,
	}, m.cfg.MaxOpenTasks, m.cfg.MaxQueueTasks)
	if err != nil {
		return basilica.Task{}, err
	}
	m.Log.InfoContext(ctx, "task submitted", "task", t.ID, "client", t.Client, "gpus", spec.GPUs)
	m.bell.ring("")
	return t, nil
}

// Plan implements basilica.Miner.
func (m *Miner) Plan(ctx context.Context, caller basilica.Hotkey, raw []byte) (basilica.Plan, error) {
	if err := m.MayCompute(ctx, caller); err != nil {
		return basilica.Plan{}, err
	}
	spec, err := parseSpec(raw)
	if err != nil {
		return basilica.Plan{}, err
	}
	members, open, err := m.fleetAndTasks(ctx)
	if err != nil {
		return basilica.Plan{}, err
	}
	queue := queueOf(open)
	p := basilica.Plan{Miner: m.self, Queue: len(queue), Boxes: []basilica.PlannedBox{}}
	for _, r := range explain(m.boxes(members, open), queue, wantedOf("", &spec)) {
		if r.why == nil {
			p.Executor = r.executor
		}
		p.Boxes = append(p.Boxes, basilica.PlannedBox{Executor: r.executor, Why: r.why})
	}
	return p, nil
}

// parseSpec reads exactly one JSON object with known fields alone and checks it.
func parseSpec(raw []byte) (basilica.TaskSpec, error) {
	var spec basilica.TaskSpec
	const fix = "use a client of the same version as the miner, or correct that field"
	if len(raw) > basilica.MaxSpecBytes {
		return spec, basilica.E(basilica.Invalid, "SPEC_SIZE", fmt.Sprintf("the task's spec has %d bytes, more than %d", len(raw), basilica.MaxSpecBytes), "send large data as an input file")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&spec); err != nil {
		return spec, basilica.E(basilica.Invalid, "SPEC_JSON", fmt.Sprintf("the task's spec cannot be read: %.200s", err), fix).With(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return spec, basilica.E(basilica.Invalid, "SPEC_JSON", "the task's spec has bytes after its end", fix)
	}
	return spec, spec.Validate()
}

func printable(key string) bool {
	if len(key) == 0 || len(key) > 128 {
		return false
	}
	for _, c := range []byte(key) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// owned reads a task of caller's; that of another is as unknown as one that does not exist.
func (m *Miner) owned(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	t, err := m.Store.Task(ctx, id)
	if err == nil && t.Client != caller {
		err = basilica.E(basilica.NotFound, "TASK_UNKNOWN", fmt.Sprintf("no task %.64q of yours is here", id), "see basilica ps")
	}
	if err != nil {
		return basilica.Task{}, err
	}
	return m.shown(t), nil
}

// shown adds what no row holds: the length of a living log, and why a queued task waits.
func (m *Miner) shown(t basilica.TaskRecord) basilica.Task {
	if t.State.Terminal() {
		return t.Task
	}
	if size, err := m.Logs.Size(t.ID); err == nil {
		t.LogBytes = size
	}
	if why, ok := m.waits.of(t.ID); ok && t.State == basilica.TaskQueued {
		t.Reason = &why
	}
	return t.Task
}

// Task implements basilica.Miner.
func (m *Miner) Task(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	return m.owned(ctx, caller, id)
}

// Tasks implements basilica.Miner.
func (m *Miner) Tasks(ctx context.Context, caller basilica.Hotkey, q basilica.TaskQuery) (basilica.TaskPage, error) {
	records, next, err := m.Store.TasksOf(ctx, caller, q)
	if err != nil {
		return basilica.TaskPage{}, fmt.Errorf("list tasks: %w", err)
	}
	page := basilica.TaskPage{Tasks: make([]basilica.Task, 0, len(records)), Next: next}
	for _, t := range records {
		page.Tasks = append(page.Tasks, m.shown(t))
	}
	return page, nil
}

// WatchTask implements basilica.Miner.
func (m *Miner) WatchTask(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID, logOffset int64, f func(basilica.TaskEvent) error) error {
	if logOffset < 0 {
		return basilica.E(basilica.Invalid, "LOG_OFFSET", "a log cannot be read from before its start", "use offset 0")
	}
	var last basilica.TaskEvent
	for {
		changed := m.bell.next(id)
		// What is here before the task is read is of the attempt that it names, or of an earlier one.
		size, err := m.Logs.Size(id)
		if err != nil {
			return err
		}
		t, err := m.owned(ctx, caller, id)
		if err != nil {
			return err
		}
		if t.State.Terminal() {
			size = max(size, t.LogBytes)
		}
		event := basilica.TaskEvent{Task: id, Attempt: t.Attempt, State: t.State, LogStart: t.LogStart, At: m.Now(), Reason: t.Reason}
		if !t.State.Terminal() && (event.State != last.State || event.Attempt != last.Attempt || !sameReason(event.Reason, last.Reason)) {
			if err := f(event); err != nil {
				return err
			}
			last = event
		}
		if logOffset, err = m.log(t, logOffset, size, f); err != nil {
			return err
		}
		if t.State.Terminal() {
			event.At, event.ExitCode, event.Outputs, event.Receipt, event.LogForgotten = *t.Ended, t.ExitCode, t.Outputs, t.Receipt, logOffset < t.LogBytes
			return f(event)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// log sends a task's log from one offset to another, and gives where it stands then.
func (m *Miner) log(t basilica.Task, from, to int64, f func(basilica.TaskEvent) error) (next int64, err error) {
	if from >= to {
		return from, nil
	}
	enough := errors.New("the rest is for later")
	_, err = m.Logs.Read(t.ID, from, func(c basilica.LogChunk) error {
		if c.Offset >= to {
			return enough
		}
		c.Data = c.Data[:min(int64(len(c.Data)), to-c.Offset)]
		from = c.Offset + int64(len(c.Data))
		return f(basilica.TaskEvent{Task: t.ID, Attempt: t.Attempt, State: basilica.TaskRunning, LogStart: t.LogStart, At: m.Now(), Log: &c})
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return from, err
}

func sameReason(a, b *basilica.Reason) bool {
	return a == b || a != nil && b != nil && a.Code == b.Code
}

// Cancel implements basilica.Miner.
func (m *Miner) Cancel(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	t, err := m.Store.WantCancel(ctx, caller, id, cancelled(), m.Now())
	if err != nil {
		return basilica.Task{}, err
	}
	m.Log.InfoContext(ctx, "cancel wanted", "task", id, "state", t.State)
	m.bell.ring(id, "")
	return m.shown(t), nil
}

func cancelled() basilica.Reason {
	return basilica.Reason{Code: "CANCELLED", Sentence: "the client cancelled the task"}
}

// BlobState implements basilica.Miner. A blob that the caller owns is kept from now on as if it had just been sent.
func (m *Miner) BlobState(ctx context.Context, caller basilica.Hotkey, blob basilica.Blob) (basilica.BlobState, error) {
	if err := m.MayCompute(ctx, caller); err != nil {
		return basilica.BlobState{}, err
	}
	m.blobUse.RLock()
	defer m.blobUse.RUnlock()
	size, owns, err := m.Store.OwnsBlob(ctx, caller, blob.SHA256)
	if err != nil {
		return basilica.BlobState{}, err
	}
	if owns && size == blob.Size {
		return basilica.BlobState{Bytes: size, Whole: true}, m.Store.OwnBlob(ctx, caller, blob)
	}
	return basilica.BlobState{Bytes: min(m.Blobs.Parts(caller)[blob.SHA256], blob.Size)}, nil
}

// maxUploads bounds how many unfinished uploads of one client are kept.
const maxUploads = 64

// PutBlob implements basilica.Miner.
func (m *Miner) PutBlob(ctx context.Context, caller basilica.Hotkey, blob basilica.Blob, offset int64, content io.Reader) error {
	if err := m.MayCompute(ctx, caller); err != nil {
		return err
	}
	others, end := m.coming.begin(caller, blob, m.Blobs.Parts(caller))
	defer end()
	if len(others) >= maxUploads {
		return basilica.E(basilica.Exhausted, "UPLOADS_OPEN", fmt.Sprintf("%d uploads of this client have not ended", len(others)), "let them end, or wait until those that broke off are forgotten")
	}
	room := m.cfg.MaxBlobBytes
	for _, bytes := range others {
		room -= bytes
	}
	if err := m.Store.BlobRoom(ctx, caller, blob, room); err != nil {
		return err
	}
	if err := m.Blobs.Fill(caller, blob, offset, content); err != nil {
		return err
	}
	// Whoever sends slowly must not keep old content from being swept, so the lock is not held for the sending.
	m.blobUse.RLock()
	defer m.blobUse.RUnlock()
	if err := m.Blobs.Finish(caller, blob); err != nil {
		return err
	}
	// A caller that is gone by now leaves content behind, and without its record nobody would remove it.
	return m.Store.OwnBlob(context.WithoutCancel(ctx), caller, blob)
}

// coming counts each client's uploads under way, with the bytes that they will have: many at once must not pass its
// quota, which the store measures by what has arrived.
type coming struct {
	mu sync.Mutex
	by map[basilica.Hotkey]map[basilica.Digest]*upload
}

type upload struct {
	bytes int64
	calls int
}

// begin counts an upload until end is called, and gives the bytes of the client's others: under way, or of parts.
func (c *coming) begin(client basilica.Hotkey, blob basilica.Blob, parts map[basilica.Digest]int64) (others map[basilica.Digest]int64, end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sum, u := range c.by[client] {
		parts[sum] = u.bytes
	}
	delete(parts, blob.SHA256)
	if c.by[client] == nil {
		c.by[client] = map[basilica.Digest]*upload{}
	}
	own := c.by[client][blob.SHA256]
	if own == nil {
		own = &upload{}
		c.by[client][blob.SHA256] = own
	}
	own.bytes, own.calls = max(own.bytes, blob.Size), own.calls+1
	return parts, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if own.calls--; own.calls > 0 {
			return
		}
		if delete(c.by[client], blob.SHA256); len(c.by[client]) == 0 {
			delete(c.by, client)
		}
	}
}

// GetBlob implements basilica.Miner.
func (m *Miner) GetBlob(ctx context.Context, caller basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) (err error) {
	size, owns, err := m.Store.OwnsBlob(ctx, caller, sum)
	if err != nil {
		return err
	}
	if !owns {
		return basilica.E(basilica.NotFound, "BLOB_UNKNOWN", fmt.Sprintf("none of your tasks put or produced blob %.12s…", sum), "send it first")
	}
	if offset < 0 || offset > size {
		return basilica.E(basilica.Invalid, "BLOB_OFFSET", fmt.Sprintf("blob %.12s… has %d bytes and cannot be read from byte %d on", sum, size, offset), "fetch it from its start")
	}
	r, _, err := m.Blobs.Open(sum)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := r.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("send blob %s: %w", sum, err)
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("send blob %s: %w", sum, err)
	}
	return nil
}
