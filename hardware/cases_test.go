package hardware

import (
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basilica"
)

func caseFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/cases", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// nvmlAnswer is one figure of a recorded NVML: a value, or the library's return code.
type nvmlAnswer struct {
	Ret  int    `json:"ret"`
	Name string `json:"name"`
}

// nvmlRecord is what a recorded NVML answers, in the words of its functions.
type nvmlRecord struct {
	Count   int `json:"count"`
	Devices []struct {
		GetName    string
		GetUUID    string
		GetPciInfo struct {
			BusID string `json:"busId"`
		}
		GetMemoryInfo, GetBAR1MemoryInfo, GetTotalEccErrors, GetPowerManagementLimit, GetSerial *nvmlAnswer
		GetMigMode                                                                              *migMode
		MIG                                                                                     []migSlice `json:"mig"`
	} `json:"devices"`
	Host struct {
		MemTotalKB uint64 `json:"MemTotal_kB"`
	} `json:"host"`
	CUDA struct {
		Memory     uint64 `json:"cuDeviceTotalMem_bytes"`
		Integrated int    `json:"integrated"`
	} `json:"cuda"`
	Second struct {
		GetMigMode migMode
		MIG        []migSlice `json:"mig"`
	} `json:"second_variant"`
}

type migMode struct {
	Current int `json:"current"`
	Pending int `json:"pending"`
}

type migSlice struct {
	GetUUID     string
	MemoryBytes uint64 `json:"memory_bytes"`
}

func (m migMode) mode(slices []migSlice) *MIG {
	out := &MIG{On: m.Current == 1, Pending: m.Pending == 1}
	for _, s := range slices {
		out.Slices = append(out.Slices, Slice{UUID: s.GetUUID, MemoryBytes: &s.MemoryBytes})
	}
	return out
}

