package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"basilica"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// FleetClientConfig says who a machine is to its miner.
type FleetClientConfig struct {
	Certificate tls.Certificate // the executor's, of the fleet CA
	CA          []byte          // DER of the fleet CA
	Now         func() time.Time
	Transport   Transport // nil: TCP
}

// FleetClient is a machine's calling end towards its miner, over one connection and one standing stream of heartbeats.
type FleetClient struct {
	name     string
	executor basilica.ExecutorID
	conn     *grpc.ClientConn
	rpc      wirepb.FleetClient

	mu     sync.Mutex // one beat at a time
	stream grpc.BidiStreamingClient[wirepb.Heartbeat, wirepb.HeartbeatReply]
	cancel context.CancelFunc
}

var _ basilica.Fleet = (*FleetClient)(nil)

// DialFleet prepares the connection to the fleet door at addr (host:port) for an enrolled executor. It dials at the first
// call.
func DialFleet(addr string, cfg FleetClientConfig) (*FleetClient, error) {
	if len(cfg.Certificate.Certificate) == 0 {
		return nil, errors.New("the executor has no certificate")
	}
	leaf, err := x509.ParseCertificate(cfg.Certificate.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("parse executor certificate: %w", err)
	}
	id, ok := pki.ExecutorOf(leaf)
	if !ok {
		return nil, errors.New("the certificate is not an executor's")
	}
	conf := clientTLS(cfg.Now, func(cs tls.ConnectionState) error { return verifyMiner(cs, cfg.CA, cfg.Now()) })
	conf.Certificates = []tls.Certificate{cfg.Certificate}
	return newFleetClient(addr, basilica.ExecutorID(id), conf, cfg.Transport)
}

// JoinFleet enrolls a machine at the fleet door at addr (host:port), which must show a CA whose SHA-256 is caHash, as the
// join token names it, and checks that what it gets fits: the CA, the executor's name, the key of the request. The
// machine must be serving ServeKey on req.Addr meanwhile.
func JoinFleet(ctx context.Context, addr string, caHash [32]byte, now func() time.Time, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	conf := clientTLS(now, func(cs tls.ConnectionState) error {
		for _, c := range cs.PeerCertificates {
			if pki.CAHash(c.Raw) == caHash {
				return verifyMiner(cs, c.Raw, now())
			}
		}
		return errors.New("the peer is not the miner that made the join token")
	})
	c, err := newFleetClient(addr, "", conf, nil)
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
	if pki.CAHash(out.FleetCA) != caHash {
		return errors.New("another fleet CA than the token's")
	}
	cert, err := x509.ParseCertificate(out.Certificate)
	if err != nil {
		return fmt.Errorf("parse certificate: %w", err)
	}
	if err := pki.VerifyPeer([]*x509.Certificate{cert}, out.FleetCA, now); err != nil {
		return err
	}
	if id, ok := pki.ExecutorOf(cert); !ok || id != string(out.Executor) {
		return errors.New("the certificate names another executor")
	}
	spki, err := pki.CSRKey(csr)
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return errors.New("the certificate is over another key")
	}
	if len(out.JWTKey) != 32 {
		return fmt.Errorf("JWT key of %d bytes", len(out.JWTKey))
	}
	return nil
}

func verifyMiner(cs tls.ConnectionState, ca []byte, now time.Time) error {
	if err := pki.VerifyPeer(cs.PeerCertificates, ca, now); err != nil {
		return err
	}
	if !pki.IsMiner(cs.PeerCertificates[0]) {
		return errors.New("the peer's certificate is not the miner's")
	}
	return nil
}

func newFleetClient(addr string, id basilica.ExecutorID, conf *tls.Config, transport Transport) (*FleetClient, error) {
	if transport == nil {
		transport = dialTCP
	}
	conn, err := dial(addr, conf, transport)
	if err != nil {
		return nil, err
	}
	return &FleetClient{name: "the miner at " + addr, executor: id, conn: conn, rpc: wirepb.NewFleetClient(conn)}, nil
}

// Executor is the id that the client's certificate carries.
func (c *FleetClient) Executor() basilica.ExecutorID { return c.executor }

// Close ends the stream and the connection.
func (c *FleetClient) Close() error {
	err := c.conn.Close() // first: it wakes a beat that holds the lock
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	return err
}

// Enroll implements basilica.Fleet.
func (c *FleetClient) Enroll(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	out, err := c.rpc.Enroll(bounded, toEnroll(req))
	if err != nil {
		return basilica.Enrollment{}, fromStatus(ctx, c.name, err)
	}
	return fromEnrollment(out), nil
}

// Heartbeat implements basilica.Fleet: one beat and its answer on the standing stream, which the next beat opens again
// after a failure. The connection below pauses longer after each failed attempt, up to 15 s, and a beat meanwhile fails
// at once. The answer to a beat that was given up would be taken for the next one's, so its stream ends with it.
func (c *FleetClient) Heartbeat(ctx context.Context, executor basilica.ExecutorID, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	if executor != c.executor {
		return basilica.HeartbeatReply{}, basilica.E(basilica.Denied, "NOT_YOURSELF", fmt.Sprintf("executor %s cannot speak for %s", c.executor, executor), "")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	reply, err := c.beat(bounded, beat)
	if err != nil {
		c.drop()
		return basilica.HeartbeatReply{}, fromStatus(bounded, c.name, err)
	}
	return reply, nil
}

func (c *FleetClient) beat(ctx context.Context, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	if c.stream == nil {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, cancel)
		stream, err := c.rpc.Heartbeats(own)
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			cancel()
			return basilica.HeartbeatReply{}, err
		}
		c.stream, c.cancel = stream, cancel
	}
	defer context.AfterFunc(ctx, c.cancel)()
	// An error of Send only says that the stream is over; why comes from Recv.
	if err := c.stream.Send(toBeat(beat)); err != nil && !errors.Is(err, io.EOF) {
		return basilica.HeartbeatReply{}, err
	}
	out, err := c.stream.Recv()
	if errors.Is(err, io.EOF) {
		return basilica.HeartbeatReply{}, basilica.E(basilica.Unavailable, "STREAM_ENDED", c.name+" ended the stream of heartbeats", "")
	}
	if err != nil {
		return basilica.HeartbeatReply{}, err
	}
	return fromReply(out)
}

// drop forgets the stream; the caller holds mu.
func (c *FleetClient) drop() {
	if c.stream != nil {
		c.cancel()
		c.stream, c.cancel = nil, nil
	}
}
