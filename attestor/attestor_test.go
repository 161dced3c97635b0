package attestor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
	"basilica/keys"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// validate runs the validator's loop over conn.
func validate(t *testing.T, conn net.Conn, s attest.Setup) *attest.Record {
	t.Helper()
	s.Started = time.Now()
	v, err := attest.NewVerifier(s, rand.Reader, func(msg []byte) ([]byte, error) { return []byte("sig"), nil })
	if err != nil {
		t.Fatal(err)
	}
	for !v.Done() {
		err := conn.SetDeadline(v.Deadline())
		if f, ok := v.Next(); ok && err == nil {
			if _, err = conn.Write(f); err == nil {
				v.Sent(time.Now())
				continue
			}
		} else if err == nil {
			if f, err = attest.ReadFrame(conn, v.Cap); err == nil {
				v.Receive(f, time.Now())
				continue
			}
		}
		v.Fail(attest.FailureOf(err), err.Error(), time.Now())
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Judge(r, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func setup(t *testing.T, b attest.Binding) attest.Setup {
	t.Helper()
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	return attest.Setup{
		Binding: b, Strength: attest.EnrolmentStrength(), Profiles: profiles,
		Policy: attest.Policy{AllowSoftware: true},
	}
}

var binding = attest.Binding{SessionID: []byte("session"), HostKey: []byte("host"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}

// loopback is a connected pair of TCP sockets, with buffers as an SSH channel has them.
func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestProve(t *testing.T) {
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	trap, err := attest.NewTrapdoor(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := setup(t, binding)
	s.Trapdoor, s.Policy.Squarings = trap.Bytes(), 1<<14
	ours, theirs := loopback(t)
	type end struct {
		verdict attest.Frame
		err     error
	}
	done := make(chan end, 1)
	go func() {
		v, err := Prove(t.Context(), theirs, Config{
			Binding: &binding, Greeting: attest.Greeting{Version: "test", SPKI: key.SPKI()},
			Devices: []Device{NewSoftware(key.SPKI(), 0, attest.NewCPU(Workers(2))), NewSoftware(key.SPKI(), 1, attest.NewCPU(Workers(1)))},
			Sign:    key.Sign, Now: time.Now, Log: quiet(),
		})
		done <- end{v, err}
	}()
	r := validate(t, ours, s)
	if j := r.Judgement; j.Result != attest.Pass || !j.Signed || j.GPUs[1].UUID != SoftwareUUID(key.SPKI(), 1) || j.SequentialTimeLowerBound == 0 {
		t.Fatalf("%+v", j)
	}
	if e := <-done; e.err != nil || e.verdict.Type() != attest.FrameVerdict {
		t.Fatal(e)
	}
}

func TestProveRefusesAnotherChannel(t *testing.T) {
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	other := binding
	other.SessionID = []byte("relayed")
	ours, theirs := loopback(t)
	done := make(chan error, 1)
	go func() {
		_, err := Prove(t.Context(), theirs, Config{
			Binding: &other, Greeting: attest.Greeting{SPKI: key.SPKI()}, Devices: []Device{NewSoftware(key.SPKI(), 0, attest.NewCPU(attest.Serial))},
			Sign: key.Sign, Now: time.Now, Log: quiet(),
		})
		done <- err
	}()
	if j := validate(t, ours, setup(t, binding)).Judgement; j.Reason != "ABORTED_2" || j.Result.Verdict() != basilica.NotRun {
		t.Fatalf("%+v", j)
	}
	var a *attest.AbortError
	if err := <-done; !errors.As(err, &a) || a.Code != attest.AbortBind {
		t.Fatal(err)
	}
}

func TestWorkersDoEveryItemOnce(t *testing.T) {
	for _, n := range []int{0, 1, 3, 64} {
		var count [100]atomic.Int32
		Workers(n)(len(count), func(i int) { count[i].Add(1) })
		for i := range count {
			if count[i].Load() != 1 {
				t.Fatalf("%d workers did item %d %d times", n, i, count[i].Load())
			}
		}
	}
}

func TestChannelRoundTrip(t *testing.T) {
	c := NewChannel(binding)
	good := `{"session_id":"` + c.SessionID + `","host_key":"` + c.HostKey + `","miner_hotkey":"` + c.MinerHotkey + `","validator_hotkey":"` + c.ValidatorHotkey + `"}`
	got, err := ParseChannel(good)
	if err != nil || got.Bind(nil) != binding.Bind(nil) {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(good, c.MinerHotkey, "00", 1), strings.Replace(good, "host_key", "key", 1), strings.Replace(good, c.SessionID, "", 1)} {
		if _, err := ParseChannel(bad); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func FuzzParseChannel(f *testing.F) {
	f.Add(`{"session_id":"00","host_key":"00","miner_hotkey":"","validator_hotkey":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseChannel(text); err == nil && (len(b.SessionID) == 0 || len(b.HostKey) == 0) {
			t.Fatal("an empty binding parsed")
		}
	})
}

// build compiles gpu-attestor once per tag set into a directory that outlives the test which asked first.
func build(t *testing.T, tags string, ldflags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gpu-attestor")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", tags, "-ldflags", strings.Join(ldflags, " "), "-o", out, "basilica/cmd/gpu-attestor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return out
}

// lockedBuffer is a log that a test reads while others write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestChild runs the real binary, honest and cheating, behind the relay.
func TestChild(t *testing.T) {
	dir := t.TempDir()
	log := &lockedBuffer{}
	honest := Child{Path: build(t, ""), Key: filepath.Join(dir, "key.pem"), SoftwareGPUs: 2, Log: slog.New(slog.NewTextHandler(log, nil))}
	v, err := honest.Version(t.Context())
	if err != nil || v.Adversary {
		t.Fatal(v, err)
	}
	d, err := honest.Detect(t.Context())
	if err != nil || len(d.GPUs) != 2 || d.GPUs[1].UUID != SoftwareUUID(d.SPKI, 1).String() || d.GPUs[0].Kind != basilica.GPUSoftware || len(d.Notes) == 0 || d.MemoryBytes == 0 {
		t.Fatalf("%+v %v", d, err)
	}
	run := func(t *testing.T, c Child) attest.Judgement {
		t.Helper()
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- c.Serve(t.Context(), theirs, binding) }()
		s := setup(t, binding)
		s.SPKI = d.SPKI
		r := validate(t, ours, s)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return r.Judgement
	}
	t.Run("honest", func(t *testing.T) {
		if j := run(t, honest); j.Result != attest.Pass || !j.Signed || len(j.GPUs) != 2 {
			t.Fatalf("%+v", j)
		}
		if !strings.Contains(log.String(), "verdict received") {
			t.Error("the child's log did not come through:", log.String())
		}
	})
	cheat := honest
	cheat.Path = build(t, "adversary")
	if v, err := cheat.Version(t.Context()); err != nil || !v.Adversary {
		t.Fatal(v, err)
	}
	for spec, want := range map[string]attest.Result{"fill:0.05": attest.CheatFill, "walk:0.1": attest.CheatWalk, "mix:0.1": attest.CheatMix, "": attest.Pass} {
		t.Run("cheat "+spec, func(t *testing.T) {
			cheat.Cheat = spec
			if j := run(t, cheat); j.Result != want || !j.Signed {
				t.Fatalf("%s (%s), want %s", j.Result, j.Detail, want)
			}
		})
	}
	t.Run("validator hangs up", func(t *testing.T) {
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- honest.Serve(t.Context(), theirs, binding) }()
		if _, err := attest.ReadFrame(ours, attest.RelayCap); err != nil {
			t.Fatal(err)
		}
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		provoke.Refused(t, <-done, "CHALLENGE_LEFT")
	})
	t.Run("context ends", func(t *testing.T) {
		ours, theirs := loopback(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- honest.Serve(ctx, theirs, binding) }()
		if _, err := attest.ReadFrame(ours, attest.RelayCap); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal("the channel stays open:", err)
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- honest.Serve(t.Context(), theirs, binding) }()
		if _, err := ours.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, attest.ErrFrame) || !errors.Is(err, ErrLeft) {
			t.Fatal(err)
		}
	})
	t.Run("verdict at once", func(t *testing.T) { // is no end of a challenge
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- honest.Serve(t.Context(), theirs, binding) }()
		if _, err := ours.Write([]byte{2, 0, 0, 0, byte(attest.FrameVerdict), 1}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; basilica.CodeOf(err) != "CHALLENGE_LEFT" {
			t.Fatal(err)
		}
	})
	t.Run("absent", func(t *testing.T) {
		_, theirs := loopback(t)
		absent := honest
		absent.Path = filepath.Join(dir, "nothing")
		if err := absent.Serve(t.Context(), theirs, binding); basilica.CodeOf(err) != "ATTESTOR_FAILED" || basilica.FixOf(err) == "" {
			t.Fatal(err)
		}
	})
}
