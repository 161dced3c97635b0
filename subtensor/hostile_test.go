package subtensor

import (
	"context"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
)

// hostile is a node whose storage and runtime APIs answer whatever the fuzzer wants.
type hostile struct {
	*ledger
	mu   sync.Mutex
	data []byte
}

func (h *hostile) say(data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data = data
}

// Storage answers every key with another part of the same bytes; of some it has none.
func (h *hostile) Storage(_ basilica.Hash, key []byte) ([]byte, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.data) == 0 {
		return nil, false, nil
	}
	at := 0
	for _, b := range key {
		at = at*31 + int(b)
	}
	at &= 0xffff
	return h.data[at%len(h.data):], at%7 != 0, nil
}

func (h *hostile) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	if method == "Core_version" {
		return h.ledger.CallAPI(at, method, args)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.data, nil
}

// FuzzHostileAnswers: whatever a node answers about its state, the client gives a result of the right form or an error.
func FuzzHostileAnswers(f *testing.F) {
	var apis struct {
		Calls []struct {
			Method string
			Output hexBytes
		}
	}
	vectors.JSON(f, "subtensor425/decoding/runtime_apis.json.gz", &apis)
	for _, c := range apis.Calls {
		if c.Method == "SubnetInfoRuntimeApi_get_metagraph" || c.Method == "SubnetInfoRuntimeApi_get_subnet_state" {
			f.Add([]byte(c.Output))
		}
	}
	f.Add([]byte{})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0, 4, 4, 4, 4, 1, 1, 1, 1})
	l := newLedger(f, speak(f, 425, nil))
	h := &hostile{ledger: l}
	client, _, stop := serveNode(f, h, l, ServerConfig{})
	f.Cleanup(stop)
	client.runtimes[l.runtime.spec] = &runtimeVersion{spec: l.runtime.spec, tx: 1, words: l.runtime.words}
	hotkey := ledgerKey(f, "//Bob//hot")
	f.Fuzz(func(t *testing.T, data []byte) {
		h.say(data)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if m, err := client.Metagraph(ctx, ledgerSubnet); err == nil {
			for i, n := range m.Neurons {
				if int(n.UID) != i || len(n.Axon.TLSKey)%64 != 0 {
					t.Fatalf("neuron %d: %+v", i, n)
				}
			}
		}
		_, _ = client.Weights(ctx, ledgerSubnet, 0) // only that they return
		for _, kind := range []basilica.CommitKind{basilica.CommitSalt, basilica.CommitTimelock} {
			c, err := client.FollowCommit(ctx, ledgerSubnet, basilica.Hotkey(hotkey.SS58()), basilica.WeightCommit{Kind: kind, Round: 9, Epoch: 1}, commitWeights)
			if err == nil && c.State == "" {
				t.Fatalf("a commit without a state: %+v", c)
			}
		}
		p, err := client.PlanWeights(ctx, Target{NetUID: ledgerSubnet}, hotkey, commitWeights, 0)
		if err == nil && p.Call() == "" {
			t.Fatalf("a plan without a call: %+v", p)
		}
	})
}
