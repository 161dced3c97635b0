package subtensor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

const (
	ledgerSubnet = 39
	ledgerBlock  = 12 * time.Second
)

// vocabulary is one runtime of a ledger.
type vocabulary struct {
	spec     uint32
	metadata []byte // version 15
	version  []byte // answer of Core_version, as it was recorded
	words    *pallet.Runtime
}

// speak makes a runtime of changed metadata.
func speak(t testing.TB, spec uint32, change func(m *scale.Metadata)) *vocabulary {
	t.Helper()
	blob := vectors.Read(t, "subtensor425/decoding/metadata-v15.scale")
	m, err := scale.DecodeMetadata(blob)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m)
		if blob, err = scale.EncodeMetadata(m); err != nil {
			t.Fatal(err)
		}
	}
	words, err := pallet.New(m)
	if err != nil {
		t.Fatal(err)
	}
	var apis struct {
		Calls []struct{ Method, Output string }
	}
	vectors.JSON(t, "subtensor425/decoding/runtime_apis.json.gz", &apis)
	v := &vocabulary{spec: spec, metadata: blob, words: words}
	for _, c := range apis.Calls {
		if c.Method == "Core_version" {
			var recorded hexBytes
			if err := recorded.UnmarshalText([]byte(c.Output)); err != nil {
				t.Fatal(err)
			}
			v.version = recorded
		}
	}
	return v
}

// ledger is a chain by hand: it takes what is signed right under its present runtime, keeps nonces, and lets the test say
// what a call does.
type ledger struct {
	t testing.TB

	mu       sync.Mutex // guards what follows
	runtime  *vocabulary
	headers  []pallet.Header // by number
	bodies   [][][]byte
	states   []map[string][]byte
	runtimes []*vocabulary
	hashes   map[basilica.Hash]int
	pool     []*waiting
	nonces   map[[32]byte]uint64
	grown    chan struct{}
	asked    int  // times that metadata was asked for
	sent     int  // extrinsics that came to the pool
	stuck    bool // no block is made

	call   func(who [32]byte, c pallet.Call, b *ledgerState) ([]any, error) // nil: nothing happens, with success
	begin  func(number uint64, b *ledgerState) []any                        // of every block
	arrive func(n int) error                                                // before the nth extrinsic is looked at
	taken  func(n int)                                                      // after it is in the pool
	read   func(key []byte)                                                 // before a value is read
}

// ledgerState is the state that a block writes.
type ledgerState struct {
	t     testing.TB
	words *pallet.Runtime
	store map[string][]byte
}

func (b *ledgerState) key(palletName, item string, args []any) string {
	k, err := b.words.StorageKey(palletName, item, args...)
	if err != nil {
		b.t.Error(err)
	}
	return string(k)
}

func (b *ledgerState) set(palletName, item string, value any, args ...any) {
	raw, err := b.words.EncodeStorage(palletName, item, value)
	if err != nil {
		b.t.Error(err)
	}
	b.store[b.key(palletName, item, args)] = raw
}

func (b *ledgerState) del(palletName, item string, args ...any) {
	delete(b.store, b.key(palletName, item, args))
}

func (b *ledgerState) get(palletName, item string, args ...any) any {
	v, err := b.words.DecodeStorage(palletName, item, b.store[b.key(palletName, item, args)])
	if err != nil {
		b.t.Error(err)
	}
	return v
}

type waiting struct {
	x      *pallet.Extrinsic
	raw    []byte
	hash   basilica.Hash
	death  uint64
	status func(string, basilica.Hash)
}

func (w *waiting) tell(state string, at basilica.Hash) {
	if w.status != nil {
		w.status(state, at)
	}
}

// refusal is an error of a node with a JSON-RPC code.
type refusal struct {
	code          int
	message, data string
}

func (r refusal) Error() string                   { return r.message + ": " + r.data }
func (r refusal) RPCError() (int, string, string) { return r.code, r.message, r.data }

func invalidTx(data string) error { return refusal{codeInvalid, "Invalid Transaction", data} }

func newLedger(t testing.TB, v *vocabulary) *ledger {
	t.Helper()
	l := &ledger{t: t, runtime: v, hashes: map[basilica.Hash]int{}, nonces: map[[32]byte]uint64{}, grown: make(chan struct{})}
	b := &ledgerState{t: t, words: v.words, store: map[string][]byte{}}
	b.set("SubtensorModule", "CommitRevealWeightsEnabled", false, ledgerSubnet)
	b.set("SubtensorModule", "NetworksAdded", true, ledgerSubnet)
	l.adopt(pallet.Header{}, nil, b.store)
	return l
}

