package subtensor

import (
	"crypto/mlkem"
	"slices"
	"testing"
	"testing/synctest"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
	"basilica/shield"
)

// withShield makes a ledger open what is sealed to its key, as long as it is told to.
func withShield(t *testing.T, l *ledger, opens *bool) {
	t.Helper()
	key, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	b := &ledgerState{t: t, words: l.runtime.words, store: l.states[0]}
	b.set("MevShield", "NextKey", key.EncapsulationKey().Bytes())
	l.call = func(_ [32]byte, c pallet.Call, b *ledgerState) ([]any, error) {
		if c.Name != "submit_encrypted" || !*opens {
			return nil, nil
		}
		ciphertext, _ := c.Args.Get("ciphertext")
		raw, err := shield.Open(key, ciphertext.([]byte))
		if err != nil {
			b.t.Error(err)
			return nil, nil
		}
		x, err := b.words.DecodeExtrinsic(raw)
		if err != nil {
			b.t.Error(err)
			return nil, nil
		}
		l.pool = append(l.pool, &waiting{x: x, raw: raw, hash: pallet.ExtrinsicHash(raw), death: x.Era.Death(uint64(len(l.headers)))})
		return nil, nil
	}
}

// TestShielded: a call goes sealed in a carrier at the next nonce, itself at the one after, and its own block and events are
// what the caller hears of.
func TestShielded(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l, opens := newLedger(t, v), true
		withShield(t, l, &opens)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		hotkey := ledgerKey(t, "//Bob//hot")
		send := func(uids int) (*receipt, basilica.Signed, error) {
			var signed basilica.Signed
			r, err := client.submit(t.Context(), hotkey, "SubtensorModule", "set_weights", map[string]any{
				"netuid": ledgerSubnet, "dests": make([]uint16, uids), "weights": make([]uint16, uids), "version_key": 0,
			}, Shielded(), Intend(func(s basilica.Signed) error {
				signed = s
				return nil
			}))
			return r, signed, err
		}
		r, signed, err := send(1)
		if err != nil {
			t.Fatal(err)
		}
		got := l.extrinsics()
		if len(got) != 2 || got[0].Nonce != 0 || got[1].Nonce != 1 || signed.Nonce != 1 || signed.Extrinsic != r.Extrinsic || got[1].Era.Period != shieldPeriod {
			t.Fatalf("%d extrinsics, %+v", len(got), signed)
		}
		if c, err := v.words.DecodeCall(got[1].Call); err != nil || c.Name != "set_weights" {
			t.Errorf("%+v %v", c, err)
		}
		refused := func(want string, err error) {
			t.Helper()
			if basilica.CodeOf(err) != want || basilica.FixOf(err) == "" {
				t.Errorf("%v, want %s", err, want)
			}
		}
		_, _, err = send(3000)
		refused("SHIELD_TOO_LONG", err)
		opens = false
		_, _, err = send(1)
		refused("SHIELD_NOT_OPENED", err)
		l.begin = func(_ uint64, b *ledgerState) []any {
			b.del("MevShield", "NextKey")
			return nil
		}
		l.Seal()
		_, _, err = send(1)
		refused("SHIELD_INACTIVE", err)
	})
}

// renamed takes calls away from a runtime.
func renamed(palletName string, calls ...string) func(m *scale.Metadata) {
	return func(m *scale.Metadata) {
		for _, p := range m.Pallets {
			if p.Name != palletName {
				continue
			}
			variants := m.Types[p.Calls].Def.Variants
			for i := range variants {
				if slices.Contains(calls, variants[i].Name) {
					variants[i].Name += "_of_old"
				}
			}
		}
	}
}

// TestCallsThatARuntimeLacks: what a chain cannot do is refused before anything is signed.
func TestCallsThatARuntimeLacks(t *testing.T) {
	bare := speak(t, 425, renamed("MevShield", "submit_encrypted"))
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, bare)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		_, err := client.submit(t.Context(), ledgerKey(t, "//Bob//hot"), "SubtensorModule", "set_weights", map[string]any{
			"netuid": ledgerSubnet, "dests": []uint16{}, "weights": []uint16{}, "version_key": 0,
		}, Shielded())
		if basilica.CodeOf(err) != "SHIELD_MISSING" || l.sent != 0 {
			t.Errorf("%v", err)
		}
	})
	closed := speak(t, 425, renamed("SubtensorModule", "commit_timelocked_weights", "commit_timelocked_mechanism_weights", "commit_weights", "commit_mechanism_weights"))
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, closed)
		seal(t, l, 20)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		_, err := client.SetWeights(t.Context(), ledgerSubnet, ledgerKey(t, "//Bob//hot"), commitWeights, 0, nil)
		if basilica.CodeOf(err) != "COMMIT_REVEAL" || basilica.FixOf(err) == "" || l.sent != 0 {
			t.Errorf("%v", err)
		}
	})
}
