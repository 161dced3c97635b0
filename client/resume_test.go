package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

// noise is content that nothing compresses and no two places of which look alike.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // never fails
	return b
}

// TestCutConnectionsLoseNothing runs a task over connections of which each breaks after 400 KiB: input, log and output
// come once and whole, and what is sent twice is bounded.
func TestCutConnectionsLoseNothing(t *testing.T) {
	self := basilica.Hotkey(daveKey(t).SS58())
	log, input, output := noise(1, 1<<20), noise(2, 2<<20), noise(3, 2<<20)
	s := newShop(t, self, log, output)
	const most = 400 << 10
	c, way := open(t, s, s.hotkey, most)
	moved := map[string]int64{}
	c.cfg.Progress = func(tr Transfer) {
		if tr.Done > tr.Total || tr.Done < 0 {
			t.Errorf("%d of %d bytes", tr.Done, tr.Total)
		}
		moved[tr.Name] = tr.Done
	}
	dir := t.TempDir()
	in := filepath.Join(dir, "input")
	if err := os.WriteFile(in, input, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	r, err := c.Run(t.Context(), Request{
		Spec: basilica.TaskSpec{Image: "i"}, Inputs: []Input{{Name: "input", Path: in}}, Results: Results{OutputDir: filepath.Join(dir, "out")},
	}, &stdout, &stderr)
	if err != nil || r.ExitCode() != 0 || r.Receipt == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if !bytes.Equal(stdout.Bytes(), log[:len(log)/2]) || !bytes.Equal(stderr.Bytes(), log[len(log)/2:]) {
		t.Error("the log that came is another than the job's")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out", "d", "result")); err != nil || !bytes.Equal(got, output) {
		t.Errorf("the output is another than the job's: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "out", "d")); err != nil || len(left) != 1 {
		t.Errorf("left beside the output: %v, %v", left, err)
	}
	if moved["input"] != int64(len(input)) || moved["d/result"] != int64(len(output)) {
		t.Errorf("progress said %v", moved)
	}
	cuts := way.cuts.Load()
	wire := int64(len(log)*4/3 + 512<<10) // a log goes as base64 in lines of JSON
	again := way.up.Load() + way.down.Load() - int64(len(input)+len(output)) - wire
	t.Logf("%d connections cut, %d bytes went twice beside what they are wrapped in", cuts, again)
	if cuts < 10 {
		t.Errorf("only %d connections were cut", cuts)
	}
	if again > cuts*(64<<10) {
		t.Errorf("%d bytes went twice over %d cut connections", again, cuts)
	}
}

// TestFetchGoesOnInAnotherProcess: what a process has left of an output is not fetched again, and a beginning that is not
// the content's is thrown away.
func TestFetchGoesOnInAnotherProcess(t *testing.T) {
	self := basilica.Hotkey(daveKey(t).SS58())
	output := noise(4, 2<<20)
	for name, beginning := range map[string][]byte{"right": output[:1<<20], "whole": output, "wrong": noise(5, 1<<20), "too long": append(bytes.Clone(output), 'x')} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, self, []byte("log"), output)
			c, way := open(t, s, s.hotkey, 1<<40)
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			sum := basilica.Digest(sha256.Sum256(output))
			if err := os.WriteFile(filepath.Join(dir, "d", ".basilica-"+sum.String()[:16]+".part"), beginning, 0o600); err != nil {
				t.Fatal(err)
			}
			var none bytes.Buffer
			if _, err := c.Run(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}, Results: Results{OutputDir: dir}}, &none, &none); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "d", "result"))
			if err != nil || !bytes.Equal(got, output) {
				t.Fatalf("the output is another: %v", err)
			}
			most := map[string]int64{"right": 1 << 20, "whole": 0, "wrong": 3 << 20, "too long": 2 << 20}[name] + 256<<10
			if n := way.down.Load(); n > most {
				t.Errorf("%d bytes came, at most %d were missing", n, most)
			}
		})
	}
}

// fetches is a shop at which the fetching of files fails with err, once left of them have come.
type fetches struct {
	*shop
	left, came int
	err        error
}

func (f *fetches) GetBlob(ctx context.Context, caller basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) error {
	if f.left == 0 {
		return f.err
	}
	f.left--
	f.came++
	return f.shop.GetBlob(ctx, caller, sum, offset, w)
}

// client is one of the shop's that has no patience.
func (f *fetches) client(t *testing.T) *Client {
	index, err := OpenIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	neuron := basilica.Neuron{Hotkey: basilica.Hotkey(f.hotkey.SS58()), Axon: basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:1")}}
	at := time.Unix(0, 0)
	return New(Config{
		Chain: graph{Neurons: []basilica.Neuron{neuron}}, Hotkey: f.self, Index: index, Log: slog.New(slog.DiscardHandler),
		Now:  func() time.Time { at = at.Add(reconnectFor + 1); return at },
		Dial: func(basilica.Neuron) (basilica.Miner, error) { return f, nil },
	})
}

// TestFetchGoesOnWithFilesMissing: the step that a broken connection's Fix names takes the files that stand there already.
func TestFetchGoesOnWithFilesMissing(t *testing.T) {
	f := &fetches{shop: newShop(t, "5me", []byte("log"), []byte("first")), left: 2, err: basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "away", "")}
	for i := range 4 {
		f.more = append(f.more, fmt.Appendf(nil, "content %d", i))
	}
	c := f.client(t)
	how := Results{OutputDir: t.TempDir()}
	r, err := c.Run(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}, Results: how}, io.Discard, io.Discard)
	if basilica.CodeOf(err) != "MINER_UNREACHABLE" || !strings.Contains(basilica.FixOf(err), "basilica attach t-1") {
		t.Fatalf("%v, fix %q", err, basilica.FixOf(err))
	}
	f.left, f.came = -1, 0
	if r, err = c.Attach(t.Context(), r.Task.ID, r.Miner, how, io.Discard, io.Discard); err != nil || !r.OutputsSaved || r.ReceiptPath == "" || f.came != 3 {
		t.Fatalf("%+v, %d fetched, %v", r, f.came, err)
	}
	for i, content := range f.more {
		if got, err := os.ReadFile(filepath.Join(how.OutputDir, "e", fmt.Sprint(i))); err != nil || !bytes.Equal(got, content) {
			t.Errorf("output %d: %q, %v", i, got, err)
		}
	}
}

