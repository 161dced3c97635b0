package localnet

import "basilica/scale"

var (
	inNetuid   = field{"netuid", tU16, ""}
	inColdkey  = field{"coldkey_account", tAccount, ""}
	inHotkey   = field{"hotkey_account", tAccount, ""}
	inDelegate = field{"delegate_account", tAccount, ""}
)

// bySubnet is a method that takes a netuid and says nothing of a subnet that does not exist.
func bySubnet(name string, f form[subnet]) apiMethod {
	return asks(name, maybe(f), func(v view, r *scale.Reader) *subnet { return v.subnet(r.U16(), 0) }, inNetuid)
}

// ofSubnets is a method that answers for all subnets.
func ofSubnets(name string, f form[subnet]) apiMethod {
	return asks(name, many(maybe(f)), func(v view, _ *scale.Reader) []*subnet { return v.all() })
}

// mechanism reads netuid and mechanism; nil where there is no such mechanism.
func (v view) mechanism(r *scale.Reader) *subnet {
	netuid, mechanism := r.U16(), r.U8()
	if n := v.subnet(netuid, mechanism); n != nil && mechanism < n.mechanismCountCurrent.get(v, netuid) {
		return n
	}
	return nil
}

func readChosen(n *subnet, r *scale.Reader) *chosen[subnet] {
	fields := map[uint16]bool{}
	for range r.Count(2) {
		fields[r.U16()] = true
	}
	if n == nil {
		return nil
	}
	return &chosen[subnet]{*n, fields}
}

// subtensorAPIs are those of subtensor that its clients ask, with the two of the basket that newer ones ask besides.
func (rt *runtime) subtensorAPIs() []api {
	s := rt.subnets
	graph := record(rpcInfo+"metagraph::Metagraph", s.graphParts()...)
	dynamic := record(rpcInfo+"dynamic_info::DynamicInfo", s.dynamicParts()...)
	info := record(rpcInfo+"subnet_info::SubnetInfo", s.infoParts("emission_values")...)
	info2 := record(rpcInfo+"subnet_info::SubnetInfov2", append(s.infoParts("emission_value"), fill("identity", "Option<SubnetIdentityV3>", fIdentity, subnet.identity))...)
	chosenGraph := maybe(selective(rpcInfo+"metagraph::SelectiveMetagraph", s.selectiveParts()...))
	inFields := field{"metagraph_indexes", vec(tU16), ""}
	return []api{
		{"SubnetInfoRuntimeApi", 2, []apiMethod{
			bySubnet("get_subnet_info", info),
			ofSubnets("get_subnets_info", info),
			bySubnet("get_subnet_info_v2", info2),
			ofSubnets("get_subnets_info_v2", info2),
			bySubnet("get_subnet_hyperparams", record(rpcInfo+"subnet_info::SubnetHyperparams", s.hyperparams()...)),
			bySubnet("get_subnet_hyperparams_v2", record(rpcInfo+"subnet_info::SubnetHyperparamsV2", s.hyperparams2()...)),
			bySubnet("get_subnet_hyperparams_v3", s.hyperparams3()),
			ofSubnets("get_all_dynamic_info", dynamic),
			ofSubnets("get_all_metagraphs", graph),
			bySubnet("get_metagraph", graph),
			ofSubnets("get_all_mechagraphs", graph),
			asks("get_mechagraph", maybe(graph), func(v view, r *scale.Reader) *subnet { return v.mechanism(r) }, inNetuid, field{"mecid", tU8, ""}),
			bySubnet("get_dynamic_info", dynamic),
			bySubnet("get_subnet_state", record(rpcInfo+"show_subnet::SubnetState", s.stateParts()...)),
			asks("get_selective_metagraph", chosenGraph, func(v view, r *scale.Reader) *chosen[subnet] {
				return readChosen(v.subnet(r.U16(), 0), r)
			}, inNetuid, inFields),
			asks("get_coldkey_auto_stake_hotkey", maybe(fAccount), func(v view, r *scale.Reader) *account {
				if hotkey, set := v.rt.subnets.autoStake.find(v, readAccount(r), r.U16()); set {
					return &hotkey
				}
				return nil
			}, field{"coldkey", tAccount, ""}, inNetuid),
			asks("get_selective_mechagraph", chosenGraph, func(v view, r *scale.Reader) *chosen[subnet] {
				netuid := r.U16()
				return readChosen(v.subnet(netuid, r.U8()), r)
			}, inNetuid, field{"subid", tU8, ""}, inFields),
			asks("get_subnet_account_id", maybe(fAccount), func(v view, r *scale.Reader) *account {
				netuid := r.U16()
				if v.subnet(netuid, 0) == nil {
					return nil
				}
				a := subnetAccount(netuid)
				return &a
			}, inNetuid),
			asks("get_next_epoch_start_block", maybe(plain(cU64)), func(v view, r *scale.Reader) *uint64 { return v.nextEpoch(r.U16()) }, inNetuid),
		}},
		rt.neuronAPI(), rt.delegateAPI(), rt.stakeAPI(),
		{"SubnetRegistrationRuntimeApi", 1, []apiMethod{
			asks("get_network_registration_cost", plain(cU64), func(v view, _ *scale.Reader) uint64 {
				return v.rt.lockCost(v, uint64(v.rt.system.number.get(v)))
			}),
		}},
		rt.swapAPI(),
		// Nobody holds a basket on a chain of spec 425.
		{"BetaBasketRuntimeApi", 1, []apiMethod{
			asks("get_root_basket_owed", plain(cU64), func(_ view, r *scale.Reader) uint64 { readAccount(r); return 0 }, field{"coldkey", tAccount, ""}),
			asks("get_root_basket_positions", fPositions, func(_ view, r *scale.Reader) []struct{} { readAccount(r); return nil }, field{"coldkey", tAccount, ""}),
		}},
	}
}

