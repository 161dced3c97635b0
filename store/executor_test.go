package store

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
)

func openExecutor(t testing.TB, dir string) *Executor {
	t.Helper()
	e, err := OpenExecutor(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestLedgerProperties: whatever is held, extended, left, quarantined or forgotten by the clock, and however often the
// process starts again, a GPU has one holder at a time and fencing numbers only grow.
func TestLedgerProperties(t *testing.T) {
	gpus := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		e := openExecutor(t, dir)
		defer func() { e.Close() }()
		now := time.Unix(1_800_000_000, 0)
		ctx := t.Context()
		var last uint64
		model := map[uint64]basilica.Holding{}
		live := func() map[uint64]basilica.Holding {
			out := map[uint64]basilica.Holding{}
			for f, h := range model {
				if h.Kind != basilica.HolderChallenge || h.Expires.After(now) {
					out[f] = h
				}
			}
			return out
		}
		pick := func() uint64 {
			var fences []uint64
			for f := range model {
				fences = append(fences, f)
			}
			slices.Sort(fences)
			return rapid.SampledFrom(append(fences, last+7)).Draw(rt, "fence")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"hold": func(rt *rapid.T) {
				h := basilica.Holding{
					Kind:    rapid.SampledFrom([]basilica.HolderKind{basilica.HolderTask, basilica.HolderChallenge}).Draw(rt, "kind"),
					Holder:  "h",
					GPUs:    rapid.SliceOfDistinct(rapid.SampledFrom(gpus), func(s string) string { return s }).Draw(rt, "gpus"),
					Expires: now.Add(time.Duration(rapid.IntRange(1, 10).Draw(rt, "life")) * time.Second),
				}
				taken := false
				for _, other := range live() {
					for _, g := range h.GPUs {
						taken = taken || slices.Contains(other.GPUs, g)
					}
				}
				got, err := e.Hold(ctx, h, now)
				var held *basilica.Held
				if taken != errors.As(err, &held) || !taken && err != nil {
					rt.Fatalf("hold %v: taken %v, error %v", h.GPUs, taken, err)
				}
				if taken {
					if _, ok := live()[held.Holding.Fence]; !ok || basilica.KindOf(err) != basilica.Conflict {
						rt.Fatalf("the refusal names %+v", held.Holding)
					}
					return
				}
				if got.Fence <= last {
					rt.Fatalf("fence %d after %d", got.Fence, last)
				}
				last = got.Fence
				model[got.Fence] = got
			},
			"leave": func(rt *rapid.T) {
				f := pick()
				if err := e.Leave(ctx, f); err != nil {
					rt.Fatal(err)
				}
				delete(model, f)
			},
			"extend": func(rt *rapid.T) {
				f, until := pick(), now.Add(5*time.Second)
				h, known := live()[f]
				if err := e.Extend(ctx, f, until); known && err != nil {
					rt.Fatal(err)
				}
				if known {
					h.Expires = until
					model[f] = h
				} else {
					_ = e.Leave(ctx, f) // an expired challenge may still have its row
					delete(model, f)
				}
			},
			"quarantine": func(rt *rapid.T) {
				f := pick()
				if h, ok := live()[f]; ok {
					if err := e.Quarantine(ctx, basilica.Remains{Fence: f, Boot: "b", Container: "c"}); err != nil {
						rt.Fatal(err)
					}
					h.Kind = basilica.HolderQuarantine
					model[f] = h
				}
			},
			"time passes": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(rt, "seconds")) * time.Second)
			},
			"restart": func(rt *rapid.T) {
				if err := e.Close(); err != nil {
					rt.Fatal(err)
				}
				e = openExecutor(t, dir)
			},
			"": func(rt *rapid.T) {
				ledger, err := e.Ledger(ctx, now)
				if err != nil {
					rt.Fatal(err)
				}
				holder := map[string]uint64{}
				for _, h := range ledger {
					for _, g := range h.GPUs {
						if other, ok := holder[g]; ok {
							rt.Fatalf("GPU %s is held by %d and %d", g, other, h.Fence)
						}
						holder[g] = h.Fence
					}
				}
				if len(ledger) != len(live()) {
					rt.Fatalf("ledger %+v, want %+v", ledger, live())
				}
			},
		})
	})
}

