package wire

import (
	"encoding/binary"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"basilica"
	"basilica/wire/wirepb"
)

// roundTrip carries one noun over the wire's bytes and back.
func roundTrip[N any, M proto.Message](r *rapid.T, noun N, to func(N) M, from func(M) (N, error)) {
	r.Helper()
	raw, err := proto.Marshal(to(noun))
	if err != nil {
		r.Fatal(err)
	}
	msg := to(noun).ProtoReflect().New().Interface().(M)
	if err := proto.Unmarshal(raw, msg); err != nil {
		r.Fatal(err)
	}
	got, err := from(msg)
	if err != nil {
		r.Fatalf("%+v: %v", noun, err)
	}
	if !reflect.DeepEqual(got, noun) {
		r.Fatalf("%+v became %+v", noun, got)
	}
}

func optional[T any](r *rapid.T, label string, g *rapid.Generator[T]) *T {
	if !rapid.Bool().Draw(r, label+" known") {
		return nil
	}
	v := g.Draw(r, label)
	return &v
}

func drawList[T any](r *rapid.T, label string, f func(*rapid.T) T) []T {
	var out []T
	for range rapid.IntRange(0, 3).Draw(r, label) {
		out = append(out, f(r))
	}
	return out
}

func drawTime(r *rapid.T) time.Time {
	if n := rapid.Int64Range(-1<<40, 1<<40).Draw(r, "at"); n != 0 {
		return time.Unix(n/1000, n%1000).UTC()
	}
	return time.Time{}
}

func drawText(r *rapid.T) string { return rapid.StringN(0, 20, 200).Draw(r, "text") }

func drawGPU(r *rapid.T) basilica.GPU {
	return basilica.GPU{
		Index: rapid.IntRange(0, 100).Draw(r, "index"), Kind: rapid.SampledFrom(gpuKinds[1:]).Draw(r, "kind"), UUID: drawText(r), Model: drawText(r),
		MemoryBytes: optional(r, "memory", rapid.Uint64()), PCI: drawText(r), Driver: drawText(r), Unified: rapid.Bool().Draw(r, "unified"),
	}
}

func drawHolding(r *rapid.T) basilica.Holding {
	return basilica.Holding{
		Kind: rapid.SampledFrom(holderKinds[1:]).Draw(r, "holder kind"), Holder: drawText(r), GPUs: drawList(r, "gpus", drawText),
		Fence: rapid.Uint64().Draw(r, "fence"), Expires: drawTime(r),
	}
}

func drawAttempt(r *rapid.T) basilica.TaskAttempt {
	return basilica.TaskAttempt{Task: basilica.TaskID(rapid.StringMatching(`[a-z0-9-]{1,40}`).Draw(r, "task")), Attempt: rapid.IntRange(1, 1000).Draw(r, "attempt")}
}

func drawBlob(r *rapid.T) basilica.Blob {
	var b basilica.Blob
	binary.LittleEndian.PutUint64(b.SHA256[:], rapid.Uint64().Draw(r, "sum"))
	b.Size = rapid.Int64Range(0, basilica.MaxBlobBytes).Draw(r, "size")
	return b
}

func drawHealth(r *rapid.T) basilica.Health {
	return basilica.Health{
		OK: rapid.Bool().Draw(r, "ok"), Ledger: drawList(r, "ledger", drawHolding), Tasks: rapid.IntRange(0, 9).Draw(r, "tasks"), MaxTasks: rapid.IntRange(0, 9).Draw(r, "max"),
		Reasons: drawList(r, "reasons", func(r *rapid.T) basilica.Reason {
			return basilica.Reason{Code: drawText(r), Sentence: drawText(r), Fix: drawText(r)}
		}),
		Limits: basilica.Limits{
			CPUMillis: rapid.Int64().Draw(r, "cpu"), MemoryBytes: rapid.Int64().Draw(r, "memory"), DefaultMemoryBytes: rapid.Int64().Draw(r, "default memory"),
		},
	}
}

func drawFacts(r *rapid.T) basilica.Facts {
	return basilica.Facts{
		Hostname: drawText(r), OS: drawText(r), Kernel: drawText(r), BootID: drawText(r), CPUModel: drawText(r), CPUs: rapid.IntRange(0, 4096).Draw(r, "cpus"),
		MemoryBytes: rapid.Int64().Draw(r, "memory"), DiskBytes: rapid.Int64().Draw(r, "disk"), DiskFreeBytes: rapid.Int64().Draw(r, "free"),
		Engine: drawText(r), EngineVersion: drawText(r), Version: drawText(r), GPUs: drawList(r, "gpus", drawGPU),
		Network: drawList(r, "network", func(r *rapid.T) basilica.Iface {
			return basilica.Iface{Name: drawText(r), Addrs: drawList(r, "addrs", drawText), Mbps: optional(r, "mbps", rapid.Int64())}
		}),
		Findings: drawList(r, "findings", func(r *rapid.T) basilica.Reason {
			return basilica.Reason{Code: drawText(r), Sentence: drawText(r), Fix: drawText(r)}
		}),
	}
}

