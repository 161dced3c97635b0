package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"basilica"
	"basilica/keys"
)

// LoadKey reads a signing key by its reference: the path of a key file of any format that ReadKeyfile knows, or a derivation path
// from the development phrase, such as //Alice, which everybody knows and only a development chain should see.
// A leading ~/ is the home directory. what names the key in errors, e.g. "miner.hotkey".
func LoadKey(what, ref string) (*keys.Pair, error) {
	if strings.HasPrefix(ref, "//") {
		pair, err := keys.FromURI(keys.Sr25519, ref)
		if err != nil {
			return nil, basilica.E(basilica.Invalid, "KEY_INVALID", fmt.Sprintf("%s: %.40q is not a derivation path", what, ref), "write it like //Alice or //Alice//miner").With(err)
		}
		return pair, nil
	}
	if ref == "" {
		return nil, basilica.E(basilica.Invalid, "KEY_MISSING", what+" is not set", "give the path of a key file, e.g. ~/.bittensor/wallets/default/hotkeys/default")
	}
	file, err := ReadKeyfile(what, ref)
	if err != nil {
		return nil, err
	}
	if file.Pair == nil {
		return nil, basilica.E(basilica.Invalid, "KEY_PUBLIC", fmt.Sprintf("%s: key file %s holds no secret", what, ref), "give the key file itself, not its public part")
	}
	return file.Pair, nil
}

// ReadKeyfile reads the key file at path: of any format of keys.OpenKeyfile, secret or public. The password of an encrypted one
// comes from its variables or from the terminal. A leading ~/ is the home directory. what names the key in errors.
func ReadKeyfile(what, path string) (keys.Keyfile, error) {
	path, err := expandHome(path)
	if err != nil {
		return keys.Keyfile{}, err
	}
	k, err := keys.ReadKeyfile(path, openKeyfile(path))
	return k, keyfileError(what, path, err)
}

// ImportKeyfile does the same with a file from elsewhere, such as a browser's download. The second value says that others than
// its owner may read it, which only ReadKeyfile refuses.
func ImportKeyfile(what, path string) (keys.Keyfile, bool, error) {
	k, exposed, err := keys.ImportKeyfile(path, openKeyfile(path))
	return k, exposed, keyfileError(what, path, err)
}

func keyfileError(what, path string, err error) error {
	var said *basilica.Error // by who asked for the password; it names the file
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said):
		return said
	case errors.Is(err, keys.ErrKeyfileMode):
		return basilica.E(basilica.Denied, "KEY_MODE", fmt.Sprintf("%s: others than its owner may read the key file %s", what, path), "chmod 600 "+path).With(err)
	case errors.Is(err, keys.ErrKeyfileCut):
		return basilica.E(basilica.Invalid, "KEY_CUT", fmt.Sprintf("%s: the key file %s is cut short", what, path), "take a whole copy from your backup; nothing was changed here").With(err)
	}
	return basilica.E(basilica.Invalid, "KEY_UNREADABLE", fmt.Sprintf("%s: key file %s cannot be used", what, path), "give the path of a key file that this user may read").With(err)
}

// OpenWallet names a wallet under root, where a leading ~/ is the home directory, and refuses names of wallet and hotkey that are
// no file's. It reads nothing.
func OpenWallet(root, name, hotkey string) (keys.Wallet, error) {
	root, err := expandHome(root)
	if err != nil {
		return keys.Wallet{}, err
	}
	w := keys.Wallet{Root: root, Name: name}
	if err := w.Check(hotkey); err != nil {
		return w, basilica.E(basilica.Invalid, "WALLET_NAME", fmt.Sprintf("wallet %.40q with hotkey %.40q is not a name in the wallets' directory", name, hotkey),
			"use a name without / and without a dot first; another directory is --path").With(err)
	}
	return w, nil
}

// expandHome makes a leading ~/ the home directory.
func expandHome(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find home directory for %s: %w", path, err)
	}
	return filepath.Join(home, rest), nil
}
