package localnet

import (
	"basilica/pallet"
	"basilica/scale"
)

// account is a public key: a coldkey or a hotkey.
type account [32]byte

// codec is how a Go value stands in SCALE, and the type that metadata gives it.
type codec[V any] struct {
	shape  shape
	encode func(b []byte, v V) []byte
	decode func(r *scale.Reader) V
}

var (
	cBool    = codec[bool]{tBool, scale.AppendBool, (*scale.Reader).Bool}
	cU8      = codec[uint8]{tU8, scale.AppendU8, (*scale.Reader).U8}
	cU16     = codec[uint16]{tU16, scale.AppendU16, (*scale.Reader).U16}
	cU32     = codec[uint32]{tU32, scale.AppendU32, (*scale.Reader).U32}
	cU64     = codec[uint64]{tU64, scale.AppendU64, (*scale.Reader).U64}
	cBytes   = codec[[]byte]{tBytes, scale.AppendBytes, (*scale.Reader).Bytes}
	cAccount = codec[account]{tAccount, func(b []byte, v account) []byte { return append(b, v[:]...) }, readAccount}
	cHash    = codec[account]{tHash, func(b []byte, v account) []byte { return append(b, v[:]...) }, readAccount}
	cU128    = codec[[2]uint64]{
		tU128, func(b []byte, v [2]uint64) []byte { return scale.AppendU128(b, v[0], v[1]) },
		func(r *scale.Reader) [2]uint64 { hi, lo := r.U128(); return [2]uint64{hi, lo} },
	}
)

func readAccount(r *scale.Reader) (a account) {
	copy(a[:], r.Raw(32))
	return a
}

// listOf is the codec of a sequence.
func listOf[V any](of codec[V]) codec[[]V] {
	return codec[[]V]{
		shape: vec(of.shape),
		encode: func(b []byte, v []V) []byte {
			b = scale.AppendCompact(b, uint64(len(v)))
			for _, x := range v {
				b = of.encode(b, x)
			}
			return b
		},
		decode: func(r *scale.Reader) []V {
			n := r.Count(1)
			out := make([]V, 0, n)
			for range n {
				out = append(out, of.decode(r))
			}
			return out
		},
	}
}

// as gives a codec another type in metadata; the bytes stay.
func as[V any](s shape, c codec[V]) codec[V] {
	c.shape = s
	return c
}

// reader is state as pallets read it.
type reader interface {
	get(key string) ([]byte, bool)
	scan(prefix string) []string
}

// writer is state as pallets change it; a nil value removes the key.
type writer interface {
	reader
	put(key string, value []byte)
}

// prefix declares the storage of one pallet; items list themselves in entries in the order of declaration.
type prefix struct {
	pallet  string
	grown   bool // an upgrade has given a struct a field more
	entries []storageEntry
}

// storageEntry is one declared item as metadata needs it.
type storageEntry struct {
	name     string
	optional bool
	hashers  []scale.Hasher
	keys     []shape
	value    shape
	fallback []byte
}

func (p *prefix) declare(e storageEntry) string {
	p.entries = append(p.entries, e)
	return string(pallet.Twox128([]byte(p.pallet))) + string(pallet.Twox128([]byte(e.name)))
}

// item is the value side of every storage handle.
type item[V any] struct {
	prefix   string
	codec    codec[V]
	fallback V
}

func newItem[V any](p *prefix, name string, optional bool, c codec[V], fallback V, hashers []scale.Hasher, keys ...shape) item[V] {
	e := storageEntry{name: name, optional: optional, hashers: hashers, keys: keys, value: c.shape, fallback: []byte{0}}
	if !optional {
		e.fallback = c.encode(nil, fallback)
	}
	return item[V]{prefix: p.declare(e), codec: c, fallback: fallback}
}

func (i item[V]) read(s reader, key string) (V, bool) {
	raw, ok := s.get(key)
	if !ok {
		return i.fallback, false
	}
	r := scale.NewReader(raw)
	v := i.codec.decode(r)
	if err := r.Done(); err != nil {
		panic("localnet: a stored value does not decode: " + err.Error())
	}
	return v, true
}

func (i item[V]) write(s writer, key string, v V) { s.put(key, i.codec.encode(nil, v)) }

// value is a storage item without a key.
type value[V any] struct{ item[V] }

func newValue[V any](p *prefix, name string, c codec[V], fallback V) value[V] {
	return value[V]{newItem(p, name, false, c, fallback, nil)}
}

func newOptional[V any](p *prefix, name string, c codec[V]) value[V] {
	var none V
	return value[V]{newItem(p, name, true, c, none, nil)}
}

func (v value[V]) get(s reader) V    { x, _ := v.read(s, v.prefix); return x }
func (v value[V]) set(s writer, x V) { v.write(s, v.prefix, x) }

// key is one hashed key of a map.
type key[K any] struct {
	hasher scale.Hasher
	codec  codec[K]
}

func (k key[K]) hash(b []byte, v K) []byte {
	return pallet.HashKey(b, k.hasher, k.codec.encode(nil, v))
}

var (
	byNet      = key[uint16]{scale.Identity, cU16}
	byNetBlake = key[uint16]{scale.Blake2_128Concat, cU16}
	byUID      = key[uint16]{scale.Identity, cU16}
	byAccount  = key[account]{scale.Blake2_128Concat, cAccount}
	byBlock    = key[uint32]{scale.Twox64Concat, cU32}
	byNetTwox  = key[uint16]{scale.Twox64Concat, cU16}
	byEpoch    = key[uint64]{scale.Twox64Concat, cU64}
	byIndex    = key[uint64]{scale.Identity, cU64}

	byAccountTwox  = key[account]{scale.Twox64Concat, cAccount}
	byAccountPlain = key[account]{scale.Identity, cAccount}
	byRateLimit    = key[[]byte]{scale.Identity, cRateLimitKey}
)

