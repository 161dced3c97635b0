package basilica

import (
	"slices"
	"strings"
)

// Explanation is one row of the table of codes: what stands behind a code that a person meets.
//
// A new code needs a row in the file of its area (codes_*.go, in alphabetical order), or TestCodes fails; it also fails
// for a row that nothing uses. After that `make generate` writes docs/errors.md anew. Codes of the chain itself have a
// dot (SubtensorModule.NotEnoughStake) and no row: their words come from the chain's metadata.
type Explanation struct {
	Code     string `json:"code"`     // upper-case words
	Sentence string `json:"sentence"` // in general terms; the failure itself says it with its own names and numbers
	Cause    string `json:"cause"`    // why it happens, or who decides it
	Fix      string `json:"fix"`      // what to do next; a failure may say it more exactly
}

// Codes gives the whole table, in order of its codes.
func Codes() []Explanation {
	all := slices.Concat(doorCodes, fleetCodes, taskCodes, proofCodes, machineCodes, chainCodes)
	slices.SortFunc(all, func(a, b Explanation) int { return strings.Compare(a.Code, b.Code) })
	return all
}

// families are codes that a phase or a number follows, e.g. MALFORMED_WALK_DONE; the family's row explains them all.
var families = []string{"ABORTED", "MALFORMED", "TIMEOUT", "TRANSPORT"}

// Explain finds the row of a code; case does not matter. The second value is false where there is none.
func Explain(code string) (Explanation, bool) {
	code = strings.ToUpper(code)
	for _, area := range [][]Explanation{doorCodes, fleetCodes, taskCodes, proofCodes, machineCodes, chainCodes} {
		for _, x := range area {
			if x.Code == code {
				return x, true
			}
		}
	}
	for _, f := range families {
		if rest, ok := strings.CutPrefix(code, f+"_"); ok && rest != "" {
			return Explain(f)
		}
	}
	return Explanation{}, false
}

// NearestCode is the code with the fewest edits from what somebody typed.
func NearestCode(typed string) string {
	typed = strings.ToUpper(typed[:min(len(typed), 64)])
	return slices.MinFunc(Codes(), func(a, b Explanation) int {
		return EditDistance(typed, a.Code) - EditDistance(typed, b.Code)
	}).Code
}

// EditDistance is Levenshtein's: how many bytes must be put in, taken out or replaced to make b of a.
func EditDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
