package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/docker"
	"basilica/executor"
	"basilica/hardware"
	"basilica/keys"
	"basilica/sshdoor"
	"basilica/status"
	"basilica/store"
	"basilica/wire"
)

// ExecutorConfig is section [executor].
type ExecutorConfig struct {
	// DataDir holds the machine's keys, identity, database, blobs, logs and working files. Losing it loses the identity: the
	// machine would have to join again.
	DataDir string `toml:"data_dir"`
	// MinerAddr is the host:port of the miner's fleet door; `basilica join` writes it.
	MinerAddr string `toml:"miner_addr"`
	// Listen is where the miner reaches this machine (gRPC).
	Listen string `toml:"listen"`
	// SSHListen is where validators reach this machine.
	SSHListen string `toml:"ssh_listen"`
	// StatusListen is where /health, /metrics and /api/v1/status are; keep it on loopback.
	StatusListen string `toml:"status_listen"`
	// Attestor is the path of gpu-attestor; empty is the file of that name beside this program.
	Attestor string `toml:"attestor"`
	// AllowAdversaryAttestor takes an attestor that was built to cheat, for tests of validators; only where the miner is on
	// this very machine.
	AllowAdversaryAttestor bool `toml:"allow_adversary_attestor"`
	// CheckBinary is the static program that answers validators' checks inside a container; empty is this program.
	CheckBinary string `toml:"check_binary"`
	// SoftwareGPUs is the number of software devices (the CPU prover), which are labelled as such everywhere and which a
	// validator refuses unless its own configuration allows them.
	SoftwareGPUs int `toml:"software_gpus"`
	// AttestationKey is where the key lives that signs this machine's proofs: "file", in attest.key, or "tpm", in the TPM 2.0,
	// where nobody can copy it. A machine that has joined changes it with basilica executor rekey.
	AttestationKey string `toml:"attestation_key"`
	// TPMDevice is the TPM's device.
	TPMDevice string `toml:"tpm_device"`
	// DockerHost is the engine's socket; it must be of this machine.
	DockerHost string `toml:"docker_host"`
	// Heartbeat is the time between two words to the miner.
	Heartbeat Duration `toml:"heartbeat"`
	// BlobBytes bounds all stored inputs and outputs together.
	BlobBytes ByteSize `toml:"blob_bytes"`
	// ImageBytes bounds the disk that one image of a client takes, unpacked; the engine's free disk bounds it too.
	ImageBytes ByteSize `toml:"image_bytes"`
	// AllowPrivateRegistries lets images come from registries on loopback and private addresses, which clients name.
	AllowPrivateRegistries bool `toml:"allow_private_registries"`
	// LogBytes bounds the log that is kept of one task; at most 64Mi.
	LogBytes ByteSize `toml:"log_bytes"`
	// MinFreeDisk is how much of the data directory's disk no task and no blob may take; below it the machine takes no task.
	MinFreeDisk ByteSize `toml:"min_free_disk"`
	// KeepTasks leaves the containers of running tasks running when this program is stopped, for the one that is started next
	// (restarts and upgrades); false ends them. A program that dies without warning leaves them running in any case.
	KeepTasks bool `toml:"keep_tasks"`
	// Resources is section [executor.resources].
	Resources ExecutorResources `toml:"resources"`
}

// ExecutorResources is section [executor.resources]: what tasks may take.
type ExecutorResources struct {
	// MaxContainers bounds the tasks that run at once.
	MaxContainers int `toml:"max_containers"`
	// MaxMemoryPerContainer bounds one task's memory; the machine's own memory bounds it too.
	MaxMemoryPerContainer ByteSize `toml:"max_memory_per_container"`
	// MaxCPUPerContainer bounds one task's processors; the machine's own number bounds it too.
	MaxCPUPerContainer float64 `toml:"max_cpu_per_container"`
	// GPUAllocationMode is "exclusive", the only mode: a GPU has one holder at a time.
	GPUAllocationMode string `toml:"gpu_allocation_mode"`
}

