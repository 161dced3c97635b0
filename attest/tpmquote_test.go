package attest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"basilica/keys"
)

// quoted is a TPMS_ATTEST by hand, as Part 2 lays it out; tpm's tests hold VerifyTPMQuote against a TPM's own.
func quoted(nonce []byte) []byte {
	sized := func(b, x []byte) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(x))), x...) }
	b := binary.BigEndian.AppendUint32(nil, 0xff544347)
	b = binary.BigEndian.AppendUint16(b, 0x8018)
	b = sized(b, append([]byte{0, 0x0b}, bytes.Repeat([]byte{1}, 32)...))
	b = sized(b, nonce)
	b = binary.BigEndian.AppendUint64(b, 123456)
	b = binary.BigEndian.AppendUint32(b, 7)
	b = binary.BigEndian.AppendUint32(b, 2)
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, 0x2020)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, 0x000b)
	b = append(b, 3, 0xff, 0, 0)
	return sized(b, bytes.Repeat([]byte{2}, 32))
}

func signedQuote(t testing.TB, k *keys.P256, said []byte) []byte {
	t.Helper()
	sig, err := k.Sign(said)
	if err != nil {
		t.Fatal(err)
	}
	return append(append(binary.BigEndian.AppendUint16(nil, uint16(len(said))), said...), sig...)
}

func TestTPMQuote(t *testing.T) {
	t.Parallel()
	k, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	nonce := Digest{9}
	good := signedQuote(t, k, quoted(nonce[:]))
	q, err := VerifyTPMQuote(k.SPKI(), good, nonce)
	if err != nil || q.Clock != 123456 || q.Resets != 7 || q.Restarts != 2 || !q.ClockSafe || q.Firmware != 0x2020 || !bytes.Equal(q.PCRs, []byte{0xff, 0, 0}) {
		t.Fatalf("%+v, %v", q, err)
	}
	if _, err := VerifyTPMQuote(other.SPKI(), good, nonce); !errors.Is(err, ErrTPMQuote) {
		t.Errorf("another key: %v", err)
	}
	if _, err := VerifyTPMQuote(k.SPKI(), good, Digest{8}); !errors.Is(err, ErrTPMQuote) {
		t.Errorf("another nonce: %v", err)
	}
	for i := range good { // every byte counts: a flipped one is caught by the signature, the lengths or the layout
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := VerifyTPMQuote(k.SPKI(), bad, nonce); !errors.Is(err, ErrTPMQuote) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := VerifyTPMQuote(k.SPKI(), good[:i], nonce); !errors.Is(err, ErrTPMQuote) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	said := quoted(nonce[:])
	for i := range said { // signed by the key, and yet no quote
		if _, err := VerifyTPMQuote(k.SPKI(), signedQuote(t, k, said[:i]), nonce); !errors.Is(err, ErrTPMQuote) {
			t.Errorf("a signed quote of %d bytes: %v", i, err)
		}
	}
	if _, err := VerifyTPMQuote(k.SPKI(), signedQuote(t, k, append(bytes.Clone(said), 0)), nonce); !errors.Is(err, ErrTPMQuote) {
		t.Errorf("a byte after it: %v", err)
	}
}

func FuzzTPMQuote(f *testing.F) {
	f.Add(quoted(make([]byte, 32)))
	f.Add(quoted(nil)[:40])
	f.Add([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, nonce, err := ParseTPMQuote(b)
		if err != nil && (len(nonce) > 0 || len(q.Signer) > 0) {
			t.Errorf("refused, and gave %+v", q)
		}
		if err == nil && len(q.PCRsSHA256) != 32 {
			t.Errorf("%+v", q)
		}
	})
}
