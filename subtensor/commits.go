package subtensor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
)

// FollowCommit says what has become of a commit for a subnet's first mechanism.
func (c *Client) FollowCommit(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.WeightCommit, error) {
	return c.FollowMechanismCommit(ctx, Target{NetUID: netuid}, hotkey, commit, weights)
}

// FollowMechanismCommit says what has become of a commit whose Block is known. weights are those that it sealed.
func (c *Client) FollowMechanismCommit(ctx context.Context, to Target, hotkey basilica.Hotkey, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.WeightCommit, error) {
	out, err := c.followCommit(ctx, to, hotkey, commit, weights)
	if err != nil {
		return commit, fmt.Errorf("follow commit: %w", err)
	}
	return out, nil
}

// HoldsCommit says whether the chain lists a commit of kind salt at its finalized head, whose number it gives: how a commit is
// found again whose block is not known.
func (c *Client) HoldsCommit(ctx context.Context, to Target, hotkey basilica.Hotkey, hash basilica.Hash) (bool, basilica.BlockNumber, error) {
	who, err := account(string(hotkey))
	if err != nil {
		return false, 0, err
	}
	v, head, err := c.head(ctx)
	if err != nil {
		return false, 0, fmt.Errorf("look for a commit: %w", err)
	}
	f := &following{client: c, to: to, who: who, commit: basilica.WeightCommit{Kind: basilica.CommitSalt, Hash: hash}}
	list, err := f.sealed(ctx, v)
	if err != nil {
		return false, 0, fmt.Errorf("look for a commit: %w", err)
	}
	return f.holds(list), head.Number, nil
}

func (c *Client) followCommit(ctx context.Context, to Target, hotkey basilica.Hotkey, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.WeightCommit, error) {
	who, err := account(string(hotkey))
	if err != nil {
		return commit, err
	}
	v, head, err := c.head(ctx)
	if err != nil {
		return commit, err
	}
	if head.Number < commit.Block {
		return commit, basilica.E(basilica.Unavailable, "STALE_METAGRAPH", fmt.Sprintf("the node's finalized head is %d, the commit is of block %d", head.Number, commit.Block), "use a node that is synchronised")
	}
	e, err := v.epochs(ctx, to.NetUID)
	if err != nil {
		return commit, err
	}
	f := &following{client: c, to: to, who: who, commit: commit, weights: newVector(weights, commit.VersionKey).upscaled(), now: e}
	if commit.Kind == basilica.CommitSalt {
		err = f.salted(ctx, v, head.Number)
	} else {
		err = f.timelocked(ctx, v, head.Number)
	}
	return f.commit, err
}

// following is one look at one commit.
type following struct {
	client  *Client
	to      Target
	who     [32]byte
	commit  basilica.WeightCommit
	weights vector
	now     epochs // at the finalized head
}

// entry is one commit in the chain's lists.
type entry struct {
	hash  basilica.Hash // of what it holds sealed
	epoch uint64        // that a salted commit counts to
}

func (f *following) waits(head basilica.BlockNumber) {
	f.commit.State, f.commit.Seen = basilica.CommitWaiting, head
}

func (f *following) revealed(at basilica.BlockNumber) {
	f.commit.State, f.commit.Revealed = basilica.CommitRevealed, at
}

func (f *following) lost(format string, args ...any) {
	f.commit.State = basilica.CommitLost
	f.commit.Reason = &basilica.Reason{Code: "COMMIT_LOST", Sentence: fmt.Sprintf(format, args...), Fix: "nothing needs to be done: weights are committed again as soon as the subnet allows; if it goes on, ask the chain's operators about their beacon"}
}

// timelocked follows a commit that the chain opens by itself.
func (f *following) timelocked(ctx context.Context, v *view, head basilica.BlockNumber) error {
	if f.commit.Epoch == 0 {
		if err := f.findEpoch(ctx); err != nil {
			return err
		}
	}
	values, err := v.read(ctx, item{"Drand", "LastStoredRound", nil}, item{"Drand", "OldestStoredRound", nil}, item{"Drand", "Pulses", []any{f.commit.Round}})
	if err != nil {
		return err
	}
	var p picker
	last, oldest := p.number("LastStoredRound", values[0]), p.number("OldestStoredRound", values[1])
	if p.err != nil {
		return p.err
	}
	// Rounds are stored in rising order: what was passed over never comes.
	skipped := values[2] == nil && f.commit.Round < last && f.commit.Round >= oldest
	if f.now.at(head) < f.commit.Epoch+f.now.period {
		if skipped {
			f.skipped(last)
			return nil
		}
		f.waits(head)
		return nil
	}
	list, err := f.sealed(ctx, v)
	if err != nil {
		return err
	}
	switch held := f.holds(list); {
	case held && skipped:
		f.skipped(last)
	case held:
		f.waits(head)
	default:
		return f.ended(ctx, v, head)
	}
	return nil
}

