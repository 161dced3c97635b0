package node

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// TestMinerCertificateFollowsClockAndKeys: the same one is shown as long as it is good, and a new one after a jump of the
// clock in either direction, near its end, and when other keys sign.
func TestMinerCertificateFollowsClockAndKeys(t *testing.T) {
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"))
	check(t, err)
	now := time.Date(2026, 1, 10, 9, 0, 0, 0, time.UTC)
	c := &minerCertificate{authority: authority, now: func() time.Time { return now }}
	last, err := c.get()
	check(t, err)
	shown := func(when string, fresh bool) {
		t.Helper()
		got, err := c.get()
		check(t, err)
		if (got != last) != fresh {
			t.Errorf("%s: another certificate is shown: %v", when, got != last)
		}
		if pki.InForce(got.Leaf, now) != nil {
			t.Errorf("%s: %v", when, pki.InForce(got.Leaf, now))
		}
		last = got
	}
	shown("at once", false)
	now = now.Add(pki.MinerLife / 2)
	shown("in the middle of its life", false)
	now = now.Add(pki.MinerLife / 4)
	shown("near its end", true)
	now = now.Add(2 * pki.MinerLife)
	shown("the clock jumps ahead", true)
	now = now.Add(-2 * pki.MinerLife)
	shown("the clock is set back", true)
	check(t, authority.BeginRotation())
	shown("new keys are announced", false)
	check(t, authority.SwitchRotation(now))
	shown("new keys sign", true)
	check(t, authority.EndRotation())
	shown("old keys are forgotten", false)
}

// TestRenewedIdentityIsOnDisk: what a machine shows after a renewal is what it starts with next time; a certificate over
// another key changes nothing.
func TestRenewedIdentityIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"))
	check(t, err)
	key, host, err := machineKeys(dir)
	check(t, err)
	hotkey, err := keys.FromURI(keys.Sr25519, minerHotURI)
	check(t, err)
	csr, err := pki.NewCSR(key.Signer())
	check(t, err)
	issue := func(at time.Time) []byte {
		der, err := authority.IssueExecutor(csr, "box-1", at)
		check(t, err)
		return der
	}
	trust := func() basilica.Trust {
		return basilica.Trust{FleetCAs: authority.FleetCAs(), SSHCAs: authority.SSHCAKeys(), JWTKeys: authority.JWTPublicKeys()}
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: key.SPKI(), AttestSPKI: key.SPKI(), HostKey: host.PublicKey().Marshal(), Issued: time.Now()}, hotkey)
	check(t, err)
	begun := time.Date(2026, 1, 10, 9, 0, 0, 0, time.UTC)
	check(t, saveIdentity(dir, basilica.Enrollment{Executor: "box-1", Miner: "5F", Certificate: issue(begun), Trust: trust(), Endorsement: endorsement}))
	self, err := loadIdentity(dir)
	check(t, err)
	told := 0
	self.renewed = func() { told++ }
	check(t, authority.BeginRotation())
	fresh := issue(begun.Add(60 * 24 * time.Hour))
	check(t, self.Renewed(basilica.Renewal{Certificate: fresh, Trust: trust()}))

	other, err := keys.GenerateP256()
	check(t, err)
	if csr, err = pki.NewCSR(other.Signer()); err != nil {
		t.Fatal(err)
	}
	if err := self.Renewed(basilica.Renewal{Certificate: issue(begun), Trust: trust()}); err == nil || told != 1 {
		t.Errorf("a certificate over another key: %v, told %d times", err, told)
	}
	again, err := loadIdentity(dir)
	check(t, err)
	for name, i := range map[string]*identity{"running": self, "started again": again} {
		cert, err := i.certificate()
		check(t, err)
		if !bytes.Equal(cert.Certificate[0], fresh) || i.Trust() != trust().Digest() || len(i.sshCAs()) != 2 || len(i.jwtKeys()) != 2 || i.Executor != "box-1" {
			t.Errorf("%s: shows another identity", name)
		}
	}
}

// TestUnfinishedFilesAreSwept: what a process that died while it made its files left beside them, copies of keys above all, is
// gone once the next one has the directory, and nothing else is.
func TestUnfinishedFilesAreSwept(t *testing.T) {
	dir := t.TempDir()
	_, _, err := machineKeys(dir)
	check(t, err)
	for _, left := range []string{".executor.key.123", ".ssh_host.key.1", ".attest.key.next.7", ".identity.json.55", ".executor.toml.9"} {
		check(t, os.WriteFile(filepath.Join(dir, left), []byte("a copy"), 0o600))
	}
	foreign := []string{".executor.toml.", ".executor.toml.9~", ".executor.toml.swp", ".identity.json.old", ".identity.json.v2", ".keyring", ".other.key.1", "executor.key.bak"}
	kept := slices.Sorted(slices.Values(append([]string{"executor.key", "ssh_host.key"}, foreign...)))
	for _, name := range foreign {
		check(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	db, err := openExecutorDir(t.Context(), dir)
	check(t, err)
	check(t, db.Close())
	var found []string
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "executor.sqlite") && e.Name() != "executor.lock" {
			found = append(found, e.Name())
		}
	}
	if !slices.Equal(found, kept) {
		t.Errorf("the directory holds %q, want %q", found, kept)
	}
}
