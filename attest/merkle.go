package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"
)

// Leaf tags keep trees of different things apart; a layer's tag is its number.
const (
	mixTag  = 0x40000000 // | round
	walkTag = 0x80000000 // | batch
)

// maxRowLeaves is the most leaves that one opening holds: a row of n = 65536.
const maxRowLeaves = 65536 / LeafSize

var errMerkle = errors.New("leaf does not reach its root")

// hashLeaf commits to 512 bytes. The 16 bytes behind them bring it to 528, so that a leaf is never read as a node. It, hashNode
// and takeLeaves touch their arguments alone and are not watched by the race detector: a verifier does little else.
//
//go:norace
func hashLeaf(data []byte, tag, idx uint32) Node {
	var b [LeafSize + 16]byte
	copy(b[:LeafSize], data)
	copy(b[LeafSize:], "BSLF")
	binary.LittleEndian.PutUint32(b[LeafSize+4:], tag)
	binary.LittleEndian.PutUint32(b[LeafSize+8:], idx)
	h := sha256.Sum256(b[:])
	return Node(h[:NodeSize])
}

//go:norace
func hashNode(l, r *Node) Node {
	var b [2 * NodeSize]byte
	copy(b[:], l[:])
	copy(b[NodeSize:], r[:])
	h := sha256.Sum256(b[:])
	return Node(h[:NodeSize])
}

// tree is a binary Merkle tree: level 0 holds the leaves' digests, the last level the root.
type tree [][]Node

// newTree builds the tree over data, whose length is a power of two times 512 bytes.
func newTree(data []byte, tag uint32) tree { return newSubtree(data, tag, 0) }

// newSubtree builds the part of a tree over the leaves of data, the first of which has the given number in the whole tree.
func newSubtree(data []byte, tag uint32, first int) tree {
	level := make([]Node, len(data)/LeafSize)
	for i := range level {
		level[i] = hashLeaf(data[i*LeafSize:(i+1)*LeafSize], tag, uint32(first+i))
	}
	return grow(level)
}

// grow builds the tree over a level of a power of two nodes.
func grow(level []Node) tree {
	t := append(make(tree, 0, bits.Len(uint(len(level)))), level)
	above := make([]Node, len(level)-1)
	for len(level) > 1 {
		up := above[:len(level)/2]
		for i := range up {
			up[i] = hashNode(&level[2*i], &level[2*i+1])
		}
		t, level, above = append(t, up), up, above[len(up):]
	}
	return t
}

func (t tree) root() Node { return t[len(t)-1][0] }

// MerkleRoot is the root of the tree over data (a power of two times 512 bytes) whose leaves carry the tag.
func MerkleRoot(data []byte, tag uint32) Node { return newTree(data, tag).root() }

// open appends cnt leaves of data from leaf first on, then the path of their subtree upwards.
func (t tree) open(b, data []byte, first, cnt int) []byte {
	b = append(b, data[first*LeafSize:(first+cnt)*LeafSize]...)
	level := bits.Len(uint(cnt)) - 1
	for i := first >> level; level < len(t)-1; level++ {
		b = append(b, t[level][i^1][:]...)
		i >>= 1
	}
	return b
}

// takeLeaves checks that cnt leaves from first on, at the head of b, reach the root of a tree of so many leaves.
// It returns their bytes and what follows the path. The caller has compared the total length of b.
//
//go:norace
func takeLeaves(b []byte, leaves int, tag uint32, first, cnt int, root *Node) (data, rest []byte, err error) {
	data, rest = b[:cnt*LeafSize], b[cnt*LeafSize:]
	var d Node
	if cnt == 1 {
		d = hashLeaf(data, tag, uint32(first))
	} else {
		d = hashLeaves(data, tag, first)
	}
	i := first / cnt
	for c := leaves / cnt; c > 1; c /= 2 {
		sibling := (*Node)(rest)
		if i&1 == 0 {
			d = hashNode(&d, sibling)
		} else {
			d = hashNode(sibling, &d)
		}
		i, rest = i>>1, rest[NodeSize:]
	}
	if d != *root {
		return nil, nil, errMerkle
	}
	return data, rest, nil
}

// hashLeaves is the root of the subtree over the leaves of data, a power of two of them, from number first on.
//
//go:norace
func hashLeaves(data []byte, tag uint32, first int) Node {
	var digests [maxRowLeaves]Node
	cnt := len(data) / LeafSize
	for k := range cnt {
		digests[k] = hashLeaf(data[k*LeafSize:(k+1)*LeafSize], tag, uint32(first+k))
	}
	for ; cnt > 1; cnt /= 2 {
		for k := range cnt / 2 {
			digests[k] = hashNode(&digests[2*k], &digests[2*k+1])
		}
	}
	return digests[0]
}
