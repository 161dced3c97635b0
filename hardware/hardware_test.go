package hardware

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files below a directory.
func tree(t *testing.T, files map[string]string) Root {
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
	return At(dir)
}

func TestThisMachine(t *testing.T) {
	f, err := Real().Facts(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.CPUs < 1 || f.MemoryBytes < 1<<26 || f.DiskBytes < f.DiskFreeBytes || f.DiskBytes == 0 || len(f.BootID) != 36 || f.Kernel == "" {
		t.Errorf("facts %+v", f)
	}
}

func TestOSName(t *testing.T) {
	for text, want := range map[string]string{
		"NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n": "Debian GNU/Linux 12 (bookworm)",
		"NAME=Alpine\n": "Alpine", "": "",
	} {
		if got := tree(t, map[string]string{"etc/os-release": text}).osName(); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}

// TestPathsStayBelowTheRoot: links of a machine in a directory lead into that machine, and circles end.
func TestPathsStayBelowTheRoot(t *testing.T) {
	r := tree(t, map[string]string{"etc/os-release": "NAME=inside\n", "a/b/c": "deep\n"})
	for name, target := range map[string]string{
		"up": "../../../../etc/os-release", "abs": "/etc/os-release", "round": "round", "dir": "a/b", "a/out": "../a/./b/c",
	} {
		if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/up": "NAME=inside", "/abs": "NAME=inside", "/round": "", "/dir/c": "deep", "/a/out": "deep", "/../../a/b/c": "deep", "/a/b": ""} {
		if got := r.line(path); got != want {
			t.Errorf("%s reads %q, want %q", path, got, want)
		}
	}
	if real, links, err := r.resolve("/a/out"); err != nil || real != "/a/b/c" || strings.Join(links, " ") != "/a/out" {
		t.Errorf("%s %v %v", real, links, err)
	}
}
