package attest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// These tests draw indices as the validator does and look them up in a model of what a prover left out; the arithmetic
// of single openings is tested elsewhere.

func chacha(seed byte) *sampler { return &sampler{r: rand.NewChaCha8([32]byte{seed})} }

// TestSoundnessFill: 5 % wrong elements at default strength are caught in 99.9 % of 10^4 runs; 2 % pass about 0.6 % of the time.
func TestSoundnessFill(t *testing.T) {
	p, q := SoftwareParams(), DefaultStrength()
	for _, x := range []struct {
		d, least, most float64
		runs           int
	}{{0.05, 0, 0.001, 10000}, {0.02, 0.002, 0.012, 3000}} {
		passed := 0
		s := chacha(1)
		for run := range x.runs {
			var o openings
			o.draw(s, 0, p, Strength{Fill: q.Fill, Walk: 1, Mix: 1, PRG: 2, Ping: 1}, nil)
			if !slices.ContainsFunc(o.fill, func(f FillIndex) bool {
				h := fmix(uint32(run)*0x9E3779B1 ^ uint32(f.L<<16|f.I<<8|f.J))
				return float64(h) < x.d*255/256*(1<<32) // a spoiled byte is right once in 256 times
			}) {
				passed++
			}
		}
		got, want := float64(passed)/float64(x.runs), math.Pow(1-255.0/256*x.d, float64(q.Fill))
		t.Logf("d = %v: %.4f passed, formula %.2g", x.d, got, want)
		if got < x.least || got > x.most {
			t.Errorf("d = %v: %.4f of the runs passed", x.d, got)
		}
	}
}

// TestSoundnessMix: 20 % wrong cells in every round, one opened a round.
func TestSoundnessMix(t *testing.T) {
	p := SoftwareParams()
	const runs = 10000
	passed := 0
	s := chacha(2)
	for range runs {
		var o openings
		o.draw(s, 0, p, Strength{Fill: 1, Walk: 1, Mix: 1, PRG: 2, Ping: 1}, nil)
		rounds := map[int]bool{}
		caught := false
		for _, m := range o.mix {
			rounds[m.Round] = true
			caught = caught || m.Cell < p.Cells/5
		}
		if len(rounds) != p.Rounds {
			t.Fatalf("cells of %d rounds opened, of %d", len(rounds), p.Rounds)
		}
		if !caught {
			passed++
		}
	}
	if float64(passed)/runs > 0.001 {
		t.Fatalf("%d of %d runs passed", passed, runs)
	}
}

// TestSharedMixModel simulates what a card must fetch that computes the fraction x of the cells of every round, and
// compares with e(x) = (1-x)(1-e^(-2x)) of gpu-proof.md section 3.5.
func TestSharedMixModel(t *testing.T) {
	const cells = 1 << 16
	r := rand.New(rand.NewPCG(1, 2))
	for _, x := range []float64{0.5, 0.6, 0.7, 0.8, 0.9} {
		need := make([]bool, cells)
		mine := int(x * cells)
		for range mine {
			need[r.IntN(cells)], need[r.IntN(cells)] = true, true
		}
		fetched := 0
		for _, n := range need[mine:] { // the other card's cells
			if n {
				fetched++
			}
		}
		got, want := float64(fetched)/cells, (1-x)*(1-math.Exp(-2*x))
		if math.Abs(got-want) > 0.02 {
			t.Errorf("x = %v: %.3f of the cells fetched, model %.3f", x, got, want)
		}
	}
}
