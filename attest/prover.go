package attest

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"math/big"

	"google.golang.org/protobuf/proto"

	"basilica/attest/attestpb"
)

// DeviceInfo describes a device in HELLO.
type DeviceInfo struct {
	UUID      UUID
	Name      string
	PCI       string
	Serial    string
	VRAMBytes uint64
	FreeBytes uint64 // what a challenge may use
	CC        string // compute capability
	Software  bool   // a CPU prover: labelled so in HELLO and in the evidence
}

// Greeting is what HELLO says besides the devices.
type Greeting struct {
	Version       string
	BuildSHA256   Digest
	KernelsSHA256 []byte // 32 bytes, or none
	Driver        string
	SPKI          []byte // attestation key
	TPM           bool   // the key lives in a TPM
	Caps          uint32 // bit 0 TPM quote, 1 CC report, 2 own SSH server
	Devices       []DeviceInfo
}

// Abort codes.
const (
	AbortProtocol = 1 // a frame out of order, or a limit passed
	AbortBind     = 2 // bind32 is not that of this channel
	AbortParams   = 3 // parameters or devices that this machine does not run
	AbortDevice   = 4 // the device failed
	AbortSilent   = 5 // the validator sent nothing for too long
)

// AbortError is why a prover ends a run; Code goes over the wire.
type AbortError struct {
	Code uint32
	Text string
}

// Error gives the text.
func (e *AbortError) Error() string { return "attest: abort: " + e.Text }

func abortf(code uint32, format string, args ...any) error {
	return &AbortError{Code: code, Text: fmt.Sprintf(format, args...)}
}

// TaskKind says what a prover's owner has to do next.
type TaskKind uint8

// The tasks, in order of the protocol.
const (
	TaskWait  TaskKind = iota // nothing: write what Next gives, read on
	TaskFill                  // fill all devices of Jobs, report each by Filled; solve Puzzle meanwhile
	TaskWalk                  // walk under Keys, report each by Walked
	TaskMix                   // mix under Keys, report each by Mixed; then trace, report each by Traced
	TaskBlock                 // read Block of GPU G, report by Answer
	TaskOpen                  // open Requests, report each by Proved, in order; then Evidence
	TaskDone                  // VERDICT has arrived
)

// Task is the work that a frame asks for. The lists have one entry per GPU of the challenge.
type Task struct {
	Kind     TaskKind
	Jobs     []Job
	Puzzle   *Puzzle // nil: none
	Keys     []Digest
	G        int
	Block    uint64
	Requests []OpenRequest
	Verdict  *attestpb.Verdict
}

// Job is the fill of one GPU.
type Job struct {
	Device int // position in Greeting.Devices
	Params Params
	Seed   Digest
}

// Prover is the attestor's side of one challenge as a state machine without I/O, the mirror of Verifier: its owner
// reads frames under Cap, hands them to Receive, does the task, reports, and writes what Next gives. Not safe for
// concurrent use.
type Prover struct {
	greet   Greeting
	binding *Binding
	hello   Digest
	queue   []Frame
	toward  hash.Hash // D_VA
	back    hash.Hash // D_AV
	phase   phase

	run      []byte
	jobs     []Job
	finals   []Digest
	roots    []Frame // ROOTS, held back until every fill is done
	walkKeys []Digest
	done     map[FrameType]int
	pings    map[uint32]ping
	open     []proofPart
}

// ping is an answered PING, whose block may be asked for in OPEN.
type ping struct {
	g     int
	block uint64
}

// proofPart says where the openings of a kind of one GPU go in the order of PROOF frames.
type proofPart struct{ fill, prg, walk, mix, ping []int }

