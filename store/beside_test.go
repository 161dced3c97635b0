package store

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

// TestBesideARunningExecutor: who looks at a machine needs no lock, sees and enters what its executor does, and leaves the lock
// to it.
func TestBesideARunningExecutor(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	if _, held, err := Holder(dir, "executor"); held || err != nil {
		t.Fatal(held, err)
	}
	if _, err := OpenExecutorBeside(ctx, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatalf("a look made %v, %v", left, err)
	}
	own := openExecutor(t, dir)
	defer own.Close()
	if pid, held, err := Holder(dir, "executor"); pid != os.Getpid() || !held || err != nil {
		t.Fatal(pid, held, err)
	}
	beside, err := OpenExecutorBeside(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	h, err := beside.Hold(ctx, basilica.Holding{Kind: basilica.HolderChallenge, Holder: "doctor", GPUs: []string{"g"}, Expires: now.Add(time.Minute)}, now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = own.Hold(ctx, basilica.Holding{Kind: basilica.HolderTask, Holder: "t", GPUs: []string{"g"}, Expires: now.Add(time.Minute)}, now)
	var held *basilica.Held
	if !errors.As(err, &held) || held.Holding.Holder != "doctor" {
		t.Fatal(err)
	}
	if err := beside.Leave(ctx, h.Fence); err != nil {
		t.Fatal(err)
	}
	if all, err := own.Ledger(ctx, now); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	if err := beside.Close(); err != nil {
		t.Fatal(err)
	}
	if _, held, err := Holder(dir, "executor"); !held || err != nil {
		t.Fatal("the executor's lock went with the one beside it", err)
	}
	if _, err := own.write.ExecContext(ctx, `DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`); err != nil {
		t.Fatal(err)
	}
	_, err = OpenExecutorBeside(ctx, dir)
	provoke.Refused(t, err, "SCHEMA_OTHER")
}
