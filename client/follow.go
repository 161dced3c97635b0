package client

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"basilica"
)

// follower writes a log as it comes and keeps count of it, so that a broken connection loses and doubles nothing.
type follower struct {
	out, err       io.Writer
	outSum, errSum hash.Hash
	offset         int64 // bytes of both streams written so far
	last           *basilica.TaskEvent
	progress       bool // an event came since the last connection
}

func newFollower(stdout, stderr io.Writer) *follower {
	return &follower{out: stdout, err: stderr, outSum: sha256.New(), errSum: sha256.New()}
}

func (f *follower) sums() (stdout, stderr basilica.Digest) {
	return basilica.Digest(f.outSum.Sum(nil)), basilica.Digest(f.errSum.Sum(nil))
}

// event takes one event of the stream.
func (f *follower) event(e basilica.TaskEvent) error {
	f.progress = true
	f.last = &e
	if e.Log == nil {
		return nil
	}
	data, at := e.Log.Data, e.Log.Offset
	if at > f.offset {
		return basilica.E(basilica.Internal, "LOG_GAP", fmt.Sprintf("the log jumps from byte %d to %d", f.offset, at), "read it again with `basilica logs`")
	}
	if skip := f.offset - at; skip >= int64(len(data)) {
		return nil
	} else {
		data = data[skip:]
	}
	w, sum := f.out, f.outSum
	if e.Log.Stream == basilica.Stderr {
		w, sum = f.err, f.errSum
	}
	sum.Write(data)
	f.offset += int64(len(data))
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// check compares what was streamed with what the receipt says was written.
func (f *follower) check(r *basilica.Receipt) error {
	stdout, stderr := f.sums()
	if f.offset != r.LogBytes || stdout != r.Stdout || stderr != r.Stderr {
		return basilica.E(basilica.Invalid, "RECEIPT_LOG", fmt.Sprintf("the log that came (%d bytes) is not the one in the receipt (%d bytes)", f.offset, r.LogBytes), "do not trust this result; read the log again with `basilica logs`")
	}
	return nil
}

// follow watches a task to its end, through broken connections, and returns the task as the miner tells it then.
func (c *Client) follow(ctx context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	away := c.cfg.Now()
	for {
		f.progress = false
		err := door.WatchTask(ctx, c.cfg.Hotkey, id, f.offset, f.event)
		if f.progress {
			away = c.cfg.Now()
		}
		if ctx.Err() != nil {
			return basilica.Task{ID: id}, ctx.Err()
		}
		if err == nil && f.last != nil && f.last.State.Terminal() {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			task, err := door.Task(call, c.cfg.Hotkey, id)
			cancel()
			if err == nil && task.State.Terminal() {
				return task, nil
			}
			if err != nil && basilica.KindOf(err) != basilica.Unavailable {
				return basilica.Task{ID: id}, err
			}
		} else if err != nil && basilica.KindOf(err) != basilica.Unavailable {
			return basilica.Task{ID: id}, err
		}
		if c.cfg.Now().Sub(away) > reconnectFor {
			return basilica.Task{ID: id}, basilica.E(basilica.Unavailable, "MINER_AWAY", fmt.Sprintf("the miner has been away for %s; the task may still run", reconnectFor), fmt.Sprintf("look again later: basilica logs %s", id)).With(err)
		}
		c.cfg.Log.Debug("watching again", "task", id, "offset", f.offset, "err", err)
		if err := pause(ctx, reconnectStep); err != nil {
			return basilica.Task{ID: id}, err
		}
	}
}

// followOrCancel follows; when ctx ends it cancels the task and goes on following until its end, for cancelWait.
func (c *Client) followOrCancel(ctx context.Context, door basilica.Miner, id basilica.TaskID, f *follower) (basilica.Task, error) {
	task, err := c.follow(ctx, door, id, f)
	if ctx.Err() == nil {
		return task, err
	}
	c.cfg.Log.Warn("interrupted: cancelling the task and waiting for its end; a second interrupt leaves without waiting", "task", id)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
	defer cancel()
	for {
		_, err = door.Cancel(ending, c.cfg.Hotkey, id)
		if basilica.KindOf(err) != basilica.Unavailable || pause(ending, reconnectStep) != nil {
			break
		}
	}
	if err == nil {
		task, err = c.follow(ending, door, id, f)
	}
	if err != nil && ending.Err() != nil {
		return task, basilica.E(basilica.Unavailable, "CANCEL_UNCONFIRMED", fmt.Sprintf("the end of the task was not confirmed within %s", cancelWait), fmt.Sprintf("look again: basilica ps; then basilica cancel %s", id)).With(err)
	}
	return task, err
}