// map1 is a storage map with one key.
type map1[K, V any] struct {
	item[V]
	k key[K]
}

func newMap[K, V any](p *prefix, name string, k key[K], c codec[V], fallback V) map1[K, V] {
	return map1[K, V]{newItem(p, name, false, c, fallback, []scale.Hasher{k.hasher}, k.codec.shape), k}
}

func newOptionalMap[K, V any](p *prefix, name string, k key[K], c codec[V]) map1[K, V] {
	var none V
	return map1[K, V]{newItem(p, name, true, c, none, []scale.Hasher{k.hasher}, k.codec.shape), k}
}

func (m map1[K, V]) key(k K) string                    { return string(m.k.hash([]byte(m.prefix), k)) }
func (m map1[K, V]) get(s reader, k K) V               { v, _ := m.read(s, m.key(k)); return v }
func (m map1[K, V]) find(s reader, k K) (V, bool)      { return m.read(s, m.key(k)) }
func (m map1[K, V]) set(s writer, k K, v V)            { m.write(s, m.key(k), v) }
func (m map1[K, V]) del(s writer, k K)                 { s.put(m.key(k), nil) }
func (m map1[K, V]) change(s writer, k K, f func(V) V) { m.set(s, k, f(m.get(s, k))) }

// map2 is a storage map with two keys.
type map2[K1, K2, V any] struct {
	item[V]
	k1 key[K1]
	k2 key[K2]
}

func newMap2[K1, K2, V any](p *prefix, name string, k1 key[K1], k2 key[K2], c codec[V], fallback V) map2[K1, K2, V] {
	return map2[K1, K2, V]{newItem(p, name, false, c, fallback, []scale.Hasher{k1.hasher, k2.hasher}, k1.codec.shape, k2.codec.shape), k1, k2}
}

func newOptionalMap2[K1, K2, V any](p *prefix, name string, k1 key[K1], k2 key[K2], c codec[V]) map2[K1, K2, V] {
	var none V
	return map2[K1, K2, V]{newItem(p, name, true, c, none, []scale.Hasher{k1.hasher, k2.hasher}, k1.codec.shape, k2.codec.shape), k1, k2}
}

func (m map2[K1, K2, V]) key(a K1, b K2) string {
	return string(m.k2.hash(m.k1.hash([]byte(m.prefix), a), b))
}

// under is the prefix of all keys with a first key.
func (m map2[K1, K2, V]) under(a K1) string { return string(m.k1.hash([]byte(m.prefix), a)) }

func (m map2[K1, K2, V]) get(s reader, a K1, b K2) V          { v, _ := m.read(s, m.key(a, b)); return v }
func (m map2[K1, K2, V]) find(s reader, a K1, b K2) (V, bool) { return m.read(s, m.key(a, b)) }
func (m map2[K1, K2, V]) set(s writer, a K1, b K2, v V)       { m.write(s, m.key(a, b), v) }
func (m map2[K1, K2, V]) del(s writer, a K1, b K2)            { s.put(m.key(a, b), nil) }

// map3 is a storage map with three keys.
type map3[K1, K2, K3, V any] struct {
	item[V]
	k1 key[K1]
	k2 key[K2]
	k3 key[K3]
}

func newMap3[K1, K2, K3, V any](p *prefix, name string, k1 key[K1], k2 key[K2], k3 key[K3], c codec[V], fallback V) map3[K1, K2, K3, V] {
	return map3[K1, K2, K3, V]{newItem(p, name, false, c, fallback, []scale.Hasher{k1.hasher, k2.hasher, k3.hasher},
		k1.codec.shape, k2.codec.shape, k3.codec.shape), k1, k2, k3}
}

func newOptionalMap3[K1, K2, K3, V any](p *prefix, name string, k1 key[K1], k2 key[K2], k3 key[K3], c codec[V]) map3[K1, K2, K3, V] {
	var none V
	return map3[K1, K2, K3, V]{newItem(p, name, true, c, none, []scale.Hasher{k1.hasher, k2.hasher, k3.hasher},
		k1.codec.shape, k2.codec.shape, k3.codec.shape), k1, k2, k3}
}

func (m map3[K1, K2, K3, V]) key(a K1, b K2, c K3) string {
	return string(m.k3.hash(m.k2.hash(m.k1.hash([]byte(m.prefix), a), b), c))
}

// under is the prefix of all keys with a first key; underBoth, of all with the first two.
func (m map3[K1, K2, K3, V]) under(a K1) string { return string(m.k1.hash([]byte(m.prefix), a)) }

func (m map3[K1, K2, K3, V]) underBoth(a K1, b K2) string {
	return string(m.k2.hash([]byte(m.under(a)), b))
}

func (m map3[K1, K2, K3, V]) get(s reader, a K1, b K2, c K3) V {
	v, _ := m.read(s, m.key(a, b, c))
	return v
}

func (m map3[K1, K2, K3, V]) set(s writer, a K1, b K2, c K3, v V) {
	m.write(s, m.key(a, b, c), v)
}
func (m map3[K1, K2, K3, V]) del(s writer, a K1, b K2, c K3) { s.put(m.key(a, b, c), nil) }

func (m map3[K1, K2, K3, V]) change(s writer, a K1, b K2, c K3, f func(V) V) {
	m.set(s, a, b, c, f(m.get(s, a, b, c)))
}
