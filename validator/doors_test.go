package validator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/attest"
	"basilica/pki"
	"basilica/score"
	"basilica/sshdoor"
)

// newSSHWorld puts every machine behind a real SSH door at the end of a line, with the time limits that a validator has.
func newSSHWorld(t *testing.T, l line, machines ...*machine) *world {
	t.Helper()
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, machines...)
	door := &sshMiner{minerDouble: w.miner, authority: authority, self: w.v.self, addrs: map[basilica.ExecutorID]string{}}
	for _, m := range machines {
		door.addrs[m.id] = l.lay(t, serve(t, m, authority, w.miner.key).addr)
	}
	w.cfg.Door = func(basilica.Neuron) (MinerDoor, error) { return door, nil }
	w.cfg.Dial = func(ctx context.Context, a basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			return nil, err
		}
		c, err := sshdoor.Dial(ctx, a.Addr, sshdoor.DialConfig{HostKey: a.HostKey, Signer: signer, Certificate: a.Certificate, AllowPrivate: true})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	w.cfg.Limits, w.cfg.Profiles = attest.Limits{}, smallest()
	w.cfg.MaxExecutors, w.cfg.Parallel = len(machines), len(machines)
	w.cfg.ConnectTimeout, w.cfg.CheckTimeout, w.cfg.RoundTimeout = 15*time.Second, 60*time.Second, 10*time.Minute
	w.restart()
	return w
}

// smallest is the software profile of tests that look at many machines.
func smallest() attest.Profiles {
	p := attest.Params{N: 32, Layers: 6, Lanes: 64, Steps: 2, Batches: 2, WinLayers: 3, Cells: 64, Rounds: 8}
	return attest.Profiles{{Model: "software", Software: true, Params: &p, Expect: attest.Expect{Fill: 5, Walk: 5, Mix: 5}}}
}

// perRound is how many machines are looked at in a round; abreast how many proofs are read at once where their work is what
// takes time, because they share this test's processors.
const (
	perRound = 20
	abreast  = 4
)

// scaled is a number of rounds: that of the environment's variable, else few enough for every change.
func scaled(t *testing.T, name string, least int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return least
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no positive number", name, text)
	}
	return n
}

// TestCheatsOverSSH has every kind of liar judged by the role itself over real SSH connections, side by side with an honest
// machine, at enrolment strength; the records say the same offline.
func TestCheatsOverSSH(t *testing.T) {
	liars := map[string][]string{ // spec: reasons that catch it
		"fill:0.05": {"CHEAT_FILL"}, "walk:0.2": {"CHEAT_WALK"}, "mix:0.5": {"CHEAT_MIX"}, "fill:0.05,grind:8": {"CHEAT_FILL"},
		"nonce": {"CHEAT_FILL"}, "early": {"CHEAT_WALK"}, "earlymix": {"CHEAT_MIX"}, "twin": {"CHEAT_FILL"}, "claim": {"CHEAT_FILL"},
		"mutate": {"CHEAT_FILL"}, "truncate": {"MALFORMED_PROOF"}, "key": {"CHEAT_KEY"},
	}
	machines := []*machine{newMachine(t, "honest")}
	specs := map[basilica.ExecutorID]string{}
	for i, spec := range slices.Sorted(maps.Keys(liars)) {
		m := newMachine(t, basilica.ExecutorID(fmt.Sprintf("liar-%d", i)))
		m.cheat = spec
		if spec == "twin" {
			m.gpus = 2
		}
		specs[m.id] = spec
		machines = append(machines, m)
	}
	// One machine behind two executors: the second one's frames are relayed to the first one's prover.
	relayed := newMachine(t, "relayed")
	relayed.attest = machines[0].prove
	machines = append(machines, relayed)
	specs["relayed"], liars["relay to another executor"] = "relay to another executor", []string{"CHEAT_KEY"}
	w := newSSHWorld(t, line{}, machines...)
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range profiles {
		if !p.Software {
			w.cfg.Profiles = append(w.cfg.Profiles, p)
		}
	}
	w.cfg.Parallel = abreast
	w.restart()
	type row struct{ accepted, rounds int }
	rows, caught := map[string]row{}, map[string]map[string]int{}
	for i := range scaled(t, "BASILICA_CHEAT_NETWORK_ROUNDS", 1) {
		got := w.round(basilica.BlockNumber(20 * (i + 1)))
		if d := proof(got["honest"]); d.Result != basilica.Pass {
			t.Errorf("honest: %+v", d)
		}
		for id, spec := range specs {
			d := proof(got[id])
			r := rows[spec]
			r.rounds++
			if d.Result == basilica.Pass || d.Result == basilica.Unsure || len(got[id].GPUs) > 0 {
				r.accepted++
				t.Errorf("%s: accepted: %+v", spec, d)
			}
			rows[spec] = r
			if !slices.Contains(liars[spec], d.Reason) {
				t.Errorf("%s: %+v", spec, d)
			}
			if caught[spec] == nil {
				caught[spec] = map[string]int{}
			}
			caught[spec][string(d.Result)+" "+d.Reason]++
			if d.Evidence != nil {
				w.judgeAgain(d)
			}
		}
	}
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "attack\trounds\taccepted\tverdict")
	for _, spec := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(tab, "%s\t%d\t%d\t%s\n", spec, rows[spec].rounds, rows[spec].accepted, counted(caught[spec]))
	}
	if err := tab.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
	w.weigh(w.v.Status().Head + 1)
	if sets := w.chain.sets; len(sets) != 1 {
		t.Errorf("%v", sets)
	}
	for k, s := range w.v.standings {
		if value := s.Score(k.Executor, w.cfg.Policy).Value; (value > 0) != (k.Executor == "honest") {
			t.Errorf("%s is worth %v", k.Executor, value)
		}
	}
}

