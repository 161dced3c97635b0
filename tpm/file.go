package tpm

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// pemType is the PEM block of a key that a TPM sealed: the ASN.1 form that TSS libraries, OpenSSL's providers and Linux's
// trusted keys share.
const pemType = "TSS2 PRIVATE KEY"

// loadable is the OID of a key that TPM2_Load takes: 2.23.133.10.1.3.
func loadable() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3} }

// tpmKey is the TPMKey of that form. Parent is a hierarchy: the storage key is made from its seed with the TCG's template for
// P-256. The two areas are a TPM2B_PUBLIC and a TPM2B_PRIVATE.
type tpmKey struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte
	Private   []byte
}

// IsFile says whether text is the file of a key in a TPM.
func IsFile(text []byte) bool {
	block, _ := pem.Decode(text)
	return block != nil && block.Type == pemType
}

func (k *Key) encode() ([]byte, error) {
	der, err := asn1.Marshal(tpmKey{Type: loadable(), EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner), Public: tpm2.Marshal(k.public), Private: tpm2.Marshal(k.private)})
	if err != nil {
		return nil, fmt.Errorf("encode the TPM key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// parse reads a key's file: a key without a password under the owner hierarchy, of Create's kind.
func parse(text []byte) (*Key, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return nil, fmt.Errorf("no PEM block of type %s alone", pemType)
	}
	var f tpmKey
	if rest, err := asn1.Unmarshal(block.Bytes, &f); err != nil || len(rest) > 0 {
		return nil, errors.New("the TPM key's file is damaged")
	}
	if !f.Type.Equal(loadable()) || !f.EmptyAuth || f.Parent != int64(tpm2.TPMRHOwner) {
		return nil, errors.New("the TPM key has a password, another parent, or is of another kind")
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](f.Private)
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(public), f.Public) || !bytes.Equal(tpm2.Marshal(private), f.Private) {
		return nil, errors.New("the TPM key's file is damaged")
	}
	k := &Key{public: *public, private: *private}
	if k.spki, err = spkiOf(k.public); err != nil {
		return nil, err
	}
	return k, nil
}
