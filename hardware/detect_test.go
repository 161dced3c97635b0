package hardware

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/internal/provoke"
)

func TestHonestMachine(t *testing.T) {
	t.Parallel()
	d := newBox(t, h100, h100, h100, h100).detect()
	wants(t, d, 4)
	for i, c := range d.Cards {
		if c.UUID != strings.TrimPrefix(uuid(i), "GPU-") || c.PCI != address(i) || *c.MemoryBytes != h100.memory || len(c.Witnesses) != 4 || c.Driver != "nvidia" || c.Reason != nil {
			t.Errorf("card %d: %+v", i, c)
		}
	}
	for _, f := range d.Files {
		if !f.OK || f.Kind == "" || strings.Contains(f.Path, "/lib") && len(f.SHA256) != 64 {
			t.Errorf("%+v", f)
		}
	}
	if len(d.Files) < 4*4+5 || len(d.Known) != 4 || !d.Known[0].Seen.Equal(now) {
		t.Errorf("%d files, known %+v", len(d.Files), d.Known)
	}
	if err := errors.Join(d.Usable("00000000:1B:00.0", ""), d.Usable("", d.Cards[1].UUID)); err != nil || d.Usable("0000:ff:00.0", "") == nil {
		t.Error("what can be proven is not found, or what cannot be is:", err)
	}
}

