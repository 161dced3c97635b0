package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"basilica"
	"basilica/keys"
	"basilica/node"
)

// maxSecret bounds a mnemonic, seed or secret URI in bytes.
const maxSecret = 4096

type importFlags struct {
	walletFlags
	keepFlags
	file, address string
}

func importCommand() *cobra.Command {
	var f importFlags
	cmd := withJSON(&cobra.Command{
		Use:   "import coldkey | hotkey | coldkeypub",
		Short: "Bring a key from a mnemonic, a seed or another wallet's file",
		Example: `  basilica wallet import hotkey --wallet mine --hotkey miner
  basilica wallet import coldkey --wallet mine --file account.json
  basilica wallet import coldkeypub --wallet mine --address 5F…`,
		Long: `Without --file the secret is read from the terminal, unseen, or from the first line of standard
input; never from the command line, which every process of the machine may read. It is a mnemonic of
12 to 24 words, a seed or private key in hex, or a secret URI such as "MNEMONIC//hard/soft///password".
What begins with / is refused: junctions alone, such as //Alice, make a key that everybody knows.

--file takes a key file of any wallet: in clear, encrypted by the official wallet of any age, or an
account that polkadot.js or a browser's wallet exported as JSON. It stays as it is.

coldkeypub writes the public part alone, which is all that a server needs of a coldkey.`,
		ValidArgs: []string{"coldkey", "hotkey", "coldkeypub"},
		Args:      arguments(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE:      func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	})
	f.walletFlags.register(cmd, true)
	f.keepFlags.register(cmd, false, "encrypt the key file with a password; a coldkey's is unless --encrypt=false")
	cmd.Flags().StringVar(&f.file, "file", "", "key file, or account that polkadot.js exported")
	cmd.Flags().StringVar(&f.address, "address", "", "address of a coldkey, for coldkeypub")
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command, what string) error {
	w, err := f.open()
	if err != nil {
		return err
	}
	if what == "coldkeypub" {
		return f.public(cmd, w)
	}
	if f.address != "" {
		return wrongUsage(cmd, errors.New("--address has no secret: it is for coldkeypub"))
	}
	p, encrypt := coldkeyOf(w), true
	if what == "hotkey" {
		p, encrypt = hotkeyOf(w, f.hotkey), false
	}
	if cmd.Flags().Changed("encrypt") {
		encrypt = f.encrypt
	}
	if err := vacant(p.path); err != nil {
		return err // before anybody types a secret
	}
	pair, mnemonic, err := f.secret(cmd)
	if err != nil {
		return err
	}
	v, err := write(cmd, w, f.hotkey, p, pair, mnemonic, encrypt)
	if err != nil {
		return err
	}
	return say(cmd, v, false)
}

// secret gives the pair, and its mnemonic where that alone makes it.
func (f *importFlags) secret(cmd *cobra.Command) (*keys.Pair, string, error) {
	if f.file != "" {
		k, err := f.read(cmd)
		if err == nil && k.Pair == nil {
			err = basilica.E(basilica.Invalid, "KEY_PUBLIC", fmt.Sprintf("--file: key file %s holds no secret", f.file), "give the key file itself, not its public part")
		}
		return k.Pair, k.Mnemonic, err
	}
	scheme, err := schemeOf(cmd, f.scheme)
	if err != nil {
		return nil, "", err
	}
	line, err := secretLine(cmd)
	if err != nil {
		return nil, "", noSecret(err)
	}
	pair, mnemonic, err := keys.ParseSecret(scheme, line)
	if err != nil {
		return nil, "", noSecret(err)
	}
	return pair, mnemonic, nil
}

func noSecret(err error) error {
	return basilica.E(basilica.Invalid, "WALLET_SECRET", "what was given is no secret of a key",
		"give a mnemonic of 12, 15, 18, 21 or 24 words, a seed of 64 hex digits, or a secret URI, on one line").With(err)
}

func (f *importFlags) read(cmd *cobra.Command) (keys.Keyfile, error) {
	if cmd.Flags().Changed("scheme") {
		return keys.Keyfile{}, wrongUsage(cmd, errors.New("--scheme stands in the file"))
	}
	k, exposed, err := node.ImportKeyfile("--file", f.file)
	if err == nil && exposed {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "Others than its owner may read %s: chmod 600 it, or remove it once this is done.\n", f.file)
	}
	return k, err
}

// secretLine reads one line, from the terminal where that is standard input.
func secretLine(cmd *cobra.Command) (string, error) {
	in := cmd.InOrStdin()
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		answers, err := node.AskHidden(node.Terminal, "Mnemonic, seed or secret URI (unseen): ")
		if err != nil {
			return "", err
		}
		return answers[0], nil
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxSecret)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// public writes coldkeypub.txt alone.
func (f *importFlags) public(cmd *cobra.Command, w keys.Wallet) error {
	if (f.file == "") == (f.address == "") {
		return wrongUsage(cmd, errors.New("coldkeypub needs one of --address and --file"))
	}
	p := coldkeyOf(w)
	if err := vacant(p.public); err != nil {
		return err
	}
	var k keys.Keyfile
	var err error
	if f.file != "" {
		k, err = f.read(cmd)
	} else if k.Scheme, err = schemeOf(cmd, f.scheme); err == nil {
		if k.PublicKey, err = keys.DecodeSS58(f.address); err != nil {
			err = wrongUsage(cmd, fmt.Errorf("--address: %w", err))
		}
	}
	if err != nil {
		return err
	}
	if err := keys.WritePublicKeyfile(p.public, k.PublicKey, k.Scheme); err != nil {
		return notWritten(p, err)
	}
	v := made(place{"coldkeypub", "", p.public}, k.PublicKey, k.Scheme)
	return say(cmd, v, false)
}
