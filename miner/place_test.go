package miner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
)

func aBox(id string, gpus, software int) box {
	a := amounts{gpus: gpus, software: software, cpuMillis: 8000, memoryBytes: 16 << 30, slots: 10}
	return box{id: basilica.ExecutorID(id), total: a, free: a}
}

func limited(b box, most basilica.Limits) box {
	b.most = most
	return b
}

func away(b box) box {
	b.notReady = &basilica.Reason{Code: "EXECUTOR_SILENT"}
	return b
}

func paused(b box, gpus int) box {
	b.pause = &pause{left: time.Second, gpus: gpus}
	return b
}

func used(b box, gpus int) box {
	b.free.gpus -= gpus
	return b
}

func TestPlace(t *testing.T) {
	gpus := func(id string, n int) wanted { return wanted{id: basilica.TaskID(id), gpus: n} }
	soft := func(w wanted) wanted { w.allowSoftware = true; return w }
	sealed := func(w wanted, id basilica.ExecutorID) wanted {
		w.sealed = map[basilica.ExecutorID][]byte{id: nil}
		return w
	}
	for name, c := range map[string]struct {
		fleet []box
		queue []wanted
		want  string // "task>executor", "task?CODE" waiting, "task!CODE" impossible, in the queue's order
	}{
		"a task without GPUs leaves GPU boxes alone":   {[]box{aBox("a", 4, 0), aBox("b", 0, 0)}, []wanted{gpus("1", 0)}, "1>b"},
		"the box with most free GPUs":                  {[]box{used(aBox("a", 4, 0), 2), aBox("b", 4, 0)}, []wanted{gpus("1", 1)}, "1>b"},
		"two tasks on two GPUs, the third waits":       {[]box{aBox("a", 2, 0)}, []wanted{gpus("1", 1), gpus("2", 1), gpus("3", 1)}, "1>a 2>a 3?WAITS_FOR_ROOM"},
		"software is not a GPU":                        {[]box{aBox("a", 0, 2)}, []wanted{gpus("1", 1)}, "1!NO_EXECUTOR_FITS"},
		"software where it is allowed":                 {[]box{aBox("a", 0, 2)}, []wanted{soft(gpus("1", 2)), soft(gpus("2", 1))}, "1>a 2?WAITS_FOR_ROOM"},
		"more than any has":                            {[]box{aBox("a", 2, 0), aBox("b", 4, 0)}, []wanted{gpus("1", 8)}, "1!NO_EXECUTOR_FITS"},
		"no executor at all":                           {nil, []wanted{gpus("1", 0)}, "1!NO_EXECUTOR_FITS"},
		"the only able box is away":                    {[]box{away(aBox("a", 2, 0)), aBox("b", 1, 0)}, []wanted{gpus("1", 2)}, "1?EXECUTOR_SILENT"},
		"a small task does not overtake a big one":     {[]box{used(aBox("a", 4, 0), 1)}, []wanted{gpus("big", 4), gpus("small", 1)}, "big?WAITS_FOR_ROOM small?WAITS_FOR_ROOM"},
		"a task without GPUs passes one that waits":    {[]box{used(aBox("a", 4, 0), 1)}, []wanted{gpus("big", 4), gpus("cpu", 0)}, "big?WAITS_FOR_ROOM cpu>a"},
		"another box serves while the first is saved":  {[]box{used(aBox("a", 4, 0), 1), aBox("b", 1, 0)}, []wanted{gpus("big", 4), gpus("small", 1)}, "big?WAITS_FOR_ROOM small>b"},
		"credentials sealed to a busy box wait for it": {[]box{used(aBox("a", 1, 0), 1), aBox("b", 1, 0)}, []wanted{sealed(gpus("1", 1), "a"), gpus("2", 1)}, "1?WAITS_FOR_ROOM 2>b"},
		"credentials sealed to a box that is gone":     {[]box{aBox("b", 1, 0)}, []wanted{sealed(gpus("1", 1), "a")}, "1!REGISTRY_SEALED"},
		"credentials sealed to boxes too small":        {[]box{aBox("a", 1, 0), aBox("b", 1, 0)}, []wanted{sealed(gpus("1", 2), "a")}, "1!NO_EXECUTOR_FITS"},
		"too many CPUs":                                {[]box{aBox("a", 0, 0)}, []wanted{{id: "1", cpuMillis: 9000}}, "1!NO_EXECUTOR_FITS"},
		"too much memory":                              {[]box{aBox("a", 0, 0)}, []wanted{{id: "1", memoryBytes: 17 << 30}}, "1!NO_EXECUTOR_FITS"},
		"more CPUs than one container gets":            {[]box{limited(aBox("a", 0, 0), basilica.Limits{CPUMillis: 4000})}, []wanted{{id: "1", cpuMillis: 5000}, {id: "2", cpuMillis: 4000}}, "1!NO_EXECUTOR_FITS 2>a"},
		"more memory than one container gets":          {[]box{limited(aBox("a", 0, 0), basilica.Limits{MemoryBytes: 8 << 30})}, []wanted{{id: "1", memoryBytes: 9 << 30}, {id: "2", memoryBytes: 8 << 30}}, "1!NO_EXECUTOR_FITS 2>a"},
		"memory that a task takes without saying":      {[]box{limited(aBox("a", 0, 0), basilica.Limits{DefaultMemoryBytes: 10 << 30})}, []wanted{{id: "1"}, {id: "2"}}, "1>a 2?WAITS_FOR_ROOM"},
		"a refused task keeps its place and waits":     {[]box{aBox("a", 1, 0)}, []wanted{{id: "1", gpus: 1, wait: time.Second}, gpus("2", 1)}, "1?RETRY_SOON 2?WAITS_FOR_ROOM"},
		"a busy box is not asked again at once":        {[]box{paused(aBox("a", 2, 0), 1)}, []wanted{gpus("1", 1), gpus("2", 0)}, "1?EXECUTOR_BUSY 2>a"},
		"another box serves while one is busy":         {[]box{paused(aBox("a", 4, 0), 0), aBox("b", 1, 0)}, []wanted{gpus("1", 1)}, "1>b"},
		"a refused task tries another box first":       {[]box{aBox("a", 4, 0), aBox("b", 1, 0)}, []wanted{{id: "1", gpus: 1, refused: map[basilica.ExecutorID]int{"a": 1}}}, "1>b"},
	} {
		p := place(c.fleet, c.queue)
		var got []string
		for _, w := range c.queue {
			for _, at := range p.placements {
				if at.task == w.id {
					got = append(got, fmt.Sprintf("%s>%s", w.id, at.executor))
				}
			}
			if why, ok := p.waiting[w.id]; ok {
				got = append(got, fmt.Sprintf("%s?%s", w.id, why.Code))
			}
			if why, ok := p.impossible[w.id]; ok {
				got = append(got, fmt.Sprintf("%s!%s", w.id, why.Code))
			}
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
}

func TestNoFitNamesTheNearest(t *testing.T) {
	p := place([]box{aBox("small", 1, 0), aBox("big", 4, 2)}, []wanted{{id: "1", gpus: 8, memoryBytes: 32 << 30}, {id: "2", gpus: 6}})
	if got := p.impossible["1"].Sentence; !strings.HasSuffix(got, "the nearest, big, gives one task 4 of 8 GPUs and 16384 of 32768 MiB of memory") {
		t.Error(got)
	}
	if got := p.impossible["2"].Fix; !strings.Contains(got, "--allow-software") {
		t.Error(got)
	}
}

func TestExplain(t *testing.T) {
	fleet := []box{aBox("first", 4, 0), aBox("second", 2, 0), used(aBox("full", 1, 0), 1), away(aBox("gone", 1, 0)), aBox("none", 0, 1), paused(aBox("busy", 1, 0), 1)}
	var got []string
	for _, r := range explain(fleet, []wanted{{id: "before", gpus: 1}}, wanted{gpus: 1}) {
		code := "-"
		if r.why != nil {
			code = r.why.Code
			if r.why.Sentence == "" && code != "EXECUTOR_SILENT" {
				t.Errorf("%s has no sentence", r.executor)
			}
		}
		got = append(got, fmt.Sprintf("%s:%s", r.executor, code))
	}
	want := "first:- second:EXECUTOR_NOT_NEEDED busy:EXECUTOR_BUSY full:WAITS_FOR_ROOM gone:EXECUTOR_SILENT none:EXECUTOR_TOO_SMALL"
	if text := strings.Join(got, " "); text != want {
		t.Errorf("%s, want %s", text, want)
	}
	locked := explain([]box{aBox("a", 2, 0), aBox("b", 1, 0)}, nil, wanted{gpus: 1, sealed: map[basilica.ExecutorID][]byte{"b": nil}})
	if len(locked) != 2 || locked[0].executor != "b" || locked[0].why != nil || locked[1].why == nil || locked[1].why.Code != "REGISTRY_SEALED" {
		t.Errorf("with credentials that are sealed to b: %+v", locked)
	}
	if got := explain(nil, nil, wanted{}); len(got) != 0 {
		t.Errorf("an empty fleet gave %v", got)
	}
}

// What is explained is what is done: the executor that explain puts first is the one that place chooses for the last of
// the queue, and every executor is named once.
func TestExplainAgreesWithPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fleet, queue := genFleet(t), genQueue(t)
		w := wanted{id: "w", gpus: rapid.IntRange(0, 5).Draw(t, "gpus"), allowSoftware: rapid.Bool().Draw(t, "software")}
		reasons := explain(fleet, queue, w)
		seen := map[basilica.ExecutorID]bool{}
		for _, r := range reasons {
			seen[r.executor] = true
		}
		if len(reasons) != len(fleet) || len(seen) != len(fleet) {
			t.Fatalf("%d reasons for %d executors of %d", len(reasons), len(seen), len(fleet))
		}
		p := place(fleet, append(queue[:len(queue):len(queue)], w))
		chosen := basilica.ExecutorID("")
		for _, at := range p.placements {
			if at.task == "w" {
				chosen = at.executor
			}
		}
		for i, r := range reasons {
			if (r.why == nil) != (r.executor == chosen) || r.why == nil && i != 0 {
				t.Fatalf("place chose %q, explain says %+v of %s in place %d", chosen, r.why, r.executor, i)
			}
		}
	})
}

