package localnet

import (
	"maps"
	"math/bits"
	"slices"

	"basilica/scale"
)

// stake is what a coldkey holds of a hotkey on a subnet.
type stake struct {
	view
	*subtensorStore
	hotkey, coldkey account
	netuid          uint16
}

func (v view) stake(hotkey, coldkey account, netuid uint16) *stake {
	return &stake{v, v.rt.subnets, hotkey, coldkey, netuid}
}

func (s stake) rao() uint64 { return s.rt.alphaOf(s, s.hotkey, s.coldkey, s.netuid) }

// stakes are all that a coldkey holds: hotkeys in the order in which it staked on them, subnets in the order of storage.
func (v view) stakes(coldkey account) (list []stake) {
	for _, hotkey := range v.rt.subnets.stakingHotkeys.get(v, coldkey) {
		for _, netuid := range v.rt.sortedNetuids(v) {
			if s := v.stake(hotkey, coldkey, netuid); s.rao() > 0 {
				list = append(list, *s)
			}
		}
	}
	return list
}

func nothing(stake) uint64 { return 0 }

var fStake = record(rpcInfo+"stake_info::StakeInfo",
	whose("hotkey", func(s stake) account { return s.hotkey }),
	whose("coldkey", func(s stake) account { return s.coldkey }),
	short("netuid", netuidName, func(s stake) uint16 { return s.netuid }),
	long("stake", alphaName, stake.rao),
	long("locked", compact64Name, nothing),
	long("emission", alphaName, func(s stake) uint64 { return s.alphaDividends.get(s, s.netuid, s.hotkey) }),
	long("tao_emission", taoName, nothing),
	long("drain", compact64Name, nothing),
	flag("is_registered", func(s stake) bool {
		_, registered := s.uids.find(s, s.netuid, s.hotkey)
		return registered
	}))

// coldkeyStakes is one element of get_stake_info_for_coldkeys.
type coldkeyStakes struct {
	coldkey account
	stakes  []stake
}

var fColdkeyStakes = many(form[coldkeyStakes]{tuple(tAccount, many(fStake).shape), func(b []byte, c coldkeyStakes) []byte {
	return many(fStake).put(append(b, c.coldkey[:]...), c.stakes)
}})

// availability is what of a coldkey's stake on a subnet is locked.
type availability struct{ total, locked uint64 }

type availabilities struct {
	coldkey account
	netuids map[uint16]availability
}

var (
	fAvailability = record(rpcInfo+"stake_info::StakeAvailability",
		long("total", alphaName, func(a availability) uint64 { return a.total }),
		long("locked", alphaName, func(a availability) uint64 { return a.locked }),
		long("available", alphaName, func(a availability) uint64 { return a.total - min(a.total, a.locked) }))
	tNetAvailability = btree("BTreeMap", []param{{"K", &tU16}, {"V", &fAvailability.shape}}, tuple(tU16, fAvailability.shape))
	fAvailabilities  = form[[]availabilities]{
		btree("BTreeMap", []param{{"K", &tAccount}, {"V", &tNetAvailability}}, tuple(tAccount, tNetAvailability)),
		func(b []byte, list []availabilities) []byte {
			b = scale.AppendCompact(b, uint64(len(list)))
			for _, a := range list {
				b = scale.AppendCompact(append(b, a.coldkey[:]...), uint64(len(a.netuids)))
				for _, netuid := range slices.Sorted(maps.Keys(a.netuids)) {
					b = fAvailability.put(scale.AppendU16(b, netuid), a.netuids[netuid])
				}
			}
			return b
		},
	}
)

// availabilities sums up what coldkeys hold, on the given subnets or on all; a coldkey is listed once.
func (v view) availabilities(coldkeys []account, netuids []uint16, all bool) []availabilities {
	coldkeys = slices.Clone(coldkeys)
	slices.SortFunc(coldkeys, func(a, b account) int { return slices.Compare(a[:], b[:]) })
	out := make([]availabilities, 0, len(coldkeys))
	for _, coldkey := range slices.Compact(coldkeys) {
		a := availabilities{coldkey, map[uint16]availability{}}
		for _, s := range v.stakes(coldkey) {
			if all || slices.Contains(netuids, s.netuid) {
				sum := a.netuids[s.netuid]
				sum.total += s.rao()
				a.netuids[s.netuid] = sum
			}
		}
		for netuid, sum := range a.netuids {
			if lock := v.lock(coldkey, netuid); lock != nil {
				sum.locked = lock.mass
				a.netuids[netuid] = sum
			}
		}
		out = append(out, a)
	}
	return out
}

