package localnet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/blake2b"

	"basilica/scale"
)

// api is one runtime API.
type api struct {
	name    string
	version uint32
	methods []apiMethod
}

// apiMethod answers a call to a runtime API: answer reads the arguments in the order of inputs.
type apiMethod struct {
	name   string
	inputs []field
	output shape
	answer func(v view, r *scale.Reader) []byte
}

// asks is a method with a form for its answer.
func asks[V any](name string, output form[V], get func(v view, r *scale.Reader) V, inputs ...field) apiMethod {
	return apiMethod{name, inputs, output.shape, func(v view, r *scale.Reader) []byte { return output.put(nil, get(v, r)) }}
}

// apiID is blake2b-64 of a runtime API's name.
func apiID(name string) []byte {
	h, err := blake2b.New(8, nil)
	if err != nil {
		panic(err) // 8 is a legal size
	}
	h.Write([]byte(name))
	return h.Sum(nil)
}

var opaqueMetadata = form[[]byte]{composite("sp_core::OpaqueMetadata", nil, field{"", tBytes, "Vec<u8>"}), scale.AppendBytes}

// declareAPIs lists the runtime APIs.
func (rt *runtime) declareAPIs() []api { return append(rt.nodeAPIs(), rt.subtensorAPIs()...) }

// nodeAPIs are the APIs of every Substrate runtime.
func (rt *runtime) nodeAPIs() []api {
	info := composite("pallet_transaction_payment::types::RuntimeDispatchInfo", []param{{"Balance", &tU64}, {"Weight", &tWeight}},
		field{"weight", tWeight, "Weight"}, field{"class", tDispatchClass, "DispatchClass"}, field{"partial_fee", tU64, "Balance"})
	inclusion := composite("pallet_transaction_payment::types::InclusionFee", []param{{"Balance", &tU64}},
		field{"base_fee", tU64, "Balance"}, field{"len_fee", tU64, "Balance"}, field{"adjusted_weight_fee", tU64, "Balance"})
	details := composite("pallet_transaction_payment::types::FeeDetails", []param{{"Balance", &tU64}},
		field{"inclusion_fee", option(inclusion), "Option<InclusionFee<Balance>>"}, field{"tip", tU64, "Balance"})
	uxt := []field{{"uxt", rt.extrinsicShape(), ""}, {"len", tU32, ""}}
	slot := composite("sp_consensus_slots::SlotDuration", nil, field{"", tU64, "u64"})
	return []api{
		{"Core", 5, []apiMethod{{"version", nil, rt.constantShape("System", "Version"), func(v view, _ *scale.Reader) []byte { return v.rt.version() }}}},
		{"Metadata", 2, []apiMethod{
			asks("metadata", opaqueMetadata, func(v view, _ *scale.Reader) []byte { return v.rt.v14 }),
			asks("metadata_at_version", maybe(opaqueMetadata), func(v view, r *scale.Reader) *[]byte {
				if blob, known := v.rt.blobs()[r.U32()]; known {
					return &blob
				}
				return nil
			}, field{"version", tU32, ""}),
			asks("metadata_versions", plain(listOf(cU32)), func(v view, _ *scale.Reader) []uint32 {
				return slices.Sorted(maps.Keys(v.rt.blobs()))
			}),
		}},
		{"AuraApi", 1, []apiMethod{
			asks("slot_duration", form[uint64]{slot, cU64.encode}, func(v view, _ *scale.Reader) uint64 { return v.rt.slot }),
			asks("authorities", form[[]account]{vec(tAuraPublic), listOf(cAccount).encode}, func(v view, _ *scale.Reader) []account {
				return v.rt.aura.authorities.get(v)
			}),
		}},
		{"AccountNonceApi", 1, []apiMethod{asks("account_nonce", plain(cU32), func(v view, r *scale.Reader) uint32 {
			return v.rt.system.account.get(v, readAccount(r)).nonce
		}, field{"account", tAccount, ""})}},
		{"TransactionPaymentApi", 4, []apiMethod{
			{"query_info", uxt, info, func(v view, r *scale.Reader) []byte { return v.priced(r, (*extrinsic).info) }},
			{"query_fee_details", uxt, details, func(v view, r *scale.Reader) []byte { return v.priced(r, (*extrinsic).feeDetails) }},
			asks("query_weight_to_fee", plain(cU64), func(_ view, r *scale.Reader) uint64 {
				w := weightFee(r.Compact())
				r.Compact()
				return w
			}, field{"weight", tWeight, ""}),
			asks("query_length_to_fee", plain(cU64), func(_ view, r *scale.Reader) uint64 { return uint64(r.U32()) }, field{"length", tU32, ""}),
		}},
	}
}

