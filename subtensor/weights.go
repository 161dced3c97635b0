package subtensor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/timelock"
	"basilica/yuma"
)

// Target is where weights go: a subnet, and one of its mechanisms.
type Target struct {
	NetUID    basilica.NetUID
	Mechanism uint8
}

// index is the number under which the chain keeps the weights of the target.
func (t Target) index() uint16 { return pallet.NetUIDIndex(uint16(t.NetUID), t.Mechanism) }

// vector is a weight vector with the version key that goes with it.
type vector struct {
	uids, values []uint16
	version      uint64
}

func newVector(weights []basilica.Weight, version uint64) vector {
	w := vector{uids: make([]uint16, len(weights)), values: make([]uint16, len(weights)), version: version}
	for i, e := range weights {
		w.uids[i], w.values[i] = uint16(e.UID), e.Value
	}
	return w
}

// upscaled is the vector as the chain stores it, the largest value being 65535. What is committed and what is revealed must be
// the same numbers, so both are these.
func (w vector) upscaled() vector {
	w.values = yuma.MaxUpscale(w.values)
	return w
}

// SetWeights submits one weight vector for a subnet's first mechanism in the way that the subnet takes: in the open, or as a
// commit that is opened later. intend sees every signed transaction before it is sent; it may be nil.
func (c *Client) SetWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error) {
	return c.SetMechanismWeights(ctx, Target{NetUID: netuid}, hotkey, weights, versionKey, intend)
}

// SetMechanismWeights is SetWeights for any mechanism of a subnet.
func (c *Client) SetMechanismWeights(ctx context.Context, to Target, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error) {
	p, err := c.PlanWeights(ctx, to, hotkey, weights, versionKey)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("set weights: %w", err)
	}
	r, err := c.submit(ctx, hotkey, "SubtensorModule", p.call, p.args, Intend(p.naming(intend)))
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("set weights: %w", err)
	}
	return r.Inclusion, nil
}

// WeightsPlan is one weight vector made ready for the chain in the way that its subnet takes.
type WeightsPlan struct {
	// Commit is what the call commits to; nil where it sets the weights in the open.
	Commit *basilica.WeightCommit
	// Reveal is the first block that can open the commit, as the subnet's epochs stand now; 0 without a commit.
	Reveal basilica.BlockNumber

	call string
	args map[string]any
}

// Call is the name of the call in pallet SubtensorModule.
func (p *WeightsPlan) Call() string { return p.call }

// naming tells intend what the transaction commits to.
func (p *WeightsPlan) naming(intend func(basilica.Signed) error) func(basilica.Signed) error {
	if intend == nil {
		return nil
	}
	return func(s basilica.Signed) error {
		s.Commit = p.Commit
		return intend(s)
	}
}

// PlanWeights picks by the subnet's hyperparameters how a weight vector is sent, and seals it where it must be: in the open,
// to a round of the chain's beacon, or behind a salt. It sends nothing.
func (c *Client) PlanWeights(ctx context.Context, to Target, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64) (*WeightsPlan, error) {
	// The last block, not the final one: the wait for the reveal is counted from it.
	var hash basilica.Hash
	if err := c.call(ctx, &hash, "chain_getBlockHash"); err != nil {
		return nil, fmt.Errorf("last block: %w", err)
	}
	head, err := c.headerOf(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("last block: %w", err)
	}
	v, err := c.viewAt(ctx, hash)
	if err != nil {
		return nil, err
	}
	values, err := v.read(ctx, subtensorItem("CommitRevealWeightsEnabled", to.NetUID), subtensorItem("CommitRevealWeightsVersion"))
	if err != nil {
		return nil, err
	}
	var p picker
	sealed, version := p.flag("CommitRevealWeightsEnabled", values[0]), p.number("CommitRevealWeightsVersion", values[1])
	if p.err != nil {
		return nil, p.err
	}
	w := newVector(weights, versionKey)
	if !sealed {
		return v.open(to, w)
	}
	e, err := v.epochs(ctx, to.NetUID)
	if err != nil {
		return nil, err
	}
	when, err := e.plan(head.Number)
	if errors.Is(err, timelock.ErrNoEpochs) {
		return nil, basilica.E(basilica.Invalid, "SUBNET_NO_EPOCHS", fmt.Sprintf("subnet %d runs no epochs, so it would never open a commit of weights", to.NetUID),
			"ask the subnet's owner to set a tempo")
	}
	if err != nil {
		return nil, err
	}
	if version == timelockVersion && v.named(to, "commit_timelocked_weights", "commit_timelocked_mechanism_weights") != "" {
		p, err := v.timelocked(ctx, to, hotkey, w.upscaled(), when, head.Number, e.Tempo)
		if p != nil || err != nil {
			return p, err
		}
		c.log.Warn("the chain's beacon is ahead of its time: weights are committed behind a salt instead", "netuid", to.NetUID)
	}
	return v.salted(to, hotkey, w.upscaled(), when)
}

