package sshdoor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
)

// short is for what a test waits out, and still leaves a busy machine the time for what comes before; patient is for what ends by
// itself.
const (
	short   = 3 * time.Second
	patient = 20 * time.Second
)

// peer answers connections as a hostile executor would.
type peer struct {
	d          *door // for its keys
	addr       string
	patience   time.Duration // of the visitor
	closeEarly bool          // the visitor closes after one byte
}

// tried is the peer as one meets it who soon gives up.
func (p peer) tried() peer {
	p.patience = short
	return p
}

func newPeer(t *testing.T, serve func(conn net.Conn)) peer {
	t.Helper()
	return newPeerAs(t, &door{host: newSigner(t), ca: newSigner(t), user: newSigner(t), now: time.Unix(1_790_000_000, 0)}, serve)
}

func newPeerAs(t *testing.T, d *door, serve func(conn net.Conn)) peer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return peer{d: d, addr: ln.Addr().String(), patience: patient}
}

// newSSHPeer gets through the handshake and hands over what comes then.
func newSSHPeer(t *testing.T, change func(*ssh.ServerConfig), serve func(conn *frozen, sc *ssh.ServerConn, channels <-chan ssh.NewChannel)) peer {
	t.Helper()
	cfg := &ssh.ServerConfig{
		Config:            modern(),
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil },
	}
	if change != nil {
		change(cfg)
	}
	d := &door{host: newSigner(t), ca: newSigner(t), user: newSigner(t), now: time.Unix(1_790_000_000, 0)}
	cfg.AddHostKey(d.host)
	return newPeerAs(t, d, func(raw net.Conn) {
		conn := &frozen{Conn: raw}
		sc, channels, requests, err := ssh.NewServerConn(conn, cfg)
		if err != nil {
			return
		}
		defer sc.Close()
		go ssh.DiscardRequests(requests)
		serve(conn, sc, channels)
	})
}

// frozen is a connection whose end can stop to answer what comes, and still holds it.
type frozen struct {
	net.Conn
	over atomic.Bool
}

func (f *frozen) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if err == nil && f.over.Load() {
		untilGone(f.Conn)
		return 0, io.EOF
	}
	return n, err
}

func (f *frozen) freeze() { f.over.Store(true) }

func (p peer) dial(t *testing.T) (*Client, error) {
	t.Helper()
	return Dial(t.Context(), p.addr, DialConfig{HostKey: p.d.host.PublicKey().Marshal(), Signer: p.d.user, Certificate: p.d.cert(t, nil), AllowPrivate: true, Handshake: p.patience})
}

// untilGone waits until the other end has hung up.
func untilGone(conn io.Reader) { _, _ = io.Copy(io.Discard, conn) }

func accept(channels <-chan ssh.NewChannel) (ssh.Channel, <-chan *ssh.Request) {
	nc, open := <-channels
	if !open {
		return nil, nil
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil, nil
	}
	return ch, reqs
}

// serving accepts one channel and its subsystem.
func serving(channels <-chan ssh.NewChannel) ssh.Channel {
	ch, reqs := accept(channels)
	if ch == nil {
		return nil
	}
	r, open := <-reqs
	if !open || r.Reply(true, nil) != nil {
		return nil
	}
	go ssh.DiscardRequests(reqs)
	return ch
}

