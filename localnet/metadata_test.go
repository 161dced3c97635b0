package localnet

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"basilica/internal/vectors"
	"basilica/pallet"
	"basilica/scale"
)

func TestMetadataEncodeVector(t *testing.T) {
	for _, version := range []string{"v14", "v15"} {
		blob := vectors.Read(t, "subtensor425/decoding/metadata-"+version+".scale")
		meta, err := scale.DecodeMetadata(blob)
		if err != nil {
			t.Fatal(err)
		}
		again, err := scale.EncodeMetadata(meta)
		if err != nil {
			t.Fatal(err)
		}
		// Docs of types and entries are part of it, so every byte counts.
		if !bytes.Equal(again, blob) {
			at := 0
			for at < min(len(again), len(blob)) && again[at] == blob[at] {
				at++
			}
			t.Errorf("%s: %d bytes became %d, first difference at %d", version, len(blob), len(again), at)
		}
	}
}

// spell writes a type out, paths and fields included, so that two registries can be compared. Outer enums and pallet
// enums are named only: localnet has a part of their variants.
func spell(types []scale.Type, id uint32) string {
	t := types[id]
	path := strings.Join(t.Path, "::")
	last := ""
	if len(t.Path) > 0 {
		last = t.Path[len(t.Path)-1]
	}
	if slices.Contains([]string{"RuntimeCall", "RuntimeEvent", "RuntimeError", "Call", "Event", "Error", "UncheckedExtrinsic"}, last) {
		return path
	}
	fields := func(fields []scale.Field) string {
		var b strings.Builder
		for _, f := range fields {
			fmt.Fprintf(&b, "%s: %s as %s; ", f.Name, spell(types, f.Ty), f.TypeName)
		}
		return b.String()
	}
	switch d := t.Def; d.Kind {
	case scale.KindComposite:
		return path + "{" + fields(d.Fields) + "}"
	case scale.KindVariant:
		var b strings.Builder
		for _, v := range d.Variants {
			fmt.Fprintf(&b, "%d %s{%s} ", v.Index, v.Name, fields(v.Fields))
		}
		return path + "<" + b.String() + ">"
	case scale.KindSequence:
		return "Vec<" + spell(types, d.Elem) + ">"
	case scale.KindArray:
		return fmt.Sprintf("[%s; %d]", spell(types, d.Elem), d.Len)
	case scale.KindTuple:
		var parts []string
		for _, p := range d.Tuple {
			parts = append(parts, spell(types, p))
		}
		return "(" + strings.Join(parts, ", ") + ")"
	case scale.KindPrimitive:
		return fmt.Sprintf("primitive %d", d.Primitive)
	case scale.KindCompact:
		return "Compact<" + spell(types, d.Elem) + ">"
	}
	return "?"
}

// TestMetadataMatchesRuntimeVector compares everything that localnet declares with the real runtime's metadata: what
// is there at all must be there with the same index, hashers, types and default.
func TestMetadataMatchesRuntimeVector(t *testing.T) {
	for version, name := range map[uint8]string{14: "v14", 15: "v15"} {
		real, err := scale.DecodeMetadata(vectors.Read(t, "subtensor425/decoding/metadata-"+name+".scale"))
		if err != nil {
			t.Fatal(err)
		}
		rt, err := newRuntime(12000)
		if err != nil {
			t.Fatal(err)
		}
		blob := map[uint8][]byte{14: rt.v14, 15: rt.v15}[version]
		ours, err := scale.DecodeMetadata(blob)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pallet.New(ours); err != nil {
			t.Fatal(err)
		}
		for _, p := range ours.Pallets {
			i := slices.IndexFunc(real.Pallets, func(q scale.PalletMeta) bool { return q.Name == p.Name })
			if i < 0 || real.Pallets[i].Index != p.Index {
				t.Fatalf("no pallet %s %d", p.Name, p.Index)
			}
			comparePallet(t, ours.Types, p, real.Types, real.Pallets[i])
		}
		if len(ours.Extrinsic.Extensions) != len(real.Extrinsic.Extensions) {
			t.Fatalf("%d extensions", len(ours.Extrinsic.Extensions))
		}
		for i, x := range ours.Extrinsic.Extensions {
			y := real.Extrinsic.Extensions[i]
			got := x.Identifier + spell(ours.Types, x.Ty) + spell(ours.Types, x.Additional)
			if want := y.Identifier + spell(real.Types, y.Ty) + spell(real.Types, y.Additional); got != want {
				t.Errorf("extension %d:\n got %s\nwant %s", i, got, want)
			}
		}
		for _, api := range ours.APIs {
			if newerThan425[api.Name] {
				continue
			}
			compareAPI(t, ours, api, real)
		}
	}
}

