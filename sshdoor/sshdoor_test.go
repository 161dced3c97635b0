package sshdoor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/internal/provoke"
)

func TestMain(m *testing.M) { provoke.NoLeaks(m) }

const box = "exec-1"

// door is a running server with everything a test needs to meet it.
type door struct {
	addr    string
	server  *Server
	host    ssh.Signer
	ca      ssh.Signer
	user    ssh.Signer
	now     time.Time
	revoked atomic.Bool
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newDoor(t testing.TB, change func(*Config)) *door {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{host: host, ca: newSigner(t), user: newSigner(t), now: time.Unix(1_790_000_000, 0)}
	cfg := Config{
		HostKey: host, CAs: func() [][]byte { return [][]byte{d.ca.PublicKey().Marshal()} }, Principal: box,
		Revoked: func(basilica.GrantID) bool { return d.revoked.Load() },
		Now:     func() time.Time { return d.now },
		Log:     slog.New(slog.DiscardHandler),
		Handlers: map[string]Handler{
			"echo": func(_ context.Context, s Session) error {
				_, err := io.Copy(s.Channel, s.Channel)
				return err
			},
			"who": func(_ context.Context, s Session) error {
				_, err := s.Channel.Write([]byte(string(s.Grant) + " " + string(s.Validator) + " " + string(s.SessionID) + string(s.HostKeyBlob)))
				return err
			},
			"busy": func(context.Context, Session) error {
				return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-7", Fence: 3, Expires: d.now})
			},
			"broken": func(context.Context, Session) error { return errors.New("secret inside") },
			"panics": func(context.Context, Session) error { panic("oops") },
			"hangs":  func(ctx context.Context, _ Session) error { <-ctx.Done(); return ctx.Err() },
		},
	}
	if change != nil {
		change(&cfg)
	}
	d.server, err = NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return d
}

func (d *door) cert(t testing.TB, change func(*ssh.Certificate)) []byte {
	t.Helper()
	c := &ssh.Certificate{
		Key: d.user.PublicKey(), CertType: ssh.UserCert, KeyId: "grant-1", ValidPrincipals: []string{box},
		ValidAfter: uint64(d.now.Add(-time.Minute).Unix()), ValidBefore: uint64(d.now.Add(10 * time.Minute).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			ExtensionSubsystems: "echo,who,busy,broken,panics,hangs,missing", ExtensionValidator: "5Validator",
		}},
	}
	ca := d.ca
	if change != nil {
		change(c)
	}
	if c.SignatureKey != nil {
		ca = newSigner(t)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return c.Marshal()
}

func (d *door) dial(t testing.TB, change func(*ssh.Certificate)) (*Client, error) {
	t.Helper()
	return Dial(t.Context(), d.addr, DialConfig{HostKey: d.host.PublicKey().Marshal(), Signer: d.user, Certificate: d.cert(t, change), AllowPrivate: true})
}

func (d *door) mustDial(t testing.TB, change func(*ssh.Certificate)) *Client {
	t.Helper()
	c, err := d.dial(t, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSubsystemEchoesAndBindsTheSession(t *testing.T) {
	d := newDoor(t, nil)
	c := d.mustDial(t, nil)
	ch, err := c.Subsystem(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	msg := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() {
		ch.Write(msg)
		ch.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(ch)
	if err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("echo gave %d bytes, %v", len(got), err)
	}
	ch.Close()
	who, err := c.Subsystem(t.Context(), "who")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(who)
	want := "grant-1 5Validator " + string(c.SessionID()) + string(c.HostKeyBlob())
	if err != nil || string(text) != want {
		t.Fatalf("session is %q, want %q (%v)", text, want, err)
	}
}

func TestSessionsOneAfterAnother(t *testing.T) {
	d := newDoor(t, nil)
	c := d.mustDial(t, nil)
	for range maxChannels {
		ch, err := c.Subsystem(t.Context(), "who")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(ch); err != nil {
			t.Fatal(err)
		}
		ch.Close()
	}
	if _, err := c.Subsystem(t.Context(), "who"); err == nil {
		t.Error("a connection had more sessions than its share")
	}
}

func TestClosedSessionMakesWayForTheNext(t *testing.T) {
	d := newDoor(t, nil)
	c := d.mustDial(t, nil)
	for range 3 {
		ch, err := c.Subsystem(t.Context(), "hangs")
		if err != nil {
			t.Fatal(err)
		}
		ch.Close()
	}
}

func TestHandlerErrorsCross(t *testing.T) {
	d := newDoor(t, nil)
	for name, code := range map[string]string{"busy": "BUSY", "broken": "INTERNAL", "panics": "INTERNAL", "missing": "SSH_SUBSYSTEM", "other": "SSH_SUBSYSTEM"} {
		c := d.mustDial(t, nil)
		ch, err := c.Subsystem(t.Context(), name)
		if err == nil {
			_, err = io.ReadAll(ch)
		}
		if basilica.CodeOf(err) != code {
			t.Errorf("%s: %v, want code %s", name, err, code)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: an inner error crossed the door: %v", name, err)
		}
		var held *basilica.Held
		if errors.As(err, &held) != (name == "busy") || name == "busy" && held.Holding.Holder != "task-7" {
			t.Errorf("%s: holder is %+v", name, held)
		}
		c.Close()
	}
}

// TestPanicIsTold: whoever looks for the fault finds its place in the log.
func TestPanicIsTold(t *testing.T) {
	var lines bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&lines, nil))
	err := runHandler(t.Context(), log, func(context.Context, Session) error { panic("oops") }, Session{})
	if err == nil || !strings.Contains(lines.String(), "oops") || !strings.Contains(lines.String(), "TestPanicIsTold") {
		t.Errorf("%v, log %s", err, lines.String())
	}
}

func TestCertificatesRefused(t *testing.T) {
	d := newDoor(t, nil)
	for name, c := range map[string]struct {
		change func(*ssh.Certificate)
		code   string
	}{
		"other authority":      {func(c *ssh.Certificate) { c.SignatureKey = d.ca.PublicKey() }, "SSH_CERTIFICATE_AUTHORITY"},
		"host certificate":     {func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, "SSH_CERTIFICATE_AUTHORITY"},
		"other principal":      {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"exec-2"} }, "SSH_PRINCIPAL"},
		"expired":              {func(c *ssh.Certificate) { c.ValidBefore = uint64(d.now.Unix()) }, "SSH_EXPIRED"},
		"not yet":              {func(c *ssh.Certificate) { c.ValidAfter = uint64(d.now.Add(time.Second).Unix()) }, "SSH_CLOCK"},
		"for ever":             {func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }, "SSH_CERTIFICATE_LIFE"},
		"too long":             {func(c *ssh.Certificate) { c.ValidBefore = uint64(d.now.Add(time.Hour).Unix()) }, "SSH_CERTIFICATE_LIFE"},
		"no grant":             {func(c *ssh.Certificate) { c.KeyId = "" }, "SSH_CERTIFICATE"},
		"unknown option":       {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "x"} }, "SSH_CERTIFICATE"},
		"other source address": {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "8.8.8.8/32"} }, "SSH_REFUSED"},
	} {
		client, err := d.dial(t, c.change)
		if basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want code %s", name, err, c.code)
		}
		if client != nil {
			client.Close()
		}
	}
	for name, change := range map[string]func(*ssh.Certificate){
		"first second":       func(c *ssh.Certificate) { c.ValidAfter = uint64(d.now.Unix()) },
		"last seconds":       func(c *ssh.Certificate) { c.ValidBefore = uint64(d.now.Add(5 * time.Second).Unix()) },
		"own source address": func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "127.0.0.0/8"} },
	} {
		client, err := d.dial(t, change)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		client.Close()
	}
}

