package localnet

import (
	"bytes"
	"slices"

	"basilica/scale"
	"basilica/yuma"
)

// delegate is what yuma reads of a hotkey on a subnet.
func (s *subtensorStore) delegate(r reader, netuid uint16, hotkey account) yuma.Delegate {
	return yuma.Delegate{
		Coldkey: yuma.Key(s.owner.get(r, hotkey)),
		Alpha:   s.totalHotkeyAlpha.get(r, hotkey, netuid), Root: s.totalHotkeyAlpha.get(r, hotkey, rootNetuid),
		Take: s.delegates.get(r, hotkey), ChildTake: s.childkeyTake.get(r, hotkey, netuid),
		Parents: links(s.parentKeys.get(r, hotkey, netuid)), Children: links(s.childKeys.get(r, hotkey, netuid)),
	}
}

func links(list []kin) []yuma.Link {
	out := make([]yuma.Link, len(list))
	for i, k := range list {
		out[i] = yuma.Link{Proportion: k.proportion, Hotkey: yuma.Key(k.hotkey)}
	}
	return out
}

// stakeWeightOf is the stake that counts for a hotkey on a subnet: what it and its parents have there and on root, less
// what it lends to its children.
func (s *subtensorStore) stakeWeightOf(r reader, netuid uint16, hotkey account) yuma.Stake {
	alpha, root := yuma.Inherited(s.delegate(r, netuid, hotkey), func(k yuma.Key) yuma.Delegate { return s.delegate(r, netuid, account(k)) })
	return yuma.WeightedStake(alpha, root, s.taoWeight.get(r))
}

// payOut stakes what an epoch emitted: the owner's cut, incentives, dividends of stakers on the subnet and on root.
func (rt *runtime) payOut(x *execution, d drained, servers, validators []uint64) {
	s := rt.subnets
	earnings := make([]yuma.Earning, len(servers))
	var served uint64
	for uid := range servers {
		hotkey := s.keys.get(x, d.netuid, uint16(uid))
		earnings[uid] = yuma.Earning{Hotkey: yuma.Key(hotkey), Server: servers[uid], Validator: validators[uid]}
		served += servers[uid]
	}
	slices.SortFunc(earnings, func(a, b yuma.Earning) int { return bytes.Compare(a.Hotkey[:], b.Hotkey[:]) })
	pot := yuma.Pot{Validators: d.validator, Root: d.root, TaoWeight: s.taoWeight.get(x), ChildBurn: s.ckBurn.get(x)}
	if served == 0 { // nobody serves: validators share all of it
		pot.Validators += d.server
	}
	known := map[yuma.Key]yuma.Delegate{}
	division := yuma.Divide(earnings, func(k yuma.Key) yuma.Delegate {
		who, has := known[k]
		if !has {
			who = s.delegate(x, d.netuid, account(k))
			known[k] = who
		}
		return who
	}, pot)
	rt.recycleAlpha(x, d.netuid, division.Recycled)
	owner, owned := s.subnetOwner.find(x, d.netuid)
	if hotkey, set := s.subnetOwnerHotkey.find(x, d.netuid); owned && set {
		rt.stakeAlpha(x, hotkey, owner, d.netuid, d.cut)
	}
	rt.payServers(x, d.netuid, earnings, served)
	rt.payStakers(x, d.netuid, division.Alpha)
	rt.payRoot(x, d.netuid, division.Root)
}

// payServers stakes each miner's incentive under its owner. Hotkeys of the subnet's owner get nothing: their part is
// burned or recycled.
func (rt *runtime) payServers(x *execution, netuid uint16, earnings []yuma.Earning, served uint64) {
	s := rt.subnets
	owner := s.subnetOwner.get(x, netuid)
	own := map[account]bool{s.subnetOwnerHotkey.get(x, netuid): true}
	for _, hotkey := range s.ownedHotkeys.get(x, owner) {
		own[hotkey] = true
	}
	var withheld uint64
	for _, e := range earnings {
		hotkey := account(e.Hotkey)
		if own[hotkey] {
			withheld += e.Server
			continue
		}
		coldkey := s.owner.get(x, hotkey)
		destination, set := s.autoStake.find(x, coldkey, netuid)
		if set {
			x.emit(eventAutoStaked, u16(netuid), destination[:], hotkey[:], coldkey[:], u64(e.Server))
		} else {
			destination = hotkey
		}
		rt.stakeAlpha(x, destination, coldkey, netuid, e.Server)
	}
	if s.recycleOrBurn.get(x, netuid) == 0 {
		rt.burnAlpha(x, netuid, withheld)
	} else {
		rt.recycleAlpha(x, netuid, withheld)
	}
	s.minerBurned.set(x, netuid, wholeNumber(withheld).over(wholeNumber(served)))
}

// payStakers pays dividends: each hotkey's take to its owner, the rest to all who stake on it.
func (rt *runtime) payStakers(x *execution, netuid uint16, dividends []yuma.Dividend) {
	s := rt.subnets
	rt.clear(x, s.alphaDividends, netuid)
	for _, d := range dividends {
		hotkey := account(d.Hotkey)
		rt.stakeAlpha(x, hotkey, s.owner.get(x, hotkey), netuid, d.Take)
		rt.rewardStakers(x, hotkey, netuid, d.Rest)
		s.alphaDividends.set(x, netuid, hotkey, d.Rest)
		s.totalHotkeyAlphaLastEpoch.set(x, hotkey, netuid, s.totalHotkeyAlpha.get(x, hotkey, netuid))
	}
}

// payRoot pays what stake on root earned: each hotkey's take to its owner; the rest can be claimed by root's stakers, so
// much for each rao of root stake.
func (rt *runtime) payRoot(x *execution, netuid uint16, dividends []yuma.Dividend) {
	s := rt.subnets
	rt.clear(x, s.rootAlphaDividendsPerSubnet, netuid)
	for _, d := range dividends {
		hotkey := account(d.Hotkey)
		rt.stakeAlpha(x, hotkey, s.owner.get(x, hotkey), netuid, d.Take)
		rate := wholeNumber(d.Rest).over(wholeNumber(s.totalHotkeyAlpha.get(x, hotkey, rootNetuid)))
		s.rootClaimable.change(x, hotkey, func(list []claimable) []claimable {
			i, found := slices.BinarySearchFunc(list, netuid, func(c claimable, netuid uint16) int { return int(c.netuid) - int(netuid) })
			if found {
				list[i].rate = rate.plus(list[i].rate)
				return list
			}
			return slices.Insert(list, i, claimable{netuid, rate})
		})
		s.rootAlphaDividendsPerSubnet.set(x, netuid, hotkey, d.Rest)
	}
}

// clear removes a map's values of one subnet.
func (rt *runtime) clear(x *execution, m map2[uint16, account, uint64], netuid uint16) {
	for _, k := range x.scan(m.prefix + string(scale.AppendU16(nil, netuid))) {
		x.put(k, nil)
	}
}
