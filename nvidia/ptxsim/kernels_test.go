package ptxsim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"

	"basilica/attest"
	"basilica/nvidia"
	"basilica/nvidia/kernels"
	"basilica/nvidia/ptxsim"
)

var limits = ptxsim.Limits{Memory: 64 << 20, Steps: 1 << 28}

// product is a kernel that makes layers: a block of threads a tile of rows x columns, or a grid of so many blocks.
type product struct {
	kernel                 string
	rows, columns, threads uint32
	shared                 uint32
	blocks                 uint32
}

func (k product) launch(buf nvidia.Memory, l, from, roundKey, n uint32) nvidia.Launch {
	grid := [2]uint32{n / k.columns, n / k.rows}
	if k.blocks > 0 {
		grid = [2]uint32{k.blocks, 1}
	}
	return nvidia.Launch{Kernel: k.kernel, Grid: grid, Block: [2]uint32{k.threads, 1}, Shared: k.shared, Args: []any{buf, l, from, roundKey, n}}
}

var (
	dp4a  = product{"gemm_dp4a", 16, 16, 256, 0, 0}
	mma   = product{"gemm_mma", 128, 128, 256, 0, 0}
	wgmma = product{"gemm_wgmma", 128, 256, 384, 230464, 1} // one block makes all tiles
	wide  = product{"gemm_wgmma", 128, 256, 384, 230464, 3}
)

func shape(n int) attest.Params {
	return attest.Params{N: n, Layers: 4, Lanes: 64, Steps: 12, Batches: 3, WinLayers: 2, Cells: 64, Rounds: 8}
}

// seedOf makes 32 bytes that differ for every test.
func seedOf(what string, i int) attest.Digest { return sha256.Sum256(fmt.Append(nil, what, i)) }

// TestKernels holds what clang made of kernels.cu against the reference prover, all bytes: layers, digests of leaves and nodes, roots,
// the states after every batch and the cells after every round. BASILICA_KERNELS=long runs more shapes with more seeds.
func TestKernels(t *testing.T) {
	t.Parallel()
	long := os.Getenv("BASILICA_KERNELS") == "long"
	for _, c := range []struct {
		module  kernels.Module
		product product
		n       int
		seeds   int
	}{
		{kernels.Oldest(), dp4a, 32, 1}, // the smallest that the protocol has
		{kernels.Oldest(), dp4a, 64, 3},
		{kernels.Oldest(), dp4a, 128, 1},
		{kernels.TensorCores(), dp4a, 64, 1},
		{kernels.TensorCores(), mma, 128, 3},
		{kernels.TensorCores(), mma, 256, 1},
		{kernels.Hopper(), mma, 128, 1},
		{kernels.Hopper(), wgmma, 256, 3},
		{kernels.Hopper(), wide, 256, 1},
	} {
		if long {
			c.seeds = 10
			if c.product == wide {
				c.n = 512
			}
		}
		m, err := ptxsim.Parse(c.module.PTX)
		if err != nil {
			t.Fatal(err)
		}
		for s := range c.seeds {
			p := shape(c.n)
			if long {
				p.Layers, p.WinLayers, p.Lanes, p.Cells, p.Rounds = 7, 3, 256, 256, 16
			}
			if err := compare(m, c.product, p, seedOf("kernels", s)); err != nil {
				t.Errorf("%s, %s, n = %d, seed %d: %v", c.module.Name, c.product.kernel, c.n, s, err)
			}
		}
	}
}

// compare runs fill, walk and mix on both, and says what differs first.
func compare(m *ptxsim.Module, k product, p attest.Params, seed attest.Digest) error {
	c := &card{Device: ptxsim.New(m, limits), p: p, product: k, seed: seed, cpu: attest.NewCPU(attest.Serial)}
	for _, step := range []func() error{c.fill, c.walk, c.mix} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// card runs the kernels one by one, with what section 3 of gpu-proof.md says of schedules and links worked out here again.
type card struct {
	nvidia.Device
	p       attest.Params
	product product
	seed    attest.Digest
	cpu     *attest.CPU
	layers  nvidia.Memory
	roots   []attest.Node
}

func hash(parts ...any) (d attest.Digest) {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = append(b, v...)
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case []byte:
			b = append(b, v...)
		}
	}
	return sha256.Sum256(b)
}

