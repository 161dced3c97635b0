package ptxsim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// space is a state space of the ISA.
type space uint8

const (
	global space = iota
	shared
	parameter
)

// copyAsync is one lane's cp.async that has not been waited for.
type copyAsync struct {
	to, from uint64
	group    int
}

const copySize = 16 // bytes of the one cp.async that there is

// elements are the types of loads and stores: their bytes.
var elements = map[string]int{"u8": 1, "b8": 1, "u16": 2, "b16": 2, "u32": 4, "s32": 4, "b32": 4, "u64": 8, "s64": 8, "b64": 8}

// memory reads an opcode of a load, a store or a conversion of addresses; false where it is none of those that are known.
func (in *instruction) memory() bool {
	parts := strings.Split(in.opcode, ".")
	if parts[0] != "ld" && parts[0] != "st" {
		return false
	}
	load := parts[0] == "ld"
	parts = parts[1:]
	switch {
	case len(parts) == 0:
		return false
	case parts[0] == "global":
		in.space = global
	case parts[0] == "shared":
		in.space = shared
	case parts[0] == "param" && load:
		in.space = parameter
	default:
		return false
	}
	parts = parts[1:]
	if len(parts) > 0 && in.space == global && load && (parts[0] == "cg" || parts[0] == "nc") { // which caches it goes through
		parts = parts[1:]
	}
	in.count = 1
	if len(parts) > 0 && in.space != parameter && (parts[0] == "v2" || parts[0] == "v4") {
		in.count = int(parts[0][1] - '0')
		parts = parts[1:]
	}
	if len(parts) != 1 || elements[parts[0]] == 0 {
		return false
	}
	in.size = elements[parts[0]]
	switch {
	case in.space == parameter:
		in.run = runLoadParam
	case load:
		in.run = runLoad
	default:
		in.run = runStore
	}
	return in.size*in.count <= 16
}

// memoryOperands takes the operands of what memory knew: the address is the second of a load and the first of a store.
func (in *instruction) memoryOperands(ops []operand) error {
	if len(ops) != 2 {
		return fmt.Errorf("%w: %d operands, it takes 2", ErrSyntax, len(ops))
	}
	load := strings.HasPrefix(in.opcode, "ld")
	value, address := ops[1], ops[0]
	if load {
		value, address = ops[0], ops[1]
	}
	want := byte('m')
	if in.space == parameter {
		want = 'p'
	}
	if address.kind != want {
		return fmt.Errorf("%w: no address", ErrSyntax)
	}
	in.param, in.offset = address.number, address.offset
	shape := "v"
	if in.count > 1 {
		shape = fmt.Sprint(in.count)
	}
	var err error
	if load {
		err = in.registers([]operand{value}, shape, "")
	} else {
		err = in.registers([]operand{value}, "", shape)
	}
	in.from = append(in.from, address.row)
	return err
}

// bytes finds n bytes at an address, which has to be a multiple of n.
func (w *warp) bytes(s space, at, n uint64) ([]byte, error) {
	if at%n != 0 {
		return nil, fmt.Errorf("%w: address %#x is no multiple of %d", ErrFault, at, n)
	}
	if s == global {
		return w.launch.device.bytes(at, n)
	}
	b := w.launch.shared
	if at >= uint64(len(b)) || n > uint64(len(b))-at {
		return nil, fmt.Errorf("%w: %d bytes at %#x of %d bytes of shared memory", ErrFault, n, at, len(b))
	}
	return b[at : at+n], nil
}

// lane says in an error which lane it was.
func lane(l int, err error) error { return fmt.Errorf("lane %d: %w", l, err) }

func runLoadParam(w *warp, in *instruction, active uint32) error {
	if in.size != w.launch.kernel.params[in.param].size {
		return fmt.Errorf("%w: a parameter of %d bytes", ErrFault, w.launch.kernel.params[in.param].size)
	}
	d := &w.file[in.to[0]]
	for l := range d {
		if active>>l&1 != 0 {
			d[l] = w.launch.args[in.param]
		}
	}
	return nil
}

func get(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

func put(b []byte, v uint64) {
	switch len(b) {
	case 1:
		b[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v))
	default:
		binary.LittleEndian.PutUint64(b, v)
	}
}

func runLoad(w *warp, in *instruction, active uint32) error {
	addresses := w.file[in.from[0]]
	for l, at := range addresses {
		if active>>l&1 == 0 {
			continue
		}
		b, err := w.bytes(in.space, at+in.offset, uint64(in.size*in.count))
		if err != nil {
			return lane(l, err)
		}
		for _, r := range in.to {
			w.file[r][l] = get(b[:in.size])
			b = b[in.size:]
		}
	}
	return nil
}

