package subtensor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"basilica"
)

// twoNodes serves two ledgers under two addresses in one network, and gives a client that prefers the first.
type twoNodes struct {
	ledgers [2]*ledger
	wires   [2]*pipes
	client  *Client
}

func serveTwo(t *testing.T, v *vocabulary, one, two ServerConfig, cfg Config) *twoNodes {
	t.Helper()
	n := &twoNodes{}
	for i, c := range []ServerConfig{one, two} {
		n.ledgers[i] = newLedger(t, v)
		_, wire, stop := serveLedger(t, n.ledgers[i], c)
		n.wires[i] = wire
		t.Cleanup(stop)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		switch addr {
		case "127.0.0.1:1":
			return n.wires[0].dial(ctx, network, addr)
		case "127.0.0.1:2":
			return n.wires[1].dial(ctx, network, addr)
		}
		return nil, errors.New("no such host")
	}}
	cfg.HTTP = &http.Client{Transport: transport}
	n.client = New(cfg, slog.New(slog.DiscardHandler))
	n.client.runtimes[v.spec] = &runtimeVersion{spec: v.spec, tx: 1, words: v.words}
	t.Cleanup(func() {
		if err := n.client.Close(); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	})
	return n
}

// at says which of the nodes the client speaks to.
func (n *twoNodes) at() string {
	n.client.mu.Lock()
	defer n.client.mu.Unlock()
	if n.client.cur == nil {
		return ""
	}
	return n.client.cur.node.url
}

const (
	nodeOne = "ws://127.0.0.1:1"
	nodeTwo = "ws://127.0.0.1:2"
)

// TestFallbacksInTurn: a node that is away, limits its callers, or stops to finalize blocks is left for the next one; when
// the connection to that one ends, the first is asked again once it has rested.
func TestFallbacksInTurn(t *testing.T) {
	v := speak(t, 425, nil)
	var limited atomic.Bool
	synctest.Test(t, func(t *testing.T) {
		n := serveTwo(t, v, ServerConfig{Inject: func(string) error {
			if limited.Load() {
				return ErrRateLimited
			}
			return nil
		}}, ServerConfig{}, Config{URL: nodeOne, Fallbacks: []string{nodeTwo}})
		on := func(want string) {
			t.Helper()
			if _, err := n.client.Head(t.Context()); err != nil {
				t.Error(err)
			}
			if got := n.at(); got != want {
				t.Errorf("asked %s, want %s", got, want)
			}
		}
		on(nodeOne)
		limited.Store(true)
		on(nodeTwo)
		limited.Store(false)
		<-time.After(2 * longRest)
		n.wires[1].cut(false)
		on(nodeOne)
		n.wires[0].cut(true)
		on(nodeTwo)
		n.wires[1].cut(true)
		if _, err := n.client.Head(t.Context()); basilica.CodeOf(err) != "CHAIN_UNREACHABLE" {
			t.Errorf("nobody there: %v", err)
		}
		n.wires[1].cut(false)
		on(nodeTwo)
	})
}

// TestHeadsGoOnAtAnotherNode: a watch whose node is cut off, or answers but finalizes nothing, goes on at another node of the
// same chain without a gap.
func TestHeadsGoOnAtAnotherNode(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		n := serveTwo(t, v, ServerConfig{}, ServerConfig{}, Config{URL: nodeOne, Fallbacks: []string{nodeTwo}})
		enough := errors.New("enough")
		var last basilica.BlockNumber
		seen := 0
		err := n.client.WatchHeads(t.Context(), func(h basilica.Header) error {
			if seen > 0 && h.Number != last+1 {
				t.Errorf("block %d follows %d", h.Number, last)
			}
			last = h.Number
			switch seen++; seen {
			case 5:
				n.ledgers[0].halt()
			case 30:
				if n.at() != nodeTwo {
					t.Errorf("watching %s", n.at())
				}
				n.wires[1].cut(false)
			case 35:
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Error(err)
		}
	})
}

