// Package localnet is the embedded development chain: it keeps a subtensor-like state under real storage keys, checks
// real signed extrinsics and makes blocks by the rules of spec 425. It refuses to know how clients reach it.
package localnet

import (
	"context"
	"crypto/mlkem"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// keptStates is for how many blocks state, headers and extrinsics can be read.
const keptStates = 4096

// Chain is the development chain. Its methods are safe for concurrent use.
type Chain struct {
	config Config
	rt     *runtime
	log    *slog.Logger
	author account
	signer *keys.Pair // the author's

	mu      sync.RWMutex
	state   *history
	hashes  hashLine
	blocks  map[uint64]block // the last keptStates
	pool    *pool
	grown   chan struct{} // closed and replaced when a block is sealed
	journal *journal      // nil without a file

	beacon     beacon
	pulsesHeld bool
	bare       []*bareExtrinsic
	shieldKeys map[uint64]*mlkem.DecapsulationKey768 // by the block that announced them
	carriers   [][]byte                              // ciphertexts of the head
	runtimes   []dated                               // oldest first; the last is rt
	coming     *dated                                // the runtime that the next block begins with
	unfinal    []settling
	forks      uint64 // reorganisations so far
	delay      uint64
}

// dated is a runtime and the first block that it makes.
type dated struct {
	from uint64
	rt   *runtime
}

// block is one sealed block; extrinsics have their length prefixes.
type block struct {
	header     pallet.Header
	extrinsics [][]byte
}

// New makes a chain with its genesis, or continues the one in cfg.Path. It seals nothing by itself: see Run and Seal.
// Close releases the file.
func New(cfg Config) (*Chain, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	rt, err := newRuntime(uint64(cfg.BlockTime / time.Millisecond))
	if err != nil {
		return nil, err
	}
	signer, err := keys.FromURI(keys.Sr25519, "//One")
	if err != nil {
		return nil, err
	}
	c := &Chain{
		config: cfg, rt: rt, log: cfg.Log, author: signer.PublicKey(), signer: signer,
		state: newHistory(0), blocks: map[uint64]block{}, shieldKeys: map[uint64]*mlkem.DecapsulationKey768{},
		pool: newPool(), grown: make(chan struct{}), runtimes: []dated{{0, rt}},
	}
	if cfg.Path != "" {
		restored, err := c.open(cfg.Path)
		if err != nil {
			return nil, err
		}
		if restored && cfg.Genesis != nil {
			err := basilica.E(basilica.Conflict, "GENESIS_CHAIN_EXISTS", cfg.Path+" keeps a chain already, which has a genesis",
				"leave --genesis out to go on with it, or choose another data directory")
			return nil, errors.Join(err, c.Close())
		}
		if restored {
			if !rt.subnets.networksAdded.get(past{c.state, c.head()}, cfg.NetUID) {
				err := basilica.E(basilica.Invalid, "LOCALNET_FILE", fmt.Sprintf("%s keeps a chain without subnet %d", cfg.Path, cfg.NetUID),
					"name a subnet that it has by --netuid, or choose another data directory")
				return nil, errors.Join(err, c.Close())
			}
			if err := c.resume(); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil
		}
	}
	genesis, err := cfg.genesisOf()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	changes, header := rt.genesis(cfg, genesis)
	if err := c.adopt(0, block{header: header}, changes); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if c.beacon, err = c.beaconOf(past{c.state, 0}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// resume finds again what a chain from a file goes on with beside its state: the runtime that it was upgraded to, the
// beacon, and what the head's carriers hold.
func (c *Chain) resume() (err error) {
	if err := c.recallUpgrades(); err != nil {
		return err
	}
	if c.beacon, err = c.beaconOf(past{c.state, c.head()}); err != nil {
		return err
	}
	c.recallCarriers()
	return nil
}

// Run seals a block at every BlockTime until ctx ends; it returns nil then, or the failure that stopped it.
func (c *Chain) Run(ctx context.Context) error {
	ticker := time.NewTicker(c.config.BlockTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if _, err := c.Seal(); err != nil {
				return fmt.Errorf("seal a block: %w", err)
			}
		}
	}
}

// Close writes what is left to the file and releases it. The chain can still be read.
func (c *Chain) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.journal == nil {
		return nil
	}
	err := c.journal.close()
	c.journal = nil
	return err
}

// adopt makes a block the head: state, index, file.
func (c *Chain) adopt(number uint64, b block, changes map[string][]byte) error {
	hash := basilica.Hash(b.header.Hash())
	if c.journal != nil {
		if err := c.journal.append(number, b, changes); err != nil {
			return err
		}
	}
	c.state.apply(number, changes)
	c.index(number, hash, b)
	if number > keptStates {
		c.state.forget(number - keptStates)
	}
	if c.journal != nil && c.journal.blocks > 3*keptStates {
		return c.compact()
	}
	return nil
}

func (c *Chain) index(number uint64, hash basilica.Hash, b block) {
	c.hashes.push(hash)
	c.blocks[number] = b
	if number >= keptStates {
		delete(c.blocks, number-keptStates)
	}
}

func (c *Chain) head() uint64 { return c.hashes.next() - 1 }

// hash is that of a block that is still known.
func (c *Chain) hash(number uint64) basilica.Hash {
	h, known := c.hashes.at(number)
	if !known {
		panic(fmt.Sprintf("localnet: the hash of block %d is gone", number))
	}
	return h
}

// next begins the block after the head: what the runtime's initialisation stores.
func (c *Chain) next() *execution {
	head := c.head()
	x := &execution{overlay: newOverlay(past{c.state, head}), rt: c.rt, block: head + 1, author: c.author, phase: phaseInitialization}
	s := c.rt.system
	s.number.set(x, uint32(x.block))
	s.parentHash.set(x, account(c.hash(head)))
	s.blockHash.set(x, uint32(head), account(c.hash(head)))
	if head >= blockHashCount {
		s.blockHash.del(x, uint32(head-blockHashCount))
	}
	return x
}

// Seal makes the next block from the pool and returns its header. Extrinsics see ready, inBlock and finalized in this
// order; the block is readable when inBlock is said.
func (c *Chain) Seal() (basilica.Header, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	upgraded := c.takeUpgrade()
	x := c.next()
	slot := uint64(c.config.BlockTime / time.Millisecond)
	now := max(uint64(c.config.Clock().UnixMilli()), c.rt.time.now.get(x)+slot)
	digest := [][]byte{preRuntime(now / slot)}
	if upgraded {
		digest = append(digest, []byte{runtimeUpdated})
		c.rt.migrate(x)
	}
	if c.forks > 0 {
		digest = append(digest, scale.AppendBytes([]byte{0}, u64(c.forks))) // or the same block would come again
	}
	c.rt.system.digest.set(x, digest)
	c.rt.aura.currentSlot.set(x, now/slot)
	if err := c.rt.beginBlock(x); err != nil {
		return basilica.Header{}, err
	}
	b := block{}
	if err := c.applyInherents(x, &b, now); err != nil {
		return basilica.Header{}, err
	}
	c.openShielded(x)
	included, dropped := c.pool.pick(x, func(ext *extrinsic) {
		x.apply(uint32(len(b.extrinsics)), ext)
		b.extrinsics = append(b.extrinsics, ext.raw)
		if ext.call.sealed != nil {
			c.carriers = append(c.carriers, *ext.call.sealed)
		}
	})
	x.phase = phaseFinalization
	c.rt.system.events.set(x, x.events)
	c.rt.system.eventCount.set(x, uint32(len(x.events)))
	parent := c.hash(c.head())
	b.header = pallet.Header{
		Parent: parent, Number: x.block, StateRoot: stateRoot(parent, x.changes()),
		ExtrinsicsRoot: extrinsicsRoot(b.extrinsics), Digest: digest,
	}
	if err := c.adopt(x.block, b, x.changes()); err != nil {
		return basilica.Header{}, err
	}
	hash := c.hash(x.block)
	for _, t := range dropped {
		t.tell("invalid", basilica.Hash{})
	}
	for _, t := range included {
		t.tell("inBlock", hash)
		c.unfinal = append(c.unfinal, settling{t, x.block, hash})
	}
	c.finalize()
	close(c.grown)
	c.grown = make(chan struct{})
	c.pool.promote(c.next())
	c.log.Debug("block sealed", "block", x.block, "hash", hash, "extrinsics", len(b.extrinsics))
	return basilica.Header{Number: basilica.BlockNumber(x.block), Hash: hash, Parent: parent}, nil
}

func preRuntime(slot uint64) []byte {
	return scale.AppendBytes(append([]byte{6}, "aura"...), u64(slot))
}

func extrinsicsRoot(extrinsics [][]byte) [32]byte {
	b := scale.AppendCompact(nil, uint64(len(extrinsics)))
	for _, e := range extrinsics {
		b = scale.AppendBytes(b, e)
	}
	return pallet.Blake2b256(b)
}

// Genesis is the hash of block 0.
func (c *Chain) Genesis() basilica.Hash {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.hashes.genesis
}

// Head is the last block, which is final unless the chain was told to finalize later.
func (c *Chain) Head() basilica.Header {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.headerAt(c.head())
}

func (c *Chain) headerAt(number uint64) basilica.Header {
	h := basilica.Header{Number: basilica.BlockNumber(number), Hash: c.hash(number)}
	if number > 0 {
		h.Parent = c.hash(number - 1)
	}
	return h
}

// NextHead waits for the block after number and returns it: nobody who asks with the last one seen misses a block.
func (c *Chain) NextHead(ctx context.Context, after basilica.BlockNumber) (basilica.Header, error) {
	return c.passed(ctx, after, c.head)
}

// passed waits until last, which is read with the lock held, has passed a block.
func (c *Chain) passed(ctx context.Context, after basilica.BlockNumber, last func() uint64) (basilica.Header, error) {
	for {
		c.mu.RLock()
		if uint64(after) < last() {
			defer c.mu.RUnlock()
			return c.headerAt(uint64(after) + 1), nil
		}
		grown := c.grown
		c.mu.RUnlock()
		select {
		case <-ctx.Done():
			return basilica.Header{}, ctx.Err()
		case <-grown:
		}
	}
}

// BlockHash is the hash of a block by its number, as long as it is kept; that of block 0 always is.
func (c *Chain) BlockHash(number basilica.BlockNumber) (basilica.Hash, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.hashes.at(uint64(number))
}

// Block is a block's header and its extrinsics with their length prefixes, as long as they are kept.
func (c *Chain) Block(at basilica.Hash) (header pallet.Header, extrinsics [][]byte, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	number, known := c.hashes.number(at)
	if !known {
		return pallet.Header{}, nil, false
	}
	b, kept := c.blocks[number]
	return b.header, b.extrinsics, kept
}

// at finds the state after a block; c.mu is held.
func (c *Chain) at(hash basilica.Hash) (past, error) {
	number, known := c.hashes.number(hash)
	if !known {
		return past{}, &Rejection{4003, "Client error: UnknownBlock: Header was not found in the database: " + hash.String(), ""}
	}
	if number < c.state.oldest {
		return past{}, &Rejection{4003, "Client error: Api called for an unknown Block: State already discarded for " + hash.String(), ""}
	}
	return past{c.state, number}, nil
}

// Storage reads one key of the state after a block.
func (c *Chain) Storage(at basilica.Hash, key []byte) (value []byte, found bool, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	view, err := c.at(at)
	if err != nil {
		return nil, false, err
	}
	value, found = view.get(string(key))
	return value, found, nil
}

// StorageKeys lists keys under prefix strictly after start, in order, at most limit.
func (c *Chain) StorageKeys(at basilica.Hash, prefix, start []byte, limit int) ([][]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	view, err := c.at(at)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, k := range c.state.list(view.block, string(prefix), string(start), max(limit, 0)) {
		out = append(out, []byte(k))
	}
	return out, nil
}

// CallAPI answers a runtime API call, "<Trait>_<method>" with SCALE arguments, on the state after a block.
func (c *Chain) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	view, err := c.at(at)
	if err != nil {
		return nil, err
	}
	return c.runtimeAt(view.block).callAPI(view, method, args)
}

