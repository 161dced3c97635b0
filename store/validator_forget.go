package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"basilica"
)

// roundsKept is how many of the latest rounds stay, however old: a start looks back on them.
const roundsKept = 16

// Forget drops up to limit verifications of the round after the given one, by its number in the book, that ended before a
// moment, and the round with all that belongs to it once nothing keeps it. It gives the number of the round to go on after,
// and whether there was anything to do; after the last round it drops weight sets. Standings, pins and scores stay as they
// are. Whatever its age, this stays:
//
//   - of every executor the latest verifications, as many as least says, and the last that proved its GPUs: who computes
//     scores anew from them comes to the same;
//   - a verification whose record is still kept, and a round that has one left;
//   - a round that is open, the latest ones, and the one whose scores are the present ones;
//   - the latest weights, those that are underway, and every commit of which something may still come.
func (b *Book) Forget(ctx context.Context, before time.Time, after int64, least, limit int) (next int64, more bool, err error) {
	err = b.v.tx(ctx, func(tx *sql.Tx) error {
		var id int64
		var first basilica.BlockNumber
		var hash []byte
		err := tx.QueryRowContext(ctx, `SELECT id, first, hash FROM rounds WHERE id > $1 AND +book = $2 AND ended != 0 AND ended < $3 ORDER BY id LIMIT 1`, after, b.id, micros(before)).Scan(&id, &first, &hash)
		next = after
		switch {
		case errors.Is(err, sql.ErrNoRows):
			n, err := b.forgetWeightSets(ctx, tx, before, limit)
			more = n == limit
			return err
		case err != nil:
			return err
		}
		more = true
		if n, err := forgetVerifications(ctx, tx, id, least, limit); err != nil || n == limit {
			return err
		}
		next = id
		return b.forgetRound(ctx, tx, id, first, hash)
	})
	if err != nil {
		return after, false, fmt.Errorf("forget old rounds: %w", err)
	}
	return next, more, nil
}

// forgetVerifications drops up to limit verifications of a round, and says how many.
func forgetVerifications(ctx context.Context, tx *sql.Tx, round int64, least, limit int) (int, error) {
	rows, err := tx.QueryContext(ctx, `SELECT v.seq FROM verifications v WHERE v.round_id = $1
		AND (SELECT w.seq FROM verifications w WHERE w.book = v.book AND w.miner = v.miner AND w.executor = v.executor AND w.seq > v.seq ORDER BY w.seq LIMIT 1 OFFSET $2) IS NOT NULL
		AND (v.result NOT IN ('pass', 'unsure') OR EXISTS (SELECT 1 FROM verifications w WHERE w.book = v.book AND w.miner = v.miner AND w.executor = v.executor AND w.seq > v.seq AND w.result IN ('pass', 'unsure')))
		AND NOT EXISTS (SELECT 1 FROM verdicts d JOIN evidence e ON e.sha256 = d.evidence WHERE d.verification = v.seq AND e.dropped = 0)
		LIMIT $3`, round, max(least, 1)-1, limit)
	return dropVerifications(ctx, tx, rows, err)
}

