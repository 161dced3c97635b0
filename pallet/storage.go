package pallet

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"

	"basilica/scale"
)

// Blake2b256 is the chain's hash of blocks and extrinsics.
func Blake2b256(data []byte) [32]byte { return blake2b.Sum256(data) }

// Twox128 is the hash of pallet and item names in storage keys.
func Twox128(data []byte) []byte { return twox(data, 2) }

// twox is words little-endian xxHash64, with seeds 0, 1, … words-1.
func twox(data []byte, words uint64) []byte {
	out := make([]byte, 0, 8*words)
	for seed := range words {
		d := xxhash.NewWithSeed(seed)
		_, _ = d.Write(data) // never fails
		out = binary.LittleEndian.AppendUint64(out, d.Sum64())
	}
	return out
}

func blake128(data []byte) []byte { return blake(data, 16) }

// blake is blake2b of a size in bytes, 1 to 64.
func blake(data []byte, size int) []byte {
	h, err := blake2b.New(size, nil)
	if err != nil {
		panic("pallet: blake2b refuses a size: " + err.Error()) // all callers give one that it has
	}
	h.Write(data)
	return h.Sum(nil)
}

// HashKey appends one map key, already encoded, hashed as the metadata says.
func HashKey(b []byte, h scale.Hasher, encoded []byte) []byte {
	switch h {
	case scale.Blake2_128:
		return append(b, blake128(encoded)...)
	case scale.Blake2_256:
		sum := blake2b.Sum256(encoded)
		return append(b, sum[:]...)
	case scale.Blake2_128Concat:
		return append(append(b, blake128(encoded)...), encoded...)
	case scale.Twox128:
		return append(b, twox(encoded, 2)...)
	case scale.Twox256:
		return append(b, twox(encoded, 4)...)
	case scale.Twox64Concat:
		return append(append(b, twox(encoded, 1)...), encoded...)
	}
	return append(b, encoded...) // Identity
}

// hashSize is how many bytes stand before (concat) or instead of a key, and
// whether the key itself follows.
func hashSize(h scale.Hasher) (size int, concat bool) {
	switch h {
	case scale.Blake2_128, scale.Twox128:
		return 16, false
	case scale.Blake2_256, scale.Twox256:
		return 32, false
	case scale.Blake2_128Concat:
		return 16, true
	case scale.Twox64Concat:
		return 8, true
	}
	return 0, true
}

// Storage finds a storage item and its pallet's prefix.
func (rt *Runtime) Storage(pallet, item string) (*scale.StorageEntry, string, error) {
	p, err := rt.pallet(pallet)
	if err != nil {
		return nil, "", err
	}
	for i := range p.Storage.Entries {
		if e := &p.Storage.Entries[i]; e.Name == item {
			return e, p.Storage.Prefix, nil
		}
	}
	return nil, "", fmt.Errorf("storage %s.%s: %w", pallet, item, ErrUnknown)
}

// keyTypes are the types of a map's keys, one for each hasher.
func (rt *Runtime) keyTypes(e *scale.StorageEntry) ([]uint32, error) {
	if !e.IsMap {
		return nil, nil
	}
	if len(e.Hashers) == 1 {
		return []uint32{e.Key}, nil
	}
	t, ok := rt.reg.Type(e.Key)
	if !ok || t.Def.Kind != scale.KindTuple || len(t.Def.Tuple) != len(e.Hashers) {
		return nil, fmt.Errorf("storage %s has %d hashers and another number of keys: %w", e.Name, len(e.Hashers), scale.ErrInvalid)
	}
	return t.Def.Tuple, nil
}

// StorageKey is the key of a storage item. Fewer keys than the map has give
// the prefix of all entries that begin with them.
func (rt *Runtime) StorageKey(pallet, item string, keys ...any) ([]byte, error) {
	e, prefix, err := rt.Storage(pallet, item)
	if err != nil {
		return nil, err
	}
	ids, err := rt.keyTypes(e)
	if err != nil {
		return nil, err
	}
	if len(keys) > len(ids) {
		return nil, fmt.Errorf("storage %s.%s: %d keys given, it has %d: %w", pallet, item, len(keys), len(ids), scale.ErrInvalid)
	}
	b := append(Twox128([]byte(prefix)), Twox128([]byte(item))...)
	for i, k := range keys {
		encoded, err := rt.reg.Encode(nil, ids[i], k)
		if err != nil {
			return nil, fmt.Errorf("storage %s.%s: key %d: %w", pallet, item, i, err)
		}
		b = HashKey(b, e.Hashers[i], encoded)
	}
	return b, nil
}

// StorageArgs reads the map keys back out of a full storage key. A hasher that
// hides its key gives nil in its place.
func (rt *Runtime) StorageArgs(pallet, item string, key []byte) ([]any, error) {
	e, prefix, err := rt.Storage(pallet, item)
	if err != nil {
		return nil, err
	}
	ids, err := rt.keyTypes(e)
	if err != nil {
		return nil, err
	}
	start := append(Twox128([]byte(prefix)), Twox128([]byte(item))...)
	if !bytes.HasPrefix(key, start) {
		return nil, fmt.Errorf("key is not of %s.%s: %w", pallet, item, scale.ErrInvalid)
	}
	r := scale.NewReader(key[len(start):])
	args := make([]any, 0, len(ids))
	for i, id := range ids {
		size, concat := hashSize(e.Hashers[i])
		r.Raw(size)
		var v any
		if concat {
			if v, err = rt.reg.Decode(r, id); err != nil {
				return nil, fmt.Errorf("key of %s.%s: %w", pallet, item, err)
			}
		}
		args = append(args, v)
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("key of %s.%s: %w", pallet, item, err)
	}
	return args, nil
}

// DecodeStorage decodes a stored value. nil stands for an absent one: that is
// the item's default, or nil where it has none.
func (rt *Runtime) DecodeStorage(pallet, item string, raw []byte) (any, error) {
	e, _, err := rt.Storage(pallet, item)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		if e.Modifier == scale.Optional {
			return nil, nil
		}
		raw = e.Default
	}
	v, err := rt.reg.DecodeAll(raw, e.Value)
	if err != nil {
		return nil, fmt.Errorf("value of %s.%s: %w", pallet, item, err)
	}
	return v, nil
}

// EncodeStorage encodes a value for a storage item.
func (rt *Runtime) EncodeStorage(pallet, item string, v any) ([]byte, error) {
	e, _, err := rt.Storage(pallet, item)
	if err != nil {
		return nil, err
	}
	b, err := rt.reg.Encode(nil, e.Value, v)
	if err != nil {
		return nil, fmt.Errorf("value of %s.%s: %w", pallet, item, err)
	}
	return b, nil
}
