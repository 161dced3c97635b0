package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"basilica/pki"
)

// A flood asks every HTTP and gRPC door of a running network from 200 connections, as 8 places on this machine's loopback, at
// 1,000 requests a second, while as many strangers as half the connections hold half of a request. Honest callers come from
// other places.
const (
	floodConns  = 200
	floodPlaces = 8
	floodHalves = 100
	floodRate   = 1000                 // requests a second
	honestEvery = 5 * time.Millisecond // between two honest calls
	honestFrom  = 16                   // places
	honestLimit = 20 * time.Second     // of one honest call
	maxRSS      = 512 << 20            // bytes, of each role, whatever comes
	tries       = 3
	maxRatio    = 10                     // of an honest caller's 99th percentile, flooded to idle
	longFlood   = 20 * time.Second       // of `make flood`
	shortFlood  = 800 * time.Millisecond // of go test
)

// flooded is one door: how a stranger asks it over a connection that it keeps, and how an honest caller does.
type flooded struct {
	name, addr string
	pid        int
	half       string
	stranger   func(ctx context.Context, place string) (asker, error)
	honest     func(ctx context.Context, place string) (asker, error)
}

// asker asks once and says how it was refused, if it was; an error is a connection that broke.
type asker interface {
	ask(ctx context.Context) (refusal string, err error)
	io.Closer
}

func dialFrom(ctx context.Context, place, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(place)}, Timeout: honestLimit}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(honestLimit)) // of a handshake; each call sets its own
}

// plainAsker speaks HTTP/1.1 with one text over one connection.
type plainAsker struct {
	net.Conn
	in   *bufio.Reader
	text []byte
}

func newPlain(addr, text string, secure bool) func(context.Context, string) (asker, error) {
	return func(ctx context.Context, place string) (asker, error) {
		c, err := dialFrom(ctx, place, addr)
		if err != nil {
			return nil, err
		}
		if secure {
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // a test's own network
			if err := t.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			c = t
		}
		return &plainAsker{c, bufio.NewReader(c), []byte(text)}, nil
	}
}

func (a *plainAsker) ask(context.Context) (string, error) {
	if err := a.SetDeadline(time.Now().Add(honestLimit)); err != nil {
		return "", err
	}
	if _, err := a.Write(a.text); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(a.in, nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if err == nil && res.Close {
		err = io.EOF
	}
	if res.StatusCode != http.StatusOK {
		return res.Status, err
	}
	return "", err
}

// grpcAsker calls one method with an empty message. Where each is set, every call is a new connection from a place of its own.
type grpcAsker struct {
	conn   *http.ClientConn
	method string
	token  func() (string, error)
	ok     string // the status of an answer that is none of a refusal
}

func newGRPC(addr, method, ok string, cert *tls.Certificate, token func() (string, error)) func(context.Context, string) (asker, error) {
	return func(ctx context.Context, place string) (asker, error) {
		c, err := dialFrom(ctx, place, addr)
		if err != nil {
			return nil, err
		}
		conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}} //nolint:gosec // a test's own network
		if cert != nil {
			conf.Certificates = []tls.Certificate{*cert}
		}
		t := tls.Client(c, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		transport := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return t, nil }, ForceAttemptHTTP2: true}
		conn, err := transport.NewClientConn(ctx, "https", "door:443")
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if err := c.SetDeadline(time.Time{}); err != nil { // each call has a context of its own
			return nil, errors.Join(err, c.Close())
		}
		return &grpcAsker{conn, method, token, ok}, nil
	}
}

func (a *grpcAsker) Close() error { return a.conn.Close() }

func (a *grpcAsker) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, honestLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://door"+a.method, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("TE", "trailers")
	if a.token != nil {
		jwt, err := a.token()
		if err != nil {
			return "", err
		}
		r.Header.Set("Authorization", "Bearer "+jwt)
	}
	res, err := a.conn.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "", err
	}
	from := res.Header
	if from.Get("Grpc-Status") == "" {
		from = res.Trailer
	}
	if status := from.Get("Grpc-Status"); status != a.ok {
		return fmt.Sprintf("status %q: %s", status, from.Get("Grpc-Message")), nil
	}
	return "", nil
}

// anew makes a connection for every call, each from the next place of its network.
type anew struct {
	dial func(context.Context, string) (asker, error)
	n    *atomic.Int32
}

func (a anew) Close() error { return nil }

func (a anew) ask(ctx context.Context) (string, error) {
	n := a.n.Add(1)
	c, err := a.dial(ctx, fmt.Sprintf("127.4.%d.%d", n/250%250, n%250+1))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ask(ctx)
}

