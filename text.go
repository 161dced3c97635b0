package basilica

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// OneLine makes foreign text safe to stand in a line or a table that a person reads: what would move the cursor, begin a
// new line, turn the direction of reading or talk to the terminal is shown in Go's escapes, and so is what is no UTF-8.
// All other text stays as it is.
func OneLine(s string) string {
	clean := true
	for _, r := range s {
		if Unprintable(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else if Unprintable(r) {
			b.WriteString(EscapeRune(r))
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// Unprintable says whether a character must not reach a terminal or a line of a log as it is: C0, DEL, C1, line and
// paragraph separators, and what turns the direction of reading. utf8.RuneError counts: it may stand for anything.
func Unprintable(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r < 0xa0, r == utf8.RuneError:
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// EscapeRune shows a character by its number, as Go writes it in a string.
func EscapeRune(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r == '\r':
		return `\r`
	case r < 0x80:
		return fmt.Sprintf(`\x%02x`, r)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
