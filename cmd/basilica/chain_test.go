package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"basilica/internal/provoke"
	"basilica/internal/pty"
	"basilica/node"
)

// TestMain lets scripts call this very program as basilica.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"basilica": main})
}

// quick is the time between two blocks where nothing depends on it.
const quick = 50 * time.Millisecond

// startChain runs a development chain behind its real door, with a block every so often; genesis is a file, or empty.
func startChain(genesis string, blockTime time.Duration) (url string, stop func() error, err error) {
	cfg := node.DefaultConfig().Localnet
	cfg.Listen, cfg.StatusListen, cfg.DataDir, cfg.BlockTime, cfg.Tempo = "127.0.0.1:0", "", "", node.Duration(blockTime), 20
	cfg.Genesis = genesis
	addrs := make(chan map[string]string, 1)
	ctx, cancel := context.WithCancel(context.Background())
	chain, err := node.NewLocalnet(ctx, cfg, node.Deps{
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(a map[string]string) { addrs <- a },
	})
	if err != nil {
		cancel()
		return "", nil, err
	}
	done := make(chan error, 1)
	go func() { done <- chain.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-done
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, chain.Close())
	}
	return "ws://" + (<-addrs)["rpc"], stop, nil
}

// TestSubnetCommandLine plays the verbs of `basilica subnet`, one script a theme, each on a chain of its own:
// that of the script's genesis.toml where it has one.
func TestSubnetCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/subnet",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": provoke.JSON},
		Setup: func(env *testscript.Env) error {
			genesis := filepath.Join(env.WorkDir, "genesis.toml")
			if _, err := os.Stat(genesis); err != nil {
				genesis = ""
			}
			url, stop, err := startChain(genesis, quick)
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("BASILICA_CHAIN_URL", url)
			env.Setenv("BASILICA_CHAIN_NETUID", "39")
			return nil
		},
	})
}

// TestSubnetAsksOnTerminal: on a terminal a verb that writes says what it costs and asks; y goes on, anything else does not.
func TestSubnetAsksOnTerminal(t *testing.T) {
	url, stop, err := startChain("", quick)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	ask := func(answer string, hotkey string) (int, string, string) {
		person, program := pty.Open(t)
		var out, errs strings.Builder
		if _, err := person.WriteString(answer + "\n"); err != nil {
			t.Fatal(err)
		}
		code := run(t.Context(), []string{
			"subnet", "register", "--network", url, "--netuid", "39", "--coldkey", "//Bob", "--hotkey", hotkey, "--max-burn", "1",
		}, program, &out, &errs)
		return code, out.String(), errs.String()
	}
	for _, no := range []string{"", "n", "nay", "yess"} {
		code, out, errs := ask(no, "//Bob//asked")
		if code != exitFailure || out != "" || !strings.Contains(errs, "Go on? [y/N] ") || !strings.Contains(errs, "NOT_CONFIRMED") || !strings.Contains(errs, "burned    0.") {
			t.Errorf("%q: exit code %d, %q, %q", no, code, out, errs)
		}
	}
	if code, out, errs := ask("y", "//Bob//asked"); code != exitOK || !strings.Contains(out, "done: register") {
		t.Errorf("y: exit code %d, %q, %q", code, out, errs)
	}
}
