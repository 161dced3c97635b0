package wire

import (
	"net"
	"net/netip"
	"sync"

	"basilica"
)

// cappedListener closes at once what comes over its caps: a waiting stranger must not keep others out.
type cappedListener struct {
	net.Listener
	max, maxPerHost int

	mu    sync.Mutex
	total int
	hosts map[string]int
	open  map[string]net.Conn // by remote address
}

func newCappedListener(ln net.Listener, limit, perHost int) *cappedListener {
	return &cappedListener{Listener: ln, max: limit, maxPerHost: perHost, hosts: make(map[string]int), open: make(map[string]net.Conn)}
}

// Accept implements net.Listener.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(c.RemoteAddr())
		if l.enter(host) {
			addr := c.RemoteAddr().String()
			l.mu.Lock()
			l.open[addr] = c
			l.mu.Unlock()
			return &cappedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(host, addr) })}, nil
		}
		c.Close()
	}
}

func (l *cappedListener) enter(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.hosts[host] >= l.maxPerHost {
		return false
	}
	l.total++
	l.hosts[host]++
	return true
}

// cut closes the connection from that remote address.
func (l *cappedListener) cut(addr string) {
	l.mu.Lock()
	c := l.open[addr]
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

func (l *cappedListener) leave(host, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, addr)
	l.total--
	if l.hosts[host]--; l.hosts[host] == 0 {
		delete(l.hosts, host)
	}
}

type cappedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *cappedConn) Close() error {
	c.leave()
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
