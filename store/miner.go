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
	clock *runClock
}

// OpenMiner opens dir/miner.sqlite. Claims on tasks that an earlier process left are given free: the directory's lock
// says that it is gone. now is the machine's clock; what lasts for a while goes by the database's own (runClock).
func OpenMiner(ctx context.Context, dir string, now func() time.Time) (*Miner, error) {
	db, err := open(ctx, dir, "miner")
	if err != nil {
		return nil, err
	}
	clock, err := openRunClock(ctx, db.write, now)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err := db.write.ExecContext(ctx, `UPDATE tasks SET worker = '', worker_until = 0 WHERE ended = 0`); err != nil {
		return nil, errors.Join(fmt.Errorf("free old claims: %w", mapped(err)), db.Close())
	}
	return &Miner{DB: db, clock: clock}, nil
}

// Bounds of join tokens: how many may wait to be used, and how long one that ended is shown.
const (
	maxTokens  = 1000
	tokensKept = 30 * 24 * time.Hour
)

// AddToken records a join token that lives from its creation to its expiry; Exhausted where too many wait to be used.
func (m *Miner) AddToken(ctx context.Context, t basilica.TokenRecord) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE ends < $1`, now-tokensKept.Microseconds()); err != nil {
			return fmt.Errorf("forget old tokens: %w", err)
		}
		var open int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM tokens WHERE used_at = 0 AND ends > $1`, now).Scan(&open); err != nil {
			return fmt.Errorf("count tokens: %w", err)
		}
		if open >= maxTokens {
			return basilica.E(basilica.Exhausted, "TOKENS_FULL", fmt.Sprintf("%d join tokens wait to be used", open), "use or revoke some of them; each ends by itself within its hour")
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tokens (hash, name, created, expires, ends) VALUES ($1, $2, $3, $4, $5)`,
			t.Hash[:], string(t.Name), micros(t.Created), micros(t.Expires), now+t.Expires.Sub(t.Created).Microseconds())
		return err
	})
}

// Tokens lists the latest join tokens, newest first.
func (m *Miner) Tokens(ctx context.Context) ([]basilica.TokenRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT hash, name, created, expires, used_by, used_at FROM tokens ORDER BY created DESC, hash LIMIT 1000`)
	return collect(rows, err, scanToken)
}

// Token finds a join token by the hash of its secret: TOKEN_UNKNOWN, TOKEN_USED or TOKEN_EXPIRED where it cannot be
// spent now.
func (m *Miner) Token(ctx context.Context, hash basilica.Digest) (basilica.TokenRecord, error) {
	return m.spendable(m.read.QueryRowContext(ctx, selectToken, hash[:]))
}

const selectToken = `SELECT hash, name, created, expires, used_by, used_at, ends FROM tokens WHERE hash = $1`

func (m *Miner) spendable(row scanner) (basilica.TokenRecord, error) {
	const fix = "make a new one on the miner: basilica token create"
	var ends int64
	t, err := scanToken(withLast{row, &ends})
	if errors.Is(err, sql.ErrNoRows) {
		return t, basilica.E(basilica.Denied, "TOKEN_UNKNOWN", "the miner does not know this join token", fix)
	}
	if err != nil {
		return t, mapped(fmt.Errorf("read token: %w", err))
	}
	if t.UsedAt != nil {
		return t, basilica.E(basilica.Denied, "TOKEN_USED", fmt.Sprintf("executor %s has used this join token; it works once", t.UsedBy), fix)
	}
	if left := m.clock.left(ends); left <= 0 {
		return t, basilica.E(basilica.Denied, "TOKEN_EXPIRED", fmt.Sprintf("this join token ended %s ago", (-left).Round(time.Second)), fix)
	}
	return t, nil
}

// withLast scans one more column than its reader knows of.
type withLast struct {
	scanner
	last any
}

