package sshdoor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/internal/gate"
)

// Config is what a server needs. Zero limits take the defaults named beside them.
type Config struct {
	HostKey   ssh.Signer
	CAs       func() [][]byte    // SSH wire encoding of the only authorities whose user certificates are taken
	Principal string             // the executor's id: user name and principal of every certificate
	Handlers  map[string]Handler // by subsystem
	Revoked   func(basilica.GrantID) bool
	Now       func() time.Time
	Log       *slog.Logger

	MaxHandshakes    int           // at once, of strangers who have not yet shown who they are, 64
	MaxConns         int           // at once, of those who have, 64
	MaxConnsPerGrant int           // at once, 4
	MaxConnsPerAddr  int           // at once per source address (IPv6: per /64) before authentication, 8
	MaxBytes         int64         // of one connection, both directions, 1 GiB
	Version          time.Duration // until the version line has come, 3 s
	Handshake        time.Duration // until authentication has succeeded, 10 s
	Idle             time.Duration // without a byte from the other side, 3 min
	Life             time.Duration // of one connection, 15 min; a certificate's end comes first
	MaxCertificate   time.Duration // longest validity of a certificate, 15 min
}

// maxChannels bounds the subsystem channels of one connection, one after another; maxRequests the requests that one
// channel may have refused before its subsystem, and maxIdleRequests those beside it.
const (
	maxChannels     = 16
	maxRequests     = 8
	maxIdleRequests = 64
)

// Server takes validators' connections.
type Server struct {
	cfg Config
	ssh *ssh.ServerConfig

	sessions        chan struct{} // a token for each that is under way
	lines, paceCuts *gate.Rates   // of the log

	mu        sync.Mutex
	strangers []*stranger // oldest first
	cuts      int         // strangers closed for others, not yet told
	byGrant   map[basilica.GrantID]map[*ssh.ServerConn]bool
}

// NewServer checks the configuration and fills in its defaults.
func NewServer(cfg Config) (*Server, error) {
	switch {
	case cfg.HostKey == nil || cfg.CAs == nil:
		return nil, errors.New("sshdoor: host key and certificate authority are needed")
	case cfg.Principal == "":
		return nil, errors.New("sshdoor: a principal is needed")
	case cfg.Now == nil || cfg.Log == nil:
		return nil, errors.New("sshdoor: a clock and a logger are needed")
	}
	if cfg.Revoked == nil {
		cfg.Revoked = func(basilica.GrantID) bool { return false }
	}
	orDefault(&cfg.MaxHandshakes, 64)
	orDefault(&cfg.MaxConns, 64)
	orDefault(&cfg.MaxConnsPerGrant, 4)
	orDefault(&cfg.MaxConnsPerAddr, 8)
	orDefault(&cfg.MaxBytes, 1<<30)
	orDefault(&cfg.Version, 3*time.Second)
	orDefault(&cfg.Handshake, 10*time.Second)
	orDefault(&cfg.Idle, 3*time.Minute)
	orDefault(&cfg.Life, 15*time.Minute)
	orDefault(&cfg.MaxCertificate, 15*time.Minute)
	s := &Server{
		cfg: cfg, sessions: make(chan struct{}, cfg.MaxConns), byGrant: map[basilica.GrantID]map[*ssh.ServerConn]bool{},
		lines: gate.NewRates(linesPerSecond, linesAtOnce, cfg.Now), paceCuts: gate.NewRates(linesPerSecond, 1, cfg.Now),
	}
	s.ssh = &ssh.ServerConfig{
		Config:                  modern(),
		PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256},
		PublicKeyCallback:       s.authenticate,
		MaxAuthTries:            3,
		ServerVersion:           serverVersion,
	}
	s.ssh.AddHostKey(cfg.HostKey)
	return s, nil
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Serve takes connections from ln until ctx ends; it closes ln and every connection, and returns when all are gone.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("close the SSH door: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		for {
			conn, err := ln.Accept()
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				var temporary interface{ Temporary() bool }
				if errors.As(err, &temporary) && temporary.Temporary() {
					select {
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond): // out of file descriptors: give others time to close
					}
					continue
				}
				return fmt.Errorf("accept on the SSH door: %w", err)
			}
			// Strangers have slots of their own: who is known already loses none to them.
			one := s.meet(conn)
			g.Go(func() error {
				s.serveConn(ctx, one)
				return nil
			})
		}
	})
	return g.Wait()
}

