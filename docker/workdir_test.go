package docker

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"basilica"
)

// holding is an engine whose containers hold links alone; where a link says nothing a folder stands. What lies beneath a file
// cannot be looked at, and engines say why to whoever reads but not to whoever asks for the state.
func holding(t *testing.T, links map[string]string) *Engine {
	t.Helper()
	return speaking(t, func(w http.ResponseWriter, r *http.Request) {
		at := r.URL.Query().Get("path")
		to, there := links[at]
		if strings.HasPrefix(at, "/file/") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			if r.Method == http.MethodGet {
				fmt.Fprint(w, `{"message":"lstat /file/x: not a directory"}`)
			}
			return
		}
		if !there {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		mode := fs.ModeDir | 0o755
		if to != "" {
			mode = fs.ModeSymlink | 0o777
		}
		stat, err := json.Marshal(container.PathStat{Name: path.Base(at), Mode: mode})
		if err != nil {
			panic(err)
		}
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
		if r.Method == http.MethodGet {
			_, _ = w.Write(tarOf(t, entry{tar.Header{Name: path.Base(at), Typeflag: tar.TypeSymlink, Linkname: to}, ""}))
		}
	})
}

// TestWorkdirThroughLinks: links may lead to a WORKDIR, but not into the kernel's file systems.
func TestWorkdirThroughLinks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir   string
		links map[string]string
		code  string
	}{
		{"/w", map[string]string{"/w": "/proc/self/fd/8"}, "IMAGE_WORKDIR"},
		{"w", map[string]string{"/w": "proc/self/fd/8"}, "IMAGE_WORKDIR"},
		{"/a/b/w", map[string]string{"/a": "", "/a/b": "", "/a/b/w": "../../../../proc/1/cwd"}, "IMAGE_WORKDIR"},
		{"/w/fd/8", map[string]string{"/w": "/proc/self"}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "x/8", "/x": "//proc/./self/fd"}, "IMAGE_WORKDIR"},
		{"/w/proc/self", map[string]string{"/w": "/"}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "/dev/fd/8"}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "/sys"}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "/tmp/../proc/self"}, "IMAGE_WORKDIR"}, // there is a /tmp when the container runs
		{"/w", map[string]string{"/w": "/proc/self/fd/8", "/proc": "", "/proc/self": "/safe", "/safe": ""}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "w"}, "IMAGE_WORKDIR"},
		{"/w", map[string]string{"/w": "a", "/a": "w/b"}, "IMAGE_WORKDIR"},
		{"/file/x", map[string]string{"/file": ""}, "CONTAINER_PATHS"},
		{"", nil, ""},
		{"/", nil, ""},
		{"/new/folder", nil, ""},
		{"/srv/dev", map[string]string{"/srv": "", "/srv/dev": ""}, ""},
		{"/bin", map[string]string{"/bin": "usr/bin"}, ""},
		{"/var/run/app", map[string]string{"/var": "", "/var/run": "/run", "/run": ""}, ""},
		{"/home/me", map[string]string{"/home": "var/home", "/var": "", "/var/home": "", "/var/home/me": "../../srv/process"}, ""},
	} {
		err := holding(t, c.links).enterable(t.Context(), "c", c.dir)
		if basilica.CodeOf(err) != c.code || (err == nil) != (c.code == "") || err != nil && basilica.FixOf(err) == "" {
			t.Errorf("WORKDIR %s, links %v: %v, want %q", c.dir, c.links, err, c.code)
		}
	}
}

// TestWorkdirLinksInTheEngine: the same with an engine's own word, and a container that is refused is not left behind.
func TestWorkdirLinksInTheEngine(t *testing.T) {
	t.Parallel()
	e := engine(t)
	for to, code := range map[string]string{"/proc/self/fd/8": "IMAGE_WORKDIR", "bin/../proc": "IMAGE_WORKDIR", "usr/here": "", "/nowhere": ""} {
		layer := tarOf(t, entry{tar.Header{Name: "bin/busybox", Mode: 0o755}, string(busybox(t))}, entry{tar.Header{Name: "usr/here/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
			entry{tar.Header{Name: "w", Typeflag: tar.TypeSymlink, Linkname: to}, ""})
		config := strings.ReplaceAll(configOf(runtime.GOARCH, 1), "sha256:"+strings.Repeat("1", 64), digestOf(layer))
		config = strings.Replace(config, "{", `{"config":{"WorkingDir":"/w"},`, 1)
		image := load(t, e, tarOf(t, file("c.json", config), file("l.tar", string(layer)), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`)))
		if code == "" {
			if end, text, _ := job(t, e, image, nil, "/bin/busybox", "pwd"); end.ExitCode != 0 || text != path.Join("/", to)+"\n" {
				t.Errorf("link to %s: %+v %q", to, end, text)
			}
			continue
		}
		name := fmt.Sprintf("basilica-test-link-%d", os.Getpid())
		id, err := e.Create(t.Context(), basilica.ContainerSpec{
			Name: name, Image: image, Command: []string{"/bin/busybox"}, CPUMillis: 100, MemoryBytes: 32 << 20, Pids: 8, LogBytes: 1 << 20, Labels: map[string]string{"basilica.link": name},
		})
		if basilica.CodeOf(err) != code {
			t.Errorf("link to %s: %s %v", to, id, err)
		}
		if left, err := e.List(context.Background(), "basilica.link", name); err != nil || len(left) != 0 {
			t.Errorf("link to %s: left %+v %v", to, left, err)
		}
	}
}
