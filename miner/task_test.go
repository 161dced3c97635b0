package miner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/miner"
)

func TestTaskEndToEnd(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	input, output := []byte("input"), []byte("output")
	in := basilica.TaskFile{Name: "a", Blob: basilica.Blob{SHA256: sha256.Sum256(input), Size: int64(len(input))}}
	out := basilica.TaskFile{Name: "b", Blob: basilica.Blob{SHA256: sha256.Sum256(output), Size: int64(len(output))}}
	must(t, h.miner.PutBlob(ctx, client, in.Blob, 0, bytes.NewReader(input)))
	taken := h.accept()
	h.box.watch = func(_ context.Context, _ basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		if got := h.box.blobs[in.SHA256]; !bytes.Equal(got, input) {
			t.Errorf("input %q", got)
		}
		h.box.mu.Lock()
		h.box.blobs[out.SHA256] = output
		h.box.mu.Unlock()
		event := func(state basilica.TaskState, log string, at int64) error {
			e := basilica.TaskEvent{Task: req.Task, Attempt: attempt, State: state, At: h.clock()}
			if log != "" {
				e.Log = &basilica.LogChunk{Offset: at, Stream: basilica.Stdout, Data: []byte(log)}
			}
			if state.Terminal() {
				e.Receipt = h.receipt(req, state, func(r *basilica.Receipt) { r.Outputs = []basilica.TaskFile{out} })
			}
			return f(e)
		}
		return errors.Join(event(basilica.TaskPulling, "", 0), event(basilica.TaskRunning, "hello ", 0), event(basilica.TaskRunning, "world", 6), event(basilica.TaskSucceeded, "", 0))
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i", Inputs: []basilica.TaskFile{in}})
	log, last := h.end(task.ID)
	if log != "hello world" || last.State != basilica.TaskSucceeded || last.ExitCode == nil || *last.ExitCode != 0 {
		t.Fatalf("log %q, last %+v", log, last)
	}
	r, e, err := last.Receipt.Open()
	must(t, err)
	if r.Task != task.ID || e.Miner != basilica.Hotkey(h.hotkey.SS58()) {
		t.Errorf("receipt %+v", r)
	}
	var got bytes.Buffer
	must(t, h.miner.GetBlob(ctx, client, out.SHA256, 0, &got))
	if got.String() != "output" {
		t.Errorf("output %q", got.String())
	}
	wantCode(t, h.miner.GetBlob(ctx, "other", out.SHA256, 0, io.Discard), "BLOB_UNKNOWN")
	_, err = h.miner.Task(ctx, "other", task.ID)
	wantCode(t, err, "TASK_UNKNOWN")
	if again := h.submit("k", basilica.TaskSpec{Image: "i", Inputs: []basilica.TaskFile{in}}); again.ID != task.ID {
		t.Error("the same key gave another task")
	}
	page, err := h.miner.Tasks(ctx, client, basilica.TaskQuery{})
	if err != nil || len(page.Tasks) != 1 || page.Tasks[0].LogBytes != 11 || page.Next != "" {
		t.Errorf("tasks %+v %v", page, err)
	}
	cancelled, err := h.miner.Cancel(ctx, client, task.ID)
	if err != nil || cancelled.State != basilica.TaskSucceeded {
		t.Errorf("cancel of an ended task: %+v %v", cancelled, err)
	}
}

func TestSubmitRefusals(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	for name, c := range map[string]struct{ spec, key, code string }{
		"not JSON":       {`{`, "k", "SPEC_JSON"},
		"unknown field":  {`{"image":"i","gpuz":1}`, "k", "SPEC_JSON"},
		"trailing bytes": {`{"image":"i"} {}`, "k", "SPEC_JSON"},
		"invalid":        {`{"image":""}`, "k", "TASK_INVALID"},
		"too large":      {`{"image":"` + string(bytes.Repeat([]byte("x"), basilica.MaxSpecBytes)) + `"}`, "k", "SPEC_SIZE"},
		"no key":         {`{"image":"i"}`, "", "IDEMPOTENCY_KEY_FORM"},
	} {
		if _, err := h.miner.Submit(ctx, basilica.Submission{Caller: client, IdempotencyKey: c.key, Spec: []byte(c.spec)}); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	h.stop()
	h.open(func(c *miner.Config) { c.Compute, c.AllowList = miner.ComputeAllowList, []basilica.Hotkey{client} })
	wantCode(t, h.miner.MayCompute(ctx, "other"), "COMPUTE_NOT_ALLOWED")
	must(t, h.miner.MayCompute(ctx, client))
	h.stop()
	h.open(func(c *miner.Config) { c.Compute = miner.ComputeClosed })
	wantCode(t, h.miner.MayCompute(ctx, client), "COMPUTE_CLOSED")
}

func TestTaskThatFitsNowhere(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	task := h.submit("k", basilica.TaskSpec{Image: "i", GPUs: 1})
	if _, last := h.end(task.ID); last.State != basilica.TaskFailed || last.Reason.Code != "NO_EXECUTOR_FITS" || last.Reason.Fix == "" {
		t.Errorf("last %+v, reason %+v", last, last.Reason)
	}
}

func TestCancel(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	wanted := make(chan struct{})
	var once sync.Once
	h.box.cancel = func(basilica.TaskID, int) error { once.Do(func() { close(wanted) }); return nil }
	taken := h.accept()
	h.box.watch = func(ctx context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		if err := f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskRunning, At: h.clock()}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wanted:
		}
		return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskCancelled, Receipt: h.receipt(req, basilica.TaskCancelled, nil)})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	h.until(task.ID, basilica.TaskRunning)
	_, err := h.miner.Cancel(ctx, client, task.ID)
	must(t, err)
	if _, last := h.end(task.ID); last.State != basilica.TaskCancelled || last.Receipt == nil {
		t.Errorf("last %+v", last)
	}

	must(t, h.miner.Drain(ctx, "box", true, 0))
	queued := h.submit("q", basilica.TaskSpec{Image: "i"})
	got, err := h.miner.Cancel(ctx, client, queued.ID)
	if err != nil || got.State != basilica.TaskCancelled {
		t.Errorf("cancel of a queued task: %+v %v", got, err)
	}
}

