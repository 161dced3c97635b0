package localnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"basilica"
	"basilica/internal/vectors"
	"basilica/pallet"
	"basilica/scale"
	"basilica/yuma"
)

// put45 is a beginning on the record's chain, whose genesis hash is 0x45 repeated.
func put45(block uint64, storage map[string][]byte) beginning {
	return beginning{genesis: basilica.Hash(bytes.Repeat([]byte{0x45}, 32)), block: block, storage: storage}
}

// inject puts an extrinsic of an account whose key nobody has here into the pool, as if its signature had been checked.
func inject(t *testing.T, c *Chain, who account, call []byte) error {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.rt.decodeCall(scale.NewReader(call))
	if err != nil {
		t.Fatal(err)
	}
	x := c.next()
	ext := &extrinsic{who: who, nonce: c.rt.system.account.get(x, who).nonce, call: d}
	for c.pool.slots[who][ext.nonce] != nil {
		ext.nonce++
	}
	ext.raw = scale.AppendBytes(nil, append(append([]byte("injected"), who[:]...), append(u64(uint64(ext.nonce)), call...)...))
	ext.hash = pallet.Blake2b256(ext.raw)
	return c.pool.add(x, ext, nil, x.block)
}

// callOf encodes a call of SubtensorModule from the SCALE bytes of its arguments.
func callOf(t *testing.T, c *Chain, name string, args ...[]byte) []byte {
	t.Helper()
	for _, p := range c.rt.pallets {
		for _, call := range p.calls {
			if p.name == "SubtensorModule" && call.name == name {
				return append([]byte{p.index, call.index}, bytes.Join(args, nil)...)
			}
		}
	}
	t.Fatalf("no call %s", name)
	return nil
}

// subnetOf lays a subnet of n neurons with stake and permits into w; hotkeys are those given, by uid.
func subnetOf(rt *runtime, w writer, netuid uint16, hotkeys []account) {
	s := rt.subnets
	s.networksAdded.set(w, rootNetuid, true)
	s.networksAdded.set(w, netuid, true)
	s.subnetworkN.set(w, netuid, uint16(len(hotkeys)))
	s.minAllowedWeights.set(w, netuid, 1)
	s.yuma3.set(w, netuid, true)
	s.maxValidators.set(w, netuid, 64)
	var permits []bool
	for uid, hotkey := range hotkeys {
		s.keys.set(w, netuid, uint16(uid), hotkey)
		s.uids.set(w, netuid, hotkey, uint16(uid))
		s.owner.set(w, hotkey, account{0xc0, byte(uid)})
		rt.stakeAlpha(w, hotkey, account{0xc0, byte(uid)}, netuid, 1e12)
		permits = append(permits, true)
	}
	s.permit.set(w, netuid, permits)
}

