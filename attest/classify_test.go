package attest

import (
	"testing"
	"time"
)

// TestMeasuredCards: the seconds that an H200 and an H100 took on 2026-11-26 (gpu-attestor selftest, driver 580.159.04) make them
// what they are, also when a little slower or far away; half the products, or the memory of a lesser card, do not.
func TestMeasuredCards(t *testing.T) {
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		model, name     string
		fill, walk, mix float64 // seconds
		rtt             time.Duration
		certain         bool
	}{
		{model: h200, name: "as measured", fill: 1.104, walk: 0.723, mix: 0.278, certain: true},
		{model: h200, name: "far away", fill: 1.104 + 0.04, walk: 0.723 + 0.04, mix: 0.278 + 0.04, rtt: 40 * time.Millisecond, certain: true},
		{model: h200, name: "an H100's memory rates", fill: 1.104, walk: 0.723 * 3.426 / 2.452, mix: 0.278 * 4.206 / 2.896},
		{model: h200, name: "half its products", fill: 2 * 1.104, walk: 0.723, mix: 0.278},
		{model: h100, name: "as measured", fill: 0.622, walk: 0.560, mix: 0.202, certain: true},
		{model: h100, name: "far away", fill: 0.622 + 0.02, walk: 0.560 + 0.02, mix: 0.202 + 0.02, rtt: 20 * time.Millisecond, certain: true},
		{model: h100, name: "half its products", fill: 2 * 0.622, walk: 0.560, mix: 0.202},
		{model: h100, name: "half its memory rates", fill: 0.622, walk: 2 * 0.560, mix: 2 * 0.202},
	} {
		claim := ps.find(x.model, false)
		p, err := claim.params()
		if err != nil {
			t.Fatal(err)
		}
		p.Rounds = 64 // the selftest's
		for _, slower := range []float64{1, 1.05} {
			s := func(seconds float64) time.Duration { return time.Duration(seconds * slower * 1e9) }
			r := reading{params: p, times: intervals{s(x.fill), s(x.walk), s(x.mix)}, echo: x.rtt, rtt: x.rtt}
			var m Measured
			m.C, m.BW, m.BM = r.rates(claim.HashRate)
			result, reason := ps.classify(&m, claim, &r)
			t.Logf("%s %s, %.2f times the seconds: C %.0f Tops, BW %.0f, BM %.0f GB/s: %s (%s), p = %.4f", x.model, x.name, slower, m.C/1e12, m.BW/1e9, m.BM/1e9, result, reason, m.Posterior)
			if (result == Pass) != x.certain {
				t.Errorf("%s %s, %.2f times the seconds: %s (%s), p = %.4f", x.model, x.name, slower, result, reason, m.Posterior)
			}
		}
	}
}

// TestStrongCardsProveAllTheirMemory: a card that proves a part of its memory, whole or shared out to several, under a name that
// nobody knows is priced as nothing.
func TestStrongCardsProveAllTheirMemory(t *testing.T) {
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		model string // that it is
		parts float64
		gib   uint64
	}{{h100, 1, 16}, {h200, 1, 16}, {h100, 4, 16}, {h100, 2, 36}, {h200, 3, 40}} {
		p, err := ParamsFor(x.gib<<30, 0)
		if err != nil {
			t.Fatal(err)
		}
		card := ps.find(x.model, false)
		s := func(seconds float64) time.Duration { return time.Duration(seconds * x.parts * 1e9) }
		r := reading{params: p, times: intervals{s(p.FillOps()/card.C + float64(p.FillBytes())/card.HashRate), s(p.WalkBytes() / card.BW), s(p.MixBytes() / card.BM)}}
		var m Measured
		m.C, m.BW, m.BM = r.rates(card.HashRate)
		if result, reason := ps.classify(&m, nil, &r); result != PassOther || len(m.Models) != 0 {
			t.Errorf("%s in %.0f parts, %d GiB of it proven: %s (%s), priced as %q", x.model, x.parts, x.gib, result, reason, m.Models)
		}
	}
}
