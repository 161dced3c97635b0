// Package pki is a miner's own authority over its machines: it mints and checks X.509 certificates, SSH user
// certificates, short-lived JWTs and join tokens, and refuses to know who asked for them, over which wire, or where a
// grant is remembered.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Backdate is how far before the present every certificate and token begins, so that a peer whose clock runs a little
// behind takes it.
const Backdate = 60 * time.Second

const (
	authorityFile    = "authority.pem"
	maxAuthorityFile = 64 << 10

	blockCert = "CERTIFICATE"
	blockCA   = "FLEET CA PRIVATE KEY"
	blockSSH  = "SSH CA PRIVATE KEY"
	blockJWT  = "JWT PRIVATE KEY"

	// Prefixes of the blocks of a second set while the keys are being rotated, and when the new one began to sign.
	nextPrefix     = "NEXT "
	oldPrefix      = "OLD "
	switchedHeader = "Switched"
)

// dawn and never bound certificates without meaningful dates; never is RFC 5280's "no well-defined expiration".
var (
	dawn  = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	never = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// Authority holds a miner's three signing keys: the fleet CA (X.509, P-256), the SSH CA (Ed25519) and the JWT key
// (Ed25519); while they are being rotated, a second set of them. It is safe for use by many goroutines.
type Authority struct {
	dir string

	mu       sync.RWMutex // guards the rest
	signing  *keySet
	next     *keySet   // since BeginRotation
	old      *keySet   // since SwitchRotation, which was at switched
	switched time.Time // whole seconds, UTC
}

// keySet is the three keys that were made together.
type keySet struct {
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	sshKey ed25519.PrivateKey
	ssh    ssh.Signer
	jwtKey ed25519.PrivateKey
}

// Create makes a new authority and writes it to dir (made with mode 0700 where absent) as one file of mode 0600, so
// that it exists whole or not at all. It refuses to replace one (fs.ErrExist): every enrolled machine would be lost.
func Create(dir string) (*Authority, error) {
	keys, err := newKeySet()
	if err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, signing: keys}
	text, err := a.encode()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make authority directory: %w", err)
	}
	if err := createSecret(filepath.Join(dir, authorityFile), text); err != nil {
		return nil, fmt.Errorf("write authority: %w", err)
	}
	return a, nil
}

func newKeySet() (*keySet, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make fleet CA key: %w", err)
	}
	_, sshKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make SSH CA key: %w", err)
	}
	_, jwtKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make JWT key: %w", err)
	}
	der, err := selfSign(caKey)
	if err != nil {
		return nil, fmt.Errorf("make fleet CA certificate: %w", err)
	}
	return joinKeySet(der, caKey, sshKey, jwtKey)
}

// encode gives the authority file's text; the caller holds mu or is the only one to know a.
func (a *Authority) encode() ([]byte, error) {
	text, err := a.signing.encode("", nil)
	if err != nil {
		return nil, err
	}
	var second []byte
	switch {
	case a.next != nil:
		second, err = a.next.encode(nextPrefix, nil)
	case a.old != nil:
		second, err = a.old.encode(oldPrefix, map[string]string{switchedHeader: a.switched.Format(time.RFC3339)})
	}
	return append(text, second...), err
}

func (k *keySet) encode(prefix string, headers map[string]string) ([]byte, error) {
	text := pem.EncodeToMemory(&pem.Block{Type: prefix + blockCert, Headers: headers, Bytes: k.ca.Raw})
	for _, key := range []struct {
		name string
		key  crypto.Signer
	}{{blockCA, k.caKey}, {blockSSH, k.sshKey}, {blockJWT, k.jwtKey}} {
		b, err := x509.MarshalPKCS8PrivateKey(key.key)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", key.name, err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: prefix + key.name, Bytes: b})...)
	}
	return text, nil
}

// selfSign makes the root. It has no meaningful dates: it is in force until its miner makes another one, so that no
// fleet dies of a forgotten day.
func selfSign(key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "basilica fleet CA"},
		NotBefore:             dawn,
		NotAfter:              never,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
}

func randomSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand.Reader, b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and never shorter than the rest
	return new(big.Int).SetBytes(b), nil
}

