package yuma

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"basilica/keys"
)

func accountKey(t testing.TB, address string) Key {
	t.Helper()
	k, err := keys.DecodeSS58(address)
	if err != nil {
		t.Fatal(err)
	}
	return Key(k)
}

// delegates is what the record says of the hotkeys of a subnet.
func (c runtimeCase) delegates(t *testing.T) func(Key) Delegate {
	t.Helper()
	all := map[Key]Delegate{}
	links := func(from []link) (out []Link) {
		for _, l := range from {
			out = append(out, Link{decimal(l[0]), accountKey(t, l[1])})
		}
		return out
	}
	for _, n := range c.Input.Neurons {
		all[accountKey(t, n.Hotkey)] = Delegate{
			Coldkey: accountKey(t, n.Coldkey), Alpha: uint64(n.TotalHotkeyAlpha), Root: uint64(n.RootStake),
			Take: n.DelegateTake, ChildTake: n.ChildkeyTake, Parents: links(n.Parents), Children: links(n.Children),
		}
	}
	return func(k Key) Delegate {
		d, ok := all[k]
		if !ok {
			t.Fatalf("%s: the record does not tell about hotkey %x", c.ID, k)
		}
		return d
	}
}

// pot is what validators get and where else alpha goes, by the rules of one generation.
func (c runtimeCase) pot(g generation, servers uint64) Pot {
	e := c.Input.Emission
	pot := Pot{TaoWeight: decimal(c.Input.Params.TaoWeight)}
	if g.rules == Spec425() {
		pot.Validators, pot.Root = uint64(e.PendingValidatorEmission), uint64(e.PendingRootAlphaDivs)
		if servers == 0 {
			pot.Validators += uint64(e.PendingServerEmission)
		}
		return pot
	}
	pot.Validators, pot.Root = uint64(e.PendingEmission), uint64(e.PendingRootDivs)
	if servers > 0 {
		pot.Validators = uint64(e.EpochEmission)/2 - min(uint64(e.EpochEmission)/2, uint64(e.PendingAlphaSwapped))
	}
	return pot
}

// TestRuntimeStakesVector pays the emission of every recorded epoch out and compares the stakes of all hotkeys after it,
// what was recorded as dividends, and before it the stakes that validators inherit.
func TestRuntimeStakesVector(t *testing.T) {
	for _, g := range generations() {
		eachEpoch(t, g, func(t *testing.T, theme string, c runtimeCase) {
			of := c.delegates(t)
			out, _ := c.epochs(t, g)
			n := len(c.Input.Neurons)
			uids := map[string]int{}
			earnings := make([]Earning, n)
			alpha, root := make([]uint64, n), make([]uint64, n)
			var seenAlpha, seenRoot []uint64
			var servers uint64
			for i, neuron := range c.Input.Neurons {
				uids[neuron.Hotkey] = i
				earnings[i] = Earning{accountKey(t, neuron.Hotkey), out.ServerEmission[i], out.ValidatorEmission[i]}
				servers += out.ServerEmission[i]
				alpha[i], root[i] = uint64(neuron.TotalHotkeyAlpha), uint64(neuron.RootStake)
				a, r := Inherited(of(earnings[i].Hotkey), of)
				seenAlpha, seenRoot = append(seenAlpha, a), append(seenRoot, r)
			}
			p := c.Input.Params
			if uid, ok := uids[p.SubnetOwnerHotkey]; ok {
				alpha[uid] += uint64(c.Input.Emission.PendingOwnerCut)
			}
			for i, neuron := range c.Input.Neurons {
				if neuron.Hotkey == p.SubnetOwnerHotkey || slices.Contains(p.OwnedHotkeysOfOwner, neuron.Hotkey) {
					continue // burned or recycled
				}
				to := i
				if neuron.AutoStakeDestination != "" {
					to = uids[neuron.AutoStakeDestination]
				}
				alpha[to] += earnings[i].Server
			}
			alphaDividends, rootDividends := make([]uint64, n), make([]uint64, n)
			division := Divide(earnings, of, c.pot(g, servers))
			for k, d := range division.Alpha {
				i := slices.IndexFunc(earnings, func(e Earning) bool { return e.Hotkey == d.Hotkey })
				fromRoot := division.Root[k]
				alpha[i] += d.Take + d.Rest
				if g.rules == Spec425() {
					alpha[i] += fromRoot.Take // the rest can be claimed by who stakes on root
				} else {
					root[i] += fromRoot.Take + fromRoot.Rest
				}
				alphaDividends[i], rootDividends[i] = d.Rest, fromRoot.Rest
			}
			wantRoot := c.Output.RootAlphaDividends
			if g.rules == Spec293() {
				wantRoot = c.Output.TaoDividends
			}
			compare(t, g.folder+" "+theme+" "+c.ID, []pair{
				{"inherited alpha", seenAlpha, c.Input.StakeSeenByRuntime.AlphaStake},
				{"inherited root stake", seenRoot, c.Input.StakeSeenByRuntime.TaoStake},
				{"alpha dividends", alphaDividends, c.Output.AlphaDividends},
				{"root dividends", rootDividends, wantRoot},
				{"alpha", alpha, c.Output.TotalHotkeyAlpha},
				{"root stake", root, c.Output.RootStake},
			})
		})
	}
}

// TestDivideNeverGivesMore states that whatever the stakes and relations, no more is paid than there is.
func TestDivideNeverGivesMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "n")
		amount := rapid.Uint64Max(1 << 52)
		all := make([]Delegate, n)
		var earnings []Earning
		for i := range all {
			all[i] = Delegate{
				Coldkey: Key{byte(rapid.IntRange(0, 2).Draw(t, "coldkey"))}, Alpha: amount.Draw(t, "alpha"), Root: amount.Draw(t, "root"),
				Take: rapid.Uint16Max(11796).Draw(t, "take"), ChildTake: rapid.Uint16Max(11796).Draw(t, "child take"),
			}
			earnings = append(earnings, Earning{Hotkey: Key{byte(i)}, Validator: amount.Draw(t, "earned")})
		}
		if n > 1 && rapid.Bool().Draw(t, "related") {
			part := rapid.Uint64().Draw(t, "part")
			all[0].Children = []Link{{part, Key{1}}}
			all[1].Parents = []Link{{part, Key{0}}}
		}
		pot := Pot{Validators: amount.Draw(t, "validators"), Root: amount.Draw(t, "root pot"), TaoWeight: rapid.Uint64().Draw(t, "weight")}
		paid := func(list []Dividend) (sum uint64) {
			for _, d := range list {
				sum += d.Take + d.Rest
			}
			return sum
		}
		out := Divide(earnings, func(k Key) Delegate { return all[k[0]] }, pot)
		if a, r := paid(out.Alpha), paid(out.Root); a > pot.Validators || r > pot.Root {
			t.Fatalf("paid %d of %d and %d of %d", a, pot.Validators, r, pot.Root)
		}
	})
}
