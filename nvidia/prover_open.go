package nvidia

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"basilica/attest"
)

// part is a piece of an opening that is not written yet, and its place there.
type part struct {
	piece attest.Piece
	to    []byte
}

// lay makes room for an opening and gives every piece its place.
func (g *Prover) lay(pieces []attest.Piece) (opening []byte, parts []part) {
	size := 0
	for _, x := range pieces {
		size += g.p.PieceSize(x)
	}
	opening = make([]byte, size)
	for rest := opening; len(pieces) > 0; pieces = pieces[1:] {
		n := g.p.PieceSize(pieces[0])
		parts = append(parts, part{pieces[0], rest[:n:n]})
		rest = rest[n:]
	}
	return opening, parts
}

// write writes one piece, of the tree with that crown over the bytes from base on.
func (g *Prover) write(x part, crown attest.Crown, base Memory) error {
	under := crown.Below(x.piece.First)
	data := make([]byte, under.Count*attest.LeafSize)
	if err := g.dev.Read(data, base+Memory(under.First*attest.LeafSize)); err != nil {
		return err
	}
	crown.Open(x.to[:0], x.piece, data)
	return nil
}

// Open opens what the validator asked for. The indices were checked against the parameters (attest.Prover does so). Walk and mix
// are replayed; leaves of the fill come last, layer by layer, when the working area is free for their trees.
func (g *Prover) Open(ctx context.Context, q attest.OpenRequest) (attest.Opened, error) {
	if g.crowns == nil {
		return attest.Opened{}, attest.ErrOrder
	}
	var o attest.Opened
	var layers []part
	lay := func(pieces []attest.Piece) []byte {
		b, parts := g.lay(pieces)
		layers = append(layers, parts...)
		return b
	}
	for _, x := range q.Fill {
		o.Fill = append(o.Fill, lay(g.p.FillPieces(g.seed, x)))
	}
	for _, x := range q.PRG {
		o.PRG = append(o.PRG, lay([]attest.Piece{x.Piece()}))
	}
	for _, i := range q.Blocks {
		o.Blocks = append(o.Blocks, lay([]attest.Piece{g.p.BlockPiece(i)}))
	}
	var some []part
	var err error
	if o.Walk, some, err = g.openWalk(ctx, q.Walk); err != nil {
		return attest.Opened{}, fmt.Errorf("open walk: %w", err)
	}
	layers = append(layers, some...)
	if o.Mix, some, err = g.openMix(ctx, q.Mix); err != nil {
		return attest.Opened{}, fmt.Errorf("open mix: %w", err)
	}
	if err := g.openLayers(ctx, append(layers, some...)); err != nil {
		return attest.Opened{}, fmt.Errorf("open layers: %w", err)
	}
	return o, nil
}

// openLayers hashes every layer that is touched once.
func (g *Prover) openLayers(ctx context.Context, parts []part) error {
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.piece.Tag, b.piece.Tag) })
	var crown attest.Crown
	for i, x := range parts {
		l := x.piece.Tag
		if i == 0 || l != parts[i-1].piece.Tag {
			err := ctx.Err()
			if err == nil {
				crown, err = g.crown(g.at(int(l)), l, g.work)
			}
			if err != nil {
				return err
			}
		}
		if err := g.write(x, crown, g.at(int(l))); err != nil {
			return err
		}
	}
	return nil
}

// openWalk replays the walk. Only the states around the batches asked for are hashed again; a batch overwrites the states of the one
// before, so what is opened of those is written first.
func (g *Prover) openWalk(ctx context.Context, items []attest.WalkIndex) (out [][]byte, layers []part, err error) {
	byBatch := map[int][]int{}
	last := -1
	for k, x := range items {
		byBatch[x.Batch] = append(byBatch[x.Batch], k)
		last = max(last, x.Batch)
	}
	out = make([][]byte, len(items))
	bs := attest.FirstLink(attest.Final(g.seed, g.roots), g.walkKey)
	var crown attest.Crown
	for b := range last + 1 {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		before := make([]step, len(byBatch[b]))
		for i, k := range byBatch[b] {
			if before[i], err = g.before(b, items[k].Lane, crown); err != nil {
				return nil, nil, err
			}
		}
		if err := g.batch(b, bs); err != nil {
			return nil, nil, err
		}
		if len(byBatch[b]) > 0 || len(byBatch[b+1]) > 0 {
			if crown, err = g.crown(g.work, attest.StateTag(b), g.walkDigests()); err != nil {
				return nil, nil, err
			}
		}
		for i, k := range byBatch[b] {
			pieces, err := g.p.WalkPieces(g.walkKey, bs, items[k], before[i].state, g.block)
			if err != nil {
				return nil, nil, err
			}
			opening, parts := g.lay(pieces)
			if b > 0 {
				copy(parts[0].to, before[i].piece)
				parts = parts[1:]
			}
			if err := g.write(parts[0], crown, g.work); err != nil {
				return nil, nil, err
			}
			out[k], layers = opening, append(layers, parts[1:]...)
		}
		bs = attest.NextLink(bs, g.wroots[b])
	}
	return out, layers, nil
}

// step is where a lane stands before a batch: its state, and the piece that opens it.
type step struct{ state, piece []byte }

// before reads a lane's state in front of batch b; there is none before batch 0. crown is that of batch b-1.
func (g *Prover) before(b, lane int, crown attest.Crown) (s step, err error) {
	if b == 0 {
		return s, nil
	}
	s.state = make([]byte, attest.StateSize)
	if err := g.dev.Read(s.state, g.work+Memory(lane*attest.StateSize)); err != nil {
		return s, err
	}
	opening, parts := g.lay([]attest.Piece{{Tag: attest.StateTag(b - 1), First: lane * attest.StateSize / attest.LeafSize, Count: 1}})
	s.piece = opening
	return s, g.write(parts[0], crown, g.work)
}

// openMix replays the mix. After a round the cells before it are still there; their trees are known from Trace.
func (g *Prover) openMix(ctx context.Context, items []attest.MixIndex) (out [][]byte, layers []part, err error) {
	if len(items) == 0 {
		return nil, nil, nil
	}
	byRound := map[int][]int{}
	for k, x := range items {
		byRound[x.Round] = append(byRound[x.Round], k)
	}
	out = make([][]byte, len(items))
	err = g.replay(ctx, func(r int) error {
		for _, k := range byRound[r] {
			pieces, err := g.p.MixPieces(g.mixKey, items[k], func(i int) ([]byte, error) {
				b := make([]byte, attest.CellSize)
				return b, g.dev.Read(b, g.cells(r-1)+Memory(i*attest.CellSize))
			})
			if err != nil {
				return err
			}
			opening, parts := g.lay(pieces)
			for _, x := range parts {
				switch x.piece.Tag {
				case attest.CellTag(r - 1):
					err = g.write(x, g.crowns[r-2], g.cells(r-1))
				case attest.CellTag(r):
					err = g.write(x, g.crowns[r-1], g.cells(r))
				default:
					layers = append(layers, x)
				}
				if err != nil {
					return err
				}
			}
			out[k] = opening
		}
		return nil
	})
	return out, layers, err
}
