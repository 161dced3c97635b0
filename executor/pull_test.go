package executor

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"basilica"
	"basilica/docker"
	"basilica/hardware"
)

// pushed puts an image into a registry of this process and gives its reference by digest.
func pushed(t testing.TB, program []byte) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(s.Close)
	send := func(method, path, kind string, content []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, path, res.Status)
		}
	}
	parts := map[string]any{}
	for r := tar.NewReader(bytes.NewReader(imageFile(t, program))); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		digest := "sha256:" + basilica.Digest(sha256.Sum256(content)).String()
		parts[h.Name] = map[string]any{"digest": digest, "size": len(content)}
		send(http.MethodPost, "/v2/jobs/blobs/uploads/?digest="+digest, "application/octet-stream", content)
	}
	kind := "application/vnd.oci.image.manifest.v1+json"
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": parts["config.json"], "layers": []any{parts["layer0.tar"]}})
	if err != nil {
		t.Fatal(err)
	}
	send(http.MethodPut, "/v2/jobs/manifests/latest", kind, text)
	return strings.TrimPrefix(s.URL, "http://") + "/jobs@sha256:" + basilica.Digest(sha256.Sum256(text)).String()
}

// An image from a registry stays while a task needs it, over a restart too, and some time longer; then it goes, and it goes
// with the executor. Strangers name such images: whatever stayed would fill the disk.
func TestPulledImagesGo(t *testing.T) {
	t.Parallel()
	var later atomic.Int64 // by how much time has passed more than it has
	b := newBox(t, func(c *Config) {
		c.KeepTasks = true
		c.Engine.(*docker.Engine).Images = docker.Images{AllowPrivate: true, Dir: t.TempDir()}
		c.Uptime = func() time.Duration { return hardware.Uptime() + time.Duration(later.Load()) }
	})
	spec := func(s *basilica.TaskSpec) { s.Image = pushed(t, busybox(t)) }
	text := b.spec(spec, "/busybox sleep 60")
	if _, err := b.execute("job", text); err != nil {
		t.Fatal(err)
	}
	id := b.runsNow(t, "job").ImageID
	here := func() bool {
		_, err := b.engine.EnsureImage(t.Context(), id, nil, nil)
		if err != nil && basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
			t.Error(err)
		}
		return err == nil
	}
	b.stop()
	b.start(t)
	if err := b.Cancel(t.Context(), "job", 1); err != nil {
		t.Fatal(err)
	}
	b.watch(t, "job", 0)
	b.tidy(t.Context())
	if !here() {
		t.Error("it went at once")
	}
	later.Add(int64(unusedImages))
	b.tidy(t.Context())
	if here() {
		t.Error("it stays for ever")
	}
	if loaded, err := b.cfg.Marks.LoadedImages(t.Context()); err != nil || len(loaded) != 0 {
		t.Errorf("marks %v %v", loaded, err)
	}
	if _, err := b.execute("again", text); err != nil {
		t.Fatal(err)
	}
	if got := b.runsNow(t, "again").ImageID; got != id {
		t.Errorf("pulled again: %s, before %s", got, id)
	}
	if err := b.Cancel(t.Context(), "again", 1); err != nil {
		t.Fatal(err)
	}
	b.watch(t, "again", 0)
	b.stop()
	if here() {
		t.Error("it outlives the executor")
	}
}
