package attest

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	h200   = "NVIDIA H200"
	h100   = "NVIDIA H100 80GB HBM3"
	pcie   = "NVIDIA H100 PCIe"
	a100   = "NVIDIA A100-SXM4-80GB"
	pro    = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
	l40s   = "NVIDIA L40S"
	gtx409 = "NVIDIA GeForce RTX 4090"
)

func models(t *testing.T) Profiles {
	t.Helper()
	ps, err := DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// specified gives the models with the estimates of gpu-proof.md section 14 alone: what the rules of the classifier come to does not
// change with a card that is measured.
func specified(t *testing.T) Profiles {
	t.Helper()
	text, err := os.ReadFile("testdata/models_specified.json")
	if err != nil {
		t.Fatal(err)
	}
	ps, err := ParseProfiles(text)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// calibrated gives them with narrow sigmas, as a calibration run might find them.
func calibrated(t *testing.T) Profiles {
	t.Helper()
	ps := specified(t)
	for i := range ps {
		if !ps[i].Software {
			ps[i].SigmaC, ps[i].SigmaBW, ps[i].SigmaBM = 0.03, 0.02, 0.02
		}
	}
	return ps
}

// readingOf gives the reading of a device with the rates that is challenged with the sizes of the claimed model.
func readingOf(t *testing.T, ps Profiles, claim string, c, bw, bm float64, rtt time.Duration) (*reading, *Profile) {
	t.Helper()
	p, err := ParamsFor(143771<<20, 0)
	profile := ps.find(claim, false)
	hash := 5e11
	if profile != nil {
		p, err = profile.params()
		hash = profile.HashRate
	}
	if err != nil {
		t.Fatal(err)
	}
	d := func(s float64) time.Duration { return time.Duration(s*1e9) + rtt }
	return &reading{
		params: p, echo: rtt, rtt: rtt,
		times: intervals{d(p.FillOps()/c + float64(p.FillBytes())/hash), d(p.WalkBytes() / bw), d(p.MixBytes() / bm)},
	}, profile
}

// TestClassifier: which claim is believed, and what is published where it is not. The devices have the rates of the
// estimates, or of several cards joined as in gpu-proof.md section 3.5.
func TestClassifier(t *testing.T) {
	t.Parallel()
	wide, narrow := specified(t), calibrated(t)
	own := wide.find(h200, false)
	ownC, ownBW, ownBM := own.C/1e12, own.BW/1e12, own.BM/1e12
	for _, x := range []struct {
		name, claim, reason string
		ps                  Profiles
		c, bw, bm           float64 // T/s
		rtt                 time.Duration
		models              []string
	}{
		{"honest H200", h200, "PASS", wide, ownC, ownBW, ownBM, 10 * time.Millisecond, []string{h200}},
		{"honest H200, a little slow", h200, "PASS", wide, 0.93 * ownC, 0.96 * ownBW, 0.96 * ownBM, 0, []string{h200}},
		{"honest H100", h100, "PASS", wide, 602, 2.56, 2.56, 0, []string{h100}},
		{"honest 4090, calibrated", gtx409, "PASS", narrow, 380, 0.77, 0.77, 0, []string{gtx409}},
		{"honest RTX PRO 6000: only bigger cards have its memory", pro, "PASS", wide, 480, 1.37, 1.37, 0, []string{pro}},

		// The pairs that estimates cannot separate: the set is published.
		{"H100 PCIe", pcie, "AMBIGUOUS", wide, 481, 1.56, 1.56, 0, []string{pcie, pro, a100}},
		{"4090", gtx409, "AMBIGUOUS", wide, 380, 0.77, 0.77, 0, []string{gtx409, l40s}},
		{"A100-80", a100, "AMBIGUOUS", wide, 350, 1.56, 1.56, 0, []string{a100, pcie, pro}},
		{"A100-80 as H100 PCIe", pcie, "AMBIGUOUS", wide, 350, 1.56, 1.56, 0, []string{a100, pcie, pro}},
		{"RTX PRO 6000 as H100 PCIe", pcie, "AMBIGUOUS", wide, 480, 1.37, 1.37, 0, []string{pro, pcie, a100}},
		// Narrow sigmas separate them, by C and by BW.
		{"H100 PCIe, calibrated", pcie, "PASS", narrow, 481, 1.56, 1.56, 0, []string{pcie}},
		{"A100-80, calibrated", a100, "PASS", narrow, 350, 1.56, 1.56, 0, []string{a100}},
		{"A100-80 as H100 PCIe, calibrated", pcie, "AMBIGUOUS", narrow, 350, 1.56, 1.56, 0, []string{a100}},
		{"RTX PRO 6000 as H100 PCIe, calibrated", pcie, "AMBIGUOUS", narrow, 480, 1.37, 1.37, 0, []string{pro, pcie, a100}},

		{"two RTX PRO 6000 as H100", h100, "FLOOR_BM", wide, 480, 2.74, 0.7 * 2.56, 0, []string{pcie, a100}},
		{"RTX PRO 6000 as H100", h100, "FLOOR_BW", wide, 480, 1.37, 1.37, 0, []string{pro, pcie, a100}},
		{"A100-80 as H100", h100, "FLOOR_C", wide, 350, 1.56, 1.56, 0, []string{a100, pcie, pro}},
		{"H100 held back by its power limit", h100, "FLOOR_C", wide, 400, 2.56, 2.56, 0, []string{a100, pcie}},
		{"H200 that claims to be an H100", h100, "AMBIGUOUS", narrow, ownC, ownBW, ownBM, 0, []string{h200, h100, a100, pcie}},
		{"slow walk", h200, "FLOOR_BW", wide, ownC, 0.44 * ownBW, ownBM, 0, nil},
		{"no card at all", h200, "FLOOR_C", wide, 1, 0.1, 0.1, 0, nil},
		{"floor of the mix missed, the mix too far away", h200, "TOO_FAR", wide, ownC, ownBW, 0.8 * ownBM, 100 * time.Millisecond, nil},
		{"floor of the fill missed, only the mix too far away", h200, "FLOOR_C", wide, 0.5 * ownC, ownBW, ownBM, 50 * time.Millisecond, nil},
		{"unknown model", "NVIDIA H300", "UNKNOWN_MODEL", wide, ownC, ownBW, ownBM, 0, []string{h200}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r, claim := readingOf(t, x.ps, x.claim, x.c*1e12, x.bw*1e12, x.bm*1e12, x.rtt)
			var m Measured
			m.C, m.BW, m.BM = r.rates(5e11)
			got, reason := x.ps.classify(&m, claim, r)
			if reason != x.reason || (got == Pass) != (x.reason == "PASS") || got.Verdict() == CheatFill.Verdict() {
				t.Errorf("%s (%s), want %s; posterior %v", got, reason, x.reason, m.Posterior)
			}
			if !slices.Equal(m.Models, x.models) {
				t.Errorf("published %q, want %q; posterior %v", m.Models, x.models, m.Posterior)
			}
			if (m.Posterior >= certain) != (got == Pass) && got == Pass {
				t.Errorf("passed at p = %v", m.Posterior)
			}
		})
	}
}

// TestPosterior: all candidates and "none" share one; a card with less memory than was filled is no candidate.
func TestPosterior(t *testing.T) {
	t.Parallel()
	ps := specified(t)
	r, claim := readingOf(t, ps, h100, 602e12, 2.56e12, 2.56e12, 0)
	of, none := ps.posterior(r)
	sum := none
	for i, p := range of {
		sum += p
		if small := ps[i].nominal() < r.params.FillBytes(); (p == 0) != small && !ps[i].Software {
			t.Errorf("%s has probability %v", ps[i].Model, p)
		}
	}
	if math.Abs(sum-1) > 1e-12 {
		t.Errorf("they sum to %v", sum)
	}
	// By hand: at the median every normal is 1/(0.15 sqrt(2 pi)); the H200 is some sigmas away in all three, the rest further.
	peak := math.Pow(1/(0.15*math.Sqrt(2*math.Pi)), 3)
	big := ps.find(h200, false)
	c, bw, bm := r.rates(big.HashRate)
	z := math.Pow(math.Log(c/big.C), 2) + math.Pow(math.Log(bw/big.BW), 2) + math.Pow(math.Log(bm/big.BM), 2)
	want := peak / (peak + peak*math.Exp(-z/(2*0.15*0.15)) + 1/(9.21*5.3*5.3))
	if got := of[slices.IndexFunc(ps, func(p Profile) bool { return p.Model == claim.Model })]; math.Abs(got-want) > 1e-4 {
		t.Errorf("p = %v, by hand %v", got, want)
	}
}

// TestHashRateIsOfTheModelUnderTest: what a model takes for hashing is its own constant.
func TestHashRateIsOfTheModelUnderTest(t *testing.T) {
	t.Parallel()
	ps := models(t)
	own := ps.find(h200, false)
	r, claim := readingOf(t, ps, h200, own.C, own.BW, own.BM, 0)
	at := claim.density(r)
	other := *claim
	other.HashRate /= 2
	if d := other.density(r); d >= at {
		t.Errorf("half the hash rate does not change the likelihood: %v, %v", at, d)
	}
}

func TestAboveBandIsFlagged(t *testing.T) {
	t.Parallel()
	ps := models(t)
	for _, x := range []struct {
		c, bw, bm float64
		want      bool
	}{{380, 0.77, 0.77, false}, {700, 0.77, 0.77, true}, {380, 1.4, 0.77, true}, {380, 0.77, 1.4, true}} {
		r, claim := readingOf(t, ps, gtx409, x.c*1e12, x.bw*1e12, x.bm*1e12, 0)
		var m Measured
		m.C, m.BW, m.BM = r.rates(claim.HashRate)
		if _, _ = ps.classify(&m, claim, r); m.Above != x.want {
			t.Errorf("%+v: above band %v", x, m.Above)
		}
	}
}

// TestLessMemory: a device with less memory than its model misses that floor before all others.
func TestLessMemory(t *testing.T) {
	t.Parallel()
	ps := models(t)
	own := ps.find(h200, false)
	r, claim := readingOf(t, ps, h200, own.C, own.BW, own.BM, 0)
	r.params.Layers = r.params.Layers * 8 / 10
	if floor := claim.missed(r); floor != "FLOOR_M" {
		t.Errorf("missed %q", floor)
	}
	if r.echo = time.Hour; r.tooFar("FLOOR_M") {
		t.Error("memory is too far away")
	}
}

// TestDelayedEchoesGiveNoSpeed: the round trip that is taken off is capped at 5 % of the interval.
func TestDelayedEchoesGiveNoSpeed(t *testing.T) {
	t.Parallel()
	r := reading{params: SoftwareParams(), times: intervals{time.Second, time.Second, time.Second}}
	c0, bw0, bm0 := r.rates(0)
	r.rtt = time.Hour
	c1, bw1, bm1 := r.rates(0)
	for _, q := range []float64{c1 / c0, bw1 / bw0, bm1 / bm0} {
		if math.Abs(q-1/0.95) > 1e-9 {
			t.Errorf("an hour of delay gave a factor of %v", q)
		}
	}
	r.times = intervals{}
	if c, _, _ := r.rates(0); math.IsInf(c, 0) || math.IsNaN(c) {
		t.Error("an interval of zero has no finite rate")
	}
}

// TestModels: what ships is the table of gpu-proof.md section 14, and says of every number whether somebody has measured it.
func TestModels(t *testing.T) {
	t.Parallel()
	ps := models(t)
	if p := ps.find("", true); p == nil || *p.Params != SoftwareParams() {
		t.Fatal("the software profile is not SoftwareParams")
	}
	layers := map[string]int{
		h200: 8266, h100: 4689, pcie: 4689, a100: 4710, pro: 5628, l40s: 2648, gtx409: 1412, "NVIDIA GeForce RTX 5090": 1874, "NVIDIA B200": 10543,
	}
	if len(ps) != len(layers)+1 {
		t.Errorf("%d models", len(ps))
	}
	for _, p := range ps {
		if p.Software {
			continue
		}
		q, err := p.params()
		if err != nil || q.Layers != layers[p.Model] {
			t.Errorf("%s: %d layers, %v", p.Model, q.Layers, err)
		}
		from := "estimate, not measured"
		if p.Model == h200 || p.Model == h100 {
			from = "measured 2026-11-26 by gpu-attestor selftest, 10 runs on one card, driver "
		}
		for _, key := range []string{"c", "bw", "bm", "hash_rate"} {
			if !strings.HasPrefix(p.Provenance[key], from) {
				t.Errorf("%s: %s is %q, want %q", p.Model, key, p.Provenance[key], from)
			}
		}
		if p.SigmaC != SigmaUnknown || p.SigmaBW != SigmaUnknown || p.SigmaBM != SigmaUnknown {
			t.Errorf("%s: a sigma without calibration", p.Model)
		}
	}
}

func TestProfilesAreChecked(t *testing.T) {
	t.Parallel()
	const rest = `,"nominal_mib":81559,"provenance":{"nominal_mib":"x"}`
	if _, err := ParseProfiles([]byte(`[{"model":"x"` + rest + `}]`)); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`[{"model":""` + rest + `}]`, `[{"model":"x","speed":1` + rest + `}]`,
		`[{"model":"x","nominal_mib":1,"provenance":{"nominal_mib":"x"}}]`,
		`[{"model":"x","nominal_mib":81559,"c":-1,"provenance":{"nominal_mib":"x","c":"x"}}]`,
		`[{"model":"x"` + rest + `},{"model":"x"` + rest + `}]`,
		`[{"model":"x","nominal_mib":81559}]`,
		`[{"model":"x","nominal_mib":81559,"provenance":{"nominal_mib":"x","c":"x"}}]`,
		`[{"model":"x","nominal_mib":81559,"bw":1e12,"provenance":{"nominal_mib":"x"}}]`,
	} {
		if _, err := ParseProfiles([]byte(text)); err == nil {
			t.Errorf("accepted %s", text)
		}
	}
}

func TestRatesInTheReceipt(t *testing.T) {
	for rate, want := range map[float64]uint64{
		0: 0, 0.9: 0, 4.8e12: 4800000000000, math.Nextafter(1<<63, 0): 1<<63 - 1024, 1 << 63: 1 << 63, 1e30: 1 << 63,
		math.Inf(1): 1 << 63, math.Inf(-1): 0, -1: 0, math.NaN(): 0,
	} {
		if got := whole(rate); got != want {
			t.Errorf("%v: %d, want %d", rate, got, want)
		}
	}
}
