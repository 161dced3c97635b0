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

// Bounds of what strangers can make a miner keep.
const (
	grantsKept        = 30 * 24 * time.Hour
	maxGrantsKept     = 1000 // ended ones of one validator
	maxReplaysPerKey  = 20_000
	maxReplaysForgets = 1000 // expired rows that one call forgets at most
)

// AddGrant records a grant, which lives from its issue to its expiry, unless its validator has had max of them within the
// window that ends now (Exhausted, GRANT_RATE).
func (m *Miner) AddGrant(ctx context.Context, g basilica.GrantRecord, window time.Duration, max int) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		var n int
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM grants WHERE genesis = $1 AND validator = $2 AND given > $3`,
			g.Genesis[:], string(g.Validator), now-window.Microseconds()).Scan(&n)
		if err != nil {
			return fmt.Errorf("count grants: %w", err)
		}
		if n >= max {
			return basilica.E(basilica.Exhausted, "GRANT_RATE", fmt.Sprintf("validator %s has opened %d validations in %s", g.Validator, n, window), "come again later; one validation in a round is enough")
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE ends < $1`, now-grantsKept.Microseconds()); err != nil {
			return fmt.Errorf("forget old grants: %w", err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM grants WHERE id IN (SELECT id FROM grants
			WHERE genesis = $1 AND validator = $2 AND ends < $3 ORDER BY given DESC LIMIT -1 OFFSET $4)`,
			g.Genesis[:], string(g.Validator), now, maxGrantsKept)
		if err != nil {
			return fmt.Errorf("forget old grants: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO grants (id, genesis, netuid, validator, round, issued, expires, given, ends) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			string(g.ID), g.Genesis[:], g.NetUID, string(g.Validator), int64(g.Round), micros(g.Issued), micros(g.Expires), now, now+g.Expires.Sub(g.Issued).Microseconds())
		if err != nil {
			return fmt.Errorf("record grant: %w", err)
		}
		for _, e := range g.Executors {
			if _, err := tx.ExecContext(ctx, `INSERT INTO grant_executors (grant_id, executor) VALUES ($1, $2)`, string(g.ID), string(e)); err != nil {
				return fmt.Errorf("record grant: %w", err)
			}
		}
		return nil
	})
}

const selectGrants = `SELECT g.id, g.genesis, g.netuid, g.validator, g.round, g.issued, g.expires, g.revoked,
	(SELECT json_group_array(executor) FROM grant_executors WHERE grant_id = g.id) FROM grants g `

// LiveGrants lists the grants that have not ended.
func (m *Miner) LiveGrants(ctx context.Context) ([]basilica.GrantRecord, error) {
	rows, err := m.read.QueryContext(ctx, selectGrants+`WHERE g.ends > $1 AND g.revoked = 0 ORDER BY g.given`, m.clock.at())
	return collect(rows, err, scanGrant)
}

// GrantsOf lists the latest grants that open one executor, newest first.
func (m *Miner) GrantsOf(ctx context.Context, id basilica.ExecutorID, limit int) ([]basilica.GrantRecord, error) {
	rows, err := m.read.QueryContext(ctx, selectGrants+`JOIN grant_executors e ON e.grant_id = g.id WHERE e.executor = $1 ORDER BY g.given DESC, g.id LIMIT $2`, string(id), limit)
	return collect(rows, err, scanGrant)
}

// RevokeGrant ends a grant early; its executors learn it with their next heartbeat.
func (m *Miner) RevokeGrant(ctx context.Context, id basilica.GrantID) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE grants SET revoked = 1 WHERE id = $1`, string(id))
		return oneRow(res, err, basilica.E(basilica.NotFound, "GRANT_UNKNOWN", fmt.Sprintf("no grant %.64q", id), ""))
	})
}

func scanGrant(row scanner) (g basilica.GrantRecord, err error) {
	var genesis []byte
	var round, issued, expires int64
	var executors string
	if err = row.Scan(&g.ID, &genesis, &g.NetUID, &g.Validator, &round, &issued, &expires, &g.Revoked, &executors); err != nil {
		return g, err
	}
	copy(g.Genesis[:], genesis)
	g.Round, g.Issued, g.Expires = basilica.BlockNumber(round), fromMicros(issued), fromMicros(expires)
	if err := json.Unmarshal([]byte(executors), &g.Executors); err != nil {
		return g, fmt.Errorf("stored grant %s: %w", g.ID, err)
	}
	return g, nil
}

