package validator

import (
	"crypto/sha256"
	"encoding/binary"

	"basilica"
)

// calendar turns finalized heads into rounds. A round begins at every multiple of its length; this validator looks in
// the slot that the hash of that block gives it, so that all machines answer one validator at once, two validators rarely
// meet, and nobody knows the slot beforehand. Owned by one goroutine.
type calendar struct {
	blocks, slots uint64
	hotkey        [32]byte
	open          *basilica.Round // begun, its slot not reached
}

func newCalendar(blocks, slots uint64, hotkey [32]byte) *calendar {
	return &calendar{blocks: blocks, slots: slots, hotkey: hotkey}
}

// head takes the next finalized head and says whether this validator's slot of a round begins with it.
func (c *calendar) head(h basilica.Header) (basilica.Round, bool) {
	if uint64(h.Number)%c.blocks == 0 {
		c.open = &basilica.Round{First: h.Number, Hash: h.Hash, Slot: int(slot(h.Hash, c.hotkey, c.slots))}
	}
	if c.open == nil || h.Number < c.begins(*c.open) {
		return basilica.Round{}, false
	}
	r := *c.open
	c.open = nil
	return r, true
}

// begins is the block at which this validator's slot of a round begins.
func (c *calendar) begins(r basilica.Round) basilica.BlockNumber {
	return r.First + basilica.BlockNumber(uint64(r.Slot)*(c.blocks/c.slots))
}

// next is the first block of the round after head.
func (c *calendar) next(head basilica.BlockNumber) basilica.BlockNumber {
	return basilica.BlockNumber((uint64(head)/c.blocks + 1) * c.blocks)
}

// slot is H("BSLSLOT\0" | block hash | hotkey) mod slots, over the first eight bytes, little-endian.
func slot(hash basilica.Hash, hotkey [32]byte, slots uint64) uint64 {
	b := append([]byte("BSLSLOT\x00"), hash[:]...)
	sum := sha256.Sum256(append(b, hotkey[:]...))
	return binary.LittleEndian.Uint64(sum[:8]) % slots
}
