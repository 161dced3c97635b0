package subtensor

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/timelock"
)

// hostile is a node whose storage and runtime APIs answer whatever the fuzzer wants: parts of the same bytes, or, where it has
// lied about its metadata, values that fit the lie.
type hostile struct {
	*ledger
	entries map[string]*scale.StorageEntry // by the prefix of their keys

	mu   sync.Mutex // guards what follows
	data []byte
	lied *pallet.Runtime // nil: the metadata are honest
	mute bool            // it offers no runtime API
}

func (h *hostile) say(data []byte, lied *pallet.Runtime, mute bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data, h.lied, h.mute = data, lied, mute
}

// Storage answers every key with another part of the same bytes; of some it has none.
func (h *hostile) Storage(_ basilica.Hash, key []byte) ([]byte, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.data) == 0 {
		return nil, false, nil
	}
	at := 0
	for _, b := range key {
		at = at*31 + int(b)
	}
	at &= 0xffff
	if h.lied == nil {
		return h.data[at%len(h.data):], at%7 != 0, nil
	}
	e := h.entries[string(key[:min(len(key), 32)])]
	if e == nil {
		return nil, false, nil
	}
	s := &stream{data: h.data, at: at, types: h.lied.Registry()}
	if n, ok := map[string]int{"SubnetworkN": int(s.next()) % 8, "RevealPeriodEpochs": 1, "CommitRevealWeightsVersion": timelockVersion}[e.Name]; ok {
		if b, err := s.types.Encode(nil, e.Value, n); err == nil { // else the client would read no further
			return b, true, nil
		}
	}
	return s.value(nil, e.Value, 0), true, nil
}

func (h *hostile) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	if method == "Core_version" {
		return h.ledger.CallAPI(at, method, args)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mute {
		return nil, errors.New("not found")
	}
	if h.lied != nil && len(h.data) > 0 {
		trait, name, _ := strings.Cut(method, "_")
		if m, ok := h.lied.APIMethod(trait, name); ok {
			s := &stream{data: h.data, at: len(name), types: h.lied.Registry()}
			return s.value(nil, m.Output, 0), nil
		}
	}
	return h.data, nil
}

// stream makes values of any type out of bytes that go round.
type stream struct {
	data  []byte
	at    int
	types *scale.Registry
}

func (s *stream) next() byte {
	s.at++
	return s.data[s.at%len(s.data)]
}

// value appends a value of a type.
func (s *stream) value(b []byte, id uint32, depth int) []byte {
	t, ok := s.types.Type(id)
	if !ok || depth > 16 {
		return b
	}
	each := func(n int, id uint32) {
		for range n {
			b = s.value(b, id, depth+1)
		}
	}
	fields := func(list []scale.Field) {
		for _, f := range list {
			if key := timelock.Quicknet().PublicKey; f.Name == "public_key" && slices.Contains(t.Path, "BeaconConfiguration") {
				if with, err := s.types.Encode(b, f.Ty, key[:]); err == nil { // of any other the client would read no further
					b = with
					continue
				}
			}
			each(1, f.Ty)
		}
	}
	switch d := &t.Def; d.Kind {
	case scale.KindComposite:
		fields(d.Fields)
	case scale.KindVariant:
		if len(d.Variants) > 0 {
			v := &d.Variants[int(s.next())%len(d.Variants)]
			b = append(b, v.Index)
			fields(v.Fields)
		}
	case scale.KindSequence:
		n := int(s.next()) % 4
		b = scale.AppendCompact(b, uint64(n))
		each(n, d.Elem)
	case scale.KindArray:
		each(int(min(d.Len, 256)), d.Elem)
	case scale.KindTuple:
		for _, id := range d.Tuple {
			each(1, id)
		}
	case scale.KindPrimitive:
		b = s.primitive(b, d.Primitive)
	case scale.KindCompact:
		b = scale.AppendCompact(b, uint64(s.next())%64)
	case scale.KindBitSequence:
		b = scale.AppendCompact(b, 0)
	}
	return b
}

