package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
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

// phases are the seconds of the last challenge, openings of default strength.
type phases struct {
	Memory float64 `json:"memory"` // the taking of memory, before the validator's clock starts
	Fill   float64 `json:"fill"`
	Walk   float64 `json:"walk"`
	Mix    float64 `json:"mix"`
	Trace  float64 `json:"trace"`
	Open   float64 `json:"open"`
}

func (s phases) sum() float64 { return s.Memory + s.Fill + s.Walk + s.Mix + s.Trace + s.Open }

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
	Filled           float64        `json:"filled"`                    // share of the memory
	Kernel           string         `json:"kernel"`                    // made the layers of the timed size
	Fill             spread         `json:"fill_ops_per_second"`       // of the products alone
	Timed            spread         `json:"fill_timed_ops_per_second"` // as a validator has it: of the whole fill less its hashing
	Hash             spread         `json:"hash_bytes_per_second"`
	Walk             spread         `json:"walk_bytes_per_second"`
	Mix              spread         `json:"mix_bytes_per_second"`
	Copy             spread         `json:"copy_bytes_per_second"` // device to device, in the same runs
	Seconds          phases         `json:"seconds"`
	ChallengeSeconds float64        `json:"challenge_seconds"` // what a validator's challenge of default strength costs: the sum
	Profile          attest.Profile `json:"profile"`
}

// ofCopy is a rate as a share of the copy's.
func (r *cardSelftest) ofCopy(s spread) float64 { return s.Median / r.Copy.Median }

// profile is the card's entry for attest/models.json. Its sigmas are those of an uncalibrated model: one card does not show how
// cards, power limits, drivers and machines differ, and its own spread, which is tenths of a percent, would refuse honest others.
func (r *cardSelftest) profile(now time.Time) attest.Profile {
	from := fmt.Sprintf("measured %s by gpu-attestor selftest, %d runs on one card, driver %s", now.UTC().Format(time.DateOnly), r.Fill.Runs, r.Driver)
	if r.ClockMHz != nil && r.MemoryClockMHz != nil {
		from += fmt.Sprintf(", clocks %d and %d MHz", *r.ClockMHz, *r.MemoryClockMHz)
	}
	if r.PowerLimitMilliW != nil {
		from += fmt.Sprintf(", power limit %d W", *r.PowerLimitMilliW/1000)
	}
	p := attest.Profile{
		Model: r.Model, NominalMiB: r.MemoryBytes >> 20, CC: r.CC, C: r.Timed.Median, BW: r.Walk.Median, BM: r.Mix.Median,
		SigmaC: attest.SigmaUnknown, SigmaBW: attest.SigmaUnknown, SigmaBM: attest.SigmaUnknown, HashRate: r.Hash.Median,
		Provenance: map[string]string{"nominal_mib": from, "cc": from},
	}
	for key, s := range map[string]spread{"c": r.Timed, "bw": r.Walk, "bm": r.Mix} {
		p.Provenance[key] = fmt.Sprintf("%s; from run to run %.2f %%", from, 100*s.CV)
		p.Provenance["sigma_"+key] = "the default of gpu-proof.md section 8: one card does not show the spread between cards"
	}
	p.Provenance["hash_rate"] = fmt.Sprintf("%s; from run to run %.2f %%", from, 100*r.Hash.CV)
	return p
}

// asked are the bounds of gpu-proof.md section 17, in words, for the one model that it names.
func asked(model string) map[string]string {
	if model != "NVIDIA H200" {
		return nil
	}
	return map[string]string{
		"memory filled": "90 %", "fill": "1000 Tops, CV 5 %", "fill hash": "400 GB/s, 20 %", "walk": "3000 GB/s, CV 2 %", "mix": "3000 GB/s, CV 2 %", "whole challenge": "6 s",
	}
}

// hashShare is the part of a fill's work that is hashing.
func (r *cardSelftest) hashShare() float64 {
	hash := float64(r.Params.FillBytes()) / r.Hash.Median
	return hash / (hash + r.Params.FillOps()/r.Fill.Median)
}

func (c cudaSelftest) print(out io.Writer) error {
	for _, r := range c.GPUs {
		if _, err := fmt.Fprintf(out, "GPU %d  %s  %s  %d MiB  driver %s\n", r.Index, r.Model, r.UUID, r.MemoryBytes>>20, r.Driver); err != nil {
			return err
		}
		w, bounds := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), asked(r.Model)
		row := func(what, format string, of ...any) {
			bound := bounds[what]
			if bound != "" {
				bound = "asked: " + bound
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", what, fmt.Sprintf(format, of...), bound)
		}
		s := r.Seconds
		row("memory filled", "%.1f %%", 100*r.Filled)
		row("fill", "%.1f Tops by %s, CV %.2f %%; %.1f Tops by a validator's clock", r.Fill.Median/1e12, r.Kernel, 100*r.Fill.CV, r.Timed.Median/1e12)
		row("fill hash", "%.1f GB/s, CV %.2f %%; %.0f %% of the fill", r.Hash.Median/1e9, 100*r.Hash.CV, 100*r.hashShare())
		row("walk", "%.1f GB/s, CV %.2f %%; %.0f %% of the copy", r.Walk.Median/1e9, 100*r.Walk.CV, 100*r.ofCopy(r.Walk))
		row("mix", "%.1f GB/s, CV %.2f %%; %.0f %% of the copy", r.Mix.Median/1e9, 100*r.Mix.CV, 100*r.ofCopy(r.Mix))
		row("copy", "%.1f GB/s device to device, CV %.2f %%", r.Copy.Median/1e9, 100*r.Copy.CV)
		row("whole challenge", "%.2f s: memory %.2f, fill %.2f, walk %.2f, mix %.2f, trace %.2f, openings %.2f", r.ChallengeSeconds, s.Memory, s.Fill, s.Walk, s.Mix, s.Trace, s.Open)
		row("equal to the CPU", "%d bytes of n = 256, %d elements of n = %d, %d openings", r.BytesEqual, r.ElementsEqual, r.Params.N, r.Openings)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
