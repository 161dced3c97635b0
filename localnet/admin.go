package localnet

import (
	"math"

	"basilica/scale"
)

const adminIndex = 19

func adminError(name string) dispatchError {
	return listedError("AdminUtils", adminIndex, adminErrors[:], name)
}

// hyper is a call of AdminUtils that stores one value of a subnet. owner is the hyperparameter's index where the
// subnet's owner may set it too; without one only root may, and not inside the freeze window.
type hyper[V any] struct {
	index    uint8
	name     string
	arg      string
	typeName string
	codec    codec[V]
	into     map1[uint16, V]
	event    eventID // none where zero
	owner    uint8
	check    func(x *execution, netuid uint16, v V) error // may be nil
}

// global is a call of AdminUtils that stores one value of the chain, for root alone.
type global[V any] struct {
	index    uint8
	name     string
	arg      string
	typeName string
	codec    codec[V]
	into     value[V]
	event    eventID
}

// adminWeight is what a setter weighs; of those that were not recorded it is the recorded serving rate limit's.
var adminWeight = weight{404_373_000, 8410}

func (h hyper[V]) call(w weight) call {
	fields := []field{{"netuid", tU16, "NetUid"}, {h.arg, h.codec.shape, h.typeName}}
	return call{h.index, h.name, fields, false, w, func(rt *runtime, r *scale.Reader) dispatch {
		netuid, v := r.U16(), h.codec.decode(r)
		return dispatch{run: func(x *execution, from origin) error {
			settled, err := rt.mayAdminister(x, from, netuid, h.owner)
			if err != nil {
				return err
			}
			if h.check != nil {
				if err := h.check(x, netuid, v); err != nil {
					return err
				}
			}
			h.into.set(x, netuid, v)
			settled()
			if h.event != (eventID{}) {
				x.emit(h.event, u16(netuid), h.codec.encode(nil, v))
			}
			return nil
		}}
	}}
}

func (g global[V]) call() call {
	return call{g.index, g.name, []field{{g.arg, g.codec.shape, g.typeName}}, false, adminWeight, func(_ *runtime, r *scale.Reader) dispatch {
		v := g.codec.decode(r)
		return dispatch{run: func(x *execution, from origin) error {
			if !from.root {
				return badOrigin
			}
			g.into.set(x, v)
			if g.event != (eventID{}) {
				x.emit(g.event, g.codec.encode(nil, v))
			}
			return nil
		}}
	}}
}

// mayAdminister says whether root, or the owner where the parameter is one of theirs, may change a subnet now; settled
// notes that an owner did.
func (rt *runtime) mayAdminister(x *execution, from origin, netuid uint16, parameter uint8) (settled func(), err error) {
	s := rt.subnets
	exists := s.networksAdded.get(x, netuid)
	if from.root {
		if !exists {
			return nil, adminError("SubnetDoesNotExist")
		}
		if parameter == 0 {
			return func() {}, rt.frozen(x, netuid)
		}
		return func() {}, nil
	}
	if parameter == 0 || !exists || from.who != s.subnetOwner.get(x, netuid) {
		return nil, badOrigin
	}
	if err := rt.frozen(x, netuid); err != nil {
		return nil, err
	}
	if parameter == ownerVersionKey {
		pause := uint64(s.tempo.get(x, netuid)) * s.weightsVersionKeyRateLimit.get(x)
		if last := s.transactionKeyLastBlock.get(x, from.who, netuid, txVersionKey); last != 0 && x.block-last < pause {
			return nil, subtensorError("TxRateLimitExceeded")
		}
		return func() { s.transactionKeyLastBlock.set(x, from.who, netuid, txVersionKey, x.block) }, nil
	}
	if err := rt.ownerPace(x, netuid, parameter); err != nil {
		return nil, err
	}
	return func() { s.lastRateLimitedBlock.set(x, rateOwner(netuid, parameter), x.block) }, nil
}

// ownerVersionKey stands for the version key, which has a rate limit of its own.
const ownerVersionKey = math.MaxUint8

