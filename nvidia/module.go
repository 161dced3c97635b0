package nvidia

import "basilica/nvidia/kernels"

// Products are the kernels of a module that make layers, the fastest first, for a card with so many multiprocessors.
func Products(m kernels.Module, multiprocessors int) []Product {
	all := []Product{{Kernel: "gemm_dp4a", Rows: 16, Columns: 16, Threads: 256}}
	if m.MMA {
		all = append([]Product{{Kernel: "gemm_mma", Rows: 128, Columns: 128, Threads: 256}}, all...)
	}
	if m.WGMMA { // WG_SHARED of kernels.cu; a block has a multiprocessor for itself
		all = append([]Product{{Kernel: "gemm_wgmma", Rows: 128, Columns: 256, Threads: 384, Shared: 230464, Blocks: uint32(multiprocessors)}}, all...)
	}
	return all
}

// Kernel is a kernel of a module that is to be launched, with at most so many bytes of shared memory beside what the module names.
type Kernel struct {
	Name   string
	Shared uint32
}

// Kernels are all that a Prover launches: the products and what every module has.
func Kernels(products []Product) []Kernel {
	all := []Kernel{{Name: "prg_layer"}, {Name: "leaf_hash"}, {Name: "node_hash"}, {Name: "walk"}, {Name: "mix"}}
	for _, p := range products {
		all = append(all, Kernel{p.Kernel, p.Shared})
	}
	return all
}
