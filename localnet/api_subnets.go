package localnet

import (
	"cmp"
	"slices"
	"sync"
)

// subnet is one mechanism of a subnet as a runtime API sees it; index is where its vectors are stored, hotkeys are its neurons
// by uid.
type subnet struct {
	view
	*subtensorStore
	id      uint16
	index   uint16
	hotkeys func() []account
}

// rpcInfo is where the runtime declares what it answers.
const rpcInfo = "pallet_subtensor::rpc_info::"

// subnet looks a mechanism of a subnet up; nil where there is no such subnet.
func (v view) subnet(netuid uint16, mechanism uint8) *subnet {
	s := v.rt.subnets
	if !s.networksAdded.get(v, netuid) {
		return nil
	}
	return &subnet{v, s, netuid, storageIndex(netuid, mechanism), sync.OnceValue(func() []account {
		list := make([]account, s.subnetworkN.get(v, netuid))
		for uid := range list {
			list[uid] = s.keys.get(v, netuid, uint16(uid))
		}
		return list
	})}
}

// all are the first mechanisms of all subnets.
func (v view) all() (list []*subnet) {
	for _, netuid := range v.rt.sortedNetuids(v) {
		list = append(list, v.subnet(netuid, 0))
	}
	return list
}

func (n subnet) size() uint16 { return n.subnetworkN.get(n, n.id) }

// each maps the hotkeys.
func each[X any](n subnet, get func(hotkey account) X) []X {
	hotkeys := n.hotkeys()
	out := make([]X, len(hotkeys))
	for i, h := range hotkeys {
		out[i] = get(h)
	}
	return out
}

// vector reads a vector of the mechanism.
func vector[X any](m map1[uint16, []X]) func(subnet) []X {
	return func(n subnet) []X { return m.get(n, n.index) }
}

// of reads an item of the subnet.
func of[X any](m map1[uint16, X]) func(subnet) X {
	return func(n subnet) X { return m.get(n, n.id) }
}

func (n subnet) blocksSince() uint64 {
	return uint64(n.rt.system.number.get(n)) - min(uint64(n.rt.system.number.get(n)), n.lastMechanismStep.get(n, n.id))
}

func (n subnet) identity() *[][]byte {
	if v, known := n.subnetIdentitiesV3.find(n, n.id); known {
		return &v
	}
	return nil
}

// name is what the owner calls the subnet; the first two have names of their own.
func (n subnet) name() []byte {
	if v := n.identity(); v != nil && len((*v)[0]) > 0 {
		return (*v)[0]
	}
	switch n.id {
	case rootNetuid:
		return []byte("root")
	case 1:
		return []byte("apex")
	}
	return []byte("unknown")
}

func (n subnet) pendingAlpha() uint64 {
	return n.pendingServer.get(n, n.id) + n.pendingValidator.get(n, n.id)
}

func (n subnet) cutoff() uint64 {
	return max(1, uint64(n.cutoffFactor.get(n, n.id))*uint64(n.tempo.get(n, n.id))/1000)
}

func (n subnet) root(hotkey account) uint64 { return n.totalHotkeyAlpha.get(n, hotkey, rootNetuid) }

func (n subnet) weight(hotkey account) uint64 { return n.stakeWeightOf(n, n.id, hotkey).Rao }

func (n subnet) ownStake(hotkey account) uint64 { return n.totalHotkeyAlpha.get(n, hotkey, n.id) }

func (n subnet) axon(hotkey account) axonInfo { return n.axons.get(n, n.id, hotkey) }

// validators are the uids with a permit, the smallest stake first.
func (n subnet) validators() (uids []uint16) {
	hotkeys := n.hotkeys()
	for uid, permitted := range n.permit.get(n, n.id) {
		if permitted && uid < len(hotkeys) {
			uids = append(uids, uint16(uid))
		}
	}
	slices.SortStableFunc(uids, func(a, b uint16) int {
		return cmp.Compare(n.weight(hotkeys[a]), n.weight(hotkeys[b]))
	})
	return uids
}

// dividend is an amount that somebody earned or has.
type dividend struct {
	who account
	rao uint64
}

