package pallet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"testing"

	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/scale"
)

// recorded are the folders of the two runtimes that were recorded, spec 425 and spec 293.
func recorded() []string { return []string{"subtensor425", "subtensor"} }

// runtimes keeps what was parsed once: metadata is large, and nobody changes it.
var runtimes sync.Map

func runtimeOf(t testing.TB, folder, version string) *Runtime {
	t.Helper()
	name := folder + "/decoding/metadata-" + version + ".scale"
	if rt, ok := runtimes.Load(name); ok {
		return rt.(*Runtime)
	}
	m, err := scale.DecodeMetadata(vectors.Read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	rt, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	runtimes.Store(name, rt)
	return rt
}

// sameName tells whether two spellings are one name: net_uid and netUid.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.ReplaceAll(a, "_", ""), strings.ReplaceAll(b, "_", ""))
}

// differs holds a decoded value against a recorded one and says where they differ first; nil where they are the same. In a
// record integers are numbers or decimal strings, accounts ss58, byte strings 0x… or text, an enum its name or {name: data}.
func differs(got, want any) error {
	if some, ok := got.(scale.Some); ok {
		got = some.Value
	}
	switch w := want.(type) {
	case nil:
		list, isList := got.([]any)
		fields, isStruct := got.(scale.Struct)
		if got == nil || isList && len(list) == 0 || isStruct && len(fields) == 0 {
			return nil
		}
	case bool:
		if got == w {
			return nil
		}
	case json.Number:
		if n, ok := integerOf(got); ok && n.String() == w.String() {
			return nil
		}
	case string:
		if sameText(got, w) {
			return nil
		}
	case []any:
		return differsList(got, w)
	case map[string]any:
		return differsObject(got, w)
	}
	return fmt.Errorf("%#v is not %v", got, want)
}

func integerOf(v any) (*big.Int, bool) {
	switch n := v.(type) {
	case *big.Int:
		return n, true
	case uint64:
		return new(big.Int).SetUint64(n), true
	case int64:
		return big.NewInt(n), true
	case []any: // four words of 64 bits are U256 of primitive_types
		if len(n) != 4 {
			return nil, false
		}
		sum := new(big.Int)
		for i, word := range n {
			w, ok := word.(uint64)
			if !ok {
				return nil, false
			}
			sum.Or(sum, new(big.Int).Lsh(new(big.Int).SetUint64(w), uint(64*i)))
		}
		return sum, true
	}
	return nil, false
}

func sameText(got any, want string) bool {
	switch g := got.(type) {
	case string:
		return g == want
	case scale.VariantValue:
		if g.Name == "Id" && len(g.Fields) == 1 { // MultiAddress
			return sameText(g.Fields[0].Value, want)
		}
		unit := len(g.Fields) == 0 || len(g.Fields) == 1 && differs(g.Fields[0].Value, nil) == nil // Ok(())
		return sameName(g.Name, want) && unit
	case []byte:
		if "0x"+hex.EncodeToString(g) == want || string(g) == want || "0x"+hex.EncodeToString(scale.AppendBytes(nil, g)) == want {
			return true
		}
		pub, err := keys.DecodeSS58(want)
		return err == nil && bytes.Equal(pub[:], g)
	}
	n, ok := integerOf(got)
	return ok && n.String() == want
}

func differsList(got any, want []any) error {
	var list []any
	switch g := got.(type) {
	case []any:
		list = g
	case []byte:
		for _, b := range g {
			list = append(list, uint64(b))
		}
	case scale.Struct: // of unnamed fields
		for _, f := range g {
			list = append(list, f.Value)
		}
	default:
		return fmt.Errorf("%#v is not a list of %d", got, len(want))
	}
	if len(list) != len(want) {
		return fmt.Errorf("%d elements, not %d", len(list), len(want))
	}
	for i := range want {
		if err := differs(list[i], want[i]); err != nil {
			return fmt.Errorf("%d: %w", i, err)
		}
	}
	return nil
}

