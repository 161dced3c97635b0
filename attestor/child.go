package attestor

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/internal/crashpoint"
)

// Environment of the child.
const (
	EnvBinding      = "BASILICA_ATTEST_BINDING"  // JSON of Channel
	EnvKey          = "BASILICA_ATTEST_KEY"      // path of the attestation key
	EnvKeyKind      = "BASILICA_ATTEST_KEY_KIND" // where a new key is made: file or tpm
	EnvTPM          = "BASILICA_TPM"             // device of the TPM
	EnvSoftwareGPUs = "BASILICA_SOFTWARE_GPUS"   // number of software devices
	EnvCheat        = "BASILICA_CHEAT"           // adversary builds only
)

const (
	maxStderr  = 64 << 10 // bytes of the child's log that are passed on per run
	maxOutput  = 1 << 20  // bytes of a child's JSON answer
	maxSession = 4 << 30  // bytes of all frames of a run, each way
	killWait   = 5 * time.Second
	// hangUpGrace is how long a child may go on after the validator has closed the channel.
	hangUpGrace = 500 * time.Millisecond
	// endGrace is how long a child may take to end after the last that it said.
	endGrace = 10 * time.Second
	// answerTime is for a child that prints one answer: a machine with eight cards whose driver has to be loaded first takes most
	// of a minute.
	answerTime = 2 * time.Minute
	// stuckWait is how long a killed child may take to be gone: its pipes are closed after killWait.
	stuckWait = 2 * killWait
)

// KeyKind is where an attestation key lives.
type KeyKind string

// The kinds.
const (
	KeyFile KeyKind = "file" // in a file of mode 0600
	KeyTPM  KeyKind = "tpm"  // in the machine's TPM 2.0
)

// Channel is what the SSH server knows of the channel that a proof runs over.
type Channel struct {
	SessionID       string `json:"session_id"`       // hex
	HostKey         string `json:"host_key"`         // hex of the SSH wire encoding
	MinerHotkey     string `json:"miner_hotkey"`     // hex, 32 bytes
	ValidatorHotkey string `json:"validator_hotkey"` // hex, 32 bytes
}

// NewChannel writes a binding in the child's form.
func NewChannel(b attest.Binding) Channel {
	return Channel{
		SessionID: hex.EncodeToString(b.SessionID), HostKey: hex.EncodeToString(b.HostKey),
		MinerHotkey: hex.EncodeToString(b.MinerHotkey[:]), ValidatorHotkey: hex.EncodeToString(b.ValidatorHotkey[:]),
	}
}

// ParseChannel reads the JSON of EnvBinding. Both hotkeys are needed and 32 bytes long.
func ParseChannel(text string) (*attest.Binding, error) {
	var c Channel
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("parse %s: %w", EnvBinding, err)
	}
	b := &attest.Binding{}
	var err error
	if b.SessionID, err = hex.DecodeString(c.SessionID); err != nil || len(b.SessionID) == 0 {
		return nil, fmt.Errorf("parse %s: session_id is not hex", EnvBinding)
	}
	if b.HostKey, err = hex.DecodeString(c.HostKey); err != nil || len(b.HostKey) == 0 {
		return nil, fmt.Errorf("parse %s: host_key is not hex", EnvBinding)
	}
	if err := b.MinerHotkey.UnmarshalText([]byte(c.MinerHotkey)); err != nil {
		return nil, fmt.Errorf("parse %s: miner_hotkey: %w", EnvBinding, err)
	}
	if err := b.ValidatorHotkey.UnmarshalText([]byte(c.ValidatorHotkey)); err != nil {
		return nil, fmt.Errorf("parse %s: validator_hotkey: %w", EnvBinding, err)
	}
	return b, nil
}

// Version is what `gpu-attestor version --json` prints.
type Version struct {
	Version   string `json:"version"`
	Adversary bool   `json:"adversary"` // a build that can cheat: refused outside localnet
}

// Detection is what `gpu-attestor detect --json` prints.
type Detection struct {
	SPKI            []byte         `json:"spki,omitempty"` // attestation key, base64 of the DER SubjectPublicKeyInfo; absent where a person asked without one
	KeyKind         KeyKind        `json:"key_kind,omitempty"`
	GPUs            []basilica.GPU `json:"gpus"`
	MemoryBytes     uint64         `json:"memory_bytes"`      // RAM of the machine
	MemoryFreeBytes uint64         `json:"memory_free_bytes"` // unused RAM, without caches that could be dropped
	Notes           []string       `json:"notes,omitempty"`   // what was not found, in plain words
	// Findings are what the witnesses disagree on, and what does not come from the kernel.
	Findings []basilica.Reason `json:"findings,omitempty"`
}

// Child starts gpu-attestor. Path, Key and Log are needed; the zero values of the others are fine.
type Child struct {
	Path         string  // of the binary
	Key          string  // path of the attestation key; made by the child where it does not exist
	KeyKind      KeyKind // of a key that is made; empty: file
	TPM          string  // device of the TPM; empty: the kernel's
	SoftwareGPUs int
	Parallel     int    // goroutines of a software device; 0: all processors
	Cheat        string // optional, for adversary builds
	Log          *slog.Logger
}