// TestCaseA5_3SilentPeersNameThePhase: whatever an executor's port does in place of speaking, in whatever phase, the caller is
// free within the deadlines of that phase, and the reason says which it was.
func TestCaseA5_3SilentPeersNameThePhase(t *testing.T) {
	t.Parallel()
	banner, err := os.ReadFile("testdata/cases/A5-3-preversion-banner.txt")
	if err != nil || bytes.Count(banner, []byte("\n")) < 1200 {
		t.Fatal(len(banner), err)
	}
	drip := func(conn net.Conn) {
		tick := time.NewTicker(short / 20)
		defer tick.Stop()
		for range tick.C {
			if _, err := conn.Write(banner[:bytes.IndexByte(banner, '\n')+1]); err != nil {
				return
			}
		}
	}
	discard := func(channels <-chan ssh.NewChannel) {
		for range channels { //nolint:revive // nothing is ever answered
		}
	}
	var wg sync.WaitGroup
	for name, c := range map[string]struct {
		peer       peer
		code, says string
	}{
		"lines for ever":     {newPeer(t, drip).tried(), "SSH_HANDSHAKE", "version line"},
		"silence":            {newPeer(t, func(c net.Conn) { untilGone(c) }).tried(), "SSH_HANDSHAKE", "did not end its version line"},
		"1,200 banner lines": {newPeer(t, func(c net.Conn) { c.Write(banner); untilGone(c) }), "SSH_HANDSHAKE", "version line"},
		"no key exchange":    {newPeer(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); untilGone(c) }).tried(), "SSH_HANDSHAKE", "did not end its key exchange"},
		"no authentication": {newSSHPeer(t, func(s *ssh.ServerConfig) {
			s.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				<-t.Context().Done()
				return nil, t.Context().Err()
			}
		}, nil).tried(), "SSH_HANDSHAKE", "did not end its authentication"},
		"channel never confirmed": {newSSHPeer(t, nil, func(_ *frozen, _ *ssh.ServerConn, channels <-chan ssh.NewChannel) { discard(channels) }).tried(), "SSH_SILENT", "confirm a channel"},
		"request never answered": {newSSHPeer(t, nil, func(_ *frozen, sc *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			accept(channels)
			_ = sc.Wait()
		}).tried(), "SSH_SILENT", "answer a request"},
		"close never answered": {newSSHPeer(t, nil, func(conn *frozen, sc *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			if ch := serving(channels); ch != nil {
				conn.freeze()
				_, _ = ch.Write([]byte("x"))
				_ = sc.Wait()
			}
		}), "", ""},
		"end without a close": {newSSHPeer(t, nil, func(_ *frozen, sc *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			if ch := serving(channels); ch != nil {
				_, _ = ch.Write([]byte("x"))
				_ = ch.CloseWrite()
				_ = sc.Wait()
			}
		}).tried(), "end", ""},
		"10,000 requests": {newSSHPeer(t, nil, func(conn *frozen, sc *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			if ch := serving(channels); ch != nil {
				conn.freeze()
				for range 10_000 {
					if _, err := ch.SendRequest("noise", false, make([]byte, 64)); err != nil {
						return
					}
				}
				_ = sc.Wait()
			}
		}), "SSH_FLOOD", "requests without end"},
		"endless stderr": {newSSHPeer(t, nil, func(_ *frozen, _ *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			if ch := serving(channels); ch != nil {
				for {
					if _, err := ch.Stderr().Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			}
		}), "SSH_FLOOD", "error text without end"},
	} {
		wg.Go(func() { // each waits, however few tests may run at once
			t.Run(name, func(t *testing.T) {
				c.peer.closeEarly = name == "close never answered"
				began := time.Now()
				err := visitOnce(t, c.peer)
				switch {
				case c.code == "end" && !errors.Is(err, io.ErrUnexpectedEOF), c.code == "" && err != nil:
					t.Errorf("%v", err)
				case c.code != "" && c.code != "end" && (basilica.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || basilica.FixOf(err) == ""):
					t.Errorf("%v, want %s and %q", err, c.code, c.says)
				}
				// Phases follow one another; none may take longer than its own deadline and what a busy machine adds. Where nothing is
				// waited out, no deadline may be what ends it.
				most := 10 * short
				if c.peer.patience == patient {
					most = patient
				}
				if took := time.Since(began); took > most {
					t.Errorf("the slot was free after %s, not within %s", took, most)
				}
			})
		})
	}
	wg.Wait()
}

// TestSlotIsFreeSoon: what a peer may hold is bounded where nobody set a patience.
func TestSlotIsFreeSoon(t *testing.T) {
	var d DialConfig
	d.defaults()
	if most := d.Connect + d.Handshake; most > 15*time.Second {
		t.Errorf("a peer may hold a slot for %s", most)
	}
}

