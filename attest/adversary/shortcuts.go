package adversary

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"basilica/attest"
)

// choice says which places are left out: each part of a cheat has a salt, and what is left out follows from it alone, the same
// at every replay.
type choice struct{ fill, walk, mix uint32 }

// shortcuts leaves out the fractions of the cheat, exactly that many of every layer, batch or round. key gives the key of the
// mix, which is not known when the device is made.
func (c Cheat) shortcuts(p attest.Params, seed attest.Digest, salt *choice, key *attest.Digest) (s attest.Shortcuts) {
	if c.Leaf > 0 || c.Kind != "" {
		s.Layer = func(l int, before func(int) []byte, x []byte) bool { return c.layer(p, seed, salt.fill, l, before, x) }
	}
	if c.Fill > 0 {
		s.Element = func(l, i, j int) (byte, bool) {
			return byte(i ^ j), left(c.Fill, p.N*p.N, salt.fill^uint32(l), i*p.N+j)
		}
	}
	if c.Hole > 0 || c.Kind == Bare {
		blocks := p.LayerBytes() / attest.BlockSize
		s.Hole = func(mixing bool, block int) bool {
			return c.Kind == Bare && mixing || left(c.Hole, blocks, salt.fill^uint32(3<<20|block/blocks), block%blocks)
		}
	}
	if c.Walk > 0 {
		s.Lane = func(batch, lane int) bool { return left(c.Walk, p.Lanes, salt.walk^uint32(1<<20|batch), lane) }
	}
	if c.Mix > 0 || c.Break > 0 {
		s.Cell = func(round, cell int) bool {
			broken := round == 1+int(mixed(salt.mix)%uint32(p.Rounds)) && left(c.Break, p.Cells, salt.mix, cell)
			return broken || left(c.Mix, p.Cells, salt.mix^uint32(1<<21|round), cell)
		}
	}
	if c.Stale > 0 || c.Alone > 0 {
		s.Partner = func(round, cell, partner int) []byte {
			switch {
			case left(c.Alone, p.Cells, salt.mix^uint32(1<<22|round), cell):
				return make([]byte, attest.CellSize)
			case left(c.Stale, p.Cells, salt.mix^uint32(1<<23|round), cell):
				words := make([]byte, attest.CellSize)
				generate(words, partner*attest.CellSize/4, key.Word(0), key.Word(1))
				return words
			}
			return nil
		}
	}
	return s
}

// layer makes layer l in another way than the specification has it, and says whether it did.
func (c Cheat) layer(p attest.Params, seed attest.Digest, salt uint32, l int, before func(int) []byte, x []byte) bool {
	noise := rand.NewChaCha8(seed)
	switch {
	case l < 2 && c.Leaf > 0:
		generate(x, 0, seed.Word(2*l), seed.Word(2*l+1))
		leaves := len(x) / attest.LeafSize
		for k := range leaves {
			if left(c.Leaf, leaves, salt^uint32(5<<20|l), k) {
				_, _ = noise.Read(x[k*attest.LeafSize:][:attest.LeafSize]) // never fails
			}
		}
	case l < 2:
		return false
	case c.Kind == Garbage, c.Kind == Cheap && l == 2+int(mixed(salt)%uint32(p.Layers-2)):
		_, _ = noise.Read(x)
	case c.Kind == Schedule && l == p.Layers-1:
		from, roundKey := attest.Schedule(seed, l)
		product(p.N, before((from+1)%(l-1)), before(l-1), x, roundKey, dot)
	case c.Kind == Hankel:
		from, roundKey := attest.Schedule(seed, l)
		hankel(p.N, before(from), before(l-1), x, roundKey)
	case c.Kind == LowRank:
		from, roundKey := attest.Schedule(seed, l)
		product(p.N, before(from), before(l-1), x, roundKey, func(a, b []byte) int32 { return dot(a[:4], b[:4]) })
	default:
		return false
	}
	return true
}

// product makes a layer with another inner product.
func product(n int, a, b, x []byte, roundKey uint32, inner func(a, b []byte) int32) {
	for i := range n {
		for j := range n {
			x[i*n+j] = phi(inner(a[i*n:][:n], b[j*n:][:n]), i, j, roundKey)
		}
	}
}

// hankel makes a layer in the time of two rows, as if the inner product of (i, j) hung on i+j alone.
func hankel(n int, a, b, x []byte, roundKey uint32) {
	sums := make([]int32, 2*n-1)
	for k := range sums {
		i := max(0, k-n+1)
		sums[k] = dot(a[i*n:][:n], b[(k-i)*n:][:n])
	}
	for i := range n {
		for j := range n {
			x[i*n+j] = phi(sums[i+j], i, j, roundKey)
		}
	}
}

func dot(a, b []byte) (s int32) {
	for k := range a {
		s += int32(int8(a[k])) * int32(int8(b[k]))
	}
	return s
}

// phi is that of gpu-proof.md section 3.2.
func phi(sum int32, i, j int, roundKey uint32) byte {
	u := (uint32(sum) ^ (roundKey + uint32(i)*0x27D4EB2F + uint32(j)*0x165667B1)) * 0x9E3779B1
	u ^= u >> 15
	return byte(u * 0x85EBCA77 >> 24)
}

// generate writes the words of the specification's generator, from word number first on.
func generate(dst []byte, first int, k0, k1 uint32) {
	for i := range len(dst) / 4 {
		binary.LittleEndian.PutUint32(dst[4*i:], mixed(mixed(uint32(first+i)*0x9E3779B1^k0)+k1))
	}
}

// left says whether place x of total, a power of two, is among the ceil(f * total) that are left out: x's place under a
// permutation that salt chooses.
func left(f float64, total int, salt uint32, x int) bool {
	h := mixed(salt)
	place := ((uint32(x)^h)*(2*mixed(h)+1) + mixed(h+1)) & uint32(total-1)
	return float64(place) < math.Ceil(f*float64(total))
}

// mixed is murmur3's finaliser.
func mixed(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85EBCA6B
	h ^= h >> 13
	h *= 0xC2B2AE35
	return h ^ h>>16
}
