package localnet

import (
	"math/bits"

	"basilica/scale"
	"basilica/yuma"
)

func (rt *runtime) registrationCalls(net field) []call {
	hotkey := field{"hotkey", tAccount, "T::AccountId"}
	coldkey := field{"coldkey", tAccount, "T::AccountId"}
	return []call{
		// Proof of work is not asked for at spec 425: its arguments are read and the price is paid.
		{6, "register", []field{net, {"block_number", tU64, "u64"}, {"nonce", tU64, "u64"}, {"work", tBytes, "Vec<u8>"}, hotkey, coldkey}, false, weight{4_275_612_000, 10346}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid := r.U16()
			r.U64()
			r.U64()
			r.Bytes()
			hot := readAccount(r)
			readAccount(r)
			return rt.register(netuid, hot, nil)
		}},
		{7, "burned_register", []field{net, hotkey}, false, weight{4_262_555_000, 10346}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid, hot := r.U16(), readAccount(r)
			return rt.register(netuid, hot, nil)
		}},
		{134, "register_limit", []field{net, hotkey, {"limit_price", tU64, "u64"}}, false, weight{5_704_940_000, 4198}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid, hot, limit := r.U16(), readAccount(r), r.U64()
			return rt.register(netuid, hot, &limit)
		}},
		{62, "root_register", []field{hotkey}, false, weight{2_354_674_000, 9179}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.rootRegister(readAccount(r))
		}},
	}
}

// register buys a place on a subnet; limit, where given, caps its price in rao. The price is swapped to alpha, which is
// nobody's.
func (rt *runtime) register(netuid uint16, hotkey account, limit *uint64) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		price := s.burn.get(x, netuid)
		switch {
		case from.root:
			return badOrigin
		case netuid == rootNetuid:
			return subtensorError("RegistrationNotPermittedOnRootSubnet")
		case !s.networksAdded.get(x, netuid):
			return subtensorError("SubnetNotExists")
		case limit != nil && price > *limit:
			return subtensorError("RegistrationPriceLimitExceeded")
		case !s.registrationAllowed.get(x, netuid):
			return subtensorError("SubNetRegistrationDisabled")
		}
		if _, registered := s.uids.find(x, netuid, hotkey); registered {
			return subtensorError("HotKeyAlreadyRegisteredInSubNet")
		}
		if free := rt.system.account.get(x, from.who).free; free < price || free-price < existentialDeposit {
			return subtensorError("NotEnoughBalanceToStake")
		}
		if err := rt.ownHotkey(x, from.who, hotkey); err != nil {
			return err
		}
		uid, replace, err := rt.freeUID(x, netuid)
		if err != nil {
			return err
		}
		if err := rt.transfer(x, from.who, subnetAccount(netuid), price, true); err != nil {
			return err
		}
		alpha := rt.buyAlpha(x, netuid, price-rt.swapFee(x, netuid, price), price)
		s.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v - min(v, alpha) })
		rt.flow(x, netuid, int64(price))
		s.raoRecycled.change(x, netuid, func(v uint64) uint64 { return v + price })
		x.emit(eventRAORecycledSet, u16(netuid), u64(s.raoRecycled.get(x, netuid)))
		if replace {
			rt.evict(x, netuid, uid)
		}
		rt.seat(x, netuid, uid, hotkey)
		s.burn.set(x, netuid, rt.clampBurn(x, netuid, scaled(price, s.burnIncrease.get(x, netuid))))
		s.registrationsThisBlock.change(x, netuid, func(v uint16) uint16 { return v + 1 })
		x.emit(eventNeuronRegistered, u16(netuid), u16(uid), hotkey[:])
		return nil
	}}
}

