package subtensor

import (
	"context"
	"fmt"

	"basilica"
	"basilica/keys"
)

func account(ss58 string) ([32]byte, error) {
	pub, err := keys.DecodeSS58(ss58)
	if err != nil {
		return pub, basilica.E(basilica.Invalid, "ADDRESS", fmt.Sprintf("%.60q is not an SS58 address of this network", ss58),
			"give an address of 48 characters that begins with 5").With(err)
	}
	return pub, nil
}

// SetWeights submits one weight vector. A subnet with commit-reveal refuses
// plain weights, and this client does not make commits. intend sees every signed
// transaction before it is sent; it may be nil.
func (c *Client) SetWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error) {
	r, err := c.setWeights(ctx, netuid, hotkey, weights, versionKey, intend)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("set weights: %w", err)
	}
	return r.Inclusion, nil
}

func (c *Client) setWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (*receipt, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, err
	}
	enabled, err := v.one(ctx, "CommitRevealWeightsEnabled", netuid)
	if err != nil {
		return nil, err
	}
	if on, ok := enabled.(bool); !ok || on {
		return nil, basilica.E(basilica.Invalid, "COMMIT_REVEAL", fmt.Sprintf("subnet %d takes weights by commit-reveal only, which is unsupported here", netuid),
			"ask the subnet's owner to switch commit-reveal off, or set weights with another tool")
	}
	dests, values := make([]uint16, len(weights)), make([]uint16, len(weights))
	for i, w := range weights {
		dests[i], values[i] = uint16(w.UID), w.Value
	}
	return c.submit(ctx, hotkey, "SubtensorModule", "set_weights", map[string]any{
		"netuid": netuid, "dests": dests, "weights": values, "version_key": versionKey,
	}, Intend(intend))
}