// Submit puts a signed extrinsic into the pool and returns its hash; the error is a *Rejection. status, which may be
// nil, hears "future", "ready", "inBlock", "finalized", "invalid", "usurped" or "dropped", with the block where there
// is one; it must return at once and not call the chain.
func (c *Chain) Submit(raw []byte, status func(state string, block basilica.Hash)) (basilica.Hash, error) {
	if len(raw) > maxExtrinsic {
		return basilica.Hash{}, invalid("Transaction would exhaust the block limits")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.next()
	if bare, err := c.rt.decodeBare(append([]byte{}, raw...)); bare != nil || err != nil {
		if err == nil {
			err = c.addBare(x, bare)
		}
		return bare.id(), err
	}
	ext, err := c.rt.decodeExtrinsic(append([]byte{}, raw...))
	if err != nil {
		return basilica.Hash{}, err
	}
	if err := c.rt.verify(ext, x, x.block, c.hashes.genesis); err != nil {
		return basilica.Hash{}, err
	}
	return basilica.Hash(ext.hash), c.pool.add(x, ext, status, x.block+c.delay)
}

// Pending is every extrinsic in the pool.
func (c *Chain) Pending() [][]byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.pool.pending()
}

// NextIndex is the nonce that an account's next extrinsic needs, counting what is ready in the pool.
func (c *Chain) NextIndex(who [32]byte) uint32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.pool.nextIndex(account(who), c.rt.system.account.get(past{c.state, c.head()}, account(who)).nonce)
}
