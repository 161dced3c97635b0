package wire

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"basilica"
)

// TestCodesOfTheWayAreNoAnswers: whatever this room itself says of a call to an executor is known not to be the executor's
// word: a miner would take a task back that may run.
func TestCodesOfTheWayAreNoAnswers(t *testing.T) {
	other := map[string]bool{ // of enrolment, of the fleet door, of a blob's content
		"ADDRESS_PRIVATE": true, "BLOB_DIGEST": true, "DIAL_BACK": true, "DIAL_BACK_KEY": true, "ENROLLMENT_UNFIT": true, "ENROLL_RATE": true, "NOT_AN_EXECUTOR": true,
		"NOT_YOURSELF": true, "REACH_RATE": true, "RENEWAL_UNFIT": true, "RENEW_RATE": true, "STREAM_ENDED": true, "TOKEN_OTHER_MINER": true,
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 4 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			lit, isLit := call.Args[1].(*ast.BasicLit)
			if !ok || !isLit || sel.Sel.Name != "E" {
				return true
			}
			code, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			found++
			if basilica.Unanswered(basilica.E(basilica.Unavailable, code, "", "")) == other[code] {
				t.Errorf("%s of %s: say in basilica.Unanswered or here what it is", code, e.Name())
			}
			return true
		})
	}
	if found < 20 {
		t.Errorf("%d codes found", found)
	}
	member := basilica.Member{Executor: "e", Certificate: []byte{1}}
	if err := member.Admits([]byte{2}); !basilica.Unanswered(err) {
		t.Errorf("%v is taken for an answer", err)
	}
}
