package subtensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"basilica/internal/crashpoint"
)

const (
	maxMessage  = 64 << 20  // bytes of one WebSocket message from the node
	maxNotice   = 128 << 10 // bytes of one notification that is kept: a header or a word about a transaction
	subBuffer   = 256       // notifications that wait for a slow reader before the subscription is given up
	maxOrphans  = 256       // notifications kept for a subscription whose answer is not read yet
	pingEvery   = 20 * time.Second
	pingTimeout = 10 * time.Second
)

// errLost says that the connection ended before the answer came. What was
// asked may or may not have happened.
var errLost = errors.New("connection to the node lost")

// rpcError is an error that the node answered.
type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// Error gives code, message and data.
func (e *rpcError) Error() string {
	if data := e.text(); data != "" {
		return fmt.Sprintf("node error %d: %s: %s", e.Code, e.Message, data)
	}
	return fmt.Sprintf("node error %d: %s", e.Code, e.Message)
}

// text is data as plain text.
func (e *rpcError) text() string {
	var s string
	if json.Unmarshal(e.Data, &s) == nil {
		return s
	}
	return string(e.Data)
}

// message is whatever the node sends: an answer or a notification.
type message struct {
	ID     *uint64         `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *rpcError       `json:"error"`
	Params *struct {
		Subscription json.RawMessage `json:"subscription"`
		Result       json.RawMessage `json:"result"`
	} `json:"params"`
}

type pending struct {
	answer chan message
	sub    *subscription // set for a subscribing call
}

// subscription is a stream of notifications. Its channel closes when the
// connection is lost, the reader falls too far behind, or one is too large.
type subscription struct {
	conn        *conn
	unsubscribe string
	id          string
	ch          chan json.RawMessage
}

// conn is one WebSocket connection with many calls in flight.
type conn struct {
	node *endpoint
	ws   *websocket.Conn
	stop context.CancelFunc
	wg   sync.WaitGroup
	done chan struct{} // closed when the connection has ended
	left atomic.Bool   // given up: nothing new is asked here

	mu      sync.Mutex // guards what follows
	next    uint64
	calls   map[uint64]*pending
	subs    map[string]*subscription
	orphans map[string][]json.RawMessage
	kept    int // notifications in orphans
	ended   bool
}

// nodeName is a node's URL for logs and errors: providers put their customers' keys into user, path and query.
func nodeName(node string) string {
	u, err := url.Parse(node)
	if err != nil || u.Host == "" {
		return "the configured address"
	}
	return u.Scheme + "://" + u.Host
}

// dial opens a connection. ctx bounds the dial only.
func dial(ctx context.Context, node *endpoint, client *http.Client) (*conn, error) {
	ws, answer, err := websocket.Dial(ctx, node.url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		var asked *url.Error // repeats the whole URL
		if errors.As(err, &asked) {
			err = asked.Err
		}
		err = fmt.Errorf("dial %s: %w", nodeName(node.url), err)
		if answer != nil && answer.StatusCode == http.StatusTooManyRequests {
			err = tooBusy(err)
		}
		return nil, err
	}
	ws.SetReadLimit(maxMessage)
	life, stop := context.WithCancel(context.Background())
	c := &conn{
		node: node, ws: ws, stop: stop, done: make(chan struct{}),
		calls: make(map[uint64]*pending), subs: make(map[string]*subscription), orphans: make(map[string][]json.RawMessage),
	}
	c.wg.Add(2)
	go func() {
		defer c.wg.Done()
		c.read(life)
	}()
	go func() {
		defer c.wg.Done()
		c.keepAlive(life)
	}()
	return c, nil
}

// close ends the connection and waits for its goroutines.
func (c *conn) close() {
	c.stop()
	_ = c.ws.CloseNow() // an error only says that it was closed already
	c.wg.Wait()
}

func (c *conn) alive() bool {
	if c.left.Load() {
		return false
	}
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *conn) keepAlive(ctx context.Context) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.done:
			return
		case <-t.C:
		}
		pctx, cancel := context.WithTimeout(ctx, pingTimeout)
		err := c.ws.Ping(pctx)
		cancel()
		if err != nil {
			_ = c.ws.CloseNow()
			return
		}
	}
}

func (c *conn) read(ctx context.Context) {
	defer c.end()
	for {
		_, data, err := c.ws.Read(ctx)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(data, &m) != nil {
			_ = c.ws.Close(websocket.StatusUnsupportedData, "not JSON-RPC")
			return
		}
		c.deliver(m)
	}
}

// end fails every call and closes every subscription.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	close(c.done)
	c.calls = nil
	for _, s := range c.subs {
		close(s.ch)
	}
	c.subs, c.orphans = nil, nil
}

func (c *conn) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Params != nil {
		c.notify(string(m.Params.Subscription), m.Params.Result)
		return
	}
	if m.ID == nil {
		return
	}
	p, ok := c.calls[*m.ID]
	if !ok {
		return // the caller has given up
	}
	delete(c.calls, *m.ID)
	if p.sub != nil && m.Error == nil {
		p.sub.id = string(m.Result)
		c.subs[p.sub.id] = p.sub
		early := c.orphans[p.sub.id]
		c.kept -= len(early)
		delete(c.orphans, p.sub.id)
		for _, n := range early {
			c.notify(p.sub.id, n)
		}
	}
	p.answer <- m // buffered
}

// notify hands a notification on; mu is held. Their number and their size are
// both bounded: what a node sends unasked must not fill the memory.
func (c *conn) notify(id string, result json.RawMessage) {
	s, ok := c.subs[id]
	small := len(id)+len(result) <= maxNotice
	if !ok {
		if small && c.kept < maxOrphans && c.subscribing() {
			c.orphans[id] = append(c.orphans[id], result)
			c.kept++
		}
		return
	}
	if small {
		select {
		case s.ch <- result:
			return
		default:
		}
	}
	delete(c.subs, id)
	close(s.ch)
}

// subscribing says that a subscription waits for its answer, so that a
// notification without one may be its own; mu is held.
func (c *conn) subscribing() bool {
	for _, p := range c.calls {
		if p.sub != nil {
			return true
		}
	}
	return false
}

// call asks the node and decodes the answer into out (which may be nil).
func (c *conn) call(ctx context.Context, out any, method string, params ...any) error {
	raw, err := c.ask(ctx, nil, method, params)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: answer: %w", method, err)
	}
	return nil
}

// subscribe starts a subscription.
func (c *conn) subscribe(ctx context.Context, method, unsubscribe string, params ...any) (*subscription, error) {
	s := &subscription{conn: c, unsubscribe: unsubscribe, ch: make(chan json.RawMessage, subBuffer)}
	if _, err := c.ask(ctx, s, method, params); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *conn) ask(ctx context.Context, sub *subscription, method string, params []any) (json.RawMessage, error) {
	if params == nil {
		params = []any{}
	}
	p := &pending{answer: make(chan message, 1), sub: sub}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", method, errLost)
	}
	c.next++
	id := c.next
	c.calls[id] = p
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, id)
		if sub != nil && !c.subscribing() {
			clear(c.orphans)
			c.kept = 0
		}
		c.mu.Unlock()
	}()
	data, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "method": method, "params": params})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if crashpoint.On {
		defer crashpoint.Around("subtensor." + method)()
	}
	if err := c.ws.Write(ctx, websocket.MessageText, data); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", method, ctx.Err())
		}
		c.left.Store(true) // whoever reads may notice later
		return nil, fmt.Errorf("%s: %w: %w", method, errLost, err)
	}
	select {
	case m := <-p.answer:
		if m.Error != nil {
			return nil, fmt.Errorf("%s: %w", method, m.Error)
		}
		return m.Result, nil
	case <-c.done:
		return nil, fmt.Errorf("%s: %w", method, errLost)
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// close ends the subscription. The node's answer does not matter: a
// connection that is gone has ended it too.
func (s *subscription) close() {
	s.conn.mu.Lock()
	_, open := s.conn.subs[s.id]
	delete(s.conn.subs, s.id)
	s.conn.mu.Unlock()
	if !open {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.conn.call(ctx, nil, s.unsubscribe, json.RawMessage(s.id))
}
