package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"basilica"
)

// fixes gives every next step of the table and of the source, by where it stands.
func fixes(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, x := range basilica.Codes() {
		all["the row of "+x.Code] = x.Fix
	}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == ".git" || name == "bin" || name == "testdata" || name == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		add := func(e ast.Expr) {
			ast.Inspect(e, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil {
						all[files.Position(lit.Pos()).String()] = text
					}
				}
				return true
			})
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.CallExpr:
				if fun, ok := x.Fun.(*ast.SelectorExpr); ok && fun.Sel.Name == "E" && len(x.Args) == 4 {
					add(x.Args[3])
				}
			case *ast.KeyValueExpr:
				if key, ok := x.Key.(*ast.Ident); ok && key.Name == "Fix" {
					add(x.Value)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// verbsOf gives the verbs that a program's source names, for a program whose commands cannot be asked from here.
func verbsOf(t *testing.T, dir string) (verbs, flags []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatal(dir, err)
	}
	for _, path := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		literal := func(e ast.Expr) string {
			lit, ok := e.(*ast.BasicLit)
			if !ok {
				return ""
			}
			text, _ := strconv.Unquote(lit.Value)
			return text
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.KeyValueExpr:
				if key, ok := x.Key.(*ast.Ident); ok && key.Name == "Use" {
					verb, _, _ := strings.Cut(literal(x.Value), " ")
					verbs = append(verbs, verb)
				}
			case *ast.CallExpr:
				if fun, ok := x.Fun.(*ast.SelectorExpr); ok && strings.HasSuffix(fun.Sel.Name, "Var") && len(x.Args) == 4 {
					flags = append(flags, literal(x.Args[1]))
				}
			}
			return true
		})
	}
	return verbs, flags
}

var (
	namedCommand = regexp.MustCompile(`\b(basilica|gpu-attestor)((?: [a-z][a-z-]*[a-z])+)`)
	namedFlag    = regexp.MustCompile(`(^|[ (\x60])--([a-z][a-z-]*[a-z])`)
	// What other programs are told, and prose in which the product's name is followed by no verb.
	foreign = regexp.MustCompile(`\bbasilica (of|that|from|as|on|is|wrote|with|and)\b|journalctl -u basilica-executor|gpu-attestor through the|docker build --platform|tpm2_dictionarylockout --clear-lockout`)
)

// TestFixesNameWhatExists: whoever follows a next step to the letter finds the verb and the flag that it names.
func TestFixesNameWhatExists(t *testing.T) {
	root := newRoot()
	proverVerbs, proverFlags := verbsOf(t, "../gpu-attestor")
	known := func(cmd *cobra.Command, flag string) bool {
		return cmd.Flags().Lookup(flag) != nil || cmd.InheritedFlags().Lookup(flag) != nil || flag == "help"
	}
	commands, flags := 0, 0
	for at, fix := range fixes(t) {
		var last *cobra.Command // that the fix named before a flag
		text := foreign.ReplaceAllString(fix, "")
		places := namedCommand.FindAllStringSubmatchIndex(text, -1)
		for i, p := range places {
			program, words := text[p[2]:p[3]], strings.Fields(text[p[4]:p[5]])
			commands++
			if program == "gpu-attestor" {
				if !slices.Contains(proverVerbs, words[0]) {
					t.Errorf("%s names gpu-attestor %s, which does not exist: %q", at, words[0], fix)
				}
				continue
			}
			cmd, _, err := root.Find(words[:1])
			if err != nil || cmd == root {
				t.Errorf("%s names basilica %s, which does not exist: %q", at, words[0], fix)
				continue
			}
			for _, w := range words[1:] {
				next := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == w })
				if next < 0 {
					if cmd.HasSubCommands() && !cmd.Runnable() {
						t.Errorf("%s names %s %s, which does not exist: %q", at, cmd.CommandPath(), w, fix)
					}
					break
				}
				cmd = cmd.Commands()[next]
			}
			last = cmd
			end := len(text)
			if i+1 < len(places) {
				end = places[i+1][0]
			}
			sentence := text[p[1]:end]
			if stop := strings.IndexAny(sentence, ",;"); stop >= 0 {
				sentence = sentence[:stop]
			}
			for _, f := range namedFlag.FindAllStringSubmatch(sentence, -1) {
				if !known(last, f[2]) {
					t.Errorf("%s names --%s of %s, which does not have it: %q", at, f[2], last.CommandPath(), fix)
				}
			}
		}
		for _, f := range namedFlag.FindAllStringSubmatch(text, -1) {
			flags++
			if !slices.ContainsFunc(allCommands(root), func(c *cobra.Command) bool { return known(c, f[2]) }) && !slices.Contains(proverFlags, f[2]) {
				t.Errorf("%s names --%s, which no verb has: %q", at, f[2], fix)
			}
		}
	}
	if commands < 60 || flags < 15 {
		t.Errorf("only %d commands and %d flags were found; the search is broken", commands, flags)
	}
}