func counted(m map[string]int) (s string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%s %d", k, m[k])
	}
	return s
}

// handicap is bad luck of an honest machine, or of its validator.
type handicap struct {
	name  string
	line  line
	setUp func(t *testing.T, w *world) // more of it
	dies  bool                         // the validator, in the middle of the round
	pass  float64                      // share of rounds that pass
	wide  bool                         // all proofs at once: it is the waiting that takes time
}

func handicaps() []handicap {
	// From the handshake, through the challenge's phases, to the last openings, each as likely as the others.
	somewhere := func() int { return int(1000 * math.Pow(200, rand.Float64())) }
	return []handicap{
		{name: "none", pass: 0.95},
		{name: "200 ms of round trip", line: line{delay: 100 * time.Millisecond}, wide: true},
		{name: "5 % loss", line: line{loss: 0.05}, wide: true},
		{name: "slow disk", setUp: func(_ *testing.T, w *world) {
			w.cfg.Archive = slowArchive{w.db}
			w.cfg.Book = slowBook{w.book}
			w.restart()
		}},
		{name: "busy CPU", setUp: func(t *testing.T, _ *world) { spin(t, runtime.NumCPU()) }},
		// In every round: what was judged before it counts, and nothing else can.
		{name: "executor restarted in it", line: line{cut: somewhere}, wide: true},
		{name: "validator restarted in it", dies: true},
	}
}

// pause waits as a slow disk makes its caller wait.
func pause(d time.Duration) { <-time.After(d) }

// slowArchive writes a MiB a second.
type slowArchive struct{ Archive }

func (s slowArchive) PutEvidence(record io.WriterTo) (basilica.Blob, error) {
	blob, err := s.Archive.PutEvidence(record)
	pause(time.Duration(float64(blob.Size) / (1 << 20) * float64(time.Second)))
	return blob, err
}

// slowBook takes 100 ms for a row.
type slowBook struct{ Book }

func (s slowBook) KeepFinding(ctx context.Context, r basilica.Round, v basilica.Verification, pin *basilica.Pin) error {
	pause(100 * time.Millisecond)
	return s.Book.KeepFinding(ctx, r, v, pin)
}

// spin takes the processors away with n processes that do nothing else, until the test ends (or its process).
func spin(t *testing.T, n int) {
	t.Helper()
	for range n {
		cmd := exec.Command("sh", "-c", "while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done 2>/dev/null")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}

// TestHonestBadLuck: an honest machine with bad luck never fails, and without any at least 95 of 100 rounds pass. What could
// not be measured is counted by its reason.
func TestHonestBadLuck(t *testing.T) {
	plain, worse := scaled(t, "BASILICA_HONEST_ROUNDS", perRound), scaled(t, "BASILICA_HANDICAP_ROUNDS", perRound)
	var mu sync.Mutex
	got := map[string]map[string]int{}
	all := handicaps()
	got[all[0].name] = all[0].run(t, plain) // without others beside it: nothing takes its time away
	t.Run("side by side", func(t *testing.T) {
		for _, h := range all[1:] {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				counts := h.run(t, worse)
				mu.Lock()
				defer mu.Unlock()
				got[h.name] = counts
			})
		}
	})
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "handicap\trounds\tpass\tfail\tothers")
	for _, h := range all {
		total, others := 0, maps.Clone(got[h.name])
		for _, n := range got[h.name] {
			total += n
		}
		failed := 0
		for verdict, n := range others {
			if verdict[:4] == "fail" {
				failed += n
			}
		}
		passed := others["pass PASS"]
		delete(others, "pass PASS")
		fmt.Fprintf(tab, "%s\t%d\t%d\t%d\t%s\n", h.name, total, passed, failed, counted(others))
		if failed > 0 || total == 0 || float64(passed) < h.pass*float64(total) {
			t.Errorf("%s: %d rounds, %d passed, %d failed", h.name, total, passed, failed)
		}
	}
	if err := tab.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
}

