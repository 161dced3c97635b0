package hardware

import (
	"slices"
	"strings"
	"testing"

	"basilica"
)

func FuzzMounts(f *testing.F) {
	f.Add(strings.Join(honestMounts, "\n"), "/proc/driver/nvidia")
	f.Add("1 1 0:1 / / rw - proc proc rw\n1 1 0:1 / / rw - proc proc rw", "/")
	f.Add(`36 35 98:0 /a\040b /mnt\134 rw master:1 - ext3 /dev/root rw`, "/mnt")
	f.Add("2 3 0:1 / / rw - a b c\n3 2 0:1 / / rw - a b c", "/x")
	f.Fuzz(func(t *testing.T, text, path string) {
		table, err := parseMounts(text)
		if err != nil {
			return
		}
		if m, ok := table.covering(path); ok && !slices.Contains(table, m) {
			t.Errorf("%+v is none of the table", m)
		}
	})
}

func FuzzMaps(f *testing.F) {
	f.Add("7f10-7f20 r-xp 00001000 fe:00 12 /usr/lib/libcuda.so.580.95.05\n7f20-7f21 rw-p 0 fe:00 12 /srv/libnvidia-ml.so.1 (deleted)\n")
	f.Add("/\n / \n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, path := range parseMaps(text) {
			if !strings.HasPrefix(path, "/") || strings.Contains(path, "\n") {
				t.Errorf("%q", path)
			}
		}
	})
}

func FuzzProcFiles(f *testing.F) {
	f.Add("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17\nModel: \t\t X\nGPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 300\n")
	f.Add("Bus Location: \t 0000:0b:00.0\nDevice Minor: 7\n")
	f.Add("[ 912.100] NVRM: Xid (PCI:0000:a1:00): 79, pid='<unknown>'\nNVRM: GPU at PCI:0000:a1:00.0 has fallen off the bus")
	f.Fuzz(func(t *testing.T, text string) {
		if v := parseVersion(text); strings.ContainsAny(v, " \n\t") {
			t.Errorf("version %q", v)
		}
		if x := parseInformation(text); x.minor < -1 || x.minor > 255 || strings.Contains(x.UUID, "?") {
			t.Errorf("%+v", x)
		}
		if len(parseRing(text)) > maxCards {
			t.Error("too many lost cards")
		}
	})
}

func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"0-3,8,10-11", "9223372036854771712", "GPU-aaaa0000-0000-4000-8000-000000000000", "MIG-GPU-x/9/0", "max 100000", "Cpus_allowed_list:\t0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := cpuList(s); err == nil && (n < 1 || n > maxCPUs) {
			t.Errorf("%q is %d processors", s, n)
		}
		if u, _, ok := canonicalUUID(s); ok && (len(u) != 36 || u != strings.ToLower(u)) {
			t.Errorf("%q is the UUID %q", s, u)
		}
		integer(field(s, s))
		if c := clean(s); len(c) > 1024 || c != basilica.OneLine(c) {
			t.Errorf("%q", c)
		}
		fits("10de:2330", s)
	})
}

// FuzzTestimony: whatever the libraries say, nothing is ready that is not on the bus, and every sentence can be shown.
func FuzzTestimony(f *testing.F) {
	f.Add("00000000:1B:00.0", uuid(0), h100.name, uint64(1)<<36, true, true, 3)
	f.Add("", "", "", uint64(0), false, true, -1)
	f.Add("x", "MIG-GPU-x/9/0", "\x1b[2J", uint64(1)<<63, false, false, 1<<30)
	f.Fuzz(func(t *testing.T, pci, id, name string, memory uint64, unified, lost bool, count int) {
		b := newBox(t, h100)
		said := Testimony{PCI: pci, UUID: id, Name: name, MemoryBytes: &memory, Unified: unified, Lost: lost, MIG: &MIG{On: lost, Slices: []Slice{{UUID: id}}}}
		b.nvml.Cards, b.cuda.Cards = append(b.nvml.Cards, said), append(b.cuda.Cards, said)
		b.nvml.Count, b.cuda.Count = count, count
		d := b.detect(Known{UUID: id, PCI: pci, Model: name, Seen: now})
		if d.Ready() > 1 {
			t.Errorf("%d cards are ready and one is on the bus: %+v", d.Ready(), d.Cards)
		}
		for _, x := range d.Findings {
			if x.Sentence != basilica.OneLine(x.Sentence) || x.Fix == "" {
				t.Errorf("%+v", x)
			}
		}
	})
}
