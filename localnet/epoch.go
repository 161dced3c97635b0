package localnet

import (
	"slices"

	"basilica/scale"
	"basilica/timelock"
	"basilica/yuma"
)

// schedule is when the subnet's epochs run, as stored.
func (rt *runtime) schedule(r reader, netuid uint16) timelock.Schedule {
	s := rt.subnets
	return timelock.Schedule{
		Tempo: s.tempo.get(r, netuid), LastEpochBlock: s.lastEpochBlock.get(r, netuid), PendingEpochAt: s.pendingEpochAt.get(r, netuid),
		SubnetEpochIndex: s.epochIndex.get(r, netuid), BlocksSinceLastStep: s.blocksSinceLastStep.get(r, netuid),
	}
}

// due says whether a subnet's epoch is to run in this block.
func (rt *runtime) due(x *execution, netuid uint16) bool { return rt.schedule(x, netuid).Due(x.block) }

// drained is a subnet whose epoch runs in this block, with what it shares out.
type drained struct {
	netuid                       uint16
	server, validator, root, cut uint64
}

// stepEpochs counts the block on every subnet, in the order of storage keys, and runs the epochs that are due; of those
// beyond MaxEpochsPerBlock each is put off to the next block.
func (rt *runtime) stepEpochs(x *execution, subnets []uint16) error {
	s := rt.subnets
	var due []drained
	for _, netuid := range subnets {
		s.blocksSinceLastStep.change(x, netuid, func(v uint64) uint64 { return v + 1 })
		if !rt.due(x, netuid) {
			continue
		}
		if len(due) >= int(s.maxEpochs.get(x)) {
			s.pendingEpochAt.set(x, netuid, x.block+1)
			x.emit(eventEpochDeferred, u16(netuid), u64(x.block), u64(x.block+1))
			continue
		}
		if rt.consistent(x, netuid) {
			s.blocksSinceLastStep.set(x, netuid, 0)
			due = append(due, drained{
				netuid, drain(x, s.pendingServer, netuid), drain(x, s.pendingValidator, netuid),
				drain(x, s.pendingRoot, netuid), drain(x, s.pendingOwnerCut, netuid),
			})
		} else {
			x.emit(eventEpochSkipped, u16(netuid), u64(x.block))
		}
		s.lastEpochBlock.set(x, netuid, x.block)
		s.pendingEpochAt.set(x, netuid, 0)
		s.epochIndex.change(x, netuid, func(v uint64) uint64 { return v + 1 })
	}
	slices.SortFunc(due, func(a, b drained) int { return int(a.netuid) - int(b.netuid) })
	for _, d := range due {
		if err := rt.runEpoch(x, d); err != nil {
			return err
		}
		s.lastMechanismStep.set(x, d.netuid, x.block)
	}
	return nil
}

