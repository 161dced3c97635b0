package basilica_test

import (
	"testing"
	"time"

	"basilica"
	"basilica/keys"
)

// FuzzOccupancy: whatever a miner sends, only what this miner signed opens.
func FuzzOccupancy(f *testing.F) {
	miner, err := keys.FromURI(keys.Ed25519, "//Bob")
	if err != nil {
		f.Fatal(err)
	}
	good, err := basilica.SignOccupancy(basilica.Occupancy{Task: "t", Executor: "box", State: basilica.TaskSucceeded, Started: time.Unix(1, 0).UTC()}, miner)
	if err != nil {
		f.Fatal(err)
	}
	hotkey := basilica.Hotkey(miner.SS58())
	if o, err := good.Open(hotkey); err != nil || o.Task != "t" {
		f.Fatal(o, err)
	}
	f.Add(good.Payload, good.Signature)
	f.Add([]byte(`{"version":1}`), make([]byte, 64))
	f.Fuzz(func(t *testing.T, payload, signature []byte) {
		o, err := basilica.SignedOccupancy{Payload: payload, Signature: signature}.Open(hotkey)
		if err == nil && (o.Miner != hotkey || o.Version != 1 || string(payload) != string(good.Payload)) {
			t.Fatalf("%+v", o)
		}
	})
}
