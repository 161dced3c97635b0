package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"basilica"
	"basilica/internal/crashpoint"
)

// Executor keeps what one machine must not lose: its GPU ledger, its attempts and which blobs they need. Every method is
// one transaction.
type Executor struct{ *DB }

// OpenExecutor opens dir/executor.sqlite.
func OpenExecutor(ctx context.Context, dir string) (*Executor, error) {
	db, err := open(ctx, dir, "executor")
	if err != nil {
		return nil, err
	}
	return &Executor{db}, nil
}

// Hold enters a holder into the ledger, with all its GPUs under a new fencing number that is larger than every earlier
// one. A GPU that another holding has is a Conflict (basilica.Held). Kind, Holder, GPUs and Expires are the caller's.
// A challenge that expired is gone; a task that expired stays as quarantine, because only who stops its container knows
// that nothing uses the GPU any more.
func (e *Executor) Hold(ctx context.Context, h basilica.Holding, now time.Time) (basilica.Holding, error) {
	err := e.tx(ctx, func(tx *sql.Tx) (err error) {
		h, err = hold(ctx, tx, h, now)
		return err
	})
	return h, err
}

func hold(ctx context.Context, tx *sql.Tx, h basilica.Holding, now time.Time) (basilica.Holding, error) {
	if _, err := tx.ExecContext(ctx, `DELETE FROM holdings WHERE kind = $1 AND expires <= $2`, string(basilica.HolderChallenge), micros(now)); err != nil {
		return h, fmt.Errorf("end expired challenges: %w", err)
	}
	for _, gpu := range h.GPUs {
		row := tx.QueryRowContext(ctx, `SELECT h.fence, h.kind, h.holder, h.gpus, h.expires FROM held_gpus g JOIN holdings h ON h.fence = g.fence WHERE g.gpu = $1`, gpu)
		other, err := scanHolding(row)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return h, fmt.Errorf("read ledger: %w", err)
		}
		return h, basilica.NewHeld(asOf(other, now))
	}
	if h.GPUs == nil {
		h.GPUs = []string{}
	}
	gpus, err := json.Marshal(h.GPUs)
	if err != nil {
		return h, fmt.Errorf("encode GPUs: %w", err)
	}
	h.Expires = fromMicros(micros(h.Expires))
	res, err := tx.ExecContext(ctx, `INSERT INTO holdings (kind, holder, gpus, expires) VALUES ($1, $2, $3, $4)`, string(h.Kind), h.Holder, string(gpus), micros(h.Expires))
	if err != nil {
		return h, fmt.Errorf("enter ledger: %w", err)
	}
	fence, err := res.LastInsertId()
	if err != nil {
		return h, fmt.Errorf("enter ledger: %w", err)
	}
	h.Fence = uint64(fence)
	for _, gpu := range h.GPUs {
		if _, err := tx.ExecContext(ctx, `INSERT INTO held_gpus (gpu, fence) VALUES ($1, $2)`, gpu, fence); err != nil {
			return h, fmt.Errorf("enter ledger: %w", err)
		}
	}
	return h, nil
}

// asOf shows an expired task as what it is: quarantine until its container is known to be gone.
func asOf(h basilica.Holding, now time.Time) basilica.Holding {
	if h.Kind == basilica.HolderTask && !h.Expires.After(now) {
		h.Kind = basilica.HolderQuarantine
	}
	return h
}

func scanHolding(row scanner) (h basilica.Holding, err error) {
	var fence, expires int64
	var gpus []byte
	if err := row.Scan(&fence, &h.Kind, &h.Holder, &gpus, &expires); err != nil {
		return h, err
	}
	h.Fence, h.Expires = uint64(fence), fromMicros(expires)
	return h, json.Unmarshal(gpus, &h.GPUs)
}

