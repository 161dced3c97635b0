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

// LoadKey reads a signing key by its reference: the path of a key file in the Bittensor layout, plain or encrypted by
// today's btwallet, or a derivation
// path from the development phrase, such as //Alice, which everybody knows and only a development chain should see.
// A leading ~/ is the home directory. what names the key in errors, e.g. "miner.hotkey".
func LoadKey(what, ref string) (*keys.Pair, error) {
	if strings.HasPrefix(ref, "//") {
		pair, err := keys.FromURI(keys.Sr25519, ref)
		if err != nil {
			return nil, basilica.E(basilica.Invalid, "KEY_INVALID", fmt.Sprintf("%s: %.40q is not a derivation path", what, ref), "write it like //Alice or //Alice//miner").With(err)
		}
		return pair, nil
	}
	path, err := expandHome(ref)
	if err != nil {
		return nil, err
	}
	if ref == "" {
		return nil, basilica.E(basilica.Invalid, "KEY_MISSING", what+" is not set", "give the path of a key file, e.g. ~/.bittensor/wallets/default/hotkeys/default")
	}
	file, err := keys.ReadKeyfile(path, openKeyfile(path))
	if basilica.CodeOf(err) != "" {
		return nil, err
	}
	if errors.Is(err, keys.ErrEncrypted) {
		return nil, basilica.E(basilica.Invalid, "KEY_ENCRYPTION", fmt.Sprintf("%s: key file %s is encrypted in an old format", what, path), "write it anew with the official wallet of today (btcli wallet), then name it again").With(err)
	}
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "KEY_UNREADABLE", fmt.Sprintf("%s: key file %s cannot be used", what, path), "give the path of a key file that this user may read").With(err)
	}
	if file.Pair == nil {
		return nil, basilica.E(basilica.Invalid, "KEY_PUBLIC", fmt.Sprintf("%s: key file %s holds no secret", what, path), "give the key file itself, not its public part")
	}
	return file.Pair, nil
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