// TestUploadsAtOnceKeepToTheQuota: what is on its way counts before it has arrived.
func TestUploadsAtOnceKeepToTheQuota(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.open(func(c *miner.Config) { c.MaxBlobBytes = 10 })
	ctx := context.Background()
	first, second := []byte("sixsix"), []byte("sevens!")
	blob := func(b []byte) basilica.Blob {
		return basilica.Blob{SHA256: sha256.Sum256(b), Size: int64(len(b))}
	}
	left := bytes.NewReader(first)
	must(t, h.miner.PutBlob(ctx, client, blob(first), 0, readFunc(func(p []byte) (int, error) {
		if left.Len() == len(first) {
			wantCode(t, h.miner.PutBlob(ctx, client, blob(second), 0, bytes.NewReader(second)), "BLOB_QUOTA")
		}
		return left.Read(p)
	})))
	wantCode(t, h.miner.PutBlob(ctx, client, blob(second), 0, bytes.NewReader(second)), "BLOB_QUOTA")
	must(t, h.miner.PutBlob(ctx, "another", blob(second), 0, bytes.NewReader(second)))
	must(t, h.miner.PutBlob(ctx, client, blob([]byte("four")), 0, bytes.NewReader([]byte("four"))))
}

// TestSlowUploadLetsOldContentGo: a client that sends slowly keeps nobody's old content alive, and has its own in the end.
func TestSlowUploadLetsOldContentGo(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	content := []byte("content")
	blob := basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	must(t, h.miner.PutBlob(ctx, "another", blob, 0, bytes.NewReader(content)))
	path := filepath.Join(h.dir, "blobs", blob.SHA256.String()[:2], blob.SHA256.String())
	left := bytes.NewReader(content)
	must(t, h.miner.PutBlob(ctx, client, blob, 0, readFunc(func(p []byte) (int, error) {
		if left.Len() == len(content) {
			h.pass(48 * time.Hour)
			tick, late := time.NewTicker(time.Millisecond), time.After(10*time.Second)
			defer tick.Stop()
			for {
				if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
					break
				}
				select {
				case <-late:
					return 0, errors.New("the old content stays")
				case <-tick.C:
				}
			}
		}
		return left.Read(p)
	})))
	var got bytes.Buffer
	must(t, h.miner.GetBlob(ctx, client, blob.SHA256, 0, &got))
	if !bytes.Equal(got.Bytes(), content) {
		t.Errorf("got %q", got.Bytes())
	}
}
