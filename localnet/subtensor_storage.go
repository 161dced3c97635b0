package localnet

import "basilica/yuma"

// subtensorStore is the state of SubtensorModule: what the chain uses and what its clients read. The order within is the
// runtime's own.
type subtensorStore struct {
	hotkeysStore
	poolsStore
	networkStore
	rulesStore
	neuronsStore
	newerStore
}

// declareSubnets declares the storage in the order of the runtime.
func declareSubnets(p *prefix) *subtensorStore {
	return &subtensorStore{
		declareHotkeys(p),
		declarePools(p),
		declareNetwork(p),
		declareRules(p),
		declareNeurons(p),
		declareNewer(p),
	}
}

// hotkeysStore has who owns, delegates and inherits what.
type hotkeysStore struct {
	minActivityCutoff               value[uint16]
	adminFreezeWindow               value[uint16]
	ownerHyperparamRateLimit        value[uint16]
	dissolveNetworkScheduleDuration value[uint32]
	lastHotkeySwapOnNetuid          map2[uint16, account, uint64]
	taoWeight                       value[uint64]
	ckBurn                          value[uint64]
	maxDelegateTake                 value[uint16]
	minDelegateTake                 value[uint16]
	maxChildkeyTake                 value[uint16]
	minChildkeyTake                 value[uint16]
	minChildkeyTakePerSubnet        map1[uint16, uint16]
	owner                           map1[account, account]
	accountFlags                    map1[account, [2]uint64]
	delegates                       map1[account, uint16]
	childkeyTake                    map2[account, uint16, uint16]
	pendingChildKeys                map2[uint16, account, pendingKin]
	childKeys                       map2[account, uint16, []kin]
	parentKeys                      map2[account, uint16, []kin]
}

func declareHotkeys(p *prefix) (s hotkeysStore) {
	s.minActivityCutoff = newValue(p, "MinActivityCutoff", cU16, 360)
	s.adminFreezeWindow = newValue(p, "AdminFreezeWindow", cU16, 10)
	s.ownerHyperparamRateLimit = newValue(p, "OwnerHyperparamRateLimit", cU16, 2)
	s.dissolveNetworkScheduleDuration = newValue(p, "DissolveNetworkScheduleDuration", cU32, 36000)
	s.lastHotkeySwapOnNetuid = newMap2(p, "LastHotkeySwapOnNetuid", byNet, byAccount, cU64, 0)
	s.taoWeight = newValue(p, "TaoWeight", cU64, 971718665099567868)
	s.ckBurn = newValue(p, "CKBurn", cU64, 0)
	s.maxDelegateTake = newValue(p, "MaxDelegateTake", cU16, 11796)
	s.minDelegateTake = newValue(p, "MinDelegateTake", cU16, 0)
	s.maxChildkeyTake = newValue(p, "MaxChildkeyTake", cU16, 11796)
	s.minChildkeyTake = newValue(p, "MinChildkeyTake", cU16, 0)
	s.minChildkeyTakePerSubnet = newMap(p, "MinChildkeyTakePerSubnet", byNet, cU16, 0)
	s.owner = newMap(p, "Owner", byAccount, cAccount, account{})
	s.accountFlags = newMap(p, "AccountFlags", byAccount, cU128, [2]uint64{})
	s.delegates = newMap(p, "Delegates", byAccount, cU16, 11796)
	s.childkeyTake = newMap2(p, "ChildkeyTake", byAccount, byNet, cU16, 0)
	s.pendingChildKeys = newMap2(p, "PendingChildKeys", byNet, byAccount, cPendingKin, pendingKin{})
	s.childKeys = newMap2(p, "ChildKeys", byAccount, byNet, listOf(cKin), nil)
	s.parentKeys = newMap2(p, "ParentKeys", byAccount, byNet, listOf(cKin), nil)
	return s
}

