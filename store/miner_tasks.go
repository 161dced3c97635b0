package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"basilica"
)

const taskColumns = `id, client, idempotency_key, spec, spec_digest, state, reason, executor, attempt, accepted, lease_until, not_before, cancel,
	gpus, created, started, ended, exit_code, outputs, log_bytes, receipt, worker_fence,
	(SELECT json_group_object(executor, n) FROM (SELECT executor, count(*) AS n FROM attempts WHERE task = tasks.id AND outcome = 'abandoned' GROUP BY executor))`

func scanTask(row scanner) (t basilica.TaskRecord, err error) {
	var digest []byte
	var reason, gpus, outputs, receipt, refused string
	var lease, notBefore, created, started, ended int64
	var exit sql.NullInt64
	if err = row.Scan(&t.ID, &t.Client, &t.IdempotencyKey, &t.SpecBytes, &digest, &t.State, &reason, &t.Executor, &t.Attempt, &t.Accepted,
		&lease, &notBefore, &t.Cancel, &gpus, &created, &started, &ended, &exit, &outputs, &t.LogBytes, &receipt, &t.Fence, &refused); err != nil {
		return t, err
	}
	copy(t.SpecDigest[:], digest)
	t.LeaseUntil, t.NotBefore, t.Created = fromMicros(lease), fromMicros(notBefore), fromMicros(created)
	t.Started, t.Ended = timeOrNil(started), timeOrNil(ended)
	if exit.Valid {
		code := int(exit.Int64)
		t.ExitCode = &code
	}
	err = errors.Join(json.Unmarshal(t.SpecBytes, &t.Spec), json.Unmarshal([]byte(reason), &t.Reason), json.Unmarshal([]byte(gpus), &t.GPUs),
		json.Unmarshal([]byte(outputs), &t.Outputs), json.Unmarshal([]byte(receipt), &t.Receipt), json.Unmarshal([]byte(refused), &t.Refused))
	if err != nil {
		return t, fmt.Errorf("stored task %s: %w", t.ID, err)
	}
	return t, nil
}

// AddTask queues a task. The client's same idempotency key with the same spec gives the task that has it, with another
// spec a Conflict (IDEMPOTENCY_KEY). Inputs must be blobs that the client owns (INPUT_MISSING), so must an image that is a
// blob (BLOB_MISSING), and a client has at most maxOpen unfinished tasks (TASK_QUOTA).
func (m *Miner) AddTask(ctx context.Context, t basilica.TaskRecord, maxOpen int) (stored basilica.Task, err error) {
	err = m.tx(ctx, func(tx *sql.Tx) error {
		known, err := scanTask(tx.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE client = $1 AND idempotency_key = $2`, string(t.Client), t.IdempotencyKey))
		if err == nil {
			if known.SpecDigest != t.SpecDigest {
				return basilica.E(basilica.Conflict, "IDEMPOTENCY_KEY", fmt.Sprintf("idempotency key %.128q belongs to task %s with another spec", t.IdempotencyKey, known.ID), "use a new key for a new task")
			}
			stored = known.Task
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("find task: %w", err)
		}
		var unfinished int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM tasks WHERE client = $1 AND ended = 0`, string(t.Client)).Scan(&unfinished); err != nil {
			return fmt.Errorf("count tasks: %w", err)
		}
		if unfinished >= maxOpen {
			return basilica.E(basilica.Exhausted, "TASK_QUOTA", fmt.Sprintf("client %s has %d unfinished tasks here, as many as it may", t.Client, unfinished), "wait for one of them to end, or cancel one")
		}
		if sum, ok := basilica.ImageBlob(t.Spec.Image); ok {
			size, owns, err := ownsBlob(ctx, tx, t.Client, sum)
			if err != nil {
				return err
			}
			if !owns {
				return basilica.E(basilica.Invalid, "BLOB_MISSING", fmt.Sprintf("image %.12s… was not sent to this miner", sum), "send it: basilica image load FILE.tar")
			}
			if err := ownBlob(ctx, tx, t.Client, basilica.Blob{SHA256: sum, Size: size}, t.Created); err != nil {
				return err
			}
		}
		for _, in := range t.Spec.Inputs {
			size, owns, err := ownsBlob(ctx, tx, t.Client, in.SHA256)
			if err != nil {
				return err
			}
			if !owns || size != in.Size {
				return basilica.E(basilica.Invalid, "INPUT_MISSING", fmt.Sprintf("input %q (%.12s…, %d bytes) was not sent to this miner", in.Name, in.SHA256, in.Size), "send the blob before the task that reads it")
			}
			if err := ownBlob(ctx, tx, t.Client, in.Blob, t.Created); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tasks (id, client, idempotency_key, spec, spec_digest, state, created) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			string(t.ID), string(t.Client), t.IdempotencyKey, t.SpecBytes, t.SpecDigest[:], string(basilica.TaskQueued), micros(t.Created))
		if err != nil {
			return fmt.Errorf("queue task: %w", err)
		}
		t.State = basilica.TaskQueued
		stored = t.Task
		return nil
	})
	return stored, err
}

