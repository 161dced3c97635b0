package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"basilica"
)

// Values of weight_intents.settled.
const (
	intentSettled = 1
	intentLost    = 2 // its commit was lost: the round may be sent once more
)

// stateSent is of a commit whose transaction may be in a block or not.
const stateSent = "sent"

// intendCommit records what a transaction commits to, before it is sent.
func (b *Book) intendCommit(ctx context.Context, tx *sql.Tx, w basilica.WeightIntent) error {
	c := w.Signed.Commit
	if c == nil {
		return nil
	}
	content, weights, err := encode2(c, nonNil(w.Set.Weights))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO weight_commits (book, round, hash, extrinsic, commitment, state, content, weights) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (book, commitment) DO UPDATE SET extrinsic = excluded.extrinsic WHERE state = $6`,
		b.id, w.Round.First, w.Round.Hash[:], w.Signed.Extrinsic[:], c.Hash[:], stateSent, content, weights)
	return err
}

// commitOf is the commit of a transaction; nil where it made none.
func (b *Book) commitOf(ctx context.Context, extrinsic []byte) (*basilica.WeightCommit, error) {
	var text string
	err := b.v.read.QueryRowContext(ctx, `SELECT content FROM weight_commits WHERE book = $1 AND extrinsic = $2 ORDER BY seq DESC LIMIT 1`, b.id, extrinsic).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, mapped(err)
	}
	c := new(basilica.WeightCommit)
	return c, json.Unmarshal([]byte(text), c)
}

// placeCommit ties the commit of a weight set, once it is in a block, to the set's row.
func placeCommit(ctx context.Context, tx *sql.Tx, book int64, w basilica.WeightSet, set int64) error {
	if w.Commit == nil || w.Submitted == nil {
		return nil
	}
	content, err := json.Marshal(w.Commit)
	if err != nil {
		return err
	}
	// The row has the salt, the set has not.
	_, err = tx.ExecContext(ctx, `UPDATE weight_commits SET state = $3, content = json_patch($4, json_object('salt', json_extract(content, '$.salt'))), weight_set = $5
		WHERE book = $1 AND commitment = $2`, book, w.Commit.Hash[:], w.Commit.State, string(content), set)
	return err
}

// OpenCommits are those of which something may still come, oldest first.
func (b *Book) OpenCommits(ctx context.Context) ([]basilica.HeldCommit, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT round, hash, content, weights FROM weight_commits WHERE book = $1 AND state IN ('waiting', 'due') ORDER BY seq`, b.id)
	return scanRows(rows, err, func(scan func(...any) error) (h basilica.HeldCommit, err error) {
		var hash []byte
		var content, weights string
		if err := scan(&h.Round.First, &hash, &content, &weights); err != nil {
			return h, err
		}
		copy(h.Round.Hash[:], hash)
		return h, errors.Join(json.Unmarshal([]byte(content), &h.WeightCommit), json.Unmarshal([]byte(weights), &h.Weights))
	})
}

// SaveCommit records what has become of a commit, in the weight set that it carried too. Where it was lost, the weights of its
// round may be sent once more.
func (b *Book) SaveCommit(ctx context.Context, h basilica.HeldCommit) error {
	content, public, err := encode2(h.WeightCommit, h.Public())
	if err != nil {
		return err
	}
	return b.v.tx(ctx, func(tx *sql.Tx) error {
		var set sql.NullInt64
		err := tx.QueryRowContext(ctx, `UPDATE weight_commits SET state = $3, content = $4 WHERE book = $1 AND commitment = $2 AND state IN ('waiting', 'due') RETURNING weight_set`,
			b.id, h.Hash[:], h.State, content).Scan(&set)
		if errors.Is(err, sql.ErrNoRows) {
			return basilica.E(basilica.Conflict, "COMMIT_CLOSED", fmt.Sprintf("the commit %s is not awaited any more", h.Hash), "")
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE weight_sets SET content = json_set(content, '$.commit', json($2)) WHERE seq = $1`, set, public); err != nil {
			return err
		}
		if h.State != basilica.CommitLost {
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE weight_intents SET settled = $4 WHERE book = $1 AND round = $2 AND hash = $3 AND settled = $5`, b.id, h.Round.First, h.Round.Hash[:], intentLost, intentSettled)
		return err
	})
}
