package hardware

import (
	"strings"
	"time"

	"basilica"
)

// State says what can be done with a card.
type State string

// The states of a card. Only a ready one can be proven, and only that is offered.
const (
	CardReady       State = "ready"
	CardLost        State = "lost"        // it no longer answers, or was seen before and is gone
	CardPartitioned State = "partitioned" // MIG is on: the whole card cannot be used
	CardUnsupported State = "unsupported" // of another vendor: present, not provable yet
	CardUndriven    State = "undriven"    // on the bus, without the NVIDIA kernel driver
	CardDisputed    State = "disputed"    // a witness that must see it does not
)

// Card is one GPU as all witnesses together see it. What nobody tells is absent, never 0.
type Card struct {
	State       State            `json:"state"`
	Reason      *basilica.Reason `json:"reason,omitempty"` // why it is not ready
	Vendor      string           `json:"vendor"`           // nvidia, amd or intel
	Index       *int             `json:"index,omitempty"`  // in the order of NVML
	UUID        string           `json:"uuid,omitempty"`   // 8-4-4-4-12 hex without a prefix
	Model       string           `json:"model,omitempty"`
	PCI         string           `json:"pci,omitempty"` // as Linux names it
	Device      string           `json:"device,omitempty"`
	Driver      string           `json:"kernel_driver,omitempty"`
	MemoryBytes *uint64          `json:"memory_bytes,omitempty"`
	Unified     bool             `json:"unified,omitempty"` // its memory is the machine's
	BAR1Bytes   *uint64          `json:"bar1_bytes,omitempty"`
	ECCErrors   *uint64          `json:"ecc_errors,omitempty"`
	PowerLimit  *uint64          `json:"power_limit_milliwatts,omitempty"`
	Serial      string           `json:"serial,omitempty"`
	MIG         *MIG             `json:"mig,omitempty"`
	Witnesses   []string         `json:"witnesses"`           // that name it
	LastSeen    *time.Time       `json:"last_seen,omitempty"` // of a lost card
}

// Known is a card as an earlier detection saw it ready. A card that falls off the bus keeps its name by it.
type Known struct {
	UUID  string    `json:"uuid"`
	Model string    `json:"model,omitempty"`
	PCI   string    `json:"pci,omitempty"`
	Seen  time.Time `json:"seen"`
}

// Detection is what a machine shows of its GPUs.
type Detection struct {
	Cards     []Card            `json:"cards"`
	Witnesses []Witness         `json:"witnesses"`
	Findings  []basilica.Reason `json:"findings"` // what the witnesses disagree on, and what does not come from the kernel
	Files     []File            `json:"files"`    // where each file that was read comes from
	Known     []Known           `json:"-"`        // to be given to the next detection
}

// maxKnown bounds the cards that are remembered.
const maxKnown = 64

// Detect holds the four witnesses against each other. cuda and nvml are what the libraries said (Name is set here); known is
// what the last detection left. now becomes the time at which ready cards were last seen.
func (r Root) Detect(cuda, nvml Witness, known []Known, now time.Time) Detection {
	o := r.origin()
	all, err := o.displays()
	pci := bus(all, err)
	proc, module := o.proc()
	loaded := o.libraries()
	cuda.Name, nvml.Name = WitnessCUDA, WitnessNVML
	machine, err := r.machineMemory()
	if err != nil {
		machine = 0
	}
	c := comparison{
		origin: o, witnesses: [...]*Witness{&pci, &proc, &nvml, &cuda}, module: module, loaded: loaded,
		ring: parseRing(r.ring()), machine: machine, now: now,
	}
	for _, w := range c.witnesses {
		w.Why, w.Version = clean(w.Why), clean(w.Version)
		w.Cards = w.Cards[:min(len(w.Cards), maxCards)]
		for i := range w.Cards {
			c.tidy(w.Name, &w.Cards[i])
			c.add(w.Name, &w.Cards[i])
		}
	}
	c.placeLost(known)
	c.compareCounts()
	c.compareVersions()
	c.compareAddresses()
	d := Detection{Cards: []Card{}, Witnesses: []Witness{cuda, nvml, pci, proc}, Known: []Known{}}
	for _, e := range c.entries {
		card := c.card(e)
		d.Cards = append(d.Cards, card)
		if card.UUID == "" || len(d.Known) == maxKnown {
			continue
		}
		k := Known{UUID: card.UUID, Model: card.Model, PCI: card.PCI, Seen: now}
		if card.State == CardLost && card.LastSeen != nil {
			k.Seen = *card.LastSeen
		}
		if card.State == CardReady || card.State == CardLost {
			d.Known = append(d.Known, k)
		}
	}
	for _, x := range all {
		if v := vendors[x.vendor]; v != "" && v != "nvidia" {
			why := reason("GPU_UNSUPPORTED", "a card of "+strings.ToUpper(v)+" ("+x.vendor+":"+x.device+") at "+x.at.String()+" is present and cannot be proven yet", "")
			d.Cards = append(d.Cards, Card{
				State: CardUnsupported, Reason: &why, Vendor: v, PCI: x.at.String(), Device: x.vendor + ":" + x.device, Driver: x.driver, Witnesses: []string{WitnessPCI},
			})
		}
	}
	d.Findings, d.Files = append([]basilica.Reason{}, o.findings...), append([]File{}, o.files...)
	return d
}

// clean makes a witness's text safe to show, and short.
func clean(s string) string {
	const most = 128
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(basilica.OneLine(s))
}

// canonicalUUID gives the 8-4-4-4-12 hex of a UUID with GPU- or MIG- before it, and whether it is a MIG instance's; false
// where it is none.
func canonicalUUID(s string) (uuid string, slice, ok bool) {
	s = strings.ToLower(s)
	rest, slice := strings.CutPrefix(s, "mig-")
	rest = strings.TrimPrefix(rest, "gpu-")
	if len(rest) != 36 {
		return "", slice, false
	}
	for i, c := range []byte(rest) {
		switch hyphen := i == 8 || i == 13 || i == 18 || i == 23; {
		case hyphen && c == '-', !hyphen && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f'):
		default:
			return "", slice, false
		}
	}
	return rest, slice, true
}

// Ready counts the cards that can be proven.
func (d Detection) Ready() int {
	n := 0
	for _, c := range d.Cards {
		if c.State == CardReady {
			n++
		}
	}
	return n
}

// Usable says whether the card at a PCI address, or of a UUID, can be proven whole: nil, or an error with the code of the
// finding. A device that no witness knows cannot.
func (d Detection) Usable(pci, uuid string) error {
	at, err := basilica.ParsePCI(pci)
	for _, c := range d.Cards {
		here, errHere := basilica.ParsePCI(c.PCI)
		if c.UUID != "" && c.UUID == uuid || err == nil && errHere == nil && here == at {
			if c.State == CardReady {
				return nil
			}
			return basilica.E(basilica.Unavailable, c.Reason.Code, c.Reason.Sentence, c.Reason.Fix)
		}
	}
	return basilica.E(basilica.Unavailable, "GPU_HIDDEN", "no witness names a GPU at "+clean(pci)+" or with the UUID "+clean(uuid), "")
}
