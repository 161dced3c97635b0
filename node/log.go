package node

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"basilica"
)

// NewLog makes the logger of a process: coloured lines for a person where out is a terminal, one JSON object a line
// elsewhere. Attributes whose names say that they hold a secret are replaced, and foreign text stays on its line.
func NewLog(out *os.File, level slog.Leveler) *slog.Logger {
	if term.IsTerminal(int(out.Fd())) {
		return slog.New(tint.NewTextHandler(out, &tint.Options{Level: level, TimeFormat: time.TimeOnly, ReplaceAttr: harmless}))
	}
	return newJSONLog(out, level)
}

func newJSONLog(out io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: redact}))
}

var secretWords = [...]string{"token", "secret", "password", "passphrase", "mnemonic", "seed", "jwt", "authorization", "private_key", "api_key", "cookie"}

// redact hides the value of an attribute by its name; names of the log itself stay.
func redact(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	for _, word := range secretWords {
		if strings.Contains(name, word) && a.Value.Kind() != slog.KindInt64 && a.Value.Kind() != slog.KindBool {
			return slog.String(a.Key, "[redacted]")
		}
	}
	return a
}

// harmless redacts, and shows in escapes what a terminal would obey: the coloured handler passes escape codes on.
func harmless(groups []string, a slog.Attr) slog.Attr {
	a = redact(groups, a)
	switch a.Value.Kind() {
	case slog.KindString, slog.KindAny, slog.KindLogValuer:
		if text := fmt.Sprint(a.Value.Resolve().Any()); basilica.OneLine(text) != text {
			return slog.String(a.Key, basilica.OneLine(text))
		}
	}
	return a
}
