package adversary

import (
	"bytes"
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attest/attestpb"
)

// class is one way to lie.
type class struct {
	attack string
	source string        // where it is described: a section of gpu-proof.md, or "peers" and a row of peers.md section 4
	shape  attest.Params // zero: small
	bound  float64       // how often it may be believed at the most, by analysis
	caught []string      // the reasons that may catch it; "*": any
	lie    func(c *challenge)
	// asks names the check that alone can catch the liar: the others are made with few openings, which changes nothing but the
	// time that a round takes. Empty: all at default strength.
	asks string
	// believed says whether a judgement is what the liar wants; nil: every check held.
	believed func(c *challenge, j attest.Judgement) bool
}

// rounds is how many rounds a class is worth.
func (c class) rounds() int {
	if c.bound > 0 {
		return 10_000
	}
	return 200
}

// passed says that every check held: the GPU counts, be it as another one than it claims.
func passed(j attest.Judgement) bool { return j.Result == attest.Pass || j.Result == attest.PassOther }

// exact is the fraction of total places that a cheat leaves out.
func exact(f float64, total int) float64 { return math.Ceil(f*float64(total)) / float64(total) }

// wrongFill is how often a fill passes with the fraction d of its elements made up: a byte is right once in 256 times.
func wrongFill(d float64) float64 {
	return math.Pow(1-255.0/256*d, float64(attest.DefaultStrength().Fill))
}

func wrongWalk(d float64) float64 { return math.Pow(1-d, float64(attest.DefaultStrength().Walk)) }

// wrongMix is how often a mix passes with the fraction d of the cells of so many rounds wrong.
func wrongMix(d float64, rounds int) float64 { return math.Pow(1-d, float64(rounds)) }

// wrongPings is how often answers without a block, so many of 64, are not among the four whose blocks are opened.
func wrongPings(wrong int) float64 {
	p := 1.0
	for k := range attest.DefaultStrength().Ping {
		p *= float64(64-wrong-k) / float64(64-k)
	}
	return math.Max(p, 0)
}

// lazy is a device that Parse knows.
func lazy(attack, source, spec string, p attest.Params, bound float64, caught ...string) class {
	cheat := must(Parse(spec))
	c := class{attack: attack, source: source, shape: p, bound: bound, caught: caught, lie: func(c *challenge) { c.cheat = cheat }}
	if bound > 0 {
		c.asks = caught[0]
	}
	return c
}

// spoofed is a machine whose cards do all the work at a pace that is not the claimed model's. Whoever lists the claimed model
// among those that fit believes it.
func spoofed(attack, source, claim string, cards int, p pace, caught ...string) class {
	return class{
		attack: attack, source: source, shape: card(claim).params(), caught: caught,
		lie: func(c *challenge) { c.timed(card(claim), cards, p) },
		believed: func(_ *challenge, j attest.Judgement) bool {
			return j.Result == attest.Pass || slices.ContainsFunc(j.GPUs, func(m attest.Measured) bool { return slices.Contains(m.Models, claim) })
		},
	}
}

// told is a machine that works honestly and lies in its frames.
func told(attack, source string, lie func(c *challenge), caught ...string) class {
	return class{attack: attack, source: source, lie: lie, caught: caught}
}

// liars are all classes of the lab.
func liars() []class {
	return slices.Concat(workers(), steerers(), forgers(), scramblers(), replayers(), spoofers(), quitters(), shortcutters(), vouchers())
}

