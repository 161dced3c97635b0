package adversary

import (
	"context"
	"math"
	"testing"

	"basilica/attest"
)

func TestParse(t *testing.T) {
	s, err := Parse("fill:0.05,walk:0.5,mix:1")
	if err != nil || s.Element == nil || s.Lane == nil || s.Cell == nil {
		t.Fatal(s, err)
	}
	for _, bad := range []string{"", "fill", "fill:", "fill:2", "fill:-1", "fill:NaN", "speed:0.5", "fill:0.1,"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestFractionIsMet(t *testing.T) {
	s, err := Parse("fill:0.05")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for l := range 20 {
		for i := range 100 {
			for j := range 100 {
				if _, ok := s.Element(l, i, j); ok {
					n++
				}
			}
		}
	}
	if got := float64(n) / 200000; math.Abs(got-0.05) > 0.005 {
		t.Fatalf("%.4f of the elements are spoiled", got)
	}
}

// TestCheatsAreConsistent: all openings of a lying device reach its own roots; only the arithmetic betrays it.
func TestCheatsAreConsistent(t *testing.T) {
	ctx := context.Background()
	p := attest.Params{N: 64, Layers: 5, Lanes: 64, Steps: 4, Batches: 2, WinLayers: 2, Cells: 64, Rounds: 4}
	dev, err := Device("fill:0.5", attest.Serial)
	if err != nil {
		t.Fatal(err)
	}
	seed := attest.Digest{1}
	roots, err := dev.Fill(ctx, p, seed)
	if err != nil {
		t.Fatal(err)
	}
	wroots, err := dev.Walk(ctx, attest.Digest{2})
	if err != nil {
		t.Fatal(err)
	}
	c, err := attest.NewChecker(p, seed, roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetWalk(attest.Digest{2}, wroots); err != nil {
		t.Fatal(err)
	}
	var q attest.OpenRequest
	for k := range 64 {
		q.Fill = append(q.Fill, attest.FillIndex{L: 3, I: k, J: k})
		q.Walk = append(q.Walk, attest.WalkIndex{Lane: k, Batch: 1})
	}
	o, err := dev.Open(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for k := range q.Fill {
		if c.Fill(q.Fill[k], o.Fill[k]) != nil {
			bad++
		}
		if err := c.Walk(q.Walk[k], o.Walk[k]); err != nil {
			t.Fatal("the walk over a spoiled fill is not consistent:", err)
		}
	}
	if bad < 15 || bad > 50 {
		t.Fatalf("%d of 64 elements are spoiled", bad)
	}
}