func TestNoGPU(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.remove("proc/driver")
	b.remove("sys/module")
	b.files["proc/self/maps"] = ""
	b.cuda, b.nvml = Witness{Why: "no library"}, Witness{Why: "no library"}
	b.files["sys/bus/pci/devices/.keep"] = ""
	d := b.detect()
	wants(t, d, 0)
	if text, err := json.Marshal(d); err != nil || !strings.Contains(string(text), `"cards":[]`) || !strings.Contains(string(text), `"findings":[]`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestThisMachinesOwnFiles(t *testing.T) {
	// The kernel's true word on a true /proc and /sys: what stands there is the kernel's, as far as this machine mounts them.
	r := Real()
	o := r.origin()
	table, err := r.mounts()
	if err != nil {
		t.Fatal(err)
	}
	for path, place := range map[string]string{"/proc/version": "/proc", "/sys/kernel": "/sys"} {
		m, ok := table.covering(path)
		if !ok || m.point != place || m.root != "/" {
			t.Skipf("%s is mounted in its own way here: %+v", place, m)
		}
		o.kernel(path, place, "")
	}
	for _, f := range o.files {
		if !f.OK {
			t.Errorf("%+v: %+v", f, o.findings)
		}
	}
}

// TestTricks plays known deceits on honest machines, each named after what it does.
func TestTricks(t *testing.T) {
	t.Parallel()
	const gpus = "/proc/driver/nvidia/gpus"
	two := func(t *testing.T) *box { return newBox(t, h100, h100) }
	for name, c := range map[string]struct {
		box   func(t *testing.T) *box
		trick func(b *box)
		ready int
		codes []string
	}{
		"1 tampered NVML calls a 4090 an H100": {
			func(t *testing.T) *box { return newBox(t, rtx4090) },
			func(b *box) {
				b.nvml.Cards[0].Name, b.nvml.Cards[0].MemoryBytes = h100.name, &h100.memory
			}, 1,
			[]string{"GPU_NAME", "GPU_NAME", "GPU_MEMORY"},
		},
		"1 all software renames the card, the bus does not": {
			func(t *testing.T) *box { return newBox(t, model{h100.name, rtx4090.device, h100.memory}) }, func(*box) {}, 1, []string{"GPU_NAME"},
		},
		"2 a driver version that no kernel module has": {two, func(b *box) { b.nvml.Version = "591.86" }, 2, []string{"GPU_DRIVER"}},
		"2 a library of another version": {two, func(b *box) {
			b.files["/usr/lib/x86_64-linux-gnu/libcuda.so.591.86"] = "x"
			b.files["proc/self/maps"] = strings.ReplaceAll(b.files["proc/self/maps"], "libcuda.so."+driver, "libcuda.so.591.86")
		}, 2, []string{"GPU_DRIVER"}},
		"3 bind mount over the driver's directory": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 22 254:0 /srv/fake "+gpus+" rw - ext4 /dev/vda1 rw")
		}, 2, []string{"GPU_FILES"}},
		"3 tmpfs over the driver's directory": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 22 0:44 / "+gpus+" rw - tmpfs tmpfs rw")
		}, 2, []string{"GPU_FILES"}},
		"3 overlay over the driver's directory": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 22 0:45 / /proc/driver/nvidia rw - overlay overlay rw,lowerdir=/a,upperdir=/b")
		}, 2, []string{"GPU_FILES"}},
		"3 one card's file of the true proc over another's": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 22 0:21 /driver/nvidia/gpus/"+address(0)+" "+gpus+"/"+address(1)+" rw - proc proc rw")
			b.files[gpus+"/"+address(1)+"/information"] = b.files["proc/driver/nvidia/gpus/"+address(0)+"/information"]
			delete(b.files, "proc/driver/nvidia/gpus/"+address(1)+"/information")
		}, 2, []string{"GPU_FILES", "GPU_PCI", "GPU_UUID", "GPU_UUID_TWICE"}},
		"3 symbolic link instead of the directory": {two, func(b *box) {
			for name, text := range maps.Clone(b.files) {
				if rest, ok := strings.CutPrefix(name, "proc/driver/nvidia/gpus/"); ok {
					b.files["srv/fake/"+rest] = text
					delete(b.files, name)
				}
			}
			b.links["proc/driver/nvidia/gpus"] = "/srv/fake"
		}, 2, []string{"GPU_FILES", "GPU_FILES"}},
		"3 another file system is all of /proc": {two, func(b *box) {
			b.mounts[1] = "22 21 0:50 / /proc rw - tmpfs tmpfs rw"
		}, 2, []string{"GPU_FILES"}},
		"3 the table of mounts is false too": {two, func(b *box) {
			b.kernel = func(path string, id identity) identity {
				if strings.Contains(path, "/proc/") {
					id.magic, id.device = 0x01021994, "0:50"
				}
				return id
			}
		}, 2, []string{"GPU_FILES"}},
		"3 bind mount over the bus": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 23 254:0 /srv/bus /sys/bus/pci/devices rw - ext4 /dev/vda1 rw")
		}, 2, []string{"GPU_FILES"}},
		"3 tmpfs over one card of the bus": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 23 0:44 / /sys/devices/pci0000:00/"+address(1)+" rw - tmpfs tmpfs rw")
		}, 2, []string{"GPU_FILES"}},
		"3 symbolic link on the bus leads elsewhere": {two, func(b *box) {
			b.links["sys/bus/pci/devices/"+address(1)] = "/srv/card"
			for _, f := range []string{"class", "vendor", "device"} {
				b.files["srv/card/"+f] = b.files["sys/devices/pci0000:00/"+address(1)+"/"+f]
			}
		}, 2, []string{"GPU_FILES", "GPU_FILES"}},
		"3 a table of mounts that is none": {two, func(b *box) { b.files["proc/self/mountinfo"] = "nonsense\n" }, 2, []string{"GPU_FILES"}},
		"3 a mount that a later one hides does nothing": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 22 0:44 / "+gpus+" rw - tmpfs tmpfs rw", "41 22 0:21 / /proc rw - proc proc rw")
		}, 2, nil},
		"1 bind mount over a library": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 21 254:0 /srv/libnvidia-ml.so /usr/lib/x86_64-linux-gnu/libnvidia-ml.so."+driver+" rw - ext4 /dev/vda1 rw")
		}, 2, []string{"GPU_LIBRARY"}},
		"1 bind mount over the libraries' directory": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 21 254:0 /srv/lib /usr/lib/x86_64-linux-gnu rw - ext4 /dev/vda1 rw")
		}, 2, []string{"GPU_LIBRARY", "GPU_LIBRARY"}},
		"1 library on a tmpfs": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 21 0:44 / /usr/lib/x86_64-linux-gnu rw - tmpfs tmpfs rw")
		}, 2, []string{"GPU_LIBRARY", "GPU_LIBRARY"}},
		"1 library on an overlay": {two, func(b *box) {
			b.mounts = append(b.mounts, "40 21 0:44 / /usr/lib/x86_64-linux-gnu rw - overlay overlay rw")
		}, 2, []string{"GPU_LIBRARY", "GPU_LIBRARY"}},
		"1 library is replaced by a link once it is loaded": {two, func(b *box) {
			path := "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + driver
			b.files["srv/shim.so"] = b.files[path]
			delete(b.files, path)
			b.links[path] = "/srv/shim.so"
		}, 2, []string{"GPU_LIBRARY"}},
		"1 library was removed once it is loaded": {two, func(b *box) {
			path := "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + driver
			b.files["proc/self/maps"] = strings.ReplaceAll(b.files["proc/self/maps"], path, path+" (deleted)")
		}, 2, []string{"GPU_LIBRARY"}},
		"1 library that a user may change": {two, func(b *box) {
			b.kernel = func(path string, id identity) identity {
				if strings.Contains(path, "libnvidia-ml") {
					id.owner = 1000
				}
				return id
			}
		}, 2, []string{"GPU_LIBRARY"}},
		"4 LD_PRELOAD":                     {two, func(b *box) { b.files["proc/self/environ"] += "LD_PRELOAD=/srv/shim.so\x00" }, 2, []string{"GPU_PRELOAD"}},
		"4 LD_AUDIT":                       {two, func(b *box) { b.files["proc/self/environ"] += "LD_AUDIT=/srv/shim.so\x00" }, 2, []string{"GPU_PRELOAD"}},
		"4 ld.so.preload":                  {two, func(b *box) { b.files["etc/ld.so.preload"] = "/srv/shim.so\n" }, 2, []string{"GPU_PRELOAD"}},
		"4 an empty file preloads nothing": {two, func(b *box) { b.files["etc/ld.so.preload"] = "\n" }, 2, nil},
		"6 eight cards are named and one is on the bus": {
			func(t *testing.T) *box { return newBox(t, h100, h100, h100, h100, h100, h100, h100, h100) },
			func(b *box) {
				for i := 1; i < 8; i++ {
					b.remove("sys/bus/pci/devices/" + address(i))
					b.remove("sys/devices/pci0000:00/" + address(i))
				}
			}, 1, append([]string{"GPU_COUNT"}, slices.Repeat([]string{"GPU_NOT_ON_BUS"}, 7)...),
		},
		"6 NVML claims more than it names": {two, func(b *box) { b.nvml.Count = 8 }, 2, []string{"GPU_COUNT"}},
		"8 one UUID twice": {two, func(b *box) {
			b.nvml.Cards[1].UUID, b.cuda.Cards[1].UUID = uuid(0), uuid(0)
			path := "proc/driver/nvidia/gpus/" + address(1) + "/information"
			b.files[path] = strings.ReplaceAll(b.files[path], uuid(1), uuid(0))
		}, 2, []string{"GPU_UUID_TWICE"}},
		"8 the libraries agree on a borrowed UUID": {two, func(b *box) {
			b.nvml.Cards[1].UUID, b.cuda.Cards[1].UUID = uuid(7), uuid(7)
		}, 2, []string{"GPU_UUID"}},
		"two witnesses place a card differently": {two, func(b *box) {
			b.cuda.Cards[1].PCI, b.cuda.Cards[0].PCI = b.cuda.Cards[0].PCI, b.cuda.Cards[1].PCI
		}, 2, []string{"GPU_PCI", "GPU_PCI", "GPU_UUID", "GPU_UUID"}},
		"an address that is none": {two, func(b *box) { b.nvml.Cards[1].PCI = "nowhere" }, 2, []string{"GPU_PCI"}},
		"a UUID that is none":     {two, func(b *box) { b.nvml.Cards[1].UUID = "GPU-1" }, 2, []string{"GPU_UUID"}},
		"two cards at one address": {two, func(b *box) {
			b.nvml.Cards[1].PCI = b.nvml.Cards[0].PCI
		}, 1, []string{"GPU_HIDDEN", "GPU_NOT_ON_BUS", "GPU_PCI", "GPU_PCI"}},
		"CUDA claims twice the memory": {two, func(b *box) {
			double := 2 * h100.memory
			b.cuda.Cards[0].MemoryBytes = &double
		}, 2, []string{"GPU_MEMORY"}},
		"a card is hidden from NVML": {two, func(b *box) {
			b.nvml.Cards, b.nvml.Count = b.nvml.Cards[:1], 1
		}, 1, []string{"GPU_COUNT", "GPU_HIDDEN"}},
		"a card is hidden from CUDA": {two, func(b *box) {
			b.cuda.Cards, b.cuda.Count = b.cuda.Cards[:1], 1
		}, 1, []string{"GPU_COUNT", "GPU_HIDDEN"}},
		"a card is hidden from the kernel driver": {two, func(b *box) {
			b.remove("proc/driver/nvidia/gpus/" + address(1))
		}, 1, []string{"GPU_COUNT", "GPU_HIDDEN"}},
		"a card is given to a virtual machine": {two, func(b *box) {
			b.remove("proc/driver/nvidia/gpus/" + address(1))
			b.links["sys/devices/pci0000:00/"+address(1)+"/driver"] = "../../../bus/pci/drivers/vfio-pci"
			b.nvml.Cards, b.nvml.Count, b.cuda.Cards, b.cuda.Count = b.nvml.Cards[:1], 1, b.cuda.Cards[:1], 1
		}, 1, []string{"GPU_COUNT", "GPU_UNDRIVEN"}},
		"NVML does not fit the driver": {two, func(b *box) {
			b.nvml = Witness{Why: "LIB_RM_VERSION_MISMATCH"}
		}, 2, []string{"GPU_WITNESS"}},
		"CUDA cannot be asked": {two, func(b *box) {
			b.cuda = Witness{Why: "no libcuda"}
		}, 0, []string{"GPU_WITNESS", "GPU_WITNESS", "GPU_WITNESS"}},
		"MIG is on and NVML denies it": {two, func(b *box) {
			b.files["proc/driver/nvidia/capabilities/gpu1/mig/gi9/access"] = "DeviceFileMinor: 1\n"
		}, 1, []string{"GPU_MIG", "GPU_MIG"}},
		"a pipe instead of a file": {two, func(b *box) {
			delete(b.files, "sys/module/nvidia/version")
			path := filepath.Join(b.dir, "sys/module/nvidia/version")
			if err := errorsOf(os.MkdirAll(filepath.Dir(path), 0o755), unix.Mkfifo(path, 0o644)); err != nil {
				b.t.Fatal(err)
			}
		}, 2, nil},
		"a name that talks to the terminal": {two, func(b *box) {
			b.nvml.Cards[0].Name = "\x1b[2J" + strings.Repeat("x", 1<<20)
		}, 2, []string{"GPU_NAME", "GPU_NAME"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.box(t)
			c.trick(b)
			d := b.detect()
			wants(t, d, c.ready, c.codes...)
			for _, f := range d.Findings {
				provoke.Reason(t, f, f.Code)
				if len(f.Sentence) > 1024 || f.Sentence != basilica.OneLine(f.Sentence) {
					t.Errorf("%s: %.80q… of %d bytes", f.Code, f.Sentence, len(f.Sentence))
				}
			}
		})
	}
}

