package localnet

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"basilica/internal/vectors"
	"basilica/scale"
)

// apiPointsLeftOut are recorded answers that are not compared, with the reason.
var apiPointsLeftOut = map[string]string{
	"SubnetInfoRuntimeApi_get_subnet_to_prune": "no client asks for it, and localnet dissolves no subnets",
	"ProxyFilterRuntimeApi_get_proxy_types":    "no client asks for it",
	"ProxyFilterRuntimeApi_get_proxy_filter":   "no client asks for it",
	"Core_version":                             "names the APIs that a runtime has, and localnet has those that clients ask; see TestVersionNamesAPIs",
}

// rawHex is "0x.." in JSON.
type rawHex []byte

func (h *rawHex) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(strings.TrimPrefix(string(b), "0x"))
	*h = raw
	return err
}

// recordedState is the whole state of the chain that the answers of decoding/ were recorded on.
func recordedState(t *testing.T) reader {
	t.Helper()
	var record struct {
		Items []struct{ Key, Raw rawHex }
	}
	vectors.JSON(t, "subtensor425/decoding/storage.json.gz", &record)
	changes := map[string][]byte{}
	for _, i := range record.Items {
		changes[string(i.Key)] = append([]byte{}, i.Raw...)
	}
	h := newHistory(0)
	h.apply(0, changes)
	return past{h, 0}
}

// TestRuntimeAPIsVector asks every recorded question on the recorded state, and compares the answers byte for byte.
func TestRuntimeAPIsVector(t *testing.T) {
	t.Parallel()
	state := recordedState(t)
	var record struct {
		Calls []struct {
			Method        string
			Input, Output rawHex
		}
	}
	vectors.JSON(t, "subtensor425/decoding/runtime_apis.json.gz", &record)
	rt, err := newRuntime(12000)
	if err != nil {
		t.Fatal(err)
	}
	compared, left := map[string]int{}, map[string]bool{}
	for _, c := range record.Calls {
		if apiPointsLeftOut[c.Method] != "" {
			left[c.Method] = true
			continue
		}
		got, err := rt.callAPI(state, c.Method, c.Input)
		if err != nil {
			t.Errorf("%s: %v", c.Method, err)
			continue
		}
		trait, _, _ := strings.Cut(c.Method, "_")
		compared[trait]++
		if !bytes.Equal(got, c.Output) {
			t.Errorf("%s %x:\n got %s\nwant %s", c.Method, []byte(c.Input), rt.spelled(t, c.Method, got), rt.spelled(t, c.Method, c.Output))
		}
	}
	for method, reason := range apiPointsLeftOut {
		if !left[method] {
			t.Errorf("%s is left out because %s, and nobody recorded it", method, reason)
		}
	}
	t.Logf("answers compared: %v", compared)
}

// spelled is an answer decoded by localnet's own metadata.
func (rt *runtime) spelled(t *testing.T, method string, raw []byte) string {
	t.Helper()
	meta, err := scale.DecodeMetadata(rt.v15)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := scale.NewRegistry(meta.Types)
	if err != nil {
		t.Fatal(err)
	}
	trait, name, _ := strings.Cut(method, "_")
	v, err := reg.DecodeAll(raw, apiMethodOf(meta, trait, name).Output)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%v", v)
}

// TestVersionNamesAPIs holds the version's list of APIs against the recorded one: what is in both has one version.
func TestVersionNamesAPIs(t *testing.T) {
	t.Parallel()
	rt, err := newRuntime(12000)
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		Calls []struct {
			Method string
			Output rawHex
		}
	}
	vectors.JSON(t, "subtensor425/decoding/runtime_apis.json.gz", &record)
	at := slices.IndexFunc(record.Calls, func(c struct {
		Method string
		Output rawHex
	},
	) bool {
		return c.Method == "Core_version"
	})
	if at < 0 {
		t.Fatal("nobody recorded Core_version")
	}
	for _, a := range rt.apis {
		want := append(apiID(a.name), byte(a.version))
		if a.name != "BetaBasketRuntimeApi" && !bytes.Contains(record.Calls[at].Output, want) {
			t.Errorf("%s is not version %d", a.name, a.version)
		}
	}
}
