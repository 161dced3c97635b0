package subtensor_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/subtensor"
)

// result asks over HTTP and decodes what is answered; a refusal fails the test.
func (s served) result(t *testing.T, into any, method string, params ...any) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	answer := s.post(t, string(b))
	var reply struct {
		Result json.RawMessage
		Error  any
	}
	if err := json.Unmarshal([]byte(answer), &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Error != nil {
		t.Fatalf("%s: %v", method, reply.Error)
	}
	if err := json.Unmarshal(reply.Result, into); err != nil {
		t.Fatalf("%s: %v in %.100s", method, err, reply.Result)
	}
}

// TestServerLegacyMethods: subtensor's own methods give, as numbers, the bytes that the runtime API behind them gives.
func TestServerLegacyMethods(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{})
	alice := make([]int, 32)
	for name, c := range map[string]struct {
		params    []any
		api, args string
	}{
		"subnetInfo_getMetagraph":           {[]any{39}, "SubnetInfoRuntimeApi_get_metagraph", "2700"},
		"subnetInfo_getMechagraph":          {[]any{39, 0}, "SubnetInfoRuntimeApi_get_mechagraph", "270000"},
		"subnetInfo_getSelectiveMetagraph":  {[]any{39, []int{0, 52}}, "SubnetInfoRuntimeApi_get_selective_metagraph", "27000800003400"},
		"subnetInfo_getSubnetHyperparamsV2": {[]any{39, nil}, "SubnetInfoRuntimeApi_get_subnet_hyperparams_v2", "2700"},
		"subnetInfo_getAllDynamicInfo":      {nil, "SubnetInfoRuntimeApi_get_all_dynamic_info", ""},
		"subnetInfo_getSubnetState":         {[]any{39}, "SubnetInfoRuntimeApi_get_subnet_state", "2700"},
		"neuronInfo_getNeuron":              {[]any{39, 0}, "NeuronInfoRuntimeApi_get_neuron", "27000000"},
		"delegateInfo_getDelegated":         {[]any{alice}, "DelegateInfoRuntimeApi_get_delegated", strings.Repeat("00", 32)},
	} {
		var numbers []int
		var want string
		s.result(t, &numbers, name, c.params...)
		s.result(t, &want, "state_call", c.api, c.args)
		var got bytes.Buffer
		for _, n := range numbers {
			got.WriteByte(byte(n))
		}
		if "0x"+hex.EncodeToString(got.Bytes()) != want || len(numbers) == 0 {
			t.Errorf("%s: %d bytes, want %s", name, len(numbers), want)
		}
	}
	var cost uint64
	if s.result(t, &cost, "subnetInfo_getLockCost"); cost == 0 {
		t.Error("a subnet costs nothing")
	}
	if got := s.post(t, `{"jsonrpc":"2.0","id":1,"method":"delegateInfo_getDelegate","params":[[1,2]]}`); !strings.Contains(got, "-32602") {
		t.Errorf("a short account: %s", got)
	}
}

// TestServerReadsStorageInEveryWay compares the methods that read storage with one another.
func TestServerReadsStorageInEveryWay(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{})
	first, err := s.chain.Seal()
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.chain.Seal()
	if err != nil {
		t.Fatal(err)
	}
	prefix := append(pallet.Twox128([]byte("System")), pallet.Twox128([]byte("Number"))...)
	number := "0x" + hex.EncodeToString(prefix)
	tempo := "0x" + hex.EncodeToString(append(append(pallet.Twox128([]byte("SubtensorModule")), pallet.Twox128([]byte("Tempo"))...), 39, 0))
	var history []struct {
		Block   basilica.Hash
		Changes [][2]string
	}
	s.result(t, &history, "state_queryStorage", []string{number, tempo}, first.Hash, nil)
	want := fmt.Sprintf("[{%s [[%s 0x01000000] [%s 0x1400]]} {%s [[%s 0x02000000]]}]", first.Hash, number, tempo, last.Hash, number)
	if got := fmt.Sprint(history); got != want {
		t.Errorf("history\n got %s\nwant %s", got, want)
	}
	var pairs [][2]string
	if s.result(t, &pairs, "state_getPairs", number, last.Hash); len(pairs) != 1 || pairs[0] != [2]string{number, "0x02000000"} {
		t.Errorf("pairs %v", pairs)
	}
	var size int
	if s.result(t, &size, "state_getStorageSize", number); size != 4 {
		t.Errorf("size %d", size)
	}
	var digest basilica.Hash
	if s.result(t, &digest, "state_getStorageHash", number, nil); digest != basilica.Hash(pallet.Blake2b256([]byte{2, 0, 0, 0})) {
		t.Errorf("hash %s", digest)
	}
	if got := s.post(t, `{"jsonrpc":"2.0","id":1,"method":"state_queryStorage","params":[["0x00"],"`+last.Hash.String()+`","`+first.Hash.String()+`"]}`); !strings.Contains(got, "Cannot resolve a block range") {
		t.Errorf("backwards: %s", got)
	}
	for range 25 {
		if last, err = s.chain.Seal(); err != nil {
			t.Fatal(err)
		}
	}
	many := strings.TrimSuffix(strings.Repeat(`"0x00",`, 4096), ",")
	if got := s.post(t, `{"jsonrpc":"2.0","id":1,"method":"state_queryStorage","params":[[`+many+`],"`+first.Hash.String()+`","`+last.Hash.String()+`"]}`); !strings.Contains(got, "-32602") {
		t.Errorf("over a hundred thousand values: %.200s", got)
	}
	var fee struct {
		InclusionFee struct{ BaseFee, LenFee, AdjustedWeightFee string }
		Tip          string
	}
	var info struct{ PartialFee string }
	raw := "0x" + hex.EncodeToString(transfer(t, s, keys.Sr25519))
	s.result(t, &fee, "payment_queryFeeDetails", raw)
	s.result(t, &info, "payment_queryInfo", raw)
	var base, length, weight, whole uint64
	for text, into := range map[string]*uint64{fee.InclusionFee.BaseFee: &base, fee.InclusionFee.LenFee: &length, fee.InclusionFee.AdjustedWeightFee: &weight, info.PartialFee: &whole} {
		if _, err := fmt.Sscan(text, into); err != nil {
			t.Fatal(err)
		}
	}
	if base+length+weight != whole || fee.Tip != "0" || whole == 0 {
		t.Errorf("fee %+v, whole %d", fee, whole)
	}
}

// TestServerGoesWrongOnRequest: what a test of a client injects reaches the client, and nothing else does.
func TestServerGoesWrongOnRequest(t *testing.T) {
	s := serve(t, true, subtensor.ServerConfig{Inject: func(method string) error {
		switch method {
		case "system_name":
			return subtensor.ErrDrop
		case "system_chain":
			return subtensor.ErrRateLimited
		}
		return nil
	}})
	if got := s.post(t, `{"jsonrpc":"2.0","id":1,"method":"system_chain"}`); got != `{"jsonrpc":"2.0","error":{"code":-32004,"message":"storage work rate limit exceeded"},"id":1}` {
		t.Errorf("limited: %s", got)
	}
	c := s.dial(t)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"system_chainType"}`)
	if got := c.read(); !strings.Contains(got, "Local") {
		t.Errorf("before: %s", got)
	}
	c.send(`{"jsonrpc":"2.0","id":2,"method":"system_name"}`)
	if _, _, err := c.ws.Read(t.Context()); err == nil || websocket.CloseStatus(err) == websocket.StatusNormalClosure {
		t.Errorf("after the drop: %v", err)
	}
}