func (s *stream) primitive(b []byte, p scale.Primitive) []byte {
	size := map[scale.Primitive]int{
		scale.U8: 1, scale.U16: 2, scale.U32: 4, scale.U64: 8, scale.U128: 16, scale.U256: 32,
		scale.I8: 1, scale.I16: 2, scale.I32: 4, scale.I64: 8, scale.I128: 16, scale.I256: 32,
	}[p]
	number := make([]byte, size)
	switch kind := s.next(); {
	case p == scale.Bool:
		return scale.AppendBool(b, kind > 0)
	case p == scale.Char:
		return scale.AppendU32(b, uint32(kind))
	case p == scale.Str:
		return scale.AppendString(b, strings.Repeat("x", int(kind)%4))
	case kind%8 < 4:
		number[0] = s.next() % 8
	case kind%8 == 4:
		number = bytes.Repeat([]byte{0xff}, size)
	case kind%8 < 7:
		for i := range number {
			number[i] = s.next()
		}
	default:
		bit := int(s.next()) % (8 * size)
		number[bit/8] = 1 << (bit % 8)
	}
	return append(b, number...)
}

// place is where metadata name a type.
type place struct {
	name string
	ty   *uint32
}

// liar changes types in metadata and puts them back.
type liar struct {
	meta   *scale.Metadata
	places []place
	others []uint32 // types to put in
}

// newLiar finds the types of what the client reads and sends. It adds to the metadata types that a runtime need not have.
func newLiar(m *scale.Metadata, read map[string]*scale.StorageEntry) *liar {
	l := &liar{meta: m}
	add := func(d scale.TypeDef) uint32 {
		id := uint32(len(m.Types))
		m.Types = append(m.Types, scale.Type{ID: id, Def: d})
		l.others = append(l.others, id)
		return id
	}
	for p := scale.Bool; p <= scale.I256; p++ {
		add(scale.TypeDef{Kind: scale.KindPrimitive, Primitive: p})
	}
	byte8, wide := l.others[scale.U8], l.others[scale.U256]
	add(scale.TypeDef{Kind: scale.KindTuple})
	add(scale.TypeDef{Kind: scale.KindSequence, Elem: byte8})
	add(scale.TypeDef{Kind: scale.KindSequence, Elem: wide})
	add(scale.TypeDef{Kind: scale.KindArray, Elem: byte8, Len: 33})
	add(scale.TypeDef{Kind: scale.KindCompact, Elem: wide})
	seen := map[uint32]bool{}
	var walk func(name string, ty *uint32)
	walk = func(name string, ty *uint32) {
		l.places = append(l.places, place{name, ty})
		if seen[*ty] {
			return
		}
		seen[*ty] = true
		t := &m.Types[*ty]
		if len(t.Path) > 0 {
			name = t.Path[len(t.Path)-1]
		}
		d := &t.Def
		for i := range d.Fields {
			walk(name+"."+d.Fields[i].Name, &d.Fields[i].Ty)
		}
		for i := range d.Variants {
			for j := range d.Variants[i].Fields {
				walk(name+"."+d.Variants[i].Name, &d.Variants[i].Fields[j].Ty)
			}
		}
		for i := range d.Tuple {
			walk(name, &d.Tuple[i])
		}
		if d.Kind == scale.KindSequence || d.Kind == scale.KindArray {
			walk(name, &d.Elem)
		}
	}
	for _, p := range m.Pallets {
		for i := range p.Storage.Entries {
			e := &p.Storage.Entries[i]
			prefix := append(pallet.Twox128([]byte(p.Storage.Prefix)), pallet.Twox128([]byte(e.Name))...)
			if p.Name == "SubtensorModule" || p.Name == "Drand" || p.Name == "Timestamp" {
				read[string(prefix)] = e
				walk(e.Name, &e.Value)
			}
		}
		if p.Name != "SubtensorModule" {
			continue
		}
		for i := range m.Types[p.Calls].Def.Variants {
			v := &m.Types[p.Calls].Def.Variants[i]
			for j := range v.Fields {
				walk(v.Name+"."+v.Fields[j].Name, &v.Fields[j].Ty)
			}
		}
	}
	for i := range m.APIs {
		for j := range m.APIs[i].Methods {
			if name := m.APIs[i].Name; name == "SubnetInfoRuntimeApi" || name == "SwapRuntimeApi" || name == "StakeInfoRuntimeApi" {
				walk(name, &m.APIs[i].Methods[j].Output)
			}
		}
	}
	return l
}

