package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"basilica"
	"basilica/internal/provoke"
	"basilica/pki"
	"basilica/wire/wirepb"
)

// TestFleetDoorNamesEachRefusal: what a machine meets at its miner's door has a code, a sentence and a next step.
func TestFleetDoorNamesEachRefusal(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	known := func(_ context.Context, id basilica.ExecutorID, _ []byte) error {
		if id == "revoked" {
			return basilica.RevokedError(id, h.now())
		}
		return nil
	}
	s, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: known, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr := start(t, s.Serve)
	for code, c := range map[string]struct {
		cert tls.Certificate
		said string
	}{
		"CERTIFICATE_MISSING": {tls.Certificate{}, ""},
		"CERTIFICATE_FOREIGN": {other.executorCert("box-1", h.now()), ""},
		"CERTIFICATE_EXPIRED": {h.executorCert("box-1", h.now().Add(-pki.ExecutorLife-10*time.Minute)), "ended 600 s ago"},
		"CERTIFICATE_EARLY":   {h.executorCert("early", h.now().Add(10*time.Minute)), "at least 600 s behind"},
		"NOT_AN_EXECUTOR":     {h.minerCert(), ""},
		"EXECUTOR_REVOKED":    {h.executorCert("revoked", h.now()), ""},
	} {
		cl, err := newFleetClient(addr, "box-1", FleetClientConfig{Certificate: shows(c.cert), Now: h.now}, func(tls.ConnectionState) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
		provoke.Refused(t, err, code)
		if !strings.Contains(fmt.Sprint(err), c.said) {
			t.Errorf("%s says %v, want %q", code, err, c.said)
		}
		if _, err = cl.Renew(t.Context(), "box-1", basilica.RenewRequest{}); code != "CERTIFICATE_EARLY" {
			provoke.Refused(t, err, code)
		}
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
	}
	me := h.newSelf("box-1")
	cl, err := DialFleet(addr, FleetClientConfig{Certificate: me.certificate, CAs: h.auth.FleetCAs, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = cl.Heartbeat(t.Context(), "box-2", basilica.Heartbeat{})
	provoke.Refused(t, err, "NOT_YOURSELF")
	for range renewBurst {
		if _, err := cl.Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = cl.Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: me.csr(t)})
	provoke.Refused(t, err, "RENEW_RATE")
	for range reachBurst {
		if _, err := cl.Reach(t.Context(), "box-1"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = cl.Reach(t.Context(), "box-1")
	provoke.Refused(t, err, "REACH_RATE")
	_, err = cl.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{Version: strings.Repeat("x", maxMessage)})
	provoke.Refused(t, err, "MESSAGE_SIZE")
}

// TestExecutorDoorNamesEachRefusal: nobody but this executor's miner comes in, and whoever is refused learns why.
func TestExecutorDoorNamesEachRefusal(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	m := &machine{blobs: map[basilica.Digest][]byte{}}
	addr := h.serveExecutor(m, "box-1")
	ended, err := h.auth.ServerCertificate(h.now().Add(-pki.MinerLife-time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(method jwt.SigningMethod, key any, life time.Duration) func(*ExecutorsConfig) {
		return func(c *ExecutorsConfig) {
			c.MintJWT = func(id basilica.ExecutorID) (string, error) {
				return jwt.NewWithClaims(method, jwt.RegisteredClaims{
					Issuer: pki.JWTIssuer, Audience: jwt.ClaimStrings{string(id)}, IssuedAt: jwt.NewNumericDate(h.now()),
					NotBefore: jwt.NewNumericDate(h.now()), ExpiresAt: jwt.NewNumericDate(h.now().Add(life)),
				}).SignedString(key)
			}
		}
	}
	minted := func(by *house, id string, at time.Duration) func(*ExecutorsConfig) {
		return func(c *ExecutorsConfig) {
			c.MintJWT = func(basilica.ExecutorID) (string, error) { return by.auth.MintJWT(id, h.now().Add(at), time.Minute) }
		}
	}
	as := func(c tls.Certificate) func(*ExecutorsConfig) {
		return func(cfg *ExecutorsConfig) { cfg.Certificate = shows(c) }
	}
	for name, c := range map[string]struct {
		edit func(*ExecutorsConfig)
		code string
		said string
	}{
		"no certificate":                 {as(tls.Certificate{}), "CERTIFICATE_MISSING", ""},
		"another miner":                  {as(other.minerCert()), "CERTIFICATE_FOREIGN", ""},
		"an ended certificate":           {as(ended), "CERTIFICATE_EXPIRED", "ended 3600 s ago"},
		"another executor's certificate": {as(h.executorCert("box-2", h.now())), "NOT_THE_MINER", ""},
		"its own certificate":            {as(h.executorCert("box-1", h.now())), "NOT_THE_MINER", ""},
		"token for another executor":     {minted(h, "box-2", 0), "TOKEN_REFUSED", ""},
		"token of another miner":         {minted(other, "box-1", 0), "TOKEN_REFUSED", ""},
		"token of ten minutes ago":       {minted(h, "box-1", -10*time.Minute), "CLOCK_SKEW", "600 s ahead of the miner's"},
		"token of in ten minutes":        {minted(h, "box-1", 10*time.Minute), "CLOCK_SKEW", "600 s behind the miner's"},
		"token under no key":             {forged(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, time.Minute), "TOKEN_REFUSED", ""},
		"token under the public key":     {forged(jwt.SigningMethodHS256, h.auth.JWTPublicKeys()[0], time.Minute), "TOKEN_REFUSED", ""},
		"no token":                       {func(c *ExecutorsConfig) { c.MintJWT = func(basilica.ExecutorID) (string, error) { return "", nil } }, "TOKEN_REFUSED", ""},
	} {
		_, err := h.pool(c.edit).Executor("box-1", addr).Execute(t.Context(), basilica.ExecuteRequest{Task: "t", Attempt: 1})
		provoke.Refused(t, err, c.code)
		if !strings.Contains(fmt.Sprint(err), c.said) {
			t.Errorf("%s: %v, want %q", name, err, c.said)
		}
	}
	ends := h.pool(nil)
	if err := ends.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = ends.Executor("box-1", addr).Health(t.Context())
	provoke.Refused(t, err, "POOL_CLOSED")
	_, err = h.pool(nil).Executor("box-2", addr).Health(t.Context())
	provoke.Refused(t, err, "EXECUTOR_OTHER")
	_, err = h.pool(func(c *ExecutorsConfig) { c.CAs = other.auth.FleetCAs }).Executor("box-1", addr).Health(t.Context())
	provoke.Refused(t, err, "PEER_FOREIGN")
	if len(m.executed) != 0 {
		t.Error("a refused call was executed")
	}
}

// rawDoor is a fleet door and a connection to it that speaks TLS and nothing yet, unless version is 0; shake is the door's
// patience with it, 0: as it is.
func rawDoor(t *testing.T, version uint16, shake time.Duration) (*house, net.Conn, error) {
	t.Helper()
	h := newHouse(t)
	s, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: anyone, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if shake > 0 {
		s.door.shake = shake
	}
	conn, err := net.Dial("tcp", start(t, s.Serve))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if version == 0 {
		return h, conn, nil
	}
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: version, NextProtos: []string{"h2"}})
	return h, c, c.Handshake()
}

// TestDoorRefusesOldTLS: nothing older than 1.3.
func TestDoorRefusesOldTLS(t *testing.T) {
	if _, _, err := rawDoor(t, tls.VersionTLS12, 0); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	if _, _, err := rawDoor(t, tls.VersionTLS13, 0); err != nil {
		t.Errorf("TLS 1.3: %v", err)
	}
}

// TestDoorEndsHalfOpenConnections: whoever connects and says nothing, before TLS or after it, is let go.
func TestDoorEndsHalfOpenConnections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		version uint16
		shake   time.Duration
	}{
		"silent":           {0, 300 * time.Millisecond},
		"silent after TLS": {tls.VersionTLS13, 3 * time.Second}, // its handshake has to be over by then
	} {
		_, conn, err := rawDoor(t, c.version, c.shake)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err = io.Copy(io.Discard, conn) // until the door closes it
		var slow net.Error
		if errors.As(err, &slow) && slow.Timeout() {
			t.Errorf("%s: still open after %s", name, time.Since(begun))
		}
	}
}

// TestDoorBoundsStreamsAndPings: a connection is told how many calls it may have at once, and one that only pings is ended.
func TestDoorBoundsStreamsAndPings(t *testing.T) {
	_, conn, err := rawDoor(t, tls.VersionTLS13, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := framer.WritePing(false, [8]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	var streams uint32
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended without a word: %v", err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				streams = v
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("ended with %s", f.ErrCode)
			}
			if streams != maxStreams {
				t.Errorf("%d calls at once are allowed, want %d", streams, maxStreams)
			}
			return
		}
	}
}

// TestDoorRefusesOversizeMessages: what a peer with other limits sends is refused before it is read.
func TestDoorRefusesOversizeMessages(t *testing.T) {
	h := newHouse(t)
	m := &machine{blobs: map[basilica.Digest][]byte{}}
	addr := h.serveExecutor(m, "box-1")
	cert := h.minerCert()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(clientTLS(shows(cert), h.now, func(tls.ConnectionState) error { return nil }))),
		grpc.WithPerRPCCredentials(bearer(func() (string, error) { return h.auth.MintJWT("box-1", h.now(), time.Minute) })),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = wirepb.NewExecutorClient(conn).Execute(t.Context(), &wirepb.ExecuteRequest{Attempt: &wirepb.Attempt{Task: "t", Attempt: 1}, Spec: make([]byte, maxMessage+1)})
	provoke.Refused(t, fromStatus(t.Context(), "executor box-1", err), "MESSAGE_SIZE")
	if len(m.executed) != 0 {
		t.Error("an oversize call was executed")
	}
}
