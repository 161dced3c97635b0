package keys

import (
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/x509"
	"errors"
	"fmt"
)

// maxSealed bounds what SealP256 and Unseal take, in bytes.
const maxSealed = 64 << 10

// SealP256 encrypts a short secret to the P-256 key of spki (DER): HPKE base mode (RFC 9180) with DHKEM(P-256,
// HKDF-SHA256), HKDF-SHA256 and AES-128-GCM. info binds it to its purpose; the result is enc (65 bytes) and ciphertext.
func SealP256(spki []byte, info string, secret []byte) ([]byte, error) {
	if len(secret) > maxSealed {
		return nil, fmt.Errorf("seal: %d bytes are more than %d", len(secret), maxSealed)
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("seal: not an elliptic key")
	}
	dh, err := pub.ECDH()
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	to, err := hpke.NewDHKEMPublicKey(dh)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte(info), secret)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// Unseal opens what SealP256 made for this key under the same info.
func (k *P256) Unseal(info string, sealed []byte) ([]byte, error) {
	if len(sealed) > maxSealed+256 {
		return nil, fmt.Errorf("unseal: %d bytes are too many", len(sealed))
	}
	dh, err := k.key.ECDH()
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	own, err := hpke.NewDHKEMPrivateKey(dh)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	secret, err := hpke.Open(own, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte(info), sealed)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return secret, nil
}