// tell makes a runtime of a lie: three bytes for each changed type, of which two are the place and one is what it becomes. The
// metadata are honest again after undo.
func (l *liar) tell(lie []byte) (lied *pallet.Runtime, undo func(), err error) {
	var undone []func()
	for ; len(lie) >= 3 && len(undone) < 16; lie = lie[3:] {
		ty := l.places[(int(lie[0])<<8|int(lie[1]))%len(l.places)].ty
		was := *ty
		undone = append(undone, func() { *ty = was })
		*ty = l.others[int(lie[2])%len(l.others)]
	}
	lied, err = pallet.New(l.meta)
	return lied, func() {
		for _, f := range slices.Backward(undone) {
			f()
		}
	}, err
}

// lie is the bytes of one change, by the name of its place.
func (l *liar) lie(t testing.TB, name string, to scale.Primitive) []byte {
	t.Helper()
	i := slices.IndexFunc(l.places, func(p place) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("no place %s", name)
	}
	return []byte{byte(i >> 8), byte(i), byte(to)}
}

// FuzzHostileAnswers: whatever a node answers about its state, and whatever types it gives what is read and sent, the client
// gives a result of the right form or an error, and makes the calls that it was told to make or none.
func FuzzHostileAnswers(f *testing.F) {
	v := speak(f, 425, nil)
	l := newLedger(f, v)
	h := &hostile{ledger: l, entries: map[string]*scale.StorageEntry{}}
	blob, err := scale.DecodeMetadata(v.metadata)
	if err != nil {
		f.Fatal(err)
	}
	liar := newLiar(blob, h.entries)
	var apis struct {
		Calls []struct {
			Method string
			Output hexBytes
		}
	}
	vectors.JSON(f, "subtensor425/decoding/runtime_apis.json.gz", &apis)
	for _, c := range apis.Calls {
		if c.Method == "SubnetInfoRuntimeApi_get_metagraph" || c.Method == "SubnetInfoRuntimeApi_get_subnet_state" {
			f.Add([]byte(c.Output), []byte{})
		}
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{})
	f.Add([]byte{0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0, 4, 4, 4, 4, 1, 1, 1, 1}, []byte{})
	f.Add([]byte{6}, liar.lie(f, "AxonInfo.ip", scale.U256))
	f.Add([]byte{6}, append(liar.lie(f, "AxonInfo.ip", scale.U256), 1))
	f.Add([]byte{55}, append(liar.lie(f, "BeaconConfiguration.period", scale.U64), 1))
	f.Add([]byte{6}, append(liar.lie(f, "register_limit.limit_price", scale.Primitive(len(liar.others)-5)), 1))
	for i := 0; i < 60; i += 8 {
		f.Add([]byte{6, byte(i), 1, byte(3 * i), 0, byte(5 * i), 4}, []byte{byte(i / 16), byte(i * 37), byte(i), byte(i / 12), byte(i * 59), byte(i / 3), byte(i)})
	}
	client, _, stop := serveNode(f, h, l, ServerConfig{})
	f.Cleanup(stop)
	hotkey := ledgerKey(f, "//Bob//hot")
	who := basilica.Hotkey(hotkey.SS58())
	f.Fuzz(func(t *testing.T, data, lie []byte) {
		words, lied, mute := v.words, (*pallet.Runtime)(nil), len(lie)%3 == 1
		if len(lie) > 0 {
			var undo func()
			if lied, undo, err = liar.tell(lie); err != nil {
				t.Fatal(err)
			}
			defer undo()
			words = lied
		}
		h.say(data, lied, mute)
		client.mu.Lock()
		client.runtimes[v.spec] = &runtimeVersion{spec: v.spec, tx: 1, words: words}
		client.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ask(ctx, t, client, hotkey)
		if lied == nil {
			return
		}
		for _, a := range everyAction(who) {
			args, err := a.make()
			if err != nil {
				t.Fatal(err)
			}
			want, err := v.words.Call(a.pallet, a.call, args)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := lied.Call(a.pallet, a.call, args); err == nil && a.pallet != "Commitments" && !bytes.Equal(got, want) {
				t.Fatalf("%s: %x, want %x", a.words, got, want)
			}
		}
	})
}

