package ptxsim_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"basilica/nvidia"
	"basilica/nvidia/ptxsim"
)

// program is a module with one kernel "k" of one parameter, around the instructions given. %rd1 is the parameter, %r1 the thread,
// %rd2 the parameter plus four bytes a thread.
func program(body string) string {
	return `.version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 k_param_0)
{
	.reg .pred %p<9>;
	.reg .b16 %rs<9>;
	.reg .b32 %r<40>;
	.reg .b64 %rd<9>;
	.shared .align 16 .b8 tile[2048];
	ld.param.u64 %rd1, [k_param_0];
	cvta.to.global.u64 %rd1, %rd1;
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd2, %rd1, %rd2;
` + body + `
	ret;
}
`
}

// run runs a program with so many threads over memory that holds words, and gives the memory afterwards.
func run(body string, threads int, words []uint32) ([]uint32, error) {
	m, err := ptxsim.Parse(program(body))
	if err != nil {
		return nil, err
	}
	d := ptxsim.New(m, ptxsim.Limits{Memory: 1 << 20, Steps: 10000})
	b := make([]byte, 4*len(words))
	for i, w := range words {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	at, err := d.Alloc(uint64(len(b)))
	if err != nil {
		return nil, err
	}
	if err := d.Write(at, b); err != nil {
		return nil, err
	}
	if err := d.Launch(nvidia.Launch{Kernel: "k", Grid: [2]uint32{1, 1}, Block: [2]uint32{uint32(threads), 1}, Args: []any{at}}); err != nil {
		return nil, err
	}
	if err := d.Read(b, at); err != nil {
		return nil, err
	}
	out := make([]uint32, len(words))
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return out, d.Free(at)
}

// TestInstructions holds what is easily got wrong against the words of the ISA. Each program works out word t in thread t of 32 from the
// word that is there, in %r2, and leaves it in %r3.
func TestInstructions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		want       func(t, x uint32) uint32
	}{
		{"rotation by a funnel", "shf.l.wrap.b32 %r3, %r2, %r2, 7;", func(_, x uint32) uint32 { return bits.RotateLeft32(x, 7) }},
		{"funnel of two words, to the left", "shf.l.wrap.b32 %r3, 0xffffffff, %r2, 36;", func(_, x uint32) uint32 { return x<<4 | 15 }},
		{"funnel of two words, to the right", "shf.r.wrap.b32 %r3, %r2, 1, 4;", func(_, x uint32) uint32 { return x>>4 | 1<<28 }},
		{"bytes turned", "prmt.b32 %r3, %r2, 0, 0x0123;", func(_, x uint32) uint32 { return bits.ReverseBytes32(x) }},
		{"sign of a byte", "prmt.b32 %r3, %r2, 0, 0x8888;", func(_, x uint32) uint32 { return uint32(int32(int8(x)) >> 8) }},
		{"shift by all bits", "shl.b32 %r3, %r2, 32;", func(_, _ uint32) uint32 { return 0 }},
		{"shift with a sign", "shr.s32 %r3, %r2, 9;", func(_, x uint32) uint32 { return uint32(int32(x) >> 9) }},
		{"shift without one", "shr.u32 %r3, %r2, 9;", func(_, x uint32) uint32 { return x >> 9 }},
		{"upper half of a product", "mul.hi.u32 %r3, %r2, %r2;", func(_, x uint32) uint32 { return uint32(uint64(x) * uint64(x) >> 32) }},
		{
			"product of 64 bits", "mul.wide.s32 %rd3, %r2, -3; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r3, %rd3;",
			func(_, x uint32) uint32 { return uint32(uint64(int64(int32(x))*-3) >> 32) },
		},
		{"product of bytes", "dp4a.s32.s32 %r3, %r2, 0x80ff0201, 7;", func(_, x uint32) uint32 {
			return uint32(7 + int32(int8(x)) + 2*int32(int8(x>>8)) - int32(int8(x>>16)) - 128*int32(int8(x>>24)))
		}},
		{"comparison with a sign", "setp.lt.s32 %p1, %r2, 0; selp.b32 %r3, 1, 2, %p1;", func(_, x uint32) uint32 { return 2 - x>>31 }},
		{"comparison without one", "setp.gt.u32 %p1, %r2, 0x7fffffff; selp.b32 %r3, 1, 2, %p1;", func(_, x uint32) uint32 { return 2 - x>>31 }},
		{"the smaller", "min.u32 %r3, %r2, 0x7fffffff;", func(_, x uint32) uint32 { return min(x, 0x7fffffff) }},
		{
			"two halves", "{ .reg .b16 tmp; mov.b32 {tmp, %rs1}, %r2; } mov.b32 {%rs2, %rs3}, %r2; mov.b32 %r3, {%rs1, %rs2};",
			func(_, x uint32) uint32 { return bits.RotateLeft32(x, 16) },
		},
		{"neighbour", "shfl.sync.bfly.b32 %r3, %r1, 4, 0x1f, -1;", func(t, _ uint32) uint32 { return t ^ 4 }},
		{"first of eight", "shfl.sync.idx.b32 %r3, %r1, 0, 0x1807, 0xffffffff;", func(t, _ uint32) uint32 { return t &^ 7 }},
		{"a predicate", "mov.u32 %r3, 5; setp.lt.u32 %p1, %r1, 9; @!%p1 mov.u32 %r3, 6;", func(t, _ uint32) uint32 {
			if t < 9 {
				return 5
			}
			return 6
		}},
		{"a loop that lanes leave one by one", `mov.u32 %r3, 0;
	again:
		add.s32 %r3, %r3, 3;
		setp.le.u32 %p1, %r3, %r1;
		@%p1 bra again;
		shfl.sync.idx.b32 %r4, %r3, 31, 0x1f, -1;
		add.s32 %r3, %r3, %r4;`, func(t, _ uint32) uint32 { return t/3*3 + 3 + 33 }},
		{
			"shared memory", `mov.u32 %r4, tile; shl.b32 %r5, %r1, 2; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4+64], %r2; bar.sync 0;
		xor.b32 %r5, %r5, 124; mov.u32 %r4, tile; add.s32 %r4, %r4, %r5; ld.shared.u32 %r3, [%r4+64];
		shfl.sync.idx.b32 %r3, %r3, 0, 0x1f, -1; mov.u32 %r5, 0; ld.shared.v2.u32 {%r5, %r3}, [tile+184];`,
			func(_, _ uint32) uint32 { last := uint32(31); return last * 0x9E3779B1 },
		},
		{
			"a copy that was waited for", `shl.b32 %r5, %r1, 4; mov.u32 %r4, tile; add.s32 %r4, %r4, %r5;
		cp.async.cg.shared.global [%r4], [%rd1], 16; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r3, [%r4+4];`,
			func(_, _ uint32) uint32 { return 0x9E3779B1 },
		},
		{
			"a copy that was not", `shl.b32 %r5, %r1, 4; mov.u32 %r4, tile; add.s32 %r4, %r4, %r5;
		cp.async.cg.shared.global [%r4], [%rd1], 16; cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r3, [%r4+4];`,
			func(_, _ uint32) uint32 { return 0xA5A5A5A5 },
		},
		{
			"barriers that count", `setp.eq.u32 %p1, %r1, 5; @%p1 mbarrier.init.shared.b64 [tile+8], 16; mov.u32 %r3, 0; setp.lt.u32 %p3, %r1, 16;
		mbarrier.try_wait.parity.shared.b64 %p4, [tile+8], 1; @%p4 add.s32 %r3, %r3, 1;
		@%p3 mbarrier.arrive.shared.b64 %rd3, [tile+8];
		mbarrier.try_wait.parity.shared.b64 %p4, [tile+8], 0; @%p4 add.s32 %r3, %r3, 2;
		mbarrier.try_wait.parity.shared.b64 %p4, [tile+8], 1; @%p4 add.s32 %r3, %r3, 4;`,
			func(_, _ uint32) uint32 { return 3 },
		},
		{"what was never written", "ld.shared.u32 %r3, [tile];", func(_, _ uint32) uint32 { return 0xA5A5A5A5 }},
	} {
		words := make([]uint32, 32)
		for i := range words {
			words[i] = uint32(i) * 0x9E3779B1
		}
		got, err := run("ld.global.u32 %r2, [%rd2];"+c.body+"st.global.u32 [%rd2], %r3;", 32, words)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for i, x := range words {
			if want := c.want(uint32(i), x); got[i] != want {
				t.Errorf("%s: thread %d makes %#x of %#x, not %#x", c.name, i, got[i], x, want)
			}
		}
	}
}

