package localnet_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"basilica/localnet"
	"basilica/subtensor"
)

// unavailable skips where a developer's machine lacks something, and fails where CI does.
func unavailable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// polkadotJS is the folder of the npm test with its modules installed.
func polkadotJS(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../scripts/polkadotjs")
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			unavailable(t, "%s is not installed: %v", tool, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@polkadot", "api")); err == nil {
		return dir
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		unavailable(t, "npm ci: %v\n%.2000s", err, out)
	}
	return dir
}

// TestPolkadotJS lets a polkadot.js client connect, read the metadata, register a hotkey and submit serve_axon.
func TestPolkadotJS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts node")
	}
	dir := polkadotJS(t)
	chain, err := localnet.New(localnet.Config{BlockTime: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- chain.Run(ctx) }()
	go func() {
		done <- subtensor.NewServer(chain, chain, subtensor.ServerConfig{}, slog.New(slog.DiscardHandler)).Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	limit, stop := context.WithTimeout(t.Context(), 90*time.Second)
	defer stop()
	cmd := exec.CommandContext(limit, "node", "serve_axon.mjs", "ws://"+ln.Addr().String())
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("serve_axon.mjs: %v\n%s", err, out)
	}
	var result struct {
		Genesis      string
		SpecName     string
		SpecVersion  int
		Metadata     int
		SlotDuration int
		UID          int
		Served       struct{ States, Events []string }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if result.Genesis != chain.Genesis().String() || result.SpecName != "node-subtensor" || result.SpecVersion != 425 ||
		result.Metadata != 15 || result.SlotDuration != 100 || result.UID != 1 {
		t.Errorf("polkadot.js saw %s", out)
	}
	if states := result.Served.States; len(states) == 0 || states[len(states)-1] != "Finalized" {
		t.Errorf("states %v", states)
	}
}
