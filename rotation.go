package basilica

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"basilica/keys"
)

// MaxRotations is how many earlier endorsements a miner shows beside an executor's present one: a validator that has not met
// the machine for that many changes of its attestation key no longer knows it.
const MaxRotations = 16

// rotationAge is how long before its countersignature an executor may have asked for a rotation.
const rotationAge = 10 * time.Minute

// Rotate is an executor's wish that next (DER SubjectPublicKeyInfo) take the place of its attestation key: the endorsement
// under which it does so, as the present one but for that key. former signs with the key that is replaced; the miner's hotkey
// is still to sign (Countersign).
func Rotate(present Endorsement, next []byte, now time.Time, former func(payload []byte) ([]byte, error)) (SignedEndorsement, error) {
	e := present
	e.Replaces, e.AttestSPKI, e.Issued = present.AttestSPKI, next, now.UTC()
	payload, err := json.Marshal(e)
	if err != nil {
		return SignedEndorsement{}, fmt.Errorf("encode endorsement: %w", err)
	}
	sig, err := former(payload)
	if err != nil {
		return SignedEndorsement{}, fmt.Errorf("sign the rotation with the replaced key: %w", err)
	}
	return SignedEndorsement{Payload: payload, Former: sig}, nil
}

// Rotation is what an endorsement asks to change, unverified: from which attestation key to which.
func (s SignedEndorsement) Rotation() (from, to []byte, err error) {
	e, err := decodePayload[Endorsement](s.Payload)
	if err != nil {
		return nil, nil, rotationInvalid("it is no endorsement").With(err)
	}
	return e.Replaces, e.AttestSPKI, nil
}

// SignRotation signs, with the attestation key of spki, the payload of an endorsement that replaces that very key. Anything
// else is ROTATION_INVALID: whoever may ask for signatures gets none of a proof or a receipt.
func SignRotation(payload, spki []byte, sign func(msg []byte) ([]byte, error)) ([]byte, error) {
	e, err := decodePayload[Endorsement](payload)
	if err != nil {
		return nil, rotationInvalid("it is no endorsement").With(err)
	}
	if len(spki) == 0 || !bytes.Equal(e.Replaces, spki) || bytes.Equal(e.AttestSPKI, spki) {
		return nil, rotationInvalid("it does not replace this key by another one")
	}
	return sign(keys.PAE(EndorsementType, payload))
}

// Countersign has the miner's hotkey agree to a rotation of an executor's present endorsement: the attestation key alone
// changes, the replaced key signed, and it was asked for now. Anything else is ROTATION_INVALID; a rotation that the replaced
// key did not sign is ROTATION_UNSIGNED.
func (s SignedEndorsement) Countersign(present Endorsement, miner keys.Signer, now time.Time) (SignedEndorsement, error) {
	e, err := decodePayload[Endorsement](s.Payload)
	if err != nil {
		return SignedEndorsement{}, rotationInvalid("it is no endorsement").With(err)
	}
	if _, err := keys.ParseP256SPKI(e.AttestSPKI); err != nil {
		return SignedEndorsement{}, rotationInvalid("its new key is none").With(err)
	}
	want := present
	want.Replaces, want.AttestSPKI, want.Issued = present.AttestSPKI, e.AttestSPKI, e.Issued
	same, err := json.Marshal(want)
	if err != nil {
		return SignedEndorsement{}, fmt.Errorf("encode endorsement: %w", err)
	}
	switch age := now.Sub(e.Issued); {
	case !bytes.Equal(same, s.Payload) || bytes.Equal(e.AttestSPKI, present.AttestSPKI):
		return SignedEndorsement{}, rotationInvalid("it changes something else than the attestation key, or another key than the present one")
	case e.Miner != Hotkey(miner.SS58()):
		return SignedEndorsement{}, rotationInvalid("it is of another miner")
	case age > rotationAge || age < -rotationAge:
		return SignedEndorsement{}, rotationInvalid(fmt.Sprintf("it was made %d s from now by the miner's clock", int(age/time.Second)))
	}
	if err := e.formerSigned(s); err != nil {
		return SignedEndorsement{}, err
	}
	if s.Signature, err = miner.Sign(keys.PAE(EndorsementType, s.Payload)); err != nil {
		return SignedEndorsement{}, fmt.Errorf("sign endorsement: %w", err)
	}
	return s, nil
}

func rotationInvalid(why string) *Error {
	return E(Invalid, "ROTATION_INVALID", "that is no rotation of an attestation key: "+why, "set the clocks of both machines, and ask again with basilica executor rekey")
}

// formerSigned checks that the key which an endorsement replaces, if any, agreed to it.
func (e Endorsement) formerSigned(s SignedEndorsement) error {
	if len(e.Replaces) == 0 {
		return nil
	}
	if err := keys.VerifyP256(e.Replaces, keys.PAE(EndorsementType, s.Payload), s.Former); err != nil {
		return E(Denied, "ROTATION_UNSIGNED", "the replaced attestation key did not sign for the new one", "rotate with the old key at hand: basilica executor rekey; where it is lost, join again under a new id").With(err)
	}
	return nil
}

// Inherits says whether links, oldest first, lead from an attestation key to that of the present endorsement of the same
// machine: each link was signed by the miner's hotkey and by the key that it replaces. Receipt key and host key stay.
func (present Endorsement) Inherits(from []byte, links []SignedEndorsement) bool {
	at := from
	for _, link := range links[max(0, len(links)-MaxRotations):] {
		e, err := link.Open()
		if err != nil || e.Miner != present.Miner || e.Executor != present.Executor || !bytes.Equal(e.KeySPKI, present.KeySPKI) || !bytes.Equal(e.HostKey, present.HostKey) {
			return false
		}
		if bytes.Equal(e.Replaces, at) {
			at = e.AttestSPKI
		}
	}
	if bytes.Equal(present.Replaces, at) {
		at = present.AttestSPKI
	}
	return bytes.Equal(at, present.AttestSPKI)
}
