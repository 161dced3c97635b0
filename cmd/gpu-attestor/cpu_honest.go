//go:build !adversary

package main

import "basilica/attest"

// adversaryBuild says whether this binary can cheat.
const adversaryBuild = false

func newCPU(parallel attest.Parallel) (*attest.CPU, error) { return attest.NewCPU(parallel), nil }