var (
	fDividend = form[dividend]{tuple(tAccount, fCompact64.shape), func(b []byte, d dividend) []byte {
		return fCompact64.put(append(b, d.who[:]...), d.rao)
	}}
	fDividends      = many(fDividend)
	fIdentity       = maybe(plain(cSubnetIdentity))
	fPersonalities  = many(maybe(plain(cIdentity)))
	fNetworkConnect = form[struct{}]{vec(array(2, tU16)), func(b []byte, _ struct{}) []byte { return append(b, 0) }}
)

const (
	compact16Name = "Compact<u16>"
	compact64Name = "Compact<u64>"
	alphaName     = "Compact<AlphaBalance>"
	taoName       = "Compact<TaoBalance>"
	netuidName    = "Compact<NetUid>"
)

// Fields that the runtime still has and fills no more.
func none16(subnet) uint16  { return 0 }
func none64(subnet) uint64  { return 0 }
func empty(subnet) []uint16 { return nil }

func theID(n subnet) uint16 { return n.id }

// poolParts are what metagraph and dynamic info say of a subnet's pool and emission.
func (s *subtensorStore) poolParts() []column[subnet] {
	return []column[subnet]{
		long("alpha_in", alphaName, of(s.subnetAlphaIn)),
		long("alpha_out", alphaName, of(s.subnetAlphaOut)),
		long("tao_in", taoName, of(s.subnetTAO)),
		long("alpha_out_emission", alphaName, of(s.alphaOutEmission)),
		long("alpha_in_emission", alphaName, of(s.alphaInEmission)),
		long("tao_in_emission", taoName, of(s.taoInEmission)),
		long("pending_alpha_emission", alphaName, subnet.pendingAlpha),
		long("pending_root_emission", taoName, none64),
		fill("subnet_volume", "Compact<u128>", fCompactWide, of(s.subnetVolume)),
	}
}

// neuronParts are what metagraph and subnet state say of the neurons.
func (s *subtensorStore) neuronParts() []column[subnet] {
	vec16, vec64 := "Vec<Compact<u16>>", "Vec<Compact<u64>>"
	return []column[subnet]{
		fill("active", "Vec<bool>", many(fBool), of(s.active)),
		fill("validator_permit", "Vec<bool>", many(fBool), of(s.permit)),
		fill("pruning_score", vec16, many(fCompact16), empty),
		fill("last_update", vec64, many(fCompact64), vector(s.lastUpdate)),
		fill("emission", "Vec<Compact<AlphaBalance>>", many(fCompact64), of(s.emission)),
		fill("dividends", vec16, many(fCompact16), of(s.dividends)),
		fill("incentives", vec16, many(fCompact16), vector(s.incentive)),
		fill("consensus", vec16, many(fCompact16), of(s.consensus)),
		fill("trust", vec16, many(fCompact16), empty),
		fill("rank", vec16, many(fCompact16), empty),
		fill("block_at_registration", vec64, many(fCompact64), func(n subnet) []uint64 {
			out := make([]uint64, n.size())
			for uid := range out {
				out[uid] = n.registeredBlock.get(n, n.id, uint16(uid))
			}
			return out
		}),
		fill("alpha_stake", "Vec<Compact<AlphaBalance>>", many(fCompact64), func(n subnet) []uint64 { return each(n, n.ownStake) }),
		fill("tao_stake", "Vec<Compact<TaoBalance>>", many(fCompact64), func(n subnet) []uint64 { return each(n, n.root) }),
		fill("total_stake", "Vec<Compact<TaoBalance>>", many(fCompact64), func(n subnet) []uint64 { return each(n, n.weight) }),
	}
}

