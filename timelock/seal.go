package timelock

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	bls12381 "github.com/consensys/gnark-crypto/ecc/bls12-381"
	"github.com/consensys/gnark-crypto/ecc/bls12-381/fr"
)

// Overhead is by how many bytes a ciphertext is longer than its plaintext.
const Overhead = PublicKeySize + 2*(8+keySize) + 8 + (8 + tagSize + 8 + nonceSize) + 8 + len(suite)

// MaxCiphertext is the longest commit in bytes that the chain stores.
const MaxCiphertext = 5000

const (
	keySize   = 32 // of the AES key, of sigma and of their masks
	nonceSize = 12
	tagSize   = 16
	suite     = "AES_GCM_"
)

// ErrCiphertext says that bytes are no ciphertext that the given signature opens; it comes wrapped with the reason.
var ErrCiphertext = errors.New("not a timelocked ciphertext of this round")

// Encrypt seals plaintext until the beacon of the key signs the round. From random it reads, in this order, 32 bytes of
// AES key, 32 of sigma and 12 of nonce; the ciphertext is a function of these. Layout, all lengths u64 little endian:
//
//	U 96 | 32 V | 32 W | length of the body: (length, AES-256-GCM with its tag | 12 nonce) | 8 "AES_GCM_"
//
// Errors: random's own.
func Encrypt(key PublicKey, round uint64, plaintext []byte, random io.Reader) ([]byte, error) {
	var seed struct {
		esk, sigma [keySize]byte
		nonce      [nonceSize]byte
	}
	for _, part := range [][]byte{seed.esk[:], seed.sigma[:], seed.nonce[:]} {
		if _, err := io.ReadFull(random, part); err != nil {
			return nil, fmt.Errorf("timelock: randomness: %w", err)
		}
	}
	id, err := identity(round)
	if err != nil {
		return nil, err
	}
	r := blinding(seed.sigma[:], seed.esk[:])
	var u, masked bls12381.G2Affine
	u.ScalarMultiplicationBase(r)
	masked.ScalarMultiplication(&key.point, r)
	g, err := bls12381.Pair([]bls12381.G1Affine{id}, []bls12381.G2Affine{masked})
	if err != nil {
		return nil, err
	}
	gcm, err := newGCM(seed.esk[:])
	if err != nil {
		return nil, err
	}
	head := u.Bytes()
	out := make([]byte, 0, Overhead+len(plaintext))
	out = append(out, head[:]...)
	out = appendSized(out, xor(seed.sigma[:], hashGT(&g)))
	out = appendSized(out, xor(seed.esk[:], sha256.Sum256(seed.sigma[:])))
	body := appendSized(nil, gcm.Seal(nil, seed.nonce[:], plaintext, nil))
	body = appendSized(body, seed.nonce[:])
	out = appendSized(out, body)
	return appendSized(out, []byte(suite)), nil
}

// Decrypt opens a ciphertext with the beacon's signature of its round. It holds the ciphertext for a stranger's: nothing
// it says of lengths is allocated before it is there. Errors: ErrSignature, ErrCiphertext.
func Decrypt(signature, ciphertext []byte) ([]byte, error) {
	sig, err := parseSignature(signature)
	if err != nil {
		return nil, err
	}
	c, err := parse(ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCiphertext)
	}
	g, err := bls12381.Pair([]bls12381.G1Affine{sig}, []bls12381.G2Affine{c.u})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCiphertext)
	}
	sigma := xor(c.v, hashGT(&g))
	esk := xor(c.w, sha256.Sum256(sigma))
	var u bls12381.G2Affine
	u.ScalarMultiplicationBase(blinding(sigma, esk))
	if !u.Equal(&c.u) {
		return nil, fmt.Errorf("sealed to another round or beacon, or altered: %w", ErrCiphertext)
	}
	gcm, err := newGCM(esk)
	if err != nil {
		return nil, err
	}
	plaintext, err := gcm.Open(nil, c.nonce, c.sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCiphertext)
	}
	return plaintext, nil
}

// parts is a ciphertext taken apart; the slices alias it.
type parts struct {
	u                   bls12381.G2Affine
	v, w, sealed, nonce []byte
}

// parse takes a ciphertext apart, up to its last byte.
func parse(data []byte) (*parts, error) {
	if len(data) < PublicKeySize {
		return nil, io.ErrUnexpectedEOF
	}
	c := &parts{}
	if _, err := c.u.SetBytes(data[:PublicKeySize]); err != nil {
		return nil, err
	}
	var fields [4][]byte // V, W, body, suite
	rest := data[PublicKeySize:]
	for i := range fields {
		var err error
		if fields[i], rest, err = sized(rest); err != nil {
			return nil, err
		}
	}
	var err error
	c.v, c.w = fields[0], fields[1]
	body := fields[2]
	if c.sealed, body, err = sized(body); err != nil {
		return nil, err
	}
	if c.nonce, body, err = sized(body); err != nil {
		return nil, err
	}
	switch {
	case len(c.v) != keySize || len(c.w) != keySize:
		return nil, errors.New("a mask is not 32 bytes long")
	case len(c.nonce) != nonceSize:
		return nil, errors.New("the nonce is not 12 bytes long")
	case string(fields[3]) != suite:
		return nil, errors.New("the cipher is not AES_GCM_")
	case len(rest) != 0 || len(body) != 0:
		return nil, errors.New("bytes are left over")
	}
	return c, nil
}

// sized cuts a field with its length in front off data.
func sized(data []byte) (field, rest []byte, err error) {
	if len(data) < 8 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n := binary.LittleEndian.Uint64(data)
	data = data[8:]
	if n > uint64(len(data)) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return data[:n:n], data[n:], nil
}

// appendSized appends a field with its length in front.
func appendSized(out, field []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(out, uint64(len(field))), field...)
}

// blinding is the scalar r of the Fujisaki-Okamoto transform: what was encrypted decides it, so that whoever opened the
// ciphertext can make its U again.
func blinding(sigma, esk []byte) *big.Int {
	sum := sha256.Sum256(slices.Concat(sigma, esk))
	r := new(big.Int).SetBytes(sum[:])
	return r.Mod(r, fr.Modulus())
}

// hashGT hashes an element of the target group in the order of arkworks, which is the reverse of gnark-crypto's.
func hashGT(g *bls12381.GT) [32]byte {
	data := g.Bytes()
	slices.Reverse(data[:])
	return sha256.Sum256(data[:])
}

func xor(a []byte, b [32]byte) []byte {
	out := make([]byte, len(b))
	for i := range out {
		out[i] = a[i] ^ b[i]
	}
	return out
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
