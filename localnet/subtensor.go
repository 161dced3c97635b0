package localnet

import (
	"encoding/binary"
	"math"

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

// shares is a part of a hotkey's stake: mantissa * 10^exponent of its share pool.
type shares struct {
	mantissa [2]uint64
	exponent int64
}

// subtensorStore is the state of SubtensorModule that the chain uses or that its clients read.
type subtensorStore struct {
	taoWeight      value[uint64]
	owner          map1[account, account]
	delegates      map1[account, uint16]
	alphaDividends map2[uint16, account, uint64]
	totalIssuance  value[uint64]
	totalStake     value[uint64]
	ownerCut       value[uint16]
	stakeThreshold value[uint64]
	totalNetworks  value[uint16]
	maxEpochs      value[uint8]
	blockEmission  value[uint64]

	subnetTAO, subnetAlphaIn, subnetAlphaOut         map1[uint16, uint64]
	alphaOutEmission, taoInEmission, alphaInEmission map1[uint16, uint64]
	emissionEnabled                                  map1[uint16, bool]
	stakingHotkeys, ownedHotkeys                     map1[account, []account]
	autoStake                                        map2[account, uint16, account]
	totalHotkeyAlpha                                 map2[account, uint16, uint64]
	totalShares                                      map2[account, uint16, shares]
	alpha                                            map3[account, account, uint16, shares]
	tokenSymbol                                      map1[uint16, []byte]

	tempo                                        map1[uint16, uint16]
	lastEpochBlock, pendingEpochAt, epochIndex   map1[uint16, uint64]
	cutoffFactor                                 map1[uint16, uint32]
	firstEmission                                map1[uint16, uint64]
	mechanism, subnetworkN                       map1[uint16, uint16]
	networksAdded                                map1[uint16, bool]
	isMember                                     map2[account, uint16, bool]
	registrationAllowed                          map1[uint16, bool]
	registeredAt                                 map1[uint16, uint64]
	pendingServer, pendingValidator, pendingRoot map1[uint16, uint64]
	pendingOwnerCut                              map1[uint16, uint64]
	blocksSinceLastStep, lastMechanismStep       map1[uint16, uint64]
	subnetOwner, subnetOwnerHotkey               map1[uint16, account]
	servingRateLimit                             map1[uint16, uint64]
	rho, kappa                                   map1[uint16, uint16]
	maxAllowedUids, immunityPeriod               map1[uint16, uint16]
	versionKey                                   map1[uint16, uint64]
	minAllowedWeights, maxValidators             map1[uint16, uint16]
	bondsMovingAverage                           map1[uint16, uint64]
	bondsPenalty                                 map1[uint16, uint16]
	weightsRateLimit                             map1[uint16, uint64]
	commitReveal                                 map1[uint16, bool]
	burn, minBurn, maxBurn                       map1[uint16, uint64]
	registrationsThisBlock                       map1[uint16, uint16]
	raoRecycled                                  map1[uint16, uint64]
	yuma3, liquidAlpha                           map1[uint16, bool]
	subtokenEnabled                              map1[uint16, bool]
	immuneOwnerUids, minNonImmuneUids            map1[uint16, uint16]
	burnHalfLife                                 map1[uint16, uint16]
	burnIncrease                                 map1[uint16, [2]uint64]

	stakeWeight                     map1[uint16, []uint16]
	uids                            map2[uint16, account, uint16]
	keys                            map2[uint16, uint16, account]
	active, permit                  map1[uint16, []bool]
	consensus, incentive, dividends map1[uint16, []uint16]
	emission, lastUpdate            map1[uint16, []uint64]
	trust                           map1[uint16, []uint16]
	weights, bonds                  map2[uint16, uint16, []yuma.Entry]
	registeredBlock                 map2[uint16, uint16, uint64]
	axons                           map2[uint16, account, axonInfo]
	certificates                    map2[uint16, account, certificate]
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
	cCertificate = codec[certificate]{
		composite("pallet_subtensor::pallet::NeuronCertificate", nil,
			field{"public_key", bounded(tU8), "BoundedVec<u8, ConstU32<64>>"}, field{"algorithm", tU8, "u8"}),
		func(b []byte, c certificate) []byte { return append(scale.AppendBytes(b, c.key), c.algorithm) },
		func(r *scale.Reader) certificate { return certificate{r.Bytes(), r.U8()} },
	}
	cShares = codec[shares]{
		composite("share_pool::SafeFloat", nil, field{"mantissa", tU128, "u128"}, field{"exponent", primitive("i64", scale.I64), "i64"}),
		func(b []byte, s shares) []byte {
			return scale.AppendU64(scale.AppendU128(b, s.mantissa[0], s.mantissa[1]), uint64(s.exponent))
		},
		func(r *scale.Reader) shares { return shares{cU128.decode(r), int64(r.U64())} },
	}
)

// declareSubnets declares the storage; the order is the runtime's.
func declareSubnets(p *prefix) *subtensorStore {
	s := &subtensorStore{}
	s.taoWeight = newValue(p, "TaoWeight", cU64, 971718665099567868)
	s.owner = newMap(p, "Owner", byAccount, cAccount, account{})
	s.delegates = newMap(p, "Delegates", byAccount, cU16, 11796)
	s.alphaDividends = newMap2(p, "AlphaDividendsPerSubnet", byNet, byAccount, cU64, 0)
	s.blockEmission = newValue(p, "BlockEmission", cU64, 1e9)
	s.totalIssuance = newValue(p, "TotalIssuance", cU64, 0)
	s.totalStake = newValue(p, "TotalStake", cU64, 0)
	s.subnetTAO = newMap(p, "SubnetTAO", byNet, cU64, 0)
	s.alphaInEmission = newMap(p, "SubnetAlphaInEmission", byNet, cU64, 0)
	s.emissionEnabled = newMap(p, "SubnetEmissionEnabled", byNet, cBool, true)
	s.alphaOutEmission = newMap(p, "SubnetAlphaOutEmission", byNet, cU64, 0)
	s.taoInEmission = newMap(p, "SubnetTaoInEmission", byNet, cU64, 0)
	s.subnetAlphaIn = newMap(p, "SubnetAlphaIn", byNet, cU64, 0)
	s.subnetAlphaOut = newMap(p, "SubnetAlphaOut", byNet, cU64, 0)
	s.stakingHotkeys = newMap(p, "StakingHotkeys", byAccount, listOf(cAccount), nil)
	s.ownedHotkeys = newMap(p, "OwnedHotkeys", byAccount, listOf(cAccount), nil)
	s.autoStake = newOptionalMap2(p, "AutoStakeDestination", byAccount, byNet, cAccount)
	s.totalHotkeyAlpha = newMap2(p, "TotalHotkeyAlpha", byAccount, byNet, cU64, 0)
	s.totalShares = newMap2(p, "TotalHotkeySharesV2", byAccount, byNet, cShares, shares{})
	s.alpha = newMap3(p, "AlphaV2", byAccount, byAccount, byNet, cShares, shares{})
	s.tokenSymbol = newMap(p, "TokenSymbol", byNet, cBytes, []byte{0xf0, 0x9d, 0x9c, 0x8f})
	s.totalNetworks = newValue(p, "TotalNetworks", cU16, 0)
	s.ownerCut = newValue(p, "SubnetOwnerCut", cU16, 11796)
	s.tempo = newMap(p, "Tempo", byNet, cU16, 360)
	s.lastEpochBlock = newMap(p, "LastEpochBlock", byNet, cU64, 0)
	s.pendingEpochAt = newMap(p, "PendingEpochAt", byNet, cU64, 0)
	s.epochIndex = newMap(p, "SubnetEpochIndex", byNet, cU64, 0)
	s.cutoffFactor = newMap(p, "ActivityCutoffFactorMilli", byNet, cU32, 13889)
	s.firstEmission = newOptionalMap(p, "FirstEmissionBlockNumber", byNet, cU64)
	s.mechanism = newMap(p, "SubnetMechanism", byNet, cU16, 0)
	s.subnetworkN = newMap(p, "SubnetworkN", byNet, cU16, 0)
	s.networksAdded = newMap(p, "NetworksAdded", byNet, cBool, false)
	s.isMember = newMap2(p, "IsNetworkMember", byAccount, byNet, cBool, false)
	s.registrationAllowed = newMap(p, "NetworkRegistrationAllowed", byNet, cBool, true)
	s.registeredAt = newMap(p, "NetworkRegisteredAt", byNet, cU64, 0)
	s.pendingServer = newMap(p, "PendingServerEmission", byNet, cU64, 0)
	s.pendingValidator = newMap(p, "PendingValidatorEmission", byNet, cU64, 0)
	s.pendingRoot = newMap(p, "PendingRootAlphaDivs", byNet, cU64, 0)
	s.pendingOwnerCut = newMap(p, "PendingOwnerCut", byNet, cU64, 0)
	s.blocksSinceLastStep = newMap(p, "BlocksSinceLastStep", byNet, cU64, 0)
	s.lastMechanismStep = newMap(p, "LastMechansimStepBlock", byNet, cU64, 0)
	s.subnetOwner = newMap(p, "SubnetOwner", byNet, cAccount, account{})
	s.subnetOwnerHotkey = newMap(p, "SubnetOwnerHotkey", byNet, cAccount, account{})
	s.servingRateLimit = newMap(p, "ServingRateLimit", byNet, cU64, 50)
	s.rho = newMap(p, "Rho", byNet, cU16, 10)
	s.kappa = newMap(p, "Kappa", byNet, cU16, 32767)
	s.maxAllowedUids = newMap(p, "MaxAllowedUids", byNet, cU16, 256)
	s.immunityPeriod = newMap(p, "ImmunityPeriod", byNet, cU16, 4096)
	s.versionKey = newMap(p, "WeightsVersionKey", byNet, cU64, 0)
	s.minAllowedWeights = newMap(p, "MinAllowedWeights", byNet, cU16, 1024)
	s.maxValidators = newMap(p, "MaxAllowedValidators", byNet, cU16, 128)
	s.bondsMovingAverage = newMap(p, "BondsMovingAverage", byNet, cU64, 900000)
	s.bondsPenalty = newMap(p, "BondsPenalty", byNet, cU16, math.MaxUint16)
	s.weightsRateLimit = newMap(p, "WeightsSetRateLimit", byNet, cU64, 100)
	s.commitReveal = newMap(p, "CommitRevealWeightsEnabled", byNet, cBool, true)
	s.burn = newMap(p, "Burn", byNet, cU64, 100_000_000)
	s.minBurn = newMap(p, "MinBurn", byNet, cU64, 500_000)
	s.maxBurn = newMap(p, "MaxBurn", byNet, cU64, 100_000_000_000)
	s.registrationsThisBlock = newMap(p, "RegistrationsThisBlock", byNet, cU16, 0)
	s.raoRecycled = newMap(p, "RAORecycledForRegistration", byNet, cU64, 0)
	s.maxEpochs = newValue(p, "MaxEpochsPerBlock", cU8, 2)
	s.liquidAlpha = newMap(p, "LiquidAlphaOn", byNetBlake, cBool, false)
	s.yuma3 = newMap(p, "Yuma3On", byNetBlake, cBool, false)
	s.subtokenEnabled = newMap(p, "SubtokenEnabled", byNet, cBool, false)
	s.immuneOwnerUids = newMap(p, "ImmuneOwnerUidsLimit", byNet, cU16, 1)
	s.stakeWeight = newMap(p, "StakeWeight", byNet, listOf(cU16), nil)
	s.uids = newOptionalMap2(p, "Uids", byNet, byAccount, cU16)
	s.keys = newMap2(p, "Keys", byNet, byUID, cAccount, account{})
	s.active = newMap(p, "Active", byNet, listOf(cBool), nil)
	s.consensus = newMap(p, "Consensus", byNet, listOf(cU16), nil)
	s.incentive = newMap(p, "Incentive", byNet, listOf(cU16), nil)
	s.dividends = newMap(p, "Dividends", byNet, listOf(cU16), nil)
	s.emission = newMap(p, "Emission", byNet, listOf(cU64), nil)
	s.lastUpdate = newMap(p, "LastUpdate", byNet, listOf(cU64), nil)
	s.trust = newMap(p, "ValidatorTrust", byNet, listOf(cU16), nil)
	s.permit = newMap(p, "ValidatorPermit", byNet, listOf(cBool), nil)
	s.weights = newMap2(p, "Weights", byNet, byUID, listOf(cEntry), nil)
	s.bonds = newMap2(p, "Bonds", byNet, byUID, listOf(cEntry), nil)
	s.registeredBlock = newMap2(p, "BlockAtRegistration", byNet, byUID, cU64, 0)
	s.axons = newOptionalMap2(p, "Axons", byNet, byAccount, cAxon)
	s.certificates = newOptionalMap2(p, "NeuronCertificates", byNet, byAccount, cCertificate)
	s.stakeThreshold = newValue(p, "StakeThreshold", cU64, 0)
	s.minNonImmuneUids = newMap(p, "MinNonImmuneUids", byNet, cU16, 10)
	s.burnHalfLife = newMap(p, "BurnHalfLife", byNet, cU16, 360)
	s.burnIncrease = newMap(p, "BurnIncreaseMult", byNet, as(fixedPoint("FixedU128", tU128, 64), cU128), [2]uint64{1, 4796153459164483584})
	return s
}

func (rt *runtime) subtensorPallet() module {
	p := &prefix{pallet: "SubtensorModule"}
	rt.subnets = declareSubnets(p)
	net := field{"netuid", tU16, "NetUid"}
	who := field{"", tAccount, "T::AccountId"}
	at := func(s shape, name string) field { return field{"", s, name} }
	netuid, amount16, amount64 := at(tU16, "NetUid"), at(tU16, "u16"), at(tU64, "u64")
	stakeMoved := []field{who, who, at(tU64, "TaoBalance"), at(tU64, "AlphaBalance"), netuid, amount64}
	return module{
		name: "SubtensorModule", crate: "pallet_subtensor", index: subtensorIndex, storage: p,
		calls: append(append(append(rt.weightCalls(net), rt.servingCalls(net)...), rt.registrationCalls(net)...), rt.stakingCalls(net)...),
		events: []arm{
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
		},
		errors: plainArms(subtensorErrors[:]...),
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

// stakeWeightOf is the stake that counts for a hotkey on a subnet.
func (s *subtensorStore) stakeWeightOf(r reader, netuid uint16, hotkey account) yuma.Stake {
	return yuma.WeightedStake(s.totalHotkeyAlpha.get(r, hotkey, netuid), s.totalHotkeyAlpha.get(r, hotkey, rootNetuid), s.taoWeight.get(r))
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
