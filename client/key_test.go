package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
)

// stall is a miner of which a queue is known; err is what a submission is answered with, which arrives nevertheless; a Tasks
// call is counted.
type stall struct {
	basilica.Miner
	name    basilica.Hotkey
	queue   int
	err     error
	errs    []error // of the first tries, before err
	arrived int
	keys    map[string]bool // of what arrived
	listed  int
	arrives func() // nil: nothing more happens then
	lists   func() // likewise
}

func (s *stall) Offer(context.Context) (basilica.Offer, error) {
	box := basilica.OfferedBox{Ready: true, TaskCPUMillis: 1000, TaskMemoryBytes: 1 << 30}
	return basilica.Offer{Miner: s.name, Compute: "open", Queue: s.queue, Executors: []basilica.OfferedBox{box}}, nil
}

func (s *stall) Submit(_ context.Context, sub basilica.Submission) (basilica.Task, error) {
	s.arrived++
	if s.keys == nil {
		s.keys = map[string]bool{}
	}
	s.keys[sub.IdempotencyKey] = true
	if s.arrives != nil {
		s.arrives()
	}
	if s.arrived <= len(s.errs) {
		return basilica.Task{}, s.errs[s.arrived-1]
	}
	return basilica.Task{ID: "t1", IdempotencyKey: sub.IdempotencyKey, SpecDigest: sha256.Sum256(sub.Spec)}, s.err
}

func (s *stall) Tasks(context.Context, basilica.Hotkey, basilica.TaskQuery) (basilica.TaskPage, error) {
	s.listed++
	if s.lists != nil {
		s.lists()
	}
	return basilica.TaskPage{}, nil
}

