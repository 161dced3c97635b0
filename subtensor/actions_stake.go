package subtensor

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// Limit caps the price of alpha in a change of stake.
type Limit struct {
	Price   basilica.Rao // TAO in rao for one whole alpha: the highest when staking, the lowest when unstaking
	Partial bool         // let the chain do as much as the limit allows; without it all is done or nothing
}

// AddStake stakes amount of TAO on hotkey, for alpha of the subnet at whatever its price is then. The coldkey signs.
func AddStake(netuid basilica.NetUID, hotkey basilica.Hotkey, amount basilica.Rao) Action {
	return stakeAction(netuid, hotkey, amount, true, nil)
}

// AddStakeLimit is AddStake at a price of at most limit.
func AddStakeLimit(netuid basilica.NetUID, hotkey basilica.Hotkey, amount basilica.Rao, limit Limit) Action {
	return stakeAction(netuid, hotkey, amount, true, &limit)
}

// RemoveStake gives alpha back for TAO at whatever its price is then; more than there is means all of it. The coldkey
// signs.
func RemoveStake(netuid basilica.NetUID, hotkey basilica.Hotkey, alpha basilica.Rao) Action {
	return stakeAction(netuid, hotkey, alpha, false, nil)
}

// RemoveStakeLimit is RemoveStake at a price of at least limit.
func RemoveStakeLimit(netuid basilica.NetUID, hotkey basilica.Hotkey, alpha basilica.Rao, limit Limit) Action {
	return stakeAction(netuid, hotkey, alpha, false, &limit)
}

func stakeAction(netuid basilica.NetUID, hotkey basilica.Hotkey, amount basilica.Rao, add bool, limit *Limit) Action {
	words, call, argument := "stake %s TAO on %s, subnet %d", "add_stake", "amount_staked"
	if !add {
		words, call, argument = "unstake %s alpha of %s, subnet %d", "remove_stake", "amount_unstaked"
	}
	if limit != nil {
		call += "_limit"
	}
	return Action{
		words: fmt.Sprintf(words, amount.TAO(), hotkey, netuid), pallet: "SubtensorModule", call: call,
		make: func() (map[string]any, error) {
			pub, err := account(string(hotkey))
			args := map[string]any{"hotkey": pub, "netuid": netuid, argument: amount}
			if limit != nil {
				args["limit_price"], args["allow_partial"] = limit.Price, limit.Partial
			}
			return args, err
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			pub, err := account(string(hotkey))
			if err != nil {
				return err
			}
			if err := v.exists(ctx, netuid); err != nil {
				return err
			}
			if err := v.stakeOpen(ctx, netuid, pub); err != nil {
				return err
			}
			if add {
				q.Cost, q.Use = amount, "staked"
				return v.swapNotes(ctx, q, netuid, amount, true, limit)
			}
			cold, err := account(q.Signer)
			if err != nil {
				return err
			}
			has, err := v.stakeOf(ctx, pub, cold, netuid)
			if err != nil {
				return err
			}
			if has == 0 {
				return basilica.E(basilica.Exhausted, "SubtensorModule.AmountTooLow", fmt.Sprintf("%s has no stake on %s, subnet %d", q.Signer, hotkey, netuid), "see `basilica subnet stake list`")
			}
			q.note("%s alpha of it are there", has.TAO())
			return v.swapNotes(ctx, q, netuid, min(amount, has), false, limit)
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			return staked(ctx, v, events, facts, netuid, add)
		},
	}
}

// stakeOpen refuses a subnet that has not started and a hotkey that the chain does not know.
func (v *view) stakeOpen(ctx context.Context, netuid basilica.NetUID, hotkey [32]byte) error {
	values, err := v.read(ctx, subtensorItem("SubtokenEnabled", netuid), subtensorItem("Owner", hotkey))
	if err != nil {
		return err
	}
	var p picker
	open, owner := p.flag("SubtokenEnabled", values[0]), p.account("Owner", values[1])
	switch {
	case p.err != nil:
		return p.err
	case !open:
		return basilica.E(basilica.Denied, "SubtensorModule.SubtokenDisabled", fmt.Sprintf("subnet %d has not been started by its owner, so nobody can stake on it", netuid), fixFor("SubtokenDisabled"))
	case owner == [32]byte{}:
		return basilica.E(basilica.NotFound, "SubtensorModule.HotKeyAccountNotExists", fmt.Sprintf("the chain does not know the hotkey %s", keys.EncodeSS58(hotkey)), fixFor("HotKeyAccountNotExists"))
	}
	return nil
}

