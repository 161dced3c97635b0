package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"basilica"
)

// TestContainerdStore: an engine that keeps images with containerd fills that one's disk.
func TestContainerdStore(t *testing.T) {
	t.Parallel()
	const full = "/proc" // has no room
	config := t.TempDir() + "/config.toml"
	if err := os.WriteFile(config, []byte("version = 2\n#root = \"/a\"\nroot = \"/proc\"\nstate = \"/b\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, b := containerdDir(config), containerdDir(config+".none"); a != full || b != "/var/lib/containerd" {
		t.Errorf("%s %s", a, b)
	}
	root := t.TempDir()
	for driver, want := range map[string]string{"io.containerd.snapshotter.v1": full, "other": root} {
		e := answering(t, fmt.Sprintf(`{"ServerVersion":"29.0.0","DockerRootDir":%q,"DriverStatus":[["driver-type",%q]]}`, root, driver))
		e.containerd = full
		limit, err := e.imageLimit(t.Context(), 1)
		if err != nil || (limit == 0) != (want == full) {
			t.Errorf("%s: limit %d %v", driver, limit, err)
		}
		if about, err := e.About(t.Context()); err != nil || about.Root != want {
			t.Errorf("%s: %+v %v", driver, about, err)
		}
	}
}

// TestEngineDiskAtFault: a load that fails at the engine's disk is not blamed on the image, whatever names the image brings.
func TestEngineDiskAtFault(t *testing.T) {
	t.Parallel()
	id := "sha256:" + strings.Repeat("1", 64)
	for said, code := range map[string]string{
		"write /a: no space left on device": "DISK_FULL",
		"failed to register layer: ApplyLayer exit status 1 stderr: write /a: no space left on device": "DISK_FULL",
		"failed to unpack: mkdir /var/lib/containerd/x: read-only file system: unknown":                "STORE_DISK",
		"read /a: input/output error\n":                                            "STORE_DISK",
		"open /x: no space left on device/y: invalid argument":                     "IMAGE_FILE",
		"layers from manifest don't match image configuration":                     "IMAGE_FILE",
		"Error unpacking image " + id + ": wrong diff id calculated on extraction": "IMAGE_FILE",
		"Error unpacking image " + id + ": write /a: no space left on device":      "DISK_FULL",
	} {
		removed := false
		e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/images/load") {
				_, _ = io.Copy(io.Discard, r.Body)
				if !strings.HasPrefix(said, "Error unpacking") {
					_ = json.NewEncoder(w).Encode(map[string]any{"errorDetail": map[string]string{"message": said}})
					return
				}
				_ = json.NewEncoder(w).Encode(map[string]string{"stream": "Loaded image ID: " + id + "\n"})
				_ = json.NewEncoder(w).Encode(map[string]string{"stream": said + "\n"})
				return
			}
			w.Header().Set("Content-Type", "application/json")
			switch {
			case strings.HasSuffix(r.URL.Path, "/info"):
				fmt.Fprintf(w, `{"DockerRootDir":%q}`, os.TempDir())
			case !strings.Contains(r.URL.Path, id):
				w.WriteHeader(http.StatusNotFound)
			case r.Method == http.MethodDelete:
				removed = true
				fmt.Fprint(w, `[]`)
			default:
				fmt.Fprintf(w, `{"Id":%q}`, id)
			}
		})
		var image bytes.Buffer
		if err := BinaryImage(&image, "x", strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
		if _, err := e.LoadImage(t.Context(), bytes.NewReader(image.Bytes()), nil); basilica.CodeOf(err) != code || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v, want %s", said, err, code)
		}
		if removed != strings.HasPrefix(said, "Error unpacking") {
			t.Errorf("%s: removed %t", said, removed)
		}
	}
}

// TestRoom: what an engine's disk lacks is told; one that is not seen from here is not, nor one of which the engine says nothing.
func TestRoom(t *testing.T) {
	t.Parallel()
	for dir, codes := range map[string][2]string{t.TempDir(): {"", "DISK_FULL"}, "/nowhere": {"", ""}} {
		e := answering(t, fmt.Sprintf(`{"DockerRootDir":%q}`, dir))
		for i, least := range []int64{1, 1 << 62} {
			if err := e.Room(t.Context(), least); basilica.CodeOf(err) != codes[i] {
				t.Errorf("%s, %d: %v", dir, least, err)
			}
		}
	}
	broken := speaking(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if err := broken.Room(t.Context(), 1<<62); err != nil {
		t.Error(err)
	}
}
