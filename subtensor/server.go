package subtensor

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/internal/gate"
	"basilica/pallet"
)

// Node is the chain that a Server fronts. Errors may carry a JSON-RPC error of their
// own by a method RPCError() (code int, message, data string).
type Node interface {
	// Head is the last block.
	Head() basilica.Header
	// NextHead waits for the block after number.
	NextHead(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error)
	// Finalized is the last block that stays, the head or one before it.
	Finalized() basilica.Header
	// NextFinalized waits for the final block after number.
	NextFinalized(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error)
	// BlockHash is the hash of a block by number.
	BlockHash(number basilica.BlockNumber) (basilica.Hash, bool)
	// Block is a block's header and its extrinsics with their length prefixes.
	Block(at basilica.Hash) (header pallet.Header, extrinsics [][]byte, ok bool)
	// Storage reads one key of the state after a block.
	Storage(at basilica.Hash, key []byte) (value []byte, found bool, err error)
	// StorageKeys lists at most limit keys under prefix, in order, strictly after start.
	StorageKeys(at basilica.Hash, prefix, start []byte, limit int) ([][]byte, error)
	// CallAPI answers a runtime API call: "<Trait>_<method>" with SCALE arguments.
	CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error)
}

// Pool takes extrinsics on their way into a block.
type Pool interface {
	// Submit checks an extrinsic and keeps it. status hears of it until "finalized", "invalid", "usurped" or
	// "dropped", is called under the pool's lock and returns at once; it may be nil.
	Submit(extrinsic []byte, status func(state string, block basilica.Hash)) (basilica.Hash, error)
	// Pending is every extrinsic that waits.
	Pending() [][]byte
	// NextIndex is the nonce that an account signs with next.
	NextIndex(account [32]byte) uint32
}

// ServerConfig bounds a Server. The zero value of every field works.
type ServerConfig struct {
	// Version is what system_version answers; "0" where empty.
	Version string
	// MaxMessage bounds one request in bytes, batches included; 1 MiB where 0.
	MaxMessage int64
	// MaxConnections bounds open WebSocket connections; 256 where 0.
	MaxConnections int
	// MaxSubscriptions bounds the subscriptions of one connection; 256 where 0.
	MaxSubscriptions int
	// MaxBatch bounds the requests of one batch array; 64 where 0.
	MaxBatch int
	// Hosts are further names under which clients may call the server. IP addresses and localhost always may: a web
	// page that rebinds a name of its own to this machine may not.
	Hosts []string
	// Seal makes the next block at once, for a chain whose blocks are made by hand: clients ask for it by
	// engine_createBlock. nil: blocks come by themselves, and there is no such method.
	Seal func() (basilica.Header, error)
	// Inject, where set, is asked before each request what goes wrong with it: nil for nothing, [ErrDrop] to end the
	// connection without an answer, [ErrRateLimited] or any other error to answer with. For tests of clients.
	Inject func(method string) error
}

// ErrDrop ends a connection without an answer; ErrRateLimited is how a public node refuses too many requests.
var (
	ErrDrop        error = errors.New("the connection is dropped")
	ErrRateLimited error = &fault{Code: -32004, Message: "storage work rate limit exceeded"}
)

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Version == "" {
		c.Version = "0"
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 1 << 20
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 256
	}
	if c.MaxSubscriptions == 0 {
		c.MaxSubscriptions = 256
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 64
	}
	return c
}

// The metadata is the largest answer of all, and no client asks for it more than a few times a start: one network may so many times
// a second, and for a few starts at once.
const (
	metadataPerSec = 16
	metadataBurst  = 128
)

// maxWaiting bounds the answers that wait for a slow reader of one connection, maxWaitingAll those of all, in bytes; who falls
// behind is dropped.
const (
	maxWaiting     = 16 << 20
	maxWaitingAll  = 128 << 20
	maxBatchAnswer = 8 << 20 // of one batch, in bytes
)

const (
	serverWriteTimeout = 10 * time.Second
	serverPingEvery    = 30 * time.Second
	serverPingTimeout  = 20 * time.Second
)

// Server answers a node's JSON-RPC 2.0 on one port: over WebSocket with subscriptions, and over HTTP POST without.
type Server struct {
	node      Node
	pool      Pool
	cfg       ServerConfig
	log       *slog.Logger
	methods   map[string]method
	waiting   atomic.Int64 // bytes of answers on their way, of all callers
	metadatas *gate.Rates  // that one network asks for

	mu       sync.Mutex
	open     int
	sessions sync.WaitGroup

	described struct {
		sync.Mutex
		runtime  string // answer of Core_version
		metadata quoted
	}
}

// NewServer makes a server for a chain; Serve starts it.
func NewServer(node Node, pool Pool, cfg ServerConfig, log *slog.Logger) *Server {
	return &Server{
		node: node, pool: pool, cfg: cfg.withDefaults(), log: log, methods: serverMethods(cfg), metadatas: gate.NewRates(metadataPerSec, metadataBurst, time.Now),
	}
}

