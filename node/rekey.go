package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"basilica"
	"basilica/attestor"
	"basilica/wire"
)

// attestKeyFile holds the attestation key, or what of it only the TPM can open; nextKeyFile the one that takes its place, from
// before the miner is asked until the identity names it. A rotation that was cut short at any point is finished by what comes
// next, be it another rekey or the executor's start.
const (
	attestKeyFile = "attest.key"
	nextKeyFile   = "attest.key.next"
)

// Rekeyed is what a rotation came to.
type Rekeyed struct {
	Executor basilica.ExecutorID
	Kind     attestor.KeyKind
	SPKI     []byte // DER of the new attestation key
}

// Rekey gives a machine that has joined a new attestation key, where its configuration says that it lives: the old key and the
// miner's hotkey sign for it. The executor must not run meanwhile.
func Rekey(ctx context.Context, cfg ExecutorConfig, deps Deps) (_ Rekeyed, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	if err := cfg.Validate(); err != nil {
		return Rekeyed{}, err
	}
	if cfg.DataDir, err = DataDir(cfg.DataDir); err != nil {
		return Rekeyed{}, err
	}
	// Whoever holds the store's lock is the only one in this directory.
	db, err := openExecutorDir(ctx, cfg.DataDir)
	if err != nil {
		return Rekeyed{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	self, err := loadIdentity(cfg.DataDir)
	if err != nil {
		return Rekeyed{}, err
	}
	return rekey(ctx, cfg, self, deps)
}

// finishRekey goes on with a rotation that was cut short: the miner may have recorded it already.
func (n *Executor) finishRekey(ctx context.Context) error {
	_, err := os.Stat(filepath.Join(n.cfg.DataDir, nextKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a new attestation key: %w", err)
	}
	done, err := rekey(ctx, n.cfg, n.self, n.deps)
	if err != nil {
		return fmt.Errorf("finish the rotation of the attestation key: %w", err)
	}
	n.deps.Log.Info("rotation of the attestation key finished", "kind", done.Kind)
	return nil
}

func rekey(ctx context.Context, cfg ExecutorConfig, self *identity, deps Deps) (Rekeyed, error) {
	old, err := childOf(ctx, cfg, deps.Log)
	if err != nil {
		return Rekeyed{}, err
	}
	next := old
	next.Key = filepath.Join(cfg.DataDir, nextKeyFile)
	made, err := next.Detect(ctx) // makes the key where it is not there yet
	if err != nil {
		return Rekeyed{}, err
	}
	present, err := self.Endorsement.Open()
	if err != nil {
		return Rekeyed{}, err
	}
	if !bytes.Equal(present.AttestSPKI, made.SPKI) {
		asked, err := basilica.Rotate(present, made.SPKI, deps.Now(), func(payload []byte) ([]byte, error) { return old.Rotate(ctx, payload) })
		if err != nil {
			return Rekeyed{}, err
		}
		if err := exchange(ctx, cfg, self, asked, deps); err != nil {
			return Rekeyed{}, err
		}
	}
	if err := os.Rename(next.Key, old.Key); err != nil {
		return Rekeyed{}, fmt.Errorf("put the new attestation key in place: %w", err)
	}
	return Rekeyed{self.Executor, made.KeyKind, made.SPKI}, nil
}

// exchange has the miner sign for the new key, and keeps its word before anything else.
func exchange(ctx context.Context, cfg ExecutorConfig, self *identity, asked basilica.SignedEndorsement, deps Deps) (err error) {
	fleet, err := wire.DialFleet(cfg.MinerAddr, wire.FleetClientConfig{Certificate: self.certificate, CAs: self.fleetCAs, Now: deps.Now, Ended: func() {}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	csr, err := self.Request()
	if err != nil {
		return err
	}
	out, err := fleet.Renew(ctx, self.Executor, basilica.RenewRequest{CSR: csr, Rotation: &asked})
	if err != nil {
		return fmt.Errorf("ask the miner to sign for the new attestation key: %w", err)
	}
	if err := endorses(out.Endorsement, asked, self); err != nil {
		return basilica.E(basilica.Invalid, "ENROLLMENT_UNFIT", "the miner's answer does not fit this machine", "use the same version of basilica on both machines, and ask again with basilica executor rekey").With(err)
	}
	self.Endorsement = *out.Endorsement
	return self.Renewed(out)
}

// endorses checks that the miner signed for what was asked: the same machine under the new key.
func endorses(got *basilica.SignedEndorsement, asked basilica.SignedEndorsement, self *identity) error {
	if got == nil {
		return errors.New("the miner knows no rotations")
	}
	e, err := got.Open()
	if err != nil {
		return err
	}
	from, to, err := asked.Rotation()
	if err != nil {
		return err
	}
	if e.Miner != self.Miner || e.Executor != self.Executor || !bytes.Equal(e.KeySPKI, self.key.SPKI()) || !bytes.Equal(e.HostKey, self.host.PublicKey().Marshal()) ||
		!bytes.Equal(e.Replaces, from) || !bytes.Equal(e.AttestSPKI, to) {
		return errors.New("another machine or another key is endorsed")
	}
	return nil
}

// keyFits refuses a key that lives elsewhere than the configuration says.
func keyFits(cfg ExecutorConfig, d attestor.Detection) error {
	if string(d.KeyKind) == cfg.AttestationKey {
		return nil
	}
	return basilica.E(basilica.Invalid, "ATTEST_KEY_KIND", fmt.Sprintf("executor.attestation_key is %q, this machine's attestation key is of the kind %q", cfg.AttestationKey, d.KeyKind),
		"replace the key, signed by the old one: basilica executor rekey; or set executor.attestation_key back")
}