func TestAttempts(t *testing.T) {
	dir := t.TempDir()
	e := openExecutor(t, dir)
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0).UTC()
	in, out := basilica.Digest{1}, basilica.Digest{2}
	a := basilica.Attempt{
		Task: "t1", Number: 1, Client: "c", Spec: []byte("{}"), State: basilica.TaskPlaced, Accepted: now,
		Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: "t1", GPUs: []string{"g"}, Expires: now.Add(time.Minute)},
	}
	h, fresh, err := e.Accept(ctx, a, []basilica.Digest{in}, 1, now)
	if err != nil || !fresh || h.Fence == 0 {
		t.Fatal(h, fresh, err)
	}
	if again, fresh, err := e.Accept(ctx, a, nil, 1, now); err != nil || fresh || again.Fence != h.Fence {
		t.Error(again, fresh, err)
	}
	b := a
	b.Task = "t2"
	if _, _, err := e.Accept(ctx, b, nil, 1, now); basilica.CodeOf(err) != "CONTAINERS_FULL" {
		t.Error(err)
	}
	if _, _, err := e.Accept(ctx, b, nil, 2, now); basilica.CodeOf(err) != "BUSY" {
		t.Error(err)
	}
	if open, err := e.OpenAttempts(ctx); err != nil || len(open) != 1 {
		t.Errorf("a refused attempt left a trace: %v %v", open, err)
	}
	a.Holding, a.State, a.Reason = h, basilica.TaskFailed, &basilica.Reason{Code: "X", Sentence: "y"}
	code := 3
	a.ExitCode, a.Started, a.Ended, a.Outputs = &code, now.Add(time.Second), now.Add(2*time.Second), []basilica.TaskFile{{Name: "o", Blob: basilica.Blob{SHA256: out, Size: 1}}}
	if err := e.ForgetAttempt(ctx, a.Key()); basilica.CodeOf(err) != "ATTEMPT_OPEN" {
		t.Error(err)
	}
	if err := e.SaveAttempt(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := e.SaveAttempt(ctx, a); basilica.CodeOf(err) != "ATTEMPT_ENDED" {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openExecutor(t, dir)
	defer e.Close()
	got, err := e.Attempt(ctx, a.Key())
	if err != nil || got.State != a.State || *got.ExitCode != 3 || !got.Ended.Equal(a.Ended) || got.Reason.Code != "X" || len(got.Outputs) != 1 || got.Holding.Fence != h.Fence {
		t.Errorf("%+v %v", got, err)
	}
	later := now.Add(time.Hour)
	if sums, err := e.ForgetBlobs(ctx, later); err != nil || len(sums) != 0 {
		t.Errorf("blobs in use forgotten: %v %v", sums, err)
	}
	if err := e.SawBlob(ctx, in, now.Add(time.Minute)); err != nil { // for another attempt that is yet to come
		t.Error(err)
	}
	if err := e.ForgetAttempt(ctx, a.Key()); err != nil {
		t.Error(err)
	}
	if sums, err := e.ForgetBlobs(ctx, now); err != nil || len(sums) != 1 || sums[0] != out {
		t.Errorf("at once: %v %v", sums, err)
	}
	if sums, err := e.ForgetBlobs(ctx, later); err != nil || len(sums) != 1 || sums[0] != in {
		t.Errorf("later: %v %v", sums, err)
	}
	if _, err := e.Attempt(ctx, a.Key()); basilica.CodeOf(err) != "ATTEMPT_UNKNOWN" {
		t.Error(err)
	}
}
