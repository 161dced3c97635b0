package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/oasisprotocol/curve25519-voi/primitives/sr25519"
)

// Scheme is a signature scheme; the numbers are the tags of the chain's
// MultiSignature and of "cryptoType" in wallet files.
type Scheme uint8

// Schemes that sign transactions.
const (
	Ed25519 Scheme = 0
	Sr25519 Scheme = 1
)

// String is the scheme's usual name in lower case.
func (s Scheme) String() string {
	switch s {
	case Ed25519:
		return "ed25519"
	case Sr25519:
		return "sr25519"
	}
	return fmt.Sprintf("scheme %d", uint8(s))
}

// SignatureSize is the length of a signature of either scheme, in bytes.
const SignatureSize = 64

// ErrKey is the root of all errors about malformed secrets and keys. Messages
// never hold the secret itself.
var ErrKey = errors.New("invalid key")

// Signer signs with one key. Pair is the one in memory; another body may hold
// the key elsewhere.
type Signer interface {
	// Sign returns the 64-byte signature over msg as it is (no <Bytes> wrapping).
	Sign(msg []byte) ([]byte, error)
	PublicKey() [32]byte
	Scheme() Scheme
	SS58() string
}

// Pair is a key pair in memory.
type Pair struct {
	scheme Scheme
	pub    [32]byte
	seed   []byte             // 32-byte mini secret; nil when only an expanded secret is known
	sr     *sr25519.SecretKey // Sr25519
	ed     ed25519.PrivateKey // Ed25519
}

var _ Signer = (*Pair)(nil)

// FromSeed makes the pair of a 32-byte mini secret (seed).
func FromSeed(scheme Scheme, seed []byte) (*Pair, error) {
	if len(seed) != 32 {
		return nil, fmt.Errorf("seed of %d bytes, want 32: %w", len(seed), ErrKey)
	}
	seed = append([]byte{}, seed...)
	switch scheme {
	case Sr25519:
		mini, err := sr25519.NewMiniSecretKeyFromBytes(seed)
		if err != nil {
			return nil, fmt.Errorf("seed: %w", ErrKey)
		}
		return fromSecret(mini.ExpandEd25519(), seed)
	case Ed25519:
		ed := ed25519.NewKeyFromSeed(seed)
		p := &Pair{scheme: Ed25519, seed: seed, ed: ed}
		copy(p.pub[:], ed[32:])
		return p, nil
	}
	return nil, fmt.Errorf("%v: %w", scheme, ErrKey)
}

// FromExpanded makes the sr25519 pair of a 64-byte expanded secret in
// schnorrkel's canonical form (scalar, nonce), which is what "privateKey" of a
// wallet file holds. polkadot.js exports hold another form (scalar times 8):
// compare the public key after loading.
func FromExpanded(secret []byte) (*Pair, error) {
	sk, err := sr25519.NewSecretKeyFromBytes(secret)
	if err != nil {
		return nil, fmt.Errorf("private key is not a canonical 64-byte sr25519 secret: %w", ErrKey)
	}
	return fromSecret(sk, nil)
}

func fromSecret(sk *sr25519.SecretKey, seed []byte) (*Pair, error) {
	pub, err := sk.PublicKey().MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("public key: %w", ErrKey)
	}
	p := &Pair{scheme: Sr25519, seed: seed, sr: sk}
	copy(p.pub[:], pub)
	return p, nil
}

// Generate makes a new random pair from the system's randomness.
func Generate(scheme Scheme) (*Pair, error) {
	seed := make([]byte, 32)
	if _, err := io.ReadFull(rand.Reader, seed); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	return FromSeed(scheme, seed)
}

// Sign signs msg as it is. An sr25519 signature is randomised and uses the
// signing context "substrate"; an ed25519 one is deterministic.
func (p *Pair) Sign(msg []byte) ([]byte, error) {
	if p.scheme == Ed25519 {
		return ed25519.Sign(p.ed, msg), nil
	}
	sig, err := p.sr.KeyPair().Sign(rand.Reader, substrateTranscript(msg))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig.MarshalBinary()
}

// PublicKey is the 32-byte public key.
func (p *Pair) PublicKey() [32]byte { return p.pub }

// Scheme is the pair's signature scheme.
func (p *Pair) Scheme() Scheme { return p.scheme }

// SS58 is the address of the public key with prefix 42.
func (p *Pair) SS58() string { return EncodeSS58(p.pub) }

// Seed is a copy of the 32-byte mini secret, nil where only an expanded secret
// is known.
func (p *Pair) Seed() []byte { return append([]byte(nil), p.seed...) }

// expanded is the 64-byte sr25519 secret in canonical form, nil for ed25519.
func (p *Pair) expanded() []byte {
	if p.sr == nil {
		return nil
	}
	b, err := p.sr.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}

// String shows the address only, so that a pair never leaks into a log.
func (p *Pair) String() string { return p.SS58() }

// GoString shows the address only.
func (p *Pair) GoString() string { return p.scheme.String() + ":" + p.SS58() }

func substrateTranscript(msg []byte) *sr25519.SigningTranscript {
	return sr25519.NewSigningContext([]byte("substrate")).NewTranscriptBytes(msg)
}

// Verify tells whether sig is pub's signature over msg. A wrong length, an
// unmarked sr25519 signature and an unknown scheme are false.
func Verify(scheme Scheme, pub [32]byte, msg, sig []byte) bool {
	if len(sig) != SignatureSize {
		return false
	}
	switch scheme {
	case Ed25519:
		return ed25519.Verify(pub[:], msg, sig)
	case Sr25519:
		key, err := sr25519.NewPublicKeyFromBytes(pub[:])
		if err != nil {
			return false
		}
		s, err := sr25519.NewSignatureFromBytes(sig)
		if err != nil {
			return false
		}
		return key.Verify(substrateTranscript(msg), s)
	}
	return false
}

// VerifyWrapped is Verify that also takes a signature over the message inside
// <Bytes>…</Bytes>, as wallets in a browser make them. Use it only where a
// person's wallet may have signed.
func VerifyWrapped(scheme Scheme, pub [32]byte, msg, sig []byte) bool {
	if Verify(scheme, pub, msg, sig) {
		return true
	}
	wrapped := append(append([]byte("<Bytes>"), msg...), "</Bytes>"...)
	return Verify(scheme, pub, wrapped, sig)
}

// ParseSignature reads the text form of a signature: 128 hex digits, with or
// without 0x.
func ParseSignature(text string) ([]byte, error) {
	b, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(b) != SignatureSize {
		return nil, fmt.Errorf("signature is not 64 bytes of hex: %w", ErrKey)
	}
	return b, nil
}
