package subtensor

import (
	"context"
	"fmt"

	"basilica"
	"basilica/pallet"
)

// Action is the plan as a call whose cost is said first. weights are those that were planned.
func (p *WeightsPlan) Action(to Target, weights []basilica.Weight) Action {
	words := fmt.Sprintf("set weights of %d neurons on subnet %d", len(weights), to.NetUID)
	if p.Commit != nil {
		words = fmt.Sprintf("commit to weights of %d neurons on subnet %d", len(weights), to.NetUID)
	}
	if to.Mechanism != 0 {
		words += fmt.Sprintf(", mechanism %d", to.Mechanism)
	}
	return Action{
		words: words, pallet: "SubtensorModule", call: p.call,
		make: func() (map[string]any, error) { return p.args, nil },
		price: func(ctx context.Context, v *view, q *Quote) error {
			switch {
			case p.Commit == nil:
				q.note("the subnet takes weights in the open: everybody reads them at once")
			case p.Commit.Kind == basilica.CommitTimelock:
				q.note("they are sealed to round %d of the chain's beacon; the chain opens them by itself in block %d or later", p.Commit.Round, p.Reveal)
			default:
				q.note("only their hash is sent; they must be revealed in block %d or soon after", p.Reveal)
			}
			return v.mayWeigh(ctx, q, to, weights)
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			facts.add("netuid", to.NetUID)
			facts.add("mechanism", to.Mechanism)
			if p.Commit != nil {
				name := "WeightsCommitted"
				if p.Commit.Kind == basilica.CommitTimelock {
					name = "TimelockedWeightsCommitted"
				}
				facts.add("commit", p.Commit.Hash)
				facts.add("reveal_block", p.Reveal)
				_, err := event(events, name)
				return err
			}
			e, err := event(events, "WeightsSet")
			if err != nil {
				return err
			}
			var pick picker
			uid := basilica.UID(pick.number("uid", pick.fields(e, 2)[1]))
			if pick.err != nil {
				return pick.err
			}
			row, err := v.weights(ctx, to, uid)
			if err != nil {
				return err
			}
			facts.add("uid", uid)
			facts.add("weights", row)
			return nil
		},
	}
}

// mayWeigh refuses what the chain would refuse: weights of a stranger, without a permit, too soon after the last, too few.
func (v *view) mayWeigh(ctx context.Context, q *Quote, to Target, weights []basilica.Weight) error {
	if err := v.exists(ctx, to.NetUID); err != nil {
		return err
	}
	pub, err := account(q.Signer)
	if err != nil {
		return err
	}
	uid, err := v.registered(ctx, to.NetUID, pub)
	if err != nil {
		return err
	}
	values, err := v.read(ctx, subtensorItem("ValidatorPermit", to.NetUID), subtensorItem("LastUpdate", to.index()), subtensorItem("WeightsSetRateLimit", to.NetUID),
		item{"System", "Number", nil}, subtensorItem("MinAllowedWeights", to.NetUID), subtensorItem("SubnetworkN", to.NetUID),
		subtensorItem("SubnetOwnerHotkey", to.NetUID))
	if err != nil {
		return err
	}
	var p picker
	permit := p.flag("ValidatorPermit", at(p.list("ValidatorPermit", values[0]), int(uid), false))
	last := p.number("LastUpdate", at(p.list("LastUpdate", values[1]), int(uid), uint64(0)))
	limit, now := p.number("WeightsSetRateLimit", values[2]), p.number("Number", values[3])
	least := min(p.number("MinAllowedWeights", values[4]), p.number("SubnetworkN", values[5]))
	self, owner := len(weights) == 1 && weights[0].UID == uid, p.account("SubnetOwnerHotkey", values[6]) == pub
	switch {
	case p.err != nil:
		return p.err
	case last != 0 && now+1 < last+limit:
		return basilica.E(basilica.Exhausted, "SubtensorModule.SettingWeightsTooFast", fmt.Sprintf("uid %d updated its weights in block %d, and may again in block %d; now it is block %d", uid, last, last+limit, now),
			fixFor("SettingWeightsTooFast"))
	case !permit && !self && !owner:
		return basilica.E(basilica.Denied, "SubtensorModule.NeuronNoValidatorPermit", fmt.Sprintf("uid %d has no validator permit on subnet %d", uid, to.NetUID), fixFor("NeuronNoValidatorPermit"))
	case uint64(len(weights)) < least && !self:
		return basilica.E(basilica.Invalid, "SubtensorModule.WeightVecLengthIsLow", fmt.Sprintf("%d weights are fewer than the %d that subnet %d wants", len(weights), least, to.NetUID),
			"give weights of more neurons")
	}
	return nil
}
