package localnet

import (
	"strconv"
	"strings"

	"basilica/scale"
)

// shape is a type as metadata describes it. Equal keys are one type in the registry.
type shape struct {
	key   string
	build func(r *registry) scale.Type
}

// registry collects the types that the runtime's declarations use, in order of first use.
type registry struct {
	types []scale.Type
	ids   map[string]uint32
}

// id registers a shape, and what it is made of, once.
func (r *registry) id(s shape) uint32 {
	if id, ok := r.ids[s.key]; ok {
		return id
	}
	id := uint32(len(r.types))
	r.ids[s.key] = id
	r.types = append(r.types, scale.Type{ID: id})
	t := s.build(r)
	t.ID = id
	r.types[id] = t
	return id
}

// field is one named part of a composite, a variant or a call; an empty name stands for a position.
type field struct {
	name     string
	shape    shape
	typeName string
}

// arm is one variant of an enum.
type arm struct {
	index  uint8
	name   string
	fields []field
}

// param is one generic parameter of a named type; a nil shape is a parameter without a type (as T of pallets).
type param struct {
	name  string
	shape *shape
}

func (r *registry) fields(fields []field) []scale.Field {
	out := make([]scale.Field, len(fields))
	for i, f := range fields {
		out[i] = scale.Field{Name: f.name, Ty: r.id(f.shape), TypeName: f.typeName}
	}
	return out
}

func (r *registry) params(params []param) []scale.TypeParam {
	out := make([]scale.TypeParam, len(params))
	for i, p := range params {
		out[i].Name = p.name
		if p.shape != nil {
			out[i].HasTy, out[i].Ty = true, r.id(*p.shape)
		}
	}
	return out
}

// named gives a type its path, "a::b::C", and its parameters.
func named(path string, params []param, def func(r *registry) scale.TypeDef) shape {
	key := path
	for _, p := range params {
		if p.shape != nil {
			key += "," + p.shape.key
		}
	}
	return shape{key, func(r *registry) scale.Type {
		return scale.Type{Path: strings.Split(path, "::"), Params: r.params(params), Def: def(r)}
	}}
}

func composite(path string, params []param, fields ...field) shape {
	return named(path, params, func(r *registry) scale.TypeDef {
		return scale.TypeDef{Kind: scale.KindComposite, Fields: r.fields(fields)}
	})
}

func enum(path string, params []param, arms ...arm) shape {
	return named(path, params, func(r *registry) scale.TypeDef { return variants(r, arms) })
}

func variants(r *registry, arms []arm) scale.TypeDef {
	def := scale.TypeDef{Kind: scale.KindVariant}
	for _, a := range arms {
		def.Variants = append(def.Variants, scale.Variant{Name: a.name, Index: a.index, Fields: r.fields(a.fields)})
	}
	return def
}

// plainArms numbers variants without fields from 0.
func plainArms(names ...string) []arm {
	out := make([]arm, len(names))
	for i, n := range names {
		out[i] = arm{index: uint8(i), name: n}
	}
	return out
}

func primitive(name string, p scale.Primitive) shape {
	return shape{name, func(*registry) scale.Type {
		return scale.Type{Def: scale.TypeDef{Kind: scale.KindPrimitive, Primitive: p}}
	}}
}

func vec(of shape) shape {
	return shape{"Vec<" + of.key + ">", func(r *registry) scale.Type {
		return scale.Type{Def: scale.TypeDef{Kind: scale.KindSequence, Elem: r.id(of)}}
	}}
}

func array(n uint32, of shape) shape {
	return shape{"[" + of.key + ";" + strconv.Itoa(int(n)) + "]", func(r *registry) scale.Type {
		return scale.Type{Def: scale.TypeDef{Kind: scale.KindArray, Len: n, Elem: r.id(of)}}
	}}
}

func compact(of shape) shape {
	return shape{"Compact<" + of.key + ">", func(r *registry) scale.Type {
		return scale.Type{Def: scale.TypeDef{Kind: scale.KindCompact, Elem: r.id(of)}}
	}}
}

func tuple(parts ...shape) shape {
	keys := make([]string, len(parts))
	for i, p := range parts {
		keys[i] = p.key
	}
	return shape{"(" + strings.Join(keys, ",") + ")", func(r *registry) scale.Type {
		def := scale.TypeDef{Kind: scale.KindTuple}
		for _, p := range parts {
			def.Tuple = append(def.Tuple, r.id(p))
		}
		return scale.Type{Def: def}
	}}
}

func option(of shape) shape {
	return enum("Option", []param{{"T", &of}}, arm{0, "None", nil}, arm{1, "Some", []field{{"", of, ""}}})
}

func bounded(of shape) shape {
	return composite("bounded_collections::bounded_vec::BoundedVec", []param{{"T", &of}, {"S", nil}},
		field{"", vec(of), "Vec<T>"})
}

