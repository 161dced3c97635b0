package nvidia

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

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

// below reads the leaves that hang with one on the same node of its tree's crown; the tree is over the bytes from base on.
func (g *Prover) below(leaf int, crown attest.Crown, base Memory) ([]byte, error) {
	under := crown.Below(leaf)
	data := make([]byte, under.Count*attest.LeafSize)
	return data, g.dev.Read(data, base+Memory(under.First*attest.LeafSize))
}

// opener writes pieces on the other processors while the device goes on, for the lower part of a tree is hashed here: 2,048 leaves
// of an H200's cells. No more pieces are held at a time than there are processors.
type opener struct {
	g     *Prover
	group errgroup.Group
}

func newOpener(g *Prover) *opener {
	w := &opener{g: g}
	w.group.SetLimit(runtime.GOMAXPROCS(0))
	return w
}

// open writes one piece from the leaves below its node.
func (w *opener) open(x part, crown attest.Crown, data []byte) {
	w.group.Go(func() error {
		crown.Open(x.to[:0], x.piece, data)
		return nil
	})
}

// write reads one piece's leaves of the tree with that crown over the bytes from base on, and writes it.
func (w *opener) write(x part, crown attest.Crown, base Memory) error {
	data, err := w.g.below(x.piece.First, crown, base)
	if err != nil {
		return err
	}
	w.open(x, crown, data)
	return nil
}

// Open opens what the validator asked for. The indices were checked against the parameters (attest.Prover does so). Walk and mix
// are replayed; leaves of the fill come last, layer by layer, when the working area is free for their trees.
func (g *Prover) Open(ctx context.Context, q attest.OpenRequest) (o attest.Opened, err error) {
	if g.crowns == nil {
		return o, attest.ErrOrder
	}
	w := newOpener(g)
	defer func() { err = errors.Join(err, w.group.Wait()) }()
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
	if o.Walk, some, err = w.openWalk(ctx, q.Walk); err != nil {
		return attest.Opened{}, fmt.Errorf("open walk: %w", err)
	}
	layers = append(layers, some...)
	if o.Mix, some, err = w.openMix(ctx, q.Mix); err != nil {
		return attest.Opened{}, fmt.Errorf("open mix: %w", err)
	}
	if err := w.openLayers(ctx, append(layers, some...)); err != nil {
		return attest.Opened{}, fmt.Errorf("open layers: %w", err)
	}
	return o, nil
}

// openLayers hashes every layer that is touched once.
func (w *opener) openLayers(ctx context.Context, parts []part) error {
	g := w.g
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
		if err := w.write(x, crown, g.at(int(l))); err != nil {
			return err
		}
	}
	return nil
}

// openWalk replays the walk. Only the states around the batches asked for are hashed again; a batch overwrites the states of the one
// before, so what is opened of those is read first.
func (w *opener) openWalk(ctx context.Context, items []attest.WalkIndex) (out [][]byte, layers []part, err error) {
	g := w.g
	byBatch := map[int][]int{}
	last := -1
	for k, x := range items {
		byBatch[x.Batch] = append(byBatch[x.Batch], k)
		last = max(last, x.Batch)
	}
	out = make([][]byte, len(items))
	bs := attest.FirstLink(attest.Final(g.seed, g.roots), g.walkKey)
	var crown attest.Crown // of the states before the batch, where any of them is opened
	for b := range last + 1 {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		before := make([][]byte, len(byBatch[b])) // the leaves around the lane's state
		for i, k := range byBatch[b] {
			if b == 0 {
				continue
			}
			if before[i], err = g.below(stateLeaf(items[k].Lane), crown, g.work); err != nil {
				return nil, nil, err
			}
		}
		if err := g.batch(b, bs); err != nil {
			return nil, nil, err
		}
		earlier := crown
		if len(byBatch[b]) > 0 || len(byBatch[b+1]) > 0 {
			if crown, err = g.crown(g.work, attest.StateTag(b), g.walkDigests()); err != nil {
				return nil, nil, err
			}
		}
		for i, k := range byBatch[b] {
			var state []byte
			if b > 0 {
				at := items[k].Lane*attest.StateSize - earlier.Below(stateLeaf(items[k].Lane)).First*attest.LeafSize
				state = before[i][at : at+attest.StateSize]
			}
			pieces, err := g.p.WalkPieces(g.walkKey, bs, items[k], state, g.block)
			if err != nil {
				return nil, nil, err
			}
			opening, parts := g.lay(pieces)
			if b > 0 {
				w.open(parts[0], earlier, before[i])
				parts = parts[1:]
			}
			if err := w.write(parts[0], crown, g.work); err != nil {
				return nil, nil, err
			}
			out[k], layers = opening, append(layers, parts[1:]...)
		}
		bs = attest.NextLink(bs, g.wroots[b])
	}
	return out, layers, nil
}

// stateLeaf is the leaf that holds a lane's state.
func stateLeaf(lane int) int { return lane * attest.StateSize / attest.LeafSize }

// openMix replays the mix. After a round the cells before it are still there; their trees are known from Trace.
func (w *opener) openMix(ctx context.Context, items []attest.MixIndex) (out [][]byte, layers []part, err error) {
	g := w.g
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
					err = w.write(x, g.crowns[r-2], g.cells(r-1))
				case attest.CellTag(r):
					err = w.write(x, g.crowns[r-1], g.cells(r))
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
