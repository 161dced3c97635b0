package miner

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"basilica"
)

// Grants keeps what each validator opened, and when.
type Grants interface {
	// AddGrant refuses a validator that has had max grants within the window that ends now.
	AddGrant(ctx context.Context, g basilica.GrantRecord, window time.Duration, max int) error
	LiveGrants(ctx context.Context) ([]basilica.GrantRecord, error)
	GrantsOf(ctx context.Context, id basilica.ExecutorID, limit int) ([]basilica.GrantRecord, error)
	RevokeGrant(ctx context.Context, id basilica.GrantID) error
}

const (
	grantLife         = 10 * time.Minute
	grantWindow       = 10 * time.Minute
	maxGrantExecutors = 256
)

// validationSubsystems is what a validator's certificate opens.
func validationSubsystems() []string { return []string{"attest", "facts", "check"} }

// fresh gives the last metagraph unless it is too old to decide by.
func (m *Miner) fresh() (*basilica.Metagraph, error) {
	graph, at := m.subnet.read()
	if graph == nil || m.Now().Sub(at) > maxSnapshotAge {
		return nil, basilica.E(basilica.Unavailable, "CHAIN_STALE", "the miner has not read the metagraph lately and cannot check permits", "come again in a minute")
	}
	return graph, nil
}

// MayValidate refuses a hotkey that is unknown, without permit or below the minimum stake on the last metagraph
// (VALIDATOR_UNKNOWN, VALIDATOR_NO_PERMIT, VALIDATOR_STAKE).
func (m *Miner) MayValidate(_ context.Context, validator basilica.Hotkey) error {
	graph, err := m.fresh()
	if err != nil {
		return err
	}
	return m.standing(graph, validator)
}

// OpenValidation implements basilica.Miner.
func (m *Miner) OpenValidation(ctx context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	graph, err := m.fresh()
	if err != nil {
		return basilica.ValidationGrant{}, err
	}
	if err := m.standing(graph, req.Validator); err != nil {
		return basilica.ValidationGrant{}, err
	}
	if len(req.Executors) > maxGrantExecutors || len(req.Holders) > maxGrantExecutors {
		return basilica.ValidationGrant{}, basilica.E(basilica.Invalid, "GRANT_SIZE", fmt.Sprintf("a grant opens at most %d executors", maxGrantExecutors), "ask for fewer at once")
	}
	members, err := m.Store.Members(ctx)
	if err != nil {
		return basilica.ValidationGrant{}, fmt.Errorf("list executors: %w", err)
	}
	now := m.Now()
	grant := basilica.ValidationGrant{ID: basilica.GrantID("g-" + randomName()), Expires: now.Add(grantLife).UTC(), Executors: []basilica.GrantedAccess{}}
	record := basilica.GrantRecord{
		ID: grant.ID, Genesis: graph.Genesis, NetUID: graph.NetUID, Validator: req.Validator, Round: req.Round, Issued: now, Expires: grant.Expires,
	}
	chosen, skipped := m.choose(members, req.Executors)
	grant.Skipped = skipped
	for _, e := range chosen {
		cert, err := m.Authority.SSHUserCertificate(req.SSHPublicKey, string(e.Executor), string(grant.ID), string(req.Validator), validationSubsystems(), now, grantLife)
		if err != nil {
			return basilica.ValidationGrant{}, basilica.E(basilica.Invalid, "SSH_KEY", "no certificate can be made for that SSH public key", "send an ephemeral Ed25519 or ECDSA key in SSH wire encoding").With(err)
		}
		grant.Executors = append(grant.Executors, basilica.GrantedAccess{Executor: e.Executor, Addr: e.SSHAddr, HostKey: e.HostKey, Certificate: cert, Endorsement: e.Endorsement, Earlier: e.Earlier})
		record.Executors = append(record.Executors, e.Executor)
	}
	if err := m.Store.AddGrant(ctx, record, grantWindow, m.cfg.MaxGrants); err != nil {
		return basilica.ValidationGrant{}, err
	}
	if grant.Occupied, err = m.occupied(ctx, req.Holders); err != nil {
		return basilica.ValidationGrant{}, err
	}
	m.Log.InfoContext(ctx, "validation opened", "grant", grant.ID, "validator", req.Validator, "round", req.Round, "executors", len(grant.Executors), "skipped", len(grant.Skipped))
	return grant, nil
}

// occupied answers for the tasks that executors were busy with, as the records have them. A task that this miner never gave to
// that executor has no answer.
func (m *Miner) occupied(ctx context.Context, asked []basilica.HolderID) ([]basilica.SignedOccupancy, error) {
	var out []basilica.SignedOccupancy
	for _, h := range asked {
		t, err := m.Store.Task(ctx, h.Task)
		if basilica.KindOf(err) == basilica.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the holder's task: %w", err)
		}
		o := basilica.Occupancy{Task: h.Task, Executor: h.Executor, State: t.State}
		switch {
		case t.Receipt != nil && t.Executor == h.Executor:
			r, _, err := t.Receipt.Open()
			if err != nil {
				return nil, fmt.Errorf("read the holder's receipt: %w", err)
			}
			sum := basilica.Digest(sha256.Sum256(t.Receipt.Payload))
			o.GPUs, o.Started, o.Ended, o.Receipt = r.GPUs, r.Started, r.Ended, &sum
		case t.Executor == h.Executor:
		case t.Refused[h.Executor] > 0:
			o.State = basilica.TaskLost // there; the task may go on elsewhere
		default:
			continue
		}
		signed, err := basilica.SignOccupancy(o, m.Hotkey)
		if err != nil {
			return nil, err
		}
		out = append(out, signed)
	}
	return out, nil
}

// choose splits the fleet, or those of it that were asked for, into what can be reached now and what cannot, and why.
func (m *Miner) choose(members []basilica.Member, asked []basilica.ExecutorID) (chosen []basilica.Member, skipped []basilica.SkippedBox) {
	known := map[basilica.ExecutorID]bool{}
	for _, e := range members {
		known[e.Executor] = true
		if len(asked) > 0 && !slices.Contains(asked, e.Executor) {
			continue
		}
		why := m.away(e)
		if why == nil && len(chosen) == maxGrantExecutors {
			why = &basilica.Reason{Code: "GRANT_SIZE", Sentence: fmt.Sprintf("a grant opens at most %d executors", maxGrantExecutors)}
		}
		if why != nil {
			skipped = append(skipped, basilica.SkippedBox{Executor: e.Executor, Reason: *why})
			continue
		}
		chosen = append(chosen, e)
	}
	for _, id := range asked {
		if !known[id] {
			skipped = append(skipped, basilica.SkippedBox{Executor: id, Reason: basilica.Reason{Code: "EXECUTOR_UNKNOWN", Sentence: fmt.Sprintf("no executor %.64q is enrolled here", id)}})
		}
	}
	return chosen, skipped
}