// fixedPoint is substrate_fixed's number with the given fraction bits; metadata spells the count as a binary
// type-level number.
func fixedPoint(name string, bits shape, fraction int) shape {
	number := composite("substrate_typenum::uint::UTerm", nil)
	for i := 7; i >= 0; i-- {
		if fraction>>i == 0 {
			continue
		}
		bit := composite("substrate_typenum::bit::B"+strconv.Itoa(fraction>>i&1), nil)
		high := number
		number = composite("substrate_typenum::uint::UInt", []param{{"U", &high}, {"B", &bit}},
			field{"msb", high, "U"}, field{"lsb", bit, "B"})
	}
	return composite("substrate_fixed::"+name, []param{{"Frac", &number}}, field{"bits", bits, bits.key})
}

// The types that several pallets share.
var (
	tBool = primitive("bool", scale.Bool)
	tStr  = primitive("str", scale.Str)
	tU8   = primitive("u8", scale.U8)
	tU16  = primitive("u16", scale.U16)
	tU32  = primitive("u32", scale.U32)
	tU64  = primitive("u64", scale.U64)
	tU128 = primitive("u128", scale.U128)
	tUnit = tuple()

	tBytes   = vec(tU8)
	tAccount = composite("sp_core::crypto::AccountId32", nil, field{"", array(32, tU8), "[u8; 32]"})
	tHash    = composite("primitive_types::H256", nil, field{"", array(32, tU8), "[u8; 32]"})

	tMultiAddress = enum("sp_runtime::multiaddress::MultiAddress", []param{{"AccountId", &tAccount}, {"AccountIndex", &tUnit}},
		arm{0, "Id", []field{{"", tAccount, "AccountId"}}},
		arm{1, "Index", []field{{"", compact(tUnit), "AccountIndex"}}},
		arm{2, "Raw", []field{{"", tBytes, "Vec<u8>"}}},
		arm{3, "Address32", []field{{"", array(32, tU8), "[u8; 32]"}}},
		arm{4, "Address20", []field{{"", array(20, tU8), "[u8; 20]"}}})

	tMultiSignature = enum("sp_runtime::MultiSignature", nil,
		arm{0, "Ed25519", []field{{"", array(64, tU8), "ed25519::Signature"}}},
		arm{1, "Sr25519", []field{{"", array(64, tU8), "sr25519::Signature"}}},
		arm{2, "Ecdsa", []field{{"", array(65, tU8), "ecdsa::Signature"}}})

	tWeight = composite("sp_weights::weight_v2::Weight", nil,
		field{"ref_time", compact(tU64), "u64"}, field{"proof_size", compact(tU64), "u64"})

	tDispatchClass = enum("frame_support::dispatch::DispatchClass", nil, plainArms("Normal", "Operational", "Mandatory")...)
	tPays          = enum("frame_support::dispatch::Pays", nil, plainArms("Yes", "No")...)

	tDispatchInfo = composite("frame_system::DispatchEventInfo", nil,
		field{"weight", tWeight, "Weight"}, field{"class", tDispatchClass, "DispatchClass"}, field{"pays_fee", tPays, "Pays"})

	tDispatchError = enum("sp_runtime::DispatchError", nil,
		arm{0, "Other", nil}, arm{1, "CannotLookup", nil}, arm{2, "BadOrigin", nil},
		arm{3, "Module", []field{{"", composite("sp_runtime::ModuleError", nil,
			field{"index", tU8, "u8"}, field{"error", array(4, tU8), "[u8; MAX_MODULE_ERROR_ENCODED_SIZE]"}), "ModuleError"}}},
		arm{4, "ConsumerRemaining", nil}, arm{5, "NoProviders", nil}, arm{6, "TooManyConsumers", nil},
		arm{7, "Token", []field{{"", enum("sp_runtime::TokenError", nil, plainArms("FundsUnavailable", "OnlyProvider",
			"BelowMinimum", "CannotCreate", "UnknownAsset", "Frozen", "Unsupported", "CannotCreateHold", "NotExpendable",
			"Blocked")...), "TokenError"}}},
		arm{8, "Arithmetic", []field{{"", enum("sp_arithmetic::ArithmeticError", nil,
			plainArms("Underflow", "Overflow", "DivisionByZero")...), "ArithmeticError"}}},
		arm{9, "Transactional", []field{{"", enum("sp_runtime::TransactionalError", nil,
			plainArms("LimitReached", "NoLayer")...), "TransactionalError"}}},
		arm{10, "Exhausted", nil}, arm{11, "Corruption", nil}, arm{12, "Unavailable", nil}, arm{13, "RootNotAllowed", nil},
		arm{14, "Trie", []field{{"", enum("sp_runtime::proving_trie::TrieError", nil, plainArms("InvalidStateRoot",
			"IncompleteDatabase", "ValueAtIncompleteKey", "DecoderError", "InvalidHash", "DuplicateKey", "ExtraneousNode",
			"ExtraneousValue", "ExtraneousHashReference", "InvalidChildReference", "ValueMismatch", "IncompleteProof",
			"RootMismatch", "DecodeError")...), "TrieError"}}})

	tDispatchResult = enum("Result", []param{{"T", &tUnit}, {"E", &tDispatchError}},
		arm{0, "Ok", []field{{"", tUnit, ""}}}, arm{1, "Err", []field{{"", tDispatchError, ""}}})
)
