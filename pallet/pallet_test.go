package pallet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/scale"
)

// unmarshal reads vectors whose numbers do not all fit a float64.
func unmarshal(t testing.TB, name string, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(vectors.Read(t, name)))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hash32(t testing.TB, s string) [32]byte {
	t.Helper()
	b := unhex(t, s)
	if len(b) != 32 {
		t.Fatalf("%q is not 32 bytes", s)
	}
	return [32]byte(b)
}

func argMap(s scale.Struct) map[string]any {
	m := map[string]any{}
	for _, f := range s {
		m[f.Name] = f.Value
	}
	return m
}

// argument turns a vector's argument into what the encoder takes. A string may be an address, a development key (//Bob),
// bytes, an integer, or a call such as Balances.transfer_keep_alive(//Bob, 1000000000).
func argument(t *testing.T, rt *Runtime, v any) any {
	t.Helper()
	switch x := v.(type) {
	case json.Number:
		n, ok := new(big.Int).SetString(x.String(), 10)
		if !ok {
			t.Fatalf("%s is no integer", x)
		}
		return n
	case bool, nil:
		return x
	case string:
		return textArgument(t, rt, x)
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = argument(t, rt, e)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for name, e := range x {
			arg := argument(t, rt, e)
			if name[0] >= 'A' && name[0] <= 'Z' { // an enum's variant
				return scale.NewVariant(name, arg)
			}
			out[name] = arg
		}
		return out
	}
	t.Fatalf("argument %v", v)
	return nil
}

func textArgument(t *testing.T, rt *Runtime, s string) any {
	t.Helper()
	if name, args, ok := strings.Cut(strings.TrimSuffix(s, ")"), "("); ok {
		pallet, call, _ := strings.Cut(name, ".")
		_, variant, err := rt.callVariant(pallet, call)
		if err != nil {
			t.Fatal(err)
		}
		inner := scale.VariantValue{Name: call}
		for i, arg := range strings.Split(args, ", ") {
			v := textArgument(t, rt, arg)
			if pub, ok := v.([32]byte); ok {
				v = AccountAddress(pub)
			}
			inner.Fields = append(inner.Fields, scale.NamedValue{Name: variant.Fields[i].Name, Value: v})
		}
		return scale.NewVariant(pallet, inner)
	}
	if strings.HasPrefix(s, "//") {
		pair, err := keys.FromURI(keys.Sr25519, s)
		if err != nil {
			t.Fatal(err)
		}
		return pair.PublicKey()
	}
	if pub, err := keys.DecodeSS58(s); err == nil {
		return pub
	}
	if strings.HasPrefix(s, "0x") {
		return unhex(t, s)
	}
	if n, ok := new(big.Int).SetString(s, 10); ok {
		return n
	}
	return s
}

func TestCallVectors(t *testing.T) {
	type vector struct {
		Pallet, Call, Encoded string
		Args                  map[string]any
	}
	var v struct{ Vectors, FromSourceOnly []vector }
	unmarshal(t, "bittensor/call-encodings.json", &v)
	rt := runtimeOf(t, "subtensor425", "v15")
	for _, c := range append(v.Vectors, v.FromSourceOnly...) {
		want := unhex(t, c.Encoded)
		call, err := rt.DecodeCall(want)
		if err != nil || call.Pallet != c.Pallet || call.Name != c.Call {
			t.Errorf("%s.%s: decodes to %s.%s, %v", c.Pallet, c.Call, call.Pallet, call.Name, err)
			continue
		}
		if b, err := rt.Call(call.Pallet, call.Name, argMap(call.Args)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s.%s: encodes again to %x, %v", c.Pallet, c.Call, b, err)
		}
		args := map[string]any{}
		for name, a := range c.Args {
			args[name] = argument(t, rt, a)
		}
		if b, err := rt.Call(c.Pallet, c.Call, args); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s.%s: %x, %v, want %x", c.Pallet, c.Call, b, err, want)
		}
	}
	t.Logf("calls: %d by name, %d more from the source only", len(v.Vectors), len(v.FromSourceOnly))
}

