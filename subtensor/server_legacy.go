package subtensor

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"basilica"
	"basilica/pallet"
	"basilica/scale"
)

// argument reads one JSON parameter and appends its SCALE bytes.
type argument func(p params, i int, b []byte) ([]byte, error)

func argU16(p params, i int, b []byte) ([]byte, error) {
	var v uint16
	err := p.into(i, &v)
	return scale.AppendU16(b, v), err
}

func argU8(p params, i int, b []byte) ([]byte, error) {
	var v uint8
	err := p.into(i, &v)
	return append(b, v), err
}

func argU16List(p params, i int, b []byte) ([]byte, error) {
	var list []uint16
	err := p.into(i, &list)
	b = scale.AppendCompact(b, uint64(len(list)))
	for _, v := range list {
		b = scale.AppendU16(b, v)
	}
	return b, err
}

// argAccount is a public key as an array of 32 byte numbers, which old clients send.
func argAccount(p params, i int, b []byte) ([]byte, error) {
	var list []uint16 // encoding/json would read a list of uint8 as base64
	if err := p.into(i, &list); err != nil {
		return nil, err
	}
	if len(list) != 32 || slices.Max(list) > 255 {
		return nil, invalidParams(fmt.Sprintf("parameter %d: an account has 32 bytes", i))
	}
	for _, v := range list {
		b = append(b, byte(v))
	}
	return b, nil
}

// legacyAPIs are subtensor's own methods: names of runtime APIs that answer as arrays of byte numbers. After the
// arguments comes the block's hash, or nothing.
var legacyAPIs = map[string]struct {
	api  string
	args []argument
}{
	"subnetInfo_getMetagraph":          {"SubnetInfoRuntimeApi_get_metagraph", []argument{argU16}},
	"subnetInfo_getAllMetagraphs":      {"SubnetInfoRuntimeApi_get_all_metagraphs", nil},
	"subnetInfo_getMechagraph":         {"SubnetInfoRuntimeApi_get_mechagraph", []argument{argU16, argU8}},
	"subnetInfo_getAllMechagraphs":     {"SubnetInfoRuntimeApi_get_all_mechagraphs", nil},
	"subnetInfo_getSelectiveMetagraph": {"SubnetInfoRuntimeApi_get_selective_metagraph", []argument{argU16, argU16List}},
	"subnetInfo_getSubnetHyperparams":  {"SubnetInfoRuntimeApi_get_subnet_hyperparams", []argument{argU16}},
	"subnetInfo_getSubnetHyperparamsV2": {
		"SubnetInfoRuntimeApi_get_subnet_hyperparams_v2", []argument{argU16},
	},
	"subnetInfo_getDynamicInfo":    {"SubnetInfoRuntimeApi_get_dynamic_info", []argument{argU16}},
	"subnetInfo_getAllDynamicInfo": {"SubnetInfoRuntimeApi_get_all_dynamic_info", nil},
	"subnetInfo_getSubnetInfo":     {"SubnetInfoRuntimeApi_get_subnet_info", []argument{argU16}},
	"subnetInfo_getSubnetInfo_v2":  {"SubnetInfoRuntimeApi_get_subnet_info_v2", []argument{argU16}},
	"subnetInfo_getSubnetsInfo":    {"SubnetInfoRuntimeApi_get_subnets_info", nil},
	"subnetInfo_getSubnetsInfo_v2": {"SubnetInfoRuntimeApi_get_subnets_info_v2", nil},
	"subnetInfo_getSubnetState":    {"SubnetInfoRuntimeApi_get_subnet_state", []argument{argU16}},
	"neuronInfo_getNeurons":        {"NeuronInfoRuntimeApi_get_neurons", []argument{argU16}},
	"neuronInfo_getNeuronsLite":    {"NeuronInfoRuntimeApi_get_neurons_lite", []argument{argU16}},
	"neuronInfo_getNeuron":         {"NeuronInfoRuntimeApi_get_neuron", []argument{argU16, argU16}},
	"neuronInfo_getNeuronLite":     {"NeuronInfoRuntimeApi_get_neuron_lite", []argument{argU16, argU16}},
	"delegateInfo_getDelegates":    {"DelegateInfoRuntimeApi_get_delegates", nil},
	"delegateInfo_getDelegate":     {"DelegateInfoRuntimeApi_get_delegate", []argument{argAccount}},
	"delegateInfo_getDelegated":    {"DelegateInfoRuntimeApi_get_delegated", []argument{argAccount}},
}

// legacy asks a runtime API by one of those names.
func (s *Server) legacy(name string, p params) ([]byte, error) {
	m := legacyAPIs[name]
	var args []byte
	for i, read := range m.args {
		var err error
		if args, err = read(p, i, args); err != nil {
			return nil, err
		}
	}
	at, err := s.at(p, len(m.args))
	if err != nil {
		return nil, err
	}
	return s.node.CallAPI(at, m.api, args)
}