// Load reads the authority that Create wrote to dir. An absent one is fs.ErrNotExist; a file that others than its owner
// may read is refused.
func Load(dir string) (*Authority, error) {
	path := filepath.Join(dir, authorityFile)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("authority file %s has mode %04o, others can read it: chmod 600 it", path, st.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxAuthorityFile+1))
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	if len(text) > maxAuthorityFile {
		return nil, fmt.Errorf("authority file %s has more than %d bytes", path, maxAuthorityFile)
	}
	a, err := parseAuthority(text)
	if err != nil {
		return nil, fmt.Errorf("authority file %s: %w", path, err)
	}
	a.dir = dir
	return a, nil
}

func parseAuthority(text []byte) (*Authority, error) {
	blocks := make(map[string]*pem.Block)
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if _, twice := blocks[block.Type]; twice {
			return nil, fmt.Errorf("block %q stands twice", block.Type)
		}
		blocks[block.Type], text = block, rest
	}
	a := &Authority{}
	var err error
	if a.signing, err = parseKeySet(blocks, ""); err != nil {
		return nil, err
	}
	if blocks[nextPrefix+blockCert] != nil {
		if a.next, err = parseKeySet(blocks, nextPrefix); err != nil {
			return nil, err
		}
	}
	if old := blocks[oldPrefix+blockCert]; old != nil {
		if a.old, err = parseKeySet(blocks, oldPrefix); err != nil {
			return nil, err
		}
		if a.switched, err = time.Parse(time.RFC3339, old.Headers[switchedHeader]); err != nil {
			return nil, fmt.Errorf("block %q does not say when its keys were replaced", old.Type)
		}
	}
	if a.next != nil && a.old != nil {
		return nil, errors.New("it holds the keys of two rotations at once")
	}
	return a, nil
}

func parseKeySet(blocks map[string]*pem.Block, prefix string) (*keySet, error) {
	caKey, err := parseKey[*ecdsa.PrivateKey](blocks, prefix+blockCA)
	if err != nil {
		return nil, err
	}
	sshKey, err := parseKey[ed25519.PrivateKey](blocks, prefix+blockSSH)
	if err != nil {
		return nil, err
	}
	jwtKey, err := parseKey[ed25519.PrivateKey](blocks, prefix+blockJWT)
	if err != nil {
		return nil, err
	}
	cert := blocks[prefix+blockCert]
	if cert == nil {
		return nil, fmt.Errorf("block %q is absent", prefix+blockCert)
	}
	return joinKeySet(cert.Bytes, caKey, sshKey, jwtKey)
}

func parseKey[K crypto.PrivateKey](blocks map[string]*pem.Block, name string) (K, error) {
	var none K
	block := blocks[name]
	if block == nil {
		return none, fmt.Errorf("block %q is absent", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, fmt.Errorf("block %q is not a PKCS#8 key", name)
	}
	key, ok := parsed.(K)
	if !ok {
		return none, fmt.Errorf("block %q holds a %T", name, parsed)
	}
	return key, nil
}

func joinKeySet(caDER []byte, caKey *ecdsa.PrivateKey, sshKey, jwtKey ed25519.PrivateKey) (*keySet, error) {
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		return nil, fmt.Errorf("parse fleet CA certificate: %w", err)
	}
	if pub, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(&caKey.PublicKey) || pub.Curve != elliptic.P256() {
		return nil, errors.New("the fleet CA certificate and its P-256 key do not belong together")
	}
	signer, err := ssh.NewSignerFromKey(sshKey)
	if err != nil {
		return nil, fmt.Errorf("read SSH CA key: %w", err)
	}
	return &keySet{ca: ca, caKey: caKey, sshKey: sshKey, ssh: signer, jwtKey: jwtKey}, nil
}

// createSecret writes a new 0600 file so that path holds either nothing or all of it: the link to the final name fails where
// that exists.
func createSecret(path string, b []byte) error { return placeSecret(path, b, os.Link) }

// replaceSecret writes a 0600 file in place of the one at path: the old or the new one is there, whole, at any moment.
func replaceSecret(path string, b []byte) error { return placeSecret(path, b, os.Rename) }

// placeSecret writes b beside path and puts it there. What a death leaves beside it has one name, so that keys which were to be
// forgotten are gone with the next step.
func placeSecret(path string, b []byte, place func(beside, path string) error) (err error) {
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	remove := func() error {
		if err := os.Remove(beside); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := remove(); err != nil { // never written over: it may be another name of the file at path
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(beside, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory outlive a loss of power: certificates of a key that is gone would be worth nothing.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
