package axon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
)

// TestSynapseVectors: hashes, signatures and headers as the source of the SDK makes them.
func TestSynapseVectors(t *testing.T) {
	var file struct {
		BodyHashes []struct {
			Name, BodyHash       string
			PythonStrOfEachField []string
		}
		EmptyBodyHash string
		Signatures    []struct {
			Name, SignerPublicKey, Nonce, DendriteHotkey, AxonHotkey, UUID, BodyHash, Message, Signature string
			Headers                                                                                      map[string]string
		}
		DummyInputHeaders []struct{ PythonType, JSON, Header string }
	}
	vectors.JSON(t, "bittensor/http-axon-v10.json", &file)
	for _, v := range file.BodyHashes {
		if got := bodyHash(v.PythonStrOfEachField...); got != v.BodyHash {
			t.Errorf("%s: %s, want %s", v.Name, got, v.BodyHash)
		}
	}
	for json, text := range map[string]string{`5`: "5", `"hello"`: "hello", `true`: "True", `false`: "False", `null`: "None", ``: "None", `-3`: "-3"} {
		if got, err := pythonText([]byte(json)); err != nil || got != text {
			t.Errorf("%s: %q %v, want %q", json, got, err, text)
		}
	}
	for _, json := range []string{`1.0`, `1e3`, `["a"]`, `{"k":1}`, `-`} {
		if got, err := pythonText([]byte(json)); err == nil {
			t.Errorf("%s: %q", json, got)
		}
	}
	if bodyHash() != file.EmptyBodyHash {
		t.Error("the hash of no field")
	}
	for _, v := range file.Signatures {
		nonce, err := strconv.ParseInt(v.Nonce, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		message := axonMessage(nonce, v.DendriteHotkey, v.AxonHotkey, v.UUID)
		if v.BodyHash != "" {
			message = requestMessage(nonce, v.DendriteHotkey, v.AxonHotkey, v.UUID, v.BodyHash)
		}
		public, err := hex.DecodeString(v.SignerPublicKey[2:])
		if err != nil {
			t.Fatal(err)
		}
		signature, err := keys.ParseSignature(v.Signature)
		if err != nil || message != v.Message || !keys.Verify(keys.Sr25519, [32]byte(public), []byte(message), signature) {
			t.Errorf("%s: %s %v", v.Name, message, err)
		}
		if v.Headers == nil {
			continue
		}
		in := http.Header{}
		for name, text := range v.Headers {
			in.Set(name, text)
		}
		s, err := readSynapse(in)
		if err != nil {
			t.Fatal(err)
		}
		out := http.Header{}
		s.write(out, 10)
		for name, text := range v.Headers {
			if out[name] == nil || out[name][0] != text {
				t.Errorf("%s: header %s is %q, want %q", v.Name, name, out[name], text)
			}
		}
		if len(out) != len(v.Headers)+2 { // and the sizes
			t.Errorf("%s: %v", v.Name, out)
		}
	}
	for _, v := range file.DummyInputHeaders {
		filled := map[string]string{"str": `"x"`, "int": "7", "list": "[1]", "dict": `{"a":1}`, "float": "1.5", "bool": "true"}[v.PythonType]
		if got := emptyOf([]byte(filled)); got != v.JSON || base64.StdEncoding.EncodeToString([]byte(got)) != v.Header {
			t.Errorf("%s: %s", v.PythonType, got)
		}
	}
	t.Logf("%d body hashes, %d signatures, %d dummy headers", len(file.BodyHashes), len(file.Signatures), len(file.DummyInputHeaders))
}

// axonSession is one recorded exchange between the Dendrite and the Axon of SDK 10.5.0.
type axonSession struct {
	Case    string
	Request struct {
		Line       string
		Headers    [][2]string
		BodyUTF8   *string `json:"body_utf8"`
		BodyLen    int     `json:"body_len"`
		BodySHA256 string  `json:"body_sha256"`
	}
	Response struct {
		Line     string
		Headers  [][2]string
		BodyUTF8 string `json:"body_utf8"`
	}
}

var nameless = regexp.MustCompile(`#[0-9a-f]{8}-[0-9a-f-]{27}`)

// TestAxonSessionVectors plays what the Dendrite of SDK 10.5.0 sent to the bridge, and compares status, headers and body with
// what its Axon answered. Where ours is stricter by choice, it says so here.
func TestAxonSessionVectors(t *testing.T) {
	var file struct{ Sessions []axonSession }
	vectors.JSON(t, "bittensor/axon-sessions.json", &file)
	stricter := map[string]string{
		"future_nonce": "HTTP/1.1 401 Unauthorized",             // a nonce an hour ahead passes at 10.5
		"oversize":     "HTTP/1.1 413 Request Entity Too Large", // 5 MB pass at 10.5
	}
	listed, played := false, 0
	m := newMarketWith(t, &shop{}, func(c *ServerConfig) {
		c.Bridge = pair(t, "//Bob//hot")
		c.Hotkey = basilica.Hotkey(c.Bridge.SS58())
	}, func(s *Server) {
		b := newBridge(s, s.cfg.Bridge)
		b.kinds = append(b.kinds[:1], kind{name: "Prompt", hashed: []string{"text"}, may: func(context.Context, basilica.Hotkey) error {
			if listed {
				return basilica.E(basilica.Denied, "", "listed", "")
			}
			return nil
		}, forward: func(ctx context.Context, _ basilica.Hotkey, fields map[string]json.RawMessage) (map[string]any, error) {
			switch string(fields["text"]) {
			case `"boom"`:
				return nil, errors.New("boom")
			case `"sleep"`:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			var text string
			err := json.Unmarshal(fields["text"], &text)
			return map[string]any{"reply": "hi " + text}, err
		}})
		s.bridge = b.handler()
	})
	for _, s := range file.Sessions {
		t.Run(s.Case, func(t *testing.T) {
			listed = s.Case == "blacklisted"
			m.move(clockOf(t, s).Sub(m.now()))
			res, body := m.play(t, s, file.Sessions[0])
			played++
			if want, ok := stricter[s.Case]; ok {
				if got := "HTTP/1.1 " + res.Status; got != want || res.Header.Get(headerAxon+"signature") == "" {
					t.Errorf("%s: %s %v", got, body, res.Header)
				}
				return
			}
			if s.Case == "client_timeout" { // the Dendrite was gone after its second: nothing is recorded
				if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "DEADLINE") {
					t.Errorf("%s: %s", res.Status, body)
				}
				return
			}
			compareSession(t, s, res, body)
		})
	}
	if played != len(file.Sessions) || played == 0 {
		t.Errorf("%d of %d sessions", played, len(file.Sessions))
	}
	t.Logf("%d sessions, of these %d where ours is stricter and 1 that had no answer", played, len(stricter))
}

// clockOf is when the recorded axon had the request: the nonce of its answer, else a moment after the request's.
func clockOf(t *testing.T, s axonSession) time.Time {
	t.Helper()
	text := headerOf(s.Response.Headers, headerAxon+"nonce")
	if text == "" {
		text = headerOf(s.Request.Headers, headerDendrite+"nonce")
	}
	if text == "abc" { // of the session with a bad header: any time will do
		return time.Unix(1795638002, 0)
	}
	nonce, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, nonce).Add(time.Millisecond)
	if s.Case == "future_nonce" {
		at = at.Add(-time.Hour)
	}
	return at
}

