package pallet

import "basilica/scale"

// NetUIDIndex is under which number the chain keeps weights, bonds and commits of a subnet's mechanism; of mechanism 0 it is
// the netuid (subnets/mechanism.rs).
func NetUIDIndex(netuid uint16, mechanism uint8) uint16 { return uint16(mechanism)<<12 + netuid }

// CommitHash is what commit_weights and commit_mechanism_weights commit to (subnets/weights.rs, get_commit_hash):
// blake2-256 of who, netuid index, uids, values, salt and version key. The reveal has to give the very same lists.
func CommitHash(who [32]byte, netuidIndex uint16, uids, values, salt []uint16, versionKey uint64) [32]byte {
	return Blake2b256(commitPreimage(who, netuidIndex, uids, values, salt, versionKey))
}

func commitPreimage(who [32]byte, netuidIndex uint16, uids, values, salt []uint16, versionKey uint64) []byte {
	b := scale.AppendU16(who[:], netuidIndex)
	for _, list := range [][]uint16{uids, values, salt} {
		b = scale.AppendCompact(b, uint64(len(list)))
		for _, v := range list {
			b = scale.AppendU16(b, v)
		}
	}
	return scale.AppendU64(b, versionKey)
}
