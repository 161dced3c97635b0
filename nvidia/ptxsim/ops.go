package ptxsim

import (
	"fmt"
	"math/bits"
	"strings"
	"sync"
)

// kind says what an instruction does to the order of things.
type kind uint8

const (
	straight kind = iota // computes, reads or writes
	branch
	leave
	barrier
)

// instruction is one decoded instruction.
type instruction struct {
	opcode string
	line   int
	guard  int  // the row of its predicate, -1 for none
	negate bool // it runs where the predicate is false
	kind   kind
	label  string // branch
	target int    // branch

	run     func(w *warp, in *instruction, active uint32) error
	compute func(d, a, b, c *row) // of arithmetic, for all lanes
	to      []int                 // rows that are written
	from    []int                 // rows that are read
	param   int
	space   space
	size    int    // bytes of one element in memory
	count   int    // of elements
	offset  uint64 // of the address, or of the first of two
	offset2 uint64 // of the second
	across  func(lane, b, c uint32) (from uint32, inside bool)
	touches bool // it reads or writes accumulators of wgmma, and is no wgmma
}

// arithmetic is an instruction on registers alone: what it does to each lane, and how many values it takes.
type arithmetic struct {
	args    int
	compute func(d, a, b, c *row)
}

// known holds the arithmetic that the interpreter knows, by opcode. It is made once and only read.
var known = sync.OnceValue(arithmetics)

func each(f func(a, b, c uint64) uint64) func(d, a, b, c *row) {
	return func(d, a, b, c *row) {
		for l := range d {
			d[l] = f(a[l], b[l], c[l])
		}
	}
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// integer is a type of the ISA: "u32" and its like.
type integer struct {
	name string
	bits int
}

func (t integer) signed() bool        { return t.name[0] == 's' }
func (t integer) cut(v uint64) uint64 { return v << (64 - t.bits) >> (64 - t.bits) }

// wide gives the value with the sign that its type has.
func (t integer) wide(v uint64) uint64 {
	if t.signed() {
		return uint64(int64(v<<(64-t.bits)) >> (64 - t.bits))
	}
	return t.cut(v)
}

func (t integer) less(a, b uint64) bool {
	if t.signed() {
		return int64(t.wide(a)) < int64(t.wide(b))
	}
	return t.cut(a) < t.cut(b)
}

// arithmetics lists the arithmetic of the ISA's section on integer, logic, comparison and data movement that the kernels draw on.
func arithmetics() map[string]arithmetic {
	m := map[string]arithmetic{}
	add := func(opcode string, args int, compute func(d, a, b, c *row)) { m[opcode] = arithmetic{args, compute} }
	var all []integer
	for _, n := range []int{16, 32, 64} {
		for _, sign := range []string{"u", "s", "b"} {
			all = append(all, integer{fmt.Sprint(sign, n), n})
		}
	}
	for _, t := range all {
		cut := t.cut
		add("mov."+t.name, 1, each(func(a, _, _ uint64) uint64 { return cut(a) }))
		add("selp."+t.name, 3, each(func(a, b, c uint64) uint64 {
			if c != 0 {
				return cut(a)
			}
			return cut(b)
		}))
		add("setp.eq."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(cut(a) == cut(b)) }))
		add("setp.ne."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(cut(a) != cut(b)) }))
		if t.name[0] == 'b' {
			logic(add, t)
			continue
		}
		less := t.less
		add("setp.lt."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(less(a, b)) }))
		add("setp.le."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(!less(b, a)) }))
		add("setp.gt."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(less(b, a)) }))
		add("setp.ge."+t.name, 2, each(func(a, b, _ uint64) uint64 { return truth(!less(a, b)) }))
		add("min."+t.name, 2, each(func(a, b, _ uint64) uint64 {
			if less(b, a) {
				a = b
			}
			return cut(a)
		}))
		add("max."+t.name, 2, each(func(a, b, _ uint64) uint64 {
			if less(a, b) {
				a = b
			}
			return cut(a)
		}))
		add("add."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a + b) }))
		add("sub."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a - b) }))
		add("mul.lo."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a * b) }))
		add("mad.lo."+t.name, 3, each(func(a, b, c uint64) uint64 { return cut(a*b + c) }))
		wide := t.wide
		add("shr."+t.name, 2, each(func(a, b, _ uint64) uint64 { // a signed one fills with the sign
			if t.signed() {
				return cut(uint64(int64(wide(a)) >> uint32(b)))
			}
			return cut(a) >> uint32(b)
		}))
		if t.bits < 64 {
			twice := integer{t.name[:1] + fmt.Sprint(2*t.bits), 2 * t.bits}
			add("mul.wide."+t.name, 2, each(func(a, b, _ uint64) uint64 { return twice.cut(wide(a) * wide(b)) }))
			add("mad.wide."+t.name, 3, each(func(a, b, c uint64) uint64 { return twice.cut(wide(a)*wide(b) + c) }))
			add("mul.hi."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(wide(a) * wide(b) >> t.bits) }))
		}
		for _, to := range all {
			if to.name[0] != 'b' && to != t {
				add("cvt."+to.name+"."+t.name, 1, each(func(a, _, _ uint64) uint64 { return to.cut(wide(a)) }))
			}
		}
	}
	words(add)
	return m
}

