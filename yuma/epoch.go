// Package yuma computes a subnet's consensus epoch (weights and stakes in; permits, incentive, dividends, bonds and
// emission out) and how its emission is divided among hotkeys, bit for bit as the runtime does. What differs between
// generations of the runtime (spec 293 of 2025, spec 425 of 2026) is an explicit input. It knows no storage and no block
// production.
package yuma

import (
	"errors"
	"fmt"
	"slices"
)

// Entry is one sparse weight or bond: towards UID, of 65535 at most.
type Entry struct {
	UID   uint16
	Value uint16
}

// Rules are what an epoch does differently from one runtime to another.
type Rules struct {
	// OwnerPermit: the owner uid always holds a permit, and StakeThreshold does not bind it.
	OwnerPermit bool
	// ClearBonds: the stored bonds of every uid without a new permit are emptied. Without it only those that lose a
	// permit are, and others keep what is stored.
	ClearBonds bool
	// BoundExponent: the exponent of liquid alpha's sigmoid is held between -20 and 20. Without it a power that does not
	// fit counts as 0, so that the sigmoid is 1.
	BoundExponent bool
}

// Spec425 is the runtime of June 2026.
func Spec425() Rules { return Rules{OwnerPermit: true, ClearBonds: true, BoundExponent: true} }

// Spec293 is the runtime of July 2025.
func Spec293() Rules { return Rules{} }

// LiquidAlpha moves each bond at a speed of its own, between Low and High (AlphaValues, of 65535): the slower the less a
// weight is above consensus, or below its bond.
type LiquidAlpha struct {
	Low, High uint16
	// Steepness of the sigmoid between them, in hundredths (AlphaSigmoidSteepness).
	Steepness int16
}

// Params are the subnet's settings that the epoch reads, in the chain's own units.
type Params struct {
	Rules
	// ActivityCutoff in blocks: a neuron whose last update is further back counts as inactive.
	ActivityCutoff uint64
	// Kappa is the majority needed for consensus, of 65535.
	Kappa uint16
	// BondsPenalty is how far bonds follow clipped instead of given weights, of 65535.
	BondsPenalty uint16
	// BondsMovingAverage is the share of the old bonds that is kept, in millionths.
	BondsMovingAverage uint64
	// MaxValidators is how many neurons hold a permit (MaxAllowedValidators).
	MaxValidators uint16
	// StakeThreshold in rao: who has less stake weighs nothing.
	StakeThreshold uint64
	// Yuma3 chooses the bonds of Yuma 3 instead of those of Yuma 2.
	Yuma3 bool
	// Liquid is set where liquid alpha is on. Yuma 2 does not read it.
	Liquid *LiquidAlpha
}

// Input is everything that one epoch reads. All slices have one element per uid.
type Input struct {
	Params Params
	// Block in which the epoch runs.
	Block uint64
	// Owner is the uid of the subnet's owner hotkey, nil where it is not registered.
	Owner *uint16
	// BondsSince: bonds towards who registered in this block or later are dropped. Spec 425 gives it by [BondsSince],
	// spec 293 is Block less tempo.
	BondsSince          uint64
	LastUpdate          []uint64
	BlockAtRegistration []uint64
	ValidatorPermit     []bool
	Stake               []Stake
	Weights             [][]Entry
	Bonds               [][]Entry
	// EarliestCommit is the block of each neuron's oldest unexpired weight commit, nil where it has none or where
	// commit-reveal is off; the slice itself may be nil.
	EarliestCommit []*uint64
	// Emission in rao, shared out between servers and validators.
	Emission uint64
}

// Output is what one epoch writes, one element per uid. Proportions are of 65535, emissions in rao.
type Output struct {
	Active            []bool
	ValidatorPermit   []bool
	StakeWeight       []uint16
	Consensus         []uint16
	Incentive         []uint16
	Dividends         []uint16
	ValidatorTrust    []uint16
	ServerEmission    []uint64
	ValidatorEmission []uint64
	Emission          []uint64
	Bonds             [][]Entry
	// Rank, Trust and PruningScores are stored by spec 293 only.
	Rank, Trust, PruningScores []uint16

	raw rawOutput
}

// rawOutput keeps the unrounded numbers for the vector tests.
type rawOutput struct {
	stake, activeStake, consensus, validatorTrust, incentive, dividends []Fixed
	bonds                                                               matrix
}

