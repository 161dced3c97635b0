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
	author account // who makes the block and gets its fees
	phase  []byte
	events [][]byte
	spent  *cost // what the call that runs says it cost; nil: what was said before it ran
}

var (
	phaseInitialization = []byte{2}
	phaseFinalization   = []byte{1}
)

func phaseApply(index uint32) []byte { return scale.AppendU32([]byte{0}, index) }

// emit records an event in the present phase.
func (x *execution) emit(id eventID, fields ...[]byte) {
	record := append(append([]byte{}, x.phase...), x.rt.moved(id.module), id.event)
	for _, f := range fields {
		record = append(record, f...)
	}
	x.events = append(x.events, append(record, 0)) // no topics
}

// attempt runs a call as the runtime dispatches one: the filter and the guards first, but for root. Where it fails,
// nothing of it stays.
func (x *execution) attempt(call decoded, from origin) error {
	x.begin()
	events := len(x.events)
	err := x.admit(call, from)
	if err == nil {
		err = call.run(x, from)
	}
	if err != nil {
		x.rollback()
		x.events = x.events[:events]
		return err
	}
	x.commit()
	return nil
}

func (x *execution) admit(call decoded, from origin) error {
	switch {
	case from.root:
		return nil
	case call.filtered:
		return callFiltered
	default:
		return x.rt.guard(x, call, from.who)
	}
}

// inner runs a call inside a call, which says by itself what it cost.
func (x *execution) inner(call decoded, from origin) error {
	spent := x.spent
	err := x.attempt(call, from)
	x.spent = spent
	return err
}

// nested runs a call inside a call and encodes its DispatchResult.
func (x *execution) nested(call decoded, from origin) []byte {
	if err := x.inner(call, from); err != nil {
		return append([]byte{1}, x.rt.encodeError(err)...)
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
func (x *execution) apply(index uint32, ext *extrinsic) {
	rt, who := x.rt, ext.who
	x.phase = phaseApply(index)
	info := rt.system.account.get(x, who)
	info.nonce++
	rt.system.account.set(x, who, info)
	paid := ext.fee()
	if paid > 0 {
		if err := rt.withdraw(x, who, paid, false); err != nil {
			panic("localnet: a validated extrinsic cannot pay: " + err.Error())
		}
		x.emit(eventWithdraw, who[:], u64(paid))
	}
	x.spent = nil
	err := x.attempt(ext.call, origin{who: who})
	spent := ext.call.price()
	if x.spent != nil {
		spent = *x.spent
	}
	fee := ext.feeOf(spent)
	if paid > 0 {
		rt.settle(x, who, paid, fee)
	}
	x.emit(eventFeePaid, who[:], u64(fee), u64(ext.tip))
	outcome := dispatchInfo(spent.weight, 0, spent.free)
	if err != nil {
		x.emit(eventExtrinsicFailed, x.rt.encodeError(err), outcome)
		return
	}
	x.emit(eventExtrinsicSuccess, outcome)
}

// settle gives back what an extrinsic paid too much, and the fee to the author. Where the account is gone, nothing comes
// back.
func (rt *runtime) settle(x *execution, who account, paid, fee uint64) {
	fee = min(fee, paid)
	if rt.deposit(x, who, paid-fee) != nil {
		fee = paid
	} else if _, alive := rt.system.account.find(x, who); alive {
		x.emit(eventDeposit, who[:], u64(paid-fee))
	}
	if fee == 0 {
		return
	}
	if err := rt.deposit(x, x.author, fee); err != nil {
		rt.burnDust(x, fee)
		return
	}
	x.emit(eventDeposit, x.author[:], u64(fee))
}
