package subtensor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/shield"
)

const (
	// shieldPeriod is how many blocks a shielded transaction may wait; the runtime refuses more.
	shieldPeriod = 8
	// codeShieldKey is the pool's refusal of a ciphertext that is sealed to a key which the chain has left behind.
	codeShieldKey = "Pool.InvalidShieldedTxPubKeyHash"
)

// signShielded signs a call at the nonce after the next one and seals it into a MevShield.submit_encrypted at the next one.
func (c *Client) signShielded(ctx context.Context, rt *runtimeVersion, signer keys.Signer, data []byte, nonce uint64) (*sent, error) {
	if !rt.words.HasCall("MevShield", "submit_encrypted") {
		return nil, shieldMissing()
	}
	// Eight blocks are less than finality may take: both are born at the parent of the last block.
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getBlockHash"); err != nil {
		return nil, fmt.Errorf("last block: %w", err)
	}
	last, err := c.headerOf(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("last block: %w", err)
	}
	born := last
	if last.Number > 0 {
		born = basilica.Header{Number: last.Number - 1, Hash: last.Parent}
	}
	inner, err := c.signed(ctx, rt, signer, data, nonce+1, born, shieldPeriod)
	if err != nil {
		return nil, err
	}
	v := &view{client: c, rt: rt, at: hash}
	key, err := v.shieldKey(ctx)
	if err != nil {
		return nil, err
	}
	ciphertext, err := shield.Seal(key, inner.bytes)
	if errors.Is(err, shield.ErrTooLong) {
		return nil, basilica.E(basilica.Invalid, "SHIELD_TOO_LONG", fmt.Sprintf("the transaction has %d bytes, which is more than MevShield takes", len(inner.bytes)),
			"send it without --shield, or a smaller one").With(err)
	}
	if err != nil {
		return nil, err
	}
	carrier, err := rt.call("MevShield", "submit_encrypted", map[string]any{"ciphertext": ciphertext})
	if err != nil {
		return nil, err
	}
	x, err := c.signed(ctx, rt, signer, carrier, nonce, born, shieldPeriod)
	if err != nil {
		return nil, err
	}
	x.inner = inner
	return x, nil
}

func shieldMissing() error {
	return basilica.E(basilica.Invalid, "SHIELD_MISSING", "this chain has no MevShield", "send it without --shield: everybody reads it before it takes effect")
}

// shieldKey is the key that the chain announced last.
func (v *view) shieldKey(ctx context.Context) ([]byte, error) {
	values, err := v.read(ctx, item{"MevShield", "NextKey", nil})
	if err != nil {
		return nil, fmt.Errorf("shield key: %w", err)
	}
	if values[0] == nil {
		return nil, basilica.E(basilica.Unavailable, "SHIELD_INACTIVE", "the chain announces no key of MevShield now", "try again in some blocks, or send it without --shield")
	}
	key, ok := values[0].([]byte)
	if !ok {
		return nil, fmt.Errorf("shield key is %T", values[0])
	}
	return key, nil
}

// opened waits for the block that holds what a carrier brought, and reads what its events say of it.
func (c *Client) opened(ctx context.Context, inner *sent, carrier *receipt) (*receipt, error) {
	inner.next = carrier.Block
	for {
		hash, err := patiently(ctx, c, func() (*basilica.Hash, error) { return c.scan(ctx, inner) })
		if err != nil && basilica.CodeOf(err) == codeLost {
			return nil, basilica.E(basilica.Unavailable, "SHIELD_NOT_OPENED", fmt.Sprintf("the chain took the sealed transaction in block %d and opened it in none up to %d", carrier.Block, inner.death-1),
				"try again; the fee of the carrier is spent, the call itself can take no effect any more").With(err)
		}
		if err != nil {
			return nil, err
		}
		if hash != nil {
			return c.settle(ctx, inner, *hash)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(c.cfg.PollInterval):
		}
	}
}
