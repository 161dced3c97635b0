package scale

import (
	"fmt"
	"math/big"
	"reflect"
	"unicode/utf8"
)

// Encode appends v as a value of the type. What v may be is listed in
// value.go. An error names the place by field and index.
func (g *Registry) Encode(b []byte, id uint32, v any) ([]byte, error) {
	if int(id) >= len(g.types) {
		return nil, fmt.Errorf("type %d of %d: %w", id, len(g.types), ErrInvalid)
	}
	return g.encode(b, id, v, 0)
}

func (g *Registry) encode(b []byte, id uint32, v any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value nested too deep: %w", ErrInvalid)
	}
	t := &g.types[id]
	d := &t.Def
	switch d.Kind {
	case KindComposite:
		return g.encodeFields(b, d.Fields, v, depth)
	case KindVariant:
		return g.encodeVariant(b, t, v, depth)
	case KindSequence:
		return g.encodeList(b, d.Elem, -1, v, depth)
	case KindArray:
		return g.encodeList(b, d.Elem, int(d.Len), v, depth)
	case KindTuple:
		return g.encodeTuple(b, d.Tuple, v, depth)
	case KindPrimitive:
		return encodePrimitive(b, d.Primitive, v)
	case KindCompact:
		return g.encodeCompact(b, d.Elem, v, depth)
	}
	bits, ok := v.(Bits)
	if !ok {
		return nil, mismatch("bit sequence", v)
	}
	if size := g.bitStoreSize(d); size == 0 || bits.Len < 0 || len(bits.Data) != bitBytes(bits.Len, size) {
		return nil, fmt.Errorf("bit sequence of %d bits in %d bytes: %w", bits.Len, len(bits.Data), ErrInvalid)
	}
	return append(AppendCompact(b, uint64(bits.Len)), bits.Data...), nil
}

func mismatch(want string, v any) error {
	return fmt.Errorf("%T where %s is wanted: %w", v, want, ErrInvalid)
}

func (g *Registry) encodeFields(b []byte, fields []Field, v any, depth int) ([]byte, error) {
	if len(fields) == 0 {
		return b, nil
	}
	if len(fields) == 1 && fields[0].Name == "" {
		return g.encode(b, fields[0].Ty, v, depth+1)
	}
	if fields[0].Name == "" {
		ids := make([]uint32, len(fields))
		for i, f := range fields {
			ids[i] = f.Ty
		}
		return g.encodeTuple(b, ids, v, depth)
	}
	get, n, err := fieldGetter(v)
	if err != nil {
		return nil, err
	}
	if n != len(fields) {
		return nil, fmt.Errorf("%d fields given, %d wanted: %w", n, len(fields), ErrInvalid)
	}
	for i, f := range fields {
		fv, ok := get(i, f.Name)
		if !ok {
			return nil, fmt.Errorf("field %s is missing: %w", f.Name, ErrInvalid)
		}
		if b, err = g.encode(b, f.Ty, fv, depth+1); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
	}
	return b, nil
}

// fieldGetter finds fields by name, or by place where the value has no names.
func fieldGetter(v any) (get func(i int, name string) (any, bool), n int, err error) {
	switch s := v.(type) {
	case map[string]any:
		return func(_ int, name string) (any, bool) { fv, ok := s[name]; return fv, ok }, len(s), nil
	case Struct:
		if len(s) > 0 && s[0].Name == "" {
			return func(i int, _ string) (any, bool) { return s[i].Value, true }, len(s), nil
		}
		return func(_ int, name string) (any, bool) { return s.Get(name) }, len(s), nil
	}
	return nil, 0, mismatch("a struct", v)
}