func record(t *testing.T, name string) (r nvmlRecord) {
	t.Helper()
	if err := json.Unmarshal([]byte(caseFile(t, name)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// witness says what the recorded library says; a figure with a return code is withheld.
func (r nvmlRecord) witness() Witness {
	w := Witness{Answers: true, Version: driver, Count: r.Count}
	for i, d := range r.Devices {
		t := Testimony{Index: i, Name: d.GetName, UUID: d.GetUUID, PCI: d.GetPciInfo.BusID, Withheld: map[string]string{}}
		for name, a := range map[string]*nvmlAnswer{
			"memory": d.GetMemoryInfo, "bar1": d.GetBAR1MemoryInfo, "ecc_errors": d.GetTotalEccErrors, "power_limit": d.GetPowerManagementLimit, "serial": d.GetSerial,
		} {
			if a != nil {
				t.Withheld[name] = fmt.Sprintf("%s (%d)", a.Name, a.Ret)
			}
		}
		if d.GetMigMode != nil {
			t.MIG = d.GetMigMode.mode(d.MIG)
		}
		w.Cards = append(w.Cards, t)
	}
	return w
}

// smiLog is what is compared of a query of nvidia-smi in XML: what it words where it knows no figure.
type smiLog struct {
	Driver string `xml:"driver_version"`
	GPUs   []struct {
		ID     string `xml:"id,attr"`
		Name   string `xml:"product_name"`
		UUID   string `xml:"uuid"`
		Serial string `xml:"serial"`
		Memory string `xml:"fb_memory_usage>total"`
		BAR1   string `xml:"bar1_memory_usage>total"`
		Power  string `xml:"gpu_power_readings>current_power_limit"`
		MIG    string `xml:"mig_mode>current_mig"`
	} `xml:"gpu"`
}

func smi(t *testing.T, name string) (l smiLog) {
	t.Helper()
	if err := xml.Unmarshal([]byte(caseFile(t, name)), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// single makes a machine with the one recorded card: on the bus and known to the kernel driver.
func single(t *testing.T, r nvmlRecord, at, device string) *box {
	b := newBox(t)
	d := r.Devices[0]
	b.onBus(at, "0x10de", "0x"+device, "nvidia")
	b.files["proc/driver/nvidia/gpus/"+at+"/information"] = "Model: \t\t " + d.GetName + "\nGPU UUID: \t " + d.GetUUID + "\nBus Location: \t " + at + "\nDevice Minor: \t 0\n"
	b.nvml = r.witness()
	return b
}

// TestCaseA3_1 is a card that shares the machine's memory and says "Not Supported" where others have a figure.
func TestCaseA3_1(t *testing.T) {
	t.Parallel()
	r := record(t, "A3-1-nvml.json")
	b := single(t, r, "000f:01:00.0", "2e12")
	b.files["proc/meminfo"] = fmt.Sprintf("MemTotal: %d kB\n", r.Host.MemTotalKB)
	d := r.Devices[0]
	b.cuda = Witness{Answers: true, Count: 1, Cards: []Testimony{{
		PCI: "000F:01:00.0", UUID: d.GetUUID, Name: d.GetName, MemoryBytes: &r.CUDA.Memory, Unified: r.CUDA.Integrated == 1,
	}}}
	seen := b.detect()
	wants(t, seen, 1, "GPU_UNIFIED")
	if len(seen.Cards) != 1 {
		t.Fatalf("%+v", seen.Cards)
	}
	c := seen.Cards[0]
	if c.MemoryBytes == nil || *c.MemoryBytes != r.CUDA.Memory || !c.Unified || c.BAR1Bytes != nil || c.ECCErrors != nil || c.PowerLimit != nil || c.Serial != "" || len(c.Witnesses) != 4 {
		t.Errorf("%+v", c)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, absent := range []string{"bar1", "ecc", "power", "serial"} {
		if strings.Contains(string(text), absent) {
			t.Errorf("%s stands in %s", absent, text)
		}
	}
	if f := seen.Findings[0].Sentence; !strings.Contains(f, "no profile applies") || !strings.Contains(f, fmt.Sprint(r.CUDA.Memory)) {
		t.Error(f)
	}
	if w := seen.Witnesses[1].Cards[0].Withheld; len(w) != 5 || w["memory"] != "NOT_SUPPORTED (3)" {
		t.Errorf("withheld: %v", w)
	}
	// The query in XML is of the same card, and none of its figures is a number.
	x := smi(t, "A3-1-unified.xml").GPUs[0]
	if at, err := basilica.ParsePCI(x.ID); err != nil || at.String() != c.PCI || x.Name != c.Model || x.UUID != "GPU-"+c.UUID {
		t.Errorf("%+v is not %+v", x, c)
	}
	for _, words := range []string{x.Memory, x.BAR1, x.Power, x.Serial} {
		if n := integer(words); n != 0 {
			t.Errorf("%q is read as %d", words, n)
		}
	}
	// A card that claims more than the machine has.
	b2 := single(t, r, "000f:01:00.0", "2e12")
	b2.files["proc/meminfo"] = "MemTotal: 16000000 kB\n"
	b2.cuda = b.cuda
	wants(t, b2.detect(), 1, "GPU_UNIFIED", "GPU_MEMORY")
	// Without CUDA nobody tells the memory: it is absent, not 0, and nothing crashes.
	b3 := single(t, r, "000f:01:00.0", "2e12")
	b3.cuda = Witness{Why: "no libcuda"}
	without := b3.detect()
	wants(t, without, 0, "GPU_WITNESS", "GPU_WITNESS")
	if c := without.Cards[0]; c.MemoryBytes != nil {
		t.Errorf("memory %d of nobody", *c.MemoryBytes)
	}
}

// TestCaseA3_2 is a card that MIG cuts, whose own memory may not be read, and one whose instances were never made.
func TestCaseA3_2(t *testing.T) {
	t.Parallel()
	const at = "0000:4b:00.0"
	r := record(t, "A3-2-nvml.json")
	slice := r.Devices[0].MIG[0]
	// CUDA names the instance under the address of its card.
	slices := Witness{Answers: true, Count: 1, Cards: []Testimony{{PCI: "0000:4B:00.0", UUID: slice.GetUUID, Name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb", MemoryBytes: &slice.MemoryBytes}}}
	b := single(t, r, at, "20b0")
	b.cuda = slices
	b.nvml.Cards[0].PCI = "00000000:4B:00.0"
	d := b.detect()
	wants(t, d, 0, "GPU_MIG")
	if len(d.Cards) != 1 {
		t.Fatalf("%+v", d.Cards)
	}
	c := d.Cards[0]
	if c.State != CardPartitioned || c.Reason.Code != "GPU_MIG" || !strings.Contains(c.Reason.Fix, "turn MIG off") || c.MemoryBytes != nil || c.UUID != "0badf00d-2222-4333-8444-555566667777" {
		t.Errorf("%+v", c)
	}
	if m := c.MIG; m == nil || len(m.Slices) != 1 || m.Slices[0].UUID != slice.GetUUID || *m.Slices[0].MemoryBytes != 5100273664 {
		t.Errorf("%+v", m)
	}
	if err := d.Usable(at, ""); basilica.CodeOf(err) != "GPU_MIG" || basilica.FixOf(err) == "" {
		t.Error("the card is offered:", err)
	}
	if err := d.Usable("", strings.TrimPrefix(strings.ToLower(slice.GetUUID), "mig-")); basilica.CodeOf(err) != "GPU_HIDDEN" {
		t.Error("its instance is offered:", err)
	}
	x := smi(t, "A3-2-mig-noperm.xml").GPUs[0]
	if here, err := basilica.ParsePCI(x.ID); err != nil || here.String() != at || x.MIG != "Enabled" || integer(x.Memory) != 0 {
		t.Errorf("%+v", x)
	}
	// Mode on, nothing made, reset pending; another card beside it is not touched.
	other := newBox(t, a100)
	b2 := single(t, r, at, "20b0")
	for _, m := range []struct{ to, from map[string]string }{{b2.files, other.files}, {b2.links, other.links}} {
		for name, text := range m.from {
			if strings.Contains(name, address(0)) {
				m.to[name] = text
			}
		}
	}
	b2.cuda, b2.nvml.Count = other.cuda, 2
	b2.nvml.Cards[0].MIG = r.Second.GetMigMode.mode(r.Second.MIG)
	b2.nvml.Cards = append(b2.nvml.Cards, other.nvml.Cards[0])
	b2.nvml.Cards[1].Index = 1
	d = b2.detect()
	wants(t, d, 1, "GPU_MIG")
	for _, c := range d.Cards {
		switch c.PCI {
		case at:
			if c.State != CardPartitioned || !strings.Contains(c.Reason.Sentence, "no instance was made") || !strings.Contains(c.Reason.Sentence, "next reset") {
				t.Errorf("%+v", c)
			}
		case address(0):
			if c.State != CardReady {
				t.Errorf("%+v", c)
			}
		default:
			t.Errorf("%+v", c)
		}
	}
}

// TestCaseA3_3 is one address in four spellings, and two that the legacy form makes equal.
func TestCaseA3_3(t *testing.T) {
	t.Parallel()
	rows := csv.NewReader(strings.NewReader(caseFile(t, "A3-3-pci.csv")))
	rows.Comment, rows.FieldsPerRecord = '#', 5
	all, err := rows.ReadAll()
	if err != nil || len(all) != 5 {
		t.Fatal(all, err)
	}
	b := newBox(t)
	seen := map[basilica.PCIAddress]bool{}
	for i, row := range all {
		var at [3]basilica.PCIAddress
		for k, text := range []string{row[0], row[2], row[3]} {
			if at[k], err = basilica.ParsePCI(text); err != nil {
				t.Fatal(err)
			}
		}
		if at[0] != at[1] || at[1] != at[2] || at[0].String() != row[2] {
			t.Errorf("row %d: %v", i+1, at)
		}
		if seen[at[0]] {
			t.Errorf("row %d is the card of an earlier one", i+1)
		}
		seen[at[0]] = true
		b.onBus(row[2], "0x10de", "0x2330", "nvidia")
		b.files["proc/driver/nvidia/gpus/"+row[3]+"/information"] = "Model: \t\t " + h100.name + "\nGPU UUID: \t " + uuid(i) + "\nBus Location: \t " + row[3] + "\n"
		b.nvml.Cards = append(b.nvml.Cards, Testimony{Index: i, PCI: row[0], UUID: uuid(i), Name: h100.name})
		b.cuda.Cards = append(b.cuda.Cards, Testimony{Index: i, PCI: row[2], UUID: uuid(i), Name: h100.name})
	}
	b.nvml.Count, b.cuda.Count = len(all), len(all)
	d := b.detect()
	wants(t, d, 5)
	for _, c := range d.Cards {
		if len(c.Witnesses) != 4 {
			t.Errorf("%+v", c)
		}
	}
	legacy, err := basilica.ParsePCI(all[3][1])
	if short, err2 := basilica.ParsePCI(all[4][1]); err != nil || err2 != nil || legacy != short {
		t.Error("the legacy forms of rows 4 and 5 differ: the case shows nothing")
	}
}

// TestCaseA3_5 is a machine of which one of four cards fell off the bus.
func TestCaseA3_5(t *testing.T) {
	t.Parallel()
	text := caseFile(t, "A3-5-lost.txt")
	at, err := basilica.ParsePCI("0000:a1:00.0")
	if err != nil {
		t.Fatal(err)
	}
	for name, lines := range map[string]string{"both": text, "by Xid": only(text, "Xid"), "in words": only(text, "responding")} {
		if got := parseRing(lines); len(got) != 1 || !got[at] {
			t.Errorf("%s: %v", name, got)
		}
	}
	addresses := []string{"0000:01:00.0", "0000:41:00.0", "0000:a1:00.0", "0000:c1:00.0"}
	id := func(i int) string { return fmt.Sprintf("GPU-aaaa%04d-0000-4000-8000-%012d", i, i) }
	// machine is what is left when NVML says of index 2 that it is lost and nothing else.
	machine := func(busAnswers, stillOnBus, stillInProc bool) *box {
		b := newBox(t)
		b.nvml, b.cuda = Witness{Answers: true, Version: driver, Count: 4}, Witness{Answers: true, Count: 3}
		for i, a := range addresses {
			lost := i == 2
			if !lost || stillOnBus {
				b.onBus(a, "0x10de", "0x2684", "nvidia")
			}
			if lost && stillOnBus && !busAnswers {
				b.files["sys/devices/pci0000:00/"+a+"/config"] = strings.Repeat("\xff", 64)
			}
			if !lost || stillInProc {
				b.files["proc/driver/nvidia/gpus/"+a+"/information"] = "Model: \t\t " + rtx4090.name + "\nGPU UUID: \t " + id(i) + "\nBus Location: \t " + a + "\n"
			}
			if lost {
				b.nvml.Cards = append(b.nvml.Cards, Testimony{Index: i, Lost: true, Withheld: map[string]string{"card": "GPU_IS_LOST"}})
				continue
			}
			b.nvml.Cards = append(b.nvml.Cards, Testimony{Index: i, PCI: "0000" + strings.ToUpper(a), UUID: id(i), Name: rtx4090.name})
			b.cuda.Cards = append(b.cuda.Cards, Testimony{Index: len(b.cuda.Cards), PCI: a, UUID: id(i), Name: rtx4090.name})
		}
		b.files["dev/kmsg"] = text
		return b
	}
	var known []Known
	for i, a := range addresses {
		known = append(known, Known{UUID: strings.TrimPrefix(id(i), "GPU-"), PCI: a, Model: rtx4090.name, Seen: now.AddDate(0, 0, -1)})
	}
	for name, b := range map[string]*box{
		"the bus still shows it": machine(true, true, true), "its configuration space is all ones": machine(false, true, true),
		"the kernel driver forgot it": machine(false, true, false), "nothing is left of it": machine(false, false, false),
	} {
		d := b.detect(known...)
		wants(t, d, 3, "GPU_COUNT", "GPU_LOST")
		i := slices.IndexFunc(d.Cards, func(c Card) bool { return c.State == CardLost })
		if i < 0 || len(d.Cards) != 4 {
			t.Errorf("%s: %+v", name, d.Cards)
			continue
		}
		lost := d.Cards[i]
		if "GPU-"+lost.UUID != id(2) || lost.PCI != addresses[2] || lost.LastSeen == nil || !lost.LastSeen.Equal(known[2].Seen) || lost.Reason.Code != "GPU_LOST" {
			t.Errorf("%s: %+v", name, lost)
		}
		for k, want := range []int{0, 1, 3} {
			ready := slices.Collect(func(yield func(Card) bool) {
				for _, c := range d.Cards {
					if c.State == CardReady && !yield(c) {
						return
					}
				}
			})
			if "GPU-"+ready[k].UUID != id(want) || *ready[k].Index != want {
				t.Errorf("%s: card %d is %+v", name, want, ready[k])
			}
		}
		if s := sentence(d.Findings, "GPU_COUNT"); !strings.Contains(s, "NVML 4 of which 3 answer") || !strings.Contains(s, "CUDA 3") {
			t.Errorf("%s: %s", name, s)
		}
		// It stays remembered with the time at which it was last seen.
		k := slices.IndexFunc(d.Known, func(k Known) bool { return k.UUID == lost.UUID })
		if k < 0 || !d.Known[k].Seen.Equal(known[2].Seen) {
			t.Errorf("%s: %+v", name, d.Known)
		}
	}
	// Without a past it is lost all the same, under the name that the kernel driver keeps, or without one.
	d := machine(false, true, true).detect()
	wants(t, d, 3, "GPU_COUNT", "GPU_LOST")
	d = machine(false, false, false).detect()
	wants(t, d, 3, "GPU_COUNT", "GPU_LOST")
}

func only(text, word string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func sentence(findings []basilica.Reason, code string) string {
	for _, f := range findings {
		if f.Code == code {
			return f.Sentence
		}
	}
	return ""
}

// cgroupBox lays a case's control group into a machine with 32 processors and 503 GiB.
func cgroupBox(t *testing.T, version int, prefix map[string]string) Root {
	b := newBox(t)
	mountpoint := "24 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
	b.mounts = slices.DeleteFunc(b.mounts, func(m string) bool { return m == honestMounts[3] })
	if version == 2 {
		b.mounts = append(b.mounts, mountpoint)
	} else { // inside a container its own group is the root of the mount
		b.mounts = append(b.mounts, "24 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw",
			"25 24 0:28 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
			"26 24 0:29 /docker/0123 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct")
	}
	for from, to := range prefix {
		dir := filepath.Join("testdata/cases/A3-7-cgroup", from)
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			rel, err2 := filepath.Rel(dir, path)
			b.files[filepath.Join(to, rel)] = string(text)
			return errorsOf(err, err2)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.root()
}

// TestCaseA3_7 is limits of nested groups, the sentinel of version 1, and a container whose machine has no memory.
func TestCaseA3_7(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	const machine = 527878400 << 10
	for name, c := range map[string]struct {
		root   Root
		cpus   int
		memory int64
		codes  []string
		by     string
	}{
		"v2-nested": {
			cgroupBox(t, 2, map[string]string{"v2-nested/system.slice": "sys/fs/cgroup/system.slice", "v2-nested/proc-self-cgroup": "proc/self/cgroup"}),
			7, 64 * gib,
			[]string{"CPUS_LIMITED", "MEMORY_LIMITED"},
			"limited to 68719476736 of the machine's 540547481600 bytes by /sys/fs/cgroup/system.slice/memory.max",
		},
		"v1": {
			cgroupBox(t, 1, map[string]string{
				"v1/memory.limit_in_bytes": "sys/fs/cgroup/memory/memory.limit_in_bytes", "v1/cpu.cfs_quota_us": "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "v1/proc-self-cgroup": "proc/self/cgroup",
			}), 32, machine, []string{}, "",
		},
		"lxcfs-zero": {cgroupBox(t, 2, map[string]string{"lxcfs-zero/meminfo": "proc/meminfo"}), 32, 0, []string{"MEMORY_UNKNOWN"}, "memory is unknown"},
	} {
		f, err := c.root.Facts(t.Context(), t.TempDir())
		if err != nil || f.CPUs != c.cpus || f.MemoryBytes != c.memory || !slices.Equal(codes(f.Findings), c.codes) {
			t.Errorf("%s: %d processors, %d bytes, %+v, %v", name, f.CPUs, f.MemoryBytes, f.Findings, err)
		}
		if c.by != "" && !slices.ContainsFunc(f.Findings, func(r basilica.Reason) bool { return strings.Contains(r.Sentence, c.by) }) {
			t.Errorf("%s: %+v does not say %q", name, f.Findings, c.by)
		}
		text, err := json.Marshal(f)
		if err != nil || strings.Contains(string(text), `"memory_bytes":0`) {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	// A limit of a container is known though its machine's memory is not.
	b := newBox(t)
	b.files["proc/meminfo"] = caseFile(t, "A3-7-cgroup/lxcfs-zero/meminfo")
	b.files["sys/fs/cgroup/memory.max"] = "1073741824\n"
	if f, err := b.root().Facts(t.Context(), t.TempDir()); err != nil || f.MemoryBytes != gib || !slices.Equal(codes(f.Findings), []string{"MEMORY_LIMITED"}) {
		t.Errorf("%+v %v", f, err)
	}
}

// TestLimits tries other shapes of control groups than those of the case.
func TestLimits(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	hybrid := []string{
		"24 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw",
		"30 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
		"31 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
		"32 24 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
		"33 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
	}
	for name, c := range map[string]struct {
		files  map[string]string
		mounts []string
		cpus   int
		memory int64
	}{
		"a quota that is no whole number, above": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "1073741824\n",
		}, nil, 2, gib},
		"version 1 beside version 2": {map[string]string{
			"proc/self/cgroup":                     "4:memory:/x\n3:cpuset:/x\n1:cpu:/x\n0::/\n",
			"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/cpuset/x/cpuset.effective_cpus": "0-1\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "536870912\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/unified/memory.max": "1\n",
		}, hybrid, 2, gib / 2},
		"a group outside the mount": {map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
		}, hybrid, 32, gib},
		"pages of 64 KiB": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854710272\n",
		}, hybrid, 32, 527878400 << 10},
		"a group above the namespace": {map[string]string{"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, nil, 32, gib},
		"words where numbers were":    {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "lots\n", "sys/fs/cgroup/cpu.max": "many 100000\n", "sys/fs/cgroup/cpuset.cpus.effective": "all\n"}, nil, 32, 527878400 << 10},
	} {
		b := newBox(t)
		for path, text := range c.files {
			b.files[path] = text
		}
		if c.mounts != nil {
			b.mounts = slices.Concat(honestMounts[:3], c.mounts)
		}
		f, err := b.root().Facts(t.Context(), t.TempDir())
		if err != nil || f.CPUs != c.cpus || f.MemoryBytes != c.memory {
			t.Errorf("%s: %d processors and %d bytes, want %d and %d; %v", name, f.CPUs, f.MemoryBytes, c.cpus, c.memory, err)
		}
	}
	for text, want := range map[string]int{"0-3,8,10-11": 7, "0": 1, "5-5": 1, "": 0, "3-1": 0, "1,0": 0, "0-3,2": 0, "0-99999999": 0, "a": 0, "-1": 0, "1-": 0} {
		if n, err := cpuList(text); n != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d processors, want %d; %v", text, n, want, err)
		}
	}
}