// run looks n times at an honest machine, perRound of them at once, and counts the verdicts.
func (h handicap) run(t *testing.T, n int) map[string]int {
	t.Helper()
	var machines []*machine
	for i := range min(n, perRound) {
		machines = append(machines, newMachine(t, basilica.ExecutorID("box-"+strconv.Itoa(i))))
	}
	w := newSSHWorld(t, h.line, machines...)
	if !h.wide {
		w.cfg.Parallel = abreast
		w.restart()
	}
	if h.setUp != nil {
		h.setUp(t, w)
	}
	// They were proven before, so that a challenge has its ordinary strength and a restart has something to lose.
	counts, known := map[string]int{}, map[basilica.ExecutorKey]score.Standing{}
	r := basilica.Round{First: 20, Hash: basilica.Hash{20}, Started: time.Now(), Ended: time.Now(), Outcome: basilica.Reason{Code: outcomeCompleted}}
	for _, m := range machines {
		known[basilica.ExecutorKey{Miner: w.miner.hotkey(), Executor: m.id}] = score.Standing{Recent: []float64{1}, LastPass: time.Now()}
	}
	if err := errors.Join(w.book.OpenRound(t.Context(), r), w.book.CloseRound(t.Context(), r, nil, nil, known)); err != nil {
		t.Fatal(err)
	}
	w.restart()
	for i := range (n + perRound - 1) / perRound {
		first := basilica.BlockNumber(40 + 20*i)
		var verifications map[basilica.ExecutorID]basilica.Verification
		if h.dies {
			verifications = w.interrupted(first, rand.IntN(len(machines)))
		} else {
			verifications = w.round(first)
		}
		for _, v := range verifications {
			d := proof(v)
			counts[string(d.Result)+" "+d.Reason]++
			if d.Evidence != nil && d.Result != basilica.Pass {
				if j := w.judgeAgain(d); j.Verdict() != d.Result {
					t.Errorf("judged again: %+v, was %+v", j, d)
				}
			}
		}
		for k, s := range w.v.standings {
			if s.Failed {
				t.Errorf("%s: %+v", k.Executor, s)
			}
		}
	}
	return counts
}

// mortalBook is a book whose process dies when a number of findings is kept.
type mortalBook struct {
	Book
	left *atomic.Int32
	die  func()
}

func (d mortalBook) KeepFinding(ctx context.Context, r basilica.Round, v basilica.Verification, pin *basilica.Pin) error {
	if d.left.Add(-1) < 0 {
		d.die()
		return nil
	}
	return d.Book.KeepFinding(ctx, r, v, pin)
}

// interrupted runs a round whose validator dies once so many machines are judged, and closes it with the next one.
func (w *world) interrupted(first basilica.BlockNumber, judged int) map[basilica.ExecutorID]basilica.Verification {
	w.t.Helper()
	ctx, die := context.WithCancel(w.t.Context())
	defer die()
	left, whole := &atomic.Int32{}, w.cfg.Book
	left.Store(int32(judged))
	w.cfg.Book = mortalBook{whole, left, die}
	w.restart()
	w.chain.at(first)
	w.v.update(func(s *Status) { s.Head = first })
	err := w.v.round(ctx, basilica.Round{First: first, Hash: basilica.Hash{byte(first), byte(first >> 8)}})
	w.cfg.Book = whole
	if err != nil {
		w.t.Fatal(err)
	}
	w.restart()
	w.v.update(func(s *Status) { s.Head = first + 1 })
	if err := w.v.resume(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	out := map[basilica.ExecutorID]basilica.Verification{}
	page, err := w.book.Verifications(w.t.Context(), basilica.VerificationQuery{Round: &first, Limit: 500})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range page.Verifications {
		out[v.Executor] = v
		if d := proof(v); d.Reason == score.ReasonRestarted && d.Evidence != nil {
			w.t.Errorf("%+v", d)
		}
	}
	return out
}
