package hardware

import (
	"slices"
	"strings"
	"unicode"
)

// chips gives the words that the name of an NVIDIA card must hold, one after another, by the device id on the PCI bus. A card
// that is not here may have any name. Source: the PCI ID Repository (pci-ids.ucw.cz), state of 2026-08-22.
var chips = map[string]string{
	"10de:15f7": "P100", "10de:15f8": "P100", "10de:15f9": "P100", "10de:1b38": "P40",
	"10de:1db1": "V100", "10de:1db3": "V100", "10de:1db4": "V100", "10de:1db5": "V100", "10de:1db6": "V100", "10de:1db8": "V100", "10de:1df6": "V100S",
	"10de:1e04": "RTX 2080 Ti", "10de:1e07": "RTX 2080 Ti", "10de:1eb8": "T4",
	"10de:20b0": "A100", "10de:20b1": "A100", "10de:20b2": "A100", "10de:20b3": "A100", "10de:20b5": "A100", "10de:20f1": "A100",
	"10de:20b7": "A30", "10de:20bd": "A800", "10de:20f3": "A800", "10de:20f5": "A800", "10de:20f6": "A800",
	"10de:2203": "RTX 3090 Ti", "10de:2204": "RTX 3090", "10de:2206": "RTX 3080", "10de:2208": "RTX 3080 Ti",
	"10de:2230": "A6000", "10de:2231": "A5000", "10de:2235": "A40", "10de:2236": "A10", "10de:2237": "A10G",
	"10de:2321": "H100", "10de:2330": "H100", "10de:2331": "H100", "10de:2339": "H100", "10de:2322": "H800", "10de:2324": "H800", "10de:2329": "H20", "10de:232c": "H20",
	"10de:2335": "H200", "10de:233b": "H200", "10de:2342": "GH200", "10de:2348": "GH200",
	"10de:2684": "RTX 4090", "10de:2685": "RTX 4090 D", "10de:2702": "RTX 4080", "10de:2704": "RTX 4080", "10de:2782": "RTX 4070 Ti",
	"10de:26b1": "RTX 6000 Ada", "10de:26b5": "L40", "10de:26b9": "L40S", "10de:27b8": "L4",
	"10de:2901": "B200", "10de:2909": "B200", "10de:2941": "GB200", "10de:3182": "B300", "10de:31c2": "GB300", "10de:31c3": "GB300",
	"10de:2b85": "RTX 5090", "10de:2b87": "RTX 5090 D", "10de:2bb1": "RTX PRO 6000", "10de:2bb4": "RTX PRO 6000", "10de:2bb5": "RTX PRO 6000",
	"10de:2c02": "RTX 5080", "10de:2c05": "RTX 5070 Ti", "10de:2e12": "GB10",
}

// nameWords cuts a name at everything but letters and digits, in small letters, without the vendor's own name.
func nameWords(name string) []string {
	w := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if len(w) > 0 && w[0] == "nvidia" {
		return w[1:]
	}
	return w
}

// fits says whether a card of this device id may have this name.
func fits(device, name string) bool {
	want, known := chips[device]
	if !known {
		return true
	}
	need, have := nameWords(want), nameWords(name)
	for i := 0; i+len(need) <= len(have); i++ {
		if slices.Equal(have[i:i+len(need)], need) {
			return true
		}
	}
	return false
}
