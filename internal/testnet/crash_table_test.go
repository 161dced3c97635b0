package testnet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"basilica"
)

// crashTries is how often in all a process may fail to come to a point: some stand where it comes now and then alone.
const crashTries = 8

// crashQueue holds what is still to be killed, by role.
type crashQueue struct {
	mu     sync.Mutex // guards what follows
	random *rand.Rand
	left   map[string][]crashPoint
	missed map[crashPoint]int // how often a process did not come to the point
	rare   map[crashPoint]int // kills that rare points still lack: whoever comes to one dies there too
}

func newCrashQueue(t *testing.T, points, rare []crashPoint, kills int) *crashQueue {
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d points, %d kills each, order %d", len(points), kills, seed)
	q := &crashQueue{random: rand.New(rand.NewPCG(seed, 0)), left: map[string][]crashPoint{}, missed: map[crashPoint]int{}, rare: map[crashPoint]int{}}
	for _, p := range rare {
		if slices.Contains(points, p) {
			q.rare[p] = kills
		}
	}
	common := slices.DeleteFunc(slices.Clone(points), func(p crashPoint) bool { return q.rare[p] > 0 })
	for _, some := range [][]crashPoint{common, slices.Collect(maps.Keys(q.rare))} {
		for range kills {
			q.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			for _, p := range some {
				q.left[p.role] = append(q.left[p.role], p)
			}
		}
	}
	return q
}

// empty says that no role has anything left.
func (q *crashQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, left := range q.left {
		if len(left) > 0 {
			return false
		}
	}
	return true
}

// next gives the next point of a role, at which hit of it to die, and whether no other role may die meanwhile.
func (q *crashQueue) next(role string) (p crashPoint, n int, alone, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for enough := true; enough; {
		if len(q.left[role]) == 0 {
			return p, 0, false, false
		}
		p, q.left[role] = q.left[role][0], q.left[role][1:]
		lacks, rare := q.rare[p]
		enough = rare && lacks <= 0
	}
	if missed := q.missed[p]; missed > 0 { // every other time alone: some points need that others die
		return p, 1, missed%2 == 1, true
	}
	return p, 1 + q.random.IntN(3), false, true
}

// also gives the rare points of a role that still lack kills, as the rest of a plan.
func (q *crashQueue) also(role string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	plan := ""
	for p, kills := range q.rare {
		if p.role == role && kills > 0 {
			plan += " " + p.name
		}
	}
	return plan
}

// met says at which point a process died that was to die at p: there, at a rare one or, late, at one that was given up; then p is
// still to come.
func (q *crashQueue) met(p crashPoint, name string) (crashPoint, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if name == p.name {
		if _, rare := q.rare[p]; rare {
			q.rare[p]--
		}
		return p, nil
	}
	for rare := range q.rare {
		if rare.role == p.role && rare.name == name {
			q.rare[rare]--
			q.left[p.role] = append(q.left[p.role], p)
			return rare, nil
		}
	}
	for late := range q.missed {
		if late.role == p.role && late.name == name {
			q.left[p.role] = append(q.left[p.role], p)
			return late, nil
		}
	}
	return p, fmt.Errorf("it died at %q, which nobody asked for", name)
}

// stop leaves nothing to be killed.
func (q *crashQueue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.left)
}

// later puts a point at the end for which it was no time.
func (q *crashQueue) later(p crashPoint) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.left) > 0 {
		q.left[p.role] = append(q.left[p.role], p)
	}
}

// again puts a point that was not reached at the end; false where it has had its chances.
func (q *crashQueue) again(p crashPoint) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.missed[p]++; q.missed[p] >= crashTries || len(q.left) == 0 {
		return false
	}
	q.left[p.role] = append(q.left[p.role], p)
	return true
}

// crashTable is what came of all kills.
type crashTable struct {
	mu     sync.Mutex // guards what follows
	began  time.Time
	kills  int
	rows   map[crashPoint]*crashTally
	states map[basilica.TaskState]int
	lost   map[string]int // jobs that ended as lost, by the code of their reason
	last   []string
}

func newCrashTable() *crashTable {
	return &crashTable{began: time.Now(), rows: map[crashPoint]*crashTally{}, states: map[basilica.TaskState]int{}, lost: map[string]int{}}
}

// crashTally is what came of the kills at one point.
type crashTally struct {
	kills, lost, doubled, orphans int
}

func (b *crashTable) tally(p crashPoint, change func(*crashTally)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rows[p] == nil {
		b.rows[p] = &crashTally{}
	}
	change(b.rows[p])
}

// progress counts a kill; every twenty-fifth has a line to say.
func (b *crashTable) progress() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kills++; b.kills%25 != 0 {
		return ""
	}
	return fmt.Sprintf("%d kills in %s", b.kills, time.Since(b.began).Round(time.Second))
}

// note remembers the latest kills, and gives them.
func (b *crashTable) note(what string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if what != "" {
		b.last = append(b.last, time.Now().Format("15:04:05.0 ")+what)
		b.last = b.last[max(0, len(b.last)-12):]
	}
	return strings.Join(b.last, "; ")
}

// print gives point, kills and what came of them.
func (b *crashTable) print(points []crashPoint) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "role\tpoint\tkills\tjobs lost\tdoubled\torphans")
	var sum crashTally
	for _, p := range append(slices.Clone(points), crashPoint{"all", "", "at the end"}) {
		row := b.rows[p]
		if row == nil {
			row = &crashTally{}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\n", p.role, p.name, row.kills, row.lost, row.doubled, row.orphans)
		sum.kills += row.kills
		sum.lost += row.lost
		sum.doubled += row.doubled
		sum.orphans += row.orphans
	}
	fmt.Fprintf(w, "all\t%d points\t%d\t%d\t%d\t%d\n", len(points), sum.kills, sum.lost, sum.doubled, sum.orphans)
	_ = w.Flush() // a Builder takes everything
	fmt.Fprintf(&text, "jobs by their end: %v; those that were lost said why: %v\n", b.states, b.lost)
	return text.String()
}
