package hardware

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
)

// now is when the tests' detections take place.
var now = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

const driver = "580.95.05"

// model is a kind of card: its name, its device id on the bus and its memory.
type model struct {
	name, device string
	memory       uint64
}

var (
	h100    = model{"NVIDIA H100 80GB HBM3", "2330", 81559 << 20}
	rtx4090 = model{"NVIDIA GeForce RTX 4090", "2684", 24564 << 20}
	a100    = model{"NVIDIA A100-SXM4-40GB", "20b0", 40960 << 20}
)

// box is a machine that is written into a directory, with what its libraries say.
type box struct {
	t          *testing.T
	dir        string
	files      map[string]string
	links      map[string]string
	mounts     []string
	cuda, nvml Witness
	kernel     func(path string, honest identity) identity // what the kernel says of a file; nil: the truth
}

// honestMounts are the first lines of the table of mounts of any machine.
var honestMounts = []string{
	"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
	"22 21 0:21 / /proc rw,nosuid - proc proc rw",
	"23 21 0:22 / /sys rw,nosuid - sysfs sysfs rw",
	"24 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw",
	"25 21 0:30 / /tmp rw - tmpfs tmpfs rw",
}

// newBox makes an honest machine with these cards: all four witnesses agree.
func newBox(t *testing.T, cards ...model) *box {
	b := &box{
		t: t, dir: t.TempDir(), mounts: slices.Clone(honestMounts), links: map[string]string{},
		cuda: Witness{Answers: true, Count: len(cards)}, nvml: Witness{Answers: true, Version: driver, Count: len(cards)},
		files: map[string]string{
			"proc/meminfo":               "MemTotal:       527878400 kB\nMemFree:        400000000 kB\n",
			"proc/cpuinfo":               "",
			"proc/self/status":           "Name:\tgpu-attestor\nCpus_allowed_list:\t0-31\n",
			"proc/self/cgroup":           "0::/\n",
			"proc/self/environ":          "PATH=/usr/bin\x00HOME=/root\x00",
			"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  " + driver + "  Release Build  (dvs-builder@x)  Tue Sep 23 10:11:16 UTC 2025\nGCC version:  gcc version 12.2.0\n",
			"sys/module/nvidia/version":  driver + "\n",
		},
	}
	maps := "00400000-00500000 r-xp 00000000 fe:00 11 /usr/bin/gpu-attestor\n7f00-7f01 rw-p 00000000 00:00 0 \n"
	for _, lib := range []string{"libcuda.so.", "libnvidia-ml.so."} {
		path := "/usr/lib/x86_64-linux-gnu/" + lib + driver
		b.files[path] = lib
		maps += "7f10-7f20 r-xp 00001000 fe:00 12 " + path + "\n7f20-7f21 rw-p 00002000 fe:00 12 " + path + "\n"
	}
	b.files["proc/self/maps"] = maps
	for i, m := range cards {
		b.card(i, m)
	}
	return b
}

func address(i int) string { return fmt.Sprintf("0000:%02x:00.0", 0x1b+0x10*i) }

func uuid(i int) string { return fmt.Sprintf("GPU-aaaa%04x-0000-4000-8000-%012x", i, i) }

// card adds card i to all witnesses.
func (b *box) card(i int, m model) {
	at := address(i)
	b.onBus(at, "0x10de", "0x"+m.device, "nvidia")
	b.files["proc/driver/nvidia/gpus/"+at+"/information"] = fmt.Sprintf("Model: \t\t %s\nIRQ:   \t\t 130\nGPU UUID: \t %s\nVideo BIOS: \t ??.??.??.??.??\nBus Type: \t PCIe\nBus Location: \t %s\nDevice Minor: \t %d\n", m.name, uuid(i), at, i)
	total, usable := m.memory, m.memory-m.memory/100
	b.nvml.Cards = append(b.nvml.Cards, Testimony{Index: i, PCI: "0000" + strings.ToUpper(at), UUID: uuid(i), Name: m.name, MemoryBytes: &total})
	b.cuda.Cards = append(b.cuda.Cards, Testimony{Index: i, PCI: strings.ToUpper(at), UUID: uuid(i), Name: m.name, MemoryBytes: &usable})
}

// onBus adds a display controller to the PCI bus.
func (b *box) onBus(at, vendor, device, driver string) {
	real := "sys/devices/pci0000:00/" + at
	b.files[real+"/class"], b.files[real+"/vendor"], b.files[real+"/device"] = "0x030200\n", vendor+"\n", device+"\n"
	b.files[real+"/config"] = "\xde\x10\x30\x23rest"
	b.links["sys/bus/pci/devices/"+at] = "../../../devices/pci0000:00/" + at
	b.links[real+"/driver"] = "../../../bus/pci/drivers/" + driver
}

// remove takes what lies at and under a path away.
func (b *box) remove(path string) {
	for _, m := range []map[string]string{b.files, b.links} {
		for name := range m {
			if below(name, path) {
				delete(m, name)
			}
		}
	}
}

// root writes the machine down.
func (b *box) root() Root {
	b.t.Helper()
	if b.files["proc/self/mountinfo"] == "" {
		b.files["proc/self/mountinfo"] = strings.Join(b.mounts, "\n") + "\n"
	}
	for name, text := range b.files {
		path := filepath.Join(b.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	for name, target := range b.links {
		path := filepath.Join(b.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			b.t.Fatal(err)
		}
	}
	// The kernel of a machine in a directory is the table of mounts as it truly is.
	table, err := parseMounts(strings.Join(b.mounts, "\n"))
	if err != nil {
		b.t.Fatal(err)
	}
	return Root{dir: b.dir, identify: func(path string) (identity, error) {
		m, _ := table.covering("/" + strings.TrimPrefix(strings.TrimPrefix(path, b.dir), "/"))
		id := identity{device: m.device, magic: map[string]int64{"proc": magicProc, "sysfs": magicSys}[m.kind]}
		if b.kernel != nil {
			id = b.kernel(path, id)
		}
		return id, nil
	}}
}

func (b *box) detect(known ...Known) Detection {
	b.t.Helper()
	return b.root().Detect(b.cuda, b.nvml, known, now)
}

// codes gives the codes of findings, in their order.
func codes(findings []basilica.Reason) []string {
	out := []string{}
	for _, f := range findings {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return out
}

// wants checks the codes of a detection's findings and how many cards are ready.
func wants(t *testing.T, d Detection, ready int, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := codes(d.Findings); !slices.Equal(got, want) || d.Ready() != ready {
		t.Errorf("%d ready, findings %q, want %d and %q:", d.Ready(), got, ready, want)
		for _, f := range d.Findings {
			t.Errorf("  %s: %s", f.Code, f.Sentence)
		}
	}
}
