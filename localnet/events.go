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

	eventEndowed  = eventID{5, 0}
	eventTransfer = eventID{5, 2}
	eventDeposit  = eventID{5, 7}
	eventWithdraw = eventID{5, 8}
	eventIssued   = eventID{5, 15}

	eventFeePaid = eventID{6, 0}

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
	notExpendable    = dispatchError{name: "Token.NotExpendable", bytes: [6]byte{7, 8}, n: 2}
)

func moduleError(pallet string, module uint8, name string, index uint8) dispatchError {
	return dispatchError{name: pallet + "." + name, bytes: [6]byte{3, module, index}, n: 6}
}

// subtensorError finds a SubtensorModule error by name.
func subtensorError(name string) dispatchError {
	for i, n := range subtensorErrors {
		if n == name {
			return moduleError("SubtensorModule", subtensorIndex, name, uint8(i))
		}
	}
	panic(fmt.Sprintf("localnet: no SubtensorModule error is called %s", name))
}

// customCode is the pool's Custom(N) for a refused guard; everything without a code of its own is 255.
func customCode(err error) uint8 {
	switch err.Error() {
	case "SubtensorModule.NotEnoughStakeToSetWeights":
		return 1
	case "SubtensorModule.SettingWeightsTooFast":
		return 6
	case "SubtensorModule.HotKeyNotRegisteredInNetwork":
		return 10
	case "SubtensorModule.InvalidIpAddress":
		return 11
	case "SubtensorModule.ServingRateLimitExceeded":
		return 12
	case "SubtensorModule.InvalidPort":
		return 13
	}
	return 255
}

// encoding helpers for event fields
func u16(v uint16) []byte { return scale.AppendU16(nil, v) }
func u64(v uint64) []byte { return scale.AppendU64(nil, v) }
