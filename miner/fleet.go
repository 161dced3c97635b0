package miner

import (
	"context"
	"fmt"
	"time"

	"basilica"
)

// Fleet keeps the enrolled executors and their heartbeats.
type Fleet interface {
	Members(ctx context.Context) ([]basilica.Member, error)
	Member(ctx context.Context, id basilica.ExecutorID) (basilica.Member, error)
	Beat(ctx context.Context, id basilica.ExecutorID, beat basilica.LastBeat, gpus []basilica.GPU, leaseUntil time.Time) (basilica.HeartbeatReply, error)
	SetDrain(ctx context.Context, id basilica.ExecutorID, drain bool) error
}

const grantsShown = 50

// Heartbeat implements basilica.Fleet.
func (m *Miner) Heartbeat(ctx context.Context, executor basilica.ExecutorID, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	if len(beat.GPUs) > maxFactsGPUs || len(beat.Health.Ledger) > maxFactsGPUs+basilica.MaxTaskFiles || len(beat.Version) > 128 || len(beat.Health.Reasons) > 64 {
		return basilica.HeartbeatReply{}, basilica.E(basilica.Invalid, "HEARTBEAT_SIZE", "the heartbeat names more than one machine can have", "use the same version of basilica on both machines")
	}
	now := m.Now()
	last := basilica.LastBeat{At: now, Clock: beat.At.Sub(now), Version: beat.Version, Health: beat.Health}
	reply, err := m.Store.Beat(ctx, executor, last, beat.GPUs, now.Add(m.cfg.TaskLease))
	if err != nil {
		return reply, fmt.Errorf("record heartbeat of %s: %w", executor, err)
	}
	m.bell.ring("")
	reply.At, reply.Lease = now, m.cfg.TaskLease
	return reply, nil
}

// away says why an executor cannot be reached now; nil where it can.
func (m *Miner) away(e basilica.Member) *basilica.Reason {
	if e.LastBeat == nil {
		return &basilica.Reason{Code: "EXECUTOR_SILENT", Sentence: fmt.Sprintf("executor %s has not sent a heartbeat since it was enrolled", e.Executor)}
	}
	if silent := m.Now().Sub(e.LastBeat.At); silent > m.cfg.BeatTTL {
		return &basilica.Reason{Code: "EXECUTOR_SILENT", Sentence: fmt.Sprintf("executor %s has sent no heartbeat for %s", e.Executor, silent.Round(time.Second))}
	}
	return nil
}

// notReady says why an executor takes no task now; nil where it does.
func (m *Miner) notReady(e basilica.Member) *basilica.Reason {
	if why := m.away(e); why != nil {
		return why
	}
	if e.Drain {
		return &basilica.Reason{Code: "EXECUTOR_DRAINS", Sentence: fmt.Sprintf("executor %s is being drained", e.Executor)}
	}
	if !e.LastBeat.Health.OK {
		why := basilica.Reason{Code: "EXECUTOR_UNHEALTHY", Sentence: fmt.Sprintf("executor %s says that it is not well", e.Executor)}
		if len(e.LastBeat.Health.Reasons) > 0 {
			why.Sentence += ": " + e.LastBeat.Health.Reasons[0].Sentence
		}
		return &why
	}
	return nil
}

// boxes gives the fleet as placement sees it: what each executor has, less what unfinished tasks, challenges and
// quarantine hold of it.
func (m *Miner) boxes(members []basilica.Member, open []basilica.TaskRecord) []box {
	fleet := make([]box, 0, len(members))
	tasks := map[basilica.ExecutorID][]basilica.TaskRecord{}
	for _, t := range open {
		if t.State != basilica.TaskQueued {
			tasks[t.Executor] = append(tasks[t.Executor], t)
		}
	}
	for _, e := range members {
		fleet = append(fleet, m.boxOf(e, tasks[e.Executor]))
	}
	return fleet
}

