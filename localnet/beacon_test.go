package localnet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/timelock"
)

// TestBeaconSimulator: the chain names its beacon's key, writes a round each second, and clients can check them.
func TestBeaconSimulator(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	s := newSim(t, Config{Clock: func() time.Time { return at }, BlockTime: time.Second})
	for range 5 {
		s.seal(1)
		at = at.Add(time.Second)
	}
	if got := s.read("Drand", "LastStoredRound"); got != uint64(5) {
		t.Errorf("last round %v", got)
	}
	config := s.Chain.rt.drand.config.get(past{s.state, s.head()})
	key, err := timelock.ParsePublicKey(config.key)
	if err != nil || config.period != 1 || config.genesis != 1_790_000_000 {
		t.Fatalf("%+v, %v", config, err)
	}
	p, found := s.Chain.rt.drand.pulses.find(past{s.state, s.head()}, 4)
	if !found || key.Verify(4, p.signature) != nil {
		t.Errorf("pulse of round 4: %v", p)
	}
	if got := s.calls(false); got[2] != "Drand.write_pulse" {
		t.Errorf("inherents %v", got)
	}
	at = at.Add(time.Hour) // the fetcher catches up, a piece in each block
	s.seal(2)
	if got := s.read("Drand", "LastStoredRound"); got != uint64(5+2*maxFetched) {
		t.Errorf("last round %v", got)
	}
}

