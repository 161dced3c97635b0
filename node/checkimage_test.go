package node

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// marksBook keeps marks in memory.
type marksBook map[string]string

func (b marksBook) KeepImage(_ context.Context, source, id string) error { b[source] = id; return nil }

func (b marksBook) LoadedImages(context.Context) (map[string]string, error) {
	return maps.Clone(b), nil
}

func (b marksBook) ForgetImage(_ context.Context, source string) error { delete(b, source); return nil }

// TestCheckImageIsOnRecord: once the engine hears of the check's image, a process that comes after this one knows of it and of
// the one before it, and that one goes when the new one is here. An image that is the same stays, whatever id the engine gives it.
func TestCheckImageIsOnRecord(t *testing.T) {
	program, err := findBusybox()
	check(t, err)
	const old, own, other = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "sha256:" + "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "sha256:" + "2123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	var mu sync.Mutex // guards what follows
	var events []string
	var gives string // the id of the next image; none comes where it is empty
	has := map[string]bool{old: true}
	marks := marksBook{checkMark: old, "blob": "sha256:task"}
	engine := answeringEngine(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		image := path.Base(strings.TrimSuffix(r.URL.Path, "/json"))
		switch {
		case r.Method == http.MethodDelete && has[image]:
			delete(has, image)
			events = append(events, "removed "+image)
			_, _ = w.Write([]byte("[]"))
		case strings.HasSuffix(r.URL.Path, "/images/load"):
			_, _ = io.Copy(io.Discard, r.Body)
			events = append(events, fmt.Sprintf("loading with %d beside %s", len(marks)-2, marks[checkMark]))
			if gives == "" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			has[gives] = true
			_, _ = fmt.Fprintf(w, `{"stream":"Loaded image ID: %s"}`, gives)
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.41")
		case has[image]:
			_, _ = fmt.Fprintf(w, `{"Id":%q}`, image)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	defer engine.Close()
	var c *checkImage
	start := func() (err error) { c, err = newCheckImage(t.Context(), engine, program, marks); return err }
	for _, s := range []struct {
		name, gives string
		do          func() error
		want        []string
		mark        string
	}{
		{"a load that fails", "", start, []string{"loading with 1 beside " + old}, old},
		{"the next start", own, start, []string{"loading with 1 beside " + old, "removed " + old}, own},
		{"a start with the same program", own, start, []string{"loading with 1 beside " + own}, own},
		{"the engine has it", "", func() error { _, err := c.ensure(t.Context()); return err }, nil, own},
		{"the owner removed it", other, func() error {
			mu.Lock()
			delete(has, own)
			mu.Unlock()
			_, err := c.ensure(t.Context())
			return err
		}, []string{"loading with 1 beside " + own}, other},
		{"the end", "", func() error { return c.remove() }, []string{"removed " + other}, ""},
	} {
		mu.Lock()
		gives, events = s.gives, nil
		mu.Unlock()
		err := s.do()
		mu.Lock()
		if failed := s.mark == old; (err != nil) != failed || !slices.Equal(events, s.want) || marks[checkMark] != s.mark || (len(marks) > 2) != failed {
			t.Errorf("%s: %q, want %q, and the marks %q; %v", s.name, events, s.want, marks, err)
		}
		mu.Unlock()
	}
}
