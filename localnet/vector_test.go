package localnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/scale"
)

// number is an integer written as a JSON number or as a decimal string.
type number uint64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 64)
	*n = number(v)
	return err
}

// poke changes the state of the head, as the recorder of the vectors did.
func (s *sim) poke(change func(w writer)) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := newOverlay(past{s.state, s.head()})
	change(o)
	s.state.apply(s.head(), o.changes())
}

func TestBurnSeriesVector(t *testing.T) {
	var record struct {
		Runs []struct {
			Config struct {
				BurnHalfLife                  uint16
				BurnIncreaseMult              struct{ Bits string }
				MinBurn, MaxBurn, BurnAtStart number
			}
			Series []struct {
				Registrations     int
				Burn, RaoRecycled number
				SubnetworkN       uint16
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/burn_series.json", &record)
	for i, run := range record.Runs {
		s := newSim(t, Config{NetUID: 2})
		hi, lo := uint64(0), uint64(0)
		for _, digit := range run.Config.BurnIncreaseMult.Bits { // a decimal of more than 64 bits
			carry := (lo>>32*10 + (lo&(1<<32-1)*10+uint64(digit-'0'))>>32) >> 32
			hi, lo = hi*10+carry, lo*10+uint64(digit-'0')
		}
		s.poke(func(w writer) {
			sub := s.Chain.rt.subnets
			sub.burnHalfLife.set(w, 2, run.Config.BurnHalfLife)
			sub.burnIncrease.set(w, 2, [2]uint64{hi, lo})
			sub.minBurn.set(w, 2, uint64(run.Config.MinBurn))
			sub.maxBurn.set(w, 2, uint64(run.Config.MaxBurn))
			sub.burn.set(w, 2, uint64(run.Config.BurnAtStart))
			sub.raoRecycled.set(w, 2, uint64(run.Series[0].RaoRecycled))
		})
		hotkeys := 0
		for k, row := range run.Series[1:] {
			for range row.Registrations {
				hotkeys++
				if err := s.submit(s.key("//Alice"), "SubtensorModule.burned_register", map[string]any{
					"netuid": uint16(2), "hotkey": s.key(fmt.Sprintf("//h%d", hotkeys)).PublicKey(),
				}); err != nil {
					t.Fatal(err)
				}
			}
			s.seal(1)
			if got := s.read("SubtensorModule", "Burn", uint16(2)); got != uint64(row.Burn) {
				t.Errorf("run %d, block %d: burn %v, want %d", i, k+1, got, row.Burn)
			}
			if got := s.read("SubtensorModule", "RegistrationsThisBlock", uint16(2)); got != uint64(row.Registrations) {
				t.Errorf("run %d, block %d: %v registrations, want %d", i, k+1, got, row.Registrations)
			}
			if got := s.read("SubtensorModule", "RAORecycledForRegistration", uint16(2)); got != uint64(row.RaoRecycled) {
				t.Errorf("run %d, block %d: %v rao recycled, want %d", i, k+1, got, row.RaoRecycled)
			}
			if got := s.read("SubtensorModule", "SubnetworkN", uint16(2)); got != uint64(1+row.SubnetworkN-run.Series[0].SubnetworkN) {
				t.Errorf("run %d, block %d: %v neurons", i, k+1, got)
			}
		}
	}
}

// deferral is an event about an epoch that did not run.
type deferral struct {
	Event              string
	Netuid             uint16
	FromBlock, ToBlock number
}

func TestEpochBlocksVector(t *testing.T) {
	var record struct {
		Runs []struct {
			MaxEpochsPerBlock           uint8
			StorageOrderOfNetworksAdded []uint16
			Subnets                     []struct {
				Netuid, Tempo         uint16
				LastEpochBlockAtStart uint64
			}
			FirstBlock uint64
			Rows       [][7]number
			Events     [][2]json.RawMessage // [block, [event]]
		}
	}
	vectors.JSON(t, "subtensor425/rules/epoch_blocks.json", &record)
	for i, run := range record.Runs {
		s := newSim(t, Config{NetUID: 1, Tempo: 65535})
		sub := s.Chain.rt.subnets
		s.seal(int(run.FirstBlock) - 1)
		s.poke(func(w writer) {
			sub.maxEpochs.set(w, run.MaxEpochsPerBlock)
			for _, netuid := range run.StorageOrderOfNetworksAdded[1:] {
				sub.networksAdded.set(w, netuid, true)
				sub.tempo.set(w, netuid, 65535)
			}
			for _, n := range run.Subnets {
				sub.tempo.set(w, n.Netuid, n.Tempo)
				sub.lastEpochBlock.set(w, n.Netuid, n.LastEpochBlockAtStart)
			}
		})
		for _, row := range run.Rows {
			netuid := uint16(row[0])
			for uint64(s.Head().Number) < uint64(row[1]) {
				s.seal(1)
			}
			view := past{s.state, uint64(row[1])}
			got := [7]number{
				row[0], row[1], number(sub.lastMechanismStep.get(view, netuid)), number(sub.blocksSinceLastStep.get(view, netuid)),
				number(sub.lastEpochBlock.get(view, netuid)), number(sub.pendingEpochAt.get(view, netuid)),
				number(sub.epochIndex.get(view, netuid)),
			}
			if got != row {
				t.Fatalf("run %d: got %v, want %v", i, got, row)
			}
		}
		for _, pair := range run.Events {
			var block number
			var want, got []deferral
			if err := errors.Join(json.Unmarshal(pair[0], &block), json.Unmarshal(pair[1], &want)); err != nil {
				t.Fatal(err)
			}
			for _, e := range s.eventsAt(s.hash(uint64(block))) {
				if e.Name != "EpochDeferred" && e.Name != "EpochSkipped" {
					continue
				}
				field := func(name string) uint64 {
					v, _ := e.Fields.Get(name)
					n, err := scale.AsUint64(v)
					if err != nil {
						t.Fatal(err)
					}
					return n
				}
				got = append(got, deferral{e.Name, uint16(field("netuid")), number(field("from_block")), number(field("to_block"))})
			}
			if !slices.Equal(got, want) {
				t.Errorf("run %d, block %d: events %v, want %v", i, block, got, want)
			}
		}
		t.Logf("%d rows, events of %d blocks", len(run.Rows), len(run.Events))
	}
}

func TestPruningVector(t *testing.T) {
	var record struct {
		MaxAllowedUids    uint16
		SubnetOwner       string
		SubnetOwnerHotkey string
		Steps             []struct {
			RegisteredInBlock                uint64
			Ok                               bool
			ImmunityPeriod, MinNonImmuneUids uint16
			NeuronsBefore                    []struct {
				UID                           uint16 `json:"uid"`
				Hotkey                        string
				Emission, BlockAtRegistration number
			}
			ReplacedUID *uint16 `json:"replacedUid"`
		}
	}
	vectors.JSON(t, "subtensor425/rules/pruning.json", &record)
	decode := func(address string) account {
		pub, err := keys.DecodeSS58(address)
		if err != nil {
			t.Fatal(err)
		}
		return pub
	}
	checked := 0
	for i, step := range record.Steps {
		if step.ReplacedUID == nil {
			continue
		}
		checked++
		s := newSim(t, Config{NetUID: 2})
		sub := s.Chain.rt.subnets
		x := s.next()
		x.block = step.RegisteredInBlock
		sub.subnetOwnerHotkey.set(x, 2, decode(record.SubnetOwnerHotkey))
		sub.immunityPeriod.set(x, 2, step.ImmunityPeriod)
		sub.minNonImmuneUids.set(x, 2, step.MinNonImmuneUids)
		var emission []uint64
		for _, n := range step.NeuronsBefore {
			sub.keys.set(x, 2, n.UID, decode(n.Hotkey))
			sub.registeredBlock.set(x, 2, n.UID, uint64(n.BlockAtRegistration))
			emission = append(emission, uint64(n.Emission))
		}
		sub.emission.set(x, 2, emission)
		uid, found := s.Chain.rt.pruned(x, 2, uint16(len(step.NeuronsBefore)))
		if !found || uid != *step.ReplacedUID {
			t.Errorf("step %d: uid %d (%v), want %d", i, uid, found, *step.ReplacedUID)
		}
	}
	if checked == 0 {
		t.Fatal("no step names the replaced uid")
	}
}

// attempt is one row of a rate-limit series.
type attempt struct {
	Block   uint64
	Ok      bool
	Invalid struct{ Custom *int }
	Error   string
}

func (s *sim) attempts(list []attempt, signer *keys.Pair, name string, args map[string]any) {
	s.t.Helper()
	for _, a := range list {
		s.seal(int(a.Block - 1 - uint64(s.Head().Number)))
		err := s.do(signer, name, args)
		switch {
		case a.Ok && err != nil:
			s.t.Errorf("%s at %d: %v", name, a.Block, err)
		case a.Ok:
		case a.Error != "":
			wantError(s.t, err, a.Error)
		default:
			wantError(s.t, err, fmt.Sprintf("Custom error: %d", *a.Invalid.Custom))
			s.seal(1) // do sealed nothing
		}
	}
	s.t.Logf("%s: %d attempts", name, len(list))
}

func TestWeightsRateLimitVector(t *testing.T) {
	var record struct {
		WeightsSetRateLimit, RegisteredAtBlock uint64
		Attempts, WithRateLimitZero            []attempt
		CommitAttempts                         struct {
			Commit     []attempt `json:"commit_weights"`
			Timelocked []attempt `json:"commit_timelocked_weights"`
		}
	}
	vectors.JSON(t, "subtensor425/rules/weights_rate_limit.json", &record)
	weights := map[string]any{"netuid": uint16(2), "dests": []uint16{0}, "weights": []uint16{1}, "version_key": uint64(0)}
	begin := func(limit uint64) (*sim, *keys.Pair) {
		s := newSim(t, Config{NetUID: 2, Tempo: 60000})
		hotkey := s.key("//Bob//hot")
		s.seal(int(record.RegisteredAtBlock) - 1)
		s.must(s.key("//Bob"), "SubtensorModule.burned_register", map[string]any{"netuid": uint16(2), "hotkey": hotkey.PublicKey()})
		s.poke(func(w writer) {
			s.Chain.rt.subnets.weightsRateLimit.set(w, 2, limit)
			s.Chain.rt.subnets.permit.set(w, 2, []bool{false, true})
		})
		return s, hotkey
	}
	s, hotkey := begin(record.WeightsSetRateLimit)
	s.attempts(record.Attempts, hotkey, "SubtensorModule.set_weights", weights)
	s.poke(func(w writer) { s.Chain.rt.subnets.commitReveal.set(w, 2, true) })
	s.attempts(record.CommitAttempts.Commit, hotkey, "SubtensorModule.commit_weights", map[string]any{"netuid": uint16(2), "commit_hash": [32]byte{1}})
	s.attempts(record.CommitAttempts.Timelocked, hotkey, "SubtensorModule.commit_timelocked_weights", map[string]any{
		"netuid": uint16(2), "commit": []byte{1, 2, 3}, "reveal_round": uint64(1000), "commit_reveal_version": uint16(4),
	})
	s, hotkey = begin(0)
	s.attempts(record.WithRateLimitZero, hotkey, "SubtensorModule.set_weights", weights)
}

func TestServingRateLimitVector(t *testing.T) {
	var record struct {
		ServingRateLimit                         uint64
		ServeAxon, ServeAxonTls, ServePrometheus []attempt
	}
	vectors.JSON(t, "subtensor425/rules/serving_rate_limit.json", &record)
	s := newSim(t, Config{NetUID: 2})
	plain, tls := s.key("//Bob//hot"), s.key("//Bob//tls")
	for _, hotkey := range []*keys.Pair{plain, tls} {
		s.must(s.key("//Bob"), "SubtensorModule.burned_register", map[string]any{"netuid": uint16(2), "hotkey": hotkey.PublicKey()})
	}
	s.poke(func(w writer) { s.Chain.rt.subnets.servingRateLimit.set(w, 2, record.ServingRateLimit) })
	s.attempts(record.ServeAxon, plain, "SubtensorModule.serve_axon", axonArgs(2))
	s.attempts(record.ServeAxonTls, tls, "SubtensorModule.serve_axon_tls", with(axonArgs(2), "certificate", []byte{1, 2}))
	s.attempts(record.ServePrometheus, plain, "SubtensorModule.serve_prometheus", map[string]any{
		"netuid": uint16(2), "version": uint32(1), "ip": uint64(0x7f000002), "port": uint16(7091), "ip_type": uint8(4),
	})
}

// TestTempoControlVector replays what an owner and root may do to the epochs of a subnet.
func TestTempoControlVector(t *testing.T) {
	var record struct {
		AdminFreezeWindow uint16
		Steps             []struct {
			Action string
			Result *struct {
				Ok    bool
				Error any
			}
			State struct {
				Block                                                                    uint64
				Tempo                                                                    uint16
				LastEpochBlock, PendingEpochAt, SubnetEpochIndex, LastMechanismStepBlock number
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/tempo_control.json", &record)
	s := newSim(t, Config{NetUID: 2, Tempo: 60000})
	sub, alice := s.Chain.rt.subnets, s.key("//Alice")
	at := record.Steps[0].State
	s.seal(int(at.Block))
	s.poke(func(w writer) {
		sub.adminFreezeWindow.set(w, record.AdminFreezeWindow)
		sub.tempo.set(w, 2, at.Tempo)
		sub.lastEpochBlock.set(w, 2, uint64(at.LastEpochBlock))
		sub.epochIndex.set(w, 2, uint64(at.SubnetEpochIndex))
		sub.lastMechanismStep.set(w, 2, uint64(at.LastMechanismStepBlock))
	})
	for _, step := range record.Steps[1:] {
		var err error
		tempo := uint16(400)
		if fields := strings.Fields(step.Action); len(fields) > 1 {
			if n, bad := strconv.ParseUint(strings.TrimSuffix(fields[1], ")"), 10, 16); bad == nil {
				tempo = uint16(n)
			}
		}
		args := map[string]any{"netuid": uint16(2), "tempo": tempo}
		switch name, _, _ := strings.Cut(step.Action, " "); name {
		case "block":
			s.seal(1)
		case "trigger_epoch":
			err = s.do(alice, "SubtensorModule.trigger_epoch", map[string]any{"netuid": uint16(2)})
		case "set_tempo":
			err = s.do(alice, "SubtensorModule.set_tempo", args)
		case "sudo_set_tempo":
			err = s.do(alice, "AdminUtils.sudo_set_tempo", args)
		case "sudo(sudo_set_tempo":
			err = s.do(alice, "Sudo.sudo", map[string]any{"call": scale.NewVariant("AdminUtils", scale.VariantValue{
				Name: "sudo_set_tempo", Fields: scale.Struct{{Name: "netuid", Value: uint16(2)}, {Name: "tempo", Value: tempo}},
			})})
		default:
			t.Fatalf("unknown action %q", step.Action)
		}
		switch {
		case step.Result == nil || step.Result.Ok:
			if err != nil {
				t.Errorf("%s: %v", step.Action, err)
			}
		default:
			want, ok := step.Result.Error.(string)
			if !ok {
				want = "BadOrigin"
			}
			wantError(t, err, want)
		}
		view := past{s.state, s.head()}
		got := step.State
		got.Block, got.Tempo = s.head(), sub.tempo.get(view, 2)
		got.LastEpochBlock, got.PendingEpochAt = number(sub.lastEpochBlock.get(view, 2)), number(sub.pendingEpochAt.get(view, 2))
		got.SubnetEpochIndex, got.LastMechanismStepBlock = number(sub.epochIndex.get(view, 2)), number(sub.lastMechanismStep.get(view, 2))
		if got != step.State {
			t.Errorf("%s: got %+v, want %+v", step.Action, got, step.State)
		}
	}
	t.Logf("%d steps", len(record.Steps)-1)
}

func axonArgs(netuid uint16) map[string]any {
	return map[string]any{
		"netuid": netuid, "version": uint32(1), "ip": uint64(0x7f000002), "port": uint16(8080), "ip_type": uint8(4),
		"protocol": uint8(4), "placeholder1": uint8(0), "placeholder2": uint8(0),
	}
}

// TestFeesVector checks fee and weight of every recorded call that exists here.
func TestFeesVector(t *testing.T) {
	var record struct {
		Rows []struct {
			Name, Call, CallHex string
			ExtrinsicLength     int
			QueryInfo           struct {
				Value struct {
					Weight     struct{ RefTime, ProofSize number }
					PartialFee number
				}
			}
		}
	}
	vectors.JSON(t, "subtensor425/rules/fees.json", &record)
	rt, err := newRuntime(250)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, row := range record.Rows {
		var raw []byte
		if _, err := fmt.Sscanf(row.CallHex, "0x%x", &raw); err != nil {
			t.Fatal(err)
		}
		d, err := rt.decodeCall(scale.NewReader(raw))
		if err != nil {
			t.Errorf("%s: %v", row.Name, err)
			continue
		}
		checked++
		want := row.QueryInfo.Value
		if got := d.price().refTime - baseWeight; got != uint64(want.Weight.RefTime) {
			t.Errorf("%s: ref_time %d, want %d", row.Name, got, want.Weight.RefTime)
		}
		if got := d.price().proofSize; got != uint64(want.Weight.ProofSize) {
			t.Errorf("%s: proof_size %d, want %d", row.Name, got, want.Weight.ProofSize)
		}
		if got := d.price().fee(row.ExtrinsicLength); got != uint64(want.PartialFee) {
			t.Errorf("%s: fee %d, want %d", row.Name, got, want.PartialFee)
		}
	}
	if t.Logf("%d of %d rows", checked, len(record.Rows)); checked < 23 {
		t.Fatalf("only %d calls checked", checked)
	}
}
