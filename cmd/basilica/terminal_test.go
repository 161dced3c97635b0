package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"basilica"
	"basilica/client"
	"basilica/internal/pty"
)

// harmless fails where a terminal would obey something.
func harmless(t testing.TB, seen []byte) {
	t.Helper()
	if !utf8.Valid(seen) {
		t.Errorf("bytes that are no UTF-8: %q", seen)
	}
	for _, r := range string(seen) {
		if r != '\n' && r != '\t' && basilica.Unprintable(r) {
			t.Errorf("%U reaches the terminal: %q", r, seen)
			return
		}
	}
}

// TestCaseA8_3ControlCodesOfAJob: what a job prints clears no screen, forges no line and sets no clipboard, on a terminal;
// a pipe gets every byte, and so does a terminal with --raw.
func TestCaseA8_3ControlCodesOfAJob(t *testing.T) {
	log, err := os.ReadFile(filepath.Join("testdata", "cases", "A8-3-job-log.bin"))
	if err != nil {
		t.Fatal(err)
	}
	var cmd cobra.Command
	write := func(f *os.File, rawToo bool) {
		cmd.SetOut(output(f))
		cmd.SetErr(output(f))
		stdout, _ := streams(&cmd, rawToo)
		for _, b := range log { // a character may be cut anywhere
			if _, err := stdout.Write([]byte{b}); err != nil {
				t.Error(err)
			}
		}
		if s, ok := stdout.(*screen); ok {
			if err := s.flush(); err != nil {
				t.Error(err)
			}
		}
	}
	seen := pty.Seen(t, func(f *os.File) { write(f, false) })
	harmless(t, seen)
	for _, want := range []string{
		"epoch 1 ok\\r\n\\x1b[2J\\x1b[Htask 01JTASK succeeded (exit 0)\n", `\x1b]0;paid\x07`, `\x1b]8;;file:///etc/shadow\x1b\docs`,
		`\x1b]52;c;cm0gLXJmIH4=\x07`, `\x1b[?1049h\x9b31mC1 form\x9b0m`, `bell\x07 nul\x00 badutf8\xff\xfe end` + "\n",
	} {
		if !strings.Contains(string(seen), want) {
			t.Errorf("%q is not in %q", want, seen)
		}
	}
	if exact := pty.Seen(t, func(f *os.File) { write(f, true) }); !bytes.Equal(exact, log) {
		t.Errorf("--raw gave %q", exact)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	write(w, false)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if exact, err := io.ReadAll(r); err != nil || !bytes.Equal(exact, log) {
		t.Errorf("a pipe got %q, %v", exact, err)
	}
}

// TestCaseA8_3TextOfOthers: a table, an error and the end of a run stay on their lines, whatever a miner put into them.
func TestCaseA8_3TextOfOthers(t *testing.T) {
	const evil = "box-1\nlevel=ERROR msg=\"validator key leaked\"\x1b[2J\u009b31m\u202e"
	reason := basilica.Reason{Code: evil, Sentence: evil, Fix: evil}
	for name, write := range map[string]func(io.Writer){
		"table": func(w io.Writer) {
			rows := newTable(w, "EXECUTOR")
			rows.AppendRow(line(evil))
			rows.Render()
		},
		"end": func(w io.Writer) {
			describeEnd(w, client.Result{Task: basilica.Task{ID: "t-1", State: evil, Reason: &reason}})
		},
		"fleet": func(w io.Writer) {
			m := basilica.MemberView{Member: basilica.Member{Executor: "box-1"}, Why: &reason, Notes: []basilica.Reason{reason}}
			m.Facts.Version = evil
			if err := printFleet(w, []basilica.MemberView{m}); err != nil {
				t.Error(err)
			}
		},
		"error": func(w io.Writer) { report(basilica.E(basilica.Invalid, "X", "one", evil), false, w, w) },
	} {
		var out bytes.Buffer
		write(&out)
		harmless(t, out.Bytes())
		for _, l := range strings.Split(out.String(), "\n") {
			if strings.HasPrefix(l, "level=") {
				t.Errorf("%s: a line of another's making: %q", name, out.String())
			}
		}
	}
}

// TestScreenShowsAll: however text is cut, what is printable comes as it was, and nothing else does.
func TestScreenShowsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOf(rapid.Byte()).Draw(t, "text")
		var got, rest []byte
		for left := text; len(left) > 0; {
			n := rapid.IntRange(1, len(left)).Draw(t, "piece")
			var shown []byte
			shown, rest = escape(append(rest, left[:n]...))
			got = append(got, shown...)
			left = left[n:]
		}
		if len(rest) >= utf8.UTFMax {
			t.Fatalf("%d bytes are held back", len(rest))
		}
		for _, r := range string(got) {
			if r != '\n' && r != '\t' && basilica.Unprintable(r) {
				t.Fatalf("%q is shown as %q", text, got)
			}
		}
		whole, _ := escape(text)
		if !bytes.Equal(got, whole) {
			t.Fatalf("in pieces %q, at once %q", got, whole)
		}
	})
}

