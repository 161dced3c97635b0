package subtensor

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// session is one WebSocket connection to the server. Requests are answered in their order; notifications come between
// the answers, but none of a subscription before its own.
type session struct {
	server  *Server
	ws      *websocket.Conn
	network string // that the connection comes from
	feeds   sync.WaitGroup
	ctx     context.Context // ends with the connection; set by run
	stop    context.CancelFunc

	mu      sync.Mutex
	queue   [][]byte
	waiting int           // bytes in queue
	over    bool          // nothing is queued any more
	filled  chan struct{} // has a token when the queue may hold something
	subs    map[string]*feed
	lastSub uint64
}

// feed is one subscription of a session.
type feed struct {
	session *session
	id      string
	method  string // of its notifications
	stop    context.CancelFunc

	mu      sync.Mutex
	started bool
	over    bool  // nothing comes after what is held
	held    []any // results that came before the subscription was answered
}

func newSession(s *Server, ws *websocket.Conn, network string) *session {
	return &session{server: s, ws: ws, network: network, filled: make(chan struct{}, 1), subs: map[string]*feed{}}
}

// run serves the connection until it ends and everything it started has stopped.
func (s *session) run(ctx context.Context) {
	s.ctx, s.stop = context.WithCancel(ctx)
	defer s.unqueue() // last: nothing is sent any more
	defer s.feeds.Wait()
	defer s.forget()
	defer s.ws.CloseNow() //nolint:errcheck // it is over either way
	defer s.stop()
	s.feeds.Go(s.write)
	s.feeds.Go(s.keepAlive)
	for {
		kind, message, err := s.ws.Read(s.ctx)
		if err != nil {
			s.server.log.Debug("WebSocket ended", "err", err)
			return
		}
		if kind != websocket.MessageText {
			s.ws.Close(websocket.StatusUnsupportedData, "text frames only") //nolint:errcheck // it is over either way
			return
		}
		answer, then := s.server.respond(caller{s, s.network}, message)
		if answer != nil {
			s.send(answer)
		}
		for _, start := range then {
			start()
		}
	}
}

// forget ends every subscription, so that what still reports to one is not heard.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.subs {
		f.stop()
	}
	clear(s.subs)
}

// unqueue gives back what still waited when the connection ended.
func (s *session) unqueue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server.waiting.Add(-int64(s.waiting))
	s.waiting, s.queue, s.over = 0, nil, true
}

// send queues a message; a reader that is too far behind loses the connection.
func (s *session) send(message []byte) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.queue = append(s.queue, message)
	s.waiting += len(message)
	all := s.server.waiting.Add(int64(len(message)))
	behind := s.waiting > maxWaiting || all > maxWaitingAll
	s.mu.Unlock()
	if behind {
		s.server.log.Debug("WebSocket reader too slow")
		s.stop()
		return
	}
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

// write sends what is queued.
func (s *session) write() {
	defer s.stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.filled:
		}
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, m := range batch {
			ctx, cancel := context.WithTimeout(s.ctx, serverWriteTimeout)
			err := s.ws.Write(ctx, websocket.MessageText, m)
			cancel()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.waiting -= len(m)
			s.server.waiting.Add(-int64(len(m)))
			s.mu.Unlock()
		}
	}
}

// keepAlive finds connections whose other end is gone.
func (s *session) keepAlive() {
	defer s.stop()
	ticker := time.NewTicker(serverPingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(s.ctx, serverPingTimeout)
		err := s.ws.Ping(ctx)
		cancel()
		if err != nil {
			return
		}
	}
}

// subscribe makes a feed whose notifications carry the given method. follow, which may be nil, runs once the
// subscription has been answered, until its context ends.
func (s *session) subscribe(method string, follow func(ctx context.Context, f *feed)) (f *feed, start func(), err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.subs) >= s.server.cfg.MaxSubscriptions {
		cancel()
		return nil, nil, &fault{-32006, "Too many subscriptions on the connection", "Exceeded max limit of " + strconv.Itoa(s.server.cfg.MaxSubscriptions)}
	}
	s.lastSub++
	f = &feed{session: s, id: strconv.FormatUint(s.lastSub, 10), method: method, stop: cancel}
	s.subs[f.id] = f
	return f, func() {
		f.release()
		if follow != nil {
			s.feeds.Go(func() { follow(ctx, f) })
		}
	}, nil
}

// unsubscribe ends a feed; false where there is none of that id.
func (s *session) unsubscribe(id string) bool {
	s.mu.Lock()
	f, known := s.subs[id]
	delete(s.subs, id)
	s.mu.Unlock()
	if known {
		f.stop()
	}
	return known
}

// push notifies, or holds back until the subscription has been answered.
func (f *feed) push(result any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		f.held = append(f.held, result)
		return
	}
	f.emit(result)
}

// finish pushes the last result and ends the subscription.
func (f *feed) finish(result any) {
	f.push(result)
	f.mu.Lock()
	f.over = true
	started := f.started
	f.mu.Unlock()
	if started {
		f.session.unsubscribe(f.id)
	}
}

func (f *feed) release() {
	f.mu.Lock()
	f.started = true
	for _, result := range f.held {
		f.emit(result)
	}
	f.held = nil
	over := f.over
	f.mu.Unlock()
	if over {
		f.session.unsubscribe(f.id)
	}
}

func (f *feed) emit(result any) {
	type note struct {
		Subscription string `json:"subscription"`
		Result       any    `json:"result"`
	}
	message, err := json.Marshal(struct {
		Version string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  note   `json:"params"`
	}{"2.0", f.method, note{f.id, result}})
	if err != nil {
		f.session.server.log.Error("notification does not encode", "err", err)
		return
	}
	f.session.mu.Lock()
	_, open := f.session.subs[f.id]
	f.session.mu.Unlock()
	if open {
		f.session.send(message)
	}
}
