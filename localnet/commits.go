package localnet

import (
	"slices"

	"basilica/pallet"
	"basilica/scale"
)

const (
	maxCommits     = 10 // open ones of a hotkey, or timelocked ones in an epoch
	maxCiphertext  = 5000
	formerVersion4 = 4 // of commit_crv3_mechanism_weights
)

func (rt *runtime) commitCalls(net field) []call {
	mecid := field{"mecid", tU8, "MechId"}
	hash := field{"commit_hash", tHash, "H256"}
	list := func(name string) field { return field{name, vec(tU16), "Vec<u16>"} }
	opened := []field{list("uids"), list("values"), list("salt"), {"version_key", tU64, "u64"}}
	sealed := field{"commit", bounded(tU8), "BoundedVec<u8, ConstU32<MAX_CRV3_COMMIT_SIZE_BYTES>>"}
	round, version := field{"reveal_round", tU64, "u64"}, field{"commit_reveal_version", tU16, "u16"}
	lists := func(name string) field { return field{name, vec(vec(tU16)), "Vec<Vec<u16>>"} }
	return []call{
		{96, "commit_weights", []field{net, hash}, true, weight{1_308_123_000, 21067}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.commitWeights(r.U16(), 0, readAccount(r))
		}},
		{115, "commit_mechanism_weights", []field{net, mecid, hash}, true, weight{1_308_123_000, 21067}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.commitWeights(r.U16(), r.U8(), readAccount(r))
		}},
		{100, "batch_commit_weights", []field{{"netuids", vec(compact(tU16)), "Vec<Compact<NetUid>>"}, {"commit_hashes", vec(tHash), "Vec<H256>"}}, true, weight{1_308_123_000, 21067}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.batchCommit(listOf(cCompact16).decode(r), listOf(cHash).decode(r))
		}},
		{97, "reveal_weights", append([]field{net}, opened...), true, weight{1_289_925_000, 19459}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.revealWeights(r.U16(), 0, []reveal{readReveal(r)}, false)
		}},
		{116, "reveal_mechanism_weights", append([]field{net, mecid}, opened...), true, weight{1_289_925_000, 19459}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.revealWeights(r.U16(), r.U8(), []reveal{readReveal(r)}, false)
		}},
		{98, "batch_reveal_weights", []field{net, lists("uids_list"), lists("values_list"), lists("salts_list"), {"version_keys", vec(tU64), "Vec<u64>"}}, true, weight{1_289_925_000, 19459}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.batchReveal(r)
		}},
		{113, "commit_timelocked_weights", []field{net, sealed, round, version}, true, weight{1_140_649_000, 16582}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.commitTimelocked(r.U16(), 0, readCiphertext(r), r.U64(), r.U16())
		}},
		{117, "commit_crv3_mechanism_weights", []field{net, mecid, sealed, round}, true, weight{956_448_000, 11869}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.commitTimelocked(r.U16(), r.U8(), readCiphertext(r), r.U64(), formerVersion4)
		}},
		{118, "commit_timelocked_mechanism_weights", []field{net, mecid, sealed, round, version}, true, weight{1_012_718_000, 11869}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.commitTimelocked(r.U16(), r.U8(), readCiphertext(r), r.U64(), r.U16())
		}},
	}
}

func readCiphertext(r *scale.Reader) []byte {
	b := r.Bytes()
	if len(b) > maxCiphertext {
		r.Fail(errUndecodable)
	}
	return b
}

// reveal is what a commit's hash is of, besides who made it and where.
type reveal struct {
	row
	salt []uint16
}

func readReveal(r *scale.Reader) reveal {
	v := reveal{row: row{uids: listOf(cU16).decode(r), values: listOf(cU16).decode(r)}}
	v.salt, v.key = listOf(cU16).decode(r), r.U64()
	return v
}

func (v reveal) hash(who account, index uint16) account {
	return pallet.CommitHash(who, index, v.uids, v.values, v.salt, v.key)
}

// epochAhead is the subnet's epoch as commits count it: an epoch that this block has yet to run counts already.
func (rt *runtime) epochAhead(x *execution, netuid uint16) uint64 {
	epoch := rt.subnets.epochIndex.get(x, netuid)
	if rt.due(x, netuid) {
		epoch++
	}
	return epoch
}

