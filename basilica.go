// Package basilica is the vocabulary of the house: nouns, kinds of error, and the contracts spoken
// between processes (Chain, Miner, Executor, Fleet). It holds no role and touches nothing outside.
package basilica

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Hotkey is the SS58 address (prefix 42) of a key that signs in daily operation.
type Hotkey string

// Coldkey is the SS58 address (prefix 42) of the key that owns stake and hotkeys.
type Coldkey string

// NetUID numbers a subnet of the chain.
type NetUID uint16

// UID numbers a neuron inside one subnet.
type UID uint16

// BlockNumber counts blocks of the chain from its genesis, 0.
type BlockNumber uint64

// Rao is an amount of money; 1 TAO is 1e9 rao.
type Rao uint64

// TAO is the amount in TAO, exactly: 1500000000 is "1.5".
func (r Rao) TAO() string {
	whole, part := r/1e9, r%1e9
	if part == 0 {
		return fmt.Sprint(uint64(whole))
	}
	return strings.TrimRight(fmt.Sprintf("%d.%09d", whole, part), "0")
}

// ExecutorID names one enrolled machine of one miner: lower-case letters, digits and hyphens.
type ExecutorID string

// TaskID names one task of one miner.
type TaskID string

// GrantID names one validation access that a miner gave.
type GrantID string

// VerificationID names one verification of one executor by one validator.
type VerificationID string

// Hash is a 32-byte digest; as text it is 0x and 64 lower-case hex digits.
type Hash [32]byte

// String gives 0x and 64 hex digits.
func (h Hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hex digits with or without 0x.
func (h *Hash) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(strings.TrimPrefix(string(text), "0x"))
	if err != nil || len(raw) != len(h) {
		return fmt.Errorf("not a 32-byte hash in hex: %.80q", text)
	}
	copy(h[:], raw)
	return nil
}

// Blob is content by its address. Size is in bytes.
type Blob struct {
	SHA256 Digest `json:"sha256"`
	Size   int64  `json:"size"`
}

// Digest is a SHA-256; as text it is 64 lower-case hex digits.
type Digest [32]byte

// String gives 64 hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads exactly 64 hex digits.
func (d *Digest) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(d) {
		return fmt.Errorf("not a SHA-256 in hex: %.80q", text)
	}
	copy(d[:], raw)
	return nil
}
