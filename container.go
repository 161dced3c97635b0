package basilica

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

// ContainerState is one container as its engine knows it.
type ContainerState struct {
	ID      string
	Image   string
	Labels  map[string]string
	Running bool
}

// ContainerEnd is a witnessed end.
type ContainerEnd struct {
	ExitCode     int
	MemoryKilled bool   // the kernel killed one of its processes for the memory limit
	Error        string // of the engine, where the container could not run to its end
}
