// Package testnet runs the whole network as a test: in one process, built from node, and as real processes, seen from
// outside. It knows nothing that node does not wire.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"basilica/node"
)

// InProcess is a node.Launcher that runs every part in a goroutine of this process.
type InProcess struct {
	Log *slog.Logger
	Now func() time.Time
}

// role is a wired role, as node makes it.
type role interface {
	Run(ctx context.Context) error
	Close() error
}

// part is one running role.
type part struct {
	name   string
	cancel context.CancelFunc
	ended  chan struct{}
	addrs  map[string]string
	err    error // set before ended is closed
}

// PID implements node.Part: every part has this process's.
func (p *part) PID() int { return os.Getpid() }

// Addrs implements node.Part.
func (p *part) Addrs() map[string]string { return p.addrs }

// Ended implements node.Part.
func (p *part) Ended() <-chan struct{} { return p.ended }

// Failure implements node.Part.
func (p *part) Failure() error { return fmt.Errorf("%s ended by itself: %w", p.name, p.err) }

// Stop implements node.Part.
func (p *part) Stop() {
	p.cancel()
	<-p.ended
}

// Start implements node.Launcher.
func (l InProcess) Start(ctx context.Context, roleName, name, config, _ string) (node.Part, error) {
	cfg := node.DefaultConfig()
	if err := node.LoadConfig(config, nil, &cfg); err != nil {
		return nil, err
	}
	ready := make(chan map[string]string, 1)
	var once sync.Once
	deps := node.Deps{Log: l.Log.With("part", name), Now: l.Now, Ready: func(addrs map[string]string) { once.Do(func() { ready <- addrs }) }}
	r, err := open(ctx, roleName, cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, ended: make(chan struct{})}
	go func() {
		p.err = errors.Join(r.Run(life), r.Close())
		close(p.ended)
	}()
	select {
	case p.addrs = <-ready:
		return p, nil
	case <-p.ended:
		cancel()
		return nil, fmt.Errorf("start %s: %w", name, p.err)
	case <-ctx.Done():
		p.Stop()
		return nil, context.Cause(ctx)
	}
}

func open(ctx context.Context, name string, cfg node.Config, deps node.Deps) (role, error) {
	switch name {
	case "localnet":
		return node.NewLocalnet(ctx, cfg.Localnet, deps)
	case "miner":
		cfg.Miner.Chain = cfg.Chain
		return node.NewMiner(ctx, cfg.Miner, deps)
	case "executor":
		return node.NewExecutor(ctx, cfg.Executor, deps)
	case "validator":
		cfg.Validator.Chain = cfg.Chain
		return node.NewValidator(ctx, cfg.Validator, deps)
	}
	return nil, fmt.Errorf("%q is no role of a network", name)
}

// Join implements node.Launcher.
func (l InProcess) Join(ctx context.Context, name, config, token string) error {
	cfg := node.DefaultConfig()
	if err := node.LoadConfig(config, nil, &cfg); err != nil {
		return err
	}
	_, err := node.Join(ctx, node.JoinConfig{Token: token, Name: name, Executor: cfg.Executor, ConfigPath: config}, node.Deps{Log: l.Log, Now: l.Now})
	return err
}

// Close implements node.Launcher.
func (l InProcess) Close() error { return nil }