func (f *following) skipped(last uint64) {
	f.lost("the chain's beacon skipped round %d, to which the weights committed in block %d are sealed (its last is %d), so they can never be opened", f.commit.Round, f.commit.Block, last)
}

// findEpoch reads the epoch that the commit counts to off its block. A node that has dropped that block's state leaves 0: then
// the chain's lists are looked at from now on.
func (f *following) findEpoch(ctx context.Context) error {
	v, err := f.viewOf(ctx, f.commit.Block)
	if discarded(err) {
		return nil
	}
	if err != nil {
		return err
	}
	e, err := v.epochs(ctx, f.to.NetUID)
	if discarded(err) {
		return nil
	}
	f.commit.Epoch = e.at(f.commit.Block)
	return err
}

func (f *following) viewOf(ctx context.Context, n basilica.BlockNumber) (*view, error) {
	hash, err := f.client.blockHash(ctx, n)
	if err != nil {
		return nil, err
	}
	return f.client.viewAt(ctx, hash)
}

// discarded says that a node no longer keeps the state of an old block.
func discarded(err error) bool {
	var refused *rpcError
	return errors.As(err, &refused) || basilica.CodeOf(err) == "BLOCK_UNKNOWN"
}

// sealed is what the chain holds sealed of this hotkey, in the order in which it came: for the commit's epoch where the chain
// opens it, for all epochs else.
func (f *following) sealed(ctx context.Context, v *view) ([]entry, error) {
	var p picker
	var out []entry
	if f.commit.Kind == basilica.CommitSalt {
		value, err := v.one(ctx, "WeightCommits", f.to.index(), f.who)
		if err != nil || value == nil {
			return nil, err
		}
		for _, one := range p.list("WeightCommits", value) {
			tuple := p.tuple("WeightCommits", one, 4)
			out = append(out, entry{hash: p.account("commit hash", tuple[0]), epoch: p.number("commit epoch", tuple[1])})
		}
		return out, p.err
	}
	value, err := v.one(ctx, "TimelockedWeightCommits", f.to.index(), f.commit.Epoch)
	if err != nil {
		return nil, err
	}
	for _, one := range p.list("TimelockedWeightCommits", value) {
		tuple := p.tuple("TimelockedWeightCommits", one, 4)
		if p.account("committer", tuple[0]) != f.who {
			continue
		}
		ciphertext, ok := tuple[2].([]byte)
		if !ok {
			p.fail("ciphertext", tuple[2])
		}
		out = append(out, entry{hash: pallet.Blake2b256(ciphertext), epoch: f.commit.Epoch})
	}
	return out, p.err
}

// tuple gives the parts of a tuple of n; where it is none the parts are nil.
func (p *picker) tuple(what string, v any, n int) []any {
	parts := p.list(what, v)
	if len(parts) != n {
		p.fail(what, v)
		return make([]any, n)
	}
	return parts
}

func (f *following) holds(list []entry) bool {
	return slices.ContainsFunc(list, func(e entry) bool { return e.hash == f.commit.Hash })
}

// salted follows a commit that its committer opens.
func (f *following) salted(ctx context.Context, v *view, head basilica.BlockNumber) error {
	list, err := f.sealed(ctx, v)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(e entry) bool { return e.hash == f.commit.Hash })
	if i < 0 {
		return f.ended(ctx, v, head)
	}
	f.commit.Epoch = list[i].epoch
	switch now, due := f.now.at(head+1), f.commit.Epoch+f.now.period; {
	case now < due:
		f.waits(head)
	case now == due:
		f.waits(head)
		f.commit.State = basilica.CommitDue
	default:
		f.lost("the weights committed in block %d were not revealed in their epoch, so they have expired", f.commit.Block)
	}
	return nil
}

