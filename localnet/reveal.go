package localnet

import (
	"bytes"

	"basilica/timelock"
)

// revealCommits opens the timelocked commits whose epoch has come, and forgets those whose epoch is over, before the
// epochs of the block run. A subnet whose epoch is due but will be put off waits with it.
func (rt *runtime) revealCommits(x *execution, subnets []uint16) {
	room := int(rt.subnets.maxEpochs.get(x))
	for _, netuid := range subnets {
		if rt.due(x, netuid) {
			if room--; room < 0 {
				continue
			}
		}
		for mecid := range max(1, rt.subnets.mechanismCountCurrent.get(x, netuid)) {
			rt.revealMechanism(x, netuid, mecid)
		}
	}
}

func (rt *runtime) revealMechanism(x *execution, netuid uint16, mecid uint8) {
	s, index := rt.subnets, storageIndex(netuid, mecid)
	epochs := rt.timelockedEpochs(x, index)
	if len(epochs) == 0 {
		return
	}
	now, period := rt.epochAhead(x, netuid), s.revealPeriodEpochs.get(x, netuid)
	for _, epoch := range epochs {
		if epoch+period < now {
			s.timelockedWeightCommits.del(x, index, epoch)
		}
	}
	if now < period {
		return
	}
	commits := s.timelockedWeightCommits.get(x, index, now-period)
	var waiting []timelockedCommit
	for _, c := range commits {
		pulse, stored := rt.drand.pulses.find(x, c.round)
		if !stored {
			waiting = append(waiting, c) // the next block looks again
			continue
		}
		if row, ok := opened(c, pulse); ok && rt.storeWeights(x, c.who, netuid, mecid, row) == nil {
			x.emit(eventTimelockedRevealed, u16(index), c.who[:])
		}
	}
	switch {
	case len(waiting) == len(commits):
	case len(waiting) == 0:
		s.timelockedWeightCommits.del(x, index, now-period)
	default:
		s.timelockedWeightCommits.set(x, index, now-period, waiting)
	}
}

// opened decrypts a commit with the pulse of its round. What does not open, holds no weights or names another hotkey is
// dropped without a word.
func opened(c timelockedCommit, pulse pulse) (row, bool) {
	plain, err := timelock.Decrypt(bytes.TrimPrefix(pulse.signature, []byte("0x")), c.cipher)
	if err != nil {
		return row{}, false
	}
	w, err := timelock.DecodeWeights(plain)
	if err != nil || w.Hotkey != nil && !bytes.Equal(w.Hotkey, c.who[:]) {
		return row{}, false
	}
	return row{uids: w.UIDs, values: w.Values, key: w.VersionKey}, true
}
