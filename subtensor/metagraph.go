package subtensor

import (
	"context"
	"fmt"
	"math/big"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/keys"
	"basilica/scale"
)

// keysPerQuery is how many storage keys one request asks for: one for every neuron of a full subnet.
const keysPerQuery = 256

// view reads storage at one block.
type view struct {
	client *Client
	rt     *runtimeVersion
	at     basilica.Hash
}

// viewAt is the chain's state at a block.
func (c *Client) viewAt(ctx context.Context, at basilica.Hash) (*view, error) {
	rt, err := c.runtimeAt(ctx, at)
	if err != nil {
		return nil, err
	}
	return &view{client: c, rt: rt, at: at}, nil
}

// head is the state at the finalized head.
func (c *Client) head(ctx context.Context) (*view, basilica.Header, error) {
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getFinalizedHead"); err != nil {
		return nil, basilica.Header{}, fmt.Errorf("finalized head: %w", err)
	}
	var v *view
	var h basilica.Header
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		v, err = c.viewAt(ctx, hash)
		return err
	})
	g.Go(func() (err error) {
		if h, err = c.headerOf(ctx, hash); err != nil {
			return fmt.Errorf("finalized head: %w", err)
		}
		return nil
	})
	err := g.Wait()
	return v, h, err
}

// item names one storage value.
type item struct {
	pallet, name string
	keys         []any
}

func subtensorItem(name string, keys ...any) item { return item{"SubtensorModule", name, keys} }

// read reads and decodes storage items, in their order; what is absent is the
// item's default, or nil.
func (v *view) read(ctx context.Context, items ...item) ([]any, error) {
	keysOf := make([]hexBytes, len(items))
	for i, it := range items {
		key, err := v.rt.words.StorageKey(it.pallet, it.name, it.keys...)
		if err != nil {
			return nil, err
		}
		keysOf[i] = key
	}
	raw := make(map[string][]byte, len(items))
	for start := 0; start < len(keysOf); start += keysPerQuery {
		part := keysOf[start:min(start+keysPerQuery, len(keysOf))]
		var sets []struct {
			Changes [][2]*hexBytes `json:"changes"`
		}
		if err := v.client.call(ctx, &sets, "state_queryStorageAt", part, v.at); err != nil {
			return nil, fmt.Errorf("read storage: %w", err)
		}
		for _, set := range sets {
			for _, change := range set.Changes {
				if change[0] != nil && change[1] != nil {
					raw[string(*change[0])] = append([]byte{}, *change[1]...)
				}
			}
		}
	}
	out := make([]any, len(items))
	for i, it := range items {
		value, err := v.rt.words.DecodeStorage(it.pallet, it.name, raw[string(keysOf[i])])
		if err != nil {
			return nil, err
		}
		out[i] = value
	}
	return out, nil
}

