package localnet

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/pallet"
	"basilica/scale"
)

// recordedExtrinsic is a case of extrinsics/*.json.gz.
type recordedExtrinsic struct {
	ID, Call, GenesisHash, CheckpointHash string
	Chain                                 string
	Signer                                struct {
		URI  string `json:"uri"`
		SS58 string `json:"ss58"`
	}
	Nonce, Tip                  number
	AtBlock                     uint64
	Era                         struct{ BirthBlock *number }
	ExtrinsicHex, ExtrinsicHash string
	Validity                    struct{ Decoded json.RawMessage }
	IncludedIn                  struct {
		Number uint64
		Hash   string
		Index  int
	}
	RawEvents   string
	StorageDiff []struct {
		Item, Key     string
		Args          []any
		Before, After *string
	}

	fate string // accepted, failed or rejected
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hash32(t *testing.T, s string) (h basilica.Hash) {
	t.Helper()
	if err := h.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return h
}

// modelChain is the chain whose runtime the record is played on. Its beacon stays silent, as the recorder's did.
var modelChain = sync.OnceValues(func() (*Chain, error) {
	return New(Config{BlockTime: 12 * time.Second, Clock: func() time.Time { return time.Unix(1_780_000_000, 0) }})
})

// beginning is where a chain of the test begins: a genesis, a head, the hashes of the blocks up to it, and storage.
type beginning struct {
	genesis basilica.Hash
	block   uint64
	hashes  map[uint64]basilica.Hash // others are made up
	storage map[string][]byte
}

// startAt makes a chain whose head is a block of another chain, with what the test says of its past.
func startAt(model *Chain, from beginning) *Chain {
	c := &Chain{
		config: model.config, rt: model.rt, log: model.log, author: model.author, signer: model.signer, runtimes: model.runtimes,
		state: newHistory(from.block), blocks: map[uint64]block{}, shieldKeys: maps.Clone(model.shieldKeys),
		pool: newPool(), grown: make(chan struct{}), beacon: model.beacon, pulsesHeld: true,
	}
	storage := newOverlay(past{newHistory(0), 0})
	for number := range from.block + 1 {
		hash, known := from.hashes[number]
		switch {
		case number == 0:
			hash = from.genesis
		case !known:
			hash = basilica.Hash(pallet.Blake2b256(u64(number)))
		}
		c.hashes.push(hash)
		c.rt.system.blockHash.set(storage, uint32(number), account(hash))
	}
	for k, v := range from.storage {
		storage.put(k, v)
	}
	c.state.apply(from.block, storage.changes())
	return c
}

// play is the whole folder extrinsics/, and what is known of each of its two chains.
type play struct {
	t      *testing.T
	model  *Chain
	rt     *runtime
	real   *pallet.Runtime // by the recorded metadata
	ours   *pallet.Runtime // by localnet's
	cases  []recordedExtrinsic
	hashes map[string]map[uint64]basilica.Hash
}

func readPlay(t *testing.T) *play {
	t.Helper()
	model, err := modelChain()
	if err != nil {
		t.Fatal(err)
	}
	read := func(blob []byte) *pallet.Runtime {
		meta, err := scale.DecodeMetadata(blob)
		if err != nil {
			t.Fatal(err)
		}
		out, err := pallet.New(meta)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	r := &play{
		t: t, model: model, rt: model.rt, ours: read(model.rt.v15),
		real:   read(vectors.Read(t, "subtensor425/decoding/metadata-v15.scale")),
		hashes: map[string]map[uint64]basilica.Hash{},
	}
	for _, fate := range []string{"accepted", "failed", "rejected"} {
		var file struct{ Cases []recordedExtrinsic }
		vectors.JSON(t, "subtensor425/extrinsics/"+fate+".json.gz", &file)
		for _, c := range file.Cases {
			c.fate = fate
			r.cases = append(r.cases, c)
			known := r.hashes[c.Chain]
			if known == nil {
				known = map[uint64]basilica.Hash{}
				r.hashes[c.Chain] = known
			}
			if c.IncludedIn.Number > 0 {
				known[c.IncludedIn.Number] = hash32(t, c.IncludedIn.Hash)
			}
		}
	}
	// The hashes that signatures cover come last: of two forks of a block, theirs is the one that counts.
	for _, c := range r.cases {
		if c.Era.BirthBlock != nil && c.ID != "expired_era" {
			r.hashes[c.Chain][uint64(*c.Era.BirthBlock)] = hash32(t, c.CheckpointHash)
		}
	}
	return r
}

// Accepted cases that were made on a fork at the block of another case with the same nonce, which went on.
var forked = []string{"burned_register_burn_above_max", "serve_axon_zero_ip", "serve_axon_127_0_0_2"}

// stayed says whether what a case changed was there afterwards: on a fork the signer's next extrinsic has the same nonce.
func (r *play) stayed(c recordedExtrinsic) bool {
	next := uint64(1 << 62)
	nonce := number(1 << 62)
	for _, o := range r.cases {
		if o.Chain == c.Chain && o.Signer == c.Signer && o.AtBlock > c.AtBlock && o.AtBlock < next && o.ID != "stale_nonce" {
			next, nonce = o.AtBlock, o.Nonce
		}
	}
	return nonce != c.Nonce && !slices.Contains(forked, c.ID)
}

// prepare makes the storage that a case starts from: the least that every call needs, what earlier cases left, the
// case's own provocation, and for an accepted one what the record says was there before.
func (r *play) prepare(c recordedExtrinsic) map[string][]byte {
	w := newOverlay(past{newHistory(0), 0})
	foundation(r.rt, w, c)
	for _, o := range r.cases {
		if o.fate == "accepted" && o.Chain == c.Chain && o.AtBlock < c.AtBlock && r.stayed(o) {
			for _, d := range o.StorageDiff {
				r.put(w, d.Key, d.After)
			}
		}
	}
	schedule(r.rt, w, c)
	for _, d := range c.StorageDiff {
		r.put(w, d.Key, d.Before)
	}
	if provoke := provocations[c.ID]; provoke != nil {
		provoke(r.rt, w, c)
	}
	r.fund(w, c)
	return w.changes()
}

func (r *play) put(w writer, key string, value *string) {
	if value == nil {
		w.put(string(unhex(r.t, key)), nil)
		return
	}
	w.put(string(unhex(r.t, key)), append([]byte{}, unhex(r.t, *value)...))
}

// fund gives the signer its nonce and, but for hotkeys that never had any, a balance. The genesis of the real runtime
// leaves its accounts without the flag that a balance gets when it first moves; where the record says Upgraded, this was
// that moment.
func (r *play) fund(w writer, c recordedExtrinsic) {
	who := ss58(c.Signer.SS58)
	info, known := r.rt.system.account.find(w, who)
	if !known {
		info = accountInfo{free: 1e15, providers: 1, flags: newLogic}
		if hotkey := c.Signer.URI[strings.LastIndex(c.Signer.URI, "/")+1:]; strings.HasPrefix(hotkey, "h") || hotkey == "ownerhot" || strings.HasPrefix(hotkey, "nobody") {
			info = accountInfo{flags: newLogic}
		}
	}
	info.nonce = uint32(c.Nonce)
	if c.ID == "stale_nonce" || c.ID == "future_nonce" {
		info.nonce = 1
	}
	for _, e := range r.recordedEvents(c) {
		if e.Is("Balances", "Upgraded") {
			info.free, info.providers, info.flags = max(info.free, 1e12), 1, [2]uint64{}
		}
	}
	r.rt.system.account.set(w, who, info)
}

// recordedEvents are the events of the extrinsic itself.
func (r *play) recordedEvents(c recordedExtrinsic) []pallet.Event {
	if c.RawEvents == "" {
		return nil
	}
	events, err := r.real.Events(unhex(r.t, c.RawEvents))
	if err != nil {
		r.t.Fatalf("%s: %v", c.ID, err)
	}
	return ofExtrinsic(events, c.IncludedIn.Index)
}

func ofExtrinsic(events []pallet.Event, index int) (out []pallet.Event) {
	for _, e := range events {
		if e.Phase == pallet.ApplyExtrinsic && e.Extrinsic == index {
			e.Extrinsic = 0
			out = append(out, e)
		}
	}
	return out
}

// refusal is the pool's answer to a validity in the record.
func refusal(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var validity struct {
		Err *struct{ Invalid json.RawMessage }
	}
	if err := json.Unmarshal(raw, &validity); err != nil {
		t.Fatal(err)
	}
	if validity.Err == nil {
		return ""
	}
	var custom struct{ Custom *int }
	if err := json.Unmarshal(validity.Err.Invalid, &custom); err == nil && custom.Custom != nil {
		return fmt.Sprintf("Custom error: %d", *custom.Custom)
	}
	var name string
	if err := json.Unmarshal(validity.Err.Invalid, &name); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"Payment": dataPayment, "BadProof": dataBadProof, "Stale": dataStale, "BadSigner": dataBadSigner, "Future": dataFuture,
	}[name]
}

// TestExtrinsicsVector plays every recorded extrinsic: its validity or its error by name, its fee, its events, and for an
// accepted one what it wrote.
func TestExtrinsicsVector(t *testing.T) {
	r := readPlay(t)
	played, keysCompared := map[string]int{}, 0
	for _, c := range r.cases {
		storage := r.prepare(c)
		from := beginning{hash32(t, c.GenesisHash), c.AtBlock, r.hashes[c.Chain], storage}
		if c.ID == "wrong_genesis" {
			from.genesis = hash32(t, r.cases[0].GenesisHash)
		}
		chain := startAt(r.model, from)
		var states []string
		_, err := chain.Submit(unhex(t, c.ExtrinsicHex), func(state string, _ basilica.Hash) { states = append(states, state) })
		played[c.fate+" "+c.Call]++
		if c.fate == "rejected" {
			r.compareRefusal(c, chain, err, states)
			continue
		}
		if err != nil {
			t.Errorf("%s: refused: %v", c.ID, err)
			continue
		}
		if _, err := chain.Seal(); err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		r.compareEvents(c, chain)
		if c.fate == "accepted" {
			keysCompared += r.compareWrites(c, chain, from)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(played)) {
		t.Logf("%s: %d", topic, played[topic])
	}
	t.Logf("%d extrinsics played, %d keys that calls wrote compared, %d items left out where a block alone changes them", len(r.cases), keysCompared, len(leftOut))
	if len(r.cases) != 192 {
		t.Errorf("the record has 192 extrinsics, %d were played", len(r.cases))
	}
}

func (r *play) compareRefusal(c recordedExtrinsic, chain *Chain, err error, states []string) {
	want := refusal(r.t, c.Validity.Decoded)
	if want == "" { // a nonce of the future: the pool keeps it, no block takes it
		if err != nil || !slices.Equal(states, []string{"future"}) {
			r.t.Errorf("%s: %v, %v", c.ID, states, err)
		}
		if _, err := chain.Seal(); err != nil {
			r.t.Fatal(err)
		}
		if len(chain.Pending()) != 1 {
			r.t.Errorf("%s: a block took it", c.ID)
		}
		return
	}
	var refused *Rejection
	if !errors.As(err, &refused) {
		r.t.Errorf("%s: %v, want %s", c.ID, err, want)
	} else if refused.Data != want || refused.Code != 1010 {
		r.t.Errorf("%s: %v, want %s", c.ID, refused, want)
	}
}

func (r *play) ourEvents(c recordedExtrinsic, chain *Chain) []pallet.Event {
	head := chain.Head().Hash
	_, extrinsics, _ := chain.Block(head)
	index := slices.IndexFunc(extrinsics, func(e []byte) bool { return string(e) == string(unhex(r.t, c.ExtrinsicHex)) })
	if index < 0 {
		r.t.Errorf("%s: not included", c.ID)
		return nil
	}
	raw, _ := past{chain.state, chain.head()}.get(r.rt.system.events.prefix)
	ours, err := r.ours.Events(raw)
	if err != nil {
		r.t.Fatalf("%s: %v", c.ID, err)
	}
	return ofExtrinsic(ours, index)
}

// compareEvents compares names, order and fields; fee, weight and dispatch error stand in them.
func (r *play) compareEvents(c recordedExtrinsic, chain *Chain) {
	got, want := r.ourEvents(c, chain), r.recordedEvents(c)
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = fmt.Sprint(got[i].Pallet, ".", got[i].Name, " ", got[i].Fields)
		}
		if i < len(want) {
			w = fmt.Sprint(want[i].Pallet, ".", want[i].Name, " ", want[i].Fields)
		}
		if g != w {
			r.t.Errorf("%s: event %d\n got %s\nwant %s", c.ID, i, g, w)
			return
		}
	}
}

