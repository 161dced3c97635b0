package sshdoor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/internal/crashpoint"
)

// DialConfig says whom to meet and as whom. Zero limits take the defaults named beside them.
type DialConfig struct {
	HostKey      []byte     // SSH wire encoding; the server must show this very key
	Signer       ssh.Signer // the ephemeral key that the certificate is for
	Certificate  []byte     // SSH wire encoding of the user certificate
	AllowPrivate bool       // loopback, private and link-local addresses may be dialled: localnet alone

	Connect   time.Duration // one TCP connection, 5 s
	Handshake time.Duration // until authentication has succeeded, and for each answer about a channel, 10 s
	Idle      time.Duration // without a byte from the server, 3 min
	Life      time.Duration // of the connection, 15 min
	MaxBytes  int64         // both directions, 1 GiB
}

func (cfg *DialConfig) defaults() {
	orDefault(&cfg.Connect, 5*time.Second)
	orDefault(&cfg.Handshake, 10*time.Second)
	orDefault(&cfg.Idle, 3*time.Minute)
	orDefault(&cfg.Life, 15*time.Minute)
	orDefault(&cfg.MaxBytes, 1<<30)
}

// maxDialAddrs bounds the addresses of one name that are tried.
const maxDialAddrs = 4

// Client is one authenticated connection to an executor's door.
type Client struct {
	conn     ssh.Conn
	hostKey  []byte
	patience time.Duration // for each answer about a channel
	done     sync.WaitGroup
}

// Dial connects to host:port. The name is resolved once, every address of it must be one that a stranger may name, and
// that very address is dialled. An unreachable door is Unavailable, a refused certificate Denied.
func Dial(ctx context.Context, addr string, cfg DialConfig) (*Client, error) {
	cfg.defaults()
	auth, principal, err := certificateAuth(cfg)
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.ParsePublicKey(cfg.HostKey)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "SSH_HOST_KEY", "the grant's host key cannot be read", "tell the miner: its grants are broken").With(err)
	}
	raw, err := dial(ctx, addr, cfg)
	if err != nil {
		return nil, err
	}
	conn := newCappedConn(raw, cfg.Handshake, cfg.Handshake, cfg.MaxBytes)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	at := &progress{conn: conn, patience: cfg.Handshake}
	sc, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		Config:            modern(),
		User:              principal,
		Auth:              []ssh.AuthMethod{auth},
		HostKeyCallback:   at.pinned(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
		ClientVersion:     "SSH-2.0-basilica",
		BannerCallback:    at.hear,
	})
	if err != nil {
		conn.Close()
		return nil, at.failure(ctx, err)
	}
	if err := conn.relax(cfg.Idle, cfg.Life); err != nil {
		return nil, errors.Join(unreachable(err), sc.Close())
	}
	c := &Client{conn: sc, hostKey: hostKey.Marshal(), patience: cfg.Handshake}
	c.done.Go(func() { refuseRequests(slog.New(slog.DiscardHandler), sc, requests) })
	c.done.Go(func() {
		n := 0
		for nc := range channels {
			if n++; n >= maxIdleRequests {
				sc.Close()
				continue
			}
			if err := nc.Reject(ssh.Prohibited, "no channels from the server"); err != nil {
				sc.Close()
			}
		}
	})
	return c, nil
}

func certificateAuth(cfg DialConfig) (ssh.AuthMethod, string, error) {
	bad := func(err error) error {
		return basilica.E(basilica.Invalid, "SSH_CERTIFICATE", "the grant's certificate cannot be used", "tell the miner: its grants are broken").With(err)
	}
	if cfg.Signer == nil {
		return nil, "", errors.New("sshdoor: a signer is needed")
	}
	key, err := ssh.ParsePublicKey(cfg.Certificate)
	if err != nil {
		return nil, "", bad(err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || len(cert.ValidPrincipals) != 1 {
		return nil, "", bad(errors.New("not a certificate with one principal"))
	}
	signer, err := ssh.NewCertSigner(cert, cfg.Signer)
	if err != nil {
		return nil, "", bad(err)
	}
	return ssh.PublicKeys(signer), cert.ValidPrincipals[0], nil
}

var errHostKey = errors.New("the host key is not the pinned one")

// progress is how far a handshake has come, and what the server said meanwhile.
type progress struct {
	conn     *cappedConn
	patience time.Duration
	keyed    atomic.Bool // the server has shown its key

	mu     sync.Mutex
	banner string
}

func (p *progress) pinned(want ssh.PublicKey) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if !bytes.Equal(want.Marshal(), key.Marshal()) {
			return errHostKey
		}
		p.keyed.Store(true)
		return nil
	}
}

