package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"basilica/attest/attestpb"
	"basilica/keys"
)

// Signer signs VERDICT with the validator's hotkey; msg is "BSLVERD\0" | receipt.
type Signer func(msg []byte) ([]byte, error)

// phase is what a verifier waits for.
type phase uint8

const (
	phaseHello phase = iota
	phaseFill
	phaseRoots
	phaseWalk
	phaseMix
	phaseTrace
	phasePing
	phaseProof
	phaseEvidence
	phaseDecided
)

var phaseNames = [...]string{"HELLO", "FILL_DONE", "ROOTS", "WALK_DONE", "MIX_DONE", "TRACE", "PONG", "PROOF", "EVIDENCE", ""}

// gpuRun is one GPU of a running challenge.
type gpuRun struct {
	uuid     UUID
	software bool
	model    string
	profile  *Profile // nil: unknown model
	params   Params
	seed     Digest

	final   Digest // as FILL_DONE said
	checker *Checker
	walkKey Digest
	mixKey  Digest
	last    Node // root of the last round
	done    map[FrameType]bool
	times   intervals
}

// Verifier is the validator's side of one challenge as a state machine: it reads no clock and does no I/O. Its owner
// writes what Next gives, calls Sent when the last byte is out, reads frames under Cap until Deadline, and hands
// them to Receive, or what went wrong to Fail. All times are the owner's clock and decide the verdict. It keeps every
// frame for the record. Not safe for concurrent use.
type Verifier struct {
	setup  Setup
	draw   sampler
	sign   Signer
	rec    recorder
	trap   *Trapdoor         // nil: no VDF, or one with a proof
	ccRoot *x509.Certificate // nil: CC reports are not looked at
	limits Limits

	phase    phase
	queue    []Frame
	sent     time.Duration // when the last frame was out
	now      time.Duration // of the last event
	begun    time.Duration // of the waiting that the deadline of the phase counts from
	opened   bool          // OPEN was sent
	toward   hash.Hash     // D_VA
	back     hash.Hash     // D_AV
	run      [16]byte
	nonce    Digest
	bind     Digest
	spki     []byte
	hello    Digest
	offered  []*attestpb.Gpu // in HELLO
	gpus     []*gpuRun
	puzzle   *Puzzle
	t0       time.Duration
	echo     exchange
	items    []proofItem // still due
	proofTTL time.Duration

	cc          *CCFinding
	cheat       Result // first failed check; no sign of it is given before EVIDENCE has arrived
	cheatDetail string
	judgement   Judgement
}

// NewVerifier starts a challenge. random is crypto/rand in production; sign may be nil, then no VERDICT is sent.
func NewVerifier(s Setup, random io.Reader, sign Signer) (*Verifier, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("set up challenge: %w", err)
	}
	v := &Verifier{setup: s, sign: sign, limits: s.Policy.Limits.withDefaults(), toward: sha256.New(), back: sha256.New()}
	v.draw.r = io.TeeReader(random, &v.rec.tape)
	if s.Policy.Squarings > 0 && !s.Policy.Wesolowski {
		trap, err := s.trapdoor()
		if err != nil {
			return nil, fmt.Errorf("set up challenge: %w", err)
		}
		v.trap = trap
	}
	if len(s.Policy.CCRoot) > 0 {
		root, err := x509.ParseCertificate(s.Policy.CCRoot)
		if err != nil {
			return nil, fmt.Errorf("set up challenge: %w: cc_root is no certificate", ErrParams)
		}
		v.ccRoot = root
	}
	return v, nil
}

// Done says that the challenge is decided and nothing is left to send.
func (v *Verifier) Done() bool { return v.phase == phaseDecided && len(v.queue) == 0 }

// Judgement is the outcome; before Done its zero value, which is not a pass.
func (v *Verifier) Judgement() Judgement { return v.judgement }

// Next gives the frame to write now, and whether there is one. It is the same until Sent.
func (v *Verifier) Next() (Frame, bool) {
	if len(v.queue) == 0 {
		return nil, false
	}
	return v.queue[0], true
}

