package rest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
)

// results is a double with func fields; a nil one answers with nothing.
type results struct {
	verifications func(basilica.VerificationQuery) (basilica.VerificationPage, error)
	record        []byte
	broken        error
}

var found = basilica.Verification{
	ID: "v1", Miner: "5m", MinerUID: 3, Executor: "box-1", Validator: "5v", Round: 40,
	Facts:    &basilica.Facts{Hostname: "secret-host", BootID: "boot", Kernel: "6.1", Network: []basilica.Iface{{Name: "eth0", Addrs: []string{"10.1.2.3"}}}},
	Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: basilica.Pass, Reason: "PASS"}},
}

func (r *results) Scores(context.Context) ([]basilica.Score, error) {
	return []basilica.Score{{Miner: "5m", UID: 3, Value: 0.01, Executors: []basilica.ExecutorScore{{Executor: "box-1", Value: 0.01}, {Executor: "box-2"}}}}, r.broken
}

func (r *results) LatestVerifications(context.Context, int) ([]basilica.Verification, error) {
	return []basilica.Verification{found}, r.broken
}

func (r *results) Verifications(_ context.Context, q basilica.VerificationQuery) (basilica.VerificationPage, error) {
	if r.verifications == nil {
		return basilica.VerificationPage{}, r.broken
	}
	return r.verifications(q)
}

func (r *results) Verification(_ context.Context, id basilica.VerificationID) (basilica.Verification, error) {
	v := found
	switch id {
	case "v1":
		v.Verdicts = []basilica.Verdict{v.Verdicts[0]}
		if r.record != nil {
			v.Verdicts[0].Evidence = &basilica.Evidence{Blob: basilica.Blob{SHA256: sha256.Sum256(r.record), Size: int64(len(r.record))}, Class: "software"}
		}
		return v, r.broken
	}
	return v, basilica.E(basilica.NotFound, "NO_SUCH_VERIFICATION", "no such verification", "")
}

func (r *results) WeightSets(context.Context, int) ([]basilica.WeightSet, error) {
	return []basilica.WeightSet{{Formula: "score/1", Weights: []basilica.Weight{{UID: 3, Value: 65535}}}}, r.broken
}

func (r *results) Rounds(context.Context, int) ([]basilica.Round, error) { return nil, r.broken }

func (r *results) Evidence(sum basilica.Digest) (io.ReadCloser, int64, error) {
	if sum != sha256.Sum256(r.record) {
		return nil, 0, basilica.E(basilica.NotFound, "EVIDENCE_GONE", "gone", "")
	}
	return io.NopCloser(bytes.NewReader(r.record)), int64(len(r.record)), nil
}

