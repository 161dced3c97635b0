package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"basilica"
)

// maxListed bounds how many tasks one miner is asked for.
const maxListed = 10_000

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

// Tasks asks every miner of the index for the caller's latest tasks, newest first.
func (c *Client) Tasks(ctx context.Context) ([]Listed, []Away, error) {
	entries, err := c.cfg.Index.Entries()
	if err != nil {
		return nil, nil, err
	}
	var miners []basilica.Hotkey
	for _, e := range entries {
		if !slices.Contains(miners, e.Miner) {
			miners = append(miners, e.Miner)
		}
	}
	var listed []Listed
	var away []Away
	for _, m := range miners {
		tasks, err := c.tasksOf(ctx, m)
		if err != nil {
			away = append(away, Away{Miner: m, Error: err.Error()})
			continue
		}
		for _, t := range tasks {
			listed = append(listed, Listed{Miner: m, Task: t})
		}
	}
	slices.SortStableFunc(listed, func(a, b Listed) int {
		return cmp.Or(b.Task.Created.Compare(a.Task.Created), cmp.Compare(a.Task.ID, b.Task.ID))
	})
	return listed, away, ctx.Err()
}

func (c *Client) tasksOf(ctx context.Context, miner basilica.Hotkey) ([]basilica.Task, error) {
	_, door, err := c.byHotkey(ctx, miner)
	if err != nil {
		return nil, err
	}
	var tasks []basilica.Task
	for q := (basilica.TaskQuery{Limit: basilica.MaxPage}); ; {
		page, err := c.taskPage(ctx, door, q)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, page.Tasks...)
		if q.After = page.Next; q.After == "" || len(tasks) >= maxListed || len(page.Tasks) == 0 {
			return tasks, nil
		}
	}
}

func (c *Client) taskPage(ctx context.Context, door basilica.Miner, q basilica.TaskQuery) (basilica.TaskPage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return door.Tasks(ctx, c.cfg.Hotkey, q)
}

// find opens the door of the miner that has the task: the given one, or the index's.
func (c *Client) find(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey) (basilica.Miner, error) {
	if miner == "" {
		entries, err := c.cfg.Index.Entries()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Task == id {
				miner = e.Miner
			}
		}
		if miner == "" {
			return nil, basilica.E(basilica.NotFound, "TASK_UNKNOWN", fmt.Sprintf("task %.80q was not submitted from this data directory", id), "name its miner with --miner HOTKEY, or list your tasks with `basilica ps`")
		}
	}
	_, door, err := c.byHotkey(ctx, miner)
	return door, err
}

// errCaughtUp ends a watch that has seen all that was there when it began.
var errCaughtUp = errors.New("caught up")

// Logs writes a task's log: with follow to its end, otherwise what there is now. It returns the task as it stands then.
func (c *Client) Logs(ctx context.Context, id basilica.TaskID, miner basilica.Hotkey, follow bool, stdout, stderr io.Writer) (basilica.Task, error) {
	door, err := c.find(ctx, id, miner)
	if err != nil {
		return basilica.Task{}, err
	}
	f := newFollower(stdout, stderr)
	if follow {
		return c.follow(ctx, door, id, f)
	}
	task, err := door.Task(ctx, c.cfg.Hotkey, id)
	if err != nil || task.LogBytes == 0 {
		return task, err
	}
	err = door.WatchTask(ctx, c.cfg.Hotkey, id, 0, func(e basilica.TaskEvent) error {
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
	door, err := c.find(ctx, id, miner)
	if err != nil {
		return basilica.Task{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return door.Cancel(ctx, c.cfg.Hotkey, id)
}
