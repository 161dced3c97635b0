package localnet

import (
	"math"

	"basilica/scale"
)

func (rt *runtime) servingCalls(net field) []call {
	args := []field{
		net,
		{"version", tU32, "u32"},
		{"ip", tU128, "u128"},
		{"port", tU16, "u16"},
		{"ip_type", tU8, "u8"},
		{"protocol", tU8, "u8"},
		{"placeholder1", tU8, "u8"},
		{"placeholder2", tU8, "u8"},
	}
	tls := append(append([]field{}, args...), field{"certificate", tBytes, "Vec<u8>"})
	return []call{
		{4, "serve_axon", args, true, weight{476053000, 12488}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid, info := readAxon(r)
			return rt.serveAxon(netuid, info, nil)
		}},
		{40, "serve_axon_tls", tls, true, weight{475392000, 12459}, func(rt *runtime, r *scale.Reader) dispatch {
			netuid, info := readAxon(r)
			return rt.serveAxon(netuid, info, r.Bytes())
		}},
		{5, "serve_prometheus", args[:5], true, weight{474_069_000, 12587}, func(rt *runtime, r *scale.Reader) dispatch {
			return rt.servePrometheus(r.U16(), prometheusInfo{0, r.U32(), cU128.decode(r), r.U16(), r.U8()})
		}},
	}
}

func readAxon(r *scale.Reader) (uint16, axonInfo) {
	netuid := r.U16()
	return netuid, axonInfo{0, r.U32(), cU128.decode(r), r.U16(), r.U8(), r.U8(), r.U8(), r.U8()}
}

// serveAxon publishes an axon. The pool runs the same checks first.
func (rt *runtime) serveAxon(netuid uint16, info axonInfo, cert []byte) dispatch {
	return dispatch{
		guard: func(x *execution, hotkey account) error { return rt.checkAxon(x, netuid, hotkey, info) },
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			if err := rt.checkAxon(x, netuid, from.who, info); err != nil {
				return err
			}
			info.block = x.block
			rt.subnets.axons.set(x, netuid, from.who, info)
			// One byte of algorithm and at most 64 of key; what does not fit is dropped without an error.
			if len(cert) > 0 && len(cert) <= 65 {
				rt.subnets.certificates.set(x, netuid, from.who, certificate{key: cert[1:], algorithm: cert[0]})
			}
			x.emit(eventAxonServed, u16(netuid), from.who[:])
			return nil
		},
	}
}

func (rt *runtime) checkAxon(x *execution, netuid uint16, hotkey account, info axonInfo) error {
	before, served := rt.subnets.axons.find(x, netuid, hotkey)
	return rt.checkServing(x, netuid, hotkey, serving{info.ip, info.port, info.ipType, before.block, served, true})
}

// servePrometheus publishes where a neuron's metrics are; unlike an axon's, their address cannot be 0.
func (rt *runtime) servePrometheus(netuid uint16, info prometheusInfo) dispatch {
	check := func(x *execution, hotkey account) error {
		before, served := rt.subnets.prometheus.find(x, netuid, hotkey)
		return rt.checkServing(x, netuid, hotkey, serving{info.ip, info.port, info.ipType, before.block, served, false})
	}
	return dispatch{
		guard: check,
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			if err := check(x, from.who); err != nil {
				return err
			}
			info.block = x.block
			rt.subnets.prometheus.set(x, netuid, from.who, info)
			x.emit(eventPrometheusServed, u16(netuid), from.who[:])
			return nil
		},
	}
}

// serving is what is checked of an axon or a prometheus endpoint; since is the block in which it was last served.
type serving struct {
	ip     [2]uint64
	port   uint16
	ipType uint8
	since  uint64
	before bool
	reset  bool // the address may be 0
}

// checkServing checks in the runtime's order.
func (rt *runtime) checkServing(x *execution, netuid uint16, hotkey account, v serving) error {
	s := rt.subnets
	if _, registered := s.uids.find(x, netuid, hotkey); !registered {
		return subtensorError("HotKeyNotRegisteredInNetwork")
	}
	limit := s.servingRateLimit.get(x, netuid)
	switch {
	case v.ipType != 4 && v.ipType != 6:
		return subtensorError("InvalidIpType")
	case !validAddress(v) || !v.reset && v.ip == [2]uint64{}:
		return subtensorError("InvalidIpAddress")
	case v.before && limit != 0 && x.block-v.since < limit:
		return subtensorError("ServingRateLimitExceeded")
	case v.port == 0:
		return subtensorError("InvalidPort")
	}
	return nil
}

// validAddress refuses what the chain refuses: broadcast and exactly 127.0.0.1 or ::1. Address 0 resets an axon.
func validAddress(info serving) bool {
	hi, lo := info.ip[0], info.ip[1]
	if info.ipType == 4 {
		return hi == 0 && lo < math.MaxUint32 && lo != 0x7f000001
	}
	return (hi != math.MaxUint64 || lo != math.MaxUint64) && (hi != 0 || lo != 1)
}
