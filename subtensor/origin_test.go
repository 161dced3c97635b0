package subtensor_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"basilica/subtensor"
)

// refusal is what the server says to who may not call it.
type refusal struct {
	Error struct{ Code, Sentence, Fix string }
}

// TestCaseA8_1ReboundNameReachesNoChain: a page whose name was re-pointed to this machine, or any page of another origin, gets
// nothing from the chain's door, over HTTP as over WebSocket; programs and configured names do.
func TestCaseA8_1ReboundNameReachesNoChain(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{Hosts: []string{"chain.example"}})
	port := s.addr[strings.LastIndexByte(s.addr, ':'):]
	const ask = `{"jsonrpc":"2.0","id":1,"method":"system_chain"}`
	request := func(method, host string, header http.Header) (int, string, http.Header) {
		t.Helper()
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader(ask)
		}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.addr+"/", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Host, r.Header = host, header
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		var said refusal
		_ = json.Unmarshal(text, &said) // an answer of the chain is none
		if said.Error.Code != "" && said.Error.Fix == "" {
			t.Errorf("%s: no fix: %s", said.Error.Code, text)
		}
		return res.StatusCode, said.Error.Code, res.Header
	}
	text, err := os.ReadFile("testdata/cases/A8-1-rebind.http")
	if err != nil || !strings.Contains(string(text), "Host: panel.attacker.example:8081") {
		t.Fatal(err)
	}
	from := func(origin string) http.Header {
		return http.Header{"Origin": {origin}, "Content-Type": {"text/plain"}}
	}
	for _, c := range []struct {
		method, host string
		header       http.Header
		status       int
		code         string
	}{
		{http.MethodGet, "panel.attacker.example:8081", nil, 403, "HOST_REFUSED"},
		{http.MethodPost, "panel.attacker.example:8081", nil, 403, "HOST_REFUSED"},
		{http.MethodPost, "panel.attacker.example:8081", from("http://panel.attacker.example:8081"), 403, "HOST_REFUSED"},
		{http.MethodPost, "127.0.0.1" + port, from("http://attacker.example"), 403, "ORIGIN_REFUSED"},
		{http.MethodPost, "127.0.0.1" + port, from("null"), 403, "ORIGIN_REFUSED"},
		{http.MethodPost, "127.0.0.1" + port, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, "ORIGIN_REFUSED"},
		{http.MethodPost, "127.0.0.1" + port, from("http://127.0.0.1" + port), 200, ""},
		{http.MethodPost, "127.0.0.1" + port, nil, 200, ""},
		{http.MethodPost, "localhost" + port, nil, 200, ""},
		{http.MethodPost, "chain.example", nil, 200, ""},
		{http.MethodOptions, "127.0.0.1" + port, from("http://attacker.example"), 403, "ORIGIN_REFUSED"},
	} {
		status, code, header := request(c.method, c.host, c.header)
		if status != c.status || code != c.code {
			t.Errorf("%s for %s, %v: %d %s, want %d %s", c.method, c.host, c.header, status, code, c.status, c.code)
		}
		if allowed := header.Values("Access-Control-Allow-Origin"); len(allowed) > 0 {
			t.Errorf("%s for %s allows %v", c.method, c.host, allowed)
		}
	}
	for name, c := range map[string]struct {
		host   string
		header http.Header
		want   bool
	}{
		"rebound":   {"panel.attacker.example:8081", nil, false},
		"foreign":   {"127.0.0.1" + port, http.Header{"Origin": {"http://attacker.example"}}, false},
		"own":       {"127.0.0.1" + port, http.Header{"Origin": {"http://127.0.0.1" + port}}, true},
		"a program": {"127.0.0.1" + port, nil, true},
		"a name":    {"chain.example", nil, true},
	} {
		ws, res, err := websocket.Dial(t.Context(), "ws://"+s.addr, &websocket.DialOptions{Host: c.host, HTTPHeader: c.header})
		if (err == nil) != c.want || !c.want && (res == nil || res.StatusCode != http.StatusForbidden) {
			t.Errorf("WebSocket, %s: %v", name, err)
		}
		if ws != nil {
			ws.CloseNow()
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestHalfOpenCallersLeaveRoom: callers who send half of a request, of an upgrade or of a frame and then nothing hold their own
// connections and no others'.
func TestHalfOpenCallersLeaveRoom(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{MaxConnections: 40})
	const upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	halves := []string{"", "POST / HT", "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{", upgrade[:60], upgrade, upgrade + "\x81\xfe\x03"}
	for i := range 120 {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}}).Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, halves[i%len(halves)]) // over the cap it is closed already
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+s.addr, nil)
	if err != nil {
		t.Fatalf("another place: %v", err)
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"method":"system_chain"}`)); err != nil {
		t.Fatal(err)
	}
	if _, answer, err := ws.Read(ctx); err != nil || !strings.Contains(string(answer), `"result"`) {
		t.Errorf("another place: %s %v", answer, err)
	}
}