// workers leave work out.
func workers() (cs []class) {
	for _, d := range []float64{0.01, 0.02, 0.05, 0.5} {
		cs = append(cs, lazy("fill: "+percent(d)+" of the elements left out", "12 computes only (1-d)", "fill:"+number(d), small, wrongFill(exact(d, 1024)), "CHEAT_FILL"))
	}
	for _, d := range []float64{0.01, 0.05, 0.1, 0.5} {
		cs = append(cs, lazy("walk: "+percent(d)+" of the lanes left out", "13 lane-batches skipped", "walk:"+number(d), small, wrongWalk(exact(d, 64)), "CHEAT_WALK"))
	}
	for _, d := range []float64{0.01, 0.05, 0.1, 0.2} {
		cs = append(cs, lazy("mix: "+percent(d)+" of the cells left out", "13 cells wrong in every round", "mix:"+number(d), mixing, wrongMix(exact(d, 64), 64), "CHEAT_MIX"))
	}
	return append(cs,
		lazy("mix: 90 % of one round left out", "13 one round wrong", "break:0.9", small, 1-exact(0.9, 64), "CHEAT_MIX"),
		lazy("mix: garbage, TRACE made to fit", "12 mix replaced by garbage", "break:1", small, 0, "CHEAT_MIX"),
		lazy("mix: stale partners for 5 % of the cells", "12 mix with stale partners", "stale:0.05", mixing, wrongMix(exact(0.05, 64), 63), "CHEAT_MIX"),
		lazy("mix: no partners for 5 % of the cells", "12 mix with missing partners", "alone:0.05", mixing, wrongMix(exact(0.05, 64), 64), "CHEAT_MIX"),
		lazy("mix on a card that does not hold the fill", "12 one strong card serves several boxes", "bare", small, 0, "CHEAT_MIX"),
		lazy("fill: garbage", "12 forged result, garbage fill", "garbage", small, 0, "CHEAT_FILL"),
		lazy("fill: one layer of cheap noise, made again in the walk", "12 layers replaced by cheap PRG output", "cheap", layered, wrongFill(1.0/64), "CHEAT_FILL"),
		lazy("fill: as if the product were Hankel, n^2 work", "12, peers 12 structured matrices", "hankel", small, wrongFill(1-63.0/1024), "CHEAT_FILL"),
		lazy("fill: products of 4 of n terms, n^2 work", "18 low rank", "lowrank", small, 0, "CHEAT_FILL"),
		lazy("layers 0 and 1: half of the leaves made up", "7 rule 4", "leaf:0.5", wide, math.Pow(0.5, 4), "CHEAT_PRG"),
		lazy("layers 0 and 1 made up", "7 rule 4", "leaf:1", wide, 0, "CHEAT_PRG"),
		lazy("garbage lanes: 1 of 32 blocks is not held", "12 smaller VRAM and garbage lanes", "hole:0.03125", wide,
			math.Pow(1-1.0/32, float64(wide.Steps*attest.DefaultStrength().Walk+wide.Rounds/4)), "CHEAT_WALK", "CHEAT_MIX"),
		lazy("memory let go before PING: a quarter of the blocks", "5 VRAM is full while it answers", "ping:0.25", small, wrongPings(16), "CHEAT_PING"),
		lazy("memory let go before PING", "5 VRAM is full while it answers", "ping:1", small, 0, "CHEAT_PING"),
	)
}

// steerers try to have the checks look elsewhere, or to work before they are asked.
func steerers() []class {
	return []class{
		lazy("grinding 8 fills for roots, 2 % left out", "12 grinding roots", "fill:0.02,grind:8", small, wrongFill(exact(0.02, 1024)), "CHEAT_FILL"),
		lazy("grinding 8 walks for roots, 5 % left out", "12 grinding roots", "walk:0.05,grind:8", small, wrongWalk(exact(0.05, 64)), "CHEAT_WALK"),
		lazy("grinding 8 mixes for roots, 5 % left out", "12 grinding roots", "mix:0.05,grind:8", small, wrongMix(exact(0.05, 64), small.Rounds), "CHEAT_MIX"),
		lazy("another schedule in one layer", "12 grinding the schedule", "schedule", layered, wrongFill(1.0/64), "CHEAT_FILL"),
		lazy("a fill made beforehand, for a nonce of its own", "12 precomputation, peers 43", "nonce", small, 0, "CHEAT_FILL"),
		lazy("a walk before its nonce is known", "12 precomputation", "early", small, 0, "CHEAT_WALK"),
		lazy("a mix before its nonce is known", "12 precomputation", "earlymix", small, 0, "CHEAT_MIX"),
		told("one memory for two devices", "12 one GPU as many, peers 6", func(c *challenge) {
			c.cheat.Kind, c.greet.Devices = Twin, softwareDevices(2)
		}, "CHEAT_FILL"),
		told("two devices answer for each other", "12 one GPU as many", func(c *challenge) {
			c.greet.Devices = softwareDevices(2)
			c.up = swapped
		}, "CHEAT_FINAL"),
	}
}

// swapped has GPU 0 say what GPU 1 should, and the other way round.
func swapped(f attest.Frame, _ int) []attest.Frame {
	switch f.Type() {
	case attest.FrameFillDone:
		var m attestpb.FillDone
		must(0, unpack(f, &m))
		m.G = 1 - m.GetG()
		f = pack(f.Type(), &m)
	case attest.FrameRoots:
		var m attestpb.Roots
		must(0, unpack(f, &m))
		m.G = 1 - m.GetG()
		f = pack(f.Type(), &m)
	}
	return []attest.Frame{f}
}

