package subtensor

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/timelock"
)

// sealing makes a ledger keep commits as the chain does: a beacon of its own, epochs of a tempo, timelocked and salted
// commits, their reveals.
type sealing struct {
	l       *ledger
	beacon  *timelock.Signer
	started time.Time
	tempo   uint64
	period  uint64

	skip map[uint64]bool // rounds that are never stored
	jump uint64          // a round that is stored next, out of turn; 0: none
}

const beaconPeriod = 3

func seal(t *testing.T, l *ledger, tempo uint16) *sealing {
	t.Helper()
	secret := make([]byte, 32)
	secret[31] = 7
	signer, err := timelock.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	s := &sealing{l: l, beacon: signer, started: time.Now(), tempo: uint64(tempo), period: 1, skip: map[uint64]bool{}}
	b := &ledgerState{t: t, words: l.runtime.words, store: l.states[0]}
	key := signer.PublicKey().Bytes()
	b.set("SubtensorModule", "CommitRevealWeightsEnabled", true, ledgerSubnet)
	b.set("SubtensorModule", "Tempo", tempo, ledgerSubnet)
	b.set("SubtensorModule", "SubnetworkN", 3, ledgerSubnet)
	b.set("SubtensorModule", "Uids", 1, ledgerSubnet, ledgerKey(t, "//Bob//hot").PublicKey())
	b.set("Timestamp", "Now", uint64(time.Now().UnixMilli()))
	b.set("Drand", "BeaconConfig", map[string]any{
		"public_key": key[:], "period": beaconPeriod, "genesis_time": uint64(s.started.Unix()),
		"hash": []byte{}, "group_hash": []byte{}, "scheme_id": []byte{}, "metadata": map[string]any{"beacon_id": []byte{}},
	})
	l.begin, l.call = s.begin, s.call
	return s
}

func (s *sealing) schedule(b *ledgerState) timelock.Schedule {
	var p picker
	n := func(item string) uint64 { return p.number(item, b.get("SubtensorModule", item, ledgerSubnet)) }
	out := timelock.Schedule{
		Tempo: uint16(n("Tempo")), LastEpochBlock: n("LastEpochBlock"), PendingEpochAt: n("PendingEpochAt"),
		SubnetEpochIndex: n("SubnetEpochIndex"), BlocksSinceLastStep: n("BlocksSinceLastStep"),
	}
	if p.err != nil {
		b.t.Error(p.err)
	}
	return out
}

// begin is a block before its extrinsics: pulses, reveals, then the epoch.
func (s *sealing) begin(number uint64, b *ledgerState) []any {
	now := time.Now()
	b.set("Timestamp", "Now", uint64(now.UnixMilli()))
	var p picker
	last := p.number("LastStoredRound", b.get("Drand", "LastStoredRound"))
	latest := timelock.Beacon{Genesis: s.started.Unix(), Period: beaconPeriod}.RoundAt(now)
	if s.jump > latest {
		latest, last, s.jump = s.jump, s.jump-1, 0
	}
	for round := last + 1; round <= latest; round++ {
		if s.skip[round] {
			continue
		}
		signature, err := s.beacon.Sign(round)
		if err != nil {
			b.t.Error(err)
		}
		randomness := timelock.Randomness(signature)
		b.set("Drand", "Pulses", map[string]any{"round": round, "randomness": randomness[:], "signature": signature}, round)
		b.set("Drand", "LastStoredRound", round)
	}
	sched := s.schedule(b)
	events := s.reveal(sched.Lookahead(number), b)
	sched = sched.Pass(number)
	b.set("SubtensorModule", "LastEpochBlock", sched.LastEpochBlock, ledgerSubnet)
	b.set("SubtensorModule", "SubnetEpochIndex", sched.SubnetEpochIndex, ledgerSubnet)
	b.set("SubtensorModule", "BlocksSinceLastStep", sched.BlocksSinceLastStep, ledgerSubnet)
	return events
}

