package attest_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/keys"
)

// tampered is a connection whose frames to the validator pass through change, which may return nothing to drop one.
type tampered struct {
	net.Conn
	change func(f attest.Frame) []byte
}

func (c tampered) Write(f []byte) (int, error) {
	out := c.change(bytes.Clone(f))
	if out == nil {
		return len(f), nil
	}
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(f), nil
}

// quick makes a world whose challenge takes some 30 ms.
func quick(t testing.TB, skip attest.Shortcuts) *world {
	w := newWorld(t, 1, skip)
	p := attest.Params{N: 64, Layers: 8, Lanes: 64, Steps: 4, Batches: 4, WinLayers: 2, Cells: 64, Rounds: 4}
	w.setup.Profiles = attest.Profiles{{Model: "software", Software: true, Params: &p}}
	w.setup.Strength = attest.RecheckStrength()
	return w
}

// tamper runs a challenge with changed frames and gives its record.
func (w *world) tamper(t testing.TB, change func(f attest.Frame) []byte) *attest.Record {
	t.Helper()
	return w.tamperAt(t, steady, change)
}

// tamperAt is tamper by another clock, which is given the challenge's start.
func (w *world) tamperAt(t testing.TB, clock func(from time.Time) func() time.Time, change func(f attest.Frame) []byte) *attest.Record {
	t.Helper()
	w.setup.Started = time.Now()
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	w.exchange(t, v, clock(w.setup.Started), change)
	r, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attest.Judge(r, verifyVerdict); err != nil {
		t.Fatalf("the record of %s does not replay: %v", r.Judgement.Reason, err)
	}
	return r
}

func keep(f attest.Frame) []byte { return f }

// on changes the n-th frame of a type.
func on(t attest.FrameType, n int, change func(f attest.Frame) []byte) func(f attest.Frame) []byte {
	return func(f attest.Frame) []byte {
		if f.Type() != t {
			return f
		}
		if n--; n != -1 {
			return f
		}
		return change(f)
	}
}

func flipLast(f attest.Frame) []byte {
	f[len(f)-1] ^= 1
	return f
}

// resized cuts or extends the payload of a bytes field at the end of a frame; protobuf framing goes wrong with it.
func resized(by int) func(f attest.Frame) []byte {
	return func(f attest.Frame) []byte {
		if by < 0 {
			f = f[:len(f)+by]
		} else {
			f = append(f, make([]byte, by)...)
		}
		binary.LittleEndian.PutUint32(f, uint32(len(f)-4))
		return f
	}
}

// TestSlowAnswersGetFewerQuestions: 128 answers of 120 ms each would not fit into the time of the exchange. Whoever is slow
// at times, and not far away, is asked less instead of being given up.
func TestSlowAnswersGetFewerQuestions(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes func(n int64) time.Duration // the n-th answer
		asked int64
		want  attest.Result
	}{
		{"at once", func(int64) time.Duration { return 0 }, 128, attest.Pass},
		{"far away", func(int64) time.Duration { return 200 * time.Millisecond }, 32, attest.Pass},
		{"busy", func(n int64) time.Duration { return time.Duration(n%2) * 240 * time.Millisecond }, 43, attest.Pass},
		{"half a second each after the first", func(n int64) time.Duration { return min(time.Duration(n), 1) * 440 * time.Millisecond }, 32, attest.Pass},
		{"silent", func(n int64) time.Duration { return time.Duration(n/10) * 3 * time.Second }, 0, "TIMEOUT_PONG"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var late, asked atomic.Int64
			clock := func(from time.Time) func() time.Time { // only answers take time
				return func() time.Time { return from.Add(time.Duration(late.Load())) }
			}
			r := quick(t, attest.Shortcuts{}).tamperAt(t, clock, func(f attest.Frame) []byte {
				if f.Type() == attest.FramePong || f.Type() == attest.FrameEchoReply {
					late.Add(int64(c.takes(asked.Add(1) - 1)))
				}
				return f
			})
			if j := r.Judgement; j.Result != c.want && j.Reason != string(c.want) {
				t.Fatalf("%s (%s): %s", j.Result, j.Reason, j.Detail)
			}
			if n := asked.Load(); c.asked > 0 && n != c.asked {
				t.Errorf("%d questions, want %d", n, c.asked)
			}
		})
	}
}

