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
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
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
	return basilica.Health{OK: true}, nil
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
	t      *testing.T
	dir    string
	miner  *miner.Miner
	store  *store.Miner
	chain  *chainDouble
	box    *executorDouble
	boxKey *keys.P256
	hotkey *keys.Pair
	pki    *pki.Authority
	peer   func(addr string) ([]byte, error)
	stop   func()
	cut    func(id basilica.ExecutorID, why error)

	mu  sync.Mutex // guards now
	now time.Time

	enrollment basilica.Enrollment
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

const validator, client = basilica.Hotkey("validator"), basilica.Hotkey("client")

func newHouse(t *testing.T) *house {
	t.Helper()
	hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	must(t, err)
	boxKey, err := keys.GenerateP256()
	must(t, err)
	h := &house{
		t: t, dir: t.TempDir(), hotkey: hotkey, boxKey: boxKey, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
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
		Tick: 5 * time.Millisecond, Retry: time.Millisecond, ReleaseEvery: 5 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	h.store = db
	h.miner = miner.New(cfg, miner.Parts{
		Hotkey: h.hotkey, Chain: h.chain, Authority: h.pki, Store: db, Blobs: blobs, Logs: logs, Now: h.clock, Log: slog.New(slog.DiscardHandler),
		PeerKey:  func(_ context.Context, addr string) ([]byte, error) { return h.peer(addr) },
		Cut:      func(id basilica.ExecutorID, why error) { h.cut(id, why) },
		Executor: func(basilica.ExecutorID, string) basilica.Executor { return h.box },
	})
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
		At: h.clock().Add(3 * time.Second), Version: "v1", Health: basilica.Health{OK: true, MaxTasks: 4}, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}},
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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

