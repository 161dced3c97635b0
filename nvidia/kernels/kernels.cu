// The GPU kernels of GPOW1 (gpu-proof.md sections 3 and 15.2): integers only, so that every card and the CPU make the same bytes.
// The source includes nothing, so that clang alone compiles it to PTX (scripts/kernels.sh); what C has no word for is inline PTX.
// SM80 adds what needs compute capability 8.0: tensor cores fed by asynchronous copies. SM90A adds what compute capability 9.0 has,
// and no other.
//
// All pointers that are read 16 bytes at a time (base, in, buf, cells) are aligned to 16; byte offsets are u64, since a fill passes 2^32.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u32 u32x2 __attribute__((ext_vector_type(2)));
typedef u32 u32x4 __attribute__((ext_vector_type(4)));

#define KERNEL(threads, blocks) extern "C" __attribute__((global)) __attribute__((launch_bounds(threads, blocks))) void
#define DEVICE static __attribute__((device)) inline __attribute__((always_inline))
#define SHARED static __attribute__((shared)) __attribute__((aligned(128)))
#define THREAD __nvvm_read_ptx_sreg_tid_x()
#define THREADS __nvvm_read_ptx_sreg_ntid_x()
#define BLOCK __nvvm_read_ptx_sreg_ctaid_x()
#define BLOCK_Y __nvvm_read_ptx_sreg_ctaid_y()
#define BLOCKS __nvvm_read_ptx_sreg_nctaid_x()
#define BLOCK_BARRIER asm volatile("bar.sync 0;" ::: "memory")
#define WARP_BARRIER asm volatile("bar.warp.sync 0xffffffff;" ::: "memory")

// shared_at is an address of shared memory as the instructions of its state space take it.
DEVICE u32 shared_at(const void *p) { return (u32)(u64)(const __attribute__((address_space(3))) void *)p; }

// load_shared reads 16 bytes in one access, which clang takes apart where the words are used one by one.
DEVICE void load_shared(u32 *w, u32 at) {
	asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"(at) : "memory");
}

DEVICE u32 rotl(u32 x, u32 r) { return (x << r) | (x >> (32 - r)); }
DEVICE u32 rotr(u32 x, u32 r) { return (x >> r) | (x << (32 - r)); }
DEVICE u32 swap_bytes(u32 x) { return (x >> 24) | ((x >> 8) & 0xff00) | ((x << 8) & 0xff0000) | (x << 24); }

DEVICE u32 fmix(u32 h) {
	h ^= h >> 16;
	h *= 0x85EBCA6B;
	h ^= h >> 13;
	h *= 0xC2B2AE35;
	return h ^ h >> 16;
}

// phi turns an inner product into the byte (i, j) of the next layer; at is rk + i*0x27D4EB2F + j*0x165667B1.
DEVICE u32 phi(u32 c, u32 at) {
	u32 u = (c ^ at) * 0x9E3779B1;
	u ^= u >> 15;
	u *= 0x85EBCA77;
	return u >> 24;
}

// scale maps a word to 0..n-1.
DEVICE u32 scale(u32 word, u32 n) { return (u32)((u64)word * n >> 32); }

// prg_layer makes a generated layer, or the cells of round 0. Any grid.
KERNEL(256, 1) prg_layer(u32 *out, u64 words, u32 k0, u32 k1) {
	for (u64 w = (u64)BLOCK * THREADS + THREAD; w < words; w += (u64)THREADS * BLOCKS)
		out[w] = fmix(fmix((u32)w * 0x9E3779B1 ^ k0) + k1);
}

