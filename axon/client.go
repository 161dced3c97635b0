package axon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/keys"
)

// Limits of the calling end: a miner is a stranger too.
const (
	dialTime    = 10 * time.Second
	answerTime  = 40 * time.Second // of a call that is no stream
	silentTime  = 35 * time.Second // without a line of a watch
	stallTime   = 60 * time.Second // without a byte of a blob
	maxAnswer   = 8 << 20
	maxLine     = 2 << 20
	maxTries    = 3
	firstPause  = 200 * time.Millisecond
	tlsKeyBytes = 64
)

// ClientConfig says who calls which miner.
type ClientConfig struct {
	Signer keys.Signer     // nil: only Offer can be called
	Miner  basilica.Hotkey // the requests are signed for it
	Addr   netip.AddrPort
	TLSKey []byte // P-256 x then y, 64 bytes, as published on chain; the peer must hold it
	// Published reads what the miner publishes now. Where the peer does not hold the key, it is asked once a call: the miner may
	// have changed its key since. Optional.
	Published    func(ctx context.Context) (basilica.Axon, error)
	AllowPrivate bool // addresses that are not on the public Internet may be dialled
	AllowPlain   bool // without a TLSKey, plain HTTP is spoken; for localnet alone
	Now          func() time.Time
}

// Client is the calling end of one miner's door. It is safe for use by many goroutines and keeps its connections.
type Client struct {
	cfg  ClientConfig
	peer atomic.Pointer[peer]
	last atomic.Int64 // the last nonce
}

// peer is the way to what a miner published at one time.
type peer struct {
	addr netip.AddrPort
	key  []byte
	base string
	http *http.Client
}

var _ basilica.Miner = (*Client)(nil)

// NewClient makes the calling end; it dials at the first call. An axon without a TLS key is refused unless AllowPlain.
func NewClient(cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg}
	p, err := c.to(cfg.Addr, cfg.TLSKey)
	if err != nil {
		return nil, err
	}
	c.peer.Store(p)
	return c, nil
}

// to makes the way to an address and a key.
func (c *Client) to(addr netip.AddrPort, key []byte) (*peer, error) {
	transport, err := dialling(addr, c.cfg.AllowPrivate)
	if err != nil {
		return nil, err
	}
	transport.ForceAttemptHTTP2, transport.HTTP2 = true, &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
	p := &peer{addr: addr, key: key, base: "https://" + addr.String()}
	switch {
	case len(key) == tlsKeyBytes:
		transport.TLSClientConfig = pinned(key)
	case len(key) != 0:
		return nil, basilica.E(basilica.Invalid, "AXON_KEY", fmt.Sprintf("the miner's TLS key has %d bytes, want %d", len(key), tlsKeyBytes), "the miner must publish its axon again")
	case c.cfg.AllowPlain:
		p.base = "http://" + addr.String()
	default:
		return nil, basilica.E(basilica.Denied, "AXON_WITHOUT_KEY", "the miner has published no TLS key for its axon", "use a miner that has; plain axons are for localnet alone")
	}
	p.http = &http.Client{Transport: crashpoint.Transport("axon.client", transport), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p, nil
}

// again goes over to what the miner publishes now, and says whether that is another key than the peer's. Nothing of a request has
// been sent to a peer without the key.
func (c *Client) again(ctx context.Context, p *peer) (*peer, bool) {
	if c.cfg.Published == nil {
		return nil, false
	}
	now, err := c.cfg.Published(ctx)
	if err != nil || len(now.TLSKey) != tlsKeyBytes || bytes.Equal(now.TLSKey, p.key) {
		return nil, false
	}
	next, err := c.to(now.Addr, now.TLSKey)
	if err != nil {
		return nil, false
	}
	if c.peer.CompareAndSwap(p, next) {
		p.http.CloseIdleConnections()
	}
	return c.peer.Load(), true
}

// dialling makes the transport to one address of a stranger, and to none else.
func dialling(addr netip.AddrPort, allowPrivate bool) (*http.Transport, error) {
	if !addr.IsValid() || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
		return nil, basilica.E(basilica.Invalid, "AXON_ADDRESS", fmt.Sprintf("the miner's axon address %s cannot be called", addr), "wait until the miner serves an axon")
	}
	if !allowPrivate && !basilica.PublicAddr(addr.Addr()) {
		return nil, basilica.E(basilica.Denied, "ADDRESS_PRIVATE", fmt.Sprintf("the miner's axon address %s is not on the public internet", addr), "allow private addresses only where you know the network")
	}
	return &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error {
			if address != netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()).String() {
				return fmt.Errorf("dialled %s in place of %s", address, addr)
			}
			return nil
		}}).DialContext,
		TLSHandshakeTimeout: dialTime, ExpectContinueTimeout: 5 * time.Second, ResponseHeaderTimeout: answerTime, IdleConnTimeout: 50 * time.Second,
		MaxIdleConns: 4, MaxConnsPerHost: 16, MaxResponseHeaderBytes: maxHeaderBytes, DisableCompression: true,
	}, nil
}

