package validator

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"basilica"
	"basilica/attest"
	"basilica/attest/attestpb"
	"basilica/attestor"
	"basilica/internal/provoke"
)

// frameOf wraps a payload as section 5 of the specification lays a frame out.
func frameOf(t attest.FrameType, m proto.Message) (attest.Frame, error) {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	n := len(payload) + 2
	return append([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), byte(t), 1}, payload...), nil
}

// honest is the machine's own prover on a channel of which it knows b; nil: it takes the challenge's word, as a program that
// was changed to do so does.
func (m *machine) honest(ctx context.Context, rw io.ReadWriter, b *attest.Binding) error {
	_, err := attestor.Prove(ctx, rw, attestor.Config{
		Binding: b, Greeting: attest.Greeting{Version: "test", SPKI: m.key.SPKI()}, Sign: m.key.Sign, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Devices: []attestor.Device{attestor.NewSoftware(m.key.SPKI(), 0, attest.NewCPU(attest.Serial))},
	})
	return err
}

// borrowed answers a validator with the device's own work for the challenge as it is, and with the signature of a key holder
// elsewhere, who is honest and looks at its own channel: the relay hands it every frame of the validator, with the bind of
// that channel in place of the validator's. Nothing but the binding tells the two runs apart.
func borrowed(m *machine, elsewhere attest.Binding) func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
	return func(ctx context.Context, rw io.ReadWriteCloser, _ attest.Binding) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		mine, device := net.Pipe()
		theirs, holder := net.Pipe()
		group, ctx := errgroup.WithContext(ctx)
		closeAll := sync.OnceFunc(func() { mine.Close(); device.Close(); theirs.Close(); holder.Close() })
		defer context.AfterFunc(ctx, closeAll)()
		defer closeAll()
		group.Go(func() error { return m.honest(ctx, device, nil) })
		group.Go(func() error { return m.honest(ctx, holder, &elsewhere) })
		evidence := make(chan attest.Frame, 1)
		group.Go(func() error { // the holder's frames: only what it signs is of use
			for {
				f, err := attest.ReadFrame(theirs, attest.RelayCap)
				if err != nil {
					return nil
				}
				if f.Type() == attest.FrameEvidence {
					evidence <- f
				}
			}
		})
		group.Go(func() error {
			for {
				f, err := attest.ReadFrame(mine, attest.RelayCap)
				if err != nil {
					return nil
				}
				if f.Type() == attest.FrameEvidence {
					select {
					case f = <-evidence:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				if _, err := rw.Write(f); err != nil {
					return err
				}
			}
		})
		group.Go(func() error {
			defer closeAll()
			for {
				f, err := attest.ReadFrame(rw, attest.RelayCap)
				if err != nil {
					return nil
				}
				forward := f
				if f.Type() == attest.FrameChallenge {
					var m2 attestpb.Challenge
					if err := proto.Unmarshal(f[6:], &m2); err != nil {
						return err
					}
					bind := elsewhere.Bind(m.key.SPKI())
					m2.Bind32 = bind[:]
					if forward, err = frameOf(attest.FrameChallenge, &m2); err != nil {
						return err
					}
				}
				toHolder, toDevice := forward, f
				both := errgroup.Group{}
				both.Go(func() error { _, err := theirs.Write(toHolder); return err })
				both.Go(func() error { _, err := mine.Write(toDevice); return err })
				if err := both.Wait(); err != nil || f.Type() == attest.FrameVerdict {
					return nil
				}
			}
		})
		return group.Wait()
	}
}