// DefaultExecutorConfig is what holds where nothing else says otherwise.
func DefaultExecutorConfig() ExecutorConfig {
	return ExecutorConfig{
		DataDir: "~/.basilica/executor", Listen: "0.0.0.0:50051", SSHListen: "0.0.0.0:50022", StatusListen: "127.0.0.1:50052",
		AttestationKey: string(attestor.KeyFile), TPMDevice: "/dev/tpmrm0",
		DockerHost: docker.DefaultHost, Heartbeat: Duration(2 * time.Second), BlobBytes: 100 << 30, ImageBytes: 64 << 30, LogBytes: 16 << 20, MinFreeDisk: 1 << 30,
		Resources: ExecutorResources{MaxContainers: 10, MaxMemoryPerContainer: 8 << 30, MaxCPUPerContainer: 4, GPUAllocationMode: "exclusive"},
	}
}

// Validate checks what can be checked without a network.
func (c *ExecutorConfig) Validate() error {
	if c.DataDir == "" {
		return invalid("executor.data_dir", "is empty", "name a directory")
	}
	for key, addr := range map[string]string{"executor.listen": c.Listen, "executor.ssh_listen": c.SSHListen, "executor.status_listen": c.StatusListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return invalid(key, fmt.Sprintf("%.80q is not host:port", addr), "write it like 0.0.0.0:50051")
		}
	}
	if c.AttestationKey != string(attestor.KeyFile) && c.AttestationKey != string(attestor.KeyTPM) {
		return invalid("executor.attestation_key", fmt.Sprintf("%.40q is no place for a key", c.AttestationKey), `write "file" or "tpm"`)
	}
	if c.TPMDevice == "" {
		return invalid("executor.tpm_device", "is empty", `write it like "/dev/tpmrm0"`)
	}
	r := c.Resources
	switch {
	case c.SoftwareGPUs < 0 || c.SoftwareGPUs > basilica.MaxTaskGPUs:
		return invalid("executor.software_gpus", fmt.Sprintf("%d is outside 0..%d", c.SoftwareGPUs, basilica.MaxTaskGPUs), "choose a number in between")
	case time.Duration(c.Heartbeat) < 100*time.Millisecond || time.Duration(c.Heartbeat) > 10*time.Second:
		return invalid("executor.heartbeat", fmt.Sprintf("%s is outside 100ms..10s", c.Heartbeat), `use the default, "2s"`)
	case c.BlobBytes <= 0:
		return invalid("executor.blob_bytes", "is not positive", `write a size, e.g. "100Gi"`)
	case c.ImageBytes <= 0:
		return invalid("executor.image_bytes", "is not positive", `write a size, e.g. "64Gi"`)
	case c.LogBytes <= 0 || c.LogBytes > basilica.MaxLogBytes:
		return invalid("executor.log_bytes", "is outside 1..64Mi", `write a size, e.g. "16Mi"`)
	case c.MinFreeDisk < 0:
		return invalid("executor.min_free_disk", "is negative", `write a size, e.g. "1Gi"`)
	case r.MaxContainers < 1 || r.MaxContainers > 1000:
		return invalid("executor.resources.max_containers", fmt.Sprintf("%d is outside 1..1000", r.MaxContainers), "use the default, 10")
	case r.MaxMemoryPerContainer < 16<<20:
		return invalid("executor.resources.max_memory_per_container", "is under 16Mi", `write a size, e.g. "8Gi"`)
	case !(r.MaxCPUPerContainer >= 0.01 && r.MaxCPUPerContainer <= 4096):
		return invalid("executor.resources.max_cpu_per_container", "is outside 0.01..4096", "use the default, 4")
	case r.GPUAllocationMode != "exclusive":
		return invalid("executor.resources.gpu_allocation_mode", fmt.Sprintf("%.40q is no mode", r.GPUAllocationMode), `use "exclusive"`)
	}
	return nil
}

// Executor is a wired executor.
type Executor struct {
	cfg    ExecutorConfig
	deps   Deps
	self   *identity
	role   *executor.Executor
	grpc   *wire.ExecutorServer
	ssh    *sshdoor.Server
	status *status.Server

	grpcLn, sshLn, statusLn net.Listener

	closers closers
}

