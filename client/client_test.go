package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
	"basilica/keys"
)

func TestPick(t *testing.T) {
	box := func(gpus, free int, kind basilica.GPUKind) basilica.OfferedBox {
		return basilica.OfferedBox{Executor: "x", Ready: true, GPUs: gpus, GPUsFree: free, GPUKind: kind, CPUs: 4, MemoryBytes: 16 << 30, TaskCPUMillis: 4000, TaskMemoryBytes: 8 << 30}
	}
	miner := func(uid basilica.UID, incentive uint16, queue int, boxes ...basilica.OfferedBox) Offered {
		return Offered{Neuron: basilica.Neuron{UID: uid, Incentive: incentive}, Offer: &basilica.Offer{Compute: "open", Queue: queue, Executors: boxes}}
	}
	whole, soft := basilica.GPUWhole, basilica.GPUSoftware
	closed := miner(9, 65535, 0, box(8, 8, whole))
	closed.Offer.Compute = "closed"
	unready := box(8, 8, whole)
	unready.Ready = false
	cases := map[string]struct {
		offers []Offered
		spec   basilica.TaskSpec
		want   basilica.UID
		code   string
	}{
		"free before queue":      {[]Offered{miner(1, 9, 0, box(2, 0, whole)), miner(2, 1, 5, box(2, 2, whole))}, basilica.TaskSpec{GPUs: 1}, 2, ""},
		"short queue":            {[]Offered{miner(1, 9, 3, box(2, 2, whole)), miner(2, 1, 1, box(2, 2, whole))}, basilica.TaskSpec{GPUs: 1}, 2, ""},
		"incentive":              {[]Offered{miner(1, 1, 0, box(2, 2, whole)), miner(2, 9, 0, box(2, 2, whole))}, basilica.TaskSpec{GPUs: 1}, 2, ""},
		"lowest uid":             {[]Offered{miner(4, 1, 0, box(2, 2, whole)), miner(3, 1, 0, box(2, 2, whole))}, basilica.TaskSpec{}, 3, ""},
		"closed is out":          {[]Offered{closed, miner(1, 1, 0, box(1, 1, whole))}, basilica.TaskSpec{GPUs: 1}, 1, ""},
		"nobody":                 {nil, basilica.TaskSpec{}, 0, "NO_MINERS"},
		"nobody answers":         {[]Offered{{Error: "away"}}, basilica.TaskSpec{}, 0, "NO_MINER_READY"},
		"nobody ready":           {[]Offered{miner(1, 1, 0, unready)}, basilica.TaskSpec{}, 0, "NO_MINER_READY"},
		"too many gpus":          {[]Offered{miner(1, 1, 0, box(2, 2, whole))}, basilica.TaskSpec{GPUs: 3}, 0, "TASK_TOO_LARGE"},
		"too much memory":        {[]Offered{miner(1, 1, 0, box(2, 2, whole))}, basilica.TaskSpec{MemoryBytes: 9 << 30}, 0, "TASK_TOO_LARGE"},
		"too many cpus":          {[]Offered{miner(1, 1, 0, box(2, 2, whole))}, basilica.TaskSpec{CPUMillis: 4001}, 0, "TASK_TOO_LARGE"},
		"software refused":       {[]Offered{miner(1, 1, 0, box(2, 2, soft))}, basilica.TaskSpec{GPUs: 1}, 0, "ONLY_SOFTWARE_GPUS"},
		"software allowed":       {[]Offered{miner(1, 1, 0, box(2, 2, soft))}, basilica.TaskSpec{GPUs: 1, AllowSoftware: true}, 1, ""},
		"software without a gpu": {[]Offered{miner(1, 1, 0, box(2, 2, soft))}, basilica.TaskSpec{}, 1, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := pick(tc.offers, &tc.spec)
			if basilica.CodeOf(err) != tc.code || got.UID != tc.want {
				t.Fatalf("picked %d, %v; want %d, %q", got.UID, err, tc.want, tc.code)
			}
		})
	}
}

