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
	conn *cappedConn
	from netip.Prefix
	cut  bool // for another; guarded by Server.mu
}

// meet gives a newcomer a slot. Where its place has none left, a stranger of that place makes room; where the door has none, one
// of the places that hold most: whoever waits must not keep others out.
func (s *Server) meet(conn net.Conn) *stranger {
	one := &stranger{conn: newCappedConn(conn, s.cfg.Handshake, s.cfg.Handshake, s.cfg.MaxBytes), from: sourceOf(conn.RemoteAddr())}
	s.mu.Lock()
	defer s.mu.Unlock()
	held, most := map[netip.Prefix]int{}, 0
	for _, o := range s.strangers {
		held[o.from]++
		most = max(most, held[o.from])
	}
	switch {
	case held[one.from] >= s.cfg.MaxConnsPerAddr:
		s.makeRoom(func(o *stranger) bool { return o.from == one.from })
	case len(s.strangers) >= s.cfg.MaxHandshakes:
		s.makeRoom(func(o *stranger) bool { return held[o.from] == most })
	}
	s.strangers = append(s.strangers, one)
	return one
}

// makeRoom closes one of the strangers that may go: the oldest whose version line has not come, or else the oldest. The newest
// quarter had no time for theirs and is spared: those who spoke before would drive every newcomer out.
func (s *Server) makeRoom(may func(*stranger) bool) {
	var those []*stranger
	for _, o := range s.strangers {
		if may(o) {
			those = append(those, o)
		}
	}
	gone := those[0]
	if i := slices.IndexFunc(those[:len(those)-len(those)/4], func(o *stranger) bool { return !o.conn.greeted() }); i >= 0 {
		gone = those[i]
	}
	s.strangers = slices.DeleteFunc(s.strangers, func(o *stranger) bool { return o == gone })
	gone.cut = true
	gone.conn.Close() // its own goroutine sees the end
	if s.cuts++; s.paceCuts.Take("") {
		s.cfg.Log.Warn("SSH connections of strangers closed to make room for others", "closed", s.cuts, "last", gone.conn.RemoteAddr().String())
		s.cuts = 0
	}
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
