package pallet

import (
	"errors"
	"fmt"

	"basilica/scale"
)

// ErrUnknown is returned for a pallet, item, call or type that the metadata
// does not have.
var ErrUnknown = errors.New("not in the chain's metadata")

// ErrUnsupported is returned for what the metadata demands and we do not know
// how to fill.
var ErrUnsupported = errors.New("not supported")

// Runtime is one runtime's vocabulary. It is read-only after New and safe for
// concurrent use.
type Runtime struct {
	meta    *scale.Metadata
	reg     *scale.Registry
	pallets map[string]*scale.PalletMeta
	byIndex map[uint8]*scale.PalletMeta
	fixed   *scale.Registry // of the types of fixed calls
}

// New makes the vocabulary of one metadata.
func New(meta *scale.Metadata) (*Runtime, error) {
	reg, err := scale.NewRegistry(meta.Types)
	if err != nil {
		return nil, fmt.Errorf("metadata types: %w", err)
	}
	fixed, err := fixedTypes()
	if err != nil {
		return nil, err
	}
	rt := &Runtime{
		meta: meta, reg: reg, fixed: fixed,
		pallets: make(map[string]*scale.PalletMeta), byIndex: make(map[uint8]*scale.PalletMeta),
	}
	for i := range meta.Pallets {
		p := &meta.Pallets[i]
		rt.pallets[p.Name] = p
		rt.byIndex[p.Index] = p
	}
	return rt, nil
}

// Metadata is the metadata behind rt; do not change it.
func (rt *Runtime) Metadata() *scale.Metadata { return rt.meta }

// Registry decodes and encodes by type id.
func (rt *Runtime) Registry() *scale.Registry { return rt.reg }

func (rt *Runtime) pallet(name string) (*scale.PalletMeta, error) {
	p, ok := rt.pallets[name]
	if !ok {
		return nil, fmt.Errorf("pallet %s: %w", name, ErrUnknown)
	}
	return p, nil
}

// Constant decodes a pallet's constant.
func (rt *Runtime) Constant(pallet, name string) (any, error) {
	p, err := rt.pallet(pallet)
	if err != nil {
		return nil, err
	}
	for i := range p.Constants {
		if c := &p.Constants[i]; c.Name == name {
			return rt.reg.DecodeAll(c.Value, c.Ty)
		}
	}
	return nil, fmt.Errorf("constant %s.%s: %w", pallet, name, ErrUnknown)
}

// HasAPI tells whether metadata (V15 and later) lists a runtime API method, e.g.
// ("SubnetInfoRuntimeApi", "get_metagraph").
func (rt *Runtime) HasAPI(trait, method string) bool {
	_, ok := rt.APIMethod(trait, method)
	return ok
}

// APIID is the id by which RuntimeVersion.apis names a runtime API: blake2b-64 of its trait's name.
func APIID(trait string) [8]byte { return [8]byte(blake([]byte(trait), 8)) }

// APIMethod finds a runtime API method in metadata of V15 and later.
func (rt *Runtime) APIMethod(trait, method string) (*scale.RuntimeMethod, bool) {
	for i := range rt.meta.APIs {
		if rt.meta.APIs[i].Name != trait {
			continue
		}
		for j := range rt.meta.APIs[i].Methods {
			if m := &rt.meta.APIs[i].Methods[j]; m.Name == method {
				return m, true
			}
		}
	}
	return nil, false
}

// Call is a decoded call.
type Call struct {
	Pallet string
	Name   string
	Args   scale.Struct
}

func (rt *Runtime) callVariant(pallet, name string) (*scale.PalletMeta, *scale.Variant, error) {
	p, err := rt.pallet(pallet)
	if err != nil {
		return nil, nil, err
	}
	if p.HasCalls {
		t, _ := rt.reg.Type(p.Calls)
		for i := range t.Def.Variants {
			if v := &t.Def.Variants[i]; v.Name == name {
				return p, v, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("call %s.%s: %w", pallet, name, ErrUnknown)
}

// HasCall tells whether the runtime has a call.
func (rt *Runtime) HasCall(pallet, name string) bool {
	_, _, err := rt.callVariant(pallet, name)
	return err == nil
}

// Call encodes a call with its arguments by name; every argument must be
// given and no other. A call that this package knows comes out as it knows it,
// or not at all. Errors: ErrUnknown, ErrChanged, those of package scale.
func (rt *Runtime) Call(pallet, name string, args map[string]any) ([]byte, error) {
	p, v, err := rt.callVariant(pallet, name)
	if err != nil {
		return nil, err
	}
	b, err := encodeArgs(rt.reg, []byte{p.Index, v.Index}, v.Fields, args)
	if err := rt.hold(pallet+"."+name, b, err, p.Index, args); err != nil {
		return nil, fmt.Errorf("call %s.%s: %w", pallet, name, err)
	}
	return b, nil
}

// DecodeCall decodes the bytes of exactly one call.
func (rt *Runtime) DecodeCall(data []byte) (Call, error) {
	r := scale.NewReader(data)
	c, err := rt.readCall(r)
	if err != nil {
		return Call{}, err
	}
	if err := r.Done(); err != nil {
		return Call{}, fmt.Errorf("call %s.%s: %w", c.Pallet, c.Name, err)
	}
	return c, nil
}

func (rt *Runtime) readCall(r *scale.Reader) (Call, error) {
	index := r.U8()
	p, ok := rt.byIndex[index]
	if r.Err() != nil {
		return Call{}, fmt.Errorf("call: %w", r.Err())
	}
	if !ok || !p.HasCalls {
		return Call{}, fmt.Errorf("call of pallet %d: %w", index, ErrUnknown)
	}
	v, err := rt.reg.Decode(r, p.Calls)
	if err != nil {
		return Call{}, fmt.Errorf("call of %s: %w", p.Name, err)
	}
	vv, ok := v.(scale.VariantValue)
	if !ok {
		return Call{}, fmt.Errorf("call of %s is not an enum: %w", p.Name, scale.ErrInvalid)
	}
	return Call{Pallet: p.Name, Name: vv.Name, Args: vv.Fields}, nil
}