// swapNotes says by the chain's own simulation what a change of stake would bring, and refuses what the limit rules out.
func (v *view) swapNotes(ctx context.Context, q *Quote, netuid basilica.NetUID, amount basilica.Rao, buy bool, limit *Limit) error {
	price, err := v.price(ctx, netuid)
	if errors.Is(err, errNoAPI) {
		q.note("the node does not say the price of alpha")
		return nil
	}
	if err != nil {
		return err
	}
	q.note("alpha of subnet %d costs %s TAO now", netuid, price.TAO())
	if limit != nil {
		q.note("at a price of %s TAO at the %s%s", limit.Price.TAO(), map[bool]string{true: "most", false: "least"}[buy],
			map[bool]string{true: "; what goes beyond is left undone", false: ", or not at all"}[limit.Partial])
		if buy && price > limit.Price || !buy && price < limit.Price {
			return basilica.E(basilica.Exhausted, "SubtensorModule.SlippageTooHigh", fmt.Sprintf("the price is %s TAO now, beyond the limit of %s TAO", price.TAO(), limit.Price.TAO()),
				fixFor("SlippageTooHigh"))
		}
	} else {
		q.note("the price moves with every stake, and this call has no limit")
	}
	method, in, out := "sim_swap_alpha_for_tao", "alpha", "tao"
	if buy {
		method, in, out = "sim_swap_tao_for_alpha", "tao", "alpha"
	}
	value, err := v.api(ctx, "SwapRuntimeApi", method, netuid, amount)
	if errors.Is(err, errNoAPI) {
		return nil
	}
	if err != nil {
		return err
	}
	s, ok := value.(scale.Struct)
	if !ok {
		return fmt.Errorf("%s is %T: %w", method, value, scale.ErrInvalid)
	}
	var p picker
	field := func(name string) basilica.Rao {
		x, _ := s.Get(name)
		return basilica.Rao(p.number(name, x))
	}
	q.note("%s %s would bring %s %s, with %s %s of it as the pool's fee", amount.TAO(), in, field(out+"_amount").TAO(), out, field(in+"_fee").TAO(), in)
	if _, has := s.Get(out + "_slippage"); has && field(out+"_slippage") > 0 {
		q.note("that is %s %s less than at the price of now", field(out+"_slippage").TAO(), out)
	}
	return p.err
}

// price is what one whole alpha of a subnet costs, in rao.
func (v *view) price(ctx context.Context, netuid basilica.NetUID) (basilica.Rao, error) {
	value, err := v.api(ctx, "SwapRuntimeApi", "current_alpha_price", netuid)
	if err != nil {
		return 0, err
	}
	n, err := scale.AsUint64(value)
	return basilica.Rao(n), err
}

// AlphaPrice is what one whole alpha of a subnet costs now, in rao.
func (c *Client) AlphaPrice(ctx context.Context, netuid basilica.NetUID) (basilica.Rao, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return 0, fmt.Errorf("price of alpha: %w", err)
	}
	price, err := v.price(ctx, netuid)
	if err != nil {
		return 0, fmt.Errorf("price of alpha: %w", apiMissing(err, "what alpha costs"))
	}
	return price, nil
}

// StakeOf is what a coldkey has on a hotkey of a subnet, in rao of alpha.
func (c *Client) StakeOf(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey basilica.Coldkey) (basilica.Rao, error) {
	hot, err := account(string(hotkey))
	if err != nil {
		return 0, err
	}
	cold, err := account(string(coldkey))
	if err != nil {
		return 0, err
	}
	v, _, err := c.head(ctx)
	if err != nil {
		return 0, fmt.Errorf("read stake: %w", err)
	}
	if err := v.exists(ctx, netuid); err != nil {
		return 0, err
	}
	stake, err := v.stakeOf(ctx, hot, cold, netuid)
	if err != nil {
		return 0, fmt.Errorf("read stake: %w", err)
	}
	return stake, nil
}

