package localnet

import (
	"basilica/scale"
	"basilica/yuma"
)

// storageIndex is where a mechanism's rows and vectors stand: mechanism 0 under the netuid itself.
func storageIndex(netuid uint16, mecid uint8) uint16 { return uint16(mecid)*4096 + netuid }

// mechanismExists says whether a subnet has a mechanism.
func (s *subtensorStore) mechanismExists(r reader, netuid uint16, mecid uint8) bool {
	return s.networksAdded.get(r, netuid) && mecid < s.mechanismCountCurrent.get(r, netuid)
}

// row is what a validator says of miners: uids, values as they came, and the version key.
type row struct {
	uids, values []uint16
	key          uint64
}

func readRow(r *scale.Reader) row {
	return row{listOf(cU16).decode(r), listOf(cU16).decode(r), r.U64()}
}

var cCompact16 = codec[uint16]{compact(tU16), func(b []byte, v uint16) []byte { return scale.AppendCompact(b, uint64(v)) }, readCompact16}

func readCompact16(r *scale.Reader) uint16 {
	v := r.Compact32()
	if v > 1<<16-1 {
		r.Fail(errUndecodable)
	}
	return uint16(v)
}

func (rt *runtime) weightCalls(net field) []call {
	rest := []field{{"dests", vec(tU16), "Vec<u16>"}, {"weights", vec(tU16), "Vec<u16>"}, {"version_key", tU64, "u64"}}
	pair := tuple(compact(tU16), compact(tU16))
	return []call{
		{0, "set_weights", append([]field{net}, rest...), true, weight{119_227_684_000, 10343763}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setWeights(r.U16(), 0, r)
		}},
		{119, "set_mechanism_weights", append([]field{net, {"mecid", tU8, "MechId"}}, rest...), true, weight{119_229_074_000, 16353}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setWeights(r.U16(), r.U8(), r)
		}},
		{80, "batch_set_weights", []field{
			{"netuids", vec(compact(tU16)), "Vec<Compact<NetUid>>"},
			{"weights", vec(vec(pair)), "Vec<Vec<(Compact<u16>, Compact<u16>)>>"},
			{"version_keys", vec(compact(tU64)), "Vec<Compact<u64>>"},
		}, true, weight{1_206_790_000, 19264}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.batchSetWeights(r)
		}},
	}
}

// setWeights reads the rest of a set_weights call.
func (rt *runtime) setWeights(netuid uint16, mecid uint8, r *scale.Reader) dispatch {
	row := readRow(r)
	return dispatch{
		guard: func(x *execution, hotkey account) error { return rt.guardWeights(x, netuid, mecid, hotkey) },
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			return rt.plainWeights(x, from.who, netuid, mecid, row)
		},
	}
}

// plainWeights is set_weights of a subnet without commit-reveal.
func (rt *runtime) plainWeights(x *execution, hotkey account, netuid uint16, mecid uint8, row row) error {
	if rt.subnets.commitReveal.get(x, netuid) {
		return subtensorError("CommitRevealEnabled")
	}
	return rt.storeWeights(x, hotkey, netuid, mecid, row)
}

// guardWeights is what the pool asks of a weight call: the minimum stake, then the rate limit of a registered hotkey
// while commit-reveal is off.
func (rt *runtime) guardWeights(x *execution, netuid uint16, mecid uint8, hotkey account) error {
	if err := rt.guardStake(x, netuid, hotkey); err != nil {
		return err
	}
	if !rt.subnets.commitReveal.get(x, netuid) && rt.guardPace(x, netuid, mecid, hotkey) {
		return subtensorError("SettingWeightsTooFast")
	}
	return nil
}

func (rt *runtime) guardStake(x *execution, netuid uint16, hotkey account) error {
	if !rt.enoughStake(x, netuid, hotkey) {
		return subtensorError("NotEnoughStakeToSetWeights")
	}
	return nil
}

// guardPace says that a registered hotkey is too fast. A mechanism that does not exist counts as that.
func (rt *runtime) guardPace(x *execution, netuid uint16, mecid uint8, hotkey account) bool {
	uid, registered := rt.subnets.uids.find(x, netuid, hotkey)
	return registered && (!rt.subnets.mechanismExists(x, netuid, mecid) || rt.tooFast(x, netuid, mecid, uid))
}

// enoughStake says whether a hotkey may set weights by its stake; the owner's always may.
func (rt *runtime) enoughStake(x *execution, netuid uint16, hotkey account) bool {
	s := rt.subnets
	threshold := s.stakeThreshold.get(x)
	if threshold == 0 {
		return true
	}
	if uid, owns := s.ownerUID(x, netuid); owns {
		if own, registered := s.uids.find(x, netuid, hotkey); registered && own == uid {
			return true
		}
	}
	return s.stakeWeightOf(x, netuid, hotkey).Rao >= threshold
}

