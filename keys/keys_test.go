package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	schnorrkel "github.com/ChainSafe/go-schnorrkel"
	"github.com/gtank/merlin"
	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pub32(t testing.TB, s string) (out [32]byte) {
	t.Helper()
	if copy(out[:], unhex(t, s)) != 32 {
		t.Fatalf("key %q", s)
	}
	return out
}

func TestSS58Vectors(t *testing.T) {
	var v struct {
		Valid   []struct{ Name, PublicKey, Address string }
		Invalid []struct{ Name, Address string }
	}
	vectors.JSON(t, "bittensor/ss58.json", &v)
	if len(v.Valid) == 0 || len(v.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	for _, c := range v.Valid {
		pub := pub32(t, c.PublicKey)
		if got := EncodeSS58(pub); got != c.Address {
			t.Errorf("%s: encode %s, want %s", c.Name, got, c.Address)
		}
		if got, err := DecodeSS58(c.Address); err != nil || got != pub {
			t.Errorf("%s: decode %x, %v", c.Name, got, err)
		}
	}
	for _, c := range v.Invalid {
		if _, err := DecodeSS58(c.Address); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	t.Logf("%d addresses, %d refusals", len(v.Valid), len(v.Invalid))
}

func TestDerivationVectors(t *testing.T) {
	type junction struct{ Hard bool }
	var v struct {
		Mnemonics []struct{ Mnemonic, Passphrase, MiniSecret, PublicKey, SS58 string }
		Sr25519   []struct {
			SURI, Mnemonic, Password, PublicKey, SS58, MiniSecret, Scalar, PrivateKey, Ed25519FormSecret string

			Junctions []junction
		}
		Ed25519 []struct{ SURI, Seed, PublicKey, SS58 string }
	}
	vectors.JSON(t, "bittensor/key-derivation.json", &v)
	for _, c := range v.Mnemonics {
		p, err := FromMnemonic(Sr25519, c.Mnemonic, c.Passphrase)
		if err != nil {
			t.Errorf("%s: %v", c.Mnemonic, err)
			continue
		}
		if !bytes.Equal(p.Seed(), unhex(t, c.MiniSecret)) || p.PublicKey() != pub32(t, c.PublicKey) || p.SS58() != c.SS58 {
			t.Errorf("%s: %x %s", c.Mnemonic, p.Seed(), p.SS58())
		}
	}
	stored := 0
	for _, c := range v.Sr25519 {
		uri := c.SURI
		if c.Mnemonic != DevPhrase {
			uri = c.Mnemonic + c.SURI
		}
		p, err := FromURI(Sr25519, uri)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if p.PublicKey() != pub32(t, c.PublicKey) || p.SS58() != c.SS58 {
			t.Errorf("%s: public key %x", uri, p.PublicKey())
		}
		soft := false
		for _, j := range c.Junctions {
			soft = soft || !j.Hard
		}
		want := unhex(t, c.PrivateKey)
		if got := p.expanded(); !bytes.Equal(got[:32], unhex(t, c.Scalar)) || (!soft && !bytes.Equal(got, want)) {
			t.Errorf("%s: secret differs", uri)
		}
		if !soft && !bytes.Equal(p.Seed(), unhex(t, c.MiniSecret)) {
			t.Errorf("%s: mini secret differs", uri)
		}
		if c.Ed25519FormSecret == "" {
			continue
		}
		stored++
		if other, err := fromEd25519Form(unhex(t, c.Ed25519FormSecret)); err != nil || other.PublicKey() != p.PublicKey() {
			t.Errorf("%s: the secret in ed25519's form: %v", uri, err)
		}
	}
	for _, c := range v.Ed25519 {
		p, err := FromURI(Ed25519, c.SURI)
		if err != nil || p.PublicKey() != pub32(t, c.PublicKey) || p.SS58() != c.SS58 || !bytes.Equal(p.Seed(), unhex(t, c.Seed)) {
			t.Errorf("ed25519 %s: %v %v", c.SURI, p, err)
		}
	}
	t.Logf("%d mnemonics, %d sr25519 paths (%d as polkadot.js stores them), %d ed25519 paths", len(v.Mnemonics), len(v.Sr25519), stored, len(v.Ed25519))
}

func TestMessageSignatureVectors(t *testing.T) {
	var v struct {
		Vectors []struct{ Name, PublicKey, Message, Signature string }
	}
	vectors.JSON(t, "bittensor/message-signatures.json", &v)
	for _, c := range v.Vectors {
		sig, err := ParseSignature(c.Signature)
		if err != nil {
			t.Fatal(err)
		}
		pub := pub32(t, c.PublicKey)
		if !Verify(Sr25519, pub, []byte(c.Message), sig) {
			t.Errorf("%s: refused", c.Name)
		}
		if Verify(Sr25519, pub, []byte(c.Message+"x"), sig) {
			t.Errorf("%s: another message passes", c.Name)
		}
		if inner, ok := strings.CutPrefix(c.Message, "<Bytes>"); ok {
			inner = strings.TrimSuffix(inner, "</Bytes>")
			if !VerifyWrapped(Sr25519, pub, []byte(inner), sig) || Verify(Sr25519, pub, []byte(inner), sig) {
				t.Errorf("%s: wrapping", c.Name)
			}
		}
	}
	t.Logf("%d signatures", len(v.Vectors))
}

func TestKeyfileVectors(t *testing.T) {
	var v struct {
		Vectors []struct {
			Name, Content string
			Expect        struct {
				PublicKey, SS58, Error string
				HasSecret              bool
			}
		}
	}
	vectors.JSON(t, "bittensor/keyfile-json.json", &v)
	for _, c := range v.Vectors {
		k, err := ParseKeyfile([]byte(c.Content))
		if c.Expect.Error != "" {
			if !errors.Is(err, ErrKey) {
				t.Errorf("%s: %v", c.Name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if k.PublicKey != pub32(t, c.Expect.PublicKey) || k.SS58() != c.Expect.SS58 || (k.Pair != nil) != c.Expect.HasSecret {
			t.Errorf("%s: %s, secret %v", c.Name, k.SS58(), k.Pair != nil)
		}
	}
	t.Logf("%d key files", len(v.Vectors))
}

// TestDerivationAgainstSchnorrkel crosses random paths with another
// implementation of schnorrkel.
func TestDerivationAgainstSchnorrkel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var seed, cc [32]byte
		copy(seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "seed"))
		copy(cc[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "cc"))
		ours, err := FromSeed(Sr25519, seed[:])
		if err != nil {
			rt.Fatal(err)
		}
		mini, err := schnorrkel.NewMiniSecretKeyFromRaw(seed)
		if err != nil {
			rt.Fatal(err)
		}
		hard, err := ours.derive(cc, true)
		if err != nil {
			rt.Fatal(err)
		}
		theirs, _, err := mini.HardDeriveMiniSecretKey(nil, cc)
		if err != nil {
			rt.Fatal(err)
		}
		if theirs.Public().Encode() != hard.PublicKey() {
			rt.Fatal("hard derivation differs")
		}
		soft, err := ours.derive(cc, false)
		if err != nil {
			rt.Fatal(err)
		}
		tr := merlin.NewTranscript("SchnorrRistrettoHDKD")
		tr.AppendMessage([]byte("sign-bytes"), nil)
		ek, err := mini.Public().DeriveKey(tr, cc)
		if err != nil {
			rt.Fatal(err)
		}
		want, err := ek.Public()
		if err != nil {
			rt.Fatal(err)
		}
		if want.Encode() != soft.PublicKey() {
			rt.Fatal("soft derivation differs")
		}
		// Ours signs, theirs verifies.
		sig, err := soft.Sign([]byte("message"))
		if err != nil {
			rt.Fatal(err)
		}
		s := new(schnorrkel.Signature)
		if err := s.Decode([64]byte(sig)); err != nil {
			rt.Fatal(err)
		}
		if ok, err := want.Verify(s, schnorrkel.NewSigningContext([]byte("substrate"), []byte("message"))); err != nil || !ok {
			rt.Fatalf("verify: %v %v", ok, err)
		}
	})
}

func TestSignVerify(t *testing.T) {
	for _, scheme := range []Scheme{Sr25519, Ed25519} {
		p, err := Generate(scheme)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := p.Sign([]byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		if !Verify(scheme, p.PublicKey(), []byte("m"), sig) {
			t.Errorf("%v: own signature refused", scheme)
		}
		sig[3] ^= 1
		if Verify(scheme, p.PublicKey(), []byte("m"), sig) || Verify(scheme, p.PublicKey(), []byte("m"), sig[:63]) {
			t.Errorf("%v: broken signature passes", scheme)
		}
	}
	if Verify(Scheme(2), [32]byte{}, nil, make([]byte, 64)) {
		t.Error("unknown scheme passes")
	}
}

func TestURIRefusals(t *testing.T) {
	for _, uri := range []string{"//Alice//", "0x12//a", "one two three", DevPhrase + " walk walk walk", "walk " + DevPhrase[7:]} {
		if _, err := FromURI(Sr25519, uri); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", uri, err)
		}
	}
	if _, err := FromURI(Ed25519, "//Alice/soft"); !errors.Is(err, ErrKey) {
		t.Errorf("ed25519 soft: %v", err)
	}
	p, err := FromURI(Sr25519, "0xfac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e//Alice")
	if err != nil || p.SS58() != "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY" {
		t.Errorf("seed URI: %v %v", p, err)
	}
}

func TestMnemonicLengths(t *testing.T) {
	for _, words := range []int{12, 15, 18, 21, 24} {
		m, err := NewMnemonic(words)
		if err != nil || len(strings.Fields(m)) != words {
			t.Fatalf("%d: %q %v", words, m, err)
		}
		if _, err := FromMnemonic(Sr25519, "  "+strings.ReplaceAll(m, " ", "  "), "pw"); err != nil {
			t.Errorf("%d words: %v", words, err)
		}
	}
	if _, err := NewMnemonic(13); !errors.Is(err, ErrKey) {
		t.Error("13 words")
	}
}

func TestWallet(t *testing.T) {
	w := Wallet{Root: t.TempDir(), Name: "w"}
	m, err := NewMnemonic(12)
	if err != nil {
		t.Fatal(err)
	}
	cold, _ := FromMnemonic(Sr25519, m, "")
	hot, _ := Generate(Ed25519)
	if err := w.CreateColdkey(cold, m, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateHotkey("", hot, "", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateHotkey("", hot, "", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second hotkey: %v", err)
	}
	for _, bad := range []string{"../x", "a/b", `a\b`, ".", "..", ".hidden", "apub.txt", "a\nb", "\xff"} {
		if err := w.CreateHotkey(bad, hot, "", nil); !errors.Is(err, ErrKey) {
			t.Errorf("name %q: %v", bad, err)
		}
		if err := (Wallet{Root: w.Root, Name: bad}).CreateColdkey(cold, m, nil); !errors.Is(err, ErrKey) {
			t.Errorf("wallet %q: %v", bad, err)
		}
	}
	got, err := ReadKeyfile(w.HotkeyPath(""), nil)
	if err != nil || got.PublicKey != hot.PublicKey() || got.Pair.Scheme() != Ed25519 || got.Scheme != Ed25519 {
		t.Errorf("hotkey: %v %v", got, err)
	}
	for path, secret := range map[string]bool{w.ColdkeyPubPath(): false, w.ColdkeyPath(): true} {
		if got, err := ReadKeyfile(path, nil); err != nil || got.SS58() != cold.SS58() || (got.Pair != nil) != secret {
			t.Errorf("%s: %v %v", path, got.SS58(), err)
		}
	}
	if names, err := w.Hotkeys(); err != nil || len(names) != 1 || names[0] != "default" {
		t.Errorf("names %v %v", names, err)
	}
	if names, err := Wallets(w.Root); err != nil || len(names) != 1 || names[0] != "w" {
		t.Errorf("wallets %v %v", names, err)
	}
	if names, err := Wallets(filepath.Join(w.Root, "none")); err != nil || names != nil {
		t.Errorf("no wallets: %v %v", names, err)
	}
	info, err := os.Stat(w.HotkeyPath(""))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(w.Dir(), "hotkeys", ".keyfile-*"))
	if len(left) > 0 {
		t.Errorf("temporary files stay: %v", left)
	}
	data, _ := os.ReadFile(w.ColdkeyPath())
	if bytes.Contains(data, []byte("cryptoType")) {
		t.Error("cryptoType written for sr25519: btwallet 4.0 cannot read that")
	}
}

// TestWalletOfServer: a wallet with coldkeypub.txt alone takes the secret of that coldkey and of no other.
func TestWalletOfServer(t *testing.T) {
	w := Wallet{Root: t.TempDir()}
	cold, err := FromURI(Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	other, err := FromURI(Sr25519, "//Bob")
	if err != nil {
		t.Fatal(err)
	}
	if err := WritePublicKeyfile(w.ColdkeyPubPath(), cold.PublicKey(), cold.Scheme()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(w.ColdkeyPubPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CreateColdkey(other, "", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another coldkey: %v", err)
	}
	if _, err := os.Lstat(w.ColdkeyPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was written: %v", err)
	}
	if err := w.CreateColdkey(cold, "", nil); err != nil {
		t.Errorf("its own coldkey: %v", err)
	}
	if after, err := os.ReadFile(w.ColdkeyPubPath()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("coldkeypub.txt changed: %v", err)
	}
}

// TestKeyfileMode: a secret that others may read is refused, in clear before it is used and encrypted before anybody is asked
// for a password; a public part may be read by all, and a file from elsewhere is read and said to be exposed.
func TestKeyfileMode(t *testing.T) {
	pair, err := FromURI(Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	key := FileKey{1}
	open := func(sealed []byte) (Keyfile, error) {
		plain, err := key.open(sealed)
		if err != nil {
			return Keyfile{}, err
		}
		return ParseKeyfile(plain)
	}
	never := func([]byte) (Keyfile, error) {
		t.Error("a password was asked for")
		return Keyfile{}, ErrPassword
	}
	for name, seal := range map[string]func([]byte) []byte{"plain": nil, "sealed": key.Seal} {
		path := filepath.Join(t.TempDir(), name)
		if err := WriteKeyfile(path, pair, "", seal); err != nil {
			t.Fatal(err)
		}
		if _, exposed, err := ImportKeyfile(path, open); err != nil || exposed {
			t.Errorf("%s, mode 0600: exposed %v, %v", name, exposed, err)
		}
		for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o666} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadKeyfile(path, never); !errors.Is(err, ErrKeyfileMode) {
				t.Errorf("%s, mode %o: %v", name, mode, err)
			}
			if k, exposed, err := ImportKeyfile(path, open); err != nil || !exposed || k.Pair == nil {
				t.Errorf("%s imported, mode %o: exposed %v, %v", name, mode, exposed, err)
			}
		}
	}
	public := filepath.Join(t.TempDir(), "coldkeypub.txt")
	if err := errors.Join(WritePublicKeyfile(public, pair.PublicKey(), pair.Scheme()), os.Chmod(public, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyfile(public, nil); err != nil {
		t.Errorf("public part: %v", err)
	}
}

// TestKeyfileCut: of a plain key file no beginning is taken for the whole.
func TestKeyfileCut(t *testing.T) {
	pair, err := FromMnemonic(Sr25519, DevPhrase, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hotkey")
	if err := WriteKeyfile(path, pair, DevPhrase, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if _, err := ParseKeyfile(whole[:n]); !errors.Is(err, ErrKeyfileCut) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// TestCryptoType: a wallet's word for the scheme may be a number or a word; one that is unknown is no sr25519.
func TestCryptoType(t *testing.T) {
	const seed = "e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a"
	for word, want := range map[string]Scheme{"0": Ed25519, `"0"`: Ed25519, `"ED25519"`: Ed25519, "1": Sr25519, `"sr25519"`: Sr25519, "null": Sr25519, "{}": Sr25519, "true": Sr25519} {
		k, err := ParseKeyfile([]byte(`{"secretSeed":"` + seed + `","cryptoType":` + word + `}`))
		if err != nil || k.Scheme != want || k.Pair.Scheme() != want {
			t.Errorf("%s: %v, %v", word, k.Scheme, err)
		}
	}
	// The private key of ed25519 is the seed, which btwallet 4.1 writes alone, or the seed and the public key.
	alice, err := FromURI(Ed25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{alice.Seed(), alice.ed} {
		k, err := ParseKeyfile(fmt.Appendf(nil, `{"privateKey":"0x%x","cryptoType":0,"ss58Address":%q}`, secret, alice.SS58()))
		if err != nil || k.SS58() != alice.SS58() {
			t.Errorf("%d bytes of ed25519: %v", len(secret), err)
		}
	}
	for _, word := range []string{"2", "-1", `"ecdsa"`, "1e9"} {
		if _, err := ParseKeyfile([]byte(`{"secretSeed":"` + seed + `","cryptoType":` + word + `}`)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", word, err)
		}
	}
}

func TestKeyfileEncrypted(t *testing.T) {
	for _, c := range []string{"$NACLxx", "$ANSIBLE_VAULT;1.1;AES256", "gAAAAAxx"} {
		if _, err := ParseKeyfile([]byte(c)); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s: %v", c, err)
		}
	}
}

func FuzzParseKeyfile(f *testing.F) {
	f.Add([]byte(`{"secretSeed":"0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a","cryptoType":0}`))
	f.Add([]byte(`{" ss58Address":"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"}`))
	f.Add([]byte(DevPhrase))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKeyfile(data)
		if err == nil && k.Pair != nil && k.Pair.PublicKey() != k.PublicKey {
			t.Fatal("pair and public key differ")
		}
	})
}

func FuzzDecodeSS58(f *testing.F) {
	f.Add("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")
	f.Fuzz(func(t *testing.T, s string) {
		if pub, err := DecodeSS58(s); err == nil && EncodeSS58(pub) != s {
			t.Fatalf("%q reads but is not how we write it", s)
		}
	})
}

func FuzzFromURI(f *testing.F) {
	f.Add("//Alice/soft///pw")
	f.Fuzz(func(t *testing.T, uri string) {
		if len(uri) > 300 {
			return
		}
		if p, err := FromURI(Sr25519, uri); err == nil && p.SS58() == "" {
			t.Fatal("no address")
		}
	})
}
