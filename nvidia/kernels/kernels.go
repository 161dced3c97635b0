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

//go:embed k_sm_90a.ptx
var sm90a string

// Module is one file of PTX.
type Module struct {
	Name  string
	PTX   string // without a zero byte at its end
	MMA   bool   // it has gemm_mma beside gemm_dp4a
	WGMMA bool   // and gemm_wgmma
}

// Oldest is the module for compute capability 7.0 and above: products by dp4a.
func Oldest() Module { return Module{Name: "k_sm_70.ptx", PTX: sm70} }

// TensorCores is the module for compute capability 8.0 and above: products by tensor cores too, for n from 128.
func TensorCores() Module { return Module{Name: "k_sm_80.ptx", PTX: sm80, MMA: true} }

// Hopper is the module for compute capability 9.0 alone: products by the tensor cores that only it has too, for n from 256.
func Hopper() Module { return Module{Name: "k_sm_90a.ptx", PTX: sm90a, MMA: true, WGMMA: true} }

// hopperDriver is the first CUDA version whose driver takes the PTX ISA of Hopper, 8.0.
const hopperDriver = 12000

// For gives the best module for a card of this compute capability with a driver that speaks this version of CUDA, 1000*major + 10*minor;
// ok is false where none runs on it.
func For(major, minor, driver int) (m Module, ok bool) {
	switch {
	case major == 9 && minor == 0 && driver >= hopperDriver:
		return Hopper(), true
	case major >= 8:
		return TensorCores(), true
	case major == 7:
		return Oldest(), true
	}
	return Module{}, false
}

// SHA256 is the digest of all modules, one after the other: kernels_sha256 of HELLO (gpu-proof.md section 5).
func SHA256() [sha256.Size]byte { return sha256.Sum256([]byte(sm70 + sm80 + sm90a)) }
