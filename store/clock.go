package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// runClock counts the time that passes, in microseconds. Leases, claims and whatever else lasts for a while are computed
// and compared by it alone: it never steps when the machine's clock is set, and it goes on after a restart from where the
// database saw it last. There is one per database file, whose lock admits one process.
type runClock struct {
	now    func() time.Time     // the machine's clock
	passed func() time.Duration // since the database was opened, whatever was done to the machine's clock
	base   int64                // of this clock then
}

// openRunClock goes on from the stored moment by what the machine's clock says has passed since, and by nothing where
// that has gone backwards: what was to last lasts too long then, never too short. A new database begins at the machine's time.
func openRunClock(ctx context.Context, db *sql.DB, now func() time.Time) (*runClock, error) {
	start := now() // with time.Now it carries the monotonic reading that Sub goes by
	c := &runClock{now: now, passed: func() time.Duration { return now().Sub(start) }}
	wall := micros(start)
	var run, at int64
	err := db.QueryRowContext(ctx, `SELECT run, wall FROM clock`).Scan(&run, &at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		c.base = wall
	case err != nil:
		return nil, mapped(fmt.Errorf("read clock: %w", err))
	default:
		c.base = run + max(wall-at, 0)
	}
	_, err = db.ExecContext(ctx, `INSERT INTO clock (one, run, wall) VALUES (1, $1, $2) ON CONFLICT (one) DO UPDATE SET run = $1, wall = $2`, c.base, wall)
	if err != nil {
		return nil, mapped(fmt.Errorf("set clock: %w", err))
	}
	return c, nil
}

// at is the moment of now.
func (c *runClock) at() int64 { return c.base + c.passed().Microseconds() }

// mark gives the moment of now and stores it, so that a later process does not fall behind it.
func (c *runClock) mark(ctx context.Context, tx *sql.Tx) (int64, error) {
	at := c.at()
	if _, err := tx.ExecContext(ctx, `UPDATE clock SET run = $1, wall = $2`, at, micros(c.now())); err != nil {
		return 0, fmt.Errorf("set clock: %w", err)
	}
	return at, nil
}

// left is what remains until a stored moment; negative where it is over.
func (c *runClock) left(until int64) time.Duration { return micro(until - c.at()) }

// moment is when the machine's clock will show, or has shown, t; what happens to that clock meanwhile changes nothing.
func (c *runClock) moment(t time.Time) int64 { return c.at() + t.Sub(c.now()).Microseconds() }

func micro(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
