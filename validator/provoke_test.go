package validator

import (
	"context"
	"io"
	"strings"
	"testing"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
)

// TestTaskPathReasons: what a machine does with the small task decides about that check alone, under its own code.
func TestTaskPathReasons(t *testing.T) {
	says := func(text string) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		}
	}
	for code, check := range map[string]func(io.Writer) error{
		"TASK_EXIT":   says(`{"exit_code":3,"output":""}`),
		"TASK_OUTPUT": says(`{"exit_code":0,"output":"6162"}`),
		"MALFORMED":   says(`{"output":""}`),
		"ANSWER_SIZE": says(strings.Repeat("x", maxCheckReply+1)),
		"CHECK_TIMEOUT": func(io.Writer) error {
			return basilica.E(basilica.Unavailable, "CHECK_TIMEOUT", "the check did not end in time", "")
		},
	} {
		m := newMachine(t, "box-1")
		m.check = check
		v := newWorld(t, m).round(20)["box-1"]
		d := v.Verdict(basilica.CheckTaskPath)
		provoke.Reason(t, basilica.Reason{Code: d.Reason, Sentence: d.Detail}, code)
		if d.Result != basilica.NotRun || proof(v).Result != basilica.Pass {
			t.Errorf("%s: %+v", code, v)
		}
	}
	reason, detail, _ := reasonOf(t.Context(), io.ErrUnexpectedEOF) // as the SSH client ends a stream without an exit status
	provoke.Reason(t, basilica.Reason{Code: reason, Sentence: detail}, "SSH_DROPPED")
}

// TestStatusInWords: whoever asks a validator what it does learns it in words, at every moment.
func TestStatusInWords(t *testing.T) {
	m := newMachine(t, "box-1")
	w := newWorld(t, m)
	now := func(code string) {
		t.Helper()
		s := w.v.Status()
		provoke.Reason(t, basilica.Reason{Code: s.Code, Sentence: s.Sentence, Fix: s.Fix}, code)
	}
	now("STARTING")
	m.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		now("VERIFYING")
		return nil
	}
	w.round(20)
}

// TestOneAddressForTwo: a second executor at the address of a first one is not looked at.
func TestOneAddressForTwo(t *testing.T) {
	a, b := newMachine(t, "a"), newMachine(t, "b")
	b.addr = "a:22"
	got := newWorld(t, a, b).round(20)
	if proof(got["a"]).Result != basilica.Pass {
		t.Errorf("the first: %+v", got["a"])
	}
	d := proof(got["b"])
	provoke.Reason(t, basilica.Reason{Code: d.Reason, Sentence: d.Detail}, "ADDRESS_TWICE")
}
