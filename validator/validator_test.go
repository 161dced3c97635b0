package validator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/score"
)

func TestMain(m *testing.M) { provoke.NoLeaks(m) }

func proof(v basilica.Verification) basilica.Verdict { return v.Verdict(basilica.CheckGPUProof) }

// judgeAgain opens the stored record of a verdict and has it judged offline.
func (w *world) judgeAgain(d basilica.Verdict) attest.Judgement {
	w.t.Helper()
	if d.Evidence == nil {
		w.t.Fatalf("no evidence under %+v", d)
	}
	f, _, err := w.db.Evidence(d.Evidence.SHA256)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	r, err := attest.ReadRecord(f)
	if err != nil {
		w.t.Fatal(err)
	}
	j, err := attest.Judge(r, func(k attest.Key, msg, sig []byte) bool { return keys.Verify(keys.Sr25519, k, msg, sig) })
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// TestPublicVDF: what a validator asks of a machine for everybody needs no secret of its own.
func TestPublicVDF(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.cfg.Squarings, w.cfg.PublicVDF = 256, true
	w.restart()
	d := proof(w.round(20)["box-1"])
	if j := w.judgeAgain(d); j.Result != attest.Pass || j.SequentialTimeLowerBound != 256/2e7 {
		t.Errorf("%+v", j)
	}
}

func TestHonestMachines(t *testing.T) {
	two := newMachine(t, "box-2")
	two.gpus = 2
	w := newWorld(t, newMachine(t, "box-1"), two)
	w.cfg.Squarings = 256
	w.restart()
	got := w.round(20)
	for id, gpus := range map[basilica.ExecutorID]int{"box-1": 1, "box-2": 2} {
		v := got[id]
		if d := proof(v); d.Result != basilica.Pass || d.Evidence == nil || d.Evidence.Class != "software" || !d.Evidence.Signed {
			t.Errorf("%s: %+v", id, d)
		} else if j := w.judgeAgain(d); j.Result != attest.Pass {
			t.Errorf("%s judged again: %+v", id, j)
		}
		if len(v.GPUs) != gpus || v.Strength != score.StrengthEnrolment || v.Facts == nil || v.Facts.CPUs != 2 {
			t.Errorf("%s: %+v", id, v)
		}
		if d := v.Verdict(basilica.CheckTaskPath); d.Result != basilica.Pass {
			t.Errorf("%s: %+v", id, d)
		}
	}
	if v := w.round(40)["box-1"]; v.Strength != "default" || proof(v).Result != basilica.Pass {
		t.Errorf("second round: %+v", v)
	}
	w.weigh(41)
	want := []basilica.Weight{{UID: 2, Value: 65535}}
	if len(w.chain.sets) != 1 || !cmp.Equal(w.chain.sets[0], want) {
		t.Fatalf("weights %v", w.chain.sets)
	}
	sets, err := w.book.WeightSets(t.Context(), 10)
	if err != nil || len(sets) != 1 || sets[0].Submitted == nil || sets[0].Scores[0].Value != 0.03 {
		t.Errorf("%+v %v", sets, err)
	}
	again, err := score.Weights(sets[0].Scores, sets[0].Burn, sets[0].BurnShare)
	if err != nil || !cmp.Equal(again, sets[0].Weights) {
		t.Errorf("recomputed: %v %v", again, err)
	}
	for k, s := range w.v.standings {
		history, err := w.book.History(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		stored := score.Replay(history, w.cfg.Policy)
		if d := cmp.Diff(s.Score(k.Executor, w.cfg.Policy), stored.Score(k.Executor, w.cfg.Policy)); d != "" {
			t.Errorf("%v recomputed from the stored rows: %s", k, d)
		}
	}
}

func TestVerdicts(t *testing.T) {
	silent := func(_ context.Context, rw io.ReadWriteCloser, _ attest.Binding) error {
		_, err := io.Copy(io.Discard, rw)
		return err
	}
	garbage := func(_ context.Context, rw io.ReadWriteCloser, _ attest.Binding) error {
		_, err := rw.Write(bytes.Repeat([]byte{0xff}, 64))
		return err
	}
	huge := func(_ context.Context, rw io.ReadWriteCloser, _ attest.Binding) error {
		b := append(binary.LittleEndian.AppendUint32(nil, 1<<30), 1, 1)
		_, err := rw.Write(b)
		return err
	}
	refuse := func(err error) func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		return func(context.Context, io.ReadWriteCloser, attest.Binding) error { return err }
	}
	held := basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-7", Expires: time.Now()})
	challenged := basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g-2", Expires: time.Now()})
	quarantine := basilica.NewHeld(basilica.Holding{Kind: basilica.HolderQuarantine, Holder: "pid 7", Expires: time.Now()})
	for _, c := range []struct {
		name   string
		change func(m *machine)
		result basilica.Result
		reason string
		holder string
	}{
		{"cheats on the fill", func(m *machine) { m.cheat = "fill:0.3" }, basilica.Fail, "CHEAT_FILL", ""},
		{"cheats on the walk", func(m *machine) { m.cheat = "walk:0.9" }, basilica.Fail, "CHEAT_WALK", ""},
		{"says nothing", func(m *machine) { m.attest = silent }, basilica.NotRun, "TIMEOUT_HELLO", ""},
		{"sends garbage", func(m *machine) { m.attest = garbage }, basilica.NotRun, "MALFORMED_HELLO", ""},
		{"announces a gigabyte", func(m *machine) { m.attest = huge }, basilica.NotRun, "MALFORMED_HELLO", ""},
		{"hangs up", func(m *machine) { m.attest = refuse(nil) }, basilica.NotRun, "TRANSPORT_HELLO", ""},
		{"is busy", func(m *machine) { m.attest = refuse(held) }, basilica.NotRun, "BUSY", "task-7"},
		{"is held by another validator", func(m *machine) { m.attest = refuse(challenged) }, basilica.NotRun, "BUSY_CHALLENGE", "g-2"},
		{"is busy for nobody", func(m *machine) { m.attest = refuse(basilica.E(basilica.Conflict, "BUSY", "busy", "")) }, basilica.NotRun, "BUSY", ""},
		{"is in quarantine", func(m *machine) { m.attest = refuse(quarantine) }, basilica.NotRun, "QUARANTINE", ""},
		{"blames the validator", func(m *machine) { m.attest = refuse(basilica.E(basilica.Internal, "LOCAL_ERROR", "your fault", "")) }, basilica.NotRun, "REFUSED", ""},
		{"refuses with nonsense", func(m *machine) { m.attest = refuse(basilica.E(basilica.Internal, "a b\n", "", "")) }, basilica.NotRun, "REFUSED", ""},
		{"cannot be dialled", func(m *machine) {
			m.dialErr = basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "away", "").With(errors.New("dial tcp"))
		}, basilica.NotRun, "SSH_UNREACHABLE", ""},
		{"is skipped by its miner", func(m *machine) { m.skipped = true }, basilica.NotRun, "MINER_SKIPPED", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "box-1")
			w := newWorld(t, m)
			c.change(m)
			if c.reason == "TIMEOUT_HELLO" {
				w.cfg.Limits.Hello = 2 * time.Second
				w.restart()
			}
			v := w.round(20)["box-1"]
			if d := proof(v); d.Result != c.result || d.Reason != c.reason || v.Holder != c.holder {
				t.Errorf("%+v holder %q", d, v.Holder)
			} else if d.Evidence != nil {
				w.judgeAgain(d)
			}
			if len(v.GPUs) != 0 {
				t.Errorf("proven: %+v", v.GPUs)
			}
			w.weigh(21)
			if want := []basilica.Weight{{UID: 0, Value: 65535}}; len(w.chain.sets) != 1 || !cmp.Equal(w.chain.sets[0], want) {
				t.Errorf("weights %v", w.chain.sets)
			}
		})
	}
}

