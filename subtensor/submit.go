package subtensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
)

// eraPeriod is how many blocks a transaction of ours may wait; afterwards it
// is dead and cannot surprise anybody.
const eraPeriod = 64

// receipt is a successful inclusion with the events of the extrinsic.
type receipt struct {
	basilica.Inclusion
	events []pallet.Event
}

// sent is a signed extrinsic on its way.
type sent struct {
	bytes hexBytes
	hash  basilica.Hash
	nonce uint64
	born  basilica.BlockNumber // finalized head when it was signed
	spec  uint32               // of the runtime that it is signed for
	next  basilica.BlockNumber // first block that was not searched yet
	death basilica.BlockNumber // first block that cannot hold it any more
	inner *sent                // what this one carries sealed; nil where it is the call itself
	again bool                 // the node may not have it: it is sent once more at the next look
	last  string               // the node's word with which it ended its notices; "" where it did not
	found basilica.BlockNumber // block that holds it; 0 where none is known
}

// effect is the transaction that brings the call about.
func (x *sent) effect() *sent {
	if x.inner != nil {
		return x.inner
	}
	return x
}

// Codes of what became of a transaction.
const (
	codeLost      = "TRANSACTION_LOST"    // it is in no block up to its last
	codeUsurped   = "TRANSACTION_USURPED" // the same, for another one took its place
	codeNotOpened = "SHIELD_NOT_OPENED"   // the chain took it sealed, and it is in no block up to its last

	// CodeSent is of a transaction that was sent and whose end is not known: repeated, it may be paid twice.
	CodeSent = "TRANSACTION_SENT"
)

// unsettled gives an error that leaves open what became of x its name. A verdict passes: the chain refused the call, or it is
// in no block and can be in none any more.
func (x *sent) unsettled(err error) error {
	var refused *pallet.DispatchError
	switch code := basilica.CodeOf(err); {
	case err == nil, code == codeLost, code == codeUsurped, code == codeNotOpened, errors.As(err, &refused):
		return err
	}
	e := x.effect()
	if e.found > 0 {
		return basilica.E(basilica.Unavailable, "TRANSACTION_SENT", fmt.Sprintf("transaction %s is in block %d, and whether the chain did what it says is not known", e.hash, e.found),
			"do not repeat it before you have looked whether it took effect").With(err)
	}
	return basilica.E(basilica.Unavailable, "TRANSACTION_SENT", fmt.Sprintf("transaction %s with nonce %d was sent, and what became of it is not known: it may take effect up to block %d", e.hash, e.nonce, e.death-1),
		fmt.Sprintf("do not repeat it before block %d is final, and look then whether it took effect", e.death-1)).With(err)
}

