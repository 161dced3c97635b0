package axon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"basilica"
)

// TestOldTLSIsRefused: the axon speaks TLS 1.3 and nothing older, and its caller takes nothing older from a miner.
func TestOldTLSIsRefused(t *testing.T) {
	m := newMarket(t, nil)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		conn, err := tls.Dial("tcp", m.addr.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version}) //nolint:gosec // an old client
		if err == nil {
			conn.Close()
			t.Errorf("%s was spoken", tls.VersionName(version))
		} else if !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} //nolint:gosec // an old server
	old.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	old.StartTLS()
	defer old.Close()
	c := m.client(func(c *ClientConfig) { c.Addr = old.Listener.Addr().(*net.TCPAddr).AddrPort() })
	if _, err := c.Offer(t.Context()); basilica.CodeOf(err) != "MINER_UNREACHABLE" || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("a miner with TLS 1.2: %v", err)
	}
}

// recorder is a response that has deadlines, as a connection does.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

// FuzzDoor gives the door whole requests that nobody signed: none may reach the miner, none may be a fault of the door.
func FuzzDoor(f *testing.F) {
	m := newMarket(f, nil)
	s, err := NewServer(m.shop, ServerConfig{
		Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Replays: newReplays(f, m.now), RateNetwork: 1e9, RateHotkey: 1e9, Now: m.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"GET /v1/tasks?limit=1 HTTP/1.1\r\nHost: a\r\nX-Bittensor-Version: 1\r\nX-Bittensor-Nonce: 1\r\n\r\n",
		"PUT /v1/blobs/sha256:" + strings.Repeat("ab", 32) + "?size=3&offset=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy",
		"POST /v1/validation/open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"GET /v1/tasks/../../offer HTTP/1.0\r\n\r\n", "DELETE * HTTP/1.1\r\nHost: a\r\n\r\n", "GET /v1/tasks/%2e%2e/events HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		before := m.shop.count()
		w := recorder{httptest.NewRecorder()}
		s.mux.ServeHTTP(w, r.WithContext(context.Background()))
		if w.Code >= 500 || w.Code == 0 {
			t.Fatalf("%q: %d %s", raw, w.Code, w.Body)
		}
		if r.URL.Path != "/v1/offer" && m.shop.count() != before {
			t.Fatalf("%q reached the miner", raw)
		}
	})
}
