package axon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/internal/gate"
	"basilica/keys"
	"basilica/pki"
)

// Limits of the door. Those of the wall clock are no part of any judgement, so they do not use the given clock.
const (
	maxBody         = 256 << 10 // bytes of a body that is not a blob
	maxLeft         = 16 << 10  // bytes of a refused request's body that are read so that its connection lives on
	leftTime        = 200 * time.Millisecond
	bodyTime        = 10 * time.Second
	headerTime      = 10 * time.Second
	idleTime        = 60 * time.Second
	replyTime       = 30 * time.Second // for a reply that is not a stream, handler included
	chunkTime       = 30 * time.Second // for one piece of a stream, either way
	aliveEvery      = 10 * time.Second // between two lines of a watch
	graceTime       = 3 * time.Second
	maxHeaderBytes  = 16 << 10
	maxConns        = 4096
	maxConnsNetwork = 256
	maxStreams      = 64
	maxFrame        = 32 << 10 // bytes of one HTTP/2 frame
	maxLabels       = 64
	maxIdempotency  = 128
	maxWatches      = 128 // of one hotkey at once
	maxTransfers    = 32  // of one hotkey at once

	defaultRateNetwork = 50.0
	defaultRateHotkey  = 20.0
)

// Policy says whether a hotkey may use a part of the door; nil is yes, and a refusal is a Denied error. It is asked after
// the signature and before the nonce is remembered.
type Policy func(ctx context.Context, hotkey basilica.Hotkey) error

// ServerConfig says whose door it is and who may come in.
type ServerConfig struct {
	Hotkey      basilica.Hotkey // the miner's: requests must be signed for it
	Key         *keys.P256      // TLS key as published on chain; nil: plain HTTP, for localnet alone
	Former      *keys.P256      // the key before it, which callers may still know; nil: none
	Published   func() []byte   // the key that the chain shows now, x then y; who names none is shown that one; nil: Key
	Bridge      keys.Signer     // the miner's hotkey; set: callers that know the Dendrite of SDKs 6 to 10 alone are answered in plain HTTP on the same port
	Replays     Replays
	Validation  Policy  // who may open a validation; nil: whoever the Miner takes
	Compute     Policy  // who may submit tasks and move blobs; nil: whoever the Miner takes
	RateNetwork float64 // requests per second of one remote network, four times that in a burst; 0: 50
	RateHotkey  float64 // requests per second of one hotkey, four times that in a burst; 0: 20
	Now         func() time.Time
	Log         *slog.Logger
}

// Server is a miner's public door.
type Server struct {
	miner    basilica.Miner
	cfg      ServerConfig
	held     atomic.Pointer[held] // nil: plain HTTP
	networks *gate.Rates
	hotkeys  *gate.Rates
	mux      *http.ServeMux
	bridge   http.Handler  // nil: none
	header   time.Duration // for a TLS handshake, and for the headers of a request
	unread   time.Duration // for a body that its handler does not read
	grace    time.Duration // for what is under way at the end

	watches, transfers *census
}

