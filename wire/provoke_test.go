package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"basilica"
	"basilica/internal/provoke"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// olderMiner is a fleet door of another version: it knows heartbeats alone, and ends their stream after the first.
type olderMiner struct {
	wirepb.UnimplementedFleetServer
}

func (olderMiner) Heartbeats(s grpc.BidiStreamingServer[wirepb.Heartbeat, wirepb.HeartbeatReply]) error {
	_, err := s.Recv()
	return err
}

func (h *house) olderMiner() string {
	return start(h.t, func(ctx context.Context, ln net.Listener) error {
		s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{h.minerCert()}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13})))
		wirepb.RegisterFleetServer(s, olderMiner{})
		defer context.AfterFunc(ctx, s.Stop)()
		return s.Serve(ln)
	})
}

// mixedUp is a miner that renews every certificate for one and the same machine.
type mixedUp struct{ *minerFleet }

func (f mixedUp) Renew(ctx context.Context, _ basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	return f.minerFleet.Renew(ctx, "box-7", req)
}

// watchedMachine says when its task is watched, and nothing else.
type watchedMachine struct {
	machine
	begun chan struct{}
}

func (m *watchedMachine) Watch(ctx context.Context, _ basilica.TaskID, _ int, _ int64, _ func(basilica.TaskEvent) error) error {
	close(m.begun)
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestRefusals(t *testing.T) {
	h := newHouse(t)
	me := h.newSelf("box-1")
	dialled := func(t *testing.T, addr string, now func() time.Time) *FleetClient {
		t.Helper()
		c, err := DialFleet(addr, FleetClientConfig{Certificate: me.certificate, CAs: h.auth.FleetCAs, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	beat := func(t *testing.T, addr string, now func() time.Time) error {
		_, err := dialled(t, addr, now).Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
		return err
	}
	sound, older := h.serveFleet(&minerFleet{h: h}), h.olderMiner()
	provoke.Each(t, map[string]func(*testing.T) error{
		"ADDRESS_INVALID": func(*testing.T) error {
			_, err := DialFleet("127.0.0.1:1%zz", FleetClientConfig{Certificate: me.certificate, CAs: h.auth.FleetCAs, Now: h.now})
			return err
		},
		"CERTIFICATE_ENDED": func(t *testing.T) error {
			return beat(t, sound, func() time.Time { return h.now().Add(20 * 365 * 24 * time.Hour) })
		},
		"DOOR_CLOSED": func(t *testing.T) error {
			m := &watchedMachine{begun: make(chan struct{})}
			s, err := NewExecutorServer(m, ExecutorServerConfig{
				Executor: "box-1", Certificate: shows(h.executorCert("box-1", h.now())), CAs: h.auth.FleetCAs,
				JWTKeys: h.auth.JWTPublicKeys, Now: h.now, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			served, watched := make(chan error, 1), make(chan error, 1)
			go func() { served <- s.Serve(ctx, ln) }()
			go func() {
				watched <- h.pool(nil).Executor("box-1", ln.Addr().String()).Watch(t.Context(), "t", 1, 0, nil)
			}()
			<-m.begun
			stop()
			return errors.Join(<-watched, <-served)
		},
		"PEER_FAULT": func(t *testing.T) error {
			m := &machine{fail: errors.New("secret of the machine")}
			return h.pool(nil).Executor("box-1", h.serveExecutor(m, "box-1")).Cancel(t.Context(), "t", 1)
		},
		"PEER_VERSION": func(t *testing.T) error {
			_, err := dialled(t, older, h.now).Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)})
			return err
		},
		"RENEWAL_UNFIT": func(t *testing.T) error {
			_, err := dialled(t, h.serveFleet(mixedUp{&minerFleet{h: h}}), h.now).Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)})
			return err
		},
		"STREAM_ENDED": func(t *testing.T) error { return beat(t, older, h.now) },
		"TOKEN_OTHER_MINER": func(t *testing.T) error {
			_, err := JoinFleet(t.Context(), sound, pki.CAHash([]byte("another authority")), h.now, basilica.EnrollRequest{CSR: me.csr(t)})
			return err
		},
	})
}