// TestBindingOverSSH: a signature is good for the one session that it was made in. Everything of these liars is right, their
// device works out the very challenge and the pinned key signs, but its holder sits at the end of another session, behind
// another host key, under another miner's or for another validator's hotkey. The one whose holder sits at the end of this
// very session passes, so that the binding alone makes the difference.
func TestBindingOverSSH(t *testing.T) {
	elsewhere := map[basilica.ExecutorID]func(b *attest.Binding){
		"other-session":         func(b *attest.Binding) { b.SessionID = append([]byte{1}, b.SessionID...) },
		"other-host-key":        func(b *attest.Binding) { b.HostKey = append([]byte{1}, b.HostKey...) },
		"other-miner-hotkey":    func(b *attest.Binding) { b.MinerHotkey[0] ^= 1 },
		"other-validator":       func(b *attest.Binding) { b.ValidatorHotkey[0] ^= 1 },
		"the-very-same-session": func(*attest.Binding) {},
	}
	var machines []*machine
	for id, change := range elsewhere {
		m := newMachine(t, id)
		m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
			other := b
			change(&other)
			return borrowed(m, other)(ctx, rw, b)
		}
		machines = append(machines, m)
	}
	// Without a change to its program, a prover that is relayed to does not answer at all.
	relayed := newMachine(t, "relayed")
	relayed.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		b.SessionID = []byte("the relay's own session with the prover")
		return relayed.honest(ctx, rw, &b)
	}
	// Nor does another attestation key: the machine is known by one.
	other := newMachine(t, "other-key")
	other.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
		return newMachine(t, "other-key").honest(ctx, rw, &b)
	}
	w := newSSHWorld(t, line{}, append(machines, relayed, other)...)
	got := w.round(20)
	for id := range elsewhere {
		want := "CHEAT_BIND"
		if id == "the-very-same-session" {
			want = "PASS"
		}
		d := proof(got[id])
		if d.Reason != want || (d.Result == basilica.Fail) != (want == "CHEAT_BIND") {
			t.Errorf("%s: %+v, want %s", id, d, want)
		}
		if j := w.judgeAgain(d); string(j.Result) != want {
			t.Errorf("%s judged again: %+v", id, j)
		}
	}
	if d := proof(got["relayed"]); d.Result != basilica.NotRun || d.Reason != "ABORTED_2" {
		t.Errorf("relayed: %+v", d)
	}
	if d := proof(got["other-key"]); d.Result != basilica.Fail || d.Reason != "CHEAT_KEY" {
		t.Errorf("other key: %+v", d)
	}
}

// watched notes when frames of a machine's channel pass.
type watched struct {
	io.ReadWriteCloser
	greeted, challenged func()
}

func (w watched) Write(b []byte) (int, error) {
	n, err := w.ReadWriteCloser.Write(b)
	if attest.Frame(b).Type() == attest.FrameHello {
		w.greeted()
	}
	return n, err
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(b)
	if n > 0 {
		w.challenged()
	}
	return n, err
}

// TestStartTogether: the machines of a round get their challenges at one instant, when all have said HELLO; one that never
// does, one that is slow to connect and one that refuses hold nobody up for longer than the patience. How near to one instant
// it was stands with the round.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	hello, challenge := map[basilica.ExecutorID]time.Time{}, map[basilica.ExecutorID]time.Time{}
	note := func(in map[basilica.ExecutorID]time.Time, id basilica.ExecutorID) func() {
		return sync.OnceFunc(func() {
			mu.Lock()
			defer mu.Unlock()
			in[id] = time.Now()
		})
	}
	var machines []*machine
	for _, id := range []basilica.ExecutorID{"box-1", "box-2", "box-3", "box-4", "box-5", "box-6"} {
		m := newMachine(t, id)
		m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
			return m.honest(ctx, watched{rw, note(hello, id), note(challenge, id)}, &b)
		}
		machines = append(machines, m)
	}
	silent, busy := newMachine(t, "silent"), newMachine(t, "busy")
	silent.attest = func(ctx context.Context, _ io.ReadWriteCloser, _ attest.Binding) error {
		<-ctx.Done()
		return ctx.Err()
	}
	busy.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-9", Expires: time.Now().Add(time.Minute)})
	}
	w := newSSHWorld(t, line{}, append(machines, silent, busy)...)
	w.cfg.Limits.Hello = 7 * time.Second
	w.restart()
	w.v.gateTimeout = 3 * time.Second
	got := w.round(20)
	lastHello, firstChallenge, lastChallenge := time.Time{}, time.Time{}, time.Time{}
	for _, m := range machines {
		if d := proof(got[m.id]); d.Result != basilica.Pass {
			t.Errorf("%s: %+v", m.id, d)
		}
		if h := hello[m.id]; h.After(lastHello) {
			lastHello = h
		}
		if c := challenge[m.id]; firstChallenge.IsZero() || c.Before(firstChallenge) {
			firstChallenge = c
		}
		if c := challenge[m.id]; c.After(lastChallenge) {
			lastChallenge = c
		}
	}
	if !lastHello.Before(firstChallenge) {
		t.Errorf("a machine was challenged %v before another had said HELLO", lastHello.Sub(firstChallenge))
	}
	rounds, err := w.book.Rounds(t.Context(), 1)
	if err != nil || len(rounds) != 1 || len(rounds[0].Starts) != 1 {
		t.Fatalf("%+v, %v", rounds, err)
	}
	s := rounds[0].Starts[0]
	t.Logf("%d machines behind real SSH doors challenged within %v by the validator's clock; the last heard of it %v after the first", s.Machines, s.Skew, lastChallenge.Sub(firstChallenge))
	if s.Machines != len(machines) || s.Skew < 0 || s.Skew > lastChallenge.Sub(lastHello) || s.At.Before(lastHello.Add(-time.Millisecond)) || s.Late != 1 {
		t.Errorf("%+v", s)
	}
	if waited := firstChallenge.Sub(lastHello); waited > 5*time.Second {
		t.Errorf("the silent machine held the others up for %v", waited)
	}
	if d := proof(got["silent"]); d.Reason != "TIMEOUT_HELLO" {
		t.Errorf("silent: %+v", d)
	}
}

