package hardware

import (
	"fmt"
	"slices"
	"strings"

	"basilica"
)

// card puts one card together, and finds what its witnesses disagree on.
func (c *comparison) card(e *entry) Card {
	card := Card{State: CardReady, Vendor: "nvidia", LastSeen: nil, Witnesses: []string{}}
	for _, w := range c.witnesses {
		if e.by[w.Name] != nil {
			card.Witnesses = append(card.Witnesses, w.Name)
		}
	}
	if e.at != nil {
		card.PCI = e.at.String()
	}
	if t := e.by[WitnessPCI]; t != nil {
		card.Device, card.Driver = t.device, t.driver
	}
	c.names(e, &card)
	if t := e.by[WitnessNVML]; t != nil {
		i := t.Index
		card.Index, card.MIG = &i, t.MIG
		card.BAR1Bytes, card.ECCErrors, card.PowerLimit, card.Serial = t.BAR1Bytes, t.ECCErrors, t.PowerLimit, t.Serial
	}
	c.state(e, &card)
	if card.State == CardLost {
		card.LastSeen = e.lastSeen
		return card
	}
	c.memory(e, &card)
	c.partition(e)
	return card
}

// state says what can be done with a card; why it is not ready is a finding too.
func (c *comparison) state(e *entry, card *Card) {
	set := func(s State, r basilica.Reason) {
		card.State, card.Reason = s, &r
		c.find("state "+e.label()+r.Code, r.Code, r.Sentence, r.Fix)
	}
	pci, proc, nvml, cuda := c.witness(WitnessPCI), c.witness(WitnessProc), c.witness(WitnessNVML), c.witness(WitnessCUDA)
	lost := len(e.by) == 0
	for _, t := range e.by {
		lost = lost || t.Lost
	}
	if !e.served() && e.at != nil && c.ring[*e.at] {
		lost = true
	}
	switch {
	case lost:
		sentence := "no longer answers"
		if len(e.by) == 0 {
			sentence = "is gone from the machine"
		}
		if e.lastSeen != nil {
			sentence += fmt.Sprintf("; it was last seen at %s", e.lastSeen.UTC().Format("2006-01-02 15:04:05 MST"))
		}
		set(CardLost, reason("GPU_LOST", e.label()+" "+sentence, ""))
	case pci.Answers && e.by[WitnessPCI] == nil:
		set(CardDisputed, reason("GPU_NOT_ON_BUS", e.label()+" is named by "+strings.Join(card.Witnesses, " and ")+" and is not on the PCI bus", ""))
	case e.partitioned():
		slices := 0
		if m := e.mig(); m != nil {
			slices = len(m.Slices)
		}
		sentence := fmt.Sprintf("%s is cut by MIG into %d instances and cannot be offered whole; instances cannot be proven yet", e.label(), slices)
		if slices == 0 {
			sentence = e.label() + " has MIG on and no instance was made: nothing can run on it"
		}
		if m := e.mig(); m != nil && m.On != m.Pending {
			sentence += "; the mode changes with the next reset of the card"
		}
		set(CardPartitioned, reason("GPU_MIG", sentence, ""))
	case e.by[WitnessProc] == nil && !e.served():
		driver := card.Driver
		if driver == "" {
			driver = "none"
		}
		set(CardUndriven, reason("GPU_UNDRIVEN", e.label()+" is on the PCI bus without the NVIDIA kernel driver (bound driver: "+driver+")", ""))
	case proc.Answers && e.by[WitnessProc] == nil:
		set(CardDisputed, reason("GPU_HIDDEN", e.label()+" is served by "+strings.Join(card.Witnesses, " and ")+" and unknown to the kernel driver", ""))
	case nvml.Answers && e.by[WitnessNVML] == nil:
		set(CardDisputed, reason("GPU_HIDDEN", e.label()+" is on the bus and NVML does not name it", ""))
	case cuda.Answers && e.by[WitnessCUDA] == nil:
		sentence := e.label() + " is on the bus and CUDA does not name it"
		if cuda.Why != "" {
			sentence += ": " + cuda.Why
		}
		set(CardDisputed, reason("GPU_HIDDEN", sentence, ""))
	case e.by[WitnessCUDA] == nil:
		set(CardDisputed, reason("GPU_WITNESS", e.label()+" cannot be proven while CUDA cannot be asked: "+cuda.Why, ""))
	}
}

