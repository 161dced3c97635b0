package keys

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

func TestP256FileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "attest.pem")
	k, err := CreateP256(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateP256(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second create: %v, want fs.ErrExist", err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	got, err := LoadOrCreateP256(path)
	if err != nil || !bytes.Equal(got.SPKI(), k.SPKI()) {
		t.Fatalf("loaded another key: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadP256(path); err == nil {
		t.Fatal("a key that others can read was loaded")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("files left: %v, %v", left, err)
	}
}

func TestP256SignatureIsUnchangeable(t *testing.T) {
	k, err := GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte("message")
	for range 32 { // both halves of s come up
		sig, err := k.Sign(msg)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyP256(k.SPKI(), msg, sig); err != nil {
			t.Fatal(err)
		}
		high := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
		bad := map[string][]byte{
			"high s": append(append([]byte(nil), sig[:32]...), high.FillBytes(make([]byte, 32))...),
			"short":  sig[:63], "long": append(append([]byte(nil), sig...), 0), "zero": make([]byte, 64),
		}
		for i := range sig {
			b := bytes.Clone(sig)
			b[i] ^= 1
			bad["byte"] = b
			for name, s := range bad {
				if !errors.Is(VerifyP256(k.SPKI(), msg, s), ErrP256Signature) {
					t.Fatalf("%s accepted", name)
				}
			}
		}
	}
}

func TestPAEVector(t *testing.T) { // the example of the DSSE specification
	got := string(PAE("http://example.com/HelloWorld", []byte("hello world")))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
}

func TestEnvelope(t *testing.T) {
	k, err := GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	e := &Envelope{PayloadType: "application/x", Payload: []byte("payload")}
	if err := e.AddP256("executor", k); err != nil {
		t.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseEnvelope(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.VerifyP256("executor", k.SPKI()); err != nil {
		t.Fatal(err)
	}
	if got.VerifyP256("other", k.SPKI()) == nil {
		t.Fatal("unknown key id accepted")
	}
	got.Payload[0] ^= 1
	if got.VerifyP256("executor", k.SPKI()) == nil {
		t.Fatal("changed payload accepted")
	}
	if (&Envelope{PayloadType: "application/x"}).VerifyP256("executor", k.SPKI()) == nil {
		t.Fatal("envelope without signature accepted")
	}
}

func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte(`{"payloadType":"t","payload":"aGk=","signatures":[{"keyid":"k","sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEnvelope(b); err == nil && len(e.Signatures) == 0 {
			t.Fatal("an envelope without signatures parsed")
		}
	})
}

func FuzzParseP256(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseP256(b); err == nil && len(k.SPKI()) == 0 {
			t.Fatal("a key without a public half parsed")
		}
	})
}