// leftOut are the points of the record that a vector test does not compare, each with its reason and the test that
// compares it elsewhere or works it by hand. An extrinsic's case leaves out what its block changes by itself, as far as the
// call does not write it too: id is "block", or "epoch block" for what only a block with an epoch changes. Id "epochs" is
// what the cases of epochs/ leave out.
var leftOut = []struct{ id, item, reason, shownBy string }{
	{"block", "SubtensorModule.Burn", "prices fall as a block begins", "TestBurnSeriesVector"},
	{"block", "SubtensorModule.RegistrationsThisBlock", "counts start over as a block begins", "TestBurnSeriesVector"},
	{"block", "SubtensorModule.RegistrationsThisInterval", "counts start over when an epoch is due", "TestRootInterval"},
	{"block", "SubtensorModule.BlocksSinceLastStep", "counts blocks", "TestEpochBlocksVector"},
	{"block", "SubtensorModule.SubnetAlphaOut", "a block's emission", "TestEpochsVector"},
	{"block", "SubtensorModule.PendingOwnerCut", "a block's emission", "TestEpochsVector"},
	{"block", "SubtensorModule.PendingServerEmission", "a block's emission", "TestEpochsVector"},
	{"block", "SubtensorModule.PendingValidatorEmission", "a block's emission", "TestEpochsVector"},
	{"block", "SubtensorModule.SubnetMovingPrice", "follows the price block by block", "TestEpochsVector"},
	{"block", "SubtensorModule.RootProp", "root's part of a block's emission", "TestEpochsVector"},
	{"block", "AlphaAssets.TotalAlphaIssuance", "a block's emission", "TestEpochsVector"},
	{"block", "AlphaAssets.AlphaRecycled", "a block's emission", "TestEpochsVector"},
	{"epoch block", "AlphaAssets.AlphaBurned", "what the owner's miners would have earned", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.MinerBurned", "what the owner's miners would have earned", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.PendingRootAlphaDivs", "paid out by the epoch", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.PendingEpochAt", "the epoch's schedule", "TestEpochBlocksVector"},
	{"epoch block", "SubtensorModule.SubnetEpochIndex", "the epoch's schedule", "TestEpochBlocksVector"},
	{"epoch block", "SubtensorModule.LastEpochBlock", "the epoch's schedule", "TestEpochBlocksVector"},
	{"epoch block", "SubtensorModule.LastMechansimStepBlock", "the epoch's schedule", "TestEpochBlocksVector"},
	{"epoch block", "SubtensorModule.AlphaDividendsPerSubnet", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.RootAlphaDividendsPerSubnet", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.RootClaimable", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.AlphaV2", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.TotalHotkeySharesV2", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.TotalHotkeyAlpha", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.TotalHotkeyAlphaLastEpoch", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.Bonds", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.StakeWeight", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.Dividends", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.Incentive", "the epoch's outcome", "TestEpochsVector"},
	{"epoch block", "SubtensorModule.Emission", "the epoch's outcome", "TestEpochsVector"},
	{"epochs", "SubtensorModule.AlphaV2MapLastKey", walksStakes, "TestRootStakersAreIndexed"},
	{"epochs", "SubtensorModule.NumStakingColdkeys", walksStakes, "TestRootStakersAreIndexed"},
	{"epochs", "SubtensorModule.StakingColdkeys", walksStakes, "TestRootStakersAreIndexed"},
	{"epochs", "SubtensorModule.StakingColdkeysByIndex", walksStakes, "TestRootStakersAreIndexed"},
}

func exempt(id, item string) bool {
	for _, l := range leftOut {
		if l.id == id && l.item == item {
			return true
		}
	}
	return false
}

// TestLeftOut finds every test that the table names.
func TestLeftOut(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(b)
	}
	for _, l := range leftOut {
		if !strings.Contains(source.String(), "func "+l.shownBy+"(t *testing.T)") {
			t.Errorf("%s: there is no %s", l.item, l.shownBy)
		}
	}
}