// poolsStore has what subnets hold and what stakes are in them.
type poolsStore struct {
	alphaDividends                 map2[uint16, account, uint64]
	rootAlphaDividendsPerSubnet    map2[uint16, account, uint64]
	blockEmission                  value[uint64]
	lastHotkeyEmissionOnNetuid     map2[account, uint16, uint64]
	subnetLimit                    value[uint16]
	totalIssuance                  value[uint64]
	totalStake                     value[uint64]
	subnetMovingAlpha              value[[2]uint64]
	subnetMovingPrice              map1[uint16, [2]uint64]
	rootProp                       map1[uint16, [2]uint64]
	subnetVolume                   map1[uint16, [2]uint64]
	subnetTAO                      map1[uint16, uint64]
	alphaInEmission                map1[uint16, uint64]
	emissionEnabled                map1[uint16, bool]
	alphaOutEmission               map1[uint16, uint64]
	taoInEmission                  map1[uint16, uint64]
	subnetExcessTao                map1[uint16, uint64]
	subnetRootSellTao              map1[uint16, uint64]
	subnetAlphaIn                  map1[uint16, uint64]
	subnetAlphaOut                 map1[uint16, uint64]
	subnetProtocolAlpha            map1[uint16, uint64]
	stakingHotkeys                 map1[account, []account]
	ownedHotkeys                   map1[account, []account]
	autoStake                      map2[account, uint16, account]
	autoStakeDestinationColdkeys   map2[account, uint16, []account]
	coldkeySwapAnnouncementDelay   value[uint32]
	coldkeySwapReannouncementDelay value[uint32]
	coldkeySwapAnnouncements       map1[account, swapAnnouncement]
	coldkeySwapDisputes            map1[account, uint32]
	totalHotkeyAlpha               map2[account, uint16, uint64]
	totalHotkeyAlphaLastEpoch      map2[account, uint16, uint64]
	totalShares                    map2[account, uint16, shares]
	alpha                          map3[account, account, uint16, shares]
	lock                           map3[account, uint16, account, lockState]
	lockingColdkeys                map3[uint16, account, account, struct{}]
	hotkeyLock                     map2[uint16, account, lockState]
	decayingHotkeyLock             map2[uint16, account, lockState]
	ownerLock                      map1[uint16, lockState]
	decayingOwnerLock              map1[uint16, lockState]
	decayingLock                   map2[account, uint16, bool]
	ownerCutAutoLockEnabled        map1[uint16, bool]
}