func drain(x *execution, v map1[uint16, uint64], netuid uint16) uint64 {
	amount := v.get(x, netuid)
	v.set(x, netuid, 0)
	return amount
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

// runEpoch turns the weights of each mechanism into permits, incentive and dividends, and pays the emission out.
func (rt *runtime) runEpoch(x *execution, d drained) error {
	s := rt.subnets
	in := rt.epochInput(x, d.netuid)
	split := yuma.Split(d.server+d.validator+d.root, max(1, int(s.mechanismCountCurrent.get(x, d.netuid))), rt.split(x, d.netuid))
	outs := make([]yuma.Output, len(split))
	for m, emission := range split {
		rt.mechanismInput(x, &in, d.netuid, uint8(m))
		in.Emission = emission
		out, err := yuma.Epoch(in)
		if err != nil {
			return err
		}
		index := storageIndex(d.netuid, uint8(m))
		s.incentive.set(x, index, out.Incentive)
		for uid, row := range out.Bonds {
			s.bonds.set(x, index, uint16(uid), row)
		}
		x.emit(eventIncentiveEmitted, u16(index), listOf(cU64).encode(nil, out.ServerEmission))
		outs[m] = out
	}
	all := yuma.Combine(outs, split)
	s.active.set(x, d.netuid, all.Active)
	s.permit.set(x, d.netuid, all.ValidatorPermit)
	s.stakeWeight.set(x, d.netuid, all.StakeWeight)
	s.consensus.set(x, d.netuid, all.Consensus)
	s.dividends.set(x, d.netuid, all.Dividends)
	s.trust.set(x, d.netuid, all.ValidatorTrust)
	s.emission.set(x, d.netuid, all.Emission)
	rt.payOut(x, d, all.ServerEmission, all.ValidatorEmission)
	return nil
}

// split is how the subnet's owner divides emission among mechanisms, nil for evenly.
func (rt *runtime) split(r reader, netuid uint16) []uint16 {
	parts, set := rt.subnets.mechanismEmissionSplit.find(r, netuid)
	if !set {
		return nil
	}
	return parts
}

// epochInput gathers what the epochs of all mechanisms of a subnet read.
func (rt *runtime) epochInput(x *execution, netuid uint16) yuma.Input {
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
		Block: x.block, BondsSince: yuma.BondsSince(s.lastMechanismStep.get(x, netuid), x.block, tempo),
	}
	if s.liquidAlpha.get(x, netuid) {
		values := s.alphaValues.get(x, netuid)
		in.Params.Liquid = &yuma.LiquidAlpha{Low: values[0], High: values[1], Steepness: s.alphaSigmoidSteepness.get(x, netuid)}
	}
	if uid, owned := s.ownerUID(x, netuid); owned {
		in.Owner = &uid
	}
	permits := s.permit.get(x, netuid)
	for uid := range s.subnetworkN.get(x, netuid) {
		in.BlockAtRegistration = append(in.BlockAtRegistration, s.registeredBlock.get(x, netuid, uid))
		in.ValidatorPermit = append(in.ValidatorPermit, element(permits, uid))
		in.Stake = append(in.Stake, s.stakeWeightOf(x, netuid, s.keys.get(x, netuid, uid)))
	}
	return in
}

// mechanismInput sets what one mechanism has of its own.
func (rt *runtime) mechanismInput(x *execution, in *yuma.Input, netuid uint16, mecid uint8) {
	s := rt.subnets
	index := storageIndex(netuid, mecid)
	in.LastUpdate, in.Weights, in.Bonds, in.EarliestCommit = nil, nil, nil, nil
	updates := s.lastUpdate.get(x, index)
	sealed := s.commitReveal.get(x, netuid)
	var commits map[account]uint64
	if sealed {
		commits = rt.openCommits(x, netuid, index)
	}
	for uid := range s.subnetworkN.get(x, netuid) {
		in.LastUpdate = append(in.LastUpdate, element(updates, uid))
		in.Weights = append(in.Weights, s.weights.get(x, index, uid))
		in.Bonds = append(in.Bonds, s.bonds.get(x, index, uid))
		if sealed {
			var earliest *uint64
			if block, has := commits[s.keys.get(x, netuid, uid)]; has {
				earliest = &block
			}
			in.EarliestCommit = append(in.EarliestCommit, earliest)
		}
	}
}

// openCommits finds, for each hotkey, the block of its oldest commit that has not expired, plain and timelocked ones.
func (rt *runtime) openCommits(x *execution, netuid, index uint16) map[account]uint64 {
	s := rt.subnets
	now, period := s.epochIndex.get(x, netuid), s.revealPeriodEpochs.get(x, netuid)
	out := map[account]uint64{}
	note := func(who account, epoch, block uint64) {
		if now > epoch+period {
			return
		}
		if before, has := out[who]; !has || block < before {
			out[who] = block
		}
	}
	for uid := range s.subnetworkN.get(x, netuid) {
		hotkey := s.keys.get(x, netuid, uid)
		for _, c := range s.weightCommits.get(x, index, hotkey) {
			note(hotkey, c.epoch, c.block)
		}
	}
	for _, epoch := range rt.timelockedEpochs(x, index) {
		for _, c := range s.timelockedWeightCommits.get(x, index, epoch) {
			note(c.who, epoch, c.block)
		}
	}
	return out
}

// timelockedEpochs lists the epochs under which timelocked commits are stored, oldest first.
func (rt *runtime) timelockedEpochs(r reader, index uint16) []uint64 {
	m := rt.subnets.timelockedWeightCommits
	prefix := string(m.k1.hash([]byte(m.prefix), index))
	var out []uint64
	for _, k := range r.scan(prefix) {
		const hash = 8 // Twox64Concat puts it in front
		out = append(out, scale.NewReader([]byte(k[len(prefix)+hash:])).U64())
	}
	slices.Sort(out)
	return out
}