// errAttestor says that the binary cannot be run.
var errAttestor = basilica.E(basilica.Unavailable, "ATTESTOR_FAILED", "gpu-attestor could not be run",
	"build it with `make build` and give its path with --attestor")

// errLeft is ErrLeft as an executor tells it.
var errLeft = basilica.E(basilica.Unavailable, "CHALLENGE_LEFT", "the validator left the challenge before its end",
	"bring each challenge to its VERDICT; who leaves machines waiting is refused for a while").With(ErrLeft)

// stuck says that a child does not answer or does not end.
func stuck(sentence string) *basilica.Error {
	return basilica.E(basilica.Unavailable, "ATTESTOR_STUCK", sentence,
		"look for the GPU driver's words in dmesg (NVRM, Xid); a process that does not end although it was killed hangs in the kernel, and goes when the machine is rebooted")
}

// command prepares a run in its own process group with an environment that holds nothing of ours but what it needs.
func (c Child) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Path, args...)
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, EnvKey+"="+c.Key, EnvSoftwareGPUs+"="+strconv.Itoa(c.SoftwareGPUs))
	for name, v := range map[string]string{EnvKeyKind: string(c.KeyKind), EnvTPM: c.TPM} {
		if v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	if c.Cheat != "" {
		cmd.Env = append(cmd.Env, EnvCheat+"="+c.Cheat)
	}
	cmd.Env = append(cmd.Env, env...)
	// It ends with its parent, however that ends: a prover that nobody waits for must not go on using the GPU.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killWait
	return cmd
}

// answer runs a verb that prints one JSON value.
func (c Child) answer(ctx context.Context, into any, args ...string) error {
	return c.reply(ctx, nil, into, args...)
}

// reply runs a verb that reads in and prints one JSON value.
func (c Child) reply(ctx context.Context, in []byte, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := c.command(ctx, nil, args...)
	cmd.Stdin = bytes.NewReader(in)
	var out, log capped
	out.left, log.left = maxOutput, maxStderr
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Start(); err != nil {
		return blame(ctx, fmt.Errorf("%s %s: %w", c.Path, args[0], err))
	}
	if err := gone(ctx, cmd); basilica.CodeOf(err) != "" {
		return err
	} else if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", c.Path, args[0], err, bytes.TrimSpace(log.b))
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return stuck(fmt.Sprintf("gpu-attestor %s gave no answer in time and was killed", args[0])).With(err)
		}
		return blame(ctx, err)
	}
	if err := json.Unmarshal(out.b, into); err != nil {
		return errAttestor.With(fmt.Errorf("%s %s: %w", c.Path, args[0], err))
	}
	return nil
}

// blame says whose fault it is that a child gave nothing: whoever's time is over hears that, and nothing of the binary.
func blame(ctx context.Context, err error) error {
	if over := ctx.Err(); over != nil && !errors.Is(err, over) {
		return fmt.Errorf("%w: %w", over, err)
	} else if over != nil {
		return err
	}
	return errAttestor.With(err)
}

// gone waits for the end of a child: without limit while ctx is there, whose end kills it, then for stuckWait. A process in a
// driver that hangs in the kernel takes no signal: nobody may wait for it, and what it was given to write to must not be read.
func gone(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // as long as the process is there
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(stuckWait)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		return stuck(fmt.Sprintf("gpu-attestor %s (process %d) does not end, although it was killed", cmd.Args[1], cmd.Process.Pid))
	}
}

// capped keeps the first bytes and drops the rest, so that a child never blocks on it.
type capped struct {
	b    []byte
	left int
}

// Write never fails.
func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.b, c.left = append(c.b, p[:n]...), c.left-n
	return len(p), nil
}

// Version asks the binary what it is.
func (c Child) Version(ctx context.Context) (v Version, err error) {
	return v, c.answer(ctx, &v, "version", "--json")
}

// Detect asks the binary for the machine's devices and its attestation key.
func (c Child) Detect(ctx context.Context) (d Detection, err error) {
	if err = c.answer(ctx, &d, "detect", "--json"); err == nil && len(d.SPKI) == 0 {
		err = errAttestor.With(fmt.Errorf("%s detect: it names no attestation key", c.Path))
	}
	return d, err
}

// Selftest is what is read of `gpu-attestor selftest --json`.
type Selftest struct {
	OK           bool    `json:"ok"`
	Vectors      int     `json:"vectors"`  // that equal the specification's
	Openings     int     `json:"openings"` // that verified
	OpsPerSecond float64 `json:"ops_per_second"`
}

// Selftest has the binary compare its arithmetic with the specification.
func (c Child) Selftest(ctx context.Context) (r Selftest, err error) {
	return r, c.answer(ctx, &r, "selftest", "--json")
}

// RotationSignature is what `gpu-attestor rotate` prints.
type RotationSignature struct {
	Signature []byte `json:"signature"` // r | s, 64 bytes
}

