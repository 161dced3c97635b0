package localnet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/pallet"
	"basilica/yuma"
)

// epochCase is a case of epochs/*.json.gz: the state before an epoch, and what its block changed.
type epochCase struct {
	ID         string
	Netuid, N  uint16
	EpochBlock uint64
	Input      struct {
		Params struct {
			Tempo, Kappa, MaxAllowedValidators, BondsPenalty, AlphaLow, AlphaHigh, SubnetOwnerCut, ImmunityPeriod uint16
			BondsMovingAverage, StakeThreshold, TaoWeight, RevealPeriodEpochs                                     number
			ActivityCutoffFactorMilli                                                                             uint32
			AlphaSigmoidSteepness                                                                                 int16
			LiquidAlphaOn, Yuma3On, CommitRevealWeightsEnabled, OwnerCutEnabled                                   bool
			SubnetOwner, SubnetOwnerHotkey, RecycleOrBurn                                                         string
			OwnedHotkeysOfOwner                                                                                   []string
			MechanismCount                                                                                        uint8
			FirstEmissionBlockNumber                                                                              *number
		}
		Schedule struct {
			LastEpochBlock, PendingEpochAt, SubnetEpochIndex number
			TimelockedWeightCommits                          []json.RawMessage
		}
		Emission                                    struct{ PendingServerEmission, PendingValidatorEmission, PendingRootAlphaDivs, PendingOwnerCut number }
		BlocksSinceLastStep, LastMechanismStepBlock number
		Previous                                    struct {
			StakeWeight, ValidatorTrust, Consensus, Incentive, Dividends []uint16
			Active, ValidatorPermit                                      []bool
			Emission, LastUpdate                                         []number
		}
		MechanismEmissionSplit []uint16
		Mechanisms             []struct {
			StorageIndex   uint16
			LastUpdate     []number
			Incentive      []uint16
			Weights, Bonds [][][2]uint16
		}
		StakeSeenByRuntime struct{ AlphaStake, TaoStake []number }
		Neurons            []epochNeuron
	}
	StorageDiff []storageChange
}

type epochNeuron struct {
	Hotkey, Coldkey                  string
	LastUpdate, BlockAtRegistration  number
	TotalHotkeyAlpha, RootStake      number
	DelegateTake, ChildkeyTake       uint16
	AutoStakeDestination             string
	Parents, Children, WeightCommits [][]any
	Weights, Bonds                   [][2]uint16
}