func declarePools(p *prefix) (s poolsStore) {
	s.alphaDividends = newMap2(p, "AlphaDividendsPerSubnet", byNet, byAccount, cU64, 0)
	s.rootAlphaDividendsPerSubnet = newMap2(p, "RootAlphaDividendsPerSubnet", byNet, byAccount, cU64, 0)
	s.blockEmission = newValue(p, "BlockEmission", cU64, 1e9)
	s.lastHotkeyEmissionOnNetuid = newMap2(p, "LastHotkeyEmissionOnNetuid", byAccount, byNet, cU64, 0)
	s.subnetLimit = newValue(p, "SubnetLimit", cU16, 128)
	s.totalIssuance = newValue(p, "TotalIssuance", cU64, 0)
	s.totalStake = newValue(p, "TotalStake", cU64, 0)
	s.subnetMovingAlpha = newValue(p, "SubnetMovingAlpha", cI96F32, [2]uint64{0, 12885})
	s.subnetMovingPrice = newMap(p, "SubnetMovingPrice", byNet, cI96F32, [2]uint64{})
	s.rootProp = newMap(p, "RootProp", byNet, cU96F32, [2]uint64{})
	s.subnetVolume = newMap(p, "SubnetVolume", byNet, cU128, [2]uint64{})
	s.subnetTAO = newMap(p, "SubnetTAO", byNet, cU64, 0)
	s.alphaInEmission = newMap(p, "SubnetAlphaInEmission", byNet, cU64, 0)
	s.emissionEnabled = newMap(p, "SubnetEmissionEnabled", byNet, cBool, true)
	s.alphaOutEmission = newMap(p, "SubnetAlphaOutEmission", byNet, cU64, 0)
	s.taoInEmission = newMap(p, "SubnetTaoInEmission", byNet, cU64, 0)
	s.subnetExcessTao = newMap(p, "SubnetExcessTao", byNet, cU64, 0)
	s.subnetRootSellTao = newMap(p, "SubnetRootSellTao", byNet, cU64, 0)
	s.subnetAlphaIn = newMap(p, "SubnetAlphaIn", byNet, cU64, 0)
	s.subnetAlphaOut = newMap(p, "SubnetAlphaOut", byNet, cU64, 0)
	s.subnetProtocolAlpha = newMap(p, "SubnetProtocolAlpha", byNet, cU64, 0)
	s.stakingHotkeys = newMap(p, "StakingHotkeys", byAccount, listOf(cAccount), nil)
	s.ownedHotkeys = newMap(p, "OwnedHotkeys", byAccount, listOf(cAccount), nil)
	s.autoStake = newOptionalMap2(p, "AutoStakeDestination", byAccount, byNet, cAccount)
	s.autoStakeDestinationColdkeys = newMap2(p, "AutoStakeDestinationColdkeys", byAccount, byNet, listOf(cAccount), nil)
	s.coldkeySwapAnnouncementDelay = newValue(p, "ColdkeySwapAnnouncementDelay", cU32, 36000)
	s.coldkeySwapReannouncementDelay = newValue(p, "ColdkeySwapReannouncementDelay", cU32, 7200)
	s.coldkeySwapAnnouncements = newOptionalMap(p, "ColdkeySwapAnnouncements", byAccountTwox, cSwapAnnouncement)
	s.coldkeySwapDisputes = newOptionalMap(p, "ColdkeySwapDisputes", byAccountTwox, cU32)
	s.totalHotkeyAlpha = newMap2(p, "TotalHotkeyAlpha", byAccount, byNet, cU64, 0)
	s.totalHotkeyAlphaLastEpoch = newMap2(p, "TotalHotkeyAlphaLastEpoch", byAccount, byNet, cU64, 0)
	newMap2(p, "TotalHotkeyShares", byAccount, byNet, cU64F64, [2]uint64{})
	newMap3(p, "Alpha", byAccount, byAccount, byNet, cU64F64, [2]uint64{})
	s.totalShares = newMap2(p, "TotalHotkeySharesV2", byAccount, byNet, cShares, shares{})
	s.alpha = newMap3(p, "AlphaV2", byAccount, byAccount, byNet, cShares, shares{})
	s.lock = newOptionalMap3(p, "Lock", byAccount, byNet, byAccount, cLock)
	s.lockingColdkeys = newOptionalMap3(p, "LockingColdkeys", byNet, byAccount, byAccount, cUnit)
	s.hotkeyLock = newOptionalMap2(p, "HotkeyLock", byNet, byAccount, cLock)
	s.decayingHotkeyLock = newOptionalMap2(p, "DecayingHotkeyLock", byNet, byAccount, cLock)
	s.ownerLock = newOptionalMap(p, "OwnerLock", byNet, cLock)
	s.decayingOwnerLock = newOptionalMap(p, "DecayingOwnerLock", byNet, cLock)
	s.decayingLock = newOptionalMap2(p, "DecayingLock", byAccount, byNet, cBool)
	s.ownerCutAutoLockEnabled = newMap(p, "OwnerCutAutoLockEnabled", byNet, cBool, false)
	newValue(p, "MaturityRate", cU64, 934866)
	newValue(p, "UnlockRate", cU64, 934866)
	return s
}

// networkStore has the network and its subnets.
type networkStore struct {
	tokenSymbol                   map1[uint16, []byte]
	subnetTaoFlow                 map1[uint16, int64]
	subnetEmaTaoFlow              map1[uint16, emaFlow]
	netTaoFlowEnabled             value[bool]
	subnetProtocolFlow            map1[uint16, int64]
	subnetEmaProtocolFlow         map1[uint16, emaFlow]
	taoFlowCutoff                 value[[2]uint64]
	flowNormExponent              value[[2]uint64]
	flowEmaSmoothingFactor        value[uint64]
	maxRegistrationsPerBlock      map1[uint16, uint16]
	totalNetworks                 value[uint16]
	networkImmunityPeriod         value[uint64]
	startCallDelay                value[uint64]
	networkMinLockCost            value[uint64]
	networkLastLockCost           value[uint64]
	networkLockReductionInterval  value[uint64]
	ownerCut                      value[uint16]
	ownerCutEnabled               map1[uint16, bool]
	networkRateLimit              value[uint64]
	nominatorMinRequiredStake     value[uint64]
	weightsVersionKeyRateLimit    value[uint64]
	lastRateLimitedBlock          map1[[]byte, uint64]
	transferToggle                map1[uint16, bool]
	subnetLocked                  map1[uint16, uint64]
	largestLocked                 map1[uint16, uint64]
	tempo                         map1[uint16, uint16]
	lastEpochBlock                map1[uint16, uint64]
	pendingEpochAt                map1[uint16, uint64]
	epochIndex                    map1[uint16, uint64]
	cutoffFactor                  map1[uint16, uint32]
	firstEmission                 map1[uint16, uint64]
	mechanism                     map1[uint16, uint16]
	subnetworkN                   map1[uint16, uint16]
	networksAdded                 map1[uint16, bool]
	isMember                      map2[account, uint16, bool]
	registrationAllowed           map1[uint16, bool]
	networkPowRegistrationAllowed map1[uint16, bool]
	registeredAt                  map1[uint16, uint64]
	registeredSubnetCounter       map1[uint16, uint64]
	pendingServer                 map1[uint16, uint64]
	pendingValidator              map1[uint16, uint64]
	pendingRoot                   map1[uint16, uint64]
	pendingOwnerCut               map1[uint16, uint64]
}

