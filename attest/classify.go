package attest

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// intervals are the timed phases of one GPU by the validator's clock.
type intervals struct{ fill, walk, mix time.Duration }

// reading is what was timed of one GPU, before any model is held against it.
type reading struct {
	params Params
	times  intervals
	echo   time.Duration // smallest ECHO of the run
	rtt    time.Duration // to be taken off: echo, or less where a floor was pinned
}

// tooFar says that the round trip is too long for that floor to be held against the machine.
func (r *reading) tooFar(floor string) bool {
	var d time.Duration
	switch floor {
	case "FLOOR_C":
		d = r.times.fill
	case "FLOOR_BW":
		d = r.times.walk
	case "FLOOR_BM":
		d = r.times.mix
	default:
		return false
	}
	return float64(r.echo) > rttShare*float64(d)
}

// rates turns intervals into C, BW and BM. hashRate is that of the model under test, 0 if unknown.
func (r *reading) rates(hashRate float64) (c, bw, bm float64) {
	net := func(d time.Duration) float64 {
		return math.Max(float64(d)-math.Min(float64(r.rtt), rttShare*float64(d)), 1) / 1e9
	}
	p, fill := r.params, net(r.times.fill)
	if hashRate > 0 { // never more than half: the constant is the model's, not this device's
		fill -= math.Min(float64(p.FillBytes())/hashRate, fill/2)
	}
	return p.FillOps() / fill, p.WalkBytes() / net(r.times.walk), p.MixBytes() / net(r.times.mix)
}

// missed names the first floor of the model that a reading misses, or "".
func (p *Profile) missed(r *reading) string {
	if p.lacksMemory(r) {
		return "FLOOR_M"
	}
	return p.slow(r)
}

// lacksMemory says that less was filled than the model's floor asks for.
func (p *Profile) lacksMemory(r *reading) bool {
	return float64(r.params.FillBytes()) < floorM*float64(p.nominal())
}

// slow names the first floor of the model's rates that a reading misses, or "".
func (p *Profile) slow(r *reading) string {
	c, bw, bm := r.rates(p.HashRate)
	switch {
	case c < floorC*p.C:
		return "FLOOR_C"
	case bw < floorBW*p.BW:
		return "FLOOR_BW"
	case bm < floorBM*p.BM:
		return "FLOOR_BM"
	}
	return ""
}

// candidate says that the classifier knows the model's rates and that it has the memory: what was filled is a lower bound,
// for a bigger card can hold a smaller claim.
func (p *Profile) candidate(r *reading) bool {
	return !p.Software && p.C > 0 && p.BW > 0 && p.BM > 0 && p.nominal() >= r.params.FillBytes()
}

// density is the likelihood of a reading under the model.
func (p *Profile) density(r *reading) float64 {
	normal := func(x, median, sigma float64) float64 {
		if sigma == 0 {
			sigma = SigmaUnknown
		}
		sigma = math.Max(sigmaLeast, sigma)
		z := (math.Log(x) - math.Log(median)) / sigma
		return math.Exp(-z*z/2) / (sigma * math.Sqrt(2*math.Pi))
	}
	c, bw, bm := r.rates(p.HashRate)
	return normal(c, p.C, p.SigmaC) * normal(bw, p.BW, p.SigmaBW) * normal(bm, p.BM, p.SigmaBM)
}

// posterior gives the probability of every model, in the order of ps, and of "none of them", which is flat. The priors of all
// candidates and of "none" are equal.
func (ps Profiles) posterior(r *reading) (of []float64, none float64) {
	of, none = make([]float64, len(ps)), densityNone
	total := none
	for i := range ps {
		if ps[i].candidate(r) {
			of[i] = ps[i].density(r)
			total += of[i]
		}
	}
	for i := range of {
		of[i] /= total
	}
	return of, none / total
}

// fits names the models that a device may be priced as where its own name is not certain, the likeliest first: those that share
// all but one percent of the probability and whose rates it reaches. Where that names none (a card held back, or one that
// nobody knows), or one with more memory than was proven, also the models that it would do for: all whose every floor holds. Where
// there is none of these, a model with more memory than was proven does not stand alone: a strong card that proves a little of
// its memory, under a name that nobody knows, is worth nothing.
func (ps Profiles) fits(r *reading, of []float64, none float64) (names []string) {
	order := make([]int, 0, len(ps))
	for i := range ps {
		if ps[i].candidate(r) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(of[b], of[a]) })
	lacking, sum := false, none // nothing is likely where "none" is
	for _, i := range order {
		p := &ps[i]
		if none <= 1-certain && sum < certain && p.slow(r) == "" {
			names = append(names, p.Model)
			lacking = lacking || p.lacksMemory(r)
		}
		sum += of[i]
	}
	if len(names) > 0 && !lacking {
		return names
	}
	whole := false
	for _, i := range order {
		if p := &ps[i]; p.missed(r) == "" {
			whole = true
			if !slices.Contains(names, p.Model) {
				names = append(names, p.Model)
			}
		}
	}
	if !whole {
		return nil
	}
	return names
}

// above says that a rate is faster than the model's by three sigmas.
func above(rate, median, sigma float64) bool {
	return median > 0 && math.Log(rate/median) > 3*math.Max(SigmaUnknown, sigma)
}

// classify fills in the models that fit and the probability of the claimed one, and says whether the claim is certain: PASS
// with "PASS", or PASS_OTHER with why not. claim is nil for a model without a profile.
func (ps Profiles) classify(m *Measured, claim *Profile, r *reading) (Result, string) {
	if claim != nil && claim.Software {
		m.Models = []string{claim.Model}
		if missed := claim.missed(r); missed != "" {
			return PassOther, missed
		}
		return Pass, string(Pass)
	}
	of, none := ps.posterior(r)
	m.Models = ps.fits(r, of, none)
	if claim == nil {
		return PassOther, "UNKNOWN_MODEL"
	}
	own := 0.0
	for i := range ps {
		if &ps[i] == claim {
			own = of[i]
		}
	}
	m.Posterior = math.Round(own*1e4) / 1e4
	m.Above = above(m.C, claim.C, claim.SigmaC) || above(m.BW, claim.BW, claim.SigmaBW) || above(m.BM, claim.BM, claim.SigmaBM)
	switch missed := claim.missed(r); {
	case missed != "" && r.tooFar(missed):
		return PassOther, "TOO_FAR"
	case missed != "":
		return PassOther, missed
	case own < certain:
		return PassOther, "AMBIGUOUS"
	}
	m.Models = []string{claim.Model}
	return Pass, string(Pass)
}
