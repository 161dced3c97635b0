package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
)

// P256SignatureSize is the length in bytes of a raw P-256 signature: r then s, 32 bytes each, big-endian.
const P256SignatureSize = 64

// maxSecretFile bounds a key file in bytes; a PEM key of this curve takes about 250, one that a TPM sealed about 500.
const maxSecretFile = 16 << 10

// ErrP256Signature says that a signature is not one that the key made over the message, or not in its only
// accepted form (64 bytes, s in the lower half of the group order).
var ErrP256Signature = errors.New("p256: signature does not verify")

// P256 is an ECDSA key on NIST P-256: an executor's attestation key. Its signatures are SHA-256 based, 64 raw
// bytes, and unique up to the nonce (low s).
type P256 struct {
	key  *ecdsa.PrivateKey
	spki []byte
}

// GenerateP256 makes a new key from the operating system's randomness.
func GenerateP256() (*P256, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("p256: generate key: %w", err)
	}
	return newP256(key)
}

func newP256(key *ecdsa.PrivateKey) (*P256, error) {
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("p256: key is on curve %s, want P-256", key.Curve.Params().Name)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("p256: encode public key: %w", err)
	}
	return &P256{key: key, spki: spki}, nil
}

// CreateP256 makes a new key and writes it to path as PKCS#8 PEM with mode 0600. It refuses to replace an
// existing file (fs.ErrExist).
func CreateP256(path string) (*P256, error) {
	k, err := GenerateP256()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("p256: encode private key: %w", err)
	}
	if err := CreateSecret(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, fmt.Errorf("p256: write key file: %w", err)
	}
	return k, nil
}

// CreateSecret writes a new 0600 file so that path holds either nothing or all of it: the bytes go to a
// temporary name first, and the link to the final name fails where that exists (fs.ErrExist). A death in
// between leaves the temporary name, .BASE.DIGITS beside the file: whoever owns the directory sweeps those.
func CreateSecret(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// ReadSecret reads a file of at most 16 KiB and refuses one that others than its owner may read.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, others can read it: chmod 600 it", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err == nil && len(b) > maxSecretFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSecretFile)
	}
	return b, err
}

// LoadP256 reads a private key from a PEM or DER file (PKCS#8 or SEC 1). It refuses a file that others than
// its owner may read, and anything but a P-256 key.
func LoadP256(path string) (*P256, error) {
	b, err := ReadSecret(path)
	if err != nil {
		return nil, fmt.Errorf("p256: read key file: %w", err)
	}
	k, err := ParseP256(b)
	if err != nil {
		return nil, fmt.Errorf("%w (file %s)", err, path)
	}
	return k, nil
}

// LoadOrCreateP256 loads the key at path, or creates it where no file is.
func LoadOrCreateP256(path string) (*P256, error) {
	k, err := LoadP256(path)
	if errors.Is(err, fs.ErrNotExist) {
		return CreateP256(path)
	}
	return k, err
}

// ParseP256 reads a private key from PEM or DER bytes (PKCS#8 or SEC 1).
func ParseP256(b []byte) (*P256, error) {
	if len(b) > maxSecretFile {
		return nil, fmt.Errorf("p256: key of more than %d bytes", maxSecretFile)
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	if key, err := x509.ParseECPrivateKey(b); err == nil {
		return newP256(key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(b)
	if err != nil {
		return nil, errors.New("p256: neither a PKCS#8 nor a SEC 1 private key")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("p256: key is a %T, want ECDSA P-256", parsed)
	}
	return newP256(key)
}

// SPKI is the DER SubjectPublicKeyInfo of the key: the name by which others pin it.
func (k *P256) SPKI() []byte { return append([]byte(nil), k.spki...) }

// Signer is the same key for the standard library's TLS, X.509 and SSH code.
func (k *P256) Signer() crypto.Signer { return k.key }

// ecdsaSignature is the ASN.1 form in which the standard library speaks of r and s.
type ecdsaSignature struct{ R, S *big.Int }

// Sign returns r | s (64 bytes, big-endian, low s) over the SHA-256 of msg.
func (k *P256) Sign(msg []byte) ([]byte, error) {
	h := sha256.Sum256(msg)
	der, err := ecdsa.SignASN1(rand.Reader, k.key, h[:])
	if err != nil {
		return nil, fmt.Errorf("p256: sign: %w", err)
	}
	var sig ecdsaSignature
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("p256: sign: %w", err)
	}
	return P256Signature(sig.R, sig.S)
}

// P256Signature is the only accepted form of a signature: r | s, 64 bytes, big-endian, with the lower s.
func P256Signature(r, s *big.Int) ([]byte, error) {
	order := elliptic.P256().Params().N
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(order) >= 0 || s.Cmp(order) >= 0 {
		return nil, ErrP256Signature
	}
	if highS(s) {
		s = new(big.Int).Sub(order, s)
	}
	out := make([]byte, P256SignatureSize)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

// highS reports whether s lies in the upper half of the group order. Both s and order-s verify; taking only
// the lower one makes a signature unchangeable by third parties.
func highS(s *big.Int) bool {
	half := new(big.Int).Rsh(elliptic.P256().Params().N, 1)
	return s.Cmp(half) > 0
}

// ParseP256SPKI reads a DER SubjectPublicKeyInfo and refuses any key but P-256, and trailing bytes.
func ParseP256SPKI(spki []byte) (*ecdsa.PublicKey, error) {
	if len(spki) > 1<<10 {
		return nil, errors.New("p256: public key of more than 1024 bytes")
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("p256: parse public key: %w", err)
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("p256: public key is not ECDSA P-256")
	}
	return pub, nil
}

// VerifyP256 checks a raw 64-byte low-s signature over the SHA-256 of msg by the key of the DER
// SubjectPublicKeyInfo. A bad signature is ErrP256Signature.
func VerifyP256(spki, msg, sig []byte) error {
	pub, err := ParseP256SPKI(spki)
	if err != nil {
		return err
	}
	if len(sig) != P256SignatureSize {
		return ErrP256Signature
	}
	rs := ecdsaSignature{R: new(big.Int).SetBytes(sig[:32]), S: new(big.Int).SetBytes(sig[32:])}
	if rs.R.Sign() == 0 || rs.S.Sign() == 0 || highS(rs.S) {
		return ErrP256Signature
	}
	der, err := asn1.Marshal(rs)
	if err != nil {
		return fmt.Errorf("p256: verify: %w", err)
	}
	h := sha256.Sum256(msg)
	if !ecdsa.VerifyASN1(pub, h[:], der) {
		return ErrP256Signature
	}
	return nil
}
