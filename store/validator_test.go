package store

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basilica"
	"basilica/score"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 123000, time.UTC)

func openValidator(t *testing.T) *Validator {
	t.Helper()
	v, err := OpenValidator(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func openBook(t *testing.T, v *Validator, genesis byte) *Book {
	t.Helper()
	b, err := v.Book(t.Context(), basilica.Hash{genesis}, 39, "5validator")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keep(t *testing.T, v *Validator, content string) *basilica.Evidence {
	t.Helper()
	blob, err := v.PutEvidence(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return &basilica.Evidence{Blob: blob, Class: "software", Signed: true}
}

func verification(id basilica.VerificationID, round basilica.BlockNumber, executor basilica.ExecutorID, e *basilica.Evidence) basilica.Verification {
	return basilica.Verification{
		ID: id, Genesis: basilica.Hash{1}, NetUID: 39, Round: round, Block: round + 3, Validator: "5validator", Miner: "5miner", MinerUID: 4, Executor: executor,
		Started: noon, Ended: noon.Add(time.Duration(round) * time.Second), Strength: "default", AfterOpen: true, Holder: "task-1",
		Verdicts: []basilica.Verdict{
			{Check: basilica.CheckGPUProof, Result: basilica.Pass, Reason: "PASS", Detail: "fine", Evidence: e},
			{Check: basilica.CheckTaskPath, Result: basilica.NotRun, Reason: "TIMEOUT"},
		},
		GPUs:  []basilica.ProvenGPU{{UUID: "u", Kind: basilica.GPUSoftware, Models: []string{"software"}, MemoryBytes: 3, OpsPerSecond: 1.5}},
		Facts: &basilica.Facts{Hostname: "h", GPUs: []basilica.GPU{}},
	}
}

func closeRound(t *testing.T, b *Book, first basilica.BlockNumber, vs ...basilica.Verification) {
	t.Helper()
	r := basilica.Round{First: first, Hash: basilica.Hash{byte(first)}, Slot: 2, Started: noon}
	if err := b.OpenRound(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.Ended, r.Outcome = noon.Add(time.Minute), basilica.Reason{Code: "COMPLETED"}
	r.Scores = []basilica.Score{{Miner: "5miner", UID: 4, Value: float64(first)}}
	standings := map[basilica.ExecutorKey]score.Standing{}
	for _, v := range vs {
		standings[basilica.ExecutorKey{Miner: v.Miner, Executor: v.Executor}] = score.Standing{Recent: []float64{1}, LastPass: v.Ended, GPUs: v.GPUs}
	}
	if err := b.CloseRound(t.Context(), r, vs, nil, standings); err != nil {
		t.Fatal(err)
	}
}

func TestVerificationsComeBackWhole(t *testing.T) {
	v := openValidator(t)
	b := openBook(t, v, 1)
	want := verification("v1", 20, "box", keep(t, v, "frames"))
	closeRound(t, b, 20, want)
	got, err := b.Verification(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := b.Verification(t.Context(), "v2"); basilica.CodeOf(err) != "NO_SUCH_VERIFICATION" {
		t.Errorf("%v", err)
	}
	latest, err := b.LatestVerifications(t.Context(), 10)
	if err != nil || len(latest) != 1 || cmp.Diff(want, latest[0]) != "" {
		t.Errorf("%+v %v", latest, err)
	}
	rounds, err := b.Rounds(t.Context(), 5)
	if err != nil || len(rounds) != 1 || rounds[0].Slot != 2 || rounds[0].Hash != (basilica.Hash{20}) || rounds[0].Outcome.Code != "COMPLETED" || !rounds[0].Ended.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v %v", rounds, err)
	}
	standings, seen, err := b.Standings(t.Context())
	k := basilica.ExecutorKey{Miner: "5miner", Executor: "box"}
	if err != nil || seen[k] != 20 || cmp.Diff(want.GPUs, standings[k].GPUs) != "" || !standings[k].LastPass.Equal(want.Ended) {
		t.Errorf("%+v %v %v", standings, seen, err)
	}
}

func TestPages(t *testing.T) {
	v := openValidator(t)
	b := openBook(t, v, 1)
	for i := range basilica.BlockNumber(5) {
		round := 20 * (i + 1)
		closeRound(t, b, round, verification(basilica.VerificationID("a"+string(rune('0'+i))), round, "box-a", nil), verification(basilica.VerificationID("b"+string(rune('0'+i))), round, "box-b", nil))
	}
	var ids []basilica.VerificationID
	q := basilica.VerificationQuery{Limit: 3, Executor: "box-b", Miner: "5miner", Result: basilica.Pass}
	for {
		page, err := b.Verifications(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Verifications {
			ids = append(ids, x.ID)
		}
		if q.After = page.Next; q.After == "" {
			break
		}
		for what, bad := range map[string]basilica.VerificationQuery{
			"cut":            {Limit: 3, Executor: "box-b", Miner: "5miner", Result: basilica.Pass, After: q.After[:len(q.After)-2]},
			"another filter": {Limit: 3, Executor: "box-a", Miner: "5miner", Result: basilica.Pass, After: q.After},
			"of old":         {Executor: "box-b", After: "7"},
		} {
			if _, err := b.Verifications(t.Context(), bad); basilica.CodeOf(err) != "BAD_CURSOR" {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if want := []basilica.VerificationID{"b4", "b3", "b2", "b1", "b0"}; !cmp.Equal(ids, want) {
		t.Errorf("%v", ids)
	}
	round := basilica.BlockNumber(40)
	if page, err := b.Verifications(t.Context(), basilica.VerificationQuery{Round: &round}); err != nil || len(page.Verifications) != 2 || page.Next != "" {
		t.Errorf("%+v %v", page, err)
	}
	if page, err := b.Verifications(t.Context(), basilica.VerificationQuery{Result: basilica.Fail}); err != nil || len(page.Verifications) != 0 {
		t.Errorf("%+v %v", page, err)
	}
	history, err := b.History(t.Context(), basilica.ExecutorKey{Miner: "5miner", Executor: "box-a"})
	if err != nil || len(history) != 5 || history[0].ID != "a0" {
		t.Errorf("%d %v", len(history), err)
	}
	scores, err := b.Scores(t.Context())
	if err != nil || len(scores) != 1 || scores[0].Value != 100 {
		t.Errorf("%+v %v", scores, err)
	}
}

func TestARoundIsStoredWholeOrNotAtAll(t *testing.T) {
	v := openValidator(t)
	b := openBook(t, v, 1)
	closeRound(t, b, 20, verification("v1", 20, "box", nil))
	if err := b.OpenRound(t.Context(), basilica.Round{First: 20, Hash: basilica.Hash{20}}); basilica.KindOf(err) != basilica.Conflict {
		t.Errorf("a round twice: %v", err)
	}
	if err := b.CloseRound(t.Context(), basilica.Round{First: 20, Ended: noon}, nil, nil, nil); basilica.CodeOf(err) != "ROUND_NOT_OPEN" {
		t.Errorf("closed twice: %v", err)
	}
	if err := b.OpenRound(t.Context(), basilica.Round{First: 20, Hash: basilica.Hash{21}, Started: noon}); err != nil {
		t.Errorf("the same block of a chain that was put back: %v", err)
	}
	if open, err := b.OpenRounds(t.Context()); err != nil || len(open) != 1 || open[0].ID() != (basilica.RoundID{First: 20, Hash: basilica.Hash{21}}) {
		t.Errorf("%+v %v", open, err)
	}
	if err := b.OpenRound(t.Context(), basilica.Round{First: 40, Started: noon}); err != nil {
		t.Fatal(err)
	}
	twice := []basilica.Verification{verification("v2", 40, "box", nil), verification("v1", 40, "box-2", nil)}
	if err := b.CloseRound(t.Context(), basilica.Round{First: 40, Ended: noon}, twice, nil, nil); basilica.KindOf(err) != basilica.Conflict {
		t.Errorf("an id twice: %v", err)
	}
	if _, err := b.Verification(t.Context(), "v2"); basilica.KindOf(err) != basilica.NotFound {
		t.Errorf("half a round was stored: %v", err)
	}
	if open, err := b.OpenRounds(t.Context()); err != nil || len(open) != 2 {
		t.Errorf("%+v %v", open, err)
	}
}

// TestFindingsOutliveTheProcess: what an open round found, and the files that it rests on, are there after a crash.
func TestFindingsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	v, err := OpenValidator(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	b := openBook(t, v, 1)
	r := basilica.Round{First: 40, Hash: basilica.Hash{40}, Started: noon}
	if err := b.OpenRound(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	found := verification("v1", 40, "box", keep(t, v, "frames"))
	pin := &basilica.Pin{ExecutorKey: basilica.ExecutorKey{Miner: found.Miner, Executor: "box"}, KeySPKI: []byte{1}, AttestSPKI: []byte{2}, HostKey: []byte{3}, Since: 40}
	if err := b.KeepFinding(t.Context(), r, found, pin); err != nil {
		t.Fatal(err)
	}
	if err := b.KeepFinding(t.Context(), r, found, nil); basilica.KindOf(err) != basilica.Conflict {
		t.Errorf("one executor twice: %v", err)
	}
	lost := keep(t, v, "written, then the process died")
	if err := b.KeepFinding(t.Context(), basilica.Round{First: 60}, verification("v2", 60, "box", nil), nil); basilica.CodeOf(err) != "ROUND_NOT_OPEN" {
		t.Errorf("%v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = OpenValidator(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	b = openBook(t, v, 1)
	vs, pins, err := b.Findings(t.Context(), r)
	if err != nil || len(vs) != 1 || len(pins) != 1 || !cmp.Equal(vs[0], found) || !cmp.Equal(pins[0], *pin) {
		t.Errorf("%s %+v %v", cmp.Diff(vs, []basilica.Verification{found}), pins, err)
	}
	if _, _, err := v.Evidence(found.Verdicts[0].Evidence.SHA256); err != nil {
		t.Error("the file under a finding was swept:", err)
	}
	if _, _, err := v.Evidence(lost.SHA256); basilica.KindOf(err) != basilica.NotFound {
		t.Error("an orphan was left:", err)
	}
	r.Ended = noon
	if err := b.CloseRound(t.Context(), r, vs, pins, nil); err != nil {
		t.Fatal(err)
	}
	if vs, _, err := b.Findings(t.Context(), r); err != nil || len(vs) != 0 {
		t.Errorf("%+v %v", vs, err)
	}
	if err := os.Remove(v.evidencePath(found.Verdicts[0].Evidence.SHA256)); err != nil {
		t.Fatal(err)
	}
	if err := v.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := v.DropEvidence(t.Context(), 0, 0, noon); err != nil || n != 0 {
		t.Errorf("a row whose file is gone is counted as kept: %d %v", n, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWeightsOfARoundAreSentOnce: the row is written before the transaction is; once its fate is known no other of the same
// round can be.
func TestWeightsOfARoundAreSentOnce(t *testing.T) {
	ctx := t.Context()
	b := openBook(t, openValidator(t), 1)
	if _, found, err := b.LastWeights(ctx); err != nil || found {
		t.Fatal(found, err)
	}
	w := basilica.WeightIntent{
		Round: basilica.RoundID{First: 20, Hash: basilica.Hash{1}}, Set: basilica.WeightSet{Block: 21, Weights: []basilica.Weight{{UID: 1, Value: 65535}}, At: noon},
		Signed: basilica.Signed{Extrinsic: basilica.Hash{9}, Nonce: 4, Born: 21, Death: 85},
	}
	if err := b.IntendWeights(ctx, w); err != nil {
		t.Fatal(err)
	}
	w.Signed.Nonce, w.Signed.Extrinsic = 5, basilica.Hash{10}
	if err := b.IntendWeights(ctx, w); err != nil {
		t.Fatal("signed again under another nonce:", err)
	}
	if got, found, err := b.LastWeights(ctx); err != nil || !found || !cmp.Equal(got, w) {
		t.Errorf("%s %v %v", cmp.Diff(got, w), found, err)
	}
	if err := b.SaveWeightSet(ctx, w.Round, w.Set, false); err != nil {
		t.Fatal(err)
	}
	if got, _, err := b.LastWeights(ctx); err != nil || got.Settled {
		t.Error("settled without a word from the chain", err)
	}
	if err := b.SaveWeightSet(ctx, w.Round, w.Set, true); err != nil {
		t.Fatal(err)
	}
	if got, _, err := b.LastWeights(ctx); err != nil || !got.Settled {
		t.Error("not settled", err)
	}
	if err := b.IntendWeights(ctx, w); basilica.CodeOf(err) != "WEIGHTS_SETTLED" {
		t.Errorf("the same round's weights twice: %v", err)
	}
	w.Round.Hash = basilica.Hash{2}
	if err := b.IntendWeights(ctx, w); err != nil {
		t.Errorf("the same block of a chain that was put back: %v", err)
	}
}

// TestCaseA6_3TwoValidatorsOnOneDirectory: the lease of a validator on SQLite is the kernel's lock on its directory, which no
// clock can open.
func TestCaseA6_3TwoValidatorsOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenValidator(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenValidator(t.Context(), dir); basilica.CodeOf(err) != "DATA_IN_USE" || basilica.FixOf(err) == "" || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("%v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := OpenValidator(t.Context(), dir)
	if err != nil {
		t.Fatal("the lock outlived its holder:", err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestChainsDoNotMix(t *testing.T) {
	v := openValidator(t)
	one, two := openBook(t, v, 1), openBook(t, v, 2)
	closeRound(t, one, 20, verification("v1", 20, "box", nil))
	pin := basilica.Pin{ExecutorKey: basilica.ExecutorKey{Miner: "5m", Executor: "box"}, KeySPKI: []byte{1}, AttestSPKI: []byte{2}, HostKey: []byte{3}, Since: 40}
	if err := one.OpenRound(t.Context(), basilica.Round{First: 40}); err != nil {
		t.Fatal(err)
	}
	if err := one.CloseRound(t.Context(), basilica.Round{First: 40, Ended: noon}, nil, []basilica.Pin{pin}, nil); err != nil {
		t.Fatal(err)
	}
	if err := one.SaveWeightSet(t.Context(), basilica.RoundID{First: 20}, basilica.WeightSet{Block: 21, Formula: "score/1", Weights: []basilica.Weight{{UID: 1, Value: 65535}}, At: noon}, true); err != nil {
		t.Fatal(err)
	}
	for i, b := range []*Book{openBook(t, v, 1), two} {
		ctx, want := t.Context(), 1-i
		sets, err := b.WeightSets(ctx, 5)
		if err != nil || len(sets) != want {
			t.Errorf("book %d: %d weight sets, %v", i, len(sets), err)
		}
		pins, err := b.Pins(ctx)
		if err != nil || len(pins) != want || want == 1 && cmp.Diff(pin, pins[pin.ExecutorKey]) != "" {
			t.Errorf("book %d: pins %+v, %v", i, pins, err)
		}
		standings, _, err := b.Standings(ctx)
		if err != nil || len(standings) != want {
			t.Errorf("book %d: %d standings, %v", i, len(standings), err)
		}
		if _, err := b.Verification(ctx, "v1"); (err == nil) != (want == 1) {
			t.Errorf("book %d: %v", i, err)
		}
	}
}

func TestEvidence(t *testing.T) {
	v := openValidator(t)
	b := openBook(t, v, 1)
	var kept []*basilica.Evidence
	for i := range basilica.BlockNumber(4) {
		e := keep(t, v, "record "+string(rune('0'+i)))
		kept = append(kept, e)
		round := 20 * (i + 1)
		closeRound(t, b, round, verification(basilica.VerificationID("v"+string(rune('0'+i))), round, "box", e))
	}
	info, err := os.Stat(v.evidencePath(kept[0].SHA256))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if n, err := v.DropEvidence(t.Context(), 3, 1<<20, noon); err != nil || n != 1 {
		t.Errorf("by count: %d %v", n, err)
	}
	if n, err := v.DropEvidence(t.Context(), 3, 2*kept[0].Size, noon); err != nil || n != 1 {
		t.Errorf("by bytes: %d %v", n, err)
	}
	for i, e := range kept {
		f, size, err := b.Evidence(e.SHA256)
		if i < 2 {
			if basilica.CodeOf(err) != "EVIDENCE_GONE" {
				t.Errorf("record %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil || int64(len(content)) != size || string(content) != "record "+string(rune('0'+i)) {
			t.Errorf("record %d: %q %v", i, content, err)
		}
		f.Close()
	}
	left, err := filepath.Glob(filepath.Join(v.evidence, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("%v %v", left, err)
	}
}

func TestOrphansOfACrashGoAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	v, err := OpenValidator(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	b := openBook(t, v, 1)
	stored := keep(t, v, "stored")
	closeRound(t, b, 20, verification("v1", 20, "box", stored))
	orphan := keep(t, v, "its round was never closed")
	if err := os.WriteFile(filepath.Join(v.evidence, ".record-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = OpenValidator(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	left, err := os.ReadDir(v.evidence)
	if err != nil || len(left) != 1 || left[0].Name() != stored.SHA256.String()+".gpow1" {
		t.Errorf("%v %v, orphan %v", left, err, orphan.SHA256)
	}
}

// TestEvidenceOfManyMiners: the bulk of one miner pushes out none of another's, by number or by size, and what was stored before a
// record had its miner gets it.
func TestEvidenceOfManyMiners(t *testing.T) {
	v := openValidator(t)
	b := openBook(t, v, 1)
	round := basilica.BlockNumber(0)
	records := map[string]*basilica.Evidence{}
	add := func(miner basilica.Hotkey, name, content string) {
		e := keep(t, v, content)
		records[name] = e
		round += 20
		x := verification(basilica.VerificationID("v-"+name), round, basilica.ExecutorID(name), e)
		x.Miner = miner
		closeRound(t, b, round, x)
	}
	add("5small", "first", "of a small miner")
	for i := range 6 {
		add("5bulk", fmt.Sprint("bulk", i), strings.Repeat("x", 100+i))
	}
	add("5small", "second", "of a small miner, again")
	var migration string
	text, err := migrations.ReadFile("migrations/validator/00006_evidence_of_miners.sql")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "UPDATE ") {
			migration = line
		}
	}
	must(t, v.tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE evidence SET miner = ''`)
		if err == nil {
			_, err = tx.ExecContext(t.Context(), migration)
		}
		return err
	}))
	kept := func(want ...string) {
		t.Helper()
		for name, e := range records {
			f, _, err := v.Evidence(e.SHA256)
			if err == nil {
				f.Close()
			}
			if (err == nil) != slices.Contains(want, name) {
				t.Errorf("%s: %v, want %v kept", name, err, want)
			}
		}
	}
	if n, err := v.DropEvidence(t.Context(), 5, 1<<20, noon); err != nil || n != 3 {
		t.Errorf("by number: %d, %v", n, err)
	}
	kept("first", "second", "bulk3", "bulk4", "bulk5")
	if n, err := v.DropEvidence(t.Context(), 5, 200, noon); err != nil || n != 2 {
		t.Errorf("by bytes: %d, %v", n, err)
	}
	kept("first", "second", "bulk5")
	add("5other", "other", "o")
	add("5other", "another", "oo")
	if n, err := v.DropEvidence(t.Context(), 2, 1<<20, noon); err != nil || n != 3 {
		t.Errorf("to fewer than there are miners: %d, %v", n, err)
	}
	if n, err := v.DropEvidence(t.Context(), 0, 0, noon); err != nil || n != 2 {
		t.Errorf("all: %d, %v", n, err)
	}
	kept()
}

// TestSpool: what a running challenge brings lies in a file without a name, and says by name that the disk is full.
func TestSpool(t *testing.T) {
	dir := smallDisk(t, 1<<10)
	v, err := OpenValidator(t.Context(), dir)
	must(t, err)
	defer v.Close()
	s, err := v.Spool()
	must(t, err)
	defer s.Close()
	_, err = s.Write([]byte("a frame"))
	must(t, err)
	got := make([]byte, 5)
	if _, err := s.ReadAt(got, 2); err != nil || string(got) != "frame" {
		t.Errorf("%q, %v", got, err)
	}
	if names, err := filepath.Glob(filepath.Join(v.evidence, "*")); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
	if hidden, err := filepath.Glob(filepath.Join(v.evidence, ".*")); err != nil || len(hidden) != 0 {
		t.Errorf("%v, %v", hidden, err)
	}
	fill(t, dir)
	_, err = s.Write(make([]byte, 64<<10))
	wantFix(t, err, "DISK_FULL", basilica.Unavailable, dir)
	_, err = v.PutEvidence(strings.NewReader(strings.Repeat("x", 64<<10)))
	wantFix(t, err, "DISK_FULL", basilica.Unavailable, dir)
}