// stalls gives a client of the miners 5a and 5b.
func stalls(t *testing.T, a, b *stall) *Client {
	t.Helper()
	index, err := OpenIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	miners := map[basilica.Hotkey]*stall{"5a": a, "5b": b}
	at := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:1")}
	c := New(Config{
		Chain: graph{Neurons: []basilica.Neuron{{UID: 1, Hotkey: "5a", Axon: at}, {UID: 2, Hotkey: "5b", Axon: at}}}, Index: index,
		Dial: func(n basilica.Neuron) (basilica.Miner, error) { return miners[n.Hotkey], nil }, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	c.step = time.Millisecond
	return c
}

// TestLostAnswer: who submitted what a miner may have taken without saying so hears how to ask again, and ps asks that miner.
func TestLostAnswer(t *testing.T) {
	away, full := basilica.E(basilica.Unavailable, "DEADLINE", "no answer", ""), basilica.E(basilica.Exhausted, "QUEUE_FULL", "full", "")
	for name, tc := range map[string]struct {
		err       error
		interrupt bool
		exit      int
		listed    int
	}{
		"three times":      {away, false, ExitLeft, 1},
		"in a pause":       {away, true, ExitLeft, 1},
		"a fault":          {basilica.E(basilica.Internal, "MINER_FAULT", "a fault", ""), false, ExitLeft, 1},
		"refused":          {full, false, ExitFailure, 0},
		"refused outright": {basilica.E(basilica.Denied, "COMPUTE_NOT_ALLOWED", "not you", ""), false, ExitFailure, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := &stall{name: "5a", err: tc.err}
			c := stalls(t, a, &stall{name: "5b", queue: 1})
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			if tc.interrupt {
				c.step = time.Hour
				a.arrives = func() { time.AfterFunc(10*time.Millisecond, interrupt) }
			}
			req := Request{Spec: basilica.TaskSpec{Image: "i"}}
			_, err := c.Detach(ctx, req)
			if err == nil || ExitCodeOf(err) != tc.exit || len(a.keys) != 1 {
				t.Fatalf("%v, exit code %d, %d keys", err, ExitCodeOf(err), len(a.keys))
			}
			for req.IdempotencyKey = range a.keys {
			}
			if strings.Contains(basilica.FixOf(err), "--miner 5a --idempotency-key "+req.IdempotencyKey) != (tc.exit == ExitLeft) {
				t.Errorf("fix %q", basilica.FixOf(err))
			}
			if _, _, err := c.Tasks(t.Context(), basilica.TaskQuery{}, 1); err != nil || a.listed != tc.listed {
				t.Errorf("the miner was asked for tasks %d times, want %d: %v", a.listed, tc.listed, err)
			}
			if bound, err := c.cfg.Index.Bound(req.IdempotencyKey); err != nil || (bound == "5a") != (tc.exit == ExitLeft) {
				t.Errorf("the key is bound to %q: %v", bound, err)
			}
		})
	}
}

// TestLostAnswerWithLogin: the same command would seal its login anew and be refused as another task.
func TestLostAnswerWithLogin(t *testing.T) {
	a := &stall{name: "5a", err: basilica.E(basilica.Unavailable, "DEADLINE", "no answer", "")}
	c := stalls(t, a, &stall{name: "5b", queue: 1})
	sealed := &basilica.RegistryAuth{Sealed: map[basilica.ExecutorID][]byte{"e": {1}}}
	_, err := c.Detach(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i", Registry: sealed}})
	if fix := basilica.FixOf(err); basilica.CodeOf(err) != "MINER_AWAY" || strings.Contains(fix, "same command") || !strings.Contains(fix, "basilica ps") {
		t.Errorf("%v, fix %q", err, fix)
	}
}

// TestRefusedAfterDoubt: a miner's refusal stands as it is; where an earlier try may have been taken nevertheless, its Fix says so
// and the key stays with the miner. What never arrived raises no doubt.
func TestRefusedAfterDoubt(t *testing.T) {
	unreachable := func(op string) error {
		return basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "away", "").With(&net.OpError{Op: op, Err: errors.New("refused")})
	}
	silent := basilica.E(basilica.Unavailable, "DEADLINE", "no answer", "")
	said := func(kind basilica.Kind, code string) error { return basilica.E(kind, code, "no", "") }
	busy, full := said(basilica.Unavailable, "STORE_BUSY"), said(basilica.Exhausted, "QUEUE_FULL")
	for name, tc := range map[string]struct {
		tries []error
		code  string
		exit  int
		doubt bool
	}{
		"dials refused":                {[]error{unreachable("dial"), unreachable("dial"), unreachable("dial")}, "MINER_UNREACHABLE", ExitFailure, false},
		"broken, then dials refused":   {[]error{unreachable("read"), unreachable("dial"), unreachable("dial")}, "MINER_AWAY", ExitLeft, true},
		"a dial refused, then silence": {[]error{unreachable("dial"), silent, silent}, "MINER_AWAY", ExitLeft, true},
		"a dial refused, then no":      {[]error{unreachable("dial"), said(basilica.Denied, "COMPUTE_NOT_ALLOWED")}, "COMPUTE_NOT_ALLOWED", ExitFailure, false},
		"nothing can be recorded":      {[]error{busy, said(basilica.Unavailable, "DISK_FULL"), said(basilica.Unavailable, "STORE_READ_ONLY")}, "STORE_READ_ONLY", ExitFailure, false},
		"broken, then not allowed":     {[]error{unreachable("read"), said(basilica.Denied, "COMPUTE_NOT_ALLOWED")}, "COMPUTE_NOT_ALLOWED", ExitFailure, true},
		"broken, then invalid":         {[]error{unreachable("read"), said(basilica.Invalid, "TASK_INVALID")}, "TASK_INVALID", ExitFailure, true},
		"broken, then busy":            {[]error{unreachable("read"), busy, busy}, "STORE_BUSY", ExitFailure, true},
		"broken, then no such job":     {[]error{unreachable("read"), said(basilica.Invalid, "BLOB_MISSING")}, "BLOB_MISSING", ExitNotBegun, false},
		"broken, then full":            {[]error{unreachable("read"), full}, "QUEUE_FULL", ExitFailure, false},
		"under way, then full":         {[]error{silent, full}, "QUEUE_FULL", ExitFailure, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := &stall{name: "5a", errs: tc.tries}
			c := stalls(t, a, &stall{name: "5b", queue: 1})
			_, err := c.Detach(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}})
			if basilica.CodeOf(err) != tc.code || ExitCodeOf(err) != tc.exit || a.arrived != len(tc.tries) {
				t.Fatalf("%v after %d tries, exit code %d", err, a.arrived, ExitCodeOf(err))
			}
			if fix := basilica.FixOf(err); strings.Contains(fix, "look whether it runs: basilica ps") != tc.doubt {
				t.Errorf("fix %q", fix)
			}
			for key := range a.keys {
				if bound, err := c.cfg.Index.Bound(key); err != nil || (bound == "5a") != tc.doubt {
					t.Errorf("the key is bound to %q: %v", bound, err)
				}
			}
		})
	}
}

