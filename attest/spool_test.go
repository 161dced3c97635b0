package attest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
)

// fullAfter is a spool on a disk with room for so many writes.
type fullAfter struct {
	basilica.Spool
	room int
}

func (s *fullAfter) Write(b []byte) (int, error) {
	if s.room--; s.room < 0 {
		return 0, syscall.ENOSPC
	}
	return s.Spool.Write(b)
}

// spooled runs a challenge whose long frames go to a spool.
func (w *world) spooled(t *testing.T, to basilica.Spool) *attest.Verifier {
	t.Helper()
	w.setup.Started = time.Now()
	v, err := attest.NewVerifier(w.setup, rand.Reader, signVerdict)
	if err != nil {
		t.Fatal(err)
	}
	v.Spool(to)
	w.exchange(t, v, steady(w.setup.Started), keep)
	return v
}

func spoolFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestSpooledRecord: openings lie in the spool and not in memory, and the record has them all.
func TestSpooledRecord(t *testing.T) {
	t.Parallel()
	w := quick(t, attest.Shortcuts{})
	w.setup.Strength = attest.EnrolmentStrength()
	v := w.spooled(t, spoolFile(t))
	r, err := v.Record()
	if err != nil || r.Judgement.Result != attest.Pass {
		t.Fatalf("%+v, %v", v.Judgement(), err)
	}
	if all, held := r.Frames(); held*20 > all || held == 0 {
		t.Errorf("%d bytes of %d are held in memory", held, all)
	}
	var file bytes.Buffer
	n, err := r.WriteTo(&file)
	if err != nil || n != int64(file.Len()) {
		t.Fatal(n, err)
	}
	again, err := attest.ReadRecord(&file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*attest.Record{r, again} {
		if j, err := attest.Judge(r, verifyVerdict); err != nil || j.Result != attest.Pass {
			t.Errorf("%+v, %v", j, err)
		}
	}
}

// TestSpoolOnAFullDisk: a challenge that cannot be recorded ends as the validator's own fault, whatever the machine showed.
func TestSpoolOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, 7} {
		w := quick(t, attest.Shortcuts{})
		v := w.spooled(t, &fullAfter{spoolFile(t), room})
		if j := v.Judgement(); j.Result != attest.LocalError || j.AfterOpen {
			t.Errorf("%+v", j)
		}
		if _, err := v.Record(); !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
	}
}
