package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// FillIndex names element (I, J) of layer L >= 2 of GPU G.
type FillIndex struct{ G, L, I, J int }

// PRGIndex names a leaf of layer 0 or 1 of GPU G.
type PRGIndex struct{ G, L, Leaf int }

// WalkIndex names one batch of one lane of GPU G.
type WalkIndex struct{ G, Lane, Batch int }

// MixIndex names one cell of one round (from 1) of GPU G.
type MixIndex struct{ G, Round, Cell int }

// ErrLength says that an opening or a list of digests has another length than the parameters give it. It is a
// violation of the protocol, not a failed check.
var ErrLength = errors.New("attest: wrong length")

// Checker verifies the openings of one GPU against its commitments. Indices are the validator's own and in range;
// lengths are compared before anything is hashed.
type Checker struct {
	p     Params
	seed  Digest
	roots []Node
	final Digest

	walkKey Digest
	wroots  []Node
	chain   []Digest // bs_b of every batch

	mixKey Digest
	yroots []Node // of rounds 1 .. Rounds
}

// NewChecker takes the roots of all layers. Another number of them is ErrLength.
func NewChecker(p Params, seed Digest, roots []Node) (*Checker, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if len(roots) != p.Layers {
		return nil, fmt.Errorf("%w: %d roots, want %d", ErrLength, len(roots), p.Layers)
	}
	return &Checker{p: p, seed: seed, roots: roots, final: Final(seed, roots)}, nil
}

// Final is final_g recomputed from the roots.
func (c *Checker) Final() Digest { return c.final }

// SetWalk takes the roots of all batches.
func (c *Checker) SetWalk(key Digest, roots []Node) error {
	if len(roots) != c.p.Batches {
		return fmt.Errorf("%w: %d walk roots, want %d", ErrLength, len(roots), c.p.Batches)
	}
	c.walkKey, c.wroots = key, roots
	c.chain = make([]Digest, len(roots))
	bs := chain(c.final, key[:])
	for i := range roots {
		c.chain[i] = bs
		bs = chain(bs, roots[i][:])
	}
	return nil
}

// SetMix takes the roots of all rounds: those of TRACE, then the timed one of MIX_DONE.
func (c *Checker) SetMix(key Digest, roots []Node) error {
	if len(roots) != c.p.Rounds {
		return fmt.Errorf("%w: %d mix roots, want %d", ErrLength, len(roots), c.p.Rounds)
	}
	c.mixKey, c.yroots = key, roots
	return nil
}

func length(b []byte, want int) error {
	if len(b) != want {
		return fmt.Errorf("%w: opening of %d bytes, want %d", ErrLength, len(b), want)
	}
	return nil
}

func (c *Checker) takeLayer(b []byte, l, first, cnt int) (data, rest []byte, err error) {
	data, rest, err = takeLeaves(b, c.p.layerLeaves(), uint32(l), first, cnt, &c.roots[l])
	if err != nil {
		return nil, nil, fmt.Errorf("layer %d leaf %d: %w", l, first, err)
	}
	return data, rest, nil
}

// takeBlock checks the leaf that holds the block at byte o of the fill.
func (c *Checker) takeBlock(b []byte, o int) (block, rest []byte, err error) {
	n2 := c.p.LayerBytes()
	data, rest, err := c.takeLayer(b, o/n2, o%n2/LeafSize, 1)
	if err != nil {
		return nil, nil, err
	}
	return data[o%LeafSize:][:BlockSize], rest, nil
}

// Fill recomputes one product element from the two rows it comes from.
func (c *Checker) Fill(x FillIndex, b []byte) error {
	if err := length(b, c.p.FillOpening()); err != nil {
		return err
	}
	n, rl := c.p.N, c.p.rowLeaves()
	firstA, firstB := c.p.rowLeaf(x.I), c.p.rowLeaf(x.J)
	from, roundKey := schedule(&c.seed, x.L)
	rowA, b, err := c.takeLayer(b, from, firstA, rl)
	if err != nil {
		return err
	}
	rowB, b, err := c.takeLayer(b, x.L-1, firstB, rl)
	if err != nil {
		return err
	}
	at := x.I*n + x.J
	result, _, err := c.takeLayer(b, x.L, at/LeafSize, 1)
	if err != nil {
		return err
	}
	rowA, rowB = rowA[x.I*n-firstA*LeafSize:][:n], rowB[x.J*n-firstB*LeafSize:][:n]
	if want := phi(uint32(dot(rowA, rowB)), uint32(x.I), uint32(x.J), roundKey); result[at%LeafSize] != want {
		return fmt.Errorf("element (%d,%d) of layer %d is %02x, its rows give %02x", x.I, x.J, x.L, result[at%LeafSize], want)
	}
	return nil
}

