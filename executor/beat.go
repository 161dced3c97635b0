package executor

import (
	"context"
	"time"

	"basilica"
)

// beats sends a heartbeat every few seconds and obeys its answer, until ctx ends. A miner that is away changes nothing
// until the leases of its tasks run out.
func (e *Executor) beats(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.Heartbeat)
	defer tick.Stop()
	heard := true
	for {
		if err := e.beat(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if heard {
				e.cfg.Log.Warn("miner not reached by heartbeat", "err", err)
			}
			heard = false
		} else {
			if !heard {
				e.cfg.Log.Info("miner reached by heartbeat again")
			}
			heard = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (e *Executor) beat(ctx context.Context) error {
	health, err := e.Health(ctx)
	if err != nil {
		return err
	}
	sent := e.cfg.Now()
	reply, err := e.cfg.Fleet.Heartbeat(ctx, e.cfg.Executor, basilica.Heartbeat{At: sent, Health: health, Version: e.cfg.Version, GPUs: e.cfg.GPUs})
	if err != nil {
		return err
	}
	e.obey(ctx, sent, e.cfg.Now(), reply)
	return nil
}

// obey renews, cancels and revokes what the miner says.
func (e *Executor) obey(ctx context.Context, sent, received time.Time, reply basilica.HeartbeatReply) {
	// The miner's clock was read somewhere between sending and receiving.
	middle := sent.Add(received.Sub(sent) / 2)
	distance := middle.Sub(reply.At)
	var renew []uint64
	var cancel []*life
	e.mu.Lock()
	if distance.Abs() > 30*time.Second && (e.clock == nil || e.clock.Abs() <= 30*time.Second) {
		e.cfg.Log.Warn("the clocks of machine and miner differ; set both by NTP", "seconds", distance.Seconds())
	}
	e.clock = &distance
	if e.drain != reply.Drain {
		e.cfg.Log.Info("miner changed the machine's service", "drain", reply.Drain)
	}
	e.drain = reply.Drain
	for _, at := range reply.Renew {
		if l := e.live[at]; l != nil {
			renew = append(renew, l.fence)
		}
	}
	for _, at := range reply.Cancel {
		if l := e.live[at]; l != nil {
			cancel = append(cancel, l)
		}
	}
	fresh := false
	for _, grant := range reply.Revoked {
		if _, known := e.revoked[grant]; !known {
			fresh = true
			e.cfg.Log.Info("grant revoked", "grant", string(grant))
		}
		e.revoked[grant] = received
	}
	e.mu.Unlock()
	lease := min(max(reply.Lease, minLease), maxLease)
	for _, fence := range renew {
		if err := e.cfg.Ledger.Extend(ctx, fence, received.Add(lease)); err != nil && basilica.CodeOf(err) != "FENCE_STALE" {
			e.cfg.Log.Error("lease not renewed", "fence", fence, "err", err)
		}
	}
	for _, l := range cancel {
		l.stop(errCancelled)
	}
	if fresh && e.cfg.Revoked != nil {
		e.cfg.Revoked()
	}
}
