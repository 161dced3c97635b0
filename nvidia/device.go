// Package nvidia drives NVIDIA GPUs without cgo: libcuda and NVML are loaded at run time through purego, and the GPU prover of
// GPOW1 runs the committed PTX over the Device interface, which the driver implements on a card and an interpreter in tests.
package nvidia

// Memory is an address on a device.
type Memory uint64

// Launch is one kernel launch: the kernel's name in the module, grid and block in x and y (z is 1), the bytes of shared memory that
// the kernel has beside what its module names (dynamic shared memory), and the arguments in the kernel's order. An argument is a Memory, a uint32 or a uint64 and nothing else; it takes 8, 4 and 8 bytes.
type Launch struct {
	Kernel      string
	Grid, Block [2]uint32
	Shared      uint32
	Args        []any
}

// Device is one card with the kernels' module loaded on it, as far as the prover asks: memory, copies, and launches in one queue.
// Every error is a basilica.Error with the driver's own name for it in the sentence. A Device belongs to the goroutine that made
// it; no two methods run at once.
type Device interface {
	// Alloc takes bytes (above 0) of the device's memory, aligned to 256. Their content is undefined.
	Alloc(bytes uint64) (Memory, error)
	// Free gives back what Alloc returned.
	Free(at Memory) error
	// Write copies host bytes to the device, behind all that is queued, and returns when from may be used again.
	Write(to Memory, from []byte) error
	// Read copies device bytes to the host, behind all that is queued, and returns when to is filled.
	Read(to []byte, from Memory) error
	// Launch queues one kernel behind all that is queued. A kernel's failure may first be seen by a later call.
	Launch(launch Launch) error
	// Sync waits for all that is queued.
	Sync() error
}
