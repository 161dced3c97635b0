//go:build !nocuda

package nvidia

import (
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"basilica"
)

// result is a CUresult.
type result int32

// Results of the driver that have a meaning of their own here (CUDA Driver API, "CUresult").
const (
	resultMemory      result = 2
	resultUnavailable result = 46
	resultNoDevice    result = 100
	resultInvalid     result = 101
)

// minDriver is the CUDA version that the driver must speak, 1000*major + 10*minor: cuDeviceGetUuid_v2 came with it, and its PTX is
// newer than that of the kernels.
const minDriver = 11040

// Attributes of a device (CUDA Driver API, "CUdevice_attribute").
const (
	attributeSMs        = 16
	attributeIntegrated = 18
	attributeMajor      = 75
	attributeMinor      = 76
)

// attributeShared is the attribute of a function that says how much dynamic shared memory it may be launched with (CUDA Driver API,
// "CUfunction_attribute"); above defaultShared it has to be set.
const (
	attributeShared = 8
	defaultShared   = 48 << 10
)

type (
	deviceHandle   int32
	contextHandle  uintptr
	moduleHandle   uintptr
	functionHandle uintptr
)

// Driver is the CUDA driver's library, initialised.
type Driver struct {
	Version int // of CUDA that it speaks, 1000*major + 10*minor

	cuInit                       func(flags uint32) result
	cuDriverGetVersion           func(version *int32) result
	cuGetErrorName               func(code result, name **byte) result
	cuDeviceGetCount             func(count *int32) result
	cuDeviceGet                  func(device *deviceHandle, index int32) result
	cuDeviceGetName              func(name *byte, size int32, device deviceHandle) result
	cuDeviceGetUuid_v2           func(uuid *[16]byte, device deviceHandle) result
	cuDeviceTotalMem_v2          func(bytes *uint64, device deviceHandle) result
	cuDeviceGetAttribute         func(value *int32, attribute int32, device deviceHandle) result
	cuDeviceGetPCIBusId          func(id *byte, size int32, device deviceHandle) result
	cuDevicePrimaryCtxRetain     func(context *contextHandle, device deviceHandle) result
	cuDevicePrimaryCtxRelease_v2 func(device deviceHandle) result
	cuCtxSetCurrent              func(context contextHandle) result
	cuCtxSynchronize             func() result
	cuMemGetInfo_v2              func(free, total *uint64) result
	cuMemAlloc_v2                func(at *Memory, bytes uint64) result
	cuMemFree_v2                 func(at Memory) result
	cuMemcpyHtoD_v2              func(to Memory, from unsafe.Pointer, bytes uint64) result
	cuMemcpyDtoH_v2              func(to unsafe.Pointer, from Memory, bytes uint64) result
	cuMemcpyDtoDAsync_v2         func(to, from Memory, bytes uint64, stream uintptr) result
	cuModuleLoadDataEx           func(module *moduleHandle, image unsafe.Pointer, options uint32, keys, values uintptr) result
	cuModuleUnload               func(module moduleHandle) result
	cuModuleGetFunction          func(function *functionHandle, module moduleHandle, name *byte) result
	cuFuncSetAttribute           func(function functionHandle, attribute, value int32) result
	cuLaunchKernel               func(f functionHandle, gridX, gridY, gridZ, blockX, blockY, blockZ, shared uint32, stream uintptr, args, extra unsafe.Pointer) result
}

