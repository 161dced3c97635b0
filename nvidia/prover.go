package nvidia

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"basilica/attest"
)

// Product is a kernel that makes layer l >= 2 of the fill, with the arguments (buf, u32 l, u32 pi, u32 rk, u32 n). A block of
// Threads makes a tile of Rows x Columns elements, so both divide n. The grid is (n/Columns, n/Rows), or (Blocks, 1) at most where
// Blocks is not 0: then the blocks share out the tiles among them.
type Product struct {
	Kernel        string
	Rows, Columns uint32
	Threads       uint32
	Shared        uint32 // of Launch
	Blocks        uint32
}

// fits says whether the kernel makes layers of n x n.
func (k Product) fits(n int) bool { return n%int(k.Rows) == 0 && n%int(k.Columns) == 0 }

// launch is that of layer l.
func (k Product) launch(buf Memory, l, from, roundKey, n uint32) Launch {
	grid := [2]uint32{n / k.Columns, n / k.Rows}
	if k.Blocks > 0 {
		grid = [2]uint32{min(k.Blocks, grid[0]*grid[1]), 1}
	}
	return Launch{Kernel: k.Kernel, Grid: grid, Block: [2]uint32{k.Threads, 1}, Shared: k.Shared, Args: []any{buf, l, from, roundKey, n}}
}

// hashLayers is how many layers are committed to at once: enough to keep the card busy, few enough for their digests to fit into
// memory that the mix needs later anyway.
const hashLayers = 256

// linkSpace is what the digest that a batch of the walk begins with takes on the device, with its alignment.
const linkSpace = 256

// Prover does the work of GPOW1 on one Device (gpu-proof.md sections 3, 6, 7 and 15.2), with the methods and the order of
// attest.CPU. It keeps the fill and one working area on the device: states, cells and the digests of every tree take turns in
// the latter. Trees are not kept: those of opened layers are hashed again, states and cells are made again by replays.
type Prover struct {
	dev      Device
	products []Product
	now      func() time.Time

	p          attest.Params
	held       attest.Params // whose memory was taken: p's, or more
	seed       attest.Digest
	product    Product
	fill, work Memory // 0: not taken
	roots      []attest.Node
	walkKey    attest.Digest
	wroots     []attest.Node
	mixKey     attest.Digest
	crowns     []attest.Crown // of the cells of rounds 1 .. Rounds
	spent      Spent
}

// Spent says where the time of a fill went, by this machine's clock.
type Spent struct{ Products, Hash time.Duration }

// NewProver makes a prover. products are those that the device's module holds, the fastest first.
func NewProver(dev Device, products []Product, now func() time.Time) *Prover {
	return &Prover{dev: dev, products: products, now: now}
}

// Spent tells of the last fill.
func (g *Prover) Spent() Spent { return g.spent }

// Product is the kernel that made the layers of the last fill.
func (g *Prover) Product() string { return g.product.Kernel }

// Prepare takes the memory that a fill of these sizes will need. A driver may have to clear it first, of what another process left
// there: that is not to be waited for while a validator's clock runs.
func (g *Prover) Prepare(p attest.Params) error {
	if err := p.Check(); err != nil {
		return err
	}
	return g.take(p)
}

// Fill makes the fill from its seed and returns the root of every layer. Memory that was prepared, or taken by the fill before, is used
// where it suffices.
func (g *Prover) Fill(ctx context.Context, p attest.Params, seed attest.Digest) ([]attest.Node, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(g.products, func(k Product) bool { return k.fits(p.N) })
	if i < 0 {
		return nil, fmt.Errorf("%w: no kernel makes products of n = %d", attest.ErrParams, p.N)
	}
	if err := g.take(p); err != nil {
		return nil, err
	}
	g.seed, g.product, g.spent = seed, g.products[i], Spent{}
	perLayer := p.Leaves(0)
	step := int(min(hashLayers, p.WorkBytes()/uint64(2*attest.NodeSize*perLayer)))
	roots := make([]attest.Node, 0, p.Layers)
	for first := 0; first < p.Layers; first += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		count, began := min(step, p.Layers-first), g.now()
		for l := first; l < first+count; l++ {
			if err := g.layer(l); err != nil {
				return nil, err
			}
		}
		if err := g.dev.Sync(); err != nil {
			return nil, err
		}
		made := g.now()
		some, err := g.hash(g.at(first), count, uint32(first), g.work).read(g, 1)
		if err != nil {
			return nil, err
		}
		roots = append(roots, some...)
		g.spent.Products += made.Sub(began)
		g.spent.Hash += g.now().Sub(made)
	}
	g.roots = roots
	return roots, nil
}

