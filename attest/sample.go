package attest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// sampler draws uniform numbers from a stream of random bytes. The first error sticks; after it all draws are zero.
type sampler struct {
	r   io.Reader
	err error
}

func (s *sampler) read(b []byte) {
	if s.err != nil {
		return
	}
	if _, err := io.ReadFull(s.r, b); err != nil {
		s.err = fmt.Errorf("draw randomness: %w", err)
	}
}

// below draws from 0..n-1, 1 <= n <= 2^32, by rejection.
func (s *sampler) below(n int) int {
	limit := uint64(1<<32) - uint64(1<<32)%uint64(n)
	var b [4]byte
	for {
		s.read(b[:])
		if s.err != nil {
			return 0
		}
		if v := uint64(binary.LittleEndian.Uint32(b[:])); v < limit {
			return int(v % uint64(n))
		}
	}
}

func (s *sampler) digest() (d Digest) {
	s.read(d[:])
	return d
}

func (s *sampler) bytes16() (b [16]byte) {
	s.read(b[:])
	return b
}

// openings holds all that one challenge opens: Fill, PRG, Walk, Mix as in OPEN, Ping by position in the list of PINGs.
type openings struct {
	fill []FillIndex
	prg  []PRGIndex
	walk []WalkIndex
	mix  []MixIndex
	ping []int
}

// draw adds the openings of GPU g, whose answered PINGs stand at the given positions.
func (o *openings) draw(s *sampler, g int, p Params, q Strength, pings []int) {
	for range q.Fill {
		o.fill = append(o.fill, FillIndex{g, 2 + s.below(p.Layers-2), s.below(p.N), s.below(p.N)})
	}
	for k := range q.PRG {
		o.prg = append(o.prg, PRGIndex{g, k % 2, s.below(p.layerLeaves())})
	}
	for range q.Walk {
		o.walk = append(o.walk, WalkIndex{g, s.below(p.Lanes), s.below(p.Batches)})
	}
	for r := 1; r <= p.Rounds; r++ {
		for range q.Mix {
			o.mix = append(o.mix, MixIndex{g, r, s.below(p.Cells)})
		}
	}
	left := append([]int(nil), pings...)
	for k := 0; k < q.Ping && len(left) > 0; k++ {
		i := s.below(len(left))
		o.ping = append(o.ping, left[i])
		left[i] = left[len(left)-1]
		left = left[:len(left)-1]
	}
}