// rootRegister gives a hotkey a place on the root network, for nothing: a full one drops whoever has least root stake.
// Only here do the limits of registrations per block and interval hold.
func (rt *runtime) rootRegister(hotkey account) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		switch {
		case from.root:
			return badOrigin
		case !s.networksAdded.get(x, rootNetuid):
			return subtensorError("RootNetworkDoesNotExist")
		case s.registrationsThisBlock.get(x, rootNetuid) >= s.maxRegistrationsPerBlock.get(x, rootNetuid):
			return subtensorError("TooManyRegistrationsThisBlock")
		case s.registrationsThisInterval.get(x, rootNetuid) >= 3*s.targetRegistrationsPerInterval.get(x, rootNetuid):
			return subtensorError("TooManyRegistrationsThisInterval")
		}
		if _, registered := s.uids.find(x, rootNetuid, hotkey); registered {
			return subtensorError("HotKeyAlreadyRegisteredInSubNet")
		}
		if err := rt.ownHotkey(x, from.who, hotkey); err != nil {
			return err
		}
		uid := s.subnetworkN.get(x, rootNetuid)
		if uid >= s.maxAllowedUids.get(x, rootNetuid) {
			lowest, stake := uint16(0), uint64(0)
			for other := range uid {
				if v := s.totalHotkeyAlpha.get(x, s.keys.get(x, rootNetuid, other), rootNetuid); other == 0 || v < stake {
					lowest, stake = other, v
				}
			}
			if uid == 0 || s.totalHotkeyAlpha.get(x, hotkey, rootNetuid) <= stake {
				return subtensorError("StakeTooLowForRoot")
			}
			uid = lowest
			rt.evict(x, rootNetuid, uid)
		}
		rt.seat(x, rootNetuid, uid, hotkey)
		if _, delegate := s.delegates.find(x, hotkey); !delegate {
			s.delegates.set(x, hotkey, s.delegates.fallback)
		}
		for _, count := range []map1[uint16, uint16]{s.registrationsThisBlock, s.registrationsThisInterval} {
			count.change(x, rootNetuid, func(v uint16) uint16 { return v + 1 })
		}
		x.emit(eventNeuronRegistered, u16(rootNetuid), u16(uid), hotkey[:])
		return nil
	}}
}

// ownHotkey makes coldkey the owner of a new hotkey, or checks that it is.
func (rt *runtime) ownHotkey(w writer, coldkey, hotkey account) error {
	s := rt.subnets
	if owner, owned := s.owner.find(w, hotkey); owned {
		if owner != coldkey {
			return subtensorError("NonAssociatedColdKey")
		}
		return nil
	}
	s.owner.set(w, hotkey, coldkey)
	for _, list := range []map1[account, []account]{s.ownedHotkeys, s.stakingHotkeys} {
		list.change(w, coldkey, func(v []account) []account { return append(v, hotkey) })
	}
	return nil
}

// freeUID is the next uid, or the one to replace on a full subnet.
func (rt *runtime) freeUID(x *execution, netuid uint16) (uid uint16, replace bool, err error) {
	s := rt.subnets
	n, limit := s.subnetworkN.get(x, netuid), s.maxAllowedUids.get(x, netuid)
	if n < limit {
		return n, false, nil
	}
	if limit > 0 {
		if uid, found := rt.pruned(x, netuid, n); found {
			return uid, true, nil
		}
	}
	return 0, false, subtensorError("NoNeuronIdAvailable")
}

// pruned chooses the neuron to replace: the lowest emission, then the oldest, then the lowest uid; those still immune
// only where no more than MinNonImmuneUids others are left. The owner's immune hotkeys are never chosen.
func (rt *runtime) pruned(x *execution, netuid, n uint16) (uint16, bool) {
	s := rt.subnets
	emission, immunity := s.emission.get(x, netuid), uint64(s.immunityPeriod.get(x, netuid))
	spared := map[account]bool{}
	if owner, set := s.subnetOwnerHotkey.find(x, netuid); set && s.immuneOwnerUids.get(x, netuid) > 0 {
		spared[owner] = true
	}
	best := map[bool]uint16{}
	count := map[bool]int{}
	better := func(a, b uint16) bool {
		ea, eb := element(emission, a), element(emission, b)
		ra, rb := s.registeredBlock.get(x, netuid, a), s.registeredBlock.get(x, netuid, b)
		return ea < eb || ea == eb && ra < rb
	}
	for uid := range n {
		if spared[s.keys.get(x, netuid, uid)] {
			continue
		}
		immune := x.block-s.registeredBlock.get(x, netuid, uid) < immunity
		if count[immune]++; count[immune] == 1 || better(uid, best[immune]) {
			best[immune] = uid
		}
	}
	if count[false] > int(s.minNonImmuneUids.get(x, netuid)) {
		return best[false], true
	}
	return best[true], count[true] > 0
}

