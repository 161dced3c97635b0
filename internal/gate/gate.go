// Package gate is what every door does with strangers before it looks at what they want: it bounds the connections and the
// requests of one place that they come from, and refuses web pages that rebound a name to this machine. It knows no role.
package gate

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"basilica"
)

// Network is what counts as one place that strangers come from, by the remote address ip:port of a connection; where that
// cannot be read, its text.
func Network(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	return basilica.Network(ap.Addr()).String()
}

// Listen gives a listener that holds at most limit connections at once and at most perNetwork of one network. What comes over
// is closed at once: a stranger who waits must not keep others out.
func Listen(ln net.Listener, limit, perNetwork int) net.Listener {
	return ListenPaced(ln, limit, perNetwork, nil)
}

// ListenPaced is Listen where one network may also come only so often, unless pace is nil: a handshake of TLS costs this side
// more than many requests, and who asks once a connection would have one for each.
func ListenPaced(ln net.Listener, limit, perNetwork int, pace *Rates) net.Listener {
	return &listener{Listener: ln, max: limit, maxPerNetwork: perNetwork, pace: pace, networks: make(map[string]int)}
}

type listener struct {
	net.Listener
	max, maxPerNetwork int
	pace               *Rates // nil: none

	mu       sync.Mutex
	total    int
	networks map[string]int
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := Network(c.RemoteAddr().String())
		if (l.pace == nil || l.pace.Take(from)) && l.enter(from) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *listener) enter(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.networks[from] >= l.maxPerNetwork {
		return false
	}
	l.total++
	l.networks[from]++
	return true
}

func (l *listener) leave(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.networks[from]--; l.networks[from] == 0 {
		delete(l.networks, from)
	}
}

type conn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// maxKnown bounds how many callers have a limit of their own.
const maxKnown = 8192

// Rates limits each of many callers to a rate. A caller whose bucket is full again is forgotten when room is needed; where
// none is, new callers share one bucket, so that no old one is forgiven.
type Rates struct {
	perSecond rate.Limit
	burst     int
	now       func() time.Time

	mu     sync.Mutex
	by     map[string]*rate.Limiter
	others *rate.Limiter
	pruned time.Time
}

// NewRates allows each caller burst requests at once and perSecond in the long run.
func NewRates(perSecond float64, burst int, now func() time.Time) *Rates {
	each := rate.Limit(perSecond)
	return &Rates{perSecond: each, burst: burst, now: now, by: make(map[string]*rate.Limiter), others: rate.NewLimiter(each, burst)}
}

// Take says whether who may have one more request now.
func (r *Rates) Take(who string) bool { return r.TakeN(who, 1) }

// TakeN is Take of a request that costs as much as n; none costs more than a burst.
func (r *Rates) TakeN(who string, n int) bool {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of(who, now).AllowN(now, min(n, r.burst))
}

func (r *Rates) of(who string, now time.Time) *rate.Limiter {
	if own := r.by[who]; own != nil {
		return own
	}
	if len(r.by) >= maxKnown && now.Sub(r.pruned) >= time.Second {
		r.pruned = now
		for k, v := range r.by {
			if v.TokensAt(now) >= float64(r.burst) {
				delete(r.by, k)
			}
		}
	}
	if len(r.by) >= maxKnown {
		return r.others
	}
	own := rate.NewLimiter(r.perSecond, r.burst)
	r.by[who] = own
	return own
}

// Known is how many callers have a limit of their own now.
func (r *Rates) Known() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.by)
}

// Host says whether a request may name the host that it names. To a browser, a page whose name was re-pointed to this machine
// is of the same origin as what answers here; only the Host header tells. On a connection to a loopback address a request must
// name a loopback address, localhost or one of names; on others, where everywhere is set, any address, localhost or one of names.
func Host(r *http.Request, names []string, everywhere bool) bool {
	loopback := onLoopback(r)
	if !loopback && !everywhere {
		return true
	}
	host := r.Host
	if h, port, err := net.SplitHostPort(host); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = h
	}
	if n := len(host); n > 1 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return !loopback || addr.Unmap().IsLoopback()
	}
	named := func(name string) bool { return strings.EqualFold(host, name) }
	return named("localhost") || slices.ContainsFunc(names, named)
}

// Origin says whether a request may come from the web page that it names, if any: one of this very door. A page elsewhere can
// send a request that it may not read the answer of; where requests change something that is harm enough.
func Origin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// onLoopback says whether a request came in on a loopback address, whatever its listener named. A request without a
// connection did not.
func onLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}