func differsObject(got any, want map[string]any) error {
	switch g := got.(type) {
	case scale.Struct:
		if len(g) != len(want) {
			return fmt.Errorf("%d fields, not %d", len(g), len(want))
		}
		for name, w := range want {
			found := false
			for i, f := range g {
				if sameName(f.Name, name) || f.Name == "" && name == strconv.Itoa(i) {
					found = true
					if err := differs(f.Value, w); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
				}
			}
			if !found {
				return fmt.Errorf("no field %s", name)
			}
		}
		return nil
	case scale.VariantValue:
		if index, ok := want["index"].(string); ok && len(g.Fields) == 1 { // an event by its numbers
			inner, ok := g.Fields[0].Value.(scale.VariantValue)
			if !ok || fmt.Sprintf("0x%02x%02x", g.Index, inner.Index) != index {
				return fmt.Errorf("event %s.%s is not %s", g.Name, inner.Name, index)
			}
			list, ok := want["data"].([]any)
			if !ok {
				return fmt.Errorf("event %s.%s has no data", g.Name, inner.Name)
			}
			return differsList(inner.Fields, list)
		}
		if index, ok := want["callIndex"].(string); ok && len(g.Fields) == 1 { // a call by its numbers
			inner, ok := g.Fields[0].Value.(scale.VariantValue)
			if !ok || fmt.Sprintf("0x%02x%02x", g.Index, inner.Index) != index {
				return fmt.Errorf("call %s.%s is not %s", g.Name, inner.Name, index)
			}
			return differs(inner.Fields, want["args"])
		}
		if len(want) != 1 {
			break
		}
		for name, w := range want {
			switch {
			case !sameName(g.Name, name):
				return fmt.Errorf("variant %s, not %s", g.Name, name)
			case len(g.Fields) == 1 && g.Fields[0].Name == "":
				return differs(g.Fields[0].Value, w)
			default:
				return differs(g.Fields, w)
			}
		}
	}
	return fmt.Errorf("%#v is not an object of %d", got, len(want))
}

// TestStorageVectors reads every entry of both recorded chains: its key back into arguments and again into the key, its
// value into what was recorded and again into the bytes. It does the same for items that are absent.
func TestStorageVectors(t *testing.T) {
	type entry struct {
		Item                           string
		Args                           []any
		Key, Raw, Modifier, DefaultRaw string
		Hashers                        []string
		Value                          any
	}
	for _, folder := range recorded() {
		var record struct {
			Items, Defaults []entry
			UndecodedKeys   []struct{ Key string }
		}
		unmarshal(t, folder+"/decoding/storage.json.gz", &record)
		for _, version := range []string{"v14", "v15"} {
			rt := runtimeOf(t, folder, version)
			items, versions := 0, 0
			for _, item := range record.Items {
				pallet, name, _ := strings.Cut(item.Item, ".")
				raw, key := unhex(t, item.Raw), unhex(t, item.Key)
				if name == "palletVersion" { // kept by every pallet, in no metadata
					versions++
					want := append(Twox128([]byte(pallet)), Twox128([]byte(":__STORAGE_VERSION__:"))...)
					if !bytes.Equal(key, want) || scale.NewReader(raw).U16() != uint16(mustInt(t, item.Value)) {
						t.Errorf("%s: key %x, want %x", item.Item, want, key)
					}
					continue
				}
				items++
				args, err := rt.StorageArgs(pallet, name, key)
				if err == nil {
					err = differsArgs(args, item.Args)
				}
				if err != nil {
					t.Errorf("%s %s: %v", folder, item.Item, err)
					continue
				}
				if back, err := rt.StorageKey(pallet, name, args...); err != nil || !bytes.Equal(back, key) {
					t.Errorf("%s %s: %x, %v, want %s", folder, item.Item, back, err, item.Key)
				}
				v, err := rt.DecodeStorage(pallet, name, raw)
				if err == nil {
					err = differs(v, item.Value)
				}
				if err != nil {
					t.Errorf("%s %s: %v", folder, item.Item, err)
					continue
				}
				if back, err := rt.EncodeStorage(pallet, name, v); err != nil || !bytes.Equal(back, raw) {
					t.Errorf("%s %s: value %x, %v", folder, item.Item, back, err)
				}
			}
			for _, item := range record.Defaults {
				pallet, name, _ := strings.Cut(item.Item, ".")
				key := unhex(t, item.Key)
				args, err := rt.StorageArgs(pallet, name, key)
				if err == nil {
					err = differsArgs(args, item.Args)
				}
				if err != nil {
					t.Errorf("%s %s: %v", folder, item.Item, err)
					continue
				}
				if back, err := rt.StorageKey(pallet, name, args...); err != nil || !bytes.Equal(back, key) {
					t.Errorf("%s %s: %x, %v, want %s", folder, item.Item, back, err, item.Key)
				}
				e, _, err := rt.Storage(pallet, name)
				if err != nil || (e.Modifier == scale.Optional) != (item.Modifier == "Optional") || !bytes.Equal(e.Default, unhex(t, item.DefaultRaw)) ||
					len(e.Hashers) != len(item.Hashers) {
					t.Errorf("%s %s: %+v, %v", folder, item.Item, e, err)
				}
				v, err := rt.DecodeStorage(pallet, name, nil)
				if err == nil {
					err = differs(v, item.Value)
				}
				if err != nil {
					t.Errorf("%s %s is absent: %v", folder, item.Item, err)
				}
			}
			for _, other := range record.UndecodedKeys {
				for _, p := range rt.Metadata().Pallets {
					for _, e := range p.Storage.Entries {
						if _, err := rt.StorageArgs(p.Name, e.Name, unhex(t, other.Key)); err == nil {
							t.Errorf("%s passes as %s.%s", other.Key, p.Name, e.Name)
						}
					}
				}
			}
			t.Logf("%s %s: %d entries, %d pallet versions, %d absent items, %d foreign keys",
				folder, version, items, versions, len(record.Defaults), len(record.UndecodedKeys))
		}
	}
}

