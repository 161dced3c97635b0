package localnet

import (
	"math"
	"math/bits"

	"basilica/scale"
)

func (rt *runtime) stakingCalls(net field) []call {
	account32 := func(name string) field { return field{name, tAccount, "T::AccountId"} }
	hotkey := account32("hotkey")
	tao, alpha := field{"amount_staked", tU64, "TaoBalance"}, field{"amount_unstaked", tU64, "AlphaBalance"}
	limits := []field{{"limit_price", tU64, "TaoBalance"}, {"allow_partial", tBool, "bool"}}
	from, to := field{"origin_netuid", tU16, "NetUid"}, field{"destination_netuid", tU16, "NetUid"}
	moved := field{"alpha_amount", tU64, "AlphaBalance"}
	return []call{
		{2, "add_stake", []field{hotkey, net, tao}, false, weight{3_239_804_000, 12925}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.addStake(order{hotkey: readAccount(r), netuid: r.U16(), amount: r.U64()})
		}},
		{3, "remove_stake", []field{hotkey, net, alpha}, false, weight{2_744_938_000, 14755}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.removeStake(order{hotkey: readAccount(r), netuid: r.U16(), amount: r.U64()})
		}},
		{88, "add_stake_limit", append([]field{hotkey, net, tao}, limits...), false, weight{3_428_745_000, 12925}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.addStake(readLimited(r))
		}},
		{89, "remove_stake_limit", append([]field{hotkey, net, alpha}, limits...), false, weight{2_744_938_000, 14755}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.removeStake(readLimited(r))
		}},
		{85, "move_stake", []field{account32("origin_hotkey"), account32("destination_hotkey"), from, to, moved}, false, weight{1_509_281_000, 12192}, func(rt *runtime, r *scale.Reader) dispatch {
			a, b := readAccount(r), readAccount(r)
			return rt.moveStake(move{kind: eventStakeMoved, from: a, to: b, origin: r.U16(), target: r.U16(), alpha: r.U64()})
		}},
		{86, "transfer_stake", []field{account32("destination_coldkey"), hotkey, from, to, moved}, false, weight{1_509_281_000, 12192}, func(rt *runtime, r *scale.Reader) dispatch {
			coldkey, hot := readAccount(r), readAccount(r)
			return rt.moveStake(move{kind: eventStakeTransferred, coldkey: &coldkey, from: hot, to: hot, origin: r.U16(), target: r.U16(), alpha: r.U64()})
		}},
		{87, "swap_stake", []field{hotkey, from, to, moved}, false, weight{1_509_281_000, 12192}, func(rt *runtime, r *scale.Reader) dispatch {
			hot := readAccount(r)
			return rt.moveStake(move{kind: eventStakeSwapped, from: hot, to: hot, origin: r.U16(), target: r.U16(), alpha: r.U64()})
		}},
	}
}

// order asks for stake to be bought or sold. limit, which may be nil, is the worst price in rao per alpha; partial says
// that what is within the limit shall be done.
type order struct {
	hotkey  account
	netuid  uint16
	amount  uint64
	limit   *uint64
	partial bool
}

func readLimited(r *scale.Reader) order {
	o := order{hotkey: readAccount(r), netuid: r.U16(), amount: r.U64()}
	limit := r.U64()
	o.limit, o.partial = &limit, r.Bool()
	return o
}

// smallestStake is what a stake must be worth in rao, the pool's fee of it included.
func (rt *runtime) smallestStake(r reader, netuid uint16) uint64 {
	return minStake + rt.swapFee(r, netuid, minStake)
}

// addStake stakes TAO: all checks are the call's own, none the pool's.
func (rt *runtime) addStake(o order) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		if from.root {
			return badOrigin
		}
		amount, err := rt.admitStake(x, from.who, o)
		if err != nil {
			return err
		}
		return rt.buyStake(x, from.who, o.hotkey, o.netuid, amount)
	}}
}

// admitStake checks in the runtime's order and gives how much may be staked.
func (rt *runtime) admitStake(x *execution, coldkey account, o order) (amount uint64, err error) {
	s := rt.subnets
	most := uint64(math.MaxUint64)
	if o.limit != nil {
		most = rt.roomToPrice(x, o.netuid, *o.limit, false)
	}
	dynamic := s.mechanism.get(x, o.netuid) == dynamicMech
	amount = o.amount
	if o.partial {
		if most == 0 {
			return 0, swapError("PriceLimitExceeded")
		}
		amount = min(amount, most)
	}
	hi, room := bits.Mul64(s.subnetTAO.get(x, o.netuid), maxInputPerPool)
	switch {
	case dynamic && hi == 0 && amount > room:
		return 0, subtensorError("InsufficientLiquidity")
	case !s.networksAdded.get(x, o.netuid):
		return 0, subtensorError("SubnetNotExists")
	case !s.subtokenEnabled.get(x, o.netuid):
		return 0, subtensorError("SubtokenDisabled")
	case amount < rt.smallestStake(x, o.netuid):
		return 0, subtensorError("AmountTooLow")
	case amount > most:
		return 0, subtensorError("SlippageTooHigh")
	case rt.system.account.get(x, coldkey).free < amount:
		return 0, subtensorError("NotEnoughBalanceToStake")
	}
	if _, exists := s.owner.find(x, o.hotkey); !exists {
		return 0, subtensorError("HotKeyAccountNotExists")
	}
	if dynamic && s.subnetAlphaIn.get(x, o.netuid) == 0 {
		return 0, subtensorError("InsufficientLiquidity")
	}
	return amount, nil
}

