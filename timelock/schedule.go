package timelock

import (
	"errors"
	"fmt"
	"time"
)

// Limits of the chain (pallets/subtensor, coinbase/run_coinbase.rs).
const (
	// MaxTempo is after how many blocks without an epoch one runs in any case, and the longest tempo.
	MaxTempo = 50400
	// MaxRevealPeriod is the most epochs that a subnet may keep commits sealed.
	MaxRevealPeriod = 100
	// securityBlocks is how many blocks past the first that reveals the official clients aim, so that no miner reads
	// weights before validators are bound to them.
	securityBlocks = 3
)

// Errors of planning a reveal.
var (
	ErrNoEpochs     = errors.New("subnet does not run epochs")
	ErrRevealPeriod = errors.New("the reveal period is not one of 1 to 100 epochs")
)

// Schedule is when a subnet's epochs run, as the chain stores it at the end of one block: Tempo, LastEpochBlock,
// PendingEpochAt, SubnetEpochIndex, BlocksSinceLastStep. All block numbers are absolute.
type Schedule struct {
	Tempo               uint16
	LastEpochBlock      uint64
	PendingEpochAt      uint64 // 0: none asked for
	SubnetEpochIndex    uint64
	BlocksSinceLastStep uint64
}

// Due says whether an epoch is to run at a block: asked for, overdue by the safety net, or a tempo after the last.
func (s Schedule) Due(block uint64) bool {
	switch {
	case s.Tempo == 0:
		return false
	case s.PendingEpochAt > 0 && block >= s.PendingEpochAt, s.BlocksSinceLastStep > MaxTempo:
		return true
	default:
		return block >= s.LastEpochBlock && block-s.LastEpochBlock >= uint64(s.Tempo)
	}
}

// Lookahead is the epoch index that commits and reveals of a block count by: one more where an epoch is due in it.
func (s Schedule) Lookahead(block uint64) uint64 {
	if s.Due(block) {
		return s.SubnetEpochIndex + 1
	}
	return s.SubnetEpochIndex
}

// Next is the block at which the next epoch starts by tempo or by request; false for a subnet without epochs.
func (s Schedule) Next() (uint64, bool) {
	if s.Tempo == 0 {
		return 0, false
	}
	next := s.LastEpochBlock + uint64(s.Tempo)
	if s.PendingEpochAt > 0 {
		next = min(next, s.PendingEpochAt)
	}
	return next, true
}

// Pass is the schedule after a block in which no epoch was deferred.
func (s Schedule) Pass(block uint64) Schedule {
	s.BlocksSinceLastStep++
	if s.Due(block) {
		s.LastEpochBlock, s.PendingEpochAt, s.BlocksSinceLastStep = block, 0, 0
		s.SubnetEpochIndex++
	}
	return s
}

// Plan says when a commit that enters the next block is revealed.
type Plan struct {
	// CommitEpoch and TargetEpoch are epoch indexes with lookahead: of the commit's block, and of the reveal's.
	CommitEpoch, TargetEpoch uint64
	// FirstReveal is the first block that reveals the commit.
	FirstReveal uint64
	// Target is the block whose time decides the round: a few past FirstReveal.
	Target uint64
}

// Plan walks the blocks after head, at whose end the schedule was read, up to the first that reveals a commit of the next
// block, on a subnet that keeps commits sealed for so many epochs. It looks at period + 1 times [MaxTempo] blocks at most.
// Errors: ErrNoEpochs, ErrRevealPeriod.
func (s Schedule) Plan(head, period uint64) (Plan, error) {
	if s.Tempo == 0 {
		return Plan{}, ErrNoEpochs
	}
	if period < 1 || period > MaxRevealPeriod {
		return Plan{}, fmt.Errorf("%d: %w", period, ErrRevealPeriod)
	}
	commit := s.Lookahead(head + 1)
	p := Plan{CommitEpoch: commit, TargetEpoch: commit + period}
	for block := head + 1; block <= head+(period+1)*MaxTempo; block++ {
		if s.Lookahead(block) == p.TargetEpoch {
			p.FirstReveal, p.Target = block, block+securityBlocks
			return p, nil
		}
		s = s.Pass(block)
	}
	return Plan{}, ErrNoEpochs
}

// LegacyPlan plans for chains up to spec 293 or so, whose epochs follow from block number, netuid and tempo alone; block
// is the head. Errors: ErrNoEpochs, ErrRevealPeriod.
func LegacyPlan(netuid, tempo uint16, block, period uint64) (Plan, error) {
	if tempo == 0 {
		return Plan{}, ErrNoEpochs
	}
	if period < 1 || period > MaxRevealPeriod {
		return Plan{}, fmt.Errorf("%d: %w", period, ErrRevealPeriod)
	}
	length, shift := uint64(tempo)+1, uint64(netuid)+1
	epoch := (block + shift) / length
	p := Plan{CommitEpoch: epoch, TargetEpoch: epoch + period}
	// The first epochs of a young chain may begin before its first block.
	p.FirstReveal = max(p.TargetEpoch*length, shift) - shift
	p.Target = p.FirstReveal + securityBlocks
	return p, nil
}

// Round is the beacon's round to seal a commit to, at least 1: the latest at the time of the plan's target block, by the
// client's own clock, which shows now while the chain is at block head.
func (p Plan) Round(b Beacon, now time.Time, head uint64, blockTime time.Duration) uint64 {
	wait := time.Duration(p.Target-head) * blockTime
	since := now.Add(wait).Sub(time.Unix(b.Genesis, 0))
	if since < 0 || b.Period <= 0 {
		return 1
	}
	return max(1, uint64(int64(since/time.Second)/b.Period)) // a period in nanoseconds may be above what fits
}
