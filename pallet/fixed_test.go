package pallet

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"basilica/internal/vectors"
	"basilica/scale"
)

// spending are calls that cost, with arguments.
func spending() map[string]map[string]any {
	hotkey := [32]byte{1}
	return map[string]map[string]any{
		"burned_register":    {"netuid": 39, "hotkey": hotkey},
		"register_limit":     {"netuid": 39, "hotkey": hotkey, "limit_price": 5},
		"root_register":      {"hotkey": hotkey},
		"register_network":   {"hotkey": hotkey},
		"add_stake":          {"hotkey": hotkey, "netuid": 39, "amount_staked": 100},
		"add_stake_limit":    {"hotkey": hotkey, "netuid": 39, "amount_staked": 100, "limit_price": 5, "allow_partial": false},
		"remove_stake":       {"hotkey": hotkey, "netuid": 39, "amount_unstaked": 100},
		"remove_stake_limit": {"hotkey": hotkey, "netuid": 39, "amount_unstaked": 100, "limit_price": 5, "allow_partial": true},
	}
}

// lie is a change of one call in a copy of the metadata; unit is a type without bytes.
type lie func(v *scale.Variant, field func(name string) *scale.Field, unit uint32)

// lying makes a runtime of metadata in which one call of SubtensorModule is described otherwise.
func lying(t *testing.T, call string, change lie) *Runtime {
	t.Helper()
	m, err := scale.DecodeMetadata(vectors.Read(t, "subtensor425/decoding/metadata-v15.scale"))
	if err != nil {
		t.Fatal(err)
	}
	unit := uint32(len(m.Types))
	m.Types = append(m.Types, scale.Type{ID: unit, Def: scale.TypeDef{Kind: scale.KindTuple}})
	for _, p := range m.Pallets {
		if p.Name != "SubtensorModule" {
			continue
		}
		variants := m.Types[p.Calls].Def.Variants
		v := &variants[slices.IndexFunc(variants, func(v scale.Variant) bool { return v.Name == call })]
		change(v, func(name string) *scale.Field {
			return &v.Fields[slices.IndexFunc(v.Fields, func(f scale.Field) bool { return f.Name == name })]
		}, unit)
	}
	rt, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// TestLyingMetadataIsNotSigned: whatever the node says of a call that spends, it comes out as it is known, or not at all.
func TestLyingMetadataIsNotSigned(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		call string
		lie  lie
	}{
		"a registration without its cap": {"register_limit", func(v *scale.Variant, field func(string) *scale.Field, unit uint32) {
			v.Index, field("limit_price").Ty = 7, unit
		}},
		"the cap alone is gone": {"register_limit", func(_ *scale.Variant, field func(string) *scale.Field, unit uint32) {
			field("limit_price").Ty = unit
		}},
		"a stake without its limit": {"add_stake_limit", func(v *scale.Variant, field func(string) *scale.Field, unit uint32) {
			v.Index, field("limit_price").Ty, field("allow_partial").Ty = 2, unit, unit
		}},
		"amount and limit exchanged": {"add_stake_limit", func(_ *scale.Variant, field func(string) *scale.Field, _ uint32) {
			field("amount_staked").Name, field("limit_price").Name = "limit_price", "amount_staked"
		}},
		"unstaking for staking": {"add_stake_limit", func(v *scale.Variant, _ func(string) *scale.Field, _ uint32) {
			v.Index = 89
		}},
		"an argument more": {"burned_register", func(v *scale.Variant, field func(string) *scale.Field, _ uint32) {
			v.Fields = append(v.Fields, scale.Field{Name: "more", Ty: field("netuid").Ty})
		}},
		"an argument less": {"remove_stake_limit", func(v *scale.Variant, _ func(string) *scale.Field, _ uint32) {
			v.Fields = v.Fields[:len(v.Fields)-1]
		}},
	} {
		b, err := lying(t, c.call, c.lie).Call("SubtensorModule", c.call, spending()[c.call])
		if !errors.Is(err, ErrChanged) || b != nil {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}

// TestFixedCallsAreTheRuntimes: the fixed encodings are those of both recorded runtimes, and a pallet may get another number.
func TestFixedCallsAreTheRuntimes(t *testing.T) {
	t.Parallel()
	for folder, want := range map[string]int{"subtensor425": 24, "subtensor": 15} {
		rt, known := runtimeOf(t, folder, "v15"), 0
		for _, p := range rt.meta.Pallets {
			if !p.HasCalls {
				continue
			}
			calls, _ := rt.reg.Type(p.Calls)
			for _, v := range calls.Def.Variants {
				index, args, ok := fixedCall(p.Name + "." + v.Name)
				if !ok {
					continue
				}
				if known++; index != v.Index || len(args) != len(v.Fields) {
					t.Errorf("%s: %s is %d with %d arguments, not %d with %d", folder, v.Name, v.Index, len(v.Fields), index, len(args))
					continue
				}
				for i, f := range v.Fields {
					if args[i].Name != f.Name {
						t.Errorf("%s: %s: argument %d is %s, not %s", folder, v.Name, i, f.Name, args[i].Name)
					}
				}
			}
		}
		if known != want {
			t.Errorf("%s has %d of the fixed calls, want %d", folder, known, want)
		}
	}
	m, err := scale.DecodeMetadata(vectors.Read(t, "subtensor425/decoding/metadata-v15.scale"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Pallets {
		m.Pallets[i].Index += 100
	}
	renumbered, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range spending() {
		b, err := renumbered.Call("SubtensorModule", name, args)
		if err != nil || b[0] != 107 {
			t.Errorf("%s of a renumbered pallet: %x, %v", name, b, err)
		}
		if c, err := renumbered.DecodeCall(b); err != nil || c.Name != name {
			t.Errorf("%s comes back as %s, %v", name, c.Name, err)
		}
	}
}

// TestExtensionsKeepTheirPlaces: a list of extensions that could be read as another nonce or tip gets no signature.
func TestExtensionsKeepTheirPlaces(t *testing.T) {
	t.Parallel()
	base := runtimeOf(t, "subtensor425", "v15").meta
	at := func(m *scale.Metadata, name string) int {
		return slices.IndexFunc(m.Extrinsic.Extensions, func(x scale.SignedExtension) bool { return x.Identifier == name })
	}
	for name, change := range map[string]func(m *scale.Metadata){
		"nonce and tip exchanged": func(m *scale.Metadata) {
			x := m.Extrinsic.Extensions
			i, j := at(m, "CheckNonce"), at(m, "ChargeTransactionPayment")
			x[i], x[j] = x[j], x[i]
		},
		"a nonce twice": func(m *scale.Metadata) {
			m.Extrinsic.Extensions = slices.Insert(m.Extrinsic.Extensions, at(m, "CheckNonce"), m.Extrinsic.Extensions[at(m, "CheckNonce")])
		},
		"no tip": func(m *scale.Metadata) {
			i := at(m, "ChargeTransactionPayment")
			m.Extrinsic.Extensions = slices.Delete(m.Extrinsic.Extensions, i, i+1)
		},
		"nothing after the nonce": func(m *scale.Metadata) {
			m.Extrinsic.Extensions = m.Extrinsic.Extensions[:at(m, "CheckNonce")+1]
		},
		"a tip without bytes": func(m *scale.Metadata) {
			m.Extrinsic.Extensions[at(m, "ChargeTransactionPayment")].Ty = m.Extrinsic.Extensions[at(m, "CheckWeight")].Ty
		},
	} {
		m := *base
		m.Extrinsic.Extensions = slices.Clone(base.Extrinsic.Extensions)
		change(&m)
		rt, err := New(&m)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := rt.FullPayload([]byte{0, 0}, Signing{}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
	for _, folder := range recorded() {
		b, err := runtimeOf(t, folder, "v15").FullPayload([]byte{0, 0}, Signing{Nonce: 5})
		if err != nil || !bytes.Equal(b[:6], []byte{0, 0, 0, 5 << 2, 0, 0}) {
			t.Errorf("%s: %x, %v", folder, b, err)
		}
	}
}
