package miner_test

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/miner"
)

func TestRefusals(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	provoke.Each(t, map[string]func(*testing.T) error{
		"CHAIN_NOT_READ": func(t *testing.T) error {
			hotkey, err := keys.Generate(keys.Sr25519)
			must(t, err)
			parts := miner.Parts{Hotkey: hotkey, Chain: h.chain, Now: h.clock, Log: slog.New(slog.DiscardHandler)}
			return miner.New(miner.Config{NetUID: netuid}, parts).Health(t.Context())
		},
		"LOG_OFFSET": func(t *testing.T) error { return h.miner.WatchTask(t.Context(), client, "t", -1, nil) },
		"TOKEN_TTL": func(t *testing.T) error {
			_, _, err := h.miner.CreateToken(t.Context(), "", -1)
			return err
		},
	})
}

// TestOutputsLost: a receipt names an output that its executor does not have any more.
func TestOutputsLost(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	h.box.watch = func(_ context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		outputs := []basilica.TaskFile{{Name: "model", Blob: basilica.Blob{SHA256: basilica.Digest{1}, Size: 4}}}
		receipt := h.receipt(req, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.Outputs = outputs })
		return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskSucceeded, Outputs: outputs, Receipt: receipt})
	}
	task := h.submit("lost", basilica.TaskSpec{Image: "i", OutputBytes: 1 << 10})
	_, last := h.end(task.ID)
	if last.State != basilica.TaskLost || last.Reason == nil {
		t.Fatalf("%+v", last)
	}
	provoke.Reason(t, *last.Reason, "OUTPUTS_LOST")
}

// fullBlobs is a blob store that has no room so many times.
type fullBlobs struct {
	miner.Blobs
	left atomic.Int32
}

func (s *fullBlobs) Put(ctx context.Context, blob basilica.Blob, content io.Reader) error {
	if s.left.Add(-1) >= 0 {
		return basilica.E(basilica.Exhausted, "BLOB_SPACE", "the blob store has no room", "try again later")
	}
	return s.Blobs.Put(ctx, blob, content)
}

// TestBlobStoreFullEndsNoJob: outputs for which the miner has no room stay with their executor until it has.
func TestBlobStoreFullEndsNoJob(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.machine = newMachine(h)
	full := &fullBlobs{}
	full.left.Store(10)
	h.wrap = func(p *miner.Parts) { full.Blobs = p.Blobs; p.Blobs = full }
	h.open(nil)
	h.enroll()
	task := h.submit("k", basilica.TaskSpec{Image: "i", OutputBytes: 1 << 10})
	_, last := h.end(task.ID)
	if last.State != basilica.TaskSucceeded || last.Attempt != 1 || len(last.Outputs) != 1 || full.left.Load() >= 0 {
		t.Errorf("last %+v with %+v, %d refusals left", last, last.Reason, full.left.Load())
	}
}

// TestUnwellExecutorGetsNoTask: what an executor says of its own health is what its owner reads.
func TestUnwellExecutorGetsNoTask(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	_, err := h.miner.Heartbeat(t.Context(), "box", basilica.Heartbeat{
		At: h.clock(), Health: basilica.Health{MaxTasks: 4, Reasons: []basilica.Reason{{Code: "DISK_FULL", Sentence: "the disk is full", Fix: "free space"}}},
		GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}},
	})
	must(t, err)
	why := h.member().Why
	if why == nil || why.Fix != "free space" {
		t.Fatalf("%+v", why)
	}
	provoke.Reason(t, *why, "EXECUTOR_UNHEALTHY")
}
