package scale

import "fmt"

// EncodeMetadata is the inverse of DecodeMetadata: the blob of m.Version (14 or 15), magic included. It fails for any
// other version and where a type id is not its position.
func EncodeMetadata(m *Metadata) ([]byte, error) {
	if m.Version != 14 && m.Version != 15 {
		return nil, fmt.Errorf("encode metadata: version %d: %w", m.Version, ErrInvalid)
	}
	e := metadataEncoder{v15: m.Version == 15}
	e.b = AppendU32(e.b, MetadataMagic)
	e.b = AppendU8(e.b, m.Version)
	e.compact(len(m.Types))
	for i, t := range m.Types {
		if int(t.ID) != i {
			return nil, fmt.Errorf("encode metadata: type %d at position %d: %w", t.ID, i, ErrInvalid)
		}
		e.typ(t)
	}
	e.compact(len(m.Pallets))
	for _, p := range m.Pallets {
		e.pallet(p)
	}
	e.extrinsic(m.Extrinsic)
	e.id(m.Ty)
	if e.v15 {
		e.apis(m.APIs)
		e.id(m.Outer.Call)
		e.id(m.Outer.Event)
		e.id(m.Outer.Error)
		e.compact(len(m.Custom))
		for _, c := range m.Custom {
			e.str(c.Name)
			e.id(c.Ty)
			e.b = AppendBytes(e.b, c.Value)
		}
	}
	return e.b, nil
}

type metadataEncoder struct {
	b   []byte
	v15 bool
}

func (e *metadataEncoder) compact(n int) { e.b = AppendCompact(e.b, uint64(n)) }
func (e *metadataEncoder) id(n uint32)   { e.b = AppendCompact(e.b, uint64(n)) }
func (e *metadataEncoder) u8(v uint8)    { e.b = AppendU8(e.b, v) }
func (e *metadataEncoder) str(s string)  { e.b = AppendString(e.b, s) }
func (e *metadataEncoder) strs(v []string) {
	e.compact(len(v))
	for _, s := range v {
		e.str(s)
	}
}

// optional writes an Option<str>, None where s is empty.
func (e *metadataEncoder) optional(s string) {
	e.b = AppendBool(e.b, s != "")
	if s != "" {
		e.str(s)
	}
}

// optionalID writes an Option<Compact<u32>>.
func (e *metadataEncoder) optionalID(has bool, id uint32) {
	e.b = AppendBool(e.b, has)
	if has {
		e.id(id)
	}
}

func (e *metadataEncoder) typ(t Type) {
	e.id(t.ID)
	e.strs(t.Path)
	e.compact(len(t.Params))
	for _, p := range t.Params {
		e.str(p.Name)
		e.optionalID(p.HasTy, p.Ty)
	}
	e.def(t.Def)
	e.strs(t.Docs)
}

func (e *metadataEncoder) def(d TypeDef) {
	e.u8(uint8(d.Kind))
	switch d.Kind {
	case KindComposite:
		e.fields(d.Fields)
	case KindVariant:
		e.compact(len(d.Variants))
		for _, v := range d.Variants {
			e.str(v.Name)
			e.fields(v.Fields)
			e.u8(v.Index)
			e.strs(v.Docs)
		}
	case KindSequence, KindCompact:
		e.id(d.Elem)
	case KindArray:
		e.b = AppendU32(e.b, d.Len)
		e.id(d.Elem)
	case KindTuple:
		e.compact(len(d.Tuple))
		for _, id := range d.Tuple {
			e.id(id)
		}
	case KindPrimitive:
		e.u8(uint8(d.Primitive))
	case KindBitSequence:
		e.id(d.BitStore)
		e.id(d.BitOrder)
	}
}

func (e *metadataEncoder) fields(fields []Field) {
	e.compact(len(fields))
	for _, f := range fields {
		e.optional(f.Name)
		e.id(f.Ty)
		e.optional(f.TypeName)
		e.strs(f.Docs)
	}
}

func (e *metadataEncoder) pallet(p PalletMeta) {
	e.str(p.Name)
	e.b = AppendBool(e.b, p.HasStorage)
	if p.HasStorage {
		e.storage(p.Storage)
	}
	e.optionalID(p.HasCalls, p.Calls)
	e.optionalID(p.HasEvent, p.Event)
	e.compact(len(p.Constants))
	for _, c := range p.Constants {
		e.str(c.Name)
		e.id(c.Ty)
		e.b = AppendBytes(e.b, c.Value)
		e.strs(c.Docs)
	}
	e.optionalID(p.HasError, p.Error)
	e.u8(p.Index)
	if e.v15 {
		e.strs(p.Docs)
	}
}

func (e *metadataEncoder) storage(s StorageMeta) {
	e.str(s.Prefix)
	e.compact(len(s.Entries))
	for _, entry := range s.Entries {
		e.str(entry.Name)
		e.u8(uint8(entry.Modifier))
		e.b = AppendBool(e.b, entry.IsMap)
		if entry.IsMap {
			e.compact(len(entry.Hashers))
			for _, h := range entry.Hashers {
				e.u8(uint8(h))
			}
			e.id(entry.Key)
		}
		e.id(entry.Value)
		e.b = AppendBytes(e.b, entry.Default)
		e.strs(entry.Docs)
	}
}

func (e *metadataEncoder) extrinsic(x ExtrinsicMeta) {
	if e.v15 {
		e.u8(x.Version)
		for _, id := range []uint32{x.Address, x.Call, x.Signature, x.Extra} {
			e.id(id)
		}
	} else {
		e.id(x.Ty)
		e.u8(x.Version)
	}
	e.compact(len(x.Extensions))
	for _, s := range x.Extensions {
		e.str(s.Identifier)
		e.id(s.Ty)
		e.id(s.Additional)
	}
}

func (e *metadataEncoder) apis(apis []RuntimeAPI) {
	e.compact(len(apis))
	for _, api := range apis {
		e.str(api.Name)
		e.compact(len(api.Methods))
		for _, m := range api.Methods {
			e.str(m.Name)
			e.compact(len(m.Inputs))
			for _, in := range m.Inputs {
				e.str(in.Name)
				e.id(in.Ty)
			}
			e.id(m.Output)
			e.strs(m.Docs)
		}
		e.strs(api.Docs)
	}
}
