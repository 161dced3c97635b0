package miner_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/keys"
	"basilica/miner"
	"basilica/pki"
	"basilica/store"
)

const netuid = 39

// chainDouble is a node whose metagraph the test sets.
type chainDouble struct {
	mu     sync.Mutex // guards graph, served, err
	graph  basilica.Metagraph
	served []basilica.Axon
	err    error
	heads  chan basilica.Header
	kept   func() (*basilica.Metagraph, time.Time) // what an earlier process read; nil: nothing
}

func (c *chainDouble) WatchHeads(ctx context.Context, f func(basilica.Header) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-c.heads:
			if err := f(h); err != nil {
				return err
			}
		}
	}
}

func (c *chainDouble) Metagraph(context.Context, basilica.NetUID) (*basilica.Metagraph, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	g := c.graph
	g.Neurons = append([]basilica.Neuron(nil), g.Neurons...)
	return &g, nil
}

func (c *chainDouble) LastMetagraph(basilica.NetUID) (*basilica.Metagraph, time.Time, error) {
	if c.kept == nil {
		return nil, time.Time{}, basilica.E(basilica.NotFound, "SNAPSHOT_NONE", "none", "wait")
	}
	graph, at := c.kept()
	return graph, at, nil
}

func (c *chainDouble) ServeAxon(_ context.Context, _ basilica.NetUID, _ keys.Signer, a basilica.Axon) (basilica.Inclusion, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served = append(c.served, a)
	c.graph.Neurons[0].Axon = a
	return basilica.Inclusion{Block: 7}, nil
}

func (c *chainDouble) change(f func(*basilica.Metagraph)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.graph)
}

