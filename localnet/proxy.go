package localnet

import (
	"slices"

	"basilica/scale"
)

const (
	proxyIndex         = 16
	maxProxies         = 20
	proxyDepositBase   = 60_000_000 // rao
	proxyDepositFactor = 33_000_000 // rao for each proxy
)

// delegation lets an account act for another; kind is one of proxyKinds.
type delegation struct {
	delegate account
	kind     uint8
	delay    uint32
}

// delegations are an account's proxies with their deposit in rao.
type delegations struct {
	list    []delegation
	deposit uint64
}

type proxyStore struct{ proxies map1[account, delegations] }

var (
	proxyKinds = [...]string{
		"Any", "Owner", "NonCritical", "NonTransfer", "Senate", "NonFungible", "Triumvirate", "Governance", "Staking",
		"Registration", "Transfer", "SmallTransfer", "RootWeights", "ChildKeys", "SudoUncheckedSetCode", "SwapHotkey",
		"SubnetLeaseBeneficiary", "RootClaim",
	}
	tProxyKind  = enum("subtensor_runtime_common::ProxyType", nil, plainArms(proxyKinds[:]...)...)
	cDelegation = codec[delegation]{
		composite("pallet_subtensor_proxy::ProxyDefinition", []param{{"AccountId", &tAccount}, {"ProxyType", &tProxyKind}, {"BlockNumber", &tU32}},
			field{"delegate", tAccount, "AccountId"}, field{"proxy_type", tProxyKind, "ProxyType"}, field{"delay", tU32, "BlockNumber"}),
		func(b []byte, d delegation) []byte {
			return scale.AppendU32(append(append(b, d.delegate[:]...), d.kind), d.delay)
		},
		func(r *scale.Reader) delegation { return delegation{readAccount(r), r.U8(), r.U32()} },
	}
	cDelegations = codec[delegations]{
		tuple(bounded(cDelegation.shape), tU64),
		func(b []byte, d delegations) []byte {
			return scale.AppendU64(listOf(cDelegation).encode(b, d.list), d.deposit)
		},
		func(r *scale.Reader) delegations { return delegations{listOf(cDelegation).decode(r), r.U64()} },
	}
	// proxyWeight is what a proxy weighs more than the call in it.
	proxyWeight = weight{396_673_365, 9192}
)

func proxyError(name string) dispatchError {
	return listedError("Proxy", proxyIndex, proxyErrors[:], name)
}

func (rt *runtime) proxyPallet() module {
	p := &prefix{pallet: "Proxy"}
	rt.proxies = &proxyStore{newMap(p, "Proxies", byAccountTwox, cDelegations, delegations{})}
	inner := field{"call", rt.callShape(), "Box<<T as Config>::RuntimeCall>"}
	address := func(name string) field { return field{name, tMultiAddress, "AccountIdLookupOf<T>"} }
	kind := field{"proxy_type", tProxyKind, "T::ProxyType"}
	delay := field{"delay", tU32, "BlockNumberFor<T>"}
	who := func(name string) field { return field{name, tAccount, "T::AccountId"} }
	changed := []field{who("delegator"), who("delegatee"), kind, delay}
	return module{
		name: "Proxy", crate: "pallet_subtensor_proxy", index: proxyIndex, storage: p,
		calls: []call{
			{0, "proxy", []field{address("real"), {"force_proxy_type", option(tProxyKind), "Option<T::ProxyType>"}, inner}, false, weight{}, nil},
			{1, "add_proxy", []field{address("delegate"), kind, delay}, false, weight{328_128_644, 8452}, func(rt *runtime, r *scale.Reader) dispatch {
				d := readDelegation(r)
				return dispatch{run: func(x *execution, from origin) error { return rt.addProxy(x, from, d) }}
			}},
			{2, "remove_proxy", []field{address("delegate"), kind, delay}, false, weight{328_128_644, 8452}, func(rt *runtime, r *scale.Reader) dispatch {
				d := readDelegation(r)
				return dispatch{run: func(x *execution, from origin) error {
					if err := rt.removeProxies(x, from, func(o delegation) bool { return o == d }); err != nil {
						return err
					}
					x.emit(eventProxyRemoved, from.who[:], d.delegate[:], []byte{d.kind}, scale.AppendU32(nil, d.delay))
					return nil
				}}
			}},
			{3, "remove_proxies", nil, false, weight{328_128_644, 8452}, func(rt *runtime, _ *scale.Reader) dispatch {
				return dispatch{run: func(x *execution, from origin) error {
					return rt.removeProxies(x, from, func(delegation) bool { return true })
				}}
			}},
		},
		nests: map[uint8]nest{0: decodeProxy},
		events: []arm{
			eventProxyExecuted.arm("ProxyExecuted", field{"result", tDispatchResult, "DispatchResult"}),
			eventProxyAdded.arm("ProxyAdded", changed...),
			eventProxyRemoved.arm("ProxyRemoved", changed...),
		},
		errors: plainArms(proxyErrors[:]...),
		constants: []constant{
			{"ProxyDepositBase", tU64, u64(proxyDepositBase)},
			{"ProxyDepositFactor", tU64, u64(proxyDepositFactor)},
			{"MaxProxies", tU32, scale.AppendU32(nil, maxProxies)},
		},
	}
}