// gemm_dp4a makes layer l >= 2 from layers `from` and l-1: a thread an element, a block 16x16 of them, 32 bytes of every row at a
// time through shared memory. Grid (n/16, n/16), block 256. For cards without the tensor cores of gemm_mma, and for n < 128.
#define DP4A_ROW 12 // words from row to row in shared memory: 32 bytes, and 16 that keep 8 rows in different banks
KERNEL(256, 1) gemm_dp4a(u8 *buf, u32 l, u32 from, u32 rk, u32 n) {
	SHARED u32 rows[32 * DP4A_ROW]; // 16 of A, then 16 of B
	const u64 n2 = (u64)n * n;
	const u32 t = THREAD, i0 = BLOCK_Y * 16, j0 = BLOCK * 16;
	const u32 row = t >> 3, word = t & 7; // what this thread copies
	const u8 *in = (row < 16 ? buf + from * n2 + (u64)(i0 + row) * n : buf + (l - 1) * n2 + (u64)(j0 + row - 16) * n) + word * 4;
	const u32 ti = t >> 4, tj = t & 15; // what it makes
	const u32 a_at = shared_at(rows + ti * DP4A_ROW), b_at = shared_at(rows + (16 + tj) * DP4A_ROW);
	u32 c = 0;
	for (u32 k = 0; k < n; k += 32) {
		rows[row * DP4A_ROW + word] = *(const u32 *)(in + k);
		BLOCK_BARRIER;
#pragma unroll
		for (u32 half = 0; half < 32; half += 16) {
			u32 a[4], b[4];
			load_shared(a, a_at + half);
			load_shared(b, b_at + half);
#pragma unroll
			for (u32 e = 0; e < 4; e++)
				asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a[e]), "r"(b[e]));
		}
		BLOCK_BARRIER;
	}
	const u32 i = i0 + ti, j = j0 + tj;
	buf[l * n2 + (u64)i * n + j] = (u8)phi(c, rk + i * 0x27D4EB2F + j * 0x165667B1);
}

#if defined(SM80)
// gemm_mma is gemm_dp4a on tensor cores: a block makes 128x128 elements, its 8 warps 64x32 each, 64 bytes of every row at a time,
// two such tiles on their way while a third is multiplied. Grid (n/128, n/128), block 256; n is a multiple of 128. 48 KiB of shared
// memory and at most 128 registers let two blocks share a multiprocessor.
#define TILE 8192        // bytes of 128 rows x 64
#define STAGE (2 * TILE) // one of A, one of B
#define STAGES 3
#define OUT_ROW 144 // bytes from row to row of the finished elements in shared memory: 128, and 16 that keep rows in different banks

// tile_at is where chunk (16 bytes, 0..3) of a row lies in a tile. The chunks of 8 rows, which one matrix load reads, lie in 8
// different groups of banks. Rows that differ by a multiple of 8 have the same order.
DEVICE u32 tile_at(u32 row, u32 chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }

DEVICE void copy_async(u32 to, const u8 *from) {
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
#define COPY_COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define COPY_WAIT_ALL_BUT_1 asm volatile("cp.async.wait_group 1;" ::: "memory")

DEVICE void load_matrices(u32 *m0, u32 *m1, u32 *m2, u32 *m3, u32 at) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(*m0), "=r"(*m1), "=r"(*m2), "=r"(*m3) : "r"(at) : "memory");
}