func TestEnroll(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	e, err := h.enrollment.Endorsement.Open()
	must(t, err)
	if h.enrollment.Executor != "box" || e.Miner != basilica.Hotkey(h.hotkey.SS58()) || !bytes.Equal(e.KeySPKI, h.boxKey.SPKI()) || e.Executor != "box" {
		t.Errorf("endorsement %+v", e)
	}
	if len(h.enrollment.Trust.JWTKeys) != 1 || len(h.enrollment.Trust.JWTKeys[0]) != ed25519.PublicKeySize {
		t.Error("no JWT key")
	}
	other, err := keys.GenerateP256()
	must(t, err)
	h.peer = func(string) ([]byte, error) { return other.SPKI(), nil }
	used := h.token("")
	_, err = h.miner.Enroll(ctx, h.request(used, "", other))
	must(t, err)
	for name, c := range map[string]struct {
		req  func(*basilica.EnrollRequest)
		code string
	}{
		"no token":               {func(r *basilica.EnrollRequest) { r.Token = "x" }, "TOKEN_UNKNOWN"},
		"token of another miner": {func(r *basilica.EnrollRequest) { r.Token, _, _ = pki.NewJoinToken("h:1", []byte("ca")) }, "TOKEN_UNKNOWN"},
		"used token":             {func(r *basilica.EnrollRequest) { r.Token = used }, "TOKEN_USED"},
		"name taken":             {func(r *basilica.EnrollRequest) { r.Name = "box" }, "EXECUTOR_NAME_TAKEN"},
		"bad name":               {func(r *basilica.EnrollRequest) { r.Name = "Box!" }, "EXECUTOR_NAME"},
		"token for another name": {func(r *basilica.EnrollRequest) { r.Token = h.token("a"); r.Name = "b" }, "TOKEN_NAME"},
		"no address":             {func(r *basilica.EnrollRequest) { r.Addr = "50051" }, "ENROLL_ADDRESS"},
		"no CSR":                 {func(r *basilica.EnrollRequest) { r.CSR = nil }, "ENROLL_INVALID"},
		"no host key":            {func(r *basilica.EnrollRequest) { r.HostKey = nil }, "ENROLL_INVALID"},
	} {
		req := h.request(h.token(""), "third", other)
		c.req(&req)
		if _, err := h.miner.Enroll(ctx, req); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	h.peer = func(string) ([]byte, error) { return h.boxKey.SPKI(), nil }
	_, err = h.miner.Enroll(ctx, h.request(h.token(""), "third", other))
	wantCode(t, err, "DIAL_BACK_KEY")
	h.peer = func(string) ([]byte, error) { return nil, errors.New("connection refused") }
	_, err = h.miner.Enroll(ctx, h.request(h.token(""), "third", other))
	wantCode(t, err, "DIAL_BACK")
	if fix := basilica.FixOf(err); !bytes.Contains([]byte(fix), []byte("50051")) {
		t.Errorf("fix %q does not say what to open", fix)
	}
	late := h.token("")
	h.pass(time.Hour)
	_, err = h.miner.Enroll(ctx, h.request(late, "third", other))
	wantCode(t, err, "TOKEN_EXPIRED")
	tokens, err := h.miner.Tokens(ctx)
	if err != nil || len(tokens) < 5 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}

func TestRegistration(t *testing.T) {
	h := newHouse(t)
	h.head()
	if len(h.chain.served) != 1 || h.chain.served[0].Addr.String() != "127.0.0.2:8080" {
		t.Fatalf("served %+v", h.chain.served)
	}
	h.head()
	if len(h.chain.served) != 1 {
		t.Error("an unchanged axon was published again")
	}
	must(t, h.miner.Health(context.Background()))
	s, err := h.miner.Status(context.Background())
	if err != nil || !s.Published || s.UID == nil {
		t.Errorf("status %+v %v", s, err)
	}
	h.chain.change(func(g *basilica.Metagraph) { g.Neurons[0].Hotkey = "another" })
	h.head()
	wantCode(t, h.miner.Health(context.Background()), "MINER_NOT_REGISTERED")
	h.pass(time.Hour)
	wantCode(t, h.miner.Health(context.Background()), "CHAIN_STALE")

	stranger, err := keys.Generate(keys.Sr25519)
	must(t, err)
	m := miner.New(miner.Config{NetUID: netuid}, miner.Parts{Hotkey: stranger, Chain: h.chain, Now: h.clock, Log: slog.New(slog.DiscardHandler)})
	err = m.Run(context.Background())
	wantCode(t, err, "MINER_NOT_REGISTERED")
	if basilica.FixOf(err) == "" {
		t.Error("no next step")
	}
}

func sshPublicKey(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return signer.PublicKey().Marshal()
}

func TestOpenValidation(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.head()
	h.enroll()
	open := func(who basilica.Hotkey, ids ...basilica.ExecutorID) (basilica.ValidationGrant, error) {
		return h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: who, SSHPublicKey: sshPublicKey(t), Round: 10, Executors: ids})
	}
	for who, code := range map[basilica.Hotkey]string{"stranger": "VALIDATOR_UNKNOWN", "no-permit": "VALIDATOR_NO_PERMIT", "poor": "VALIDATOR_STAKE"} {
		_, err := open(who)
		wantCode(t, err, code)
	}
	_, err := h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: []byte("x")})
	wantCode(t, err, "SSH_KEY")
	grant, err := open(validator, "box", "nobody")
	must(t, err)
	if len(grant.Executors) != 1 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_UNKNOWN" {
		t.Fatalf("grant %+v", grant)
	}
	parsed, err := ssh.ParsePublicKey(grant.Executors[0].Certificate)
	must(t, err)
	cert, ok := parsed.(*ssh.Certificate)
	if !ok || cert.KeyId != string(grant.ID) || len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != "box" {
		t.Fatalf("certificate %+v", cert)
	}
	if end := time.Unix(int64(cert.ValidBefore), 0); end.After(h.clock().Add(10 * time.Minute)) {
		t.Errorf("certificate until %s", end)
	}

	h.pass(11 * time.Second)
	grant, err = open(validator)
	must(t, err)
	if len(grant.Executors) != 0 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_SILENT" {
		t.Errorf("silent executor: %+v", grant)
	}
	_, err = open(validator)
	must(t, err)
	_, err = open(validator)
	wantCode(t, err, "GRANT_RATE")

	view, err := h.miner.Member(ctx, "box")
	must(t, err)
	if len(view.Grants) != 1 || view.Grants[0].Validator != validator || view.Ready || view.Why.Code != "EXECUTOR_SILENT" || view.LastBeat.Clock != 3*time.Second {
		t.Errorf("view %+v", view)
	}
	h.chain.change(func(g *basilica.Metagraph) { g.Neurons[1].ValidatorPermit = false })
	h.head()
	if reply := h.beat(); len(reply.Revoked) != 1 {
		t.Errorf("a fallen validator's grant was not revoked: %+v", reply)
	}
	h.pass(time.Hour)
	_, err = open(validator)
	wantCode(t, err, "CHAIN_STALE")
}

