package hardware

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"basilica"
)

// limit is a number and what set it; by is empty where that is the machine itself.
type limit struct {
	n  int64
	by string
}

// cut takes n where it is smaller than what stands. 0 is no limit.
func (l *limit) cut(n int64, by string) {
	if n > 0 && (l.n == 0 || n < l.n) {
		l.n, l.by = n, by
	}
}

// unlimited is the least number that no machine's memory reaches. Version 1 of control groups says "no limit" by the largest
// number of whole pages that fits 63 bits.
const unlimited = 1 << 60

// usableCPUs counts the processors that this process may run on: its affinity, cut by the sets and quotas of its control
// groups and of all above them. A quota that is no whole number is rounded up.
func (r Root) usableCPUs() (limit, error) {
	status, err := r.text("/proc/self/status")
	if err != nil {
		return limit{}, fmt.Errorf("read processors: %w", err)
	}
	var l limit
	if n, err := cpuList(field(status, "Cpus_allowed_list")); err == nil {
		l.n = int64(n)
	}
	for _, dir := range r.cgroups("cpuset") {
		for _, name := range []string{"cpuset.cpus.effective", "cpuset.effective_cpus"} {
			if n, err := cpuList(r.line(filepath.Join(dir, name))); err == nil {
				l.cut(int64(n), filepath.Join(dir, name))
			}
		}
	}
	for _, dir := range r.cgroups("cpu") {
		n, name := r.cpuQuota(dir)
		l.cut(n, filepath.Join(dir, name))
	}
	if l.n == 0 {
		return l, errors.New("read processors: the kernel tells no set of them")
	}
	return l, nil
}

// maxCPUs bounds the numbers of a list of processors.
const maxCPUs = 1 << 16

// cpuList counts the processors of a list like "0-3,8,10-11". An empty list is an error: nothing runs on no processor.
func cpuList(text string) (int, error) {
	bad := fmt.Errorf("%.40q is no list of processors", text)
	n, next := 0, uint64(0) // the kernel writes them in order
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 32)
		b, err2 := strconv.ParseUint(last, 10, 32)
		if err != nil || err2 != nil || a < next || b < a || b >= maxCPUs {
			return 0, bad
		}
		n, next = n+int(b-a)+1, b+1
	}
	return n, nil
}

// cpuQuota gives a control group's quota in whole processors and the file that sets it; 0 where it has none.
func (r Root) cpuQuota(dir string) (int64, string) {
	quota, period, name := int64(0), int64(0), "cpu.max"
	if text, err := r.text(filepath.Join(dir, name)); err == nil {
		if fields := strings.Fields(text); len(fields) == 2 { // the first may be the word max
			quota, period = integer(fields[0]), integer(fields[1])
		}
	} else {
		name = "cpu.cfs_quota_us" // -1 is none
		quota, period = integer(r.line(filepath.Join(dir, name))), integer(r.line(filepath.Join(dir, "cpu.cfs_period_us")))
	}
	if quota <= 0 || period <= 0 {
		return 0, name
	}
	return (quota-1)/period + 1, name
}

// integer reads a decimal number; words are 0.
func integer(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// field gives the value of "name: value" in a text of such lines, or nothing.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// machineMemory is what the kernel says that the machine has, in bytes; 0 where it does not say: some file systems that
// stand in for /proc in containers write 0.
func (r Root) machineMemory() (int64, error) {
	dir, _, err := r.resolve("/proc")
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	pfs, err := procfs.NewFS(filepath.Join(r.dir, dir))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	mem, err := pfs.Meminfo()
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	if mem.MemTotalBytes == nil || *mem.MemTotalBytes > math.MaxInt64 {
		return 0, nil
	}
	return int64(*mem.MemTotalBytes), nil
}

// usableMemory is the machine's memory, cut by the limits of this process's control groups and of all above them; 0 where
// neither is known.
func (r Root) usableMemory() (l limit, machine int64, err error) {
	if machine, err = r.machineMemory(); err != nil {
		return l, 0, err
	}
	l.n = machine
	for _, dir := range r.cgroups("memory") {
		for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
			if n := integer(r.line(filepath.Join(dir, name))); n < unlimited { // the word max is 0
				l.cut(n, filepath.Join(dir, name))
			}
		}
	}
	return l, machine, nil
}

// cgroups gives the directories of this process's control group and all above it for one controller, deepest first, of
// version 1 where it is mounted so, else of version 2. Inside a container the group may lie outside what is mounted: the
// mount's own directory remains.
func (r Root) cgroups(controller string) []string {
	text, err := r.text("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	table, err := r.mounts()
	if err != nil {
		return nil
	}
	group, kind := "", ""
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if slices.Contains(strings.Split(parts[1], ","), controller) {
			group, kind = parts[2], "cgroup"
			break
		}
		if parts[0] == "0" && parts[1] == "" {
			group, kind = parts[2], "cgroup2"
		}
	}
	var dirs []string
	for _, m := range table {
		if kind == "" || m.kind != kind || kind == "cgroup" && !slices.Contains(strings.Split(m.super, ","), controller) {
			continue
		}
		dir := m.point
		if below(group, m.root) && !strings.Contains(group, "/..") {
			dir = filepath.Join(m.point, strings.TrimPrefix(group, m.root))
		}
		for ; below(dir, m.point) && len(dirs) < maxCgroups; dir = filepath.Dir(dir) {
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
			if dir == "/" {
				break
			}
		}
	}
	return dirs
}

// maxCgroups bounds the directories that are looked at for one controller.
const maxCgroups = 256

// limited says in findings what cuts the machine for this process, and what it does not tell.
func limited(cpus, memory limit, machine int64) []basilica.Reason {
	var out []basilica.Reason
	if cpus.by != "" {
		out = append(out, basilica.Reason{
			Code: "CPUS_LIMITED", Sentence: fmt.Sprintf("processors are limited to %d by %s", cpus.n, basilica.OneLine(cpus.by)),
			Fix: "raise the limit if more is to be offered; nothing is needed otherwise",
		})
	}
	switch {
	case memory.n == 0:
		out = append(out, basilica.Reason{
			Code: "MEMORY_UNKNOWN", Sentence: "the machine's memory is unknown: /proc/meminfo has no MemTotal above 0 and no control group sets a limit",
			Fix: "run it on the machine itself, or give the container a memory limit",
		})
	case memory.by != "":
		sentence := fmt.Sprintf("memory is limited to %d bytes by %s; what the machine has is unknown", memory.n, basilica.OneLine(memory.by))
		if machine > 0 {
			sentence = fmt.Sprintf("memory is limited to %d of the machine's %d bytes by %s", memory.n, machine, basilica.OneLine(memory.by))
		}
		out = append(out, basilica.Reason{Code: "MEMORY_LIMITED", Sentence: sentence, Fix: "raise the limit if more is to be offered; nothing is needed otherwise"})
	}
	return out
}
