package adversary

import (
	"math"
	"math/rand/v2"
	"testing"
)

// split simulates two cards that share the cells of the mix. Each works out the fraction x of every round, cells that both have
// twice, and fetches what its own need. It gives e(x), the fetched cells per cell and round, of a card that knows all addresses
// of the round beforehand and fetches first what completes the most cells.
func split(r *rand.Rand, cells int, x float64, rounds int) float64 {
	want := int(x * float64(cells))
	var has [2][]bool
	order := r.Perm(cells)
	for c := range has {
		has[c] = make([]bool, cells)
	}
	for k, cell := range order {
		has[0][cell], has[1][cell] = k < want, k >= cells-want
	}
	const settle = 2
	fetched := 0
	for round := range rounds + settle {
		needs := make([][3]int, cells)
		for i := range needs {
			needs[i] = [3]int{i, r.IntN(cells), r.IntN(cells)}
		}
		n := 0
		var made [2][]bool
		for c := range has {
			n += complete(needs, has[c], want)
		}
		for i, in := range needs { // what neither can make goes to the one that lacks less
			if lacking(in, has[0]) > 0 && lacking(in, has[1]) > 0 {
				c := i & 1
				if a, b := lacking(in, has[0]), lacking(in, has[1]); a < b {
					c = 0
				} else if b < a {
					c = 1
				}
				for _, k := range in {
					if !has[c][k] {
						has[c][k] = true
						n++
					}
				}
			}
		}
		for c := range made {
			made[c] = make([]bool, cells)
			for i, in := range needs {
				made[c][i] = lacking(in, has[c]) == 0
			}
		}
		trim(r, made[0], made[1], want)
		trim(r, made[1], made[0], want)
		has = made
		if round >= settle {
			fetched += n
		}
	}
	return float64(fetched) / float64(2*cells*rounds)
}

// lacking counts the cells of in that a card does not hold.
func lacking(in [3]int, has []bool) (n int) {
	for _, k := range in {
		if !has[k] {
			n++
		}
	}
	return n
}

// complete fetches cells until so many new ones can be made, first those that are the last thing the most cells lack. It gives
// how many it fetched.
func complete(needs [][3]int, has []bool, want int) (fetched int) {
	users := make([][]int, len(has)) // of cells that are not held
	lack, gain := make([]int, len(needs)), make([]int, len(has))
	done := 0
	for i, in := range needs {
		for k, cell := range in {
			if has[cell] || k > 0 && cell == in[0] || k > 1 && cell == in[1] {
				continue
			}
			lack[i]++
			users[cell] = append(users[cell], i)
		}
	}
	last := func(i int) int { // the one cell that i still lacks
		for _, cell := range needs[i] {
			if !has[cell] {
				return cell
			}
		}
		return -1
	}
	for i, n := range lack {
		switch n {
		case 0:
			done++
		case 1:
			gain[last(i)]++
		}
	}
	byGain := make([][]int, 1, 64) // cells by what they complete; entries that no longer hold are skipped
	push := func(cell int) {
		for len(byGain) <= gain[cell] {
			byGain = append(byGain, nil)
		}
		byGain[gain[cell]] = append(byGain[gain[cell]], cell)
	}
	for cell, held := range has {
		if !held {
			push(cell)
		}
	}
	for done < want {
		top := len(byGain) - 1
		if top < 0 {
			break
		}
		level := byGain[top]
		if len(level) == 0 {
			byGain = byGain[:top]
			continue
		}
		cell := level[len(level)-1]
		byGain[top] = level[:len(level)-1]
		if has[cell] || gain[cell] != top {
			continue
		}
		has[cell] = true
		fetched++
		for _, i := range users[cell] {
			switch lack[i]--; lack[i] {
			case 0:
				done++
			case 1:
				k := last(i)
				gain[k]++
				push(k)
			}
		}
	}
	return fetched
}

// trim has a card leave out cells that the other one makes too, down to its share.
func trim(r *rand.Rand, own, other []bool, want int) {
	n := 0
	for _, made := range own {
		if made {
			n++
		}
	}
	for _, i := range r.Perm(len(own)) {
		if n > want && own[i] && other[i] {
			own[i] = false
			n--
		}
	}
}

// TestSplitModel reproduces the table of gpu-proof.md section 3.5 within 0.02: what two cards with full copies reach in the mix,
// relative to the claimed one, if they fetch what they find missing, and if they knew all addresses beforehand.
func TestSplitModel(t *testing.T) {
	t.Parallel()
	const cells, points = 1 << 11, 10
	r := rand.New(rand.NewPCG(3, 5))
	var knowing [points + 1]float64 // e at x = 0.5, 0.55 .. 1
	for i := range points {
		knowing[i] = split(r, cells, 0.5+0.5*float64(i)/points, 3)
	}
	t.Logf("e(0.5) = %.3f, e(0.8) = %.3f; fetching: %.3f, %.3f", knowing[0], knowing[6], fetched(0.5), fetched(0.8))
	if math.Abs(knowing[0]-0.254) > 0.02 || math.Abs(knowing[6]-0.100) > 0.02 {
		t.Error("an all-knowing card fetches 0.254 at x = 0.5 and 0.100 at 0.8")
	}
	known := func(x float64) float64 {
		p := math.Min((x-0.5)*2*points, points-1e-9)
		low := knowing[int(p)]
		return low + (knowing[int(p)+1]-low)*(p-math.Floor(p))
	}
	for _, c := range []struct {
		cards            string
		claim, one, link float64 // GB/s
		fetching, all    float64
	}{
		{"2 RTX PRO 6000 as H100 SXM, PCIe 5", 2560, 1370, 57, 0.65, 0.72},
		{"2 RTX PRO 6000 as H100 SXM, 100 GbE", 2560, 1370, 12, 0.56, 0.58},
		{"2 RTX PRO 6000 as H100 SXM, PCIe 6", 2560, 1370, 115, 0.79, 0.91},
		{"2 H100 PCIe as H100 SXM, PCIe 5", 2560, 1560, 57, 0.72, 0.80},
		{"2 A100-80 as H100 SXM, PCIe 4", 2560, 1560, 27, 0.66, 0.70},
		{"2 A100-80 as H100 SXM, NVLink", 2560, 1560, 250, 1.22, 1.22},
		{"2 L40S as A100-40, PCIe 4", 1190, 660, 27, 0.67, 0.74},
	} {
		f, k := shared(c.claim, c.one, c.link, fetched), shared(c.claim, c.one, c.link, known)
		t.Logf("%-38s fetching %.3f, all-knowing %.3f", c.cards, f, k)
		if math.Abs(f-c.fetching) > 0.02 || math.Abs(k-c.all) > 0.02 {
			t.Errorf("%s: %.3f and %.3f, the specification has %.2f and %.2f", c.cards, f, k, c.fetching, c.all)
		}
	}
}