// TestMatrices multiplies two matrices of bytes through ldmatrix and mma, and holds every element against its definition.
func TestMatrices(t *testing.T) {
	t.Parallel()
	// 16 rows of A and 8 rows of B, 32 bytes each, then 16 x 8 results.
	words := make([]uint32, 16*8+8*8+16*8)
	for i := range 16*8 + 8*8 {
		words[i] = uint32(i+1) * 0x85EBCA77
	}
	at := func(row, k int) int32 { return int32(int8(words[row*8+k/4] >> (k % 4 * 8))) }
	got, err := run(`
	// every thread copies 32 bytes of a row, those from 24 on nothing
	setp.ge.u32 %p1, %r1, 24;
	@%p1 bra copied;
	mul.wide.u32 %rd3, %r1, 32;
	add.s64 %rd3, %rd1, %rd3;
	shl.b32 %r2, %r1, 5;
	mov.u32 %r3, tile;
	add.s32 %r2, %r2, %r3;
	ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd3];
	st.shared.v4.u32 [%r2], {%r4, %r5, %r6, %r7};
	ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd3+16];
	st.shared.v4.u32 [%r2+16], {%r4, %r5, %r6, %r7};
copied:
	bar.sync 0;
	// lane l gives row l%16 of A, columns from 16 (l/16)
	and.b32 %r2, %r1, 15;
	shl.b32 %r2, %r2, 5;
	and.b32 %r4, %r1, 16;
	add.s32 %r2, %r2, %r4;
	mov.u32 %r3, tile;
	add.s32 %r2, %r2, %r3;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r2];
	// and row l%8 of B, columns from 16 (l/8%2), twice
	and.b32 %r2, %r1, 7;
	shl.b32 %r2, %r2, 5;
	and.b32 %r4, %r1, 8;
	shl.b32 %r4, %r4, 1;
	add.s32 %r2, %r2, %r4;
	add.s32 %r2, %r2, %r3;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r14, %r15, %r16, %r17}, [%r2+512];
	mov.u32 %r20, 1; mov.u32 %r21, 2; mov.u32 %r22, 3; mov.u32 %r23, 4;
	mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r20, %r21, %r22, %r23}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%r20, %r21, %r22, %r23};
	// element (l/4, 2(l%4)) and the next one, and those eight rows below
	mul.wide.u32 %rd3, %r1, 8;
	add.s64 %rd3, %rd1, %rd3;
	st.global.v2.u32 [%rd3+768], {%r20, %r21};
	st.global.v2.u32 [%rd3+1024], {%r22, %r23};`, 32, words)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		for j := range 8 {
			want := int32(1 + i/8*2 + j%2)
			for k := range 32 {
				want += at(i, k) * at(16+j, k)
			}
			if r := int32(got[192+i*8+j]); r != want {
				t.Errorf("element (%d,%d) is %d, not %d", i, j, r, want)
			}
		}
	}
}

