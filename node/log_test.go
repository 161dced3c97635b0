package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/pty"
)

// TestCaseA8_3FalseLinesInOurLog: a name with a newline and a terminal's codes makes one quoted field of one line, in JSON
// and on a terminal.
func TestCaseA8_3FalseLinesInOurLog(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "cases", "A8-3-hostname.txt"))
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(text), "      <-")
	host := strings.NewReplacer(`\n`, "\n", `\"`, `"`).Replace(name) // as the file itself says that it is sent
	for _, foreign := range []string{host, "\x1b[2J\x1b]52;c;x\x07", "\u009b31m\u2028x", "\x9b31m", "a\r\nb\tc", "\u202egnp"} {
		write := func(log *slog.Logger) {
			log.Warn("executor enrolled", "hostname", foreign, "err", errors.New(foreign), slog.Group("facts", "name", foreign), "id", basilica.ExecutorID(foreign))
			log.With("hostname", foreign).WarnContext(context.Background(), "second")
		}
		seen := pty.Seen(t, func(f *os.File) { write(NewLog(f, slog.LevelInfo)) })
		if lines := bytes.Count(seen, []byte("\n")); lines != 2 {
			t.Errorf("%q made %d lines on a terminal: %q", foreign, lines, seen)
		}
		// The log's own colours aside, nothing that a terminal obeys.
		plain := string(seen)
		for _, colour := range []string{"\x1b[0m", "\x1b[2m", "\x1b[22m", "\x1b[91m", "\x1b[91;2m", "\x1b[92m", "\x1b[93m", "\x1b[2;91m"} {
			plain = strings.ReplaceAll(plain, colour, "")
		}
		for _, r := range plain {
			if r != '\n' && basilica.Unprintable(r) {
				t.Errorf("%q brought %U to the terminal: %q", foreign, r, plain)
				break
			}
		}
		var out bytes.Buffer
		write(newJSONLog(&out, slog.LevelInfo))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 2 {
			t.Errorf("%q made %d lines of JSON: %q", foreign, len(lines), out.String())
		}
		var line struct {
			Hostname string `json:"hostname"`
		}
		if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || line.Hostname != strings.ToValidUTF8(foreign, "\ufffd") {
			t.Errorf("%q came as %q: %v", foreign, line.Hostname, err)
		}
	}
}