func mustInt(t *testing.T, v any) int64 {
	t.Helper()
	n, ok := v.(json.Number)
	if !ok {
		t.Fatalf("%v is no number", v)
	}
	i, err := n.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// differsArgs compares the arguments of a key; what a hasher hides is not there to compare.
func differsArgs(got, want []any) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d arguments, not %d", len(got), len(want))
	}
	for i := range got {
		if got[i] == nil {
			continue
		}
		if err := differs(got[i], want[i]); err != nil {
			return fmt.Errorf("argument %d: %w", i, err)
		}
	}
	return nil
}

// TestRuntimeAPIVectors encodes the arguments of every recorded runtime call by the metadata's types, decodes the answer
// into what was recorded, and encodes it again to the same bytes.
func TestRuntimeAPIVectors(t *testing.T) {
	for _, folder := range recorded() {
		var record struct {
			Calls []struct {
				Method, Input, Output string
				Params                []struct {
					Name  string
					Value any
				}
				Value any
			}
		}
		unmarshal(t, folder+"/decoding/runtime_apis.json.gz", &record)
		rt := runtimeOf(t, folder, "v15")
		for _, c := range record.Calls {
			trait, name, _ := strings.Cut(c.Method, "_")
			m, ok := rt.APIMethod(trait, name)
			if !ok {
				t.Errorf("%s: %s is not in the metadata", folder, c.Method)
				continue
			}
			r := scale.NewReader(unhex(t, c.Input))
			var input []byte
			for i, p := range c.Params {
				v, err := rt.reg.Decode(r, m.Inputs[i].Ty)
				if err == nil && (p.Value != nil || v != nil) {
					err = differs(v, p.Value)
				}
				if err == nil {
					input, err = rt.reg.Encode(input, m.Inputs[i].Ty, v)
				}
				if err != nil || !sameName(p.Name, m.Inputs[i].Name) {
					t.Errorf("%s: %s: argument %s: %v", folder, c.Method, p.Name, err)
				}
			}
			if err := r.Done(); err != nil || !bytes.Equal(input, unhex(t, c.Input)) {
				t.Errorf("%s: %s: arguments %x, want %s (%v)", folder, c.Method, input, c.Input, err)
			}
			raw := unhex(t, c.Output)
			out, err := rt.reg.DecodeAll(raw, m.Output)
			if err == nil {
				err = differs(out, c.Value)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", folder, c.Method, err)
				continue
			}
			if back, err := rt.reg.Encode(nil, m.Output, out); err != nil || !bytes.Equal(back, raw) {
				t.Errorf("%s: %s: encodes to %d bytes of %d, %v", folder, c.Method, len(back), len(raw), err)
			}
		}
		t.Logf("%s: %d runtime calls", folder, len(record.Calls))
	}
}

// TestConstantVectors decodes every recorded constant.
func TestConstantVectors(t *testing.T) {
	for _, folder := range recorded() {
		var record struct{ Constants map[string]map[string]any }
		unmarshal(t, folder+"/decoding/metadata_summary.json.gz", &record)
		rt := runtimeOf(t, folder, "v15")
		count := 0
		for pallet, list := range record.Constants {
			for _, p := range rt.Metadata().Pallets {
				if !sameName(p.Name, pallet) {
					continue
				}
				for _, c := range p.Constants {
					for name, want := range list {
						if !sameName(name, c.Name) {
							continue
						}
						count++
						got, err := rt.Constant(p.Name, c.Name)
						if err == nil {
							err = differs(got, want)
						}
						if err != nil {
							t.Errorf("%s: %s.%s: %v", folder, p.Name, c.Name, err)
						}
					}
				}
			}
		}
		if count < 100 {
			t.Errorf("%s: only %d constants met", folder, count)
		}
		t.Logf("%s: %d constants", folder, count)
	}
}

