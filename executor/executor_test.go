package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"basilica"
)

func TestTaskFromInputToReceipt(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	in := b.put(t, "dir/data.txt", "hello input")
	spec := b.spec(func(s *basilica.TaskSpec) {
		s.Inputs, s.GPUs, s.AllowSoftware, s.Env = []basilica.TaskFile{in}, 1, true, map[string]string{"WORD": "seven"}
	}, "cat /in/dir/data.txt; echo; echo $WORD >&2; /busybox mkdir /out/sub; /busybox sha256sum /in/dir/data.txt > /out/sub/sum")
	h, err := b.execute("t1", spec)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.execute("t1", spec); err != nil || again.Fence != h.Fence {
		t.Errorf("the same attempt again: %+v %v", again, err)
	}
	states, log, last := b.watch(t, "t1", 0)
	if !slices.Equal(states, []basilica.TaskState{basilica.TaskPulling, basilica.TaskRunning, basilica.TaskSucceeded}) {
		t.Errorf("states %v, reason %+v", states, last.Reason)
	}
	// Two pipes have no order between them; each stream alone has one.
	streams := map[basilica.LogStream]string{}
	err = b.Watch(t.Context(), "t1", 1, 0, func(ev basilica.TaskEvent) error {
		if ev.Log != nil {
			streams[ev.Log.Stream] += string(ev.Log.Data)
		}
		return nil
	})
	if err != nil || streams[basilica.Stdout] != "hello input\n" || streams[basilica.Stderr] != "seven\n" {
		t.Errorf("log by stream %q %v", streams, err)
	}
	if len(last.Outputs) != 1 || last.Outputs[0].Name != "sub/sum" || *last.ExitCode != 0 {
		t.Fatalf("end %+v", last)
	}
	var out bytes.Buffer
	if err := b.GetBlob(t.Context(), last.Outputs[0].SHA256, &out); err != nil || !strings.HasPrefix(out.String(), in.SHA256.String()) {
		t.Errorf("output %q %v", out.String(), err)
	}
	signed, err := last.Receipt.Countersign(b.hotkey)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := signed.Open()
	if err != nil || r.Fence != h.Fence || r.State != basilica.TaskSucceeded || r.ImageID != b.image || r.Stderr != sha256.Sum256([]byte("seven\n")) ||
		r.Stdout != sha256.Sum256([]byte("hello input\n")) || r.LogBytes != int64(len(log)) || r.SpecDigest != sha256.Sum256(spec) || !slices.Equal(r.GPUs, h.GPUs) {
		t.Errorf("receipt %+v %v", r, err)
	}
	b.leavesNothing(t)
	if _, rest, _ := b.watch(t, "t1", 6); rest != log[6:] {
		t.Errorf("log from 6: %q", rest)
	}
	if err := b.Release(t.Context(), "t1", 1); err != nil {
		t.Error(err)
	}
	for _, f := range append(last.Outputs, in) {
		if err := b.GetBlob(t.Context(), f.SHA256, io.Discard); basilica.CodeOf(err) != "BLOB_UNKNOWN" {
			t.Errorf("%s of a released attempt: %v", f.Name, err)
		}
	}
	if err := b.Watch(t.Context(), "t1", 1, 0, nil); basilica.CodeOf(err) != "ATTEMPT_UNKNOWN" {
		t.Errorf("a released attempt: %v", err)
	}
}

