package localnet

import (
	"basilica/scale"
)

// Bounds of what a subnet's owner may set of its epochs.
const (
	minTempo  = 360
	maxTempo  = 50_400
	minFactor = 1000 // ActivityCutoffFactorMilli
	maxFactor = 50_000
)

// Hyperparameters that an owner may change once in OwnerHyperparamRateLimit tempos, by their index in the enum
// Hyperparameter.
const (
	ownerServingRateLimit   = 1
	ownerImmunityPeriod     = 5
	ownerMinAllowedWeights  = 6
	ownerRho                = 8
	ownerMinBurn            = 11
	ownerMaxBurn            = 12
	ownerBondsMovingAverage = 13
	ownerBondsPenalty       = 14
	ownerCommitReveal       = 15
	ownerLiquidAlpha        = 16
	ownerRevealPeriod       = 18
	ownerTransferToggle     = 19
	ownerYuma3              = 21
	ownerBondsReset         = 22
	ownerImmuneNeurons      = 23
	ownerRecycleOrBurn      = 24
	ownerMaxAllowedUids     = 25
	ownerEmissionEnabled    = 28
	ownerCutoffFactor       = 30
	ownerTriggerEpoch       = 31
)

// The kinds of TransactionKeyLastBlock.
const (
	txSetChildren     = 0
	txSetChildkeyTake = 1
	txVersionKey      = 4
	txTempo           = 11
)

func (rt *runtime) tempoCalls(net field) []call {
	return []call{
		{139, "set_tempo", []field{net, {"tempo", tU16, "u16"}}, false, weight{672_147_000, 8638}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.ownTempo(r.U16(), r.U16())
		}},
		{140, "set_activity_cutoff_factor", []field{net, {"factor_milli", tU32, "u32"}}, false, weight{589_933_000, 8562}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setCutoffFactor(r.U16(), r.U32())
		}},
		{141, "trigger_epoch", []field{net}, false, weight{618_279_000, 8645}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.triggerEpoch(r.U16())
		}},
	}
}

// rateOwner is the key of LastRateLimitedBlock for an owner's hyperparameter.
func rateOwner(netuid uint16, parameter uint8) []byte {
	return append(scale.AppendU16([]byte{1}, netuid), parameter)
}

// requireOwner lets only the subnet's owner pass, root neither.
func (rt *runtime) requireOwner(x *execution, from origin, netuid uint16) error {
	if from.root || !rt.subnets.networksAdded.get(x, netuid) || from.who != rt.subnets.subnetOwner.get(x, netuid) {
		return badOrigin
	}
	return nil
}

// untilEpoch is how many blocks are left before the automatic epoch.
func (rt *runtime) untilEpoch(x *execution, netuid uint16) uint64 {
	s := rt.subnets
	next := s.lastEpochBlock.get(x, netuid) + uint64(s.tempo.get(x, netuid))
	return next - min(next, x.block)
}

// frozen refuses administration shortly before an epoch, and all the time while a triggered one is pending.
func (rt *runtime) frozen(x *execution, netuid uint16) error {
	s := rt.subnets
	if s.tempo.get(x, netuid) == 0 {
		return nil
	}
	if s.pendingEpochAt.get(x, netuid) > 0 || rt.untilEpoch(x, netuid) < uint64(s.adminFreezeWindow.get(x)) {
		return subtensorError("AdminActionProhibitedDuringWeightsWindow")
	}
	return nil
}

// ownerPace refuses an owner who changes the same thing again too soon.
func (rt *runtime) ownerPace(x *execution, netuid uint16, parameter uint8) error {
	s := rt.subnets
	pause := uint64(s.tempo.get(x, netuid)) * uint64(s.ownerHyperparamRateLimit.get(x))
	if last := s.lastRateLimitedBlock.get(x, rateOwner(netuid, parameter)); last != 0 && x.block-last < pause {
		return subtensorError("TxRateLimitExceeded")
	}
	return nil
}

func (rt *runtime) ownTempo(netuid, tempo uint16) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if err := rt.requireOwner(x, from, netuid); err != nil {
			return err
		}
		if tempo < minTempo || tempo > maxTempo {
			return subtensorError("TempoOutOfBounds")
		}
		if err := rt.frozen(x, netuid); err != nil {
			return err
		}
		if last := s.transactionKeyLastBlock.get(x, from.who, netuid, txTempo); last != 0 && x.block-last < minTempo {
			return subtensorError("TxRateLimitExceeded")
		}
		s.transactionKeyLastBlock.set(x, from.who, netuid, txTempo, x.block)
		rt.applyTempo(x, netuid, tempo)
		return nil
	}}
}

// applyTempo also starts the epoch over: the next one runs a whole tempo from now.
func (rt *runtime) applyTempo(x *execution, netuid, tempo uint16) {
	rt.subnets.tempo.set(x, netuid, tempo)
	rt.subnets.lastEpochBlock.set(x, netuid, x.block)
	x.emit(eventTempoSet, u16(netuid), u16(tempo))
}

func (rt *runtime) setCutoffFactor(netuid uint16, factor uint32) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		if err := rt.requireOwner(x, from, netuid); err != nil {
			return err
		}
		if factor < minFactor || factor > maxFactor {
			return subtensorError("ActivityCutoffFactorMilliOutOfBounds")
		}
		if err := rt.frozen(x, netuid); err != nil {
			return err
		}
		if err := rt.ownerPace(x, netuid, ownerCutoffFactor); err != nil {
			return err
		}
		rt.subnets.lastRateLimitedBlock.set(x, rateOwner(netuid, ownerCutoffFactor), x.block)
		rt.subnets.cutoffFactor.set(x, netuid, factor)
		x.emit(eventCutoffFactorSet, u16(netuid), scale.AppendU32(nil, factor))
		return nil
	}}
}

// triggerEpoch lets an epoch run after the freeze window, before its time.
func (rt *runtime) triggerEpoch(netuid uint16) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if err := rt.requireOwner(x, from, netuid); err != nil {
			return err
		}
		window := uint64(s.adminFreezeWindow.get(x))
		switch {
		case s.commitReveal.get(x, netuid):
			return subtensorError("DynamicTempoBlockedByCommitReveal")
		case s.pendingEpochAt.get(x, netuid) > 0:
			return subtensorError("EpochTriggerAlreadyPending")
		case rt.untilEpoch(x, netuid) < window:
			return subtensorError("AutoEpochAlreadyImminent")
		}
		if err := rt.ownerPace(x, netuid, ownerTriggerEpoch); err != nil {
			return err
		}
		s.lastRateLimitedBlock.set(x, rateOwner(netuid, ownerTriggerEpoch), x.block)
		s.pendingEpochAt.set(x, netuid, x.block+window)
		x.emit(eventEpochTriggered, u16(netuid), from.who[:], u64(x.block+window))
		return nil
	}}
}
