package score

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"basilica"
)

// Total is what every weight vector sums to.
const Total = 65535

// maxScore bounds one miner's score, so that the arithmetic below stays inside of 64 bits for 65536 miners.
const maxScore = 1e6

// Weights shares Total among miners in proportion to their scores. round(burnShare × Total) goes to burn, the UID of the
// subnet's owner; all of it where no miner has a score. Whoever has a score of a millionth or more and whose part of the
// rest would be less than 1 gets 1, so that a small miner is never rounded away; what is left goes by largest remainder over
// the other scores in millionths, equal remainders to the lower UID first. The published cut-off: where the rest is less
// than the number of miners with a score, the smallest scores get nothing, of equal ones the higher UIDs. The result is in
// UID order with one entry per UID and no zero; it does not
// depend on the order of scores. burn nil: there is nobody to burn to, the share is not taken, and without any score the
// result is an error. burn itself is never paid for a score.
func Weights(scores []basilica.Score, burn *basilica.UID, burnShare float64) ([]basilica.Weight, error) {
	if !(burnShare >= 0 && burnShare <= 1) {
		return nil, basilica.E(basilica.Invalid, "BURN_SHARE", fmt.Sprintf("burn share %g is outside 0..1", burnShare), "set burn_share between 0 and 1")
	}
	shares, err := sharesOf(scores, burn)
	if err != nil {
		return nil, err
	}
	burned := uint64(0)
	switch {
	case len(shares) == 0 && burn == nil:
		return nil, basilica.E(basilica.Unavailable, "NO_WEIGHTS", "no miner has a score and the subnet's owner is not registered", "wait for a miner to pass")
	case len(shares) == 0:
		burned = Total
	case burn != nil:
		burned = uint64(math.Round(burnShare * Total))
	}
	divide(shares, Total-burned)
	out := make([]basilica.Weight, 0, len(shares)+1)
	for _, s := range shares {
		if s.seats > 0 {
			out = append(out, basilica.Weight{UID: s.uid, Value: uint16(s.seats)})
		}
	}
	if burned > 0 {
		out = append(out, basilica.Weight{UID: *burn, Value: uint16(burned)})
	}
	slices.SortFunc(out, func(a, b basilica.Weight) int { return cmp.Compare(a.UID, b.UID) })
	return out, nil
}

type share struct {
	uid       basilica.UID
	millionth uint64
	seats     uint64
	remainder uint64
}

func sharesOf(scores []basilica.Score, burn *basilica.UID) ([]share, error) {
	shares := make([]share, 0, len(scores))
	for _, s := range scores {
		if !(s.Value >= 0 && s.Value <= maxScore) {
			return nil, basilica.E(basilica.Internal, "SCORE_RANGE", fmt.Sprintf("score %g of uid %d is outside 0..%g", s.Value, s.UID, maxScore), "")
		}
		if burn != nil && s.UID == *burn {
			continue
		}
		if m := uint64(math.Round(s.Value * 1e6)); m > 0 {
			shares = append(shares, share{uid: s.UID, millionth: m})
		}
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.uid, b.uid) })
	for i := 1; i < len(shares); i++ {
		if shares[i].uid == shares[i-1].uid {
			return nil, basilica.E(basilica.Internal, "UID_TWICE", fmt.Sprintf("uid %d has two scores", shares[i].uid), "")
		}
	}
	return shares, nil
}

// divide gives out all seats: one to each whose quota is less, the others by largest remainder.
func divide(shares []share, seats uint64) {
	order := make([]*share, len(shares))
	var sum uint64
	for i := range shares {
		order[i] = &shares[i]
		sum += shares[i].millionth
	}
	slices.SortStableFunc(order, func(a, b *share) int { return cmp.Compare(b.millionth, a.millionth) }) // equal ones by UID, as they came
	for uint64(len(order)) > seats {
		last := len(order) - 1
		sum, order = sum-order[last].millionth, order[:last]
	}
	for len(order) > 0 && order[len(order)-1].millionth*seats < sum {
		last := order[len(order)-1]
		last.seats = 1
		sum, seats, order = sum-last.millionth, seats-1, order[:len(order)-1]
	}
	given := uint64(0)
	for _, s := range order {
		s.seats, s.remainder = s.millionth*seats/sum, s.millionth*seats%sum
		given += s.seats
	}
	slices.SortStableFunc(order, func(a, b *share) int { return cmp.Or(cmp.Compare(b.remainder, a.remainder), cmp.Compare(a.uid, b.uid)) })
	for _, s := range order[:seats-given] {
		s.seats++
	}
}
