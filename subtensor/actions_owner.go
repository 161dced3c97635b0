package subtensor

import (
	"context"
	"fmt"
	"math"
	"math/big"
	"strings"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// Child is a hotkey to which another one hands on a part of its stake's weight.
type Child struct {
	Hotkey     basilica.Hotkey `json:"hotkey"`
	Proportion uint64          `json:"proportion"` // of 2^64-1, which is all
}

// Share is the proportion as a part of the whole, 0 to 1.
func (c Child) Share() float64 { return float64(c.Proportion) / math.MaxUint64 }

// ChildOf makes a child with a share of 0 to 1.
func ChildOf(hotkey basilica.Hotkey, share float64) Child {
	n, _ := new(big.Float).Mul(new(big.Float).SetUint64(math.MaxUint64), big.NewFloat(share)).Uint64()
	return Child{hotkey, n}
}

// SetChildren hands parts of a hotkey's stake weight to other hotkeys on one subnet; an empty list takes all back. It takes
// effect after the chain's cooldown. The coldkey signs.
func SetChildren(netuid basilica.NetUID, hotkey basilica.Hotkey, children []Child) Action {
	words := fmt.Sprintf("give %s %d children on subnet %d", hotkey, len(children), netuid)
	if len(children) == 0 {
		words = fmt.Sprintf("take the children of %s on subnet %d away", hotkey, netuid)
	}
	return Action{
		words: words, pallet: "SubtensorModule", call: "set_children",
		make: func() (map[string]any, error) {
			pub, err := account(string(hotkey))
			if err != nil {
				return nil, err
			}
			list := make([]any, len(children))
			for i, c := range children {
				child, err := account(string(c.Hotkey))
				if err != nil {
					return nil, err
				}
				list[i] = []any{c.Proportion, child}
			}
			return map[string]any{"hotkey": pub, "netuid": netuid, "children": list}, nil
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			if err := v.exists(ctx, netuid); err != nil {
				return err
			}
			pub, err := account(string(hotkey))
			if err != nil {
				return err
			}
			var sum float64
			for _, c := range children {
				sum += c.Share()
				q.note("%s gets %.4g %% of its stake's weight", c.Hotkey, 100*c.Share())
			}
			if len(children) > 0 {
				q.note("%.4g %% stay; the chain carries it out after a cooldown", max(0, 100*(1-sum)))
			}
			return v.owned(ctx, q, pub)
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			now, pending, err := v.children(ctx, netuid, hotkey)
			if err != nil {
				return err
			}
			facts.add("netuid", netuid)
			facts.add("hotkey", hotkey)
			facts.add("children", now)
			facts.add("pending", pending)
			return nil
		},
	}
}

// PendingChildren is what SetChildren left for a later block.
type PendingChildren struct {
	Children []Child              `json:"children"`
	From     basilica.BlockNumber `json:"from"` // block from which the chain carries it out
}

// Children reads a hotkey's children on a subnet, and those that come after the cooldown; nil where none wait.
func (c *Client) Children(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey) ([]Child, *PendingChildren, error) {
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read children: %w", err)
	}
	if err := v.exists(ctx, netuid); err != nil {
		return nil, nil, err
	}
	now, pending, err := v.children(ctx, netuid, hotkey)
	if err != nil {
		return nil, nil, fmt.Errorf("read children: %w", err)
	}
	return now, pending, nil
}

func (v *view) children(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey) (now []Child, pending *PendingChildren, err error) {
	pub, err := account(string(hotkey))
	if err != nil {
		return nil, nil, err
	}
	values, err := v.read(ctx, subtensorItem("ChildKeys", pub, netuid), subtensorItem("PendingChildKeys", netuid, pub))
	if err != nil {
		return nil, nil, err
	}
	var p picker
	list := func(value any) []Child {
		out := []Child{}
		for _, x := range p.list("children", value) {
			pair := p.tuple("child", x, 2)
			out = append(out, Child{basilica.Hotkey(keys.EncodeSS58(p.account("child", pair[1]))), p.number("proportion", pair[0])})
		}
		return out
	}
	now = list(values[0])
	if both := p.list("PendingChildKeys", values[1]); len(both) == 2 {
		if from := basilica.BlockNumber(p.number("cooldown", both[1])); from > 0 {
			pending = &PendingChildren{list(both[0]), from}
		}
	}
	return now, pending, p.err
}

// maxRaw is the longest text that one field of a commitment holds as Raw; longer ones are BigRaw.
const (
	maxRaw    = 128
	maxBigRaw = 512
)

