package hardware

import (
	"os"
	"path/filepath"
	"testing"

	"basilica/internal/provoke"
)

// kernelFiles makes roots with the given files under proc and sys.
func kernelFiles(t *testing.T, files map[string]string) Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return At(dir)
}

func TestKernelAndCgroups(t *testing.T) {
	for release, refused := range map[string]bool{"6.1.0-18-amd64": false, "4.6.0": false, "4.5.7": true, "3.10.0-1160.el7.x86_64": true, "odd": false} {
		r := kernelFiles(t, map[string]string{"proc/sys/kernel/osrelease": release + "\n"})
		got, err := r.Kernel()
		if got != release || (err != nil) != refused {
			t.Errorf("%s: %q, %v", release, got, err)
		}
		if refused {
			provoke.Refused(t, err, "KERNEL_OLD")
		}
	}
	if v, err := kernelFiles(t, map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids\n"}).Cgroups(); v != 2 || err != nil {
		t.Error(v, err)
	}
	one := map[string]string{"sys/fs/cgroup/cpu/tasks": "", "sys/fs/cgroup/pids/tasks": "", "sys/fs/cgroup/memory/tasks": ""}
	if v, err := kernelFiles(t, one).Cgroups(); v != 1 || err != nil {
		t.Error(v, err)
	}
	delete(one, "sys/fs/cgroup/memory/tasks")
	_, err := kernelFiles(t, one).Cgroups()
	provoke.Refused(t, err, "CGROUP_MISSING")
	_, err = kernelFiles(t, map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io\n"}).Cgroups()
	provoke.Refused(t, err, "CGROUP_MISSING")
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := MeasureDisk(t.Context(), dir, 3<<20+5)
	if err != nil || s.BytesPerSecond <= 0 || s.Sync <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := MeasureDisk(t.Context(), filepath.Join(dir, "nowhere"), 1); err == nil {
		t.Error("a directory that does not exist was written to")
	}
	if kind := Real().DiskKind("/dev/shm"); kind != "memory" && kind != "" {
		t.Errorf("/dev/shm is %q", kind)
	}
}
