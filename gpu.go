package basilica

import "time"

// GPUKind says what a device really is.
type GPUKind string

// The kinds of device. A software device (the CPU prover) is never sold as anything else.
const (
	GPUWhole    GPUKind = "whole"
	GPUMIG      GPUKind = "mig"
	GPUVirtual  GPUKind = "virtual"
	GPUSoftware GPUKind = "software"
)

// GPU is one device. What is unknown is absent (empty or nil), never zero, and two unknowns are not equal.
type GPU struct {
	Index       int     `json:"index"` // order of the driver
	Kind        GPUKind `json:"kind"`
	UUID        string  `json:"uuid,omitempty"` // 8-4-4-4-12 hex without a prefix
	Model       string  `json:"model,omitempty"`
	MemoryBytes *uint64 `json:"memory_bytes,omitempty"`
	PCI         string  `json:"pci,omitempty"` // as PCIAddress writes it
	Driver      string  `json:"driver,omitempty"`
	Unified     bool    `json:"unified,omitempty"` // its memory is the machine's own
}

// Facts describe one machine as it sees itself; nobody is paid for a fact.
type Facts struct {
	Hostname      string  `json:"hostname"`
	OS            string  `json:"os"`
	Kernel        string  `json:"kernel"`
	BootID        string  `json:"boot_id"`
	CPUModel      string  `json:"cpu_model,omitempty"`
	CPUs          int     `json:"cpus"`                   // logical processors that this process may use
	MemoryBytes   int64   `json:"memory_bytes,omitempty"` // that this process may use; 0: unknown
	DiskBytes     int64   `json:"disk_bytes"`             // of the data directory's file system
	DiskFreeBytes int64   `json:"disk_free_bytes"`        // available to this process
	Engine        string  `json:"engine,omitempty"`
	EngineVersion string  `json:"engine_version,omitempty"`
	Version       string  `json:"version"` // of Basilica
	GPUs          []GPU   `json:"gpus"`
	Network       []Iface `json:"network,omitempty"`

	// Findings say what limits this process, what the witnesses of its GPUs disagree on, and what of theirs does not come from
	// the kernel. They are the machine's own word like all else here: they inform, and a machine that lies has none.
	Findings []Reason `json:"findings,omitempty"`
}

// Iface is one network interface that is up.
type Iface struct {
	Name  string   `json:"name"`
	Addrs []string `json:"addrs"`
	Mbps  *int64   `json:"mbps,omitempty"`
}

// HolderKind says what holds a GPU.
type HolderKind string

// Who may hold a GPU. Quarantine: a process still has it open after its holder left.
const (
	HolderTask       HolderKind = "task"
	HolderChallenge  HolderKind = "challenge"
	HolderQuarantine HolderKind = "quarantine"
)

// Holding is one entry of an executor's GPU ledger: all GPUs of one holder, under one fencing number.
// A larger fencing number is always the later holder.
type Holding struct {
	Kind    HolderKind `json:"kind"`
	Holder  string     `json:"holder"` // task id, or the grant id of a challenge
	GPUs    []string   `json:"gpus"`   // UUIDs; empty for a task without GPUs
	Fence   uint64     `json:"fence"`
	Expires time.Time  `json:"expires"`
}
