package localnet

import (
	"math/big"
	"math/bits"

	"basilica/scale"
)

const (
	swapIndex       = 28
	defaultFeeRate  = 33 // of 65535
	maxInputPerPool = 1000
	raoPerTAO       = 1_000_000_000
	dynamicMech     = 1 // SubnetMechanism of a subnet with a pool; 0 trades one for one
)

// swapStore is the state of the pools besides their reserves, which SubtensorModule has.
type swapStore struct {
	feeRate     map1[uint16, uint16]
	balancer    map1[uint16, uint64]
	initialised map1[uint16, bool]
	scrap       map1[uint16, uint64]
}

func (rt *runtime) swapPallet() module {
	p := &prefix{pallet: "Swap"}
	perquintill := composite("sp_arithmetic::per_things::Perquintill", nil, field{"", tU64, "u64"})
	balancer := composite("pallet_subtensor_swap::pallet::balancer::Balancer", nil, field{"quote", perquintill, "Perquintill"})
	rt.swap = &swapStore{
		feeRate:     newMap(p, "FeeRate", byNetTwox, cU16, defaultFeeRate),
		balancer:    newMap(p, "SwapBalancer", byNetTwox, as(balancer, cU64), 500_000_000_000_000_000),
		initialised: newMap(p, "PalSwapInitialized", byNetTwox, cBool, false),
		scrap:       newMap(p, "ScrapReservoirAlpha", byNetTwox, cU64, 0),
	}
	return module{
		name: "Swap", crate: "pallet_subtensor_swap::pallet", index: swapIndex, storage: p,
		calls: []call{{0, "set_fee_rate", []field{{"netuid", tU16, "NetUid"}, {"rate", tU16, "u16"}}, false, weight{404_373_000, 8410}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid, rate := r.U16(), r.U16()
			return dispatch{run: func(x *execution, from origin) error {
				switch {
				case !from.root && from.who != rt.subnets.subnetOwner.get(x, netuid):
					return badOrigin
				case !rt.subnets.networksAdded.get(x, netuid):
					return swapError("MechanismDoesNotExist")
				case rate > 1000:
					return swapError("FeeRateTooHigh")
				}
				rt.swap.feeRate.set(x, netuid, rate)
				x.emit(eventFeeRateSet, u16(netuid), u16(rate))
				return nil
			}}
		}}},
		events: []arm{eventFeeRateSet.arm("FeeRateSet", field{"netuid", tU16, "NetUid"}, field{"rate", tU16, "u16"})},
		errors: plainArms(swapErrors[:]...),
	}
}

func swapError(name string) dispatchError {
	return listedError("Swap", swapIndex, swapErrors[:], name)
}

// swapFee is the part of an amount that a pool keeps back, in the amount's own unit.
func (rt *runtime) swapFee(r reader, netuid uint16, amount uint64) uint64 {
	if rt.subnets.mechanism.get(r, netuid) != dynamicMech {
		return 0
	}
	return portion(amount, uint64(rt.swap.feeRate.get(r, netuid)), 65535)
}

// bought is what comes out of a pool of equal weights for an amount that goes in: the product of the reserves stays.
func bought(in, reserveIn, reserveOut uint64) uint64 {
	sum, carry := bits.Add64(reserveIn, in, 0)
	if carry != 0 || sum == 0 {
		return 0
	}
	return portion(reserveOut, in, sum)
}

// buyAlpha pays TAO, whose fee is off already, into a subnet and gives what it buys; counted is what counts as stake and
// as volume, the fee included.
func (rt *runtime) buyAlpha(x *execution, netuid uint16, tao, counted uint64) (alpha uint64) {
	s := rt.subnets
	alphaIn := s.subnetAlphaIn.get(x, netuid)
	alpha = tao
	if s.mechanism.get(x, netuid) == dynamicMech {
		rt.swap.initialised.set(x, netuid, true)
		alpha = bought(tao, s.subnetTAO.get(x, netuid), alphaIn)
		alphaIn -= alpha
	}
	s.subnetAlphaIn.set(x, netuid, alphaIn)
	s.subnetTAO.change(x, netuid, func(v uint64) uint64 { return v + tao })
	s.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v + alpha })
	s.totalStake.set(x, s.totalStake.get(x)+counted)
	rt.trade(x, netuid, counted)
	return alpha
}

// sellAlpha takes alpha back into a subnet: what is left of it after the fee buys TAO for the seller, then the fee buys
// TAO for the author.
func (rt *runtime) sellAlpha(x *execution, netuid uint16, alpha, fee uint64) (tao, feeTAO uint64) {
	s := rt.subnets
	reserve, alphaIn := s.subnetTAO.get(x, netuid), s.subnetAlphaIn.get(x, netuid)
	if s.mechanism.get(x, netuid) == dynamicMech {
		rt.swap.initialised.set(x, netuid, true)
		tao = bought(alpha-fee, alphaIn, reserve)
		feeTAO = bought(fee, alphaIn+alpha-fee, reserve-tao)
		alphaIn += alpha
	} else {
		tao = alpha
	}
	s.subnetAlphaIn.set(x, netuid, alphaIn)
	total := min(reserve, tao+feeTAO)
	s.subnetTAO.set(x, netuid, reserve-total)
	s.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v - min(v, alpha) })
	staked := s.totalStake.get(x)
	s.totalStake.set(x, staked-min(staked, total))
	rt.trade(x, netuid, total)
	rt.flow(x, netuid, -int64(total))
	return tao, feeTAO
}

func (rt *runtime) trade(x *execution, netuid uint16, rao uint64) {
	rt.subnets.subnetVolume.change(x, netuid, func(v [2]uint64) [2]uint64 {
		lo, carry := bits.Add64(v[1], rao, 0)
		return [2]uint64{v[0] + carry, lo}
	})
}

// flow counts TAO that came into a subnet by its stakers.
func (rt *runtime) flow(x *execution, netuid uint16, rao int64) {
	rt.subnets.subnetTaoFlow.change(x, netuid, func(v int64) int64 { return v + rao })
}

// roomToPrice is the largest amount that may go in before the price passes a limit, in rao per alpha: TAO up to a higher
// price, or alpha down to a lower one. The price of a subnet without a pool is 1.
func (rt *runtime) roomToPrice(r reader, netuid uint16, limit uint64, selling bool) uint64 {
	const all = 1<<64 - 1
	s := rt.subnets
	if s.mechanism.get(r, netuid) != dynamicMech {
		if selling && limit <= raoPerTAO || !selling && limit >= raoPerTAO {
			return all
		}
		return 0
	}
	product := new(big.Int).Mul(new(big.Int).SetUint64(s.subnetTAO.get(r, netuid)), new(big.Int).SetUint64(s.subnetAlphaIn.get(r, netuid)))
	scale, price := big.NewInt(raoPerTAO), new(big.Int).SetUint64(limit)
	before := s.subnetTAO.get(r, netuid)
	if selling {
		if limit == 0 {
			return all
		}
		scale, price = price, scale
		before = s.subnetAlphaIn.get(r, netuid)
	}
	after := product.Mul(product, price).Quo(product, scale)
	after.Sqrt(after).Sub(after, new(big.Int).SetUint64(before))
	if after.Sign() <= 0 {
		return 0
	}
	if !after.IsUint64() {
		return all
	}
	return after.Uint64()
}
