package wire

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"basilica"
	"basilica/wire/wirepb"
)

// Caps on what one message may hold beside its size in bytes.
const (
	maxItems  = basilica.MaxOrders // entries of any list
	maxName   = 256                // bytes of an id, a UUID or a code
	maxLease  = 24 * time.Hour
	maxOffset = 1 << 50
	maxKeys   = 4 // of a kind that an executor is to trust
)

// gpuKinds, holderKinds, taskStates and logStreams are the numbers of names; position is the number on the wire.
var (
	gpuKinds    = [...]basilica.GPUKind{"", basilica.GPUWhole, basilica.GPUMIG, basilica.GPUVirtual, basilica.GPUSoftware}
	holderKinds = [...]basilica.HolderKind{"", basilica.HolderTask, basilica.HolderChallenge, basilica.HolderQuarantine}
	taskStates  = [...]basilica.TaskState{
		"", basilica.TaskQueued, basilica.TaskPlaced, basilica.TaskPulling, basilica.TaskRunning, basilica.TaskSucceeded,
		basilica.TaskFailed, basilica.TaskCancelled, basilica.TaskTimedOut, basilica.TaskLost,
	}
	logStreams = [...]basilica.LogStream{0, basilica.Stdout, basilica.Stderr}
)

// number finds a name's number; an unknown name is 0, which the other end refuses.
func number[T comparable](names []T, name T) int32 {
	for i, n := range names {
		if n == name {
			return int32(i)
		}
	}
	return 0
}

// name reverses number and refuses what is not named.
func name[T comparable](what string, names []T, n int32) (T, error) {
	if n <= 0 || int(n) >= len(names) {
		var none T
		return none, malformed("%s %d is unknown", what, n)
	}
	return names[n], nil
}

func malformed(format string, args ...any) error {
	return basilica.E(basilica.Invalid, "MESSAGE_MALFORMED", "the peer's message is malformed: "+fmt.Sprintf(format, args...), "run the same version of basilica on both machines")
}