DEVICE void multiply(u32 *c, const u32 *a, const u32 *b) {
	asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	    : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

KERNEL(256, 2) gemm_mma(u8 *buf, u32 l, u32 from, u32 rk, u32 n) {
	SHARED u8 tiles[STAGES * STAGE];
	const u32 shared = shared_at(tiles);
	const u64 n2 = (u64)n * n, below = (u64)64 * n;
	const u32 t = THREAD, lane = t & 31, warp = t >> 5, wi = (warp & 1) * 64, wj = (warp >> 1) * 32, i0 = BLOCK_Y * 128, j0 = BLOCK * 128;

	// Each thread copies one chunk of rows t/4 and t/4+64 of both tiles.
	const u32 copy_to = shared + tile_at(t >> 2, t & 3);
	const u8 *a_from = buf + from * n2 + (u64)(i0 + (t >> 2)) * n + (t & 3) * 16;
	const u8 *b_from = buf + (l - 1) * n2 + (u64)(j0 + (t >> 2)) * n + (t & 3) * 16;
#define COPY_TILES(stage)                                                \
	{                                                                \
		const u32 to = copy_to + (stage) * STAGE;                \
		copy_async(to, a_from);                                  \
		copy_async(to + TILE / 2, a_from + below);               \
		copy_async(to + TILE, b_from);                           \
		copy_async(to + TILE + TILE / 2, b_from + below);        \
		a_from += 64;                                            \
		b_from += 64;                                            \
	}

	// Where this lane's row of the warp's first matrices lies: A as (rows 0-7, rows 8-15) x (bytes 0-15, 16-31), B the other way round.
	const u32 a_at = shared + tile_at(wi + (lane & 15), lane >> 4);
	const u32 b_at = shared + TILE + tile_at(wj + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);

	u32 c[4][4][4];
#pragma unroll
	for (u32 a = 0; a < 4; a++)
#pragma unroll
		for (u32 b = 0; b < 4; b++)
#pragma unroll
			for (u32 e = 0; e < 4; e++)
				c[a][b][e] = 0;

	const u32 parts = n / 64; // at least 2
	COPY_TILES(0);
	COPY_COMMIT;
	COPY_TILES(1);
	COPY_COMMIT;
	u32 stage = 0, next = 2;
	for (u32 part = 0; part < parts; part++) {
		COPY_WAIT_ALL_BUT_1;
		BLOCK_BARRIER; // this part has arrived for all threads, and none still reads the stage that is copied to next
		if (part + 2 < parts)
			COPY_TILES(next);
		COPY_COMMIT; // also where nothing was copied: the wait counts groups
#pragma unroll
		for (u32 half = 0; half < 2; half++) { // 32 bytes of the 64, two chunks further on
			u32 a[4][4], b[4][2];
#pragma unroll
			for (u32 k = 0; k < 4; k++)
				load_matrices(&a[k][0], &a[k][1], &a[k][2], &a[k][3], (a_at ^ half * 32) + stage * STAGE + k * 1024);
#pragma unroll
			for (u32 k = 0; k < 4; k += 2)
				load_matrices(&b[k][0], &b[k][1], &b[k + 1][0], &b[k + 1][1], (b_at ^ half * 32) + stage * STAGE + k * 512);
#pragma unroll
			for (u32 p = 0; p < 4; p++)
#pragma unroll
				for (u32 q = 0; q < 4; q++)
					multiply(c[p][q], a[p], b[q]);
		}
		stage = stage == STAGES - 1 ? 0 : stage + 1;
		next = next == STAGES - 1 ? 0 : next + 1;
	}

	// The elements go through shared memory, so that whole rows of 128 bytes are written.
	BLOCK_BARRIER;
	const u32 ri = wi + (lane >> 2), rj = wj + (lane & 3) * 2;
	const u32 at = rk + (i0 + ri) * 0x27D4EB2F + (j0 + rj) * 0x165667B1;
#pragma unroll
	for (u32 p = 0; p < 4; p++)
#pragma unroll
		for (u32 q = 0; q < 4; q++)
#pragma unroll
			for (u32 e = 0; e < 2; e++) { // rows lane/4 and lane/4+8 of the 16x8
				const u32 x = at + (p * 16 + e * 8) * 0x27D4EB2F + q * 8 * 0x165667B1;
				const u32 pair = phi(c[p][q][2 * e], x) | phi(c[p][q][2 * e + 1], x + 0x165667B1) << 8;
				*(u16 *)(tiles + (ri + p * 16 + e * 8) * OUT_ROW + rj + q * 8) = (u16)pair;
			}
	BLOCK_BARRIER;
	u8 *out = buf + l * n2 + (u64)(i0 + (t >> 3)) * n + j0 + (t & 7) * 16;
#pragma unroll
	for (u32 k = 0; k < 4; k++)
		*(u32x4 *)(out + (u64)(k * 32) * n) = *(const u32x4 *)(tiles + ((t >> 3) + k * 32) * OUT_ROW + (t & 7) * 16);
}
#endif

#if defined(SM90A)
// gemm_wgmma is gemm_dp4a on the tensor cores of compute capability 9.0, which read both operands from shared memory themselves: a
// block makes 128x256 elements at a time, two warpgroups 64x256 each, 128 bytes of every row (a part) at a time; a third warpgroup
// does nothing but copy the next parts there. The tiles are dealt out to as many blocks as there are, best one a multiprocessor, so
// that the copies for the next tile run while the elements of one are finished. Grid (any, 1), block 384, WG_SHARED bytes of dynamic
// shared memory; n is a multiple of 256.
#define PART 128 // bytes of a row: one row of the layout that the tensor cores call 128-byte swizzle
#define PART_B (128 * PART) // the rows of B lie behind those of A
#define PART_SIZE (384 * PART)
#define PARTS 4 // in shared memory
#define PARTS_AHEAD 1 // parts that are on their way behind the one that is waited for
#define WG_OUT (PARTS * PART_SIZE) // the finished elements of the 8 warps, 16 rows of 256 bytes each
#define WG_FULL (WG_OUT + 128 * 256) // a barrier a part: it has arrived
#define WG_EMPTY (WG_FULL + PARTS * 8) // a barrier a part: it has been read
#define WG_SHARED (1024 + WG_EMPTY + PARTS * 8) // the layout begins at a multiple of 1024
#define WG_GROUP 16 // rows of tiles that are made together, so that those in work at one time share what they read

extern __attribute__((shared)) __attribute__((aligned(1024))) u8 dynamic[];

// Barriers in shared memory count arrivals; a phase ends with the last one. The wait is for the end of the phase of that parity.
DEVICE void barrier_init(u32 at, u32 count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory"); }
DEVICE void barrier_arrive(u32 at, u32 yes) {
	asm volatile("{ .reg .pred p; .reg .b64 state; setp.ne.u32 p, %1, 0; @p mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(at), "r"(yes) : "memory");
}
DEVICE void barrier_wait(u32 at, u32 parity) {
	u32 done;
	do
		asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
			     : "=r"(done) : "r"(at), "r"(parity) : "memory");
	while (!done);
}

// What was written to shared memory is read by the tensor cores through another proxy: the writing thread has to say that it is done.
#define FENCE_ASYNC asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
#define COPY_WAIT_ALL_BUT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

// The accumulators of a warpgroup: element (16 w + l/4 + 8 (e/2 mod 2), 8 (e/4) + 2 (l mod 4) + e mod 2) of the 64x256 is c[e] of
// lane l in warp w.
#define ACCUMULATORS \
	"{" \
	"%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
	"%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
	"%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
	"%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
	"%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
	"%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
	"%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
	"%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127" \
	"}"
#define C4(c, i) "+r"(c[i]), "+r"(c[i + 1]), "+r"(c[i + 2]), "+r"(c[i + 3])
#define C16(c, i) C4(c, i), C4(c, i + 4), C4(c, i + 8), C4(c, i + 12)
#define C128(c) C16(c, 0), C16(c, 16), C16(c, 32), C16(c, 48), C16(c, 64), C16(c, 80), C16(c, 96), C16(c, 112)
#define WGMMA(a, b, add) "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 " ACCUMULATORS ", " a ", " b ", " add ";"

// A matrix in shared memory as wgmma takes it: address / 16, 1024 / 16 from eight rows to the next eight, 128-byte swizzle.
#define MATRIX(at) ((u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)1 << 16 | (u64)((at) >> 4))

// multiply_part begins the product of a part, 32 bytes of every row at a time, two sixteenths further on; what c holds counts where
// add is not 0.
DEVICE void multiply_part(u32 *c, u64 a, u64 b, u32 add) {
	asm volatile("{ .reg .pred add, all; .reg .b64 a1, a2, a3, b1, b2, b3;"
		     "setp.ne.u32 add, %130, 0; setp.eq.u32 all, 0, 0;"
		     "add.s64 a1, %128, 2; add.s64 a2, %128, 4; add.s64 a3, %128, 6;"
		     "add.s64 b1, %129, 2; add.s64 b2, %129, 4; add.s64 b3, %129, 6;"
		     "wgmma.fence.sync.aligned;"
		     WGMMA("%128", "%129", "add") WGMMA("a1", "b1", "all") WGMMA("a2", "b2", "all") WGMMA("a3", "b3", "all")
		     "wgmma.commit_group.sync.aligned; }"
		     : C128(c) : "l"(a), "l"(b), "r"(add) : "memory");
}
#define MULTIPLY_WAIT_ALL_BUT_1 asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory")
DEVICE void multiply_wait(u32 *c) { asm volatile("wgmma.wait_group.sync.aligned 0;" : C128(c) : : "memory"); }

// in_place keeps the compiler from working out ahead, and holding in registers, what is added to x later.
DEVICE u32 in_place(u32 x) {
	asm volatile("" : "+r"(x));
	return x;
}

// tile_begin gives the first row and column of a tile: down a group's rows first, then on to the next column.
DEVICE void tile_begin(u32 tile, u32 n, u32 *i, u32 *j) {
	const u32 rows = n / 128, columns = n / 256, group = WG_GROUP * columns, first = tile / group * WG_GROUP;
	const u32 height = rows - first < WG_GROUP ? rows - first : WG_GROUP;
	*i = (first + tile % group % height) * 128;
	*j = tile % group / height * 256;
}

KERNEL(384, 1) gemm_wgmma(u8 *buf, u32 l, u32 from, u32 rk, u32 n) {
	const u32 shared = (shared_at(dynamic) + 1023) & ~1023u;
	const u64 n2 = (u64)n * n;
	const u32 t = THREAD, lane = t & 31, parts = n / PART, tiles = (n / 128) * (n / 256);
	if (t == 0)
		for (u32 k = 0; k < PARTS * 8; k += 8) {
			barrier_init(shared + WG_FULL + k, 4); // the copying warps
			barrier_init(shared + WG_EMPTY + k, 8); // the multiplying ones
		}
	BLOCK_BARRIER;
	u32 slot = 0, round = 0; // where the part lies, and the parity of how often it lay there before

	if (t >= 256) {
		// Each thread copies one chunk of every sixteenth row.
		const u32 row = (t - 256) >> 3, chunk = t & 7, copy_to = shared + row * PART + ((chunk ^ (row & 7)) << 4);
		const u64 below = (u64)16 * n;
		u32 queued = 0, arrives = 0;
		for (u32 tile = BLOCK; tile < tiles; tile += BLOCKS) {
			u32 i, j;
			tile_begin(tile, n, &i, &j);
			const u8 *a_from = buf + from * n2 + (u64)(i + row) * n + chunk * 16;
			const u8 *b_from = buf + (l - 1) * n2 + (u64)(j + row) * n + chunk * 16;
#pragma unroll 1
			for (u32 part = 0; part < parts; part++) {
				barrier_wait(shared + WG_EMPTY + slot * 8, round ^ 1);
				const u32 to = copy_to + slot * PART_SIZE;
#pragma unroll
				for (u32 k = 0; k < 8; k++)
					copy_async(to + k * 16 * PART, a_from + k * below);
#pragma unroll
				for (u32 k = 0; k < 16; k++)
					copy_async(to + PART_B + k * 16 * PART, b_from + k * below);
				COPY_COMMIT;
				a_from += PART;
				b_from += PART;
				if (queued == PARTS_AHEAD) {
					COPY_WAIT_ALL_BUT(PARTS_AHEAD);
					FENCE_ASYNC;
					WARP_BARRIER;
					barrier_arrive(shared + WG_FULL + arrives * 8, lane == 0);
					arrives = arrives == PARTS - 1 ? 0 : arrives + 1;
				} else {
					queued++;
				}
				round ^= slot == PARTS - 1;
				slot = slot == PARTS - 1 ? 0 : slot + 1;
			}
		}
		COPY_WAIT_ALL_BUT(0);
		FENCE_ASYNC;
		WARP_BARRIER;
		for (; queued; queued--) {
			barrier_arrive(shared + WG_FULL + arrives * 8, lane == 0);
			arrives = arrives == PARTS - 1 ? 0 : arrives + 1;
		}
		return;
	}

	const u32 warp = t >> 5, wi = warp * 16;
	const u64 a = MATRIX(shared + (warp >> 2) * 64 * PART), b = MATRIX(shared + PART_B);
	const u32 out = shared + WG_OUT + warp * 16 * 256;
	u32 c[128];
#pragma unroll
	for (u32 e = 0; e < 128; e++)
		c[e] = 0;
	for (u32 tile = BLOCK; tile < tiles; tile += BLOCKS) {
		u32 i, j, last = 0;
		tile_begin(tile, n, &i, &j);
#pragma unroll 1
		for (u32 part = 0; part < parts; part++) {
			barrier_wait(shared + WG_FULL + slot * 8, round);
			multiply_part(c, a + slot * (PART_SIZE >> 4), b + slot * (PART_SIZE >> 4), part);
			MULTIPLY_WAIT_ALL_BUT_1; // the part before this one
			barrier_arrive(shared + WG_EMPTY + last * 8, part && lane == 0);
			last = slot;
			round ^= slot == PARTS - 1;
			slot = slot == PARTS - 1 ? 0 : slot + 1;
		}
		multiply_wait(c);
		barrier_arrive(shared + WG_EMPTY + last * 8, lane == 0);

		// The elements go through the warp's own shared memory, so that whole rows of 256 bytes are written. The 16-byte chunks of
		// 8 rows lie in 8 different groups of banks there.
		const u32 at = in_place(rk + (i + wi + (lane >> 2)) * 0x27D4EB2F + (j + (lane & 3) * 2) * 0x165667B1);
		const u32 pair_at = in_place(out + (lane >> 2) * 256 + ((lane >> 2) << 4) + (lane & 3) * 2);
#pragma unroll
		for (u32 e = 0; e < 128; e += 2) {
			const u32 x = at + (e >> 1 & 1) * 8 * 0x27D4EB2F + (e >> 2) * 8 * 0x165667B1;
			const u32 pair = phi(c[e], x) | phi(c[e + 1], x + 0x165667B1) << 8;
			const u32 to = (pair_at ^ (e >> 3) << 4) + (e >> 2 & 1) * 8 + (e >> 1 & 1) * 8 * 256;
			asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"((u16)pair) : "memory");
		}
		WARP_BARRIER;
		u8 *to = buf + l * n2 + (u64)(i + wi + (lane >> 4)) * n + j + (lane & 15) * 16;
#pragma unroll
		for (u32 k = 0; k < 16; k += 2) {
			const u32 row = k + (lane >> 4);
			u32 w[4];
			load_shared(w, out + row * 256 + (((lane & 15) ^ (row & 7)) << 4));
			*(u32x4 *)(to + (u64)k * n) = u32x4{w[0], w[1], w[2], w[3]};
		}
		WARP_BARRIER; // before the next tile's elements go there
	}
}
#endif

// SHA-256 (FIPS 180-4) on words that hold their bytes in big-endian order.
DEVICE void sha_begin(u32 *h) {
	h[0] = 0x6a09e667, h[1] = 0xbb67ae85, h[2] = 0x3c6ef372, h[3] = 0xa54ff53a;
	h[4] = 0x510e527f, h[5] = 0x9b05688c, h[6] = 0x1f83d9ab, h[7] = 0x5be0cd19;
}

DEVICE void sha_block(u32 *h, u32 *w) {
	const u32 k[64] = {
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
	};
	u32 s[8];
#pragma unroll
	for (u32 q = 0; q < 8; q++)
		s[q] = h[q];
#pragma unroll
	for (u32 i = 0; i < 64; i++) { // the names a..h turn instead of the words: a is s[-i mod 8]
		if (i >= 16) {
			const u32 x = w[(i + 1) & 15], y = w[(i + 14) & 15];
			w[i & 15] += (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[(i + 9) & 15] + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
		}
		const u32 a = s[(64 - i) & 7], b = s[(65 - i) & 7], c = s[(66 - i) & 7];
		const u32 e = s[(68 - i) & 7], f = s[(69 - i) & 7], g = s[(70 - i) & 7];
		const u32 t = s[(71 - i) & 7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (g ^ (e & (f ^ g))) + k[i] + w[i & 15];
		s[(67 - i) & 7] += t;
		s[(71 - i) & 7] = t + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b)));
	}
#pragma unroll
	for (u32 q = 0; q < 8; q++)
		h[q] += s[q];
}

// put_node writes the 24 bytes that a tree keeps of a hash.
DEVICE void put_node(u32 *out, const u32 *h) {
#pragma unroll
	for (u32 q = 0; q < 6; q += 2)
		*(u32x2 *)(out + q) = u32x2{swap_bytes(h[q]), swap_bytes(h[q + 1])};
}

// leaf_hash hashes leaf i of 512 bytes with tag tag0 + (i >> log2) and index i mod 2^log2, so that one launch hashes many layers.
// A thread a leaf, 128 threads a block. A warp reads 128 bytes of each of its 32 leaves in whole lines and hands them to their
// threads through shared memory; read by one thread each, neighbours would be 512 bytes apart.
#define LEAF_ROW 36 // words from leaf to leaf in shared memory: 32, and 4 that keep 8 rows in different banks
KERNEL(128, 1) leaf_hash(const u8 *base, u32 leaves, u32 log2, u32 tag0, u32 *out) {
	SHARED u32 staged[128 * LEAF_ROW];
	const u32 lane = THREAD & 31, i = BLOCK * THREADS + THREAD, first = i - lane;
	if (first >= leaves)
		return; // whole warps only: the others hash their last leaf again instead of a missing one
	u32 *warp = staged + (THREAD >> 5) * 32 * LEAF_ROW;
	const u32 mine = shared_at(warp + lane * LEAF_ROW);
	u32 h[8], w[16];
	sha_begin(h);
#pragma unroll 1
	for (u32 part = 0; part < 512; part += 128) {
#pragma unroll
		for (u32 k = 0; k < 8; k++) {
			const u32 row = k * 4 + (lane >> 3), leaf = first + row < leaves ? first + row : leaves - 1;
			*(u32x4 *)(warp + row * LEAF_ROW + (lane & 7) * 4) = *(const u32x4 *)(base + (u64)leaf * 512 + part + (lane & 7) * 16);
		}
		WARP_BARRIER;
#pragma unroll 1
		for (u32 half = 0; half < 32; half += 16) {
#pragma unroll
			for (u32 k = 0; k < 16; k += 4) {
				load_shared(w + k, mine + (half + k) * 4);
#pragma unroll
				for (u32 e = 0; e < 4; e++)
					w[k + e] = swap_bytes(w[k + e]);
			}
			sha_block(h, w);
		}
		WARP_BARRIER;
	}
	w[0] = 0x42534C46; // "BSLF"
	w[1] = swap_bytes(tag0 + (i >> log2));
	w[2] = swap_bytes(i & ((1u << log2) - 1));
	w[3] = 0;
	w[4] = 0x80000000; // SHA-256's own padding
#pragma unroll
	for (u32 k = 5; k < 15; k++)
		w[k] = 0;
	w[15] = (512 + 16) * 8;
	sha_block(h, w);
	if (i < leaves)
		put_node(out + (u64)i * 6, h);
}

// node_hash makes one level of trees from the level below: a thread a pair.
KERNEL(128, 1) node_hash(const u32 *in, u32 *out, u32 pairs) {
	const u32 i = BLOCK * THREADS + THREAD;
	if (i >= pairs)
		return;
	u32 h[8], w[16];
	sha_begin(h);
#pragma unroll
	for (u32 k = 0; k < 12; k += 4) {
		const u32x4 v = *(const u32x4 *)(in + (u64)i * 12 + k);
#pragma unroll
		for (u32 e = 0; e < 4; e++)
			w[k + e] = swap_bytes(v[e]);
	}
	w[12] = 0x80000000;
	w[13] = w[14] = 0;
	w[15] = 48 * 8;
	sha_block(h, w);
	put_node(out + (u64)i * 6, h);
}

// load_once reads 16 bytes past the first-level cache: no other thread of the multiprocessor will want them.
DEVICE void load_once(u32 *w, const u8 *at) {
	asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(at) : "memory");
}

