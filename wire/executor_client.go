package wire

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// Transport opens a connection to a peer; the plain one is (&net.Dialer{}).DialContext over TCP. A tunnel that the peer
// opened is another.
type Transport func(ctx context.Context, addr string) (net.Conn, error)

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: handshakeTime}
	return d.DialContext(ctx, "tcp", addr)
}

// ExecutorsConfig says who the miner is to its executors.
type ExecutorsConfig struct {
	Certificate CertificateFunc // the miner's, of a fleet CA
	CAs         CAsFunc
	MintJWT     func(basilica.ExecutorID) (string, error)
	// Known refuses an executor that the miner does not take, or a certificate (DER) that it did not give to it.
	Known     func(ctx context.Context, id basilica.ExecutorID, cert []byte) error
	Now       func() time.Time
	Transport Transport // nil: TCP
}

// Executors is a miner's calling end towards its fleet: one pooled connection per executor.
type Executors struct {
	cfg ExecutorsConfig

	mu     sync.Mutex
	peers  map[basilica.ExecutorID]*ExecutorClient
	closed bool
}

// NewExecutors makes an empty pool. It dials nobody before the first call.
func NewExecutors(cfg ExecutorsConfig) *Executors {
	if cfg.Transport == nil {
		cfg.Transport = dialTCP
	}
	return &Executors{cfg: cfg, peers: make(map[basilica.ExecutorID]*ExecutorClient)}
}

// Executor gives the calling end of one executor at addr (host:port). Another address than the last one given replaces
// the connection. Whatever is wrong shows at the first call.
func (p *Executors) Executor(id basilica.ExecutorID, addr string) basilica.Executor {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.peers[id]; ok {
		if c.addr == addr {
			return c
		}
		c.lines.close()
	}
	c := &ExecutorClient{addr: addr, name: "executor " + string(id), met: &meeting{}}
	c.lines = lines{
		certificate: p.cfg.Certificate, connect: func() (*grpc.ClientConn, error) { return p.connect(id, addr, c.met) }, all: map[*line]bool{}, closed: p.closed,
	}
	if p.closed {
		return c
	}
	p.peers[id] = c
	return c
}

// Forget closes the connection of an executor that left the fleet.
func (p *Executors) Forget(id basilica.ExecutorID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.peers[id]; ok {
		c.lines.close()
		delete(p.peers, id)
	}
}

// Close closes all connections; calls under way fail.
func (p *Executors) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.peers {
		c.lines.close()
	}
	clear(p.peers)
	return nil
}

func (p *Executors) connect(id basilica.ExecutorID, addr string, met *meeting) (*grpc.ClientConn, error) {
	conf := clientTLS(p.cfg.Certificate, p.cfg.Now, met.verifier(func(cs tls.ConnectionState) error {
		return judgeServer(cs, p.cfg.CAs(), p.cfg.Now(), "executor "+string(id)+"'s", func(cert *x509.Certificate) error {
			if got, ok := pki.ExecutorOf(cert); !ok || got != string(id) {
				return basilica.E(basilica.Unavailable, "EXECUTOR_OTHER", fmt.Sprintf("who answers at %s is not executor %s", addr, id), "join that machine again, so that the miner learns its address")
			}
			ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
			defer cancel()
			return p.cfg.Known(ctx, id, cert.Raw)
		})
	}))
	return dial(addr, conf, met.transport(p.cfg.Transport), grpc.WithPerRPCCredentials(bearer(func() (string, error) { return p.cfg.MintJWT(id) })))
}

// clientTLS is TLS 1.3 whose peer is judged by verify alone: certificates here carry roles, not host names.
func clientTLS(cert CertificateFunc, now func() time.Time, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert() },
		MinVersion:           tls.VersionTLS13, NextProtos: []string{"h2"}, Time: now,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks chain, time and role at every handshake
		VerifyConnection:   verify,
	}
}

// dial makes a lazy connection that tries again by itself with growing pauses.
func dial(addr string, conf *tls.Config, transport Transport, extra ...grpc.DialOption) (*grpc.ClientConn, error) {
	if crashpoint.On {
		extra = append(extra, grpc.WithUnaryInterceptor(crashCall), grpc.WithStreamInterceptor(crashStream))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithMaxHeaderListSize(maxHeader),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingTime, Timeout: pingWait, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second},
			MinConnectTimeout: handshakeTime,
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithUserAgent("basilica"),
	}, extra...)...)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "ADDRESS_INVALID", fmt.Sprintf("address %.80q is not host:port", addr), "correct the address").With(err)
	}
	return conn, nil
}

