//go:build !nocuda

package nvidia

import (
	"errors"
	"fmt"
	"strings"

	"basilica"
)

// nvmlResult is an nvmlReturn_t.
type nvmlResult int32

// Results of NVML that have a meaning of their own here (NVML API reference, "nvmlReturn_t").
const (
	nvmlNotSupported nvmlResult = 3
	nvmlNoPermission nvmlResult = 4
	nvmlShort        nvmlResult = 7
	nvmlNotLoaded    nvmlResult = 9
	nvmlLost         nvmlResult = 15
	nvmlMismatch     nvmlResult = 18
)

// nvmlWords are NVML's own names of its results, without their prefix and in small letters.
var nvmlWords = map[nvmlResult]string{
	1: "uninitialized", 2: "invalid argument", nvmlNotSupported: "not supported", nvmlNoPermission: "no permission", 6: "not found",
	nvmlShort: "insufficient size", 8: "insufficient power", nvmlNotLoaded: "driver not loaded", 10: "timeout", 11: "irq issue",
	12: "library not found", 13: "function not found", 14: "corrupted inforom", nvmlLost: "gpu is lost", 16: "reset required",
	17: "operating system", nvmlMismatch: "lib rm version mismatch", 19: "in use", 20: "memory", 21: "no data", 999: "unknown",
}

// name is NVML's, e.g. NOT_SUPPORTED.
func (r nvmlResult) name() string {
	if words, ok := nvmlWords[r]; ok {
		return strings.ToUpper(strings.ReplaceAll(words, " ", "_"))
	}
	return fmt.Sprintf("NVML_%d", r)
}

type nvmlDevice uintptr

// nvmlPCI is nvmlPciInfo_t.
type nvmlPCI struct {
	_             [16]byte // the bus id with a domain of four digits
	_, _, _, _, _ uint32   // domain, bus, device, PCI id, subsystem id
	busID         [32]byte
}

// nvmlMemory is nvmlMemory_t.
type nvmlMemory struct{ total, _, used uint64 } // the second is what is free

// nvmlProcess is nvmlProcessInfo_t of the functions with suffix _v3.
type nvmlProcess struct {
	pid   uint32
	bytes uint64
	_, _  uint32 // GPU instance, compute instance
}

// Kinds of clock (nvmlClockType_t), and of ECC errors and their counters.
const (
	clockSM            = 1
	clockMemory        = 2
	eccUncorrected     = 1
	eccSinceDriverLoad = 0
)

// NVML is the management library, initialised.
type NVML struct {
	nvmlInit_v2                             func() nvmlResult
	nvmlShutdown                            func() nvmlResult
	nvmlSystemGetDriverVersion              func(version *byte, size uint32) nvmlResult
	nvmlDeviceGetCount_v2                   func(count *uint32) nvmlResult
	nvmlDeviceGetHandleByIndex_v2           func(index uint32, device *nvmlDevice) nvmlResult
	nvmlDeviceGetUUID                       func(device nvmlDevice, uuid *byte, size uint32) nvmlResult
	nvmlDeviceGetName                       func(device nvmlDevice, name *byte, size uint32) nvmlResult
	nvmlDeviceGetPciInfo_v3                 func(device nvmlDevice, pci *nvmlPCI) nvmlResult
	nvmlDeviceGetSerial                     func(device nvmlDevice, serial *byte, size uint32) nvmlResult
	nvmlDeviceGetMemoryInfo                 func(device nvmlDevice, memory *nvmlMemory) nvmlResult
	nvmlDeviceGetBAR1MemoryInfo             func(device nvmlDevice, memory *nvmlMemory) nvmlResult
	nvmlDeviceGetTotalEccErrors             func(device nvmlDevice, kind, counter uint32, count *uint64) nvmlResult
	nvmlDeviceGetMigMode                    func(device nvmlDevice, current, pending *uint32) nvmlResult
	nvmlDeviceGetMaxMigDeviceCount          func(device nvmlDevice, count *uint32) nvmlResult
	nvmlDeviceGetMigDeviceHandleByIndex     func(device nvmlDevice, index uint32, mig *nvmlDevice) nvmlResult
	nvmlDeviceGetComputeRunningProcesses_v3 func(device nvmlDevice, count *uint32, processes *nvmlProcess) nvmlResult
	nvmlDeviceGetClockInfo                  func(device nvmlDevice, kind uint32, mhz *uint32) nvmlResult
	nvmlDeviceGetMaxClockInfo               func(device nvmlDevice, kind uint32, mhz *uint32) nvmlResult
	nvmlDeviceGetPowerManagementLimit       func(device nvmlDevice, milliwatts *uint32) nvmlResult
}

