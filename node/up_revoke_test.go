package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"basilica"
	"basilica/admin"
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
