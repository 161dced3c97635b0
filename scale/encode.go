package scale

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// ErrTooBig is returned for an integer that its SCALE form cannot hold.
var ErrTooBig = errors.New("integer out of range")

// AppendU8 appends one byte.
func AppendU8(b []byte, v uint8) []byte { return append(b, v) }

// AppendU16 appends v in two bytes, little endian.
func AppendU16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }

// AppendU32 appends v in four bytes, little endian.
func AppendU32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }

// AppendU64 appends v in eight bytes, little endian.
func AppendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

// AppendBool appends 1 for true, 0 for false.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// AppendUint appends a non-negative big integer in size bytes, little endian.
func AppendUint(b []byte, v *big.Int, size int) ([]byte, error) {
	if v.Sign() < 0 || v.BitLen() > size*8 {
		return nil, fmt.Errorf("%s in %d bytes: %w", v, size, ErrTooBig)
	}
	return appendLE(b, v, size), nil
}

// AppendInt appends a signed big integer in size bytes, two's complement,
// little endian.
func AppendInt(b []byte, v *big.Int, size int) ([]byte, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), uint(size*8-1))
	if v.Cmp(limit) >= 0 || v.Cmp(new(big.Int).Neg(limit)) < 0 {
		return nil, fmt.Errorf("%s in %d signed bytes: %w", v, size, ErrTooBig)
	}
	if v.Sign() < 0 {
		v = new(big.Int).Add(v, new(big.Int).Lsh(limit, 1))
	}
	return appendLE(b, v, size), nil
}

func appendLE(b []byte, v *big.Int, size int) []byte {
	start := len(b)
	b = append(b, make([]byte, size)...)
	raw := v.Bytes()
	for i, c := range raw {
		b[start+len(raw)-1-i] = c
	}
	return b
}

// AppendU128 appends v in sixteen bytes: lo first, then hi, little endian.
func AppendU128(b []byte, hi, lo uint64) []byte {
	return AppendU64(AppendU64(b, lo), hi)
}

// AppendCompact appends v as a compact integer.
func AppendCompact(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v<<2))
	case v < 1<<14:
		return AppendU16(b, uint16(v<<2|1))
	case v < 1<<30:
		return AppendU32(b, uint32(v<<2|2))
	}
	n := 4
	for x := v >> 32; x > 0; x >>= 8 {
		n++
	}
	b = append(b, byte((n-4)<<2|3))
	for i := range n {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

// AppendCompactBig appends a non-negative integer below 2^536 as a compact
// integer.
func AppendCompactBig(b []byte, v *big.Int) ([]byte, error) {
	if v.Sign() < 0 || v.BitLen() > 536 {
		return nil, fmt.Errorf("compact %s: %w", v, ErrTooBig)
	}
	if v.IsUint64() {
		return AppendCompact(b, v.Uint64()), nil
	}
	n := (v.BitLen() + 7) / 8
	return appendLE(append(b, byte((n-4)<<2|3)), v, n), nil
}

// AppendBytes appends data with its compact length before it (Vec<u8>).
func AppendBytes(b, data []byte) []byte {
	return append(AppendCompact(b, uint64(len(data))), data...)
}

// AppendString appends s with its compact length before it.
func AppendString(b []byte, s string) []byte {
	return append(AppendCompact(b, uint64(len(s))), s...)
}
