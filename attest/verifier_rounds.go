package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"basilica/attest/attestpb"
	"basilica/keys"
)

// EvidenceType is the DSSE payload type of a signed statement.
const EvidenceType = "application/vnd.basilica.gpow1-evidence"

// once marks that GPU g has sent a frame of a type; a second one, or a g out of range, is an error.
func (v *Verifier) once(g uint32, t FrameType) (*gpuRun, error) {
	if uint64(g) >= uint64(len(v.gpus)) {
		return nil, fmt.Errorf("%w: %v of GPU %d", ErrFrame, t, g)
	}
	run := v.gpus[g]
	if run.done[t] {
		return nil, fmt.Errorf("%w: second %v of GPU %d", ErrFrame, t, g)
	}
	run.done[t] = true
	return run, nil
}

func (v *Verifier) all(t FrameType) bool {
	for _, g := range v.gpus {
		if !g.done[t] {
			return false
		}
	}
	return true
}

// advance goes to the next phase once every GPU has sent a frame of the type. The deadline of a phase is that of all its
// frames together: sixteen devices that hand in their frames one by one must not hold a validator for eight minutes.
func (v *Verifier) advance(t FrameType, to phase) bool {
	if !v.all(t) {
		return false
	}
	v.begun, v.phase = v.now, to
	return true
}

// nodes splits a list of exactly n digests.
func nodes(b []byte, n int) ([]Node, error) {
	if len(b) != n*NodeSize {
		return nil, fmt.Errorf("%w: %d bytes of digests, want %d", ErrLength, len(b), n*NodeSize)
	}
	out := make([]Node, n)
	for i := range out {
		out[i] = Node(b[i*NodeSize:])
	}
	return out, nil
}

func (v *Verifier) takeFillDone(f Frame) error {
	var m attestpb.FillDone
	if err := decode(f, &m); err != nil {
		return err
	}
	g, err := v.once(m.GetG(), f.Type())
	if err != nil {
		return err
	}
	if len(m.GetFinalG()) != sha256.Size {
		return fmt.Errorf("%w: final_g", ErrLength)
	}
	g.final, g.times.fill = Digest(m.GetFinalG()), v.now-v.t0
	v.advance(f.Type(), phaseRoots)
	return nil
}

// takeRoots ends at the barrier: WALK goes out when every GPU holds its whole fill.
func (v *Verifier) takeRoots(f Frame) error {
	var m attestpb.Roots
	if err := decode(f, &m); err != nil {
		return err
	}
	g, err := v.once(m.GetG(), f.Type())
	if err != nil {
		return err
	}
	roots, err := nodes(m.GetRoots(), g.params.Layers)
	if err != nil {
		return err
	}
	if g.checker, err = NewChecker(g.params, g.seed, roots); err != nil {
		return err
	}
	if g.checker.Final() != g.final {
		v.suspect(CheatFinal, "GPU %d: final_g is not that of its roots", m.GetG())
	}
	if v.advance(f.Type(), phaseWalk) {
		nonce := v.draw.digest()
		for i, g := range v.gpus {
			g.walkKey = WalkKey(nonce, i, g.seed)
		}
		v.send(FrameWalk, &attestpb.Walk{NonceW32: nonce[:]})
	}
	return nil
}

func (v *Verifier) takeWalkDone(f Frame) error {
	var m attestpb.WalkDone
	if err := decode(f, &m); err != nil {
		return err
	}
	g, err := v.once(m.GetG(), f.Type())
	if err != nil {
		return err
	}
	roots, err := nodes(m.GetWroots(), g.params.Batches)
	if err != nil {
		return err
	}
	if err := g.checker.SetWalk(g.walkKey, roots); err != nil {
		return err
	}
	g.times.walk = v.now - v.sent
	if v.advance(f.Type(), phaseMix) {
		nonce := v.draw.digest()
		for i, g := range v.gpus {
			g.mixKey = MixKey(nonce, i, g.walkKey)
		}
		v.send(FrameMix, &attestpb.Mix{NonceM32: nonce[:]})
	}
	return nil
}

