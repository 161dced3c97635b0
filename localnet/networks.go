package localnet

import (
	"slices"
	"unicode/utf8"

	"basilica/scale"
)

// What register_network gives a subnet.
const (
	newBurn        = 1_000_000_000 // rao
	newMaxUids     = 256
	newValidators  = 64
	newMinWeights  = 1
	newImmunity    = 5000 // blocks
	newTempo       = 360
	newKappa       = 32767
	newCutoff      = 5000
	identityBytes  = 1024 // of a description; the other texts are shorter
	identityMember = 256
)

// symbols are the tokens of the first subnets, by netuid.
var symbols = []rune("Ταβγδεζηθικλμνξοπρσtυφχψω")

func (rt *runtime) networkCalls(net field) []call {
	hotkey := field{"hotkey", tAccount, "T::AccountId"}
	text := func(names ...string) (out []field) {
		for _, n := range names {
			out = append(out, field{n, tBytes, "Vec<u8>"})
		}
		return out
	}
	return []call{
		{59, "register_network", []field{hotkey}, false, weight{6_463_241_000, 18629}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.registerNetwork(readAccount(r), nil)
		}},
		{79, "register_network_with_identity", []field{hotkey, {"identity", option(cSubnetIdentity.shape), "Option<SubnetIdentityOfV3>"}}, false, weight{6_463_241_000, 18629}, func(rt *runtime, r *scale.Reader) dispatch {
			hot := readAccount(r)
			var identity [][]byte
			if r.Bool() {
				identity = cSubnetIdentity.decode(r)
			}
			return rt.registerNetwork(hot, identity)
		}},
		{92, "start_call", []field{net}, false, weight{540_194_000, 8781}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.startCall(r.U16())
		}},
		{68, "set_identity", text("name", "url", "github_repo", "image", "discord", "description", "additional"), false, weight{382_780_000, 11027}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setIdentity(cIdentity.decode(r))
		}},
		{78, "set_subnet_identity", append([]field{net}, text("subnet_name", "github_repo", "subnet_contact", "subnet_url", "discord", "description", "logo_url", "additional")...), false, weight{382_780_000, 11027}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid := r.U16()
			return rt.setSubnetIdentity(netuid, cSubnetIdentity.decode(r))
		}},
		{91, "try_associate_hotkey", []field{hotkey}, false, weight{576_077_000, 8481}, func(rt *runtime, r *scale.Reader) dispatch {
			hot := readAccount(r)
			return dispatch{run: func(x *execution, from origin) error {
				if from.root {
					return badOrigin
				}
				if _, owned := rt.subnets.owner.find(x, hot); !owned {
					return rt.ownHotkey(x, from.who, hot)
				}
				return nil
			}}
		}},
		{125, "announce_coldkey_swap", []field{{"new_coldkey_hash", tHash, "T::Hash"}}, false, weight{622_988_000, 8357}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.announceSwap(readAccount(r))
		}},
	}
}

// lockCost is what a new subnet costs: twice the last one's price, falling to the lowest price over the interval.
func (rt *runtime) lockCost(r reader, block uint64) uint64 {
	s := rt.subnets
	last, since := s.networkLastLockCost.get(r), s.lastRateLimitedBlock.get(r, rateNetworkRegistered)
	cost := last
	if since != 0 {
		cost = 2 * last
	}
	fallen := uint64(0)
	if interval := s.networkLockReductionInterval.get(r); interval > 0 {
		fallen = last / interval * (block - since)
	}
	return max(cost-min(cost, fallen), s.networkMinLockCost.get(r))
}

// rateNetworkRegistered is the key of LastRateLimitedBlock under which register_network leaves its block.
var rateNetworkRegistered = []byte{2}

func (rt *runtime) guardNetwork(x *execution) error {
	s := rt.subnets
	if last := s.lastRateLimitedBlock.get(x, rateNetworkRegistered); last != 0 && x.block-last < s.networkRateLimit.get(x) {
		return subtensorError("NetworkTxRateLimitExceeded")
	}
	return nil
}

