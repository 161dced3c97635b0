package subtensor

import (
	"context"
	"math/big"

	"basilica"
)

// stakes reckons from the storage what each neuron's stake weighs on the subnet, as the chain does in its numbers of 32
// fraction bits (U96F32): alpha, and TAO on the root subnet times the weight of TAO; of both, parts go to the children of a
// hotkey and come from its parents.
func (v *view) stakes(ctx context.Context, m *basilica.Metagraph, hotkeys [][32]byte) error {
	n := len(hotkeys)
	items := []item{subtensorItem("TaoWeight")}
	for _, hotkey := range hotkeys {
		items = append(items, subtensorItem("ChildKeys", hotkey, m.NetUID), subtensorItem("ParentKeys", hotkey, m.NetUID))
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return err
	}
	var p picker
	weight := fraction(p.number("TaoWeight", values[0]))
	families := make([]family, n)
	known := map[[32]byte]int{} // place of a hotkey's own stakes
	items = items[:0]
	ask := func(hotkey [32]byte) {
		if _, ok := known[hotkey]; !ok {
			known[hotkey] = len(items)
			items = append(items, subtensorItem("TotalHotkeyAlpha", hotkey, m.NetUID), subtensorItem("TotalHotkeyAlpha", hotkey, 0))
		}
	}
	for i, hotkey := range hotkeys {
		families[i] = family{children: p.kin("ChildKeys", values[1+2*i]), parents: p.kin("ParentKeys", values[2+2*i])}
		ask(hotkey)
		for _, parent := range families[i].parents {
			ask(parent.hotkey)
		}
	}
	if p.err != nil {
		return p.err
	}
	if values, err = v.read(ctx, items...); err != nil {
		return err
	}
	own := func(kind int) func(hotkey [32]byte) uint64 {
		return func(hotkey [32]byte) uint64 { return p.number("TotalHotkeyAlpha", values[known[hotkey]+kind]) }
	}
	for i, hotkey := range hotkeys {
		alpha, root := families[i].inherited(hotkey, own(0)), families[i].inherited(hotkey, own(1))
		m.Neurons[i].Stake = weigh(alpha, root, weight)
	}
	return p.err
}

// kin is one parent or child of a hotkey, with the share of the parent's stake that counts for the child.
type kin struct {
	share  uint64 // of 2^64-1
	hotkey [32]byte
}

type family struct{ children, parents []kin }

// kin reads Vec<(u64, AccountId)>.
func (p *picker) kin(what string, v any) []kin {
	var out []kin
	for _, entry := range p.list(what, v) {
		pair := p.list(what, entry)
		if len(pair) != 2 {
			p.fail(what, entry)
			return nil
		}
		out = append(out, kin{p.number(what, pair[0]), p.account(what, pair[1])})
	}
	return out
}

// fraction is n / (2^64-1) with 32 fraction bits, cut off.
func fraction(n uint64) *big.Int {
	f := new(big.Int).Lsh(new(big.Int).SetUint64(n), 32)
	return f.Div(f, new(big.Int).SetUint64(^uint64(0)))
}

// inherited is what counts as a hotkey's own stake: its stake less what goes to its children, plus what comes of its
// parents' stakes.
func (f family) inherited(hotkey [32]byte, stake func([32]byte) uint64) uint64 {
	part := func(whole uint64, k kin) *big.Int {
		return new(big.Int).Mul(new(big.Int).SetUint64(whole), fraction(k.share))
	}
	sum := new(big.Int).Lsh(new(big.Int).SetUint64(stake(hotkey)), 32)
	initial := stake(hotkey)
	for _, c := range f.children {
		sum.Sub(sum, part(initial, c))
	}
	if sum.Sign() < 0 {
		sum.SetInt64(0)
	}
	for _, parent := range f.parents {
		sum.Add(sum, part(stake(parent.hotkey), parent))
	}
	return saturate(sum.Rsh(sum, 32))
}

// weigh is alpha + root * weight, where weight has 32 fraction bits.
func weigh(alpha, root uint64, weight *big.Int) basilica.Rao {
	n := new(big.Int).Mul(new(big.Int).SetUint64(root), weight)
	n.Rsh(n, 32).Add(n, new(big.Int).SetUint64(alpha))
	return basilica.Rao(saturate(n))
}

func saturate(n *big.Int) uint64 {
	if !n.IsUint64() {
		return ^uint64(0)
	}
	return n.Uint64()
}
