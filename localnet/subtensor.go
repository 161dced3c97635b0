package localnet

import (
	"encoding/binary"
	"slices"

	"basilica/scale"
	"basilica/yuma"
)

const (
	subtensorIndex = 7
	rootNetuid     = 0
	minStake       = 2_000_000 // rao, DefaultMinStake
)

// axonInfo is SubtensorModule.Axons' value; ip is the 128-bit number, high half first.
type axonInfo struct {
	block                      uint64
	version                    uint32
	ip                         [2]uint64
	port                       uint16
	ipType, protocol           uint8
	placeholder1, placeholder2 uint8
}

// certificate is what serve_axon_tls published.
type certificate struct {
	key       []byte
	algorithm uint8
}

var (
	cEntry = codec[yuma.Entry]{
		tuple(tU16, tU16),
		func(b []byte, e yuma.Entry) []byte { return scale.AppendU16(scale.AppendU16(b, e.UID), e.Value) },
		func(r *scale.Reader) yuma.Entry { return yuma.Entry{UID: r.U16(), Value: r.U16()} },
	}
	cAxon = codec[axonInfo]{
		composite("pallet_subtensor::pallet::AxonInfo", nil, field{"block", tU64, "u64"}, field{"version", tU32, "u32"},
			field{"ip", tU128, "u128"}, field{"port", tU16, "u16"}, field{"ip_type", tU8, "u8"}, field{"protocol", tU8, "u8"},
			field{"placeholder1", tU8, "u8"}, field{"placeholder2", tU8, "u8"}),
		func(b []byte, a axonInfo) []byte {
			b = scale.AppendU128(scale.AppendU32(scale.AppendU64(b, a.block), a.version), a.ip[0], a.ip[1])
			return append(scale.AppendU16(b, a.port), a.ipType, a.protocol, a.placeholder1, a.placeholder2)
		},
		func(r *scale.Reader) axonInfo {
			return axonInfo{r.U64(), r.U32(), cU128.decode(r), r.U16(), r.U8(), r.U8(), r.U8(), r.U8()}
		},
	}
	cShares = codec[shares]{
		composite("share_pool::SafeFloat", nil, field{"mantissa", tU128, "u128"}, field{"exponent", primitive("i64", scale.I64), "i64"}),
		func(b []byte, s shares) []byte {
			return scale.AppendU64(scale.AppendU128(b, s.mantissa[0], s.mantissa[1]), uint64(s.exponent))
		},
		func(r *scale.Reader) shares { return shares{cU128.decode(r), int64(r.U64())} },
	}
)

// certificateCodec is NeuronCertificates' value; grown adds a field at its end, which is always 0.
func certificateCodec(grown bool) codec[certificate] {
	fields := []field{{"public_key", bounded(tU8), "BoundedVec<u8, ConstU32<64>>"}, {"algorithm", tU8, "u8"}}
	if grown {
		fields = append(fields, field{"added_by_upgrade", tU32, "u32"})
	}
	return codec[certificate]{
		composite("pallet_subtensor::pallet::NeuronCertificate", nil, fields...),
		func(b []byte, c certificate) []byte {
			b = append(scale.AppendBytes(b, c.key), c.algorithm)
			if grown {
				b = scale.AppendU32(b, 0)
			}
			return b
		},
		func(r *scale.Reader) certificate {
			c := certificate{r.Bytes(), r.U8()}
			if grown {
				r.U32()
			}
			return c
		},
	}
}

