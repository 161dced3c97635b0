//go:build nocuda

package main

import (
	"context"

	"basilica"
	"basilica/attest"
)

// errUnbuilt: a static build cannot load the driver's library.
var errUnbuilt = basilica.E(basilica.NotFound, "CUDA_UNBUILT", "this gpu-attestor was built without CUDA", "build it with `make build`, without the tag nocuda")

func cudaDevices(func(pci, uuid string) bool) (machine, error) { return machine{}, errUnbuilt }

type sizer func(vramBytes uint64) (attest.Params, error)

func fullSize(vramBytes uint64) (attest.Params, error) { return attest.ParamsFor(vramBytes, 0) }

func selftestCUDA(context.Context, int, sizer, attest.Parallel) (cudaSelftest, error) {
	return cudaSelftest{}, errUnbuilt
}
