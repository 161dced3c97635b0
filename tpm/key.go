// Package tpm keeps an attestation key in a TPM 2.0: it makes the key there, signs with it and quotes. It refuses to know
// what is signed. A key never leaves its TPM; its file holds it sealed to that TPM.
package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"basilica"
	"basilica/keys"
)

// maxPart is how many bytes a TPM hashes in one command: every TPM takes 1,024.
const maxPart = 1024

// Key is a P-256 key that lives in a TPM. It is a restricted one: it signs only what that TPM hashed or said itself, so
// that a structure which begins like a TPM's own word and is signed by it is the TPM's own word. One key signs evidence and
// quotes, so that nothing has to tie two keys together.
//
// No command leaves anything in the TPM, which holds three loaded objects at most: each loads the key anew. Safe for
// concurrent use as far as the device is.
type Key struct {
	path    string // of the device
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
	spki    []byte
}

// template is the key that Create asks for. It is outside of the dictionary-attack protection: it has no password that
// could be guessed, and another program's wrong guesses must not stop a proof.
func template() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
	}
}

// Create makes a key in the TPM at path and writes its file (mode 0600). A file that is there already is fs.ErrExist.
func Create(path, file string) (*Key, error) {
	k := &Key{path: path}
	err := k.with(func(t *device, parent tpm2.NamedHandle) error {
		made, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template())}.Execute(t)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		k.public, k.private = made.OutPublic, made.OutPrivate
		return nil
	})
	if err != nil {
		return nil, err
	}
	if k.spki, err = spkiOf(k.public); err != nil {
		return nil, err
	}
	text, err := k.encode()
	if err != nil {
		return nil, err
	}
	if err := keys.CreateSecret(file, text); err != nil {
		return nil, fmt.Errorf("write the TPM key's file: %w", err)
	}
	return k, nil
}

// Load reads a key's file and has the TPM at path take it. A file that others may read is refused; a key of another TPM
// is TPM_KEY_FOREIGN.
func Load(path, file string) (*Key, error) {
	text, err := keys.ReadSecret(file)
	if err != nil {
		return nil, fmt.Errorf("read the TPM key's file: %w", err)
	}
	k, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	k.path = path
	return k, k.loaded(func(*device, tpm2.NamedHandle) error { return nil })
}

// LoadOrCreate loads the key of a file, or makes one where no file is.
func LoadOrCreate(path, file string) (*Key, error) {
	k, err := Load(path, file)
	if errors.Is(err, fs.ErrNotExist) && basilica.CodeOf(err) == "" {
		return Create(path, file)
	}
	return k, err
}

// SPKI is the DER SubjectPublicKeyInfo of the key: the name by which others pin it.
func (k *Key) SPKI() []byte { return bytes.Clone(k.spki) }

// Sign returns r | s (64 bytes, big-endian, low s) over the SHA-256 of msg, which the TPM computes itself. The TPM refuses
// what begins like its own word, and what is shorter than such a beginning (4 bytes).
func (k *Key) Sign(msg []byte) (sig []byte, err error) {
	err = k.loaded(func(t *device, key tpm2.NamedHandle) error {
		digest, ticket, err := t.hash(msg)
		if err != nil {
			return err
		}
		signed, err := tpm2.Sign{KeyHandle: key, Digest: digest, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, Validation: ticket}.Execute(t)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		sig, err = raw(&signed.Signature)
		return err
	})
	return sig, err
}

// Quote has the TPM say that nonce was shown to it, with the state of its platform (PCRs 0 to 7, SHA-256), under this key:
// a TPM2B_ATTEST as the TPM gives it, then r | s. attest.VerifyTPMQuote checks it.
func (k *Key) Quote(nonce []byte) (quote []byte, err error) {
	err = k.loaded(func(t *device, key tpm2.NamedHandle) error {
		said, err := tpm2.Quote{
			SignHandle: key, QualifyingData: tpm2.TPM2BData{Buffer: nonce}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7)}}},
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("quote: %w", err)
		}
		sig, err := raw(&said.Signature)
		quote = append(tpm2.Marshal(said.Quoted), sig...)
		return err
	})
	return quote, err
}

// hash has the TPM compute a SHA-256 and vouch that it did: a restricted key signs nothing else.
func (d *device) hash(msg []byte) (tpm2.TPM2BDigest, tpm2.TPMTTKHashCheck, error) {
	fail := func(err error) (tpm2.TPM2BDigest, tpm2.TPMTTKHashCheck, error) {
		return tpm2.TPM2BDigest{}, tpm2.TPMTTKHashCheck{}, fmt.Errorf("hash: %w", err)
	}
	begun, err := tpm2.HashSequenceStart{HashAlg: tpm2.TPMAlgSHA256}.Execute(d)
	if err != nil {
		return fail(err)
	}
	sequence := tpm2.AuthHandle{Handle: begun.SequenceHandle, Auth: tpm2.PasswordAuth(nil)}
	for ; len(msg) > maxPart; msg = msg[maxPart:] {
		if _, err := (tpm2.SequenceUpdate{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: msg[:maxPart]}}).Execute(d); err != nil {
			return fail(errors.Join(err, d.flush(begun.SequenceHandle)))
		}
	}
	done, err := tpm2.SequenceComplete{SequenceHandle: sequence, Buffer: tpm2.TPM2BMaxBuffer{Buffer: msg}, Hierarchy: tpm2.TPMRHOwner}.Execute(d)
	if err != nil {
		return fail(errors.Join(err, d.flush(begun.SequenceHandle)))
	}
	return done.Result, done.Validation, nil // the sequence is gone with its result
}