// TestCardThatCUDACannotRead: one card that the driver names and cannot read is not ready, with the driver's word for it; the other is.
func TestCardThatCUDACannotRead(t *testing.T) {
	t.Parallel()
	b := newBox(t, h100, h100)
	b.cuda.Cards, b.cuda.Count, b.cuda.Why = b.cuda.Cards[:1], 1, "GPU 1: cuDeviceTotalMem_v2 gave CUDA_ERROR_UNKNOWN"
	d := b.detect()
	wants(t, d, 1, "GPU_COUNT", "GPU_HIDDEN")
	if r := d.Cards[1].Reason; d.Cards[0].State != CardReady || r == nil || r.Code != "GPU_HIDDEN" || !strings.HasSuffix(r.Sentence, ": "+b.cuda.Why) {
		t.Errorf("%+v", d.Cards)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestOtherVendors(t *testing.T) {
	t.Parallel()
	b := newBox(t, h100)
	b.onBus("0000:03:00.0", "0x1002", "0x74a1", "amdgpu")
	b.onBus("0000:00:02.0", "0x8086", "0x56c0", "i915")
	b.onBus("0000:04:00.0", "0x1a03", "0x2000", "ast") // a server's own console
	d := b.detect()
	wants(t, d, 1)
	var got []string
	for _, c := range d.Cards {
		got = append(got, string(c.State)+" "+c.Vendor+" "+c.PCI)
		if c.State == CardUnsupported {
			provoke.Reason(t, *c.Reason, "GPU_UNSUPPORTED")
		}
	}
	if want := []string{"ready nvidia 0000:1b:00.0", "unsupported intel 0000:00:02.0", "unsupported amd 0000:03:00.0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestVirtualFunctions(t *testing.T) {
	t.Parallel()
	b := newBox(t, h100)
	b.onBus("0000:1b:00.4", "0x10de", "0x2330", "nvidia")
	b.links["sys/devices/pci0000:00/0000:1b:00.4/physfn"] = "../" + address(0)
	wants(t, b.detect(), 1)
}

// TestCardGoneFromTheBus: a card that no witness names any more keeps its name, address and time from the past, each time.
func TestCardGoneFromTheBus(t *testing.T) {
	t.Parallel()
	known := newBox(t, h100, h100).detect().Known
	b := newBox(t, h100)
	later := now.Add(time.Hour)
	d := b.root().Detect(b.cuda, b.nvml, known, later)
	wants(t, d, 1, "GPU_LOST")
	lost := d.Cards[1]
	if lost.State != CardLost || lost.UUID != known[1].UUID || lost.PCI != address(1) || lost.LastSeen == nil || !lost.LastSeen.Equal(now) || lost.Model != h100.name {
		t.Errorf("%+v", lost)
	}
	if !d.Known[0].Seen.Equal(later) || !d.Known[1].Seen.Equal(now) {
		t.Errorf("%+v", d.Known)
	}
	// Put into another slot it is the same card, and nothing is lost.
	moved := newBox(t, h100, h100)
	past := slices.Clone(known)
	past[1].PCI = "0000:ff:00.0"
	wants(t, moved.root().Detect(moved.cuda, moved.nvml, past, later), 2)
}
