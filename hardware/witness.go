package hardware

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"basilica"
)

// Witness is what one source says of the machine's NVIDIA GPUs. The caller brings those of CUDA and NVML as the libraries
// answered, without mending anything; the other two are read here.
type Witness struct {
	Name    string      `json:"name"`              // cuda, nvml, pci or proc
	Answers bool        `json:"answers"`           // false: it could not be asked
	Why     string      `json:"why,omitempty"`     // it could not be asked
	Version string      `json:"version,omitempty"` // of the NVIDIA driver
	Count   int         `json:"count"`             // of the cards that it claims, those that do not answer with them
	Cards   []Testimony `json:"cards,omitempty"`
}

// The four witnesses by name.
const (
	WitnessCUDA = "cuda"
	WitnessNVML = "nvml"
	WitnessPCI  = "pci"
	WitnessProc = "proc"
)

// Testimony is what one witness says of one card, in its own spelling. What a library refuses to say is absent, and its
// answer stands in Withheld; no figure is ever read from words.
type Testimony struct {
	Index       int               `json:"index"`          // in the witness's own order
	PCI         string            `json:"pci,omitempty"`  // the long form of NVML (busId), never the legacy one
	UUID        string            `json:"uuid,omitempty"` // with GPU- or MIG- before it
	Name        string            `json:"name,omitempty"`
	MemoryBytes *uint64           `json:"memory_bytes,omitempty"`
	Unified     bool              `json:"unified,omitempty"` // the CUDA attribute "integrated": it shares the machine's memory
	Lost        bool              `json:"lost,omitempty"`    // the witness says that the card no longer answers
	MIG         *MIG              `json:"mig,omitempty"`     // absent where the card has no such mode
	BAR1Bytes   *uint64           `json:"bar1_bytes,omitempty"`
	ECCErrors   *uint64           `json:"ecc_errors,omitempty"`
	PowerLimit  *uint64           `json:"power_limit_milliwatts,omitempty"`
	Serial      string            `json:"serial,omitempty"`
	Withheld    map[string]string `json:"withheld,omitempty"` // a figure's name to the library's answer, e.g. NOT_SUPPORTED

	device string // PCI vendor:device, of the bus alone
	driver string // the kernel driver that is bound to it
	minor  int    // of the device node, of proc alone; -1 where it is not told
	slices int    // MIG instances that the kernel driver gives out, of proc alone
}

// MIG is the mode that cuts a card into instances.
type MIG struct {
	On      bool    `json:"on"`
	Pending bool    `json:"pending"` // what the next reset brings
	Slices  []Slice `json:"slices,omitempty"`
}

// Slice is one MIG instance.
type Slice struct {
	UUID        string  `json:"uuid"`
	MemoryBytes *uint64 `json:"memory_bytes,omitempty"`
}

// maxCards bounds what one witness may name.
const maxCards = 256

// Vendors of display controllers, by their PCI vendor ids.
var vendors = map[string]string{"10de": "nvidia", "1002": "amd", "8086": "intel"}

// display is a display controller (PCI class 03) on the bus: what could be a GPU, whatever its driver says.
type display struct {
	at                     basilica.PCIAddress
	vendor, device, driver string // four hex digits each, and the kernel driver; empty where none is bound
	dead                   bool   // its configuration space reads as ones: it does not answer
}

// displays reads the bus. Virtual functions are their physical card's and are left out where both are seen.
func (o *origin) displays() ([]display, error) {
	const dir = "/sys/bus/pci/devices"
	names, err := o.root.names(dir)
	if err != nil {
		return nil, err
	}
	o.kernel(dir, "/sys", "")
	var out []display
	for _, name := range names {
		at, err := basilica.ParsePCI(name)
		path := filepath.Join(dir, name)
		if err != nil || !strings.HasPrefix(o.root.line(filepath.Join(path, "class")), "0x03") || len(out) == maxCards {
			continue
		}
		if _, _, err := o.root.resolve(filepath.Join(path, "physfn")); err == nil {
			continue
		}
		d := display{
			at: at, vendor: strings.TrimPrefix(o.root.line(filepath.Join(path, "vendor")), "0x"),
			device: strings.TrimPrefix(o.root.line(filepath.Join(path, "device")), "0x"),
		}
		for _, file := range []string{"class", "vendor", "device"} {
			o.kernel(filepath.Join(path, file), "/sys", "/sys/devices")
		}
		if real, _, err := o.root.resolve(path); err == nil {
			d.driver = o.root.link(filepath.Join(real, "driver"))
		}
		if head, _, err := o.root.read(filepath.Join(path, "config"), 4); err == nil && string(head) == "\xff\xff\xff\xff" {
			d.dead = true
		}
		out = append(out, d)
	}
	return out, nil
}

