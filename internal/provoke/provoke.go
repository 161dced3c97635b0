// Package provoke holds failures against the table of codes: a test of any room names a code and how it comes about. It
// refuses to know how. It also reads what a verb prints for a program. Only test files may import it.
package provoke

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"basilica"
)

// Each runs every provocation and checks what a person would meet: the code it stands under, one plain sentence, the next
// step, and a row in the table that explains it.
func Each(t *testing.T, provocations map[string]func(t *testing.T) error) {
	t.Helper()
	for code, provoked := range provocations {
		t.Run(code, func(t *testing.T) {
			Refused(t, provoked(t), code)
		})
	}
}

// Refused checks that err is a refusal under code, as a person meets it.
func Refused(t *testing.T, err error, code string) {
	t.Helper()
	var e *basilica.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v, want a failure of code %s", err, code)
		return
	}
	if e.Code != code {
		t.Errorf("got code %s (%v), want %s", e.Code, err, code)
	}
	Reason(t, basilica.Reason{Code: e.Code, Sentence: e.Sentence, Fix: e.Fix}, code)
}

// Answered calls until the peer answers: a call on a connection that is being cut says only that it was cut.
func Answered(t *testing.T, call func() error) error {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; {
		err := call()
		if basilica.CodeOf(err) != "PEER_UNREACHABLE" || time.Now().After(until) {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Leaks finds goroutines that were left behind. One that only has yet to be given a processor gets the time to end.
func Leaks(options ...goleak.Option) error {
	for until := time.Now().Add(5 * time.Second); ; {
		if err := goleak.Find(options...); err == nil || time.Now().After(until) {
			return err
		}
	}
}

// NoLeaks runs the tests of a room, which leave no goroutine behind.
func NoLeaks(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := Leaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Reason checks a reason that stands beside a task, a verdict or an executor; without a Fix of its own it has the table's.
func Reason(t *testing.T, r basilica.Reason, code string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("got code %q (%q), want %s", r.Code, r.Sentence, code)
	}
	row, known := basilica.Explain(r.Code)
	if !known {
		t.Errorf("%s has no row in the table", r.Code)
	}
	if r.Sentence == "" || strings.HasSuffix(r.Sentence, ".") || strings.Contains(r.Sentence, "\n") {
		t.Errorf("%s: the sentence %q is empty, ends with a full stop, or is more than one line", r.Code, r.Sentence)
	}
	if r.Fix == "" && row.Fix == "" {
		t.Errorf("%s: no next step", r.Code)
	}
}

// JSON is the script command json: the last verb's standard output is one JSON object or array and nothing else.
func JSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: json")
	}
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil || value[0] != '{' && value[0] != '[' {
		ts.Fatalf("standard output is no JSON object or array: %v", err)
	}
	if err := dec.Decode(&value); err != io.EOF {
		ts.Fatalf("standard output goes on after its JSON: %v", err)
	}
}