// An engine that finished making a container after everybody had gone leaves it to nobody; neither does a removal that
// failed. What runs is left alone.
func TestOrphansAreRemoved(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	if _, err := b.execute("runs", b.spec(nil, "/busybox sleep 60")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		a, err := b.cfg.Attempts.Attempt(t.Context(), basilica.TaskAttempt{Task: "runs", Attempt: 1})
		return err == nil && a.State == basilica.TaskRunning
	})
	ghost := basilica.Attempt{Task: "ghost", Number: 1}
	_, err := b.cfg.Engine.Create(t.Context(), basilica.ContainerSpec{
		Name: "basilica-" + b.cfg.Machine + "-ghost", Image: b.image, Labels: b.labels(ghost), CPUMillis: 100, MemoryBytes: 16 << 20, Pids: 8, LogBytes: 4 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.Executor.dir(ghost.Key()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.cfg.Disk.MountOutput(filepath.Join(b.Executor.dir(ghost.Key()), "out"), 4<<10); err != nil {
		t.Fatal(err)
	}
	b.tidy(t.Context())
	own, err := b.cfg.Engine.List(t.Context(), LabelMachine, b.cfg.Machine)
	if err != nil || len(own) != 1 || own[0].Labels[labelTask] != "runs" || !own[0].Running {
		t.Errorf("containers %+v, %v", own, err)
	}
	if left, err := os.ReadDir(b.cfg.Dir); err != nil || len(left) != 1 || left[0].Name() != "runs.1" {
		t.Errorf("directories %v, %v", left, err)
	}
	if err := b.Cancel(t.Context(), "runs", 1); err != nil {
		t.Error(err)
	}
	if _, _, last := b.watch(t, "runs", 0); last.State != basilica.TaskCancelled {
		t.Errorf("the running task: %s %+v", last.State, last.Reason)
	}
	b.leavesNothing(t)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	h, err := b.Health(t.Context())
	if err != nil || h.Limits.MemoryBytes < 1 || h.Limits.CPUMillis < 1 || h.Limits.DefaultMemoryBytes < 1 {
		t.Fatalf("limits %+v, %v", h.Limits, err)
	}
	missing := basilica.TaskFile{Name: "x", Blob: basilica.Blob{Size: 3}}
	for code, change := range map[string]func(*basilica.TaskSpec){
		"MEMORY_LIMIT": func(s *basilica.TaskSpec) { s.MemoryBytes = h.Limits.MemoryBytes + 1 },
		"CPU_LIMIT":    func(s *basilica.TaskSpec) { s.CPUMillis = h.Limits.CPUMillis + 1 },
		"OUTPUT_LIMIT": func(s *basilica.TaskSpec) { s.OutputBytes = 64 << 20 },
		"GPU_LIMIT":    func(s *basilica.TaskSpec) { s.GPUs = 1 },
		"TASK_INVALID": func(s *basilica.TaskSpec) { s.Image = "" },
		"BLOB_UNKNOWN": func(s *basilica.TaskSpec) { s.Inputs = []basilica.TaskFile{missing} },
	} {
		if _, err := b.execute("r", b.spec(change, "true")); basilica.CodeOf(err) != code {
			t.Errorf("%s: %v", code, err)
		}
	}
	for _, id := range []string{"", "../x", "a/b", strings.Repeat("x", 65)} {
		if _, err := b.execute(id, b.spec(nil, "true")); basilica.CodeOf(err) != "TASK_ID" {
			t.Errorf("task id %q: %v", id, err)
		}
	}
	if _, err := b.execute("r", []byte(`{"image":"x","unknown":1}`)); basilica.CodeOf(err) != "TASK_INVALID" {
		t.Errorf("unknown field: %v", err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Drain = true })
	waitFor(t, func() bool { h, err := b.Health(t.Context()); return err == nil && !h.OK })
	if _, err := b.execute("r", b.spec(nil, "true")); basilica.CodeOf(err) != "DRAINING" {
		t.Errorf("draining: %v", err)
	}
}

func TestTaskAndChallengeNeverMeet(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	two := func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 2, true }
	entered, leave := make(chan struct{}), make(chan struct{})
	b.prove = func(ctx context.Context, _ Visit) error {
		// Its time must be over before the ledger gives the GPUs to another.
		over, limited := ctx.Deadline()
		if h, err := b.Health(ctx); err != nil || !limited || len(h.Ledger) != 1 || h.Ledger[0].Expires.Sub(over) < challengeEnds/2 {
			t.Errorf("a challenge ends at %s, and its holding: %+v %v", over, h.Ledger, err)
		}
		close(entered)
		<-leave
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- b.Attest(context.Background(), Visit{Grant: "grant-1"}) }()
	<-entered
	_, err := b.execute("t", b.spec(two, "true"))
	var held *basilica.Held
	if !errors.As(err, &held) || held.Holding.Holder != "grant-1" || held.Holding.Kind != basilica.HolderChallenge {
		t.Errorf("task during a challenge: %v", err)
	}
	if err := b.Attest(t.Context(), Visit{Grant: "grant-2"}); !errors.As(err, &held) {
		t.Errorf("challenge during a challenge: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	h, err := b.execute("t", b.spec(two, "/busybox sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Attest(t.Context(), Visit{Grant: "grant-3"}); !errors.As(err, &held) || held.Holding.Fence != h.Fence || held.Holding.Holder != "t" {
		t.Errorf("challenge during a task: %v", err)
	}
	if _, err := b.execute("u", b.spec(two, "true")); !errors.As(err, &held) {
		t.Errorf("task during a task: %v", err)
	}
	b.miner.says(func(r *basilica.HeartbeatReply) { r.Cancel = []basilica.TaskAttempt{{Task: "t", Attempt: 1}} })
	if _, _, last := b.watch(t, "t", 0); last.State != basilica.TaskCancelled {
		t.Errorf("cancelled task: %s %+v", last.State, last.Reason)
	}
	if err := b.Cancel(t.Context(), "t", 1); err != nil {
		t.Errorf("cancel an ended attempt: %v", err)
	}
	b.prove = func(context.Context, Visit) error { return nil }
	if err := b.Attest(t.Context(), Visit{Grant: "grant-4"}); err != nil {
		t.Errorf("challenge after both: %v", err)
	}
}

func TestManyTasksAtOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	var full int
	for i := range 5 {
		_, err := b.execute(fmt.Sprintf("m%d", i), b.spec(nil, untilLetGo+"echo done"))
		if basilica.CodeOf(err) == "CONTAINERS_FULL" {
			full++
		} else if err != nil {
			t.Error(err)
		}
	}
	if full != 2 {
		t.Errorf("%d tasks over the limit of 3 were refused, want 2", full)
	}
	for i := range 3 {
		b.runsNow(t, fmt.Sprintf("m%d", i))
		b.letGo(t, fmt.Sprintf("m%d", i))
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if _, log, last := b.watch(t, fmt.Sprintf("m%d", i), 0); last.State != basilica.TaskSucceeded || log != "done\n" {
				t.Errorf("m%d: %s %q", i, last.State, log)
			}
		})
	}
	wg.Wait()
}