// bus is the witness of sysfs.
func bus(all []display, err error) Witness {
	w := Witness{Name: WitnessPCI, Answers: err == nil}
	if err != nil {
		w.Why = basilica.OneLine(err.Error())
	}
	for _, d := range all {
		if vendors[d.vendor] == "nvidia" {
			w.Cards = append(w.Cards, Testimony{Index: len(w.Cards), PCI: d.at.String(), Lost: d.dead, device: d.vendor + ":" + d.device, driver: d.driver, minor: -1})
		}
	}
	w.Count = len(w.Cards)
	return w
}

var nvrmVersion = regexp.MustCompile(`Kernel Module(?: for \S+)?\s+([0-9]+\.[0-9]+(?:\.[0-9]+)*)\s`)

// parseVersion reads the driver's version from /proc/driver/nvidia/version, or nothing.
func parseVersion(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	if m := nvrmVersion.FindStringSubmatch(first + " "); m != nil && strings.HasPrefix(first, "NVRM version:") {
		return m[1]
	}
	return ""
}

// parseInformation reads one card's /proc/driver/nvidia/gpus/ADDRESS/information. A UUID of question marks is one that the
// driver does not know yet.
func parseInformation(text string) Testimony {
	t := Testimony{Name: field(text, "Model"), UUID: field(text, "GPU UUID"), PCI: field(text, "Bus Location"), minor: -1}
	if strings.Contains(t.UUID, "?") {
		t.UUID = ""
	}
	if n, err := strconv.ParseUint(field(text, "Device Minor"), 10, 8); err == nil {
		t.minor = int(n)
	}
	return t
}

// proc is the witness of the kernel driver, and the version that its module gives in sysfs.
func (o *origin) proc() (w Witness, module string) {
	const dir = "/proc/driver/nvidia"
	w.Name = WitnessProc
	version, err := o.root.text(filepath.Join(dir, "version"))
	if err != nil {
		w.Why = "the NVIDIA kernel driver is not loaded"
		return w, ""
	}
	w.Answers, w.Version = true, parseVersion(version)
	for _, path := range []string{"", "version", "gpus"} {
		o.kernel(filepath.Join(dir, path), "/proc", "")
	}
	if module = o.root.line("/sys/module/nvidia/version"); module != "" {
		o.kernel("/sys/module/nvidia/version", "/sys", "")
	}
	names, err := o.root.names(filepath.Join(dir, "gpus"))
	if err != nil {
		return w, module // loaded, without a card
	}
	for _, name := range names[:min(len(names), maxCards)] {
		path := filepath.Join(dir, "gpus", name, "information")
		text, err := o.root.text(path)
		if err != nil {
			text = ""
		}
		o.kernel(path, "/proc", "")
		t := parseInformation(text)
		t.Index = len(w.Cards)
		// The directory is named after the card; a file that was brought from another card names that one.
		if here, err := basilica.ParsePCI(name); err == nil {
			if inside, err := basilica.ParsePCI(t.PCI); err == nil && inside != here {
				o.find("location "+name, "GPU_PCI", fmt.Sprintf("%s speaks of the card at %s", path, inside), "")
			}
			t.PCI = here.String()
		} else {
			t.PCI = name
		}
		t.slices = o.instances(t.minor)
		w.Cards = append(w.Cards, t)
	}
	w.Count = len(w.Cards)
	return w, module
}

// instances counts the MIG instances that the kernel driver gives out for a card by its minor number.
func (o *origin) instances(minor int) int {
	if minor < 0 {
		return 0
	}
	names, err := o.root.names(fmt.Sprintf("/proc/driver/nvidia/capabilities/gpu%d/mig", minor))
	if err != nil {
		return 0
	}
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, "gi") {
			n++
		}
	}
	return n
}

var (
	xid79  = regexp.MustCompile(`NVRM: Xid \(PCI:([0-9a-fA-F:]{5,16})(?:\.[0-9])?\): 79,`)
	fallen = regexp.MustCompile(`NVRM: .*GPU (?:at PCI:)?([0-9a-fA-F:]{5,16}\.[0-7]) has fallen off the bus`)
)

// parseRing finds the cards of which the kernel's log says that they have fallen off the bus, with Xid 79 or in words.
func parseRing(text string) map[basilica.PCIAddress]bool {
	out := map[basilica.PCIAddress]bool{}
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "NVRM:") || len(out) >= maxCards {
			continue
		}
		var at string
		if m := xid79.FindStringSubmatch(line); m != nil {
			at = m[1] + ".0"
		} else if m := fallen.FindStringSubmatch(line); m != nil {
			at = m[1]
		}
		if p, err := basilica.ParsePCI(at); err == nil {
			out[p] = true
		}
	}
	return out
}