func declareNetwork(p *prefix) (s networkStore) {
	s.tokenSymbol = newMap(p, "TokenSymbol", byNet, cBytes, []byte{0xf0, 0x9d, 0x9c, 0x8f})
	s.subnetTaoFlow = newMap(p, "SubnetTaoFlow", byNet, cI64, 0)
	s.subnetEmaTaoFlow = newOptionalMap(p, "SubnetEmaTaoFlow", byNet, cEmaFlow)
	s.netTaoFlowEnabled = newValue(p, "NetTaoFlowEnabled", cBool, true)
	s.subnetProtocolFlow = newMap(p, "SubnetProtocolFlow", byNet, cI64, 0)
	s.subnetEmaProtocolFlow = newOptionalMap(p, "SubnetEmaProtocolFlow", byNet, cEmaFlow)
	s.taoFlowCutoff = newValue(p, "TaoFlowCutoff", cI64F64, [2]uint64{})
	s.flowNormExponent = newValue(p, "FlowNormExponent", cU64F64, [2]uint64{1, 0})
	s.flowEmaSmoothingFactor = newValue(p, "FlowEmaSmoothingFactor", cU64, 29597889189277)
	s.maxRegistrationsPerBlock = newMap(p, "MaxRegistrationsPerBlock", byNet, cU16, 1)
	s.totalNetworks = newValue(p, "TotalNetworks", cU16, 0)
	s.networkImmunityPeriod = newValue(p, "NetworkImmunityPeriod", cU64, 1296000)
	s.startCallDelay = newValue(p, "StartCallDelay", cU64, 0)
	s.networkMinLockCost = newValue(p, "NetworkMinLockCost", cU64, 1000000000000)
	s.networkLastLockCost = newValue(p, "NetworkLastLockCost", cU64, 1000000000000)
	s.networkLockReductionInterval = newValue(p, "NetworkLockReductionInterval", cU64, 100800)
	s.ownerCut = newValue(p, "SubnetOwnerCut", cU16, 11796)
	s.ownerCutEnabled = newMap(p, "OwnerCutEnabled", byNet, cBool, true)
	s.networkRateLimit = newValue(p, "NetworkRateLimit", cU64, 7200)
	s.nominatorMinRequiredStake = newValue(p, "NominatorMinRequiredStake", cU64, 0)
	s.weightsVersionKeyRateLimit = newValue(p, "WeightsVersionKeyRateLimit", cU64, 5)
	s.lastRateLimitedBlock = newMap(p, "LastRateLimitedBlock", byRateLimit, cU64, 0)
	s.transferToggle = newMap(p, "TransferToggle", byNet, cBool, true)
	s.subnetLocked = newMap(p, "SubnetLocked", byNet, cU64, 0)
	s.largestLocked = newMap(p, "LargestLocked", byNet, cU64, 0)
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
	s.networkPowRegistrationAllowed = newMap(p, "NetworkPowRegistrationAllowed", byNet, cBool, true)
	s.registeredAt = newMap(p, "NetworkRegisteredAt", byNet, cU64, 0)
	s.registeredSubnetCounter = newMap(p, "RegisteredSubnetCounter", byNet, cU64, 0)
	s.pendingServer = newMap(p, "PendingServerEmission", byNet, cU64, 0)
	s.pendingValidator = newMap(p, "PendingValidatorEmission", byNet, cU64, 0)
	s.pendingRoot = newMap(p, "PendingRootAlphaDivs", byNet, cU64, 0)
	s.pendingOwnerCut = newMap(p, "PendingOwnerCut", byNet, cU64, 0)
	return s
}

