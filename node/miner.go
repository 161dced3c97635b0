package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/admin"
	"basilica/axon"
	"basilica/keys"
	"basilica/miner"
	"basilica/pki"
	"basilica/status"
	"basilica/store"
	"basilica/subtensor"
	"basilica/wire"
)

// MinerConfig is section [miner].
type MinerConfig struct {
	// DataDir holds the miner's database, authority, TLS key, blobs, logs and administration socket. Losing it loses the
	// fleet: every executor would have to join again.
	DataDir string `toml:"data_dir"`
	// Hotkey is the registered key: the path of a plain key file, or //Name on a development chain.
	Hotkey string `toml:"hotkey"`
	// AxonListen is where the public HTTPS door listens.
	AxonListen string `toml:"axon_listen"`
	// AxonAdvertise is the ip:port under which the world reaches that door; it is published on chain. Port 0 is the port that
	// AxonListen took. Empty is AxonListen, which must then name an address.
	AxonAdvertise string `toml:"axon_advertise"`
	// AxonBridge lets callers that know the Dendrite of the Bittensor SDKs 6 to 10 alone use that door: in plain HTTP, where
	// whoever sits between can read along and answer in the miner's place. Leave it off outside of a development network.
	AxonBridge bool `toml:"axon_bridge"`
	// FleetListen is where executors reach the miner.
	FleetListen string `toml:"fleet_listen"`
	// FleetAdvertise is the host:port that join tokens name. Port 0 is the port that FleetListen took. Empty is FleetListen, or
	// where that names every address, the advertised address of the axon with the port of FleetListen.
	FleetAdvertise string `toml:"fleet_advertise"`
	// StatusListen is where /health, /metrics and /api/v1/status are; keep it on loopback.
	StatusListen string `toml:"status_listen"`
	// Compute says who may submit tasks: "open" to every hotkey, "allow-list", or "closed".
	Compute string `toml:"compute"`
	// AllowList holds the client hotkeys that an allow-list serves.
	AllowList []basilica.Hotkey `toml:"allow_list"`
	// MinValidatorStake in rao is what a validator needs beside its permit; 0 asks for the permit alone.
	MinValidatorStake basilica.Rao `toml:"min_validator_stake"`
	// AllowPrivateExecutors lets executors join from loopback and private addresses: a fleet beside the miner, or a
	// development network. The miner dials what the holder of a join token names.
	AllowPrivateExecutors bool `toml:"allow_private_executors"`
	// BlobBytes bounds all stored inputs and outputs together.
	BlobBytes ByteSize `toml:"blob_bytes"`
	// LostAfter is how long miner and executor may not hear of each other: then the executor ends its tasks, and the miner
	// counts them as lost. It is the longest that this miner may be away without harm to what runs.
	LostAfter Duration `toml:"lost_after"`
	// MaxTasksPerClient bounds the unfinished tasks of one client.
	MaxTasksPerClient int `toml:"max_tasks_per_client"`
	// MaxQueue bounds the waiting tasks of all clients.
	MaxQueue int `toml:"max_queue"`
	// ClientBlobBytes bounds the stored inputs and outputs of one client.
	ClientBlobBytes ByteSize `toml:"client_blob_bytes"`
	// KeepBlobs is how long inputs and outputs stay after their client or a task of it last touched them.
	KeepBlobs Duration `toml:"keep_blobs"`
	// KeepLogs is how long a log stays after its task's end.
	KeepLogs Duration `toml:"keep_logs"`
	// KeepTasks is how long an ended task is listed, at least as long as its log.
	KeepTasks Duration `toml:"keep_tasks"`

	// Chain is section [chain].
	Chain ChainConfig `toml:"-"`
}

// DefaultMinerConfig is what holds where nothing else says otherwise.
func DefaultMinerConfig() MinerConfig {
	return MinerConfig{
		DataDir: "~/.basilica/miner", AxonListen: "0.0.0.0:8080", FleetListen: "0.0.0.0:8090", StatusListen: "127.0.0.1:8082",
		Compute: miner.ComputeOpen, BlobBytes: 100 << 30, LostAfter: Duration(10 * time.Minute), MaxTasksPerClient: 64, MaxQueue: 10_000, ClientBlobBytes: 32 << 30,
		KeepBlobs: Duration(24 * time.Hour), KeepLogs: Duration(7 * 24 * time.Hour), KeepTasks: Duration(30 * 24 * time.Hour),
	}
}