// NewExecutor opens the store, binds every door and looks at the machine: its engine, its devices, its identity. Run
// serves.
func NewExecutor(ctx context.Context, cfg ExecutorConfig, deps Deps) (_ *Executor, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.DataDir, err = DataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	n := &Executor{cfg: cfg, deps: deps}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.self, err = loadIdentity(cfg.DataDir); err != nil {
		return nil, err
	}
	n.deps.Log = deps.Log.With("executor", string(n.self.Executor))
	// A clock that is wrong now may be set later: the miner's door decides by its own.
	if err := n.self.inForce(deps.Now()); err != nil {
		n.deps.Log.Warn("certificate", "err", err, "fix", basilica.FixOf(err))
	}
	db, err := openExecutorDir(ctx, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	n.closers.add(db.Close)
	if err := n.finishRekey(ctx); err != nil {
		return nil, err
	}
	if err := n.bind(ctx); err != nil {
		return nil, err
	}
	if err := n.wire(ctx, db); err != nil {
		return nil, err
	}
	return n, nil
}

// DataDir makes a data directory's path absolute: the engine binds directories by absolute paths alone.
func DataDir(dir string) (string, error) {
	dir, err := expandHome(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

func (n *Executor) bind(ctx context.Context) error {
	return openDoors(ctx, &n.closers,
		door{&n.grpcLn, "executor's gRPC door", "executor.listen", n.cfg.Listen},
		door{&n.sshLn, "executor's SSH door", "executor.ssh_listen", n.cfg.SSHListen},
		door{&n.statusLn, "executor's status door", "executor.status_listen", n.cfg.StatusListen},
	)
}

// machine is what is found on this machine before it works.
type machine struct {
	engine    *docker.Engine
	attestor  attestor.Child
	detection attestor.Detection
	facts     basilica.Facts
}

// inspect looks at engine, mounts, attestor and facts; what is missing is told by its code.
func inspect(ctx context.Context, cfg ExecutorConfig, log *slog.Logger) (_ *machine, err error) {
	m := &machine{}
	if m.engine, err = docker.New(cfg.DockerHost, log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.engine.Close())
		}
	}()
	m.engine.Images = docker.Images{MaxBytes: int64(cfg.ImageBytes), AllowPrivate: cfg.AllowPrivateRegistries, Dir: cfg.DataDir}
	name, version, err := m.engine.Available(ctx)
	if err != nil {
		return nil, err
	}
	if err := mayMount(cfg.DataDir); err != nil {
		return nil, err
	}
	if m.attestor, err = childOf(ctx, cfg, log); err != nil {
		return nil, err
	}
	if m.detection, err = m.attestor.Detect(ctx); err != nil {
		return nil, err
	}
	for _, note := range m.detection.Notes {
		log.Info("gpu-attestor notes", "note", note)
	}
	if m.facts, err = m.factsNow(ctx, cfg.DataDir); err != nil {
		return nil, err
	}
	for _, f := range m.facts.Findings {
		log.Warn("this machine has a finding", "code", f.Code, "sentence", f.Sentence, "fix", f.Fix)
	}
	if m.facts.MemoryBytes == 0 {
		return nil, basilica.E(basilica.Unavailable, "MEMORY_UNKNOWN", "this machine does not say how much memory it has, so no task can be given a share of it", "")
	}
	m.facts.GPUs, m.facts.Engine, m.facts.EngineVersion, m.facts.Version = m.detection.GPUs, name, version, Version()
	return m, nil
}

// maxFindings bounds what a machine reports against itself.
const maxFindings = 64

// factsNow reads the machine's facts, with what was found out of its GPUs at the start.
func (m *machine) factsNow(ctx context.Context, dir string) (basilica.Facts, error) {
	f, err := hardware.Real().Facts(ctx, dir)
	f.Findings = slices.Concat(f.Findings, m.detection.Findings)
	f.Findings = f.Findings[:min(len(f.Findings), maxFindings)]
	return f, err
}

// mayMount tries the mount that every task needs.
func mayMount(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".mount-*")) // of a process that died in here
	if err != nil {
		return fmt.Errorf("probe mounts: %w", err)
	}
	for _, probe := range left {
		if err := errors.Join(docker.UnmountAll(probe), os.RemoveAll(probe)); err != nil {
			return fmt.Errorf("probe mounts: %w", err)
		}
	}
	probe, err := os.MkdirTemp(dir, ".mount-*")
	if err != nil {
		return fmt.Errorf("probe mounts: %w", err)
	}
	return mountProbe(probe)
}

