package attest

import (
	"context"
	"errors"
	"fmt"
	"maps"
)

// Parallel calls f(0) .. f(n-1), in any order and on as many goroutines as its owner likes, and returns when all are done.
type Parallel func(n int, f func(i int))

// Serial is the Parallel of one goroutine.
func Serial(n int, f func(i int)) {
	for i := range n {
		f(i)
	}
}

// Shortcuts replace work of a CPU prover. The honest device has none; package attest/adversary supplies them, so
// that the checks are tested against provers that are consistent in everything but the work. They must be functions
// of their arguments alone: replays have to give the same bytes.
type Shortcuts struct {
	Layer   func(l int, before func(l int) []byte, x []byte) bool // make layer l, out of those before it, in another way
	Element func(l, i, j int) (byte, bool)                        // another value for a product element
	Hole    func(mixing bool, block int) bool                     // a block of the fill is not held: zeros are read
	Lane    func(batch, lane int) bool                            // leave the lane where it is
	Cell    func(round, cell int) bool                            // keep the cell of the round before
	Partner func(round, cell, partner int) []byte                 // other words than the partner's, CellSize of them; nil: its own
}

// OpenRequest is what one device has to open, each list in the order of OPEN.
type OpenRequest struct {
	Fill   []FillIndex
	PRG    []PRGIndex
	Walk   []WalkIndex
	Mix    []MixIndex
	Blocks []uint64 // of answered PINGs
}

// Opened holds the openings of an OpenRequest, list by list in the same order, in wire layout.
type Opened struct{ Fill, PRG, Walk, Mix, Blocks [][]byte }

// ErrOrder says that a device was asked for something before its time.
var ErrOrder = errors.New("attest: device asked out of order")

// CPU is the reference prover: it does the work of one GPU in plain Go, bit for bit. It is for tests, localnet and
// as the measure of every GPU kernel. Its methods are called one at a time, in the order of the protocol. As on a GPU, walk
// and mix are run again for what is asked of them later; of a small challenge, the states after every batch, the cells of every
// round and all trees are kept.
type CPU struct {
	parallel Parallel
	skip     Shortcuts

	p       Params
	seed    Digest
	fill    []byte // Layers * N * N
	roots   []Node
	walkKey Digest
	wroots  []Node
	mixKey  Digest

	trees  forest   // nil: nothing is kept
	states [][]byte // before the walk (not filled in), then after every batch; nil before there are some
	cells  [][]byte // of every round, from 0
}

// keptBytes is the size of the challenges, walk and mix included, of which everything is kept.
const keptBytes = 1 << 20

// small says that everything of a challenge can be kept.
func (p Params) small() bool {
	return p.FillBytes()+uint64(p.Batches+1)*uint64(p.Lanes)*StateSize+uint64(p.Rounds+1)*uint64(p.Cells)*CellSize <= keptBytes
}

// buffers gives n buffers of a size where they are kept, else two that take turns.
func (c *CPU) buffers(n, size int) [][]byte {
	if c.trees == nil {
		n = 2
	}
	all, out := make([]byte, n*size), make([][]byte, n)
	for i := range out {
		out[i] = all[i*size:][:size]
	}
	return out
}

// root is the root of the tree over data, which is kept if anything is.
func (c *CPU) root(data []byte, tag uint32) Node {
	if c.trees != nil {
		return c.trees.add(data, tag).tree.root()
	}
	return MerkleRoot(data, tag)
}

// NewCPU makes an honest device.
func NewCPU(parallel Parallel) *CPU { return &CPU{parallel: parallel} }

// NewLazyCPU makes a device that takes shortcuts.
func NewLazyCPU(parallel Parallel, s Shortcuts) *CPU { return &CPU{parallel: parallel, skip: s} }

// Fill makes the fill from its seed and returns the root of every layer.
func (c *CPU) Fill(ctx context.Context, p Params, seed Digest) ([]Node, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	*c = CPU{parallel: c.parallel, skip: c.skip, p: p, seed: seed}
	if p.small() {
		c.trees = make(forest, p.Layers+p.Batches+p.Rounds)
	}
	c.fill = make([]byte, p.FillBytes())
	c.roots = make([]Node, p.Layers)
	for l := range p.Layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch {
		case c.skip.Layer != nil && c.skip.Layer(l, c.layer, c.layer(l)):
		case l < 2:
			generateWords(c.layer(l), 0, seed.word(2*l), seed.word(2*l+1))
		default:
			c.product(l)
		}
		c.roots[l] = c.root(c.layer(l), uint32(l))
	}
	return c.roots, nil
}