// newerThan425 is what localnet declares beyond the recorded runtime, because official clients of late 2026 ask for it.
var newerThan425 = map[string]bool{
	"SubtensorModule.SubnetEpochConsensus": true,
	"SubtensorModule.CollateralLockShare":  true,
	"SubtensorModule.CollateralDrainRatio": true,
	"SubtensorModule.MinerCollateral":      true,
	"BetaBasketRuntimeApi":                 true,
}

func comparePallet(t *testing.T, types []scale.Type, p scale.PalletMeta, realTypes []scale.Type, q scale.PalletMeta) {
	t.Helper()
	for _, e := range p.Storage.Entries {
		if newerThan425[p.Name+"."+e.Name] {
			continue
		}
		i := slices.IndexFunc(q.Storage.Entries, func(f scale.StorageEntry) bool { return f.Name == e.Name })
		if i < 0 {
			t.Errorf("no storage %s.%s", p.Name, e.Name)
			continue
		}
		describe := func(types []scale.Type, e scale.StorageEntry) string {
			k := ""
			if e.IsMap {
				k = spell(types, e.Key)
			}
			return fmt.Sprintf("%d %v %s -> %s = %x", e.Modifier, e.Hashers, k, spell(types, e.Value), e.Default)
		}
		if got, want := describe(types, e), describe(realTypes, q.Storage.Entries[i]); got != want {
			t.Errorf("storage %s.%s:\n got %s\nwant %s", p.Name, e.Name, got, want)
		}
	}
	for _, c := range p.Constants {
		i := slices.IndexFunc(q.Constants, func(d scale.ConstantMeta) bool { return d.Name == c.Name })
		if i < 0 {
			t.Errorf("no constant %s.%s", p.Name, c.Name)
			continue
		}
		got, want := spell(types, c.Ty), spell(realTypes, q.Constants[i].Ty)
		if got != want || c.Name != "Version" && !bytes.Equal(c.Value, q.Constants[i].Value) {
			t.Errorf("constant %s.%s: got %s %x, want %s %x", p.Name, c.Name, got, c.Value, want, q.Constants[i].Value)
		}
	}
	compareEnum(t, p.Name+" calls", types, p.HasCalls, p.Calls, realTypes, q.Calls)
	compareEnum(t, p.Name+" events", types, p.HasEvent, p.Event, realTypes, q.Event)
	compareEnum(t, p.Name+" errors", types, p.HasError, p.Error, realTypes, q.Error)
}

// compareEnum looks each of our variants up in the real enum.
func compareEnum(t *testing.T, what string, types []scale.Type, has bool, id uint32, realTypes []scale.Type, realID uint32) {
	t.Helper()
	if !has {
		return
	}
	if got, want := strings.Join(types[id].Path, "::"), strings.Join(realTypes[realID].Path, "::"); got != want {
		t.Errorf("%s: path %s, want %s", what, got, want)
	}
	describe := func(types []scale.Type, v scale.Variant) string {
		out := fmt.Sprint(v.Index, " ", v.Name)
		for _, f := range v.Fields {
			out += fmt.Sprintf(" %s:%s as %s", f.Name, spell(types, f.Ty), f.TypeName)
		}
		return out
	}
	for _, v := range types[id].Def.Variants {
		i := slices.IndexFunc(realTypes[realID].Def.Variants, func(w scale.Variant) bool { return w.Name == v.Name })
		if i < 0 {
			t.Errorf("%s: no %s", what, v.Name)
			continue
		}
		if got, want := describe(types, v), describe(realTypes, realTypes[realID].Def.Variants[i]); got != want {
			t.Errorf("%s:\n got %s\nwant %s", what, got, want)
		}
	}
}

func compareAPI(t *testing.T, ours *scale.Metadata, api scale.RuntimeAPI, real *scale.Metadata) {
	t.Helper()
	i := slices.IndexFunc(real.APIs, func(a scale.RuntimeAPI) bool { return a.Name == api.Name })
	if i < 0 {
		t.Fatalf("no API %s", api.Name)
	}
	for _, m := range api.Methods {
		k := slices.IndexFunc(real.APIs[i].Methods, func(n scale.RuntimeMethod) bool { return n.Name == m.Name })
		if k < 0 {
			t.Errorf("no method %s.%s", api.Name, m.Name)
			continue
		}
		describe := func(types []scale.Type, m scale.RuntimeMethod) string {
			out := spell(types, m.Output)
			for _, in := range m.Inputs {
				if in.Name != "uxt" { // the real one wraps an extrinsic of Ethereum
					out += " " + in.Name + ":" + spell(types, in.Ty)
				}
			}
			return out
		}
		if got, want := describe(ours.Types, m), describe(real.Types, real.APIs[i].Methods[k]); got != want {
			t.Errorf("%s.%s:\n got %s\nwant %s", api.Name, m.Name, got, want)
		}
	}
}
