package miner

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/pki"
)

// trust is what executors are to believe now.
func (m *Miner) trust() basilica.Trust {
	return basilica.Trust{FleetCAs: m.Authority.FleetCAs(), SSHCAs: m.Authority.SSHCAKeys(), JWTKeys: m.Authority.JWTPublicKeys()}
}

// Known refuses an executor that is not enrolled (EXECUTOR_UNKNOWN) or was revoked (EXECUTOR_REVOKED), and a certificate
// that is not the one which it was given last, nor the one that it showed for that (CERTIFICATE_REPLACED).
func (m *Miner) Known(ctx context.Context, id basilica.ExecutorID, cert []byte) error {
	e, err := m.Store.Member(ctx, id)
	if err != nil {
		return err
	}
	return e.Admits(cert)
}

// Renew implements basilica.Fleet.
func (m *Miner) Renew(ctx context.Context, executor basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	spki, err := pki.CSRKey(req.CSR)
	if err != nil {
		return basilica.Renewal{}, basilica.E(basilica.Invalid, "RENEW_INVALID", "the certificate request is not valid", "use the same version of basilica on both machines").With(err)
	}
	e, err := m.Store.Member(ctx, executor)
	if err != nil {
		return basilica.Renewal{}, err
	}
	if !bytes.Equal(spki, e.KeySPKI) {
		return basilica.Renewal{}, basilica.E(basilica.Denied, "RENEW_KEY", fmt.Sprintf("executor %s was enrolled with another key", executor), "join it again with a new token: basilica token create")
	}
	rotated, err := m.rotated(e, req.Rotation)
	if err != nil {
		return basilica.Renewal{}, err
	}
	trust := m.trust() // before the certificate, as in Enroll
	cert, err := m.Authority.IssueExecutor(req.CSR, string(executor), m.Now())
	if err != nil {
		return basilica.Renewal{}, fmt.Errorf("issue certificate: %w", err)
	}
	if err := m.Store.RenewCertificate(ctx, executor, req.Certificate, cert, rotated); err != nil {
		return basilica.Renewal{}, err
	}
	m.Log.InfoContext(ctx, "certificate renewed", "executor", executor, "attestation_key_replaced", rotated != nil)
	out := basilica.Renewal{Certificate: cert, Trust: trust, Endorsement: rotated}
	if out.Endorsement == nil && req.Rotation != nil {
		out.Endorsement = &e.Endorsement // replaced already: that answer was lost
	}
	return out, nil
}

// rotated is the endorsement of the attestation key that an executor asks to have from now on; nil where it asks for none, or
// has that key already.
func (m *Miner) rotated(e basilica.Member, asked *basilica.SignedEndorsement) (*basilica.SignedEndorsement, error) {
	if asked == nil {
		return nil, nil
	}
	present, err := e.Endorsement.Open()
	if err != nil {
		return nil, fmt.Errorf("read the endorsement of %s: %w", e.Executor, err)
	}
	from, to, err := asked.Rotation()
	if err != nil {
		return nil, err
	}
	if bytes.Equal(to, present.AttestSPKI) && bytes.Equal(from, present.Replaces) {
		return nil, nil
	}
	signed, err := asked.Countersign(present, m.Hotkey, m.Now())
	if err != nil {
		return nil, err
	}
	return &signed, nil
}

// RotateKeys begins to replace the authority's keys, unless that is under way, and says where it stands.
func (m *Miner) RotateKeys(ctx context.Context) (basilica.RotationView, error) {
	if phase, _ := m.Authority.Rotation(); phase == pki.PhaseNone {
		if err := written(m.Authority.BeginRotation); err != nil {
			return basilica.RotationView{}, err
		}
		m.Log.InfoContext(ctx, "rotation of the authority's keys begun")
	}
	return m.Rotation(ctx)
}

