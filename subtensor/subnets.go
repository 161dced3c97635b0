package subtensor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"basilica"
	"basilica/keys"
	"basilica/scale"
)

// Subnet is what there is to know of a subnet at a glance. Amounts are in rao, lengths in blocks.
type Subnet struct {
	NetUID       basilica.NetUID      `json:"netuid"`
	Name         string               `json:"name"`
	Symbol       string               `json:"symbol"` // of its alpha
	Owner        basilica.Coldkey     `json:"owner"`
	OwnerHotkey  basilica.Hotkey      `json:"owner_hotkey"`
	Neurons      uint16               `json:"neurons"`
	MaxNeurons   uint16               `json:"max_neurons"`
	Tempo        uint16               `json:"tempo"`
	Burn         basilica.Rao         `json:"burn"` // price of a registration
	Registration bool                 `json:"registration"`
	Staking      bool                 `json:"staking"` // it was started
	CommitReveal bool                 `json:"commit_reveal"`
	Mechanism    uint16               `json:"mechanism"` // 1: a pool of TAO and alpha makes the price; 0: the price is 1
	Price        *basilica.Rao        `json:"price"`     // of one whole alpha; nil where the node does not say it
	TAO          basilica.Rao         `json:"tao"`       // in the pool
	AlphaIn      basilica.Rao         `json:"alpha_in"`  // in the pool
	AlphaOut     basilica.Rao         `json:"alpha_out"` // with stakers
	RegisteredAt basilica.BlockNumber `json:"registered_at"`
}

var subnetItems = [...]string{
	"SubnetIdentitiesV3", "TokenSymbol", "SubnetOwner", "SubnetOwnerHotkey", "SubnetworkN", "MaxAllowedUids", "Tempo", "Burn",
	"NetworkRegistrationAllowed", "SubtokenEnabled", "CommitRevealWeightsEnabled", "SubnetMechanism", "SubnetTAO", "SubnetAlphaIn", "SubnetAlphaOut",
	"NetworkRegisteredAt",
}

// Subnets lists the subnets of the chain in order of their numbers, the root subnet first.
func (c *Client) Subnets(ctx context.Context) ([]Subnet, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, fmt.Errorf("list subnets: %w", err)
	}
	netuids, err := v.netuids(ctx)
	if err != nil {
		return nil, fmt.Errorf("list subnets: %w", err)
	}
	subnets, err := v.subnets(ctx, netuids)
	if err != nil {
		return nil, fmt.Errorf("list subnets: %w", err)
	}
	return subnets, nil
}

// Subnet reads one subnet.
func (c *Client) Subnet(ctx context.Context, netuid basilica.NetUID) (Subnet, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return Subnet{}, fmt.Errorf("read subnet: %w", err)
	}
	if err := v.exists(ctx, netuid); err != nil {
		return Subnet{}, err
	}
	subnets, err := v.subnets(ctx, []basilica.NetUID{netuid})
	if err != nil {
		return Subnet{}, fmt.Errorf("read subnet: %w", err)
	}
	return subnets[0], nil
}

// netuids walks the keys of NetworksAdded; a subnet that was dissolved keeps none.
func (v *view) netuids(ctx context.Context) ([]basilica.NetUID, error) {
	prefix, err := v.rt.words.StorageKey("SubtensorModule", "NetworksAdded")
	if err != nil {
		return nil, err
	}
	var all []basilica.NetUID
	for start := hexBytes(prefix); ; {
		var page []hexBytes
		if err := v.client.call(ctx, &page, "state_getKeysPaged", hexBytes(prefix), keysPerQuery, start, v.at); err != nil {
			return nil, fmt.Errorf("subnets: %w", err)
		}
		for _, key := range page {
			if !bytes.HasPrefix(key, prefix) || bytes.Compare(key, start) <= 0 { // a node could go on without an end
				return nil, fmt.Errorf("key of a subnet: not one after that before: %w", scale.ErrInvalid)
			}
			start = key
			r := scale.NewReader(key[len(prefix):])
			all = append(all, basilica.NetUID(r.U16())) // Identity: the number itself
			if err := r.Done(); err != nil {
				return nil, fmt.Errorf("key of a subnet: %w", err)
			}
		}
		if len(page) < keysPerQuery {
			break
		}
	}
	slices.Sort(all)
	return all, nil
}