// BondsSince is the reference block of spec 425: after the subnet's last epoch (LastMechansimStepBlock), or a tempo ago
// before its first.
func BondsSince(lastStep, block uint64, tempo uint16) uint64 {
	if lastStep == 0 {
		return block - min(block, uint64(tempo))
	}
	return lastStep + 1
}

// ErrShape is returned when the slices of an Input differ in length or name a uid that does not exist.
var ErrShape = errors.New("yuma: input of inconsistent shape")

// Epoch runs one epoch. The only error is ErrShape.
func Epoch(in Input) (Output, error) {
	if err := in.check(); err != nil {
		return Output{}, err
	}
	n := len(in.LastUpdate)
	active := make([]bool, n)
	for i := range active {
		active[i] = in.LastUpdate[i]+in.Params.ActivityCutoff >= in.Block
	}
	stake := in.stakeWeights()
	permits := slices.Clone(in.ValidatorPermit)
	newPermits := topNonZero(stake, int(in.Params.MaxValidators))
	if in.Owner != nil && in.Params.OwnerPermit {
		permits[*in.Owner] = true
		newPermits[*in.Owner] = true
	}
	activeStake := slices.Clone(stake)
	for i := range activeStake {
		if !active[i] || !permits[i] {
			activeStake[i] = 0
		}
	}
	activeStake = normalised(activeStake)

	weights := in.maskedWeights(permits)
	consensus := weights.columnMedians(activeStake, proportion(in.Params.Kappa))
	clipped := weights.clipped(consensus)
	trust := clipped.rowSums()
	ranks := clipped.timesRows(activeStake)
	incentive := normalised(ranks)
	forBonds := interpolated(weights, clipped, proportion(in.Params.BondsPenalty))
	bonds, dividends := in.bonds(forBonds, activeStake, consensus, incentive)

	out := Output{
		Active: active, ValidatorPermit: newPermits,
		StakeWeight: toUint16s(stake), Consensus: toUint16s(consensus), Incentive: toUint16s(incentive),
		Dividends: toUint16s(dividends), ValidatorTrust: toUint16s(trust),
		Rank: toUint16s(incentive), Trust: toUint16s(quotients(ranks, weights.timesRows(activeStake))),
		raw: rawOutput{stake, activeStake, consensus, trust, incentive, dividends, bonds},
	}
	out.shareOut(in.Emission)
	out.Bonds = in.storedBonds(bonds, newPermits)
	return out, nil
}

// storedBonds is what is stored of the bonds: the rows of who holds a permit now.
func (in Input) storedBonds(bonds matrix, newPermits []bool) [][]Entry {
	out := make([][]Entry, len(bonds))
	for i, row := range bonds {
		switch {
		case newPermits[i]:
			for _, c := range row {
				out[i] = append(out[i], Entry{uint16(c.col), toUint16(c.value)})
			}
		case !in.Params.ClearBonds && !in.ValidatorPermit[i]:
			out[i] = in.Bonds[i]
		}
	}
	return out
}

func (in Input) check() error {
	n := len(in.LastUpdate)
	if n > 1<<16 {
		return fmt.Errorf("%w: %d neurons", ErrShape, n)
	}
	for name, length := range map[string]int{
		"BlockAtRegistration": len(in.BlockAtRegistration), "ValidatorPermit": len(in.ValidatorPermit),
		"Stake": len(in.Stake), "Weights": len(in.Weights), "Bonds": len(in.Bonds),
	} {
		if length != n {
			return fmt.Errorf("%w: %s has %d entries, LastUpdate %d", ErrShape, name, length, n)
		}
	}
	if in.EarliestCommit != nil && len(in.EarliestCommit) != n {
		return fmt.Errorf("%w: EarliestCommit has %d entries, LastUpdate %d", ErrShape, len(in.EarliestCommit), n)
	}
	if in.Owner != nil && int(*in.Owner) >= n {
		return fmt.Errorf("%w: owner uid %d of %d", ErrShape, *in.Owner, n)
	}
	for _, rows := range [][][]Entry{in.Weights, in.Bonds} {
		for _, row := range rows {
			for _, e := range row {
				if int(e.UID) >= n {
					return fmt.Errorf("%w: uid %d of %d", ErrShape, e.UID, n)
				}
			}
		}
	}
	return nil
}

