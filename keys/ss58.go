package keys

import (
	"bytes"
	"fmt"

	"github.com/mr-tron/base58"
	"golang.org/x/crypto/blake2b"
)

// ss58Prefix is the address prefix of Bittensor (and of generic Substrate).
const ss58Prefix = 42

// EncodeSS58 is the address of a 32-byte public key: base58 of the prefix 42,
// the key and two bytes of blake2b-512("SS58PRE", prefix, key).
func EncodeSS58(pub [32]byte) string {
	body := append([]byte{ss58Prefix}, pub[:]...)
	return base58.Encode(append(body, ss58Checksum(body)...))
}

// DecodeSS58 reads an address. Other prefixes, other lengths, hex and wrong
// checksums are errors.
func DecodeSS58(address string) ([32]byte, error) {
	var pub [32]byte
	if len(address) < 46 || len(address) > 48 {
		return pub, fmt.Errorf("address of %d characters, want 48: %w", len(address), ErrKey)
	}
	raw, err := base58.Decode(address)
	if err != nil {
		return pub, fmt.Errorf("address is not base58: %w", ErrKey)
	}
	if len(raw) != 35 {
		return pub, fmt.Errorf("address of %d bytes, want 35: %w", len(raw), ErrKey)
	}
	if raw[0] != ss58Prefix {
		return pub, fmt.Errorf("address of network %d, want 42: %w", raw[0], ErrKey)
	}
	if !bytes.Equal(ss58Checksum(raw[:33]), raw[33:]) {
		return pub, fmt.Errorf("address has a wrong checksum: %w", ErrKey)
	}
	copy(pub[:], raw[1:33])
	return pub, nil
}

func ss58Checksum(body []byte) []byte {
	sum := blake2b.Sum512(append([]byte("SS58PRE"), body...))
	return sum[:2]
}
