package attest

import (
	"fmt"

	"basilica/attest/attestpb"
	"basilica/keys"
)

// excessive says that OPEN asks for more than any strength does: openings are some thousand times as long as the indices that
// ask for them, and are held in memory until they are sent.
func (p *Prover) excessive(m *attestpb.Open) bool {
	most, g, rounds := mostStrength(), len(p.jobs), 0
	for _, j := range p.jobs {
		rounds += j.Params.Rounds
	}
	return len(m.GetFill()) > g*most.Fill || len(m.GetPrg()) > g*most.PRG || len(m.GetWalk()) > g*most.Walk ||
		len(m.GetMix()) > rounds*most.Mix || len(m.GetPing()) > g*most.Ping
}

// takeOpen checks every index against the parameters and sorts them by GPU.
func (p *Prover) takeOpen(f Frame) (Task, error) {
	var m attestpb.Open
	if err := decode(f, &m); err != nil {
		return Task{}, abortf(AbortProtocol, "%v", err)
	}
	if p.excessive(&m) {
		return Task{}, abortf(AbortProtocol, "OPEN asks for more than a challenge may open")
	}
	reqs := make([]OpenRequest, len(p.jobs))
	p.open = make([]proofPart, len(p.jobs))
	// at gives the job of GPU g where every index is below its bound.
	at := func(g uint32) (Params, bool) {
		if uint64(g) >= uint64(len(p.jobs)) {
			return Params{}, false
		}
		return p.jobs[g].Params, true
	}
	bad := abortf(AbortProtocol, "OPEN names something that the challenge does not have")
	for k, x := range m.GetFill() {
		q, ok := at(x.GetG())
		if !ok || x.GetL() < 2 || int(x.GetL()) >= q.Layers || int(x.GetI()) >= q.N || int(x.GetJ()) >= q.N {
			return Task{}, bad
		}
		r, o := &reqs[x.GetG()], &p.open[x.GetG()]
		r.Fill, o.fill = append(r.Fill, FillIndex{int(x.GetG()), int(x.GetL()), int(x.GetI()), int(x.GetJ())}), append(o.fill, k)
	}
	for k, x := range m.GetPrg() {
		q, ok := at(x.GetG())
		if !ok || x.GetL() > 1 || int(x.GetLeaf()) >= q.layerLeaves() {
			return Task{}, bad
		}
		r, o := &reqs[x.GetG()], &p.open[x.GetG()]
		r.PRG, o.prg = append(r.PRG, PRGIndex{int(x.GetG()), int(x.GetL()), int(x.GetLeaf())}), append(o.prg, k)
	}
	for k, x := range m.GetWalk() {
		q, ok := at(x.GetG())
		if !ok || int(x.GetLane()) >= q.Lanes || int(x.GetBatch()) >= q.Batches {
			return Task{}, bad
		}
		r, o := &reqs[x.GetG()], &p.open[x.GetG()]
		r.Walk, o.walk = append(r.Walk, WalkIndex{int(x.GetG()), int(x.GetLane()), int(x.GetBatch())}), append(o.walk, k)
	}
	for k, x := range m.GetMix() {
		q, ok := at(x.GetG())
		if !ok || x.GetRound() < 1 || int(x.GetRound()) > q.Rounds || int(x.GetCell()) >= q.Cells {
			return Task{}, bad
		}
		r, o := &reqs[x.GetG()], &p.open[x.GetG()]
		r.Mix, o.mix = append(r.Mix, MixIndex{int(x.GetG()), int(x.GetRound()), int(x.GetCell())}), append(o.mix, k)
	}
	for k, seq := range m.GetPing() {
		x, ok := p.pings[seq]
		if !ok {
			return Task{}, bad
		}
		r, o := &reqs[x.g], &p.open[x.g]
		r.Blocks, o.ping = append(r.Blocks, x.block), append(o.ping, k)
	}
	for g := range reqs {
		// Four times enrolment strength: a validator must not turn 256 KiB of indices into gigabytes of work.
		if q := p.jobs[g].Params; len(reqs[g].Fill) > 2048 || len(reqs[g].Walk) > 512 || len(reqs[g].Mix) > 8*q.Rounds ||
			len(reqs[g].PRG) > 64 || len(reqs[g].Blocks) > 64 {
			return Task{}, abortf(AbortProtocol, "OPEN asks for too much")
		}
	}
	p.phase = phaseProof
	return Task{Kind: TaskOpen, Requests: reqs}, nil
}