// registerNetwork makes a subnet with a pool, whose owner hotkey has uid 0; identity may be nil.
func (rt *runtime) registerNetwork(hotkey account, identity [][]byte) dispatch {
	return dispatch{
		guard: func(x *execution, _ account) error { return rt.guardNetwork(x) },
		run: func(x *execution, from origin) error {
			s := rt.subnets
			if from.root {
				return badOrigin
			}
			if err := rt.guardNetwork(x); err != nil {
				return err
			}
			if owner, owned := s.owner.find(x, hotkey); owned && owner != from.who {
				return subtensorError("NonAssociatedColdKey")
			}
			cost := rt.lockCost(x, x.block)
			if free := rt.system.account.get(x, from.who).free; free < cost || free-cost < existentialDeposit {
				return subtensorError("CannotAffordLockCost")
			}
			nets := rt.sortedNetuids(x)
			if len(nets) > int(s.subnetLimit.get(x)) {
				return subtensorError("SubnetLimitReached")
			}
			if identity != nil && !validIdentity(identity, 5) {
				return subtensorError("InvalidIdentity")
			}
			netuid := uint16(1)
			for slices.Contains(nets, netuid) {
				netuid++
			}
			if err := rt.ownHotkey(x, from.who, hotkey); err != nil {
				return err
			}
			rt.initNetwork(x, netuid)
			if err := rt.transfer(x, from.who, subnetAccount(netuid), cost, true); err != nil {
				return err
			}
			rt.fundNetwork(x, netuid, cost)
			s.subnetOwner.set(x, netuid, from.who)
			s.subnetOwnerHotkey.set(x, netuid, hotkey)
			x.emit(eventOwnerHotkeySet, u16(netuid), hotkey[:])
			rt.seat(x, netuid, 0, hotkey)
			if identity != nil {
				s.subnetIdentitiesV3.set(x, netuid, identity)
				x.emit(eventSubnetIdentitySet, u16(netuid))
			}
			x.emit(eventNetworkAdded, u16(netuid), u16(dynamicMech))
			return nil
		},
	}
}

// initNetwork stores the hyperparameters of a new subnet.
func (rt *runtime) initNetwork(x *execution, netuid uint16) {
	s := rt.subnets
	s.subnetworkN.set(x, netuid, 0)
	s.networksAdded.set(x, netuid, true)
	s.totalNetworks.set(x, s.totalNetworks.get(x)+1)
	s.tempo.set(x, netuid, newTempo)
	s.lastEpochBlock.set(x, netuid, x.block-min(x.block, uint64(netuid%newTempo)))
	s.kappa.set(x, netuid, newKappa)
	s.activityCutoff.set(x, netuid, newCutoff)
	s.registrationAllowed.set(x, netuid, true)
	x.emit(eventRegistrationAllowed, u16(netuid), []byte{1})
	s.maxAllowedUids.set(x, netuid, newMaxUids)
	x.emit(eventMaxAllowedUidsSet, u16(netuid), u16(newMaxUids))
	s.maxValidators.set(x, netuid, newValidators)
	x.emit(eventMaxValidatorsSet, u16(netuid), u16(newValidators))
	s.minAllowedWeights.set(x, netuid, newMinWeights)
	x.emit(eventMinAllowedWeightSet, u16(netuid), u16(newMinWeights))
	s.immunityPeriod.set(x, netuid, newImmunity)
	x.emit(eventImmunityPeriodSet, u16(netuid), u16(newImmunity))
	s.yuma3.set(x, netuid, true)
	s.emissionEnabled.set(x, netuid, false)
	s.burn.set(x, netuid, newBurn)
	s.raoRecycled.set(x, netuid, 0)
	s.registrationsThisInterval.set(x, netuid, 0)
	s.registeredAt.set(x, netuid, x.block)
	s.registeredSubnetCounter.change(x, netuid, func(v uint64) uint64 { return v + 1 })
	s.mechanism.set(x, netuid, dynamicMech)
	if int(netuid) < len(symbols) {
		s.tokenSymbol.set(x, netuid, utf8.AppendRune(nil, symbols[netuid]))
	}
}

