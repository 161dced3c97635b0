package localnet

// drandStore is the state of the beacon's pallet.
type drandStore struct {
	lastStored value[uint64]
}

func (rt *runtime) drandPallet() module {
	p := &prefix{pallet: "Drand"}
	rt.drand = &drandStore{lastStored: newValue(p, "LastStoredRound", cU64, 0)}
	return module{name: "Drand", crate: "pallet_drand", index: 26, storage: p}
}