// lock is what a coldkey has locked on a subnet, on whichever hotkey.
func (v view) lock(coldkey account, netuid uint16) *lockState {
	m := v.rt.subnets.lock
	for _, key := range v.scan(m.underBoth(coldkey, netuid)) {
		if l, locked := m.read(v, key); locked {
			return &l
		}
	}
	return nil
}

// conviction is the sum of what coldkeys have locked for a hotkey, as U64F64.
func (v view) conviction(hotkey account, netuid uint16) [2]uint64 {
	return v.rt.subnets.hotkeyLock.get(v, netuid, hotkey).conviction
}

// mostConvicted is the hotkey with the highest conviction on a subnet.
func (v view) mostConvicted(netuid uint16) (best *account) {
	m := v.rt.subnets.hotkeyLock
	var highest [2]uint64
	for _, key := range v.scan(m.under(netuid)) {
		l, _ := m.read(v, key)
		if best == nil || slices.Compare(l.conviction[:], highest[:]) > 0 {
			var a account
			copy(a[:], key[len(key)-len(a):])
			best, highest = &a, l.conviction
		}
	}
	return best
}

// price is one alpha of a subnet in rao of TAO.
func (v view) price(netuid uint16) uint64 {
	s := v.rt.subnets
	if s.mechanism.get(v, netuid) != dynamicMech {
		return raoPerTAO
	}
	return portion(s.subnetTAO.get(v, netuid), raoPerTAO, s.subnetAlphaIn.get(v, netuid))
}

type subnetPrice struct {
	netuid uint16
	rao    uint64
}

var fPrice = record("pallet_subtensor_swap_runtime_api::SubnetPrice",
	fill("netuid", "NetUid", plain(cU16), func(p subnetPrice) uint16 { return p.netuid }),
	fill("price", "u64", plain(cU64), func(p subnetPrice) uint64 { return p.rao }))

// simulated is what a swap would do: amounts without the fee, the fee, and what the whole input is worth at the present
// price above what comes out.
type simulated struct{ tao, alpha, taoFee, alphaFee, taoSlippage, alphaSlippage uint64 }

var fSimulated = record("pallet_subtensor_swap_runtime_api::SimSwapResult",
	fill("tao_amount", "TaoBalance", plain(cU64), func(s simulated) uint64 { return s.tao }),
	fill("alpha_amount", "AlphaBalance", plain(cU64), func(s simulated) uint64 { return s.alpha }),
	fill("tao_fee", "TaoBalance", plain(cU64), func(s simulated) uint64 { return s.taoFee }),
	fill("alpha_fee", "AlphaBalance", plain(cU64), func(s simulated) uint64 { return s.alphaFee }),
	fill("tao_slippage", "TaoBalance", plain(cU64), func(s simulated) uint64 { return s.taoSlippage }),
	fill("alpha_slippage", "AlphaBalance", plain(cU64), func(s simulated) uint64 { return s.alphaSlippage }))

// simulate swaps an amount without changing anything. What the pool would refuse gives zeros.
func (v view) simulate(netuid uint16, amount uint64, selling bool) (out simulated) {
	s := v.rt.subnets
	reserveIn, reserveOut := s.subnetTAO.get(v, netuid), s.subnetAlphaIn.get(v, netuid)
	if selling {
		reserveIn, reserveOut = reserveOut, reserveIn
	}
	fee := v.rt.swapFee(v, netuid, amount)
	in, received, atPrice := amount-fee, amount-fee, amount
	switch {
	case !s.networksAdded.get(v, netuid):
		in, fee, received = 0, 0, 0
	case s.mechanism.get(v, netuid) == dynamicMech:
		if over, most := bits.Mul64(reserveIn, maxInputPerPool); over == 0 && in > most {
			return simulated{}
		}
		received, atPrice = bought(in, reserveIn, reserveOut), portion(amount, reserveOut, reserveIn)
	}
	slippage := atPrice - min(atPrice, received)
	if selling {
		return simulated{tao: received, alpha: in, alphaFee: fee, taoSlippage: slippage}
	}
	return simulated{tao: in, alpha: received, taoFee: fee, alphaSlippage: slippage}
}
