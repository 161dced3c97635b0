package localnet

import (
	"math"
	"slices"

	"basilica/scale"
)

const (
	maxChildren    = 5
	childrenPause  = 150 // blocks between two set_children of a hotkey on a subnet
	takeCallWeight = 604_610_000
)

func (rt *runtime) childrenCalls(net field) []call {
	hotkey := field{"hotkey", tAccount, "T::AccountId"}
	take := field{"take", tU16, "u16"}
	return []call{
		{67, "set_children", []field{hotkey, net, {"children", vec(cKin.shape), "Vec<(u64, T::AccountId)>"}}, false, weight{3_544_740_000, 4198}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setChildren(readAccount(r), r.U16(), listOf(cKin).decode(r))
		}},
		{75, "set_childkey_take", []field{hotkey, net, take}, false, weight{takeCallWeight, 8696}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.setChildkeyTake(readAccount(r), r.U16(), r.U16())
		}},
		{65, "decrease_take", []field{hotkey, take}, true, weight{takeCallWeight, 8696}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.changeTake(readAccount(r), r.U16(), false)
		}},
		{66, "increase_take", []field{hotkey, take}, true, weight{takeCallWeight, 8696}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.changeTake(readAccount(r), r.U16(), true)
		}},
	}
}

// owns refuses a coldkey that is not the hotkey's.
func (rt *runtime) owns(x *execution, coldkey, hotkey account) error {
	if owner, owned := rt.subnets.owner.find(x, hotkey); !owned || owner != coldkey {
		return subtensorError("NonAssociatedColdKey")
	}
	return nil
}

// setChildren gives parts of a hotkey's stake to other hotkeys; it takes effect at an epoch after the cooldown.
func (rt *runtime) setChildren(hotkey account, netuid uint16, children []kin) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		switch {
		case from.root:
			return badOrigin
		case netuid == rootNetuid:
			return subtensorError("RegistrationNotPermittedOnRootSubnet")
		case !s.networksAdded.get(x, netuid):
			return subtensorError("SubnetNotExists")
		}
		if err := rt.owns(x, from.who, hotkey); err != nil {
			return err
		}
		if err := validChildren(hotkey, children); err != nil {
			return err
		}
		if last := s.transactionKeyLastBlock.get(x, hotkey, netuid, txSetChildren); last != 0 && x.block-last < childrenPause {
			return subtensorError("TxRateLimitExceeded")
		}
		if len(children) > 0 && s.stakeWeightOf(x, netuid, hotkey).Rao < s.stakeThreshold.get(x) && s.subnetOwnerHotkey.get(x, netuid) != hotkey {
			return subtensorError("NotEnoughStakeToSetChildkeys")
		}
		s.transactionKeyLastBlock.set(x, hotkey, netuid, txSetChildren, x.block)
		after := x.block + s.pendingChildKeyCooldown.get(x)
		s.pendingChildKeys.set(x, netuid, hotkey, pendingKin{children, after})
		x.emit(eventChildrenScheduled, hotkey[:], u16(netuid), u64(after), listOf(cKin).encode(nil, children))
		return nil
	}}
}

func validChildren(hotkey account, children []kin) error {
	if len(children) > maxChildren {
		return subtensorError("TooManyChildren")
	}
	for i, c := range children {
		if c.hotkey == hotkey {
			return subtensorError("InvalidChild")
		}
		if slices.ContainsFunc(children[:i], func(o kin) bool { return o.hotkey == c.hotkey }) {
			return subtensorError("DuplicateChild")
		}
	}
	var sum uint64
	for _, c := range children {
		if c.proportion > math.MaxUint64-sum {
			return subtensorError("ProportionOverflow")
		}
		sum += c.proportion
	}
	return nil
}

// setChildkeyTake sets what a child keeps of its parents' dividends; only a rise has to wait.
func (rt *runtime) setChildkeyTake(hotkey account, netuid, take uint16) dispatch {
	return dispatch{run: func(x *execution, from origin) error {
		s := rt.subnets
		if from.root {
			return badOrigin
		}
		if err := rt.owns(x, from.who, hotkey); err != nil {
			return err
		}
		if least := max(s.minChildkeyTake.get(x), s.minChildkeyTakePerSubnet.get(x, netuid)); take < least || take > s.maxChildkeyTake.get(x) {
			return subtensorError("InvalidChildkeyTake")
		}
		last := s.transactionKeyLastBlock.get(x, hotkey, netuid, txSetChildkeyTake)
		if take > s.childkeyTake.get(x, hotkey, netuid) && last != 0 && x.block-last < s.txChildkeyTakeRateLimit.get(x) {
			return subtensorError("TxChildkeyTakeRateLimitExceeded")
		}
		s.transactionKeyLastBlock.set(x, hotkey, netuid, txSetChildkeyTake, x.block)
		s.childkeyTake.set(x, hotkey, netuid, take)
		x.emit(eventChildKeyTakeSet, hotkey[:], u16(take))
		return nil
	}}
}

// rateDelegateTake is the key of LastRateLimitedBlock for a hotkey's take.
func rateDelegateTake(hotkey account) []byte { return append([]byte{5}, hotkey[:]...) }

// changeTake changes what a delegate keeps of its nominators' dividends.
func (rt *runtime) changeTake(hotkey account, take uint16, rise bool) dispatch {
	return dispatch{
		guard: func(x *execution, _ account) error {
			switch {
			case take < rt.subnets.minDelegateTake.get(x):
				return subtensorError("DelegateTakeTooLow")
			case take > rt.subnets.maxDelegateTake.get(x):
				return subtensorError("DelegateTakeTooHigh")
			}
			return nil
		},
		run: func(x *execution, from origin) error {
			s := rt.subnets
			if from.root {
				return badOrigin
			}
			if err := rt.owns(x, from.who, hotkey); err != nil {
				return err
			}
			now, event := s.delegates.get(x, hotkey), eventTakeDecreased
			if rise {
				event = eventTakeIncreased
				if last := s.lastRateLimitedBlock.get(x, rateDelegateTake(hotkey)); last != 0 && x.block-last < s.txDelegateTakeRateLimit.get(x) {
					return subtensorError("DelegateTxRateLimitExceeded")
				}
			}
			switch {
			case rise && take <= now, !rise && take >= now:
				return subtensorError("DelegateTakeTooLow")
			case take > s.maxDelegateTake.get(x):
				return subtensorError("DelegateTakeTooHigh")
			}
			s.delegates.set(x, hotkey, take)
			s.lastRateLimitedBlock.set(x, rateDelegateTake(hotkey), x.block)
			x.emit(event, from.who[:], hotkey[:], u16(take))
			return nil
		},
	}
}
