package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"basilica"
)

// Miner keeps a miner's tokens, executors, tasks, grants, replays and blob owners. Every method is one transaction.
type Miner struct {
	*DB
	now func() time.Time
}

// OpenMiner opens dir/miner.sqlite. Claims on tasks that an earlier process left are given free: the directory's lock
// says that it is gone. now is the clock by which replays are forgotten.
func OpenMiner(ctx context.Context, dir string, now func() time.Time) (*Miner, error) {
	db, err := open(ctx, dir, "miner")
	if err != nil {
		return nil, err
	}
	if _, err := db.write.ExecContext(ctx, `UPDATE tasks SET worker = '', worker_until = 0 WHERE ended = 0`); err != nil {
		return nil, errors.Join(fmt.Errorf("free old claims: %w", mapped(err)), db.Close())
	}
	return &Miner{DB: db, now: now}, nil
}

// maxTokens bounds the join tokens that are neither used nor expired.
const maxTokens = 1000

// AddToken records a join token; Exhausted where too many wait to be used.
func (m *Miner) AddToken(ctx context.Context, t basilica.TokenRecord) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		var open int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM tokens WHERE used_at = 0 AND expires > $1`, micros(t.Created)).Scan(&open)
		if err != nil {
			return fmt.Errorf("count tokens: %w", err)
		}
		if open >= maxTokens {
			return basilica.E(basilica.Exhausted, "TOKENS_FULL", fmt.Sprintf("%d join tokens wait to be used", open), "use or revoke some of them; each ends by itself within its hour")
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tokens (hash, name, created, expires) VALUES ($1, $2, $3, $4)`,
			t.Hash[:], string(t.Name), micros(t.Created), micros(t.Expires))
		return err
	})
}

// Tokens lists the latest join tokens, newest first.
func (m *Miner) Tokens(ctx context.Context) ([]basilica.TokenRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT hash, name, created, expires, used_by, used_at FROM tokens ORDER BY created DESC, hash LIMIT 1000`)
	return collect(rows, err, scanToken)
}

// Token finds a join token by the hash of its secret: TOKEN_UNKNOWN, TOKEN_USED or TOKEN_EXPIRED where it cannot be
// spent at the time now.
func (m *Miner) Token(ctx context.Context, hash basilica.Digest, now time.Time) (basilica.TokenRecord, error) {
	return spendable(m.read.QueryRowContext(ctx, selectToken, hash[:]), now)
}

const selectToken = `SELECT hash, name, created, expires, used_by, used_at FROM tokens WHERE hash = $1`

func spendable(row scanner, now time.Time) (basilica.TokenRecord, error) {
	const fix = "make a new one on the miner: basilica token create"
	t, err := scanToken(row)
	if errors.Is(err, sql.ErrNoRows) {
		return t, basilica.E(basilica.Denied, "TOKEN_UNKNOWN", "the miner does not know this join token", fix)
	}
	if err != nil {
		return t, mapped(fmt.Errorf("read token: %w", err))
	}
	if t.UsedAt != nil {
		return t, basilica.E(basilica.Denied, "TOKEN_USED", fmt.Sprintf("executor %s has used this join token; it works once", t.UsedBy), fix)
	}
	if !now.Before(t.Expires) {
		return t, basilica.E(basilica.Denied, "TOKEN_EXPIRED", fmt.Sprintf("this join token ended %s ago", now.Sub(t.Expires).Round(time.Second)), fix)
	}
	return t, nil
}

func scanToken(row scanner) (t basilica.TokenRecord, err error) {
	var hash []byte
	var created, expires, used int64
	if err = row.Scan(&hash, &t.Name, &created, &expires, &t.UsedBy, &used); err != nil {
		return t, err
	}
	copy(t.Hash[:], hash)
	t.ID = t.Hash.String()[:12]
	t.Created, t.Expires, t.UsedAt = fromMicros(created), fromMicros(expires), timeOrNil(used)
	return t, nil
}

// RevokeToken ends an unused join token by its id (the first 12 hex digits of its hash).
func (m *Miner) RevokeToken(ctx context.Context, id string, now time.Time) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE tokens SET expires = $1 WHERE substr(lower(hex(hash)), 1, 12) = $2 AND used_at = 0 AND expires > $1`, micros(now), id)
		return oneRow(res, err, basilica.E(basilica.NotFound, "TOKEN_UNKNOWN", fmt.Sprintf("no unused join token %.20q", id), "find its id with basilica token list"))
	})
}

