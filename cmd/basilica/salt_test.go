package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/localnet"
	"basilica/pallet"
	"basilica/scale"
	"basilica/subtensor"
)

// saltNode is a chain of the generation before beacons, on which commits are opened by who made them.
type saltNode struct{ subtensor.Node }

func (n saltNode) Storage(at basilica.Hash, key []byte) ([]byte, bool, error) {
	if bytes.Equal(key, append(pallet.Twox128([]byte("SubtensorModule")), pallet.Twox128([]byte("CommitRevealWeightsVersion"))...)) {
		return scale.AppendU16(nil, 3), true, nil
	}
	return n.Node.Storage(at, key)
}

// sealWhileAsked makes a block every 40 ms in which somebody has asked the chain something, and one a second otherwise: a command
// that is kept waiting for a processor does not miss the blocks that can take its reveal.
func sealWhileAsked(ctx context.Context, chain *localnet.Chain, asked *atomic.Bool) error {
	every := time.NewTicker(40 * time.Millisecond)
	defer every.Stop()
	for idle := 0; ; idle++ {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		if !asked.Swap(false) && idle < 25 {
			continue
		}
		idle = 0
		if _, err := chain.Seal(); err != nil {
			return err
		}
	}
}

// saltChain serves such a chain; while away is set it answers no question about its state.
func saltChain(t *testing.T, away *atomic.Bool) (url string) {
	t.Helper()
	chain, err := localnet.New(localnet.Config{BlockTime: 40 * time.Millisecond, Genesis: &localnet.Genesis{Subnets: []localnet.GenesisSubnet{{
		NetUID: 39, Hyperparameters: map[string]any{"tempo": int64(100), "weights_rate_limit": int64(5), "commit_reveal_weights_enabled": true},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	server := subtensor.NewServer(saltNode{chain}, chain, subtensor.ServerConfig{Inject: func(method string) error {
		asked.Store(true)
		if away.Load() && strings.HasPrefix(method, "state_") {
			return subtensor.ErrRateLimited
		}
		return nil
	}}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(ctx, ln) }()
	go func() { ended <- sealWhileAsked(ctx, chain, &asked) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	})
	return "ws://" + ln.Addr().String()
}

// hearing calls then once word has been written to it.
type hearing struct {
	strings.Builder
	word string
	then func()
}

func (h *hearing) Write(p []byte) (int, error) {
	n, err := h.Builder.Write(p)
	if h.then != nil && strings.Contains(h.String(), h.word) {
		h.then()
		h.then = nil
	}
	return n, err
}

// TestSaltOutlivesItsCommand: the salt of a commit is in a file before the commit is sent. Where the command is interrupted,
// another call goes on from the file, though the commit's block is not noted there and the node does not answer for some heads;
// the weights take effect and the file goes.
func TestSaltOutlivesItsCommand(t *testing.T) {
	var away atomic.Bool
	url, data := saltChain(t, &away), t.TempDir()
	t.Setenv("BASILICA_CLIENT_DATA_DIR", data)
	weights := func(ctx context.Context, errs io.Writer, more ...string) (int, string) {
		var out strings.Builder
		code := run(ctx, append([]string{"subnet", "weights", "--network", url, "--netuid", "39", "--hotkey", "//Alice//hot", "--yes"}, more...), strings.NewReader(""), &out, errs)
		return code, out.String()
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	errs := &hearing{word: "waiting for block", then: interrupt}
	if code, out := weights(ctx, errs, "0=1"); code == exitOK || out != "" {
		t.Fatalf("exit code %d, %q, %s", code, out, errs)
	}
	files, err := filepath.Glob(filepath.Join(data, "commits", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("kept %v, %v; %s", files, err, errs)
	}
	path := files[0]
	if named, sent := strings.Index(errs.String(), "--reveal "+path), strings.Index(errs.String(), "sending 0x"); named < 0 || sent < named {
		t.Errorf("the file is not named before the commit is sent: %s", errs)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept opening
	if err := json.Unmarshal(raw, &kept); err != nil || len(kept.Commit.Salt) == 0 || kept.Commit.Block == 0 || kept.Until == 0 {
		t.Fatalf("%s: %v", raw, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if code, _ := weights(t.Context(), io.Discard, "--reveal", path, "0=1"); code != exitUsage {
		t.Errorf("weights and a file: exit code %d", code)
	}
	kept.Commit.Block = 0 // as it stands where the command ends before the commit's block is known
	kept.path = path
	if err := kept.write(); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	errs = &hearing{word: "asking again at the next ones", then: func() { away.Store(false) }}
	code, out := weights(t.Context(), errs, "--reveal", path)
	if code != exitOK || !strings.HasPrefix(out, "opened ") || errs.then != nil {
		t.Errorf("exit code %d, %q, %s", code, out, errs)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file of an opened commit is still there: %v", err)
	}
	if _, out := weights(t.Context(), io.Discard, "--uid", "0"); !strings.Contains(out, "65535") {
		t.Errorf("stored: %s", out)
	}
}

func TestCommitFileRefusals(t *testing.T) {
	url, dir := saltChain(t, new(atomic.Bool)), t.TempDir()
	try := func(data string, more ...string) error {
		t.Setenv("BASILICA_CLIENT_DATA_DIR", data)
		root := newRoot()
		root.SetArgs(append([]string{"subnet", "weights", "--network", url, "--netuid", "39", "--hotkey", "//Alice//hot", "--yes"}, more...))
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		return root.ExecuteContext(t.Context())
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(`{"commit":{"kind":"salt","salt":[1]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	provoke.Refused(t, try(file, "0=1"), "COMMIT_FILE") // no directory
	provoke.Refused(t, try(dir, "--reveal", file), "COMMIT_FILE")
	provoke.Refused(t, try(dir, "--reveal", filepath.Join(dir, "none")), "COMMIT_FILE")
}
