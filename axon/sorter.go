package axon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// sorter hands the connections of one listener to two: one for TLS, one for plain HTTP, by the first byte.
type sorter struct {
	ln         net.Listener
	wait       time.Duration // for the first byte
	tls, plain *queue
}

func newSorter(ln net.Listener, wait time.Duration) *sorter {
	q := func() *queue { return &queue{ln: ln, conns: make(chan net.Conn), closed: make(chan struct{})} }
	return &sorter{ln: ln, wait: wait, tls: q(), plain: q()}
}

// run accepts until ctx ends, and closes the listener; then nobody waits for a first byte any more.
func (s *sorter) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { s.ln.Close() })()
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond): // out of file descriptors: give others time to close
				}
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		wg.Go(func() { s.sort(ctx, c) })
	}
}

// handshake is the content type of a TLS record that begins a connection (RFC 8446, section 5.1).
const handshake = 22

func (s *sorter) sort(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var first [1]byte
	err := c.SetReadDeadline(time.Now().Add(s.wait))
	if err == nil {
		_, err = c.Read(first[:])
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return
	}
	to := s.plain
	if first[0] == handshake {
		to = s.tls
	}
	select {
	case to.conns <- &begun{Conn: c, first: first[:]}:
	case <-to.closed:
		c.Close()
	case <-ctx.Done():
		c.Close()
	}
}

// queue is a listener that is fed.
type queue struct {
	ln     net.Listener
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.ln.Addr() }

// begun is a connection of which a byte is read already.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
