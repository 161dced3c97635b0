//go:build !nocuda

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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

// ahead takes the memory of a challenge of that size before the validator's clock starts. A card with less free memory says so in
// HELLO, and nothing of it is held.
func (d cudaDevice) ahead(size attest.Params) error {
	if size.DeviceBytes() > d.info.FreeBytes {
		return nil
	}
	err := d.Prepare(size)
	if basilica.CodeOf(err) == "CUDA_MEMORY" { // the challenge itself may ask for less
		d.Release()
		return nil
	}
	return err
}

// cudaDevices takes all usable GPUs of this machine into use at once, with the memory that a challenge of that size needs: each needs a
// second for its context and kernels. leave is told of every GPU that is not among them, and why.
func cudaDevices(usable func(pci, uuid string) error, leave func(pci, uuid string, why error), size sizer) (m machine, err error) {
	d, err := cudaDriver()
	if err != nil {
		return m, err
	}
	cards, silent, err := d.Cards()
	if err != nil {
		return m, err
	}
	for _, why := range silent {
		leave("", "", why)
	}
	report := cudaReport()
	open, failed := make([]cudaDevice, len(cards)), make([]error, len(cards))
	var wait sync.WaitGroup
	for i, c := range cards {
		if failed[i] = usable(c.PCI, bareUUID(c)); failed[i] != nil {
			continue
		}
		wait.Go(func() {
			reading := cudaReading(report, c)
			if open[i], failed[i] = openCard(d, c, reading.Serial); failed[i] != nil {
				return
			}
			if p, err := size(c.Name, memoryOf(c, reading)); err == nil { // a card that is too small is the validator's to refuse
				failed[i] = open[i].ahead(p)
			}
			if failed[i] != nil {
				failed[i] = errors.Join(failed[i], open[i].Close())
			}
		})
	}
	wait.Wait()
	for i, c := range cards {
		if failed[i] != nil {
			leave(c.PCI, bareUUID(c), failed[i])
			continue
		}
		m.devices, m.closers = append(m.devices, open[i]), append(m.closers, open[i].Close)
	}
	sum := kernels.SHA256()
	m.driver, m.kernels = cudaVersion(d, report), sum[:]
	return m, nil
}

// bareUUID is a card's UUID as detect writes it.
func bareUUID(c nvidia.Card) string { return strings.TrimPrefix(c.UUIDText(), "GPU-") }

// memoryOf is a card's memory in bytes as NVML tells it, else as CUDA does, which leaves out what the driver keeps.
func memoryOf(c nvidia.Card, r nvidia.Reading) uint64 {
	if r.MemoryBytes != nil {
		return *r.MemoryBytes
	}
	return c.MemoryBytes
}

// elements is how many product elements of the full-sized run are computed again on the CPU.
const elements = 1000

// selftestCUDA tests every GPU, one after the other: all bytes of a small fill against the CPU, then `runs` challenges of the sizes
// that a validator asks for.
func selftestCUDA(ctx context.Context, runs int, size sizer, parallel attest.Parallel) (r cudaSelftest, err error) {
	d, err := cudaDriver()
	if err != nil {
		return r, err
	}
	cards, silent, err := d.Cards()
	if err = cmp.Or(err, errors.Join(silent...)); err != nil {
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
		MemoryBytes: memoryOf(c, cudaReading(report, c)), FreeBytes: dev.info.FreeBytes,
	}
	if r.BytesEqual, err = compareWithCPU(ctx, dev, parallel); err != nil {
		return r, err
	}
	p, err := size(c.Name, r.MemoryBytes)
	if err != nil {
		return r, err
	}
	if p.DeviceBytes() > r.FreeBytes {
		return r, basilica.E(basilica.Exhausted, "CUDA_MEMORY", fmt.Sprintf("GPU %d has %d MiB of free memory, and its proof takes %d MiB", c.Index, r.FreeBytes>>20, p.DeviceBytes()>>20),
			"end what else holds its memory (nvidia-smi names it), a display among it")
	}
	r.Params, r.Filled = p, float64(p.FillBytes())/float64(r.MemoryBytes)
	defer dev.Release()
	began := time.Now()
	if err := dev.Prepare(p); err != nil {
		return r, err
	}
	r.Seconds.Memory = time.Since(began).Seconds()
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
			r.Seconds.Fill, r.Seconds.Walk, r.Seconds.Mix, r.Seconds.Trace = w.fill.Seconds(), w.walked.Seconds(), w.mixed.Seconds(), w.traced.Seconds()
			r.ChallengeSeconds = r.Seconds.sum()
			r.Kernel = w.kernel
			r.clocks(cudaReading(cudaReport(), c))
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
// validator counts them: of a whole fill less its hashing.
func timedRun(ctx context.Context, dev cudaDevice, p attest.Params) (rates [6]float64, w proof, err error) {
	var random [96]byte
	if _, err := rand.Read(random[:]); err != nil {
		return rates, w, err
	}
	if w, err = work(ctx, dev, p, attest.Digest(random[:32]), attest.Digest(random[32:64]), attest.Digest(random[64:])); err != nil {
		return rates, w, err
	}
	err = dev.Do(func(_ nvidia.Device, g *nvidia.Prover) (err error) {
		w.kernel = g.Product()
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