// OpenNVML loads the library from the first of the paths that has it and initialises it. Codes: NVML_ABSENT, CUDA_SYMBOL, NVML_FAILED.
func OpenNVML(paths []string) (*NVML, error) {
	l, err := load(paths)
	if err != nil {
		return nil, basilica.E(basilica.NotFound, "NVML_ABSENT", "there is no NVIDIA management library here: "+libnvml+" was not found",
			"install the whole NVIDIA driver; in a container ask the NVIDIA container toolkit for the capability utility").With(err)
	}
	n := &NVML{}
	for symbol, function := range map[string]any{
		"nvmlInit_v2": &n.nvmlInit_v2, "nvmlShutdown": &n.nvmlShutdown, "nvmlSystemGetDriverVersion": &n.nvmlSystemGetDriverVersion,
		"nvmlDeviceGetCount_v2": &n.nvmlDeviceGetCount_v2, "nvmlDeviceGetHandleByIndex_v2": &n.nvmlDeviceGetHandleByIndex_v2,
		"nvmlDeviceGetUUID": &n.nvmlDeviceGetUUID, "nvmlDeviceGetName": &n.nvmlDeviceGetName, "nvmlDeviceGetPciInfo_v3": &n.nvmlDeviceGetPciInfo_v3,
		"nvmlDeviceGetSerial": &n.nvmlDeviceGetSerial, "nvmlDeviceGetMemoryInfo": &n.nvmlDeviceGetMemoryInfo,
		"nvmlDeviceGetBAR1MemoryInfo": &n.nvmlDeviceGetBAR1MemoryInfo, "nvmlDeviceGetTotalEccErrors": &n.nvmlDeviceGetTotalEccErrors,
		"nvmlDeviceGetMigMode": &n.nvmlDeviceGetMigMode, "nvmlDeviceGetMaxMigDeviceCount": &n.nvmlDeviceGetMaxMigDeviceCount,
		"nvmlDeviceGetMigDeviceHandleByIndex":     &n.nvmlDeviceGetMigDeviceHandleByIndex,
		"nvmlDeviceGetComputeRunningProcesses_v3": &n.nvmlDeviceGetComputeRunningProcesses_v3,
		"nvmlDeviceGetClockInfo":                  &n.nvmlDeviceGetClockInfo, "nvmlDeviceGetMaxClockInfo": &n.nvmlDeviceGetMaxClockInfo,
		"nvmlDeviceGetPowerManagementLimit": &n.nvmlDeviceGetPowerManagementLimit,
	} {
		l.bind(function, symbol)
	}
	if len(l.missing) > 0 {
		return nil, symbolError(libnvml, l.missing)
	}
	if r := n.nvmlInit_v2(); r != 0 {
		return nil, nvmlError("nvmlInit_v2", r)
	}
	return n, nil
}

// nvmlError says that the library does not work.
func nvmlError(call string, r nvmlResult) error {
	fix := "look at nvidia-smi, which fails alike, and at dmesg"
	switch r {
	case nvmlMismatch:
		fix = "restart the machine: the driver was updated since it started, and the kernel still runs the old one"
	case nvmlNotLoaded:
		fix = "load the kernel's driver (modprobe nvidia), or install it for this kernel"
	case nvmlNoPermission:
		fix = "let this user open /dev/nvidiactl"
	}
	return basilica.E(basilica.Unavailable, "NVML_FAILED", fmt.Sprintf("the NVIDIA management library does not work: %s gave %s", call, r.name()), fix)
}

