package subtensor

import (
	"context"
	"fmt"
	"math/big"

	"basilica"
	"basilica/keys"
	"basilica/scale"
)

// Register registers hotkey at a price of at most maxBurn, signed and paid by
// coldkey.
func (c *Client) Register(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey keys.Signer, maxBurn basilica.Rao) (basilica.UID, basilica.Inclusion, error) {
	uid, r, err := c.register(ctx, netuid, hotkey, coldkey, maxBurn)
	if err != nil {
		return 0, basilica.Inclusion{}, fmt.Errorf("register %s on subnet %d: %w", hotkey, netuid, err)
	}
	return uid, r.Inclusion, nil
}

func (c *Client) register(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey keys.Signer, maxBurn basilica.Rao) (basilica.UID, *receipt, error) {
	pub, err := account(string(hotkey))
	if err != nil {
		return 0, nil, err
	}
	if maxBurn == 0 {
		return 0, nil, basilica.E(basilica.Invalid, "REGISTRATION_CAP", "a registration needs a highest price", "give the highest price that you are ready to pay")
	}
	v, _, err := c.head(ctx)
	if err != nil {
		return 0, nil, err
	}
	if !v.rt.words.HasCall("SubtensorModule", "register_limit") {
		return 0, nil, basilica.E(basilica.Invalid, "REGISTRATION_CAP", "this chain cannot cap the price of a registration",
			"use a node of a later runtime, or register with another tool")
	}
	values, err := v.read(ctx, subtensorItem("Uids", netuid, pub), subtensorItem("Burn", netuid), subtensorItem("NetworksAdded", netuid))
	if err != nil {
		return 0, nil, err
	}
	if there, ok := values[2].(bool); !ok || !there {
		return 0, nil, unknownSubnet(netuid)
	}
	if values[0] != nil {
		return 0, nil, basilica.E(basilica.Conflict, "SubtensorModule.HotKeyAlreadyRegisteredInSubNet",
			fmt.Sprintf("the hotkey is registered on this subnet already, as UID %v", values[0]), "use it as it is")
	}
	burn, err := scale.AsUint64(values[1])
	if err != nil {
		return 0, nil, fmt.Errorf("burn: %w", err)
	}
	if basilica.Rao(burn) > maxBurn {
		return 0, nil, basilica.E(basilica.Exhausted, "SubtensorModule.RegistrationPriceLimitExceeded",
			fmt.Sprintf("a registration costs %d rao now, above the given limit of %d rao", burn, maxBurn), fixFor("RegistrationPriceLimitExceeded"))
	}
	r, err := c.submit(ctx, coldkey, "SubtensorModule", "register_limit", map[string]any{
		"netuid": netuid, "hotkey": pub, "limit_price": maxBurn,
	})
	if err != nil {
		return 0, nil, err
	}
	for _, e := range r.events {
		if !e.Is("SubtensorModule", "NeuronRegistered") || len(e.Fields) != 3 {
			continue
		}
		var p picker
		if uid := p.number("uid", e.Fields[1].Value); p.account("hotkey", e.Fields[2].Value) == pub && p.err == nil {
			return basilica.UID(uid), r, nil
		}
	}
	return 0, nil, fmt.Errorf("block %d has no event of the registration", r.Block)
}

func account(ss58 string) ([32]byte, error) {
	pub, err := keys.DecodeSS58(ss58)
	if err != nil {
		return pub, basilica.E(basilica.Invalid, "ADDRESS", fmt.Sprintf("%.60q is not an SS58 address of this network", ss58),
			"give an address of 48 characters that begins with 5").With(err)
	}
	return pub, nil
}

// AddStake stakes amount on hotkey, signed and paid by coldkey.
func (c *Client) AddStake(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey keys.Signer, amount basilica.Rao) (basilica.Inclusion, error) {
	pub, err := account(string(hotkey))
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("add stake: %w", err)
	}
	r, err := c.submit(ctx, coldkey, "SubtensorModule", "add_stake", map[string]any{
		"hotkey": pub, "netuid": netuid, "amount_staked": amount,
	})
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("add stake: %w", err)
	}
	return r.Inclusion, nil
}

// ServeAxon publishes an axon: serve_axon_tls where TLSKey is set, serve_axon
// elsewhere.
func (c *Client) ServeAxon(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, axon basilica.Axon) (basilica.Inclusion, error) {
	args, err := axonArgs(netuid, axon)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("serve axon: %w", err)
	}
	call := "serve_axon"
	if axon.TLSKey != nil {
		call = "serve_axon_tls"
	}
	r, err := c.submit(ctx, hotkey, "SubtensorModule", call, args)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("serve axon: %w", err)
	}
	return r.Inclusion, nil
}

func axonArgs(netuid basilica.NetUID, axon basilica.Axon) (map[string]any, error) {
	if !axon.Addr.IsValid() || axon.Addr.Port() == 0 {
		return nil, basilica.E(basilica.Invalid, "AXON_ADDRESS", "an axon needs an address and a port", "set the address that others reach this miner at")
	}
	addr := axon.Addr.Addr().Unmap().WithZone("")
	ipType := 6
	if addr.Is4() {
		ipType = 4
	}
	args := map[string]any{
		"netuid": netuid, "version": axon.Version, "ip": new(big.Int).SetBytes(addr.AsSlice()), "port": axon.Addr.Port(),
		"ip_type": ipType, "protocol": axon.Protocol, "placeholder1": 0, "placeholder2": 0,
	}
	if axon.TLSKey == nil {
		return args, nil
	}
	if len(axon.TLSKey) != 64 {
		return nil, basilica.E(basilica.Invalid, "AXON_TLS_KEY", fmt.Sprintf("a TLS key of %d bytes cannot be published, it must be the 64 bytes of a P-256 key", len(axon.TLSKey)), "")
	}
	args["certificate"] = append([]byte{p256Algorithm}, axon.TLSKey...)
	return args, nil
}

// SetWeights submits one weight vector. A subnet with commit-reveal refuses
// plain weights, and this client does not make commits. intend sees every signed
// transaction before it is sent; it may be nil.
func (c *Client) SetWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error) {
	r, err := c.setWeights(ctx, netuid, hotkey, weights, versionKey, intend)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("set weights: %w", err)
	}
	return r.Inclusion, nil
}

func (c *Client) setWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (*receipt, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, err
	}
	enabled, err := v.one(ctx, "CommitRevealWeightsEnabled", netuid)
	if err != nil {
		return nil, err
	}
	if on, ok := enabled.(bool); !ok || on {
		return nil, basilica.E(basilica.Invalid, "COMMIT_REVEAL", fmt.Sprintf("subnet %d takes weights by commit-reveal only, which is unsupported here", netuid),
			"ask the subnet's owner to switch commit-reveal off, or set weights with another tool")
	}
	dests, values := make([]uint16, len(weights)), make([]uint16, len(weights))
	for i, w := range weights {
		dests[i], values[i] = uint16(w.UID), w.Value
	}
	return c.submit(ctx, hotkey, "SubtensorModule", "set_weights", map[string]any{
		"netuid": netuid, "dests": dests, "weights": values, "version_key": versionKey,
	}, Intend(intend))
}
