package ptxsim

import (
	"bytes"
	"fmt"
	"slices"
)

// What compute capability 9.0 adds: barriers in shared memory that count arrivals (ISA, "mbarrier"), and products of a warpgroup, which
// read shared memory themselves, asynchronously and through another proxy than loads and stores (ISA, "Asynchronous Warpgroup Level
// Matrix Instructions").

// async is what of it belongs to the block that runs.
type async struct {
	barriers map[uint64]*phases
	phases   int         // of all barriers, ended
	owners   []uint8     // of every 16 bytes of shared memory: the warp that wrote them, plus one, until it fences its writes
	groups   []warpgroup // of the block's warpgroups, in order
}

// phases is one barrier.
type phases struct {
	count, pending int
	phase          uint64 // ended so far
}

// warpgroup is what its first warp to come there multiplied, for the others to do the same.
type warpgroup struct{ begun []begun }

type begun struct {
	line int
	a, b uint64
	add  bool
}

const chunk = 16 // bytes that swizzling moves as one

func (a *async) begin(l *launch) {
	*a = async{barriers: map[uint64]*phases{}}
	if l.kernel.wgmma {
		a.owners, a.groups = make([]uint8, (len(l.shared)+chunk-1)/chunk), make([]warpgroup, (len(l.warps)+3)/4)
	}
}

// end sees that nothing was left half done.
func (a *async) end(l *launch) error {
	for i := range l.warps {
		w := &l.warps[i]
		if len(w.products) > 0 {
			return fmt.Errorf("%w: warp %d ended with products that it did not wait for", ErrFault, i)
		}
		if len(a.groups) > 0 && w.done != len(a.groups[i/4].begun) {
			return fmt.Errorf("%w: warp %d began %d products, others of its warpgroup %d", ErrFault, i, w.done, len(a.groups[i/4].begun))
		}
	}
	return nil
}

// multiplier is a warp's part of it.
type multiplier struct {
	products  []multiplication // begun and not waited for
	committed int              // groups
	done      int              // products that were begun
	unfenced  bool             // registers were touched since the last wgmma.fence
	written   []int            // entries of owners that name this warp, some more than once
}

// multiplication is one warp's part of a product: 16 rows of A and all of B, as they were when it began.
type multiplication struct {
	in     *instruction
	group  int
	a, b   uint64
	add    bool
	before []byte
}

func (m *multiplier) begin() {
	m.products, m.committed, m.done, m.unfenced, m.written = m.products[:0], 0, 0, true, m.written[:0]
}

// async decodes what compute capability 9.0 adds.
func (in *instruction) async(ops []operand) error {
	switch in.opcode {
	case "mbarrier.init.shared.b64":
		in.run = runBarrierInit
		return in.barrierOperands(ops, "", "v")
	case "mbarrier.arrive.shared.b64":
		in.run = runBarrierArrive
		return in.barrierOperands(ops, "v", "")
	case "mbarrier.try_wait.parity.shared.b64":
		in.run = runBarrierWait
		return in.barrierOperands(ops, "v", "v")
	case "fence.proxy.async.shared::cta":
		in.run = runFenceProxy
		return in.registers(ops, "", "")
	case "wgmma.fence.sync.aligned":
		in.run = func(w *warp, _ *instruction, active uint32) error {
			w.unfenced = false
			return w.together(active, nil)
		}
		return in.registers(ops, "", "")
	case "wgmma.commit_group.sync.aligned":
		in.run = func(w *warp, _ *instruction, active uint32) error {
			w.committed++
			return w.together(active, nil)
		}
		return in.registers(ops, "", "")
	case "wgmma.wait_group.sync.aligned":
		in.run = runWaitProducts
		return in.registers(ops, "", "v")
	case "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8":
		if len(ops) != 4 || ops[0].kind != '{' || len(ops[0].parts) != 128 {
			return fmt.Errorf("%w: it takes 128 accumulators, two descriptors and a predicate", ErrSyntax)
		}
		in.run = runProduct
		for _, o := range ops[0].parts {
			if !o.dest {
				return fmt.Errorf("%w: an accumulator is no register", ErrSyntax)
			}
			in.to = append(in.to, o.row)
		}
		return in.registers(ops[1:], "", "vvv")
	}
	return ErrOpcode
}