// blobs are the metadata by version.
func (rt *runtime) blobs() map[uint32][]byte { return map[uint32][]byte{14: rt.v14, 15: rt.v15} }

// priced reads an extrinsic as it goes over the wire, length prefix included, and the u32 length that follows.
func (v view) priced(r *scale.Reader, what func(x *extrinsic, length int) []byte) []byte {
	raw := r.Raw(max(r.Len()-4, 0))
	length := r.U32()
	if r.Err() != nil {
		return nil
	}
	x, err := v.rt.decodeExtrinsic(raw)
	if err != nil {
		r.Fail(err)
		return nil
	}
	return what(x, int(length))
}

// apiTypes describes the runtime APIs for metadata of version 15.
func (rt *runtime) apiTypes(r *registry) (out []scale.RuntimeAPI) {
	for _, a := range rt.apis {
		described := scale.RuntimeAPI{Name: a.name}
		for _, m := range a.methods {
			method := scale.RuntimeMethod{Name: m.name, Output: r.id(m.output)}
			for _, in := range m.inputs {
				method.Inputs = append(method.Inputs, scale.MethodParam{Name: in.name, Ty: r.id(in.shape)})
			}
			described.Methods = append(described.Methods, method)
		}
		out = append(out, described)
	}
	return out
}

func (rt *runtime) constantShape(palletName, name string) shape {
	for _, p := range rt.pallets {
		for _, c := range p.constants {
			if p.name == palletName && c.name == name {
				return c.shape
			}
		}
	}
	panic("localnet: no constant " + palletName + "." + name)
}

// callAPI answers state_call.
func (rt *runtime) callAPI(state reader, name string, args []byte) ([]byte, error) {
	trait, method, _ := strings.Cut(name, "_")
	for _, a := range rt.apis {
		if a.name != trait {
			continue
		}
		for _, m := range a.methods {
			if m.name != method {
				continue
			}
			r := scale.NewReader(args)
			out := m.answer(view{state, rt}, r)
			if err := r.Done(); err != nil {
				return nil, errArguments(name, err)
			}
			return out, nil
		}
	}
	return nil, &Rejection{4003, fmt.Sprintf("Client error: Execution failed: Other error happened while constructing the runtime: Exported method %s is not found", name), ""}
}

func errArguments(method string, err error) error {
	var refused *Rejection
	if errors.As(err, &refused) {
		err = errors.New(refused.Data)
	}
	return &Rejection{4003, fmt.Sprintf("Client error: Execution failed: the arguments of %s do not decode: %v", method, err), ""}
}

// info is the RuntimeDispatchInfo of an extrinsic whose bytes are length long.
func (x *extrinsic) info(length int) []byte {
	c := x.call.price()
	w := c.weight
	b := scale.AppendCompact(scale.AppendCompact(nil, w.refTime-min(w.refTime, baseWeight)), w.proofSize)
	return scale.AppendU64(append(b, 0), c.fee(length))
}

// feeDetails is what the fee of an extrinsic is made of; None where it pays none.
func (x *extrinsic) feeDetails(length int) []byte {
	c := x.call.price()
	if c.free {
		return scale.AppendU64([]byte{0}, x.tip)
	}
	b := scale.AppendU64(scale.AppendU64([]byte{1}, baseFee), uint64(length))
	return scale.AppendU64(scale.AppendU64(b, weightFee(c.refTime-min(c.refTime, baseWeight))), x.tip)
}