func (v *Verifier) takeMixDone(f Frame) error {
	var m attestpb.MixDone
	if err := decode(f, &m); err != nil {
		return err
	}
	g, err := v.once(m.GetG(), f.Type())
	if err != nil {
		return err
	}
	if len(m.GetYroot24()) != NodeSize {
		return fmt.Errorf("%w: yroot24", ErrLength)
	}
	g.last, g.times.mix = Node(m.GetYroot24()), v.now-v.sent
	v.advance(f.Type(), phaseTrace)
	return nil
}

func (v *Verifier) takeTrace(f Frame) error {
	var m attestpb.Trace
	if err := decode(f, &m); err != nil {
		return err
	}
	g, err := v.once(m.GetG(), f.Type())
	if err != nil {
		return err
	}
	roots, err := nodes(m.GetYroots(), g.params.Rounds-1)
	if err != nil {
		return err
	}
	if err := g.checker.SetMix(g.mixKey, append(roots, g.last)); err != nil {
		return err
	}
	if v.advance(f.Type(), phasePing) {
		v.echo.begun, v.echo.want = v.now, 64
		v.nextEcho()
	}
	return nil
}

// exchange is the phase of PINGs and ECHOs: one outstanding at a time, ECHO first, while memory is still full.
type exchange struct {
	begun   time.Duration
	sent    time.Duration // when the outstanding one was out
	want    int           // PINGs, and as many ECHOs
	next    int           // number of the outstanding one: even ECHO, odd PING
	r       [16]byte
	minEcho time.Duration // 0: none yet
	minPing time.Duration
	pongs   []pong
}

// pong is an answered PING, to be checked once its block is opened.
type pong struct {
	g    int
	seq  uint32
	r    [16]byte
	hash Digest
}

func (e *exchange) isEcho() bool { return e.next%2 == 0 }

// total is how long the whole phase may take.
func (e *exchange) total() time.Duration {
	return min(60*time.Second, max(15*time.Second, 160*e.minEcho))
}

func (v *Verifier) nextEcho() {
	v.echo.r = v.draw.bytes16()
	m := &attestpb.Ping{Seq: uint32(v.echo.next), R16: v.echo.r[:]}
	if v.echo.isEcho() {
		v.send(FrameEcho, m)
		return
	}
	m.G = uint32(v.echo.next / 2 % len(v.gpus))
	v.send(FramePing, m)
}

func (v *Verifier) takePong(f Frame) error {
	var m attestpb.Pong
	if err := decode(f, &m); err != nil {
		return err
	}
	e := &v.echo
	if m.GetSeq() != uint32(e.next) || len(m.GetHash32()) != sha256.Size {
		return fmt.Errorf("%w: %v of seq %d, want %d", ErrFrame, f.Type(), m.GetSeq(), e.next)
	}
	took, hash := max(v.now-e.sent, 1), Digest(m.GetHash32())
	smallest := &e.minEcho
	if e.isEcho() {
		if hash != PongHash(e.r, nil) {
			v.suspect(CheatPing, "echo %d is not the hash of its nonce", e.next)
		}
	} else {
		smallest = &e.minPing
		e.pongs = append(e.pongs, pong{g: e.next / 2 % len(v.gpus), seq: uint32(e.next), r: e.r, hash: hash})
	}
	if *smallest == 0 || took < *smallest {
		*smallest = took
	}
	// A long way, or a machine that others keep busy, is no reason to run out of time: fewer do, though they measure less.
	if e.isEcho() && (e.minEcho >= 50*time.Millisecond || v.now-e.begun > e.total()/3) {
		e.want = 16
	}
	if e.next++; e.next < 2*e.want {
		v.nextEcho()
		return nil
	}
	v.open()
	return nil
}

// proofKind numbers the openings on the wire.
type proofKind uint32

