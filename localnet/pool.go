package localnet

import (
	"errors"
	"slices"

	"basilica"
)

// The pool's bounds.
const (
	maxPool       = 8192
	maxPerAccount = 256
)

// pooled is an extrinsic that waits.
type pooled struct {
	*extrinsic
	death  uint64 // first block that is too late
	from   uint64 // first block that may take it
	ready  bool   // its turn has come; else it is a future one
	status func(state string, block basilica.Hash)
}

func (t *pooled) tell(state string, block basilica.Hash) {
	if t.status != nil {
		t.status(state, block)
	}
}

// pool holds extrinsics until they are included, in the order in which they came. Chain's lock guards it.
type pool struct {
	order  []*pooled
	hashes map[[32]byte]bool
	slots  map[account]map[uint32]*pooled // by signer and nonce
}

func newPool() *pool {
	return &pool{hashes: map[[32]byte]bool{}, slots: map[account]map[uint32]*pooled{}}
}

// add takes a verified extrinsic in. Two of one account and nonce have the same priority here, so the second is
// refused. from is the first block that may take it.
func (p *pool) add(x *execution, ext *extrinsic, status func(string, basilica.Hash), from uint64) error {
	if p.hashes[ext.hash] {
		return alreadyImported
	}
	future := false
	if err := x.rt.validate(x, ext); err != nil {
		var refused *Rejection
		if !errors.As(err, &refused) || refused.Data != dataFuture {
			return err
		}
		if err := x.rt.admissible(x, ext); err != nil {
			return err
		}
		future = true
	}
	own := p.slots[ext.who]
	if own[ext.nonce] != nil {
		return &Rejection{1014, "Priority is too low: (1 vs 1)", "The transaction has too low priority to replace another transaction already in the pool."}
	}
	if len(p.order) >= maxPool || len(own) >= maxPerAccount {
		return &Rejection{1016, "Immediately Dropped", "The transaction couldn't enter the pool because of the limit"}
	}
	t := &pooled{extrinsic: ext, death: ext.era.Death(x.block), from: from, status: status}
	p.order = append(p.order, t)
	p.hashes[ext.hash] = true
	if own == nil {
		own = map[uint32]*pooled{}
		p.slots[ext.who] = own
	}
	own[ext.nonce] = t
	if future && p.nextIndex(ext.who, x.rt.system.account.get(x, ext.who).nonce) <= ext.nonce {
		t.tell("future", basilica.Hash{})
	}
	p.promote(x)
	return nil
}

// promote marks what has become ready: its nonce follows the account's and those of ready ones without a gap.
func (p *pool) promote(x *execution) {
	for moved := true; moved; {
		moved = false
		for _, t := range p.order {
			if !t.ready && t.nonce == p.nextReady(t.who, x.rt.system.account.get(x, t.who).nonce) {
				t.ready, moved = true, true
				t.tell("ready", basilica.Hash{})
			}
		}
	}
}

// nextReady is the nonce after the account's and its ready extrinsics'.
func (p *pool) nextReady(who account, nonce uint32) uint32 {
	for own := p.slots[who]; own[nonce] != nil && own[nonce].ready; nonce++ {
	}
	return nonce
}

// nextIndex is the nonce that an account should sign with next: after everything that follows without a gap.
func (p *pool) nextIndex(who account, nonce uint32) uint32 {
	for own := p.slots[who]; own[nonce] != nil; nonce++ {
	}
	return nonce
}

// What a block has room for, as the runtime bounds normal extrinsics: 75 % of 4 s of ref_time in picoseconds, and of
// 10 MiB.
const (
	maxBlockWeight = 3_000_000_000_000
	maxBlockLength = 7_864_320
)

// pick applies ready extrinsics in the block that x makes, each validated again first, and takes them out of the
// pool, together with those that no block can take any more. What finds no room waits.
func (p *pool) pick(x *execution, apply func(*extrinsic)) (included, dropped []*pooled) {
	weight, length := uint64(0), 0
	for again := true; again; {
		again = false
		for _, t := range slices.Clone(p.order) {
			nonce := x.rt.system.account.get(x, t.who).nonce
			switch {
			case t.nonce < nonce || x.block >= t.death:
				p.remove(t)
				dropped = append(dropped, t)
			case t.nonce > nonce || x.block < t.from || weight+t.call.price().refTime > maxBlockWeight || length+len(t.raw) > maxBlockLength:
				// Its turn may come after another one of this account, or in a later block.
			case x.rt.validate(x, t.extrinsic) != nil:
				p.remove(t)
				dropped = append(dropped, t)
			default:
				p.remove(t)
				apply(t.extrinsic)
				weight += t.call.price().refTime
				length += len(t.raw)
				included = append(included, t)
				again = true
			}
		}
	}
	return included, dropped
}

// advance puts what is in the pool already in front of all else.
func (p *pool) advance(first []*extrinsic) {
	if len(first) == 0 {
		return
	}
	ahead := make([]*pooled, 0, len(p.order))
	for _, ext := range first {
		ahead = append(ahead, p.slots[ext.who][ext.nonce])
	}
	for _, t := range p.order {
		if !slices.Contains(first, t.extrinsic) {
			ahead = append(ahead, t)
		}
	}
	p.order = ahead
}

func (p *pool) remove(t *pooled) {
	delete(p.hashes, t.hash)
	delete(p.slots[t.who], t.nonce)
	if len(p.slots[t.who]) == 0 {
		delete(p.slots, t.who)
	}
	p.order = slices.DeleteFunc(p.order, func(o *pooled) bool { return o == t })
}

func (p *pool) pending() [][]byte {
	out := make([][]byte, len(p.order))
	for i, t := range p.order {
		out[i] = slices.Clone(t.raw)
	}
	return out
}