// reveal opens the timelocked commits whose epoch has come, and drops those before.
func (s *sealing) reveal(epoch uint64, b *ledgerState) (events []any) {
	if epoch < s.period {
		return nil
	}
	target := epoch - s.period
	if target > 0 {
		b.del("SubtensorModule", "TimelockedWeightCommits", ledgerSubnet, target-1)
	}
	var kept []any
	for _, one := range b.get("SubtensorModule", "TimelockedWeightCommits", ledgerSubnet, target).([]any) {
		tuple := one.([]any)
		pulse, ok := b.get("Drand", "Pulses", tuple[3]).(interface{ Get(string) (any, bool) })
		if !ok {
			kept = append(kept, one)
			continue
		}
		signature, _ := pulse.Get("signature")
		plain, err := timelock.Decrypt(signature.([]byte), tuple[2].([]byte))
		if err != nil {
			continue
		}
		w, err := timelock.DecodeWeights(plain)
		if err != nil || !slices.Equal(w.Hotkey, tuple[0].([]byte)) {
			continue
		}
		s.store(b, w.UIDs, w.Values)
		events = append(events, subtensorEvent("TimelockedWeightsRevealed", ledgerSubnet, tuple[0]))
	}
	b.set("SubtensorModule", "TimelockedWeightCommits", kept, ledgerSubnet, target)
	return events
}

func (s *sealing) store(b *ledgerState, uids, values []uint16) {
	row := make([]any, len(uids))
	for i := range uids {
		row[i] = []any{uids[i], values[i]}
	}
	b.set("SubtensorModule", "Weights", row, ledgerSubnet, 1)
	b.set("SubtensorModule", "LastUpdate", []any{0, len(s.l.headers), 0}, ledgerSubnet)
}

// call takes commits and salted reveals.
func (s *sealing) call(who [32]byte, c pallet.Call, b *ledgerState) ([]any, error) {
	arg := func(name string) any { v, _ := c.Args.Get(name); return v }
	number := uint64(len(s.l.headers))
	epoch := s.schedule(b).Lookahead(number)
	switch c.Name {
	case "commit_timelocked_weights":
		list := b.get("SubtensorModule", "TimelockedWeightCommits", ledgerSubnet, epoch).([]any)
		b.set("SubtensorModule", "TimelockedWeightCommits", append(list, []any{who, number, arg("commit"), arg("reveal_round")}), ledgerSubnet, epoch)
	case "commit_weights":
		list, _ := b.get("SubtensorModule", "WeightCommits", ledgerSubnet, who).([]any)
		b.set("SubtensorModule", "WeightCommits", append(list, []any{arg("commit_hash"), epoch, number, 0}), ledgerSubnet, who)
	case "reveal_weights":
		uids, values, salt := numbers(arg("uids")), numbers(arg("values")), numbers(arg("salt"))
		var p picker
		hash := saltHash(who, Target{NetUID: ledgerSubnet}, vector{uids, values, p.number("version_key", arg("version_key"))}, salt)
		list, _ := b.get("SubtensorModule", "WeightCommits", ledgerSubnet, who).([]any)
		for i, one := range list {
			if [32]byte(one.([]any)[0].([]byte)) == hash {
				b.set("SubtensorModule", "WeightCommits", append([]any{}, list[i+1:]...), ledgerSubnet, who)
				s.store(b, uids, values)
				return []any{subtensorEvent("WeightsRevealed", who, ledgerSubnet, hash)}, nil
			}
		}
	}
	return nil, nil
}

func numbers(v any) (out []uint16) {
	for _, n := range v.([]any) {
		out = append(out, uint16(n.(uint64)))
	}
	return out
}

// follow asks for the commit until it has ended, at every block.
func follow(t *testing.T, client *Client, hotkey *keys.Pair, c basilica.WeightCommit, weights []basilica.Weight) basilica.WeightCommit {
	t.Helper()
	for range 200 {
		now, err := client.FollowCommit(t.Context(), ledgerSubnet, basilica.Hotkey(hotkey.SS58()), c, weights)
		if err != nil {
			t.Fatal(err)
		}
		if c = now; c.State != basilica.CommitWaiting {
			return c
		}
		<-time.After(ledgerBlock)
	}
	t.Fatal("the commit never ended")
	return c
}