const (
	proofFill proofKind = 1
	proofPRG  proofKind = 2
	proofWalk proofKind = 3
	proofMix  proofKind = 4
	proofPing proofKind = 5
)

// proofItem is one opening that is due: its size, and the check that its bytes must pass.
type proofItem struct {
	kind  proofKind
	index int
	size  int
	cheat Result
	check func(b []byte) error
}

// open draws the indices, now that everything is committed, and queues OPEN.
func (v *Verifier) open() {
	var o openings
	for i, g := range v.gpus {
		var pings []int
		for k, p := range v.echo.pongs {
			if p.g == i {
				pings = append(pings, k)
			}
		}
		o.draw(&v.draw, i, g.params, v.setup.Strength, pings)
	}
	m := &attestpb.Open{}
	v.items = make([]proofItem, 0, len(o.fill)+len(o.prg)+len(o.walk)+len(o.mix)+len(o.ping))
	for k, x := range o.fill {
		g := v.gpus[x.G]
		m.Fill = append(m.Fill, &attestpb.FillIndex{G: uint32(x.G), L: uint32(x.L), I: uint32(x.I), J: uint32(x.J)})
		v.items = append(v.items, proofItem{proofFill, k, g.params.FillOpening(), CheatFill, func(b []byte) error { return g.checker.Fill(x, b) }})
	}
	for k, x := range o.prg {
		g := v.gpus[x.G]
		m.Prg = append(m.Prg, &attestpb.PrgIndex{G: uint32(x.G), L: uint32(x.L), Leaf: uint32(x.Leaf)})
		v.items = append(v.items, proofItem{proofPRG, k, g.params.LeafOpening(), CheatPRG, func(b []byte) error { return g.checker.PRG(x, b) }})
	}
	for k, x := range o.walk {
		g := v.gpus[x.G]
		m.Walk = append(m.Walk, &attestpb.WalkIndex{G: uint32(x.G), Lane: uint32(x.Lane), Batch: uint32(x.Batch)})
		v.items = append(v.items, proofItem{proofWalk, k, g.params.WalkOpening(x.Batch), CheatWalk, func(b []byte) error { return g.checker.Walk(x, b) }})
	}
	for k, x := range o.mix {
		g := v.gpus[x.G]
		m.Mix = append(m.Mix, &attestpb.MixIndex{G: uint32(x.G), Round: uint32(x.Round), Cell: uint32(x.Cell)})
		v.items = append(v.items, proofItem{proofMix, k, g.params.MixOpening(x.Round), CheatMix, func(b []byte) error { return g.checker.Mix(x, b) }})
	}
	for k, at := range o.ping {
		p := v.echo.pongs[at]
		g := v.gpus[p.g]
		m.Ping = append(m.Ping, p.seq)
		v.items = append(v.items, proofItem{proofPing, k, g.params.LeafOpening(), CheatPing, func(b []byte) error { return checkPong(g, p, b) }})
	}
	f := encode(FrameOpen, m)
	if len(f) > 256*kib {
		// The machine chose how many devices it names: this must not be a fault of the validator, which never counts.
		v.end(Unknown, "OPEN_SIZE", fmt.Sprintf("the devices of HELLO need an OPEN of %d bytes, more than a frame may have", len(f)))
		return
	}
	v.proofTTL = v.proofLimit()
	v.queue = append(v.queue, f)
	v.phase, v.opened = phaseProof, true
}

func checkPong(g *gpuRun, p pong, b []byte) error {
	block, err := g.checker.Block(PingBlock(p.r, g.checker.Final(), g.params), b)
	if err != nil {
		return err
	}
	if PongHash(p.r, block) != p.hash {
		return fmt.Errorf("answer %d is not the hash of its block", p.seq)
	}
	return nil
}

