package miner_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"basilica"
	"basilica/miner"
)

func blobOf(content []byte) basilica.Blob {
	return basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
}

var errCut = errors.New("connection cut")

// cut is content whose connection breaks after n bytes.
func cut(content []byte, n int) io.Reader {
	return io.MultiReader(bytes.NewReader(content[:n]), readFunc(func([]byte) (int, error) { return 0, errCut }))
}

// TestUploadGoesOnWhereItBrokeOff: what came is kept for its client alone, and a whole that is another's is dropped.
func TestUploadGoesOnWhereItBrokeOff(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	content := []byte("a file that comes in three pieces")
	blob := blobOf(content)
	state := func(caller basilica.Hotkey, bytes int64, whole bool) {
		t.Helper()
		s, err := h.miner.BlobState(ctx, caller, blob)
		if err != nil || s.Bytes != bytes || s.Whole != whole {
			t.Fatalf("state %+v %v, want %d %v", s, err, bytes, whole)
		}
	}
	state(client, 0, false)
	if err := h.miner.PutBlob(ctx, client, blob, 0, cut(content, 10)); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	state(client, 10, false)
	state("other", 0, false)
	wantCode(t, h.miner.PutBlob(ctx, client, blob, 11, bytes.NewReader(content[11:])), "BLOB_OFFSET")
	wantCode(t, h.miner.PutBlob(ctx, "other", blob, 10, bytes.NewReader(content[10:])), "BLOB_OFFSET")
	h.stop()
	h.open(nil) // what came outlives the process
	state(client, 10, false)
	if err := h.miner.PutBlob(ctx, client, blob, 10, cut(content[10:], 8)); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	state(client, 18, false)
	must(t, h.miner.PutBlob(ctx, client, blob, 18, bytes.NewReader(content[18:])))
	state(client, blob.Size, true)
	state("other", 0, false) // content that is here is not told to those who did not send it
	var rest bytes.Buffer
	must(t, h.miner.GetBlob(ctx, client, blob.SHA256, 20, &rest))
	if rest.String() != string(content[20:]) {
		t.Fatalf("from byte 20 on: %q", rest.String())
	}
	wantCode(t, h.miner.GetBlob(ctx, client, blob.SHA256, blob.Size+1, io.Discard), "BLOB_OFFSET")

	wrong := bytes.ToUpper(content)
	if err := h.miner.PutBlob(ctx, "other", blob, 0, cut(wrong, 10)); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	wantCode(t, h.miner.PutBlob(ctx, "other", blob, 10, bytes.NewReader(content[10:])), "BLOB_MISMATCH")
	state("other", 0, false)
	must(t, h.miner.PutBlob(ctx, "other", blob, 0, bytes.NewReader(content)))
	state("other", blob.Size, true)
}

// TestUploadsThatBrokeOffAreBounded: in number and, with what has arrived, by the client's quota.
func TestUploadsThatBrokeOffAreBounded(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.stop()
	h.open(func(c *miner.Config) { c.MaxBlobBytes = 100 })
	big := bytes.Repeat([]byte("x"), 80)
	if err := h.miner.PutBlob(ctx, client, blobOf(big), 0, cut(big, 60)); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	wantCode(t, h.miner.PutBlob(ctx, client, blobOf(big[:41]), 0, bytes.NewReader(big[:41])), "BLOB_QUOTA")
	must(t, h.miner.PutBlob(ctx, client, blobOf(big[:30]), 0, bytes.NewReader(big[:30])))
	for i := range 64 {
		content := []byte{byte(i), 'a'}
		if err := h.miner.PutBlob(ctx, "many", blobOf(content), 0, cut(content, 1)); !errors.Is(err, errCut) {
			t.Fatal(i, err)
		}
	}
	wantCode(t, h.miner.PutBlob(ctx, "many", blobOf(big[:9]), 0, bytes.NewReader(big[:9])), "UPLOADS_OPEN")
}

// TestImageOfAFileGoesBeforeTheTask: a task may name a tar file as its image if its client sent it here.
func TestImageOfAFileGoesBeforeTheTask(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	image := []byte("docker save")
	blob := blobOf(image)
	spec := basilica.TaskSpec{Image: basilica.ImageBlobPrefix + blob.SHA256.String()}
	raw, err := json.Marshal(spec)
	must(t, err)
	must(t, h.miner.PutBlob(ctx, "other", blob, 0, bytes.NewReader(image)))
	_, err = h.miner.Submit(ctx, basilica.Submission{Caller: client, IdempotencyKey: "k", Spec: raw})
	wantCode(t, err, "BLOB_MISSING")
	if fix := basilica.FixOf(err); !strings.Contains(fix, "basilica image load") {
		t.Errorf("fix %q", fix)
	}
	must(t, h.miner.PutBlob(ctx, client, blob, 0, bytes.NewReader(image)))
	taken := h.accept()
	h.submit("k", spec)
	<-taken
	h.box.mu.Lock()
	defer h.box.mu.Unlock()
	if !bytes.Equal(h.box.blobs[blob.SHA256], image) {
		t.Error("the executor was asked to run an image that it was not sent")
	}
}

// TestPlanSubmitsNothing: a plan names the executor and leaves no task.
func TestPlanSubmitsNothing(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	p, err := h.miner.Plan(ctx, client, []byte(`{"image":"i","command":["x"],"gpus":1,"allow_software":true}`))
	must(t, err)
	if p.Executor != "box" || len(p.Boxes) != 1 || p.Boxes[0].Why != nil || p.Miner != basilica.Hotkey(h.hotkey.SS58()) {
		t.Errorf("plan %+v", p)
	}
	p, err = h.miner.Plan(ctx, client, []byte(`{"image":"i","command":["x"],"gpus":1}`))
	must(t, err)
	if p.Executor != "" || len(p.Boxes) != 1 || p.Boxes[0].Why == nil || p.Boxes[0].Why.Fix == "" {
		t.Errorf("plan %+v", p)
	}
	_, err = h.miner.Plan(ctx, client, []byte(`{"image":""}`))
	wantCode(t, err, "TASK_INVALID")
	page, err := h.miner.Tasks(ctx, client, basilica.TaskQuery{})
	if err != nil || len(page.Tasks) != 0 {
		t.Errorf("a plan left %v %v", page, err)
	}
	h.stop()
	h.open(func(c *miner.Config) { c.Compute = miner.ComputeClosed })
	_, err = h.miner.Plan(ctx, client, []byte(`{"image":"i"}`))
	wantCode(t, err, "COMPUTE_CLOSED")
}
