package testnet

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"basilica"
	"basilica/internal/provoke"
	"basilica/node"
)

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestNetworkInOneProcess closes the three flows, registration, verification, compute, inside this process: every role is
// the one that its verb runs.
func TestNetworkInOneProcess(t *testing.T) {
	needEngine(t)
	leaks := goleak.IgnoreCurrent()
	log := &syncBuffer{}
	deps := node.Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now}
	dir := t.TempDir()
	t.Cleanup(func() {
		if t.Failed() {
			lines := strings.Split(log.String(), "\n")
			t.Log(strings.Join(lines[max(0, len(lines)-80):], "\n"))
		}
	})
	network, err := node.NewNetwork(t.Context(), node.UpConfig{
		DataDir: dir, RPC: "127.0.0.1:0", Attestor: program(attestorName), Executable: program(programName), Launcher: InProcess{Log: deps.Log, Now: deps.Now},
		Say: func(sentence string) { t.Log(sentence) },
	}, deps)
	if err != nil {
		t.Fatal(err)
	}
	report, err := runAll(network)
	if closed := network.Close(); closed != nil {
		t.Error(closed)
	}
	if err != nil {
		t.Fatal(err)
	}
	checkReport(t, report)
	if report.Task.Receipt == nil || !report.Task.ReceiptVerified || report.Task.State != basilica.TaskSucceeded {
		t.Errorf("task %+v", report.Task)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := provoke.Leaks(leaks); err != nil {
		t.Error(err)
	}
}

func runAll(network *node.Network) (node.Report, error) {
	if err := network.Start(); err != nil {
		return node.Report{}, err
	}
	report, err := network.CloseLoop()
	if err != nil {
		return report, err
	}
	return report, network.RunJob(&report, "")
}

// checkReport checks what an honest network's report must say.
func checkReport(t *testing.T, r node.Report) {
	t.Helper()
	checks := map[basilica.Check]int{}
	for _, v := range r.Verdicts {
		if v.Verdict == basilica.Pass {
			checks[v.Check]++
		} else {
			t.Errorf("%s of %s: %s %s %s", v.Check, v.Executor, v.Verdict, v.Reason, v.Detail)
		}
		if v.Check == basilica.CheckGPUProof {
			if v.Evidence == nil || v.Evidence.Class != "software" || !v.Evidence.Signed {
				t.Errorf("evidence of %s: %+v", v.Executor, v.Evidence)
			} else if info, err := os.Stat(v.Evidence.Path); err != nil || info.Size() != v.Evidence.Size {
				t.Errorf("evidence file of %s: %v", v.Executor, err)
			}
		}
	}
	for _, c := range []basilica.Check{basilica.CheckGPUProof, basilica.CheckTaskPath, basilica.CheckFacts} {
		if checks[c] != 2 {
			t.Errorf("%d of 2 executors passed %s", checks[c], c)
		}
	}
	var total int
	for _, w := range r.WeightsSubmitted {
		total += int(w.Value)
	}
	if total != 65535 || !r.Closed || r.WeightsExtrinsic == nil {
		t.Errorf("weights %v sum to %d, closed %v", r.WeightsSubmitted, total, r.Closed)
	}
	if r.Incentive[r.MinerUID].Value == 0 {
		t.Errorf("incentive %v", r.Incentive)
	}
}
