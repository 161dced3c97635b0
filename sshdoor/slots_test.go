package sshdoor

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestWhoeverWaitsKeepsNobodyOut: silent strangers of eight places hold every slot; who has a certificate comes in all the same,
// from a place of its own and from a place that is full, and the log has one line of it.
func TestWhoeverWaitsKeepsNobodyOut(t *testing.T) {
	for name, first := range map[string]int{"from another place": 2, "from a full place": 1} {
		t.Run(name, func(t *testing.T) {
			var lines syncBuffer
			d := newDoor(t, func(c *Config) {
				c.Log = slog.New(slog.NewJSONHandler(&lines, nil))
				c.Version, c.Handshake = time.Minute, time.Minute
			})
			var silent []net.Conn
			for range d.server.cfg.MaxConnsPerAddr {
				for place := range 8 {
					from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("127.0.0.%d", first+place))}}
					conn, err := from.DialContext(t.Context(), "tcp", d.addr)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					silent = append(silent, conn)
				}
			}
			if len(silent) != d.server.cfg.MaxHandshakes {
				t.Fatalf("%d strangers do not fill the door", len(silent))
			}
			for range 3 {
				d.mustDial(t, nil)
			}
			if err := silent[0].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, silent[0]); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the oldest stranger of the place that holds most was kept")
			}
			if said := lines.String(); strings.Count(said, "to make room") != 1 || strings.Contains(said, "refused") {
				t.Errorf("the log says\n%s", said)
			}
		})
	}
}

// TestSilenceDrivesNoHandshakeOut: silent connections come in numbers, from the place of one who is in the middle of its handshake
// or each from another; the silent ones make room.
func TestSilenceDrivesNoHandshakeOut(t *testing.T) {
	for name, from := range map[string]func(n int) string{
		"from its own place":    func(int) string { return "127.0.0.1" },
		"each from another one": func(n int) string { return fmt.Sprintf("127.0.0.%d", 2+n) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, func(c *Config) { c.MaxHandshakes, c.Version, c.Handshake = 8, time.Minute, time.Minute })
			good, err := ssh.NewCertSigner(mustCert(t, d.cert(t, nil)), d.user)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{Config: modern(), User: box, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()), Auth: []ssh.AuthMethod{
				ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
					for n := range 40 {
						dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from(n))}}
						silent, err := dialer.DialContext(t.Context(), "tcp", d.addr)
						if err != nil {
							return nil, err
						}
						t.Cleanup(func() { silent.Close() })
						_, _ = silent.Read(make([]byte, 1)) // once it has its slot
					}
					return []ssh.Signer{good}, nil
				}),
			}})
			if err != nil {
				t.Fatalf("in the middle of its handshake: %v", err)
			}
			conn.Close()
		})
	}
}

// TestNewcomersHaveTimeForTheirVersionLine: where all others spoke, the newest is not the one that goes because it has not yet.
func TestNewcomersHaveTimeForTheirVersionLine(t *testing.T) {
	d := newDoor(t, nil)
	meet := func(writes int32) *stranger {
		near, far := net.Pipe() // all of one place
		t.Cleanup(func() { near.Close(); far.Close() })
		one := d.server.meet(near)
		one.conn.writes.Store(writes)
		return one
	}
	spoke := []*stranger{meet(2), meet(2)}
	for range d.server.cfg.MaxConnsPerAddr - 2 {
		meet(2)
	}
	newest := meet(1)
	meet(2)
	if !spoke[0].cut || !spoke[1].cut || newest.cut {
		t.Errorf("cut: %v, %v, the newest %v", spoke[0].cut, spoke[1].cut, newest.cut)
	}
	for range 2 {
		meet(2)
	}
	if !newest.cut {
		t.Error("who stays silent was kept")
	}
}

// TestRefusedHandshakesWriteFewLines: one place may write only so much in the log.
func TestRefusedHandshakesWriteFewLines(t *testing.T) {
	var lines syncBuffer
	d := newDoor(t, func(c *Config) { c.Log = slog.New(slog.NewJSONHandler(&lines, nil)) })
	for range 4 * linesAtOnce {
		conn, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "SSH-1.5-old\r\n"+strings.Repeat("\xff", 64))
		untilGone(conn)
		conn.Close()
	}
	if n := strings.Count(lines.String(), "SSH handshake refused"); n == 0 || n > linesAtOnce {
		t.Errorf("%d lines", n)
	}
}

// TestVersionLineHasABoundOfItsOwn: who does not say at once what it speaks is let go long before a handshake's end; who does
// has the whole time of one.
func TestVersionLineHasABoundOfItsOwn(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(c *Config) { c.Version, c.Handshake = short, time.Minute })
	good, err := ssh.NewCertSigner(mustCert(t, d.cert(t, nil)), d.user)
	if err != nil {
		t.Fatal(err)
	}
	// The slow one's version line has come when its key is asked for. It gives the key once later comers, who did not say theirs,
	// were let go: by then its own time for one is over too.
	afterOthers := func() ([]ssh.Signer, error) {
		conns := map[string]net.Conn{}
		for name, says := range map[string]string{"silent": "", "half a line": "SSH-2.0-", "other lines": "hello\r\n"} {
			conn, err := net.Dial("tcp", d.addr)
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, says); err != nil {
				return nil, err
			}
			conns[name] = conn
		}
		for name, conn := range conns {
			if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				return nil, err
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the stranger was kept", name)
			}
		}
		<-time.After(short / 20) // the timers of one moment come in any order
		return []ssh.Signer{good}, nil
	}
	slow, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
		Config: modern(), User: box, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()), Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(afterOthers)},
	})
	if err != nil {
		t.Fatalf("a slow key: %v", err)
	}
	slow.Close()
}
