package subtensor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
)

// TestALyingNodeGetsNoSignature: a node whose metadata makes a registration without a cap of one with a cap gets neither
// quote nor signature, and a person is told.
func TestALyingNodeGetsNoSignature(t *testing.T) {
	lying := speak(t, 425, func(m *scale.Metadata) {
		unit := uint32(len(m.Types))
		m.Types = append(m.Types, scale.Type{ID: unit, Def: scale.TypeDef{Kind: scale.KindTuple}})
		for _, p := range m.Pallets {
			if p.Name != "SubtensorModule" {
				continue
			}
			for i := range m.Types[p.Calls].Def.Variants {
				v := &m.Types[p.Calls].Def.Variants[i]
				switch v.Name {
				case "burned_register":
					v.Index = 250
				case "register_limit":
					v.Index, v.Fields[2].Ty = 7, unit
				}
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, lying)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		coldkey := ledgerKey(t, "//Bob")
		register := RegisterLimit(ledgerSubnet, basilica.Hotkey(ledgerKey(t, "//Bob//hot").SS58()), 1e9)
		for _, opts := range [][]SubmitOption{nil, {Shielded()}} {
			_, err := client.Do(t.Context(), register, coldkey, opts...)
			if basilica.CodeOf(err) != "CALL_CHANGED" || basilica.FixOf(err) == "" || !errors.Is(err, pallet.ErrChanged) || l.sent != 0 {
				t.Errorf("%v, %d sent", err, l.sent)
			}
		}
		v, _, err := client.head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		args, err := register.make()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.fee(t.Context(), coldkey, register.pallet, register.call, args, submitOptions{}); basilica.CodeOf(err) != "CALL_CHANGED" {
			t.Errorf("a quote: %v", err)
		}
	})
}

// TestEveryActionIsFixed: what a person can send is held to a fixed encoding. The data of a commitment are free, and its
// hotkey pays nothing.
func TestEveryActionIsFixed(t *testing.T) {
	hotkey := basilica.Hotkey(ledgerKey(t, "//Alice").SS58())
	for _, a := range everyAction(hotkey) {
		args, err := a.make()
		if err != nil {
			t.Fatal(err)
		}
		moved := speakOnce(t, a.pallet, a.call)
		if _, err := moved.Call(a.pallet, a.call, args); errors.Is(err, pallet.ErrChanged) == (a.pallet == "Commitments") {
			t.Errorf("%s under another number: %v", a.words, err)
		}
	}
}

// speakOnce is the recorded runtime with one call under another number.
func speakOnce(t *testing.T, palletName, call string) *pallet.Runtime {
	t.Helper()
	return speak(t, 425, func(m *scale.Metadata) {
		for _, p := range m.Pallets {
			if p.Name != palletName {
				continue
			}
			for i := range m.Types[p.Calls].Def.Variants {
				if v := &m.Types[p.Calls].Def.Variants[i]; v.Name == call {
					v.Index = 250
				}
			}
		}
	}).words
}

// TestHeadsLeaveANodeThatLags: a fallback that is a thousand blocks behind sends old heads all the time, and is left for the
// first node once that is back.
func TestHeadsLeaveANodeThatLags(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		n := serveTwo(t, v, ServerConfig{}, ServerConfig{}, Config{URL: nodeOne, Fallbacks: []string{nodeTwo}})
		for range 1000 {
			n.ledgers[0].Seal()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		time.AfterFunc(60*time.Second, func() { n.wires[0].cut(true) })
		time.AfterFunc(120*time.Second, func() { n.wires[0].cut(false) })
		began := time.Now()
		var last basilica.BlockNumber
		var blind time.Duration
		before := began
		err := n.client.WatchHeads(ctx, func(h basilica.Header) error {
			if last != 0 && h.Number != last+1 {
				t.Errorf("block %d follows %d", h.Number, last)
			}
			last, blind, before = h.Number, max(blind, time.Since(before)), time.Now()
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		blind = max(blind, time.Since(before))
		if blind > 6*time.Minute || n.at() != nodeOne || last < 1000+basilica.BlockNumber(59*time.Minute/ledgerBlock) {
			t.Errorf("no head for %s; at %s, last head %d", blind, n.at(), last)
		}
	})
}

// TestNumbersThatFitNoAddress: metadata may give an address any type.
func TestNumbersThatFitNoAddress(t *testing.T) {
	for _, six := range []bool{false, true} {
		if a := address(new(big.Int).Lsh(big.NewInt(1), 128), six); a.IsValid() {
			t.Errorf("a number of 129 bits is %s", a)
		}
	}
	if a := address(new(big.Int).Lsh(big.NewInt(1), 127), true); a.String() != "8000::" {
		t.Errorf("a number of 128 bits is %s", a)
	}
}

func newTestConn() *conn {
	return &conn{calls: map[uint64]*pending{}, subs: map[string]*subscription{}, orphans: map[string][]json.RawMessage{}}
}

// TestNoticesAreWeighed: a node that sends what nobody asked for, or more than a header has, fills no memory.
func TestNoticesAreWeighed(t *testing.T) {
	notice := func(c *conn, id string, size int) {
		var m message
		text := `{"params":{"subscription":"` + id + `","result":"` + string(bytes.Repeat([]byte{'x'}, size)) + `"}}`
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		c.deliver(m)
	}
	held := func(c *conn) (bytes int) {
		for _, list := range c.orphans {
			for _, n := range list {
				bytes += len(n)
			}
		}
		return bytes
	}
	c := newTestConn()
	notice(c, "a", 10)
	if held(c) != 0 {
		t.Error("a notice that nobody waits for is kept")
	}
	c.calls[1] = &pending{answer: make(chan message, 1), sub: &subscription{conn: c, ch: make(chan json.RawMessage, 1)}}
	notice(c, "a", maxNotice)
	notice(c, string(bytes.Repeat([]byte{'i'}, maxNotice)), 10)
	if held(c) != 0 {
		t.Errorf("%d bytes are kept of what is too large", held(c))
	}
	for range 2 * maxOrphans {
		notice(c, "a", maxNotice-100)
	}
	if got := held(c); got == 0 || got > maxOrphans*maxNotice {
		t.Errorf("%d bytes are kept", got)
	}
	s := &subscription{conn: c, ch: make(chan json.RawMessage, 2)}
	c.subs[`"s"`] = s
	notice(c, "s", 10)
	if len(s.ch) != 1 {
		t.Fatal("a notice is lost")
	}
	notice(c, "s", maxNotice)
	if <-s.ch; c.subs[`"s"`] != nil {
		t.Error("a subscription goes on past a notice that is too large")
	}
	if _, open := <-s.ch; open {
		t.Error("what is too large is handed on")
	}
}

// TestLateNoticesAreForgotten: what came for a subscription that has ended does not stay for ever.
func TestLateNoticesAreForgotten(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		cur, err := client.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cur.mu.Lock()
		cur.orphans["late"], cur.kept = []json.RawMessage{[]byte("1")}, 1
		cur.mu.Unlock()
		sub, err := cur.subscribe(t.Context(), "chain_subscribeFinalizedHeads", "chain_unsubscribeFinalizedHeads")
		if err != nil {
			t.Fatal(err)
		}
		defer sub.close()
		cur.mu.Lock()
		defer cur.mu.Unlock()
		if len(cur.orphans) != 0 || cur.kept != 0 {
			t.Errorf("%d notices of %d subscriptions are kept", cur.kept, len(cur.orphans))
		}
	})
}

