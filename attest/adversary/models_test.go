package adversary

import (
	"math"
	"time"

	"basilica/attest"
)

// model is a card as the lab's clock knows it: rates and expected times of gpu-proof.md section 14, which come from vendors'
// specifications and were not measured. The lab plays challenges of a few KiB and lets them take the times of whole ones, so
// only ratios between cards count.
type model struct {
	name            string
	gib             int     // of memory
	c, bw, bm       float64 // Tops, TB/s, TB/s
	fill, walk, mix float64 // seconds that a whole challenge of this model takes
}

var models = []model{
	{"H200", 141, 1107, 3.66, 3.66, 1.31, 0.68, 0.32},
	{"H100 SXM", 80, 1085, 2.56, 2.56, 0.75, 0.54, 0.31},
	{"H100 PCIe", 80, 842, 1.56, 1.56, 0.92, 0.88, 0.37},
	{"A100-80 SXM", 80, 504, 1.56, 1.56, 1.45, 0.88, 0.37},
	{"A100-40", 40, 504, 1.19, 1.19, 0.72, 0.58, 0.31},
	{"RTX PRO 6000", 96, 794, 1.37, 1.37, 1.16, 1.20, 0.43},
	{"L40S", 48, 590, 0.66, 0.66, 0.70, 1.25, 0.44},
	{"RTX 4090", 24, 543, 0.77, 0.77, 0.40, 0.71, 0.31},
	{"RTX 5090", 32, 703, 1.37, 1.37, 0.43, 0.50, 0.31},
}

func card(name string) model {
	for _, m := range models {
		if m.name == name {
			return m
		}
	}
	panic("no model " + name)
}

// params are the sizes of the model's challenge in the lab: a layer for every 8 GiB.
func (m model) params() attest.Params {
	return attest.Params{N: 32, Layers: max(3, m.gib/8), Lanes: 64, Steps: 2, Batches: 2, WinLayers: max(2, m.gib/16), Cells: 64, Rounds: 8}
}

func (m model) profile() attest.Profile {
	p := m.params()
	return attest.Profile{
		Model: m.name, Params: &p, C: p.FillOps() / m.fill, BW: p.WalkBytes() / m.walk, BM: p.MixBytes() / m.mix,
		SigmaC: 0.08, SigmaBW: 0.06, SigmaBM: 0.06, // as if it had been calibrated
	}
}

// pace says how long the timed phases take, in seconds, and the way to the validator and back.
type pace struct{ fill, walk, mix, rtt float64 }

// as is the pace of one card that is taken for another: what it does not hold is paged in from the host's memory, in each of
// the 16 passes of the walk, over a link of so many GB/s.
func (m model) as(claim model, link float64) pace {
	held := 0.92 * float64(m.gib)
	missing := math.Max(0, 0.92*float64(claim.gib)-held) * 1.074 // GiB to GB
	return pace{
		fill: claim.fill*claim.c/m.c + missing/link, walk: claim.walk*claim.bw/m.bw + 16*missing/link, mix: claim.mix * claim.bm / m.bm, rtt: 0.001,
	}
}

// fetched is e(x) of gpu-proof.md section 3.5: the cells that a card must fetch, per cell and round, if it computes the
// fraction x of them.
func fetched(x float64) float64 { return (1 - x) * (1 - math.Exp(-2*x)) }

// shared is the rate in the mix of two cards with full copies, relative to the claimed one (section 3.5). Rates are in GB/s.
func shared(claim, one, link float64, e func(x float64) float64) float64 {
	best := math.Inf(1)
	for x := 0.5; x <= 1; x += 0.0005 {
		best = math.Min(best, math.Max(x*544/one, e(x)*128/link))
	}
	return 544 / claim / best
}

// copies is the pace of two cards that each hold the whole fill: their walks add up, the mix goes over their link.
func (m model) copies(claim model, link float64) pace {
	p := m.as(claim, 57)
	p.walk /= 2
	p.mix = claim.mix / shared(1000*claim.bm, 1000*m.bm, link, fetched)
	return p
}

// sharded is the pace of two cards that hold half of the fill each: windows are read one after the other, so that one card
// walks at a time.
func (m model) sharded(claim model, link float64) pace {
	p := m.as(claim, math.Inf(1))
	p.fill /= 1.5
	p.mix = claim.mix / shared(1000*claim.bm, 1000*m.bm, link, fetched)
	return p
}

// slower makes every phase take so many times as long.
func (p pace) slower(times float64) pace {
	return pace{p.fill * times, p.walk * times, p.mix * times, p.rtt}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// timed makes the challenge that of machines with cards of a model, or said to be, that keep a pace. Work takes up to two
// percent longer than it could, and the way up to a millisecond.
func (c *challenge) timed(claim model, cards int, p pace) {
	c.greet.Devices = nil
	for i := range cards {
		bytes := uint64(claim.gib) << 30
		c.greet.Devices = append(c.greet.Devices, attest.DeviceInfo{UUID: attest.UUID{byte(i + 1)}, Name: claim.name, VRAMBytes: bytes, FreeBytes: bytes, CC: "9.0"})
	}
	c.setup.Policy.AllowSoftware = false
	c.takes = func(r *run, f attest.Frame) time.Duration {
		work := 0.0
		switch t := f.Type(); {
		case r.asked.Type() == attest.FrameChallenge && t == attest.FrameFillDone:
			work = p.fill
		case t == attest.FrameWalkDone:
			work = p.walk
		case t == attest.FrameMixDone:
			work = p.mix
		}
		if r.paid[f.Type()] { // all cards work at once
			work = 0
		}
		r.paid[f.Type()] = true
		way := p.rtt
		if r.last.After(r.now) { // what is sent in one go comes in one go
			way = 0
		}
		return seconds(work*(1+0.02*c.rng.Float64()) + way + 0.001*c.rng.Float64())
	}
}