// compareWrites compares every key that the call itself wrote with the record, and finds keys that it should have
// written. What a block does by itself is no matter here.
func (r *play) compareWrites(c recordedExtrinsic, sealed *Chain, from beginning) (compared int) {
	written := r.writes(c, from)
	type change struct{ item, key, value string }
	after := map[string]change{}
	epoch := false
	for _, d := range c.StorageDiff {
		v := "nothing"
		if d.After != nil {
			v = *d.After
		}
		after[string(unhex(r.t, d.Key))] = change{d.Item, fmt.Sprint(d.Item, d.Args), v}
		epoch = epoch || d.Item == "SubtensorModule.SubnetEpochIndex"
	}
	view := past{sealed.state, sealed.head()}
	for _, key := range slices.Sorted(maps.Keys(written)) {
		if strings.HasPrefix(key, string(pallet.Twox128([]byte("System")))) || strings.HasPrefix(key, string(pallet.Twox128([]byte("Balances")))) {
			continue // not in the record
		}
		item := r.itemOf(key)
		want, changed := after[key]
		if !changed {
			want.value = "nothing"
			if v, had := from.storage[key]; had && v != nil {
				want.value = "0x" + hex.EncodeToString(v)
			}
		}
		got := "nothing"
		if v, has := view.get(key); has {
			got = "0x" + hex.EncodeToString(v)
		}
		compared++
		if got != want.value {
			r.t.Errorf("%s: %s (%s)\n got %s\nwant %s", c.ID, item, want.key, got, want.value)
		}
	}
	for key, want := range after {
		if !written[key] && !exempt("block", want.item) && !(epoch && exempt("epoch block", want.item)) {
			r.t.Errorf("%s: %s was not written", c.ID, want.key)
		}
	}
	return compared
}