// commitWeights keeps a hash, to be revealed RevealPeriodEpochs epochs later.
func (rt *runtime) commitWeights(netuid uint16, mecid uint8, hash account) dispatch {
	return dispatch{
		guard: func(x *execution, hotkey account) error {
			if err := rt.guardStake(x, netuid, hotkey); err != nil {
				return err
			}
			if rt.guardPace(x, netuid, mecid, hotkey) {
				return subtensorError("CommittingWeightsTooFast")
			}
			return nil
		},
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			return rt.storeCommit(x, from.who, netuid, mecid, hash)
		},
	}
}

// admitCommit checks what every commit needs, and gives the hotkey's uid; between says what a kind of commit asks for
// between the subnet and the hotkey.
func (rt *runtime) admitCommit(x *execution, who account, netuid uint16, mecid uint8, between error) (uid uint16, err error) {
	s := rt.subnets
	switch {
	case !s.mechanismExists(x, netuid, mecid):
		return 0, subtensorError("MechanismDoesNotExist")
	case !s.commitReveal.get(x, netuid):
		return 0, subtensorError("CommitRevealDisabled")
	case between != nil:
		return 0, between
	}
	uid, registered := s.uids.find(x, netuid, who)
	switch {
	case !registered:
		return 0, subtensorError("HotKeyNotRegisteredInSubNet")
	case rt.tooFast(x, netuid, mecid, uid):
		return 0, subtensorError("CommittingWeightsTooFast")
	}
	return uid, nil
}

func (rt *runtime) storeCommit(x *execution, who account, netuid uint16, mecid uint8, hash account) error {
	s := rt.subnets
	uid, err := rt.admitCommit(x, who, netuid, mecid, nil)
	if err != nil {
		return err
	}
	index, epoch := storageIndex(netuid, mecid), rt.epochAhead(x, netuid)
	commits := s.weightCommits.get(x, index, who)
	for len(commits) > 0 && rt.expired(x, netuid, commits[0]) {
		commits = commits[1:]
	}
	if len(commits) >= maxCommits {
		return subtensorError("TooManyUnrevealedCommits")
	}
	s.weightCommits.set(x, index, who, append(commits, weightCommit{hash: hash, epoch: epoch, block: x.block}))
	rt.touch(x, index, uid)
	x.emit(eventWeightsCommitted, who[:], u16(index), hash[:])
	return nil
}

// expired says that a commit can be revealed no more.
func (rt *runtime) expired(x *execution, netuid uint16, c weightCommit) bool {
	return rt.epochAhead(x, netuid) > c.epoch+rt.subnets.revealPeriodEpochs.get(x, netuid)
}

func (rt *runtime) batchCommit(netuids []uint16, hashes []account) dispatch {
	return dispatch{
		guard: func(x *execution, hotkey account) error {
			if len(netuids) != len(hashes) {
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
				return rt.storeCommit(x, from.who, netuids[i], 0, hashes[i])
			})
		},
	}
}

// openable finds a commit and says whether now is its time.
func (rt *runtime) openable(x *execution, netuid uint16, commits []weightCommit, hash account) (int, error) {
	i := slices.IndexFunc(commits, func(c weightCommit) bool { return c.hash == hash })
	if i < 0 {
		return i, subtensorError("InvalidRevealCommitHashNotMatch")
	}
	opens, epoch := commits[i].epoch+rt.subnets.revealPeriodEpochs.get(x, netuid), rt.epochAhead(x, netuid)
	switch {
	case epoch < opens:
		return i, subtensorError("RevealTooEarly")
	case epoch > opens:
		return i, subtensorError("ExpiredWeightCommit")
	}
	return i, nil
}

// revealWeights opens commits; batched says which event tells of it.
func (rt *runtime) revealWeights(netuid uint16, mecid uint8, reveals []reveal, batched bool) dispatch {
	index := storageIndex(netuid, mecid)
	return dispatch{
		guard: func(x *execution, hotkey account) error {
			if err := rt.guardStake(x, netuid, hotkey); err != nil {
				return err
			}
			commits := rt.subnets.weightCommits.get(x, index, hotkey)
			if len(commits) == 0 {
				return subtensorError("NoWeightsCommitFound")
			}
			for _, v := range reveals {
				if _, err := rt.openable(x, netuid, commits, v.hash(hotkey, index)); err != nil {
					return err
				}
			}
			return nil
		},
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			return rt.open(x, from.who, netuid, mecid, reveals, batched)
		},
	}
}