func genFleet(t *rapid.T) []box {
	fleet := make([]box, rapid.IntRange(0, 5).Draw(t, "boxes"))
	for i := range fleet {
		total := amounts{
			gpus: rapid.IntRange(0, 4).Draw(t, "gpus"), software: rapid.IntRange(0, 2).Draw(t, "software"), slots: rapid.IntRange(1, 4).Draw(t, "slots"),
			cpuMillis: 4000, memoryBytes: 8,
		}
		fleet[i] = box{id: basilica.ExecutorID(fmt.Sprintf("e%d", i)), total: total, free: total}
		fleet[i].free = total.minus(amounts{gpus: rapid.IntRange(0, 4).Draw(t, "used"), slots: rapid.IntRange(0, 2).Draw(t, "running")})
		if rapid.IntRange(0, 3).Draw(t, "away") == 0 {
			fleet[i] = away(fleet[i])
		}
		if rapid.IntRange(0, 3).Draw(t, "busy") == 0 {
			fleet[i] = paused(fleet[i], rapid.IntRange(0, 2).Draw(t, "busy for"))
		}
	}
	return fleet
}

func genQueue(t *rapid.T) []wanted {
	queue := make([]wanted, rapid.IntRange(0, 12).Draw(t, "tasks"))
	for i := range queue {
		queue[i] = wanted{
			id: basilica.TaskID(fmt.Sprintf("t%d", i)), gpus: rapid.IntRange(0, 5).Draw(t, "asks"), allowSoftware: rapid.Bool().Draw(t, "software"),
			cpuMillis: int64(rapid.IntRange(0, 5).Draw(t, "cpus")) * 1000, memoryBytes: int64(rapid.IntRange(0, 9).Draw(t, "memory")),
		}
	}
	return queue
}

