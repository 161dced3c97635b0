package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"basilica"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// ExecutorServerConfig says who an executor is and whom it obeys.
type ExecutorServerConfig struct {
	Executor    basilica.ExecutorID
	Certificate CertificateFunc // the executor's, of a fleet CA
	CAs         CAsFunc
	JWTKeys     func() [][]byte // each verifies the miner's tokens
	Now         func() time.Time
	Log         *slog.Logger
}

// ExecutorServer is an executor's gRPC door. Who comes in shows the miner's certificate and, with every call, a token for
// this executor.
type ExecutorServer struct {
	wirepb.UnimplementedExecutorServer
	executor basilica.Executor
	cfg      ExecutorServerConfig
	door     *door
}

// NewExecutorServer makes the door of e.
func NewExecutorServer(e basilica.Executor, cfg ExecutorServerConfig) (*ExecutorServer, error) {
	if cfg.Certificate == nil || cfg.CAs == nil || cfg.JWTKeys == nil {
		return nil, errors.New("an executor's door needs certificate, fleet CAs and JWT keys")
	}
	s := &ExecutorServer{executor: e, cfg: cfg}
	s.door = &door{name: "executor", tls: serverTLS(cfg.Certificate, cfg.Now), admit: s.admit, log: cfg.Log, whole: callTime, shake: handshakeTime}
	return s, nil
}

// Serve answers calls on ln until ctx ends, and closes it.
func (s *ExecutorServer) Serve(ctx context.Context, ln net.Listener) error {
	return s.door.serve(ctx, ln, func(g *grpc.Server) { wirepb.RegisterExecutorServer(g, s) })
}

// admit checks certificate and token of every call: a connection may stand for longer than either is good for.
func (s *ExecutorServer) admit(ctx context.Context, _ string) (context.Context, error) {
	cert, now := peerCertificate(ctx), s.cfg.Now()
	if err := judge(cert, s.cfg.CAs(), now, "the caller's", "the executor's"); err != nil {
		return nil, err
	}
	if !pki.IsMiner(cert) {
		return nil, basilica.E(basilica.Denied, "NOT_THE_MINER", "only this executor's miner may call it, and the caller's certificate is not the miner's", "call through the miner")
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return nil, basilica.E(basilica.Denied, "TOKEN_MISSING", "the call carries no token, or several", "call through the miner")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return nil, basilica.E(basilica.Denied, "TOKEN_MISSING", "the call's authorization is not a bearer token", "call through the miner")
	}
	err := pki.VerifyJWT(s.cfg.JWTKeys(), token, string(s.cfg.Executor), now)
	var late *pki.JWTTimeError
	switch {
	case err == nil:
		return ctx, nil
	case errors.As(err, &late):
		return nil, basilica.E(basilica.Denied, "CLOCK_SKEW", clockSentence("the executor's", "the miner's", late.Difference), fixClock)
	}
	return nil, basilica.E(basilica.Denied, "TOKEN_REFUSED", "the miner's token does not open this executor", "join this executor to its miner again").With(err)
}

// Execute implements wirepb.ExecutorServer.
func (s *ExecutorServer) Execute(ctx context.Context, in *wirepb.ExecuteRequest) (*wirepb.ExecuteResponse, error) {
	req, err := fromExecute(in)
	if err != nil {
		return nil, err
	}
	holding, err := s.executor.Execute(ctx, req)
	if err != nil {
		return nil, err
	}
	return &wirepb.ExecuteResponse{Holding: toHolding(holding)}, nil
}

// GetSystemInfo implements wirepb.ExecutorServer.
func (s *ExecutorServer) GetSystemInfo(ctx context.Context, _ *wirepb.Empty) (*wirepb.SystemInfo, error) {
	facts, err := s.executor.SystemInfo(ctx)
	if err != nil {
		return nil, err
	}
	return toFacts(facts), nil
}

// HealthCheck implements wirepb.ExecutorServer.
func (s *ExecutorServer) HealthCheck(ctx context.Context, _ *wirepb.Empty) (*wirepb.HealthStatus, error) {
	health, err := s.executor.Health(ctx)
	if err != nil {
		return nil, err
	}
	return toHealth(health), nil
}