// childOf finds gpu-attestor and refuses a build that can cheat unless it may be here.
func childOf(ctx context.Context, cfg ExecutorConfig, log *slog.Logger) (attestor.Child, error) {
	path := cfg.Attestor
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return attestor.Child{}, fmt.Errorf("find own program: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), "gpu-attestor")
	}
	c := attestor.Child{Path: path, Key: filepath.Join(cfg.DataDir, attestKeyFile), KeyKind: attestor.KeyKind(cfg.AttestationKey), TPM: cfg.TPMDevice, SoftwareGPUs: cfg.SoftwareGPUs, Log: log}
	v, err := c.Version(ctx)
	if err != nil {
		return c, err
	}
	if v.Adversary {
		host, _, err := net.SplitHostPort(cfg.MinerAddr)
		if addr, perr := netip.ParseAddr(host); !cfg.AllowAdversaryAttestor || err != nil || perr != nil || !addr.IsLoopback() {
			return c, basilica.E(basilica.Denied, "ATTESTOR_ADVERSARY", fmt.Sprintf("%s is a build of gpu-attestor that can cheat; it is refused outside localnet", path), "use the ordinary gpu-attestor")
		}
		c.Cheat = os.Getenv(attestor.EnvCheat)
		log.Warn("this attestor can cheat", "path", path, "cheat", c.Cheat)
	}
	return c, nil
}

// machineLabel tells this machine's containers from those of others on the same engine.
func machineLabel(key *keys.P256) string {
	sum := sha256.Sum256(key.SPKI())
	return hex.EncodeToString(sum[:8])
}

