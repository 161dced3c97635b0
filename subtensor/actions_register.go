package subtensor

import (
	"context"
	"fmt"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

const rootNetuid = 0

// RegisterLimit registers a hotkey on a subnet. The price is burned from the signing coldkey; where it is above limit when
// the call takes effect, the chain refuses and only the fee is lost.
func RegisterLimit(netuid basilica.NetUID, hotkey basilica.Hotkey, limit basilica.Rao) Action {
	return register(netuid, hotkey, "register_limit", &limit)
}

// BurnedRegister is RegisterLimit without a cap, for runtimes that know no other.
func BurnedRegister(netuid basilica.NetUID, hotkey basilica.Hotkey) Action {
	return register(netuid, hotkey, "burned_register", nil)
}

func register(netuid basilica.NetUID, hotkey basilica.Hotkey, call string, limit *basilica.Rao) Action {
	return Action{
		words: fmt.Sprintf("register %s on subnet %d", hotkey, netuid), pallet: "SubtensorModule", call: call,
		make: func() (map[string]any, error) {
			pub, err := account(string(hotkey))
			args := map[string]any{"netuid": netuid, "hotkey": pub}
			if limit == nil {
				return args, err
			}
			if args["limit_price"] = *limit; *limit == 0 && err == nil {
				err = basilica.E(basilica.Invalid, "REGISTRATION_CAP", "a registration needs a highest price", "give the highest price that you are ready to pay")
			}
			return args, err
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			pub, err := account(string(hotkey))
			if err != nil {
				return err
			}
			return v.priceOfRegistration(ctx, q, netuid, pub, limit)
		},
		result: seated(netuid, hotkey),
	}
}

func (v *view) priceOfRegistration(ctx context.Context, q *Quote, netuid basilica.NetUID, pub [32]byte, limit *basilica.Rao) error {
	if netuid == rootNetuid {
		return basilica.E(basilica.Denied, "SubtensorModule.RegistrationNotPermittedOnRootSubnet", "the root subnet takes no registration by price", fixFor("RegistrationNotPermittedOnRootSubnet"))
	}
	values, err := v.read(ctx, subtensorItem("Uids", netuid, pub), subtensorItem("Burn", netuid), subtensorItem("NetworksAdded", netuid),
		subtensorItem("NetworkRegistrationAllowed", netuid))
	if err != nil {
		return err
	}
	var p picker
	burn := basilica.Rao(p.number("Burn", values[1]))
	added, open := p.flag("NetworksAdded", values[2]), p.flag("NetworkRegistrationAllowed", values[3])
	switch {
	case p.err != nil:
		return p.err
	case !added:
		return unknownSubnet(netuid)
	case values[0] != nil:
		return basilica.E(basilica.Conflict, "SubtensorModule.HotKeyAlreadyRegisteredInSubNet",
			fmt.Sprintf("the hotkey is registered on this subnet already, as UID %v", values[0]), "use it as it is")
	case !open:
		return basilica.E(basilica.Denied, "SubtensorModule.SubNetRegistrationDisabled", fmt.Sprintf("the owner of subnet %d has closed its registration", netuid),
			"wait until the owner opens it, or choose another subnet")
	case limit != nil && burn > *limit:
		return basilica.E(basilica.Exhausted, "SubtensorModule.RegistrationPriceLimitExceeded",
			fmt.Sprintf("a registration costs %s TAO now, above the given limit of %s TAO", burn.TAO(), limit.TAO()), fixFor("RegistrationPriceLimitExceeded"))
	}
	q.Cost, q.Use = burn, "burned"
	if limit != nil {
		q.note("the price moves with demand: at most %s TAO will be burned, above that the chain refuses and keeps the fee", limit.TAO())
	} else {
		q.note("the price moves with demand and this call has no cap: what is burned may be more")
	}
	return v.owned(ctx, q, pub)
}

// seated reads the uid of a registration from its event and from the state.
func seated(netuid basilica.NetUID, hotkey basilica.Hotkey) func(context.Context, *view, []pallet.Event, *Facts) error {
	return func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
		e, err := event(events, "NeuronRegistered")
		if err != nil {
			return err
		}
		pub, err := account(string(hotkey))
		if err != nil {
			return err
		}
		var p picker
		fields := p.fields(e, 3)
		uid := p.number("uid", fields[1])
		if p.account("hotkey", fields[2]) != pub && p.err == nil {
			return fmt.Errorf("the event of the registration is of another hotkey: %w", errNoEvent)
		}
		if p.err != nil {
			return p.err
		}
		now, err := v.registered(ctx, netuid, pub)
		if err != nil {
			return err
		}
		if uint64(now) != uid {
			return fmt.Errorf("the event says uid %d, the state %d: %w", uid, now, errNoEvent)
		}
		facts.add("netuid", netuid)
		facts.add("hotkey", hotkey)
		facts.add("uid", now)
		return nil
	}
}

