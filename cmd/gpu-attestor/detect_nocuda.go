//go:build nocuda

package main

import "basilica/hardware"

// witnesses: a static build can load neither library.
func witnesses() (cuda, nvml hardware.Witness) {
	return hardware.Witness{Why: errUnbuilt.Error()}, hardware.Witness{Why: errUnbuilt.Error()}
}
