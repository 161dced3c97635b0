package localnet

import (
	"basilica/scale"
	"basilica/yuma"
)

func (rt *runtime) weightCalls(net field) []call {
	rest := []field{{"dests", vec(tU16), "Vec<u16>"}, {"weights", vec(tU16), "Vec<u16>"}, {"version_key", tU64, "u64"}}
	return []call{
		{0, "set_weights", append([]field{net}, rest...), true, weight{119227684000, 10343763}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setWeights(r.U16(), 0, r)
		}},
		{119, "set_mechanism_weights", append([]field{net, {"mecid", tU8, "MechId"}}, rest...), true, weight{119229074000, 16353}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setWeights(r.U16(), r.U8(), r)
		}},
	}
}

// setWeights reads the rest of a set_weights call. Only mechanism 0 exists here.
func (rt *runtime) setWeights(netuid uint16, mecid uint8, r *scale.Reader) dispatch {
	uids, values, key := listOf(cU16).decode(r), listOf(cU16).decode(r), r.U64()
	return dispatch{
		guard: func(x *execution, hotkey account) error { return rt.guardWeights(x, netuid, mecid, hotkey) },
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			return rt.storeWeights(x, from.who, netuid, mecid, uids, values, key)
		},
	}
}

// guardWeights is what the pool asks of a weight call: the minimum stake, then the rate limit of a registered hotkey
// while commit-reveal is off. A mechanism that does not exist counts as too fast.
func (rt *runtime) guardWeights(x *execution, netuid uint16, mecid uint8, hotkey account) error {
	s := rt.subnets
	if !rt.enoughStake(x, netuid, hotkey) {
		return subtensorError("NotEnoughStakeToSetWeights")
	}
	uid, registered := s.uids.find(x, netuid, hotkey)
	if registered && !s.commitReveal.get(x, netuid) && (mecid != 0 || rt.tooFast(x, netuid, uid)) {
		return subtensorError("SettingWeightsTooFast")
	}
	return nil
}

// enoughStake says whether a hotkey may set weights by its stake; the owner's always may.
func (rt *runtime) enoughStake(x *execution, netuid uint16, hotkey account) bool {
	s := rt.subnets
	if uid, owns := s.ownerUID(x, netuid); owns {
		if own, registered := s.uids.find(x, netuid, hotkey); registered && own == uid {
			return true
		}
	}
	return s.stakeWeightOf(x, netuid, hotkey).Rao >= s.stakeThreshold.get(x)
}

func (rt *runtime) tooFast(x *execution, netuid, uid uint16) bool {
	last := element(rt.subnets.lastUpdate.get(x, netuid), uid)
	return last != 0 && x.block-last < rt.subnets.weightsRateLimit.get(x, netuid)
}

// storeWeights checks in the runtime's order and stores the row.
func (rt *runtime) storeWeights(x *execution, hotkey account, netuid uint16, mecid uint8, uids, values []uint16, key uint64) error {
	s := rt.subnets
	n := s.subnetworkN.get(x, netuid)
	switch {
	case s.commitReveal.get(x, netuid):
		return subtensorError("CommitRevealEnabled")
	case netuid == rootNetuid:
		return subtensorError("CanNotSetRootNetworkWeights")
	case len(uids) != len(values):
		return subtensorError("WeightVecNotEqualSize")
	case !s.networksAdded.get(x, netuid) || mecid != 0:
		return subtensorError("MechanismDoesNotExist")
	case len(uids) > int(n):
		return subtensorError("UidsLengthExceedUidsInSubNet")
	}
	uid, registered := s.uids.find(x, netuid, hotkey)
	owner, owned := s.ownerUID(x, netuid)
	isOwner := owned && owner == uid
	selfWeight := len(uids) == 1 && uids[0] == uid
	stored := s.versionKey.get(x, netuid)
	switch {
	case !registered:
		return subtensorError("HotKeyNotRegisteredInSubNet")
	case !rt.enoughStake(x, netuid, hotkey):
		return subtensorError("NotEnoughStakeToSetWeights")
	case stored != 0 && key < stored:
		return subtensorError("IncorrectWeightVersionKey")
	case rt.tooFast(x, netuid, uid):
		return subtensorError("SettingWeightsTooFast")
	case !element(s.permit.get(x, netuid), uid) && !selfWeight && !isOwner:
		return subtensorError("NeuronNoValidatorPermit")
	}
	seen := map[uint16]bool{}
	for _, u := range uids {
		if seen[u] {
			return subtensorError("DuplicateUids")
		}
		seen[u] = true
	}
	for _, u := range uids {
		if u >= n {
			return subtensorError("UidVecContainInvalidOne")
		}
	}
	if len(uids) < int(min(n, s.minAllowedWeights.get(x, netuid))) && !selfWeight {
		return subtensorError("WeightVecLengthIsLow")
	}
	row := make([]yuma.Entry, len(uids))
	for i, v := range yuma.MaxUpscale(values) {
		row[i] = yuma.Entry{UID: uids[i], Value: v}
	}
	s.weights.set(x, netuid, uid, row)
	s.lastUpdate.set(x, netuid, replaced(s.lastUpdate.get(x, netuid), uid, x.block))
	x.emit(eventWeightsSet, u16(netuid), u16(uid))
	return nil
}
