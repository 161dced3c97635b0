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

// How an attempt at a task ended for its miner. What is open has none. Attempts that were lost or abandoned count against
// a task's tries; those that are not refused have still to be forgotten by their executor.
const (
	attemptRefused   = "refused"   // its executor said no, and has never held it
	attemptAbandoned = "abandoned" // its executor may hold it, and is told to end it
	attemptEnded     = "ended"     // its executor told how it ended
)

// Place gives a queued task its executor and the next attempt number; Conflict where it is queued no more.
func (m *Miner) Place(ctx context.Context, id basilica.TaskID, executor basilica.ExecutorID, now time.Time) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		var attempt int
		err := tx.QueryRowContext(ctx, `UPDATE tasks SET state = $1, executor = $2, attempt = attempt + 1, offered = 0, accepted = 0, lease_until = 0, not_before = 0, reason = 'null',
			worker = '', worker_until = 0 WHERE id = $3 AND state = $4 AND cancel = 0 RETURNING attempt`,
			string(basilica.TaskPlaced), string(executor), string(id), string(basilica.TaskQueued)).Scan(&attempt)
		if errors.Is(err, sql.ErrNoRows) {
			return notQueued(id)
		}
		if err != nil {
			return fmt.Errorf("place task: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO attempts (task, attempt, executor, placed) VALUES ($1, $2, $3, $4)`, string(id), attempt, string(executor), micros(now))
		return err
	})
}

func notQueued(id basilica.TaskID) error {
	return basilica.E(basilica.Conflict, "TASK_NOT_QUEUED", fmt.Sprintf("task %s no longer waits for a place", id), "read the task again")
}

// Claim gives worker, for the given time, up to limit placed or running tasks that nobody follows now. Every claim has a new
// fencing number, and one of an older number changes nothing any more.
func (m *Miner) Claim(ctx context.Context, worker string, life time.Duration, limit int) (claimed []basilica.TaskRecord, err error) {
	err = m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `UPDATE tasks SET worker = $1, worker_until = $2, worker_fence = worker_fence + 1
			WHERE seq IN (SELECT seq FROM tasks WHERE ended = 0 AND state != $3 AND worker_until <= $4 ORDER BY seq LIMIT $5) RETURNING `+taskColumns,
			worker, now+life.Microseconds(), string(basilica.TaskQueued), now, limit)
		claimed, err = collect(rows, err, m.scanTask)
		return err
	})
	return claimed, err
}

// fenced runs one update of an unfinished task by the claim numbered fence; Conflict (TASK_FENCED) where a later claim or
// an end came in between. The statement's first two parameters are the task and the fence.
func fenced(ctx context.Context, tx *sql.Tx, id basilica.TaskID, fence uint64, set string, args ...any) error {
	res, err := tx.ExecContext(ctx, `UPDATE tasks SET `+set+` WHERE id = $1 AND worker_fence = $2 AND ended = 0`, append([]any{string(id), int64(fence)}, args...)...)
	return oneRow(res, err, basilica.E(basilica.Conflict, "TASK_FENCED", fmt.Sprintf("task %s has ended or has another worker", id), "read the task again"))
}

// fencedTx is one transaction with one fenced update, at a moment of the database's clock.
func (m *Miner) fencedTx(ctx context.Context, id basilica.TaskID, fence uint64, set string, args func(now int64) []any) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		return fenced(ctx, tx, id, fence, set, args(now)...)
	})
}

// KeepClaim prolongs a claim to the given time from now; zero gives it up.
func (m *Miner) KeepClaim(ctx context.Context, id basilica.TaskID, fence uint64, life time.Duration) error {
	return m.fencedTx(ctx, id, fence, `worker_until = $3`, func(now int64) []any { return []any{now + life.Microseconds()} })
}

// Offer records, before it is so, that the executor may hold the claimed attempt, and for how long unless renewed.
func (m *Miner) Offer(ctx context.Context, id basilica.TaskID, fence uint64, lease time.Duration) error {
	return m.fencedTx(ctx, id, fence, `offered = 1, lease_until = max(lease_until, $3)`, func(now int64) []any { return []any{now + lease.Microseconds()} })
}

