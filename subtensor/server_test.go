package subtensor_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"basilica"
	"basilica/keys"
	"basilica/localnet"
	"basilica/pallet"
	"basilica/scale"
	"basilica/subtensor"
)

// served is a chain with its server on a loopback port.
type served struct {
	chain *localnet.Chain
	addr  string
}

// serve starts a server over a chain that seals every 20 ms, or never by itself where manual is set.
func serve(t *testing.T, manual bool, cfg subtensor.ServerConfig) served {
	t.Helper()
	chain, err := localnet.New(localnet.Config{BlockTime: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := subtensor.NewServer(chain, chain, cfg, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- server.Serve(ctx, ln) }()
	if manual {
		done <- nil
	} else {
		go func() { done <- chain.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	})
	return served{chain, ln.Addr().String()}
}

// post sends one JSON-RPC message over HTTP and returns the body.
func (s served) post(t *testing.T, message string) string {
	t.Helper()
	resp, err := http.Post("http://"+s.addr, "application/json", strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestServerOverHTTP(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{MaxBatch: 3})
	first, err := s.chain.Seal()
	if err != nil {
		t.Fatal(err)
	}
	genesis, head := s.chain.Genesis().String(), first.Hash.String()
	for _, c := range []struct{ ask, want string }{
		{`{"jsonrpc":"2.0","id":"sZ1","method":"chain_getBlockHash","params":[0]}`, `{"jsonrpc":"2.0","result":"` + genesis + `","id":"sZ1"}`},
		{`{"method":"chain_getBlockHash","params":[[0,"0x1",2]],"jsonrpc":"2.0","id":7}`, `{"jsonrpc":"2.0","result":["` + genesis + `","` + head + `",null],"id":7}`},
		{`{"jsonrpc":"2.0","id":1,"method":"chain_getHead"}`, `{"jsonrpc":"2.0","result":"` + head + `","id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"chain_getHeader","params":["0x` + strings.Repeat("00", 32) + `"]}`, `{"jsonrpc":"2.0","result":null,"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"system_properties","params":[]}`, `{"jsonrpc":"2.0","result":{"ss58Format":42,"tokenDecimals":9,"tokenSymbol":"TAO"},"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"state_call","params":["Metadata_metadata_versions",""]}`, `{"jsonrpc":"2.0","result":"0x080e0000000f000000","id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"account_nextIndex","params":["5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"]}`, `{"jsonrpc":"2.0","result":0,"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"no_such"}`, `{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"chain_subscribeNewHeads"}`, `{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found","data":"subscriptions need a WebSocket"},"id":1}`},
		{`{`, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}`},
		{`{"jsonrpc":"1.0","id":1,"method":"x"}`, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid request"},"id":null}`},
		{`[]`, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid request"},"id":null}`},
		{`[1,2,3,4]`, `{"jsonrpc":"2.0","error":{"code":-32010,"message":"The batch request was too large","data":"Exceeded max limit of 3"},"id":null}`},
		{` [{"jsonrpc":"2.0","id":1,"method":"system_chain"},{"jsonrpc":"2.0","method":"system_chain"}]`, `[{"jsonrpc":"2.0","result":"Bittensor","id":1}]`},
		{`{"jsonrpc":"2.0","id":1,"method":"state_getKeysPaged","params":["0x",5000,null,null]}`, `{"jsonrpc":"2.0","error":{"code":4002,"message":"count exceeds maximum value. value: 5000, max: 1000"},"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"state_getStorage","params":["0x00","0x` + strings.Repeat("11", 32) + `"]}`, `{"jsonrpc":"2.0","error":{"code":4003,"message":"Client error: UnknownBlock: Header was not found in the database: 0x` + strings.Repeat("11", 32) + `"},"id":1}`},
		{`{"jsonrpc":"2.0","id":1,"method":"author_submitExtrinsic","params":["0x00"]}`, `{"jsonrpc":"2.0","error":{"code":1002,"message":"Verification Error: Runtime error: Execution failed","data":"RuntimeApi(\"Execution failed\")"},"id":1}`},
	} {
		if got := s.post(t, c.ask); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.ask, got, c.want)
		}
	}
	var version struct {
		Result struct {
			SpecName    string
			SpecVersion int
			APIs        [][2]any
		}
	}
	if err := json.Unmarshal([]byte(s.post(t, `{"jsonrpc":"2.0","id":1,"method":"state_getRuntimeVersion","params":[null]}`)), &version); err != nil {
		t.Fatal(err)
	}
	if v := version.Result; v.SpecName != "node-subtensor" || v.SpecVersion != 425 || len(v.APIs) < 10 || v.APIs[0][0] != "0xdf6acb689907609b" {
		t.Errorf("version %+v", v)
	}
}

// TestServerMakesBlocksByHand: engine_createBlock is there where the chain seals by hand only, and makes exactly one
// block.
func TestServerMakesBlocksByHand(t *testing.T) {
	chain, err := localnet.New(localnet.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(cfg subtensor.ServerConfig, params string) string {
		server := subtensor.NewServer(chain, chain, cfg, slog.New(slog.DiscardHandler))
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost/",
			strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"engine_createBlock","params":`+params+`}`)))
		return w.Body.String()
	}
	if got := ask(subtensor.ServerConfig{}, `[true,true]`); !strings.Contains(got, `-32601`) {
		t.Errorf("without a way to seal: %s", got)
	}
	hand := subtensor.ServerConfig{Seal: chain.Seal}
	if got := ask(hand, `[false,true]`); !strings.Contains(got, `"code":12000,"message":"Transaction pool is empty, set create_empty to true`) {
		t.Errorf("an empty pool: %s", got)
	}
	if got := ask(hand, `[]`); !strings.Contains(got, `-32602`) {
		t.Errorf("no parameters: %s", got)
	}
	genesis := chain.Genesis().String()
	got := ask(hand, `[true,true,"`+genesis+`"]`)
	if head := chain.Head(); head.Number != 1 || !strings.Contains(got, `"hash":"`+head.Hash.String()+`"`) {
		t.Errorf("head %+v after %s", head, got)
	}
	if got := ask(hand, `[true,true,"`+genesis+`"]`); !strings.Contains(got, `"code":13000`) || chain.Head().Number != 1 {
		t.Errorf("a block beside the head: %s", got)
	}
}

func TestServerRefusesReboundHost(t *testing.T) {
	chain, err := localnet.New(localnet.Config{})
	if err != nil {
		t.Fatal(err)
	}
	server := subtensor.NewServer(chain, chain, subtensor.ServerConfig{Hosts: []string{"chain.example"}}, slog.New(slog.DiscardHandler))
	for host, want := range map[string]int{
		"127.0.0.1:9944": 200, "localhost": 200, "[::1]:9944": 200, "chain.example:9944": 200, "evil.example:9944": 403, "": 403,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"system_chain"}`))
		r.Host = host
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

// wsClient speaks raw JSON-RPC.
type wsClient struct {
	t  *testing.T
	ws *websocket.Conn
}

func (s served) dial(t *testing.T) wsClient {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://"+s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(8 << 20)
	t.Cleanup(func() { ws.CloseNow() })
	return wsClient{t, ws}
}

func (c wsClient) send(message string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(message)); err != nil {
		c.t.Fatal(err)
	}
}

func (c wsClient) read() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	_, m, err := c.ws.Read(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(m)
}

func TestServerSubscriptions(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{MaxSubscriptions: 2})
	c := s.dial(t)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"chain_subscribeFinalizedHeads"}`)
	if got := c.read(); got != `{"jsonrpc":"2.0","result":"1","id":1}` {
		t.Fatal(got)
	}
	for _, number := range []string{"0x0", "0x1", "0x2", "0x3"} {
		if number != "0x0" {
			if _, err := s.chain.Seal(); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.read(); !strings.Contains(got, `"method":"chain_finalizedHead"`) || !strings.Contains(got, `"number":"`+number+`"`) {
			t.Fatalf("head %s: %s", number, got)
		}
	}
	timestamp := "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb"
	c.send(`{"jsonrpc":"2.0","id":2,"method":"state_subscribeStorage","params":[["` + timestamp + `"]]}`)
	if got := c.read(); got != `{"jsonrpc":"2.0","result":"2","id":2}` {
		t.Fatal(got)
	}
	if got := c.read(); !strings.Contains(got, `"method":"state_storage"`) || !strings.Contains(got, timestamp) {
		t.Fatal(got)
	}
	c.send(`{"jsonrpc":"2.0","id":3,"method":"state_subscribeRuntimeVersion"}`)
	if got := c.read(); !strings.Contains(got, `"code":-32006`) {
		t.Fatalf("third subscription: %s", got)
	}
	for id, want := range map[string]string{"1": "true", "9": "false"} {
		c.send(`{"jsonrpc":"2.0","id":4,"method":"chain_unsubscribeFinalizedHeads","params":["` + id + `"]}`)
		if got := c.read(); got != `{"jsonrpc":"2.0","result":`+want+`,"id":4}` {
			t.Fatalf("unsubscribe %s: %s", id, got)
		}
	}
}

func TestServerCaps(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{MaxConnections: 1, MaxMessage: 100})
	c := s.dial(t)
	if _, resp, err := websocket.Dial(t.Context(), "ws://"+s.addr, nil); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("second connection: %v", err)
	}
	long := `{"jsonrpc":"2.0","id":1,"method":"` + strings.Repeat("x", 100) + `"}`
	if got := s.post(t, long); !strings.Contains(got, "too large") {
		t.Errorf("long request over HTTP: %s", got)
	}
	c.send(long)
	if _, _, err := c.ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("long request over WebSocket: %v", err)
	}
}