// rulesStore has hyperparameters of a subnet.
type rulesStore struct {
	minerBurned                    map1[uint16, [2]uint64]
	blocksSinceLastStep            map1[uint16, uint64]
	lastMechanismStep              map1[uint16, uint64]
	subnetOwner                    map1[uint16, account]
	subnetOwnerHotkey              map1[uint16, account]
	recycleOrBurn                  map1[uint16, uint8]
	servingRateLimit               map1[uint16, uint64]
	rho                            map1[uint16, uint16]
	alphaSigmoidSteepness          map1[uint16, int16]
	kappa                          map1[uint16, uint16]
	registrationsThisInterval      map1[uint16, uint16]
	powRegistrationsThisInterval   map1[uint16, uint16]
	burnRegistrationsThisInterval  map1[uint16, uint16]
	minAllowedUids                 map1[uint16, uint16]
	maxAllowedUids                 map1[uint16, uint16]
	immunityPeriod                 map1[uint16, uint16]
	activityCutoff                 map1[uint16, uint16]
	maxWeightsLimit                map1[uint16, uint16]
	versionKey                     map1[uint16, uint64]
	minAllowedWeights              map1[uint16, uint16]
	maxValidators                  map1[uint16, uint16]
	adjustmentInterval             map1[uint16, uint16]
	bondsMovingAverage             map1[uint16, uint64]
	bondsPenalty                   map1[uint16, uint16]
	bondsResetOn                   map1[uint16, bool]
	weightsRateLimit               map1[uint16, uint64]
	validatorPruneLen              map1[uint16, uint64]
	scalingLawPower                map1[uint16, uint16]
	targetRegistrationsPerInterval map1[uint16, uint16]
	adjustmentAlpha                map1[uint16, uint64]
	commitReveal                   map1[uint16, bool]
	burn                           map1[uint16, uint64]
	difficulty                     map1[uint16, uint64]
	minBurn                        map1[uint16, uint64]
	maxBurn                        map1[uint16, uint64]
	minDifficulty                  map1[uint16, uint64]
	maxDifficulty                  map1[uint16, uint64]
	lastAdjustmentBlock            map1[uint16, uint64]
	registrationsThisBlock         map1[uint16, uint16]
	emaPriceHalvingBlocks          map1[uint16, uint64]
	raoRecycled                    map1[uint16, uint64]
	maxEpochs                      value[uint8]
	txRateLimit                    value[uint64]
	txDelegateTakeRateLimit        value[uint64]
	txChildkeyTakeRateLimit        value[uint64]
	liquidAlpha                    map1[uint16, bool]
	yuma3                          map1[uint16, bool]
	alphaValues                    map1[uint16, [2]uint16]
	subtokenEnabled                map1[uint16, bool]
	votingPower                    map2[uint16, account, uint64]
	votingPowerTrackingEnabled     map1[uint16, bool]
	votingPowerDisableAtBlock      map1[uint16, uint64]
	votingPowerEmaAlpha            map1[uint16, uint64]
	immuneOwnerUids                map1[uint16, uint16]
}

