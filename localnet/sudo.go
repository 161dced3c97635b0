package localnet

import (
	"basilica/scale"
)

const sudoIndex = 12

type sudoStore struct{ key value[account] }

func (rt *runtime) sudoPallet() module {
	p := &prefix{pallet: "Sudo"}
	rt.sudo = &sudoStore{key: newOptional(p, "Key", cAccount)}
	return module{
		name: "Sudo", crate: "pallet_sudo", index: sudoIndex, storage: p,
		calls: []call{{0, "sudo", []field{{"call", rt.callShape(), "Box<<T as Config>::RuntimeCall>"}}, true, weight{535926000, 14296}, func(rt *runtime, r *scale.Reader) dispatch {
			// A sudo inside a sudo is refused: nobody needs one, and each level would nest deeper.
			inner, err := rt.decodeCallBut(r, sudoIndex)
			if err != nil {
				r.Fail(err)
				return dispatch{}
			}
			return dispatch{
				// The pool lets only the key holder's call in.
				guard: func(x *execution, who account) error {
					if who != rt.sudo.key.get(x) {
						return errBadSigner
					}
					return nil
				},
				run: func(x *execution, from origin) error {
					if from.root || from.who != rt.sudo.key.get(x) {
						return moduleError("Sudo", sudoIndex, "RequireSudo", 0)
					}
					x.emit(eventSudid, x.nested(inner, origin{root: true}))
					return nil
				},
			}
		}}},
		events: []arm{eventSudid.arm("Sudid", field{"sudo_result", tDispatchResult, "DispatchResult"})},
		errors: plainArms("RequireSudo"),
	}
}

const adminIndex = 19

// adminPallet has a few of AdminUtils' setters, for root alone: the owner's own way to them, with its freeze window
// and rate limits, is not modelled.
func (rt *runtime) adminPallet() module {
	net := field{"netuid", tU16, "NetUid"}
	s := rt.subnets
	return module{
		name: "AdminUtils", crate: "pallet_admin_utils", index: adminIndex,
		calls: []call{
			setter(3, "sudo_set_serving_rate_limit", net, "serving_rate_limit", cU64, s.servingRateLimit, eventServingRateLimitSet),
			setter(6, "sudo_set_weights_version_key", net, "weights_version_key", cU64, s.versionKey, eventWeightsVersionKeySet),
			setter(7, "sudo_set_weights_set_rate_limit", net, "weights_set_rate_limit", cU64, s.weightsRateLimit, eventWeightsSetRateLimit),
			setter(13, "sudo_set_immunity_period", net, "immunity_period", cU16, s.immunityPeriod, eventImmunityPeriodSet),
			setter(14, "sudo_set_min_allowed_weights", net, "min_allowed_weights", cU16, s.minAllowedWeights, eventMinAllowedWeightSet),
			setter(15, "sudo_set_max_allowed_uids", net, "max_allowed_uids", cU16, s.maxAllowedUids, eventMaxAllowedUidsSet),
			setter(25, "sudo_set_max_allowed_validators", net, "max_allowed_validators", cU16, s.maxValidators, eventMaxValidatorsSet),
			rt.setTempo(net),
			{42, "sudo_set_stake_threshold", []field{{"min_stake", tU64, "u64"}}, false, weight{404373000, 8410}, func(rt *runtime, r *scale.Reader) dispatch {
				amount := r.U64()
				return dispatch{run: func(x *execution, from origin) error {
					if !from.root {
						return badOrigin
					}
					s.stakeThreshold.set(x, amount)
					x.emit(eventStakeThresholdSet, u64(amount))
					return nil
				}}
			}},
			setter(49, "sudo_set_commit_reveal_weights_enabled", net, "enabled", cBool, s.commitReveal, eventCommitRevealEnabled),
		},
		errors: plainArms("SubnetDoesNotExist", "MaxValidatorsLargerThanMaxUIds", "MaxAllowedUIdsLessThanCurrentUIds",
			"BondsMovingAverageMaxReached", "NegativeSigmoidSteepness", "ValueNotInBounds", "MinAllowedUidsGreaterThanCurrentUids",
			"MinAllowedUidsGreaterThanMaxAllowedUids", "MaxAllowedUidsLessThanMinAllowedUids",
			"MaxAllowedUidsGreaterThanDefaultMaxAllowedUids", "InvalidValue", "NotPermittedOnRootSubnet", "POWRegistrationDisabled",
			"Deprecated"),
	}
}

// setter is a call that stores one value of a subnet and says so in an event.
func setter[V any](index uint8, name string, net field, arg string, c codec[V], into map1[uint16, V], event eventID) call {
	return call{index, name, []field{net, {arg, c.shape, c.shape.key}}, false, weight{404373000, 8410}, func(rt *runtime, r *scale.Reader) dispatch {
		netuid, v := r.U16(), c.decode(r)
		return dispatch{run: func(x *execution, from origin) error {
			if err := rt.requireSubnet(x, from, netuid); err != nil {
				return err
			}
			into.set(x, netuid, v)
			x.emit(event, u16(netuid), c.encode(nil, v))
			return nil
		}}
	}}
}

func (rt *runtime) requireSubnet(x *execution, from origin, netuid uint16) error {
	if !from.root {
		return badOrigin
	}
	if !rt.subnets.networksAdded.get(x, netuid) {
		return moduleError("AdminUtils", adminIndex, "SubnetDoesNotExist", 0)
	}
	return nil
}

// setTempo also starts the epoch over: the next one runs a whole tempo from now.
func (rt *runtime) setTempo(net field) call {
	return call{30, "sudo_set_tempo", []field{net, {"tempo", tU16, "u16"}}, false, weight{537038000, 8581}, func(rt *runtime, r *scale.Reader) dispatch {
		netuid, tempo := r.U16(), r.U16()
		return dispatch{run: func(x *execution, from origin) error {
			if err := rt.requireSubnet(x, from, netuid); err != nil {
				return err
			}
			rt.subnets.tempo.set(x, netuid, tempo)
			rt.subnets.lastEpochBlock.set(x, netuid, x.block)
			x.emit(eventTempoSet, u16(netuid), u16(tempo))
			return nil
		}}
	}}
}
