package miner

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"basilica"
)

// news is what this process has heard of executors by their heartbeats, and which of them said since that they are busy.
type news struct {
	mu    sync.Mutex // guards the rest
	heard map[basilica.ExecutorID]word
	busy  map[basilica.ExecutorID]*resting
}

// word is an executor's last heartbeat.
type word struct {
	at    time.Time
	shows string
}

// resting is an executor that was too busy for a task.
type resting struct {
	until       time.Time
	tries       int
	gpus        int
	memoryBytes int64
}

func newNews() *news {
	return &news{heard: map[basilica.ExecutorID]word{}, busy: map[basilica.ExecutorID]*resting{}}
}

// shows is what of an executor's health decides whether it could take a task; leases that are renewed change nothing.
func shows(h basilica.Health) string {
	var b strings.Builder
	fmt.Fprint(&b, h.OK, h.Tasks, h.MaxTasks)
	for _, held := range h.Ledger {
		fmt.Fprint(&b, ";", held.Kind, held.Holder, held.Fence, held.GPUs)
	}
	return b.String()
}

// beat takes an executor's word on itself. Where it differs from the last one the executor may be asked again at once.
func (n *news) beat(id basilica.ExecutorID, h basilica.Health, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := word{at: at, shows: shows(h)}
	if n.heard[id].shows != now.shows {
		delete(n.busy, id)
	}
	n.heard[id] = now
}

// silent says whether nothing was heard of an executor for so long, by this process.
func (n *news) silent(id basilica.ExecutorID, now time.Time, long time.Duration) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	w, ok := n.heard[id]
	return !ok || now.Sub(w.at) > long
}

// has says whether this process has heard of an executor at all.
func (n *news) has(id basilica.ExecutorID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.heard[id]
	return ok
}

// refused records that an executor was too busy for something, at least for so many GPUs and bytes of memory, and that it
// is to be left alone for wait of the number of refusals in a row.
func (n *news) refused(id basilica.ExecutorID, gpus int, memoryBytes int64, now time.Time, wait func(tries int) time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.busy[id]
	if r == nil {
		r = &resting{gpus: gpus, memoryBytes: memoryBytes}
		n.busy[id] = r
	}
	r.gpus, r.memoryBytes, r.tries = min(r.gpus, gpus), min(r.memoryBytes, memoryBytes), r.tries+1
	r.until = now.Add(wait(r.tries))
}

// took records that an executor has taken a task.
func (n *news) took(id basilica.ExecutorID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.busy, id)
}

// pauseOf is what placement has to know of an executor that was busy.
func (n *news) pauseOf(id basilica.ExecutorID, now time.Time) *pause {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.busy[id]
	if r == nil || !now.Before(r.until) {
		return nil
	}
	return &pause{left: r.until.Sub(now), gpus: r.gpus, memoryBytes: r.memoryBytes}
}