// Every task stands in exactly one part of the plan, no box is given more than it has, only ready ones are given anything,
// and nothing is impossible that some box could take when empty.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fleet, queue := genFleet(t), genQueue(t)
		p := place(fleet, queue)
		if len(p.placements)+len(p.waiting)+len(p.impossible) != len(queue) {
			t.Fatalf("%d placed, %d wait, %d impossible of %d", len(p.placements), len(p.waiting), len(p.impossible), len(queue))
		}
		byID := map[basilica.TaskID]wanted{}
		for _, w := range queue {
			byID[w.id] = w
		}
		sums := map[basilica.ExecutorID]*struct {
			amounts
			strict int // GPUs that no software device may stand for
		}{}
		for _, at := range p.placements {
			s := sums[at.executor]
			if s == nil {
				s = &struct {
					amounts
					strict int
				}{}
				sums[at.executor] = s
			}
			w := byID[at.task]
			s.gpus += w.gpus
			if !w.allowSoftware {
				s.strict += w.gpus
			}
			s.cpuMillis += w.cpuMillis
			s.memoryBytes += w.memoryBytes
			s.slots++
		}
		for _, b := range fleet {
			s := sums[b.id]
			if s == nil {
				continue
			}
			if b.notReady != nil {
				t.Fatalf("%s is not ready and was given tasks", b.id)
			}
			if s.strict > b.free.gpus || s.gpus > b.free.gpus+b.free.software || s.cpuMillis > b.free.cpuMillis || s.memoryBytes > b.free.memoryBytes || s.slots > b.free.slots {
				t.Fatalf("%s has %+v free and was given %+v", b.id, b.free, s)
			}
		}
		for id := range p.impossible {
			for _, b := range fleet {
				if _, fits := byID[id].share(b.total); fits {
					t.Fatalf("%s fits %s and was called impossible", id, b.id)
				}
			}
		}
	})
}

