package localnet

import (
	"math/big"
	"math/bits"

	"basilica/scale"
)

func (rt *runtime) stakingCalls(net field) []call {
	hotkey := field{"hotkey", tAccount, "T::AccountId"}
	return []call{
		{2, "add_stake", []field{hotkey, net, {"amount_staked", tU64, "TaoBalance"}}, false, weight{3239804000, 12925}, func(rt *runtime, r *scale.Reader) dispatch {
			hot, netuid, amount := readAccount(r), r.U16(), r.U64()
			return dispatch{run: func(x *execution, from origin) error { return rt.addStake(x, from, hot, netuid, amount) }}
		}},
		{3, "remove_stake", []field{hotkey, net, {"amount_unstaked", tU64, "AlphaBalance"}}, false, weight{2744938000, 14755}, func(rt *runtime, r *scale.Reader) dispatch {
			hot, netuid, amount := readAccount(r), r.U16(), r.U64()
			return dispatch{run: func(x *execution, from origin) error { return rt.removeStake(x, from, hot, netuid, amount) }}
		}},
	}
}

// addStake stakes TAO. Every subnet here has the stable mechanism: 1 TAO is 1 alpha, without a fee.
func (rt *runtime) addStake(x *execution, from origin, hotkey account, netuid uint16, amount uint64) error {
	s := rt.subnets
	switch {
	case from.root:
		return badOrigin
	case !s.networksAdded.get(x, netuid):
		return subtensorError("SubnetNotExists")
	case !s.subtokenEnabled.get(x, netuid):
		return subtensorError("SubtokenDisabled")
	case amount < minStake:
		return subtensorError("AmountTooLow")
	case rt.system.account.get(x, from.who).free < amount:
		return subtensorError("NotEnoughBalanceToStake")
	}
	if _, exists := s.owner.find(x, hotkey); !exists {
		return subtensorError("HotKeyAccountNotExists")
	}
	if err := rt.transfer(x, from.who, subnetAccount(netuid), amount, false); err != nil {
		return err
	}
	s.subnetTAO.change(x, netuid, func(v uint64) uint64 { return v + amount })
	s.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v + amount })
	s.totalStake.set(x, s.totalStake.get(x)+amount)
	rt.stakeAlpha(x, hotkey, from.who, netuid, amount)
	x.emit(eventStakeAdded, from.who[:], hotkey[:], u64(amount), u64(amount), u16(netuid), u64(0))
	return nil
}

// removeStake pays alpha out as TAO; more than there is means all of it.
func (rt *runtime) removeStake(x *execution, from origin, hotkey account, netuid uint16, amount uint64) error {
	s := rt.subnets
	if from.root {
		return badOrigin
	}
	if !s.subtokenEnabled.get(x, netuid) {
		return subtensorError("SubtokenDisabled")
	}
	staked := rt.alphaOf(x, hotkey, from.who, netuid)
	amount = min(amount, staked)
	switch {
	case staked == 0:
		return subtensorError("AmountTooLow")
	case !s.networksAdded.get(x, netuid):
		return subtensorError("SubnetNotExists")
	case amount == 0 || amount < minStake && amount != staked:
		return subtensorError("AmountTooLow")
	case s.subnetTAO.get(x, netuid) < amount:
		return subtensorError("InsufficientLiquidity")
	}
	if _, exists := s.owner.find(x, hotkey); !exists {
		return subtensorError("HotKeyAccountNotExists")
	}
	if err := rt.transfer(x, subnetAccount(netuid), from.who, amount, false); err != nil {
		return err
	}
	rt.unstakeAlpha(x, hotkey, from.who, netuid, amount)
	s.subnetTAO.change(x, netuid, func(v uint64) uint64 { return v - amount })
	s.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v - min(v, amount) })
	total := s.totalStake.get(x)
	s.totalStake.set(x, total-min(total, amount))
	x.emit(eventStakeRemoved, from.who[:], hotkey[:], u64(amount), u64(amount), u16(netuid), u64(0))
	return nil
}

// Stake of one hotkey on one subnet is a pool: each coldkey holds shares of the hotkey's alpha. Shares are kept as
// integers times 10^shareExponent, so that a stake made after dividends loses less than a rao.
const (
	shareExponent = -9
	sharesPerRao  = 1_000_000_000
)