func runStore(w *warp, in *instruction, active uint32) error {
	for l, at := range &w.file[in.from[in.count]] {
		if active>>l&1 == 0 {
			continue
		}
		b, err := w.bytes(in.space, at+in.offset, uint64(in.size*in.count))
		if err != nil {
			return lane(l, err)
		}
		for _, r := range in.from[:in.count] {
			put(b[:in.size], w.file[r][l])
			b = b[in.size:]
		}
		if in.space == shared {
			w.wrote(at+in.offset, in.size*in.count)
		}
	}
	return nil
}

// warpWide decodes what concerns a warp as a whole, or memory in its own way.
func (in *instruction) warpWide(ops []operand) error {
	vector := func(i, n int) bool { return len(ops) > i && ops[i].kind == '{' && len(ops[i].parts) == n }
	isMemory := func(i int) bool { return len(ops) > i && ops[i].kind == 'm' }
	constant := func(i int) bool { return len(ops) > i && ops[i].kind == 'v' && !ops[i].dest }
	wrong := fmt.Errorf("%w: operands that do not fit", ErrSyntax)
	switch in.opcode {
	case "bar.sync":
		in.kind = barrier
		if len(ops) != 1 || !constant(0) || ops[0].row != 0 { // the one barrier 0
			return wrong
		}
		return nil
	case "bar.warp.sync":
		in.run = runWarpBarrier
		return in.registers(ops, "", "v")
	case "shfl.sync.idx.b32":
		in.run, in.across = runShuffle, func(lane, b, c uint32) (uint32, bool) {
			segment := c >> 8 & 31
			from := lane&segment | b&31&^segment
			return from, from <= lane&segment|c&31&^segment
		}
		return in.registers(ops, "v", "vvvv")
	case "shfl.sync.bfly.b32":
		in.run, in.across = runShuffle, func(lane, b, c uint32) (uint32, bool) {
			segment := c >> 8 & 31
			from := lane ^ b&31
			return from, from <= lane&segment|c&31&^segment
		}
		return in.registers(ops, "v", "vvvv")
	case "ldmatrix.sync.aligned.m8n8.x4.shared.b16":
		if !vector(0, 4) || !isMemory(1) || len(ops) != 2 {
			return wrong
		}
		in.run, in.offset = runLoadMatrices, ops[1].offset
		err := in.registers(ops[:1], "4", "")
		in.from = append(in.from, ops[1].row)
		return err
	case "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32":
		in.run = runMultiply
		return in.registers(ops, "4", "424")
	case "cp.async.cg.shared.global":
		if len(ops) != 3 || !isMemory(0) || !isMemory(1) || !constant(2) {
			return wrong
		}
		in.run, in.offset, in.offset2 = runCopy, ops[0].offset, ops[1].offset
		in.from = []int{ops[0].row, ops[1].row, ops[2].row}
		return nil
	case "cp.async.commit_group":
		in.run = runCommit
		return in.registers(ops, "", "")
	case "cp.async.wait_group":
		in.run = runWait
		return in.registers(ops, "", "v")
	case "cvta.to.global.u64", "cvta.global.u64": // a generic address of global memory is that address
		in.compute, in.run = known()["mov.u64"].compute, runArithmetic
		err := in.registers(ops, "v", "v")
		in.from = append(in.from, 0, 0)
		return err
	}
	return in.async(ops)
}

// together is the rule of what concerns a warp as a whole: all its threads are there, and the mask names them.
func (w *warp) together(active uint32, mask *row) error {
	if active != w.whole {
		return fmt.Errorf("%w: reached by lanes %#x of %#x", ErrFault, active, w.whole)
	}
	if mask != nil {
		for l, m := range mask {
			if active>>l&1 != 0 && uint32(m) != active {
				return fmt.Errorf("%w: a mask %#x for lanes %#x", ErrFault, uint32(m), active)
			}
		}
	}
	return nil
}

func runWarpBarrier(w *warp, in *instruction, active uint32) error {
	return w.together(active, &w.file[in.from[0]])
}

