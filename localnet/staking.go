package localnet

import (
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

// portion is amount * part / whole, truncated.
func portion(amount, part, whole uint64) uint64 {
	if whole == 0 {
		return 0
	}
	hi, lo := bits.Mul64(amount, part)
	q, _ := bits.Div64(hi%whole, lo, whole)
	return q
}