func (l *ledger) adopt(h pallet.Header, body [][]byte, store map[string][]byte) {
	l.hashes[h.Hash()] = len(l.headers)
	l.headers, l.bodies, l.states = append(l.headers, h), append(l.bodies, body), append(l.states, store)
	l.runtimes = append(l.runtimes, l.runtime)
	close(l.grown)
	l.grown = make(chan struct{})
}

// upgrade changes the runtime from the next block's state on; the pool judges by it at once, as after a block that only
// brought new code.
func (l *ledger) upgrade(v *vocabulary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runtime = v
	l.seal()
}

// Seal makes a block.
func (l *ledger) Seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stuck {
		l.seal()
	}
}

// halt makes the ledger stand still.
func (l *ledger) halt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stuck = true
}

func (l *ledger) seal() {
	parent := l.headers[len(l.headers)-1]
	number := parent.Number + 1
	writer := l.runtimes[len(l.runtimes)-1].words // a block's events are written by the runtime of its parent's state
	b := &ledgerState{t: l.t, words: writer, store: maps.Clone(l.states[len(l.states)-1])}
	var records []any
	record := func(phase scale.VariantValue, event any) {
		records = append(records, map[string]any{"phase": phase, "event": event, "topics": []any{}})
	}
	if l.begin != nil {
		for _, e := range l.begin(number, b) {
			record(scale.NewVariant("Initialization"), e)
		}
	}
	var body [][]byte
	var included []*waiting
	for again := true; again; {
		again = false
		for i, w := range l.pool {
			if w.x.Nonce != l.nonces[w.x.Signer] {
				continue
			}
			l.pool = slices.Delete(l.pool, i, i+1)
			l.nonces[w.x.Signer]++
			phase := scale.NewVariant("ApplyExtrinsic", len(body))
			info := map[string]any{"weight": map[string]any{"ref_time": 1, "proof_size": 1}, "class": "Normal", "pays_fee": "No"}
			outcome := scale.NewVariant("ExtrinsicSuccess", info)
			for _, e := range l.dispatch(w, b) {
				if failed, ok := e.(error); ok {
					outcome = scale.NewVariant("ExtrinsicFailed", b.moduleError(failed), info)
					continue
				}
				record(phase, e)
			}
			record(phase, scale.NewVariant("System", outcome))
			body, included, again = append(body, w.raw), append(included, w), true
			break
		}
	}
	b.set("System", "Events", records)
	h := pallet.Header{Parent: parent.Hash(), Number: number, ExtrinsicsRoot: pallet.Blake2b256(bytes.Join(body, nil))}
	l.adopt(h, body, b.store)
	for _, w := range included {
		w.tell("inBlock", h.Hash())
		w.tell("finalized", h.Hash())
	}
	l.pool = slices.DeleteFunc(l.pool, func(w *waiting) bool {
		dead := number+1 >= w.death
		if dead {
			w.tell("invalid", basilica.Hash{})
		}
		return dead
	})
}

func (l *ledger) dispatch(w *waiting, b *ledgerState) []any {
	if l.call == nil {
		return nil
	}
	c, err := b.words.DecodeCall(w.x.Call)
	if err != nil {
		l.t.Error(err)
		return nil
	}
	events, err := l.call(w.x.Signer, c, b)
	if err != nil {
		events = append(events, err)
	}
	return events
}

// moduleError is an error of SubtensorModule by its name, under the number that the runtime has for it.
func (b *ledgerState) moduleError(named error) any {
	for n := range 256 {
		if d := b.words.ModuleError(7, uint8(n)); d.Name == "SubtensorModule."+named.Error() {
			return scale.NewVariant("Module", map[string]any{"index": 7, "error": []byte{uint8(n), 0, 0, 0}})
		}
	}
	b.t.Errorf("no error %s", named)
	return "BadOrigin"
}

func subtensorEvent(name string, fields ...any) any {
	return scale.NewVariant("SubtensorModule", scale.NewVariant(name, fields...))
}

func (l *ledger) header(n int) basilica.Header {
	h := l.headers[n]
	return basilica.Header{Number: basilica.BlockNumber(n), Hash: h.Hash(), Parent: h.Parent}
}

func (l *ledger) Finalized() basilica.Header { return l.Head() }

