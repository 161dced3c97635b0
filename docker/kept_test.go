package docker

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"basilica"
)

// broken is a disk that takes nothing more.
type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// TestLayerThatCannotBeKept: what this machine's disk refuses is not the registry's fault, nor the client's.
func TestLayerThatCannotBeKept(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("layer", 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, content) }))
	t.Cleanup(s.Close)
	ref, err := parseReference(strings.TrimPrefix(s.URL, "http://") + "/a@" + digestOf([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	g, err := newRegistry(ref, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	d := descriptor{Digest: digestOf([]byte(content)), Size: int64(len(content))}
	for err, want := range map[error]string{syscall.ENOSPC: "DISK_FULL", syscall.EDQUOT: "DISK_FULL", syscall.EROFS: "IMAGE_UNREAD", syscall.EIO: "IMAGE_UNREAD"} {
		got := g.blob(t.Context(), d, broken{err})
		if basilica.CodeOf(got) != want || basilica.KindOf(got) == basilica.Unavailable || !errors.Is(got, err) || basilica.FixOf(got) == "" {
			t.Errorf("%v: %v, want %s", err, got, want)
		}
	}
	if err := g.blob(t.Context(), d, io.Discard); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := g.blob(t.Context(), d, io.Discard); basilica.CodeOf(err) != "IMAGE_REGISTRY" {
		t.Errorf("registry away: %v", err)
	}
}
