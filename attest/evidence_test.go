package attest_test

import (
	"bytes"
	"testing"

	"basilica/attest"
)

// TestPublicDelay: a proof of elapsed time whose record anybody can judge, without a secret in it.
func TestPublicDelay(t *testing.T) {
	t.Parallel()
	w := quick(t, attest.Shortcuts{})
	w.setup.Policy.Squarings, w.setup.Policy.Wesolowski = 256, true
	r := w.tamper(t, keep)
	if j := r.Judgement; j.Result != attest.Pass || j.SequentialTimeLowerBound != 256/2e7 {
		t.Fatalf("%+v", j)
	}
	var file bytes.Buffer
	if _, err := r.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file.Bytes(), []byte(`"trapdoor"`)) {
		t.Error("the record holds a trapdoor")
	}
	for name, change := range map[string]func(e *attest.Evidence){
		"y": func(e *attest.Evidence) { e.VDFY[17] ^= 1 }, "pi": func(e *attest.Evidence) { e.VDFPi[17] ^= 1 }, "none": func(e *attest.Evidence) { e.VDFPi = nil },
	} {
		w.also = func(_ *attest.Prover, e *attest.Evidence) { change(e) }
		if j := w.tamper(t, keep).Judgement; j.Result != attest.CheatVDF || j.SequentialTimeLowerBound != 0 {
			t.Errorf("%s: %s (%s): %s", name, j.Result, j.Reason, j.Detail)
		}
	}
}

// TestCCReportOfARun: a report is looked at where a root is pinned, must answer the transcript, and alone changes no class.
func TestCCReportOfARun(t *testing.T) {
	t.Parallel()
	root, answer := attest.NewCCDevice(t)
	w := quick(t, attest.Shortcuts{})
	w.also = func(p *attest.Prover, e *attest.Evidence) { e.CCReport, e.CCChain = answer(p.Transcript()) }
	if j := w.tamper(t, keep).Judgement; j.Result != attest.Pass || j.CCReport != nil {
		t.Errorf("without a root: %s, %+v", j.Result, j.CCReport)
	}
	w.setup.Policy.CCRoot = root
	if j := w.tamper(t, keep).Judgement; j.Result != attest.Pass || j.CCReport == nil || !j.CCReport.Verified || j.CCReport.Device != "TEST0001" || j.Class != attest.ClassSoftware {
		t.Errorf("%s, class %s, %+v", j.Result, j.Class, j.CCReport)
	}
	w.also = func(_ *attest.Prover, e *attest.Evidence) { e.CCReport, e.CCChain = answer(attest.Digest{}) }
	if j := w.tamper(t, keep).Judgement; j.Result != attest.Pass || j.CCReport == nil || j.CCReport.Verified || j.CCReport.Detail == "" {
		t.Errorf("the report of another run: %s, %+v", j.Result, j.CCReport)
	}
	w.setup.Policy.CCRoot = []byte("no certificate")
	if _, err := attest.NewVerifier(w.setup, nil, nil); err == nil {
		t.Error("a root that is no certificate is taken")
	}
}
