package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Wallet names the files of one wallet in the Bittensor layout: coldkey,
// coldkeypub.txt, hotkeys/<hotkey> and hotkeys/<hotkey>pub.txt under
// Root/Name.
type Wallet struct {
	Root string // directory of all wallets, e.g. ~/.bittensor/wallets
	Name string // "default" where empty
}

// Dir is the wallet's directory.
func (w Wallet) Dir() string { return filepath.Join(w.Root, orDefault(w.Name)) }

// ColdkeyPath is the path of the secret coldkey file.
func (w Wallet) ColdkeyPath() string { return filepath.Join(w.Dir(), "coldkey") }

// ColdkeyPubPath is the path of the coldkey's public part.
func (w Wallet) ColdkeyPubPath() string { return filepath.Join(w.Dir(), "coldkeypub.txt") }

// HotkeyPath is the path of a hotkey file; the empty name means "default".
func (w Wallet) HotkeyPath(hotkey string) string {
	return filepath.Join(w.Dir(), "hotkeys", orDefault(hotkey))
}

// HotkeyPubPath is the path of a hotkey's public part.
func (w Wallet) HotkeyPubPath(hotkey string) string { return w.HotkeyPath(hotkey) + pubSuffix }

const pubSuffix = "pub.txt"

func orDefault(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// Check refuses names of wallet and hotkey that would leave the wallet's directory, hide in it or read as a public part, with
// ErrKey. Empty names mean "default".
func (w Wallet) Check(hotkey string) error {
	for _, name := range []string{w.Name, hotkey} {
		bad := strings.HasPrefix(name, ".") || strings.HasSuffix(name, pubSuffix) || len(name) > 200 ||
			strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || !unicode.IsPrint(r) })
		if bad || !utf8.ValidString(name) {
			return fmt.Errorf("%.40q is no name of a wallet or hotkey: %w", name, ErrKey)
		}
	}
	return nil
}

// CreateHotkey writes a hotkey, encrypted where seal is not nil, and its public part. A file that exists is never replaced
// (fs.ErrExist); a public part of the same key may stand there already.
func (w Wallet) CreateHotkey(hotkey string, p *Pair, mnemonic string, seal func(plain []byte) []byte) error {
	if err := w.Check(hotkey); err != nil {
		return err
	}
	return createPair(w.HotkeyPath(hotkey), w.HotkeyPubPath(hotkey), p, mnemonic, seal)
}

// CreateColdkey does the same with the coldkey and coldkeypub.txt.
func (w Wallet) CreateColdkey(p *Pair, mnemonic string, seal func(plain []byte) []byte) error {
	if err := w.Check(""); err != nil {
		return err
	}
	return createPair(w.ColdkeyPath(), w.ColdkeyPubPath(), p, mnemonic, seal)
}

// createPair looks at both files before it writes one: a wallet of a server may have coldkeypub.txt alone, of another coldkey.
func createPair(path, pubPath string, p *Pair, mnemonic string, seal func(plain []byte) []byte) error {
	if err := absent(path); err != nil {
		return err
	}
	public := absent(pubPath)
	if public != nil {
		if k, err := ReadKeyfile(pubPath, nil); err != nil || k.PublicKey != p.PublicKey() {
			return public
		}
	}
	if err := WriteKeyfile(path, p, mnemonic, seal); err != nil || public != nil {
		return err
	}
	return WritePublicKeyfile(pubPath, p.PublicKey(), p.Scheme())
}

// absent is fs.ErrExist where something has that path.
func absent(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// Hotkeys lists the wallet's hotkey names in order, those too of which only the public part is here. A wallet without hotkeys
// has none.
func (w Wallet) Hotkeys() ([]string, error) {
	names, err := visible(filepath.Join(w.Dir(), "hotkeys"), false)
	for i, name := range names {
		names[i] = strings.TrimSuffix(name, pubSuffix)
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// Wallets lists the names of the wallets under a root, in order. A root that does not exist has none.
func Wallets(root string) ([]string, error) { return visible(root, true) }

// visible lists what does not begin with a dot in a directory: files, or directories.
func visible(dir string, directories bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list wallets: %w", err)
	}
	var names []string
	for _, e := range entries {
		st, err := os.Stat(filepath.Join(dir, e.Name())) // a link counts as what it leads to
		if err == nil && st.IsDir() == directories && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
