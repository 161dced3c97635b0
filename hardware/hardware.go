// Package hardware reads a machine's facts from procfs and sysfs (processors, memory, disk, system, network) and detects its
// GPUs by four witnesses held against each other: the CUDA driver and NVML, whose words the caller brings, the PCI bus in
// sysfs, and the kernel driver in /proc/driver/nvidia. It proves nothing: whoever owns the kernel owns all four. What they
// disagree on, and files that do not come from the kernel, are findings.
package hardware

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"basilica"
)

// Facts reads everything but GPUs and engine. disk is a path on the file system of the data directory. What the kernel
// does not tell stays absent, a memory that nobody tells is 0; findings say what limits this process and what is unknown. An
// error means that memory, processors or disk could not be read at all.
func (r Root) Facts(ctx context.Context, disk string) (basilica.Facts, error) {
	if err := ctx.Err(); err != nil {
		return basilica.Facts{}, err
	}
	f := basilica.Facts{
		OS: r.osName(), Kernel: r.line("/proc/sys/kernel/osrelease"), BootID: r.line("/proc/sys/kernel/random/boot_id"),
		CPUModel: r.cpuModel(), GPUs: []basilica.GPU{}, Network: r.network(),
	}
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		f.Hostname = ""
	}
	cpus, err := r.usableCPUs()
	if err != nil {
		return f, err
	}
	memory, machine, err := r.usableMemory()
	if err != nil {
		return f, err
	}
	f.CPUs, f.MemoryBytes, f.Findings = int(cpus.n), memory.n, limited(cpus, memory, machine)
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		return f, fmt.Errorf("read disk of %s: %w", disk, err)
	}
	f.DiskBytes = int64(st.Blocks) * st.Bsize
	f.DiskFreeBytes = int64(st.Bavail) * st.Bsize
	return f, nil
}

func (r Root) cpuModel() string {
	dir, _, err := r.resolve("/proc")
	if err != nil {
		return ""
	}
	pfs, err := procfs.NewFS(filepath.Join(r.dir, dir))
	if err != nil {
		return ""
	}
	if cpus, err := pfs.CPUInfo(); err == nil && len(cpus) > 0 {
		return cpus[0].ModelName
	}
	return ""
}

func (r Root) osName() string {
	text, err := r.text("/etc/os-release")
	if err != nil {
		return ""
	}
	name, pretty := "", ""
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "PRETTY_NAME":
			pretty = v
		case "NAME":
			name = v
		}
	}
	if pretty != "" {
		return pretty
	}
	return name
}

// maxIfaces and maxAddrs bound what is told of the network.
const (
	maxIfaces = 32
	maxAddrs  = 16
)

// network lists the interfaces that are up, loopback excepted.
func (r Root) network() []basilica.Iface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []basilica.Iface
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || len(out) == maxIfaces {
			continue
		}
		iface := basilica.Iface{Name: i.Name, Addrs: []string{}}
		if addrs, err := i.Addrs(); err == nil {
			for _, a := range addrs[:min(len(addrs), maxAddrs)] {
				iface.Addrs = append(iface.Addrs, a.String())
			}
		}
		if mbps := integer(r.line(filepath.Join("/sys/class/net", i.Name, "speed"))); mbps > 0 {
			iface.Mbps = &mbps
		}
		out = append(out, iface)
	}
	return out
}
