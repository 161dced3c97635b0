package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// MaxListed bounds how many tasks one miner is asked for.
const MaxListed = 10_000

// Listed is one own task as its miner tells it.
type Listed struct {
	Miner basilica.Hotkey `json:"miner"`
	Task  basilica.Task   `json:"task"`
}

// Away is a miner of own tasks that could not be asked.
type Away struct {
	Miner basilica.Hotkey `json:"miner"`
	Error string          `json:"error"`
}

// keyFor is how long a key without an answer has its miner asked: as long as a miner keeps a task, where its owner says nothing else.
const keyFor = 30 * 24 * time.Hour

// Tasks asks every miner that the index knows of for the caller's tasks that fit q, newest first, at most limit of each.
func (c *Client) Tasks(ctx context.Context, q basilica.TaskQuery, limit int) ([]Listed, []Away, error) {
	miners, err := c.cfg.Index.Miners(c.cfg.Now().Add(-keyFor))
	if err != nil {
		return nil, nil, err
	}
	tasks, errs := make([][]basilica.Task, len(miners)), make([]error, len(miners))
	var group errgroup.Group
	group.SetLimit(maxOffers)
	for i, m := range miners {
		group.Go(func() error {
			tasks[i], errs[i] = c.tasksOf(ctx, m, q, limit)
			return nil
		})
	}
	_ = group.Wait() // every error stands in errs
	var listed []Listed
	var away []Away
	for i, m := range miners {
		if errs[i] != nil {
			away = append(away, Away{Miner: m, Error: errs[i].Error()})
		}
		for _, t := range tasks[i] {
			listed = append(listed, Listed{Miner: m, Task: t})
		}
	}
	slices.SortStableFunc(listed, func(a, b Listed) int {
		return cmp.Or(b.Task.Created.Compare(a.Task.Created), cmp.Compare(a.Task.ID, b.Task.ID))
	})
	return listed, away, ctx.Err()
}

func (c *Client) tasksOf(ctx context.Context, miner basilica.Hotkey, q basilica.TaskQuery, limit int) ([]basilica.Task, error) {
	at, err := c.byHotkey(ctx, miner)
	if err != nil {
		return nil, err
	}
	var tasks []basilica.Task
	for {
		q.Limit = min(limit-len(tasks), basilica.MaxPage)
		page, err := c.taskPage(ctx, at.door, q)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, page.Tasks...)
		if q.After = page.Next; q.After == "" || len(tasks) >= limit || len(page.Tasks) == 0 {
			return tasks, nil
		}
	}
}

func (c *Client) taskPage(ctx context.Context, door basilica.Miner, q basilica.TaskQuery) (basilica.TaskPage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return door.Tasks(ctx, c.cfg.Hotkey, q)
}

// found is the miner that has a task, and what the index knows of the task.
type found struct {
	chosen
	entry *Entry // nil: nothing
}

// find opens the door of the miner that has the task: the given one, or the index's.
func (c *Client) find(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey) (found, error) {
	entries, err := c.cfg.Index.Entries()
	if err != nil {
		return found{}, err
	}
	var known *Entry
	for i, e := range entries {
		if e.Task == id && (miner == "" || e.Miner == miner) {
			known = &entries[i]
		}
	}
	if known != nil {
		miner = known.Miner
	}
	if miner == "" {
		return found{}, basilica.E(basilica.NotFound, "TASK_UNKNOWN", fmt.Sprintf("task %.80q was not submitted from this data directory", id), "name its miner with --miner HOTKEY, or list your tasks with `basilica ps`")
	}
	at, err := c.byHotkey(ctx, miner)
	return found{at, known}, err
}

// errCaughtUp ends a watch that has seen all that was there when it began.
var errCaughtUp = errors.New("caught up")

// Logs writes a task's log from byte offset on: with follow to its end, otherwise what there is now. It returns the task
// as it stands then.
func (c *Client) Logs(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey, offset int64, follow bool, stdout, stderr io.Writer) (basilica.Task, error) {
	at, err := c.find(ctx, id, miner)
	if err != nil {
		return basilica.Task{}, err
	}
	f := newFollower(offset, stdout, stderr)
	if follow {
		task, err := c.follow(ctx, at.door, id, f)
		if err == nil && f.forgotten() {
			err = logForgotten(id)
		}
		return task, err
	}
	var task basilica.Task
	for tries := c.attempts(); ; {
		f.progress = false
		if task, err = c.read(ctx, at.door, id, f); err == nil {
			if f.forgotten() {
				err = logForgotten(id)
			}
			return task, err
		}
		if err := tries.next(ctx, err, f.progress); err != nil {
			return task, err
		}
	}
}

func logForgotten(id basilica.TaskID) error {
	return basilica.E(basilica.NotFound, "LOG_FORGOTTEN", fmt.Sprintf("the miner keeps the log of task %s no more", id), fmt.Sprintf("its receipt is kept longer: basilica attach %s --receipt FILE", id))
}

// read writes what there is of a log beyond what f has.
func (c *Client) read(ctx context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	task, err := door.Task(call, c.cfg.Hotkey, id)
	cancel()
	if err != nil || task.LogBytes <= f.offset {
		return task, err
	}
	err = door.WatchTask(ctx, c.cfg.Hotkey, id, f.offset, func(e basilica.TaskEvent) error {
		if err := f.event(e); err != nil {
			return err
		}
		if f.offset >= task.LogBytes {
			return errCaughtUp
		}
		return nil
	})
	if errors.Is(err, errCaughtUp) {
		err = nil
	}
	return task, err
}

// Cancel asks for a task's end.
func (c *Client) Cancel(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey) (basilica.Task, error) {
	at, err := c.find(ctx, id, miner)
	if err != nil {
		return basilica.Task{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return at.door.Cancel(ctx, c.cfg.Hotkey, id)
}
