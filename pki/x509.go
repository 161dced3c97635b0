package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"time"
)

// Roles stand in certificates as their one URI.
const (
	MinerURI       = "basilica:miner"
	executorPrefix = "basilica:executor/"
)

// ExecutorLife is how long an executor's certificate lasts; the executor renews it when a third of that is left. MinerLife
// is the same for the miner's, which is made anew at each start.
const (
	ExecutorLife = 90 * 24 * time.Hour
	MinerLife    = 365 * 24 * time.Hour
)

const maxCSR = 16 << 10

// ErrCSR is the root of all refusals of a certificate signing request.
var ErrCSR = errors.New("certificate request refused")

var executorID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidExecutorID says whether id may stand in a certificate: 1 to 63 lower-case letters, digits and inner hyphens.
func ValidExecutorID(id string) bool { return executorID.MatchString(id) }

// CACert is the DER of the certificate of the fleet CA that signs: the one that the fleet door shows, and join tokens name.
func (a *Authority) CACert() []byte { return a.FleetCAs()[0] }

// NewCSR makes the DER of a request that names nothing but the key and proves its possession.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// CSRKey checks a request's own signature and gives the DER SubjectPublicKeyInfo of its key. Any key but P-256, a bad
// signature and trailing bytes are ErrCSR.
func CSRKey(csrDER []byte) (spki []byte, err error) {
	csr, err := parseCSR(csrDER)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), csr.RawSubjectPublicKeyInfo...), nil
}

func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrCSR, maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if pub, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: its key is not ECDSA P-256", ErrCSR)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	return csr, nil
}

// IssueExecutor signs an executor's certificate (DER) over the key of the request; subject and names in the request are
// ignored, the certificate says basilica:executor/ID and nothing else.
func (a *Authority) IssueExecutor(csrDER []byte, id string, now time.Time) ([]byte, error) {
	if !ValidExecutorID(id) {
		return nil, fmt.Errorf("executor id %.80q is not 1 to 63 lower-case letters, digits and hyphens", id)
	}
	csr, err := parseCSR(csrDER)
	if err != nil {
		return nil, err
	}
	return a.issuer().issue(csr.PublicKey, executorPrefix+id, nil, now, ExecutorLife)
}

// ServerCertificate makes a fresh key and the miner's certificate over it, for its fleet door and for its calls to
// executors. hosts (names or IP addresses) stand in it for tools; our own peers check the URI. The chain holds the CA
// as well, so that a joining machine can compare it with the hash in its token.
func (a *Authority) ServerCertificate(now time.Time, hosts []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make miner key: %w", err)
	}
	set := a.signer()
	der, err := set.issue(&key.PublicKey, MinerURI, hosts, now, MinerLife)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse miner certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der, set.ca.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func (k *keySet) issue(pub crypto.PublicKey, role string, hosts []string, now time.Time, life time.Duration) ([]byte, error) {
	serial, err := randomSerial()
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	uri, err := url.Parse(role)
	if err != nil {
		return nil, fmt.Errorf("name role: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: role},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, k.ca, pub, k.caKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", role, err)
	}
	return der, nil
}

// SelfSigned makes a certificate over key by key itself, for doors whose callers pin the key and read nothing else: it
// has no names and no meaningful dates.
func SelfSigned(key crypto.Signer) (tls.Certificate, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: dawn, NotAfter: never}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make self-signed certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// IsMiner says whether a certificate carries the miner's role and no other. The caller has checked its chain.
func IsMiner(cert *x509.Certificate) bool {
	return len(cert.URIs) == 1 && cert.URIs[0].String() == MinerURI
}

// ExecutorOf gives the executor id that a certificate carries; false where it carries none, or a second role. The
// caller has checked its chain.
func ExecutorOf(cert *x509.Certificate) (string, bool) {
	if len(cert.URIs) != 1 {
		return "", false
	}
	uri := cert.URIs[0].String()
	if len(uri) <= len(executorPrefix) || uri[:len(executorPrefix)] != executorPrefix {
		return "", false
	}
	id := uri[len(executorPrefix):]
	return id, ValidExecutorID(id)
}

// CertificateTimeError refuses a certificate for its dates alone. Difference is negative where it is not yet in force:
// this clock is at least that far behind the one that dated it; positive where it has ended, by so long.
type CertificateTimeError struct{ Difference time.Duration }

// Error says by how many seconds.
func (e *CertificateTimeError) Error() string {
	d := e.Difference.Round(time.Second)
	if d < 0 {
		return fmt.Sprintf("the certificate is not yet in force: this clock is at least %d s behind the clock that dated it", -d/time.Second)
	}
	return fmt.Sprintf("the certificate ended %d s ago by this clock", d/time.Second)
}

// InForce judges a certificate's dates alone: nil or a *CertificateTimeError.
func InForce(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		// What is dated is dated back.
		return &CertificateTimeError{Difference: now.Sub(cert.NotBefore.Add(Backdate))}
	case now.After(cert.NotAfter):
		return &CertificateTimeError{Difference: now.Sub(cert.NotAfter)}
	}
	return nil
}

// VerifyChain checks that the first certificate of a presented chain leads to one of the fleet CAs (DER) directly and may
// serve and call, whatever its dates. Dates and role are the caller's to check.
func VerifyChain(chain []*x509.Certificate, cas ...[]byte) error {
	if len(chain) == 0 {
		return errors.New("the peer showed no certificate")
	}
	roots := x509.NewCertPool()
	for _, der := range cas {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("parse fleet CA: %w", err)
		}
		roots.AddCert(ca)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: chain[0].NotAfter, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return fmt.Errorf("the peer's certificate is not of this fleet: %w", err)
		}
	}
	return nil
}

// VerifyPeer is VerifyChain of a certificate that is in force at now; one that is not is a *CertificateTimeError.
func VerifyPeer(chain []*x509.Certificate, now time.Time, cas ...[]byte) error {
	if err := VerifyChain(chain, cas...); err != nil {
		return err
	}
	return InForce(chain[0], now)
}

// CAHash names a fleet CA in join tokens: SHA-256 of its DER.
func CAHash(caDER []byte) [32]byte { return sha256.Sum256(caDER) }
