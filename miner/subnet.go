package miner

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"basilica"
	"basilica/keys"
)

// Chain is the node as a miner needs it.
type Chain interface {
	WatchHeads(ctx context.Context, f func(basilica.Header) error) error
	Metagraph(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error)
	// LastMetagraph is the one that was read last, also by the process before this one, and when.
	LastMetagraph(netuid basilica.NetUID) (*basilica.Metagraph, time.Time, error)
	ServeAxon(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, axon basilica.Axon) (basilica.Inclusion, error)
}

// maxSnapshotAge is how old a metagraph may be to decide about anybody's access.
const maxSnapshotAge = 5 * time.Minute

// subnet holds the last metagraph that was read.
type subnet struct {
	mu   sync.Mutex // guards the rest
	last *basilica.Metagraph
	at   time.Time
}

func (s *subnet) read() (*basilica.Metagraph, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.at
}

func (s *subnet) write(g *basilica.Metagraph, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.at = g, at
}

func (m *Miner) notRegistered() error {
	return basilica.E(basilica.Denied, "MINER_NOT_REGISTERED", fmt.Sprintf("hotkey %s is not registered on subnet %d", m.self, m.cfg.NetUID),
		fmt.Sprintf("register it: basilica subnet register --netuid %d", m.cfg.NetUID))
}

// join reads the metagraph, waiting for a chain that is away, and refuses to go on without a registration.
func (m *Miner) join(ctx context.Context) error {
	for {
		graph, err := m.refresh(ctx)
		if err == nil {
			n, ok := graph.ByHotkey(m.self)
			if !ok {
				return m.notRegistered()
			}
			m.Log.InfoContext(ctx, "registered", "hotkey", m.self, "netuid", m.cfg.NetUID, "uid", n.UID, "block", graph.Block)
			return nil
		}
		if ctx.Err() != nil { // who stops a miner that waits is not told that the chain is away
			return ctx.Err()
		}
		if basilica.KindOf(err) != basilica.Unavailable {
			return err
		}
		m.Log.WarnContext(ctx, "the chain is away", "err", err)
		m.recall(ctx)
		if err := rest(ctx, m.cfg.RefreshEvery); err != nil {
			return err
		}
	}
}

// recall takes the metagraph that the last process read, for as long as it is young enough to decide about anybody's access.
func (m *Miner) recall(ctx context.Context) {
	if last, _ := m.subnet.read(); last != nil {
		return
	}
	graph, at, err := m.Chain.LastMetagraph(m.cfg.NetUID)
	if err != nil {
		m.Log.DebugContext(ctx, "no metagraph is kept", "err", err)
		return
	}
	age := m.Now().Sub(at)
	if age < 0 || age > maxSnapshotAge {
		return
	}
	m.Log.InfoContext(ctx, "going by the metagraph that was read before the restart", "block", graph.Block, "age_seconds", int(age.Seconds()))
	m.subnet.write(graph, at)
}

func (m *Miner) refresh(ctx context.Context) (*basilica.Metagraph, error) {
	graph, err := m.Chain.Metagraph(ctx, m.cfg.NetUID)
	if err != nil {
		return nil, fmt.Errorf("fetch metagraph: %w", err)
	}
	m.subnet.write(graph, m.Now())
	return graph, nil
}

// followChain reads the metagraph again as blocks come, publishes the axon where the chain names another, and ends the
// grants of validators that lost their standing.
func (m *Miner) followChain(ctx context.Context) error {
	var read, failed time.Time
	for {
		err := m.Chain.WatchHeads(ctx, func(basilica.Header) error {
			now := m.Now()
			if now.Sub(read) < m.cfg.RefreshEvery && now.After(read) {
				return nil
			}
			graph, err := m.refresh(ctx)
			if err != nil {
				return err
			}
			read = now
			if err := m.revokeFallen(ctx, graph); err != nil { // first: publishing waits for a block
				return err
			}
			if n, ok := graph.ByHotkey(m.self); ok && !m.published(n.Axon) && (failed.IsZero() || now.Sub(failed) >= m.cfg.PublishAgain) {
				failed = time.Time{}
				if err := m.publish(ctx); err != nil {
					failed = now
					m.Log.WarnContext(ctx, "the axon was not published", "err", err, "fix", basilica.FixOf(err))
				}
			}
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.Log.WarnContext(ctx, "the chain is away", "err", err)
		if err := rest(ctx, m.cfg.RefreshEvery); err != nil {
			return err
		}
	}
}

// published says whether a is what this miner serves.
func (m *Miner) published(a basilica.Axon) bool {
	want := m.serves.now()
	return a.Addr == want.Addr && a.Protocol == want.Protocol && bytes.Equal(a.TLSKey, want.TLSKey)
}

func (m *Miner) publish(ctx context.Context) error {
	axon := m.serves.now()
	in, err := m.Chain.ServeAxon(ctx, m.cfg.NetUID, m.Hotkey, axon)
	if err != nil {
		return fmt.Errorf("publish axon: %w", err)
	}
	m.Log.InfoContext(ctx, "axon published", "addr", axon.Addr, "block", in.Block)
	return nil
}

// revokeFallen ends the live grants of validators that the given metagraph would refuse.
func (m *Miner) revokeFallen(ctx context.Context, graph *basilica.Metagraph) error {
	live, err := m.Store.LiveGrants(ctx)
	if err != nil {
		return fmt.Errorf("list grants: %w", err)
	}
	for _, g := range live {
		if g.Genesis != graph.Genesis || m.standing(graph, g.Validator) == nil {
			continue
		}
		if err := m.Store.RevokeGrant(ctx, g.ID); err != nil {
			return fmt.Errorf("revoke grant: %w", err)
		}
		m.Log.InfoContext(ctx, "grant revoked", "grant", g.ID, "validator", g.Validator)
	}
	return nil
}

// standing refuses a validator that is unknown, without permit or below the miner's minimum stake.
func (m *Miner) standing(graph *basilica.Metagraph, validator basilica.Hotkey) error {
	n, ok := graph.ByHotkey(validator)
	switch {
	case !ok:
		return basilica.E(basilica.Denied, "VALIDATOR_UNKNOWN", fmt.Sprintf("hotkey %.64q is not registered on subnet %d", validator, graph.NetUID),
			fmt.Sprintf("register it: basilica subnet register --netuid %d", graph.NetUID))
	case !n.ValidatorPermit:
		return basilica.E(basilica.Denied, "VALIDATOR_NO_PERMIT", fmt.Sprintf("hotkey %s (uid %d) has no validator permit on subnet %d at block %d", validator, n.UID, graph.NetUID, graph.Block),
			"stake more on it; permits are given at the end of an epoch")
	case n.Stake < m.cfg.MinStake:
		return basilica.E(basilica.Denied, "VALIDATOR_STAKE", fmt.Sprintf("hotkey %s has %d rao of stake, this miner asks for %d", validator, n.Stake, m.cfg.MinStake), "stake more on it")
	}
	return nil
}