// stakeOf is what a coldkey's stake on a hotkey is worth, in rao of alpha: by the runtime's own reckoning, or by its
// shares of the hotkey's pool.
func (v *view) stakeOf(ctx context.Context, hotkey, coldkey [32]byte, netuid basilica.NetUID) (basilica.Rao, error) {
	value, err := v.api(ctx, "StakeInfoRuntimeApi", "get_stake_info_for_hotkey_coldkey_netuid", hotkey, coldkey, netuid)
	if errors.Is(err, errNoAPI) {
		return v.shareOf(ctx, hotkey, coldkey, netuid)
	}
	if err != nil {
		return 0, err
	}
	s, ok := value.(scale.Struct)
	if !ok {
		return 0, nil // None
	}
	stake, _ := s.Get("stake")
	n, err := scale.AsUint64(stake)
	return basilica.Rao(n), err
}

func (v *view) shareOf(ctx context.Context, hotkey, coldkey [32]byte, netuid basilica.NetUID) (basilica.Rao, error) {
	values, err := v.read(ctx, subtensorItem("TotalHotkeyAlpha", hotkey, netuid), subtensorItem("AlphaV2", hotkey, coldkey, netuid),
		subtensorItem("TotalHotkeySharesV2", hotkey, netuid))
	if err != nil {
		return 0, err
	}
	var p picker
	pool, own, all := p.number("TotalHotkeyAlpha", values[0]), p.shares("AlphaV2", values[1]), p.shares("TotalHotkeySharesV2", values[2])
	if p.err != nil || all.Sign() == 0 {
		return 0, p.err
	}
	worth := new(big.Rat).Mul(new(big.Rat).SetFrac(new(big.Int).SetUint64(pool), big.NewInt(1)), own)
	worth.Quo(worth, all)
	whole := new(big.Int).Quo(worth.Num(), worth.Denom())
	return basilica.Rao(whole.Uint64()), nil
}

// shares is mantissa * 10^exponent.
func (p *picker) shares(what string, v any) *big.Rat {
	s, _ := v.(scale.Struct)
	m, _ := s.Get("mantissa")
	mantissa, ok := m.(*big.Int)
	e, _ := s.Get("exponent")
	exponent, isInt := e.(int64)
	if !ok || !isInt || exponent > 64 || exponent < -64 {
		p.fail(what, v)
		return new(big.Rat)
	}
	ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(max(exponent, -exponent)), nil)
	if exponent < 0 {
		return new(big.Rat).SetFrac(mantissa, ten)
	}
	return new(big.Rat).SetInt(ten.Mul(ten, mantissa))
}

// staked reads StakeAdded or StakeRemoved, and the stake that is there afterwards.
func staked(ctx context.Context, v *view, events []pallet.Event, facts *Facts, netuid basilica.NetUID, add bool) error {
	name := "StakeRemoved"
	if add {
		name = "StakeAdded"
	}
	e, err := event(events, name)
	if err != nil {
		return err
	}
	var p picker
	fields := p.fields(e, 6)
	cold, hot := p.account("coldkey", fields[0]), p.account("hotkey", fields[1])
	tao, alpha, fee := basilica.Rao(p.number("tao", fields[2])), basilica.Rao(p.number("alpha", fields[3])), basilica.Rao(p.number("fee", fields[5]))
	if p.err != nil {
		return p.err
	}
	stake, err := v.stakeOf(ctx, hot, cold, netuid)
	if err != nil {
		return err
	}
	balance, err := v.balance(ctx, cold)
	if err != nil {
		return err
	}
	facts.add("netuid", netuid)
	facts.add("hotkey", keys.EncodeSS58(hot))
	facts.add("tao", tao)
	facts.add("alpha", alpha)
	facts.add("pool_fee", fee)
	facts.add("stake", stake)
	facts.add("balance", balance)
	return nil
}

