package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/keys"
	"basilica/tpm"
)

// maxRotation bounds the endorsement that rotate reads, in bytes.
const maxRotation = 64 << 10

// attestKey is the key that evidence is signed with: *keys.P256 or *tpm.Key.
type attestKey interface {
	SPKI() []byte
	Sign(msg []byte) ([]byte, error)
}

// kindOf says where a key lives.
func kindOf(k attestKey) attestor.KeyKind {
	if _, sealed := k.(*tpm.Key); sealed {
		return attestor.KeyTPM
	}
	return attestor.KeyFile
}

// quoter gives the TPM's word on a transcript; nil for a key in a file.
func quoter(k attestKey) func(attest.Digest) ([]byte, error) {
	sealed, ok := k.(*tpm.Key)
	if !ok {
		return nil
	}
	return func(transcript attest.Digest) ([]byte, error) { return sealed.Quote(transcript[:]) }
}

func keyError(err error) error {
	fix := "give the file with --key or " + attestor.EnvKey
	switch {
	case basilica.CodeOf(err) != "":
		return err // the TPM's own
	case errors.Is(err, fs.ErrExist):
		return basilica.E(basilica.Conflict, "ATTEST_KEY_EXISTS", "the attestation key exists already", "keep it, or move the file away to make another identity").With(err)
	case errors.Is(err, fs.ErrNotExist):
		fix = "put the file back where it was; a machine that has had none makes it with: gpu-attestor keygen --key FILE"
	}
	return basilica.E(basilica.Invalid, "ATTEST_KEY", "the attestation key cannot be used", fix).With(err)
}

// createKey makes the key where --key-kind says.
func (o *options) createKey() (k attestKey, err error) {
	if o.key == "" {
		return nil, keyError(errNoKey)
	}
	switch attestor.KeyKind(o.keyKind) {
	case attestor.KeyTPM:
		k, err = tpm.Create(o.tpm, o.key)
	case attestor.KeyFile:
		k, err = keys.CreateP256(o.key)
	default:
		err = fmt.Errorf("%.20q is no kind of key: file or tpm", o.keyKind)
	}
	if err != nil {
		return nil, keyError(err)
	}
	return k, nil
}

// firstKey is loadKey at the first start of an executor, when the key is made.
func (o *options) firstKey() (attestKey, error) {
	if o.key != "" {
		if _, err := os.Lstat(o.key); errors.Is(err, fs.ErrNotExist) {
			return o.createKey()
		}
	}
	return o.loadKey()
}

// loadKey reads the key, whichever kind its file is of. Where the file was moved away no other key takes its place: a proof under
// a key that nobody endorsed is a false claim.
func (o *options) loadKey() (k attestKey, err error) {
	if o.key == "" {
		return nil, keyError(errNoKey)
	}
	text, err := keys.ReadSecret(o.key)
	switch {
	case err != nil:
	case tpm.IsFile(text):
		k, err = tpm.Load(o.tpm, o.key)
	default:
		k, err = keys.LoadP256(o.key)
	}
	if err != nil {
		return nil, keyError(err)
	}
	return k, nil
}

func keygenCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "keygen", Short: "Make the attestation key (P-256, file mode 0600)", Args: cobra.NoArgs,
		Long: `Make the attestation key (P-256, file mode 0600). With --key-kind tpm the key lives in the TPM and the file holds it sealed
to that TPM: a copy of the file is of no use elsewhere.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := o.createKey()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%x\n", key.SPKI())
			return err
		},
	}
}

func rotateCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Sign, with this key, the endorsement of the key that takes its place", Args: cobra.NoArgs,
		Long: `Read the endorsement (JSON) of the attestation key that takes this one's place on stdin, and print this key's signature as JSON.
Nothing else is signed. basilica executor rekey starts this.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			payload, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxRotation+1))
			if err != nil {
				return fmt.Errorf("read the endorsement: %w", err)
			}
			key, err := o.loadKey()
			if err != nil {
				return err
			}
			sig, err := basilica.SignRotation(payload, key.SPKI(), key.Sign)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(attestor.RotationSignature{Signature: sig})
		},
	}
}

var errNoKey = errors.New("no key file was named")
