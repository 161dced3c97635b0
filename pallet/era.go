package pallet

import (
	"fmt"
	"math/bits"

	"basilica/scale"
)

// Era is how long a signed extrinsic stays valid. The zero Era is immortal.
type Era struct {
	Period uint64 // blocks, a power of two from 4 to 65536; 0 is immortal
	Phase  uint64 // birth block modulo Period
}

// MortalEra is the era of at least period blocks that begins at or shortly
// before current. The period is rounded up to a power of two.
func MortalEra(period, current uint64) Era {
	period = min(max(period, 4), 1<<16)
	if period&(period-1) != 0 {
		period = 1 << bits.Len64(period)
	}
	quantize := max(1, period>>12)
	return Era{Period: period, Phase: current % period / quantize * quantize}
}

// IsImmortal tells whether the extrinsic never dies.
func (e Era) IsImmortal() bool { return e.Period == 0 }

// Birth is the first block at which the era of a block number current holds.
func (e Era) Birth(current uint64) uint64 {
	if e.IsImmortal() {
		return 0
	}
	return (max(current, e.Phase)-e.Phase)/e.Period*e.Period + e.Phase
}

// Death is the first block at which it holds no longer.
func (e Era) Death(current uint64) uint64 {
	if e.IsImmortal() {
		return 1<<64 - 1
	}
	return e.Birth(current) + e.Period
}

// Append appends the era's wire form, one byte for immortal, two for mortal.
func (e Era) Append(b []byte) []byte {
	if e.IsImmortal() {
		return append(b, 0)
	}
	quantize := max(1, e.Period>>12)
	low := min(15, max(1, bits.TrailingZeros64(e.Period)-1))
	return scale.AppendU16(b, uint16(low)|uint16(e.Phase/quantize)<<4)
}

// ReadEra reads an era and refuses a phase outside the period.
func ReadEra(r *scale.Reader) Era {
	first := r.U8()
	if first == 0 || r.Err() != nil {
		return Era{}
	}
	v := uint64(first) | uint64(r.U8())<<8
	period := uint64(2) << (v & 15)
	e := Era{Period: period, Phase: v >> 4 * max(1, period>>12)}
	if period < 4 || e.Phase >= period {
		r.Fail(fmt.Errorf("era %#04x: %w", v, scale.ErrInvalid))
		return Era{}
	}
	return e
}
