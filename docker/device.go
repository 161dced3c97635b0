package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"basilica"
)

// device is a device node by its kind (c or b) and numbers.
type device struct {
	kind         byte
	major, minor uint32
}

// deviceRule allows devices: of all kinds ('a'), of one major or minor number, or of all (-1).
type deviceRule struct {
	kind         byte
	major, minor int64
	access       string // of r, w, m
}

// allows says whether a rule lets a container read and write a device.
func (r deviceRule) allows(d device) bool {
	return (r.kind == 'a' || r.kind == d.kind) && (r.major < 0 || r.major == int64(d.major)) && (r.minor < 0 || r.minor == int64(d.minor)) &&
		strings.Contains(r.access, "r") && strings.Contains(r.access, "w")
}

// devicesList reads devices.list of control groups version 1: lines like "c 195:0 rw" or "a *:* rwm".
func devicesList(text io.Reader) ([]deviceRule, error) {
	var rules []deviceRule
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || len(f[0]) != 1 {
			return nil, fmt.Errorf("device rule %.40q", lines.Text())
		}
		major, minor, ok := strings.Cut(f[1], ":")
		if !ok {
			return nil, fmt.Errorf("device rule %.40q", lines.Text())
		}
		r, err := ruleOf(f[0][0], major, minor, f[2])
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, lines.Err()
}

func ruleOf(kind byte, major, minor, access string) (r deviceRule, err error) {
	number := func(s string) int64 {
		if s == "*" {
			return -1
		}
		n, nerr := strconv.ParseUint(s, 10, 32)
		err = errors.Join(err, nerr)
		return int64(n)
	}
	r = deviceRule{kind: kind, major: number(major), minor: number(minor), access: access}
	return r, err
}

// deviceAllow reads the DeviceAllow= lines of a systemd unit (systemd.resource-control(5)): /dev/char/M:N, char-M, char-*,
// their block fellows, each with an access; an empty one forgets those before it. Names of devices and of groups, which
// only the service manager resolves, are left out: they are not the rules that a device hook writes.
func deviceAllow(text io.Reader) ([]deviceRule, error) {
	var rules []deviceRule
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		value, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "DeviceAllow=")
		if !ok {
			continue
		}
		f := strings.Fields(value)
		if len(f) == 0 {
			rules = nil
			continue
		}
		access := "rwm"
		if len(f) > 1 {
			access = f[1]
		}
		for prefix, kind := range map[string]byte{"/dev/char/": 'c', "/dev/block/": 'b', "char-": 'c', "block-": 'b'} {
			name, ok := strings.CutPrefix(f[0], prefix)
			if !ok {
				continue
			}
			major, minor, pair := strings.Cut(name, ":")
			if !pair {
				minor = "*"
			}
			if r, err := ruleOf(kind, major, minor, access); err == nil {
				rules = append(rules, r)
			}
		}
	}
	return rules, lines.Err()
}

// forbidden lists those of a container's device nodes that no rule allows any more.
func forbidden(nodes map[string]device, rules []deviceRule) []string {
	var lost []string
	for name, d := range nodes {
		if !slices.ContainsFunc(rules, func(r deviceRule) bool { return r.allows(d) }) {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	return lost
}

// gpuNodes are the device nodes of GPUs in a container.
const gpuNodes = "nvidia*"

// LostDevices lists the GPU device nodes in a running container that its control group no longer allows: a reload of the
// host's service manager takes away what a device hook had added behind its back. A container that has ended has lost
// nothing.
func (e *Engine) LostDevices(ctx context.Context, id string) ([]string, error) {
	return e.lostDevices(ctx, id, gpuNodes)
}

func (e *Engine) lostDevices(ctx context.Context, id, pattern string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, e.mapped("inspect container", err)
	}
	if st := res.Container.State; st == nil || !st.Running || st.Pid == 0 {
		return nil, nil
	}
	pid := res.Container.State.Pid
	nodes, err := deviceNodes(filepath.Join("/proc", strconv.Itoa(pid), "root", "dev"), pattern)
	if err != nil || len(nodes) == 0 {
		return nil, err
	}
	rules, err := deviceRules("/proc", "/sys/fs/cgroup", "/run/systemd", id, pid)
	if err != nil || rules == nil {
		return nil, err
	}
	return forbidden(nodes, rules), nil
}

// deviceNodes finds the device nodes of a directory by a pattern of their names.
func deviceNodes(dir, pattern string) (map[string]device, error) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	nodes := map[string]device{}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			continue // gone meanwhile
		}
		d := device{major: unix.Major(st.Rdev), minor: unix.Minor(st.Rdev)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			d.kind = 'c'
		case unix.S_IFBLK:
			d.kind = 'b'
		default:
			continue
		}
		nodes["/dev/"+filepath.Base(path)] = d
	}
	return nodes, nil
}

// deviceRules reads what a container's control group allows: devices.list in version 1; in version 2, where the kernel
// does not tell, what the service manager would set for the container's scope. nil: nobody tells.
func deviceRules(proc, cgroups, systemd, id string, pid int) ([]deviceRule, error) {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("read control groups: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), "devices") {
			return rulesOf(filepath.Join(cgroups, "devices", parts[2], "devices.list"), devicesList)
		}
	}
	return rulesOf(filepath.Join(systemd, "transient", "docker-"+id+".scope.d", "50-DeviceAllow.conf"), deviceAllow)
}

func rulesOf(path string, read func(io.Reader) ([]deviceRule, error)) ([]deviceRule, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device rules: %w", err)
	}
	defer f.Close()
	rules, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("read device rules: %w", err)
	}
	if rules == nil {
		rules = []deviceRule{}
	}
	return rules, nil
}

// gpuDevices gives the device nodes of real GPUs on this host by the engine's own list, so that the service manager knows
// of them and a reload keeps them. A GPU whose nodes are not found is left to the engine's GPU hook alone.
func gpuDevices(proc, dev string, gpus []basilica.GPU) []container.DeviceMapping {
	// The driver's directories are compared by their numbers: libraries and kernel write addresses differently.
	information := map[basilica.PCIAddress]string{}
	dir := filepath.Join(proc, "driver/nvidia/gpus")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // no such driver
	}
	for _, e := range entries {
		if at, err := basilica.ParsePCI(e.Name()); err == nil {
			information[at] = filepath.Join(dir, e.Name(), "information")
		}
	}
	names := map[string]bool{}
	for _, g := range gpus {
		at, err := basilica.ParsePCI(g.PCI)
		if g.Kind == basilica.GPUSoftware || err != nil || information[at] == "" {
			continue
		}
		text, err := os.ReadFile(information[at])
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if minor, ok := strings.CutPrefix(line, "Device Minor:"); ok {
				names["nvidia"+strings.TrimSpace(minor)] = true
			}
		}
	}
	if len(names) > 0 {
		for _, shared := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"} {
			names[shared] = true
		}
	}
	var out []container.DeviceMapping
	for name := range names {
		path := filepath.Join(dev, name)
		if _, err := os.Stat(path); err == nil {
			out = append(out, container.DeviceMapping{PathOnHost: path, PathInContainer: "/dev/" + name, CgroupPermissions: "rw"})
		}
	}
	slices.SortFunc(out, func(a, b container.DeviceMapping) int { return strings.Compare(a.PathOnHost, b.PathOnHost) })
	return out
}
