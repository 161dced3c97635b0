package keys

import (
	"crypto/rand"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/nacl/secretbox"
)

// An encrypted key file of today's btwallet is naclPrefix, a nonce of 24 bytes, and an XSalsa20-Poly1305 secretbox (tag of
// 16 bytes first) under Argon2i v1.3 of the password with libsodium's limits of ops 8 and 512 MiB and a salt that is the
// same for everybody (opentensor/btwallet, src/keyfile.rs).
const (
	naclPrefix = "$NACL"
	naclNonce  = 24
	naclPasses = 8
	naclMemory = 512 << 10 // KiB
)

// NaClMemory is what opening or writing an encrypted key file of today's btwallet takes for some seconds, in bytes.
const NaClMemory = naclMemory << 10

const naclSalt = "\x13\x71\x83\xdf\xf1\x5a\x09\xbc\x9c\x90\xb5\x51\x87\x39\xe9\xb1"

// FileKey is the key that a password gives for today's encryption of key files.
type FileKey [32]byte

// DeriveFileKey turns a password into a key. It takes some seconds and 512 MiB; derivations of one process wait for each
// other.
func DeriveFileKey(password []byte) *FileKey {
	deriving.Lock()
	defer deriving.Unlock()
	var k FileKey
	copy(k[:], argon2.Key(password, []byte(naclSalt), naclPasses, naclMemory, 1, uint32(len(k))))
	return &k
}

func openNaCl(data, password []byte) ([]byte, error) {
	if naclCut(data) {
		return nil, ErrKeyfileCut // before the derivation
	}
	return DeriveFileKey(password).open(data)
}

// naclCut tells that data, which begins with naclPrefix, is too short for a secret.
func naclCut(data []byte) bool { return len(data) <= len(naclPrefix)+naclNonce+secretbox.Overhead }

// open decrypts the whole content of a key file. It fails with ErrPassword or ErrKeyfileCut.
func (k *FileKey) open(data []byte) ([]byte, error) {
	sealed, ok := strings.CutPrefix(string(data), naclPrefix)
	if !ok {
		return nil, fmt.Errorf("not a %s key file: %w", naclPrefix, ErrKey)
	}
	if naclCut(data) {
		return nil, ErrKeyfileCut
	}
	plain, ok := secretbox.Open(nil, []byte(sealed[naclNonce:]), (*[naclNonce]byte)([]byte(sealed[:naclNonce])), (*[32]byte)(k))
	if !ok {
		return nil, ErrPassword
	}
	return plain, nil
}

// Seal encrypts the content of a key file.
func (k *FileKey) Seal(plain []byte) []byte {
	var nonce [naclNonce]byte
	_, _ = rand.Read(nonce[:]) // never fails (crypto/rand)
	return secretbox.Seal(append([]byte(naclPrefix), nonce[:]...), plain, &nonce, (*[32]byte)(k))
}
