package axon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/store"
)

// newReplays is the store of nonces that a miner has.
func newReplays(t testing.TB, now func() time.Time) *store.Miner {
	t.Helper()
	m, err := store.OpenMiner(context.Background(), t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// reply sends one hand-made request and gives status and refusal.
func (m *market) reply(t testing.TB, method, target string, header http.Header, body []byte) (int, errorBody) {
	t.Helper()
	r, err := http.NewRequest(method, m.base()+target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	res, err := m.client(nil).peer.Load().http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var reply errorReply
	_ = json.NewDecoder(res.Body).Decode(&reply) // a success has none
	return res.StatusCode, reply.Error
}

func (m *market) base() string { return "https://" + m.addr.String() }

// TestCaseA2_1ClockSaysWhichSide: a caller whose clock is off learns by how many seconds, on which side, and what to mend; one
// whose clock was never set hears that, in place of a number that helps nobody.
func TestCaseA2_1ClockSaysWhichSide(t *testing.T) {
	m := newMarket(t, nil)
	file, err := os.Open("testdata/cases/A2-1-nonce-offsets.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	in := csv.NewReader(file)
	in.Comment = '#'
	rows, err := in.ReadAll()
	if err != nil || len(rows) != 8 {
		t.Fatal(len(rows), err)
	}
	rows = append(rows, []string{"-600", "401", "600 s behind"}, []string{"600", "401", "600 s ahead"}, []string{"-10.0000001", "401", "10.001 s behind"})
	for _, row := range rows {
		off, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		m.move(time.Millisecond) // a nonce of its own for every row
		h := m.headers(t, http.MethodGet, "/v1/tasks/t-1", nil, m.now().Add(time.Duration(off*float64(time.Second))))
		status, refusal := m.reply(t, http.MethodGet, "/v1/tasks/t-1", h, nil)
		if strconv.Itoa(status) != row[1] || !strings.Contains(refusal.Sentence, row[2]) {
			t.Errorf("%s s: %d %+v, want %s and %q", row[0], status, refusal, row[1], row[2])
		}
		if status == http.StatusOK {
			continue
		}
		code, sign, side := "AUTH_STALE", "offset "+strings.TrimSuffix(row[0], "0001"), "forward"
		switch {
		case off < -86400:
			code, side = "AUTH_CLOCK_UNSET", "set the caller's clock"
		case off > 0:
			sign, side = "offset +"+row[0], "back"
		}
		if refusal.Code != code || !strings.Contains(refusal.Fix, side) || !strings.Contains(refusal.Sentence, sign) && off != -10.0000001 {
			t.Errorf("%s s: %+v, want %s, %q and %q", row[0], refusal, code, side, sign)
		}
	}
	// The caller's own program repeats it, with the next step.
	slow := m.client(func(c *ClientConfig) { c.Now = func() time.Time { return m.now().Add(-600 * time.Second) } })
	_, err = slow.Task(t.Context(), "", "t-1")
	if basilica.CodeOf(err) != "AUTH_STALE" || !strings.Contains(err.Error(), "600 s behind") || !strings.Contains(basilica.FixOf(err), "clock forward") {
		t.Errorf("the client says %v, fix %q", err, basilica.FixOf(err))
	}
}

// blobShop keeps blobs as a miner does.
type blobShop struct {
	shop
	kept *store.Blobs
}

func (s *blobShop) PutBlob(ctx context.Context, _ basilica.Hotkey, b basilica.Blob, _ int64, r io.Reader) error {
	return s.kept.Put(ctx, b, r)
}

// upload is a request whose body the test writes piece by piece.
func upload(t *testing.T, m *market, target string, header http.Header, length int64) (io.WriteCloser, <-chan int) {
	t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodPut, m.base()+target, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header, req.ContentLength = header, length
	status := make(chan int, 1)
	c := m.client(nil)
	go func() {
		res, err := c.peer.Load().http.Do(req)
		if err != nil {
			status <- 0
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	return w, status
}

// TestCaseA2_2SlowUploadIsNotStale: freshness is judged when the headers are in and the nonce is taken then; the signature is
// checked before the body, its digest after it. The clock moves as it would at the file's rate.
func TestCaseA2_2SlowUploadIsNotStale(t *testing.T) {
	var c struct {
		BodyBytes int `json:"body_bytes"`
		Rate      int `json:"sender_rate_bytes_per_s"`
	}
	text, err := os.ReadFile("testdata/cases/A2-2-slow-upload.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil || c.BodyBytes/c.Rate != 20 {
		t.Fatal(c, err)
	}
	kept, err := store.OpenBlobs(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	m := newMarketOf(t, &blobShop{kept: kept}, nil)
	content := bytes.Repeat([]byte("slow line "), c.BodyBytes/10)
	sum := basilica.Digest(sha256.Sum256(content))
	target := fmt.Sprintf("%s?size=%d", blobPath(sum), len(content))
	signed := func() http.Header {
		m.move(time.Millisecond)
		return m.headers(t, http.MethodPut, target, content, m.now())
	}

	header := signed()
	w, honest := upload(t, m, target, header.Clone(), int64(len(content)))
	if _, err := w.Write(content[:c.Rate]); err != nil { // the body is being read: the headers are in
		t.Fatal(err)
	}
	if status, refusal := m.reply(t, http.MethodPut, target, header.Clone(), nil); status != http.StatusUnauthorized || refusal.Code != "AUTH_REPLAYED" {
		t.Errorf("the same headers during the upload: %d %+v", status, refusal)
	}
	for at := c.Rate; at < len(content); at += c.Rate {
		m.move(time.Second)
		if _, err := w.Write(content[at:min(at+c.Rate, len(content))]); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if status := <-honest; status != http.StatusCreated {
		t.Errorf("an honest upload of 20 s: %d", status)
	}

	other, content := bytes.Clone(content[:10<<20]), content[:10<<20]
	other[0] ^= 1
	wrong := basilica.Digest(sha256.Sum256(other))
	target = fmt.Sprintf("%s?size=%d", blobPath(wrong), len(content))
	before := heap()
	h := m.headers(t, http.MethodPut, target, other, m.now().Add(time.Millisecond))
	w, refused := upload(t, m, target, h, int64(len(content)))
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if status := <-refused; status != http.StatusBadRequest {
		t.Errorf("another body than the signed one: %d", status)
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes with a body of %d", grown, len(content))
	}
	if _, err := os.Stat(kept.Path(wrong)); !os.IsNotExist(err) {
		t.Errorf("a refused body was kept: %v", err)
	}

	// A bad signature is refused before the body: at once, however long the sender goes on.
	h = signed()
	h.Set(headerSignature, "0x"+strings.Repeat("ab", 64))
	w, refused = upload(t, m, target, h, -1)
	sent := make(chan int, 1)
	go func() {
		total, piece := 0, make([]byte, 64<<10)
		for {
			n, err := w.Write(piece)
			if total += n; err != nil {
				sent <- total
				return
			}
		}
	}()
	if status := <-refused; status != http.StatusUnauthorized {
		t.Errorf("an endless body: %d", status)
	}
	w.(*io.PipeWriter).CloseWithError(io.ErrClosedPipe)
	if n := <-sent; n > 8<<20 {
		t.Errorf("%d bytes of an endless body were taken", n)
	}
}

// heap is what the process holds after a collection.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// TestCaseA2_4ReplayMemoryIsNoTarget: key pairs cost nothing, so a request of an unregistered one must leave nothing; the
// registered validator is served meanwhile. BASILICA_FLOOD_KEYS scales the number of keys.
func TestCaseA2_4ReplayMemoryIsNoTarget(t *testing.T) {
	fresh := 300
	if text := os.Getenv("BASILICA_FLOOD_KEYS"); text != "" {
		var err error
		if fresh, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	validator := pair(t, "//Alice//validator")
	var asked recording
	m := newMarket(t, func(c *ServerConfig) {
		asked.Replays = c.Replays
		c.Replays, c.RateNetwork, c.RateHotkey, c.Key = &asked, 1e9, 1e9, nil
		c.Validation = func(_ context.Context, h basilica.Hotkey) error {
			if h != basilica.Hotkey(validator.SS58()) {
				return basilica.E(basilica.Denied, "VALIDATOR_UNKNOWN", "the hotkey is not registered", "register it")
			}
			return nil
		}
	})
	const target = "/v1/validation/open"
	body := []byte(`{"ssh_public_key":"aw==","round":1}`)
	plain := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	post := func(c *http.Client, caller *keys.Pair) int {
		h := http.Header{}
		if err := sign(h, caller, http.MethodPost, target, sha256.Sum256(body), m.now().UnixNano(), basilica.Hotkey(m.miner.SS58())); err != nil {
			t.Error(err)
			return 0
		}
		r, err := http.NewRequest(http.MethodPost, "http://"+m.addr.String()+target, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header = h
		res, err := c.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode
	}
	post(plain(), pair(t, "//warm"))
	before := heap()
	stop, validated := make(chan struct{}), make(chan int)
	go func() {
		c, n := plain(), 0
		defer c.CloseIdleConnections()
		for {
			m.move(5 * time.Millisecond) // a stranger held up meanwhile is not stale yet, and a minute's nonces are not too many
			if status := post(c, validator); status != http.StatusOK {
				t.Errorf("the validator's request: %d", status)
			}
			n++
			select {
			case <-stop:
				validated <- n
				return
			default:
			}
		}
	}()
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			c := plain()
			defer c.CloseIdleConnections()
			for i := range fresh / workers {
				stranger, err := keys.FromURI(keys.Ed25519, fmt.Sprintf("0x%032x%032x", w+1, i+1))
				if err != nil {
					t.Error(err)
					return
				}
				if status := post(c, stranger); status != http.StatusForbidden {
					t.Errorf("an unregistered key: %d", status)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	served := <-validated
	if n := asked.count(); n != served {
		t.Errorf("%d nonces were remembered of %d validator's requests", n, served)
	}
	if grown := heap() - before; grown > 20<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	t.Logf("%d fresh keys refused, %d requests of the validator served, heap grew by %d bytes", fresh, served, heap()-before)
}

// recording counts what is remembered.
type recording struct {
	Replays

	mu sync.Mutex
	n  int
}

func (r *recording) Remember(ctx context.Context, hotkey, nonce string, until time.Time) (bool, error) {
	r.mu.Lock()
	r.n++
	r.mu.Unlock()
	return r.Replays.Remember(ctx, hotkey, nonce, until)
}

func (r *recording) count() int { r.mu.Lock(); defer r.mu.Unlock(); return r.n }

// TestCaseA2_4OneOfTwoReplicas: the same signed request, given to two replicas at once, passes exactly once.
func TestCaseA2_4OneOfTwoReplicas(t *testing.T) {
	var shared Replays
	a := newMarket(t, func(c *ServerConfig) { shared = c.Replays })
	b := newMarket(t, func(c *ServerConfig) { c.Replays, c.Key, c.Now = shared, a.key, a.now })
	doors := [2]*Client{a.client(nil), a.client(func(c *ClientConfig) { c.Addr = b.addr })}
	if a.miner.SS58() != b.miner.SS58() {
		t.Fatal("two miners")
	}
	for round := range 30 {
		a.move(time.Second)
		h := a.headers(t, http.MethodGet, "/v1/tasks/t-1", nil, a.now())
		var statuses [2]int
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i, at := range [2]netip.AddrPort{a.addr, b.addr} {
			r, err := http.NewRequest(http.MethodGet, "https://"+at.String()+"/v1/tasks/t-1", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = h.Clone()
			wg.Go(func() {
				<-start
				res, err := doors[i].peer.Load().http.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				statuses[i] = res.StatusCode
			})
		}
		close(start)
		wg.Wait()
		if statuses != [2]int{200, 401} && statuses != [2]int{401, 200} {
			t.Fatalf("round %d: %v", round, statuses)
		}
	}
}

// TestCaseA2_4NoHonestNonceIsEvicted: whatever others and the caller itself send, a nonce is refused again as long as it could
// be fresh, and one caller's flood takes nobody else's room.
func TestCaseA2_4NoHonestNonceIsEvicted(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	r := newReplays(t, func() time.Time { return now })
	take := func(hotkey, nonce string) bool {
		fresh, err := r.Remember(t.Context(), hotkey, nonce, now.Add(replayLife))
		if err != nil {
			t.Fatal(hotkey, nonce, err)
		}
		return fresh
	}
	if !take("honest", "1") {
		t.Fatal("a first nonce is not fresh")
	}
	for i := range 200 {
		if !take("loud", strconv.Itoa(i)) || i < 20 && !take(fmt.Sprint("other ", i), "1") {
			t.Fatal(i)
		}
		if i%40 == 0 && (take("honest", "1") || take("loud", "0")) {
			t.Fatalf("after %d others a nonce passes again", i)
		}
	}
	now = now.Add(maxAge + maxAhead)
	if take("honest", "1") {
		t.Error("a nonce passes again inside its window")
	}
}

// TestSlowSendersAreCut: who sends headers, a handshake or a body too slowly is cut off, and meanwhile others are served.
func TestSlowSendersAreCut(t *testing.T) {
	for name, c := range map[string]struct {
		plain bool
		first string
	}{
		"silent before TLS": {false, ""},
		"half a handshake":  {false, "\x16\x03\x01\x02\x00\x01\x00"},
		"half a line":       {true, "GET /v1/off"},
		"half the headers":  {true, "GET /v1/offer HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "},
		"half a body":       {true, "POST /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf"},
		"old preface":       {true, "PRI * HTTP/2.0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMarketWith(t, &shop{}, func(s *ServerConfig) {
				if c.plain {
					s.Key = nil
				}
			}, func(s *Server) { s.header, s.unread = 300*time.Millisecond, 300*time.Millisecond })
			conns := make([]net.Conn, 20)
			for i := range conns {
				conn, err := net.Dial("tcp", m.addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, c.first); err != nil {
					t.Fatal(err)
				}
				conns[i] = conn
			}
			honest := m.client(func(k *ClientConfig) {
				if c.plain {
					k.TLSKey, k.AllowPlain = nil, true
				}
			})
			if _, err := honest.Offer(t.Context()); err != nil {
				t.Errorf("an honest caller meanwhile: %v", err)
			}
			for _, conn := range conns {
				if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
					t.Fatal("a slow sender was kept")
				}
			}
		})
	}
}