// runShuffle gives each lane the value of another of its segment (ISA, shfl.sync), or its own where that lies outside.
func runShuffle(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, &w.file[in.from[3]]); err != nil {
		return err
	}
	values, d := w.file[in.from[0]], &w.file[in.to[0]]
	b, c := w.file[in.from[1]], w.file[in.from[2]]
	for l := range d {
		if active>>l&1 == 0 {
			continue
		}
		from, inside := in.across(uint32(l), uint32(b[l]), uint32(c[l]))
		if !inside {
			from = uint32(l)
		}
		if active>>from&1 == 0 {
			return lane(l, fmt.Errorf("%w: the value of lane %d, which is not there", ErrFault, from))
		}
		d[l] = values[from] & 0xffffffff
	}
	return nil
}

// runLoadMatrices is ldmatrix of four 8x8 matrices of 16-bit elements: lane 8m+i gives the address of row i of matrix m, and lane l
// gets the l%4-th word of row l/4 of each.
func runLoadMatrices(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, nil); err != nil {
		return err
	}
	if active != allLanes {
		return fmt.Errorf("%w: a warp of lanes %#x", ErrFault, active)
	}
	addresses := w.file[in.from[0]]
	for m, r := range in.to {
		for i := range 8 {
			b, err := w.bytes(shared, addresses[8*m+i]&0xffffffff+in.offset, 16)
			if err != nil {
				return lane(8*m+i, err)
			}
			for k := range 4 {
				w.file[r][4*i+k] = get(b[4*k : 4*k+4])
			}
		}
	}
	return nil
}

// runMultiply is mma.m16n8k32 on s8 (ISA, "Matrix Fragments for mma.m16n8k32"). Lane l is in group g = l/4 with place t = l%4. A's
// words hold 4 elements of row g or g+8 (odd words) from column 4t or 16+4t (last two words); B's likewise of column g from row 4t or
// 16+4t; C's and D's four are row g (first two) or g+8, column 2t and 2t+1.
func runMultiply(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, nil); err != nil {
		return err
	}
	if active != allLanes {
		return fmt.Errorf("%w: a warp of lanes %#x", ErrFault, active)
	}
	var a [16][32]int32
	var b [8][32]int32
	for l := range warpSize {
		g, t := l/4, l%4
		for word := range 4 {
			bytesOf(w.file[in.from[word]][l], a[g+word%2*8][word/2*16+4*t:])
		}
		for word := range 2 {
			bytesOf(w.file[in.from[4+word]][l], b[g][word*16+4*t:])
		}
	}
	for l := range warpSize {
		g, t := l/4, l%4
		for e := range 4 {
			s := int32(w.file[in.from[6+e]][l])
			x, y := &a[g+e/2*8], &b[2*t+e%2]
			for k := range x {
				s += x[k] * y[k]
			}
			w.file[in.to[e]][l] = uint64(uint32(s))
		}
	}
	return nil
}

func bytesOf(word uint64, to []int32) {
	for i := range 4 {
		to[i] = int32(int8(word >> (8 * i)))
	}
}

// runCopy begins a copy of 16 bytes for each lane. From now on until it is waited for, what lies there is not said.
func runCopy(w *warp, in *instruction, active uint32) error {
	to, from, size := &w.file[in.from[0]], &w.file[in.from[1]], &w.file[in.from[2]]
	for l := range to {
		if active>>l&1 == 0 {
			continue
		}
		if size[l] != copySize {
			return fmt.Errorf("%w: a copy of %d bytes", ErrOpcode, size[l])
		}
		c := copyAsync{to[l]&0xffffffff + in.offset, from[l] + in.offset2, w.groups}
		b, err := w.bytes(shared, c.to, copySize)
		if err != nil {
			return lane(l, err)
		}
		for i := range b {
			b[i] = poison
		}
		w.wrote(c.to, copySize)
		w.copies = append(w.copies, c)
	}
	return nil
}

// Groups are counted for the warp as a whole.
func runCommit(w *warp, _ *instruction, active uint32) error {
	w.groups++
	return w.together(active, nil)
}

// runWait lets all groups arrive but the last so many.
func runWait(w *warp, in *instruction, active uint32) error {
	if err := w.together(active, nil); err != nil {
		return err
	}
	left := slices.IndexFunc(w.copies, func(c copyAsync) bool { return uint64(c.group)+w.file[in.from[0]][0] >= uint64(w.groups) })
	if left < 0 {
		left = len(w.copies)
	}
	for _, c := range w.copies[:left] {
		from, err := w.bytes(global, c.from, copySize)
		if err != nil {
			return err
		}
		to, err := w.bytes(shared, c.to, copySize)
		if err != nil {
			return err
		}
		copy(to, from)
		w.wrote(c.to, copySize)
	}
	w.copies = append(w.copies[:0], w.copies[left:]...)
	return nil
}
