package localnet

import (
	"fmt"

	"basilica/scale"
)

// eventID is a pallet index and an event index.
type eventID struct{ module, event uint8 }

func (e eventID) arm(name string, fields ...field) arm { return arm{e.event, name, fields} }

// The events that the chain emits, by their indexes at spec 425.
var (
	eventExtrinsicSuccess = eventID{0, 0}
	eventExtrinsicFailed  = eventID{0, 1}
	eventNewAccount       = eventID{0, 3}
	eventKilledAccount    = eventID{0, 4}
	eventRemarked         = eventID{0, 5}

	eventEndowed    = eventID{5, 0}
	eventTransfer   = eventID{5, 2}
	eventReserved   = eventID{5, 4}
	eventUnreserved = eventID{5, 5}
	eventDeposit    = eventID{5, 7}
	eventWithdraw   = eventID{5, 8}
	eventUpgraded   = eventID{5, 14}
	eventIssued     = eventID{5, 15}

	eventFeePaid = eventID{6, 0}

	eventTargetRegistrationsSet = eventID{7, 13}
	eventMaxRegistrationsSet    = eventID{7, 14}
	eventRhoSet                 = eventID{7, 16}
	eventKappaSet               = eventID{7, 18}
	eventBondsMovingAverageSet  = eventID{7, 24}
	eventBondsPenaltySet        = eventID{7, 25}
	eventMaxBurnSet             = eventID{7, 37}
	eventMinBurnSet             = eventID{7, 38}
	eventMaxEpochsSet           = eventID{7, 39}
	eventTxRateLimitSet         = eventID{7, 40}
	eventFreezeWindowSet        = eventID{7, 43}
	eventOwnerRateLimitSet      = eventID{7, 44}
	eventNetworkRateLimitSet    = eventID{7, 58}
	eventStartCallDelaySet      = eventID{7, 60}
	eventMinLockCostSet         = eventID{7, 61}
	eventSubnetLimitSet         = eventID{7, 62}
	eventTransferToggle         = eventID{7, 93}
	eventRevealPeriodSet        = eventID{7, 100}
	eventNetworkAdded           = eventID{7, 0}
	eventStakeMoved             = eventID{7, 4}
	eventPrometheusServed       = eventID{7, 29}
	eventChildKeyTakeSet        = eventID{7, 48}
	eventRegistrationAllowed    = eventID{7, 50}
	eventRAORecycledSet         = eventID{7, 53}
	eventTakeDecreased          = eventID{7, 64}
	eventTakeIncreased          = eventID{7, 65}
	eventColdkeySwapAnnounced   = eventID{7, 69}
	eventChildrenScheduled      = eventID{7, 75}
	eventChildrenSet            = eventID{7, 76}
	eventChainIdentitySet       = eventID{7, 77}
	eventSubnetIdentitySet      = eventID{7, 78}
	eventWeightsCommitted       = eventID{7, 85}
	eventWeightsRevealed        = eventID{7, 86}
	eventWeightsBatchRevealed   = eventID{7, 87}
	eventBatchCompleted         = eventID{7, 88}
	eventBatchWithErrors        = eventID{7, 89}
	eventBatchItemFailed        = eventID{7, 90}
	eventStakeTransferred       = eventID{7, 91}
	eventStakeSwapped           = eventID{7, 92}
	eventOwnerHotkeySet         = eventID{7, 94}
	eventFirstEmissionSet       = eventID{7, 95}
	eventTimelockedCommitted    = eventID{7, 107}
	eventTimelockedRevealed     = eventID{7, 108}
	eventAutoStaked             = eventID{7, 109}
	eventCutoffFactorSet        = eventID{7, 130}
	eventEpochTriggered         = eventID{7, 131}

	eventBatchInterrupted   = eventID{11, 0}
	eventUtilityCompleted   = eventID{11, 1}
	eventUtilityWithErrors  = eventID{11, 2}
	eventItemCompleted      = eventID{11, 3}
	eventItemFailed         = eventID{11, 4}
	eventProxyExecuted      = eventID{16, 0}
	eventProxyAdded         = eventID{16, 4}
	eventProxyRemoved       = eventID{16, 5}
	eventYuma3Toggled       = eventID{19, 1}
	eventBondsResetToggled  = eventID{19, 2}
	eventEmissionEnabledSet = eventID{19, 5}
	eventFeeRateSet         = eventID{28, 0}
	eventCommitment         = eventID{18, 0}
	eventTimelockCommitment = eventID{18, 1}

	eventStakeAdded           = eventID{7, 2}
	eventStakeRemoved         = eventID{7, 3}
	eventWeightsSet           = eventID{7, 5}
	eventNeuronRegistered     = eventID{7, 6}
	eventWeightsSetRateLimit  = eventID{7, 22}
	eventImmunityPeriodSet    = eventID{7, 23}
	eventMaxValidatorsSet     = eventID{7, 27}
	eventAxonServed           = eventID{7, 28}
	eventServingRateLimitSet  = eventID{7, 35}
	eventTempoSet             = eventID{7, 52}
	eventStakeThresholdSet    = eventID{7, 54}
	eventMaxAllowedUidsSet    = eventID{7, 9}
	eventMinAllowedWeightSet  = eventID{7, 19}
	eventWeightsVersionKeySet = eventID{7, 32}
	eventCommitRevealEnabled  = eventID{7, 101}
	eventIncentiveEmitted     = eventID{7, 110}
	eventEpochDeferred        = eventID{7, 132}
	eventEpochSkipped         = eventID{7, 133}

	eventSudid = eventID{12, 0}
)

