package yuma

import (
	"errors"
	"fmt"
	"math"
)

// ErrWeights says that floats are no weights: negative, not finite, or not as many as uids.
var ErrWeights = errors.New("yuma: not weights")

// FromFloats turns weights of any scale into entries as the official Python SDK does
// (bittensor/utils/weight_utils.py, convert_weights_and_uids_for_emit): the largest becomes 65535, halves round to even,
// what rounds to 0 is dropped. Weights that are all 0 give no entries. Errors: ErrWeights.
func FromFloats(uids []uint16, weights []float64) ([]Entry, error) {
	if len(uids) != len(weights) {
		return nil, fmt.Errorf("%w: %d for %d uids", ErrWeights, len(weights), len(uids))
	}
	var largest float64
	for _, w := range weights {
		if !(w >= 0) || math.IsInf(w, 1) {
			return nil, fmt.Errorf("%w: %g", ErrWeights, w)
		}
		largest = max(largest, w)
	}
	var out []Entry
	for i, w := range weights {
		if v := math.RoundToEven(w / largest * math.MaxUint16); v > 0 { // false for 0/0
			out = append(out, Entry{UID: uids[i], Value: uint16(v)})
		}
	}
	return out, nil
}
