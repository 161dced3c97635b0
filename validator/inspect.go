package validator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/keys"
	"basilica/score"
)

// Caps of what an executor may answer outside of the proof.
const (
	maxFacts      = 64 << 10
	maxFactsList  = 64  // GPUs, interfaces, addresses of one, findings
	maxFactsText  = 512 // bytes of one text
	maxCheckReply = 4 << 10
	gateTimeout   = 20 * time.Second // between the first and the last machine's HELLO
)

// Reason codes of verdicts that this package gives itself.
const (
	reasonAbsent        = "ABSENT"               // the miner no longer names this executor
	reasonMinerAway     = "MINER_UNREACHABLE"    // no answer from the miner's door
	reasonNoAxon        = "MINER_NO_AXON"        // registered, but serves nothing
	reasonAxonTLS       = "AXON_WITHOUT_TLS"     // published no TLS key
	reasonAxonAddr      = "AXON_ADDRESS"         // not one that a stranger may have us dial
	reasonEndorsement   = "ENDORSEMENT_INVALID"  // not signed by the miner
	reasonMismatch      = "ENDORSEMENT_MISMATCH" // of another miner, executor or host key
	reasonKeyChanged    = "KEY_CHANGED"          // not the pinned keys
	reasonTooMany       = "TOO_MANY_EXECUTORS"   // known, but beyond the number that is looked at
	reasonAddressTwice  = "ADDRESS_TWICE"        // two executors at one SSH address
	reasonDuplicateUUID = "DUPLICATE_UUID"       // another executor proved that GPU in the same round
	reasonDropped       = "SSH_DROPPED"          // the connection broke in the middle
	reasonLate          = "LATE_START"           // ready after the other machines of its miner had begun
	reasonSelective     = "SELECTIVE"            // no answer here, weight elsewhere
	reasonRefused       = "REFUSED"              // the machine refused without a code that may be repeated
)

// inspection is what one look at one executor brought.
type inspection struct {
	verification basilica.Verification
	pin          *basilica.Pin // new, or of a new attestation key
}

// target is one executor in one round.
type target struct {
	round    basilica.Round
	neuron   basilica.Neuron
	access   basilica.GrantedAccess
	standing score.Standing
	pin      *basilica.Pin
	key      ed25519.PrivateKey
	trapdoor *attest.Trapdoor // nil: none is needed
	gate     *gate
	holder   *basilica.Verdict // on whom the machine was busy with before; nil: nothing to say
}

func (v *Validator) blank(r basilica.Round, n basilica.Neuron, id basilica.ExecutorID) (basilica.Verification, error) {
	var b [12]byte
	if _, err := io.ReadFull(v.cfg.Random, b[:]); err != nil {
		return basilica.Verification{}, fmt.Errorf("draw verification id: %w", err)
	}
	return basilica.Verification{
		ID: basilica.VerificationID("v" + hex.EncodeToString(b[:])), NetUID: v.cfg.NetUID, Round: r.First,
		Validator: v.self, Miner: n.Hotkey, MinerUID: n.UID, Executor: id, Started: v.now(),
	}, nil
}

// unmeasured is a verification of an executor that could not be looked at.
func (v *Validator) unmeasured(r basilica.Round, n basilica.Neuron, id basilica.ExecutorID, reason, detail string) (inspection, error) {
	out, err := v.blank(r, n, id)
	if err != nil {
		return inspection{}, err
	}
	v.conclude(&out, notRun(basilica.CheckGPUProof, reason, detail), notRun(basilica.CheckTaskPath, reason, detail))
	return inspection{verification: out}, nil
}

func notRun(c basilica.Check, reason, detail string) basilica.Verdict {
	return basilica.Verdict{Check: c, Result: basilica.NotRun, Reason: reason, Detail: detail}
}

func (v *Validator) conclude(out *basilica.Verification, verdicts ...basilica.Verdict) {
	out.Verdicts, out.Ended = verdicts, v.now()
	out.Block = v.Status().Head
	for _, d := range verdicts {
		v.cfg.Log.Info("verdict", "verification", out.ID, "miner", out.Miner, "executor", out.Executor, "check", d.Check, "verdict", d.Result, "reason", d.Reason, "detail", d.Detail)
	}
}