// The first task that can be placed at all is placed no later because of those behind it, and the plan for a prefix of the
// queue does not depend on the rest.
func TestPlaceIsFirstComeFirstServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fleet, queue := genFleet(t), genQueue(t)
		n := rapid.IntRange(0, len(queue)).Draw(t, "prefix")
		all, first := place(fleet, queue), place(fleet, queue[:n])
		if len(all.placements) < len(first.placements) {
			t.Fatal("a longer queue placed fewer of its first tasks")
		}
		for i, at := range first.placements {
			if all.placements[i] != at {
				t.Fatalf("placement %d is %v, with more behind it %v", i, at, all.placements[i])
			}
		}
	})
}

// A task that fits is placed after finitely many ends, however many smaller ones keep coming behind it.
func TestPlaceStarvesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 4).Draw(t, "gpus")
		boxes := rapid.IntRange(1, 3).Draw(t, "boxes")
		type run struct {
			executor basilica.ExecutorID
			w        wanted
			left     int
		}
		var running []run
		queue := []wanted{}
		for i := range 12 {
			queue = append(queue, wanted{id: basilica.TaskID(fmt.Sprintf("s%d", i)), gpus: 1})
		}
		big := wanted{id: "big", gpus: size}
		for step := range 200 {
			if step == 2 {
				queue = append(queue, big)
			}
			queue = append(queue, wanted{id: basilica.TaskID(fmt.Sprintf("n%d", step)), gpus: rapid.IntRange(0, size).Draw(t, "asks")})
			var fleet []box
			for i := range boxes {
				b := aBox(fmt.Sprintf("e%d", i), size, 0)
				for _, r := range running {
					if r.executor == b.id {
						need, _ := r.w.share(b.free)
						b.free = b.free.minus(need)
					}
				}
				fleet = append(fleet, b)
			}
			p := place(fleet, queue)
			for _, at := range p.placements {
				if at.task == "big" {
					return
				}
				for i, w := range queue {
					if w.id == at.task {
						running = append(running, run{at.executor, w, rapid.IntRange(1, 5).Draw(t, "steps")})
						queue = append(queue[:i:i], queue[i+1:]...)
						break
					}
				}
			}
			kept := running[:0]
			for _, r := range running {
				if r.left--; r.left > 0 {
					kept = append(kept, r)
				}
			}
			running = kept
		}
		t.Fatal("the big task was never placed")
	})
}