// writes are the keys that the call wrote: what an execution has after it beyond what the block did before.
func (r *play) writes(c recordedExtrinsic, from beginning) map[string]bool {
	chain := startAt(r.model, from)
	ext, err := r.rt.decodeExtrinsic(unhex(r.t, c.ExtrinsicHex))
	if err != nil {
		r.t.Fatal(err)
	}
	x := chain.next()
	if err := r.rt.beginBlock(x); err != nil {
		r.t.Fatal(err)
	}
	begun := x.overlay
	x.overlay = newOverlay(begun)
	x.apply(1, ext)
	out := map[string]bool{}
	for key, value := range x.changes() {
		before, had := begun.get(key)
		if (value != nil) != had || string(value) != string(before) {
			out[key] = true
		}
	}
	return out
}

// itemOf names the storage item of a key of ours.
func (r *play) itemOf(key string) string {
	for _, p := range r.rt.pallets {
		if p.storage == nil {
			continue
		}
		module := string(pallet.Twox128([]byte(p.storage.pallet)))
		if !strings.HasPrefix(key, module) {
			continue
		}
		for _, e := range p.storage.entries {
			if strings.HasPrefix(key, module+string(pallet.Twox128([]byte(e.name)))) {
				return p.name + "." + e.name
			}
		}
	}
	return fmt.Sprintf("%x", key)
}
