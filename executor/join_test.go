package executor

import (
	"context"
	"errors"
	"testing"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

func TestJoinInsistsOnItsKeys(t *testing.T) {
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	hotkey, err := keys.FromURI(keys.Sr25519, "//Miner")
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*basilica.Endorsement, *basilica.Enrollment)
		code   string
	}{
		"good":            {func(*basilica.Endorsement, *basilica.Enrollment) {}, ""},
		"other key":       {func(e *basilica.Endorsement, _ *basilica.Enrollment) { e.KeySPKI = other.SPKI() }, "ENROLLMENT_UNFIT"},
		"other host key":  {func(e *basilica.Endorsement, _ *basilica.Enrollment) { e.HostKey = []byte("x") }, "ENROLLMENT_UNFIT"},
		"other attestor":  {func(e *basilica.Endorsement, _ *basilica.Enrollment) { e.AttestSPKI = nil }, "ENROLLMENT_UNFIT"},
		"other id":        {func(_ *basilica.Endorsement, o *basilica.Enrollment) { o.Executor = "box-2" }, "ENROLLMENT_UNFIT"},
		"other miner":     {func(_ *basilica.Endorsement, o *basilica.Enrollment) { o.Miner = "5x" }, "ENROLLMENT_UNFIT"},
		"other signature": {func(_ *basilica.Endorsement, o *basilica.Enrollment) { o.Endorsement.Signature = make([]byte, 64) }, "ENROLLMENT_UNFIT"},
	} {
		j := Joining{
			Key: key, HostKey: []byte("host"), AttestSPKI: []byte("attest"), Token: "token",
			ServeKey: func(ctx context.Context) error { <-ctx.Done(); return nil },
			Enroll: func(_ context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
				spki, err := pki.CSRKey(req.CSR)
				if err != nil {
					return basilica.Enrollment{}, err
				}
				e := basilica.Endorsement{Executor: "box-1", KeySPKI: spki, AttestSPKI: req.AttestSPKI, HostKey: req.HostKey}
				out := basilica.Enrollment{Executor: "box-1", Miner: basilica.Hotkey(hotkey.SS58())}
				c.change(&e, &out)
				signed, err := basilica.Endorse(e, hotkey)
				if out.Endorsement.Signature == nil {
					out.Endorsement = signed
				} else {
					out.Endorsement.Payload = signed.Payload
				}
				return out, err
			},
		}
		if _, err := Join(t.Context(), j); basilica.CodeOf(err) != c.code || (c.code == "") != (err == nil) {
			t.Errorf("%s: %v, want code %q", name, err, c.code)
		}
	}
	refused := errors.New("refused")
	_, err = Join(t.Context(), Joining{
		Key:      key,
		ServeKey: func(ctx context.Context) error { <-ctx.Done(); return nil },
		Enroll: func(context.Context, basilica.EnrollRequest) (basilica.Enrollment, error) {
			return basilica.Enrollment{}, refused
		},
	})
	if !errors.Is(err, refused) {
		t.Errorf("refused enrolment: %v", err)
	}
}
