package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"basilica"
)

func scanTaskID(row scanner) (id basilica.TaskID, err error) { return id, row.Scan(&id) }

// ForgetTasks forgets up to limit tasks that ended longer than age ago and whose log is forgotten.
func (m *Miner) ForgetTasks(ctx context.Context, age time.Duration, limit int) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT id FROM tasks WHERE ended > 0 AND ended_run < $1 AND log_kept = 0 ORDER BY ended_run LIMIT $2`, now-age.Microseconds(), limit)
		ids, err := collect(rows, err, scanTaskID)
		if err != nil {
			return fmt.Errorf("list old tasks: %w", err)
		}
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM attempts WHERE task = $1`, string(id)); err != nil {
				return fmt.Errorf("forget attempts: %w", err)
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM tasks WHERE id = $1`, string(id)); err != nil {
				return fmt.Errorf("forget task: %w", err)
			}
		}
		return nil
	})
}

// ForgetLogs calls drop with up to limit tasks that ended longer than age ago and whose log is still kept, and records that
// it is kept no more. A crash in between drops it again.
func (m *Miner) ForgetLogs(ctx context.Context, age time.Duration, limit int, drop func(basilica.TaskID) error) error {
	rows, err := m.read.QueryContext(ctx, `SELECT id FROM tasks WHERE ended > 0 AND ended_run < $1 AND log_kept = 1 ORDER BY ended_run LIMIT $2`, m.clock.at()-age.Microseconds(), limit)
	ids, err := collect(rows, err, scanTaskID)
	if err != nil {
		return fmt.Errorf("list old logs: %w", err)
	}
	for _, id := range ids {
		if err := drop(id); err != nil {
			return err
		}
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `UPDATE tasks SET log_kept = 0 WHERE id = $1`, string(id)); err != nil {
				return fmt.Errorf("forget log: %w", err)
			}
		}
		return nil
	})
}

// LogKept says whether a task's log is to be kept: it is of a known task, and nobody has forgotten it.
func (m *Miner) LogKept(ctx context.Context, id basilica.TaskID) (kept bool, err error) {
	err = m.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM tasks WHERE id = $1 AND log_kept = 1)`, string(id)).Scan(&kept)
	return kept, mapped(err)
}

// BlobOwned says whether anybody owns a blob.
func (m *Miner) BlobOwned(ctx context.Context, sum basilica.Digest) (owned bool, err error) {
	err = m.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM blob_owners WHERE digest = $1)`, sum[:]).Scan(&owned)
	return owned, mapped(err)
}

// DisownBlobs takes the ownership of content away that have says is not there, and gives how many blobs that were. A crash
// between the removal of content and the record of it leaves such rows, and so does whoever deletes files by hand.
func (m *Miner) DisownBlobs(ctx context.Context, have func(basilica.Digest) (bool, error)) (n int, err error) {
	rows, err := m.read.QueryContext(ctx, `SELECT DISTINCT digest FROM blob_owners`)
	sums, err := collect(rows, err, scanDigest)
	if err != nil {
		return 0, fmt.Errorf("list blobs: %w", err)
	}
	for _, sum := range sums {
		there, err := have(sum)
		if err != nil || there {
			if err != nil {
				return n, err
			}
			continue
		}
		err = m.tx(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM blob_owners WHERE digest = $1`, sum[:])
			return err
		})
		if err != nil {
			return n, fmt.Errorf("disown blob: %w", err)
		}
		n++
	}
	return n, nil
}

func scanDigest(row scanner) (d basilica.Digest, err error) {
	var raw []byte
	err = row.Scan(&raw)
	copy(d[:], raw)
	return d, err
}
