package basilica_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
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
var notCodes = regexp.MustCompile(`^(BASILICA_|BT_|DOCKER_|NVIDIA_|LD_LIBRARY_PATH$|XDG_|GPU_KIND_|NO_COLOR$|PRETTY_NAME$|SSH_AUTH_SOCK$|RLIMIT_|CAP_|SYS_|LISTEN_)|^(ECHO_REPLY|FILL_DONE|WALK_DONE|MIX_DONE)$`)

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

// TestEveryCodeIsProvoked holds the tests against the table: each row's code is named by a test that meets it, as a literal,
// in a script, or by the constant that stands for it.
func TestEveryCodeIsProvoked(t *testing.T) {
	type constant struct{ dir, name string }
	constants := map[constant]string{}
	isTest := func(path string) bool { return strings.HasSuffix(path, "_test.go") }
	for path, f := range source(t, func(path string) bool { return !isTest(path) }) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Names) != len(spec.Values) {
				return true
			}
			for i, v := range spec.Values {
				if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil && codeWord.MatchString(s) {
						constants[constant{filepath.Base(filepath.Dir(path)), spec.Names[i].Name}] = s
					}
				}
			}
			return true
		})
	}
	words := regexp.MustCompile(`[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*`)
	named := map[string]bool{}
	for path, f := range source(t, func(path string) bool { return isTest(path) && path != "codes_test.go" }) {
		here := filepath.Base(filepath.Dir(path))
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(x.Value); err == nil && x.Kind == token.STRING {
					for _, w := range words.FindAllString(s, -1) {
						named[w] = true
					}
				}
			case *ast.SelectorExpr:
				if pkg, ok := x.X.(*ast.Ident); ok {
					named[constants[constant{pkg.Name, x.Sel.Name}]] = true
				}
			case *ast.Ident:
				named[constants[constant{here, x.Name}]] = true
			}
			return true
		})
	}
	scripts, err := filepath.Glob("internal/testnet/testdata/*/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts of the network: %v", err)
	}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				for _, w := range words.FindAllString(line, -1) {
					named[w] = true
				}
			}
		}
	}
	for _, x := range basilica.Codes() {
		_, family := basilica.Explain(x.Code + "_OF")
		member := func(w string) bool { return strings.HasPrefix(w, x.Code+"_") }
		if !named[x.Code] && !(family && slices.ContainsFunc(slices.Collect(maps.Keys(named)), member)) {
			t.Errorf("%s stands in the table and no test provokes it", x.Code)
		}
	}
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