// writePulse is a bare write_pulse of a stranger.
func writePulse(t *testing.T, s *sim, by *keys.Pair, pulses ...Pulse) []byte {
	t.Helper()
	var list []pulse
	for _, p := range pulses {
		list = append(list, pulse{p.Round, p.Randomness, p.Signature})
	}
	raw, err := s.Chain.rt.pulsesInherent(s.head()+1, list, by)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestBeaconRoundThatWillNeverExist is case A1-3: anybody may write a pulse far ahead of the last one; the rounds between
// are never stored, and commits that wait for one of them are deleted an epoch later, without a word.
func TestBeaconRoundThatWillNeverExist(t *testing.T) {
	var story struct {
		Commit struct {
			RevealRound uint64 `json:"reveal_round"`
		}
		Chain []map[string]any
	}
	vectors.JSON(t, "cases/A1-3-drand.json", &story)
	last, jump := uint64(story.Chain[0]["LastStoredRound"].(float64)), uint64(story.Chain[1]["bare_write_pulse_round"].(float64))
	s := newSim(t, Config{Tempo: 10})
	rt := s.Chain.rt
	sub := rt.subnets
	s.HoldPulses(true)
	who := account{9}
	cipher := sealedWeights(t, s, who, story.Commit.RevealRound, []uint16{1}, []uint16{1})
	s.poke(func(w writer) {
		subnetOf(rt, w, 39, []account{{1}, who})
		sub.commitReveal.set(w, 39, true)
		sub.epochIndex.set(w, 39, 51)
		sub.timelockedWeightCommits.set(w, 39, 52, []timelockedCommit{{who, 1, cipher, story.Commit.RevealRound}})
		rt.drand.lastStored.set(w, last)
		rt.drand.oldestStored.set(w, 1)
	})
	p, ok := s.Pulse(jump)
	if !ok {
		t.Fatal("no beacon of the chain's own")
	}
	forged := p
	forged.Signature = bytes.Repeat([]byte{1}, len(p.Signature))
	for _, pulses := range [][]Pulse{{forged}, {p}} {
		if _, err := s.Submit(writePulse(t, s, s.key("//Eve"), pulses...), nil); err != nil {
			t.Fatal(err)
		}
	}
	s.seal(1)
	stored := func(round uint64) bool {
		_, found := rt.drand.pulses.find(past{s.state, s.head()}, round)
		return found
	}
	if got := s.read("Drand", "LastStoredRound"); got != jump || !stored(jump) || stored(story.Commit.RevealRound) {
		t.Errorf("last round %v", got)
	}
	// An earlier round than the last is refused, the chain's own fetcher goes on behind the jump.
	s.HoldPulses(false)
	early, _ := s.Pulse(story.Commit.RevealRound)
	if _, err := s.Submit(writePulse(t, s, s.key("//Eve"), early), nil); err != nil {
		t.Fatal(err)
	}
	s.seal(20 - int(s.head()))
	if got := sub.epochIndex.get(past{s.state, s.head()}, 39); got != 53 {
		t.Fatalf("epoch %d", got)
	}
	if stored(story.Commit.RevealRound) || len(sub.timelockedWeightCommits.get(past{s.state, s.head()}, 39, 52)) != 1 {
		t.Error("the commit should wait for a pulse that never comes")
	}
	s.seal(10)
	if got := rt.timelockedEpochs(past{s.state, s.head()}, 39); len(got) != 0 || len(sub.weights.get(past{s.state, s.head()}, 39, 1)) != 0 {
		t.Errorf("commits of epochs %v are left", got)
	}
}

// TestBarePulses: what the pool asks of a write_pulse, and that no other call may come unsigned.
func TestBarePulses(t *testing.T) {
	s := newSim(t, Config{})
	s.HoldPulses(true)
	one, _ := s.Pulse(1)
	raw := writePulse(t, s, s.key("//Eve"), one)
	if _, err := s.Submit(raw, nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.Submit(raw, nil)
	wantRefusal(t, err, 1013)
	spoilt := slices.Clone(raw)
	spoilt[len(spoilt)-1] ^= 1
	_, err = s.Submit(spoilt, nil)
	wantError(t, err, dataBadProof)
	s.seal(1)
	_, err = s.Submit(raw, nil) // the block that it names has been written in
	if s.seal(1); err != nil {
		t.Errorf("the same block again: %v", err)
	}
	later, _ := s.Pulse(2)
	s.must(s.key("//Alice"), "System.remark", map[string]any{"remark": []byte{1}})
	future, err := s.Chain.rt.pulsesInherent(s.head()+9, []pulse{{later.Round, later.Randomness, later.Signature}}, s.key("//Eve"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Submit(future, nil)
	wantError(t, err, dataFuture)
	_, err = s.Submit(s.Chain.rt.bare(shieldIndex, 0, []byte{0}), nil)
	wantError(t, err, dataMandatory)
}

func wantRefusal(t *testing.T, err error, code int) {
	t.Helper()
	if r, ok := err.(*Rejection); !ok || r.Code != code {
		t.Errorf("got %v, want code %d", err, code)
	}
}

// TestQuicknetPulses: a chain that follows the public beacon takes its recorded pulses when their time has come, and opens
// what the official ciphertext vectors sealed to them.
func TestQuicknetPulses(t *testing.T) {
	var file bytes.Buffer
	var record struct {
		Pulses []struct {
			Round                 number
			Signature, Randomness string
		}
	}
	vectors.JSON(t, "subtensor425/rules/timelock_timeline.json", &record)
	for _, p := range slices.Backward(record.Pulses) {
		fmt.Fprintf(&file, "{\"round\": %d, \"randomness\": %q, \"signature\": %q}\n", p.Round, p.Randomness[2:], p.Signature[2:])
	}
	pulses, err := ReadPulses(&file)
	if err != nil || len(pulses) != 3 || pulses[0].Round != 1000 {
		t.Fatalf("%v, %v", pulses, err)
	}
	at := timelock.Quicknet().TimeOf(30_668_812)
	s := newSim(t, Config{Pulses: pulses, Clock: func() time.Time { return at }, BlockTime: 500 * time.Millisecond})
	s.seal(1)
	if got := s.read("Drand", "LastStoredRound"); got != uint64(30_668_812) {
		t.Errorf("last round %v", got)
	}
	at = at.Add(3 * time.Second)
	s.seal(1)
	if got := s.read("Drand", "LastStoredRound"); got != uint64(30_668_813) {
		t.Errorf("last round %v", got)
	}
	if _, simulated := s.Pulse(1); simulated {
		t.Error("the public beacon has no secret here")
	}
	provoke.Each(t, map[string]func(*testing.T) error{"LOCALNET_PULSES": func(t *testing.T) error {
		_, err := ReadPulses(strings.NewReader("?"))
		return err
	}})
	for _, bad := range []string{"{", `{"round":1}`, `{"round":1,"randomness":"zz","signature":""}`, `{"round":1,"randomness":"","signature":"zz"}`} {
		if _, err := ReadPulses(strings.NewReader(bad)); basilica.CodeOf(err) != "LOCALNET_PULSES" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestRecordedPulsesExtrinsic reads the write_pulse of a real block of spec 438: its payload is what its author signed.
func TestRecordedPulsesExtrinsicVector(t *testing.T) {
	text := string(vectors.Read(t, "bittensor/subtensor-localnet-spec438.json"))
	rt, err := newRuntime(12000)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		case string:
			raw, err := hex.DecodeString(strings.TrimPrefix(v, "0x"))
			if err != nil || len(raw) < 100 {
				return
			}
			bare, err := rt.decodeBare(raw)
			if err != nil || bare == nil {
				return
			}
			found++
			w := bare.pulses
			if len(w.pulses) == 0 || !keys.Verify(w.scheme, w.public, w.payload(), w.signature) {
				t.Errorf("%d pulses, signature does not hold", len(w.pulses))
			}
			if again, err := rt.decodeBare(rt.bare(drandIndex, 0, append(append(w.payload(), 1, 1), w.signature...))); err != nil || fmt.Sprint(again.pulses) != fmt.Sprint(w) {
				t.Errorf("does not encode again: %v", err)
			}
			x := &execution{overlay: newOverlay(past{newHistory(0), 0}), rt: rt, block: 7}
			if err := rt.writePulses(x, w.pulses, false); err != nil || rt.drand.lastStored.get(x) != w.pulses[len(w.pulses)-1].round {
				t.Errorf("the pulses are not taken: %v", err)
			}
		}
	}
	var all any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	walk(all)
	if t.Logf("%d write_pulse", found); found == 0 {
		t.Error("no write_pulse in the record")
	}
}

// TestKeptPulses: the oldest rounds go when there are too many, at most a hundred at a time.
func TestKeptPulses(t *testing.T) {
	rt, err := newRuntime(12000)
	if err != nil {
		t.Fatal(err)
	}
	x := &execution{overlay: newOverlay(past{newHistory(0), 0}), rt: rt, block: 7}
	for round := range uint64(150) {
		rt.drand.pulses.set(x, round+1, pulse{round: round + 1})
	}
	rt.drand.oldestStored.set(x, 1)
	rt.drand.lastStored.set(x, keptPulses)
	if err := rt.writePulses(x, []pulse{{round: keptPulses + 150}}, true); err != nil {
		t.Fatal(err)
	}
	_, first := rt.drand.pulses.find(x, 100)
	_, second := rt.drand.pulses.find(x, 101)
	if rt.drand.oldestStored.get(x) != 101 || first || !second {
		t.Errorf("oldest is %d", rt.drand.oldestStored.get(x))
	}
}

// FuzzReadPulses: whatever a file says is read or refused with its code.
func FuzzReadPulses(f *testing.F) {
	f.Add([]byte(`{"round": 1000, "randomness": "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd", ` +
		`"signature": "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"}`))
	f.Add([]byte(`{"round": 0} {`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		pulses, err := ReadPulses(bytes.NewReader(text))
		if err != nil && basilica.CodeOf(err) != "LOCALNET_PULSES" {
			t.Errorf("refused without its code: %v", err)
		}
		for i, p := range pulses {
			if p.Round == 0 || i > 0 && pulses[i-1].Round >= p.Round {
				t.Errorf("pulse %d is of round %d", i, p.Round)
			}
		}
	})
}