// Validate checks what can be checked without a network.
func (c *MinerConfig) Validate() error {
	if c.DataDir == "" {
		return invalid("miner.data_dir", "is empty", "name a directory")
	}
	if c.Hotkey == "" {
		return invalid("miner.hotkey", "is not set", "give the path of the hotkey's file, e.g. ~/.bittensor/wallets/default/hotkeys/default")
	}
	for key, addr := range map[string]string{"miner.axon_listen": c.AxonListen, "miner.fleet_listen": c.FleetListen, "miner.status_listen": c.StatusListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return invalid(key, fmt.Sprintf("%.80q is not host:port", addr), "write it like 127.0.0.1:8080")
		}
	}
	if err := c.checkAdvertised(); err != nil {
		return err
	}
	if c.FleetAdvertise != "" {
		if host, _, err := net.SplitHostPort(c.FleetAdvertise); err != nil || host == "" {
			return invalid("miner.fleet_advertise", fmt.Sprintf("%.80q is not host:port", c.FleetAdvertise), "write what executors dial, e.g. 203.0.113.5:8090")
		}
	}
	if !slices.Contains([]string{miner.ComputeOpen, miner.ComputeAllowList, miner.ComputeClosed}, c.Compute) {
		return invalid("miner.compute", fmt.Sprintf("%.40q is no policy", c.Compute), `use "open", "allow-list" or "closed"`)
	}
	for _, h := range c.AllowList {
		if _, err := keys.DecodeSS58(string(h)); err != nil {
			return invalid("miner.allow_list", fmt.Sprintf("%.80q is not a hotkey", h), "write SS58 addresses")
		}
	}
	if c.BlobBytes <= 0 {
		return invalid("miner.blob_bytes", "is not positive", `write a size, e.g. "100Gi"`)
	}
	return c.validateBounds()
}

// Shortest and longest that a task may go on while miner and executor do not hear of each other.
const minLostAfter, maxLostAfter = 15 * time.Second, time.Hour

// validateBounds checks what is kept, and for how long.
func (c *MinerConfig) validateBounds() error {
	if d := time.Duration(c.LostAfter); d < minLostAfter || d > maxLostAfter {
		return invalid("miner.lost_after", fmt.Sprintf("%s is outside %s to %s", d, minLostAfter, maxLostAfter), `write a time, e.g. "10m"`)
	}
	if c.MaxTasksPerClient <= 0 {
		return invalid("miner.max_tasks_per_client", "is not positive", "write a number, e.g. 64")
	}
	if c.MaxQueue <= 0 {
		return invalid("miner.max_queue", "is not positive", "write a number, e.g. 10000")
	}
	if c.ClientBlobBytes <= 0 {
		return invalid("miner.client_blob_bytes", "is not positive", `write a size, e.g. "32Gi"`)
	}
	for key, d := range map[string]Duration{"miner.keep_blobs": c.KeepBlobs, "miner.keep_logs": c.KeepLogs, "miner.keep_tasks": c.KeepTasks} {
		if time.Duration(d) < time.Hour {
			return invalid(key, fmt.Sprintf("%s is under an hour", d), `write a time, e.g. "24h"`)
		}
	}
	if c.KeepTasks < c.KeepLogs {
		return invalid("miner.keep_tasks", fmt.Sprintf("%s is shorter than miner.keep_logs", c.KeepTasks), "keep tasks at least as long as their logs")
	}
	return nil
}

