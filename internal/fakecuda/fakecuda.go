// Package fakecuda compiles a CUDA driver and an NVML of our own for tests: devices are memory of the process, the kernels of GPOW1
// plain C, and any call can be told to fail. It shows that calls, arguments, threads and errors are right; of a real card it shows
// nothing. Only test files may import it.
package fakecuda

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

//go:embed testdata/fakecuda.c
var source []byte

// Env sets up the library in a process that loads it; testdata/fakecuda.c names the words.
const Env = "FAKECUDA"

var errNoCompiler = errors.New("the fake CUDA driver is C and there is no gcc: scripts/setup.sh test installs it")

// compiled is the library, compiled once a process.
var compiled = sync.OnceValues(func() ([]byte, error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return nil, errNoCompiler
	}
	dir, err := os.MkdirTemp("", "fakecuda-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	from, to := filepath.Join(dir, "fakecuda.c"), filepath.Join(dir, "libcuda.so.1")
	if err := os.WriteFile(from, source, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.Background(), "gcc", "-std=gnu11", "-O2", "-ftree-vectorize", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", to, from)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return os.ReadFile(to)
})

// Build writes the library into a new directory as libcuda.so.1 and libnvidia-ml.so.1, without the functions that are named, and returns
// the directory. Every one has memory and faults of its own. Without a compiler the test is skipped, but not under CI, where
// scripts/setup.sh test installs one.
func Build(t testing.TB, without ...string) string {
	t.Helper()
	library, err := compiled()
	switch {
	case errors.Is(err, errNoCompiler) && os.Getenv("CI") == "":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	for _, name := range without { // the loader finds a symbol by its whole name
		if library = bytes.Clone(library); !bytes.Contains(library, []byte("\x00"+name+"\x00")) {
			t.Fatalf("the fake driver has no %s", name)
		}
		library = bytes.ReplaceAll(library, []byte("\x00"+name+"\x00"), []byte("\x00"+name[:len(name)-1]+"?\x00"))
	}
	dir := t.TempDir()
	for _, name := range []string{"libcuda.so.1", "libnvidia-ml.so.1"} {
		if err := os.WriteFile(filepath.Join(dir, name), library, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