// dispatchError is a failure of a call, in the bytes of DispatchError, with the name that its metadata gives it.
type dispatchError struct {
	name  string
	bytes [6]byte
	n     int
}

func (e dispatchError) Error() string { return e.name }

func (e dispatchError) encode() []byte { return e.bytes[:e.n] }

var (
	badOrigin        = dispatchError{name: "BadOrigin", bytes: [6]byte{2}, n: 1}
	fundsUnavailable = dispatchError{name: "Token.FundsUnavailable", bytes: [6]byte{7, 0}, n: 2}
	belowMinimum     = dispatchError{name: "Token.BelowMinimum", bytes: [6]byte{7, 2}, n: 2}
	underflow        = dispatchError{name: "Arithmetic.Underflow", bytes: [6]byte{8, 0}, n: 2}
	callFiltered     = listedError("System", 0, systemErrors[:], "CallFiltered")
	notExpendable    = dispatchError{name: "Token.NotExpendable", bytes: [6]byte{7, 8}, n: 2}
)

func moduleError(pallet string, module uint8, name string, index uint8) dispatchError {
	return dispatchError{name: pallet + "." + name, bytes: [6]byte{3, module, index}, n: 6}
}

// subtensorError finds a SubtensorModule error by name.
func subtensorError(name string) dispatchError {
	return listedError("SubtensorModule", subtensorIndex, subtensorErrors[:], name)
}

// listedError finds a pallet's error by name.
func listedError(pallet string, module uint8, names []string, name string) dispatchError {
	for i, n := range names {
		if n == name {
			return moduleError(pallet, module, name, uint8(i))
		}
	}
	panic(fmt.Sprintf("localnet: no %s error is called %s", pallet, name))
}

// customCode is the pool's Custom(N) for a refused guard; everything without a code of its own is 255.
func customCode(err error) uint8 {
	switch err.Error() {
	case "SubtensorModule.ColdkeySwapAnnounced":
		return 0
	case "SubtensorModule.NotEnoughStakeToSetWeights":
		return 1
	case "SubtensorModule.SettingWeightsTooFast", "SubtensorModule.CommittingWeightsTooFast", "SubtensorModule.NetworkTxRateLimitExceeded":
		return 6
	case "SubtensorModule.HotKeyNotRegisteredInNetwork":
		return 10
	case "SubtensorModule.InvalidIpAddress":
		return 11
	case "SubtensorModule.ServingRateLimitExceeded":
		return 12
	case "SubtensorModule.InvalidPort":
		return 13
	case "SubtensorModule.InvalidRevealRound":
		return 15
	case "SubtensorModule.NoWeightsCommitFound", "SubtensorModule.InvalidRevealCommitHashNotMatch":
		return 16
	case "SubtensorModule.RevealTooEarly", "SubtensorModule.ExpiredWeightCommit":
		return 17
	case "SubtensorModule.InputLengthsUnequal":
		return 18
	case "SubtensorModule.ColdkeySwapDisputed":
		return 21
	case "SubtensorModule.DelegateTakeTooLow":
		return 26
	case "SubtensorModule.DelegateTakeTooHigh":
		return 27
	}
	return 255
}

// encoding helpers for event fields
func u16(v uint16) []byte { return scale.AppendU16(nil, v) }
func u64(v uint64) []byte { return scale.AppendU64(nil, v) }
