package scale

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"basilica/internal/vectors"
)

// camel is a name as polkadot.js spells it, which is how the recorded summary does: net_uid is netUid.
func camel(name string) string {
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

// sameName tells whether two spellings are one name; capitals and underscores do not count.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.ReplaceAll(a, "_", ""), strings.ReplaceAll(b, "_", ""))
}

type argument [2]*string // name (nil: none) and type

type metadataSummary struct {
	V14Bytes, V15Bytes int
	Pallets            []struct {
		Name  string
		Index uint8
	}
	Extrinsic struct {
		Version          uint8
		SignedExtensions []struct{ Identifier, AdditionalSigned string }
	}
	APIs []struct {
		Name    string
		Methods []struct {
			Name   string
			Inputs []argument
		}
	}
	Calls map[string][]struct {
		Name  string
		Index [2]uint8
		Args  []argument
	}
	Errors    map[string][][2]any
	Events    map[string][][3]json.RawMessage
	Constants map[string]map[string]any
}

// TestMetadataSummaryVectors finds in the metadata of both recorded runtimes, in both versions, what the record lists.
func TestMetadataSummaryVectors(t *testing.T) {
	for _, folder := range recorded() {
		var want metadataSummary
		vectors.JSON(t, folder+"/decoding/metadata_summary.json.gz", &want)
		for version, size := range map[string]int{"v14": want.V14Bytes, "v15": want.V15Bytes} {
			blob := vectors.Read(t, folder+"/decoding/metadata-"+version+".scale")
			if len(blob) != size {
				t.Errorf("%s %s: %d bytes, want %d", folder, version, len(blob), size)
			}
			checkSummary(t, folder+" "+version, metadataOf(t, folder, version), want)
		}
	}
}

func checkSummary(t *testing.T, what string, m *Metadata, want metadataSummary) {
	t.Helper()
	reg, err := NewRegistry(m.Types)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Pallets) != len(want.Pallets) {
		t.Fatalf("%s: %d pallets, want %d", what, len(m.Pallets), len(want.Pallets))
	}
	calls, errors, events, constants := 0, 0, 0, 0
	for i, p := range want.Pallets {
		got := m.Pallets[i]
		if got.Name != p.Name || got.Index != p.Index {
			t.Errorf("%s: pallet %s %d, want %s %d", what, got.Name, got.Index, p.Name, p.Index)
		}
		key := camel(strings.ToLower(p.Name[:1]) + p.Name[1:])
		variants := func(id uint32) []Variant { return m.Types[id].Def.Variants }
		if list := want.Calls[key]; list != nil {
			if len(variants(got.Calls)) != len(list) {
				t.Errorf("%s: %s has %d calls, want %d", what, p.Name, len(variants(got.Calls)), len(list))
			}
			for _, c := range list {
				calls++
				at := slices.IndexFunc(variants(got.Calls), func(v Variant) bool { return v.Name == c.Name })
				if at < 0 {
					t.Errorf("%s: call %s.%s is missing", what, p.Name, c.Name)
					continue
				}
				v := variants(got.Calls)[at]
				if got.Index != c.Index[0] || v.Index != c.Index[1] || !sameFields(v.Fields, c.Args) {
					t.Errorf("%s: call %s.%s is %d %d %+v", what, p.Name, c.Name, got.Index, v.Index, v.Fields)
				}
			}
		}
		for k, e := range want.Errors[key] {
			errors++
			if v := variants(got.Error)[k]; float64(v.Index) != e[0] || v.Name != e[1] {
				t.Errorf("%s: error %d of %s is %s, want %v", what, v.Index, p.Name, v.Name, e)
			}
		}
		for k, e := range want.Events[key] {
			events++
			var index uint8
			var name string
			var args []argument
			for n, into := range []any{&index, &name, &args} {
				if err := json.Unmarshal(e[n], into); err != nil {
					t.Fatal(err)
				}
			}
			if v := variants(got.Event)[k]; v.Index != index || v.Name != name || !sameFields(v.Fields, args) {
				t.Errorf("%s: event %d of %s is %s %+v, want %s", what, v.Index, p.Name, v.Name, v.Fields, e)
			}
		}
		if len(got.Constants) != len(want.Constants[key]) {
			t.Errorf("%s: %s has %d constants, want %d", what, p.Name, len(got.Constants), len(want.Constants[key]))
		}
		for name := range want.Constants[key] {
			constants++
			if !slices.ContainsFunc(got.Constants, func(c ConstantMeta) bool { return sameName(c.Name, name) }) {
				t.Errorf("%s: constant %s.%s is missing", what, p.Name, name)
			}
		}
	}
	x := m.Extrinsic
	if x.Version != want.Extrinsic.Version || len(x.Extensions) != len(want.Extrinsic.SignedExtensions) || x.Call == 0 || x.Signature == 0 {
		t.Fatalf("%s: extrinsic %+v", what, x)
	}
	for i, e := range want.Extrinsic.SignedExtensions {
		if got := x.Extensions[i]; got.Identifier != e.Identifier || reg.IsEmpty(got.Additional) != (e.AdditionalSigned == "Null") {
			t.Errorf("%s: extension %d is %s, want %s", what, i, got.Identifier, e.Identifier)
		}
	}
	methods := 0
	if m.Version > 14 {
		for i, a := range want.APIs {
			if m.APIs[i].Name != a.Name || len(m.APIs[i].Methods) != len(a.Methods) {
				t.Errorf("%s: API %s, want %s", what, m.APIs[i].Name, a.Name)
				continue
			}
			for k, w := range a.Methods {
				methods++
				got := m.APIs[i].Methods[k]
				same := got.Name == w.Name && len(got.Inputs) == len(w.Inputs)
				for n := range w.Inputs {
					same = same && sameName(got.Inputs[n].Name, *w.Inputs[n][0])
				}
				if !same {
					t.Errorf("%s: %s_%s%+v", what, a.Name, got.Name, got.Inputs)
				}
			}
		}
	}
	t.Logf("%s: %d pallets, %d extensions, %d calls, %d errors, %d events, %d constants, %d API methods",
		what, len(want.Pallets), len(x.Extensions), calls, errors, events, constants, methods)
}