// buyStake pays TAO for alpha; the pool's fee goes to the author.
func (rt *runtime) buyStake(x *execution, coldkey, hotkey account, netuid uint16, amount uint64) error {
	s, vault := rt.subnets, subnetAccount(netuid)
	fee := rt.swapFee(x, netuid, amount)
	if err := rt.transfer(x, coldkey, vault, amount, false); err != nil {
		return err
	}
	alpha := rt.buyAlpha(x, netuid, amount-fee, amount)
	rt.flow(x, netuid, int64(amount-fee))
	rt.stakeAlpha(x, hotkey, coldkey, netuid, alpha)
	if netuid == rootNetuid {
		rt.joinRoot(x, coldkey, hotkey, alpha)
	}
	if err := rt.payAuthor(x, vault, fee); err != nil {
		return err
	}
	s.lastColdkeyHotkeyStakeBlock.set(x, coldkey, hotkey, x.block)
	x.emit(eventStakeAdded, coldkey[:], hotkey[:], u64(amount), u64(alpha), u16(netuid), u64(fee))
	return nil
}

// payAuthor sends what a pool kept back; the event comes also where that is nothing.
func (rt *runtime) payAuthor(x *execution, vault account, rao uint64) error {
	if rao == 0 {
		x.emit(eventTransfer, vault[:], x.author[:], u64(0))
		return nil
	}
	return rt.transfer(x, vault, x.author, rao, false)
}

// joinRoot keeps the books of root stake: new stake has no claim on what was earned before it, and every coldkey with root
// stake is listed.
func (rt *runtime) joinRoot(x *execution, coldkey, hotkey account, alpha uint64) {
	s := rt.subnets
	rt.claimUpTo(x, coldkey, hotkey, alpha, false)
	if _, listed := s.stakingColdkeys.find(x, coldkey); listed {
		return
	}
	n := s.numStakingColdkeys.get(x)
	s.stakingColdkeys.set(x, coldkey, n)
	s.stakingColdkeysByIndex.set(x, n, coldkey)
	s.numStakingColdkeys.set(x, n+1)
}

// claimUpTo counts what alpha of root stake would have earned as claimed, or takes that back when the stake goes.
func (rt *runtime) claimUpTo(x *execution, coldkey, hotkey account, alpha uint64, leaving bool) {
	s := rt.subnets
	for _, c := range s.rootClaimable.get(x, hotkey) {
		s.rootClaimed.change(x, c.netuid, hotkey, coldkey, func(v [2]uint64) [2]uint64 {
			earned := mulI96F32(c.rate, alpha)
			if !leaving {
				lo, carry := bits.Add64(v[1], earned, 0)
				return [2]uint64{v[0] + carry, lo}
			}
			lo, borrow := bits.Sub64(v[1], earned, 0)
			if v[0] < borrow {
				return [2]uint64{}
			}
			return [2]uint64{v[0] - borrow, lo}
		})
	}
}

// mulI96F32 is the integer part of a non-negative I96F32 times an integer.
func mulI96F32(f [2]uint64, n uint64) uint64 {
	hi, lo := bits.Mul64(f[1], n)
	hi += f[0] * n
	return hi<<32 | lo>>32
}

// removeStake pays alpha out as TAO; more than there is means all of it.
func (rt *runtime) removeStake(o order) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if from.root {
			return badOrigin
		}
		if o.limit == nil && !s.subtokenEnabled.get(x, o.netuid) {
			return subtensorError("SubtokenDisabled")
		}
		staked := rt.alphaOf(x, o.hotkey, from.who, o.netuid)
		amount, most := min(o.amount, staked), uint64(math.MaxUint64)
		if o.limit != nil {
			most = rt.roomToPrice(x, o.netuid, *o.limit, true)
		}
		if o.partial {
			if most == 0 {
				return swapError("PriceLimitExceeded")
			}
			amount = min(amount, most)
		}
		switch {
		case staked == 0:
			return subtensorError("AmountTooLow")
		case !s.networksAdded.get(x, o.netuid):
			return subtensorError("SubnetNotExists")
		case amount == 0 || amount != staked && rt.worth(x, o.netuid, amount) < minStake:
			return subtensorError("AmountTooLow")
		case amount > most:
			return subtensorError("SlippageTooHigh")
		}
		if _, exists := s.owner.find(x, o.hotkey); !exists {
			return subtensorError("HotKeyAccountNotExists")
		}
		_, err := rt.sellStake(x, from.who, o.hotkey, o.netuid, amount)
		return err
	}}
}

