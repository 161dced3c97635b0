package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"basilica"
	"basilica/score"
)

// Validator is a validator's database and its directory of evidence.
type Validator struct {
	*DB
	evidence string
	dropping sync.Mutex // held while evidence is dropped
}

// OpenValidator opens or makes the validator's database in dir; evidence goes to dir/evidence.
func OpenValidator(ctx context.Context, dir string) (*Validator, error) {
	db, err := open(ctx, dir, "validator")
	if err != nil {
		return nil, err
	}
	v := &Validator{DB: db, evidence: filepath.Join(dir, "evidence")}
	if err := os.MkdirAll(v.evidence, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make evidence directory: %w", err), db.Close())
	}
	if err := v.sweep(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return v, nil
}

// Book is what one validator wrote about one subnet of one chain. Its methods may be called at the same time.
type Book struct {
	v         *Validator
	id        int64
	genesis   basilica.Hash
	netuid    basilica.NetUID
	validator basilica.Hotkey
}

// Book opens the book of a chain, a subnet and a hotkey; a new one is empty.
func (v *Validator) Book(ctx context.Context, genesis basilica.Hash, netuid basilica.NetUID, validator basilica.Hotkey) (*Book, error) {
	b := &Book{v: v, genesis: genesis, netuid: netuid, validator: validator}
	err := v.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO books (genesis, netuid, validator) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, genesis[:], netuid, validator); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT id FROM books WHERE genesis = $1 AND netuid = $2 AND validator = $3`, genesis[:], netuid, validator).Scan(&b.id)
	})
	if err != nil {
		return nil, fmt.Errorf("open the validator's book: %w", err)
	}
	return b, nil
}

// OpenRound records that a round began. A round that was recorded before is a Conflict.
func (b *Book) OpenRound(ctx context.Context, r basilica.Round) error {
	return b.v.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO rounds (book, first, hash, slot, started) VALUES ($1, $2, $3, $4, $5)`, b.id, r.First, r.Hash[:], r.Slot, micros(r.Started))
		return err
	})
}

// CloseRound records an open round's end with all that it brought, in one transaction: verifications, the pins of
// executors that were met for the first time or under a new attestation key, and the standings after it. A round that is not open is a Conflict and
// stores nothing.
func (b *Book) CloseRound(ctx context.Context, r basilica.Round, verifications []basilica.Verification, pins []basilica.Pin, standings map[basilica.ExecutorKey]score.Standing) error {
	return b.v.tx(ctx, func(tx *sql.Tx) error {
		outcome, scores, err := encode2(r.Outcome, nonNil(r.Scores))
		if err != nil {
			return err
		}
		starts, err := json.Marshal(nonNil(r.Starts))
		if err != nil {
			return err
		}
		var id int64
		err = tx.QueryRowContext(ctx, `UPDATE rounds SET ended = $4, outcome = $5, scores = $6, starts = $7 WHERE book = $1 AND first = $2 AND hash = $3 AND ended = 0 RETURNING id`, b.id, r.First, r.Hash[:], micros(r.Ended), outcome, scores, string(starts)).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return errRoundNotOpen(r)
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM findings WHERE round_id = $1`, id); err != nil {
			return err
		}
		for i := range verifications {
			if err := b.insert(ctx, tx, id, &verifications[i]); err != nil {
				return fmt.Errorf("store verification %s: %w", verifications[i].ID, err)
			}
		}
		for _, p := range pins {
			if _, err := tx.ExecContext(ctx, `INSERT INTO pins (book, miner, executor, key_spki, attest_spki, host_key, since) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (book, miner, executor) DO UPDATE SET attest_spki = excluded.attest_spki
				WHERE key_spki = excluded.key_spki AND host_key = excluded.host_key`, b.id, p.Miner, p.Executor, p.KeySPKI, p.AttestSPKI, p.HostKey, p.Since); err != nil {
				return fmt.Errorf("store pin of %s: %w", p.Executor, err)
			}
		}
		for k, s := range standings {
			text, err := json.Marshal(s)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO standings (book, miner, executor, seen, standing) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (book, miner, executor) DO UPDATE SET seen = excluded.seen, standing = excluded.standing`, b.id, k.Miner, k.Executor, r.First, string(text)); err != nil {
				return fmt.Errorf("store standing of %s: %w", k.Executor, err)
			}
		}
		return nil
	})
}

