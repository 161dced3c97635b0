package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"basilica"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// FleetClientConfig says who a machine is to its miner.
type FleetClientConfig struct {
	Certificate CertificateFunc // the executor's, of a fleet CA
	CAs         CAsFunc
	Now         func() time.Time
	Transport   Transport // nil: TCP
	// Ended is called when the miner ends the standing stream between two beats: the next beat learns why. Optional.
	Ended func()
}

// FleetClient is a machine's calling end towards its miner, over one connection and one standing stream of heartbeats.
type FleetClient struct {
	name     string
	addr     string
	executor basilica.ExecutorID
	conf     *tls.Config
	met      *meeting
	dialler  Transport
	ended    func()

	callMu sync.Mutex // one beat at a time; guards stream
	stream *beatStream

	mu     sync.Mutex // guards the rest
	conn   *grpc.ClientConn
	rpc    wirepb.FleetClient
	closed bool
}

// beatStream is a standing stream: a goroutine takes its answers, so that its end is noticed at once.
type beatStream struct {
	grpc.BidiStreamingClient[wirepb.Heartbeat, wirepb.HeartbeatReply]
	cancel  context.CancelFunc
	answers chan *wirepb.HeartbeatReply // closed when err is set
	err     error
	asked   atomic.Bool // a beat waits for its answer
}

var _ basilica.Fleet = (*FleetClient)(nil)

// DialFleet prepares the connection to the fleet door at addr (host:port) for an enrolled executor. It dials at the first
// call.
func DialFleet(addr string, cfg FleetClientConfig) (*FleetClient, error) {
	cert, err := cfg.Certificate()
	if err != nil {
		return nil, err
	}
	if len(cert.Certificate) == 0 {
		return nil, errors.New("the executor has no certificate")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("parse executor certificate: %w", err)
	}
	id, ok := pki.ExecutorOf(leaf)
	if !ok {
		return nil, errors.New("the certificate is not an executor's")
	}
	return newFleetClient(addr, basilica.ExecutorID(id), cfg, func(cs tls.ConnectionState) error {
		return judgeServer(cs, cfg.CAs(), cfg.Now(), "the miner's", isMiner)
	})
}

// isMiner is the role that an executor asks of whom it meets.
func isMiner(cert *x509.Certificate) error {
	if !pki.IsMiner(cert) {
		return basilica.E(basilica.Unavailable, "PEER_FOREIGN", "who answers there is not the miner", "check the address; behind it may be another machine")
	}
	return nil
}

// JoinFleet enrolls a machine at the fleet door at addr (host:port), which must show a CA whose SHA-256 is caHash, as the
// join token names it, and checks that what it gets fits: the CA, the executor's name, the key of the request. The
// machine must be serving ServeKey on req.Addr meanwhile.
func JoinFleet(ctx context.Context, addr string, caHash [32]byte, now func() time.Time, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	nobody := func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	c, err := newFleetClient(addr, "", FleetClientConfig{Certificate: nobody, Now: now}, func(cs tls.ConnectionState) error {
		for _, c := range cs.PeerCertificates {
			if pki.CAHash(c.Raw) == caHash {
				return judgeServer(cs, [][]byte{c.Raw}, now(), "the miner's", isMiner)
			}
		}
		return basilica.E(basilica.Unavailable, "TOKEN_OTHER_MINER", "who answers at "+addr+" is not the miner that made the join token, or its keys were rotated since", "make a new token on the miner: basilica token create")
	})
	if err != nil {
		return basilica.Enrollment{}, err
	}
	defer c.Close()
	out, err := c.Enroll(ctx, req)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if err := checkEnrollment(out, caHash, req.CSR, now()); err != nil {
		return basilica.Enrollment{}, basilica.E(basilica.Invalid, "ENROLLMENT_UNFIT", "the miner's answer does not fit the request", "make a new token and join again").With(err)
	}
	return out, nil
}

