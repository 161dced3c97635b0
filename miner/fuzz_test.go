package miner

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(`{"image":"busybox","command":["true"],"gpus":1}`))
	f.Add([]byte(`{"image":"i","env":{"A":"b"},"inputs":[{"name":"a","sha256":"` + string(bytes.Repeat([]byte("0"), 64)) + `","size":1}]}`))
	f.Add([]byte(`{"image":"i"}{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		spec, err := parseSpec(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > 64<<10 { // escapes may lengthen a spec that was just within the cap
			return
		}
		if _, err := parseSpec(again); err != nil {
			t.Fatalf("%s was taken, %s is not: %v", raw, again, err)
		}
	})
}
