// Package adversary makes software devices that lie: they leave out a fraction of the work and are consistent in
// everything else, down to their Merkle roots. It is linked by tests and by the adversary build of gpu-attestor, and
// refuses to know anything of protocols or networks.
package adversary

import (
	"fmt"
	"strconv"
	"strings"

	"basilica/attest"
)

// Parse reads what to cheat on: "part:fraction", several separated by commas, parts fill (product elements), walk (lanes
// of a batch) and mix (cells of a round), fractions in 0..1. An example is "fill:0.05".
func Parse(spec string) (attest.Shortcuts, error) {
	var s attest.Shortcuts
	for part := range strings.SplitSeq(spec, ",") {
		name, value, ok := strings.Cut(part, ":")
		f, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || !(f >= 0 && f <= 1) {
			return attest.Shortcuts{}, fmt.Errorf("adversary: %q is not part:fraction with a fraction in 0..1, such as fill:0.05", part)
		}
		switch name {
		case "fill":
			s.Element = func(l, i, j int) (byte, bool) { return byte(i ^ j), chosen(f, l, i, j) }
		case "walk":
			s.Lane = func(batch, lane int) bool { return chosen(f, 1<<20, batch, lane) }
		case "mix":
			s.Cell = func(round, cell int) bool { return chosen(f, 1<<21, round, cell) }
		default:
			return attest.Shortcuts{}, fmt.Errorf("adversary: %q is neither fill, walk nor mix", name)
		}
	}
	return s, nil
}

// chosen picks a fraction f of all places, the same ones at every replay, spread like noise (murmur3's finaliser).
func chosen(f float64, a, b, c int) bool {
	h := uint32(a)*0x9E3779B1 ^ uint32(b)*0x85EBCA77 ^ uint32(c)*0xC2B2AE3D
	h ^= h >> 16
	h *= 0x85EBCA6B
	h ^= h >> 13
	h *= 0xC2B2AE35
	h ^= h >> 16
	return float64(h) < f*(1<<32)
}

// Device makes a software device that cheats as the spec says.
func Device(spec string, parallel attest.Parallel) (*attest.CPU, error) {
	s, err := Parse(spec)
	if err != nil {
		return nil, err
	}
	return attest.NewLazyCPU(parallel, s), nil
}
