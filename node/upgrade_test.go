package node

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"testing"
	"time"

	"basilica"
	"basilica/localnet"
)

// TestARuntimeUpgradeUnderValidatorAndMiner: the chain's runtime changes under a validator and a miner that run, with pallets
// and errors renumbered, an extension more and a stored struct that grew. Neither is restarted: the validator sets weights
// and the miner publishes its axon after as before.
func TestARuntimeUpgradeUnderValidatorAndMiner(t *testing.T) {
	l, chain, client := devLocalnet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	uid, err := takePart(ctx, client, chain.NetUID, validatorColdURI, validatorHotURI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takePart(ctx, client, chain.NetUID, minerColdURI, minerHotURI); err != nil {
		t.Fatal(err)
	}
	api, doors := make(chan string, 1), make(chan map[string]string, 1)
	runUntilEnd(t, validatorOn(t, chain, api))
	m, _ := minerOn(t, chain, doors)
	runUntilEnd(t, m)
	validatorAPI, minerDoors := "http://"+<-api, <-doors
	if err := stakeOnce(ctx, client, chain.NetUID, uid); err != nil {
		t.Fatal(err)
	}
	miner, err := LoadKey("miner", minerHotURI)
	if err != nil {
		t.Fatal(err)
	}
	// until watches the subnet until it is as it should be.
	until := func(what string, done func(validator, miner basilica.Neuron) bool) basilica.BlockNumber {
		t.Helper()
		var at basilica.BlockNumber
		err := client.WatchHeads(ctx, func(basilica.Header) error {
			graph, err := client.Metagraph(ctx, chain.NetUID)
			if err != nil {
				return err
			}
			at = graph.Block
			mine, _ := graph.ByHotkey(basilica.Hotkey(miner.SS58()))
			if done(graph.Neurons[uid], mine) {
				return io.EOF
			}
			return nil
		})
		if err != io.EOF {
			t.Fatalf("%s: %v; validator %s", what, err, fetch(t, validatorAPI+"/api/v1/status"))
		}
		return at
	}
	started := until("weights and an axon before the upgrade", func(v, m basilica.Neuron) bool {
		row, err := client.Weights(ctx, chain.NetUID, uid)
		return err == nil && len(row) > 0 && m.Axon.Addr.IsValid() && len(m.Axon.TLSKey) == 64
	})
	if err := l.chain.Upgrade(localnet.Upgrade{Pallets: 3, Errors: 2, Extension: true, Field: true}); err != nil {
		t.Fatal(err)
	}
	upgraded := until("a block after the upgrade", func(v, _ basilica.Neuron) bool { return l.chain.Head().Number > started+2 })
	// Somebody else with the miner's key publishes another axon: the miner puts its own back.
	elsewhere := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.9:9"), Protocol: 4}
	for {
		_, err := client.ServeAxon(ctx, chain.NetUID, miner, elsewhere)
		if err == nil {
			break
		}
		if basilica.CodeOf(err) != "Pool.ServingRateLimitExceeded" {
			t.Fatal(err)
		}
		until("a block later", func() func(v, m basilica.Neuron) bool {
			from := l.chain.Head().Number
			return func(basilica.Neuron, basilica.Neuron) bool { return l.chain.Head().Number > from }
		}())
	}
	until("weights and the axon after the upgrade", func(v, m basilica.Neuron) bool {
		return v.LastUpdate > upgraded && m.Axon.Block > upgraded && m.Axon.Addr.Port() != 9 && len(m.Axon.TLSKey) == 64
	})
	var status struct {
		Status struct {
			Code      string
			LastError *basilica.Reason `json:"last_error"`
		}
	}
	until("the validator says that all is well", func(basilica.Neuron, basilica.Neuron) bool {
		status.Status.LastError = nil
		return json.Unmarshal(fetch(t, validatorAPI+"/api/v1/status"), &status) == nil && status.Status.LastError == nil
	})
	if health := string(fetch(t, "http://"+minerDoors["status"]+"/health")); health == "" {
		t.Error("the miner says nothing of its health")
	}
}