// wire makes the role and hands it to its doors.
func (n *Executor) wire(ctx context.Context, db *store.Executor) error {
	cfg, deps, self := n.cfg, n.deps, n.self
	m, err := inspect(ctx, cfg, deps.Log)
	if err != nil {
		return err
	}
	n.closers.add(m.engine.Close)
	if e, err := self.Endorsement.Open(); err != nil {
		return err
	} else if !slices.Equal(e.AttestSPKI, m.detection.SPKI) {
		return basilica.E(basilica.Invalid, "ATTEST_KEY_CHANGED", "the attestation key is not the one that the miner endorsed", "put the old attest.key back, or join again with another data directory")
	}
	if err := keyFits(cfg, m.detection); err != nil {
		return err
	}
	blobs, err := store.OpenBlobs(filepath.Join(cfg.DataDir, "blobs"), int64(cfg.BlobBytes))
	if err != nil {
		return err
	}
	logs, err := store.OpenTaskLogs(filepath.Join(cfg.DataDir, "logs"))
	if err != nil {
		return err
	}
	check, err := newCheckImage(ctx, m.engine, cfg.CheckBinary, db)
	if err != nil {
		return err
	}
	n.closers.add(check.remove)
	wake, toolkit := make(chan struct{}, 1), &toolkitGate{find: docker.FindToolkit, up: hardware.Uptime}
	fleet, err := wire.DialFleet(cfg.MinerAddr, wire.FleetClientConfig{Certificate: self.certificate, CAs: self.fleetCAs, Now: deps.Now, Ended: func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return err
	}
	n.closers.add(fleet.Close)
	self.renewed = func() {
		if err := fleet.Redial(); err != nil {
			deps.Log.Error("connect to the miner under the renewed certificate", "err", err)
		}
	}
	n.role, err = executor.New(executor.Config{
		Executor: self.Executor, Machine: machineLabel(self.key), Dir: filepath.Join(cfg.DataDir, "work"), Version: Version(),
		Endorsement: self.Endorsement, Sign: self.key.Sign, GPUs: m.detection.GPUs, CPUs: m.facts.CPUs, MemoryBytes: m.facts.MemoryBytes,
		MaxContainers: cfg.Resources.MaxContainers, MaxMemory: int64(cfg.Resources.MaxMemoryPerContainer), MaxCPUMillis: int64(cfg.Resources.MaxCPUPerContainer * 1000),
		MaxLogBytes: int64(cfg.LogBytes), Heartbeat: time.Duration(cfg.Heartbeat), KeepTasks: cfg.KeepTasks,
		Boot: m.facts.BootID, Uptime: hardware.Uptime, MinFreeDisk: int64(cfg.MinFreeDisk), FreeDisk: func() (int64, error) { return hardware.FreeDisk(cfg.DataDir) },
		Unseal:      func(sealed []byte) ([]byte, error) { return self.key.Unseal(basilica.RegistryInfo, sealed) },
		Facts:       func(ctx context.Context) (basilica.Facts, error) { return m.factsNow(ctx, cfg.DataDir) },
		GPUsRefused: toolkit.refused, CheckImage: check.ensure, Revoked: func() { n.ssh.CloseRevoked() }, Now: deps.Now, Log: deps.Log,
		Engine: m.engine, Ledger: db, Attempts: db, Marks: db, Blobs: blobs, Logs: logs, Disk: hostDisk{}, Prover: prover{m.attestor, self.Miner}, Fleet: fleet, Identity: self, Wake: wake,
	})
	if err != nil {
		return err
	}
	n.grpc, err = wire.NewExecutorServer(n.role, wire.ExecutorServerConfig{
		Executor: self.Executor, Certificate: self.certificate, CAs: self.fleetCAs, JWTKeys: self.jwtKeys, Now: deps.Now, Log: deps.Log,
	})
	if err != nil {
		return err
	}
	n.ssh, err = sshdoor.NewServer(sshdoor.Config{
		HostKey: self.host, CAs: self.sshCAs, Principal: string(self.Executor), Revoked: n.role.GrantRevoked, Now: deps.Now, Log: deps.Log,
		Handlers: map[string]sshdoor.Handler{"attest": visit(n.role.Attest), "facts": visit(n.role.Facts), "check": visit(n.role.Check)},
	})
	if err != nil {
		return err
	}
	n.status = status.New("executor", Version(), n.health, n.report)
	return n.status.Registry().Register(executorMetrics{n.role})
}

// visit hands a session of the SSH door to the role.
func visit(f func(context.Context, executor.Visit) error) sshdoor.Handler {
	return func(ctx context.Context, s sshdoor.Session) error {
		return f(ctx, executor.Visit{Grant: s.Grant, Validator: s.Validator, SessionID: s.SessionID, HostKey: s.HostKeyBlob, Channel: s.Channel})
	}
}

// hostDisk mounts on this host.
type hostDisk struct{}

// MountOutput implements executor.Disk.
func (hostDisk) MountOutput(dir string, bytes int64) error { return docker.MountOutput(dir, bytes) }

// OutputFull implements executor.Disk.
func (hostDisk) OutputFull(dir string) (bool, error) { return docker.OutputFull(dir) }

// UnmountAll implements executor.Disk.
func (hostDisk) UnmountAll(root string) error { return docker.UnmountAll(root) }

// prover starts gpu-attestor for one challenge.
type prover struct {
	child attestor.Child
	miner basilica.Hotkey
}

// Prove implements executor.Prover.
func (p prover) Prove(ctx context.Context, v executor.Visit) error {
	b := attest.Binding{SessionID: v.SessionID, HostKey: v.HostKey}
	for hotkey, into := range map[basilica.Hotkey]*attest.Key{p.miner: &b.MinerHotkey, v.Validator: &b.ValidatorHotkey} {
		raw, err := keys.DecodeSS58(string(hotkey))
		if err != nil {
			return basilica.E(basilica.Invalid, "BINDING", fmt.Sprintf("%.80q is not a hotkey that a proof could be bound to", hotkey), "").With(err)
		}
		*into = raw
	}
	child := p.child
	child.Log = child.Log.With("grant", string(v.Grant), "validator", string(v.Validator))
	return child.Serve(ctx, v.Channel, b)
}

// Run serves until ctx ends or a part fails; it returns when no container of this machine runs any more.
func (n *Executor) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return n.role.Run(ctx, func() {
			if n.deps.Ready != nil {
				n.deps.Ready(map[string]string{"grpc": n.grpcLn.Addr().String(), "ssh": n.sshLn.Addr().String(), "status": n.statusLn.Addr().String()})
			}
		})
	})
	g.Go(func() error { return n.grpc.Serve(ctx, n.grpcLn) })
	g.Go(func() error { return n.ssh.Serve(ctx, n.sshLn) })
	g.Go(func() error { return n.status.Serve(ctx, n.statusLn) })
	return g.Wait()
}

