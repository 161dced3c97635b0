package localnet

import (
	"slices"

	"basilica/scale"
)

// settleChildren gives effect to the children that hotkeys of a subnet have set and whose cooldown is over. The chain
// does so in the block of the subnet's epoch, after it.
func (rt *runtime) settleChildren(x *execution, netuid uint16) {
	s := rt.subnets
	prefix := s.pendingChildKeys.prefix + string(scale.AppendU16(nil, netuid))
	for _, k := range x.scan(prefix) {
		const hash = 16 // Blake2_128Concat puts it in front
		hotkey := account([]byte(k[len(prefix)+hash:]))
		pending := s.pendingChildKeys.get(x, netuid, hotkey)
		if x.block < pending.cooldown {
			continue
		}
		for _, former := range s.childKeys.get(x, hotkey, netuid) {
			rt.setParent(x, former.hotkey, netuid, hotkey, 0)
		}
		for _, child := range pending.children {
			rt.setParent(x, child.hotkey, netuid, hotkey, child.proportion)
		}
		if len(pending.children) == 0 {
			s.childKeys.del(x, hotkey, netuid)
		} else {
			s.childKeys.set(x, hotkey, netuid, pending.children)
		}
		s.pendingChildKeys.del(x, netuid, hotkey)
		x.emit(eventChildrenSet, hotkey[:], u16(netuid), listOf(cKin).encode(nil, pending.children))
	}
}

// setParent makes parent a parent of child with a part of its stake, or no parent where the part is 0.
func (rt *runtime) setParent(x *execution, child account, netuid uint16, parent account, proportion uint64) {
	parents := slices.DeleteFunc(rt.subnets.parentKeys.get(x, child, netuid), func(k kin) bool { return k.hotkey == parent })
	if proportion > 0 {
		parents = append(parents, kin{proportion, parent})
	}
	if len(parents) == 0 {
		rt.subnets.parentKeys.del(x, child, netuid)
		return
	}
	rt.subnets.parentKeys.set(x, child, netuid, parents)
}