// proofLimit is 30 s and the openings at 0.5 MB/s.
func (v *Verifier) proofLimit() time.Duration {
	if v.limits.Proof > 0 {
		return v.limits.Proof
	}
	bytes, q := 0, v.setup.Strength
	for _, g := range v.gpus {
		p := g.params
		bytes += q.Fill*p.FillOpening() + (q.PRG+q.Ping)*p.LeafOpening() + q.Walk*p.WalkOpening(1)
		bytes += q.Mix * p.Rounds * p.MixOpening(mixEvery)
	}
	return 30*time.Second + time.Duration(float64(bytes)/0.5e6*float64(time.Second))
}

// parseProof reads a PROOF without copying its data, which is nearly all that a verifier reads. Unlike in decode, every field
// stands at most once.
func parseProof(f Frame) (kind, index uint64, data []byte, err error) {
	seen := [4]bool{}
	for b := f.payload(); len(b) > 0; {
		field, wire, n := protowire.ConsumeTag(b)
		if n < 0 || field > 3 || seen[field] || (field == 3) != (wire == protowire.BytesType) || (field != 3) != (wire == protowire.VarintType) {
			return 0, 0, nil, fmt.Errorf("%w: PROOF: not its message", ErrFrame)
		}
		seen[field], b = true, b[n:]
		var v uint64
		if field == 3 {
			data, n = protowire.ConsumeBytes(b)
		} else {
			v, n = protowire.ConsumeVarint(b)
		}
		if n < 0 {
			return 0, 0, nil, fmt.Errorf("%w: PROOF: not its message", ErrFrame)
		}
		switch field {
		case 1:
			kind = v
		case 2:
			index = v
		}
		b = b[n:]
	}
	return kind, index, data, nil
}

func (v *Verifier) takeProof(f Frame) error {
	kind, index, data, err := parseProof(f)
	if err != nil {
		return err
	}
	item := v.items[0]
	if kind != uint64(item.kind) || index != uint64(item.index) {
		return fmt.Errorf("%w: PROOF %d/%d, want %d/%d", ErrFrame, kind, index, item.kind, item.index)
	}
	if err := length(data, item.size); err != nil {
		return err
	}
	if err := item.check(data); err != nil {
		if errors.Is(err, ErrLength) {
			return err
		}
		v.suspect(item.cheat, "opening %d: %v", item.index, err)
	}
	v.begun = v.now
	if v.items = v.items[1:]; len(v.items) == 0 {
		v.phase = phaseEvidence
	}
	return nil
}

// takeEvidence verifies first and parses after, then decides.
func (v *Verifier) takeEvidence(f Frame) error {
	var m attestpb.Evidence
	if err := decode(f, &m); err != nil {
		return err
	}
	if m.GetPayloadType() != EvidenceType || len(m.GetSig64()) != keys.P256SignatureSize {
		return fmt.Errorf("%w: EVIDENCE of type %q", ErrFrame, clip(m.GetPayloadType(), 100))
	}
	signed := true
	if keys.VerifyP256(v.spki, keys.PAE(EvidenceType, m.GetPayload()), m.GetSig64()) != nil {
		signed = false
		v.suspect(CheatKey, "the signature of the evidence does not verify")
	} else {
		var st attestpb.Statement
		if err := proto.Unmarshal(m.GetPayload(), &st); err != nil {
			return fmt.Errorf("%w: statement", ErrFrame)
		}
		if !v.bound(&st) {
			signed = false
			v.suspect(CheatBind, "the signed statement is of another run")
		} else {
			if err := v.checkVDF(&st); err != nil {
				v.suspect(CheatVDF, "%v", err)
			}
			v.cc = v.checkCC(st.GetCcReport(), st.GetCcChain())
		}
	}
	v.conclude(signed)
	return nil
}

// checkVDF holds the answer of a statement against the puzzle of CHALLENGE, if there was one.
func (v *Verifier) checkVDF(st *attestpb.Statement) error {
	switch {
	case v.puzzle == nil:
		return nil
	case v.puzzle.Wesolowski:
		return v.puzzle.VerifyWesolowski(st.GetVdfY(), st.GetVdfPi())
	}
	return v.trap.Verify(*v.puzzle, st.GetVdfY())
}