// of_first gives each thread the value of the first of its group of 8; of_other that of the thread whose number differs by m.
DEVICE u32 of_first(u32 x) {
	u32 y;
	asm volatile("shfl.sync.idx.b32 %0, %1, 0, 0x1807, 0xffffffff;" : "=r"(y) : "r"(x));
	return y;
}
DEVICE u32 of_other(u32 x, u32 m) {
	u32 y;
	asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(y) : "r"(x), "r"(m));
	return y;
}

// walk takes every lane through one batch: 8 threads a lane, thread q holds word q and reads 16 bytes of each block, so that a step
// is one read of 128 bytes in one piece. seed is bs_b of the batch, first is 1 for batch 0. lanes is a multiple of 16, so that no
// warp is in part beyond them. Grid lanes*8/128, block 128.
KERNEL(128, 1) walk(const u8 *buf, u64 window, u32 blocks, u32 *state, u32 lanes, u32 steps, const u32 *seed, u32 first) {
	const u32 g = BLOCK * THREADS + THREAD, lane = g >> 3, q = g & 7;
	if (lane >= lanes)
		return;
	const u8 *from = buf + window + q * 16;
	u32 s = first ? fmix(seed[q] + lane * 0x9E3779B1) : state[g] ^ seed[q];
	for (u32 k = 0; k < steps; k++) {
		u32 w[4];
		load_once(w, from + (u64)scale(of_first(fmix(s)), blocks) * 128);
		s = rotl((s ^ w[0]) * 0x9E3779B1, 13);
		s = rotl((s ^ w[1]) * 0x85EBCA77, 11);
		s = rotl((s ^ w[2]) * 0xC2B2AE3D, 17);
		s = rotl((s ^ w[3]) * 0x27D4EB2F, 19);
#pragma unroll
		for (u32 m = 1; m < 8; m <<= 1)
			s = rotl(2 * s + of_other(s, m), 7) * 0x9E3779B1;
	}
	state[g] = s;
}

