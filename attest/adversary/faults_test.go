package adversary

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
)

// fault is something that happens to one frame between two honest state machines.
type fault struct {
	kind string
	up   bool // on the way to the validator
	at   int  // number of the frame in its direction
}

// faults names what can happen, and how a challenge may end after it; Pass is never among them. "CHEAT" is a check that fails,
// for a changed frame that is still one makes the attestor's signature one over another transcript.
var faults = map[string]struct{ up, down []string }{
	"drop":   {[]string{"TIMEOUT_", "MALFORMED_"}, []string{"TIMEOUT_"}},
	"double": {[]string{"MALFORMED_", "CHEAT_BIND"}, []string{"ABORTED_1", "MALFORMED_PONG"}},
	"swap":   {[]string{"MALFORMED_", "TIMEOUT_"}, []string{"TIMEOUT_"}},
	"flip":   {[]string{"MALFORMED_", "TIMEOUT_", "CHEAT_", "ABORTED_", "GPU_", "SOFTWARE_", "NO_SOFTWARE_", "TRANSPORT_"}, []string{"ABORTED_", "CHEAT_", "MALFORMED_"}},
	"alien":  {[]string{"MALFORMED_"}, []string{"ABORTED_1"}},
	"late":   {[]string{"TIMEOUT_"}, nil},
	"cut":    {[]string{"TRANSPORT_"}, []string{"TRANSPORT_"}},
}

// watch puts faults on the line and sees what went in and what came out of it.
type watch struct {
	c          *challenge
	made, came [2][]attest.Frame // 0 down, 1 up
	held       [2]attest.Frame
	late       bool
	faults     []fault
	flips      *rand.Rand
}

func (c *challenge) faulty(fs ...fault) *watch {
	w := &watch{c: c, faults: fs, flips: c.rng}
	line := func(up bool) func(f attest.Frame, _ int) []attest.Frame {
		d := 0
		if up {
			d = 1
		}
		return func(f attest.Frame, _ int) []attest.Frame {
			out := w.pass(d, up, f)
			w.made[d], w.came[d] = append(w.made[d], f), append(w.came[d], out...)
			return out
		}
	}
	c.tap, c.down = line(true), line(false)
	c.takes = func(*run, attest.Frame) time.Duration {
		if w.late {
			w.late = false
			return time.Hour
		}
		return time.Millisecond
	}
	return w
}

func (w *watch) pass(d int, up bool, f attest.Frame) []attest.Frame {
	out := []attest.Frame{slices.Clone(f)}
	if w.held[d] != nil {
		out, w.held[d] = append(out, w.held[d]), nil
	}
	for _, x := range w.faults {
		if x.up != up || x.at != len(w.made[d]) {
			continue
		}
		switch x.kind {
		case "drop":
			return nil
		case "double":
			out = append(out, slices.Clone(f))
		case "swap":
			w.held[d] = f
			return nil
		case "flip":
			flipped(w.flips, out[0])
		case "alien":
			to := attest.FrameHello
			if !up {
				to = attest.FrameChallenge
			}
			if f.Type() == to {
				to = attest.FrameMix
			}
			out[0][4] = byte(to)
		case "late":
			w.late = true
		case "cut":
			w.c.run.closed, w.c.run.gone = true, true
			out[0] = out[0][:len(out[0])/2]
		}
	}
	return out
}

// untouched says that everything up to EVIDENCE arrived as it was sent.
func (w *watch) untouched() bool {
	for d := range w.made {
		for i, f := range w.made[d] {
			if i >= len(w.came[d]) || !bytes.Equal(f, w.came[d][i]) {
				return false
			}
			if f.Type() == attest.FrameEvidence || f.Type() == attest.FrameOpen {
				break
			}
		}
	}
	return true
}

// tiny makes a challenge as small as there can be, with few openings.
func (l *lab) tiny(name string, n int) *challenge {
	c := l.challenge(name, n, tiny)
	c.brief("")
	return c
}

