package node

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"basilica"
)

// findBusybox looks for a static busybox, which needs no library in its image.
func findBusybox() (string, error) {
	missing := basilica.E(basilica.NotFound, "BUSYBOX_MISSING", "no static busybox is installed, of which the demo makes its image", "install it: apt-get install busybox-static")
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", missing.With(err)
	}
	bin, err := elf.Open(path)
	if err != nil {
		return "", missing.With(err)
	}
	defer bin.Close()
	for _, p := range bin.Progs {
		if p.Type == elf.PT_INTERP {
			return "", missing.With(fmt.Errorf("%s is dynamic", path))
		}
	}
	return path, nil
}

// unmountBeneath detaches what is still mounted beneath dir, deepest first: mounts of executors that were killed.
func unmountBeneath(dir string, unmount func(string) error) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 4 && strings.HasPrefix(unescapeMount(fields[4]), dir+"/") {
			errs = append(errs, unmount(unescapeMount(fields[4])))
		}
	}
	return errors.Join(errs...)
}

// unescapeMount reads a path of mountinfo, where blanks and backslashes are octal.
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
