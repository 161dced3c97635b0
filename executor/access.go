package executor

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basilica"
)

// Visit is one channel of a validator whom the SSH door let in.
type Visit struct {
	Grant     basilica.GrantID
	Validator basilica.Hotkey
	SessionID []byte
	HostKey   []byte
	Channel   io.ReadWriteCloser
}

// Limits of validators' visits.
const (
	challengeLife = 15 * time.Minute
	challengeEnds = time.Minute // for a prover whose time is over to let go of the GPUs, before they are another's
	checkTimeout  = 30 * time.Second
	checkMemory   = 256 << 20
	checkOutput   = 1 << 20
	maxCheckLine  = 1 << 10
	maxCheckProof = 1 << 10

	// How long a validator may hold the GPUs in challenges that it does not bring to their end: one whose machine loses power in the
	// middle of a challenge costs three and a half minutes, until the prover gives it up, and is served in its next round; one
	// whose process dies costs the time until then. What it used up comes back slowly, so that it holds the machine in vain for no
	// more than a twentieth of the time.
	vainMost  = 5 * time.Minute
	vainShare = 20
)

// vain is how long a validator held the GPUs without bringing its challenges to their end, as it stood at a time since boot; a
// vainShare-th of the time since then is to be taken off.
type vain struct {
	held time.Duration
	at   time.Duration
}

func (x vain) now(up time.Duration) time.Duration { return max(0, x.held-(up-x.at)/vainShare) }

// mayHold refuses a validator that has left this machine waiting for too long.
func (e *Executor) mayHold(who basilica.Hotkey) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.vain[who].now(e.cfg.Uptime())
	if held <= vainMost {
		return nil
	}
	wait := (held - vainMost) * vainShare
	return basilica.E(basilica.Exhausted, "VALIDATOR_PAUSED", fmt.Sprintf("this validator held the GPUs for %d s in challenges that it did not bring to their end; it is served again in %d s", int(held.Seconds()), int(wait.Seconds())+1),
		"come again then; look at the validator's log for what breaks its challenges off")
}

// heldInVain counts the time of a challenge that a validator did not bring to its end, and forgets those who have nothing left.
func (e *Executor) heldInVain(who basilica.Hotkey, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	up := e.cfg.Uptime()
	maps.DeleteFunc(e.vain, func(_ basilica.Hotkey, x vain) bool { return x.now(up) == 0 })
	e.vain[who] = vain{e.vain[who].now(up) + took, up}
}

// Attest serves one challenge: it takes every GPU as one holder and gives the channel to the prover. GPUs that a task or
// another challenge holds are a basilica.Held, before a byte is said; a validator that has left the machine waiting for too long is
// VALIDATOR_PAUSED.
func (e *Executor) Attest(ctx context.Context, v Visit) (err error) {
	gpus := make([]string, 0, len(e.cfg.GPUs))
	for _, g := range e.cfg.GPUs {
		if g.UUID != "" {
			gpus = append(gpus, g.UUID)
		}
	}
	if len(gpus) == 0 {
		return basilica.E(basilica.Unavailable, "NO_GPU", "this machine has no device that could be proven", "check the GPU driver with gpu-attestor detect")
	}
	if err := e.running(); err != nil {
		return err
	}
	if err := e.mayHold(v.Validator); err != nil {
		return err
	}
	now := e.ledgerNow()
	h, err := e.cfg.Ledger.Hold(ctx, basilica.Holding{Kind: basilica.HolderChallenge, Holder: string(v.Grant), GPUs: gpus, Expires: now.Add(challengeLife + challengeEnds)}, now)
	if err != nil {
		return e.refusal(err, now)
	}
	log := e.cfg.Log.With("grant", string(v.Grant), "validator", string(v.Validator), "fence", h.Fence)
	log.Info("challenge begins")
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(err, e.cfg.Ledger.Leave(last, h.Fence))
		log.Info("challenge ended", "err", err)
	}()
	held, cancel := context.WithTimeout(ctx, challengeLife)
	defer cancel()
	began := e.cfg.Uptime()
	err = e.cfg.Prover.Prove(held, v)
	if err != nil && (held.Err() != nil || basilica.CodeOf(err) == "CHALLENGE_LEFT") {
		e.heldInVain(v.Validator, e.cfg.Uptime()-began)
	}
	return err
}