// visitOnce dials, opens a subsystem, reads a byte and what comes after it, and closes.
func visitOnce(t *testing.T, p peer) error {
	c, err := p.dial(t)
	if err != nil {
		return err
	}
	defer c.Close()
	ch, err := c.Subsystem(t.Context(), "attest")
	if err != nil {
		return err
	}
	defer ch.Close()
	if _, err := ch.Read(make([]byte, 1)); err != nil {
		return err
	}
	if p.closeEarly {
		return nil
	}
	_, err = io.ReadAll(ch)
	return err
}

// TestCaseA5_3BannerIsNoResult: what an executor says before it has shown who it is moves nothing and reaches no terminal.
func TestCaseA5_3BannerIsNoResult(t *testing.T) {
	text, err := os.ReadFile("testdata/cases/A5-3-auth-banner.bin")
	if err != nil || !bytes.Contains(text, []byte("\x1b]0;owned")) {
		t.Fatal(err)
	}
	says := func(refuse bool, banner string) error {
		p := newSSHPeer(t, func(s *ssh.ServerConfig) {
			s.BannerCallback = func(ssh.ConnMetadata) string { return banner }
			if refuse {
				s.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, errors.New("no") }
			}
		}, func(_ *frozen, _ *ssh.ServerConn, channels <-chan ssh.NewChannel) {
			if ch := serving(channels); ch != nil {
				_, _ = ch.Write([]byte("x"))
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
				ch.Close()
				untilGone(ch)
			}
		})
		return visitOnce(t, p)
	}
	if err := says(false, string(text)); err != nil {
		t.Errorf("an honest session behind a banner: %v", err)
	}
	held := encodeRefusal(basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-1"}))
	for _, banner := range []string{string(text), held, `{"kind":"unavailable","code":"LOCAL"}`, `{"kind":"internal","code":"SSH_X"}`, strings.Repeat("x", 1<<16)} {
		err := says(true, banner)
		if basilica.CodeOf(err) != "SSH_REFUSED" || strings.ContainsAny(err.Error(), "\x1b\r") || strings.Contains(err.Error(), "pass") {
			t.Errorf("after banner %.40q: %v", banner, err)
		}
	}
	escaped := encodeRefusal(denied("SSH_REVOKED", "the grant \x1b[2Jwas revoked", "ask"))
	if err := says(true, escaped); basilica.CodeOf(err) != "SSH_REVOKED" || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a refusal: %v", err)
	}
}

// public offers a certificate whose key it does not hold, or does not use.
type public struct{ cert *ssh.Certificate }

func (p public) PublicKey() ssh.PublicKey { return p.cert }

func (p public) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errors.New("not held") }

