package localnet

const assetsIndex = 31

// assetsStore counts the alpha of every subnet.
type assetsStore struct {
	issued, burned, recycled map1[uint16, uint64]
}

func (rt *runtime) assetsPallet() module {
	p := &prefix{pallet: "AlphaAssets"}
	rt.assets = &assetsStore{
		issued:   newMap(p, "TotalAlphaIssuance", byNetTwox, cU64, 0),
		burned:   newMap(p, "AlphaBurned", byNetTwox, cU64, 0),
		recycled: newMap(p, "AlphaRecycled", byNetTwox, cU64, 0),
	}
	return module{name: "AlphaAssets", crate: "pallet_alpha_assets", index: assetsIndex, storage: p}
}

// issueAlpha counts alpha that a subnet emits.
func (rt *runtime) issueAlpha(x writer, netuid uint16, amount uint64) {
	rt.subnets.subnetAlphaOut.change(x, netuid, func(v uint64) uint64 { return v + amount })
	rt.assets.issued.change(x, netuid, func(v uint64) uint64 { return v + amount })
}

// burnAlpha takes alpha out of use; it still counts as issued.
func (rt *runtime) burnAlpha(x writer, netuid uint16, amount uint64) {
	if amount > 0 {
		rt.assets.burned.change(x, netuid, func(v uint64) uint64 { return v + amount })
	}
}

// recycleAlpha takes alpha back, so that it can be emitted again.
func (rt *runtime) recycleAlpha(x writer, netuid uint16, amount uint64) {
	if amount == 0 {
		return
	}
	less := func(v uint64) uint64 { return v - min(v, amount) }
	rt.subnets.subnetAlphaOut.change(x, netuid, less)
	rt.assets.issued.change(x, netuid, less)
	rt.assets.recycled.change(x, netuid, func(v uint64) uint64 { return v + amount })
}