// fPositions is a list of (hotkey, beta, payout in rao) that is always empty.
var fPositions = form[[]struct{}]{vec(tuple(tAccount, tU64, tU64)), func(b []byte, _ []struct{}) []byte { return append(b, 0) }}

// nextEpoch is the block whose start runs a subnet's next epoch, unless too many are due then.
func (v view) nextEpoch(netuid uint16) *uint64 {
	s := v.rt.subnets
	tempo := s.tempo.get(v, netuid)
	if tempo == 0 {
		return nil
	}
	due := s.lastEpochBlock.get(v, netuid) + uint64(tempo)
	if pending := s.pendingEpochAt.get(v, netuid); pending != 0 {
		due = min(due, pending)
	}
	return &due
}

func (rt *runtime) neuronAPI() api {
	s := rt.subnets
	full := record(rpcInfo+"neuron_info::NeuronInfo", s.neuronFields(s.neuronRows()...)...)
	lite := record(rpcInfo+"neuron_info::NeuronInfoLite", s.neuronFields()...)
	all := func(v view, r *scale.Reader) []neuron {
		if n := v.subnet(r.U16(), 0); n != nil {
			return n.neurons()
		}
		return nil
	}
	one := func(v view, r *scale.Reader) *neuron {
		n, uid := v.subnet(r.U16(), 0), r.U16()
		if n == nil {
			return nil
		}
		return n.neuron(uid)
	}
	inUID := field{"uid", tU16, ""}
	return api{"NeuronInfoRuntimeApi", 1, []apiMethod{
		asks("get_neurons", many(full), all, inNetuid),
		asks("get_neuron", maybe(full), one, inNetuid, inUID),
		asks("get_neurons_lite", many(lite), all, inNetuid),
		asks("get_neuron_lite", maybe(lite), one, inNetuid, inUID),
	}}
}

func (rt *runtime) delegateAPI() api {
	f := record(rpcInfo+"delegate_info::DelegateInfo", rt.subnets.delegateParts()...)
	type delegated struct {
		delegate
		netStake
	}
	return api{"DelegateInfoRuntimeApi", 1, []apiMethod{
		asks("get_delegates", many(f), func(v view, _ *scale.Reader) (list []delegate) {
			for _, hotkey := range v.delegateKeys() {
				d := v.delegate(hotkey)
				d.nominators = v.nominatorsOf(hotkey)
				list = append(list, d)
			}
			return list
		}),
		asks("get_delegate", maybe(f), func(v view, r *scale.Reader) *delegate {
			d := v.delegate(readAccount(r))
			if _, known := v.rt.subnets.delegates.find(v, d.hotkey); !known {
				return nil
			}
			d.nominators = v.nominatorsOf(d.hotkey)
			return &d
		}, inDelegate),
		asks("get_delegated", many(form[delegated]{
			tuple(f.shape, fNetStake.shape),
			func(b []byte, d delegated) []byte { return fNetStake.put(f.put(b, d.delegate), d.netStake) },
		}), func(v view, r *scale.Reader) (list []delegated) {
			coldkey := readAccount(r)
			for _, hotkey := range v.delegateKeys() {
				for _, netuid := range v.rt.sortedNetuids(v) {
					if rao := v.stake(hotkey, coldkey, netuid).rao(); rao > 0 {
						list = append(list, delegated{v.delegate(hotkey), netStake{netuid, rao}})
					}
				}
			}
			return list
		}, field{"delegatee_account", tAccount, ""}),
	}}
}

