package yuma

import (
	"bytes"
	"math"
	"math/big"
	"slices"
)

// Key is the public key of a hotkey or a coldkey.
type Key [32]byte

// Link is a parent or a child of a hotkey on a subnet: which part of the parent's stake, of 2^64-1, the child works with.
type Link struct {
	Proportion uint64
	Hotkey     Key
}

// Delegate is what the division of an emission reads of a hotkey. Stakes are those of the hotkey as a whole, in rao.
type Delegate struct {
	Coldkey Key
	// Alpha is staked on the subnet, Root on the root network.
	Alpha, Root uint64
	// Take (Delegates) goes to the coldkey before its stakers share, ChildTake to the hotkey before its parents do; of 65535.
	Take, ChildTake   uint16
	Parents, Children []Link
}

// Earning is what an epoch gave one hotkey, in rao of alpha.
type Earning struct {
	Hotkey            Key
	Server, Validator uint64
}

// Pot is what a subnet divides among its validators.
type Pot struct {
	// Validators is the alpha for stake on the subnet: the pending emission of validators, and that of servers too where
	// no server earned anything.
	Validators uint64
	// Root is for stake on the root network: alpha, or TAO up to spec 293.
	Root uint64
	// TaoWeight is what TAO on the root network counts against alpha, of 2^64-1.
	TaoWeight uint64
	// ChildBurn is the part, of 2^64-1, that is recycled of what a child's parents of another coldkey get (CKBurn).
	ChildBurn uint64
}

// Dividend is what one hotkey gets of a pot: Take goes to its coldkey, Rest to all who stake on it.
type Dividend struct {
	Hotkey     Key
	Take, Rest uint64
}

// Division is a pot divided; both lists are in the order of hotkeys and also name hotkeys that get nothing.
type Division struct {
	Alpha, Root []Dividend
	// Recycled is what ChildBurn took.
	Recycled uint64
}

// Divide divides a pot in proportion to what hotkeys earned as validators (runtime: coinbase/run_coinbase.rs). A hotkey
// first shares with its parents, by their part in its stake; then each hotkey's sum counts for stake on the subnet and on
// the root network, as its own stakes are. of tells about a hotkey; it is asked about who earned and about parents.
func Divide(earnings []Earning, of func(Key) Delegate, pot Pot) Division {
	d := division{of: of, weight: ratio(pot.TaoWeight), burn: ratio(pot.ChildBurn), sums: map[Key]*big.Int{}}
	for _, e := range earnings {
		d.share(e)
	}
	hotkeys := make([]Key, 0, len(d.sums))
	for hotkey := range d.sums {
		hotkeys = append(hotkeys, hotkey)
	}
	slices.SortFunc(hotkeys, func(a, b Key) int { return bytes.Compare(a[:], b[:]) })

	local, root := make([]*big.Int, len(hotkeys)), make([]*big.Int, len(hotkeys))
	totalLocal, totalRoot := new(big.Int), new(big.Int)
	for i, hotkey := range hotkeys {
		who := of(hotkey)
		weighted := umul(ufixed(who.Root), d.weight)
		root[i] = umul(d.sums[hotkey], udiv(weighted, uadd(ufixed(who.Alpha), weighted)))
		local[i] = usub(d.sums[hotkey], root[i])
		totalLocal, totalRoot = uadd(totalLocal, local[i]), uadd(totalRoot, root[i])
	}
	out := Division{Recycled: d.recycled}
	pay := func(hotkey Key, pot uint64, part, total *big.Int) Dividend {
		amount := umul(ufixed(pot), udiv(part, total))
		take := umul(udiv(ufixed(uint64(of(hotkey).Take)), ufixed(math.MaxUint16)), amount)
		return Dividend{Hotkey: hotkey, Take: integer(take), Rest: integer(usub(amount, take))}
	}
	for i, hotkey := range hotkeys {
		out.Alpha = append(out.Alpha, pay(hotkey, pot.Validators, local[i], totalLocal))
		out.Root = append(out.Root, pay(hotkey, pot.Root, root[i], totalRoot))
	}
	return out
}

// division is a pot being divided.
type division struct {
	of           func(Key) Delegate
	weight, burn *big.Int
	sums         map[Key]*big.Int
	recycled     uint64
}

