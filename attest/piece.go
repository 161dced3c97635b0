package attest

import (
	"fmt"
	"math/bits"
)

// This file is what a prover takes from the arithmetic that does not hold fill, states and cells in its own memory: schedule,
// windows, the chain of the walk, and what an opening is made of.

// Schedule gives the operand-A layer and the round key of layer l >= 2 (gpu-proof.md section 3.2).
func Schedule(seed Digest, l int) (layer int, roundKey uint32) { return schedule(&seed, l) }

// Window gives the first layer of window number b under a key: w_g and the batch for the walk, m_g and round/4-1 for the mix.
func (p Params) Window(key Digest, b int) int { return p.window(&key, b) }

// ReadsFill says whether round r of the mix reads a block of the fill.
func (p Params) ReadsFill(r int) bool { return p.readsFill(r) }

// Word is little-endian u32 word number i of a digest.
func (d Digest) Word(i int) uint32 { return d.word(i) }

// FirstLink is bs_0, WALK's start; NextLink is bs_{b+1} after the batch whose states have that root (section 3.4).
func FirstLink(final, walkKey Digest) Digest { return chain(final, walkKey[:]) }

// NextLink gives the digest that the batch after the one with this root begins with.
func NextLink(bs Digest, root Node) Digest { return chain(bs, root[:]) }

// StateTag is the tag of the tree over the states after a batch.
func StateTag(batch int) uint32 { return walkTag | uint32(batch) }

// CellTag is the tag of the tree over the cells of a round, from 1.
func CellTag(round int) uint32 { return mixTag | uint32(round) }

// Piece is a part of an opening: Count leaves from leaf First on of the tree with that tag, then their path. A layer's tag
// is its number.
type Piece struct {
	Tag          uint32
	First, Count int
}

// Leaves is the number of leaves of the tree with that tag.
func (p Params) Leaves(tag uint32) int {
	switch {
	case tag&walkTag != 0:
		return p.stateLeaves()
	case tag&mixTag != 0:
		return p.cellLeaves()
	}
	return p.layerLeaves()
}

// PieceSize is the exact length in bytes of a piece.
func (p Params) PieceSize(x Piece) int { return openSize(p.Leaves(x.Tag), x.Count) }

// FillPieces are the two rows and the leaf of an element's opening.
func (p Params) FillPieces(seed Digest, x FillIndex) []Piece {
	rl := p.rowLeaves()
	from, _ := schedule(&seed, x.L)
	return []Piece{
		{uint32(from), p.rowLeaf(x.I), rl},
		{uint32(x.L - 1), p.rowLeaf(x.J), rl},
		{uint32(x.L), (x.I*p.N + x.J) / LeafSize, 1},
	}
}

// Piece is the leaf of a generated layer.
func (x PRGIndex) Piece() Piece { return Piece{uint32(x.L), x.Leaf, 1} }

// BlockPiece is the leaf that holds block i of the fill.
func (p Params) BlockPiece(i uint64) Piece {
	n2 := uint64(p.LayerBytes())
	at := i * BlockSize
	return Piece{uint32(at / n2), int(at % n2 / LeafSize), 1}
}

// WalkPieces walks one lane through one batch and says what its opening is made of. bs is the batch's link, before the lane's
// 32 bytes in front of it (unused in batch 0), block reads a block of the fill.
func (p Params) WalkPieces(key, bs Digest, x WalkIndex, before []byte, block func(i uint64) ([]byte, error)) ([]Piece, error) {
	leaf := x.Lane * StateSize / LeafSize
	var out []Piece
	s := firstLane(&bs, x.Lane)
	if x.Batch > 0 {
		out = append(out, Piece{StateTag(x.Batch - 1), leaf, 1})
		s = readLane(before)
		s.enter(&bs)
	}
	out = append(out, Piece{StateTag(x.Batch), leaf, 1})
	window := p.windowBlock(&key, x.Batch)
	for range p.Steps {
		i := window + uint64(scaleTo(s[0], p.WinBlocks()))
		b, err := block(i)
		if err != nil {
			return nil, err
		}
		out = append(out, p.BlockPiece(i))
		s.step(b)
	}
	return out, nil
}

// MixPieces says what the opening of one cell of one round is made of. read gives the 128 bytes of a cell of the round before.
func (p Params) MixPieces(key Digest, x MixIndex, read func(i int) ([]byte, error)) ([]Piece, error) {
	var at [3]int
	var in [3]cell
	at[0] = x.Cell
	for k := range at {
		b, err := read(at[k])
		if err != nil {
			return nil, err
		}
		if in[k] = readCell(b); k == 0 {
			at[1], at[2] = in[0].partners(p.Cells)
		}
	}
	var out []Piece
	if x.Round > 1 {
		for _, i := range at {
			out = append(out, Piece{CellTag(x.Round - 1), i * CellSize / LeafSize, 1})
		}
	}
	out = append(out, Piece{CellTag(x.Round), x.Cell * CellSize / LeafSize, 1})
	if p.readsFill(x.Round) {
		v := join(&in[0], &in[1], &in[2], x.Cell, x.Round)
		out = append(out, p.BlockPiece(p.windowBlock(&key, x.Round/mixEvery-1)+uint64(scaleTo(v[0], p.WinBlocks()))))
	}
	return out, nil
}

// windowBlock is the first block of window number b.
func (p Params) windowBlock(key *Digest, b int) uint64 {
	return uint64(p.window(key, b)) * uint64(p.LayerBytes()) / BlockSize
}

// Crown is a Merkle tree from one of its levels up to the root: what a device keeps, or hashes again, of a tree whose lower
// part is made anew for the leaves that are opened.
type Crown struct {
	tag    uint32
	leaves int
	tree   tree
}

// CrownNodes is how many nodes the lowest level of a crown has: about as many as each of them has leaves below it.
func CrownNodes(leaves int) int { return 1 << (bits.Len(uint(leaves)) / 2) }

// NewCrown takes the level of CrownNodes nodes of the tree with that tag. Another number of them is ErrLength.
func NewCrown(tag uint32, leaves int, level []Node) (Crown, error) {
	if len(level) != CrownNodes(leaves) {
		return Crown{}, fmt.Errorf("%w: %d nodes, want %d", ErrLength, len(level), CrownNodes(leaves))
	}
	return Crown{tag, leaves, grow(level)}, nil
}

// Root is the root of the whole tree.
func (c Crown) Root() Node { return c.tree.root() }

// Below names the leaves under the node that a leaf hangs on: Count from First.
func (c Crown) Below(leaf int) Piece {
	n := c.leaves / len(c.tree[0])
	return Piece{c.tag, leaf / n * n, n}
}

// Open appends a piece. data holds the leaves Below its first one; a piece never reaches beyond them.
func (c Crown) Open(b []byte, x Piece, data []byte) []byte {
	under := c.Below(x.First)
	b = newSubtree(data, c.tag, under.First).open(b, data, x.First-under.First, x.Count)
	for i, level := under.First/under.Count, 0; level < len(c.tree)-1; level++ {
		b = append(b, c.tree[level][i^1][:]...)
		i >>= 1
	}
	return b
}
