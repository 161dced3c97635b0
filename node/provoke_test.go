package node

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/client"
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

// cheating builds a gpu-attestor that can cheat.
func cheating(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gpu-attestor")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "adversary", "-o", path, "../cmd/gpu-attestor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// unprivileged runs f on a thread that may open no port below 1024, in a network of its own where this process may make
// one: there the kernel's default says which ports these are.
func unprivileged(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), unix.Capset(&header, &make([]unix.CapUserData, 2)[0])); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	return <-done
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
	t.Setenv("BT_WALLET_PASSWORD", "")
	t.Setenv("BT_WALLET_PASSWORD_FILE", "")
	provoke.Each(t, map[string]func(*testing.T) error{
		"ADVERTISE": func(t *testing.T) error {
			_, err := advertised(t.Context(), "no-port", "127.0.0.1:1", "127.0.0.1:2")
			return err
		},
		"ATTESTOR_ADVERSARY": func(t *testing.T) error {
			cfg := DefaultExecutorConfig()
			cfg.Attestor, cfg.DataDir, cfg.MinerAddr, cfg.AllowAdversaryAttestor = cheating(t), t.TempDir(), "203.0.113.5:50050", true
			_, err := childOf(t.Context(), cfg, slog.New(slog.DiscardHandler))
			return err
		},
		"ATTESTOR_MISSING": func(t *testing.T) error {
			cfg := UpConfig{DataDir: t.TempDir(), Attestor: filepath.Join(t.TempDir(), "gpu-attestor")}
			_, err := NewNetwork(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
			return err
		},
		"BINDING": func(t *testing.T) error { return prover{miner: "nobody"}.Prove(t.Context(), executor.Visit{}) },
		"BUSYBOX_MISSING": func(t *testing.T) error {
			t.Setenv("PATH", t.TempDir())
			_, err := findBusybox()
			return err
		},
		"CERTIFICATE_EXPIRED": func(*testing.T) error {
			return (&identity{cert: &x509.Certificate{NotAfter: time.Unix(1000, 0)}}).inForce(time.Unix(2000, 0))
		},
		"CHECK_BINARY": func(t *testing.T) error { return static(file(t, "#!/bin/sh\n")) },
		"CONFIG_EMPTY": func(t *testing.T) error { _, err := CheckConfig(file(t, "# nothing\n"), nil); return err },
		"CONFIG_SIZE": func(t *testing.T) error {
			_, err := CheckConfig(file(t, strings.Repeat("# long\n", maxConfigBytes/7+1)), nil)
			return err
		},
		"JOB_FAILED": func(t *testing.T) error {
			return judgeJob(client.Result{Task: basilica.Task{State: basilica.TaskLost}}, t.TempDir(), basilica.Digest{})
		},
		"JOB_WRONG": func(t *testing.T) error {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, hashOutput), []byte(basilica.Digest{1}.String()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return judgeJob(client.Result{Task: basilica.Task{State: basilica.TaskSucceeded}}, dir, basilica.Digest{2})
		},
		"KEY_INVALID": func(*testing.T) error { return key("//") },
		"KEY_CUT":     func(t *testing.T) error { return key(file(t, `{"secretSeed":"0x`)) },
		"KEY_MEMORY": func(t *testing.T) error {
			root := t.TempDir()
			for _, limit := range []string{"max\n", "9223372036854771712\n", "603979776\n"} {
				if err := os.WriteFile(filepath.Join(root, "memory.max"), []byte(limit), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := enoughMemory(root, "hotkey"); err != nil {
					t.Errorf("limit %q: %v", limit, err)
				}
			}
			if err := errors.Join(os.Mkdir(filepath.Join(root, "memory"), 0o700), os.WriteFile(filepath.Join(root, "memory/memory.limit_in_bytes"), []byte("603979775\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
			return enoughMemory(root, "hotkey")
		},
		"KEY_MISSING": func(*testing.T) error { return key("") },
		"KEY_MODE": func(t *testing.T) error {
			path := file(t, keys.DevPhrase)
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			return key(path)
		},
		"KEY_PASSWORD_WEAK": func(t *testing.T) error {
			t.Setenv("BT_WALLET_PASSWORD", "abc")
			_, err := NewPassword("coldkey", io.Discard)
			return err
		},
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
		"WALLET_NAME": func(*testing.T) error { _, err := OpenWallet("~/wallets", "..", ""); return err },
		"LISTEN_ADDRESS": func(t *testing.T) error {
			_, err := listen(t.Context(), "miner", "miner.listen", "256.0.0.1:1")
			return err
		},
		"NO_FREE_PORT": func(*testing.T) error { _, err := steadyAddrs(1001); return err }, // more than are tried
		"NOT_JOINED":   func(t *testing.T) error { _, err := loadIdentity(t.TempDir()); return err },
		"PORT_DENIED": func(t *testing.T) error {
			return unprivileged(func() error {
				ln, err := listen(t.Context(), "miner", "miner.listen", ":80")
				if err == nil {
					return errors.Join(errors.New("anybody may listen there"), ln.Close())
				}
				return err
			})
		},
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

// TestNobodyAtTheValidatorsAPI shows what basilica up says where the validator does not answer, or not well.
func TestNobodyAtTheValidatorsAPI(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	ask := func(addr string) error {
		n := &Network{parts: []running{{Part: apiAt(addr), name: "validator"}}}
		return n.ask(t.Context(), "/api/v1/rounds", &struct{}{})
	}
	provoke.Refused(t, ask(s.Listener.Addr().String()), "VALIDATOR_AWAY")
	s.Close()
	provoke.Refused(t, ask(s.Listener.Addr().String()), "VALIDATOR_AWAY")
}

// apiAt is a part of a network that has only an address.
type apiAt string

func (apiAt) PID() int                   { return 0 }
func (a apiAt) Addrs() map[string]string { return map[string]string{"api": string(a)} }
func (apiAt) Ended() <-chan struct{}     { return nil }
func (apiAt) Failure() error             { return nil }
func (apiAt) Stop()                      {}

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
