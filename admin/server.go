package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/internal/crashpoint"
)

// Listen makes the socket of the miner with that data directory, mode 0600. A socket that nobody answers on is replaced; a
// live one is a Conflict (ADMIN_SOCKET_TAKEN).
func Listen(dataDir string) (net.Listener, error) {
	path := SocketPath(dataDir)
	if len(path) > 107 {
		return nil, basilica.E(basilica.Invalid, "ADMIN_SOCKET_PATH", fmt.Sprintf("the path of the administration socket has %d bytes, more than the system's 107: %s", len(path), path), "use a data directory with a shorter path")
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		return nil, errors.Join(basilica.E(basilica.Conflict, "ADMIN_SOCKET_TAKEN", fmt.Sprintf("another miner answers on %s", path), "stop it, or use another data directory"), conn.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return nil, basilica.E(basilica.Conflict, "ADMIN_SOCKET_TAKEN", fmt.Sprintf("%s is not a socket", path), "move that file away")
	}
	// The socket is born under a name of its own, so that nobody meets it before its mode is set.
	fresh := filepath.Join(dataDir, ".admin.new")
	if len(fresh) > 107 {
		fresh = path
	}
	for _, old := range []string{path, fresh} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("replace administration socket: %w", err)
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for administration: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil && fresh != path {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for administration: %w", err), ln.Close())
	}
	return &listener{Listener: ln, path: path}, nil
}

// listener removes its socket when it closes.
type listener struct {
	net.Listener
	path string
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if gone := os.Remove(l.path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// Server answers for one miner.
type Server struct {
	fleet Fleet
	log   *slog.Logger
	mux   *http.ServeMux
}

// NewServer makes the door's server.
func NewServer(fleet Fleet, log *slog.Logger) *Server {
	s := &Server{fleet: fleet, log: log, mux: http.NewServeMux()}
	s.route("POST /v1/tokens", s.createToken)
	s.route("GET /v1/tokens", func(r *http.Request) (any, error) { return fleet.Tokens(r.Context()) })
	s.route("DELETE /v1/tokens/{id}", func(r *http.Request) (any, error) {
		return struct{}{}, fleet.RevokeToken(r.Context(), r.PathValue("id"))
	})
	s.route("GET /v1/executors", s.members)
	s.route("GET /v1/executors/{id}", func(r *http.Request) (any, error) {
		return fleet.Member(r.Context(), basilica.ExecutorID(r.PathValue("id")))
	})
	s.route("DELETE /v1/executors/{id}", func(r *http.Request) (any, error) {
		return struct{}{}, fleet.Revoke(r.Context(), basilica.ExecutorID(r.PathValue("id")))
	})
	s.route("PUT /v1/executors/{id}/drain", s.drain)
	s.route("PUT /v1/executors/{id}/name", func(r *http.Request) (any, error) {
		var req nameRequest
		if err := read(r, &req); err != nil {
			return nil, err
		}
		return struct{}{}, fleet.Rename(r.Context(), basilica.ExecutorID(r.PathValue("id")), req.Name)
	})
	s.route("PATCH /v1/executors/{id}/labels", func(r *http.Request) (any, error) {
		var req labelRequest
		if err := read(r, &req); err != nil {
			return nil, err
		}
		return fleet.Label(r.Context(), basilica.ExecutorID(r.PathValue("id")), req.Set, req.Remove)
	})
	s.route("POST /v1/rotation", func(r *http.Request) (any, error) { return fleet.RotateKeys(r.Context()) })
	s.route("GET /v1/rotation", func(r *http.Request) (any, error) { return fleet.Rotation(r.Context()) })
	s.route("POST /v1/axon-key", func(r *http.Request) (any, error) { return fleet.RekeyAxon(r.Context()) })
	s.route("GET /v1/axon-key", func(r *http.Request) (any, error) { return fleet.AxonKey(r.Context()) })
	return s
}

func (s *Server) members(r *http.Request) (any, error) {
	q, limit := r.URL.Query(), 0
	if text := q.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return nil, basilica.E(basilica.Invalid, "BAD_LIMIT", fmt.Sprintf("%.40q is no number of rows", text), "write a number from 1 up")
		}
	}
	return s.fleet.Members(r.Context(), q.Get("cursor"), limit)
}

func (s *Server) drain(r *http.Request) (any, error) {
	var req drainRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	var deadline time.Duration
	if req.Deadline != "" {
		var err error
		if deadline, err = time.ParseDuration(req.Deadline); err != nil {
			return nil, basilica.E(basilica.Invalid, "DRAIN_DEADLINE", fmt.Sprintf("%.40q is not a span of time", req.Deadline), "write it like 30m or 1h")
		}
	}
	return struct{}{}, s.fleet.Drain(r.Context(), basilica.ExecutorID(r.PathValue("id")), req.Drain, deadline)
}

func (s *Server) createToken(r *http.Request) (any, error) {
	var req tokenRequest
	if err := read(r, &req); err != nil {
		return nil, err
	}
	var ttl time.Duration
	if req.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(req.TTL); err != nil {
			return nil, basilica.E(basilica.Invalid, "TOKEN_TTL", fmt.Sprintf("%.40q is not a span of time", req.TTL), "write it like 30m or 1h")
		}
	}
	text, record, err := s.fleet.CreateToken(r.Context(), req.Name, ttl)
	return tokenReply{Token: text, Record: record}, err
}

func read(r *http.Request, into any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, maxRequestBytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return basilica.E(basilica.Invalid, "REQUEST_JSON", "the request is not what this path takes", "use the same version of basilica as the miner").With(err)
	}
	return nil
}

func (s *Server) route(pattern string, f func(*http.Request) (any, error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if crashpoint.On {
			defer crashpoint.Around(crashpoint.Request("admin.server", r))()
		}
		v, err := f(r)
		code := http.StatusOK
		if err != nil {
			code, v = basilica.KindOf(err).HTTPStatus(), s.failure(r, err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			s.log.DebugContext(r.Context(), "administration reply", "err", err)
		}
	})
}

func (s *Server) failure(r *http.Request, err error) failure {
	kind := basilica.KindOf(err)
	f := failure{Kind: kind.String(), Code: basilica.CodeOf(err), Sentence: "an internal fault; the miner's log has it", Fix: basilica.FixOf(err)}
	var e *basilica.Error
	if errors.As(err, &e) {
		f.Sentence = e.Sentence
	}
	if kind == basilica.Internal {
		s.log.ErrorContext(r.Context(), "administration", "path", r.URL.Path, "err", err)
	}
	return f
}

// Serve answers until ctx ends; it closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler: s.mux, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve administration: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			return server.Close()
		}
		return nil
	})
	return g.Wait()
}
