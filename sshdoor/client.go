package sshdoor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
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
	Handshake time.Duration // until authentication has succeeded, 10 s
	Idle      time.Duration // without a byte from the server, 3 min
	Life      time.Duration // of the connection, 15 min
	MaxBytes  int64         // both directions, 1 GiB
}

// maxDialAddrs bounds the addresses of one name that are tried.
const maxDialAddrs = 4

// Client is one authenticated connection to an executor's door.
type Client struct {
	conn    ssh.Conn
	hostKey []byte
	done    sync.WaitGroup
}

// Dial connects to host:port. The name is resolved once, every address of it must be one that a stranger may name, and
// that very address is dialled. An unreachable door is Unavailable, a refused certificate Denied.
func Dial(ctx context.Context, addr string, cfg DialConfig) (*Client, error) {
	orDefault(&cfg.Connect, 5*time.Second)
	orDefault(&cfg.Handshake, 10*time.Second)
	orDefault(&cfg.Idle, 3*time.Minute)
	orDefault(&cfg.Life, 15*time.Minute)
	orDefault(&cfg.MaxBytes, 1<<30)
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
	var banner string
	sc, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		Config:            modern(),
		User:              principal,
		Auth:              []ssh.AuthMethod{auth},
		HostKeyCallback:   pinned(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
		ClientVersion:     "SSH-2.0-basilica",
		BannerCallback:    func(b string) error { banner = b; return nil },
	})
	if err != nil {
		conn.Close()
		return nil, handshakeError(ctx, err, banner)
	}
	if err := conn.relax(cfg.Idle, cfg.Life); err != nil {
		return nil, errors.Join(unreachable(err), sc.Close())
	}
	c := &Client{conn: sc, hostKey: hostKey.Marshal()}
	c.done.Go(func() { ssh.DiscardRequests(requests) })
	c.done.Go(func() {
		for nc := range channels {
			if err := nc.Reject(ssh.Prohibited, "no channels from the server"); err != nil {
				return
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

func pinned(want ssh.PublicKey) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if !bytes.Equal(want.Marshal(), key.Marshal()) {
			return errHostKey
		}
		return nil
	}
}

func unreachable(err error) error {
	return basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "the executor's SSH door cannot be reached", "check that the executor runs and that its SSH port is open to the validator").With(err)
}

func handshakeError(ctx context.Context, err error, banner string) error {
	if ctx.Err() != nil {
		return unreachable(ctx.Err())
	}
	if errors.Is(err, errHostKey) {
		return basilica.E(basilica.Denied, "SSH_HOST_KEY", "the executor's SSH door shows another host key than its miner named", "enroll the executor again if its key was renewed").With(err)
	}
	if refused := decodeRefusal([]byte(banner)); refused != nil {
		return refused
	}
	var serr *ssh.ServerAuthError
	if errors.As(err, &serr) || bytes.Contains([]byte(err.Error()), []byte("unable to authenticate")) {
		return basilica.E(basilica.Denied, "SSH_REFUSED", "the executor's SSH door refused the certificate", "ask for a new grant").With(err)
	}
	return unreachable(err)
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
	ch, reqs, err := c.conn.OpenChannel("session", nil)
	if err != nil {
		stop()
		return nil, unreachable(err)
	}
	st := &stream{ch: ch, stop: stop, exit: -1}
	st.wg.Go(func() { st.collectRequests(reqs) })
	st.wg.Go(func() { st.collectStderr(ch.Stderr()) })
	if crashpoint.On {
		defer crashpoint.Around("sshdoor.client." + name)()
	}
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{name}))
	if err != nil {
		err = unreachable(err)
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
	ch   ssh.Channel
	stop func() bool
	wg   sync.WaitGroup // both collectors; they end with the channel

	exit   int // written by collectRequests, -1 until the server said it; read after wg.Wait
	stderr []byte
}

func (s *stream) collectRequests(reqs <-chan *ssh.Request) {
	for r := range reqs {
		var status struct{ Status uint32 }
		if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &status) == nil {
			s.exit = int(status.Status)
		}
		if r.WantReply {
			if err := r.Reply(false, nil); err != nil {
				return
			}
		}
	}
}

func (s *stream) collectStderr(r io.Reader) {
	// A broken stream leaves what came before it; the exit status that is missing then says so.
	s.stderr, _ = io.ReadAll(io.LimitReader(r, maxRefusal))
	_, _ = io.Copy(io.Discard, r)
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ch.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	s.wg.Wait()
	switch {
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
	s.stop()
	err := s.ch.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