// bound says whether a statement speaks of this very run.
func (v *Verifier) bound(st *attestpb.Statement) bool {
	transcript := v.transcript()
	same := string(st.GetRun16()) == string(v.run[:]) && string(st.GetTranscript32()) == string(transcript[:]) &&
		string(st.GetHelloSha256()) == string(v.hello[:]) && len(st.GetDeviceKinds()) == len(v.gpus)
	for i, g := range v.gpus {
		same = same && (st.GetDeviceKinds()[i] == 1) == g.software
	}
	return same
}

// conclude measures, classifies and decides after EVIDENCE.
func (v *Verifier) conclude(signed bool) {
	rtt := v.echo.minEcho
	if floor := v.setup.Policy.RTTFloor; floor > 0 {
		rtt = min(rtt, floor)
	}
	j := Judgement{Result: Pass, Reason: string(Pass), Detail: "every opening and floor holds", Signed: signed}
	for i, g := range v.gpus {
		hashRate := 0.0
		if g.profile != nil {
			hashRate = g.profile.HashRate
		}
		took := &reading{params: g.params, times: g.times, echo: v.echo.minEcho, rtt: rtt}
		m := Measured{G: i, UUID: g.uuid, Software: g.software, Claim: g.model, M: g.params.FillBytes()}
		m.C, m.BW, m.BM = took.rates(hashRate)
		r, reason := v.setup.Profiles.classify(&m, g.profile, took)
		if r != Pass && j.Result == Pass {
			j.Result, j.Reason = r, reason
			j.Detail = fmt.Sprintf("every opening holds, but GPU %d is not certainly what it claims", i)
		}
		j.GPUs = append(j.GPUs, m)
	}
	if v.puzzle != nil {
		j.SequentialTimeLowerBound = float64(v.puzzle.T) / 2e7
	}
	if v.cheat != undecided {
		j.Result, j.Reason, j.Detail = v.cheat, string(v.cheat), v.cheatDetail
		j.SequentialTimeLowerBound = 0
	}
	v.decide(j)
	v.queueVerdict()
}

// queueVerdict sends the attestor its signed receipt. Without a signer, or where that fails, none is sent: the
// judgement does not depend on it.
func (v *Verifier) queueVerdict() {
	if v.sign == nil {
		return
	}
	receipt, err := stable.Marshal(v.receipt())
	if err != nil {
		return
	}
	sig, err := v.sign(verdictMessage(receipt))
	if err != nil {
		return
	}
	v.send(FrameVerdict, &attestpb.Verdict{Receipt: receipt, Signature: sig})
}

func verdictMessage(receipt []byte) []byte { return tagged("BSLVERD\x00").raw(receipt) }

// whole is a rate as an integer of 0..2^63, the same on every processor: what a conversion makes of a number out of range, or
// of none, Go leaves to each of them.
func whole(rate float64) uint64 {
	switch {
	case rate >= 1<<63:
		return 1 << 63
	case rate > 0:
		return uint64(rate)
	}
	return 0
}

func (v *Verifier) receipt() *attestpb.Receipt {
	j := v.judgement
	m := &attestpb.Receipt{
		Run16: v.run[:], UnixMs: uint64(v.setup.Started.UnixMilli()), Result: string(j.Result), Reason: j.Reason,
		Class: string(j.Class), Transcript32: j.Transcript[:],
	}
	for _, g := range j.GPUs {
		m.Gpus = append(m.Gpus, &attestpb.Measured{
			G: uint32(g.G), Uuid16: g.UUID[:], MBytes: g.M, BwBytesPerS: whole(g.BW), BmBytesPerS: whole(g.BM),
			COpsPerS: whole(g.C), Models: g.Models,
		})
	}
	return m
}
