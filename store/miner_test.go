package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"basilica"
)

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// hands are a machine's clock, which a test can set, and the time that really passes.
type hands struct {
	wall time.Time
	run  time.Duration
}

func (h *hands) now() time.Time { return h.wall }

// pass lets time go by.
func (h *hands) pass(d time.Duration) {
	h.wall = h.wall.Add(d)
	h.run += d
}

// step sets the machine's clock.
func (h *hands) step(d time.Duration) { h.wall = h.wall.Add(d) }

// openAt opens a miner's database by h.
func (h *hands) openAt(t *testing.T, dir string) *Miner {
	t.Helper()
	m, err := OpenMiner(context.Background(), dir, h.now)
	must(t, err)
	from := h.run
	m.clock.passed = func() time.Duration { return h.run - from }
	return m
}

func openMiner(t *testing.T) *Miner {
	t.Helper()
	m, _ := openMinerBy(t)
	return m
}

func openMinerBy(t *testing.T) (*Miner, *hands) {
	t.Helper()
	h := &hands{wall: start}
	m := h.openAt(t, t.TempDir())
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if basilica.CodeOf(err) != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func record(n int, client basilica.Hotkey, spec basilica.TaskSpec) basilica.TaskRecord {
	raw, err := json.Marshal(spec)
	if err != nil {
		panic(err)
	}
	return basilica.TaskRecord{SpecBytes: raw, Task: basilica.Task{
		ID: basilica.TaskID(fmt.Sprintf("t%d", n)), Client: client, IdempotencyKey: fmt.Sprint(n), Spec: spec,
		SpecDigest: sha256.Sum256(raw), Created: start,
	}}
}

func member(id string, key byte) basilica.Member {
	return basilica.Member{
		Executor: basilica.ExecutorID(id), Addr: "h:1", SSHAddr: "h:2", HostKey: []byte{1}, KeySPKI: []byte{key}, Certificate: []byte{2},
		Facts: basilica.Facts{CPUs: 4, MemoryBytes: 1 << 30}, Enrolled: start,
	}
}

func TestTokenSpentOnce(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	hash := basilica.Digest{1}
	must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: hash, Created: start, Expires: start.Add(time.Hour)}))
	var wg sync.WaitGroup
	var mu sync.Mutex
	enrolled := 0
	for i := range 8 {
		wg.Go(func() {
			err := m.Enroll(ctx, hash, member(fmt.Sprintf("e%d", i), byte(i)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				enrolled++
			} else if basilica.CodeOf(err) != "TOKEN_USED" {
				t.Errorf("second use: %v", err)
			}
		})
	}
	wg.Wait()
	members, err := m.Members(ctx)
	must(t, err)
	if enrolled != 1 || len(members) != 1 {
		t.Errorf("%d enrolments, %d executors", enrolled, len(members))
	}
}

func TestEnrollRefusals(t *testing.T) {
	ctx := context.Background()
	m, h := openMinerBy(t)
	for i := range 4 {
		must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{byte(i)}, Created: start, Expires: start.Add(time.Hour)}))
	}
	must(t, m.Enroll(ctx, basilica.Digest{0}, member("a", 1)))
	wantCode(t, m.Enroll(ctx, basilica.Digest{9}, member("b", 2)), "TOKEN_UNKNOWN")
	wantCode(t, m.Enroll(ctx, basilica.Digest{1}, member("a", 2)), "EXECUTOR_NAME_TAKEN")
	wantCode(t, m.Enroll(ctx, basilica.Digest{1}, member("b", 1)), "EXECUTOR_KEY_KNOWN")
	must(t, m.Enroll(ctx, basilica.Digest{1}, member("b", 2))) // a refusal spends nothing
	moved := member("a", 1)
	moved.Addr = "h:9"
	must(t, m.Enroll(ctx, basilica.Digest{2}, moved))
	if e, err := m.Member(ctx, "a"); err != nil || e.Addr != "h:9" {
		t.Errorf("enrolled again: %+v %v", e, err)
	}
	must(t, m.RevokeToken(ctx, basilica.Digest{3}.String()[:12], start))
	_, err := m.Token(ctx, basilica.Digest{3})
	wantCode(t, err, "TOKEN_EXPIRED")
	must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{4}, Created: start, Expires: start.Add(time.Hour)}))
	h.pass(time.Hour)
	wantCode(t, m.Enroll(ctx, basilica.Digest{4}, member("c", 3)), "TOKEN_EXPIRED")
}

