package official

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestWallets: each SDK opens wallets of ours and signs with them, and ours opens what it wrote.
func TestWallets(t *testing.T) {
	t.Parallel()
	for _, sdk := range []string{"sdk11", "sdk10"} {
		t.Run(sdk, func(t *testing.T) { exchangeWallets(t, startPython(t, sdk), wallets(t)) })
	}
}

// TestSDK11: bittensor 11.3.0 with its btcli, against localnet.
func TestSDK11(t *testing.T) {
	t.Parallel()
	p, chain, root := startPython(t, "sdk11"), startNetwork(t, blockTime), wallets(t)
	var connected struct{ Spec int }
	p.do("connect", map[string]any{"url": chain.url}, &connected)
	if connected.Spec != 425 {
		t.Errorf("spec %d", connected.Spec)
	}
	readBasics(t, p)
	var hyper map[string]any
	p.do("hyperparameters", map[string]any{"netuid": netuid}, &hyper)
	if hyper["tempo"] != 20.0 || hyper["commit_reveal_weights_enabled"] != false {
		t.Errorf("hyperparameters %v", hyper)
	}
	liveAsNeuron(t, p, chain, root, nil, func() {
		p.do("commit_reveal", map[string]any{"root": root, "name": "alice", "netuid": netuid, "enabled": true}, nil)
	})

	global := []string{"--network", chain.url, "--wallet-path", root, "--json"}
	wallet := append([]string{"--wallet", "eve"}, global...)
	signed := append([]string{"--yes"}, wallet...)
	var all, one, graph, plain any
	btcli(t, "sdk11", &all, append([]string{"subnets", "list"}, global...)...)
	mustHold(t, all, `"netuid":39`)
	btcli(t, "sdk11", &one, append([]string{"subnets", "show", "39"}, global...)...)
	mustHold(t, one, pair(t, "//Alice").SS58())
	btcli(t, "sdk11", &graph, append([]string{"subnets", "hyperparameters", "39"}, global...)...)
	mustHold(t, graph, "tempo")
	btcli(t, "sdk11", &plain, append([]string{"wallet", "balance"}, wallet...)...)
	mustHold(t, plain, pair(t, "//Eve").SS58())
	var sent struct{ Success bool }
	btcli(t, "sdk11", &sent, append([]string{"subnets", "register", "--netuid", "39"}, signed...)...)
	if all := p.neurons(); !sent.Success || len(all) != 3 || all[2].Coldkey != pair(t, "//Eve").SS58() {
		t.Errorf("btcli registered: %v, %+v", sent, all)
	}
	btcli(t, "sdk11", &sent, append([]string{"stake", "add", "--netuid", "39", "--amount", "5", "--hotkey", pair(t, "//Eve//hot").SS58()}, signed...)...)
	if all := p.neurons(); !sent.Success || all[2].Stake == 0 {
		t.Errorf("btcli staked: %v, %+v", sent, all)
	}
}

