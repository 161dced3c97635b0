package localnet

import (
	"errors"

	"basilica/scale"
)

// execution makes one block, or looks into the next one on behalf of the pool.
type execution struct {
	*overlay
	rt     *runtime
	block  uint64
	phase  []byte
	events [][]byte
}

var (
	phaseInitialization = []byte{2}
	phaseFinalization   = []byte{1}
)

func phaseApply(index uint32) []byte { return scale.AppendU32([]byte{0}, index) }

// emit records an event in the present phase.
func (x *execution) emit(id eventID, fields ...[]byte) {
	record := append(append([]byte{}, x.phase...), id.module, id.event)
	for _, f := range fields {
		record = append(record, f...)
	}
	x.events = append(x.events, append(record, 0)) // no topics
}

// attempt runs a call; where it fails, nothing of it stays.
func (x *execution) attempt(call decoded, from origin) error {
	x.begin()
	events := len(x.events)
	if err := call.run(x, from); err != nil {
		x.rollback()
		x.events = x.events[:events]
		return err
	}
	x.commit()
	return nil
}

// nested runs a call inside a call and encodes its DispatchResult.
func (x *execution) nested(call decoded, from origin) []byte {
	if err := x.attempt(call, from); err != nil {
		return append([]byte{1}, encodeError(err)...)
	}
	return []byte{0}
}

func encodeError(err error) []byte {
	var d dispatchError
	if errors.As(err, &d) {
		return d.encode()
	}
	return []byte{0} // Other
}

// dispatchInfo is the DispatchEventInfo of a call; class 0 is normal, 2 mandatory.
func dispatchInfo(w weight, class uint8, free bool) []byte {
	b := scale.AppendCompact(scale.AppendCompact(nil, w.refTime), w.proofSize)
	return scale.AppendBool(append(b, class), free)
}

// apply includes an extrinsic: it has been validated in this very state.
func (x *execution) apply(index uint32, ext *extrinsic, author account) {
	rt, who := x.rt, ext.who
	x.phase = phaseApply(index)
	info := rt.system.account.get(x, who)
	info.nonce++
	rt.system.account.set(x, who, info)
	fee := ext.fee()
	if fee > 0 {
		if err := rt.withdraw(x, who, fee, false); err != nil {
			panic("localnet: a validated extrinsic cannot pay: " + err.Error())
		}
		x.emit(eventWithdraw, who[:], u64(fee))
	}
	err := x.attempt(ext.call, origin{who: who})
	if fee > 0 {
		if _, alive := rt.system.account.find(x, who); alive {
			x.emit(eventDeposit, who[:], u64(0))
		}
		if err := rt.deposit(x, author, fee); err != nil {
			rt.burnDust(x, fee)
		} else {
			x.emit(eventDeposit, author[:], u64(fee))
		}
	}
	x.emit(eventFeePaid, who[:], u64(fee), u64(ext.tip))
	outcome := dispatchInfo(ext.call.call.weight, 0, ext.call.call.free)
	if err != nil {
		x.emit(eventExtrinsicFailed, encodeError(err), outcome)
		return
	}
	x.emit(eventExtrinsicSuccess, outcome)
}