// Ledger lists all holdings in the order of their fencing numbers; challenges that expired are left out.
func (e *Executor) Ledger(ctx context.Context, now time.Time) ([]basilica.Holding, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT fence, kind, holder, gpus, expires FROM holdings WHERE NOT (kind = $1 AND expires <= $2) ORDER BY fence`,
		string(basilica.HolderChallenge), micros(now))
	all, err := collect(rows, err, scanHolding)
	for i := range all {
		all[i] = asOf(all[i], now)
	}
	return all, err
}

// Extend moves the expiry of one holding; a stale fencing number is a Conflict (FENCE_STALE).
func (e *Executor) Extend(ctx context.Context, fence uint64, expires time.Time) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE holdings SET expires = $1 WHERE fence = $2`, micros(expires), int64(fence))
		return oneRow(res, err, basilica.E(basilica.Conflict, "FENCE_STALE", fmt.Sprintf("holding %d is no longer in the ledger", fence), ""))
	})
}

// Leave takes a holding out of the ledger; one that left already is no error.
func (e *Executor) Leave(ctx context.Context, fence uint64) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM holdings WHERE fence = $1`, int64(fence))
		return err
	})
}

const attemptColumns = `task, number, client, spec, state, reason, holding, container, image_id, accepted, pulling, started, ended, exit_code, outputs, receipt, boot, engine, deadline, stopping`

// Accept records a new attempt with its holding, in one transaction, and gives the holding. The same attempt again gives
// the same holding and false. An attempt that is not newer than one of the same task that was seen before is a Conflict
// (ATTEMPT_STALE); more than most open attempts are Exhausted (CONTAINERS_FULL). blobs are the inputs.
func (e *Executor) Accept(ctx context.Context, a basilica.Attempt, blobs []basilica.Digest, most int, now time.Time) (h basilica.Holding, fresh bool, err error) {
	err = e.durable(ctx, func(tx *sql.Tx) error {
		var held []byte
		err := tx.QueryRowContext(ctx, `SELECT holding FROM attempts WHERE task = $1 AND number = $2`, string(a.Task), a.Number).Scan(&held)
		if err == nil {
			return json.Unmarshal(held, &h)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("look for attempt: %w", err)
		}
		var newest, open int
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) FROM attempts WHERE task = $1`, string(a.Task)).Scan(&newest); err != nil {
			return fmt.Errorf("look for attempts: %w", err)
		}
		if newest > a.Number {
			return basilica.E(basilica.Conflict, "ATTEMPT_STALE", fmt.Sprintf("attempt %d of task %s comes after attempt %d", a.Number, a.Task, newest), "")
		}
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM attempts WHERE ended = 0`).Scan(&open); err != nil {
			return fmt.Errorf("count attempts: %w", err)
		}
		if open >= most {
			return basilica.E(basilica.Exhausted, "CONTAINERS_FULL", fmt.Sprintf("the machine runs %d of at most %d containers", open, most), "wait for one to end, or raise executor.resources.max_containers")
		}
		if h, err = hold(ctx, tx, a.Holding, now); err != nil {
			return err
		}
		a.Holding, fresh = h, true
		return insertAttempt(ctx, tx, a, blobs)
	})
	return h, fresh && err == nil, err
}

func insertAttempt(ctx context.Context, tx *sql.Tx, a basilica.Attempt, blobs []basilica.Digest) error {
	holding, err := json.Marshal(a.Holding)
	if err != nil {
		return fmt.Errorf("encode holding: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO attempts (task, number, client, spec, state, fence, holding, accepted) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		string(a.Task), a.Number, string(a.Client), a.Spec, string(a.State), int64(a.Holding.Fence), string(holding), micros(a.Accepted))
	if err != nil {
		return fmt.Errorf("record attempt: %w", err)
	}
	return addBlobs(ctx, tx, a.Key(), blobs, a.Accepted)
}

func addBlobs(ctx context.Context, tx *sql.Tx, at basilica.TaskAttempt, blobs []basilica.Digest, now time.Time) error {
	for _, b := range blobs {
		if err := seen(ctx, tx, b, now); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO attempt_blobs (task, number, sum) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, string(at.Task), at.Attempt, b.String())
		if err != nil {
			return fmt.Errorf("record blob: %w", err)
		}
	}
	return nil
}

func seen(ctx context.Context, tx *sql.Tx, sum basilica.Digest, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO blobs (sum, seen) VALUES ($1, $2) ON CONFLICT (sum) DO UPDATE SET seen = excluded.seen`, sum.String(), micros(now))
	if err != nil {
		return fmt.Errorf("record blob: %w", err)
	}
	return nil
}

