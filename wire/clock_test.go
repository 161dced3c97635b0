package wire

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// TestCaseA5_1Times: an executor whose clock is off by up to a minute answers its miner, certificate and token; beyond, the
// refusal says by how many seconds the clocks differ. The table is the case's own.
func TestCaseA5_1Times(t *testing.T) {
	h := newHouse(t)
	var offset atomic.Int64
	s, err := NewExecutorServer(&machine{}, ExecutorServerConfig{
		Executor: "box-1", Certificate: shows(h.executorCert("box-1", h.now())), CAs: h.auth.FleetCAs, JWTKeys: h.auth.JWTPublicKeys,
		Now: func() time.Time { return h.now().Add(time.Duration(offset.Load()) * time.Second) }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := start(t, s.Serve)
	table, err := os.Open("../pki/testdata/cases/A5-1-times.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	rows := 0
	for scan := bufio.NewScanner(table); scan.Scan(); {
		text, want, ok := strings.Cut(scan.Text(), ",")
		seconds, err := strconv.Atoi(text)
		if !ok || err != nil {
			continue // the heading
		}
		rows++
		offset.Store(int64(seconds))
		_, err = h.pool(nil).Executor("box-1", addr).Health(t.Context()) // the miner's certificate is made for each, now
		if strings.HasPrefix(want, "accept") {
			if err != nil {
				t.Errorf("%s s: %v", text, err)
			}
			continue
		}
		side := "behind"
		if seconds > 0 {
			side = "ahead"
		}
		if said := fmt.Sprintf("%d s %s", max(seconds, -seconds), side); basilica.KindOf(err) != basilica.Denied || basilica.FixOf(err) == "" || !strings.Contains(fmt.Sprint(err), said) {
			t.Errorf("%s s: %v, want %q", text, err, said)
		}
	}
	if rows != 7 {
		t.Errorf("%d rows in the table", rows)
	}
}

// TestCaseA5_2DateJumpAtBoot: a machine without a clock battery starts in 1970, says by how much its clock is behind, and is
// heard as soon as its clock is stepped: with the same certificate, nobody does anything.
func TestCaseA5_2DateJumpAtBoot(t *testing.T) {
	raw, err := os.ReadFile("../pki/testdata/cases/A5-2-date-jump.json")
	if err != nil {
		t.Fatal(err)
	}
	var input struct {
		T []struct{ Boot, Event string } `json:"t"`
	}
	if err := json.Unmarshal(raw, &input); err != nil || len(input.T) < 2 {
		t.Fatal(err, input)
	}
	boot, err := time.Parse(time.RFC3339, strings.TrimSuffix(input.T[0].Boot, " on the box"))
	if err != nil {
		t.Fatal(err)
	}
	_, stepped, _ := strings.Cut(input.T[1].Event, "steps to ")
	honest, err := time.Parse(time.RFC3339, strings.Fields(stepped)[0])
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t)
	h.at = honest
	addr := h.serveFleet(&minerFleet{h: h})
	var own atomic.Int64 // the machine's clock, Unix seconds
	own.Store(boot.Unix())
	cert := h.executorCert("box-1", honest)
	c, err := DialFleet(addr, FleetClientConfig{Certificate: shows(cert), CAs: h.auth.FleetCAs, Now: func() time.Time { return time.Unix(own.Load(), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	behind := fmt.Sprintf("%d s behind", int64(honest.Sub(boot)/time.Second))
	for range 3 {
		_, err := c.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
		if basilica.CodeOf(err) != "CLOCK_SKEW" || !strings.Contains(err.Error(), behind) || basilica.FixOf(err) == "" {
			t.Fatalf("in 1970: %v, want %q", err, behind)
		}
	}
	own.Store(honest.Unix())
	untilHeard(t, c)
}

// untilHeard beats as an executor does, until one is answered.
func untilHeard(t *testing.T, c *FleetClient) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := c.Heartbeat(t.Context(), c.Executor(), basilica.Heartbeat{})
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("not heard by itself: %v", err)
		}
	}
}

// TestCaseA5_2DateJumpAtTheMiner: the miner's clock jumps to 2028 for three minutes; a certificate that is renewed in that
// time is refused once the clock is back, and replaced by the machine itself over the same door.
func TestCaseA5_2DateJumpAtTheMiner(t *testing.T) {
	h := newHouse(t)
	honest := h.now()
	addr := h.serveFleet(&minerFleet{h: h})
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	issue := func() tls.Certificate {
		der, err := h.auth.IssueExecutor(csr, "box-1", h.now())
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key.Signer()}
	}
	shown := issue()
	c, err := DialFleet(addr, FleetClientConfig{Certificate: func() (*tls.Certificate, error) { return &shown, nil }, CAs: h.auth.FleetCAs, Now: func() time.Time { return honest }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	beat := func() error {
		_, err := c.Heartbeat(t.Context(), "box-1", basilica.Heartbeat{})
		return err
	}
	if err := beat(); err != nil {
		t.Fatal(err)
	}
	jump := time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC).Sub(honest)
	h.step(jump)
	if err := beat(); err != nil {
		t.Fatalf("on the standing stream during the jump: %v", err)
	}
	shown = issue()
	h.step(3*time.Minute - jump)
	if err := c.Redial(); err != nil {
		t.Fatal(err)
	}
	if err := beat(); basilica.CodeOf(err) != "CERTIFICATE_EARLY" || !strings.Contains(err.Error(), " s behind") {
		t.Fatalf("with a certificate from 2028: %v", err)
	}
	honest = h.now()
	r, err := c.Renew(t.Context(), "box-1", basilica.RenewRequest{CSR: csr})
	if err != nil {
		t.Fatalf("renew a certificate from 2028: %v", err)
	}
	shown = tls.Certificate{Certificate: [][]byte{r.Certificate}, PrivateKey: key.Signer()}
	if err := c.Redial(); err != nil {
		t.Fatal(err)
	}
	if err := beat(); err != nil {
		t.Fatalf("with the replaced certificate: %v", err)
	}
}