func (c *CPU) layer(l int) []byte {
	n2 := c.p.LayerBytes()
	return c.fill[l*n2 : (l+1)*n2]
}

// product makes layer l >= 2. Two rows of B share each 64-bit multiplication: their sums stay below 2^30 in size, so the
// lower one is the low half, sign included, and what is left is the upper one.
func (c *CPU) product(l int) {
	n := c.p.N
	from, roundKey := schedule(&c.seed, l)
	a, b, x := c.layer(from), c.layer(l-1), c.layer(l)
	pairs := make([]int64, n/2*n)
	c.parallel(n/2, func(j int) {
		lo, hi, out := b[2*j*n:][:n], b[(2*j+1)*n:][:n], pairs[j*n:][:n]
		for k := range out {
			out[k] = int64(int8(lo[k])) + int64(int8(hi[k]))<<32
		}
	})
	c.parallel(n, func(i int) {
		var short [64]int64
		row, out := short[:], x[i*n:(i+1)*n]
		if n > len(row) {
			row = make([]int64, n)
		}
		row = row[:n]
		for k, v := range a[i*n : (i+1)*n] {
			row[k] = int64(int8(v))
		}
		for j := 0; j < n; j += 8 {
			s := dotPairs(row, pairs[j/2*n:][:4*n])
			for k, v := range s {
				lo := int32(v)
				hi := int32((v - int64(lo)) >> 32)
				out[j+2*k] = phi(uint32(lo), uint32(i), uint32(j+2*k), roundKey)
				out[j+2*k+1] = phi(uint32(hi), uint32(i), uint32(j+2*k+1), roundKey)
			}
		}
		if c.skip.Element != nil {
			for j := range out {
				if v, ok := c.skip.Element(l, i, j); ok {
					out[j] = v
				}
			}
		}
	})
}

// dotPairs multiplies a row with four rows of pairs.
//
//go:norace
func dotPairs(a, p []int64) [4]int64 {
	n := len(a)
	p0, p1, p2, p3 := p[:n], p[n:2*n], p[2*n:3*n], p[3*n:4*n]
	var s0, s1, s2, s3 int64
	for k, v := range a {
		s0 += v * p0[k]
		s1 += v * p1[k]
		s2 += v * p2[k]
		s3 += v * p3[k]
	}
	return [4]int64{s0, s1, s2, s3}
}

// chunk is how many lanes or cells go to one call of a Parallel.
const chunk = 256

// Walk runs the whole walk under its key and returns the root of every batch's states.
func (c *CPU) Walk(ctx context.Context, key Digest) ([]Node, error) {
	if c.roots == nil {
		return nil, ErrOrder
	}
	c.walkKey, c.states = key, nil
	roots := make([]Node, 0, c.p.Batches)
	err := c.replayWalk(ctx, func(b int, _, after []byte) {
		roots = append(roots, c.root(after, walkTag|uint32(b)))
	}, func(b int) Node { return roots[b] })
	if err != nil {
		return nil, err
	}
	c.wroots = roots
	return roots, nil
}

// replayWalk shows visit the states of all lanes before and after each batch, and runs the batches if they were not kept; rootOf
// gives a batch's root once it was visited. Both slices are valid during the call only.
func (c *CPU) replayWalk(ctx context.Context, visit func(b int, before, after []byte), rootOf func(b int) Node) error {
	p := c.p
	for b := range len(c.states) - 1 {
		visit(b, c.states[b], c.states[b+1])
	}
	if c.states != nil {
		return nil
	}
	bs := chain(Final(c.seed, c.roots), c.walkKey[:])
	bufs := c.buffers(p.Batches+1, p.Lanes*StateSize)
	for b := range p.Batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		before, after := bufs[b%len(bufs)], bufs[(b+1)%len(bufs)]
		window := p.window(&c.walkKey, b) * p.LayerBytes()
		c.parallel((p.Lanes+chunk-1)/chunk, func(k int) {
			for i := k * chunk; i < min((k+1)*chunk, p.Lanes); i++ {
				c.walkLane(b, i, &bs, window, before, after)
			}
		})
		visit(b, before, after)
		root := rootOf(b)
		bs = chain(bs, root[:])
	}
	if c.trees != nil {
		c.states = bufs
	}
	return nil
}

// read gives the block at byte o of the fill to the walk or the mix.
//
//go:norace
func (c *CPU) read(mixing bool, o int) []byte {
	if c.skip.Hole != nil && c.skip.Hole(mixing, o/BlockSize) {
		return make([]byte, BlockSize)
	}
	return c.fill[o : o+BlockSize]
}