func TestCallRefusals(t *testing.T) {
	rt := runtimeOf(t, "subtensor425", "v15")
	for name, c := range map[string]struct {
		pallet, call string
		args         map[string]any
		err          error
	}{
		"pallet":   {"Nope", "x", nil, ErrUnknown},
		"call":     {"System", "nope", nil, ErrUnknown},
		"missing":  {"SubtensorModule", "start_call", map[string]any{"net": 1}, scale.ErrInvalid},
		"too many": {"SubtensorModule", "start_call", map[string]any{"netuid": 1, "x": 1}, scale.ErrInvalid},
		"range":    {"SubtensorModule", "start_call", map[string]any{"netuid": 1 << 16}, scale.ErrTooBig},
	} {
		if _, err := rt.Call(c.pallet, c.call, c.args); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := rt.DecodeCall([]byte{7, 92, 39, 0, 1}); err == nil {
		t.Error("a byte too many passes")
	}
}

// TestStorageKeyVectors makes every key by the hashers that the vector names, and by name where a recorded runtime has the
// item.
func TestStorageKeyVectors(t *testing.T) {
	var v struct {
		Vectors []struct {
			Pallet, Item, Key, Modifier, Default string
			Hashers                              []string
			Args                                 []struct{ Scale string }
		}
	}
	unmarshal(t, "bittensor/storage-keys.json", &v)
	hashers := map[string]scale.Hasher{
		"Blake2_128": scale.Blake2_128, "Blake2_256": scale.Blake2_256, "Blake2_128Concat": scale.Blake2_128Concat,
		"Twox128": scale.Twox128, "Twox256": scale.Twox256, "Twox64Concat": scale.Twox64Concat, "Identity": scale.Identity,
	}
	byName := 0
	for _, c := range v.Vectors {
		key := append(Twox128([]byte(c.Pallet)), Twox128([]byte(c.Item))...)
		for i, a := range c.Args {
			h, ok := hashers[c.Hashers[i]]
			if !ok {
				t.Fatalf("%s.%s: hasher %s", c.Pallet, c.Item, c.Hashers[i])
			}
			key = HashKey(key, h, unhex(t, a.Scale))
		}
		if !bytes.Equal(key, unhex(t, c.Key)) {
			t.Errorf("%s.%s: %x, want %s", c.Pallet, c.Item, key, c.Key)
		}
		met := false
		for _, folder := range recorded() {
			rt := runtimeOf(t, folder, "v14")
			e, _, err := rt.Storage(c.Pallet, c.Item)
			if errors.Is(err, ErrUnknown) {
				continue // newer or older than this runtime
			}
			ids, err := rt.keyTypes(e)
			if err != nil || len(ids) < len(c.Args) {
				t.Fatalf("%s.%s: %d keys, %v", c.Pallet, c.Item, len(ids), err)
			}
			if met = true; folder != "subtensor425" && len(e.Hashers) > 0 && e.Hashers[0] != hashers[c.Hashers[0]] {
				continue // rehashed since
			}
			var args []any
			for i, a := range c.Args {
				arg, err := rt.reg.DecodeAll(unhex(t, a.Scale), ids[i])
				if err != nil {
					t.Fatalf("%s.%s: %v", c.Pallet, c.Item, err)
				}
				args = append(args, arg)
			}
			if got, err := rt.StorageKey(c.Pallet, c.Item, args...); err != nil || !bytes.Equal(got, key) {
				t.Errorf("%s %s.%s: %x %v, want %s", folder, c.Pallet, c.Item, got, err, c.Key)
				continue
			}
			if len(ids) != len(c.Args) {
				continue // a prefix
			}
			if back, err := rt.StorageArgs(c.Pallet, c.Item, key); err != nil || len(back) != len(args) {
				t.Errorf("%s %s.%s: keys back %v %v", folder, c.Pallet, c.Item, back, err)
			}
		}
		if met {
			byName++
		}
	}
	t.Logf("storage keys: %d, %d of them by name", len(v.Vectors), byName)
}

func TestMortalEraVectors(t *testing.T) {
	var v struct {
		Vectors []struct {
			Current, RequestedPeriod, Period, Phase, Birth, Death uint64
			Encoded                                               string
		}
	}
	unmarshal(t, "bittensor/mortal-era.json", &v)
	for _, c := range v.Vectors {
		e := MortalEra(c.RequestedPeriod, c.Current)
		if e.Period != c.Period || e.Phase != c.Phase || e.Birth(c.Current) != c.Birth || e.Death(c.Current) != c.Death {
			t.Errorf("%+v: %+v birth %d death %d", c, e, e.Birth(c.Current), e.Death(c.Current))
		}
		b := e.Append(nil)
		if !bytes.Equal(b, unhex(t, c.Encoded)) {
			t.Errorf("%+v: %x", c, b)
		}
		r := scale.NewReader(b)
		if back := ReadEra(r); back != e || r.Done() != nil {
			t.Errorf("%+v: reads as %+v, %v", c, back, r.Done())
		}
	}
}

func TestEraProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		current := rapid.Uint64Range(0, 1<<40).Draw(rt, "current")
		e := MortalEra(rapid.Uint64Range(0, 1<<17).Draw(rt, "period"), current)
		birth := e.Birth(current)
		if birth > current || current >= e.Death(current) {
			// A quantised phase may lie a little behind current, never after it.
			rt.Fatalf("%+v: birth %d current %d death %d", e, birth, current, e.Death(current))
		}
		r := scale.NewReader(e.Append(nil))
		if back := ReadEra(r); back != e || r.Done() != nil {
			rt.Fatalf("%+v reads as %+v", e, back)
		}
	})
}

