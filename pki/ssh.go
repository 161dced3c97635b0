package pki

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Extensions of an SSH user certificate that only our own door reads.
const (
	SubsystemsExtension = "subsystems@basilica" // comma list of subsystem names that the holder may open
	ValidatorExtension  = "validator@basilica"  // SS58 of the validator that it was made for
)

// MaxSSHLife bounds the life of an SSH user certificate.
const MaxSSHLife = 10 * time.Minute

var subsystemName = regexp.MustCompile(`^[a-z][a-z0-9:_-]{0,80}$`)

// SSHCAKey is the key that signs user certificates.
func (a *Authority) SSHCAKey() ssh.PublicKey { return a.signer().ssh.PublicKey() }

// SSHUserCertificate signs a user certificate (SSH wire encoding) over pub (the same; Ed25519 or ECDSA P-256) for one
// executor: principal = executor, key id = grant, the subsystems and the validator in extensions, from Backdate before
// now to ttl after, ttl at most MaxSSHLife. It permits no terminal and no forwarding: it names no such extension.
func (a *Authority) SSHUserCertificate(pub []byte, executor, grant, validator string, subsystems []string, now time.Time, ttl time.Duration) ([]byte, error) {
	key, err := ssh.ParsePublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("parse SSH public key: %w", err)
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256:
	default:
		return nil, fmt.Errorf("SSH public key is a %s, want %s or %s", key.Type(), ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256)
	}
	switch {
	case !ValidExecutorID(executor):
		return nil, fmt.Errorf("executor id %.80q is not valid", executor)
	case grant == "" || validator == "":
		return nil, errors.New("an SSH certificate needs a grant and a validator")
	case ttl <= 0 || ttl > MaxSSHLife:
		return nil, fmt.Errorf("life of %s is outside 0..%s", ttl, MaxSSHLife)
	case len(subsystems) == 0:
		return nil, errors.New("an SSH certificate without a subsystem opens nothing")
	}
	for _, s := range subsystems {
		if !subsystemName.MatchString(s) {
			return nil, fmt.Errorf("subsystem name %.90q is not valid", s)
		}
	}
	var serial [8]byte
	if _, err := io.ReadFull(rand.Reader, serial[:]); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	cert := &ssh.Certificate{
		Key:             key,
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        ssh.UserCert,
		KeyId:           grant,
		ValidPrincipals: []string{executor},
		ValidAfter:      uint64(now.Add(-Backdate).Unix()),
		ValidBefore:     uint64(now.Add(ttl).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			SubsystemsExtension: strings.Join(subsystems, ","),
			ValidatorExtension:  validator,
		}},
	}
	if err := cert.SignCert(rand.Reader, a.signer().ssh); err != nil {
		return nil, fmt.Errorf("sign SSH certificate: %w", err)
	}
	return cert.Marshal(), nil
}