// fundNetwork fills the pool of a new subnet from what its owner paid: as much alpha as TAO.
func (rt *runtime) fundNetwork(x *execution, netuid uint16, cost uint64) {
	s := rt.subnets
	pool := min(cost, s.networkMinLockCost.get(x))
	s.subnetTAO.set(x, netuid, pool)
	s.subnetAlphaIn.set(x, netuid, pool)
	s.subnetAlphaOut.set(x, netuid, 0)
	s.subnetVolume.set(x, netuid, [2]uint64{})
	s.subnetLocked.set(x, netuid, cost)
	s.totalStake.set(x, s.totalStake.get(x)+pool)
	s.networkLastLockCost.set(x, cost)
	s.lastRateLimitedBlock.set(x, rateNetworkRegistered, x.block)
}

// startCall lets a subnet's emission begin with the next block, and its stakes at once.
func (rt *runtime) startCall(netuid uint16) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if !s.networksAdded.get(x, netuid) {
			return subtensorError("SubnetNotExists")
		}
		if from.root || from.who != s.subnetOwner.get(x, netuid) {
			return badOrigin
		}
		if _, started := s.firstEmission.find(x, netuid); started {
			return subtensorError("FirstEmissionBlockNumberAlreadySet")
		}
		if x.block < s.registeredAt.get(x, netuid)+s.startCallDelay.get(x) {
			return subtensorError("NeedWaitingMoreBlocksToStarCall")
		}
		s.firstEmission.set(x, netuid, x.block+1)
		s.subtokenEnabled.set(x, netuid, true)
		x.emit(eventFirstEmissionSet, u16(netuid), u64(x.block+1))
		return nil
	}}
}

// validIdentity bounds the texts of an identity; description is the place of the long one.
func validIdentity(texts [][]byte, description int) bool {
	for i, text := range texts {
		limit := identityMember
		if i >= description {
			limit = identityBytes
		}
		if len(text) > limit {
			return false
		}
	}
	return true
}

func (rt *runtime) setIdentity(texts [][]byte) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if from.root {
			return badOrigin
		}
		registered := slices.ContainsFunc(s.ownedHotkeys.get(x, from.who), func(hotkey account) bool {
			return slices.ContainsFunc(rt.sortedNetuids(x), func(netuid uint16) bool { return s.isMember.get(x, hotkey, netuid) })
		})
		switch {
		case !registered:
			return subtensorError("HotKeyNotRegisteredInNetwork")
		case !validIdentity(texts, 5):
			return subtensorError("InvalidIdentity")
		}
		s.identitiesV2.set(x, from.who, texts)
		x.emit(eventChainIdentitySet, from.who[:])
		return nil
	}}
}

func (rt *runtime) setSubnetIdentity(netuid uint16, texts [][]byte) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		if from.root || from.who != rt.subnets.subnetOwner.get(x, netuid) {
			return badOrigin
		}
		if !validIdentity(texts, 5) {
			return subtensorError("InvalidIdentity")
		}
		rt.subnets.subnetIdentitiesV3.set(x, netuid, texts)
		x.emit(eventSubnetIdentitySet, u16(netuid))
		return nil
	}}
}

// announceSwap says by its hash which coldkey shall replace the signer. Until the swap the guards let nothing else pass.
func (rt *runtime) announceSwap(hash account) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if from.root {
			return badOrigin
		}
		if last, announced := s.coldkeySwapAnnouncements.find(x, from.who); announced && uint32(x.block) < last.block+s.coldkeySwapReannouncementDelay.get(x) {
			return subtensorError("ColdkeySwapReannouncedTooEarly")
		}
		s.coldkeySwapAnnouncements.set(x, from.who, swapAnnouncement{uint32(x.block) + s.coldkeySwapAnnouncementDelay.get(x), hash})
		x.emit(eventColdkeySwapAnnounced, from.who[:], hash[:])
		return nil
	}}
}
