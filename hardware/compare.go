package hardware

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"basilica"
)

// entry is one card as it is put together from what the witnesses say.
type entry struct {
	at       *basilica.PCIAddress // nil where nobody tells it
	by       map[string]*Testimony
	lastSeen *time.Time
	known    *Known // what an earlier detection saw, of a lost card
}

// comparison is the work of one detection.
type comparison struct {
	*origin
	witnesses [4]*Witness // in order of trust: pci, proc, nvml, cuda
	module    string      // version of the kernel module in sysfs
	loaded    []library
	ring      map[basilica.PCIAddress]bool // that the kernel's log says to have fallen off the bus
	machine   int64                        // bytes of memory; 0: unknown
	now       time.Time

	entries  []*entry
	nameless []*Testimony // lost cards of NVML of which nothing but the index is known
}

func (c *comparison) witness(name string) *Witness {
	i := slices.IndexFunc(c.witnesses[:], func(w *Witness) bool { return w.Name == name })
	return c.witnesses[i]
}

// tidy makes a testimony's text safe and its numbers sane; what has not the form that it must have is a finding and absent.
func (c *comparison) tidy(witness string, t *Testimony) {
	t.PCI, t.UUID, t.Name, t.Serial = clean(t.PCI), clean(t.UUID), clean(t.Name), clean(t.Serial)
	withheld := map[string]string{}
	for k, v := range t.Withheld {
		if len(withheld) < 16 {
			withheld[clean(k)] = clean(v)
		}
	}
	t.Withheld = nil
	if len(withheld) > 0 {
		t.Withheld = withheld
	}
	if _, err := basilica.ParsePCI(t.PCI); t.PCI != "" && err != nil {
		c.find("address "+witness+t.PCI, "GPU_PCI", fmt.Sprintf("%s gives card %d the address %q, which is none", witness, t.Index, t.PCI), "")
		t.PCI = ""
	}
	if _, _, ok := canonicalUUID(t.UUID); t.UUID != "" && !ok && !strings.HasPrefix(t.UUID, "MIG-GPU-") {
		c.find("uuid "+witness+t.UUID, "GPU_UUID", fmt.Sprintf("%s gives card %d the UUID %q, which is none", witness, t.Index, t.UUID), "")
		t.UUID = ""
	}
	if t.MIG != nil {
		t.MIG.Slices = t.MIG.Slices[:min(len(t.MIG.Slices), maxCards)]
		for i := range t.MIG.Slices {
			t.MIG.Slices[i].UUID = clean(t.MIG.Slices[i].UUID)
		}
	}
}

// add puts a testimony to the card that it speaks of: by address, else by UUID, else to a card of its own.
func (c *comparison) add(witness string, t *Testimony) {
	at, err := basilica.ParsePCI(t.PCI)
	uuid, slice, _ := canonicalUUID(t.UUID)
	if err != nil && uuid == "" && t.Lost {
		c.nameless = append(c.nameless, t)
		return
	}
	for _, e := range c.entries {
		same := err == nil && e.at != nil && *e.at == at
		if err != nil && uuid != "" && !slice {
			same = slices.Contains(e.uuids(), uuid)
		}
		if !same {
			continue
		}
		if e.by[witness] == nil {
			e.by[witness] = t
			return
		}
		if slice { // CUDA names the instances of a card under the card's own address
			return
		}
		c.find("twice "+witness+t.PCI, "GPU_PCI", fmt.Sprintf("%s names two cards at %s", witness, t.PCI), "")
	}
	e := &entry{by: map[string]*Testimony{witness: t}}
	if err == nil {
		e.at = &at
	}
	c.entries = append(c.entries, e)
}

// uuids gives the UUIDs of a whole card that its witnesses tell, each once, in order of trust.
func (e *entry) uuids() []string {
	var out []string
	for _, name := range [...]string{WitnessProc, WitnessNVML, WitnessCUDA} {
		if t := e.by[name]; t != nil {
			if uuid, slice, ok := canonicalUUID(t.UUID); ok && !slice && !slices.Contains(out, uuid) {
				out = append(out, uuid)
			}
		}
	}
	return out
}

// served says whether a library still speaks with the card.
func (e *entry) served() bool {
	for _, name := range [...]string{WitnessNVML, WitnessCUDA} {
		if t := e.by[name]; t != nil && !t.Lost {
			return true
		}
	}
	return false
}

// label names a card in a sentence.
func (e *entry) label() string {
	name := "a card"
	if u := e.uuids(); len(u) > 0 {
		name = "card " + u[0]
	} else if e.known != nil {
		name = "card " + e.known.UUID
	}
	if e.at != nil {
		return name + " at " + e.at.String()
	}
	return name + " at an unknown address"
}

func (e *entry) mig() *MIG {
	if t := e.by[WitnessNVML]; t != nil && t.MIG != nil {
		return t.MIG
	}
	return nil
}

// partitioned says whether any witness sees MIG at work.
func (e *entry) partitioned() bool {
	if m := e.mig(); m != nil && m.On {
		return true
	}
	if t := e.by[WitnessCUDA]; t != nil {
		if _, slice, _ := canonicalUUID(t.UUID); slice || strings.HasPrefix(t.UUID, "MIG-") {
			return true
		}
	}
	t := e.by[WitnessProc]
	return t != nil && t.slices > 0
}