// fields are the values of an event that must have n of them.
func (p *picker) fields(e pallet.Event, n int) []any {
	out := make([]any, max(n, len(e.Fields)))
	for i, f := range e.Fields {
		out[i] = f.Value
	}
	if len(e.Fields) < n {
		p.fail("event "+e.Name, e.Fields)
	}
	return out
}

// freeRoot is the last runtime whose root_register was seen to go by stake and to take nothing but the fee. Finney's of spec
// 467 burns a price and asks for no stake; where in between that began is not known, so a later runtime counts as one that does.
const freeRoot = 425

// RootRegister gives a hotkey a place on the root subnet. Where the runtime burns a price for it, the quote refuses one above
// limit, which must be given then; the call itself has no cap. Where it goes by stake alone, limit must be nil.
func RootRegister(hotkey basilica.Hotkey, limit *basilica.Rao) Action {
	return Action{
		words: fmt.Sprintf("register %s on the root subnet", hotkey), pallet: "SubtensorModule", call: "root_register",
		make: func() (map[string]any, error) {
			pub, err := account(string(hotkey))
			return map[string]any{"hotkey": pub}, err
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			pub, err := account(string(hotkey))
			if err != nil {
				return err
			}
			values, err := v.read(ctx, subtensorItem("Uids", rootNetuid, pub), subtensorItem("TotalHotkeyAlpha", pub, rootNetuid), subtensorItem("Burn", rootNetuid))
			if err != nil {
				return err
			}
			if values[0] != nil {
				return basilica.E(basilica.Conflict, "SubtensorModule.HotKeyAlreadyRegisteredInSubNet",
					fmt.Sprintf("the hotkey is registered on the root subnet already, as UID %v", values[0]), "use it as it is")
			}
			var p picker
			stake, burn := basilica.Rao(p.number("stake", values[1])), basilica.Rao(p.number("Burn", values[2]))
			if p.err != nil {
				return p.err
			}
			if err := v.priceOfRoot(q, burn, limit); err != nil {
				return err
			}
			q.note("it has %s TAO of stake on the root subnet; a full root subnet gives up the place of its lowest stake", stake.TAO())
			return v.owned(ctx, q, pub)
		},
		result: seated(rootNetuid, hotkey),
	}
}

// priceOfRoot sets what a place on the root subnet costs by the runtime's rules.
func (v *view) priceOfRoot(q *Quote, burn basilica.Rao, limit *basilica.Rao) error {
	switch {
	case v.rt.spec <= freeRoot && limit != nil:
		return basilica.E(basilica.Invalid, "REGISTRATION_FREE", fmt.Sprintf("runtime %d of this chain burns nothing for a place on the root subnet, so there is no price to cap", v.rt.spec),
			"leave the highest price out (--max-burn)")
	case v.rt.spec <= freeRoot:
		return nil
	case limit == nil || *limit == 0:
		return basilica.E(basilica.Invalid, "REGISTRATION_CAP", fmt.Sprintf("runtime %d of this chain burns a price for a place on the root subnet, %s TAO now, so a registration needs a highest price", v.rt.spec, burn.TAO()),
			"give the highest price that you are ready to pay (--max-burn)")
	case burn > *limit:
		return basilica.E(basilica.Exhausted, "SubtensorModule.RegistrationPriceLimitExceeded",
			fmt.Sprintf("a place on the root subnet costs %s TAO now, above the given limit of %s TAO", burn.TAO(), limit.TAO()), fixFor("RegistrationPriceLimitExceeded"))
	}
	q.Cost, q.Use = burn, "burned"
	q.note("the price moves with demand and the chain knows no cap here: the price is compared with %s TAO before this is sent, and more is burned where it rises after that", limit.TAO())
	return nil
}