// commit sets weights on a subnet that takes them sealed, and gives the commit with its block.
func commit(t *testing.T, client *Client, hotkey *keys.Pair, weights []basilica.Weight) basilica.WeightCommit {
	t.Helper()
	var c basilica.WeightCommit
	in, err := client.SetWeights(t.Context(), ledgerSubnet, hotkey, weights, 3, func(s basilica.Signed) error {
		c = *s.Commit
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Block = in.Block
	return c
}

// row is the stored weights of uid 1.
func row(t *testing.T, client *Client) []basilica.Weight {
	t.Helper()
	w, err := client.Weights(t.Context(), ledgerSubnet, 1)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var commitWeights = []basilica.Weight{{UID: 0, Value: 21845}, {UID: 2, Value: 43690}}

// upscaledWeights are the same as the chain stores them.
var upscaledWeights = []basilica.Weight{{UID: 0, Value: 32768}, {UID: 2, Value: 65535}}

// TestWeightsArriveOnceThoughTheNodeIsAway: the node is dropped for 30 seconds while a commit of weights is on its way. One
// commit is in the blocks, the chain opens it once, and the client says so.
func TestWeightsArriveOnceThoughTheNodeIsAway(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		seal(t, l, 20)
		client, wire, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		<-time.After(5 * ledgerBlock)
		var once sync.Once
		l.taken = func(int) {
			once.Do(func() {
				wire.cut(true)
				time.AfterFunc(30*time.Second, func() { wire.cut(false) })
			})
		}
		hotkey := ledgerKey(t, "//Bob//hot")
		c := commit(t, client, hotkey, commitWeights)
		if c.Kind != basilica.CommitTimelock || c.Round == 0 {
			t.Fatalf("%+v", c)
		}
		if got := len(l.extrinsics()); got != 1 {
			t.Fatalf("%d commits are in blocks", got)
		}
		c = follow(t, client, hotkey, c, commitWeights)
		if c.State != basilica.CommitRevealed || c.Revealed <= c.Block || c.Epoch == 0 && c.Block > 20 {
			t.Errorf("%+v", c)
		}
		if got := row(t, client); !slices.Equal(got, upscaledWeights) {
			t.Errorf("stored %v", got)
		}
	})
}

// TestCaseA1_3BeaconRoundThatWillNeverExist: somebody jumps the beacon ahead past the round to which weights are sealed. The
// loss is noticed at once, long before the reveal, and the next commit, to a later round, is opened.
func TestCaseA1_3BeaconRoundThatWillNeverExist(t *testing.T) {
	var field struct {
		Commit struct {
			RevealRound uint64 `json:"reveal_round"`
		}
		Want struct{ State, Reason string }
	}
	readCase(t, "A1-3-drand.json", &field)
	if field.Want.State != string(basilica.CommitLost) || field.Commit.RevealRound != 8120 {
		t.Fatalf("%+v", field)
	}
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		s := seal(t, l, 20)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		<-time.After(3 * ledgerBlock)
		hotkey := ledgerKey(t, "//Bob//hot")
		c := commit(t, client, hotkey, commitWeights)
		l.mu.Lock()
		s.jump = c.Round + 20
		l.mu.Unlock()
		<-time.After(2 * ledgerBlock)
		lost, err := client.FollowCommit(t.Context(), ledgerSubnet, basilica.Hotkey(hotkey.SS58()), c, commitWeights)
		if err != nil || lost.State != basilica.CommitLost || lost.Reason == nil || lost.Reason.Fix == "" || uint64(l.Head().Number) >= 20 {
			t.Fatalf("%+v %v at block %d", lost, err, l.Head().Number)
		}
		<-time.After(40 * beaconPeriod * time.Second)
		again := commit(t, client, hotkey, commitWeights)
		if again.Round <= c.Round {
			t.Errorf("committed to round %d after round %d was lost", again.Round, c.Round)
		}
		if again = follow(t, client, hotkey, again, commitWeights); again.State != basilica.CommitRevealed {
			t.Errorf("%+v", again)
		}
		if late := follow(t, client, hotkey, c, commitWeights); late.State == basilica.CommitWaiting {
			t.Errorf("%+v", late)
		}
	})
}

// TestAPulseThatNeverCame: the round was never stored and none after it; the chain drops the commit with its epoch.
func TestAPulseThatNeverCame(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		s := seal(t, l, 10)
		for round := uint64(20); round < 1000; round++ {
			s.skip[round] = true
		}
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		hotkey := ledgerKey(t, "//Bob//hot")
		c := commit(t, client, hotkey, commitWeights)
		if c = follow(t, client, hotkey, c, commitWeights); c.State != basilica.CommitLost || c.Reason == nil {
			t.Errorf("%+v", c)
		}
	})
}

