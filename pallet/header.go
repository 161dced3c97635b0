package pallet

import "basilica/scale"

// Header is a block header. Its hash is the block's hash.
type Header struct {
	Parent         [32]byte
	Number         uint64
	StateRoot      [32]byte
	ExtrinsicsRoot [32]byte
	Digest         [][]byte // digest items, each already encoded, as in the JSON's logs
}

// Encode is the header's SCALE form.
func (h *Header) Encode() []byte {
	b := append([]byte{}, h.Parent[:]...)
	b = scale.AppendCompact(b, h.Number)
	b = append(b, h.StateRoot[:]...)
	b = append(b, h.ExtrinsicsRoot[:]...)
	b = scale.AppendCompact(b, uint64(len(h.Digest)))
	for _, item := range h.Digest {
		b = append(b, item...)
	}
	return b
}

// Hash is blake2-256 of the SCALE form.
func (h *Header) Hash() [32]byte { return Blake2b256(h.Encode()) }
