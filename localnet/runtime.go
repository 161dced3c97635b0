package localnet

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"basilica/scale"
)

// What the chain answers as. Clients cache by these and by the genesis hash.
const (
	specName       = "node-subtensor"
	specVersion    = 425
	txVersion      = 1
	ss58Prefix     = 42
	blockHashCount = 2400
)

// pallet is one pallet's declaration: all of its metadata, and the code behind each call.
type module struct {
	name, crate string // as in metadata, and the Rust crate of its types
	index       uint8
	storage     *prefix
	calls       []call
	nests       map[uint8]nest // by index, in place of decode, for calls with calls inside
	events      []arm
	errors      []arm
	constants   []constant
}

// call is one dispatchable. decode reads the arguments in the order of args; what is left in the reader is not its own.
type call struct {
	index  uint8
	name   string
	args   []field
	free   bool // Pays::No
	weight weight
	decode func(rt *runtime, r *scale.Reader) dispatch
}

// nest decodes a call with calls inside, which are depth calls deep.
type nest func(rt *runtime, r *scale.Reader, depth int) dispatch

// dispatch is a decoded call, ready to run. guard, which may be nil, is what the pool asks before inclusion and what runs
// before each call that is not root's. cost is nil where the call costs what its declaration says. filtered refuses the
// call whoever makes it but root. atPool is asked only before inclusion.
type dispatch struct {
	run      func(x *execution, from origin) error
	sealed   *[]byte        // the ciphertext of submit_encrypted
	pulses   *pulsesWritten // of write_pulse
	guard    func(x *execution, who account) error
	atPool   func(x *execution, who account) error
	cost     *cost
	filtered bool
}

// cost is what a call weighs and whether it pays.
type cost struct {
	weight
	free bool
}

// weight is the cost of a call as the runtime of spec 425 was seen to report it, base of an extrinsic included. A call
// that was not recorded has the weight of its nearest relative.
type weight struct{ refTime, proofSize uint64 }

type constant struct {
	name  string
	shape shape
	value []byte
}

// origin says on whose behalf a call runs.
type origin struct {
	root bool
	who  account
}

// runtime is the set of pallets with their storage handles, and the metadata generated from them.
type runtime struct {
	system   *systemStore
	time     *timeStore
	aura     *auraStore
	balances *balancesStore
	payment  *paymentStore
	subnets  *subtensorStore
	sudo     *sudoStore

	proxies     *proxyStore
	commitments *commitmentsStore
	swap        *swapStore
	drand       *drandStore
	assets      *assetsStore
	shield      *shieldStore

	code    code
	slot    uint64 // the block time in milliseconds
	pallets []module
	apis    []api
	v14     []byte
	v15     []byte
}

// decoded is a call found in its pallet.
type decoded struct {
	module *module
	call   *call
	dispatch
}

// price is what the call costs before it runs.
func (d decoded) price() cost {
	if d.cost != nil {
		return *d.cost
	}
	return cost{d.call.weight, d.call.free}
}

// newRuntime is that of spec 425. slot is the block time in milliseconds; it stands in the metadata.
func newRuntime(slot uint64) (*runtime, error) { return newRuntimeOf(slot, firstCode()) }

// newRuntimeOf declares the pallets as upgrades left them.
func newRuntimeOf(slot uint64, code code) (*runtime, error) {
	rt := &runtime{code: code, slot: slot}
	rt.pallets = []module{
		rt.systemPallet(), rt.timestampPallet(slot), rt.auraPallet(slot), rt.balancesPallet(), rt.paymentPallet(),
		rt.subtensorPallet(), rt.utilityPallet(), rt.sudoPallet(), rt.proxyPallet(), rt.commitmentsPallet(), rt.adminPallet(), rt.drandPallet(), rt.swapPallet(), rt.shieldPallet(), rt.assetsPallet(),
	}
	rt.apis = rt.declareAPIs()
	rt.stateVersion()
	for i := range rt.pallets {
		rt.pallets[i].index = rt.moved(rt.pallets[i].index)
	}
	for version, blob := range map[uint8]*[]byte{14: &rt.v14, 15: &rt.v15} {
		var err error
		if *blob, err = scale.EncodeMetadata(rt.metadata(version)); err != nil {
			return nil, fmt.Errorf("generate metadata: %w", err)
		}
	}
	return rt, nil
}

var errUndecodable = errors.New("the call does not decode")

// maxCallDepth bounds calls inside calls, as the runtime's decoder does.
const maxCallDepth = 256

// decodeCall reads one call.
func (rt *runtime) decodeCall(r *scale.Reader) (decoded, error) { return rt.decodeInner(r, 0) }

