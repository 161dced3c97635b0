package status

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"basilica"
	"basilica/internal/provoke"
)

func door(health error) *Server {
	return New("tester", "1.2.3", func(context.Context) error { return health }, func(context.Context) (any, error) { return map[string]int{"tasks": 3}, nil })
}

func get(t *testing.T, h http.Handler, path, host string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://"+host+path, nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestAnswers(t *testing.T) {
	sick := basilica.E(basilica.Unavailable, "CHAIN_AWAY", "the chain does not answer", "look at its log")
	for _, c := range []struct {
		name, path string
		health     error
		code       int
		want       []string
	}{
		{"healthy", "/health", nil, 200, []string{`"status":"ok"`, `"role":"tester"`, `"version":"1.2.3"`}},
		{"sick", "/health", sick, 503, []string{`"code":"CHAIN_AWAY"`, `"fix":"look at its log"`}},
		{"sick for a secret reason", "/health", errors.New("password hunter2"), 503, []string{`"code":"INTERNAL"`}},
		{"status", "/api/v1/status", nil, 200, []string{`"status":{"tasks":3}`}},
		{"metrics", "/metrics", nil, 200, []string{"basilica_build_info{", "go_goroutines", "process_open_fds", `role="tester"`}},
		{"unknown", "/etc/passwd", nil, 404, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := get(t, door(c.health).Handler(), c.path, "127.0.0.1")
			if code != c.code {
				t.Fatalf("status %d, want %d: %s", code, c.code, body)
			}
			for _, w := range c.want {
				if !strings.Contains(body, w) {
					t.Errorf("%q is not in %s", w, body)
				}
			}
			if strings.Contains(body, "hunter2") {
				t.Error("the cause of an internal error is shown")
			}
		})
	}
}

func TestOnlyReads(t *testing.T) {
	w := httptest.NewRecorder()
	door(nil).Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost/health", strings.NewReader("{}")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Fatalf("POST gave %d", w.Code)
	}
}

func TestServeUntilTheContextEnds(t *testing.T) {
	defer func() {
		if err := provoke.Leaks(); err != nil {
			t.Error(err)
		}
	}()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := door(nil)
	requests := prometheus.NewCounter(prometheus.CounterOpts{Name: "basilica_tester_requests_total", Help: "Requests."})
	s.Registry().MustRegister(requests)
	s.Mount("/extra/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { requests.Inc(); w.WriteHeader(http.StatusTeapot) }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ln.Addr().String() + "/extra/x")
	if err != nil || resp.StatusCode != http.StatusTeapot {
		t.Fatalf("mounted door: %v %v", resp, err)
	}
	resp.Body.Close()
	resp, err = client.Get("http://" + ln.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !strings.Contains(string(body), "basilica_tester_requests_total 1") {
		t.Error("the role's own metric is missing")
	}
	req, _ := http.NewRequest(http.MethodGet, "http://"+ln.Addr().String()+"/health", nil)
	req.Host = "rebound.example"
	if resp, err = client.Do(req); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("rebound name: %v %v", resp, err)
	}
	var refused struct{ Error Failure }
	if err := json.NewDecoder(resp.Body).Decode(&refused); err != nil || refused.Error.Code != "HOST_REFUSED" {
		t.Errorf("refusal: %+v %v", refused, err)
	}
	resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
