// Package shield seals an extrinsic for MevShield: only the author of a coming block can read it, and nobody can trade
// ahead of it. It reads no clock and no network.
package shield

import (
	"crypto/mlkem"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes in bytes.
const (
	// PublicKeySize is the length of an ML-KEM-768 public key, as storage MevShield.NextKey holds it.
	PublicKeySize = mlkem.EncapsulationKeySize768
	// KeyHashSize is the length of what names a key in a ciphertext.
	KeyHashSize = 16
	// Overhead is by how many bytes a ciphertext is longer than its plaintext.
	Overhead = KeyHashSize + 2 + mlkem.CiphertextSize768 + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
	// MaxCiphertext is the longest ciphertext that submit_encrypted takes.
	MaxCiphertext = 8192
)

// Errors of sealing and opening; they come wrapped with the reason.
var (
	ErrPublicKey  = errors.New("not an ML-KEM-768 public key")
	ErrTooLong    = errors.New("longer than MevShield takes")
	ErrOtherKey   = errors.New("sealed to another key")
	ErrCiphertext = errors.New("not a MevShield ciphertext for this key")
)

// KeyHash names a public key in ciphertexts: twox128 of it.
func KeyHash(publicKey []byte) [KeyHashSize]byte {
	var out [KeyHashSize]byte
	for seed := range uint64(2) {
		d := xxhash.NewWithSeed(seed)
		_, _ = d.Write(publicKey)
		binary.LittleEndian.PutUint64(out[8*seed:], d.Sum64())
	}
	return out
}

// Seal encrypts the full bytes of a signed extrinsic, its length in front included, to the key that the chain announced
// last. The shared secret and the nonce are fresh at each call, so no two ciphertexts are alike. Layout:
//
//	twox128(public key) 16 | u16le 1088 | ML-KEM-768 ciphertext 1088 | nonce 24 | XChaCha20-Poly1305 with its tag
//
// Errors: ErrPublicKey, ErrTooLong.
func Seal(publicKey, extrinsic []byte) ([]byte, error) {
	if len(extrinsic) > MaxCiphertext-Overhead {
		return nil, fmt.Errorf("shield: %d bytes, at most %d: %w", len(extrinsic), MaxCiphertext-Overhead, ErrTooLong)
	}
	key, err := mlkem.NewEncapsulationKey768(publicKey)
	if err != nil {
		return nil, fmt.Errorf("shield: %w: %w", err, ErrPublicKey)
	}
	secret, encapsulated := key.Encapsulate()
	aead, err := chacha20poly1305.NewX(secret)
	if err != nil {
		return nil, err
	}
	var nonce [chacha20poly1305.NonceSizeX]byte
	_, _ = rand.Read(nonce[:]) // never fails
	hash := KeyHash(publicKey)
	out := make([]byte, 0, Overhead+len(extrinsic))
	out = append(out, hash[:]...)
	out = binary.LittleEndian.AppendUint16(out, mlkem.CiphertextSize768)
	out = append(out, encapsulated...)
	out = append(out, nonce[:]...)
	return aead.Seal(out, nonce[:], extrinsic, nil), nil
}

// CheckForm looks at what can be seen without a key: the lengths. It returns the hash of the key that the ciphertext is
// sealed to. Errors: ErrCiphertext, ErrTooLong.
func CheckForm(ciphertext []byte) ([KeyHashSize]byte, error) {
	var hash [KeyHashSize]byte
	switch {
	case len(ciphertext) > MaxCiphertext:
		return hash, fmt.Errorf("shield: %d bytes: %w", len(ciphertext), ErrTooLong)
	case len(ciphertext) < Overhead:
		return hash, fmt.Errorf("shield: %d bytes, at least %d: %w", len(ciphertext), Overhead, ErrCiphertext)
	case binary.LittleEndian.Uint16(ciphertext[KeyHashSize:]) != mlkem.CiphertextSize768:
		return hash, fmt.Errorf("shield: the encapsulated key is not %d bytes long: %w", mlkem.CiphertextSize768, ErrCiphertext)
	}
	copy(hash[:], ciphertext)
	return hash, nil
}

// Open decrypts what [Seal] sealed to the key. Errors: ErrOtherKey, ErrCiphertext, ErrTooLong.
func Open(key *mlkem.DecapsulationKey768, ciphertext []byte) ([]byte, error) {
	hash, err := CheckForm(ciphertext)
	if err != nil {
		return nil, err
	}
	if hash != KeyHash(key.EncapsulationKey().Bytes()) {
		return nil, fmt.Errorf("shield: %w", ErrOtherKey)
	}
	rest := ciphertext[KeyHashSize+2:]
	secret, err := key.Decapsulate(rest[:mlkem.CiphertextSize768])
	if err != nil {
		return nil, fmt.Errorf("shield: %w: %w", err, ErrCiphertext)
	}
	aead, err := chacha20poly1305.NewX(secret)
	if err != nil {
		return nil, err
	}
	rest = rest[mlkem.CiphertextSize768:]
	plaintext, err := aead.Open(nil, rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:], nil)
	if err != nil {
		return nil, fmt.Errorf("shield: %w: %w", err, ErrCiphertext)
	}
	return plaintext, nil
}