func (c *CPU) walkLane(b, i int, bs *Digest, window int, before, after []byte) {
	var s lane
	if b == 0 {
		s = firstLane(bs, i)
	} else {
		s = readLane(before[i*StateSize:])
		s.enter(bs)
	}
	if c.skip.Lane == nil || !c.skip.Lane(b, i) {
		blocks := c.p.WinBlocks()
		for range c.p.Steps {
			s.step(c.read(false, window+scaleTo(s[0], blocks)*BlockSize))
		}
	}
	s.put(after[i*StateSize:])
}

// Mix runs all rounds of the mix under its key and returns the root of the last one.
func (c *CPU) Mix(ctx context.Context, key Digest) (last Node, err error) {
	if c.wroots == nil {
		return last, ErrOrder
	}
	c.mixKey, c.cells = key, nil
	maps.DeleteFunc(c.trees, func(tag uint32, _ planted) bool { return tag&mixTag != 0 })
	err = c.replayMix(ctx, func(r int, _, after []byte) {
		if r == c.p.Rounds {
			last = c.root(after, mixTag|uint32(r))
		}
	})
	return last, err
}

// Trace replays the mix and returns the roots of rounds 1 .. Rounds-1.
func (c *CPU) Trace(ctx context.Context) ([]Node, error) {
	roots := make([]Node, 0, c.p.Rounds-1)
	err := c.replayMix(ctx, func(r int, _, after []byte) {
		if r < c.p.Rounds {
			roots = append(roots, c.root(after, mixTag|uint32(r)))
		}
	})
	return roots, err
}

// replayMix shows visit the cells before and after each round, and runs the rounds if they were not kept; the slices are valid
// during the call only.
func (c *CPU) replayMix(ctx context.Context, visit func(r int, before, after []byte)) error {
	p := c.p
	if c.wroots == nil {
		return ErrOrder
	}
	for r := 1; r < len(c.cells); r++ {
		visit(r, c.cells[r-1], c.cells[r])
	}
	if c.cells != nil {
		return nil
	}
	bufs := c.buffers(p.Rounds+1, p.Cells*CellSize)
	generateWords(bufs[0], 0, c.mixKey.word(0), c.mixKey.word(1))
	for r := 1; r <= p.Rounds; r++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		before, after := bufs[(r-1)%len(bufs)], bufs[r%len(bufs)]
		window := -1 // none
		if p.readsFill(r) {
			window = p.window(&c.mixKey, r/mixEvery-1) * p.LayerBytes()
		}
		c.parallel((p.Cells+chunk-1)/chunk, func(k int) {
			for i := k * chunk; i < min((k+1)*chunk, p.Cells); i++ {
				c.mixCell(r, i, window, before, after)
			}
		})
		visit(r, before, after)
	}
	if c.trees != nil {
		c.cells = bufs
	}
	return nil
}

// mixCell works out cell i of round r, of what one worker alone holds. Like the other innermost loops of the kernel it is not
// watched by the race detector, under which it takes ten times as long.
//
//go:norace
func (c *CPU) mixCell(r, i, window int, before, after []byte) {
	if c.skip.Cell != nil && c.skip.Cell(r, i) {
		copy(after[i*CellSize:(i+1)*CellSize], before[i*CellSize:])
		return
	}
	a := readCell(before[i*CellSize:])
	j1, j2 := a.partners(c.p.Cells)
	b1, b2 := readCell(c.partner(r, i, j1, before)), readCell(c.partner(r, i, j2, before))
	x := join(&a, &b1, &b2, i, r)
	var block []byte
	if window >= 0 {
		block = c.read(true, window+scaleTo(x[0], c.p.WinBlocks())*BlockSize)
	}
	x.absorb(block)
	x.put(after[i*CellSize:])
}

// partner gives cell j of the round before, for cell i of round r.
//
//go:norace
func (c *CPU) partner(r, i, j int, before []byte) []byte {
	if c.skip.Partner != nil {
		if words := c.skip.Partner(r, i, j); words != nil {
			return words
		}
	}
	return before[j*CellSize:][:CellSize]
}

// Block returns block number i of the fill, for a PING.
func (c *CPU) Block(_ context.Context, i uint64) ([]byte, error) {
	if c.roots == nil || i >= c.p.Blocks() {
		return nil, ErrOrder
	}
	return c.fill[i*BlockSize : (i+1)*BlockSize], nil
}