// Serve answers on ln until ctx ends, then closes every connection and returns nil; any other end is an error.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler: s, BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	// More than WebSockets are admitted, so that one too many hears why, and one place leaves room to others.
	limited := gate.Listen(ln, 4*s.cfg.MaxConnections+16, s.cfg.MaxConnections*3/4+16)
	go func() { failed <- srv.Serve(limited) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	closed := srv.Close()
	if err == nil {
		err = <-failed
	}
	s.sessions.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return closed
	}
	return fmt.Errorf("serve JSON-RPC: %w", err)
}

// ServeHTTP answers one HTTP request: an upgrade to WebSocket or a POST.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !gate.Host(r, s.cfg.Hosts, true):
		refuse(w, basilica.E(basilica.Denied, "HOST_REFUSED", "the request names a host that is not this server", "call it by its address, or add the name to localnet.hosts"))
		return
	case !gate.Origin(r):
		refuse(w, basilica.E(basilica.Denied, "ORIGIN_REFUSED", "a web page of another origin may not call this server", "call it from a program, or from a page of its own address"))
		return
	}
	if r.Header.Get("Upgrade") != "" {
		s.upgrade(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "send JSON-RPC 2.0 by POST or over WebSocket", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxMessage))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "the request could not be read", http.StatusBadRequest)
		return
	}
	answer, _ := s.respond(caller{network: gate.Network(r.RemoteAddr)}, body)
	defer s.waiting.Add(-int64(len(answer)))
	if s.waiting.Add(int64(len(answer))) > maxWaitingAll {
		refuse(w, basilica.E(basilica.Unavailable, "CHAIN_BUSY", "too many answers wait for callers that do not read them", "try again in a minute"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(answer); err != nil {
		s.log.Debug("answer not written", "err", err)
	}
}

// refuse answers with an error as JSON.
func refuse(w http.ResponseWriter, e *basilica.Error) {
	body, err := json.Marshal(map[string]any{"error": map[string]string{"kind": e.Kind.String(), "code": e.Code, "sentence": e.Sentence, "fix": e.Fix}})
	if err != nil {
		body = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Kind.HTTPStatus())
	_, _ = w.Write(append(body, '\n')) // a caller that hung up is not our error
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if !s.admit() {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer s.release()
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		s.log.Debug("WebSocket refused", "err", err)
		return
	}
	ws.SetReadLimit(s.cfg.MaxMessage)
	newSession(s, ws, gate.Network(r.RemoteAddr)).run(r.Context())
}

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.cfg.MaxConnections {
		return false
	}
	s.open++
	s.sessions.Add(1)
	return true
}

func (s *Server) release() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
	s.sessions.Done()
}

// fault is a JSON-RPC error object; Data is a string because clients take nothing else.
type fault struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    string `json:"data,omitempty"`
}

// Error gives code and message.
func (f *fault) Error() string { return fmt.Sprintf("%d: %s", f.Code, f.Message) }

func invalidParams(detail string) *fault { return &fault{-32602, "Invalid params", detail} }

var errSubscribe = &fault{Code: -32601, Message: "Method not found", Data: "subscriptions need a WebSocket"}

// faultOf turns any error into what stands on the wire; an unknown one says nothing of its text.
func faultOf(err error) *fault {
	var own *fault
	if errors.As(err, &own) {
		return own
	}
	var node interface {
		RPCError() (code int, message, data string)
	}
	if errors.As(err, &node) {
		code, message, data := node.RPCError()
		return &fault{code, message, data}
	}
	return &fault{Code: -32603, Message: "Internal error"}
}

// request is one JSON-RPC request; without an id it is a notification and gets no answer.
type request struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

// reply is one JSON-RPC answer. The id is the request's, byte for byte.
type reply struct {
	Version string          `json:"jsonrpc"`
	Result  any             `json:"result"`
	ID      json.RawMessage `json:"id"`
}

type failure struct {
	Version string          `json:"jsonrpc"`
	Error   *fault          `json:"error"`
	ID      json.RawMessage `json:"id"`
}

// caller is who asks: the connection's session, nil over HTTP, and the network that it comes from.
type caller struct {
	*session
	network string
}

// respond answers one message, a request or a batch of them; nil where nothing is to be said. What then must be
// started (subscriptions, after their answer) comes with it.
func (s *Server) respond(c caller, message []byte) (answer []byte, then []func()) {
	for i, b := range message {
		if b == ' ' || b == '\t' || b == '\r' || b == '\n' {
			continue
		}
		if b == '[' {
			return s.respondBatch(c, message[i:])
		}
		break
	}
	one, start := s.respondOne(c, message)
	if start != nil {
		then = append(then, start)
	}
	return one, then
}