// opening changes one opening of a kind, 1 to 5, and signs for it.
func opening(c *challenge, kind int, change func(data []byte) []byte) {
	q := c.setup.Strength
	counts := [...]int{q.Fill, q.PRG, q.Walk, q.Mix * small.Rounds, q.Ping}
	target := c.rng.IntN(counts[kind-1])
	for _, n := range counts[:kind-1] {
		target += n
	}
	c.up = func(f attest.Frame, n int) []attest.Frame {
		if f.Type() != attest.FrameProof || n != target {
			return []attest.Frame{f}
		}
		var m attestpb.Proof
		must(0, unpack(f, &m))
		m.Data = change(m.GetData())
		return []attest.Frame{pack(f.Type(), &m)}
	}
}

func flipped(r *rand.Rand, b []byte) []byte {
	b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	return b
}

// forging changes one root of a kind of frame before it is committed to.
func forging(t attest.FrameType, which func(r *rand.Rand, n int) int) func(c *challenge) {
	return func(c *challenge) {
		c.forge = func(of attest.FrameType, _ int, roots []attest.Node) {
			if of == t {
				roots[which(c.rng, len(roots))][0] ^= 1
			}
		}
	}
}

// forgers are consistent in everything, signature included, but one thing.
func forgers() (cs []class) {
	for i, caught := range []string{"CHEAT_FILL", "CHEAT_PRG", "CHEAT_WALK", "CHEAT_MIX", "CHEAT_PING"} {
		name := [...]string{"an element", "a generated leaf", "a lane", "a cell", "a pinged block"}[i]
		cs = append(cs, told("forged opening of "+name, "12 forged result", func(c *challenge) {
			opening(c, i+1, func(b []byte) []byte { return flipped(c.rng, b) })
		}, caught))
	}
	first := func(f attest.Frame, m *attestpb.Proof) bool {
		return f.Type() == attest.FrameProof && unpack(f, m) == nil && m.GetKind() == 1
	}
	last := func(_ *rand.Rand, n int) int { return n - 1 }
	some := func(r *rand.Rand, n int) int { return r.IntN(n) }
	return append(cs,
		told("an opening one byte short", "12 short openings", func(c *challenge) {
			opening(c, 1+c.rng.IntN(5), func(b []byte) []byte { return b[:len(b)-1] })
		}, "MALFORMED_PROOF"),
		told("an opening one byte long", "12 short openings", func(c *challenge) {
			opening(c, 1+c.rng.IntN(5), func(b []byte) []byte { return append(b, 0) })
		}, "MALFORMED_PROOF"),
		told("one opening for all elements", "7 rule 1", func(c *challenge) {
			var data []byte
			c.up = func(f attest.Frame, n int) []attest.Frame {
				var m attestpb.Proof
				if !first(f, &m) {
					return []attest.Frame{f}
				}
				if n == 0 {
					data = m.GetData()
				}
				m.Data = data
				return []attest.Frame{pack(f.Type(), &m)}
			}
		}, "CHEAT_FILL"),
		told("openings in another order", "7 rule 1", func(c *challenge) {
			var held attest.Frame
			c.up = func(f attest.Frame, n int) []attest.Frame {
				switch {
				case f.Type() == attest.FrameProof && n == 0:
					held = f
					return nil
				case f.Type() == attest.FrameProof && n == 1:
					return []attest.Frame{f, held}
				}
				return []attest.Frame{f}
			}
		}, "MALFORMED_PROOF"),
		told("forged root of a layer", "7 rule 7", forging(attest.FrameRoots, some), "CHEAT_FILL", "CHEAT_PRG", "CHEAT_WALK"),
		class{
			attack: "forged root of the last batch", source: "7 rule 5", bound: math.Pow(0.5, 64), caught: []string{"CHEAT_WALK"}, asks: "CHEAT_WALK",
			lie: forging(attest.FrameWalkDone, last),
		},
		told("forged root of the last round", "7 rule 6", forging(attest.FrameMixDone, last), "CHEAT_MIX"),
		told("forged root of a round in TRACE", "7 rule 6", forging(attest.FrameTrace, some), "CHEAT_MIX"),
		told("final_g of other roots", "7 rule 7", func(c *challenge) {
			c.up = func(f attest.Frame, _ int) []attest.Frame {
				if f.Type() != attest.FrameFillDone {
					return []attest.Frame{f}
				}
				var m attestpb.FillDone
				must(0, unpack(f, &m))
				m.FinalG = flipped(c.rng, m.GetFinalG())
				return []attest.Frame{pack(f.Type(), &m)}
			}
		}, "CHEAT_FINAL"),
		told("an ECHO answered without its nonce", "9 relays", func(c *challenge) {
			target := c.rng.IntN(64)
			c.up = func(f attest.Frame, n int) []attest.Frame {
				if f.Type() != attest.FrameEchoReply || n != target {
					return []attest.Frame{f}
				}
				var m attestpb.Pong
				must(0, unpack(f, &m))
				m.Hash32 = flipped(c.rng, m.GetHash32())
				return []attest.Frame{pack(f.Type(), &m)}
			}
		}, "CHEAT_PING"),
	)
}

