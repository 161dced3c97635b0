//go:build nocuda

package main

import (
	"testing"

	"basilica/internal/provoke"
)

func TestBuiltWithoutCUDA(t *testing.T) {
	_, err := run(t, "selftest", "--device", "cuda")
	provoke.Refused(t, err, "CUDA_UNBUILT")
}
