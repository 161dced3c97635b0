package localnet

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/vectors"
	"basilica/pallet"
	"basilica/subtensor"
)

// rpcError is an error object on the wire.
type rpcError struct {
	Code    int
	Message string
	Data    json.RawMessage
}

func (e rpcError) key() string { return fmt.Sprintf("%d %s %s", e.Code, e.Message, e.Data) }

// TestErrorTextsVector provokes every error of a node that official clients are known to read, and compares the objects.
func TestErrorTextsVector(t *testing.T) {
	t.Parallel()
	var record struct {
		SDK11 []struct {
			Error     rpcError
			Transport string
		} `json:"sdk11"`
	}
	vectors.JSON(t, "bittensor/error-texts.json", &record)
	known := map[string]bool{}
	for _, e := range record.SDK11 {
		known[e.Error.key()] = true
	}
	s := newSim(t, Config{})
	limited := false
	server := subtensor.NewServer(s.Chain, s.Chain, subtensor.ServerConfig{Inject: func(string) error {
		if limited {
			return subtensor.ErrRateLimited
		}
		return nil
	}}, slog.New(slog.DiscardHandler))
	ask := func(method string, params ...any) (e rpcError) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "http://127.0.0.1/", strings.NewReader(string(body)))
		server.ServeHTTP(w, r)
		var answer struct{ Error *rpcError }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		if answer.Error == nil {
			t.Fatalf("%s is answered: %.200s", method, w.Body)
		}
		return *answer.Error
	}
	send := func(raw []byte) rpcError {
		t.Helper()
		return ask("author_submitExtrinsic", "0x"+hex.EncodeToString(raw))
	}
	bob := s.key("//Bob")
	remark := s.call("System.remark", map[string]any{"remark": []byte("x")})
	signing := func(change func(x *pallet.Signing)) []byte {
		x := s.signing(bob.PublicKey())
		change(&x)
		return s.sign(remark, x, bob)
	}
	s.must(bob, "System.remark", map[string]any{"remark": []byte("once")})
	waiting := signing(func(*pallet.Signing) {})
	if _, err := s.Submit(waiting, nil); err != nil {
		t.Fatal(err)
	}
	poor := s.key("//Nobody")
	provoked := map[string]rpcError{
		"a bad signature":      send(signing(func(x *pallet.Signing) { x.SpecVersion++ })),
		"an old nonce":         send(signing(func(x *pallet.Signing) { x.Nonce = 0 })),
		"no money":             send(s.sign(remark, s.signing(poor.PublicKey()), poor)),
		"no block of birth":    send(signing(func(x *pallet.Signing) { x.Era = pallet.MortalEra(4096, 3000) })),
		"too long":             send(make([]byte, maxExtrinsic+1)),
		"sent twice":           send(waiting),
		"no extrinsic":         send([]byte{8, 0x84, 0}),
		"an unknown method":    ask("chainHead_v1_follow", false),
		"no hex":               ask("state_getStorage", "0xzz"),
		"serving unregistered": send(s.sign(s.call("SubtensorModule.serve_axon", axonArgs(39)), s.signing(poor.PublicKey()), poor)),
	}
	limited = true
	provoked["too many requests"] = ask("state_getStorage", "0x00")
	limited = false
	for _, e := range []struct{ name, like string }{
		{"a bad signature", `1010 Invalid Transaction "Transaction has a bad signature"`},
		{"an old nonce", `1010 Invalid Transaction "Transaction is outdated"`},
		{"no money", `1010 Invalid Transaction "Inability to pay some fees (e.g. account balance too low)"`},
		{"no block of birth", `1010 Invalid Transaction "Transaction has an ancient birth block"`},
		{"too long", `1010 Invalid Transaction "Transaction would exhaust the block limits"`},
		{"sent twice", `1013 Transaction Already Imported "Transaction is already imported to the pool"`},
		{"no extrinsic", `1002 Verification Error: Runtime error: Execution failed "RuntimeApi(\"Execution failed\")"`},
		{"an unknown method", `-32601 Method not found `},
		{"no hex", `-32602 Invalid params "invalid hex"`},
		{"too many requests", `-32004 storage work rate limit exceeded `},
	} {
		if got := provoked[e.name].key(); got != e.like || !known[got] {
			t.Errorf("%s: %s, want %s (recorded: %v)", e.name, got, e.like, known[e.like])
		}
	}
	if got := provoked["serving unregistered"].key(); got != `1010 Invalid Transaction "Custom error: 10"` {
		t.Errorf("serving unregistered: %s", got)
	}
	// These have numbers or hashes of their own in the middle.
	clash := s.sign(s.call("System.remark", map[string]any{"remark": []byte("y")}), s.signing(bob.PublicKey()), bob)
	signed, err := s.rt.DecodeExtrinsic(clash)
	if err != nil {
		t.Fatal(err)
	}
	again := signed.Signing()
	again.Nonce--
	again.SpecVersion, again.TxVersion, again.Genesis = specVersion, txVersion, s.Genesis()
	priority := send(s.sign(remark, again, bob))
	if priority.key() == provoked["sent twice"].key() { // the same bytes: sign another call at that nonce
		priority = send(s.sign(s.call("System.remark", map[string]any{"remark": []byte("z")}), again, bob))
	}
	if priority.Code != 1014 || priority.Message != "Priority is too low: (1 vs 1)" {
		t.Errorf("a taken nonce: %s", priority.key())
	}
	s.seal(2)
	s.mu.Lock()
	s.state.forget(2) // as keptStates blocks later
	s.mu.Unlock()
	old := s.hash(1)
	discarded := ask("state_getStorage", "0x00", old)
	if discarded.key() != "4003 Client error: Api called for an unknown Block: State already discarded for "+old.String()+" " {
		t.Errorf("an old state: %s", discarded.key())
	}
	if unknown := ask("state_getStorage", "0x00", basilica.Hash{1}); unknown.Code != 4003 || !strings.Contains(unknown.Message, "UnknownBlock") {
		t.Errorf("an unknown block: %s", unknown.key())
	}
}
