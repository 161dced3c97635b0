package localnet

import (
	"bytes"
	"crypto/mlkem"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/shield"
	"basilica/timelock"
)

// TestRootStakersAreIndexed: a coldkey that stakes on root is found by its index from then on, whatever else it stakes on.
func TestRootStakersAreIndexed(t *testing.T) {
	s, validator, _ := registered(t, Config{})
	for i, cold := range []string{"//Bob", "//Charlie", "//Bob"} {
		s.must(s.key(cold), "SubtensorModule.add_stake", map[string]any{
			"hotkey": validator.PublicKey(), "netuid": uint16(0), "amount_staked": uint64(1e10),
		})
		if got := s.read("SubtensorModule", "NumStakingColdkeys"); got != uint64(min(i+1, 2)) {
			t.Errorf("%v coldkeys after %d stakes", got, i+1)
		}
	}
	view := past{s.state, s.head()}
	for i, cold := range []string{"//Bob", "//Charlie"} {
		who := account(s.key(cold).PublicKey())
		if got, _ := s.Chain.rt.subnets.stakingColdkeysByIndex.find(view, uint64(i)); got != who {
			t.Errorf("index %d is %x", i, got)
		}
		if got, _ := s.Chain.rt.subnets.stakingColdkeys.find(view, who); got != uint64(i) {
			t.Errorf("%s has index %d", cold, got)
		}
	}
}

// TestShares works the runtime's floating point by hand: 21 digits at most, the rest cut off.
func TestShares(t *testing.T) {
	if got := sharesOf(1_000_000_000); got.big().Cmp(maxMantissa) != 0 || got.exponent != -12 {
		t.Errorf("one TAO is %v", got)
	}
	third := sharesOf(1).timesOver(sharesOf(1), sharesOf(3))
	if got := third.big().String(); got != "333333333333333333333" || third.exponent != -21 {
		t.Errorf("a third is %s, %d", got, third.exponent)
	}
	if got := third.plus(third).plus(third); got.rao() != 0 || got.big().String() != "999999999999999999999" {
		t.Errorf("three thirds are %v", got)
	}
	if got := sharesOf(5).minus(sharesOf(7)); !got.zero() {
		t.Errorf("5 - 7 is %v", got)
	}
}

// TestSettledChildren: children take effect in the block of the first epoch after their cooldown.
func TestSettledChildren(t *testing.T) {
	s, validator, miner := registered(t, Config{Tempo: 10})
	sub := s.Chain.rt.subnets
	parent, child := account(validator.PublicKey()), account(miner.PublicKey())
	settle := func(cooldown uint64, children ...kin) {
		s.poke(func(w writer) { sub.pendingChildKeys.set(w, 39, parent, pendingKin{children, cooldown}) })
	}
	settle(15, kin{1 << 63, child})
	s.seal(10 - int(s.head()))
	if got := sub.childKeys.get(past{s.state, s.head()}, parent, 39); len(got) != 0 {
		t.Errorf("children %v before the cooldown is over", got)
	}
	s.seal(10)
	view := past{s.state, s.head()}
	if got := sub.parentKeys.get(view, child, 39); len(got) != 1 || got[0] != (kin{1 << 63, parent}) {
		t.Errorf("parents of the child: %v", got)
	}
	if got := sub.childKeys.get(view, parent, 39); len(got) != 1 {
		t.Errorf("children: %v", got)
	}
	settle(0)
	s.seal(10)
	view = past{s.state, s.head()}
	if len(sub.parentKeys.get(view, child, 39))+len(sub.childKeys.get(view, parent, 39)) != 0 {
		t.Error("the child was taken away and is still one")
	}
}