// TestRefused: what the interpreter does not know, and what a card leaves undefined, ends with its line and its reason.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		threads    int
		is         error
		says       string
	}{
		{"an opcode of another kind", "sin.approx.f32 %r2, %r1;", 32, ptxsim.ErrOpcode, "line 16: sin.approx.f32"},
		{"a modifier", "ld.global.lu.u32 %r2, [%rd2];", 32, ptxsim.ErrOpcode, "ld.global.lu.u32"},
		{"a vector too long", "ld.global.v4.u64 {%rd3, %rd4, %rd5, %rd6}, [%rd1];", 32, ptxsim.ErrOpcode, "ld.global.v4.u64"},
		{"a register that nobody declared", "mov.u32 %r40, 1;", 32, ptxsim.ErrSyntax, `"%r40"`},
		{"a register of an inner scope", "{ .reg .b32 in; mov.u32 in, 1; } mov.u32 %r2, in;", 32, ptxsim.ErrSyntax, "no value"},
		{"a constant that is written", "mov.u32 3, 1;", 32, ptxsim.ErrSyntax, "no register"},
		{"operands missing", "add.s32 %r2, %r1;", 32, ptxsim.ErrSyntax, "2 operands, it takes 3"},
		{"a label that is not there", "bra nowhere;", 32, ptxsim.ErrSyntax, `"nowhere"`},
		{"a character", "mov.u32 %r2, #1;", 32, ptxsim.ErrSyntax, `'#'`},
		{"too much shared memory", ".shared .align 16 .b8 more[48000];", 32, ptxsim.ErrLimit, "50048 bytes"},
		{"memory of nobody", "ld.global.u32 %r2, [%rd1+128];", 32, ptxsim.ErrFault, "lane 0: "},
		{"an address cut to 32 bits", "cvt.u32.u64 %r2, %rd1; cvt.u64.u32 %rd3, %r2; ld.global.u32 %r2, [%rd3];", 32, ptxsim.ErrFault, "not inside any"},
		{"an address between", "ld.global.v2.u32 {%r2, %r3}, [%rd2];", 32, ptxsim.ErrFault, "lane 1: "},
		{"shared memory of nobody", "ld.shared.u32 %r2, [tile+2048];", 32, ptxsim.ErrFault, "2048 bytes of shared memory"},
		{"a barrier for some lanes", "setp.eq.u32 %p1, %r1, 3; @%p1 bar.sync 0;", 32, ptxsim.ErrFault, "lanes 0x8 of 0xffffffff"},
		{"a barrier for some warps", "setp.gt.u32 %p1, %r1, 31; @%p1 ret; bar.sync 0;", 64, ptxsim.ErrFault, "1 others have ended"},
		{"a shuffle for some lanes", "setp.gt.u32 %p1, %r1, 7; @%p1 shfl.sync.idx.b32 %r2, %r1, 9, 0x1f, -1;", 32, ptxsim.ErrFault, "shfl"},
		{"a mask of others", "shfl.sync.idx.b32 %r2, %r1, 0, 0x1f, 15;", 32, ptxsim.ErrFault, "mask 0xf"},
		{"the value of a lane that is not there", "shfl.sync.idx.b32 %r2, %r1, 20, 0x1f, 0xffff;", 16, ptxsim.ErrFault, "lane 20"},
		{"half a warp at a product", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r2,%r3,%r4,%r5},{%r2,%r3,%r4,%r5},{%r2,%r3},{%r2,%r3,%r4,%r5};", 16, ptxsim.ErrFault, "0xffff"},
		{"a barrier that nobody made", "mbarrier.arrive.shared.b64 %rd3, [tile];", 32, ptxsim.ErrFault, "no barrier at 0x0"},
		{"a phase that nobody ends", "setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared.b64 [tile+8], 2; mbarrier.try_wait.parity.shared.b64 %p2, [tile+8], 0;" +
			"again: mbarrier.try_wait.parity.shared.b64 %p2, [tile+8], 0; @!%p2 bra again;", 32, ptxsim.ErrFault, "nobody will end"},
		{"a barrier with operands too many", "mbarrier.init.shared.b64 [tile], 1, 2;", 32, ptxsim.ErrSyntax, "2 operands, it takes 1"},
		{"accumulators that are few", "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {%r1, %r2}, %rd1, %rd1, %p1;", 32, ptxsim.ErrSyntax, "128 accumulators"},
		{"no end", "round: bra round;", 32, ptxsim.ErrLimit, "10000 instructions"},
		{"too many threads", "mov.u32 %r2, 1;", 1025, ptxsim.ErrLaunch, "1025"},
	} {
		_, err := run(c.body, c.threads, make([]uint32, 32))
		if !errors.Is(err, c.is) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, without %q", c.name, err, c.says)
		}
	}
}

