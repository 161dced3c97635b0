package scale

import (
	"fmt"
	"math/big"
)

// Values that the dynamic decoder gives, by type:
//
//	bool                      bool
//	u8 … u64, compacts of it  uint64
//	i8 … i64                  int64
//	u128, u256, i128, i256    *big.Int
//	char                      rune
//	str                       string
//	[u8; n], Vec<u8>          []byte (a copy)
//	other arrays, sequences   []any
//	tuples                    []any
//	composites                Struct where fields have names; a single unnamed
//	                          field is the field itself (so that u16 and
//	                          NetUid(u16) look the same); several unnamed []any
//	enums                     VariantValue
//	Option                    nil, or the value; Some{v} where the inner type
//	                          could itself be nil
//	bit sequences             Bits
//
// The encoder takes the same and, for convenience, every Go integer type,
// *big.Int for every integer, slices and arrays of anything, map[string]any
// for composites, and a plain string for an enum's variant without fields.

// NamedValue is one field of a Struct; Name is empty in positional fields.
type NamedValue struct {
	Name  string
	Value any
}

// Struct is a composite's or variant's fields in order.
type Struct []NamedValue

// Get finds a field by name; false where there is none.
func (s Struct) Get(name string) (any, bool) {
	for _, f := range s {
		if f.Name == name {
			return f.Value, true
		}
	}
	return nil, false
}

// VariantValue is one arm of an enum with its fields.
type VariantValue struct {
	Name   string
	Index  uint8 // decoder only; the encoder goes by Name
	Fields Struct
}

// NewVariant makes a variant with positional fields, for the encoder.
func NewVariant(name string, fields ...any) VariantValue {
	v := VariantValue{Name: name}
	for _, f := range fields {
		v.Fields = append(v.Fields, NamedValue{Value: f})
	}
	return v
}

// Some marks a present Option whose inner value may itself be nil.
type Some struct{ Value any }

// Bits is a bit sequence: Len bits in Data as they stand on the wire.
type Bits struct {
	Len  int
	Data []byte
}

// AsUint64 reads an unsigned integer that the decoder gave.
func AsUint64(v any) (uint64, error) {
	switch n := v.(type) {
	case uint64:
		return n, nil
	case *big.Int:
		if n.IsUint64() {
			return n.Uint64(), nil
		}
	}
	return 0, fmt.Errorf("%T is not an unsigned integer of 64 bits: %w", v, ErrInvalid)
}
