package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestOneNetworkLeavesRoomForOthers: whoever holds all that one place may hold is closed at once, others come in, and an end
// makes room again.
func TestOneNetworkLeavesRoomForOthers(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := Listen(raw, 3, 2)
	taken := make(chan net.Conn, 8)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			taken <- c
		}
	}()
	defer func() { ln.Close(); <-ended }()
	enter := func(from string) net.Conn { dialFrom(t, from, raw.Addr().String()); return <-taken }
	refused := func(from string) {
		t.Helper()
		c := dialFrom(t, from, raw.Addr().String())
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s was not closed: %v", from, err)
		}
	}
	first, _ := enter("127.0.0.1"), enter("127.0.0.1")
	refused("127.0.0.1")
	enter("127.0.0.3")
	refused("127.0.0.4")
	for range 2 { // a second Close must not make room twice
		first.Close()
	}
	enter("127.0.0.5")
	refused("127.0.0.6")
}

// TestOneNetworkComesInPace: one place's connections beyond its pace are closed at once, another's are not.
func TestOneNetworkComesInPace(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, 0)
	ln := ListenPaced(raw, 100, 100, NewRates(1, 2, func() time.Time { return at }))
	taken := make(chan string, 8)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			taken <- Network(c.RemoteAddr().String())
			c.Close()
		}
	}()
	defer func() { ln.Close(); <-ended }()
	for _, from := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"} {
		dialFrom(t, from, raw.Addr().String())
	}
	for i, want := range []string{"127.0.0.1/32", "127.0.0.1/32", "127.0.0.2/32"} {
		if got := <-taken; got != want {
			t.Errorf("connection %d is of %s, want %s", i, got, want)
		}
	}
}

func TestNetworks(t *testing.T) {
	for remote, want := range map[string]string{"1.2.3.4:5": "1.2.3.4/32", "[::ffff:1.2.3.4]:5": "1.2.3.4/32", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::/64", "x": "x"} {
		if got := Network(remote); got != want {
			t.Errorf("%s: %s", remote, got)
		}
	}
}

// TestFullTableForgivesNobody: many callers cannot push out one that used up its share, and new ones share what is left.
func TestFullTableForgivesNobody(t *testing.T) {
	now := time.Unix(0, 0)
	r := NewRates(1, 2, func() time.Time { return now })
	for i, want := range []bool{true, true, false} {
		if r.Take("loud") != want {
			t.Fatalf("request %d of a burst of two: %v", i, !want)
		}
	}
	for i := range maxKnown + 100 {
		r.Take(strconv.Itoa(i))
	}
	if r.Known() != maxKnown || r.Take("loud") {
		t.Fatalf("%d known", r.Known())
	}
	if r.Take("newcomer") {
		t.Error("the shared bucket has no end")
	}
	now = now.Add(time.Minute)
	if !r.Take("newcomer") || r.Known() != 1 {
		t.Errorf("%d known after a minute", r.Known())
	}
}

// TestRateHolds: whatever the order and the pace, nobody gets more than burst and rate allow.
func TestRateHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		perSecond, burst := rapid.Float64Range(0.5, 50).Draw(t, "rate"), rapid.IntRange(1, 20).Draw(t, "burst")
		r := NewRates(perSecond, burst, func() time.Time { return now })
		got := map[string]int{}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond)
			who := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "who")
			if r.Take(who) {
				got[who]++
			}
		}
		for who, n := range got {
			if most := float64(burst) + perSecond*now.Sub(time.Unix(0, 0)).Seconds() + 1e-6; float64(n) > most {
				t.Fatalf("%s had %d of %g", who, n, most)
			}
		}
	})
}

func naming(host, local string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.ParseIP(local), Port: 80})))
}

func TestHost(t *testing.T) {
	for _, c := range []struct {
		host, local            string
		onLoopback, everywhere bool
	}{
		{"127.0.0.1:8081", "127.0.0.1", true, true},
		{"127.0.0.1", "127.0.0.1", true, true},
		{"[::1]:8081", "::1", true, true},
		{"[::1]", "::1", true, true},
		{"[::ffff:127.0.0.1]:1", "127.0.0.1", true, true},
		{"LocalHost:8081", "127.0.0.1", true, true},
		{"Panel.example:8081", "127.0.0.1", true, true},
		{"panel.attacker.example:8081", "127.0.0.1", false, false},
		{"panel.example.evil", "127.0.0.1", false, false},
		{"localhost.evil", "::1", false, false},
		{"127.0.0.0:evil", "127.0.0.1", false, false},
		{"localhost:", "127.0.0.1", true, true},
		{"127.0.0.1.evil", "127.0.0.1", false, false},
		{"0.0.0.0:8081", "127.0.0.1", false, false},
		{"10.0.0.1", "127.0.0.1", false, false},
		{"", "127.0.0.1", false, false},
		{"a:b:c", "127.0.0.1", false, false},
		{"panel.attacker.example", "10.0.0.1", true, false},
		{"10.0.0.1:80", "10.0.0.1", true, true},
	} {
		if got := Host(naming(c.host, c.local), []string{"panel.example"}, false); got != c.onLoopback {
			t.Errorf("%q on %s: %v", c.host, c.local, got)
		}
		if got := Host(naming(c.host, c.local), []string{"panel.example"}, true); got != c.everywhere {
			t.Errorf("%q on %s, everywhere: %v", c.host, c.local, got)
		}
	}
}

func TestOrigin(t *testing.T) {
	for _, c := range []struct {
		origin, site string
		want         bool
	}{
		{"", "", true},
		{"", "none", true},
		{"http://127.0.0.1:9944", "", true},
		{"http://127.0.0.1:9944", "same-origin", true},
		{"http://127.0.0.1:9945", "", false},
		{"http://attacker.example", "", false},
		{"http://127.0.0.1:9944.attacker.example", "", false},
		{"null", "", false},
		{"", "cross-site", false},
		{"http://127.0.0.1:9944", "same-site", false},
	} {
		r := naming("127.0.0.1:9944", "127.0.0.1")
		r.Header.Set("Origin", c.origin)
		r.Header.Set("Sec-Fetch-Site", c.site)
		if got := Origin(r); got != c.want {
			t.Errorf("origin %q, site %q: %v", c.origin, c.site, got)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"localhost", "[::1]:80", "127.0.0.1:8081", "a:b:c", "[", "[::ffff:127.0.0.1]", "panel.attacker.example:8081", "127.0.0.1.evil:80", "127.0.0.0:evil", "[::1%evil]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		// Whatever passes must hold either the name or an address, never a longer name.
		if Host(naming(host, "127.0.0.1"), nil, false) && strings.Contains(strings.ToLower(host), "evil") && !strings.Contains(host, "%") {
			t.Fatalf("%q passes", host)
		}
	})
}
