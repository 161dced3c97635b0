package axon

import (
	"bufio"
	"bytes"
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
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
	"basilica/keys"
)

// shop is a small Miner in memory.
type shop struct {
	mu      sync.Mutex
	blobs   map[basilica.Digest][]byte
	calls   []string
	callers []basilica.Hotkey
	fail    error
	panics  bool

	watching chan struct{} // closed when the endless task is watched; nil: nobody waits
}

func (s *shop) enter(name string, caller basilica.Hotkey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.callers = append(s.calls, name), append(s.callers, caller)
	if s.panics {
		panic("secret of the miner")
	}
	return s.fail
}

func (s *shop) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.calls) }

func (s *shop) OpenValidation(_ context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	return basilica.ValidationGrant{ID: "g-1", Executors: []basilica.GrantedAccess{{Executor: "box", HostKey: req.SSHPublicKey}}}, s.enter("open", req.Validator)
}

func (s *shop) Offer(context.Context) (basilica.Offer, error) {
	return basilica.Offer{Compute: "open", Queue: 3}, s.enter("offer", "")
}

func (s *shop) Submit(_ context.Context, req basilica.Submission) (basilica.Task, error) {
	return basilica.Task{ID: "t-1", Client: req.Caller, IdempotencyKey: req.IdempotencyKey, SpecDigest: sha256.Sum256(req.Spec), State: basilica.TaskQueued}, s.enter("submit", req.Caller)
}

func (s *shop) Task(_ context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	if strings.HasPrefix(string(id), "absent") {
		return basilica.Task{}, basilica.E(basilica.NotFound, "TASK_ABSENT", "no such task", "")
	}
	return basilica.Task{ID: id}, s.enter("task", caller)
}

func (s *shop) Tasks(_ context.Context, caller basilica.Hotkey, q basilica.TaskQuery) (basilica.TaskPage, error) {
	if q.After == "cut" {
		return basilica.TaskPage{}, basilica.E(basilica.Invalid, "BAD_CURSOR", "that is no place in this list", "begin again")
	}
	next := fmt.Sprint(q.Name, q.State, q.After, q.Labels)
	return basilica.TaskPage{Tasks: make([]basilica.Task, q.Limit), Next: next}, s.enter("tasks", caller)
}

func (s *shop) WatchTask(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID, off int64, f func(basilica.TaskEvent) error) error {
	code := 0
	switch id {
	case "forever":
		if s.watching != nil {
			close(s.watching)
		}
		<-ctx.Done()
		return ctx.Err()
	case "cut":
		return basilica.E(basilica.Unavailable, "EXECUTOR_AWAY", "the executor is away", "try again")
	case "short":
		return nil
	}
	for _, e := range []basilica.TaskEvent{
		{Task: id, State: basilica.TaskRunning, Log: &basilica.LogChunk{Offset: off, Stream: basilica.Stdout, Data: []byte("hi\n")}},
		{Task: id, State: basilica.TaskSucceeded, ExitCode: &code},
	} {
		if err := f(e); err != nil {
			return err
		}
	}
	return s.enter("watch", caller)
}

func (s *shop) Cancel(_ context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	return basilica.Task{ID: id, State: basilica.TaskCancelled}, s.enter("cancel", caller)
}

func (s *shop) Plan(_ context.Context, caller basilica.Hotkey, spec []byte) (basilica.Plan, error) {
	return basilica.Plan{Executor: "box", Queue: len(spec)}, s.enter("plan", caller)
}