// with opens the TPM and gives f the storage key that keys hang below: it is made anew from the TPM's seed, always the
// same, and gone afterwards.
func (k *Key) with(f func(t *device, parent tpm2.NamedHandle) error) (err error) {
	t, err := open(k.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return basilica.E(basilica.Denied, "TPM_OWNER_AUTH", fmt.Sprintf("the owner hierarchy of the TPM at %s has a password", k.path),
			`clear it (tpm2_changeauth -c owner -p OLD), or set executor.attestation_key = "file"`).With(err)
	}
	if err != nil {
		return t.coded(fmt.Errorf("make the storage key: %w", err))
	}
	defer func() { err = errors.Join(err, t.flush(made.ObjectHandle)) }()
	return t.coded(f(t, tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}))
}

// loaded gives f the key, loaded.
func (k *Key) loaded(f func(t *device, key tpm2.NamedHandle) error) error {
	return k.with(func(t *device, parent tpm2.NamedHandle) (err error) {
		l, err := tpm2.Load{ParentHandle: parent, InPrivate: k.private, InPublic: k.public}.Execute(t)
		if errors.Is(err, tpm2.TPMRCIntegrity) || errors.Is(err, tpm2.TPMRCBinding) {
			return basilica.E(basilica.Invalid, "TPM_KEY_FOREIGN", fmt.Sprintf("the TPM at %s did not make this key", k.path),
				"put back the key file of this machine; where its TPM was replaced or cleared, the key is gone: join again with another data directory").With(err)
		}
		if err != nil {
			return fmt.Errorf("load the key: %w", err)
		}
		defer func() { err = errors.Join(err, t.flush(l.ObjectHandle)) }()
		return f(t, tpm2.NamedHandle{Handle: l.ObjectHandle, Name: l.Name})
	})
}

// flush frees a slot of the TPM.
func (d *device) flush(h tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(d); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// coded gives what a TPM refuses the form in which a person meets it.
func (d *device) coded(err error) error {
	var rc tpm2.TPMRC
	switch {
	case err == nil || basilica.CodeOf(err) != "":
		return err
	case errors.Is(err, tpm2.TPMRCLockout):
		return basilica.E(basilica.Unavailable, "TPM_LOCKOUT", fmt.Sprintf("the TPM at %s is locked after wrong passwords", d.path),
			"wait until its lockout ends, or end it: tpm2_dictionarylockout --clear-lockout").With(err)
	case errors.As(err, &rc):
		return basilica.E(basilica.Unavailable, "TPM_REFUSED", fmt.Sprintf("the TPM at %s refused a command", d.path), "look at the cause in the log; a TPM that is busy or out of memory is free again after a restart of what uses it").With(err)
	}
	return basilica.E(basilica.Unavailable, "TPM_FAILED", fmt.Sprintf("the TPM at %s did not answer", d.path), "look at the kernel's log; restart the machine where the TPM hangs").With(err)
}

// raw turns a TPM's signature into r | s with the lower s.
func raw(sig *tpm2.TPMTSignature) ([]byte, error) {
	ec, err := sig.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("read the TPM's signature: %w", err)
	}
	return keys.P256Signature(new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer))
}

// spkiOf reads the public half and refuses what is no key of Create's kind.
func spkiOf(public tpm2.TPM2BPublic) ([]byte, error) {
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	a := area.ObjectAttributes
	if area.Type != tpm2.TPMAlgECC || !a.FixedTPM || !a.SensitiveDataOrigin || !a.Restricted || !a.SignEncrypt || a.Decrypt {
		return nil, errors.New("the TPM key is no restricted signing key on P-256 that was made in the TPM")
	}
	parms, err := area.Parameters.ECCDetail()
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	if parms.CurveID != tpm2.TPMECCNistP256 || parms.Scheme.Scheme != tpm2.TPMAlgECDSA {
		return nil, errors.New("the TPM key is not for ECDSA on P-256")
	}
	point, err := area.Unique.ECC()
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, errors.New("the TPM key's point is too long")
	}
	uncompressed := make([]byte, 65)
	uncompressed[0] = 4
	copy(uncompressed[33-len(point.X.Buffer):], point.X.Buffer)
	copy(uncompressed[65-len(point.Y.Buffer):], point.Y.Buffer)
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
	if err != nil {
		return nil, fmt.Errorf("read the TPM key: %w", err)
	}
	return x509.MarshalPKIXPublicKey(pub)
}