// Close ends the use of the library.
func (n *NVML) Close() error {
	if r := n.nvmlShutdown(); r != 0 {
		return nvmlError("nvmlShutdown", r)
	}
	return nil
}

// Report is what NVML says of the machine.
type Report struct {
	Driver   string // version, e.g. 575.57.08
	Count    int    // of the cards that it claims
	Readings []Reading
}

// Reading is what NVML says of one card. What it refuses to say is absent, and its answer stands in Withheld under the figure's name.
type Reading struct {
	Index            int
	UUID             string // GPU-8-4-4-4-12
	Name             string
	PCI              string // domain:bus:device.function with a domain of eight digits, as NVML writes it
	Serial           string
	MemoryBytes      *uint64
	MemoryUsedBytes  *uint64
	BAR1Bytes        *uint64
	ECCErrors        *uint64 // uncorrected, since the driver was loaded
	MIG              *MIGMode
	Processes        []Process // that compute on it, as far as this process may see them
	ClockMHz         *uint32   // of the SMs, now
	MaxClockMHz      *uint32
	MemoryClockMHz   *uint32
	PowerLimitMilliW *uint32
	Lost             bool // the card no longer answers
	Withheld         map[string]string
}

// MIGMode says whether a card is cut into instances.
type MIGMode struct {
	On, Pending bool
	Slices      []Slice
}

// Slice is one MIG instance.
type Slice struct {
	UUID        string // MIG-8-4-4-4-12
	MemoryBytes *uint64
}

// Process computes on a card.
type Process struct {
	PID         uint32
	MemoryBytes uint64
}

// Report asks for everything. A card that fails is in it with what it says; an error means that NVML names no cards at all.
func (n *NVML) Report() (Report, error) {
	var r Report
	version := make([]byte, 96)
	if e := n.nvmlSystemGetDriverVersion(&version[0], uint32(len(version))); e != 0 {
		return r, nvmlError("nvmlSystemGetDriverVersion", e)
	}
	r.Driver = basilica.OneLine(cut(version))
	var count uint32
	if e := n.nvmlDeviceGetCount_v2(&count); e != 0 {
		return r, nvmlError("nvmlDeviceGetCount_v2", e)
	}
	r.Count = int(count)
	for i := range min(count, maxCards) {
		r.Readings = append(r.Readings, n.reading(i))
	}
	return r, nil
}