func sameFields(fields []Field, args []argument) bool {
	if len(fields) != len(args) {
		return false
	}
	for i, a := range args {
		if a[0] == nil && fields[i].Name != "" || a[0] != nil && !sameName(fields[i].Name, *a[0]) {
			return false
		}
	}
	return true
}

// TestMetadataEncodesAgainVectors: what was decoded encodes to the very bytes.
func TestMetadataEncodesAgainVectors(t *testing.T) {
	blobs := 0
	for _, folder := range recorded() {
		for _, version := range []string{"v14", "v15"} {
			blob := vectors.Read(t, folder+"/decoding/metadata-"+version+".scale")
			back, err := EncodeMetadata(metadataOf(t, folder, version))
			if err != nil || !bytes.Equal(back, blob) {
				t.Errorf("%s %s encodes to %d bytes of %d, %v", folder, version, len(back), len(blob), err)
			}
			blobs++
		}
	}
	for name, blob := range finneyBlobs(t) {
		m, err := decodeBlob(name, blob)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Version == 16 {
			continue
		}
		back, err := EncodeMetadata(m)
		if err != nil || !bytes.HasSuffix(blob, back) || len(blob)-len(back) > 6 { // what is in front is the Option and the length
			t.Errorf("%s encodes to %d bytes of %d, %v", name, len(back), len(blob), err)
		}
		blobs++
	}
	t.Logf("metadata encoded again: %d blobs", blobs)
}

// finneyBlobs reads the blobs of finney that are not kept in this repository; none where they are away.
func finneyBlobs(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{"finney-spec343-v14.hex", "finney-spec343-v15-option.hex", "finney-spec365-v16.scale"} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "shared", "testdata", "bittensor", name))
		if err != nil {
			t.Logf("left out, for it is not kept in this repository: %v", err)
			continue
		}
		if strings.HasSuffix(name, ".hex") {
			raw = unhex(t, strings.TrimSpace(string(raw)))
		}
		out[name] = raw
	}
	return out
}

func decodeBlob(name string, blob []byte) (*Metadata, error) {
	if strings.Contains(name, "option") {
		return DecodeOpaqueMetadata(blob)
	}
	return DecodeMetadata(blob)
}