func (b *Book) insert(ctx context.Context, tx *sql.Tx, round int64, v *basilica.Verification) error {
	gpus, facts, err := encode2(nonNil(v.GPUs), v.Facts)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO verifications (id, book, round_id, round, block, miner, miner_uid, executor, started, ended, result, strength, after_open, holder, gpus, facts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		v.ID, b.id, round, v.Round, v.Block, v.Miner, v.MinerUID, v.Executor, micros(v.Started), micros(v.Ended), v.Verdict(basilica.CheckGPUProof).Result, v.Strength, v.AfterOpen, v.Holder, gpus, facts)
	if err != nil {
		return err
	}
	seq, err := res.LastInsertId()
	if err != nil {
		return err
	}
	for i, d := range v.Verdicts {
		var sum []byte
		var e basilica.Evidence
		if d.Evidence != nil {
			e, sum = *d.Evidence, d.Evidence.SHA256[:]
			if err := keepEvidence(ctx, tx, d.Evidence, v.Miner, v.Ended); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO verdicts (verification, place, check_name, result, reason, detail, evidence, class, signed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			seq, i, d.Check, d.Result, d.Reason, d.Detail, sum, e.Class, e.Signed); err != nil {
			return err
		}
	}
	return nil
}

// KeepFinding records what an open round found of one executor, before the round ends; the evidence that it rests on is
// no orphan from then on. A second finding of the same executor, or a round that is not open, is a Conflict.
func (b *Book) KeepFinding(ctx context.Context, r basilica.Round, v basilica.Verification, pin *basilica.Pin) error {
	content, pinned, err := encode2(v, pin)
	if err != nil {
		return err
	}
	return b.v.tx(ctx, func(tx *sql.Tx) error {
		var id int64
		err := tx.QueryRowContext(ctx, `SELECT id FROM rounds WHERE book = $1 AND first = $2 AND hash = $3 AND ended = 0`, b.id, r.First, r.Hash[:]).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return errRoundNotOpen(r)
		}
		if err != nil {
			return err
		}
		for _, d := range v.Verdicts {
			if err := keepEvidence(ctx, tx, d.Evidence, v.Miner, v.Ended); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO findings (round_id, miner, executor, verification, pin) VALUES ($1, $2, $3, $4, $5)`, id, v.Miner, v.Executor, content, pinned)
		return err
	})
}

func errRoundNotOpen(r basilica.Round) error {
	return basilica.E(basilica.Conflict, "ROUND_NOT_OPEN", fmt.Sprintf("round %d is not open", r.First), "")
}

// keepEvidence records that a verdict rests on a file; nil: on none.
func keepEvidence(ctx context.Context, tx *sql.Tx, e *basilica.Evidence, miner basilica.Hotkey, at time.Time) error {
	if e == nil {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO evidence (sha256, size, miner, stored) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, e.SHA256[:], e.Size, miner, micros(at))
	return err
}

// OpenRounds are those that began and did not end, oldest first: what a restart left.
func (b *Book) OpenRounds(ctx context.Context) ([]basilica.Round, error) {
	return b.rounds(ctx, `book = $1 AND ended = 0 ORDER BY id`, b.id)
}

// Findings are those that an open round kept, and the pins that go with them.
func (b *Book) Findings(ctx context.Context, r basilica.Round) ([]basilica.Verification, []basilica.Pin, error) {
	var pins []basilica.Pin
	rows, err := b.v.read.QueryContext(ctx, `SELECT verification, pin FROM findings WHERE round_id = (SELECT id FROM rounds WHERE book = $1 AND first = $2 AND hash = $3) ORDER BY miner, executor`, b.id, r.First, r.Hash[:])
	found, err := scanRows(rows, err, func(scan func(...any) error) (v basilica.Verification, err error) {
		var content, pinned string
		if err := scan(&content, &pinned); err != nil {
			return v, err
		}
		var pin *basilica.Pin
		if err := errors.Join(json.Unmarshal([]byte(content), &v), json.Unmarshal([]byte(pinned), &pin)); err != nil {
			return v, err
		}
		if pin != nil {
			pins = append(pins, *pin)
		}
		return v, nil
	})
	return found, pins, err
}

// Rounds lists the latest rounds, newest first.
func (b *Book) Rounds(ctx context.Context, limit int) ([]basilica.Round, error) {
	return b.rounds(ctx, `book = $1 ORDER BY id DESC LIMIT $2`, b.id, limit)
}

func (b *Book) rounds(ctx context.Context, where string, args ...any) ([]basilica.Round, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT first, hash, slot, started, ended, outcome, scores, starts FROM rounds WHERE `+where, args...)
	return scanRows(rows, err, func(scan func(...any) error) (r basilica.Round, err error) {
		var hash []byte
		var started, ended int64
		var outcome, scores, starts string
		if err := scan(&r.First, &hash, &r.Slot, &started, &ended, &outcome, &scores, &starts); err != nil {
			return r, err
		}
		copy(r.Hash[:], hash)
		r.Started, r.Ended = fromMicros(started), fromMicros(ended)
		return r, errors.Join(json.Unmarshal([]byte(outcome), &r.Outcome), json.Unmarshal([]byte(scores), &r.Scores), json.Unmarshal([]byte(starts), &r.Starts))
	})
}

// Scores are those after the latest completed round; none before the first.
func (b *Book) Scores(ctx context.Context) ([]basilica.Score, error) {
	var text string
	err := b.v.read.QueryRowContext(ctx, `SELECT scores FROM rounds WHERE book = $1 AND ended != 0 AND scores != '[]' ORDER BY id DESC LIMIT 1`, b.id).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, mapped(err)
	}
	var out []basilica.Score
	return out, json.Unmarshal([]byte(text), &out)
}

// Standings are those of all executors that were ever seen, and the round in which each was seen last.
func (b *Book) Standings(ctx context.Context) (map[basilica.ExecutorKey]score.Standing, map[basilica.ExecutorKey]basilica.BlockNumber, error) {
	standings, seen := map[basilica.ExecutorKey]score.Standing{}, map[basilica.ExecutorKey]basilica.BlockNumber{}
	rows, err := b.v.read.QueryContext(ctx, `SELECT miner, executor, seen, standing FROM standings WHERE book = $1`, b.id)
	_, err = scanRows(rows, err, func(scan func(...any) error) (struct{}, error) {
		var k basilica.ExecutorKey
		var at basilica.BlockNumber
		var text string
		if err := scan(&k.Miner, &k.Executor, &at, &text); err != nil {
			return struct{}{}, err
		}
		var s score.Standing
		err := json.Unmarshal([]byte(text), &s)
		standings[k], seen[k] = s, at
		return struct{}{}, err
	})
	return standings, seen, err
}

// Pins are those of all executors.
func (b *Book) Pins(ctx context.Context) (map[basilica.ExecutorKey]basilica.Pin, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT miner, executor, key_spki, attest_spki, host_key, since FROM pins WHERE book = $1`, b.id)
	pins, err := scanRows(rows, err, func(scan func(...any) error) (p basilica.Pin, err error) {
		return p, scan(&p.Miner, &p.Executor, &p.KeySPKI, &p.AttestSPKI, &p.HostKey, &p.Since)
	})
	out := make(map[basilica.ExecutorKey]basilica.Pin, len(pins))
	for _, p := range pins {
		out[p.ExecutorKey] = p
	}
	return out, err
}

// IntendWeights records weights that are signed and about to be sent. Weights of a round that is settled are a Conflict.
func (b *Book) IntendWeights(ctx context.Context, w basilica.WeightIntent) error {
	text, err := json.Marshal(w.Set)
	if err != nil {
		return err
	}
	return b.v.durable(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO weight_intents (book, round, hash, extrinsic, nonce, born, death, content) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (book, round, hash) DO UPDATE SET extrinsic = excluded.extrinsic, nonce = excluded.nonce, born = excluded.born, death = excluded.death,
			content = excluded.content, settled = 0 WHERE settled != 1`,
			b.id, w.Round.First, w.Round.Hash[:], w.Signed.Extrinsic[:], w.Signed.Nonce, w.Signed.Born, w.Signed.Death, string(text))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == 1 {
			return b.intendCommit(ctx, tx, w)
		}
		return basilica.E(basilica.Conflict, "WEIGHTS_SETTLED", fmt.Sprintf("the weights of round %d are settled already", w.Round.First), "wait for the next round")
	})
}

