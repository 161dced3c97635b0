package scale

// MetadataMagic are the first four bytes of every runtime metadata blob,
// "meta" read as a little-endian u32.
const MetadataMagic uint32 = 0x6174656d

// Metadata is the decoded runtime metadata of version 14, 15 or 16. All decode
// into this one shape: what a version lacks stays zero, and what only 16 has
// (deprecations, view functions, associated types) is read and left out.
type Metadata struct {
	Version   uint8 // 14, 15 or 16
	Types     []Type
	Pallets   []PalletMeta
	Extrinsic ExtrinsicMeta
	Ty        uint32       // type id of the runtime itself; not in V16
	APIs      []RuntimeAPI // not in V14
	Outer     OuterEnums   // not in V14
	Custom    []CustomValue
}

// Type is one entry of the portable type registry. Types[i].ID is i in every
// real blob; the decoder insists on it.
type Type struct {
	ID     uint32
	Path   []string
	Params []TypeParam
	Def    TypeDef
	Docs   []string
}

// TypeParam is one generic parameter; Ty is meaningful when HasTy.
type TypeParam struct {
	Name  string
	Ty    uint32
	HasTy bool
}

// TypeDefKind tells which fields of TypeDef count. The numbers are those on
// the wire.
type TypeDefKind uint8

// Kinds of a type definition, by their number on the wire.
const (
	KindComposite   TypeDefKind = 0
	KindVariant     TypeDefKind = 1
	KindSequence    TypeDefKind = 2
	KindArray       TypeDefKind = 3
	KindTuple       TypeDefKind = 4
	KindPrimitive   TypeDefKind = 5
	KindCompact     TypeDefKind = 6
	KindBitSequence TypeDefKind = 7
)

// TypeDef is the body of a type; Kind selects the fields that count.
type TypeDef struct {
	Kind      TypeDefKind
	Fields    []Field   // KindComposite
	Variants  []Variant // KindVariant
	Elem      uint32    // KindSequence, KindArray, KindCompact
	Len       uint32    // KindArray: number of elements
	Tuple     []uint32  // KindTuple
	Primitive Primitive // KindPrimitive
	BitStore  uint32    // KindBitSequence
	BitOrder  uint32    // KindBitSequence
}

// Field is one field of a composite or of a variant; Name is empty in tuples
// structs, TypeName is how the source spelled the type (may be empty).
type Field struct {
	Name     string
	Ty       uint32
	TypeName string
	Docs     []string
}

// Variant is one arm of an enum; Index is the byte on the wire, which is not
// always its position.
type Variant struct {
	Name   string
	Fields []Field
	Index  uint8
	Docs   []string
}

// Primitive is a primitive type, by its number on the wire.
type Primitive uint8

// Primitives, by their number on the wire.
const (
	Bool Primitive = iota
	Char
	Str
	U8
	U16
	U32
	U64
	U128
	U256
	I8
	I16
	I32
	I64
	I128
	I256
)

// PalletMeta describes one pallet. The type ids of calls, event and error
// count only where their Has flag is set.
type PalletMeta struct {
	Name       string
	Index      uint8
	HasStorage bool
	Storage    StorageMeta
	HasCalls   bool
	Calls      uint32
	HasEvent   bool
	Event      uint32
	Constants  []ConstantMeta
	HasError   bool
	Error      uint32
	Docs       []string // not in V14
}

// StorageMeta is the storage of one pallet; Prefix goes through twox128.
type StorageMeta struct {
	Prefix  string
	Entries []StorageEntry
}

// Hasher is the way one key of a map is hashed, by its number on the wire.
type Hasher uint8

// Hashers, by their number on the wire.
const (
	Blake2_128       Hasher = 0
	Blake2_256       Hasher = 1
	Blake2_128Concat Hasher = 2
	Twox128          Hasher = 3
	Twox256          Hasher = 4
	Twox64Concat     Hasher = 5
	Identity         Hasher = 6
)

// StorageModifier tells what a missing value means.
type StorageModifier uint8

// Modifiers, by their number on the wire.
const (
	Optional StorageModifier = 0 // missing is None
	Default  StorageModifier = 1 // missing is StorageEntry.Default
)

// StorageEntry is one storage item. A plain value has no hashers; a map with
// several hashers has a tuple as Key, one element for each hasher.
type StorageEntry struct {
	Name     string
	Modifier StorageModifier
	IsMap    bool
	Hashers  []Hasher
	Key      uint32 // maps only
	Value    uint32
	Default  []byte
	Docs     []string
}

// ConstantMeta is a pallet constant: SCALE value and its type.
type ConstantMeta struct {
	Name  string
	Ty    uint32
	Value []byte
	Docs  []string
}

// ExtrinsicMeta describes extrinsics. In V14 only Ty is given and the four
// parts stand in its type parameters; in V15 Ty is absent and the decoder
// fills the four parts. Call DecodeMetadata to have the four parts in both.
type ExtrinsicMeta struct {
	Ty         uint32 // V14 only
	Version    uint8  // 4
	Address    uint32
	Call       uint32
	Signature  uint32
	Extra      uint32
	Extensions []SignedExtension
}

// SignedExtension is one transaction extension: Ty is the type of what stands
// in the extrinsic, Additional of what is only signed.
type SignedExtension struct {
	Identifier string
	Ty         uint32
	Additional uint32
}

// RuntimeAPI is one runtime API trait; a call is "<Name>_<method>".
type RuntimeAPI struct {
	Name    string
	Methods []RuntimeMethod
	Docs    []string
}

// RuntimeMethod is one method of a runtime API.
type RuntimeMethod struct {
	Name   string
	Inputs []MethodParam
	Output uint32
	Docs   []string
}

// MethodParam is one named argument of a runtime API method.
type MethodParam struct {
	Name string
	Ty   uint32
}

// OuterEnums are the type ids of the runtime's outer enums (V15, V16).
type OuterEnums struct {
	Call  uint32
	Event uint32
	Error uint32
}

// CustomValue is one entry of the custom map (V15, V16).
type CustomValue struct {
	Name  string
	Ty    uint32
	Value []byte
}
