//go:build adversary

package main

import (
	"os"

	"basilica"
	"basilica/attest"
	"basilica/attest/adversary"
	"basilica/attestor"
	"basilica/keys"
)

// adversaryBuild says whether this binary can cheat: executors refuse it outside localnet.
const adversaryBuild = true

// cheat reads the environment; without a word there it is honest.
func cheat() (adversary.Cheat, error) {
	spec := os.Getenv(attestor.EnvCheat)
	if spec == "" {
		return adversary.Cheat{}, nil
	}
	c, err := adversary.Parse(spec)
	if err != nil {
		return c, basilica.E(basilica.Invalid, "CHEAT_SPEC", "the cheat cannot be read", "set "+attestor.EnvCheat+"=fill:0.05").With(err)
	}
	return c, nil
}

// claimed is a device that says of itself what the cheat wants.
type claimed struct {
	attestor.Device
	cheat adversary.Cheat
}

// Info is what HELLO says.
func (c claimed) Info() attest.DeviceInfo { return c.cheat.Info(c.Device.Info()) }

// softwareDevices are the CPU provers of this machine, which cheat as the environment says.
func softwareDevices(spki []byte, n int, parallel attest.Parallel) ([]attestor.Device, error) {
	c, err := cheat()
	if err != nil {
		return nil, err
	}
	var ds []attestor.Device
	machine := adversary.NewMachine(c, parallel)
	for i := range n {
		ds = append(ds, claimed{attestor.NewSoftware(spki, i, machine.Device()), c})
	}
	return ds, nil
}

// signer signs the evidence, with another key where the cheat is that.
func signer(key attestKey) (func(msg []byte) ([]byte, error), error) {
	c, err := cheat()
	if err != nil || c.Kind != adversary.Key {
		return key.Sign, err
	}
	other, err := keys.GenerateP256()
	if err != nil {
		return nil, err
	}
	return other.Sign, nil
}
