package attest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"basilica/attest"
	"basilica/keys"
)

// drive is the loop that a validator runs over a real connection; it is all that a Verifier needs.
func drive(ctx context.Context, v *attest.Verifier, conn net.Conn, now func() time.Time) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fail := func(err error) {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		v.Fail(attest.FailureOf(err), err.Error(), now())
	}
	for !v.Done() {
		if err := conn.SetDeadline(v.Deadline()); err != nil {
			fail(err)
			continue
		}
		if f, ok := v.Next(); ok {
			if _, err := conn.Write(f); err != nil {
				fail(err)
				continue
			}
			v.Sent(now())
			continue
		}
		f, err := attest.ReadFrame(conn, v.Cap)
		if err != nil {
			fail(err)
			continue
		}
		v.Receive(f, now())
	}
}

// prove is the attestor's side in its smallest form: one goroutine, devices one after the other.
// also may add to what it signs; nil: nothing.
func prove(conn net.Conn, p *attest.Prover, devices []*attest.CPU, key *keys.P256, also func(*attest.Prover, *attest.Evidence)) error {
	ctx := context.Background()
	var jobs []attest.Job
	var puzzle *attest.Puzzle
	flush := func() error {
		for {
			f, ok := p.Next()
			if !ok {
				return nil
			}
			if _, err := conn.Write(f); err != nil {
				return err
			}
		}
	}
	for {
		if err := flush(); err != nil {
			return err
		}
		f, err := attest.ReadFrame(conn, p.Cap)
		if err != nil {
			return err
		}
		task, err := p.Receive(f)
		if err != nil {
			var a *attest.AbortError
			if errors.As(err, &a) {
				p.Abort(a.Code, a.Text)
				return errors.Join(err, flush())
			}
			return err
		}
		switch task.Kind {
		case attest.TaskFill:
			jobs, puzzle = task.Jobs, task.Puzzle
			for g, j := range jobs {
				roots, err := devices[j.Device].Fill(ctx, j.Params, j.Seed)
				if err != nil {
					return err
				}
				if err := p.Filled(g, roots); err != nil {
					return err
				}
			}
		case attest.TaskWalk:
			for g, j := range jobs {
				roots, err := devices[j.Device].Walk(ctx, task.Keys[g])
				if err != nil {
					return err
				}
				if err := p.Walked(g, roots); err != nil {
					return err
				}
			}
		case attest.TaskMix:
			for g, j := range jobs {
				last, err := devices[j.Device].Mix(ctx, task.Keys[g])
				if err != nil {
					return err
				}
				if err := p.Mixed(g, last); err != nil {
					return err
				}
			}
			for g, j := range jobs {
				roots, err := devices[j.Device].Trace(ctx)
				if err != nil {
					return err
				}
				if err := p.Traced(g, roots); err != nil {
					return err
				}
			}
		case attest.TaskBlock:
			b, err := devices[jobs[task.G].Device].Block(ctx, task.Block)
			if err != nil {
				return err
			}
			if err := p.Answer(f, b); err != nil {
				return err
			}
		case attest.TaskOpen:
			var all []attest.Opened
			for g, j := range jobs {
				o, err := devices[j.Device].Open(ctx, task.Requests[g])
				if err != nil {
					return err
				}
				all = append(all, o)
			}
			if err := p.Proved(all); err != nil {
				return err
			}
			var e attest.Evidence
			if puzzle != nil {
				if e.VDFY, e.VDFPi, err = puzzle.Solve(ctx); err != nil {
					return err
				}
			}
			if also != nil {
				also(p, &e)
			}
			if err := p.Sign(e, key.Sign); err != nil {
				return err
			}
		case attest.TaskDone:
			return nil
		}
	}
}

// world is one challenge between two software machines' ends.
type world struct {
	setup   attest.Setup
	devices []*attest.CPU
	key     *keys.P256
	greet   attest.Greeting
	binding attest.Binding
	also    func(*attest.Prover, *attest.Evidence) // to what the prover signs
}