// Accept records that the executor holds the claimed attempt, with which GPUs, and for how long unless renewed.
func (m *Miner) Accept(ctx context.Context, id basilica.TaskID, fence uint64, gpus []string, lease time.Duration) error {
	devices, err := json.Marshal(gpus)
	if err != nil {
		return err
	}
	return m.fencedTx(ctx, id, fence, `offered = 1, accepted = 1, gpus = $3, lease_until = max(lease_until, $4)`, func(now int64) []any {
		return []any{string(devices), now + lease.Microseconds()}
	})
}

// Withdraw takes a placement back as if it had not been: its executor does not hold the attempt and never will, and its
// number is free again. It is a Conflict (TASK_ACCEPTED) where the executor has accepted it.
func (m *Miner) Withdraw(ctx context.Context, id basilica.TaskID, fence uint64, why basilica.Reason) error {
	return m.requeue(ctx, id, fence, 0, why, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM attempts WHERE task = $1 AND attempt = (SELECT attempt FROM tasks WHERE id = $1) AND outcome = ''`, string(id))
		return err
	}, `attempt = attempt - 1,`)
}

// Refused puts a task whose executor refused it back into the queue, not to be placed before wait has passed; the attempt
// counts. It is a Conflict (TASK_ACCEPTED) where the executor has accepted it.
func (m *Miner) Refused(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason) error {
	return m.requeue(ctx, id, fence, wait, why, func(tx *sql.Tx) error { return endAttempt(ctx, tx, id, attemptRefused) }, "")
}

func (m *Miner) requeue(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason, attempt func(*sql.Tx) error, set string) error {
	reason, err := json.Marshal(why)
	if err != nil {
		return err
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		var accepted bool
		if err := tx.QueryRowContext(ctx, `SELECT accepted FROM tasks WHERE id = $1`, string(id)).Scan(&accepted); err != nil {
			return fmt.Errorf("find task: %w", err)
		}
		if accepted {
			return basilica.E(basilica.Conflict, "TASK_ACCEPTED", fmt.Sprintf("an executor holds task %s already", id), "read the task again")
		}
		if err := attempt(tx); err != nil {
			return fmt.Errorf("end attempt: %w", err)
		}
		return fenced(ctx, tx, id, fence, set+`state = $3, executor = '', offered = 0, not_before = $4, reason = $5, worker = '', worker_until = 0, worker_fence = worker_fence + 1`,
			string(basilica.TaskQueued), now+wait.Microseconds(), string(reason))
	})
}

// Retry puts a task whose attempt was lost back into the queue, not to be placed before wait has passed. ran says that the
// attempt may have run, abandoned that its executor may still hold it. What comes after logStart in the task's log is the
// next attempt's.
func (m *Miner) Retry(ctx context.Context, id basilica.TaskID, fence uint64, wait time.Duration, why basilica.Reason, logStart int64, ran, abandoned bool) error {
	reason, err := json.Marshal(why)
	if err != nil {
		return err
	}
	outcome := attemptEnded
	if abandoned {
		outcome = attemptAbandoned
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		if err := endAttempt(ctx, tx, id, outcome); err != nil {
			return err
		}
		return fenced(ctx, tx, id, fence, `state = $3, executor = '', offered = 0, accepted = 0, gpus = 'null', started = 0, lease_until = 0, not_before = $4, reason = $5,
			retries = retries + $6, log_start = $7, log_bytes = $7, worker = '', worker_until = 0, worker_fence = worker_fence + 1`,
			string(basilica.TaskQueued), now+wait.Microseconds(), string(reason), ran, logStart)
	})
}

func endAttempt(ctx context.Context, tx *sql.Tx, id basilica.TaskID, outcome string) error {
	_, err := tx.ExecContext(ctx, `UPDATE attempts SET outcome = $1 WHERE task = $2 AND attempt = (SELECT attempt FROM tasks WHERE id = $2) AND outcome = ''`, outcome, string(id))
	if err != nil {
		return fmt.Errorf("end attempt: %w", err)
	}
	return nil
}

// Advance records a claimed task's new state, and when it started where started is not zero.
func (m *Miner) Advance(ctx context.Context, id basilica.TaskID, fence uint64, state basilica.TaskState, started time.Time) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		return fenced(ctx, tx, id, fence, `state = $3, started = CASE WHEN started = 0 THEN $4 ELSE started END`, string(state), micros(started))
	})
}

// End records a claimed task's end as t says it: state, reason, exit code, outputs, receipt, log bytes, started and ended.
// The client owns the outputs from then on. An abandoned attempt is cancelled on its executor when that comes back.
func (m *Miner) End(ctx context.Context, t basilica.TaskRecord, abandoned bool) error {
	reason, outputs, err := jsonPair(t.Reason, t.Outputs)
	if err != nil {
		return err
	}
	receipt, err := json.Marshal(t.Receipt)
	if err != nil {
		return err
	}
	var started int64
	if t.Started != nil {
		started = micros(*t.Started)
	}
	var exit sql.NullInt64
	if t.ExitCode != nil {
		exit = sql.NullInt64{Int64: int64(*t.ExitCode), Valid: true}
	}
	outcome := attemptEnded
	if abandoned {
		outcome = attemptAbandoned
	}
	return m.durable(ctx, func(tx *sql.Tx) error {
		now, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		for _, out := range t.Outputs {
			if err := ownBlob(ctx, tx, t.Client, out.Blob, now); err != nil {
				return err
			}
		}
		if err := endAttempt(ctx, tx, t.ID, outcome); err != nil {
			return err
		}
		return fenced(ctx, tx, t.ID, t.Fence, `state = $3, reason = $4, exit_code = $5, outputs = $6, receipt = $7, log_bytes = $8, ended = $9, ended_run = $11,
			started = CASE WHEN started = 0 THEN $10 ELSE started END, worker = '', worker_until = 0`,
			string(t.State), reason, exit, outputs, string(receipt), t.LogBytes, micros(*t.Ended), started, now)
	})
}

// EndQueued ends a task that still waits for a place; Conflict where it does not.
func (m *Miner) EndQueued(ctx context.Context, id basilica.TaskID, state basilica.TaskState, why basilica.Reason, now time.Time) error {
	reason, err := json.Marshal(why)
	if err != nil {
		return err
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE tasks SET state = $1, reason = $2, ended = $3, ended_run = $6 WHERE id = $4 AND state = $5`,
			string(state), string(reason), micros(now), string(id), string(basilica.TaskQueued), m.clock.at())
		return oneRow(res, err, notQueued(id))
	})
}