// TestBarsOnATerminalAlone: a file on its way has one line that moves; a pipe hears nothing of it.
func TestBarsOnATerminalAlone(t *testing.T) {
	if progressOf(io.Discard) != nil {
		t.Error("a pipe gets progress bars")
	}
	seen := pty.Seen(t, func(f *os.File) {
		show := progressOf(output(f))
		b := &bars{out: f, now: time.Now}
		at := time.Unix(0, 0)
		b.now = func() time.Time { return at }
		for done := int64(0); done <= 100; done += 10 {
			b.show(client.Transfer{Name: "in\x1b[2Jput", Send: true, Done: done << 20, Total: 100 << 20})
			at = at.Add(time.Second)
		}
		show(client.Transfer{Name: "quick", Done: 1, Total: 1})
	})
	text := string(seen)
	if !strings.Contains(text, `sending in\x1b[2Jput [============            ] 50.0 MiB of 100.0 MiB, 10.0 MiB/s, 5s left`) || !strings.HasSuffix(text, "100.0 MiB of 100.0 MiB, 10.0 MiB/s\n") {
		t.Errorf("seen: %q", text)
	}
}

// TestEveryVerbHasAnExample: --help of each verb shows how it is typed, and what a program may read has --json.
func TestEveryVerbHasAnExample(t *testing.T) {
	for _, cmd := range allCommands(newRoot()) {
		if cmd.Runnable() && cmd.RunE != nil && !cmd.Hidden && !cmd.HasSubCommands() && cmd.Parent() != nil && cmd.Parent().Name() != "completion" && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
	}
}

// TestEveryJSONIsRead: a script has each verb with --json print, and reads what came as one object.
func TestEveryJSONIsRead(t *testing.T) {
	var read strings.Builder
	for _, pattern := range []string{"testdata/*/*.txtar", "../../internal/testnet/testdata/*/*.txtar"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d scripts, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			read.Write(text)
		}
	}
	for _, cmd := range allCommands(newRoot()) {
		if cmd.Flags().Lookup(jsonFlag) == nil {
			continue
		}
		if !regexp.MustCompile(`exec .*` + cmd.CommandPath() + `\b.* --json\b.*\njson\n`).MatchString(read.String()) {
			t.Errorf("no script reads the JSON of %s", cmd.CommandPath())
		}
	}
}

func allCommands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		all = append(all, allCommands(c)...)
	}
	return all
}

// TestCompletionOffersOwnTasks: from the data directory, without a network.
func TestCompletionOffersOwnTasks(t *testing.T) {
	dir := t.TempDir()
	index, err := client.OpenIndex(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []basilica.TaskID{"t-old", "t-new"} {
		if err := index.Add(client.Entry{Task: id, Miner: "5m", Image: "img"}); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"__complete", "attach", "--data", dir, ""}, nil, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if !strings.HasPrefix(stdout.String(), "t-new\timg\nt-old\timg\n") {
		t.Errorf("offers %q", stdout.String())
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var script bytes.Buffer
		if code := run(t.Context(), []string{"completion", shell}, nil, &script, &stderr); code != exitOK || !strings.Contains(script.String(), "basilica") {
			t.Errorf("%s: exit %d", shell, code)
		}
	}
}

// TestLoginOnATerminal: who presses Ctrl-C at either question has the terminal back at once, as it was.
func TestLoginOnATerminal(t *testing.T) {
	for name, c := range map[string]struct {
		user, password string // as typed; no user: the command's context ends
		want           string
		code           string
	}{
		"login":           {"me\n", "s3cret\r", "me s3cret", ""},
		"at the password": {"me\n", "s3c\x03", " ", "REGISTRY_LOGIN"},
		"at the user":     {"", "", " ", "REGISTRY_LOGIN"},
	} {
		person, program := pty.Open(t)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		before.Lflag |= unix.ECHO
		if err := unix.IoctlSetTermios(int(program.Fd()), unix.TCSETS, before); err != nil {
			t.Fatal(err)
		}
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var cmd cobra.Command
		cmd.SetContext(ctx)
		cmd.SetIn(program)
		cmd.SetErr(program)
		type answer struct {
			login basilica.RegistryLogin
			err   error
		}
		done := make(chan answer, 1)
		go func() {
			login, err := (&loginFlags{server: "r.example", terminal: program.Name()}).find(&cmd)
			done <- answer{login, err}
		}()
		seen := ""
		await := func(question string) {
			for buf := make([]byte, 1024); !strings.HasSuffix(seen, question); {
				n, err := person.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				seen += string(buf[:n])
			}
		}
		enter := func(text string) {
			if _, err := person.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		await("user of r.example: ")
		if c.user == "" {
			interrupt()
		} else {
			enter(c.user)
			await("password: ")
			enter(c.password)
		}
		got := answer{err: errors.New("it goes on waiting")}
		select {
		case got = <-done:
		case <-time.After(10 * time.Second):
		}
		if login := got.login.Username + " " + got.login.Password; got.err == nil && login != c.want || basilica.CodeOf(got.err) != c.code {
			t.Errorf("%s: %q, %v", name, login, got.err)
		}
		if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
			t.Errorf("%s: the terminal is not as it was: %v", name, err)
		}
	}
}

func TestLoginOfTwoLines(t *testing.T) {
	l, err := loginOf(strings.NewReader("user\npass word\nmore"), "r")
	if err != nil || l.Username != "user" || l.Password != "pass word" {
		t.Errorf("%q, %v", l.Username, err)
	}
	if l, _ := loginOf(strings.NewReader("user"), "r"); basilica.CodeOf(client.CheckLogin(l)) != "REGISTRY_LOGIN" {
		t.Error("a login without a password passed")
	}
}
