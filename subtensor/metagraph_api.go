package subtensor

import (
	"context"
	"errors"
	"fmt"

	"basilica"
	"basilica/keys"
	"basilica/scale"
)

// maxNeurons is how many neurons a subnet can have: a UID is two bytes.
const maxNeurons = 1 << 16

// metagraphAPI asks the runtime for the whole subnet at once, and the storage for what its answer lacks: the TLS keys of the
// axons. errNoAPI says that runtime or node do not offer it.
func (v *view) metagraphAPI(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error) {
	value, err := v.api(ctx, "SubnetInfoRuntimeApi", "get_metagraph", uint64(netuid))
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, unknownSubnet(netuid)
	}
	m, hotkeys, err := readMetagraph(value)
	if err != nil {
		return nil, err
	}
	m.NetUID = netuid
	return m, v.certificates(ctx, m, hotkeys)
}

// readMetagraph takes the answer of get_metagraph apart, by the names of its fields. What a later runtime appends is not
// looked at.
func readMetagraph(value any) (*basilica.Metagraph, [][32]byte, error) {
	s, ok := value.(scale.Struct)
	if !ok {
		return nil, nil, fmt.Errorf("metagraph is %T: %w", value, scale.ErrInvalid)
	}
	var p picker
	field := func(name string) any {
		f, ok := s.Get(name)
		if !ok {
			p.fail(name, nil)
		}
		return f
	}
	number := func(name string) uint64 { return p.number(name, field(name)) }
	list := func(name string) []any { return p.list(name, field(name)) }
	owner, coldkey := p.account("owner_hotkey", field("owner_hotkey")), p.account("owner_coldkey", field("owner_coldkey"))
	m := &basilica.Metagraph{
		Tempo: uint16(number("tempo")), Burn: basilica.Rao(number("burn")),
		OwnerHotkey: basilica.Hotkey(keys.EncodeSS58(owner)), OwnerColdkey: basilica.Coldkey(keys.EncodeSS58(coldkey)),
		WeightsRateLimit: number("weights_rate_limit"), WeightsVersion: number("weights_version"),
		CommitReveal: p.flag("commit_reveal_weights_enabled", field("commit_reveal_weights_enabled")),
	}
	names := list("hotkeys")
	if len(names) > maxNeurons {
		return nil, nil, fmt.Errorf("metagraph of %d neurons: %w", len(names), scale.ErrInvalid)
	}
	coldkeys, axons, active, permits := list("coldkeys"), list("axons"), list("active"), list("validator_permit")
	updates, incentives, dividends := list("last_update"), list("incentives"), list("dividends")
	born, stakes := list("block_at_registration"), list("total_stake")
	if p.err != nil {
		return nil, nil, p.err
	}
	hotkeys := make([][32]byte, len(names))
	m.Neurons = make([]basilica.Neuron, len(names))
	for i := range m.Neurons {
		hotkeys[i] = p.account("hotkey", names[i])
		cold := p.account("coldkey", at(coldkeys, i, nil))
		m.Neurons[i] = basilica.Neuron{
			UID: basilica.UID(i), Hotkey: basilica.Hotkey(keys.EncodeSS58(hotkeys[i])), Coldkey: basilica.Coldkey(keys.EncodeSS58(cold)),
			Axon: p.axon(at(axons, i, nil)), Stake: basilica.Rao(p.number("total_stake", at(stakes, i, uint64(0)))),
			ValidatorPermit: p.flag("validator_permit", at(permits, i, false)), Active: p.flag("active", at(active, i, false)),
			Incentive: uint16(p.number("incentive", at(incentives, i, uint64(0)))), Dividends: uint16(p.number("dividends", at(dividends, i, uint64(0)))),
			LastUpdate:   basilica.BlockNumber(p.number("last_update", at(updates, i, uint64(0)))),
			RegisteredAt: basilica.BlockNumber(p.number("block_at_registration", at(born, i, uint64(0)))),
		}
		if p.err != nil {
			return nil, nil, fmt.Errorf("neuron %d: %w", i, p.err)
		}
	}
	return m, hotkeys, nil
}

// certificates reads the TLS keys of the axons that are served.
func (v *view) certificates(ctx context.Context, m *basilica.Metagraph, hotkeys [][32]byte) error {
	var served []*basilica.Neuron
	var items []item
	for i := range m.Neurons {
		if n := &m.Neurons[i]; n.Axon.Addr.IsValid() {
			served, items = append(served, n), append(items, subtensorItem("NeuronCertificates", m.NetUID, hotkeys[i]))
		}
	}
	if len(items) == 0 {
		return nil
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return err
	}
	var p picker
	for i, n := range served {
		n.Axon.TLSKey = p.certificate(values[i])
	}
	return p.err
}

// unusable says that an answer of a runtime API is not there, or not as we know it, so that the storage has to tell.
func unusable(err error) bool { return errors.Is(err, errNoAPI) || errors.Is(err, scale.ErrInvalid) }