func TestTamperedFrames(t *testing.T) {
	twice := func(f attest.Frame) []byte { return append(bytes.Clone(f), f...) }
	retyped := func(to attest.FrameType) func(f attest.Frame) []byte {
		return func(f attest.Frame) []byte { f[4] = byte(to); return f }
	}
	for _, x := range []struct {
		name   string
		change func(f attest.Frame) []byte
		want   attest.Result
		reason string
	}{
		{"honest", keep, attest.Pass, "PASS"},
		{"final_g", on(attest.FrameFillDone, 0, flipLast), attest.CheatFinal, "CHEAT_FINAL"},
		{"roots", on(attest.FrameRoots, 0, flipLast), attest.CheatFinal, "CHEAT_FINAL"},
		{"wroots", on(attest.FrameWalkDone, 0, flipLast), attest.CheatWalk, "CHEAT_WALK"},
		{"yroot", on(attest.FrameMixDone, 0, flipLast), attest.CheatMix, "CHEAT_MIX"},
		{"yroots", on(attest.FrameTrace, 0, flipLast), attest.CheatMix, "CHEAT_MIX"},
		{"echo", on(attest.FrameEchoReply, 3, flipLast), attest.CheatPing, "CHEAT_PING"},
		{"opening", on(attest.FrameProof, 7, flipLast), attest.CheatFill, "CHEAT_FILL"},
		{"leaf", on(attest.FrameProof, attest.RecheckStrength().Fill, flipLast), attest.CheatPRG, "CHEAT_PRG"},
		{"greeting", on(attest.FrameHello, 0, func(f attest.Frame) []byte { return bytes.Replace(f, []byte("test"), []byte("best"), 1) }), attest.CheatBind, "CHEAT_BIND"},
		{"signature", on(attest.FrameEvidence, 0, flipLast), attest.CheatKey, "CHEAT_KEY"},
		{"statement", on(attest.FrameEvidence, 0, func(f attest.Frame) []byte { f[100] ^= 1; return f }), attest.CheatKey, "CHEAT_KEY"},
		{"short roots", on(attest.FrameRoots, 0, resized(-1)), attest.Malformed, "MALFORMED_ROOTS"},
		{"long opening", on(attest.FrameProof, 0, resized(1)), attest.Malformed, "MALFORMED_PROOF"},
		{"huge opening", on(attest.FrameProof, 0, resized(100)), attest.Malformed, "MALFORMED_PROOF"},
		{"fill done twice", on(attest.FrameFillDone, 0, twice), attest.Malformed, "MALFORMED_ROOTS"},
		{"roots first", on(attest.FrameFillDone, 0, retyped(attest.FrameRoots)), attest.Malformed, "MALFORMED_FILL_DONE"},
		{"walk skipped", on(attest.FrameWalkDone, 0, retyped(attest.FrameMixDone)), attest.Malformed, "MALFORMED_WALK_DONE"},
		{"trace first", on(attest.FrameMixDone, 0, retyped(attest.FrameTrace)), attest.Malformed, "MALFORMED_MIX_DONE"},
		{"evidence first", on(attest.FrameProof, 0, retyped(attest.FrameEvidence)), attest.Malformed, "MALFORMED_PROOF"},
		{"opening left out", on(attest.FrameProof, 5, func(attest.Frame) []byte { return nil }), attest.Malformed, "MALFORMED_PROOF"},
		{"version", on(attest.FrameHello, 0, func(f attest.Frame) []byte { f[5] = 2; return f }), attest.Malformed, "MALFORMED_HELLO"},
		{"verdict", on(attest.FrameHello, 0, retyped(attest.FrameVerdict)), attest.Malformed, "MALFORMED_HELLO"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := quick(t, attest.Shortcuts{}).tamper(t, x.change)
			j := r.Judgement
			if j.Result != x.want || j.Reason != x.reason {
				t.Fatalf("%s (%s): %s, want %s (%s)", j.Result, j.Reason, j.Detail, x.want, x.reason)
			}
			if j.Result.Verdict() == basilica.Pass != (x.want == attest.Pass) {
				t.Fatal("verdict", j.Result.Verdict())
			}
			if after := strings.HasSuffix(x.reason, "_PROOF"); j.AfterOpen != after {
				t.Fatalf("after OPEN: %v", j.AfterOpen)
			}
		})
	}
}

