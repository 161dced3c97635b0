package basilica_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"basilica"
)

var (
	codeWord  = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	codeWords = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$`)
)

// notCodes are upper-case words of the source that no person meets as a code: names of the environment and of frames.
var notCodes = regexp.MustCompile(`^(BASILICA_|BT_|DOCKER_|LD_LIBRARY_PATH$|XDG_|GPU_KIND_|NO_COLOR$|PRETTY_NAME$|SSH_AUTH_SOCK$|RLIMIT_|CAP_|SYS_|LISTEN_)|^(ECHO_REPLY|FILL_DONE|WALK_DONE|MIX_DONE)$`)

// codesIn gives the codes of one file's source: what stands as the code of a failure, and every other literal of upper-case
// words.
func codesIn(f *ast.File, found map[string]bool) {
	add := func(e ast.Expr, is *regexp.Regexp) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		if s, err := strconv.Unquote(lit.Value); err == nil && is.MatchString(s) && !notCodes.MatchString(s) {
			found[s] = true
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.CallExpr:
			name := ""
			switch fun := x.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			if name == "E" && len(x.Args) == 4 {
				add(x.Args[1], codeWord)
			}
		case *ast.KeyValueExpr:
			if key, ok := x.Key.(*ast.Ident); ok && key.Name == "Code" {
				add(x.Value, codeWord)
			}
		case *ast.Field:
			return false // tags
		case *ast.BasicLit:
			add(x, codeWords)
		}
		return true
	})
}

// source parses the files of the module that keep accepts, and gives them by path.
func source(t *testing.T, keep func(path string) bool) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") || !keep(path) {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		files[path] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestCodes holds the table against the source: every code has a row, every row a user, and every row all its parts.
func TestCodes(t *testing.T) {
	used := map[string]bool{}
	words := map[string]bool{} // every literal that is one row's code, wherever it stands
	for _, f := range source(t, func(path string) bool {
		return !strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, "codes_")
	}) {
		codesIn(f, used)
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					words[strings.TrimSuffix(s, "_")] = true
				}
			}
			return true
		})
	}
	delete(words, "") // a prefix alone
	if len(used) < 200 {
		t.Fatalf("only %d codes were found in the source; the search is broken", len(used))
	}
	rows := map[string]basilica.Explanation{}
	for _, x := range basilica.Codes() {
		if _, twice := rows[x.Code]; twice {
			t.Errorf("%s stands twice in the table", x.Code)
		}
		rows[x.Code] = x
		if !codeWord.MatchString(x.Code) {
			t.Errorf("%q is no code", x.Code)
		}
		for part, text := range map[string]string{"sentence": x.Sentence, "cause": x.Cause, "fix": x.Fix} {
			if text == "" || strings.HasSuffix(text, ".") || strings.ContainsAny(text, "\n|") {
				t.Errorf("%s: the %s %q is empty, ends with a full stop, or does not fit in one cell", x.Code, part, text)
			}
		}
		if !used[x.Code] && !words[x.Code] && !familyUsed(x.Code, words) {
			t.Errorf("%s stands in the table and nothing in the source uses it", x.Code)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(used)) {
		if _, ok := basilica.Explain(code); !ok {
			t.Errorf("%s is used in the source and has no row in the table (codes_*.go)", code)
		}
	}
}

// familyUsed says whether code begins codes that are put together, like ABORTED_%d.
func familyUsed(code string, words map[string]bool) bool {
	for w := range words {
		if strings.HasPrefix(w, code+"_%") {
			return true
		}
	}
	return false
}

func TestExplain(t *testing.T) {
	if x, ok := basilica.Explain("port_taken"); !ok || x.Code != "PORT_TAKEN" {
		t.Errorf("a code in lower case: %v, %v", x, ok)
	}
	if x, ok := basilica.Explain("MALFORMED_WALK_DONE"); !ok || x.Code != "MALFORMED" {
		t.Errorf("a code of a family: %v, %v", x, ok)
	}
	for _, not := range []string{"", "PORT", "PORT_TAKEN_", "SubtensorModule.NotEnoughStake"} {
		if x, ok := basilica.Explain(not); ok {
			t.Errorf("%q is explained as %s", not, x.Code)
		}
	}
	// A failure without a next step of its own has the table's.
	if e := basilica.E(basilica.Conflict, "FENCE_STALE", "holding 7 is no longer in the ledger", ""); e.Fix == "" {
		t.Error("no Fix from the table")
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"listen", "listne", 2}} {
		if got := basilica.EditDistance(c.a, c.b); got != c.want {
			t.Errorf("EditDistance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