func word(d attest.Digest, i int) uint32 { return binary.LittleEndian.Uint32(d[4*i:]) }

func modulo(d attest.Digest, n int) int {
	return int(binary.LittleEndian.Uint64(d[:8]) % uint64(n))
}

// window is the byte at which window b begins under a key.
func (c *card) window(key attest.Digest, b int) uint64 {
	nw := (c.p.Layers + c.p.WinLayers - 1) / c.p.WinLayers
	perm := make([]int, nw)
	for i := range perm {
		perm[i] = i
	}
	for i := nw - 1; i > 0; i-- {
		j := modulo(hash("BSLWIN\x00\x00", key[:], uint32(b/nw), uint32(i)), i+1)
		perm[i], perm[j] = perm[j], perm[i]
	}
	return uint64(min(perm[b%nw]*c.p.WinLayers, c.p.Layers-c.p.WinLayers) * c.p.N * c.p.N)
}

func (c *card) launch(kernel string, blocks, rows, threads int, args ...any) error {
	return c.Launch(nvidia.Launch{Kernel: kernel, Grid: [2]uint32{uint32(blocks), uint32(rows)}, Block: [2]uint32{uint32(threads), 1}, Args: args})
}

func (c *card) alloc(bytes int) nvidia.Memory {
	at, err := c.Alloc(uint64(bytes))
	if err != nil {
		panic(err) // of the test's own sizes
	}
	return at
}

func (c *card) read(at nvidia.Memory, bytes int) ([]byte, error) {
	b := make([]byte, bytes)
	return b, c.Read(b, at)
}

func (c *card) fill() error {
	ctx, p := context.Background(), c.p
	n, n2 := p.N, p.N*p.N
	var err error
	if c.roots, err = c.cpu.Fill(ctx, p, c.seed); err != nil {
		return err
	}
	c.layers = c.alloc(p.Layers * n2)
	for l := range p.Layers {
		if l < 2 {
			err = c.launch("prg_layer", 3, 1, 64, c.layers+nvidia.Memory(l*n2), uint64(n2/4), word(c.seed, 2*l), word(c.seed, 2*l+1))
		} else {
			h := hash("BSLSCHED", c.seed[:], uint32(l))
			err = c.Launch(c.product.launch(c.layers, uint32(l), uint32(modulo(h, l-1)), word(h, 2), uint32(n)))
		}
		if err != nil {
			return err
		}
		got, err := c.read(c.layers+nvidia.Memory(l*n2), n2)
		if err != nil {
			return err
		}
		want := make([]byte, 0, n2)
		for i := range n2 / attest.BlockSize {
			b, err := c.cpu.Block(ctx, uint64(l*n2/attest.BlockSize+i))
			if err != nil {
				return err
			}
			want = append(want, b...)
		}
		if i := differ(got, want); i >= 0 {
			return fmt.Errorf("layer %d: element (%d,%d) is %#02x, not %#02x", l, i/n, i%n, got[i], want[i])
		}
	}
	return c.trees("layer", c.layers, 0, c.roots)
}

