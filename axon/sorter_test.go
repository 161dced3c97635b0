package axon

import (
	"context"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// starved has no file descriptor left for the first connection that it is asked for.
type starved struct {
	net.Listener
	asked atomic.Int32
}

func (s *starved) Accept() (net.Conn, error) {
	if s.asked.Add(1) == 1 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: s.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.Listener.Accept()
}

// TestSorterOutlivesALackOfFileDescriptors: what passes by itself does not end the door.
func TestSorterOutlivesALackOfFileDescriptors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, done := newSorter(&starved{Listener: ln}, time.Minute), make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET"); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-s.plain.conns:
		c.Close()
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
