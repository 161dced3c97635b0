// Package kernels holds the GPU kernels of GPOW1 as PTX, which every driver compiles for its own card. scripts/kernels.sh makes the
// files from kernels.cu with Debian's clang-19; SHA256SUMS names source and output.
package kernels

import (
	"crypto/sha256"
	_ "embed"
)

//go:embed k_sm_70.ptx
var sm70 string

//go:embed k_sm_80.ptx
var sm80 string

// Module is one file of PTX.
type Module struct {
	Name string
	PTX  string // without a zero byte at its end
	MMA  bool   // it has gemm_mma beside gemm_dp4a
}

// Oldest is the module for compute capability 7.0 and above: products by dp4a.
func Oldest() Module { return Module{Name: "k_sm_70.ptx", PTX: sm70} }

// TensorCores is the module for compute capability 8.0 and above: products by tensor cores too, for n from 128.
func TensorCores() Module { return Module{Name: "k_sm_80.ptx", PTX: sm80, MMA: true} }

// For gives the best module for a card of this compute capability; ok is false where none runs on it.
func For(major, minor int) (m Module, ok bool) {
	switch {
	case major >= 8:
		return TensorCores(), true
	case major == 7:
		return Oldest(), true
	}
	return Module{}, false
}

// SHA256 is the digest of all modules, one after the other: kernels_sha256 of HELLO (gpu-proof.md section 5).
func SHA256() [sha256.Size]byte { return sha256.Sum256([]byte(sm70 + sm80)) }