func TestAddTask(t *testing.T) {
	ctx := context.Background()
	m, h := openMinerBy(t)
	input := basilica.TaskFile{Name: "in", Blob: basilica.Blob{SHA256: basilica.Digest{7}, Size: 3}}
	spec := basilica.TaskSpec{Image: "i", Inputs: []basilica.TaskFile{input}}
	_, err := m.AddTask(ctx, record(1, "alice", spec), 2, 1000)
	wantCode(t, err, "INPUT_MISSING")
	must(t, m.OwnBlob(ctx, "bob", input.Blob))
	_, err = m.AddTask(ctx, record(1, "alice", spec), 2, 1000)
	wantCode(t, err, "INPUT_MISSING")
	must(t, m.OwnBlob(ctx, "alice", input.Blob))
	first, err := m.AddTask(ctx, record(1, "alice", spec), 2, 1000)
	must(t, err)

	again := record(1, "alice", spec)
	again.ID = "other"
	same, err := m.AddTask(ctx, again, 2, 1000)
	if err != nil || same.ID != first.ID {
		t.Errorf("same key, same spec: %v %v", same.ID, err)
	}
	_, err = m.AddTask(ctx, record(1, "alice", basilica.TaskSpec{Image: "j"}), 2, 1000)
	wantCode(t, err, "IDEMPOTENCY_KEY")
	other := record(1, "bob", basilica.TaskSpec{Image: "j"})
	other.ID = "bobs"
	_, err = m.AddTask(ctx, other, 2, 1000)
	must(t, err)
	_, err = m.AddTask(ctx, record(2, "alice", basilica.TaskSpec{Image: "j"}), 2, 1000)
	must(t, err)
	_, err = m.AddTask(ctx, record(3, "alice", basilica.TaskSpec{Image: "j"}), 2, 1000)
	wantCode(t, err, "TASK_QUOTA")

	h.pass(2 * time.Hour)
	n, err := m.ForgetBlobs(ctx, time.Hour, 10, func(basilica.Digest) error { t.Error("an open task's blob was dropped"); return nil })
	if n != 0 || err != nil {
		t.Errorf("forgot %d: %v", n, err)
	}
}