func drawTrust(r *rapid.T) basilica.Trust {
	key := func(r *rapid.T) []byte { return []byte(rapid.StringN(1, 9, 30).Draw(r, "key")) }
	return basilica.Trust{FleetCAs: drawList(r, "CAs", key), SSHCAs: drawList(r, "SSH CAs", key), JWTKeys: drawList(r, "JWT keys", key)}
}

func TestNounsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		roundTrip(r, drawFacts(r), toFacts, fromFacts)
		roundTrip(r, drawHealth(r), toHealth, fromHealth)
		at := drawAttempt(r)
		roundTrip(r, basilica.ExecuteRequest{Task: at.Task, Attempt: at.Attempt, Client: basilica.Hotkey(drawText(r)), Spec: []byte("{}"), Lease: time.Duration(rapid.Int64Range(0, int64(maxLease)).Draw(r, "lease"))}, toExecute, fromExecute)
		event := basilica.TaskEvent{Task: at.Task, Attempt: at.Attempt, State: rapid.SampledFrom(taskStates[1:]).Draw(r, "state"), At: drawTime(r), ExitCode: optional(r, "exit", rapid.IntRange(-1<<31, 1<<31-1))}
		if rapid.Bool().Draw(r, "more") {
			event.Reason = &basilica.Reason{Code: "X", Sentence: drawText(r), Fix: drawText(r)}
			event.Log = &basilica.LogChunk{Offset: rapid.Int64Range(0, maxOffset).Draw(r, "offset"), Stream: rapid.SampledFrom(logStreams[1:]).Draw(r, "stream"), Data: []byte{0xff, 1}}
			event.Outputs = []basilica.TaskFile{{Name: "a", Blob: drawBlob(r)}, {Name: "b/c", Blob: drawBlob(r)}}
			event.Receipt = &basilica.SignedReceipt{Payload: []byte("p"), ExecutorSig: []byte("e"), MinerSig: []byte("m"), Endorsement: basilica.SignedEndorsement{Payload: []byte("q"), Signature: []byte("s")}}
		}
		roundTrip(r, event, toEvent, fromEvent)
		roundTrip(r, basilica.EnrollRequest{Token: drawText(r), Name: drawText(r), CSR: []byte("c"), Addr: drawText(r), SSHAddr: drawText(r), HostKey: []byte("h"), AttestSPKI: []byte("a"), Facts: drawFacts(r), Miner: basilica.Hotkey(drawText(r))}, toEnroll, fromEnroll)
		roundTrip(r, basilica.Enrollment{Executor: "box", Miner: "5F", Certificate: []byte("c"), Trust: drawTrust(r), Endorsement: basilica.SignedEndorsement{Payload: []byte("q"), Signature: []byte("s")}},
			toEnrollment, fromEnrollment)
		roundTrip(r, basilica.Renewal{Certificate: []byte("c"), Trust: drawTrust(r)},
			func(n basilica.Renewal) *wirepb.Renewal {
				return &wirepb.Renewal{Certificate: n.Certificate, Trust: toTrust(n.Trust)}
			}, fromRenewal)
		roundTrip(r, basilica.Heartbeat{At: drawTime(r), Health: drawHealth(r), Version: drawText(r), GPUs: drawList(r, "gpus", drawGPU), Instance: drawText(r), Trust: drawBlob(r).SHA256}, toBeat, fromBeat)
		roundTrip(r, basilica.HeartbeatReply{
			At: drawTime(r), Lease: time.Minute, Renew: drawList(r, "renew", drawAttempt), Cancel: drawList(r, "cancel", drawAttempt),
			Revoked: drawList(r, "revoked", func(r *rapid.T) basilica.GrantID { return basilica.GrantID(drawText(r)) }), Drain: rapid.Bool().Draw(r, "drain"), Trust: drawBlob(r).SHA256,
		}, toReply, fromReply)
	})
}