func (rt *runtime) batchReveal(r *scale.Reader) dispatch {
	netuid, lists := r.U16(), listOf(listOf(cU16))
	uids, values, salts, keys := lists.decode(r), lists.decode(r), lists.decode(r), listOf(cU64).decode(r)
	if len(uids) != len(values) || len(uids) != len(salts) || len(uids) != len(keys) {
		unequal := func() error { return subtensorError("InputLengthsUnequal") }
		return dispatch{
			guard: func(*execution, account) error { return unequal() },
			run:   func(*execution, origin) error { return unequal() },
		}
	}
	reveals := make([]reveal, len(uids))
	for i := range reveals {
		reveals[i] = reveal{row{uids[i], values[i], keys[i]}, salts[i]}
	}
	return rt.revealWeights(netuid, 0, reveals, true)
}

// open sets the weights of commits that were made under the same hash, and drops them with all that are older.
func (rt *runtime) open(x *execution, who account, netuid uint16, mecid uint8, reveals []reveal, batched bool) error {
	s, index := rt.subnets, storageIndex(netuid, mecid)
	switch {
	case !s.mechanismExists(x, netuid, mecid):
		return subtensorError("MechanismDoesNotExist")
	case !s.commitReveal.get(x, netuid):
		return subtensorError("CommitRevealDisabled")
	}
	commits := s.weightCommits.get(x, index, who)
	if len(commits) == 0 {
		return subtensorError("NoWeightsCommitFound")
	}
	var hashes []account
	for _, v := range reveals {
		hash := v.hash(who, index)
		i, err := rt.openable(x, netuid, commits, hash)
		if err != nil {
			return err
		}
		commits = commits[i+1:]
		if err := rt.storeWeights(x, who, netuid, mecid, v.row); err != nil {
			return err
		}
		hashes = append(hashes, hash)
	}
	if len(commits) == 0 {
		s.weightCommits.del(x, index, who)
	} else {
		s.weightCommits.set(x, index, who, commits)
	}
	if batched {
		x.emit(eventWeightsBatchRevealed, who[:], u16(netuid), listOf(cHash).encode(nil, hashes))
		return nil
	}
	x.emit(eventWeightsRevealed, who[:], u16(index), hashes[0][:])
	return nil
}

// commitTimelocked keeps a ciphertext, which the chain opens by itself with the beacon's pulse of a round.
func (rt *runtime) commitTimelocked(netuid uint16, mecid uint8, cipher []byte, round uint64, version uint16) dispatch {
	return dispatch{
		guard: func(x *execution, hotkey account) error {
			if err := rt.guardStake(x, netuid, hotkey); err != nil {
				return err
			}
			return rt.guardRound(x, round)
		},
		run: func(x *execution, from origin) error {
			s, who := rt.subnets, from.who
			if from.root {
				return badOrigin
			}
			var between error
			if version != s.commitRevealWeightsVersion.get(x) {
				between = subtensorError("IncorrectCommitRevealVersion")
			}
			uid, err := rt.admitCommit(x, who, netuid, mecid, between)
			if err != nil {
				return err
			}
			if err := rt.guardRound(x, round); err != nil {
				return err
			}
			index, epoch := storageIndex(netuid, mecid), rt.epochAhead(x, netuid)
			commits, own := s.timelockedWeightCommits.get(x, index, epoch), 0
			for _, c := range commits {
				if c.who == who {
					own++
				}
			}
			if own >= maxCommits {
				return subtensorError("TooManyUnrevealedCommits")
			}
			s.timelockedWeightCommits.set(x, index, epoch, append(commits, timelockedCommit{who, x.block, cipher, round}))
			rt.touch(x, index, uid)
			hash := pallet.Blake2b256(cipher)
			x.emit(eventTimelockedCommitted, who[:], u16(index), hash[:], u64(round))
			return nil
		},
	}
}

// guardRound refuses a round whose pulse the chain has already passed.
func (rt *runtime) guardRound(x *execution, round uint64) error {
	if round < rt.drand.lastStored.get(x) {
		return subtensorError("InvalidRevealRound")
	}
	return nil
}
