package adversary

import (
	"runtime"
	"time"

	"basilica"
	"basilica/attest"
)

// honest is a machine that does all of its work, with bad luck.
type honest struct {
	name  string
	make  func(c *challenge)
	shape attest.Params // of its challenge; zero: small
	whole bool          // at default strength; else with few openings, which changes nothing but the time that a round takes
}

// honests are the machines that must not be rejected.
func honests() []honest {
	lined := func(name string, took func(c *challenge, r *run, f attest.Frame) float64) honest {
		return honest{name: name, whole: true, make: func(c *challenge) {
			c.takes = func(r *run, f attest.Frame) time.Duration { return seconds(took(c, r, f)) }
		}}
	}
	// first says that a frame is the first one after a question, which alone waits for the way.
	first := func(r *run) bool { return !r.last.After(r.now) }
	carded := func(name, model string, change func(p *pace), jitter float64) honest {
		m := card(model)
		p := m.as(m, 57)
		change(&p)
		return honest{name: name, shape: m.params(), make: func(c *challenge) {
			c.timed(m, 1, p)
			takes := c.takes
			c.takes = func(r *run, f attest.Frame) time.Duration { return takes(r, f) + seconds(jitter*c.rng.Float64()) }
		}}
	}
	as := func(*pace) {}
	return []honest{
		lined("CPU prover", func(*challenge, *run, attest.Frame) float64 { return 0.001 }),
		{name: "CPU prover with a time-lock", make: func(c *challenge) { c.locked() }},
		{name: "two CPU provers", make: func(c *challenge) { c.greet.Devices = softwareDevices(2) }},
		lined("jitter of 250 ms", func(c *challenge, r *run, _ attest.Frame) float64 {
			if first(r) {
				return 0.001 + 0.25*c.rng.Float64()
			}
			return 0
		}),
		lined("slow disk: HELLO, ROOTS, PROOF and EVIDENCE wait up to 8 s", func(c *challenge, r *run, f attest.Frame) float64 {
			switch t := f.Type(); {
			case t == attest.FrameHello, t == attest.FrameRoots, t == attest.FrameEvidence, t == attest.FrameProof && first(r):
				return 8 * c.rng.Float64()
			}
			return 0.001
		}),
		lined("slow link of 1 Mbit/s", func(_ *challenge, _ *run, f attest.Frame) float64 { return 0.02 + float64(len(f))/125e3 }),
		lined("200 ms of round trip, 2 % loss", func(c *challenge, r *run, _ attest.Frame) float64 {
			took := 0.0
			if first(r) {
				took = 0.2
			}
			for again := 0.3; c.rng.Float64() < 0.02; again *= 2 { // until it is sent again
				took += again
			}
			return took
		}),
		carded("H200, 20 ms of jitter", "H200", as, 0.02),
		carded("H100 SXM, 20 ms of jitter", "H100 SXM", as, 0.02),
		carded("A100-80 SXM, 20 ms of jitter", "A100-80 SXM", as, 0.02),
		carded("RTX 4090, 20 ms of jitter", "RTX 4090", as, 0.02),
		carded("H100 SXM with its power limit at 0.8", "H100 SXM", func(p *pace) { p.fill /= 0.8 }, 0.005),
		carded("H100 SXM, 200 ms of round trip", "H100 SXM", func(p *pace) { p.rtt = 0.2 }, 0.02),
	}
}

// play counts how often the machine is accepted, unsure verdicts among them, and how often it is rejected: failed, or not
// measured.
func (h honest) play(l *lab, part float64) (y *tally, rejected int) {
	y = &tally{how: map[string]int{}, all: true}
	shape := h.shape
	if shape == (attest.Params{}) {
		shape = small
	}
	each(runtime.GOMAXPROCS(0), least(part, 10_000), func(n int) {
		x := l.challenge(h.name, n, shape)
		if !h.whole {
			x.brief("")
		}
		h.make(x)
		j, _ := x.judge()
		v := j.Verdict()
		ok := v == basilica.Pass || v == basilica.Unsure
		y.add(ok, j.Reason)
	})
	return y, y.rounds - y.accepted
}