// Watch implements wirepb.ExecutorServer.
func (s *ExecutorServer) Watch(in *wirepb.WatchRequest, out grpc.ServerStreamingServer[wirepb.TaskEvent]) error {
	at, err := fromAttempt(in.GetAttempt())
	if err != nil {
		return err
	}
	if in.GetLogOffset() < 0 || in.GetLogOffset() > maxOffset {
		return malformed("log offset %d", in.GetLogOffset())
	}
	return s.executor.Watch(out.Context(), at.Task, at.Attempt, in.GetLogOffset(), func(e basilica.TaskEvent) error { return out.Send(toEvent(e)) })
}

// Cancel implements wirepb.ExecutorServer.
func (s *ExecutorServer) Cancel(ctx context.Context, in *wirepb.Attempt) (*wirepb.Empty, error) {
	at, err := fromAttempt(in)
	if err != nil {
		return nil, err
	}
	return &wirepb.Empty{}, s.executor.Cancel(ctx, at.Task, at.Attempt)
}

// Release implements wirepb.ExecutorServer.
func (s *ExecutorServer) Release(ctx context.Context, in *wirepb.Attempt) (*wirepb.Empty, error) {
	at, err := fromAttempt(in)
	if err != nil {
		return nil, err
	}
	return &wirepb.Empty{}, s.executor.Release(ctx, at.Task, at.Attempt)
}

// PutBlob implements wirepb.ExecutorServer.
func (s *ExecutorServer) PutBlob(in grpc.ClientStreamingServer[wirepb.PutBlobRequest, wirepb.Empty]) error {
	first, err := in.Recv()
	if err != nil {
		return fmt.Errorf("receive blob's address: %w", err)
	}
	if first.GetBlob() == nil {
		return malformed("a blob without its address")
	}
	blob, err := fromBlob(first.GetBlob())
	if err != nil {
		return err
	}
	ctx, alive, stop := stallGuard(in.Context())
	defer stop()
	body := &chunkReader{left: blob.Size, next: func() ([]byte, error) {
		part, err := in.Recv()
		if err != nil {
			return nil, err
		}
		alive()
		if part.GetBlob() != nil {
			return nil, malformed("a second address in one blob")
		}
		return part.GetData(), nil
	}}
	if err := s.executor.PutBlob(ctx, blob, body); err != nil {
		return err
	}
	return in.SendAndClose(&wirepb.Empty{})
}

// GetBlob implements wirepb.ExecutorServer.
func (s *ExecutorServer) GetBlob(in *wirepb.GetBlobRequest, out grpc.ServerStreamingServer[wirepb.BlobChunk]) error {
	sum, err := digest(in.GetSha256())
	if err != nil {
		return err
	}
	return s.executor.GetBlob(out.Context(), sum, chunkWriter(func(b []byte) error { return out.Send(&wirepb.BlobChunk{Data: b}) }))
}

// stallGuard derives a context that ends once alive has not been called for stallTime.
func stallGuard(parent context.Context) (ctx context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	stalled := basilica.E(basilica.Unavailable, "STALLED", fmt.Sprintf("no byte of a blob came for %s", stallTime), "try again")
	timer := time.AfterFunc(stallTime, func() { cancel(stalled) })
	return ctx, func() { timer.Reset(stallTime) }, func() {
		timer.Stop()
		cancel(nil)
	}
}

// chunkReader reads a blob from messages and refuses a byte more than was announced.
type chunkReader struct {
	left int64
	next func() ([]byte, error)
	have []byte
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.have) == 0 {
		b, err := r.next()
		if err != nil {
			return 0, err
		}
		if int64(len(b)) > r.left {
			return 0, malformed("more bytes than the blob's address says")
		}
		r.left -= int64(len(b))
		r.have = b
	}
	n := copy(p, r.have)
	r.have = r.have[n:]
	return n, nil
}

// chunkWriter cuts what is written into messages; a sent message stays gRPC's, so each has bytes of its own.
type chunkWriter func([]byte) error

// Write implements io.Writer.
func (w chunkWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(chunkBytes, len(p)-done)
		if err := w(bytes.Clone(p[done : done+n])); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

var _ io.Reader = (*chunkReader)(nil)
