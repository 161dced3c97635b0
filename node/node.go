// Package node wires one role each: it is the only room that knows both wings. It decides nothing; a role's decisions
// live in its own room.
package node

import (
	"log/slog"
	"time"
)

// Deps is what every wired role is given from outside.
type Deps struct {
	Log *slog.Logger
	Now func() time.Time
	// Ready is called once, when every door listens, with the door's name and its real address.
	Ready func(addrs map[string]string)
}
