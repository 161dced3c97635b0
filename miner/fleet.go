package miner

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"basilica"
	"basilica/pki"
)

// Fleet keeps the enrolled executors and their heartbeats.
type Fleet interface {
	Members(ctx context.Context) ([]basilica.Member, error)
	Member(ctx context.Context, id basilica.ExecutorID) (basilica.Member, error)
	MembersPage(ctx context.Context, cursor string, limit int) (members []basilica.Member, next string, err error)
	Beat(ctx context.Context, id basilica.ExecutorID, beat basilica.LastBeat, gpus []basilica.GPU, trust basilica.Digest, lease time.Duration) (basilica.HeartbeatReply, error)
	SetDrain(ctx context.Context, id basilica.ExecutorID, drain bool, until time.Time) error
	SetName(ctx context.Context, id basilica.ExecutorID, name string) error
	SetLabels(ctx context.Context, id basilica.ExecutorID, set map[string]string, remove []string, most int) (map[string]string, error)
	RevokeExecutor(ctx context.Context, id basilica.ExecutorID, now time.Time) error
	RenewCertificate(ctx context.Context, id basilica.ExecutorID, shown, fresh []byte, rotated *basilica.SignedEndorsement) error
}

const (
	grantsShown      = 50
	membersShown     = 1000
	maxName          = 128
	maxLabels        = 64
	maxDrain         = 30 * 24 * time.Hour
	clockTolerance   = pki.Backdate
	fixClock         = "set the clock of that machine by NTP: timedatectl set-ntp true"
	fixReachable     = "open that port of the machine to the miner; where its address has changed, join it again: basilica token create"
	expiresTooSoon   = 4 // a certificate with less than this part of its life left was not renewed in time
	probesAtOnce     = 16
	probeFailsToTell = 2
)

// Heartbeat implements basilica.Fleet.
func (m *Miner) Heartbeat(ctx context.Context, executor basilica.ExecutorID, beat basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	if len(beat.GPUs) > maxFactsGPUs || len(beat.Health.Ledger) > maxFactsGPUs+basilica.MaxTaskFiles || len(beat.Version) > 128 || len(beat.Health.Reasons) > 64 {
		return basilica.HeartbeatReply{}, basilica.E(basilica.Invalid, "HEARTBEAT_SIZE", "the heartbeat names more than one machine can have", "use the same version of basilica on both machines")
	}
	if err := m.twins.judge(executor, beat, m.Now(), m.cfg.BeatTTL); err != nil {
		return basilica.HeartbeatReply{}, err
	}
	now := m.Now()
	last := basilica.LastBeat{At: now, Clock: beat.At.Sub(now), Version: beat.Version, Health: beat.Health}
	reply, err := m.Store.Beat(ctx, executor, last, beat.GPUs, beat.Trust, m.cfg.LostAfter)
	if basilica.KindOf(err) == basilica.Unavailable {
		m.Log.DebugContext(ctx, "heartbeat not recorded", "executor", executor, "err", err)
		reply, err = m.unrecorded(ctx, executor)
	}
	if err != nil {
		return reply, fmt.Errorf("record heartbeat of %s: %w", executor, err)
	}
	m.news.beat(executor, beat.Health, now)
	m.bell.ring("")
	reply.At, reply.Lease, reply.Trust = now, m.cfg.LostAfter, m.trust().Digest()
	return reply, nil
}

// unrecorded answers a heartbeat that the store cannot record, for its disk is full or it is locked: what runs is to go on
// all the same, so its leases are renewed by what the store says.
func (m *Miner) unrecorded(ctx context.Context, id basilica.ExecutorID) (reply basilica.HeartbeatReply, err error) {
	e, err := m.Store.Member(ctx, id)
	if err != nil {
		return reply, err
	}
	if e.Revoked != nil {
		return reply, basilica.RevokedError(id, *e.Revoked)
	}
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return reply, err
	}
	reply.Drain = e.Drain
	for _, t := range open {
		if t.Executor != id || !t.Offered {
			continue
		}
		reply.Renew = append(reply.Renew, t.TaskRef())
		if t.Cancel || e.DrainOver {
			reply.Cancel = append(reply.Cancel, t.TaskRef())
		}
	}
	return reply, nil
}

// away says why an executor cannot be reached now; nil where it can.
func (m *Miner) away(e basilica.Member) *basilica.Reason {
	if e.Revoked != nil {
		why := reasonOf(basilica.RevokedError(e.Executor, *e.Revoked))
		return &why
	}
	if e.LastBeat == nil {
		return &basilica.Reason{Code: "EXECUTOR_SILENT", Sentence: fmt.Sprintf("executor %s has not sent a heartbeat since it was enrolled", e.Executor), Fix: "start it on its machine: systemctl start basilica-executor, or basilica executor --config FILE"}
	}
	if silent := e.LastBeat.Silent; silent > m.cfg.BeatTTL {
		return &basilica.Reason{Code: "EXECUTOR_SILENT", Sentence: fmt.Sprintf("executor %s has sent no heartbeat for %s", e.Executor, silent.Round(time.Second)), Fix: "look at its log on its machine: journalctl -u basilica-executor"}
	}
	return m.wrongClock(e)
}