// recordedExtrinsic is one extrinsic that a recorded runtime was given.
type recordedExtrinsic struct {
	ID, Call                                       string
	Signer                                         struct{ PublicKey, Scheme string }
	Nonce                                          uint64
	GenesisHash, CheckpointHash                    string
	SpecVersion, TransactionVersion                uint32
	CallHex, PayloadHex, SignedBytesHex, Signature string
	ExtrinsicHex, ExtrinsicHash                    string
	Args                                           map[string]struct{ Value any }
	Validity                                       *struct {
		Raw     string
		Decoded any
	}
}

func (c *recordedExtrinsic) signing(t *testing.T, x *Extrinsic) Signing {
	s := x.Signing()
	s.SpecVersion, s.TxVersion = c.SpecVersion, c.TransactionVersion
	s.Genesis, s.BirthHash = hash32(t, c.GenesisHash), hash32(t, c.CheckpointHash)
	return s
}

// TestRecordedExtrinsicVectors takes every recorded extrinsic apart and puts it together again.
func TestRecordedExtrinsicVectors(t *testing.T) {
	for _, folder := range recorded() {
		counts := map[string]int{}
		for _, file := range []string{"accepted", "failed", "rejected"} {
			counts[file] = checkExtrinsics(t, folder, file)
		}
		t.Logf("%s: extrinsics %v", folder, counts)
	}
}

