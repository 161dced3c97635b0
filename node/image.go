package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"basilica"
)

// applets are the commands of the demo's image; each is a link to busybox.
var applets = [...]string{"sh", "cat", "cut", "echo", "env", "false", "head", "id", "ls", "mkdir", "printf", "sha256sum", "sleep", "tee", "test", "true", "wc"}

const maxBusyboxBytes = 16 << 20

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

// writeBusyboxImage writes an image of one layer as `docker save` would, under the name repository:DIGEST12, and returns
// that name. The same busybox gives the same bytes.
func writeBusyboxImage(w io.Writer, busybox, repository string) (string, error) {
	f, err := os.Open(busybox)
	if err != nil {
		return "", fmt.Errorf("read busybox: %w", err)
	}
	defer f.Close()
	program, err := io.ReadAll(io.LimitReader(f, maxBusyboxBytes+1))
	if err != nil {
		return "", fmt.Errorf("read busybox: %w", err)
	}
	if len(program) > maxBusyboxBytes {
		return "", errors.New("read busybox: larger than expected")
	}
	layer, err := busyboxLayer(program)
	if err != nil {
		return "", err
	}
	layerSum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      time.Unix(0, 0).UTC(),
		"config":       map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"/bin/sh"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(layerSum[:])}},
	})
	if err != nil {
		return "", fmt.Errorf("encode image: %w", err)
	}
	configSum := sha256.Sum256(config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	name := repository + ":" + hex.EncodeToString(configSum[:6])
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return "", fmt.Errorf("encode image: %w", err)
	}
	archive := tar.NewWriter(w)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := addFile(archive, file.name, 0o644, file.content); err != nil {
			return "", err
		}
	}
	return name, archive.Close()
}

func busyboxLayer(program []byte) ([]byte, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	for _, dir := range []string{"bin/", "in/", "out/", "tmp/"} {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, fmt.Errorf("write image: %w", err)
		}
	}
	if err := addFile(archive, "bin/busybox", 0o755, program); err != nil {
		return nil, err
	}
	for _, a := range applets {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, fmt.Errorf("write image: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("write image: %w", err)
	}
	return layer.Bytes(), nil
}

func addFile(archive *tar.Writer, name string, mode int64, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if _, err := archive.Write(content); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
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
