package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"basilica/attest/attestpb"
	"basilica/keys"
)

// sparse stands in for a GPU whose fill no test machine holds. A leaf is made when it is asked for, of its tree and number;
// what the checks compute (elements, states, cells) is laid over it, and only opened leaves and their paths are hashed. Every
// opening of it is one that the verifier takes for what it is.
type sparse struct {
	p      Params
	seed   Digest
	mixKey Digest
	over   map[uint32]map[int][]byte // leaves with something laid over, by tag and number
	opened map[uint32][]int          // leaves to be opened, ascending once all are known

	leaves, nodes int // hashed by whoever checks what is opened
}

func newSparse(p Params, seed Digest) *sparse {
	return &sparse{p: p, seed: seed, over: map[uint32]map[int][]byte{}, opened: map[uint32][]int{}}
}

// leaf gives 512 bytes, which may be written to.
func (s *sparse) leaf(tag uint32, i int) []byte {
	if b := s.over[tag][i]; b != nil {
		return b
	}
	b := make([]byte, LeafSize)
	if tag < 2 {
		generateWords(b, uint32(i*LeafSize/4), s.seed.word(2*int(tag)), s.seed.word(2*int(tag)+1))
		return b
	}
	r := rand.NewPCG(uint64(tag), uint64(i))
	for k := 0; k < len(b); k += 8 {
		binary.LittleEndian.PutUint64(b[k:], r.Uint64())
	}
	return b
}

// lay puts bytes over a tree's own, at byte o of its data.
func (s *sparse) lay(tag uint32, o int, bytes ...byte) {
	i := o / LeafSize
	b := s.leaf(tag, i)
	copy(b[o%LeafSize:], bytes)
	if s.over[tag] == nil {
		s.over[tag] = map[int][]byte{}
	}
	s.over[tag][i] = b
}

func (s *sparse) block(i uint64) ([]byte, error) {
	x := s.p.BlockPiece(i)
	return s.leaf(x.Tag, x.First)[i*BlockSize%LeafSize:][:BlockSize], nil
}

// row gives row i of a layer.
func (s *sparse) row(l, i int) []byte {
	n, first := s.p.N, s.p.rowLeaf(i)
	var b []byte
	for k := range s.p.rowLeaves() {
		b = append(b, s.leaf(uint32(l), first+k)...)
	}
	return b[i*n-first*LeafSize:][:n]
}

// element lays a product element over its layer; those of the layers below it must have been laid before.
func (s *sparse) element(x FillIndex) []Piece {
	from, roundKey := schedule(&s.seed, x.L)
	v := phi(uint32(dot(s.row(from, x.I), s.row(x.L-1, x.J))), uint32(x.I), uint32(x.J), roundKey)
	s.lay(uint32(x.L), x.I*s.p.N+x.J, v)
	return s.p.FillPieces(s.seed, x)
}

// walk lays the state of a lane after a batch over the states.
func (s *sparse) walk(t testing.TB, c *Checker, x WalkIndex) []Piece {
	var before []byte
	bs := c.chain[x.Batch]
	state := firstLane(&bs, x.Lane)
	at := x.Lane * StateSize
	if x.Batch > 0 {
		before = s.leaf(StateTag(x.Batch-1), at/LeafSize)[at%LeafSize:][:StateSize]
		state = readLane(before)
		state.enter(&bs)
	}
	pieces, err := s.p.WalkPieces(c.walkKey, bs, x, before, s.block)
	if err != nil {
		t.Fatal(err)
	}
	window := uint64(s.p.window(&c.walkKey, x.Batch)) * uint64(s.p.LayerBytes()) / BlockSize
	for range s.p.Steps {
		b, _ := s.block(window + uint64(scaleTo(state[0], s.p.WinBlocks())))
		state.step(b)
	}
	var end [StateSize]byte
	state.put(end[:])
	s.lay(StateTag(x.Batch), at, end[:]...)
	return pieces
}

func (s *sparse) cell(round, i int) ([]byte, error) {
	if round == 0 {
		c, b := firstCell(&s.mixKey, i), make([]byte, CellSize)
		c.put(b)
		return b, nil
	}
	return s.leaf(CellTag(round), i*CellSize/LeafSize)[i*CellSize%LeafSize:][:CellSize], nil
}