func TestSoftwareIsRefusedUnlessAllowed(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.cfg.Policy.AllowSoftware = false
	w.restart()
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.NotRun || d.Reason != "SOFTWARE_REFUSED" {
		t.Errorf("%+v", d)
	}
}

func TestEndsInTheMiddle(t *testing.T) {
	for frames, want := range map[int]struct {
		reason    string
		afterOpen bool
	}{
		1:   {"TRANSPORT_FILL_DONE", false},
		4:   {"TRANSPORT_MIX_DONE", false},
		150: {"TRANSPORT_PROOF", true}, // HELLO, five answers, 128 of PING and ECHO, 16 openings
	} {
		m := newMachine(t, "box-1")
		honest := *m
		m.attest = func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
			return honest.prove(ctx, &dying{ReadWriteCloser: rw, frames: frames}, b)
		}
		w := newWorld(t, m)
		v := w.round(20)["box-1"]
		if d := proof(v); d.Result != basilica.NotRun || d.Reason != want.reason || v.AfterOpen != want.afterOpen {
			t.Errorf("after %d frames: %+v, after OPEN: %v", frames, d, v.AfterOpen)
		} else {
			w.judgeAgain(d)
		}
	}
}

// dying hangs up after so many writes.
type dying struct {
	io.ReadWriteCloser
	frames int
}

