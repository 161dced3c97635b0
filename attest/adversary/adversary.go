// Package adversary makes software devices that lie: they leave out work, answer another question than was asked, or claim
// what they are not, and are consistent in everything else, down to their Merkle roots. It is linked by tests and by the
// adversary build of gpu-attestor, and refuses to know anything of protocols or networks.
package adversary

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"basilica/attest"
)

// Kind is one way to lie that is not a matter of degree.
type Kind string

// The kinds.
const (
	Nonce    Kind = "nonce"    // prove for a nonce of one's own, filled beforehand
	Early    Kind = "early"    // walk before the nonce of the walk is known
	EarlyMix Kind = "earlymix" // mix before the nonce of the mix is known
	Twin     Kind = "twin"     // one memory for every device of the machine
	Claim    Kind = "claim"    // say that the device is an H200 and send noise of the right sizes
	Mutate   Kind = "mutate"   // change one bit of one opening
	Truncate Kind = "truncate" // leave out the last byte of one opening
	Key      Kind = "key"      // sign the evidence with another key than the one in HELLO
)

var kinds = [...]Kind{Nonce, Early, EarlyMix, Twin, Claim, Mutate, Truncate, Key}

// Cheat says how a machine lies. The zero value is honest.
type Cheat struct {
	Fill, Walk, Mix float64 // fraction of product elements, of lanes of every batch, of cells of every round that is left out
	Grind           int     // tries to find roots that steer what follows; 0: none
	Kind            Kind    // "" for none
}

// Parse reads what to cheat on: "part:fraction" with parts fill, walk and mix and fractions in 0..1, "grind:tries" with
// 1 to 64 tries, or the name of a kind; several separated by commas. An example is "fill:0.05,grind:8".
func Parse(spec string) (c Cheat, err error) {
	for part := range strings.SplitSeq(spec, ",") {
		name, value, ok := strings.Cut(part, ":")
		if !ok {
			known := false
			for _, k := range kinds {
				known = known || string(k) == name
			}
			if !known || c.Kind != "" {
				return Cheat{}, fmt.Errorf("adversary: %q is no part:fraction such as fill:0.05, and no first one of %v", part, kinds)
			}
			c.Kind = Kind(name)
			continue
		}
		if name == "grind" {
			if c.Grind, err = strconv.Atoi(value); err != nil || c.Grind < 1 || c.Grind > 64 {
				return Cheat{}, fmt.Errorf("adversary: %q is not grind:N with N in 1..64", part)
			}
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return Cheat{}, fmt.Errorf("adversary: %q is not part:fraction with a fraction in 0..1, such as fill:0.05", part)
		}
		switch name {
		case "fill":
			c.Fill = f
		case "walk":
			c.Walk = f
		case "mix":
			c.Mix = f
		default:
			return Cheat{}, fmt.Errorf("adversary: %q is neither fill, walk nor mix", name)
		}
	}
	return c, nil
}

// Info is what HELLO says of a device that is really another one.
func (c Cheat) Info(d attest.DeviceInfo) attest.DeviceInfo {
	if c.Kind != Claim {
		return d
	}
	d.Name, d.Software, d.VRAMBytes, d.FreeBytes = "NVIDIA H200", false, 143771<<20, 143771<<20
	return d
}

// shortcuts leaves out the named fractions, rounded up: exactly that many elements of every layer, lanes of every batch,
// cells of every round. Which ones follows from salt alone, the same at every replay.
func (c Cheat) shortcuts(p attest.Params, salt uint32) (s attest.Shortcuts) {
	if c.Fill > 0 {
		n := p.N * p.N
		s.Element = func(l, i, j int) (byte, bool) { return byte(i ^ j), left(c.Fill, n, salt^uint32(l), i*p.N+j) }
	}
	if c.Walk > 0 {
		s.Lane = func(batch, lane int) bool { return left(c.Walk, p.Lanes, salt^uint32(1<<20|batch), lane) }
	}
	if c.Mix > 0 {
		s.Cell = func(round, cell int) bool { return left(c.Mix, p.Cells, salt^uint32(1<<21|round), cell) }
	}
	return s
}

// left says whether place x of total, a power of two, is among the ceil(f * total) that are left out: x's place under a
// permutation that salt chooses.
func left(f float64, total int, salt uint32, x int) bool {
	h := mixed(salt)
	place := ((uint32(x)^h)*(2*mixed(h)+1) + mixed(h+1)) & uint32(total-1)
	return float64(place) < math.Ceil(f*float64(total))
}

// mixed is murmur3's finaliser.
func mixed(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85EBCA6B
	h ^= h >> 13
	h *= 0xC2B2AE35
	return h ^ h>>16
}