func declareRules(p *prefix) (s rulesStore) {
	s.minerBurned = newMap(p, "MinerBurned", byNet, cU96F32, [2]uint64{})
	s.blocksSinceLastStep = newMap(p, "BlocksSinceLastStep", byNet, cU64, 0)
	s.lastMechanismStep = newMap(p, "LastMechansimStepBlock", byNet, cU64, 0)
	s.subnetOwner = newMap(p, "SubnetOwner", byNet, cAccount, account{})
	s.subnetOwnerHotkey = newMap(p, "SubnetOwnerHotkey", byNet, cAccount, account{})
	s.recycleOrBurn = newMap(p, "RecycleOrBurn", byNet, cRecycleOrBurn, 0)
	s.servingRateLimit = newMap(p, "ServingRateLimit", byNet, cU64, 50)
	s.rho = newMap(p, "Rho", byNet, cU16, 10)
	s.alphaSigmoidSteepness = newMap(p, "AlphaSigmoidSteepness", byNet, cI16, 1000)
	s.kappa = newMap(p, "Kappa", byNet, cU16, 32767)
	s.registrationsThisInterval = newMap(p, "RegistrationsThisInterval", byNet, cU16, 0)
	s.powRegistrationsThisInterval = newMap(p, "POWRegistrationsThisInterval", byNet, cU16, 0)
	s.burnRegistrationsThisInterval = newMap(p, "BurnRegistrationsThisInterval", byNet, cU16, 0)
	s.minAllowedUids = newMap(p, "MinAllowedUids", byNet, cU16, 64)
	s.maxAllowedUids = newMap(p, "MaxAllowedUids", byNet, cU16, 256)
	s.immunityPeriod = newMap(p, "ImmunityPeriod", byNet, cU16, 4096)
	s.activityCutoff = newMap(p, "ActivityCutoff", byNet, cU16, 5000)
	s.maxWeightsLimit = newMap(p, "MaxWeightsLimit", byNet, cU16, 65535)
	s.versionKey = newMap(p, "WeightsVersionKey", byNet, cU64, 0)
	s.minAllowedWeights = newMap(p, "MinAllowedWeights", byNet, cU16, 1024)
	s.maxValidators = newMap(p, "MaxAllowedValidators", byNet, cU16, 128)
	s.adjustmentInterval = newMap(p, "AdjustmentInterval", byNet, cU16, 100)
	s.bondsMovingAverage = newMap(p, "BondsMovingAverage", byNet, cU64, 900000)
	s.bondsPenalty = newMap(p, "BondsPenalty", byNet, cU16, 65535)
	s.bondsResetOn = newMap(p, "BondsResetOn", byNet, cBool, false)
	s.weightsRateLimit = newMap(p, "WeightsSetRateLimit", byNet, cU64, 100)
	s.validatorPruneLen = newMap(p, "ValidatorPruneLen", byNet, cU64, 1)
	s.scalingLawPower = newMap(p, "ScalingLawPower", byNet, cU16, 50)
	s.targetRegistrationsPerInterval = newMap(p, "TargetRegistrationsPerInterval", byNet, cU16, 2)
	s.adjustmentAlpha = newMap(p, "AdjustmentAlpha", byNet, cU64, 0)
	s.commitReveal = newMap(p, "CommitRevealWeightsEnabled", byNet, cBool, true)
	s.burn = newMap(p, "Burn", byNet, cU64, 100_000_000)
	s.difficulty = newMap(p, "Difficulty", byNet, cU64, 10000000)
	s.minBurn = newMap(p, "MinBurn", byNet, cU64, 500_000)
	s.maxBurn = newMap(p, "MaxBurn", byNet, cU64, 100_000_000_000)
	s.minDifficulty = newMap(p, "MinDifficulty", byNet, cU64, 10000000)
	s.maxDifficulty = newMap(p, "MaxDifficulty", byNet, cU64, 4611686018427387903)
	s.lastAdjustmentBlock = newMap(p, "LastAdjustmentBlock", byNet, cU64, 0)
	s.registrationsThisBlock = newMap(p, "RegistrationsThisBlock", byNet, cU16, 0)
	s.emaPriceHalvingBlocks = newMap(p, "EMAPriceHalvingBlocks", byNet, cU64, 201600)
	s.raoRecycled = newMap(p, "RAORecycledForRegistration", byNet, cU64, 0)
	s.maxEpochs = newValue(p, "MaxEpochsPerBlock", cU8, 2)
	s.txRateLimit = newValue(p, "TxRateLimit", cU64, 1000)
	s.txDelegateTakeRateLimit = newValue(p, "TxDelegateTakeRateLimit", cU64, 216000)
	s.txChildkeyTakeRateLimit = newValue(p, "TxChildkeyTakeRateLimit", cU64, 216000)
	s.liquidAlpha = newMap(p, "LiquidAlphaOn", byNetBlake, cBool, false)
	s.yuma3 = newMap(p, "Yuma3On", byNetBlake, cBool, false)
	s.alphaValues = newMap(p, "AlphaValues", byNet, cAlphaValues, [2]uint16{45875, 58982})
	s.subtokenEnabled = newMap(p, "SubtokenEnabled", byNet, cBool, false)
	s.votingPower = newMap2(p, "VotingPower", byNet, byAccount, cU64, 0)
	s.votingPowerTrackingEnabled = newMap(p, "VotingPowerTrackingEnabled", byNet, cBool, false)
	s.votingPowerDisableAtBlock = newMap(p, "VotingPowerDisableAtBlock", byNet, cU64, 0)
	s.votingPowerEmaAlpha = newMap(p, "VotingPowerEmaAlpha", byNet, cU64, 3570000000000000)
	s.immuneOwnerUids = newMap(p, "ImmuneOwnerUidsLimit", byNet, cU16, 1)
	return s
}

