package miner_test

import (
	"context"
	"crypto/sha256"
	"testing"

	"basilica"
)

// TestAMinerAnswersForItsTenants: of a task that ran on the executor a validator gets its times, its GPUs and the digest of its
// receipt under the miner's signature, and nothing of its client; of any other there is no answer.
func TestAMinerAnswersForItsTenants(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.head()
	h.enroll()
	h.beat()
	taken := h.accept()
	h.box.watch = func(_ context.Context, _ basilica.TaskID, attempt int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		return f(basilica.TaskEvent{
			Task: req.Task, Attempt: attempt, State: basilica.TaskSucceeded, At: h.clock(),
			Receipt: h.receipt(req, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.GPUs = []string{"gpu-1"} }),
		})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	_, last := h.end(task.ID)
	ask := func(holders ...basilica.HolderID) basilica.ValidationGrant {
		grant, err := h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: sshPublicKey(t), Holders: holders})
		must(t, err)
		return grant
	}
	grant := ask(basilica.HolderID{Executor: "box", Task: task.ID}, basilica.HolderID{Executor: "box", Task: "invented"}, basilica.HolderID{Executor: "other", Task: task.ID})
	if len(grant.Occupied) != 1 {
		t.Fatalf("%d answers", len(grant.Occupied))
	}
	o, err := grant.Occupied[0].Open(basilica.Hotkey(h.hotkey.SS58()))
	must(t, err)
	r, _, err := last.Receipt.Open()
	must(t, err)
	if o.Task != task.ID || o.Executor != "box" || o.State != basilica.TaskSucceeded || len(o.GPUs) != 1 || !o.Ended.Equal(r.Ended) || o.Receipt == nil || *o.Receipt != basilica.Digest(sha256.Sum256(last.Receipt.Payload)) {
		t.Errorf("%+v", o)
	}
	if _, err := grant.Occupied[0].Open("another miner"); basilica.CodeOf(err) != "OCCUPANCY" {
		t.Errorf("under another miner's name: %v", err)
	}
	forged := grant.Occupied[0]
	forged.Payload = append([]byte(nil), forged.Payload...)
	forged.Payload[len(forged.Payload)-3] ^= 1
	if _, err := forged.Open(basilica.Hotkey(h.hotkey.SS58())); err == nil {
		t.Error("a changed byte was taken")
	}
	_, err = h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: sshPublicKey(t), Holders: make([]basilica.HolderID, 257)})
	wantCode(t, err, "GRANT_SIZE")
}