// TestMetadataExpectationVectors holds the blobs of finney (V14, V15, V16) against what a decoder must find in them.
func TestMetadataExpectationVectors(t *testing.T) {
	type byName map[string]map[string]uint8
	var want struct {
		Blobs []struct {
			File                   string
			MetadataVersion, Types int
			Calls, Errors, Events  byName
			Constants              map[string]string
			Storage                map[string]map[string]string
			RuntimeApis            map[string]string
			TransactionExtensions  []struct {
				Identifier                  string
				ExtraEmpty, AdditionalEmpty bool
			}
			Pallets []struct {
				Name                                      string
				Index                                     uint8
				Storage, Calls, Events, Errors, Constants int
			}
		}
	}
	vectors.JSON(t, "bittensor/metadata-expectations.json", &want)
	blobs := finneyBlobs(t)
	for _, b := range want.Blobs {
		blob, here := blobs[b.File]
		if !here {
			continue
		}
		m, err := decodeBlob(b.File, blob)
		if err != nil {
			t.Errorf("%s: %v", b.File, err)
			continue
		}
		reg, err := NewRegistry(m.Types)
		if err != nil {
			t.Fatal(err)
		}
		if int(m.Version) != b.MetadataVersion || len(m.Types) != b.Types || len(m.Pallets) != len(b.Pallets) || m.Extrinsic.Version != 4 {
			t.Fatalf("%s: version %d, %d types, %d pallets", b.File, m.Version, len(m.Types), len(m.Pallets))
		}
		variants := func(has bool, id uint32) []Variant {
			if !has {
				return nil
			}
			return m.Types[id].Def.Variants
		}
		points := 0
		for i, w := range b.Pallets {
			p := m.Pallets[i]
			if p.Name != w.Name || p.Index != w.Index || len(p.Storage.Entries) != w.Storage || len(p.Constants) != w.Constants ||
				len(variants(p.HasCalls, p.Calls)) != w.Calls || len(variants(p.HasEvent, p.Event)) != w.Events || len(variants(p.HasError, p.Error)) != w.Errors {
				t.Errorf("%s: pallet %s differs from %+v", b.File, p.Name, w)
			}
			for what, list := range map[string][]Variant{
				"call": variants(p.HasCalls, p.Calls), "error": variants(p.HasError, p.Error), "event": variants(p.HasEvent, p.Event),
			} {
				expected := map[string]byName{"call": b.Calls, "error": b.Errors, "event": b.Events}[what][p.Name]
				for name, index := range expected {
					points++
					if !slices.ContainsFunc(list, func(v Variant) bool { return v.Name == name && v.Index == index }) {
						t.Errorf("%s: %s %s.%s %d is missing", b.File, what, p.Name, name, index)
					}
				}
			}
			for _, c := range p.Constants {
				if value, ok := b.Constants[p.Name+"."+c.Name]; ok {
					points++
					if !bytes.Equal(c.Value, unhex(t, value)) {
						t.Errorf("%s: constant %s.%s is %x, want %s", b.File, p.Name, c.Name, c.Value, value)
					}
				}
			}
			items := b.Storage[p.Name]
			for _, e := range p.Storage.Entries {
				shape, ok := items[e.Name]
				if !ok {
					continue
				}
				points++
				if strings.HasPrefix(shape, "value ") == e.IsMap || strings.HasSuffix(shape, "optional") != (e.Modifier == Optional) {
					t.Errorf("%s: %s.%s is not a %s", b.File, p.Name, e.Name, shape)
				}
			}
			if items != nil && len(items) != len(p.Storage.Entries) {
				t.Errorf("%s: %s has %d items, want %d", b.File, p.Name, len(p.Storage.Entries), len(items))
			}
		}
		for i, e := range b.TransactionExtensions {
			got := m.Extrinsic.Extensions[i]
			if got.Identifier != e.Identifier || reg.IsEmpty(got.Ty) != e.ExtraEmpty || reg.IsEmpty(got.Additional) != e.AdditionalEmpty {
				t.Errorf("%s: extension %d is %+v, want %+v", b.File, i, got, e)
			}
		}
		found := map[string]int{}
		for _, a := range m.APIs {
			for _, method := range a.Methods {
				found[a.Name+"_"+method.Name] = len(method.Inputs)
			}
		}
		for name, signature := range b.RuntimeApis {
			points++
			arguments := 0
			if inside, _, _ := strings.Cut(strings.TrimPrefix(signature, "("), ") ->"); inside != "" {
				arguments = strings.Count(inside, ": ")
			}
			if n, ok := found[name]; !ok || n != arguments {
				t.Errorf("%s: API %s has %d inputs (%v), want %s", b.File, name, n, ok, signature)
			}
		}
		t.Logf("%s: %d pallets, %d extensions, %d points by name", b.File, len(b.Pallets), len(b.TransactionExtensions), points)
	}
}

