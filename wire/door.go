// Package wire is gRPC between a miner and its executors, both ends: transport, identity, limits, and the turning of
// nouns into messages and back. It refuses to know what a task or a machine does; it hands each call to a contract of
// the root package.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"

	"basilica"
	"basilica/internal/crashpoint"
)

// Limits of every door and every call.
const (
	maxMessage    = 1 << 20 // bytes of one message
	chunkBytes    = 256 << 10
	maxHeader     = 16 << 10
	maxStreams    = 256 // calls at once on one connection
	maxConns      = 4096
	maxConnsHost  = 64 // of strangers of one place
	maxConnsKnown = 8  // of one known machine, wherever it is
	handshakeTime = 10 * time.Second
	callTime      = 30 * time.Second // of a call without a stream, where the caller set no shorter one
	stallTime     = 60 * time.Second // of a blob's stream without a byte
	graceTime     = 3 * time.Second  // for calls under way when a door closes
	pingTime      = 20 * time.Second
	pingWait      = 10 * time.Second
	minPing       = 10 * time.Second
)

// admission checks one call when its headers are in, before a byte of its message is read; it returns the context that
// the handler gets. It runs on the connection's own goroutine and must be quick.
type admission func(ctx context.Context, method string) (context.Context, error)

// door is what both servers share.
type door struct {
	name  string
	tls   *tls.Config
	admit admission
	log   *slog.Logger
	whole time.Duration  // of a call without a stream, its message included
	shake time.Duration  // until a connection has shown that it speaks TLS and HTTP/2
	calls sync.WaitGroup // handlers of streams
	conns *cappedListener
}

// serve runs a gRPC server on ln until ctx ends, then lets short calls finish and ends streams. It closes ln.
func (d *door) serve(ctx context.Context, ln net.Listener, register func(*grpc.Server)) error {
	streams := make(map[string]bool) // by full method name; written before the first call
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(d.tls)),
		grpc.ConnectionTimeout(d.shake),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeader), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: pingTime, Timeout: pingWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.InTapHandle(func(ctx context.Context, info *tap.Info) (context.Context, error) {
			return d.enter(ctx, info.FullMethodName, streams)
		}),
		grpc.UnaryInterceptor(d.unary),
		grpc.StreamInterceptor(d.stream(ctx)),
		grpc.WaitForHandlers(true),
	)
	register(server)
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			streams["/"+service+"/"+m.Name] = m.IsClientStream || m.IsServerStream
		}
	}
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		select {
		case <-stopped:
			return
		case <-ctx.Done():
		}
		hard := time.AfterFunc(graceTime, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
	d.conns = newCappedListener(ln, maxConns, maxConnsHost)
	d.conns.log = d.log.With("door", d.name)
	err := server.Serve(d.conns)
	close(stopped)
	wg.Wait()
	server.Stop()
	d.calls.Wait()
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", d.name, err)
}

// enter admits a call, and bounds one without a stream from its headers on: gRPC reads its message before any interceptor,
// and a stranger could leave many half sent for ever.
func (d *door) enter(ctx context.Context, method string, streams map[string]bool) (_ context.Context, err error) {
	defer d.finish(ctx, method, &err)
	admitted, err := d.admit(ctx, method)
	if err != nil || streams[method] {
		return admitted, err
	}
	bounded, cancel := context.WithTimeout(admitted, d.whole)
	context.AfterFunc(bounded, cancel)
	return bounded, nil
}

func (d *door) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	defer d.finish(ctx, info.FullMethod, &err)
	if crashpoint.On {
		defer crashpoint.Around(pointOf("server", info.FullMethod))()
	}
	return handler(ctx, req)
}

func (d *door) stream(serving context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer d.finish(ss.Context(), info.FullMethod, &err)
		if crashpoint.On {
			ss = crashServerStream{ss, pointOf("server", info.FullMethod)}
		}
		ctx, cancel := context.WithCancelCause(ss.Context())
		defer cancel(nil)
		closing := basilica.E(basilica.Unavailable, "DOOR_CLOSED", "the peer is shutting down", "try again")
		defer context.AfterFunc(serving, func() { cancel(closing) })()
		// A handler that waits in Recv does not see ctx; returning is what ends the stream for gRPC.
		done := make(chan error, 1)
		d.calls.Go(func() {
			var err error
			defer func() { done <- err }()
			defer d.recovered(info.FullMethod, &err)
			err = handler(srv, &contextStream{ServerStream: ss, ctx: context.WithValue(ctx, endKey{}, context.CancelCauseFunc(cancel))})
		})
		select {
		case err = <-done:
		case <-serving.Done():
			err = closing
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if serving.Err() != nil && errors.Is(err, context.Canceled) {
			err = closing
		}
		return err
	}
}

// finish is the last thing of a call: it recovers, writes the operator's line and leaves the peer's part of the error.
func (d *door) finish(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		d.panicked(method, p, err)
	}
	if *err == nil {
		return
	}
	if basilica.KindOf(*err) == basilica.Internal && !errors.Is(*err, context.Canceled) && ctx.Err() == nil {
		d.log.Error("call failed", "door", d.name, "method", method, "error", *err)
	} else {
		d.log.Debug("call refused", "door", d.name, "method", method, "error", *err)
	}
	*err = toStatus(*err)
}

func (d *door) recovered(method string, err *error) {
	if p := recover(); p != nil {
		d.panicked(method, p, err)
	}
}

func (d *door) panicked(method string, p any, err *error) {
	d.log.Error("call panicked", "door", d.name, "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	*err = errors.New("panic in a call")
}

// endKey finds the function that ends a stream, in the stream's context.
type endKey struct{}

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *contextStream) Context() context.Context { return s.ctx }

// serverTLS is TLS 1.3 and nothing older, without session tickets: a certificate is judged at every connection. What a
// caller shows is judged at each call, by judge: a refusal in the handshake could not say why.
func serverTLS(cert CertificateFunc, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}, SessionTicketsDisabled: true, Time: now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert() },
	}
}