// Sent says that the last byte of the frame of Next was written at now.
func (v *Verifier) Sent(now time.Time) {
	if len(v.queue) == 0 {
		return
	}
	at := v.at(now)
	f := v.queue[0]
	v.queue = v.queue[1:]
	v.rec.add(eventSent, at, f)
	v.toward.Write(f)
	v.now, v.sent, v.begun = at, at, at
	switch f.Type() {
	case FrameChallenge:
		v.t0 = at
	case FramePing, FrameEcho:
		v.echo.sent = at
	}
}

func (v *Verifier) at(now time.Time) time.Duration { return max(v.now, now.Sub(v.setup.Started)) }

// Deadline is when the next frame must be in, or out where Next has one.
func (v *Verifier) Deadline() time.Time { return v.setup.Started.Add(v.deadline()) }

func (v *Verifier) deadline() time.Duration {
	if len(v.queue) > 0 {
		wait := v.limits.Write
		if v.phase == phaseDecided {
			wait = min(wait, farewell)
		}
		return v.now + wait
	}
	switch v.phase {
	case phaseHello:
		return v.limits.Hello
	case phaseFill:
		return v.t0 + v.limits.Fill
	case phaseRoots:
		return v.begun + v.limits.Roots
	case phaseWalk:
		return v.sent + v.limits.Walk
	case phaseMix:
		return v.sent + v.limits.Mix
	case phaseTrace:
		return v.begun + v.limits.Trace
	case phasePing:
		return min(v.echo.sent+v.limits.Ping, v.echo.begun+v.echo.total())
	case phaseProof:
		return v.sent + v.proofTTL
	case phaseEvidence:
		d := v.begun + v.limits.Evidence
		if v.puzzle != nil {
			d = max(d, v.t0+vdfTime(v.puzzle.T))
		}
		return d
	}
	return v.now
}

// farewell is how long VERDICT or ABORT may take: the outcome does not depend on them.
const farewell = 2 * time.Second

// vdfTime is what T squarings may take: four times that of 0.8 M/s.
func vdfTime(t uint64) time.Duration {
	return time.Duration(4 * float64(t) / 0.8e6 * float64(time.Second))
}

// Cap says which frames may come now and how long their payload may be.
func (v *Verifier) Cap(t FrameType) (int, bool) {
	if v.phase == phaseDecided || len(v.queue) > 0 {
		return 0, false
	}
	most := func(of func(p Params) int) (n int) {
		for _, g := range v.gpus {
			n = max(n, of(g.params))
		}
		return NodeSize*n + slack
	}
	switch {
	case t == FrameAbort:
		return 512, true
	case t == FrameHello && v.phase == phaseHello:
		return 64 * kib, true
	case t == FrameFillDone && v.phase == phaseFill, t == FrameMixDone && v.phase == phaseMix:
		return slack, true
	case t == FrameRoots && v.phase == phaseRoots:
		return most(func(p Params) int { return p.Layers }), true
	case t == FrameWalkDone && v.phase == phaseWalk:
		return most(func(p Params) int { return p.Batches }), true
	case t == FrameTrace && v.phase == phaseTrace:
		return most(func(p Params) int { return p.Rounds }), true
	case t == FramePong && v.phase == phasePing && !v.echo.isEcho(), t == FrameEchoReply && v.phase == phasePing && v.echo.isEcho():
		return slack, true
	case t == FrameProof && v.phase == phaseProof:
		return v.items[0].size + slack, true
	case t == FrameEvidence && v.phase == phaseEvidence:
		return 256 * kib, true
	}
	return 0, false
}

// Failure is the kind of what went wrong outside of the state machine.
type Failure uint8

// The failures. Their numbers stand in records.
const (
	FailFrame     Failure = 1 // what came is no frame that may come now: MALFORMED
	FailTimeout   Failure = 2 // the deadline passed: UNKNOWN
	FailTransport Failure = 3 // the channel broke or ended: UNKNOWN
	FailLocal     Failure = 4 // the validator's own fault: LOCAL_ERROR
)