// dropVerifications drops those that a query names, whose own error it takes too, and says how many.
func dropVerifications(ctx context.Context, tx *sql.Tx, rows *sql.Rows, err error) (int, error) {
	seqs, err := scanRows(rows, err, func(scan func(...any) error) (seq int64, err error) { return seq, scan(&seq) })
	if err != nil {
		return 0, err
	}
	for _, seq := range seqs {
		rows, err := tx.QueryContext(ctx, `DELETE FROM verdicts WHERE verification = $1 RETURNING evidence`, seq)
		records, err := scanRows(rows, err, func(scan func(...any) error) (sum []byte, err error) { return sum, scan(&sum) })
		if err != nil {
			return 0, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM verifications WHERE seq = $1`, seq); err != nil {
			return 0, err
		}
		for _, sum := range records {
			if _, err := tx.ExecContext(ctx, `DELETE FROM evidence WHERE sha256 = $1 AND dropped != 0 AND NOT EXISTS (SELECT 1 FROM verdicts WHERE evidence = $1)`, sum); err != nil {
				return 0, err
			}
		}
	}
	return len(seqs), nil
}

// ForgetNames drops up to limit executors that never proved anything and were seen last before a moment, with all their
// verifications, and says which: names cost nobody anything. Those of which a record is still kept stay.
func (b *Book) ForgetNames(ctx context.Context, before time.Time, limit int) (gone []basilica.ExecutorKey, err error) {
	err = b.v.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT s.miner, s.executor FROM standings s WHERE s.book = $1 AND json_extract(s.standing, '$.last_pass') IS NULL
			AND coalesce((SELECT v.ended FROM verifications v WHERE v.book = s.book AND v.miner = s.miner AND v.executor = s.executor ORDER BY v.seq DESC LIMIT 1), 0) < $2
			AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.book = s.book AND p.miner = s.miner AND p.executor = s.executor)
			AND NOT EXISTS (SELECT 1 FROM verifications v JOIN verdicts d ON d.verification = v.seq JOIN evidence e ON e.sha256 = d.evidence
				WHERE v.book = s.book AND v.miner = s.miner AND v.executor = s.executor AND e.dropped = 0)
			LIMIT $3`, b.id, micros(before), limit)
		gone, err = scanRows(rows, err, func(scan func(...any) error) (k basilica.ExecutorKey, err error) {
			return k, scan(&k.Miner, &k.Executor)
		})
		if err != nil {
			return err
		}
		for _, k := range gone {
			rows, err := tx.QueryContext(ctx, `SELECT seq FROM verifications WHERE book = $1 AND miner = $2 AND executor = $3`, b.id, k.Miner, k.Executor)
			if _, err := dropVerifications(ctx, tx, rows, err); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM standings WHERE book = $1 AND miner = $2 AND executor = $3`, b.id, k.Miner, k.Executor); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("forget old names: %w", err)
	}
	return gone, nil
}

// forgetRound drops what was to be sent for a round, and the round where nothing keeps it. A transaction of that time that
// never was in a block cannot come into one any more.
func (b *Book) forgetRound(ctx context.Context, tx *sql.Tx, id int64, first basilica.BlockNumber, hash []byte) error {
	for _, drop := range []struct {
		what string
		args []any
	}{
		{`DELETE FROM weight_commits WHERE book = $1 AND round = $2 AND hash = $3 AND state NOT IN ('waiting', 'due') AND ` + notLatestIntent, []any{b.id, first, hash}},
		{`DELETE FROM weight_intents WHERE book = $1 AND round = $2 AND hash = $3 AND ` + notLatestIntent + `
			AND NOT EXISTS (SELECT 1 FROM weight_commits c WHERE c.book = $1 AND c.round = $2 AND c.hash = $3)`, []any{b.id, first, hash}},
		{`DELETE FROM rounds WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM verifications WHERE round_id = $1)
			AND id <= (SELECT id FROM rounds WHERE book = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)
			AND id != coalesce((SELECT id FROM rounds WHERE book = $2 AND ended != 0 AND scores != '[]' ORDER BY id DESC LIMIT 1), 0)`, []any{id, b.id, roundsKept}},
	} {
		if _, err := tx.ExecContext(ctx, drop.what, drop.args...); err != nil {
			return err
		}
	}
	return nil
}

// notLatestIntent is true where the latest weights are another round's than ($2, $3).
const notLatestIntent = `NOT EXISTS (SELECT 1 FROM weight_intents i WHERE i.seq = (SELECT max(seq) FROM weight_intents WHERE book = $1) AND i.round = $2 AND i.hash = $3)`

// forgetWeightSets drops up to limit of the oldest weight sets, and says how many.
func (b *Book) forgetWeightSets(ctx context.Context, tx *sql.Tx, before time.Time, limit int) (int, error) {
	res, err := tx.ExecContext(ctx, `DELETE FROM weight_sets WHERE seq IN (SELECT seq FROM weight_sets s WHERE book = $1 AND at < $2
		AND seq < (SELECT max(seq) FROM weight_sets WHERE book = $1)
		AND seq NOT IN (SELECT seq FROM weight_sets WHERE book = $1 AND submitted = 1 ORDER BY seq DESC LIMIT 1)
		AND NOT EXISTS (SELECT 1 FROM weight_commits c WHERE c.weight_set = s.seq) ORDER BY seq LIMIT $3)`, b.id, micros(before), limit)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}
