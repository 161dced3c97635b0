package testnet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"

	"basilica/scale"
)

// rawChain reads a chain from outside: JSON-RPC over plain HTTP, storage keys and extrinsics by the node's own metadata.
// It shares nothing with the program under test but the SCALE codec.
type rawChain struct {
	t    *testing.T
	url  string
	meta *scale.Metadata
	reg  *scale.Registry
}

func dialRaw(t *testing.T, url string) *rawChain {
	t.Helper()
	c := &rawChain{t: t, url: strings.Replace(url, "ws://", "http://", 1)}
	var blob string
	c.call("state_getMetadata", &blob)
	meta, err := scale.DecodeMetadata(c.hex(blob))
	if err != nil {
		t.Fatal(err)
	}
	if c.reg, err = scale.NewRegistry(meta.Types); err != nil {
		t.Fatal(err)
	}
	c.meta = meta
	return c
}

func (c *rawChain) hex(text string) []byte {
	c.t.Helper()
	raw, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil {
		c.t.Fatalf("not hex: %.80q", text)
	}
	return raw
}

func (c *rawChain) call(method string, into any, params ...any) {
	c.t.Helper()
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.Post(c.url, "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || reply.Error != nil {
		c.t.Fatalf("%s: %s %v", method, reply.Error, err)
	}
	if err := json.Unmarshal(reply.Result, into); err != nil {
		c.t.Fatalf("%s: %s: %v", method, reply.Result, err)
	}
}

func twox128(data string) []byte {
	var out []byte
	for seed := range uint64(2) {
		d := xxhash.NewWithSeed(seed)
		_, _ = d.WriteString(data) // a hash takes everything
		out = binary.LittleEndian.AppendUint64(out, d.Sum64())
	}
	return out
}

// storage decodes one map entry of SubtensorModule at a block; every key is a u16, which the chain hashes by Identity.
func (c *rawChain) storage(item, block string, keys ...uint16) any {
	c.t.Helper()
	for _, p := range c.meta.Pallets {
		if p.Name != "SubtensorModule" {
			continue
		}
		at := slices.IndexFunc(p.Storage.Entries, func(e scale.StorageEntry) bool { return e.Name == item })
		if at < 0 {
			break
		}
		entry := p.Storage.Entries[at]
		key := slices.Concat(twox128(p.Storage.Prefix), twox128(item))
		for i, k := range keys {
			if entry.Hashers[i] != scale.Identity {
				c.t.Fatalf("%s hashes key %d by %d", item, i, entry.Hashers[i])
			}
			key = scale.AppendU16(key, k)
		}
		var value *string
		c.call("state_getStorage", &value, "0x"+hex.EncodeToString(key), block)
		raw := entry.Default
		if value != nil {
			raw = c.hex(*value)
		}
		v, err := c.reg.DecodeAll(raw, entry.Value)
		if err != nil {
			c.t.Fatalf("decode %s: %v", item, err)
		}
		return v
	}
	c.t.Fatalf("SubtensorModule has no storage %s", item)
	return nil
}

// number reads an integer of a decoded value.
func (c *rawChain) number(v any) uint64 {
	c.t.Helper()
	n, err := scale.AsUint64(v)
	if err != nil {
		c.t.Fatalf("%v: %v", v, err)
	}
	return n
}

func (c *rawChain) list(v any) []any {
	c.t.Helper()
	l, ok := v.([]any)
	if !ok {
		c.t.Fatalf("%T is no sequence", v)
	}
	return l
}

// weights is a stored weight row, UID to weight.
func (c *rawChain) weights(block string, netuid, uid uint16) map[uint16]uint16 {
	c.t.Helper()
	row := map[uint16]uint16{}
	for _, pair := range c.list(c.storage("Weights", block, netuid, uid)) {
		p := c.list(pair)
		row[uint16(c.number(p[0]))] = uint16(c.number(p[1]))
	}
	return row
}

// vector is a per-UID vector such as Incentive.
func (c *rawChain) vector(item, block string, netuid uint16) []uint64 {
	c.t.Helper()
	var out []uint64
	for _, v := range c.list(c.storage(item, block, netuid)) {
		out = append(out, c.number(v))
	}
	return out
}