// NewProver queues HELLO. binding is what this machine's SSH server says of the channel; nil where it says nothing:
// then bind32 is taken as sent.
func NewProver(g Greeting, binding *Binding) (*Prover, error) {
	if len(g.Devices) == 0 || len(g.Devices) > MaxGPUs {
		return nil, fmt.Errorf("attest: %d devices, 1 to %d can be proven at once", len(g.Devices), MaxGPUs)
	}
	p := &Prover{
		greet: g, binding: binding, toward: sha256.New(), back: sha256.New(),
		done: map[FrameType]int{}, pings: map[uint32]ping{},
	}
	m := &attestpb.Hello{
		Version: clip(g.Version, 100), BuildSha256: g.BuildSHA256[:], KernelsSha256: g.KernelsSHA256, Driver: clip(g.Driver, 100),
		Spki: g.SPKI, Caps: g.Caps,
	}
	if g.TPM {
		m.KeyKind = 1
	}
	for _, d := range g.Devices {
		o := &attestpb.Gpu{
			Uuid16: d.UUID[:], Name: clip(d.Name, 100), Pci: clip(d.PCI, 100), Serial: clip(d.Serial, 100),
			VramBytes: d.VRAMBytes, FreeBytes: d.FreeBytes, Cc: clip(d.CC, 100),
		}
		if d.Software {
			o.Kind = 1
		}
		m.Gpus = append(m.Gpus, o)
	}
	f := p.send(FrameHello, m)
	p.hello = sha256.Sum256(f)
	return p, nil
}

// Next takes the next frame to write off the queue, and says whether there was one.
func (p *Prover) Next() (Frame, bool) {
	if len(p.queue) == 0 {
		return nil, false
	}
	f := p.queue[0]
	p.queue = p.queue[1:]
	return f, true
}

func (p *Prover) send(t FrameType, m proto.Message) Frame {
	f := encode(t, m)
	p.enqueue(f)
	return f
}

func (p *Prover) enqueue(f Frame) {
	if f.Type() != FrameEvidence {
		p.back.Write(f)
	}
	p.queue = append(p.queue, f)
}

// Abort queues the end of the run with a code of this package.
func (p *Prover) Abort(code uint32, text string) {
	p.queue = append(p.queue, encode(FrameAbort, &attestpb.Abort{Code: code, Text: clip(text, 400)}))
	p.phase = phaseDecided
}

// Cap says which frames may come now.
func (p *Prover) Cap(t FrameType) (int, bool) {
	switch {
	case t == FrameAbort && p.phase != phaseDecided:
		return 512, true
	case t == FrameChallenge && p.phase == phaseHello:
		return 64 * kib, true
	case t == FrameWalk && p.phase == phaseWalk, t == FrameMix && p.phase == phaseMix,
		(t == FramePing || t == FrameEcho) && p.phase == phasePing:
		return slack, true
	case t == FrameOpen && p.phase == phasePing:
		return 256 * kib, true
	case t == FrameVerdict && p.phase == phaseEvidence:
		return 64 * kib, true
	}
	return 0, false
}

// Receive takes a whole frame and says what to do. An *AbortError is to be sent by Abort; other errors mean that the
// validator has ended the run or does not keep to the protocol.
func (p *Prover) Receive(f Frame) (Task, error) {
	if err := parseFrame(f, p.Cap); err != nil {
		return Task{}, abortf(AbortProtocol, "%v", err)
	}
	if f.Type() != FrameVerdict && f.Type() != FrameAbort {
		p.toward.Write(f)
	}
	switch f.Type() {
	case FrameChallenge:
		return p.takeChallenge(f)
	case FrameWalk:
		var m attestpb.Walk
		if err := decode(f, &m); err != nil || len(m.GetNonceW32()) != sha256.Size {
			return Task{}, abortf(AbortProtocol, "bad WALK")
		}
		p.walkKeys = make([]Digest, len(p.jobs))
		for i, j := range p.jobs {
			p.walkKeys[i] = WalkKey(Digest(m.GetNonceW32()), i, j.Seed)
		}
		return Task{Kind: TaskWalk, Keys: p.walkKeys}, nil
	case FrameMix:
		var m attestpb.Mix
		if err := decode(f, &m); err != nil || len(m.GetNonceM32()) != sha256.Size {
			return Task{}, abortf(AbortProtocol, "bad MIX")
		}
		ks := make([]Digest, len(p.jobs))
		for i := range ks {
			ks[i] = MixKey(Digest(m.GetNonceM32()), i, p.walkKeys[i])
		}
		return Task{Kind: TaskMix, Keys: ks}, nil
	case FramePing, FrameEcho:
		return p.takePing(f)
	case FrameOpen:
		return p.takeOpen(f)
	case FrameVerdict:
		var m attestpb.Verdict
		if err := decode(f, &m); err != nil {
			return Task{}, err
		}
		p.phase = phaseDecided
		return Task{Kind: TaskDone, Verdict: &m}, nil
	}
	var m attestpb.Abort
	if err := decode(f, &m); err != nil {
		return Task{}, err
	}
	p.phase = phaseDecided
	return Task{}, fmt.Errorf("attest: the validator ended the run (%d): %s", m.GetCode(), clip(m.GetText(), 200))
}