// TestRotatedKey: a machine that comes back with another attestation key is known by its old one: where that signed for the new
// one, and the hotkey did, it goes on under it; where not, it is refused.
func TestRotatedKey(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.Pass {
		t.Fatalf("%+v", d)
	}
	first := m.key
	stranger := newMachine(t, "box-1")
	m.key = stranger.key
	if d := proof(w.round(40)["box-1"]); d.Result != basilica.NotRun || d.Reason != "KEY_CHANGED" {
		t.Errorf("a key that nobody signed for: %+v", d)
	}
	provoke.Reason(t, basilica.Reason{Code: reasonKeyChanged, Sentence: proof(w.round(60)["box-1"]).Detail}, "KEY_CHANGED")
	// Two changes since the validator looked: the chain leads from the pinned key to the one that is shown.
	m.key = first
	m.rotate(t, w.miner.key, newMachine(t, "box-1").key)
	m.rotate(t, w.miner.key, newMachine(t, "box-1").key)
	if d := proof(w.round(80)["box-1"]); d.Result != basilica.Pass {
		t.Fatalf("a key that the old one signed for: %+v", d)
	}
	pins, err := w.book.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: "box-1"}
	if p := pins[k]; string(p.AttestSPKI) != string(m.key.SPKI()) || p.Since != 20 {
		t.Errorf("pinned %x since %d", p.AttestSPKI, p.Since)
	}
	w.restart()
	if d := proof(w.round(100)["box-1"]); d.Result != basilica.Pass {
		t.Errorf("after a restart: %+v", d)
	}
	// Back to the first key, which somebody may have stolen: its endorsement is old, and still signed by the hotkey.
	m.key, m.endorsed, m.earlier = first, nil, nil
	if d := proof(w.round(120)["box-1"]); d.Result != basilica.NotRun || d.Reason != "KEY_CHANGED" {
		t.Errorf("the first key again: %+v", d)
	}
	// An endorsement that names a replaced key without its signature is none.
	m.rotate(t, w.miner.key, stranger.key)
	m.endorsed.Former = make([]byte, 64)
	if d := proof(w.round(140)["box-1"]); d.Result != basilica.NotRun || d.Reason != "ENDORSEMENT_INVALID" {
		t.Errorf("without the old key's signature: %+v", d)
	}
	if _, err := m.endorsed.Open(); !errors.As(err, new(*basilica.Error)) {
		t.Error(err)
	} else {
		provoke.Refused(t, err, "ROTATION_UNSIGNED")
	}
}