// executorDouble is a machine; unset functions are a machine that runs nothing.
type executorDouble struct {
	execute func(basilica.ExecuteRequest) (basilica.Holding, error)
	watch   func(ctx context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error
	cancel  func(task basilica.TaskID, attempt int) error

	mu       sync.Mutex // guards the rest
	blobs    map[basilica.Digest][]byte
	released []basilica.TaskAttempt
	holds    []basilica.Holding
}

func (e *executorDouble) Execute(_ context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	return e.execute(req)
}

func (e *executorDouble) Watch(ctx context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
	if e.watch == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return e.watch(ctx, task, attempt, offset, f)
}

func (e *executorDouble) Cancel(_ context.Context, task basilica.TaskID, attempt int) error {
	if e.cancel == nil {
		return nil
	}
	return e.cancel(task, attempt)
}

func (e *executorDouble) Release(_ context.Context, task basilica.TaskID, attempt int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.released = append(e.released, basilica.TaskAttempt{Task: task, Attempt: attempt})
	return nil
}

func (e *executorDouble) SystemInfo(context.Context) (basilica.Facts, error) {
	return basilica.Facts{}, nil
}

func (e *executorDouble) Health(context.Context) (basilica.Health, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return basilica.Health{OK: true, Ledger: e.holds}, nil
}

func (e *executorDouble) PutBlob(_ context.Context, blob basilica.Blob, r io.Reader) error {
	raw, err := io.ReadAll(r)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.blobs[blob.SHA256] = raw
	return err
}

func (e *executorDouble) GetBlob(_ context.Context, sum basilica.Digest, w io.Writer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	raw, ok := e.blobs[sum]
	if !ok {
		return basilica.E(basilica.NotFound, "BLOB_UNKNOWN", "no such blob", "")
	}
	_, err := w.Write(raw)
	return err
}

// house is a miner over a real store, with a chain and one executor that are doubles.
type house struct {
	t       *testing.T
	dir     string
	miner   *miner.Miner
	store   *store.Miner
	chain   *chainDouble
	box     *executorDouble
	machine basilica.Executor  // instead of box
	wrap    func(*miner.Parts) // changes what the next miner works with
	ledger  []basilica.Holding // that heartbeats show
	boxKey  *keys.P256
	hotkey  *keys.Pair
	pki     *pki.Authority
	stop    func()
	cut     func(id basilica.ExecutorID, why error)

	mu   sync.Mutex // guards the rest
	now  time.Time
	peer func(addr string) ([]byte, error)

	enrollment basilica.Enrollment
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// answers says who answers where the miner dials from now on.
func (h *house) answers(f func(addr string) ([]byte, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peer = f
}

func (h *house) answer(addr string) ([]byte, error) {
	h.mu.Lock()
	f := h.peer
	h.mu.Unlock()
	return f(addr)
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

const validator, client = basilica.Hotkey("validator"), basilica.Hotkey("client")

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseIn(t, t.TempDir())
}

func newHouseIn(t *testing.T, dir string) *house {
	t.Helper()
	hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	must(t, err)
	boxKey, err := keys.GenerateP256()
	must(t, err)
	h := &house{
		t: t, dir: dir, hotkey: hotkey, boxKey: boxKey, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
		box: &executorDouble{blobs: map[basilica.Digest][]byte{}},
		chain: &chainDouble{heads: make(chan basilica.Header), graph: basilica.Metagraph{Genesis: basilica.Hash{1}, NetUID: netuid, Neurons: []basilica.Neuron{
			{UID: 0, Hotkey: basilica.Hotkey(hotkey.SS58())},
			{UID: 1, Hotkey: validator, ValidatorPermit: true, Stake: 1000},
			{UID: 2, Hotkey: "no-permit", Stake: 1000},
			{UID: 3, Hotkey: "poor", ValidatorPermit: true, Stake: 999},
		}}},
	}
	h.cut = func(basilica.ExecutorID, error) {}
	h.peer = func(string) ([]byte, error) { return boxKey.SPKI(), nil }
	if h.pki, err = pki.Create(filepath.Join(h.dir, "pki")); err != nil {
		t.Fatal(err)
	}
	h.open(nil)
	return h
}

func (h *house) open(change func(*miner.Config)) {
	h.t.Helper()
	db, err := store.OpenMiner(context.Background(), h.dir, h.clock)
	must(h.t, err)
	blobs, err := store.OpenBlobs(filepath.Join(h.dir, "blobs"), 1<<20)
	must(h.t, err)
	logs, err := store.OpenTaskLogs(filepath.Join(h.dir, "logs"))
	must(h.t, err)
	cfg := miner.Config{
		NetUID: netuid, Axon: basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:8080"), Protocol: 4, TLSKey: bytes.Repeat([]byte{1}, 64)},
		FleetAddr: "127.0.0.1:8090", Compute: miner.ComputeOpen, MinStake: 1000, MaxGrants: 3, MaxOpenTasks: 3, MaxAttempts: 2,
		LostAfter: 30 * time.Second, Tick: 20 * time.Millisecond, Retry: time.Millisecond, ReleaseEvery: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	h.store = db
	parts := miner.Parts{
		Hotkey: h.hotkey, Chain: h.chain, Authority: h.pki, Store: db, Blobs: blobs, Logs: logs, Now: h.clock, Log: slog.New(slog.DiscardHandler),
		PeerKey: func(_ context.Context, addr string) ([]byte, error) { return h.answer(addr) },
		Cut:     func(id basilica.ExecutorID, why error) { h.cut(id, why) },
		Executor: func(basilica.ExecutorID, string) basilica.Executor {
			if h.machine != nil {
				return h.machine
			}
			return h.box
		},
	}
	if h.wrap != nil {
		h.wrap(&parts)
	}
	h.miner = miner.New(cfg, parts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.miner.Run(ctx) }()
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("run: %v", err)
		}
		if err := db.Close(); err != nil {
			h.t.Error(err)
		}
	}
	h.t.Cleanup(func() { h.stop() })
}

// head makes the miner read the chain; it has done so when head returns.
func (h *house) head() {
	h.pass(2 * time.Second)
	h.chain.heads <- basilica.Header{}
	h.pass(2 * time.Second)
	h.chain.heads <- basilica.Header{}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if basilica.CodeOf(err) != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func (h *house) token(name basilica.ExecutorID) string {
	h.t.Helper()
	text, _, err := h.miner.CreateToken(context.Background(), name, 0)
	must(h.t, err)
	return text
}

func (h *house) request(token, name string, key *keys.P256) basilica.EnrollRequest {
	h.t.Helper()
	csr, err := pki.NewCSR(key.Signer())
	must(h.t, err)
	memory := uint64(1 << 30)
	return basilica.EnrollRequest{
		Token: token, Name: name, CSR: csr, Addr: "127.0.0.1:50051", SSHAddr: "127.0.0.1:50022", HostKey: []byte("host key"), AttestSPKI: key.SPKI(),
		Facts: basilica.Facts{CPUs: 8, MemoryBytes: 8 << 30, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0", MemoryBytes: &memory}}},
	}
}

func (h *house) enroll() {
	h.t.Helper()
	var err error
	h.enrollment, err = h.miner.Enroll(context.Background(), h.request(h.token(""), "box", h.boxKey))
	must(h.t, err)
	h.beat()
}

func (h *house) beat() basilica.HeartbeatReply {
	h.t.Helper()
	reply, err := h.miner.Heartbeat(context.Background(), "box", basilica.Heartbeat{
		At: h.clock().Add(3 * time.Second), Version: "v1", Health: basilica.Health{OK: true, MaxTasks: 4, Ledger: h.ledger}, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}},
	})
	must(h.t, err)
	return reply
}

func (h *house) submit(key string, spec basilica.TaskSpec) basilica.Task {
	h.t.Helper()
	raw, err := json.Marshal(spec)
	must(h.t, err)
	task, err := h.miner.Submit(context.Background(), basilica.Submission{Caller: client, IdempotencyKey: key, Spec: raw})
	must(h.t, err)
	return task
}

// end watches a task to its end and gives its log and its last event.
func (h *house) end(id basilica.TaskID) (log string, last basilica.TaskEvent) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := h.miner.WatchTask(ctx, client, id, 0, func(e basilica.TaskEvent) error {
		if e.Log != nil {
			log += string(e.Log.Data)
		}
		last = e
		return nil
	})
	must(h.t, err)
	return log, last
}

// until watches a task until it has a state.
func (h *house) until(id basilica.TaskID, state basilica.TaskState) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reached := errors.New("reached")
	err := h.miner.WatchTask(ctx, client, id, 0, func(e basilica.TaskEvent) error {
		if e.State == state {
			return reached
		}
		return nil
	})
	if !errors.Is(err, reached) {
		h.t.Fatalf("task never was %s: %v", state, err)
	}
}