func (d *dying) Write(p []byte) (int, error) {
	if d.frames--; d.frames < 0 {
		return 0, errors.Join(io.ErrClosedPipe, d.Close())
	}
	return d.ReadWriteCloser.Write(p)
}

func TestTaskPathMovesAvailabilityOnly(t *testing.T) {
	m := newMachine(t, "box-1")
	m.noTask = true
	w := newWorld(t, m)
	v := w.round(20)["box-1"]
	if d := v.Verdict(basilica.CheckTaskPath); d.Result != basilica.NotRun || d.Reason != "ENGINE_AWAY" || proof(v).Result != basilica.Pass {
		t.Errorf("%+v", v)
	}
	if s := w.v.scores(&w.chain.mg, w.v.standings); s[0].Value != 0.01*score.TaskPathCredit {
		t.Errorf("%+v", s)
	}
}

func TestPins(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	w.round(20)
	w.restart()
	m.key = newMachine(t, "other").key
	if d := proof(w.round(40)["box-1"]); d.Result != basilica.NotRun || d.Reason != reasonKeyChanged {
		t.Errorf("%+v", d)
	}
	w.miner.key = pair(t, "//Eve")
	if d := proof(w.round(60)["box-1"]); d.Reason != reasonMismatch {
		t.Errorf("endorsed by another miner: %+v", d)
	}
}

func TestAWrongAttestationKeyIsAProvenLie(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	liar := newMachine(t, "box-1")
	m.attest = liar.prove
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.Fail || d.Reason != "CHEAT_KEY" {
		t.Errorf("%+v", d)
	}
}

func TestOneGPUOnce(t *testing.T) {
	uuid := attest.UUID{1, 2, 3}
	a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
	w := newWorld(t, a)
	a.uuid = &uuid
	if got := w.round(20)["box-a"]; proof(got).Result != basilica.Pass {
		t.Fatalf("%+v", got)
	}
	b.uuid = &uuid
	w.miner.machines = []*machine{b, a}
	got := w.round(40)
	if d := proof(got["box-a"]); d.Result != basilica.Pass {
		t.Errorf("who had the GPU before keeps it: %+v", d)
	}
	if d := proof(got["box-b"]); d.Result != basilica.Unsure || d.Reason != reasonDuplicateUUID || len(got["box-b"].GPUs) != 0 {
		t.Errorf("%+v", got["box-b"])
	}
	a.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-7", Expires: time.Now()})
	}
	got = w.round(60)
	if proof(got["box-a"]).Reason != score.ReasonBusy || proof(got["box-b"]).Reason != reasonDuplicateUUID || len(got["box-b"].GPUs) != 0 {
		t.Errorf("a busy machine's GPU was paid to another: %+v", got)
	}
	w.miner.machines = []*machine{b}
	if got = w.round(80); proof(got["box-a"]).Reason != reasonAbsent || proof(got["box-b"]).Result != basilica.Pass {
		t.Errorf("a machine under its new id: %+v", got)
	}
}

