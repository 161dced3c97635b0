package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"basilica"
	"basilica/keys"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// machine is a small Executor in memory: blobs, and one scripted task.
type machine struct {
	mu       sync.Mutex
	blobs    map[basilica.Digest][]byte
	executed []basilica.ExecuteRequest
	fail     error
	panics   bool
}

func (m *machine) Execute(_ context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.panics {
		panic("secret of the executor")
	}
	m.executed = append(m.executed, req)
	return basilica.Holding{Kind: basilica.HolderTask, Holder: string(req.Task), GPUs: []string{"u"}, Fence: 7, Expires: time.Unix(1000, 5).UTC()}, m.fail
}

func (m *machine) Watch(ctx context.Context, task basilica.TaskID, attempt int, off int64, f func(basilica.TaskEvent) error) error {
	if task == "forever" {
		<-ctx.Done()
		return ctx.Err()
	}
	code := 3
	for _, e := range []basilica.TaskEvent{
		{State: basilica.TaskRunning, Log: &basilica.LogChunk{Offset: off, Stream: basilica.Stderr, Data: []byte{0xff, 0}}},
		{State: basilica.TaskFailed, ExitCode: &code, Reason: &basilica.Reason{Code: "EXIT", Sentence: "it failed"}, Outputs: []basilica.TaskFile{{Name: "a/b", Blob: basilica.Blob{SHA256: basilica.Digest{1}, Size: 9}}}, Receipt: &basilica.SignedReceipt{Payload: []byte("p"), ExecutorSig: []byte("s")}},
	} {
		e.Task, e.Attempt, e.At = task, attempt, time.Unix(5, 0).UTC()
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}
func (m *machine) Cancel(context.Context, basilica.TaskID, int) error  { return m.fail }
func (m *machine) Release(context.Context, basilica.TaskID, int) error { return m.fail }
func (m *machine) SystemInfo(context.Context) (basilica.Facts, error) {
	return basilica.Facts{Hostname: "h\xff", CPUs: 2}, m.fail
}

func (m *machine) Health(context.Context) (basilica.Health, error) {
	return basilica.Health{OK: true}, m.fail
}

func (m *machine) PutBlob(_ context.Context, b basilica.Blob, r io.Reader) error {
	got, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(got)) != b.Size || sha256.Sum256(got) != b.SHA256 {
		return basilica.E(basilica.Invalid, "BLOB_DIGEST", "the content does not match", "send it again")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[b.SHA256] = got
	return nil
}

func (m *machine) GetBlob(_ context.Context, d basilica.Digest, w io.Writer) error {
	m.mu.Lock()
	b, ok := m.blobs[d]
	m.mu.Unlock()
	if !ok {
		return basilica.E(basilica.NotFound, "BLOB_ABSENT", "no such blob", "")
	}
	_, err := w.Write(b)
	return err
}

// house is a miner's authority and one executor of it, with a clock that tests move.
type house struct {
	t    *testing.T
	auth *pki.Authority
	mu   sync.Mutex
	at   time.Time
}

func newHouse(t *testing.T) *house {
	t.Helper()
	a, err := pki.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &house{t: t, auth: a, at: time.Now().Truncate(time.Second)}
}

func (h *house) now() time.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.at }

func (h *house) step(d time.Duration) { h.mu.Lock(); defer h.mu.Unlock(); h.at = h.at.Add(d) }

// shows gives a certificate to whoever asks for it.
func shows(c tls.Certificate) CertificateFunc {
	return func() (*tls.Certificate, error) { return &c, nil }
}

// anyone is a miner that knows every executor of its fleet.
func anyone(context.Context, basilica.ExecutorID, []byte) error { return nil }

func (h *house) trust() basilica.Trust {
	return basilica.Trust{FleetCAs: h.auth.FleetCAs(), SSHCAs: h.auth.SSHCAKeys(), JWTKeys: h.auth.JWTPublicKeys()}
}

func (h *house) executorCert(id string, at time.Time) tls.Certificate {
	h.t.Helper()
	k, err := keys.GenerateP256()
	if err != nil {
		h.t.Fatal(err)
	}
	csr, err := pki.NewCSR(k.Signer())
	if err != nil {
		h.t.Fatal(err)
	}
	der, err := h.auth.IssueExecutor(csr, id, at)
	if err != nil {
		h.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.Signer()}
}