// take takes the memory of a fill, and forgets the fill before.
func (g *Prover) take(p attest.Params) (err error) {
	if g.fill != 0 && g.work != 0 && p.FillBytes() <= g.held.FillBytes() && p.WorkBytes() <= g.held.WorkBytes() {
		*g = Prover{dev: g.dev, products: g.products, now: g.now, p: p, held: g.held, fill: g.fill, work: g.work}
		return nil
	}
	g.Release()
	g.p, g.held = p, p
	if g.fill, err = g.dev.Alloc(p.FillBytes()); err != nil {
		return err
	}
	g.work, err = g.dev.Alloc(p.WorkBytes())
	return err
}

// at is where layer l lies.
func (g *Prover) at(l int) Memory { return g.fill + Memory(uint64(l)*uint64(g.p.LayerBytes())) }

// layer queues the making of one layer.
func (g *Prover) layer(l int) error {
	if l < 2 {
		return g.generate(g.at(l), uint64(g.p.LayerBytes()), g.seed.Word(2*l), g.seed.Word(2*l+1))
	}
	from, roundKey := attest.Schedule(g.seed, l)
	return g.dev.Launch(g.product.launch(g.fill, uint32(l), uint32(from), roundKey, uint32(g.p.N)))
}

// generate queues the generator over bytes of the device.
func (g *Prover) generate(to Memory, bytes uint64, k0, k1 uint32) error {
	words := bytes / 4
	return g.dev.Launch(Launch{
		Kernel: "prg_layer", Grid: [2]uint32{uint32(min((words+255)/256, 1<<14)), 1}, Block: [2]uint32{256, 1},
		Args: []any{to, words, k0, k1},
	})
}

// trees are the levels of equal trees that lie one behind the other on the device: all leaves' digests, then all nodes of the
// next level, and so on up to the roots.
type trees struct {
	at            Memory
	count, leaves int
	err           error // of the launches
}

// hash queues the trees over count trees' leaves from base on, tagged tag, tag+1 …, with their levels from scratch on. They take
// 48 bytes a leaf.
func (g *Prover) hash(base Memory, count int, tag uint32, scratch Memory) trees {
	t := trees{at: scratch, count: count, leaves: g.p.Leaves(tag)}
	all := uint32(count * t.leaves)
	t.err = g.dev.Launch(Launch{
		Kernel: "leaf_hash", Grid: [2]uint32{(all + 127) / 128, 1}, Block: [2]uint32{128, 1},
		Args: []any{base, all, uint32(bits.Len(uint(t.leaves)) - 1), tag, scratch},
	})
	for nodes := t.leaves; nodes > 1 && t.err == nil; nodes /= 2 {
		pairs := uint32(count * nodes / 2)
		t.err = g.dev.Launch(Launch{
			Kernel: "node_hash", Grid: [2]uint32{(pairs + 127) / 128, 1}, Block: [2]uint32{128, 1},
			Args: []any{t.level(nodes), t.level(nodes / 2), pairs},
		})
	}
	return t
}

// level is where the level with so many nodes a tree lies.
func (t trees) level(nodes int) Memory {
	at := t.at
	for n := t.leaves; n > nodes; n /= 2 {
		at += Memory(t.count * n * attest.NodeSize)
	}
	return at
}

// read waits for the level with so many nodes a tree and gives it.
func (t trees) read(g *Prover, nodes int) ([]attest.Node, error) {
	if t.err != nil {
		return nil, t.err
	}
	b := make([]byte, t.count*nodes*attest.NodeSize)
	if err := g.dev.Read(b, t.level(nodes)); err != nil {
		return nil, err
	}
	out := make([]attest.Node, t.count*nodes)
	for i := range out {
		out[i] = attest.Node(b[i*attest.NodeSize:])
	}
	return out, nil
}

// crown hashes the one tree with that tag and gives its upper part.
func (g *Prover) crown(base Memory, tag uint32, scratch Memory) (attest.Crown, error) {
	leaves := g.p.Leaves(tag)
	level, err := g.hash(base, 1, tag, scratch).read(g, attest.CrownNodes(leaves))
	if err != nil {
		return attest.Crown{}, err
	}
	return attest.NewCrown(tag, leaves, level)
}

// The walk's part of the working area: states, the batch's link, digests.
func (g *Prover) linkAt() Memory      { return g.work + Memory(g.p.Lanes*attest.StateSize) }
func (g *Prover) walkDigests() Memory { return g.linkAt() + linkSpace }

// batch queues batch b of the walk.
func (g *Prover) batch(b int, bs attest.Digest) error {
	if err := g.dev.Write(g.linkAt(), bs[:]); err != nil {
		return err
	}
	first := uint32(0)
	if b == 0 {
		first = 1
	}
	return g.dev.Launch(Launch{
		Kernel: "walk", Grid: [2]uint32{uint32(g.p.Lanes / 16), 1}, Block: [2]uint32{128, 1},
		Args: []any{
			g.fill, g.windowAt(g.walkKey, b), uint32(g.p.WinBlocks()), g.work, uint32(g.p.Lanes), uint32(g.p.Steps), g.linkAt(), first,
		},
	})
}

