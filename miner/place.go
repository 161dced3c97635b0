package miner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"basilica"
)

// amounts is what a task asks for and what a box has. GPUs and software devices are counted apart: a software device
// serves only a task that allows it.
type amounts struct {
	gpus        int
	software    int
	cpuMillis   int64
	memoryBytes int64
	slots       int // containers
}

// box is one executor as placement sees it.
type box struct {
	id       basilica.ExecutorID
	notReady *basilica.Reason // why it takes nothing now; nil: it is ready
	total    amounts
	free     amounts
	most     basilica.Limits // of one container, by the executor's own word
	pause    *pause          // it said that it is busy; nil: it did not, or has changed since
}

// pause keeps an executor from being asked again at once for what it has just been too busy for. It applies to tasks that
// ask for at least as much.
type pause struct {
	left        time.Duration // until it is asked again even where its heartbeats show no change
	gpus        int
	memoryBytes int64
}

func (p *pause) holds(w wanted) bool {
	return p != nil && p.left > 0 && w.gpus >= p.gpus && w.memoryBytes >= p.memoryBytes
}

// ceiling is what one task could have of the box when nothing else is on it.
func (b *box) ceiling() amounts {
	have := b.total
	if b.most.CPUMillis > 0 {
		have.cpuMillis = min(have.cpuMillis, b.most.CPUMillis)
	}
	if b.most.MemoryBytes > 0 {
		have.memoryBytes = min(have.memoryBytes, b.most.MemoryBytes)
	}
	return have
}

// wanted is one queued task as placement sees it.
type wanted struct {
	id            basilica.TaskID
	gpus          int
	allowSoftware bool
	cpuMillis     int64
	memoryBytes   int64
	sealed        map[basilica.ExecutorID][]byte // the only ones that can open its registry credentials; nil: it has none
	wait          time.Duration                  // until it may be offered again
	refused       map[basilica.ExecutorID]int    // attempts that an executor did not take
}

// wantedOf is a task in placement's terms.
func wantedOf(id basilica.TaskID, spec *basilica.TaskSpec) wanted {
	w := wanted{id: id, gpus: spec.GPUs, allowSoftware: spec.AllowSoftware, cpuMillis: spec.CPUMillis, memoryBytes: spec.MemoryBytes}
	if spec.Registry != nil {
		w.sealed = spec.Registry.Sealed
	}
	return w
}

// placement gives a task its executor.
type placement struct {
	task     basilica.TaskID
	executor basilica.ExecutorID
}

// plan is what placement came to: every task of the queue stands in exactly one of its parts.
type plan struct {
	placements []placement
	waiting    map[basilica.TaskID]basilica.Reason // why not now
	impossible map[basilica.TaskID]*basilica.Error // no executor of the fleet could ever take it
	left       []box                               // the fleet less what the queue takes and waits for
}

// place gives the tasks of a queue, first come first, to executors with room. A task that has to wait reserves room on
// the ready executor that is nearest to taking it, so that a later task never takes what an earlier one waits for. It has
// no memory and no clock but its arguments.
func place(fleet []box, queue []wanted) plan {
	p := plan{waiting: map[basilica.TaskID]basilica.Reason{}, impossible: map[basilica.TaskID]*basilica.Error{}, left: slices.Clone(fleet)}
	for _, w := range queue {
		able, ready := w.candidates(p.left)
		if len(able) == 0 {
			p.impossible[w.id] = noFit(fleet, w)
			continue
		}
		if len(ready) == 0 {
			p.waiting[w.id] = *able[0].notReady
			continue
		}
		taken := slices.IndexFunc(ready, w.fitsNow)
		if w.wait > 0 || taken < 0 {
			p.waiting[w.id] = w.whyWait(ready[0])
			w.reserve(ready[0])
			continue
		}
		need, _ := w.on(ready[taken]).share(ready[taken].free)
		ready[taken].free = ready[taken].free.minus(need)
		p.placements = append(p.placements, placement{task: w.id, executor: ready[taken].id})
	}
	return p
}

// candidates are the boxes that could take w when empty, and those of them that take tasks now, best first.
func (w wanted) candidates(boxes []box) (able, ready []*box) {
	for i := range boxes {
		b := &boxes[i]
		if !w.fits(b) || !w.opens(b) {
			continue
		}
		able = append(able, b)
		if b.notReady == nil {
			ready = append(ready, b)
		}
	}
	slices.SortStableFunc(ready, w.prefer)
	return able, ready
}

