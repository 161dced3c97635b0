package executor

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"basilica"
	"basilica/internal/provoke"
)

// TestToolkitGate: while the toolkit lets containers out, no task gets a real GPU and the machine says why; software devices and
// tasks without a GPU are not concerned.
func TestToolkitGate(t *testing.T) {
	var closed atomic.Bool
	closed.Store(true)
	var asked atomic.Int64
	b := newBox(t, func(c *Config) {
		c.GPUs = []basilica.GPU{{Kind: basilica.GPUWhole, UUID: "real"}, {Kind: basilica.GPUSoftware, UUID: "soft", Index: 1}}
		c.GPUsRefused = func(context.Context) error {
			asked.Add(1)
			if closed.Load() {
				return basilica.E(basilica.Unavailable, "TOOLKIT_ESCAPE", "the toolkit lets a container out", "install a newer one")
			}
			return nil
		}
	})
	_, err := b.execute("real", b.spec(func(s *basilica.TaskSpec) { s.GPUs = 1 }, "true"))
	provoke.Refused(t, err, "TOOLKIT_ESCAPE")
	if basilica.KindOf(err) != basilica.Unavailable {
		t.Errorf("its kind is %v: the miner would not look for another machine", basilica.KindOf(err))
	}
	_, err = b.execute("both", b.spec(func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 2, true }, "true"))
	provoke.Refused(t, err, "TOOLKIT_ESCAPE")
	health := func() (codes []string) {
		h, err := b.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range h.Reasons {
			codes = append(codes, r.Code)
		}
		return codes
	}
	if codes := health(); !slices.Contains(codes, "TOOLKIT_ESCAPE") {
		t.Errorf("the machine says %v", codes)
	}
	for task, change := range map[string]func(*basilica.TaskSpec){
		"soft": func(s *basilica.TaskSpec) { s.GPUs, s.AllowSoftware = 1, true },
		"none": nil,
	} {
		h, err := b.execute(task, b.spec(change, "true"))
		if err != nil || slices.Contains(h.GPUs, "real") {
			t.Errorf("%s: %+v, %v", task, h, err)
		}
		if _, _, last := b.watch(t, task, 0); last.State != basilica.TaskSucceeded {
			t.Errorf("%s: %+v", task, last)
		}
	}
	closed.Store(false)
	if codes := health(); len(codes) > 0 || asked.Load() == 0 {
		t.Errorf("after the mending: %v", codes)
	}
	b.cfg.GPUs = b.cfg.GPUs[1:]
	if soft, err := New(b.cfg); err != nil || soft.gpusRefused(t.Context()) != nil {
		t.Error("a machine of software devices alone asks for the toolkit", err)
	}
	b.leavesNothing(t)
}