func TestTaskEndToEnd(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	input, output := []byte("input"), []byte("output")
	in := basilica.TaskFile{Name: "a", Blob: basilica.Blob{SHA256: sha256.Sum256(input), Size: int64(len(input))}}
	out := basilica.TaskFile{Name: "b", Blob: basilica.Blob{SHA256: sha256.Sum256(output), Size: int64(len(output))}}
	must(t, h.miner.PutBlob(ctx, client, in.Blob, 0, bytes.NewReader(input)))
	taken := h.accept()
	h.box.watch = func(_ context.Context, _ basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		if got := h.box.blobs[in.SHA256]; !bytes.Equal(got, input) {
			t.Errorf("input %q", got)
		}
		h.box.mu.Lock()
		h.box.blobs[out.SHA256] = output
		h.box.mu.Unlock()
		event := func(state basilica.TaskState, log string, at int64) error {
			e := basilica.TaskEvent{Task: req.Task, Attempt: attempt, State: state, At: h.clock()}
			if log != "" {
				e.Log = &basilica.LogChunk{Offset: at, Stream: basilica.Stdout, Data: []byte(log)}
			}
			if state.Terminal() {
				e.Receipt = h.receipt(req, state, func(r *basilica.Receipt) { r.Outputs = []basilica.TaskFile{out} })
			}
			return f(e)
		}
		return errors.Join(event(basilica.TaskPulling, "", 0), event(basilica.TaskRunning, "hello ", 0), event(basilica.TaskRunning, "world", 6), event(basilica.TaskSucceeded, "", 0))
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i", Inputs: []basilica.TaskFile{in}})
	log, last := h.end(task.ID)
	if log != "hello world" || last.State != basilica.TaskSucceeded || last.ExitCode == nil || *last.ExitCode != 0 {
		t.Fatalf("log %q, last %+v", log, last)
	}
	r, e, err := last.Receipt.Open()
	must(t, err)
	if r.Task != task.ID || e.Miner != basilica.Hotkey(h.hotkey.SS58()) {
		t.Errorf("receipt %+v", r)
	}
	var got bytes.Buffer
	must(t, h.miner.GetBlob(ctx, client, out.SHA256, 0, &got))
	if got.String() != "output" {
		t.Errorf("output %q", got.String())
	}
	wantCode(t, h.miner.GetBlob(ctx, "other", out.SHA256, 0, io.Discard), "BLOB_UNKNOWN")
	_, err = h.miner.Task(ctx, "other", task.ID)
	wantCode(t, err, "TASK_UNKNOWN")
	if again := h.submit("k", basilica.TaskSpec{Image: "i", Inputs: []basilica.TaskFile{in}}); again.ID != task.ID {
		t.Error("the same key gave another task")
	}
	page, err := h.miner.Tasks(ctx, client, basilica.TaskQuery{})
	if err != nil || len(page.Tasks) != 1 || page.Tasks[0].LogBytes != 11 || page.Next != "" {
		t.Errorf("tasks %+v %v", page, err)
	}
	cancelled, err := h.miner.Cancel(ctx, client, task.ID)
	if err != nil || cancelled.State != basilica.TaskSucceeded {
		t.Errorf("cancel of an ended task: %+v %v", cancelled, err)
	}
}

func TestSubmitRefusals(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	for name, c := range map[string]struct{ spec, key, code string }{
		"not JSON":       {`{`, "k", "SPEC_JSON"},
		"unknown field":  {`{"image":"i","gpuz":1}`, "k", "SPEC_JSON"},
		"trailing bytes": {`{"image":"i"} {}`, "k", "SPEC_JSON"},
		"invalid":        {`{"image":""}`, "k", "TASK_INVALID"},
		"too large":      {`{"image":"` + string(bytes.Repeat([]byte("x"), basilica.MaxSpecBytes)) + `"}`, "k", "SPEC_SIZE"},
		"no key":         {`{"image":"i"}`, "", "IDEMPOTENCY_KEY_FORM"},
	} {
		if _, err := h.miner.Submit(ctx, basilica.Submission{Caller: client, IdempotencyKey: c.key, Spec: []byte(c.spec)}); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	h.stop()
	h.open(func(c *miner.Config) { c.Compute, c.AllowList = miner.ComputeAllowList, []basilica.Hotkey{client} })
	wantCode(t, h.miner.MayCompute(ctx, "other"), "COMPUTE_NOT_ALLOWED")
	must(t, h.miner.MayCompute(ctx, client))
	h.stop()
	h.open(func(c *miner.Config) { c.Compute = miner.ComputeClosed })
	wantCode(t, h.miner.MayCompute(ctx, client), "COMPUTE_CLOSED")
}

func TestTaskThatFitsNowhere(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	task := h.submit("k", basilica.TaskSpec{Image: "i", GPUs: 1})
	if _, last := h.end(task.ID); last.State != basilica.TaskFailed || last.Reason.Code != "NO_EXECUTOR_FITS" || last.Reason.Fix == "" {
		t.Errorf("last %+v, reason %+v", last, last.Reason)
	}
}

func TestExecutorRefuses(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	for name, c := range map[string]struct {
		err   error
		code  string
		tries int
	}{
		"invalid":     {basilica.E(basilica.Invalid, "IMAGE_REFERENCE", "no image", ""), "IMAGE_REFERENCE", 1},
		"unavailable": {basilica.E(basilica.Unavailable, "ENGINE_AWAY", "no engine", ""), "ENGINE_AWAY", 2},
		"internal":    {errors.New("boom"), "EXECUTOR_FAILED", 2},
	} {
		tries := 0
		h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
			tries++
			return basilica.Holding{}, c.err
		}
		task := h.submit(name, basilica.TaskSpec{Image: "i"})
		stop := h.keepTime(time.Second)
		_, last := h.end(task.ID)
		stop()
		if last.State != basilica.TaskFailed || last.Reason.Code != c.code || tries != c.tries {
			t.Errorf("%s: %d tries, last %+v %v", name, tries, last, last.Reason)
		}
	}
}

// keepTime lets the clock run and the box's heart beat until stop is called.
func (h *house) keepTime(step time.Duration) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(2 * time.Millisecond)
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

func TestBusyExecutorIsAskedAgain(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	tries := 0
	taken := make(chan basilica.ExecuteRequest, 1)
	h.box.execute = func(req basilica.ExecuteRequest) (basilica.Holding, error) {
		switch tries++; {
		case tries < 3:
			return basilica.Holding{}, basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g"})
		case tries < 6: // full for now: as many tries as it takes
			return basilica.Holding{}, basilica.E(basilica.Exhausted, "MEMORY_FULL", "the machine's memory is taken", "wait")
		}
		taken <- req
		return basilica.Holding{}, nil
	}
	h.box.watch = func(_ context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskFailed, Receipt: h.receipt(req, basilica.TaskFailed, nil)})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	defer h.keepTime(time.Second)()
	if _, last := h.end(task.ID); last.State != basilica.TaskFailed || last.Attempt != 6 {
		t.Errorf("last %+v", last)
	}
}

