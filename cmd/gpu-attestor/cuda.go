//go:build !nocuda

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/nvidia"
	"basilica/nvidia/kernels"
)

// cudaDevice is a GPU with a thread of its own.
type cudaDevice struct {
	*nvidia.Worker
	info attest.DeviceInfo
}

// Info is what HELLO says.
func (d cudaDevice) Info() attest.DeviceInfo { return d.info }

// cudaDriver opens the driver of this machine.
func cudaDriver() (*nvidia.Driver, error) { return nvidia.OpenDriver(nvidia.SearchDriver("/")) }

// cudaVersion is the driver's version as NVML tells it, else that of CUDA.
func cudaVersion(d *nvidia.Driver, r nvidia.Report) string {
	if r.Driver != "" {
		return r.Driver
	}
	return fmt.Sprintf("CUDA %d.%d", d.Version/1000, d.Version%1000/10)
}

// cudaReport is what NVML adds; without it nothing is missing that a proof needs.
func cudaReport() nvidia.Report {
	r, err := nvidia.ReadNVML(nvidia.SearchNVML("/"))
	if err != nil {
		return nvidia.Report{}
	}
	return r
}

// cudaReading is NVML's part on a card; its zero value where there is none.
func cudaReading(r nvidia.Report, c nvidia.Card) nvidia.Reading {
	for _, x := range r.Readings {
		if x.UUID == c.UUIDText() {
			return x
		}
	}
	return nvidia.Reading{}
}

// allocationSlack is what two allocations may lose by rounding up, in bytes.
const allocationSlack = 8 << 20

// openCard takes a GPU into use.
func openCard(d *nvidia.Driver, c nvidia.Card, serial string) (cudaDevice, error) {
	w, err := nvidia.NewWorker(func() (nvidia.Session, error) { return d.Session(c.Index) }, time.Now)
	if err != nil {
		return cudaDevice{}, err
	}
	out := cudaDevice{w, attest.DeviceInfo{UUID: attest.UUID(c.UUID), Name: c.Name, PCI: strings.ToLower(c.PCI), Serial: serial, VRAMBytes: c.MemoryBytes, CC: c.CC()}}
	err = w.Do(func(dev nvidia.Device, _ *nvidia.Prover) error {
		free, err := dev.(*nvidia.Context).FreeMemory()
		out.info.FreeBytes = free - min(free, allocationSlack)
		return err
	})
	if err != nil {
		return cudaDevice{}, errors.Join(err, w.Close())
	}
	return out, nil
}

// cudaDevices takes all usable GPUs of this machine into use at once: each needs a second for its context and kernels.
func cudaDevices(usable func(pci, uuid string) bool) (m machine, err error) {
	d, err := cudaDriver()
	if err != nil {
		return m, err
	}
	cards, err := d.Cards()
	if err != nil {
		return m, err
	}
	cards = slices.DeleteFunc(cards, func(c nvidia.Card) bool { return !usable(c.PCI, strings.TrimPrefix(c.UUIDText(), "GPU-")) })
	report := cudaReport()
	open := make([]cudaDevice, len(cards))
	var group errgroup.Group
	for i, c := range cards {
		group.Go(func() (err error) {
			open[i], err = openCard(d, c, cudaReading(report, c).Serial)
			return err
		})
	}
	err = group.Wait()
	var errs []error
	for _, x := range open {
		switch {
		case x.Worker == nil:
		case err != nil:
			errs = append(errs, x.Close())
		default:
			m.devices, m.closers = append(m.devices, x), append(m.closers, x.Close)
		}
	}
	if err != nil {
		return machine{}, errors.Join(err, errors.Join(errs...))
	}
	sum := kernels.SHA256()
	m.driver, m.kernels = cudaVersion(d, report), sum[:]
	return m, nil
}

// elements is how many product elements of the full-sized run are computed again on the CPU.
const elements = 1000

// sizer gives the sizes of the timed run for a card's memory in bytes.
type sizer func(vramBytes uint64) (attest.Params, error)

func fullSize(vramBytes uint64) (attest.Params, error) { return attest.ParamsFor(vramBytes, 0) }

// selftestCUDA tests every GPU, one after the other: all bytes of a small fill against the CPU, then `runs` challenges of the sizes
// that a validator asks for.
func selftestCUDA(ctx context.Context, runs int, size sizer, parallel attest.Parallel) (r cudaSelftest, err error) {
	d, err := cudaDriver()
	if err != nil {
		return r, err
	}
	cards, err := d.Cards()
	if err != nil {
		return r, err
	}
	for _, c := range cards {
		x, err := selftestCard(ctx, d, c, runs, size, parallel)
		if err != nil {
			return r, fmt.Errorf("GPU %d: %w", c.Index, err)
		}
		r.GPUs = append(r.GPUs, x)
	}
	r.OK = true
	return r, nil
}