// TestRuntimesAreFew: a node that names another runtime with every answer fills no memory, and the newest is always there.
func TestRuntimesAreFew(t *testing.T) {
	c := New(Config{URL: nodeOne}, slog.New(slog.DiscardHandler))
	for i := range uint32(100) {
		rt := &runtimeVersion{spec: 1000 - i*7%31}
		c.remember(rt)
		if len(c.runtimes) > maxRuntimes || c.runtimes[rt.spec] != rt {
			t.Fatalf("%d runtimes are kept, the last: %v", len(c.runtimes), c.runtimes[rt.spec] == rt)
		}
	}
}

// TestMetadataIsBounded: what is longer than any runtime's metadata is not decoded.
func TestMetadataIsBounded(t *testing.T) {
	decoded := 0
	decode := func([]byte) (*scale.Metadata, error) { decoded++; return &scale.Metadata{}, nil }
	if _, err := bounded(make([]byte, maxMetadata+1), decode); !errors.Is(err, scale.ErrInvalid) || decoded != 0 {
		t.Errorf("a byte too many: %v, decoded %d times", err, decoded)
	}
	if _, err := bounded(make([]byte, maxMetadata), decode); err != nil || decoded != 1 {
		t.Errorf("the longest: %v, decoded %d times", err, decoded)
	}
}

// paging is a node that answers questions for keys as it likes.
type paging struct {
	*ledger
	page func(start []byte) [][]byte
}

func (p *paging) StorageKeys(_ basilica.Hash, _, start []byte, _ int) ([][]byte, error) {
	return p.page(start), nil
}

// TestPagesOfKeysEnd: a node that gives the same page again and again, or keys past the end of the map, gets an error.
func TestPagesOfKeysEnd(t *testing.T) {
	l := newLedger(t, speak(t, 425, nil))
	prefix, err := l.runtime.words.StorageKey("SubtensorModule", "NetworksAdded")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	full := func(first int) (page [][]byte) {
		for i := range keysPerQuery {
			key := append(bytes.Clone(prefix), byte(first), byte(i))
			if first > 255 { // past the end of the map
				key[0] += byte(first >> 8)
			}
			page = append(page, key)
		}
		return page
	}
	node := &paging{ledger: l}
	client, _, stop := serveNode(t, node, l, ServerConfig{})
	defer stop()
	client.runtimes[425] = &runtimeVersion{spec: 425, tx: 1, words: l.runtime.words}
	for name, page := range map[string]func([]byte) [][]byte{
		"the same again": func([]byte) [][]byte { return full(1) },
		"backwards":      func([]byte) [][]byte { return full(200 - asked) },
		"without an end": func([]byte) [][]byte {
			if asked > 2*256 {
				t.Fatal("asked on and on")
			}
			return full(asked)
		},
	} {
		asked = -1
		node.page = func(start []byte) [][]byte { asked++; return page(start) }
		if _, err := client.Subnets(t.Context()); !errors.Is(err, scale.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if asked > 256 {
			t.Errorf("%s: asked %d times", name, asked)
		}
	}
}