func checkEnrollment(out basilica.Enrollment, caHash [32]byte, csr []byte, now time.Time) error {
	if !slices.ContainsFunc(out.Trust.FleetCAs, func(der []byte) bool { return pki.CAHash(der) == caHash }) {
		return errors.New("the fleet CA of the token is not among the miner's")
	}
	spki, err := pki.CSRKey(csr)
	if err != nil {
		return err
	}
	return checkIdentity(out.Executor, spki, out.Certificate, out.Trust, now)
}

// checkIdentity checks what a miner gives to an executor: a certificate in force for it over its key, under what it is to
// trust from then on.
func checkIdentity(id basilica.ExecutorID, spki, certificate []byte, trust basilica.Trust, now time.Time) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("parse certificate: %w", err)
	}
	if err := pki.VerifyPeer([]*x509.Certificate{cert}, now, trust.FleetCAs...); err != nil {
		return err
	}
	if got, ok := pki.ExecutorOf(cert); !ok || got != string(id) {
		return errors.New("the certificate names another executor")
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return errors.New("the certificate is over another key")
	}
	for _, key := range trust.JWTKeys {
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("JWT key of %d bytes", len(key))
		}
	}
	if len(trust.JWTKeys) == 0 || len(trust.SSHCAs) == 0 {
		return errors.New("the miner names no key for tokens, or no SSH CA")
	}
	return nil
}

func newFleetClient(addr string, id basilica.ExecutorID, cfg FleetClientConfig, verify func(tls.ConnectionState) error) (*FleetClient, error) {
	if cfg.Transport == nil {
		cfg.Transport = dialTCP
	}
	if cfg.Ended == nil {
		cfg.Ended = func() {}
	}
	met := &meeting{}
	c := &FleetClient{
		name: "the miner at " + addr, addr: addr, executor: id, met: met, dialler: met.transport(cfg.Transport), ended: cfg.Ended,
		conf: clientTLS(cfg.Certificate, cfg.Now, met.verifier(verify)),
	}
	return c, c.connect()
}

// connect makes a connection in the place of the last one.
func (c *FleetClient) connect() error {
	conn, err := dial(c.addr, c.conf, c.dialler)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return conn.Close()
	}
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn, c.rpc = conn, wirepb.NewFleetClient(conn)
	return nil
}

func (c *FleetClient) client() (*grpc.ClientConn, wirepb.FleetClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn, c.rpc
}

// Redial ends stream and connection and makes new ones at the next call, under the certificate that is in force then.
func (c *FleetClient) Redial() error {
	c.callMu.Lock()
	defer c.callMu.Unlock()
	c.drop()
	return c.connect()
}

// Executor is the id that the client's certificate carries.
func (c *FleetClient) Executor() basilica.ExecutorID { return c.executor }

// Close ends the stream and the connection.
func (c *FleetClient) Close() error {
	c.mu.Lock()
	c.closed = true
	err := c.conn.Close() // first: it wakes a beat that holds the lock
	c.mu.Unlock()
	c.callMu.Lock()
	defer c.callMu.Unlock()
	c.drop()
	return err
}

// Enroll implements basilica.Fleet.
func (c *FleetClient) Enroll(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, rpc := c.client()
	out, err := rpc.Enroll(bounded, toEnroll(req))
	if err != nil {
		return basilica.Enrollment{}, c.met.explain(fromStatus(ctx, c.name, err))
	}
	return fromEnrollment(out)
}