func TestLogIsCapped(t *testing.T) {
	t.Parallel()
	b := newBox(t, func(c *Config) { c.MaxLogBytes = 1000 })
	if _, err := b.execute("loud", b.spec(nil, "for i in $(/busybox seq 500); do echo 0123456789; done")); err != nil {
		t.Fatal(err)
	}
	if _, log, last := b.watch(t, "loud", 0); last.State != basilica.TaskSucceeded || len(log) != 1000 {
		t.Errorf("%s %+v, %d bytes of log", last.State, last.Reason, len(log))
	}
}

func TestFactsAndBadChecks(t *testing.T) {
	t.Parallel()
	b := newBox(t, nil)
	p := &pipe{Reader: strings.NewReader("")}
	if err := b.Facts(t.Context(), Visit{Channel: p}); err != nil {
		t.Fatal(err)
	}
	var f basilica.Facts
	if err := json.Unmarshal(p.Bytes(), &f); err != nil || f.Engine != "docker" || len(f.GPUs) != 2 {
		t.Errorf("facts %+v %v", f, err)
	}
	for _, req := range []string{"", "{}", `{"nonce":"xy"}`, `{"nonce":"` + strings.Repeat("a", 62) + `"}`, strings.Repeat("x", 5000)} {
		if err := b.Check(t.Context(), Visit{Channel: &pipe{Reader: strings.NewReader(req)}}); basilica.CodeOf(err) != "CHECK_REQUEST" {
			t.Errorf("request %.20q: %v", req, err)
		}
	}
	// The image of this test has no /basilica, so the check runs, ends with the init's word for that, and leaves nothing.
	p = &pipe{Reader: strings.NewReader(`{"nonce":"` + strings.Repeat("ab", 32) + `"}` + "\n")}
	if err := b.Check(t.Context(), Visit{Channel: p}); err != nil {
		t.Fatal(err)
	}
	var reply checkReply
	if err := json.Unmarshal(p.Bytes(), &reply); err != nil || reply.ExitCode != 127 || reply.Output != "" {
		t.Errorf("check %+v %v", reply, err)
	}
	b.leavesNothing(t)
}

func FuzzSpec(f *testing.F) {
	e := &Executor{cfg: Config{MaxMemory: 1 << 30}, maxCPU: 1000}
	f.Add([]byte(`{"image":"x","command":["a"],"gpus":0}`))
	f.Add([]byte(`{"image":"x","memory_bytes":-1}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := e.demandOf(raw)
		if err == nil && (d.memory > 1<<30 || d.cpu > 1000 || d.output > d.memory/4 || d.timeout <= 0 || d.memory < 0) {
			t.Errorf("%q passes with %+v", raw, d)
		}
	})
}

func FuzzCheckRequest(f *testing.F) {
	f.Add([]byte(`{"nonce":"` + strings.Repeat("ab", 32) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if nonce, err := readNonce(bytes.NewReader(b)); err == nil && len(nonce) != 32 {
			t.Errorf("nonce of %d bytes", len(nonce))
		}
	})
}
