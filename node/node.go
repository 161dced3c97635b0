// Package node wires one role each: it is the only room that knows both wings. It decides nothing; a role's decisions
// live in its own room.
package node

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"basilica/client"
)

// Deps is what every wired role is given from outside.
type Deps struct {
	Log *slog.Logger
	Now func() time.Time
	// Ready is called once, when every door listens, with the door's name and its real address.
	Ready func(addrs map[string]string)
	// Progress is told of the client's files on their way; nil: nobody watches.
	Progress func(client.Transfer)
}

// closers give back what a role took, last first.
type closers []func() error

func (c *closers) add(f ...func() error) { *c = append(*c, f...) }

// close may be called again; then nothing is left to do.
func (c *closers) close() error {
	var errs []error
	for _, f := range slices.Backward(*c) {
		errs = append(errs, f())
	}
	*c = nil
	return errors.Join(errs...)
}
