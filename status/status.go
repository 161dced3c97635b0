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
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"basilica"
	"basilica/internal/gate"
)

// Caps of the door.
const (
	maxConnections        = 1024
	maxConnectionsNetwork = 64
	perSecond             = 100 // requests of one network, and perSecond*2 at once
	maxHeaderBytes        = 16 << 10
	maxBodyBytes          = 64 << 10
	headerTimeout         = 5 * time.Second
	readTimeout           = 10 * time.Second
	writeTimeout          = 30 * time.Second
	idleTimeout           = time.Minute
	answerTimeout         = 5 * time.Second // of the health and status functions
	shutdownTimeout       = 3 * time.Second
)

// Server answers for one role. It holds the role's metrics.
type Server struct {
	role     string
	version  string
	health   func(context.Context) error
	status   func(context.Context) (any, error)
	registry *prometheus.Registry
	mux      *http.ServeMux
	rates    *gate.Rates
	hosts    []string
}

// New makes a door for a role. health gives nil where the role can do its work now; its error's code, sentence and fix
// are shown. status gives a value for JSON: what the role is busy with. Both are called per request with a deadline of
// five seconds and must be safe for concurrent use.
func New(role, version string, health func(context.Context) error, status func(context.Context) (any, error)) *Server {
	s := &Server{role: role, version: version, health: health, status: status, registry: prometheus.NewRegistry(), mux: http.NewServeMux(), rates: gate.NewRates(perSecond, 2*perSecond, time.Now)}
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

// Handler is the door with its caps. On a connection to a loopback address, requests that name another host are refused: a web
// page must not read this door through a rebound name.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !gate.Host(r, s.hosts, false) {
			Fail(w, basilica.E(basilica.Denied, "HOST_REFUSED", "this door is on loopback and the request names another host", "ask for http://127.0.0.1 or http://localhost with the port of this door"))
			return
		}
		if !s.rates.Take(gate.Network(r.RemoteAddr)) {
			w.Header().Set("Retry-After", "1")
			Fail(w, basilica.E(basilica.Exhausted, "RATE_LIMIT", "too many requests from this address", "ask less often"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		s.mux.ServeHTTP(w, r)
	})
}

// AllowHosts names further hosts under which a door on loopback may be called, as a proxy before it does. It must be called
// before Serve.
func (s *Server) AllowHosts(names []string) { s.hosts = names }

// Serve answers on ln until ctx ends, closes ln, and returns nil then.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(gate.Listen(ln, maxConnections, maxConnectionsNetwork)) }()
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