// take takes a slot if one is free.
func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// CloseRevoked cuts every connection whose grant Revoked now names.
func (s *Server) CloseRevoked() {
	var cut []*ssh.ServerConn
	s.mu.Lock()
	for grant, conns := range s.byGrant {
		if s.cfg.Revoked(grant) {
			for c := range conns {
				cut = append(cut, c)
			}
		}
	}
	s.mu.Unlock()
	for _, c := range cut {
		c.Close() // its own goroutine reports the end
	}
}

// permitted keys what the certificate allows in Permissions.ExtraData.
type permittedKey struct{}

type permitted struct {
	grant      basilica.GrantID
	validator  basilica.Hotkey
	subsystems []string
	ends       time.Time
}

// authenticate takes a user certificate of our authority for our principal. The library checks the signature of the
// certificate's own key and the source-address option after it.
func (s *Server) authenticate(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	p, err := s.checkCertificate(conn.User(), key)
	if err != nil {
		return nil, &ssh.BannerError{Err: err, Message: encodeRefusal(err)}
	}
	cert := key.(*ssh.Certificate)
	return &ssh.Permissions{
		CriticalOptions: cert.CriticalOptions,
		ExtraData:       map[any]any{permittedKey{}: p},
	}, nil
}

func denied(code, sentence, fix string) error {
	return basilica.E(basilica.Denied, code, sentence, fix)
}

func (s *Server) checkCertificate(user string, key ssh.PublicKey) (*permitted, error) {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, denied("SSH_NO_CERTIFICATE", "this door takes user certificates, not plain keys", "ask the miner for a validation grant and use its certificate")
	}
	if cert.CertType != ssh.UserCert || cert.SignatureKey == nil || !slices.ContainsFunc(s.cfg.CAs(), func(ca []byte) bool { return bytes.Equal(cert.SignatureKey.Marshal(), ca) }) {
		return nil, denied("SSH_CERTIFICATE_AUTHORITY", "the certificate is not one that this machine's miner signed", "ask this machine's miner for a validation grant")
	}
	if !slices.Equal(cert.ValidPrincipals, []string{s.cfg.Principal}) || user != s.cfg.Principal {
		return nil, denied("SSH_PRINCIPAL", fmt.Sprintf("the certificate or user name is not for executor %q alone", s.cfg.Principal), "use the certificate that the grant gave for this executor")
	}
	now := s.cfg.Now()
	from, to := time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0)
	if cert.ValidAfter > 1<<40 || cert.ValidBefore > 1<<40 || to.Sub(from) > s.cfg.MaxCertificate {
		return nil, denied("SSH_CERTIFICATE_LIFE", fmt.Sprintf("the certificate is valid for longer than %s", s.cfg.MaxCertificate), "the miner must sign shorter certificates")
	}
	// A certificate is used soon after it was made: how far this clock is from that moment is how far it is off.
	off := int64(now.Sub(from.Add(Backdate)).Round(time.Second) / time.Second)
	if now.Before(from) {
		return nil, denied("SSH_CLOCK", fmt.Sprintf("this machine's clock is %d s behind the clock that dated the certificate", -off), "set the clocks of machine and miner by NTP")
	}
	if !now.Before(to) {
		return nil, denied("SSH_EXPIRED", fmt.Sprintf("the certificate was made %d s ago by this machine's clock and has ended; if it is new, that clock is %d s ahead of the miner's", off, off), "ask for a new grant; where that one is new, set the clocks of machine and miner by NTP")
	}
	checker := &ssh.CertChecker{
		SupportedCriticalOptions: []string{"source-address"},
		Clock:                    func() time.Time { return now },
		IsRevoked:                func(c *ssh.Certificate) bool { return s.cfg.Revoked(basilica.GrantID(c.KeyId)) },
	}
	if err := checker.CheckCert(user, cert); err != nil {
		if s.cfg.Revoked(basilica.GrantID(cert.KeyId)) {
			return nil, denied("SSH_REVOKED", "the grant was revoked by the miner", "ask for a new grant")
		}
		return nil, basilica.E(basilica.Denied, "SSH_CERTIFICATE", "the certificate does not verify", "ask for a new grant").With(err)
	}
	grant := basilica.GrantID(cert.KeyId)
	if grant == "" || len(grant) > 128 {
		return nil, denied("SSH_CERTIFICATE", "the certificate names no grant", "ask for a new grant")
	}
	return &permitted{
		grant:      grant,
		validator:  basilica.Hotkey(cert.Extensions[ExtensionValidator]),
		subsystems: strings.Split(cert.Extensions[ExtensionSubsystems], ","),
		ends:       to,
	}, nil
}

