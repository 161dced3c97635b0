package docker

import (
	"fmt"
	"os"
	"testing"
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
