package pallet

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestEvent425Vectors(t *testing.T) {
	var v struct {
		Events struct {
			Raw     string
			Decoded []struct {
				Phase         json.RawMessage
				Pallet, Event string
			}
			Failed []struct {
				ExtrinsicIndex int
				Decoded        struct{ Kind, Value, Pallet, Name string }
			}
		}
	}
	unmarshal(t, "subtensor425/decoding/chain.json", &v)
	for _, version := range []string{"v14", "v15"} {
		rt := runtime425(t, version)
		events, err := rt.Events(unhex(t, v.Events.Raw))
		if err != nil {
			t.Fatal(err)
		}
		if len(events) != len(v.Events.Decoded) {
			t.Fatalf("%d events, want %d", len(events), len(v.Events.Decoded))
		}
		for i, w := range v.Events.Decoded {
			if !strings.EqualFold(events[i].Pallet, w.Pallet) || events[i].Name != w.Event {
				t.Errorf("event %d: %s.%s, want %s.%s", i, events[i].Pallet, events[i].Name, w.Pallet, w.Event)
			}
		}
		for _, w := range v.Events.Failed {
			want := w.Decoded.Pallet + "." + w.Decoded.Name
			if w.Decoded.Kind != "Module" {
				want = w.Decoded.Kind + "." + w.Decoded.Value
			}
			var de *DispatchError
			if err := rt.Outcome(events, w.ExtrinsicIndex); !errors.As(err, &de) || !strings.EqualFold(de.Name, want) {
				t.Errorf("extrinsic %d: %v, want %s", w.ExtrinsicIndex, err, want)
			}
		}
		if err := rt.Outcome(events, 0); err != nil {
			t.Errorf("the timestamp inherent: %v", err)
		}
		if err := rt.Outcome(events, 999); !errors.Is(err, ErrUnknown) {
			t.Errorf("an extrinsic that is not there: %v", err)
		}
	}
}

// TestOutcome425Vectors reads the fate of every included extrinsic out of its
// block's events.
func TestOutcome425Vectors(t *testing.T) {
	rt := runtime425(t, "v15")
	for _, file := range []string{"accepted", "failed"} {
		var v struct {
			Cases []struct {
				ID, RawEvents string
				IncludedIn    struct{ Index int }
				Result        struct {
					OK    bool
					Error struct{ Kind, Pallet, Name string }
				}
			}
		}
		unmarshal(t, "subtensor425/extrinsics/"+file+".json.gz", &v)
		for _, c := range v.Cases {
			events, err := rt.Events(unhex(t, c.RawEvents))
			if err != nil {
				t.Errorf("%s: %v", c.ID, err)
				continue
			}
			err = rt.Outcome(events, c.IncludedIn.Index)
			var de *DispatchError
			switch {
			case c.Result.OK && err != nil:
				t.Errorf("%s: %v", c.ID, err)
			case c.Result.OK:
			case !errors.As(err, &de):
				t.Errorf("%s: %v, want a dispatch error", c.ID, err)
			case c.Result.Error.Kind == "Module" && !strings.EqualFold(de.Name, c.Result.Error.Pallet+"."+c.Result.Error.Name):
				t.Errorf("%s: %s, want %+v", c.ID, de.Name, c.Result.Error)
			case c.Result.Error.Kind != "Module" && !strings.HasPrefix(de.Name, c.Result.Error.Kind):
				t.Errorf("%s: %s, want %+v", c.ID, de.Name, c.Result.Error)
			}
		}
	}
}

// TestRuntimeAPI425Vectors decodes every recorded answer of a runtime API by
// the types in the metadata, and encodes it again to the same bytes.
func TestRuntimeAPI425Vectors(t *testing.T) {
	var v struct {
		Calls []struct{ Method, Input, Output string }
	}
	unmarshal(t, "subtensor425/decoding/runtime_apis.json.gz", &v)
	rt := runtime425(t, "v15")
	for _, c := range v.Calls {
		trait, name, _ := strings.Cut(c.Method, "_")
		m, ok := rt.APIMethod(trait, name)
		if !ok {
			t.Errorf("%s is not in the metadata", c.Method)
			continue
		}
		raw := unhex(t, c.Output)
		out, err := rt.reg.DecodeAll(raw, m.Output)
		if err != nil {
			t.Errorf("%s: %v", c.Method, err)
			continue
		}
		if back, err := rt.reg.Encode(nil, m.Output, out); err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%s: encodes to %d bytes of %d, %v", c.Method, len(back), len(raw), err)
		}
	}
}