func (g *Prover) windowAt(key attest.Digest, b int) uint64 {
	return uint64(g.p.Window(key, b)) * uint64(g.p.LayerBytes())
}

// Walk runs the whole walk under its key and returns the root of every batch's states. A batch begins with the root of the one
// before, so the host waits for each.
func (g *Prover) Walk(ctx context.Context, key attest.Digest) ([]attest.Node, error) {
	if g.roots == nil {
		return nil, attest.ErrOrder
	}
	g.walkKey = key
	bs := attest.FirstLink(attest.Final(g.seed, g.roots), key)
	roots := make([]attest.Node, 0, g.p.Batches)
	for b := range g.p.Batches {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := g.batch(b, bs); err != nil {
			return nil, err
		}
		root, err := g.hash(g.work, 1, attest.StateTag(b), g.walkDigests()).read(g, 1)
		if err != nil {
			return nil, err
		}
		roots = append(roots, root[0])
		bs = attest.NextLink(bs, root[0])
	}
	g.wroots = roots
	return roots, nil
}

// cells is where the cells of round r lie: two arrays take turns. The array of round r-1 is dead once round r is made, so the
// digests of round r's tree go there.
func (g *Prover) cells(r int) Memory {
	return g.work + Memory(r%2*g.p.Cells*attest.CellSize)
}

// round queues round r of the mix, 0 being the generated cells.
func (g *Prover) round(r int) error {
	if r == 0 {
		return g.generate(g.cells(0), uint64(g.p.Cells*attest.CellSize), g.mixKey.Word(0), g.mixKey.Word(1))
	}
	window, blocks := uint64(0), uint32(0)
	if g.p.ReadsFill(r) {
		window, blocks = g.windowAt(g.mixKey, r/4-1), uint32(g.p.WinBlocks())
	}
	return g.dev.Launch(Launch{
		Kernel: "mix", Grid: [2]uint32{uint32(g.p.Cells / 16), 1}, Block: [2]uint32{128, 1},
		Args: []any{g.fill, window, blocks, g.cells(r - 1), g.cells(r), uint32(g.p.Cells), uint32(r)},
	})
}

// Mix runs all rounds of the mix under its key, queued one behind the other, and returns the root of the last one.
func (g *Prover) Mix(ctx context.Context, key attest.Digest) (last attest.Node, err error) {
	if g.wroots == nil {
		return last, attest.ErrOrder
	}
	g.mixKey, g.crowns = key, nil
	for r := range g.p.Rounds + 1 {
		if err := g.round(r); err != nil {
			return last, err
		}
	}
	root, err := g.hash(g.cells(g.p.Rounds), 1, attest.CellTag(g.p.Rounds), g.cells(g.p.Rounds-1)).read(g, 1)
	if err != nil {
		return last, err
	}
	return root[0], ctx.Err()
}

// Trace replays the mix, keeps the crown of every round for Open and returns the roots of rounds 1 .. Rounds-1.
func (g *Prover) Trace(ctx context.Context) ([]attest.Node, error) {
	if g.wroots == nil {
		return nil, attest.ErrOrder
	}
	g.crowns = nil
	crowns, roots := make([]attest.Crown, 0, g.p.Rounds), make([]attest.Node, 0, g.p.Rounds-1)
	err := g.replay(ctx, func(r int) error {
		c, err := g.crown(g.cells(r), attest.CellTag(r), g.cells(r-1))
		if err != nil {
			return err
		}
		if crowns = append(crowns, c); r < g.p.Rounds {
			roots = append(roots, c.Root())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	g.crowns = crowns
	return roots, nil
}

// replay runs the mix and calls visit after every round from 1 on.
func (g *Prover) replay(ctx context.Context, visit func(r int) error) error {
	for r := range g.p.Rounds + 1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := g.round(r); err != nil {
			return err
		}
		if r == 0 {
			continue
		}
		if err := visit(r); err != nil {
			return err
		}
	}
	return nil
}

// Block returns block number i of the fill, for a PING.
func (g *Prover) Block(_ context.Context, i uint64) ([]byte, error) {
	if g.roots == nil || i >= g.p.Blocks() {
		return nil, attest.ErrOrder
	}
	return g.block(i)
}

func (g *Prover) block(i uint64) ([]byte, error) {
	b := make([]byte, attest.BlockSize)
	return b, g.dev.Read(b, g.fill+Memory(i*attest.BlockSize))
}

// Release gives the device's memory back. Memory that the driver does not take back goes with the context.
func (g *Prover) Release() {
	for _, m := range [...]Memory{g.fill, g.work} {
		if m != 0 {
			_ = g.dev.Free(m)
		}
	}
	*g = Prover{dev: g.dev, products: g.products, now: g.now}
}