// SetCommitment publishes up to 512 bytes under a hotkey on a subnet, which signs.
func SetCommitment(netuid basilica.NetUID, data []byte) Action {
	return Action{
		words: fmt.Sprintf("publish %d bytes on subnet %d", len(data), netuid), pallet: "Commitments", call: "set_commitment",
		make: func() (map[string]any, error) {
			variant := scale.NewVariant(fmt.Sprintf("Raw%d", len(data)), data)
			if len(data) > maxRaw {
				variant = scale.NewVariant("BigRaw", data)
			}
			if len(data) > maxBigRaw {
				return nil, basilica.E(basilica.Invalid, "COMMITMENT_SIZE", fmt.Sprintf("a commitment of %d bytes is above %d", len(data), maxBigRaw), "publish a hash or an address of it instead")
			}
			return map[string]any{"netuid": netuid, "info": map[string]any{"fields": []any{variant}}}, nil
		},
		price: func(ctx context.Context, v *view, q *Quote) error {
			if err := v.exists(ctx, netuid); err != nil {
				return err
			}
			pub, err := account(q.Signer)
			if err != nil {
				return err
			}
			_, err = v.registered(ctx, netuid, pub)
			return err
		},
		result: func(ctx context.Context, v *view, events []pallet.Event, facts *Facts) error {
			for _, e := range events {
				if !e.Is("Commitments", "Commitment") {
					continue
				}
				var p picker
				who := p.account("who", p.fields(e, 2)[1])
				if p.err != nil {
					return p.err
				}
				stored, err := v.commitment(ctx, netuid, who)
				if err != nil {
					return err
				}
				facts.add("netuid", netuid)
				facts.add("hotkey", keys.EncodeSS58(who))
				facts.add("commitment", stored)
				return nil
			}
			return fmt.Errorf("the block has no event of the commitment: %w", errNoEvent)
		},
	}
}

// Commitment is what a hotkey has published on a subnet.
type Commitment struct {
	Block  basilica.BlockNumber `json:"block"`
	Fields [][]byte             `json:"fields"` // of bytes alone; what is sealed or a flag is an empty one
}

// Commitment reads what a hotkey has published; nil where it has not.
func (c *Client) Commitment(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey) (*Commitment, error) {
	pub, err := account(string(hotkey))
	if err != nil {
		return nil, err
	}
	v, _, err := c.head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read commitment: %w", err)
	}
	if err := v.exists(ctx, netuid); err != nil {
		return nil, err
	}
	stored, err := v.commitment(ctx, netuid, pub)
	if err != nil {
		return nil, fmt.Errorf("read commitment: %w", err)
	}
	return stored, nil
}

func (v *view) commitment(ctx context.Context, netuid basilica.NetUID, hotkey [32]byte) (*Commitment, error) {
	values, err := v.read(ctx, item{"Commitments", "CommitmentOf", []any{netuid, hotkey}})
	if err != nil || values[0] == nil {
		return nil, err
	}
	var p picker
	s, _ := values[0].(scale.Struct)
	block, _ := s.Get("block")
	info, _ := s.Get("info")
	inner, _ := info.(scale.Struct)
	fields, has := inner.Get("fields")
	if !has {
		fields = info // a composite of one field is the field
	}
	c := &Commitment{Block: basilica.BlockNumber(p.number("block", block))}
	for _, f := range p.list("fields", fields) {
		variant, _ := f.(scale.VariantValue)
		var data []byte
		if len(variant.Fields) == 1 && (strings.HasPrefix(variant.Name, "Raw") || variant.Name == "BigRaw") {
			data, _ = variant.Fields[0].Value.([]byte)
		}
		c.Fields = append(c.Fields, data)
	}
	return c, p.err
}

// SetTempo changes how many blocks an epoch of a subnet has. Its owner signs.
func SetTempo(netuid basilica.NetUID, tempo uint16) Action {
	return Action{
		words: fmt.Sprintf("give subnet %d epochs of %d blocks", netuid, tempo), pallet: "SubtensorModule", call: "set_tempo",
		make: func() (map[string]any, error) { return map[string]any{"netuid": netuid, "tempo": tempo}, nil },
		price: func(ctx context.Context, v *view, q *Quote) error {
			if err := v.subnetOwner(ctx, q, netuid); err != nil {
				return err
			}
			now, err := v.one(ctx, "Tempo", netuid)
			if err != nil {
				return err
			}
			q.note("it has %v blocks now; an epoch begins anew when this takes effect", now)
			return nil
		},
		result: func(ctx context.Context, v *view, _ []pallet.Event, facts *Facts) error {
			now, err := v.one(ctx, "Tempo", netuid)
			if err != nil {
				return err
			}
			facts.add("netuid", netuid)
			facts.add("tempo", now)
			return nil
		},
	}
}

// TriggerEpoch asks for an epoch of a subnet before its time. Its owner signs.
func TriggerEpoch(netuid basilica.NetUID) Action {
	return Action{
		words: fmt.Sprintf("let subnet %d have an epoch before its time", netuid), pallet: "SubtensorModule", call: "trigger_epoch",
		make: func() (map[string]any, error) { return map[string]any{"netuid": netuid}, nil },
		price: func(ctx context.Context, v *view, q *Quote) error {
			return v.subnetOwner(ctx, q, netuid)
		},
		result: func(ctx context.Context, v *view, _ []pallet.Event, facts *Facts) error {
			at, err := v.one(ctx, "PendingEpochAt", netuid)
			if err != nil {
				return err
			}
			facts.add("netuid", netuid)
			facts.add("epoch_at", at)
			return nil
		},
	}
}