// floodedDoors lists the doors of a network that `basilica up` reported, each with its callers.
func floodedDoors(t *testing.T, dir string, r upReport) []flooded {
	t.Helper()
	pids := map[string]int{}
	for _, p := range r.Processes {
		pids[p.Name] = p.PID
	}
	authority := minersAuthority(t, dir)
	miner, err := authority.ServerCertificate(time.Now(), []string{"flood"})
	if err != nil {
		t.Fatal(err)
	}
	box := ""
	for _, v := range r.Verdicts {
		if strings.HasPrefix(v.Executor, "box-1") {
			box = v.Executor
		}
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" }
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	var doors []flooded
	add := func(role, door, half string, stranger, honest func(addr string) func(context.Context, string) (asker, error)) {
		name := role + "." + door
		addr := r.Addresses[name]
		if addr == "" || pids[role] == 0 {
			t.Fatalf("up reports no address of %s, or no process: %v %v", name, r.Addresses, r.Processes)
		}
		doors = append(doors, flooded{name: name, addr: addr, pid: pids[role], half: half, stranger: stranger(addr), honest: honest(addr)})
	}
	plain := func(text string, secure bool) func(string) func(context.Context, string) (asker, error) {
		return func(addr string) func(context.Context, string) (asker, error) { return newPlain(addr, text, secure) }
	}
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" // the beginning of a TLS handshake
	add("localnet", "rpc", "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{", plain(post("/", `{"jsonrpc":"2.0","id":1,"method":"state_getMetadata"}`), false),
		plain(post("/", `{"jsonrpc":"2.0","id":1,"method":"chain_getHeader"}`), false))
	for _, role := range []string{"localnet", "miner", "box-1"} {
		add(role, "status", "GET /health HTTP/1.1\r\nX-A: ", plain(get("/metrics"), false), plain(get("/health"), false))
	}
	add("validator", "api", "GET /health HTTP/1.1\r\nX-A: ", plain(get("/api/v1/verifications?limit=500"), false), plain(get("/api/v1/formula"), false))
	add("miner", "axon", hello, plain(post("/v1/tasks", `{"idempotency_key":"k","spec":"e30="}`), true), plain(get("/v1/offer"), true))
	// A stranger has no certificate; who joins has none either, comes over a connection of its own, and hears at once that it
	// brought no token of this miner (PERMISSION_DENIED).
	add("miner", "fleet", hello, func(addr string) func(context.Context, string) (asker, error) {
		return newGRPC(addr, "/basilica.wire.Fleet/Heartbeats", "0", nil, nil)
	}, func(addr string) func(context.Context, string) (asker, error) {
		var n atomic.Int32
		return func(context.Context, string) (asker, error) {
			return anew{dial: newGRPC(addr, "/basilica.wire.Fleet/Enroll", "7", nil, nil), n: &n}, nil
		}
	})
	add("box-1", "grpc", hello, func(addr string) func(context.Context, string) (asker, error) {
		return newGRPC(addr, "/basilica.wire.Executor/HealthCheck", "0", nil, nil)
	}, func(addr string) func(context.Context, string) (asker, error) {
		return newGRPC(addr, "/basilica.wire.Executor/HealthCheck", "0", &miner, func() (string, error) { return authority.MintJWT(box, time.Now(), 30*time.Second) })
	})
	return doors
}

// minersAuthority is the authority of the network's miner, from its data directory: it makes the miner's own calls.
func minersAuthority(t *testing.T, dir string) *pki.Authority {
	t.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Base(path) == "pki" && filepath.Base(filepath.Dir(path)) == "miner" {
			found = path
		}
		return nil // what a job's end takes away meanwhile is no concern
	})
	if err != nil || found == "" {
		t.Fatal("no authority of the miner: ", err)
	}
	a, err := pki.Load(found)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// rss is the resident memory of a process in bytes.
