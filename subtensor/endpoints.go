package subtensor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"basilica"
)

// Network is what a name in a configuration stands for.
type Network struct {
	Name    string
	URL     string         // of the node that its operators offer to everybody
	Genesis *basilica.Hash // hash of block 0; nil where every start makes another one
}

// LookupNetwork finds a network by its name: finney, test, archive and lite (both finney's, with other nodes), local. The
// second value is false for anything else.
func LookupNetwork(name string) (Network, bool) {
	finney := basilica.Hash{
		0x2f, 0x05, 0x55, 0xcc, 0x76, 0xfc, 0x28, 0x40, 0xa2, 0x5a, 0x6e, 0xa3, 0xb9, 0x63, 0x71, 0x46,
		0x80, 0x6f, 0x1f, 0x44, 0xb0, 0x90, 0xc1, 0x75, 0xff, 0xde, 0x2a, 0x7e, 0x5a, 0xb3, 0x6c, 0x03,
	}
	test := basilica.Hash{
		0x8f, 0x9c, 0xf8, 0x56, 0xbf, 0x55, 0x8a, 0x14, 0x44, 0x0e, 0x75, 0x56, 0x9c, 0x9e, 0x58, 0x59,
		0x47, 0x57, 0x04, 0x8d, 0x7b, 0x3a, 0x84, 0xb5, 0xd2, 0x5f, 0x6b, 0xd9, 0x78, 0x26, 0x31, 0x05,
	}
	for _, n := range []Network{
		{"finney", "wss://entrypoint-finney.opentensor.ai:443", &finney},
		{"test", "wss://test.finney.opentensor.ai:443", &test},
		{"archive", "wss://archive.chain.opentensor.ai:443", &finney},
		{"lite", "wss://lite.chain.opentensor.ai:443", &finney},
		{"local", "ws://127.0.0.1:9944", nil},
	} {
		if n.Name == name {
			return n, true
		}
	}
	return Network{}, false
}

// lasting is the name of the network with a genesis, finney or test; the second value is false for any other chain.
func lasting(genesis basilica.Hash) (string, bool) {
	for _, name := range []string{"finney", "test"} {
		if n, _ := LookupNetwork(name); *n.Genesis == genesis {
			return name, true
		}
	}
	return "", false
}

// refuses keeps keys that everybody knows off networks where they would own something.
func (c Config) refuses(genesis basilica.Hash) error {
	name, known := lasting(genesis)
	if !c.Development || !known {
		return nil
	}
	return basilica.E(basilica.Conflict, codeDevelopment, fmt.Sprintf("a key such as //Alice is known to everybody, and this node is of the network %s", name),
		"give a key file; make one with `basilica wallet new-hotkey`")
}

// IsEndpoint says whether text can stand where a node is named: the name of a network, or a ws:// or wss:// address.
func IsEndpoint(text string) bool {
	_, named := LookupNetwork(text)
	return named || strings.HasPrefix(text, "ws://") || strings.HasPrefix(text, "wss://")
}

// endpoint is one node that may be asked.
type endpoint struct {
	url string

	mu    sync.Mutex    // guards what follows
	pause time.Duration // how long it is passed over after its next failure
	until time.Time     // it is passed over until then while another one can be asked
}

const (
	firstRest = time.Second
	longRest  = time.Minute
)

// rests says that the endpoint failed lately.
func (e *endpoint) rests(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return now.Before(e.until)
}

// failed makes the endpoint rest, for twice as long as the last time.
func (e *endpoint) failed(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pause = min(max(2*e.pause, firstRest), longRest)
	e.until = now.Add(e.pause)
}

func (e *endpoint) answered() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pause, e.until = 0, time.Time{}
}

// endpoints resolves the nodes of a configuration, and gives the genesis that their names promise.
func endpoints(cfg Config) (nodes []*endpoint, genesis *basilica.Hash) {
	genesis = cfg.Genesis
	for _, text := range append([]string{cfg.URL}, cfg.Fallbacks...) {
		if n, ok := LookupNetwork(text); ok {
			text = n.URL
			if genesis == nil {
				genesis = n.Genesis
			}
		}
		nodes = append(nodes, &endpoint{url: text})
	}
	return nodes, genesis
}

// inTurn are the endpoints in the order in which they are tried now: those that rest come last.
func (c *Client) inTurn() []*endpoint {
	now := time.Now()
	var ready, resting []*endpoint
	for _, e := range c.nodes {
		if e.rests(now) {
			resting = append(resting, e)
		} else {
			ready = append(ready, e)
		}
	}
	return append(ready, resting...)
}

// openAny dials one endpoint after the other until one answers. It is the caller's turn to dial. final says that another
// try can bring nothing else.
func (c *Client) openAny(ctx context.Context) (cur *conn, final bool, err error) {
	foreign := 0
	for _, e := range c.inTurn() {
		cur, one := c.open(ctx, e)
		if one == nil {
			e.answered()
			return cur, false, nil
		}
		if errors.Is(one, errClosed) || ctx.Err() != nil {
			return nil, errors.Is(one, errClosed), firstNamed(err, one)
		}
		e.failed(time.Now())
		switch basilica.CodeOf(one) {
		case codeGenesis, codeDevelopment:
			foreign++
			if len(c.nodes) > 1 {
				c.log.Error("a configured node is of another chain", "node", nodeName(e.url), "err", one)
			}
		default:
			c.log.Debug("chain node does not answer", "node", nodeName(e.url), "err", one)
		}
		err = firstNamed(err, one)
	}
	return nil, foreign == len(c.nodes), err
}

const (
	codeGenesis     = "CHAIN_GENESIS"
	codeBusy        = "CHAIN_BUSY"
	codeDevelopment = "KEY_DEVELOPMENT"
)

// firstNamed keeps the error that tells a person more: one with a code.
func firstNamed(a, b error) error {
	if a == nil || basilica.CodeOf(a) == "" && basilica.CodeOf(b) != "" {
		return b
	}
	return a
}

// leave gives a connection up because its node does not do its work, so that the next question goes to another one.
func (c *Client) leave(cur *conn, why error) {
	if len(c.nodes) < 2 {
		return
	}
	cur.node.failed(time.Now())
	c.log.Warn("leaving the chain's node for another one", "node", nodeName(cur.node.url), "err", why)
	cur.left.Store(true)
	cur.stop() // its goroutines end; who dials next waits for them
}

// names are the hosts of all endpoints, for sentences.
func (c *Client) names() string {
	names := make([]string, len(c.nodes))
	for i, e := range c.nodes {
		names[i] = nodeName(e.url)
	}
	return strings.Join(names, ", ")
}

func (c *Client) unreachable(cause error) error {
	sentence := "the chain's node at " + c.names() + " does not answer"
	if len(c.nodes) > 1 {
		sentence = fmt.Sprintf("none of the chain's %d nodes answers (%s)", len(c.nodes), c.names())
	}
	return basilica.E(basilica.Unavailable, "CHAIN_UNREACHABLE", sentence, "check that the node runs and that its address in the configuration is right").With(cause)
}
