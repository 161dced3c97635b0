package sshdoor

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"basilica"
)

// What strangers may write in the log: so many lines of one place at once, then one a minute; and one a minute in all about
// those who made room for others.
const (
	linesAtOnce    = 8
	linesPerSecond = 1.0 / 60
)

// stranger is a connection that has not yet shown who it is.
type stranger struct {
	conn net.Conn
	from netip.Prefix
	cut  bool // for another; guarded by Server.mu
}

// meet gives a newcomer a slot. Where its place has none left, the oldest stranger of that place makes room; where the door has
// none, the oldest of the place that holds most: whoever waits must not keep others out.
func (s *Server) meet(conn net.Conn) *stranger {
	one := &stranger{conn: conn, from: sourceOf(conn.RemoteAddr())}
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[netip.Prefix]int{}
	for _, o := range s.strangers {
		held[o.from]++
	}
	most := one.from
	full := held[most] >= s.cfg.MaxConnsPerAddr
	if !full && len(s.strangers) >= s.cfg.MaxHandshakes {
		full = true
		for _, o := range s.strangers {
			if held[o.from] > held[most] {
				most = o.from
			}
		}
	}
	if full {
		i := slices.IndexFunc(s.strangers, func(o *stranger) bool { return o.from == most })
		oldest := s.strangers[i]
		s.strangers = slices.Delete(s.strangers, i, i+1)
		oldest.cut = true
		oldest.conn.Close() // its own goroutine sees the end
		if s.cuts++; s.paceCuts.Take("") {
			s.cfg.Log.Warn("SSH connections of strangers closed to make room for others", "closed", s.cuts, "last", oldest.conn.RemoteAddr().String())
			s.cuts = 0
		}
	}
	s.strangers = append(s.strangers, one)
	return one
}

// part takes a stranger off the list, once known or gone.
func (s *Server) part(one *stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers = slices.DeleteFunc(s.strangers, func(o *stranger) bool { return o == one })
}

// refused writes a line about one who came, unless its place wrote its share already or it was cut, which has a line of its own.
func (s *Server) refused(ctx context.Context, log *slog.Logger, level slog.Level, one *stranger, msg string, args ...any) {
	s.mu.Lock()
	cut := one.cut
	s.mu.Unlock()
	if !cut && s.lines.Take(one.from.String()) {
		log.Log(ctx, level, msg, args...)
	}
}

func sourceOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{} // strangers without an address share one count
	}
	return basilica.Network(ap.Addr())
}
