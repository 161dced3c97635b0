package client

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"time"

	"basilica"
)

// follower writes a log as it comes and keeps count of it, so that a broken connection loses and doubles nothing.
type follower struct {
	out, err       io.Writer
	outSum, errSum hash.Hash
	from           int64 // the first byte of both streams together that is counted
	offset         int64 // the next byte
	show           int64 // bytes before this one are counted and not written
	last           *basilica.TaskEvent
	progress       bool // an event came since the last connection
}

func newFollower(from int64, stdout, stderr io.Writer) *follower {
	return &follower{out: stdout, err: stderr, outSum: sha256.New(), errSum: sha256.New(), from: from, offset: from}
}

func (f *follower) sums() (stdout, stderr basilica.Digest) {
	return basilica.Digest(f.outSum.Sum(nil)), basilica.Digest(f.errSum.Sum(nil))
}

// forgotten says that the task has ended and the miner keeps nothing of the log that was asked for.
func (f *follower) forgotten() bool {
	return f.last != nil && f.last.LogForgotten && f.offset == f.from
}

func badLog(code, format string, args ...any) error {
	return basilica.E(basilica.Invalid, code, fmt.Sprintf(format, args...), "read it again with `basilica logs`; if it stays so, tell the miner's owner")
}

// event takes one event of the stream. The log goes on at exactly the byte where it stands: a miner is asked for it from
// there on.
func (f *follower) event(e basilica.TaskEvent) error {
	f.progress = true
	f.last = &e
	if e.Log == nil {
		return nil
	}
	data, at := e.Log.Data, e.Log.Offset
	switch {
	case at > f.offset:
		return badLog("LOG_GAP", "the log jumps from byte %d to %d", f.offset, at)
	case at < f.offset:
		return badLog("LOG_BACK", "the log goes back from byte %d to %d", f.offset, at)
	case f.offset+int64(len(data)) > basilica.MaxLogBytes:
		return badLog("LOG_SIZE", "the log has more than the %d bytes that a task may write", int64(basilica.MaxLogBytes))
	}
	w, sum := f.out, f.outSum
	switch e.Log.Stream {
	case basilica.Stdout:
	case basilica.Stderr:
		w, sum = f.err, f.errSum
	default:
		return badLog("LOG_STREAM", "a piece of the log is of stream %d, and there are two", e.Log.Stream)
	}
	sum.Write(data)
	f.offset += int64(len(data))
	if hidden := f.show - at; hidden > 0 {
		data = data[min(hidden, int64(len(data))):]
	}
	if len(data) == 0 {
		return nil
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// check compares what was streamed with what the receipt says was written.
func (f *follower) check(r *basilica.Receipt) error {
	stdout, stderr := f.sums()
	if f.offset-f.from != r.LogBytes || stdout != r.Stdout || stderr != r.Stderr {
		return basilica.E(basilica.Invalid, "RECEIPT_LOG", fmt.Sprintf("the log that came (%d bytes) is not the one in the receipt (%d bytes)", f.offset-f.from, r.LogBytes), "do not trust this result; read the log again with `basilica logs`")
	}
	return nil
}

// logStays is how long after a task's end a miner that has not its log is a fault.
const logStays = time.Hour

// checkLog compares the log of the attempt that the receipt is about, unless the miner keeps it no more. A task that ran more
// than once has the logs of its earlier attempts before it; then that part is read once more by itself.
func (c *Client) checkLog(ctx context.Context, door basilica.Miner, task basilica.Task, f *follower, r *basilica.Receipt) (*follower, error) {
	if f.forgotten() && c.cfg.Now().Sub(r.Ended) > logStays {
		return f, nil
	}
	if task.LogStart == f.from {
		return f, f.check(r)
	}
	own := newFollower(task.LogStart, io.Discard, io.Discard)
	if _, err := c.follow(ctx, door, task.ID, own); err != nil {
		return f, err
	}
	return own, own.check(r)
}

// follow watches a task to its end, through broken connections, and returns the task as the miner tells it then.
func (c *Client) follow(ctx context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	tries := c.attempts()
	for {
		f.progress = false
		task, err := c.watch(ctx, door, id, f)
		if err == nil {
			return task, nil
		}
		if ctx.Err() != nil {
			return basilica.Task{ID: id}, ctx.Err()
		}
		if err := tries.next(ctx, err, f.progress); err != nil {
			switch {
			case ctx.Err() != nil:
				err = ctx.Err()
			case broken(err):
				err = basilica.E(basilica.Unavailable, "MINER_AWAY", fmt.Sprintf("the miner has been away for %s; the task may still run", reconnectFor), attachFix(id, f.offset)).With(err)
			}
			return basilica.Task{ID: id}, err
		}
		c.cfg.Log.Debug("watching again", "task", id, "offset", f.offset, "err", err)
	}
}

// errUnfinished is a watch that ended before the task did.
var errUnfinished = basilica.E(basilica.Unavailable, "WATCH_ENDED", "the miner ended the stream before the task's end", "watch again from the last offset")

// watch is one connection of follow.
func (c *Client) watch(ctx context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	if err := door.WatchTask(ctx, c.cfg.Hotkey, id, f.offset, f.event); err != nil {
		return basilica.Task{}, err
	}
	if f.last == nil || !f.last.State.Terminal() {
		return basilica.Task{}, errUnfinished
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	task, err := door.Task(call, c.cfg.Hotkey, id)
	if err == nil && !task.State.Terminal() {
		err = errUnfinished
	}
	return task, err
}

func attachFix(id basilica.TaskID, offset int64) string {
	return fmt.Sprintf("come back to it: basilica attach %s --since-offset %d", id, offset)
}

// followOrCancel follows. When ctx ends it waits for a moment, in which an end of leave lets the task run on; then it
// cancels the task and goes on following until its end, for cancelWait or until leave ends.
func (c *Client) followOrCancel(ctx, leave context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	task, err := c.follow(ctx, door, id, f)
	if ctx.Err() == nil {
		return task, err
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cancelAfter+c.cancelWait)
	defer cancel()
	defer context.AfterFunc(leave, cancel)()
	c.cfg.Log.Warn(fmt.Sprintf("interrupted: the task is cancelled in %s; a second interrupt until then leaves it running, a later one leaves without waiting for its end", c.cancelAfter), "task", id)
	asked := false
	for !asked && pause(ending, c.cancelAfter) == nil {
		_, err = door.Cancel(ending, c.cfg.Hotkey, id)
		if asked = err == nil; !asked && ending.Err() == nil && basilica.KindOf(err) != basilica.Unavailable {
			return task, err
		}
	}
	if asked {
		task, err = c.follow(ending, door, id, f)
	}
	switch {
	case ending.Err() == nil || asked && err == nil:
		return task, err
	case leave.Err() == nil:
		return task, basilica.E(basilica.Unavailable, "CANCEL_UNCONFIRMED", fmt.Sprintf("the end of the task was not confirmed within %s", c.cancelWait), fmt.Sprintf("look again: basilica ps; then basilica cancel %s", id)).With(err)
	case asked:
		return task, basilica.E(basilica.Unavailable, "TASK_LEFT", "left while the task was being cancelled", attachFix(id, f.offset))
	}
	return task, basilica.E(basilica.Unavailable, "TASK_LEFT", "left the task running", fmt.Sprintf("%s; or end it: basilica cancel %s", attachFix(id, f.offset), id))
}