// names compares UUIDs and names, and holds the name against the device id on the bus.
func (c *comparison) names(e *entry, card *Card) {
	if u := e.uuids(); len(u) > 0 {
		card.UUID = u[0]
		if len(u) > 1 {
			c.find("uuids "+u[0], "GPU_UUID", fmt.Sprintf("the witnesses give the card at %s different UUIDs: %s", e.where(), strings.Join(u, " and ")), "")
		}
	} else if e.known != nil {
		card.UUID = e.known.UUID
	}
	var different []string
	for _, name := range [...]string{WitnessProc, WitnessNVML, WitnessCUDA} {
		t := e.by[name]
		if t == nil || t.Name == "" {
			continue
		}
		if card.Model == "" {
			card.Model = t.Name
		}
		if name == WitnessCUDA && e.partitioned() {
			continue // an instance has a name of its own
		}
		if !slices.ContainsFunc(different, func(s string) bool { return slices.Equal(nameWords(s), nameWords(t.Name)) }) {
			different = append(different, t.Name)
		}
	}
	if card.Model == "" && e.known != nil {
		card.Model = e.known.Model
	}
	if len(different) > 1 {
		c.find("names "+e.label(), "GPU_NAME", fmt.Sprintf("%s has several names: %q", e.label(), different), "")
	}
	for _, name := range different {
		if !fits(card.Device, name) {
			c.find("chip "+e.label(), "GPU_NAME", fmt.Sprintf("%s calls itself %q, and its device id on the PCI bus (%s) is that of %s", e.label(), name, card.Device, chips[card.Device]), "")
		}
	}
}

// memory takes the figure that stands: NVML's where it tells one, else CUDA's. CUDA's is somewhat smaller, by what the driver
// keeps for itself.
func (c *comparison) memory(e *entry, card *Card) {
	var nvml, cuda *uint64
	if t := e.by[WitnessNVML]; t != nil {
		nvml = t.MemoryBytes
	}
	if t := e.by[WitnessCUDA]; t != nil {
		cuda, card.Unified = t.MemoryBytes, t.Unified
	}
	switch {
	case e.partitioned():
		card.MemoryBytes, card.Unified = nvml, false // CUDA's figure is an instance's
		return
	case nvml != nil && !card.Unified:
		card.MemoryBytes = nvml
	default:
		card.MemoryBytes = cuda
	}
	const slack = 10 // CUDA may have a tenth less
	if nvml != nil && cuda != nil && !card.Unified && (*cuda > *nvml || *nvml-*cuda > *nvml/slack) {
		c.find("memory "+e.label(), "GPU_MEMORY", fmt.Sprintf("%s has %d bytes of memory by NVML and %d by CUDA", e.label(), *nvml, *cuda), "")
	}
	if !card.Unified {
		return
	}
	if cuda != nil && c.machine > 0 && *cuda > uint64(c.machine) {
		c.find("memory "+e.label(), "GPU_MEMORY", fmt.Sprintf("%s shares the machine's memory and claims %d bytes of its %d", e.label(), *cuda, c.machine), "")
	}
	size := "of unknown size"
	if cuda != nil {
		size = fmt.Sprintf("%d bytes by CUDA", *cuda)
	}
	c.find("unified "+e.label(), "GPU_UNIFIED", fmt.Sprintf("%s shares the machine's memory (%s); no profile applies to it, only the measured tuple", e.label(), size), "")
}

// partition finds witnesses that disagree on whether MIG is on.
func (c *comparison) partition(e *entry) {
	if m := e.mig(); e.partitioned() && e.by[WitnessNVML] != nil && (m == nil || !m.On) {
		c.find("mig "+e.label(), "GPU_MIG", e.label()+" has MIG instances by CUDA or the kernel driver, and NVML says that MIG is off", "")
	}
}
