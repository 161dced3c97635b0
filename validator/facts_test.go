package validator

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basilica"
)

// telling is a session with a machine that says one thing.
type telling struct {
	Session
	text string
}

func (s telling) Subsystem(context.Context, string) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, s.text) // the validator hangs up on who says too much
	}()
	return ours, nil
}

// TestFactsAreBounded: a few bytes of a machine's word may stand for much memory, which is held until the round ends and stored for
// long. What an honest machine says stays whole.
func TestFactsAreBounded(t *testing.T) {
	w := newWorld(t)
	memory, mbps := uint64(141<<30), int64(400_000)
	honest := basilica.Facts{Hostname: "h", OS: "Ubuntu 24.04.1 LTS", Kernel: "6.8.0-49-generic", BootID: "6a1d", CPUModel: "Intel(R) Xeon(R) Platinum 8480C", CPUs: 224, Engine: "docker", Version: "v1", GPUs: []basilica.GPU{}}
	for i := range 16 {
		honest.GPUs = append(honest.GPUs, basilica.GPU{
			Index: i, Kind: basilica.GPUWhole, UUID: fmt.Sprintf("6fbb6b2f-0c8b-4f6c-9d7b-0000000000%02d", i), Model: "NVIDIA H200", MemoryBytes: &memory, PCI: "0000:19:00.0",
			Driver: "NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs-builder@U22-I3-AE18-09-6)",
		})
	}
	for i := range 32 {
		honest.Network = append(honest.Network, basilica.Iface{Name: fmt.Sprint("veth", i), Addrs: []string{"10.0.0.1/8", "fe80::42:acff:fe11:2/64", "2001:db8:85a3:8d3:1319:8a2e:370:7348/64"}, Mbps: &mbps})
	}
	for i := range 64 {
		honest.Findings = append(honest.Findings, basilica.Reason{Code: fmt.Sprint("FINDING_", i), Sentence: strings.Repeat("x", 300), Fix: "look"})
	}
	text, err := json.Marshal(honest)
	if err != nil {
		t.Fatal(err)
	}
	many := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	for _, c := range []struct {
		name, text, reason string
		whole              bool
	}{
		{"an honest machine", string(text), "PASS", true},
		{"GPUs", `{"gpus":[` + many(`{}`, 20000) + `]}`, "PASS", false},
		{"interfaces", `{"network":[` + many(`{}`, 20000) + `]}`, "PASS", false},
		{"addresses", `{"network":[{"addrs":[` + many(`""`, 20000) + `]}]}`, "PASS", false},
		{"findings", `{"findings":[` + many(`{}`, 20000) + `]}`, "PASS", false},
		{"texts", `{"hostname":"` + strings.Repeat("h", 20000) + `","gpus":[{"kind":"` + strings.Repeat("k", 20000) + `"}],"network":[{"addrs":["` + strings.Repeat("a", 20000) + `"]}]}`, "PASS", false},
		{"bytes", `{"gpus":[` + many(`{}`, 30000) + `]}`, "ANSWER_SIZE", false},
	} {
		var out basilica.Verification
		d := w.v.facts(t.Context(), telling{text: c.text}, &out)
		if d.Reason != c.reason || (out.Facts != nil) != (c.reason == "PASS") {
			t.Errorf("%s: %+v, facts: %t", c.name, d, out.Facts != nil)
			continue
		}
		switch f := out.Facts; {
		case f == nil:
		case c.whole:
			if diff := cmp.Diff(honest, *f); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		default:
			kept, err := json.Marshal(f)
			if err != nil || len(kept) > 16<<10 || max(cap(f.GPUs), cap(f.Network), cap(f.Findings)) > 2*maxFactsList {
				t.Errorf("%s: %d bytes are stored, %d, %d, %d places held, %v", c.name, len(kept), cap(f.GPUs), cap(f.Network), cap(f.Findings), err)
			}
		}
	}
}
