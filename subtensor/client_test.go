package subtensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/pallet"
	"basilica/scale"
)

func words425(t testing.TB) *pallet.Runtime {
	t.Helper()
	m, err := scale.DecodeMetadata(vectors.Read(t, "subtensor425/decoding/metadata-v15.scale"))
	if err != nil {
		t.Fatal(err)
	}
	words, err := pallet.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return words
}

// TestNodeKeysStaySecret: neither errors nor logs repeat what a provider's URL holds beside the host.
func TestNodeKeysStaySecret(t *testing.T) {
	for _, node := range []string{"ws://user:s3cret@127.0.0.1:1/s3cret?apikey=s3cret", "ws://127.0.0.1:1/%zzs3cret"} {
		var lines bytes.Buffer
		c := New(Config{URL: node, ConnectTimeout: 100 * time.Millisecond}, slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})))
		_, err := c.Genesis(t.Context())
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", node, err)
		}
		if strings.Contains(lines.String(), "s3cret") {
			t.Errorf("%s is in the log: %s", node, lines.String())
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPoolErrors(t *testing.T) {
	for _, c := range []struct {
		code int
		data string
		want string
		kind basilica.Kind
	}{
		{1010, `"Custom error: 6"`, "Pool.RateLimitExceeded", basilica.Exhausted},
		{1010, `"Custom error: 10"`, "Pool.HotKeyNotRegisteredInNetwork", basilica.NotFound},
		{1010, `"Custom error: 11"`, "Pool.InvalidIpAddress", basilica.Invalid},
		{1010, `"Custom error: 1"`, "Pool.StakeAmountTooLow", basilica.Exhausted},
		{1010, `"Custom error: 255"`, "Pool.BadRequest", basilica.Invalid},
		{1010, `"Transaction is outdated"`, codeStale, basilica.Conflict},
		{1010, `"Transaction will be valid in the future"`, codeFuture, basilica.Conflict},
		{1010, `"Transaction has a bad signature"`, "Pool.BadProof", basilica.Denied},
		{1010, `"Inability to pay some fees (e.g. account balance too low)"`, "Pool.Payment", basilica.Exhausted},
		{1010, `{"surprise":1}`, "Pool.Invalid", basilica.Invalid},
		{1014, `"x"`, "Pool.TooLowPriority", basilica.Unavailable},
		{1002, `"x"`, "CHAIN_REFUSED", basilica.Unavailable},
	} {
		err := poolError(&rpcError{Code: c.code, Message: "Invalid Transaction", Data: json.RawMessage(c.data)})
		if basilica.CodeOf(err) != c.want || basilica.KindOf(err) != c.kind {
			t.Errorf("%d %s: %v %v", c.code, c.data, basilica.KindOf(err), err)
		}
	}
	for n := range 256 { // whatever the pool says has a next step
		err := poolError(&rpcError{Code: 1010, Message: "Invalid Transaction", Data: json.RawMessage(fmt.Sprintf(`"Custom error: %d"`, n))})
		if name := pallet.PoolError(uint8(n)); name != "Unknown" && (basilica.CodeOf(err) != "Pool."+name || basilica.FixOf(err) == "") {
			t.Errorf("%d: %v, fix %q", n, err, basilica.FixOf(err))
		}
	}
	other := errors.New("x")
	if poolError(other) != other {
		t.Error("an error that is not the node's changes")
	}
}

func TestDispatchErrors(t *testing.T) {
	words := words425(t)
	err := dispatchError(words.ModuleError(7, 15))
	if basilica.CodeOf(err) != "SubtensorModule.NeuronNoValidatorPermit" || basilica.KindOf(err) != basilica.Denied || basilica.FixOf(err) == "" {
		t.Errorf("%v %v", basilica.KindOf(err), err)
	}
	var d *pallet.DispatchError
	if !errors.As(err, &d) {
		t.Error("the cause is lost")
	}
}

// TestAxonRoundTrip writes an axon as a call and reads it as the chain stores
// it.
func TestAxonRoundTrip(t *testing.T) {
	words := words425(t)
	key := make([]byte, 64)
	key[0], key[63] = 7, 9
	for _, addr := range []string{"127.0.0.2:8091", "203.0.113.9:1", "[2001:db8::5]:65535", "[::ffff:10.1.2.3]:80"} {
		axon := basilica.Axon{Addr: netip.MustParseAddrPort(addr), Version: 3, Protocol: 4, TLSKey: key}
		args, err := axonArgs(39, axon)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := words.Call("SubtensorModule", "serve_axon_tls", args); err != nil {
			t.Fatal(err)
		}
		stored, err := words.EncodeStorage("SubtensorModule", "Axons", map[string]any{
			"block": 5, "version": args["version"], "ip": args["ip"], "port": args["port"], "ip_type": args["ip_type"],
			"protocol": args["protocol"], "placeholder1": 0, "placeholder2": 0,
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := words.DecodeStorage("SubtensorModule", "Axons", stored)
		if err != nil {
			t.Fatal(err)
		}
		var p picker
		got := p.axon(v)
		want := netip.AddrPortFrom(axon.Addr.Addr().Unmap(), axon.Addr.Port())
		if p.err != nil || got.Addr != want || got.Version != 3 || got.Protocol != 4 || got.Block != 5 {
			t.Errorf("%s: %+v %v", addr, got, p.err)
		}
		cert := scale.Struct{{Name: "public_key", Value: key}, {Name: "algorithm", Value: uint64(1)}}
		if b := p.certificate(cert); len(b) != 64 || p.err != nil {
			t.Errorf("certificate %x %v", b, p.err)
		}
		cert[1].Value = uint64(2)
		if b := p.certificate(cert); b != nil {
			t.Error("a key of an unknown algorithm is taken")
		}
	}
	for name, axon := range map[string]basilica.Axon{
		"no address": {},
		"no port":    {Addr: netip.MustParseAddrPort("1.2.3.4:0")},
		"short key":  {Addr: netip.MustParseAddrPort("1.2.3.4:5"), TLSKey: []byte{1}},
	} {
		if _, err := axonArgs(39, axon); basilica.KindOf(err) != basilica.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAddress(t *testing.T) {
	if address(new(big.Int).Lsh(big.NewInt(1), 40), false).IsValid() {
		t.Error("a version 4 address of 40 bits is valid")
	}
}

func TestStatus(t *testing.T) {
	h := `"0x1111111111111111111111111111111111111111111111111111111111111111"`
	for _, c := range []struct {
		raw, last     string
		final, failed bool
	}{
		{`"ready"`, "", false, false},
		{`"future"`, "", false, false},
		{`{"broadcast":[]}`, "", false, false},
		{`{"inBlock":` + h + `}`, "", false, false},
		{`{"retracted":` + h + `}`, "", false, false},
		{`{"finalityTimeout":` + h + `}`, "finalityTimeout", false, false},
		{`{"finalized":` + h + `}`, "", true, false},
		{`{"usurped":` + h + `}`, "usurped", false, false},
		{`"dropped"`, "dropped", false, false},
		{`"invalid"`, "invalid", false, false},
		{`{"finalized":1}`, "", false, true},
	} {
		final, last, err := readStatus(json.RawMessage(c.raw))
		if (final != nil) != c.final || last != c.last || (err != nil) != c.failed {
			t.Errorf("%s: %v %q %v", c.raw, final, last, err)
		}
	}
}

// FuzzDeliver feeds a connection what a hostile node may send.
func FuzzDeliver(f *testing.F) {
	f.Add([]byte(`{"id":1,"result":"0x01"}`))
	f.Add([]byte(`{"id":2,"error":{"code":1,"message":"m","data":{"a":1}}}`))
	f.Add([]byte(`{"params":{"subscription":"s","result":{"finalized":"0x"}}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := &conn{calls: map[uint64]*pending{}, subs: map[string]*subscription{}, orphans: map[string][]json.RawMessage{}}
		c.calls[1] = &pending{answer: make(chan message, 1)}
		c.calls[2] = &pending{answer: make(chan message, 1), sub: &subscription{conn: c, ch: make(chan json.RawMessage, 1)}}
		var m message
		if json.Unmarshal(data, &m) != nil {
			return
		}
		for range 3 {
			c.deliver(m)
		}
		var j jsonHeader
		if json.Unmarshal(m.Result, &j) == nil {
			_ = j.header()
		}
		_, _, _ = readStatus(m.Result)
		if m.Error != nil {
			_ = poolError(m.Error)
		}
	})
}
