package scale

import "fmt"

// DecodeMetadata reads a runtime metadata blob of version 14, 15 or 16 (the
// bytes that begin with "meta") to its last byte. Address, Call and Signature
// of the extrinsic are filled for each.
func DecodeMetadata(blob []byte) (*Metadata, error) {
	r := NewReader(blob)
	if magic := r.U32(); r.Err() == nil && magic != MetadataMagic {
		return nil, fmt.Errorf("metadata does not begin with meta: %w", ErrInvalid)
	}
	m := &Metadata{Version: r.U8()}
	if r.Err() == nil && (m.Version < 14 || m.Version > 16) {
		return nil, fmt.Errorf("metadata version %d, want 14 to 16: %w", m.Version, ErrInvalid)
	}
	m.Types = list(r, readType)
	if r.Err() == nil {
		if err := checkTypes(m.Types); err != nil {
			return nil, fmt.Errorf("metadata types: %w", err)
		}
	}
	switch m.Version {
	case 14, 15:
		m.Pallets = list(r, func(r *Reader) PalletMeta { return readPallet(r, m.Version) })
		if m.Version == 14 {
			readExtrinsicV14(r, m)
		} else {
			readTailV15(r, m)
		}
	case 16:
		m.Pallets = list(r, readPalletV16)
		readTailV16(r, m)
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if err := checkRefs(m); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return m, nil
}

// DecodeOpaqueMetadata strips what state_call Metadata_metadata_at_version
// wraps around a blob, Option<Vec<u8>>, and decodes the blob. None is an
// error: the node does not have that version.
func DecodeOpaqueMetadata(answer []byte) (*Metadata, error) {
	r := NewReader(answer)
	if !r.Option() {
		if r.Err() != nil {
			return nil, fmt.Errorf("metadata answer: %w", r.Err())
		}
		return nil, fmt.Errorf("the node has no metadata of this version: %w", ErrInvalid)
	}
	blob := r.Raw(r.Count(1))
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("metadata answer: %w", err)
	}
	return DecodeMetadata(blob)
}

