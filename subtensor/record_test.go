package subtensor_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/subtensor"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// record is one block of the real runtime of spec 425, as it was recorded.
type record struct {
	head     basilica.Header
	genesis  basilica.Hash
	header   pallet.Header
	storage  map[string][]byte
	answers  map[string][]byte
	metadata []byte

	mu    sync.Mutex // guards what follows
	spec  uint32     // answered instead of the recorded one, where not 0
	asked int        // times that metadata was asked for
	calls []string   // runtime APIs that were called
	bare  bool       // none but the standard runtime APIs is answered
}

func (r *record) Head() basilica.Header { return r.head }

func (r *record) Finalized() basilica.Header { return r.head }

func (r *record) NextFinalized(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error) {
	return r.NextHead(ctx, after)
}

func (r *record) NextHead(ctx context.Context, _ basilica.BlockNumber) (basilica.Header, error) {
	<-ctx.Done()
	return basilica.Header{}, ctx.Err()
}

func (r *record) BlockHash(n basilica.BlockNumber) (basilica.Hash, bool) {
	switch n {
	case 0:
		return r.genesis, true
	case r.head.Number:
		return r.head.Hash, true
	}
	return basilica.Hash{}, false
}

func (r *record) Block(at basilica.Hash) (pallet.Header, [][]byte, bool) {
	return r.header, nil, at == r.head.Hash
}

func (r *record) Storage(_ basilica.Hash, key []byte) ([]byte, bool, error) {
	v, ok := r.storage[string(key)]
	return v, ok, nil
}

func (r *record) StorageKeys(basilica.Hash, []byte, []byte, int) ([][]byte, error) { return nil, nil }

func (r *record) CallAPI(_ basilica.Hash, method string, args []byte) ([]byte, error) {
	if method == "Metadata_metadata_at_version" && bytes.Equal(args, scale.AppendU32(nil, 15)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked++
		return scale.AppendBytes([]byte{1}, r.metadata), nil
	}
	r.mu.Lock()
	r.calls = append(r.calls, method)
	hidden := r.bare && strings.HasPrefix(method, "Subnet")
	r.mu.Unlock()
	if answer, ok := r.answers[method+hex.EncodeToString(args)]; ok && !hidden {
		if method == "Core_version" {
			return r.version(answer), nil
		}
		return answer, nil
	}
	return nil, fmt.Errorf("%s was not recorded", method)
}

// version changes the spec version, which follows two names and one number.
func (r *record) version(answer []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spec == 0 {
		return answer
	}
	in := scale.NewReader(answer)
	in.Text()
	in.Text()
	in.U32()
	at := in.Pos()
	return append(scale.AppendU32(bytes.Clone(answer[:at]), r.spec), answer[at+4:]...)
}

func (r *record) Submit([]byte, func(string, basilica.Hash)) (basilica.Hash, error) {
	return basilica.Hash{}, fmt.Errorf("a record takes no extrinsics")
}
func (r *record) Pending() [][]byte         { return nil }
func (r *record) NextIndex([32]byte) uint32 { return 0 }