// neuronsStore has neurons, what they published and what they committed.
type neuronsStore struct {
	stakeWeight                   map1[uint16, []uint16]
	uids                          map2[uint16, account, uint16]
	keys                          map2[uint16, uint16, account]
	active                        map1[uint16, []bool]
	consensus                     map1[uint16, []uint16]
	incentive                     map1[uint16, []uint16]
	dividends                     map1[uint16, []uint16]
	emission                      map1[uint16, []uint64]
	lastUpdate                    map1[uint16, []uint64]
	trust                         map1[uint16, []uint16]
	permit                        map1[uint16, []bool]
	weights                       map2[uint16, uint16, []yuma.Entry]
	bonds                         map2[uint16, uint16, []yuma.Entry]
	registeredBlock               map2[uint16, uint16, uint64]
	axons                         map2[uint16, account, axonInfo]
	certificates                  map2[uint16, account, certificate]
	prometheus                    map2[uint16, account, prometheusInfo]
	identitiesV2                  map1[account, [][]byte]
	subnetIdentitiesV3            map1[uint16, [][]byte]
	transactionKeyLastBlock       map3[account, uint16, uint16, uint64]
	lastTxBlock                   map1[account, uint64]
	lastTxBlockChildKeyTake       map1[account, uint64]
	lastTxBlockDelegateTake       map1[account, uint64]
	stakeThreshold                value[uint64]
	weightCommits                 map2[uint16, account, []weightCommit]
	timelockedWeightCommits       map2[uint16, uint64, []timelockedCommit]
	revealPeriodEpochs            map1[uint16, uint64]
	lastColdkeyHotkeyStakeBlock   map2[account, account, uint64]
	rootClaimableThreshold        map1[uint16, [2]uint64]
	rootClaimable                 map1[account, []claimable]
	rootClaimed                   map3[uint16, account, account, [2]uint64]
	stakingColdkeysByIndex        map1[uint64, account]
	stakingColdkeys               map1[account, uint64]
	numStakingColdkeys            value[uint64]
	numRootClaim                  value[uint64]
	commitRevealWeightsVersion    value[uint16]
	networkRegistrationStartBlock value[uint64]
	minNonImmuneUids              map1[uint16, uint16]
	maxMechanismCount             value[uint8]
	mechanismCountCurrent         map1[uint16, uint8]
	mechanismEmissionSplit        map1[uint16, []uint16]
	burnHalfLife                  map1[uint16, uint16]
	burnIncrease                  map1[uint16, [2]uint64]
	autoParentDelegationEnabled   map1[account, bool]
	pendingChildKeyCooldown       value[uint64]
}

