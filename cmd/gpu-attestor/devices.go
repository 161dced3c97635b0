package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/hardware"
)

// machine is what a proof runs on.
type machine struct {
	devices []attestor.Device
	driver  string // version; empty without GPUs
	kernels []byte // digest of the GPU kernels; none without GPUs
	closers []func() error
}

// sizer gives the sizes of a challenge for a card of that model and memory in bytes.
type sizer func(model string, vramBytes uint64) (attest.Params, error)

// fullSize is what a validator with the list of models of this build asks for.
func fullSize(model string, vramBytes uint64) (attest.Params, error) {
	known, err := attest.DefaultProfiles()
	if err != nil {
		return attest.Params{}, err
	}
	return known.Sizes(model, vramBytes)
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

// machine takes into use every GPU that detect calls ready, and as many software devices as were asked for; kind leaves one of them.
// A card that detect refuses, or that cannot be opened, is left out and the log says why; where that leaves no device at all, it is
// the error.
func (o *options) machine(spki []byte, kind string) (m machine, err error) {
	if err := checkDevice(kind); err != nil {
		return m, err
	}
	n, err := o.softwareGPUs()
	if err != nil {
		return m, err
	}
	var refused error
	if kind != deviceSoftware {
		cuda, nvml := witnesses()
		seen := hardware.At(system).Detect(cuda, nvml, nil, time.Now())
		leave := func(pci, uuid string, why error) {
			o.log().Warn("a GPU is left out", "pci", pci, "uuid", uuid, "code", basilica.CodeOf(why), "sentence", why.Error(), "fix", basilica.FixOf(why))
			refused = cmp.Or(refused, why)
		}
		m, err = cudaDevices(seen.Usable, leave, fullSize)
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
	if len(m.devices) == 0 && refused != nil {
		return machine{}, refused
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