func newDoor(t testing.TB, r *results) (http.Handler, *[]string) {
	t.Helper()
	var failed []string
	h, err := New(Config{
		Version: "1", Results: r, PerSec: 1e9, Burst: 1e9, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Failed: func(op string, err error) { failed = append(failed, op+": "+err.Error()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, &failed
}

func get1(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

func TestRoutes(t *testing.T) {
	h, _ := newDoor(t, &results{record: []byte("frames")})
	for _, c := range []struct {
		path string
		code int
		want []string
	}{
		{"/api/v1/miners", 200, []string{`"uid":3`, `"passed":1`, `"executor":"box-2"`}},
		{"/api/v1/executors", 200, []string{`"executor":"box-1"`, `"value":0.01`, `"kernel":"6.1"`}},
		{"/api/v1/verifications", 200, []string{`"verifications":[]`, `"next":""`}},
		{"/api/v1/verifications/v1", 200, []string{`"reason":"PASS"`, `"class":"software"`}},
		{"/api/v1/verifications/v2", 404, []string{`"code":"NO_SUCH_VERIFICATION"`}},
		{"/api/v1/verifications/v2/frames", 404, []string{`"code":"NO_SUCH_VERIFICATION"`}},
		{"/api/v1/weights?limit=1", 200, []string{`"weight":65535`, `"formula":"score/1"`}},
		{"/api/v1/rounds", 200, []string{`[]`}},
		{"/api/v1/formula", 200, []string{`"weight_total":65535`, `"NVIDIA H200"`}},
		{"/openapi.json", 200, []string{`/api/v1/verifications/{id}/frames`, `"Verification"`}},
		{"/api/v1/weights?limit=0", 422, nil},
		{"/api/v1/weights?limit=101", 422, nil},
		{"/api/v1/weights?limit=x", 422, nil},
		{"/api/v1/verifications?result=maybe", 422, nil},
		{"/api/v1/verifications?limit=501", 422, nil},
		{"/api/v1/verifications/" + strings.Repeat("a", 65), 422, nil},
		{"/api/v1/nothing", 404, nil},
	} {
		w := get1(h, c.path)
		if w.Code != c.code {
			t.Errorf("%s: %d, want %d: %s", c.path, w.Code, c.code, w.Body)
		}
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %s is not in %.600s", c.path, want, w.Body)
			}
		}
		for _, secret := range []string{"secret-host", "10.1.2.3", "$schema"} {
			if c.path != "/openapi.json" && strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s shows %s", c.path, secret)
			}
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v1/weights", strings.NewReader("{}")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST gave %d", w.Code)
	}
}

func TestFrames(t *testing.T) {
	h, _ := newDoor(t, &results{record: []byte("raw frames")})
	w := get1(h, "/api/v1/verifications/v1/frames")
	if w.Code != 200 || w.Body.String() != "raw frames" || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("%d %q %v", w.Code, w.Body, w.Header())
	}
	h, _ = newDoor(t, &results{})
	if w := get1(h, "/api/v1/verifications/v1/frames"); w.Code != 404 || !strings.Contains(w.Body.String(), "NO_EVIDENCE") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

// stuck is a record whose reader says that it is read, and gives nothing until the test ends.
type stuck struct {
	*results
	read chan<- struct{}
	end  <-chan struct{}
}

func (s stuck) Evidence(basilica.Digest) (io.ReadCloser, int64, error) {
	return io.NopCloser(readerFunc(func([]byte) (int, error) {
		s.read <- struct{}{}
		<-s.end
		return 0, io.EOF
	})), 1, nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestDownloadsAreBounded: of records of any size only so many are on their way at once, and fewer to one place.
func TestDownloadsAreBounded(t *testing.T) {
	read, end := make(chan struct{}), make(chan struct{})
	h, err := New(Config{
		Version: "1", Results: stuck{&results{record: []byte("x")}, read, end}, PerSec: 1e9, Burst: 1e9, Now: time.Now, Failed: func(string, error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(place int) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/api/v1/verifications/v1/frames", nil)
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1000", place)
		h.ServeHTTP(w, r)
		return w
	}
	refused := func(place int, said string) {
		t.Helper()
		if w := ask(place); w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), `"code":"DOWNLOADS"`) || !strings.Contains(w.Body.String(), said) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	var wg sync.WaitGroup
	for n := range maxDownloads {
		wg.Go(func() { ask(n / maxDownloadsPlace) })
		<-read
		if n == maxDownloadsPlace-1 {
			refused(0, "to this address")
		}
	}
	refused(maxDownloads, "8 downloads run")
	close(end)
	wg.Wait()
}

// large has a record that is more than the sockets between two hold.
type large struct{ *results }

const largeBytes = 64 << 20

func (large) Evidence(basilica.Digest) (io.ReadCloser, int64, error) {
	return io.NopCloser(io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), largeBytes)), largeBytes, nil
}

// TestSlowReadersKeepNobodyOut: whoever reads nothing of what it asked for holds up its own place alone.
func TestSlowReadersKeepNobodyOut(t *testing.T) {
	h, err := New(Config{Version: "1", Results: large{&results{record: []byte("x")}}, PerSec: 1e9, Burst: 1e9, Now: time.Now, Failed: func(string, error) {}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	ask := func(place string) (net.Conn, *http.Response) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(place)}}
		conn, err := d.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /api/v1/verifications/v1/frames HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, res
	}
	for range maxDownloads {
		conn, _ := ask("127.0.0.1")
		defer conn.Close()
	}
	conn, res := ask("127.0.0.2")
	defer conn.Close()
	if n, err := io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusOK || n != largeBytes || err != nil {
		t.Errorf("%d, %d bytes, %v", res.StatusCode, n, err)
	}
}

// paced is an answer that counts the deadlines it is given.
type paced struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (p *paced) SetWriteDeadline(at time.Time) error {
	p.deadlines = append(p.deadlines, at)
	return nil
}

// TestDownloadsHaveADeadlineForEveryPiece: one that goes on has time, one that stands still has little.
func TestDownloadsHaveADeadlineForEveryPiece(t *testing.T) {
	h, failed := newDoor(t, &results{record: make([]byte, 4*pieceBytes+1)})
	w := &paced{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/verifications/v1/frames", nil))
	if w.Code != http.StatusOK || w.Body.Len() != 4*pieceBytes+1 || len(w.deadlines) != 5 || len(*failed) != 0 {
		t.Errorf("%d, %d bytes, %d deadlines, %q", w.Code, w.Body.Len(), len(w.deadlines), *failed)
	}
	for _, at := range w.deadlines {
		if left := time.Until(at); left > pieceTimeout {
			t.Errorf("a piece has %s", left)
		}
	}
}

// TestDownloadsHaveAnEnd: who reads a piece in each of its deadlines has not for ever; who reads 64 KiB/s has enough.
func TestDownloadsHaveAnEnd(t *testing.T) {
	const size = 64 << 20
	began := time.Unix(1_790_000_000, 0)
	end := 1024*time.Second + 10*time.Minute
	for after, want := range map[time.Duration]time.Duration{
		0:                 pieceTimeout,
		end - time.Minute: end - time.Minute + pieceTimeout,
		end - time.Second: end,
		end:               end,
		2 * end:           end,
	} {
		if got := deadline(began.Add(after), began, size).Sub(began); got != want {
			t.Errorf("the piece that starts after %s ends after %s, want %s", after, got, want)
		}
	}
}

func TestQuery(t *testing.T) {
	var got basilica.VerificationQuery
	h, _ := newDoor(t, &results{verifications: func(q basilica.VerificationQuery) (basilica.VerificationPage, error) {
		got = q
		return basilica.VerificationPage{Verifications: []basilica.Verification{found}, Next: "7"}, nil
	}})
	w := get1(h, "/api/v1/verifications?miner=5m&executor=box-1&round=40&result=fail&after=9&limit=3")
	var page basilica.VerificationPage
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || page.Next != "7" || len(page.Verifications) != 1 {
		t.Fatalf("%v %s", err, w.Body)
	}
	if got.Miner != "5m" || got.Executor != "box-1" || got.Round == nil || *got.Round != 40 || got.Result != basilica.Fail || got.After != "9" || got.Limit != 3 {
		t.Errorf("%+v", got)
	}
	get1(h, "/api/v1/verifications")
	if got.Round != nil || got.Limit != 50 {
		t.Errorf("%+v", got)
	}
}

func TestInternalErrorsAreOneWord(t *testing.T) {
	h, failed := newDoor(t, &results{broken: errors.New("disk /dev/sda: secret")})
	w := get1(h, "/api/v1/miners")
	if w.Code != 500 || strings.Contains(w.Body.String(), "sda") || !strings.Contains(w.Body.String(), `"code":"INTERNAL"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(*failed) != 1 || !strings.Contains((*failed)[0], "sda") {
		t.Errorf("the operator learns %q", *failed)
	}
}

func TestRateLimit(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	h, err := New(Config{Version: "1", Results: &results{}, PerSec: 1, Burst: 2, Now: func() time.Time { return now }, Failed: func(string, error) {}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(from string) int {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/formula", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for i, want := range []int{200, 200, 429} {
		if got := ask("192.0.2.1:1000"); got != want {
			t.Fatalf("request %d: %d, want %d", i, got, want)
		}
	}
	if got := ask("192.0.2.2:1000"); got != 200 {
		t.Errorf("another address: %d", got)
	}
	ask("[2001:db8::1]:1")
	ask("[2001:db8::2]:1")
	if got := ask("[2001:db8::3]:1"); got != 429 {
		t.Errorf("a third address of one /64: %d", got)
	}
	now = now.Add(2 * time.Second)
	if got := ask("192.0.2.1:1000"); got != 200 {
		t.Errorf("after a while: %d", got)
	}
}

// TestPagesCost: a long page counts for as many requests as it takes the work of.
func TestPagesCost(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	empty := &results{verifications: func(basilica.VerificationQuery) (basilica.VerificationPage, error) {
		return basilica.VerificationPage{}, nil
	}}
	h, err := New(Config{Version: "1", Results: empty, PerSec: 1, Burst: 21, Now: func() time.Time { return now }, Failed: func(string, error) {}})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		path string
		want int
	}{
		{"/api/v1/verifications?limit=500", 200}, // 20 of 21
		{"/api/v1/verifications?limit=500", 429},
		{"/api/v1/verifications?limit=50", 429}, // 2 of 1
		{"/api/v1/verifications?limit=49", 200}, // 1 of 1
		{"/api/v1/verifications?limit=-9999999999999999999", 429},
	} {
		if w := get1(h, c.path); w.Code != c.want {
			t.Errorf("request %d, %s: %d, want %d", i, c.path, w.Code, c.want)
		}
	}
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{"limit=1", "after=-1&round=99999999999999999999", "miner=%00&result=pass", "executor=" + strings.Repeat("x", 100), "round=-1", ";&=&"} {
		f.Add(s)
	}
	r := &results{verifications: func(q basilica.VerificationQuery) (basilica.VerificationPage, error) {
		if q.Limit < 1 || q.Limit > 500 || len(q.After) > 512 || len(q.Miner) > 256 || len(q.Executor) > 256 {
			panic("out of range")
		}
		return basilica.VerificationPage{}, nil
	}}
	h, _ := newDoor(f, r)
	f.Fuzz(func(t *testing.T, query string) {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/verifications", nil)
		req.URL = &url.URL{Path: "/api/v1/verifications", RawQuery: query}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != 200 && w.Code != 422 && w.Code != 400 {
			t.Fatalf("%q: %d", query, w.Code)
		}
	})
}