// fits says that b has what w asks for when nothing else is on it.
func (w wanted) fits(b *box) bool {
	_, ok := w.on(b).share(b.ceiling())
	return ok
}

// opens says that b can open w's registry credentials.
func (w wanted) opens(b *box) bool {
	_, ok := w.sealed[b.id]
	return ok || w.sealed == nil
}

func (w wanted) fitsNow(b *box) bool {
	_, ok := w.on(b).share(b.free)
	return ok && !b.pause.holds(w.on(b))
}

// whyWait says why w is not placed on b, which is the nearest to taking it.
func (w wanted) whyWait(b *box) basilica.Reason {
	if _, ok := w.on(b).share(b.free); !ok {
		return basilica.Reason{Code: "WAITS_FOR_ROOM", Sentence: fmt.Sprintf("it waits for room; %s has %s free", b.id, missing(w.on(b), b.free)), Fix: fixWait}
	}
	if b.pause.holds(w.on(b)) {
		return basilica.Reason{Code: "EXECUTOR_BUSY", Sentence: fmt.Sprintf("executor %s was busy when it was asked; it is asked again when that changes, and in %s at the latest", b.id, b.pause.left.Round(time.Millisecond)), Fix: fixWait}
	}
	return basilica.Reason{Code: "RETRY_SOON", Sentence: fmt.Sprintf("an executor did not take it or lost it; it is offered again in %s", w.wait.Round(time.Millisecond)), Fix: fixWait}
}

// fixWait is what a client can do about a task that waits.
const fixWait = "wait, or cancel it and choose another miner: basilica ls"

// boxReason says of one executor why it is not the one that a task would go to; nil: it is.
type boxReason struct {
	executor basilica.ExecutorID
	why      *basilica.Reason
}

// explain says for every executor of a fleet what a task that comes after the queue would find there: first the one that
// it would go to now, if there is one, then the others from the nearest to the farthest.
func explain(fleet []box, queue []wanted, w wanted) []boxReason {
	left := place(fleet, queue).left
	able, ready := w.candidates(left)
	var out []boxReason
	why := func(b *box, r basilica.Reason) { out = append(out, boxReason{b.id, &r}) }
	chosen := slices.IndexFunc(ready, w.fitsNow)
	if chosen >= 0 {
		out = append(out, boxReason{ready[chosen].id, nil})
	}
	for i, b := range ready {
		switch {
		case i == chosen:
		case w.fitsNow(b):
			why(b, basilica.Reason{Code: "EXECUTOR_NOT_NEEDED", Sentence: fmt.Sprintf("executor %s has room, and %s comes first", b.id, ready[chosen].id), Fix: "nothing; the task has a place"})
		default:
			why(b, w.whyWait(b))
		}
	}
	for _, b := range able {
		if b.notReady != nil {
			why(b, *b.notReady)
		}
	}
	for i := range left {
		b := &left[i]
		if slices.Contains(able, b) {
			continue
		}
		if w.fits(b) {
			why(b, basilica.Reason{Code: "REGISTRY_SEALED", Sentence: fmt.Sprintf("the registry credentials are not sealed to executor %s", b.id), Fix: fixSealed})
		} else {
			why(b, basilica.Reason{Code: "EXECUTOR_TOO_SMALL", Sentence: fmt.Sprintf("executor %s gives one task %s", b.id, missing(w.on(b), b.ceiling())), Fix: fixFit(w, b)})
		}
	}
	return out
}

// on fills in what w takes on b where its task does not say.
func (w wanted) on(b *box) wanted {
	if w.memoryBytes == 0 {
		w.memoryBytes = max(b.most.DefaultMemoryBytes, 0)
	}
	return w
}

// share is the part of what a box has that w would take; false where it is not enough.
func (w wanted) share(have amounts) (amounts, bool) {
	need := amounts{cpuMillis: w.cpuMillis, memoryBytes: w.memoryBytes, slots: 1}
	if w.allowSoftware {
		need.software = min(w.gpus, max(have.software, 0))
	}
	need.gpus = w.gpus - need.software
	ok := need.gpus <= max(have.gpus, 0) && need.cpuMillis <= have.cpuMillis && need.memoryBytes <= have.memoryBytes && need.slots <= have.slots
	return need, ok
}

