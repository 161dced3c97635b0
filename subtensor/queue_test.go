package subtensor

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
)

// trouble is what goes wrong with one extrinsic on its way.
type trouble int

const (
	nothing    trouble = iota
	lostBefore         // the connection ends before the node has it
	lostAfter          // the connection ends before the node says that it has it
	awayAfter          // the same, and nobody answers for 30 seconds
	forgotten          // the node takes it and forgets it without a word
	foreign            // another program used the nonce meanwhile
	limited            // the node limits its callers
	dropped            // the node says that it gave it up, and it comes into a block all the same
	droppedFor         // the node says that it gave it up, and did
)

// queueGames is how many of rapid's plans are played; each takes simulated hours.
const queueGames = 30

// TestQueueNonces: whatever happens to a key's transactions on their way, each one that is said to be final is in one block,
// each one that is said to be lost is in none, and the nonces in the blocks have neither gap nor double.
func TestQueueNonces(t *testing.T) {
	v := speak(t, 425, nil)
	played := 0
	rapid.Check(t, func(rt *rapid.T) {
		if played++; played > queueGames {
			return
		}
		plan := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) trouble { return trouble(rapid.IntRange(0, int(droppedFor)).Draw(rt, "trouble")) }), 0, 6).Draw(rt, "plan")
		keysUsed := rapid.IntRange(1, 2).Draw(rt, "keys")
		each := rapid.IntRange(1, 3).Draw(rt, "each")
		synctest.Test(t, func(t *testing.T) { playQueue(t, v, plan, keysUsed, each) })
	})
}

func playQueue(t *testing.T, v *vocabulary, plan []trouble, keysUsed, each int) {
	l := newLedger(t, v)
	client, wire, stop := serveLedger(t, l, ServerConfig{})
	defer stop()
	at := func(n int) trouble {
		if n < len(plan) {
			return plan[n]
		}
		return nothing
	}
	l.arrive = func(n int) error {
		switch at(n) {
		case lostBefore:
			wire.cut(false)
			return ErrDrop
		case limited:
			return refusal{codeTooMuchWork, "storage work rate limit exceeded", ""}
		case foreign:
			l.mu.Lock()
			for who := range l.nonces {
				l.nonces[who]++
			}
			l.mu.Unlock()
		}
		return nil
	}
	l.taken = func(n int) {
		switch at(n) {
		case lostAfter:
			wire.cut(false)
		case awayAfter:
			wire.cut(true)
			time.AfterFunc(30*time.Second, func() { wire.cut(false) })
		case forgotten:
			l.forget()
		case dropped, droppedFor:
			l.disown("dropped", at(n) == dropped)
		}
	}
	type result struct {
		who  [32]byte
		hash basilica.Hash
		err  error
		sent []basilica.Hash
	}
	results := make(chan result, keysUsed*each)
	var wg sync.WaitGroup
	signers := make([]*keys.Pair, keysUsed)
	for k := range signers {
		signers[k] = ledgerKey(t, fmt.Sprintf("//Queue%d", k))
		l.nonces[signers[k].PublicKey()] = 0
	}
	for _, signer := range signers {
		for i := range each {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
				defer cancel()
				var sent []basilica.Hash
				in, err := client.SetWeights(ctx, ledgerSubnet, signer, []basilica.Weight{{UID: basilica.UID(i), Value: 65535}}, uint64(i), func(s basilica.Signed) error {
					sent = append(sent, s.Extrinsic)
					return nil
				})
				results <- result{signer.PublicKey(), in.Extrinsic, err, sent}
			})
		}
	}
	wg.Wait()
	close(results)
	blocks := map[basilica.Hash]int{}
	next := map[[32]byte]uint64{}
	l.mu.Lock()
	for _, body := range l.bodies {
		for _, raw := range body {
			x, err := v.words.DecodeExtrinsic(raw)
			if err != nil {
				t.Fatal(err)
			}
			if x.Nonce < next[x.Signer] {
				t.Errorf("nonce %d again", x.Nonce)
			}
			next[x.Signer] = x.Nonce + 1
			blocks[pallet.ExtrinsicHash(raw)]++
		}
	}
	l.mu.Unlock()
	for r := range results {
		found := 0
		for _, hash := range r.sent {
			found += blocks[hash]
		}
		switch {
		case r.err == nil && (blocks[r.hash] != 1 || found != 1):
			t.Errorf("said to be final, and in %d blocks (%d copies): %v", blocks[r.hash], found, plan)
		case r.err != nil && found != 0 && basilica.KindOf(r.err) != basilica.Unavailable:
			t.Errorf("said to be refused (%v), and in %d blocks: %v", r.err, found, plan)
		case basilica.CodeOf(r.err) == codeLost && found != 0:
			t.Errorf("said to be lost (%v), and in %d blocks, signed %d times: %v, %d keys, %d each", r.err, found, len(r.sent), plan, keysUsed, each)
		case r.err != nil && basilica.CodeOf(r.err) == "":
			t.Errorf("an end without a name: %v (%v)", r.err, plan)
		}
	}
}