// AddStake stakes amount on hotkey, signed and paid by coldkey.
func (c *Client) AddStake(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, coldkey keys.Signer, amount basilica.Rao) (basilica.Inclusion, error) {
	done, err := c.Do(ctx, AddStake(netuid, hotkey, amount), coldkey)
	return done.Inclusion, err
}

// Stake is what one coldkey has on one hotkey of one subnet, in rao of the subnet's alpha.
type Stake struct {
	NetUID     basilica.NetUID `json:"netuid"`
	Hotkey     basilica.Hotkey `json:"hotkey"`
	Alpha      basilica.Rao    `json:"alpha"`
	Price      *basilica.Rao   `json:"price"` // of one whole alpha; nil where the node does not say it
	TAO        *basilica.Rao   `json:"tao"`   // Alpha at Price, without the slippage of a sale
	Registered bool            `json:"registered"`
}

// Stakes lists what a coldkey has staked, by subnet and hotkey, with its free balance.
func (c *Client) Stakes(ctx context.Context, coldkey basilica.Coldkey) (stakes []Stake, balance basilica.Rao, err error) {
	pub, err := account(string(coldkey))
	if err != nil {
		return nil, 0, err
	}
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list stakes: %w", err)
	}
	if stakes, err = v.stakesOf(ctx, pub); err != nil {
		return nil, 0, fmt.Errorf("list stakes: %w", err)
	}
	if balance, err = v.balance(ctx, pub); err != nil {
		return nil, 0, fmt.Errorf("list stakes: %w", err)
	}
	return stakes, balance, nil
}

func (v *view) stakesOf(ctx context.Context, coldkey [32]byte) ([]Stake, error) {
	value, err := v.api(ctx, "StakeInfoRuntimeApi", "get_stake_info_for_coldkey", coldkey)
	if err != nil {
		return nil, apiMissing(err, "who has staked what")
	}
	prices, err := v.prices(ctx)
	if err != nil {
		return nil, err
	}
	var p picker
	stakes := []Stake{}
	for _, x := range p.list("stakes", value) {
		s, _ := x.(scale.Struct)
		field := func(name string) any { f, _ := s.Get(name); return f }
		one := Stake{
			NetUID: basilica.NetUID(p.number("netuid", field("netuid"))), Hotkey: basilica.Hotkey(keys.EncodeSS58(p.account("hotkey", field("hotkey")))),
			Alpha: basilica.Rao(p.number("stake", field("stake"))), Registered: p.flag("is_registered", field("is_registered")),
		}
		if price, ok := prices[one.NetUID]; ok {
			worth := worth(one.Alpha, price)
			one.Price, one.TAO = &price, &worth
		}
		if one.Alpha > 0 {
			stakes = append(stakes, one)
		}
	}
	return stakes, p.err
}

// worth is alpha at a price in rao for a whole one.
func worth(alpha, price basilica.Rao) basilica.Rao {
	n := new(big.Int).Mul(new(big.Int).SetUint64(uint64(alpha)), new(big.Int).SetUint64(uint64(price)))
	n.Quo(n, big.NewInt(1e9))
	if !n.IsUint64() {
		return ^basilica.Rao(0)
	}
	return basilica.Rao(n.Uint64())
}

// prices are the prices of all subnets' alpha, none where the node does not say them.
func (v *view) prices(ctx context.Context) (map[basilica.NetUID]basilica.Rao, error) {
	value, err := v.api(ctx, "SwapRuntimeApi", "current_alpha_price_all")
	if errors.Is(err, errNoAPI) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p picker
	prices := map[basilica.NetUID]basilica.Rao{}
	for _, x := range p.list("prices", value) {
		s, _ := x.(scale.Struct)
		netuid, _ := s.Get("netuid")
		price, _ := s.Get("price")
		prices[basilica.NetUID(p.number("netuid", netuid))] = basilica.Rao(p.number("price", price))
	}
	return prices, p.err
}
