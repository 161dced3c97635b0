package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"basilica"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// Enrolment is open to whoever holds a token, so strangers may try: this many at once, then one every six seconds, per
// address; the table of addresses is emptied when it is full.
const (
	enrollBurst  = 10
	enrollEvery  = 6 * time.Second
	maxEnrollers = 4096
)

// FleetServerConfig says who a miner is to its machines.
type FleetServerConfig struct {
	Certificate tls.Certificate // the miner's with the CA behind it, as pki.Authority.ServerCertificate gives it
	CA          []byte          // DER of the fleet CA
	Now         func() time.Time
	Log         *slog.Logger
}

// FleetServer is a miner's gRPC door for its machines. Enroll asks for no certificate; Heartbeats asks for an executor's,
// and the executor speaks for itself only.
type FleetServer struct {
	wirepb.UnimplementedFleetServer
	fleet basilica.Fleet
	now   func() time.Time
	door  *door

	mu        sync.Mutex
	enrollers map[string]*rate.Limiter
}

// NewFleetServer makes the door of f.
func NewFleetServer(f basilica.Fleet, cfg FleetServerConfig) (*FleetServer, error) {
	conf, err := serverTLS(cfg.Certificate, cfg.CA, tls.VerifyClientCertIfGiven, cfg.Now)
	if err != nil {
		return nil, err
	}
	s := &FleetServer{fleet: f, now: cfg.Now, enrollers: make(map[string]*rate.Limiter)}
	s.door = &door{name: "fleet", tls: conf, admit: s.admit, log: cfg.Log, whole: callTime}
	return s, nil
}

// Serve answers calls on ln until ctx ends, and closes it.
func (s *FleetServer) Serve(ctx context.Context, ln net.Listener) error {
	return s.door.serve(ctx, ln, func(g *grpc.Server) { wirepb.RegisterFleetServer(g, s) })
}

type executorKey struct{}

func (s *FleetServer) admit(ctx context.Context, method string) (context.Context, error) {
	if method == wirepb.Fleet_Enroll_FullMethodName {
		if !s.mayEnroll(ctx) {
			return nil, basilica.E(basilica.Exhausted, "ENROLL_RATE", "too many enrolments come from this address", "wait a minute and join again")
		}
		return ctx, nil
	}
	cert := peerCertificate(ctx)
	if cert == nil {
		return nil, basilica.E(basilica.Denied, "CERTIFICATE_MISSING", "the call shows no certificate of this fleet", "join this machine to the miner")
	}
	id, ok := pki.ExecutorOf(cert)
	if !ok {
		return nil, basilica.E(basilica.Denied, "NOT_AN_EXECUTOR", "the caller's certificate is not an executor's", "join this machine to the miner")
	}
	// A stream may outlive the handshake's look at the certificate by months.
	if s.now().After(cert.NotAfter) {
		return nil, basilica.E(basilica.Denied, "CERTIFICATE_EXPIRED", "the executor's certificate has expired", "join this machine to the miner again")
	}
	return context.WithValue(ctx, executorKey{}, basilica.ExecutorID(id)), nil
}

func (s *FleetServer) mayEnroll(ctx context.Context) bool {
	var addr string
	if p, ok := peer.FromContext(ctx); ok {
		addr = hostOf(p.Addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.enrollers[addr]
	if l == nil {
		if len(s.enrollers) >= maxEnrollers {
			clear(s.enrollers)
		}
		l = rate.NewLimiter(rate.Every(enrollEvery), enrollBurst)
		s.enrollers[addr] = l
	}
	return l.AllowN(s.now(), 1)
}

// Enroll implements wirepb.FleetServer.
func (s *FleetServer) Enroll(ctx context.Context, in *wirepb.EnrollRequest) (*wirepb.Enrollment, error) {
	req, err := fromEnroll(in)
	if err != nil {
		return nil, err
	}
	out, err := s.fleet.Enroll(ctx, req)
	if err != nil {
		return nil, err
	}
	return toEnrollment(out), nil
}

// Heartbeats implements wirepb.FleetServer.
func (s *FleetServer) Heartbeats(stream grpc.BidiStreamingServer[wirepb.Heartbeat, wirepb.HeartbeatReply]) error {
	ctx := stream.Context()
	id, ok := ctx.Value(executorKey{}).(basilica.ExecutorID)
	if !ok {
		return errors.New("heartbeats without an executor")
	}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		beat, err := fromBeat(in)
		if err != nil {
			return err
		}
		reply, err := s.fleet.Heartbeat(ctx, id, beat)
		if err != nil {
			return err
		}
		if err := stream.Send(toReply(reply)); err != nil {
			return err
		}
	}
}
