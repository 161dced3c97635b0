package localnet

import (
	"context"
	"fmt"
	"slices"

	"basilica"
)

// settling is an included extrinsic whose block is not final yet.
type settling struct {
	*pooled
	number uint64
	block  basilica.Hash
}

// final is the number of the last block that cannot be reorganised away.
func (c *Chain) final() uint64 { return c.head() - min(c.head(), c.config.FinalityLag) }

// finalize says so to the extrinsics whose block became final.
func (c *Chain) finalize() {
	final := c.final()
	c.unfinal = slices.DeleteFunc(c.unfinal, func(s settling) bool {
		if s.number > final {
			return false
		}
		s.tell("finalized", s.block)
		return true
	})
}

// Finalized is the last block that stays: the head, or Config.FinalityLag blocks before it.
func (c *Chain) Finalized() basilica.Header {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.headerAt(c.final())
}

// NextFinalized waits for the final block after number and returns it.
func (c *Chain) NextFinalized(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error) {
	return c.passed(ctx, after, c.final)
}

// DelayInclusion keeps extrinsics that come from now on out of the next blocks, so many of them. 0 ends it.
func (c *Chain) DelayInclusion(blocks uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delay = blocks
}

// Reorganise drops the last depth blocks, none of which may be final, as if another author's branch had won. Their
// extrinsics hear "retracted" and wait in the pool again, in their order and before all others; lose, where not nil, says
// of an extrinsic's bytes that the pool forgets it too. The next blocks have the same numbers and other hashes.
func (c *Chain) Reorganise(depth uint64, lose func(raw []byte) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if depth == 0 || depth > c.head()-c.final() {
		return fmt.Errorf("localnet: %d blocks cannot be dropped, %d are not final", depth, c.head()-c.final())
	}
	keep := c.head() - depth
	var back []settling
	c.unfinal = slices.DeleteFunc(c.unfinal, func(s settling) bool {
		if s.number <= keep {
			return false
		}
		back = append(back, s)
		return true
	})
	c.retreat(keep)
	if err := c.recallUpgrades(); err != nil {
		return err
	}
	c.forks++
	x := c.next()
	waiting := c.pool.order
	c.pool = newPool()
	for _, s := range back {
		s.tell("retracted", s.block)
		if lose != nil && lose(s.raw) {
			s.tell("dropped", basilica.Hash{})
			continue
		}
		if err := c.pool.add(x, s.extrinsic, s.status, x.block); err != nil {
			s.tell("invalid", basilica.Hash{})
		}
	}
	for _, t := range waiting {
		if err := c.pool.add(x, t.extrinsic, t.status, t.from); err != nil {
			t.tell("invalid", basilica.Hash{})
		}
	}
	c.carriers = nil
	c.recallCarriers()
	return nil
}

// retreat makes block keep the head again.
func (c *Chain) retreat(keep uint64) {
	for n := c.head(); n > keep; n-- {
		c.state.revert(n)
		c.hashes.pop()
		delete(c.blocks, n)
	}
}