// FailureOf sorts an error of ReadFrame or of the channel: ErrFrame, a passed deadline, the caller's own end
// (context.Canceled), else the channel's fault.
func FailureOf(err error) Failure {
	var late interface{ Timeout() bool } // os.ErrDeadlineExceeded, context.DeadlineExceeded and what net gives
	switch {
	case errors.Is(err, ErrFrame):
		return FailFrame
	case errors.As(err, &late) && late.Timeout():
		return FailTimeout
	case errors.Is(err, context.Canceled):
		return FailLocal
	}
	return FailTransport
}

// Fail ends the challenge for a reason that no frame tells. After the decision it only drops what was still to send. A
// timeout before the deadline was not the verifier's own, but one of the network below: it counts as a broken channel.
func (v *Verifier) Fail(kind Failure, detail string, now time.Time) {
	at := v.at(now)
	if kind == FailTimeout && at < v.deadline() {
		kind = FailTransport
	}
	v.now = at
	detail = clip(detail, 400)
	v.rec.add(eventFailed, at, append([]byte{byte(kind)}, detail...))
	v.queue = nil
	if v.phase == phaseDecided {
		return
	}
	waiting := phaseNames[v.phase]
	switch kind {
	case FailFrame:
		v.end(Malformed, "MALFORMED_"+waiting, detail)
	case FailTimeout:
		v.end(Unknown, "TIMEOUT_"+waiting, detail)
	case FailTransport:
		v.end(Unknown, "TRANSPORT_"+waiting, detail)
	default:
		v.end(LocalError, string(LocalError), detail)
	}
}

// clip makes foreign text safe to store and show: printable ASCII, of bounded length.
func clip(s string, most int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, s[:min(len(s), most)])
}

// Receive takes a whole frame that arrived at now.
func (v *Verifier) Receive(f Frame, now time.Time) {
	if v.phase == phaseDecided {
		return
	}
	late := v.at(now) > v.deadline()
	v.now = v.at(now)
	v.rec.add(eventReceived, v.now, f)
	if v.rec.err != nil {
		v.end(LocalError, string(LocalError), "the record of the challenge could not be kept: "+clip(v.rec.err.Error(), 200))
		return
	}
	if err := parseFrame(f, v.Cap); err != nil {
		v.end(Malformed, "MALFORMED_"+phaseNames[v.phase], err.Error())
		return
	}
	if late {
		v.end(Unknown, "TIMEOUT_"+phaseNames[v.phase], "the answer came after its deadline")
		return
	}
	if f.Type() != FrameEvidence {
		v.back.Write(f)
	}
	waiting := v.phase
	if err := v.take(f); err != nil {
		v.end(Malformed, "MALFORMED_"+phaseNames[waiting], err.Error())
		return
	}
	if v.draw.err != nil {
		v.end(LocalError, string(LocalError), v.draw.err.Error())
	}
}

// take dispatches a frame that may come now. An error is a violation of the protocol.
func (v *Verifier) take(f Frame) error {
	switch f.Type() {
	case FrameAbort:
		return v.takeAbort(f)
	case FrameHello:
		return v.takeHello(f)
	case FrameFillDone:
		return v.takeFillDone(f)
	case FrameRoots:
		return v.takeRoots(f)
	case FrameWalkDone:
		return v.takeWalkDone(f)
	case FrameMixDone:
		return v.takeMixDone(f)
	case FrameTrace:
		return v.takeTrace(f)
	case FramePong, FrameEchoReply:
		return v.takePong(f)
	case FrameProof:
		return v.takeProof(f)
	case FrameEvidence:
		return v.takeEvidence(f)
	}
	return fmt.Errorf("%w: %v", ErrFrame, f.Type())
}

// decode parses a payload and refuses fields that the message does not have.
func decode(f Frame, m proto.Message) error {
	if err := proto.Unmarshal(f.payload(), m); err != nil {
		return fmt.Errorf("%w: %v: not its message", ErrFrame, f.Type())
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return fmt.Errorf("%w: %v has unknown fields", ErrFrame, f.Type())
	}
	return nil
}

// stable encodes the same message to the same bytes within one version: replays of a record compare frames.
var stable = proto.MarshalOptions{Deterministic: true}