// bearer puts a fresh token on every call, over TLS alone.
type bearer func() (string, error)

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b()
	if err != nil {
		return nil, fmt.Errorf("make token: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return true }

// ExecutorClient is the calling end of one executor.
type ExecutorClient struct {
	addr  string
	name  string
	met   *meeting
	lines lines
}

var _ basilica.Executor = (*ExecutorClient)(nil)

// call bounds one call without a stream and brings its error home.
func (c *ExecutorClient) call(ctx context.Context, f func(ctx context.Context, rpc wirepb.ExecutorClient) error) error {
	rpc, done, err := c.lines.take()
	if err != nil {
		return err
	}
	defer done()
	bounded, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return c.home(ctx, f(bounded, rpc))
}

// home brings an error of a call home; ctx is the caller's.
func (c *ExecutorClient) home(ctx context.Context, err error) error {
	return c.met.explain(fromStatus(ctx, c.name, err))
}

// Execute implements basilica.Executor.
func (c *ExecutorClient) Execute(ctx context.Context, req basilica.ExecuteRequest) (h basilica.Holding, err error) {
	err = c.call(ctx, func(ctx context.Context, rpc wirepb.ExecutorClient) error {
		out, err := rpc.Execute(ctx, toExecute(req))
		if err != nil {
			return err
		}
		h, err = fromHolding(out.GetHolding())
		return err
	})
	return h, err
}

// SystemInfo implements basilica.Executor.
func (c *ExecutorClient) SystemInfo(ctx context.Context) (f basilica.Facts, err error) {
	err = c.call(ctx, func(ctx context.Context, rpc wirepb.ExecutorClient) error {
		out, err := rpc.GetSystemInfo(ctx, &wirepb.Empty{})
		if err != nil {
			return err
		}
		f, err = fromFacts(out)
		return err
	})
	return f, err
}

// Health implements basilica.Executor.
func (c *ExecutorClient) Health(ctx context.Context) (h basilica.Health, err error) {
	err = c.call(ctx, func(ctx context.Context, rpc wirepb.ExecutorClient) error {
		out, err := rpc.HealthCheck(ctx, &wirepb.Empty{})
		if err != nil {
			return err
		}
		h, err = fromHealth(out)
		return err
	})
	return h, err
}

// Cancel implements basilica.Executor.
func (c *ExecutorClient) Cancel(ctx context.Context, task basilica.TaskID, attempt int) error {
	return c.call(ctx, func(ctx context.Context, rpc wirepb.ExecutorClient) error {
		_, err := rpc.Cancel(ctx, toAttempt(basilica.TaskAttempt{Task: task, Attempt: attempt}))
		return err
	})
}

// Release implements basilica.Executor.
func (c *ExecutorClient) Release(ctx context.Context, task basilica.TaskID, attempt int) error {
	return c.call(ctx, func(ctx context.Context, rpc wirepb.ExecutorClient) error {
		_, err := rpc.Release(ctx, toAttempt(basilica.TaskAttempt{Task: task, Attempt: attempt}))
		return err
	})
}

// Watch implements basilica.Executor. A stream that ends without a terminal event is Unavailable: watch again from the
// last offset.
func (c *ExecutorClient) Watch(ctx context.Context, task basilica.TaskID, attempt int, logOffset int64, f func(basilica.TaskEvent) error) error {
	rpc, done, err := c.lines.take()
	if err != nil {
		return err
	}
	defer done()
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	want := basilica.TaskAttempt{Task: task, Attempt: attempt}
	stream, err := rpc.Watch(ctx, &wirepb.WatchRequest{Attempt: toAttempt(want), LogOffset: logOffset})
	if err != nil {
		return c.home(parent, err)
	}
	for terminal := false; ; {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if terminal {
				return nil
			}
			return basilica.E(basilica.Unavailable, "WATCH_ENDED", c.name+" ended the stream before the task's end", "watch again from the last offset")
		}
		if err != nil {
			return c.home(parent, err)
		}
		event, err := fromEvent(msg)
		if err != nil {
			return err
		}
		if event.Task != task || event.Attempt != attempt {
			return malformed("an event of another attempt")
		}
		if err := f(event); err != nil {
			return err
		}
		terminal = event.State.Terminal()
	}
}

// PutBlob implements basilica.Executor.
func (c *ExecutorClient) PutBlob(ctx context.Context, blob basilica.Blob, content io.Reader) error {
	rpc, done, err := c.lines.take()
	if err != nil {
		return err
	}
	defer done()
	guarded, alive, stop := stallGuard(ctx)
	defer stop()
	stream, err := rpc.PutBlob(guarded)
	if err != nil {
		return c.home(guarded, err)
	}
	send := func(m *wirepb.PutBlobRequest) error {
		err := stream.Send(m)
		alive()
		return err
	}
	err = send(&wirepb.PutBlobRequest{Part: &wirepb.PutBlobRequest_Blob{Blob: toBlob(blob)}})
	for err == nil {
		buf := make([]byte, chunkBytes) // a sent message stays gRPC's
		n, readErr := io.ReadFull(content, buf)
		if n > 0 {
			err = send(&wirepb.PutBlobRequest{Part: &wirepb.PutBlobRequest_Data{Data: buf[:n]}})
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return fmt.Errorf("read blob: %w", readErr)
		}
	}
	// io.EOF from Send says that the peer has answered already; its answer comes from here.
	_, err = stream.CloseAndRecv()
	return c.home(guarded, err)
}

// GetBlob implements basilica.Executor. Content that does not match its address is refused after the last byte: the
// caller must not keep what w got when this fails.
func (c *ExecutorClient) GetBlob(ctx context.Context, sum basilica.Digest, w io.Writer) error {
	rpc, done, err := c.lines.take()
	if err != nil {
		return err
	}
	defer done()
	guarded, alive, stop := stallGuard(ctx)
	defer stop()
	stream, err := rpc.GetBlob(guarded, &wirepb.GetBlobRequest{Sha256: sum[:]})
	if err != nil {
		return c.home(guarded, err)
	}
	hash, total := sha256.New(), int64(0)
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c.home(guarded, err)
		}
		alive()
		if total += int64(len(part.GetData())); total > basilica.MaxBlobBytes {
			return malformed("a blob of more than %d bytes", int64(basilica.MaxBlobBytes))
		}
		hash.Write(part.GetData())
		if _, err := w.Write(part.GetData()); err != nil {
			return fmt.Errorf("write blob: %w", err)
		}
	}
	if basilica.Digest(hash.Sum(nil)) != sum {
		return basilica.E(basilica.Conflict, "BLOB_DIGEST", c.name+" sent content that does not match its address", "do not trust this copy")
	}
	return nil
}