func (p *Prover) takeChallenge(f Frame) (Task, error) {
	var m attestpb.Challenge
	if err := decode(f, &m); err != nil {
		return Task{}, abortf(AbortProtocol, "%v", err)
	}
	if len(m.GetRun16()) != 16 || len(m.GetNonce32()) != 32 || len(m.GetBind32()) != 32 || len(m.GetJobs()) == 0 || len(m.GetJobs()) > MaxGPUs {
		return Task{}, abortf(AbortProtocol, "bad CHALLENGE")
	}
	nonce, bind := Digest(m.GetNonce32()), Digest(m.GetBind32())
	if p.binding != nil && p.binding.Bind(p.greet.SPKI) != bind {
		return Task{}, abortf(AbortBind, "bind32 is not that of this channel, key and hotkeys")
	}
	taken := map[int]bool{}
	for i, j := range m.GetJobs() {
		job, err := p.job(i, j)
		if err != nil {
			return Task{}, err
		}
		if taken[job.Device] {
			return Task{}, abortf(AbortParams, "GPU asked for twice")
		}
		taken[job.Device] = true
		job.Seed = Seed(nonce, bind, i, UUID(j.GetUuid16()), job.Params)
		p.jobs = append(p.jobs, job)
	}
	t := Task{Kind: TaskFill, Jobs: p.jobs}
	if z := m.GetVdf(); z != nil {
		puzzle := Puzzle{N: new(big.Int).SetBytes(z.GetN()), X: new(big.Int).SetBytes(z.GetX()), T: z.GetT(), Wesolowski: z.GetWesolowski()}
		if puzzle.Check() != nil || puzzle.X.Cmp(VDFInput(nonce, puzzle.N)) != 0 {
			return Task{}, abortf(AbortParams, "VDF out of range, or its x not made of the nonce")
		}
		t.Puzzle = &puzzle
	}
	p.run, p.phase = m.GetRun16(), phaseFill
	p.finals, p.roots = make([]Digest, len(p.jobs)), make([]Frame, len(p.jobs))
	return t, nil
}

// job finds the device of a job and refuses sizes that it does not hold.
func (p *Prover) job(i int, j *attestpb.Job) (Job, error) {
	if j.GetG() != uint32(i) || len(j.GetUuid16()) != 16 {
		return Job{}, abortf(AbortProtocol, "job %d is of GPU %d", i, j.GetG())
	}
	q := Params{
		N: int(j.GetN()), Layers: int(j.GetLayers()), Lanes: int(j.GetLanes()), Steps: int(j.GetSteps()), Batches: int(j.GetBatches()),
		WinLayers: int(j.GetWinLayers()), Cells: int(j.GetCells()), Rounds: int(j.GetRounds()),
	}
	if err := q.Check(); err != nil {
		return Job{}, abortf(AbortParams, "job %d: %v", i, err)
	}
	for k, d := range p.greet.Devices {
		if d.UUID == UUID(j.GetUuid16()) {
			if q.DeviceBytes() > d.FreeBytes {
				return Job{}, abortf(AbortParams, "job %d needs %d bytes, %d are free", i, q.DeviceBytes(), d.FreeBytes)
			}
			return Job{Device: k, Params: q}, nil
		}
	}
	return Job{}, abortf(AbortParams, "job %d is of a GPU that HELLO did not name", i)
}

