package adversary

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"basilica/attest"
	"basilica/keys"
)

func TestParse(t *testing.T) {
	c, err := Parse("fill:0.05,walk:0.5,mix:1,grind:8,twin")
	if err != nil || c != (Cheat{Fill: 0.05, Walk: 0.5, Mix: 1, Grind: 8, Kind: Twin}) {
		t.Fatal(c, err)
	}
	for _, bad := range []string{"", "fill", "fill:", "fill:2", "fill:-1", "fill:NaN", "speed:0.5", "fill:0.1,", "grind:0", "grind:65", "grind:x", "lies", "twin,key"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// TestFractionIsExact: exactly the fraction, rounded up, of every layer, batch and round is left out, others for other
// challenges, the same at every replay.
func TestFractionIsExact(t *testing.T) {
	p := small()
	for _, f := range []float64{0.01, 0.02, 0.05, 0.1, 0.5, 1} {
		same, places := 0, 0
		for salt := range uint32(4) {
			s := Cheat{Fill: f, Walk: f, Mix: f}.shortcuts(p, salt)
			other := Cheat{Fill: f}.shortcuts(p, salt+100)
			fill, walk, mix := 0, 0, 0
			for i := range p.N {
				for j := range p.N {
					if _, ok := s.Element(3, i, j); ok {
						fill++
						if _, ok := other.Element(3, i, j); ok {
							same++
						}
						places++
					}
				}
			}
			for k := range p.Lanes {
				if s.Lane(2, k) {
					walk++
				}
				if s.Cell(3, k) {
					mix++
				}
			}
			if want := int(math.Ceil(f * float64(p.N*p.N))); fill != want {
				t.Errorf("%v: %d elements of a layer, want %d", f, fill, want)
			}
			if want := int(math.Ceil(f * float64(p.Lanes))); walk != want || mix != want {
				t.Errorf("%v: %d lanes and %d cells, want %d", f, walk, mix, want)
			}
		}
		if f < 0.6 && same > places*3/4 {
			t.Errorf("%v: %d of %d places are the same for another challenge", f, same, places)
		}
	}
}

// small are the sizes of the challenges in these tests: a few milliseconds each.
func small() attest.Params {
	return attest.Params{N: 32, Layers: 6, Lanes: 64, Steps: 2, Batches: 2, WinLayers: 3, Cells: 64, Rounds: 8}
}

// run is one challenge without a network or a clock: the validator's and the attestor's state machines, and a machine that
// lies between them.
type run struct {
	cheat   Cheat
	devices int
	binding attest.Binding // of the attestor's own channel
	replay  []attest.Frame // send these instead of what the devices make
	sent    []attest.Frame // what the attestor sent
}

var channel = attest.Binding{SessionID: []byte("session"), HostKey: []byte("host"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}

func setup(t testing.TB, key *keys.P256) attest.Setup {
	t.Helper()
	p := small()
	gpus, err := attest.DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	profiles := attest.Profiles{{Model: "software", Software: true, Params: &p, Expect: attest.Expect{Fill: 5, Walk: 5, Mix: 5}}}
	for _, g := range gpus {
		if !g.Software {
			profiles = append(profiles, g)
		}
	}
	return attest.Setup{
		Started: time.Unix(1_800_000_000, 0), Binding: channel, SPKI: key.SPKI(), Strength: attest.DefaultStrength(), Profiles: profiles,
		Policy: attest.Policy{AllowSoftware: true},
	}
}

// judge runs the challenge to its end. Time moves by a millisecond a frame.
func (r *run) judge(t testing.TB, key *keys.P256) attest.Judgement {
	t.Helper()
	s := setup(t, key)
	v, err := attest.NewVerifier(s, rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	sign := key.Sign
	if r.cheat.Kind == Key {
		other, err := keys.GenerateP256()
		if err != nil {
			t.Fatal(err)
		}
		sign = other.Sign
	}
	m := NewMachine(r.cheat, attest.Serial)
	greet := attest.Greeting{Version: "test", SPKI: key.SPKI()}
	var devices []*Device
	for i := range max(1, r.devices) {
		devices = append(devices, m.Device())
		greet.Devices = append(greet.Devices, r.cheat.Info(attest.DeviceInfo{UUID: attest.UUID{byte(i + 1)}, Name: "software", VRAMBytes: 64 << 20, FreeBytes: 64 << 20, Software: true}))
	}
	p, err := attest.NewProver(greet, &r.binding)
	if err != nil {
		t.Fatal(err)
	}
	now, gone := s.Started, false
	for !v.Done() {
		now = now.Add(time.Millisecond)
		if f, ok := v.Next(); ok {
			v.Sent(now)
			if err := answer(t.Context(), p, f, devices, sign); err != nil && !gone {
				var a *attest.AbortError
				if !errors.As(err, &a) {
					a = &attest.AbortError{Code: attest.AbortDevice, Text: err.Error()}
				}
				p.Abort(a.Code, a.Text)
				gone = true
			}
			continue
		}
		f, ok := p.Next()
		if ok && len(r.replay) > len(r.sent) {
			f = r.replay[len(r.sent)]
		}
		if !ok {
			v.Fail(attest.FailTransport, "the attestor has gone", now)
			continue
		}
		r.sent = append(r.sent, f)
		v.Receive(f, now)
	}
	for _, d := range devices {
		d.Release()
	}
	return v.Judgement()
}

// answer does one task as attestor.Prove does, one device after the other.
func answer(ctx context.Context, p *attest.Prover, f attest.Frame, devices []*Device, sign func([]byte) ([]byte, error)) error {
	task, err := p.Receive(f)
	if err != nil {
		return err
	}
	switch task.Kind {
	case attest.TaskFill:
		for g, j := range task.Jobs {
			roots, err := devices[j.Device].Fill(ctx, j.Params, j.Seed)
			if err != nil {
				return err
			}
			if err := p.Filled(g, roots); err != nil {
				return err
			}
		}
	case attest.TaskWalk:
		for g, key := range task.Keys {
			roots, err := devices[g].Walk(ctx, key)
			if err != nil {
				return err
			}
			if err := p.Walked(g, roots); err != nil {
				return err
			}
		}
	case attest.TaskMix:
		for g, key := range task.Keys {
			last, err := devices[g].Mix(ctx, key)
			if err != nil {
				return err
			}
			if err := p.Mixed(g, last); err != nil {
				return err
			}
		}
		for g := range task.Keys {
			roots, err := devices[g].Trace(ctx)
			if err != nil {
				return err
			}
			if err := p.Traced(g, roots); err != nil {
				return err
			}
		}
	case attest.TaskBlock:
		b, err := devices[task.G].Block(ctx, task.Block)
		if err != nil {
			return err
		}
		return p.Answer(f, b)
	case attest.TaskOpen:
		var all []attest.Opened
		for g, q := range task.Requests {
			o, err := devices[g].Open(ctx, q)
			if err != nil {
				return err
			}
			all = append(all, o)
		}
		if err := p.Proved(all); err != nil {
			return err
		}
		return p.Sign(attest.Evidence{}, sign)
	}
	return nil
}

// quantile is the smallest k with P(X <= k) >= q for a binomial X of n trials.
func quantile(n int, p, q float64) int {
	if p >= 1 {
		return n
	}
	sum := 0.0
	for k := range n + 1 {
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(k + 1))
		c, _ := math.Lgamma(float64(n - k + 1))
		term := a - b - c + float64(n-k)*math.Log1p(-p)
		if k > 0 {
			term += float64(k) * math.Log(p)
		}
		if sum += math.Exp(term); sum >= q {
			return k
		}
	}
	return n
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		n    int
		p    float64
		want int
	}{{10, 0, 0}, {10, 1, 10}, {20, 0.5, 17}, {1000, 0.5, 549}, {1000, 0.001, 5}} {
		if got := quantile(c.n, c.p, 0.999); got != c.want {
			t.Errorf("n %d p %v: %d, want %d", c.n, c.p, got, c.want)
		}
	}
}

// rounds is how many rounds a row of the table has: BASILICA_CHEAT_ROUNDS, else few enough for every change.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("BASILICA_CHEAT_ROUNDS")
	if text == "" {
		return 5
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("BASILICA_CHEAT_ROUNDS=%q is no positive number", text)
	}
	return n
}

// TestCheats counts how often each lie is accepted. A prover that leaves work out may be accepted as often as the 99.9 %
// quantile of the binomial with the bound of gpu-proof.md section 13; every other lie never.
func TestCheats(t *testing.T) {
	n, q, p := rounds(t), attest.DefaultStrength(), small()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		name  string
		make  func() *run
		bound float64
	}
	lying := func(spec string, devices int, bound float64) row {
		return row{spec, func() *run {
			c, err := Parse(spec)
			if err != nil {
				t.Fatal(err)
			}
			return &run{cheat: c, devices: devices, binding: channel}
		}, bound}
	}
	table := []row{{"none", func() *run { return &run{binding: channel} }, 1}}
	for _, d := range []float64{0.01, 0.02, 0.05, 0.1, 0.5} {
		fill := math.Pow(1-255.0/256*d, float64(q.Fill))
		table = append(table,
			lying(fmt.Sprintf("fill:%g", d), 1, fill),
			lying(fmt.Sprintf("walk:%g", d), 1, math.Pow(1-d, float64(q.Walk))),
			lying(fmt.Sprintf("mix:%g", d), 1, math.Pow(1-d, float64(p.Rounds*q.Mix))))
	}
	table = append(table, lying("fill:0.01,grind:8", 1, math.Pow(1-255.0/256*0.01, float64(q.Fill))))
	for _, k := range kinds {
		table = append(table, lying(string(k), 2, 0))
	}
	earlier := &run{binding: channel}
	if j := earlier.judge(t, key); j.Result != attest.Pass {
		t.Fatalf("honest: %+v", j)
	}
	foreign := channel
	foreign.HostKey = []byte("another executor's host key")
	table = append(table,
		row{"replay of an earlier pass", func() *run { return &run{binding: channel, replay: earlier.sent} }, 0},
		row{"prover of another executor", func() *run { return &run{binding: foreign} }, 0})
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "attack\trounds\taccepted\tbound\tmay be\tcaught as\n")
	for _, r := range table {
		accepted, caught, n := 0, map[string]int{}, n
		if r.bound == 0 {
			n = (n + 1) / 2 // caught with certainty
		}
		for range n {
			j := r.make().judge(t, key)
			if j.Result == attest.Pass || j.Result == attest.PassOther {
				accepted++
			} else {
				caught[j.Reason]++
			}
		}
		most := quantile(n, r.bound, 0.999)
		fmt.Fprintf(w, "%s\t%d\t%d\t%.2g\t%d\t%s\n", r.name, n, accepted, r.bound, most, counts(caught))
		if accepted > most {
			t.Errorf("%s: %d of %d rounds were accepted, at most %d may be", r.name, accepted, n, most)
		}
		if r.bound == 1 && accepted != n {
			t.Errorf("%s: %d of %d honest rounds were accepted: %v", r.name, accepted, n, caught)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
}

func counts(m map[string]int) string {
	var out []string
	for _, reason := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s %d", reason, m[reason]))
	}
	return strings.Join(out, ", ")
}

func FuzzParse(f *testing.F) {
	f.Add("fill:0.05,grind:8")
	f.Add("twin")
	f.Fuzz(func(t *testing.T, spec string) {
		c, err := Parse(spec)
		if err == nil && (c.Fill < 0 || c.Fill > 1 || c.Walk < 0 || c.Walk > 1 || c.Mix < 0 || c.Mix > 1 || c.Grind < 0 || c.Grind > 64) {
			t.Fatalf("%+v", c)
		}
	})
}