// TestTimelockTimelineVector lives through the recorded life of timelocked commits, with their real ciphertexts and pulses.
func TestTimelockTimelineVector(t *testing.T) {
	type action struct {
		Commit, Hotkey, Ciphertext string
		Round                      number
		WeightsVersionKey          *uint64
		PulseStored                *number
	}
	var record struct {
		Netuid, Tempo      uint16
		RevealPeriodEpochs uint64
		UIDs               map[string]uint16 `json:"uids"`
		Pulses             []struct {
			Round                 number
			Signature, Randomness string
		}
		Blocks []struct {
			Block                                             uint64
			Actions                                           []action
			Events                                            []map[string]any
			LastEpochBlock, SubnetEpochIndex, LastStoredRound number
			TimelockedWeightCommits                           []json.RawMessage
			Weights                                           [][][2]uint16
			LastUpdate                                        []number
		}
	}
	vectors.JSON(t, "subtensor425/rules/timelock_timeline.json", &record)
	model, err := modelChain()
	if err != nil {
		t.Fatal(err)
	}
	rt, net := model.rt, record.Netuid
	s := rt.subnets
	hotkeys := make([]account, 7)
	hotkeys[0] = account{1}
	for text, uid := range record.UIDs {
		hotkeys[uid] = address(t, text)
	}
	pulses := map[number]pulse{}
	for _, p := range record.Pulses {
		pulses[p.Round] = pulse{uint64(p.Round), fromHex(t, p.Randomness), fromHex(t, p.Signature)}
	}
	o := newOverlay(past{newHistory(0), 0})
	subnetOf(rt, o, net, hotkeys)
	first := record.Blocks[0]
	s.tempo.set(o, net, record.Tempo)
	s.revealPeriodEpochs.set(o, net, record.RevealPeriodEpochs)
	s.commitReveal.set(o, net, true)
	s.weightsRateLimit.set(o, net, 0)
	s.lastEpochBlock.set(o, net, uint64(first.LastEpochBlock))
	s.epochIndex.set(o, net, uint64(first.SubnetEpochIndex))
	s.lastUpdate.set(o, net, numbers(first.LastUpdate))
	rt.drand.lastStored.set(o, uint64(first.LastStoredRound))
	rt.drand.pulses.set(o, 1000, pulses[1000])
	chain := startAt(model, put45(first.Block, o.changes()))
	commits := 0
	for _, b := range record.Blocks[1:] {
		for _, a := range b.Actions {
			switch {
			case a.Commit != "":
				call := callOf(t, chain, "commit_timelocked_weights", u16(net), scale.AppendBytes(nil, fromHex(t, a.Ciphertext)), u64(uint64(a.Round)), u16(4))
				if err := inject(t, chain, address(t, a.Hotkey), call); err != nil {
					t.Fatalf("%s: %v", a.Commit, err)
				}
				commits++
			case a.WeightsVersionKey != nil:
				poked(chain, func(w writer) { s.versionKey.set(w, net, *a.WeightsVersionKey) })
			case a.PulseStored != nil:
				poked(chain, func(w writer) { rt.drand.pulses.set(w, uint64(*a.PulseStored), pulses[*a.PulseStored]) })
			}
		}
		if _, err := chain.Seal(); err != nil {
			t.Fatal(err)
		}
		view := past{chain.state, chain.head()}
		if chain.head() != b.Block || s.lastEpochBlock.get(view, net) != uint64(b.LastEpochBlock) ||
			s.epochIndex.get(view, net) != uint64(b.SubnetEpochIndex) || rt.drand.lastStored.get(view) != uint64(b.LastStoredRound) {
			t.Errorf("block %d: epoch %d at %d", chain.head(), s.epochIndex.get(view, net), s.lastEpochBlock.get(view, net))
		}
		if got := s.lastUpdate.get(view, net); !slices.Equal(got, numbers(b.LastUpdate)) {
			t.Errorf("block %d: last updates %v, want %v", b.Block, got, b.LastUpdate)
		}
		for uid, want := range b.Weights {
			if got := s.weights.get(view, net, uint16(uid)); !slices.Equal(got, rows(want)) {
				t.Errorf("block %d: weights of %d are %v, want %v", b.Block, uid, got, want)
			}
		}
		compareTimelocked(t, rt, view, net, b.Block, b.TimelockedWeightCommits)
		compareNames(t, chain, b.Block, b.Events)
	}
	t.Logf("%d blocks, %d commits", len(record.Blocks)-1, commits)
}

func poked(c *Chain, change func(w writer)) {
	o := newOverlay(past{c.state, c.head()})
	change(o)
	c.state.apply(c.head(), o.changes())
}

// compareTimelocked compares the commits that are stored, [[epoch, [[who, block, ciphertext, round]]]].
func compareTimelocked(t *testing.T, rt *runtime, view past, netuid uint16, block uint64, want []json.RawMessage) {
	t.Helper()
	expected := newOverlay(past{newHistory(0), 0})
	c := epochCase{Netuid: netuid}
	for _, raw := range want {
		c.putTimelocked(t, rt, expected, raw)
	}
	epochs := rt.timelockedEpochs(expected, netuid)
	if got := rt.timelockedEpochs(view, netuid); !slices.Equal(got, epochs) {
		t.Errorf("block %d: commits of epochs %v, want %v", block, got, epochs)
	}
	for _, epoch := range epochs {
		a, b := rt.subnets.timelockedWeightCommits.get(view, netuid, epoch), rt.subnets.timelockedWeightCommits.get(expected, netuid, epoch)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("block %d: commits of epoch %d are %v, want %v", block, epoch, a, b)
		}
	}
}

// compareNames compares the block's events about weights, by their names and, of commits, the hash of the ciphertext.
func compareNames(t *testing.T, chain *Chain, block uint64, want []map[string]any) {
	t.Helper()
	var got, names []string
	for _, e := range eventsOf(t, chain) {
		switch e.Name {
		case "WeightsSet", "TimelockedWeightsCommitted", "TimelockedWeightsRevealed":
			got = append(got, e.Name)
		}
	}
	for _, e := range want {
		names = append(names, e["event"].(string))
	}
	if !slices.Equal(got, names) {
		t.Errorf("block %d: events %v, want %v", block, got, names)
	}
}

