package subtensor

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// everyAction is one of each builder.
func everyAction(hotkey basilica.Hotkey) []Action {
	limit := Limit{Price: 2e9, Partial: true}
	axon := basilica.Axon{Addr: netip.MustParseAddrPort("192.0.2.7:8091"), Version: 1, Protocol: 4}
	tls := axon
	tls.TLSKey = make([]byte, 64)
	six := basilica.Axon{Addr: netip.MustParseAddrPort("[2001:db8::7]:9")}
	return []Action{
		RegisterLimit(39, hotkey, 1e9), BurnedRegister(39, hotkey), RootRegister(hotkey, nil), RegisterNetwork(hotkey), StartCall(39),
		ServeAxon(39, axon), ServeAxon(39, tls), ServeAxon(39, six), ServePrometheus(39, axon.Addr, 7),
		AddStake(39, hotkey, 1e9), AddStakeLimit(39, hotkey, 1e9, limit), RemoveStake(39, hotkey, 1e9), RemoveStakeLimit(39, hotkey, 1e9, limit),
		SetChildren(39, hotkey, []Child{ChildOf(hotkey, 0.5)}), SetChildren(39, hotkey, nil),
		SetCommitment(39, []byte("hello")), SetCommitment(39, nil), SetCommitment(39, make([]byte, 128)), SetCommitment(39, make([]byte, 129)),
		SetTempo(39, 400), TriggerEpoch(39),
	}
}

// TestActionsFitTheRuntime: every builder's arguments are those of the real runtime's metadata, by name and type.
func TestActionsFitTheRuntime(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "subtensor425", "decoding", "metadata-v15.scale"))
	if err != nil {
		t.Fatal(err)
	}
	meta, err := scale.DecodeMetadata(raw)
	if err != nil {
		t.Fatal(err)
	}
	words, err := pallet.New(meta)
	if err != nil {
		t.Fatal(err)
	}
	alice, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	for _, a := range everyAction(basilica.Hotkey(alice.SS58())) {
		args, err := a.make()
		if err != nil {
			t.Errorf("%s: %v", a.words, err)
			continue
		}
		data, err := words.Call(a.pallet, a.call, args)
		if err != nil {
			t.Errorf("%s: %v", a.words, err)
			continue
		}
		back, err := words.DecodeCall(data)
		if err != nil || back.Name != a.call || back.Pallet != a.pallet {
			t.Errorf("%s came back as %s.%s, %v", a.words, back.Pallet, back.Name, err)
		}
		called[a.call] = true
	}
	t.Logf("%d calls of the runtime of spec 425", len(called))
	if len(called) != 16 {
		t.Errorf("%d different calls, want 16: %v", len(called), called)
	}
}

// TestChildOf: a share becomes the chain's proportion, at both ends exactly.
func TestChildOf(t *testing.T) {
	for share, want := range map[float64]uint64{0: 0, 1: ^uint64(0), 0.5: 1 << 63} {
		if got := ChildOf("5x", share).Proportion; got != want && got != want-1 {
			t.Errorf("%v is %d, want %d", share, got, want)
		}
	}
}

func TestFactsAreOneObject(t *testing.T) {
	var f Facts
	f.add("uid", basilica.UID(3))
	f.add("hotkey", "5x")
	raw, err := json.Marshal(f)
	if err != nil || string(raw) != `{"uid":3,"hotkey":"5x"}` {
		t.Errorf("%s, %v", raw, err)
	}
	if _, has := f.Get("stake"); has {
		t.Error("a fact that nobody added")
	}
}

// TestQuotesAreWorthless: what a quote shows the node carries no signature.
func TestQuotesAreWorthless(t *testing.T) {
	alice, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := forQuotes{alice}.Sign([]byte("payload"))
	if err != nil || strings.Trim(string(sig), "\x00") != "" {
		t.Errorf("%x, %v", sig, err)
	}
	if keys.Verify(keys.Sr25519, alice.PublicKey(), []byte("payload"), sig) {
		t.Error("the signature of a quote holds")
	}
}

// TestApiMissing: only a runtime API that is not there gets the code for it.
func TestApiMissing(t *testing.T) {
	if err := apiMissing(context.Canceled, "x"); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
		t.Error(err)
	}
	if err := apiMissing(errNoAPI, "x"); basilica.CodeOf(err) != "CHAIN_API_MISSING" {
		t.Error(err)
	}
}

// TestRootRegistrationByItsRuntime: up to spec 425 a place on the root subnet burns nothing and takes no cap; later runtimes
// burn Burn[0], which is the quote's cost, and a cap is needed and held to.
func TestRootRegistrationByItsRuntime(t *testing.T) {
	rao := func(n basilica.Rao) *basilica.Rao { return &n }
	for _, c := range []struct {
		spec  uint32
		limit *basilica.Rao
		code  string
		cost  basilica.Rao
	}{
		{425, nil, "", 0},
		{425, rao(3e9), "REGISTRATION_FREE", 0},
		{467, nil, "REGISTRATION_CAP", 0},
		{467, rao(0), "REGISTRATION_CAP", 0},
		{467, rao(2e9 - 1), "SubtensorModule.RegistrationPriceLimitExceeded", 0},
		{467, rao(2e9), "", 2e9},
	} {
		v := speak(t, c.spec, nil)
		synctest.Test(t, func(t *testing.T) {
			l := newLedger(t, v)
			b := &ledgerState{t: t, words: v.words, store: l.states[0]}
			b.set("SubtensorModule", "Burn", uint64(2e9), rootNetuid)
			client, _, stop := serveLedger(t, l, ServerConfig{})
			defer stop()
			view, _, err := client.head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			q := Quote{Signer: ledgerKey(t, "//Bob").SS58()}
			err = RootRegister(basilica.Hotkey(ledgerKey(t, "//Bob//hot").SS58()), c.limit).price(t.Context(), view, &q)
			if basilica.CodeOf(err) != c.code || q.Cost != c.cost || (q.Use == "burned") != (c.cost > 0) {
				t.Errorf("spec %d, limit %v: %+v, %v", c.spec, c.limit, q, err)
			}
			if capped := strings.Contains(strings.Join(q.Notes, "\n"), "the chain knows no cap here"); capped != (c.cost > 0) {
				t.Errorf("spec %d: %q", c.spec, q.Notes)
			}
		})
	}
}
