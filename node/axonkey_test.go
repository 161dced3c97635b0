package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"basilica"
	"basilica/axon"
	"basilica/keys"
)

// TestReplacedAxonKeyOnDisk: wherever a replacement is cut short, the key that was published is there.
func TestReplacedAxonKeyOnDisk(t *testing.T) {
	dir := t.TempDir()
	first, former, err := loadAxonKeys(dir)
	check(t, err)
	if former != nil {
		t.Error("a former key of a new miner")
	}
	path := filepath.Join(dir, axonKeyFile)
	for what, cut := range map[string]func() error{
		"before the old key is kept":     func() error { _, err := keys.CreateP256(path + ".next"); return err },
		"before it has its name":         func() error { return os.Link(path, path+".kept") },
		"before the new key is in place": func() error { return os.Link(path, filepath.Join(dir, formerKeyFile)) },
	} {
		check(t, cut())
		key, former, err := loadAxonKeys(dir)
		if err != nil || !bytes.Equal(key.SPKI(), first.SPKI()) || former != nil {
			t.Fatalf("%s: %v %v", what, former, err)
		}
		check(t, replaceAxonKey(dir))
		key, former, err = loadAxonKeys(dir)
		if err != nil || former == nil || !bytes.Equal(former.SPKI(), first.SPKI()) || bytes.Equal(key.SPKI(), first.SPKI()) {
			t.Fatalf("%s, and again: %v", what, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 {
			t.Errorf("%s: %v %v", what, entries, err)
		}
		first = key
		check(t, os.Remove(filepath.Join(dir, formerKeyFile)))
	}
}

// TestJobsAreTakenThroughAKeyChange: while the miner's TLS key is replaced, twice, every task is taken at once: from who read the chain
// before, from who reads it now, and over a restart of the miner. A client that knows a key of long ago reads the chain once.
func TestJobsAreTakenThroughAKeyChange(t *testing.T) {
	chain, client := devChain(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	uid, err := takePart(ctx, client, chain.NetUID, minerColdURI, minerHotURI)
	check(t, err)
	ready := make(chan map[string]string, 1)
	m, cfg := minerOn(t, chain, ready)
	var stop context.CancelFunc
	done := make(chan error, 1)
	begin := func() {
		life, end := context.WithCancel(ctx)
		stop = end
		go func() { done <- m.Run(life) }()
	}
	begin()
	defer func() {
		stop()
		check(t, errors.Join(<-done, m.Close()))
	}()
	cfg.AxonListen = (<-ready)["axon"]
	owner, err := MinerAdmin(cfg)
	check(t, err)

	dave, err := keys.FromURI(keys.Sr25519, "//Dave//client")
	check(t, err)
	read := func(ctx context.Context) (basilica.Neuron, error) {
		graph, err := client.Metagraph(ctx, chain.NetUID)
		if err != nil {
			return basilica.Neuron{}, err
		}
		return graph.Neurons[uid], nil
	}
	asked, taken := 0, 0
	// open reaches a miner as a client or a validator does that read this of the chain.
	open := func(n basilica.Neuron) *axon.Client {
		c, err := axon.NewClient(axon.ClientConfig{
			Signer: dave, Miner: n.Hotkey, Addr: n.Axon.Addr, TLSKey: n.Axon.TLSKey, AllowPrivate: true, Now: time.Now,
			Published: func(ctx context.Context) (basilica.Axon, error) { asked++; n, err := read(ctx); return n.Axon, err },
		})
		check(t, err)
		return c
	}
	submit := func(c *axon.Client) {
		t.Helper()
		taken++
		task, err := c.Submit(ctx, basilica.Submission{IdempotencyKey: basilica.Hash{byte(taken), byte(taken >> 8)}.String(), Spec: []byte(`{"image":"i","command":["x"],"gpus":0}`)})
		check(t, err)
		_, err = c.Cancel(ctx, "", task.ID)
		check(t, err)
	}
	// each submits as long as it says so, over a new connection each time.
	each := func(going func(basilica.Neuron) bool, more ...basilica.Neuron) {
		t.Helper()
		ended := errors.New("ended")
		err := client.WatchHeads(ctx, func(h basilica.Header) error {
			if h.Number%8 != 0 { // a client may not ask as often as there are blocks here
				return nil
			}
			n, err := read(ctx)
			check(t, err)
			if !going(n) {
				return ended
			}
			for _, n := range append(slices.Clone(more), n) {
				if len(n.Axon.TLSKey) != 64 {
					continue
				}
				c := open(n)
				submit(c)
				check(t, c.Close())
			}
			return nil
		})
		if !errors.Is(err, ended) {
			t.Fatal(err)
		}
	}
	each(func(n basilica.Neuron) bool { return len(n.Axon.TLSKey) != 64 })
	first, err := read(ctx)
	check(t, err)
	held := open(first)
	defer held.Close()
	submit(held)
	before := first
	for round := range 2 {
		var v basilica.AxonKeyView
		each(func(basilica.Neuron) bool { // until the chain takes another word of this axon, and the miner has seen the last one
			v, err = owner.AxonKey(ctx)
			check(t, err)
			head, err := client.Metagraph(ctx, chain.NetUID)
			check(t, err)
			return !v.Published || head.Block < before.Axon.Block+60
		}, before)
		next, err := owner.RekeyAxon(ctx)
		check(t, err)
		if next.Published || next.Key == v.Key {
			t.Fatalf("%+v after %+v", next, v)
		}
		if round == 1 {
			stop()
			check(t, errors.Join(<-done, m.Close()))
			m, err = NewMiner(ctx, cfg, Deps{Log: m.deps.Log, Now: time.Now, Ready: func(a map[string]string) { ready <- a }})
			check(t, err)
			begin()
			<-ready
		}
		old := before
		each(func(n basilica.Neuron) bool { before = n; return bytes.Equal(n.Axon.TLSKey, old.Axon.TLSKey) }, old)
		rest := 3 // whatever the miner has seen of it by now
		each(func(basilica.Neuron) bool { rest--; return rest > 0 }, old)
		if round == 0 {
			submit(held)
		}
	}
	if asked != 0 {
		t.Errorf("the chain was asked %d times for a key that is in use", asked)
	}
	c := open(first)
	defer c.Close()
	if submit(c); asked != 1 {
		t.Errorf("the chain was asked %d times for a key of long ago", asked)
	}
	t.Logf("%d tasks were taken", taken)
}