// untilReason watches a task until it says that it waits for a reason.
func (h *house) untilReason(id basilica.TaskID, code string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reached := errors.New("reached")
	err := h.miner.WatchTask(ctx, client, id, 0, func(e basilica.TaskEvent) error {
		if e.Reason != nil && e.Reason.Code == code {
			return reached
		}
		return nil
	})
	if !errors.Is(err, reached) {
		h.t.Fatalf("task never said %s: %v", code, err)
	}
}

// receipt signs what the box would for one attempt.
func (h *house) receipt(req basilica.ExecuteRequest, state basilica.TaskState, change func(*basilica.Receipt)) *basilica.SignedReceipt {
	code := 0
	r := basilica.Receipt{Task: req.Task, Attempt: req.Attempt, Client: req.Client, Executor: "box", SpecDigest: sha256.Sum256(req.Spec), State: state, ExitCode: &code, Started: h.clock(), Ended: h.clock()}
	if change != nil {
		change(&r)
	}
	signed, err := basilica.SignReceipt(r, h.enrollment.Endorsement, h.boxKey.Sign)
	if err != nil {
		h.t.Error(err)
	}
	return &signed
}

// accept makes the box take every task; its attempts are handed out in order.
func (h *house) accept() <-chan basilica.ExecuteRequest {
	taken := make(chan basilica.ExecuteRequest, 16)
	h.box.execute = func(req basilica.ExecuteRequest) (basilica.Holding, error) {
		taken <- req
		return basilica.Holding{Kind: basilica.HolderTask, Holder: string(req.Task), Fence: 1}, nil
	}
	return taken
}

func sshPublicKey(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return signer.PublicKey().Marshal()
}

// keepTime lets the clock run and the box's heart beat until stop is called.
func (h *house) keepTime(step time.Duration) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				h.pass(step)
				h.beat()
			}
		}
	}()
	return func() { close(done); <-stopped }
}

// readFunc is a reader by one function.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
