package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
)

// driverFiles show that an NVIDIA driver is loaded on Linux.
var driverFiles = [...]string{"/proc/driver/nvidia/version", "/dev/nvidiactl"}

// machine is what a proof runs on.
type machine struct {
	devices []attestor.Device
	driver  string // version; empty without GPUs
	kernels []byte // digest of the GPU kernels; none without GPUs
	closers []func() error
}

// close gives the GPUs up.
func (m machine) close() error {
	var errs []error
	for _, c := range m.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// The words of --device.
const (
	deviceCUDA     = "cuda"
	deviceSoftware = "software"
)

// checkDevice checks --device; empty stands for all that there are.
func checkDevice(kind string) error {
	if kind != "" && kind != deviceCUDA && kind != deviceSoftware {
		return basilica.E(basilica.Invalid, "USAGE", "--device is neither cuda nor software", "give one of them")
	}
	return nil
}

// machine takes into use what detect names: the GPUs behind the CUDA driver, where there is one, and as many software devices as were
// asked for; kind leaves one of them.
func (o *options) machine(spki []byte, kind string) (m machine, err error) {
	if err := checkDevice(kind); err != nil {
		return m, err
	}
	n, err := o.softwareGPUs()
	if err != nil {
		return m, err
	}
	if kind != deviceSoftware {
		m, err = cudaDevices()
		switch code := basilica.CodeOf(err); {
		case err == nil:
		case kind == "" && (code == "CUDA_ABSENT" || code == "CUDA_NO_DEVICE" || code == "CUDA_UNBUILT"):
		default:
			return machine{}, err
		}
	}
	if kind != deviceCUDA {
		soft, err := softwareDevices(spki, n, attestor.Workers(o.parallel))
		if err != nil {
			return machine{}, errors.Join(err, m.close())
		}
		m.devices = append(m.devices, soft...)
	}
	return m, nil
}

// buildDigest is the SHA-256 of the running binary.
func buildDigest() (d attest.Digest, err error) {
	path, err := os.Executable()
	if err != nil {
		return d, fmt.Errorf("find own binary: %w", err)
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return d, fmt.Errorf("hash own binary: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, fmt.Errorf("hash own binary: %w", err)
	}
	return attest.Digest(h.Sum(nil)), nil
}

func detectCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "detect", Short: "Name the devices of this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := o.detect()
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			w := cmd.OutOrStdout()
			for _, g := range d.GPUs {
				fmt.Fprintf(w, "%d  %s  %s  %s  %d MiB\n", g.Index, g.Kind, g.UUID, g.Model, *g.MemoryBytes>>20)
			}
			fmt.Fprintf(w, "memory %d MiB, %d MiB unused\n", d.MemoryBytes>>20, d.MemoryFreeBytes>>20)
			for _, n := range d.Notes {
				fmt.Fprintln(w, n)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (o *options) detect() (attestor.Detection, error) {
	key, err := o.loadKey()
	if err != nil {
		return attestor.Detection{}, err
	}
	n, err := o.softwareGPUs()
	if err != nil {
		return attestor.Detection{}, err
	}
	ds, err := softwareDevices(key.SPKI(), n, attestor.Workers(o.parallel))
	if err != nil {
		return attestor.Detection{}, err
	}
	d := attestor.Detection{SPKI: key.SPKI(), KeyKind: kindOf(key), GPUs: []basilica.GPU{}}
	var mem syscall.Sysinfo_t
	if err := syscall.Sysinfo(&mem); err != nil {
		return attestor.Detection{}, fmt.Errorf("read memory size: %w", err)
	}
	d.MemoryBytes, d.MemoryFreeBytes = mem.Totalram*uint64(mem.Unit), mem.Freeram*uint64(mem.Unit)
	driver := false
	for _, path := range driverFiles {
		if _, err := os.Stat(path); err == nil {
			driver = true
		}
	}
	if driver {
		d.Notes = append(d.Notes, "an NVIDIA driver is loaded, but this version proves software devices only: its GPUs are not listed")
	} else {
		d.Notes = append(d.Notes, "no GPU driver found ("+strings.Join(driverFiles[:], " and ")+" are absent): this machine has no GPU that can be proven")
	}
	for i, dev := range ds {
		info := dev.Info()
		d.GPUs = append(d.GPUs, basilica.GPU{Index: i, Kind: basilica.GPUSoftware, UUID: info.UUID.String(), Model: info.Name, MemoryBytes: &info.VRAMBytes})
	}
	if len(ds) > 0 {
		d.Notes = append(d.Notes, fmt.Sprintf("%d software devices: CPU provers for tests, labelled software in all evidence", len(ds)))
	}
	return d, nil
}
