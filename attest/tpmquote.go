package attest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"basilica/keys"
)

// The TPM 2.0 Library, Part 2: TPM_GENERATED_VALUE (6.2), TPM_ST_ATTEST_QUOTE (6.9), TPM_ALG_SHA256 (6.3).
const (
	tpmGenerated   = 0xff544347
	tpmAttestQuote = 0x8018
	tpmSHA256      = 0x000b
)

// maxTPMQuote bounds a quote in bytes: TPM2B_ATTEST and a signature. A TPM's own limit of the structure is about 1,200.
const maxTPMQuote = 4 << 10

// ErrTPMQuote says that a quote is malformed, not signed by the key, or of another nonce.
var ErrTPMQuote = errors.New("attest: TPM quote refused")

// TPMQuote is what a TPM says of itself under a key of its own. That the key is a TPM's own is not in it: whoever has a key in
// a file can write the same bytes. It takes an enrolment step that shows where the key lives (gpu-proof.md section 19).
type TPMQuote struct {
	Signer     []byte // qualified name of the key (TPM2B_NAME)
	Clock      uint64 // milliseconds that the TPM has been powered, in all
	Resets     uint32 // of the platform
	Restarts   uint32 // suspends and hibernations since the last reset
	ClockSafe  bool   // no greater clock value was ever said and lost
	Firmware   uint64 // version of the TPM's firmware
	PCRs       []byte // which SHA-256 PCRs, least significant bit of the first byte first
	PCRsSHA256 []byte // digest over their values
}

// ParseTPMQuote reads a TPMS_ATTEST of the type TPM_ST_ATTEST_QUOTE (TPM 2.0 Library, Part 2, section 10.12.12) over SHA-256
// PCRs, and gives its extraData. It checks no signature.
func ParseTPMQuote(attest []byte) (q TPMQuote, nonce []byte, err error) {
	r := tpmReader{b: attest}
	if r.u32() != tpmGenerated || r.u16() != tpmAttestQuote {
		return q, nil, fmt.Errorf("%w: not a quote made by a TPM", ErrTPMQuote)
	}
	q.Signer = r.sized()
	nonce = r.sized()
	q.Clock, q.Resets, q.Restarts = r.u64(), r.u32(), r.u32()
	safe := r.u8()
	q.ClockSafe = safe == 1
	q.Firmware = r.u64()
	banks := r.u32()
	bank := r.u16()
	q.PCRs = r.take(int(r.u8()))
	q.PCRsSHA256 = r.sized()
	if r.short || len(r.b) > 0 || safe > 1 || banks != 1 || bank != tpmSHA256 || len(q.PCRsSHA256) != 32 {
		return TPMQuote{}, nil, fmt.Errorf("%w: not a quote over one bank of SHA-256 PCRs", ErrTPMQuote)
	}
	return q, nonce, nil
}

// VerifyTPMQuote checks a quote as tpm.Key gives it, a TPM2B_ATTEST and r | s: signed by the key of the DER
// SubjectPublicKeyInfo, and over nonce. Everything else is ErrTPMQuote.
func VerifyTPMQuote(spki, quote []byte, nonce Digest) (TPMQuote, error) {
	if len(quote) < 2 || len(quote) > maxTPMQuote || len(quote) != 2+int(binary.BigEndian.Uint16(quote))+keys.P256SignatureSize {
		return TPMQuote{}, fmt.Errorf("%w: %d bytes", ErrTPMQuote, len(quote))
	}
	said, sig := quote[2:len(quote)-keys.P256SignatureSize], quote[len(quote)-keys.P256SignatureSize:]
	if err := keys.VerifyP256(spki, said, sig); err != nil {
		return TPMQuote{}, fmt.Errorf("%w: %w", ErrTPMQuote, err)
	}
	q, over, err := ParseTPMQuote(said)
	if err != nil {
		return TPMQuote{}, err
	}
	if !bytes.Equal(over, nonce[:]) {
		return TPMQuote{}, fmt.Errorf("%w: of another nonce", ErrTPMQuote)
	}
	return q, nil
}

// tpmReader reads big-endian fields; a read past the end sets short and gives zeros.
type tpmReader struct {
	b     []byte
	short bool
}

func (r *tpmReader) take(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *tpmReader) u8() byte      { return r.take(1)[0] }
func (r *tpmReader) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *tpmReader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *tpmReader) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *tpmReader) sized() []byte { return r.take(int(r.u16())) }