// TestRevealWaitsForItsEpoch: where an epoch is put off, so are the commits of its subnet.
func TestRevealWaitsForItsEpoch(t *testing.T) {
	s := newSim(t, Config{NetUID: 2, Tempo: 60000})
	rt := s.Chain.rt
	sub := rt.subnets
	p, _ := s.Pulse(1)
	who := account{9}
	cipher := sealedWeights(t, s, who, 1, []uint16{1}, []uint16{7})
	s.poke(func(w writer) {
		sub.maxEpochs.set(w, 1)
		subnetOf(rt, w, 2, []account{{1}, who})
		subnetOf(rt, w, 1, []account{{1}, {2}})
		for netuid := range uint16(2) {
			sub.tempo.set(w, netuid+1, 5)
			sub.lastEpochBlock.set(w, netuid+1, 0)
		}
		sub.commitReveal.set(w, 2, true)
		sub.epochIndex.set(w, 2, 3)
		sub.timelockedWeightCommits.set(w, 2, 3, []timelockedCommit{{who, 1, cipher, 1}})
		rt.drand.pulses.set(w, 1, pulse{p.Round, p.Randomness, p.Signature})
	})
	rowOf := func() int { return len(sub.weights.get(past{s.state, s.head()}, 2, 1)) }
	s.seal(5)
	if sub.epochIndex.get(past{s.state, s.head()}, 2) != 3 || rowOf() != 0 {
		t.Errorf("block %d: revealed before the epoch that was put off", s.head())
	}
	s.seal(1)
	if sub.epochIndex.get(past{s.state, s.head()}, 2) != 4 || rowOf() != 1 {
		t.Errorf("block %d: epoch %d, %d weights", s.head(), sub.epochIndex.get(past{s.state, s.head()}, 2), rowOf())
	}
}

