package wire

import (
	"context"
	"errors"
	"fmt"
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

// Renewals that one executor may ask for: so many at once, then one in ten seconds.
const (
	renewBurst = 6
	renewEvery = 10 * time.Second
)

// Looks at its own doors that one executor may ask for: so many at once, then one in ten seconds.
const (
	reachBurst = 6
	reachEvery = 10 * time.Second
)

// lastWord is what a revoked executor is given to hear why, before its connection is cut.
const lastWord = 300 * time.Millisecond

// FleetServerConfig says who a miner is to its machines.
type FleetServerConfig struct {
	Certificate CertificateFunc // the miner's with the CA behind it, as pki.Authority.ServerCertificate gives it
	CAs         CAsFunc
	// Known refuses an executor that the miner does not take, or a certificate (DER) that it did not give to it.
	Known func(ctx context.Context, id basilica.ExecutorID, cert []byte) error
	Now   func() time.Time
	Log   *slog.Logger
}

// FleetServer is a miner's gRPC door for its machines. Enroll asks for no certificate; everything else asks for an
// executor's, and the executor speaks for itself only.
type FleetServer struct {
	wirepb.UnimplementedFleetServer
	fleet basilica.Fleet
	cfg   FleetServerConfig
	door  *door

	mu        sync.Mutex
	enrollers limiters
	renewers  limiters
	reachers  limiters
	streams   map[basilica.ExecutorID]map[*standing]bool
}

// standing is one stream of heartbeats.
type standing struct {
	end  context.CancelCauseFunc
	from string // remote address of its connection
}

// NewFleetServer makes the door of f.
func NewFleetServer(f basilica.Fleet, cfg FleetServerConfig) (*FleetServer, error) {
	if cfg.Certificate == nil || cfg.CAs == nil || cfg.Known == nil {
		return nil, errors.New("a fleet door needs certificate, fleet CAs and who is known")
	}
	s := &FleetServer{
		fleet: f, cfg: cfg, streams: map[basilica.ExecutorID]map[*standing]bool{},
		enrollers: limiters{rate.Every(enrollEvery), enrollBurst, map[string]*rate.Limiter{}},
		renewers:  limiters{rate.Every(renewEvery), renewBurst, map[string]*rate.Limiter{}},
		reachers:  limiters{rate.Every(reachEvery), reachBurst, map[string]*rate.Limiter{}},
	}
	s.door = &door{name: "fleet", tls: serverTLS(cfg.Certificate, cfg.Now), admit: s.admit, log: cfg.Log, whole: callTime, shake: handshakeTime}
	return s, nil
}

// Serve answers calls on ln until ctx ends, and closes it.
func (s *FleetServer) Serve(ctx context.Context, ln net.Listener) error {
	return s.door.serve(ctx, ln, func(g *grpc.Server) { wirepb.RegisterFleetServer(g, s) })
}

type executorKey struct{}

func (s *FleetServer) admit(ctx context.Context, method string) (context.Context, error) {
	if method == wirepb.Fleet_Enroll_FullMethodName {
		if !s.allow(&s.enrollers, fromHost(ctx)) {
			return nil, basilica.E(basilica.Exhausted, "ENROLL_RATE", "too many enrolments come from this address", "wait a minute and join again")
		}
		return ctx, nil
	}
	cert := peerCertificate(ctx)
	err := judge(cert, s.cfg.CAs(), s.cfg.Now(), "the executor's", "the miner's")
	// A clock that jumped ahead and back again dated certificates into the future; they are there to be replaced.
	if err != nil && !(method == wirepb.Fleet_Renew_FullMethodName && basilica.CodeOf(err) == "CERTIFICATE_EARLY") {
		return nil, err
	}
	name, ok := pki.ExecutorOf(cert)
	if !ok {
		return nil, basilica.E(basilica.Denied, "NOT_AN_EXECUTOR", "the caller's certificate is not an executor's", fixJoin)
	}
	id := basilica.ExecutorID(name)
	if err := s.cfg.Known(ctx, id, cert.Raw); err != nil {
		return nil, err
	}
	s.door.conns.known(remoteAddr(ctx).String(), name, maxConnsKnown)
	if method == wirepb.Fleet_Renew_FullMethodName && !s.allow(&s.renewers, name) {
		return nil, basilica.E(basilica.Exhausted, "RENEW_RATE", fmt.Sprintf("executor %s asks for certificates too often", id), "wait a minute")
	}
	if method == wirepb.Fleet_Reach_FullMethodName && !s.allow(&s.reachers, name) {
		return nil, basilica.E(basilica.Exhausted, "REACH_RATE", fmt.Sprintf("executor %s asks too often whether it can be reached", id), "wait a minute")
	}
	return context.WithValue(ctx, executorKey{}, id), nil
}

// limiters bound what each of many callers may do; the table is emptied when it is full.
type limiters struct {
	rate  rate.Limit
	burst int
	by    map[string]*rate.Limiter
}

func (s *FleetServer) allow(l *limiters, who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := l.by[who]
	if one == nil {
		if len(l.by) >= maxEnrollers {
			clear(l.by)
		}
		one = rate.NewLimiter(l.rate, l.burst)
		l.by[who] = one
	}
	return one.AllowN(s.cfg.Now(), 1)
}

func remoteAddr(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return &net.TCPAddr{}
}

func fromHost(ctx context.Context) string { return hostOf(remoteAddr(ctx)) }

// Cut ends the streams of an executor with a reason, and a moment later the connections under them.
func (s *FleetServer) Cut(id basilica.ExecutorID, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.streams[id] {
		one.end(why)
		time.AfterFunc(lastWord, func() { s.door.conns.cut(one.from) })
	}
}

func (s *FleetServer) enter(id basilica.ExecutorID, one *standing) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[id] == nil {
		s.streams[id] = map[*standing]bool{}
	}
	s.streams[id][one] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams[id], one)
		if len(s.streams[id]) == 0 {
			delete(s.streams, id)
		}
	}
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