func readRecord(t *testing.T) (r *record, netuid basilica.NetUID) {
	t.Helper()
	r = &record{storage: map[string][]byte{}, answers: map[string][]byte{}, metadata: vectors.Read(t, "subtensor425/decoding/metadata-v15.scale")}
	var chain struct {
		BlockHash basilica.Hash
		GetHeader struct {
			ParentHash, StateRoot, ExtrinsicsRoot basilica.Hash
			Number                                string
			Digest                                struct{ Logs []string }
		} `json:"chain_getHeader"`
		Genesis basilica.Hash `json:"chain_getBlockHash_0"`
	}
	vectors.JSON(t, "subtensor425/decoding/chain.json", &chain)
	h := chain.GetHeader
	number, err := strconv.ParseUint(strings.TrimPrefix(h.Number, "0x"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	r.header = pallet.Header{Parent: h.ParentHash, Number: number, StateRoot: h.StateRoot, ExtrinsicsRoot: h.ExtrinsicsRoot}
	for _, l := range h.Digest.Logs {
		r.header.Digest = append(r.header.Digest, unhex(t, l))
	}
	r.genesis = chain.Genesis
	r.head = basilica.Header{Number: basilica.BlockNumber(number), Hash: chain.BlockHash, Parent: h.ParentHash}
	var storage struct {
		NetUID basilica.NetUID
		Items  []struct{ Key, Raw string }
	}
	vectors.JSON(t, "subtensor425/decoding/storage.json.gz", &storage)
	for _, item := range storage.Items {
		r.storage[string(unhex(t, item.Key))] = unhex(t, item.Raw)
	}
	var apis struct {
		Calls []struct{ Method, Input, Output string }
	}
	vectors.JSON(t, "subtensor425/decoding/runtime_apis.json.gz", &apis)
	for _, c := range apis.Calls {
		r.answers[c.Method+strings.TrimPrefix(c.Input, "0x")] = unhex(t, c.Output)
	}
	return r, storage.NetUID
}

// serveRecord puts a record behind a server and gives a client of it.
func serveRecord(t *testing.T, rec *record) (context.Context, *subtensor.Client) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := subtensor.NewServer(rec, rec, subtensor.ServerConfig{}, quiet()).Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	client := subtensor.New(subtensor.Config{URL: "ws://" + ln.Addr().String()}, quiet())
	t.Cleanup(func() { client.Close(); cancel(); wg.Wait() })
	return ctx, client
}

// TestMetadataIsReadAgainAfterAnUpgrade changes the spec version under a
// client that is connected.
func TestMetadataIsReadAgainAfterAnUpgrade(t *testing.T) {
	rec, netuid := readRecord(t)
	ctx, client := serveRecord(t, rec)
	for i, c := range []struct {
		spec  uint32
		asked int
	}{{0, 1}, {0, 1}, {426, 2}, {426, 2}} {
		rec.mu.Lock()
		rec.spec = c.spec
		rec.mu.Unlock()
		if _, err := client.Weights(ctx, netuid, 0); err != nil {
			t.Fatal(err)
		}
		rec.mu.Lock()
		if rec.asked != c.asked {
			t.Errorf("step %d: metadata asked for %d times, want %d", i, rec.asked, c.asked)
		}
		rec.mu.Unlock()
	}
}

// TestMetagraph425Vectors asks the recorded runtime for its metagraph, and once more through the storage alone: both say what
// the record says.
func TestMetagraph425Vectors(t *testing.T) {
	rec, netuid := readRecord(t)
	ctx, client := serveRecord(t, rec)
	asked, err := client.Metagraph(ctx, netuid)
	if err != nil {
		t.Fatal(err)
	}
	compareMetagraph(t, rec, netuid, asked)
	rec.mu.Lock()
	if !slices.Contains(rec.calls, "SubnetInfoRuntimeApi_get_metagraph") {
		t.Errorf("runtime APIs called: %v", rec.calls)
	}
	rec.bare = true
	rec.mu.Unlock()
	read, err := client.Metagraph(ctx, netuid)
	if err != nil {
		t.Fatal(err)
	}
	compareMetagraph(t, rec, netuid, read)
	if !reflect.DeepEqual(asked, read) {
		t.Errorf("by the runtime's API:\n%+v\nby the storage:\n%+v", asked, read)
	}
	t.Logf("metagraph of %d neurons by both ways", len(read.Neurons))
}

func compareMetagraph(t *testing.T, rec *record, netuid basilica.NetUID, m *basilica.Metagraph) {
	t.Helper()
	want := wantMetagraph(t, rec, netuid)
	if m.Block != basilica.BlockNumber(want.number("block")) || m.Genesis != rec.genesis || m.BlockHash != rec.head.Hash ||
		uint64(m.Tempo) != want.number("tempo") || uint64(m.Burn) != want.number("burn") ||
		m.WeightsRateLimit != want.number("weights_rate_limit") || m.WeightsVersion != want.number("weights_version") ||
		m.CommitReveal != want.get("commit_reveal_weights_enabled").(bool) ||
		string(m.OwnerHotkey) != want.ss58(want.get("owner_hotkey")) || string(m.OwnerColdkey) != want.ss58(want.get("owner_coldkey")) {
		t.Errorf("subnet %+v", m)
	}
	if len(m.Neurons) < 3 || len(m.Neurons) != len(want.get("hotkeys").([]any)) {
		t.Fatalf("%d neurons", len(m.Neurons))
	}
	for i, n := range m.Neurons {
		addr := want.axon(i)
		if string(n.Hotkey) != want.ss58(want.at("hotkeys", i)) || string(n.Coldkey) != want.ss58(want.at("coldkeys", i)) ||
			n.Active != want.at("active", i).(bool) || n.ValidatorPermit != want.at("validator_permit", i).(bool) ||
			uint64(n.Incentive) != want.at("incentives", i).(uint64) || uint64(n.Dividends) != want.at("dividends", i).(uint64) ||
			uint64(n.LastUpdate) != want.at("last_update", i).(uint64) || uint64(n.RegisteredAt) != want.at("block_at_registration", i).(uint64) ||
			uint64(n.Stake) != want.at("total_stake", i).(uint64) || n.Axon.Addr != addr {
			t.Errorf("neuron %d: %+v, axon %v", i, n, addr)
		}
	}
}

// metagraphAnswer is the decoded answer of get_metagraph.
type metagraphAnswer struct {
	t *testing.T
	s scale.Struct
}

func wantMetagraph(t *testing.T, rec *record, netuid basilica.NetUID) *metagraphAnswer {
	t.Helper()
	meta, err := scale.DecodeMetadata(rec.metadata)
	if err != nil {
		t.Fatal(err)
	}
	words, err := pallet.New(meta)
	if err != nil {
		t.Fatal(err)
	}
	method, ok := words.APIMethod("SubnetInfoRuntimeApi", "get_metagraph")
	if !ok {
		t.Fatal("no get_metagraph")
	}
	answer := rec.answers["SubnetInfoRuntimeApi_get_metagraph"+hex.EncodeToString(scale.AppendU16(nil, uint16(netuid)))]
	v, err := words.Registry().DecodeAll(answer, method.Output)
	if err != nil {
		t.Fatal(err)
	}
	return &metagraphAnswer{t, v.(scale.Struct)}
}

func (a *metagraphAnswer) get(name string) any {
	a.t.Helper()
	v, ok := a.s.Get(name)
	if !ok {
		a.t.Fatalf("get_metagraph has no %s", name)
	}
	return v
}

func (a *metagraphAnswer) number(name string) uint64 { return a.get(name).(uint64) }
func (a *metagraphAnswer) at(name string, i int) any { return a.get(name).([]any)[i] }
func (a *metagraphAnswer) ss58(v any) string         { return keys.EncodeSS58([32]byte(v.([]byte))) }

func (a *metagraphAnswer) axon(i int) netip.AddrPort {
	s := a.at("axons", i).(scale.Struct)
	ip, _ := s.Get("ip")
	port, _ := s.Get("port")
	kind, _ := s.Get("ip_type")
	n := ip.(*big.Int)
	if n.Sign() == 0 {
		return netip.AddrPort{}
	}
	b := make([]byte, 4)
	if kind.(uint64) == 6 {
		b = make([]byte, 16)
	}
	addr, ok := netip.AddrFromSlice(n.FillBytes(b))
	if !ok {
		a.t.Fatalf("axon %d", i)
	}
	return netip.AddrPortFrom(addr, uint16(port.(uint64)))
}