func readAccounts(r *scale.Reader) []account { return listOf(cAccount).decode(r) }

func (rt *runtime) stakeAPI() api {
	place := option(tuple(tAccount, tU16))
	readPlace := func(r *scale.Reader) *uint16 {
		if !r.Option() {
			return nil
		}
		readAccount(r)
		netuid := r.U16()
		return &netuid
	}
	lock := field{"coldkey", tAccount, ""}
	return api{"StakeInfoRuntimeApi", 1, []apiMethod{
		asks("get_stake_info_for_coldkey", many(fStake), func(v view, r *scale.Reader) []stake { return v.stakes(readAccount(r)) }, inColdkey),
		asks("get_stake_info_for_coldkeys", fColdkeyStakes, func(v view, r *scale.Reader) (list []coldkeyStakes) {
			for _, coldkey := range readAccounts(r) {
				list = append(list, coldkeyStakes{coldkey, v.stakes(coldkey)})
			}
			return list
		}, field{"coldkey_accounts", vec(tAccount), ""}),
		asks("get_stake_info_for_hotkey_coldkey_netuid", maybe(fStake), func(v view, r *scale.Reader) *stake {
			return v.stake(readAccount(r), readAccount(r), r.U16())
		}, inHotkey, inColdkey, inNetuid),
		asks("get_stake_availability_for_coldkeys", fAvailabilities, func(v view, r *scale.Reader) []availabilities {
			coldkeys := readAccounts(r)
			if !r.Option() {
				return v.availabilities(coldkeys, nil, true)
			}
			return v.availabilities(coldkeys, listOf(cU16).decode(r), false)
		}, field{"coldkey_accounts", vec(tAccount), ""}, field{"netuids", option(vec(tU16)), ""}),
		asks("get_stake_fee", plain(cU64), func(v view, r *scale.Reader) uint64 {
			from := readPlace(r)
			readAccount(r)
			to := readPlace(r)
			readAccount(r)
			amount := r.U64()
			switch {
			case from != nil:
				return v.rt.swapFee(v, *from, amount)
			case to != nil:
				return v.rt.swapFee(v, *to, amount)
			}
			return 0
		}, field{"origin", place, ""}, field{"origin_coldkey_account", tAccount, ""}, field{"destination", place, ""},
			field{"destination_coldkey_account", tAccount, ""}, field{"amount", tU64, ""}),
		asks("get_coldkey_lock", maybe(plain(cLock)), func(v view, r *scale.Reader) *lockState { return v.lock(readAccount(r), r.U16()) }, lock, inNetuid),
		asks("get_hotkey_conviction", plain(cU64F64), func(v view, r *scale.Reader) [2]uint64 { return v.conviction(readAccount(r), r.U16()) },
			field{"hotkey", tAccount, ""}, inNetuid),
		asks("get_most_convicted_hotkey_on_subnet", maybe(fAccount), func(v view, r *scale.Reader) *account { return v.mostConvicted(r.U16()) }, inNetuid),
	}}
}

func (rt *runtime) swapAPI() api {
	simulate := func(selling bool) func(v view, r *scale.Reader) simulated {
		return func(v view, r *scale.Reader) simulated { return v.simulate(r.U16(), r.U64(), selling) }
	}
	return api{"SwapRuntimeApi", 1, []apiMethod{
		asks("current_alpha_price", plain(cU64), func(v view, r *scale.Reader) uint64 { return v.price(r.U16()) }, inNetuid),
		asks("current_alpha_price_all", many(fPrice), func(v view, _ *scale.Reader) (list []subnetPrice) {
			for _, netuid := range v.rt.sortedNetuids(v) {
				list = append(list, subnetPrice{netuid, v.price(netuid)})
			}
			return list
		}),
		asks("sim_swap_tao_for_alpha", fSimulated, simulate(false), inNetuid, field{"tao", tU64, ""}),
		asks("sim_swap_alpha_for_tao", fSimulated, simulate(true), inNetuid, field{"alpha", tU64, ""}),
	}}
}