func TestMalformedMessages(t *testing.T) {
	good := &wirepb.Attempt{Task: "t", Attempt: 1}
	long := string(make([]byte, maxName+1))
	sum := make([]byte, 32)
	for name, f := range map[string]func() error{
		"no attempt":  func() error { _, err := fromAttempt(nil); return err },
		"attempt 0":   func() error { _, err := fromAttempt(&wirepb.Attempt{Task: "t"}); return err },
		"long task":   func() error { _, err := fromAttempt(&wirepb.Attempt{Task: long, Attempt: 1}); return err },
		"kind of GPU": func() error { _, err := fromGPU(&wirepb.GPU{}); return err },
		"future kind": func() error { _, err := fromGPU(&wirepb.GPU{Kind: 99}); return err },
		"holder":      func() error { _, err := fromHolding(nil); return err },
		"state":       func() error { _, err := fromEvent(&wirepb.TaskEvent{Attempt: good}); return err },
		"time": func() error {
			_, err := fromEvent(&wirepb.TaskEvent{Attempt: good, State: 1, At: &timestamppb.Timestamp{Nanos: -1}})
			return err
		},
		"stream": func() error {
			_, err := fromEvent(&wirepb.TaskEvent{Attempt: good, State: 1, Log: &wirepb.LogChunk{}})
			return err
		},
		"offset": func() error {
			_, err := fromEvent(&wirepb.TaskEvent{Attempt: good, State: 1, Log: &wirepb.LogChunk{Stream: 1, Offset: -1}})
			return err
		},
		"output's name": func() error {
			_, err := fromEvent(&wirepb.TaskEvent{Attempt: good, State: 1, Outputs: []*wirepb.TaskFile{{Name: "../x", Blob: &wirepb.Blob{Sha256: sum}}}})
			return err
		},
		"output's blob": func() error {
			_, err := fromEvent(&wirepb.TaskEvent{Attempt: good, State: 1, Outputs: []*wirepb.TaskFile{{Name: "x"}}})
			return err
		},
		"negative size": func() error { _, err := fromBlob(&wirepb.Blob{Sha256: sum, Size: -1}); return err },
		"short digest":  func() error { _, err := fromBlob(&wirepb.Blob{Sha256: sum[:31]}); return err },
		"negative lease": func() error {
			_, err := fromExecute(&wirepb.ExecuteRequest{Attempt: good, Lease: durationpb.New(-1)})
			return err
		},
		"endless lease": func() error {
			_, err := fromExecute(&wirepb.ExecuteRequest{Attempt: good, Lease: durationpb.New(maxLease + 1)})
			return err
		},
		"large spec": func() error {
			_, err := fromExecute(&wirepb.ExecuteRequest{Attempt: good, Spec: make([]byte, basilica.MaxSpecBytes+1)})
			return err
		},
		"too many GPUs": func() error {
			_, err := fromFacts(&wirepb.SystemInfo{Gpus: make([]*wirepb.GPU, maxItems+1)})
			return err
		},
		"too many revoked": func() error {
			_, err := fromReply(&wirepb.HeartbeatReply{Revoked: make([]string, maxItems+1)})
			return err
		},
		"short digest of trust": func() error { _, err := fromBeat(&wirepb.Heartbeat{Trust: sum[:31]}); return err },
		"long instance":         func() error { _, err := fromBeat(&wirepb.Heartbeat{Instance: long}); return err },
		"too many CAs": func() error {
			_, err := fromRenewal(&wirepb.Renewal{Trust: &wirepb.Trust{FleetCas: make([][]byte, maxKeys+1)}})
			return err
		},
		"long address": func() error { _, err := fromEnroll(&wirepb.EnrollRequest{Addr: long}); return err },
	} {
		if err := f(); basilica.KindOf(err) != basilica.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMessages feeds bytes to every conversion that a peer can reach; what comes through must go back unchanged.
func FuzzMessages(f *testing.F) {
	code := 1
	for _, m := range []proto.Message{
		toEvent(basilica.TaskEvent{Task: "t", Attempt: 1, State: basilica.TaskFailed, ExitCode: &code, Log: &basilica.LogChunk{Stream: basilica.Stdout}}),
		toBeat(basilica.Heartbeat{At: time.Unix(1, 0), GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware}}}),
		toEnroll(basilica.EnrollRequest{Token: "t", CSR: []byte("c")}), toExecute(basilica.ExecuteRequest{Task: "t", Attempt: 1}),
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		again(t, raw, &wirepb.TaskEvent{}, fromEvent, toEvent)
		again(t, raw, &wirepb.Heartbeat{}, fromBeat, toBeat)
		again(t, raw, &wirepb.HeartbeatReply{}, fromReply, toReply)
		again(t, raw, &wirepb.EnrollRequest{}, fromEnroll, toEnroll)
		again(t, raw, &wirepb.ExecuteRequest{}, fromExecute, toExecute)
		again(t, raw, &wirepb.HealthStatus{}, fromHealth, toHealth)
		again(t, raw, &wirepb.Enrollment{}, fromEnrollment, toEnrollment)
		again(t, raw, &wirepb.Renewal{}, fromRenewal, toRenewal)
	})
}

func again[N any, M proto.Message](t *testing.T, raw []byte, msg M, from func(M) (N, error), to func(N) M) {
	t.Helper()
	if proto.Unmarshal(raw, msg) != nil {
		return
	}
	first, err := from(msg)
	if err != nil {
		return
	}
	second, err := from(to(first))
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Fatalf("%+v became %+v: %v", first, second, err)
	}
}