// graphParts are the fields of a metagraph in their order, by which the selective one counts them.
func (s *subtensorStore) graphParts() []column[subnet] {
	parts := []column[subnet]{
		short("netuid", netuidName, theID),
		fill("name", "Vec<Compact<u8>>", fLetters, subnet.name),
		fill("symbol", "Vec<Compact<u8>>", fLetters, of(s.tokenSymbol)),
		fill("identity", "Option<SubnetIdentityV3>", fIdentity, subnet.identity),
		long("network_registered_at", compact64Name, of(s.registeredAt)),
		whose("owner_hotkey", of(s.subnetOwnerHotkey)),
		whose("owner_coldkey", of(s.subnetOwner)),
		long("block", compact64Name, func(n subnet) uint64 { return uint64(n.rt.system.number.get(n)) }),
		short("tempo", compact16Name, of(s.tempo)),
		long("last_step", compact64Name, of(s.lastMechanismStep)),
		long("blocks_since_last_step", compact64Name, subnet.blocksSince),
		long("subnet_emission", compact64Name, none64),
	}
	parts = append(parts, s.poolParts()...)
	parts = append(parts,
		fill("moving_price", "I96F32", plain(cI96F32), of(s.subnetMovingPrice)),
		short("rho", compact16Name, of(s.rho)),
		short("kappa", compact16Name, of(s.kappa)),
		short("min_allowed_weights", compact16Name, of(s.minAllowedWeights)),
		short("max_weights_limit", compact16Name, of(s.maxWeightsLimit)),
		long("weights_version", compact64Name, of(s.versionKey)),
		long("weights_rate_limit", compact64Name, of(s.weightsRateLimit)),
		long("activity_cutoff", compact64Name, subnet.cutoff),
		short("max_validators", compact16Name, of(s.maxValidators)),
		short("num_uids", compact16Name, subnet.size),
		short("max_uids", compact16Name, of(s.maxAllowedUids)),
		long("burn", taoName, of(s.burn)),
		long("difficulty", compact64Name, of(s.difficulty)),
		flag("registration_allowed", of(s.registrationAllowed)),
		flag("pow_registration_allowed", of(s.networkPowRegistrationAllowed)),
		short("immunity_period", compact16Name, of(s.immunityPeriod)),
		long("min_difficulty", compact64Name, of(s.minDifficulty)),
		long("max_difficulty", compact64Name, of(s.maxDifficulty)),
		long("min_burn", taoName, of(s.minBurn)),
		long("max_burn", taoName, of(s.maxBurn)),
		long("adjustment_alpha", compact64Name, of(s.adjustmentAlpha)),
		short("adjustment_interval", compact16Name, of(s.adjustmentInterval)),
		short("target_regs_per_interval", compact16Name, of(s.targetRegistrationsPerInterval)),
		short("max_regs_per_block", compact16Name, of(s.maxRegistrationsPerBlock)),
		long("serving_rate_limit", compact64Name, of(s.servingRateLimit)),
		flag("commit_reveal_weights_enabled", of(s.commitReveal)),
		long("commit_reveal_period", compact64Name, of(s.revealPeriodEpochs)),
		flag("liquid_alpha_enabled", of(s.liquidAlpha)),
		short("alpha_high", compact16Name, func(n subnet) uint16 { return n.alphaValues.get(n, n.id)[1] }),
		short("alpha_low", compact16Name, func(n subnet) uint16 { return n.alphaValues.get(n, n.id)[0] }),
		long("bonds_moving_avg", compact64Name, of(s.bondsMovingAverage)),
		fill("hotkeys", "Vec<AccountId>", many(fAccount), func(n subnet) []account { return n.hotkeys() }),
		fill("coldkeys", "Vec<AccountId>", many(fAccount), func(n subnet) []account {
			return each(n, func(h account) account { return n.owner.get(n, h) })
		}),
		fill("identities", "Vec<Option<ChainIdentityOfV2>>", fPersonalities, func(n subnet) []*[][]byte {
			return each(n, func(h account) *[][]byte {
				if v, known := n.identitiesV2.find(n, n.owner.get(n, h)); known {
					return &v
				}
				return nil
			})
		}),
		fill("axons", "Vec<AxonInfo>", many(plain(cAxon)), func(n subnet) []axonInfo { return each(n, n.axon) }),
	)
	parts = append(parts, s.neuronParts()...)
	return append(parts,
		fill("tao_dividends_per_hotkey", "Vec<(AccountId, Compact<TaoBalance>)>", fDividends, func(n subnet) []dividend {
			return each(n, func(h account) dividend { return dividend{h, 0} })
		}),
		fill("alpha_dividends_per_hotkey", "Vec<(AccountId, Compact<AlphaBalance>)>", fDividends, func(n subnet) []dividend {
			return each(n, func(h account) dividend { return dividend{h, n.alphaDividends.get(n, n.id, h)} })
		}),
	)
}

// published is what a hotkey committed, as its SCALE bytes.
type published struct {
	hotkey account
	data   []byte
}