// Close ends connections that no call uses.
func (c *Client) Close() error {
	c.peer.Load().http.CloseIdleConnections()
	return nil
}

// pinned accepts exactly the peer that holds the key; names and dates in its certificate say nothing.
func pinned(key []byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         keyName(key),
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection pins the key at every handshake
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the peer showed no certificate")
			}
			pub, ok := cs.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
			if !ok || pub.Curve != elliptic.P256() {
				return errWrongKey
			}
			point, err := pub.Bytes() // 4, then x and y
			if err != nil || len(point) != 1+tlsKeyBytes || subtle.ConstantTimeCompare(point[1:], key) != 1 {
				return errWrongKey
			}
			return nil
		},
	}
}

// keyName is the name by which a caller asks for the key that it knows: a miner that changes its key holds two for a while.
func keyName(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:16]) + ".axon.invalid"
}

var errWrongKey = errors.New("the peer does not hold the TLS key that the miner published on chain")

// PublicKey gives the 64 bytes (x then y) of a P-256 key as an axon publishes them on chain.
func PublicKey(key *keys.P256) ([]byte, error) {
	pub, ok := key.Signer().Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("the axon's key is not ECDSA")
	}
	point, err := pub.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode axon key: %w", err)
	}
	return point[1:], nil
}

// nextNonce is the time in nanoseconds, but never one that was given before.
func nextNonce(last *atomic.Int64, now time.Time) int64 {
	for {
		before := last.Load()
		next := max(now.UnixNano(), before+1)
		if last.CompareAndSwap(before, next) {
			return next
		}
	}
}

// outgoing is one request before it is signed.
type outgoing struct {
	method, target string
	sum            [32]byte  // of the body
	body           io.Reader // nil: none
	size           int64
	unsigned       bool
}

// send signs and sends, and gives the reply of a success; every other is an error. The caller closes the body.
func (c *Client) send(ctx context.Context, out outgoing) (*http.Response, error) {
	p := c.peer.Load()
	res, err := c.sendOver(ctx, p, out)
	if errors.Is(err, errWrongKey) {
		if next, ok := c.again(ctx, p); ok {
			return c.sendOver(ctx, next, out)
		}
	}
	return res, err
}

func (c *Client) sendOver(ctx context.Context, p *peer, out outgoing) (*http.Response, error) {
	target, err := url.Parse(p.base + out.target)
	if err != nil {
		return nil, fmt.Errorf("make target: %w", err)
	}
	body := out.body
	if body == nil {
		body = bytes.NewReader(nil)
	}
	// A body that cannot be read again keeps net/http from repeating a request by itself: that would be a replay.
	req, err := http.NewRequestWithContext(ctx, out.method, target.String(), io.NopCloser(onlyReader{body}))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.ContentLength = out.size
	if out.size == 0 && out.method != http.MethodGet {
		req.Body = http.NoBody
	}
	req.Header.Set("User-Agent", "basilica")
	if out.size > maxBody {
		req.Header.Set("Expect", "100-continue") // a refusal comes before the body goes
	}
	if out.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if !out.unsigned {
		if c.cfg.Signer == nil {
			return nil, basilica.E(basilica.Denied, "NO_SIGNER", "this call needs a hotkey to sign with", "give a wallet")
		}
		if err := sign(req.Header, c.cfg.Signer, out.method, target.RequestURI(), out.sum, nextNonce(&c.last, c.cfg.Now()), c.cfg.Miner); err != nil {
			return nil, err
		}
	}
	res, err := p.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, p.addr, err)
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusCreated {
		return res, nil
	}
	defer res.Body.Close()
	var reply errorReply
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil || json.Unmarshal(text, &reply) != nil || reply.Error.Code == "" {
		return nil, fromHTTP(res.StatusCode)
	}
	return nil, fromBody(reply.Error)
}

type onlyReader struct{ io.Reader }

var errDeadline = basilica.E(basilica.Unavailable, "DEADLINE", "the miner did not answer in time", "try again, or use another miner")

// ended says why ctx ended. A caller's own deadline, which has no words, is the miner's silence too.
func ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && basilica.CodeOf(cause) == "" {
		return errDeadline.With(cause)
	}
	return cause
}

