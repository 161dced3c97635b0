// Package status is the HTTP door through which a role says how it is: /health, /metrics and /api/v1/status. It knows
// what every role has in common and nothing of what a role does.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"basilica"
)

// Caps of the door.
const (
	maxConnections  = 128
	maxHeaderBytes  = 16 << 10
	maxBodyBytes    = 64 << 10
	headerTimeout   = 5 * time.Second
	readTimeout     = 10 * time.Second
	writeTimeout    = 30 * time.Second
	idleTimeout     = time.Minute
	answerTimeout   = 5 * time.Second // of the health and status functions
	shutdownTimeout = 3 * time.Second
)

// Server answers for one role. It holds the role's metrics.
type Server struct {
	role     string
	version  string
	health   func(context.Context) error
	status   func(context.Context) (any, error)
	registry *prometheus.Registry
	mux      *http.ServeMux
}

// New makes a door for a role. health gives nil where the role can do its work now; its error's code, sentence and fix
// are shown. status gives a value for JSON: what the role is busy with. Both are called per request with a deadline of
// five seconds and must be safe for concurrent use.
func New(role, version string, health func(context.Context) error, status func(context.Context) (any, error)) *Server {
	s := &Server{role: role, version: version, health: health, status: status, registry: prometheus.NewRegistry(), mux: http.NewServeMux()}
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(role, version),
	)
	s.mux.HandleFunc("GET /health", s.serveHealth)
	s.mux.HandleFunc("GET /api/v1/status", s.serveStatus)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry, MaxRequestsInFlight: 4, Timeout: readTimeout}))
	return s
}

func buildInfo(role, version string) prometheus.Collector {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, kv := range info.Settings {
			if kv.Key == "vcs.revision" {
				revision = kv.Value
			}
		}
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "basilica_build_info",
		Help:        "The value is 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"role": role, "version": version, "revision": revision, "go_version": runtime.Version()},
	}, func() float64 { return 1 })
}

// Registry is where the role registers its metrics; names start with basilica_ROLE_.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// Mount hands every request below pattern, as of http.ServeMux, to another door of the same role, so that it shares
// listener, caps and Host check. It must be called before Serve.
func (s *Server) Mount(pattern string, door http.Handler) { s.mux.Handle(pattern, door) }

// Handler is the door with its caps but without a Host check, which needs the listener's address.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		s.mux.ServeHTTP(w, r)
	})
}

// Serve answers on ln until ctx ends, closes ln, and returns nil then. Where ln is on loopback, requests that name
// another Host are refused: a web page must not read this door through a rebound name.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	handler := s.Handler()
	if onLoopback(ln.Addr()) {
		handler = loopbackHost(handler)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(ln, maxConnections)) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve status of %s: %w", s.role, err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-served
	if err != nil {
		return fmt.Errorf("stop status of %s: %w", s.role, err)
	}
	return nil
}

func onLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// loopbackHost lets only requests pass whose Host is localhost or a loopback address.
func loopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !namesLoopback(r.Host) {
			Fail(w, basilica.E(basilica.Denied, "HOST_REFUSED", "this door is on loopback and the request names another host", "ask for http://127.0.0.1 or http://localhost with the port of this door"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func namesLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}

// Health is the JSON of /health.
type Health struct {
	Status  string   `json:"status"` // ok or unhealthy
	Role    string   `json:"role"`
	Version string   `json:"version"`
	Error   *Failure `json:"error,omitempty"`
}

// Failure is how an error stands in JSON. An internal one says no more than that; the full text goes to the log.
type Failure struct {
	Kind     string `json:"kind"`
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}

func failure(err error) *Failure {
	var e *basilica.Error
	if !errors.As(err, &e) {
		return &Failure{Kind: basilica.Internal.String(), Code: "INTERNAL", Sentence: "internal error", Fix: "see the role's log"}
	}
	return &Failure{Kind: e.Kind.String(), Code: e.Code, Sentence: e.Sentence, Fix: e.Fix}
}

func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	answer, code := Health{Status: "ok", Role: s.role, Version: s.version}, http.StatusOK
	if err := s.health(ctx); err != nil {
		answer.Status, answer.Error, code = "unhealthy", failure(err), http.StatusServiceUnavailable
	}
	reply(w, code, answer)
}

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	v, err := s.status(ctx)
	if err != nil {
		Fail(w, err)
		return
	}
	reply(w, http.StatusOK, struct {
		Role    string `json:"role"`
		Version string `json:"version"`
		Status  any    `json:"status"`
	}{s.role, s.version, v})
}

// Fail answers with an error as JSON under the HTTP status of its kind.
func Fail(w http.ResponseWriter, err error) {
	reply(w, basilica.KindOf(err).HTTPStatus(), struct {
		Error *Failure `json:"error"`
	}{failure(err)})
}

func reply(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"error":{"kind":"internal","code":"INTERNAL","sentence":"the answer has no JSON form"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the peer is gone where this fails; nobody is left to tell
}
