package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
)

// slipsOf reads the case's file: the right pair, and the slips that stand in it as comments. Its keys are ours under the
// names that other miners use.
func slipsOf(t *testing.T) (right string, slips []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/cases/A2-5-miner.toml")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimLeft(lines.Text(), "# "), "=")
		value = strings.Trim(value, ` "`)
		switch {
		case !ok || strings.TrimSpace(name) != "axon_external":
		case strings.HasPrefix(lines.Text(), "#"):
			slips = append(slips, value)
		default:
			right = value
		}
	}
	if right != "203.0.113.77:41234" || len(slips) != 5 {
		t.Fatal(right, slips)
	}
	return right, slips
}

// TestCaseA2_5PortInsideIsNotThePortOutside: what is published and what is listened on are two settings; each typical slip has a
// code and a next step of its own, from the check of the file and from the start, before anything is sent to the chain.
func TestCaseA2_5PortInsideIsNotThePortOutside(t *testing.T) {
	right, slips := slipsOf(t)
	codes := map[string]string{
		"0.0.0.0:8080": "ADVERTISE_ANY", "10.12.0.4:8080": "ADVERTISE_PRIVATE", "203.0.113.77:0": "ADVERTISE_PORT", "203.0.113.77": "ADVERTISE_NO_PORT",
		"http://203.0.113.77:41234": "ADVERTISE_URL",
		// their kin
		"[::]:8080": "ADVERTISE_ANY", "127.0.0.1:8080": "ADVERTISE_PRIVATE", "[::ffff:192.168.1.1]:8080": "ADVERTISE_PRIVATE", "169.254.1.1:1": "ADVERTISE_PRIVATE",
		"[fd00::1]:8080": "ADVERTISE_PRIVATE", "100.64.0.1:8080": "ADVERTISE_PRIVATE", "203.0.113.77:99999": "ADVERTISE_PORT", "224.0.0.1:80": "ADVERTISE_NAME",
		"box.example:8080": "ADVERTISE_NAME", ":8080": "ADVERTISE_NAME",
	}
	for _, s := range slips {
		if codes[s] == "" {
			t.Errorf("slip %q of the file is not known here", s)
		}
	}
	file := filepath.Join(t.TempDir(), "miner.toml")
	write := func(advertise string, private bool) {
		t.Helper()
		text := fmt.Sprintf("[chain]\nurl = \"ws://127.0.0.1:1\"\nallow_private = %v\n[miner]\nhotkey = %q\naxon_listen = \"0.0.0.0:8080\"\naxon_advertise = %q\n", private, minerHotURI, advertise)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for slip, code := range codes {
		write(slip, false)
		if _, err := CheckConfig(file, nil); basilica.CodeOf(err) != code || basilica.FixOf(err) == "" || !strings.Contains(err.Error(), "axon") {
			t.Errorf("%q: %v, want %s", slip, err, code)
		}
		cfg := DefaultMinerConfig()
		cfg.DataDir, cfg.Hotkey, cfg.AxonAdvertise = t.TempDir(), minerHotURI, slip
		cfg.Chain = ChainConfig{URL: "ws://127.0.0.1:1", NetUID: 39} // nobody is there: it must not be asked
		if _, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); basilica.CodeOf(err) != code {
			t.Errorf("start with %q: %v, want %s", slip, err, code)
		}
	}
	for advertise, private := range map[string]bool{right: false, "10.12.0.4:8080": true, "[2001:4860:4860::8888]:8080": false} {
		write(advertise, private)
		if _, err := CheckConfig(file, nil); err != nil {
			t.Errorf("%q: %v", advertise, err)
		}
	}
	// Without a setting of its own, what is listened on would be published, and is judged alike.
	cfg := DefaultMinerConfig()
	cfg.DataDir, cfg.Hotkey, cfg.AxonListen, cfg.FleetListen, cfg.StatusListen = t.TempDir(), minerHotURI, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Chain = ChainConfig{URL: "ws://127.0.0.1:1", NetUID: 39}
	if _, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); basilica.CodeOf(err) != "ADVERTISE_PRIVATE" {
		t.Errorf("a loopback address alone: %v", err)
	}
	cfg.DataDir, cfg.AxonListen = t.TempDir(), "0.0.0.0:0"
	if _, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); basilica.CodeOf(err) != "ADVERTISE_ANY" {
		t.Errorf("every address alone: %v", err)
	}
}

// TestCaseA2_5ChainShowsTheAddressOutside: the chain has the address outside, the socket the port inside.
func TestCaseA2_5ChainShowsTheAddressOutside(t *testing.T) {
	right, _ := slipsOf(t)
	chain, client := devChain(t)
	chain.AllowPrivate = false // as on a public network
	uid, err := takePart(t.Context(), client, chain.NetUID, minerColdURI, minerHotURI)
	check(t, err)
	cfg := DefaultMinerConfig()
	cfg.DataDir, cfg.Hotkey, cfg.Chain, cfg.AxonAdvertise = t.TempDir(), minerHotURI, chain, right
	cfg.AxonListen, cfg.FleetListen, cfg.StatusListen = "0.0.0.0:0", "127.0.0.1:0", "127.0.0.1:0"
	ready := make(chan map[string]string, 1)
	m, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(a map[string]string) { ready <- a }})
	check(t, err)
	runUntilEnd(t, m)
	inside := (<-ready)["axon"]
	if strings.Contains(inside, "203.0.113.77") || strings.HasSuffix(inside, ":41234") {
		t.Errorf("the socket is bound to %s", inside)
	}
	seen := errors.New("published")
	err = client.WatchHeads(t.Context(), func(basilica.Header) error {
		graph, err := client.Metagraph(t.Context(), chain.NetUID)
		if err != nil {
			return err
		}
		if addr := graph.Neurons[uid].Axon.Addr; addr.IsValid() && addr.Port() != 0 {
			if addr.String() != right {
				return fmt.Errorf("the chain shows %s", addr)
			}
			return seen
		}
		return nil
	})
	if !errors.Is(err, seen) {
		t.Error(err)
	}
}
