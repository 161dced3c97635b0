package status

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"basilica/internal/gate"
)

// serve opens a door on an address until the test ends.
func serve(t *testing.T, s *Server, listen string) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr()
}

// ask sends text as a browser would and gives the answer.
func ask(t *testing.T, addr, text string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// TestCaseA8_1ReboundNameReadsNothing: a page whose name was re-pointed to this machine is refused on every path, for GET too,
// whatever address the door listens on; literal addresses and configured names pass, and nothing is said to other origins.
func TestCaseA8_1ReboundNameReadsNothing(t *testing.T) {
	request, err := os.ReadFile("testdata/cases/A8-1-rebind.http")
	if err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		s := door(nil)
		s.Mount("/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") }))
		s.AllowHosts([]string{"panel.example"})
		at := serve(t, s, listen)
		addr := fmt.Sprintf("127.0.0.1:%d", at.(*net.TCPAddr).Port)
		for _, path := range []string{"/api/v1/executors", "/health", "/metrics", "/api/v1/status", "/", "/absent"} {
			res, body := ask(t, addr, strings.Replace(string(request), "/api/v1/executors", path, 1))
			var refused struct{ Error Failure }
			if err := json.Unmarshal([]byte(body), &refused); err != nil || res.StatusCode != http.StatusForbidden || refused.Error.Code != "HOST_REFUSED" || refused.Error.Fix == "" {
				t.Errorf("%s on %s: %d %s", path, listen, res.StatusCode, body)
			}
		}
		for _, host := range []string{addr, "localhost:1", "127.9.9.9", "Panel.Example:443", "[::1]:8081"} {
			res, body := ask(t, addr, "GET /health HTTP/1.1\r\nHost: "+host+"\r\nOrigin: http://panel.attacker.example\r\n\r\n")
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s on %s: %d %s", host, listen, res.StatusCode, body)
			}
			for name := range res.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: %v is said to every origin", name, res.Header[name])
				}
			}
		}
	}
}

// TestOneNetworkLeavesTheDoorOpen: who holds all connections that one place may hold, or asks without end, keeps nobody else out.
func TestOneNetworkLeavesTheDoorOpen(t *testing.T) {
	s, at := door(nil), time.Now()
	s.rates = gate.NewRates(perSecond, 2*perSecond, func() time.Time { return at }) // however long the requests below take
	addr := serve(t, s, "127.0.0.1:0").String()
	for range maxConnections { // silent ones, most of them closed at once
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	loud := from("127.0.0.3")
	defer loud.CloseIdleConnections()
	refused := 0
	for range 4 * perSecond {
		if status(t, loud, addr) == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != 2*perSecond {
		t.Errorf("%d requests of one place were refused, want %d", refused, 2*perSecond)
	}
	honest := from("127.0.0.4")
	defer honest.CloseIdleConnections()
	if got := status(t, honest, addr); got != http.StatusOK {
		t.Errorf("another place: %d", got)
	}
}

func from(ip string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}, Timeout: 10 * time.Second}
}

func status(t *testing.T, c *http.Client, addr string) int {
	t.Helper()
	res, err := c.Get("http://" + addr + "/health")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res.StatusCode
}