// LastWeights is the intent of the latest round that has one, settled or not; false where there was none yet.
func (b *Book) LastWeights(ctx context.Context) (w basilica.WeightIntent, found bool, err error) {
	var hash, extrinsic []byte
	var text string
	var settled int
	err = b.v.read.QueryRowContext(ctx, `SELECT round, hash, nonce, extrinsic, born, death, content, settled FROM weight_intents WHERE book = $1 ORDER BY seq DESC LIMIT 1`, b.id).
		Scan(&w.Round.First, &hash, &w.Signed.Nonce, &extrinsic, &w.Signed.Born, &w.Signed.Death, &text, &settled)
	if errors.Is(err, sql.ErrNoRows) {
		return w, false, nil
	}
	if err != nil {
		return w, false, mapped(err)
	}
	copy(w.Round.Hash[:], hash)
	copy(w.Signed.Extrinsic[:], extrinsic)
	w.Settled, w.Lost = settled == intentSettled, settled == intentLost
	if w.Signed.Commit, err = b.commitOf(ctx, extrinsic); err != nil {
		return w, true, err
	}
	return w, true, json.Unmarshal([]byte(text), &w.Set)
}

// SaveWeightSet records a round's weight vector, submitted or refused. settled says that its fate is known: nothing of that
// round may be sent again.
func (b *Book) SaveWeightSet(ctx context.Context, round basilica.RoundID, w basilica.WeightSet, settled bool) error {
	text, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return b.v.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO weight_sets (book, block, at, submitted, content) VALUES ($1, $2, $3, $4, $5)`, b.id, w.Block, micros(w.At), w.Submitted != nil, string(text))
		if err != nil {
			return err
		}
		set, err := res.LastInsertId()
		if err != nil {
			return err
		}
		if err := placeCommit(ctx, tx, b.id, w, set); err != nil {
			return err
		}
		if !settled {
			return nil
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO weight_intents (book, round, hash, extrinsic, nonce, born, death, content, settled) VALUES ($1, $2, $3, x'', 0, 0, 0, $4, 1)
			ON CONFLICT (book, round, hash) DO UPDATE SET settled = 1, content = excluded.content`, b.id, round.First, round.Hash[:], string(text))
		return err
	})
}

// WeightSets lists the latest weight vectors, newest first.
func (b *Book) WeightSets(ctx context.Context, limit int) ([]basilica.WeightSet, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT content FROM weight_sets WHERE book = $1 ORDER BY seq DESC LIMIT $2`, b.id, limit)
	return scanRows(rows, err, func(scan func(...any) error) (w basilica.WeightSet, err error) {
		var text string
		if err := scan(&text); err != nil {
			return w, err
		}
		return w, json.Unmarshal([]byte(text), &w)
	})
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func encode2(a, b any) (string, string, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return "", "", err
	}
	y, err := json.Marshal(b)
	return string(x), string(y), err
}

// scanRows reads all rows of a query, whose own error it takes too.
func scanRows[T any](rows *sql.Rows, err error, one func(scan func(...any) error) (T, error)) ([]T, error) {
	if err != nil {
		return nil, mapped(err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := one(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, mapped(rows.Err())
}