// scramblers send what no attestor would.
func scramblers() []class {
	return []class{
		told("a frame of the attestor with one bit changed", "12 frame fuzz", func(c *challenge) {
			c.tap = mutated(c.rng, 471)
		}, "*"),
		told("a frame of the validator with one bit changed", "12 frame fuzz", func(c *challenge) {
			c.down = mutated(c.rng, 132)
		}, "*"),
		told("noise in place of frames", "12 huge frames, peers 14", func(c *challenge) {
			c.up = func(f attest.Frame, _ int) []attest.Frame { return []attest.Frame{noise(c.rng, 1+c.rng.IntN(400))} }
		}, "MALFORMED_HELLO", "TIMEOUT_HELLO"),
		told("a frame of 2 GiB", "12 huge frames", func(c *challenge) {
			c.up = func(f attest.Frame, _ int) []attest.Frame {
				f[3] = 0x80
				return []attest.Frame{f}
			}
		}, "MALFORMED_HELLO"),
		told("seventeen devices", "peers 9 mass fake workers", func(c *challenge) {
			c.up = greeting(func(m *attestpb.Hello) {
				for i := range attest.MaxGPUs {
					m.Gpus = append(m.Gpus, &attestpb.Gpu{Uuid16: bytes.Repeat([]byte{byte(i + 2)}, 16), Kind: 1})
				}
			})
		}, "MALFORMED_HELLO"),
		told("one UUID twice", "peers 8", func(c *challenge) {
			c.up = greeting(func(m *attestpb.Hello) { m.Gpus = append(m.Gpus, m.GetGpus()[0]) })
		}, "MALFORMED_HELLO"),
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// mutated changes one bit of one of so many frames.
func mutated(r *rand.Rand, frames int) func(f attest.Frame, _ int) []attest.Frame {
	target := r.IntN(frames)
	return func(f attest.Frame, _ int) []attest.Frame {
		if target--; target == -1 {
			f = flipped(r, slices.Clone(f))
		}
		return []attest.Frame{f}
	}
}

func greeting(change func(m *attestpb.Hello)) func(f attest.Frame, _ int) []attest.Frame {
	return func(f attest.Frame, _ int) []attest.Frame {
		if f.Type() == attest.FrameHello {
			var m attestpb.Hello
			must(0, unpack(f, &m))
			change(&m)
			f = pack(f.Type(), &m)
		}
		return []attest.Frame{f}
	}
}

// earlier is an honest challenge of the same lab, perhaps changed, that ended before.
func (c *challenge) earlier(change func(e *challenge)) []attest.Frame {
	e := c.lab.challenge("earlier", c.rng.IntN(1<<30), small)
	if change != nil {
		change(e)
	}
	_, r := e.judge()
	return r.frames
}

// instead sends recorded frames in place of one's own, as far as there are some.
func instead(frames []attest.Frame) func(f attest.Frame, _ int) []attest.Frame {
	n := -1
	return func(f attest.Frame, _ int) []attest.Frame {
		if n++; n < len(frames) {
			f = frames[n]
		}
		return []attest.Frame{f}
	}
}

// replayers speak of another run, box or key.
func replayers() []class {
	evidence := func(frames func(c *challenge) []attest.Frame) func(c *challenge) {
		return func(c *challenge) {
			earlier := frames(c)
			c.tap = func(f attest.Frame, _ int) []attest.Frame {
				if f.Type() == attest.FrameEvidence {
					f = earlier[len(earlier)-1]
				}
				return []attest.Frame{f}
			}
		}
	}
	signing := func(change func(r *run, st *attestpb.Statement)) func(c *challenge) {
		return func(c *challenge) { c.statement = change }
	}
	return []class{
		told("replay of an earlier pass", "12 replay, peers 11", func(c *challenge) { c.tap = instead(c.earlier(nil)) }, "CHEAT_FINAL"),
		told("replay of an earlier pass, signed afresh", "12 replay", func(c *challenge) {
			frames := c.earlier(nil)
			c.up = instead(frames[:len(frames)-1])
		}, "CHEAT_FINAL"),
		told("one answer for two validators", "12 same GPU enrolled twice, peers 7", func(c *challenge) {
			c.tap = instead(c.earlier(func(e *challenge) {
				e.setup.Binding.ValidatorHotkey, e.binding.ValidatorHotkey = attest.Key{9}, attest.Key{9}
			}))
		}, "CHEAT_FINAL"),
		told("one machine behind two executors", "9 relays, peers 10", func(c *challenge) { c.binding.HostKey = []byte("another executor's host key") }, "ABORTED_2"),
		told("evidence of another box", "12 replayed or old evidence", evidence(func(c *challenge) []attest.Frame {
			return c.earlier(func(e *challenge) {
				e.key, e.setup.SPKI, e.greet.SPKI = e.lab.other, e.lab.other.SPKI(), e.lab.other.SPKI()
			})
		}), "CHEAT_KEY"),
		told("evidence of an earlier run", "12 replayed or old evidence", evidence(func(c *challenge) []attest.Frame { return c.earlier(nil) }), "CHEAT_BIND"),
		told("signed with a key that HELLO does not name", "12 swapped key", func(c *challenge) { c.key = c.lab.other }, "CHEAT_KEY"),
		told("another key than the pinned one", "12 swapped key", func(c *challenge) { c.greet.SPKI, c.key = c.lab.other.SPKI(), c.lab.other }, "CHEAT_KEY"),
		told("a transcript without its last frames", "7 rule 8", signing(func(r *run, st *attestpb.Statement) {
			back := sha256.New()
			for _, f := range r.frames[:len(r.frames)-1-r.c.rng.IntN(100)] {
				back.Write(f)
			}
			h := sha256.New()
			h.Write([]byte("BSLTRAN\x00"))
			h.Write(r.toward.Sum(nil))
			h.Write(back.Sum(nil))
			st.Transcript32 = h.Sum(nil)
		}), "CHEAT_BIND"),
		told("evidence of another run id", "7 rule 8", signing(func(r *run, st *attestpb.Statement) { st.Run16 = flipped(r.c.rng, st.GetRun16()) }), "CHEAT_BIND"),
		told("software signed for as a GPU", "peers 38", signing(func(_ *run, st *attestpb.Statement) { st.DeviceKinds = []uint32{0} }), "CHEAT_BIND"),
		told("another build's HELLO signed for", "peers 4", signing(func(_ *run, st *attestpb.Statement) {
			h := sha256.Sum256([]byte("the official build's HELLO"))
			st.HelloSha256 = h[:]
		}), "CHEAT_BIND"),
		told("the official build's digest put into HELLO on the way", "peers 4", func(c *challenge) {
			c.tap = greeting(func(m *attestpb.Hello) { m.BuildSha256 = bytes.Repeat([]byte{0xab}, 32) })
		}, "CHEAT_BIND"),
	}
}

// spoofers are not the hardware that they say they are.
func spoofers() []class {
	h100, h200, pro, pcie := card("H100 SXM"), card("H200"), card("RTX PRO 6000"), card("H100 PCIe")
	small := func(m model, gib int) model {
		m.gib = gib
		return m
	}
	half := card("A100-80 SXM").as(card("A100-40"), 57)
	slowed := func(c *challenge, late map[attest.FrameType]float64) {
		takes := c.takes
		c.takes = func(r *run, f attest.Frame) time.Duration { return takes(r, f) + seconds(late[f.Type()]) }
	}
	delayed := spoofed("echoes delayed by 0.3 s, a card at 0.8 of the rates", "12 delayed echoes", "H100 SXM", 1, h100.as(h100, 57).slower(1.25), "TOO_FAR", "FLOOR_BW")
	timed := delayed.lie
	delayed.lie = func(c *challenge) {
		timed(c)
		slowed(c, map[attest.FrameType]float64{attest.FramePong: 0.3, attest.FrameEchoReply: 0.3})
	}
	relay := spoofed("relay: PING is 5 ms farther than ECHO", "12 relay to another box", "H100 SXM", 1, h100.as(h100, 57), "flagged: PASS")
	straight := relay.lie
	relay.lie = func(c *challenge) {
		straight(c)
		slowed(c, map[attest.FrameType]float64{attest.FramePong: 0.005})
	}
	relay.believed = func(_ *challenge, j attest.Judgement) bool { return passed(j) && j.PingExcess < 0.0003 }
	timings := spoofed("times of its own report: 1 ns each", "18 self-reported time, peers 13", "H100 SXM", 1, h100.as(h100, 57).slower(2), "FLOOR_C")
	work := timings.lie
	timings.lie = func(c *challenge) {
		work(c)
		c.statement = func(_ *run, st *attestpb.Statement) { st.TimingsNs = []uint64{1, 1, 1} }
	}
	substituted := lazy("substituted binary with the official digest, half of the fill", "peers 4 LD_PRELOAD", "fill:0.5", attest.Params{}, wrongFill(0.5), "CHEAT_FILL")
	cheat := substituted.lie
	substituted.lie = func(c *challenge) {
		cheat(c)
		c.greet.BuildSHA256 = attest.Digest{0xab}
	}
	return []class{
		substituted, delayed, relay, timings,
		told("noise of the right sizes under the name of an H200", "12 spoofed name", func(c *challenge) {
			c.cheat.Kind = Claim
			c.greet.Devices[0] = c.cheat.Info(c.greet.Devices[0])
		}, "CHEAT_FILL"),
		spoofed("CPU prover of 64 cores under the name of an H200", "12 fake inventory and slow CPU prover", "H200", 1, pace{2500, 20, 20, 0.001}, "TIMEOUT_FILL_DONE"),
		told("CPU prover where only GPUs are taken", "7 software devices", func(c *challenge) { c.setup.Policy.AllowSoftware = false }, "SOFTWARE_REFUSED"),
		told("another card than the enrolled one", "9 GPU UUID set", func(c *challenge) { c.setup.Claims = []attest.Claim{{UUID: attest.UUID{9}}} }, "GPU_MISSING"),
		told("2^64-1 bytes of memory", "peers 24 malformed numbers", func(c *challenge) {
			c.greet.Devices[0].Software, c.greet.Devices[0].VRAMBytes = false, math.MaxUint64
		}, "GPU_UNSUPPORTED"),
		spoofed("RTX 4090 as H100 SXM", "12 4090 as H100", "H100 SXM", 1, card("RTX 4090").as(h100, 25), "TIMEOUT_WALK_DONE"),
		spoofed("RTX 4090 as RTX 5090", "peers 5 wrong model renamed", "RTX 5090", 1, card("RTX 4090").as(card("RTX 5090"), 25), "FLOOR_C", "TIMEOUT_WALK_DONE"),
		spoofed("L40S as A100-40", "12 L40S as H100", "A100-40", 1, card("L40S").as(card("A100-40"), 25), "FLOOR_BW"),
		spoofed("A100-80 as H100 SXM", "12 A100 as H100 SXM", "H100 SXM", 1, card("A100-80 SXM").as(h100, 25), "FLOOR_C"),
		spoofed("H100 PCIe as H100 SXM", "12 H100 PCIe as SXM", "H100 SXM", 1, pcie.as(h100, 57), "FLOOR_BW"),
		spoofed("RTX PRO 6000 as H100 SXM", "12 RTX PRO 6000 as H100 SXM", "H100 SXM", 1, pro.as(h100, 57), "FLOOR_BW"),
		spoofed("H100 SXM as H200", "12 smaller VRAM and host paging", "H200", 1, h100.as(h200, 55), "TIMEOUT_WALK_DONE"),
		spoofed("H200 with half of its memory, the rest paged", "12 smaller VRAM and host paging", "H200", 1, small(h200, 70).as(h200, 55), "TIMEOUT_WALK_DONE"),
		spoofed("H200 with 90 % of its memory, the rest paged", "12 smaller VRAM and host paging", "H200", 1, small(h200, 127).as(h200, 55), "FLOOR_BW"),
		spoofed("H200 with 96 % of its memory, the rest paged", "12, peers 15 inflated VRAM", "H200", 1, small(h200, 135).as(h200, 55), "FLOOR_BW"),
		spoofed("one H100 as two, in turn, with half of the memory each", "12 one GPU as many, time slicing", "H100 SXM", 2, small(h100, 40).as(h100, 28).slower(2), "TIMEOUT_WALK_DONE"),
		spoofed("one A100-80 as two A100-40, in turn", "12 one GPU as many, MIG", "A100-40", 2, half.slower(2), "FLOOR_C"),
		spoofed("two H100 PCIe as one H200, fill sharded", "12 k weak cards as one, sharded", "H200", 1, pcie.sharded(h200, 57), "FLOOR_BW"),
		spoofed("two RTX PRO 6000 as H100 SXM, full copies, PCIe 5", "12 k weak cards as one, full copies", "H100 SXM", 1, pro.copies(h100, 57), "FLOOR_BM"),
		spoofed("two RTX PRO 6000 as H100 SXM, full copies, 100 GbE", "12 k weak cards as one, full copies", "H100 SXM", 1, pro.copies(h100, 12), "FLOOR_BM"),
		spoofed("two H100 PCIe as H100 SXM, full copies, PCIe 5", "12 k weak cards as one, full copies", "H100 SXM", 1, pcie.copies(h100, 57), "FLOOR_BM"),
		spoofed("two L40S as A100-40, full copies, PCIe 4", "12 k weak cards as one, full copies", "A100-40", 1, card("L40S").copies(card("A100-40"), 27), "FLOOR_BM"),
		spoofed("power limit of 0.65", "peers 16 underclock", "H100 SXM", 1, pace{h100.fill / 0.65, h100.walk, h100.mix, 0.001}, "FLOOR_C"),
		spoofed("a foreign tenant takes half of the card", "peers 17 foreign tenant", "H100 SXM", 1, h100.as(h100, 57).slower(2), "FLOOR_C"),
	}
}

// quitters leave when they see what is opened, or before.
func quitters() []class {
	bad := func(how func(r *run)) func(c *challenge) {
		return func(c *challenge) {
			c.cheat.Fill = 0.02
			c.quit = func(r *run, f attest.Frame) bool {
				var m attestpb.Open
				if f.Type() != attest.FrameOpen || unpack(f, &m) != nil || !slices.ContainsFunc(m.GetFill(), func(x *attestpb.FillIndex) bool {
					return left(c.cheat.Fill, small.N*small.N, r.devices[0].salt.fill^x.GetL(), int(x.GetI())*small.N+int(x.GetJ()))
				}) {
					return false
				}
				how(r)
				return true
			}
		}
	}
	// After OPEN nothing but a verdict, or an end that spends the abort budget, will do.
	believed := func(_ *challenge, j attest.Judgement) bool {
		return passed(j) || j.Verdict() == basilica.NotRun && !j.AfterOpen
	}
	// The liar also leaves where the left-out byte was right by chance.
	bound := math.Pow(1-exact(0.02, 1024), float64(attest.DefaultStrength().Fill))
	after := func(attack string, how func(r *run), caught ...string) class {
		return class{attack: attack, source: "12 cut or garbage when OPEN looks bad", bound: bound, caught: caught, lie: bad(how), believed: believed, asks: "CHEAT_FILL"}
	}
	return []class{
		after("connection cut where OPEN looks bad", func(r *run) { r.closed = true }, "TRANSPORT_PROOF"),
		after("silence where OPEN looks bad", func(*run) {}, "TIMEOUT_PROOF"),
		after("garbage where OPEN looks bad", func(r *run) {
			r.send(pack(attest.FrameProof, &attestpb.Proof{Kind: 1, Data: noise(r.c.rng, 100)}))
		}, "MALFORMED_PROOF"),
		after("ABORT where OPEN looks bad", func(r *run) {
			r.p.Abort(attest.AbortDevice, "out of memory")
			r.collect()
		}, "ABORTED_4"),
		told("evidence in place of openings", "12 huge frames, short openings", func(c *challenge) {
			c.up = func(f attest.Frame, n int) []attest.Frame {
				if f.Type() == attest.FrameProof {
					return nil
				}
				return []attest.Frame{f}
			}
		}, "MALFORMED_PROOF"),
		told("connection cut before OPEN", "peers 22 dodging", func(c *challenge) {
			at := []attest.FrameType{attest.FrameChallenge, attest.FrameWalk, attest.FrameMix, attest.FramePing}[c.rng.IntN(4)]
			c.quit = func(r *run, f attest.Frame) bool {
				r.closed = f.Type() == at
				return r.closed
			}
		}, "TRANSPORT_FILL_DONE", "TRANSPORT_WALK_DONE", "TRANSPORT_MIX_DONE", "TRANSPORT_PONG"),
		told("slow-loris: one frame comes an hour late", "12 slow-loris", func(c *challenge) {
			types := []attest.FrameType{
				attest.FrameHello, attest.FrameFillDone, attest.FrameRoots, attest.FrameWalkDone, attest.FrameMixDone, attest.FrameTrace,
				attest.FramePong, attest.FrameEchoReply, attest.FrameProof, attest.FrameEvidence,
			}
			late := types[c.rng.IntN(len(types))]
			c.takes = func(_ *run, f attest.Frame) time.Duration {
				if f.Type() == late {
					return time.Hour
				}
				return time.Millisecond
			}
		}, "TIMEOUT_HELLO", "TIMEOUT_FILL_DONE", "TIMEOUT_ROOTS", "TIMEOUT_WALK_DONE", "TIMEOUT_MIX_DONE", "TIMEOUT_TRACE", "TIMEOUT_PONG",
			"TIMEOUT_PROOF", "TIMEOUT_EVIDENCE"),
	}
}

// squarings are those of the time-lock in its own classes, and of the one with a proof in its own; no other has one.
const (
	squarings       = 1024
	provenSquarings = 256
)

// locked gives the challenge a time-lock.
func (c *challenge) locked() {
	c.setup.Policy.Squarings = squarings
	c.setup.SetTrapdoor(c.lab.trapdoor())
}

// shortcutters answer the time-lock without its squarings.
func shortcutters() (cs []class) {
	for _, s := range []struct {
		attack string
		solve  func(c *challenge, z attest.Puzzle) []byte
	}{
		{"half of the squarings", func(_ *challenge, z attest.Puzzle) []byte { return squared(z, z.T/2) }},
		{"all squarings but one", func(_ *challenge, z attest.Puzzle) []byte { return squared(z, z.T-1) }},
		{"one squaring too many", func(_ *challenge, z attest.Puzzle) []byte { return squared(z, z.T+1) }},
		{"the negative", func(_ *challenge, z attest.Puzzle) []byte { return negative(z, squared(z, z.T)) }},
		{"noise", func(c *challenge, _ attest.Puzzle) []byte { return noise(c.rng, attest.VDFBytes) }},
		{"no answer", func(*challenge, attest.Puzzle) []byte { return nil }},
		{"the answer of an earlier nonce", func(_ *challenge, z attest.Puzzle) []byte {
			z.X = attest.VDFInput(attest.Digest{1}, z.N)
			return squared(z, z.T)
		}},
	} {
		cs = append(cs, told("time-lock: "+s.attack, "10 VDF", func(c *challenge) {
			c.locked()
			c.solve = func(z attest.Puzzle) (y, pi []byte) { return s.solve(c, z), nil }
		}, "CHEAT_VDF"))
	}
	for _, s := range []struct {
		attack string
		solve  func(c *challenge, z attest.Puzzle) (y, pi []byte)
	}{
		{"one bit of the proof changed", func(c *challenge, z attest.Puzzle) (y, pi []byte) {
			y, pi = proven(z, z.T)
			return y, flipped(c.rng, pi)
		}},
		{"no proof", func(_ *challenge, z attest.Puzzle) (y, pi []byte) {
			y, _ = proven(z, z.T)
			return y, nil
		}},
		{"half of the squarings and their proof", func(_ *challenge, z attest.Puzzle) (y, pi []byte) { return proven(z, z.T/2) }},
		{"the negative and the proof of the answer", func(_ *challenge, z attest.Puzzle) (y, pi []byte) {
			y, pi = proven(z, z.T)
			return negative(z, y), pi
		}},
		{"answer and proof of an earlier nonce", func(_ *challenge, z attest.Puzzle) (y, pi []byte) {
			z.X = attest.VDFInput(attest.Digest{1}, z.N)
			return proven(z, z.T)
		}},
		{"an answer made to fit its proof", func(c *challenge, z attest.Puzzle) (y, pi []byte) { return fitted(z, c.rng) }},
	} {
		cs = append(cs, told("public time-lock: "+s.attack, "10 VDF", func(c *challenge) {
			c.setup.Policy.Squarings, c.setup.Policy.Wesolowski = provenSquarings, true
			c.solve = func(z attest.Puzzle) (y, pi []byte) { return s.solve(c, z) }
		}, "CHEAT_VDF"))
	}
	return cs
}
