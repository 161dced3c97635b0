package localnet

import (
	"math/bits"

	"basilica/scale"
	"basilica/yuma"
)

const safetyNetBlocks = 50_400 // an epoch that is later than this runs whatever the tempo

// beginBlock is what the chain does before the extrinsics of a block: prices decay, emission accrues, epochs that are
// due run.
func (rt *runtime) beginBlock(x *execution) error {
	nets := rt.sortedNetuids(x)
	for _, netuid := range nets {
		rt.decayBurn(x, netuid)
	}
	for _, netuid := range nets {
		if netuid != rootNetuid {
			rt.accrue(x, netuid)
		}
	}
	ran := uint8(0)
	for _, netuid := range nets {
		if netuid == rootNetuid {
			continue
		}
		due, err := rt.stepEpoch(x, netuid, ran >= rt.subnets.maxEpochs.get(x))
		if err != nil {
			return err
		}
		if due {
			ran++
		}
	}
	return nil
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

// accrue adds one block's emission of a subnet: 18 % to its owner, half of the rest to servers, half to validators.
// Where root has stake, its part of the validators' half is recycled, as on a chain whose alpha prices sum up to 1.
// The TAO side keeps the stable mechanism solvent: as much TAO comes into the subnet as alpha comes out.
func (rt *runtime) accrue(x *execution, netuid uint16) {
	s := rt.subnets
	first, started := s.firstEmission.find(x, netuid)
	if !started || x.block < first || !s.subtokenEnabled.get(x, netuid) || !s.registrationAllowed.get(x, netuid) {
		return
	}
	issued := s.subnetAlphaOut.get(x, netuid)
	alpha := alphaEmission(s.blockEmission.get(x), issued)
	s.alphaOutEmission.set(x, netuid, alpha)
	s.subnetAlphaOut.set(x, netuid, issued+alpha)
	// Proportions have 32 fraction bits; a share is truncated only when it is stored.
	cut := fraction(alpha, uint64(s.ownerCut.get(x)), 65535)
	rest := alpha<<32 - cut // below 2^62
	half := rest / 2
	root := yuma.WeightedStake(0, s.subnetTAO.get(x, rootNetuid), s.taoWeight.get(x)).Rao
	rootShare := portion(half, root, root+issued)
	add := func(v map1[uint16, uint64], fixed uint64) {
		v.change(x, netuid, func(old uint64) uint64 { return old + fixed>>32 })
	}
	add(s.pendingOwnerCut, cut)
	add(s.pendingServer, half)
	add(s.pendingValidator, half-rootShare)
	if !s.emissionEnabled.get(x, netuid) {
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

// fraction is v * part / whole with 32 fraction bits.
func fraction(v, part, whole uint64) uint64 {
	hi, lo := bits.Mul64(v<<32, part)
	q, _ := bits.Div64(hi, lo, whole)
	return q
}

// due says whether a subnet's epoch runs in this block.
func (rt *runtime) due(x *execution, netuid uint16) bool {
	s := rt.subnets
	tempo, pending := uint64(s.tempo.get(x, netuid)), s.pendingEpochAt.get(x, netuid)
	return tempo > 0 && (pending > 0 && x.block >= pending || s.blocksSinceLastStep.get(x, netuid) > safetyNetBlocks ||
		x.block-s.lastEpochBlock.get(x, netuid) >= tempo)
}

// stepEpoch counts the block and runs the epoch where it is due; full says that this block has run enough epochs.
func (rt *runtime) stepEpoch(x *execution, netuid uint16, full bool) (ran bool, err error) {
	s := rt.subnets
	s.blocksSinceLastStep.change(x, netuid, func(v uint64) uint64 { return v + 1 })
	if !rt.due(x, netuid) {
		return false, nil
	}
	if full {
		s.pendingEpochAt.set(x, netuid, x.block+1)
		x.emit(eventEpochDeferred, u16(netuid), u64(x.block), u64(x.block+1))
		return false, nil
	}
	s.lastEpochBlock.set(x, netuid, x.block)
	s.pendingEpochAt.set(x, netuid, 0)
	s.epochIndex.change(x, netuid, func(v uint64) uint64 { return v + 1 })
	if !rt.consistent(x, netuid) {
		x.emit(eventEpochSkipped, u16(netuid), u64(x.block))
		return false, nil
	}
	s.blocksSinceLastStep.set(x, netuid, 0)
	take := func(v map1[uint16, uint64]) uint64 {
		amount := v.get(x, netuid)
		v.set(x, netuid, 0)
		return amount
	}
	server, validator, cut := take(s.pendingServer), take(s.pendingValidator), take(s.pendingOwnerCut)
	if err := rt.runEpoch(x, netuid, server, validator, cut); err != nil {
		return true, err
	}
	s.lastMechanismStep.set(x, netuid, x.block)
	return true, nil
}

// consistent says that no hotkey holds two uids.
func (rt *runtime) consistent(x *execution, netuid uint16) bool {
	seen := map[account]bool{}
	for uid := range rt.subnets.subnetworkN.get(x, netuid) {
		hotkey := rt.subnets.keys.get(x, netuid, uid)
		if seen[hotkey] {
			return false
		}
		seen[hotkey] = true
	}
	return true
}

// epochInput gathers what the epoch reads.
func (rt *runtime) epochInput(x *execution, netuid uint16, emission uint64) yuma.Input {
	s := rt.subnets
	tempo := s.tempo.get(x, netuid)
	in := yuma.Input{
		Params: yuma.Params{
			Rules:              yuma.Spec425(),
			ActivityCutoff:     max(1, uint64(s.cutoffFactor.get(x, netuid))*uint64(tempo)/1000),
			Kappa:              s.kappa.get(x, netuid),
			BondsPenalty:       s.bondsPenalty.get(x, netuid),
			BondsMovingAverage: s.bondsMovingAverage.get(x, netuid),
			MaxValidators:      s.maxValidators.get(x, netuid),
			StakeThreshold:     s.stakeThreshold.get(x),
			Yuma3:              s.yuma3.get(x, netuid),
		},
		Block: x.block, BondsSince: yuma.BondsSince(s.lastMechanismStep.get(x, netuid), x.block, tempo), Emission: emission,
	}
	if uid, owned := s.ownerUID(x, netuid); owned {
		in.Owner = &uid
	}
	updates, permits := s.lastUpdate.get(x, netuid), s.permit.get(x, netuid)
	for uid := range s.subnetworkN.get(x, netuid) {
		in.LastUpdate = append(in.LastUpdate, element(updates, uid))
		in.BlockAtRegistration = append(in.BlockAtRegistration, s.registeredBlock.get(x, netuid, uid))
		in.ValidatorPermit = append(in.ValidatorPermit, element(permits, uid))
		in.Stake = append(in.Stake, s.stakeWeightOf(x, netuid, s.keys.get(x, netuid, uid)))
		in.Weights = append(in.Weights, s.weights.get(x, netuid, uid))
		in.Bonds = append(in.Bonds, s.bonds.get(x, netuid, uid))
	}
	return in
}

// runEpoch turns weights into permits, incentive and dividends, and pays the emission out.
func (rt *runtime) runEpoch(x *execution, netuid uint16, server, validator, cut uint64) error {
	s := rt.subnets
	out, err := yuma.Epoch(rt.epochInput(x, netuid, server+validator))
	if err != nil {
		return err
	}
	s.active.set(x, netuid, out.Active)
	s.permit.set(x, netuid, out.ValidatorPermit)
	s.stakeWeight.set(x, netuid, out.StakeWeight)
	s.consensus.set(x, netuid, out.Consensus)
	s.incentive.set(x, netuid, out.Incentive)
	s.dividends.set(x, netuid, out.Dividends)
	s.trust.set(x, netuid, out.ValidatorTrust)
	s.emission.set(x, netuid, out.Emission)
	for uid, row := range out.Bonds {
		s.bonds.set(x, netuid, uint16(uid), row)
	}
	rt.payServers(x, netuid, out.ServerEmission)
	var incentives, dividends uint64
	for i := range out.ServerEmission {
		incentives += out.ServerEmission[i]
		dividends += out.ValidatorEmission[i]
	}
	if incentives == 0 { // nobody serves: validators share all of it
		validator += server
	}
	rt.payValidators(x, netuid, out.ValidatorEmission, dividends, validator)
	owner, hotkey := s.subnetOwner.get(x, netuid), s.subnetOwnerHotkey.get(x, netuid)
	if cut > 0 && s.owner.get(x, hotkey) == owner {
		rt.stakeAlpha(x, hotkey, owner, netuid, cut)
	}
	return nil
}

// payServers stakes each miner's incentive under its owner. Hotkeys of the subnet's owner get nothing: their part is
// burned.
func (rt *runtime) payServers(x *execution, netuid uint16, emission []uint64) {
	s := rt.subnets
	owner := s.subnetOwner.get(x, netuid)
	paid := make([]uint64, len(emission))
	for uid, amount := range emission {
		hotkey := s.keys.get(x, netuid, uint16(uid))
		coldkey := s.owner.get(x, hotkey)
		if amount == 0 || coldkey == owner {
			continue
		}
		paid[uid] = amount
		destination, set := s.autoStake.find(x, coldkey, netuid)
		if !set {
			destination = hotkey
		}
		rt.stakeAlpha(x, destination, coldkey, netuid, amount)
	}
	x.emit(eventIncentiveEmitted, u16(netuid), listOf(cU64).encode(nil, paid))
}

// payValidators divides pending among validators by their dividends: the take to the owner, the rest to all stakers.
func (rt *runtime) payValidators(x *execution, netuid uint16, dividends []uint64, total, pending uint64) {
	s := rt.subnets
	for _, k := range x.scan(s.alphaDividends.prefix + string(scale.AppendU16(nil, netuid))) {
		x.put(k, nil)
	}
	for uid, d := range dividends {
		amount := portion(pending, d, total)
		if amount == 0 {
			continue
		}
		hotkey := s.keys.get(x, netuid, uint16(uid))
		take := portion(amount, uint64(s.delegates.get(x, hotkey)), 65535)
		if take > 0 {
			rt.stakeAlpha(x, hotkey, s.owner.get(x, hotkey), netuid, take)
		}
		rt.rewardStakers(x, hotkey, netuid, amount-take)
		s.alphaDividends.set(x, netuid, hotkey, amount)
	}
}