// mix lays a cell of a round over the cells; those of the rounds before it must have been laid before.
func (s *sparse) mix(t testing.TB, x MixIndex) []Piece {
	pieces, err := s.p.MixPieces(s.mixKey, x, func(i int) ([]byte, error) { return s.cell(x.Round-1, i) })
	if err != nil {
		t.Fatal(err)
	}
	read := func(i int) cell { b, _ := s.cell(x.Round-1, i); return readCell(b) }
	a := read(x.Cell)
	j1, j2 := a.partners(s.p.Cells)
	b1, b2 := read(j1), read(j2)
	v := join(&a, &b1, &b2, x.Cell, x.Round)
	var block []byte
	if s.p.readsFill(x.Round) {
		base := uint64(s.p.window(&s.mixKey, x.Round/mixEvery-1)) * uint64(s.p.LayerBytes()) / BlockSize
		block, _ = s.block(base + uint64(scaleTo(v[0], s.p.WinBlocks())))
	}
	v.absorb(block)
	b := make([]byte, CellSize)
	v.put(b)
	s.lay(CellTag(x.Round), x.Cell*CellSize, b...)
	return pieces
}

// note counts the leaves of pieces among the opened ones.
func (s *sparse) note(pieces []Piece) {
	for _, x := range pieces {
		for k := range x.Count {
			s.opened[x.Tag] = append(s.opened[x.Tag], x.First+k)
		}
		s.leaves += x.Count
		s.nodes += x.Count - 1 + bits.Len(uint(s.p.Leaves(x.Tag)/x.Count)) - 1
	}
}

func (s *sparse) settle() {
	for tag := range s.opened {
		slices.Sort(s.opened[tag])
		s.opened[tag] = slices.Compact(s.opened[tag])
	}
}

// node is node i of a level of a tree. Below it lie the opened leaves that it needs; where none do it is anything.
func (s *sparse) node(tag uint32, level, i int) Node {
	all := s.opened[tag]
	from, _ := slices.BinarySearch(all, i<<level)
	to, _ := slices.BinarySearch(all, (i+1)<<level)
	switch {
	case from == to:
		h := tagged("no leaf").u32(tag).u32(uint32(level)).u32(uint32(i)).sum()
		return Node(h[:])
	case level == 0:
		return hashLeaf(s.leaf(tag, i), tag, uint32(i))
	}
	l, r := s.node(tag, level-1, 2*i), s.node(tag, level-1, 2*i+1)
	return hashNode(&l, &r)
}

func (s *sparse) root(tag uint32) Node { return s.node(tag, bits.Len(uint(s.p.Leaves(tag)))-1, 0) }

func (s *sparse) open(pieces []Piece) (b []byte) {
	for _, x := range pieces {
		for k := range x.Count {
			b = append(b, s.leaf(x.Tag, x.First+k)...)
		}
		level := bits.Len(uint(x.Count)) - 1
		for i := x.First >> level; 1<<level < s.p.Leaves(x.Tag); level++ {
			n := s.node(x.Tag, level, i^1)
			b = append(b, n[:]...)
			i >>= 1
		}
	}
	return b
}

// fullRun is a whole challenge of one GPU of full size, frame by frame, with which a verifier can be run again and again.
// Its one trick: a walk leads where final_g sends it, so a prover without its fill cannot commit to the leaves that will be
// read. The run commits to other roots and exchanges them for those of the opened leaves once OPEN is out; what the verifier
// does with an opening is the same.
type fullRun struct {
	setup Setup
	steps []fullStep
	roots [3][]Node // of layers, batches and rounds, to be exchanged
	// What a challenge of this strength needs of its primitives: SHA-256 of so many leaves, nodes and bytes of frames and roots,
	// and so many dot products.
	leaves, nodes, stream, dots int
	traffic                     int // bytes of all frames of both directions
}

// fullStep is a frame from the attestor, or (nil) that the verifier's own frame is out.
type fullStep struct {
	frame    Frame
	at       time.Time
	exchange bool // roots, before the frame
}