// Proved takes the openings of all GPUs and queues PROOF frames: all fill items in the order of OPEN, then prg, walk,
// mix, ping.
func (p *Prover) Proved(all []Opened) error {
	if p.phase != phaseProof || len(all) != len(p.jobs) {
		return ErrOrder
	}
	kinds := [...]struct {
		kind  proofKind
		at    func(proofPart) []int
		bytes func(Opened) [][]byte
	}{
		{proofFill, func(o proofPart) []int { return o.fill }, func(o Opened) [][]byte { return o.Fill }},
		{proofPRG, func(o proofPart) []int { return o.prg }, func(o Opened) [][]byte { return o.PRG }},
		{proofWalk, func(o proofPart) []int { return o.walk }, func(o Opened) [][]byte { return o.Walk }},
		{proofMix, func(o proofPart) []int { return o.mix }, func(o Opened) [][]byte { return o.Mix }},
		{proofPing, func(o proofPart) []int { return o.ping }, func(o Opened) [][]byte { return o.Blocks }},
	}
	for _, k := range kinds {
		total := 0
		for g, o := range all {
			at, data := k.at(p.open[g]), k.bytes(o)
			if len(at) != len(data) {
				return fmt.Errorf("%w: GPU %d gave %d openings of %d", ErrLength, g, len(data), len(at))
			}
			total += len(at)
		}
		ordered := make([][]byte, total)
		for g, o := range all {
			data := k.bytes(o)
			for i, pos := range k.at(p.open[g]) {
				ordered[pos] = data[i]
			}
		}
		for i, data := range ordered {
			p.send(FrameProof, &attestpb.Proof{Kind: uint32(k.kind), Index: uint32(i), Data: data})
		}
	}
	p.phase = phaseEvidence
	return nil
}

// Evidence is what the signed statement says besides the run.
type Evidence struct {
	VDFY, VDFPi []byte   // empty without a VDF
	TimingsNS   []uint64 // self-reported, diagnostics only
	// TPMQuote has the TPM that the key lives in quote the transcript; nil for a key in a file.
	TPMQuote func(transcript Digest) ([]byte, error)
	// CCReport is a GPU's confidential-computing report with Prover.Transcript as its nonce, and CCChain its certificates (PEM,
	// device first); empty where the machine has none.
	CCReport, CCChain []byte
}

// Transcript is what the evidence is over: all frames of both directions, once every PROOF is queued.
func (p *Prover) Transcript() Digest {
	return tagged("BSLTRAN\x00").raw(p.toward.Sum(nil)).raw(p.back.Sum(nil)).sum()
}

// Sign signs the transcript of all that was queued and received so far and queues EVIDENCE.
func (p *Prover) Sign(e Evidence, sign func(msg []byte) ([]byte, error)) error {
	if p.phase != phaseEvidence {
		return ErrOrder
	}
	transcript := p.Transcript()
	st := &attestpb.Statement{
		Run16: p.run, Transcript32: transcript[:], HelloSha256: p.hello[:],
		VdfY: e.VDFY, VdfPi: e.VDFPi, TimingsNs: e.TimingsNS, CcReport: e.CCReport, CcChain: e.CCChain,
	}
	if e.TPMQuote != nil {
		quote, err := e.TPMQuote(transcript)
		if err != nil {
			return fmt.Errorf("quote the transcript: %w", err)
		}
		st.TpmQuote = quote
	}
	for _, j := range p.jobs {
		kind := uint32(0)
		if p.greet.Devices[j.Device].Software {
			kind = 1
		}
		st.DeviceKinds = append(st.DeviceKinds, kind)
	}
	payload, err := stable.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode statement: %w", err)
	}
	sig, err := sign(keys.PAE(EvidenceType, payload))
	if err != nil {
		return fmt.Errorf("sign evidence: %w", err)
	}
	p.send(FrameEvidence, &attestpb.Evidence{PayloadType: EvidenceType, Payload: payload, Sig64: sig})
	return nil
}
