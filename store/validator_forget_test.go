package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basilica"
	"basilica/score"
)

// count is the number of rows of a table.
func (v *Validator) count(t *testing.T, table string) (n int) {
	t.Helper()
	must(t, v.read.QueryRowContext(t.Context(), `SELECT count(*) FROM `+table).Scan(&n))
	return n
}

// aged is a book of 40 rounds, one an hour: a machine that passes, and one that did until the third. Weights were set after each,
// sealed in the second and the fourth; those of the last are underway. Records of rounds 1 and 5 were kept, the first is dropped.
func aged(t *testing.T, v *Validator, policy score.Policy) *Book {
	t.Helper()
	b, ctx := openBook(t, v, 1), t.Context()
	standings := map[basilica.ExecutorKey]score.Standing{}
	for i := range basilica.BlockNumber(40) {
		i++
		at := noon.Add(time.Duration(i) * time.Hour)
		r := basilica.Round{First: i, Hash: basilica.Hash{byte(i)}, Started: at.Add(-time.Minute)}
		must(t, b.OpenRound(ctx, r))
		r.Ended, r.Outcome, r.Scores = at, basilica.Reason{Code: "COMPLETED"}, []basilica.Score{{Miner: "5miner", Value: float64(i)}}
		var record *basilica.Evidence
		if i == 1 || i == 5 {
			record = keep(t, v, fmt.Sprint("frames of round ", i))
		}
		live, dead := verification(basilica.VerificationID(fmt.Sprint("live-", i)), i, "live", record), verification(basilica.VerificationID(fmt.Sprint("dead-", i)), i, "dead", nil)
		live.Ended, dead.Ended = at, at
		if i > 3 {
			dead.Verdicts, dead.GPUs = []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: basilica.NotRun, Reason: "TIMEOUT"}}, nil
		}
		for _, x := range []basilica.Verification{live, dead} {
			k := basilica.ExecutorKey{Miner: x.Miner, Executor: x.Executor}
			standings[k] = standings[k].Next(x, policy)
		}
		must(t, b.CloseRound(ctx, r, []basilica.Verification{live, dead}, []basilica.Pin{{ExecutorKey: basilica.ExecutorKey{Miner: "5miner", Executor: "live"}, KeySPKI: []byte{1}, AttestSPKI: []byte{2}, HostKey: []byte{3}}}, standings))
		w := basilica.WeightIntent{Round: r.ID(), Set: basilica.WeightSet{Block: i, At: at}, Signed: basilica.Signed{Extrinsic: basilica.Hash{byte(i)}, Death: i + 64}}
		if i == 2 || i == 4 {
			w.Signed.Commit = &basilica.WeightCommit{Kind: basilica.CommitSalt, Hash: basilica.Hash{byte(i)}, Salt: []uint16{7}}
		}
		must(t, b.IntendWeights(ctx, w))
		if i == 40 {
			break
		}
		w.Set.Submitted = &basilica.Inclusion{Block: i, Extrinsic: w.Signed.Extrinsic}
		if w.Signed.Commit != nil {
			placed := *w.Signed.Commit
			placed.State = basilica.CommitWaiting
			w.Set.Commit = placed.Public()
		}
		must(t, b.SaveWeightSet(ctx, w.Round, w.Set, true))
		if i == 4 {
			open, err := b.OpenCommits(ctx)
			must(t, err)
			open[1].State = basilica.CommitLost
			must(t, b.SaveCommit(ctx, open[1]))
		}
	}
	must(t, b.OpenRound(ctx, basilica.Round{First: 41, Hash: basilica.Hash{41}, Started: noon})) // a clock that was set back
	_, err := v.DropEvidence(ctx, 1, 1<<20, noon)
	must(t, err)
	return b
}