// OpenDriver loads the library from the first of the paths that has it and initialises it. Codes: CUDA_ABSENT, CUDA_SYMBOL, CUDA_OLD,
// CUDA_NO_DEVICE, CUDA_NOT_READY.
func OpenDriver(paths []string) (*Driver, error) {
	l, err := load(paths)
	if err != nil {
		return nil, basilica.E(basilica.NotFound, "CUDA_ABSENT", "there is no NVIDIA driver here: "+libcuda+" was not found",
			"install the NVIDIA driver of branch 470 or newer; in a container start it with the NVIDIA container toolkit").With(err)
	}
	d := &Driver{}
	for symbol, function := range map[string]any{"cuDriverGetVersion": &d.cuDriverGetVersion, "cuGetErrorName": &d.cuGetErrorName, "cuInit": &d.cuInit} {
		l.bind(function, symbol)
	}
	if len(l.missing) > 0 {
		return nil, symbolError(libcuda, l.missing)
	}
	var version int32
	if r := d.cuDriverGetVersion(&version); r != 0 {
		return nil, d.notReady("cuDriverGetVersion", r)
	}
	if d.Version = int(version); d.Version < minDriver {
		return nil, basilica.E(basilica.Unavailable, "CUDA_OLD", fmt.Sprintf("the NVIDIA driver speaks CUDA %d.%d, and %d.%d is needed", d.Version/1000, d.Version%1000/10, minDriver/1000, minDriver%1000/10),
			"install the NVIDIA driver of branch 470 or newer")
	}
	for symbol, function := range map[string]any{
		"cuDeviceGetCount": &d.cuDeviceGetCount, "cuDeviceGet": &d.cuDeviceGet, "cuDeviceGetName": &d.cuDeviceGetName,
		"cuDeviceGetUuid_v2": &d.cuDeviceGetUuid_v2, "cuDeviceTotalMem_v2": &d.cuDeviceTotalMem_v2,
		"cuDeviceGetAttribute": &d.cuDeviceGetAttribute, "cuDeviceGetPCIBusId": &d.cuDeviceGetPCIBusId,
		"cuDevicePrimaryCtxRetain": &d.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRelease_v2": &d.cuDevicePrimaryCtxRelease_v2,
		"cuCtxSetCurrent": &d.cuCtxSetCurrent, "cuCtxSynchronize": &d.cuCtxSynchronize, "cuMemGetInfo_v2": &d.cuMemGetInfo_v2,
		"cuMemAlloc_v2": &d.cuMemAlloc_v2, "cuMemFree_v2": &d.cuMemFree_v2, "cuMemcpyHtoD_v2": &d.cuMemcpyHtoD_v2,
		"cuMemcpyDtoH_v2": &d.cuMemcpyDtoH_v2, "cuMemcpyDtoDAsync_v2": &d.cuMemcpyDtoDAsync_v2,
		"cuModuleLoadDataEx": &d.cuModuleLoadDataEx, "cuModuleUnload": &d.cuModuleUnload,
		"cuModuleGetFunction": &d.cuModuleGetFunction, "cuFuncSetAttribute": &d.cuFuncSetAttribute, "cuLaunchKernel": &d.cuLaunchKernel,
	} {
		l.bind(function, symbol)
	}
	if len(l.missing) > 0 {
		return nil, symbolError(libcuda, l.missing)
	}
	if r := d.cuInit(0); r != 0 {
		return nil, d.notReady("cuInit", r)
	}
	return d, nil
}

// name is the driver's own word for a result.
func (d *Driver) name(r result) string {
	var p *byte
	if d.cuGetErrorName(r, &p) == 0 && p != nil {
		return basilica.OneLine(text(p))
	}
	return fmt.Sprintf("CUDA_ERROR_%d", r)
}

// errNoDevice is the end of every search for a card.
var errNoDevice = basilica.E(basilica.NotFound, "CUDA_NO_DEVICE", "the NVIDIA driver answers and names no GPU",
	"look at nvidia-smi and dmesg; CUDA_VISIBLE_DEVICES and the container's device list must not hide the GPU")

