package subtensor

import (
	"context"
	"fmt"
	"math/big"
	"net/netip"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// ServeAxon publishes where a neuron listens: serve_axon_tls where TLSKey is set, serve_axon elsewhere. The hotkey signs.
func ServeAxon(netuid basilica.NetUID, axon basilica.Axon) Action {
	call := "serve_axon"
	if axon.TLSKey != nil {
		call = "serve_axon_tls"
	}
	return Action{
		words: fmt.Sprintf("publish the axon %s on subnet %d", axon.Addr, netuid), pallet: "SubtensorModule", call: call,
		make: func() (map[string]any, error) { return axonArgs(netuid, axon) },
		price: func(ctx context.Context, v *view, q *Quote) error {
			return v.mayServe(ctx, q, netuid, "Axons")
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			hotkey, err := server(events, "AxonServed")
			if err != nil {
				return err
			}
			values, err := v.read(ctx, subtensorItem("Axons", netuid, hotkey), subtensorItem("NeuronCertificates", netuid, hotkey))
			if err != nil {
				return err
			}
			var p picker
			stored := p.axon(values[0])
			stored.TLSKey = p.certificate(values[1])
			facts.add("netuid", netuid)
			facts.add("hotkey", keys.EncodeSS58(hotkey))
			facts.add("axon", stored)
			return p.err
		},
	}
}

// ServePrometheus publishes where a neuron's metrics are. The hotkey signs.
func ServePrometheus(netuid basilica.NetUID, addr netip.AddrPort, version uint32) Action {
	return Action{
		words: fmt.Sprintf("publish the metrics' address %s on subnet %d", addr, netuid), pallet: "SubtensorModule", call: "serve_prometheus",
		make: func() (map[string]any, error) {
			ip, ipType, err := chainAddress(addr)
			return map[string]any{"netuid": netuid, "version": version, "ip": ip, "port": addr.Port(), "ip_type": ipType}, err
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			return v.mayServe(ctx, q, netuid, "Prometheus")
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			hotkey, err := server(events, "PrometheusServed")
			if err != nil {
				return err
			}
			value, err := v.one(ctx, "Prometheus", netuid, hotkey)
			if err != nil {
				return err
			}
			var p picker
			facts.add("netuid", netuid)
			facts.add("hotkey", keys.EncodeSS58(hotkey))
			facts.add("prometheus", p.endpoint("Prometheus", value))
			return p.err
		},
	}
}

// server is the hotkey of an event (netuid, hotkey).
func server(events []pallet.Event, name string) ([32]byte, error) {
	e, err := event(events, name)
	if err != nil {
		return [32]byte{}, err
	}
	var p picker
	hotkey := p.account("hotkey", p.fields(e, 2)[1])
	return hotkey, p.err
}

// mayServe refuses an unregistered hotkey and one that published a moment ago.
func (v *view) mayServe(ctx context.Context, q *Quote, netuid basilica.NetUID, where string) error {
	if err := v.exists(ctx, netuid); err != nil {
		return err
	}
	pub, err := account(q.Signer)
	if err != nil {
		return err
	}
	if _, err := v.registered(ctx, netuid, pub); err != nil {
		return err
	}
	values, err := v.read(ctx, subtensorItem(where, netuid, pub), subtensorItem("ServingRateLimit", netuid), item{"System", "Number", nil})
	if err != nil {
		return err
	}
	before, ok := values[0].(scale.Struct)
	if !ok {
		return nil
	}
	block, _ := before.Get("block")
	var p picker
	at, limit, now := p.number("block", block), p.number("ServingRateLimit", values[1]), p.number("Number", values[2])
	if p.err == nil && limit > 0 && at > 0 && now+1 < at+limit {
		return basilica.E(basilica.Exhausted, "SubtensorModule.ServingRateLimitExceeded",
			fmt.Sprintf("this hotkey published in block %d, and may again in block %d; now it is block %d", at, at+limit, now), fixFor("ServingRateLimitExceeded"))
	}
	return p.err
}

// ServeAxon publishes an axon: serve_axon_tls where TLSKey is set, serve_axon
// elsewhere.
func (c *Client) ServeAxon(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, axon basilica.Axon) (basilica.Inclusion, error) {
	done, err := c.Do(ctx, ServeAxon(netuid, axon), hotkey)
	return done.Inclusion, err
}

func axonArgs(netuid basilica.NetUID, axon basilica.Axon) (map[string]any, error) {
	ip, ipType, err := chainAddress(axon.Addr)
	if err != nil {
		return nil, err
	}
	args := map[string]any{
		"netuid": netuid, "version": axon.Version, "ip": ip, "port": axon.Addr.Port(),
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

// chainAddress is an address as the chain writes it: its number, and 4 or 6.
func chainAddress(addr netip.AddrPort) (ip *big.Int, ipType int, err error) {
	if !addr.IsValid() || addr.Port() == 0 {
		return nil, 0, basilica.E(basilica.Invalid, "AXON_ADDRESS", "an axon needs an address and a port", "set the address that others reach this miner at")
	}
	a := addr.Addr().Unmap().WithZone("")
	if ipType = 6; a.Is4() {
		ipType = 4
	}
	return new(big.Int).SetBytes(a.AsSlice()), ipType, nil
}