func (s shares) big() *big.Int {
	v := new(big.Int).SetUint64(s.mantissa[0])
	return v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(s.mantissa[1]))
}

func sharesOf(v *big.Int) shares {
	hi := new(big.Int).Rsh(v, 64)
	lo := new(big.Int).And(v, new(big.Int).SetUint64(1<<64-1))
	return shares{[2]uint64{hi.Uint64(), lo.Uint64()}, shareExponent}
}

// alphaOf is what a coldkey's shares of a hotkey are worth, in rao of alpha.
func (rt *runtime) alphaOf(r reader, hotkey, coldkey account, netuid uint16) uint64 {
	s := rt.subnets
	total := s.totalShares.get(r, hotkey, netuid).big()
	if total.Sign() == 0 {
		return 0
	}
	v := new(big.Int).SetUint64(s.totalHotkeyAlpha.get(r, hotkey, netuid))
	v.Mul(v, s.alpha.get(r, hotkey, coldkey, netuid).big())
	return v.Quo(v, total).Uint64()
}

// stakeAlpha gives a coldkey alpha on a hotkey.
func (rt *runtime) stakeAlpha(w writer, hotkey, coldkey account, netuid uint16, amount uint64) {
	s := rt.subnets
	pool, total := s.totalHotkeyAlpha.get(w, hotkey, netuid), s.totalShares.get(w, hotkey, netuid).big()
	minted := new(big.Int).SetUint64(amount)
	if pool == 0 || total.Sign() == 0 {
		minted.Mul(minted, big.NewInt(sharesPerRao))
	} else {
		minted.Mul(minted, total).Quo(minted, new(big.Int).SetUint64(pool))
	}
	own := s.alpha.get(w, hotkey, coldkey, netuid).big()
	s.alpha.set(w, hotkey, coldkey, netuid, sharesOf(own.Add(own, minted)))
	s.totalShares.set(w, hotkey, netuid, sharesOf(total.Add(total, minted)))
	s.totalHotkeyAlpha.set(w, hotkey, netuid, pool+amount)
	s.stakingHotkeys.change(w, coldkey, func(v []account) []account {
		for _, h := range v {
			if h == hotkey {
				return v
			}
		}
		return append(v, hotkey)
	})
}

// unstakeAlpha takes alpha from a coldkey, at most what alphaOf says.
func (rt *runtime) unstakeAlpha(w writer, hotkey, coldkey account, netuid uint16, amount uint64) {
	s := rt.subnets
	pool, total := s.totalHotkeyAlpha.get(w, hotkey, netuid), s.totalShares.get(w, hotkey, netuid).big()
	own := s.alpha.get(w, hotkey, coldkey, netuid).big()
	burned := new(big.Int).Set(own)
	if amount < rt.alphaOf(w, hotkey, coldkey, netuid) {
		burned.SetUint64(amount).Mul(burned, total).Quo(burned, new(big.Int).SetUint64(pool))
	}
	own.Sub(own, burned)
	total.Sub(total, burned)
	if own.Sign() == 0 {
		s.alpha.del(w, hotkey, coldkey, netuid)
	} else {
		s.alpha.set(w, hotkey, coldkey, netuid, sharesOf(own))
	}
	if total.Sign() == 0 {
		s.totalShares.del(w, hotkey, netuid)
	} else {
		s.totalShares.set(w, hotkey, netuid, sharesOf(total))
	}
	s.totalHotkeyAlpha.set(w, hotkey, netuid, pool-amount)
}

// rewardStakers adds alpha to a hotkey's pool, so that every staker gains by its shares; without stakers it goes to
// the owner.
func (rt *runtime) rewardStakers(w writer, hotkey account, netuid uint16, amount uint64) {
	s := rt.subnets
	if s.totalShares.get(w, hotkey, netuid).big().Sign() == 0 {
		rt.stakeAlpha(w, hotkey, s.owner.get(w, hotkey), netuid, amount)
		return
	}
	s.totalHotkeyAlpha.set(w, hotkey, netuid, s.totalHotkeyAlpha.get(w, hotkey, netuid)+amount)
}

// portion is amount * part / whole, truncated.
func portion(amount, part, whole uint64) uint64 {
	if whole == 0 {
		return 0
	}
	hi, lo := bits.Mul64(amount, part)
	q, _ := bits.Div64(hi%whole, lo, whole)
	return q
}
