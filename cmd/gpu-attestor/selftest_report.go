package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"basilica/attest"
)

// cudaSelftest is what `gpu-attestor selftest --device cuda --json` prints.
type cudaSelftest struct {
	OK   bool           `json:"ok"`
	GPUs []cardSelftest `json:"gpus"`
}

// spread is a rate over all runs. Its unit is 1/s.
type spread struct {
	Median float64 `json:"median"`
	CV     float64 `json:"cv"` // coefficient of variation: standard deviation through mean
	Runs   int     `json:"runs"`
}

func spreadOf(v []float64) (s spread) {
	if s.Runs = len(v); s.Runs == 0 {
		return s
	}
	mean, square := 0.0, 0.0
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		square += (x - mean) * (x - mean)
	}
	if len(v) > 1 {
		s.CV = math.Sqrt(square/float64(len(v)-1)) / mean
	}
	sorted := slices.Sorted(slices.Values(v))
	s.Median = (sorted[(len(v)-1)/2] + sorted[len(v)/2]) / 2
	return s
}

// cardSelftest is what one GPU showed.
type cardSelftest struct {
	Index            int            `json:"index"`
	UUID             string         `json:"uuid"`
	Model            string         `json:"model"`
	CC               string         `json:"cc"`
	PCI              string         `json:"pci"`
	Driver           string         `json:"driver"`
	MemoryBytes      uint64         `json:"memory_bytes"`
	FreeBytes        uint64         `json:"free_bytes"`
	ClockMHz         *uint32        `json:"clock_mhz,omitempty"`
	MemoryClockMHz   *uint32        `json:"memory_clock_mhz,omitempty"`
	PowerLimitMilliW *uint32        `json:"power_limit_milliwatts,omitempty"`
	BytesEqual       uint64         `json:"bytes_equal"`    // of a fill of n = 256, to the CPU's
	ElementsEqual    int            `json:"elements_equal"` // of the timed size, computed again on the CPU
	Openings         int            `json:"openings"`       // of the timed size that verified, elements among them
	Params           attest.Params  `json:"params"`
	Filled           float64        `json:"filled"` // share of the memory
	Fill             spread         `json:"fill_ops_per_second"`
	Hash             spread         `json:"hash_bytes_per_second"`
	Walk             spread         `json:"walk_bytes_per_second"`
	Mix              spread         `json:"mix_bytes_per_second"`
	Copy             spread         `json:"copy_bytes_per_second"` // device to device, in the same runs
	OpenSeconds      float64        `json:"open_seconds"`
	ChallengeSeconds float64        `json:"challenge_seconds"`
	Profile          attest.Profile `json:"profile"`
}

// ofCopy is a rate as a share of the copy's.
func (r *cardSelftest) ofCopy(s spread) float64 { return s.Median / r.Copy.Median }

// profile is the card's entry for attest/models.json. Sigma is of the logarithm; for the small spreads of a card it is the CV.
func (r *cardSelftest) profile(now time.Time) attest.Profile {
	from := fmt.Sprintf("measured %s by gpu-attestor selftest, %d runs, driver %s", now.UTC().Format(time.DateOnly), r.Fill.Runs, r.Driver)
	if r.ClockMHz != nil && r.MemoryClockMHz != nil {
		from += fmt.Sprintf(", clocks %d and %d MHz", *r.ClockMHz, *r.MemoryClockMHz)
	}
	if r.PowerLimitMilliW != nil {
		from += fmt.Sprintf(", power limit %d W", *r.PowerLimitMilliW/1000)
	}
	p := attest.Profile{
		Model: r.Model, NominalMiB: r.MemoryBytes >> 20, CC: r.CC, C: r.Fill.Median, BW: r.Walk.Median, BM: r.Mix.Median,
		SigmaC: r.Fill.CV, SigmaBW: r.Walk.CV, SigmaBM: r.Mix.CV, HashRate: r.Hash.Median, Provenance: map[string]string{},
	}
	for key, v := range map[string]float64{
		"nominal_mib": 1, "cc": 1, "c": p.C, "bw": p.BW, "bm": p.BM, "sigma_c": p.SigmaC, "sigma_bw": p.SigmaBW, "sigma_bm": p.SigmaBM, "hash_rate": p.HashRate,
	} {
		if v != 0 {
			p.Provenance[key] = from
		}
	}
	return p
}

func (c cudaSelftest) print(w io.Writer) error {
	for _, r := range c.GPUs {
		_, err := fmt.Fprintf(w, `GPU %d  %s  %s  %d MiB  driver %s
  equal to the CPU   %d bytes of n = 256, %d elements of n = %d, %d openings verified
  memory filled      %.1f %%
  fill               %.1f Tops, CV %.2f %%; hash %.1f GB/s, CV %.2f %%
  walk               %.1f GB/s, CV %.2f %%, %.0f %% of the copy
  mix                %.1f GB/s, CV %.2f %%, %.0f %% of the copy
  copy               %.1f GB/s device to device, CV %.2f %%
  whole challenge    %.2f s, %.2f s of it openings
`, r.Index, r.Model, r.UUID, r.MemoryBytes>>20, r.Driver, r.BytesEqual, r.ElementsEqual, r.Params.N, r.Openings, 100*r.Filled,
			r.Fill.Median/1e12, 100*r.Fill.CV, r.Hash.Median/1e9, 100*r.Hash.CV, r.Walk.Median/1e9, 100*r.Walk.CV, 100*r.ofCopy(r.Walk),
			r.Mix.Median/1e9, 100*r.Mix.CV, 100*r.ofCopy(r.Mix), r.Copy.Median/1e9, 100*r.Copy.CV, r.ChallengeSeconds, r.OpenSeconds)
		if err != nil {
			return err
		}
	}
	return nil
}
