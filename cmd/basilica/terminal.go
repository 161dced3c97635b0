package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"basilica"
	"basilica/client"
)

// screen is a terminal on which foreign bytes do nothing: logs of jobs, and what miners and executors say, could clear it,
// forge lines, set the clipboard or hide links. All that is printed goes through it; codes other than newline and tab are
// shown in Go's escapes.
type screen struct {
	f *os.File

	mu   sync.Mutex // guards rest
	rest []byte     // the beginning of a character that was cut
}

// output is where a verb writes: a screen where f is a terminal, and f itself elsewhere, so that a pipe gets exact bytes.
func output(f *os.File) io.Writer {
	if term.IsTerminal(int(f.Fd())) {
		return &screen{f: f}
	}
	return f
}

// raw gives what stands behind a writer of output.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.f
	}
	return w
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, rest := escape(append(s.rest, p...))
	s.rest = rest
	if _, err := s.f.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush shows the beginning of a character that never became whole.
func (s *screen) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text []byte
	for _, b := range s.rest {
		text = fmt.Appendf(text, `\x%02x`, b)
	}
	s.rest = nil
	_, err := s.f.Write(text)
	return err
}

// escape shows what a terminal would obey. A character that p cuts short is given back.
func escape(p []byte) (text, rest []byte) {
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		switch {
		case r == utf8.RuneError && n == 1:
			if !utf8.FullRune(p) {
				return text, append([]byte(nil), p...)
			}
			text = fmt.Appendf(text, `\x%02x`, p[0])
		case r == '\n' || r == '\t' || !basilica.Unprintable(r):
			text = append(text, p[:n]...)
		default:
			text = append(text, basilica.EscapeRune(r)...)
		}
		p = p[n:]
	}
	return text, nil
}

// severalLines is an error's text, which may have more than one line, with nothing else in it that a terminal obeys.
func severalLines(s string) string {
	parts := strings.Split(s, "\n")
	for i, p := range parts {
		parts[i] = basilica.OneLine(p)
	}
	return strings.Join(parts, "\n")
}

// bars shows files on their way on a terminal, one line for the one that moves.
type bars struct {
	out io.Writer
	now func() time.Time

	mu    sync.Mutex // guards the rest
	name  string
	begun time.Time
	from  int64 // bytes when it began
	shown time.Time
}

// progressOf shows transfers where stderr is a terminal; in a pipe nothing is said of them.
func progressOf(stderr io.Writer) func(client.Transfer) {
	s, ok := stderr.(*screen)
	if !ok {
		return nil
	}
	b := &bars{out: s.f, now: time.Now}
	return b.show
}

const (
	barWidth   = 24
	barEvery   = 100 * time.Millisecond
	barFromNow = 300 * time.Millisecond // what takes no longer is not worth a line
)

func (b *bars) show(t client.Transfer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if t.Name != b.name || t.Done < b.from {
		b.name, b.begun, b.from, b.shown = t.Name, now, t.Done, time.Time{}
	}
	done := t.Done >= t.Total
	if now.Sub(b.begun) < barFromNow && b.shown.IsZero() || !done && now.Sub(b.shown) < barEvery {
		return
	}
	b.shown = now
	// The terminal may be gone; the transfer goes on.
	_, _ = io.WriteString(b.out, "\r\x1b[K"+barLine(t, t.Done-b.from, now.Sub(b.begun)))
	if done {
		_, _ = io.WriteString(b.out, "\n")
		b.name = ""
	}
}

// barLine is one transfer in words; moved bytes took elapsed.
func barLine(t client.Transfer, moved int64, elapsed time.Duration) string {
	full := barWidth
	if t.Total > 0 {
		full = int(barWidth * float64(t.Done) / float64(t.Total))
	}
	bar := make([]byte, barWidth)
	for i := range bar {
		bar[i] = ' '
		if i < full {
			bar[i] = '='
		}
	}
	verb := "fetching"
	if t.Send {
		verb = "sending"
	}
	line := fmt.Sprintf("%s %.40s [%s] %s of %s", verb, basilica.OneLine(t.Name), bar, byteCount(t.Done), byteCount(t.Total))
	if moved > 0 && elapsed > 0 {
		rate := float64(moved) / elapsed.Seconds()
		line += fmt.Sprintf(", %s/s", byteCount(int64(rate)))
		if t.Done < t.Total {
			line += fmt.Sprintf(", %s left", time.Duration(float64(t.Total-t.Done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	return line
}

func byteCount(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}
