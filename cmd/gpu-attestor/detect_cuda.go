//go:build !nocuda

package main

import (
	"strings"

	"basilica"
	"basilica/hardware"
	"basilica/nvidia"
)

// witnesses asks both libraries. One that cannot be asked says why.
func witnesses() (cuda, nvml hardware.Witness) {
	if driver, err := cudaDriver(); err != nil {
		cuda.Why = err.Error()
	} else if cards, silent, err := driver.Cards(); err != nil && basilica.CodeOf(err) != "CUDA_NO_DEVICE" {
		cuda.Why = err.Error()
	} else {
		cuda = fromCUDA(cards)
		for _, why := range silent {
			cuda.Why += "; " + why.Error()
		}
		cuda.Why = strings.TrimPrefix(cuda.Why, "; ")
	}
	report, err := nvidia.ReadNVML(nvidia.SearchNVML("/"))
	if err != nil {
		nvml.Why = err.Error()
		return cuda, nvml
	}
	return cuda, fromNVML(report)
}

func fromCUDA(cards []nvidia.Card) hardware.Witness {
	w := hardware.Witness{Answers: true, Count: len(cards)}
	for _, c := range cards {
		bytes := c.MemoryBytes
		w.Cards = append(w.Cards, hardware.Testimony{Index: c.Index, PCI: c.PCI, UUID: c.UUIDText(), Name: c.Name, MemoryBytes: &bytes, Unified: c.Integrated})
	}
	return w
}

func fromNVML(r nvidia.Report) hardware.Witness {
	w := hardware.Witness{Answers: true, Version: r.Driver, Count: r.Count}
	for _, c := range r.Readings {
		t := hardware.Testimony{
			Index: c.Index, PCI: c.PCI, UUID: c.UUID, Name: c.Name, Serial: c.Serial, MemoryBytes: c.MemoryBytes, BAR1Bytes: c.BAR1Bytes,
			ECCErrors: c.ECCErrors, Lost: c.Lost, Withheld: c.Withheld,
		}
		if c.PowerLimitMilliW != nil {
			limit := uint64(*c.PowerLimitMilliW)
			t.PowerLimit = &limit
		}
		if c.MIG != nil {
			t.MIG = &hardware.MIG{On: c.MIG.On, Pending: c.MIG.Pending}
			for _, s := range c.MIG.Slices {
				t.MIG.Slices = append(t.MIG.Slices, hardware.Slice{UUID: s.UUID, MemoryBytes: s.MemoryBytes})
			}
		}
		w.Cards = append(w.Cards, t)
	}
	return w
}