func (w withLast) Scan(dest ...any) error { return w.scanner.Scan(append(dest, w.last)...) }

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
	return m.durable(ctx, func(tx *sql.Tx) error {
		at, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE tokens SET expires = $1, ends = $2 WHERE substr(lower(hex(hash)), 1, 12) = $3 AND used_at = 0 AND ends > $2`, micros(now), at, id)
		return oneRow(res, err, basilica.E(basilica.NotFound, "TOKEN_UNKNOWN", fmt.Sprintf("no unused join token %.20q", id), "find its id with basilica token list"))
	})
}

// Enroll spends a token and records the executor, or does neither. A machine whose key is enrolled under the same id is
// recorded anew; an id or a key that another has is a Conflict.
func (m *Miner) Enroll(ctx context.Context, token basilica.Digest, e basilica.Member) error {
	return m.durable(ctx, func(tx *sql.Tx) error {
		if _, err := m.spendable(tx.QueryRowContext(ctx, selectToken, token[:])); err != nil {
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
			ON CONFLICT (id) DO UPDATE SET addr = $2, ssh_addr = $3, host_key = $4, certificate = $6, endorsement = $7, facts = $8, enrolled = $9,
			previous = x'', revoked = 0`,
			string(e.Executor), e.Addr, e.SSHAddr, e.HostKey, e.KeySPKI, e.Certificate, endorsement, facts, micros(e.Enrolled))
		if err != nil {
			return fmt.Errorf("record executor: %w", err)
		}
		return nil
	})
}

const memberColumns = `id, addr, ssh_addr, host_key, key_spki, certificate, endorsement, facts, enrolled, drain, beat_at, beat_clock, beat_version, beat_health,
	name, labels, drain_until, previous, revoked, trust, beat_run, beat_gpus, drain_ends, earlier`

// Members lists all enrolled executors by id.
func (m *Miner) Members(ctx context.Context) ([]basilica.Member, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT `+memberColumns+` FROM executors ORDER BY id`)
	return collect(rows, err, m.scanMember)
}

// Member reads one executor; NotFound (EXECUTOR_UNKNOWN) where it is not enrolled.
func (m *Miner) Member(ctx context.Context, id basilica.ExecutorID) (basilica.Member, error) {
	e, err := m.scanMember(m.read.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE id = $1`, string(id)))
	return e, orUnknown(err, id)
}

func orUnknown(err error, id basilica.ExecutorID) error {
	if errors.Is(err, sql.ErrNoRows) {
		return unknownExecutor(id)
	}
	return mapped(err)
}