// sealedWeights is a commit of weights to a round of the chain's own beacon.
func sealedWeights(t *testing.T, s *sim, who account, round uint64, uids, values []uint16) []byte {
	t.Helper()
	key, err := timelock.ParsePublicKey(s.Chain.rt.drand.config.get(past{s.state, s.head()}).key)
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := timelock.Encrypt(key, round, timelock.Weights{Hotkey: who[:], UIDs: uids, Values: values}.Encode(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return cipher
}

// TestShieldedExtrinsic: sealed to the announced key, opened by the author of the next block, byte for byte.
func TestShieldedExtrinsic(t *testing.T) {
	s := newSim(t, Config{Path: filepath.Join(t.TempDir(), "chain")})
	s.seal(3)
	view := past{s.state, s.head()}
	var announced [3][]byte
	for i, v := range []value[[]byte]{s.Chain.rt.shield.next, s.Chain.rt.shield.pending, s.Chain.rt.shield.current} {
		announced[i] = v.get(view)
		if len(announced[i]) != mlkem.EncapsulationKeySize768 {
			t.Fatalf("key %d has %d bytes", i, len(announced[i]))
		}
	}
	alice := s.key("//Alice")
	remark := s.call("System.remark_with_event", map[string]any{"remark": []byte("hidden")})
	for i, key := range announced {
		birth := s.head()
		signing := s.signing(alice.PublicKey())
		signing.Era, signing.BirthHash = pallet.MortalEra(8, birth), s.hash(birth)
		inner := signing
		inner.Nonce++
		raw := s.sign(remark, inner, alice)
		cipher, err := shield.Seal(key, raw)
		if err != nil {
			t.Fatal(err)
		}
		carrier := s.sign(s.call("MevShield.submit_encrypted", map[string]any{"ciphertext": cipher}), signing, alice)
		if _, err := s.Submit(carrier, nil); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		s.seal(1)
		if i == 1 { // the author restarts between carrier and block
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			c, err := New(s.config)
			if err != nil {
				t.Fatal(err)
			}
			s.Chain = c
		}
		if _, err := s.Submit(s.sign(remark, s.signing(s.key("//Bob").PublicKey()), s.key("//Bob")), nil); err != nil {
			t.Fatal(err)
		}
		s.seal(1)
		_, extrinsics, _ := s.Block(s.Head().Hash)
		signed := slices.IndexFunc(extrinsics, func(e []byte) bool { return bytes.Equal(e, raw) })
		if names := s.calls(true); len(names) != 2 || signed != len(extrinsics)-2 {
			t.Fatalf("key %d: calls %v, the inner one is number %d", i, names, signed)
		}
		if err := s.rt.Outcome(s.eventsAt(s.Head().Hash), signed); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if err := s.Chain.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestShieldedRules: what the pool refuses of a submit_encrypted, and what it does not look at.
func TestShieldedRules(t *testing.T) {
	s := newSim(t, Config{})
	s.seal(20)
	alice := s.key("//Alice")
	good, err := shield.Seal(s.Chain.rt.shield.next.get(past{s.state, s.head()}), []byte("no extrinsic at all"))
	if err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(good)
	other[0] ^= 1
	for _, c := range []struct {
		name   string
		cipher []byte
		period uint64
		want   string
	}{
		{"immortal", good, 0, dataStale},
		{"sixteen blocks", good, 16, dataStale},
		{"too short", good[:1000], 8, "Custom error: 23"},
		{"another length of key", append(slices.Clone(good[:16]), make([]byte, 1200)...), 8, "Custom error: 23"},
		{"an unknown key", other, 8, ""},
		{"no extrinsic inside", good, 4, ""},
	} {
		signing := s.signing(alice.PublicKey())
		if c.period > 0 {
			signing.Era, signing.BirthHash = pallet.MortalEra(c.period, s.head()), s.hash(s.head())
		}
		_, err := s.Submit(s.sign(s.call("MevShield.submit_encrypted", map[string]any{"ciphertext": c.cipher}), signing, alice), nil)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			s.seal(2)
			if names := s.calls(true); len(names) != 0 {
				t.Errorf("%s: %v follows", c.name, names)
			}
			continue
		}
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	// Inside a batch neither period nor ciphertext is looked at.
	inner := scale.NewVariant("MevShield", scale.VariantValue{Name: "submit_encrypted", Fields: scale.Struct{{Name: "ciphertext", Value: []byte{1}}}})
	s.must(alice, "Utility.batch_all", map[string]any{"calls": []any{inner}})
	if _, err := s.Submit(s.sign(s.call("MevShield.announce_next_key", map[string]any{"enc_key": nil}), s.signing(alice.PublicKey()), alice), nil); err != nil {
		t.Fatal(err)
	}
	s.seal(1)
	if got := len(s.Chain.rt.shield.next.get(past{s.state, s.head()})); got != shield.PublicKeySize {
		t.Errorf("anybody announces keys: %d bytes", got)
	}
}

// TestReorganisation: blocks that are not final go, their extrinsics come again, hashes differ, the file follows.
func TestReorganisation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain")
	s := newSim(t, Config{Path: path, FinalityLag: 4})
	s.seal(10)
	if got := s.Finalized().Number; got != 6 {
		t.Fatalf("block %d is final", got)
	}
	var states []string
	alice, bob := s.key("//Alice"), s.key("//Bob")
	submit := func(by *keys.Pair, into *[]string) []byte {
		raw := s.sign(s.call("System.remark_with_event", map[string]any{"remark": []byte("again")}), s.signing(by.PublicKey()), by)
		if _, err := s.Submit(raw, func(state string, block basilica.Hash) { *into = append(*into, state) }); err != nil {
			t.Fatal(err)
		}
		return raw
	}
	submit(alice, &states)
	var lost []string
	forgotten := submit(bob, &lost)
	s.seal(2)
	former, nonce := s.Head(), s.NextIndex(alice.PublicKey())
	if err := s.Reorganise(5, nil); err == nil {
		t.Error("a final block was dropped")
	}
	if err := s.Reorganise(3, func(raw []byte) bool { return bytes.Equal(raw, forgotten) }); err != nil {
		t.Fatal(err)
	}
	if s.head() != 9 || s.NextIndex(alice.PublicKey()) != nonce {
		t.Errorf("head %d, nonce %d", s.head(), s.NextIndex(alice.PublicKey()))
	}
	s.seal(3)
	if s.Head().Number != former.Number || s.Head().Hash == former.Hash {
		t.Errorf("head %v after %v", s.Head(), former)
	}
	if _, _, known := s.Block(former.Hash); known {
		t.Error("a dropped block is still there")
	}
	header, _, _ := s.Block(s.Head().Hash)
	if header.Hash() != s.Head().Hash {
		t.Error("the hash is not the header's")
	}
	s.seal(4)
	if want := []string{"ready", "inBlock", "retracted", "ready", "inBlock", "finalized"}; !slices.Equal(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	if want := []string{"ready", "inBlock", "retracted", "dropped"}; !slices.Equal(lost, want) {
		t.Errorf("states of the lost one %v, want %v", lost, want)
	}
	head, state := s.Head(), s.state.snapshot(s.head())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := New(Config{Path: path, Clock: s.config.Clock})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Head() != head || fmt.Sprint(again.state.snapshot(again.head())) != fmt.Sprint(state) {
		t.Errorf("after a restart: head %v, want %v", again.Head(), head)
	}
}

// TestDelayedInclusion: what comes while inclusion is delayed waits so many blocks.
func TestDelayedInclusion(t *testing.T) {
	s := newSim(t, Config{})
	s.DelayInclusion(3)
	if err := s.submit(s.key("//Alice"), "System.remark", map[string]any{"remark": []byte{1}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{0, 0, 0, 1} {
		if s.seal(1); len(s.calls(true)) != want {
			t.Errorf("block %d has %d extrinsics, want %d", s.head(), len(s.calls(true)), want)
		}
	}
}

// TestUpgrade is case A1-5 and more: pallets and errors get other numbers, extensions come in, a struct grows; old blocks
// read as they were written, and the chain goes on from its file.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain")
	at := time.Unix(1_790_000_000, 0)
	clock := func() time.Time { return at }
	s := newSim(t, Config{Path: path, Clock: clock})
	old, cold, hot := s.rt, s.key("//Bob"), s.key("//Bob//hot")
	s.must(cold, "SubtensorModule.burned_register", map[string]any{"netuid": uint16(39), "hotkey": hot.PublicKey()})
	s.must(hot, "SubtensorModule.serve_axon_tls", with(axonArgs(39), "certificate", []byte{1, 2, 3}))
	before := s.Head()
	waiting := s.sign(s.call("System.remark", map[string]any{"remark": []byte{1}}), s.signing(cold.PublicKey()), cold)
	var fate []string
	if _, err := s.Submit(waiting, func(state string, _ basilica.Hash) { fate = append(fate, state) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Upgrade(Upgrade{Pallets: 3, Errors: 1, Extension: true, Field: true}); err != nil {
		t.Fatal(err)
	}
	s.seal(1)
	if fate[len(fate)-1] != "invalid" {
		t.Errorf("what was signed for the old runtime: %v", fate)
	}
	_, err := s.Submit(waiting, nil)
	wantError(t, err, dataBadProof)
	s.relearn()
	if header, _, _ := s.Block(s.Head().Hash); !slices.ContainsFunc(header.Digest, func(d []byte) bool { return len(d) == 1 && d[0] == runtimeUpdated }) {
		t.Error("the digest does not tell of the upgrade")
	}
	was, err := old.Call("SubtensorModule", "start_call", map[string]any{"netuid": uint16(1)})
	if err != nil {
		t.Fatal(err)
	}
	if is := s.call("SubtensorModule.start_call", map[string]any{"netuid": uint16(1)}); is[0] != was[0]+3 {
		t.Errorf("SubtensorModule has index %d, had %d", is[0], was[0])
	}
	wantError(t, s.do(cold, "SubtensorModule.burned_register", map[string]any{"netuid": uint16(0), "hotkey": hot.PublicKey()}), "RegistrationNotPermittedOnRootSubnet")
	s.must(cold, "SubtensorModule.burned_register", map[string]any{"netuid": uint16(39), "hotkey": [32]byte{7}})
	certificate := fmt.Sprint(s.read("SubtensorModule", "NeuronCertificates", uint16(39), hot.PublicKey()))
	if !strings.Contains(certificate, "added_by_upgrade") {
		t.Errorf("certificate %s", certificate)
	}
	if _, err := old.Events(s.raw(before.Hash, "System", "Events")); err != nil {
		t.Errorf("events of an old block: %v", err)
	}
	version := func(c *Chain, at basilica.Hash) uint32 {
		b, err := c.CallAPI(at, "Core_version", nil)
		if err != nil {
			t.Fatal(err)
		}
		r := scale.NewReader(b)
		r.Text()
		r.Text()
		r.U32()
		return r.U32()
	}
	if a, b := version(s.Chain, before.Hash), version(s.Chain, s.Head().Hash); a != specVersion || b != specVersion+1 {
		t.Errorf("spec versions %d and %d", a, b)
	}
	head := s.Head()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := New(Config{Path: path, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	s.Chain = again
	s.relearn()
	if s.Head() != head || version(again, before.Hash) != specVersion {
		t.Errorf("after a restart: %v", s.Head())
	}
	s.must(cold, "System.remark", map[string]any{"remark": []byte{1}})
	// An extension that carries bytes: who knows it by name only must not sign.
	if err := s.Upgrade(Upgrade{Payload: true}); err != nil {
		t.Fatal(err)
	}
	s.seal(1)
	s.relearn()
	if _, err := s.rt.Sign(s.call("System.remark", map[string]any{"remark": []byte{1}}), s.signing(cold.PublicKey()), cold); err == nil {
		t.Error("signed with an unknown extension that carries bytes")
	}
	if err := s.Upgrade(Upgrade{Pallets: 250}); err == nil {
		t.Error("pallets were moved too far")
	}
	t.Cleanup(func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
}

// relearn reads the chain's metadata again.
func (s *sim) relearn() {
	s.t.Helper()
	answer, err := s.CallAPI(s.Head().Hash, "Metadata_metadata_at_version", []byte{15, 0, 0, 0})
	if err != nil {
		s.t.Fatal(err)
	}
	meta, err := scale.DecodeOpaqueMetadata(answer)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.rt, err = pallet.New(meta); err != nil {
		s.t.Fatal(err)
	}
}

// TestRootSells: where the prices of all subnets sum up to more than 1, root's part of the emission waits for its stakers;
// else it is recycled. A subnet may go without the owner's cut.
func TestRootSells(t *testing.T) {
	s := newSim(t, Config{Tempo: 60000})
	rt := s.Chain.rt
	sub := rt.subnets
	s.poke(func(w writer) { sub.subnetTAO.set(w, rootNetuid, 1e15) })
	s.seal(1)
	if waits, back := sub.pendingRoot.get(past{s.state, 1}, 39), rt.assets.recycled.get(past{s.state, 1}, 39); waits != 0 || back == 0 {
		t.Errorf("one subnet: %d wait, %d recycled", waits, back)
	}
	s.poke(func(w writer) {
		sub.networksAdded.set(w, 1, true)
		sub.tempo.set(w, 1, 60000)
		sub.firstEmission.set(w, 1, 1)
		sub.subtokenEnabled.set(w, 1, true)
		sub.ownerCutEnabled.set(w, 1, false)
	})
	s.seal(1)
	before, after := past{s.state, 1}, past{s.state, 2}
	if sub.pendingRoot.get(after, 39) == 0 || rt.assets.recycled.get(after, 39) != rt.assets.recycled.get(before, 39) {
		t.Errorf("two subnets: %d wait", sub.pendingRoot.get(after, 39))
	}
	if cut, server := sub.pendingOwnerCut.get(after, 1), sub.pendingServer.get(after, 1); cut != 0 || server != 500_000_000 {
		t.Errorf("without the owner's cut: cut %d, servers %d", cut, server)
	}
	if got := sub.pendingServer.get(after, 39) - sub.pendingServer.get(before, 39); got != 410_002_288 {
		t.Errorf("with it: servers %d", got)
	}
}