// checkAdvertised judges what would be published on chain: where a box is rented, the port inside is seldom the one outside.
func (c *MinerConfig) checkAdvertised() error {
	text := c.AxonAdvertise
	if text == "" {
		return nil
	}
	refused := func(code, what, fix string) error {
		return &basilica.Error{Kind: basilica.Invalid, Code: code, Sentence: fmt.Sprintf("miner.axon_advertise: %.80q %s", text, what), Fix: fix}
	}
	if strings.Contains(text, "://") {
		return refused("ADVERTISE_URL", "is a URL, not ip:port", "write the address and port alone, e.g. 203.0.113.5:8080")
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return refused("ADVERTISE_NO_PORT", "names no port", "write ip:port with the port that the world reaches; on a rented box it often differs from the one inside")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return refused("ADVERTISE_NAME", "does not begin with an IP address", "the chain holds addresses, not names: write the public IP address, e.g. 203.0.113.5:8080")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	_, inside, _ := net.SplitHostPort(c.AxonListen)
	if err != nil || number == 0 && inside != "0" {
		return refused("ADVERTISE_PORT", "has no port that can be called", "write the port that the world reaches; 0 stands for the port that axon_listen took where that is 0 too")
	}
	return c.checkPublished(addr.Unmap())
}

// checkPublished judges the address that would be published, whichever key it comes from.
func (c *MinerConfig) checkPublished(addr netip.Addr) error {
	switch {
	case addr.IsUnspecified():
		return basilica.E(basilica.Invalid, "ADVERTISE_ANY", fmt.Sprintf("the axon cannot be published under %s, which is every address of this machine and none of its own", addr),
			"set miner.axon_advertise to the one public ip:port under which the world reaches the axon; axon_listen may stay as it is")
	case addr.IsMulticast():
		return basilica.E(basilica.Invalid, "ADVERTISE_NAME", fmt.Sprintf("the axon cannot be published under the multicast address %s", addr),
			"set miner.axon_advertise to the one public ip:port under which the world reaches the axon")
	case !c.Chain.AllowPrivate && (addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() || carriers.Contains(addr)):
		return basilica.E(basilica.Invalid, "ADVERTISE_PRIVATE", fmt.Sprintf("the axon cannot be published under %s, which only this network reaches", addr),
			"set miner.axon_advertise to the public ip:port; where the chain is a local one, set chain.allow_private = true")
	}
	return nil
}

// carriers is the network between a carrier's translators and its customers (RFC 6598): private to all but them.
var carriers = netip.MustParsePrefix("100.64.0.0/10")

// Miner is a wired miner.
type Miner struct {
	cfg    MinerConfig
	deps   Deps
	role   *miner.Miner
	chain  *subtensor.Client
	pool   *wire.Executors
	axon   *axon.Server
	fleet  *wire.FleetServer
	admin  *admin.Server
	status *status.Server

	axonLn, fleetLn, adminLn, statusLn net.Listener

	closers closers
}

// NewMiner opens the store and binds every door of a miner; Run serves them.
func NewMiner(ctx context.Context, cfg MinerConfig, deps Deps) (_ *Miner, err error) {
	if err := errors.Join(cfg.Validate(), cfg.Chain.Validate()); err != nil {
		return nil, err
	}
	if cfg.DataDir, err = expandHome(cfg.DataDir); err != nil {
		return nil, err
	}
	hotkey, err := LoadKey("miner.hotkey", cfg.Hotkey)
	if err != nil {
		return nil, err
	}
	n := &Miner{cfg: cfg, deps: deps}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	db, err := store.OpenMiner(ctx, cfg.DataDir, deps.Now)
	if err != nil {
		return nil, err
	}
	n.closers.add(db.Close)
	if err := sweepPartial(cfg.DataDir, axonKeyFile); err != nil {
		return nil, err
	}
	if err := n.bind(ctx); err != nil {
		return nil, err
	}
	authority, err := loadAuthority(filepath.Join(cfg.DataDir, "pki"))
	if err != nil {
		return nil, err
	}
	if err := n.wire(db, hotkey, authority); err != nil {
		return nil, err
	}
	return n, nil
}

// bind opens every listener.
func (n *Miner) bind(ctx context.Context) (err error) {
	if err := openDoors(ctx, &n.closers,
		door{&n.axonLn, "miner's axon", "miner.axon_listen", n.cfg.AxonListen},
		door{&n.fleetLn, "miner's fleet door", "miner.fleet_listen", n.cfg.FleetListen},
		door{&n.statusLn, "miner's status door", "miner.status_listen", n.cfg.StatusListen},
	); err != nil {
		return err
	}
	if n.adminLn, err = admin.Listen(n.cfg.DataDir); err != nil {
		return err
	}
	n.closers.add(closeListener(n.adminLn))
	return nil
}

// loadAuthority loads the authority, and makes it the first time.
func loadAuthority(dir string) (*pki.Authority, error) {
	authority, err := pki.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		authority, err = pki.Create(dir)
	}
	return authority, err
}