// NewServer makes the door of m.
func NewServer(m basilica.Miner, cfg ServerConfig) (*Server, error) {
	if _, err := keys.DecodeSS58(string(cfg.Hotkey)); err != nil {
		return nil, fmt.Errorf("miner's hotkey: %w", err)
	}
	if cfg.Replays == nil {
		return nil, errors.New("an axon needs a store of nonces")
	}
	if cfg.Bridge != nil && (cfg.Key == nil || cfg.Bridge.SS58() != string(cfg.Hotkey) || cfg.Bridge.Scheme() != keys.Sr25519) {
		return nil, errors.New("the bridge is beside TLS, and signs with the miner's sr25519 hotkey")
	}
	if cfg.RateNetwork == 0 {
		cfg.RateNetwork = defaultRateNetwork
	}
	if cfg.RateHotkey == 0 {
		cfg.RateHotkey = defaultRateHotkey
	}
	s := &Server{
		miner: m, cfg: cfg, mux: http.NewServeMux(), header: headerTime, unread: replyTime, grace: graceTime,
		networks: gate.NewRates(cfg.RateNetwork, burst(cfg.RateNetwork), cfg.Now), hotkeys: gate.NewRates(cfg.RateHotkey, burst(cfg.RateHotkey), cfg.Now),
		watches: newCensus("watches", maxWatches), transfers: newCensus("transfers of files", maxTransfers),
	}
	if cfg.Key != nil {
		if err := s.hold(cfg.Key, cfg.Former); err != nil {
			return nil, err
		}
	}
	if cfg.Bridge != nil {
		s.bridge = newBridge(s, cfg.Bridge).handler()
	}
	compute := cfg.Compute
	s.mux.HandleFunc("GET /v1/offer", s.answer(s.offer))
	s.mux.HandleFunc("POST /v1/validation/open", s.signed(cfg.Validation, s.openValidation))
	s.mux.HandleFunc("POST /v1/tasks", s.signed(compute, s.submit))
	s.mux.HandleFunc("GET /v1/tasks", s.signed(compute, s.tasks))
	s.mux.HandleFunc("GET /v1/tasks/{id}", s.signed(compute, s.task))
	s.mux.HandleFunc("GET /v1/tasks/{id}/events", s.signed(compute, s.watch))
	s.mux.HandleFunc("POST /v1/tasks/{id}/cancel", s.signed(compute, s.cancel))
	s.mux.HandleFunc("POST /v1/plan", s.signed(compute, s.plan))
	s.mux.HandleFunc("GET /v1/blobs/{name}/state", s.signed(compute, s.blobState))
	s.mux.HandleFunc("PUT /v1/blobs/{name}", s.answer(s.putBlob))
	s.mux.HandleFunc("GET /v1/blobs/{name}", s.signed(compute, s.getBlob))
	s.mux.HandleFunc("/", s.answer(func(http.ResponseWriter, *http.Request, time.Time) error {
		return basilica.E(basilica.NotFound, "ROUTE", "the miner has nothing under this method and path", "use a client of the same version")
	}))
	return s, nil
}

// shown is a key and the certificate that shows it.
type shown struct {
	point []byte // x then y
	name  string // by which callers ask for it
	cert  tls.Certificate
}

// held are the keys of a door, the latest first.
type held []shown

func (s *Server) hold(keys ...*keys.P256) error {
	var all held
	for _, key := range keys {
		if key == nil {
			continue
		}
		point, err := PublicKey(key)
		if err != nil {
			return err
		}
		cert, err := pki.SelfSigned(key.Signer())
		if err != nil {
			return err
		}
		all = append(all, shown{point, keyName(point), cert})
	}
	s.held.Store(&all)
	return nil
}

// Rotate replaces the TLS key. From now on the door holds both: whoever knows the former one finds it as before.
func (s *Server) Rotate(key, former *keys.P256) error { return s.hold(key, former) }

// certificate shows the key that the caller knows. One that names none is shown what the chain shows.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all := *s.held.Load()
	for i := range all {
		if all[i].name == hello.ServerName {
			return &all[i].cert, nil
		}
	}
	if s.cfg.Published != nil {
		now := s.cfg.Published()
		for i := range all {
			if bytes.Equal(all[i].point, now) {
				return &all[i].cert, nil
			}
		}
	}
	return &all[0].cert, nil
}

// burst is what a rate allows at once.
func burst(perSecond float64) int { return max(1, int(4*perSecond)) }

// Serve answers requests on ln until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ln = gate.ListenPaced(ln, maxConns, maxConnsNetwork, gate.NewRates(s.cfg.RateNetwork, maxConnsNetwork, s.cfg.Now))
	if s.held.Load() == nil {
		return s.run(ctx, ln, s.mux, nil)
	}
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: s.certificate, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
	}
	if s.bridge == nil {
		return s.run(ctx, ln, s.mux, tlsConfig)
	}
	sort := newSorter(ln, s.header)
	done := make(chan error, 3)
	go func() { done <- sort.run(ctx) }()
	go func() { done <- s.run(ctx, sort.tls, s.mux, tlsConfig) }()
	go func() { done <- s.run(ctx, sort.plain, s.bridge, nil) }()
	var err error
	for range cap(done) {
		err = cmp.Or(err, <-done)
		cancel()
	}
	return err
}

