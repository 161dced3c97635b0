package localnet

import (
	"math/big"
	"slices"
)

// beginBlock is what the chain does by itself before the extrinsics of a block, in the runtime's order: prices decay,
// emission accrues, timelocked commits open, epochs that are due run, prices and proportions are noted, children that
// have waited take effect.
func (rt *runtime) beginBlock(x *execution) error {
	nets := rt.sortedNetuids(x)
	for _, netuid := range nets {
		rt.decayBurn(x, netuid)
	}
	subnets := slices.DeleteFunc(slices.Clone(nets), func(netuid uint16) bool { return netuid == rootNetuid })
	rt.revealCommits(x, subnets)
	emitting := slices.DeleteFunc(slices.Clone(subnets), func(netuid uint16) bool { return !rt.emits(x, netuid) })
	sells := rt.rootSells(x, emitting)
	for _, netuid := range emitting {
		rt.accrue(x, netuid, sells)
	}
	if err := rt.stepEpochs(x, subnets); err != nil {
		return err
	}
	for _, netuid := range emitting {
		rt.notePrice(x, netuid)
	}
	for _, netuid := range emitting {
		rt.subnets.rootProp.set(x, netuid, rt.rootProportion(x, netuid))
	}
	for _, netuid := range subnets {
		if rt.subnets.lastEpochBlock.get(x, netuid) == x.block {
			rt.settleChildren(x, netuid)
		}
	}
	return nil
}

// emits says whether a subnet takes part in the emission.
func (rt *runtime) emits(r reader, netuid uint16) bool {
	s := rt.subnets
	_, started := s.firstEmission.find(r, netuid)
	return started && s.subtokenEnabled.get(r, netuid) && s.registrationAllowed.get(r, netuid)
}

// alphaEmission halves each time half of what is left of 21 million has been issued.
func alphaEmission(base, issued uint64) uint64 {
	const supply = 21_000_000 * 1_000_000_000
	left := uint64(supply)
	for issued >= supply-left/2 && left > 1 {
		left /= 2
		base /= 2
	}
	return base
}

// alphaIssuance is all the alpha of a subnet, in its pool and outside.
func (rt *runtime) alphaIssuance(r reader, netuid uint16) uint64 {
	return rt.subnets.subnetAlphaIn.get(r, netuid) + rt.subnets.subnetAlphaOut.get(r, netuid)
}

// rootProportion is what stake on root weighs of all that counts on a subnet.
func (rt *runtime) rootProportion(r reader, netuid uint16) u96f32 {
	s := rt.subnets
	tao := wholeNumber(s.subnetTAO.get(r, rootNetuid)).times(ofAll(s.taoWeight.get(r)))
	return tao.over(tao.plus(wholeNumber(rt.alphaIssuance(r, netuid))))
}

// accrue adds one block's emission of a subnet: the owner's cut, half of the rest to servers, half to validators. The
// part of root in the validators' half is kept for root's stakers where the prices of all subnets sum up to more than
// 1, else it is recycled.
func (rt *runtime) accrue(x *execution, netuid uint16, rootSells bool) {
	s := rt.subnets
	alpha := alphaEmission(1e9, rt.alphaIssuance(x, netuid))
	s.alphaOutEmission.set(x, netuid, alpha)
	rt.issueAlpha(x, netuid, alpha)
	rest := wholeNumber(alpha)
	cut := u96f32{}
	if s.ownerCutEnabled.get(x, netuid) {
		cut = rest.times(part(s.ownerCut.get(x)))
	}
	rest = rest.minus(cut)
	half := u96f32{0, 1 << 31}
	server := rest.times(half)
	root := rt.rootProportion(x, netuid).times(rest).times(half)
	add := func(v map1[uint16, uint64], amount u96f32) {
		v.change(x, netuid, func(old uint64) uint64 { return old + amount.integer() })
	}
	add(s.pendingOwnerCut, cut)
	add(s.pendingServer, server)
	add(s.pendingValidator, rest.minus(server).minus(root))
	if rootSells {
		add(s.pendingRoot, root)
	} else {
		rt.recycleAlpha(x, netuid, root.integer())
	}
	rt.accrueTAO(x, netuid, alpha)
}

// accrueTAO is the TAO side of a subnet's emission. It keeps the stable mechanism solvent: as much TAO comes into the
// subnet as alpha comes out.
func (rt *runtime) accrueTAO(x *execution, netuid uint16, alpha uint64) {
	s := rt.subnets
	if !s.emissionEnabled.get(x, netuid) || s.mechanism.get(x, netuid) != 0 {
		s.taoInEmission.set(x, netuid, 0)
		return
	}
	s.taoInEmission.set(x, netuid, alpha)
	s.subnetTAO.change(x, netuid, func(v uint64) uint64 { return v + alpha })
	s.totalIssuance.set(x, s.totalIssuance.get(x)+alpha)
	rt.balances.totalIssuance.set(x, rt.balances.totalIssuance.get(x)+alpha)
	x.emit(eventIssued, u64(alpha))
	info := rt.system.account.get(x, subnetAccount(netuid))
	info.free, info.providers, info.flags = info.free+alpha, max(info.providers, 1), newLogic
	rt.system.account.set(x, subnetAccount(netuid), info)
}

// price is what one alpha costs in TAO: 1 on a subnet of the stable mechanism, else what the pool holds of both.
func (rt *runtime) price(r reader, netuid uint16) u96f32 {
	s := rt.subnets
	if s.mechanism.get(r, netuid) == 0 {
		return one
	}
	return wholeNumber(s.subnetTAO.get(r, netuid)).over(wholeNumber(s.subnetAlphaIn.get(r, netuid)))
}

// movingPrice is the price as emission sees it.
func (rt *runtime) movingPrice(r reader, netuid uint16) u96f32 {
	if rt.subnets.mechanism.get(r, netuid) == 0 {
		return one
	}
	return rt.subnets.subnetMovingPrice.get(r, netuid)
}

// rootSells says that the moving prices of all subnets that take part sum up to more than 1.
func (rt *runtime) rootSells(x *execution, emitting []uint16) bool {
	sum := u96f32{}
	for _, netuid := range emitting {
		sum = sum.plus(rt.movingPrice(x, netuid))
	}
	return one.less(sum)
}

// notePrice moves the moving price towards the price, at most 1, the slower the younger the subnet is. It is computed with
// 64 fraction bits and stored with 32.
func (rt *runtime) notePrice(x *execution, netuid uint16) {
	s := rt.subnets
	start := s.firstEmission.get(x, netuid)
	age := x.block - min(x.block, start-min(start, 1))
	price := rt.price(x, netuid)
	if one.less(price) {
		price = one
	}
	wide := func(v u96f32) *big.Int { b := v.big(); return b.Lsh(b, 32) }
	times := func(a, b *big.Int) *big.Int { v := new(big.Int).Mul(a, b); return v.Rsh(v, 64) }
	speed := new(big.Int).Lsh(new(big.Int).SetUint64(age), 64)
	if whole := age + s.emaPriceHalvingBlocks.get(x, netuid); whole > 0 {
		speed.Quo(speed, new(big.Int).SetUint64(whole))
	}
	speed = times(wide(s.subnetMovingAlpha.get(x)), speed)
	kept := new(big.Int).Sub(wide(one), speed)
	moved := times(speed, wide(price))
	moved.Add(moved, times(kept, wide(s.subnetMovingPrice.get(x, netuid))))
	s.subnetMovingPrice.set(x, netuid, fixedOf(moved.Rsh(moved, 32)))
}
