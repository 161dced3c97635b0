//go:build adversary

package main

import (
	"os"

	"basilica"
	"basilica/attest"
	"basilica/attest/adversary"
	"basilica/attestor"
)

// adversaryBuild says whether this binary can cheat: executors refuse it outside localnet.
const adversaryBuild = true

// newCPU cheats as the environment says, and is honest where that says nothing.
func newCPU(parallel attest.Parallel) (*attest.CPU, error) {
	spec := os.Getenv(attestor.EnvCheat)
	if spec == "" {
		return attest.NewCPU(parallel), nil
	}
	cpu, err := adversary.Device(spec, parallel)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "CHEAT_SPEC", "the cheat cannot be read", "set "+attestor.EnvCheat+"=fill:0.05").With(err)
	}
	return cpu, nil
}