// MemberByKey finds the executor with that DER SubjectPublicKeyInfo; false where there is none.
func (m *Miner) MemberByKey(ctx context.Context, spki []byte) (basilica.Member, bool, error) {
	e, err := m.scanMember(m.read.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE key_spki = $1`, spki))
	if errors.Is(err, sql.ErrNoRows) {
		return e, false, nil
	}
	return e, err == nil, mapped(err)
}

func unknownExecutor(id basilica.ExecutorID) error {
	return basilica.E(basilica.NotFound, "EXECUTOR_UNKNOWN", fmt.Sprintf("no executor %.64q is enrolled here", id), "see basilica fleet ls")
}

func (m *Miner) scanMember(row scanner) (e basilica.Member, err error) {
	var endorsement, facts, health, version, labels, earlier string
	var enrolled, at, clock, until, revoked, run, gpus, ends int64
	var trust []byte
	if err = row.Scan(&e.Executor, &e.Addr, &e.SSHAddr, &e.HostKey, &e.KeySPKI, &e.Certificate, &endorsement, &facts, &enrolled,
		&e.Drain, &at, &clock, &version, &health, &e.Name, &labels, &until, &e.Previous, &revoked, &trust, &run, &gpus, &ends, &earlier); err != nil {
		return e, err
	}
	e.Enrolled, e.DrainUntil, e.Revoked = fromMicros(enrolled), timeOrNil(until), timeOrNil(revoked)
	copy(e.Trust[:], trust)
	e.DrainOver = e.Drain && ends != 0 && m.clock.left(ends) <= 0
	err = errors.Join(json.Unmarshal([]byte(endorsement), &e.Endorsement), json.Unmarshal([]byte(facts), &e.Facts), json.Unmarshal([]byte(labels), &e.Labels), json.Unmarshal([]byte(earlier), &e.Earlier))
	if at != 0 {
		e.LastBeat = &basilica.LastBeat{At: fromMicros(at), Silent: -m.clock.left(run), GPUs: int(gpus), Clock: time.Duration(clock), Version: version}
		err = errors.Join(err, json.Unmarshal([]byte(health), &e.LastBeat.Health))
	}
	if err != nil {
		return e, fmt.Errorf("stored executor %s: %w", e.Executor, err)
	}
	return e, nil
}

// Beat records an executor's heartbeat with the GPUs that it names (where it names none, those of before stay known), renews the leases of the tasks that it holds or may
// hold, and says what it is to be told: renewals, cancels, revoked grants (at most basilica.MaxOrders of each), drain.
// A revoked executor is refused (EXECUTOR_REVOKED). trust is the digest of what it says that it trusts.
func (m *Miner) Beat(ctx context.Context, id basilica.ExecutorID, beat basilica.LastBeat, gpus []basilica.GPU, trust basilica.Digest, lease time.Duration) (reply basilica.HeartbeatReply, err error) {
	health, devices, err := jsonPair(beat.Health, gpus)
	if err != nil {
		return reply, err
	}
	var revoked int64
	err = m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		var late bool // its drain is over: what still runs on it has to end
		err = tx.QueryRowContext(ctx, `UPDATE executors SET beat_at = $1, beat_clock = $2, beat_version = $3, beat_health = $4, beat_run = $8, beat_gpus = $9,
			facts = CASE $9 WHEN 0 THEN facts ELSE json_set(facts, '$.gpus', json($5)) END, trust = $7 WHERE id = $6 RETURNING drain, revoked, drain = 1 AND drain_ends != 0 AND drain_ends <= $8`,
			micros(beat.At), int64(beat.Clock), beat.Version, health, devices, string(id), trust[:], now, len(gpus)).Scan(&reply.Drain, &revoked, &late)
		if errors.Is(err, sql.ErrNoRows) {
			return unknownExecutor(id)
		}
		if err == nil && revoked != 0 {
			return basilica.RevokedError(id, fromMicros(revoked))
		}
		if err != nil {
			return fmt.Errorf("record heartbeat: %w", err)
		}
		rows, err := tx.QueryContext(ctx, `UPDATE tasks SET lease_until = $1 WHERE executor = $2 AND offered = 1 AND ended = 0 RETURNING id, attempt`, now+lease.Microseconds(), string(id))
		if reply.Renew, err = collect(rows, err, scanTaskAttempt); err != nil {
			return fmt.Errorf("renew leases: %w", err)
		}
		rows, err = tx.QueryContext(ctx, `SELECT id, attempt FROM tasks WHERE executor = $1 AND offered = 1 AND ended = 0 AND (cancel = 1 OR $2)
			UNION SELECT task, attempt FROM attempts WHERE executor = $1 AND outcome = 'abandoned' AND released = 0 LIMIT $3`, string(id), late, basilica.MaxOrders)
		if reply.Cancel, err = collect(rows, err, scanTaskAttempt); err != nil {
			return fmt.Errorf("list cancels: %w", err)
		}
		// In no order, so that where there are too many for one answer the executor hears of all of them in some answers.
		rows, err = tx.QueryContext(ctx, `SELECT g.id FROM grants g JOIN grant_executors e ON e.grant_id = g.id
			WHERE e.executor = $1 AND g.revoked = 1 AND g.ends > $2 ORDER BY random() LIMIT $3`, string(id), now, basilica.MaxOrders)
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
