package validator

import (
	"io"
	"sync"
	"syscall"
	"testing"

	"basilica"
	"basilica/attest"
)

// fullDisk is an archive whose spool takes nothing while full.
type fullDisk struct {
	Archive
	full bool
}

func (a *fullDisk) Spool() (basilica.Spool, error) {
	s, err := a.Archive.Spool()
	if err == nil && a.full {
		s = fullSpool{s}
	}
	return s, err
}

type fullSpool struct{ basilica.Spool }

func (fullSpool) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestFullDiskIsNobodysFault: a challenge that cannot be recorded is the validator's own fault: a lie is not shown by it, and an
// honest machine loses nothing.
func TestFullDiskIsNobodysFault(t *testing.T) {
	t.Parallel()
	honest, liar := newMachine(t, "honest"), newMachine(t, "liar")
	liar.cheat, liar.uuid = "fill:0.5", &attest.UUID{1}
	w := newWorld(t, honest, liar)
	disk := &fullDisk{Archive: w.db}
	w.cfg.Archive = disk
	w.restart()
	if got := w.round(20); proof(got["honest"]).Result != basilica.Pass || proof(got["liar"]).Result != basilica.Fail {
		t.Fatalf("%+v", got)
	}
	before := w.v.standings
	disk.full = true
	for id, x := range w.round(40) {
		if d := proof(x); d.Result != basilica.NotRun || d.Reason != "LOCAL_ERROR" || d.Evidence != nil {
			t.Errorf("%s on a full disk: %+v", id, d)
		}
		k := basilica.ExecutorKey{Miner: x.Miner, Executor: id}
		if was, is := before[k], w.v.standings[k]; len(was.Recent) != len(is.Recent) || was.Halted() != is.Halted() {
			t.Errorf("%s: %+v, before %+v", id, is, was)
		}
	}
	disk.full = false
	if d := proof(w.round(60)["honest"]); d.Result != basilica.Pass {
		t.Errorf("with room again: %+v", d)
	}
}

// crowded counts the records that are there when another one comes.
type crowded struct {
	Archive
	kept func() int

	mu   sync.Mutex
	most int
}

func (a *crowded) PutEvidence(record io.WriterTo) (basilica.Blob, error) {
	a.mu.Lock()
	a.most = max(a.most, a.kept())
	a.mu.Unlock()
	return a.Archive.PutEvidence(record)
}

// TestEvidenceStaysBoundedInARound: a round of many machines is no way to fill the validator's disk before the round ends.
func TestEvidenceStaysBoundedInARound(t *testing.T) {
	var machines []*machine
	for i := range 12 {
		m := newMachine(t, basilica.ExecutorID("box-"+string(rune('a'+i))))
		m.uuid = &attest.UUID{byte(i + 1)}
		machines = append(machines, m)
	}
	w := newWorld(t, machines...)
	w.cfg.EvidenceCount, w.cfg.Parallel = 2, 2
	archive := &crowded{Archive: w.db}
	archive.kept = func() (n int) {
		t.Helper()
		found, _, err := w.book.Findings(t.Context(), basilica.Round{First: 20, Hash: basilica.Hash{20}})
		if err != nil {
			t.Error(err)
		}
		for _, x := range found {
			for _, d := range x.Verdicts {
				if d.Evidence == nil {
					continue
				}
				if f, _, err := w.db.Evidence(d.Evidence.SHA256); err == nil {
					n++
					f.Close()
				}
			}
		}
		return n
	}
	w.cfg.Archive = archive
	w.restart()
	for id, x := range w.round(20) {
		if d := proof(x); d.Result != basilica.Pass {
			t.Errorf("%s: %+v", id, d)
		}
	}
	// Those that are being written while another one makes room come on top.
	if archive.most < 2 || archive.most > 2+len(machines)/2 {
		t.Errorf("%d records were there at once, 2 may be kept", archive.most)
	}
}