// timelockVersion is the generation of timelocked commits that we make, as CommitRevealWeightsVersion counts.
const timelockVersion = 4

// named picks the call for a target: the plain one for a subnet's first mechanism, where the runtime has it. "" where it
// has none.
func (v *view) named(to Target, plain, mechanism string) string {
	switch {
	case to.Mechanism == 0 && v.rt.words.HasCall("SubtensorModule", plain):
		return plain
	case v.rt.words.HasCall("SubtensorModule", mechanism):
		return mechanism
	}
	return ""
}

// plan makes a call of its arguments, with the mechanism where the call takes one.
func (v *view) plan(to Target, plain, mechanism string, args map[string]any) (*WeightsPlan, error) {
	call := v.named(to, plain, mechanism)
	if call == "" {
		return nil, basilica.E(basilica.Invalid, "COMMIT_REVEAL", fmt.Sprintf("subnet %d takes weights in a way that its chain's runtime offers no call for that this version knows", to.NetUID),
			"install a newer version of this program")
	}
	args["netuid"] = to.NetUID
	if call == mechanism {
		args["mecid"] = to.Mechanism
	}
	return &WeightsPlan{call: call, args: args}, nil
}

// open sets weights without a commit.
func (v *view) open(to Target, w vector) (*WeightsPlan, error) {
	return v.plan(to, "set_weights", "set_mechanism_weights", map[string]any{"dests": w.uids, "weights": w.values, "version_key": w.version})
}

