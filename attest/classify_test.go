package attest

import (
	"testing"
	"time"
)

// TestMeasuredH200 is a real H200 as a validator's clock has it, by the seconds of a selftest of 2026-11-26 (driver 580.159.04,
// gemm_wgmma): it is named with certainty, also where everything takes 5 % longer, and never with a smaller card's rates.
func TestMeasuredH200(t *testing.T) {
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	claim := ps.find(h200, false)
	p, err := claim.params()
	if err != nil {
		t.Fatal(err)
	}
	p.Rounds = 64 // the selftest's
	for _, x := range []struct {
		name            string
		fill, walk, mix float64 // seconds
		rtt             time.Duration
		certain         bool
	}{
		{name: "memory that nobody used before", fill: 1.18, walk: 0.760, mix: 0.290, certain: true},
		{name: "memory that was just given back", fill: 1.59, walk: 0.760, mix: 0.290, certain: true},
		{name: "far away", fill: 1.59 + 0.04, walk: 0.760 + 0.04, mix: 0.290 + 0.04, rtt: 40 * time.Millisecond, certain: true},
		{name: "an H100's memory rates", fill: 1.59, walk: 0.760 * 3.254 / 2.56, mix: 0.290 * 4.021 / 2.56},
		{name: "half its products", fill: 2 * 1.59, walk: 0.760, mix: 0.290},
	} {
		for _, slower := range []float64{1, 1.05} {
			s := func(seconds float64) time.Duration { return time.Duration(seconds * slower * 1e9) }
			r := reading{params: p, times: intervals{s(x.fill), s(x.walk), s(x.mix)}, echo: x.rtt, rtt: x.rtt}
			var m Measured
			m.C, m.BW, m.BM = r.rates(claim.HashRate)
			result, reason := ps.classify(&m, claim, &r)
			t.Logf("%s, %.2f times the seconds: C %.0f Tops, BW %.0f, BM %.0f GB/s: %s (%s), p = %.4f", x.name, slower, m.C/1e12, m.BW/1e9, m.BM/1e9, result, reason, m.Posterior)
			if (result == Pass) != x.certain {
				t.Errorf("%s, %.2f times the seconds: %s (%s), p = %.4f", x.name, slower, result, reason, m.Posterior)
			}
		}
	}
}
