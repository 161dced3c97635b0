package node

import (
	"context"

	"basilica"
	"basilica/axon"
	"basilica/client"
	"basilica/keys"
	"basilica/subtensor"
)

// Client is the wired client of one hotkey.
type Client struct {
	*client.Client

	chain *subtensor.Client
}

// NewClient wires a client; it connects when it is first used. Without a hotkey it can only ask for offers.
func NewClient(at ChainConfig, cfg ClientConfig, deps Deps) (*Client, error) {
	if err := at.Validate(); err != nil {
		return nil, err
	}
	var signer keys.Signer
	var hotkey basilica.Hotkey
	if cfg.Hotkey != "" {
		key, err := LoadKey("client.hotkey", cfg.Hotkey)
		if err != nil {
			return nil, err
		}
		signer, hotkey = key, basilica.Hotkey(key.SS58())
	}
	index, err := openIndex(cfg)
	if err != nil {
		return nil, err
	}
	chain := subtensor.New(at.Nodes("", cfg.Hotkey), deps.Log)
	published := func(ctx context.Context, miner basilica.Hotkey) (basilica.Axon, error) {
		graph, err := chain.Metagraph(ctx, at.NetUID)
		if err != nil {
			return basilica.Axon{}, err
		}
		n, _ := graph.ByHotkey(miner)
		return n.Axon, nil
	}
	dial := func(n basilica.Neuron) (basilica.Miner, error) {
		door, err := axon.NewClient(axon.ClientConfig{
			Signer: signer, Miner: n.Hotkey, Addr: n.Axon.Addr, TLSKey: n.Axon.TLSKey,
			AllowPrivate: at.AllowPrivate, AllowPlain: cfg.AllowPlain, Now: deps.Now,
			Published: func(ctx context.Context) (basilica.Axon, error) { return published(ctx, n.Hotkey) },
		})
		if err != nil {
			return nil, err
		}
		return door, nil
	}
	role := client.New(client.Config{Chain: chain, NetUID: at.NetUID, Hotkey: hotkey, Dial: dial, Index: index, Progress: deps.Progress, Log: deps.Log, Now: deps.Now})
	return &Client{Client: role, chain: chain}, nil
}

func openIndex(cfg ClientConfig) (*client.Index, error) {
	data, err := expandHome(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return client.OpenIndex(data)
}

// OwnTasks lists the tasks that a client's data directory remembers, oldest first; it asks nobody.
func OwnTasks(cfg ClientConfig) ([]client.Entry, error) {
	index, err := openIndex(cfg)
	if err != nil {
		return nil, err
	}
	return index.Entries()
}

// Close ends the connection to the chain.
func (c *Client) Close() error { return c.chain.Close() }