func (s *Server) respondBatch(c caller, message []byte) (answer []byte, then []func()) {
	var batch []json.RawMessage
	if err := json.Unmarshal(message, &batch); err != nil {
		return encodeFault(nil, &fault{Code: -32700, Message: "Parse error"}), nil
	}
	switch {
	case len(batch) == 0:
		return encodeFault(nil, &fault{Code: -32600, Message: "Invalid request"}), nil
	case len(batch) > s.cfg.MaxBatch:
		return encodeFault(nil, &fault{-32010, "The batch request was too large", fmt.Sprintf("Exceeded max limit of %d", s.cfg.MaxBatch)}), nil
	}
	var answers []json.RawMessage
	size := 0
	for _, m := range batch {
		one, start := s.respondOne(c, m)
		if start != nil {
			then = append(then, start)
		}
		if one == nil {
			continue
		}
		if size += len(one); size > maxBatchAnswer {
			return encodeFault(nil, &fault{Code: -32011, Message: "The batch response was too large"}), then
		}
		answers = append(answers, one)
	}
	if len(answers) == 0 {
		return nil, then
	}
	answer, err := json.Marshal(answers)
	if err != nil {
		return encodeFault(nil, &fault{Code: -32603, Message: "Internal error"}), then
	}
	return answer, then
}

func (s *Server) respondOne(c caller, message []byte) (answer []byte, start func()) {
	var q request
	if err := json.Unmarshal(message, &q); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return encodeFault(nil, &fault{Code: -32700, Message: "Parse error"}), nil
		}
		return encodeFault(nil, &fault{Code: -32600, Message: "Invalid request"}), nil
	}
	if !validID(q.ID) || q.Version != "2.0" || q.Method == "" {
		return encodeFault(nil, &fault{Code: -32600, Message: "Invalid request"}), nil
	}
	if s.cfg.Inject != nil {
		if err := s.cfg.Inject(q.Method); errors.Is(err, ErrDrop) {
			s.drop(c.session)
			return nil, nil
		} else if err != nil {
			return encodeFault(q.ID, faultOf(err)), nil
		}
	}
	if asksMetadata(q) && !s.metadatas.Take(c.network) {
		return encodeFault(q.ID, faultOf(ErrRateLimited)), nil
	}
	result, start, err := s.dispatch(c.session, q)
	if q.ID == nil {
		return nil, start
	}
	if err != nil {
		return encodeFault(q.ID, faultOf(err)), start
	}
	if raw, ok := result.(hexBytes); ok {
		result = quotedHex(raw)
	}
	if text, ok := result.(quoted); ok {
		// json.Marshal would look at every byte of what may be a megabyte three times.
		answer = make([]byte, 0, len(text)+len(q.ID)+len(`{"jsonrpc":"2.0","result":,"id":}`))
		answer = append(append(answer, `{"jsonrpc":"2.0","result":`...), text...)
		return append(append(append(answer, `,"id":`...), q.ID...), '}'), start
	}
	answer, err = json.Marshal(reply{"2.0", result, q.ID})
	if err != nil {
		return encodeFault(q.ID, &fault{Code: -32603, Message: "Internal error"}), start
	}
	return answer, start
}

// asksMetadata says whether a request is for the metadata, by its own method or through the runtime's API.
func asksMetadata(q request) bool {
	return q.Method == "state_getMetadata" || q.Method == "state_call" && bytes.Contains(q.Params, []byte(`"Metadata_`))
}

// quoted is a result that stands as it is on the wire: JSON without white space.
type quoted []byte

func quotedHex(b []byte) quoted {
	out := make([]byte, 0, 2*len(b)+len(`"0x"`))
	return append(hex.AppendEncode(append(out, `"0x`...), b), '"')
}

// drop ends a caller's connection; session is nil over HTTP.
func (s *Server) drop(session *session) {
	if session == nil {
		panic(http.ErrAbortHandler)
	}
	session.stop()
}

// validID takes strings, numbers and null, as JSON-RPC has it.
func validID(id json.RawMessage) bool {
	return len(id) == 0 || id[0] != '{' && id[0] != '[' && id[0] != 't' && id[0] != 'f'
}

func encodeFault(id json.RawMessage, f *fault) []byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	answer, err := json.Marshal(failure{"2.0", f, id})
	if err != nil {
		return []byte(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"Internal error"},"id":null}`)
	}
	return answer
}

func (s *Server) dispatch(session *session, q request) (result any, start func(), err error) {
	m, known := s.methods[q.Method]
	if !known {
		return nil, nil, &fault{Code: -32601, Message: "Method not found"}
	}
	if crashpoint.On {
		defer crashpoint.Around("subtensor.server." + q.Method)()
	}
	var p params
	if len(q.Params) > 0 && string(q.Params) != "null" {
		if err := json.Unmarshal(q.Params, &p); err != nil {
			return nil, nil, invalidParams("positional parameters are expected")
		}
	}
	if m.subscribe != nil {
		if session == nil {
			return nil, nil, errSubscribe
		}
		return m.subscribe(s, session, p)
	}
	result, err = m.call(s, session, p)
	return result, nil, err
}