// A log cut into any pieces is counted whole and written from any byte on; a piece at any other offset is refused.
func TestFollowerWritesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "log")
		var out bytes.Buffer
		f := newFollower(0, &out, io.Discard)
		show := rapid.IntRange(0, len(whole)).Draw(t, "show")
		f.show = int64(show)
		piece := func(from, to int) basilica.TaskEvent {
			return basilica.TaskEvent{Log: &basilica.LogChunk{Offset: int64(from), Stream: basilica.Stdout, Data: whole[from:to]}}
		}
		for at := 0; at < len(whole); {
			to := rapid.IntRange(at, len(whole)).Draw(t, "to")
			if err := f.event(piece(at, to)); err != nil {
				t.Fatal(err)
			}
			if to > 0 && basilica.CodeOf(f.event(piece(rapid.IntRange(0, to-1).Draw(t, "back"), to))) != "LOG_BACK" {
				t.Fatal("a log that goes back went unnoticed")
			}
			at = to
		}
		stdout, stderr := f.sums()
		if !bytes.Equal(out.Bytes(), whole[show:]) || stdout != sha256.Sum256(whole) || stderr != sha256.Sum256(nil) {
			t.Fatalf("wrote %q, want %q", out.Bytes(), whole[show:])
		}
		gap := basilica.TaskEvent{Log: &basilica.LogChunk{Offset: int64(len(whole)) + 1, Stream: basilica.Stdout, Data: []byte("x")}}
		if basilica.CodeOf(f.event(gap)) != "LOG_GAP" {
			t.Fatal("a gap went unnoticed")
		}
	})
}

// signedResult is a result whose receipt is true in everything.
func signedResult(t *testing.T, edit func(*basilica.Receipt)) (r Result, self basilica.Hotkey, spec basilica.TaskSpec, digest basilica.Digest) {
	t.Helper()
	miner, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		t.Fatal(err)
	}
	machine, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	self = "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy"
	spec = basilica.TaskSpec{Image: "img", Inputs: []basilica.TaskFile{{Name: "a", Blob: basilica.Blob{Size: 1}}}}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	digest = sha256.Sum256(text)
	code := 0
	receipt := basilica.Receipt{
		Task: "t1", Attempt: 1, Client: self, Executor: "box", Image: "img", SpecDigest: digest, State: basilica.TaskSucceeded,
		ExitCode: &code, Inputs: spec.Inputs, Outputs: []basilica.TaskFile{{Name: "o", Blob: basilica.Blob{Size: 2}}}, Started: time.Unix(1, 0).UTC(), Ended: time.Unix(2, 0).UTC(),
	}
	edit(&receipt)
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box", KeySPKI: machine.SPKI()}, miner)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := basilica.SignReceipt(receipt, endorsement, machine.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = signed.Countersign(miner); err != nil {
		t.Fatal(err)
	}
	zero := 0
	r = Result{Miner: basilica.Hotkey(miner.SS58()), Task: basilica.Task{
		ID: "t1", State: basilica.TaskSucceeded, ExitCode: &zero, Receipt: &signed, Outputs: []basilica.TaskFile{{Name: "o", Blob: basilica.Blob{Size: 2}}},
	}}
	return r, self, spec, digest
}

func TestCheckReceipt(t *testing.T) {
	cases := map[string]struct {
		receipt func(*basilica.Receipt)
		result  func(*Result)
		code    string
	}{
		"true":            {code: ""},
		"other miner":     {result: func(r *Result) { r.Miner = "5other" }, code: "RECEIPT_MINER"},
		"other client":    {receipt: func(r *basilica.Receipt) { r.Client = "5other" }, code: "RECEIPT_CLIENT"},
		"other task":      {receipt: func(r *basilica.Receipt) { r.Task = "t2" }, code: "RECEIPT_TASK"},
		"other spec":      {receipt: func(r *basilica.Receipt) { r.SpecDigest[0]++ }, code: "RECEIPT_SPEC"},
		"other image":     {receipt: func(r *basilica.Receipt) { r.Image = "evil" }, code: "RECEIPT_SPEC"},
		"other exit code": {receipt: func(r *basilica.Receipt) { r.ExitCode = nil }, code: "RECEIPT_STATE"},
		"other state":     {receipt: func(r *basilica.Receipt) { r.State = basilica.TaskFailed }, code: "RECEIPT_STATE"},
		"other input":     {receipt: func(r *basilica.Receipt) { r.Inputs = nil }, code: "RECEIPT_INPUTS"},
		"other output":    {receipt: func(r *basilica.Receipt) { r.Outputs = []basilica.TaskFile{{Name: "p"}} }, code: "RECEIPT_OUTPUTS"},
		"no receipt":      {result: func(r *Result) { r.Task.Receipt = nil }, code: "RECEIPT_MISSING"},
		"changed payload": {result: func(r *Result) { r.Task.Receipt.Payload = append(r.Task.Receipt.Payload, ' ') }, code: "RECEIPT_EXECUTOR_SIGNATURE"},
		"no miner's half": {result: func(r *Result) { r.Task.Receipt.MinerSig = nil }, code: "RECEIPT_MINER_SIGNATURE"},
		"never began":     {result: func(r *Result) { r.Task.Receipt, r.Task.State = nil, basilica.TaskCancelled }, code: ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.receipt == nil {
				tc.receipt = func(*basilica.Receipt) {}
			}
			r, self, spec, digest := signedResult(t, tc.receipt)
			if tc.result != nil {
				tc.result(&r)
			}
			if _, err := r.checkReceipt(self, spec, digest); basilica.CodeOf(err) != tc.code {
				t.Fatalf("got %v, want %q", err, tc.code)
			}
		})
	}
}