// outcome holds a challenge against what must be so however frames fare.
func outcome(t *testing.T, what string, w *watch, want []string) {
	t.Helper()
	j, r := w.c.judge()
	if j.Verdict() == basilica.Pass || j.Verdict() == basilica.Unsure {
		if !w.untouched() {
			t.Errorf("%s: %s, though frames were lost or changed", what, j.Result)
		}
	} else if want != nil && !slices.ContainsFunc(want, func(p string) bool { return strings.HasPrefix(j.Reason, p) }) {
		t.Errorf("%s: %s (%s), which is none of %v", what, j.Reason, j.Detail, want)
	}
	opened := slices.ContainsFunc(w.made[0], func(f attest.Frame) bool { return f.Type() == attest.FrameOpen })
	ended := j.Verdict() == basilica.NotRun
	if ended && j.AfterOpen != opened {
		t.Errorf("%s: %s says %v of whether it ended after OPEN", what, j.Reason, j.AfterOpen)
	}
	aborted := false
	for _, f := range w.made[1] {
		if aborted {
			t.Errorf("%s: the attestor sends %v after ABORT", what, f.Type())
		}
		aborted = f.Type() == attest.FrameAbort
	}
	if r.err != nil && !aborted {
		t.Errorf("%s: the attestor fails without a word: %v", what, r.err)
	}
	rec, err := r.v.Record()
	if err == nil {
		_, err = attest.Judge(rec, nil)
	}
	if err != nil {
		t.Errorf("%s: the record of %s does not give its verdict again: %v", what, j.Reason, err)
	}
}

// TestFaults loses, doubles, swaps, changes, delays and cuts frame after frame in both directions, and answers with frames out of
// their order: no challenge passes with any but the frames that were sent, and each ends as the specification says.
func TestFaults(t *testing.T) {
	t.Parallel()
	l := theLab()
	honest := l.tiny("faults", 0).faulty()
	outcome(t, "nothing", honest, []string{"none"})
	for d, up := range []bool{false, true} {
		var places []int
		for i, f := range honest.made[d] {
			// Wherever another kind of frame begins or ends, and some of the many alike.
			first := i == 0 || honest.made[d][i-1].Type() != f.Type()
			last := i == len(honest.made[d])-1 || honest.made[d][i+1].Type() != f.Type()
			alternating := f.Type() >= attest.FramePing && f.Type() <= attest.FrameEchoReply
			if (first || last) && !alternating || i%89 == 0 {
				places = append(places, i)
			}
		}
		for kind, want := range faults {
			for _, at := range places {
				expected := want.up
				if !up {
					expected = want.down
				}
				if expected == nil {
					continue
				}
				f := honest.made[d][at]
				what := fmt.Sprintf("%s %v (up: %v, frame %d)", kind, f.Type(), up, at)
				if up && f.Type() == attest.FrameEvidence || !up && f.Type() == attest.FrameOpen {
					if kind == "double" {
						expected = nil // the first one decides
					}
				}
				outcome(t, what, l.tiny("faults", 0).faulty(fault{kind, up, at}), expected)
			}
		}
	}
}

// TestManyFaults has several at once, anywhere.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	l := theLab()
	kinds := slices.Sorted(maps.Keys(faults))
	passes := 0
	for n := range max(30, int(share(t)*20_000)) {
		c := l.tiny("many faults", n)
		var fs []fault
		for range c.rng.IntN(4) {
			up := c.rng.IntN(2) == 0
			fs = append(fs, fault{kinds[c.rng.IntN(len(kinds))], up, c.rng.IntN(132)})
		}
		w := c.faulty(fs...)
		outcome(t, fmt.Sprint(n, fs), w, nil)
		if w.untouched() {
			passes++
		}
	}
	if passes == 0 {
		t.Error("no challenge was left alone")
	}
}