func (l *ledger) NextFinalized(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error) {
	return l.NextHead(ctx, after)
}

func (l *ledger) Head() basilica.Header {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.header(len(l.headers) - 1)
}

func (l *ledger) NextHead(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error) {
	for {
		l.mu.Lock()
		if int(after)+1 < len(l.headers) {
			defer l.mu.Unlock()
			return l.header(int(after) + 1), nil
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return basilica.Header{}, ctx.Err()
		case <-grown:
		}
	}
}

func (l *ledger) BlockHash(n basilica.BlockNumber) (basilica.Hash, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(n) >= len(l.headers) {
		return basilica.Hash{}, false
	}
	return l.headers[n].Hash(), true
}

func (l *ledger) Block(at basilica.Hash) (pallet.Header, [][]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.hashes[at]
	if !ok {
		return pallet.Header{}, nil, false
	}
	return l.headers[n], l.bodies[n], true
}

func (l *ledger) Storage(at basilica.Hash, key []byte) ([]byte, bool, error) {
	if l.read != nil {
		l.read(key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.states[l.hashes[at]][string(key)]
	return v, ok, nil
}

func (l *ledger) StorageKeys(basilica.Hash, []byte, []byte, int) ([][]byte, error) { return nil, nil }

func (l *ledger) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.runtimes[l.hashes[at]]
	switch {
	case method == "Core_version":
		in := scale.NewReader(v.version)
		in.Text()
		in.Text()
		in.U32()
		place := in.Pos()
		return append(scale.AppendU32(bytes.Clone(v.version[:place]), v.spec), v.version[place+4:]...), nil
	case method == "Metadata_metadata_at_version" && bytes.Equal(args, scale.AppendU32(nil, 15)):
		l.asked++
		return scale.AppendBytes([]byte{1}, v.metadata), nil
	}
	return nil, errors.New("not found")
}

func (l *ledger) Submit(raw []byte, status func(string, basilica.Hash)) (basilica.Hash, error) {
	l.mu.Lock()
	n := l.sent
	l.sent++
	arrive := l.arrive
	l.mu.Unlock()
	if arrive != nil {
		if err := arrive(n); err != nil {
			return basilica.Hash{}, err
		}
	}
	hash, err := l.take(raw, status)
	if err == nil && l.taken != nil {
		l.taken(n)
	}
	return hash, err
}

func (l *ledger) take(raw []byte, status func(string, basilica.Hash)) (basilica.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, err := l.runtime.words.DecodeExtrinsic(raw)
	if err != nil {
		return basilica.Hash{}, refusal{1002, "Verification Error", err.Error()}
	}
	next := uint64(len(l.headers)) // the pool judges by the number of the next block
	birth := x.Era.Birth(next)
	s := pallet.Signing{SpecVersion: l.runtime.spec, TxVersion: 1, Genesis: l.headers[0].Hash()}
	if birth < uint64(len(l.headers)) {
		s.BirthHash = l.headers[birth].Hash()
	}
	w := &waiting{x: x, raw: bytes.Clone(raw), hash: pallet.ExtrinsicHash(raw), death: x.Era.Death(next), status: status}
	ok, err := l.runtime.words.Verify(x, s)
	switch {
	case err != nil || !ok:
		return w.hash, invalidTx("Transaction has a bad signature")
	case x.Nonce < l.nonces[x.Signer]:
		return w.hash, invalidTx("Transaction is outdated")
	}
	for _, other := range l.pool {
		if other.hash == w.hash {
			return w.hash, refusal{codeAlreadyImported, "Already Imported", ""}
		}
		if other.x.Signer == x.Signer && other.x.Nonce == x.Nonce {
			return w.hash, refusal{1014, "Priority is too low", ""}
		}
	}
	l.pool = append(l.pool, w)
	w.tell("ready", basilica.Hash{})
	return w.hash, nil
}

func (l *ledger) Pending() [][]byte { return nil }

func (l *ledger) NextIndex(who [32]byte) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.nonces[who]
	for again := true; again; {
		again = slices.ContainsFunc(l.pool, func(w *waiting) bool { return w.x.Signer == who && w.x.Nonce == next })
		if again {
			next++
		}
	}
	return uint32(next)
}

// forget drops everything that waits, without a word.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pool = nil
}

// disown ends the notices of everything that waits with a word; kept or not, as another node may have it.
func (l *ledger) disown(word string, keep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.pool {
		var of basilica.Hash
		if word == "usurped" {
			of = w.hash // real nodes name who took its place
		}
		w.tell(word, of)
		w.status = nil
	}
	if !keep {
		l.pool = nil
	}
}