// blobs is the one method of a miner that fetching needs.
type blobs struct {
	basilica.Miner
	content map[basilica.Digest]string
}

func (b blobs) GetBlob(_ context.Context, _ basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) error {
	content := b.content[sum]
	_, err := io.WriteString(w, content[min(offset, int64(len(content))):])
	return err
}

// quiet is a client that logs nothing and speaks to no chain.
func quiet() *Client { return New(Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}) }

func TestSaveOutputs(t *testing.T) {
	sum := basilica.Digest(sha256.Sum256([]byte("hello")))
	good := []basilica.TaskFile{{Name: "d/e/hello", Blob: basilica.Blob{SHA256: sum, Size: 5}}}
	cases := map[string]struct {
		sent  string
		files []basilica.TaskFile
		code  string
	}{
		"whole":   {"hello", good, ""},
		"short":   {"hell", good, "BLOB_MISMATCH"},
		"long":    {"hello!", good, "BLOB_SIZE"},
		"changed": {"hallo", good, "BLOB_MISMATCH"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			door := blobs{content: map[basilica.Digest]string{sum: tc.sent}}
			err := quiet().saveOutputs(t.Context(), door, dir, tc.files, false)
			if basilica.CodeOf(err) != tc.code {
				t.Fatalf("got %v, want %q", err, tc.code)
			}
			left, err := os.ReadDir(filepath.Join(dir, "d", "e"))
			if err != nil || len(left) != map[bool]int{true: 1, false: 0}[tc.code == ""] {
				t.Fatalf("left %v, %v", left, err)
			}
			if tc.code != "" {
				return
			}
			if err := quiet().saveOutputs(t.Context(), blobs{}, dir, tc.files, false); err != nil {
				t.Fatalf("second time: %v", err)
			}
			at := filepath.Join(dir, "d", "e", "hello")
			for what, put := range map[string]func() error{
				"other content": func() error { return os.WriteFile(at, []byte("hallo"), 0o600) },
				"a beginning":   func() error { return os.WriteFile(at, []byte("hell"), 0o600) },
				"a link to the same": func() error {
					return errors.Join(os.WriteFile(at+"2", []byte("hello"), 0o600), os.Symlink("hello2", at))
				},
				"a folder": func() error { return os.Mkdir(at, 0o700) },
			} {
				if err := errors.Join(os.Remove(at), put()); err != nil {
					t.Fatal(err)
				}
				if err := quiet().saveOutputs(t.Context(), door, dir, tc.files, false); basilica.CodeOf(err) != "FILE_EXISTS" {
					t.Errorf("%s stands there: %v", what, err)
				}
			}
			if err := errors.Join(os.Remove(at), os.WriteFile(at, []byte("hallo"), 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := quiet().saveOutputs(t.Context(), door, dir, tc.files, true); err != nil {
				t.Fatalf("overwriting: %v", err)
			}
			if got, err := os.ReadFile(at); err != nil || string(got) != "hello" {
				t.Errorf("after overwriting: %q, %v", got, err)
			}
		})
	}
}

// A link that stands in the output directory leads no output out of it.
func TestSaveOutputsStaysBeneath(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	sum := basilica.Digest(sha256.Sum256([]byte("hello")))
	door := blobs{content: map[basilica.Digest]string{sum: "hello"}}
	err := quiet().saveOutputs(t.Context(), door, dir, []basilica.TaskFile{{Name: "d/hello", Blob: basilica.Blob{SHA256: sum, Size: 5}}}, true)
	if left, _ := os.ReadDir(outside); err == nil || len(left) != 0 {
		t.Fatalf("wrote %v outside, error %v", left, err)
	}
}

func TestIndex(t *testing.T) {
	index, err := OpenIndex(filepath.Join(t.TempDir(), "client"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []basilica.TaskID{"a", "b"} {
		if err := index.Add(Entry{Task: id, Miner: "5m", Image: "i", Created: time.Unix(5, 0).UTC()}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := index.Entries()
	if err != nil || len(entries) != 2 || entries[1].Task != "b" {
		t.Fatalf("entries %v, %v", entries, err)
	}
}

func TestExitCodes(t *testing.T) {
	seven := 7
	for _, c := range []struct {
		state basilica.TaskState
		code  *int
		want  int
	}{
		{basilica.TaskSucceeded, new(int), 0},
		{basilica.TaskFailed, &seven, 7},
		{basilica.TaskFailed, nil, ExitNotBegun},
		{basilica.TaskFailed, new(int), ExitFailure}, // the command ended well, its outputs were refused
		{basilica.TaskLost, &seven, ExitLost},
		{basilica.TaskTimedOut, &seven, ExitTimedOut},
		{basilica.TaskCancelled, nil, ExitCancelled},
	} {
		if got := (Result{Task: basilica.Task{State: c.state, ExitCode: c.code}}).ExitCode(); got != c.want {
			t.Errorf("%s gives %d, want %d", c.state, got, c.want)
		}
	}
	for code, want := range map[string]int{
		"NO_MINERS": ExitNotBegun, "NO_MINER_READY": ExitNotBegun, "TASK_TOO_LARGE": ExitNotBegun, "ONLY_SOFTWARE_GPUS": ExitNotBegun, "BLOB_MISSING": ExitNotBegun,
		"TASK_LEFT": ExitLeft, "MINER_AWAY": ExitLeft, "CANCEL_UNCONFIRMED": ExitLeft, "INTERRUPTED": ExitCancelled, "RECEIPT_SPEC": ExitFailure,
	} {
		if got := ExitCodeOf(fmt.Errorf("run: %w", basilica.E(basilica.Invalid, code, "", ""))); got != want {
			t.Errorf("%s gives %d, want %d", code, got, want)
		}
	}
}

type graph basilica.Metagraph

func (g graph) Metagraph(context.Context, basilica.NetUID) (*basilica.Metagraph, error) {
	m := basilica.Metagraph(g)
	return &m, nil
}

func TestUnknownTaskAndMiner(t *testing.T) {
	index, err := OpenIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Chain: graph{Neurons: []basilica.Neuron{{Hotkey: "5m", Axon: basilica.Axon{Addr: netip.AddrPort{}}}}}, Index: index})
	if _, err := c.Cancel(t.Context(), "nope", ""); basilica.CodeOf(err) != "TASK_UNKNOWN" || !strings.Contains(basilica.FixOf(err), "--miner") {
		t.Fatalf("unknown task: %v", err)
	}
	if _, err := c.Cancel(t.Context(), "nope", "5m"); basilica.CodeOf(err) != "NO_SUCH_MINER" {
		t.Fatalf("miner without an address: %v", err)
	}
	if _, err := c.Run(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}, Inputs: []Input{{Name: "a", Path: "/does/not/exist"}}}, io.Discard, io.Discard); basilica.CodeOf(err) != "INPUT_UNREADABLE" {
		t.Fatalf("absent input: %v", err)
	}
}

// door is a miner whose tasks run until they are cancelled.
type door struct {
	basilica.Miner
	submit    func(context.Context) error // before the task counts as arrived
	cancel    func()                      // in place of cancelling; nil: the task ends
	cancelled chan struct{}
	arrived   int
	away      int // calls of Cancel that do not get through
}

func (d *door) Offer(context.Context) (basilica.Offer, error) {
	box := basilica.OfferedBox{Ready: true, TaskCPUMillis: 1000, TaskMemoryBytes: 1 << 30}
	return basilica.Offer{Miner: "5m", Compute: "open", Executors: []basilica.OfferedBox{box}}, nil
}

func (d *door) Submit(ctx context.Context, sub basilica.Submission) (basilica.Task, error) {
	if err := d.submit(ctx); err != nil {
		return basilica.Task{}, err
	}
	d.arrived++
	return basilica.Task{ID: "t1", State: basilica.TaskQueued, IdempotencyKey: sub.IdempotencyKey, SpecDigest: sha256.Sum256(sub.Spec)}, nil
}

func (d *door) WatchTask(ctx context.Context, _ basilica.Hotkey, id basilica.TaskID, _ int64, f func(basilica.TaskEvent) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.cancelled:
		return f(basilica.TaskEvent{Task: id, State: basilica.TaskCancelled})
	}
}

