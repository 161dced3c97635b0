// Package hardware reads a machine's facts from procfs and sysfs: processors, memory, disk, system, network and PCI. It
// believes the kernel, proves nothing, and knows no GPU driver.
package hardware

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"basilica"
)

// Roots say where the kernel's file systems stand; tests give others.
type Roots struct {
	Proc      string // /proc
	Sys       string // /sys
	OSRelease string // /etc/os-release
}

// Real gives this machine's roots.
func Real() Roots { return Roots{Proc: "/proc", Sys: "/sys", OSRelease: "/etc/os-release"} }

// maxFile bounds the bytes that are read of a kernel file.
const maxFile = 64 << 10

// Facts reads everything but GPUs and engine. disk is a path on the file system of the data directory. What the kernel
// does not tell stays absent; an error means that memory, processors or disk could not be read at all.
func (r Roots) Facts(ctx context.Context, disk string) (basilica.Facts, error) {
	if err := ctx.Err(); err != nil {
		return basilica.Facts{}, err
	}
	f := basilica.Facts{
		OS:      r.osName(),
		Kernel:  r.line(filepath.Join(r.Proc, "sys/kernel/osrelease")),
		BootID:  r.line(filepath.Join(r.Proc, "sys/kernel/random/boot_id")),
		GPUs:    []basilica.GPU{},
		Network: r.network(),
	}
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		f.Hostname = ""
	}
	pfs, err := procfs.NewFS(r.Proc)
	if err != nil {
		return f, fmt.Errorf("open procfs: %w", err)
	}
	if cpus, err := pfs.CPUInfo(); err == nil && len(cpus) > 0 {
		f.CPUModel = cpus[0].ModelName
	}
	if f.CPUs, err = r.usableCPUs(); err != nil {
		return f, err
	}
	mem, err := pfs.Meminfo()
	if err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	if mem.MemTotalBytes == nil {
		return f, errors.New("read memory: the kernel tells no total")
	}
	f.MemoryBytes = r.memoryLimit(int64(*mem.MemTotalBytes))
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		return f, fmt.Errorf("read disk of %s: %w", disk, err)
	}
	f.DiskBytes = int64(st.Blocks) * st.Bsize
	f.DiskFreeBytes = int64(st.Bavail) * st.Bsize
	return f, nil
}

// line reads the first line of a small file, or nothing.
func (r Roots) line(path string) string {
	text, err := readSmall(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first)
}

func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, maxFile)
	n := 0
	for n < len(buf) {
		m, err := f.Read(buf[n:])
		n += m
		if err != nil || m == 0 {
			break
		}
	}
	return string(buf[:n]), nil
}

func (r Roots) osName() string {
	text, err := readSmall(r.OSRelease)
	if err != nil {
		return ""
	}
	name, pretty := "", ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), "=")
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

// usableCPUs counts the processors that this process may run on, cut to the smallest quota of its cgroups.
func (r Roots) usableCPUs() (int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("read processors: %w", err)
	}
	n := 0
	for _, word := range set {
		n += bits.OnesCount64(uint64(word))
	}
	for _, dir := range r.cgroups("cpu") {
		if q := cpuQuota(dir); q > 0 && q < n {
			n = q
		}
	}
	return n, nil
}

// cpuQuota gives a cgroup's quota in whole processors, rounded up; 0 where it has none.
func cpuQuota(dir string) int {
	quota, period := int64(0), int64(0)
	if text, err := readSmall(filepath.Join(dir, "cpu.max")); err == nil {
		fields := strings.Fields(text)
		if len(fields) == 2 && fields[0] != "max" {
			quota, period = integer(fields[0]), integer(fields[1])
		}
	} else if text, err := readSmall(filepath.Join(dir, "cpu.cfs_quota_us")); err == nil {
		quota = integer(strings.TrimSpace(text))
		if text, err := readSmall(filepath.Join(dir, "cpu.cfs_period_us")); err == nil {
			period = integer(strings.TrimSpace(text))
		}
	}
	if quota <= 0 || period <= 0 {
		return 0
	}
	return int((quota + period - 1) / period)
}

func integer(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// memoryLimit cuts the machine's memory to the smallest limit of this process's cgroups.
func (r Roots) memoryLimit(total int64) int64 {
	for _, dir := range r.cgroups("memory") {
		for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
			text, err := readSmall(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			if n := integer(strings.TrimSpace(text)); n > 0 && n < total {
				total = n
			}
		}
	}
	return total
}

// cgroups gives the directories of this process's cgroup and all above it for one controller, of version 1 where it
// stands there, else of version 2. Inside a container the path may lie outside what is mounted: the mount's root
// remains.
func (r Roots) cgroups(controller string) []string {
	text, err := readSmall(filepath.Join(r.Proc, "self/cgroup"))
	if err != nil {
		return nil
	}
	root, path := "", ""
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if slices.Contains(strings.Split(parts[1], ","), controller) {
			root, path = filepath.Join(r.Sys, "fs/cgroup", controller), parts[2]
			break
		}
		if parts[0] == "0" && parts[1] == "" {
			root, path = filepath.Join(r.Sys, "fs/cgroup"), parts[2]
		}
	}
	if root == "" {
		return nil
	}
	var dirs []string
	for dir := filepath.Join(root, path); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == root || len(dir) <= len(root) {
			return dirs
		}
	}
}

// maxIfaces and maxAddrs bound what is told of the network.
const (
	maxIfaces = 32
	maxAddrs  = 16
)

// network lists the interfaces that are up, loopback excepted.
func (r Roots) network() []basilica.Iface {
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
		if mbps := integer(r.line(filepath.Join(r.Sys, "class/net", i.Name, "speed"))); mbps > 0 {
			iface.Mbps = &mbps
		}
		out = append(out, iface)
	}
	return out
}

// Display is a PCI device of class 03, display controller: what could be a GPU whatever its driver says.
type Display struct {
	Slot   string // domain:bus:device.function
	Vendor string // 4 hex digits; 10de is NVIDIA
	Device string // 4 hex digits
	Driver string // of the kernel; empty where none is bound
}

// Displays lists the display controllers on the PCI bus; a machine without PCI has none.
func (r Roots) Displays() ([]Display, error) {
	dir := filepath.Join(r.Sys, "bus/pci/devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list PCI devices: %w", err)
	}
	var out []Display
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(r.line(filepath.Join(at, "class")), "0x03") {
			continue
		}
		d := Display{Slot: e.Name(), Vendor: hex4(r.line(filepath.Join(at, "vendor"))), Device: hex4(r.line(filepath.Join(at, "device")))}
		if target, err := os.Readlink(filepath.Join(at, "driver")); err == nil {
			d.Driver = filepath.Base(target)
		}
		out = append(out, d)
	}
	return out, nil
}

func hex4(s string) string { return strings.TrimPrefix(s, "0x") }