// TestChainVectors reads what the record of JSON-RPC answers holds for these rooms: a header and its hash, a block's
// extrinsics, the events with the errors of those that failed, and which runtime APIs there are.
func TestChainVectors(t *testing.T) {
	for _, folder := range recorded() {
		var record struct {
			BlockHash string
			Header    jsonHeader `json:"chain_getHeader"`
			Block     struct {
				Block struct {
					Header     jsonHeader
					Extrinsics []string
				}
			} `json:"chain_getBlock"`
			RuntimeVersion struct{ APIs [][2]any } `json:"state_getRuntimeVersion"`
			Events         struct {
				Key, Raw string
				Decoded  []struct {
					Phase         any
					Pallet, Event string
					Data          any
				}
				Failed []struct {
					ExtrinsicIndex int
					Decoded        struct{ Kind, Value, Pallet, Name, Docs string }
				}
			}
		}
		unmarshal(t, folder+"/decoding/chain.json", &record)
		for _, h := range []jsonHeader{record.Header, record.Block.Block.Header} {
			if got := h.header(t).Hash(); got != hash32(t, record.BlockHash) {
				t.Errorf("%s: header hashes to %x, want %s", folder, got, record.BlockHash)
			}
		}
		for _, version := range []string{"v14", "v15"} {
			rt := runtimeOf(t, folder, version)
			for i, x := range record.Block.Block.Extrinsics {
				if _, err := rt.DecodeExtrinsic(unhex(t, x)); err != nil {
					t.Errorf("%s: extrinsic %d: %v", folder, i, err)
				}
			}
			if key, err := rt.StorageKey("System", "Events"); err != nil || !bytes.Equal(key, unhex(t, record.Events.Key)) {
				t.Errorf("%s: key of the events %x, %v", folder, key, err)
			}
			events, err := rt.Events(unhex(t, record.Events.Raw))
			if err != nil || len(events) != len(record.Events.Decoded) {
				t.Fatalf("%s: %d events, want %d: %v", folder, len(events), len(record.Events.Decoded), err)
			}
			for i, w := range record.Events.Decoded {
				e := events[i]
				if !sameName(e.Pallet, w.Pallet) || e.Name != w.Event || !samePhase(e, w.Phase) {
					t.Errorf("%s: event %d: %+v, want %+v", folder, i, e, w)
				}
				if err := differs(e.Fields, w.Data); err != nil {
					t.Errorf("%s: event %d, %s.%s: %v", folder, i, e.Pallet, e.Name, err)
				}
			}
			for _, w := range record.Events.Failed {
				want := w.Decoded.Pallet + "." + w.Decoded.Name
				if w.Decoded.Kind != "Module" {
					want = w.Decoded.Kind + "." + w.Decoded.Value
				}
				var de *DispatchError
				if err := rt.Outcome(events, w.ExtrinsicIndex); !errors.As(err, &de) || !strings.EqualFold(de.Name, want) || de.Docs != w.Decoded.Docs {
					t.Errorf("%s: extrinsic %d: %v, want %s", folder, w.ExtrinsicIndex, err, want)
				}
			}
			if err := rt.Outcome(events, 0); err != nil {
				t.Errorf("%s: the timestamp inherent: %v", folder, err)
			}
			if err := rt.Outcome(events, 999); !errors.Is(err, ErrUnknown) {
				t.Errorf("%s: an extrinsic that is not there: %v", folder, err)
			}
		}
		known := map[string]bool{}
		for _, api := range runtimeOf(t, folder, "v15").Metadata().APIs {
			id := APIID(api.Name)
			known["0x"+hex.EncodeToString(id[:])] = true
		}
		for _, api := range record.RuntimeVersion.APIs {
			if id, _ := api[0].(string); !known[id] {
				t.Errorf("%s: API %s is of no trait in the metadata", folder, id)
			}
		}
		t.Logf("%s: 2 headers, %d extrinsics, %d events, %d failures, %d APIs", folder, len(record.Block.Block.Extrinsics),
			len(record.Events.Decoded), len(record.Events.Failed), len(record.RuntimeVersion.APIs))
	}
}

func samePhase(e Event, want any) bool {
	switch w := want.(type) {
	case string:
		return strings.EqualFold(w, map[Phase]string{Finalization: "finalization", Initialization: "initialization"}[e.Phase])
	case map[string]any:
		for name, n := range w {
			i, ok := n.(json.Number)
			return strings.EqualFold(name, "applyExtrinsic") && e.Phase == ApplyExtrinsic && ok && i.String() == fmt.Sprint(e.Extrinsic)
		}
	}
	return false
}
