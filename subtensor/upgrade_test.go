package subtensor

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
	"testing/synctest"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
)

// readCase reads a case from the field.
func readCase(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile("testdata/cases/" + name)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// renumbered is what case A1-5 changes: one more extension without bytes, a trailing field, errors moved by one.
func renumbered(t *testing.T) func(m *scale.Metadata) {
	return func(m *scale.Metadata) {
		x := &m.Extrinsic
		i := slices.IndexFunc(x.Extensions, func(e scale.SignedExtension) bool { return e.Identifier == "CheckNonZeroSender" })
		brandNew := x.Extensions[i]
		brandNew.Identifier = "CheckBrandNew"
		x.Extensions = slices.Insert(x.Extensions, 2, brandNew)
		byte8 := slices.IndexFunc(m.Types, func(t scale.Type) bool { return t.Def.Kind == scale.KindPrimitive && t.Def.Primitive == scale.U8 })
		grown := 0
		for n := range m.Types {
			ty := &m.Types[n]
			if len(ty.Path) > 0 && ty.Path[len(ty.Path)-1] == "AxonInfo" {
				ty.Def.Fields = append(ty.Def.Fields, scale.Field{Name: "trailing", Ty: uint32(byte8)})
				grown++
			}
		}
		if grown == 0 {
			t.Error("no struct has grown")
		}
		for _, p := range m.Pallets {
			if p.Name != "SubtensorModule" {
				continue
			}
			variants := m.Types[p.Error].Def.Variants
			for n := range variants {
				variants[n].Index++
			}
		}
	}
}

// TestCaseA1_5RuntimeUpgradeUnderALiveConnection: a transaction that was signed for the runtime before is refused as a bad
// signature; the client reads the metadata again, once, signs once more and goes on over the same connection. Errors keep
// their names under other numbers.
func TestCaseA1_5RuntimeUpgradeUnderALiveConnection(t *testing.T) {
	var c struct {
		Timeline []struct{ T, Spec int }
		Want     struct {
			RefetchMetadata int `json:"refetch_metadata"`
			Resubmit        int
			Result          string
		}
	}
	readCase(t, "A1-5-runtime-upgrade.json", &c)
	before := speak(t, uint32(c.Timeline[0].Spec), nil)
	after := speak(t, uint32(c.Timeline[1].Spec), renumbered(t))
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, before)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		hotkey := ledgerKey(t, "//Bob//hot")
		weights := []basilica.Weight{{UID: 1, Value: 65535}}
		if _, err := client.SetWeights(t.Context(), ledgerSubnet, hotkey, weights, 0, nil); err != nil {
			t.Fatal(err)
		}
		connection := client.cur
		l.arrive = func(n int) error {
			if n == 1 { // signed, and on its way
				l.upgrade(after)
			}
			return nil
		}
		if _, err := client.SetWeights(t.Context(), ledgerSubnet, hotkey, weights, 0, nil); err != nil {
			t.Fatalf("want %s, got %v", c.Want.Result, err)
		}
		if l.asked != c.Want.RefetchMetadata || l.sent != 2+c.Want.Resubmit || client.cur != connection {
			t.Errorf("metadata was asked for %d times, %d extrinsics sent, connection kept: %v", l.asked, l.sent, client.cur == connection)
		}
		l.call = func([32]byte, pallet.Call, *ledgerState) ([]any, error) {
			return nil, errors.New("NeuronNoValidatorPermit")
		}
		if _, err := client.SetWeights(t.Context(), ledgerSubnet, hotkey, weights, 0, nil); basilica.CodeOf(err) != "SubtensorModule.NeuronNoValidatorPermit" {
			t.Errorf("an error that has another number now: %v", err)
		}
		if got := len(l.extrinsics()); got != 3 {
			t.Errorf("%d extrinsics are in blocks", got)
		}
	})
}

// TestAnUnknownExtensionIsNotSigned: a runtime that wants bytes which we cannot fill gets no signature.
func TestAnUnknownExtensionIsNotSigned(t *testing.T) {
	v := speak(t, 500, func(m *scale.Metadata) {
		x := &m.Extrinsic
		i := slices.IndexFunc(x.Extensions, func(e scale.SignedExtension) bool { return e.Identifier == "CheckSpecVersion" })
		x.Extensions = append(x.Extensions, scale.SignedExtension{Identifier: "CheckConsent", Ty: x.Extensions[i].Additional, Additional: x.Extensions[0].Additional})
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		_, err := client.SetWeights(t.Context(), ledgerSubnet, ledgerKey(t, "//Bob//hot"), []basilica.Weight{{UID: 1, Value: 65535}}, 0, nil)
		if basilica.CodeOf(err) != "EXTENSION_UNKNOWN" || basilica.FixOf(err) == "" || l.sent != 0 {
			t.Errorf("%v, %d sent", err, l.sent)
		}
	})
}
