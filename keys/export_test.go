package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

type exportVector struct {
	Name, Password, PlaintextHex, PublicKey string
	Scrypt                                  struct{ N, P, R int }
	JSON                                    json.RawMessage
}

func exportVectors(t testing.TB) []exportVector {
	t.Helper()
	var v struct {
		HeaderHex, DividerHex string
		Vectors               []exportVector
	}
	vectors.JSON(t, "bittensor/keyfile-polkadot-js.json", &v)
	if string(unhex(t, v.HeaderHex)) != exportHead || string(unhex(t, v.DividerHex)) != exportDiv || len(v.Vectors) == 0 {
		t.Fatal("head or divider differ")
	}
	return v.Vectors
}

func TestPolkadotJSVectors(t *testing.T) {
	for _, c := range exportVectors(t) {
		s, err := parseExport(c.JSON)
		if err != nil || s.n != c.Scrypt.N || s.p != c.Scrypt.P || s.r != c.Scrypt.R || s.scheme != Sr25519 {
			t.Fatalf("%s: N %d, p %d, r %d, %v", c.Name, s.n, s.p, s.r, err)
		}
		if k, err := parsePKCS8(unhex(t, c.PlaintextHex), s.scheme, s.address); err != nil || k.PublicKey != pub32(t, c.PublicKey) {
			t.Errorf("%s: what is inside: %v", c.Name, err)
		}
		k, err := OpenKeyfile(c.JSON, []byte(c.Password))
		if err != nil || k.Pair == nil || k.PublicKey != pub32(t, c.PublicKey) || k.Pair.PublicKey() != k.PublicKey {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	if _, err := ParseKeyfile(exportVectors(t)[0].JSON); !errors.Is(err, ErrEncrypted) {
		t.Errorf("without a password: %v", err)
	}
	t.Logf("%d exports", len(exportVectors(t)))
}

// exported makes an export as the first versions of polkadot.js did, whose password is the key itself.
func exported(t testing.TB, plain []byte, encoding, password string) []byte {
	t.Helper()
	var key [32]byte
	copy(key[:], password)
	nonce := [exportNonce]byte{5}
	data, err := json.Marshal(map[string]any{
		"address": "", "encoded": base64.StdEncoding.EncodeToString(secretbox.Seal(nonce[:], plain, &nonce, &key)), "encoding": json.RawMessage(encoding),
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const plainEncoding = `{"content":["pkcs8","sr25519"],"type":["xsalsa20-poly1305"],"version":"3"}`

// TestExportShapes: without scrypt, with a seed, of ed25519, in hex, not encrypted; and what is refused.
func TestExportShapes(t *testing.T) {
	inside := unhex(t, exportVectors(t)[1].PlaintextHex)
	alice, err := FromURI(Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	ed, err := FromURI(Ed25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(secret []byte, pub [32]byte) []byte {
		return append(append(append([]byte(exportHead), secret...), exportDiv...), pub[:]...)
	}
	password := strings.Repeat("long", 10) // of which 32 bytes count
	for name, c := range map[string]struct {
		data []byte
		want *Pair
	}{
		"the password is the key": {exported(t, inside, plainEncoding, password), alice},
		"a seed":                  {exported(t, pkcs8(alice.Seed(), alice.PublicKey()), plainEncoding, password), alice},
		"ed25519":                 {exported(t, pkcs8(ed.ed, ed.PublicKey()), `{"content":["pkcs8","ed25519"],"type":"xsalsa20-poly1305"}`, password), ed},
		"the first version":       {exported(t, pkcs8(ed.Seed(), ed.PublicKey()), `{"content":"pkcs8","type":"xsalsa20-poly1305","version":"0"}`, password), ed},
		"in clear, hex": {
			[]byte(`{"encoded":"0x` + hex.EncodeToString(inside) + `","encoding":{"content":["pkcs8","sr25519"],"type":["none"],"version":"3"}}`),
			alice,
		},
	} {
		k, err := OpenKeyfile(c.data, []byte(password))
		if err != nil || k.PublicKey != c.want.PublicKey() || k.Scheme != c.want.Scheme() || k.Pair == nil {
			t.Errorf("%s: %v, %v", name, k.SS58(), err)
		}
	}
	if _, err := OpenKeyfile(exported(t, inside, plainEncoding, "one"), []byte("two")); !errors.Is(err, ErrPassword) {
		t.Errorf("another password: %v", err)
	}
	bob := [32]byte{1}
	for name, data := range map[string][]byte{
		"ecdsa":                 exported(t, inside, `{"content":["pkcs8","ecdsa"],"type":["xsalsa20-poly1305"]}`, "x"),
		"no pkcs8":              exported(t, inside, `{"content":["raw","sr25519"],"type":["xsalsa20-poly1305"]}`, "x"),
		"another's public key":  exported(t, pkcs8(inside[16:80], bob), plainEncoding, "x"),
		"the canonical secret":  exported(t, pkcs8(alice.expanded(), alice.PublicKey()), plainEncoding, "x"),
		"no head":               exported(t, inside[1:], plainEncoding, "x"),
		"no divider":            exported(t, inside[:len(inside)-1], plainEncoding, "x"),
		"another's address":     bytes.Replace(exported(t, inside, plainEncoding, "x"), []byte(`"address":""`), []byte(`"address":"5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"`), 1),
		"not base64":            []byte(`{"encoded":"?","encoding":` + plainEncoding + `}`),
		"not hex":               []byte(`{"encoded":"0x?","encoding":` + plainEncoding + `}`),
		"nothing in its fields": []byte(`{"encoded":1,"encoding":2}`),
	} {
		if _, err := OpenKeyfile(data, []byte("x")); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostileScrypt: a file that asks for memory or time without end is refused before any is spent.
func TestHostileScrypt(t *testing.T) {
	ask := func(n, p, r uint32) error {
		head := make([]byte, exportSalt, 200)
		for _, v := range []uint32{n, p, r} {
			head = binary.LittleEndian.AppendUint32(head, v)
		}
		body := base64.StdEncoding.EncodeToString(append(head, make([]byte, exportNonce+200)...))
		_, err := parseExport([]byte(`{"encoded":"` + body + `","encoding":{"content":["pkcs8","sr25519"],"type":["scrypt","xsalsa20-poly1305"],"version":"3"}}`))
		return err
	}
	// What polkadot.js itself writes and reads.
	for _, c := range [][3]uint32{{8192, 10, 8}, {16384, 5, 8}, {32768, 3, 8}, {32768, 1, 8}, {65536, 2, 8}, {131072, 1, 8}} {
		if err := ask(c[0], c[1], c[2]); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, c := range [][3]uint32{{0, 1, 8}, {1, 1, 8}, {3, 1, 8}, {1 << 31, 1, 1}, {1 << 18, 2, 8}, {1 << 19, 1, 8}, {16, 1 << 31, 1}, {16, 1, 1 << 31}, {2, 1 << 30, 1 << 30}, {131072, 1, 0}, {131072, 0, 8}} {
		if err := ask(c[0], c[1], c[2]); !errors.Is(err, ErrKey) {
			t.Errorf("%v: %v", c, err)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		u := rapid.Uint32()
		n, p, q := uint64(1)<<rapid.IntRange(0, 31).Draw(r, "n"), uint64(u.Draw(r, "p")), uint64(u.Draw(r, "r"))
		if scryptAllowed(n, p, q) && (128*n*q > scryptMemory || n*q*p > scryptWork || p > scryptWork || q > scryptWork) {
			r.Fatalf("N %d, p %d, r %d", n, p, q)
		}
	})
}

func TestExportCut(t *testing.T) {
	c := exportVectors(t)[1]
	var e map[string]any
	if err := json.Unmarshal(c.JSON, &e); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(e["encoded"].(string))
	if err != nil {
		t.Fatal(err)
	}
	for n := range exportSalt + 12 + exportNonce + secretbox.Overhead + 1 {
		e["encoded"] = base64.StdEncoding.EncodeToString(raw[:n])
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseExport(data); !errors.Is(err, ErrKeyfileCut) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for n := 1; n < len(c.JSON); n++ {
		if _, err := OpenKeyfile(bytes.TrimSpace(c.JSON[:n]), nil); !errors.Is(err, ErrKeyfileCut) {
			t.Fatalf("JSON cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzOpenExport(f *testing.F) {
	for _, c := range exportVectors(f) {
		f.Add([]byte(c.JSON))
	}
	f.Add(exported(f, unhex(f, exportVectors(f)[1].PlaintextHex), plainEncoding, "x"))
	f.Add([]byte(`{"encoded":"0x3053","encoding":{"content":"pkcs8","type":"none"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if EncryptionOf(data) != PolkadotJS {
			_, _ = ParseKeyfile(data)
			return
		}
		s, err := parseExport(data)
		if err != nil {
			return
		}
		if s.stretch && !scryptAllowed(uint64(s.n), uint64(s.p), uint64(s.r)) {
			t.Fatalf("N %d, p %d, r %d", s.n, s.p, s.r)
		}
		_, _ = s.open(&[32]byte{'x'})
	})
}

// FuzzPKCS8 reads what a box may hold whose password an attacker knows.
func FuzzPKCS8(f *testing.F) {
	for _, c := range exportVectors(f) {
		f.Add(unhex(f, c.PlaintextHex), true)
	}
	f.Fuzz(func(t *testing.T, plain []byte, sr bool) {
		scheme := Ed25519
		if sr {
			scheme = Sr25519
		}
		if k, err := parsePKCS8(plain, scheme, ""); err == nil && k.Pair.PublicKey() != k.PublicKey {
			t.Fatal("pair and public key differ")
		}
	})
}