// ask asks whatever the client can ask; what comes back must be whole.
func ask(ctx context.Context, t *testing.T, client *Client, hotkey *keys.Pair) {
	t.Helper()
	who := basilica.Hotkey(hotkey.SS58())
	if m, err := client.Metagraph(ctx, ledgerSubnet); err == nil {
		for i, n := range m.Neurons {
			if int(n.UID) != i || len(n.Axon.TLSKey)%64 != 0 {
				t.Fatalf("neuron %d: %+v", i, n)
			}
		}
	}
	_, _ = client.Weights(ctx, ledgerSubnet, 0) // of these only that they return
	_, _ = client.Subnet(ctx, ledgerSubnet)
	_, _ = client.Hyperparameters(ctx, ledgerSubnet)
	_, _, _ = client.Stakes(ctx, basilica.Coldkey(who))
	_, _, _ = client.Children(ctx, ledgerSubnet, who)
	_, _ = client.Commitment(ctx, ledgerSubnet, who)
	_, _ = client.Quote(ctx, AddStakeLimit(ledgerSubnet, who, 1e9, Limit{Price: 1e9}), hotkey)
	for _, kind := range []basilica.CommitKind{basilica.CommitSalt, basilica.CommitTimelock} {
		c, err := client.FollowCommit(ctx, ledgerSubnet, who, basilica.WeightCommit{Kind: kind, Round: 9, Epoch: 1}, commitWeights)
		if err == nil && c.State == "" {
			t.Fatalf("a commit without a state: %+v", c)
		}
	}
	p, err := client.PlanWeights(ctx, Target{NetUID: ledgerSubnet}, hotkey, commitWeights, 0)
	if err == nil && p.Call() == "" {
		t.Fatalf("a plan without a call: %+v", p)
	}
}

// TestABeaconWithoutRounds: the types of its numbers are the node's word too, and so is a period of a billion years.
func TestABeaconWithoutRounds(t *testing.T) {
	v := speak(t, 425, nil)
	l := newLedger(t, v)
	h := &hostile{ledger: l, entries: map[string]*scale.StorageEntry{}}
	m, err := scale.DecodeMetadata(v.metadata)
	if err != nil {
		t.Fatal(err)
	}
	liar := newLiar(m, h.entries)
	lied, _, err := liar.tell(liar.lie(t, "BeaconConfiguration.period", scale.U64))
	if err != nil {
		t.Fatal(err)
	}
	client, _, stop := serveNode(t, h, l, ServerConfig{})
	defer stop()
	client.runtimes[v.spec] = &runtimeVersion{spec: v.spec, tx: 1, words: lied}
	h.say([]byte{55}, lied, true)
	if p, err := client.PlanWeights(t.Context(), Target{NetUID: ledgerSubnet}, ledgerKey(t, "//Bob//hot"), commitWeights, 0); !errors.Is(err, scale.ErrInvalid) || !strings.Contains(err.Error(), "period") {
		t.Errorf("%+v, %v", p, err)
	}
}