// placeLost finds the address and the last name of cards that no longer answer, and adds those that were seen before and are
// gone from every witness.
func (c *comparison) placeLost(known []Known) {
	nvml := c.witness(WitnessNVML)
	var silent []*entry // that the kernel knows and no library serves
	for _, e := range c.entries {
		if !e.served() && e.by[WitnessNVML] == nil && nvml.Answers {
			silent = append(silent, e)
		}
	}
	// Those of which the kernel's log speaks come first, then those whose bus does not answer.
	rank := func(e *entry) int {
		switch {
		case e.at != nil && c.ring[*e.at]:
			return 0
		case e.by[WitnessPCI] != nil && e.by[WitnessPCI].Lost:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(silent, func(a, b *entry) int { return rank(a) - rank(b) })
	var left []*Testimony
	for i, t := range c.nameless {
		if i < len(silent) {
			silent[i].by[WitnessNVML] = t
		} else {
			left = append(left, t)
		}
	}
	c.nameless = left
	present := map[string]bool{}
	for _, e := range c.entries {
		for _, u := range e.uuids() {
			present[u] = true
		}
	}
	for _, k := range known[:min(len(known), maxKnown)] {
		uuid, _, ok := canonicalUUID(k.UUID)
		if !ok || present[uuid] {
			c.seen(uuid, k)
			continue
		}
		k.UUID, k.Model, k.PCI = uuid, clean(k.Model), clean(k.PCI)
		c.missing(k)
	}
	for _, t := range c.nameless { // neither the kernel nor the past knows which they are
		c.entries = append(c.entries, &entry{by: map[string]*Testimony{WitnessNVML: t}})
	}
}

// seen keeps when a card was last ready, for the case that it is lost though its name is still told.
func (c *comparison) seen(uuid string, k Known) {
	for _, e := range c.entries {
		if uuid != "" && slices.Contains(e.uuids(), uuid) {
			e.lastSeen = &k.Seen
		}
	}
}

// missing gives a remembered card that no witness names to the nameless card at its address, or adds it.
func (c *comparison) missing(k Known) {
	at, err := basilica.ParsePCI(k.PCI)
	for _, e := range c.entries {
		if err == nil && e.at != nil && *e.at == at {
			if e.known == nil && len(e.uuids()) == 0 && !e.partitioned() {
				e.known, e.lastSeen = &k, &k.Seen
				return
			}
			// Another card stands in its place, or the same one is cut into instances.
			if e.partitioned() {
				return
			}
		}
	}
	e := &entry{by: map[string]*Testimony{}, known: &k, lastSeen: &k.Seen}
	if err == nil {
		e.at = &at
	}
	if len(c.nameless) > 0 {
		e.by[WitnessNVML], c.nameless = c.nameless[0], c.nameless[1:]
	}
	c.entries = append(c.entries, e)
}

// compareCounts holds the numbers of cards against each other: what is claimed against what is found.
func (c *comparison) compareCounts() {
	names := map[string]string{WitnessPCI: "the PCI bus", WitnessProc: "the kernel driver", WitnessNVML: "NVML", WitnessCUDA: "CUDA"}
	cut := slices.ContainsFunc(c.entries, func(e *entry) bool { return e.partitioned() }) // CUDA then counts instances
	differ, most := false, 0
	var parts []string
	for _, w := range c.witnesses {
		most = max(most, w.Count)
	}
	for _, w := range c.witnesses {
		if !w.Answers || w.Name == WitnessCUDA && cut {
			if !w.Answers && most > 0 {
				c.find("silent "+w.Name, "GPU_WITNESS", fmt.Sprintf("%s cannot be asked: %s", names[w.Name], w.Why), "")
			}
			continue
		}
		answer := 0
		for _, t := range w.Cards {
			if !t.Lost {
				answer++
			}
		}
		part := fmt.Sprintf("%s %d", names[w.Name], w.Count)
		if answer != w.Count {
			part += fmt.Sprintf(" of which %d answer", answer)
			differ = true
		}
		parts = append(parts, part)
		differ = differ || w.Count != most
	}
	if differ {
		c.find("count", "GPU_COUNT", "the witnesses count different numbers of NVIDIA cards: "+strings.Join(parts, ", "), "")
	}
}

// compareVersions holds the driver's versions against each other: of NVML, the kernel driver, its module and the libraries.
func (c *comparison) compareVersions() {
	said := map[string][]string{}
	add := func(who, version string) {
		if version != "" {
			said[version] = append(said[version], who)
		}
	}
	add("NVML", c.witness(WitnessNVML).Version)
	add("/proc/driver/nvidia/version", c.witness(WitnessProc).Version)
	add("/sys/module/nvidia/version", clean(c.module))
	for _, l := range c.loaded {
		add(l.path, l.version)
	}
	if len(said) < 2 {
		return
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(said)) {
		parts = append(parts, v+" by "+strings.Join(said[v], " and "))
	}
	c.find("version", "GPU_DRIVER", "the NVIDIA driver has several versions: "+strings.Join(parts, ", "), "")
}

// compareAddresses finds one UUID at two addresses: two cards of one name, or two witnesses that place one card differently.
func (c *comparison) compareAddresses() {
	first := map[string]*entry{}
	for _, e := range c.entries {
		for _, u := range e.uuids() {
			other := first[u]
			if other == nil {
				first[u] = e
				continue
			}
			code, sentence := "GPU_PCI", fmt.Sprintf("the witnesses place card %s at different addresses: %s and %s", u, other.where(), e.where())
			for name, t := range e.by {
				if o := other.by[name]; o != nil && t.UUID != "" && strings.EqualFold(t.UUID, o.UUID) {
					code, sentence = "GPU_UUID_TWICE", fmt.Sprintf("two cards have the UUID %s: %s and %s", u, other.where(), e.where())
				}
			}
			if code == "GPU_PCI" {
				c.find("place "+u, "GPU_PCI", sentence, "")
			} else {
				c.find("twice "+u, "GPU_UUID_TWICE", sentence, "")
			}
		}
	}
}

func (e *entry) where() string {
	if e.at == nil {
		return "an unknown address"
	}
	return e.at.String()
}