// TestAnEndorsementWithoutKeysPinsNothing: an empty key would be taken for a first contact in every round.
func TestAnEndorsementWithoutKeysPinsNothing(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	n := w.chain.mg.Neurons[2]
	for _, e := range []basilica.Endorsement{{Executor: "box-1", HostKey: []byte("h")}, {Executor: "box-1", AttestSPKI: []byte("a")}} {
		signed, err := basilica.Endorse(e, w.miner.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, reason, _ := endorsement(target{neuron: n, access: basilica.GrantedAccess{Executor: "box-1", HostKey: e.HostKey, Endorsement: signed}}); reason != reasonEndorsement {
			t.Errorf("%+v: %q", e, reason)
		}
	}
}

// TestNobodyStartsLate: with one GPU behind two machines the second could wait for the first one's end.
func TestNobodyStartsLate(t *testing.T) {
	a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
	w := newWorld(t, a, b)
	w.cfg.Limits.Hello = time.Minute
	w.restart()
	w.v.gateTimeout = 50 * time.Millisecond
	honest, done := *a, make(chan struct{})
	a.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
		defer close(done)
		return honest.prove(ctx, rw, bind)
	}
	waiting := *b
	b.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
		<-done
		return waiting.prove(ctx, rw, bind)
	}
	got := w.round(20)
	if d := proof(got["box-a"]); d.Result != basilica.Pass {
		t.Errorf("%+v", d)
	}
	if d := proof(got["box-b"]); d.Result != basilica.NotRun || d.Reason != reasonLate {
		t.Errorf("%+v", d)
	}
}

// TestTwoMinersStartTogether: one GPU behind machines of two miners could answer for one after the other; as long as a round's
// machines fit into `parallel`, all of them start near one instant.
func TestTwoMinersStartTogether(t *testing.T) {
	a, b := newMachine(t, "box-a"), newMachine(t, "box-b")
	w := newWorld(t, a)
	other := &minerDouble{key: pair(t, "//Dave//miner"), machines: []*machine{b}}
	w.chain.mg.Neurons = append(w.chain.mg.Neurons, basilica.Neuron{UID: 3, Hotkey: other.hotkey(), Axon: w.chain.mg.Neurons[2].Axon})
	w.cfg.Door = func(n basilica.Neuron) (MinerDoor, error) {
		if n.UID == 3 {
			return other, nil
		}
		return w.miner, nil
	}
	w.cfg.Dial = func(_ context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
		if access.Executor == "box-b" {
			return w.connect(other, access, key)
		}
		return w.connect(w.miner, access, key)
	}
	w.cfg.Limits.Hello = time.Minute
	w.restart()
	w.v.gateTimeout = 50 * time.Millisecond
	honest, done := *a, make(chan struct{})
	a.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
		defer close(done)
		return honest.prove(ctx, rw, bind)
	}
	waiting := *b
	b.attest = func(ctx context.Context, rw io.ReadWriteCloser, bind attest.Binding) error {
		<-done // until the GPU is free
		return waiting.prove(ctx, rw, bind)
	}
	got := w.round(20)
	if d := proof(got["box-a"]); d.Result != basilica.Pass {
		t.Errorf("%+v", d)
	}
	if d := proof(got["box-b"]); d.Result != basilica.NotRun || d.Reason != reasonLate {
		t.Errorf("%+v", d)
	}
}

func TestMinersThatCannotBeAsked(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	w.round(20)
	axon := w.chain.mg.Neurons[2].Axon
	for i, c := range []struct {
		change func()
		reason string
	}{
		{func() { w.miner.err = basilica.E(basilica.Unavailable, "AXON_AWAY", "away", "") }, reasonMinerAway},
		{func() { w.miner.err = basilica.E(basilica.Denied, "STAKE_TOO_LOW", "not enough", "") }, "STAKE_TOO_LOW"},
		{func() { w.miner.err = nil; w.miner.machines = nil }, reasonAbsent},
		{func() { w.miner.machines = []*machine{m}; w.chain.mg.Neurons[2].Axon.TLSKey = nil }, reasonAxonTLS},
		{func() { w.chain.mg.Neurons[2].Axon = basilica.Axon{} }, reasonNoAxon},
		{func() { w.chain.mg.Neurons[2].Axon = axon; w.v.cfg.AllowPrivate = false }, reasonAxonAddr},
	} {
		c.change()
		if d := proof(w.round(basilica.BlockNumber(40 + 20*i))["box-1"]); d.Result != basilica.NotRun || d.Reason != c.reason {
			t.Errorf("%s: %+v", c.reason, d)
		}
	}
}

