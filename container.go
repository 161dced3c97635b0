package basilica

import "time"

// ContainerSpec is a container of a stranger, as an executor asks its engine for it. What such a container may never do
// (root, capabilities, network, writing its root) is the engine's room to see to and has no field here.
type ContainerSpec struct {
	Name        string // unique on the engine
	Image       string // content address of a local image
	Command     []string
	Env         map[string]string
	Labels      map[string]string
	CPUMillis   int64 // thousandths of one CPU
	MemoryBytes int64 // memory and swap together
	Pids        int64
	LogBytes    int64  // the engine keeps about this much log
	Input       string // host directory, mounted read-only at /in
	Output      string // host directory with a size limit of the kernel, mounted at /out
	OutputBytes int64  // its size
	GPUs        []GPU  // devices that the container gets; a software device needs nothing
}

// ContainerState is one container as its engine knows it. Times and what follows them are known of an inspected one alone,
// not of a listed one.
type ContainerState struct {
	ID       string
	Image    string
	Labels   map[string]string
	Running  bool
	Removing bool      // its removal has begun, or failed half-way
	Started  time.Time // zero: never
	End      ContainerEnd
}

// ContainerEnd is how a container ended.
type ContainerEnd struct {
	ExitCode     int
	MemoryKilled bool      // the kernel killed one of its processes for the memory limit
	Error        string    // of the engine, where the container could not run to its end
	At           time.Time // by the engine's clock, which is this machine's
}

// EngineProcess is one process of a container engine.
type EngineProcess struct {
	ID            string // another one after a restart; empty where it cannot be told
	KeepsRestarts bool   // containers outlive a restart of the engine (live restore)
}
