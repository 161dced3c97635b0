package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRotationSteps: each half signs what it should, each step is on disk before it holds, and none can be skipped.
func TestRotationSteps(t *testing.T) {
	dir := t.TempDir()
	a, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, csr := a.CACert(), newCSR(t, key)
	signers := func() (machine, miner []byte) {
		t.Helper()
		der, err := a.IssueExecutor(csr, "box", testNow)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, ca := range a.FleetCAs() {
			if VerifyPeer([]*x509.Certificate{cert}, testNow, ca) == nil {
				machine = ca
			}
		}
		server, err := a.ServerCertificate(testNow, nil)
		if err != nil {
			t.Fatal(err)
		}
		return machine, server.Certificate[1]
	}
	reload := func(phase Phase, sets int) {
		t.Helper()
		b, err := Load(dir) // what a miner finds that was killed here
		if err != nil {
			t.Fatal(err)
		}
		at, switched := b.Rotation()
		_, want := a.Rotation()
		if at != phase || !switched.Equal(want) || len(b.FleetCAs()) != sets || len(b.SSHCAKeys()) != sets || len(b.JWTPublicKeys()) != sets || !bytes.Equal(b.CACert(), a.CACert()) {
			t.Fatalf("on disk: %q with %d sets, want %q with %d", at, len(b.FleetCAs()), phase, sets)
		}
		if st, err := os.Stat(filepath.Join(dir, authorityFile)); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("authority file %v %v", st, err)
		}
		a = b
	}
	for name, step := range map[string]func() error{"switch": func() error { return a.SwitchRotation(testNow) }, "end": a.EndRotation} {
		if err := step(); !errors.Is(err, ErrRotation) {
			t.Errorf("%s without a rotation: %v", name, err)
		}
	}
	if err := a.BeginRotation(); err != nil {
		t.Fatal(err)
	}
	reload(PhaseAnnounced, 2)
	if err := a.BeginRotation(); !errors.Is(err, ErrRotation) {
		t.Errorf("begun twice: %v", err)
	}
	machine, miner := signers()
	if bytes.Equal(machine, first) || !bytes.Equal(miner, first) {
		t.Error("announced: machines get certificates of the new CA, the miner shows its old one")
	}
	old, err := a.MintJWT("box", testNow, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SwitchRotation(testNow.Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	reload(PhaseSwitched, 2)
	if again, miner := signers(); !bytes.Equal(again, machine) || !bytes.Equal(miner, machine) {
		t.Error("switched: the new CA signs everything")
	}
	fresh, err := a.MintJWT("box", testNow, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	keys := a.JWTPublicKeys()
	if VerifyJWT(keys, old, "box", testNow) != nil || VerifyJWT(keys, fresh, "box", testNow) != nil || VerifyJWT(keys[:1], old, "box", testNow) == nil {
		t.Error("a token of before the switch is not taken beside those after it, or by the new key alone")
	}
	// A step before died between writing and renaming: what it left has the old keys.
	if err := os.WriteFile(filepath.Join(dir, "."+authorityFile+".new"), []byte("old keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.EndRotation(); err != nil {
		t.Fatal(err)
	}
	reload(PhaseNone, 1)
	if bytes.Equal(a.CACert(), first) || VerifyJWT(a.JWTPublicKeys(), old, "box", testNow) == nil {
		t.Error("the old keys are still in force")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files remain: %v", len(left), err)
	}
}

// FuzzParseAuthority: whatever stands in an authority file, it is read or refused.
func FuzzParseAuthority(f *testing.F) {
	dir := f.TempDir()
	a, err := Create(dir)
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		text, err := os.ReadFile(filepath.Join(dir, authorityFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		if phase, _ := a.Rotation(); phase == PhaseNone {
			err = a.BeginRotation()
		} else {
			err = a.SwitchRotation(testNow)
		}
		if err != nil && !errors.Is(err, ErrRotation) {
			f.Fatal(err)
		}
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAuthority(text)
		if err != nil {
			return
		}
		again, err := a.encode()
		if err != nil {
			t.Fatal(err)
		}
		b, err := parseAuthority(again)
		if err != nil || len(b.FleetCAs()) != len(a.FleetCAs()) || !bytes.Equal(a.CACert(), b.CACert()) {
			t.Fatalf("an authority that was read cannot be written: %v", err)
		}
	})
}