func TestRequestsAndChannelsRefused(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(c *Config) { c.Handshake = 5 * time.Second }) // which a second session waits out
	c := d.mustDial(t, nil)
	for _, kind := range []string{"direct-tcpip", "x11", "auth-agent@openssh.com", "tun@openssh.com"} {
		ch, _, err := c.conn.OpenChannel(kind, nil)
		if err == nil {
			ch.Close()
			t.Errorf("channel %s was opened", kind)
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
		if ok, _, err := c.conn.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("global request %s: %v %v", kind, ok, err)
		}
	}
	ch, reqs, err := c.conn.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for _, kind := range []string{"shell", "exec", "pty-req", "env", "x11-req", "auth-agent-req@openssh.com"} {
		if ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"id"})); ok || err != nil {
			t.Errorf("request %s: %v %v", kind, ok, err)
		}
	}
	ch.Close()
	if _, err := c.Subsystem(t.Context(), "hangs"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.conn.OpenChannel("session", nil); err == nil {
		t.Error("a second session at once was opened")
	}
}

func TestRevokedGrantIsCut(t *testing.T) {
	d := newDoor(t, nil)
	c := d.mustDial(t, nil)
	ch, err := c.Subsystem(t.Context(), "hangs")
	if err != nil {
		t.Fatal(err)
	}
	d.revoked.Store(true)
	d.server.CloseRevoked()
	if _, err := ch.Read(make([]byte, 1)); err == nil {
		t.Error("the revoked session still speaks")
	}
	if _, err := d.dial(t, nil); basilica.CodeOf(err) != "SSH_REVOKED" {
		t.Errorf("revoked grant: %v", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(c *Config) {
		c.MaxBytes, c.MaxConnsPerGrant, c.Version, c.Handshake = 64<<10, 1, time.Minute, short
	})
	c := d.mustDial(t, nil)
	ch, err := c.Subsystem(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.dial(t, nil)
	if err == nil {
		if _, err := second.Subsystem(t.Context(), "echo"); err == nil {
			t.Error("a grant's second connection was served")
		}
		second.Close()
	}
	go func() {
		for range 64 {
			if _, err := ch.Write(make([]byte, 8<<10)); err != nil {
				return
			}
		}
	}()
	if _, err := io.Copy(io.Discard, ch); err == nil {
		t.Error("a connection over its bytes ended cleanly")
	}
	// A stranger that says nothing is sent away by the handshake's deadline.
	raw, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetReadDeadline(time.Now().Add(10 * short)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a silent stranger was kept")
	}
}

func TestClientRefusals(t *testing.T) {
	d := newDoor(t, nil)
	cfg := DialConfig{HostKey: d.host.PublicKey().Marshal(), Signer: d.user, Certificate: d.cert(t, nil)}
	if _, err := Dial(t.Context(), d.addr, cfg); basilica.CodeOf(err) != "ADDRESS_NOT_PUBLIC" {
		t.Errorf("loopback dialled: %v", err)
	}
	if _, err := Dial(t.Context(), "localhost:22", cfg); basilica.CodeOf(err) != "ADDRESS_NOT_PUBLIC" {
		t.Errorf("a name of loopback dialled: %v", err)
	}
	cfg.AllowPrivate = true
	cfg.HostKey = newSigner(t).PublicKey().Marshal()
	if _, err := Dial(t.Context(), d.addr, cfg); err == nil {
		t.Error("another host key was taken")
	}
	cfg.HostKey = []byte("no key")
	if _, err := Dial(t.Context(), d.addr, cfg); basilica.CodeOf(err) != "SSH_HOST_KEY" {
		t.Errorf("broken host key: %v", err)
	}
	for _, addr := range []string{"", "x", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999"} {
		if _, err := Dial(t.Context(), addr, DialConfig{HostKey: d.host.PublicKey().Marshal(), Signer: d.user, Certificate: d.cert(t, nil), AllowPrivate: true}); basilica.CodeOf(err) != "SSH_ADDRESS" {
			t.Errorf("address %q: %v", addr, err)
		}
	}
}

func FuzzCertificate(f *testing.F) {
	d := newDoor(f, nil)
	good := d.cert(f, nil)
	f.Add(good)
	f.Add(d.user.PublicKey().Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, blob []byte) {
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			return
		}
		if _, err := d.server.checkCertificate(box, key); err == nil && !bytes.Equal(key.Marshal(), good) {
			t.Errorf("a certificate that the authority did not sign was taken: %x", blob)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add([]byte(encodeRefusal(basilica.NewHeld(basilica.Holding{Holder: "task-1"}))))
	f.Add([]byte(`{"code":"X","kind":"denied"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := decodeRefusal(text); err != nil && strings.ContainsAny(err.Error(), "\x1b\x00\n") {
			t.Errorf("control characters crossed: %q", err)
		}
	})
}

// FuzzStranger gives the door arbitrary bytes instead of a handshake.
func FuzzStranger(f *testing.F) {
	d := newDoor(f, func(c *Config) { c.Handshake = 50 * time.Millisecond })
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Skip(err)
		}
		defer conn.Close()
		conn.Write(b)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	})
}

func TestSourcesShareAnIPv6Network(t *testing.T) {
	at := func(a string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a)) }
	if sourceOf(at("[2001:db8::1]:5")) != sourceOf(at("[2001:db8::ffff:2]:6")) {
		t.Error("one customer of IPv6 counts as many sources")
	}
	if sourceOf(at("192.0.2.1:5")) == sourceOf(at("192.0.2.2:5")) || sourceOf(at("192.0.2.1:5")) != sourceOf(at("[::ffff:192.0.2.1]:5")) {
		t.Error("IPv4 addresses are told apart wrongly")
	}
}
