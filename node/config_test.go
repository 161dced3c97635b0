package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
)

type sampleConfig struct {
	Chain ChainConfig `toml:"chain"`
	Box   struct {
		Listen    string   `toml:"listen"`
		Every     Duration `toml:"every"`
		Names     []string `toml:"names"`
		Share     float64  `toml:"share"`
		Resources struct {
			MaxContainers int      `toml:"max_containers"`
			MaxMemory     ByteSize `toml:"max_memory_per_container"`
		} `toml:"resources"`
	} `toml:"box"`
}

func writeSample(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "basilica.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	path := writeSample(t, "[chain]\nurl = 'ws://x:1'\nnetuid = 39\n[box]\nevery = '250ms'\n[box.resources]\nmax_containers = 10\nmax_memory_per_container = '8Gi'\n")
	var c sampleConfig
	env := []string{"BASILICA_CHAIN_NETUID=40", "BASILICA_BOX_NAMES=a, b", "BASILICA_BOX_RESOURCES_MAX_MEMORY_PER_CONTAINER=1Mi", "BASILICA_TESTDATA=/x", "HOME=/root", "BASILICA_BOX_SHARE=0.5"}
	if err := LoadConfig(path, env, &c); err != nil {
		t.Fatal(err)
	}
	if c.Chain.NetUID != 40 || time.Duration(c.Box.Every) != 250*time.Millisecond || c.Box.Resources.MaxMemory != 1<<20 || c.Box.Resources.MaxContainers != 10 || strings.Join(c.Box.Names, "|") != "a|b" || c.Box.Share != 0.5 {
		t.Fatalf("loaded %+v", c)
	}
	if err := c.Chain.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestLoadConfigRefusals(t *testing.T) {
	cases := map[string]struct{ text, env, code, says string }{
		"unknown key":       {"[chain]\nurl = 'ws://x'\nnetuib = 3\n", "", "CONFIG_UNKNOWN_KEY", `:3: key "chain.netuib" is unknown; the nearest known key is "chain.netuid"`},
		"unknown table":     {"[box.resource]\nmax_containers = 3\n", "", "CONFIG_UNKNOWN_KEY", `nearest known key is "box.resources"`},
		"key out of place":  {"[box]\nmax_containers = 3\n", "", "CONFIG_UNKNOWN_KEY", `nearest known key is "box.resources.max_containers"`},
		"unknown variable":  {"", "BASILICA_BOX_LISTER=1", "CONFIG_UNKNOWN_KEY", "BASILICA_BOX_LISTEN"},
		"syntax":            {"[chain\n", "", "CONFIG_SYNTAX", ":1:"},
		"wrong type":        {"[chain]\nnetuid = 'x'\n", "", "CONFIG_SYNTAX", ":2:"},
		"out of range":      {"[chain]\nnetuid = 70000\n", "", "CONFIG_SYNTAX", ""},
		"bad size":          {"[box.resources]\nmax_memory_per_container = '8 potatoes'\n", "", "CONFIG_SYNTAX", "8Gi"},
		"variable no bool":  {"", "BASILICA_CHAIN_ALLOW_PRIVATE=perhaps", "CONFIG_SYNTAX", "true or false"},
		"variable no range": {"", "BASILICA_CHAIN_NETUID=-1", "CONFIG_SYNTAX", "whole number"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var env []string
			if tc.env != "" {
				env = []string{tc.env}
			}
			err := LoadConfig(writeSample(t, tc.text), env, new(sampleConfig))
			if basilica.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.says) || basilica.FixOf(err) == "" {
				t.Fatalf("got %v, want %s saying %q", err, tc.code, tc.says)
			}
		})
	}
	if err := LoadConfig("/does/not/exist", nil, new(sampleConfig)); basilica.CodeOf(err) != "CONFIG_UNREADABLE" {
		t.Fatalf("absent file: %v", err)
	}
	for _, c := range []ChainConfig{{URL: "http://x"}, {URL: "mainnet"}, {URL: "ws://x", Fallbacks: []string{"x"}}} {
		if err := c.Validate(); basilica.CodeOf(err) != "CONFIG_VALUE" {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if c := (ChainConfig{URL: "finney", Fallbacks: []string{"wss://x"}}); c.Validate() != nil || c.Nodes("d").Snapshots != "d" || c.Nodes("d", "", "~/key").Development || !c.Nodes("d", "~/key", "//Alice").Development || len(c.Nodes("").Fallbacks) != 1 {
		t.Errorf("%+v: %v", c, c.Validate())
	}
}

func TestWrittenConfigLoadsAgain(t *testing.T) {
	var c, again sampleConfig
	c.Chain = ChainConfig{URL: "ws://x:1", Fallbacks: []string{"finney", "wss://y:443"}, NetUID: 39, AllowPrivate: true}
	c.Box.Every, c.Box.Resources.MaxMemory, c.Box.Names = Duration(time.Minute), 8<<30, []string{"a"}
	path := filepath.Join(t.TempDir(), "c.toml")
	for range 2 {
		if err := WriteConfig(path, &c); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := LoadConfig(path, nil, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Chain, c.Chain) || again.Box.Every != c.Box.Every || again.Box.Resources != c.Box.Resources {
		t.Fatalf("wrote %+v, read %+v", c, again)
	}
}

func TestByteSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := ByteSize(rapid.Int64Range(0, 1<<62).Draw(t, "size"))
		if got, err := ParseByteSize(want.String()); err != nil || got != want {
			t.Fatalf("%s reads as %d, %v", want, got, err)
		}
	})
}

func TestLogHidesSecrets(t *testing.T) {
	var out bytes.Buffer
	log := newJSONLog(&out, slog.LevelInfo)
	log.With("join_token", "hunter2").Info("enrolled", "executor", "box-1", slog.Group("auth", "Authorization", "hunter2"), "tokens", 3)
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), `"executor":"box-1"`) || !strings.Contains(out.String(), `"tokens":3`) {
		t.Fatalf("logged %s", out.String())
	}
}

func FuzzLoadConfig(f *testing.F) {
	f.Add("[chain]\nurl = 'ws://x'\n")
	f.Add("[box]\nevery = '1s'\n[box.resources]\nmax_memory_per_container = '1Gi'\n")
	f.Add("[chain]\nnope = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if err := decode("f.toml", []byte(text), new(sampleConfig)); err != nil && basilica.CodeOf(err) == "" {
			t.Fatalf("no code: %v", err)
		}
	})
}