// share divides what one hotkey earned as a validator between it and its parents.
func (d *division) share(e Earning) {
	child := d.of(e.Hotkey)
	emission := ufixed(e.Validator)
	left, taken := emission, new(big.Int)
	total := ufixed(d.ownContribution(child))
	contributions := make([]*big.Int, len(child.Parents))
	parents := make([]Delegate, len(child.Parents))
	for i, link := range child.Parents {
		parents[i] = d.of(link.Hotkey)
		contributions[i] = d.contribution(parents[i], ratio(link.Proportion))
		total = uadd(total, contributions[i])
	}
	for i, link := range child.Parents {
		part := umul(emission, udiv(contributions[i], total))
		left = usub(left, part)
		if parents[i].Coldkey != child.Coldkey {
			burned := umul(d.burn, part)
			take := umul(udiv(ufixed(uint64(child.ChildTake)), ufixed(math.MaxUint16)), part)
			part = usub(usub(part, burned), take)
			taken = uadd(taken, take)
			d.recycled += integer(burned)
		}
		d.add(link.Hotkey, integer(part))
	}
	d.add(e.Hotkey, integer(uadd(left, taken)))
}

func (d *division) add(hotkey Key, rao uint64) {
	if d.sums[hotkey] == nil {
		d.sums[hotkey] = new(big.Int)
	}
	d.sums[hotkey] = uadd(d.sums[hotkey], ufixed(rao))
}

// contribution is the stake of a hotkey that a proportion of it brings.
func (d *division) contribution(who Delegate, proportion *big.Int) *big.Int {
	return uadd(umul(ufixed(who.Alpha), proportion), umul(umul(ufixed(who.Root), proportion), d.weight))
}

// ownContribution is the stake that a hotkey does not lend to its children, in rao.
func (d *division) ownContribution(who Delegate) uint64 {
	kept := ufixed(1)
	for _, link := range who.Children {
		kept = usub(kept, ratio(link.Proportion))
	}
	return integer(d.contribution(who, kept))
}

// Inherited is the stake that a hotkey validates with, in rao: without what it lends to its children, with what its
// parents lend it. of tells about the parents.
func Inherited(who Delegate, of func(Key) Delegate) (alpha, root uint64) {
	net := func(stake func(Delegate) uint64) uint64 {
		lent, borrowed := new(big.Int), new(big.Int)
		for _, link := range who.Children {
			lent = uadd(lent, umul(ufixed(stake(who)), ratio(link.Proportion)))
		}
		for _, link := range who.Parents {
			borrowed = uadd(borrowed, umul(ufixed(stake(of(link.Hotkey))), ratio(link.Proportion)))
		}
		return integer(uadd(usub(ufixed(stake(who)), lent), borrowed))
	}
	return net(func(d Delegate) uint64 { return d.Alpha }), net(func(d Delegate) uint64 { return d.Root })
}

// The runtime's U96F32, kept in a big.Int as a raw value with 32 fraction bits: never negative, never above 2^128-1.

const fractionBits = 32

func ufixed(v uint64) *big.Int {
	out := new(big.Int).SetUint64(v)
	return out.Lsh(out, fractionBits)
}

// ratio is v of 2^64-1.
func ratio(v uint64) *big.Int { return udiv(ufixed(v), ufixed(math.MaxUint64)) }

func uadd(a, b *big.Int) *big.Int { return saturated(new(big.Int).Add(a, b)) }

// usub is 0 where b is larger.
func usub(a, b *big.Int) *big.Int {
	out := new(big.Int).Sub(a, b)
	if out.Sign() < 0 {
		out.SetInt64(0)
	}
	return out
}

func umul(a, b *big.Int) *big.Int {
	out := new(big.Int).Mul(a, b)
	return saturated(out.Rsh(out, fractionBits))
}

// udiv is 0 where b is 0 and where the quotient does not fit.
func udiv(a, b *big.Int) *big.Int {
	out := new(big.Int)
	if b.Sign() == 0 {
		return out
	}
	out.Lsh(a, fractionBits)
	out.Quo(out, b)
	if out.BitLen() > 128 {
		out.SetInt64(0)
	}
	return out
}

func saturated(v *big.Int) *big.Int {
	if v.BitLen() > 128 {
		v.SetInt64(1)
		v.Lsh(v, 128).Sub(v, big.NewInt(1))
	}
	return v
}

// integer is the integer part, saturating.
func integer(v *big.Int) uint64 {
	whole := new(big.Int).Rsh(v, fractionBits)
	if !whole.IsUint64() {
		return math.MaxUint64
	}
	return whole.Uint64()
}
