package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// Failures of key files that hold a secret.
var (
	// ErrPassword says that the password is not the file's, or that bytes of the file were changed: the formats cannot tell
	// the two apart.
	ErrPassword = errors.New("the password does not open the key file")
	// ErrKeyfileCut says that the file ends before its key could.
	ErrKeyfileCut = errors.New("the key file is cut short")
	// ErrKeyfileMode says that others than the owner of a secret key file may read it.
	ErrKeyfileMode = errors.New("others may read the key file")
)

// deriving lets one derivation run at a time: the dearest take 512 MiB, or 10,000,000 rounds.
var deriving sync.Mutex

// Encryption is how a key file is encrypted.
type Encryption int

// Encryptions of key files. All are read; NaCl is written.
const (
	None          Encryption = iota // not at all
	NaCl                            // today's btwallet
	AnsibleVault                    // older ones
	Fernet                          // the oldest
	PolkadotJS                      // the export of polkadot.js and its browser wallets
	encryptionEnd                   // their number
)

// String is what people call the encryption.
func (e Encryption) String() string {
	if e < 0 || e >= encryptionEnd {
		return fmt.Sprintf("encryption %d", int(e))
	}
	return [...]string{"none", "NaCl", "Ansible Vault", "Fernet", "polkadot.js"}[e]
}

// EncryptionOf tells by its beginning how the content of a key file is encrypted.
func EncryptionOf(data []byte) Encryption {
	text := strings.TrimSpace(string(data))
	switch {
	case strings.HasPrefix(string(data), naclPrefix):
		return NaCl
	case strings.HasPrefix(text, vaultPrefix):
		return AnsibleVault
	case strings.HasPrefix(text, fernetPrefix):
		return Fernet
	case encryptedExport(text):
		return PolkadotJS
	}
	return None
}

// OpenKeyfile reads the content of a key file of any encryption; the password matters only to an encrypted one. It derives
// a key once, which takes seconds and, by the encryption, up to 512 MiB; derivations of one process wait for each other.
// What a file asks for itself is bounded. It fails with ErrPassword, ErrKeyfileCut or ErrKey.
func OpenKeyfile(data, password []byte) (Keyfile, error) {
	var plain []byte
	var err error
	switch EncryptionOf(data) {
	case NaCl:
		plain, err = openNaCl(data, password)
	case AnsibleVault:
		plain, err = openVault(data, password)
	case Fernet:
		plain, err = openFernet(data, password)
	case PolkadotJS:
		return openExport(data, password)
	default:
		plain = data
	}
	if err != nil {
		return Keyfile{}, err
	}
	return ParseKeyfile(plain)
}

// ReadKeyfile reads the key file at path. The content of an encrypted one goes to open; without open that is ErrEncrypted. A
// file with a secret that others than its owner may read is ErrKeyfileMode.
func ReadKeyfile(path string, open func(sealed []byte) (Keyfile, error)) (Keyfile, error) {
	k, mode, err := readKeyfile(path, open, true)
	if err == nil && k.Pair != nil && exposed(mode) {
		return Keyfile{}, modeError(path, mode)
	}
	return k, err
}

// ImportKeyfile is ReadKeyfile for a file that comes from elsewhere, such as a browser's download: others may read it, and
// the second value says so.
func ImportKeyfile(path string, open func(sealed []byte) (Keyfile, error)) (Keyfile, bool, error) {
	k, mode, err := readKeyfile(path, open, false)
	return k, err == nil && k.Pair != nil && exposed(mode), err
}

func exposed(mode fs.FileMode) bool { return mode.Perm()&0o077 != 0 }

func modeError(path string, mode fs.FileMode) error {
	return fmt.Errorf("key file %s has mode %04o: %w", path, mode.Perm(), ErrKeyfileMode)
}

func readKeyfile(path string, open func(sealed []byte) (Keyfile, error), strict bool) (Keyfile, fs.FileMode, error) {
	data, mode, err := readBounded(path)
	if err != nil {
		return Keyfile{}, mode, err
	}
	if EncryptionOf(data) == None || open == nil {
		open = ParseKeyfile
	} else if strict && exposed(mode) {
		return Keyfile{}, mode, modeError(path, mode) // before anybody is asked for a password
	}
	k, err := open(data)
	if err != nil {
		return Keyfile{}, mode, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, mode, nil
}

// readBounded reads a whole file of at most maxKeyfile bytes, and its mode.
func readBounded(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("read key file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyfile+1))
	if err != nil {
		return nil, 0, fmt.Errorf("read key file: %w", err)
	}
	if len(data) > maxKeyfile {
		return nil, 0, fmt.Errorf("key file %s is over %d bytes: %w", path, maxKeyfile, ErrKey)
	}
	return data, st.Mode(), nil
}

// KeyfileEncryption tells how the key file at path is encrypted, without a password. None may also be no key file at all.
func KeyfileEncryption(path string) (Encryption, error) {
	data, _, err := readBounded(path)
	if err != nil {
		return None, err
	}
	return EncryptionOf(data), nil
}