func (c *rawChain) blockHash(number uint64) string {
	c.t.Helper()
	var hash string
	c.call("chain_getBlockHash", &hash, number)
	return hash
}

// extrinsic finds an extrinsic of a block by its blake2-256 and decodes its call as pallet, name and fields.
func (c *rawChain) extrinsic(block, hash string) (name string, fields scale.Struct) {
	c.t.Helper()
	var body struct {
		Block struct {
			Extrinsics []string `json:"extrinsics"`
		} `json:"block"`
	}
	c.call("chain_getBlock", &body, block)
	for _, text := range body.Block.Extrinsics {
		raw := c.hex(text)
		if sum := blake2b.Sum256(raw); "0x"+hex.EncodeToString(sum[:]) == hash {
			return c.decodeCall(raw)
		}
	}
	c.t.Fatalf("block %s has no extrinsic %s among %d", block, hash, len(body.Block.Extrinsics))
	return "", nil
}

// signed says that an extrinsic has a signer: what a block's author puts in has none.
func signed(raw []byte) bool {
	r := scale.NewReader(raw)
	r.Compact()
	return r.U8() == 0x84
}

func (c *rawChain) decodeCall(raw []byte) (string, scale.Struct) {
	c.t.Helper()
	r := scale.NewReader(raw)
	r.Compact()
	if version := r.U8(); version != 0x84 {
		c.t.Fatalf("extrinsic version %#x is not signed version 4", version)
	}
	types := []uint32{c.meta.Extrinsic.Address, c.meta.Extrinsic.Signature}
	for _, e := range c.meta.Extrinsic.Extensions {
		types = append(types, e.Ty)
	}
	for _, id := range types {
		if _, err := c.reg.Decode(r, id); err != nil {
			c.t.Fatal(err)
		}
	}
	call, err := c.reg.Decode(r, c.meta.Extrinsic.Call)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := r.Done(); err != nil {
		c.t.Fatal(err)
	}
	pallet, ok := call.(scale.VariantValue)
	if !ok || len(pallet.Fields) != 1 {
		c.t.Fatalf("call is %T", call)
	}
	inner, ok := pallet.Fields[0].Value.(scale.VariantValue)
	if !ok {
		c.t.Fatalf("call of %s is %T", pallet.Name, pallet.Fields[0].Value)
	}
	return pallet.Name + "." + inner.Name, inner.Fields
}

// failed says that an extrinsic of a block had no effect.
func (c *rawChain) failed(block string, index int) bool {
	c.t.Helper()
	for _, p := range c.meta.Pallets {
		if p.Name != "System" {
			continue
		}
		at := slices.IndexFunc(p.Storage.Entries, func(e scale.StorageEntry) bool { return e.Name == "Events" })
		var value *string
		c.call("state_getStorage", &value, "0x"+hex.EncodeToString(slices.Concat(twox128("System"), twox128("Events"))), block)
		if at < 0 || value == nil {
			c.t.Fatalf("block %s has no events", block)
		}
		records, err := c.reg.DecodeAll(c.hex(*value), p.Storage.Entries[at].Value)
		if err != nil {
			c.t.Fatalf("decode events: %v", err)
		}
		for _, record := range c.list(records) {
			fields, _ := record.(scale.Struct)
			phase, event := c.variant(fields, "phase"), c.variant(fields, "event")
			if phase.Name == "ApplyExtrinsic" && c.number(phase.Fields[0].Value) == uint64(index) && event.Name == "System" {
				if inner, ok := event.Fields[0].Value.(scale.VariantValue); ok && inner.Name == "ExtrinsicFailed" {
					return true
				}
			}
		}
	}
	return false
}

func (c *rawChain) variant(s scale.Struct, name string) scale.VariantValue {
	c.t.Helper()
	value, _ := s.Get(name)
	v, ok := value.(scale.VariantValue)
	if !ok {
		c.t.Fatalf("%s is %T", name, value)
	}
	return v
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
