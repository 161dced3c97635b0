package wire

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"basilica"
)

// TestManyMachinesBehindOneAddress: a whole rack is served from one place, while the strangers of that place keep to their cap.
func TestManyMachinesBehindOneAddress(t *testing.T) {
	var log bytes.Buffer // of a handler that locks; read once the door is closed
	h := newHouse(t)
	s, err := NewFleetServer(&minerFleet{h: h}, FleetServerConfig{Certificate: shows(h.minerCert()), CAs: h.auth.FleetCAs, Known: anyone, Now: h.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := strings.Count(log.String(), "connections closed"); n != 1 {
			t.Errorf("%d lines about closed connections:\n%s", n, &log)
		}
	})
	addr := start(t, s.Serve)
	var rack []*FleetClient
	for n := range maxConnsHost + 6 {
		c, err := DialFleet(addr, FleetClientConfig{Certificate: shows(h.executorCert(fmt.Sprintf("box-%d", n), h.now())), CAs: h.auth.FleetCAs, Now: h.now})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rack = append(rack, c)
	}
	for range 2 {
		for n, c := range rack {
			if _, err := c.Heartbeat(t.Context(), c.Executor(), basilica.Heartbeat{}); err != nil {
				t.Fatalf("machine %d of %d: %v", n+1, len(rack), err)
			}
		}
	}
	for n := range maxConnsHost + 3 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n < maxConnsHost {
			continue
		}
		if err := conn.SetReadDeadline(time.Now().Add(handshakeTime / 2)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("stranger %d of one place was kept: %v", n+1, err)
		}
	}
}

// TestOneMachineKeepsToItsCap: beyond its own connections a known machine's count for its place, as a stranger's do; all are
// forgotten when they end.
func TestOneMachineKeepsToItsCap(t *testing.T) {
	ends := make([]net.Conn, 4)
	l := newCappedListener(nil, 10, 2)
	for n := range ends {
		in := l.enter(&fromPort{port: n + 1})
		if in == nil {
			t.Fatalf("connection %d was sent away", n+1)
		}
		ends[n] = in
		for range 2 { // a second call over it changes nothing
			l.known(ends[n].RemoteAddr().String(), "box-1", 2)
		}
	}
	if l.by["known box-1"] != 2 || l.by[hostOf(ends[0].RemoteAddr())] != 2 || l.total != 4 {
		t.Errorf("%v, %d", l.by, l.total)
	}
	if l.enter(&fromPort{port: 9}) != nil {
		t.Error("a fifth connection came in")
	}
	for range 2 {
		for _, c := range ends {
			c.Close()
		}
	}
	if len(l.by) != 0 || len(l.open) != 0 || l.total != 0 {
		t.Errorf("%v, %v, %d", l.by, l.open, l.total)
	}
}

// fromPort is a connection from a port of one address.
type fromPort struct {
	net.Conn
	port int
}

func (f *fromPort) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: f.port}
}

func (f *fromPort) Close() error { return nil }
