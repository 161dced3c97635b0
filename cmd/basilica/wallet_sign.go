package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/node"
)

// maxMessage bounds what is signed, in bytes.
const maxMessage = 16 << 20

// signedMessage is a signature over a message.
type signedMessage struct {
	Address   string `json:"address"`
	Scheme    string `json:"scheme"`
	Signature string `json:"signature"`
	Wrapped   bool   `json:"wrapped,omitempty"` // signed inside <Bytes>…</Bytes>
}

// message is the argument, or standard input byte by byte.
func message(cmd *cobra.Command, args []string) ([]byte, error) {
	if len(args) == 1 {
		return []byte(args[0]), nil
	}
	data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	if len(data) > maxMessage {
		return nil, wrongUsage(cmd, fmt.Errorf("the message is longer than %d bytes: sign its digest", maxMessage))
	}
	return data, nil
}

// whichKey is the place that --coldkey and --hotkey choose.
func (f *walletFlags) whichKey(coldkey bool) (place, error) {
	w, err := f.open()
	if err != nil {
		return place{}, err
	}
	p := hotkeyOf(w, f.hotkey)
	if coldkey {
		p = coldkeyOf(w)
	}
	return p, nil
}

func signCommand() *cobra.Command {
	var f walletFlags
	var coldkey bool
	cmd := withJSON(&cobra.Command{
		Use:     "sign [MESSAGE]",
		Short:   "Sign a message with a hotkey or a coldkey",
		Example: `  basilica wallet sign --wallet mine --hotkey miner "I run uid 7"`,
		Long: `Signs the message, or standard input byte by byte, as it is: what the official clients sign and verify.
Signatures of sr25519 differ each time.`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.whichKey(coldkey)
			if err != nil {
				return err
			}
			text, err := message(cmd, args)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(p.path); err != nil {
				return basilica.E(basilica.NotFound, "WALLET_ABSENT", fmt.Sprintf("there is no %s %s to sign with", p.what, p.path),
					"see what there is with `basilica wallet list`, or make it with `basilica wallet new-hotkey`").With(err)
			}
			pair, err := node.LoadKey(p.what, p.path)
			if err != nil {
				return err
			}
			sig, err := pair.Sign(text)
			if err != nil {
				return err
			}
			v := signedMessage{Address: pair.SS58(), Scheme: pair.Scheme().String(), Signature: fmt.Sprintf("0x%x", sig)}
			return show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, v.Signature)
				return err
			})
		},
	})
	f.register(cmd, true)
	cmd.Flags().BoolVar(&coldkey, "coldkey", false, "sign with the wallet's coldkey")
	return cmd
}

func verifySignatureCommand() *cobra.Command {
	var f walletFlags
	var coldkey bool
	var address, signature, scheme string
	cmd := withJSON(&cobra.Command{
		Use:     "verify --signature HEX [MESSAGE]",
		Short:   "Check a signature over a message",
		Example: `  basilica wallet verify --address 5F… --signature 0x… "I run uid 7"`,
		Long: `Checks that the address signed the message, or standard input byte by byte. Without --address it is
the wallet's hotkey, or its coldkey with --coldkey. A browser's wallet signs a message inside
<Bytes>…</Bytes>: that is accepted too, as the official clients do, and said.`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := requireFlags(cmd, "signature"); err != nil {
				return err
			}
			sig, err := keys.ParseSignature(signature)
			if err != nil {
				return wrongUsage(cmd, fmt.Errorf("--signature: %w", err))
			}
			kind, err := schemeOf(cmd, scheme)
			if err != nil {
				return err
			}
			var pub [32]byte
			if address != "" {
				if pub, err = keys.DecodeSS58(address); err != nil {
					return wrongUsage(cmd, fmt.Errorf("--address: %w", err))
				}
			} else if pub, kind, err = f.signer(coldkey); err != nil {
				return err
			}
			text, err := message(cmd, args)
			if err != nil {
				return err
			}
			v := signedMessage{Address: keys.EncodeSS58(pub), Scheme: kind.String(), Signature: signature}
			switch {
			case keys.Verify(kind, pub, text, sig):
			case keys.VerifyWrapped(kind, pub, text, sig):
				v.Wrapped = true
			default:
				return basilica.E(basilica.Denied, "SIGNATURE_INVALID", fmt.Sprintf("the signature is not one of %s (%s) over this message", v.Address, v.Scheme),
					"check message, address and signature for a missing or an added character; a new line at the end counts")
			}
			return show(cmd, v, func(w io.Writer) error {
				how := ""
				if v.Wrapped {
					how = ", inside <Bytes>, as a browser's wallet signs"
				}
				_, err := fmt.Fprintf(w, "valid: signed by %s%s\n", v.Address, how)
				return err
			})
		},
	})
	f.register(cmd, true)
	cmd.Flags().BoolVar(&coldkey, "coldkey", false, "the signer is the wallet's coldkey")
	cmd.Flags().StringVar(&address, "address", "", "address of the signer; default: the wallet's hotkey")
	cmd.Flags().StringVar(&signature, "signature", "", "signature: 128 hex digits, with or without 0x")
	registerScheme(cmd, &scheme)
	return cmd
}

// signer is the key of a wallet by its public part, or by the key file where there is none.
func (f *walletFlags) signer(coldkey bool) ([32]byte, keys.Scheme, error) {
	p, err := f.whichKey(coldkey)
	if err != nil {
		return [32]byte{}, 0, err
	}
	from := p.public
	if _, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
		from = p.path
	}
	k, err := node.ReadKeyfile(p.what, from)
	return k.PublicKey, k.Scheme, err
}
