package scale

import (
	"fmt"
	"math/big"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a dynamic value: a batch of batches of calls
// is recursive, so a hostile input could otherwise exhaust the stack.
const maxDepth = 64

// Bounds on how many values one Decode makes, so that neither elements without
// bytes nor nested newtypes make much out of little: some for each byte of the
// input, and some for types that have hardly any bytes.
const (
	valuesPerByte = 32
	spareValues   = 4096
	maxValues     = 1 << 22
)

// Registry decodes and encodes values by the type ids of one metadata. It is
// safe for concurrent use.
type Registry struct {
	types []Type
	empty []bool // types without bytes
}

// NewRegistry checks the types (id i at place i, no dangling reference) and
// makes a Registry of them.
func NewRegistry(types []Type) (*Registry, error) {
	if err := checkTypes(types); err != nil {
		return nil, err
	}
	return &Registry{types: types, empty: emptyTypes(types)}, nil
}

// emptyTypes finds the types without bytes: those all of whose parts are. It
// works up from types without parts, so that recursive types end as not empty,
// in time proportional to the number of references.
func emptyTypes(types []Type) []bool {
	empty := make([]bool, len(types))
	missing := make([]int, len(types)) // parts that are not known to be empty
	users := make([][]uint32, len(types))
	var found []uint32
	for i := range types {
		parts, may := types[i].Def.parts()
		if !may {
			continue
		}
		missing[i] = len(parts)
		for _, part := range parts {
			users[part] = append(users[part], uint32(i))
		}
		if len(parts) == 0 {
			found = append(found, uint32(i))
		}
	}
	for len(found) > 0 {
		id := found[len(found)-1]
		found = found[:len(found)-1]
		empty[id] = true
		for _, user := range users[id] {
			if missing[user]--; missing[user] == 0 {
				found = append(found, user)
			}
		}
	}
	return empty
}

// parts lists the types that stand in a value of this one; false where a value
// has bytes of its own.
func (d *TypeDef) parts() (ids []uint32, may bool) {
	switch d.Kind {
	case KindComposite:
		for _, f := range d.Fields {
			ids = append(ids, f.Ty)
		}
		return ids, true
	case KindTuple:
		return d.Tuple, true
	case KindArray:
		if d.Len == 0 {
			return nil, true
		}
		return []uint32{d.Elem}, true
	case KindCompact:
		return []uint32{d.Elem}, true
	}
	return nil, false
}

// Type is the definition of a type id; ok is false where there is none.
func (g *Registry) Type(id uint32) (t *Type, ok bool) {
	if int(id) >= len(g.types) {
		return nil, false
	}
	return &g.types[id], true
}

// IsEmpty tells whether values of the type have no bytes.
func (g *Registry) IsEmpty(id uint32) bool { return int(id) < len(g.empty) && g.empty[id] }

// Decode reads one value of the type from r.
func (g *Registry) Decode(r *Reader, id uint32) (any, error) {
	if int(id) >= len(g.types) {
		return nil, fmt.Errorf("type %d of %d: %w", id, len(g.types), ErrInvalid)
	}
	d := decoder{g: g, r: r, left: min(maxValues, spareValues+valuesPerByte*r.Len())}
	v := d.value(id, 0)
	return v, r.Err()
}

// DecodeAll decodes data as exactly one value of the type.
func (g *Registry) DecodeAll(data []byte, id uint32) (any, error) {
	r := NewReader(data)
	v, err := g.Decode(r, id)
	if err != nil {
		return nil, err
	}
	return v, r.Done()
}

type decoder struct {
	g    *Registry
	r    *Reader
	left int // values that may still be made
}

func (d *decoder) value(id uint32, depth int) any {
	d.left--
	if depth > maxDepth || d.left < 0 {
		d.r.Fail(fmt.Errorf("value nested or spread too far: %w", ErrInvalid))
	}
	if d.r.Err() != nil {
		return nil
	}
	t := &d.g.types[id]
	def := &t.Def
	switch def.Kind {
	case KindComposite:
		return d.fields(def.Fields, depth)
	case KindVariant:
		return d.variant(t, depth)
	case KindSequence:
		n := 0
		if d.g.empty[def.Elem] {
			n = d.r.Count(0)
		} else {
			n = d.r.Count(1)
		}
		return d.elements(def.Elem, n, depth)
	case KindArray:
		return d.elements(def.Elem, int(def.Len), depth)
	case KindTuple:
		out := make([]any, 0, len(def.Tuple))
		for _, id := range def.Tuple {
			out = append(out, d.value(id, depth+1))
		}
		return out
	case KindPrimitive:
		return d.primitive(def.Primitive)
	case KindCompact:
		return d.compact(def.Elem, depth)
	}
	return d.bits(def)
}

func (d *decoder) fields(fields []Field, depth int) any {
	if len(fields) == 1 && fields[0].Name == "" {
		return d.value(fields[0].Ty, depth+1)
	}
	if len(fields) > 0 && fields[0].Name == "" {
		out := make([]any, 0, len(fields))
		for _, f := range fields {
			out = append(out, d.value(f.Ty, depth+1))
		}
		return out
	}
	return d.structure(fields, depth)
}

func (d *decoder) structure(fields []Field, depth int) Struct {
	out := make(Struct, 0, len(fields))
	for _, f := range fields {
		out = append(out, NamedValue{Name: f.Name, Value: d.value(f.Ty, depth+1)})
	}
	return out
}

func (d *decoder) variant(t *Type, depth int) any {
	tag := d.r.U8()
	if d.r.Err() != nil {
		return nil
	}
	if inner, ok := optionOf(t); ok {
		switch tag {
		case 0:
			return nil
		case 1:
			if _, nested := optionOf(&d.g.types[inner]); nested {
				return Some{d.value(inner, depth+1)}
			}
			return d.value(inner, depth+1)
		}
	}
	for i := range t.Def.Variants {
		v := &t.Def.Variants[i]
		if v.Index == tag {
			return VariantValue{Name: v.Name, Index: tag, Fields: d.structure(v.Fields, depth)}
		}
	}
	d.r.Fail(fmt.Errorf("enum %v has no variant %d: %w", t.Path, tag, ErrInvalid))
	return nil
}

// optionOf tells whether t is Option<inner>.
func optionOf(t *Type) (inner uint32, ok bool) {
	if t.Def.Kind != KindVariant || len(t.Path) != 1 || t.Path[0] != "Option" || len(t.Def.Variants) != 2 {
		return 0, false
	}
	for _, v := range t.Def.Variants {
		if v.Index == 1 && len(v.Fields) == 1 {
			return v.Fields[0].Ty, true
		}
	}
	return 0, false
}

func (g *Registry) isU8(id uint32) bool {
	d := &g.types[id].Def
	return d.Kind == KindPrimitive && d.Primitive == U8
}

func (d *decoder) elements(elem uint32, n, depth int) any {
	if d.r.Err() != nil {
		return nil
	}
	if d.g.isU8(elem) {
		return append([]byte{}, d.r.Raw(n)...)
	}
	out := make([]any, 0, min(n, 256))
	for range n {
		v := d.value(elem, depth+1)
		if d.r.Err() != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

// primSize is the size of an integer primitive in bytes and its sign; zero
// for bool, char and str.
func primSize(p Primitive) (size int, signed bool) {
	switch {
	case p >= U8 && p <= U256:
		return 1 << (p - U8), false
	case p >= I8 && p <= I256:
		return 1 << (p - I8), true
	}
	return 0, false
}

func (d *decoder) primitive(p Primitive) any {
	switch p {
	case Bool:
		return d.r.Bool()
	case Char:
		c := d.r.U32()
		if c > utf8.MaxRune || !utf8.ValidRune(rune(c)) {
			d.r.Fail(fmt.Errorf("char %#x: %w", c, ErrInvalid))
		}
		return rune(c)
	case Str:
		return d.r.Text()
	case U8:
		return uint64(d.r.U8())
	case U16:
		return uint64(d.r.U16())
	case U32:
		return uint64(d.r.U32())
	case U64:
		return d.r.U64()
	case I8:
		return int64(int8(d.r.U8()))
	case I16:
		return int64(int16(d.r.U16()))
	case I32:
		return int64(int32(d.r.U32()))
	case I64:
		return int64(d.r.U64())
	}
	size, signed := primSize(p)
	if signed {
		return d.r.Int(size)
	}
	return d.r.Uint(size)
}

func (d *decoder) compact(id uint32, depth int) any {
	if d.g.empty[id] {
		return d.value(id, depth+1)
	}
	prim, ok := d.g.compactPrimitive(id)
	if !ok {
		d.r.Fail(fmt.Errorf("compact of type %d: %w", id, ErrInvalid))
		return nil
	}
	size, _ := primSize(prim)
	v := d.r.CompactBig()
	if v.BitLen() > size*8 {
		d.r.Fail(fmt.Errorf("compact integer above %d bits: %w", size*8, ErrInvalid))
		return nil
	}
	if size <= 8 {
		return v.Uint64()
	}
	return v
}

// compactPrimitive finds the unsigned integer inside a compact type, through
// newtypes such as Perbill(u32).
func (g *Registry) compactPrimitive(id uint32) (Primitive, bool) {
	for range maxDepth {
		d := &g.types[id].Def
		switch {
		case d.Kind == KindPrimitive && d.Primitive >= U8 && d.Primitive <= U256:
			return d.Primitive, true
		case d.Kind == KindComposite && len(d.Fields) == 1:
			id = d.Fields[0].Ty
		case d.Kind == KindTuple && len(d.Tuple) == 1:
			id = d.Tuple[0]
		default:
			return 0, false
		}
	}
	return 0, false
}

// bits reads a bit sequence: the number of bits, then whole store words.
func (d *decoder) bits(def *TypeDef) any {
	n := d.r.Compact()
	size := d.g.bitStoreSize(def)
	if size == 0 || n > uint64(d.r.Len())*8 {
		d.r.Fail(fmt.Errorf("bit sequence of %d bits: %w", n, ErrInvalid))
		return nil
	}
	return Bits{Len: int(n), Data: append([]byte{}, d.r.Raw(bitBytes(int(n), size))...)}
}

// bitStoreSize is the size in bytes of the words that a bit sequence is kept
// in; 0 where its store is no integer.
func (g *Registry) bitStoreSize(def *TypeDef) int {
	size := 0
	if s := &g.types[def.BitStore].Def; s.Kind == KindPrimitive {
		size, _ = primSize(s.Primitive)
	}
	return size
}

// bitBytes is how many bytes n bits take in words of size bytes.
func bitBytes(n, size int) int { return (n + size*8 - 1) / (size * 8) * size }

// bigOf turns every integer that the encoder takes into a big.Int.
func bigOf(v any) (*big.Int, bool) {
	switch n := v.(type) {
	case *big.Int:
		return n, n != nil
	case uint64:
		return new(big.Int).SetUint64(n), true
	case int:
		return big.NewInt(int64(n)), true
	}
	return reflectInt(v)
}
