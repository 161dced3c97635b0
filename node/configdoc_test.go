package node

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"basilica"
)

// TestTemplate shows that what `config init` writes is a configuration: as it is, and with every key uncommented, it says
// what the defaults say.
func TestTemplate(t *testing.T) {
	var b bytes.Buffer
	if err := WriteTemplate(&b); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"as written": b.String(), "uncommented": regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(b.String(), "$1")} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := DefaultConfig()
		if err := LoadConfig(path, nil, &got); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		settings, err := Settings(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defaults, err := Settings("", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range settings {
			if s.Value != defaults[i].Value {
				t.Errorf("%s: %s = %s, the default is %s", what, s.Key, s.Value, defaults[i].Value)
			}
			if s.Doc == "" || strings.Contains(s.Doc, "\n\n") {
				t.Errorf("%s has no comment", s.Key)
			}
			if fromFile := s.Source == path; fromFile != (what == "uncommented") {
				t.Errorf("%s: %s comes from %s", what, s.Key, s.Source)
			}
		}
	}
}

func TestSettingsSources(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte("[executor]\nsoftware_gpus = 2\n[executor.resources]\nmax_containers = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := Settings(path, []string{"BASILICA_EXECUTOR_HEARTBEAT=7s"}, "executor")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range settings {
		if !strings.HasPrefix(s.Key, "executor.") {
			t.Errorf("%s was not asked for", s.Key)
		}
		got[s.Key] = s.Value + " " + s.Source
	}
	for key, want := range map[string]string{
		"executor.software_gpus": "2 " + path, "executor.resources.max_containers": "3 " + path,
		"executor.heartbeat": `'7s' $BASILICA_EXECUTOR_HEARTBEAT`, "executor.resources.gpu_allocation_mode": "'exclusive' default",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if _, err := Settings("", nil, "executer"); basilica.CodeOf(err) != "CONFIG_UNKNOWN_KEY" || !strings.Contains(err.Error(), `"executor"`) {
		t.Errorf("an unknown section: %v", err)
	}
}