// Register registers hotkey at a price of at most maxBurn, signed and paid by
// coldkey.
func (c *Client) Register(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey keys.Signer, maxBurn basilica.Rao) (basilica.UID, basilica.Inclusion, error) {
	done, err := c.quoted(ctx, RegisterLimit(netuid, hotkey, maxBurn), coldkey)
	if err != nil {
		return 0, basilica.Inclusion{}, err
	}
	if done.Unread != nil {
		return 0, done.Inclusion, basilica.E(basilica.Unavailable, "RESULT_UNREAD", done.Unread.Sentence, done.Unread.Fix)
	}
	uid, _ := done.Facts.Get("uid")
	n, _ := uid.(basilica.UID)
	return n, done.Inclusion, nil
}

// quoted refuses what a quote refuses, and sends the rest.
func (c *Client) quoted(ctx context.Context, a Action, signer keys.Signer, opts ...SubmitOption) (Done, error) {
	if _, err := c.Quote(ctx, a, signer, opts...); err != nil {
		return Done{}, err
	}
	return c.Do(ctx, a, signer, opts...)
}

// RegisterNetwork makes a new subnet that belongs to the signing coldkey, with hotkey as uid 0. Its price is locked, and
// start_call must follow before anybody can stake on it.
func RegisterNetwork(hotkey basilica.Hotkey) Action {
	return Action{
		words: fmt.Sprintf("create a subnet with %s as its owner's hotkey", hotkey), pallet: "SubtensorModule", call: "register_network",
		make: func() (map[string]any, error) {
			pub, err := account(string(hotkey))
			return map[string]any{"hotkey": pub}, err
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			pub, err := account(string(hotkey))
			if err != nil {
				return err
			}
			value, err := v.api(ctx, "SubnetRegistrationRuntimeApi", "get_network_registration_cost")
			if err != nil {
				return apiMissing(err, "what a new subnet costs")
			}
			cost, err := scale.AsUint64(value)
			if err != nil {
				return fmt.Errorf("cost of a subnet: %w", err)
			}
			q.Cost, q.Use = basilica.Rao(cost), "locked"
			q.note("the price doubles with every new subnet and falls with time: when the call takes effect it may be another")
			return v.owned(ctx, q, pub)
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			e, err := event(events, "NetworkAdded")
			if err != nil {
				return err
			}
			var p picker
			netuid := basilica.NetUID(p.number("netuid", p.fields(e, 2)[0]))
			if p.err != nil {
				return p.err
			}
			facts.add("netuid", netuid)
			facts.add("hotkey", hotkey)
			return v.exists(ctx, netuid)
		},
	}
}

// StartCall lets emission and staking of a new subnet begin. Only its owner may, once, some blocks after its making.
func StartCall(netuid basilica.NetUID) Action {
	return Action{
		words: fmt.Sprintf("start subnet %d", netuid), pallet: "SubtensorModule", call: "start_call",
		make: func() (map[string]any, error) { return map[string]any{"netuid": netuid}, nil },
		price: func(ctx context.Context, v *view, q *Quote) error {
			if err := v.subnetOwner(ctx, q, netuid); err != nil {
				return err
			}
			values, err := v.read(ctx, subtensorItem("FirstEmissionBlockNumber", netuid))
			if err != nil {
				return err
			}
			if values[0] != nil {
				return basilica.E(basilica.Conflict, "SubtensorModule.FirstEmissionBlockNumberAlreadySet", fmt.Sprintf("subnet %d runs since block %v", netuid, values[0]), "use it as it is")
			}
			return nil
		},
		result: func(ctx context.Context, v *view, _ []pallet.Event, facts *Facts) error {
			values, err := v.read(ctx, subtensorItem("FirstEmissionBlockNumber", netuid), subtensorItem("SubtokenEnabled", netuid))
			if err != nil {
				return err
			}
			var p picker
			facts.add("netuid", netuid)
			facts.add("first_emission_block", p.number("FirstEmissionBlockNumber", values[0]))
			facts.add("staking", p.flag("SubtokenEnabled", values[1]))
			return p.err
		},
	}
}
