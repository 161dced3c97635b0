package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/node"
)

func walletCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wallet",
		Short: "Make, import, show and use keys",
		Long: `Keeps keys in the layout and the formats of the official Bittensor wallet, so that each reads the
other's files:

  PATH/WALLET/coldkey                 owns the funds; encrypted; belongs on no server
  PATH/WALLET/coldkeypub.txt          its public part
  PATH/WALLET/hotkeys/HOTKEY          signs for a miner, validator or client; in clear unless --encrypt
  PATH/WALLET/hotkeys/HOTKEYpub.txt   its public part

The password of a key file comes from BT_PW_ and its path (plain, or as the official tools store it),
from BT_WALLET_PASSWORD, from the file that BT_WALLET_PASSWORD_FILE names, or from the terminal.
No file is ever overwritten.`,
		Args: arguments(cobra.NoArgs),
	}
	cmd.AddCommand(newColdkeyCommand(), newHotkeyCommand(), importCommand(), showWalletCommand(), listWalletsCommand(), signCommand(), verifySignatureCommand())
	return cmd
}

// walletFlags name a wallet as the official tools do: by flags, else by their variables.
type walletFlags struct{ path, wallet, hotkey string }

func (f *walletFlags) register(cmd *cobra.Command, hotkeyToo bool) {
	f.registerPath(cmd)
	cmd.Flags().StringVar(&f.wallet, "wallet", firstOf("default", "BT_WALLET", "BT_WALLET_NAME"), "name of the wallet; also $BT_WALLET or $BT_WALLET_NAME")
	if hotkeyToo {
		cmd.Flags().StringVar(&f.hotkey, "hotkey", firstOf("default", "BT_WALLET_HOTKEY"), "name of the hotkey; also $BT_WALLET_HOTKEY")
	}
}

func (f *walletFlags) registerPath(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "path", firstOf("~/.bittensor/wallets", "BT_WALLET_PATH"), "directory of the wallets; also $BT_WALLET_PATH")
}

// firstOf gives the value of the first variable that is set.
func firstOf(otherwise string, variables ...string) string {
	for _, name := range variables {
		if value := os.Getenv(name); value != "" {
			return value
		}
	}
	return otherwise
}

func (f *walletFlags) open() (keys.Wallet, error) { return node.OpenWallet(f.path, f.wallet, f.hotkey) }

// place is where one key of a wallet stands.
type place struct {
	what         string // "coldkey" or "hotkey"
	path, public string
}

func coldkeyOf(w keys.Wallet) place { return place{"coldkey", w.ColdkeyPath(), w.ColdkeyPubPath()} }

func hotkeyOf(w keys.Wallet, name string) place {
	return place{"hotkey", w.HotkeyPath(name), w.HotkeyPubPath(name)}
}

// madeKey is what a verb says of a key that it wrote.
type madeKey struct {
	Key        string `json:"key"`
	Address    string `json:"address"`
	PublicKey  string `json:"public_key"`
	Scheme     string `json:"scheme"`
	File       string `json:"file,omitempty"`
	Public     string `json:"public_file"`
	Encryption string `json:"encryption,omitempty"`
	Mnemonic   string `json:"mnemonic,omitempty"`
}

// made describes a key at its place.
func made(p place, pub [32]byte, scheme keys.Scheme) madeKey {
	return madeKey{Key: p.what, Address: keys.EncodeSS58(pub), PublicKey: fmt.Sprintf("0x%x", pub), Scheme: scheme.String(), File: p.path, Public: p.public}
}

// write puts a key at its place, encrypted where that is wanted. The password is asked for only once it is known that nothing
// stands there.
func write(cmd *cobra.Command, w keys.Wallet, hotkey string, p place, pair *keys.Pair, mnemonic string, encrypt bool) (madeKey, error) {
	v := made(p, pair.PublicKey(), pair.Scheme())
	if err := vacant(p.path); err != nil {
		return v, err
	}
	encryption, seal := keys.None, (func([]byte) []byte)(nil)
	if encrypt {
		word, err := node.NewPassword(p.path, cmd.ErrOrStderr())
		if err != nil {
			return v, err
		}
		encryption, seal = keys.NaCl, keys.DeriveFileKey(word).Seal
	}
	v.Encryption = encryption.String()
	if p.what == "hotkey" {
		return v, notWritten(p, w.CreateHotkey(hotkey, pair, mnemonic, seal))
	}
	return v, notWritten(p, w.CreateColdkey(pair, mnemonic, seal))
}

// vacant refuses a path at which something stands, or that cannot be looked at.
func vacant(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return basilica.E(basilica.Conflict, "KEY_EXISTS", fmt.Sprintf("there is a key file %s already, and none is ever replaced", path),
			"take another name with --wallet or --hotkey, or move the old file away if its key is backed up")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return unwritten(path, err)
	}
	return nil
}

func unwritten(path string, err error) error {
	return basilica.E(basilica.Invalid, "KEY_UNWRITTEN", "the key file "+path+" cannot be written", "give a directory that this user may write with --path").With(err)
}