// Task reads one task; NotFound (TASK_UNKNOWN) where there is none.
func (m *Miner) Task(ctx context.Context, id basilica.TaskID) (basilica.TaskRecord, error) {
	t, err := scanTask(m.read.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE id = $1`, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return t, unknownTask(id)
	}
	return t, mapped(err)
}

func unknownTask(id basilica.TaskID) error {
	return basilica.E(basilica.NotFound, "TASK_UNKNOWN", fmt.Sprintf("no task %.64q of yours is here", id), "see basilica ps")
}

// TasksOf gives one page of a client's tasks, newest first, and where the next one begins.
func (m *Miner) TasksOf(ctx context.Context, client basilica.Hotkey, q basilica.TaskQuery) (tasks []basilica.TaskRecord, next string, err error) {
	labels, err := json.Marshal(q.Labels) // keys in order
	if err != nil {
		return nil, "", err
	}
	list := fmt.Sprintf("tasks\n%s\n%q\n%s\n%s", client, q.Name, labels, q.State)
	where, args := []string{"client = $1"}, []any{string(client)}
	and := func(condition string, values ...any) {
		for i := range values {
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(args)+i+1), 1)
		}
		args = append(args, values...)
		where = append(where, condition)
	}
	if q.After != "" {
		from, err := parseCursor(q.After, list)
		if err != nil {
			return nil, "", err
		}
		and("(created, id) < (?, ?)", from.at, from.id)
	}
	if q.Name != "" {
		and("json_extract(CAST(spec AS TEXT), '$.name') = ?", q.Name)
	}
	if q.State != "" {
		and("state = ?", string(q.State))
	}
	for k, v := range q.Labels {
		and("EXISTS (SELECT 1 FROM json_each(CAST(spec AS TEXT), '$.labels') l WHERE l.key = ? AND l.value = ?)", k, v)
	}
	limit := pageSize(q.Limit)
	args = append(args, limit+1)
	rows, err := m.read.QueryContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE `+strings.Join(where, " AND ")+
		` ORDER BY created DESC, id DESC LIMIT $`+strconv.Itoa(len(args)), args...)
	tasks, err = collect(rows, err, scanTask)
	tasks, next = page(tasks, limit, list, func(t basilica.TaskRecord) cursor { return cursor{micros(t.Created), string(t.ID)} })
	return tasks, next, err
}

// OpenTasks lists all unfinished tasks in the order in which they came.
func (m *Miner) OpenTasks(ctx context.Context) ([]basilica.TaskRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE ended = 0 ORDER BY seq`)
	return collect(rows, err, scanTask)
}

// Queued counts the tasks that wait for a place.
func (m *Miner) Queued(ctx context.Context) (n int, err error) {
	err = m.read.QueryRowContext(ctx, `SELECT count(*) FROM tasks WHERE ended = 0 AND state = $1`, string(basilica.TaskQueued)).Scan(&n)
	return n, mapped(err)
}

// Place gives a queued task its executor and the next attempt number; Conflict where it is queued no more.
func (m *Miner) Place(ctx context.Context, id basilica.TaskID, executor basilica.ExecutorID, now time.Time) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		var attempt int
		err := tx.QueryRowContext(ctx, `UPDATE tasks SET state = $1, executor = $2, attempt = attempt + 1, accepted = 0, lease_until = 0, not_before = 0, reason = 'null',
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
	return basilica.E(basilica.Conflict, "TASK_NOT_QUEUED", fmt.Sprintf("task %s no longer waits for a place", id), "")
}

// Claim gives worker up to limit placed or running tasks that nobody follows at the time now, until the given time. Every
// claim has a new fencing number, and one of an older number changes nothing any more.
func (m *Miner) Claim(ctx context.Context, worker string, now, until time.Time, limit int) (claimed []basilica.TaskRecord, err error) {
	err = m.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `UPDATE tasks SET worker = $1, worker_until = $2, worker_fence = worker_fence + 1
			WHERE seq IN (SELECT seq FROM tasks WHERE ended = 0 AND state != $3 AND worker_until <= $4 ORDER BY seq LIMIT $5) RETURNING `+taskColumns,
			worker, micros(until), string(basilica.TaskQueued), micros(now), limit)
		claimed, err = collect(rows, err, scanTask)
		return err
	})
	return claimed, err
}

// fenced runs one update of an unfinished task by the claim numbered fence; Conflict (TASK_FENCED) where a later claim or
// an end came in between. The statement's first two parameters are the task and the fence.
func fenced(ctx context.Context, tx *sql.Tx, id basilica.TaskID, fence uint64, set string, args ...any) error {
	res, err := tx.ExecContext(ctx, `UPDATE tasks SET `+set+` WHERE id = $1 AND worker_fence = $2 AND ended = 0`, append([]any{string(id), int64(fence)}, args...)...)
	return oneRow(res, err, basilica.E(basilica.Conflict, "TASK_FENCED", fmt.Sprintf("task %s has ended or has another worker", id), ""))
}

