package subtensor

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
)

// Config says which nodes to speak to and how patiently.
type Config struct {
	URL            string         // ws://, wss://, or a network's name as LookupNetwork knows it
	Fallbacks      []string       // nodes of the same chain that are asked while URL's does not answer, in this order
	Genesis        *basilica.Hash // refuse a node of another chain; nil: that of URL's name, or else the first answer's
	Development    bool           // a key in use is one that everybody knows: refuse finney and test
	Snapshots      string         // directory of the last metagraphs, for times without a node; "": none are kept
	RequestTimeout time.Duration  // for one request; 0 is 30 s
	ConnectTimeout time.Duration  // for a connection to come about, all attempts together; 0 is 15 s
	StallTimeout   time.Duration  // without a new finalized head, until a fallback is asked; 0 is 3 min
	PollInterval   time.Duration  // between looks at the chain where no subscription helps; 0 is 2 s
	HTTP           *http.Client   // opens the WebSockets; nil is the default one
}

func (c Config) withDefaults() Config {
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 30 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 15 * time.Second
	}
	if c.StallTimeout == 0 {
		c.StallTimeout = 3 * time.Minute
	}
	if c.PollInterval == 0 {
		c.PollInterval = 2 * time.Second
	}
	return c
}

// Client implements basilica.Chain over one WebSocket that is dialled when
// first needed and again, at one of the configured nodes, after it was lost. It
// is safe for concurrent use.
type Client struct {
	cfg   Config
	nodes []*endpoint
	log   *slog.Logger

	dialing chan struct{} // holds one token: who has it may dial

	mu       sync.Mutex // guards what follows
	cur      *conn
	closed   bool
	genesis  *basilica.Hash
	runtimes map[uint32]*runtimeVersion    // by spec version
	queues   map[[32]byte]chan struct{}    // one submission at a time for each key
	kept     map[basilica.NetUID]time.Time // when the snapshot of a subnet was written last
}

var _ basilica.Chain = (*Client)(nil)

// New makes a client; it does not connect yet.
func New(cfg Config, log *slog.Logger) *Client {
	c := &Client{
		cfg: cfg.withDefaults(), log: log, dialing: make(chan struct{}, 1),
		runtimes: make(map[uint32]*runtimeVersion), queues: make(map[[32]byte]chan struct{}),
		kept: make(map[basilica.NetUID]time.Time),
	}
	c.nodes, c.genesis = endpoints(cfg)
	c.dialing <- struct{}{}
	return c
}

// Close ends the connection and waits for what it started. Calls that are
// under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	cur := c.cur
	c.cur, c.closed = nil, true
	c.mu.Unlock()
	if cur != nil {
		cur.close()
	}
	return nil
}

var errClosed = errors.New("chain client is closed")

// alive is the open connection, or nil.
func (c *Client) alive() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if c.cur != nil && c.cur.alive() {
		return c.cur, nil
	}
	return nil, nil
}

// connect gives the open connection or makes one, with growing pauses between
// attempts.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	if cur, err := c.alive(); cur != nil || err != nil {
		return cur, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	select {
	case <-c.dialing:
		defer func() { c.dialing <- struct{}{} }()
	case <-ctx.Done():
		return nil, c.gaveUp(caller, ctx.Err())
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		if cur, err := c.alive(); cur != nil || err != nil {
			return cur, err
		}
		cur, final, err := c.openAny(ctx)
		if err == nil || final {
			return cur, err
		}
		select {
		case <-ctx.Done():
			return nil, c.gaveUp(caller, err)
		case <-time.After(pause):
		}
	}
}

// gaveUp is the caller's own end where it came first.
func (c *Client) gaveUp(caller context.Context, cause error) error {
	if caller.Err() != nil {
		return caller.Err()
	}
	if basilica.CodeOf(cause) != "" {
		return cause // it says more
	}
	return c.unreachable(cause)
}

// open dials one node and makes sure that it is still the same chain.
func (c *Client) open(ctx context.Context, node *endpoint) (*conn, error) {
	patience := 10 * time.Second
	if n := len(c.nodes); n > 1 {
		patience = min(patience, c.cfg.ConnectTimeout/time.Duration(n))
	}
	dctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cur, err := dial(dctx, node, c.cfg.HTTP)
	if err != nil {
		return nil, err
	}
	var genesis basilica.Hash
	if err := cur.call(dctx, &genesis, "chain_getBlockHash", 0); err != nil {
		cur.close()
		return nil, busy(err)
	}
	old, err := c.adopt(cur, genesis)
	if err != nil {
		cur.close()
		return nil, err
	}
	if old != nil {
		old.close() // it has ended; this only waits for its goroutines
	}
	return cur, nil
}

