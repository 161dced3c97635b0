package pallet

import (
	"bytes"
	"fmt"

	"basilica/keys"
	"basilica/scale"
)

// maxExtrinsic bounds an extrinsic that is decoded, in bytes; the chain's
// block length is 10 MiB, of which normal extrinsics get less.
const maxExtrinsic = 10 << 20

// Signing is what is signed beside the call.
type Signing struct {
	SpecVersion uint32
	TxVersion   uint32
	Genesis     [32]byte
	Era         Era
	BirthHash   [32]byte // hash of the era's birth block; ignored when immortal (genesis stands there)
	Nonce       uint64
	Tip         uint64 // rao
}

// extension gives an extension's part in the extrinsic and its part that is
// only signed, and its place among those with data, which is the same in every
// runtime so far: 1 to lastPlace. 0 is a name that we cannot fill.
func (s *Signing) extension(identifier string) (extra, additional []byte, place int) {
	switch identifier {
	case "CheckSpecVersion":
		return nil, scale.AppendU32(nil, s.SpecVersion), 1
	case "CheckTxVersion":
		return nil, scale.AppendU32(nil, s.TxVersion), 2
	case "CheckGenesis":
		return nil, s.Genesis[:], 3
	case "CheckMortality", "CheckEra":
		if s.Era.IsImmortal() {
			return s.Era.Append(nil), s.Genesis[:], 4
		}
		return s.Era.Append(nil), s.BirthHash[:], 4
	case "CheckNonce":
		return scale.AppendCompact(nil, s.Nonce), nil, 5
	case "ChargeTransactionPayment":
		return scale.AppendCompact(nil, s.Tip), nil, 6
	case "CheckMetadataHash":
		return []byte{0}, []byte{0}, lastPlace // disabled; no hash
	}
	return nil, nil, 0
}

// lastPlace is that of CheckMetadataHash, which alone may be absent.
const lastPlace = 7

// extensions walks the metadata's list of extensions and gives the bytes that
// stand in the extrinsic and those that are only signed. What has no bytes by
// its type is skipped whatever its name; an unknown extension with bytes, or a
// known one whose type is not the one we fill, is refused. So is a list in
// another order, with one twice or without one: what is signed has no marks
// between its parts, so that a chain could read such a list as another tip.
func (rt *Runtime) extensions(s *Signing) (extra, additional []byte, err error) {
	filled := 0
	for _, x := range rt.meta.Extrinsic.Extensions {
		if rt.reg.IsEmpty(x.Ty) && rt.reg.IsEmpty(x.Additional) {
			continue
		}
		e, a, place := s.extension(x.Identifier)
		if place == 0 {
			return nil, nil, fmt.Errorf("transaction extension %s carries data of an unknown kind: %w", x.Identifier, ErrUnsupported)
		}
		if filled++; place != filled {
			return nil, nil, fmt.Errorf("transaction extension %s does not stand in its place: %w", x.Identifier, ErrUnsupported)
		}
		for _, part := range []struct {
			data []byte
			ty   uint32
		}{{e, x.Ty}, {a, x.Additional}} {
			if _, err := rt.reg.DecodeAll(part.data, part.ty); err != nil {
				return nil, nil, fmt.Errorf("transaction extension %s has changed its type: %w: %w", x.Identifier, ErrUnsupported, err)
			}
		}
		extra, additional = append(extra, e...), append(additional, a...)
	}
	if filled < lastPlace-1 {
		return nil, nil, fmt.Errorf("only %d transaction extensions with data: %w", filled, ErrUnsupported)
	}
	return extra, additional, nil
}

// SigningPayload is what the signer signs for a call: call, extensions and
// what is only signed, or its blake2-256 when that is over 256 bytes.
func (rt *Runtime) SigningPayload(call []byte, s Signing) ([]byte, error) {
	full, err := rt.FullPayload(call, s)
	if err != nil {
		return nil, err
	}
	if len(full) > 256 {
		sum := Blake2b256(full)
		return sum[:], nil
	}
	return full, nil
}

// FullPayload is the signing payload before it is hashed for its length.
func (rt *Runtime) FullPayload(call []byte, s Signing) ([]byte, error) {
	extra, additional, err := rt.extensions(&s)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{call, extra, additional}, nil), nil
}

// Sign signs a call and gives the extrinsic's bytes with the length prefix.
func (rt *Runtime) Sign(call []byte, s Signing, signer keys.Signer) ([]byte, error) {
	payload, err := rt.SigningPayload(call, s)
	if err != nil {
		return nil, err
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		return nil, fmt.Errorf("sign extrinsic: %w", err)
	}
	return rt.Assemble(call, s, signer.PublicKey(), signer.Scheme(), sig)
}

// Assemble puts a signed extrinsic of version 4 together, with the length
// prefix.
func (rt *Runtime) Assemble(call []byte, s Signing, signer [32]byte, scheme keys.Scheme, sig []byte) ([]byte, error) {
	x := &rt.meta.Extrinsic
	if x.Version != 4 {
		return nil, fmt.Errorf("extrinsics of version %d: %w", x.Version, ErrUnsupported)
	}
	extra, _, err := rt.extensions(&s)
	if err != nil {
		return nil, err
	}
	if len(sig) != keys.SignatureSize {
		return nil, fmt.Errorf("signature of %d bytes: %w", len(sig), scale.ErrInvalid)
	}
	b := []byte{0x84}
	b, err = rt.reg.Encode(b, x.Address, rt.address(signer))
	if err != nil {
		return nil, fmt.Errorf("extrinsic's address: %w", err)
	}
	name := "Sr25519"
	if scheme == keys.Ed25519 {
		name = "Ed25519"
	}
	if b, err = rt.reg.Encode(b, x.Signature, scale.NewVariant(name, sig)); err != nil {
		return nil, fmt.Errorf("extrinsic's signature: %w", err)
	}
	b = append(append(b, extra...), call...)
	return scale.AppendBytes(nil, b), nil
}