// TestSaltedCommit: where the chain makes no timelocked commits, weights are hidden behind a salt, and opened by a call when
// their epoch has come; of two in one epoch the later one counts.
func TestSaltedCommit(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		seal(t, l, 20)
		b := &ledgerState{t: t, words: v.words, store: l.states[0]}
		b.set("SubtensorModule", "CommitRevealWeightsVersion", 3)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		<-time.After(2 * ledgerBlock)
		hotkey := ledgerKey(t, "//Bob//hot")
		first := commit(t, client, hotkey, []basilica.Weight{{UID: 0, Value: 65535}})
		second := commit(t, client, hotkey, commitWeights)
		if second.Kind != basilica.CommitSalt || len(second.Salt) != saltLength || second.Hash == first.Hash {
			t.Fatalf("%+v", second)
		}
		if second = follow(t, client, hotkey, second, commitWeights); second.State != basilica.CommitDue {
			t.Fatalf("%+v", second)
		}
		in, err := client.RevealWeights(t.Context(), ledgerSubnet, hotkey, second, commitWeights)
		if err != nil {
			t.Fatal(err)
		}
		if got := row(t, client); !slices.Equal(got, upscaledWeights) {
			t.Errorf("stored %v", got)
		}
		if second = follow(t, client, hotkey, second, commitWeights); second.State != basilica.CommitRevealed || second.Revealed != in.Block {
			t.Errorf("%+v, revealed in block %d", second, in.Block)
		}
		if first = follow(t, client, hotkey, first, []basilica.Weight{{UID: 0, Value: 65535}}); first.State != basilica.CommitReplaced {
			t.Errorf("the earlier one: %+v", first)
		}
		expired := commit(t, client, hotkey, commitWeights)
		<-time.After(60 * ledgerBlock)
		if expired, err = client.FollowCommit(t.Context(), ledgerSubnet, basilica.Hotkey(hotkey.SS58()), expired, commitWeights); err != nil || expired.State != basilica.CommitLost {
			t.Errorf("%+v %v", expired, err)
		}
	})
}

// TestBeaconOfFinneyIsKnown: on finney and test weights are sealed to quicknet alone, whatever the node says of the beacon; on
// other chains to the one that the chain names.
func TestBeaconOfFinneyIsKnown(t *testing.T) {
	v := speak(t, 425, nil)
	quicknet := timelock.Quicknet()
	for name, wrong := range map[string]func(*timelock.Beacon){
		"":        func(*timelock.Beacon) {},
		"key":     func(b *timelock.Beacon) { b.PublicKey[95] ^= 1 },
		"genesis": func(b *timelock.Beacon) { b.Genesis++ },
		"period":  func(b *timelock.Beacon) { b.Period = 30 },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger(t, v)
			seal(t, l, 20)
			b, said := &ledgerState{t: t, words: v.words, store: l.states[0]}, quicknet
			wrong(&said)
			b.set("Drand", "BeaconConfig", map[string]any{
				"public_key": said.PublicKey[:], "period": uint32(said.Period), "genesis_time": uint32(said.Genesis),
				"hash": []byte{}, "group_hash": []byte{}, "scheme_id": []byte{}, "metadata": map[string]any{"beacon_id": []byte{}},
			})
			b.set("Timestamp", "Now", uint64(1_790_000_000_000))
			client, _, stop := serveLedger(t, l, ServerConfig{})
			defer stop()
			view, _, err := client.head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, network := range []string{"local", "finney", "test"} {
				if n, _ := LookupNetwork(network); n.Genesis != nil {
					client.mu.Lock()
					client.genesis = n.Genesis
					client.mu.Unlock()
				}
				want := ""
				if name != "" && network != "local" {
					want = "CHAIN_BEACON"
				}
				got, _, _, err := view.beacon(t.Context())
				if basilica.CodeOf(err) != want || err == nil && got != said {
					t.Errorf("another %s on %s: %v", name, network, err)
				}
			}
		})
	}
}

// TestSubnetWithoutEpochs: a commit that nobody would ever open is not made.
func TestSubnetWithoutEpochs(t *testing.T) {
	v := speak(t, 425, nil)
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, v)
		seal(t, l, 0)
		client, _, stop := serveLedger(t, l, ServerConfig{})
		defer stop()
		_, err := client.SetWeights(t.Context(), ledgerSubnet, ledgerKey(t, "//Bob//hot"), commitWeights, 0, nil)
		if basilica.CodeOf(err) != "SUBNET_NO_EPOCHS" || basilica.FixOf(err) == "" || l.sent != 0 {
			t.Errorf("%v, %d sent", err, l.sent)
		}
	})
}

// TestSaltHashVectors: the hash of a salted commit is the chain's.
func TestSaltHashVectors(t *testing.T) {
	alice := ledgerKey(t, "//Alice")
	got := saltHash(alice.PublicKey(), Target{NetUID: 39}, vector{[]uint16{0, 1}, []uint16{65535, 32768}, 0}, []uint16{1, 2, 3, 4})
	if got.String() != "0xd0683dbcdc3cf3fa86d7273709866eebee6df02c476b58dbb56682fe90b3b90e" {
		t.Errorf("%s", got)
	}
	if n := (Target{NetUID: 2, Mechanism: 1}).index(); n != 4098 {
		t.Errorf("index %d", n)
	}
}