// TestServerPacesMetadata: one place gets the metadata as often as many clients' starts ask for it, then hears that it asks too
// often; what is small goes on.
func TestServerPacesMetadata(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{})
	ask := `{"jsonrpc":"2.0","id":1,"method":"state_getMetadata"}`
	const askers = 4 // one after another they would not ask faster than they may where the processors are taken
	refused := make(chan string, askers)
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			for len(refused) == 0 && asked.Add(1) <= 2000 {
				if got := s.post(t, ask); len(got) < 1000 {
					refused <- got
				}
			}
		})
	}
	wg.Wait()
	close(refused)
	if n := asked.Load(); n < 100 || len(refused) == 0 {
		t.Errorf("%d requests, %d refused", n, len(refused))
	}
	for got := range refused {
		if got != `{"jsonrpc":"2.0","error":{"code":-32004,"message":"storage work rate limit exceeded"},"id":1}` {
			t.Errorf("%d bytes %.200s", len(got), got)
		}
	}
	if got := s.post(t, `{"jsonrpc":"2.0","id":1,"method":"system_chain"}`); !strings.Contains(got, `"result"`) {
		t.Error(got)
	}
}

// TestServerDropsSlowReader: answers that nobody reads end the connection instead of filling the memory.
func TestServerDropsSlowReader(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{})
	c := s.dial(t)
	ask := `{"jsonrpc":"2.0","id":1,"method":"state_getMetadata"}`
	batch := "[" + strings.Repeat(ask+",", 3) + ask + "]"
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if err := c.ws.Write(ctx, websocket.MessageText, []byte(batch)); err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		t.Error("a reader that reads nothing kept its connection")
	}
}