// decodeInner reads a call that stands depth calls deep.
func (rt *runtime) decodeInner(r *scale.Reader, depth int) (decoded, error) {
	module, index := r.U8(), r.U8()
	if r.Err() != nil || depth > maxCallDepth {
		return decoded{}, errUndecodable
	}
	for i := range rt.pallets {
		p := &rt.pallets[i]
		if p.index != module {
			continue
		}
		for k := range p.calls {
			if p.calls[k].index != index {
				continue
			}
			c := &p.calls[k]
			var d dispatch
			if nest := p.nests[index]; nest != nil {
				d = nest(rt, r, depth+1)
			} else {
				d = c.decode(rt, r)
			}
			if r.Err() != nil {
				return decoded{}, errUndecodable
			}
			return decoded{p, c, d}, nil
		}
	}
	return decoded{}, errUndecodable
}

// palletEnum is one of the outer enums: a variant for each pallet that has the inner one.
func (rt *runtime) palletEnum(name string, inner func(p *module) (shape, bool)) shape {
	return named("node_subtensor_runtime::"+name, nil, func(r *registry) scale.TypeDef {
		var arms []arm
		for i := range rt.pallets {
			if s, ok := inner(&rt.pallets[i]); ok {
				arms = append(arms, arm{rt.pallets[i].index, rt.pallets[i].name, []field{{"", s, ""}}})
			}
		}
		return variants(r, arms)
	})
}

func (p *module) callShape() (shape, bool) {
	return p.inner("Call", len(p.calls), func(r *registry) scale.TypeDef {
		arms := make([]arm, len(p.calls))
		for i, c := range p.calls {
			arms[i] = arm{c.index, c.name, c.args}
		}
		return variants(r, arms)
	})
}

func (p *module) eventShape() (shape, bool) {
	return p.inner("Event", len(p.events), func(r *registry) scale.TypeDef { return variants(r, p.events) })
}

func (p *module) errorShape() (shape, bool) {
	return p.inner("Error", len(p.errors), func(r *registry) scale.TypeDef { return variants(r, p.errors) })
}

func (p *module) inner(name string, n int, def func(r *registry) scale.TypeDef) (shape, bool) {
	return named(p.crate+"::pallet::"+name, []param{{"T", nil}}, def), n > 0
}

func (rt *runtime) callShape() shape {
	return rt.palletEnum("RuntimeCall", func(p *module) (shape, bool) { return p.callShape() })
}

func (rt *runtime) eventShape() shape {
	return rt.palletEnum("RuntimeEvent", func(p *module) (shape, bool) { return p.eventShape() })
}

func (rt *runtime) errorShape() shape {
	return rt.palletEnum("RuntimeError", func(p *module) (shape, bool) { return p.errorShape() })
}

// metadata describes the pallets; version is 14 or 15.
func (rt *runtime) metadata(version uint8) *scale.Metadata {
	r := &registry{ids: map[string]uint32{}}
	m := &scale.Metadata{Version: version}
	for i := range rt.pallets {
		m.Pallets = append(m.Pallets, rt.pallets[i].describe(r))
	}
	call := rt.callShape()
	var shapes []shape
	m.Extrinsic = scale.ExtrinsicMeta{Version: 4, Address: r.id(tMultiAddress), Call: r.id(call), Signature: r.id(tMultiSignature)}
	for _, e := range rt.extensions() {
		shapes = append(shapes, e.extra)
		m.Extrinsic.Extensions = append(m.Extrinsic.Extensions, scale.SignedExtension{
			Identifier: e.name, Ty: r.id(e.extra), Additional: r.id(e.additional),
		})
	}
	m.Extrinsic.Extra = r.id(tuple(shapes...))
	m.Extrinsic.Ty = r.id(rt.extrinsicShape())
	m.Ty = r.id(composite("node_subtensor_runtime::Runtime", nil))
	if version == 15 {
		m.APIs = rt.apiTypes(r)
		m.Outer = scale.OuterEnums{Call: r.id(call), Event: r.id(rt.eventShape()), Error: r.id(rt.errorShape())}
	}
	m.Types = r.types
	return m
}

func (p *module) describe(r *registry) scale.PalletMeta {
	out := scale.PalletMeta{Name: p.name, Index: p.index}
	if p.storage != nil {
		out.HasStorage, out.Storage.Prefix = true, p.name
		for _, e := range p.storage.entries {
			out.Storage.Entries = append(out.Storage.Entries, e.describe(r))
		}
	}
	if s, ok := p.callShape(); ok {
		out.HasCalls, out.Calls = true, r.id(s)
	}
	if s, ok := p.eventShape(); ok {
		out.HasEvent, out.Event = true, r.id(s)
	}
	if s, ok := p.errorShape(); ok {
		out.HasError, out.Error = true, r.id(s)
	}
	for _, c := range p.constants {
		out.Constants = append(out.Constants, scale.ConstantMeta{Name: c.name, Ty: r.id(c.shape), Value: c.value})
	}
	return out
}