// adopt makes cur the connection and gives the one before.
func (c *Client) adopt(cur *conn, genesis basilica.Hash) (old *conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if c.genesis != nil && *c.genesis != genesis {
		return nil, basilica.E(basilica.Conflict, "CHAIN_GENESIS",
			fmt.Sprintf("the node at %s is of another chain: its genesis is %s, expected %s", nodeName(cur.node.url), genesis, *c.genesis),
			"point the configuration at a node of the right network, or use a new data directory for a new chain")
	}
	if err := c.cfg.refuses(genesis); err != nil {
		return nil, err
	}
	old, c.cur, c.genesis = c.cur, cur, &genesis
	return old, nil
}

// call asks the node; a question that a lost connection swallowed, or that a
// node left without an answer while others could be asked, is asked again on a
// new connection. Use it for what may be asked twice.
func (c *Client) call(ctx context.Context, out any, method string, params ...any) error {
	for attempt := 0; ; attempt++ {
		cur, err := c.connect(ctx)
		if err != nil {
			return err
		}
		err = c.callOn(ctx, cur, out, method, params...)
		again := errors.Is(err, errLost) || err != nil && !cur.alive() && basilica.KindOf(err) == basilica.Unavailable
		if !again || ctx.Err() != nil {
			return err
		}
		if attempt == 2 {
			if basilica.CodeOf(err) != "" {
				return err
			}
			return c.unreachable(err)
		}
	}
}

func (c *Client) callOn(ctx context.Context, cur *conn, out any, method string, params ...any) error {
	rctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	err := busy(cur.call(rctx, out, method, params...))
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		c.leave(cur, err)
		return c.unreachable(err)
	case basilica.CodeOf(err) == codeBusy:
		c.leave(cur, err)
	}
	return err
}

// busy names a node's refusal to be asked more often.
func busy(err error) error {
	var refused *rpcError
	if errors.As(err, &refused) && (refused.Code == codeTooMuchWork || refused.Code == codeTooManyRequests) {
		return tooBusy(err)
	}
	return err
}

func tooBusy(err error) error {
	return basilica.E(basilica.Unavailable, "CHAIN_BUSY", "the chain's node limits how often it may be asked",
		"wait a little, or use a node of your own").With(err)
}

// hexBytes is a byte string that is 0x and hex in JSON.
type hexBytes []byte

// MarshalText gives 0x and hex digits.
func (h hexBytes) MarshalText() ([]byte, error) { return []byte("0x" + hex.EncodeToString(h)), nil }

var errHex = errors.New("invalid hex")

// UnmarshalText reads hex digits with or without 0x.
func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(strings.TrimPrefix(string(text), "0x"))
	if err != nil {
		return errHex
	}
	*h = b
	return nil
}

// runtimeVersion is one runtime's numbers and vocabulary.
type runtimeVersion struct {
	spec, tx uint32
	words    *pallet.Runtime
}

// call encodes a call, and names a description of it that is not the one we know.
func (rt *runtimeVersion) call(palletName, call string, args map[string]any) ([]byte, error) {
	data, err := rt.words.Call(palletName, call, args)
	if errors.Is(err, pallet.ErrChanged) {
		return nil, basilica.E(basilica.Invalid, "CALL_CHANGED", fmt.Sprintf("the chain's node describes %s.%s otherwise than this version knows it, so nothing was signed", palletName, call),
			"ask another node; where that says the same, install a newer version of this program").With(err)
	}
	return data, err
}

// maxRuntimes is how many runtimes are kept: two around an upgrade, and some that old blocks had.
const maxRuntimes = 4

// remember keeps a runtime; c.mu is held. A node that names another version with every answer fills no memory.
func (c *Client) remember(rt *runtimeVersion) {
	c.runtimes[rt.spec] = rt
	for len(c.runtimes) > maxRuntimes {
		oldest := rt.spec
		for spec := range c.runtimes {
			if oldest == rt.spec || spec != rt.spec && spec < oldest {
				oldest = spec
			}
		}
		delete(c.runtimes, oldest)
	}
}