// Close gives everything back that NewExecutor took, last first.
func (n *Executor) Close() error { return n.closers.close() }

// health says whether work would be accepted now.
func (n *Executor) health(ctx context.Context) error {
	if err := n.self.inForce(n.deps.Now()); err != nil {
		return err
	}
	if err := n.role.Unheard(); err != nil {
		return err
	}
	h, err := n.role.Health(ctx)
	if err != nil {
		return err
	}
	if !h.OK && len(h.Reasons) > 0 {
		return basilica.E(basilica.Unavailable, h.Reasons[0].Code, h.Reasons[0].Sentence, h.Reasons[0].Fix)
	}
	return nil
}

// ExecutorStatus is what an executor's /api/v1/status shows.
type ExecutorStatus struct {
	Executor     basilica.ExecutorID `json:"executor"`
	Miner        basilica.Hotkey     `json:"miner"`
	GPUs         []basilica.GPU      `json:"gpus"`
	Health       basilica.Health     `json:"health"`
	ClockSeconds *float64            `json:"clock_seconds,omitempty"` // this machine's clock minus the miner's
}

func (n *Executor) report(ctx context.Context) (any, error) {
	h, err := n.role.Health(ctx)
	if err != nil {
		return nil, err
	}
	f, err := n.role.SystemInfo(ctx)
	if err != nil {
		return nil, err
	}
	out := ExecutorStatus{Executor: n.self.Executor, Miner: n.self.Miner, GPUs: f.GPUs, Health: h}
	if d, ok := n.role.Clock(); ok {
		seconds := d.Seconds()
		out.ClockSeconds = &seconds
	}
	return out, nil
}

// executorMetrics reads the role's health at every scrape.
type executorMetrics struct{ role *executor.Executor }

var (
	executorTasks = prometheus.NewDesc("basilica_executor_tasks", "Attempts that have not ended.", nil, nil)
	executorHeld  = prometheus.NewDesc("basilica_executor_gpus_held", "GPUs by the kind of their holder.", []string{"holder"}, nil)
	executorClock = prometheus.NewDesc("basilica_executor_clock_seconds", "This machine's clock minus the miner's.", nil, nil)
)

// Describe implements prometheus.Collector.
func (executorMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{executorTasks, executorHeld, executorClock} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m executorMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	h, err := m.role.Health(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(executorTasks, err)
		return
	}
	out <- prometheus.MustNewConstMetric(executorTasks, prometheus.GaugeValue, float64(h.Tasks))
	held := map[basilica.HolderKind]int{basilica.HolderTask: 0, basilica.HolderChallenge: 0, basilica.HolderQuarantine: 0}
	for _, l := range h.Ledger {
		held[l.Kind] += len(l.GPUs)
	}
	for kind, n := range held {
		out <- prometheus.MustNewConstMetric(executorHeld, prometheus.GaugeValue, float64(n), string(kind))
	}
	if d, ok := m.role.Clock(); ok {
		out <- prometheus.MustNewConstMetric(executorClock, prometheus.GaugeValue, d.Seconds())
	}
}