// bounds is a check that a value lies between two, both included.
func bounds(low, high uint64) func(*execution, uint16, uint64) error {
	return func(_ *execution, _ uint16, v uint64) error {
		if v < low || v > high {
			return adminError("ValueNotInBounds")
		}
		return nil
	}
}

func (rt *runtime) adminPallet() module {
	s := rt.subnets
	toggled := []field{{"netuid", tU16, "NetUid"}, {"enabled", tBool, "bool"}}
	calls := []call{
		hyper[uint64]{3, "sudo_set_serving_rate_limit", "serving_rate_limit", "u64", cU64, s.servingRateLimit, eventServingRateLimitSet, ownerServingRateLimit, nil}.call(adminWeight),
		hyper[uint64]{6, "sudo_set_weights_version_key", "weights_version_key", "u64", cU64, s.versionKey, eventWeightsVersionKeySet, ownerVersionKey, nil}.call(adminWeight),
		hyper[uint64]{7, "sudo_set_weights_set_rate_limit", "weights_set_rate_limit", "u64", cU64, s.weightsRateLimit, eventWeightsSetRateLimit, 0, nil}.call(adminWeight),
		hyper[uint16]{13, "sudo_set_immunity_period", "immunity_period", "u16", cU16, s.immunityPeriod, eventImmunityPeriodSet, ownerImmunityPeriod, nil}.call(adminWeight),
		hyper[uint16]{14, "sudo_set_min_allowed_weights", "min_allowed_weights", "u16", cU16, s.minAllowedWeights, eventMinAllowedWeightSet, ownerMinAllowedWeights, nil}.call(weight{435_404_000, 8581}),
		hyper[uint16]{15, "sudo_set_max_allowed_uids", "max_allowed_uids", "u16", cU16, s.maxAllowedUids, eventMaxAllowedUidsSet, ownerMaxAllowedUids, rt.checkMaxUids}.call(adminWeight),
		hyper[uint16]{16, "sudo_set_kappa", "kappa", "u16", cU16, s.kappa, eventKappaSet, 0, nil}.call(adminWeight),
		hyper[uint16]{17, "sudo_set_rho", "rho", "u16", cU16, s.rho, eventRhoSet, ownerRho, nil}.call(adminWeight),
		hyper[bool]{19, "sudo_set_network_registration_allowed", "registration_allowed", "bool", cBool, s.registrationAllowed, eventRegistrationAllowed, 0, nil}.call(adminWeight),
		hyper[uint16]{21, "sudo_set_target_registrations_per_interval", "target_registrations_per_interval", "u16", cU16, s.targetRegistrationsPerInterval, eventTargetRegistrationsSet, 0, nil}.call(adminWeight),
		hyper[uint64]{22, "sudo_set_min_burn", "min_burn", "TaoBalance", cU64, s.minBurn, eventMinBurnSet, ownerMinBurn, func(x *execution, netuid uint16, v uint64) error {
			return bounds(0, min(raoPerTAO, s.maxBurn.get(x, netuid)))(x, netuid, v)
		}}.call(adminWeight),
		hyper[uint64]{23, "sudo_set_max_burn", "max_burn", "TaoBalance", cU64, s.maxBurn, eventMaxBurnSet, ownerMaxBurn, func(x *execution, netuid uint16, v uint64) error {
			return bounds(max(raoPerTAO/10, s.minBurn.get(x, netuid)), math.MaxUint64)(x, netuid, v)
		}}.call(adminWeight),
		hyper[uint16]{25, "sudo_set_max_allowed_validators", "max_allowed_validators", "u16", cU16, s.maxValidators, eventMaxValidatorsSet, 0, func(x *execution, netuid uint16, v uint16) error {
			if v > s.maxAllowedUids.get(x, netuid) {
				return adminError("MaxValidatorsLargerThanMaxUIds")
			}
			return nil
		}}.call(adminWeight),
		hyper[uint64]{26, "sudo_set_bonds_moving_average", "bonds_moving_average", "u64", cU64, s.bondsMovingAverage, eventBondsMovingAverageSet, ownerBondsMovingAverage, func(_ *execution, _ uint16, v uint64) error {
			if v > 975_000 {
				return adminError("BondsMovingAverageMaxReached")
			}
			return nil
		}}.call(adminWeight),
		hyper[uint16]{27, "sudo_set_max_registrations_per_block", "max_registrations_per_block", "u16", cU16, s.maxRegistrationsPerBlock, eventMaxRegistrationsSet, 0, nil}.call(adminWeight),
		rt.sudoTempo(),
		hyper[bool]{49, "sudo_set_commit_reveal_weights_enabled", "enabled", "bool", cBool, s.commitReveal, eventCommitRevealEnabled, ownerCommitReveal, nil}.call(adminWeight),
		hyper[bool]{50, "sudo_set_liquid_alpha_enabled", "enabled", "bool", cBool, s.liquidAlpha, eventID{}, ownerLiquidAlpha, nil}.call(adminWeight),
		hyper[uint64]{57, "sudo_set_commit_reveal_weights_interval", "interval", "u64", cU64, s.revealPeriodEpochs, eventRevealPeriodSet, ownerRevealPeriod, func(_ *execution, _ uint16, v uint64) error {
			switch {
			case v < 1:
				return subtensorError("RevealPeriodTooSmall")
			case v > 100:
				return subtensorError("RevealPeriodTooLarge")
			}
			return nil
		}}.call(adminWeight),
		hyper[uint16]{60, "sudo_set_bonds_penalty", "bonds_penalty", "u16", cU16, s.bondsPenalty, eventBondsPenaltySet, ownerBondsPenalty, nil}.call(adminWeight),
		hyper[bool]{61, "sudo_set_toggle_transfer", "toggle", "bool", cBool, s.transferToggle, eventTransferToggle, ownerTransferToggle, nil}.call(adminWeight),
		hyper[bool]{66, "sudo_set_subtoken_enabled", "subtoken_enabled", "bool", cBool, s.subtokenEnabled, eventID{}, 0, nil}.call(adminWeight),
		hyper[bool]{69, "sudo_set_yuma3_enabled", "enabled", "bool", cBool, s.yuma3, eventYuma3Toggled, ownerYuma3, nil}.call(adminWeight),
		hyper[bool]{70, "sudo_set_bonds_reset_enabled", "enabled", "bool", cBool, s.bondsResetOn, eventBondsResetToggled, ownerBondsReset, nil}.call(adminWeight),
		hyper[uint16]{72, "sudo_set_owner_immune_neuron_limit", "immune_neurons", "u16", cU16, s.immuneOwnerUids, eventID{}, ownerImmuneNeurons, nil}.call(adminWeight),
		hyper[uint8]{80, "sudo_set_recycle_or_burn", "recycle_or_burn", "pallet_subtensor::RecycleOrBurnEnum", cRecycleOrBurn, s.recycleOrBurn, eventID{}, ownerRecycleOrBurn, func(_ *execution, _ uint16, v uint8) error {
			if v > 1 {
				return adminError("InvalidValue")
			}
			return nil
		}}.call(adminWeight),
		hyper[bool]{94, "sudo_set_subnet_emission_enabled", "enabled", "bool", cBool, s.emissionEnabled, eventEmissionEnabledSet, ownerEmissionEnabled, nil}.call(adminWeight),
		rt.setMechanismCount(),
		global[uint64]{2, "sudo_set_tx_rate_limit", "tx_rate_limit", "u64", cU64, s.txRateLimit, eventTxRateLimitSet}.call(),
		global[uint64]{29, "sudo_set_network_rate_limit", "rate_limit", "u64", cU64, s.networkRateLimit, eventNetworkRateLimitSet}.call(),
		global[uint64]{36, "sudo_set_network_min_lock_cost", "lock_cost", "TaoBalance", cU64, s.networkMinLockCost, eventMinLockCostSet}.call(),
		global[uint16]{37, "sudo_set_subnet_limit", "max_subnets", "u16", cU16, s.subnetLimit, eventSubnetLimitSet}.call(),
		global[uint64]{42, "sudo_set_stake_threshold", "min_stake", "u64", cU64, s.stakeThreshold, eventStakeThresholdSet}.call(),
		global[uint16]{74, "sudo_set_admin_freeze_window", "window", "u16", cU16, s.adminFreezeWindow, eventFreezeWindowSet}.call(),
		global[uint16]{75, "sudo_set_owner_hparam_rate_limit", "epochs", "u16", cU16, s.ownerHyperparamRateLimit, eventOwnerRateLimitSet}.call(),
		global[uint64]{85, "sudo_set_start_call_delay", "delay", "u64", cU64, s.startCallDelay, eventStartCallDelaySet}.call(),
		global[uint8]{96, "sudo_set_max_epochs_per_block", "max_epochs_per_block", "u8", cU8, s.maxEpochs, eventMaxEpochsSet}.call(),
	}
	return module{
		name: "AdminUtils", crate: "pallet_admin_utils", index: adminIndex, calls: calls,
		events: []arm{
			eventYuma3Toggled.arm("Yuma3EnableToggled", toggled...),
			eventBondsResetToggled.arm("BondsResetToggled", toggled...),
			eventEmissionEnabledSet.arm("SubnetEmissionEnabledSet", toggled...),
		},
		errors: plainArms(adminErrors[:]...),
	}
}