// wrongClock refuses a machine whose clock is off further than certificates and tokens are dated back: its doors would
// refuse what the miner signs now.
func (m *Miner) wrongClock(e basilica.Member) *basilica.Reason {
	d := e.LastBeat.Clock.Round(time.Second)
	if d.Abs() <= clockTolerance {
		return nil
	}
	side, off := "ahead of", d
	if d < 0 {
		side, off = "behind", -d
	}
	return &basilica.Reason{Code: "EXECUTOR_CLOCK", Sentence: fmt.Sprintf("the clock of executor %s is %d s %s the miner's", e.Executor, off/time.Second, side), Fix: fixClock}
}

// notReady says why an executor takes no task now; nil where it does.
func (m *Miner) notReady(e basilica.Member) *basilica.Reason {
	if e.Revoked == nil && e.LastBeat != nil && m.up() < m.cfg.BeatTTL && !m.news.has(e.Executor) {
		return &basilica.Reason{Code: "EXECUTOR_NOT_HEARD", Sentence: fmt.Sprintf("the miner has just started and has not heard of executor %s yet", e.Executor), Fix: "wait some seconds"}
	}
	if why := m.away(e); why != nil {
		return why
	}
	if why := m.reach.of(e.Executor); why != nil {
		return why
	}
	if named := e.LastBeat.GPUs; named < len(e.Facts.GPUs) {
		return &basilica.Reason{
			Code: "EXECUTOR_INVENTORY", Sentence: fmt.Sprintf("executor %s names %d of its %d GPUs", e.Executor, named, len(e.Facts.GPUs)),
			Fix: "look at the GPUs of that machine; where they were taken out, join it again: basilica token create",
		}
	}
	if e.Drain {
		return &basilica.Reason{Code: "EXECUTOR_DRAINS", Sentence: fmt.Sprintf("executor %s is being drained", e.Executor), Fix: fmt.Sprintf("give it tasks again: basilica fleet drain %s --undo", e.Executor)}
	}
	if !e.LastBeat.Health.OK {
		why := basilica.Reason{Code: "EXECUTOR_UNHEALTHY", Sentence: fmt.Sprintf("executor %s says that it is not well", e.Executor), Fix: "look at its log on its machine: journalctl -u basilica-executor"}
		if len(e.LastBeat.Health.Reasons) > 0 {
			first := e.LastBeat.Health.Reasons[0]
			why.Sentence += ": " + first.Sentence
			why.Fix = cmp.Or(first.Fix, why.Fix)
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
	b := box{id: e.Executor, notReady: m.notReady(e), pause: m.news.pauseOf(e.Executor, m.Now())}
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
		offered.State = stateOf(&basilica.MemberView{Member: e, Why: b.notReady})
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

// fleetAndTasks lists the members that were not revoked, and the tasks that have not ended.
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
	return slices.DeleteFunc(members, func(e basilica.Member) bool { return e.Revoked != nil }), open, nil
}

// Members lists a part of the fleet as its operator sees it, without grants: by id, at most limit (0: 1000) from the cursor
// on.
func (m *Miner) Members(ctx context.Context, cursor string, limit int) (basilica.MemberPage, error) {
	if limit <= 0 || limit > membersShown {
		limit = membersShown
	}
	page := basilica.MemberPage{Executors: []basilica.MemberView{}}
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return page, fmt.Errorf("list tasks: %w", err)
	}
	members, next, err := m.Store.MembersPage(ctx, cursor, limit)
	if err != nil {
		return page, err
	}
	page.Next = next
	for _, e := range members {
		page.Executors = append(page.Executors, m.view(e, open))
	}
	return page, nil
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
	v := basilica.MemberView{Member: e, Why: m.notReady(e), Tasks: []basilica.Task{}, Grants: []basilica.GrantRecord{}, Notes: []basilica.Reason{}}
	v.Ready = v.Why == nil
	for _, t := range open {
		if t.Executor == e.Executor && t.State != basilica.TaskQueued {
			v.Tasks = append(v.Tasks, t.Task)
		}
	}
	v.State = stateOf(&v)
	m.notes(&v)
	return v
}

// stateOf is one word for a member.
func stateOf(v *basilica.MemberView) string {
	if v.Why == nil {
		return "ready"
	}
	switch v.Why.Code {
	case "EXECUTOR_REVOKED":
		return "revoked"
	case "EXECUTOR_CLOCK":
		return "clock"
	case "EXECUTOR_UNREACHABLE":
		return "unreachable"
	case "EXECUTOR_NOT_HEARD", "EXECUTOR_INVENTORY":
		return "unknown"
	case "EXECUTOR_SILENT":
		if v.LastBeat == nil {
			return "unknown"
		}
		return "silent"
	case "EXECUTOR_DRAINS":
		if len(v.Tasks) == 0 {
			return "drained"
		}
		return "draining"
	}
	return "unhealthy"
}

// notes are what a member's owner should mend beside the reason why it is not ready.
func (m *Miner) notes(v *basilica.MemberView) {
	e, note := &v.Member, func(code, sentence, fix string) {
		v.Notes = append(v.Notes, basilica.Reason{Code: code, Sentence: sentence, Fix: fix})
	}
	if e.Revoked != nil {
		return
	}
	if twin := m.twins.of(e.Executor, m.Now(), m.cfg.BeatTTL); twin != "" {
		note("IDENTITY_TWICE", fmt.Sprintf("two machines speak as executor %s: the second from %s is refused", e.Executor, twin),
			"one disk is a copy of the other: stop the copy, empty its data directory, and join it with a token of its own")
	}
	if e.LastBeat != nil && e.LastBeat.Version != "" && m.cfg.Version != "" && e.LastBeat.Version != m.cfg.Version {
		note("EXECUTOR_VERSION", fmt.Sprintf("executor %s runs basilica %s, the miner %s", e.Executor, e.LastBeat.Version, m.cfg.Version), "install the miner's version on that machine and restart it")
	}
	if e.LastBeat != nil && e.LastBeat.Health.OK {
		v.Notes = append(v.Notes, e.LastBeat.Health.Reasons...) // it serves in spite of them
	}
	cert, err := x509.ParseCertificate(e.Certificate)
	if err != nil {
		return
	}
	v.Ends = cert.NotAfter
	switch left := cert.NotAfter.Sub(m.Now()); {
	case m.Now().Before(cert.NotBefore):
		note("CERTIFICATE_EARLY", fmt.Sprintf("the certificate of executor %s begins %d s from now: a clock was wrong when it was made", e.Executor, cert.NotBefore.Sub(m.Now())/time.Second), "nothing: the executor replaces it by itself when it is heard of again")
	case left <= 0:
		note("CERTIFICATE_EXPIRED", fmt.Sprintf("the certificate of executor %s ended on %s", e.Executor, cert.NotAfter.UTC().Format(time.DateOnly)), "join it again with a new token: basilica token create")
	case left < cert.NotAfter.Sub(cert.NotBefore)/expiresTooSoon:
		note("CERTIFICATE_ENDS", fmt.Sprintf("the certificate of executor %s ends on %s and was not renewed", e.Executor, cert.NotAfter.UTC().Format(time.DateOnly)), "start the executor: it renews by itself; after that day it must join again")
	}
}

// Drain says whether an executor takes new tasks, and for how long what runs may go on; 0: until it ends. It learns it with
// its next heartbeat.
func (m *Miner) Drain(ctx context.Context, id basilica.ExecutorID, drain bool, deadline time.Duration) error {
	if deadline < 0 || deadline > maxDrain {
		return basilica.E(basilica.Invalid, "DRAIN_DEADLINE", fmt.Sprintf("a drain cannot wait for %s", deadline), fmt.Sprintf("choose at most %s", maxDrain))
	}
	var until time.Time
	if drain && deadline > 0 {
		until = m.Now().Add(deadline)
	}
	if err := m.Store.SetDrain(ctx, id, drain, until); err != nil {
		return err
	}
	m.bell.ring("")
	return nil
}

// Rename changes the name that an executor is shown under; its id stays, for certificates and receipts hold it. An empty
// name removes it.
func (m *Miner) Rename(ctx context.Context, id basilica.ExecutorID, name string) error {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return basilica.E(basilica.Invalid, "DISPLAY_NAME", fmt.Sprintf("%.140q cannot be shown as a name", name), fmt.Sprintf("use at most %d printable characters", maxName))
	}
	return m.Store.SetName(ctx, id, name)
}

// Label sets some labels of an executor, removes others, and gives all that it has then.
func (m *Miner) Label(ctx context.Context, id basilica.ExecutorID, set map[string]string, remove []string) (map[string]string, error) {
	if err := basilica.ValidateLabels(set); err != nil {
		return nil, err
	}
	return m.Store.SetLabels(ctx, id, set, remove, maxLabels)
}

// Revoke ends an executor's membership: its certificates are refused at every door from now on, its connections end, its
// tasks are lost or placed again, and it comes back with a new token alone.
func (m *Miner) Revoke(ctx context.Context, id basilica.ExecutorID) error {
	now := m.Now()
	if err := m.Store.RevokeExecutor(ctx, id, now); err != nil {
		return err
	}
	m.Log.WarnContext(ctx, "executor revoked", "executor", id)
	m.Cut(id, basilica.RevokedError(id, now))
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	m.bell.ring("")
	for _, t := range open {
		if t.Executor == id {
			m.bell.ring(t.ID)
		}
	}
	return nil
}