// WantCancel ends a queued task of client at once and marks any other unfinished one for its worker; a finished one
// stays. It gives the task as it stands then.
func (m *Miner) WantCancel(ctx context.Context, client basilica.Hotkey, id basilica.TaskID, why basilica.Reason, now time.Time) (t basilica.TaskRecord, err error) {
	reason, err := json.Marshal(why)
	if err != nil {
		return t, err
	}
	err = m.durable(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE tasks SET cancel = 1,
			state = CASE state WHEN $1 THEN $2 ELSE state END, ended = CASE state WHEN $1 THEN $3 ELSE 0 END, ended_run = CASE state WHEN $1 THEN $7 ELSE 0 END, reason = CASE state WHEN $1 THEN $4 ELSE reason END
			WHERE id = $5 AND client = $6 AND ended = 0`,
			string(basilica.TaskQueued), string(basilica.TaskCancelled), micros(now), string(reason), string(id), string(client), m.clock.at())
		if err != nil {
			return fmt.Errorf("cancel task: %w", err)
		}
		t, err = m.scanTask(tx.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE id = $1 AND client = $2`, string(id), string(client)))
		if errors.Is(err, sql.ErrNoRows) {
			return unknownTask(id)
		}
		return err
	})
	return t, err
}

// Unreleased lists attempts that are over for the miner and that their executor has still to forget, oldest first, in turn
// from each executor: what is left on one that is gone does not hide what others could forget. A revoked one forgets nothing.
func (m *Miner) Unreleased(ctx context.Context, limit int) ([]basilica.AttemptRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT task, attempt, executor FROM (
			SELECT task, attempt, executor, placed, row_number() OVER (PARTITION BY executor ORDER BY placed) AS turn
			FROM attempts WHERE outcome IN ('ended', 'abandoned') AND released = 0 AND executor NOT IN (SELECT id FROM executors WHERE revoked != 0))
		ORDER BY turn, placed LIMIT $1`, limit)
	return collect(rows, err, func(row scanner) (a basilica.AttemptRecord, err error) {
		return a, row.Scan(&a.Task, &a.Attempt, &a.Executor)
	})
}

// Released records that an executor has forgotten an attempt.
func (m *Miner) Released(ctx context.Context, a basilica.TaskAttempt) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE attempts SET released = 1 WHERE task = $1 AND attempt = $2`, string(a.Task), a.Attempt)
		return err
	})
}