// TestCaseA5_5RightsOfTheProvenCertificate: a client may offer certificates whose keys it does not hold; it gets the rights of
// the one that it signed with, and the audit names that one, whatever was offered before and on other connections.
func TestCaseA5_5RightsOfTheProvenCertificate(t *testing.T) {
	var lines syncBuffer
	d := newDoor(t, func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(&lines, nil))
		c.Handlers["task:T9"] = func(_ context.Context, s Session) error {
			_, err := s.Channel.Write([]byte(s.Grant))
			return err
		}
	})
	parse := func(grant, subsystem string, key ssh.Signer) *ssh.Certificate {
		blob := d.cert(t, func(c *ssh.Certificate) {
			c.Key, c.KeyId = key.PublicKey(), grant
			c.Extensions = map[string]string{ExtensionSubsystems: subsystem, ExtensionValidator: "5Validator"}
		})
		k, err := ssh.ParsePublicKey(blob)
		if err != nil {
			t.Fatal(err)
		}
		return k.(*ssh.Certificate)
	}
	other := newSigner(t)
	g1, g2 := parse("g1", "who", d.user), parse("g2", "task:T9", other)
	held := func(cert *ssh.Certificate, key ssh.Signer) ssh.Signer {
		s, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// Both orders in which a client can ask about the certificate that it does not hold.
	for name, offered := range map[string][]ssh.Signer{
		"g2, then g1":          {public{g2}, held(g1, d.user)},
		"g1, g2, then g1 used": {public{g1}, public{g2}, held(g1, d.user)},
	} {
		conn, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
			Config: modern(), User: box, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()),
			AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
				if len(offered) == 0 {
					return nil, errors.New("nothing left")
				}
				next := offered[0]
				offered = offered[1:]
				return ssh.PublicKeys(next), nil
			},
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Meanwhile the other certificate's holder has a connection of its own: nothing of it may leak here.
		second, err := Dial(t.Context(), d.addr, DialConfig{HostKey: d.host.PublicKey().Marshal(), Signer: other, Certificate: g2.Marshal(), AllowPrivate: true})
		if err != nil {
			t.Fatal(err)
		}
		if who, err := readAll(t, second, "task:T9"); err != nil || who != "g2" {
			t.Errorf("%s: the holder of g2 is %q, %v", name, who, err)
		}
		for subsystem, want := range map[string]bool{"task:T9": false, "who": true} {
			s, err := conn.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.RequestSubsystem(subsystem); (err == nil) != want {
				t.Errorf("%s: %s: %v", name, subsystem, err)
			}
			s.Close()
		}
		if _, err := readAll(t, second, "who"); basilica.CodeOf(err) != "SSH_SUBSYSTEM" {
			t.Errorf("%s: the holder of g2 got who: %v", name, err)
		}
		second.Close()
		conn.Close()
	}
	audited := 0
	for _, line := range strings.Split(lines.String(), "\n") {
		var l struct{ Msg, Grant, Subsystem string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "SSH request refused" && l.Subsystem == "task:T9" {
			audited++
			if l.Grant != "g1" {
				t.Errorf("the audit names %q: %s", l.Grant, line)
			}
		}
	}
	if audited != 2 {
		t.Errorf("%d refusals are in the audit:\n%s", audited, lines.String())
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func readAll(t *testing.T, c *Client, subsystem string) (string, error) {
	t.Helper()
	ch, err := c.Subsystem(t.Context(), subsystem)
	if err != nil {
		return "", err
	}
	defer ch.Close()
	text, err := io.ReadAll(ch)
	return string(text), err
}

// TestStrangersHaveSlotsOfTheirOwn: whatever strangers hold in whatever phase of a handshake, who is known already goes on, and
// each of them is sent away in time.
func TestStrangersHaveSlotsOfTheirOwn(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(c *Config) { c.MaxHandshakes, c.MaxConns, c.MaxConnsPerAddr, c.Handshake = 6, 2, 6, short })
	known := d.mustDial(t, nil)
	ch, err := known.Subsystem(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	defer close(release)
	phases := map[string]func(net.Conn){
		"silent":       func(net.Conn) {},
		"half a line":  func(c net.Conn) { io.WriteString(c, "SSH-2.0-") },
		"version only": func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n") },
		"half a frame": func(c net.Conn) { c.Write([]byte("SSH-2.0-x\r\n\x00\x00\x04\x00\x06\x14")) },
		"huge frame":   func(c net.Conn) { c.Write([]byte("SSH-2.0-x\r\n\xff\xff\xff\xff\x06\x14")) },
		"no signature": func(c net.Conn) {
			go ssh.NewClientConn(c, d.addr, &ssh.ClientConfig{Config: modern(), User: box, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()), Auth: []ssh.AuthMethod{
				ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { <-release; return nil, errors.New("over") }),
			}})
		},
	}
	conns := map[string]net.Conn{}
	for name, say := range phases {
		conn, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		say(conn)
		conns[name] = conn
	}
	if _, err := ch.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(ch, got); err != nil || string(got) != "still here" {
		t.Errorf("whoever was known before: %q, %v", got, err)
	}
	for name, conn := range conns {
		if name == "no signature" {
			continue // its client reads
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * short)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the stranger was kept", name)
		}
	}
	// Their slots are free again, and there is one more for who can show a certificate.
	deadline := time.Now().Add(10 * time.Second)
	for {
		next, err := d.dial(t, nil)
		if err == nil {
			next.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestNothingOldIsSpoken: neither end takes a key exchange, cipher, MAC, host key or way to log in that is out of date.
func TestNothingOldIsSpoken(t *testing.T) {
	d := newDoor(t, nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ssh.NewSignerFromKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := ssh.NewSignerFromKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	good, err := ssh.NewCertSigner(mustCert(t, d.cert(t, nil)), d.user)
	if err != nil {
		t.Fatal(err)
	}
	sha1, err := ssh.NewSignerWithAlgorithms(old.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	insecure := ssh.InsecureAlgorithms()
	for name, change := range map[string]func(*ssh.ClientConfig){
		"old key exchanges": func(c *ssh.ClientConfig) { c.KeyExchanges = insecure.KeyExchanges },
		"plain group exchange": func(c *ssh.ClientConfig) {
			c.KeyExchanges = []string{ssh.KeyExchangeDH14SHA256, ssh.KeyExchangeDHGEXSHA256}
		},
		"NIST key exchange": func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeECDHP256} },
		"old ciphers":       func(c *ssh.ClientConfig) { c.Ciphers = insecure.Ciphers },
		"CTR ciphers":       func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.CipherAES256CTR} },
		"ssh-rsa host key":  func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{ssh.KeyAlgoRSA} },
		"ssh-dss host key":  func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{"ssh-dss"} },
		"password":          func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.Password("x")} },
		"questions": func(c *ssh.ClientConfig) {
			c.Auth = []ssh.AuthMethod{ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })}
		},
		"plain key":        func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.PublicKeys(d.user)} },
		"nothing":          func(c *ssh.ClientConfig) { c.Auth = nil },
		"RSA user key":     func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.PublicKeys(old)} },
		"RSA with SHA-1":   func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.PublicKeys(sha1)} },
		"P-384 user key":   func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.PublicKeys(wide)} },
		"RSA certificate":  func(c *ssh.ClientConfig) { c.Auth = []ssh.AuthMethod{ssh.PublicKeys(certOf(t, d, old))} },
		"other host's key": func(c *ssh.ClientConfig) { c.HostKeyCallback = ssh.FixedHostKey(old.PublicKey()) },
	} {
		cfg := &ssh.ClientConfig{User: box, Auth: []ssh.AuthMethod{ssh.PublicKeys(good)}, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey())}
		change(cfg)
		if conn, err := ssh.Dial("tcp", d.addr, cfg); err == nil {
			conn.Close()
			t.Errorf("%s: the server speaks it", name)
		}
	}
	// A stock client of today passes, so that what was refused above was refused for being old.
	conn, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{User: box, Auth: []ssh.AuthMethod{ssh.PublicKeys(good)}, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey())})
	if err != nil {
		t.Fatalf("a stock client: %v", err)
	}
	conn.Close()
	for name, change := range map[string]func(*ssh.ServerConfig){
		"old key exchanges": func(c *ssh.ServerConfig) { c.KeyExchanges = insecure.KeyExchanges },
		"old ciphers":       func(c *ssh.ServerConfig) { c.Ciphers = insecure.Ciphers },
		"CTR ciphers":       func(c *ssh.ServerConfig) { c.Ciphers = []string{ssh.CipherAES128CTR} },
	} {
		if _, err := newSSHPeer(t, change, nil).dial(t); basilica.CodeOf(err) != "SSH_HANDSHAKE" || !strings.Contains(err.Error(), "no common algorithm") {
			t.Errorf("%s: the client: %v", name, err)
		}
	}
}

func mustCert(t *testing.T, blob []byte) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func certOf(t *testing.T, d *door, key ssh.Signer) ssh.Signer {
	t.Helper()
	s, err := ssh.NewCertSigner(mustCert(t, d.cert(t, func(c *ssh.Certificate) { c.Key = key.PublicKey() })), key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
