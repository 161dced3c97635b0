package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/localnet"
	"basilica/status"
	"basilica/subtensor"
)

// LocalnetConfig is section [localnet]: the embedded development chain.
type LocalnetConfig struct {
	// Listen is where JSON-RPC is answered, over WebSocket and HTTP. Whoever reaches it may send extrinsics; keep it on
	// loopback.
	Listen string `toml:"listen"`
	// Hosts are further names under which programs may call the chain's doors. Addresses and localhost always may; a web page
	// that re-pointed a name of its own to this machine may not.
	Hosts []string `toml:"hosts"`
	// StatusListen is where /health, /metrics and /api/v1/status are answered; empty: nowhere.
	StatusListen string `toml:"status_listen"`
	// DataDir keeps the chain. Empty: the chain ends with the process.
	DataDir string `toml:"data_dir"`
	// BlockTime is the time between two blocks, in whole milliseconds, 20ms to 1m.
	BlockTime Duration `toml:"block_time"`
	// Manual leaves the making of blocks to clients: one for each call of the JSON-RPC method engine_createBlock. The
	// chain's time moves by block_time at least with every block.
	Manual bool `toml:"manual"`
	// Tempo is the length of the epoch of a new chain's subnet, in blocks.
	Tempo uint16 `toml:"tempo"`
	// NetUID numbers the subnet in the genesis. A chain that is continued must have that subnet.
	NetUID basilica.NetUID `toml:"netuid"`
	// Genesis is a TOML file that says what a new chain begins with, in place of tempo and netuid: accounts, subnets with their
	// hyperparameters and neurons, stakes. Empty: development accounts and one subnet. localnet/README.md describes it.
	Genesis string `toml:"genesis"`
	// Pulses is a file with pulses of the public quicknet beacon, as a drand node gives them: a new chain follows that beacon
	// and opens what official clients seal. Empty: the chain has a beacon of its own, which only our client knows.
	Pulses string `toml:"pulses"`
}

// Validate checks what can be checked without a machine.
func (c *LocalnetConfig) Validate() error {
	if c.Listen == "" {
		return invalid("localnet.listen", "is empty", `set it, e.g. listen = "127.0.0.1:9944"`)
	}
	if d := time.Duration(c.BlockTime); d < 20*time.Millisecond || d > time.Minute || d%time.Millisecond != 0 {
		return invalid("localnet.block_time", fmt.Sprintf("%s is not a whole number of milliseconds from 20ms to 1m", d), `set it, e.g. block_time = "250ms"`)
	}
	if c.Tempo == 0 || c.NetUID == 0 {
		return invalid("localnet.tempo, localnet.netuid", "must be at least 1", "set both, e.g. tempo = 20 and netuid = 39")
	}
	return nil
}

// Localnet is the wired development chain.
type Localnet struct {
	chain  *localnet.Chain
	server *subtensor.Server
	status *status.Server
	rpc    net.Listener
	door   net.Listener // of status; nil: none
	manual bool
	deps   Deps
}

// NewLocalnet makes or continues the chain and opens its doors.
func NewLocalnet(ctx context.Context, cfg LocalnetConfig, deps Deps) (_ *Localnet, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Localnet{manual: cfg.Manual, deps: deps}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.rpc, err = listen(ctx, "localnet", "localnet.listen", cfg.Listen); err != nil {
		return nil, err
	}
	if cfg.StatusListen != "" {
		if l.door, err = listen(ctx, "localnet's status door", "localnet.status_listen", cfg.StatusListen); err != nil {
			return nil, err
		}
	}
	made := localnet.Config{NetUID: uint16(cfg.NetUID), BlockTime: time.Duration(cfg.BlockTime), Tempo: cfg.Tempo, Clock: deps.Now, Log: deps.Log}
	if cfg.Genesis != "" {
		path, err := expandHome(cfg.Genesis)
		if err != nil {
			return nil, err
		}
		if made.Genesis, err = localnet.ReadGenesis(path); err != nil {
			return nil, err
		}
	}
	if cfg.Pulses != "" {
		if made.Pulses, err = readPulses(cfg.Pulses); err != nil {
			return nil, err
		}
	}
	if cfg.DataDir != "" {
		data, err := expandHome(cfg.DataDir)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
		made.Path = filepath.Join(data, "chain")
	}
	if l.chain, err = localnet.New(made); err != nil {
		return nil, err
	}
	door := subtensor.ServerConfig{Version: Version(), Hosts: cfg.Hosts}
	if cfg.Manual {
		door.Seal = l.chain.Seal
	}
	l.server = subtensor.NewServer(l.chain, l.chain, door, deps.Log)
	l.status = status.New("localnet", Version(), l.health, func(context.Context) (any, error) {
		return map[string]any{"genesis": l.chain.Genesis(), "head": l.chain.Head(), "pending": len(l.chain.Pending())}, nil
	})
	l.status.AllowHosts(cfg.Hosts)
	return l, nil
}

func readPulses(path string) (_ []localnet.Pulse, err error) {
	if path, err = expandHome(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "LOCALNET_PULSES", path+" cannot be read", "name a file that is there and readable").With(err)
	}
	defer f.Close()
	return localnet.ReadPulses(f)
}

// health is a chain that goes on, as far as that is not left to clients: its head is young.
func (l *Localnet) health(ctx context.Context) error {
	if l.manual {
		return nil
	}
	head := l.chain.Head()
	if _, err := l.chain.NextHead(ctx, head.Number); err != nil {
		return basilica.E(basilica.Unavailable, "CHAIN_STOPPED", fmt.Sprintf("no block came after block %d", head.Number), "restart the localnet and read its log").With(err)
	}
	return nil
}

// Run makes blocks and answers until ctx ends.
func (l *Localnet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	addrs := map[string]string{"rpc": l.rpc.Addr().String()}
	if !l.manual {
		group.Go(func() error { return l.chain.Run(ctx) })
	}
	group.Go(func() error { return l.server.Serve(ctx, l.rpc) })
	if l.door != nil {
		addrs["status"] = l.door.Addr().String()
		group.Go(func() error { return l.status.Serve(ctx, l.door) })
	}
	l.deps.Ready(addrs)
	return group.Wait()
}

// Close releases what New took.
func (l *Localnet) Close() error {
	var errs []error
	for _, ln := range []net.Listener{l.rpc, l.door} {
		if ln != nil {
			errs = append(errs, ignoreClosed(ln.Close()))
		}
	}
	if l.chain != nil {
		errs = append(errs, l.chain.Close())
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// defaultLocalnet is a chain as the architecture guide has it.
func defaultLocalnet() LocalnetConfig {
	return LocalnetConfig{Listen: "127.0.0.1:9944", StatusListen: "127.0.0.1:9945", BlockTime: Duration(250 * time.Millisecond), Tempo: 20, NetUID: 39}
}