// list reads a Vec, growing with what is really there rather than with what
// the length promises.
func list[T any](r *Reader, read func(*Reader) T) []T {
	n := r.Count(1)
	var out []T
	for range n {
		v := read(r)
		if r.Err() != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

func readType(r *Reader) Type {
	t := Type{ID: r.Compact32(), Path: r.Strings()}
	t.Params = list(r, func(r *Reader) TypeParam {
		p := TypeParam{Name: r.Text(), HasTy: r.Option()}
		if p.HasTy {
			p.Ty = r.Compact32()
		}
		return p
	})
	d := &t.Def
	d.Kind = TypeDefKind(r.U8())
	switch d.Kind {
	case KindComposite:
		d.Fields = list(r, readField)
	case KindVariant:
		d.Variants = list(r, func(r *Reader) Variant {
			return Variant{Name: r.Text(), Fields: list(r, readField), Index: r.U8(), Docs: r.Strings()}
		})
	case KindSequence, KindCompact:
		d.Elem = r.Compact32()
	case KindArray:
		d.Len = r.U32()
		d.Elem = r.Compact32()
	case KindTuple:
		d.Tuple = list(r, (*Reader).Compact32)
	case KindPrimitive:
		d.Primitive = Primitive(r.U8())
		if d.Primitive > I256 {
			r.Fail(fmt.Errorf("primitive %d: %w", d.Primitive, ErrInvalid))
		}
	case KindBitSequence:
		d.BitStore = r.Compact32()
		d.BitOrder = r.Compact32()
	default:
		r.Fail(fmt.Errorf("type definition %d: %w", d.Kind, ErrInvalid))
	}
	t.Docs = r.Strings()
	return t
}

func optionalText(r *Reader) string {
	if r.Option() {
		return r.Text()
	}
	return ""
}

func readField(r *Reader) Field {
	return Field{Name: optionalText(r), Ty: r.Compact32(), TypeName: optionalText(r), Docs: r.Strings()}
}

func readPallet(r *Reader, version uint8) PalletMeta {
	p := PalletMeta{Name: r.Text()}
	if p.HasStorage = r.Option(); p.HasStorage {
		p.Storage = StorageMeta{Prefix: r.Text(), Entries: list(r, readEntry)}
	}
	if p.HasCalls = r.Option(); p.HasCalls {
		p.Calls = r.Compact32()
	}
	if p.HasEvent = r.Option(); p.HasEvent {
		p.Event = r.Compact32()
	}
	p.Constants = list(r, func(r *Reader) ConstantMeta {
		return ConstantMeta{Name: r.Text(), Ty: r.Compact32(), Value: r.Bytes(), Docs: r.Strings()}
	})
	if p.HasError = r.Option(); p.HasError {
		p.Error = r.Compact32()
	}
	p.Index = r.U8()
	if version >= 15 {
		p.Docs = r.Strings()
	}
	return p
}

func readEntry(r *Reader) StorageEntry {
	e := StorageEntry{Name: r.Text(), Modifier: StorageModifier(r.U8())}
	if e.Modifier > Default {
		r.Fail(fmt.Errorf("storage modifier %d: %w", e.Modifier, ErrInvalid))
	}
	switch r.U8() {
	case 0:
		e.Value = r.Compact32()
	case 1:
		e.IsMap = true
		e.Hashers = list(r, func(r *Reader) Hasher { return Hasher(r.U8()) })
		for _, h := range e.Hashers {
			if h > Identity {
				r.Fail(fmt.Errorf("hasher %d: %w", h, ErrInvalid))
			}
		}
		e.Key = r.Compact32()
		e.Value = r.Compact32()
	default:
		r.Fail(fmt.Errorf("storage entry is neither plain nor map: %w", ErrInvalid))
	}
	e.Default = r.Bytes()
	e.Docs = r.Strings()
	return e
}

func readExtensions(r *Reader) []SignedExtension {
	return list(r, func(r *Reader) SignedExtension {
		return SignedExtension{Identifier: r.Text(), Ty: r.Compact32(), Additional: r.Compact32()}
	})
}

func readExtrinsicV14(r *Reader, m *Metadata) {
	x := &m.Extrinsic
	x.Ty = r.Compact32()
	x.Version = r.U8()
	x.Extensions = readExtensions(r)
	m.Ty = r.Compact32()
	if r.Err() != nil || int(x.Ty) >= len(m.Types) {
		return // checkRefs names it
	}
	for _, p := range m.Types[x.Ty].Params {
		if !p.HasTy {
			continue
		}
		switch p.Name {
		case "Address":
			x.Address = p.Ty
		case "Call":
			x.Call = p.Ty
		case "Signature":
			x.Signature = p.Ty
		case "Extra":
			x.Extra = p.Ty
		}
	}
}

func readTailV15(r *Reader, m *Metadata) {
	x := &m.Extrinsic
	x.Version = r.U8()
	x.Address = r.Compact32()
	x.Call = r.Compact32()
	x.Signature = r.Compact32()
	x.Extra = r.Compact32()
	x.Extensions = readExtensions(r)
	m.Ty = r.Compact32()
	m.APIs = list(r, func(r *Reader) RuntimeAPI {
		return RuntimeAPI{Name: r.Text(), Methods: list(r, readMethod), Docs: r.Strings()}
	})
	readOuterAndCustom(r, m)
}

func readOuterAndCustom(r *Reader, m *Metadata) {
	m.Outer = OuterEnums{Call: r.Compact32(), Event: r.Compact32(), Error: r.Compact32()}
	m.Custom = list(r, func(r *Reader) CustomValue {
		return CustomValue{Name: r.Text(), Ty: r.Compact32(), Value: r.Bytes()}
	})
}

func readMethod(r *Reader) RuntimeMethod {
	return RuntimeMethod{
		Name: r.Text(),
		Inputs: list(r, func(r *Reader) MethodParam {
			return MethodParam{Name: r.Text(), Ty: r.Compact32()}
		}),
		Output: r.Compact32(),
		Docs:   r.Strings(),
	}
}

// checkTypes insists that type i has id i and that no type refers beyond the
// registry, so that later lookups cannot fail.
func checkTypes(types []Type) error {
	for i, t := range types {
		if int(t.ID) != i {
			return fmt.Errorf("type %d has id %d: %w", i, t.ID, ErrInvalid)
		}
		for _, id := range t.refs() {
			if int(id) >= len(types) {
				return fmt.Errorf("type %d refers to type %d of %d: %w", i, id, len(types), ErrInvalid)
			}
		}
	}
	return nil
}

// refs lists every type id that t mentions.
func (t *Type) refs() []uint32 {
	var ids []uint32
	for _, p := range t.Params {
		if p.HasTy {
			ids = append(ids, p.Ty)
		}
	}
	d := &t.Def
	for _, f := range d.Fields {
		ids = append(ids, f.Ty)
	}
	for _, v := range d.Variants {
		for _, f := range v.Fields {
			ids = append(ids, f.Ty)
		}
	}
	ids = append(ids, d.Tuple...)
	switch d.Kind {
	case KindSequence, KindArray, KindCompact:
		ids = append(ids, d.Elem)
	case KindBitSequence:
		ids = append(ids, d.BitStore, d.BitOrder)
	}
	return ids
}

// checkRefs insists that nothing outside the registry refers beyond it.
func checkRefs(m *Metadata) error {
	x := &m.Extrinsic
	ids := []uint32{x.Ty, x.Address, x.Call, x.Signature, x.Extra, m.Ty, m.Outer.Call, m.Outer.Event, m.Outer.Error}
	for _, e := range x.Extensions {
		ids = append(ids, e.Ty, e.Additional)
	}
	for i := range m.Pallets {
		p := &m.Pallets[i]
		ids = append(ids, p.Calls, p.Event, p.Error)
		for _, e := range p.Storage.Entries {
			ids = append(ids, e.Key, e.Value)
		}
		for _, c := range p.Constants {
			ids = append(ids, c.Ty)
		}
	}
	for _, a := range m.APIs {
		for _, meth := range a.Methods {
			ids = append(ids, meth.Output)
			for _, in := range meth.Inputs {
				ids = append(ids, in.Ty)
			}
		}
	}
	for _, c := range m.Custom {
		ids = append(ids, c.Ty)
	}
	for _, id := range ids {
		if int(id) >= len(m.Types) {
			return fmt.Errorf("a reference to type %d of %d: %w", id, len(m.Types), ErrInvalid)
		}
	}
	return nil
}
