package adversary

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"basilica/attest"
)

func TestParse(t *testing.T) {
	c, err := Parse("fill:0.05,walk:0.5,mix:1,hole:0.1,grind:8,twin")
	if err != nil || c != (Cheat{Fill: 0.05, Walk: 0.5, Mix: 1, Hole: 0.1, Grind: 8, Kind: Twin}) {
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
	p := small
	for _, f := range []float64{0.01, 0.02, 0.05, 0.1, 0.5, 1} {
		same, places := 0, 0
		for salt := range uint32(4) {
			s := Cheat{Fill: f, Walk: f, Mix: f}.shortcuts(p, attest.Digest{}, &choice{salt, salt, salt}, nil)
			other := Cheat{Fill: f}.shortcuts(p, attest.Digest{}, &choice{fill: salt + 100}, nil)
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

// share is what part of the lab's rounds is played: all of them with BASILICA_ADVERSARY=1, else a few for every change.
func share(t *testing.T) float64 {
	t.Helper()
	text := os.Getenv("BASILICA_ADVERSARY")
	if text == "" {
		return 0.0003
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f <= 1) {
		t.Fatalf("BASILICA_ADVERSARY=%q is no part of the rounds in 0..1", text)
	}
	return f
}

// tally counts what came of the rounds of a row.
type tally struct {
	mu       sync.Mutex
	rounds   int
	accepted int
	how      map[string]int
	all      bool // accepted ones are told apart too
}

func (y *tally) add(accepted bool, how string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.rounds++
	if accepted {
		y.accepted++
	}
	if !accepted || y.all {
		y.how[how]++
	}
}

// TestAdversary plays every liar and every honest machine of the lab against the real verifier, always the same rounds. A liar
// is believed no more often than the 99.99 % quantile of the binomial with the bound of gpu-proof.md, and caught by what is
// meant to catch it; an honest machine is rejected in no more than one of a thousand rounds.
func TestAdversary(t *testing.T) {
	t.Parallel()
	part, l := share(t), theLab()
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // a round leaves a megabyte behind, and hardly anything is alive
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "attack\tsource\trounds\taccepted\tbound\tmay be\thow caught\n")
	classes := liars()
	for _, c := range classes {
		y := c.play(l, part)
		most := quantile(y.rounds, c.bound, 0.9999)
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.2g\t%d\t%s\n", c.attack, c.source, y.rounds, y.accepted, c.bound, most, counts(y.how))
		if y.accepted > most {
			t.Errorf("%s: %d of %d rounds were accepted, at most %d may be", c.attack, y.accepted, y.rounds, most)
		}
		for how := range y.how {
			if !slices.Contains(c.caught, how) && c.caught[0] != "*" {
				t.Errorf("%s: caught as %s, which is not what should catch it", c.attack, how)
			}
		}
	}
	if len(classes) < 30 {
		t.Errorf("%d classes of liars", len(classes))
	}
	fmt.Fprintf(w, "honest machine\t\trounds\taccepted\trejected\tmay be\tas what\n")
	for _, h := range honests() {
		y, rejected := h.play(l, part)
		most := y.rounds / 1000
		fmt.Fprintf(w, "%s\t\t%d\t%d\t%.2g %%\t%d\t%s\n", h.name, y.rounds, y.accepted, 100*float64(rejected)/float64(y.rounds), most, counts(y.how))
		if rejected > most {
			t.Errorf("%s: %d of %d rounds were rejected: %s", h.name, rejected, y.rounds, counts(y.how))
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
}

// play has the liar try as many rounds as the class is worth.
func (c class) play(l *lab, part float64) *tally {
	y := &tally{how: map[string]int{}}
	shape := c.shape
	if shape == (attest.Params{}) {
		shape = small
	}
	believed := c.believed
	if believed == nil {
		believed = func(_ *challenge, j attest.Judgement) bool { return passed(j) }
	}
	each(runtime.GOMAXPROCS(0), least(part, c.rounds()), func(n int) {
		x := l.challenge(c.attack, n, shape)
		if c.asks != "" {
			x.brief(c.asks)
		}
		c.lie(x)
		j, _ := x.judge()
		how := j.Reason
		if j.Result == attest.Pass {
			how = "flagged: PASS"
		}
		y.add(believed(x, j), how)
	})
	return y
}

// least is the part of so many rounds, but one of each.
func least(part float64, rounds int) int { return max(1, int(part*float64(rounds))) }

func percent(f float64) string { return fmt.Sprintf("%g %%", 100*f) }
func number(f float64) string  { return strconv.FormatFloat(f, 'g', -1, 64) }

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
		if err != nil {
			return
		}
		bad := c.Grind < 0 || c.Grind > 64
		for _, name := range []string{"fill", "walk", "mix", "leaf", "hole", "stale", "alone", "break", "ping"} {
			f := *c.part(name)
			bad = bad || !(f >= 0 && f <= 1)
		}
		if bad {
			t.Fatalf("%+v", c)
		}
	})
}