func (rt *runtime) tooFast(x *execution, netuid uint16, mecid uint8, uid uint16) bool {
	last := element(rt.subnets.lastUpdate.get(x, storageIndex(netuid, mecid)), uid)
	return last != 0 && x.block-last < rt.subnets.weightsRateLimit.get(x, netuid)
}

// touch says that a neuron set or committed weights in this block.
func (rt *runtime) touch(x *execution, index, uid uint16) {
	s := rt.subnets
	s.lastUpdate.set(x, index, replaced(s.lastUpdate.get(x, index), uid, x.block))
}

// storeWeights checks in the runtime's order and stores the row, for set_weights and for reveals.
func (rt *runtime) storeWeights(x *execution, hotkey account, netuid uint16, mecid uint8, row row) error {
	s := rt.subnets
	n, hidden := s.subnetworkN.get(x, netuid), s.commitReveal.get(x, netuid)
	switch {
	case netuid == rootNetuid:
		return subtensorError("CanNotSetRootNetworkWeights")
	case len(row.uids) != len(row.values):
		return subtensorError("WeightVecNotEqualSize")
	case !s.mechanismExists(x, netuid, mecid):
		return subtensorError("MechanismDoesNotExist")
	case len(row.uids) > int(n):
		return subtensorError("UidsLengthExceedUidsInSubNet")
	}
	uid, registered := s.uids.find(x, netuid, hotkey)
	owner, owned := s.ownerUID(x, netuid)
	isOwner := owned && owner == uid
	selfWeight := len(row.uids) == 1 && row.uids[0] == uid
	stored := s.versionKey.get(x, netuid)
	switch {
	case !registered:
		return subtensorError("HotKeyNotRegisteredInSubNet")
	case !rt.enoughStake(x, netuid, hotkey):
		return subtensorError("NotEnoughStakeToSetWeights")
	case stored != 0 && row.key < stored:
		return subtensorError("IncorrectWeightVersionKey")
	case !hidden && rt.tooFast(x, netuid, mecid, uid):
		return subtensorError("SettingWeightsTooFast")
	case !element(s.permit.get(x, netuid), uid) && !selfWeight && !isOwner:
		return subtensorError("NeuronNoValidatorPermit")
	}
	seen := map[uint16]bool{}
	for _, u := range row.uids {
		if seen[u] {
			return subtensorError("DuplicateUids")
		}
		seen[u] = true
	}
	for _, u := range row.uids {
		if u >= n {
			return subtensorError("UidVecContainInvalidOne")
		}
	}
	if len(row.uids) < int(min(n, s.minAllowedWeights.get(x, netuid))) && !selfWeight {
		return subtensorError("WeightVecLengthIsLow")
	}
	index := storageIndex(netuid, mecid)
	entries := make([]yuma.Entry, len(row.uids))
	for i, v := range yuma.MaxUpscale(row.values) {
		entries[i] = yuma.Entry{UID: row.uids[i], Value: v}
	}
	s.weights.set(x, index, uid, entries)
	if !hidden {
		rt.touch(x, index, uid)
	}
	x.emit(eventWeightsSet, u16(index), u16(uid))
	return nil
}

// batchSetWeights reads set_weights of several subnets. One that fails does not stop the others.
func (rt *runtime) batchSetWeights(r *scale.Reader) dispatch {
	netuids := listOf(cCompact16).decode(r)
	pairs := listOf(listOf(codec[yuma.Entry]{decode: func(r *scale.Reader) yuma.Entry {
		return yuma.Entry{UID: readCompact16(r), Value: readCompact16(r)}
	}})).decode(r)
	keys := listOf(codec[uint64]{decode: (*scale.Reader).Compact}).decode(r)
	return dispatch{
		guard: func(x *execution, hotkey account) error {
			if len(netuids) != len(pairs) || len(netuids) != len(keys) {
				return subtensorError("InputLengthsUnequal")
			}
			for _, netuid := range netuids {
				if err := rt.guardStake(x, netuid, hotkey); err != nil {
					return err
				}
			}
			return nil
		},
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			return rt.batchWeights(x, from.who, netuids, func(i int) error {
				row := row{key: keys[i]}
				for _, e := range pairs[i] {
					row.uids, row.values = append(row.uids, e.UID), append(row.values, e.Value)
				}
				return rt.plainWeights(x, from.who, netuids[i], 0, row)
			})
		},
	}
}

// batchWeights runs one weight call for each subnet and says which failed.
func (rt *runtime) batchWeights(x *execution, who account, netuids []uint16, one func(i int) error) error {
	failed := false
	for i, netuid := range netuids {
		x.begin()
		events := len(x.events)
		err := one(i)
		if err == nil {
			x.commit()
			continue
		}
		x.rollback()
		x.events = x.events[:events]
		failed = true
		x.emit(eventBatchItemFailed, u16(netuid), x.rt.encodeError(err))
	}
	if failed {
		x.emit(eventBatchWithErrors)
		return nil
	}
	x.emit(eventBatchCompleted, listOf(cCompact16).encode(nil, netuids), who[:])
	return nil
}