func (h *house) minerCert() tls.Certificate {
	h.t.Helper()
	c, err := h.auth.ServerCertificate(h.now(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// start runs serve on a free port until the test ends and checks that it stops cleanly.
func start(t *testing.T, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

func (h *house) serveExecutor(m basilica.Executor, id string) string {
	h.t.Helper()
	s, err := NewExecutorServer(m, ExecutorServerConfig{
		Executor: basilica.ExecutorID(id), Certificate: shows(h.executorCert(id, h.now())), CAs: h.auth.FleetCAs,
		JWTKeys: h.auth.JWTPublicKeys, Now: h.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return start(h.t, s.Serve)
}

func (h *house) pool(edit func(*ExecutorsConfig)) *Executors {
	cfg := ExecutorsConfig{
		Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: anyone, Now: h.now,
		MintJWT: func(id basilica.ExecutorID) (string, error) { return h.auth.MintJWT(string(id), h.now(), time.Minute) },
	}
	if edit != nil {
		edit(&cfg)
	}
	p := NewExecutors(cfg)
	h.t.Cleanup(func() { p.Close() })
	return p
}

func TestExecutorCalls(t *testing.T) {
	h, m, ctx := newHouse(t), &machine{blobs: map[basilica.Digest][]byte{}}, t.Context()
	addr := h.serveExecutor(m, "box-1")
	p := h.pool(nil)
	c := p.Executor("box-1", addr)
	if c != p.Executor("box-1", addr) {
		t.Fatal("two connections to one peer")
	}
	req := basilica.ExecuteRequest{Task: "t-1", Attempt: 2, Client: "5F", Spec: []byte(`{}`), Lease: time.Minute}
	got, err := c.Execute(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if want := (basilica.Holding{Kind: basilica.HolderTask, Holder: "t-1", GPUs: []string{"u"}, Fence: 7, Expires: time.Unix(1000, 5).UTC()}); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(m.executed[0], req) {
		t.Fatalf("%+v %+v", got, m.executed)
	}
	if f, err := c.SystemInfo(ctx); err != nil || f.Hostname != "h\uFFFD" || f.CPUs != 2 {
		t.Fatalf("%+v %v", f, err)
	}
	if hl, err := c.Health(ctx); err != nil || !hl.OK {
		t.Fatal(hl, err)
	}
	var events []basilica.TaskEvent
	if err := c.Watch(ctx, "t-1", 2, 10, func(e basilica.TaskEvent) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[0].Log.Offset != 10 || *events[1].ExitCode != 3 || events[1].Outputs[0].Size != 9 || string(events[1].Receipt.Payload) != "p" {
		t.Fatalf("%+v", events)
	}
	stop := errors.New("stop")
	if err := c.Watch(ctx, "t-1", 2, 0, func(basilica.TaskEvent) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	go cancel()
	if err := c.Watch(short, "forever", 1, 0, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m.fail = fmt.Errorf("place: %w", basilica.E(basilica.Conflict, "GPU_BUSY", "the GPUs are held", "try later").With(errors.New("private cause")))
	if err := c.Cancel(ctx, "t-1", 1); basilica.KindOf(err) != basilica.Conflict || basilica.CodeOf(err) != "GPU_BUSY" || basilica.FixOf(err) != "try later" || strings.Contains(err.Error(), "private") {
		t.Fatal(err)
	}
	m.fail = errors.New("private fault")
	if err := c.Release(ctx, "t-1", 1); basilica.KindOf(err) != basilica.Internal || strings.Contains(err.Error(), "private") {
		t.Fatal(err)
	}
	m.panics = true
	if _, err := c.Execute(ctx, req); basilica.KindOf(err) != basilica.Internal || strings.Contains(err.Error(), "secret") {
		t.Fatal(err)
	}
	p.Close()
	if _, err := p.Executor("box-2", addr).Health(ctx); basilica.CodeOf(err) != "POOL_CLOSED" {
		t.Fatal(err)
	}
}

func TestBlobs(t *testing.T) {
	h, m, ctx := newHouse(t), &machine{blobs: map[basilica.Digest][]byte{}}, t.Context()
	c := h.pool(nil).Executor("box-1", h.serveExecutor(m, "box-1"))
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	blob := basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	if err := c.PutBlob(ctx, blob, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	empty := basilica.Blob{SHA256: sha256.Sum256(nil)}
	if err := c.PutBlob(ctx, empty, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := c.GetBlob(ctx, blob.SHA256, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Fatal(got.Len(), err)
	}
	if err := c.PutBlob(ctx, basilica.Blob{SHA256: blob.SHA256, Size: blob.Size - 1}, bytes.NewReader(content)); basilica.CodeOf(err) != "MESSAGE_MALFORMED" {
		t.Fatal("oversize:", err)
	}
	if err := c.PutBlob(ctx, basilica.Blob{SHA256: blob.SHA256, Size: blob.Size + 1}, bytes.NewReader(content)); basilica.CodeOf(err) != "BLOB_DIGEST" {
		t.Fatal("short:", err)
	}
	if err := c.PutBlob(ctx, basilica.Blob{Size: basilica.MaxBlobBytes + 1}, bytes.NewReader(content)); basilica.KindOf(err) != basilica.Invalid {
		t.Fatal("huge:", err)
	}
	if err := c.GetBlob(ctx, basilica.Digest{9}, io.Discard); basilica.KindOf(err) != basilica.NotFound {
		t.Fatal(err)
	}
	m.blobs[basilica.Digest{8}] = []byte("not it")
	if err := c.GetBlob(ctx, basilica.Digest{8}, io.Discard); basilica.CodeOf(err) != "BLOB_DIGEST" {
		t.Fatal(err)
	}
}

// minerFleet is a Fleet in memory.
type minerFleet struct {
	h     *house
	mu    sync.Mutex
	beats []basilica.ExecutorID
	fail  error
}

func (f *minerFleet) Enroll(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	met, err := PeerKey(ctx, req.Addr, true)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if want, err := pki.CSRKey(req.CSR); err != nil || !bytes.Equal(want, met) {
		return basilica.Enrollment{}, basilica.E(basilica.Denied, "KEY", "another key answers", "")
	}
	cert, err := f.h.auth.IssueExecutor(req.CSR, "box-9", f.h.now())
	return basilica.Enrollment{Executor: "box-9", Miner: "5F", Certificate: cert, Trust: f.h.trust()}, err
}

func (f *minerFleet) Heartbeat(_ context.Context, id basilica.ExecutorID, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats = append(f.beats, id)
	return basilica.HeartbeatReply{At: beat.At.Add(time.Second), Lease: time.Minute, Renew: []basilica.TaskAttempt{{Task: "t", Attempt: 1}}, Revoked: []basilica.GrantID{"g"}, Drain: true}, f.fail
}

func (f *minerFleet) Renew(_ context.Context, id basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	cert, err := f.h.auth.IssueExecutor(req.CSR, string(id), f.h.now())
	return basilica.Renewal{Certificate: cert, Trust: f.h.trust()}, err
}

func (f *minerFleet) Reach(_ context.Context, id basilica.ExecutorID) (basilica.Reached, error) {
	return basilica.Reached{
		At: f.h.now(), Addr: "203.0.113.7:41234", SSHAddr: string(id) + ":22",
		SSH: &basilica.Reason{Code: "EXECUTOR_UNREACHABLE", Sentence: "connection refused", Fix: "open that port"},
	}, nil
}

func (f *minerFleet) setFail(err error) { f.mu.Lock(); defer f.mu.Unlock(); f.fail = err }

func (h *house) serveFleet(f basilica.Fleet) string {
	h.t.Helper()
	s, err := NewFleetServer(f, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: anyone, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.t.Fatal(err)
	}
	return start(h.t, s.Serve)
}

func TestJoinAndBeat(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	f := &minerFleet{h: h}
	addr := h.serveFleet(f)
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	own := start(t, func(ctx context.Context, ln net.Listener) error { return ServeKey(ctx, ln, key.Signer()) })
	mem := uint64(1 << 34)
	req := basilica.EnrollRequest{Token: "x", CSR: csr, Addr: own, Facts: basilica.Facts{GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, MemoryBytes: &mem}, {Kind: basilica.GPUWhole}}}}
	if _, err := JoinFleet(ctx, addr, [32]byte{1}, h.now, req); basilica.KindOf(err) != basilica.Unavailable || !strings.Contains(err.Error(), "join token") {
		t.Fatalf("wrong CA hash: %v", err)
	}
	e, err := JoinFleet(ctx, addr, pki.CAHash(h.auth.CACert()), h.now, req)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	stranger := req
	stranger.CSR, err = pki.NewCSR(other.Signer())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := JoinFleet(ctx, addr, pki.CAHash(h.auth.CACert()), h.now, stranger); basilica.CodeOf(err) != "KEY" {
		t.Fatalf("another key: %v", err)
	}
	c, err := DialFleet(addr, FleetClientConfig{Certificate: shows(tls.Certificate{Certificate: [][]byte{e.Certificate}, PrivateKey: key.Signer()}), CAs: func() [][]byte { return e.Trust.FleetCAs }, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at := time.Unix(100, 0).UTC()
	beat := basilica.Heartbeat{At: at, Health: basilica.Health{OK: true, Ledger: []basilica.Holding{{Kind: basilica.HolderChallenge, Holder: "g"}}}, GPUs: req.Facts.GPUs}
	for range 3 {
		r, err := c.Heartbeat(ctx, "box-9", beat)
		if err != nil {
			t.Fatal(err)
		}
		if !r.At.Equal(at.Add(time.Second)) || r.Lease != time.Minute || !r.Drain || r.Renew[0].Task != "t" || r.Revoked[0] != "g" {
			t.Fatalf("%+v", r)
		}
	}
	f.setFail(basilica.E(basilica.Denied, "REVOKED", "this machine left the fleet", ""))
	if _, err := c.Heartbeat(ctx, "box-9", beat); basilica.CodeOf(err) != "REVOKED" {
		t.Fatal(err)
	}
	f.setFail(nil)
	if _, err := c.Heartbeat(ctx, "box-9", beat); err != nil {
		t.Fatalf("after a failure: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Heartbeat(gone, "box-9", beat); !errors.Is(err, context.Canceled) {
		t.Fatalf("given up: %v", err)
	}
	if r, err := c.Heartbeat(ctx, "box-9", beat); err != nil || !r.Drain {
		t.Fatalf("after one given up: %v", err)
	}
	if _, err := c.Heartbeat(ctx, "box-1", beat); basilica.CodeOf(err) != "NOT_YOURSELF" {
		t.Fatal(err)
	}
	if _, err := c.Reach(ctx, "box-1"); basilica.CodeOf(err) != "NOT_YOURSELF" {
		t.Fatal(err)
	}
	met, err := c.Reach(ctx, "box-9")
	if err != nil || !met.At.Equal(h.now()) || met.Addr != "203.0.113.7:41234" || met.SSHAddr != "box-9:22" || met.GRPC != nil || met.SSH == nil || met.SSH.Fix != "open that port" || !strings.HasPrefix(met.From, "127.0.0.1:") {
		t.Fatalf("%+v, %v", met, err)
	}
	f.mu.Lock() // the beat that was given up may still be on its way in
	defer f.mu.Unlock()
	for _, id := range f.beats {
		if id != "box-9" {
			t.Fatal(f.beats)
		}
	}
}

func TestEnrolmentIsLimited(t *testing.T) {
	h := newHouse(t)
	f := &minerFleet{h: h}
	addr := h.serveFleet(f)
	cl, err := newFleetClient(addr, "", FleetClientConfig{Certificate: shows(tls.Certificate{}), Now: h.now}, func(tls.ConnectionState) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range enrollBurst {
		if _, err := cl.Enroll(t.Context(), basilica.EnrollRequest{}); basilica.CodeOf(err) == "ENROLL_RATE" {
			t.Fatal("limited too early")
		}
	}
	if _, err := cl.Enroll(t.Context(), basilica.EnrollRequest{}); basilica.CodeOf(err) != "ENROLL_RATE" {
		t.Fatal(err)
	}
}

// TestCallsAreJudgedByTheirHeaders: strangers must not hold the fleet door's memory with messages that they never finish.
func TestCallsAreJudgedByTheirHeaders(t *testing.T) {
	h := newHouse(t)
	s, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: anyone, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.door.whole = 100 * time.Millisecond
	conn, err := dial(start(t, s.Serve), clientTLS(shows(tls.Certificate{}), h.now, func(tls.ConnectionState) error { return nil }), dialTCP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	unsent := func(method string) error {
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		return fromStatus(ctx, "the miner", stream.RecvMsg(&wirepb.Enrollment{}))
	}
	if err := unsent(wirepb.Fleet_Heartbeats_FullMethodName); basilica.CodeOf(err) != "CERTIFICATE_MISSING" {
		t.Error(err)
	}
	for range enrollBurst {
		if err := unsent(wirepb.Fleet_Enroll_FullMethodName); basilica.CodeOf(err) != "DEADLINE" {
			t.Error(err)
		}
	}
	if err := unsent(wirepb.Fleet_Enroll_FullMethodName); basilica.CodeOf(err) != "ENROLL_RATE" {
		t.Error(err)
	}
}

func TestPeerKey(t *testing.T) {
	h := newHouse(t)
	executor := h.serveExecutor(&machine{}, "box-1")
	if _, err := PeerKey(t.Context(), executor, false); basilica.CodeOf(err) != "ADDRESS_PRIVATE" {
		t.Fatal(err)
	}
	// A running executor proves its key to whoever asks, for a machine that joins again.
	if spki, err := PeerKey(t.Context(), executor, true); err != nil || len(spki) == 0 {
		t.Fatal(err)
	}
	for addr, ok := range map[string]bool{"10.0.0.1:1": false, "[::1]:1": false, "[fe80::1]:1": false, "224.0.0.1:1": false, "0.0.0.0:1": false, "100.64.0.1:1": false, "[::ffff:192.168.0.1]:1": false, "[fd00::1]:1": false, "8.8.8.8:1": true, "[2606:4700::1]:1": true} {
		if err := checkDialled(addr, false); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if checkDialled("224.0.0.1:1", true) == nil || checkDialled("0.0.0.0:1", true) == nil {
		t.Error("multicast or unspecified passed")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := silent.Accept(); err == nil {
			c.Close()
		}
	}()
	defer silent.Close()
	if _, err := PeerKey(t.Context(), silent.Addr().String(), true); basilica.CodeOf(err) != "DIAL_BACK_KEY" {
		t.Fatal(err)
	}
}

func TestServeEndsStreams(t *testing.T) {
	h := newHouse(t)
	s, err := NewExecutorServer(&machine{}, ExecutorServerConfig{Executor: "box-1", Certificate: shows(h.executorCert("box-1", h.now())), CAs: h.auth.FleetCAs, JWTKeys: h.auth.JWTPublicKeys, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	x := h.pool(nil).Executor("box-1", ln.Addr().String())
	if _, err := x.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() { watched <- x.Watch(t.Context(), "forever", 1, 0, nil) }()
	putting := make(chan error, 1)
	r, w := io.Pipe()
	defer w.Close()
	go func() { putting <- x.PutBlob(t.Context(), basilica.Blob{Size: 10}, r) }()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	cancel()
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-watched; basilica.KindOf(err) != basilica.Unavailable {
		t.Fatal(err)
	}
	if err := <-putting; err == nil {
		t.Fatal("half a blob was taken")
	}
}

func TestErrorKindsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := basilica.E(basilica.Kind(rapid.IntRange(1, 6).Draw(r, "kind")), rapid.String().Draw(r, "code"), rapid.String().Draw(r, "sentence"), rapid.String().Draw(r, "fix"))
		got := fromStatus(context.Background(), "peer", toStatus(fmt.Errorf("wrapped: %w", e.With(errors.New("cause")))))
		var back *basilica.Error
		if !errors.As(got, &back) || *back != *e {
			r.Fatalf("%+v became %+v", e, got)
		}
	})
	for _, err := range []error{errors.New("secret"), basilica.E(basilica.Internal, "X", "secret", ""), basilica.E(99, "X", "secret", ""), status.Error(codes.Unknown, "secret")} {
		if got := toStatus(err); strings.Contains(got.Error(), "secret") || status.Code(got) != codes.Internal {
			t.Error(got)
		}
	}
}

func TestCappedListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	capped := newCappedListener(ln, 10, 1)
	defer capped.Close()
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := capped.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dialOne := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dialOne()
	defer first.Close()
	held := <-accepted
	second := dialOne()
	defer second.Close()
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Fatal("a connection over the cap stays open")
	}
	held.Close()
	held.Close()
	third := dialOne()
	defer third.Close()
	(<-accepted).Close()
	if capped.total != 0 || len(capped.by) != 0 {
		t.Fatal(capped.total, capped.by)
	}
}

func TestHostsShareAnIPv6Network(t *testing.T) {
	at := func(a string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a)) }
	if hostOf(at("[2001:db8::1]:5")) != hostOf(at("[2001:db8::ffff:2]:6")) || hostOf(at("192.0.2.1:5")) == hostOf(at("192.0.2.2:5")) {
		t.Error("hosts are told apart wrongly")
	}
}
