package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"basilica"
)

// A busy machine whose miner comes again and again keeps no row of what it refused.
func TestRefusalsLeaveNoRow(t *testing.T) {
	e := openExecutor(t, t.TempDir())
	defer e.Close()
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0).UTC()
	attempt := func(n int) basilica.Attempt {
		return basilica.Attempt{
			Task: basilica.TaskID(fmt.Sprintf("t%d", n)), Number: 1, Client: "c", Spec: []byte("{}"), State: basilica.TaskPlaced, Accepted: now,
			Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: "h", GPUs: []string{"g"}, Expires: now.Add(time.Minute)},
		}
	}
	if _, _, err := e.Accept(ctx, attempt(0), nil, 9, now); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		most, code := 9, "BUSY"
		if n%2 == 0 {
			most, code = 1, "CONTAINERS_FULL"
		}
		if _, _, err := e.Accept(ctx, attempt(n+1), []basilica.Digest{{byte(n)}}, most, now); basilica.CodeOf(err) != code {
			t.Fatal(err)
		}
	}
	for table, want := range map[string]int{"attempts": 1, "attempt_blobs": 0, "blobs": 0, "holdings": 1} {
		var n int
		if err := e.read.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil || n != want {
			t.Errorf("%d rows of %s, want %d, %v", n, table, want, err)
		}
	}
}

// What a process must know of an earlier one, over a restart.
func TestExecutorRemembers(t *testing.T) {
	dir := t.TempDir()
	e := openExecutor(t, dir)
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0).UTC()
	again := func() {
		t.Helper()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = openExecutor(t, dir)
	}
	defer func() { e.Close() }()

	// The time line of one boot is the first one's to set; another boot begins another.
	begin, up, err := e.TimeLine(ctx, "b1", now, time.Hour)
	if err != nil || !begin.Equal(now) || up != time.Hour {
		t.Fatal(begin, up, err)
	}
	again()
	if begin, up, err = e.TimeLine(ctx, "b1", now.Add(-900*time.Second), 2*time.Hour); err != nil || !begin.Equal(now) || up != time.Hour {
		t.Error(begin, up, err)
	}
	if begin, up, err = e.TimeLine(ctx, "b2", now.Add(time.Hour), time.Minute); err != nil || !begin.Equal(now.Add(time.Hour)) || up != time.Minute {
		t.Error(begin, up, err)
	}

	a := basilica.Attempt{
		Task: "t", Number: 2, Client: "c", Spec: []byte("{}"), State: basilica.TaskPlaced, Accepted: now,
		Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: "t", GPUs: []string{"g"}, Expires: now.Add(time.Minute)},
	}
	if a.Holding, _, err = e.Accept(ctx, a, nil, 9, now); err != nil {
		t.Fatal(err)
	}
	a.State, a.Container, a.Boot, a.Engine, a.Deadline, a.Stopping = basilica.TaskPulling, "c1", "b1", "7.9", now.Add(time.Hour), "cancelled"
	if err := e.SaveAttempt(ctx, a); err != nil {
		t.Fatal(err)
	}
	again()
	got, err := e.Attempt(ctx, a.Key())
	if err != nil || got.Boot != "b1" || got.Engine != "7.9" || !got.Deadline.Equal(a.Deadline) || got.Container != "c1" || got.Stopping != "cancelled" {
		t.Errorf("%+v %v", got, err)
	}
	a.State, a.Ended = basilica.TaskLost, now
	if err := e.SaveAttempt(ctx, a); err != nil {
		t.Fatal(err)
	}
	if ended, err := e.EndedHolding(ctx); err != nil || len(ended) != 1 || ended[0].Key() != a.Key() {
		t.Errorf("ended and holding: %+v %v", ended, err)
	}
	r := basilica.Remains{TaskAttempt: a.Key(), Fence: a.Holding.Fence, Container: "c1", Boot: "b1"}
	if err := e.Quarantine(ctx, r); err != nil {
		t.Fatal(err)
	}
	if err := e.Quarantine(ctx, basilica.Remains{Fence: 99}); basilica.CodeOf(err) != "FENCE_STALE" {
		t.Error(err)
	}
	again()
	if q, err := e.Quarantined(ctx); err != nil || !slices.Equal(q, []basilica.Remains{r}) {
		t.Errorf("quarantine %+v %v", q, err)
	}
	if ended, err := e.EndedHolding(ctx); err != nil || len(ended) != 0 {
		t.Errorf("ended and holding: %+v %v", ended, err)
	}
	if l, err := e.Ledger(ctx, now.Add(time.Hour)); err != nil || len(l) != 1 || l[0].Kind != basilica.HolderQuarantine {
		t.Errorf("ledger beyond the expiry: %+v %v", l, err)
	}

	if err := e.RevokeGrants(ctx, []basilica.GrantID{"g1", "g2"}, now); err != nil {
		t.Fatal(err)
	}
	again()
	if err := e.RevokeGrants(ctx, []basilica.GrantID{"g2", "g3"}, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := e.ForgetRevoked(ctx, now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if all, err := e.RevokedGrants(ctx); err != nil || len(all) != 1 || !all["g3"].Equal(now.Add(time.Minute)) {
		t.Errorf("revoked %v %v", all, err)
	}

	for _, id := range []string{"sha256:1", "sha256:2"} {
		if err := e.KeepImage(ctx, "s", id); err != nil {
			t.Fatal(err)
		}
		again()
		if all, err := e.LoadedImages(ctx); err != nil || len(all) != 1 || all["s"] != id {
			t.Errorf("images %v %v", all, err)
		}
	}
	if err := e.ForgetImage(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if all, err := e.LoadedImages(ctx); err != nil || len(all) != 0 {
		t.Errorf("images %v %v", all, err)
	}
}

func TestStoredBlobsWithoutARecord(t *testing.T) {
	dir := t.TempDir()
	e := openExecutor(t, dir)
	defer e.Close()
	b, err := OpenBlobs(filepath.Join(dir, "blobs"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	known, stray := basilica.Digest{1}, basilica.Digest{2}
	for _, sum := range []basilica.Digest{known, stray} {
		if err := os.MkdirAll(filepath.Dir(b.Path(sum)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.Path(sum), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.SawBlob(t.Context(), known, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	stored, err := b.Stored()
	if err != nil || len(stored) != 2 {
		t.Fatal(stored, err)
	}
	if got, err := e.UnknownBlobs(t.Context(), stored); err != nil || !slices.Equal(got, []basilica.Digest{stray}) {
		t.Errorf("%v %v", got, err)
	}
}