func (s *Server) enter(grant basilica.GrantID, c *ssh.ServerConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := s.byGrant[grant]
	if len(conns) >= s.cfg.MaxConnsPerGrant {
		return false
	}
	if conns == nil {
		conns = map[*ssh.ServerConn]bool{}
		s.byGrant[grant] = conns
	}
	conns[c] = true
	return true
}

func (s *Server) leave(grant basilica.GrantID, c *ssh.ServerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byGrant[grant], c)
	if len(s.byGrant[grant]) == 0 {
		delete(s.byGrant, grant)
	}
}

func (s *Server) serveConn(ctx context.Context, one *stranger) {
	defer s.part(one)
	conn := one.conn
	log := s.cfg.Log.With("from", conn.RemoteAddr().String())
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	hello := time.AfterFunc(s.cfg.Version, func() {
		if !conn.greeted() {
			conn.Close()
		}
	})
	defer hello.Stop()
	sc, channels, requests, err := ssh.NewServerConn(conn, s.ssh)
	if err != nil {
		s.refused(ctx, log, slog.LevelInfo, one, "SSH handshake refused", "err", err)
		return
	}
	defer sc.Close()
	if !take(s.sessions) {
		s.refused(ctx, log, slog.LevelWarn, one, "SSH connection refused: all slots are taken", "user", printable(sc.User(), 64))
		return
	}
	defer func() { <-s.sessions }()
	s.part(one)
	p, ok := sc.Permissions.ExtraData[permittedKey{}].(*permitted)
	if !ok {
		log.Error("SSH connection without checked certificate closed")
		return
	}
	log = log.With("grant", string(p.grant), "validator", string(p.validator))
	if !s.enter(p.grant, sc) {
		s.refused(ctx, log, slog.LevelWarn, one, "SSH connection refused: the grant has too many already")
		return
	}
	defer s.leave(p.grant, sc)
	if s.cfg.Revoked(p.grant) { // between the certificate's check and enter
		return
	}
	if err := conn.relax(s.cfg.Idle, min(s.cfg.Life, p.ends.Sub(s.cfg.Now()))); err != nil {
		return
	}
	s.serveChannels(ctx, log, sc, p, channels, requests)
}

// serveChannels serves session channels one at a time until the connection ends, and waits for the handler.
func (s *Server) serveChannels(ctx context.Context, log *slog.Logger, sc *ssh.ServerConn, p *permitted, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel() // the connection is gone: so is what its handlers work for
		refuseRequests(log, sc, requests)
	})
	busy := make(chan struct{}, 1)
	taken := 0
	for nc := range channels {
		if nc.ChannelType() != "session" {
			s.reject(log, nc, ssh.Prohibited, "this door opens sessions alone: no forwarding, no agent")
			continue
		}
		if !s.await(ctx, busy) {
			s.reject(log, nc, ssh.ResourceShortage, "one session at a time")
			continue
		}
		if taken++; taken > maxChannels {
			<-busy
			s.reject(log, nc, ssh.ResourceShortage, "this connection had its share of sessions")
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			<-busy
			log.Info("SSH session lost before it began", "err", err)
			continue
		}
		wg.Go(func() { s.serveSession(ctx, log, sc, p, ch, reqs, func() { <-busy }) })
	}
	cancel()
}

// await waits for the running session's end, which its client knows of a moment before the server does.
func (s *Server) await(ctx context.Context, busy chan<- struct{}) bool {
	patience := time.NewTimer(s.cfg.Handshake)
	defer patience.Stop()
	select {
	case busy <- struct{}{}:
		return true
	case <-patience.C:
		return false
	case <-ctx.Done():
		return false
	}
}

func (s *Server) reject(log *slog.Logger, nc ssh.NewChannel, why ssh.RejectionReason, text string) {
	log.Info("SSH channel refused", "type", nc.ChannelType(), "reason", text)
	if err := nc.Reject(why, text); err != nil {
		log.Debug("SSH channel's refusal not sent", "err", err)
	}
}

