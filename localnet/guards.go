package localnet

// guard is what the runtime's dispatch extension asks of a call in the name of who, in the pool and again when the call
// runs, also inside another call. A coldkey that announced its swap does nothing else but what the swap needs.
func (rt *runtime) guard(x *execution, call decoded, who account) error {
	if _, announced := rt.subnets.coldkeySwapAnnouncements.find(x, who); announced {
		if _, disputed := rt.subnets.coldkeySwapDisputes.find(x, who); disputed {
			return subtensorError("ColdkeySwapDisputed")
		}
		if !swapMay(call) {
			return subtensorError("ColdkeySwapAnnounced")
		}
	}
	if call.guard == nil {
		return nil
	}
	return call.guard(x, who)
}

// swapMay says whether a coldkey with an announced swap may make a call.
func swapMay(call decoded) bool {
	switch call.module.name + "." + call.call.name {
	case "SubtensorModule.announce_coldkey_swap", "SubtensorModule.swap_coldkey_announced", "SubtensorModule.dispute_coldkey_swap",
		"SubtensorModule.clear_coldkey_swap_announcement", "MevShield.submit_encrypted":
		return true
	}
	return false
}

// guardWeight is what the guards weigh; a call that says afterwards what it cost does not pay for them.
var guardWeight = weight{67_583_000, 4198}

func (w weight) plus(o weight) weight {
	return weight{w.refTime + o.refTime, w.proofSize + o.proofSize}
}

func (w weight) minus(o weight) weight {
	return weight{w.refTime - min(w.refTime, o.refTime), w.proofSize - min(w.proofSize, o.proofSize)}
}