func (rt *runtime) checkMaxUids(x *execution, netuid uint16, v uint16) error {
	s := rt.subnets
	switch {
	case v < s.minAllowedUids.get(x, netuid):
		return adminError("MaxAllowedUidsLessThanMinAllowedUids")
	case v < s.subnetworkN.get(x, netuid):
		return adminError("MaxAllowedUIdsLessThanCurrentUIds")
	case v > s.maxAllowedUids.fallback:
		return adminError("MaxAllowedUidsGreaterThanDefaultMaxAllowedUids")
	}
	return nil
}

// sudoTempo is root's set_tempo, without its bounds.
func (rt *runtime) sudoTempo() call {
	fields := []field{{"netuid", tU16, "NetUid"}, {"tempo", tU16, "u16"}}
	return call{30, "sudo_set_tempo", fields, false, weight{537_038_000, 8581}, func(rt *runtime, r *scale.Reader) dispatch {
		netuid, tempo := r.U16(), r.U16()
		return dispatch{run: func(x *execution, from origin) error {
			if _, err := rt.mayAdminister(x, from, netuid, 0); err != nil {
				return err
			}
			rt.applyTempo(x, netuid, tempo)
			return nil
		}}
	}}
}

// setMechanismCount gives a subnet more mechanisms or takes the last ones away with all they hold.
func (rt *runtime) setMechanismCount() call {
	fields := []field{{"netuid", tU16, "NetUid"}, {"mechanism_count", tU8, "MechId"}}
	return call{76, "sudo_set_mechanism_count", fields, false, adminWeight, func(rt *runtime, r *scale.Reader) dispatch {
		netuid, count := r.U16(), r.U8()
		return dispatch{run: func(x *execution, from origin) error {
			s := rt.subnets
			if _, err := rt.mayAdminister(x, from, netuid, 0); err != nil {
				return err
			}
			if count == 0 || count > s.maxMechanismCount.get(x) {
				return subtensorError("InvalidValue")
			}
			n := s.subnetworkN.get(x, netuid)
			for mecid := count; mecid < s.mechanismCountCurrent.get(x, netuid); mecid++ {
				index := storageIndex(netuid, mecid)
				s.incentive.del(x, index)
				s.lastUpdate.del(x, index)
				for uid := range n {
					s.weights.del(x, index, uid)
					s.bonds.del(x, index, uid)
				}
			}
			for mecid := s.mechanismCountCurrent.get(x, netuid); mecid < count; mecid++ {
				index := storageIndex(netuid, mecid)
				s.incentive.set(x, index, make([]uint16, n))
				s.lastUpdate.set(x, index, make([]uint64, n))
			}
			s.mechanismCountCurrent.set(x, netuid, count)
			return nil
		}}
	}}
}
