package node

import (
	"context"
	"sync"
	"time"

	"basilica/docker"
)

// toolkitEvery is how long a look at the toolkit holds: an owner who has replaced it need not restart the executor.
const toolkitEvery = time.Minute

// toolkitGate keeps real GPUs from tasks while the NVIDIA container toolkit has a published flaw by which a container gets out.
type toolkitGate struct {
	find func(context.Context) docker.Toolkit
	up   func() time.Duration

	mu    sync.Mutex // guards the rest
	known bool
	asked time.Duration
	why   error
}

// refused implements executor.Config.GPUsRefused.
func (g *toolkitGate) refused(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known && g.up()-g.asked < toolkitEvery {
		return g.why
	}
	why := g.find(ctx).Escapes()
	if ctx.Err() == nil {
		g.known, g.asked, g.why = true, g.up(), why
	}
	return why
}
