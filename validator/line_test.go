package validator

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// line is a bad line to one machine: a TCP proxy on loopback. The kernels that tests run on have no netem, so it does by hand
// what that would do to a stream: bytes come late, a lost segment holds up those behind it until it is sent again, and a
// peer whose process died resets.
type line struct {
	delay time.Duration // each way
	loss  float64       // share of segments, each way
	cut   func() int    // bytes from the machine after which both ends are reset; nil: never
}

// segment is what one TCP segment carries on Ethernet; again is how long its sender waits before it sends a lost one again
// (Linux: 200 ms at least, doubled each time).
const (
	segment = 1448
	again   = 200 * time.Millisecond
)

// lay makes the line to addr and gives the address of its near end.
func (l line) lay(t testing.TB, addr string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.carry(ctx, near, addr) })
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return ln.Addr().String()
}

func (l line) carry(ctx context.Context, near net.Conn, addr string) {
	far, err := net.Dial("tcp", addr)
	if err != nil {
		near.Close()
		return
	}
	hangUp := sync.OnceFunc(func() { near.Close(); far.Close() })
	defer hangUp()
	stop := context.AfterFunc(ctx, hangUp)
	defer stop()
	reset := func() {
		for _, c := range []net.Conn{near, far} {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // the close below resets, as the kernel does for a process that was killed
			}
		}
		hangUp()
	}
	most := -1
	if l.cut != nil {
		most = l.cut()
	}
	var wg sync.WaitGroup
	carry := func(from, to net.Conn, most int) {
		if l.oneWay(ctx, from, to, most) {
			reset()
		} else if tcp, ok := to.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // the other way may go on
		}
	}
	wg.Go(func() { carry(near, far, -1) })
	wg.Go(func() { carry(far, near, most) })
	wg.Wait()
}

// packet is a piece of the stream and when it arrives.
type packet struct {
	data []byte
	due  time.Time
}

// oneWay says whether it ended because most bytes had passed; most < 0: there is no such end.
func (l line) oneWay(ctx context.Context, from net.Conn, to io.Writer, most int) (cut bool) {
	queue := make(chan packet, 4096) // what is under way
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		last := time.Time{}
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			due := time.Now().Add(l.delay)
			for wait, k := again, 0; k*segment < n; k++ {
				for ; rand.Float64() < l.loss; wait = 2 * wait {
					due = due.Add(wait)
				}
			}
			if due.Before(last) {
				due = last
			}
			last = due
			if n > 0 {
				queue <- packet{b[:n], due}
			}
			if err != nil {
				return
			}
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	broken, passed := false, 0
	for p := range queue {
		timer.Reset(time.Until(p.due))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		if broken || ctx.Err() != nil {
			continue // drain, so that the reader ends
		}
		if passed += len(p.data); most >= 0 && passed >= most {
			p.data, cut = p.data[:len(p.data)-(passed-most)], true
		}
		if _, err := to.Write(p.data); err != nil || cut {
			broken = true
			_ = from.Close()
		}
	}
	wg.Wait()
	return cut
}

// TestLine: the line delays and loses as it says, so that what others measure over it means something.
func TestLine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	trips := func(l line, n int) (longest time.Duration, err error) {
		c, err := net.Dial("tcp", l.lay(t, ln.Addr().String()))
		if err != nil {
			return 0, err
		}
		defer c.Close()
		for range n {
			began := time.Now()
			if _, err = c.Write([]byte("x")); err == nil {
				_, err = io.ReadFull(c, make([]byte, 1))
			}
			if err != nil {
				return longest, err
			}
			longest = max(longest, time.Since(began))
		}
		return longest, nil
	}
	if d, err := trips(line{delay: 20 * time.Millisecond}, 3); err != nil || d < 40*time.Millisecond {
		t.Errorf("a round trip took %s: %v", d, err)
	}
	if d, err := trips(line{loss: 0.3}, 12); err != nil || d < again {
		t.Errorf("a third of all segments was lost and the longest round trip took %s: %v", d, err)
	}
	if _, err := trips(line{cut: func() int { return 10 }}, 11); err == nil {
		t.Error("the line was not cut")
	}
	if _, err := trips(line{cut: func() int { return 10 }}, 9); err != nil {
		t.Errorf("the line was cut too early: %v", err)
	}
}