func TestClaimOnce(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	const tasks = 40
	for i := range tasks {
		_, err := m.AddTask(ctx, record(i, "c", basilica.TaskSpec{Image: "i"}), tasks, 1000)
		must(t, err)
		must(t, m.Place(ctx, basilica.TaskID(fmt.Sprintf("t%d", i)), "e", start))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	claims := map[basilica.TaskID]int{}
	for w := range 8 {
		wg.Go(func() {
			for {
				got, err := m.Claim(ctx, fmt.Sprint(w), time.Minute, 3)
				if err != nil {
					t.Error(err)
				}
				if len(got) == 0 {
					return
				}
				mu.Lock()
				for _, c := range got {
					claims[c.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(claims) != tasks {
		t.Errorf("%d of %d tasks claimed", len(claims), tasks)
	}
	for id, n := range claims {
		if n != 1 {
			t.Errorf("task %s claimed %d times", id, n)
		}
	}
}

func TestFencing(t *testing.T) {
	ctx := context.Background()
	m, h := openMinerBy(t)
	_, err := m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 1000)
	must(t, err)
	must(t, m.Place(ctx, "t1", "e", start))
	wantCode(t, m.Place(ctx, "t1", "f", start), "TASK_NOT_QUEUED")
	claim := func() basilica.TaskRecord {
		t.Helper()
		got, err := m.Claim(ctx, "w", time.Minute, 1)
		must(t, err)
		if len(got) != 1 || got[0].Attempt != 1 || got[0].State != basilica.TaskPlaced {
			t.Fatalf("claimed %+v", got)
		}
		return got[0]
	}
	old := claim()
	h.pass(time.Minute)
	now := claim()
	wantCode(t, m.Offer(ctx, "t1", old.Fence, 0), "TASK_FENCED")
	wantCode(t, m.Accept(ctx, "t1", old.Fence, nil, 0), "TASK_FENCED")
	wantCode(t, m.Refused(ctx, "t1", old.Fence, 0, basilica.Reason{}), "TASK_FENCED")
	wantCode(t, m.Withdraw(ctx, "t1", old.Fence, basilica.Reason{}), "TASK_FENCED")
	wantCode(t, m.Retry(ctx, "t1", old.Fence, 0, basilica.Reason{}, 0, false, false), "TASK_FENCED")
	must(t, m.Accept(ctx, "t1", now.Fence, []string{"g"}, time.Minute))
	wantCode(t, m.Refused(ctx, "t1", now.Fence, 0, basilica.Reason{}), "TASK_ACCEPTED")
	wantCode(t, m.Withdraw(ctx, "t1", now.Fence, basilica.Reason{}), "TASK_ACCEPTED")

	ended, code := start.Add(time.Hour), 3
	now.State, now.Ended, now.ExitCode, now.LogBytes = basilica.TaskFailed, &ended, &code, 9
	now.Outputs = []basilica.TaskFile{{Name: "o", Blob: basilica.Blob{SHA256: basilica.Digest{5}, Size: 2}}}
	must(t, m.End(ctx, now, false))
	wantCode(t, m.End(ctx, now, false), "TASK_FENCED")
	got, err := m.Task(ctx, "t1")
	must(t, err)
	if got.State != basilica.TaskFailed || *got.ExitCode != 3 || !got.Ended.Equal(ended) || len(got.Outputs) != 1 || got.LogBytes != 9 {
		t.Errorf("ended task %+v", got.Task)
	}
	if size, owns, err := m.OwnsBlob(ctx, "c", basilica.Digest{5}); size != 2 || !owns || err != nil {
		t.Errorf("output owned: %d %v %v", size, owns, err)
	}
	left, err := m.Unreleased(ctx, 10)
	must(t, err)
	if len(left) != 1 || left[0].Executor != "e" {
		t.Fatalf("unreleased %+v", left)
	}
	must(t, m.Released(ctx, left[0].TaskAttempt))
	if left, err := m.Unreleased(ctx, 10); len(left) != 0 || err != nil {
		t.Errorf("unreleased %+v %v", left, err)
	}
	h.pass(2 * time.Hour)
	n, err := m.ForgetBlobs(ctx, time.Hour, 10, func(basilica.Digest) error { return nil })
	if n != 1 || err != nil {
		t.Errorf("forgot %d: %v", n, err)
	}
}

func TestBeat(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	_, err := m.Beat(ctx, "e", basilica.LastBeat{At: start}, nil, basilica.Digest{}, 0)
	wantCode(t, err, "EXECUTOR_UNKNOWN")
	must(t, m.AddToken(ctx, basilica.TokenRecord{Created: start, Expires: start.Add(time.Hour)}))
	must(t, m.Enroll(ctx, basilica.Digest{}, member("e", 1)))
	place := func(n int) basilica.TaskRecord {
		t.Helper()
		_, err := m.AddTask(ctx, record(n, "c", basilica.TaskSpec{Image: "i"}), 10, 1000)
		must(t, err)
		must(t, m.Place(ctx, basilica.TaskID(fmt.Sprintf("t%d", n)), "e", start))
		got, err := m.Claim(ctx, "w", time.Minute, 1)
		must(t, err)
		return got[0]
	}
	running, unwanted, refused := place(1), place(2), place(3)
	must(t, m.Accept(ctx, running.ID, running.Fence, nil, time.Second))
	must(t, m.Accept(ctx, unwanted.ID, unwanted.Fence, nil, time.Second))
	_, err = m.WantCancel(ctx, "c", unwanted.ID, basilica.Reason{Code: "CANCELLED"}, start)
	must(t, err)
	must(t, m.Retry(ctx, refused.ID, refused.Fence, 0, basilica.Reason{Code: "X"}, 0, true, true))
	must(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "g", Validator: "v", Executors: []basilica.ExecutorID{"e", "f"}, Issued: start, Expires: start.Add(time.Minute)}, time.Minute, 1))
	wantCode(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "h", Validator: "v", Issued: start}, time.Minute, 1), "GRANT_RATE")
	must(t, m.RevokeGrant(ctx, "g"))
	must(t, m.SetDrain(ctx, "e", true, time.Time{}))

	const lease = 30 * time.Second
	reply, err := m.Beat(ctx, "e", basilica.LastBeat{At: start, Clock: -time.Second, Version: "v1", Health: basilica.Health{OK: true, MaxTasks: 3}},
		[]basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u"}}, basilica.Digest{}, lease)
	must(t, err)
	if len(reply.Renew) != 2 || len(reply.Cancel) != 2 || len(reply.Revoked) != 1 || !reply.Drain {
		t.Errorf("reply %+v", reply)
	}
	got, err := m.Task(ctx, running.ID)
	if err != nil || got.LeaseLeft != lease {
		t.Errorf("lease for %v %v", got.LeaseLeft, err)
	}
	e, err := m.Member(ctx, "e")
	must(t, err)
	if e.LastBeat == nil || e.LastBeat.Clock != -time.Second || e.LastBeat.Health.MaxTasks != 3 || len(e.Facts.GPUs) != 1 || e.Facts.CPUs != 4 {
		t.Errorf("member %+v", e)
	}
	again, err := m.Task(ctx, refused.ID)
	if err != nil || again.State != basilica.TaskQueued || again.Refused["e"] != 1 || again.Reason.Code != "X" {
		t.Errorf("requeued %+v %v", again, err)
	}
	grants, err := m.GrantsOf(ctx, "f", 5)
	if err != nil || len(grants) != 1 || len(grants[0].Executors) != 2 || !grants[0].Revoked {
		t.Errorf("grants %+v %v", grants, err)
	}
}

func TestCancelStates(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	_, err := m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 1000)
	must(t, err)
	_, err = m.WantCancel(ctx, "other", "t1", basilica.Reason{}, start)
	wantCode(t, err, "TASK_UNKNOWN")
	got, err := m.WantCancel(ctx, "c", "t1", basilica.Reason{Code: "CANCELLED"}, start)
	if err != nil || got.State != basilica.TaskCancelled || got.Reason.Code != "CANCELLED" || got.Ended == nil {
		t.Errorf("cancelled %+v %v", got.Task, err)
	}
	again, err := m.WantCancel(ctx, "c", "t1", basilica.Reason{Code: "AGAIN"}, start)
	if err != nil || again.Reason.Code != "CANCELLED" {
		t.Errorf("cancelled again %+v %v", again.Task, err)
	}
	wantCode(t, m.Place(ctx, "t1", "e", start), "TASK_NOT_QUEUED")
}

// TestEndsInTheQueueAfterARetry: the log of a task that ends before its next attempt does not end before it begins.
func TestEndsInTheQueueAfterARetry(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	for n, end := range []func(basilica.TaskID) error{
		func(id basilica.TaskID) error {
			return m.EndQueued(ctx, id, basilica.TaskFailed, basilica.Reason{Code: "X"}, start)
		},
		func(id basilica.TaskID) error {
			_, err := m.WantCancel(ctx, "c", id, basilica.Reason{Code: "CANCELLED"}, start)
			return err
		},
	} {
		task, err := m.AddTask(ctx, record(n+1, "c", basilica.TaskSpec{Image: "i"}), 2, 1000)
		must(t, err)
		must(t, m.Place(ctx, task.ID, "e", start))
		claimed, err := m.Claim(ctx, "w", time.Minute, 1)
		must(t, err)
		must(t, m.Retry(ctx, task.ID, claimed[0].Fence, 0, basilica.Reason{Code: "LOST"}, 5000, true, true))
		must(t, end(task.ID))
		got, err := m.Task(ctx, task.ID)
		if err != nil || !got.State.Terminal() || got.LogStart != 5000 || got.LogBytes != 5000 {
			t.Errorf("%s, log from %d to %d, %v", got.State, got.LogStart, got.LogBytes, err)
		}
	}
}

func TestForgetTasks(t *testing.T) {
	ctx := context.Background()
	m, h := openMinerBy(t)
	must(t, m.AddToken(ctx, basilica.TokenRecord{Created: start, Expires: start.Add(time.Hour)}))
	must(t, m.Enroll(ctx, basilica.Digest{}, member("e", 1)))
	for n := 1; n <= 3; n++ {
		_, err := m.AddTask(ctx, record(n, "c", basilica.TaskSpec{Image: "i"}), 10, 1000)
		must(t, err)
	}
	// t1 ended long ago on an executor, t2 lately, t3 is open.
	must(t, m.Place(ctx, "t1", "e", start))
	got, err := m.Claim(ctx, "w", time.Minute, 1)
	must(t, err)
	ended := start
	got[0].State, got[0].Ended = basilica.TaskFailed, &ended
	must(t, m.End(ctx, got[0], false))
	h.pass(time.Hour)
	_, err = m.WantCancel(ctx, "c", "t2", basilica.Reason{Code: "CANCELLED"}, h.now())
	must(t, err)
	must(t, m.ForgetTasks(ctx, time.Minute, 10))
	if _, err := m.Task(ctx, "t1"); err != nil {
		t.Errorf("a task was forgotten before its log: %v", err)
	}
	var dropped []basilica.TaskID
	must(t, m.ForgetLogs(ctx, time.Minute, 10, func(id basilica.TaskID) error { dropped = append(dropped, id); return nil }))
	if len(dropped) != 1 || dropped[0] != "t1" {
		t.Errorf("logs forgotten: %v", dropped)
	}
	must(t, m.ForgetTasks(ctx, time.Minute, 10))
	left, _, err := m.TasksOf(ctx, "c", basilica.TaskQuery{})
	if err != nil || len(left) != 2 || left[0].ID != "t3" || left[1].ID != "t2" {
		t.Errorf("left %+v, %v", left, err)
	}
}

func TestReplays(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	until := start.Add(time.Minute)
	for i, want := range []bool{true, false} {
		if fresh, err := m.Remember(ctx, "a", "n", until); fresh != want || err != nil {
			t.Errorf("use %d: %v %v", i, fresh, err)
		}
	}
	if fresh, err := m.Remember(ctx, "b", "n", until); !fresh || err != nil {
		t.Errorf("another hotkey: %v %v", fresh, err)
	}
	if fresh, err := m.Remember(ctx, "a", "old", start.Add(-time.Second)); !fresh || err != nil {
		t.Errorf("another nonce: %v %v", fresh, err)
	}
	if fresh, err := m.Remember(ctx, "a", "old", until); !fresh || err != nil {
		t.Errorf("a forgotten nonce: %v %v", fresh, err)
	}
}

func TestReopenFreesClaims(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	now := func() time.Time { return start }
	m, err := OpenMiner(ctx, dir, now)
	must(t, err)
	_, err = m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 1000)
	must(t, err)
	must(t, m.Place(ctx, "t1", "e", start))
	first, err := m.Claim(ctx, "w", time.Hour, 1)
	must(t, err)
	_, err = OpenMiner(ctx, dir, now)
	wantCode(t, err, "DATA_IN_USE")
	must(t, m.Close())
	m, err = OpenMiner(ctx, dir, now)
	must(t, err)
	defer m.Close()
	second, err := m.Claim(ctx, "w", time.Hour, 1)
	must(t, err)
	if len(second) != 1 || second[0].Fence <= first[0].Fence {
		t.Errorf("claims after reopening: %+v", second)
	}
}

// TestGrantsOfOneValidatorAreBounded: whoever has a permit must not fill the miner's disk with what it once opened.
func TestGrantsOfOneValidatorAreBounded(t *testing.T) {
	ctx := context.Background()
	m, h := openMinerBy(t)
	grant := func(id, validator string, at time.Time) basilica.GrantRecord {
		return basilica.GrantRecord{ID: basilica.GrantID(id), Validator: basilica.Hotkey(validator), Executors: []basilica.ExecutorID{"e"}, Issued: at, Expires: at.Add(time.Second)}
	}
	must(t, m.AddGrant(ctx, grant("other", "w", start), time.Second, 1))
	must(t, m.AddGrant(ctx, grant("0", "v", h.now()), time.Second, 1))
	copies(t, m, "0", "", maxGrantsKept)
	h.pass((maxGrantsKept - 1) * time.Minute)
	for i := maxGrantsKept; i < maxGrantsKept+3; i++ {
		h.pass(time.Minute)
		must(t, m.AddGrant(ctx, grant(fmt.Sprint(i), "v", h.now()), time.Second, 1))
	}
	kept, err := m.GrantsOf(ctx, "e", 2*maxGrantsKept)
	must(t, err)
	if len(kept) != maxGrantsKept+2 || kept[0].ID != basilica.GrantID(fmt.Sprint(maxGrantsKept+2)) || kept[len(kept)-1].ID != "other" {
		t.Errorf("%d grants kept, from %s to %s", len(kept), kept[0].ID, kept[len(kept)-1].ID)
	}
}
