package validator

import (
	"context"
	"io"
	"testing"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
)

// TestKeyRotatedBeforeItsTurn: a machine that changes its attestation key between the miner's word and its turn told no lie, where
// the old key and the hotkey signed for the new one; the next round knows it by that.
func TestKeyRotatedBeforeItsTurn(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.Pass {
		t.Fatalf("%+v", d)
	}
	m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		m.attest = nil
		m.rotate(t, w.miner.key, newMachine(t, "box-1").key)
		return m.prove(ctx, rw, b)
	}
	d := proof(w.round(40)["box-1"])
	if d.Result != basilica.NotRun || d.Evidence != nil {
		t.Errorf("rotated in the round: %+v", d)
	}
	provoke.Reason(t, basilica.Reason{Code: d.Reason, Sentence: d.Detail}, "KEY_CHANGED")
	if d := proof(w.round(60)["box-1"]); d.Result != basilica.Pass {
		t.Errorf("in the round after it: %+v", d)
	}

	// A key that is not the one which the miner now shows, and one that the old key did not sign for.
	for i, other := range []func() *machine{
		func() *machine { return newMachine(t, "box-1") },
		func() *machine {
			m.endorsed, m.earlier, m.key = nil, nil, newMachine(t, "box-1").key
			return m
		},
	} {
		was := *m
		m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
			m.attest = nil
			return other().prove(ctx, rw, b)
		}
		if d := proof(w.round(basilica.BlockNumber(80 + 20*i))["box-1"]); d.Result != basilica.Fail || d.Reason != "CHEAT_KEY" {
			t.Errorf("another key without a rotation: %+v", d)
		}
		*m = was
	}
}
