package yuma

import (
	"math"
	"math/big"
	"math/bits"
)

// Fixed is a signed number with 32 integer and 32 fraction bits, the raw value of the runtime's I32F32.
type Fixed int64

const one Fixed = 1 << 32

func fromUint16(v uint16) Fixed { return Fixed(v) << 32 }

// proportion is v/65535, truncated.
func proportion(v uint16) Fixed { return div(fromUint16(v), fromUint16(math.MaxUint16)) }

// mul multiplies, rounds towards minus infinity and saturates.
func mul(a, b Fixed) Fixed {
	negative := (a < 0) != (b < 0)
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if hi>>31 != 0 { // the product needs more than 63 bits after the shift
		if negative {
			return math.MinInt64
		}
		return math.MaxInt64
	}
	product := hi<<32 | lo>>32
	if !negative {
		return Fixed(product)
	}
	if lo&math.MaxUint32 != 0 {
		product++
	}
	return -Fixed(product)
}

// div divides and truncates towards zero. Division by zero and a quotient that does not fit give 0, as the
// runtime's safe_div does.
func div(a, b Fixed) Fixed {
	if b == 0 {
		return 0
	}
	negative := (a < 0) != (b < 0)
	am, bm := magnitude(a), magnitude(b)
	hi, lo := am>>32, am<<32
	if hi >= bm {
		return 0
	}
	q, _ := bits.Div64(hi, lo, bm)
	if q > math.MaxInt64 {
		return 0
	}
	if negative {
		return -Fixed(q)
	}
	return Fixed(q)
}

func magnitude(a Fixed) uint64 {
	if a < 0 {
		return uint64(-(a + 1)) + 1 // right for the smallest value too
	}
	return uint64(a)
}

// toUint16 is trunc(a * 65535), saturating: how the runtime turns a proportion into its u16.
func toUint16(a Fixed) uint16 {
	v := mul(a, fromUint16(math.MaxUint16)) >> 32
	return uint16(min(max(v, 0), math.MaxUint16))
}

func sum(v []Fixed) (total Fixed) {
	for _, x := range v {
		total += x
	}
	return total
}

// normalised returns v divided by its sum, or a copy of v where the sum is 0.
func normalised(v []Fixed) []Fixed { return dividedBy(v, sum(v)) }

func dividedBy(v []Fixed, total Fixed) []Fixed {
	out := make([]Fixed, len(v))
	for i, x := range v {
		if total == 0 {
			out[i] = x
			continue
		}
		out[i] = div(x, total)
	}
	return out
}

// quotients is a/b element by element.
func quotients(a, b []Fixed) []Fixed {
	out := make([]Fixed, len(a))
	for i := range a {
		out[i] = div(a[i], b[i])
	}
	return out
}

// Stake is an amount in rao with 64 fraction bits (the runtime's I64F64, never negative here): Rao + Frac/2^64.
type Stake struct {
	Rao  uint64
	Frac uint64
}

// WeightedStake is the stake that counts for a neuron, in rao: alpha + tao * weight. weight is TaoWeight as stored,
// of 2^64-1; like the runtime this cuts it to 32 fraction bits first. It saturates.
func WeightedStake(alpha, tao, weight uint64) Stake {
	cut, _ := bits.Div64(weight>>32, weight<<32, math.MaxUint64)
	hi, lo := bits.Mul64(tao, cut)
	total, carry := bits.Add64(alpha, hi<<32|lo>>32, 0)
	if carry != 0 || hi>>32 != 0 {
		return Stake{Rao: math.MaxUint64}
	}
	return Stake{Rao: total, Frac: lo << 32}
}

func (s Stake) big() *big.Int {
	v := new(big.Int).SetUint64(s.Rao)
	return v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(s.Frac))
}

// normaliseStakes divides each stake by their sum with 64 fraction bits and keeps the upper 32.
func normaliseStakes(stakes []Stake) []Fixed {
	raw := make([]*big.Int, len(stakes))
	total := new(big.Int)
	for i, s := range stakes {
		raw[i] = s.big()
		total.Add(total, raw[i])
	}
	out := make([]Fixed, len(stakes))
	if total.Sign() == 0 {
		return out
	}
	for i, v := range raw {
		q := new(big.Int).Lsh(v, 64)
		q.Quo(q, total).Rsh(q, 32)
		out[i] = Fixed(q.Int64())
	}
	return out
}

// share is trunc(rao * proportion), the runtime's I96F32 product; proportion is never negative.
func share(rao uint64, proportion Fixed) uint64 {
	hi, lo := bits.Mul64(rao, uint64(max(proportion, 0)))
	if hi>>32 != 0 {
		return math.MaxUint64
	}
	return hi<<32 | lo>>32
}