// TestDefaultsDecodeVectors decodes every default and constant in the metadata, and encodes it again to the same bytes.
func TestDefaultsDecodeVectors(t *testing.T) {
	for _, folder := range recorded() {
		m := metadataOf(t, folder, "v15")
		reg, err := NewRegistry(m.Types)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		again := func(what string, id uint32, raw []byte) {
			count++
			v, err := reg.DecodeAll(raw, id)
			if err != nil {
				t.Errorf("%s: %s: %v", folder, what, err)
				return
			}
			if back, err := reg.Encode(nil, id, v); err != nil || !bytes.Equal(back, raw) {
				t.Errorf("%s: %s encodes to %x, want %x (%v)", folder, what, back, raw, err)
			}
		}
		for _, p := range m.Pallets {
			for _, e := range p.Storage.Entries {
				if e.Modifier == Default {
					again(p.Name+"."+e.Name, e.Value, e.Default)
				}
			}
			for _, c := range p.Constants {
				again(p.Name+"."+c.Name, c.Ty, c.Value)
			}
		}
		t.Logf("%s: %d defaults and constants", folder, count)
	}
}

// metadataV16 writes metadata in the form of version 16, with deprecations, associated types and view functions strewn
// in: what a node of that version answers.
func metadataV16(m *Metadata) []byte {
	e := metadataEncoder{v15: true}
	deprecated := func(i int) { // none, without a note, with a note, with a note and a version
		switch i % 4 {
		case 0, 1:
			e.u8(uint8(i % 4))
		case 2:
			e.u8(2)
			e.str("old")
			e.u8(0)
		case 3:
			e.u8(2)
			e.str("old")
			e.u8(1)
			e.str("1.0")
		}
	}
	enum := func(has bool, id uint32) {
		e.optionalID(has, id)
		if has {
			e.compact(2)
			for i := range 2 {
				e.u8(uint8(i))
				deprecated(i + 1)
			}
		}
	}
	e.b = AppendU8(AppendU32(nil, MetadataMagic), 16)
	e.compact(len(m.Types))
	for _, t := range m.Types {
		e.typ(t)
	}
	e.compact(len(m.Pallets))
	for i, p := range m.Pallets {
		e.str(p.Name)
		e.b = AppendBool(e.b, p.HasStorage)
		if p.HasStorage {
			e.str(p.Storage.Prefix)
			e.compact(len(p.Storage.Entries))
			for k, entry := range p.Storage.Entries {
				one := metadataEncoder{}
				one.storage(StorageMeta{Entries: []StorageEntry{entry}})
				e.b = append(e.b, one.b[2:]...) // behind the empty prefix and the count
				deprecated(k)
			}
		}
		enum(p.HasCalls, p.Calls)
		enum(p.HasEvent, p.Event)
		e.compact(len(p.Constants))
		for k, c := range p.Constants {
			e.str(c.Name)
			e.id(c.Ty)
			e.b = AppendBytes(e.b, c.Value)
			e.strs(c.Docs)
			deprecated(k)
		}
		enum(p.HasError, p.Error)
		e.compact(1) // an associated type
		e.str("Hashing")
		e.id(0)
		e.strs([]string{"docs"})
		e.compact(1) // a view function
		e.b = append(e.b, make([]byte, 32)...)
		e.str("view")
		e.compact(1)
		e.str("of")
		e.id(0)
		e.id(0)
		e.strs(nil)
		deprecated(i)
		e.u8(p.Index)
		e.strs(p.Docs)
		deprecated(i)
	}
	x := m.Extrinsic
	e.b = append(e.b, 8, 4, 5) // versions 4 and 5
	for _, id := range []uint32{x.Address, x.Call, x.Signature} {
		e.id(id)
	}
	e.compact(1) // extension version 0 has all of them
	e.u8(0)
	e.compact(len(x.Extensions))
	for i := range x.Extensions {
		e.id(uint32(i))
	}
	e.compact(len(x.Extensions))
	for _, s := range x.Extensions {
		e.str(s.Identifier)
		e.id(s.Ty)
		e.id(s.Additional)
	}
	e.compact(len(m.APIs))
	for i, a := range m.APIs {
		e.str(a.Name)
		e.compact(len(a.Methods))
		for k, method := range a.Methods {
			one := metadataEncoder{}
			one.apis([]RuntimeAPI{{Methods: []RuntimeMethod{method}}})
			e.b = append(e.b, one.b[3:len(one.b)-1]...) // between two counts, a name and the docs
			deprecated(k)
		}
		e.strs(a.Docs)
		e.id(1)
		deprecated(i)
	}
	for _, id := range []uint32{m.Outer.Call, m.Outer.Event, m.Outer.Error} {
		e.id(id)
	}
	e.compact(len(m.Custom))
	for _, c := range m.Custom {
		e.str(c.Name)
		e.id(c.Ty)
		e.b = AppendBytes(e.b, c.Value)
	}
	return e.b
}

