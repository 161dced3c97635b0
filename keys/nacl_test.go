package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica/internal/vectors"
)

type naclVector struct {
	Name, Password, KeyHex, NonceHex, Plaintext, FileHex string
}

func naclVectors(t testing.TB) []naclVector {
	var file struct{ Vectors []naclVector }
	vectors.JSON(t, "bittensor/keyfile-nacl.json", &file)
	return file.Vectors
}

func TestNaClVectors(t *testing.T) {
	derived := map[string]*FileKey{} // each derivation takes seconds
	for _, v := range naclVectors(t) {
		key := derived[v.Password]
		if key == nil {
			key = DeriveFileKey([]byte(v.Password))
			derived[v.Password] = key
		}
		if got := "0x" + hex.EncodeToString(key[:]); got != v.KeyHex {
			t.Fatalf("%s: key %s, want %s", v.Name, got, v.KeyHex)
		}
		file, err := hex.DecodeString(strings.TrimPrefix(v.FileHex, "0x"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.open(file); err != nil || string(got) != v.Plaintext {
			t.Errorf("%s: %q, %v", v.Name, got, err)
		}
	}
	t.Logf("%d key files", len(naclVectors(t)))
}

func TestEncryptedKeyfile(t *testing.T) {
	key, other := FileKey{1}, FileKey{2}
	pair, err := FromURI(Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hotkey")
	if err := WriteKeyfile(path, pair, "", key.Seal); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(before, []byte("secretSeed")) || !bytes.HasPrefix(before, []byte("$NACL")) {
		t.Fatalf("the file is not encrypted: %.20q", before)
	}
	with := func(key *FileKey) func([]byte) (Keyfile, error) {
		return func(sealed []byte) (Keyfile, error) {
			plain, err := key.open(sealed)
			if err != nil {
				return Keyfile{}, err
			}
			return ParseKeyfile(plain)
		}
	}
	if k, err := ReadKeyfile(path, with(&key)); err != nil || k.SS58() != pair.SS58() || k.Pair == nil {
		t.Errorf("opened: %v, %v", k.SS58(), err)
	}
	if _, err := ReadKeyfile(path, with(&other)); !errors.Is(err, ErrPassword) {
		t.Errorf("another key: %v", err)
	}
	if _, err := ReadKeyfile(path, nil); !errors.Is(err, ErrEncrypted) {
		t.Errorf("no key: %v", err)
	}
	if err := WriteKeyfile(path, pair, "", other.Seal); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second file was written: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
	for n := range len(before) {
		want := ErrPassword
		if n <= len(naclPrefix)+naclNonce+16 {
			want = ErrKeyfileCut
		}
		if n < len(naclPrefix) {
			want = ErrKey
		}
		if _, err := key.open(before[:n]); !errors.Is(err, want) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzOpenKeyfile(f *testing.F) {
	key := FileKey{1}
	f.Add([]byte("$NACL"))
	f.Add(key.Seal([]byte(`{"secretSeed":"0x00"}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := key.open(data)
		if err != nil {
			return
		}
		_, _ = ParseKeyfile(plain)
	})
}