// barrierOperands sorts operands as registers does; the address of a barrier stands between those that are written and those that are
// read, and becomes the first row that is read.
func (in *instruction) barrierOperands(ops []operand, to, from string) error {
	at := len(to)
	if len(ops) <= at || ops[at].kind != 'm' {
		return fmt.Errorf("%w: no address of a barrier", ErrSyntax)
	}
	in.offset = ops[at].offset
	if err := in.registers(slices.Delete(slices.Clone(ops), at, at+1), to, from); err != nil {
		return err
	}
	in.from = append([]int{ops[at].row}, in.from...)
	return nil
}

// findAccumulators marks the instructions that touch what a wgmma may have in work.
func (k *kernel) findAccumulators() {
	accumulators := map[int]bool{}
	for i := range k.code {
		if in := &k.code[i]; in.multiplies() {
			k.wgmma = true
			for _, r := range in.to {
				accumulators[r] = true
			}
		}
	}
	if !k.wgmma {
		return
	}
	in := func(r int) bool { return accumulators[r] }
	for i := range k.code {
		x := &k.code[i]
		x.touches = !x.multiplies() && (slices.ContainsFunc(x.to, in) || slices.ContainsFunc(x.from, in))
	}
}

func (in *instruction) multiplies() bool { return len(in.to) == 128 }

// barrier finds a barrier that was made.
func (w *warp) barrier(at uint64) (*phases, error) {
	b, ok := w.launch.barriers[at]
	if !ok {
		return nil, fmt.Errorf("%w: no barrier at %#x", ErrFault, at)
	}
	return b, nil
}

func runBarrierInit(w *warp, in *instruction, active uint32) error {
	for l := range warpSize {
		if active>>l&1 == 0 {
			continue
		}
		at, count := w.file[in.from[0]][l]&0xffffffff+in.offset, w.file[in.from[1]][l]
		if _, err := w.bytes(shared, at, 8); err != nil {
			return lane(l, err)
		}
		if _, twice := w.launch.barriers[at]; twice || count < 1 || count >= 1<<20 {
			return lane(l, fmt.Errorf("%w: a barrier at %#x for %d arrivals", ErrFault, at, count))
		}
		w.launch.barriers[at] = &phases{count: int(count), pending: int(count)}
	}
	return nil
}

func runBarrierArrive(w *warp, in *instruction, active uint32) error {
	for l := range warpSize {
		if active>>l&1 == 0 {
			continue
		}
		b, err := w.barrier(w.file[in.from[0]][l]&0xffffffff + in.offset)
		if err != nil {
			return lane(l, err)
		}
		w.file[in.to[0]][l] = b.phase
		if b.pending--; b.pending == 0 {
			b.pending = b.count
			b.phase++
			w.launch.phases++
		}
	}
	return nil
}

// runBarrierWait says whether the phase of that parity has ended, which is the one before where the one that runs has the other
// parity. Where it has not, the warp lets others go on.
func runBarrierWait(w *warp, in *instruction, active uint32) error {
	for l := range warpSize {
		if active>>l&1 == 0 {
			continue
		}
		b, err := w.barrier(w.file[in.from[0]][l]&0xffffffff + in.offset)
		if err != nil {
			return lane(l, err)
		}
		ended := b.phase&1 != w.file[in.from[1]][l]&1
		w.file[in.to[0]][l] = truth(ended)
		w.waits = w.waits || !ended
	}
	return nil
}

// wrote notes that this warp wrote shared memory by a store or a copy that it waited for.
func (w *warp) wrote(at uint64, n int) {
	owners := w.launch.owners
	if owners == nil {
		return
	}
	for i := int(at) / chunk; i <= (int(at)+n-1)/chunk; i++ {
		owners[i] = uint8(w.number + 1)
		w.written = append(w.written, i)
	}
}

// runFenceProxy lets the tensor cores see what this warp wrote before.
func runFenceProxy(w *warp, _ *instruction, active uint32) error {
	for _, i := range w.written {
		if w.launch.owners[i] == uint8(w.number+1) {
			w.launch.owners[i] = 0
		}
	}
	w.written = w.written[:0]
	return w.together(active, nil)
}

// touch sees that accumulators are left alone while a product is in work.
func (w *warp) touch(in *instruction) error {
	w.unfenced = true
	for _, m := range w.products {
		for _, r := range m.in.to {
			if slices.Contains(in.to, r) || slices.Contains(in.from, r) {
				return fmt.Errorf("%w: an accumulator of the product in line %d, which was not waited for", ErrFault, m.in.line)
			}
		}
	}
	return nil
}