// TestForget: what is older than it is kept goes, a little at a time; what scores, starts, commits and records need stays, and all
// that is asked for it answers as before.
func TestForget(t *testing.T) {
	t.Parallel()
	v, ctx, policy := openValidator(t), t.Context(), score.Policy{Rounds: 3, AllowSoftware: true}
	b := aged(t, v, policy)
	other := openBook(t, v, 2)
	closeRound(t, other, 20, verification("others", 20, "live", nil), verification("others-2", 20, "live-2", nil))
	type answers struct {
		Standings map[basilica.ExecutorKey]score.Standing
		Seen      map[basilica.ExecutorKey]basilica.BlockNumber
		Pins      map[basilica.ExecutorKey]basilica.Pin
		Scores    []basilica.Score
		Open      []basilica.Round
		Latest    []basilica.Verification
		Commits   []basilica.HeldCommit
		Weights   basilica.WeightIntent
		Last      []basilica.WeightSet
		Replayed  map[basilica.ExecutorKey]basilica.ExecutorScore
	}
	ask := func() (a answers) {
		var errs [8]error
		a.Standings, a.Seen, errs[0] = b.Standings(ctx)
		a.Pins, errs[1] = b.Pins(ctx)
		a.Scores, errs[2] = b.Scores(ctx)
		a.Open, errs[3] = b.OpenRounds(ctx)
		a.Latest, errs[4] = b.LatestVerifications(ctx, 10)
		a.Commits, errs[5] = b.OpenCommits(ctx)
		a.Weights, _, errs[6] = b.LastWeights(ctx)
		a.Last, errs[7] = b.WeightSets(ctx, 1)
		a.Replayed = map[basilica.ExecutorKey]basilica.ExecutorScore{}
		for k := range a.Standings {
			history, err := b.History(ctx, k)
			must(t, err)
			a.Replayed[k] = score.Replay(history, policy).Score(k.Executor, policy)
			if want := a.Standings[k].Score(k.Executor, policy); a.Replayed[k].Value != want.Value || a.Replayed[k].GPUWeight != want.GPUWeight {
				t.Errorf("%s: computed anew %+v, want %+v", k.Executor, a.Replayed[k], want)
			}
			r := a.Replayed[k]
			r.Why = "" // it counts the rounds that were missed since the last pass
			a.Replayed[k] = r
		}
		for _, err := range errs {
			must(t, err)
		}
		return a
	}
	want, cutoff := ask(), noon.Add(30*time.Hour)
	if n := want.Replayed[basilica.ExecutorKey{Miner: "5miner", Executor: "live"}]; n.Value == 0 || len(want.Commits) != 1 || len(want.Open) != 1 {
		t.Fatalf("%+v", want)
	}
	calls, before := 0, v.count(t, "verifications")
	for after, more := int64(0), true; more; calls++ {
		var err error
		after, more, err = b.Forget(ctx, cutoff, after, 3, 1)
		must(t, err)
		now := v.count(t, "verifications")
		if before-now > 1 || calls > 200 {
			t.Fatalf("call %d: %d verifications at once", calls, before-now)
		}
		before = now
	}
	if got := ask(); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	var left []string
	for _, k := range []basilica.ExecutorID{"live", "dead"} {
		history, err := b.History(ctx, basilica.ExecutorKey{Miner: "5miner", Executor: k})
		must(t, err)
		for _, x := range history[:len(history)-11] { // rounds 30 to 40 are young
			left = append(left, string(x.ID))
		}
	}
	if !slices.Equal(left, []string{"live-5", "dead-3"}) {
		t.Errorf("kept beside the young: %v", left)
	}
	rounds, err := b.Rounds(ctx, 100)
	must(t, err)
	var firsts []basilica.BlockNumber
	for _, r := range rounds {
		firsts = append(firsts, r.First)
	}
	slices.Reverse(firsts)
	if !slices.Equal(firsts[:3], []basilica.BlockNumber{3, 5, 26}) || len(firsts) != 2+roundsKept {
		t.Errorf("rounds %v", firsts)
	}
	sets, err := b.WeightSets(ctx, 100)
	must(t, err)
	if len(sets) != 11 || sets[10].Block != 2 { // the sealed one that is awaited, and 30 to 39
		t.Errorf("%d weight sets, the oldest of block %d", len(sets), sets[len(sets)-1].Block)
	}
	for table, n := range map[string]int{"weight_commits": 1, "weight_intents": 12, "evidence": 1, "verdicts": 2*2 + 11*2 + 11 + 2*2} {
		if got := v.count(t, table); got != n {
			t.Errorf("%d rows of %s, want %d", got, table, n)
		}
	}
	if page, err := other.Verifications(ctx, basilica.VerificationQuery{}); err != nil || len(page.Verifications) != 2 {
		t.Errorf("another book: %+v %v", page, err)
	}
	file, _, err := b.Evidence(b.recordOf(t, "live-5"))
	must(t, err)
	must(t, file.Close())
	// Once the record goes, its verification does.
	_, err = v.DropEvidence(ctx, 0, 0, noon)
	must(t, err)
	for after, more := int64(0), true; more; {
		after, more, err = b.Forget(ctx, cutoff, after, 3, 100)
		must(t, err)
	}
	if _, err := b.Verification(ctx, "live-5"); basilica.CodeOf(err) != "NO_SUCH_VERIFICATION" || v.count(t, "evidence") != 0 {
		t.Errorf("%v, %d rows of evidence", err, v.count(t, "evidence"))
	}
}

// recordOf is the record of a verification's proof.
func (b *Book) recordOf(t *testing.T, id basilica.VerificationID) basilica.Digest {
	t.Helper()
	x, err := b.Verification(t.Context(), id)
	if err != nil || x.Verdicts[0].Evidence == nil {
		t.Fatal(x, err)
	}
	return x.Verdicts[0].Evidence.SHA256
}

