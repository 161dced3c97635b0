package axon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"basilica"
)

// opened is a door of its own, open until it is cancelled; done hears how it ended.
func opened(t *testing.T, s *Server) (addr netip.AddrPort, cancel context.CancelFunc, done chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done = make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	return ln.Addr().(*net.TCPAddr).AddrPort(), cancel, done
}

func TestServeEndsWatches(t *testing.T) {
	m := newMarket(t, nil) // for its keys and client; its own door is not used
	s, err := NewServer(m.shop, ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr, cancel, done := opened(t, s)
	c := m.client(func(c *ClientConfig) { c.Addr = addr })
	if _, err := c.Task(t.Context(), "", "t"); err != nil {
		t.Fatal(err)
	}
	watched, watching := make(chan error, 1), make(chan struct{})
	m.shop.watching = watching
	go func() { watched <- c.WatchTask(t.Context(), "", "forever", 0, nil) }()
	<-watching
	started := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-watched; basilica.KindOf(err) != basilica.Unavailable {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 2*graceTime {
		t.Fatalf("the door took %s to close", took)
	}
}

// TestUnsentBodyEndsConnection: a body that is announced and never sent must not hold a connection for ever, whether or
// not its path reads one.
func TestUnsentBodyEndsConnection(t *testing.T) {
	m := newMarket(t, nil) // for its keys; its own door is not used
	s, err := NewServer(m.shop, ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.unread = 100 * time.Millisecond
	addr, cancel, done := opened(t, s)
	for _, path := range []string{"/v1/offer", "/v1/absent", "/v1/tasks"} {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n", path)
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still open", path)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestRepeatsAreSignedAnew: a server that hangs up on a reused connection must never see one nonce twice.
func TestRepeatsAreSignedAnew(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var mu sync.Mutex
	var nonces []string
	serve := func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			nonces = append(nonces, req.Header.Get(headerNonce))
			n := len(nonces)
			mu.Unlock()
			if n == 2 || n == 3 {
				return // read, and no answer
			}
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"id\":\"t-1\"}")
		}
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	m := newMarket(t, nil)
	c := m.client(func(c *ClientConfig) {
		c.Addr, c.TLSKey, c.AllowPlain = ln.Addr().(*net.TCPAddr).AddrPort(), nil, true
	})
	for range 2 {
		if task, err := c.Task(t.Context(), "", "t-1"); err != nil || task.ID != "t-1" {
			t.Fatal(task, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(nonces) != 4 {
		t.Fatalf("%d requests, want 4", len(nonces))
	}
	slices.Sort(nonces)
	if len(slices.Compact(nonces)) != 4 {
		t.Fatal("a nonce went out twice")
	}
}

// TestStreamsOfOneHotkeyAreBounded: one caller's watches and transfers must not take the whole door.
func TestStreamsOfOneHotkeyAreBounded(t *testing.T) {
	m := newMarket(t, nil) // for its keys; its own door is not used
	s, err := NewServer(m.shop, ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.watches.most, s.transfers.most = 1, 0
	addr, cancel, done := opened(t, s)
	c := m.client(func(c *ClientConfig) { c.Addr = addr })
	watching := make(chan struct{})
	m.shop.watching = watching
	watch, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.WatchTask(watch, "", "forever", 0, nil) }()
	<-watching
	if err := c.WatchTask(t.Context(), "", "t", 0, func(basilica.TaskEvent) error { return nil }); basilica.CodeOf(err) != "STREAMS" {
		t.Errorf("a watch too many: %v", err)
	}
	if err := c.PutBlob(t.Context(), "", basilica.Blob{Size: 1}, 0, strings.NewReader("x")); basilica.CodeOf(err) != "STREAMS" {
		t.Errorf("an upload too many: %v", err)
	}
	if err := c.GetBlob(t.Context(), "", basilica.Digest{1}, 0, io.Discard); basilica.CodeOf(err) != "STREAMS" {
		t.Errorf("a download too many: %v", err)
	}
	stop()
	<-watched
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(s.watches.by) != 0 {
		t.Errorf("still counted: %v", s.watches.by)
	}
}

// lingering is a miner that goes on for a while with a watch whose caller has hung up.
type lingering struct {
	*shop
	begun, alone, enough chan struct{}
}

func (l *lingering) WatchTask(ctx context.Context, _ basilica.Hotkey, _ basilica.TaskID, _ int64, _ func(basilica.TaskEvent) error) error {
	close(l.begun)
	<-ctx.Done()
	close(l.alone)
	<-l.enough
	return ctx.Err()
}

// TestServeWaitsForHandlers: who closes what the miner stands on, once the door is closed, must not take it from under a handler
// whose caller has hung up; one that does not end must not hold the door.
func TestServeWaitsForHandlers(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil) // for its keys; its own door is not used
	for name, grace := range map[string]time.Duration{"ends": time.Minute, "does not end": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lingering{shop: m.shop, begun: make(chan struct{}), alone: make(chan struct{}), enough: make(chan struct{})}
			s, err := NewServer(l, ServerConfig{Hotkey: basilica.Hotkey(m.miner.SS58()), Key: m.key, Replays: newReplays(t, m.now), Now: m.now, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			s.grace = grace
			addr, cancel, done := opened(t, s)
			c := m.client(func(c *ClientConfig) { c.Addr = addr })
			watch, hangUp := context.WithCancel(t.Context())
			watched := make(chan error, 1)
			go func() { watched <- c.WatchTask(watch, "", "forever", 0, nil) }()
			<-l.begun
			hangUp()
			<-watched
			<-l.alone
			cancel()
			if grace < time.Minute {
				if err := <-done; err != nil {
					t.Error(err)
				}
				close(l.enough)
				return
			}
			select {
			case err := <-done:
				t.Errorf("the door was closed over a handler: %v", err)
				close(l.enough)
				return
			case <-time.After(3 * time.Second): // HTTP/2 takes a second to say goodbye
			}
			close(l.enough)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// deadlines counts how often a reading deadline is moved.
type deadlines struct {
	http.ResponseWriter
	reads int
}

func (d *deadlines) SetReadDeadline(time.Time) error  { d.reads++; return nil }
func (d *deadlines) SetWriteDeadline(time.Time) error { return nil }

// TestUploadDeadlineIsForAPiece: a byte now and then must not keep an upload alive.
func TestUploadDeadlineIsForAPiece(t *testing.T) {
	const size = pieceBytes + 10
	moved := &deadlines{}
	body := &blobReader{r: iotest.OneByteReader(io.LimitReader(zeros{}, size)), rc: http.NewResponseController(moved), left: size}
	if n, err := io.Copy(io.Discard, body); n != size || err != nil {
		t.Fatal(n, err)
	}
	if moved.reads != 2 {
		t.Errorf("the deadline moved %d times in two pieces", moved.reads)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestCallersDeadline: the deadline of a caller tells as much as the client's own, and a miner that could not be reached before
// it still could not.
func TestCallersDeadline(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil) // for its keys; its own door is not used
	for name, tc := range map[string]struct {
		serve func(try int, conn net.Conn) // the connection stays open until the test's end
		post  bool
		code  string
	}{
		"says nothing":          {func(int, net.Conn) {}, false, "DEADLINE"},
		"says nothing to a job": {func(int, net.Conn) {}, true, "DEADLINE"},
		"half an answer": {func(_ int, conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
		}, false, "DEADLINE"},
		"hangs up, then nothing": {func(try int, conn net.Conn) {
			if try == 1 {
				conn.Close()
			}
		}, false, "MINER_UNREACHABLE"},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for try := 1; ; try++ {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					defer conn.Close()
					tc.serve(try, conn)
				}
			})
			defer serving.Wait()
			defer ln.Close()
			c := m.client(func(c *ClientConfig) {
				c.Addr, c.TLSKey, c.AllowPlain = ln.Addr().(*net.TCPAddr).AddrPort(), nil, true
			})
			deadline := 50 * time.Millisecond
			if tc.code != "DEADLINE" {
				deadline = 20 * firstPause // the second try is under way
			}
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			if tc.post {
				_, err = c.Submit(ctx, basilica.Submission{})
			} else {
				_, err = c.Task(ctx, "", "t")
			}
			if basilica.KindOf(err) != basilica.Unavailable || basilica.CodeOf(err) != tc.code || basilica.FixOf(err) == "" || tc.code == "DEADLINE" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want %s", err, tc.code)
			}
		})
	}
}