func notWritten(p place, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		if err := vacant(p.path); err != nil {
			return err
		}
		return basilica.E(basilica.Conflict, "KEY_EXISTS", fmt.Sprintf("%s is of another key, and no file is ever replaced", p.public),
			"take another name with --wallet or --hotkey, or move the old file away if its key is backed up")
	}
	return unwritten(p.path, err)
}

// say prints what was written. The mnemonic is shown to a terminal, and to the program that asks for JSON: never to a pipe or a
// file that somebody forgot about.
func say(cmd *cobra.Command, v madeKey, fresh bool) error {
	screen, onTerminal := cmd.OutOrStdout().(*screen)
	if !asJSON(cmd) && fresh && !onTerminal {
		if _, err := fmt.Fprintln(cmd.ErrOrStderr(), "The mnemonic is not shown, for this is no terminal. The key file holds it; copy that to your backup."); err != nil {
			return err
		}
	}
	return show(cmd, v, func(w io.Writer) error {
		if _, err := fmt.Fprintf(w, "%s %s\n", v.Key, v.Address); err != nil {
			return err
		}
		if v.File != "" {
			how := "in clear, mode 0600"
			if v.Encryption != keys.None.String() {
				how = "encrypted"
			}
			if _, err := fmt.Fprintf(w, "  %s (%s)\n", v.File, how); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "  %s\n", v.Public); err != nil || !fresh || !onTerminal {
			return err
		}
		_, err := fmt.Fprintf(screen, `
Write these words down where no computer reads them. Whoever has them has the key; if file or
password is lost, only they bring it back (basilica wallet import). They are not shown again.

  %s
`, v.Mnemonic)
		return err
	})
}

// newFlags are those of verbs that make a key.
type newFlags struct {
	walletFlags
	keepFlags
	words int
}

// keepFlags say how a key is kept.
type keepFlags struct {
	encrypt bool
	scheme  string
}

func (f *keepFlags) register(cmd *cobra.Command, encrypt bool, says string) {
	cmd.Flags().BoolVar(&f.encrypt, "encrypt", encrypt, says)
	registerScheme(cmd, &f.scheme)
}

func registerScheme(cmd *cobra.Command, scheme *string) {
	cmd.Flags().StringVar(scheme, "scheme", keys.Sr25519.String(), "sr25519 or ed25519")
}

func schemeOf(cmd *cobra.Command, name string) (keys.Scheme, error) {
	for _, s := range []keys.Scheme{keys.Sr25519, keys.Ed25519} {
		if name == s.String() {
			return s, nil
		}
	}
	return 0, wrongUsage(cmd, fmt.Errorf("--scheme %.20q is neither sr25519 nor ed25519", name))
}

func newColdkeyCommand() *cobra.Command {
	var f newFlags
	cmd := withJSON(&cobra.Command{
		Use:     "new-coldkey",
		Short:   "Make a coldkey, which owns funds",
		Example: "  basilica wallet new-coldkey --wallet mine",
		Long: `Makes a coldkey and shows its mnemonic once, on a terminal. With --json the mnemonic is part of what
is printed. The file is encrypted unless --encrypt=false. Do it on a machine that you trust, and take
only coldkeypub.txt to servers: no role of Basilica needs the coldkey.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.make(cmd, false) },
	})
	f.walletFlags.register(cmd, false)
	f.keepFlags.register(cmd, true, "encrypt the key file with a password")
	registerWords(cmd, &f.words)
	return cmd
}

func newHotkeyCommand() *cobra.Command {
	var f newFlags
	cmd := withJSON(&cobra.Command{
		Use:     "new-hotkey",
		Short:   "Make a hotkey, which signs for a role or a client",
		Example: "  basilica wallet new-hotkey --wallet mine --hotkey miner",
		Long: `Makes a hotkey and shows its mnemonic once, on a terminal. With --json the mnemonic is part of what
is printed. The file stands in clear, as the official wallet has it, unless --encrypt.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.make(cmd, true) },
	})
	f.walletFlags.register(cmd, true)
	f.keepFlags.register(cmd, false, "encrypt the key file with a password; who starts a role with it gives the password then")
	registerWords(cmd, &f.words)
	return cmd
}

func registerWords(cmd *cobra.Command, words *int) {
	cmd.Flags().IntVar(words, "words", 12, "words of the mnemonic: 12, 15, 18, 21 or 24")
}

func (f *newFlags) make(cmd *cobra.Command, hot bool) error {
	scheme, err := schemeOf(cmd, f.scheme)
	if err != nil {
		return err
	}
	w, err := f.open()
	if err != nil {
		return err
	}
	mnemonic, err := keys.NewMnemonic(f.words)
	if err != nil {
		return wrongUsage(cmd, fmt.Errorf("--words: %w", err))
	}
	pair, err := keys.FromMnemonic(scheme, mnemonic, "")
	if err != nil {
		return err
	}
	p := coldkeyOf(w)
	if hot {
		p = hotkeyOf(w, f.hotkey)
	}
	v, err := write(cmd, w, f.hotkey, p, pair, mnemonic, f.encrypt)
	if err != nil {
		return err
	}
	v.Mnemonic = mnemonic
	return say(cmd, v, true)
}
