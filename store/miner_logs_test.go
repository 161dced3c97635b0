package store

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"basilica"
)

func readLog(t *testing.T, l *TaskLogs, offset int64) (string, int64) {
	t.Helper()
	var b strings.Builder
	next, err := l.Read("t", offset, func(c basilica.LogChunk) error {
		if c.Offset != offset+int64(b.Len()) {
			t.Fatalf("chunk at %d, want %d", c.Offset, offset+int64(b.Len()))
		}
		b.Write(c.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), next
}

func TestTaskLogs(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenTaskLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	add := func(offset int64, data string) error {
		return l.Append("t", basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: []byte(data)})
	}
	for _, c := range []struct {
		offset int64
		data   string
		code   string
	}{{0, "hello ", ""}, {0, "hello ", ""}, {3, "lo world", ""}, {12, "gap", "LOG_GAP"}, {-1, "x", "LOG_GAP"}, {11, "", ""}} {
		if err := add(c.offset, c.data); basilica.CodeOf(err) != c.code {
			t.Fatalf("append %d %q: %v", c.offset, c.data, err)
		}
	}
	if got, next := readLog(t, l, 4); got != "o world" || next != 11 {
		t.Fatalf("read %q, next %d", got, next)
	}
	if got, next := readLog(t, l, 40); got != "" || next != 40 {
		t.Fatalf("read past the end: %q, next %d", got, next)
	}

	// A crash in the middle of a record: the next process overwrites the rest of it.
	raw, err := os.ReadFile(l.path("t"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.path("t"), raw[:len(raw)-2], 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenTaskLogs(dir); err != nil {
		t.Fatal(err)
	}
	if err := add(6, "again"); err != nil {
		t.Fatal(err)
	}
	if got, _ := readLog(t, l, 0); got != "hello again" {
		t.Fatalf("after the crash: %q", got)
	}
	if err := l.Forget("t"); err != nil {
		t.Fatal(err)
	}
	if size, err := l.Size("t"); size != 0 || err != nil {
		t.Fatalf("forgotten log: %d %v", size, err)
	}
}

// TestTaskLogsCutTailIsGone: a record that a crash cut off is followed by a shorter one; what lay behind it must not read
// like records after the next start.
func TestTaskLogsCutTailIsGone(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenTaskLogs(dir)
	must(t, err)
	tail := bytes.Repeat([]byte{byte(basilica.Stderr), 0, 0, 0, 1, 'x'}, 50) // reads like records wherever one begins
	must(t, l.Append("t", basilica.LogChunk{Stream: basilica.Stdout, Data: []byte("one ")}))
	must(t, l.Append("t", basilica.LogChunk{Offset: 4, Stream: basilica.Stdout, Data: tail}))
	info, err := os.Stat(l.path("t"))
	must(t, err)
	must(t, os.Truncate(l.path("t"), info.Size()-1))
	for _, again := range []string{"2", "3"} {
		if l, err = OpenTaskLogs(dir); err != nil {
			t.Fatal(err)
		}
		size, err := l.Size("t")
		must(t, err)
		must(t, l.Append("t", basilica.LogChunk{Offset: size, Stream: basilica.Stdout, Data: []byte(again)}))
	}
	if l, err = OpenTaskLogs(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := readLog(t, l, 0); got != "one 23" {
		t.Errorf("log %q", got)
	}
}

func TestTaskLogsForgetTheOldestFirst(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenTaskLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i, id := range []basilica.TaskID{"old", "middle", "new"} {
		if err := l.Append(id, basilica.LogChunk{Stream: basilica.Stdout, Data: make([]byte, 100)}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(l.path(id), start, start.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Shrink(250, func(id basilica.TaskID) bool { return id == "old" }); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[basilica.TaskID]int64{"old": 100, "middle": 0, "new": 100} {
		if size, err := l.Size(id); size != want || err != nil {
			t.Errorf("%s has %d bytes, %v; want %d", id, size, err, want)
		}
	}
}

func TestTaskLogsMarks(t *testing.T) {
	l, err := OpenTaskLogs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var want []byte
	for len(want) < 3<<20 {
		data := bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(60<<10))
		if err := l.Append("t", basilica.LogChunk{Offset: int64(len(want)), Stream: basilica.Stderr, Data: data}); err != nil {
			t.Fatal(err)
		}
		want = append(want, data...)
	}
	for range 50 {
		from := r.IntN(len(want))
		if got, next := readLog(t, l, int64(from)); got != string(want[from:]) || next != int64(len(want)) {
			t.Fatalf("read from %d differs", from)
		}
	}
	again, err := OpenTaskLogs(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := readLog(t, again, 2<<20); got != string(want[2<<20:]) {
		t.Fatal("read after reopening differs")
	}
}

func FuzzTaskLog(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 2, 0, 0, 0, 1, '!'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := OpenTaskLogs(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.path("t"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		size, err := l.Size("t")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append("t", basilica.LogChunk{Offset: size, Stream: basilica.Stdout, Data: []byte("more")}); err != nil {
			t.Fatal(err)
		}
		if got, next := readLog(t, l, size); got != "more" || next != size+4 {
			t.Fatalf("read %q, next %d", got, next)
		}
	})
}
