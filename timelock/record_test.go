package timelock

import (
	"bytes"
	"errors"
	"testing"

	"basilica/internal/vectors"
)

// TestTimelockTimelineVector opens every commit that the runtime of spec 425 was given, with the real pulses of the record.
func TestTimelockTimelineVector(t *testing.T) {
	var record struct {
		Pulses []struct {
			Round                 uint64 `json:",string"`
			Signature, Randomness hexBytes
		}
		Blocks []struct {
			Actions []struct {
				Commit              string
				Round, EncryptedFor uint64 `json:",string"`
				Ciphertext, Payload hexBytes
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/timelock_timeline.json", &record)
	q := Quicknet()
	key, err := ParsePublicKey(q.PublicKey[:])
	if err != nil {
		t.Fatal(err)
	}
	signatures := map[uint64][]byte{}
	for _, p := range record.Pulses {
		if err := key.Verify(p.Round, p.Signature); err != nil || Randomness(p.Signature) != [32]byte(p.Randomness) {
			t.Errorf("pulse %d: %v", p.Round, err)
		}
		signatures[p.Round] = p.Signature
	}
	opened, refused := 0, 0
	for _, b := range record.Blocks {
		for _, a := range b.Actions {
			if a.Commit == "" {
				continue
			}
			got, err := Decrypt(signatures[a.Round], a.Ciphertext)
			if a.Payload == nil || a.EncryptedFor != 0 {
				if refused++; !errors.Is(err, ErrCiphertext) {
					t.Errorf("%s: %x, %v", a.Commit, got, err)
				}
				continue
			}
			if opened++; err != nil || !bytes.Equal(got, a.Payload) {
				t.Errorf("%s: %x, %v, want %x", a.Commit, got, err, []byte(a.Payload))
			}
			w, err := DecodeWeights(got)
			switch a.Commit {
			case "payload is not SCALE":
				if !errors.Is(err, ErrPayload) {
					t.Errorf("%s: %+v, %v", a.Commit, w, err)
				}
			case "legacy payload without hotkey":
				if err != nil || w.Hotkey != nil || len(w.UIDs) != 2 {
					t.Errorf("%s: %+v, %v", a.Commit, w, err)
				}
			default:
				if err != nil || len(w.Hotkey) != 32 || !bytes.Equal(w.Encode(), got) {
					t.Errorf("%s: %+v, %v", a.Commit, w, err)
				}
			}
		}
	}
	t.Logf("timelock timeline: %d pulses, %d commits opened, %d refused", len(record.Pulses), opened, refused)
}

// TestScheduleVector walks the schedules of the recorded subnets block by block, deferrals included.
func TestScheduleVector(t *testing.T) {
	type row struct {
		netuid          uint16
		block           uint64
		since, last     uint64
		pending, epochs uint64
	}
	var record struct {
		Runs []struct {
			Subnets []struct{ Netuid, Tempo uint16 }
			Rows    [][7]any
		}
	}
	vectors.JSON(t, "subtensor425/rules/epoch_blocks.json", &record)
	parse := func(v any) (n uint64) {
		for _, digit := range v.(string) {
			n = n*10 + uint64(digit-'0')
		}
		return n
	}
	walked, deferred := 0, 0
	for _, run := range record.Runs {
		tempos, now := map[uint16]uint16{}, map[uint16]Schedule{}
		for _, s := range run.Subnets {
			tempos[s.Netuid] = s.Tempo
		}
		for _, raw := range run.Rows {
			r := row{uint16(raw[0].(float64)), uint64(raw[1].(float64)), parse(raw[3]), parse(raw[4]), parse(raw[5]), parse(raw[6])}
			after := Schedule{
				Tempo: tempos[r.netuid], LastEpochBlock: r.last, PendingEpochAt: r.pending,
				SubnetEpochIndex: r.epochs, BlocksSinceLastStep: r.since,
			}
			before, known := now[r.netuid]
			now[r.netuid] = after
			if !known {
				continue
			}
			walked++
			want := before.Pass(r.block)
			if r.pending == r.block+1 { // more were due in this block than may run in one
				deferred++
				if want.SubnetEpochIndex != before.SubnetEpochIndex+1 {
					t.Errorf("subnet %d, block %d: deferred, but not due: %+v", r.netuid, r.block, before)
				}
				want = before
				want.BlocksSinceLastStep++
				want.PendingEpochAt = r.block + 1
			}
			if want != after {
				t.Errorf("subnet %d, block %d: %+v, want %+v", r.netuid, r.block, want, after)
			}
		}
	}
	t.Logf("schedules: %d blocks of subnets, %d of them deferred", walked, deferred)

	var control struct {
		Steps []struct {
			Action string
			State  struct {
				Block               uint64
				Tempo               uint16
				LastEpochBlock      uint64  `json:",string"`
				PendingEpochAt      uint64  `json:",string"`
				NextEpochStartBlock *uint64 `json:",string"`
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/tempo_control.json", &control)
	for _, s := range control.Steps {
		next, ok := Schedule{Tempo: s.State.Tempo, LastEpochBlock: s.State.LastEpochBlock, PendingEpochAt: s.State.PendingEpochAt}.Next()
		if want := s.State.NextEpochStartBlock; ok != (want != nil) || ok && next != *want {
			t.Errorf("%s at %d: next epoch at %d, %v", s.Action, s.State.Block, next, ok)
		}
	}
	t.Logf("tempo control: %d states", len(control.Steps))
}

// timeline is a commit and the same reveal tried in every later block.
type timeline struct {
	Netuid uint16
	Runs   []struct {
		Tempo              uint16
		RevealPeriodEpochs uint64
		ScheduleBefore     struct {
			LastEpochBlock, SubnetEpochIndex uint64 `json:",string"`
		}
		CommitBlock    uint64
		RevealAttempts []struct {
			RevealInBlock uint64
			OK            bool
		}
	}
}

// TestRevealTimelineVector plans each recorded commit: the chain takes the reveal from the planned block on, and no earlier.
func TestRevealTimelineVector(t *testing.T) {
	for folder, plan := range map[string]func(netuid, tempo uint16, s Schedule, commit, period uint64) (Plan, error){
		"subtensor425": func(_, _ uint16, s Schedule, commit, period uint64) (Plan, error) { return s.Plan(commit-1, period) },
		"subtensor": func(netuid, tempo uint16, _ Schedule, commit, period uint64) (Plan, error) {
			return LegacyPlan(netuid, tempo, commit, period)
		},
	} {
		var record timeline
		vectors.JSON(t, folder+"/rules/commit_reveal_timeline.json", &record)
		attempts := 0
		for i, run := range record.Runs {
			before := Schedule{
				Tempo: run.Tempo, LastEpochBlock: run.ScheduleBefore.LastEpochBlock, SubnetEpochIndex: run.ScheduleBefore.SubnetEpochIndex,
				BlocksSinceLastStep: run.CommitBlock - 1 - run.ScheduleBefore.LastEpochBlock,
			}
			p, err := plan(record.Netuid, run.Tempo, before, run.CommitBlock, run.RevealPeriodEpochs)
			if err != nil {
				t.Fatal(err)
			}
			first := uint64(0)
			for _, a := range run.RevealAttempts {
				attempts++
				if a.OK && first == 0 {
					first = a.RevealInBlock
				}
			}
			if p.FirstReveal != first {
				t.Errorf("%s, run %d: planned %+v, the chain took it first in %d", folder, i, p, first)
			}
		}
		t.Logf("%s: %d commits, %d attempts to reveal", folder, len(record.Runs), attempts)
	}
}

// TestLegacyEpochVector: on a chain of spec 293 an epoch runs in the last block of its index.
func TestLegacyEpochVector(t *testing.T) {
	var record struct {
		FirstBlock uint64
		Subnets    []struct {
			Netuid, Tempo uint16
			EpochBlocks   []uint64
		}
		Rows [][4]any
	}
	vectors.JSON(t, "subtensor/rules/epoch_blocks.json", &record)
	last := uint64(record.Rows[len(record.Rows)-1][1].(float64))
	epochs := 0
	for _, s := range record.Subnets {
		if s.Tempo == 0 {
			if _, err := LegacyPlan(s.Netuid, 0, record.FirstBlock, 1); !errors.Is(err, ErrNoEpochs) || len(s.EpochBlocks) > 0 {
				t.Errorf("subnet %d without a tempo: %v, epochs %v", s.Netuid, err, s.EpochBlocks)
			}
			continue
		}
		ran := map[uint64]bool{}
		for _, block := range s.EpochBlocks {
			ran[block] = true
			epochs++
		}
		for block := record.FirstBlock; block <= last; block++ {
			now, err := LegacyPlan(s.Netuid, s.Tempo, block, 1)
			if err != nil {
				t.Fatal(err)
			}
			next, err := LegacyPlan(s.Netuid, s.Tempo, block+1, 1)
			if err != nil {
				t.Fatal(err)
			}
			if ends := next.CommitEpoch > now.CommitEpoch; ends != ran[block] && (block > record.FirstBlock || ran[block]) {
				t.Errorf("subnet %d, tempo %d, block %d: index ends %v, epoch ran %v", s.Netuid, s.Tempo, block, ends, ran[block])
			}
		}
	}
	t.Logf("legacy epochs: %d subnets, %d epochs", len(record.Subnets), epochs)
}
