package localnet

import (
	"math/big"
	"slices"

	"basilica/scale"
	"basilica/yuma"
)

// neuron is one uid of a subnet.
type neuron struct {
	subnet
	uid    uint16
	hotkey account
}

func (n subnet) neuron(uid uint16) *neuron {
	if uid >= n.size() {
		return nil
	}
	return &neuron{n, uid, n.keys.get(n, n.id, uid)}
}

func (n subnet) neurons() (list []neuron) {
	for uid := range n.size() {
		list = append(list, *n.neuron(uid))
	}
	return list
}

func (n neuron) coldkey() account { return n.owner.get(n, n.hotkey) }

// at reads a neuron's place in a vector.
func at[X any](m map1[uint16, []X]) func(neuron) X {
	return func(n neuron) X { return element(m.get(n, n.id), n.uid) }
}

func zero16(neuron) uint16 { return 0 }

// fStakers is what get_neuron gives as stake: all of it, under the coldkey's name.
var fStakers = many(fDividend)

var fEntries = many(form[yuma.Entry]{
	tuple(compact(tU16), compact(tU16)),
	func(b []byte, e yuma.Entry) []byte { return fCompact16.put(fCompact16.put(b, e.UID), e.Value) },
})

// neuronFields are the fields of a neuron, rows between the permit and the last of them.
func (s *subtensorStore) neuronFields(rows ...column[neuron]) []column[neuron] {
	parts := []column[neuron]{
		whose("hotkey", func(n neuron) account { return n.hotkey }),
		whose("coldkey", neuron.coldkey),
		short("uid", compact16Name, func(n neuron) uint16 { return n.uid }),
		short("netuid", netuidName, func(n neuron) uint16 { return n.id }),
		flag("active", at(s.active)),
		fill("axon_info", "AxonInfo", plain(cAxon), func(n neuron) axonInfo { return n.axon(n.hotkey) }),
		fill("prometheus_info", "PrometheusInfo", plain(cPrometheus), func(n neuron) prometheusInfo { return n.prometheus.get(n, n.id, n.hotkey) }),
		fill("stake", "Vec<(AccountId, Compact<AlphaBalance>)>", fStakers, func(n neuron) []dividend {
			return []dividend{{n.coldkey(), n.ownStake(n.hotkey)}}
		}),
		short("rank", compact16Name, zero16),
		long("emission", alphaName, at(s.emission)),
		short("incentive", compact16Name, at(s.incentive)),
		short("consensus", compact16Name, at(s.consensus)),
		short("trust", compact16Name, zero16),
		short("validator_trust", compact16Name, at(s.trust)),
		short("dividends", compact16Name, at(s.dividends)),
		long("last_update", compact64Name, at(s.lastUpdate)),
		flag("validator_permit", at(s.permit)),
	}
	parts = append(parts, rows...)
	return append(parts, short("pruning_score", compact16Name, func(neuron) uint16 { return 65535 }))
}

func (s *subtensorStore) neuronRows() []column[neuron] {
	const typeName = "Vec<(Compact<u16>, Compact<u16>)>"
	return []column[neuron]{
		fill("weights", typeName, fEntries, func(n neuron) []yuma.Entry { return n.weights.get(n, n.id, n.uid) }),
		fill("bonds", typeName, fEntries, func(n neuron) []yuma.Entry { return n.bonds.get(n, n.id, n.uid) }),
	}
}

// delegate is a hotkey that takes stake of others, with or without the list of who gives it.
type delegate struct {
	view
	*subtensorStore
	hotkey     account
	nominators []nominator
}

type nominator struct {
	coldkey account
	stakes  []netStake
}

type netStake struct {
	netuid uint16
	rao    uint64
}

var (
	fNetStake = form[netStake]{tuple(compact(tU16), compact(tU64)), func(b []byte, s netStake) []byte {
		return fCompact64.put(fCompact16.put(b, s.netuid), s.rao)
	}}
	fNominators = many(form[nominator]{tuple(tAccount, many(fNetStake).shape), func(b []byte, n nominator) []byte {
		return many(fNetStake).put(append(b, n.coldkey[:]...), n.stakes)
	}})
)