// Facts answers with one JSON value of the machine's facts.
func (e *Executor) Facts(ctx context.Context, v Visit) error {
	if err := e.running(); err != nil {
		return err
	}
	f, err := e.SystemInfo(ctx)
	if err != nil {
		return err
	}
	return answer(v.Channel, f)
}

func answer(w io.WriteCloser, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if _, err := w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

// Check runs the validator's small task in a container of a stranger: one line of JSON with a nonce comes in, exit code
// and proof go out.
func (e *Executor) Check(ctx context.Context, v Visit) (err error) {
	nonce, err := readNonce(v.Channel)
	if err != nil {
		return err
	}
	if err := e.running(); err != nil {
		return err
	}
	select {
	case e.checks <- struct{}{}:
		defer func() { <-e.checks }()
	default:
		return basilica.E(basilica.Exhausted, "CHECKS_FULL", "the machine runs as many checks as it may", "try again")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	id := "check-" + strings.ToLower(rand.Text()[:12])
	image, err := e.cfg.CheckImage(ctx)
	if err != nil {
		return fmt.Errorf("make check image: %w", err)
	}
	a := basilica.Attempt{Task: basilica.TaskID(id), Number: 1, ImageID: image}
	e.mu.Lock()
	e.checked[a.Key()] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.checked, a.Key())
	}()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		err = errors.Join(err, e.remove(last, a.Key()))
	}()
	out, err := e.prepareCheck(a.Key(), nonce)
	if err != nil {
		return err
	}
	a.Container, err = e.cfg.Engine.Create(ctx, basilica.ContainerSpec{
		Name: "basilica-" + e.cfg.Machine + "-" + id, Image: a.ImageID, Command: []string{"/basilica", "task-check"}, Labels: e.labels(a),
		CPUMillis: min(1000, e.maxCPU), MemoryBytes: min(checkMemory, e.cfg.MaxMemory), Pids: 64, LogBytes: 64 << 10,
		Input: filepath.Join(e.dir(a.Key()), "in"), Output: out, OutputBytes: checkOutput,
	})
	if err != nil {
		return err
	}
	wait, err := e.cfg.Engine.Start(ctx, a.Container)
	if err != nil {
		return err
	}
	r := &run{}
	if err := e.await(ctx, a, wait, r); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return basilica.E(basilica.Unavailable, "CHECK_TIMEOUT", "the check did not end in time", "")
	}
	proof, err := readProof(out)
	if err != nil {
		e.cfg.Log.Warn("check left no proof", "exit_code", r.end.ExitCode, "err", err)
	}
	return answer(v.Channel, checkReply{ExitCode: r.end.ExitCode, Output: hex.EncodeToString(proof)})
}

type checkReply struct {
	ExitCode int    `json:"exit_code"`
	Output   string `json:"output"` // hex of the bytes that the task wrote
}

func readNonce(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxCheckLine)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read request: %w", err)
	}
	var req struct {
		Nonce string `json:"nonce"`
	}
	err = json.Unmarshal(line, &req)
	nonce, herr := hex.DecodeString(req.Nonce)
	if err != nil || herr != nil || len(nonce) != 32 {
		return nil, basilica.E(basilica.Invalid, "CHECK_REQUEST", `the request is no line like {"nonce":"…"} with 64 hex digits`, "")
	}
	return nonce, nil
}

func (e *Executor) prepareCheck(at basilica.TaskAttempt, nonce []byte) (out string, err error) {
	dir := e.dir(at)
	in := filepath.Join(dir, "in")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make working directory: %w", err)
	}
	if err := os.Mkdir(in, 0o755); err != nil {
		return "", fmt.Errorf("make input directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(in, "nonce"), nonce, 0o444); err != nil {
		return "", fmt.Errorf("write nonce: %w", err)
	}
	out = filepath.Join(dir, "out")
	return out, e.cfg.Disk.MountOutput(out, checkOutput)
}

// readProof reads what the check wrote, which was ours to run but is read like a stranger's.
func readProof(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if st, err := root.Lstat("proof"); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("proof is no plain file"))
	}
	f, err := root.Open("proof")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCheckProof))
}
