package attest

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"

	"basilica/attest/attestpb"
)

// AskToOpen gives OPEN with so many product elements and lanes to a prover of one GPU that waits for it.
func AskToOpen(p Params, fill, walk int) error {
	m := &attestpb.Open{}
	for range fill {
		m.Fill = append(m.Fill, &attestpb.FillIndex{L: 2})
	}
	for range walk {
		m.Walk = append(m.Walk, &attestpb.WalkIndex{})
	}
	prover := &Prover{phase: phasePing, jobs: []Job{{Params: p}}, toward: sha256.New(), back: sha256.New()}
	_, err := prover.Receive(encode(FrameOpen, m))
	return err
}

// MutateRecord calls refused with copies of the record in each of which one bit of the randomness, of a frame or of a
// time differs; every step-th event is changed. It counts the copies and the refusals.
func MutateRecord(r *Record, step int, refused func(*Record) bool) (n, ok int) {
	try := func(m Record) {
		n++
		if refused(&m) {
			ok++
		}
	}
	for i := range 80 { // run16 and the nonces; of later draws the high bits may go unused
		m := *r
		m.tape = bytes.Clone(r.tape)
		m.tape[i] ^= 1 << rand.IntN(8)
		try(m)
	}
	for i := 0; i < len(r.events); i += step {
		m := *r
		m.events = append([]event(nil), r.events...)
		e := &m.events[i]
		e.data = bytes.Clone(e.data)
		e.data[rand.IntN(len(e.data))] ^= 1 << rand.IntN(8)
		try(m)
	}
	for i := range r.events { // the times that rates come from
		if t := Frame(r.events[i].data).Type(); t != FrameFillDone && t != FrameWalkDone && t != FrameMixDone {
			continue
		}
		m := *r
		m.events = append([]event(nil), r.events...)
		m.events[i].at++
		try(m)
	}
	return n, ok
}

// TreeLevel gives a level of the tree over data, and what the whole tree opens.
func TreeLevel(data []byte, tag uint32, nodes int) (level []Node, open func(first, count int) []byte) {
	t := newTree(data, tag)
	for _, l := range t {
		if len(l) == nodes {
			level = append(level, l...)
		}
	}
	return level, func(first, count int) []byte { return t.open(nil, data, first, count) }
}

// Frames gives how many bytes of frames a record has, and how many of them it holds in memory.
func (r *Record) Frames() (all, held int) {
	for _, e := range r.events {
		all, held = all+max(len(e.data), e.size), held+len(e.data)
	}
	return all, held
}