// TestMinersAsked: all at once, a miner of a key alone no longer than a miner keeps a task, one of a task always.
func TestMinersAsked(t *testing.T) {
	a, b := &stall{name: "5a"}, &stall{name: "5b"}
	c := stalls(t, a, b)
	now, old := c.cfg.Now(), c.cfg.Now().Add(-keyFor-time.Minute)
	index := c.cfg.Index
	for _, err := range []error{
		index.Bind("kept", "5a", old), index.Add(Entry{Task: "t1", Miner: "5a", Created: old}),
		index.Bind("new", "5b", now), index.Bind("again", "5f", old), index.Bind("again", "5b", now),
		index.Bind("old", "5c", old), index.Bind("free", "5d", now), index.Bind("free", "", now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if miners, err := index.Miners(now.Add(-keyFor)); err != nil || !slices.Equal(miners, []basilica.Hotkey{"5a", "5b"}) {
		t.Errorf("%v: %v", miners, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var both sync.WaitGroup
	both.Add(2)
	together := make(chan struct{})
	go func() { both.Wait(); close(together) }()
	a.lists = func() {
		both.Done()
		select {
		case <-together:
		case <-ctx.Done():
		}
	}
	b.lists = a.lists
	if _, away, err := c.Tasks(ctx, basilica.TaskQuery{}, 1); err != nil || len(away) > 0 || a.listed != 1 || b.listed != 1 {
		t.Errorf("asked one after the other: %v, away %v", err, away)
	}
}

// TestRepeatGoesToTheSameMiner: a key whose first answer was lost goes to the miner that may have its task, whichever is
// the best by then; a key that a miner has certainly not taken is free again.
func TestRepeatGoesToTheSameMiner(t *testing.T) {
	const key = "k"
	lost := basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "away", "")
	for name, tc := range map[string]struct {
		first error
		again Request
		want  basilica.Hotkey
	}{
		"answer lost":     {lost, Request{IdempotencyKey: key}, "5a"},
		"answer came":     {nil, Request{IdempotencyKey: key}, "5a"},
		"another key":     {lost, Request{IdempotencyKey: "l"}, "5b"},
		"no key":          {lost, Request{}, "5b"},
		"a miner's name":  {lost, Request{IdempotencyKey: key, Miner: "5b"}, "5b"},
		"the queue full":  {basilica.E(basilica.Exhausted, "QUEUE_FULL", "full", ""), Request{IdempotencyKey: key}, "5b"},
		"too many a time": {basilica.E(basilica.Exhausted, "RATE_LIMIT", "too many calls", ""), Request{IdempotencyKey: key}, "5a"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &stall{name: "5a", err: tc.first}
			c := stalls(t, a, &stall{name: "5b", queue: 1})
			first := Request{Spec: basilica.TaskSpec{Image: "i"}, IdempotencyKey: key}
			if r, err := c.Detach(t.Context(), first); !errors.Is(err, tc.first) || r.Miner != "5a" || a.arrived == 0 {
				t.Fatalf("the first time: %+v, %v", r, err)
			}
			a.err, a.queue = nil, 2
			tc.again.Spec = first.Spec
			if r, err := c.Detach(t.Context(), tc.again); err != nil || r.Miner != tc.want {
				t.Errorf("the repeat went to %s, want %s: %v", r.Miner, tc.want, err)
			}
			if entries, err := c.cfg.Index.Entries(); err != nil || entries[len(entries)-1].Miner != tc.want || entries[0].Task != "t1" {
				t.Errorf("tasks known: %+v, %v", entries, err)
			}
		})
	}
}

// TestRefusedElsewhere: a key that one miner has taken stays with it where another one refuses it, or where it cannot be dialled
// itself for a while.
func TestRefusedElsewhere(t *testing.T) {
	undialled := basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "away", "").With(&net.OpError{Op: "dial", Err: errors.New("refused")})
	for name, tc := range map[string]struct {
		miner basilica.Hotkey
		err   error
		bound basilica.Hotkey
		left  bool // the job may run
	}{
		"full":             {"5b", basilica.E(basilica.Exhausted, "QUEUE_FULL", "full", ""), "5a", false},
		"not allowed":      {"5b", basilica.E(basilica.Denied, "COMPUTE_NOT_ALLOWED", "not you", ""), "5a", false},
		"not dialled":      {"5b", undialled, "5a", false},
		"in doubt":         {"5b", basilica.E(basilica.Unavailable, "DEADLINE", "no answer", ""), "5b", true},
		"the same":         {"5a", undialled, "5a", true},
		"the same is full": {"5a", basilica.E(basilica.Exhausted, "QUEUE_FULL", "full", ""), "", false}, // it has forgotten the key
	} {
		t.Run(name, func(t *testing.T) {
			a, b := &stall{name: "5a"}, &stall{name: "5b", queue: 1}
			c := stalls(t, a, b)
			req := Request{Spec: basilica.TaskSpec{Image: "i"}, IdempotencyKey: "k"}
			if r, err := c.Detach(t.Context(), req); err != nil || r.Miner != "5a" {
				t.Fatalf("%+v, %v", r, err)
			}
			a.err, b.err, req.Miner = tc.err, tc.err, tc.miner
			if _, err := c.Detach(t.Context(), req); !errors.Is(err, tc.err) || (ExitCodeOf(err) == ExitLeft) != tc.left {
				t.Fatalf("%v, exit code %d", err, ExitCodeOf(err))
			}
			if bound, err := c.cfg.Index.Bound("k"); err != nil || bound != tc.bound {
				t.Errorf("bound to %q, want %q: %v", bound, tc.bound, err)
			}
		})
	}
}