func unreachable(ctx context.Context, addr netip.AddrPort, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if errors.Is(err, errWrongKey) {
		return basilica.E(basilica.Denied, "AXON_KEY_MISMATCH", "what answers at "+addr.String()+" does not hold the TLS key that the miner published", "do not trust it; read the chain again in case the miner changed its key").With(err)
	}
	return basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "the miner at "+addr.String()+" cannot be reached", "try again, or use another miner").With(err)
}

// exchange sends JSON and reads JSON. A GET that did not reach the miner is tried again, each time with a new nonce; where the
// deadline cuts the last try, the one before says more.
func exchange[T any](ctx context.Context, c *Client, method, target string, in any, unsigned bool) (T, error) {
	var v T
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errDeadline)
	defer cancel()
	out := outgoing{method: method, target: target, sum: emptyBody, unsigned: unsigned}
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return v, fmt.Errorf("encode request: %w", err)
		}
		out.sum, out.size = sha256.Sum256(body), int64(len(body))
	}
	pause := firstPause
	var away error
	for try := 1; ; try++ {
		if body != nil {
			out.body = bytes.NewReader(body)
		}
		res, err := c.send(ctx, out)
		if err == nil {
			return v, readJSON(ctx, res, &v)
		}
		if away != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return v, away
		}
		if method != http.MethodGet || try == maxTries || basilica.CodeOf(err) != "MINER_UNREACHABLE" {
			return v, err
		}
		away = err
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return v, err
		case <-wait.C:
		}
		pause *= 2
	}
}

func readJSON(ctx context.Context, res *http.Response, v any) error {
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return basilica.E(basilica.Unavailable, "ANSWER_CUT", "the miner's answer broke off", "try again").With(err)
	}
	if len(text) > maxAnswer {
		return basilica.E(basilica.Exhausted, "ANSWER_SIZE", fmt.Sprintf("the miner's answer is over %d bytes", maxAnswer), "ask for less")
	}
	if err := json.Unmarshal(text, v); err != nil {
		return badAnswer(err)
	}
	return nil
}

func badAnswer(err error) error {
	return basilica.E(basilica.Unavailable, "ANSWER_JSON", "the miner's answer is not what this path gives", "use another miner, or a client of its version").With(err)
}

// OpenValidation implements basilica.Miner.
func (c *Client) OpenValidation(ctx context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	return exchange[basilica.ValidationGrant](ctx, c, http.MethodPost, "/v1/validation/open", req, false)
}

// Offer implements basilica.Miner.
func (c *Client) Offer(ctx context.Context) (basilica.Offer, error) {
	return exchange[basilica.Offer](ctx, c, http.MethodGet, "/v1/offer", nil, true)
}

// Submit implements basilica.Miner.
func (c *Client) Submit(ctx context.Context, req basilica.Submission) (basilica.Task, error) {
	return exchange[basilica.Task](ctx, c, http.MethodPost, "/v1/tasks", req, false)
}

func taskPath(id basilica.TaskID) string { return "/v1/tasks/" + url.PathEscape(string(id)) }

// Task implements basilica.Miner.
func (c *Client) Task(ctx context.Context, _ basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	return exchange[basilica.Task](ctx, c, http.MethodGet, taskPath(id), nil, false)
}

// Tasks implements basilica.Miner.
func (c *Client) Tasks(ctx context.Context, _ basilica.Hotkey, q basilica.TaskQuery) (basilica.TaskPage, error) {
	values := url.Values{}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(min(q.Limit, basilica.MaxPage)))
	}
	for key, v := range map[string]string{"after": q.After, "name": q.Name, "state": string(q.State)} {
		if v != "" {
			values.Set(key, v)
		}
	}
	for k, v := range q.Labels {
		values.Add("label", k+"="+v)
	}
	target := "/v1/tasks"
	if len(values) > 0 {
		target += "?" + values.Encode()
	}
	return exchange[basilica.TaskPage](ctx, c, http.MethodGet, target, nil, false)
}

// Cancel implements basilica.Miner.
func (c *Client) Cancel(ctx context.Context, _ basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	return exchange[basilica.Task](ctx, c, http.MethodPost, taskPath(id)+"/cancel", nil, false)
}

// guard derives a context that ends once alive has not been called for d.
func guard(parent context.Context, d time.Duration) (ctx context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	silent := basilica.E(basilica.Unavailable, "STALLED", fmt.Sprintf("nothing came from or went to the miner for %s", d), "try again")
	timer := time.AfterFunc(d, func() { cancel(silent) })
	return ctx, func() { timer.Reset(d) }, func() {
		timer.Stop()
		cancel(nil)
	}
}

