package basilica_test

import (
	"testing"
	"unicode/utf8"

	"basilica"
)

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"gpu-box-1 ünï 日本 👍":            "gpu-box-1 ünï 日本 👍",
		"gpu-box-1\nlevel=ERROR":        `gpu-box-1\nlevel=ERROR`,
		"a\tb\rc\x00\x1b[2J\x7f":        `a\tb\rc\x00\x1b[2J\x7f`,
		"\u009b31m":                     `\u009b31m`,
		"\x9b31m":                       `\x9b31m`,
		"\xff\xfe":                      `\xff\xfe`,
		"user\u202egnp.exe\u2028\ufffd": `user\u202egnp.exe\u2028\ufffd`,
	} {
		if got := basilica.OneLine(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\x1b]52;c;x\x07\n\x9b\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := basilica.OneLine(s)
		if !utf8.ValidString(got) || basilica.OneLine(got) != got {
			t.Fatalf("%q became %q", s, got)
		}
		for _, r := range got {
			if basilica.Unprintable(r) {
				t.Fatalf("%q became %q", s, got)
			}
		}
	})
}
