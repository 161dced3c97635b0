//go:build nocuda

package main

import (
	"context"

	"basilica"
	"basilica/attest"
)

// errUnbuilt: a static build cannot load the driver's library.
var errUnbuilt = basilica.E(basilica.NotFound, "CUDA_UNBUILT", "this gpu-attestor was built without CUDA", "build it with `make build`, without the tag nocuda")

func cudaDevices(func(pci, uuid string) error, func(pci, uuid string, why error), sizer) (machine, error) {
	return machine{}, errUnbuilt
}

func selftestCUDA(context.Context, int, sizer, attest.Parallel) (cudaSelftest, error) {
	return cudaSelftest{}, errUnbuilt
}
