package pallet

import (
	"errors"
	"strings"
	"testing"
)

// TestOutcomeVectors reads the fate of every included extrinsic out of its
// block's events, and the events of its own.
func TestOutcomeVectors(t *testing.T) {
	for _, folder := range recorded() {
		for _, file := range []string{"accepted", "failed"} {
			t.Logf("%s: %d %s", folder, checkOutcomes(t, folder, file), file)
		}
	}
}

func checkOutcomes(t *testing.T, folder, file string) int {
	t.Helper()
	rt := runtimeOf(t, folder, "v15")
	var v struct {
		Cases []struct {
			ID, RawEvents string
			IncludedIn    struct{ Index int }
			Result        struct {
				OK    bool
				Error struct{ Kind, Pallet, Name string }
			}
			Events []struct {
				Index         int
				Phase         any
				Pallet, Event string
				Data          any
			}
			StorageDiff []struct {
				Item, Key               string
				Args                    []any
				Before, After           *string
				BeforeValue, AfterValue any
			}
		}
	}
	unmarshal(t, folder+"/extrinsics/"+file+".json.gz", &v)
	for _, c := range v.Cases {
		events, err := rt.Events(unhex(t, c.RawEvents))
		if err != nil {
			t.Errorf("%s: %v", c.ID, err)
			continue
		}
		for _, w := range c.Events {
			e := events[w.Index]
			if !sameName(e.Pallet, w.Pallet) || e.Name != w.Event || !samePhase(e, w.Phase) {
				t.Errorf("%s: event %d: %+v, want %+v", c.ID, w.Index, e, w)
			} else if err := differs(e.Fields, w.Data); err != nil {
				t.Errorf("%s: event %d, %s.%s: %v", c.ID, w.Index, e.Pallet, e.Name, err)
			}
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
		for _, d := range c.StorageDiff {
			pallet, item, _ := strings.Cut(d.Item, ".")
			args, err := rt.StorageArgs(pallet, item, unhex(t, d.Key))
			if err == nil {
				err = differsArgs(args, d.Args)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", c.ID, d.Item, err)
				continue
			}
			for _, side := range []struct {
				raw   *string
				value any
			}{{d.Before, d.BeforeValue}, {d.After, d.AfterValue}} {
				if side.raw == nil {
					continue
				}
				got, err := rt.DecodeStorage(pallet, item, unhex(t, *side.raw))
				if err == nil {
					err = differs(got, side.value)
				}
				if err != nil {
					t.Errorf("%s: %s: %v", c.ID, d.Item, err)
				}
			}
		}
	}
	return len(v.Cases)
}
