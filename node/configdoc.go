package node

import (
	"embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"basilica"
)

// The configuration documents itself: what is said of a key is the comment of its field.
//
//go:embed config.go sections.go executor.go miner.go validator.go localnet.go
var sources embed.FS

// comments gives the comment of every field of a struct type by TYPE.FIELD.
func comments() (map[string]string, error) {
	files, err := sources.ReadDir(".")
	if err != nil {
		return nil, err
	}
	docs := map[string]string{}
	for _, file := range files {
		text, err := sources.ReadFile(file.Name())
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file.Name(), text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						docs[spec.Name.Name+"."+name.Name] = strings.TrimSpace(field.Doc.Text())
					}
				}
			}
			return false
		})
	}
	return docs, nil
}

// Setting is one key of the configuration as it holds now.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // as TOML
	Source string `json:"source"` // "default", the file's path, or the environment variable's name
	Doc    string `json:"doc"`
}

// Settings gives every key of the sections named (all where none is), with its value, where that comes from, and what it
// is for. path may be empty.
func Settings(path string, environ []string, sections ...string) ([]Setting, error) {
	cfg := DefaultConfig()
	if err := LoadConfig(path, environ, &cfg); err != nil {
		return nil, err
	}
	docs, err := comments()
	if err != nil {
		return nil, fmt.Errorf("read the comments of the configuration: %w", err)
	}
	var inFile map[string]any
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read %s again: %w", path, err)
		}
		if err := toml.Unmarshal(text, &inFile); err != nil {
			return nil, fmt.Errorf("read %s again: %w", path, err)
		}
	}
	if err := knownSections(sections); err != nil {
		return nil, err
	}
	v := reflect.ValueOf(&cfg).Elem()
	var settings []Setting
	for _, f := range fields(v.Type(), "", nil) {
		section, _, _ := strings.Cut(f.key, ".")
		if len(sections) > 0 && !slices.Contains(sections, section) {
			continue
		}
		value, err := tomlValue(v.FieldByIndex(f.index).Interface())
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.key, err)
		}
		s := Setting{Key: f.key, Value: value, Source: "default", Doc: docOf(v.Type(), f, docs)}
		if stands(inFile, strings.Split(f.key, ".")) {
			s.Source = path
		}
		if slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, envKey(f.key)+"=") }) {
			s.Source = "$" + envKey(f.key)
		}
		settings = append(settings, s)
	}
	return settings, nil
}

func knownSections(names []string) error {
	var known []string
	for _, k := range knownKeys(reflect.TypeFor[Config](), "") {
		if !strings.Contains(k, ".") {
			known = append(known, k)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			near := nearest(n, known)
			return basilica.E(basilica.Invalid, "CONFIG_UNKNOWN_KEY", fmt.Sprintf("section %.40q is unknown; the nearest known one is %q", n, near), fmt.Sprintf("write %q", near))
		}
	}
	return nil
}

// docOf is the comment of a field, with the key's name in place of the field's.
func docOf(t reflect.Type, f field, docs map[string]string) string {
	for _, i := range f.index[:len(f.index)-1] {
		t = t.Field(i).Type
	}
	name := t.Field(f.index[len(f.index)-1]).Name
	doc := docs[t.Name()+"."+name]
	if rest, ok := strings.CutPrefix(doc, name+" "); ok {
		return f.key[strings.LastIndexByte(f.key, '.')+1:] + " " + rest
	}
	return doc
}

func tomlValue(v any) (string, error) {
	text, err := toml.Marshal(map[string]any{"v": v})
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "v = "), err
}

func stands(tree map[string]any, key []string) bool {
	v, ok := tree[key[0]]
	if !ok || len(key) == 1 {
		return ok
	}
	below, ok := v.(map[string]any)
	return ok && stands(below, key[1:])
}

// WriteTemplate writes a configuration file in which every key of the sections stands as a comment with its default, so
// that nothing changes until a line is uncommented.
func WriteTemplate(w io.Writer, sections ...string) error {
	settings, err := Settings("", nil, sections...)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Basilica. Every key is shown with its default; take away the # before a line to change it.\n# Any key can also be set by the environment: BASILICA_SECTION_KEY.\n")
	at := ""
	for _, s := range settings {
		i := strings.LastIndexByte(s.Key, '.')
		if section := s.Key[:i]; section != at {
			at = section
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		for line := range strings.SplitSeq(s.Doc, "\n") {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		fmt.Fprintf(&b, "#%s = %s\n", s.Key[i+1:], s.Value)
	}
	_, err = io.WriteString(w, b.String())
	return err
}