func rss(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// honestly asks a door for span as honest callers do, once at least, and gives how long each answer took.
func honestly(ctx context.Context, d flooded, span time.Duration) (took []time.Duration, err error) {
	askers := make([]asker, honestFrom)
	defer func() {
		for _, a := range askers {
			if a != nil {
				a.Close()
			}
		}
	}()
	until := time.Now().Add(span)
	tick := time.NewTicker(honestEvery)
	defer tick.Stop()
	for n := 0; len(took) == 0 || time.Now().Before(until); n++ {
		<-tick.C
		caller := &askers[n%honestFrom]
		if *caller == nil {
			if *caller, err = d.honest(ctx, fmt.Sprintf("127.2.0.%d", n%honestFrom+1)); err != nil {
				return took, fmt.Errorf("an honest caller cannot connect: %w", err)
			}
		}
		began := time.Now()
		refusal, err := (*caller).ask(ctx)
		if err != nil {
			return took, fmt.Errorf("honest call %d: %w", n, err)
		}
		if refusal != "" {
			return took, fmt.Errorf("honest call %d was refused: %s", n, refusal)
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

func p99(took []time.Duration) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// flow is what came of one flood.
type flow struct {
	requests, refused   atomic.Int64
	answered            atomic.Int64 // or broken off
	before, peak, after int64
	idle, busy          time.Duration
	samples             int
}

func (f *flow) ratio(floor time.Duration) float64 {
	return float64(f.busy) / float64(max(f.idle, floor))
}

// floodDoor floods one door for span.
func floodDoor(ctx context.Context, d flooded, span time.Duration) (*flow, error) {
	f := &flow{before: rss(d.pid)}
	took, err := honestly(ctx, d, span/2)
	if err != nil {
		return f, fmt.Errorf("before the flood: %w", err)
	}
	f.idle = p99(took)
	flood, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range floodHalves {
		wg.Go(func() { holdHalf(flood, d) })
	}
	for i := range floodConns {
		wg.Go(func() { strange(flood, d, fmt.Sprintf("127.1.0.%d", i%floodPlaces+1), f) })
	}
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for flood.Err() == nil {
			f.peak = max(f.peak, rss(d.pid))
			<-tick.C
		}
	})
	begun(flood, f)
	took, err = honestly(ctx, d, span)
	stop()
	wg.Wait()
	f.busy, f.samples, f.after = p99(took), len(took), rss(d.pid)
	return f, err
}

// begun waits until every stranger has asked once, but not for ever: a flood is what goes on, not its first handshakes.
func begun(ctx context.Context, f *flow) {
	for wait := 0; wait < 100 && f.answered.Load() < floodConns; wait++ {
		pause(ctx, 50*time.Millisecond)
	}
}

// holdHalf sends half of a request and nothing more, again when it was sent away.
func holdHalf(ctx context.Context, d flooded) {
	for ctx.Err() == nil {
		c, err := dialFrom(ctx, "127.1.1.1", d.addr)
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		_, _ = io.WriteString(c, d.half) // it may be closed already
		_, _ = io.Copy(io.Discard, c)
		stop()
		c.Close()
		pause(ctx, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// askUntil asks once, but no longer than until ctx ends.
func askUntil(ctx context.Context, a asker) (string, error) {
	stop := context.AfterFunc(ctx, func() { a.Close() })
	defer stop()
	return a.ask(ctx)
}

// strange asks at its share of the rate, over one connection as long as it holds.
func strange(ctx context.Context, d flooded, place string, f *flow) {
	every := time.Second * floodConns / floodRate
	tick := time.NewTicker(every)
	defer tick.Stop()
	var a asker
	defer func() {
		if a != nil {
			a.Close()
		}
	}()
	for {
		f.requests.Add(1)
		var err error
		if a == nil {
			a, err = d.stranger(ctx, place)
		}
		refusal := ""
		if err == nil {
			refusal, err = askUntil(ctx, a)
		}
		if refusal != "" || err != nil {
			f.refused.Add(1)
		}
		f.answered.Add(1)
		if err != nil && a != nil {
			a.Close()
			a = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// floodEveryDoor floods the doors one after another and prints what came of it. An honest caller's time on a shared machine
// has accidents: a door that misses its ratio gets two more tries.
func floodEveryDoor(t *testing.T, dir string, r upReport) {
	span, floor := shortFlood, 10*time.Millisecond
	if os.Getenv("BASILICA_FLOOD") != "" {
		span, floor = longFlood, time.Millisecond
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "door\trequests\trefused\tMiB before\tpeak\tafter\thonest p99 idle\tflooded\tratio")
	for _, d := range floodedDoors(t, dir, r) {
		var f *flow
		var err error
		for try := range tries {
			f, err = floodDoor(t.Context(), d, span)
			if err == nil && f.ratio(floor) < maxRatio {
				break
			}
			if try < tries-1 {
				t.Logf("%s: again: ratio %.1f, %v", d.name, f.ratio(floor), err)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%.2f ms\t%.2f ms\t%.1f\n", d.name, f.requests.Load(), f.refused.Load(), f.before>>20, f.peak>>20, f.after>>20,
			f.idle.Seconds()*1e3, f.busy.Seconds()*1e3, f.ratio(floor))
		switch {
		case err != nil:
			t.Errorf("%s: %v", d.name, err)
		case f.samples == 0:
			t.Errorf("%s: no honest caller was served in a flood", d.name)
		case os.Getenv("BASILICA_FLOOD") == "":
			// The short flood runs beside other tests and under the race detector, where the flooder itself takes the
			// processors that an honest caller needs: there the ratio is printed, and `make flood` decides by it.
		case f.ratio(floor) >= maxRatio:
			t.Errorf("%s: an honest caller's 99th percentile went from %s to %s in a flood", d.name, f.idle, f.busy)
		}
		if f.peak > maxRSS || f.peak == 0 {
			t.Errorf("%s: %d bytes of resident memory, the bound is %d", d.name, f.peak, maxRSS)
		}
		// A short one on a busy machine asks each door once over every connection at least.
		if want := int64(max(floodConns, (span-time.Second).Seconds()*floodRate/2)); f.requests.Load() < want {
			t.Errorf("%s: only %d requests in %s: this was no flood", d.name, f.requests.Load(), span)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections from %d places and %d half-open ones, %s on each door; bound of resident memory %d MiB\n%s", floodConns, floodPlaces, floodHalves, span, maxRSS>>20, table.String())
}