// TestMetadataV16 writes the recorded metadata as version 16 and reads the same out of it.
func TestMetadataV16(t *testing.T) {
	for _, folder := range recorded() {
		want := metadataOf(t, folder, "v15")
		got, err := DecodeMetadata(metadataV16(want))
		if err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		want.Version, want.Ty, want.Extrinsic.Extra = 16, 0, 0 // 16 has no type for the runtime and for all extensions
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads differently as version 16", folder)
		}
	}
}

func TestMetadataTruncatedAndBroken(t *testing.T) {
	for _, blob := range [][]byte{
		vectors.Read(t, "subtensor425/decoding/metadata-v14.scale"), vectors.Read(t, "subtensor/decoding/metadata-v15.scale"),
		metadataV16(metadataOf(t, "subtensor", "v15")),
	} {
		for n := 0; n < len(blob); n += 23_003 {
			if _, err := DecodeMetadata(blob[:n]); err == nil {
				t.Fatalf("%d of %d bytes pass", n, len(blob))
			}
		}
		if _, err := DecodeMetadata(append(bytes.Clone(blob), 0)); err == nil {
			t.Error("a byte too many passes")
		}
	}
	if _, err := DecodeOpaqueMetadata([]byte{0}); err == nil {
		t.Error("None passes")
	}
}

