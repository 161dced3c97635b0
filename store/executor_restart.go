package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"basilica"
)

// Quarantine keeps the GPUs of a holding from everybody until Leave, and remembers what still has them. A holding that
// left already is a Conflict (FENCE_STALE).
func (e *Executor) Quarantine(ctx context.Context, r basilica.Remains) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE holdings SET kind = $1, attempt = $2, container = $3, boot = $4 WHERE fence = $5`,
			string(basilica.HolderQuarantine), r.Attempt, r.Container, r.Boot, int64(r.Fence))
		return oneRow(res, err, basilica.E(basilica.Conflict, "FENCE_STALE", fmt.Sprintf("holding %d is no longer in the ledger", r.Fence), ""))
	})
}

// Quarantined lists what has GPUs in quarantine, in the order of fencing numbers.
func (e *Executor) Quarantined(ctx context.Context) ([]basilica.Remains, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT holder, attempt, fence, container, boot FROM holdings WHERE kind = $1 ORDER BY fence`, string(basilica.HolderQuarantine))
	return collect(rows, err, func(row scanner) (r basilica.Remains, err error) {
		var fence int64
		err = row.Scan(&r.Task, &r.Attempt, &fence, &r.Container, &r.Boot)
		r.Fence = uint64(fence)
		return r, err
	})
}

// TimeLine gives where the ledger's time line begins in this boot of the machine: a time, and the time since boot then. The
// first to ask in a boot sets it.
func (e *Executor) TimeLine(ctx context.Context, boot string, wall time.Time, up time.Duration) (time.Time, time.Duration, error) {
	begin, at := micros(wall), up.Microseconds()
	err := e.tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT wall, up FROM clocks WHERE boot = $1`, boot).Scan(&begin, &at)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM clocks`); err != nil {
			return fmt.Errorf("begin time line: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO clocks (boot, wall, up) VALUES ($1, $2, $3)`, boot, begin, at)
		return err
	})
	return fromMicros(begin), time.Duration(at) * time.Microsecond, err
}

// RevokeGrants records grants that ended early.
func (e *Executor) RevokeGrants(ctx context.Context, grants []basilica.GrantID, now time.Time) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		for _, g := range grants {
			if _, err := tx.ExecContext(ctx, `INSERT INTO revoked_grants (id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, string(g), micros(now)); err != nil {
				return fmt.Errorf("record revoked grant: %w", err)
			}
		}
		return nil
	})
}

// RevokedGrants lists the grants that ended early, and when that was learnt.
func (e *Executor) RevokedGrants(ctx context.Context) (map[basilica.GrantID]time.Time, error) {
	type revoked struct {
		id basilica.GrantID
		at int64
	}
	rows, err := e.read.QueryContext(ctx, `SELECT id, at FROM revoked_grants`)
	all, err := collect(rows, err, func(row scanner) (r revoked, err error) { return r, row.Scan(&r.id, &r.at) })
	out := make(map[basilica.GrantID]time.Time, len(all))
	for _, r := range all {
		out[r.id] = fromMicros(r.at)
	}
	return out, err
}

// ForgetRevoked forgets the grants whose end was learnt before the given time.
func (e *Executor) ForgetRevoked(ctx context.Context, before time.Time) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM revoked_grants WHERE at < $1`, micros(before))
		return err
	})
}

// KeepImage records the image that was loaded from a source, or will be.
func (e *Executor) KeepImage(ctx context.Context, source, id string) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO loaded_images (source, id) VALUES ($1, $2) ON CONFLICT (source) DO UPDATE SET id = excluded.id`, source, id)
		return err
	})
}

// LoadedImages lists the images that were loaded, by their sources.
func (e *Executor) LoadedImages(ctx context.Context) (map[string]string, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT source, id FROM loaded_images`)
	all, err := collect(rows, err, func(row scanner) (pair [2]string, err error) { return pair, row.Scan(&pair[0], &pair[1]) })
	out := make(map[string]string, len(all))
	for _, pair := range all {
		out[pair[0]] = pair[1]
	}
	return out, err
}

// ForgetImage forgets the image of a source.
func (e *Executor) ForgetImage(ctx context.Context, source string) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM loaded_images WHERE source = $1`, source)
		return err
	})
}

// UnknownBlobs gives those of the stored blobs that have no record: a process ended between storing and recording them.
func (e *Executor) UnknownBlobs(ctx context.Context, stored []basilica.Digest) (unknown []basilica.Digest, err error) {
	for _, sum := range stored {
		var n int
		err := e.read.QueryRowContext(ctx, `SELECT count(*) FROM blobs WHERE sum = $1`, sum.String()).Scan(&n)
		if err != nil {
			return nil, mapped(fmt.Errorf("look for blob: %w", err))
		}
		if n == 0 {
			unknown = append(unknown, sum)
		}
	}
	return unknown, nil
}

// Stored lists the content that is here.
func (b *Blobs) Stored() ([]basilica.Digest, error) {
	var sums []basilica.Digest
	err := filepath.WalkDir(b.dir, func(path string, entry fs.DirEntry, err error) error {
		var sum basilica.Digest
		if err == nil && entry.Type().IsRegular() && sum.UnmarshalText([]byte(entry.Name())) == nil && path == b.Path(sum) {
			sums = append(sums, sum)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	return sums, nil
}
