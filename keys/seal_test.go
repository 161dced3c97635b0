package keys

import (
	"bytes"
	"testing"
)

func TestSeal(t *testing.T) {
	own, err := GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	other, err := GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("user and password")
	sealed, err := SealP256(own.SPKI(), "purpose", secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret) {
		t.Fatal("the secret stands in clear")
	}
	if got, err := own.Unseal("purpose", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("unseal: %q, %v", got, err)
	}
	if _, err := other.Unseal("purpose", sealed); err == nil {
		t.Error("another key opened it")
	}
	if _, err := own.Unseal("other purpose", sealed); err == nil {
		t.Error("another purpose opened it")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := own.Unseal("purpose", bad); err == nil {
			t.Fatalf("byte %d changed and it opened", i)
		}
	}
	if _, err := own.Unseal("purpose", sealed[:20]); err == nil {
		t.Error("a cut text opened")
	}
	if _, err := SealP256([]byte("x"), "purpose", secret); err == nil {
		t.Error("sealed to no key")
	}
}

func FuzzUnseal(f *testing.F) {
	own, err := GenerateP256()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{4}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := own.Unseal("purpose", b); err == nil {
			t.Fatal("opened what nobody sealed")
		}
	})
}