func (v *view) one(ctx context.Context, name string, keys ...any) (any, error) {
	values, err := v.read(ctx, subtensorItem(name, keys...))
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// picker takes decoded values apart; its first error sticks.
type picker struct{ err error }

func (p *picker) fail(what string, v any) {
	if p.err == nil {
		p.err = fmt.Errorf("%s is %T: %w", what, v, scale.ErrInvalid)
	}
}

func (p *picker) number(what string, v any) uint64 {
	n, err := scale.AsUint64(v)
	if err != nil {
		p.fail(what, v)
	}
	return n
}

func (p *picker) flag(what string, v any) bool {
	b, ok := v.(bool)
	if !ok {
		p.fail(what, v)
	}
	return b
}

func (p *picker) account(what string, v any) (out [32]byte) {
	b, ok := v.([]byte)
	if !ok || len(b) != 32 {
		p.fail(what, v)
		return out
	}
	return [32]byte(b)
}

func (p *picker) list(what string, v any) []any {
	l, ok := v.([]any)
	if !ok {
		p.fail(what, v)
	}
	return l
}

// at is an element of a list, or zero beyond its end: the chain's vectors may
// be shorter than the number of neurons until the first epoch has run.
func at(list []any, i int, zero any) any {
	if i < len(list) {
		return list[i]
	}
	return zero
}

// Metagraph reads one subnet at the finalized head.
func (c *Client) Metagraph(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error) {
	m, err := c.metagraph(ctx, netuid)
	if err != nil {
		return nil, fmt.Errorf("fetch metagraph: %w", err)
	}
	return m, nil
}

func (c *Client) metagraph(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error) {
	v, head, err := c.head(ctx)
	if err != nil {
		return nil, err
	}
	genesis, err := c.Genesis(ctx)
	if err != nil {
		return nil, err
	}
	m, err := v.metagraphAPI(ctx, netuid)
	if unusable(err) {
		c.log.Debug("the node does not answer get_metagraph as we know it, reading the storage instead", "err", err)
		m, err = v.metagraphStorage(ctx, netuid)
	}
	if err != nil {
		return nil, err
	}
	m.Genesis, m.Block, m.BlockHash = genesis, head.Number, head.Hash
	c.keep(m)
	return m, nil
}

// metagraphStorage reads a subnet item by item.
func (v *view) metagraphStorage(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error) {
	names := []string{
		"NetworksAdded", "SubnetworkN", "Tempo", "Burn", "SubnetOwnerHotkey", "SubnetOwner", "WeightsSetRateLimit",
		"WeightsVersionKey", "CommitRevealWeightsEnabled", "Active", "ValidatorPermit", "Incentive", "Dividends", "LastUpdate",
	}
	items := make([]item, len(names))
	for i, name := range names {
		items[i] = subtensorItem(name, netuid)
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return nil, err
	}
	got := make(map[string]any, len(names))
	for i, name := range names {
		got[name] = values[i]
	}
	var p picker
	if !p.flag("NetworksAdded", got["NetworksAdded"]) {
		if p.err != nil {
			return nil, p.err
		}
		return nil, unknownSubnet(netuid)
	}
	hotkey, coldkey := p.account("SubnetOwnerHotkey", got["SubnetOwnerHotkey"]), p.account("SubnetOwner", got["SubnetOwner"])
	m := &basilica.Metagraph{
		NetUID:           netuid,
		Tempo:            uint16(p.number("Tempo", got["Tempo"])),
		Burn:             basilica.Rao(p.number("Burn", got["Burn"])),
		OwnerHotkey:      basilica.Hotkey(keys.EncodeSS58(hotkey)),
		OwnerColdkey:     basilica.Coldkey(keys.EncodeSS58(coldkey)),
		WeightsRateLimit: p.number("WeightsSetRateLimit", got["WeightsSetRateLimit"]),
		WeightsVersion:   p.number("WeightsVersionKey", got["WeightsVersionKey"]),
		CommitReveal:     p.flag("CommitRevealWeightsEnabled", got["CommitRevealWeightsEnabled"]),
		Neurons:          make([]basilica.Neuron, int(uint16(p.number("SubnetworkN", got["SubnetworkN"])))),
	}
	active, permit := p.list("Active", got["Active"]), p.list("ValidatorPermit", got["ValidatorPermit"])
	incentive, dividends := p.list("Incentive", got["Incentive"]), p.list("Dividends", got["Dividends"])
	updates := p.list("LastUpdate", got["LastUpdate"])
	for i := range m.Neurons {
		n := &m.Neurons[i]
		n.UID = basilica.UID(i)
		n.Active = p.flag("Active", at(active, i, false))
		n.ValidatorPermit = p.flag("ValidatorPermit", at(permit, i, false))
		n.Incentive = uint16(p.number("Incentive", at(incentive, i, uint64(0))))
		n.Dividends = uint16(p.number("Dividends", at(dividends, i, uint64(0))))
		n.LastUpdate = basilica.BlockNumber(p.number("LastUpdate", at(updates, i, uint64(0))))
	}
	if p.err != nil {
		return nil, p.err
	}
	return m, v.neurons(ctx, m)
}

func unknownSubnet(netuid basilica.NetUID) error {
	return basilica.E(basilica.NotFound, "SUBNET_UNKNOWN", fmt.Sprintf("the chain has no subnet %d", netuid),
		"check netuid in the configuration, and that the node is of the right network")
}

// neurons fills what the chain keeps for each neuron by its own.
func (v *view) neurons(ctx context.Context, m *basilica.Metagraph) error {
	n := len(m.Neurons)
	items := make([]item, 0, 2*n)
	for i := range n {
		items = append(items, subtensorItem("Keys", m.NetUID, i), subtensorItem("BlockAtRegistration", m.NetUID, i))
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return err
	}
	var p picker
	hotkeys := make([][32]byte, n)
	items = items[:0]
	const perNeuron = 2
	for i := range n {
		hotkeys[i] = p.account("Keys", values[2*i])
		m.Neurons[i].Hotkey = basilica.Hotkey(keys.EncodeSS58(hotkeys[i]))
		m.Neurons[i].RegisteredAt = basilica.BlockNumber(p.number("BlockAtRegistration", values[2*i+1]))
		items = append(items, subtensorItem("Owner", hotkeys[i]), subtensorItem("Axons", m.NetUID, hotkeys[i]))
	}
	if p.err != nil {
		return p.err
	}
	if values, err = v.read(ctx, items...); err != nil {
		return err
	}
	for i := range n {
		own := values[perNeuron*i : perNeuron*(i+1)]
		neuron := &m.Neurons[i]
		coldkey := p.account("Owner", own[0])
		neuron.Coldkey = basilica.Coldkey(keys.EncodeSS58(coldkey))
		neuron.Axon = p.axon(own[1])
	}
	if p.err != nil {
		return p.err
	}
	if err := v.certificates(ctx, m, hotkeys); err != nil {
		return err
	}
	return v.stakes(ctx, m, hotkeys)
}

// axon reads Option<AxonInfo>; an axon with address or port 0 was reset and is
// as none.
func (p *picker) axon(v any) basilica.Axon {
	if v == nil {
		return basilica.Axon{}
	}
	s, ok := v.(scale.Struct)
	if !ok {
		p.fail("Axons", v)
		return basilica.Axon{}
	}
	field := func(name string) any { f, _ := s.Get(name); return f }
	a := basilica.Axon{
		Version:  uint32(p.number("axon version", field("version"))),
		Protocol: uint8(p.number("axon protocol", field("protocol"))),
		Block:    basilica.BlockNumber(p.number("axon block", field("block"))),
	}
	a.Addr = p.endpoint("axon", v)
	return a
}

// endpoint is the address in an AxonInfo or PrometheusInfo; it is not valid where address or port is 0.
func (p *picker) endpoint(what string, v any) netip.AddrPort {
	s, _ := v.(scale.Struct)
	field := func(name string) any { f, _ := s.Get(name); return f }
	ip, ok := field("ip").(*big.Int)
	if !ok {
		p.fail(what+" ip", field("ip"))
		return netip.AddrPort{}
	}
	port := uint16(p.number(what+" port", field("port")))
	if ip.Sign() == 0 || port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address(ip, p.number(what+" ip_type", field("ip_type")) == 6), port)
}

