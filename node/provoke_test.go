package node

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica/executor"
	"basilica/internal/provoke"
	"basilica/keys"
)

// file writes a file of the test and gives its path.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefusals(t *testing.T) {
	key := func(ref string) error {
		_, err := LoadKey("miner.hotkey", ref)
		return err
	}
	heard := func(ctx context.Context, t *testing.T, line string) error {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		if line != "" {
			if _, err := write.WriteString(line); err != nil {
				t.Fatal(err)
			}
			write.Close()
		} else {
			defer write.Close()
		}
		_, err = (&child{role: "miner", log: file(t, "one\ntwo\n")}).await(ctx, read)
		return err
	}
	t.Setenv("PATH", t.TempDir()) // no busybox there
	t.Setenv("BT_WALLET_PASSWORD", "")
	t.Setenv("BT_WALLET_PASSWORD_FILE", "")
	provoke.Each(t, map[string]func(*testing.T) error{
		"ADVERTISE": func(t *testing.T) error {
			_, err := advertised(t.Context(), "no-port", "127.0.0.1:1", "127.0.0.1:2")
			return err
		},
		"BINDING":         func(t *testing.T) error { return prover{miner: "nobody"}.Prove(t.Context(), executor.Visit{}) },
		"BUSYBOX_MISSING": func(*testing.T) error { _, err := findBusybox(); return err },
		"CERTIFICATE_EXPIRED": func(*testing.T) error {
			return (&identity{cert: &x509.Certificate{NotAfter: time.Unix(1000, 0)}}).inForce(time.Unix(2000, 0))
		},
		"CHECK_BINARY": func(t *testing.T) error { return static(file(t, "#!/bin/sh\n")) },
		"CONFIG_EMPTY": func(t *testing.T) error { _, err := CheckConfig(file(t, "# nothing\n"), nil); return err },
		"CONFIG_SIZE": func(t *testing.T) error {
			_, err := CheckConfig(file(t, strings.Repeat("# long\n", maxConfigBytes/7+1)), nil)
			return err
		},
		"KEY_INVALID": func(*testing.T) error { return key("//") },
		"KEY_MISSING": func(*testing.T) error { return key("") },
		"KEY_PUBLIC": func(t *testing.T) error {
			pair, err := keys.FromURI(keys.Sr25519, "//Alice")
			if err != nil {
				t.Fatal(err)
			}
			return key(file(t, `{"ss58Address":"`+pair.SS58()+`"}`))
		},
		"KEY_UNREADABLE": func(t *testing.T) error { return key(file(t, "not a key")) },
		"KEY_PASSWORD_MISSING": func(*testing.T) error {
			_, err := passwordOf("hotkey", os.Getenv, promptOn("/nowhere/tty"))
			return err
		},
		"LISTEN_ADDRESS": func(t *testing.T) error {
			_, err := listen(t.Context(), "miner", "miner.listen", "256.0.0.1:1")
			return err
		},
		"NOT_JOINED": func(t *testing.T) error { _, err := loadIdentity(t.TempDir()); return err },
		"PORT_TAKEN": func(t *testing.T) error {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			_, err = listen(t.Context(), "miner", "miner.listen", ln.Addr().String())
			return err
		},
		"PROCESS_ENDED": func(t *testing.T) error { return heard(t.Context(), t, "no JSON\n") },
		"PROCESS_SLOW": func(t *testing.T) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return heard(ctx, t, "")
		},
	})
}

// TestChainStopped shows that a localnet whose producer stands still says so.
func TestChainStopped(t *testing.T) {
	cfg := defaultLocalnet()
	cfg.Listen, cfg.StatusListen = "127.0.0.1:0", ""
	l, err := NewLocalnet(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(map[string]string) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whoever asks gives up before a block comes, for nobody makes one
	provoke.Refused(t, l.health(ctx), "CHAIN_STOPPED")
}