// ended finds the block that took the commit off the chain's list, and reads there whether it took effect.
func (f *following) ended(ctx context.Context, v *view, head basilica.BlockNumber) error {
	at, gone, err := f.removal(ctx, head)
	if discarded(err) {
		return f.byRow(ctx, v, head)
	}
	if err != nil {
		return err
	}
	hash, err := f.client.blockHash(ctx, at)
	if err != nil {
		return err
	}
	events, err := f.client.eventsOf(ctx, hash)
	if discarded(err) {
		return f.byRow(ctx, v, head)
	}
	if err != nil {
		return err
	}
	opened, mine := f.reveals(events)
	switch {
	case f.commit.Kind == basilica.CommitSalt && mine, f.commit.Kind == basilica.CommitTimelock && opened > 0 && opened >= gone:
		f.revealed(at)
	case f.commit.Kind == basilica.CommitSalt && opened > 0:
		f.commit.State, f.commit.Revealed = basilica.CommitReplaced, at
	case opened == 0:
		f.lost("block %d dropped the weights committed in block %d without opening them: their round did not come in time, or the validator had no permit then", at, f.commit.Block)
	default: // some of several in one epoch were opened; the last one shows in the row
		state, err := f.client.viewAt(ctx, hash)
		if err != nil {
			return err
		}
		return f.byRow(ctx, state, at)
	}
	return nil
}

// removal is the first block at whose end the chain does not list the commit any more, and how many of the hotkey's it took
// off its list with it. A commit is listed from its block on, without a break.
func (f *following) removal(ctx context.Context, head basilica.BlockNumber) (at basilica.BlockNumber, gone int, err error) {
	low, high := max(f.commit.Block, f.commit.Seen), head
	for low+1 < high {
		middle := low + (high-low)/2
		list, err := f.sealedAt(ctx, middle)
		if err != nil {
			return 0, 0, err
		}
		if f.holds(list) {
			low = middle
		} else {
			high = middle
		}
	}
	before, err := f.sealedAt(ctx, low)
	if err != nil {
		return 0, 0, err
	}
	after, err := f.sealedAt(ctx, high)
	for _, e := range before {
		if !slices.Contains(after, e) {
			gone++
		}
	}
	return high, gone, err
}

func (f *following) sealedAt(ctx context.Context, n basilica.BlockNumber) ([]entry, error) {
	v, err := f.viewOf(ctx, n)
	if err != nil {
		return nil, err
	}
	return f.sealed(ctx, v)
}

// reveals counts the events that say of this hotkey's commits that they were opened; mine says that one names this commit.
func (f *following) reveals(events []pallet.Event) (opened int, mine bool) {
	for _, e := range events {
		var p picker
		switch {
		case e.Is("SubtensorModule", "TimelockedWeightsRevealed") && len(e.Fields) == 2:
			if p.number("index", e.Fields[0].Value) == uint64(f.to.index()) && p.account("who", e.Fields[1].Value) == f.who && p.err == nil {
				opened++
			}
		case e.Is("SubtensorModule", "WeightsRevealed") && len(e.Fields) == 3:
			if p.account("who", e.Fields[0].Value) == f.who && p.number("index", e.Fields[1].Value) == uint64(f.to.index()) && p.err == nil {
				opened++
				mine = mine || p.account("hash", e.Fields[2].Value) == f.commit.Hash
			}
		}
	}
	return opened, mine
}

// byRow judges by the weights that the chain has of the hotkey: all that is left where a node keeps no older blocks.
func (f *following) byRow(ctx context.Context, v *view, at basilica.BlockNumber) error {
	uid, err := v.one(ctx, "Uids", f.to.NetUID, f.who)
	if err != nil {
		return err
	}
	var p picker
	row := vector{}
	if uid != nil {
		value, err := v.one(ctx, "Weights", f.to.index(), p.number("uid", uid))
		if err != nil {
			return err
		}
		for _, one := range p.list("Weights", value) {
			pair := p.tuple("Weights", one, 2)
			row.uids, row.values = append(row.uids, uint16(p.number("uid", pair[0]))), append(row.values, uint16(p.number("weight", pair[1])))
		}
	}
	if p.err != nil {
		return p.err
	}
	if slices.Equal(row.uids, f.weights.uids) && slices.Equal(row.values, f.weights.values) {
		f.revealed(at)
		return nil
	}
	f.lost("the chain lists the weights committed in block %d no longer, and what it stores for %s are others", f.commit.Block, keys.EncodeSS58(f.who))
	return nil
}

// eventsOf reads the events of a block.
func (c *Client) eventsOf(ctx context.Context, hash basilica.Hash) ([]pallet.Event, error) {
	h, err := c.headerOf(ctx, hash)
	if err != nil {
		return nil, err
	}
	events, _, err := c.eventsBy(ctx, hash, h.Parent)
	return events, err
}