// address is an account as the extrinsic's address type wants it:
// MultiAddress::Id, or the bare account.
func (rt *Runtime) address(account [32]byte) any {
	t, ok := rt.reg.Type(rt.meta.Extrinsic.Address)
	if ok && t.Def.Kind == scale.KindVariant {
		return scale.NewVariant("Id", account[:])
	}
	return account[:]
}

// AccountAddress is MultiAddress::Id of an account, for calls such as
// Balances.transfer_keep_alive.
func AccountAddress(account [32]byte) scale.VariantValue {
	return scale.NewVariant("Id", account[:])
}

// ExtrinsicHash is the hash by which the chain knows an extrinsic: blake2-256
// of its bytes including the length prefix.
func ExtrinsicHash(extrinsic []byte) [32]byte { return Blake2b256(extrinsic) }

// Extrinsic is a decoded extrinsic. The fields after Call count only when it
// is Signed.
type Extrinsic struct {
	Call      []byte
	Signed    bool
	Signer    [32]byte
	Scheme    keys.Scheme
	Signature []byte
	Era       Era
	Nonce     uint64
	Tip       uint64
}

// Signing is x's part of the signing payload; the caller adds the chain's
// part: versions, genesis and the hash of the era's birth block.
func (x *Extrinsic) Signing() Signing {
	return Signing{Era: x.Era, Nonce: x.Nonce, Tip: x.Tip}
}

// Verify tells whether the signature holds over x with the chain's part of s
// (versions, genesis, birth hash); era, nonce and tip are taken from x.
func (rt *Runtime) Verify(x *Extrinsic, s Signing) (bool, error) {
	s.Era, s.Nonce, s.Tip = x.Era, x.Nonce, x.Tip
	payload, err := rt.SigningPayload(x.Call, s)
	if err != nil {
		return false, err
	}
	return keys.Verify(x.Scheme, x.Signer, payload, x.Signature), nil
}

// DecodeExtrinsic reads an extrinsic with its length prefix: a bare one
// (preamble 0x04 or 0x05) or a signed one of version 4. The call's bytes must
// be exactly one call.
func (rt *Runtime) DecodeExtrinsic(data []byte) (*Extrinsic, error) {
	if len(data) > maxExtrinsic {
		return nil, fmt.Errorf("extrinsic of %d bytes: %w", len(data), scale.ErrInvalid)
	}
	outer := scale.NewReader(data)
	body := outer.Raw(outer.Count(1))
	if err := outer.Done(); err != nil {
		return nil, fmt.Errorf("extrinsic's length: %w", err)
	}
	r := scale.NewReader(body)
	x := &Extrinsic{}
	switch preamble := r.U8(); preamble {
	case 0x04, 0x05:
	case 0x84:
		x.Signed = true
		if err := rt.readSigned(r, x); err != nil {
			return nil, fmt.Errorf("signed extrinsic: %w", err)
		}
	default:
		return nil, fmt.Errorf("extrinsic preamble %#02x: %w", preamble, scale.ErrInvalid)
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("extrinsic: %w", r.Err())
	}
	x.Call = append([]byte{}, r.Raw(r.Len())...)
	if _, err := rt.DecodeCall(x.Call); err != nil {
		return nil, fmt.Errorf("extrinsic: %w", err)
	}
	return x, nil
}

func (rt *Runtime) readSigned(r *scale.Reader, x *Extrinsic) error {
	v, err := rt.reg.Decode(r, rt.meta.Extrinsic.Address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if vv, ok := v.(scale.VariantValue); ok && vv.Name == "Id" && len(vv.Fields) == 1 {
		v = vv.Fields[0].Value
	}
	account, ok := v.([]byte)
	if !ok || len(account) != 32 {
		return fmt.Errorf("signer is not an account id: %w", ErrUnsupported)
	}
	copy(x.Signer[:], account)
	if v, err = rt.reg.Decode(r, rt.meta.Extrinsic.Signature); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	sig, ok := v.(scale.VariantValue)
	if !ok || len(sig.Fields) != 1 {
		return fmt.Errorf("signature is %T: %w", v, ErrUnsupported)
	}
	switch sig.Name {
	case "Ed25519":
		x.Scheme = keys.Ed25519
	case "Sr25519":
		x.Scheme = keys.Sr25519
	default:
		return fmt.Errorf("signature scheme %s: %w", sig.Name, ErrUnsupported)
	}
	if x.Signature, ok = sig.Fields[0].Value.([]byte); !ok || len(x.Signature) != keys.SignatureSize {
		return fmt.Errorf("signature's length: %w", scale.ErrInvalid)
	}
	return rt.readExtensions(r, x)
}

func (rt *Runtime) readExtensions(r *scale.Reader, x *Extrinsic) error {
	for _, ext := range rt.meta.Extrinsic.Extensions {
		if rt.reg.IsEmpty(ext.Ty) {
			continue
		}
		switch ext.Identifier {
		case "CheckMortality", "CheckEra":
			x.Era = ReadEra(r)
		case "CheckNonce":
			x.Nonce = r.Compact()
		case "ChargeTransactionPayment":
			x.Tip = r.Compact()
		case "CheckMetadataHash":
			if mode := r.U8(); mode != 0 && r.Err() == nil {
				return fmt.Errorf("metadata hash mode %d: %w", mode, ErrUnsupported)
			}
		default:
			return fmt.Errorf("transaction extension %s carries data of an unknown kind: %w", ext.Identifier, ErrUnsupported)
		}
	}
	return r.Err()
}
