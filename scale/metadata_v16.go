package scale

import "fmt"

// readDeprecation skips a deprecation status: 0 none, 1 without a note,
// 2 with a note and perhaps a version.
func readDeprecation(r *Reader) {
	switch r.U8() {
	case 0, 1:
	case 2:
		r.Text()
		optionalText(r)
	default:
		r.Fail(fmt.Errorf("deprecation status: %w", ErrInvalid))
	}
}

// readEnumV16 reads Option<{type id, deprecated variants}> of a pallet.
func readEnumV16(r *Reader) (has bool, id uint32) {
	if !r.Option() {
		return false, 0
	}
	id = r.Compact32()
	list(r, func(r *Reader) struct{} {
		r.U8()
		readDeprecation(r)
		return struct{}{}
	})
	return true, id
}

func readPalletV16(r *Reader) PalletMeta {
	p := PalletMeta{Name: r.Text()}
	if p.HasStorage = r.Option(); p.HasStorage {
		p.Storage = StorageMeta{Prefix: r.Text(), Entries: list(r, func(r *Reader) StorageEntry {
			e := readEntry(r)
			readDeprecation(r)
			return e
		})}
	}
	p.HasCalls, p.Calls = readEnumV16(r)
	p.HasEvent, p.Event = readEnumV16(r)
	p.Constants = list(r, func(r *Reader) ConstantMeta {
		c := ConstantMeta{Name: r.Text(), Ty: r.Compact32(), Value: r.Bytes(), Docs: r.Strings()}
		readDeprecation(r)
		return c
	})
	p.HasError, p.Error = readEnumV16(r)
	list(r, func(r *Reader) struct{} { // associated types
		r.Text()
		r.Compact32()
		r.Strings()
		return struct{}{}
	})
	list(r, func(r *Reader) struct{} { // view functions
		r.Raw(32)
		readMethod(r)
		readDeprecation(r)
		return struct{}{}
	})
	p.Index = r.U8()
	p.Docs = r.Strings()
	readDeprecation(r)
	return p
}

// readTailV16 reads what follows the pallets. The extensions are those of
// extension version 0, in its order, which is what extrinsics of version 4
// carry.
func readTailV16(r *Reader, m *Metadata) {
	x := &m.Extrinsic
	for _, v := range r.Raw(r.Count(1)) {
		if v == 4 || x.Version == 0 {
			x.Version = v
		}
	}
	x.Address, x.Call, x.Signature = r.Compact32(), r.Compact32(), r.Compact32()
	type set struct {
		version uint8
		members []uint32
	}
	sets := list(r, func(r *Reader) set { return set{r.U8(), list(r, (*Reader).Compact32)} })
	all := readExtensions(r)
	for _, s := range sets {
		if s.version != 0 {
			continue
		}
		for _, i := range s.members {
			if int(i) >= len(all) {
				r.Fail(fmt.Errorf("extension %d of %d: %w", i, len(all), ErrInvalid))
				return
			}
			x.Extensions = append(x.Extensions, all[i])
		}
	}
	m.APIs = list(r, func(r *Reader) RuntimeAPI {
		a := RuntimeAPI{Name: r.Text(), Methods: list(r, func(r *Reader) RuntimeMethod {
			meth := readMethod(r)
			readDeprecation(r)
			return meth
		}), Docs: r.Strings()}
		r.Compact32() // version of the API
		readDeprecation(r)
		return a
	})
	readOuterAndCustom(r, m)
}