// TestForgottenOutputs: nothing is promised of what the miner has no more, and the receipt is saved.
func TestForgottenOutputs(t *testing.T) {
	for name, tc := range map[string]struct {
		how   Results
		saved bool
	}{
		"in its place": {Results{OutputDir: t.TempDir()}, true},
		"in no place":  {Results{OutputDir: t.TempDir(), ReceiptPath: filepath.Join(t.TempDir(), "absent", "r.json")}, false},
	} {
		f := &fetches{shop: newShop(t, "5me", []byte("log"), []byte("output")), err: basilica.E(basilica.NotFound, "BLOB_UNKNOWN", "none of your tasks put or produced it", "send it first")}
		r, err := f.client(t).Run(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}, Results: tc.how}, io.Discard, io.Discard)
		said := fmt.Sprint(err) + basilica.FixOf(err)
		if basilica.CodeOf(err) != "BLOB_UNKNOWN" || basilica.KindOf(err) != basilica.NotFound || !strings.Contains(said, "for a day") || strings.Contains(said, "attach") || strings.Contains(said, "send it") {
			t.Errorf("%s: %s", name, said)
		}
		if r.OutputsSaved || (r.ReceiptPath != "") != tc.saved || strings.Contains(said, "is saved: "+tc.how.receiptPath()) != tc.saved {
			t.Errorf("%s: %+v, %s", name, r, said)
		}
		if _, _, err := OpenReceipt(tc.how.receiptPath()); (err == nil) != tc.saved {
			t.Errorf("%s: receipt: %v", name, err)
		}
	}
}

// TestForgottenLog: a receipt and outputs are had when the log is kept no more, but a task that has just ended has a log, and a
// log that came in part is none that is forgotten.
func TestForgottenLog(t *testing.T) {
	for name, tc := range map[string]struct {
		age    time.Duration
		forget bool
		code   string
	}{
		"after a week":             {8 * 24 * time.Hour, true, ""},
		"at once":                  {0, true, "RECEIPT_LOG"},
		"as it says, and yet came": {8 * 24 * time.Hour, false, ""},
	} {
		f := &fetches{shop: newShop(t, "5me", []byte("log"), []byte("output")), left: 1}
		f.shop.age, f.shop.forgot = tc.age, true
		c := f.client(t)
		c.cfg.Now = time.Now
		started, err := c.Detach(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}})
		if err != nil {
			t.Fatal(err)
		}
		if tc.forget {
			if err := f.shop.logs.Forget(started.Task.ID); err != nil {
				t.Fatal(err)
			}
			for _, follow := range []bool{true, false} {
				_, err := c.Logs(t.Context(), started.Task.ID, "", 0, follow, io.Discard, io.Discard)
				provoke.Refused(t, err, "LOG_FORGOTTEN")
			}
		}
		dir := t.TempDir()
		r, err := c.Attach(t.Context(), started.Task.ID, "", Results{OutputDir: dir}, io.Discard, io.Discard)
		if basilica.CodeOf(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
		if tc.code == "" && (!r.OutputsSaved || r.ReceiptPath == "" || r.LogForgotten != tc.forget) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestAttachChecksAsRunDoes: the task of an earlier process, from any byte of its log on.
func TestAttachChecksAsRunDoes(t *testing.T) {
	self := basilica.Hotkey(daveKey(t).SS58())
	log, output := noise(6, 100<<10), noise(7, 1000)
	s := newShop(t, self, log, output)
	c, _ := open(t, s, s.hotkey, 1<<40)
	r, err := c.Detach(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i", Env: map[string]string{"A": "<&>"}}})
	if err != nil || r.Task.ID != "t-1" {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, since := range []int64{0, 1, 60 << 10, int64(len(log))} {
		dir := t.TempDir()
		var stdout, stderr bytes.Buffer
		r, err := c.Attach(t.Context(), "t-1", "", Results{OutputDir: dir, ShowFrom: since}, &stdout, &stderr)
		if err != nil || r.Receipt == nil || r.ExitCode() != 0 {
			t.Fatalf("from %d: %+v, %v", since, r, err)
		}
		if got := append(stdout.Bytes(), stderr.Bytes()...); !bytes.Equal(got, log[since:]) {
			t.Errorf("from %d: %d bytes came", since, len(got))
		}
		if got, err := os.ReadFile(filepath.Join(dir, "d", "result")); err != nil || !bytes.Equal(got, output) {
			t.Errorf("from %d: %v", since, err)
		}
	}
	var stdout, stderr bytes.Buffer
	if _, err := c.Logs(t.Context(), "t-1", "", 50<<10, false, &stdout, &stderr); err != nil || stdout.Len() != 0 || !bytes.Equal(stderr.Bytes(), log[50<<10:]) {
		t.Errorf("logs from the middle: %d and %d bytes, %v", stdout.Len(), stderr.Len(), err)
	}
	s.task.Spec.Env["A"] = "other"
	if _, err := c.Attach(t.Context(), "t-1", "", Results{}, &stdout, &stderr); basilica.CodeOf(err) != "TASK_OTHER" {
		t.Errorf("a miner that changes what was asked for: %v", err)
	}
}