// worth is what alpha would bring in rao, the fee off.
func (rt *runtime) worth(r reader, netuid uint16, alpha uint64) uint64 {
	s := rt.subnets
	if s.mechanism.get(r, netuid) != dynamicMech {
		return alpha
	}
	return bought(alpha-rt.swapFee(r, netuid, alpha), s.subnetAlphaIn.get(r, netuid), s.subnetTAO.get(r, netuid))
}

// sellStake takes alpha from a coldkey's stake and pays it out.
func (rt *runtime) sellStake(x *execution, coldkey, hotkey account, netuid uint16, amount uint64) (tao uint64, err error) {
	s, vault := rt.subnets, subnetAccount(netuid)
	if s.mechanism.get(x, netuid) != dynamicMech && s.subnetTAO.get(x, netuid) < amount {
		return 0, subtensorError("InsufficientLiquidity")
	}
	fee := rt.swapFee(x, netuid, amount)
	rt.unstakeAlpha(x, hotkey, coldkey, netuid, amount)
	if netuid == rootNetuid {
		rt.claimUpTo(x, coldkey, hotkey, amount, true)
	}
	tao, feeTAO := rt.sellAlpha(x, netuid, amount, fee)
	if err := rt.transfer(x, vault, coldkey, tao, false); err != nil {
		return 0, err
	}
	if err := rt.payAuthor(x, vault, feeTAO); err != nil {
		return 0, err
	}
	s.lastColdkeyHotkeyStakeBlock.set(x, coldkey, hotkey, x.block)
	x.emit(eventStakeRemoved, coldkey[:], hotkey[:], u64(tao), u64(amount-fee), u16(netuid), u64(fee))
	return tao, nil
}

// move takes stake to another hotkey, coldkey or subnet. coldkey is nil where it stays.
type move struct {
	kind           eventID
	coldkey        *account
	from, to       account
	origin, target uint16
	alpha          uint64
}

// moveStake moves alpha within a subnet, or sells it on one and buys on the other.
func (rt *runtime) moveStake(m move) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		if from.root {
			return badOrigin
		}
		coldkey := from.who
		if m.coldkey != nil {
			coldkey = *m.coldkey
		}
		alpha, err := rt.admitMove(x, from.who, m)
		if err != nil {
			return err
		}
		tao := rt.worth(x, m.origin, alpha)
		if m.origin == m.target {
			rt.unstakeAlpha(x, m.from, from.who, m.origin, alpha)
			rt.stakeAlpha(x, m.to, coldkey, m.target, alpha)
			rt.subnets.lastColdkeyHotkeyStakeBlock.set(x, coldkey, m.to, x.block)
		} else {
			if tao, err = rt.sellStake(x, from.who, m.from, m.origin, alpha); err != nil {
				return err
			}
			if coldkey != from.who {
				if err := rt.transfer(x, from.who, coldkey, tao, false); err != nil {
					return err
				}
			}
			if err := rt.buyStake(x, coldkey, m.to, m.target, tao); err != nil {
				return err
			}
		}
		m.emit(x, from.who, coldkey, tao)
		return nil
	}}
}

func (m move) emit(x *execution, coldkey, target account, tao uint64) {
	switch m.kind {
	case eventStakeMoved:
		x.emit(m.kind, coldkey[:], m.from[:], u16(m.origin), m.to[:], u16(m.target), u64(tao))
	case eventStakeTransferred:
		x.emit(m.kind, coldkey[:], target[:], m.from[:], u16(m.origin), u16(m.target), u64(tao))
	default:
		x.emit(m.kind, coldkey[:], m.from[:], u16(m.origin), u16(m.target), u64(tao))
	}
}

// admitMove checks in the runtime's order and gives how much moves.
func (rt *runtime) admitMove(x *execution, coldkey account, m move) (alpha uint64, err error) {
	s := rt.subnets
	if m.coldkey == nil && m.from == m.to && m.origin == m.target {
		return 0, subtensorError("SameNetuid")
	}
	for _, netuid := range []uint16{m.origin, m.target} {
		switch {
		case !s.networksAdded.get(x, netuid):
			return 0, subtensorError("SubnetNotExists")
		case !s.subtokenEnabled.get(x, netuid):
			return 0, subtensorError("SubtokenDisabled")
		}
	}
	for _, hotkey := range []account{m.from, m.to} {
		if _, exists := s.owner.find(x, hotkey); !exists {
			return 0, subtensorError("HotKeyAccountNotExists")
		}
	}
	if m.coldkey != nil && (!s.transferToggle.get(x, m.origin) || !s.transferToggle.get(x, m.target)) {
		return 0, subtensorError("TransferDisallowed")
	}
	staked := rt.alphaOf(x, m.from, coldkey, m.origin)
	switch {
	case staked < m.alpha:
		return 0, subtensorError("NotEnoughStakeToWithdraw")
	case m.alpha == 0 || rt.worth(x, m.origin, m.alpha) < minStake:
		return 0, subtensorError("AmountTooLow")
	}
	return m.alpha, nil
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
