package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	mrand "math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

var (
	small = Params{N: 256, Layers: 8, Lanes: 256, Steps: 16, Batches: 6, WinLayers: 4, Cells: 256, Rounds: 8}
	tiny  = Params{N: 64, Layers: 5, Lanes: 64, Steps: 5, Batches: 3, WinLayers: 2, Cells: 64, Rounds: 8}
)

func randomDigest(t testing.TB) (d Digest) {
	t.Helper()
	if _, err := rand.Read(d[:]); err != nil {
		t.Fatal(err)
	}
	return d
}

// committed runs a device to its traces and gives the checker of what it committed to.
func committed(t testing.TB, p Params, s Shortcuts) (*CPU, *Checker) {
	t.Helper()
	ctx := context.Background()
	dev := NewLazyCPU(Serial, s)
	seed, w, m := randomDigest(t), randomDigest(t), randomDigest(t)
	roots, err := dev.Fill(ctx, p, seed)
	if err != nil {
		t.Fatal(err)
	}
	wroots, err := dev.Walk(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	last, err := dev.Mix(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	trace, err := dev.Trace(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewChecker(p, seed, roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.SetWalk(w, wroots), c.SetMix(m, append(trace, last))); err != nil {
		t.Fatal(err)
	}
	return dev, c
}

func opened(t testing.TB, dev *CPU, q OpenRequest) Opened {
	t.Helper()
	o, err := dev.Open(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestRowsOfEverySizeVerify(t *testing.T) {
	for _, p := range []Params{
		tiny, small,
		{N: 32, Layers: 3, Lanes: 16, Steps: 1, Batches: 1, WinLayers: 3, Cells: 16, Rounds: 4},
		{N: 1024, Layers: 3, Lanes: 16, Steps: 2, Batches: 2, WinLayers: 1, Cells: 16, Rounds: 4},
	} {
		dev, c := committed(t, p, Shortcuts{})
		q := OpenRequest{PRG: []PRGIndex{{L: 0, Leaf: p.layerLeaves() - 1}, {L: 1}}, Blocks: []uint64{0, p.Blocks() - 1}}
		for k := range 40 {
			q.Fill = append(q.Fill, FillIndex{L: 2 + k%(p.Layers-2), I: k * 7919 % p.N, J: k * 104729 % p.N})
			q.Walk = append(q.Walk, WalkIndex{Lane: k * 31 % p.Lanes, Batch: k % p.Batches})
			q.Mix = append(q.Mix, MixIndex{Round: 1 + k%p.Rounds, Cell: k * 17 % p.Cells})
		}
		o := opened(t, dev, q)
		for k := range q.Fill {
			if err := errors.Join(c.Fill(q.Fill[k], o.Fill[k]), c.Walk(q.Walk[k], o.Walk[k]), c.Mix(q.Mix[k], o.Mix[k])); err != nil {
				t.Fatal(p, err)
			}
		}
		for k := range q.PRG {
			if err := c.PRG(q.PRG[k], o.PRG[k]); err != nil {
				t.Fatal(p, err)
			}
			if b, err := c.Block(q.Blocks[k], o.Blocks[k]); err != nil || len(b) != BlockSize {
				t.Fatal(p, err)
			}
		}
	}
}

// TestMutations changes every byte of an opening of each kind, cuts and extends it, and asks for another index.
func TestMutations(t *testing.T) {
	dev, c := committed(t, tiny, Shortcuts{})
	q := OpenRequest{Fill: []FillIndex{{L: 3, I: 5, J: 6}}, PRG: []PRGIndex{{L: 1, Leaf: 3}}, Blocks: []uint64{77}}
	for b := range tiny.Batches {
		q.Walk = append(q.Walk, WalkIndex{Lane: 9, Batch: b})
	}
	for r := 1; r <= tiny.Rounds; r++ {
		q.Mix = append(q.Mix, MixIndex{Round: r, Cell: 9})
	}
	o := opened(t, dev, q)
	type test struct {
		name         string
		b            []byte
		check, other func(b []byte) error
	}
	tests := []test{
		{"fill", o.Fill[0], func(b []byte) error { return c.Fill(q.Fill[0], b) }, func(b []byte) error { return c.Fill(FillIndex{L: 3, I: 40, J: 50}, b) }},
		{"prg", o.PRG[0], func(b []byte) error { return c.PRG(q.PRG[0], b) }, func(b []byte) error { return c.PRG(PRGIndex{L: 0, Leaf: 3}, b) }},
		{"ping", o.Blocks[0], func(b []byte) error { _, err := c.Block(77, b); return err }, func(b []byte) error { _, err := c.Block(7, b); return err }},
	}
	for k, x := range q.Walk {
		y := x
		y.Lane++
		tests = append(tests, test{"walk", o.Walk[k], func(b []byte) error { return c.Walk(x, b) }, func(b []byte) error { return c.Walk(y, b) }})
	}
	for k, x := range q.Mix {
		y := x
		y.Cell = 41
		tests = append(tests, test{"mix", o.Mix[k], func(b []byte) error { return c.Mix(x, b) }, func(b []byte) error { return c.Mix(y, b) }})
	}
	rejected := 0
	for _, x := range tests {
		if err := x.check(x.b); err != nil {
			t.Fatal(x.name, err)
		}
		for _, b := range [][]byte{nil, x.b[:len(x.b)-1], append(bytes.Clone(x.b), 0)} {
			if !errors.Is(x.check(b), ErrLength) {
				t.Fatalf("%s of %d bytes is not a length violation", x.name, len(b))
			}
		}
		b := bytes.Clone(x.b)
		for i := range b {
			bit := byte(1) << mrand.IntN(8)
			b[i] ^= bit
			if x.check(b) == nil {
				t.Fatalf("%s: byte %d changed and accepted", x.name, i)
			}
			b[i] ^= bit
			rejected++
		}
		if x.other(x.b) == nil {
			t.Fatal(x.name, "accepted for another index")
		}
	}
	t.Logf("%d changed bytes rejected", rejected)
}

func TestListsOfAnotherLengthAreRefused(t *testing.T) {
	_, c := committed(t, tiny, Shortcuts{})
	for n := range 10 {
		if err := c.SetWalk(Digest{}, make([]Node, n)); (err == nil) != (n == tiny.Batches) {
			t.Fatal(n, err)
		}
		if err := c.SetMix(Digest{}, make([]Node, n)); (err == nil) != (n == tiny.Rounds) {
			t.Fatal(n, err)
		}
		if _, err := NewChecker(tiny, Digest{}, make([]Node, n)); (err == nil) != (n == tiny.Layers) {
			t.Fatal(n, err)
		}
	}
}

// TestMixBreakAtOneRoundIsAlwaysFound: a prover that skips all rounds before a break has one round with no honest cell.
func TestMixBreakAtOneRoundIsAlwaysFound(t *testing.T) {
	dev, c := committed(t, small, Shortcuts{Cell: func(r, _ int) bool { return r == 5 }})
	for k := range 50 {
		x := MixIndex{Round: 5, Cell: k * 5 % small.Cells}
		if c.Mix(x, opened(t, dev, OpenRequest{Mix: []MixIndex{x}}).Mix[0]) == nil {
			t.Fatal("a broken round passed")
		}
	}
}

// TestSpoiledFractionMeetsTheFormula: a draw passes with probability 1 - 255/256*d.
func TestSpoiledFractionMeetsTheFormula(t *testing.T) {
	spoil := func(l, i, j int) (byte, bool) { return byte(i + j), (i*256+j+l)%20 == 0 }
	dev, c := committed(t, small, Shortcuts{Element: spoil})
	var q OpenRequest
	for range 4000 {
		q.Fill = append(q.Fill, FillIndex{L: 2 + mrand.IntN(small.Layers-2), I: mrand.IntN(small.N), J: mrand.IntN(small.N)})
	}
	wrong := 0
	for k, b := range opened(t, dev, q).Fill {
		if c.Fill(q.Fill[k], b) != nil {
			wrong++
		}
	}
	if wrong < 130 || wrong > 280 { // 199 expected, standard deviation 14
		t.Fatalf("%d of 4000 draws found a spoiled element, about 199 expected", wrong)
	}
}

func TestCommitmentsSteerNothing(t *testing.T) {
	// The schedule and the windows take the validator's keys and the sizes only; this pins their signatures.
	var sched func(*Digest, int) (int, uint32) = schedule
	var win func(Params, *Digest, int) int = Params.window
	d := randomDigest(t)
	if l, _ := sched(&d, 9); l < 0 || l > 7 {
		t.Fatal(l)
	}
	seen := map[int]bool{}
	for b := range small.windows() {
		seen[win(small, &d, b)] = true
	}
	if len(seen) != small.windows() {
		t.Fatal("a pass leaves out a window")
	}
}

func TestParams(t *testing.T) {
	if err := errors.Join(small.Check(), tiny.Check(), SoftwareParams().Check()); err != nil {
		t.Fatal(err)
	}
	bad := func(change func(p *Params)) {
		t.Helper()
		p := tiny
		if change(&p); !errors.Is(p.Check(), ErrParams) {
			t.Errorf("%+v accepted", p)
		}
	}
	bad(func(p *Params) { p.N = 48 })
	bad(func(p *Params) { p.N = 16 })
	bad(func(p *Params) { p.N = 1 << 17 })
	bad(func(p *Params) { p.Layers = 2 })
	bad(func(p *Params) { p.WinLayers = 0 })
	bad(func(p *Params) { p.WinLayers = p.Layers + 1 })
	bad(func(p *Params) { p.Lanes = 24 })
	bad(func(p *Params) { p.Steps = 0 })
	bad(func(p *Params) { p.Batches = 0 })
	bad(func(p *Params) { p.Cells = 8 })
	bad(func(p *Params) { p.Cells = 1 << 28 })
	bad(func(p *Params) { p.Rounds = 6 })
	// Table of gpu-proof.md section 14.
	for _, x := range []struct {
		mib                      uint64
		layers, cells, win, pass int
	}{{143771, 8266, 25, 9, 16}, {81559, 4689, 24, 5, 16}, {24564, 1412, 22, 2, 16}} {
		p, err := ParamsFor(x.mib<<20, 0)
		if err != nil || p.Layers != x.layers || p.Cells != 1<<x.cells || p.windows() != x.win || p.Batches != x.win*x.pass {
			t.Errorf("%d MiB: %+v %v", x.mib, p, err)
		}
		if p.FillOpening() != 9640 || p.LeafOpening() != 872 || p.WalkOpening(1) != 15888 {
			t.Errorf("opening sizes %d %d %d", p.FillOpening(), p.LeafOpening(), p.WalkOpening(1))
		}
	}
	h200, err := ParamsFor(143771<<20, 0)
	if err != nil || h200.MixOpening(1) != 1064 || h200.MixOpening(2) != 4256 || h200.MixOpening(4) != 5128 {
		t.Error("mix opening sizes", h200.MixOpening(1), h200.MixOpening(2), h200.MixOpening(4), err)
	}
}

func TestSampler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<32).Draw(t, "n")
		s := sampler{r: rand.Reader}
		for range 20 {
			if v := s.below(n); v < 0 || v >= n || s.err != nil {
				t.Fatal(v, s.err)
			}
		}
	})
	// A value above the largest multiple is drawn again.
	b := binary.LittleEndian.AppendUint32(nil, 1<<32-1)
	s := sampler{r: bytes.NewReader(binary.LittleEndian.AppendUint32(b, 7))}
	if v := s.below(3); v != 1 || s.err != nil {
		t.Fatal(v, s.err)
	}
	if s.below(3); s.err == nil {
		t.Fatal("the end of randomness is no error")
	}
}

func TestZeroResultIsNoPass(t *testing.T) {
	for _, r := range []Result{"", "pass", "PASSED", Malformed, Unknown, LocalError, PassOther, CheatFill, CheatVDF} {
		if r.Verdict() == Pass.Verdict() {
			t.Errorf("%q is a pass", r)
		}
	}
	if (Judgement{}).Verdict() != Unknown.Verdict() || (Judgement{GPUs: make([]Measured, 1)}).Proven() != nil {
		t.Error("the zero judgement proves something")
	}
}

func BenchmarkVerifier(b *testing.B) {
	p := small
	dev, c := committed(b, p, Shortcuts{})
	q := OpenRequest{
		Fill: []FillIndex{{L: 3, I: 5, J: 6}}, PRG: []PRGIndex{{L: 1}},
		Walk: []WalkIndex{{Lane: 9, Batch: 2}}, Mix: []MixIndex{{Round: 4, Cell: 9}},
	}
	o := opened(b, dev, q)
	leaf, l, r := make([]byte, LeafSize), Node{1}, Node{2}
	row := make([]byte, 4096)
	for _, x := range []struct {
		name string
		f    func() error
	}{
		{"primitive/leaf", func() error { hashLeaf(leaf, 1, 2); return nil }},
		{"primitive/node", func() error { hashNode(&l, &r); return nil }},
		{"primitive/dot4096", func() error { dot(row, row); return nil }},
		{"fill", func() error { return c.Fill(q.Fill[0], o.Fill[0]) }},
		{"prg", func() error { return c.PRG(q.PRG[0], o.PRG[0]) }},
		{"walk", func() error { return c.Walk(q.Walk[0], o.Walk[0]) }},
		{"mix", func() error { return c.Mix(q.Mix[0], o.Mix[0]) }},
	} {
		b.Run(x.name, func(b *testing.B) {
			for b.Loop() {
				if err := x.f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProver is the CPU prover's fill on one core, hashing included, and beside it the plain triple loop over the same
// products without the hashing.
func BenchmarkProver(b *testing.B) {
	p := SoftwareParams()
	rate := func(b *testing.B, ops float64, f func()) {
		b.ReportMetric(ops/cpuLoop(b, f).Seconds()/1e9, "Gops")
	}
	b.Run("ours", func(b *testing.B) {
		dev := NewCPU(Serial)
		rate(b, p.FillOps(), func() {
			if _, err := dev.Fill(context.Background(), p, Digest{1}); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("loop", func(b *testing.B) {
		n := p.N
		x, y, z := make([]int8, n*n), make([]int8, n*n), make([]int32, n*n)
		for i := range x {
			x[i], y[i] = int8(fmix(uint32(i))), int8(fmix(uint32(2*i+1)))
		}
		rate(b, 2*float64(n)*float64(n)*float64(n), func() {
			for i := range n {
				for j := range n {
					var s int32
					for k := range n {
						s += int32(x[i*n+k]) * int32(y[j*n+k])
					}
					z[i*n+j] = s
				}
			}
		})
	})
}