// serveSession waits for the one subsystem request of a channel and runs its handler; every other request is refused. It
// calls leave before it closes the channel: a client that sees the end may open the next session at once.
func (s *Server) serveSession(ctx context.Context, log *slog.Logger, sc *ssh.ServerConn, p *permitted, ch ssh.Channel, reqs <-chan *ssh.Request, leave func()) {
	name, handler := s.awaitSubsystem(ctx, log, p, reqs)
	if handler == nil {
		leave()
		closeChannel(log, ch)
		go ssh.DiscardRequests(reqs) // ends with the channel
		return
	}
	log = log.With("subsystem", name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel() // the client closed the channel: nobody waits for an answer
		refuseRequests(log, sc, reqs)
	})
	began := s.cfg.Now()
	if crashpoint.On {
		defer crashpoint.Around("sshdoor.server." + name)()
	}
	err := runHandler(ctx, log, handler, Session{
		SessionID:   sc.SessionID(),
		HostKeyBlob: s.cfg.HostKey.PublicKey().Marshal(),
		Grant:       p.grant,
		Validator:   p.validator,
		Channel:     halfCloser{ch},
	})
	// What is left is a few bytes and a close; a client that takes none of them must not hold the session.
	late := time.AfterFunc(s.cfg.Handshake, func() { sc.Close() })
	defer late.Stop()
	var status uint32
	if err != nil {
		status = 1
		log.Info("SSH subsystem ended with an error", "err", err, "seconds", s.cfg.Now().Sub(began).Seconds())
		if _, werr := io.WriteString(ch.Stderr(), encodeRefusal(err)); werr != nil {
			log.Debug("SSH refusal not sent", "err", werr)
		}
	} else {
		log.Info("SSH subsystem served", "seconds", s.cfg.Now().Sub(began).Seconds())
	}
	if _, serr := ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status})); serr != nil {
		log.Debug("SSH exit status not sent", "err", serr)
	}
	leave()
	closeChannel(log, ch)
	wg.Wait()
}

// refuseRequests refuses what comes beside a session, and ends the connection of a client that goes on and on: answers that it
// does not read would fill the line and hold up everything else.
func refuseRequests(log *slog.Logger, conn io.Closer, reqs <-chan *ssh.Request) {
	n := 0
	for r := range reqs {
		if n++; n == maxIdleRequests {
			log.Info("SSH connection closed: too many requests", "request", printable(r.Type, 64))
			conn.Close()
		}
		if n >= maxIdleRequests || !r.WantReply {
			continue
		}
		if err := r.Reply(false, nil); err != nil {
			log.Debug("SSH refusal not sent", "err", err)
		}
	}
}

// runHandler keeps a handler's panic from taking the door down.
func runHandler(ctx context.Context, log *slog.Logger, h Handler, s Session) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("SSH subsystem panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = errors.New("panic in a subsystem")
		}
	}()
	return h(ctx, s)
}

func (s *Server) awaitSubsystem(ctx context.Context, log *slog.Logger, p *permitted, reqs <-chan *ssh.Request) (string, Handler) {
	patience := time.NewTimer(s.cfg.Handshake)
	defer patience.Stop()
	for range maxRequests {
		var req *ssh.Request
		select {
		case <-ctx.Done():
			return "", nil
		case <-patience.C:
			log.Info("SSH session without a subsystem closed")
			return "", nil
		case r, open := <-reqs:
			if !open {
				return "", nil
			}
			req = r
		}
		name, ok := subsystemName(req)
		handler := s.cfg.Handlers[name]
		ok = ok && handler != nil && slices.Contains(p.subsystems, name)
		if !ok {
			log.Info("SSH request refused", "request", printable(req.Type, 64), "subsystem", printable(name, 64))
		}
		if req.WantReply {
			if err := req.Reply(ok, nil); err != nil {
				return "", nil
			}
		}
		if ok {
			return name, handler
		}
	}
	return "", nil
}

// subsystemName reads the payload of a subsystem request (RFC 4254 section 6.5).
func subsystemName(req *ssh.Request) (string, bool) {
	if req.Type != "subsystem" || len(req.Payload) > maxSubsystem+4 {
		return "", false
	}
	var p struct{ Name string }
	if err := ssh.Unmarshal(req.Payload, &p); err != nil || p.Name == "" {
		return "", false
	}
	return p.Name, true
}

func closeChannel(log *slog.Logger, ch ssh.Channel) {
	if err := ch.Close(); err != nil && !errors.Is(err, io.EOF) {
		log.Debug("SSH channel not closed", "err", err)
	}
}

// halfCloser ends the handler's own direction, so that the refusal and the exit status can still follow.
type halfCloser struct{ ssh.Channel }

// Close sends end of file.
func (h halfCloser) Close() error { return h.CloseWrite() }