func TestForgedReceipts(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	forger, err := keys.GenerateP256()
	must(t, err)
	for name, forge := range map[string]func(basilica.ExecuteRequest) *basilica.SignedReceipt{
		"none": func(basilica.ExecuteRequest) *basilica.SignedReceipt { return nil },
		"another task": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.Task = "t-other" })
		},
		"another spec": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.SpecDigest[0]++ })
		},
		"another state": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskFailed, nil)
		},
		"a way out of the directory": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			return h.receipt(r, basilica.TaskSucceeded, func(r *basilica.Receipt) { r.Outputs = []basilica.TaskFile{{Name: "../x"}} })
		},
		"an endorsement of its own": func(r basilica.ExecuteRequest) *basilica.SignedReceipt {
			e, err := basilica.Endorse(basilica.Endorsement{Executor: "box", KeySPKI: forger.SPKI()}, h.hotkey)
			must(t, err)
			signed, err := basilica.SignReceipt(basilica.Receipt{Task: r.Task, Attempt: r.Attempt, Client: r.Client, Executor: "box", SpecDigest: sha256.Sum256(r.Spec), State: basilica.TaskSucceeded}, e, forger.Sign)
			must(t, err)
			return &signed
		},
	} {
		taken := h.accept()
		h.box.watch = func(_ context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
			req := <-taken
			return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskSucceeded, Receipt: forge(req)})
		}
		task := h.submit(name, basilica.TaskSpec{Image: "i"})
		if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "RECEIPT_REFUSED" || last.Receipt != nil {
			t.Errorf("%s: last %+v %v", name, last, last.Reason)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	wanted := make(chan struct{})
	var once sync.Once
	h.box.cancel = func(basilica.TaskID, int) error { once.Do(func() { close(wanted) }); return nil }
	taken := h.accept()
	h.box.watch = func(ctx context.Context, _ basilica.TaskID, _ int, _ int64, f func(basilica.TaskEvent) error) error {
		req := <-taken
		if err := f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskRunning, At: h.clock()}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wanted:
		}
		return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskCancelled, Receipt: h.receipt(req, basilica.TaskCancelled, nil)})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	h.until(task.ID, basilica.TaskRunning)
	_, err := h.miner.Cancel(ctx, client, task.ID)
	must(t, err)
	if _, last := h.end(task.ID); last.State != basilica.TaskCancelled || last.Receipt == nil {
		t.Errorf("last %+v", last)
	}

	must(t, h.miner.Drain(ctx, "box", true, 0))
	queued := h.submit("q", basilica.TaskSpec{Image: "i"})
	got, err := h.miner.Cancel(ctx, client, queued.ID)
	if err != nil || got.State != basilica.TaskCancelled {
		t.Errorf("cancel of a queued task: %+v %v", got, err)
	}
}