// inspect looks at one executor.
func (v *Validator) inspect(ctx context.Context, t target) (inspection, error) {
	arrive := sync.OnceValue(t.gate.arrive)
	defer arrive()
	out, err := v.blank(t.round, t.neuron, t.access.Executor)
	if err != nil {
		return inspection{}, err
	}
	conclude := func(verdicts ...basilica.Verdict) {
		if t.holder != nil {
			verdicts = append(verdicts, *t.holder)
		}
		v.conclude(&out, verdicts...)
	}
	giveUp := func(reason, detail string) (inspection, error) {
		conclude(notRun(basilica.CheckGPUProof, reason, detail), notRun(basilica.CheckTaskPath, reason, detail))
		return inspection{verification: out}, nil
	}
	endorsed, reason, detail := endorsement(t)
	if reason != "" {
		return giveUp(reason, detail)
	}
	v.cfg.Log.Info("verification begins", "verification", out.ID, "miner", out.Miner, "executor", out.Executor, "round", t.round.First)
	dialCtx, cancel := context.WithTimeout(ctx, v.cfg.ConnectTimeout)
	session, err := v.cfg.Dial(dialCtx, t.access, t.key)
	cancel()
	if err != nil {
		reason, detail, _ := reasonOf(ctx, err)
		return giveUp(reason, detail)
	}
	hangUp := sync.OnceFunc(func() {
		if err := session.Close(); err != nil {
			v.cfg.Log.Debug("close session", "verification", out.ID, "err", err)
		}
	})
	defer hangUp()
	proof, judged := v.prove(ctx, t, endorsed, &out, session, hangUp, arrive)
	arrive() // one that refused holds nobody up while it is asked for the rest
	facts := v.facts(t.gate.whole, session, &out)
	path := v.taskPath(t.gate.whole, session)
	conclude(proof, path, facts)
	done := inspection{verification: out}
	if judged && (t.pin == nil || !bytes.Equal(t.pin.AttestSPKI, endorsed.AttestSPKI)) && (proof.Result == basilica.Pass || proof.Result == basilica.Unsure) {
		done.pin = &basilica.Pin{
			ExecutorKey: basilica.ExecutorKey{Miner: t.neuron.Hotkey, Executor: t.access.Executor},
			KeySPKI:     endorsed.KeySPKI, AttestSPKI: endorsed.AttestSPKI, HostKey: endorsed.HostKey, Since: t.round.First,
		}
		if t.pin != nil {
			done.pin.Since = t.pin.Since // a new attestation key makes no younger machine
		}
	}
	return done, nil
}

// endorsement opens the miner's word on an executor's keys and compares it with whom we expect and with what was pinned.
func endorsement(t target) (e basilica.Endorsement, reason, detail string) {
	e, err := t.access.Endorsement.Open()
	if err != nil {
		return e, reasonEndorsement, sentence(err)
	}
	switch {
	case e.Miner != t.neuron.Hotkey || e.Executor != t.access.Executor:
		return e, reasonMismatch, fmt.Sprintf("the endorsement speaks of executor %.64q of %.64q", e.Executor, e.Miner)
	case len(e.AttestSPKI) == 0 || len(e.HostKey) == 0:
		return e, reasonEndorsement, "the endorsement names no attestation key or no host key"
	case !bytes.Equal(e.HostKey, t.access.HostKey):
		return e, reasonMismatch, "the endorsement names another SSH host key than the grant"
	case t.pin != nil && (!bytes.Equal(e.HostKey, t.pin.HostKey) || !bytes.Equal(e.KeySPKI, t.pin.KeySPKI) || !e.Inherits(t.pin.AttestSPKI, t.access.Earlier)):
		return e, reasonKeyChanged, fmt.Sprintf("the executor's keys are not those it is known by since round %d; enroll the machine under a new id", t.pin.Since)
	}
	return e, "", ""
}

