package scale

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"unicode/utf8"
)

// Errors of the Reader and of the dynamic decoder; they come wrapped with the
// place where they happened.
var (
	ErrShort   = errors.New("input ends too early")
	ErrInvalid = errors.New("invalid SCALE")
)

// Reader reads SCALE values from a byte slice. Its first error sticks: every
// later read returns zero values, so a caller may read a whole struct and ask
// Err once. It never panics and never allocates more than the input's size
// times a small constant.
type Reader struct {
	data []byte
	pos  int
	err  error
}

// NewReader returns a Reader over data, which it does not copy.
func NewReader(data []byte) *Reader { return &Reader{data: data} }

// Err is the first error met, or nil.
func (r *Reader) Err() error { return r.err }

// Pos is the number of bytes read so far.
func (r *Reader) Pos() int { return r.pos }

// Len is the number of bytes left.
func (r *Reader) Len() int {
	if r.err != nil {
		return 0
	}
	return len(r.data) - r.pos
}

// Done returns the first error, or an error where bytes are left over.
func (r *Reader) Done() error {
	if r.err == nil && r.pos != len(r.data) {
		return fmt.Errorf("%d bytes left over: %w", len(r.data)-r.pos, ErrInvalid)
	}
	return r.err
}

// Fail makes err the sticky error, unless there is one already.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: %w", r.pos, err)
	}
}

// Raw returns the next n bytes without copying them; nil on error.
func (r *Reader) Raw(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.data)-r.pos {
		r.Fail(ErrShort)
		return nil
	}
	out := r.data[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return out
}

// U8 reads one byte.
func (r *Reader) U8() uint8 {
	if b := r.Raw(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two bytes, little endian.
func (r *Reader) U16() uint16 {
	if b := r.Raw(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 reads four bytes, little endian.
func (r *Reader) U32() uint32 {
	if b := r.Raw(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes, little endian.
func (r *Reader) U64() uint64 {
	if b := r.Raw(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// U128 reads sixteen bytes, little endian.
func (r *Reader) U128() (hi, lo uint64) {
	lo = r.U64()
	hi = r.U64()
	return hi, lo
}

// Bool reads one byte that must be 0 or 1.
func (r *Reader) Bool() bool {
	switch r.U8() {
	case 0:
		return false
	case 1:
		return true
	}
	r.Fail(fmt.Errorf("bool above 1: %w", ErrInvalid))
	return false
}

// Uint reads size bytes as an unsigned integer.
func (r *Reader) Uint(size int) *big.Int {
	b := r.Raw(size)
	be := make([]byte, len(b))
	for i, c := range b {
		be[len(b)-1-i] = c
	}
	return new(big.Int).SetBytes(be)
}

// Int reads size bytes as a two's complement integer.
func (r *Reader) Int(size int) *big.Int {
	v := r.Uint(size)
	if v.Bit(size*8-1) == 1 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(size*8)))
	}
	return v
}

// CompactBig reads a compact integer of any size (at most 67 bytes). Forms
// longer than needed are refused, as the chain refuses them.
func (r *Reader) CompactBig() *big.Int {
	first := r.U8()
	switch first & 3 {
	case 0:
		return new(big.Int).SetUint64(uint64(first >> 2))
	case 1:
		v := uint64(first)>>2 | uint64(r.U8())<<6
		return r.canonical(new(big.Int).SetUint64(v), v >= 1<<6)
	case 2:
		rest := r.Raw(3)
		if rest == nil {
			return new(big.Int)
		}
		v := uint64(first)>>2 | uint64(rest[0])<<6 | uint64(rest[1])<<14 | uint64(rest[2])<<22
		return r.canonical(new(big.Int).SetUint64(v), v >= 1<<14)
	}
	n := int(first>>2) + 4
	v := r.Uint(n)
	return r.canonical(v, v.BitLen() > (n-1)*8 && v.BitLen() > 30)
}

func (r *Reader) canonical(v *big.Int, ok bool) *big.Int {
	if r.err != nil {
		return new(big.Int)
	}
	if !ok {
		r.Fail(fmt.Errorf("compact integer longer than needed: %w", ErrInvalid))
		return new(big.Int)
	}
	return v
}

// Compact reads a compact integer that fits 64 bits.
func (r *Reader) Compact() uint64 {
	v := r.CompactBig()
	if !v.IsUint64() {
		r.Fail(fmt.Errorf("compact integer above 64 bits: %w", ErrInvalid))
		return 0
	}
	return v.Uint64()
}

// Compact32 reads a compact integer that fits 32 bits.
func (r *Reader) Compact32() uint32 {
	v := r.Compact()
	if v > 1<<32-1 {
		r.Fail(fmt.Errorf("compact integer above 32 bits: %w", ErrInvalid))
		return 0
	}
	return uint32(v)
}

// Count reads the compact length of a sequence whose elements take at least
// minSize bytes each, and refuses a length that the rest of the input cannot
// hold. With minSize 0 (elements without bytes) the input's whole length
// bounds the count, so that a few bytes cannot ask for a huge slice.
func (r *Reader) Count(minSize int) int {
	n := r.Compact()
	limit := uint64(len(r.data))
	if minSize > 0 {
		limit = uint64((len(r.data) - r.pos) / minSize)
	}
	if r.err == nil && n > limit {
		r.Fail(fmt.Errorf("%d elements announced: %w", n, ErrShort))
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// Bytes reads a Vec<u8>; the result is a copy.
func (r *Reader) Bytes() []byte {
	return append([]byte{}, r.Raw(r.Count(1))...)
}

// Text reads a str that must be UTF-8.
func (r *Reader) Text() string {
	b := r.Raw(r.Count(1))
	if !utf8.Valid(b) {
		r.Fail(fmt.Errorf("string is not UTF-8: %w", ErrInvalid))
		return ""
	}
	return string(b)
}

// Option reads the tag of an Option: false for None, true for Some.
func (r *Reader) Option() bool { return r.Bool() }

// Strings reads a Vec<str>.
func (r *Reader) Strings() []string {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		if r.err != nil {
			return nil
		}
		out = append(out, r.Text())
	}
	return out
}