func checkExtrinsics(t *testing.T, folder, file string) int {
	t.Helper()
	rt := runtimeOf(t, folder, "v15")
	var v struct{ Cases []recordedExtrinsic }
	unmarshal(t, folder+"/extrinsics/"+file+".json.gz", &v)
	for i := range v.Cases {
		c := &v.Cases[i]
		raw := unhex(t, c.ExtrinsicHex)
		x, err := rt.DecodeExtrinsic(raw)
		if err != nil {
			t.Errorf("%s: %v", c.ID, err)
			continue
		}
		s := c.signing(t, x)
		if c.ID == "bad_signature" || c.ID == "bad_call_byte" {
			if ok, err := rt.Verify(x, s); ok || err != nil {
				t.Errorf("%s: passes, %v", c.ID, err)
			}
			continue
		}
		if !x.Signed || x.Signer != hash32(t, c.Signer.PublicKey) || x.Scheme.String() != c.Signer.Scheme || x.Nonce != c.Nonce || !bytes.Equal(x.Call, unhex(t, c.CallHex)) {
			t.Errorf("%s: decodes to %+v", c.ID, x)
		}
		full, err := rt.FullPayload(x.Call, s)
		if err != nil || !bytes.Equal(full, unhex(t, c.PayloadHex)) {
			t.Errorf("%s: payload %x, %v", c.ID, full, err)
		}
		signed, err := rt.SigningPayload(x.Call, s)
		if err != nil || !bytes.Equal(signed, unhex(t, c.SignedBytesHex)) {
			t.Errorf("%s: signed bytes %x, %v", c.ID, signed, err)
		}
		if ok, err := rt.Verify(x, s); !ok || err != nil {
			t.Errorf("%s: signature refused, %v", c.ID, err)
		}
		back, err := rt.Assemble(x.Call, s, x.Signer, x.Scheme, x.Signature)
		if err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%s: assembles to %x, %v", c.ID, back, err)
		}
		if ExtrinsicHash(raw) != hash32(t, c.ExtrinsicHash) {
			t.Errorf("%s: hash %x", c.ID, ExtrinsicHash(raw))
		}
		call, err := rt.DecodeCall(x.Call)
		if err != nil || call.Pallet+"."+call.Name != c.Call {
			t.Errorf("%s: call %s.%s, want %s (%v)", c.ID, call.Pallet, call.Name, c.Call, err)
		}
		for _, arg := range call.Args {
			for name, want := range c.Args {
				if sameName(name, arg.Name) {
					if err := differs(arg.Value, want.Value); err != nil {
						t.Errorf("%s: argument %s: %v", c.ID, name, err)
					}
				}
			}
		}
		if c.Validity != nil {
			m, _ := rt.APIMethod("TaggedTransactionQueue", "validate_transaction")
			got, err := rt.reg.DecodeAll(unhex(t, c.Validity.Raw), m.Output)
			if err == nil {
				err = differs(got, c.Validity.Decoded)
			}
			if err != nil {
				t.Errorf("%s: validity: %v", c.ID, err)
			}
		}
		if b, err := rt.Call(call.Pallet, call.Name, argMap(call.Args)); err != nil || !bytes.Equal(b, x.Call) {
			t.Errorf("%s: call encodes again to %x, %v", c.ID, b, err)
		}
	}
	if len(v.Cases) < 10 {
		t.Errorf("only %d extrinsics of %s %s", len(v.Cases), folder, file)
	}
	return len(v.Cases)
}

func TestExtrinsic365Vectors(t *testing.T) {
	var v struct {
		Vectors []struct {
			Name, Algorithm, SignerPublicKey, GenesisHash, BlockHash, Era, Call string
			Payload, SignedBytes, Signature, Extrinsic, ExtrinsicHash           string
			SpecVersion, TransactionVersion                                     uint32
			Nonce, Tip                                                          uint64
		}
	}
	unmarshal(t, "bittensor/extrinsics-signed-spec365.json", &v)
	rt := runtimeOf(t, "subtensor425", "v14")
	for _, c := range v.Vectors {
		s := Signing{
			SpecVersion: c.SpecVersion, TxVersion: c.TransactionVersion, Genesis: hash32(t, c.GenesisHash),
			BirthHash: hash32(t, c.BlockHash), Nonce: c.Nonce, Tip: c.Tip,
			Era: ReadEra(scale.NewReader(unhex(t, c.Era))),
		}
		call := unhex(t, c.Call)
		if full, err := rt.FullPayload(call, s); err != nil || !bytes.Equal(full, unhex(t, c.Payload)) {
			t.Errorf("%s: payload %x, %v", c.Name, full, err)
		}
		scheme := keys.Sr25519
		if c.Algorithm == "ed25519" {
			scheme = keys.Ed25519
		}
		raw, err := rt.Assemble(call, s, hash32(t, c.SignerPublicKey), scheme, unhex(t, c.Signature))
		if err != nil || !bytes.Equal(raw, unhex(t, c.Extrinsic)) || ExtrinsicHash(raw) != hash32(t, c.ExtrinsicHash) {
			t.Errorf("%s: %x, %v", c.Name, raw, err)
			continue
		}
		x, err := rt.DecodeExtrinsic(raw)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if ok, err := rt.Verify(x, s); !ok || err != nil {
			t.Errorf("%s: signature refused, %v", c.Name, err)
		}
		if c.Algorithm == "ed25519" {
			pair, err := keys.FromURI(keys.Ed25519, "//Alice")
			if err != nil {
				t.Fatal(err)
			}
			if again, err := rt.Sign(call, s, pair); err != nil || !bytes.Equal(again, raw) {
				t.Errorf("%s: signs to %x, %v", c.Name, again, err)
			}
		}
	}
}

