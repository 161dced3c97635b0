package yuma

import "math"

// cell is one entry of a sparse row. Explicit zeros are kept: they count in the chain's lists.
type cell struct {
	col   int
	value Fixed
}

// matrix is a list of sparse rows.
type matrix [][]cell

// keep returns the cells for which ok holds.
func (m matrix) keep(ok func(row int, c cell) bool) matrix {
	out := make(matrix, len(m))
	for i, row := range m {
		for _, c := range row {
			if ok(i, c) {
				out[i] = append(out[i], c)
			}
		}
	}
	return out
}

// mapped returns the matrix with every value replaced.
func (m matrix) mapped(f func(row int, c cell) Fixed) matrix {
	out := make(matrix, len(m))
	for i, row := range m {
		out[i] = make([]cell, len(row))
		for k, c := range row {
			out[i][k] = cell{c.col, f(i, c)}
		}
	}
	return out
}

func (m matrix) rowSums() []Fixed {
	out := make([]Fixed, len(m))
	for i, row := range m {
		for _, c := range row {
			out[i] += c.value
		}
	}
	return out
}

func (m matrix) columnSums() []Fixed {
	out := make([]Fixed, len(m))
	for _, row := range m {
		for _, c := range row {
			out[c.col] += c.value
		}
	}
	return out
}

func (m matrix) rowNormalised() matrix {
	sums := m.rowSums()
	return m.mapped(func(i int, c cell) Fixed {
		if sums[i] <= 0 {
			return c.value
		}
		return div(c.value, sums[i])
	})
}

func (m matrix) columnNormalised() matrix {
	sums := m.columnSums()
	return m.mapped(func(_ int, c cell) Fixed {
		if sums[c.col] == 0 {
			return c.value
		}
		return div(c.value, sums[c.col])
	})
}

// columnMaxUpscaled divides each column by its largest value.
func (m matrix) columnMaxUpscaled() matrix {
	largest := make([]Fixed, len(m))
	for _, row := range m {
		for _, c := range row {
			largest[c.col] = max(largest[c.col], c.value)
		}
	}
	return m.mapped(func(_ int, c cell) Fixed {
		if largest[c.col] == 0 {
			return c.value
		}
		return div(c.value, largest[c.col])
	})
}

// clipped is min(value, limit of the column); a cell that is clipped to nothing is dropped.
func (m matrix) clipped(limits []Fixed) matrix {
	out := make(matrix, len(m))
	for i, row := range m {
		for _, c := range row {
			switch limit := limits[c.col]; {
			case c.value <= limit:
				out[i] = append(out[i], c)
			case limit > 0:
				out[i] = append(out[i], cell{c.col, limit})
			}
		}
	}
	return out
}

// timesRows is v·m: for each column the sum of its values weighted by row.
func (m matrix) timesRows(v []Fixed) []Fixed {
	out := make([]Fixed, len(m))
	for i, row := range m {
		for _, c := range row {
			out[c.col] += mul(v[i], c.value)
		}
	}
	return out
}

// timesColumns is m·v: for each row the sum of its values weighted by column.
func (m matrix) timesColumns(v []Fixed) []Fixed {
	out := make([]Fixed, len(m))
	for i, row := range m {
		for _, c := range row {
			out[i] += mul(v[c.col], c.value)
		}
	}
	return out
}

// combined merges two matrices cell by cell over dense rows and keeps what is above 0.
func combined(a, b matrix, f func(a, b Fixed) Fixed) matrix {
	n := len(a)
	out := make(matrix, n)
	left, right := make([]Fixed, n), make([]Fixed, n)
	for i := range a {
		clear(left)
		clear(right)
		for _, c := range a[i] {
			left[c.col] = c.value
		}
		for _, c := range b[i] {
			right[c.col] = c.value
		}
		for j := range n {
			if v := f(left[j], right[j]); v > 0 {
				out[i] = append(out[i], cell{j, v})
			}
		}
	}
	return out
}

// movingAverage is alpha*fresh + (1-alpha)*old per cell.
func movingAverage(fresh, old matrix, alpha Fixed) matrix {
	return combined(fresh, old, func(f, o Fixed) Fixed { return mul(alpha, f) + mul(one-alpha, o) })
}

// interpolated lies between from (ratio 0) and to (ratio 1).
func interpolated(from, to matrix, ratio Fixed) matrix {
	switch ratio {
	case 0:
		return from
	case one:
		return to
	}
	return combined(from, to, func(f, t Fixed) Fixed { return f + mul(ratio, t-f) })
}

// columnMedians is the stake-weighted median of each column over the rows that have stake; a missing cell is
// score 0. majority is kappa.
func (m matrix) columnMedians(stake []Fixed, majority Fixed) []Fixed {
	var used []Fixed
	rowOf := make([]int, len(m))
	for i, s := range stake {
		rowOf[i] = -1
		if s > 0 {
			rowOf[i] = len(used)
			used = append(used, s)
		}
	}
	used = normalised(used)
	total := sum(used)
	scores := make([][]Fixed, len(m))
	for j := range scores {
		scores[j] = make([]Fixed, len(used))
	}
	for i, row := range m {
		if rowOf[i] < 0 {
			continue
		}
		for _, c := range row {
			scores[c.col][rowOf[i]] = c.value
		}
	}
	index := make([]int, len(used))
	for i := range index {
		index[i] = i
	}
	out := make([]Fixed, len(m))
	for j := range out {
		out[j] = weightedMedian(used, scores[j], index, total-majority, 0, total)
	}
	return out
}

// weightedMedian searches the score at which the stake below it passes minority. lo and hi are the stake below
// and up to the candidates in index.
func weightedMedian(stake, score []Fixed, index []int, minority, lo, hi Fixed) Fixed {
	for {
		switch len(index) {
		case 0:
			return 0
		case 1:
			return score[index[0]]
		}
		pivot := score[index[len(index)/2]]
		var below, above Fixed
		var lower, upper []int
		for _, i := range index {
			switch {
			case score[i] < pivot:
				below += stake[i]
				lower = append(lower, i)
			case score[i] > pivot:
				above += stake[i]
				upper = append(upper, i)
			}
		}
		switch {
		case minority < lo+below && len(lower) > 0:
			index, hi = lower, lo+below
		case hi-above <= minority && len(upper) > 0:
			index, lo = upper, hi-above
		default:
			return pivot
		}
	}
}

// MaxUpscale scales weights so that the largest becomes 65535, in the runtime's I32F32 with its rounding (half
// away from zero). set_weights stores what this returns.
func MaxUpscale(weights []uint16) []uint16 {
	fixed := make([]Fixed, len(weights))
	for i, w := range weights {
		fixed[i] = fromUint16(w)
	}
	return maxUpscale(fixed)
}

func maxUpscale(v []Fixed) []uint16 {
	var largest Fixed
	for _, x := range v {
		largest = max(largest, x)
	}
	full := fromUint16(math.MaxUint16)
	out := make([]uint16, len(v))
	for i, x := range v {
		var scaled Fixed
		switch {
		case largest == 0:
			scaled = mul(x, full)
		case largest > fromUint16(32768): // x*65535 would not fit
			scaled = mul(x, div(full, largest))
		default:
			scaled = div(mul(x, full), largest)
		}
		out[i] = uint16(min(roundHalfUp(max(scaled, 0)), math.MaxUint16))
	}
	return out
}

func roundHalfUp(v Fixed) uint64 { return (uint64(v) + 1<<31) >> 32 }