func (e storageEntry) describe(r *registry) scale.StorageEntry {
	out := scale.StorageEntry{Name: e.name, Modifier: scale.Default, Value: r.id(e.value), Default: e.fallback}
	if e.optional {
		out.Modifier = scale.Optional
	}
	if len(e.keys) > 0 {
		out.IsMap, out.Hashers = true, e.hashers
		k := e.keys[0]
		if len(e.keys) > 1 {
			k = tuple(e.keys...)
		}
		out.Key = r.id(k)
	}
	return out
}

// extensions declares the transaction extensions in their order. Their paths are the runtime's own: some clients
// know an extension by the last segment.
func (rt *runtime) extensions() []extension {
	generic := []param{{"T", nil}}
	node := composite("node_subtensor_runtime::Runtime", nil)
	ours := []param{{"T", &node}}
	era := enum("sp_runtime::generic::era::Era", nil, eraArms()...)
	mode := enum("frame_metadata_hash_extension::Mode", nil, plainArms("Disabled", "Enabled")...)
	list := []extension{
		{"CheckNonZeroSender", composite("frame_system::extensions::check_non_zero_sender::CheckNonZeroSender", generic), tUnit},
		{"CheckSpecVersion", composite("frame_system::extensions::check_spec_version::CheckSpecVersion", generic), tU32},
		{"CheckTxVersion", composite("frame_system::extensions::check_tx_version::CheckTxVersion", generic), tU32},
		{"CheckGenesis", composite("frame_system::extensions::check_genesis::CheckGenesis", generic), tHash},
		{"CheckMortality", composite("node_subtensor_runtime::check_mortality::CheckMortality", generic, field{"", era, "Era"}), tHash},
		{"CheckNonce", composite("node_subtensor_runtime::check_nonce::CheckNonce", generic, field{"", compact(tU32), "T::Nonce"}), tUnit},
		{"CheckWeight", composite("frame_system::extensions::check_weight::CheckWeight", generic), tUnit},
		{"ChargeTransactionPayment", composite("pallet_transaction_payment::ChargeTransactionPayment", generic, field{"", compact(tU64), "BalanceOf<T>"}), tUnit},
		{"SudoTransactionExtension", composite("node_subtensor_runtime::sudo_wrapper::SudoTransactionExtension", ours), tUnit},
		{"CheckShieldedTxValidity", composite("pallet_shield::extension::CheckShieldedTxValidity", ours), tUnit},
		{"SubtensorTransactionExtension", composite("pallet_subtensor::extensions::subtensor::SubtensorTransactionExtension", ours), tUnit},
		{"DrandPriority", composite("pallet_drand::drand_priority::DrandPriority", ours), tUnit},
		{"CheckMetadataHash", composite("frame_metadata_hash_extension::CheckMetadataHash", generic, field{"mode", mode, "Mode"}), option(array(32, tU8))},
	}
	if rt.code.Extension {
		added := composite("node_subtensor_runtime::upgrade::AddedByUpgrade", ours)
		list = slices.Insert(list, len(list)-1, extension{"AddedByUpgrade", added, tUnit})
	}
	if rt.code.Payload {
		added := composite("node_subtensor_runtime::upgrade::PayloadByUpgrade", ours, field{"payload", tU8, "u8"})
		list = append(list, extension{"PayloadByUpgrade", added, tUnit})
	}
	return list
}

// extension is one transaction extension: what it adds to an extrinsic and what it lets be signed besides.
type extension struct {
	name              string
	extra, additional shape
}

// extrinsicShape is a whole extrinsic, which metadata shows as bytes.
func (rt *runtime) extrinsicShape() shape {
	var shapes []shape
	for _, e := range rt.extensions() {
		shapes = append(shapes, e.extra)
	}
	call, extra := rt.callShape(), tuple(shapes...)
	return composite("sp_runtime::generic::unchecked_extrinsic::UncheckedExtrinsic", []param{
		{"Address", &tMultiAddress}, {"Call", &call}, {"Signature", &tMultiSignature}, {"Extra", &extra},
	}, field{"", tBytes, ""})
}

func eraArms() []arm {
	arms := []arm{{0, "Immortal", nil}}
	for i := 1; i < 256; i++ {
		arms = append(arms, arm{uint8(i), fmt.Sprintf("Mortal%d", i), []field{{"", tU8, ""}}})
	}
	return arms
}

// sortedNetuids reads the subnets in the order of their storage keys, which is the order in which the chain walks.
func (rt *runtime) sortedNetuids(s reader) []uint16 {
	keys := s.scan(rt.subnets.networksAdded.prefix)
	sort.Strings(keys)
	var out []uint16
	for _, k := range keys {
		tail := k[len(rt.subnets.networksAdded.prefix):]
		out = append(out, scale.NewReader([]byte(tail)).U16())
	}
	return out
}
