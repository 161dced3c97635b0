package yuma

import (
	"math"
	"math/bits"
)

// Split divides an epoch's emission among the mechanisms of a subnet by their parts of 65535 (MechanismEmissionSplit);
// without parts each gets the same. What division leaves over goes to the first.
func Split(emission uint64, mechanisms int, parts []uint16) []uint64 {
	out := make([]uint64, mechanisms)
	left := emission
	for i := range out {
		switch {
		case parts == nil:
			out[i] = emission / uint64(mechanisms)
		case i < len(parts):
			hi, lo := bits.Mul64(emission, uint64(parts[i]))
			out[i], _ = bits.Div64(hi, lo, math.MaxUint16)
		}
		left -= min(left, out[i])
	}
	if mechanisms > 0 {
		out[0] += left
	}
	return out
}

// Combine makes a subnet's record of the epochs of its mechanisms, which got the emission as [Split] divides it.
// Emissions to servers and validators add up; what is stored per subnet (all but incentive and bonds, which each
// mechanism keeps for itself and of which the first's weighted part is returned) is the sum weighted by the mechanism's
// share, cut to an integer after each step. Where there is no emission the first mechanism weighs all.
func Combine(outs []Output, split []uint64) Output {
	var total uint64
	for _, part := range split {
		total += part
	}
	var all Output
	for m, out := range outs {
		if m == 0 {
			n := len(out.Active)
			all = Output{
				Active: make([]bool, n), ValidatorPermit: make([]bool, n),
				StakeWeight: make([]uint16, n), Consensus: make([]uint16, n), Dividends: make([]uint16, n), ValidatorTrust: make([]uint16, n),
				Incentive: make([]uint16, n), ServerEmission: make([]uint64, n), ValidatorEmission: make([]uint64, n), Emission: make([]uint64, n),
			}
			addWeighted(all.Incentive, out.Incentive, split[m], total, true)
		}
		for i := range all.Active {
			all.Active[i] = all.Active[i] || out.Active[i]
			all.ValidatorPermit[i] = all.ValidatorPermit[i] || out.ValidatorPermit[i]
			all.ServerEmission[i] += out.ServerEmission[i]
			all.ValidatorEmission[i] += out.ValidatorEmission[i]
		}
		addWeighted(all.StakeWeight, out.StakeWeight, split[m], total, m == 0)
		addWeighted(all.Consensus, out.Consensus, split[m], total, m == 0)
		addWeighted(all.Dividends, out.Dividends, split[m], total, m == 0)
		addWeighted(all.ValidatorTrust, out.ValidatorTrust, split[m], total, m == 0)
		addWeighted(all.Emission, out.Emission, split[m], total, m == 0)
	}
	return all
}

// addWeighted adds part/total of what is added, a proportion of 64 fraction bits, and cuts the sum to an integer. whole
// says that the proportion is 1 where total is 0.
func addWeighted[T uint16 | uint64](sum, added []T, part, total uint64, whole bool) {
	for i, v := range added {
		switch {
		case part == total && (total > 0 || whole):
			sum[i] += v
		case total > 0:
			proportion, _ := bits.Div64(part, 0, total)
			hi, _ := bits.Mul64(uint64(v), proportion)
			sum[i] += T(hi)
		}
	}
}