// Remember records that hotkey has used nonce, for as long as it is from now until the given time; false where it had used
// it before. A hotkey with too many nonces at once is Exhausted (REPLAY_FULL).
func (m *Miner) Remember(ctx context.Context, hotkey, nonce string, until time.Time) (fresh bool, err error) {
	life := until.Sub(m.clock.now())
	err = m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM replays WHERE (hotkey, nonce) IN (SELECT hotkey, nonce FROM replays WHERE until < $1 LIMIT $2)`, now, maxReplaysForgets)
		if err != nil {
			return fmt.Errorf("forget old nonces: %w", err)
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM replays WHERE hotkey = $1`, hotkey).Scan(&n); err != nil {
			return fmt.Errorf("count nonces: %w", err)
		}
		if n >= maxReplaysPerKey {
			return basilica.E(basilica.Exhausted, "REPLAY_FULL", fmt.Sprintf("hotkey %s has sent %d requests within minutes", hotkey, n), "send fewer requests")
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO replays (hotkey, nonce, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, hotkey, nonce, now+life.Microseconds())
		if err != nil {
			return fmt.Errorf("record nonce: %w", err)
		}
		inserted, err := res.RowsAffected()
		fresh = inserted == 1
		return err
	})
	return fresh && err == nil, err
}

// BlobRoom refuses a blob that would take client over maxBytes of all its blobs (Exhausted, BLOB_QUOTA).
func (m *Miner) BlobRoom(ctx context.Context, client basilica.Hotkey, blob basilica.Blob, maxBytes int64) error {
	var used int64
	err := m.read.QueryRowContext(ctx, `SELECT coalesce(sum(size), 0) FROM blob_owners WHERE client = $1 AND digest != $2`, string(client), blob.SHA256[:]).Scan(&used)
	if err != nil {
		return mapped(fmt.Errorf("measure blobs: %w", err))
	}
	if blob.Size > maxBytes-used {
		return basilica.E(basilica.Exhausted, "BLOB_QUOTA", fmt.Sprintf("client %s has %d bytes of blobs here; %d more are over its %d", client, used, blob.Size, maxBytes), "wait until older files are forgotten, or use another miner")
	}
	return nil
}

// OwnBlob records that client holds a blob.
func (m *Miner) OwnBlob(ctx context.Context, client basilica.Hotkey, blob basilica.Blob) error {
	return m.tx(ctx, func(tx *sql.Tx) error { return ownBlob(ctx, tx, client, blob, m.clock.at()) })
}

// ownBlob records an owner who touched the blob at a moment of the database's clock.
func ownBlob(ctx context.Context, tx *sql.Tx, client basilica.Hotkey, blob basilica.Blob, at int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO blob_owners (client, digest, size, since) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO UPDATE SET since = $4`, string(client), blob.SHA256[:], blob.Size, at)
	if err != nil {
		return fmt.Errorf("record blob owner: %w", err)
	}
	return nil
}

// OwnsBlob says whether one of client's tasks put or produced a blob, and its size in bytes.
func (m *Miner) OwnsBlob(ctx context.Context, client basilica.Hotkey, sum basilica.Digest) (size int64, owns bool, err error) {
	return ownsBlob(ctx, m.read, client, sum)
}

func ownsBlob(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, client basilica.Hotkey, sum basilica.Digest,
) (size int64, owns bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT size FROM blob_owners WHERE client = $1 AND digest = $2`, string(client), sum[:]).Scan(&size)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, mapped(fmt.Errorf("find blob owner: %w", err))
	}
	return size, true, nil
}

// ForgetBlobs takes away the ownership of blobs that nobody has touched for age and no unfinished task may name, of up to
// limit rows; drop is called with each blob that nobody owns any more, inside the same transaction.
func (m *Miner) ForgetBlobs(ctx context.Context, age time.Duration, limit int, drop func(basilica.Digest) error) (n int, err error) {
	err = m.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `DELETE FROM blob_owners WHERE (client, digest) IN (
				SELECT client, digest FROM blob_owners WHERE since < $1
				AND client NOT IN (SELECT client FROM tasks WHERE ended = 0) LIMIT $2)
			RETURNING digest`, m.clock.at()-age.Microseconds(), limit)
		sums, err := collect(rows, err, scanDigest)
		if err != nil {
			return fmt.Errorf("forget blobs: %w", err)
		}
		for _, sum := range sums {
			var owners int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM blob_owners WHERE digest = $1`, sum[:]).Scan(&owners); err != nil {
				return fmt.Errorf("forget blobs: %w", err)
			}
			if owners > 0 {
				continue
			}
			if err := drop(sum); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}
