package miner_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"basilica"
	"basilica/miner"
)

// TestAxonKeyIsReplaced: a new key is made once and published; until the chain shows it, asking again makes no other.
func TestAxonKeyIsReplaced(t *testing.T) {
	h, ctx, made := newHouse(t), t.Context(), byte(1)
	var fails error
	h.wrap = func(p *miner.Parts) {
		p.RekeyAxon = func() ([]byte, error) { made++; return bytes.Repeat([]byte{made}, 64), fails }
	}
	h.restart()
	h.head()
	h.head() // sees what the first one published
	if v, err := h.miner.AxonKey(ctx); err != nil || !v.Published || v.Key != hex.EncodeToString(bytes.Repeat([]byte{1}, 64)) {
		t.Fatalf("%+v %v", v, err)
	}
	fails = errors.New("the disk is full")
	if _, err := h.miner.RekeyAxon(ctx); !errors.Is(err, fails) {
		t.Errorf("%v", err)
	}
	if v, err := h.miner.AxonKey(ctx); err != nil || !v.Published {
		t.Errorf("after a failure: %+v %v", v, err)
	}
	fails, made = nil, 1
	for range 2 {
		if v, err := h.miner.RekeyAxon(ctx); err != nil || v.Published || v.Key != hex.EncodeToString(bytes.Repeat([]byte{2}, 64)) || made != 2 {
			t.Errorf("%+v %v, %d keys", v, err, made)
		}
	}
	if !bytes.Equal(h.miner.PublishedKey(), bytes.Repeat([]byte{1}, 64)) {
		t.Errorf("the chain shows %x", h.miner.PublishedKey())
	}
	h.head() // publishes
	h.head() // sees it
	if v, err := h.miner.AxonKey(ctx); err != nil || !v.Published || !bytes.Equal(h.miner.PublishedKey(), bytes.Repeat([]byte{2}, 64)) {
		t.Errorf("%+v %v, the chain shows %x", v, err, h.miner.PublishedKey())
	}
	if v, err := h.miner.RekeyAxon(ctx); err != nil || v.Published || made != 3 {
		t.Errorf("the next one: %+v %v, %d keys", v, err, made)
	}
	if s, err := h.miner.Status(ctx); err != nil || s.Published {
		t.Errorf("%+v %v", s, err)
	}
	h.chain.change(func(g *basilica.Metagraph) { g.Neurons[0].Axon.TLSKey = nil })
	h.head()
	h.head()
	h.chain.change(func(g *basilica.Metagraph) {
		if !bytes.Equal(g.Neurons[0].Axon.TLSKey, bytes.Repeat([]byte{3}, 64)) {
			t.Errorf("the chain shows %+v", g.Neurons[0].Axon)
		}
	})
}
