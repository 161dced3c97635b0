//go:build !nocuda

package nvidia_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebitengine/purego"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/internal/fakecuda"
	"basilica/internal/provoke"
	"basilica/nvidia"
	"basilica/nvidia/kernels"
)

// fake is a driver's library of a test's own: every file is loaded on its own, with memory and faults of its own.
type fake struct {
	dir      string
	set      func(words string) // of the driver's library; NVML's is another file
	nvmlSet  func(words string)
	retained func(device int32) int32
	used     func(device int32) uint64
}

func newFake(t *testing.T, words string, without ...string) fake {
	t.Helper()
	f := fake{dir: fakecuda.Build(t, without...)}
	open := func(name string) uintptr {
		h, err := purego.Dlopen(filepath.Join(f.dir, name), purego.RTLD_NOW|purego.RTLD_LOCAL)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := open("libcuda.so.1")
	purego.RegisterLibFunc(&f.set, h, "fake_set")
	purego.RegisterLibFunc(&f.retained, h, "fake_retained")
	purego.RegisterLibFunc(&f.used, h, "fake_used")
	purego.RegisterLibFunc(&f.nvmlSet, open("libnvidia-ml.so.1"), "fake_set")
	f.set(words)
	f.nvmlSet(words)
	return f
}

func (f fake) driver() (*nvidia.Driver, error) {
	return nvidia.OpenDriver([]string{filepath.Join(f.dir, "libcuda.so.1")})
}

func (f fake) nvml() (nvidia.Report, error) {
	return nvidia.ReadNVML([]string{filepath.Join(f.dir, "libnvidia-ml.so.1")})
}

// worker opens card i and starts its thread.
func (f fake) worker(i int) (*nvidia.Worker, error) {
	d, err := f.driver()
	if err != nil {
		return nil, err
	}
	return nvidia.NewWorker(func() (nvidia.Session, error) { return d.Session(i) }, time.Now)
}

// TestDriverProves: two cards behind a driver's library pass a whole challenge, and give back all that they took.
func TestDriverProves(t *testing.T) {
	f := newFake(t, "devices=2,memory=4194304")
	d, err := f.driver()
	if err != nil {
		t.Fatal(err)
	}
	cards, _, err := d.Cards()
	if err != nil || len(cards) != 2 || cards[0].UUID == cards[1].UUID || cards[1].PCI != "0000:3C:00.0" || cards[0].CC() != "9.0" || d.Version != 12080 {
		t.Fatal(cards, err)
	}
	p := attest.Params{N: 128, Layers: 16, Lanes: 1024, Steps: 8, Batches: 8, WinLayers: 5, Cells: 512, Rounds: 16}
	var devices []attestor.Device
	var workers []*nvidia.Worker
	for _, c := range cards {
		w, err := f.worker(c.Index)
		if err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
		devices = append(devices, gpu{w, attest.DeviceInfo{UUID: attest.UUID(c.UUID), Name: c.Name, VRAMBytes: c.MemoryBytes, FreeBytes: c.MemoryBytes}})
	}
	j := session(t, profileOf(cards[0].Name, p), devices...)
	if v := j.Verdict(); v != basilica.Pass && v != basilica.Unsure || len(j.GPUs) != 2 {
		t.Fatalf("%+v", j)
	}
	want := prove(t, attest.NewCPU(attest.Serial), p, sha256.Sum256(nil))
	if err := same(prove(t, workers[1], p, sha256.Sum256(nil)), want); err != nil {
		t.Error(err)
	}
	err = workers[1].Do(func(_ nvidia.Device, g *nvidia.Prover) error {
		if rate, err := g.CopyRate(); err != nil || rate <= 0 {
			return fmt.Errorf("copy rate %v: %w", rate, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for i, w := range workers {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if f.used(int32(i)) != 0 || f.retained(int32(i)) != 0 {
			t.Errorf("card %d: %d bytes and %d contexts are left", i, f.used(int32(i)), f.retained(int32(i)))
		}
	}
}

// everyCall are the driver's calls on the way from opening to the end of a challenge, with the code that a failure there has.
var everyCall = map[string]string{
	"cuDriverGetVersion": "CUDA_NOT_READY", "cuInit": "CUDA_NOT_READY", "cuDeviceGetCount": "CUDA_NOT_READY", "cuDeviceGet": "CUDA_NOT_READY",
	"cuDeviceGetName": "CUDA_NOT_READY", "cuDeviceGetUuid_v2": "CUDA_NOT_READY", "cuDeviceTotalMem_v2": "CUDA_NOT_READY",
	"cuDeviceGetPCIBusId": "CUDA_NOT_READY", "cuDeviceGetAttribute": "CUDA_NOT_READY", "cuDevicePrimaryCtxRetain": "CUDA_NOT_READY",
	"cuCtxSetCurrent": "CUDA_NOT_READY", "cuModuleLoadDataEx": "CUDA_MODULE", "cuModuleGetFunction": "CUDA_MODULE", "cuFuncSetAttribute": "CUDA_MODULE",
	"cuMemGetInfo_v2": "CUDA_LOST", "cuMemAlloc_v2": "CUDA_LOST", "cuMemcpyHtoD_v2": "CUDA_LOST", "cuMemcpyDtoH_v2": "CUDA_LOST",
	"cuMemcpyDtoDAsync_v2": "CUDA_LOST", "cuLaunchKernel": "CUDA_LOST", "cuCtxSynchronize": "CUDA_LOST", "cuModuleUnload": "CUDA_LOST",
	"cuDevicePrimaryCtxRelease_v2": "CUDA_LOST",
}

// challenge does everything once and gives the first failure.
func (f fake) challenge(t *testing.T) (err error) {
	d, err := f.driver()
	if err != nil {
		return err
	}
	if _, _, err := d.Cards(); err != nil {
		return err
	}
	w, err := f.worker(0)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed { // on a lost card this fails too
			_ = w.Close()
		}
	}()
	ctx, p := t.Context(), small(64)
	err = w.Do(func(dev nvidia.Device, _ *nvidia.Prover) error {
		_, err := dev.(*nvidia.Context).FreeMemory()
		return err
	})
	if err != nil {
		return err
	}
	if _, err := w.Fill(ctx, p, attest.Digest{1}); err != nil {
		return err
	}
	if _, err := w.Walk(ctx, attest.Digest{2}); err != nil {
		return err
	}
	if _, err := w.Mix(ctx, attest.Digest{3}); err != nil {
		return err
	}
	if _, err := w.Trace(ctx); err != nil {
		return err
	}
	if _, err := w.Open(ctx, attest.OpenRequest{Walk: []attest.WalkIndex{{Batch: 2}}, Mix: []attest.MixIndex{{Round: 4}}}); err != nil {
		return err
	}
	err = w.Do(func(_ nvidia.Device, g *nvidia.Prover) error {
		_, err := g.CopyRate()
		return err
	})
	if err != nil {
		return err
	}
	closed = true
	return w.Close()
}

// TestPrepared: memory that was prepared serves every fill that it suffices for, and none is taken while that works.
func TestPrepared(t *testing.T) {
	f := newFake(t, "")
	w, err := f.worker(0)
	if err != nil {
		t.Fatal(err)
	}
	p, less, more := small(64), small(64), small(64)
	less.Layers, more.Layers = 3, 5
	if err := w.Prepare(p); err != nil || f.used(0) != p.DeviceBytes() {
		t.Fatal(f.used(0), err)
	}
	f.set("fail=cuMemAlloc_v2:1:2")
	for _, q := range []attest.Params{p, less, p} {
		roots, err := w.Fill(t.Context(), q, attest.Digest{1})
		if err != nil {
			t.Fatal(err)
		}
		want, err := attest.NewCPU(attestor.Workers(1)).Fill(t.Context(), q, attest.Digest{1})
		if err != nil || !slices.Equal(roots, want) {
			t.Errorf("%d layers: other roots, %v", q.Layers, err)
		}
	}
	if _, err := w.Fill(t.Context(), more, attest.Digest{1}); basilica.CodeOf(err) != "CUDA_MEMORY" {
		t.Errorf("more than was prepared: %v", err)
	}
	if _, err := w.Fill(t.Context(), more, attest.Digest{1}); err != nil || f.used(0) != more.DeviceBytes() {
		t.Errorf("%d bytes, %v", f.used(0), err)
	}
	if err := w.Close(); err != nil || f.used(0) != 0 {
		t.Errorf("%d bytes are left, %v", f.used(0), err)
	}
}

// TestEveryCallMayFail: whichever call fails, with whichever error, what a person meets names call and error and says what to do.
func TestEveryCallMayFail(t *testing.T) {
	f := newFake(t, "")
	if err := f.challenge(t); err != nil {
		t.Fatal(err)
	}
	names := map[int]string{
		2: "CUDA_ERROR_OUT_OF_MEMORY", 46: "CUDA_ERROR_DEVICE_UNAVAILABLE", 100: "CUDA_ERROR_NO_DEVICE", 214: "CUDA_ERROR_ECC_UNCORRECTABLE",
		218: "CUDA_ERROR_INVALID_PTX", 700: "CUDA_ERROR_ILLEGAL_ADDRESS", 719: "CUDA_ERROR_LAUNCH_FAILED", 803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
		999: "CUDA_ERROR_UNKNOWN", 4711: "CUDA_ERROR_4711",
	}
	for call, code := range everyCall {
		for result, name := range names {
			want := code
			switch {
			case result == 100 && code == "CUDA_NOT_READY":
				want = "CUDA_NO_DEVICE"
			case result == 2 && (code == "CUDA_LOST" || call == "cuDevicePrimaryCtxRetain" || call == "cuCtxSetCurrent" || call == "cuModuleLoadDataEx"):
				want = "CUDA_MEMORY"
			case result == 46 && (call == "cuDevicePrimaryCtxRetain" || call == "cuCtxSetCurrent"):
				want = "CUDA_BUSY"
			}
			f.set(fmt.Sprintf("fail=%s:1:%d", call, result))
			err := f.challenge(t)
			if basilica.CodeOf(err) != want || basilica.FixOf(err) == "" || !strings.Contains(err.Error(), call) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s gives %s: %v, want %s", call, name, err, want)
			}
		}
	}
	f.set("fail=none:0:0")
	if f.challenge(t) != nil || f.used(0) != 0 {
		t.Errorf("afterwards nothing works any more, or %d bytes are left", f.used(0))
	}
}

// TestLostLater: a kernel's failure may first be seen many calls later, in whichever phase.
func TestLostLater(t *testing.T) {
	f := newFake(t, "")
	for _, call := range []string{"cuLaunchKernel", "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2"} {
		for _, nth := range []int{2, 3} {
			f.set(fmt.Sprintf("fail=%s:%d:719", call, nth))
			provoke.Refused(t, f.challenge(t), "CUDA_LOST")
		}
	}
	f.set("fail=none:0:0")
}

// TestDriverRefusals provokes what stands before the first call.
func TestDriverRefusals(t *testing.T) {
	f := newFake(t, "")
	provoke.Each(t, map[string]func(*testing.T) error{
		"CUDA_ABSENT": func(t *testing.T) error {
			_, err := nvidia.OpenDriver([]string{filepath.Join(t.TempDir(), "libcuda.so.1")})
			return err
		},
		"CUDA_OLD": func(*testing.T) error {
			f.set("driver=11030")
			defer f.set("driver=12080")
			_, err := f.driver()
			return err
		},
		"CUDA_SYMBOL": func(t *testing.T) error {
			_, err := newFake(t, "", "cuMemGetInfo_v2").driver()
			return err
		},
		"CUDA_NO_DEVICE": func(*testing.T) error {
			f.set("devices=0")
			defer f.set("devices=1")
			_, err := f.driver()
			return err
		},
		"CUDA_NOT_READY": func(*testing.T) error {
			f.set("fail=cuInit:1:802")
			_, err := f.driver()
			return err
		},
		"CUDA_BUSY": func(*testing.T) error {
			f.set("fail=cuDevicePrimaryCtxRetain:1:46")
			_, err := f.worker(0)
			return err
		},
		"CUDA_MODULE": func(*testing.T) error {
			f.set("cc=61")
			defer f.set("cc=90")
			_, err := f.worker(0)
			return err
		},
		"CUDA_MEMORY": func(t *testing.T) error { // another process holds the card's memory
			f.set("memory=4194304,held=4190000")
			defer f.set("memory=1073741824,held=0")
			return f.challenge(t)
		},
		"CUDA_LOST": func(t *testing.T) error {
			f.set("fail=cuLaunchKernel:20:700")
			defer f.set("fail=none:0:0")
			return f.challenge(t)
		},
		"NVML_ABSENT": func(t *testing.T) error {
			_, err := nvidia.OpenNVML([]string{filepath.Join(t.TempDir(), "libnvidia-ml.so.1")})
			return err
		},
		"NVML_FAILED": func(*testing.T) error {
			f.nvmlSet("fail=nvmlInit_v2:1:18")
			_, err := f.nvml()
			return err
		},
	})
}

func TestNVML(t *testing.T) {
	f := newFake(t, "devices=2,held=1048576")
	r, err := f.nvml()
	if err != nil || r.Driver != "575.57.08" || r.Count != 2 || len(r.Readings) != 2 {
		t.Fatal(r, err)
	}
	d, err := f.driver()
	if err != nil {
		t.Fatal(err)
	}
	cards, _, err := d.Cards()
	if err != nil {
		t.Fatal(err)
	}
	x := r.Readings[1]
	if x.UUID != cards[1].UUIDText() || x.PCI != "00000000:3C:00.0" || x.Serial != "1320223000001" || *x.MemoryBytes != 1<<30 || *x.MemoryUsedBytes != 1<<20 ||
		*x.ClockMHz != 1980 || *x.MemoryClockMHz != 3201 || *x.PowerLimitMilliW != 700000 || x.MIG.On || *x.ECCErrors != 0 || *x.BAR1Bytes != 1<<28 || x.Lost ||
		!slices.Equal(x.Processes, []nvidia.Process{{PID: 4242, MemoryBytes: 1 << 20}}) || len(x.Withheld) != 0 {
		t.Errorf("%+v", x)
	}
	f.nvmlSet("mig=1")
	if r, err = f.nvml(); err != nil || !r.Readings[0].MIG.On || len(r.Readings[0].MIG.Slices) != 2 {
		t.Errorf("%+v %v", r, err)
	}
	f.nvmlSet("mig=0,cc=70,fail=nvmlDeviceGetSerial:1:3")
	if r, err = f.nvml(); err != nil || r.Readings[0].MIG != nil || r.Readings[0].Serial != "" || r.Readings[0].Withheld["serial"] != "NOT_SUPPORTED" || r.Readings[1].Serial == "" {
		t.Errorf("%+v %v", r, err)
	}
	f.nvmlSet("fail=nvmlDeviceGetHandleByIndex_v2:2:15")
	if r, err = f.nvml(); err != nil || r.Count != 2 || r.Readings[0].Lost || !r.Readings[1].Lost {
		t.Errorf("%+v %v", r, err)
	}
}

// TestSearch: the loader is asked first, then places below the root.
func TestSearch(t *testing.T) {
	root := t.TempDir()
	paths := nvidia.SearchDriver(root)
	if paths[0] != "libcuda.so.1" || !slices.Contains(paths, filepath.Join(root, "usr/local/nvidia/lib64/libcuda.so.1")) || !slices.Contains(paths, filepath.Join(root, "usr/lib/wsl/lib/libcuda.so.1")) {
		t.Fatal(paths)
	}
	dir := fakecuda.Build(t)
	if err := os.MkdirAll(filepath.Join(root, "usr/local/nvidia"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, filepath.Join(root, "usr/local/nvidia/lib64")); err != nil {
		t.Fatal(err)
	}
	if _, err := nvidia.OpenDriver(paths[1:]); err != nil {
		t.Fatal(err)
	}
}

// TestProverOnDP4A: a card without the tensor cores of the newer module gets the older one.
func TestProverOnDP4A(t *testing.T) {
	f := newFake(t, "cc=75")
	w, err := f.worker(0)
	if err != nil {
		t.Fatal(err)
	}
	p := small(128)
	if err := same(prove(t, w, p, attest.Digest{}), prove(t, attest.NewCPU(attest.Serial), p, attest.Digest{})); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if m, _ := kernels.For(7, 5, 12080); m.MMA {
		t.Error("compute capability 7.5 has no such tensor cores")
	}
}
