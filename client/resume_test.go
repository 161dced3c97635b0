package client

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"basilica"
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