func (s *shop) BlobState(_ context.Context, caller basilica.Hotkey, b basilica.Blob) (basilica.BlobState, error) {
	if err := s.enter("state", caller); err != nil {
		return basilica.BlobState{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, whole := s.blobs[b.SHA256]
	return basilica.BlobState{Bytes: b.Size, Whole: whole}, nil
}

func (s *shop) PutBlob(_ context.Context, caller basilica.Hotkey, b basilica.Blob, offset int64, r io.Reader) error {
	if err := s.enter("put", caller); err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if offset > 0 {
		s.mu.Lock()
		got = append(s.blobs[basilica.Digest{}][:offset:offset], got...) // where the tests put a beginning
		s.mu.Unlock()
	}
	if int64(len(got)) != b.Size || sha256.Sum256(got) != b.SHA256 {
		return basilica.E(basilica.Invalid, "BLOB_DIGEST", "the content does not match", "send it again")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[b.SHA256] = got
	return nil
}

func (s *shop) GetBlob(_ context.Context, caller basilica.Hotkey, d basilica.Digest, offset int64, w io.Writer) error {
	if err := s.enter("get", caller); err != nil {
		return err
	}
	s.mu.Lock()
	b, ok := s.blobs[d]
	s.mu.Unlock()
	if !ok {
		return basilica.E(basilica.NotFound, "BLOB_ABSENT", "no such blob", "")
	}
	if _, err := w.Write(b[offset:]); err != nil {
		return err
	}
	if string(b) == "half" {
		return errors.New("disk")
	}
	return nil
}

// market is one door and the keys around it.
type market struct {
	t      testing.TB
	shop   *shop
	miner  *keys.Pair
	caller *keys.Pair
	key    *keys.P256
	tlsKey []byte
	addr   netip.AddrPort
	mu     sync.Mutex
	at     time.Time
}

func (m *market) now() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.at }

func (m *market) move(d time.Duration) { m.mu.Lock(); defer m.mu.Unlock(); m.at = m.at.Add(d) }

func pair(t testing.TB, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newMarket(t testing.TB, edit func(*ServerConfig)) *market {
	t.Helper()
	return newMarketOf(t, &shop{blobs: map[basilica.Digest][]byte{}}, edit)
}

func newMarketOf(t testing.TB, shop basilica.Miner, edit func(*ServerConfig)) *market {
	t.Helper()
	return newMarketWith(t, shop, edit, func(*Server) {})
}

// newMarketWith lets a test shorten what the server waits.
func newMarketWith(t testing.TB, of basilica.Miner, edit func(*ServerConfig), shorten func(*Server)) *market {
	t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	m := &market{t: t, miner: pair(t, "//Bob//miner"), caller: pair(t, "//Dave//client"), key: key, at: time.Now()}
	m.shop, _ = of.(*shop)
	if m.tlsKey, err = PublicKey(key); err != nil {
		t.Fatal(err)
	}
	cfg := ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Key: key, Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&cfg)
	}
	s, err := NewServer(of, cfg)
	if err != nil {
		t.Fatal(err)
	}
	shorten(s)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return m
}

func (m *market) client(edit func(*ClientConfig)) *Client {
	m.t.Helper()
	cfg := ClientConfig{Signer: m.caller, Miner: basilica.Hotkey(m.miner.SS58()), Addr: m.addr, TLSKey: m.tlsKey, AllowPrivate: true, Now: m.now}
	if edit != nil {
		edit(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

func TestCalls(t *testing.T) {
	for name, edit := range map[string]func(*market) *Client{
		"https": func(m *market) *Client { return m.client(nil) },
		"ed25519": func(m *market) *Client {
			ed, err := keys.FromURI(keys.Ed25519, "//Dave//client")
			if err != nil {
				t.Fatal(err)
			}
			m.caller = ed
			return m.client(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMarket(t, nil)
			exercise(t, m, edit(m))
		})
	}
	t.Run("plain", func(t *testing.T) {
		m := newMarket(t, func(c *ServerConfig) { c.Key = nil })
		exercise(t, m, m.client(func(c *ClientConfig) { c.TLSKey, c.AllowPlain = nil, true }))
	})
}

func exercise(t *testing.T, m *market, c *Client) {
	t.Helper()
	ctx, me := t.Context(), basilica.Hotkey(m.caller.SS58())
	if o, err := c.Offer(ctx); err != nil || o.Queue != 3 {
		t.Fatal(o, err)
	}
	if g, err := c.OpenValidation(ctx, basilica.ValidationRequest{SSHPublicKey: []byte("k"), Round: 3}); err != nil || string(g.Executors[0].HostKey) != "k" {
		t.Fatal(g, err)
	}
	task, err := c.Submit(ctx, basilica.Submission{IdempotencyKey: "i", Spec: []byte("{}")})
	if err != nil || task.Client != me || task.SpecDigest != sha256.Sum256([]byte("{}")) {
		t.Fatal(task, err)
	}
	if got, err := c.Task(ctx, "ignored", "a/b c"); err != nil || got.ID != "a/b c" {
		t.Fatal(got, err)
	}
	q := basilica.TaskQuery{Limit: 7, Name: "n &", State: basilica.TaskLost, After: "a", Labels: map[string]string{"k": "v=w", "": "x"}}
	if got, err := c.Tasks(ctx, "", q); err != nil || len(got.Tasks) != 7 || got.Next != "n &"+"lost"+"a"+"map[:x k:v=w]" {
		t.Fatal(len(got.Tasks), got.Next, err)
	}
	if got, err := c.Tasks(ctx, "", basilica.TaskQuery{}); err != nil || len(got.Tasks) != basilica.DefaultPage {
		t.Fatal(len(got.Tasks), err)
	}
	if _, err := c.Tasks(ctx, "", basilica.TaskQuery{After: "cut"}); basilica.CodeOf(err) != "BAD_CURSOR" || basilica.KindOf(err) != basilica.Invalid {
		t.Fatal(err)
	}
	if got, err := c.Cancel(ctx, "", "t-1"); err != nil || got.State != basilica.TaskCancelled {
		t.Fatal(got, err)
	}
	var events []basilica.TaskEvent
	if err := c.WatchTask(ctx, "", "t-1", 12, func(e basilica.TaskEvent) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[0].Log.Offset != 12 || string(events[0].Log.Data) != "hi\n" || *events[1].ExitCode != 0 {
		t.Fatalf("%+v", events)
	}
	for id, code := range map[basilica.TaskID]string{"absent": "TASK_ABSENT", "cut": "EXECUTOR_AWAY", "short": "WATCH_ENDED"} {
		if err := c.WatchTask(ctx, "", id, 0, nil); basilica.CodeOf(err) != code {
			t.Fatal(id, err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	go cancel()
	if err := c.WatchTask(gone, "", "forever", 0, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	for _, b := range [][]byte{content, nil, []byte("x")} {
		blob := basilica.Blob{SHA256: sha256.Sum256(b), Size: int64(len(b))}
		if err := c.PutBlob(ctx, "", blob, 0, bytes.NewReader(b)); err != nil {
			t.Fatal(len(b), err)
		}
		var got bytes.Buffer
		if err := c.GetBlob(ctx, "", blob.SHA256, 0, &got); err != nil || !bytes.Equal(got.Bytes(), b) {
			t.Fatal(len(b), err)
		}
	}
	whole := basilica.Blob{SHA256: sha256.Sum256([]byte("begun, ended")), Size: 12}
	if state, err := c.BlobState(ctx, "", whole); err != nil || state.Whole {
		t.Fatal(state, err)
	}
	m.shop.blobs[basilica.Digest{}] = []byte("begun, and more")
	if err := c.PutBlob(ctx, "", whole, 7, strings.NewReader("ended")); err != nil {
		t.Fatal(err)
	}
	if state, err := c.BlobState(ctx, "", whole); err != nil || !state.Whole || state.Bytes != 12 {
		t.Fatal(state, err)
	}
	var rest bytes.Buffer
	if err := c.GetBlob(ctx, "", whole.SHA256, 7, &rest); err != nil || rest.String() != "ended" {
		t.Fatal(rest.String(), err)
	}
	if plan, err := c.Plan(ctx, "", []byte("{}")); err != nil || plan.Executor != "box" || plan.Queue != 2 {
		t.Fatal(plan, err)
	}
	if err := c.PutBlob(ctx, "", basilica.Blob{SHA256: basilica.Digest{1}, Size: int64(len(content))}, 0, bytes.NewReader(content)); basilica.CodeOf(err) != "BLOB_DIGEST" {
		t.Fatal(err)
	}
	if err := c.GetBlob(ctx, "", basilica.Digest{1}, 0, io.Discard); basilica.KindOf(err) != basilica.NotFound {
		t.Fatal(err)
	}
	half := sha256.Sum256([]byte("half"))
	m.shop.blobs[half], m.shop.blobs[basilica.Digest{2}] = []byte("half"), []byte("other")
	if err := c.GetBlob(ctx, "", half, 0, io.Discard); err == nil {
		t.Fatal("half a blob passed")
	}
	if err := c.GetBlob(ctx, "", basilica.Digest{2}, 0, io.Discard); basilica.CodeOf(err) != "BLOB_DIGEST" {
		t.Fatal(err)
	}
	for _, caller := range m.shop.callers {
		if caller != me && caller != "" {
			t.Fatal(m.shop.callers)
		}
	}
	m.shop.fail = fmt.Errorf("deep: %w", basilica.E(basilica.Conflict, "OTHER_SPEC", "another spec has this key", "choose another key").With(errors.New("private")))
	if _, err := c.Submit(ctx, basilica.Submission{IdempotencyKey: "i", Spec: []byte("{}")}); basilica.KindOf(err) != basilica.Conflict || basilica.FixOf(err) != "choose another key" || strings.Contains(err.Error(), "private") {
		t.Fatal(err)
	}
	m.shop.fail = errors.New("private")
	if _, err := c.Task(ctx, "", "t"); basilica.KindOf(err) != basilica.Internal || strings.Contains(err.Error(), "private") {
		t.Fatal(err)
	}
	m.shop.fail, m.shop.panics = nil, true
	if _, err := c.Offer(ctx); basilica.KindOf(err) != basilica.Internal || strings.Contains(err.Error(), "secret") {
		t.Fatal(err)
	}
}

func TestClientRefuses(t *testing.T) {
	m := newMarket(t, nil)
	base := ClientConfig{Signer: m.caller, Miner: basilica.Hotkey(m.miner.SS58()), Addr: m.addr, TLSKey: m.tlsKey, Now: m.now}
	for name, c := range map[string]struct {
		edit func(*ClientConfig)
		code string
	}{
		"loopback":    {func(*ClientConfig) {}, "ADDRESS_PRIVATE"},
		"private":     {func(c *ClientConfig) { c.Addr = netip.MustParseAddrPort("10.1.2.3:8080") }, "ADDRESS_PRIVATE"},
		"port 0":      {func(c *ClientConfig) { c.Addr = netip.MustParseAddrPort("8.8.8.8:0") }, "AXON_ADDRESS"},
		"no address":  {func(c *ClientConfig) { c.Addr = netip.AddrPort{} }, "AXON_ADDRESS"},
		"multicast":   {func(c *ClientConfig) { c.Addr, c.AllowPrivate = netip.MustParseAddrPort("224.0.0.1:1"), true }, "AXON_ADDRESS"},
		"no key":      {func(c *ClientConfig) { c.TLSKey, c.AllowPrivate = nil, true }, "AXON_WITHOUT_KEY"},
		"half a key":  {func(c *ClientConfig) { c.TLSKey, c.AllowPrivate, c.AllowPlain = c.TLSKey[:32], true, true }, "AXON_KEY"},
		"translation": {func(c *ClientConfig) { c.Addr = netip.MustParseAddrPort("[::ffff:10.0.0.1]:1") }, "ADDRESS_PRIVATE"},
	} {
		cfg := base
		c.edit(&cfg)
		if _, err := NewClient(cfg); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := bytes.Clone(m.tlsKey)
	wrong[0] ^= 1
	if _, err := m.client(func(c *ClientConfig) { c.TLSKey = wrong }).Offer(t.Context()); basilica.CodeOf(err) != "AXON_KEY_MISMATCH" {
		t.Error(err)
	}
	if _, err := m.client(func(c *ClientConfig) { c.Signer = nil }).Task(t.Context(), "", "t"); basilica.CodeOf(err) != "NO_SIGNER" {
		t.Error(err)
	}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := dead.Addr().(*net.TCPAddr).AddrPort()
	dead.Close()
	if _, err := m.client(func(c *ClientConfig) { c.Addr = addr }).Offer(t.Context()); basilica.CodeOf(err) != "MINER_UNREACHABLE" {
		t.Error(err)
	}
	if m.shop.count() != 0 {
		t.Error(m.shop.calls)
	}
}

// raw sends one hand-made request over HTTP/1.1 and gives status and code of the error.
func (m *market) raw(t *testing.T, method, target string, header http.Header, body []byte) (int, string) {
	t.Helper()
	conn, err := tls.Dial("tcp", m.addr.String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, m.addr)
	if header.Get("Content-Length") == "" && header.Get("Transfer-Encoding") == "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	if err := header.Write(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\r\n")
	b.Write(body)
	// A door that refuses before the body is read may close first.
	_, _ = conn.Write(b.Bytes())
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var reply errorReply
	_ = json.NewDecoder(res.Body).Decode(&reply)
	return res.StatusCode, reply.Error.Code
}

func (m *market) headers(t *testing.T, method, target string, body []byte, at time.Time) http.Header {
	t.Helper()
	h := http.Header{}
	if err := sign(h, m.caller, method, target, sha256.Sum256(body), at.UnixNano(), basilica.Hotkey(m.miner.SS58())); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestDoorRefuses(t *testing.T) {
	m := newMarket(t, func(c *ServerConfig) {
		c.Compute = func(_ context.Context, h basilica.Hotkey) error {
			if h == basilica.Hotkey(pair(t, "//Eve").SS58()) {
				return basilica.E(basilica.Denied, "NOT_ALLOWED", "not on the list", "ask the miner")
			}
			return nil
		}
	})
	body := []byte(`{"idempotency_key":"k","spec":"e30="}`)
	const target = "/v1/tasks"
	tick := int64(0)
	fresh := func() time.Time { tick++; return m.now().Add(time.Duration(tick)) }
	set := func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	twice := func(name string) func(http.Header) { return func(h http.Header) { h.Add(name, h.Get(name)) } }
	for name, c := range map[string]struct {
		edit   func(http.Header)
		target string
		body   []byte
		at     time.Time
		status int
		code   string
	}{
		"good":            {nil, target, body, fresh(), 200, ""},
		"good, 10 s old":  {nil, target, body, m.now().Add(-maxAge), 200, ""},
		"good, 2 s ahead": {nil, target, body, m.now().Add(maxAhead), 200, ""},
		"too old":         {nil, target, body, m.now().Add(-maxAge - 1), 401, codeStale},
		"too new":         {nil, target, body, m.now().Add(maxAhead + 1), 401, codeStale},
		"target":          {nil, target + "?x=1", body, fresh(), 401, codeSignature},
		"encoded target":  {nil, "/v1/%74asks", body, fresh(), 401, codeSignature},
		"body":            {nil, target, []byte(`{"idempotency_key":"K","spec":"e30="}`), fresh(), 401, codeSignature},
		"version":         {set(headerVersion, "2"), target, body, fresh(), 401, codeMalformed},
		"no version":      {func(h http.Header) { h.Del(headerVersion) }, target, body, fresh(), 401, codeMalformed},
		"hotkey":          {set(headerHotkey, pair(t, "//Eve").SS58()), target, body, fresh(), 401, codeSignature},
		"bad hotkey":      {set(headerHotkey, "5abc"), target, body, fresh(), 401, codeMalformed},
		"receiver":        {set(headerReceiver, pair(t, "//Eve").SS58()), target, body, fresh(), 401, codeReceiver},
		"no receiver":     {func(h http.Header) { h.Del(headerReceiver) }, target, body, fresh(), 401, codeReceiver},
		"nonce":           {set(headerNonce, strconv.FormatInt(m.now().UnixNano()+99999, 10)), target, body, fresh(), 401, codeSignature},
		"nonce with plus": {func(h http.Header) { h.Set(headerNonce, "+"+h.Get(headerNonce)) }, target, body, fresh(), 401, codeMalformed},
		"nonce zero":      {func(h http.Header) { h.Set(headerNonce, "0"+h.Get(headerNonce)) }, target, body, fresh(), 401, codeMalformed},
		"scheme":          {set(headerCrypto, "ed25519"), target, body, fresh(), 401, codeSignature},
		"unknown scheme":  {set(headerCrypto, "mldsa"), target, body, fresh(), 401, codeMalformed},
		"short signature": {set(headerSignature, "0x00"), target, body, fresh(), 401, codeMalformed},
		"two signatures":  {twice(headerSignature), target, body, fresh(), 401, codeMalformed},
		"two nonces":      {twice(headerNonce), target, body, fresh(), 401, codeMalformed},
		"unknown field":   {nil, target, []byte(`{"idempotency_key":"k","spec":"e30=","x":1}`), fresh(), 400, "BODY_JSON"},
		"two values":      {nil, target, []byte(`{"idempotency_key":"k","spec":"e30="}{}`), fresh(), 400, "BODY_JSON"},
		"no key":          {nil, target, []byte(`{"idempotency_key":"","spec":"e30="}`), fresh(), 400, "IDEMPOTENCY_KEY"},
		"large":           {nil, target, bytes.Repeat([]byte("a"), maxBody+1), fresh(), 413, codeBodySize},
		"no route":        {nil, "/v1/nothing", body, fresh(), 404, "ROUTE"},
	} {
		t.Run(name, func(t *testing.T) {
			signedBody, signedTarget := c.body, c.target
			if c.code == codeSignature {
				signedBody, signedTarget = body, target
			}
			h := m.headers(t, http.MethodPost, signedTarget, signedBody, c.at)
			if c.edit != nil {
				c.edit(h)
			}
			before := m.shop.count()
			status, code := m.raw(t, http.MethodPost, c.target, h, c.body)
			if status != c.status || code != c.code {
				t.Fatalf("%d %s, want %d %s", status, code, c.status, c.code)
			}
			if took := m.shop.count() > before; took != (c.status == 200) {
				t.Fatalf("handled: %v", took)
			}
		})
	}
	t.Run("chunked and large", func(t *testing.T) {
		large := bytes.Repeat([]byte("a"), maxBody+1)
		h := m.headers(t, http.MethodPost, target, large, fresh())
		h.Set("Transfer-Encoding", "chunked")
		status, code := m.raw(t, http.MethodPost, target, h, append(append([]byte(fmt.Sprintf("%x\r\n", len(large))), large...), "\r\n0\r\n\r\n"...))
		if status != 413 || code != codeBodySize {
			t.Fatal(status, code)
		}
	})
	t.Run("host", func(t *testing.T) {
		h := http.Header{"Host": {"rebound.example"}}
		req, err := http.NewRequest(http.MethodGet, "https://"+m.addr.String()+"/v1/offer", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = h.Get("Host")
		res, err := m.client(nil).peer.Load().http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Fatal(res.Status)
		}
	})
	t.Run("policy leaves no nonce", func(t *testing.T) {
		eve := pair(t, "//Eve")
		good := m.caller
		m.caller = eve
		h := m.headers(t, http.MethodPost, target, body, fresh())
		m.caller = good
		for range 2 {
			if status, code := m.raw(t, http.MethodPost, target, h, body); status != 403 || code != "NOT_ALLOWED" {
				t.Fatal(status, code)
			}
		}
	})
	t.Run("replay", func(t *testing.T) {
		h := m.headers(t, http.MethodPost, target, body, fresh())
		if status, code := m.raw(t, http.MethodPost, target, h, body); status != 200 {
			t.Fatal(status, code)
		}
		if status, code := m.raw(t, http.MethodPost, target, h, body); status != 401 || code != codeReplayed {
			t.Fatal(status, code)
		}
		forged := h.Clone()
		forged.Set(headerSignature, "0x"+strings.Repeat("ab", 64))
		if status, code := m.raw(t, http.MethodPost, target, forged, body); status != 401 || code != codeSignature {
			t.Fatal(status, code)
		}
	})
}

func TestBlobDoorRefuses(t *testing.T) {
	m := newMarket(t, nil)
	content := []byte("content")
	sum := basilica.Digest(sha256.Sum256(content))
	path := blobPath(sum)
	for name, c := range map[string]struct {
		target string
		body   []byte
		length string
		status int
		code   string
		taken  bool
	}{
		"good":              {path + "?size=7", content, "", 201, "", true},
		"no size":           {path, content, "", 400, "BLOB_SIZE", false},
		"other length":      {path + "?size=8", content, "", 400, "BLOB_SIZE", false},
		"huge":              {path + "?size=99999999999999", content, "", 400, "QUERY", false},
		"other content":     {path + "?size=7", []byte("CONTENT"), "", 400, "BLOB_DIGEST", true},
		"upper-case digest": {"/v1/blobs/sha256:" + strings.ToUpper(sum.String()) + "?size=7", content, "", 400, "BLOB_NAME", false},
		"other hash":        {"/v1/blobs/md5:00?size=7", content, "", 400, "BLOB_NAME", false},
	} {
		t.Run(name, func(t *testing.T) {
			m.move(time.Millisecond)
			before := m.shop.count()
			h := m.headers(t, http.MethodPut, c.target, content, m.now())
			if status, code := m.raw(t, http.MethodPut, c.target, h, c.body); status != c.status || code != c.code {
				t.Fatalf("%d %s, want %d %s", status, code, c.status, c.code)
			}
			if (m.shop.count() > before) != c.taken {
				t.Fatal(m.shop.calls)
			}
		})
	}
	t.Run("longer than it says", func(t *testing.T) {
		m.move(time.Millisecond)
		h := m.headers(t, http.MethodPut, path+"?size=3", content, m.now())
		h.Set("Transfer-Encoding", "chunked")
		if status, code := m.raw(t, http.MethodPut, path+"?size=3", h, []byte("7\r\ncontent\r\n0\r\n\r\n")); status != 413 || code != codeBodySize {
			t.Fatal(status, code)
		}
	})
	t.Run("refused before the body", func(t *testing.T) {
		m.move(time.Millisecond)
		h := m.headers(t, http.MethodPut, path+"?size=7", []byte("another"), m.now())
		h.Set("Content-Length", "7") // and none of it is ever sent
		if status, code := m.raw(t, http.MethodPut, path+"?size=7", h, nil); status != 401 || code != codeSignature {
			t.Fatal(status, code)
		}
	})
}

func TestRateLimits(t *testing.T) {
	m := newMarket(t, func(c *ServerConfig) { c.RateHotkey = 1 })
	c := m.client(nil)
	for range 4 {
		if _, err := c.Task(t.Context(), "", "t"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Task(t.Context(), "", "t"); basilica.KindOf(err) != basilica.Exhausted || basilica.CodeOf(err) != "RATE_LIMIT" {
		t.Fatal(err)
	}
	if _, err := c.Offer(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.move(2 * time.Second)
	if _, err := c.Task(t.Context(), "", "t"); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := basilica.E(basilica.Kind(rapid.IntRange(1, 6).Draw(r, "kind")), rapid.StringMatching(`[A-Z_]{1,20}`).Draw(r, "code"), rapid.String().Draw(r, "sentence"), rapid.String().Draw(r, "fix"))
		status, body := toBody(fmt.Errorf("wrapped: %w", e.With(errors.New("cause"))))
		text, err := json.Marshal(errorReply{Error: body})
		if err != nil {
			r.Fatal(err)
		}
		var reply errorReply
		if err := json.Unmarshal(text, &reply); err != nil {
			r.Fatal(err)
		}
		var back *basilica.Error
		if !errors.As(fromBody(reply.Error), &back) || back.Kind != e.Kind || back.Code != e.Code || strings.Contains(string(text), "wrapped") {
			r.Fatalf("%+v became %+v", e, back)
		}
		if kind := basilica.KindOf(fromHTTP(status)); kind != e.Kind {
			r.Fatalf("status %d of kind %s is read as %s", status, e.Kind, kind)
		}
	})
}

func TestNoncesNeverRepeat(t *testing.T) {
	c := &Client{cfg: ClientConfig{Now: func() time.Time { return time.Unix(5, 0) }}}
	seen := make(map[int64]bool)
	for range 100 {
		n := nextNonce(&c.last, c.cfg.Now())
		if seen[n] {
			t.Fatal("a nonce came twice")
		}
		seen[n] = true
	}
}
