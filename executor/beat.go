package executor

import (
	"context"
	"time"

	"basilica"
)

// beats sends a heartbeat every few seconds and obeys its answer, until ctx ends. A miner that is away changes nothing
// until the leases of its tasks run out; one that has revoked this machine ends it.
func (e *Executor) beats(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.Heartbeat)
	defer tick.Stop()
	for {
		err := e.beat(ctx)
		if ctx.Err() != nil {
			return nil
		}
		e.mu.Lock()
		last := e.unheard
		e.unheard = err
		e.mu.Unlock()
		switch {
		case basilica.CodeOf(err) == "EXECUTOR_REVOKED":
			e.cfg.Log.Error("this machine was revoked", "err", err)
			return err
		case err != nil && (last == nil || basilica.CodeOf(last) != basilica.CodeOf(err)):
			e.cfg.Log.Warn("miner not reached by heartbeat; it is tried again", "err", err, "fix", basilica.FixOf(err))
		case err == nil && last != nil:
			e.cfg.Log.Info("miner reached by heartbeat again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.cfg.Wake:
		}
	}
}

// Unheard says why the last heartbeat was not answered; nil where it was.
func (e *Executor) Unheard() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unheard
}

func (e *Executor) beat(ctx context.Context) error {
	health, err := e.Health(ctx)
	if err != nil {
		return err
	}
	sent := e.cfg.Now()
	reply, err := e.cfg.Fleet.Heartbeat(ctx, e.cfg.Executor, basilica.Heartbeat{
		At: sent, Health: health, Version: e.cfg.Version, GPUs: e.cfg.GPUs, Instance: e.instance, Trust: e.cfg.Identity.Trust(),
	})
	if basilica.CodeOf(err) == "CERTIFICATE_EARLY" {
		// A clock was ahead when it was made and has been set back since.
		return e.renew(ctx, "the miner says that it begins in the future")
	}
	if err != nil {
		return err
	}
	e.obey(ctx, sent, e.cfg.Now(), reply)
	if why := renewalDue(e.cfg.Identity, reply.Trust, e.cfg.Now()); why != "" {
		if err := e.renew(ctx, why); err != nil {
			e.cfg.Log.Warn("certificate not renewed yet", "err", err, "fix", basilica.FixOf(err))
		}
	}
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
	var fresh []basilica.GrantID
	for _, grant := range reply.Revoked {
		if _, known := e.revoked[grant]; !known {
			fresh = append(fresh, grant)
			e.cfg.Log.Info("grant revoked", "grant", string(grant))
		}
		e.revoked[grant] = received
	}
	e.mu.Unlock()
	lease := min(max(reply.Lease, minLease), maxLease)
	for _, fence := range renew {
		if err := e.cfg.Ledger.Extend(ctx, fence, e.ledgerNow().Add(lease)); err != nil && basilica.CodeOf(err) != "FENCE_STALE" {
			e.cfg.Log.Error("lease not renewed", "fence", fence, "err", err)
		}
	}
	for _, l := range cancel {
		l.stop(errCancelled)
	}
	if len(fresh) == 0 {
		return
	}
	if e.cfg.Revoked != nil {
		e.cfg.Revoked()
	}
	// On record, so that they stay refused when this process has ended, also one that is asked to end just now.
	if err := e.cfg.Marks.RevokeGrants(context.WithoutCancel(ctx), fresh, received); err != nil {
		e.cfg.Log.Error("revoked grants not recorded", "err", err)
	}
}
