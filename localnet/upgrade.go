package localnet

import (
	"fmt"
	"slices"

	"basilica"
	"basilica/scale"
)

// Upgrade is what a runtime upgrade changes, besides that the spec version is one higher. Its fields are what real
// upgrades did to clients: numbers move, names stay.
type Upgrade struct {
	// Pallets moves the index of every pallet from 7 on by so many.
	Pallets uint8
	// Errors puts so many new errors in front of SubtensorModule's, whose indexes move.
	Errors uint8
	// Extension adds a transaction extension without any bytes.
	Extension bool
	// Payload adds a transaction extension that carries a byte in each extrinsic; who does not know it cannot sign.
	Payload bool
	// Field gives NeuronCertificates' value a trailing field; stored values get it too.
	Field bool
}

// code is what stands under :code: how far the runtime is from that of spec 425.
type code struct {
	spec uint32
	Upgrade
}

// codeKey is where a chain keeps its runtime.
const codeKey = ":code"

// runtimeUpdated is the digest item of the first block of a new runtime.
const runtimeUpdated = 8

func firstCode() code { return code{spec: specVersion} }

func (c code) encode() []byte {
	b := scale.AppendU8(scale.AppendU8(scale.AppendU32(nil, c.spec), c.Pallets), c.Errors)
	for _, flag := range []bool{c.Extension, c.Payload, c.Field} {
		b = scale.AppendBool(b, flag)
	}
	return b
}

func decodeCode(b []byte) (code, error) {
	r := scale.NewReader(b)
	c := code{r.U32(), Upgrade{r.U8(), r.U8(), r.Bool(), r.Bool(), r.Bool()}}
	return c, r.Done()
}

// and is the code after an upgrade.
func (c code) and(u Upgrade) code {
	return code{c.spec + 1, Upgrade{
		c.Pallets + u.Pallets, c.Errors + u.Errors, c.Extension || u.Extension, c.Payload || u.Payload, c.Field || u.Field,
	}}
}

// The bounds of an upgrade's sums: the highest pallet is 31, SubtensorModule has some 150 errors.
const (
	maxMovedPallets = 100
	maxMovedErrors  = 90
)

// firstMoved is the first pallet that an upgrade moves; clients know those before by heart.
const firstMoved = subtensorIndex

// moved is a pallet's index in this runtime, from that of spec 425.
func (rt *runtime) moved(module uint8) uint8 {
	if module < firstMoved {
		return module
	}
	return module + rt.code.Pallets
}

// encodeError is the DispatchError of a failed call, with the indexes of this runtime.
func (rt *runtime) encodeError(err error) []byte {
	b := slices.Clone(encodeError(err))
	if module := len(b) > 2 && b[0] == 3; module {
		if b[1] == subtensorIndex {
			b[2] += rt.code.Errors
		}
		b[1] = rt.moved(b[1])
	}
	return b
}

// movedArms are a pallet's errors behind the new ones.
func (rt *runtime) movedArms(arms []arm) []arm {
	out := make([]arm, 0, len(arms)+int(rt.code.Errors))
	for i := range rt.code.Errors {
		out = append(out, arm{index: i, name: fmt.Sprintf("AddedByUpgrade%d", i)})
	}
	for _, a := range arms {
		out = append(out, arm{a.index + rt.code.Errors, a.name, a.fields})
	}
	return out
}

// Upgrade has the next block begin with a new runtime. What waits in the pool was signed for the old one and is dropped
// then. It fails where the sum of all upgrades moves numbers too far.
func (c *Chain) Upgrade(u Upgrade) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.rt
	if c.coming != nil {
		last = c.coming.rt
	}
	next := last.code.and(u)
	if int(last.code.Pallets)+int(u.Pallets) > maxMovedPallets || int(last.code.Errors)+int(u.Errors) > maxMovedErrors {
		return fmt.Errorf("localnet: an upgrade moves pallets by %d at most and errors by %d, all upgrades together", maxMovedPallets, maxMovedErrors)
	}
	rt, err := newRuntimeOf(c.rt.slot, next)
	if err != nil {
		return err
	}
	c.coming = &dated{c.head() + 1, rt}
	return nil
}

// takeUpgrade begins the next block with the runtime that waits for it, if one does.
func (c *Chain) takeUpgrade() bool {
	if c.coming == nil {
		return false
	}
	c.coming.from = c.head() + 1
	c.runtimes = append(c.runtimes, *c.coming)
	c.rt, c.coming = c.coming.rt, nil
	dropped := c.pool.order
	c.pool = newPool()
	c.bare = nil
	for _, t := range dropped {
		t.tell("invalid", basilica.Hash{})
	}
	return true
}

// migrate is what the first block of a new runtime does to the state.
func (rt *runtime) migrate(x *execution) {
	had := firstCode()
	if raw, stored := x.get(codeKey); stored {
		var err error
		if had, err = decodeCode(raw); err != nil {
			panic("localnet: the stored runtime does not decode: " + err.Error())
		}
	}
	x.put(codeKey, rt.code.encode())
	if rt.code.Field && !had.Field {
		for _, k := range x.scan(rt.subnets.certificates.prefix) {
			if raw, has := x.get(k); has {
				x.put(k, append(slices.Clone(raw), 0, 0, 0, 0))
			}
		}
	}
}

// runtimeAt is the runtime that made a block.
func (c *Chain) runtimeAt(number uint64) *runtime {
	for _, d := range slices.Backward(c.runtimes) {
		if d.from <= number {
			return d.rt
		}
	}
	return c.runtimes[0].rt
}

// recallUpgrades finds the runtimes of the kept blocks again, after a restart or a reorganisation.
func (c *Chain) recallUpgrades() error {
	c.runtimes = c.runtimes[:1]
	for _, v := range c.state.values[codeKey] {
		code, err := decodeCode(v.value)
		if err != nil {
			return errJournal(c.config.Path, "keeps a runtime of another version", err)
		}
		rt, err := newRuntimeOf(c.rt.slot, code)
		if err != nil {
			return err
		}
		c.runtimes = append(c.runtimes, dated{v.block, rt})
	}
	c.rt = c.runtimes[len(c.runtimes)-1].rt
	return nil
}
