package basilica_test

import (
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
)

// TestRotation: an attestation key is replaced by an endorsement that the old key and the hotkey signed, and by nothing less.
func TestRotation(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	check(t, err)
	other, err := keys.FromURI(keys.Sr25519, "//Eve//miner")
	check(t, err)
	var ks [4]*keys.P256 // receipts, old, next, foreign
	for i := range ks {
		ks[i], err = keys.GenerateP256()
		check(t, err)
	}
	old, next, foreign := ks[1], ks[2], ks[3]
	now := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	signedBy := func(k *keys.P256) func([]byte) ([]byte, error) {
		return func(payload []byte) ([]byte, error) { return basilica.SignRotation(payload, k.SPKI(), k.Sign) }
	}
	was, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: ks[0].SPKI(), AttestSPKI: old.SPKI(), HostKey: []byte("host"), Issued: now.Add(-time.Hour)}, hotkey)
	check(t, err)
	present, err := was.Open()
	check(t, err)
	asked, err := basilica.Rotate(present, next.SPKI(), now, signedBy(old))
	check(t, err)
	signed, err := asked.Countersign(present, hotkey, now.Add(time.Second))
	check(t, err)
	e, err := signed.Open()
	check(t, err)
	if string(e.AttestSPKI) != string(next.SPKI()) || string(e.Replaces) != string(old.SPKI()) || e.Executor != "box-1" || !e.Issued.Equal(now) {
		t.Errorf("%+v", e)
	}
	if !e.Inherits(old.SPKI(), []basilica.SignedEndorsement{was}) || !e.Inherits(next.SPKI(), nil) || e.Inherits(foreign.SPKI(), []basilica.SignedEndorsement{was}) {
		t.Error("the chain of keys is read wrongly")
	}
	if present.Inherits(next.SPKI(), []basilica.SignedEndorsement{signed}) {
		t.Error("a key that was replaced came back")
	}
	moved := e
	moved.HostKey = []byte("another host")
	if moved.Inherits(old.SPKI(), []basilica.SignedEndorsement{was}) {
		t.Error("another machine inherits")
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"ROTATION_UNSIGNED": func(t *testing.T) error {
			s := signed
			s.Former = nil
			_, err := s.Open()
			provoke.Refused(t, err, "ROTATION_UNSIGNED")
			s = asked
			s.Former, err = foreign.Sign(keys.PAE(basilica.EndorsementType, asked.Payload))
			check(t, err)
			_, err = s.Countersign(present, hotkey, now)
			return err
		},
		"ROTATION_INVALID": func(t *testing.T) error {
			change := func(f func(*basilica.Endorsement)) basilica.SignedEndorsement {
				c := present
				f(&c)
				s, err := basilica.Rotate(c, next.SPKI(), now, func(payload []byte) ([]byte, error) { return old.Sign(keys.PAE(basilica.EndorsementType, payload)) })
				check(t, err)
				return s
			}
			for what, s := range map[string]basilica.SignedEndorsement{
				"another id":          change(func(e *basilica.Endorsement) { e.Executor = "box-2" }),
				"another host key":    change(func(e *basilica.Endorsement) { e.HostKey = []byte("x") }),
				"another receipt key": change(func(e *basilica.Endorsement) { e.KeySPKI = foreign.SPKI() }),
				"another old key":     change(func(e *basilica.Endorsement) { e.AttestSPKI = foreign.SPKI() }),
				"no endorsement":      {Payload: []byte("{"), Former: signed.Former},
				"the same key": func() basilica.SignedEndorsement {
					s, err := basilica.Rotate(present, old.SPKI(), now, func([]byte) ([]byte, error) { return make([]byte, 64), nil })
					check(t, err)
					return s
				}(),
				"no key": func() basilica.SignedEndorsement {
					s, err := basilica.Rotate(present, []byte("x"), now, func([]byte) ([]byte, error) { return make([]byte, 64), nil })
					check(t, err)
					return s
				}(),
			} {
				if _, err := s.Countersign(present, hotkey, now); basilica.CodeOf(err) != "ROTATION_INVALID" {
					t.Errorf("%s: %v", what, err)
				}
			}
			for _, at := range []time.Time{now.Add(time.Hour), now.Add(-time.Hour)} {
				if _, err := asked.Countersign(present, hotkey, at); basilica.CodeOf(err) != "ROTATION_INVALID" {
					t.Errorf("asked for %v ago: %v", at.Sub(now), err)
				}
			}
			if _, err := asked.Countersign(present, other, now); basilica.CodeOf(err) != "ROTATION_INVALID" {
				t.Errorf("another miner: %v", err)
			}
			// Whoever may have a key sign rotations gets no signature of anything else.
			for _, payload := range [][]byte{was.Payload, []byte("{}"), []byte("DSSEv1"), nil} {
				if _, err := basilica.SignRotation(payload, old.SPKI(), old.Sign); basilica.CodeOf(err) != "ROTATION_INVALID" {
					t.Errorf("signed %q: %v", payload, err)
				}
			}
			_, err := basilica.SignRotation(asked.Payload, next.SPKI(), next.Sign)
			return err
		},
	})
}