func TestFinneyExtrinsicVectors(t *testing.T) {
	var v struct {
		SpecVersion, TransactionVersion uint32
		GenesisHash                     string
		Vectors                         []struct {
			Name, Call, Era, BlockHash, SignerPublicKey, Signature, Payload string
			Nonce, Tip                                                      uint64
		}
	}
	unmarshal(t, "bittensor/extrinsics-finney-block-9101269.json", &v)
	rt := runtimeOf(t, "subtensor425", "v15")
	for _, c := range v.Vectors {
		s := Signing{
			SpecVersion: v.SpecVersion, TxVersion: v.TransactionVersion, Genesis: hash32(t, v.GenesisHash),
			Era: ReadEra(scale.NewReader(unhex(t, c.Era))), BirthHash: hash32(t, c.BlockHash), Nonce: c.Nonce, Tip: c.Tip,
		}
		x := &Extrinsic{
			Call: unhex(t, c.Call), Signer: hash32(t, c.SignerPublicKey), Scheme: keys.Sr25519,
			Signature: unhex(t, c.Signature), Era: s.Era, Nonce: s.Nonce, Tip: s.Tip,
		}
		if full, err := rt.FullPayload(x.Call, s); err != nil || !bytes.Equal(full, unhex(t, c.Payload)) {
			t.Errorf("%s: payload %x, %v", c.Name, full, err)
		}
		if ok, err := rt.Verify(x, s); !ok || err != nil {
			t.Errorf("%s: a real signature is refused, %v", c.Name, err)
		}
	}
}

type jsonHeader struct {
	ParentHash, Number, StateRoot, ExtrinsicsRoot string
	Digest                                        struct{ Logs []string }
}

func (j *jsonHeader) header(t *testing.T) *Header {
	n, ok := new(big.Int).SetString(strings.TrimPrefix(j.Number, "0x"), 16)
	if !ok {
		t.Fatalf("number %q", j.Number)
	}
	h := &Header{
		Parent: hash32(t, j.ParentHash), Number: n.Uint64(),
		StateRoot: hash32(t, j.StateRoot), ExtrinsicsRoot: hash32(t, j.ExtrinsicsRoot),
	}
	for _, l := range j.Digest.Logs {
		h.Digest = append(h.Digest, unhex(t, l))
	}
	return h
}

func TestHeaderVectors(t *testing.T) {
	var v struct {
		Vectors []struct {
			Hash, Scale string
			Header      jsonHeader
		}
	}
	unmarshal(t, "bittensor/block-headers-finney.json", &v)
	for _, c := range v.Vectors {
		h := c.Header.header(t)
		if h.Hash() != hash32(t, c.Hash) || !bytes.Equal(h.Encode(), unhex(t, c.Scale)) {
			t.Errorf("block %d: %x", h.Number, h.Hash())
		}
	}
	var local struct {
		Block struct {
			Hash       string
			Header     jsonHeader
			Extrinsics []struct{ What, Bytes, Hash string }
		}
	}
	unmarshal(t, "bittensor/subtensor-localnet-spec438.json", &local)
	if h := local.Block.Header.header(t); h.Hash() != hash32(t, local.Block.Hash) {
		t.Errorf("local block: %x", h.Hash())
	}
	for _, x := range local.Block.Extrinsics {
		if ExtrinsicHash(unhex(t, x.Bytes)) != hash32(t, x.Hash) {
			t.Errorf("%s: wrong hash", x.What)
		}
	}
}

