package attest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

//go:embed profiles.json
var profilesJSON []byte

// Profile is what is known of one model: its sizes, and its rates as measured in calibration runs. A rate of zero is
// not known and sets no floor.
type Profile struct {
	Model      string  `json:"model"`
	Software   bool    `json:"software,omitempty"`
	NominalMiB uint64  `json:"nominal_mib,omitempty"`
	CC         string  `json:"cc,omitempty"`        // compute capability
	Params     *Params `json:"params,omitempty"`    // fixed sizes; absent: from NominalMiB
	C          float64 `json:"c,omitempty"`         // median, int8 operations/s
	BW         float64 `json:"bw,omitempty"`        // median, bytes/s of the walk
	BM         float64 `json:"bm,omitempty"`        // median, bytes/s of the mix
	SigmaC     float64 `json:"sigma_c,omitempty"`   // of ln C; zero without calibration
	SigmaBW    float64 `json:"sigma_bw,omitempty"`  // of ln BW
	SigmaBM    float64 `json:"sigma_bm,omitempty"`  // of ln BM
	HashRate   float64 `json:"hash_rate,omitempty"` // bytes/s of the commitment to the fill
	Expect     Expect  `json:"expect_seconds"`      // absent: from the rates
}

// Expect is how long the timed phases of an honest device take, in seconds; zero is unknown.
type Expect struct {
	Fill float64 `json:"fill"`
	Walk float64 `json:"walk"`
	Mix  float64 `json:"mix"`
}

// Profiles are the models that a validator knows.
type Profiles []Profile

// DefaultProfiles are the ones that ship with this version.
func DefaultProfiles() (Profiles, error) { return ParseProfiles(profilesJSON) }

// ParseProfiles reads a profile file (the shape of profiles.json). Unknown keys, doubled models and impossible
// numbers are errors.
func ParseProfiles(b []byte) (Profiles, error) {
	var ps Profiles
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ps); err != nil {
		return nil, fmt.Errorf("parse profiles: %w", err)
	}
	return ps, ps.check()
}

func (ps Profiles) check() error {
	for i, p := range ps {
		if p.Model == "" || slices.ContainsFunc(ps[:i], func(q Profile) bool { return q.Model == p.Model }) {
			return fmt.Errorf("%w: profile %d has no name of its own", ErrParams, i)
		}
		for _, v := range [...]float64{p.C, p.BW, p.BM, p.SigmaC, p.SigmaBW, p.SigmaBM, p.HashRate, p.Expect.Fill, p.Expect.Walk, p.Expect.Mix} {
			if !(v >= 0) || math.IsInf(v, 1) {
				return fmt.Errorf("%w: profile %s has a rate that is no finite positive number", ErrParams, p.Model)
			}
		}
		if _, err := p.params(); err != nil {
			return fmt.Errorf("profile %s: %w", p.Model, err)
		}
	}
	return nil
}

// find gives the profile of a device: the software one for software, else the one of its model; nil if unknown.
func (ps Profiles) find(model string, software bool) *Profile {
	for i := range ps {
		if ps[i].Software && software || !ps[i].Software && !software && ps[i].Model == model {
			return &ps[i]
		}
	}
	return nil
}

func (p *Profile) params() (Params, error) {
	if p.Params != nil {
		return *p.Params, p.Params.Check()
	}
	return ParamsFor(p.NominalMiB<<20, p.BM)
}

// nominal is the memory in bytes that the model claims.
func (p *Profile) nominal() uint64 {
	if p.Params != nil {
		return p.Params.FillBytes()
	}
	return p.NominalMiB << 20
}

// expect fills what the profile does not say from its rates.
func (p *Profile) expect(q Params) Expect {
	e := p.Expect
	if e.Fill == 0 && p.C > 0 {
		e.Fill = q.FillOps() / p.C
		if p.HashRate > 0 {
			e.Fill += float64(q.FillBytes()) / p.HashRate
		}
	}
	if e.Walk == 0 && p.BW > 0 {
		e.Walk = q.WalkBytes() / p.BW
	}
	if e.Mix == 0 && p.BM > 0 {
		e.Mix = q.MixBytes() / p.BM
	}
	return e
}