// run answers requests on one listener until ctx ends, and closes it; without a tlsConfig in plain HTTP.
func (s *Server) run(ctx context.Context, ln net.Listener, h http.Handler, tlsConfig *tls.Config) error {
	base, cancel := context.WithCancel(ctx)
	defer cancel()
	var under handlers
	server := &http.Server{
		Handler: under.count(h), TLSConfig: tlsConfig, ReadHeaderTimeout: s.header, IdleTimeout: idleTime, MaxHeaderBytes: maxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:     maxFrame, // what a broken connection takes with it of an upload, and a connection's buffer
			MaxConcurrentStreams: maxStreams, SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: chunkTime,
		},
	}
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		select {
		case <-stopped:
			return
		case <-ctx.Done():
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			server.Close()
		}
	})
	var err error
	if tlsConfig != nil {
		err = server.ServeTLS(ln, "", "")
	} else {
		err = server.Serve(ln)
	}
	close(stopped)
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	} else {
		server.Close()
		err = fmt.Errorf("serve axon: %w", err)
	}
	cancel()
	under.end(s.grace)
	return err
}

// handlers are those under way. The server itself forgets one whose caller has hung up, and whoever closes the miner's store once
// the door is closed must not take it from under that one.
type handlers struct{ mu sync.RWMutex } // read-locked by each

func (u *handlers) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !u.mu.TryRLock() {
			panic(http.ErrAbortHandler) // came in while the door was closed
		}
		defer u.mu.RUnlock()
		h.ServeHTTP(w, r)
	})
}

// end lets nothing more begin, and waits for what is under way, no longer than most.
func (u *handlers) end(most time.Duration) {
	over := make(chan struct{})
	go func() {
		u.mu.Lock() // for good
		close(over)
	}()
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-over:
	case <-late.C:
	}
}

// answer wraps a handler: the rules for everybody before it, one reply for its error after it. headersIn is when the
// headers were in.
func (s *Server) answer(h func(w http.ResponseWriter, r *http.Request, headersIn time.Time) error) http.HandlerFunc {
	return s.answerWith(s.refuse, h)
}

// answerWith is answer with another form of the reply for an error.
func (s *Server) answerWith(refuse func(*reply, *http.Request, error), h func(w http.ResponseWriter, r *http.Request, headersIn time.Time) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		started := s.cfg.Now()
		if crashpoint.On {
			defer crashpoint.Around(crashpoint.Request("axon.server", r))()
		}
		out := &reply{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.cfg.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				refuse(out, r, errors.New("panic in a handler"))
			}
		}()
		head := w.Header()
		head.Set("Cache-Control", "no-store")
		head.Set("X-Content-Type-Options", "nosniff")
		// What a handler leaves of a body, the server reads before the next request: that must end too.
		rc, now := http.NewResponseController(w), time.Now()
		if err := errors.Join(rc.SetWriteDeadline(now.Add(replyTime)), rc.SetReadDeadline(now.Add(s.unread))); err != nil {
			refuse(out, r, fmt.Errorf("set deadline: %w", err))
			return
		}
		var err error
		if !gate.Host(r, nil, false) {
			err = basilica.E(basilica.Denied, "HOST_REFUSED", "on loopback this door answers to IP addresses and localhost only", "call it by its address")
		}
		if err == nil && !s.networks.Take(gate.Network(r.RemoteAddr)) {
			err = tooFast()
		}
		if err == nil {
			err = h(out, r, started)
		}
		if err != nil {
			refuse(out, r, err)
		}
	}
}

// reply remembers whether a status is out, after which an error can only cut the connection.
type reply struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader implements http.ResponseWriter.
func (w *reply) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *reply) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// refused tells the log of an error.
func (s *Server) refused(r *http.Request, err error) {
	level := slog.LevelDebug
	if basilica.KindOf(err) == basilica.Internal && r.Context().Err() == nil {
		level = slog.LevelError
	}
	s.cfg.Log.Log(r.Context(), level, "request refused", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "err", err)
}

