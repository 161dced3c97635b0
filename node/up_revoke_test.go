package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/admin"
	"basilica/docker"
	"basilica/executor"
	"basilica/keys"
)

// fleetBook is a miner's fleet of which one member is revoked.
type fleetBook struct {
	admin.Fleet
	revoked basilica.ExecutorID
}

func (f fleetBook) Member(_ context.Context, id basilica.ExecutorID) (basilica.MemberView, error) {
	v := basilica.MemberView{Member: basilica.Member{Executor: id}}
	if id == f.revoked {
		at := time.Now()
		v.Revoked = &at
	}
	return v, nil
}

// Members implements admin.Fleet: every machine of the network is enrolled.
func (f fleetBook) Members(ctx context.Context, _ string, _ int) (page basilica.MemberPage, err error) {
	for _, id := range boxIDs() {
		v, err := f.Member(ctx, id)
		if err != nil {
			return page, err
		}
		page.Executors = append(page.Executors, v)
	}
	return page, nil
}

// CreateToken implements admin.Fleet; the token is the name.
func (fleetBook) CreateToken(_ context.Context, name basilica.ExecutorID, _ time.Duration) (string, basilica.TokenRecord, error) {
	return string(name), basilica.TokenRecord{Name: name}, nil
}

// endedPart has ended by itself.
type endedPart struct{ apiAt }

var errEnded = errors.New("it ended by itself")

func (endedPart) Ended() <-chan struct{} {
	ended := make(chan struct{})
	close(ended)
	return ended
}
func (endedPart) Failure() error { return errEnded }

// endedLauncher starts parts that end at once.
type endedLauncher struct{ Launcher }

func (endedLauncher) Start(context.Context, string, string, string, string) (Part, error) {
	return endedPart{}, nil
}

// joinLauncher notes who is to join with which token.
type joinLauncher struct {
	endedLauncher
	joins *[]string
}

func (l joinLauncher) Join(_ context.Context, name, _, token string) error {
	*l.joins = append(*l.joins, name+" with "+token)
	return nil
}

// serveFleet serves the administration door of a miner's data directory until the test ends.
func serveFleet(t *testing.T, dataDir string, fleet admin.Fleet) {
	t.Helper()
	check(t, os.MkdirAll(dataDir, 0o700))
	ln, err := admin.Listen(dataDir)
	check(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- admin.NewServer(fleet, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestRevokedMachineLeavesTheNetworkUp: a machine that its owner revoked ends, and takes nothing with it; any other part
// that ends by itself ends the network.
func TestRevokedMachineLeavesTheNetworkUp(t *testing.T) {
	dir := t.TempDir()
	serveFleet(t, filepath.Join(dir, "miner"), fleetBook{revoked: "box-1"})
	for name, want := range map[string]error{"box-1": nil, "box-2": errEnded} {
		n := &Network{cfg: UpConfig{Launcher: endedLauncher{}, Say: func(string) {}}, deps: Deps{Now: time.Now}, dir: dir}
		n.context, n.cancel = context.WithCancelCause(t.Context())
		if _, err := n.start(n.context, "executor", name, ""); err != nil {
			t.Fatal(err)
		}
		n.watches.Wait()
		if cause := context.Cause(n.context); !errors.Is(cause, want) {
			t.Errorf("%s: the network's context ended for %v, want %v", name, cause, want)
		}
		n.cancel(nil)
	}
}

// TestJoinThatWasCutOffIsDoneAgain: a machine that its miner lists and that has no identity joins again, one with both does not.
func TestJoinThatWasCutOffIsDoneAgain(t *testing.T) {
	dir := t.TempDir()
	serveFleet(t, filepath.Join(dir, "miner"), fleetBook{})
	check(t, os.Mkdir(filepath.Join(dir, "box-2"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "box-2", identityFile), []byte("{}"), 0o600))
	var joins []string
	n := &Network{cfg: UpConfig{Launcher: joinLauncher{joins: &joins}, Say: func(string) {}}, deps: Deps{Now: time.Now}, dir: dir}
	n.context, n.cancel = context.WithCancelCause(t.Context())
	defer n.cancel(nil)
	check(t, n.startBoxes(t.Context()))
	n.watches.Wait()
	if !slices.Equal(joins, []string{"box-1 with box-1"}) {
		t.Errorf("joined: %q", joins)
	}
}

// answeringEngine is an engine that answers as the test wants.
func answeringEngine(t *testing.T, answer http.HandlerFunc) *docker.Engine {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "engine")
	ln, err := net.Listen("unix", socket)
	check(t, err)
	s := &http.Server{Handler: answer}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	e, err := docker.New("unix://"+socket, slog.New(slog.DiscardHandler))
	check(t, err)
	return e
}

// TestCloseRemovesContainers: what a killed executor of this run left on the engine goes, and nothing of others.
func TestCloseRemovesContainers(t *testing.T) {
	dir := t.TempDir()
	labels := map[string]string{}
	for _, id := range boxIDs() {
		check(t, os.Mkdir(filepath.Join(dir, string(id)), 0o700))
		key, err := keys.CreateP256(filepath.Join(dir, string(id), executorKeyFile))
		check(t, err)
		labels[`{"label":{"`+executor.LabelMachine+"="+machineLabel(key)+`":true}}`] = string(id)
	}
	var mu sync.Mutex // guards removed
	var removed []string
	engine := answeringEngine(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			mu.Lock()
			defer mu.Unlock()
			removed = append(removed, path.Base(r.URL.Path))
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `[{"Id":"of-%s","State":"running"}]`, labels[r.URL.Query().Get("filters")])
		default:
			w.Header().Set("Api-Version", "1.41")
		}
	})
	n := &Network{cfg: UpConfig{Say: func(string) {}}, deps: Deps{Now: time.Now}, dir: dir, keep: true, engine: engine}
	n.context, n.cancel = context.WithCancelCause(t.Context())
	n.parts = []running{{endedPart{}, "executor", "box-2"}} // box-1 never started here
	check(t, n.Close())
	if !slices.Equal(removed, []string{"of-box-2"}) {
		t.Errorf("removed %q", removed)
	}
}
