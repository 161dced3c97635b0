package miner_test

import (
	"bytes"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// TestRotatedAttestationKey: an executor's attestation key changes where the old one signed, once however often it asks, and
// validators are shown how it came about; a key that the old one did not sign for is refused.
func TestRotatedAttestationKey(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.enroll()
	next, err := keys.GenerateP256()
	must(t, err)
	renew := func(r *basilica.SignedEndorsement) (basilica.Renewal, error) {
		csr, err := pki.NewCSR(h.boxKey.Signer())
		must(t, err)
		return h.miner.Renew(ctx, "box", basilica.RenewRequest{CSR: csr, Certificate: h.enrollment.Certificate, Rotation: r})
	}
	present := func() basilica.Endorsement {
		m, err := h.miner.Store.Member(ctx, "box")
		must(t, err)
		e, err := m.Endorsement.Open()
		must(t, err)
		return e
	}
	ask := func(from basilica.Endorsement, old, next *keys.P256) *basilica.SignedEndorsement {
		r, err := basilica.Rotate(from, next.SPKI(), h.clock(), func(payload []byte) ([]byte, error) {
			return old.Sign(keys.PAE(basilica.EndorsementType, payload))
		})
		must(t, err)
		return &r
	}
	first := present()
	_, err = renew(ask(first, next, next)) // the new key for itself
	wantCode(t, err, "ROTATION_UNSIGNED")
	other := first
	other.HostKey = []byte("another machine's")
	_, err = renew(ask(other, h.boxKey, next))
	wantCode(t, err, "ROTATION_INVALID")
	if out, err := renew(nil); err != nil || out.Endorsement != nil || !bytes.Equal(present().AttestSPKI, first.AttestSPKI) {
		t.Fatalf("a plain renewal: %+v, %v", out, err)
	}

	out, err := renew(ask(first, h.boxKey, next))
	must(t, err)
	e, err := out.Endorsement.Open()
	must(t, err)
	if !bytes.Equal(e.AttestSPKI, next.SPKI()) || !bytes.Equal(present().AttestSPKI, next.SPKI()) {
		t.Errorf("%+v", e)
	}
	again, err := renew(ask(first, h.boxKey, next)) // the answer was lost
	must(t, err)
	if again.Endorsement == nil || !bytes.Equal(again.Endorsement.Payload, out.Endorsement.Payload) {
		t.Errorf("asked again: %+v", again)
	}
	third, err := keys.GenerateP256()
	must(t, err)
	_, err = renew(ask(first, h.boxKey, third)) // the first key has no say any more
	wantCode(t, err, "ROTATION_INVALID")
	h.restart()
	m, err := h.miner.Store.Member(ctx, "box")
	must(t, err)
	if !present().Inherits(first.AttestSPKI, m.Earlier) || len(m.Earlier) != 1 {
		t.Errorf("%d earlier endorsements do not lead from the first key", len(m.Earlier))
	}
	at := present()
	for range basilica.MaxRotations + 2 {
		older := next
		next, err = keys.GenerateP256()
		must(t, err)
		_, err = renew(ask(present(), older, next))
		must(t, err)
	}
	if m, err = h.miner.Store.Member(ctx, "box"); err != nil || len(m.Earlier) != basilica.MaxRotations {
		t.Errorf("%d earlier endorsements are kept, %v", len(m.Earlier), err)
	}
	if present().Inherits(at.AttestSPKI, m.Earlier) || present().Issued.After(h.clock().Add(time.Second)) {
		t.Error("a key of long ago still leads here")
	}
}
