package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basilica"
	"basilica/score"
)

// TestStartsAndPins: how near to one instant machines began stands with their round; a pin follows a rotated attestation key,
// and no other change of keys.
func TestStartsAndPins(t *testing.T) {
	b := openBook(t, openValidator(t), 1)
	k := basilica.ExecutorKey{Miner: "5miner", Executor: "box"}
	pin := basilica.Pin{ExecutorKey: k, KeySPKI: []byte("key"), AttestSPKI: []byte("old"), HostKey: []byte("host"), Since: 20}
	rotated := pin
	rotated.AttestSPKI, rotated.Since = []byte("new"), 40
	kept := rotated
	kept.Since = 20 // a rotation makes no younger machine
	foreign := pin
	foreign.KeySPKI, foreign.AttestSPKI, foreign.Since = []byte("another machine's"), []byte("its"), 60
	want := []basilica.Start{
		{At: noon.Add(time.Second), Machines: 32, Skew: 412 * time.Microsecond},
		{At: noon.Add(2 * time.Second), Machines: 3, Late: 1, Skew: time.Millisecond},
	}
	for _, step := range []struct {
		first basilica.BlockNumber
		pin   basilica.Pin
		want  basilica.Pin
	}{{20, pin, pin}, {40, rotated, kept}, {60, foreign, kept}} {
		r := basilica.Round{First: step.first, Hash: basilica.Hash{byte(step.first)}, Started: noon}
		if err := b.OpenRound(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		r.Ended, r.Outcome, r.Starts = noon.Add(time.Minute), basilica.Reason{Code: "COMPLETED"}, want
		if err := b.CloseRound(t.Context(), r, nil, []basilica.Pin{step.pin}, map[basilica.ExecutorKey]score.Standing{}); err != nil {
			t.Fatal(err)
		}
		pins, err := b.Pins(t.Context())
		if d := cmp.Diff(step.want, pins[k]); err != nil || d != "" {
			t.Errorf("round %d: %v %s", step.first, err, d)
		}
	}
	rounds, err := b.Rounds(t.Context(), 1)
	if err != nil || len(rounds) != 1 || cmp.Diff(want, rounds[0].Starts) != "" {
		t.Errorf("%+v, %v", rounds, err)
	}
}
