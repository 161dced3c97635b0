package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/executor"
	"basilica/keys"
	"basilica/pki"
	"basilica/store"
)

const (
	identityFile    = "identity.json"
	executorKeyFile = "executor.key"
	hostKeyFile     = "ssh_host.key"
	codeNotJoined   = "NOT_JOINED"
	renewFix        = "make a token on the miner (basilica token create), then run here: basilica join TOKEN"
)

// identity is who a machine is since it joined, with its keys. Certificate and trust are replaced at every renewal.
type identity struct {
	Executor    basilica.ExecutorID
	Miner       basilica.Hotkey
	Endorsement basilica.SignedEndorsement

	dir     string
	key     *keys.P256 // TLS and receipts
	host    ssh.Signer
	renewed func() // after each renewal; set before the first

	mu    sync.Mutex // guards the rest
	cert  *x509.Certificate
	trust basilica.Trust
}

var _ executor.Identity = (*identity)(nil)

// inForce refuses an identity whose certificate has ended by this machine's clock.
func (i *identity) inForce(now time.Time) error {
	_, ends := i.Life()
	if now.After(ends) {
		return basilica.E(basilica.Denied, "CERTIFICATE_EXPIRED", fmt.Sprintf("this executor's certificate ended on %s, %d s ago by this machine's clock", ends.UTC().Format(time.DateOnly), int64(now.Sub(ends)/time.Second)),
			"where that clock is right, "+renewFix)
	}
	return nil
}

// Life implements executor.Identity.
func (i *identity) Life() (begins, ends time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert.NotBefore, i.cert.NotAfter
}

// Trust implements executor.Identity.
func (i *identity) Trust() basilica.Digest {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.trust.Digest()
}

// Request implements executor.Identity.
func (i *identity) Request() ([]byte, error) { return pki.NewCSR(i.key.Signer()) }

// Renewed implements executor.Identity.
func (i *identity) Renewed(r basilica.Renewal) error {
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return fmt.Errorf("read renewed certificate: %w", err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, i.key.SPKI()) {
		return errors.New("the renewed certificate is over another key")
	}
	if err := saveIdentity(i.dir, basilica.Enrollment{Executor: i.Executor, Miner: i.Miner, Certificate: r.Certificate, Trust: r.Trust, Endorsement: i.Endorsement}); err != nil {
		return err
	}
	i.mu.Lock()
	i.cert, i.trust = cert, r.Trust
	i.mu.Unlock()
	if i.renewed != nil {
		i.renewed()
	}
	return nil
}

// certificate is what the machine's doors and calls show now.
func (i *identity) certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &tls.Certificate{Certificate: [][]byte{i.cert.Raw}, PrivateKey: i.key.Signer(), Leaf: i.cert}, nil
}

func (i *identity) fleetCAs() [][]byte { return i.trusted().FleetCAs }
func (i *identity) sshCAs() [][]byte   { return i.trusted().SSHCAs }
func (i *identity) jwtKeys() [][]byte  { return i.trusted().JWTKeys }

func (i *identity) trusted() basilica.Trust {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.trust
}

// openExecutorDir opens a machine's database, whose lock makes this process the only one in the directory, and removes what
// one that died left of the files that it was making.
func openExecutorDir(ctx context.Context, dir string) (*store.Executor, error) {
	db, err := store.OpenExecutor(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := sweepPartial(dir, executorKeyFile, hostKeyFile, attestKeyFile, identityFile, executorConfigFile); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// machineKeys loads the machine's keys, and makes them the first time.
func machineKeys(dir string) (*keys.P256, ssh.Signer, error) {
	key, err := keys.LoadOrCreateP256(filepath.Join(dir, executorKeyFile))
	if err != nil {
		return nil, nil, err
	}
	hostKey, err := keys.LoadOrCreateP256(filepath.Join(dir, hostKeyFile))
	if err != nil {
		return nil, nil, err
	}
	host, err := ssh.NewSignerFromSigner(hostKey.Signer())
	if err != nil {
		return nil, nil, fmt.Errorf("SSH host key: %w", err)
	}
	return key, host, nil
}

func saveIdentity(dir string, e basilica.Enrollment) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return WriteFile(filepath.Join(dir, identityFile), append(text, '\n'))
}

func loadIdentity(dir string) (*identity, error) {
	text, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, basilica.E(basilica.NotFound, codeNotJoined, fmt.Sprintf("%s holds no identity: this machine has not joined a fleet", dir), renewFix)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var kept basilica.Enrollment
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, fmt.Errorf("read identity %s: %w", filepath.Join(dir, identityFile), err)
	}
	self := &identity{Executor: kept.Executor, Miner: kept.Miner, Endorsement: kept.Endorsement, trust: kept.Trust, dir: dir}
	if self.key, self.host, err = machineKeys(dir); err != nil {
		return nil, err
	}
	if self.cert, err = x509.ParseCertificate(kept.Certificate); err != nil {
		return nil, fmt.Errorf("read the certificate in %s: %w", filepath.Join(dir, identityFile), err)
	}
	e, err := self.Endorsement.Open()
	if err != nil {
		return nil, fmt.Errorf("read the endorsement in %s: %w", filepath.Join(dir, identityFile), err)
	}
	if !bytes.Equal(self.cert.RawSubjectPublicKeyInfo, self.key.SPKI()) || !bytes.Equal(e.HostKey, self.host.PublicKey().Marshal()) {
		return nil, basilica.E(basilica.Invalid, "EXECUTOR_KEY_CHANGED", fmt.Sprintf("executor.key or ssh_host.key in %s is not the one that the miner certified", dir), "put the old files back, or join again with another data directory")
	}
	return self, nil
}