func TestLostExecutor(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	req := <-taken
	h.until(task.ID, basilica.TaskPlaced)
	reply := basilica.HeartbeatReply{}
	for len(reply.Renew) == 0 { // Execute has returned; its acceptance is being written
		reply = h.beat()
	}
	if reply.Renew[0] != (basilica.TaskAttempt{Task: req.Task, Attempt: 1}) {
		t.Errorf("renewed %+v", reply.Renew)
	}
	h.pass(30*time.Second + 11*time.Second)
	if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_LOST" {
		t.Errorf("last %+v", last)
	}
}

func TestSilentBeforeAcceptance(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	entered, leave := make(chan struct{}), make(chan struct{})
	h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
		close(entered)
		<-leave
		return basilica.Holding{}, errors.New("too late")
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-entered
	h.pass(11 * time.Second)
	h.until(task.ID, basilica.TaskQueued)
	close(leave)
}

func TestRestartInTheMiddle(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	h.box.watch = func(ctx context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		if offset != 0 {
			t.Errorf("first watch from %d", offset)
		}
		err := f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskRunning, At: h.clock(), Log: &basilica.LogChunk{Stream: basilica.Stdout, Data: []byte("before ")}})
		if err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	req := <-taken
	h.until(task.ID, basilica.TaskRunning)
	h.stop()

	h.box.watch = func(_ context.Context, task basilica.TaskID, attempt int, offset int64, f func(basilica.TaskEvent) error) error {
		if offset != int64(len("before ")) {
			t.Errorf("resumed from %d", offset)
		}
		return errors.Join(
			f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskRunning, Log: &basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: []byte("after")}}),
			f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskSucceeded, Receipt: h.receipt(req, basilica.TaskSucceeded, nil)}),
		)
	}
	h.pass(5 * time.Minute) // the lease is over, the end was witnessed all the same
	h.open(nil)
	log, last := h.end(task.ID)
	if log != "before after" || last.State != basilica.TaskSucceeded || last.Attempt != 1 {
		t.Errorf("log %q, last %+v", log, last)
	}
	if len(taken) != 0 {
		t.Error("the task was executed twice")
	}
}