// TestForgetNames: names that never proved anything go with all that was stored of them once nobody names them any more; not who
// ever passed, is pinned, was seen lately or left a record, and nothing of another book.
func TestForgetNames(t *testing.T) {
	t.Parallel()
	v, ctx := openValidator(t), t.Context()
	b, other := openBook(t, v, 1), openBook(t, v, 2)
	record := keep(t, v, "frames of a lie")
	failed := func(id basilica.VerificationID, round basilica.BlockNumber, executor basilica.ExecutorID, e *basilica.Evidence) basilica.Verification {
		x := verification(id, round, executor, e)
		x.Verdicts[0].Result, x.GPUs = basilica.Fail, nil
		return x
	}
	passed := score.Standing{Recent: []float64{0, 0}, LastPass: noon}
	for i, standings := range []map[basilica.ExecutorID]score.Standing{
		{"junk-1": {}, "junk-2": {}, "junk-3": {}, "live": passed, "liar": {Failed: true}, "pinned": {}, "young": {}},
		{"junk-1": {}, "young": {}},
	} {
		round := basilica.BlockNumber(20 * (i + 1))
		for _, book := range []*Book{b, other} {
			r := basilica.Round{First: round, Hash: basilica.Hash{byte(round)}, Started: noon}
			must(t, book.OpenRound(ctx, r))
			var found []basilica.Verification
			byKey := map[basilica.ExecutorKey]score.Standing{}
			for id, s := range standings {
				x := failed(basilica.VerificationID(fmt.Sprintf("%s-%d-%d", id, round, book.id)), round, id, nil)
				switch {
				case id == "liar" && book == b:
					x.Verdicts[0].Evidence = record
				case id == "young" && i == 1:
					x.Ended = noon.Add(time.Hour)
				}
				found = append(found, x)
				byKey[basilica.ExecutorKey{Miner: "5miner", Executor: id}] = s
			}
			r.Ended, r.Outcome = noon.Add(time.Minute), basilica.Reason{Code: "COMPLETED"}
			must(t, book.CloseRound(ctx, r, found, []basilica.Pin{{ExecutorKey: basilica.ExecutorKey{Miner: "5miner", Executor: "pinned"}, KeySPKI: []byte{1}, AttestSPKI: []byte{2}, HostKey: []byte{3}}}, byKey))
		}
	}
	forget := func() (gone []string) {
		for {
			some, err := b.ForgetNames(ctx, noon.Add(30*time.Minute), 2)
			must(t, err)
			if len(some) > 2 {
				t.Fatalf("%d at once", len(some))
			}
			for _, k := range some {
				gone = append(gone, string(k.Executor))
			}
			if len(some) < 2 {
				slices.Sort(gone)
				return gone
			}
		}
	}
	if gone := forget(); !slices.Equal(gone, []string{"junk-1", "junk-2", "junk-3"}) {
		t.Errorf("gone: %v", gone)
	}
	standings, _, err := b.Standings(ctx)
	must(t, err)
	if n := v.count(t, "verifications"); len(standings) != 4 || n != 5+9 || v.count(t, "verdicts") != 2*n {
		t.Errorf("%d standings, %d verifications, %d verdicts are left", len(standings), n, v.count(t, "verdicts"))
	}
	// Once the record of its lie goes, so does who never proved anything.
	_, err = v.DropEvidence(ctx, 0, 0, noon)
	must(t, err)
	if gone := forget(); !slices.Equal(gone, []string{"liar"}) || v.count(t, "evidence") != 0 {
		t.Errorf("gone: %v, %d rows of evidence", gone, v.count(t, "evidence"))
	}
}

// TestNamesHideNoResult: a miner that names executors without end hides none that ever passed, whatever its uid.
func TestNamesHideNoResult(t *testing.T) {
	t.Parallel()
	b, ctx := openBook(t, openValidator(t), 1), t.Context()
	for i, ids := range [][]basilica.ExecutorID{{"old", "box"}, {"box", "a", "b", "c"}, {"box", "d", "e", "f"}} {
		r := basilica.Round{First: basilica.BlockNumber(20 * (i + 1)), Hash: basilica.Hash{byte(i + 1)}, Started: noon}
		must(t, b.OpenRound(ctx, r))
		var found []basilica.Verification
		standings := map[basilica.ExecutorKey]score.Standing{}
		for _, id := range ids {
			x, s := verification(basilica.VerificationID(fmt.Sprintf("%s-%d", id, i)), r.First, id, nil), score.Standing{Recent: []float64{0}}
			if x.Miner = "5junk"; len(id) > 1 {
				x.Miner, x.MinerUID, s.LastPass = "5miner", 200, noon
			}
			found, standings[basilica.ExecutorKey{Miner: x.Miner, Executor: id}] = append(found, x), s
		}
		r.Ended, r.Outcome = noon.Add(time.Minute), basilica.Reason{Code: "COMPLETED"}
		must(t, b.CloseRound(ctx, r, found, nil, standings))
	}
	for limit, want := range map[int][]string{1: {"box-2"}, 2: {"box-2", "old-0"}, 4: {"d-2", "e-2", "box-2", "old-0"}, 10: {"a-1", "b-1", "c-1", "d-2", "e-2", "f-2", "box-2", "old-0"}} {
		latest, err := b.LatestVerifications(ctx, limit)
		must(t, err)
		var got []string
		for _, x := range latest {
			got = append(got, string(x.ID))
		}
		if !slices.Equal(got, want) {
			t.Errorf("at most %d: %v, want %v", limit, got, want)
		}
	}
}
