package basilica_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "basilica"

// floors is the plan of the house: a room imports only rooms on lower floors. The root package is "".
var floors = map[string]int{
	"keys": 0, "pki": 0, "scale": 0, "timelock": 0, "shield": 0, "wire/wirepb": 0, "attest/attestpb": 0, "nvidia/kernels": 0, "internal/vectors": 0, "internal/crashpoint": 0, "internal/pty": 0,
	"":       1,
	"pallet": 2, "yuma": 2, "attest": 2, "score": 2, "internal/gate": 2, "internal/provoke": 2, "internal/fakecuda": 2,
	"validator": 3, "miner": 3, "executor": 3, "client": 3, "localnet": 3,
	"subtensor": 3, "axon": 3, "wire": 3, "sshdoor": 3, "attestor": 3, "attest/adversary": 3, "rest": 3, "status": 3,
	"store": 3, "docker": 3, "nvidia": 3, "tpm": 3, "hardware": 3, "admin": 3,
	"node":          4,
	"nvidia/ptxsim": 4, // for tests alone
	"cmd/basilica":  5, "cmd/gpu-attestor": 5, "internal/testnet": 5, "internal/testnet/escape": 5, "internal/official": 5,
}

// pure rooms compute on paper: no files, no network, no clock of their own, no processes.
var pure = []string{"yuma", "attest", "score", "pallet", "timelock", "shield"}

var impure = []string{"os", "os/exec", "net", "net/http", "io/ioutil", "database/sql", "syscall", "golang.org/x/sys/unix"}

// importers names the only rooms that may link a heavy or dangerous dependency.
var importers = map[string][]string{
	"github.com/ebitengine/purego": {"nvidia"},
	"modernc.org/sqlite":           {"store"},
	"github.com/moby/moby/client":  {"docker"},
	"google.golang.org/grpc":       {"wire", "wire/wirepb"},
	"golang.org/x/crypto/ssh":      {"sshdoor", "pki", "validator", "executor", "node"},
	"github.com/spf13/cobra":       {"cmd/basilica", "cmd/gpu-attestor"},

	"github.com/consensys/gnark-crypto": {"timelock"},
}

// onlyFrom names the only rooms whose code may import a room; test files are not asked. Lying devices stay where they
// belong; recorded vectors and the PTX interpreter are for tests alone.
var onlyFrom = map[string][]string{
	"attest/adversary":  {"cmd/gpu-attestor"},
	"nvidia":            {"cmd/gpu-attestor", "nvidia/ptxsim"},
	"nvidia/kernels":    {"nvidia", "cmd/gpu-attestor"},
	"nvidia/ptxsim":     {},
	"internal/vectors":  {},
	"internal/provoke":  {},
	"internal/fakecuda": {},
	"internal/pty":      {},
}

// faults holds what is wrong with one import of one room, by the rules above; empty where nothing is.
func faults(room, path string) []string {
	var bad []string
	if path == module || strings.HasPrefix(path, module+"/") {
		target := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		from, known := floors[room]
		to, targetKnown := floors[target]
		switch {
		case !targetKnown:
			bad = append(bad, fmt.Sprintf("imports %q, a room without a floor", target))
		case known && to >= from:
			bad = append(bad, fmt.Sprintf("floor %d imports %q on floor %d", from, target, to))
		}
		if allowed, ok := onlyFrom[target]; ok && !slices.Contains(allowed, room) {
			bad = append(bad, fmt.Sprintf("imports %q, which only %v and test files may", target, allowed))
		}
		return bad
	}
	if slices.Contains(pure, room) && slices.Contains(impure, path) {
		bad = append(bad, fmt.Sprintf("is pure and imports %q", path))
	}
	for dep, allowed := range importers {
		if (path == dep || strings.HasPrefix(path, dep+"/")) && !slices.Contains(allowed, room) {
			bad = append(bad, fmt.Sprintf("imports %q, which only %v may", path, allowed))
		}
	}
	return bad
}

// TestFloors parses every Go file's imports itself: a cached `go list` would miss a violation added after it.
func TestFloors(t *testing.T) {
	rooms := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		room := filepath.ToSlash(filepath.Dir(path))
		if room == "." {
			room = ""
		}
		rooms[room] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			for _, bad := range faults(room, target) {
				t.Errorf("%s: %s", path, bad)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if _, ok := floors[room]; !ok {
			t.Errorf("room %q has no floor", room)
		}
	}
}

// TestFloorsSeesViolations shows that the rule can fail.
func TestFloorsSeesViolations(t *testing.T) {
	for _, c := range []struct{ room, path string }{
		{"validator", "basilica/store"},
		{"docker", "basilica/executor"},
		{"keys", "basilica/pki"},
		{"", "basilica/node"},
		{"miner", "basilica/nowhere"},
		{"attest", "net"},
		{"miner", "modernc.org/sqlite"},
		{"node", "basilica/attest/adversary"},
		{"node", "basilica/internal/vectors"},
		{"wire", "github.com/moby/moby/client"},
	} {
		if len(faults(c.room, c.path)) == 0 {
			t.Errorf("room %q may import %q", c.room, c.path)
		}
	}
	for _, c := range []struct{ room, path string }{{"node", "basilica/store"}, {"", "basilica/keys"}, {"store", "modernc.org/sqlite"}, {"cmd/basilica", "basilica/node"}} {
		if bad := faults(c.room, c.path); len(bad) != 0 {
			t.Errorf("room %q importing %q: %v", c.room, c.path, bad)
		}
	}
}

// TestPackageComments: every room says in its package comment what it is for.
func TestPackageComments(t *testing.T) {
	for room := range floors {
		dir := room
		if dir == "" {
			dir = "."
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		any, documented := false, false
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			any = true
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			generated := strings.HasSuffix(e.Name(), ".pb.go")
			documented = documented || generated || (file.Doc != nil && len(file.Doc.Text()) > 20)
		}
		if any && !documented {
			t.Errorf("room %q has no package comment", room)
		}
	}
}