// TestEveryChangedFrameFails flips one random bit of every frame in turn: none of them may lead to a pass, for the
// attestor signs another transcript.
func TestEveryChangedFrameFails(t *testing.T) {
	w := quick(t, attest.Shortcuts{})
	frames := 0
	if j := w.tamper(t, func(f attest.Frame) []byte { frames++; return f }).Judgement; j.Result != attest.Pass {
		t.Fatalf("unchanged frames gave %s (%s): %s", j.Result, j.Reason, j.Detail)
	}
	for n := range frames {
		if frames > 60 && n > 20 && n < frames-3 && n%17 != 0 {
			continue // PONG and PROOF frames are many and alike
		}
		k := 0
		r := w.tamper(t, func(f attest.Frame) []byte {
			if k++; k-1 == n {
				f[6+mrand.IntN(len(f)-6)] ^= 1 << mrand.IntN(8)
			}
			return f
		})
		if k <= n {
			t.Fatalf("only %d frames came, so that frame %d was not changed: %+v", k, n, r.Judgement)
		}
		if r.Judgement.Result.Verdict() == basilica.Pass {
			t.Fatalf("frame %d changed and passed", n)
		}
	}
}

func TestLazyProvers(t *testing.T) {
	for _, x := range []struct {
		skip attest.Shortcuts
		want attest.Result
	}{
		{attest.Shortcuts{Element: func(l, _, _ int) (byte, bool) { return 7, l == 4 }}, attest.CheatFill},
		{attest.Shortcuts{Lane: func(batch, lane int) bool { return lane%2 == 0 }}, attest.CheatWalk},
		{attest.Shortcuts{Cell: func(round, _ int) bool { return round == 2 }}, attest.CheatMix},
	} {
		r := quick(t, x.skip).tamper(t, keep)
		if r.Judgement.Result != x.want || !r.Judgement.Signed {
			t.Errorf("%s signed %v, want %s", r.Judgement.Result, r.Judgement.Signed, x.want)
		}
	}
}