func TestExtensionsAreWalkedByType(t *testing.T) {
	base := runtimeOf(t, "subtensor425", "v15").meta
	change := func(f func(*scale.Metadata)) *Runtime {
		m := *base
		m.Extrinsic.Extensions = append([]scale.SignedExtension{}, base.Extrinsic.Extensions...)
		f(&m)
		rt, err := New(&m)
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	u32 := uint32(0)
	empty := base.Extrinsic.Extensions[0].Ty
	for _, x := range base.Extrinsic.Extensions {
		if x.Identifier == "CheckSpecVersion" {
			u32 = x.Additional
		}
	}
	call := []byte{0, 0}
	withEmpty := change(func(m *scale.Metadata) {
		m.Extrinsic.Extensions = append(m.Extrinsic.Extensions, scale.SignedExtension{Identifier: "Brandnew", Ty: empty, Additional: empty})
	})
	want, err := runtimeOf(t, "subtensor425", "v15").FullPayload(call, Signing{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := withEmpty.FullPayload(call, Signing{}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an unknown empty extension: %x %v", got, err)
	}
	for name, f := range map[string]func(*scale.Metadata){
		"unknown extra": func(m *scale.Metadata) {
			m.Extrinsic.Extensions[0] = scale.SignedExtension{Identifier: "Brandnew", Ty: u32, Additional: empty}
		},
		"unknown additional": func(m *scale.Metadata) {
			m.Extrinsic.Extensions[0] = scale.SignedExtension{Identifier: "Brandnew", Ty: empty, Additional: u32}
		},
		"changed nonce": func(m *scale.Metadata) {
			m.Extrinsic.Extensions[5].Ty = u32
		},
	} {
		if _, err := change(f).FullPayload(call, Signing{}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPoolErrorNames(t *testing.T) {
	for n, want := range map[uint8]string{0: "ColdkeyInSwapSchedule", 6: "RateLimitExceeded", 12: "ServingRateLimitExceeded", 27: "DelegateTakeTooHigh", 28: "Unknown", 255: "BadRequest"} {
		if got := PoolError(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func FuzzDecodeExtrinsic(f *testing.F) {
	rt := runtimeOf(f, "subtensor425", "v14")
	f.Add([]byte{0x28, 5, 2, 0, 0x0b, 6, 0x9f, 0xf4, 0x8e, 0x9f, 1})
	f.Add([]byte{0x14, 0x84, 0, 1, 2, 3})
	var v struct{ Cases []recordedExtrinsic }
	unmarshal(f, "subtensor425/extrinsics/accepted.json.gz", &v)
	for _, c := range v.Cases[:8] {
		f.Add(unhex(f, c.ExtrinsicHex))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := rt.DecodeExtrinsic(data)
		if err != nil {
			return
		}
		call, err := rt.DecodeCall(x.Call)
		if err != nil {
			t.Fatalf("passes with a call that does not decode: %v", err)
		}
		if back, err := rt.Call(call.Pallet, call.Name, argMap(call.Args)); err != nil || !bytes.Equal(back, x.Call) {
			t.Fatalf("%s.%s encodes to %x, not %x: %v", call.Pallet, call.Name, back, x.Call, err)
		}
		if !x.Signed {
			return
		}
		if _, err := rt.Verify(x, Signing{}); err != nil {
			t.Fatalf("decodes but has no payload: %v", err)
		}
	})
}

func FuzzEvents(f *testing.F) {
	rt := runtimeOf(f, "subtensor425", "v15")
	f.Add([]byte{4, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	var v struct{ Events struct{ Raw string } }
	unmarshal(f, "subtensor425/decoding/chain.json", &v)
	f.Add(unhex(f, v.Events.Raw))
	f.Fuzz(func(_ *testing.T, data []byte) {
		events, err := rt.Events(data)
		if err == nil {
			_ = rt.Outcome(events, 0)
		}
	})
}

// FuzzStorageArgs takes keys apart that a node may answer with.
func FuzzStorageArgs(f *testing.F) {
	rt := runtimeOf(f, "subtensor425", "v15")
	pallets := rt.Metadata().Pallets
	var v struct{ Items []struct{ Item, Key string } }
	unmarshal(f, "subtensor425/decoding/storage.json.gz", &v)
	for i := 0; i < len(v.Items); i += 40 {
		f.Add(uint8(7), uint8(i), unhex(f, v.Items[i].Key)[32:]) // what follows pallet and item
	}
	f.Fuzz(func(t *testing.T, pallet, item uint8, rest []byte) {
		p := &pallets[int(pallet)%len(pallets)]
		if len(p.Storage.Entries) == 0 {
			return
		}
		e := &p.Storage.Entries[int(item)%len(p.Storage.Entries)]
		prefix, err := rt.StorageKey(p.Name, e.Name)
		if err != nil {
			t.Fatal(err)
		}
		args, err := rt.StorageArgs(p.Name, e.Name, append(prefix, rest...))
		if err != nil || slices.Contains(args, nil) {
			return
		}
		key, err := rt.StorageKey(p.Name, e.Name, args...)
		if err != nil || len(key) != len(prefix)+len(rest) {
			t.Fatalf("%s.%s: %v gives %x, %v", p.Name, e.Name, args, key, err)
		}
	})
}
