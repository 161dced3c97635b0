package wire

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/pki"
)

// self is a machine's identity as its node keeps it: replaced while connections stand.
type self struct {
	key *keys.P256

	mu    sync.Mutex
	cert  []byte
	trust basilica.Trust
}

func (s *self) certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &tls.Certificate{Certificate: [][]byte{s.cert}, PrivateKey: s.key.Signer()}, nil
}

func (s *self) get() basilica.Trust { s.mu.Lock(); defer s.mu.Unlock(); return s.trust }

func (s *self) take(r basilica.Renewal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert, s.trust = r.Certificate, r.Trust
}

func (s *self) csr(t *testing.T) []byte {
	t.Helper()
	csr, err := pki.NewCSR(s.key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (h *house) newSelf(id string) *self {
	h.t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		h.t.Fatal(err)
	}
	s := &self{key: key, trust: h.trust()}
	if s.cert, err = h.auth.IssueExecutor(s.csr(h.t), id, h.now()); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// longTask is a machine whose task runs until the test ends it.
type longTask struct {
	machine
	running, end chan struct{}
}

func (m *longTask) Watch(_ context.Context, task basilica.TaskID, attempt int, _ int64, f func(basilica.TaskEvent) error) error {
	if err := f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskRunning}); err != nil {
		return err
	}
	close(m.running)
	<-m.end
	return f(basilica.TaskEvent{Task: task, Attempt: attempt, State: basilica.TaskSucceeded})
}

// TestRenewalAndRotationDropNothing: a task is watched while the machine's certificate is renewed and ends, and while the
// miner's keys are replaced in all their steps. New connections come about at every point under what is in force then.
func TestRenewalAndRotationDropNothing(t *testing.T) {
	h := newHouse(t)
	me := h.newSelf("box-1")
	m := &longTask{machine: machine{blobs: map[basilica.Digest][]byte{}}, running: make(chan struct{}), end: make(chan struct{})}
	door, err := NewExecutorServer(m, ExecutorServerConfig{
		Executor: "box-1", Certificate: me.certificate, CAs: func() [][]byte { return me.get().FleetCAs }, JWTKeys: func() [][]byte { return me.get().JWTKeys },
		Now: h.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := start(t, door.Serve)
	var ofCA sync.Map // the miner makes a certificate for each of its CAs
	minerCert := func() (*tls.Certificate, error) {
		if c, ok := ofCA.Load(string(h.auth.CACert())); ok {
			return c.(*tls.Certificate), nil
		}
		c, err := h.auth.ServerCertificate(h.now(), nil)
		ofCA.Store(string(h.auth.CACert()), &c)
		return &c, err
	}
	fleet, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: minerCert, CAs: h.auth.FleetCAs, Known: anyone, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := DialFleet(start(t, fleet.Serve), FleetClientConfig{Certificate: me.certificate, CAs: func() [][]byte { return me.get().FleetCAs }, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	standing := h.pool(func(c *ExecutorsConfig) { c.Certificate = minerCert })
	watched := make(chan error, 1)
	go func() {
		watched <- standing.Executor("box-1", addr).Watch(context.Background(), "t", 1, 0, func(basilica.TaskEvent) error { return nil })
	}()
	<-m.running
	end := sync.OnceFunc(func() { close(m.end) })
	defer end()
	works := func(when string) {
		t.Helper()
		if _, err := c.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{}); err != nil {
			t.Fatalf("%s: heartbeat: %v", when, err)
		}
		fresh := h.pool(func(c *ExecutorsConfig) { c.Certificate = minerCert })
		for name, p := range map[string]*Executors{"standing": standing, "new": fresh} {
			if _, err := p.Executor("box-1", addr).Health(t.Context()); err != nil {
				t.Fatalf("%s: %s connection: %v", when, name, err)
			}
		}
	}
	renew := func() {
		t.Helper()
		r, err := c.Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)})
		if err != nil {
			t.Fatal(err)
		}
		me.take(r)
		if err := c.Redial(); err != nil {
			t.Fatal(err)
		}
	}
	works("in the beginning")
	h.step(pki.ExecutorLife * 3 / 4)
	renew()
	works("renewed")
	h.step(pki.ExecutorLife / 2) // the first certificate has ended
	works("after the first certificate's end")
	if err := h.auth.BeginRotation(); err != nil {
		t.Fatal(err)
	}
	works("rotation announced")
	renew()
	works("machine renewed")
	if err := h.auth.SwitchRotation(h.now()); err != nil {
		t.Fatal(err)
	}
	works("new keys sign")
	h.step(pki.RotationOverlap)
	if err := h.auth.EndRotation(); err != nil {
		t.Fatal(err)
	}
	works("old keys forgotten by the miner")
	renew()
	if n := len(me.get().FleetCAs); n != 1 {
		t.Errorf("the machine trusts %d CAs in the end", n)
	}
	works("old keys forgotten by all")
	end()
	if err := <-watched; err != nil {
		t.Errorf("the task's stream was dropped: %v", err)
	}
}