// allocated is how many bytes f takes from the heap in all, freed ones included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHostileInputAllocatesLittle feeds what announces much and brings little.
func TestHostileInputAllocatesLittle(t *testing.T) {
	reg := testRegistry(t)
	many := []byte{0xfe, 0xff, 0xff, 0xff} // 2^30-1 elements
	for name, f := range map[string]func(){
		"a vector":         func() { _, _ = reg.DecodeAll(many, 3) },
		"units":            func() { _, _ = reg.DecodeAll(append(AppendCompact(nil, 60_000), make([]byte, 60_000)...), 5) },
		"bits":             func() { _, _ = reg.DecodeAll(many, 12) },
		"nested vectors":   func() { _, _ = reg.DecodeAll(bytes.Repeat([]byte{4}, 60_000), 6) },
		"many empty lists": func() { _, _ = reg.DecodeAll(append(AppendCompact(nil, 60_000), make([]byte, 60_000)...), 6) },
		"types":            func() { _, _ = DecodeMetadata(append([]byte("meta\x0e"), many...)) },
		"a name":           func() { _, _ = DecodeMetadata(append([]byte("meta\x0e\x00\x04"), many...)) },
		"paths": func() {
			_, _ = DecodeMetadata(append(append([]byte("meta\x0e\x04\x00"), AppendCompact(nil, 60_000)...), make([]byte, 60_000)...))
		},
		"opaque": func() { _, _ = DecodeOpaqueMetadata(append([]byte{1}, many...)) },
	} {
		if n := allocated(f); n > 60_000*256 {
			t.Errorf("%s takes %d bytes", name, n)
		}
	}
	// An array of many elements without bytes, which metadata of a liar may define.
	liar, err := NewRegistry([]Type{{ID: 0, Def: TypeDef{Kind: KindTuple}}, {ID: 1, Def: TypeDef{Kind: KindArray, Elem: 0, Len: 1<<32 - 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if n := allocated(func() {
		if v, err := liar.DecodeAll(nil, 1); err == nil {
			t.Errorf("4 billion units decode to %T", v)
		}
	}); n > 1<<20 {
		t.Errorf("an array without bytes takes %d bytes", n)
	}
}

// TestEmptyTypesAreFoundInOnePass: a chain of newtypes, each defined after its user, is no work that grows with its square.
func TestEmptyTypesAreFoundInOnePass(t *testing.T) {
	const n = 50_000
	types := make([]Type, n)
	for i := range types {
		types[i] = Type{ID: uint32(i), Def: TypeDef{Kind: KindTuple}}
		if i+1 < n {
			types[i].Def.Tuple = []uint32{uint32(i + 1)}
		}
	}
	reg, err := NewRegistry(types)
	if err != nil {
		t.Fatal(err)
	}
	if !reg.IsEmpty(0) || !reg.IsEmpty(n-1) {
		t.Error("a chain of units has bytes")
	}
	types[n-1].Def.Tuple = []uint32{0}
	if reg, err = NewRegistry(types); err != nil || reg.IsEmpty(0) {
		t.Errorf("a circle is empty, %v", err)
	}
}

// smallMetadata is metadata with one of each kind of thing, for seeds.
func smallMetadata(version uint8) *Metadata {
	m := &Metadata{
		Version: version,
		Types: []Type{
			{ID: 0, Def: TypeDef{Kind: KindPrimitive, Primitive: U8}},
			{ID: 1, Path: []string{"x", "Call"}, Params: []TypeParam{{Name: "T"}}, Def: TypeDef{Kind: KindVariant, Variants: []Variant{
				{Name: "go", Index: 3, Fields: []Field{{Name: "to", Ty: 0, TypeName: "u8"}}, Docs: []string{"goes"}},
			}}},
			{ID: 2, Def: TypeDef{Kind: KindCompact, Elem: 0}},
			{ID: 3, Def: TypeDef{Kind: KindBitSequence, BitStore: 0, BitOrder: 2}},
			{ID: 4, Def: TypeDef{Kind: KindComposite, Fields: []Field{{Ty: 2}}}},
		},
		Pallets: []PalletMeta{{
			Name: "System", HasStorage: true, HasCalls: true, Calls: 1, HasEvent: true, Event: 1, HasError: true, Error: 1,
			Storage:   StorageMeta{Prefix: "System", Entries: []StorageEntry{{Name: "Map", IsMap: true, Hashers: []Hasher{Identity}, Key: 0, Value: 2, Default: []byte{0}}}},
			Constants: []ConstantMeta{{Name: "C", Ty: 0, Value: []byte{7}}},
		}},
		Extrinsic: ExtrinsicMeta{Version: 4, Call: 1, Extensions: []SignedExtension{{Identifier: "CheckNonce", Ty: 2}}},
	}
	if version > 14 {
		m.APIs = []RuntimeAPI{{Name: "Core", Methods: []RuntimeMethod{{Name: "version", Inputs: []MethodParam{{Name: "x", Ty: 0}}}}}}
	}
	return m
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add([]byte("meta\x0e\x00\x00\x00\x04\x00\x00"))
	f.Add([]byte("meta\x0f\x04\x00\x00\x00\x05\x03\x00\x00"))
	for _, version := range []uint8{14, 15} {
		blob, err := EncodeMetadata(smallMetadata(version))
		if err != nil {
			f.Fatal(err)
		}
		if _, err := DecodeMetadata(blob); err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
	}
	f.Add(metadataV16(smallMetadata(15)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMetadata(data)
		if err != nil {
			return
		}
		if _, err := NewRegistry(m.Types); err != nil {
			t.Fatalf("decoded types make no registry: %v", err)
		}
		if m.Version == 16 {
			return
		}
		blob, err := EncodeMetadata(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := DecodeMetadata(blob); err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%x does not read as it was written: %v", data, err)
		}
	})
}

// BenchmarkDecodeMetadata is what a runtime upgrade costs: 334 KB of version 15.
func BenchmarkDecodeMetadata(b *testing.B) {
	blob := vectors.Read(b, "subtensor425/decoding/metadata-v15.scale")
	b.SetBytes(int64(len(blob)))
	for b.Loop() {
		if _, err := DecodeMetadata(blob); err != nil {
			b.Fatal(err)
		}
	}
}
