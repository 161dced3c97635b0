// Package timelock seals bytes until a drand beacon signs a round, in the byte layout that Bittensor's chain opens: a
// Boneh-Franklin encryption to the round over BLS12-381, with AES-256-GCM under it. It also verifies a beacon's pulses,
// signs them for a simulator, encodes the weights that a timelocked commit carries, and plans the round at which the
// chain will reveal them. It reads no clock and no network.
package timelock

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"time"

	bls12381 "github.com/consensys/gnark-crypto/ecc/bls12-381"
	"github.com/consensys/gnark-crypto/ecc/bls12-381/fr"
)

// Sizes in bytes of a beacon's public key (G2, compressed) and of its signatures (G1, compressed).
const (
	PublicKeySize = bls12381.SizeOfG2AffineCompressed
	SignatureSize = bls12381.SizeOfG1AffineCompressed
)

// domain separates the beacon's hashes to G1 from all others: the suite of RFC 9380, section 8.8.1, as drand's scheme
// bls-unchained-g1-rfc9380 names it.
const domain = "BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"

// Errors of keys and signatures; they come wrapped with what is wrong.
var (
	ErrPublicKey = errors.New("not a public key of a beacon")
	ErrSignature = errors.New("not the beacon's signature of this round")
	ErrSecret    = errors.New("not a secret key of a beacon")
)

// Beacon is what a drand beacon of scheme bls-unchained-g1-rfc9380 publishes about itself; storage Drand.BeaconConfig of
// the chain holds the same.
type Beacon struct {
	PublicKey [PublicKeySize]byte
	// Genesis is when round 1 appears, in seconds since 1970.
	Genesis int64
	// Period is the time between rounds in seconds, at least 1.
	Period int64
}

// Quicknet is the public beacon that Bittensor's chains and official clients use: chain
// 52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971 of the League of Entropy.
func Quicknet() Beacon {
	return Beacon{Genesis: 1692803367, Period: 3, PublicKey: [PublicKeySize]byte{
		0x83, 0xcf, 0x0f, 0x28, 0x96, 0xad, 0xee, 0x7e, 0xb8, 0xb5, 0xf0, 0x1f, 0xca, 0xd3, 0x91, 0x22, 0x12, 0xc4, 0x37, 0xe0, 0x07, 0x3e, 0x91, 0x1f,
		0xb9, 0x00, 0x22, 0xd3, 0xe7, 0x60, 0x18, 0x3c, 0x8c, 0x4b, 0x45, 0x0b, 0x6a, 0x0a, 0x6c, 0x3a, 0xc6, 0xa5, 0x77, 0x6a, 0x2d, 0x10, 0x64, 0x51,
		0x0d, 0x1f, 0xec, 0x75, 0x8c, 0x92, 0x1c, 0xc2, 0x2b, 0x0e, 0x17, 0xe6, 0x3a, 0xaf, 0x4b, 0xcb, 0x5e, 0xd6, 0x63, 0x04, 0xde, 0x9c, 0xf8, 0x09,
		0xbd, 0x27, 0x4c, 0xa7, 0x3b, 0xab, 0x4a, 0xf5, 0xa6, 0xe9, 0xc7, 0x6a, 0x4b, 0xc0, 0x9e, 0x76, 0xea, 0xe8, 0x99, 0x1e, 0xf5, 0xec, 0xe4, 0x5a,
	}}
}

// RoundAt is the latest round at a moment, 0 before the first.
func (b Beacon) RoundAt(now time.Time) uint64 {
	since := now.Unix() - b.Genesis // Unix rounds down, as do the rounds
	if since < 0 || b.Period <= 0 {
		return 0
	}
	return uint64(since/b.Period) + 1
}

// TimeOf is when a round of 1 or more appears.
func (b Beacon) TimeOf(round uint64) time.Time {
	return time.Unix(b.Genesis+int64(round-1)*b.Period, 0).UTC()
}

