package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
)

// TestNoRoleNeedsAColdkey: on a machine whose wallet has hotkeys and coldkeypub.txt alone, and where nobody can be asked, a
// miner publishes itself, a validator sets weights and a client opens; and no key of the configuration speaks of a coldkey.
func TestNoRoleNeedsAColdkey(t *testing.T) {
	chain, client := devChain(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("BT_WALLET_PASSWORD", "")
	t.Setenv("BT_WALLET_PASSWORD_FILE", "")
	w, err := OpenWallet("~/.bittensor/wallets", "", "")
	check(t, err)
	// Another machine registers and stakes: the coldkeys are there.
	uids := map[string]basilica.UID{}
	for name, uris := range map[string][2]string{"miner": {minerColdURI, minerHotURI}, "validator": {validatorColdURI, validatorHotURI}} {
		hot, err := keys.FromURI(keys.Sr25519, uris[1])
		check(t, err)
		check(t, w.CreateHotkey(name, hot, "", nil))
		uids[name], err = takePart(ctx, client, chain.NetUID, uris[0], uris[1])
		check(t, err)
	}
	check(t, stakeOnce(ctx, client, chain.NetUID, uids["validator"]))
	cold, err := keys.FromURI(keys.Sr25519, minerColdURI)
	check(t, err)
	check(t, keys.WritePublicKeyfile(w.ColdkeyPubPath(), cold.PublicKey(), cold.Scheme()))

	path := filepath.Join(home, "basilica.toml")
	check(t, os.WriteFile(path, fmt.Appendf(nil, `
[chain]
url = %q
netuid = %d
allow_private = true
[miner]
hotkey = "~/.bittensor/wallets/default/hotkeys/miner"
data_dir = "~/miner"
axon_listen = "127.0.0.2:0"
fleet_listen = "127.0.0.1:0"
status_listen = "127.0.0.1:0"
allow_private_executors = true
[validator]
hotkey = "~/.bittensor/wallets/default/hotkeys/validator"
data_dir = "~/validator"
api_listen = "127.0.0.1:0"
round_blocks = 10
slots = 1
[client]
hotkey = "~/.bittensor/wallets/default/hotkeys/miner"
data_dir = "~/client"
`, chain.URL, chain.NetUID), 0o600))
	cfg := DefaultConfig()
	check(t, LoadConfig(path, nil, &cfg))
	ready := make(chan map[string]string, 2)
	deps := Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(a map[string]string) { ready <- a }}
	cfg.Miner.Chain, cfg.Validator.Chain = cfg.Chain, cfg.Chain
	m, err := NewMiner(ctx, cfg.Miner, deps)
	check(t, err)
	runUntilEnd(t, m)
	v, err := NewValidator(ctx, cfg.Validator, deps)
	check(t, err)
	runUntilEnd(t, v)
	c, err := NewClient(cfg.Chain, cfg.Client, deps)
	check(t, err)
	check(t, c.Close())
	err = client.WatchHeads(ctx, func(basilica.Header) error {
		graph, err := client.Metagraph(ctx, chain.NetUID)
		if err != nil {
			return err
		}
		row, err := client.Weights(ctx, chain.NetUID, uids["validator"])
		if err != nil {
			return err
		}
		if n, ok := graph.ByHotkey(basilica.Hotkey(hotkeyAt(t, w, "miner"))); ok && n.Axon.Addr.IsValid() && len(row) > 0 {
			return io.EOF
		}
		return nil
	})
	if !errors.Is(err, io.EOF) {
		t.Fatalf("the miner's address and the validator's weights never stood on the chain: %v", err)
	}
	if _, err := os.Lstat(w.ColdkeyPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("somebody made a coldkey: %v", err)
	}
	settings, err := Settings("", nil)
	check(t, err)
	for _, s := range settings {
		if strings.Contains(strings.ToLower(s.Key+s.Value), "coldkey") {
			t.Errorf("%s asks for a coldkey", s.Key)
		}
	}
}

func hotkeyAt(t *testing.T, w keys.Wallet, name string) string {
	t.Helper()
	k, err := keys.ReadKeyfile(w.HotkeyPubPath(name), nil)
	check(t, err)
	return k.SS58()
}