// notReady judges a failure before there was a context.
func (d *Driver) notReady(call string, r result) error {
	if r == resultNoDevice || r == resultInvalid {
		return errNoDevice.With(fmt.Errorf("%s: %s", call, d.name(r)))
	}
	return basilica.E(basilica.Unavailable, "CUDA_NOT_READY", fmt.Sprintf("the NVIDIA driver is there and does not work: %s gave %s", call, d.name(r)),
		"restart the machine if the driver was updated since it started; on machines with NVSwitch start nvidia-fabricmanager; look at dmesg")
}

// Card is what the driver says of one device. Nothing of it counts as proven.
type Card struct {
	Index        int
	UUID         [16]byte
	Name         string
	PCI          string // domain:bus:device.function as the driver writes it, e.g. 0000:3B:00.0
	MemoryBytes  uint64
	Integrated   bool // it shares the machine's memory
	Major, Minor int  // compute capability
	SMs          int
}

// CC is the compute capability, e.g. 9.0.
func (c Card) CC() string { return fmt.Sprintf("%d.%d", c.Major, c.Minor) }

// UUIDText is the UUID as NVML writes it, GPU-8-4-4-4-12.
func (c Card) UUIDText() string {
	h := hex.EncodeToString(c.UUID[:])
	return "GPU-" + strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// maxCards bounds what a driver may name.
const maxCards = 256

// Cards lists the devices that answer in the driver's order, and what each other gave instead. Code CUDA_NO_DEVICE where the driver
// names none; where none of those that it names answers, the error is the first one's.
func (d *Driver) Cards() (cards []Card, silent []error, err error) {
	var n int32
	if r := d.cuDeviceGetCount(&n); r != 0 {
		return nil, nil, d.notReady("cuDeviceGetCount", r)
	}
	if n < 1 {
		return nil, nil, errNoDevice
	}
	for i := range int(min(n, maxCards)) {
		_, c, err := d.card(i)
		if err != nil {
			silent = append(silent, fmt.Errorf("GPU %d: %w", i, err))
			continue
		}
		cards = append(cards, c)
	}
	if len(cards) == 0 {
		return nil, nil, silent[0]
	}
	return cards, silent, nil
}

func (d *Driver) card(i int) (h deviceHandle, c Card, err error) {
	c.Index = i
	name, pci := make([]byte, 256), make([]byte, 32)
	var sms, integrated, major, minor int32
	for _, x := range []struct {
		call string
		make func() result
	}{
		{"cuDeviceGet", func() result { return d.cuDeviceGet(&h, int32(i)) }},
		{"cuDeviceGetName", func() result { return d.cuDeviceGetName(&name[0], int32(len(name)), h) }},
		{"cuDeviceGetUuid_v2", func() result { return d.cuDeviceGetUuid_v2(&c.UUID, h) }},
		{"cuDeviceTotalMem_v2", func() result { return d.cuDeviceTotalMem_v2(&c.MemoryBytes, h) }},
		{"cuDeviceGetPCIBusId", func() result { return d.cuDeviceGetPCIBusId(&pci[0], int32(len(pci)), h) }},
		{"cuDeviceGetAttribute", func() result { return d.cuDeviceGetAttribute(&sms, attributeSMs, h) }},
		{"cuDeviceGetAttribute", func() result { return d.cuDeviceGetAttribute(&integrated, attributeIntegrated, h) }},
		{"cuDeviceGetAttribute", func() result { return d.cuDeviceGetAttribute(&major, attributeMajor, h) }},
		{"cuDeviceGetAttribute", func() result { return d.cuDeviceGetAttribute(&minor, attributeMinor, h) }},
	} {
		if r := x.make(); r != 0 {
			return h, c, d.notReady(x.call, r)
		}
	}
	c.Name, c.PCI = basilica.OneLine(cut(name)), cut(pci)
	c.SMs, c.Integrated, c.Major, c.Minor = int(sms), integrated != 0, int(major), int(minor)
	return h, c, nil
}

// maxArgs bounds the arguments of a kernel.
const maxArgs = 8

// arguments are those of one launch as the driver takes them: an array of pointers to values.
type arguments struct {
	at    [maxArgs]unsafe.Pointer
	value [maxArgs]uint64
}

// Context is one card in use on the calling thread: its primary context with a module of kernels in it. It implements Device.
// The thread has to be locked, and no method may be called from another one; NewWorker sees to both.
type Context struct {
	d         *Driver
	card      Card
	handle    deviceHandle
	module    moduleHandle
	functions map[string]functionHandle
	args      *arguments
}

// Use makes the card's primary context current to the calling thread and loads the PTX (without a closing zero byte) with
// these kernels. Codes: CUDA_NO_DEVICE, CUDA_NOT_READY, CUDA_BUSY, CUDA_MEMORY, CUDA_MODULE.
func (d *Driver) Use(index int, ptx []byte, kernels []Kernel) (_ *Context, err error) {
	c := &Context{d: d, functions: map[string]functionHandle{}, args: &arguments{}}
	if c.handle, c.card, err = d.card(index); err != nil {
		return nil, err
	}
	var context contextHandle
	if r := d.cuDevicePrimaryCtxRetain(&context, c.handle); r != 0 {
		return nil, c.opening("cuDevicePrimaryCtxRetain", r)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if r := d.cuCtxSetCurrent(context); r != 0 {
		return nil, c.opening("cuCtxSetCurrent", r)
	}
	image := append(append(make([]byte, 0, len(ptx)+1), ptx...), 0)
	if r := d.cuModuleLoadDataEx(&c.module, unsafe.Pointer(&image[0]), 0, 0, 0); r != 0 {
		if r == resultMemory {
			return nil, c.failure("cuModuleLoadDataEx", r)
		}
		return nil, c.moduleError("cuModuleLoadDataEx", r)
	}
	for _, k := range kernels {
		var f functionHandle
		symbol := append([]byte(k.Name), 0)
		if r := d.cuModuleGetFunction(&f, c.module, &symbol[0]); r != 0 {
			return nil, c.moduleError("cuModuleGetFunction "+k.Name, r)
		}
		if k.Shared > defaultShared {
			if r := d.cuFuncSetAttribute(f, attributeShared, int32(k.Shared)); r != 0 {
				return nil, c.moduleError("cuFuncSetAttribute "+k.Name, r)
			}
		}
		c.functions[k.Name] = f
	}
	return c, nil
}

// Card is what the driver says of the card in use.
func (c *Context) Card() Card { return c.card }

// who names the card in sentences.
func (c *Context) who() string { return fmt.Sprintf("GPU %d (%.100s)", c.card.Index, c.card.Name) }

// opening judges a failure to make a context.
func (c *Context) opening(call string, r result) error {
	switch r {
	case resultMemory:
		return c.failure(call, r)
	case resultUnavailable:
		return basilica.E(basilica.Conflict, "CUDA_BUSY", fmt.Sprintf("%s is held by another process alone: %s gave %s", c.who(), call, c.d.name(r)),
			"end that process (nvidia-smi names it), or set the compute mode back: nvidia-smi -c DEFAULT")
	}
	return c.d.notReady(call, r)
}

func (c *Context) moduleError(call string, r result) error {
	return basilica.E(basilica.Unavailable, "CUDA_MODULE", fmt.Sprintf("%s does not take the kernels: %s gave %s (compute capability %s)", c.who(), call, c.d.name(r), c.card.CC()),
		"use a card of compute capability 7.0 or newer with the NVIDIA driver of branch 470 or newer")
}

// failure judges a failure of a card in use. After most of them the driver refuses everything that comes later.
func (c *Context) failure(call string, r result) error {
	if r == resultMemory {
		return basilica.E(basilica.Exhausted, "CUDA_MEMORY", fmt.Sprintf("%s has too little free memory: %s gave %s", c.who(), call, c.d.name(r)),
			"end what else holds its memory (nvidia-smi names it), a display among it")
	}
	return basilica.E(basilica.Unavailable, "CUDA_LOST", fmt.Sprintf("%s was lost in the middle of its work: %s gave %s", c.who(), call, c.d.name(r)),
		"look at dmesg for Xid errors; restart the machine, and take the card out of service if it happens again")
}

func (c *Context) check(call string, r result) error {
	if r == 0 {
		return nil
	}
	return c.failure(call, r)
}

// Free memory as the driver counts it at this moment, in bytes.
func (c *Context) FreeMemory() (uint64, error) {
	var free, total uint64
	return free, c.check("cuMemGetInfo_v2", c.d.cuMemGetInfo_v2(&free, &total))
}

// Alloc takes device memory. Code CUDA_MEMORY where there is too little.
func (c *Context) Alloc(bytes uint64) (at Memory, err error) {
	return at, c.check("cuMemAlloc_v2", c.d.cuMemAlloc_v2(&at, bytes))
}

// Free gives back what Alloc returned.
func (c *Context) Free(at Memory) error { return c.check("cuMemFree_v2", c.d.cuMemFree_v2(at)) }

// Write copies to the device. The bytes are pinned: the driver may hand their address on to the card.
func (c *Context) Write(to Memory, from []byte) error {
	if len(from) == 0 {
		return nil
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&from[0])
	return c.check("cuMemcpyHtoD_v2", c.d.cuMemcpyHtoD_v2(to, unsafe.Pointer(&from[0]), uint64(len(from))))
}

// Read copies to the host, behind all that is queued.
func (c *Context) Read(to []byte, from Memory) error {
	if len(to) == 0 {
		return nil
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&to[0])
	return c.check("cuMemcpyDtoH_v2", c.d.cuMemcpyDtoH_v2(unsafe.Pointer(&to[0]), from, uint64(len(to))))
}

// Copy queues a copy from device to device: the measure of the card's memory.
func (c *Context) Copy(to, from Memory, bytes uint64) error {
	return c.check("cuMemcpyDtoDAsync_v2", c.d.cuMemcpyDtoDAsync_v2(to, from, bytes, 0))
}

// Launch queues one kernel. The driver copies the arguments before it returns.
func (c *Context) Launch(l Launch) error {
	f, ok := c.functions[l.Kernel]
	if !ok || len(l.Args) > maxArgs {
		return fmt.Errorf("nvidia: kernel %s with %d arguments is not in the module", l.Kernel, len(l.Args))
	}
	for i, a := range l.Args {
		switch v := a.(type) {
		case Memory:
			c.args.value[i] = uint64(v)
		case uint64:
			c.args.value[i] = v
		case uint32:
			c.args.value[i] = uint64(v) // the low half is first in memory
		default:
			return fmt.Errorf("nvidia: argument %d of %s is a %T", i, l.Kernel, a)
		}
		c.args.at[i] = unsafe.Pointer(&c.args.value[i])
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(c.args) // one object holds the pointers and what they point to
	return c.check("cuLaunchKernel "+l.Kernel, c.d.cuLaunchKernel(f, l.Grid[0], l.Grid[1], 1, l.Block[0], l.Block[1], 1, l.Shared, 0, unsafe.Pointer(&c.args.at[0]), nil))
}

// Sync waits for all that is queued.
func (c *Context) Sync() error { return c.check("cuCtxSynchronize", c.d.cuCtxSynchronize()) }

// Close unloads the module and gives the context back; memory that is still taken goes with the context. On a lost card both calls
// fail, which changes nothing any more.
func (c *Context) Close() error {
	var errs []error
	if c.module != 0 {
		errs = append(errs, c.check("cuModuleUnload", c.d.cuModuleUnload(c.module)))
	}
	errs = append(errs, c.check("cuDevicePrimaryCtxRelease_v2", c.d.cuDevicePrimaryCtxRelease_v2(c.handle)))
	return errors.Join(errs...)
}
