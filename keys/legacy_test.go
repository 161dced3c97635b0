package keys

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

type legacyVectors struct {
	AnsibleVault struct{ Password, File, Plaintext string }
	Fernet       struct {
		Password, Salt, FernetKey, Token, Plaintext string
		Iterations                                  int
	}
}

func legacy(t testing.TB) (v legacyVectors) {
	t.Helper()
	vectors.JSON(t, "bittensor/keyfile-legacy.json", &v)
	if v.AnsibleVault.File == "" || v.Fernet.Token == "" {
		t.Fatal("no vectors")
	}
	return v
}

// vaultOf takes the vector apart and derives its keys.
func vaultOf(t testing.TB) (vault, []byte) {
	t.Helper()
	c := legacy(t).AnsibleVault
	v, err := parseVault(c.File)
	if err != nil {
		t.Fatal(err)
	}
	derived, err := pbkdf2.Key(sha256.New, c.Password, v.salt, vaultRounds, vaultKeys)
	if err != nil {
		t.Fatal(err)
	}
	return v, derived
}

func fernetOf(t testing.TB) []byte {
	t.Helper()
	key, err := base64.URLEncoding.DecodeString(legacy(t).Fernet.FernetKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const aliceSS58 = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"

func TestAnsibleVaultVectors(t *testing.T) {
	c := legacy(t).AnsibleVault
	if plain, err := openVault([]byte(c.File), []byte(c.Password)); err != nil || string(plain) != c.Plaintext {
		t.Errorf("%q, %v", plain, err)
	}
	k, err := OpenKeyfile([]byte(c.File), []byte(c.Password))
	if err != nil || k.SS58() != aliceSS58 || k.Pair == nil {
		t.Errorf("%v, %v", k.SS58(), err)
	}
	if _, err := OpenKeyfile([]byte(c.File), []byte("test-Passw0re")); !errors.Is(err, ErrPassword) {
		t.Errorf("another password: %v", err)
	}
	labelled := strings.Replace(c.File, "1.1;AES256", "1.2;AES256;keys", 1)
	if k, err := OpenKeyfile([]byte(strings.ReplaceAll(labelled, "\n", "\r\n")), []byte(c.Password)); err != nil || k.SS58() != aliceSS58 {
		t.Errorf("version 1.2, other line ends: %v", err)
	}
	for _, bad := range []string{"1.0;AES256", "1.1;AES128", "1.1;AES256;x", "1.2;AES256"} {
		if _, err := OpenKeyfile([]byte(strings.Replace(c.File, "1.1;AES256", bad, 1)), []byte(c.Password)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	t.Log("1 Ansible Vault")
}

// TestFernetVectors opens the token by its key; deriving that takes 10,000,000 rounds, and so is done where no race detector
// makes them ten times as dear.
func TestFernetVectors(t *testing.T) {
	c := legacy(t).Fernet
	if c.Salt != fernetSalt || c.Iterations != fernetRounds {
		t.Fatalf("derived with salt %q, %d rounds", c.Salt, c.Iterations)
	}
	token, err := parseFernet(c.Token)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := decryptFernet(token, fernetOf(t)); err != nil || string(plain) != c.Plaintext {
		t.Errorf("%q, %v", plain, err)
	}
	other := fernetOf(t)
	other[0] ^= 1
	if _, err := decryptFernet(token, other); !errors.Is(err, ErrPassword) {
		t.Errorf("another key: %v", err)
	}
	if !watched {
		k, err := OpenKeyfile([]byte(c.Token+"\n"), []byte(c.Password))
		if err != nil || k.SS58() != aliceSS58 || k.Pair == nil {
			t.Errorf("by the password: %v, %v", k.SS58(), err)
		}
	}
	t.Logf("1 Fernet token, its key derived: %v", !watched)
}

// TestLegacyCut: a beginning of an old file is said to be cut short, or, where the cut falls on a block, does not open; whatever
// byte is changed, no other text comes out.
func TestLegacyCut(t *testing.T) {
	c := legacy(t)
	_, derived := vaultOf(t)
	key := fernetOf(t)
	reopen := map[string]func(text string) ([]byte, error){
		c.AnsibleVault.File: func(text string) ([]byte, error) {
			v, err := parseVault(text)
			if err != nil {
				return nil, err
			}
			return v.open(derived)
		},
		c.Fernet.Token: func(text string) ([]byte, error) {
			token, err := parseFernet(text)
			if err != nil {
				return nil, err
			}
			return decryptFernet(token, key)
		},
	}
	for whole, open := range reopen {
		right, err := open(whole)
		if err != nil {
			t.Fatal(err)
		}
		cuts := 0
		for n := strings.LastIndex(whole, "\n"+whole[:1]) + 60; n < len(strings.TrimRight(whole, "=\n")); n++ {
			_, err := open(whole[:n])
			if !errors.Is(err, ErrKeyfileCut) && !errors.Is(err, ErrPassword) {
				t.Fatalf("cut to %d of %d: %v", n, len(whole), err)
			}
			if errors.Is(err, ErrKeyfileCut) {
				cuts++
			}
		}
		if cuts < len(whole)/2 {
			t.Errorf("only %d of %d cuts were named", cuts, len(whole))
		}
		rapid.Check(t, func(r *rapid.T) {
			text := []byte(whole)
			i := rapid.IntRange(60, len(strings.TrimRight(whole, "=\n"))-1).Draw(r, "at")
			if text[i] == '\n' {
				return
			}
			text[i] = "0123456789"[(int(text[i])+rapid.IntRange(1, 9).Draw(r, "digit"))%10]
			// Hex has two forms of a digit: a change may be none.
			if plain, err := open(string(text)); err == nil && !bytes.Equal(plain, right) {
				r.Fatalf("byte %d changed and %q came out", i, plain)
			}
		})
	}
}

func FuzzOpenVault(f *testing.F) {
	_, derived := vaultOf(f)
	f.Add(legacy(f).AnsibleVault.File)
	f.Add("$ANSIBLE_VAULT;1.2;AES256;label\n3030\n")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVault(text)
		if err != nil {
			return
		}
		if plain, err := v.open(derived); err == nil {
			_, _ = ParseKeyfile(plain)
		}
	})
}

func FuzzOpenFernet(f *testing.F) {
	key := fernetOf(f)
	f.Add(legacy(f).Fernet.Token)
	f.Add("gAAAAA==")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parseFernet(text)
		if err != nil {
			return
		}
		if plain, err := decryptFernet(token, key); err == nil {
			_, _ = ParseKeyfile(plain)
		}
	})
}
