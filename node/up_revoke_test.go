package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
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

// TestRevokedMachineLeavesTheNetworkUp: a machine that its owner revoked ends, and takes nothing with it; any other part
// that ends by itself ends the network.
func TestRevokedMachineLeavesTheNetworkUp(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "miner"), 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := admin.Listen(filepath.Join(dir, "miner"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- admin.NewServer(fleetBook{revoked: "box-1"}, slog.New(slog.DiscardHandler)).Serve(ctx, ln)
	}()
	for name, want := range map[string]error{"box-1": nil, "box-2": errEnded} {
		n := &Network{cfg: UpConfig{Launcher: endedLauncher{}, Say: func(string) {}}, deps: Deps{Now: time.Now}, dir: dir}
		n.context, n.cancel = context.WithCancelCause(ctx)
		if _, err := n.start(n.context, "executor", name, ""); err != nil {
			t.Fatal(err)
		}
		n.watches.Wait()
		if cause := context.Cause(n.context); !errors.Is(cause, want) {
			t.Errorf("%s: the network's context ended for %v, want %v", name, cause, want)
		}
		n.cancel(nil)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