// report counts a device's report in a phase and moves on after the last one.
func (p *Prover) report(in phase, t FrameType, g int, to phase) error {
	if p.phase != in || g < 0 || g >= len(p.jobs) {
		return ErrOrder
	}
	if p.done[t]++; p.done[t] == len(p.jobs) {
		p.phase = to
	}
	return nil
}

// Filled reports that GPU g holds its fill. ROOTS frames wait for the last of them: an upload must not stand in front
// of a timed frame.
func (p *Prover) Filled(g int, roots []Node) error {
	if err := p.report(phaseFill, FrameFillDone, g, phaseWalk); err != nil {
		return err
	}
	p.finals[g] = Final(p.jobs[g].Seed, roots)
	p.send(FrameFillDone, &attestpb.FillDone{G: uint32(g), FinalG: p.finals[g][:]})
	p.roots[g] = encode(FrameRoots, &attestpb.Roots{G: uint32(g), Roots: join24(roots)})
	if p.phase == phaseWalk {
		for _, f := range p.roots {
			p.enqueue(f)
		}
		p.roots = nil
	}
	return nil
}

func join24(ns []Node) []byte {
	b := make([]byte, 0, len(ns)*NodeSize)
	for _, n := range ns {
		b = append(b, n[:]...)
	}
	return b
}

// Walked reports the roots of all batches of GPU g.
func (p *Prover) Walked(g int, roots []Node) error {
	if err := p.report(phaseWalk, FrameWalkDone, g, phaseMix); err != nil {
		return err
	}
	p.send(FrameWalkDone, &attestpb.WalkDone{G: uint32(g), Wroots: join24(roots)})
	return nil
}

// Mixed reports the root of the last round of GPU g.
func (p *Prover) Mixed(g int, last Node) error {
	if err := p.report(phaseMix, FrameMixDone, g, phaseTrace); err != nil {
		return err
	}
	p.send(FrameMixDone, &attestpb.MixDone{G: uint32(g), Yroot24: last[:]})
	return nil
}

// Traced reports the roots of all rounds but the last one of GPU g.
func (p *Prover) Traced(g int, roots []Node) error {
	if err := p.report(phaseTrace, FrameTrace, g, phasePing); err != nil {
		return err
	}
	p.send(FrameTrace, &attestpb.Trace{G: uint32(g), Yroots: join24(roots)})
	return nil
}

func (p *Prover) takePing(f Frame) (Task, error) {
	var m attestpb.Ping
	if err := decode(f, &m); err != nil || len(m.GetR16()) != 16 || uint64(m.GetG()) >= uint64(len(p.jobs)) || len(p.pings) > 64 {
		return Task{}, abortf(AbortProtocol, "bad %v", f.Type())
	}
	r := [16]byte(m.GetR16())
	if f.Type() == FrameEcho {
		h := PongHash(r, nil)
		p.send(FrameEchoReply, &attestpb.Pong{Seq: m.GetSeq(), Hash32: h[:]})
		return Task{}, nil
	}
	g := int(m.GetG())
	x := ping{g: g, block: PingBlock(r, p.finals[g], p.jobs[g].Params)}
	p.pings[m.GetSeq()] = x
	return Task{Kind: TaskBlock, G: g, Block: x.block}, nil
}

// Answer reports the block of the PING that f was; f is the frame that asked.
func (p *Prover) Answer(f Frame, block []byte) error {
	var m attestpb.Ping
	if err := decode(f, &m); err != nil || p.phase != phasePing || len(m.GetR16()) != 16 || len(block) != BlockSize {
		return ErrOrder
	}
	h := PongHash([16]byte(m.GetR16()), block)
	p.send(FramePong, &attestpb.Pong{Seq: m.GetSeq(), Hash32: h[:]})
	return nil
}
