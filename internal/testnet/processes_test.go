package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"basilica/scale"
)

// What follows sees the network from outside: processes, JSON, files and the chain's own RPC. It shares no code with the
// program but the SCALE codec.

// upReport is what the test reads of `basilica up --json`.
type upReport struct {
	Block        uint64 `json:"block"`
	NetUID       uint16 `json:"netuid"`
	ValidatorUID uint16 `json:"validator_uid"`
	MinerUID     uint16 `json:"miner_uid"`
	Verdicts     []struct {
		Executor string `json:"executor"`
		Check    string `json:"check"`
		Verdict  string `json:"verdict"`
		Reason   string `json:"reason"`
		Evidence *struct {
			SHA256 string `json:"sha256"`
			Path   string `json:"path"`
			Class  string `json:"class"`
		} `json:"evidence"`
	} `json:"verdicts"`
	Weights []struct {
		UID    uint16 `json:"uid"`
		Weight uint16 `json:"weight"`
	} `json:"weights"`
	WeightsSubmitted []struct {
		UID    uint16 `json:"uid"`
		Weight uint16 `json:"weight"`
	} `json:"weights_submitted"`
	WeightsExtrinsic *struct {
		Block uint64 `json:"block"`
		Hash  string `json:"hash"`
	} `json:"weights_extrinsic"`
	Incentive []struct {
		UID   uint16 `json:"uid"`
		Value uint64 `json:"value"`
	} `json:"incentive"`
	Processes []struct {
		Role string `json:"role"`
		Name string `json:"name"`
		PID  int    `json:"pid"`
	} `json:"processes"`
	Addresses map[string]string `json:"addresses"`
	Task      *struct {
		ID           string `json:"id"`
		State        string `json:"state"`
		ExitCode     *int   `json:"exit_code"`
		StdoutSHA256 string `json:"stdout_sha256"`
		Outputs      []struct {
			Name    string `json:"name"`
			SHA256  string `json:"sha256"`
			Content string `json:"content"`
		} `json:"outputs"`
		Receipt         json.RawMessage `json:"receipt"`
		ReceiptVerified bool            `json:"receipt_verified"`
	} `json:"task"`
	Seconds float64 `json:"seconds"`
	Error   *struct {
		Code string `json:"code"`
	} `json:"error"`
}

const upLimit = 4 * time.Minute