func selftestCard(ctx context.Context, d *nvidia.Driver, c nvidia.Card, runs int, size sizer, parallel attest.Parallel) (r cardSelftest, err error) {
	report := cudaReport()
	dev, err := openCard(d, c, cudaReading(report, c).Serial)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	r = cardSelftest{
		Index: c.Index, UUID: dev.info.UUID.String(), Model: c.Name, CC: c.CC(), PCI: dev.info.PCI, Driver: cudaVersion(d, report),
		MemoryBytes: c.MemoryBytes, FreeBytes: dev.info.FreeBytes,
	}
	if m := cudaReading(report, c).MemoryBytes; m != nil {
		r.MemoryBytes = *m
	}
	if r.BytesEqual, err = compareWithCPU(ctx, dev, parallel); err != nil {
		return r, err
	}
	p, err := size(r.MemoryBytes)
	if err != nil {
		return r, err
	}
	if p.DeviceBytes() > r.FreeBytes {
		return r, basilica.E(basilica.Exhausted, "CUDA_MEMORY", fmt.Sprintf("GPU %d has %d MiB of free memory, and its proof takes %d MiB", c.Index, r.FreeBytes>>20, p.DeviceBytes()>>20),
			"end what else holds its memory (nvidia-smi names it), a display among it")
	}
	r.Params, r.Filled = p, float64(p.FillBytes())/float64(r.MemoryBytes)
	defer dev.Release()
	var rates [6][]float64
	for i := range runs {
		one, w, err := timedRun(ctx, dev, p)
		if err != nil {
			return r, err
		}
		for k, v := range one {
			rates[k] = append(rates[k], v)
		}
		if i == runs-1 {
			if r.Openings, r.Seconds.Open, _, err = checkOpenings(ctx, dev, p, w, attest.DefaultStrength()); err != nil {
				return r, err
			}
			if _, _, _, err = checkOpenings(ctx, dev, p, w, attest.Strength{Fill: elements}); err != nil {
				return r, err
			}
			r.ElementsEqual = elements
			r.Seconds.Fill, r.Seconds.Walk, r.Seconds.Mix, r.Seconds.Trace = (w.fill - w.memory).Seconds(), w.walked.Seconds(), w.mixed.Seconds(), w.traced.Seconds()
			r.ChallengeSeconds = r.Seconds.sum()
			r.Kernel = w.kernel
			r.clocks(cudaReading(cudaReport(), c))
		}
		if i == 0 {
			r.Seconds.Memory = w.memory.Seconds()
		}
	}
	r.Fill, r.Hash, r.Walk, r.Mix, r.Copy = spreadOf(rates[0]), spreadOf(rates[1]), spreadOf(rates[2]), spreadOf(rates[3]), spreadOf(rates[4])
	r.Timed = spreadOf(rates[5])
	r.Profile = r.profile(time.Now())
	return r, nil
}

// clocks takes down at which clocks the card worked, at the end of the last run.
func (r *cardSelftest) clocks(x nvidia.Reading) {
	r.ClockMHz, r.MemoryClockMHz, r.PowerLimitMilliW = x.ClockMHz, x.MemoryClockMHz, x.PowerLimitMilliW
}

// timedRun does one challenge and gives the rates of products, hashing, walk, mix, a plain copy, and of the products once more as a
// validator counts them: of a whole fill less its hashing. The first run takes the memory, as the one run of a challenge does; a fill
// in memory that this process has just given back would wait for the driver to clear it.
func timedRun(ctx context.Context, dev cudaDevice, p attest.Params) (rates [6]float64, w proof, err error) {
	var random [96]byte
	if _, err := rand.Read(random[:]); err != nil {
		return rates, w, err
	}
	if w, err = work(ctx, dev, p, attest.Digest(random[:32]), attest.Digest(random[32:64]), attest.Digest(random[64:])); err != nil {
		return rates, w, err
	}
	err = dev.Do(func(_ nvidia.Device, g *nvidia.Prover) (err error) {
		w.kernel, w.memory = g.Product(), g.Spent().Memory
		rates[0] = p.FillOps() / g.Spent().Products.Seconds()
		rates[1] = float64(p.FillBytes()) / g.Spent().Hash.Seconds()
		rates[5] = p.FillOps() / (w.fill - g.Spent().Hash).Seconds()
		rates[4], err = g.CopyRate()
		return err
	})
	rates[2], rates[3] = p.WalkBytes()/w.walked.Seconds(), p.MixBytes()/w.mixed.Seconds()
	return rates, w, err
}

// compared are the sizes whose every byte is held against the CPU's: small enough for a core, large enough for every kernel.
func compared() attest.Params {
	return attest.Params{N: 256, Layers: 8, Lanes: 1024, Steps: 16, Batches: 6, WinLayers: 3, Cells: 1024, Rounds: 16}
}

// compareWithCPU holds all bytes of a fill of n = 256, and all roots, against the CPU prover, and checks openings.
func compareWithCPU(ctx context.Context, dev cudaDevice, parallel attest.Parallel) (uint64, error) {
	defer dev.Release()
	p := compared()
	var random [96]byte
	if _, err := rand.Read(random[:]); err != nil {
		return 0, err
	}
	var both [2]proof
	cpu := attest.NewCPU(parallel)
	for i, x := range []attestor.Worker{cpu, dev} {
		var err error
		if both[i], err = work(ctx, x, p, attest.Digest(random[:32]), attest.Digest(random[32:64]), attest.Digest(random[64:])); err != nil {
			return 0, err
		}
	}
	if err := both[0].equal(both[1]); err != nil {
		return 0, err
	}
	if _, _, _, err := checkOpenings(ctx, dev, p, both[0], attest.Strength{Fill: 64, Walk: 64, Mix: 2, PRG: 4, Ping: 4}); err != nil {
		return 0, err
	}
	equal := uint64(0)
	err := dev.Do(func(_ nvidia.Device, g *nvidia.Prover) error {
		return g.Bytes(func(l int, data []byte) error {
			for i := 0; i < len(data); i += attest.BlockSize {
				want, err := cpu.Block(ctx, uint64(l*len(data)+i)/attest.BlockSize)
				if err != nil {
					return err
				}
				if string(want) != string(data[i:i+attest.BlockSize]) {
					return fmt.Errorf("layer %d differs from the CPU's within 128 bytes of byte %d", l, i)
				}
				equal += attest.BlockSize
			}
			return nil
		})
	})
	return equal, err
}
