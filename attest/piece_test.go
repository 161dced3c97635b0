package attest_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"basilica/attest"
)

// TestCrown: what is opened from the upper part of a tree and the leaves below one of its nodes is what the whole tree opens.
func TestCrown(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, leaves := range []int{1, 2, 8, 32, 128, 512} {
		data := make([]byte, leaves*attest.LeafSize)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		const tag = 7
		level, whole := attest.TreeLevel(data, tag, attest.CrownNodes(leaves))
		c, err := attest.NewCrown(tag, leaves, level)
		if err != nil || c.Root() != attest.MerkleRoot(data, tag) {
			t.Fatal(leaves, err)
		}
		for count := 1; count*attest.CrownNodes(leaves) <= leaves; count *= 2 {
			for first := 0; first < leaves; first += count {
				under := c.Below(first)
				got := c.Open([]byte("x"), attest.Piece{Tag: tag, First: first, Count: count}, data[under.First*attest.LeafSize:][:under.Count*attest.LeafSize])
				if !bytes.Equal(got[1:], whole(first, count)) {
					t.Fatalf("%d leaves: %d from %d differ", leaves, count, first)
				}
			}
		}
		if _, err := attest.NewCrown(tag, leaves, append(level, attest.Node{})); !errors.Is(err, attest.ErrLength) {
			t.Error(leaves, err)
		}
	}
}