// SaveAttempt writes what became of an attempt. One that has ended does not change any more: Conflict (ATTEMPT_ENDED).
func (e *Executor) SaveAttempt(ctx context.Context, a basilica.Attempt) error {
	reason, err := json.Marshal(a.Reason)
	if err != nil {
		return fmt.Errorf("encode reason: %w", err)
	}
	outputs, err := json.Marshal(a.Outputs)
	if err != nil {
		return fmt.Errorf("encode outputs: %w", err)
	}
	receipt, err := json.Marshal(a.Receipt)
	if err != nil {
		return fmt.Errorf("encode receipt: %w", err)
	}
	var sums []basilica.Digest
	for _, o := range a.Outputs {
		sums = append(sums, o.SHA256)
	}
	write := func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE attempts SET state = $1, reason = $2, container = $3, image_id = $4, pulling = $5, started = $6, ended = $7, exit_code = $8, outputs = $9, receipt = $10, boot = $11, engine = $12, deadline = $13, stopping = $14 WHERE task = $15 AND number = $16 AND ended = 0`,
			string(a.State), string(reason), a.Container, a.ImageID, micros(a.Pulling), micros(a.Started), micros(a.Ended), a.ExitCode, string(outputs), string(receipt),
			a.Boot, a.Engine, micros(a.Deadline), a.Stopping, string(a.Task), a.Number)
		if err := oneRow(res, err, basilica.E(basilica.Conflict, "ATTEMPT_ENDED", fmt.Sprintf("attempt %d of task %s has ended", a.Number, a.Task), "")); err != nil {
			return err
		}
		return addBlobs(ctx, tx, a.Key(), sums, a.Ended)
	}
	if a.Ended.IsZero() {
		return e.tx(ctx, write)
	}
	return e.durable(ctx, write)
}

// Attempt reads one attempt; NotFound (ATTEMPT_UNKNOWN) where it was never accepted or is forgotten.
func (e *Executor) Attempt(ctx context.Context, at basilica.TaskAttempt) (basilica.Attempt, error) {
	row := e.read.QueryRowContext(ctx, `SELECT `+attemptColumns+` FROM attempts WHERE task = $1 AND number = $2`, string(at.Task), at.Attempt)
	a, err := scanRunAttempt(row)
	if errors.Is(err, sql.ErrNoRows) {
		return a, basilica.E(basilica.NotFound, "ATTEMPT_UNKNOWN", fmt.Sprintf("attempt %d of task %s is not known here", at.Attempt, at.Task), "")
	}
	return a, mapped(err)
}

// OpenAttempts lists the attempts that have not ended, oldest first.
func (e *Executor) OpenAttempts(ctx context.Context) ([]basilica.Attempt, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT `+attemptColumns+` FROM attempts WHERE ended = 0 ORDER BY accepted`)
	return collect(rows, err, scanRunAttempt)
}

