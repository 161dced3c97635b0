package attest

import (
	"math"
	"testing"
	"time"
)

// specProfiles are two rows of gpu-proof.md section 14, taken as if calibrated.
func specProfiles(t *testing.T) Profiles {
	t.Helper()
	ps, err := ParseProfiles([]byte(`[
		{"model":"H200","nominal_mib":143771,"c":9e14,"bw":3.66e12,"bm":3.66e12,"sigma_c":0.05,"sigma_bw":0.03,"sigma_bm":0.03,"hash_rate":5e11,"expect_seconds":{}},
		{"model":"H100 SXM","nominal_mib":81559,"c":9e14,"bw":2.56e12,"bm":2.56e12,"sigma_c":0.05,"sigma_bw":0.03,"sigma_bm":0.03,"hash_rate":5e11,"expect_seconds":{}},
		{"model":"H100 PCIe","nominal_mib":81559,"c":4.81e14,"bw":1.56e12,"bm":1.56e12,"expect_seconds":{}},
		{"model":"A100-80 SXM","nominal_mib":81920,"c":3.51e14,"bw":1.56e12,"bm":1.56e12,"expect_seconds":{}}
	]`))
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// honest gives the intervals of a device with the rates.
func honest(p Params, c, bw, bm, hash float64, rtt time.Duration) intervals {
	d := func(s float64) time.Duration { return time.Duration(s*1e9) + rtt }
	return intervals{d(p.FillOps()/c + float64(p.FillBytes())/hash), d(p.WalkBytes() / bw), d(p.MixBytes() / bm)}
}

func TestClassifier(t *testing.T) {
	ps := specProfiles(t)
	for _, x := range []struct {
		name, claim, reason string
		c, bw, bm           float64
		rtt                 time.Duration
		want                Result
	}{
		{"honest H200", "H200", "PASS", 8.8e14, 3.6e12, 3.6e12, 10 * time.Millisecond, Pass},
		{"honest H100", "H100 SXM", "PASS", 9.1e14, 2.5e12, 2.6e12, 0, Pass},
		{"RTX PRO 6000 pair as H100", "H100 SXM", "FLOOR_BM", 7e14, 2.74e12, 0.7 * 2.56e12, 0, PassOther},
		{"slow fill", "H200", "FLOOR_C", 5e14, 3.6e12, 3.6e12, 0, PassOther},
		{"slow walk", "H200", "FLOOR_BW", 8.8e14, 1.6e12, 3.6e12, 0, PassOther},
		{"two models fit", "H100 PCIe", "AMBIGUOUS", 4.2e14, 1.56e12, 1.56e12, 0, PassOther},
		{"too far away", "H200", "TOO_FAR", 8.8e14, 3.6e12, 2.9e12, 400 * time.Millisecond, PassOther},
		{"unknown model", "MI300X", "UNKNOWN_MODEL", 9e14, 4e12, 4e12, 0, PassOther},
	} {
		claim := ps.find(x.claim, false)
		p, err := ParamsFor(143771<<20, 0)
		if claim != nil {
			p, err = claim.params()
		}
		if err != nil {
			t.Fatal(err)
		}
		hash := 5e11
		ts := honest(p, x.c, x.bw, x.bm, hash, x.rtt)
		m := Measured{M: p.FillBytes()}
		m.C, m.BW, m.BM = ts.rates(p, x.rtt, hash)
		r, reason := ps.classify(&m, claim, ts.tooFar(x.rtt))
		if r != x.want || reason != x.reason {
			t.Errorf("%s: %s (%s), want %s (%s); %+v", x.name, r, reason, x.want, x.reason, m)
		}
	}
}

// TestLessMemory: a device with less memory than its model misses that floor before all others.
func TestLessMemory(t *testing.T) {
	h200 := specProfiles(t).find("H200", false)
	if floor := h200.missed(&Measured{M: uint64(0.8 * float64(h200.nominal()))}); floor != "FLOOR_M" {
		t.Errorf("missed %q", floor)
	}
}

// TestDelayedEchoesGiveNoSpeed: the round trip that is taken off is capped at 5 % of the interval.
func TestDelayedEchoesGiveNoSpeed(t *testing.T) {
	p := SoftwareParams()
	ts := intervals{time.Second, time.Second, time.Second}
	c0, bw0, bm0 := ts.rates(p, 0, 0)
	c1, bw1, bm1 := ts.rates(p, time.Hour, 0)
	for _, q := range []float64{c1 / c0, bw1 / bw0, bm1 / bm0} {
		if math.Abs(q-1/0.95) > 1e-9 {
			t.Errorf("an hour of delay gave a factor of %v", q)
		}
	}
	if c, _, _ := (intervals{}).rates(p, 0, 0); math.IsInf(c, 0) || math.IsNaN(c) {
		t.Error("an interval of zero has no finite rate")
	}
}

func TestProfilesAreChecked(t *testing.T) {
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	if p := ps.find("", true); p == nil || *p.Params != SoftwareParams() {
		t.Fatal("the software profile is not SoftwareParams")
	}
	for _, text := range []string{
		`[{"model":""}]`, `[{"model":"x","speed":1}]`, `[{"model":"x","nominal_mib":1}]`, `[{"model":"x","nominal_mib":81559,"c":-1}]`,
		`[{"model":"x","nominal_mib":81559},{"model":"x","nominal_mib":81559}]`,
	} {
		if _, err := ParseProfiles([]byte(text)); err == nil {
			t.Errorf("accepted %s", text)
		}
	}
}
