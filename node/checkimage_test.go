package node

import (
	"context"
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

// TestCheckImageIsOnRecordFirst: once the engine hears of the check's image, a process that comes after this one knows it, and
// the one before it is gone.
func TestCheckImageIsOnRecordFirst(t *testing.T) {
	program, err := findBusybox()
	check(t, err)
	var mu sync.Mutex // guards what follows
	var events []string
	marks := marksBook{checkMark: "sha256:old"}
	engine := answeringEngine(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Method == http.MethodDelete:
			events = append(events, "removed "+path.Base(r.URL.Path))
			_, _ = w.Write([]byte("[]"))
		case strings.HasSuffix(r.URL.Path, "/images/load"):
			events = append(events, "loading with "+marks[checkMark])
			w.WriteHeader(http.StatusInternalServerError) // nothing after this is done
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.41")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	defer engine.Close()
	if _, err := newCheckImage(t.Context(), engine, program, marks); err == nil {
		t.Fatal("the engine took the image")
	}
	if want := []string{"removed sha256:old", "loading with " + marks[checkMark]}; !slices.Equal(events, want) || len(marks[checkMark]) != len("sha256:")+64 {
		t.Errorf("%q, want %q", events, want)
	}
}