// addresses gives what is published and what join tokens name, with the real ports of the listeners.
func (n *Miner) addresses() (axonAddr netip.AddrPort, fleetAddr string, err error) {
	bound, err := netip.ParseAddrPort(n.axonLn.Addr().String())
	if err != nil {
		return axonAddr, "", err
	}
	axonAddr = bound
	if n.cfg.AxonAdvertise != "" {
		if axonAddr, err = netip.ParseAddrPort(n.cfg.AxonAdvertise); err != nil {
			return axonAddr, "", err
		}
	}
	if axonAddr.Port() == 0 {
		axonAddr = netip.AddrPortFrom(axonAddr.Addr(), bound.Port())
	}
	axonAddr = netip.AddrPortFrom(axonAddr.Addr().Unmap(), axonAddr.Port())
	if err := n.cfg.checkPublished(axonAddr.Addr()); err != nil {
		return axonAddr, "", err
	}
	host, fleetPort, err := net.SplitHostPort(n.fleetLn.Addr().String())
	if err != nil {
		return axonAddr, "", err
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = axonAddr.Addr().String()
	}
	port := fleetPort
	if n.cfg.FleetAdvertise != "" {
		if host, port, err = net.SplitHostPort(n.cfg.FleetAdvertise); err != nil {
			return axonAddr, "", err
		}
		if port == "0" {
			port = fleetPort
		}
	}
	return axonAddr, net.JoinHostPort(host, port), nil
}

// wire makes the role and hands it to its doors.
func (n *Miner) wire(db *store.Miner, hotkey *keys.Pair, authority *pki.Authority) error {
	cfg, deps := n.cfg, n.deps
	blobs, err := store.OpenBlobs(filepath.Join(cfg.DataDir, "blobs"), int64(cfg.BlobBytes))
	if err != nil {
		return err
	}
	logs, err := store.OpenTaskLogs(filepath.Join(cfg.DataDir, "logs"))
	if err != nil {
		return err
	}
	axonAddr, fleetAddr, err := n.addresses()
	if err != nil {
		return err
	}
	tlsKey, former, err := loadAxonKeys(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("axon's TLS key: %w", err)
	}
	point, err := axon.PublicKey(tlsKey)
	if err != nil {
		return fmt.Errorf("axon's TLS key: %w", err)
	}
	host, _, err := net.SplitHostPort(fleetAddr)
	if err != nil {
		return err
	}
	shown := &minerCertificate{authority: authority, hosts: []string{host}, now: deps.Now}
	known := func(ctx context.Context, id basilica.ExecutorID, cert []byte) error {
		return n.role.Known(ctx, id, cert)
	}
	n.pool = wire.NewExecutors(wire.ExecutorsConfig{
		Certificate: shown.get, CAs: authority.FleetCAs, Known: known, Now: deps.Now,
		MintJWT: func(id basilica.ExecutorID) (string, error) {
			return authority.MintJWT(string(id), deps.Now(), jwtLife)
		},
	})
	n.chain = subtensor.New(cfg.Chain.Nodes(cfg.DataDir, cfg.Hotkey), deps.Log.With("room", "subtensor"))
	n.closers.add(n.pool.Close, n.chain.Close)
	n.role = miner.New(miner.Config{
		NetUID: cfg.Chain.NetUID, Axon: basilica.Axon{Addr: axonAddr, Version: axonVersion, Protocol: axonProtocol, TLSKey: point}, FleetAddr: fleetAddr,
		Version: Version(), Compute: cfg.Compute, AllowList: cfg.AllowList, MinStake: cfg.MinValidatorStake,
		LostAfter: time.Duration(cfg.LostAfter), MaxOpenTasks: cfg.MaxTasksPerClient, MaxQueueTasks: cfg.MaxQueue, MaxBlobBytes: int64(cfg.ClientBlobBytes),
		KeepBlobs: time.Duration(cfg.KeepBlobs), KeepLogs: time.Duration(cfg.KeepLogs), KeepTasks: time.Duration(cfg.KeepTasks),
	}, miner.Parts{
		Hotkey: hotkey, Chain: n.chain, Authority: authority, Store: db, Blobs: blobs, Logs: logs, Executor: n.pool.Executor, RekeyAxon: n.rekeyAxon, Now: deps.Now, Log: deps.Log,
		PeerKey: func(ctx context.Context, addr string) ([]byte, error) {
			return wire.PeerKey(ctx, addr, cfg.AllowPrivateExecutors)
		},
		Knock: func(ctx context.Context, addr string) error { return wire.Knock(ctx, addr, cfg.AllowPrivateExecutors) },
		Cut: func(id basilica.ExecutorID, why error) {
			n.fleet.Cut(id, why)
			n.pool.Forget(id)
		},
	})
	door := axon.ServerConfig{
		Hotkey: basilica.Hotkey(hotkey.SS58()), Key: tlsKey, Former: former, Published: n.role.PublishedKey, Replays: db, Validation: n.role.MayValidate, Compute: n.role.MayCompute, Now: deps.Now, Log: deps.Log,
	}
	if cfg.AxonBridge {
		door.Bridge = hotkey
	}
	n.axon, err = axon.NewServer(n.role, door)
	if err != nil {
		return err
	}
	n.fleet, err = wire.NewFleetServer(n.role, wire.FleetServerConfig{Certificate: shown.get, CAs: authority.FleetCAs, Known: known, Now: deps.Now, Log: deps.Log})
	if err != nil {
		return err
	}
	n.admin = admin.NewServer(n.role, deps.Log)
	n.status = status.New("miner", Version(), n.role.Health, func(ctx context.Context) (any, error) { return n.role.Status(ctx) })
	return n.status.Registry().Register(minerMetrics{n.role})
}