// logic adds the operations on bits of one size; a shift by the size or more leaves nothing.
func logic(add func(string, int, func(d, a, b, c *row)), t integer) {
	cut := t.cut
	add("and."+t.name, 2, each(func(a, b, _ uint64) uint64 { return a & b }))
	add("or."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a | b) }))
	add("xor."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a ^ b) }))
	add("not."+t.name, 1, each(func(a, _, _ uint64) uint64 { return cut(^a) }))
	add("shl."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a << uint32(b)) }))
	add("shr."+t.name, 2, each(func(a, b, _ uint64) uint64 { return cut(a) >> uint32(b) }))
}

// words adds what there is for one type only, and loops of their own for the instructions that SHA-256 is made of.
func words(add func(string, int, func(d, a, b, c *row))) {
	add("mov.pred", 1, each(func(a, _, _ uint64) uint64 { return truth(a != 0) }))
	add("and.pred", 2, each(func(a, b, _ uint64) uint64 { return a & b }))
	add("or.pred", 2, each(func(a, b, _ uint64) uint64 { return a | b }))
	add("not.pred", 1, each(func(a, _, _ uint64) uint64 { return a ^ 1 }))
	add("prmt.b32", 3, each(func(a, b, c uint64) uint64 { return permute(uint32(a), uint32(b), uint32(c)) }))
	add("bfe.u32", 3, each(func(a, b, c uint64) uint64 { // c bits from bit b on; each counts in its low 8 bits
		return uint64(uint32(a)) >> (b & 255) & (1<<min(c&255, 32) - 1)
	}))
	add("dp4a.s32.s32", 3, each(func(a, b, c uint64) uint64 {
		s := int32(c)
		for i := 0; i < 32; i += 8 {
			s += int32(int8(a>>i)) * int32(int8(b>>i))
		}
		return uint64(uint32(s))
	}))
	plus := func(d, a, b, _ *row) {
		for l := range d {
			d[l] = uint64(uint32(a[l]) + uint32(b[l]))
		}
	}
	add("add.s32", 2, plus)
	add("add.u32", 2, plus)
	add("xor.b32", 2, func(d, a, b, _ *row) {
		for l := range d {
			d[l] = uint64(uint32(a[l]) ^ uint32(b[l]))
		}
	})
	add("and.b32", 2, func(d, a, b, _ *row) {
		for l := range d {
			d[l] = uint64(uint32(a[l]) & uint32(b[l]))
		}
	})
	add("shf.l.wrap.b32", 3, func(d, a, b, c *row) {
		for l := range d {
			d[l] = (b[l]<<32 | a[l]&0xffffffff) << (c[l] & 31) >> 32
		}
	})
	add("shf.r.wrap.b32", 3, func(d, a, b, c *row) {
		for l := range d {
			d[l] = uint64(uint32((b[l]<<32 | a[l]&0xffffffff) >> (c[l] & 31)))
		}
	})
	add("div.u32", 2, each(func(a, b, _ uint64) uint64 { // by zero: not said
		if b == 0 {
			return 0xffffffff
		}
		return uint64(uint32(a) / uint32(b))
	}))
	add("mul.hi.u64", 2, each(func(a, b, _ uint64) uint64 { h, _ := bits.Mul64(a, b); return h }))
}