// matrix reads rows of 32 bytes as a descriptor has them in shared memory (ISA, "Matrix Descriptor"): eight rows of 128 bytes and
// then a stride, with bits 4 to 6 of every address changed by bits 7 to 9. It is the one layout that the kernels use.
func (w *warp) matrix(out []byte, descriptor uint64, first, rows int) ([]byte, error) {
	start, stride := descriptor&0x3fff<<4, descriptor>>32&0x3fff<<4
	if descriptor>>62 != 1 || descriptor>>46&0xffff != 0 || descriptor>>14&3 != 0 || descriptor>>30&3 != 0 {
		return nil, fmt.Errorf("%w: the layout of descriptor %#x", ErrOpcode, descriptor)
	}
	if start&^127&1023 != 0 || start&127 > 96 {
		return nil, fmt.Errorf("%w: a matrix at %#x, whose pattern does not begin at a multiple of 1024", ErrFault, start)
	}
	for r := first; r < first+rows; r++ {
		for k := range uint64(2) {
			at := start + uint64(r/8)*stride + uint64(r%8)*128 + k*chunk
			at ^= at >> 7 & 7 << 4
			b, err := w.bytes(shared, at, chunk)
			if err != nil {
				return nil, err
			}
			if owner := w.launch.owners[at/chunk]; owner != 0 {
				return nil, fmt.Errorf("%w: shared memory at %#x, which warp %d wrote without a fence behind it", ErrFault, at, owner-1)
			}
			out = append(out, b...)
		}
	}
	return out, nil
}

// operands reads this warp's rows of A, and B.
func (w *warp) operands(out []byte, a, b uint64) ([]byte, error) {
	out, err := w.matrix(out, a, w.number%4*16, 16)
	if err != nil {
		return nil, err
	}
	return w.matrix(out, b, 0, 256)
}

// runProduct begins a product of 64x256 elements over 32 bytes.
func runProduct(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, nil); err != nil {
		return err
	}
	if active != allLanes || w.number/4*4+3 >= len(w.launch.warps) {
		return fmt.Errorf("%w: no warpgroup of four whole warps", ErrFault)
	}
	if w.unfenced {
		return fmt.Errorf("%w: no wgmma.fence since registers were touched", ErrFault)
	}
	a, b, add := &w.file[in.from[0]], &w.file[in.from[1]], &w.file[in.from[2]]
	for l := range a {
		if a[l] != a[0] || b[l] != b[0] || add[l] != add[0] {
			return lane(l, fmt.Errorf("%w: another descriptor or predicate than lane 0", ErrFault))
		}
	}
	g, x := &w.launch.async.groups[w.number/4], begun{in.line, a[0], b[0], add[0] != 0}
	if w.done == len(g.begun) {
		g.begun = append(g.begun, x)
	}
	if g.begun[w.done] != x {
		return fmt.Errorf("%w: another product than a warp of the same warpgroup began", ErrFault)
	}
	w.done++
	before, err := w.operands(nil, x.a, x.b)
	w.products = append(w.products, multiplication{in, w.committed, x.a, x.b, x.add, before})
	return err
}

// runWaitProducts ends all committed groups but the last so many.
func runWaitProducts(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, nil); err != nil {
		return err
	}
	left := slices.IndexFunc(w.products, func(m multiplication) bool { return uint64(m.group)+w.file[in.from[0]][0] >= uint64(w.committed) })
	if left < 0 {
		left = len(w.products)
	}
	for _, m := range w.products[:left] {
		now, err := w.operands(nil, m.a, m.b)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, m.before) {
			return fmt.Errorf("%w: shared memory changed under the product in line %d", ErrFault, m.in.line)
		}
		w.accumulate(m)
	}
	w.products = append(w.products[:0], w.products[left:]...)
	return nil
}

// accumulate adds a product (ISA, "Register Fragments for wgmma.mma_async.m64nNk32"): accumulator e of lane l is element
// (l/4 + 8 (e/2 mod 2), 8 (e/4) + 2 (l mod 4) + e mod 2) of the warp's 16 rows.
func (w *warp) accumulate(m multiplication) {
	v := make([]int32, len(m.before))
	for i, x := range m.before {
		v[i] = int32(int8(x))
	}
	for e, r := range m.in.to {
		d := &w.file[r]
		for l := range warpSize {
			a, b := v[(l/4+e/2%2*8)*32:][:32], v[(16+e/4*8+l%4*2+e%2)*32:][:32]
			s := int32(0)
			if m.add {
				s = int32(d[l])
			}
			for k, x := range a {
				s += x * b[k]
			}
			d[l] = uint64(uint32(s))
		}
	}
}