// basilicaCommand prepares the program with nothing of this process's own settings.
func basilicaCommand(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program(programName), args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// runUp runs `basilica up` to its end and reads the one object that it prints.
func runUp(t *testing.T, env []string, args ...string) (upReport, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	cmd := basilicaCommand(ctx, env, append([]string{"up", "--json", "--rpc", "127.0.0.1:0"}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	var r upReport
	dec := json.NewDecoder(&out)
	if err := dec.Decode(&r); err != nil {
		t.Fatalf("no report: %v\n%s", err, said.String())
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("more than one object on standard output: %v", err)
	}
	if said.Len() > 0 {
		t.Logf("said: %s", said.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

func mustEnd(t *testing.T, dir string, r upReport) {
	t.Helper()
	for _, p := range r.Processes {
		if syscall.Kill(p.PID, 0) == nil {
			t.Errorf("%s, pid %d, is still there", p.Role, p.PID)
		}
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUpOnce runs the demo with an input of the test's own, twice on the same data directory, and checks digest, receipt
// and evidence from outside.
func TestUpOnce(t *testing.T) {
	needEngine(t)
	dir := t.TempDir()
	input := make([]byte, 300_001)
	_, _ = rand.Read(input)
	inputPath := filepath.Join(t.TempDir(), "some input.bin")
	if err := os.WriteFile(inputPath, input, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(input)
	want := hex.EncodeToString(sum[:])
	line := sha256.Sum256([]byte(want + "\n"))
	for _, run := range []string{"first", "second"} {
		t.Run(run, func(t *testing.T) {
			r, code := runUp(t, nil, "--once", "--data", dir, "--input", inputPath)
			if code != 0 || r.Error != nil || r.Task == nil {
				t.Fatalf("exit code %d, error %+v, task %+v", code, r.Error, r.Task)
			}
			if r.Task.State != "succeeded" || r.Task.ExitCode == nil || *r.Task.ExitCode != 0 || !r.Task.ReceiptVerified || len(r.Task.Outputs) != 1 {
				t.Fatalf("task %+v", r.Task)
			}
			if o := r.Task.Outputs[0]; o.Name != "input.sha256" || o.Content != want || o.SHA256 != hex.EncodeToString(line[:]) {
				t.Errorf("output %+v, the input's digest is %s", o, want)
			}
			if t.Logf("took %.1f s", r.Seconds); r.Seconds > 60 {
				t.Error("that is too long")
			}
			verifyReceipt(t, r.Task.Receipt)
			proofs := 0
			for _, v := range r.Verdicts {
				if v.Check == "gpu_proof" && v.Verdict == "pass" {
					proofs++
					verifyFrames(t, v.Evidence.Path, "pass", "software")
				}
			}
			if proofs != 2 {
				t.Errorf("%d of 2 proofs passed: %+v", proofs, r.Verdicts)
			}
			mustEnd(t, dir, r)
		})
	}
}

// verifyReceipt has the program check a receipt, and refuse it with one byte of its payload changed.
func verifyReceipt(t *testing.T, receipt json.RawMessage) {
	t.Helper()
	var signed map[string]any
	if err := json.Unmarshal(receipt, &signed); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "receipt.json")
	if err := os.WriteFile(path, receipt, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := basilicaCommand(t.Context(), nil, "receipt", "verify", path).CombinedOutput(); err != nil {
		t.Errorf("receipt verify: %v: %s", err, said)
	}
	payload := []byte(signed["payload"].(string))
	payload[8] ^= 1 // stays base64, decodes to other bytes
	signed["payload"] = string(payload)
	changed, err := json.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := basilicaCommand(t.Context(), nil, "receipt", "verify", path).CombinedOutput()
	if err == nil || !strings.Contains(string(said), "Fix:") {
		t.Errorf("a changed receipt: %v: %s", err, said)
	}
}

// verifyFrames has the program judge stored frames again, and refuse them with one byte changed.
func verifyFrames(t *testing.T, path, verdict, class string) {
	t.Helper()
	out, err := basilicaCommand(t.Context(), nil, "verify", "--json", path).Output()
	if err != nil {
		t.Fatalf("verify %s: %v", path, err)
	}
	var judged struct {
		Verdict   string `json:"verdict"`
		Judgement struct {
			Class string `json:"class"`
		} `json:"judgement"`
	}
	if err := json.Unmarshal(out, &judged); err != nil || judged.Verdict != verdict || judged.Judgement.Class != class {
		t.Errorf("verify says %s, %v; want %s of class %s", out, err, verdict, class)
	}
	frames, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frames[len(frames)/3] ^= 1
	changed := filepath.Join(t.TempDir(), "changed.gpow1")
	if err := os.WriteFile(changed, frames, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := basilicaCommand(t.Context(), nil, "verify", changed).CombinedOutput()
	if err == nil || !strings.Contains(string(said), "RECORD_REFUSED") {
		t.Errorf("a changed byte: %v: %s", err, said)
	}
}

// TestUpFromOutside compares what `basilica up` says with what the chain itself says while it runs, asks every role's
// health, floods every door, and ends it as a person would.
func TestUpFromOutside(t *testing.T) {
	needEngine(t)
	dir := t.TempDir()
	limit := upLimit
	if os.Getenv("BASILICA_FLOOD") != "" {
		limit += 12 * time.Minute // eight doors, three tries of half a minute each
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := basilicaCommand(ctx, nil, "up", "--json", "--rpc", "127.0.0.1:0", "--data", dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var r upReport
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&r); err != nil {
		_ = cmd.Wait()
		t.Fatalf("no report: %v\n%s", err, said.String())
	}
	compareWithChain(t, r)
	for _, door := range []string{"localnet.status", "miner.status", "box-1.status", "box-2.status", "validator.api"} {
		resp, err := http.Get("http://" + r.Addresses[door] + "/health")
		if err != nil {
			t.Errorf("%s: %v", door, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"ok"`) {
			t.Errorf("%s answers %s: %s", door, resp.Status, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	floodEveryDoor(t, dir, r)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v: %s", err, said.String())
	}
	mustEnd(t, dir, r)
}

func compareWithChain(t *testing.T, r upReport) {
	t.Helper()
	chain := dialRaw(t, "http://"+r.Addresses["localnet.rpc"])
	at := chain.blockHash(r.Block)
	row := chain.weights(at, r.NetUID, r.ValidatorUID)
	if len(row) != len(r.Weights) {
		t.Errorf("the chain's weights are %v, up says %v", row, r.Weights)
	}
	for _, w := range r.Weights {
		if row[w.UID] != w.Weight {
			t.Errorf("uid %d: the chain has weight %d, up says %d", w.UID, row[w.UID], w.Weight)
		}
	}
	if row[r.MinerUID] == 0 {
		t.Errorf("the miner has no weight: %v", row)
	}
	incentive := chain.vector("Incentive", at, r.NetUID)
	if len(incentive) != len(r.Incentive) || incentive[r.MinerUID] == 0 {
		t.Errorf("the chain's incentive is %v, up says %v", incentive, r.Incentive)
	}
	for _, i := range r.Incentive {
		if incentive[i.UID] != i.Value {
			t.Errorf("uid %d: the chain has incentive %d, up says %d", i.UID, incentive[i.UID], i.Value)
		}
	}
	name, fields := chain.extrinsic(chain.blockHash(r.WeightsExtrinsic.Block), r.WeightsExtrinsic.Hash)
	if name != "SubtensorModule.set_weights" {
		t.Errorf("the extrinsic is %s", name)
	}
	compareCall(t, chain, fields, r)
}

func compareCall(t *testing.T, chain *rawChain, fields scale.Struct, r upReport) {
	t.Helper()
	get := func(name string) any {
		v, ok := fields.Get(name)
		if !ok {
			t.Fatalf("set_weights has no %s: %v", name, fields)
		}
		return v
	}
	if n := chain.number(get("netuid")); n != uint64(r.NetUID) {
		t.Errorf("set_weights is for subnet %d", n)
	}
	dests, weights := chain.list(get("dests")), chain.list(get("weights"))
	if len(dests) != len(r.WeightsSubmitted) || len(weights) != len(dests) {
		t.Fatalf("set_weights has %v, %v; up says %v", dests, weights, r.WeightsSubmitted)
	}
	var total uint64
	for i, w := range r.WeightsSubmitted {
		if chain.number(dests[i]) != uint64(w.UID) || chain.number(weights[i]) != uint64(w.Weight) {
			t.Errorf("set_weights has %v, %v; up says %v", dests, weights, r.WeightsSubmitted)
		}
		total += uint64(w.Weight)
	}
	if total != 65535 {
		t.Errorf("weights sum to %d", total)
	}
}

// TestCheatingProver: a prover that lies is proven to, in the whole network, and its miner gets no weight. One lie stands for
// all in every change; BASILICA_CHEAT_KINDS=all runs each.
func TestCheatingProver(t *testing.T) {
	needEngine(t)
	t.Parallel()
	lies := []string{"fill:0.05"}
	if os.Getenv("BASILICA_CHEAT_KINDS") == "all" {
		lies = append(lies, "walk:0.2", "mix:0.2", "fill:0.05,grind:8", "nonce", "early", "earlymix", "claim", "mutate", "truncate", "key")
	}
	for _, lie := range lies {
		t.Run(lie, func(t *testing.T) { cheatingProver(t, lie) })
	}
}

func cheatingProver(t *testing.T, lie string) {
	want := "fail"
	if lie == "truncate" {
		want = "not_run" // what is too short proves nothing; it spends the abort budget
	}
	dir := t.TempDir()
	r, _ := runUp(t, []string{"BASILICA_CHEAT=" + lie}, "--once", "--data", dir, "--attestor", program(cheatName))
	proofs := 0
	for _, v := range r.Verdicts {
		if v.Check != "gpu_proof" {
			continue
		}
		proofs++
		t.Logf("%s: %s %s", lie, v.Verdict, v.Reason)
		if v.Verdict != want || v.Evidence == nil {
			t.Errorf("%s: %s %s", v.Executor, v.Verdict, v.Reason)
			continue
		}
		class := "software"
		if lie == "claim" {
			class = "A" // as it says of itself
		}
		verifyFrames(t, v.Evidence.Path, want, class)
	}
	if proofs != 2 {
		t.Errorf("verdicts %+v", r.Verdicts)
	}
	noWeight(t, r)
	mustEnd(t, dir, r)
}

// TestStoppedExecutors: machines that were stopped are not proven, which is no failure of honesty, and their miner gets no
// weight; up ends in time and leaves nothing.
func TestStoppedExecutors(t *testing.T) {
	needEngine(t)
	t.Parallel()
	dir := t.TempDir()
	stopped := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	go func() { stopped <- stopExecutors(ctx, dir, 2) }()
	r, code := runUp(t, nil, "--once", "--data", dir)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Verdicts {
		if v.Check == "gpu_proof" && v.Verdict != "not_run" {
			t.Errorf("%s: %s %s", v.Executor, v.Verdict, v.Reason)
		}
	}
	if len(r.Verdicts) == 0 || code == 0 || r.Error == nil {
		t.Errorf("verdicts %+v, exit code %d, error %+v", r.Verdicts, code, r.Error)
	}
	noWeight(t, r)
	mustEnd(t, dir, r)
}

func noWeight(t *testing.T, r upReport) {
	t.Helper()
	if len(r.Weights) == 0 {
		t.Error("no weights were set")
	}
	for _, w := range r.Weights {
		if w.UID == r.MinerUID && w.Weight > 0 {
			t.Errorf("the miner has weight %d", w.Weight)
		}
	}
	for _, i := range r.Incentive {
		if i.UID == r.MinerUID && i.Value > 0 {
			t.Errorf("the miner has incentive %d", i.Value)
		}
	}
}

// stopExecutors sends SIGSTOP to the executors of a data directory as soon as that many run.
func stopExecutors(ctx context.Context, dir string, want int) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	done := map[string]bool{}
	for len(done) < want {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, path := range paths {
			line, err := os.ReadFile(path)
			args := strings.Split(string(line), "\x00")
			if err != nil || done[path] || len(args) < 4 || args[1] != "executor" || !strings.HasPrefix(args[3], dir) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				return err
			}
			done[path] = true
		}
	}
	return nil
}