// TestSDK10: bittensor 10.5.0 and bittensor-cli 9.23.2, against localnet.
func TestSDK10(t *testing.T) {
	t.Parallel()
	p, chain, root := startPython(t, "sdk10"), startNetwork(t, blockTime), wallets(t)
	p.do("connect", map[string]any{"url": chain.url}, nil)
	readBasics(t, p)
	var hyper map[string]any
	p.do("hyperparameters", map[string]any{"netuid": netuid}, &hyper)
	if hyper["tempo"] != 20.0 || hyper["commit_reveal_weights_enabled"] != false {
		t.Errorf("hyperparameters %v", hyper)
	}
	liveAsNeuron(t, p, chain, root, map[string]any{"block_time": blockTime.Seconds()}, func() { sealWeights(t, chain, root) })

	global := []string{"--network", chain.url, "--json-output"}
	wallet := append([]string{"--wallet-path", root, "--wallet-name", "eve", "--hotkey", "default"}, global...)
	var all, one, graph, plain any
	btcli(t, "sdk10", &all, append([]string{"subnets", "list"}, global...)...)
	mustHold(t, all, `"39"`)
	btcli(t, "sdk10", &one, append([]string{"subnets", "show", "--netuid", "39", "--mechid", "0", "--no-prompt"}, global...)...)
	mustHold(t, one, pair(t, "//Alice").SS58())
	btcli(t, "sdk10", &graph, append([]string{"sudo", "get", "--netuid", "39"}, global...)...)
	mustHold(t, graph, "tempo")
	btcli(t, "sdk10", &plain, append([]string{"wallet", "balance"}, wallet...)...)
	mustHold(t, plain, pair(t, "//Eve").SS58())
	var sent any
	btcli(t, "sdk10", &sent, append([]string{"subnets", "register", "--netuid", "39", "--no-prompt"}, wallet...)...)
	if all := p.neurons(); len(all) != 3 || all[2].Coldkey != pair(t, "//Eve").SS58() {
		t.Errorf("btcli registered: %v, %+v", sent, all)
	}
	btcli(t, "sdk10", &sent, append([]string{"stake", "add", "--netuid", "39", "--amount", "5", "--hotkey-ss58-address", pair(t, "//Eve//hot").SS58(), "--unsafe", "--no-mev-protection", "--no-prompt"}, wallet...)...)
	if all := p.neurons(); all[2].Stake == 0 {
		t.Errorf("btcli staked: %v, %+v", sent, all)
	}
}

// sealWeights has the subnet's owner turn commit-reveal on; SDK 10 has no call for it.
func sealWeights(t *testing.T, chain network, root string) {
	t.Helper()
	p := startPython(t, "sdk11")
	p.do("connect", map[string]any{"url": chain.url}, nil)
	p.do("commit_reveal", map[string]any{"root": root, "name": "alice", "netuid": netuid, "enabled": true}, nil)
}

// mustHold looks for a piece of JSON in what a client printed.
func mustHold(t *testing.T, printed any, piece string) {
	t.Helper()
	text, err := json.Marshal(printed)
	if err != nil || !strings.Contains(string(text), piece) {
		t.Errorf("%.600s does not hold %s: %v", text, piece, err)
	}
}

// TestPolkadotJS lets a polkadot.js client connect, read the metadata and storage, subscribe, register a hotkey and submit
// serve_axon.
func TestPolkadotJS(t *testing.T) {
	t.Parallel()
	installed(t, "scripts/polkadotjs/node_modules/@polkadot/api")
	const pace = 100 * time.Millisecond
	chain := startNetwork(t, pace)
	cmd := exec.CommandContext(t.Context(), "node", "serve_axon.mjs", chain.url)
	cmd.Dir = installed(t, "scripts/polkadotjs")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("serve_axon.mjs: %v\n%s\n%s", err, out, &stderr)
	}
	var result struct {
		Genesis      string
		SpecName     string
		SpecVersion  int
		Metadata     int
		SlotDuration int
		UID          int
		Heads        []int
		Nonces       []int
		Served       struct{ States, Events []string }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if result.Genesis != chain.chain.Genesis().String() || result.SpecName != "node-subtensor" || result.SpecVersion != 425 ||
		result.Metadata < 15 || result.SlotDuration != int(pace.Milliseconds()) || result.UID != 1 {
		t.Errorf("polkadot.js saw %s", out)
	}
	if states := result.Served.States; len(states) == 0 || states[len(states)-1] != "Finalized" {
		t.Errorf("states %v", states)
	}
	if h := result.Heads; len(h) < 3 || h[1] != h[0]+1 || h[2] != h[1]+1 {
		t.Errorf("subscribed heads %v", h)
	}
	if n := result.Nonces; len(n) < 2 || n[0] != 0 || n[len(n)-1] != 1 {
		t.Errorf("subscribed nonces of the coldkey %v", n)
	}
}