// encode makes a frame of a message of this package, which always encodes.
func encode(t FrameType, m proto.Message) Frame {
	f, err := stable.MarshalAppend(make(Frame, frameHeader, frameHeader+stable.Size(m)), m)
	if err != nil {
		panic("attest: encode " + t.String() + ": " + err.Error()) // only invalid UTF-8 can do this, and none is put in
	}
	return sealed(f, t)
}

func (v *Verifier) send(t FrameType, m proto.Message) { v.queue = append(v.queue, encode(t, m)) }

// suspect notes a failed check and goes on: the attestor learns nothing before it has signed the transcript.
func (v *Verifier) suspect(r Result, format string, args ...any) {
	if v.cheat == undecided {
		v.cheat, v.cheatDetail = r, fmt.Sprintf(format, args...)
	}
}

// end decides early. A check that failed before outweighs how the challenge ended.
func (v *Verifier) end(r Result, reason, detail string) {
	j := Judgement{Result: r, Reason: reason, Detail: detail, AfterOpen: v.opened && r != LocalError}
	if v.cheat != undecided {
		j.Result, j.Reason, j.Detail = v.cheat, string(v.cheat), v.cheatDetail
	}
	v.decide(j)
	v.queue = nil
	if r != LocalError {
		v.send(FrameAbort, &attestpb.Abort{Code: 1, Text: clip(reason, 200)})
	}
}

// decide fixes the judgement; what is common to all ends is filled in here.
func (v *Verifier) decide(j Judgement) {
	j.CCReport = v.cc
	j.Class = Shown{CCReport: v.cc != nil && v.cc.Verified}.Class()
	for _, g := range v.gpus {
		if g.software {
			j.Class = ClassSoftware
		}
	}
	j.SPKI = v.spki
	j.RTT = v.echo.minEcho.Seconds()
	if v.echo.minPing > 0 && v.echo.minEcho > 0 {
		j.PingExcess = (v.echo.minPing - v.echo.minEcho).Seconds()
	}
	j.Transcript = v.transcript()
	v.judgement, v.phase = j, phaseDecided
}

func (v *Verifier) transcript() Digest {
	return tagged("BSLTRAN\x00").raw(v.toward.Sum(nil)).raw(v.back.Sum(nil)).sum()
}

func (v *Verifier) takeAbort(f Frame) error {
	var m attestpb.Abort
	if err := decode(f, &m); err != nil {
		return err
	}
	v.end(Unknown, fmt.Sprintf("ABORTED_%d", m.GetCode()), "the attestor ended the run: "+clip(m.GetText(), 200))
	v.queue = nil
	return nil
}

func (v *Verifier) takeHello(f Frame) error {
	var m attestpb.Hello
	if err := decode(f, &m); err != nil {
		return err
	}
	if _, err := keys.ParseP256SPKI(m.GetSpki()); err != nil {
		return err
	}
	if len(m.GetGpus()) == 0 || len(m.GetGpus()) > MaxGPUs {
		return fmt.Errorf("%w: HELLO names %d GPUs", ErrFrame, len(m.GetGpus()))
	}
	v.spki, v.hello, v.offered = m.GetSpki(), sha256.Sum256(f), m.GetGpus()
	if len(v.setup.SPKI) > 0 && !bytes.Equal(v.setup.SPKI, v.spki) {
		v.end(CheatKey, string(CheatKey), "the attestation key is not the pinned one")
		return nil
	}
	gpus, reason, err := v.choose(m.GetGpus())
	if err != nil {
		return err
	}
	if reason != "" {
		v.end(Unknown, reason, "the machine does not offer the devices to be proven")
		return nil
	}
	v.gpus = gpus
	v.limits = v.limits.forGPUs(gpus)
	v.challenge()
	return nil
}

// Offered gives the devices that HELLO named, in the machine's own words; none before it.
func (v *Verifier) Offered() []DeviceInfo {
	var out []DeviceInfo
	for _, o := range v.offered {
		d := DeviceInfo{
			Name: o.GetName(), PCI: o.GetPci(), Serial: o.GetSerial(), VRAMBytes: o.GetVramBytes(), FreeBytes: o.GetFreeBytes(), CC: o.GetCc(), Software: o.GetKind() == 1,
		}
		copy(d.UUID[:], o.GetUuid16())
		out = append(out, d)
	}
	return out
}