// address turns the chain's number into an address. A version 4 number above
// 32 bits is no address, nor is one above 128.
func address(ip *big.Int, six bool) netip.Addr {
	if ip.BitLen() > 128 { // the metadata, which is the node's word, may give it another type
		return netip.Addr{}
	}
	if six {
		var b [16]byte
		ip.FillBytes(b[:])
		return netip.AddrFrom16(b)
	}
	if ip.BitLen() > 32 {
		return netip.Addr{}
	}
	var b [4]byte
	ip.FillBytes(b[:])
	return netip.AddrFrom4(b)
}

// p256Algorithm is the first byte of our certificates on chain; 64 bytes of a
// P-256 public key follow.
const p256Algorithm = 1

// certificate reads Option<NeuronCertificate>; keys of other kinds are as none.
func (p *picker) certificate(v any) []byte {
	s, ok := v.(scale.Struct)
	if !ok {
		if v != nil {
			p.fail("NeuronCertificates", v)
		}
		return nil
	}
	algorithm, _ := s.Get("algorithm")
	key, _ := s.Get("public_key")
	b, ok := key.([]byte)
	if !ok || len(b) != 64 || p.number("certificate algorithm", algorithm) != p256Algorithm {
		return nil
	}
	return b
}

// Weights reads the stored weight row of one neuron at the finalized head.
func (c *Client) Weights(ctx context.Context, netuid basilica.NetUID, uid basilica.UID) ([]basilica.Weight, error) {
	return c.MechanismWeights(ctx, Target{NetUID: netuid}, uid)
}

// MechanismWeights is Weights for any mechanism of a subnet.
func (c *Client) MechanismWeights(ctx context.Context, of Target, uid basilica.UID) ([]basilica.Weight, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch weights: %w", err)
	}
	row, err := v.weights(ctx, of, uid)
	if err != nil {
		return nil, fmt.Errorf("fetch weights: %w", err)
	}
	return row, nil
}

func (v *view) weights(ctx context.Context, of Target, uid basilica.UID) ([]basilica.Weight, error) {
	row, err := v.one(ctx, "Weights", of.index(), uid)
	if err != nil {
		return nil, err
	}
	var p picker
	var out []basilica.Weight
	for _, entry := range p.list("Weights", row) {
		pair := p.list("Weights entry", entry)
		if len(pair) != 2 {
			p.fail("Weights entry", entry)
			break
		}
		out = append(out, basilica.Weight{UID: basilica.UID(p.number("uid", pair[0])), Value: uint16(p.number("weight", pair[1]))})
	}
	return out, p.err
}
