package shield

import (
	"bytes"
	"crypto/mlkem"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

type sealedFile struct {
	DecapsulationSeed, PublicKey, PublicKeyTwox128 hexBytes
	Vectors                                        []struct{ Plaintext, Ciphertext, SharedSecret hexBytes }
}

func sealedVectors(t testing.TB) (sealedFile, *mlkem.DecapsulationKey768) {
	t.Helper()
	var file sealedFile
	vectors.JSON(t, "bittensor/mevshield-mlkem.json", &file)
	key, err := mlkem.NewDecapsulationKey768(file.DecapsulationSeed)
	if err != nil {
		t.Fatal(err)
	}
	return file, key
}

func TestShieldVectors(t *testing.T) {
	file, key := sealedVectors(t)
	if got := key.EncapsulationKey().Bytes(); !bytes.Equal(got, file.PublicKey) {
		t.Fatalf("public key %x", got)
	}
	if got := KeyHash(file.PublicKey); !bytes.Equal(got[:], file.PublicKeyTwox128) {
		t.Errorf("key hash %x, want %x", got, []byte(file.PublicKeyTwox128))
	}
	for i, v := range file.Vectors {
		if got, err := Open(key, v.Ciphertext); err != nil || !bytes.Equal(got, v.Plaintext) {
			t.Errorf("vector %d: opened %x, want %x (%v)", i, got, []byte(v.Plaintext), err)
		}
		if len(v.Ciphertext) != Overhead+len(v.Plaintext) {
			t.Errorf("vector %d: %d bytes around %d", i, len(v.Ciphertext), len(v.Plaintext))
		}
		secret, err := key.Decapsulate(v.Ciphertext[KeyHashSize+2:][:mlkem.CiphertextSize768])
		if err != nil || !bytes.Equal(secret, v.SharedSecret) {
			t.Errorf("vector %d: shared secret %x, want %x (%v)", i, secret, []byte(v.SharedSecret), err)
		}
	}
	t.Logf("mevshield: %d ciphertexts, 1 key", len(file.Vectors))
}

// TestShieldProperties: what is sealed opens, and no changed byte passes.
func TestShieldProperties(t *testing.T) {
	file, key := sealedVectors(t)
	rapid.Check(t, func(t *rapid.T) {
		extrinsic := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "extrinsic")
		ciphertext, err := Seal(file.PublicKey, extrinsic)
		if err != nil {
			t.Fatal(err)
		}
		if len(ciphertext) != Overhead+len(extrinsic) {
			t.Fatalf("%d bytes around %d", len(ciphertext), len(extrinsic))
		}
		if got, err := Open(key, ciphertext); err != nil || !bytes.Equal(got, extrinsic) {
			t.Fatalf("opened %x, %v", got, err)
		}
		at := rapid.IntRange(0, len(ciphertext)-1).Draw(t, "at")
		ciphertext[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := Open(key, ciphertext); !errors.Is(err, ErrCiphertext) && !errors.Is(err, ErrOtherKey) {
			t.Fatalf("opened with byte %d changed: %v", at, err)
		}
	})
}

func TestRefusals(t *testing.T) {
	file, key := sealedVectors(t)
	good := file.Vectors[1].Ciphertext // of nothing: the shortest there is
	other, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	length := bytes.Clone(good)
	length[KeyHashSize]++
	for name, c := range map[string]struct {
		key        *mlkem.DecapsulationKey768
		ciphertext []byte
		want       error
	}{
		"empty":     {key, nil, ErrCiphertext},
		"cut":       {key, good[:len(good)-1], ErrCiphertext},
		"more":      {key, append(bytes.Clone(good), 0), ErrCiphertext},
		"length":    {key, length, ErrCiphertext},
		"other key": {other, good, ErrOtherKey},
		"too long":  {key, make([]byte, MaxCiphertext+1), ErrTooLong},
	} {
		if got, err := Open(c.key, c.ciphertext); !errors.Is(err, c.want) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if hash, err := CheckForm(good); err != nil || hash != KeyHash(file.PublicKey) {
		t.Errorf("form: %x, %v", hash, err)
	}
	if _, err := Seal(file.PublicKey[1:], nil); !errors.Is(err, ErrPublicKey) {
		t.Errorf("short key: %v", err)
	}
	if _, err := Seal(bytes.Repeat([]byte{0xff}, PublicKeySize), nil); !errors.Is(err, ErrPublicKey) {
		t.Errorf("key of coefficients that are too big: %v", err)
	}
	if c, err := Seal(file.PublicKey, make([]byte, MaxCiphertext-Overhead)); err != nil || len(c) != MaxCiphertext {
		t.Errorf("the longest extrinsic: %d bytes, %v", len(c), err)
	}
	if _, err := Seal(file.PublicKey, make([]byte, MaxCiphertext-Overhead+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("a longer extrinsic: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	file, key := sealedVectors(f)
	for _, v := range file.Vectors {
		f.Add([]byte(v.Ciphertext))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		plaintext, err := Open(key, data)
		switch {
		case err != nil && !errors.Is(err, ErrCiphertext) && !errors.Is(err, ErrOtherKey) && !errors.Is(err, ErrTooLong):
			t.Errorf("unnamed error: %v", err)
		case err == nil && len(plaintext)+Overhead != len(data):
			t.Errorf("%d bytes of %d", len(plaintext), len(data))
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	file, key := sealedVectors(b)
	for b.Loop() {
		if _, err := Open(key, file.Vectors[2].Ciphertext); err != nil {
			b.Fatal(err)
		}
	}
}