// reserve takes w's part from what is free, and where there is too little of a thing, all of it.
func (w wanted) reserve(b *box) {
	need, _ := w.on(b).share(b.free)
	b.free = b.free.minus(need)
}

func (a amounts) minus(b amounts) amounts {
	return amounts{
		gpus: max(a.gpus-b.gpus, 0), software: max(a.software-b.software, 0), slots: max(a.slots-b.slots, 0),
		cpuMillis: max(a.cpuMillis-b.cpuMillis, 0), memoryBytes: max(a.memoryBytes-b.memoryBytes, 0),
	}
}

// prefer orders boxes for w: fewest refusals first, then for a task without GPUs the box with the fewest GPUs, for any
// other the box with the most that are free, then the most free containers, then by id.
func (w wanted) prefer(a, b *box) int {
	order := cmp.Compare(w.refused[a.id], w.refused[b.id])
	if order == 0 && w.gpus == 0 {
		order = cmp.Compare(a.total.gpus+a.total.software, b.total.gpus+b.total.software)
	}
	if order == 0 && w.gpus > 0 {
		order = cmp.Compare(w.usable(b.free), w.usable(a.free))
	}
	return cmp.Or(order, cmp.Compare(b.free.slots, a.free.slots), cmp.Compare(a.id, b.id))
}

func (w wanted) usable(a amounts) int {
	if w.allowSoftware {
		return a.gpus + a.software
	}
	return a.gpus
}

// noFit says that no box could ever take w, which is nearest, and what that lacks.
func noFit(fleet []box, w wanted) *basilica.Error {
	if len(fleet) == 0 {
		return basilica.E(basilica.Exhausted, "NO_EXECUTOR_FITS", "this miner has no executor", "choose another miner: basilica ls")
	}
	if slices.ContainsFunc(fleet, func(b box) bool { return w.fits(&b) }) {
		return basilica.E(basilica.Denied, "REGISTRY_SEALED", "the task's registry credentials are sealed to no executor of this miner that has what it asks for", fixSealed)
	}
	best := slices.MinFunc(fleet, func(x, y box) int {
		a, b := x.ceiling(), y.ceiling()
		return cmp.Or(cmp.Compare(len(w.on(&x).lacks(a)), len(w.on(&y).lacks(b))), cmp.Compare(w.usable(b), w.usable(a)),
			cmp.Compare(b.memoryBytes, a.memoryBytes), cmp.Compare(b.cpuMillis, a.cpuMillis), cmp.Compare(x.id, y.id))
	})
	return basilica.E(basilica.Exhausted, "NO_EXECUTOR_FITS",
		fmt.Sprintf("no executor of this miner has what the task asks for; the nearest, %s, gives one task %s", best.id, missing(w.on(&best), best.ceiling())), fixFit(w, &best))
}

const fixSealed = "submit the task again: the client seals them to the machines that the miner has now"

// fixFit is what a client can do where b has not what w asks for.
func fixFit(w wanted, b *box) string {
	if !w.allowSoftware && w.gpus > b.total.gpus && w.gpus <= b.total.gpus+b.total.software {
		return "its other devices are software; add --allow-software to use them, or choose another miner: basilica ls"
	}
	return "ask for less, or choose another miner: basilica ls"
}

// lacks names what have is short of for w, as "N of M things".
func (w wanted) lacks(have amounts) []string {
	var short []string
	if n := w.usable(have); w.gpus > n {
		short = append(short, fmt.Sprintf("%d of %d GPUs", max(n, 0), w.gpus))
	}
	if w.cpuMillis > have.cpuMillis {
		short = append(short, fmt.Sprintf("%.3g of %.3g CPUs", float64(max(have.cpuMillis, 0))/1000, float64(w.cpuMillis)/1000))
	}
	if w.memoryBytes > have.memoryBytes {
		short = append(short, fmt.Sprintf("%d of %d MiB of memory", max(have.memoryBytes, 0)>>20, (w.memoryBytes+1<<20-1)>>20))
	}
	if have.slots < 1 {
		short = append(short, "0 of 1 containers")
	}
	return short
}

func missing(w wanted, have amounts) string {
	short := w.lacks(have)
	if len(short) == 0 {
		return "room" // share and lacks count the same things
	}
	return strings.Join(short, " and ")
}