var (
	safeReason = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,39}$`)
	executorID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// reasonOf turns a failure into a reason code and a sentence, and names the holder of a busy machine. What a machine says
// of itself can never become one of the codes that protect it: our own faults, or BUSY without the word of a ledger.
func reasonOf(ctx context.Context, err error) (reason, detail, holder string) {
	var held *basilica.Held
	code := basilica.CodeOf(err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return score.ReasonLocal, "the validator was stopped", ""
	case errors.As(err, &held) && held.Holding.Kind == basilica.HolderQuarantine:
		return "QUARANTINE", sentence(err), ""
	case errors.As(err, &held) && held.Holding.Kind == basilica.HolderChallenge:
		return score.ReasonBusyChallenge, sentence(err), clip(held.Holding.Holder, 128)
	case errors.As(err, &held):
		return score.ReasonBusy, sentence(err), clip(held.Holding.Holder, 128)
	case code == score.ReasonLocal || code == score.ReasonNoTurn || code == score.ReasonRestarted:
		return reasonRefused, sentence(err), ""
	case safeReason.MatchString(code):
		return code, sentence(err), ""
	case errors.Is(err, context.DeadlineExceeded):
		return "TIMEOUT", "no answer in time", ""
	case errors.Is(err, io.ErrUnexpectedEOF):
		return reasonDropped, "the SSH connection broke in the middle", ""
	}
	return reasonRefused, sentence(err), ""
}

// sentence is what may be shown of an error that others can read: never a cause of ours.
func sentence(err error) string {
	var e *basilica.Error
	if errors.As(err, &e) {
		return clip(e.Sentence, 400)
	}
	return clip(err.Error(), 400)
}

func clip(s string, most int) string {
	out := []rune{}
	for _, r := range s {
		if len(out) == most {
			break
		}
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			r = '.'
		}
		out = append(out, r)
	}
	return string(out)
}

// prove runs the GPU proof and keeps its record. The second value says whether the machine was judged at all.
func (v *Validator) prove(ctx context.Context, t target, e basilica.Endorsement, out *basilica.Verification, session Session, hangUp func(), arrive func() bool) (basilica.Verdict, bool) {
	fail := func(err error) (basilica.Verdict, bool) {
		reason, detail, holder := reasonOf(ctx, err)
		out.Holder = holder
		if reason == score.ReasonBusy {
			detail += lastProven(t.standing, v.now())
		}
		return notRun(basilica.CheckGPUProof, reason, detail), false
	}
	spool, err := v.cfg.Archive.Spool()
	if err != nil {
		return v.unkept(err, out), false
	}
	defer spool.Close()
	late := time.AfterFunc(v.cfg.ConnectTimeout, hangUp) // the verifier's deadlines begin with the open channel
	stream, err := session.Subsystem(t.gate.whole, "attest")
	late.Stop()
	if err != nil {
		return fail(err)
	}
	defer stream.Close()
	verifier, err := v.verifier(t, e, out, session)
	if err != nil {
		v.cfg.Log.Error("set up challenge", "verification", out.ID, "err", err)
		return notRun(basilica.CheckGPUProof, score.ReasonLocal, "the validator could not set up the challenge"), false
	}
	verifier.Spool(spool)
	c := challenge{verifier: verifier, stream: stream, hangUp: hangUp, now: v.cfg.Now, began: t.gate.started, opening: t.gate.opening, ready: func(ctx context.Context) error {
		if !arrive() {
			return basilica.E(basilica.Unavailable, reasonLate, "the machine was ready only after the miner's other machines had begun", "start all machines of a miner within the same time")
		}
		t.gate.wait(ctx, v.gateTimeout)
		out.Strength = strength(t.standing).Name
		v.cfg.Log.Info("challenge begins", "verification", out.ID, "executor", out.Executor, "strength", out.Strength)
		return nil
	}}
	defer c.release()
	if refusal := c.run(ctx); refusal != nil {
		return fail(refusal)
	}
	drain(stream, hangUp)
	if v.rotatedMeanwhile(t.gate.whole, t, e, verifier.Judgement()) {
		return notRun(basilica.CheckGPUProof, reasonKeyChanged, "the machine changed its attestation key, as the old one and the miner signed, between the miner's word and its turn"), false
	}
	return v.judged(ctx, verifier, out), true
}

// lastProven tells the owner of a busy machine what its tenant costs.
func lastProven(s score.Standing, now time.Time) string {
	switch age := now.Sub(s.LastPass); {
	case s.LastPass.IsZero():
		return "; never proven, so it earns nothing until it is"
	case age > score.BusyFull:
		return fmt.Sprintf("; last proven %.1f h ago: pay falls since %g h and ends at %g h, let the machine be free for a round", age.Hours(), score.BusyFull.Hours(), (score.BusyFull + score.BusyFall).Hours())
	default:
		return fmt.Sprintf("; last proven %.1f h ago: pay goes on in full until %g h", age.Hours(), score.BusyFull.Hours())
	}
}

func strength(s score.Standing) attest.Strength {
	if s.NeedsEnrolment() {
		return attest.EnrolmentStrength()
	}
	return attest.DefaultStrength()
}

func (v *Validator) verifier(t target, e basilica.Endorsement, out *basilica.Verification, session Session) (*attest.Verifier, error) {
	miner, err := keys.DecodeSS58(string(t.neuron.Hotkey))
	if err != nil {
		return nil, err
	}
	s := attest.Setup{
		Started:  v.cfg.Now(),
		Binding:  attest.Binding{SessionID: session.SessionID(), HostKey: session.HostKeyBlob(), MinerHotkey: miner, ValidatorHotkey: v.cfg.Hotkey.PublicKey()},
		SPKI:     e.AttestSPKI,
		Strength: strength(t.standing),
		Policy: attest.Policy{
			AllowSoftware: v.cfg.Policy.AllowSoftware, Squarings: v.cfg.Squarings, Wesolowski: v.cfg.PublicVDF, CCRoot: v.cfg.CCRoot, Limits: v.cfg.Limits,
		},
		Profiles: v.cfg.Profiles,
	}
	if t.trapdoor != nil {
		s.SetTrapdoor(t.trapdoor)
	}
	return attest.NewVerifier(s, v.cfg.Random, v.cfg.Hotkey.Sign)
}

// unkept is the verdict where there is no record: the validator's own fault, and nobody else's.
func (v *Validator) unkept(err error, out *basilica.Verification) basilica.Verdict {
	v.cfg.Log.Error("keep evidence", "verification", out.ID, "code", basilica.CodeOf(err), "err", err, "fix", basilica.FixOf(err))
	return notRun(basilica.CheckGPUProof, score.ReasonLocal, "the validator could not keep the record of the challenge")
}

// judged turns the judgement into a verdict whose evidence is on disk. Without its record nothing passes.
func (v *Validator) judged(ctx context.Context, verifier *attest.Verifier, out *basilica.Verification) basilica.Verdict {
	j := verifier.Judgement()
	record, err := verifier.Record()
	if err != nil {
		return v.unkept(err, out)
	}
	v.dropEvidence(ctx)
	blob, err := v.cfg.Archive.PutEvidence(record)
	if err != nil {
		return v.unkept(err, out)
	}
	out.AfterOpen, out.GPUs = j.AfterOpen, j.Proven()
	return basilica.Verdict{
		Check: basilica.CheckGPUProof, Result: j.Verdict(), Reason: j.Reason, Detail: j.Detail,
		Evidence: &basilica.Evidence{Blob: blob, Class: string(j.Class), Signed: j.Signed},
	}
}

// dropEvidence makes room: a round of many machines brings more than may be kept.
func (v *Validator) dropEvidence(ctx context.Context) {
	n, err := v.cfg.Archive.DropEvidence(context.WithoutCancel(ctx), v.cfg.EvidenceCount, v.cfg.EvidenceBytes, v.now())
	if err != nil {
		v.cfg.Log.Error("drop old evidence", "err", err)
	} else if n > 0 {
		v.cfg.Log.Info("old evidence dropped", "records", n)
	}
}

const (
	drainTimeout = 5 * time.Second
	maxDrain     = 64 << 10
)

// drain waits until the machine has ended a session, so that it is free for the next one.
func drain(stream io.Reader, hangUp func()) {
	late := time.AfterFunc(drainTimeout, hangUp)
	defer late.Stop()
	_, _ = io.Copy(io.Discard, io.LimitReader(stream, maxDrain)) // how it ends is the machine's affair: it is judged already
}

// ask opens a subsystem, writes a request and reads the whole answer, in time and under a cap.
func (v *Validator) ask(ctx context.Context, session Session, name string, request []byte, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.CheckTimeout)
	defer cancel()
	stream, err := session.Subsystem(ctx, name)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	// A machine that refused or answered early has closed its end: what it said stands in the answer.
	var unsent error
	if len(request) > 0 {
		_, unsent = stream.Write(request)
	}
	if half, ok := stream.(interface{ CloseWrite() error }); ok && unsent == nil {
		unsent = half.CloseWrite()
	}
	answer, err := io.ReadAll(io.LimitReader(stream, most+1))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil && len(answer) == 0 {
		err = errors.Join(errors.New("the machine ended without an answer"), unsent)
	}
	if err == nil && int64(len(answer)) > most {
		err = basilica.E(basilica.Invalid, "ANSWER_SIZE", fmt.Sprintf("the answer of %s is longer than %d bytes", name, most), "")
	}
	return answer, err
}

// facts reads what the machine says of itself; it informs only.
func (v *Validator) facts(ctx context.Context, session Session, out *basilica.Verification) basilica.Verdict {
	answer, err := v.ask(ctx, session, "facts", nil, maxFacts)
	if err != nil {
		reason, detail, _ := reasonOf(ctx, err)
		return notRun(basilica.CheckFacts, reason, detail)
	}
	var f basilica.Facts
	if err := json.Unmarshal(answer, &f); err != nil {
		return notRun(basilica.CheckFacts, "MALFORMED", "the machine's facts are no JSON of facts")
	}
	bound(&f)
	out.Facts = &f
	return basilica.Verdict{Check: basilica.CheckFacts, Result: basilica.Pass, Reason: "PASS"}
}

// bound cuts facts to what is kept of them: a few bytes of JSON may stand for many more in memory and in the store.
func bound(f *basilica.Facts) {
	f.GPUs, f.Network, f.Findings = atMost(f.GPUs), atMost(f.Network), atMost(f.Findings)
	texts := []*string{&f.Hostname, &f.OS, &f.Kernel, &f.BootID, &f.CPUModel, &f.Engine, &f.EngineVersion, &f.Version}
	for i := range f.GPUs {
		g := &f.GPUs[i]
		texts = append(texts, (*string)(&g.Kind), &g.UUID, &g.Model, &g.PCI, &g.Driver)
	}
	for i := range f.Network {
		n := &f.Network[i]
		n.Addrs = atMost(n.Addrs)
		texts = append(texts, &n.Name)
		for j := range n.Addrs {
			texts = append(texts, &n.Addrs[j])
		}
	}
	for i := range f.Findings {
		r := &f.Findings[i]
		texts = append(texts, &r.Code, &r.Sentence, &r.Fix)
	}
	for _, s := range texts {
		if len(*s) > maxFactsText {
			*s = clip((*s)[:maxFactsText], maxFactsText)
		}
	}
}

// atMost is a copy that holds no more than is kept of a list of facts.
func atMost[T any](s []T) []T { return slices.Clone(s[:min(len(s), maxFactsList)]) }

// taskPath has a small task run in a container. A hostile host can fake it: a wrong answer is no proof of anything, so the
// verdict is never fail.
func (v *Validator) taskPath(ctx context.Context, session Session) basilica.Verdict {
	var nonce [32]byte
	if _, err := io.ReadFull(v.cfg.Random, nonce[:]); err != nil {
		return notRun(basilica.CheckTaskPath, score.ReasonLocal, "the validator could not draw a nonce")
	}
	request := fmt.Appendf(nil, "{\"nonce\":\"%x\"}\n", nonce)
	answer, err := v.ask(ctx, session, "check", request, maxCheckReply)
	if err != nil {
		reason, detail, _ := reasonOf(ctx, err)
		return notRun(basilica.CheckTaskPath, reason, detail)
	}
	var reply struct {
		ExitCode *int   `json:"exit_code"`
		Output   string `json:"output"` // hex of the bytes of /out/proof, which are themselves the digest in hex
	}
	if err := json.Unmarshal(answer, &reply); err != nil || reply.ExitCode == nil {
		return notRun(basilica.CheckTaskPath, "MALFORMED", "the answer is no JSON of exit code and output")
	}
	want := sha256.Sum256(append([]byte("BSLTASK\x00"), nonce[:]...))
	proof, err := hex.DecodeString(reply.Output)
	switch {
	case *reply.ExitCode != 0:
		return notRun(basilica.CheckTaskPath, "TASK_EXIT", fmt.Sprintf("the task ended with exit code %d", *reply.ExitCode))
	case err != nil || subtle.ConstantTimeCompare(proof, []byte(hex.EncodeToString(want[:]))) != 1:
		return notRun(basilica.CheckTaskPath, "TASK_OUTPUT", "the task's output is not the one that was asked for")
	}
	return basilica.Verdict{Check: basilica.CheckTaskPath, Result: basilica.Pass, Reason: "PASS"}
}
