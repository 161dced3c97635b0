package client

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"basilica"
)

// stall is a miner of which a queue is known; err is what a submission is answered with, which arrives nevertheless.
type stall struct {
	basilica.Miner
	name    basilica.Hotkey
	queue   int
	err     error
	arrived int
}

func (s *stall) Offer(context.Context) (basilica.Offer, error) {
	box := basilica.OfferedBox{Ready: true, TaskCPUMillis: 1000, TaskMemoryBytes: 1 << 30}
	return basilica.Offer{Miner: s.name, Compute: "open", Queue: s.queue, Executors: []basilica.OfferedBox{box}}, nil
}

func (s *stall) Submit(_ context.Context, sub basilica.Submission) (basilica.Task, error) {
	s.arrived++
	return basilica.Task{ID: "t1", IdempotencyKey: sub.IdempotencyKey, SpecDigest: sha256.Sum256(sub.Spec)}, s.err
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
			index, err := OpenIndex(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			miners := map[basilica.Hotkey]*stall{"5a": {name: "5a", err: tc.first}, "5b": {name: "5b", queue: 1}}
			at := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:1")}
			c := New(Config{
				Chain: graph{Neurons: []basilica.Neuron{{UID: 1, Hotkey: "5a", Axon: at}, {UID: 2, Hotkey: "5b", Axon: at}}}, Index: index,
				Dial: func(n basilica.Neuron) (basilica.Miner, error) { return miners[n.Hotkey], nil }, Log: slog.New(slog.DiscardHandler), Now: time.Now,
			})
			c.step = time.Millisecond
			first := Request{Spec: basilica.TaskSpec{Image: "i"}, IdempotencyKey: key}
			if r, err := c.Detach(t.Context(), first); basilica.CodeOf(err) != basilica.CodeOf(tc.first) || r.Miner != "5a" || miners["5a"].arrived == 0 {
				t.Fatalf("the first time: %+v, %v", r, err)
			}
			miners["5a"].err, miners["5a"].queue = nil, 2
			tc.again.Spec = first.Spec
			if r, err := c.Detach(t.Context(), tc.again); err != nil || r.Miner != tc.want {
				t.Errorf("the repeat went to %s, want %s: %v", r.Miner, tc.want, err)
			}
			if entries, err := index.Entries(); err != nil || entries[len(entries)-1].Miner != tc.want || entries[0].Task != "t1" {
				t.Errorf("tasks known: %+v, %v", entries, err)
			}
		})
	}
}