// Rotation says where the replacement of the authority's keys stands.
func (m *Miner) Rotation(ctx context.Context) (basilica.RotationView, error) {
	phase, switched := m.Authority.Rotation()
	v := basilica.RotationView{Phase: string(phase), Waiting: []basilica.ExecutorID{}}
	if phase == pki.PhaseNone {
		return v, nil
	}
	if phase == pki.PhaseSwitched {
		at := switched.Add(pki.RotationOverlap)
		v.NextStep = &at
		return v, nil
	}
	members, err := m.Store.Members(ctx)
	if err != nil {
		return v, fmt.Errorf("list executors: %w", err)
	}
	want := m.trust().Digest()
	for _, e := range members {
		if e.Revoked == nil && e.Trust != want {
			v.Waiting = append(v.Waiting, e.Executor)
		}
	}
	return v, nil
}

// rotate takes the steps of a rotation as they fall due, until ctx ends. Where it stands is in the authority's file, so
// that a miner that was killed goes on.
func (m *Miner) rotate(ctx context.Context) error {
	for {
		if err := m.rotateStep(ctx); err != nil && ctx.Err() == nil {
			m.Log.ErrorContext(ctx, "rotate the authority's keys", "err", err)
		}
		if err := rest(ctx, m.cfg.Tick); err != nil {
			return err
		}
	}
}

func (m *Miner) rotateStep(ctx context.Context) error {
	phase, switched := m.Authority.Rotation()
	now := m.Now()
	switch phase {
	case pki.PhaseAnnounced:
		m.joining.Lock()
		defer m.joining.Unlock()
		v, err := m.Rotation(ctx)
		if err != nil || len(v.Waiting) > 0 {
			return err
		}
		// The tokens name the authority that the fleet door will show no more. They end first: after a death in between, both
		// steps are taken again.
		ended, err := m.Store.RevokeTokens(ctx, now)
		if err != nil {
			return err
		}
		if ended > 0 {
			m.Log.InfoContext(ctx, "join tokens that name the authority's old keys have ended", "tokens", ended)
		}
		if err := written(func() error { return m.Authority.SwitchRotation(now) }); err != nil {
			return err
		}
		m.Log.InfoContext(ctx, "the authority's new keys sign from now on")
	case pki.PhaseSwitched:
		// A clock that was set back does not keep the old keys for ever.
		if since := now.Sub(switched); since > -pki.RotationOverlap && since < pki.RotationOverlap {
			return nil
		}
		if err := written(m.Authority.EndRotation); err != nil {
			return err
		}
		m.Log.InfoContext(ctx, "the authority's old keys are forgotten")
	}
	return nil
}

// written takes a step of a rotation, which is on disk when it returns.
func written(step func() error) error {
	defer crashpoint.Around("miner.authority.write")()
	return step()
}

// twins tells two processes that speak under one identity apart: whoever was heard, then followed by another, and is heard
// again has a twin. A restarted executor is not heard again under its old instance.
type twins struct {
	mu sync.Mutex
	by map[basilica.ExecutorID]*speaker
}

type speaker struct {
	instance string
	last     time.Time
	before   string // the instance that instance followed

	twin     string // the second instance: refused while the first is heard
	twinFrom string
	twinAt   time.Time
}

// judge refuses the second of two (IDENTITY_TWICE).
func (w *twins) judge(id basilica.ExecutorID, beat basilica.Heartbeat, now time.Time, ttl time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.by[id]
	if s == nil {
		s = &speaker{instance: beat.Instance}
		w.by[id] = s
	}
	switch beat.Instance {
	case s.instance:
	case s.before:
		// The first speaks again: the one that followed it is the second.
		s.twin, s.twinAt, s.twinFrom = s.instance, now, "an address not yet known"
		s.instance, s.before = beat.Instance, ""
	case s.twin:
		if now.Sub(s.last).Abs() <= ttl {
			s.twinAt, s.twinFrom = now, beat.From
			return basilica.E(basilica.Conflict, "IDENTITY_TWICE", fmt.Sprintf("another machine speaks as executor %s already", id),
				"where this disk is a copy, empty the data directory and join with a token of its own; else stop the copy")
		}
		s.instance, s.before, s.twin = beat.Instance, s.instance, ""
	default:
		s.instance, s.before = beat.Instance, s.instance
	}
	s.last = now
	return nil
}

// of gives where the refused second was heard from lately; "" where there is none.
func (w *twins) of(id basilica.ExecutorID, now time.Time, ttl time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.by[id]; s != nil && s.twin != "" && now.Sub(s.twinAt).Abs() <= ttl {
		return s.twinFrom
	}
	return ""
}
