package subtensor

import (
	"context"
	"fmt"
	"time"

	"basilica"
)

// Clock is the time that the author of the newest block wrote into it: the chain's own clock is at least that late, and on a
// chain that goes on not much later than a block's time.
func (c *Client) Clock(ctx context.Context) (time.Time, error) {
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getBlockHash"); err != nil {
		return time.Time{}, fmt.Errorf("newest block: %w", err)
	}
	v, err := c.viewAt(ctx, hash)
	if err != nil {
		return time.Time{}, err
	}
	values, err := v.read(ctx, item{"Timestamp", "Now", nil})
	if err != nil {
		return time.Time{}, fmt.Errorf("the chain's clock: %w", err)
	}
	var p picker
	ms := p.number("Timestamp.Now", values[0])
	return time.UnixMilli(int64(ms)), p.err
}