func (m *Miner) boxOf(e basilica.Member, tasks []basilica.TaskRecord) box {
	b := box{id: e.Executor, notReady: m.notReady(e)}
	software := map[string]bool{}
	for _, gpu := range e.Facts.GPUs {
		if gpu.Kind == basilica.GPUSoftware {
			software[gpu.UUID] = true
			b.total.software++
		} else {
			b.total.gpus++
		}
	}
	b.total.cpuMillis, b.total.memoryBytes, b.total.slots = int64(e.Facts.CPUs)*1000, e.Facts.MemoryBytes, 1
	var ledger []basilica.Holding
	if e.LastBeat != nil {
		b.total.slots, b.most = e.LastBeat.Health.MaxTasks, e.LastBeat.Health.Limits
		ledger = e.LastBeat.Health.Ledger
	}
	b.free = b.total
	for _, h := range ledger {
		if h.Kind != basilica.HolderTask {
			b.free = b.free.minus(devices(h.GPUs, software))
		}
	}
	for _, t := range tasks {
		w := wantedOf(t.ID, &t.Spec).on(&b)
		need := amounts{cpuMillis: w.cpuMillis, memoryBytes: w.memoryBytes, slots: 1}
		held := devices(t.GPUs, software)
		if len(t.GPUs) == 0 {
			held, _ = w.share(b.free)
		}
		need.gpus, need.software = held.gpus, held.software
		b.free = b.free.minus(need)
	}
	return b
}

func devices(uuids []string, software map[string]bool) (a amounts) {
	for _, uuid := range uuids {
		if software[uuid] {
			a.software++
		} else {
			a.gpus++
		}
	}
	return a
}

// Offer implements basilica.Miner.
func (m *Miner) Offer(ctx context.Context) (basilica.Offer, error) {
	o := basilica.Offer{Miner: m.self, Version: m.cfg.Version, Compute: m.cfg.Compute, Executors: []basilica.OfferedBox{}}
	members, open, err := m.fleetAndTasks(ctx)
	if err != nil {
		return o, err
	}
	for i, b := range m.boxes(members, open) {
		e := members[i]
		offered := basilica.OfferedBox{
			Executor: e.Executor, Ready: b.notReady == nil, GPUs: b.total.gpus + b.total.software, GPUsFree: b.free.gpus + b.free.software,
			CPUs: e.Facts.CPUs, MemoryBytes: e.Facts.MemoryBytes, TaskCPUMillis: b.ceiling().cpuMillis, TaskMemoryBytes: b.ceiling().memoryBytes, Endorsement: e.Endorsement,
		}
		if len(e.Facts.GPUs) > 0 {
			offered.GPUModel, offered.GPUKind = e.Facts.GPUs[0].Model, e.Facts.GPUs[0].Kind
		}
		o.Executors = append(o.Executors, offered)
	}
	for _, t := range open {
		if t.State == basilica.TaskQueued {
			o.Queue++
		}
	}
	return o, nil
}

func (m *Miner) fleetAndTasks(ctx context.Context) ([]basilica.Member, []basilica.TaskRecord, error) {
	// Tasks first: one that was submitted after a drain never meets the fleet of before.
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list tasks: %w", err)
	}
	members, err := m.Store.Members(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list executors: %w", err)
	}
	return members, open, nil
}

// Members lists the fleet as its operator sees it, without grants.
func (m *Miner) Members(ctx context.Context) ([]basilica.MemberView, error) {
	members, open, err := m.fleetAndTasks(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]basilica.MemberView, 0, len(members))
	for _, e := range members {
		views = append(views, m.view(e, open))
	}
	return views, nil
}

// Member shows one executor, with what validators opened on it.
func (m *Miner) Member(ctx context.Context, id basilica.ExecutorID) (basilica.MemberView, error) {
	e, err := m.Store.Member(ctx, id)
	if err != nil {
		return basilica.MemberView{}, err
	}
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return basilica.MemberView{}, fmt.Errorf("list tasks: %w", err)
	}
	v := m.view(e, open)
	grants, err := m.Store.GrantsOf(ctx, id, grantsShown)
	if err != nil {
		return v, fmt.Errorf("list grants: %w", err)
	}
	v.Grants = append(v.Grants, grants...)
	return v, nil
}

func (m *Miner) view(e basilica.Member, open []basilica.TaskRecord) basilica.MemberView {
	v := basilica.MemberView{Member: e, Why: m.notReady(e), Tasks: []basilica.Task{}, Grants: []basilica.GrantRecord{}}
	v.Ready = v.Why == nil
	for _, t := range open {
		if t.Executor == e.Executor && t.State != basilica.TaskQueued {
			v.Tasks = append(v.Tasks, t.Task)
		}
	}
	return v
}

// Drain says whether an executor takes new tasks; it learns it with its next heartbeat.
func (m *Miner) Drain(ctx context.Context, id basilica.ExecutorID, drain bool) error {
	if err := m.Store.SetDrain(ctx, id, drain); err != nil {
		return err
	}
	m.bell.ring("")
	return nil
}
