package localnet

import (
	"bytes"
	"fmt"

	"basilica"
	"basilica/scale"
)

// keptHashes is for how many blocks a number has its hash, and a hash its number. It is longer than keptStates, so that
// whoever asks for a state that is gone hears why.
const keptHashes = 16 * keptStates

// hashLine has the hash of block 0 and those of the last keptHashes blocks.
type hashLine struct {
	genesis basilica.Hash
	first   uint64 // number of list[0]
	list    []basilica.Hash
	numbers map[basilica.Hash]uint64
}

// next is the number of the block to come.
func (l *hashLine) next() uint64 { return l.first + uint64(len(l.list)) }

// at is the hash of a block by its number.
func (l *hashLine) at(number uint64) (basilica.Hash, bool) {
	switch {
	case number >= l.next():
		return basilica.Hash{}, false
	case number == 0:
		return l.genesis, true
	case number < l.first:
		return basilica.Hash{}, false
	}
	return l.list[number-l.first], true
}

// number finds a block by its hash.
func (l *hashLine) number(hash basilica.Hash) (uint64, bool) {
	if hash == l.genesis && l.next() > 0 {
		return 0, true
	}
	n, known := l.numbers[hash]
	return n, known
}

// push adds the next block and forgets the oldest.
func (l *hashLine) push(hash basilica.Hash) {
	if l.numbers == nil {
		l.numbers = map[basilica.Hash]uint64{}
	}
	if l.next() == 0 {
		l.genesis = hash
	}
	l.numbers[hash] = l.next()
	l.list = append(l.list, hash)
	if over := len(l.list) - keptHashes; over > 0 {
		for _, old := range l.list[:over] {
			delete(l.numbers, old)
		}
		// The array's beginning goes when it has grown to twice of what is kept.
		if l.list, l.first = l.list[over:], l.first+uint64(over); cap(l.list) < keptHashes+keptHashes/16 {
			l.list = append(make([]basilica.Hash, 0, 2*keptHashes), l.list...)
		}
	}
}

// pop forgets the last block.
func (l *hashLine) pop() {
	last := len(l.list) - 1
	delete(l.numbers, l.list[last])
	l.list = l.list[:last]
}

// until is the line as it was when block number was the last.
func (l *hashLine) until(number uint64) *hashLine {
	return &hashLine{genesis: l.genesis, first: l.first, list: l.list[:number+1-l.first]}
}

func (l *hashLine) encode(b []byte) []byte {
	b = scale.AppendCompact(b, l.first)
	b = append(b, l.genesis[:]...)
	b = scale.AppendCompact(b, uint64(len(l.list)))
	for _, h := range l.list {
		b = append(b, h[:]...)
	}
	return b
}

func readHashLine(r *scale.Reader) (l hashLine) {
	first, genesis := r.Compact(), basilica.Hash(readAccount(r))
	var list []basilica.Hash
	for range r.Count(32) {
		list = append(list, basilica.Hash(readAccount(r)))
	}
	if first > 1<<40 || first > 0 && len(list) == 0 || first == 0 && len(list) > 0 && !bytes.Equal(list[0][:], genesis[:]) {
		r.Fail(fmt.Errorf("%d hashes from block %d on", len(list), first))
		return l
	}
	l.first = first
	for _, h := range list {
		l.push(h)
	}
	l.genesis = genesis
	return l
}
