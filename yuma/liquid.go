package yuma

import "math"

// exponentTerms is up to which power the series of the exponential runs: below the 32 fraction bits of the type.
const exponentTerms = 31

// exponential is e^x as substrate-fixed computes it (transcendental.rs): the Taylor series of the magnitude, each term made
// of the last by one product, rounded down, and one quotient, truncated; for a negative x the reciprocal of that. e^1 is a
// constant of 23 fraction bits. It is false where a term or the sum does not fit, also for a negative x.
func exponential(x Fixed) (Fixed, bool) {
	switch x {
	case 0:
		return one, true
	case one:
		return 0x15bf0a8 << 9, true // e with 23 fraction bits
	}
	magnitude := max(x, -x)
	total, term := magnitude+one, magnitude
	for i := Fixed(2); i <= exponentTerms; i++ {
		product := mul(term, magnitude)
		if product == math.MaxInt64 {
			return 0, false
		}
		term = product / i
		if total += term; total < 0 {
			return 0, false
		}
	}
	if x < 0 {
		return div(one, total), true
	}
	return total, true
}

// decay is e^x in the sigmoid of liquid alpha.
func (r Rules) decay(x Fixed) Fixed {
	if r.BoundExponent {
		const limit = 20 * one
		x = min(max(x, -limit), limit)
	}
	e, _ := exponential(x) // 0 where it does not fit
	return e
}

// speed is the alpha of one cell.
func (l LiquidAlpha) speed(r Rules, consensus, weight, bond Fixed) Fixed {
	away := weight - consensus
	if weight < bond {
		away = bond - weight
	}
	away = min(max(away, 0), one)
	exponent := mul(div(Fixed(l.Steepness)<<32, -100*one), away-one/2)
	sigmoid := div(one, one+r.decay(exponent))
	low, high := proportion(l.Low), proportion(l.High)
	return min(max(low+mul(sigmoid, high-low), low), high)
}

// moved brings the bonds nearer to the weights. Only cells with a weight remain: a bond without one is gone at once. As in
// the runtime, a weight that is stored out of the order of uids counts as 0 for the speed of its cell, but moves the bond.
func (l LiquidAlpha) moved(r Rules, weights, bonds matrix, consensus []Fixed) matrix {
	out := make(matrix, len(weights))
	for i, row := range weights {
		seen, held := ordered(row, len(weights)), ordered(bonds[i], len(weights))
		old := make([]Fixed, len(weights))
		for _, c := range bonds[i] {
			old[c.col] = c.value
		}
		for _, c := range row {
			alpha := l.speed(r, consensus[c.col], seen[c.col], held[c.col])
			value := min(mul(one-alpha, old[c.col])+max(mul(alpha, c.value), 0), one)
			if value > 0 {
				out[i] = append(out[i], cell{c.col, value})
			}
		}
	}
	return out
}

// ordered spreads a sparse row out over its columns, as far as its cells follow each other by column: what comes after a
// cell of a higher column is missed.
func ordered(row []cell, columns int) []Fixed {
	out := make([]Fixed, columns)
	at := 0
	for col := range out {
		for at < len(row) && row[at].col < col {
			at++
		}
		if at < len(row) && row[at].col == col {
			out[col] = row[at].value
		}
	}
	return out
}
