package validator

import (
	"bytes"
	"context"
	"crypto/ed25519"

	"basilica"
	"basilica/attest"
)

// rotatedMeanwhile says whether a challenge found another attestation key than the endorsed one because the machine changed it
// since its miner gave access, which may be minutes ago. Asked again, the miner then shows an endorsement of that key, to which
// the old key and the hotkey signed the way. Without that it is a lie, as is what nobody answers for.
func (v *Validator) rotatedMeanwhile(ctx context.Context, t target, e basilica.Endorsement, j attest.Judgement) bool {
	if j.Result != attest.CheatKey || bytes.Equal(j.SPKI, e.AttestSPKI) {
		return false
	}
	public, ok := t.key.Public().(ed25519.PublicKey)
	if !ok {
		return false
	}
	grant, err := v.openDoor(ctx, t.neuron, basilica.ValidationRequest{
		Validator: v.self, SSHPublicKey: sshPublicKey(public), Round: t.round.First, Executors: []basilica.ExecutorID{t.access.Executor},
	})
	if err != nil {
		v.cfg.Log.Warn("miner was not asked for a rotated key", "miner", t.neuron.Hotkey, "executor", t.access.Executor, "err", err)
		return false
	}
	for _, a := range grant.Executors {
		if a.Executor != t.access.Executor {
			continue
		}
		t.access = a
		t.pin = &basilica.Pin{KeySPKI: e.KeySPKI, AttestSPKI: e.AttestSPKI, HostKey: e.HostKey}
		now, reason, _ := endorsement(t)
		return reason == "" && bytes.Equal(now.AttestSPKI, j.SPKI)
	}
	return false
}
