package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"basilica"
)

// TestErrorsDocumented compares docs/errors.md with the table of codes.
func TestErrorsDocumented(t *testing.T) {
	var want bytes.Buffer
	if err := codesAsMarkdown(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/errors.md is not what the table of codes gives; run `make generate` and commit it")
	}
}

func TestExplainVerb(t *testing.T) {
	explain := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(t.Context(), append([]string{"explain"}, args...), strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, out, _ := explain("port_taken"); code != exitOK || !strings.HasPrefix(out, "PORT_TAKEN: Another process uses a port.\nCause: ") || !strings.Contains(out, "\nFix: ") {
		t.Errorf("exit %d, %s", code, out)
	}
	if code, out, _ := explain("MALFORMED_WALK_DONE", "--json"); code != exitOK || !json.Valid([]byte(out)) || !strings.Contains(out, `"code": "MALFORMED"`) {
		t.Errorf("exit %d, %s", code, out)
	}
	code, out, errs := explain("PORT_TAKN")
	if code != exitFailure || out != "" || !strings.Contains(errs, "[CODE_UNKNOWN]") || !strings.Contains(errs, "Fix: basilica explain PORT_TAKEN") {
		t.Errorf("a mistyped code: exit %d, %s%s", code, out, errs)
	}
	if code, _, errs := explain("SubtensorModule.NotEnoughStake"); code != exitFailure || !strings.Contains(errs, "[CODE_OF_THE_CHAIN]") {
		t.Errorf("a word of the chain: exit %d, %s", code, errs)
	}
	if code, out, _ := explain(); code != exitOK || strings.Count(out, "\n") != len(basilica.Codes())+1 {
		t.Errorf("the list: exit %d, %d lines", code, strings.Count(out, "\n"))
	}
}