// Renew implements basilica.Fleet. What comes back was checked: it is for this executor, over the request's key, and in
// force.
func (c *FleetClient) Renew(ctx context.Context, executor basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	if err := c.self(executor); err != nil {
		return basilica.Renewal{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, rpc := c.client()
	msg, err := rpc.Renew(bounded, toRenew(req))
	if err != nil {
		return basilica.Renewal{}, c.met.explain(fromStatus(ctx, c.name, err))
	}
	out, err := fromRenewal(msg)
	if err != nil {
		return out, err
	}
	spki, err := pki.CSRKey(req.CSR)
	if err == nil {
		err = checkIdentity(executor, spki, out.Certificate, out.Trust, c.conf.Time())
	}
	if err != nil {
		return out, basilica.E(basilica.Invalid, "RENEWAL_UNFIT", "the certificate that the miner sent does not fit this machine", fixClock+"; the machine asks again by itself").With(err)
	}
	return out, nil
}

// Reach implements basilica.Fleet.
func (c *FleetClient) Reach(ctx context.Context, executor basilica.ExecutorID) (basilica.Reached, error) {
	if err := c.self(executor); err != nil {
		return basilica.Reached{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, rpc := c.client()
	msg, err := rpc.Reach(bounded, &wirepb.Empty{})
	if err != nil {
		return basilica.Reached{}, c.met.explain(fromStatus(ctx, c.name, err))
	}
	return fromReached(msg)
}

func (c *FleetClient) self(executor basilica.ExecutorID) error {
	if executor != c.executor {
		return basilica.E(basilica.Denied, "NOT_YOURSELF", fmt.Sprintf("executor %s cannot speak for %s", c.executor, executor), "let each executor speak for itself")
	}
	return nil
}

// Heartbeat implements basilica.Fleet: one beat and its answer on the standing stream, which the next beat opens again
// after a failure. The connection below pauses longer after each failed attempt, up to 15 s, and a beat meanwhile fails
// at once. The answer to a beat that was given up would be taken for the next one's, so its stream ends with it.
func (c *FleetClient) Heartbeat(ctx context.Context, executor basilica.ExecutorID, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	if err := c.self(executor); err != nil {
		return basilica.HeartbeatReply{}, err
	}
	c.callMu.Lock()
	defer c.callMu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	reply, err := c.beat(bounded, beat)
	if err != nil {
		c.drop()
		err = c.met.explain(fromStatus(bounded, c.name, err))
		if basilica.CodeOf(err) == "CLOCK_SKEW" {
			// The clock may be stepped at any moment: no growing pause for a miner that answers.
			conn, _ := c.client()
			conn.ResetConnectBackoff()
		}
		return basilica.HeartbeatReply{}, err
	}
	return reply, nil
}

func (c *FleetClient) beat(ctx context.Context, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	// The select below would choose either way when the answer is faster than its turn.
	if ctx.Err() != nil {
		return basilica.HeartbeatReply{}, context.Cause(ctx)
	}
	if c.stream == nil {
		if err := c.open(ctx); err != nil {
			return basilica.HeartbeatReply{}, err
		}
	}
	s := c.stream
	s.asked.Store(true)
	defer s.asked.Store(false)
	// An error of Send only says that the stream is over; why comes from Recv.
	if err := s.Send(toBeat(beat)); err != nil && !errors.Is(err, io.EOF) {
		return basilica.HeartbeatReply{}, err
	}
	select {
	case <-ctx.Done():
		return basilica.HeartbeatReply{}, context.Cause(ctx)
	case out, ok := <-s.answers:
		if !ok && errors.Is(s.err, io.EOF) {
			return basilica.HeartbeatReply{}, basilica.E(basilica.Unavailable, "STREAM_ENDED", c.name+" ended the stream of heartbeats", "nothing: the next beat opens it again")
		}
		if !ok {
			return basilica.HeartbeatReply{}, s.err
		}
		return fromReply(out)
	}
}

// open makes the standing stream, which ends with drop alone.
func (c *FleetClient) open(ctx context.Context) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	_, rpc := c.client()
	stream, err := rpc.Heartbeats(own)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return err
	}
	s := &beatStream{BidiStreamingClient: stream, cancel: cancel, answers: make(chan *wirepb.HeartbeatReply)}
	c.stream = s
	go func() {
		defer close(s.answers)
		for {
			out, err := stream.Recv()
			if err != nil {
				s.err = err
				if !s.asked.Load() && own.Err() == nil {
					c.ended()
				}
				return
			}
			select {
			case s.answers <- out:
			case <-own.Done():
				s.err = own.Err()
				return
			}
		}
	}()
	return nil
}

// drop forgets the stream; the caller holds callMu.
func (c *FleetClient) drop() {
	if c.stream != nil {
		c.stream.cancel()
		c.stream = nil
	}
}