// differ is the first place where two slices of one length differ, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// trees hashes the bytes at base, a tree for each of the roots, tagged tag, tag+1 ..., and compares every digest.
func (c *card) trees(what string, base nvidia.Memory, tag uint32, roots []attest.Node) error {
	leaves := c.p.N * c.p.N / attest.LeafSize
	switch {
	case tag>>31 != 0:
		leaves = c.p.Lanes * attest.StateSize / attest.LeafSize
	case tag>>30 != 0:
		leaves = c.p.Cells * attest.CellSize / attest.LeafSize
	}
	all := leaves * len(roots)
	in, out := c.alloc(all*attest.NodeSize), c.alloc(all*attest.NodeSize)
	defer func() { _, _ = c.Free(in), c.Free(out) }()
	if err := c.launch("leaf_hash", (all+127)/128, 1, 128, base, uint32(all), uint32(bits.Len(uint(leaves))-1), tag, in); err != nil {
		return err
	}
	data, err := c.read(base, all*attest.LeafSize)
	if err != nil {
		return err
	}
	var want []byte
	for i := range all {
		d := hash(data[i*attest.LeafSize:(i+1)*attest.LeafSize], "BSLF", tag+uint32(i/leaves), uint32(i%leaves), uint32(0))
		want = append(want, d[:attest.NodeSize]...)
	}
	for level := leaves; ; level /= 2 {
		got, err := c.read(in, len(want))
		if err != nil {
			return err
		}
		if i := differ(got, want); i >= 0 {
			return fmt.Errorf("%s: digest %d of the level of %d nodes a tree differs", what, i/attest.NodeSize, level)
		}
		if level == 1 {
			break
		}
		if err := c.launch("node_hash", (len(want)/48+127)/128, 1, 128, in, out, uint32(len(want)/48)); err != nil {
			return err
		}
		in, out = out, in
		var up []byte
		for ; len(want) > 0; want = want[48:] {
			d := hash(want[:48])
			up = append(up, d[:attest.NodeSize]...)
		}
		want = up
	}
	for i, r := range roots {
		if !bytes.Equal(r[:], want[i*attest.NodeSize:(i+1)*attest.NodeSize]) {
			return fmt.Errorf("%s: root %d differs", what, i)
		}
	}
	return nil
}

func (c *card) walk() error {
	p, key := c.p, seedOf("walk", int(c.seed[0]))
	roots, err := c.cpu.Walk(context.Background(), key)
	if err != nil {
		return err
	}
	states, link := c.alloc(p.Lanes*attest.StateSize), c.alloc(32)
	final := attest.Final(c.seed, c.roots)
	bs, first := hash("BSLCHAIN", final[:], key[:]), uint32(1)
	for b := range p.Batches {
		if err := c.Write(link, bs[:]); err != nil {
			return err
		}
		err := c.launch("walk", p.Lanes/16, 1, 128, c.layers, c.window(key, b), uint32(p.WinBlocks()), states, uint32(p.Lanes), uint32(p.Steps), link, first)
		if err != nil {
			return err
		}
		if err := c.trees(fmt.Sprintf("walk, batch %d", b), states, 0x80000000|uint32(b), roots[b:b+1]); err != nil {
			return err
		}
		bs, first = hash("BSLCHAIN", bs[:], roots[b][:]), 0
	}
	return nil
}

func (c *card) mix() error {
	ctx, p, key := context.Background(), c.p, seedOf("mix", int(c.seed[0]))
	last, err := c.cpu.Mix(ctx, key)
	if err != nil {
		return err
	}
	roots, err := c.cpu.Trace(ctx)
	if err != nil {
		return err
	}
	roots = append(roots, last)
	size := p.Cells * attest.CellSize
	in, out := c.alloc(size), c.alloc(size)
	if err := c.launch("prg_layer", 2, 1, 256, in, uint64(size/4), word(key, 0), word(key, 1)); err != nil {
		return err
	}
	for r := 1; r <= p.Rounds; r++ {
		window, blocks := uint64(0), uint32(0)
		if r%4 == 0 {
			window, blocks = c.window(key, r/4-1), uint32(p.WinBlocks())
		}
		if err := c.launch("mix", p.Cells/16, 1, 128, c.layers, window, blocks, in, out, uint32(p.Cells), uint32(r)); err != nil {
			return err
		}
		if err := c.trees(fmt.Sprintf("mix, round %d", r), out, 0x40000000|uint32(r), roots[r-1:r]); err != nil {
			return err
		}
		in, out = out, in
	}
	return nil
}

// work makes one layer, of nothing in particular.
func work(m *ptxsim.Module, k product, n int) error {
	d := ptxsim.New(m, limits)
	buf, err := d.Alloc(uint64(3 * n * n))
	if err != nil {
		return err
	}
	data := make([]byte, 2*n*n)
	for i := range data {
		data[i] = byte(i * 37 >> 3)
	}
	if err := d.Write(buf, data); err != nil {
		return err
	}
	return d.Launch(k.launch(buf, 2, 0, 1, uint32(n)))
}

