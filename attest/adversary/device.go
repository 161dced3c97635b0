package adversary

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"

	"basilica/attest"
)

// Machine makes the devices of one lying machine.
type Machine struct {
	cheat    Cheat
	parallel attest.Parallel

	mu   sync.Mutex
	seed *attest.Digest // of the one memory that all devices share
}

// NewMachine makes a machine that cheats as c says.
func NewMachine(c Cheat, parallel attest.Parallel) *Machine {
	return &Machine{cheat: c, parallel: parallel}
}

// shared is the seed of the machine's only memory: that of whoever comes first.
func (m *Machine) shared(seed attest.Digest) attest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seed == nil {
		m.seed = &seed
	}
	return *m.seed
}

// Device is one GPU of a lying machine, with the methods of attest.CPU.
type Device struct {
	m      *Machine
	cpu    *attest.CPU
	p      attest.Params
	salt   *choice
	mixKey *attest.Digest
	pings  int           // answered
	early  []attest.Node // of a walk that was not asked for yet
	last   attest.Node   // of a mix that was not asked for yet
	noise  *rand.Rand
}

// Device makes the machine's next device.
func (m *Machine) Device() *Device { return &Device{m: m} }

// Fill makes what the cheat needs of the fill and returns roots for all of it.
func (d *Device) Fill(ctx context.Context, p attest.Params, seed attest.Digest) ([]attest.Node, error) {
	d.p = p
	c := d.m.cheat
	salt := binary.LittleEndian.Uint32(seed[:])
	switch c.Kind {
	case Claim:
		d.noise = rand.New(rand.NewPCG(uint64(salt), 1))
		return d.nodes(p.Layers), nil
	case Nonce:
		seed = attest.Digest{1, 2, 3}
	case Twin:
		seed = d.m.shared(seed)
	}
	var roots []attest.Node
	var best attest.Digest
	for try := range max(1, c.tries(c.Fill+c.Leaf+c.Hole, true)) {
		picked, key := &choice{fill: salt + uint32(try), walk: salt, mix: salt}, &attest.Digest{}
		cpu := attest.NewLazyCPU(d.m.parallel, c.shortcuts(p, seed, picked, key))
		r, err := cpu.Fill(ctx, p, seed)
		if err != nil {
			return nil, err
		}
		// What follows is thought to hang on final_g: the smallest one is as good as any other.
		if f := attest.Final(seed, r); roots == nil || bytes.Compare(f[:], best[:]) < 0 {
			d.cpu, d.salt, d.mixKey, roots, best = cpu, picked, key, r, f
		}
	}
	d.pings = 0
	if c.Kind == Early || c.Kind == EarlyMix {
		var err error
		if d.early, err = d.cpu.Walk(ctx, seed); err != nil {
			return nil, err
		}
		if d.last, err = d.cpu.Mix(ctx, seed); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

// Walk returns the roots of the walk under key, or of another one.
func (d *Device) Walk(ctx context.Context, key attest.Digest) ([]attest.Node, error) {
	switch d.m.cheat.Kind {
	case Claim:
		return d.nodes(d.p.Batches), nil
	case Early:
		return d.early, nil
	}
	c := d.m.cheat
	return ground(&d.salt.walk, c.tries(c.Walk, false), func() ([]attest.Node, []byte, error) {
		roots, err := d.cpu.Walk(ctx, key)
		if err != nil {
			return nil, nil, err
		}
		return roots, roots[len(roots)-1][:], nil
	})
}

// Mix returns the root of the last round of the mix under key, or of another one.
func (d *Device) Mix(ctx context.Context, key attest.Digest) (attest.Node, error) {
	switch d.m.cheat.Kind {
	case Claim:
		return d.nodes(1)[0], nil
	case EarlyMix:
		return d.last, nil
	}
	*d.mixKey = key
	c := d.m.cheat
	return ground(&d.salt.mix, c.tries(c.Mix+c.Break+c.Stale+c.Alone, false), func() (attest.Node, []byte, error) {
		last, err := d.cpu.Mix(ctx, key)
		return last, last[:], err
	})
}

// tries is how often a step is tried that leaves out so much: without anything left out, every try would give the same roots.
func (c Cheat) tries(leftOut float64, kinds bool) int {
	if leftOut > 0 || kinds && c.Kind != "" {
		return c.Grind
	}
	return 0
}

// ground works with as many salts as it tries and stays with the one whose root is the smallest.
func ground[T any](salt *uint32, tries int, work func() (result T, root []byte, err error)) (result T, err error) {
	var best []byte
	first, chosen := *salt, *salt
	for try := range tries {
		*salt = first + uint32(try)
		_, root, err := work()
		if err != nil {
			return result, err
		}
		if best == nil || bytes.Compare(root, best) < 0 {
			best, chosen = root, *salt
		}
	}
	*salt = chosen
	result, _, err = work()
	return result, err
}

// Trace returns the roots of the other rounds.
func (d *Device) Trace(ctx context.Context) ([]attest.Node, error) {
	if d.m.cheat.Kind == Claim {
		return d.nodes(d.p.Rounds - 1), nil
	}
	return d.cpu.Trace(ctx)
}

// Block returns block i of the fill.
func (d *Device) Block(ctx context.Context, i uint64) ([]byte, error) {
	if d.m.cheat.Kind == Claim {
		return d.bytes(attest.BlockSize), nil
	}
	d.pings++
	if left(d.m.cheat.Ping, 64, d.salt.fill, d.pings-1) {
		return make([]byte, attest.BlockSize), nil
	}
	return d.cpu.Block(ctx, i)
}

// Open opens what was asked for, or bytes of the same sizes.
func (d *Device) Open(ctx context.Context, q attest.OpenRequest) (o attest.Opened, err error) {
	if d.m.cheat.Kind == Claim {
		return d.openNoise(q), nil
	}
	if o, err = d.cpu.Open(ctx, q); err != nil {
		return o, err
	}
	if len(o.Fill) == 0 {
		return o, errors.New("adversary: no element is opened")
	}
	switch x := &o.Fill[0]; d.m.cheat.Kind {
	case Mutate:
		*x = bytes.Clone(*x)
		(*x)[len(*x)/2] ^= 1
	case Truncate:
		*x = (*x)[:len(*x)-1]
	}
	return o, nil
}

// Release frees the fill.
func (d *Device) Release() {
	if d.cpu != nil {
		d.cpu.Release()
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.seed = nil
}

func (d *Device) bytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, d.noise.Uint64())
	}
	return b[:n]
}

func (d *Device) nodes(n int) []attest.Node {
	out := make([]attest.Node, n)
	for i := range out {
		out[i] = attest.Node(d.bytes(attest.NodeSize))
	}
	return out
}

func (d *Device) openNoise(q attest.OpenRequest) (o attest.Opened) {
	for range q.Fill {
		o.Fill = append(o.Fill, d.bytes(d.p.FillOpening()))
	}
	for range q.PRG {
		o.PRG = append(o.PRG, d.bytes(d.p.LeafOpening()))
	}
	for _, w := range q.Walk {
		o.Walk = append(o.Walk, d.bytes(d.p.WalkOpening(w.Batch)))
	}
	for _, m := range q.Mix {
		o.Mix = append(o.Mix, d.bytes(d.p.MixOpening(m.Round)))
	}
	for range q.Blocks {
		o.Blocks = append(o.Blocks, d.bytes(d.p.LeafOpening()))
	}
	return o
}