func TestExecutorCaps(t *testing.T) {
	var ms []*machine
	for _, id := range []basilica.ExecutorID{"a", "b", "c"} {
		ms = append(ms, newMachine(t, id))
	}
	w := newWorld(t, ms...)
	w.cfg.MaxExecutors, w.cfg.Parallel = 2, 1
	w.restart()
	if got := w.round(20); len(got) != 2 || proof(got["a"]).Result != basilica.Pass || proof(got["b"]).Result != basilica.Pass {
		t.Errorf("%+v", got)
	}
}

// TestNamesHideNoExecutor: a miner that names more executors than are looked at must not keep a proven one from being looked at.
func TestNamesHideNoExecutor(t *testing.T) {
	a, b := newMachine(t, "a"), newMachine(t, "b")
	w := newWorld(t, a, b)
	if got := w.round(20); len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	w.cfg.MaxExecutors = 2
	w.restart()
	w.miner.machines = []*machine{newMachine(t, "x"), newMachine(t, "y"), newMachine(t, "z"), b, a}
	if got := w.round(40); len(got) != 2 || proof(got["a"]).Result != basilica.Pass || proof(got["b"]).Result != basilica.Pass {
		t.Errorf("known executors behind new names: %+v", got)
	}
	w.miner.machines = []*machine{newMachine(t, "x"), newMachine(t, "y"), newMachine(t, "z")}
	if got := w.round(60); len(got) != 4 || proof(got["a"]).Reason != reasonAbsent || proof(got["b"]).Reason != reasonAbsent {
		t.Errorf("known executors replaced by new names: %+v", got)
	}
	w.cfg.MaxExecutors = 1
	w.restart()
	w.miner.machines = []*machine{a, b}
	got := w.round(80)
	if proof(got["a"]).Result != basilica.Pass || proof(got["b"]).Reason != reasonTooMany || len(got) != 4 {
		t.Errorf("a known executor beyond the limit: %+v", got)
	}
	// Names cost a miner nothing: they do not make rows without end.
	for i := range basilica.BlockNumber(8) {
		w.miner.machines = []*machine{newMachine(t, basilica.ExecutorID("n"+strconv.Itoa(int(i))))}
		w.round(100 + 20*i)
	}
	if n := len(w.v.standings); n > newcomers*w.cfg.MaxExecutors {
		t.Errorf("%d executors have a row", n)
	}
}

