package nvidia

import "basilica/nvidia/kernels"

// Products are the kernels of a module that make layers, the fastest first.
func Products(m kernels.Module) []Product {
	all := []Product{{Kernel: "gemm_dp4a", Tile: 16, Threads: 256}}
	if m.MMA {
		all = append([]Product{{Kernel: "gemm_mma", Tile: 128, Threads: 256}}, all...)
	}
	return all
}

// KernelNames are all kernels that a Prover launches: those of the products and the ones of every module.
func KernelNames(products []Product) []string {
	names := []string{"prg_layer", "leaf_hash", "node_hash", "walk", "mix"}
	for _, p := range products {
		names = append(names, p.Kernel)
	}
	return names
}