// evict removes what belongs to the neuron at uid. Bonds of others towards it stay; their weights become 0.
func (rt *runtime) evict(x *execution, netuid, uid uint16) {
	s := rt.subnets
	hotkey := s.keys.get(x, netuid, uid)
	s.uids.del(x, netuid, hotkey)
	s.isMember.del(x, hotkey, netuid)
	s.axons.del(x, netuid, hotkey)
	s.prometheus.del(x, netuid, hotkey)
	s.certificates.del(x, netuid, hotkey)
	for mecid := range s.mechanismCountCurrent.get(x, netuid) {
		index := storageIndex(netuid, mecid)
		s.weights.del(x, index, uid)
		s.bonds.del(x, index, uid)
		for other := range s.subnetworkN.get(x, netuid) {
			row, has := s.weights.read(x, s.weights.key(index, other))
			if !has {
				continue
			}
			for i := range row {
				if row[i].UID == uid {
					row[i] = yuma.Entry{UID: uid}
				}
			}
			s.weights.set(x, index, other, row)
		}
		s.incentive.set(x, index, replaced(s.incentive.get(x, index), uid, 0))
	}
	s.emission.set(x, netuid, replaced(s.emission.get(x, netuid), uid, 0))
	for _, v := range []map1[uint16, []uint16]{s.consensus, s.dividends, s.trust, s.stakeWeight} {
		v.set(x, netuid, replaced(v.get(x, netuid), uid, 0))
	}
}

// seat puts a hotkey on a uid, which is the next free one or an evicted one's.
func (rt *runtime) seat(x *execution, netuid, uid uint16, hotkey account) {
	s := rt.subnets
	if n := s.subnetworkN.get(x, netuid); uid == n {
		s.subnetworkN.set(x, netuid, n+1)
		s.emission.set(x, netuid, replaced(s.emission.get(x, netuid), uid, 0))
		for _, v := range []map1[uint16, []uint16]{s.consensus, s.dividends, s.trust} {
			v.set(x, netuid, replaced(v.get(x, netuid), uid, 0))
		}
		for mecid := range s.mechanismCountCurrent.get(x, netuid) {
			index := storageIndex(netuid, mecid)
			s.incentive.set(x, index, replaced(s.incentive.get(x, index), uid, 0))
		}
	}
	s.active.set(x, netuid, replaced(s.active.get(x, netuid), uid, true))
	s.permit.set(x, netuid, replaced(s.permit.get(x, netuid), uid, false))
	for mecid := range s.mechanismCountCurrent.get(x, netuid) {
		index := storageIndex(netuid, mecid)
		s.lastUpdate.set(x, index, replaced(s.lastUpdate.get(x, index), uid, x.block))
	}
	s.keys.set(x, netuid, uid, hotkey)
	s.uids.set(x, netuid, hotkey, uid)
	s.registeredBlock.set(x, netuid, uid, x.block)
	s.isMember.set(x, hotkey, netuid, true)
}

// scaled is rao times a U64F64 given as its high and low half, truncated; a factor below 1 acts as 1.
func scaled(rao uint64, factor [2]uint64) uint64 {
	if factor[0] == 0 {
		return rao
	}
	hi, _ := bits.Mul64(rao, factor[1])
	over, lo := bits.Mul64(rao, factor[0])
	sum, carry := bits.Add64(lo, hi, 0)
	if over != 0 || carry != 0 {
		return 1<<64 - 1
	}
	return sum
}

func (rt *runtime) clampBurn(r reader, netuid uint16, burn uint64) uint64 {
	return min(max(burn, rt.subnets.minBurn.get(r, netuid)), rt.subnets.maxBurn.get(r, netuid))
}

// decayBurn lets the price fall by half in BurnHalfLife blocks and clamps it, as every block begins, and starts the counts
// of registrations over.
func (rt *runtime) decayBurn(x *execution, netuid uint16) {
	s := rt.subnets
	burn := s.burn.get(x, netuid)
	if halfLife := s.burnHalfLife.get(x, netuid); halfLife > 0 {
		hi, lo := bits.Mul64(burn, decayFactor(halfLife))
		burn = hi<<32 | lo>>32
	}
	s.burn.set(x, netuid, rt.clampBurn(x, netuid, burn))
	s.registrationsThisBlock.set(x, netuid, 0)
	// Root is due in every block once its tempo has passed: its epoch never runs.
	if s.registrationsThisInterval.get(x, netuid) > 0 && rt.due(x, netuid) {
		s.registrationsThisInterval.set(x, netuid, 0)
	}
}

// decayFactor is the largest factor with 32 fraction bits whose power of halfLife is at most one half.
func decayFactor(halfLife uint16) uint64 {
	power := func(f uint64) uint64 {
		result, base := uint64(1<<32), f
		for n := halfLife; n > 0; n >>= 1 {
			if n&1 == 1 {
				result = result * base >> 32
			}
			base = base * base >> 32
		}
		return result
	}
	low, high := uint64(0), uint64(1<<32-1)
	for low < high {
		mid := (low + high + 1) / 2
		if power(mid) <= 1<<31 {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}