// nominatorsOf lists who staked on a hotkey, by coldkey, and where.
func (v view) nominatorsOf(hotkey account) (list []nominator) {
	s := v.rt.subnets
	prefix := s.alpha.under(hotkey)
	for _, key := range v.scan(prefix) {
		r := scale.NewReader([]byte(key[len(prefix)+16:])) // after the hash of the coldkey
		coldkey, netuid := readAccount(r), r.U16()
		rao := v.rt.alphaOf(v, hotkey, coldkey, netuid)
		if rao == 0 {
			continue
		}
		i := slices.IndexFunc(list, func(n nominator) bool { return n.coldkey == coldkey })
		if i < 0 {
			i, list = len(list), append(list, nominator{coldkey: coldkey})
		}
		list[i].stakes = append(list[i].stakes, netStake{netuid, rao})
	}
	slices.SortFunc(list, func(a, b nominator) int { return slices.Compare(a.coldkey[:], b.coldkey[:]) })
	return list
}

func (v view) delegate(hotkey account) delegate {
	return delegate{view: v, subtensorStore: v.rt.subnets, hotkey: hotkey}
}

// delegateKeys are all delegates, in the order of storage.
func (v view) delegateKeys() (list []account) {
	m := v.rt.subnets.delegates
	for _, key := range v.scan(m.prefix) {
		var a account
		copy(a[:], key[len(key)-len(a):])
		list = append(list, a)
	}
	return list
}

// registrations are the subnets on which the delegate's hotkey is a neuron, or those where it also has a permit.
func (d delegate) registrations(permitted bool) (list []uint16) {
	for _, netuid := range d.rt.sortedNetuids(d) {
		uid, registered := d.uids.find(d, netuid, d.hotkey)
		if registered && (!permitted || element(d.permit.get(d, netuid), uid)) {
			list = append(list, netuid)
		}
	}
	return list
}

// blocksPerDay are those of a chain with blocks of 12 s, which the runtime assumes.
const blocksPerDay = 7200

// daily is what the delegate's neurons earn a day, in rao.
func (d delegate) daily() (rao uint64) {
	for _, netuid := range d.registrations(false) {
		uid := d.uids.get(d, netuid, d.hotkey)
		if tempo := uint64(d.tempo.get(d, netuid)); tempo > 0 {
			rao += portion(element(d.emission.get(d, netuid), uid), blocksPerDay, tempo)
		}
	}
	return rao
}

func (s *subtensorStore) delegateParts() []column[delegate] {
	return []column[delegate]{
		whose("delegate_ss58", func(d delegate) account { return d.hotkey }),
		short("take", compact16Name, func(d delegate) uint16 { return d.delegates.get(d, d.hotkey) }),
		fill("nominators", "Vec<(AccountId, Vec<(Compact<NetUid>, Compact<u64>)>)>", fNominators, func(d delegate) []nominator { return d.nominators }),
		whose("owner_ss58", func(d delegate) account { return d.owner.get(d, d.hotkey) }),
		fill("registrations", "Vec<Compact<NetUid>>", many(fCompact16), func(d delegate) []uint16 { return d.registrations(false) }),
		fill("validator_permits", "Vec<Compact<NetUid>>", many(fCompact16), func(d delegate) []uint16 { return d.registrations(true) }),
		long("return_per_1000", compact64Name, delegate.returnPer1000),
		long("total_daily_return", compact64Name, delegate.daily),
	}
}

// returnPer1000 is what 1,000 TAO of root stake would earn its nominators a day, in rao.
func (d delegate) returnPer1000() uint64 {
	stake := d.totalHotkeyAlpha.get(d, d.hotkey, rootNetuid)
	if stake == 0 {
		return 0
	}
	one := new(big.Int).Lsh(big.NewInt(1), 64)
	take := new(big.Int).Mul(new(big.Int).SetUint64(uint64(d.delegates.get(d, d.hotkey))), one)
	left := new(big.Int).Sub(one, take.Quo(take, big.NewInt(65535)))
	left.Mul(left, new(big.Int).SetUint64(d.daily()))
	left.Mul(left, big.NewInt(1000*raoPerTAO)).Quo(left, new(big.Int).SetUint64(stake))
	return left.Rsh(left, 64).Uint64()
}