func (rt *runtime) subtensorPallet() module {
	p := &prefix{pallet: "SubtensorModule", grown: rt.code.Field}
	rt.subnets = declareSubnets(p)
	net := field{"netuid", tU16, "NetUid"}
	who := field{"", tAccount, "T::AccountId"}
	at := func(s shape, name string) field { return field{"", s, name} }
	netuid, amount16, amount64 := at(tU16, "NetUid"), at(tU16, "u16"), at(tU64, "u64")
	tao, index, hash := at(tU64, "TaoBalance"), at(tU16, "NetUidStorageIndex"), at(tHash, "H256")
	stakeMoved := []field{who, who, at(tU64, "TaoBalance"), at(tU64, "AlphaBalance"), netuid, amount64}
	return module{
		name: "SubtensorModule", crate: "pallet_subtensor", index: subtensorIndex, storage: p,
		calls: slices.Concat(rt.weightCalls(net), rt.commitCalls(net), rt.servingCalls(net), rt.registrationCalls(net),
			rt.networkCalls(net), rt.stakingCalls(net), rt.childrenCalls(net), rt.tempoCalls(net)),
		events: []arm{
			eventNetworkAdded.arm("NetworkAdded", netuid, amount16),
			eventStakeAdded.arm("StakeAdded", stakeMoved...),
			eventStakeRemoved.arm("StakeRemoved", stakeMoved...),
			eventWeightsSet.arm("WeightsSet", at(tU16, "NetUidStorageIndex"), amount16),
			eventNeuronRegistered.arm("NeuronRegistered", netuid, amount16, who),
			eventMaxAllowedUidsSet.arm("MaxAllowedUidsSet", netuid, amount16),
			eventMinAllowedWeightSet.arm("MinAllowedWeightSet", netuid, amount16),
			eventWeightsSetRateLimit.arm("WeightsSetRateLimitSet", netuid, amount64),
			eventImmunityPeriodSet.arm("ImmunityPeriodSet", netuid, amount16),
			eventMaxValidatorsSet.arm("MaxAllowedValidatorsSet", netuid, amount16),
			eventAxonServed.arm("AxonServed", netuid, who),
			eventWeightsVersionKeySet.arm("WeightsVersionKeySet", netuid, amount64),
			eventServingRateLimitSet.arm("ServingRateLimitSet", netuid, amount64),
			eventTempoSet.arm("TempoSet", netuid, amount16),
			eventStakeThresholdSet.arm("StakeThresholdSet", amount64),
			eventCommitRevealEnabled.arm("CommitRevealEnabled", netuid, at(tBool, "bool")),
			eventIncentiveEmitted.arm("IncentiveAlphaEmittedToMiners", field{"netuid", tU16, "NetUidStorageIndex"}, field{"emissions", vec(tU64), "Vec<AlphaBalance>"}),
			eventEpochDeferred.arm("EpochDeferred", net, field{"from_block", tU64, "u64"}, field{"to_block", tU64, "u64"}),
			eventEpochSkipped.arm("EpochSkipped", net, field{"block", tU64, "u64"}),
			eventStakeMoved.arm("StakeMoved", who, who, netuid, who, netuid, tao),
			eventTargetRegistrationsSet.arm("RegistrationPerIntervalSet", netuid, amount16),
			eventMaxRegistrationsSet.arm("MaxRegistrationsPerBlockSet", netuid, amount16),
			eventRhoSet.arm("RhoSet", netuid, amount16),
			eventKappaSet.arm("KappaSet", netuid, amount16),
			eventBondsMovingAverageSet.arm("BondsMovingAverageSet", netuid, amount64),
			eventBondsPenaltySet.arm("BondsPenaltySet", netuid, amount16),
			eventPrometheusServed.arm("PrometheusServed", netuid, who),
			eventMaxBurnSet.arm("MaxBurnSet", netuid, tao),
			eventMinBurnSet.arm("MinBurnSet", netuid, tao),
			eventMaxEpochsSet.arm("MaxEpochsPerBlockSet", at(tU8, "u8")),
			eventTxRateLimitSet.arm("TxRateLimitSet", amount64),
			eventFreezeWindowSet.arm("AdminFreezeWindowSet", amount16),
			eventOwnerRateLimitSet.arm("OwnerHyperparamRateLimitSet", amount16),
			eventChildKeyTakeSet.arm("ChildKeyTakeSet", who, amount16),
			eventRegistrationAllowed.arm("RegistrationAllowed", netuid, at(tBool, "bool")),
			eventRAORecycledSet.arm("RAORecycledForRegistrationSet", netuid, tao),
			eventNetworkRateLimitSet.arm("NetworkRateLimitSet", amount64),
			eventStartCallDelaySet.arm("StartCallDelaySet", amount64),
			eventMinLockCostSet.arm("NetworkMinLockCostSet", tao),
			eventSubnetLimitSet.arm("SubnetLimitSet", amount16),
			eventTakeDecreased.arm("TakeDecreased", who, who, amount16),
			eventTakeIncreased.arm("TakeIncreased", who, who, amount16),
			eventColdkeySwapAnnounced.arm("ColdkeySwapAnnounced", field{"who", tAccount, "T::AccountId"}, field{"new_coldkey_hash", tHash, "T::Hash"}),
			eventChildrenScheduled.arm("SetChildrenScheduled", who, netuid, amount64, at(vec(cKin.shape), "Vec<(u64, T::AccountId)>")),
			eventChildrenSet.arm("SetChildren", who, netuid, at(vec(cKin.shape), "Vec<(u64, T::AccountId)>")),
			eventChainIdentitySet.arm("ChainIdentitySet", who),
			eventSubnetIdentitySet.arm("SubnetIdentitySet", netuid),
			eventWeightsCommitted.arm("WeightsCommitted", who, index, hash),
			eventWeightsRevealed.arm("WeightsRevealed", who, index, hash),
			eventWeightsBatchRevealed.arm("WeightsBatchRevealed", who, netuid, at(vec(tHash), "Vec<H256>")),
			eventBatchCompleted.arm("BatchWeightsCompleted", at(vec(compact(tU16)), "Vec<Compact<NetUid>>"), who),
			eventBatchWithErrors.arm("BatchCompletedWithErrors"),
			eventBatchItemFailed.arm("BatchWeightItemFailed", netuid, at(tDispatchError, "sp_runtime::DispatchError")),
			eventStakeTransferred.arm("StakeTransferred", who, who, who, netuid, netuid, tao),
			eventStakeSwapped.arm("StakeSwapped", who, who, netuid, netuid, tao),
			eventTransferToggle.arm("TransferToggle", netuid, at(tBool, "bool")),
			eventOwnerHotkeySet.arm("SubnetOwnerHotkeySet", netuid, who),
			eventFirstEmissionSet.arm("FirstEmissionBlockNumberSet", netuid, amount64),
			eventRevealPeriodSet.arm("CommitRevealPeriodsSet", netuid, amount64),
			eventTimelockedCommitted.arm("TimelockedWeightsCommitted", who, index, hash, amount64),
			eventTimelockedRevealed.arm("TimelockedWeightsRevealed", index, who),
			eventAutoStaked.arm("AutoStakeAdded", net, field{"destination", tAccount, "T::AccountId"}, field{"hotkey", tAccount, "T::AccountId"},
				field{"owner", tAccount, "T::AccountId"}, field{"incentive", tU64, "AlphaBalance"}),
			eventCutoffFactorSet.arm("ActivityCutoffFactorMilliSet", net, field{"factor_milli", tU32, "u32"}),
			eventEpochTriggered.arm("EpochTriggered", net, field{"by", tAccount, "T::AccountId"}, field{"fires_at", tU64, "u64"}),
		},
		errors: rt.movedArms(plainArms(subtensorErrors[:]...)),
		constants: []constant{
			{"InitialMinStake", tU64, u64(minStake)},
		},
	}
}

// subnetAccount holds the TAO of a subnet.
func subnetAccount(netuid uint16) (a account) {
	copy(a[:], "modlsubtensr")
	binary.LittleEndian.PutUint16(a[12:], netuid)
	return a
}

// ownerUID is the uid of the subnet's owner hotkey, where it is registered.
func (s *subtensorStore) ownerUID(r reader, netuid uint16) (uint16, bool) {
	hotkey, set := s.subnetOwnerHotkey.find(r, netuid)
	if !set {
		return 0, false
	}
	return s.uids.find(r, netuid, hotkey)
}

// element reads one place of a vector; what is not there yet is the zero value.
func element[V any](v []V, i uint16) (zero V) {
	if int(i) < len(v) {
		return v[i]
	}
	return zero
}

// replaced sets one place of a vector, growing it where needed.
func replaced[V any](v []V, i uint16, x V) []V {
	var zero V
	for len(v) <= int(i) {
		v = append(v, zero)
	}
	v[i] = x
	return v
}
