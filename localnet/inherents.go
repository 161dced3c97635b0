package localnet

import (
	"slices"
	"time"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
)

// Classes of extrinsics in a DispatchInfo.
const (
	classOperational = 1
	classMandatory   = 2
)

// bare wraps a call that nobody signs.
func (rt *runtime) bare(module, call uint8, args []byte) []byte {
	return scale.AppendBytes(nil, append([]byte{0x05, rt.moved(module), call}, args...))
}

// timestampInherent is the bare extrinsic with which each block begins.
func timestampInherent(ms uint64) []byte {
	return scale.AppendBytes(nil, scale.AppendCompact([]byte{0x05, 2, 0}, ms))
}

// applyInherents begins a block with what its author says: the time, the next key of MevShield, the beacon's pulses; then
// come pulses that others have sent.
func (c *Chain) applyInherents(x *execution, b *block, now uint64) error {
	b.add(x, timestampInherent(now), classMandatory, func() error {
		c.rt.time.now.set(x, now)
		return nil
	})
	key, err := c.shieldKey(x.block)
	if err != nil {
		return err
	}
	public := key.EncapsulationKey().Bytes()
	b.add(x, c.rt.bare(shieldIndex, 0, scale.AppendBytes([]byte{1}, public)), classMandatory, func() error {
		c.rt.announceKey(x, public)
		return nil
	})
	if !c.pulsesHeld {
		d := c.rt.drand
		pulses, err := c.beacon.after(d.lastStored.get(x), d.config.get(x), time.UnixMilli(int64(now)))
		if err != nil {
			return err
		}
		if len(pulses) > 0 {
			raw, err := c.rt.pulsesInherent(x.block, pulses, c.signer)
			if err != nil {
				return err
			}
			b.add(x, raw, classOperational, func() error { return c.rt.writePulses(x, pulses, c.beacon.own()) })
		}
	}
	for _, e := range c.bare {
		if c.rt.admitPulses(x, e.pulses) == nil {
			b.add(x, e.raw, classOperational, func() error { return c.rt.writePulses(x, e.pulses.pulses, false) })
		}
	}
	c.bare = nil
	return nil
}

// add appends a bare extrinsic to the block and runs it.
func (b *block) add(x *execution, raw []byte, class uint8, run func() error) {
	x.phase = phaseApply(uint32(len(b.extrinsics)))
	b.extrinsics = append(b.extrinsics, raw)
	x.begin()
	events := len(x.events)
	info := dispatchInfo(weight{refTime: baseWeight}, class, class != classMandatory)
	if err := run(); err != nil {
		x.rollback()
		x.events = x.events[:events]
		x.emit(eventExtrinsicFailed, x.rt.encodeError(err), info)
		return
	}
	x.commit()
	x.emit(eventExtrinsicSuccess, info)
}

// bareExtrinsic is a write_pulse that somebody sent, unsigned but for what is in it.
type bareExtrinsic struct {
	raw    []byte
	pulses *pulsesWritten
}

func (e *bareExtrinsic) id() basilica.Hash {
	if e == nil {
		return basilica.Hash{}
	}
	return pallet.Blake2b256(e.raw)
}

// decodeBare reads a bare extrinsic; nil where raw is none. The only call that may come so is write_pulse.
func (rt *runtime) decodeBare(raw []byte) (*bareExtrinsic, error) {
	outer := scale.NewReader(raw)
	r := scale.NewReader(outer.Raw(outer.Count(1)))
	if preamble := r.U8(); outer.Done() != nil || preamble != 0x04 && preamble != 0x05 {
		return nil, nil
	}
	call, err := rt.decodeCall(r)
	switch {
	case err != nil || call.pulses == nil:
		return nil, invalid(dataMandatory)
	case r.Done() != nil:
		return nil, badFormat()
	}
	return &bareExtrinsic{raw, call.pulses}, nil
}

// maxBare bounds how many bare extrinsics wait for the next block.
const maxBare = 16

// addBare keeps a write_pulse for the next block.
func (c *Chain) addBare(x *execution, e *bareExtrinsic) error {
	if slices.ContainsFunc(c.bare, func(o *bareExtrinsic) bool { return string(o.raw) == string(e.raw) }) {
		return alreadyImported
	}
	if len(c.bare) >= maxBare {
		return &Rejection{1016, "Immediately Dropped", "The transaction couldn't enter the pool because of the limit"}
	}
	if err := c.rt.admitPulses(x, e.pulses); err != nil {
		return err
	}
	c.bare = append(c.bare, e)
	return nil
}
