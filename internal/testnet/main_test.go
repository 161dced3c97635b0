package testnet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// The programs under test, built once: paths.
const (
	programName  = "basilica"
	attestorName = "gpu-attestor"
	cheatName    = "gpu-attestor-cheat"
)

// binaries is the directory of the built programs; it is written before any test runs and never after.
var binaries string

func program(name string) string { return filepath.Join(binaries, name) }

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "basilica-testnet-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	var builds errgroup.Group
	for _, b := range [][]string{
		{programName, "./cmd/basilica"},
		{attestorName, "./cmd/gpu-attestor"},
		{cheatName, "-tags", "adversary", "./cmd/gpu-attestor"},
		{crashName, "-tags", "crash", "./cmd/basilica"},
	} {
		builds.Go(func() error {
			build := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, b[0])}, b[1:]...)...)
			build.Dir = filepath.Join("..", "..")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if said, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", b[0], err, said)
			}
			return nil
		})
	}
	if err := builds.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	return m.Run()
}

// needEngine skips a test where no container engine or busybox is, and fails it instead where CI has installed them.
func needEngine(t *testing.T) {
	t.Helper()
	missing := ""
	if err := exec.Command("docker", "version").Run(); err != nil {
		missing = "no container engine: scripts/dockerd.sh start"
	} else if _, err := exec.LookPath("busybox"); err != nil {
		missing = "no busybox: apt-get install busybox-static"
	}
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

// leftovers names what is still there of a network with that data directory and those machines.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, dir) {
			left = append(left, "mount: "+line)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), dir) {
			left = append(left, "process: "+path+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	// Containers bind directories of their machine's work, beneath the data directory.
	ids, err := exec.Command("docker", "ps", "-aq", "--no-trunc").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range strings.Fields(string(ids)) {
		about, err := exec.Command("docker", "inspect", id).Output()
		if err == nil && strings.Contains(string(about), dir) {
			left = append(left, "container: "+id)
		}
	}
	return left
}