// eventsOf decodes the head's events by the chain's own metadata.
func eventsOf(t *testing.T, chain *Chain) []pallet.Event {
	t.Helper()
	meta, err := scale.DecodeMetadata(chain.rt.v15)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := pallet.New(meta)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := past{chain.state, chain.head()}.get(chain.rt.system.events.prefix)
	events, err := rt.Events(raw)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestCommitRevealTimelineVector tries the reveal of a recorded commit in each of the following blocks, each on a branch of
// its own.
func TestCommitRevealTimelineVector(t *testing.T) {
	var record struct {
		Netuid uint16
		Runs   []struct {
			Tempo              uint16
			RevealPeriodEpochs uint64
			ScheduleBefore     struct{ LastEpochBlock, SubnetEpochIndex number }
			CommitBlock        uint64
			WeightCommits      [][4]any `json:"weightCommitsStored"`
			Commit             struct {
				Who                string
				UIDs, Values, Salt []uint16
				VersionKey         number
				Hash               string
			}
			RevealAttempts []struct {
				RevealInBlock uint64
				Ok            bool
				Error         struct{ Custom int }
				After         struct{ LastEpochBlock, SubnetEpochIndex number }
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/commit_reveal_timeline.json", &record)
	model, err := modelChain()
	if err != nil {
		t.Fatal(err)
	}
	rt, net, attempts := model.rt, record.Netuid, 0
	s := rt.subnets
	for i, run := range record.Runs {
		who := address(t, run.Commit.Who)
		hotkeys := []account{{1}, who}
		for n := byte(2); n < 14; n++ {
			hotkeys = append(hotkeys, account{n})
		}
		o := newOverlay(past{newHistory(0), 0})
		subnetOf(rt, o, net, hotkeys)
		s.tempo.set(o, net, run.Tempo)
		s.revealPeriodEpochs.set(o, net, run.RevealPeriodEpochs)
		s.commitReveal.set(o, net, true)
		s.lastEpochBlock.set(o, net, uint64(run.ScheduleBefore.LastEpochBlock))
		s.epochIndex.set(o, net, uint64(run.ScheduleBefore.SubnetEpochIndex))
		chain := startAt(model, put45(run.CommitBlock-1, o.changes()))
		commit := account(fromHex(t, run.Commit.Hash))
		if err := inject(t, chain, who, callOf(t, chain, "commit_weights", u16(net), commit[:])); err != nil {
			t.Fatal(err)
		}
		if _, err := chain.Seal(); err != nil {
			t.Fatal(err)
		}
		stored := s.weightCommits.get(past{chain.state, chain.head()}, net, who)
		if want := run.WeightCommits[0]; len(stored) != 1 || stored[0].hash != account(fromHex(t, want[0].(string))) ||
			stored[0].epoch != decimal(t, want[1]) || stored[0].block != decimal(t, want[2]) {
			t.Errorf("run %d: stored %v, want %v", i, stored, want)
		}
		lists := listOf(cU16)
		reveal := callOf(t, chain, "reveal_weights", u16(net), lists.encode(nil, run.Commit.UIDs), lists.encode(nil, run.Commit.Values),
			lists.encode(nil, run.Commit.Salt), u64(uint64(run.Commit.VersionKey)))
		for _, a := range run.RevealAttempts {
			attempts++
			branch := startAt(model, put45(a.RevealInBlock-1, chain.state.snapshot(a.RevealInBlock-1)))
			refused := inject(t, branch, who, reveal)
			var r *Rejection
			if a.Ok != (refused == nil) || !a.Ok && (!errors.As(refused, &r) || r.Data != fmt.Sprintf("Custom error: %d", a.Error.Custom)) {
				t.Errorf("run %d: reveal in block %d: %v", i, a.RevealInBlock, refused)
			}
			for _, c := range []*Chain{branch, chain} {
				if _, err := c.Seal(); err != nil {
					t.Fatal(err)
				}
				view := past{c.state, c.head()}
				if s.lastEpochBlock.get(view, net) != uint64(a.After.LastEpochBlock) || s.epochIndex.get(view, net) != uint64(a.After.SubnetEpochIndex) {
					t.Errorf("run %d: after block %d: epoch %d", i, a.RevealInBlock, s.epochIndex.get(view, net))
				}
			}
			row := s.weights.get(past{branch.state, branch.head()}, net, 1)
			if want := a.Ok; want != (len(row) == 1 && row[0].UID == run.Commit.UIDs[0]) {
				t.Errorf("run %d: reveal in block %d leaves weights %v", i, a.RevealInBlock, row)
			}
		}
	}
	t.Logf("%d commits, %d attempts to reveal", len(record.Runs), attempts)
}

// TestReplacementVector registers on the recorded full subnet, step by step: who goes, and what stays of it.
func TestReplacementVector(t *testing.T) {
	type neuron struct {
		UID                           uint16 `json:"uid"`
		Hotkey, Coldkey               string
		Emission, BlockAtRegistration number
	}
	var record struct {
		Netuid, MaxAllowedUids         uint16
		SubnetOwner, SubnetOwnerHotkey string
		Steps                          []struct {
			RegisteredInBlock                uint64
			Ok                               bool
			ImmunityPeriod, MinNonImmuneUids uint16
			NeuronsBefore                    []neuron
			NewHotkey                        string
			ReplacedUID                      *uint16 `json:"replacedUid"`
			After                            struct {
				Vectors struct {
					Emission, LastUpdate                                         []number
					Consensus, Dividends, Incentive, ValidatorTrust, StakeWeight []uint16
					ValidatorPermit, Active                                      []bool
				}
				AllWeights, AllBonds [][][2]uint16
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/pruning.json", &record)
	model, err := modelChain()
	if err != nil {
		t.Fatal(err)
	}
	rt, net, payer := model.rt, record.Netuid, account{0xaa}
	s, n := rt.subnets, record.MaxAllowedUids
	o := newOverlay(past{newHistory(0), 0})
	s.networksAdded.set(o, net, true)
	s.subnetworkN.set(o, net, n)
	s.maxAllowedUids.set(o, net, n)
	s.subnetOwner.set(o, net, address(t, record.SubnetOwner))
	s.subnetOwnerHotkey.set(o, net, address(t, record.SubnetOwnerHotkey))
	rt.balances.totalIssuance.set(o, 1e18)
	rt.system.account.set(o, payer, accountInfo{free: 1e18, providers: 1, flags: newLogic})
	first := record.Steps[0].After.Vectors
	all := func(v uint16) []uint16 { return slices.Repeat([]uint16{v}, int(n)) }
	s.consensus.set(o, net, all(9))
	s.dividends.set(o, net, all(8))
	s.incentive.set(o, net, all(7))
	s.trust.set(o, net, all(first.ValidatorTrust[0]))
	s.permit.set(o, net, slices.Repeat([]bool{true}, int(n)))
	s.active.set(o, net, slices.Repeat([]bool{true}, int(n)))
	var updates []uint64
	for uid := range n {
		updates = append(updates, uint64(uid)+1)
		s.weights.set(o, net, uid, []yuma.Entry{{UID: uid, Value: 5}, {UID: (uid + 1) % n, Value: 6}, {UID: (uid + 2) % n, Value: 9}})
		s.bonds.set(o, net, uid, []yuma.Entry{{UID: uid, Value: 7}, {UID: (uid + 1) % n, Value: 8}})
	}
	s.lastUpdate.set(o, net, updates)
	for i, step := range record.Steps {
		x := &execution{overlay: o, rt: rt, block: step.RegisteredInBlock, phase: phaseInitialization}
		s.immunityPeriod.set(x, net, step.ImmunityPeriod)
		s.minNonImmuneUids.set(x, net, step.MinNonImmuneUids)
		s.burn.set(x, net, 1e6)
		var emission []uint64
		for _, m := range step.NeuronsBefore {
			s.keys.set(x, net, m.UID, address(t, m.Hotkey))
			s.uids.set(x, net, address(t, m.Hotkey), m.UID)
			s.registeredBlock.set(x, net, m.UID, uint64(m.BlockAtRegistration))
			emission = append(emission, uint64(m.Emission))
		}
		s.emission.set(x, net, emission)
		x.begin()
		err := rt.register(net, address(t, step.NewHotkey), nil).run(x, origin{who: payer})
		if x.commit(); step.Ok != (err == nil) {
			t.Errorf("step %d: %v", i, err)
			continue
		}
		if step.ReplacedUID != nil && s.keys.get(x, net, *step.ReplacedUID) != address(t, step.NewHotkey) {
			t.Errorf("step %d: uid %d was not replaced", i, *step.ReplacedUID)
		}
		v := step.After.Vectors
		for name, pair := range map[string][2]any{
			"emission": {s.emission.get(x, net), numbers(v.Emission)}, "last update": {s.lastUpdate.get(x, net), numbers(v.LastUpdate)},
			"consensus": {s.consensus.get(x, net), v.Consensus}, "dividends": {s.dividends.get(x, net), v.Dividends},
			"incentive": {s.incentive.get(x, net), v.Incentive}, "trust": {s.trust.get(x, net), v.ValidatorTrust},
			"permits": {s.permit.get(x, net), v.ValidatorPermit}, "active": {s.active.get(x, net), v.Active},
		} {
			if fmt.Sprint(pair[0]) != fmt.Sprint(pair[1]) {
				t.Errorf("step %d: %s is %v, want %v", i, name, pair[0], pair[1])
			}
		}
		for uid := range n {
			if got := s.weights.get(x, net, uid); !slices.Equal(got, rows(step.After.AllWeights[uid])) {
				t.Errorf("step %d: weights of %d are %v, want %v", i, uid, got, step.After.AllWeights[uid])
			}
			if got := s.bonds.get(x, net, uid); !slices.Equal(got, rows(step.After.AllBonds[uid])) {
				t.Errorf("step %d: bonds of %d are %v, want %v", i, uid, got, step.After.AllBonds[uid])
			}
		}
	}
	t.Logf("%d registrations", len(record.Steps))
}
