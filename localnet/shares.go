package localnet

import (
	"math/big"
	"slices"
)

// shares is a part of a hotkey's stake, SafeFloat of the runtime: mantissa * 10^exponent. A mantissa that is not 0 has as
// many digits as fit below maxMantissa; what is behind them is cut off after each operation.
type shares struct {
	mantissa [2]uint64
	exponent int64
}

// maxMantissa is the largest mantissa, 10^21.
var (
	bigTen      = big.NewInt(10)
	maxMantissa = new(big.Int).Exp(bigTen, big.NewInt(21), nil)
)

// safeFloat brings a number to the form that is stored.
func safeFloat(m *big.Int, exponent int64) shares {
	if m.Sign() <= 0 {
		return shares{}
	}
	m = new(big.Int).Set(m)
	for m.Cmp(maxMantissa) > 0 {
		m.Quo(m, bigTen)
		exponent++
	}
	for {
		next := new(big.Int).Mul(m, bigTen)
		if next.Cmp(maxMantissa) > 0 {
			break
		}
		m, exponent = next, exponent-1
	}
	lo := new(big.Int).SetUint64(1<<64 - 1)
	return shares{[2]uint64{new(big.Int).Rsh(m, 64).Uint64(), lo.And(lo, m).Uint64()}, exponent}
}

func sharesOf(rao uint64) shares { return safeFloat(new(big.Int).SetUint64(rao), 0) }

func (s shares) zero() bool { return s.mantissa == [2]uint64{} }

func (s shares) big() *big.Int {
	v := new(big.Int).SetUint64(s.mantissa[0])
	return v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(s.mantissa[1]))
}

func powerOfTen(n int64) *big.Int { return new(big.Int).Exp(bigTen, big.NewInt(n), nil) }

// scaledTo is the mantissa at a smaller or equal exponent.
func (s shares) scaledTo(exponent int64) *big.Int {
	v := s.big()
	return v.Mul(v, powerOfTen(s.exponent-exponent))
}

func (s shares) plus(o shares) shares {
	if s.zero() || o.zero() {
		if s.zero() {
			return o
		}
		return s
	}
	e := min(s.exponent, o.exponent)
	return safeFloat(new(big.Int).Add(s.scaledTo(e), o.scaledTo(e)), e)
}

// minus is 0 where o is larger.
func (s shares) minus(o shares) shares {
	if s.zero() || o.zero() {
		return s
	}
	e := min(s.exponent, o.exponent)
	return safeFloat(new(big.Int).Sub(s.scaledTo(e), o.scaledTo(e)), e)
}

// timesOver is s * a / b, 0 where b is.
func (s shares) timesOver(a, b shares) shares {
	if b.zero() {
		return shares{}
	}
	const digits = 42 // of the dividend more than of the divisor, so that 21 of the quotient are exact
	m := new(big.Int).Mul(s.big(), a.big())
	m.Mul(m, powerOfTen(digits)).Quo(m, b.big())
	return safeFloat(m, s.exponent+a.exponent-b.exponent-digits)
}

// rao is the integer part.
func (s shares) rao() uint64 {
	v := s.big()
	if s.exponent < 0 {
		v.Quo(v, powerOfTen(-s.exponent))
	} else {
		v.Mul(v, powerOfTen(s.exponent))
	}
	if !v.IsUint64() {
		return 1<<64 - 1
	}
	return v.Uint64()
}

// Stake of one hotkey on one subnet is a pool: each coldkey holds shares of the hotkey's alpha.

// alphaOf is what a coldkey's shares of a hotkey are worth, in rao of alpha.
func (rt *runtime) alphaOf(r reader, hotkey, coldkey account, netuid uint16) uint64 {
	s := rt.subnets
	own := s.alpha.get(r, hotkey, coldkey, netuid)
	if own.zero() {
		return 0
	}
	return sharesOf(s.totalHotkeyAlpha.get(r, hotkey, netuid)).timesOver(own, s.totalShares.get(r, hotkey, netuid)).rao()
}

// stakeAlpha gives a coldkey alpha on a hotkey.
func (rt *runtime) stakeAlpha(w writer, hotkey, coldkey account, netuid uint16, amount uint64) {
	if amount == 0 {
		return
	}
	s := rt.subnets
	pool, total := s.totalHotkeyAlpha.get(w, hotkey, netuid), s.totalShares.get(w, hotkey, netuid)
	minted := sharesOf(amount)
	if !total.zero() {
		minted = minted.timesOver(total, sharesOf(pool))
	}
	s.alpha.set(w, hotkey, coldkey, netuid, s.alpha.get(w, hotkey, coldkey, netuid).plus(minted))
	s.totalShares.set(w, hotkey, netuid, total.plus(minted))
	s.totalHotkeyAlpha.set(w, hotkey, netuid, pool+amount)
	s.stakingHotkeys.change(w, coldkey, func(v []account) []account {
		if slices.Contains(v, hotkey) {
			return v
		}
		return append(v, hotkey)
	})
}

// unstakeAlpha takes alpha from a coldkey, at most what alphaOf says.
func (rt *runtime) unstakeAlpha(w writer, hotkey, coldkey account, netuid uint16, amount uint64) {
	s := rt.subnets
	pool, total := s.totalHotkeyAlpha.get(w, hotkey, netuid), s.totalShares.get(w, hotkey, netuid)
	own := s.alpha.get(w, hotkey, coldkey, netuid)
	burned := own
	if amount < rt.alphaOf(w, hotkey, coldkey, netuid) {
		burned = sharesOf(amount).timesOver(total, sharesOf(pool))
	}
	if own = own.minus(burned); own.zero() {
		s.alpha.del(w, hotkey, coldkey, netuid)
	} else {
		s.alpha.set(w, hotkey, coldkey, netuid, own)
	}
	if total = total.minus(burned); total.zero() {
		s.totalShares.del(w, hotkey, netuid)
	} else {
		s.totalShares.set(w, hotkey, netuid, total)
	}
	s.totalHotkeyAlpha.set(w, hotkey, netuid, pool-amount)
}

// rewardStakers adds alpha to a hotkey's pool, so that every staker gains by its shares; without stakers it goes to
// the owner.
func (rt *runtime) rewardStakers(w writer, hotkey account, netuid uint16, amount uint64) {
	s := rt.subnets
	if s.totalShares.get(w, hotkey, netuid).zero() {
		rt.stakeAlpha(w, hotkey, s.owner.get(w, hotkey), netuid, amount)
		return
	}
	s.totalHotkeyAlpha.set(w, hotkey, netuid, s.totalHotkeyAlpha.get(w, hotkey, netuid)+amount)
}
