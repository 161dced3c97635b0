package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/subtensor"
)

func TestValidatorConfigNamesTheWrongKey(t *testing.T) {
	good := DefaultValidatorConfig()
	good.Hotkey = "//Charlie//validator"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*ValidatorConfig){
		"validator.data_dir":                func(c *ValidatorConfig) { c.DataDir = "" },
		"validator.hotkey":                  func(c *ValidatorConfig) { c.Hotkey = "" },
		"validator.api_listen":              func(c *ValidatorConfig) { c.APIListen = "8081" },
		"validator.round_blocks":            func(c *ValidatorConfig) { c.RoundBlocks = 0 },
		"validator.slots":                   func(c *ValidatorConfig) { c.Slots = 101 },
		"validator.rounds":                  func(c *ValidatorConfig) { c.Rounds = 0 },
		"validator.burn_share":              func(c *ValidatorConfig) { c.BurnShare = 1.1 },
		"validator.parallel":                func(c *ValidatorConfig) { c.Parallel = 0 },
		"validator.max_executors_per_miner": func(c *ValidatorConfig) { c.MaxExecutorsPerMiner = 0 },
		"validator.vdf_squarings":           func(c *ValidatorConfig) { c.Squarings = 1 << 40 },
		"validator.evidence_count":          func(c *ValidatorConfig) { c.EvidenceCount = 0 },
		"validator.keep_results":            func(c *ValidatorConfig) { c.KeepResults = Duration(time.Hour) },
		"validator.round_timeout":           func(c *ValidatorConfig) { c.RoundTimeout = 0 },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); basilica.CodeOf(err) != "CONFIG_VALUE" || !strings.Contains(err.Error(), key) || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestValidatorAPIStaysOnLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:8081": true, "[::1]:0": true, "localhost:8081": true,
		"0.0.0.0:8081": false, ":8081": false, "[::]:8081": false, "192.0.2.1:8081": false, "validator.example:8081": false,
	} {
		c := DefaultValidatorConfig()
		c.Hotkey, c.APIListen = "//Charlie//validator", addr
		if err := c.Validate(); (err == nil) != ok || (err != nil && basilica.CodeOf(err) != "CONFIG_VALUE") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// devChain runs a localnet with short blocks until the test ends, and gives a client of it.
func TestCCRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, err := os.ReadFile("../attest/testdata/ccreport/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	if der, err := loadCCRoot(file("root.pem", string(root))); err != nil || len(der) == 0 {
		t.Error(err)
	}
	if der, err := loadCCRoot(""); err != nil || der != nil {
		t.Error("no root is a root")
	}
	for _, path := range []string{
		filepath.Join(dir, "absent"), file("empty.pem", ""), file("two.pem", string(root)+string(root)),
		file("other.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if _, err := loadCCRoot(path); basilica.CodeOf(err) != "CONFIG_VALUE" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func devChain(t *testing.T) (ChainConfig, *subtensor.Client) {
	t.Helper()
	_, cfg, client := devLocalnet(t)
	return cfg, client
}

func devLocalnet(t *testing.T) (*Localnet, ChainConfig, *subtensor.Client) {
	t.Helper()
	ready := make(chan map[string]string, 1)
	log := slog.New(slog.DiscardHandler)
	l, err := NewLocalnet(t.Context(), LocalnetConfig{Listen: "127.0.0.1:0", BlockTime: Duration(50 * time.Millisecond), Tempo: 5, NetUID: 39},
		Deps{Log: log, Now: time.Now, Ready: func(a map[string]string) { ready <- a }})
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, l)
	cfg := ChainConfig{URL: "ws://" + (<-ready)["rpc"], NetUID: 39, AllowPrivate: true}
	client := subtensor.New(subtensor.Config{URL: cfg.URL}, log)
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, cfg, client
}

// runUntilEnd runs a wired role until the test ends.
func runUntilEnd(t *testing.T, role interface {
	Run(context.Context) error
	Close() error
},
) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- role.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := role.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func validatorOn(t *testing.T, chain ChainConfig, ready chan<- string) *Validator {
	t.Helper()
	cfg := DefaultValidatorConfig()
	cfg.DataDir, cfg.Hotkey, cfg.APIListen, cfg.Chain = t.TempDir(), validatorHotURI, "127.0.0.1:0", chain
	cfg.RoundBlocks, cfg.Slots, cfg.AllowSoftware = 10, 1, true
	v, err := NewValidator(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(a map[string]string) { ready <- a["api"] }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestValidatorWithoutRegistration(t *testing.T) {
	chain, _ := devChain(t)
	v := validatorOn(t, chain, make(chan string, 1))
	err := v.Run(t.Context())
	if basilica.CodeOf(err) != "NOT_REGISTERED" || basilica.FixOf(err) == "" {
		t.Errorf("%v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

// TestValidatorOnARealChain lets a validator wait for its permit, complete rounds on a subnet without miners, and burn:
// the weights stand on chain and the API says the same.
func TestValidatorOnARealChain(t *testing.T) {
	chain, client := devChain(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	uid, err := takePart(ctx, client, chain.NetUID, validatorColdURI, validatorHotURI)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	runUntilEnd(t, validatorOn(t, chain, ready))
	api := "http://" + <-ready
	if err := stakeOnce(ctx, client, chain.NetUID, uid); err != nil {
		t.Fatal(err)
	}
	var row []basilica.Weight
	err = client.WatchHeads(ctx, func(basilica.Header) error {
		row, err = client.Weights(ctx, chain.NetUID, uid)
		if err == nil && len(row) > 0 {
			err = io.EOF
		}
		return err
	})
	if err != io.EOF {
		t.Fatalf("no weights: %v; status %s", err, fetch(t, api+"/api/v1/status"))
	}
	graph, err := client.Metagraph(ctx, chain.NetUID)
	if err != nil {
		t.Fatal(err)
	}
	owner, _ := graph.ByHotkey(graph.OwnerHotkey)
	if len(row) != 1 || row[0].UID != owner.UID || row[0].Value != 65535 {
		t.Errorf("weights on chain %v, want all to the owner's uid %d", row, owner.UID)
	}
	var sets []basilica.WeightSet
	submitted := -1
	err = client.WatchHeads(ctx, func(basilica.Header) error { // the row stands on chain a moment before its events are read
		if err := json.Unmarshal(fetch(t, api+"/api/v1/weights"), &sets); err != nil {
			return err
		}
		if submitted = slices.IndexFunc(sets, func(s basilica.WeightSet) bool { return s.Submitted != nil }); submitted >= 0 {
			return io.EOF
		}
		return nil
	})
	if err != io.EOF {
		t.Fatalf("the API never named the submission: %v", err)
	}
	first := sets[submitted]
	if first.Formula != "score/4" || fmt.Sprint(first.Weights) != fmt.Sprint(row) {
		t.Errorf("%+v", first)
	}
	if health := string(fetch(t, api+"/health")); !strings.Contains(health, `"status":"ok"`) {
		t.Error(health)
	}
	if metrics := string(fetch(t, api+"/metrics")); !strings.Contains(metrics, "basilica_validator_rounds_completed_total") || !strings.Contains(metrics, "basilica_validator_weights_block") {
		t.Error("metrics are missing")
	}
	if spec := string(fetch(t, api+"/openapi.json")); !strings.Contains(spec, "/api/v1/weights") {
		t.Error(spec)
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return body
}