// hear keeps the last banner, of which no more than a refusal is ever read.
func (p *progress) hear(banner string) error {
	if len(banner) > maxRefusal {
		banner = ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.banner = banner
	return nil
}

// phase names where the handshake stands.
func (p *progress) phase() string {
	switch {
	case p.keyed.Load():
		return "authentication"
	case p.conn.writes.Load() > 1: // our own version line goes first, and nothing more before the server's has come
		return "key exchange"
	}
	return "version line"
}

func unreachable(err error) error {
	return basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "the executor's SSH door cannot be reached", "check that the executor runs and that its SSH port is open to the validator").With(err)
}

// failure says why a handshake came to nothing. Of what the server said only the refusal of a certificate counts, and only
// where it was refused.
func (p *progress) failure(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return unreachable(ctx.Err())
	}
	if errors.Is(err, errHostKey) {
		return basilica.E(basilica.Denied, "SSH_HOST_KEY", "the executor's SSH door shows another host key than its miner named", "enroll the executor again if its key was renewed").With(err)
	}
	p.mu.Lock()
	banner := p.banner
	p.mu.Unlock()
	var serr *ssh.ServerAuthError
	if p.keyed.Load() && (errors.As(err, &serr) || strings.Contains(err.Error(), "unable to authenticate")) {
		if refused := bannerRefusal(banner); refused != nil {
			return refused
		}
		return basilica.E(basilica.Denied, "SSH_REFUSED", "the executor's SSH door refused the certificate", "ask for a new grant").With(err)
	}
	what := "broke off in its " + p.phase()
	if errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
		what = fmt.Sprintf("did not end its %s within %s", p.phase(), p.patience)
	}
	return basilica.E(basilica.Unavailable, "SSH_HANDSHAKE", "what answers at the executor's SSH address "+what, "check that the executor itself listens there, and nothing that greets or waits in its place").With(err)
}

// dial resolves addr and connects to one of its addresses.
func dial(ctx context.Context, addr string, cfg DialConfig) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, badAddr(addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, badAddr(addr, err)
	}
	resolve, cancel := context.WithTimeout(ctx, cfg.Connect)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(resolve, "ip", host)
	if err != nil {
		return nil, unreachable(err)
	}
	for _, ip := range ips {
		if !cfg.AllowPrivate && !basilica.PublicAddr(ip) {
			return nil, basilica.E(basilica.Denied, "ADDRESS_NOT_PUBLIC", fmt.Sprintf("%.100q leads to %s, which no stranger may have us dial", addr, ip), "the miner must advertise a public address of the executor")
		}
	}
	var errs []error
	for _, ip := range ips[:min(len(ips), maxDialAddrs)] {
		dialer := net.Dialer{Timeout: cfg.Connect}
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(ip.Unmap(), uint16(port)).String())
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, unreachable(errors.Join(errs...))
}

func badAddr(addr string, err error) error {
	return basilica.E(basilica.Invalid, "SSH_ADDRESS", fmt.Sprintf("%.100q is not host:port", addr), "the miner must advertise host:port of the executor's SSH door").With(err)
}

// SessionID is the exchange hash of the connection's first key exchange: the same on both ends and on no other
// connection.
func (c *Client) SessionID() []byte { return c.conn.SessionID() }

// HostKeyBlob is the SSH wire encoding of the server's key, as pinned.
func (c *Client) HostKeyBlob() []byte { return bytes.Clone(c.hostKey) }