// PRG recomputes a leaf of layer 0 or 1.
func (c *Checker) PRG(x PRGIndex, b []byte) error {
	if err := length(b, c.p.LeafOpening()); err != nil {
		return err
	}
	data, _, err := c.takeLayer(b, x.L, x.Leaf, 1)
	if err != nil {
		return err
	}
	k0, k1 := c.seed.word(2*x.L), c.seed.word(2*x.L+1)
	for i := range LeafSize / 4 {
		if binary.LittleEndian.Uint32(data[4*i:]) != generate(uint32(x.Leaf*LeafSize/4+i), k0, k1) {
			return fmt.Errorf("word %d of leaf %d of layer %d is not the generator's", i, x.Leaf, x.L)
		}
	}
	return nil
}

// Walk recomputes one batch of one lane.
func (c *Checker) Walk(x WalkIndex, b []byte) error {
	if err := length(b, c.p.WalkOpening(x.Batch)); err != nil {
		return err
	}
	leaves, leaf, at := c.p.stateLeaves(), x.Lane*StateSize/LeafSize, x.Lane*StateSize%LeafSize
	bs := c.chain[x.Batch]
	s := firstLane(&bs, x.Lane)
	var data []byte
	var err error
	if x.Batch > 0 {
		tag := walkTag | uint32(x.Batch-1)
		if data, b, err = takeLeaves(b, leaves, tag, leaf, 1, &c.wroots[x.Batch-1]); err != nil {
			return fmt.Errorf("states of batch %d: %w", x.Batch-1, err)
		}
		s = readLane(data[at:])
		s.enter(&bs)
	}
	if data, b, err = takeLeaves(b, leaves, walkTag|uint32(x.Batch), leaf, 1, &c.wroots[x.Batch]); err != nil {
		return fmt.Errorf("states of batch %d: %w", x.Batch, err)
	}
	end := readLane(data[at:])
	base := c.p.window(&c.walkKey, x.Batch) * c.p.LayerBytes()
	for range c.p.Steps {
		if data, b, err = c.takeBlock(b, base+scaleTo(s[0], c.p.WinBlocks())*BlockSize); err != nil {
			return err
		}
		s.step(data)
	}
	if s != end {
		return fmt.Errorf("lane %d does not end batch %d where its blocks lead", x.Lane, x.Batch)
	}
	return nil
}

// Mix recomputes one cell of one round.
func (c *Checker) Mix(x MixIndex, b []byte) error {
	if err := length(b, c.p.MixOpening(x.Round)); err != nil {
		return err
	}
	var err error
	take := func(r, i int) (v cell) {
		switch {
		case err != nil:
		case r == 0:
			v = firstCell(&c.mixKey, i)
		default:
			var data []byte
			data, b, err = takeLeaves(b, c.p.cellLeaves(), mixTag|uint32(r), i*CellSize/LeafSize, 1, &c.yroots[r-1])
			if err == nil {
				v = readCell(data[i*CellSize%LeafSize:])
			}
		}
		return v
	}
	before := take(x.Round-1, x.Cell)
	j1, j2 := before.partners(c.p.Cells)
	b1, b2 := take(x.Round-1, j1), take(x.Round-1, j2)
	end := take(x.Round, x.Cell)
	if err != nil {
		return fmt.Errorf("cell %d of round %d: %w", x.Cell, x.Round, err)
	}
	v := join(&before, &b1, &b2, x.Cell, x.Round)
	var block []byte
	if c.p.readsFill(x.Round) {
		base := c.p.window(&c.mixKey, x.Round/mixEvery-1) * c.p.LayerBytes()
		if block, _, err = c.takeBlock(b, base+scaleTo(v[0], c.p.WinBlocks())*BlockSize); err != nil {
			return err
		}
	}
	v.absorb(block)
	if v != end {
		return fmt.Errorf("cell %d of round %d is not what its partners give", x.Cell, x.Round)
	}
	return nil
}

// Block returns block i of the fill out of the opening of its leaf.
func (c *Checker) Block(i uint64, b []byte) ([]byte, error) {
	if err := length(b, c.p.LeafOpening()); err != nil {
		return nil, err
	}
	block, _, err := c.takeBlock(b, int(i)*BlockSize)
	return block, err
}