// runtimeAt gives the runtime of a block, with its metadata fetched when the
// spec version is new to this client.
func (c *Client) runtimeAt(ctx context.Context, at basilica.Hash) (*runtimeVersion, error) {
	var v struct {
		SpecVersion        uint32 `json:"specVersion"`
		TransactionVersion uint32 `json:"transactionVersion"`
	}
	if err := c.call(ctx, &v, "state_getRuntimeVersion", at); err != nil {
		return nil, fmt.Errorf("runtime version: %w", err)
	}
	c.mu.Lock()
	rt, ok := c.runtimes[v.SpecVersion]
	c.mu.Unlock()
	if ok && rt.tx == v.TransactionVersion {
		return rt, nil
	}
	meta, err := c.metadata(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("metadata of spec %d: %w", v.SpecVersion, err)
	}
	words, err := pallet.New(meta)
	if err != nil {
		return nil, fmt.Errorf("metadata of spec %d: %w", v.SpecVersion, err)
	}
	rt = &runtimeVersion{spec: v.SpecVersion, tx: v.TransactionVersion, words: words}
	c.mu.Lock()
	c.remember(rt)
	c.mu.Unlock()
	c.log.Info("chain metadata read", "spec", v.SpecVersion, "metadata", meta.Version)
	return rt, nil
}

// maxMetadata is the longest metadata in bytes that is read: that of spec 425 has 333,974. In memory it takes many times as
// much.
const maxMetadata = 4 << 20

// metadata asks for version 15, then 14, then the oldest way.
func (c *Client) metadata(ctx context.Context, at basilica.Hash) (*scale.Metadata, error) {
	for _, version := range []uint32{15, 14} {
		var answer hexBytes
		err := c.call(ctx, &answer, "state_call", "Metadata_metadata_at_version", hexBytes(scale.AppendU32(nil, version)), at)
		var refused *rpcError
		if err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		if err != nil || len(answer) == 0 || answer[0] == 0 {
			continue
		}
		return bounded(answer, scale.DecodeOpaqueMetadata)
	}
	var blob hexBytes
	if err := c.call(ctx, &blob, "state_getMetadata", at); err != nil {
		return nil, err
	}
	return bounded(blob, scale.DecodeMetadata)
}

// bounded decodes what a node gave as metadata, unless it is too long.
func bounded(answer []byte, decode func([]byte) (*scale.Metadata, error)) (*scale.Metadata, error) {
	if len(answer) > maxMetadata {
		return nil, fmt.Errorf("%d bytes: %w", len(answer), scale.ErrInvalid)
	}
	return decode(answer)
}

// Genesis is the hash of block 0.
func (c *Client) Genesis(ctx context.Context) (basilica.Hash, error) {
	if _, err := c.connect(ctx); err != nil {
		return basilica.Hash{}, fmt.Errorf("genesis: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.genesis, nil
}

// jsonHeader is a header as the node writes it.
type jsonHeader struct {
	ParentHash     basilica.Hash `json:"parentHash"`
	Number         hexNumber     `json:"number"`
	StateRoot      basilica.Hash `json:"stateRoot"`
	ExtrinsicsRoot basilica.Hash `json:"extrinsicsRoot"`
	Digest         struct {
		Logs []hexBytes `json:"logs"`
	} `json:"digest"`
}

// hexNumber is a block number: 0x and hex digits without leading zeros.
type hexNumber uint64

// UnmarshalText reads the hex form.
func (n *hexNumber) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || !ok {
		return fmt.Errorf("not a block number: %.40q", text)
	}
	*n = hexNumber(v)
	return nil
}

// header converts and computes the hash, which is the header's own.
func (j *jsonHeader) header() basilica.Header {
	h := pallet.Header{Parent: j.ParentHash, Number: uint64(j.Number), StateRoot: j.StateRoot, ExtrinsicsRoot: j.ExtrinsicsRoot}
	for _, l := range j.Digest.Logs {
		h.Digest = append(h.Digest, l)
	}
	return basilica.Header{Number: basilica.BlockNumber(j.Number), Hash: h.Hash(), Parent: j.ParentHash}
}

func (c *Client) headerOf(ctx context.Context, hash basilica.Hash) (basilica.Header, error) {
	var j *jsonHeader
	if err := c.call(ctx, &j, "chain_getHeader", hash); err != nil {
		return basilica.Header{}, err
	}
	if j == nil {
		return basilica.Header{}, basilica.E(basilica.Unavailable, "BLOCK_UNKNOWN", "the node does not know block "+hash.String(), "")
	}
	h := j.header()
	h.Hash = hash
	return h, nil
}

// blockHash is the hash of a block by its number. A node that does not know a
// block which is final elsewhere is behind the others: Unavailable.
func (c *Client) blockHash(ctx context.Context, n basilica.BlockNumber) (basilica.Hash, error) {
	var h *basilica.Hash
	if err := c.call(ctx, &h, "chain_getBlockHash", uint64(n)); err != nil {
		return basilica.Hash{}, err
	}
	if h == nil {
		return basilica.Hash{}, basilica.E(basilica.Unavailable, "BLOCK_UNKNOWN", fmt.Sprintf("the node has no block %d", n), "")
	}
	return *h, nil
}

// Head is the finalized head.
func (c *Client) Head(ctx context.Context) (basilica.Header, error) {
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getFinalizedHead"); err != nil {
		return basilica.Header{}, fmt.Errorf("finalized head: %w", err)
	}
	h, err := c.headerOf(ctx, hash)
	if err != nil {
		return basilica.Header{}, fmt.Errorf("finalized head: %w", err)
	}
	return h, nil
}