// TestNobodyIsBlamedForALateTurn: others used up the round before a miner was asked.
func TestNobodyIsBlamedForALateTurn(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.round(20)
	for name, left := range map[string]time.Duration{"over": 0, "nearly over": w.cfg.RoundTimeout / 5} {
		late := basilica.Round{First: 40, Hash: basilica.Hash{byte(len(name))}, Started: time.Now()}
		if err := w.book.OpenRound(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		found, _, err := w.v.visitAll(t.Context(), time.Now().Add(left), late, w.v.discover(&w.chain.mg))
		if err != nil || len(found) != 1 || proof(found[0].verification).Reason != score.ReasonNoTurn {
			t.Errorf("%s: %+v %v", name, found, err)
		}
	}
}

func TestAMachineThatNeverOpensItsChannel(t *testing.T) {
	stalling := newMachine(t, "box-1")
	stalling.stalls = true
	w := newWorld(t, stalling)
	w.cfg.ConnectTimeout = 50 * time.Millisecond
	w.restart()
	began := time.Now()
	if d := proof(w.round(20)["box-1"]); d.Result != basilica.NotRun || d.Reason != "SSH_UNREACHABLE" {
		t.Errorf("%+v", d)
	}
	if took := time.Since(began); took > w.cfg.RoundTimeout/4 {
		t.Errorf("it held the round for %s", took)
	}
}

func TestWeightsOncePerRoundAndWindow(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.weigh(19)
	if len(w.chain.sets) != 0 {
		t.Fatal("weights before a round was completed")
	}
	w.chain.mg.Neurons[1].LastUpdate = 15
	w.round(20)
	for head := basilica.BlockNumber(20); head < 25; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 0 {
		t.Fatal("weights inside of the rate limit")
	}
	for head := basilica.BlockNumber(25); head < 40; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 1 {
		t.Fatalf("%d submissions for one round", len(w.chain.sets))
	}
	// The next one ends without a word, but is included: it must not be sent again.
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		return basilica.Inclusion{}, basilica.E(basilica.Unavailable, "CHAIN_AWAY", "no word", "").With(context.DeadlineExceeded)
	}
	w.round(40)
	w.weigh(41)
	w.chain.took(w.cfg.Hotkey)
	for head := basilica.BlockNumber(42); head < 42+era; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 2 || w.v.attempted != nil {
		t.Fatalf("%d submissions", len(w.chain.sets))
	}
	// Where one was lost nothing is sent until it cannot take effect any more; by then its scores are old, and those of the
	// next round go out.
	w.round(120)
	w.weigh(121)
	w.chain.set = nil
	for head := basilica.BlockNumber(122); head < 121+era; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 3 {
		t.Fatalf("sent again inside of the window: %d submissions", len(w.chain.sets))
	}
	w.weigh(121 + era)
	if len(w.chain.sets) != 3 {
		t.Fatalf("old scores were sent: %d submissions", len(w.chain.sets))
	}
	w.round(200)
	w.weigh(201)
	if len(w.chain.sets) != 4 {
		t.Fatalf("nothing was sent after a lost submission: %d", len(w.chain.sets))
	}
	sets, err := w.book.WeightSets(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	var log []bool
	for _, s := range sets {
		log = append(log, s.Submitted != nil)
	}
	if want := []bool{true, false, true, false, true}; !cmp.Equal(log, want) {
		t.Errorf("recorded %v, newest first, want %v", log, want)
	}
}

// TestTheRowMovesByAnother: an older commit that is opened moves the chain's row of the validator too. Weights that ended without
// a word are not taken for set by that, nor sent again while they may come.
func TestTheRowMovesByAnother(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.round(20)
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		return basilica.Inclusion{}, basilica.E(basilica.Unavailable, "CHAIN_AWAY", "no word", "")
	}
	w.weigh(21)
	w.chain.set = nil
	w.chain.took(w.cfg.Hotkey)
	w.chain.fate = func(basilica.Signed) (basilica.Inclusion, bool, error) { return basilica.Inclusion{}, false, nil }
	for head := basilica.BlockNumber(22); head < 36; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 1 || w.v.attempted == nil {
		t.Fatalf("%d submissions while the first may still come, attempted %+v", len(w.chain.sets), w.v.attempted)
	}
	w.chain.fate = func(basilica.Signed) (basilica.Inclusion, bool, error) {
		return basilica.Inclusion{}, false, basilica.E(basilica.Denied, "SubtensorModule.CommitRevealDisabled", "refused", "")
	}
	w.weigh(36)
	if len(w.chain.sets) != 1 {
		t.Fatal("the blocks were searched again though the row has not moved")
	}
	w.chain.mg.Neurons[1].LastUpdate++
	w.weigh(37)
	if len(w.chain.sets) != 2 || w.v.attempted != nil {
		t.Errorf("%d submissions after the chain refused the first, attempted %+v", len(w.chain.sets), w.v.attempted)
	}
}

func TestADispatchErrorWaitsForTheNextRound(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		return basilica.Inclusion{}, basilica.E(basilica.Denied, "SubtensorModule.NeuronNoValidatorPermit", "no permit", "")
	}
	w.round(20)
	for head := basilica.BlockNumber(21); head < 40; head++ {
		w.weigh(head)
	}
	if len(w.chain.sets) != 1 || w.v.Status().LastError == nil || w.v.Status().LastError.Code != "SubtensorModule.NeuronNoValidatorPermit" {
		t.Errorf("%d submissions, %+v", len(w.chain.sets), w.v.Status().LastError)
	}
}