// Close ends the connection.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.done.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Subsystem opens a channel to one of the door's subsystems; the end of ctx closes the connection. A read at the end of
// the stream gives the server's refusal where it sent one (a basilica.Held where a holder was named), io.EOF after a
// clean end, and io.ErrUnexpectedEOF where the connection broke.
func (c *Client) Subsystem(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	var silent atomic.Bool
	late := time.AfterFunc(c.patience, func() { silent.Store(true); c.conn.Close() })
	defer late.Stop()
	lost := func(what string, err error) error {
		if silent.Load() {
			return basilica.E(basilica.Unavailable, "SSH_SILENT", fmt.Sprintf("the executor's SSH door did not %s within %s", what, c.patience), "restart the executor").With(err)
		}
		return unreachable(err)
	}
	ch, reqs, err := c.conn.OpenChannel("session", nil)
	if err != nil {
		stop()
		return nil, lost("confirm a channel", err)
	}
	st := &stream{ch: ch, conn: c.conn, patience: c.patience, stop: stop, exit: -1}
	st.wg.Go(func() { st.collectRequests(reqs) })
	st.wg.Go(func() { st.collectStderr(ch.Stderr()) })
	if crashpoint.On {
		defer crashpoint.Around("sshdoor.client." + name)()
	}
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{name}))
	if err != nil {
		err = lost("answer a request", err)
	} else if !ok {
		err = basilica.E(basilica.Denied, "SSH_SUBSYSTEM", fmt.Sprintf("the executor's SSH door does not serve %q to this grant", name), "ask for a grant that lists it")
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// stream is one channel as its client reads it.
type stream struct {
	ch       ssh.Channel
	conn     ssh.Conn
	patience time.Duration
	stop     func() bool
	wg       sync.WaitGroup // both collectors; they end with the channel

	exit   int // written by collectRequests, -1 until the server said it; read after wg.Wait
	stderr []byte
	flood  atomic.Pointer[string] // what came without end
}

func (s *stream) collectRequests(reqs <-chan *ssh.Request) {
	n := 0
	for r := range reqs {
		var status struct{ Status uint32 }
		if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &status) == nil {
			s.exit = int(status.Status)
			continue
		}
		// Answers that the server does not read would fill the line and hold up the connection.
		if n++; n == maxIdleRequests {
			s.tooMuch("requests")
		}
		if n < maxIdleRequests && r.WantReply && r.Reply(false, nil) != nil {
			s.conn.Close()
		}
	}
}

func (s *stream) collectStderr(r io.Reader) {
	// A broken stream leaves what came before it; the exit status that is missing then says so.
	s.stderr, _ = io.ReadAll(io.LimitReader(r, maxRefusal))
	if n, _ := io.Copy(io.Discard, io.LimitReader(r, maxRefusal)); n == maxRefusal {
		s.tooMuch("error text")
	}
}

// tooMuch ends the connection of a server that fills the line.
func (s *stream) tooMuch(of string) {
	s.flood.CompareAndSwap(nil, &of)
	s.conn.Close()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ch.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	late := time.AfterFunc(s.patience, func() { s.conn.Close() }) // an end without a close
	s.wg.Wait()
	late.Stop()
	switch {
	case s.flood.Load() != nil:
		return 0, basilica.E(basilica.Unavailable, "SSH_FLOOD", "the executor's SSH door sent "+*s.flood.Load()+" without end on one channel", "run the executor of this project")
	case s.exit < 0:
		return 0, io.ErrUnexpectedEOF
	case s.exit == 0:
		return 0, io.EOF
	}
	if refused := decodeRefusal(s.stderr); refused != nil {
		return 0, refused
	}
	return 0, basilica.E(basilica.Internal, "SSH_SUBSYSTEM_FAILED", fmt.Sprintf("the subsystem ended with status %d", s.exit), "")
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.ch.Write(p)
	if err != nil && errors.Is(err, io.EOF) {
		err = io.ErrClosedPipe
	}
	return n, err
}

// CloseWrite tells the server that no more will be written.
func (s *stream) CloseWrite() error { return s.ch.CloseWrite() }

// Close ends the channel.
func (s *stream) Close() error {
	defer s.stop() // not before: a server that reads nothing holds up the close too, until ctx ends
	err := s.ch.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