func newWorld(t testing.TB, gpus int, skip attest.Shortcuts) *world {
	t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{key: key, binding: attest.Binding{SessionID: []byte("session"), HostKey: []byte("host key"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}}
	w.greet = attest.Greeting{Version: "test", SPKI: key.SPKI()}
	for i := range gpus {
		w.devices = append(w.devices, attest.NewLazyCPU(attest.Serial, skip))
		w.greet.Devices = append(w.greet.Devices, attest.DeviceInfo{UUID: attest.UUID{byte(i + 1)}, Name: "software", VRAMBytes: 64 << 20, FreeBytes: 64 << 20, Software: true})
	}
	w.setup = attest.Setup{
		Started: time.Now(), Binding: w.binding, SPKI: key.SPKI(), Strength: attest.EnrolmentStrength(),
		Policy: attest.Policy{AllowSoftware: true}, Profiles: profiles,
	}
	return w
}

func signVerdict(msg []byte) ([]byte, error) {
	return append([]byte("signed:"), msg[:8]...), nil
}

func verifyVerdict(k attest.Key, msg, sig []byte) bool {
	return k == attest.Key{2} && string(sig) == "signed:"+string(msg[:8])
}

// loopback is a connection that takes what nobody reads, as a network does.
func loopback(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// undated is a connection without deadlines: only the clock that drive is given says what is late.
type undated struct{ net.Conn }

func (undated) SetDeadline(time.Time) error { return nil }

// steady is a clock that goes on by a millisecond with each look, so that no stall of the machine is a delay of the prover.
func steady(from time.Time) func() time.Time {
	var looks time.Duration
	return func() time.Time {
		looks++
		return from.Add(looks * time.Millisecond)
	}
}

// exchange brings a challenge to its end, by the given clock alone and with changed frames.
func (w *world) exchange(t testing.TB, v *attest.Verifier, now func() time.Time, change func(f attest.Frame) []byte) {
	t.Helper()
	p, err := attest.NewProver(w.greet, &w.binding)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := loopback(t)
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(prove(tampered{theirs, change}, p, w.devices, w.key, w.also), theirs.Close())
	}()
	drive(t.Context(), v, undated{ours}, now)
	ours.Close()
	<-done // the prover's own error is what the change, or the validator's breaking off, provoked
}

// run does the whole challenge over net.Pipe.
func (w *world) run(t testing.TB) *attest.Record {
	t.Helper()
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	p, err := attest.NewProver(w.greet, &w.binding)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	proved := make(chan error, 1)
	go func() { proved <- errors.Join(prove(theirs, p, w.devices, w.key, w.also), theirs.Close()) }()
	drive(t.Context(), v, ours, time.Now)
	ours.Close()
	if err := <-proved; err != nil && v.Judgement().Result == attest.Pass {
		t.Fatal(err)
	}
	r, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEndToEnd(t *testing.T) {
	w := newWorld(t, 2, attest.Shortcuts{})
	trap, err := attest.NewTrapdoor(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.setup.Trapdoor, w.setup.Policy.Squarings = trap.Bytes(), 4096
	began := time.Now()
	r := w.run(t)
	t.Logf("two software GPUs at enrolment strength: %v", time.Since(began))
	if j := r.Judgement; j.Result != attest.Pass || !j.Signed || j.Class != "software" || len(j.GPUs) != 2 || j.GPUs[1].C <= 0 {
		t.Fatalf("%+v", j)
	}
	var file bytes.Buffer
	if _, err := r.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	t.Logf("record of %d bytes", file.Len())
	again, err := attest.ReadRecord(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	j, err := attest.Judge(again, verifyVerdict)
	if err != nil || j.Result != attest.Pass {
		t.Fatal(j, err)
	}
	if _, err := attest.Judge(again, func(attest.Key, []byte, []byte) bool { return false }); !errors.Is(err, attest.ErrRecord) {
		t.Fatal("a bad signature under VERDICT was taken:", err)
	}
}

func TestFivePercentIsCaught(t *testing.T) {
	w := newWorld(t, 1, attest.Shortcuts{Element: func(l, i, j int) (byte, bool) { return byte(j), (l*31+i*17+j)%20 == 0 }})
	r := w.run(t)
	if j := r.Judgement; j.Result != attest.CheatFill || !j.Signed {
		t.Fatalf("%+v", j)
	}
	if _, err := attest.Judge(r, verifyVerdict); err != nil {
		t.Fatal(err)
	}
}

func ExampleVerifier() {
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		fmt.Println(err)
		return
	}
	v, err := attest.NewVerifier(attest.Setup{
		Started: time.Unix(0, 0), Strength: attest.DefaultStrength(), Profiles: profiles,
	}, rand.Reader, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(v.Deadline().Unix())
	v.Fail(attest.FailTimeout, "no HELLO", v.Deadline())
	fmt.Println(v.Judgement().Reason, v.Judgement().Verdict())
	// Output:
	// 10
	// TIMEOUT_HELLO not_run
}