// TestLaunch: launches that a driver would refuse, and memory that is not there.
func TestLaunch(t *testing.T) {
	t.Parallel()
	m, err := ptxsim.Parse(program(""))
	if err != nil {
		t.Fatal(err)
	}
	d := ptxsim.New(m, ptxsim.Limits{Memory: 4096, Steps: 100})
	at, err := d.Alloc(4096)
	if err != nil {
		t.Fatal(err)
	}
	one := [2]uint32{1, 1}
	for _, l := range []nvidia.Launch{
		{Kernel: "other", Grid: one, Block: one, Args: []any{at}},
		{Kernel: "k", Grid: one, Block: one},
		{Kernel: "k", Grid: one, Block: one, Args: []any{uint32(1)}},
		{Kernel: "k", Grid: one, Block: one, Args: []any{1}},
		{Kernel: "k", Block: one, Args: []any{at}},
		{Kernel: "k", Grid: one, Args: []any{at}},
		{Kernel: "k", Grid: [2]uint32{1, 65536}, Block: one, Args: []any{at}},
	} {
		if err := d.Launch(l); !errors.Is(err, ptxsim.ErrLaunch) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if _, err := d.Alloc(1); !errors.Is(err, ptxsim.ErrLimit) {
		t.Errorf("a byte too much: %v", err)
	}
	if err := d.Free(at + 1); !errors.Is(err, ptxsim.ErrFault) {
		t.Errorf("free what nobody took: %v", err)
	}
	if err := d.Free(at); err != nil {
		t.Error(err)
	}
	if err := d.Write(at, []byte{1}); !errors.Is(err, ptxsim.ErrFault) {
		t.Errorf("write to what was freed: %v", err)
	}
	if err := d.Read(make([]byte, 1), at); !errors.Is(err, ptxsim.ErrFault) {
		t.Errorf("read of what was freed: %v", err)
	}
}

// FuzzParse reads any text, and runs for a while what it takes for a kernel.
func FuzzParse(f *testing.F) {
	for _, body := range []string{
		"", "@!%p1 bra done; add.s32 %r2, %r1, -1; done: st.global.u32 [%rd2+-4], %r2;", "{ .reg .b16 tmp; mov.b32 {tmp, %rs1}, %r1; }",
		"bar.sync 0; ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [tile+16];", "cp.async.cg.shared.global [tile], [%rd1], 16; cp.async.wait_group 0;",
		"mbarrier.init.shared.b64 [tile], 1; again: mbarrier.try_wait.parity.shared.b64 %p1, [tile], 0; @!%p1 bra again;",
		"fence.proxy.async.shared::cta; wgmma.fence.sync.aligned; wgmma.wait_group.sync.aligned 0;", ".pragma \"nounroll\"; shfl.sync.bfly.b32 %r2, %r1, 4, 0x1f, -1;", "again: @%p1 bra again;",
	} {
		f.Add(program(body))
	}
	f.Add(".version 6.4 .target sm_70 .visible .entry a(.param .u32 x, .param .u64 .ptr .align 1 y) .maxntid 128, 1, 1 .minnctapersm 2 { ret; }")
	f.Fuzz(func(t *testing.T, src string) {
		m, err := ptxsim.Parse(src)
		if err != nil {
			if !errors.Is(err, ptxsim.ErrSyntax) && !errors.Is(err, ptxsim.ErrOpcode) && !errors.Is(err, ptxsim.ErrLimit) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		d := ptxsim.New(m, ptxsim.Limits{Memory: 4096, Steps: 1000})
		at, err := d.Alloc(2048)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range m.Kernels() {
			_ = d.Launch(nvidia.Launch{Kernel: k, Grid: [2]uint32{2, 1}, Block: [2]uint32{40, 1}, Args: []any{at}})
		}
	})
}