// spread lets two words of a cell that differ by a power of two in their number change each other.
DEVICE void spread(u32 &x, u32 &y) {
	const u32 a = x, b = y;
	x = rotl(2 * a + b, 7) * 0x9E3779B1;
	y = rotl(2 * b + a, 7) * 0x9E3779B1;
}

// mix makes every cell of round r from those of the round before: 8 threads a cell, thread q holds words 4q..4q+3. blocks is 0 in the
// rounds that read no block. cells is a multiple of 16. Grid cells*8/128, block 128.
KERNEL(128, 1) mix(const u8 *buf, u64 window, u32 blocks, const u8 *in, u8 *out, u32 cells, u32 r) {
	const u32 g = BLOCK * THREADS + THREAD, i = g >> 3, q = g & 7;
	if (i >= cells)
		return;
	u32 a[4], b[4], c[4], w[4] = {0, 0, 0, 0};
	load_once(a, in + (u64)i * 128 + q * 16);
	const u32 j1 = scale(of_first(fmix(a[0])), cells), j2 = scale(of_first(fmix(a[1])), cells);
	load_once(b, in + (u64)j1 * 128 + q * 16);
	load_once(c, in + (u64)j2 * 128 + q * 16);
	const u32 t = i * 0x27D4EB2F + r * 0x165667B1;
#pragma unroll
	for (u32 k = 0; k < 4; k++)
		a[k] = rotl((rotl((a[k] ^ b[k]) * 0x9E3779B1, 13) ^ c[k]) * 0x85EBCA77, 11) + t;
	spread(a[0], a[1]);
	spread(a[2], a[3]);
	spread(a[0], a[2]);
	spread(a[1], a[3]);
#pragma unroll
	for (u32 m = 1; m < 8; m <<= 1)
#pragma unroll
		for (u32 k = 0; k < 4; k++)
			a[k] = rotl(2 * a[k] + of_other(a[k], m), 7) * 0x9E3779B1;
	if (blocks)
		load_once(w, buf + window + (u64)scale(of_first(fmix(a[0])), blocks) * 128 + q * 16);
	u32x4 y;
#pragma unroll
	for (u32 k = 0; k < 4; k++)
		y[k] = rotl((a[k] ^ w[k]) * 0xC2B2AE3D, 17);
	*(u32x4 *)(out + (u64)i * 128 + q * 16) = y;
}