// KeepClaim prolongs a claim.
func (m *Miner) KeepClaim(ctx context.Context, id basilica.TaskID, fence uint64, until time.Time) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		return fenced(ctx, tx, id, fence, `worker_until = $3`, micros(until))
	})
}

// Accept records that the executor holds the claimed attempt, with which GPUs, and until when unless renewed.
func (m *Miner) Accept(ctx context.Context, id basilica.TaskID, fence uint64, gpus []string, leaseUntil time.Time) error {
	devices, err := json.Marshal(gpus)
	if err != nil {
		return err
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		return fenced(ctx, tx, id, fence, `accepted = 1, gpus = $3, lease_until = max(lease_until, $4)`, string(devices), micros(leaseUntil))
	})
}

// Requeue puts a placed task that no executor accepted back into the queue, not to be placed before the given time; it
// is a Conflict where one has accepted it meanwhile. Unless the executor was only busy, the attempt is abandoned: it counts
// as refused, and its executor is told to end it should it hold it after all.
func (m *Miner) Requeue(ctx context.Context, id basilica.TaskID, fence uint64, notBefore time.Time, why basilica.Reason, busy bool) error {
	reason, err := json.Marshal(why)
	if err != nil {
		return err
	}
	outcome := "abandoned"
	if busy {
		outcome = "busy"
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		var accepted bool
		if err := tx.QueryRowContext(ctx, `SELECT accepted FROM tasks WHERE id = $1`, string(id)).Scan(&accepted); err != nil {
			return fmt.Errorf("find task: %w", err)
		}
		if accepted {
			return basilica.E(basilica.Conflict, "TASK_ACCEPTED", fmt.Sprintf("an executor holds task %s already", id), "")
		}
		if err := endAttempt(ctx, tx, id, outcome); err != nil {
			return err
		}
		return fenced(ctx, tx, id, fence, `state = $3, executor = '', not_before = $4, reason = $5, worker = '', worker_until = 0`,
			string(basilica.TaskQueued), micros(notBefore), string(reason))
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
	outcome := "ended"
	if abandoned {
		outcome = "abandoned"
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		for _, out := range t.Outputs {
			if err := ownBlob(ctx, tx, t.Client, out.Blob, *t.Ended); err != nil {
				return err
			}
		}
		if err := endAttempt(ctx, tx, t.ID, outcome); err != nil {
			return err
		}
		return fenced(ctx, tx, t.ID, t.Fence, `state = $3, reason = $4, exit_code = $5, outputs = $6, receipt = $7, log_bytes = $8, ended = $9,
			started = CASE WHEN started = 0 THEN $10 ELSE started END, worker = '', worker_until = 0`,
			string(t.State), reason, exit, outputs, string(receipt), t.LogBytes, micros(*t.Ended), started)
	})
}

// EndQueued ends a task that still waits for a place; Conflict where it does not.
func (m *Miner) EndQueued(ctx context.Context, id basilica.TaskID, state basilica.TaskState, why basilica.Reason, now time.Time) error {
	reason, err := json.Marshal(why)
	if err != nil {
		return err
	}
	return m.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE tasks SET state = $1, reason = $2, ended = $3 WHERE id = $4 AND state = $5`,
			string(state), string(reason), micros(now), string(id), string(basilica.TaskQueued))
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
	err = m.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE tasks SET cancel = 1,
			state = CASE state WHEN $1 THEN $2 ELSE state END, ended = CASE state WHEN $1 THEN $3 ELSE 0 END, reason = CASE state WHEN $1 THEN $4 ELSE reason END
			WHERE id = $5 AND client = $6 AND ended = 0`,
			string(basilica.TaskQueued), string(basilica.TaskCancelled), micros(now), string(reason), string(id), string(client))
		if err != nil {
			return fmt.Errorf("cancel task: %w", err)
		}
		t, err = scanTask(tx.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE id = $1 AND client = $2`, string(id), string(client)))
		if errors.Is(err, sql.ErrNoRows) {
			return unknownTask(id)
		}
		return err
	})
	return t, err
}

// ForgetTasks forgets up to limit tasks that ended before the given time.
func (m *Miner) ForgetTasks(ctx context.Context, before time.Time, limit int) error {
	return m.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT id FROM tasks WHERE ended > 0 AND ended < $1 ORDER BY seq LIMIT $2`, micros(before), limit)
		ids, err := collect(rows, err, func(row scanner) (id string, err error) { return id, row.Scan(&id) })
		if err != nil {
			return fmt.Errorf("list old tasks: %w", err)
		}
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM attempts WHERE task = $1`, id); err != nil {
				return fmt.Errorf("forget attempts: %w", err)
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM tasks WHERE id = $1`, id); err != nil {
				return fmt.Errorf("forget task: %w", err)
			}
		}
		return nil
	})
}

// Unreleased lists attempts that are over for the miner and that their executor has still to forget, oldest first.
func (m *Miner) Unreleased(ctx context.Context, limit int) ([]basilica.AttemptRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT task, attempt, executor FROM attempts WHERE outcome IN ('ended', 'abandoned') AND released = 0 ORDER BY placed LIMIT $1`, limit)
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