// Enroll spends a token and records the executor, or does neither. A machine whose key is enrolled under the same id is
// recorded anew; an id or a key that another has is a Conflict.
func (m *Miner) Enroll(ctx context.Context, token basilica.Digest, e basilica.Member) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		if _, err := spendable(tx.QueryRowContext(ctx, selectToken, token[:]), e.Enrolled); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE tokens SET used_by = $1, used_at = $2 WHERE hash = $3`, string(e.Executor), micros(e.Enrolled), token[:]); err != nil {
			return fmt.Errorf("spend token: %w", err)
		}
		var other string
		err := tx.QueryRowContext(ctx, `SELECT id FROM executors WHERE (id = $1) != (key_spki = $2)`, string(e.Executor), e.KeySPKI).Scan(&other)
		if err == nil {
			if other == string(e.Executor) {
				return basilica.E(basilica.Conflict, "EXECUTOR_NAME_TAKEN", fmt.Sprintf("another machine is enrolled as %s", other), "join under another name, or without one")
			}
			return basilica.E(basilica.Conflict, "EXECUTOR_KEY_KNOWN", fmt.Sprintf("this machine's key is enrolled as %s", other), "join under that name, or use a new data directory")
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("find executor: %w", err)
		}
		endorsement, facts, err := jsonPair(e.Endorsement, e.Facts)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO executors (id, addr, ssh_addr, host_key, key_spki, certificate, endorsement, facts, enrolled)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (id) DO UPDATE SET addr = $2, ssh_addr = $3, host_key = $4, certificate = $6, endorsement = $7, facts = $8, enrolled = $9`,
			string(e.Executor), e.Addr, e.SSHAddr, e.HostKey, e.KeySPKI, e.Certificate, endorsement, facts, micros(e.Enrolled))
		if err != nil {
			return fmt.Errorf("record executor: %w", err)
		}
		return nil
	})
}

const memberColumns = `id, addr, ssh_addr, host_key, key_spki, certificate, endorsement, facts, enrolled, drain, beat_at, beat_clock, beat_version, beat_health`

// Members lists all enrolled executors by id.
func (m *Miner) Members(ctx context.Context) ([]basilica.Member, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT `+memberColumns+` FROM executors ORDER BY id`)
	return collect(rows, err, scanMember)
}

// Member reads one executor; NotFound (EXECUTOR_UNKNOWN) where it is not enrolled.
func (m *Miner) Member(ctx context.Context, id basilica.ExecutorID) (basilica.Member, error) {
	e, err := scanMember(m.read.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE id = $1`, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return e, unknownExecutor(id)
	}
	return e, mapped(err)
}