// stakeWeights drops what lies below the threshold and normalises.
func (in Input) stakeWeights() []Fixed {
	counted := slices.Clone(in.Stake)
	for i, s := range counted {
		owner := in.Params.OwnerPermit && in.Owner != nil && int(*in.Owner) == i
		if s.Rao < in.Params.StakeThreshold && !owner {
			counted[i] = Stake{}
		}
	}
	return normaliseStakes(counted)
}

// maskedWeights drops the rows without permit, self weights other than the owner's, and entries that are older than
// their target, then normalises the rows.
func (in Input) maskedWeights(permits []bool) matrix {
	weights := fromEntries(in.Weights, fromUint16)
	weights = weights.keep(func(i int, c cell) bool {
		self := i == c.col && (in.Owner == nil || int(*in.Owner) != i)
		registered := in.BlockAtRegistration[c.col]
		if !permits[i] || self || in.LastUpdate[i] <= registered {
			return false
		}
		return in.EarliestCommit == nil || in.EarliestCommit[i] == nil || *in.EarliestCommit[i] >= registered
	})
	return weights.rowNormalised()
}

// bonds moves the bonds on by one epoch; it returns what is stored and each neuron's dividends.
func (in Input) bonds(weights matrix, activeStake, consensus, incentive []Fixed) (matrix, []Fixed) {
	kept := func(_ int, c cell) bool { return in.BondsSince > in.BlockAtRegistration[c.col] }
	alpha := one - Fixed((in.Params.BondsMovingAverage<<32)/1_000_000)

	if in.Params.Yuma3 {
		old := fromEntries(in.Bonds, proportion).keep(kept)
		var bonds matrix
		if liquid := in.Params.Liquid; liquid != nil && slices.ContainsFunc(consensus, func(c Fixed) bool { return c != 0 }) {
			bonds = liquid.moved(in.Params.Rules, weights, old, consensus)
		} else {
			bonds = movingAverage(weights, old, alpha)
		}
		total := bonds.columnNormalised().timesColumns(incentive)
		for i := range total {
			total[i] = mul(total[i], activeStake[i])
		}
		return bonds, normalised(total)
	}
	old := fromEntries(in.Bonds, fromUint16).keep(kept).columnNormalised()
	delta := weights.mapped(func(i int, c cell) Fixed { return mul(c.value, activeStake[i]) }).columnNormalised()
	bonds := movingAverage(delta, old, alpha).columnNormalised()
	dividends := normalised(bonds.timesColumns(incentive))
	return bonds.columnMaxUpscaled(), dividends
}

// shareOut divides the emission by incentive and dividends; where there are none, validators share by stake.
func (out *Output) shareOut(rao uint64) {
	both := make([]Fixed, len(out.raw.incentive))
	for i := range both {
		both[i] = out.raw.incentive[i] + out.raw.dividends[i]
	}
	total := sum(both)
	server, validator, all := dividedBy(out.raw.incentive, total), dividedBy(out.raw.dividends, total), dividedBy(both, total)
	if total == 0 {
		validator = out.raw.activeStake
		if sum(validator) == 0 {
			validator = out.raw.stake
		}
		all = validator
		server = make([]Fixed, len(all))
	}
	out.PruningScores = maxUpscale(all)
	for i := range all {
		out.ServerEmission = append(out.ServerEmission, share(rao, server[i]))
		out.ValidatorEmission = append(out.ValidatorEmission, share(rao, validator[i]))
		out.Emission = append(out.Emission, share(rao, all[i]))
	}
}

// topNonZero marks the k largest values that are not 0; of equal ones the higher index wins.
func topNonZero(v []Fixed, k int) []bool {
	out := make([]bool, len(v))
	index := make([]int, len(v))
	for i := range v {
		out[i] = v[i] != 0
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int {
		switch {
		case v[a] < v[b]:
			return -1
		case v[a] > v[b]:
			return 1
		}
		return 0
	})
	for _, i := range index[:max(len(v)-k, 0)] {
		out[i] = false
	}
	return out
}

func fromEntries(rows [][]Entry, value func(uint16) Fixed) matrix {
	out := make(matrix, len(rows))
	for i, row := range rows {
		for _, e := range row {
			out[i] = append(out[i], cell{int(e.UID), value(e.Value)})
		}
	}
	return out
}

func toUint16s(v []Fixed) []uint16 {
	out := make([]uint16, len(v))
	for i, x := range v {
		out[i] = toUint16(x)
	}
	return out
}
