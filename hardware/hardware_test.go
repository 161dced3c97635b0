package hardware

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func tree(t *testing.T, files map[string]string) Roots {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Roots{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys"), OSRelease: filepath.Join(dir, "os-release")}
}

func TestThisMachine(t *testing.T) {
	f, err := Real().Facts(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.CPUs < 1 || f.MemoryBytes < 1<<26 || f.DiskBytes < f.DiskFreeBytes || f.DiskBytes == 0 || len(f.BootID) != 36 || f.Kernel == "" {
		t.Errorf("facts %+v", f)
	}
	if _, err := Real().Displays(); err != nil {
		t.Error(err)
	}
}

func TestCgroupLimits(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		files  map[string]string
		cpus   int
		memory int64
	}{
		"none": {map[string]string{"proc/self/cgroup": "0::/\n"}, 0, 8 * gib},
		"v2": {map[string]string{
			"proc/self/cgroup":                 "0::/a/b\n",
			"sys/fs/cgroup/a/cpu.max":          "150000 100000\n",
			"sys/fs/cgroup/a/b/cpu.max":        "max 100000\n",
			"sys/fs/cgroup/a/b/memory.max":     "max\n",
			"sys/fs/cgroup/a/memory.max":       "1073741824\n",
			"sys/fs/cgroup/cgroup.controllers": "cpu memory",
		}, 2, gib},
		"v1": {map[string]string{
			"proc/self/cgroup":                             "4:memory:/x\n1:cpu,cpuacct:/x\n0::/\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us":         "300000\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_period_us":        "100000\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "536870912\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
		}, 3, gib / 2},
		"outside the mount": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
		}, 0, gib},
	} {
		r := tree(t, c.files)
		if got := r.memoryLimit(8 * gib); got != c.memory {
			t.Errorf("%s: memory %d, want %d", name, got, c.memory)
		}
		quota := 0
		for _, dir := range r.cgroups("cpu") {
			if q := cpuQuota(dir); q > 0 && (quota == 0 || q < quota) {
				quota = q
			}
		}
		if quota != c.cpus {
			t.Errorf("%s: quota of %d processors, want %d", name, quota, c.cpus)
		}
	}
}

func TestDisplays(t *testing.T) {
	r := tree(t, map[string]string{
		"sys/bus/pci/devices/0000:01:00.0/class":  "0x030200\n",
		"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
		"sys/bus/pci/devices/0000:01:00.0/device": "0x2330\n",
		"sys/bus/pci/devices/0000:02:00.0/class":  "0x020000\n",
	})
	got, err := r.Displays()
	if err != nil || !slices.Equal(got, []Display{{Slot: "0000:01:00.0", Vendor: "10de", Device: "2330"}}) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := tree(t, nil).Displays(); err != nil || got != nil {
		t.Errorf("without PCI: %v %v", got, err)
	}
}

func TestOSName(t *testing.T) {
	for text, want := range map[string]string{
		"NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n": "Debian GNU/Linux 12 (bookworm)",
		"NAME=Alpine\n": "Alpine", "": "",
	} {
		if got := tree(t, map[string]string{"os-release": text}).osName(); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}