// reading asks one card.
func (n *NVML) reading(i uint32) Reading {
	r := Reading{Index: int(i), Withheld: map[string]string{}}
	says := func(figure string, e nvmlResult) bool {
		if e != 0 {
			r.Withheld[figure] = e.name()
			r.Lost = r.Lost || e == nvmlLost
		}
		return e == 0
	}
	var d nvmlDevice
	if !says("card", n.nvmlDeviceGetHandleByIndex_v2(i, &d)) {
		return r
	}
	words := make([]byte, 96)
	if says("uuid", n.nvmlDeviceGetUUID(d, &words[0], uint32(len(words)))) {
		r.UUID = basilica.OneLine(cut(words))
	}
	if says("name", n.nvmlDeviceGetName(d, &words[0], uint32(len(words)))) {
		r.Name = basilica.OneLine(cut(words))
	}
	if says("serial", n.nvmlDeviceGetSerial(d, &words[0], uint32(len(words)))) {
		r.Serial = basilica.OneLine(cut(words))
	}
	var pci nvmlPCI
	if says("pci", n.nvmlDeviceGetPciInfo_v3(d, &pci)) {
		r.PCI = basilica.OneLine(cut(pci.busID[:]))
	}
	var m nvmlMemory
	if says("memory", n.nvmlDeviceGetMemoryInfo(d, &m)) {
		total, used := m.total, m.used
		r.MemoryBytes, r.MemoryUsedBytes = &total, &used
	}
	if says("bar1", n.nvmlDeviceGetBAR1MemoryInfo(d, &m)) {
		total := m.total
		r.BAR1Bytes = &total
	}
	var count uint64
	if says("ecc_errors", n.nvmlDeviceGetTotalEccErrors(d, eccUncorrected, eccSinceDriverLoad, &count)) {
		r.ECCErrors = &count
	}
	var on, pending uint32
	switch e := n.nvmlDeviceGetMigMode(d, &on, &pending); e {
	case 0:
		r.MIG = &MIGMode{On: on == 1, Pending: pending == 1}
		if r.MIG.On {
			r.MIG.Slices = n.slices(d)
		}
	case nvmlNotSupported: // a card without that mode
	default:
		says("mig", e)
	}
	var err nvmlResult
	if r.Processes, err = n.processes(d); err != 0 {
		says("processes", err)
	}
	for _, x := range []struct {
		figure string
		to     **uint32
		ask    func(v *uint32) nvmlResult
	}{
		{"clock", &r.ClockMHz, func(v *uint32) nvmlResult { return n.nvmlDeviceGetClockInfo(d, clockSM, v) }},
		{"max_clock", &r.MaxClockMHz, func(v *uint32) nvmlResult { return n.nvmlDeviceGetMaxClockInfo(d, clockSM, v) }},
		{"memory_clock", &r.MemoryClockMHz, func(v *uint32) nvmlResult { return n.nvmlDeviceGetClockInfo(d, clockMemory, v) }},
		{"power_limit", &r.PowerLimitMilliW, func(v *uint32) nvmlResult { return n.nvmlDeviceGetPowerManagementLimit(d, v) }},
	} {
		v := new(uint32)
		if says(x.figure, x.ask(v)) {
			*x.to = v
		}
	}
	return r
}

// slices lists the MIG instances of a card.
func (n *NVML) slices(d nvmlDevice) (out []Slice) {
	var most uint32
	if n.nvmlDeviceGetMaxMigDeviceCount(d, &most) != 0 {
		return nil
	}
	for i := range min(most, 64) {
		var h nvmlDevice
		words := make([]byte, 96)
		if n.nvmlDeviceGetMigDeviceHandleByIndex(d, i, &h) != 0 || n.nvmlDeviceGetUUID(h, &words[0], uint32(len(words))) != 0 {
			continue // not every number is taken
		}
		s := Slice{UUID: basilica.OneLine(cut(words))}
		var m nvmlMemory
		if n.nvmlDeviceGetMemoryInfo(h, &m) == 0 {
			total := m.total
			s.MemoryBytes = &total
		}
		out = append(out, s)
	}
	return out
}

// processes lists what computes on a card. Their number may grow between two calls, so the list has room to spare.
func (n *NVML) processes(d nvmlDevice) ([]Process, nvmlResult) {
	list := make([]nvmlProcess, 64)
	for {
		count := uint32(len(list))
		switch e := n.nvmlDeviceGetComputeRunningProcesses_v3(d, &count, &list[0]); {
		case e == nvmlShort && len(list) < 4096:
			list = make([]nvmlProcess, 2*max(len(list), min(int(count), 2048)))
		case e != 0:
			return nil, e
		default:
			var out []Process
			for _, p := range list[:min(int(count), len(list))] {
				out = append(out, Process{PID: p.pid, MemoryBytes: p.bytes})
			}
			return out, 0
		}
	}
}

// ReadNVML opens the library, asks for everything and closes it.
func ReadNVML(paths []string) (Report, error) {
	n, err := OpenNVML(paths)
	if err != nil {
		return Report{}, err
	}
	r, err := n.Report()
	return r, errors.Join(err, n.Close())
}