func TestStaleMetagraph(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.at(19)
	w.v.update(func(s *Status) { s.Head = 20 })
	err := w.v.round(t.Context(), basilica.Round{First: 20})
	if basilica.CodeOf(err) != "STALE_METAGRAPH" {
		t.Errorf("%v", err)
	}
}

func TestNoPermitWaitsAndSaysSo(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	w.chain.mg.Neurons[1].ValidatorPermit = false
	if got := w.round(20); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if err := w.v.Health(t.Context()); basilica.CodeOf(err) != CodeNoPermit || basilica.FixOf(err) == "" {
		t.Errorf("%v", err)
	}
	w.chain.mg.Neurons[1].ValidatorPermit = true
	if got := w.round(40); len(got) != 1 || w.v.Health(t.Context()) != nil {
		t.Errorf("%+v", got)
	}
}

func TestRunFollowsTheChain(t *testing.T) {
	w := newWorld(t, newMachine(t, "box-1"))
	if err := w.book.OpenRound(t.Context(), basilica.Round{First: 0, Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	included := make(chan struct{})
	w.chain.set = func([]basilica.Weight) (basilica.Inclusion, error) {
		close(included)
		w.chain.set = nil
		return w.chain.took(w.cfg.Hotkey), nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.v.Run(ctx) }()
	for n := basilica.BlockNumber(18); n <= 21; n++ {
		w.chain.at(n)
		w.chain.heads <- basilica.Header{Number: n, Hash: basilica.Hash{byte(n)}}
	}
	<-included
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	rounds, err := w.book.Rounds(t.Context(), 10)
	if err != nil || len(rounds) != 2 || rounds[0].First != 20 || rounds[0].Outcome.Code != "COMPLETED" || rounds[1].Outcome.Code != score.ReasonRestarted {
		t.Errorf("%+v %v", rounds, err)
	}
}

func TestNotRegistered(t *testing.T) {
	w := newWorld(t)
	w.chain.mg.Neurons = w.chain.mg.Neurons[:1]
	err := w.v.Run(t.Context())
	if basilica.CodeOf(err) != CodeNotRegistered || basilica.FixOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestCalendar(t *testing.T) {
	key := [32]byte{1}
	c := newCalendar(20, 4, key)
	starts := map[basilica.BlockNumber]basilica.BlockNumber{}
	for n := basilica.BlockNumber(5); n < 105; n++ {
		if r, ok := c.head(basilica.Header{Number: n, Hash: basilica.Hash{byte(n)}}); ok {
			starts[r.First] = n
		}
	}
	for _, first := range []basilica.BlockNumber{20, 40, 60, 80} {
		want := first + 5*basilica.BlockNumber(slot(basilica.Hash{byte(first)}, key, 4))
		if starts[first] != want {
			t.Errorf("round %d starts at %d, want %d", first, starts[first], want)
		}
	}
	if _, early := starts[0]; early {
		t.Error("a round whose first block was not seen has started")
	}
	if c.next(39) != 40 || c.next(40) != 60 {
		t.Error("next round")
	}
}

func TestSSHPublicKey(t *testing.T) {
	key, err := ssh.ParsePublicKey(sshPublicKey(make([]byte, 32)))
	if err != nil || key.Type() != ssh.KeyAlgoED25519 {
		t.Errorf("%v %v", key, err)
	}
}

func FuzzReason(f *testing.F) {
	f.Add("LOCAL_ERROR", "s")
	f.Add("VALIDATOR_RESTARTED", "\x00\n")
	f.Add("a", "b")
	f.Fuzz(func(t *testing.T, code, text string) {
		reason, detail, holder := reasonOf(t.Context(), basilica.E(basilica.Internal, code, text, ""))
		if reason == score.ReasonLocal || reason == score.ReasonRestarted || holder != "" || !safeReason.MatchString(reason) {
			t.Errorf("%q %q", reason, holder)
		}
		for _, r := range detail {
			if r < ' ' {
				t.Errorf("%q", detail)
			}
		}
	})
}