func declareNeurons(p *prefix) (s neuronsStore) {
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
	s.certificates = newOptionalMap2(p, "NeuronCertificates", byNet, byAccount, certificateCodec(p.grown))
	s.prometheus = newOptionalMap2(p, "Prometheus", byNet, byAccount, cPrometheus)
	s.identitiesV2 = newOptionalMap(p, "IdentitiesV2", byAccount, cIdentity)
	s.subnetIdentitiesV3 = newOptionalMap(p, "SubnetIdentitiesV3", byNetBlake, cSubnetIdentity)
	s.transactionKeyLastBlock = newMap3(p, "TransactionKeyLastBlock", byAccount, byNet, byNet, cU64, 0)
	s.lastTxBlock = newMap(p, "LastTxBlock", byAccountPlain, cU64, 0)
	s.lastTxBlockChildKeyTake = newMap(p, "LastTxBlockChildKeyTake", byAccountPlain, cU64, 0)
	s.lastTxBlockDelegateTake = newMap(p, "LastTxBlockDelegateTake", byAccountPlain, cU64, 0)
	s.stakeThreshold = newValue(p, "StakeThreshold", cU64, 0)
	s.weightCommits = newOptionalMap2(p, "WeightCommits", byNetTwox, byAccountTwox, listOf(cWeightCommit))
	s.timelockedWeightCommits = newMap2(p, "TimelockedWeightCommits", byNetTwox, byEpoch, listOf(cTimelocked), nil)
	s.revealPeriodEpochs = newMap(p, "RevealPeriodEpochs", byNetTwox, cU64, 1)
	s.lastColdkeyHotkeyStakeBlock = newOptionalMap2(p, "LastColdkeyHotkeyStakeBlock", byAccountTwox, byAccountTwox, cU64)
	s.rootClaimableThreshold = newMap(p, "RootClaimableThreshold", byNetBlake, cI96F32, [2]uint64{0, 2147483648000000})
	s.rootClaimable = newMap(p, "RootClaimable", byAccount, cClaimable, nil)
	s.rootClaimed = newMap3(p, "RootClaimed", byNet, byAccount, byAccount, cU128, [2]uint64{})
	newMap(p, "RootClaimType", byAccount, cRootClaimType, []byte{0})
	s.stakingColdkeysByIndex = newOptionalMap(p, "StakingColdkeysByIndex", byIndex, cAccount)
	s.stakingColdkeys = newOptionalMap(p, "StakingColdkeys", byAccountPlain, cU64)
	s.numStakingColdkeys = newValue(p, "NumStakingColdkeys", cU64, 0)
	s.numRootClaim = newValue(p, "NumRootClaim", cU64, 5)
	s.commitRevealWeightsVersion = newValue(p, "CommitRevealWeightsVersion", cU16, 4)
	s.networkRegistrationStartBlock = newValue(p, "NetworkRegistrationStartBlock", cU64, 0)
	s.minNonImmuneUids = newMap(p, "MinNonImmuneUids", byNet, cU16, 10)
	s.maxMechanismCount = newValue(p, "MaxMechanismCount", cU8, 2)
	s.mechanismCountCurrent = newMap(p, "MechanismCountCurrent", byNetTwox, cU8, 1)
	s.mechanismEmissionSplit = newOptionalMap(p, "MechanismEmissionSplit", byNetTwox, listOf(cU16))
	s.burnHalfLife = newMap(p, "BurnHalfLife", byNet, cU16, 360)
	s.burnIncrease = newMap(p, "BurnIncreaseMult", byNet, as(fixedPoint("FixedU128", tU128, 64), cU128), [2]uint64{1, 4796153459164483584})
	s.autoParentDelegationEnabled = newMap(p, "AutoParentDelegationEnabled", byAccount, cBool, true)
	s.pendingChildKeyCooldown = newValue(p, "PendingChildKeyCooldown", cU64, 7200)
	return s
}

// newerStore has what runtimes after spec 425 added and official clients of late 2026 read.
type newerStore struct {
	epochConsensus       map1[uint16, uint8]
	collateralLockShare  map1[uint16, uint16]
	collateralDrainRatio map1[uint16, [2]uint64]
	minerCollateral      map3[uint16, account, account, collateral]
}

func declareNewer(p *prefix) (s newerStore) {
	s.epochConsensus = newMap(p, "SubnetEpochConsensus", byNet, as(enum("pallet_subtensor::pallet::EpochConsensus", nil, plainArms("Yuma", "Null")...), cU8), 0)
	s.collateralLockShare = newMap(p, "CollateralLockShare", byNet, cU16, 0)
	s.collateralDrainRatio = newMap(p, "CollateralDrainRatio", byNet, cU64F64, [2]uint64{})
	s.minerCollateral = newOptionalMap3(p, "MinerCollateral", byNet, byAccount, byAccount, cCollateral)
	return s
}
