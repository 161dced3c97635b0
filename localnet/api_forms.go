package localnet

import (
	"math/big"

	"basilica/scale"
)

// view is the state that a runtime API looks at.
type view struct {
	reader
	rt *runtime
}

// column is one field of an answer, written from what V knows.
type column[V any] struct {
	field
	put func(b []byte, v V) []byte
}

// form is the type of an answer and how it is written. Nothing here reads one back.
type form[V any] struct {
	shape shape
	put   func(b []byte, v V) []byte
}

// record is a composite of parts.
func record[V any](path string, parts ...column[V]) form[V] {
	fields := make([]field, len(parts))
	for i, p := range parts {
		fields[i] = p.field
	}
	return form[V]{composite(path, []param{{"AccountId", &tAccount}}, fields...), func(b []byte, v V) []byte {
		for _, p := range parts {
			b = p.put(b, v)
		}
		return b
	}}
}

// selective is a record each of whose parts after the first is there or not. netuid, the first, is 0 where nobody asks for it.
func selective[V any](path string, parts ...column[V]) form[chosen[V]] {
	optional := make([]column[chosen[V]], len(parts))
	for i, p := range parts {
		f := p.field
		if i > 0 {
			f.shape, f.typeName = option(p.shape), "Option<"+p.typeName+">"
		}
		optional[i] = column[chosen[V]]{f, func(b []byte, c chosen[V]) []byte {
			switch {
			case i == 0 && !c.fields[0]:
				return append(b, 0)
			case i == 0:
				return p.put(b, c.of)
			case !c.fields[uint16(i)]:
				return append(b, 0)
			}
			return p.put(append(b, 1), c.of)
		}}
	}
	return record(path, optional...)
}

// chosen names the fields that are wanted of something.
type chosen[V any] struct {
	of     V
	fields map[uint16]bool
}

func maybe[V any](of form[V]) form[*V] {
	return form[*V]{option(of.shape), func(b []byte, v *V) []byte {
		if v == nil {
			return append(b, 0)
		}
		return of.put(append(b, 1), *v)
	}}
}

func many[V any](of form[V]) form[[]V] {
	return form[[]V]{vec(of.shape), func(b []byte, v []V) []byte {
		b = scale.AppendCompact(b, uint64(len(v)))
		for _, x := range v {
			b = of.put(b, x)
		}
		return b
	}}
}

// plain is the form of what has a codec.
func plain[V any](c codec[V]) form[V] { return form[V]{c.shape, c.encode} }

type unsigned interface{ ~uint8 | ~uint16 | ~uint64 }

func compactForm[N unsigned](of shape) form[N] {
	return form[N]{compact(of), func(b []byte, v N) []byte { return scale.AppendCompact(b, uint64(v)) }}
}

var (
	fCompact8  = compactForm[uint8](tU8)
	fCompact16 = compactForm[uint16](tU16)
	fCompact64 = compactForm[uint64](tU64)
	fAccount   = plain(cAccount)
	fBool      = plain(cBool)
	// fCompactWide is a compact u128, high half first.
	fCompactWide = form[[2]uint64]{compact(tU128), func(b []byte, v [2]uint64) []byte {
		n := new(big.Int).SetUint64(v[0])
		b, err := scale.AppendCompactBig(b, n.Lsh(n, 64).Or(n, new(big.Int).SetUint64(v[1])))
		if err != nil {
			panic("localnet: " + err.Error()) // 128 bits always fit
		}
		return b
	}}
	// fLetters is a text as metagraphs have it: each byte a compact.
	fLetters = form[[]byte]{many(fCompact8).shape, func(b []byte, v []byte) []byte { return many(fCompact8).put(b, v) }}
)

// fill is a part with a value of a form; typeName is how the runtime's source spells its type.
func fill[V, X any](name, typeName string, f form[X], get func(V) X) column[V] {
	return column[V]{field{name, f.shape, typeName}, func(b []byte, v V) []byte { return f.put(b, get(v)) }}
}

func short[V any](name, typeName string, get func(V) uint16) column[V] {
	return fill(name, typeName, fCompact16, get)
}

func long[V any](name, typeName string, get func(V) uint64) column[V] {
	return fill(name, typeName, fCompact64, get)
}

func flag[V any](name string, get func(V) bool) column[V] { return fill(name, "bool", fBool, get) }

func whose[V any](name string, get func(V) account) column[V] {
	return fill(name, "AccountId", fAccount, get)
}