func readDelegation(r *scale.Reader) delegation {
	d := delegation{readAddress(r), r.U8(), r.U32()}
	if int(d.kind) >= len(proxyKinds) {
		r.Fail(errUndecodable)
	}
	return d
}

// decodeProxy reads a call in another's name. It runs as the account that it names, and what becomes of it stands in the
// event.
func decodeProxy(rt *runtime, r *scale.Reader, depth int) dispatch {
	named := readAddress(r)
	var forced *uint8
	if r.Bool() {
		kind := r.U8()
		forced = &kind
		if int(kind) >= len(proxyKinds) {
			r.Fail(errUndecodable)
		}
	}
	inner, err := rt.decodeInner(r, depth)
	if err != nil {
		r.Fail(err)
		return dispatch{}
	}
	return dispatch{
		cost: &cost{weight: inner.price().weight.plus(proxyWeight)},
		run: func(x *execution, from origin) error {
			if from.root {
				return badOrigin
			}
			list := rt.proxies.proxies.get(x, named).list
			i := slices.IndexFunc(list, func(d delegation) bool {
				return d.delegate == from.who && (forced == nil || d.kind == *forced)
			})
			switch {
			case i < 0:
				return proxyError("NotProxy")
			case list[i].delay > 0:
				return proxyError("Unannounced")
			case !proxyMay(list[i].kind, inner):
				x.emit(eventProxyExecuted, append([]byte{1}, x.rt.encodeError(callFiltered)...))
				return nil
			}
			x.emit(eventProxyExecuted, x.nested(inner, origin{who: named}))
			return nil
		},
	}
}

// proxyMay says whether a kind of proxy may make a call.
func proxyMay(kind uint8, inner decoded) bool {
	name := inner.call.name
	staking := inner.module.name == "SubtensorModule" && slices.Contains([]string{
		"add_stake", "add_stake_limit", "remove_stake", "remove_stake_limit", "move_stake", "swap_stake",
	}, name)
	transfer := inner.module.name == "Balances" || name == "transfer_stake"
	switch proxyKinds[kind] {
	case "Any":
		return true
	case "Owner":
		return inner.module.name == "AdminUtils" || name == "set_subnet_identity"
	case "NonTransfer":
		return !transfer
	case "NonCritical":
		return inner.module.name != "Sudo" && name != "root_register" && name != "burned_register"
	case "NonFungible":
		return inner.module.name != "Balances" && !staking && name != "transfer_stake" && name != "burned_register" && name != "root_register"
	case "Staking":
		return staking
	case "Registration":
		return name == "burned_register" || name == "register" || name == "register_limit"
	case "Transfer":
		return transfer
	case "ChildKeys":
		return name == "set_children" || name == "set_childkey_take"
	}
	return false
}

func (rt *runtime) addProxy(x *execution, from origin, d delegation) error {
	if from.root {
		return badOrigin
	}
	if d.delegate == from.who {
		return proxyError("NoSelfProxy")
	}
	own := rt.proxies.proxies.get(x, from.who)
	switch {
	case slices.Contains(own.list, d):
		return proxyError("Duplicate")
	case len(own.list) >= maxProxies:
		return proxyError("TooMany")
	}
	own.list = append(own.list, d)
	// The runtime keeps the list in order, so that it finds one by halving.
	slices.SortFunc(own.list, func(a, b delegation) int {
		return slices.Compare(cDelegation.encode(nil, a), cDelegation.encode(nil, b))
	})
	deposit := uint64(proxyDepositBase + proxyDepositFactor*len(own.list))
	if err := rt.reserve(x, from.who, deposit-own.deposit); err != nil {
		return err
	}
	own.deposit = deposit
	rt.proxies.proxies.set(x, from.who, own)
	x.emit(eventProxyAdded, from.who[:], d.delegate[:], []byte{d.kind}, scale.AppendU32(nil, d.delay))
	return nil
}

// removeProxies ends delegations and gives their deposit back.
func (rt *runtime) removeProxies(x *execution, from origin, which func(delegation) bool) error {
	if from.root {
		return badOrigin
	}
	own := rt.proxies.proxies.get(x, from.who)
	before := len(own.list)
	if own.list = slices.DeleteFunc(own.list, which); len(own.list) == before {
		return proxyError("NotFound")
	}
	var deposit uint64
	if len(own.list) > 0 {
		deposit = uint64(proxyDepositBase + proxyDepositFactor*len(own.list))
	}
	rt.unreserve(x, from.who, own.deposit-deposit)
	own.deposit = deposit
	if len(own.list) == 0 {
		rt.proxies.proxies.del(x, from.who)
	} else {
		rt.proxies.proxies.set(x, from.who, own)
	}
	return nil
}
