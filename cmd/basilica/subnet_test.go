package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basilica"
	"basilica/keys"
	"basilica/subtensor"
)

func TestWeightsByHand(t *testing.T) {
	for args, want := range map[string][]basilica.Weight{
		"4=0.7 9=0.35": {{UID: 4, Value: 65535}, {UID: 9, Value: 32768}},
		"4=3":          {{UID: 4, Value: 65535}},
		"4=0 5=1e-9":   {{UID: 5, Value: 65535}},
		"":             nil,
		"4":            nil, "4=": nil, "=1": nil, "65536=1": nil, "4=-1": nil, "4=NaN": nil, "4=Inf": nil, "4=0 5=0": nil,
	} {
		got, err := weightsOf(strings.Fields(args))
		if !slices.Equal(got, want) || (want == nil && args != "") != (err != nil) {
			t.Errorf("%q is %v, %v", args, got, err)
		}
	}
}

func TestChildrenByHand(t *testing.T) {
	for set, good := range map[string]bool{"5x=0.5": true, "5x=1": true, "5x=0.5 5y=0.5": true, "5x=0.6 5y=0.5": false, "5x": false, "5x=0": false, "5x=1.1": false, "5x=NaN": false} {
		if got, err := childrenOf(strings.Fields(set)); (err == nil) != good {
			t.Errorf("%q is %v, %v", set, got, err)
		}
	}
}

// TestTLSKeyOfCertificate: what is published is the point of the certificate's key; other files are refused.
func TestTLSKeyOfCertificate(t *testing.T) {
	dir := t.TempDir()
	write := func(curve elliptic.Curve) (string, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		form := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, curve.Params().Name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path, key
	}
	path, key := write(elliptic.P256())
	point, err := tlsKey(path)
	if err != nil || !slices.Equal(point, slices.Concat(key.X.FillBytes(make([]byte, 32)), key.Y.FillBytes(make([]byte, 32)))) {
		t.Errorf("%x, %v", point, err)
	}
	other, _ := write(elliptic.P384())
	for _, bad := range []string{other, filepath.Join(dir, "none")} {
		if _, err := tlsKey(bad); basilica.CodeOf(err) != "AXON_TLS_KEY" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestKeysOfWallet: names lead to the files of a wallet, and an address needs no more than the public part.
func TestKeysOfWallet(t *testing.T) {
	dir := t.TempDir()
	alice, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	hot := filepath.Join(dir, "main", "hotkeys")
	if err := os.MkdirAll(hot, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Join(dir, "main", "coldkeypub.txt"): 0o644, filepath.Join(hot, "minerpub.txt"): 0o644, filepath.Join(hot, "open"): 0o600} {
		if err := os.WriteFile(path, []byte(`{"ss58Address":"`+alice.SS58()+`"}`), mode); err != nil {
			t.Fatal(err)
		}
	}
	f := keyFlags{walletFlags: walletFlags{wallet: "main", path: dir, hotkey: "miner"}}
	cold, err := f.coldkeyAddress()
	if err != nil || string(cold) != alice.SS58() {
		t.Errorf("coldkey %s, %v", cold, err)
	}
	for _, name := range []string{"miner", "open", alice.SS58(), "//Alice", filepath.Join(hot, "open")} {
		f.hotkey = name
		if address, err := f.hotkeyAddress(); err != nil || string(address) != alice.SS58() {
			t.Errorf("hotkey %s is %s, %v", name, address, err)
		}
	}
	f.hotkey = "miner"
	if _, err := f.signHotkey(); basilica.CodeOf(err) != "KEY_UNREADABLE" {
		t.Errorf("a hotkey of which only the public part is here: %v", err)
	}
	f.hotkey = "open"
	if _, err := f.signHotkey(); basilica.CodeOf(err) != "KEY_PUBLIC" {
		t.Errorf("a hotkey file without a secret: %v", err)
	}
	if _, err := f.signColdkey(); basilica.CodeOf(err) != "KEY_UNREADABLE" {
		t.Errorf("no coldkey here: %v", err)
	}
	f.coldkey = "//Alice"
	if pair, err := f.signColdkey(); err != nil || pair.SS58() != alice.SS58() {
		t.Errorf("--coldkey //Alice: %v", err)
	}
}

// TestQuoteInWords: the sentence before a spending names what, who, how much and what is left.
func TestQuoteInWords(t *testing.T) {
	var out strings.Builder
	describeQuote(&out, subtensor.Quote{
		Action: "register 5x on subnet 39", Call: "SubtensorModule.register_limit", Signer: "5y", Balance: 5e9, Fee: 1, Cost: 2e9, Use: "burned",
		Notes: []string{"a\nb"}, Shielded: true,
	})
	const want = `register 5x on subnet 39

  call      SubtensorModule.register_limit, sealed in MevShield.submit_encrypted
  signed by 5y, balance 5 TAO
  burned    2 TAO
  fee       0.000000001 TAO
  left      2.999999999 TAO
  note      a\nb

`
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}