// storageChange is one value that a block changed.
type storageChange struct {
	Item          any
	Args          []any
	Key           string
	Before, After *string
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func address(t testing.TB, text string) account {
	t.Helper()
	pub, err := keys.DecodeSS58(text)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func rows(list [][2]uint16) []yuma.Entry {
	out := make([]yuma.Entry, len(list))
	for i, e := range list {
		out[i] = yuma.Entry{UID: e[0], Value: e[1]}
	}
	return out
}

func numbers(list []number) []uint64 {
	out := make([]uint64, len(list))
	for i, n := range list {
		out[i] = uint64(n)
	}
	return out
}

func kinOf(t testing.TB, list [][]any) []kin {
	t.Helper()
	out := make([]kin, len(list))
	for i, pair := range list {
		out[i] = kin{decimal(t, pair[0]), address(t, pair[1].(string))}
	}
	return out
}

func decimal(t testing.TB, v any) uint64 {
	t.Helper()
	var n number
	if err := n.UnmarshalJSON([]byte(fmt.Sprint(v))); err != nil {
		t.Fatal(err)
	}
	return uint64(n)
}

// put lays the state before the epoch into w.
func (c *epochCase) put(t testing.TB, rt *runtime, w writer) {
	t.Helper()
	s, p, net := rt.subnets, c.Input.Params, c.Netuid
	s.networksAdded.set(w, net, true)
	s.subnetworkN.set(w, net, c.N)
	s.tempo.set(w, net, p.Tempo)
	s.kappa.set(w, net, p.Kappa)
	s.maxValidators.set(w, net, p.MaxAllowedValidators)
	s.bondsPenalty.set(w, net, p.BondsPenalty)
	s.bondsMovingAverage.set(w, net, uint64(p.BondsMovingAverage))
	s.cutoffFactor.set(w, net, p.ActivityCutoffFactorMilli)
	s.liquidAlpha.set(w, net, p.LiquidAlphaOn)
	s.alphaValues.set(w, net, [2]uint16{p.AlphaLow, p.AlphaHigh})
	s.alphaSigmoidSteepness.set(w, net, p.AlphaSigmoidSteepness)
	s.yuma3.set(w, net, p.Yuma3On)
	s.commitReveal.set(w, net, p.CommitRevealWeightsEnabled)
	s.revealPeriodEpochs.set(w, net, uint64(p.RevealPeriodEpochs))
	s.stakeThreshold.set(w, uint64(p.StakeThreshold))
	s.taoWeight.set(w, uint64(p.TaoWeight))
	s.ownerCutEnabled.set(w, net, p.OwnerCutEnabled)
	s.ownerCut.set(w, p.SubnetOwnerCut)
	if p.RecycleOrBurn == "Recycle" {
		s.recycleOrBurn.set(w, net, 1)
	}
	owner := address(t, p.SubnetOwner)
	s.subnetOwner.set(w, net, owner)
	s.subnetOwnerHotkey.set(w, net, address(t, p.SubnetOwnerHotkey))
	var owned []account
	for _, hotkey := range p.OwnedHotkeysOfOwner {
		owned = append(owned, address(t, hotkey))
	}
	s.ownedHotkeys.set(w, owner, owned)
	if p.FirstEmissionBlockNumber != nil {
		s.firstEmission.set(w, net, uint64(*p.FirstEmissionBlockNumber))
		s.subtokenEnabled.set(w, net, true)
		c.putLive(t, rt, w)
	}
	s.mechanismCountCurrent.set(w, net, max(1, p.MechanismCount))
	if c.Input.MechanismEmissionSplit != nil {
		s.mechanismEmissionSplit.set(w, net, c.Input.MechanismEmissionSplit)
	}
	for _, raw := range c.Input.Schedule.TimelockedWeightCommits {
		c.putTimelocked(t, rt, w, raw)
	}
	s.lastEpochBlock.set(w, net, uint64(c.Input.Schedule.LastEpochBlock))
	s.pendingEpochAt.set(w, net, uint64(c.Input.Schedule.PendingEpochAt))
	s.epochIndex.set(w, net, uint64(c.Input.Schedule.SubnetEpochIndex))
	s.blocksSinceLastStep.set(w, net, uint64(c.Input.BlocksSinceLastStep))
	s.lastMechanismStep.set(w, net, uint64(c.Input.LastMechanismStepBlock))
	e := c.Input.Emission
	s.pendingServer.set(w, net, uint64(e.PendingServerEmission))
	s.pendingValidator.set(w, net, uint64(e.PendingValidatorEmission))
	s.pendingRoot.set(w, net, uint64(e.PendingRootAlphaDivs))
	s.pendingOwnerCut.set(w, net, uint64(e.PendingOwnerCut))
	v := c.Input.Previous
	s.stakeWeight.set(w, net, v.StakeWeight)
	s.trust.set(w, net, v.ValidatorTrust)
	s.consensus.set(w, net, v.Consensus)
	s.incentive.set(w, net, v.Incentive)
	s.dividends.set(w, net, v.Dividends)
	s.active.set(w, net, v.Active)
	s.permit.set(w, net, v.ValidatorPermit)
	s.emission.set(w, net, numbers(v.Emission))
	s.lastUpdate.set(w, net, numbers(v.LastUpdate))
	for _, m := range c.Input.Mechanisms {
		s.lastUpdate.set(w, m.StorageIndex, numbers(m.LastUpdate))
		s.incentive.set(w, m.StorageIndex, m.Incentive)
		for uid := range m.Weights {
			s.weights.set(w, m.StorageIndex, uint16(uid), rows(m.Weights[uid]))
			s.bonds.set(w, m.StorageIndex, uint16(uid), rows(m.Bonds[uid]))
		}
	}
	for uid, n := range c.Input.Neurons {
		c.putNeuron(t, rt, w, uint16(uid), n)
	}
}

// putLive adds what the record does not show of the one subnet that was made by extrinsics: that it has a pool, how much
// alpha is in it (any of the 459 amounts that give the recorded RootProp of all five epochs), that a price above 1 counts
// as 1, and what the 20,000 TAO staked on root are.
func (c *epochCase) putLive(t testing.TB, rt *runtime, w writer) {
	t.Helper()
	s := rt.subnets
	s.mechanism.set(w, c.Netuid, 1)
	s.emissionEnabled.set(w, c.Netuid, false)
	s.alphaOutEmission.set(w, c.Netuid, 1_000_000_000)
	s.subnetAlphaIn.set(w, c.Netuid, 424_700_924_000)
	s.subnetTAO.set(w, c.Netuid, 2*424_700_924_000)
	s.subnetTAO.set(w, rootNetuid, 20_000_000_000_000)
	for _, n := range c.Input.Neurons {
		s.rootClaimable.set(w, address(t, n.Hotkey), []claimable{{netuid: c.Netuid}}) // by the epoch before
	}
}

// putTimelocked reads [epoch, [[who, block, ciphertext, round]]].
func (c *epochCase) putTimelocked(t testing.TB, rt *runtime, w writer, raw json.RawMessage) {
	t.Helper()
	var list [2]json.RawMessage
	var epoch number
	var commits [][4]any
	if err := errors.Join(json.Unmarshal(raw, &list), json.Unmarshal(list[0], &epoch), json.Unmarshal(list[1], &commits)); err != nil {
		t.Fatal(err)
	}
	for _, v := range commits {
		commit := timelockedCommit{address(t, v[0].(string)), decimal(t, v[1]), fromHex(t, v[2].(string)), decimal(t, v[3])}
		all := append(rt.subnets.timelockedWeightCommits.get(w, c.Netuid, uint64(epoch)), commit)
		rt.subnets.timelockedWeightCommits.set(w, c.Netuid, uint64(epoch), all)
	}
}

func (c *epochCase) putNeuron(t testing.TB, rt *runtime, w writer, uid uint16, n epochNeuron) {
	t.Helper()
	s, net := rt.subnets, c.Netuid
	hot, cold := address(t, n.Hotkey), address(t, n.Coldkey)
	s.keys.set(w, net, uid, hot)
	s.uids.set(w, net, hot, uid)
	s.owner.set(w, hot, cold)
	s.registeredBlock.set(w, net, uid, uint64(n.BlockAtRegistration))
	s.totalHotkeyAlpha.set(w, hot, net, uint64(n.TotalHotkeyAlpha))
	s.totalHotkeyAlpha.set(w, hot, rootNetuid, uint64(n.RootStake))
	s.totalShares.set(w, hot, net, sharesOf(uint64(n.TotalHotkeyAlpha)))
	s.delegates.set(w, hot, n.DelegateTake)
	s.childkeyTake.set(w, hot, net, n.ChildkeyTake)
	s.parentKeys.set(w, hot, net, kinOf(t, n.Parents))
	s.childKeys.set(w, hot, net, kinOf(t, n.Children))
	s.weights.set(w, net, uid, rows(n.Weights))
	s.bonds.set(w, net, uid, rows(n.Bonds))
	s.stakingHotkeys.change(w, cold, func(v []account) []account { return append(v, hot) })
	if n.AutoStakeDestination != "" {
		s.autoStake.set(w, cold, net, address(t, n.AutoStakeDestination))
	}
	var commits []weightCommit
	for _, k := range n.WeightCommits {
		commits = append(commits, weightCommit{
			hash: account(fromHex(t, k[0].(string))), epoch: decimal(t, k[1]), block: decimal(t, k[2]), formerRevealAt: decimal(t, k[3]),
		})
	}
	if commits != nil {
		s.weightCommits.set(w, net, hot, commits)
	}
}

// itemNames finds storage items by the prefix of their keys.
func itemNames(rt *runtime) map[string]namedItem {
	out := map[string]namedItem{}
	for _, p := range rt.pallets {
		if p.storage == nil {
			continue
		}
		for _, e := range p.storage.entries {
			out[string(pallet.Twox128([]byte(p.name)))+string(pallet.Twox128([]byte(e.name)))] = namedItem{p.name + "." + e.name, e}
		}
	}
	return out
}

type namedItem struct {
	name string
	storageEntry
}

// walksStakes is why epochs leave the index of root's stakers out.
const walksStakes = "each block the runtime looks at a few more of all stakes for coldkeys on root that no call has indexed, which " +
	"the recorder's are; the record shows the few stakes that an epoch changes, not all"

// TestEpochsVector plays every recorded epoch: a chain begins at the parent block with what the record says of the state,
// seals one block, and everything that this block changes in SubtensorModule and AlphaAssets is compared, and nothing else
// may change. Later epochs of a sequence begin with what the one before left.
func TestEpochsVector(t *testing.T) {
	files, err := filepath.Glob(vectors.Dir() + "/subtensor425/epochs/*.json.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no epochs", err)
	}
	model, err := modelChain()
	if err != nil {
		t.Fatal(err)
	}
	names := itemNames(model.rt)
	cases, values, items := 0, 0, map[string]bool{}
	for _, file := range files {
		var record struct{ Cases []epochCase }
		vectors.JSON(t, "subtensor425/epochs/"+filepath.Base(file), &record)
		var left reader = past{newHistory(0), 0}
		for _, c := range record.Cases {
			o := newOverlay(left)
			for _, k := range left.scan("") {
				v, _ := left.get(k)
				o.put(k, v)
			}
			c.put(t, model.rt, o)
			c.putChanged(t, model.rt, o)
			chain := startAt(model, beginning{genesis: basilica.Hash(bytes.Repeat([]byte{0x45}, 32)), block: c.EpochBlock - 1, storage: o.changes()})
			before := past{chain.state, c.EpochBlock - 1}
			if _, err := chain.Seal(); err != nil {
				t.Fatal(err)
			}
			for _, d := range c.StorageDiff {
				items[fmt.Sprint(d.Item)] = true
			}
			values += compareDiff(t, names, c, before, past{chain.state, c.EpochBlock})
			left = past{chain.state, c.EpochBlock}
			cases++
		}
	}
	t.Logf("%d epochs of %d files, %d values", cases, len(files), values)
	if cases < 72 {
		t.Errorf("only %d epochs", cases)
	}
	for _, l := range leftOut {
		if l.id == "epochs" && !items[l.item] {
			t.Errorf("%s is left out but not recorded", l.item)
		}
	}
}

// putChanged lays what the block will change into w, as it was before. What other subnets there are is seen by that only.
func (c *epochCase) putChanged(t testing.TB, rt *runtime, w writer) {
	t.Helper()
	for _, d := range c.StorageDiff {
		key := string(fromHex(t, d.Key))
		if d.Before == nil {
			w.put(key, nil)
		} else {
			w.put(key, fromHex(t, *d.Before))
		}
		switch fmt.Sprint(d.Item) {
		case "SubtensorModule.Burn", "SubtensorModule.BlocksSinceLastStep":
			if netuid := uint16(decimal(t, d.Args[0])); netuid != c.Netuid {
				rt.subnets.networksAdded.set(w, netuid, true)
				rt.subnets.tempo.set(w, netuid, 0)
			}
		}
	}
}

// compareDiff checks that the block changed exactly what the record says, and gives how many values that were.
func compareDiff(t *testing.T, names map[string]namedItem, c epochCase, before, after past) (compared int) {
	t.Helper()
	text := func(v []byte, has bool) string {
		if !has {
			return "absent"
		}
		return "0x" + hex.EncodeToString(v)
	}
	recorded := map[string]bool{}
	for _, d := range c.StorageDiff {
		item, key := fmt.Sprint(d.Item), string(fromHex(t, d.Key))
		recorded[key] = true
		if exempt("epochs", item) {
			continue
		}
		compared++
		want := "absent"
		if d.After != nil {
			want = *d.After
		}
		if got := text(after.get(key)); got != want {
			t.Errorf("%s: %s%v is %s, want %s", c.ID, item, d.Args, got, want)
		}
	}
	for _, key := range after.h.touched[after.block] {
		if recorded[key] || len(key) < 32 {
			continue
		}
		item := names[key[:32]]
		if !strings.HasPrefix(item.name, "SubtensorModule.") && !strings.HasPrefix(item.name, "AlphaAssets.") {
			continue
		}
		was, had := before.get(key)
		is, has := after.get(key)
		// Where the default was written, the record does not say whether it stood there before.
		if had == has && string(was) == string(is) || !had && !item.optional && string(is) == string(item.fallback) {
			continue
		}
		t.Errorf("%s: %s %x was changed from %s to %s, not so by the runtime", c.ID, item.name, key[32:], text(was, had), text(is, has))
	}
	return compared
}
