package rest

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	maxAddrs = 4096 // addresses that have a limit of their own
	idleAddr = time.Minute
)

// limit refuses what one address asks too fast. Beyond maxAddrs busy addresses, the others share one limit.
type limit struct {
	cfg  Config
	next http.Handler

	mu     sync.Mutex // guards the rest
	byAddr map[netip.Prefix]*visitor
	others *rate.Limiter
}

type visitor struct {
	*rate.Limiter
	last time.Time
}

func newLimit(cfg Config, next http.Handler) *limit {
	return &limit{cfg: cfg, next: next, byAddr: map[netip.Prefix]*visitor{}, others: rate.NewLimiter(rate.Limit(cfg.PerSec), cfg.Burst)}
}

// ServeHTTP implements http.Handler.
func (l *limit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !l.allow(r.RemoteAddr) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"error":{"kind":"exhausted","code":"RATE_LIMIT","sentence":"too many requests from this address","fix":"ask less often"}}` + "\n"))
		return
	}
	l.next.ServeHTTP(w, r)
}

func (l *limit) allow(remote string) bool {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(remote, now).AllowN(now, 1)
}

// of finds the limiter of an address; a whole /64 of IPv6 counts as one.
func (l *limit) of(remote string, now time.Time) *rate.Limiter {
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return l.others
	}
	bits := 32
	ip := addr.Addr().Unmap()
	if ip.Is6() {
		bits = 64
	}
	key, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return l.others
	}
	if v := l.byAddr[key]; v != nil {
		v.last = now
		return v.Limiter
	}
	if len(l.byAddr) >= maxAddrs {
		for k, v := range l.byAddr {
			if now.Sub(v.last) > idleAddr {
				delete(l.byAddr, k)
			}
		}
	}
	if len(l.byAddr) >= maxAddrs {
		return l.others
	}
	v := &visitor{rate.NewLimiter(rate.Limit(l.cfg.PerSec), l.cfg.Burst), now}
	l.byAddr[key] = v
	return v.Limiter
}