// EndedHolding lists the attempts that have ended and are in the ledger still, other than in quarantine.
func (e *Executor) EndedHolding(ctx context.Context) ([]basilica.Attempt, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT `+attemptColumns+` FROM attempts WHERE ended > 0 AND fence IN (SELECT fence FROM holdings WHERE kind <> $1) ORDER BY ended`,
		string(basilica.HolderQuarantine))
	return collect(rows, err, scanRunAttempt)
}

// EndedBefore lists the attempts that ended before the given time.
func (e *Executor) EndedBefore(ctx context.Context, before time.Time) ([]basilica.Attempt, error) {
	rows, err := e.read.QueryContext(ctx, `SELECT `+attemptColumns+` FROM attempts WHERE ended > 0 AND ended < $1 ORDER BY ended LIMIT 1000`, micros(before))
	return collect(rows, err, scanRunAttempt)
}

func scanRunAttempt(row scanner) (a basilica.Attempt, err error) {
	var reason, holding, outputs, receipt []byte
	var accepted, pulling, started, ended, deadline int64
	err = row.Scan(&a.Task, &a.Number, &a.Client, &a.Spec, &a.State, &reason, &holding, &a.Container, &a.ImageID, &accepted, &pulling, &started, &ended, &a.ExitCode, &outputs, &receipt,
		&a.Boot, &a.Engine, &deadline, &a.Stopping)
	if err != nil {
		return a, err
	}
	a.Accepted, a.Pulling, a.Started, a.Ended, a.Deadline = fromMicros(accepted), fromMicros(pulling), fromMicros(started), fromMicros(ended), fromMicros(deadline)
	return a, errors.Join(json.Unmarshal(reason, &a.Reason), json.Unmarshal(holding, &a.Holding), json.Unmarshal(outputs, &a.Outputs), json.Unmarshal(receipt, &a.Receipt))
}

// ForgetAttempt removes an ended attempt; an open one is a Conflict (ATTEMPT_OPEN), an unknown one is forgotten already.
// Blobs of it that nobody has stored again since can be forgotten from now on.
func (e *Executor) ForgetAttempt(ctx context.Context, at basilica.TaskAttempt) error {
	return e.tx(ctx, func(tx *sql.Tx) error {
		var accepted, ended int64
		err := tx.QueryRowContext(ctx, `SELECT accepted, ended FROM attempts WHERE task = $1 AND number = $2`, string(at.Task), at.Attempt).Scan(&accepted, &ended)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for attempt: %w", err)
		}
		if ended == 0 {
			return basilica.E(basilica.Conflict, "ATTEMPT_OPEN", fmt.Sprintf("attempt %d of task %s has not ended", at.Attempt, at.Task), "cancel it first")
		}
		// Inputs were last seen when the attempt was accepted, outputs when it ended; another time is another's.
		_, err = tx.ExecContext(ctx, `UPDATE blobs SET seen = 0 WHERE seen IN ($1, $2) AND sum IN (SELECT sum FROM attempt_blobs WHERE task = $3 AND number = $4)`,
			accepted, ended, string(at.Task), at.Attempt)
		if err != nil {
			return fmt.Errorf("let go of blobs: %w", err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM attempts WHERE task = $1 AND number = $2`, string(at.Task), at.Attempt)
		return err
	})
}

// SawBlob records that a blob was stored, or stored again, now.
func (e *Executor) SawBlob(ctx context.Context, sum basilica.Digest, now time.Time) error {
	return e.tx(ctx, func(tx *sql.Tx) error { return seen(ctx, tx, sum, now) })
}

// ForgetBlobs forgets and lists the blobs that no attempt needs and that were last stored before the given time.
func (e *Executor) ForgetBlobs(ctx context.Context, before time.Time) (sums []basilica.Digest, err error) {
	err = e.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `DELETE FROM blobs WHERE seen < $1 AND sum NOT IN (SELECT sum FROM attempt_blobs) RETURNING sum`, micros(before))
		sums, err = collect(rows, err, func(row scanner) (d basilica.Digest, err error) {
			var text []byte
			if err := row.Scan(&text); err != nil {
				return d, err
			}
			return d, d.UnmarshalText(text)
		})
		return err
	})
	return sums, err
}

// Forget removes one log; one that is gone is no error.
func (l *TaskLogs) Forget(id basilica.TaskID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sizes, id)
	defer crashpoint.Around("store.TaskLogs.Forget.remove")()
	if err := os.Remove(l.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove task log: %w", err)
	}
	return nil
}
