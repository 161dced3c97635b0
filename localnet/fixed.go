package localnet

import "math/big"

// u96f32 is the runtime's U96F32: the high and the low half of a value with 32 fraction bits. Operations saturate.
type u96f32 [2]uint64

// one is 1.
var one = wholeNumber(1)

func wholeNumber(v uint64) u96f32 { return u96f32{v >> 32, v << 32} }

func (a u96f32) big() *big.Int {
	v := new(big.Int).SetUint64(a[0])
	return v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(a[1]))
}

func fixedOf(v *big.Int) u96f32 {
	if v.Sign() < 0 {
		return u96f32{}
	}
	if v.BitLen() > 128 {
		return u96f32{1<<64 - 1, 1<<64 - 1}
	}
	low := new(big.Int).And(v, new(big.Int).SetUint64(1<<64-1))
	return u96f32{new(big.Int).Rsh(v, 64).Uint64(), low.Uint64()}
}

func (a u96f32) plus(b u96f32) u96f32  { return fixedOf(new(big.Int).Add(a.big(), b.big())) }
func (a u96f32) minus(b u96f32) u96f32 { return fixedOf(new(big.Int).Sub(a.big(), b.big())) }

func (a u96f32) times(b u96f32) u96f32 {
	v := new(big.Int).Mul(a.big(), b.big())
	return fixedOf(v.Rsh(v, 32))
}

// over is 0 where b is.
func (a u96f32) over(b u96f32) u96f32 {
	if b == (u96f32{}) {
		return b
	}
	v := new(big.Int).Lsh(a.big(), 32)
	return fixedOf(v.Quo(v, b.big()))
}

// integer is the part before the point.
func (a u96f32) integer() uint64 {
	if a[0]>>32 != 0 {
		return 1<<64 - 1
	}
	return a[0]<<32 | a[1]>>32
}

func (a u96f32) less(b u96f32) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// part is v of 65535, and of all is v of 2^64-1.
func part(v uint16) u96f32  { return wholeNumber(uint64(v)).over(wholeNumber(1<<16 - 1)) }
func ofAll(v uint64) u96f32 { return wholeNumber(v).over(wholeNumber(1<<64 - 1)) }