// choose picks the GPUs to prove out of HELLO and sizes their challenges. A reason says why the challenge cannot run.
func (v *Verifier) choose(offered []*attestpb.Gpu) (gpus []*gpuRun, reason string, err error) {
	byUUID := map[UUID]*attestpb.Gpu{}
	claims := v.setup.Claims
	for _, o := range offered {
		if len(o.GetUuid16()) != 16 || o.GetKind() > 1 {
			return nil, "", fmt.Errorf("%w: HELLO describes a GPU without a UUID or of kind %d", ErrFrame, o.GetKind())
		}
		u := UUID(o.GetUuid16())
		if byUUID[u] != nil {
			return nil, "", fmt.Errorf("%w: HELLO names GPU %v twice", ErrFrame, u)
		}
		byUUID[u] = o
		if len(v.setup.Claims) == 0 {
			claims = append(claims, Claim{UUID: u})
		}
	}
	for _, c := range claims {
		o := byUUID[c.UUID]
		if o == nil {
			return nil, "GPU_MISSING", nil
		}
		g := &gpuRun{uuid: c.UUID, software: o.GetKind() == 1, model: c.Model, done: map[FrameType]bool{}}
		if g.software && !v.setup.Policy.AllowSoftware {
			return nil, "SOFTWARE_REFUSED", nil
		}
		if g.model == "" || g.software {
			g.model = clip(o.GetName(), 100)
		}
		g.profile = v.setup.Profiles.find(g.model, g.software)
		switch {
		case g.profile != nil:
			g.params, err = g.profile.params()
		case g.software:
			return nil, "NO_SOFTWARE_PROFILE", nil
		default:
			g.params, err = ParamsFor(o.GetVramBytes(), 0)
		}
		if err != nil {
			return nil, "GPU_UNSUPPORTED", nil
		}
		gpus = append(gpus, g)
	}
	return gpus, "", nil
}

// challenge draws the nonce, after HELLO, and queues CHALLENGE.
func (v *Verifier) challenge() {
	v.run, v.nonce = v.draw.bytes16(), v.draw.digest()
	v.bind = v.setup.Binding.Bind(v.spki)
	m := &attestpb.Challenge{Run16: v.run[:], Nonce32: v.nonce[:], Bind32: v.bind[:]}
	for i, g := range v.gpus {
		p := g.params
		g.seed = Seed(v.nonce, v.bind, i, g.uuid, p)
		m.Jobs = append(m.Jobs, &attestpb.Job{
			G: uint32(i), Uuid16: g.uuid[:], N: uint32(p.N), Layers: uint32(p.Layers), Lanes: uint32(p.Lanes),
			Steps: uint32(p.Steps), Batches: uint32(p.Batches), WinLayers: uint32(p.WinLayers),
			Cells: uint32(p.Cells), Rounds: uint32(p.Rounds),
		})
	}
	if t := v.setup.Policy.Squarings; t > 0 {
		var z Puzzle
		if v.setup.Policy.Wesolowski {
			z = PublicPuzzle(v.nonce, t)
		} else {
			z = v.trap.Puzzle(v.nonce, t)
		}
		v.puzzle = &z
		m.Vdf = &attestpb.Vdf{
			N: z.N.FillBytes(make([]byte, VDFBytes)), X: z.X.FillBytes(make([]byte, VDFBytes)), T: z.T, Wesolowski: z.Wesolowski,
		}
	}
	l := v.limits
	evidence := l.Evidence
	if v.puzzle != nil {
		evidence = max(evidence, vdfTime(v.puzzle.T))
	}
	for _, d := range [...]time.Duration{l.Fill, l.Roots, l.Walk, l.Mix, l.Trace, l.Ping, v.proofLimit(), evidence} {
		m.DeadlinesMs = append(m.DeadlinesMs, uint32(d.Milliseconds()))
	}
	v.send(FrameChallenge, m)
	v.phase = phaseFill
}