// WatchHeads calls f with every finalized head, without a gap, until ctx ends
// or f fails. A node that is away is waited for.
func (c *Client) WatchHeads(ctx context.Context, f func(basilica.Header) error) error {
	w := &watch{client: c, f: f}
	for pause := 50 * time.Millisecond; ; {
		seen := w.last.Number
		err := w.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.failed != nil:
			return w.failed
		case errors.Is(err, errClosed), basilica.KindOf(err) == basilica.Conflict:
			return fmt.Errorf("watch heads: %w", err)
		}
		if w.last.Number > seen {
			pause = 50 * time.Millisecond
		}
		c.log.Warn("chain subscription ended, subscribing again", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

var errStalled = errors.New("no new finalized block")

// watch is one WatchHeads over all its connections.
type watch struct {
	client  *Client
	f       func(basilica.Header) error
	started bool
	last    basilica.Header // the last one handed on
	failed  error           // what f returned
}

// follow subscribes once and hands heads on until the subscription ends.
func (w *watch) follow(ctx context.Context) error {
	cur, err := w.client.connect(ctx)
	if err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, w.client.cfg.RequestTimeout)
	sub, err := cur.subscribe(rctx, "chain_subscribeFinalizedHeads", "chain_unsubscribeFinalizedHeads")
	cancel()
	if err != nil {
		return err
	}
	defer sub.close()
	if !w.started {
		head, err := w.client.Head(ctx)
		if err != nil {
			return err
		}
		if err := w.hand(head); err != nil {
			return err
		}
	}
	stalled := time.NewTimer(w.client.cfg.StallTimeout)
	defer stalled.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-stalled.C:
			w.client.leave(cur, errStalled)
			stalled.Reset(w.client.cfg.StallTimeout)
		case raw, ok := <-sub.ch:
			if !ok {
				return errLost
			}
			var j jsonHeader
			if err := json.Unmarshal(raw, &j); err != nil {
				return fmt.Errorf("finalized head: %w", err)
			}
			before := w.last.Number
			if err := w.upTo(ctx, j.header()); err != nil {
				return err
			}
			if w.last.Number > before { // a node that lags behind tells of old heads for hours
				stalled.Reset(w.client.cfg.StallTimeout)
			}
		}
	}
}

// upTo fills the gap before h and hands h on.
func (w *watch) upTo(ctx context.Context, h basilica.Header) error {
	for n := w.last.Number + 1; n < h.Number; n++ {
		// Every node knows the hash of every block, but not every one keeps the headers of long ago.
		hash, err := w.client.blockHash(ctx, n)
		if err != nil {
			return err
		}
		if err := w.hand(basilica.Header{Number: n, Hash: hash, Parent: w.last.Hash}); err != nil {
			return err
		}
	}
	if h.Number <= w.last.Number {
		return nil
	}
	return w.hand(h)
}

func (w *watch) hand(h basilica.Header) error {
	if err := w.f(h); err != nil {
		w.failed = err
		return err
	}
	w.started, w.last = true, h
	return nil
}
