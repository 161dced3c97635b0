// Package sshdoor is SSH between validators and executors, both ends: a server that takes certificates of one authority
// and serves fixed subsystems, and the client that pins the server's key. It knows no role, no proof and no container.
package sshdoor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/pki"
)

// Names of the certificate extensions that carry what a grant allows.
const (
	ExtensionSubsystems = "subsystems@basilica" // comma list of subsystem names
	ExtensionValidator  = "validator@basilica"  // SS58 of the validator that the grant was given to
)

// Backdate is how far before its making a certificate begins, so that a machine whose clock is that far behind takes it.
const Backdate = pki.Backdate

const (
	maxRefusal    = 8 << 10 // bytes of a refusal on stderr or in a banner
	maxSubsystem  = 128     // bytes of a subsystem's name
	serverVersion = "SSH-2.0-basilica"
)

// Session is one subsystem channel of an authenticated validator.
type Session struct {
	SessionID   []byte // the exchange hash of the first key exchange; both ends have the same
	HostKeyBlob []byte // SSH wire encoding of this server's host key
	Grant       basilica.GrantID
	Validator   basilica.Hotkey
	Channel     io.ReadWriteCloser // Close ends this direction alone; the server closes the channel when the handler returns
}

// Handler serves one subsystem until it returns. Its error reaches the client with kind, code, sentence and, where it is
// a basilica.Held, the holder; an error without a code reaches it as one word.
type Handler func(ctx context.Context, s Session) error

// modern is what both ends speak: authenticated ciphers, and key exchanges on Curve25519 with and without ML-KEM.
func modern() ssh.Config {
	return ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		Ciphers:      []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM},
		MACs:         []string{ssh.HMACSHA256ETM},
	}
}

// refusal is how a failure crosses the door: in a banner before authentication, on stderr after it.
type refusal struct {
	Kind     string            `json:"kind"`
	Code     string            `json:"code"`
	Sentence string            `json:"sentence"`
	Fix      string            `json:"fix,omitempty"`
	Holding  *basilica.Holding `json:"holding,omitempty"`
}

func encodeRefusal(err error) string {
	r := refusal{Kind: basilica.Internal.String(), Code: "INTERNAL", Sentence: "the machine failed inside"}
	var e *basilica.Error
	if errors.As(err, &e) && e.Code != "" && e.Kind != basilica.Internal {
		r = refusal{Kind: e.Kind.String(), Code: e.Code, Sentence: e.Sentence, Fix: e.Fix}
	}
	var held *basilica.Held
	if errors.As(err, &held) {
		r.Holding = &held.Holding
	}
	out, err := json.Marshal(r)
	if err != nil || len(out) > maxRefusal {
		return `{"kind":"internal","code":"INTERNAL","sentence":"the machine failed inside"}`
	}
	return string(out)
}

// decodeRefusal reads what a stranger sent: anything that is no refusal is nil.
func decodeRefusal(text []byte) error {
	if len(text) == 0 || len(text) > maxRefusal {
		return nil
	}
	var r refusal
	if err := json.Unmarshal(text, &r); err != nil || r.Code == "" {
		return nil
	}
	e := basilica.E(basilica.ParseKind(r.Kind), printable(r.Code, 64), printable(r.Sentence, 512), printable(r.Fix, 512))
	if r.Holding != nil {
		h := *r.Holding
		h.Holder = printable(h.Holder, 128)
		return &basilica.Held{Holding: h, Err: e}
	}
	return e
}

// bannerRefusal reads a banner, which comes from whoever answers before anything is agreed on: it can say why a certificate was
// refused, and nothing else.
func bannerRefusal(banner string) error {
	var e *basilica.Error
	var held *basilica.Held
	refused := decodeRefusal([]byte(banner))
	if !errors.As(refused, &e) || errors.As(refused, &held) || e.Kind != basilica.Denied || !strings.HasPrefix(e.Code, "SSH_") {
		return nil
	}
	return e
}

// printable cuts a stranger's text to size and takes out what would move a terminal's cursor.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}

var errByteCap = errors.New("sshdoor: the connection moved more bytes than it may")

// cappedConn puts a deadline on every read and write, an end on the whole connection and a cap on its bytes, both
// directions together.
type cappedConn struct {
	net.Conn
	idle atomic.Int64 // nanoseconds
	end  atomic.Int64 // Unix nanoseconds of the machine's own clock; kernel deadlines know no other
	left atomic.Int64

	writes atomic.Int32 // so far
}

func newCappedConn(c net.Conn, idle, life time.Duration, maxBytes int64) *cappedConn {
	cc := &cappedConn{Conn: c}
	cc.idle.Store(int64(idle))
	cc.endIn(life)
	cc.left.Store(maxBytes)
	return cc
}

// greeted says whether the other side's version line has come: a server's own goes first, and nothing more before that.
func (c *cappedConn) greeted() bool { return c.writes.Load() >= 2 }

// relax gives the connection its limits for the time after the handshake, also for the read that waits already.
func (c *cappedConn) relax(idle, life time.Duration) error {
	c.idle.Store(int64(idle))
	c.endIn(life)
	return c.SetReadDeadline(c.deadline())
}

func (c *cappedConn) endIn(d time.Duration) { c.end.Store(time.Now().Add(d).UnixNano()) }

func (c *cappedConn) deadline() time.Time {
	end, idle := time.Unix(0, c.end.Load()), time.Now().Add(time.Duration(c.idle.Load()))
	if idle.Before(end) {
		return idle
	}
	return end
}

func (c *cappedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		return n, errors.Join(errByteCap, c.Close())
	}
	return n, err
}

func (c *cappedConn) Write(p []byte) (int, error) {
	if c.left.Add(-int64(len(p))) < 0 {
		return 0, errors.Join(errByteCap, c.Close())
	}
	if err := c.SetWriteDeadline(c.deadline()); err != nil {
		return 0, err
	}
	c.writes.Add(1)
	return c.Conn.Write(p)
}