func (n subnet) commitments() (list []published) {
	prefix := n.rt.commitments.of.under(n.id)
	for _, key := range n.scan(prefix) {
		raw, _ := n.get(key)
		var who account
		copy(who[:], key[len(key)-32:])
		list = append(list, published{who, raw})
	}
	return list
}

func (s *subtensorStore) selectiveParts() []column[subnet] {
	return append(s.graphParts(),
		fill("validators", "Vec<Compact<u16>>", many(fCompact16), subnet.validators),
		fill("commitments", "Vec<(AccountId, Vec<Compact<u8>>)>", many(form[published]{
			tuple(tAccount, fLetters.shape), func(b []byte, p published) []byte { return fLetters.put(append(b, p.hotkey[:]...), p.data) },
		}), subnet.commitments))
}

func (s *subtensorStore) dynamicParts() []column[subnet] {
	parts := []column[subnet]{
		short("netuid", netuidName, theID),
		whose("owner_hotkey", of(s.subnetOwnerHotkey)),
		whose("owner_coldkey", of(s.subnetOwner)),
		fill("subnet_name", "Vec<Compact<u8>>", fLetters, subnet.name),
		fill("token_symbol", "Vec<Compact<u8>>", fLetters, of(s.tokenSymbol)),
		short("tempo", compact16Name, of(s.tempo)),
		long("last_step", compact64Name, of(s.lastMechanismStep)),
		long("blocks_since_last_step", compact64Name, subnet.blocksSince),
		long("emission", compact64Name, none64),
	}
	parts = append(parts, s.poolParts()...)
	return append(parts,
		long("network_registered_at", compact64Name, of(s.registeredAt)),
		fill("subnet_identity", "Option<SubnetIdentityV3>", fIdentity, subnet.identity),
		fill("moving_price", "I96F32", plain(cI96F32), of(s.subnetMovingPrice)))
}

// stateParts are those of get_subnet_state; emission_history has a row for each subnet.
func (s *subtensorStore) stateParts() []column[subnet] {
	parts := []column[subnet]{
		short("netuid", netuidName, theID),
		fill("hotkeys", "Vec<AccountId>", many(fAccount), func(n subnet) []account { return n.hotkeys() }),
		fill("coldkeys", "Vec<AccountId>", many(fAccount), func(n subnet) []account {
			return each(n, func(h account) account { return n.owner.get(n, h) })
		}),
	}
	parts = append(parts, s.neuronParts()...)
	return append(parts, fill("emission_history", "Vec<Vec<Compact<AlphaBalance>>>", many(many(fCompact64)), func(n subnet) (rows [][]uint64) {
		for _, netuid := range n.rt.sortedNetuids(n) {
			rows = append(rows, each(n, func(h account) uint64 { return n.lastHotkeyEmissionOnNetuid.get(n, h, netuid) }))
		}
		return rows
	}))
}

// infoParts are those of get_subnet_info; emission is how the field is called, which differs in its second version.
func (s *subtensorStore) infoParts(emission string) []column[subnet] {
	return []column[subnet]{
		short("netuid", netuidName, theID),
		short("rho", compact16Name, of(s.rho)),
		short("kappa", compact16Name, of(s.kappa)),
		long("difficulty", compact64Name, of(s.difficulty)),
		short("immunity_period", compact16Name, of(s.immunityPeriod)),
		short("max_allowed_validators", compact16Name, of(s.maxValidators)),
		short("min_allowed_weights", compact16Name, of(s.minAllowedWeights)),
		short("max_weights_limit", compact16Name, of(s.maxWeightsLimit)),
		short("scaling_law_power", compact16Name, of(s.scalingLawPower)),
		short("subnetwork_n", compact16Name, subnet.size),
		short("max_allowed_uids", compact16Name, of(s.maxAllowedUids)),
		long("blocks_since_last_step", compact64Name, of(s.blocksSinceLastStep)),
		short("tempo", compact16Name, of(s.tempo)),
		short("network_modality", compact16Name, none16),
		fill("network_connect", "Vec<[u16; 2]>", fNetworkConnect, func(subnet) (none struct{}) { return none }),
		long(emission, compact64Name, none64),
		long("burn", taoName, of(s.burn)),
		whose("owner", of(s.subnetOwner)),
	}
}
