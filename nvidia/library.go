//go:build !nocuda

package nvidia

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"github.com/ebitengine/purego"

	"basilica"
)

// Names of the libraries.
const (
	libcuda = "libcuda.so.1"
	libnvml = "libnvidia-ml.so.1"
)

// Search lists where a library is looked for: by the loader, then in the places below root where containers, Debian and WSL have it
// (gpu-proof.md section 15.1).
func Search(root, name string) []string {
	debian := map[string]string{"amd64": "usr/lib/x86_64-linux-gnu", "arm64": "usr/lib/aarch64-linux-gnu"}[runtime.GOARCH]
	out := []string{name}
	for _, dir := range []string{"usr/local/nvidia/lib64", debian, "usr/lib/wsl/lib"} {
		if dir != "" {
			out = append(out, filepath.Join(root, dir, name))
		}
	}
	return out
}

// SearchDriver is Search for the CUDA driver's library.
func SearchDriver(root string) []string { return Search(root, libcuda) }

// SearchNVML is Search for NVML.
func SearchNVML(root string) []string { return Search(root, libnvml) }

// library is a loaded one, with what could not be found in it.
type library struct {
	handle  uintptr
	missing []string
}

// load opens the first library of the list that the loader takes. It stays loaded until the process ends: drivers do not bear being
// unloaded.
func load(paths []string) (l library, err error) {
	var first error
	for _, path := range paths {
		if l.handle, err = purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL); err == nil {
			return l, nil
		}
		if first == nil {
			first = err
		}
	}
	return l, first
}

// bind makes a Go function of a symbol. purego panics on one that is missing, so it is looked up first.
func (l *library) bind(function any, symbol string) {
	if _, err := purego.Dlsym(l.handle, symbol); err != nil {
		l.missing = append(l.missing, symbol)
		return
	}
	purego.RegisterLibFunc(function, l.handle, symbol)
}

// text is a C string of at most 256 bytes that a library owns.
func text(p *byte) string {
	if p == nil {
		return ""
	}
	b := unsafe.Slice(p, 256)
	if n := slices.Index(b, 0); n >= 0 {
		return string(b[:n])
	}
	return string(b)
}

// cut is the text in a buffer that a library filled.
func cut(b []byte) string {
	if n := slices.Index(b, 0); n >= 0 {
		b = b[:n]
	}
	return string(b)
}

// symbolError says that a library lacks functions.
func symbolError(library string, missing []string) error {
	return basilica.E(basilica.Unavailable, "CUDA_SYMBOL", fmt.Sprintf("%s lacks %d functions that are needed, the first is %s", library, len(missing), missing[0]),
		"install one whole NVIDIA driver of branch 470 or newer: parts of several versions are mixed")
}
