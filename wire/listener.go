package wire

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"basilica"
)

// cappedListener closes at once what comes over its caps: a waiting stranger must not keep others out. Whoever is known counts
// for itself instead of for the place that it comes from, where many may be.
type cappedListener struct {
	net.Listener
	max, maxPerHost int
	log             *slog.Logger // nil: none

	mu    sync.Mutex
	total int
	by    map[string]int         // strangers by host, known ones by name
	open  map[string]*cappedConn // by remote address
	lines rate.Sometimes         // about who was sent away
	away  int                    // not yet told
}

func newCappedListener(ln net.Listener, limit, perHost int) *cappedListener {
	return &cappedListener{
		Listener: ln, max: limit, maxPerHost: perHost, by: make(map[string]int), open: make(map[string]*cappedConn),
		lines: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// Accept implements net.Listener.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := l.enter(c); in != nil {
			return in, nil
		}
		c.Close()
	}
}

func (l *cappedListener) enter(c net.Conn) *cappedConn {
	host := hostOf(c.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.by[host] >= l.maxPerHost {
		l.away++
		l.lines.Do(func() {
			if l.log != nil {
				l.log.Warn("connections closed: the door, or the place that they come from, has too many that are not known", "closed", l.away, "last", c.RemoteAddr().String(), "of_one_place", l.maxPerHost)
			}
			l.away = 0
		})
		return nil
	}
	in := &cappedConn{Conn: c, from: l, counted: host}
	l.total++
	l.by[host]++
	l.open[c.RemoteAddr().String()] = in
	return in
}

// known counts the connection from that remote address for who came over it, not for its place, while it has fewer than most.
func (l *cappedListener) known(addr, who string, most int) {
	who = "known " + who // no host is named so
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.open[addr]; c != nil && c.counted != who && l.by[who] < most {
		l.forget(c.counted)
		l.by[who]++
		c.counted = who
	}
}

func (l *cappedListener) forget(counted string) {
	if l.by[counted]--; l.by[counted] == 0 {
		delete(l.by, counted)
	}
}

// cut closes the connection from that remote address.
func (l *cappedListener) cut(addr string) {
	l.mu.Lock()
	c := l.open[addr]
	l.mu.Unlock()
	if c != nil {
		c.Conn.Close()
	}
}

func (l *cappedListener) leave(c *cappedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.counted == "" {
		return
	}
	if addr := c.RemoteAddr().String(); l.open[addr] == c {
		delete(l.open, addr)
	}
	l.total--
	l.forget(c.counted)
	c.counted = ""
}

type cappedConn struct {
	net.Conn
	from    *cappedListener
	counted string // for whom, until it left; guarded by from.mu
}

// Close implements net.Conn.
func (c *cappedConn) Close() error {
	c.from.leave(c)
	return c.Conn.Close()
}

// hostOf is whom a connection counts for.
func hostOf(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return basilica.Network(ap.Addr()).String()
}
