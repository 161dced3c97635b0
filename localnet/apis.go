package localnet

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/blake2b"

	"basilica/scale"
)

// apiVersion is one implemented runtime API.
type apiVersion struct {
	name    string
	version uint32
}

var apiVersions = []apiVersion{{"Core", 5}, {"Metadata", 2}, {"AccountNonceApi", 1}, {"TransactionPaymentApi", 4}}

// apiID is blake2b-64 of a runtime API's name.
func apiID(name string) []byte {
	h, err := blake2b.New(8, nil)
	if err != nil {
		panic(err) // 8 is a legal size
	}
	h.Write([]byte(name))
	return h.Sum(nil)
}

// apis describes the runtime APIs for metadata of version 15.
func (rt *runtime) apis(r *registry, extrinsic shape) []scale.RuntimeAPI {
	opaque := composite("sp_core::OpaqueMetadata", nil, field{"", tBytes, "Vec<u8>"})
	version := rt.constantShape("System", "Version")
	info := composite("pallet_transaction_payment::types::RuntimeDispatchInfo", []param{{"Balance", &tU64}, {"Weight", &tWeight}},
		field{"weight", tWeight, "Weight"}, field{"class", tDispatchClass, "DispatchClass"}, field{"partial_fee", tU64, "Balance"})
	method := func(name string, output shape, inputs ...scale.MethodParam) scale.RuntimeMethod {
		return scale.RuntimeMethod{Name: name, Inputs: inputs, Output: r.id(output)}
	}
	in := func(name string, s shape) scale.MethodParam { return scale.MethodParam{Name: name, Ty: r.id(s)} }
	return []scale.RuntimeAPI{
		{Name: "Core", Methods: []scale.RuntimeMethod{method("version", version)}},
		{Name: "Metadata", Methods: []scale.RuntimeMethod{
			method("metadata", opaque),
			method("metadata_at_version", option(opaque), in("version", tU32)),
			method("metadata_versions", vec(tU32)),
		}},
		{Name: "AccountNonceApi", Methods: []scale.RuntimeMethod{method("account_nonce", tU32, in("account", tAccount))}},
		{Name: "TransactionPaymentApi", Methods: []scale.RuntimeMethod{
			method("query_info", info, in("uxt", extrinsic), in("len", tU32)),
		}},
	}
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
func (rt *runtime) callAPI(view reader, method string, args []byte) ([]byte, error) {
	r := scale.NewReader(args)
	var out []byte
	switch method {
	case "Core_version":
		out = runtimeVersion()
	case "Metadata_metadata":
		out = scale.AppendBytes(nil, rt.v14)
	case "Metadata_metadata_versions":
		out = listOf(cU32).encode(nil, []uint32{14, 15})
	case "Metadata_metadata_at_version":
		switch r.U32() {
		case 14:
			out = scale.AppendBytes([]byte{1}, rt.v14)
		case 15:
			out = scale.AppendBytes([]byte{1}, rt.v15)
		default:
			out = []byte{0}
		}
	case "AccountNonceApi_account_nonce":
		out = scale.AppendU32(nil, rt.system.account.get(view, readAccount(r)).nonce)
	case "TransactionPaymentApi_query_info":
		// The extrinsic stands in the arguments as it goes over the wire, length prefix included; a u32 length follows.
		if len(args) < 4 {
			return nil, errArguments(method, scale.ErrShort)
		}
		raw := r.Raw(len(args) - 4)
		length := r.U32()
		ext, err := rt.decodeExtrinsic(raw)
		if err != nil {
			return nil, errArguments(method, err)
		}
		out = ext.info(int(length))
	default:
		return nil, &Rejection{4003, fmt.Sprintf("Client error: Execution failed: Other error happened while constructing the runtime: Exported method %s is not found", method), ""}
	}
	if err := r.Done(); err != nil {
		return nil, errArguments(method, err)
	}
	return out, nil
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