func TestServerWatchesExtrinsic(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{})
	raw := transfer(t, s, keys.Sr25519)
	c := s.dial(t)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"author_submitAndWatchExtrinsic","params":["0x` + hex.EncodeToString(raw) + `"]}`)
	if got := c.read(); got != `{"jsonrpc":"2.0","result":"1","id":1}` {
		t.Fatal(got)
	}
	note := func(result string) string {
		return `{"jsonrpc":"2.0","method":"author_extrinsicUpdate","params":{"subscription":"1","result":` + result + `}}`
	}
	if got := c.read(); got != note(`"ready"`) {
		t.Fatal(got)
	}
	h, err := s.chain.Seal()
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"inBlock", "finalized"} {
		if got := c.read(); got != note(`{"`+state+`":"`+h.Hash.String()+`"}`) {
			t.Fatal(got)
		}
	}
	c.send(`{"jsonrpc":"2.0","id":2,"method":"author_submitExtrinsic","params":["0x` + hex.EncodeToString(raw) + `"]}`)
	if got := c.read(); got != `{"jsonrpc":"2.0","error":{"code":1010,"message":"Invalid Transaction","data":"Transaction is outdated"},"id":2}` {
		t.Fatal(got)
	}
}

// transfer is a signed transfer of //Alice, who has money under her sr25519 key alone.
func transfer(t *testing.T, s served, scheme keys.Scheme) []byte {
	t.Helper()
	answer, err := s.chain.CallAPI(s.chain.Genesis(), "Metadata_metadata_at_version", []byte{15, 0, 0, 0})
	if err != nil {
		t.Fatal(err)
	}
	meta, err := scale.DecodeOpaqueMetadata(answer)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := pallet.New(meta)
	if err != nil {
		t.Fatal(err)
	}
	alice, err := keys.FromURI(scheme, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	call, err := rt.Call("Balances", "transfer_keep_alive", map[string]any{"dest": pallet.AccountAddress([32]byte{7}), "value": uint64(1e9)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := rt.Sign(call, pallet.Signing{SpecVersion: 425, TxVersion: 1, Genesis: s.chain.Genesis()}, alice)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestClientOnLocalnet is both ends of the room over one socket: the client registers a miner, serves its axon and
// reads the metagraph. The miner's hotkey is an ed25519 key, so its extrinsics are signed by one.
func TestClientOnLocalnet(t *testing.T) {
	s := serve(t, false, subtensor.ServerConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := subtensor.New(subtensor.Config{URL: "ws://" + s.addr}, slog.New(slog.DiscardHandler))
	defer client.Close()
	charlie, err := keys.FromURI(keys.Sr25519, "//Charlie")
	if err != nil {
		t.Fatal(err)
	}
	miner, err := keys.FromURI(keys.Ed25519, "//Charlie//hot")
	if err != nil {
		t.Fatal(err)
	}
	uid, _, err := client.Register(ctx, 39, basilica.Hotkey(miner.SS58()), charlie, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	axon := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:8080"), Version: 1, Protocol: 4, TLSKey: bytes.Repeat([]byte{5}, 64)}
	if _, err := client.ServeAxon(ctx, 39, miner, axon); err != nil {
		t.Fatal(err)
	}
	m, err := client.Metagraph(ctx, 39)
	if err != nil {
		t.Fatal(err)
	}
	n, found := m.ByHotkey(basilica.Hotkey(miner.SS58()))
	if !found || n.UID != uid || n.Axon.Addr != axon.Addr || !bytes.Equal(n.Axon.TLSKey, axon.TLSKey) {
		t.Errorf("metagraph has %+v", n)
	}
	if m.CommitReveal || m.Tempo != 20 || m.WeightsRateLimit != 10 {
		t.Errorf("subnet: %+v", m)
	}
	// A validator without permit is refused by name.
	_, err = client.SetWeights(ctx, 39, miner, []basilica.Weight{{UID: 0, Value: 65535}}, 0, nil)
	if err == nil {
		t.Error("weights without a permit were taken")
	}
}

func FuzzServerMessage(f *testing.F) {
	chain, err := localnet.New(localnet.Config{})
	if err != nil {
		f.Fatal(err)
	}
	server := subtensor.NewServer(chain, chain, subtensor.ServerConfig{}, slog.New(slog.DiscardHandler))
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[[0,1]]}`,
		`{"jsonrpc":"2.0","id":1,"method":"state_getKeysPaged","params":["0x658f",10,"0x658f",null]}`,
		`{"jsonrpc":"2.0","id":1,"method":"state_queryStorageAt","params":[["0x00"],null]}`,
		`{"jsonrpc":"2.0","id":1,"method":"state_call","params":["TransactionPaymentApi_query_info","0x2804050300"]}`,
		`{"jsonrpc":"2.0","id":1,"method":"author_submitExtrinsic","params":["0x3902840000"]}`,
		`[{"jsonrpc":"2.0","id":1,"method":"system_chain"}]`, `[`, ``, `null`, `1`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/", bytes.NewReader(message))
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("status %d", w.Code)
		}
		if body := w.Body.Bytes(); len(body) > 0 && !json.Valid(body) {
			t.Fatalf("answer is not JSON: %.200q", body)
		}
	})
}