// TestKernelsChanged shows that TestKernels would fail: a constant that is changed in any kernel, a barrier that is taken out, a wait
// for fewer copies or products, a fence or an arrival that is missing.
func TestKernelsChanged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kernel  string
		product product
		n       int
		change  string
		to      string
		least   int // how many there are at least
	}{
		{"prg_layer", dp4a, 64, "-1640531535", "-1640531533", 1},
		{"gemm_dp4a", dp4a, 64, "668265263", "668265261", 1},
		{"gemm_dp4a", dp4a, 64, "bar.sync 0;", "", 2},
		{"gemm_mma", mma, 128, "668265263", "668265261", 1},
		{"gemm_mma", mma, 256, "bar.sync 0;", "", 3},
		{"gemm_mma", mma, 256, "cp.async.wait_group 1;", "cp.async.wait_group 2;", 1},
		{"gemm_wgmma", wgmma, 256, "668265263", "668265261", 1},
		{"gemm_wgmma", wide, 512, "bar.sync 0;", "", 1},
		{"gemm_wgmma", wide, 512, "cp.async.wait_group 1;", "cp.async.wait_group 2;", 1},
		{"gemm_wgmma", wide, 512, "fence.proxy.async.shared::cta;", "", 2},
		{"gemm_wgmma", wide, 512, "wgmma.fence.sync.aligned;", "", 1},
		{"gemm_wgmma", wide, 512, "wgmma.wait_group.sync.aligned 1;", "wgmma.wait_group.sync.aligned 2;", 1},
		{"gemm_wgmma", wgmma, 256, "wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;", 1},
		{"gemm_wgmma", wide, 512, "@p mbarrier.arrive.shared.b64 state", "setp.eq.u32 p, 1, 0; @p mbarrier.arrive.shared.b64 state", 4},
		{"gemm_wgmma", wgmma, 256, "add.s64 a2, %rd40, 4;", "add.s64 a2, %rd40, 2;", 1},
		{"leaf_hash", dp4a, 64, "1116352408", "1116352409", 1}, // SHA-256's first constant
		{"node_hash", dp4a, 64, "-1866530822", "-1866530821", 1},
		{"walk", dp4a, 64, "-1028477379", "-1028477377", 1},
		{"mix", dp4a, 64, "-1028477379", "-1028477377", 1},
	} {
		ptx := kernels.TensorCores().PTX
		if c.product.kernel == wgmma.kernel {
			ptx = kernels.Hopper().PTX
		}
		from := strings.Index(ptx, ".entry "+c.kernel+"(")
		if from < 0 {
			t.Fatalf("no kernel %s", c.kernel)
		}
		body := ptx[from:]
		if end := strings.Index(body[1:], ".entry "); end >= 0 {
			body = body[:end]
		}
		found := strings.Count(body, c.change)
		if found < c.least {
			t.Errorf("%s: %q stands there %d times", c.kernel, c.change, found)
			continue
		}
		if c.to != "" && !strings.Contains(c.change, "mbarrier") {
			found = 1
		}
		for i := range found {
			at := from
			for range i {
				at += strings.Index(ptx[at:], c.change) + len(c.change)
			}
			at += strings.Index(ptx[at:], c.change)
			m, err := ptxsim.Parse(ptx[:at] + c.to + ptx[at+len(c.change):])
			if err != nil {
				t.Fatalf("%s: %q number %d changed: %v", c.kernel, c.change, i, err)
			}
			if c.product == wide { // more parts than shared memory holds, which no reference works out here
				if err := work(m, c.product, c.n); !errors.Is(err, ptxsim.ErrFault) {
					t.Errorf("%s: %q number %d changed to %q, and the interpreter says %v", c.kernel, c.change, i, c.to, err)
				}
			} else if err := compare(m, c.product, shape(c.n), seedOf("changed", i)); err == nil {
				t.Errorf("%s: %q number %d changed to %q, and all bytes are the same", c.kernel, c.change, i, c.to)
			}
		}
	}
}