// submit signs a call, sends it and returns once its block is final and its
// events say success. One key has one submission at a time, so that nonces
// never race.
func (c *Client) submit(ctx context.Context, signer keys.Signer, palletName, call string, args map[string]any, opts ...SubmitOption) (*receipt, error) {
	what, how := palletName+"."+call, optionsOf(opts)
	release, err := c.enter(ctx, signer.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer release()
	for attempt := 0; ; attempt++ {
		x, err := c.sign(ctx, signer, palletName, call, args, how.shield)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		for _, intend := range how.intend {
			e := x.effect()
			if err := intend(basilica.Signed{Extrinsic: e.hash, Nonce: e.nonce, Born: e.born, Death: e.death}); err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
		}
		r, err := c.send(ctx, x)
		if err == nil && x.inner != nil {
			carrier := r.events // which names the fee of the carrier
			if r, err = c.opened(ctx, x.inner, r); err == nil {
				r.events = append(r.events, carrier...)
			}
			err = x.unsettled(err)
		}
		switch code := basilica.CodeOf(err); {
		case attempt == 3:
		case code == codeStale || code == codeFuture:
			c.log.Info("transaction's nonce was taken, signing again", "call", what, "err", err)
			continue // another program used the key between our question and our answer
		case code == codeBadProof && c.upgraded(ctx, x.spec):
			c.log.Info("the chain's runtime was upgraded, signing again", "call", what)
			continue
		case code == codeShieldKey:
			c.log.Info("the chain's shield key moved on, sealing again", "call", what)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		c.log.Info("transaction is final", "call", what, "block", r.Block, "extrinsic", r.Extrinsic)
		return r, nil
	}
}

// enter waits for the key's turn.
func (c *Client) enter(ctx context.Context, key [32]byte) (release func(), err error) {
	c.mu.Lock()
	q, ok := c.queues[key]
	if !ok {
		q = make(chan struct{}, 1)
		c.queues[key] = q
	}
	c.mu.Unlock()
	select {
	case q <- struct{}{}:
		return func() { <-q }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// best is the runtime of the last block, by which the pool judges. Right after an upgrade the finalized head still has
// the one before.
func (c *Client) best(ctx context.Context) (*runtimeVersion, error) {
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getBlockHash"); err != nil {
		return nil, fmt.Errorf("last block: %w", err)
	}
	return c.runtimeAt(ctx, hash)
}

// upgraded tells whether the last block's runtime is another one than that of spec. Where it cannot be known, the
// refusal that made us ask stands.
func (c *Client) upgraded(ctx context.Context, spec uint32) bool {
	rt, err := c.best(ctx)
	return err == nil && rt.spec != spec
}

func (c *Client) sign(ctx context.Context, signer keys.Signer, palletName, call string, args map[string]any, shielded bool) (*sent, error) {
	rt, err := c.best(ctx)
	if err != nil {
		return nil, err
	}
	data, err := rt.call(palletName, call, args)
	if err != nil {
		return nil, err
	}
	nonce, err := c.nextNonce(ctx, signer)
	if err != nil {
		return nil, err
	}
	if shielded {
		return c.signShielded(ctx, rt, signer, data, nonce)
	}
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	return c.signed(ctx, rt, signer, data, nonce, head, eraPeriod)
}

// nextNonce is the nonce that a key signs with next: after all that is in blocks and in the node's pool.
func (c *Client) nextNonce(ctx context.Context, signer keys.Signer) (uint64, error) {
	var nonce uint64
	if err := c.call(ctx, &nonce, "account_nextIndex", signer.SS58()); err != nil {
		return 0, fmt.Errorf("nonce: %w", err)
	}
	return nonce, nil
}

// signed signs a call for the blocks after head, as many as period.
func (c *Client) signed(ctx context.Context, rt *runtimeVersion, signer keys.Signer, data []byte, nonce uint64, head basilica.Header, period uint64) (*sent, error) {
	genesis, err := c.Genesis(ctx)
	if err != nil {
		return nil, err
	}
	// The period is below the quantum of 4096, so the era is born at the head.
	s := pallet.Signing{
		SpecVersion: rt.spec, TxVersion: rt.tx, Genesis: genesis, Nonce: nonce,
		Era: pallet.MortalEra(period, uint64(head.Number)), BirthHash: head.Hash,
	}
	x := &sent{spec: rt.spec, nonce: nonce, born: head.Number, next: head.Number + 1, death: basilica.BlockNumber(s.Era.Death(uint64(head.Number)))}
	if x.bytes, err = rt.words.Sign(data, s, signer); errors.Is(err, pallet.ErrUnsupported) {
		return nil, basilica.E(basilica.Invalid, "EXTENSION_UNKNOWN", fmt.Sprintf("the chain's runtime %d wants something signed that this version does not know, so nothing was signed", rt.spec),
			"install a newer version of this program").With(err)
	}
	if err != nil {
		return nil, err
	}
	x.hash = pallet.ExtrinsicHash(x.bytes)
	return x, nil
}

// send submits x and follows it to its end.
func (c *Client) send(ctx context.Context, x *sent) (*receipt, error) {
	cur, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // nothing was sent
	}
	rctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	sub, err := cur.subscribe(rctx, "author_submitAndWatchExtrinsic", "author_unwatchExtrinsic", x.bytes)
	cancel()
	var refused *rpcError
	if errors.As(err, &refused) && refused.Code == codeMethodNotFound {
		err = c.callOn(ctx, cur, nil, "author_submitExtrinsic", x.bytes)
	}
	switch {
	case err == nil, errors.As(err, &refused) && refused.Code == codeAlreadyImported:
	case errors.As(err, &refused):
		return nil, poolError(err)
	default: // the node may have taken it all the same
		if ctx.Err() == nil {
			c.log.Warn("no answer to a transaction that was sent, sending the same one again", "extrinsic", x.hash, "err", err)
		}
		x.again = true
	}
	r, err := c.await(ctx, sub, x)
	return r, x.unsettled(err)
}

// await follows x, which was sent, to its end. Where the subscription cannot tell the end, or there is none, the chain itself
// is searched.
func (c *Client) await(ctx context.Context, sub *subscription, x *sent) (*receipt, error) {
	var (
		hash *basilica.Hash
		err  error
	)
	if sub != nil {
		defer sub.close()
		hash, err = c.follow(ctx, sub, x)
	}
	if err == nil && hash == nil {
		hash, err = c.search(ctx, x)
	}
	if err != nil {
		return nil, err
	}
	return c.settle(ctx, x, *hash)
}

// resend gives the node the same bytes again: they cannot take effect twice. Whatever it answers, the chain decides, for it
// may have the first copy already.
func (c *Client) resend(ctx context.Context, x *sent) error {
	var refused *rpcError
	if err := c.call(ctx, nil, "author_submitExtrinsic", x.bytes); err != nil && !errors.As(err, &refused) {
		return err
	}
	x.again = false
	return nil
}

// awayPatience is for how long no node may answer about a transaction that was sent, until that is an error: as long as it may
// wait for its block, and a little more.
const awayPatience = 15 * time.Minute

// patiently repeats a question about a transaction that was sent while no node answers it.
func patiently[T any](ctx context.Context, c *Client, ask func() (T, error)) (T, error) {
	for began, said := time.Now(), false; ; said = true {
		v, err := ask()
		switch basilica.CodeOf(err) {
		case "CHAIN_UNREACHABLE", codeBusy, "BLOCK_UNKNOWN":
		default:
			return v, err
		}
		if ctx.Err() != nil || time.Since(began) > awayPatience {
			return v, err
		}
		if !said {
			c.log.Warn("waiting for a node that says what became of a transaction that was sent", "at_most", awayPatience, "err", err)
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(c.cfg.PollInterval):
		}
	}
}

func (c *Client) settle(ctx context.Context, x *sent, hash basilica.Hash) (*receipt, error) {
	return patiently(ctx, c, func() (*receipt, error) { return c.outcome(ctx, x, hash) })
}

// follow reads the node's notices, and looks at the chain itself now and then,
// for a node that forgot the transaction sends nothing more. It gives the
// final block, or nil where the notices ended without one.
func (c *Client) follow(ctx context.Context, sub *subscription, x *sent) (*basilica.Hash, error) {
	look := time.NewTicker(10 * c.cfg.PollInterval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-look.C:
			hash, err := c.scan(ctx, x)
			if basilica.KindOf(err) == basilica.Unavailable && basilica.CodeOf(err) != codeLost {
				return nil, nil // the search goes on with it
			}
			if err != nil || hash != nil {
				return hash, err
			}
		case raw, ok := <-sub.ch:
			if !ok {
				x.again = true
				return nil, nil
			}
			final, last, err := readStatus(raw)
			if final != nil {
				return final, nil
			}
			if err != nil {
				c.log.Warn("a node's word on a transaction cannot be read, looking for it in the chain", "extrinsic", x.hash, "err", err)
				return nil, nil
			}
			if last != "" {
				// It may have gone to other nodes before, so only the chain says what became of it.
				c.log.Warn("the node will say no more of a transaction, looking for it in the chain", "extrinsic", x.hash, "word", last, "up_to_block", x.death-1)
				x.last, x.again = last, last == "dropped"
				return nil, nil
			}
		}
	}
}

// readStatus reads one notice. last is the word of one after which no more comes although the transaction may still be, or
// come, in a block.
func readStatus(raw json.RawMessage) (final *basilica.Hash, last string, err error) {
	var word string
	if json.Unmarshal(raw, &word) == nil {
		switch word {
		case "dropped", "invalid":
			return nil, word, nil
		}
		return nil, "", nil // future, ready
	}
	var status struct {
		Finalized       *basilica.Hash  `json:"finalized"`
		FinalityTimeout json.RawMessage `json:"finalityTimeout"`
		Usurped         json.RawMessage `json:"usurped"`
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		return nil, "", fmt.Errorf("transaction status: %w", err)
	}
	switch {
	case status.Usurped != nil:
		return nil, "usurped", nil
	case status.FinalityTimeout != nil:
		return nil, "finalityTimeout", nil
	}
	return status.Finalized, "", nil
}

// search scans until x is found or dead. A node that was away may have lost what it had in its pool.
func (c *Client) search(ctx context.Context, x *sent) (*basilica.Hash, error) {
	for {
		hash, err := patiently(ctx, c, func() (*basilica.Hash, error) {
			if x.again {
				if err := c.resend(ctx, x); err != nil {
					return nil, err
				}
			}
			hash, err := c.scan(ctx, x)
			x.again = x.again || basilica.KindOf(err) == basilica.Unavailable && basilica.CodeOf(err) != codeLost
			return hash, err
		})
		if err != nil || hash != nil {
			return hash, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(c.cfg.PollInterval):
		}
	}
}

// scan looks for x in the finalized blocks that were not searched yet. It
// gives the block, nil while x may still come, or an error once it cannot.
func (c *Client) scan(ctx context.Context, x *sent) (*basilica.Hash, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	for ; x.next <= head.Number && x.next < x.death; x.next++ {
		hash, err := c.blockHash(ctx, x.next)
		if err != nil {
			return nil, err
		}
		b, err := c.blockAt(ctx, hash)
		if err != nil {
			return nil, err
		}
		if x.index(b) >= 0 {
			return &hash, nil
		}
	}
	switch {
	case x.next < x.death:
		return nil, nil
	case x.last == "usurped":
		return nil, basilica.E(basilica.Conflict, "TRANSACTION_USURPED", fmt.Sprintf("another transaction of the same key took this one's place: it is in no block up to %d, its last", x.death-1),
			"make sure that only one program uses this key, and try again")
	}
	return nil, basilica.E(basilica.Unavailable, "TRANSACTION_LOST",
		fmt.Sprintf("the transaction is in no block up to %d, its last", x.death-1), "try again; it can take no effect any more")
}

// Fate implements basilica.Chain by reading the finalized blocks that can hold the transaction.
func (c *Client) Fate(ctx context.Context, s basilica.Signed) (basilica.Inclusion, bool, error) {
	x := &sent{hash: s.Extrinsic, nonce: s.Nonce, born: s.Born, next: s.Born + 1, death: s.Death}
	hash, err := c.scan(ctx, x)
	if err != nil || hash == nil {
		return basilica.Inclusion{}, false, err
	}
	r, err := c.outcome(ctx, x, *hash)
	if err != nil {
		return basilica.Inclusion{}, false, err
	}
	return r.Inclusion, true, nil
}

// block is what we read of a block.
type block struct {
	Block struct {
		Header     jsonHeader `json:"header"`
		Extrinsics []hexBytes `json:"extrinsics"`
	} `json:"block"`
}

func (c *Client) blockAt(ctx context.Context, hash basilica.Hash) (*block, error) {
	var b *block
	if err := c.call(ctx, &b, "chain_getBlock", hash); err != nil {
		return nil, fmt.Errorf("block %s: %w", hash, err)
	}
	if b == nil {
		return nil, basilica.E(basilica.Unavailable, "BLOCK_UNKNOWN", "the node does not know block "+hash.String(), "")
	}
	return b, nil
}

// index is x's place in a block, -1 where it is not in it.
func (x *sent) index(b *block) int {
	for i, raw := range b.Block.Extrinsics {
		if pallet.ExtrinsicHash(raw) == x.hash {
			return i
		}
	}
	return -1
}

// outcome reads the block of x and what its events say of x.
func (c *Client) outcome(ctx context.Context, x *sent, hash basilica.Hash) (*receipt, error) {
	b, err := c.blockAt(ctx, hash)
	if err != nil {
		return nil, err
	}
	index := x.index(b)
	if index < 0 {
		return nil, fmt.Errorf("block %s does not hold the transaction that the node said it holds", hash)
	}
	x.found = basilica.BlockNumber(b.Block.Header.Number)
	events, rt, err := c.eventsBy(ctx, hash, b.Block.Header.ParentHash)
	if err != nil {
		return nil, err
	}
	if err := rt.words.Outcome(events, index); err != nil {
		return nil, dispatchError(err)
	}
	r := &receipt{Inclusion: basilica.Inclusion{
		Block: basilica.BlockNumber(b.Block.Header.Number), BlockHash: hash, Index: index, Extrinsic: x.hash,
	}}
	for _, e := range events {
		if e.Extrinsic == index {
			r.events = append(r.events, e)
		}
	}
	return r, nil
}

// eventsBy reads the events of a block, which the runtime of its parent's state writes, and gives that runtime.
func (c *Client) eventsBy(ctx context.Context, block, parent basilica.Hash) ([]pallet.Event, *runtimeVersion, error) {
	rt, err := c.runtimeAt(ctx, parent)
	if err != nil {
		return nil, nil, err
	}
	key, err := rt.words.StorageKey("System", "Events")
	if err != nil {
		return nil, nil, err
	}
	var raw *hexBytes
	if err := c.call(ctx, &raw, "state_getStorage", hexBytes(key), block); err != nil {
		return nil, nil, fmt.Errorf("events: %w", err)
	}
	if raw == nil {
		raw = &hexBytes{0}
	}
	events, err := rt.words.Events(*raw)
	if err != nil {
		return nil, nil, fmt.Errorf("events: %w", err)
	}
	return events, rt, nil
}