// planted is data with the tree over it.
type planted struct {
	tree tree
	data []byte
}

// forest holds the trees that openings touch, by tag; those of layers are made as they are needed.
type forest map[uint32]planted

func (f forest) add(data []byte, tag uint32) planted {
	t := planted{newTree(data, tag), data}
	f[tag] = t
	return t
}

// have adds what is not there yet.
func (f forest) have(data []byte, tag uint32) planted {
	if t, ok := f[tag]; ok {
		return t
	}
	return f.add(data, tag)
}

// Open opens what the validator asked for. The indices were checked against the parameters (Prover does so).
func (c *CPU) Open(ctx context.Context, q OpenRequest) (Opened, error) {
	if c.wroots == nil {
		return Opened{}, ErrOrder
	}
	var o Opened
	trees := c.trees
	if trees == nil {
		trees = forest{}
	}
	for _, x := range q.Fill {
		o.Fill = append(o.Fill, c.open(trees, c.p.FillPieces(c.seed, x)))
	}
	for _, x := range q.PRG {
		o.PRG = append(o.PRG, c.open(trees, []Piece{x.Piece()}))
	}
	var err error
	if o.Walk, err = c.openWalk(ctx, trees, q.Walk); err != nil {
		return Opened{}, fmt.Errorf("open walk: %w", err)
	}
	if o.Mix, err = c.openMix(ctx, trees, q.Mix); err != nil {
		return Opened{}, fmt.Errorf("open mix: %w", err)
	}
	for _, i := range q.Blocks {
		o.Blocks = append(o.Blocks, c.open(trees, []Piece{c.p.BlockPiece(i)}))
	}
	return o, nil
}

// open writes the pieces of one opening one behind the other.
func (c *CPU) open(trees forest, pieces []Piece) []byte {
	size := 0
	for _, x := range pieces {
		size += c.p.PieceSize(x)
	}
	b := make([]byte, 0, size)
	for _, x := range pieces {
		t, ok := trees[x.Tag]
		if !ok {
			t = trees.add(c.layer(int(x.Tag)), x.Tag)
		}
		b = t.tree.open(b, t.data, x.First, x.Count)
	}
	return b
}

func (c *CPU) openWalk(ctx context.Context, trees forest, items []WalkIndex) ([][]byte, error) {
	if len(items) == 0 {
		return nil, nil
	}
	byBatch := map[int][]int{}
	for k, w := range items {
		byBatch[w.Batch] = append(byBatch[w.Batch], k)
	}
	out := make([][]byte, len(items))
	bs := FirstLink(Final(c.seed, c.roots), c.walkKey)
	var failed error
	err := c.replayWalk(ctx, func(b int, before, after []byte) {
		if len(byBatch[b]) > 0 {
			if b > 0 {
				trees.have(before, StateTag(b-1))
			}
			trees.have(after, StateTag(b))
		}
		for _, k := range byBatch[b] {
			pieces, err := c.p.WalkPieces(c.walkKey, bs, items[k], before[items[k].Lane*StateSize:], func(i uint64) ([]byte, error) { return c.Block(ctx, i) })
			failed = errors.Join(failed, err)
			out[k] = c.open(trees, pieces)
		}
		if c.trees == nil {
			delete(trees, StateTag(b-1))
		}
		bs = NextLink(bs, c.wroots[b])
	}, func(b int) Node { return c.wroots[b] })
	return out, errors.Join(failed, err)
}

func (c *CPU) openMix(ctx context.Context, trees forest, items []MixIndex) ([][]byte, error) {
	if len(items) == 0 {
		return nil, nil
	}
	byRound := map[int][]int{}
	for k, m := range items {
		byRound[m.Round] = append(byRound[m.Round], k)
	}
	out := make([][]byte, len(items))
	var failed error
	err := c.replayMix(ctx, func(r int, before, after []byte) {
		if len(byRound[r]) > 0 {
			if r > 1 {
				trees.have(before, CellTag(r-1))
			}
			trees.have(after, CellTag(r))
		}
		for _, k := range byRound[r] {
			pieces, err := c.p.MixPieces(c.mixKey, items[k], func(i int) ([]byte, error) { return before[i*CellSize:][:CellSize], nil })
			failed = errors.Join(failed, err)
			out[k] = c.open(trees, pieces)
		}
		if c.trees == nil {
			delete(trees, CellTag(r-1))
		}
	})
	return out, errors.Join(failed, err)
}

// Release frees the fill.
func (c *CPU) Release() { *c = CPU{parallel: c.parallel, skip: c.skip} }