// MemberByKey finds the executor with that DER SubjectPublicKeyInfo; false where there is none.
func (m *Miner) MemberByKey(ctx context.Context, spki []byte) (basilica.Member, bool, error) {
	e, err := scanMember(m.read.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE key_spki = $1`, spki))
	if errors.Is(err, sql.ErrNoRows) {
		return e, false, nil
	}
	return e, err == nil, mapped(err)
}

func unknownExecutor(id basilica.ExecutorID) error {
	return basilica.E(basilica.NotFound, "EXECUTOR_UNKNOWN", fmt.Sprintf("no executor %.64q is enrolled here", id), "see basilica fleet ls")
}

func scanMember(row scanner) (e basilica.Member, err error) {
	var endorsement, facts, health, version string
	var enrolled, at, clock int64
	if err = row.Scan(&e.Executor, &e.Addr, &e.SSHAddr, &e.HostKey, &e.KeySPKI, &e.Certificate, &endorsement, &facts, &enrolled,
		&e.Drain, &at, &clock, &version, &health); err != nil {
		return e, err
	}
	e.Enrolled = fromMicros(enrolled)
	err = errors.Join(json.Unmarshal([]byte(endorsement), &e.Endorsement), json.Unmarshal([]byte(facts), &e.Facts))
	if at != 0 {
		e.LastBeat = &basilica.LastBeat{At: fromMicros(at), Clock: time.Duration(clock), Version: version}
		err = errors.Join(err, json.Unmarshal([]byte(health), &e.LastBeat.Health))
	}
	if err != nil {
		return e, fmt.Errorf("stored executor %s: %w", e.Executor, err)
	}
	return e, nil
}

// Beat records an executor's heartbeat with the GPUs that it names, renews the leases of its tasks until leaseUntil and
// says what it is to be told: renewals, cancels, revoked grants, drain.
func (m *Miner) Beat(ctx context.Context, id basilica.ExecutorID, beat basilica.LastBeat, gpus []basilica.GPU, leaseUntil time.Time) (reply basilica.HeartbeatReply, err error) {
	health, devices, err := jsonPair(beat.Health, gpus)
	if err != nil {
		return reply, err
	}
	err = m.tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE executors SET beat_at = $1, beat_clock = $2, beat_version = $3, beat_health = $4,
			facts = json_set(facts, '$.gpus', json($5)) WHERE id = $6 RETURNING drain`,
			micros(beat.At), int64(beat.Clock), beat.Version, health, devices, string(id)).Scan(&reply.Drain)
		if errors.Is(err, sql.ErrNoRows) {
			return unknownExecutor(id)
		}
		if err != nil {
			return fmt.Errorf("record heartbeat: %w", err)
		}
		rows, err := tx.QueryContext(ctx, `UPDATE tasks SET lease_until = $1 WHERE executor = $2 AND accepted = 1 AND ended = 0 RETURNING id, attempt`, micros(leaseUntil), string(id))
		if reply.Renew, err = collect(rows, err, scanTaskAttempt); err != nil {
			return fmt.Errorf("renew leases: %w", err)
		}
		rows, err = tx.QueryContext(ctx, `SELECT id, attempt FROM tasks WHERE executor = $1 AND accepted = 1 AND ended = 0 AND cancel = 1
			UNION SELECT task, attempt FROM attempts WHERE executor = $1 AND outcome = 'abandoned' AND released = 0`, string(id))
		if reply.Cancel, err = collect(rows, err, scanTaskAttempt); err != nil {
			return fmt.Errorf("list cancels: %w", err)
		}
		rows, err = tx.QueryContext(ctx, `SELECT g.id FROM grants g JOIN grant_executors e ON e.grant_id = g.id
			WHERE e.executor = $1 AND g.revoked = 1 AND g.expires > $2`, string(id), micros(beat.At))
		reply.Revoked, err = collect(rows, err, func(row scanner) (g basilica.GrantID, err error) { return g, row.Scan(&g) })
		if err != nil {
			return fmt.Errorf("list revoked grants: %w", err)
		}
		return nil
	})
	return reply, err
}

func scanTaskAttempt(row scanner) (a basilica.TaskAttempt, err error) {
	return a, row.Scan(&a.Task, &a.Attempt)
}

// SetDrain says whether an executor takes new tasks.
func (m *Miner) SetDrain(ctx context.Context, id basilica.ExecutorID, drain bool) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE executors SET drain = $1 WHERE id = $2`, drain, string(id))
		return oneRow(res, err, unknownExecutor(id))
	})
}

// scanner is a row, one or one of many.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows of a query through scan and closes them.
func collect[T any](rows *sql.Rows, err error, scan func(scanner) (T, error)) ([]T, error) {
	if err != nil {
		return nil, mapped(err)
	}
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		all = append(all, v)
	}
	return all, mapped(errors.Join(rows.Err(), rows.Close()))
}

// oneRow gives none where a statement changed no row.
func oneRow(res sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return none
	}
	return nil
}

func jsonPair(a, b any) (string, string, error) {
	one, err := json.Marshal(a)
	two, err2 := json.Marshal(b)
	return string(one), string(two), errors.Join(err, err2)
}

func timeOrNil(us int64) *time.Time {
	if us == 0 {
		return nil
	}
	t := fromMicros(us)
	return &t
}