// extrinsics are all that are in blocks, in order.
func (l *ledger) extrinsics() []*pallet.Extrinsic {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*pallet.Extrinsic
	for n, body := range l.bodies {
		for _, raw := range body {
			x, err := l.runtimes[max(n-1, 0)].words.DecodeExtrinsic(raw)
			if err != nil {
				l.t.Fatal(err)
			}
			out = append(out, x)
		}
	}
	return out
}

// flow is one direction of a connection, with room for whatever is on its way, as the kernel has.
type flow struct {
	mu       sync.Mutex // guards what follows
	data     []byte
	closed   bool
	deadline time.Time     // of who reads
	changed  chan struct{} // closed and replaced at every change
}

func newFlow() *flow { return &flow{changed: make(chan struct{})} }

func (f *flow) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flow) read(p []byte) (int, error) {
	for {
		f.mu.Lock()
		n := copy(p, f.data)
		f.data = f.data[n:]
		closed, deadline, changed := f.closed, f.deadline, f.changed
		f.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case closed:
			return 0, io.EOF
		}
		var late <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			late = time.After(left)
		}
		select {
		case <-changed:
		case <-late:
		}
	}
}

// end is one end of a connection.
type end struct{ in, out *flow }

func duplex() (net.Conn, net.Conn) {
	a, b := newFlow(), newFlow()
	return end{a, b}, end{b, a}
}

func (e end) Read(p []byte) (int, error) { return e.in.read(p) }

func (e end) Write(p []byte) (n int, err error) {
	e.out.change(func() {
		if e.out.closed {
			err = net.ErrClosed
			return
		}
		e.out.data, n = append(e.out.data, p...), len(p)
	})
	return n, err
}

func (e end) Close() error {
	e.in.change(func() { e.in.closed = true })
	e.out.change(func() { e.out.closed = true })
	return nil
}

func (e end) SetReadDeadline(t time.Time) error {
	e.in.change(func() { e.in.deadline = t })
	return nil
}

func (e end) SetDeadline(t time.Time) error    { return e.SetReadDeadline(t) }
func (e end) SetWriteDeadline(time.Time) error { return nil } // nothing is ever written late
func (e end) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (e end) RemoteAddr() net.Addr             { return e.LocalAddr() }

// pipes is a network inside of the process: connections can be cut, and refused for a while.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once

	mu   sync.Mutex // guards what follows
	ends []net.Conn
	down bool
}

func newPipes() *pipes { return &pipes{incoming: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.incoming:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9944} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := duplex()
	p.mu.Lock()
	down := p.down
	if !down {
		p.ends = append(p.ends, ours, theirs)
	}
	p.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	select {
	case p.incoming <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cut ends every connection; down refuses new ones until it is called with false.
func (p *pipes) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for _, c := range p.ends {
		c.Close()
	}
	p.ends = nil
}

// serveLedger puts a ledger behind a real server in a network of pipes, seals a block every 12 seconds, and gives a client
// that knows the ledger's first runtime already. All of it ends with stop.
func serveLedger(t testing.TB, l *ledger, cfg ServerConfig) (client *Client, wire *pipes, stop func()) {
	t.Helper()
	client, wire, ended := serveNode(t, l, l, cfg)
	client.runtimes[l.runtime.spec] = &runtimeVersion{spec: l.runtime.spec, tx: 1, words: l.runtime.words}
	done, ticking := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ticking)
		tick := time.NewTicker(ledgerBlock)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.Seal()
			}
		}
	}()
	return client, wire, func() {
		close(done)
		<-ticking
		ended()
	}
}

// serveNode puts a node and its pool behind a real server in a network of pipes.
func serveNode(t testing.TB, node Node, pool Pool, cfg ServerConfig) (client *Client, wire *pipes, stop func()) {
	t.Helper()
	wire = newPipes()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := NewServer(node, pool, cfg, slog.New(slog.DiscardHandler)).Serve(ctx, wire); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{DialContext: wire.dial}
	client = New(Config{URL: "ws://127.0.0.1:9944", PollInterval: ledgerBlock, HTTP: &http.Client{Transport: transport}}, slog.New(slog.DiscardHandler))
	return client, wire, func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
		wire.Close()
		transport.CloseIdleConnections()
	}
}

func ledgerKey(t testing.TB, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
