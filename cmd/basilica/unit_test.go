package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPrintUnit: the unit of each role says how it is started, kept and ended, and systemd, where it is here, reads it.
func TestPrintUnit(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "a $HOME 100% file.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unit := func(role string, flags ...string) map[string][]string {
		t.Helper()
		var out, said bytes.Buffer
		if code := run(t.Context(), append([]string{role, "--print-unit", "--config", config}, flags...), strings.NewReader(""), &out, &said); code != exitOK {
			t.Fatalf("%s: exit %d: %s", role, code, said.String())
		}
		verifyUnit(t, filepath.Join(dir, "basilica-"+role+".service"), out.Bytes())
		keys := map[string][]string{}
		line := regexp.MustCompile(`^(\[[A-Z][a-z]+\]|#.*|([A-Za-z]+)=(.*)|)$`)
		for text := range strings.Lines(out.String()) {
			parts := line.FindStringSubmatch(strings.TrimSuffix(text, "\n"))
			if parts == nil {
				t.Errorf("%s: a line that is no unit's: %q", role, text)
				continue
			}
			if parts[2] == "" {
				parts[3] = parts[1] // a comment
			}
			keys[parts[2]] = append(keys[parts[2]], parts[3])
		}
		for key, want := range map[string]string{"Restart": "always", "RestartPreventExitStatus": "3", "KillMode": "mixed", "NoNewPrivileges": "yes", "WantedBy": "multi-user.target"} {
			if got := keys[key]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s=%v, want %s", role, key, got, want)
			}
		}
		command := `"` + role + `" "--config" "` + dir + `/a $$HOME 100%% file.toml"`
		for _, f := range flags {
			command += ` "` + f + `"`
		}
		if got := keys["ExecStart"]; len(got) != 1 || !strings.HasSuffix(got[0], command) {
			t.Errorf("%s: starts %v", role, got)
		}
		return keys
	}
	write("[executor]\ndata_dir = \"/var/lib/basilica/executor\"\n[miner]\ndata_dir = \"" + dir + "/miner\"\n[validator]\ndata_dir = \"/var/lib/basilica/validator\"\n")
	executor := unit("executor")
	if executor["StateDirectory"][0] != "basilica/executor" || executor["TimeoutStopSec"][0] != "150" || !strings.Contains(strings.Join(executor["After"], " "), "docker.service") {
		t.Errorf("executor: %v", executor)
	}
	for key := range executor {
		// A mount namespace of its own would hide its mounts from the engine.
		if strings.HasPrefix(key, "Protect") || strings.HasPrefix(key, "Private") || key == "ReadWritePaths" {
			t.Errorf("executor: %s", key)
		}
	}
	miner := unit("miner")
	if miner["ReadWritePaths"][0] != `"`+dir+`/miner"` || miner["ProtectSystem"][0] != "strict" || miner["StateDirectory"] != nil || miner["CapabilityBoundingSet"][0] != "" {
		t.Errorf("miner: %v", miner)
	}
	if v := unit("validator"); v["StateDirectory"][0] != "basilica/validator" {
		t.Errorf("validator: %v", v)
	}
	t.Setenv("BASILICA_MINER_AXON_LISTEN", `127.0.0.1:1 "100%" $HOME`)
	t.Setenv("BASILICA_CHAIN_URL", "wss://provider.example/v1/s3cret")
	t.Setenv("BASILICA_EXECUTOR_LISTEN", "127.0.0.1:2")
	changed := unit("miner", "--network", "finney", "--netuid", "39", "--log-level", "debug")
	want := `["BASILICA_MINER_AXON_LISTEN=127.0.0.1:1 \"100%%\" $HOME"]`
	if got := fmt.Sprint(changed["Environment"]); got != want || !strings.Contains(fmt.Sprint(changed[""]), "# BASILICA_CHAIN_URL is set") || strings.Contains(fmt.Sprint(changed), "s3cret") {
		t.Errorf("environment %s, want %s; %v", got, want, changed[""])
	}
	write("[executor]\nkeep_tasks = true\n")
	if kept := unit("executor"); kept["TimeoutStopSec"][0] != "30" {
		t.Errorf("with tasks that go on: %v", kept["TimeoutStopSec"])
	}
}

// TestUnitTakesNoSecretAndNoRelativePath: an address that may hold a key is named, whether a flag or a variable gives it, and
// nothing in the unit hides it once it stands in the configuration; what is relative here is absolute there.
func TestUnitTakesNoSecretAndNoRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(here, "miner.toml")
	if err := os.WriteFile(config, []byte("[miner]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BASILICA_CONFIG", "")
	t.Setenv("BASILICA_CHAIN_URL", "finney")
	t.Setenv("BASILICA_CHAIN_FALLBACKS", "test,wss://provider.example/v1/s3cret")
	for name, value := range map[string]string{"MINER_DATA_DIR": "./m", "MINER_HOTKEY": "//Alice", "VALIDATOR_HOTKEY": "key", "VALIDATOR_CC_ROOT": "/root.pem", "VALIDATOR_PROFILES": "~/models.json", "EXECUTOR_ATTESTOR": "gpu-attestor"} {
		t.Setenv("BASILICA_"+name, value)
	}
	print := func(args ...string) string {
		t.Helper()
		var out, said bytes.Buffer
		if code := run(t.Context(), append(args, "--print-unit"), strings.NewReader(""), &out, &said); code != exitOK {
			t.Fatalf("exit %d: %s", code, said.String())
		}
		return out.String()
	}
	holds := func(unit string, want map[string]bool) {
		t.Helper()
		for text, is := range want {
			if strings.Contains(unit, text) != is {
				t.Errorf("%q: want %v in\n%s", text, is, unit)
			}
		}
	}
	holds(print("miner", "--config", config, "--network", "wss://provider.example/v1/s3cret", "--netuid", "39"), map[string]bool{
		"s3cret": false, `"--network"`: false, "CHAIN_URL": false, `"--netuid" "39"`: true,
		"\n# --network is given where this was printed, and may hold a secret: write its value into \"" + config + "\" as chain.url.\n": true,
		"\n# BASILICA_CHAIN_FALLBACKS is set": true, "as chain.fallbacks.\n": true,
		`"BASILICA_MINER_DATA_DIR=` + here + `/m"`: true, `ReadWritePaths="` + here + `/m"`: true, `"BASILICA_MINER_HOTKEY=//Alice"`: true,
	})
	holds(print("miner", "--network", "wss://u:s3cret@node.example"), map[string]bool{"s3cret": false, "as chain.url, and add --config": true})
	holds(print("miner", "--network", "wss://node.example:443"), map[string]bool{`"--network" "wss://node.example:443"`: true, "BASILICA_CHAIN_URL=finney": true})
	holds(print("validator"), map[string]bool{
		`"BASILICA_VALIDATOR_HOTKEY=` + here + `/key"`: true, "CC_ROOT=/root.pem": true, "PROFILES=~/models.json": true,
	})
	holds(print("executor"), map[string]bool{`"BASILICA_EXECUTOR_ATTESTOR=gpu-attestor"`: true, "CHAIN": false})
}

func verifyUnit(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // its form was checked line by line
	}
	out, err := exec.CommandContext(t.Context(), tool, "verify", "--man=no", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, filepath.Base(path)) {
			t.Errorf("systemd: %s", line)
		}
	}
	if err != nil && len(out) == 0 {
		t.Errorf("systemd-analyze verify: %v", err)
	}
}