// minerCertificate is what the miner shows to its machines. It is made anew when the authority that signs is another, when
// a third of its life is left, and when the clock was set back behind its beginning.
type minerCertificate struct {
	authority *pki.Authority
	hosts     []string
	now       func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate
}

func (c *minerCertificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.cert != nil && bytes.Equal(c.cert.Certificate[1], c.authority.CACert()) && !now.Before(c.cert.Leaf.NotBefore) && now.Before(c.cert.Leaf.NotAfter.Add(-pki.MinerLife/3)) {
		return c.cert, nil
	}
	cert, err := c.authority.ServerCertificate(now, c.hosts)
	if err != nil {
		return nil, err
	}
	c.cert = &cert
	return c.cert, nil
}

const (
	jwtLife      = 30 * time.Second
	axonVersion  = 1
	axonProtocol = 4
	scrapeTime   = 3 * time.Second
)

// Run serves until ctx ends or a part fails. It refuses a hotkey that is not registered.
func (n *Miner) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.role.Run(ctx) })
	g.Go(func() error { return n.axon.Serve(ctx, n.axonLn) })
	g.Go(func() error { return n.fleet.Serve(ctx, n.fleetLn) })
	g.Go(func() error { return n.admin.Serve(ctx, n.adminLn) })
	g.Go(func() error { return n.status.Serve(ctx, n.statusLn) })
	if n.deps.Ready != nil {
		n.deps.Ready(map[string]string{
			"axon": n.axonLn.Addr().String(), "fleet": n.fleetLn.Addr().String(), "status": n.statusLn.Addr().String(), "admin": admin.SocketPath(n.cfg.DataDir),
		})
	}
	return g.Wait()
}

// Close gives everything back that NewMiner took, last first.
func (n *Miner) Close() error { return n.closers.close() }

// minerMetrics reads the role's status at every scrape.
type minerMetrics struct{ role *miner.Miner }

var (
	minerExecutors = prometheus.NewDesc("basilica_miner_executors", "Enrolled executors by readiness.", []string{"ready"}, nil)
	minerTasks     = prometheus.NewDesc("basilica_miner_tasks", "Unfinished tasks by state.", []string{"state"}, nil)
	minerGrants    = prometheus.NewDesc("basilica_miner_grants", "Validation grants that have not ended.", nil, nil)
	minerBlock     = prometheus.NewDesc("basilica_miner_block", "Block of the metagraph last read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m minerMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{minerExecutors, minerTasks, minerGrants, minerBlock} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m minerMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	s, err := m.role.Status(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(minerExecutors, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(minerExecutors, float64(s.Ready), strconv.FormatBool(true))
	gauge(minerExecutors, float64(s.Executors-s.Ready), strconv.FormatBool(false))
	for state, count := range s.Tasks {
		gauge(minerTasks, float64(count), string(state))
	}
	gauge(minerGrants, float64(s.Grants))
	gauge(minerBlock, float64(s.Block))
}