// PublicKey is a beacon's checked public key; make one with [ParsePublicKey].
type PublicKey struct{ point bls12381.G2Affine }

// ParsePublicKey reads a compressed G2 point and checks that it lies in the group and is not its neutral element. Errors:
// ErrPublicKey.
func ParsePublicKey(data []byte) (PublicKey, error) {
	var k PublicKey
	if len(data) != PublicKeySize {
		return k, fmt.Errorf("%d bytes, not %d: %w", len(data), PublicKeySize, ErrPublicKey)
	}
	if _, err := k.point.SetBytes(data); err != nil {
		return k, fmt.Errorf("%w: %w", err, ErrPublicKey)
	}
	if k.point.IsInfinity() {
		return k, fmt.Errorf("the neutral element: %w", ErrPublicKey)
	}
	return k, nil
}

// Bytes is the compressed form of the key.
func (k PublicKey) Bytes() [PublicKeySize]byte { return k.point.Bytes() }

// Verify checks the beacon's signature of a round. Errors: ErrSignature.
func (k PublicKey) Verify(round uint64, signature []byte) error {
	sig, err := parseSignature(signature)
	if err != nil {
		return err
	}
	id, err := identity(round)
	if err != nil {
		return err
	}
	_, _, _, g2 := bls12381.Generators()
	id.Neg(&id)
	// e(signature, G2) = e(identity, key)
	ok, err := bls12381.PairingCheck([]bls12381.G1Affine{sig, id}, []bls12381.G2Affine{g2, k.point})
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrSignature)
	}
	if !ok {
		return fmt.Errorf("round %d: %w", round, ErrSignature)
	}
	return nil
}

// Randomness is what a round of a beacon draws: the hash of its signature.
func Randomness(signature []byte) [32]byte { return sha256.Sum256(signature) }

// Signer is a beacon of one's own, for a chain without Internet; make one with [NewSigner].
type Signer struct {
	secret big.Int
	key    PublicKey
}

// NewSigner makes a beacon of a secret scalar: 32 bytes, big endian, between 1 and the group order less one. Errors:
// ErrSecret.
func NewSigner(secret []byte) (*Signer, error) {
	s := &Signer{}
	s.secret.SetBytes(secret)
	if len(secret) != fr.Bytes || s.secret.Sign() == 0 || s.secret.Cmp(fr.Modulus()) >= 0 {
		return nil, ErrSecret
	}
	s.key.point.ScalarMultiplicationBase(&s.secret)
	return s, nil
}

// PublicKey is the key that verifies what the beacon signs.
func (s *Signer) PublicKey() PublicKey { return s.key }

// Sign is the beacon's signature of a round, [SignatureSize] bytes.
func (s *Signer) Sign(round uint64) ([]byte, error) {
	id, err := identity(round)
	if err != nil {
		return nil, err
	}
	id.ScalarMultiplication(&id, &s.secret)
	out := id.Bytes()
	return out[:], nil
}

// message is what a beacon signs of a round: the hash of its number.
func message(round uint64) [32]byte {
	var be [8]byte
	binary.BigEndian.PutUint64(be[:], round)
	return sha256.Sum256(be[:])
}

// identity is a round as a point of G1: whom one encrypts to, and what the beacon multiplies with its secret.
func identity(round uint64) (bls12381.G1Affine, error) {
	msg := message(round)
	return bls12381.HashToG1(msg[:], []byte(domain))
}

// parseSignature reads a compressed G1 point and checks that it lies in the group.
func parseSignature(data []byte) (bls12381.G1Affine, error) {
	var sig bls12381.G1Affine
	if len(data) != SignatureSize {
		return sig, fmt.Errorf("%d bytes, not %d: %w", len(data), SignatureSize, ErrSignature)
	}
	if _, err := sig.SetBytes(data); err != nil {
		return sig, fmt.Errorf("%w: %w", err, ErrSignature)
	}
	return sig, nil
}