// permute is prmt.b32 in its default mode: four bytes of b:a by the low nibbles of sel, or their sign where a nibble's top bit is set.
func permute(a, b, sel uint32) (out uint64) {
	x := uint64(b)<<32 | uint64(a)
	for i := 0; i < 4; i++ {
		n := sel >> (4 * i) & 15
		v := uint64(byte(x >> (8 * (n & 7))))
		if n&8 != 0 {
			v = uint64(byte(int8(v) >> 7))
		}
		out |= v << (8 * i)
	}
	return out
}

// runArithmetic computes all lanes, and keeps the active ones.
func runArithmetic(w *warp, in *instruction, active uint32) error {
	d, a, b, c := &w.file[in.to[0]], &w.file[in.from[0]], &w.file[in.from[1]], &w.file[in.from[2]]
	if active == allLanes {
		in.compute(d, a, b, c)
		return nil
	}
	var all row
	in.compute(&all, a, b, c)
	for l := range d {
		if active>>l&1 != 0 {
			d[l] = all[l]
		}
	}
	return nil
}

// decode finds what an opcode does with its operands.
func (in *instruction) decode(ops []operand) error {
	if op, ok := known()[in.opcode]; ok && (len(ops) != 2 || (ops[0].kind != '{' && ops[1].kind != '{')) {
		if err := in.registers(ops, "v", strings.Repeat("v", op.args)); err != nil {
			return err
		}
		for len(in.from) < 3 {
			in.from = append(in.from, 0)
		}
		in.compute, in.run = op.compute, runArithmetic
		return nil
	}
	switch in.opcode {
	case "bra", "bra.uni":
		in.kind = branch
		if len(ops) != 1 || ops[0].kind != 'l' {
			return fmt.Errorf("%w: a branch goes to a label", ErrSyntax)
		}
		in.label = ops[0].label
		return nil
	case "ret":
		in.kind = leave
		return in.registers(ops, "", "")
	case "mov.b32": // two halves
		if len(ops) == 2 && ops[0].kind == '{' {
			in.run = runUnpack
			return in.registers(ops, "2", "v")
		}
		in.run = runPack
		return in.registers(ops, "v", "2")
	}
	if in.memory() {
		return in.memoryOperands(ops)
	}
	return in.warpWide(ops)
}

// registers sorts operands into rows that are written and rows that are read. A letter stands for one operand: v is a value, and a
// digit a vector of so many.
func (in *instruction) registers(ops []operand, to, from string) error {
	shape := to + from
	if len(ops) != len(shape) {
		return fmt.Errorf("%w: %d operands, it takes %d", ErrSyntax, len(ops), len(shape))
	}
	for i, o := range ops {
		parts := []operand{o}
		want := 1
		if shape[i] != 'v' {
			want = int(shape[i] - '0')
			parts = o.parts
		}
		if len(parts) != want {
			return fmt.Errorf("%w: operand %d is no vector of %d", ErrSyntax, i+1, want)
		}
		for _, v := range parts {
			switch {
			case v.kind != 'v':
				return fmt.Errorf("%w: operand %d is no value", ErrSyntax, i+1)
			case i >= len(to):
				in.from = append(in.from, v.row)
			case !v.dest:
				return fmt.Errorf("%w: operand %d is no register", ErrSyntax, i+1)
			default:
				in.to = append(in.to, v.row)
			}
		}
	}
	return nil
}

// runUnpack and runPack are mov.b32 between a word and its two halves, the lower first.
func runUnpack(w *warp, in *instruction, active uint32) error {
	lo, hi, v := &w.file[in.to[0]], &w.file[in.to[1]], &w.file[in.from[0]]
	for l := range warpSize {
		if active>>l&1 != 0 {
			x := v[l]
			lo[l], hi[l] = x&0xffff, x>>16&0xffff
		}
	}
	return nil
}

func runPack(w *warp, in *instruction, active uint32) error {
	d, lo, hi := &w.file[in.to[0]], &w.file[in.from[0]], &w.file[in.from[1]]
	for l := range warpSize {
		if active>>l&1 != 0 {
			d[l] = lo[l]&0xffff | hi[l]&0xffff<<16
		}
	}
	return nil
}