// timelocked seals weights to the round of the chain's beacon that comes when their epoch does, or to the first one that the
// chain can still store, where somebody has put its beacon ahead. nil where none of these comes before the epoch is over.
func (v *view) timelocked(ctx context.Context, to Target, hotkey keys.Signer, w vector, when timelock.Plan, head basilica.BlockNumber, tempo uint16) (*WeightsPlan, error) {
	beacon, now, last, err := v.beacon(ctx)
	if err != nil {
		return nil, err
	}
	pace, err := v.blockTime()
	if err != nil {
		return nil, err
	}
	key, err := timelock.ParsePublicKey(beacon.PublicKey[:])
	if err != nil {
		return nil, fmt.Errorf("the chain's beacon: %w", err)
	}
	round := max(when.Round(beacon, now, uint64(head), pace), last+1)
	over := now.Add(time.Duration(when.FirstReveal+uint64(tempo)-uint64(head)-1) * pace)
	if round > beacon.RoundAt(over) && last+1 == round {
		return nil, nil
	}
	who := hotkey.PublicKey()
	sealed, err := timelock.Encrypt(key, round, timelock.Weights{Hotkey: who[:], UIDs: w.uids, Values: w.values, VersionKey: w.version}.Encode(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("seal weights: %w", err)
	}
	p, err := v.plan(to, "commit_timelocked_weights", "commit_timelocked_mechanism_weights", map[string]any{
		"commit": sealed, "reveal_round": round, "commit_reveal_version": timelockVersion,
	})
	if err != nil {
		return nil, err
	}
	p.Reveal = basilica.BlockNumber(when.FirstReveal)
	p.Commit = &basilica.WeightCommit{Kind: basilica.CommitTimelock, Hash: pallet.Blake2b256(sealed), Round: round, VersionKey: w.version}
	return p, nil
}

// beacon reads the chain's beacon, the last of its rounds that the chain has, and the chain's own time: rounds are counted by
// that, not by this machine's clock. On finney and test the beacon is known: a node that names another one could open what is
// sealed to it at once, and the chain never.
func (v *view) beacon(ctx context.Context) (b timelock.Beacon, now time.Time, last uint64, err error) {
	values, err := v.read(ctx, item{"Drand", "BeaconConfig", nil}, item{"Timestamp", "Now", nil}, item{"Drand", "LastStoredRound", nil})
	if err != nil {
		return b, now, 0, fmt.Errorf("the chain's beacon: %w", err)
	}
	var p picker
	config, ok := values[0].(scale.Struct)
	if !ok {
		p.fail("BeaconConfig", values[0])
	}
	field := func(name string) any { f, _ := config.Get(name); return f }
	key, _ := field("public_key").([]byte)
	if len(key) != len(b.PublicKey) {
		p.fail("public_key", field("public_key"))
	}
	copy(b.PublicKey[:], key)
	b.Genesis, b.Period = int64(p.number("genesis_time", field("genesis_time"))), int64(p.number("period", field("period")))
	if p.err == nil && (b.Period < 1 || b.Period > math.MaxInt32) {
		p.fail("period", field("period"))
	}
	ms, last := p.number("Timestamp.Now", values[1]), p.number("LastStoredRound", values[2])
	if p.err != nil {
		return b, now, 0, p.err
	}
	genesis, err := v.client.Genesis(ctx)
	if err != nil {
		return b, now, 0, err
	}
	if name, known := lasting(genesis); known && b != timelock.Quicknet() {
		return b, now, 0, basilica.E(basilica.Conflict, "CHAIN_BEACON", fmt.Sprintf("the node says that the beacon of %s is not drand's quicknet, to which its weights are sealed; nothing was sent", name),
			"use another node; where all say the same, install a newer version of this program")
	}
	return b, time.UnixMilli(int64(ms)), last, nil
}

// saltLength is how many numbers of two bytes hide a commit: 256 bits.
const saltLength = 16

// salted commits to weights by their hash; who committed sends them again when their epoch has come.
func (v *view) salted(to Target, hotkey keys.Signer, w vector, when timelock.Plan) (*WeightsPlan, error) {
	var random [2 * saltLength]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	salt := make([]uint16, saltLength)
	for i := range salt {
		salt[i] = uint16(random[2*i]) | uint16(random[2*i+1])<<8
	}
	hash := saltHash(hotkey.PublicKey(), to, w, salt)
	p, err := v.plan(to, "commit_weights", "commit_mechanism_weights", map[string]any{"commit_hash": hash})
	if err != nil {
		return nil, err
	}
	p.Reveal = basilica.BlockNumber(when.FirstReveal)
	p.Commit = &basilica.WeightCommit{Kind: basilica.CommitSalt, Hash: hash, Salt: salt, VersionKey: w.version}
	return p, nil
}

// saltHash is what commit_weights commits to.
func saltHash(who [32]byte, to Target, w vector, salt []uint16) basilica.Hash {
	return pallet.CommitHash(who, to.index(), w.uids, w.values, salt, w.version)
}

// RevealWeights opens a commit of kind salt.
func (c *Client) RevealWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.Inclusion, error) {
	return c.RevealMechanismWeights(ctx, Target{NetUID: netuid}, hotkey, commit, weights)
}

// RevealMechanismWeights is RevealWeights for any mechanism of a subnet.
func (c *Client) RevealMechanismWeights(ctx context.Context, to Target, hotkey keys.Signer, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.Inclusion, error) {
	in, err := c.revealWeights(ctx, to, hotkey, commit, weights)
	if err != nil {
		return basilica.Inclusion{}, fmt.Errorf("reveal weights: %w", err)
	}
	return in, nil
}

func (c *Client) revealWeights(ctx context.Context, to Target, hotkey keys.Signer, commit basilica.WeightCommit, weights []basilica.Weight) (basilica.Inclusion, error) {
	rt, err := c.best(ctx)
	if err != nil {
		return basilica.Inclusion{}, err
	}
	w := newVector(weights, commit.VersionKey).upscaled()
	p, err := (&view{client: c, rt: rt}).plan(to, "reveal_weights", "reveal_mechanism_weights", map[string]any{
		"uids": w.uids, "values": w.values, "salt": commit.Salt, "version_key": w.version,
	})
	if err != nil {
		return basilica.Inclusion{}, err
	}
	r, err := c.submit(ctx, hotkey, "SubtensorModule", p.call, p.args)
	if err != nil {
		return basilica.Inclusion{}, err
	}
	return r.Inclusion, nil
}