func (g *Registry) encodeVariant(b []byte, t *Type, v any, depth int) ([]byte, error) {
	if inner, ok := optionOf(t); ok {
		if v == nil {
			return append(b, 0), nil
		}
		if s, ok := v.(Some); ok {
			v = s.Value
		}
		return g.encode(append(b, 1), inner, v, depth+1)
	}
	var vv VariantValue
	switch x := v.(type) {
	case VariantValue:
		vv = x
	case string:
		vv.Name = x
	default:
		return nil, mismatch(fmt.Sprintf("enum %v", t.Path), v)
	}
	for i := range t.Def.Variants {
		arm := &t.Def.Variants[i]
		if arm.Name != vv.Name {
			continue
		}
		b = append(b, arm.Index)
		if len(arm.Fields) != len(vv.Fields) {
			return nil, fmt.Errorf("variant %s has %d fields, %d given: %w", arm.Name, len(arm.Fields), len(vv.Fields), ErrInvalid)
		}
		if len(arm.Fields) == 1 && arm.Fields[0].Name == "" {
			return g.encode(b, arm.Fields[0].Ty, vv.Fields[0].Value, depth+1)
		}
		if len(arm.Fields) > 0 && arm.Fields[0].Name == "" {
			args := make([]any, len(vv.Fields))
			for j, f := range vv.Fields {
				args[j] = f.Value
			}
			return g.encodeFields(b, arm.Fields, args, depth)
		}
		return g.encodeFields(b, arm.Fields, vv.Fields, depth)
	}
	return nil, fmt.Errorf("enum %v has no variant %q: %w", t.Path, vv.Name, ErrInvalid)
}

func (g *Registry) encodeTuple(b []byte, ids []uint32, v any, depth int) ([]byte, error) {
	if len(ids) == 0 {
		return b, nil
	}
	list, ok := v.([]any)
	if !ok && len(ids) == 1 {
		list, ok = []any{v}, true
	}
	if !ok || len(list) != len(ids) {
		return nil, mismatch(fmt.Sprintf("a tuple of %d", len(ids)), v)
	}
	var err error
	for i, id := range ids {
		if b, err = g.encode(b, id, list[i], depth+1); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return b, nil
}

// encodeList writes a sequence (size below 0) or an array of that size.
func (g *Registry) encodeList(b []byte, elem uint32, size int, v any, depth int) ([]byte, error) {
	if s, ok := v.(string); ok && g.isU8(elem) {
		v = []byte(s)
	}
	rv := reflect.ValueOf(v)
	if v == nil || (rv.Kind() != reflect.Slice && rv.Kind() != reflect.Array) {
		return nil, mismatch("a list", v)
	}
	n := rv.Len()
	if size < 0 {
		b = AppendCompact(b, uint64(n))
	} else if n != size {
		return nil, fmt.Errorf("%d elements where %d are wanted: %w", n, size, ErrInvalid)
	}
	if raw, ok := v.([]byte); ok && g.isU8(elem) {
		return append(b, raw...), nil
	}
	var err error
	for i := range n {
		if b, err = g.encode(b, elem, rv.Index(i).Interface(), depth+1); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return b, nil
}

func encodePrimitive(b []byte, p Primitive, v any) ([]byte, error) {
	switch p {
	case Bool:
		x, ok := v.(bool)
		if !ok {
			return nil, mismatch("bool", v)
		}
		return AppendBool(b, x), nil
	case Char:
		x, ok := v.(rune)
		if !ok || !utf8.ValidRune(x) {
			return nil, mismatch("char", v)
		}
		return AppendU32(b, uint32(x)), nil
	case Str:
		x, ok := v.(string)
		if !ok {
			return nil, mismatch("str", v)
		}
		return AppendString(b, x), nil
	}
	n, ok := bigOf(v)
	if !ok {
		return nil, mismatch("an integer", v)
	}
	size, signed := primSize(p)
	if signed {
		return AppendInt(b, n, size)
	}
	return AppendUint(b, n, size)
}

func (g *Registry) encodeCompact(b []byte, id uint32, v any, depth int) ([]byte, error) {
	if g.empty[id] {
		return g.encode(b, id, v, depth+1)
	}
	prim, ok := g.compactPrimitive(id)
	if !ok {
		return nil, fmt.Errorf("compact of type %d: %w", id, ErrInvalid)
	}
	n, ok := bigOf(v)
	if !ok {
		return nil, mismatch("an integer", v)
	}
	if size, _ := primSize(prim); n.BitLen() > size*8 {
		return nil, fmt.Errorf("%s in a compact of %d bits: %w", n, size*8, ErrTooBig)
	}
	return AppendCompactBig(b, n)
}

// reflectInt reads integers of named types, such as basilica.NetUID.
func reflectInt(v any) (*big.Int, bool) {
	rv := reflect.ValueOf(v)
	switch {
	case v == nil:
		return nil, false
	case rv.CanUint():
		return new(big.Int).SetUint64(rv.Uint()), true
	case rv.CanInt():
		return big.NewInt(rv.Int()), true
	}
	return nil, false
}