// TestWhatANodeCannotDoHasAName: what one node alone does wrong is said as it is.
func TestWhatANodeCannotDoHasAName(t *testing.T) {
	v := speak(t, 425, nil)
	finney, _ := LookupNetwork("finney")
	for name, c := range map[string]struct {
		server ServerConfig
		config Config
		down   bool
		code   string
	}{
		"limits the first call":      {ServerConfig{Inject: func(string) error { return ErrRateLimited }}, Config{URL: nodeOne}, false, "CHAIN_BUSY"},
		"is away":                    {ServerConfig{}, Config{URL: nodeOne}, true, "CHAIN_UNREACHABLE"},
		"is of another chain":        {ServerConfig{}, Config{URL: nodeOne, Genesis: finney.Genesis}, false, "CHAIN_GENESIS"},
		"are of another chain, both": {ServerConfig{}, Config{URL: nodeOne, Fallbacks: []string{nodeTwo}, Genesis: finney.Genesis}, false, "CHAIN_GENESIS"},
		"drops every call in the middle": {ServerConfig{Inject: func(method string) error {
			if method == "chain_getFinalizedHead" {
				return ErrDrop
			}
			return nil
		}}, Config{URL: nodeOne}, false, "CHAIN_UNREACHABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := serveTwo(t, v, c.server, ServerConfig{}, c.config)
				n.wires[0].cut(c.down)
				if _, err := n.client.Head(t.Context()); basilica.CodeOf(err) != c.code || basilica.FixOf(err) == "" {
					t.Errorf("%v, want %s", err, c.code)
				}
			})
		})
	}
}

func TestNetworks(t *testing.T) {
	for _, name := range []string{"finney", "test", "archive", "lite", "local"} {
		n, ok := LookupNetwork(name)
		if !ok || !IsEndpoint(name) || !IsEndpoint(n.URL) || (n.Genesis == nil) != (name == "local") {
			t.Errorf("%s: %+v", name, n)
		}
	}
	for _, text := range []string{"", "mainnet", "http://127.0.0.1:9944", "127.0.0.1:9944"} {
		if IsEndpoint(text) {
			t.Errorf("%q is taken for a node", text)
		}
	}
	nodes, genesis := endpoints(Config{URL: "finney", Fallbacks: []string{"wss://node.example:443"}})
	finney, _ := LookupNetwork("finney")
	if len(nodes) != 2 || nodes[0].url != finney.URL || nodes[1].url != "wss://node.example:443" || genesis == nil || genesis.String() != "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03" {
		t.Errorf("%v %v", nodes, genesis)
	}
}

// TestSnapshot: the last metagraph is there for the next process while no node answers, with its age, and never that of
// another chain.
func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	c := New(Config{URL: nodeOne, Snapshots: dir}, slog.New(slog.DiscardHandler))
	if _, _, err := c.LastMetagraph(ledgerSubnet); basilica.CodeOf(err) != "SNAPSHOT_NONE" || basilica.FixOf(err) == "" {
		t.Errorf("before the first: %v", err)
	}
	began := time.Now()
	c.keep(&basilica.Metagraph{Genesis: basilica.Hash{1}, NetUID: ledgerSubnet, Block: 7, Neurons: []basilica.Neuron{{Hotkey: "5x"}}})
	c.keep(&basilica.Metagraph{Genesis: basilica.Hash{1}, NetUID: ledgerSubnet, Block: 8}) // too soon after
	next := New(Config{URL: nodeOne, Snapshots: dir}, slog.New(slog.DiscardHandler))
	m, at, err := next.LastMetagraph(ledgerSubnet)
	if err != nil || m.Block != 7 || len(m.Neurons) != 1 || at.Before(began.Add(-time.Second)) || time.Since(at) > time.Minute {
		t.Errorf("%+v %s %v", m, at, err)
	}
	finney := New(Config{URL: "finney", Snapshots: dir}, slog.New(slog.DiscardHandler))
	if _, _, err := finney.LastMetagraph(ledgerSubnet); basilica.CodeOf(err) != "SNAPSHOT_NONE" {
		t.Errorf("another chain's metagraph: %v", err)
	}
}
