package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/node"
)

// keyState is what is known of a key without its password.
type keyState struct {
	Wallet     string `json:"wallet"`
	Key        string `json:"key"`              // coldkey or hotkey
	Hotkey     string `json:"hotkey,omitempty"` // its name
	Address    string `json:"address,omitempty"`
	PublicKey  string `json:"public_key,omitempty"`
	Scheme     string `json:"scheme,omitempty"`
	File       string `json:"file"`
	Secret     bool   `json:"secret"` // the secret is on this machine
	Encryption string `json:"encryption,omitempty"`
	Problem    string `json:"problem,omitempty"`
}

// look reads what stands at a place, without a password.
func look(wallet, hotkey string, p place) keyState {
	s := keyState{Wallet: wallet, Key: p.what, Hotkey: hotkey, File: p.path}
	k, err := keys.ReadKeyfile(p.public, nil)
	encryption, serr := keys.KeyfileEncryption(p.path)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
	case serr != nil:
		s.Problem = serr.Error()
	default:
		s.Secret, s.Encryption = true, encryption.String()
	}
	if s.Secret && encryption == keys.None {
		secret, rerr := keys.ReadKeyfile(p.path, nil)
		switch {
		case rerr != nil:
			s.Problem = rerr.Error()
		case secret.Pair == nil:
			s.Problem = "the key file holds no secret"
		case err == nil && secret.PublicKey != k.PublicKey:
			s.Problem = fmt.Sprintf("the key file is of %s", secret.SS58())
		}
		if errors.Is(err, fs.ErrNotExist) {
			k, err = secret, rerr
		}
	}
	if err == nil {
		s.Address, s.PublicKey, s.Scheme = k.SS58(), fmt.Sprintf("0x%x", k.PublicKey), k.Scheme.String()
	} else if !errors.Is(err, fs.ErrNotExist) && s.Problem == "" {
		s.Problem = err.Error()
	}
	return s
}

// words says what stands at the place, for a table.
func (s keyState) words() string {
	switch {
	case s.Problem != "":
		return s.Problem
	case !s.Secret:
		return "public part alone"
	case s.Encryption == keys.None.String():
		return "in clear"
	}
	return "encrypted: " + s.Encryption
}

// address says which key it is, as far as that is known.
func (s keyState) address() string {
	if s.Address == "" {
		return "unknown without the password"
	}
	return s.Address
}

// states looks at all keys of a wallet that are there.
func states(root, wallet string) ([]keyState, error) {
	w := keys.Wallet{Root: root, Name: wallet}
	var all []keyState
	if s := look(wallet, "", coldkeyOf(w)); s.Secret || s.Address != "" || s.Problem != "" {
		all = append(all, s)
	}
	hotkeys, err := w.Hotkeys()
	for _, name := range hotkeys {
		all = append(all, look(wallet, name, hotkeyOf(w, name)))
	}
	return all, err
}

func listWalletsCommand() *cobra.Command {
	var f walletFlags
	cmd := withJSON(&cobra.Command{
		Use:     "list",
		Short:   "List the wallets and their keys",
		Example: "  basilica wallet list",
		Long:    `Lists every key of every wallet under --path. It asks for no password.`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := f.open()
			if err != nil {
				return err
			}
			names, err := keys.Wallets(w.Root)
			if err != nil {
				return unreadable(w.Root, err)
			}
			all := []keyState{}
			for _, name := range names {
				its, err := states(w.Root, name)
				if err != nil {
					return unreadable(w.Root, err)
				}
				all = append(all, its...)
			}
			return show(cmd, all, func(out io.Writer) error {
				if len(all) == 0 {
					_, err := fmt.Fprintf(out, "no wallets under %s; make one with `basilica wallet new-coldkey`\n", w.Root)
					return err
				}
				t := newTable(out, "WALLET", "KEY", "ADDRESS", "KEY FILE")
				for _, s := range all {
					key := s.Key
					if s.Hotkey != "" {
						key += " " + s.Hotkey
					}
					t.AppendRow(line(s.Wallet, key, s.address(), s.words()))
				}
				t.Render()
				return nil
			})
		},
	})
	f.registerPath(cmd)
	return cmd
}

func unreadable(root string, err error) error {
	return basilica.E(basilica.Invalid, "WALLET_ABSENT", "the wallets under "+root+" cannot be read", "give their directory with --path").With(err)
}

func showWalletCommand() *cobra.Command {
	var f walletFlags
	cmd := withJSON(&cobra.Command{
		Use:     "show",
		Short:   "Show a wallet's coldkey and one of its hotkeys",
		Example: "  basilica wallet show --wallet mine --hotkey miner",
		Long:    `Shows addresses, public keys and files. It asks for no password and shows no secret.`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := f.open()
			if err != nil {
				return err
			}
			cold, hot := look(f.wallet, "", coldkeyOf(w)), look(f.wallet, f.hotkey, hotkeyOf(w, f.hotkey))
			var found []keyState
			for _, s := range []keyState{cold, hot} {
				if s.Problem != "" {
					// Read again as a verb that needs the key does, for its sentence and its next step.
					if _, err := node.ReadKeyfile(s.Key, s.File); err != nil {
						return err
					}
				}
				if s.Secret || s.Address != "" || s.Problem != "" {
					found = append(found, s)
				}
			}
			if len(found) == 0 {
				return absent(w, f.hotkey)
			}
			return show(cmd, found, func(out io.Writer) error {
				for _, s := range found {
					if _, err := fmt.Fprintf(out, "%-10s %s\n%-10s %s, %s\n%-10s %s (%s)\n", s.Key, s.address(), "", s.PublicKey, s.Scheme, "", s.File, s.words()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
	f.register(cmd, true)
	return cmd
}

func absent(w keys.Wallet, hotkey string) error {
	return basilica.E(basilica.NotFound, "WALLET_ABSENT", fmt.Sprintf("there is no key in the wallet %s, hotkey %s", w.Dir(), hotkey),
		"see what there is with `basilica wallet list`, or make it with `basilica wallet new-hotkey`")
}