// TestMachineThatMissedARotation says so and is refused under a code, at both doors.
func TestMachineThatMissedARotation(t *testing.T) {
	h := newHouse(t)
	me := h.newSelf("box-1")
	trust := me.get()
	addr := h.serveFleet(&minerFleet{h: h})
	c, err := DialFleet(addr, FleetClientConfig{Certificate: me.certificate, CAs: func() [][]byte { return trust.FleetCAs }, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []func() error{h.auth.BeginRotation, func() error { return h.auth.SwitchRotation(h.now()) }, h.auth.EndRotation} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
	provoke.Refused(t, err, "CERTIFICATE_FOREIGN")
}

// watchedConn tells when the other end has closed it.
type watchedConn struct {
	net.Conn
	gone func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.gone()
	}
	return n, err
}

// TestCutWithinASecond: a revoked machine hears why at once, without asking; its connection is closed by the miner, and no
// new one helps.
func TestCutWithinASecond(t *testing.T) {
	h := newHouse(t)
	var mu sync.Mutex
	var revoked error
	known := func(context.Context, basilica.ExecutorID, []byte) error { mu.Lock(); defer mu.Unlock(); return revoked }
	fleet, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: known, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	me, other := h.newSelf("box-1"), h.newSelf("box-2")
	addr := start(t, fleet.Serve)
	told, closed := make(chan struct{}), make(chan struct{})
	dial := func(s *self, ended func(), transport Transport) *FleetClient {
		c, err := DialFleet(addr, FleetClientConfig{Certificate: s.certificate, CAs: h.auth.FleetCAs, Now: h.now, Ended: ended, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	gone := sync.OnceFunc(func() { close(closed) })
	c := dial(me, sync.OnceFunc(func() { close(told) }), func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dialTCP(ctx, addr)
		return &watchedConn{conn, gone}, err
	})
	bystander := dial(other, nil, nil)
	for _, c := range []*FleetClient{c, bystander} {
		if _, err := c.Heartbeat(t.Context(), c.Executor(), basilica.Heartbeat{}); err != nil {
			t.Fatal(err)
		}
	}
	why := basilica.RevokedError("box-1", h.now())
	mu.Lock()
	revoked = why
	mu.Unlock()
	begun := time.Now()
	fleet.Cut("box-1", why)
	<-told
	<-closed // by the miner: nobody else closes it
	if took := time.Since(begun); took > 10*lastWord {
		t.Errorf("cut after %s", took)
	}
	provoke.Refused(t, provoke.Answered(t, func() error {
		_, err := c.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
		return err
	}), "EXECUTOR_REVOKED")
	provoke.Refused(t, provoke.Answered(t, func() error {
		_, err := c.Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)})
		return err
	}), "EXECUTOR_REVOKED")
	_, err = h.pool(func(c *ExecutorsConfig) { c.Known = known }).Executor("box-1", h.serveExecutor(&machine{}, "box-1")).Health(t.Context())
	provoke.Refused(t, err, "EXECUTOR_REVOKED")
	mu.Lock()
	revoked = nil
	mu.Unlock()
	if _, err := bystander.Heartbeat(t.Context(), "box-2", basilica.Heartbeat{}); err != nil {
		t.Errorf("another machine's stream was cut too: %v", err)
	}
}
