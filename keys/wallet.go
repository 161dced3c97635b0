package keys

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
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

func orDefault(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// checkName refuses names that would leave the wallet's directory.
func checkName(name string) error {
	if name == "." || name == ".." || strings.ContainsAny(name, "/\\\x00") {
		return fmt.Errorf("wallet or hotkey name %q: %w", name, ErrKey)
	}
	return nil
}

// Hotkey reads the pair of a hotkey.
func (w Wallet) Hotkey(hotkey string) (*Pair, error) {
	if err := checkName(orDefault(hotkey)); err != nil {
		return nil, err
	}
	return readPair(w.HotkeyPath(hotkey))
}

// Coldkey reads the pair of a plain (unencrypted) coldkey.
func (w Wallet) Coldkey() (*Pair, error) { return readPair(w.ColdkeyPath()) }

func readPair(path string) (*Pair, error) {
	k, err := ReadKeyfile(path, nil)
	if err != nil {
		return nil, err
	}
	if k.Pair == nil {
		return nil, fmt.Errorf("key file %s holds only a public key: %w", path, ErrKey)
	}
	return k.Pair, nil
}

// ColdkeyPub reads the coldkey's public key from coldkeypub.txt.
func (w Wallet) ColdkeyPub() ([32]byte, error) {
	k, err := ReadKeyfile(w.ColdkeyPubPath(), nil)
	return k.PublicKey, err
}

// CreateHotkey writes a hotkey and its public part; files that exist are kept
// and are an error.
func (w Wallet) CreateHotkey(hotkey string, p *Pair, mnemonic string) error {
	if err := checkName(orDefault(hotkey)); err != nil {
		return err
	}
	path := w.HotkeyPath(hotkey)
	if err := WriteKeyfile(path, p, mnemonic, nil); err != nil {
		return err
	}
	return WritePublicKeyfile(path+"pub.txt", p.PublicKey(), p.Scheme())
}

// CreateColdkey writes a plain coldkey and coldkeypub.txt; files that exist
// are kept and are an error.
func (w Wallet) CreateColdkey(p *Pair, mnemonic string) error {
	if err := checkName(orDefault(w.Name)); err != nil {
		return err
	}
	if err := WriteKeyfile(w.ColdkeyPath(), p, mnemonic, nil); err != nil {
		return err
	}
	return WritePublicKeyfile(w.ColdkeyPubPath(), p.PublicKey(), p.Scheme())
}

// Hotkeys lists the wallet's hotkey names in order.
func (w Wallet) Hotkeys() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(w.Dir(), "hotkeys"))
	if err != nil {
		return nil, fmt.Errorf("list hotkeys: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasSuffix(e.Name(), "pub.txt") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}