// play sends a recorded request as it was. Of the large one the record has the digest alone: it is that of the first with a
// longer text.
func (m *market) play(t *testing.T, s, first axonSession) (*http.Response, string) {
	t.Helper()
	var body []byte
	if s.Request.BodyUTF8 != nil {
		body = []byte(*s.Request.BodyUTF8)
	} else {
		text := *first.Request.BodyUTF8
		for name, field := range map[string]string{"nonce": `"nonce": `, "uuid": `"uuid": "`, "signature": `"signature": "`} {
			text = strings.Replace(text, field+headerOf(first.Request.Headers, headerDendrite+name), field+headerOf(s.Request.Headers, headerDendrite+name), 1)
		}
		text = strings.Replace(text, `"total_size": 3134`, `"total_size": 5003129`, 1)
		body = []byte(strings.Replace(text, `"text": "hello"`, `"text": "`+strings.Repeat("x", 5_000_000)+`"`, 1))
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != s.Request.BodySHA256 {
			t.Fatalf("the large body has %d bytes, recorded are %d, and its digest differs", len(body), s.Request.BodyLen)
		}
	}
	if len(body) != s.Request.BodyLen {
		t.Fatalf("%d bytes, recorded are %d", len(body), s.Request.BodyLen)
	}
	method, rest, _ := strings.Cut(s.Request.Line, " ")
	target, _, _ := strings.Cut(rest, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.addr.String()+target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range s.Request.Headers {
		if kv[0] != "Host" && kv[0] != "Content-Length" && kv[0] != "Accept-Encoding" {
			req.Header[kv[0]] = append(req.Header[kv[0]], kv[1])
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// compareSession compares an answer with the recorded one in all but what time, chance and Python's memory make of it.
func compareSession(t *testing.T, s axonSession, res *http.Response, body string) {
	t.Helper()
	if got := "HTTP/1.1 " + res.Status; got != s.Response.Line {
		t.Errorf("%s, recorded is %s: %s", got, s.Response.Line, body)
	}
	// The number of a fault, when the axon answered and with which id and signature, where the caller called from, how long
	// it took; the sizes are of objects in Python's memory.
	chance := map[string]bool{
		headerAxon + "process_time": true, headerAxon + "nonce": true, headerAxon + "uuid": true, headerAxon + "signature": true,
		headerDendrite + "port": true, "header_size": true, "total_size": true,
	}
	for _, kv := range s.Response.Headers {
		name, want := kv[0], nameless.ReplaceAllString(kv[1], "#")
		if name == "date" || name == "server" || name == "content-length" {
			continue
		}
		got := nameless.ReplaceAllString(res.Header.Get(name), "#")
		if got == "" || !chance[name] && got != want {
			t.Errorf("header %s: %q, recorded is %q", name, got, want)
		}
	}
	recorded := map[string]bool{}
	for _, kv := range s.Response.Headers {
		recorded[http.CanonicalHeaderKey(kv[0])] = true
	}
	for name := range res.Header {
		if strings.HasPrefix(name, "Bt_header_") && !recorded[name] {
			t.Errorf("header %s is not in the record", name)
		}
	}
	if signature := res.Header.Get(headerAxon + "signature"); signature != "" {
		nonce, err := strconv.ParseInt(res.Header.Get(headerAxon+"nonce"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := keys.ParseSignature(signature)
		message := axonMessage(nonce, res.Header.Get(headerDendrite+"hotkey"), res.Header.Get(headerAxon+"hotkey"), res.Header.Get(headerAxon+"uuid"))
		if err != nil || !keys.Verify(keys.Sr25519, pair(t, "//Bob//hot").PublicKey(), []byte(message), raw) {
			t.Errorf("the axon's signature: %v", err)
		}
	}
	var got, want any
	if err := json.Unmarshal([]byte(nameless.ReplaceAllString(body, "#")), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if err := json.Unmarshal([]byte(nameless.ReplaceAllString(s.Response.BodyUTF8, "#")), &want); err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{got, want} {
		m := v.(map[string]any)
		delete(m, "total_size")
		if axon, ok := m["axon"].(map[string]any); ok {
			delete(axon, "process_time")
		}
		if details, ok := m["detail"].([]any); ok { // FastAPI tells its programmers more
			delete(details[0].(map[string]any), "ctx")
			delete(details[0].(map[string]any), "input")
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("body %v, recorded is %v", got, want)
	}
}

// bridged is a door with a bridge, and a dendrite that calls it.
func bridged(t testing.TB, of basilica.Miner, edit func(*ServerConfig)) (*market, *Dendrite) {
	t.Helper()
	m := newMarketOf(t, of, func(c *ServerConfig) {
		c.Bridge = pair(t, "//Bob//miner")
		if edit != nil {
			edit(c)
		}
	})
	return m, m.dendrite(t, m.addr)
}

func (m *market) dendrite(t testing.TB, addr netip.AddrPort) *Dendrite {
	t.Helper()
	d, err := NewDendrite(DendriteConfig{Signer: m.caller, Axon: basilica.Hotkey(m.miner.SS58()), Addr: addr, AllowPrivate: true, Now: m.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// spoke calls a synapse of the bridge with a JSON request and gives the JSON of its reply.
func spoke(t testing.TB, d *Dendrite, class string, request any) (string, error) {
	t.Helper()
	raw, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Call(t.Context(), class, map[string]any{"request": string(raw)}, []string{"request"}, 10*time.Second)
	if err != nil {
		return "", err
	}
	var reply string
	if err := json.Unmarshal(out["reply"], &reply); err != nil {
		t.Fatalf("%v: %v", err, out)
	}
	return reply, nil
}

// TestBridge: one port speaks both protocols, and hands the same calls with the same caller to the miner.
func TestBridge(t *testing.T) {
	m, d := bridged(t, &shop{}, nil)
	if offer, err := m.client(nil).Offer(t.Context()); err != nil || offer.Queue != 3 {
		t.Fatalf("TLS on the same port: %v %v", offer, err)
	}
	for _, c := range []struct {
		class   string
		request any
		call    string
		want    string
	}{
		{"Offer", struct{}{}, "offer", `"queue":3`},
		{"OpenValidation", basilica.ValidationRequest{SSHPublicKey: []byte("ssh-ed25519 AAAA")}, "open", `"id":"g-1"`},
		{"Submit", basilica.Submission{IdempotencyKey: "k", Spec: []byte("{}")}, "submit", `"idempotency_key":"k"`},
		{"Plan", planRequest{Spec: []byte("four")}, "plan", `"queue":4`},
		{"Task", taskRequest{ID: "t-9"}, "task", `"id":"t-9"`},
		{"Cancel", cancelRequest{Cancel: "t-9"}, "cancel", `"state":"cancelled"`},
	} {
		before := m.shop.count()
		reply, err := spoke(t, d, c.class, c.request)
		if err != nil || !strings.Contains(reply, c.want) || m.shop.count() != before+1 || m.shop.calls[before] != c.call {
			t.Errorf("%s: %s %v, calls %v", c.class, reply, err, m.shop.calls)
			continue
		}
		if who := m.shop.callers[before]; c.call != "offer" && who != basilica.Hotkey(m.caller.SS58()) {
			t.Errorf("%s: called by %s", c.class, who)
		}
	}
	if out, err := d.Call(t.Context(), noSynapse, nil, nil, 10*time.Second); err != nil || len(out) != 0 {
		t.Errorf("ping: %v %v", out, err)
	}
	for name, c := range map[string]struct {
		class   string
		request any
		want    string
	}{
		"absent":        {"Task", taskRequest{ID: "absent"}, "404: TASK_ABSENT: no such task"},
		"unknown field": {"Plan", map[string]any{"who": 1}, "BODY_JSON"},
		"no key":        {"Submit", basilica.Submission{}, "IDEMPOTENCY_KEY"},
		"no class":      {"Nothing", struct{}{}, "404: Synapse name 'Nothing' not found"},
		"too large":     {"Plan", planRequest{Spec: make([]byte, maxBody)}, "413: BODY_SIZE"},
	} {
		if _, err := spoke(t, d, c.class, c.request); basilica.CodeOf(err) != "SYNAPSE_REFUSED" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBridgeRefuses: the bridge has the door's policies and rates, and is not there where nobody asked for it.
func TestBridgeRefuses(t *testing.T) {
	denied := func(context.Context, basilica.Hotkey) error {
		return basilica.E(basilica.Denied, "NO_PERMIT", "no permit", "")
	}
	_, d := bridged(t, &shop{}, func(c *ServerConfig) { c.Validation = denied })
	if _, err := spoke(t, d, "OpenValidation", basilica.ValidationRequest{}); !strings.Contains(basilica.OneLine(errText(err)), "403: Forbidden. Key is blacklisted: no permit.") {
		t.Errorf("policy: %v", err)
	}
	if _, err := spoke(t, d, "Offer", struct{}{}); err != nil {
		t.Errorf("what has no policy: %v", err)
	}
	_, d = bridged(t, &shop{}, func(c *ServerConfig) { c.RateHotkey = 0.25 })
	_, first := spoke(t, d, "Offer", struct{}{})
	if _, err := spoke(t, d, "Offer", struct{}{}); first != nil || !strings.Contains(errText(err), "429: RATE_LIMIT") {
		t.Errorf("rate of a hotkey: %v, %v", first, err)
	}
	_, d = bridged(t, &shop{}, func(c *ServerConfig) { c.RateNetwork = 0.25 })
	_, first = spoke(t, d, "Offer", struct{}{})
	if _, err := spoke(t, d, "Offer", struct{}{}); first != nil || !strings.Contains(errText(err), "429: RATE_LIMIT") {
		t.Errorf("rate of a network: %v, %v", first, err)
	}
	_, d = bridged(t, &shop{panics: true}, nil)
	if _, err := spoke(t, d, "Offer", struct{}{}); !strings.Contains(errText(err), "500: Internal Server Error #") || strings.Contains(errText(err), "secret") {
		t.Errorf("panic: %v", err)
	}
	m := newMarket(t, nil)
	if _, err := spoke(t, m.dendrite(t, m.addr), "Offer", struct{}{}); err == nil || m.shop.count() != 0 {
		t.Errorf("without a bridge: %v", err)
	}
	for name, edit := range map[string]func(*ServerConfig){
		"another hotkey": func(c *ServerConfig) { c.Bridge = pair(t, "//Eve") },
		"no TLS key":     func(c *ServerConfig) { c.Bridge, c.Key = pair(t, "//Bob//miner"), nil },
	} {
		cfg := ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)}
		edit(&cfg)
		if _, err := NewServer(m.shop, cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestBridgeMisled: what was signed for one call does nothing as another, and no stranger's request makes an error of the log.
func TestBridgeMisled(t *testing.T) {
	var faults writes
	m, d := bridged(t, &shop{}, func(c *ServerConfig) {
		c.Log = slog.New(slog.NewTextHandler(&faults, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	for name, c := range map[string]struct {
		edit   func(*http.Request)
		status int
		want   string
	}{
		"as signed":     {func(*http.Request) {}, http.StatusOK, `t-9`},
		"another class": {func(r *http.Request) { r.URL.Path = "/Cancel" }, http.StatusBadRequest, "BODY_JSON"},
		// The Axon of SDK 10 calls these its own faults.
		"header":    {func(r *http.Request) { r.Header[headerDendrite+"nonce"] = []string{"abc"} }, http.StatusInternalServerError, "Internal Server Error #"},
		"timeout":   {func(r *http.Request) { r.Header["timeout"] = []string{"long"} }, http.StatusInternalServerError, "Internal Server Error #"},
		"method":    {func(r *http.Request) { r.Method = http.MethodPut }, http.StatusInternalServerError, "Internal Server Error #"},
		"signature": {func(r *http.Request) { delete(r.Header, headerDendrite+"signature") }, http.StatusUnauthorized, "Missing Signature"},
		"body": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
		}, http.StatusInternalServerError, "Internal Server Error #"},
	} {
		req, err := d.request(t.Context(), "Task", map[string]any{"request": `{"id":"t-9"}`}, []string{"request"}, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.edit(req)
		res, err := d.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != c.status || !strings.Contains(string(text), c.want) {
			t.Errorf("%s: %s %s %v", name, res.Status, text, err)
		}
	}
	if n := m.shop.count(); n != 1 || m.shop.calls[0] != "task" || faults.Load() != 0 {
		t.Errorf("%d calls, %d errors in the log", n, faults.Load())
	}
}

// writes counts what is written.
type writes struct{ atomic.Int64 }

func (w *writes) Write(p []byte) (int, error) {
	w.Add(1)
	return len(p), nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestSilentConnection: who connects and says nothing does not keep the door from closing, nor from answering others.
func TestSilentConnection(t *testing.T) {
	m, d := bridged(t, &shop{}, nil)
	conn, err := net.Dial("tcp", m.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() }) // after the door has closed
	if _, err := spoke(t, d, "Offer", struct{}{}); err != nil {
		t.Error(err)
	}
}

// FuzzBridge gives the bridge whole requests that nobody signed: none may reach the miner, each has an answer.
func FuzzBridge(f *testing.F) {
	m := newMarket(f, nil)
	s, err := NewServer(m.shop, ServerConfig{
		Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Bridge: m.miner, Replays: newReplays(f, m.now), RateNetwork: 1e9, RateHotkey: 1e9, Now: m.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"POST /Offer HTTP/1.1\r\nHost: a\r\nname: Offer\r\ntimeout: 12.0\r\nbt_header_dendrite_nonce: 1\r\nbt_header_input_obj_request: IiI=\r\n\r\n",
		"POST /Synapse HTTP/1.1\r\nHost: a\r\ntimeout: NaN\r\nbt_header_dendrite_port: 70000\r\nbt_header_axon_process_time: 1e999\r\n\r\n",
		"GET // HTTP/1.0\r\n\r\n", "DELETE * HTTP/1.1\r\nHost: a\r\n\r\n", "POST /Submit/../Offer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		w := recorder{httptest.NewRecorder()}
		s.bridge.ServeHTTP(w, r.WithContext(context.Background()))
		if w.Code < 400 || !json.Valid(w.Body.Bytes()) || m.shop.count() != 0 {
			t.Fatalf("%q: %d %s", raw, w.Code, w.Body)
		}
	})
}