func (d *door) Cancel(context.Context, basilica.Hotkey, basilica.TaskID) (basilica.Task, error) {
	if d.away--; d.away >= 0 {
		return basilica.Task{}, basilica.E(basilica.Unavailable, "AWAY", "away", "")
	}
	if d.cancel != nil {
		d.cancel()
	} else {
		close(d.cancelled)
	}
	return basilica.Task{ID: "t1"}, nil
}

func (d *door) Task(context.Context, basilica.Hotkey, basilica.TaskID) (basilica.Task, error) {
	return basilica.Task{ID: "t1", State: basilica.TaskCancelled}, nil
}

func (d *door) client(t *testing.T) *Client {
	index, err := OpenIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d.cancelled = make(chan struct{})
	c := New(Config{
		Chain: graph{Neurons: []basilica.Neuron{{Hotkey: "5m", Axon: basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:1")}}}}, Index: index,
		Dial: func(basilica.Neuron) (basilica.Miner, error) { return d, nil }, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	c.cancelAfter = time.Millisecond
	return c
}

// Whenever an interrupt comes, either nothing was submitted or the task is cancelled.
func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	d := &door{away: 1, submit: func(call context.Context) error {
		interrupt()
		return call.Err()
	}}
	r, err := d.client(t).Run(ctx, Request{Spec: basilica.TaskSpec{Image: "i"}}, io.Discard, io.Discard)
	if err != nil || d.arrived != 1 || r.ExitCode() != ExitCancelled {
		t.Fatalf("in the middle of submission: %+v, %v", r, err)
	}
	d = &door{submit: func(context.Context) error { return nil }}
	r, err = d.client(t).Run(ctx, Request{Spec: basilica.TaskSpec{Image: "i"}}, io.Discard, io.Discard)
	if basilica.CodeOf(err) != "INTERRUPTED" || d.arrived != 0 || ExitCodeOf(err) != ExitCancelled {
		t.Fatalf("before submission: %+v, %v", r, err)
	}
}

// A second interrupt leaves: before the cancel is sent the task runs on, after it its end is not awaited.
func TestSecondInterruptLeaves(t *testing.T) {
	for name, soon := range map[string]bool{"runs on": true, "not awaited": false} {
		t.Run(name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			leave, again := context.WithCancel(t.Context())
			sent := false
			d := &door{
				submit: func(context.Context) error {
					interrupt()
					if soon {
						again()
					}
					return nil
				},
				cancel: func() { sent = true; again() },
			}
			c := d.client(t)
			if soon {
				c.cancelAfter = time.Hour
			}
			r, err := c.Run(ctx, Request{Spec: basilica.TaskSpec{Image: "i"}, Results: Results{Leave: leave}}, io.Discard, io.Discard)
			if basilica.CodeOf(err) != "TASK_LEFT" || sent == soon || ExitCodeOf(err) != ExitLeft || r.Task.ID != "t1" || !strings.Contains(basilica.FixOf(err), "basilica attach t1") {
				t.Fatalf("%v, cancel sent: %v, %+v", err, sent, r.Task)
			}
		})
	}
}

// TestPauseHearsWhoInterruptsAtItsEnd: where the pause and its context end together, what comes after it must not happen.
func TestPauseHearsWhoInterruptsAtItsEnd(t *testing.T) {
	ended, interrupt := context.WithCancel(t.Context())
	interrupt()
	for range 100 {
		if pause(ended, 0) == nil {
			t.Fatal("the interrupt was not heard")
		}
	}
	if err := pause(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
}

// stuck is a miner that leaves every call about a task without an answer.
type stuck struct {
	gone
	asked func()
}

func (s stuck) Cancel(ctx context.Context, _ basilica.Hotkey, _ basilica.TaskID) (basilica.Task, error) {
	s.asked()
	<-ctx.Done()
	return basilica.Task{}, ctx.Err()
}

func (stuck) Task(context.Context, basilica.Hotkey, basilica.TaskID) (basilica.Task, error) {
	return basilica.Task{}, basilica.E(basilica.Unavailable, "DEADLINE", "the miner did not answer in time", "")
}

// A cancel without an answer ends as one that was answered and not confirmed, or by the next interrupt.
func TestUnansweredCancel(t *testing.T) {
	for code, wait := range map[string]time.Duration{"CANCEL_UNCONFIRMED": 50 * time.Millisecond, "TASK_LEFT": time.Hour} {
		c := quiet()
		c.cancelAfter, c.cancelWait = time.Millisecond, wait
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		leave, again := context.WithCancel(t.Context())
		defer again()
		d := stuck{asked: func() {
			if wait == time.Hour {
				again()
			}
		}}
		_, err := c.followOrCancel(ctx, leave, d, "t1", newFollower(0, io.Discard, io.Discard))
		if basilica.CodeOf(err) != code || ExitCodeOf(err) != ExitLeft {
			t.Errorf("%v, want %s", err, code)
		}
	}
}

// A job whose miner does not answer has not failed.
func TestAttachToSilentMiner(t *testing.T) {
	c := new(door).client(t)
	c.cfg.Dial = func(basilica.Neuron) (basilica.Miner, error) { return stuck{}, nil }
	_, err := c.Attach(t.Context(), "t1", "5m", Results{}, io.Discard, io.Discard)
	if basilica.CodeOf(err) != "MINER_AWAY" || ExitCodeOf(err) != ExitLeft || !strings.Contains(basilica.FixOf(err), "basilica attach t1 --miner 5m") {
		t.Errorf("%v, fix %q", err, basilica.FixOf(err))
	}
}

// asked is a miner whose first question ends with the caller's context.
type asked struct {
	gone
	interrupt func()
}

func (a asked) Task(ctx context.Context, _ basilica.Hotkey, _ basilica.TaskID) (basilica.Task, error) {
	a.interrupt()
	<-ctx.Done()
	return basilica.Task{}, ctx.Err()
}

// Who leaves before the miner has answered has left the job alone.
func TestInterruptedAttach(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	c := new(door).client(t)
	c.cfg.Dial = func(basilica.Neuron) (basilica.Miner, error) { return asked{interrupt: interrupt}, nil }
	_, err := c.Attach(ctx, "t1", "5m", Results{}, io.Discard, io.Discard)
	if basilica.CodeOf(err) != "INTERRUPTED" || ExitCodeOf(err) != ExitCancelled || strings.Contains(err.Error(), "submitted") {
		t.Errorf("%v", err)
	}
}

// What cannot be saved later is said before the job runs.
func TestNoRoomForResults(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "receipt.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for code, req := range map[string]Results{
		"FILE_EXISTS": {OutputDir: dir},
		"OUTPUT_DIR":  {OutputDir: filepath.Join(dir, "receipt.json", "x")},
	} {
		req := Request{Spec: basilica.TaskSpec{Image: "i"}, Results: req}
		d := &door{submit: func(context.Context) error { return nil }}
		if _, err := d.client(t).Run(t.Context(), req, io.Discard, io.Discard); basilica.CodeOf(err) != code || basilica.FixOf(err) == "" || d.arrived != 0 {
			t.Errorf("%s: %v, %d submitted", code, err, d.arrived)
		}
	}
	r := Result{Miner: "5m", Task: basilica.Task{ID: "t1"}}
	for _, err := range []error{errors.New("disk full"), existing("x", os.ErrExist)} {
		if got := r.stillThere(err); !strings.Contains(basilica.FixOf(got), "basilica attach t1 --miner 5m") {
			t.Errorf("%v: fix %q", err, basilica.FixOf(got))
		}
	}
}

func FuzzParseReceipt(f *testing.F) {
	f.Add([]byte(`{"payload":"e30=","executor_signature":"AA==","endorsement":{"payload":"e30=","signature":"AA=="}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, _, err := parseReceipt(text); err == nil {
			t.Fatal("a receipt without signatures passed")
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("{\"task\":\"a\",\"miner\":\"5\"}\n{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, e := range parseIndex(text, func(e Entry) bool { return e.Task != "" && e.Miner != "" }) {
			if e.Task == "" || e.Miner == "" {
				t.Fatal("an empty entry passed")
			}
		}
	})
}