// Rotate has the attestation key sign the endorsement of the key that takes its place.
func (c Child) Rotate(ctx context.Context, payload []byte) ([]byte, error) {
	var r RotationSignature
	err := c.reply(ctx, payload, &r, "rotate")
	return r.Signature, err
}

// Serve runs one challenge: it relays frames between the channel and a fresh child until either ends, closes the
// channel, and returns when the child is gone, or was killed and does not go (ATTESTOR_STUCK). It returns nil once VERDICT has
// arrived; how the challenge came out is the validator's to know. Where the validator did not bring it to its end it is
// CHALLENGE_LEFT, where ctx ended before, ctx's error; any other error says what went wrong on this machine.
func (c Child) Serve(ctx context.Context, ch io.ReadWriteCloser, b attest.Binding) error {
	channel, err := json.Marshal(NewChannel(b))
	if err != nil {
		return fmt.Errorf("encode channel: %w", err)
	}
	life := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := c.command(ctx, []string{EnvBinding + "=" + string(channel)}, "prove", "--parallel", strconv.Itoa(c.Parallel))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start attestor: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start attestor: %w", err)
	}
	cmd.Stderr = &lines{log: c.Log, left: maxStderr}
	crashpoint.Hit("attestor.start.before")
	if err := cmd.Start(); err != nil {
		return errors.Join(blame(ctx, err), ch.Close())
	}
	crashpoint.Hit("attestor.start.after")
	var hungUp atomic.Bool
	in := make(chan error, 1)
	go func() { // ends when the channel is closed: by the validator, or by its owner once Serve has returned
		err := relay(stdin, ch, toAttestor)
		hungUp.Store(true)
		if err != nil {
			in <- err
			cancel()
			return
		}
		// Without a validator there is nothing left to prove: a child that waits for frames sees the end of its
		// input, one that computes is killed.
		timer := time.AfterFunc(hangUpGrace, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
		in <- stdin.Close()
	}()
	out := make(chan error, 1)
	go func() { // ends with the child, or when the channel is closed
		out <- relay(taken{ch, func() {
			hungUp.Store(true)
			cancel()
		}}, stdout, attest.RelayCap)
	}()
	errOut := relayed(ctx, out)
	ours := hungUp.Load() || ctx.Err() != nil // then how the child ended says nothing
	left := hungUp.Load()
	errClose := ch.Close()
	defer time.AfterFunc(endGrace, cancel).Stop()
	errWait := gone(ctx, cmd)
	crashpoint.Hit("attestor.ended")
	var errIn error
	select {
	case errIn = <-in:
	default: // the validator may go on sending for as long as it likes; nobody listens any more
	}
	if !errors.Is(errIn, attest.ErrFrame) {
		errIn = nil // the channel's or the child's own end
	}
	switch exit, _ := errors.AsType[*exec.ExitError](errWait); {
	case errWait == nil: // it has its VERDICT
		left = false
	case exit != nil && exit.ExitCode() == ExitLeft:
		left, errWait = true, nil
	case exit != nil && exit.Exited(): // its own failure, whoever hung up meanwhile
		left = false
	case ours && basilica.CodeOf(errWait) == "":
		errWait = life.Err()
	}
	if left {
		return errors.Join(errLeft, errWait, errOut, errIn)
	}
	return errors.Join(errOut, ignoreClosed(errClose), errIn, errWait)
}

// relayed waits for the end of what a child says: for killWait once ctx has had it killed.
func relayed(ctx context.Context, out <-chan error) error {
	select {
	case err := <-out:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(killWait)
	defer late.Stop()
	select {
	case err := <-out:
		return err
	case <-late.C:
		return nil // whether the child is still there, gone says
	}
}

// taken is a channel whose other end has to take each frame within patience.
type taken struct {
	io.Writer
	late func() // also called where it takes none any more
}

// Write writes one frame.
func (t taken) Write(f []byte) (int, error) {
	defer time.AfterFunc(patience, t.late).Stop()
	n, err := t.Writer.Write(f)
	if err != nil {
		t.late()
	}
	return n, err
}

func ignoreClosed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// relay passes whole frames on until the end of from.
func relay(to io.Writer, from io.Reader, limit attest.Cap) error {
	for total := 0; ; {
		f, err := attest.ReadFrame(from, limit)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		if total += len(f); total > maxSession {
			return fmt.Errorf("relay: %w: more than %d bytes in one run", attest.ErrFrame, maxSession)
		}
		if _, err := to.Write(f); err != nil {
			return fmt.Errorf("relay %v: %w", f.Type(), err)
		}
	}
}

// lines passes the child's stderr to the log, line by line, up to a number of bytes.
type lines struct {
	log  *slog.Logger
	left int
	part []byte
}

// Write never fails: a full log must not stop a proof.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	p = p[:min(n, l.left)]
	l.left -= len(p)
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return n, nil
		}
		l.log.Info("gpu-attestor", "line", string(l.part[:i]))
		l.part = l.part[i+1:]
	}
}