func (v *view) subnets(ctx context.Context, netuids []basilica.NetUID) ([]Subnet, error) {
	var items []item
	for _, netuid := range netuids {
		for _, name := range subnetItems {
			items = append(items, subtensorItem(name, netuid))
		}
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return nil, err
	}
	prices, err := v.prices(ctx)
	if err != nil {
		return nil, err
	}
	var p picker
	out := make([]Subnet, len(netuids))
	for i, netuid := range netuids {
		own := map[string]any{}
		for j, name := range subnetItems {
			own[name] = values[i*len(subnetItems)+j]
		}
		n := func(name string) uint64 { return p.number(name, own[name]) }
		out[i] = Subnet{
			NetUID: netuid, Name: identityName(own["SubnetIdentitiesV3"]), Symbol: text(own["TokenSymbol"]),
			Owner:       basilica.Coldkey(keys.EncodeSS58(p.account("SubnetOwner", own["SubnetOwner"]))),
			OwnerHotkey: basilica.Hotkey(keys.EncodeSS58(p.account("SubnetOwnerHotkey", own["SubnetOwnerHotkey"]))),
			Neurons:     uint16(n("SubnetworkN")), MaxNeurons: uint16(n("MaxAllowedUids")), Tempo: uint16(n("Tempo")), Burn: basilica.Rao(n("Burn")),
			Registration: p.flag("NetworkRegistrationAllowed", own["NetworkRegistrationAllowed"]),
			Staking:      p.flag("SubtokenEnabled", own["SubtokenEnabled"]),
			CommitReveal: p.flag("CommitRevealWeightsEnabled", own["CommitRevealWeightsEnabled"]),
			Mechanism:    uint16(n("SubnetMechanism")), TAO: basilica.Rao(n("SubnetTAO")), AlphaIn: basilica.Rao(n("SubnetAlphaIn")), AlphaOut: basilica.Rao(n("SubnetAlphaOut")),
			RegisteredAt: basilica.BlockNumber(n("NetworkRegisteredAt")),
		}
		if price, ok := prices[netuid]; ok {
			out[i].Price = &price
		}
	}
	return out, p.err
}

// identityName is the name that a subnet's owner gave it.
func identityName(v any) string {
	s, _ := v.(scale.Struct)
	name, _ := s.Get("subnet_name")
	return text(name)
}

// text is a byte string as text; elements of compact numbers count as bytes.
func text(v any) string {
	b, _ := v.([]byte)
	return string(b)
}

// Hyperparameter is one of a subnet's rules; its value is a bool, an integer or a float64.
type Hyperparameter struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// Hyperparameters reads the rules of a subnet as its runtime names them, by the latest of its three APIs that the node
// offers.
func (c *Client) Hyperparameters(ctx context.Context, netuid basilica.NetUID) ([]Hyperparameter, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read hyperparameters: %w", err)
	}
	if err := v.exists(ctx, netuid); err != nil {
		return nil, err
	}
	var value any
	for _, method := range []string{"get_subnet_hyperparams_v3", "get_subnet_hyperparams_v2", "get_subnet_hyperparams"} {
		if value, err = v.api(ctx, "SubnetInfoRuntimeApi", method, netuid); !errors.Is(err, errNoAPI) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read hyperparameters: %w", apiMissing(err, "the hyperparameters"))
	}
	if value == nil {
		return nil, unknownSubnet(netuid)
	}
	var out []Hyperparameter
	if s, ok := value.(scale.Struct); ok {
		for _, f := range s {
			out = append(out, Hyperparameter{f.Name, plain(f.Value)})
		}
		return out, nil
	}
	var p picker
	for _, x := range p.list("hyperparameters", value) {
		s, _ := x.(scale.Struct)
		name, _ := s.Get("name")
		held, _ := s.Get("value")
		variant, _ := held.(scale.VariantValue)
		if len(variant.Fields) != 1 {
			p.fail("hyperparameter", held)
			break
		}
		out = append(out, Hyperparameter{text(name), fixed(variant.Name, variant.Fields[0].Value)})
	}
	if p.err != nil {
		return nil, fmt.Errorf("read hyperparameters: %w", p.err)
	}
	return out, nil
}

// fixed is a value by the name of its kind; fixed-point numbers become floats.
func fixed(kind string, v any) any {
	fraction := map[string]int{"I32F32": 32, "U64F64": 64}[kind]
	if fraction == 0 {
		return plain(v)
	}
	if s, ok := v.(scale.Struct); ok && len(s) == 1 {
		v = s[0].Value
	}
	bits, ok := v.(*big.Int)
	if !ok {
		switch n := v.(type) {
		case int64:
			bits = big.NewInt(n)
		case uint64:
			bits = new(big.Int).SetUint64(n)
		default:
			return fmt.Sprint(v)
		}
	}
	f, _ := new(big.Rat).SetFrac(bits, new(big.Int).Lsh(big.NewInt(1), uint(fraction))).Float64()
	return f
}

// plain is a value as JSON and a table show it.
func plain(v any) any {
	switch x := v.(type) {
	case bool, uint64, int64:
		return x
	case *big.Int:
		return x.String()
	case scale.Struct:
		if len(x) == 1 {
			return fixed("I32F32", x[0].Value) // the one fixed-point field of version 2
		}
	}
	return fmt.Sprint(v)
}