// text makes s fit for a protobuf string, which must be UTF-8; what the kernel calls a thing need not be.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// each converts a list; an empty one becomes nil.
func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// eachErr converts a list of bounded length and stops at the first refusal.
func eachErr[A, B any](what string, in []A, f func(A) (B, error)) ([]B, error) {
	if len(in) > maxItems {
		return nil, malformed("%d %s, more than %d", len(in), what, maxItems)
	}
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		var err error
		if out[i], err = f(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func instant(t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, malformed("a time is out of range")
	}
	return t.AsTime(), nil
}

func lease(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > maxLease {
		return 0, malformed("a lease is outside 0..%s", maxLease)
	}
	return d.AsDuration(), nil
}

func digest(b []byte) (basilica.Digest, error) {
	var d basilica.Digest
	if len(b) != len(d) {
		return d, malformed("a SHA-256 of %d bytes", len(b))
	}
	copy(d[:], b)
	return d, nil
}

// fromDigest gives a digest's bytes, none for the zero one; digestOrNone reverses it.
func fromDigest(d basilica.Digest) []byte {
	if d == (basilica.Digest{}) {
		return nil
	}
	return d[:]
}

func digestOrNone(b []byte) (basilica.Digest, error) {
	if len(b) == 0 {
		return basilica.Digest{}, nil
	}
	return digest(b)
}

func shortName(what, s string) (string, error) {
	if len(s) > maxName {
		return "", malformed("%s of %d bytes, more than %d", what, len(s), maxName)
	}
	return s, nil
}

// pointer copies an optional number into another integer type.
func pointer[A, B int | int32 | int64 | uint64](p *A) *B {
	if p == nil {
		return nil
	}
	v := B(*p)
	return &v
}

func toReason(r basilica.Reason) *wirepb.Reason {
	return &wirepb.Reason{Code: text(r.Code), Sentence: text(r.Sentence), Fix: text(r.Fix)}
}

func fromReason(r *wirepb.Reason) basilica.Reason {
	return basilica.Reason{Code: r.GetCode(), Sentence: r.GetSentence(), Fix: r.GetFix()}
}

func toGPU(g basilica.GPU) *wirepb.GPU {
	return &wirepb.GPU{
		Index: int32(g.Index), Kind: wirepb.GPUKind(number(gpuKinds[:], g.Kind)), Uuid: text(g.UUID), Model: text(g.Model),
		MemoryBytes: pointer[uint64, uint64](g.MemoryBytes), Pci: text(g.PCI), Driver: text(g.Driver), Unified: g.Unified,
	}
}

func fromGPU(g *wirepb.GPU) (basilica.GPU, error) {
	kind, err := name("kind of GPU", gpuKinds[:], int32(g.GetKind()))
	if err != nil {
		return basilica.GPU{}, err
	}
	return basilica.GPU{
		Index: int(g.GetIndex()), Kind: kind, UUID: g.GetUuid(), Model: g.GetModel(),
		MemoryBytes: pointer[uint64, uint64](g.MemoryBytes), PCI: g.GetPci(), Driver: g.GetDriver(), Unified: g.GetUnified(),
	}, nil
}

func toFacts(f basilica.Facts) *wirepb.SystemInfo {
	return &wirepb.SystemInfo{
		Hostname: text(f.Hostname), Os: text(f.OS), Kernel: text(f.Kernel), BootId: text(f.BootID), CpuModel: text(f.CPUModel), Cpus: int32(f.CPUs),
		MemoryBytes: f.MemoryBytes, DiskBytes: f.DiskBytes, DiskFreeBytes: f.DiskFreeBytes,
		Engine: text(f.Engine), EngineVersion: text(f.EngineVersion), Version: text(f.Version),
		Gpus: each(f.GPUs, toGPU),
		Network: each(f.Network, func(i basilica.Iface) *wirepb.Interface {
			return &wirepb.Interface{Name: text(i.Name), Addrs: each(i.Addrs, text), Mbps: pointer[int64, int64](i.Mbps)}
		}),
		Findings: each(f.Findings, toReason),
	}
}

func fromFacts(s *wirepb.SystemInfo) (basilica.Facts, error) {
	gpus, err := eachErr("GPUs", s.GetGpus(), fromGPU)
	if err != nil {
		return basilica.Facts{}, err
	}
	network, err := eachErr("network interfaces", s.GetNetwork(), func(i *wirepb.Interface) (basilica.Iface, error) {
		addrs, err := eachErr("addresses", i.GetAddrs(), func(a string) (string, error) { return shortName("address", a) })
		return basilica.Iface{Name: i.GetName(), Addrs: addrs, Mbps: pointer[int64, int64](i.Mbps)}, err
	})
	if err != nil {
		return basilica.Facts{}, err
	}
	findings, err := eachErr("findings", s.GetFindings(), func(r *wirepb.Reason) (basilica.Reason, error) { return fromReason(r), nil })
	if err != nil {
		return basilica.Facts{}, err
	}
	return basilica.Facts{
		Hostname: s.GetHostname(), OS: s.GetOs(), Kernel: s.GetKernel(), BootID: s.GetBootId(), CPUModel: s.GetCpuModel(), CPUs: int(s.GetCpus()),
		MemoryBytes: s.GetMemoryBytes(), DiskBytes: s.GetDiskBytes(), DiskFreeBytes: s.GetDiskFreeBytes(),
		Engine: s.GetEngine(), EngineVersion: s.GetEngineVersion(), Version: s.GetVersion(), GPUs: gpus, Network: network, Findings: findings,
	}, nil
}

func toHolding(h basilica.Holding) *wirepb.Holding {
	return &wirepb.Holding{
		Kind: wirepb.HolderKind(number(holderKinds[:], h.Kind)), Holder: text(h.Holder), Gpus: each(h.GPUs, text), Fence: h.Fence, Expires: stamp(h.Expires),
	}
}

func fromHolding(h *wirepb.Holding) (basilica.Holding, error) {
	kind, err := name("kind of holder", holderKinds[:], int32(h.GetKind()))
	if err != nil {
		return basilica.Holding{}, err
	}
	holder, err := shortName("holder", h.GetHolder())
	if err != nil {
		return basilica.Holding{}, err
	}
	gpus, err := eachErr("GPUs of a holder", h.GetGpus(), func(u string) (string, error) { return shortName("GPU", u) })
	if err != nil {
		return basilica.Holding{}, err
	}
	expires, err := instant(h.GetExpires())
	return basilica.Holding{Kind: kind, Holder: holder, GPUs: gpus, Fence: h.GetFence(), Expires: expires}, err
}

func toHealth(h basilica.Health) *wirepb.HealthStatus {
	return &wirepb.HealthStatus{
		Ok: h.OK, Reasons: each(h.Reasons, toReason), Ledger: each(h.Ledger, toHolding), Tasks: int32(h.Tasks), MaxTasks: int32(h.MaxTasks),
		Limits: &wirepb.Limits{CpuMillis: h.Limits.CPUMillis, MemoryBytes: h.Limits.MemoryBytes, DefaultMemoryBytes: h.Limits.DefaultMemoryBytes},
	}
}

func fromHealth(h *wirepb.HealthStatus) (basilica.Health, error) {
	ledger, err := eachErr("holdings", h.GetLedger(), fromHolding)
	if err != nil {
		return basilica.Health{}, err
	}
	reasons, err := eachErr("reasons", h.GetReasons(), func(r *wirepb.Reason) (basilica.Reason, error) { return fromReason(r), nil })
	limits := basilica.Limits{
		CPUMillis: h.GetLimits().GetCpuMillis(), MemoryBytes: h.GetLimits().GetMemoryBytes(), DefaultMemoryBytes: h.GetLimits().GetDefaultMemoryBytes(),
	}
	return basilica.Health{OK: h.GetOk(), Reasons: reasons, Ledger: ledger, Tasks: int(h.GetTasks()), MaxTasks: int(h.GetMaxTasks()), Limits: limits}, err
}

func toAttempt(t basilica.TaskAttempt) *wirepb.Attempt {
	return &wirepb.Attempt{Task: text(string(t.Task)), Attempt: int32(t.Attempt)}
}

func fromAttempt(a *wirepb.Attempt) (basilica.TaskAttempt, error) {
	task, err := shortName("task id", a.GetTask())
	if err != nil {
		return basilica.TaskAttempt{}, err
	}
	if task == "" || a.GetAttempt() < 1 {
		return basilica.TaskAttempt{}, malformed("attempt %d of task %q", a.GetAttempt(), task)
	}
	return basilica.TaskAttempt{Task: basilica.TaskID(task), Attempt: int(a.GetAttempt())}, nil
}

func toExecute(r basilica.ExecuteRequest) *wirepb.ExecuteRequest {
	return &wirepb.ExecuteRequest{
		Attempt: toAttempt(basilica.TaskAttempt{Task: r.Task, Attempt: r.Attempt}),
		Client:  text(string(r.Client)), Spec: r.Spec, Lease: durationpb.New(r.Lease),
	}
}

func fromExecute(r *wirepb.ExecuteRequest) (basilica.ExecuteRequest, error) {
	at, err := fromAttempt(r.GetAttempt())
	if err != nil {
		return basilica.ExecuteRequest{}, err
	}
	client, err := shortName("client", r.GetClient())
	if err != nil {
		return basilica.ExecuteRequest{}, err
	}
	if len(r.GetSpec()) > basilica.MaxSpecBytes {
		return basilica.ExecuteRequest{}, malformed("a task spec of %d bytes, more than %d", len(r.GetSpec()), basilica.MaxSpecBytes)
	}
	d, err := lease(r.GetLease())
	return basilica.ExecuteRequest{Task: at.Task, Attempt: at.Attempt, Client: basilica.Hotkey(client), Spec: r.GetSpec(), Lease: d}, err
}

func toBlob(b basilica.Blob) *wirepb.Blob { return &wirepb.Blob{Sha256: b.SHA256[:], Size: b.Size} }

func fromBlob(b *wirepb.Blob) (basilica.Blob, error) {
	sum, err := digest(b.GetSha256())
	if err != nil {
		return basilica.Blob{}, err
	}
	if b.GetSize() < 0 || b.GetSize() > basilica.MaxBlobBytes {
		return basilica.Blob{}, malformed("a blob of %d bytes, outside 0..%d", b.GetSize(), int64(basilica.MaxBlobBytes))
	}
	return basilica.Blob{SHA256: sum, Size: b.GetSize()}, nil
}

func toEndorsement(e basilica.SignedEndorsement) *wirepb.Endorsement {
	return &wirepb.Endorsement{Payload: e.Payload, Signature: e.Signature, Former: e.Former}
}

func fromEndorsement(e *wirepb.Endorsement) basilica.SignedEndorsement {
	return basilica.SignedEndorsement{Payload: e.GetPayload(), Signature: e.GetSignature(), Former: e.GetFormer()}
}

func toEvent(e basilica.TaskEvent) *wirepb.TaskEvent {
	out := &wirepb.TaskEvent{
		Attempt: toAttempt(basilica.TaskAttempt{Task: e.Task, Attempt: e.Attempt}), State: wirepb.TaskState(number(taskStates[:], e.State)),
		At: stamp(e.At), ExitCode: pointer[int, int32](e.ExitCode),
		Outputs: each(e.Outputs, func(f basilica.TaskFile) *wirepb.TaskFile {
			return &wirepb.TaskFile{Name: text(f.Name), Blob: toBlob(f.Blob)}
		}),
	}
	if e.Reason != nil {
		out.Reason = toReason(*e.Reason)
	}
	if e.Log != nil {
		out.Log = &wirepb.LogChunk{Offset: e.Log.Offset, Stream: wirepb.LogStream(number(logStreams[:], e.Log.Stream)), Data: e.Log.Data}
	}
	if e.Receipt != nil {
		out.Receipt = &wirepb.Receipt{
			Payload: e.Receipt.Payload, ExecutorSignature: e.Receipt.ExecutorSig, MinerSignature: e.Receipt.MinerSig,
			Endorsement: toEndorsement(e.Receipt.Endorsement),
		}
	}
	return out
}

func fromEvent(e *wirepb.TaskEvent) (basilica.TaskEvent, error) {
	at, err := fromAttempt(e.GetAttempt())
	if err != nil {
		return basilica.TaskEvent{}, err
	}
	state, err := name("task state", taskStates[:], int32(e.GetState()))
	if err != nil {
		return basilica.TaskEvent{}, err
	}
	when, err := instant(e.GetAt())
	if err != nil {
		return basilica.TaskEvent{}, err
	}
	out := basilica.TaskEvent{Task: at.Task, Attempt: at.Attempt, State: state, At: when, ExitCode: pointer[int32, int](e.ExitCode)}
	out.Outputs, err = eachErr("outputs", e.GetOutputs(), func(f *wirepb.TaskFile) (basilica.TaskFile, error) {
		blob, err := fromBlob(f.GetBlob())
		return basilica.TaskFile{Name: f.GetName(), Blob: blob}, err
	})
	if err != nil {
		return basilica.TaskEvent{}, err
	}
	if err := basilica.ValidateFiles(out.Outputs); err != nil {
		return basilica.TaskEvent{}, err
	}
	if e.GetReason() != nil {
		r := fromReason(e.GetReason())
		out.Reason = &r
	}
	if l := e.GetLog(); l != nil {
		stream, err := name("log stream", logStreams[:], int32(l.GetStream()))
		if err != nil {
			return basilica.TaskEvent{}, err
		}
		if l.GetOffset() < 0 || l.GetOffset() > maxOffset {
			return basilica.TaskEvent{}, malformed("log offset %d", l.GetOffset())
		}
		out.Log = &basilica.LogChunk{Offset: l.GetOffset(), Stream: stream, Data: l.GetData()}
	}
	if r := e.GetReceipt(); r != nil {
		out.Receipt = &basilica.SignedReceipt{
			Payload: r.GetPayload(), ExecutorSig: r.GetExecutorSignature(), MinerSig: r.GetMinerSignature(), Endorsement: fromEndorsement(r.GetEndorsement()),
		}
	}
	return out, nil
}

func toEnroll(r basilica.EnrollRequest) *wirepb.EnrollRequest {
	return &wirepb.EnrollRequest{
		Token: text(r.Token), Name: text(r.Name), Csr: r.CSR, Addr: text(r.Addr), SshAddr: text(r.SSHAddr), HostKey: r.HostKey, AttestSpki: r.AttestSPKI, Facts: toFacts(r.Facts),
		Miner: text(string(r.Miner)),
	}
}

func fromEnroll(r *wirepb.EnrollRequest) (basilica.EnrollRequest, error) {
	for what, s := range map[string]string{"name": r.GetName(), "address": r.GetAddr(), "SSH address": r.GetSshAddr(), "miner": r.GetMiner()} {
		if _, err := shortName(what, s); err != nil {
			return basilica.EnrollRequest{}, err
		}
	}
	facts, err := fromFacts(r.GetFacts())
	return basilica.EnrollRequest{
		Token: r.GetToken(), Name: r.GetName(), CSR: r.GetCsr(), Addr: r.GetAddr(), SSHAddr: r.GetSshAddr(), HostKey: r.GetHostKey(), AttestSPKI: r.GetAttestSpki(), Facts: facts,
		Miner: basilica.Hotkey(r.GetMiner()),
	}, err
}

func toEnrollment(e basilica.Enrollment) *wirepb.Enrollment {
	return &wirepb.Enrollment{
		Executor: text(string(e.Executor)), Miner: text(string(e.Miner)), Certificate: e.Certificate, Trust: toTrust(e.Trust), Endorsement: toEndorsement(e.Endorsement),
	}
}

func fromEnrollment(e *wirepb.Enrollment) (basilica.Enrollment, error) {
	trust, err := fromTrust(e.GetTrust())
	return basilica.Enrollment{
		Executor: basilica.ExecutorID(e.GetExecutor()), Miner: basilica.Hotkey(e.GetMiner()), Certificate: e.GetCertificate(), Trust: trust,
		Endorsement: fromEndorsement(e.GetEndorsement()),
	}, err
}

func toTrust(t basilica.Trust) *wirepb.Trust {
	return &wirepb.Trust{FleetCas: t.FleetCAs, SshCas: t.SSHCAs, JwtKeys: t.JWTKeys}
}

func fromTrust(t *wirepb.Trust) (basilica.Trust, error) {
	for what, keys := range map[string][][]byte{"fleet CAs": t.GetFleetCas(), "SSH CAs": t.GetSshCas(), "JWT keys": t.GetJwtKeys()} {
		if len(keys) > maxKeys {
			return basilica.Trust{}, malformed("%d %s, more than %d", len(keys), what, maxKeys)
		}
	}
	return basilica.Trust{FleetCAs: t.GetFleetCas(), SSHCAs: t.GetSshCas(), JWTKeys: t.GetJwtKeys()}, nil
}

func toRenew(r basilica.RenewRequest) *wirepb.RenewRequest {
	return &wirepb.RenewRequest{Csr: r.CSR, Rotation: toRotation(r.Rotation)}
}

func fromRenew(r *wirepb.RenewRequest) basilica.RenewRequest {
	return basilica.RenewRequest{CSR: r.GetCsr(), Rotation: fromRotation(r.GetRotation())}
}

func toRenewal(r basilica.Renewal) *wirepb.Renewal {
	return &wirepb.Renewal{Certificate: r.Certificate, Trust: toTrust(r.Trust), Endorsement: toRotation(r.Endorsement)}
}

func fromRenewal(r *wirepb.Renewal) (basilica.Renewal, error) {
	trust, err := fromTrust(r.GetTrust())
	return basilica.Renewal{Certificate: r.GetCertificate(), Trust: trust, Endorsement: fromRotation(r.GetEndorsement())}, err
}

func toRotation(e *basilica.SignedEndorsement) *wirepb.Endorsement {
	if e == nil {
		return nil
	}
	return toEndorsement(*e)
}

func fromRotation(e *wirepb.Endorsement) *basilica.SignedEndorsement {
	if e == nil {
		return nil
	}
	out := fromEndorsement(e)
	return &out
}

func toBeat(h basilica.Heartbeat) *wirepb.Heartbeat {
	return &wirepb.Heartbeat{At: stamp(h.At), Health: toHealth(h.Health), Version: text(h.Version), Gpus: each(h.GPUs, toGPU), Instance: text(h.Instance), Trust: fromDigest(h.Trust)}
}

func fromBeat(h *wirepb.Heartbeat) (basilica.Heartbeat, error) {
	at, err := instant(h.GetAt())
	if err != nil {
		return basilica.Heartbeat{}, err
	}
	health, err := fromHealth(h.GetHealth())
	if err != nil {
		return basilica.Heartbeat{}, err
	}
	instance, err := shortName("instance", h.GetInstance())
	if err != nil {
		return basilica.Heartbeat{}, err
	}
	trust, err := digestOrNone(h.GetTrust())
	if err != nil {
		return basilica.Heartbeat{}, err
	}
	gpus, err := eachErr("GPUs", h.GetGpus(), fromGPU)
	return basilica.Heartbeat{At: at, Health: health, Version: h.GetVersion(), GPUs: gpus, Instance: instance, Trust: trust}, err
}

func toReply(r basilica.HeartbeatReply) *wirepb.HeartbeatReply {
	return &wirepb.HeartbeatReply{
		At: stamp(r.At), Lease: durationpb.New(r.Lease), Renew: each(r.Renew, toAttempt), Cancel: each(r.Cancel, toAttempt),
		Revoked: each(r.Revoked, func(g basilica.GrantID) string { return text(string(g)) }), Drain: r.Drain, Trust: fromDigest(r.Trust),
	}
}

func fromReply(r *wirepb.HeartbeatReply) (basilica.HeartbeatReply, error) {
	out := basilica.HeartbeatReply{Drain: r.GetDrain()}
	var err error
	if out.At, err = instant(r.GetAt()); err != nil {
		return out, err
	}
	if out.Lease, err = lease(r.GetLease()); err != nil {
		return out, err
	}
	if out.Trust, err = digestOrNone(r.GetTrust()); err != nil {
		return out, err
	}
	if out.Renew, err = eachErr("renewals", r.GetRenew(), fromAttempt); err != nil {
		return out, err
	}
	if out.Cancel, err = eachErr("cancellations", r.GetCancel(), fromAttempt); err != nil {
		return out, err
	}
	out.Revoked, err = eachErr("revoked grants", r.GetRevoked(), func(g string) (basilica.GrantID, error) {
		_, err := shortName("grant", g)
		return basilica.GrantID(g), err
	})
	return out, err
}

func toReached(r basilica.Reached) *wirepb.Reached {
	out := &wirepb.Reached{At: stamp(r.At), Addr: text(r.Addr), SshAddr: text(r.SSHAddr), From: text(r.From)}
	if r.GRPC != nil {
		out.Grpc = toReason(*r.GRPC)
	}
	if r.SSH != nil {
		out.Ssh = toReason(*r.SSH)
	}
	return out
}

func fromReached(r *wirepb.Reached) (basilica.Reached, error) {
	at, err := instant(r.GetAt())
	out := basilica.Reached{At: at, Addr: r.GetAddr(), SSHAddr: r.GetSshAddr(), From: r.GetFrom()}
	for _, door := range []struct {
		why  *wirepb.Reason
		into **basilica.Reason
	}{{r.GetGrpc(), &out.GRPC}, {r.GetSsh(), &out.SSH}} {
		if door.why != nil {
			why := fromReason(door.why)
			*door.into = &why
		}
	}
	return out, err
}
