package score

import (
	"slices"

	"basilica"
)

// Class is what one proven GPU of a model is worth, relative to an H100 SXM at 1.
type Class struct {
	Model     string  `json:"model"` // as its driver names it
	MemoryMiB uint64  `json:"memory_mib"`
	Weight    float64 `json:"weight"`
}

// SoftwareClass is the class of CPU provers; it has a weight only where the validator's configuration allows them.
const SoftwareClass = "software"

const softwareWeight = 0.01

// Classes is the published table of score/4, cheapest first. The weights are starting points, after rental prices.
func Classes() []Class {
	return []Class{
		{"NVIDIA GeForce RTX 4090", 24564, 0.20},
		{"NVIDIA GeForce RTX 5090", 32607, 0.30},
		{"NVIDIA L40S", 46068, 0.35},
		{"NVIDIA A100-SXM4-80GB", 81920, 0.50},
		{"NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, 0.60},
		{"NVIDIA H100 PCIe", 81559, 0.80},
		{"NVIDIA H100 80GB HBM3", 81559, 1.00},
		{"NVIDIA H200", 143771, 1.25},
		{"NVIDIA B200", 183359, 1.90},
	}
}

// cheapest is the class that a GPU is priced as: the cheapest of the models that fit its measurement. Where none of them is in
// the table it is the cheapest class with at least the proven memory, and beyond all memories the cheapest of all. Where no
// model fits there is none: memory alone proves no GPU, any server has as much.
func cheapest(g basilica.ProvenGPU) (Class, bool) {
	if g.Kind == basilica.GPUSoftware {
		return Class{Model: SoftwareClass, MemoryMiB: g.MemoryBytes >> 20, Weight: softwareWeight}, true
	}
	if len(g.Models) == 0 {
		return Class{}, false
	}
	table := Classes()
	for _, c := range table {
		if slices.Contains(g.Models, c.Model) {
			return c, true
		}
	}
	for _, c := range table {
		if c.MemoryMiB<<20 >= g.MemoryBytes {
			return c, true
		}
	}
	return table[0], true
}

func classWeight(g basilica.ProvenGPU, p Policy) float64 {
	if g.Kind == basilica.GPUSoftware && !p.AllowSoftware {
		return 0
	}
	c, _ := cheapest(g)
	return c.Weight
}

func gpuWeight(gpus []basilica.ProvenGPU, p Policy) float64 {
	sum := 0.0
	for _, g := range gpus {
		sum += classWeight(g, p)
	}
	return micro(sum)
}
