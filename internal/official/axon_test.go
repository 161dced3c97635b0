package official

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"basilica"
	"basilica/axon"
	"basilica/keys"
	"basilica/store"
)

// shop is a miner that answers what the bridge asks; the rest of basilica.Miner is not reached from it.
type shop struct{ basilica.Miner }

// Offer implements basilica.Miner.
func (shop) Offer(context.Context) (basilica.Offer, error) {
	return basilica.Offer{Compute: "open", Queue: 3}, nil
}

// Plan implements basilica.Miner.
func (shop) Plan(_ context.Context, caller basilica.Hotkey, spec []byte) (basilica.Plan, error) {
	if string(spec) == "none" {
		return basilica.Plan{}, basilica.E(basilica.NotFound, "NO_EXECUTOR", "no machine fits "+string(caller), "ask for less")
	}
	return basilica.Plan{Executor: "box"}, nil
}

// serveAxon opens the door of a miner with TLS and the bridge; eve may not use what has a policy.
func serveAxon(t *testing.T, hotkey *keys.Pair) (netip.AddrPort, []byte) {
	t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	published, err := axon.PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	replays, err := store.OpenMiner(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	eve := basilica.Hotkey(pair(t, "//Eve//hot").SS58())
	server, err := axon.NewServer(shop{}, axon.ServerConfig{
		Hotkey: basilica.Hotkey(hotkey.SS58()), Key: key, Bridge: hotkey, Replays: replays, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Compute: func(_ context.Context, who basilica.Hotkey) error {
			if who == eve {
				return basilica.E(basilica.Denied, "NOT_YOU", "not you", "")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := replays.Close(); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort(), published
}

// TestDendriteCallsOurAxon: the Dendrite of SDK 10.5.0 at the bridge of a door that speaks TLS on the same port.
func TestDendriteCallsOurAxon(t *testing.T) {
	t.Parallel()
	p, root := startPython(t, "sdk10"), wallets(t)
	bob := pair(t, "//Bob//hot")
	addr, published := serveAxon(t, bob)
	type answer struct {
		Success  bool
		Code     int
		AxonCode int `json:"axon_code"`
		Message  string
		Reply    string
	}
	ask := func(name, kind, request string) (a answer) {
		t.Helper()
		p.do("dendrite", map[string]any{
			"root": root, "name": name, "ip": addr.Addr().String(), "port": addr.Port(), "hotkey": bob.SS58(), "kind": kind, "request": request,
		}, &a)
		return a
	}
	if a := ask("dave", "Offer", "{}"); !a.Success || a.Code != 200 || a.AxonCode != 200 || !strings.Contains(a.Reply, `"queue":3`) {
		t.Errorf("offer: %+v", a)
	}
	if a := ask("dave", "Plan", `{"spec":"bm9uZQ=="}`); a.Success || a.Code != 404 || !strings.Contains(a.Message, "NO_EXECUTOR: no machine fits "+pair(t, "//Dave//hot").SS58()) {
		t.Errorf("a refusal of the miner: %+v", a)
	}
	if a := ask("dave", "Plan", `{"spec":"eA=="}`); !a.Success || !strings.Contains(a.Reply, `"box"`) {
		t.Errorf("plan: %+v", a)
	}
	if a := ask("dave", "Synapse", ""); !a.Success {
		t.Errorf("ping: %+v", a)
	}
	if a := ask("eve", "Plan", `{"spec":"eA=="}`); a.Success || a.Code != 403 || a.AxonCode != 403 || !strings.Contains(a.Message, "blacklisted: not you") {
		t.Errorf("policy: %+v", a)
	}
	c, err := axon.NewClient(axon.ClientConfig{Signer: pair(t, "//Dave//hot"), Miner: basilica.Hotkey(bob.SS58()), Addr: addr, TLSKey: published, AllowPrivate: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if offer, err := c.Offer(t.Context()); err != nil || offer.Queue != 3 {
		t.Errorf("TLS on the same port: %+v %v", offer, err)
	}
}

// freeAddr is a loopback address whose port is free now: uvicorn takes a number, no listener. It lies below what Linux hands out by
// itself, so that no connection of another test takes it meanwhile.
func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return ln.Addr().(*net.TCPAddr).AddrPort()
	}
}

// TestOurDendriteCallsAxon: our calling end at the Axon of SDK 10.5.0.
func TestOurDendriteCallsAxon(t *testing.T) {
	t.Parallel()
	p, root := startPython(t, "sdk10"), wallets(t)
	addr := freeAddr(t)
	var hotkey string
	p.do("start_axon", map[string]any{"root": root, "name": "alice", "port": addr.Port(), "listed": pair(t, "//Eve//hot").SS58()}, &hotkey)
	call := func(signer keys.Signer, receiver string, fields map[string]any) (string, error) {
		d, err := axon.NewDendrite(axon.DendriteConfig{Signer: signer, Axon: basilica.Hotkey(receiver), Addr: addr, AllowPrivate: true, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		out, err := d.Call(t.Context(), "Prompt", fields, []string{"text"}, 12*time.Second)
		if err != nil {
			return "", err
		}
		var reply string
		return reply, json.Unmarshal(out["reply"], &reply)
	}
	dave := pair(t, "//Dave//hot")
	until := time.Now().Add(patience)
	reply, err := call(dave, hotkey, map[string]any{"text": "hello"})
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for basilica.CodeOf(err) == "MINER_UNREACHABLE" && time.Now().Before(until) { // it is still starting
		<-every.C
		reply, err = call(dave, hotkey, map[string]any{"text": "hello"})
	}
	if err != nil || reply != "hi hello" {
		t.Fatalf("%q %v", reply, err)
	}
	if reply, err := call(dave, hotkey, map[string]any{"text": "ho", "count": 2}); err != nil || reply != "hi hoho" {
		t.Errorf("two fields: %q %v", reply, err)
	}
	for name, c := range map[string]struct {
		signer   keys.Signer
		receiver string
		text     string
		want     string
	}{
		"forward raises":     {dave, hotkey, "boom", "500: Internal Server Error #"},
		"listed":             {pair(t, "//Eve//hot"), hotkey, "hello", "403: Forbidden. Key is blacklisted: listed."},
		"signed for another": {dave, dave.SS58(), "hello", "401: Not Verified with error: Signature mismatch"},
	} {
		if _, err := call(c.signer, c.receiver, map[string]any{"text": c.text}); basilica.CodeOf(err) != "SYNAPSE_REFUSED" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
