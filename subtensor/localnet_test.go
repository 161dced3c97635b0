package subtensor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/localnet"
	"basilica/scale"
)

// TestSealedWeightsOnLocalnet commits to weights on localnet, whose own beacon opens them; the node is away for 30 seconds
// when the commit is on its way. Then somebody writes a pulse far ahead (case A1-3): the commit that waits is known as lost
// at once, and the next one is opened.
func TestSealedWeightsOnLocalnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		genesis := &localnet.Genesis{Subnets: []localnet.GenesisSubnet{{
			NetUID: ledgerSubnet, Owner: "//Alice", OwnerHotkey: "//Alice//hot",
			Hyperparameters: map[string]any{"tempo": int64(20), "weights_rate_limit": int64(30), "commit_reveal_weights_enabled": true},
		}}}
		chain, err := localnet.New(localnet.Config{BlockTime: ledgerBlock, Genesis: genesis, Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		sealed := make(chan error, 1)
		go func() { sealed <- chain.Run(ctx) }()
		client, wire, stop := serveNode(t, chain, chain, ServerConfig{})
		defer func() {
			stop()
			cancel()
			if err := errors.Join(<-sealed, chain.Close()); err != nil {
				t.Error(err)
			}
		}()
		bob, hot := ledgerKey(t, "//Bob"), ledgerKey(t, "//Bob//hot")
		uid, _, err := client.Register(ctx, ledgerSubnet, basilica.Hotkey(hot.SS58()), bob, 10e9)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.AddStake(ctx, ledgerSubnet, basilica.Hotkey(hot.SS58()), bob, 1000e9); err != nil {
			t.Fatal(err)
		}
		// The rate limit of weights, in which an epoch gives the permit, and some: what is sent between two blocks waits for one.
		allowed := 41*ledgerBlock + ledgerBlock/4
		weights := []basilica.Weight{{UID: 0, Value: 65535}}
		<-time.After(allowed)
		var intents []basilica.Signed
		send := func() basilica.WeightCommit {
			t.Helper()
			in, err := client.SetWeights(ctx, ledgerSubnet, hot, weights, 0, func(s basilica.Signed) error {
				intents = append(intents, s)
				time.AfterFunc(time.Millisecond, func() { wire.cut(true) }) // before a block can take it
				time.AfterFunc(31*time.Second, func() { wire.cut(false) })
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if fate, found, err := client.Fate(ctx, intents[len(intents)-1]); fate != in || !found || err != nil {
				t.Errorf("fate of %+v: %+v %v %v", in, fate, found, err)
			}
			c := *intents[len(intents)-1].Commit
			c.Block = in.Block
			return c
		}
		c := send()
		if c.Kind != basilica.CommitTimelock || len(intents) != 1 {
			t.Fatalf("%+v, signed %d times", c, len(intents))
		}
		if c = follow(t, client, hot, c, weights); c.State != basilica.CommitRevealed {
			t.Fatalf("%+v", c)
		}
		if got, err := client.Weights(ctx, ledgerSubnet, uid); err != nil || !slices.Equal(got, weights) {
			t.Errorf("stored %v %v", got, err)
		}
		<-time.After(allowed)
		lost := send()
		jumpBeacon(t, client, chain, lost.Round+50)
		<-time.After(2 * ledgerBlock)
		if lost = follow(t, client, hot, lost, weights); lost.State != basilica.CommitLost || lost.Reason == nil {
			t.Fatalf("%+v", lost)
		}
		<-time.After(allowed)
		head, err := client.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		nowhere := basilica.Signed{Extrinsic: basilica.Hash{1}, Born: head.Number - 2, Death: head.Number + 10}
		if _, found, err := client.Fate(ctx, nowhere); found || err != nil {
			t.Errorf("a transaction that may still come: %v %v", found, err)
		}
		nowhere.Death = head.Number
		if _, found, err := client.Fate(ctx, nowhere); found || basilica.CodeOf(err) != codeLost {
			t.Errorf("a transaction that can come no more: %v %v", found, err)
		}
		if again := follow(t, client, hot, send(), weights); again.State != basilica.CommitRevealed || again.Round <= lost.Round {
			t.Errorf("%+v", again)
		}
	})
}

// jumpBeacon writes the pulse of a round far ahead, as anybody may.
func jumpBeacon(t *testing.T, client *Client, chain *localnet.Chain, round uint64) {
	t.Helper()
	rt, err := client.best(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, ok := chain.Pulse(round)
	if !ok {
		t.Fatal("the chain has no beacon of its own")
	}
	eve := ledgerKey(t, "//Eve")
	call := func(signature []byte) []byte {
		data, err := rt.words.Call("Drand", "write_pulse", map[string]any{
			"pulses_payload": map[string]any{
				"block_number": uint32(chain.Head().Number) + 1, "public": scale.NewVariant("Sr25519", eve.PublicKey()),
				"pulses": []any{map[string]any{"round": p.Round, "randomness": p.Randomness, "signature": p.Signature}},
			},
			"signature": scale.NewVariant("Sr25519", signature),
		})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	unsigned := call(make([]byte, keys.SignatureSize))
	payload := unsigned[2 : len(unsigned)-keys.SignatureSize-2] // behind the call's index, before Some, scheme and signature
	signature, err := eve.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Submit(scale.AppendBytes(nil, append([]byte{5}, call(signature)...)), nil); err != nil {
		t.Fatal(err)
	}
}