func legacyMethods(table map[string]method) {
	for name := range legacyAPIs {
		table[name] = call(func(s *Server, p params) (any, error) {
			answer, err := s.legacy(name, p)
			if err != nil {
				return nil, err
			}
			numbers := make([]uint16, len(answer)) // a list of uint8 would go out as base64
			for i, b := range answer {
				numbers[i] = uint16(b)
			}
			return numbers, nil
		})
	}
	table["subnetInfo_getLockCost"] = call(func(s *Server, p params) (any, error) {
		at, err := s.at(p, 0)
		if err != nil {
			return nil, err
		}
		answer, err := s.node.CallAPI(at, "SubnetRegistrationRuntimeApi_get_network_registration_cost", nil)
		if err != nil {
			return nil, err
		}
		r := scale.NewReader(answer)
		cost := r.U64()
		return cost, r.Done()
	})
}

// feeDetails is payment_queryFeeDetails.
func (s *Server) feeDetails(p params) (any, error) {
	answer, err := s.askPrice(p, "TransactionPaymentApi_query_fee_details")
	if err != nil {
		return nil, err
	}
	r := scale.NewReader(answer)
	text := func(v uint64) string { return strconv.FormatUint(v, 10) }
	var inclusion any
	if r.Option() {
		inclusion = map[string]string{"baseFee": text(r.U64()), "lenFee": text(r.U64()), "adjustedWeightFee": text(r.U64())}
	}
	tip := r.U64()
	return map[string]any{"inclusionFee": inclusion, "tip": text(tip)}, r.Done()
}

// askPrice passes an extrinsic and its length to a runtime API.
func (s *Server) askPrice(p params, api string) ([]byte, error) {
	extrinsic, at, err := s.bytesAt(p)
	if err != nil {
		return nil, err
	}
	return s.node.CallAPI(at, api, scale.AppendU32(bytes.Clone(extrinsic), uint32(len(extrinsic))))
}

// storageDigest is state_getStorageHash; storageSize, state_getStorageSize.
func (s *Server) storageDigest(p params) (any, error) {
	value, found, err := s.stored(p)
	if err != nil || !found {
		return nil, err
	}
	return basilica.Hash(pallet.Blake2b256(value)), nil
}

func (s *Server) storageSize(p params) (any, error) {
	value, found, err := s.stored(p)
	if err != nil || !found {
		return nil, err
	}
	return len(value), nil
}

func (s *Server) stored(p params) (value []byte, found bool, err error) {
	key, at, err := s.bytesAt(p)
	if err != nil {
		return nil, false, err
	}
	return s.node.Storage(at, key)
}

// pairs is state_getPairs.
func (s *Server) pairs(p params) (any, error) {
	prefix, at, err := s.bytesAt(p)
	if err != nil {
		return nil, err
	}
	keys, err := s.node.StorageKeys(at, prefix, nil, maxPairs)
	if err != nil {
		return nil, err
	}
	out := make([][2]any, len(keys))
	for i, key := range keys {
		v, err := s.value(at, key)
		if err != nil {
			return nil, err
		}
		out[i] = [2]any{hexBytes(key), v}
	}
	return out, nil
}

// maxQueryValues bounds the keys of one state_queryStorage times its blocks: each is read.
const maxQueryValues = 100_000

// storageHistory is state_queryStorage: the keys' values at the first block, then what each block until the last changed.
// session is nil over HTTP.
func (s *Server) storageHistory(session *session, p params) (any, error) {
	var list []hexBytes
	var from, to basilica.Hash
	if err := p.into(0, &list); err != nil {
		return nil, err
	}
	if err := p.into(1, &from); err != nil {
		return nil, err
	}
	to, err := s.at(p, 2)
	if err != nil {
		return nil, err
	}
	if len(list) > maxQueryKeys {
		return nil, invalidParams(fmt.Sprintf("more than %d keys", maxQueryKeys))
	}
	first, _, known := s.node.Block(from)
	last, _, kept := s.node.Block(to)
	if !known || !kept || first.Number > last.Number || last.Number-first.Number > maxQueryBlocks {
		return nil, &fault{4001, "Cannot resolve a block range", fmt.Sprintf("from %s to %s, at most %d blocks", from, to, maxQueryBlocks)}
	}
	if uint64(len(list))*uint64(last.Number-first.Number+1) > maxQueryValues {
		return nil, invalidParams(fmt.Sprintf("more than %d values: keys times blocks", maxQueryValues))
	}
	out := []changeSet{}
	before := make([]any, len(list))
	for n := first.Number; n <= last.Number; n++ {
		if session != nil && session.ctx.Err() != nil {
			return nil, session.ctx.Err()
		}
		at, known := s.node.BlockHash(basilica.BlockNumber(n))
		if !known {
			return nil, &fault{4001, "Cannot resolve a block range", fmt.Sprintf("block %d is not known", n)}
		}
		set := changeSet{Block: at}
		for i, key := range list {
			v, err := s.value(at, key)
			if err != nil {
				return nil, err
			}
			if n == first.Number || fmt.Sprint(v) != fmt.Sprint(before[i]) {
				set.Changes = append(set.Changes, [2]any{key, v})
			}
			before[i] = v
		}
		if len(set.Changes) > 0 {
			out = append(out, set)
		}
	}
	return out, nil
}