func TestOffer(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	h.submit("k", basilica.TaskSpec{Image: "i", GPUs: 1, AllowSoftware: true})
	<-taken
	waits := h.submit("l", basilica.TaskSpec{Image: "i", GPUs: 1, AllowSoftware: true})
	o, err := h.miner.Offer(context.Background())
	must(t, err)
	if len(o.Executors) != 1 || !o.Executors[0].Ready || o.Executors[0].GPUs != 1 || o.Executors[0].GPUsFree != 0 || o.Queue != 1 || o.Executors[0].GPUKind != basilica.GPUSoftware {
		t.Errorf("offer %+v", o)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	why := errors.New("told why")
	err = h.miner.WatchTask(ctx, client, waits.ID, 0, func(e basilica.TaskEvent) error {
		if e.Reason != nil && e.Reason.Code == "WAITS_FOR_ROOM" {
			return why
		}
		return nil
	})
	if !errors.Is(err, why) {
		t.Errorf("a waiting client was not told why: %v", err)
	}
}

func TestHeartbeatBounds(t *testing.T) {
	h := newHouse(t)
	_, err := h.miner.Heartbeat(context.Background(), "nobody", basilica.Heartbeat{})
	wantCode(t, err, "EXECUTOR_UNKNOWN")
	_, err = h.miner.Heartbeat(context.Background(), "nobody", basilica.Heartbeat{GPUs: make([]basilica.GPU, 100)})
	wantCode(t, err, "HEARTBEAT_SIZE")
}

// readFunc is a reader by one function.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestUploadsAtOnceKeepToTheQuota: what is on its way counts before it has arrived.
func TestUploadsAtOnceKeepToTheQuota(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.open(func(c *miner.Config) { c.MaxBlobBytes = 10 })
	ctx := context.Background()
	first, second := []byte("sixsix"), []byte("sevens!")
	blob := func(b []byte) basilica.Blob {
		return basilica.Blob{SHA256: sha256.Sum256(b), Size: int64(len(b))}
	}
	left := bytes.NewReader(first)
	must(t, h.miner.PutBlob(ctx, client, blob(first), 0, readFunc(func(p []byte) (int, error) {
		if left.Len() == len(first) {
			wantCode(t, h.miner.PutBlob(ctx, client, blob(second), 0, bytes.NewReader(second)), "BLOB_QUOTA")
		}
		return left.Read(p)
	})))
	wantCode(t, h.miner.PutBlob(ctx, client, blob(second), 0, bytes.NewReader(second)), "BLOB_QUOTA")
	must(t, h.miner.PutBlob(ctx, "another", blob(second), 0, bytes.NewReader(second)))
	must(t, h.miner.PutBlob(ctx, client, blob([]byte("four")), 0, bytes.NewReader([]byte("four"))))
}

// TestSlowUploadLetsOldContentGo: a client that sends slowly keeps nobody's old content alive, and has its own in the end.
func TestSlowUploadLetsOldContentGo(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	content := []byte("content")
	blob := basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	must(t, h.miner.PutBlob(ctx, "another", blob, 0, bytes.NewReader(content)))
	path := filepath.Join(h.dir, "blobs", blob.SHA256.String()[:2], blob.SHA256.String())
	left := bytes.NewReader(content)
	must(t, h.miner.PutBlob(ctx, client, blob, 0, readFunc(func(p []byte) (int, error) {
		if left.Len() == len(content) {
			h.pass(48 * time.Hour)
			tick, late := time.NewTicker(time.Millisecond), time.After(10*time.Second)
			defer tick.Stop()
			for {
				if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
					break
				}
				select {
				case <-late:
					return 0, errors.New("the old content stays")
				case <-tick.C:
				}
			}
		}
		return left.Read(p)
	})))
	var got bytes.Buffer
	must(t, h.miner.GetBlob(ctx, client, blob.SHA256, 0, &got))
	if !bytes.Equal(got.Bytes(), content) {
		t.Errorf("got %q", got.Bytes())
	}
}
