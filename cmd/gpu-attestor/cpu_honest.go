//go:build !adversary

package main

import (
	"basilica/attest"
	"basilica/attestor"
)

// adversaryBuild says whether this binary can cheat.
const adversaryBuild = false

// softwareDevices are the CPU provers of this machine.
func softwareDevices(spki []byte, n int, parallel attest.Parallel) ([]attestor.Device, error) {
	var ds []attestor.Device
	for i := range n {
		ds = append(ds, attestor.NewSoftware(spki, i, attest.NewCPU(parallel)))
	}
	return ds, nil
}

// signer signs the evidence.
func signer(key attestKey) (func(msg []byte) ([]byte, error), error) { return key.Sign, nil }