// Renew implements wirepb.FleetServer.
func (s *FleetServer) Renew(ctx context.Context, in *wirepb.RenewRequest) (*wirepb.Renewal, error) {
	id, cert := ctx.Value(executorKey{}).(basilica.ExecutorID), peerCertificate(ctx)
	req := fromRenew(in)
	req.Certificate = cert.Raw
	out, err := s.fleet.Renew(ctx, id, req)
	if err != nil {
		return nil, err
	}
	return toRenewal(out), nil
}

// Reach implements wirepb.FleetServer.
func (s *FleetServer) Reach(ctx context.Context, _ *wirepb.Empty) (*wirepb.Reached, error) {
	id, _ := ctx.Value(executorKey{}).(basilica.ExecutorID)
	out, err := s.fleet.Reach(ctx, id)
	if err != nil {
		return nil, err
	}
	out.From = remoteAddr(ctx).String()
	return toReached(out), nil
}

// Heartbeats implements wirepb.FleetServer.
func (s *FleetServer) Heartbeats(stream grpc.BidiStreamingServer[wirepb.Heartbeat, wirepb.HeartbeatReply]) error {
	ctx := stream.Context()
	id, ok := ctx.Value(executorKey{}).(basilica.ExecutorID)
	end, ends := ctx.Value(endKey{}).(context.CancelCauseFunc)
	if !ok || !ends {
		return errors.New("heartbeats without an executor")
	}
	defer s.enter(id, &standing{end: end, from: remoteAddr(ctx).String()})()
	// Who was revoked between admission and enter is not in the list that Cut went through.
	if err := s.cfg.Known(ctx, id, peerCertificate(ctx).Raw); err != nil {
		return err
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
		beat.From = remoteAddr(ctx).String()
		reply, err := s.fleet.Heartbeat(ctx, id, beat)
		if err != nil {
			return err
		}
		if err := stream.Send(toReply(reply)); err != nil {
			return err
		}
	}
}
