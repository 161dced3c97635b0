package attest

import (
	"encoding/binary"
	"math/bits"
)

// This file holds the integer functions of gpu-proof.md section 3 that the prover and the verifier share.

// fmix is the murmur3 32-bit finaliser.
func fmix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	h ^= h >> 16
	return h
}

// generate is word w of a generated layer or of the first cells.
func generate(w, k0, k1 uint32) uint32 { return fmix(fmix(w*0x9E3779B1^k0) + k1) }

// generateWords fills dst (whole u32 words) from word number first on.
func generateWords(dst []byte, first, k0, k1 uint32) {
	for i := range len(dst) / 4 {
		binary.LittleEndian.PutUint32(dst[4*i:], generate(first+uint32(i), k0, k1))
	}
}

// phi turns an inner product into a byte of the next layer.
func phi(c, i, j, roundKey uint32) byte {
	u := (c ^ (roundKey + i*0x27D4EB2F + j*0x165667B1)) * 0x9E3779B1
	u ^= u >> 15
	u *= 0x85EBCA77
	return byte(u >> 24)
}

// dot is the inner product of two rows of int8; n <= 65536 keeps it inside an int32.
//
//go:norace
func dot(a, b []byte) int32 {
	var s, t, u, v int32
	for len(a) >= 8 && len(b) >= 8 {
		x, y := a[:8], b[:8]
		s += int32(int8(x[0])) * int32(int8(y[0]))
		t += int32(int8(x[1])) * int32(int8(y[1]))
		u += int32(int8(x[2])) * int32(int8(y[2]))
		v += int32(int8(x[3])) * int32(int8(y[3]))
		s += int32(int8(x[4])) * int32(int8(y[4]))
		t += int32(int8(x[5])) * int32(int8(y[5]))
		u += int32(int8(x[6])) * int32(int8(y[6]))
		v += int32(int8(x[7])) * int32(int8(y[7]))
		a, b = a[8:], b[8:]
	}
	return s + t + u + v
}

// scaleTo maps a word to 0..n-1.
func scaleTo(w uint32, n int) int { return int(uint64(fmix(w)) * uint64(n) >> 32) }

// lane is the state of one walker.
type lane [StateSize / 4]uint32

// firstLane is the state of lane number i before batch 0.
func firstLane(bs *Digest, i int) (s lane) {
	for q := range s {
		s[q] = fmix(bs.word(q) + uint32(i)*0x9E3779B1)
	}
	return s
}

// step consumes one 128-byte block.
//
//go:norace
func (s *lane) step(block []byte) {
	_ = block[BlockSize-1]
	for q := range s {
		w := block[q*16 : q*16+16]
		v := s[q]
		v = bits.RotateLeft32((v^binary.LittleEndian.Uint32(w))*0x9E3779B1, 13)
		v = bits.RotateLeft32((v^binary.LittleEndian.Uint32(w[4:]))*0x85EBCA77, 11)
		v = bits.RotateLeft32((v^binary.LittleEndian.Uint32(w[8:]))*0xC2B2AE3D, 17)
		s[q] = bits.RotateLeft32((v^binary.LittleEndian.Uint32(w[12:]))*0x27D4EB2F, 19)
	}
	for m := 1; m < len(s); m <<= 1 {
		o := *s
		for q := range s {
			s[q] = bits.RotateLeft32(2*o[q]+o[(q^m)&7], 7) * 0x9E3779B1
		}
	}
}

// enter prepares a state for the next batch.
func (s *lane) enter(bs *Digest) {
	for q := range s {
		s[q] ^= bs.word(q)
	}
}

func (s *lane) put(b []byte) {
	for q, v := range s {
		binary.LittleEndian.PutUint32(b[4*q:], v)
	}
}

func readLane(b []byte) (s lane) {
	for q := range s {
		s[q] = binary.LittleEndian.Uint32(b[4*q:])
	}
	return s
}

// cell is one cell of the mix.
type cell [CellSize / 4]uint32

// firstCell is cell i of round 0.
func firstCell(m *Digest, i int) (c cell) {
	for k := range c {
		c[k] = generate(uint32(i*len(c)+k), m.word(0), m.word(1))
	}
	return c
}

// partners names two cells of the previous round, chosen by the cell's own words.
func (c *cell) partners(cells int) (int, int) { return scaleTo(c[0], cells), scaleTo(c[1], cells) }

// join mixes cell i of round r-1 with its partners; word 0 of the result addresses the block.
//
//go:norace
func join(a, b, c *cell, i, r int) (x cell) {
	t := uint32(i)*0x27D4EB2F + uint32(r)*0x165667B1
	// Pairs 1, 2, 4, 8 and 16 words apart, all of a distance at once from the old values: each pair needs itself only, so that
	// four words go through two distances together.
	for k := 0; k < len(x); k += 4 {
		w, a, b, c := (*[4]uint32)(x[k:]), (*[4]uint32)(a[k:]), (*[4]uint32)(b[k:]), (*[4]uint32)(c[k:])
		p, q := pair(start(a[0], b[0], c[0], t), start(a[1], b[1], c[1], t))
		r, s := pair(start(a[2], b[2], c[2], t), start(a[3], b[3], c[3], t))
		w[0], w[2] = pair(p, r)
		w[1], w[3] = pair(q, s)
	}
	for h := 0; h < len(x); h += 16 {
		w := (*[16]uint32)(x[h:])
		for k := range 4 {
			p, q, r, s := w[k], w[k+4], w[k+8], w[k+12]
			p, q = pair(p, q)
			r, s = pair(r, s)
			w[k], w[k+8] = pair(p, r)
			w[k+4], w[k+12] = pair(q, s)
		}
	}
	for k := range 16 {
		x[k], x[k+16] = pair(x[k], x[k+16])
	}
	return x
}

// start mixes the words of a cell and of its partners.
func start(a, b, c, t uint32) uint32 {
	v := bits.RotateLeft32((a^b)*0x9E3779B1, 13)
	return bits.RotateLeft32((v^c)*0x85EBCA77, 11) + t
}

// pair mixes two words of a cell with each other.
func pair(u, v uint32) (uint32, uint32) {
	return bits.RotateLeft32(2*u+v, 7) * 0x9E3779B1, bits.RotateLeft32(2*v+u, 7) * 0x9E3779B1
}

// absorb takes in the block, or nothing in the rounds without one (nil).
func (c *cell) absorb(block []byte) {
	if block != nil {
		w := readCell(block)
		for k := range c {
			c[k] ^= w[k]
		}
	}
	for k := range c {
		c[k] = bits.RotateLeft32(c[k]*0xC2B2AE3D, 17)
	}
}

func (c *cell) put(b []byte) {
	for k := 0; k < len(c); k += 4 {
		w, v := (*[16]byte)(b[4*k:]), (*[4]uint32)(c[k:])
		binary.LittleEndian.PutUint32(w[0:], v[0])
		binary.LittleEndian.PutUint32(w[4:], v[1])
		binary.LittleEndian.PutUint32(w[8:], v[2])
		binary.LittleEndian.PutUint32(w[12:], v[3])
	}
}

//go:norace
func readCell(b []byte) (c cell) {
	for k := 0; k < len(c); k += 4 {
		w, v := (*[16]byte)(b[4*k:]), (*[4]uint32)(c[k:])
		v[0] = binary.LittleEndian.Uint32(w[0:])
		v[1] = binary.LittleEndian.Uint32(w[4:])
		v[2] = binary.LittleEndian.Uint32(w[8:])
		v[3] = binary.LittleEndian.Uint32(w[12:])
	}
	return c
}
