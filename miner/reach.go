package miner

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// reach remembers which executors that are heard of could not be dialled.
type reach struct {
	mu    sync.Mutex
	fails map[basilica.ExecutorID]int
	why   map[basilica.ExecutorID]*basilica.Reason
}

func (r *reach) of(id basilica.ExecutorID) *basilica.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why[id]
}

// note takes one result; what failed once may be a restart.
func (r *reach) note(id basilica.ExecutorID, why *basilica.Reason) (told bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == nil {
		told = r.why[id] != nil
		delete(r.fails, id)
		delete(r.why, id)
		return told
	}
	if r.fails[id]++; r.fails[id] >= probeFailsToTell {
		told = r.why[id] == nil
		r.why[id] = why
	}
	return told
}

// probe dials every executor that is heard of, at both its addresses, again and again until ctx ends: an address that the
// miner cannot reach is one where no task arrives.
func (m *Miner) probe(ctx context.Context) error {
	for {
		members, err := m.Store.Members(ctx)
		if err != nil && ctx.Err() == nil {
			m.Log.ErrorContext(ctx, "list executors to dial", "err", err)
		}
		var g errgroup.Group
		g.SetLimit(probesAtOnce)
		for _, e := range members {
			if m.away(e) != nil {
				continue
			}
			g.Go(func() error {
				why := m.dialled(ctx, e)
				if ctx.Err() == nil && m.reach.note(e.Executor, why) {
					m.Log.WarnContext(ctx, "executor's address", "executor", e.Executor, "reachable", why == nil, "why", why)
					m.bell.ring("")
				}
				return nil
			})
		}
		_ = g.Wait() // no goroutine of it fails
		if err := rest(ctx, m.cfg.ProbeEvery); err != nil {
			return err
		}
	}
}

// dialled tries both doors; nil where both are this executor's.
func (m *Miner) dialled(ctx context.Context, e basilica.Member) *basilica.Reason {
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	if why := m.dialGRPC(ctx, e); why != nil {
		return why
	}
	return m.dialSSH(ctx, e)
}

func unreachable(e basilica.Member, door, addr, what string) *basilica.Reason {
	return &basilica.Reason{Code: "EXECUTOR_UNREACHABLE", Sentence: fmt.Sprintf("the miner cannot reach the %s door of executor %s at %s: %s", door, e.Executor, addr, what), Fix: fixReachable}
}

// dialGRPC meets the executor's gRPC door and compares its key with the one that was enrolled.
func (m *Miner) dialGRPC(ctx context.Context, e basilica.Member) *basilica.Reason {
	spki, err := m.PeerKey(ctx, e.Addr)
	if err != nil {
		return unreachable(e, "gRPC", e.Addr, causeOf(err))
	}
	if !bytes.Equal(spki, e.KeySPKI) {
		return unreachable(e, "gRPC", e.Addr, "another machine answers there")
	}
	return nil
}

// dialSSH knocks at the executor's SSH door, whose key validators compare.
func (m *Miner) dialSSH(ctx context.Context, e basilica.Member) *basilica.Reason {
	if m.Knock == nil {
		return nil
	}
	if err := m.Knock(ctx, e.SSHAddr); err != nil {
		return unreachable(e, "SSH", e.SSHAddr, causeOf(err))
	}
	return nil
}

// Reach implements basilica.Fleet: both doors are dialled at once, whatever the last round of probe found.
func (m *Miner) Reach(ctx context.Context, executor basilica.ExecutorID) (basilica.Reached, error) {
	e, err := m.Store.Member(ctx, executor)
	if err != nil {
		return basilica.Reached{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	out := basilica.Reached{Addr: e.Addr, SSHAddr: e.SSHAddr}
	var g errgroup.Group
	g.Go(func() error { out.GRPC = m.dialGRPC(ctx, e); return nil })
	g.Go(func() error { out.SSH = m.dialSSH(ctx, e); return nil })
	_ = g.Wait() // no goroutine of it fails
	out.At = m.Now()
	return out, nil
}

// causeOf is the last word of an error's chain: what the network said.
func causeOf(err error) string {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil {
			return err.Error()
		}
		err = inner.Unwrap()
	}
}