// Floors of the claimed model (gpu-proof.md section 8).
const (
	floorM  = 0.90
	floorC  = 0.70
	floorBW = 0.85
	floorBM = 0.85
	// rttShare is the most of an interval that is taken off as round trip: echoes can be delayed, and an uncapped
	// subtraction would turn that into speed.
	rttShare = 0.05
	certain  = 0.99
)

// intervals are the timed phases of one GPU by the validator's clock.
type intervals struct{ fill, walk, mix time.Duration }

// tooFar says that the round trip is too long for any floor to be held against the machine.
func (t intervals) tooFar(rtt time.Duration) bool {
	return float64(rtt) > rttShare*float64(min(t.fill, t.walk, t.mix))
}

// rates turns intervals into C, BW and BM.
func (t intervals) rates(p Params, rtt time.Duration, hashRate float64) (c, bw, bm float64) {
	net := func(d time.Duration) float64 {
		return math.Max(float64(d)-math.Min(float64(rtt), rttShare*float64(d)), 1) / 1e9
	}
	fill := net(t.fill)
	if hashRate > 0 { // never more than half: the constant is the model's, not this device's
		fill -= math.Min(float64(p.FillBytes())/hashRate, fill/2)
	}
	return p.FillOps() / fill, p.WalkBytes() / net(t.walk), p.MixBytes() / net(t.mix)
}

// missed names the first floor of the model that the measurement misses, or "".
func (p *Profile) missed(m *Measured) string {
	switch {
	case float64(m.M) < floorM*float64(p.nominal()):
		return "FLOOR_M"
	case m.C < floorC*p.C:
		return "FLOOR_C"
	case m.BW < floorBW*p.BW:
		return "FLOOR_BW"
	case m.BM < floorBM*p.BM:
		return "FLOOR_BM"
	}
	return ""
}

// density is the likelihood of a measurement under the model.
func (p *Profile) density(m *Measured) float64 {
	normal := func(x, median, sigma float64) float64 {
		if sigma == 0 {
			sigma = 0.15
		}
		sigma = math.Max(0.03, sigma)
		z := (math.Log(x) - math.Log(median)) / sigma
		return math.Exp(-z*z/2) / (sigma * math.Sqrt(2*math.Pi))
	}
	return normal(m.C, p.C, p.SigmaC) * normal(m.BW, p.BW, p.SigmaBW) * normal(m.BM, p.BM, p.SigmaBM)
}

// classify fills in the models that fit and says whether the claim is certain: PASS with "PASS", or PASS_OTHER with why
// not. claim is nil for a model without a profile.
func (ps Profiles) classify(m *Measured, claim *Profile, far bool) (Result, string) {
	if claim != nil && claim.Software {
		m.Models = []string{claim.Model}
		if missed := claim.missed(m); missed != "" {
			return PassOther, missed
		}
		return Pass, string(Pass)
	}
	total, own := 1/(9.21*5.30*5.30), 0.0 // equal priors over all models and "none", which is flat
	for i := range ps {
		p := &ps[i]
		if p.Software || p.C == 0 || p.BW == 0 || p.BM == 0 || float64(p.nominal()) < float64(m.M) {
			continue
		}
		d := p.density(m)
		total += d
		if p == claim {
			own = d
		}
		if p.missed(m) == "" {
			m.Models = append(m.Models, p.Model)
		}
	}
	if claim == nil {
		return PassOther, "UNKNOWN_MODEL"
	}
	m.Above = claim.C > 0 && math.Log(m.C/claim.C) > 3*math.Max(0.15, claim.SigmaC)
	switch missed := claim.missed(m); {
	case missed != "" && far:
		return PassOther, "TOO_FAR"
	case missed != "":
		return PassOther, missed
	case own/total < certain:
		return PassOther, "AMBIGUOUS"
	}
	m.Models = []string{claim.Model}
	return Pass, string(Pass)
}
