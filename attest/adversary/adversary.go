// Package adversary makes software devices that lie: they leave out work, answer another question than was asked, or claim
// what they are not, and are consistent in everything else, down to their Merkle roots. It is linked by tests and by the
// adversary build of gpu-attestor, and refuses to know anything of protocols or networks.
package adversary

import (
	"fmt"
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
	Garbage  Kind = "garbage"  // noise in place of every product
	Cheap    Kind = "cheap"    // noise that can be made again at any time in place of one product
	Schedule Kind = "schedule" // the last product of another layer than the schedule says
	Hankel   Kind = "hankel"   // products as if only i+j mattered: one row and one column are worked out
	LowRank  Kind = "lowrank"  // products of the first four of n terms
	Bare     Kind = "bare"     // mix on a card that does not hold the fill
)

var kinds = [...]Kind{
	Nonce, Early, EarlyMix, Twin, Claim, Mutate, Truncate, Key, Garbage, Cheap, Schedule, Hankel, LowRank, Bare,
}

// Cheat says how a machine lies. The zero value is honest. Fractions are of what stands behind them, rounded up.
type Cheat struct {
	Fill, Walk, Mix float64 // elements of every product, lanes of every batch, cells of every round: left out
	Leaf            float64 // leaves of each generated layer: made up
	Hole            float64 // blocks of every layer: lost once they are committed to, and read as zeros
	Stale, Alone    float64 // cells of every round: mixed with the partners' first values, with zeros
	Break           float64 // cells of one round: left out
	Ping            float64 // of 64 PINGs: answered without the block
	Grind           int     // tries at each step to find roots that steer what follows; 0: none
	Kind            Kind    // "" for none
}

// part gives the fraction that a name stands for, or nil.
func (c *Cheat) part(name string) *float64 {
	switch name {
	case "fill":
		return &c.Fill
	case "walk":
		return &c.Walk
	case "mix":
		return &c.Mix
	case "leaf":
		return &c.Leaf
	case "hole":
		return &c.Hole
	case "stale":
		return &c.Stale
	case "alone":
		return &c.Alone
	case "break":
		return &c.Break
	case "ping":
		return &c.Ping
	}
	return nil
}

// Parse reads what to cheat on: "part:fraction" with a part of Cheat and a fraction in 0..1, "grind:tries" with 1 to 64
// tries, or the name of a kind; several separated by commas. An example is "fill:0.05,grind:8".
func Parse(spec string) (c Cheat, err error) {
	for word := range strings.SplitSeq(spec, ",") {
		name, value, ok := strings.Cut(word, ":")
		if !ok {
			known := false
			for _, k := range kinds {
				known = known || string(k) == name
			}
			if !known || c.Kind != "" {
				return Cheat{}, fmt.Errorf("adversary: %q is no part:fraction such as fill:0.05, and no first one of %v", word, kinds)
			}
			c.Kind = Kind(name)
			continue
		}
		if name == "grind" {
			if c.Grind, err = strconv.Atoi(value); err != nil || c.Grind < 1 || c.Grind > 64 {
				return Cheat{}, fmt.Errorf("adversary: %q is not grind:N with N in 1..64", word)
			}
			continue
		}
		part := c.part(name)
		if part == nil {
			return Cheat{}, fmt.Errorf("adversary: %q is neither fill, walk, mix, leaf, hole, stale, alone, break nor ping", name)
		}
		if *part, err = strconv.ParseFloat(value, 64); err != nil || !(*part >= 0 && *part <= 1) {
			return Cheat{}, fmt.Errorf("adversary: %q is not part:fraction with a fraction in 0..1, such as fill:0.05", word)
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
