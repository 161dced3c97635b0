package wire

import (
	"bytes"
	"sync"

	"google.golang.org/grpc"

	"basilica"
	"basilica/wire/wirepb"
)

// lines are the connections of one calling end: the one for new calls, and older ones on which calls still run. A new one
// comes when the certificate that is shown was replaced: the other end may soon trust the old one's maker no more.
type lines struct {
	certificate CertificateFunc
	connect     func() (*grpc.ClientConn, error)

	mu     sync.Mutex // guards the rest
	now    *line
	all    map[*line]bool
	closed bool
}

// line is one connection; its fields after conn are lines' to guard.
type line struct {
	conn  *grpc.ClientConn
	rpc   wirepb.ExecutorClient
	cert  []byte // DER that it was made with
	calls int    // under way
}

// take gives the line for one call; the caller must call done at the call's end.
func (l *lines) take() (rpc wirepb.ExecutorClient, done func(), err error) {
	cert, err := l.certificate()
	if err != nil {
		return nil, nil, err
	}
	var der []byte
	if len(cert.Certificate) > 0 {
		der = cert.Certificate[0]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, basilica.E(basilica.Unavailable, "POOL_CLOSED", "the miner has closed its connection with this executor", "try again, unless the executor was revoked")
	}
	if l.now == nil || !bytes.Equal(l.now.cert, der) {
		conn, err := l.connect()
		if err != nil {
			return nil, nil, err
		}
		last := l.now
		l.now = &line{conn: conn, rpc: wirepb.NewExecutorClient(conn), cert: der}
		l.all[l.now] = true
		l.drop(last)
	}
	one := l.now
	one.calls++
	return one.rpc, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.calls--
		l.drop(one)
	}, nil
}

// drop closes a line that new calls do not take and no call runs on; the caller holds mu.
func (l *lines) drop(one *line) {
	if one != nil && one != l.now && one.calls == 0 && l.all[one] {
		delete(l.all, one)
		one.conn.Close()
	}
}

func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for one := range l.all {
		one.conn.Close()
	}
	clear(l.all)
}
