// Package ptxsim is an nvidia.Device without a card: it interprets the PTX of the kernels, so that tests on any CPU hold what the
// compiler made of them against the reference prover. It is imported by tests only.
//
// It knows the part of the PTX ISA (NVIDIA, "Parallel Thread Execution ISA", 6.4 to 8.0) that the kernels use and says so of
// anything else. It is strict where a card would be undefined: addresses outside an allocation, reads that are not aligned, barriers
// and warp-wide instructions that not all threads reach, and memory and registers that were never written hold a pattern. What is
// asynchronous has the worst of both ends: a copy spoils where it goes when it begins and is there when it is waited for; a product
// of a warpgroup reads shared memory when it begins, must find the same when it is waited for, and its accumulators may not be
// touched in between. It is one reading of the ISA: the warps of a block run one after the other from wait to wait, blocks likewise.
// Speed, caches and the order of a real card's warps are not modelled.
package ptxsim

import (
	"errors"
	"fmt"

	"basilica/nvidia"
)

// What can be wrong; errors.Is finds them in every error of this package.
var (
	ErrSyntax = errors.New("ptxsim: not PTX as the kernels are written in")
	ErrOpcode = errors.New("ptxsim: an instruction that the interpreter does not know")
	ErrFault  = errors.New("ptxsim: the kernel did what is undefined on a card")
	ErrLaunch = errors.New("ptxsim: a launch that a driver would refuse")
	ErrLimit  = errors.New("ptxsim: over the interpreter's limits")
)

// Limits bound what a Device takes of its test's machine.
type Limits struct {
	Memory uint64 // bytes of all allocations together
	Steps  uint64 // instructions of one launch, each counted once a warp
}

// What the static part of every card allows (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const (
	maxThreads = 1024     // of a block
	maxShared  = 48 << 10 // bytes of a block that the module names itself
	warpSize   = 32
)

const (
	firstAddress = 0x7_0000_0000 // above 2^32, so that an address cut to 32 bits is found
	alignment    = 256
	gap          = 1 << 20 // between allocations: running over the end of one meets nothing
	poison       = 0xA5    // what was never written
)

// Device runs the kernels of one module. Like every nvidia.Device it belongs to one goroutine. A launch runs at once.
type Device struct {
	module *Module
	limits Limits
	memory []allocation
	next   nvidia.Memory
	used   uint64
	warps  map[shape][]warp
}

// maxShared is how much shared memory a block may have on the cards that the module is for, with what the launch adds.
func (m *Module) maxShared() int {
	if m.Target == "sm_90a" {
		return 227 << 10
	}
	return maxShared
}

// shape is what the registers of a block depend on.
type shape struct {
	kernel  *kernel
	threads [2]uint32
}

type allocation struct {
	at   uint64
	data []byte
}

var _ nvidia.Device = (*Device)(nil)

// New makes a device with this module loaded.
func New(m *Module, l Limits) *Device {
	return &Device{module: m, limits: l, next: firstAddress, warps: map[shape][]warp{}}
}

// Alloc takes memory, which holds a pattern; ErrLimit where too much would be taken.
func (d *Device) Alloc(bytes uint64) (nvidia.Memory, error) {
	if bytes == 0 || bytes > d.limits.Memory-d.used {
		return 0, fmt.Errorf("%w: %d bytes of memory beside %d, at most %d", ErrLimit, bytes, d.used, d.limits.Memory)
	}
	a := allocation{at: uint64(d.next), data: make([]byte, bytes)}
	for i := range a.data {
		a.data[i] = poison
	}
	d.memory = append(d.memory, a)
	d.used += bytes
	d.next += nvidia.Memory((bytes+alignment-1)/alignment*alignment + gap)
	return nvidia.Memory(a.at), nil
}

// Free gives back what Alloc returned.
func (d *Device) Free(at nvidia.Memory) error {
	for i, a := range d.memory {
		if a.at == uint64(at) {
			d.used -= uint64(len(a.data))
			d.memory = append(d.memory[:i], d.memory[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("%w: nothing was allocated at %#x", ErrFault, uint64(at))
}

// Write copies host bytes to the device.
func (d *Device) Write(to nvidia.Memory, from []byte) error {
	b, err := d.bytes(uint64(to), uint64(len(from)))
	copy(b, from)
	return err
}

// Read copies device bytes to the host.
func (d *Device) Read(to []byte, from nvidia.Memory) error {
	b, err := d.bytes(uint64(from), uint64(len(to)))
	copy(to, b)
	return err
}

// Sync has nothing to wait for.
func (d *Device) Sync() error { return nil }

// bytes finds n bytes of device memory. The allocation that was found goes to the front: a kernel stays in few.
func (d *Device) bytes(at, n uint64) ([]byte, error) {
	for i := range d.memory {
		a := &d.memory[i]
		if o := at - a.at; o < uint64(len(a.data)) && n <= uint64(len(a.data))-o {
			b := a.data[o : o+n]
			d.memory[0], d.memory[i] = d.memory[i], d.memory[0]
			return b, nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes at address %#x are not inside any allocation", ErrFault, n, at)
}

// Launch runs every block of a kernel. The errors are ErrLaunch for what does not fit the kernel, ErrFault and ErrLimit.
func (d *Device) Launch(l nvidia.Launch) error {
	k, ok := d.module.kernels[l.Kernel]
	if !ok {
		return fmt.Errorf("%w: no kernel %q in the module", ErrLaunch, l.Kernel)
	}
	threads := uint64(l.Block[0]) * uint64(l.Block[1])
	switch {
	case threads == 0 || threads > maxThreads || (k.maxThreads > 0 && threads > uint64(k.maxThreads)):
		return fmt.Errorf("%w: %s with %d threads a block, at most %d", ErrLaunch, l.Kernel, threads, k.maxThreads)
	case l.Grid[0] == 0 || l.Grid[1] == 0 || l.Grid[0] > 1<<31-1 || l.Grid[1] > 65535:
		return fmt.Errorf("%w: %s with a grid of %d x %d", ErrLaunch, l.Kernel, l.Grid[0], l.Grid[1])
	case max(k.shared, k.dynamic)+int(l.Shared) > d.module.maxShared():
		return fmt.Errorf("%w: %s with %d bytes of shared memory beside %d, at most %d", ErrLaunch, l.Kernel, l.Shared, k.shared, d.module.maxShared())
	case len(l.Args) != len(k.params):
		return fmt.Errorf("%w: %s with %d arguments, it has %d", ErrLaunch, l.Kernel, len(l.Args), len(k.params))
	}
	run := newLaunch(d, k, l.Grid, l.Block, int(l.Shared))
	for i, arg := range l.Args {
		size := 8
		switch v := arg.(type) {
		case nvidia.Memory:
			run.args[i] = uint64(v)
		case uint64:
			run.args[i] = v
		case uint32:
			run.args[i], size = uint64(v), 4
		default:
			return fmt.Errorf("%w: argument %d of %s is a %T", ErrLaunch, i, l.Kernel, arg)
		}
		if size != k.params[i].size {
			return fmt.Errorf("%w: argument %d of %s has %d bytes, %s has %d", ErrLaunch, i, l.Kernel, size, k.params[i].name, k.params[i].size)
		}
	}
	for y := range l.Grid[1] {
		for x := range l.Grid[0] {
			if err := run.block(x, y); err != nil {
				return fmt.Errorf("kernel %s, block (%d,%d): %w", l.Kernel, x, y, err)
			}
		}
	}
	return nil
}
