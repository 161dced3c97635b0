package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

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

const naclSalt = "\x13\x71\x83\xdf\xf1\x5a\x09\xbc\x9c\x90\xb5\x51\x87\x39\xe9\xb1"

// Failures of encrypted key files.
var (
	// ErrPassword says that the password is not the file's, or that bytes of the file were changed: the format cannot
	// tell the two apart.
	ErrPassword = errors.New("the password does not open the key file")
	// ErrKeyfileCut says that the file ends before its key could.
	ErrKeyfileCut = errors.New("the key file is cut short")
)

// deriving lets one derivation run at a time: each takes 512 MiB for some seconds.
var deriving sync.Mutex

// FileKey is what a password opens key files with.
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

// Open decrypts the whole content of a key file. It fails with ErrPassword or ErrKeyfileCut.
func (k *FileKey) Open(data []byte) ([]byte, error) {
	sealed, ok := strings.CutPrefix(string(data), naclPrefix)
	if !ok {
		return nil, fmt.Errorf("not a %s key file: %w", naclPrefix, ErrKey)
	}
	if len(sealed) <= naclNonce+secretbox.Overhead {
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

// ReadKeyfile reads the key file at path. For an encrypted one it asks open for the key; without open that is
// ErrEncrypted.
func ReadKeyfile(path string, open func(sealed []byte) ([]byte, error)) (Keyfile, error) {
	f, err := os.Open(path)
	if err != nil {
		return Keyfile{}, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyfile+1))
	if err != nil {
		return Keyfile{}, fmt.Errorf("read key file: %w", err)
	}
	if len(data) > maxKeyfile {
		return Keyfile{}, fmt.Errorf("key file %s is over %d bytes: %w", path, maxKeyfile, ErrKey)
	}
	if open != nil && strings.HasPrefix(string(data), naclPrefix) {
		if data, err = open(data); err != nil {
			return Keyfile{}, fmt.Errorf("key file %s: %w", path, err)
		}
	}
	k, err := ParseKeyfile(data)
	if err != nil {
		return Keyfile{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}
