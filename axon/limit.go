package axon

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"basilica"
)

// maxLimited bounds how many callers a limiter knows at once.
const maxLimited = 8192

// limiter limits each of many callers to a rate. A caller whose bucket is full again is forgotten when room is needed;
// where none is, a new caller is refused rather than an old one forgiven.
type limiter struct {
	every rate.Limit
	burst int
	now   func() time.Time

	mu     sync.Mutex
	by     map[string]*rate.Limiter
	pruned time.Time
}

func newLimiter(perSecond float64, now func() time.Time) *limiter {
	return &limiter{every: rate.Limit(perSecond), burst: max(1, int(4*perSecond)), now: now, by: make(map[string]*rate.Limiter)}
}

func (l *limiter) take(who string) error {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.by[who]
	if own == nil {
		if len(l.by) >= maxLimited && now.Sub(l.pruned) >= time.Second {
			l.pruned = now
			for k, v := range l.by {
				if v.TokensAt(now) >= float64(l.burst) {
					delete(l.by, k)
				}
			}
		}
		if len(l.by) >= maxLimited {
			return tooFast()
		}
		own = rate.NewLimiter(l.every, l.burst)
		l.by[who] = own
	}
	if !own.AllowN(now, 1) {
		return tooFast()
	}
	return nil
}

// census bounds how much each hotkey has under way at once of what lasts long.
type census struct {
	what string
	most int

	mu sync.Mutex
	by map[basilica.Hotkey]int
}

func newCensus(what string, most int) *census {
	return &census{what: what, most: most, by: make(map[basilica.Hotkey]int)}
}

// enter counts one more, until leave is called.
func (c *census) enter(who basilica.Hotkey) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[who] >= c.most {
		return nil, basilica.E(basilica.Exhausted, "STREAMS", fmt.Sprintf("this hotkey has %d %s under way already", c.most, c.what), "let some of them end first")
	}
	c.by[who]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.by[who]--; c.by[who] == 0 {
			delete(c.by, who)
		}
	}, nil
}

func tooFast() error {
	return basilica.E(basilica.Exhausted, "RATE_LIMIT", "too many requests", "wait a moment and go slower")
}

// network is what counts as one remote caller.
func network(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	return basilica.Network(ap.Addr()).String()
}

// connCap closes new connections over a total or a number per remote network, by http.Server's ConnState.
type connCap struct {
	max, perNetwork int

	mu    sync.Mutex
	conns map[net.Conn]string
	by    map[string]int
}

func newConnCap(limit, perNetwork int) *connCap {
	return &connCap{max: limit, perNetwork: perNetwork, conns: make(map[net.Conn]string), by: make(map[string]int)}
}

func (c *connCap) watch(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		who := network(conn.RemoteAddr().String())
		c.conns[conn] = who
		c.by[who]++
		if len(c.conns) > c.max || c.by[who] > c.perNetwork {
			conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		who, ok := c.conns[conn]
		if !ok {
			return
		}
		delete(c.conns, conn)
		if c.by[who]--; c.by[who] == 0 {
			delete(c.by, who)
		}
	}
}
