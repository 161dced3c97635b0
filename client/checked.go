package client

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"

	"basilica"
)

// checked is a miner's door whose answers are looked at: a miner is a stranger, and what it says may be about another
// task, in another miner's name, or meant for the terminal of whoever reads it.
type checked struct {
	basilica.Miner
	self  basilica.Hotkey
	miner basilica.Hotkey
}

var taskID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

const maxBoxes = 10_000 // of one offer or plan

func otherTask(what string) error {
	return basilica.E(basilica.Invalid, "TASK_OTHER", "the miner answers with another task than it was asked for: "+what, "use another miner, and tell this one's owner")
}

// task refuses a task that is not the caller's, or not the one that was asked for where id is given.
func (c checked) task(t basilica.Task, id basilica.TaskID) error {
	switch {
	case !taskID.MatchString(string(t.ID)):
		return otherTask(fmt.Sprintf("%.40q is no id of a task", t.ID))
	case id != "" && t.ID != id:
		return otherTask(fmt.Sprintf("%s in place of %s", t.ID, id))
	case t.Client != c.self:
		return otherTask(fmt.Sprintf("it is of client %.60q", t.Client))
	case t.LogStart < 0 || t.LogBytes < t.LogStart || t.LogBytes > basilica.MaxLogBytes:
		return otherTask(fmt.Sprintf("its log is from byte %d to %d", t.LogStart, t.LogBytes))
	}
	return nil
}

// Submit implements basilica.Miner.
func (c checked) Submit(ctx context.Context, req basilica.Submission) (basilica.Task, error) {
	t, err := c.Miner.Submit(ctx, req)
	if err != nil {
		return t, err
	}
	if t.IdempotencyKey != req.IdempotencyKey || t.SpecDigest != basilica.Digest(sha256.Sum256(req.Spec)) {
		return basilica.Task{}, otherTask("its key or its description is another")
	}
	return t, c.task(t, "")
}

// Task implements basilica.Miner.
func (c checked) Task(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	t, err := c.Miner.Task(ctx, caller, id)
	if err == nil {
		err = c.task(t, id)
	}
	return t, err
}

// Cancel implements basilica.Miner.
func (c checked) Cancel(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	t, err := c.Miner.Cancel(ctx, caller, id)
	if err == nil {
		err = c.task(t, id)
	}
	return t, err
}

// Tasks implements basilica.Miner.
func (c checked) Tasks(ctx context.Context, caller basilica.Hotkey, q basilica.TaskQuery) (basilica.TaskPage, error) {
	page, err := c.Miner.Tasks(ctx, caller, q)
	for _, t := range page.Tasks {
		if err == nil {
			err = c.task(t, "")
		}
	}
	return page, err
}

// WatchTask implements basilica.Miner. What an event says of the log, the follower checks.
func (c checked) WatchTask(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID, logOffset int64, f func(basilica.TaskEvent) error) error {
	return c.Miner.WatchTask(ctx, caller, id, logOffset, func(e basilica.TaskEvent) error {
		if e.Task != id {
			return otherTask(fmt.Sprintf("an event of %.40q", e.Task))
		}
		return f(e)
	})
}

// Offer implements basilica.Miner.
func (c checked) Offer(ctx context.Context) (basilica.Offer, error) {
	o, err := c.Miner.Offer(ctx)
	if err == nil {
		err = c.sameMiner(o.Miner, len(o.Executors))
	}
	return o, err
}

// Plan implements basilica.Miner.
func (c checked) Plan(ctx context.Context, caller basilica.Hotkey, spec []byte) (basilica.Plan, error) {
	p, err := c.Miner.Plan(ctx, caller, spec)
	if err == nil {
		err = c.sameMiner(p.Miner, len(p.Boxes))
	}
	return p, err
}

func (c checked) sameMiner(named basilica.Hotkey, boxes int) error {
	if named != c.miner || boxes > maxBoxes {
		return basilica.E(basilica.Invalid, "MINER_OTHER", fmt.Sprintf("the miner %s answers as %.60q with %d machines", c.miner, named, boxes), "use another miner, and tell this one's owner")
	}
	return nil
}
