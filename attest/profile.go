package attest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

//go:embed models.json
var modelsJSON []byte

// Profile is what is known of one model: its sizes, and its rates as measured in calibration runs or, until there are some,
// estimated. A rate of zero is not known and sets no floor.
type Profile struct {
	Model      string  `json:"model"` // as its driver names it
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
	// Provenance says of every number above, by its key, where it comes from; "estimate" where nobody measured it.
	Provenance map[string]string `json:"provenance,omitempty"`
}

// numbers are the values that need a provenance, by key.
func (p *Profile) numbers() map[string]float64 {
	cc := 0.0
	if p.CC != "" {
		cc = 1
	}
	return map[string]float64{
		"nominal_mib": float64(p.NominalMiB), "cc": cc, "c": p.C, "bw": p.BW, "bm": p.BM,
		"sigma_c": p.SigmaC, "sigma_bw": p.SigmaBW, "sigma_bm": p.SigmaBM, "hash_rate": p.HashRate,
	}
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
func DefaultProfiles() (Profiles, error) { return ParseProfiles(modelsJSON) }

// ParseProfiles reads a profile file (the shape of models.json). Unknown keys, doubled models, impossible numbers and
// numbers without a provenance are errors.
func ParseProfiles(b []byte) (Profiles, error) {
	var ps Profiles
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ps); err != nil {
		return nil, fmt.Errorf("parse profiles: %w", err)
	}
	for _, p := range ps {
		for key, v := range p.numbers() {
			if (v != 0) != (p.Provenance[key] != "") {
				return nil, fmt.Errorf("%w: profile %s: %s and its provenance do not stand together", ErrParams, p.Model, key)
			}
		}
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

// Sizes are those of a challenge for a GPU that calls itself model and has so much memory.
func (ps Profiles) Sizes(model string, vramBytes uint64) (Params, error) {
	if p := ps.find(model, false); p != nil {
		return p.params()
	}
	return ParamsFor(vramBytes, 0)
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
)

// SigmaUnknown is the sigma of ln C, ln BW and ln BM of a model of which nobody measured how its cards differ (gpu-proof.md section 8).
const SigmaUnknown = 0.15

// Of the classifier (gpu-proof.md section 8).
const (
	certain = 0.99 // probability from which on a model is named
	// sigmaLeast is the least sigma of ln C, ln BW and ln BM with calibration.
	sigmaLeast = 0.03
	// densityNone is that of "none of them": flat over C in 1e12..1e16, BW and BM in 1e11..2e13.
	densityNone = 1 / (9.21 * 5.30 * 5.30)
)
