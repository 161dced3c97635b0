package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"basilica"
)

const taskColumns = `id, client, idempotency_key, spec, spec_digest, state, reason, executor, attempt, accepted, offered, lease_until, not_before, cancel,
	gpus, created, started, ended, exit_code, outputs, log_bytes, receipt, worker_fence, retries, log_start,
	(SELECT json_group_object(executor, n) FROM (SELECT executor, count(*) AS n FROM attempts WHERE task = tasks.id AND outcome NOT IN ('', 'busy') GROUP BY executor))`

func (m *Miner) scanTask(row scanner) (t basilica.TaskRecord, err error) {
	var digest []byte
	var reason, gpus, outputs, receipt, refused string
	var lease, notBefore, created, started, ended int64
	var exit sql.NullInt64
	if err = row.Scan(&t.ID, &t.Client, &t.IdempotencyKey, &t.SpecBytes, &digest, &t.State, &reason, &t.Executor, &t.Attempt, &t.Accepted,
		&t.Offered, &lease, &notBefore, &t.Cancel, &gpus, &created, &started, &ended, &exit, &outputs, &t.LogBytes, &receipt, &t.Fence, &t.Retries, &t.LogStart, &refused); err != nil {
		return t, err
	}
	copy(t.SpecDigest[:], digest)
	t.LeaseLeft, t.Wait, t.Created = m.clock.left(lease), max(m.clock.left(notBefore), 0), fromMicros(created)
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
// blob (BLOB_MISSING). A client has at most maxOpen unfinished tasks (TASK_QUOTA), and at most maxWaiting of all clients wait
// for a place (QUEUE_FULL).
func (m *Miner) AddTask(ctx context.Context, t basilica.TaskRecord, maxOpen, maxWaiting int) (stored basilica.Task, err error) {
	err = m.durable(ctx, func(tx *sql.Tx) error {
		known, err := m.scanTask(tx.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE client = $1 AND idempotency_key = $2`, string(t.Client), t.IdempotencyKey))
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
		var waiting, unfinished int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM tasks WHERE ended = 0 AND state = $1`, string(basilica.TaskQueued)).Scan(&waiting); err != nil {
			return fmt.Errorf("measure queue: %w", err)
		}
		if waiting >= maxWaiting {
			return basilica.E(basilica.Exhausted, "QUEUE_FULL", fmt.Sprintf("%d tasks wait here already", waiting), "come again later, or choose another miner: basilica ls")
		}
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
			if err := ownBlob(ctx, tx, t.Client, basilica.Blob{SHA256: sum, Size: size}, m.clock.at()); err != nil {
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
			if err := ownBlob(ctx, tx, t.Client, in.Blob, m.clock.at()); err != nil {
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
	t, err := m.scanTask(m.read.QueryRowContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE id = $1`, string(id)))
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
	tasks, err = collect(rows, err, m.scanTask)
	tasks, next = page(tasks, limit, list, func(t basilica.TaskRecord) cursor { return cursor{micros(t.Created), string(t.ID)} })
	return tasks, next, err
}

// OpenTasks lists all unfinished tasks in the order in which they came.
func (m *Miner) OpenTasks(ctx context.Context) ([]basilica.TaskRecord, error) {
	rows, err := m.read.QueryContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE ended = 0 ORDER BY seq`)
	return collect(rows, err, m.scanTask)
}
