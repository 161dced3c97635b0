package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/pki"
)

// TestJoinWritesItsSectionAlone: the other sections of the file that a join writes stay, that comments go is said, and a file
// that says it all already is not touched.
func TestJoinWritesItsSectionAlone(t *testing.T) {
	e := DefaultExecutorConfig()
	e.MinerAddr, e.DataDir = "203.0.113.5:50053", "/var/lib/basilica/executor"
	const others = "# of the owner\n[chain]\nurl = \"wss://node.example:443\"\nnetuid = 7\n\n[miner]\nhotkey = \"/keys/hot\"\n"
	for name, text := range map[string]string{"no file": "", "a first join": others, "a rejoin": others + "[executor]\nminer_addr = \"old:1\"\n[executor.resources]\nmax_containers = 3\n"} {
		path := filepath.Join(t.TempDir(), "basilica.toml")
		if text != "" {
			check(t, os.WriteFile(path, []byte(text), 0o600))
		}
		f, err := openConfigFile(path)
		check(t, err)
		var said bytes.Buffer
		check(t, f.write(e, slog.New(slog.NewTextHandler(&said, nil))))
		got := DefaultConfig()
		check(t, LoadConfig(path, nil, &got))
		if got.Executor != e || text != "" && (got.Chain.URL != "wss://node.example:443" || got.Chain.NetUID != 7 || got.Miner.Hotkey != "/keys/hot") {
			t.Errorf("%s: %+v", name, got)
		}
		if strings.Contains(said.String(), path) != (text != "") {
			t.Errorf("%s: said %q", name, said.String())
		}
		written, err := os.ReadFile(path)
		check(t, err)
		edited := append([]byte("# edited since\n"), written...)
		check(t, os.WriteFile(path, edited, 0o600))
		f, err = openConfigFile(path)
		check(t, err)
		check(t, f.write(e, slog.New(slog.DiscardHandler)))
		if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, edited) {
			t.Errorf("%s: the same again made it %s, %v", name, kept, err)
		}
	}
}

// TestJoinRefusesAWrongFileFirst: the token is not spent on a machine whose executor could not start with the file.
func TestJoinRefusesAWrongFileFirst(t *testing.T) {
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"))
	check(t, err)
	token, _, err := pki.NewJoinToken("127.0.0.1:1", authority.CACert())
	check(t, err)
	cfg := JoinConfig{Token: token, Executor: DefaultExecutorConfig(), ConfigPath: file(t, "[chain\n")}
	cfg.Executor.DataDir, cfg.Executor.DockerHost = t.TempDir(), "unix://"+filepath.Join(t.TempDir(), "none")
	if _, err := Join(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); basilica.CodeOf(err) != "CONFIG_SYNTAX" {
		t.Errorf("joined with a broken file: %v", err)
	}
	if text, err := os.ReadFile(cfg.ConfigPath); err != nil || string(text) != "[chain\n" {
		t.Errorf("the file is %q, %v", text, err)
	}
}