func TestPolicyAndBinding(t *testing.T) {
	other, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name   string
		change func(w *world)
		want   attest.Result
		reason string
	}{
		{"software not allowed", func(w *world) { w.setup.Policy.AllowSoftware = false }, attest.Unknown, "SOFTWARE_REFUSED"},
		{"another pinned key", func(w *world) { w.setup.SPKI = other.SPKI() }, attest.CheatKey, "CHEAT_KEY"},
		{"first contact", func(w *world) { w.setup.SPKI = nil }, attest.Pass, "PASS"},
		{"claimed", func(w *world) { w.setup.Claims = []attest.Claim{{UUID: attest.UUID{1}, Model: "H200"}} }, attest.Pass, "PASS"},
		{"claimed GPU missing", func(w *world) { w.setup.Claims = []attest.Claim{{UUID: attest.UUID{9}}} }, attest.Unknown, "GPU_MISSING"},
		{"another session", func(w *world) { w.binding.SessionID = []byte("relayed") }, attest.Unknown, "ABORTED_2"},
		{"another validator", func(w *world) { w.binding.ValidatorHotkey[0]++ }, attest.Unknown, "ABORTED_2"},
		{"signs with another key", func(w *world) { w.key = other }, attest.CheatKey, "CHEAT_KEY"},
		{"too little memory", func(w *world) { w.greet.Devices[0].FreeBytes = 1000 }, attest.Unknown, "ABORTED_3"},
		{"unlabelled software", func(w *world) {
			w.greet.Devices[0].Software, w.greet.Devices[0].VRAMBytes, w.greet.Devices[0].FreeBytes = false, 1<<36, 64<<20
		}, attest.Unknown, "ABORTED_3"},
		{"software without a profile", func(w *world) { w.setup.Profiles = nil }, attest.Unknown, "NO_SOFTWARE_PROFILE"},
		{"next to no memory", func(w *world) {
			w.greet.Devices[0].Software, w.greet.Devices[0].VRAMBytes = false, 1<<20
		}, attest.Unknown, "GPU_UNSUPPORTED"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := quick(t, attest.Shortcuts{})
			x.change(w)
			if j := w.tamper(t, keep).Judgement; j.Result != x.want || j.Reason != x.reason {
				t.Fatalf("%s (%s): %s, want %s (%s)", j.Result, j.Reason, j.Detail, x.want, x.reason)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1000, 0)
	v, err := attest.NewVerifier(attest.Setup{Started: start, Strength: attest.DefaultStrength(), Profiles: profiles}, rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Cap(attest.FrameFillDone); ok {
		t.Fatal("FILL_DONE may come first")
	}
	if _, err := v.Record(); err == nil || v.Done() || v.Judgement().Result != "" {
		t.Fatal("an open challenge has a judgement")
	}
	v.Fail(attest.FailTimeout, "silence", v.Deadline())
	if j := v.Judgement(); j.Result != attest.Unknown || j.Reason != "TIMEOUT_HELLO" || j.AfterOpen {
		t.Fatalf("%+v", j)
	}
	if f, ok := v.Next(); !ok || f.Type() != attest.FrameAbort {
		t.Fatal("no ABORT")
	}
	v.Fail(attest.FailTransport, "gone", start.Add(time.Hour))
	if !v.Done() || v.Judgement().Reason != "TIMEOUT_HELLO" {
		t.Fatal("the end of the channel changed the judgement")
	}
}

// TestRecordBits flips bits all over a record file: each is refused, and named by its section.
func TestRecordBits(t *testing.T) {
	r := quick(t, attest.Shortcuts{}).tamper(t, keep)
	var file bytes.Buffer
	if _, err := r.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	judge := func(b []byte) error {
		rec, err := attest.ReadRecord(bytes.NewReader(b))
		if err != nil {
			return err
		}
		_, err = attest.Judge(rec, verifyVerdict)
		return err
	}
	if err := judge(whole); err != nil {
		t.Fatal(err)
	}
	check := func(name string, b []byte) {
		t.Helper()
		if err := judge(b); !errors.Is(err, attest.ErrRecord) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	b := bytes.Clone(whole)
	for i := 0; i < len(b); i += 1 + mrand.IntN(len(b)/400) {
		bit := byte(1) << mrand.IntN(8)
		b[i] ^= bit
		check("byte", b)
		b[i] ^= bit
	}
	for i := range 600 { // the head, where lengths and the set-up stand
		b[i] ^= 0x10
		check("head", b)
		b[i] ^= 0x10
	}
	check("cut", whole[:len(whole)-1])
	check("extended", append(bytes.Clone(whole), 0))
	check("empty", nil)
	if err := judge(b); err != nil {
		t.Fatal("not restored:", err)
	}

	// With all hashes made anew the content itself has to give the verdict.
	r.Judgement.Result = attest.PassOther
	if _, err := attest.Judge(r, verifyVerdict); !errors.Is(err, attest.ErrRecord) {
		t.Fatal("another verdict accepted:", err)
	}
	r.Judgement.Result = attest.Pass
	r.Judgement.GPUs[0].C *= 2
	if _, err := attest.Judge(r, verifyVerdict); !errors.Is(err, attest.ErrRecord) {
		t.Fatal("another rate accepted:", err)
	}
	r.Judgement.GPUs[0].C /= 2
	r.Setup.Binding.MinerHotkey[0]++
	if _, err := attest.Judge(r, verifyVerdict); !errors.Is(err, attest.ErrRecord) {
		t.Fatal("another miner accepted:", err)
	}
}

// TestChangedRecordWithFreshHashes changes single bytes of the parsed parts, so that only the replay can refuse them.
func TestChangedRecordWithFreshHashes(t *testing.T) {
	r := quick(t, attest.Shortcuts{}).tamper(t, keep)
	n, refused := attest.MutateRecord(r, 7, func(m *attest.Record) bool {
		_, err := attest.Judge(m, verifyVerdict)
		return errors.Is(err, attest.ErrRecord)
	})
	if n == 0 || n != refused {
		t.Fatalf("%d of %d changes refused", refused, n)
	}
	t.Logf("%d changes refused", n)
}

// TestATimeoutOfTheNetworkIsNotTheDeadline: TCP may give up on a peer long before the verifier does.
func TestATimeoutOfTheNetworkIsNotTheDeadline(t *testing.T) {
	w := quick(t, attest.Shortcuts{})
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	now := w.setup.Started.Add(time.Second)
	v.Fail(attest.FailureOf(&net.OpError{Op: "read", Err: syscall.ETIMEDOUT}), "connection timed out", now)
	if r := v.Judgement().Reason; r != "TRANSPORT_HELLO" {
		t.Error(r)
	}
	for !v.Done() {
		v.Sent(now)
	}
	r, err := v.Record()
	if err == nil {
		_, err = attest.Judge(r, verifyVerdict)
	}
	if err != nil {
		t.Errorf("an honest record is refused: %v", err)
	}
}

// TestMoreThanOpenHoldsIsNoFaultOfTheValidator: what the machine names in HELLO must not lead to a result that never counts.
func TestMoreThanOpenHoldsIsNoFaultOfTheValidator(t *testing.T) {
	w := quick(t, attest.Shortcuts{})
	w.setup.Profiles[0].Params.Rounds, w.setup.Profiles[0].Params.Cells = 20000, 16
	w.setup.Strength = attest.EnrolmentStrength()
	j := w.tamper(t, keep).Judgement
	if j.Result != attest.Unknown || j.Reason != "OPEN_SIZE" || j.AfterOpen {
		t.Errorf("%+v", j)
	}
}

// TestRecordSaysWhetherTheValidatorSignedIt: a record of a run that ended early is nobody's word.
func TestRecordSaysWhetherTheValidatorSignedIt(t *testing.T) {
	if r := quick(t, attest.Shortcuts{}).tamper(t, keep); !r.Signed() {
		t.Error("a whole run is not signed")
	}
	cut := on(attest.FrameProof, 5, func(attest.Frame) []byte { return nil })
	if r := quick(t, attest.Shortcuts{}).tamper(t, cut); r.Signed() {
		t.Error("a run that ended early is signed")
	}
}

// TestAProverOpensNoMoreThanAChallengeDoes: 256 KiB of indices would have it hold a gigabyte of openings.
func TestAProverOpensNoMoreThanAChallengeDoes(t *testing.T) {
	p := attest.SoftwareParams()
	if err := attest.AskToOpen(p, 512, 128); err != nil {
		t.Error(err)
	}
	for _, n := range [][2]int{{513, 0}, {0, 129}} {
		var a *attest.AbortError
		if err := attest.AskToOpen(p, n[0], n[1]); !errors.As(err, &a) || a.Code != attest.AbortProtocol {
			t.Errorf("%v: %v", n, err)
		}
	}
}

// TestFramesOneByOneMoveNoDeadline: ROOTS of many devices come in the time of one phase.
func TestFramesOneByOneMoveNoDeadline(t *testing.T) {
	w := newWorld(t, 2, attest.Shortcuts{})
	w.setup.Profiles = quick(t, attest.Shortcuts{}).setup.Profiles
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	p, err := attest.NewProver(w.greet, &w.binding)
	if err != nil {
		t.Fatal(err)
	}
	now := w.setup.Started
	feed := func(want attest.FrameType) {
		t.Helper()
		f, ok := p.Next()
		if !ok || f.Type() != want {
			t.Fatalf("the prover sends %v, want %v", f.Type(), want)
		}
		now = now.Add(time.Second)
		v.Receive(f, now)
	}
	feed(attest.FrameHello)
	challenge, _ := v.Next()
	v.Sent(now)
	task, err := p.Receive(challenge)
	if err != nil {
		t.Fatal(err)
	}
	for g, j := range task.Jobs {
		roots, err := w.devices[j.Device].Fill(t.Context(), j.Params, j.Seed)
		if err == nil {
			err = p.Filled(g, roots)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	feed(attest.FrameFillDone)
	feed(attest.FrameFillDone)
	deadline := v.Deadline()
	if d := deadline.Sub(now); d != 30*time.Second {
		t.Errorf("ROOTS have %s", d)
	}
	feed(attest.FrameRoots)
	if moved := v.Deadline().Sub(deadline); moved != 0 {
		t.Errorf("the first ROOTS moved the deadline of the second by %s", moved)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 15, 1})
	f.Add([]byte{3, 0, 0, 0, 18, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := attest.ReadFrame(bytes.NewReader(b), func(attest.FrameType) (int, bool) { return 1 << 10, true })
		if err == nil && (len(fr) < 6 || len(fr) > 6+1<<10 || !bytes.Equal(fr, b[:len(fr)])) {
			t.Fatalf("%x gave %x", b, fr)
		}
		if err != nil && !errors.Is(err, attest.ErrFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
}

// silence is the record of a machine that never said a word.
func silence(t testing.TB, w *world) *attest.Record {
	t.Helper()
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	v.Fail(attest.FailTimeout, "silence", v.Deadline())
	for !v.Done() {
		v.Sent(v.Deadline())
	}
	r, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// FuzzReadRecord reads any bytes, and puts other bytes into a whole record: of a challenge that was passed, of one that was
// failed by proof, or of one that broke off. What reads must write the same again, and nothing but the unchanged record may
// be judged to have passed. Records differ from process to process, so the change is what is fuzzed.
func FuzzReadRecord(f *testing.F) {
	var records [3][]byte
	for i, change := range []func(attest.Frame) []byte{
		func(fr attest.Frame) []byte { return fr },
		func(fr attest.Frame) []byte {
			if fr.Type() == attest.FrameProof {
				fr[len(fr)/2] ^= 1
			}
			return fr
		},
		nil,
	} {
		w := quick(f, attest.Shortcuts{})
		var r *attest.Record
		if change != nil {
			r = w.tamper(f, change)
		} else {
			r = silence(f, w)
		}
		var file bytes.Buffer
		if _, err := r.WriteTo(&file); err != nil {
			f.Fatal(err)
		}
		if (r.Judgement.Verdict() == basilica.Pass) != (i == 0) {
			f.Fatalf("record %d: %+v", i, r.Judgement)
		}
		records[i] = file.Bytes()
	}
	for which := range uint8(4) {
		f.Add(which, uint32(0), uint32(0), []byte(nil))
		f.Add(which, uint32(len(records[0])/2), uint32(1<<30), []byte(nil))
		f.Add(which, uint32(40), uint32(1), []byte{1})
	}
	f.Add(uint8(3), uint32(0), uint32(0), []byte("BSLGPOW1REC\x01\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, which uint8, at, out uint32, in []byte) {
		var whole []byte // the fourth is nothing but what is put in
		if n := int(which) % (len(records) + 1); n < len(records) {
			whole = records[n]
		}
		from := min(int(at), len(whole))
		b := slices.Concat(whole[:from], in, whole[min(from+int(out), len(whole)):])
		r, err := attest.ReadRecord(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, attest.ErrRecord) {
				t.Fatal(err)
			}
			return
		}
		var again bytes.Buffer
		if _, err := r.WriteTo(&again); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatal("a record reads and writes differently", err)
		}
		if j, err := attest.Judge(r, verifyVerdict); err == nil && j.Verdict() == basilica.Pass && !bytes.Equal(b, records[0]) {
			t.Fatal("a changed record passes")
		}
	})
}

// FuzzVerifier gives a verifier any bytes as its first frames: it must end without a pass, and its record must replay.
func FuzzVerifier(f *testing.F) {
	w := quick(f, attest.Shortcuts{})
	p, err := attest.NewProver(w.greet, nil)
	if err != nil {
		f.Fatal(err)
	}
	hello, _ := p.Next()
	f.Add([]byte(hello))
	f.Add(append(bytes.Clone(hello), 2+34, 0, 0, 0, 3, 1, 0x12, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
		if err != nil {
			t.Fatal(err)
		}
		now, in := w.setup.Started, bytes.NewReader(b)
		for !v.Done() {
			if _, ok := v.Next(); ok {
				v.Sent(now)
				continue
			}
			fr, err := attest.ReadFrame(in, v.Cap)
			if err != nil {
				v.Fail(attest.FailureOf(err), err.Error(), now)
				continue
			}
			v.Receive(fr, now)
		}
		r, err := v.Record()
		if err != nil || r.Judgement.Verdict() == basilica.Pass {
			t.Fatal(r.Judgement, err)
		}
		if _, err := attest.Judge(r, verifyVerdict); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzProver gives a prover any bytes.
func FuzzProver(f *testing.F) {
	w := quick(f, attest.Shortcuts{})
	v, err := attest.NewVerifier(w.setup, rand.Reader, nil)
	if err != nil {
		f.Fatal(err)
	}
	first, err := attest.NewProver(w.greet, nil)
	if err != nil {
		f.Fatal(err)
	}
	hello, _ := first.Next()
	v.Receive(hello, w.setup.Started)
	challenge, ok := v.Next()
	if !ok {
		f.Fatal("no CHALLENGE")
	}
	f.Add([]byte(challenge))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := attest.NewProver(w.greet, nil)
		if err != nil {
			t.Fatal(err)
		}
		in := bytes.NewReader(b)
		for {
			fr, err := attest.ReadFrame(in, p.Cap)
			if err != nil {
				return
			}
			if _, err := p.Receive(fr); err != nil {
				return
			}
		}
	})
}