func (s *Server) refuse(w *reply, r *http.Request, err error) {
	s.refused(r, err)
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	status, body := toBody(err)
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// What little is left of a body is read before the answer goes out, so that the connection lives on and its caller
		// does not cost another handshake; what does not come at once or is more is not.
		if r.ContentLength < 0 || r.ContentLength > maxLeft || http.NewResponseController(w).SetReadDeadline(time.Now().Add(leftTime)) != nil {
			w.Header().Set("Connection", "close")
		}
	}
	writeJSON(w, status, errorReply{Error: body})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that hung up is not our error.
	_ = json.NewEncoder(w).Encode(v)
}

// call is a request whose caller is known.
type call struct {
	caller basilica.Hotkey
	body   []byte
}

// signed wraps a handler whose body is read and hashed before the signature can be checked.
func (s *Server) signed(may Policy, h func(w http.ResponseWriter, r *http.Request, c call) error) http.HandlerFunc {
	return s.answer(func(w http.ResponseWriter, r *http.Request, headersIn time.Time) error {
		a, err := s.headers(r, headersIn)
		if err != nil {
			return err
		}
		body, err := readBody(w, r)
		if err != nil {
			return err
		}
		if err := s.admit(r, a, sha256.Sum256(body), may); err != nil {
			return err
		}
		return h(w, r, call{caller: a.hotkey, body: body})
	})
}

// headers does what can be judged before the body.
func (s *Server) headers(r *http.Request, headersIn time.Time) (auth, error) {
	a, err := parseAuth(r.Header)
	if err != nil {
		return auth{}, err
	}
	return a, a.check(s.cfg.Hotkey, headersIn)
}

// admit checks signature, policy, rate and nonce, in this order: a request that may not pass leaves nothing behind.
func (s *Server) admit(r *http.Request, a auth, body [32]byte, may Policy) error {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return malformed("the target is not a path")
	}
	if err := a.verify(r.Method, r.RequestURI, body); err != nil {
		return err
	}
	if err := s.permit(r, a.hotkey, may); err != nil {
		return err
	}
	fresh, err := s.cfg.Replays.Remember(r.Context(), string(a.hotkey), a.nonce, s.cfg.Now().Add(replayLife))
	if err != nil {
		return fmt.Errorf("remember nonce: %w", err)
	}
	if !fresh {
		return basilica.E(basilica.Denied, codeReplayed, "a request with this nonce was already taken", "sign every request anew, repeated ones too")
	}
	return nil
}

// permit asks the policy of one whose signature passed, and counts the request against its rate.
func (s *Server) permit(r *http.Request, who basilica.Hotkey, may Policy) error {
	if may != nil {
		if err := may(r.Context(), who); err != nil {
			return err
		}
	}
	if !s.hotkeys.Take(string(who)) {
		return tooFast()
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := basilica.E(basilica.Exhausted, codeBodySize, fmt.Sprintf("the request's body is over %d bytes", maxBody), "send less; files go by PUT /v1/blobs")
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge
	case err != nil:
		return nil, basilica.E(basilica.Invalid, "BODY_UNREAD", fmt.Sprintf("the request's body did not come whole within %s", bodyTime), "send it again").With(err)
	}
	// The server reads on to see the caller hang up; that reading must not meet the deadline of the body.
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	return body, nil
}

// decode reads exactly one JSON value with known fields alone.
func decode[T any](body []byte) (T, error) {
	var v T
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	err := dec.Decode(&v)
	if err == nil {
		if _, next := dec.Token(); next != io.EOF {
			err = errors.New("bytes after its end")
		}
	}
	if err != nil {
		return v, basilica.E(basilica.Invalid, "BODY_JSON", "the request's body is not the JSON that this path takes", "use a client of the same version").With(err)
	}
	return v, nil
}

func number(r *http.Request, name string, low, high, absent int64) (int64, error) {
	q := r.URL.Query()
	if !q.Has(name) {
		return absent, nil
	}
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || n < low || n > high {
		return 0, basilica.E(basilica.Invalid, "QUERY", fmt.Sprintf("%s is not a number from %d to %d", name, low, high), "correct it")
	}
	return n, nil
}