func (f *fullRun) verifier(t testing.TB) *Verifier {
	t.Helper()
	v, err := NewVerifier(f.setup, rand.NewChaCha8([32]byte{7}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (f *fullRun) step(v *Verifier, s fullStep) {
	if s.exchange {
		c := v.gpus[0].checker
		copy(c.roots, f.roots[0])
		copy(c.wroots, f.roots[1])
		copy(c.yroots, f.roots[2])
	}
	if s.frame == nil {
		v.Sent(s.at)
		return
	}
	v.Receive(s.frame, s.at)
}

// run judges the challenge.
func (f *fullRun) run(t testing.TB) Judgement {
	v := f.verifier(t)
	for _, s := range f.steps {
		f.step(v, s)
	}
	return v.Judgement()
}

func newFullRun(t testing.TB, q Strength) *fullRun {
	t.Helper()
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	profile := ps.find(h200, false)
	p, err := profile.params()
	if err != nil {
		t.Fatal(err)
	}
	f := &fullRun{setup: Setup{Started: time.Unix(1e9, 0), SPKI: key.SPKI(), Strength: q, Profiles: ps}, dots: q.Fill}
	v := f.verifier(t)
	now := f.setup.Started
	do := func(s fullStep) {
		f.steps = append(f.steps, s)
		f.step(v, s)
	}
	sent := func(m proto.Message) {
		fr, ok := v.Next()
		if !ok {
			t.Fatalf("the verifier sends nothing: %+v", v.Judgement())
		}
		if m != nil {
			if err := decode(fr, m); err != nil {
				t.Fatal(err)
			}
		}
		f.traffic += len(fr)
		do(fullStep{at: now})
	}
	feed := func(k FrameType, seconds float64, m proto.Message) {
		now = now.Add(time.Duration(seconds*1e9) + time.Millisecond)
		fr := encode(k, m)
		f.traffic += len(fr)
		do(fullStep{frame: fr, at: now})
	}
	feed(FrameHello, 0, &attestpb.Hello{Version: "full size", Spki: key.SPKI(), Gpus: []*attestpb.Gpu{{Uuid16: make([]byte, 16), Name: h200, VramBytes: profile.NominalMiB << 20}}})
	sent(nil)
	g := v.gpus[0]
	s := newSparse(p, g.seed)
	random := rand.NewChaCha8([32]byte{8})
	list := func(n int) []Node {
		out := make([]Node, n)
		for i := range out {
			_, _ = random.Read(out[i][:]) // never fails
		}
		return out
	}
	roots, wroots, yroots := list(p.Layers), list(p.Batches), list(p.Rounds)
	final := Final(g.seed, roots)
	feed(FrameFillDone, p.FillOps()/profile.C+float64(p.FillBytes())/profile.HashRate, &attestpb.FillDone{FinalG: final[:]})
	feed(FrameRoots, 0.1, &attestpb.Roots{Roots: join24(roots)})
	sent(nil)
	feed(FrameWalkDone, p.WalkBytes()/profile.BW, &attestpb.WalkDone{Wroots: join24(wroots)})
	sent(nil)
	feed(FrameMixDone, p.MixBytes()/profile.BM, &attestpb.MixDone{Yroot24: yroots[p.Rounds-1][:]})
	feed(FrameTrace, 1, &attestpb.Trace{Yroots: join24(yroots[:p.Rounds-1])})
	s.mixKey = g.mixKey
	var pings []uint64
	for v.phase == phasePing && v.echo.next < 2*v.echo.want {
		var m attestpb.Ping
		echo := v.echo.isEcho()
		sent(&m)
		kind, block := FrameEchoReply, []byte(nil)
		if !echo {
			kind = FramePong
			i := PingBlock([16]byte(m.GetR16()), final, p)
			block, _ = s.block(i)
			pings = append(pings, i)
		}
		h := PongHash([16]byte(m.GetR16()), block)
		feed(kind, 0, &attestpb.Pong{Seq: m.GetSeq(), Hash32: h[:]})
	}
	var open attestpb.Open
	sent(&open)
	f.prove(t, v, s, &open, pings, feed)
	transcript := v.transcript()
	payload, err := stable.Marshal(&attestpb.Statement{Run16: v.run[:], Transcript32: transcript[:], HelloSha256: v.hello[:], DeviceKinds: []uint32{0}})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign(keys.PAE(EvidenceType, payload))
	if err != nil {
		t.Fatal(err)
	}
	feed(FrameEvidence, 0, &attestpb.Evidence{PayloadType: EvidenceType, Payload: payload, Sig64: sig})
	f.leaves, f.nodes, f.stream = s.leaves, s.nodes, f.traffic+NodeSize*p.Layers
	return f
}

// prove makes all openings, notes the roots they lead to, and feeds them.
func (f *fullRun) prove(t testing.TB, v *Verifier, s *sparse, open *attestpb.Open, pings []uint64, feed func(FrameType, float64, proto.Message)) {
	t.Helper()
	type item struct {
		kind   proofKind
		index  int
		pieces []Piece
	}
	items := make([]item, 0, 1000)
	add := func(kind proofKind, index int, pieces []Piece) {
		s.note(pieces)
		items = append(items, item{kind, index, pieces})
	}
	// Whatever an element, state or cell is made of must have been laid before it.
	order := func(n int, key func(i int) uint32) []int {
		out := make([]int, n)
		for i := range out {
			out[i] = i
		}
		slices.SortStableFunc(out, func(a, b int) int { return int(key(a)) - int(key(b)) })
		return out
	}
	for _, i := range order(len(open.GetFill()), func(i int) uint32 { return open.GetFill()[i].GetL() }) {
		x := open.GetFill()[i]
		add(proofFill, i, s.element(FillIndex{L: int(x.GetL()), I: int(x.GetI()), J: int(x.GetJ())}))
	}
	for i, x := range open.GetPrg() {
		add(proofPRG, i, []Piece{PRGIndex{L: int(x.GetL()), Leaf: int(x.GetLeaf())}.Piece()})
	}
	for _, i := range order(len(open.GetWalk()), func(i int) uint32 { return open.GetWalk()[i].GetBatch() }) {
		x := open.GetWalk()[i]
		add(proofWalk, i, s.walk(t, v.gpus[0].checker, WalkIndex{Lane: int(x.GetLane()), Batch: int(x.GetBatch())}))
	}
	for _, i := range order(len(open.GetMix()), func(i int) uint32 { return open.GetMix()[i].GetRound() }) {
		x := open.GetMix()[i]
		add(proofMix, i, s.mix(t, MixIndex{Round: int(x.GetRound()), Cell: int(x.GetCell())}))
	}
	for i, seq := range open.GetPing() {
		add(proofPing, i, []Piece{s.p.BlockPiece(pings[seq/2])})
	}
	s.settle()
	for l := range s.p.Layers {
		f.roots[0] = append(f.roots[0], s.root(uint32(l)))
	}
	for b := range s.p.Batches {
		f.roots[1] = append(f.roots[1], s.root(StateTag(b)))
	}
	for r := range s.p.Rounds {
		f.roots[2] = append(f.roots[2], s.root(CellTag(r+1)))
	}
	f.steps = append(f.steps, fullStep{at: f.steps[len(f.steps)-1].at, exchange: true})
	copy(v.gpus[0].checker.roots, f.roots[0])
	copy(v.gpus[0].checker.wroots, f.roots[1])
	copy(v.gpus[0].checker.yroots, f.roots[2])
	slices.SortFunc(items, func(a, b item) int {
		if a.kind != b.kind {
			return int(a.kind) - int(b.kind)
		}
		return a.index - b.index
	})
	for _, x := range items {
		feed(FrameProof, 0, &attestpb.Proof{Kind: uint32(x.kind), Index: uint32(x.index), Data: s.open(x.pieces)})
	}
}

// cpuTime is what this thread has computed so far; its caller holds the thread.
func cpuTime(t testing.TB) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// primitives does the hashing and multiplying of a run and nothing else, over as much memory as the run's frames take.
func (f *fullRun) primitives(memory []byte) (sum byte) {
	at := 0
	next := func(n int) []byte {
		if at+n > len(memory) {
			at = 0
		}
		at += n
		return memory[at-n : at]
	}
	for range f.leaves {
		h := sha256.Sum256(next(LeafSize + 16))
		sum ^= h[0]
	}
	for range f.nodes {
		h := sha256.Sum256(next(2 * NodeSize))
		sum ^= h[0]
	}
	for range f.dots {
		sum ^= byte(dot(next(4096), next(4096)))
	}
	h := sha256.New()
	for left := f.stream; left > 0; left -= len(memory) {
		h.Write(memory[:min(left, len(memory))])
	}
	return sum ^ h.Sum(nil)[0]
}

// cost measures a verifier and its primitives in turns on one core and gives the least of each.
func (f *fullRun) cost(t testing.TB, turns int) (verifier, primitives time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	memory := make([]byte, f.traffic)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(memory) // never fails
	verifier, primitives = math.MaxInt64, math.MaxInt64
	for range turns {
		runtime.GC() // of what was before
		a := cpuTime(t)
		j := f.run(t)
		b := cpuTime(t)
		f.primitives(memory)
		c := cpuTime(t)
		if j.Result != Pass || j.Class != ClassA || !j.Signed {
			t.Fatalf("%s (%s): %s", j.Result, j.Reason, j.Detail)
		}
		verifier, primitives = min(verifier, b-a), min(primitives, c-b)
	}
	return verifier, primitives
}

// checks is the part of a verifier that section 13 counts: all openings, without frames, transcript and signature.
func (f *fullRun) checks(t testing.TB) (took time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	v := f.verifier(t)
	for _, s := range f.steps {
		if s.frame == nil || s.frame.Type() != FrameProof {
			if v.phase != phaseProof || s.exchange {
				f.step(v, s)
			}
			continue
		}
		_, _, data, err := parseProof(s.frame)
		if err != nil {
			t.Fatal(err)
		}
		item := v.items[0]
		v.items = v.items[1:]
		began := cpuTime(t)
		err = item.check(data)
		if took += cpuTime(t) - began; err != nil {
			t.Fatal(err)
		}
	}
	return took
}

// cpuLoop runs a benchmark's body and gives the CPU time of one run: a busy machine takes others' time, not this.
func cpuLoop(b *testing.B, f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, n := cpuTime(b), 0
	for b.Loop() {
		f()
		n++
	}
	return (cpuTime(b) - began) / time.Duration(n)
}

// mostBytes are the bounds of gpu-proof.md section 17 on the traffic of one GPU.
var mostBytes = map[string]int{"default": 5e6, "enrolment": 8e6, "recheck": 2e6}

// TestVerifierCost: a verifier computes hardly more than its hashes and products, and what it reads stays within bounds.
func TestVerifierCost(t *testing.T) {
	for _, q := range []Strength{DefaultStrength(), EnrolmentStrength()} {
		f := newFullRun(t, q)
		verifier, primitives := f.cost(t, 3)
		ratio := float64(verifier) / float64(primitives)
		t.Logf("%s: %v of CPU, its primitives %v, ratio %.2f, %.2f MB", q.Name, verifier, primitives, ratio, float64(f.traffic)/1e6)
		if ratio > mostRatio {
			t.Errorf("%s: the verifier takes %.2f times what its primitives do", q.Name, ratio)
		}
		if f.traffic > mostBytes[q.Name] {
			t.Errorf("%s: %d bytes, more than %d", q.Name, f.traffic, mostBytes[q.Name])
		}
	}
}

// TestFullSizeOpeningsAreChecked: a changed byte anywhere in an opening of full size is found, also in the sparse run.
func TestFullSizeOpeningsAreChecked(t *testing.T) {
	f := newFullRun(t, RecheckStrength())
	if j := f.run(t); j.Result != Pass {
		t.Fatalf("%s (%s): %s", j.Result, j.Reason, j.Detail)
	}
	found := map[Result]int{}
	for i, s := range f.steps {
		if s.frame == nil || s.frame.Type() != FrameProof || i%41 != 0 {
			continue
		}
		whole := f.steps[i].frame
		f.steps[i].frame = slices.Clone(whole)
		f.steps[i].frame[len(whole)-1-i*7919%800] ^= 4
		j := f.run(t)
		if j.Result.Verdict() != CheatFill.Verdict() {
			t.Fatalf("step %d changed: %s (%s)", i, j.Result, j.Reason)
		}
		found[j.Result]++
		f.steps[i].frame = whole
	}
	if found[CheatFill] == 0 || found[CheatWalk] == 0 || found[CheatMix] == 0 {
		t.Errorf("found %v", found)
	}
}

// BenchmarkVerifierH200 is one H200-sized GPU on one core: all that a validator computes in a challenge, frames, transcript and
// signature included, and beside it what its SHA-256 and dot products alone take in the same run. The last metrics are the
// probabilities to pass of a prover with 5 % wrong elements, 5 % skipped lanes and 5 % wrong cells (section 13).
func BenchmarkVerifierH200(b *testing.B) {
	for _, q := range []Strength{DefaultStrength(), EnrolmentStrength()} {
		b.Run(q.Name, func(b *testing.B) {
			f := newFullRun(b, q)
			best, primitives, checks := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
			for b.Loop() {
				v, p := f.cost(b, 1)
				best, primitives, checks = min(best, v), min(primitives, p), min(checks, f.checks(b))
			}
			if ratio := float64(best) / float64(primitives); ratio > mostRatio {
				b.Errorf("the verifier takes %.2f times what its primitives do", ratio)
			}
			b.ReportMetric(float64(best)/1e6, "verifier-ms")
			b.ReportMetric(float64(primitives)/1e6, "primitives-ms")
			b.ReportMetric(float64(checks)/1e6, "openings-ms")
			b.ReportMetric(float64(best)/float64(primitives), "ratio")
			b.ReportMetric(float64(f.traffic)/1e6, "MB")
			const inTrillion = 1e12 // a metric has seven digits behind its point
			b.ReportMetric(inTrillion*math.Pow(1-255.0/256*0.05, float64(q.Fill)), "fill-5%/1e12")
			b.ReportMetric(inTrillion*math.Pow(0.95, float64(q.Walk)), "walk-5%/1e12")
			b.ReportMetric(inTrillion*math.Pow(0.95, float64(64*q.Mix)), "mix-5%/1e12")
		})
	}
}
