package keys

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// maxDSSE bounds a DSSE envelope in bytes.
const maxDSSE = 1 << 20

// PAE is the DSSE v1 pre-authentication encoding of a payload:
// "DSSEv1" SP len(type) SP type SP len(payload) SP payload, lengths in ASCII decimal.
// Source: github.com/secure-systems-lab/dsse, protocol.md.
func PAE(payloadType string, payload []byte) []byte {
	b := make([]byte, 0, len("DSSEv1")+len(payloadType)+len(payload)+44)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ' ')
	return append(b, payload...)
}

// Envelope is a DSSE envelope: exact payload bytes, their type, and signatures over PAE of both. Verify first,
// parse the payload after, never re-encode it.
type Envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     []byte              `json:"payload"` // base64 in JSON
	Signatures  []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one signature of an envelope. KeyID is a hint for finding the key and proves nothing.
type EnvelopeSignature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"` // base64 in JSON
}

// AddP256 signs the envelope with the key, under the hint keyID.
func (e *Envelope) AddP256(keyID string, k *P256) error {
	sig, err := k.Sign(PAE(e.PayloadType, e.Payload))
	if err != nil {
		return err
	}
	e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: keyID, Sig: sig})
	return nil
}

// Add puts a signature by any kind of key into the envelope; sign is given the bytes that DSSE signs.
func (e *Envelope) Add(keyID string, sign func(pae []byte) ([]byte, error)) error {
	sig, err := sign(PAE(e.PayloadType, e.Payload))
	if err != nil {
		return fmt.Errorf("dsse: sign: %w", err)
	}
	e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: keyID, Sig: sig})
	return nil
}

// Verify succeeds when a signature under keyID exists and verify accepts it over the bytes that DSSE signs.
func (e *Envelope) Verify(keyID string, verify func(pae, sig []byte) error) error {
	pae := PAE(e.PayloadType, e.Payload)
	err := fmt.Errorf("dsse: no signature by %q", keyID)
	for _, s := range e.Signatures {
		if s.KeyID == keyID {
			if err = verify(pae, s.Sig); err == nil {
				return nil
			}
		}
	}
	return err
}

// VerifyP256 succeeds when a signature under keyID exists and verifies with the P-256 key of spki.
func (e *Envelope) VerifyP256(keyID string, spki []byte) error {
	return e.Verify(keyID, func(pae, sig []byte) error { return VerifyP256(spki, pae, sig) })
}

// Encode returns the JSON form of the envelope.
func (e *Envelope) Encode() ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("dsse: encode: %w", err)
	}
	return b, nil
}

// ParseEnvelope reads the JSON form: at most 1 MiB, with 1 to 8 signatures, canonical base64. It checks no signature.
func ParseEnvelope(b []byte) (*Envelope, error) {
	if len(b) > maxDSSE {
		return nil, fmt.Errorf("dsse: envelope of %d bytes, at most %d", len(b), maxDSSE)
	}
	var raw struct {
		PayloadType string `json:"payloadType"`
		Payload     string `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("dsse: parse envelope: %w", err)
	}
	if raw.PayloadType == "" || len(raw.Signatures) == 0 || len(raw.Signatures) > 8 {
		return nil, errors.New("dsse: envelope needs a payload type and 1 to 8 signatures")
	}
	e := &Envelope{PayloadType: raw.PayloadType}
	var err error
	if e.Payload, err = base64.StdEncoding.Strict().DecodeString(raw.Payload); err != nil {
		return nil, fmt.Errorf("dsse: payload: %w", err)
	}
	for _, s := range raw.Signatures {
		sig, err := base64.StdEncoding.Strict().DecodeString(s.Sig)
		if err != nil {
			return nil, fmt.Errorf("dsse: signature: %w", err)
		}
		e.Signatures = append(e.Signatures, EnvelopeSignature{KeyID: s.KeyID, Sig: sig})
	}
	return e, nil
}