// WatchTask implements basilica.Miner. A stream that ends without a terminal event is Unavailable: watch again from the
// last offset.
func (c *Client) WatchTask(ctx context.Context, _ basilica.Hotkey, id basilica.TaskID, logOffset int64, f func(basilica.TaskEvent) error) error {
	ctx, alive, stop := guard(ctx, silentTime)
	defer stop()
	res, err := c.send(ctx, outgoing{method: http.MethodGet, target: taskPath(id) + "/events?offset=" + strconv.FormatInt(logOffset, 10), sum: emptyBody})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	scan := bufio.NewScanner(res.Body)
	scan.Buffer(make([]byte, 64<<10), maxLine)
	terminal := false
	for scan.Scan() {
		alive()
		var l line
		if err := json.Unmarshal(scan.Bytes(), &l); err != nil {
			return badAnswer(err)
		}
		switch {
		case l.Error != nil:
			return fromBody(*l.Error)
		case l.Event != nil:
			if l.Event.Task != id {
				return badAnswer(errors.New("an event of another task"))
			}
			if err := f(*l.Event); err != nil {
				return err
			}
			terminal = l.Event.State.Terminal()
		}
	}
	if err := scan.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return badAnswer(err)
		}
		return unreachable(ctx, c.peer.Load().addr, err)
	}
	if !terminal {
		return basilica.E(basilica.Unavailable, "WATCH_ENDED", "the miner ended the stream before the task's end", "watch again from the last offset")
	}
	return nil
}

func blobPath(sum basilica.Digest) string { return "/v1/blobs/sha256:" + sum.String() }

// Plan implements basilica.Miner.
func (c *Client) Plan(ctx context.Context, _ basilica.Hotkey, spec []byte) (basilica.Plan, error) {
	return exchange[basilica.Plan](ctx, c, http.MethodPost, "/v1/plan", planRequest{Spec: spec}, false)
}

// BlobState implements basilica.Miner.
func (c *Client) BlobState(ctx context.Context, _ basilica.Hotkey, blob basilica.Blob) (basilica.BlobState, error) {
	state, err := exchange[basilica.BlobState](ctx, c, http.MethodGet, blobPath(blob.SHA256)+"/state?size="+strconv.FormatInt(blob.Size, 10), nil, false)
	if err == nil && (state.Bytes < 0 || state.Bytes > blob.Size) {
		err = badAnswer(fmt.Errorf("%d of %d bytes", state.Bytes, blob.Size))
	}
	return state, err
}

// PutBlob implements basilica.Miner.
func (c *Client) PutBlob(ctx context.Context, _ basilica.Hotkey, blob basilica.Blob, offset int64, content io.Reader) error {
	ctx, alive, stop := guard(ctx, stallTime)
	defer stop()
	res, err := c.send(ctx, outgoing{
		method: http.MethodPut, target: fmt.Sprintf("%s?size=%d&offset=%d", blobPath(blob.SHA256), blob.Size, offset), sum: blob.SHA256,
		body: lively{content, alive}, size: blob.Size - offset,
	})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// lively calls alive with every piece that is read.
type lively struct {
	r     io.Reader
	alive func()
}

// Read implements io.Reader.
func (l lively) Read(p []byte) (int, error) {
	l.alive()
	return l.r.Read(p)
}

// GetBlob implements basilica.Miner. A whole that does not match its address is refused after the last byte: the caller
// must not keep what w got then. Of a blob from another offset on, the caller alone can tell whether it fits what it has.
func (c *Client) GetBlob(ctx context.Context, _ basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) error {
	ctx, alive, stop := guard(ctx, stallTime)
	defer stop()
	res, err := c.send(ctx, outgoing{method: http.MethodGet, target: fmt.Sprintf("%s?offset=%d", blobPath(sum), offset), sum: emptyBody})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	hash := sha256.New()
	sink := &written{w: io.MultiWriter(hash, w)}
	n, err := io.Copy(sink, io.LimitReader(lively{res.Body, alive}, basilica.MaxBlobBytes-offset+1))
	switch {
	case sink.err != nil:
		return fmt.Errorf("keep blob: %w", sink.err)
	case err != nil:
		return unreachable(ctx, c.peer.Load().addr, err)
	case n > basilica.MaxBlobBytes-offset || offset == 0 && basilica.Digest(hash.Sum(nil)) != sum:
		return basilica.E(basilica.Conflict, "BLOB_DIGEST", "the miner sent content that does not match its address", "do not trust this copy")
	}
	return nil
}

// written tells an error of the caller's writer from one of the connection.
type written struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (w *written) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}
